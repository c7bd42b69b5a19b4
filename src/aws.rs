//! The AWS calls: reading a secret, and getting the authorization that ECR's registry wants.
//!
//! What they give is kept in a warm process, and read again when it proves stale.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::sync::Mutex;

use crate::error::{Error, Kind, Result};
use crate::job::Endpoint;
use crate::sdk::api_error;

/// How old a value may be that is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// A secret for five minutes, an ECR authorization until shortly before it expires.
    Kept,
    /// Read again at once, as the kept one was refused; but not more than once a minute, so that refusals cause no flood of calls.
    AfterRefusal,
}

/// A version of a secret, by Secrets Manager's own names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SecretVersion {
    /// `AWSCURRENT`: the one in use.
    Current,
    /// `AWSPREVIOUS`: the one before it, if there was one.
    Previous,
}

impl SecretVersion {
    fn stage(self) -> &'static str {
        match self {
            SecretVersion::Current => "AWSCURRENT",
            SecretVersion::Previous => "AWSPREVIOUS",
        }
    }
}

const SECRET_LIFETIME: Duration = Duration::from_secs(5 * 60);
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);

/// An ECR authorization is renewed when less than this is left of its twelve hours: more than any invocation lasts.
const AUTHORIZATION_MARGIN: Duration = Duration::from_secs(20 * 60);

/// What ECR gave to speak to its registry in one Region.
#[derive(Clone)]
pub struct EcrAuthorization {
    /// The caller's own registry in that Region.
    pub registry: Endpoint,
    /// `AWS`.
    pub username: String,
    /// Valid for every registry of the Region that the caller may use.
    pub password: SecretString,
    expires_at: SystemTime,
}

/// What was read, and when.
#[derive(Clone)]
struct Kept<T> {
    value: T,
    read_at: Instant,
    /// When it was last read because of a refusal.
    refreshed_at: Option<Instant>,
}

impl<T: Clone> Kept<T> {
    /// The value, unless it was refused and may be read again.
    fn usable(kept: Option<&Self>, freshness: Freshness) -> Option<&Self> {
        kept.filter(|kept| {
            let refreshed = kept
                .refreshed_at
                .is_some_and(|at| at.elapsed() < REFRESH_INTERVAL);
            freshness == Freshness::Kept || refreshed
        })
    }

    /// A value that was read just now.
    fn new(value: T, freshness: Freshness) -> Self {
        let now = Instant::now();
        Kept {
            value,
            read_at: now,
            refreshed_at: (freshness == Freshness::AfterRefusal).then_some(now),
        }
    }
}

/// Reads the configuration that Lambda provides in the environment.
///
/// The behaviour is pinned, so that an update of the SDK changes retries and time-outs only when this line does.
pub async fn configuration() -> SdkConfig {
    aws_config::load_defaults(BehaviorVersion::v2026_01_12()).await
}

/// Versions of secrets by id.
type SecretCache = HashMap<(String, SecretVersion), Kept<Option<SecretString>>>;

/// The clients, and what they have given so far.
pub struct Aws {
    secrets: aws_sdk_secretsmanager::Client,
    ecr: aws_sdk_ecr::Client,
    parameters: aws_sdk_ssm::Client,
    region: Option<Region>,
    secret_cache: Mutex<SecretCache>,
    authorization_cache: Mutex<HashMap<String, Kept<EcrAuthorization>>>,
}

impl Aws {
    /// Makes the clients.
    pub fn new(configuration: &SdkConfig) -> Self {
        Aws {
            secrets: aws_sdk_secretsmanager::Client::new(configuration),
            ecr: aws_sdk_ecr::Client::new(configuration),
            parameters: aws_sdk_ssm::Client::new(configuration),
            region: configuration.region().cloned(),
            secret_cache: Mutex::default(),
            authorization_cache: Mutex::default(),
        }
    }

    /// The GHCR token that a secret holds: the bare token, or JSON `{"token": …}`; and from the same object the optional
    /// `username`.
    ///
    /// # Errors
    /// Names the secret, never its value.
    pub async fn ghcr_token(
        &self,
        id: &str,
        freshness: Freshness,
    ) -> Result<(SecretString, Option<String>)> {
        match self
            .secret_text(id, SecretVersion::Current, freshness)
            .await?
        {
            Some(text) => parse_secret(text.expose_secret(), "token"),
            None => Err("has no current version".to_owned()),
        }
        .map_err(|detail| unusable_secret(id, detail))
    }

    /// The text that a webhook may be signed with, bare or JSON `{"secret": …}`; `None` if there is no previous version.
    ///
    /// # Errors
    /// Names the secret, never its value.
    pub async fn webhook_secret(
        &self,
        id: &str,
        version: SecretVersion,
        freshness: Freshness,
    ) -> Result<Option<SecretString>> {
        let text = self.secret_text(id, version, freshness).await?;
        text.map(|text| parse_secret(text.expose_secret(), "secret"))
            .transpose()
            .map(|parsed| parsed.map(|(secret, _)| secret))
            .map_err(|detail| unusable_secret(id, detail))
    }

    /// One version of a secret, kept; `None` if there is no previous one.
    async fn secret_text(
        &self,
        id: &str,
        version: SecretVersion,
        freshness: Freshness,
    ) -> Result<Option<SecretString>> {
        let key = (id.to_owned(), version);
        let mut cache = self.secret_cache.lock().await;
        if let Some(kept) = Kept::usable(cache.get(&key), freshness)
            && kept.read_at.elapsed() < SECRET_LIFETIME
        {
            return Ok(kept.value.clone());
        }
        let text = match self.read_secret(id, version).await {
            Err(error) if error.kind() == Kind::NotFound && version == SecretVersion::Previous => {
                None
            }
            result => Some(result?),
        };
        cache.insert(key, Kept::new(text.clone(), freshness));
        Ok(text)
    }

    async fn read_secret(&self, id: &str, version: SecretVersion) -> Result<SecretString> {
        let output = self
            .secrets
            .get_secret_value()
            .secret_id(id)
            .version_stage(version.stage())
            .send()
            .await
            .map_err(|error| {
                api_error("GetSecretValue", id, &error, |kind| match kind {
                    Kind::NotFound => "create the secret in this account and Region, or correct its id",
                    Kind::Denied => {
                        "allow the function's role secretsmanager:GetSecretValue on this secret, and kms:Decrypt on its key if it has one of its own"
                    }
                    _ => "",
                })
            })?;
        match output.secret_string {
            Some(text) => Ok(SecretString::from(text)),
            None => Err(unusable_secret(id, "is binary".to_owned())),
        }
    }

    /// The text of a Systems Manager parameter, of whatever type.
    ///
    /// # Errors
    /// Names the parameter.
    pub async fn parameter(&self, name: &str) -> Result<String> {
        let request = self.parameters.get_parameter().name(name);
        let output = request.with_decryption(true).send().await;
        let output = output.map_err(|error| {
            api_error("GetParameter", name, &error, |kind| match kind {
                Kind::NotFound => {
                    "create the parameter in this account and Region, or correct its name in RULES"
                }
                Kind::Denied => "allow the function's role ssm:GetParameter on it",
                _ => "",
            })
        })?;
        let value = output.parameter.and_then(|parameter| parameter.value);
        value.ok_or_else(|| Error::Internal(format!("parameter {name} has no value")))
    }

    /// The authorization for ECR's registries in `region`, or in the function's own Region.
    ///
    /// One that expires soon, or is said to have expired already (a stand-in for AWS may say so), is good for this call and
    /// asked for anew at the next.
    pub async fn ecr_authorization(
        &self,
        region: Option<&str>,
        freshness: Freshness,
    ) -> Result<EcrAuthorization> {
        let own = self.region.as_ref().map(Region::as_ref);
        let region = region.or(own).unwrap_or_default();
        let mut cache = self.authorization_cache.lock().await;
        if let Some(kept) = Kept::usable(cache.get(region), freshness)
            && kept.value.expires_at > SystemTime::now() + AUTHORIZATION_MARGIN
        {
            return Ok(kept.value.clone());
        }
        let mut request = self.ecr.get_authorization_token().customize();
        if own != Some(region) {
            let region = Region::new(region.to_owned());
            request = request.config_override(aws_sdk_ecr::config::Builder::new().region(region));
        }
        let output = request.send().await.map_err(|error| {
            api_error("GetAuthorizationToken", region, &error, |kind| match kind {
                Kind::Denied => "allow the function's role ecr:GetAuthorizationToken on *",
                _ => "",
            })
        })?;
        let authorization = output
            .authorization_data
            .unwrap_or_default()
            .into_iter()
            .next()
            .and_then(authorization)
            .ok_or_else(|| Error::Api {
                operation: "GetAuthorizationToken",
                subject: region.to_owned(),
                kind: Kind::Transient,
                detail: "an answer without a usable token".to_owned(),
                advice: "",
            })?;
        let kept = Kept::new(authorization.clone(), freshness);
        cache.insert(region.to_owned(), kept);
        Ok(authorization)
    }
}

fn authorization(data: aws_sdk_ecr::types::AuthorizationData) -> Option<EcrAuthorization> {
    let pair = STANDARD.decode(data.authorization_token?).ok()?;
    let pair = String::from_utf8(pair).ok()?;
    let (username, password) = pair.split_once(':')?;
    let expires_at = data
        .expires_at
        .and_then(|instant| SystemTime::try_from(instant).ok())
        .unwrap_or(SystemTime::UNIX_EPOCH);
    Some(EcrAuthorization {
        registry: Endpoint::parse(&data.proxy_endpoint?).ok()?,
        username: username.to_owned(),
        password: SecretString::from(password),
        expires_at,
    })
}

fn unusable_secret(id: &str, detail: String) -> Error {
    Error::Api {
        operation: "GetSecretValue",
        subject: id.to_owned(),
        kind: Kind::Invalid,
        detail: format!("the secret {detail}"),
        advice: "store the bare text, or a JSON object with that field",
    }
}

fn parse_secret(
    text: &str,
    field: &'static str,
) -> std::result::Result<(SecretString, Option<String>), String> {
    let text = text.trim();
    let (secret, username) = if text.starts_with('{') {
        let object: Value =
            serde_json::from_str(text).map_err(|_| "begins like JSON, but is not".to_owned())?;
        let string = |name: &str| object.get(name).and_then(Value::as_str).map(str::trim);
        let secret = string(field).ok_or(format!("has no text field `{field}`"))?;
        (secret.to_owned(), string("username").map(str::to_owned))
    } else {
        (text.to_owned(), None)
    };
    if secret.is_empty() {
        return Err("is empty".to_owned());
    }
    Ok((SecretString::from(secret), username))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_bare_text_or_a_field_of_an_object() {
        let parse = |text: &str| {
            parse_secret(text, "token")
                .map(|(secret, username)| (secret.expose_secret().to_owned(), username))
        };
        assert_eq!(parse("ghp_x\n"), Ok(("ghp_x".to_owned(), None)));
        assert_eq!(
            parse(r#"{"token":" ghp_x "}"#),
            Ok(("ghp_x".to_owned(), None))
        );
        assert_eq!(
            parse(r#"{"token":"ghp_x","username":"octocat"}"#),
            Ok(("ghp_x".to_owned(), Some("octocat".to_owned())))
        );
        for text in [
            "",
            " \n",
            "{",
            r#"{"secret":"x"}"#,
            r#"{"token":1}"#,
            r#"{"token":""}"#,
        ] {
            let error = parse(text).unwrap_err();
            assert!(!error.contains("ghp"), "{text}: {error}");
        }
    }
}
