//! How a request to a registry is authorized: the bearer exchange, or Basic credentials.
//!
//! `oci_client::Client` knows the exchange too, but sends the credential to whatever realm a challenge names, and goes on
//! anonymously when the exchange fails. Here the realm must be the registry's own host, and a failure is the result.
//!
//! A credential that is refused is read again from where it comes from; if it has been replaced meanwhile, the request is made
//! once more with the new one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use reqwest::header::HeaderValue;
use reqwest::{Client, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;
use url::Url;

use super::challenge::Challenge;
use super::refusal::{self, Place};
use crate::endpoint::Endpoint;
use crate::error::{Error, Kind, Operation, Result};
use crate::kept::{Freshness, with_renewal};
use crate::redaction::KnownSecrets;

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

impl PartialEq for Credential {
    fn eq(&self, other: &Self) -> bool {
        self.username == other.username
            && self.password.expose_secret() == other.password.expose_secret()
    }
}

/// Gives the credential at hand, or a fresh one.
pub type Credentials =
    Arc<dyn Fn(Freshness) -> BoxFuture<'static, Result<Credential>> + Send + Sync>;

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
    credentials: Option<Credentials>,
    /// ECR speaks Basic from the first request on; elsewhere the registry is asked how.
    is_preemptive: bool,
    /// The lock is held during the exchange, so that many requests at once make one.
    given: Mutex<Given>,
    /// Whether the registry has accepted the header that is given.
    is_accepted: AtomicBool,
    known_secrets: KnownSecrets,
}

/// What requests are authorized with.
#[derive(Default)]
struct Given {
    /// `None` until asked; then the header, or none at all for a registry that asks for no authorization.
    header: Option<Option<HeaderValue>>,
    /// The credential behind the last header.
    credential: Option<Credential>,
}

impl Given {
    fn new(header: Option<HeaderValue>, credential: Option<Credential>) -> Self {
        Given {
            header: Some(header),
            credential,
        }
    }
}

impl Authorization {
    /// Asks the registry how it expects to be spoken to; without credentials, anonymously.
    pub(super) fn by_challenge(
        credentials: Option<Credentials>,
        known_secrets: KnownSecrets,
    ) -> Self {
        Authorization::new(credentials, false, known_secrets)
    }

    /// Sends Basic credentials from the first request on.
    pub(super) fn basic(credentials: Credentials, known_secrets: KnownSecrets) -> Self {
        Authorization::new(Some(credentials), true, known_secrets)
    }

    fn new(
        credentials: Option<Credentials>,
        is_preemptive: bool,
        known_secrets: KnownSecrets,
    ) -> Self {
        Authorization {
            credentials,
            is_preemptive,
            given: Mutex::default(),
            is_accepted: AtomicBool::new(false),
            known_secrets,
        }
    }

    /// Whether a credential is configured at all.
    pub(super) fn has_credential(&self) -> bool {
        self.credentials.is_some()
    }

    /// What must never stand in a message, should the registry echo it.
    pub(super) fn known_secrets(&self) -> &KnownSecrets {
        &self.known_secrets
    }

    /// The header to send.
    pub(super) async fn header(
        &self,
        http: &Client,
        endpoint: &Endpoint,
        place: &Place<'_>,
    ) -> Result<Option<HeaderValue>> {
        let mut given = self.given.lock().await;
        if let Some(header) = &given.header {
            return Ok(header.clone());
        }
        *given = match self.is_preemptive {
            true => {
                let credential = self.credential(Freshness::Kept).await?;
                Given::new(
                    credential.as_ref().map(Credential::basic).transpose()?,
                    credential,
                )
            }
            false => self.ask(http, endpoint, place).await?,
        };
        let header = given.header.clone().flatten();
        self.remember(header.as_ref());
        Ok(header)
    }

    /// The registry accepted the header.
    pub(super) fn accepted(&self) {
        self.is_accepted.store(true, Ordering::Relaxed);
    }

    /// The registry answered `status`, 401 or 403, to a request with the header `refused`. Says whether another header can be
    /// had: a new bearer token, or one by a credential that has been replaced meanwhile.
    ///
    /// GHCR answers 403 too to a bearer token that it does not accept (CopilotKit/CopilotKit#5239). One that it accepted before has
    /// run out; a new one that is refused tells of a missing permission.
    ///
    /// # Errors
    /// What the credential could not be read for.
    pub(super) async fn renew(
        &self,
        refused: Option<&HeaderValue>,
        status: StatusCode,
    ) -> Result<bool> {
        let mut given = self.given.lock().await;
        if given
            .header
            .as_ref()
            .is_some_and(|header| header.as_ref() != refused)
        {
            return Ok(true);
        }
        // Several requests may be refused at once: the first forgets the token, and all of them are sent again with the next one.
        let is_forgotten = given.header.is_none();
        // Permissions may have changed since the token was given, so a 403 forgets it too.
        given.header = None;
        let has_run_out = self.is_accepted.swap(false, Ordering::Relaxed) || is_forgotten;
        if !self.is_preemptive && (status == StatusCode::UNAUTHORIZED || has_run_out) {
            return Ok(true);
        }
        Ok(self.credential(Freshness::AfterRefusal).await? != given.credential)
    }

    async fn credential(&self, freshness: Freshness) -> Result<Option<Credential>> {
        let Some(credentials) = &self.credentials else {
            return Ok(None);
        };
        let credential = credentials(freshness).await?;
        self.known_secrets
            .remember(credential.password.expose_secret());
        self.remember(credential.basic().ok().as_ref());
        Ok(Some(credential))
    }

    fn remember(&self, header: Option<&HeaderValue>) {
        let text = header.and_then(|header| header.to_str().ok());
        if let Some((_, secret)) = text.and_then(|text| text.split_once(' ')) {
            self.known_secrets.remember(secret);
        }
    }

    async fn ask(&self, http: &Client, endpoint: &Endpoint, place: &Place<'_>) -> Result<Given> {
        let place = Place {
            operation: Operation::Authorize,
            ..*place
        };
        let url = join(endpoint.url(), "v2/")?;
        let response = send(http.get(url), &place).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return match response.status().is_success() {
                true => Ok(Given::new(None, None)),
                false => Err(refusal::of(response, &place).await),
            };
        }
        match Challenge::of(response.headers()) {
            Some(Challenge::Bearer { realm, service }) => {
                let realm = checked_realm(&realm, endpoint, &place)?;
                let (realm, service, place) = (&realm, service.as_deref(), &place);
                let exchange = |credential: Option<Credential>| async move {
                    let header = exchange(http, realm.clone(), service, credential.as_ref(), place);
                    Ok(Given::new(Some(header.await?), credential))
                };
                with_renewal(|freshness| self.credential(freshness), exchange).await
            }
            Some(Challenge::Basic) => match self.credential(Freshness::Kept).await? {
                Some(credential) => Ok(Given::new(Some(credential.basic()?), Some(credential))),
                None => Err(refusal::of(response, &place).await),
            },
            None => Err(place.error(
                Kind::Invalid,
                "401 without a `Bearer` or `Basic` challenge".to_owned(),
            )),
        }
    }
}

/// The credential for a bearer token of this one repository. (distribution's token authentication specification)
async fn exchange(
    http: &Client,
    mut realm: Url,
    service: Option<&str>,
    credential: Option<&Credential>,
    place: &Place<'_>,
) -> Result<HeaderValue> {
    if let Some(service) = service {
        realm.query_pairs_mut().append_pair("service", service);
    }
    // The scope of the challenge is a placeholder at GHCR's `/v2/` (`repository:user/image:pull`).
    let scope = format!("repository:{}:pull", place.repository);
    realm.query_pairs_mut().append_pair("scope", &scope);
    let mut request = http.get(realm);
    if let Some(credential) = credential {
        request = request.header(reqwest::header::AUTHORIZATION, credential.basic()?);
    }
    let response = send(request, place).await?;
    if !response.status().is_success() {
        return Err(refusal::of(response, place).await);
    }
    let unusable = || place.error(Kind::Transient, "the answer has no token".to_owned());
    let body = refusal::limited_body(response, 64 * 1024)
        .await
        .ok_or_else(unusable)?;
    let token: Token = serde_json::from_slice(&body).map_err(|_| unusable())?;
    let token = token.token.or(token.access_token).ok_or_else(unusable)?;
    secret_header(format!("Bearer {token}")).map_err(|_| unusable())
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
                    "the registry asks to send the credential to another host ({host}), which the function refuses"
                ),
            )
        })
}

pub(super) fn join(base: &Url, path: &str) -> Result<Url> {
    base.join(path)
        .map_err(|error| Error::Internal(format!("no URL for {path:?}: {error}")))
}

/// Sends a request that has no streamed body.
async fn send(request: reqwest::RequestBuilder, place: &Place<'_>) -> Result<Response> {
    request
        .timeout(super::REQUEST_TIMEOUT)
        .send()
        .await
        .map_err(|error| place.broken(error))
}
