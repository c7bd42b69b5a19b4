//! How a request to a registry is authorized: the bearer exchange, or Basic credentials.
//!
//! `oci_client::Client` knows the exchange too, but sends the credential to whatever realm a challenge names, and goes on
//! anonymously when the exchange fails. Here the realm must be the registry's own host, and a failure is the result.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;
use reqwest::{Client, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;
use url::Url;

use super::refusal::{self, Place};
use crate::challenge::Challenge;
use crate::error::{Error, Kind, Operation, Result};
use crate::job::Endpoint;

/// A user name and its password or token. `Debug` shows neither.
#[derive(Clone)]
pub struct Credential {
    /// GHCR ignores it; ECR's is `AWS`.
    pub username: String,
    /// The secret part.
    pub password: SecretString,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Credential(…)")
    }
}

impl Credential {
    /// The value of an `Authorization` header, marked so that nothing prints it. (RFC 7617)
    fn basic(&self) -> Result<HeaderValue> {
        let pair = format!("{}:{}", self.username, self.password.expose_secret());
        secret_header(format!("Basic {}", STANDARD.encode(pair)))
    }
}

fn secret_header(value: String) -> Result<HeaderValue> {
    let mut value = HeaderValue::try_from(value)
        .map_err(|_| Error::Internal("a credential can't be written as a header".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Gives the `Authorization` header for one repository.
pub(super) struct Authorization {
    credential: Option<Credential>,
    /// ECR speaks Basic from the first request on; elsewhere the registry is asked how.
    is_preemptive: bool,
    /// `None` until asked; then the header, or none at all for a registry that wants none.
    /// The lock is held during the exchange, so that many requests at once make one.
    header: Mutex<Option<Option<HeaderValue>>>,
}

impl Authorization {
    /// Asks the registry how it wants to be spoken to.
    pub(super) fn by_challenge(credential: Option<Credential>) -> Self {
        Authorization {
            credential,
            is_preemptive: false,
            header: Mutex::new(None),
        }
    }

    /// Sends Basic credentials from the first request on.
    pub(super) fn basic(credential: Credential) -> Self {
        Authorization {
            credential: Some(credential),
            is_preemptive: true,
            header: Mutex::new(None),
        }
    }

    /// Whether a credential is configured at all.
    pub(super) fn has_credential(&self) -> bool {
        self.credential.is_some()
    }

    /// The header to send.
    pub(super) async fn header(
        &self,
        http: &Client,
        endpoint: &Endpoint,
        place: &Place<'_>,
    ) -> Result<Option<HeaderValue>> {
        let mut header = self.header.lock().await;
        if let Some(header) = header.as_ref() {
            return Ok(header.clone());
        }
        let fresh = match &self.credential {
            Some(credential) if self.is_preemptive => Some(credential.basic()?),
            _ => self.ask(http, endpoint, place).await?,
        };
        *header = Some(fresh.clone());
        Ok(fresh)
    }

    /// Forgets `refused`, if it is still the current header. Says whether another one can be had.
    pub(super) async fn forget(&self, refused: Option<&HeaderValue>) -> bool {
        let mut header = self.header.lock().await;
        if header.as_ref().map(Option::as_ref) == Some(refused) {
            *header = None;
        }
        !self.is_preemptive
    }

    async fn ask(
        &self,
        http: &Client,
        endpoint: &Endpoint,
        place: &Place<'_>,
    ) -> Result<Option<HeaderValue>> {
        let place = Place {
            operation: Operation::Authorize,
            ..*place
        };
        let url = join(endpoint.url(), "v2/")?;
        let response = send(http.get(url), &place).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return match response.status().is_success() {
                true => Ok(None),
                false => Err(refusal::of(response, &place).await),
            };
        }
        match Challenge::of(response.headers()) {
            Some(Challenge::Bearer { realm, service }) => {
                let realm = checked_realm(&realm, endpoint, &place)?;
                self.exchange(http, realm, service, &place).await.map(Some)
            }
            Some(Challenge::Basic) => match &self.credential {
                Some(credential) => credential.basic().map(Some),
                None => Err(refusal::of(response, &place).await),
            },
            None => Err(place.error(
                Kind::Invalid,
                "401 without a `Bearer` or `Basic` challenge".to_owned(),
            )),
        }
    }

    /// The credential for a bearer token of this one repository. (distribution's token authentication specification)
    async fn exchange(
        &self,
        http: &Client,
        mut realm: Url,
        service: Option<String>,
        place: &Place<'_>,
    ) -> Result<HeaderValue> {
        if let Some(service) = service {
            realm.query_pairs_mut().append_pair("service", &service);
        }
        // The scope of the challenge is a placeholder at GHCR's `/v2/` (`repository:user/image:pull`).
        let scope = format!("repository:{}:pull", place.repository);
        realm.query_pairs_mut().append_pair("scope", &scope);
        let mut request = http.get(realm);
        if let Some(credential) = &self.credential {
            request = request.header(reqwest::header::AUTHORIZATION, credential.basic()?);
        }
        let response = send(request, place).await?;
        if !response.status().is_success() {
            return Err(refusal::of(response, place).await);
        }
        let unusable = || place.error(Kind::Transient, "an answer without a token".to_owned());
        let body = refusal::limited_body(response, 64 * 1024)
            .await
            .ok_or_else(unusable)?;
        let token: Token = serde_json::from_slice(&body).map_err(|_| unusable())?;
        let token = token.token.or(token.access_token).ok_or_else(unusable)?;
        secret_header(format!("Bearer {token}")).map_err(|_| unusable())
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// The credential is only ever sent to the host that it belongs to, and not in the clear unless the registry itself is.
fn checked_realm(realm: &str, endpoint: &Endpoint, place: &Place<'_>) -> Result<Url> {
    let own = endpoint.url();
    Url::parse(realm)
        .ok()
        .filter(|url| url.scheme() == "https" || endpoint.is_plain_http())
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .filter(|url| url.host_str() == own.host_str())
        .filter(|url| url.port_or_known_default() == own.port_or_known_default())
        .ok_or_else(|| {
            let host = Url::parse(realm).ok();
            let host = host.as_ref().and_then(Url::host_str).unwrap_or("?");
            place.error(
                Kind::Denied,
                format!(
                    "the registry asks to send the credential to another host ({host}), which is refused"
                ),
            )
        })
}

pub(super) fn join(base: &Url, path: &str) -> Result<Url> {
    base.join(path)
        .map_err(|error| Error::Internal(format!("no URL for {path:?}: {error}")))
}

/// Sends a request that has no streamed body.
pub(super) async fn send(request: reqwest::RequestBuilder, place: &Place<'_>) -> Result<Response> {
    request
        .timeout(super::REQUEST_TIMEOUT)
        .send()
        .await
        .map_err(|error| place.broken(error))
}
