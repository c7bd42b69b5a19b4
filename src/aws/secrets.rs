//! Secrets Manager: the GHCR tokens, the webhook's secret, and whatever a setting names as `secret:<id>`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_secretsmanager::Client;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::error::api_error;
use crate::error::{Error, Kind, Result};
use crate::kept::{Freshness, Kept};

/// How long a warm process uses what it has read.
const LIFETIME: Duration = Duration::from_secs(5 * 60);

/// A version of a secret, by Secrets Manager's own names.
#[derive(Clone, Copy, Debug)]
enum Version {
    /// `AWSCURRENT`: the one in use.
    Current,
    /// `AWSPREVIOUS`: the one before it, if there was one.
    Previous,
}

impl Version {
    fn stage(self) -> &'static str {
        match self {
            Version::Current => "AWSCURRENT",
            Version::Previous => "AWSPREVIOUS",
        }
    }
}

/// Reads secrets, and keeps them for five minutes.
pub struct Secrets {
    client: Client,
    /// What the process was given itself, by the name that it has in messages.
    held: HashMap<&'static str, SecretString>,
    current: Cache<SecretString>,
    /// That there is none is kept too: otherwise each bad signature would cost a call.
    previous: Cache<Option<SecretString>>,
}

/// What is kept of each secret, by its id.
struct Cache<T>(Mutex<HashMap<String, Arc<Kept<T>>>>);

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Cache(Mutex::default())
    }
}

impl<T> Cache<T> {
    fn of(&self, id: &str) -> Arc<Kept<T>> {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cache.entry(id.to_owned()).or_default().clone()
    }
}

impl Secrets {
    /// Nothing is read before it is asked for.
    pub fn new(configuration: &SdkConfig) -> Self {
        Secrets {
            client: Client::new(configuration),
            held: HashMap::new(),
            current: Cache::default(),
            previous: Cache::default(),
        }
    }

    /// The same, with a text that the process was given itself, and that Secrets Manager is not asked for. No secret there can have
    /// the name `id` if it has a character that names of secrets have not: `$`, say.
    pub fn holding(mut self, id: &'static str, text: SecretString) -> Self {
        self.held.insert(id, text);
        self
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
        let text = self.current(id, freshness).await?;
        parse(text.expose_secret(), "token").map_err(|detail| unusable(id, detail))
    }

    /// The text that a webhook is signed with, bare or JSON `{"secret": …}`.
    ///
    /// # Errors
    /// Names the secret, never its value.
    pub async fn webhook_secret(&self, id: &str, freshness: Freshness) -> Result<SecretString> {
        let text = self.current(id, freshness).await?;
        let secret =
            parse(text.expose_secret(), "secret").map_err(|detail| unusable(id, detail))?;
        Ok(secret.0)
    }

    /// The text that a webhook was signed with before the last rotation; `None` if there is no previous version that can be used.
    ///
    /// # Errors
    /// What may pass: then it is not known whether there is one.
    pub async fn previous_webhook_secret(
        &self,
        id: &str,
        freshness: Freshness,
    ) -> Result<Option<SecretString>> {
        let read = async || match self.read(id, Version::Previous).await {
            Ok(text) => {
                let secret = parse(text.expose_secret(), "secret").ok();
                Ok((secret.map(|(secret, _)| secret), LIFETIME))
            }
            Err(error) if error.kind().may_pass() => Err(error),
            Err(_) => Ok((None, LIFETIME)),
        };
        self.previous.of(id).get(freshness, read).await
    }

    /// The whole text of a secret, which is kept as the others are.
    ///
    /// # Errors
    /// Names the secret, never its value.
    pub async fn text(&self, id: &str) -> Result<SecretString> {
        self.current(id, Freshness::Kept).await
    }

    /// The whole text of a secret, which is not kept here.
    ///
    /// # Errors
    /// Names the secret, never its value.
    pub async fn setting(&self, id: &str) -> Result<SecretString> {
        self.read(id, Version::Current).await
    }

    async fn current(&self, id: &str, freshness: Freshness) -> Result<SecretString> {
        let read = async || Ok((self.read(id, Version::Current).await?, LIFETIME));
        self.current.of(id).get(freshness, read).await
    }

    async fn read(&self, id: &str, version: Version) -> Result<SecretString> {
        if let Some(text) = self.held.get(id) {
            return Ok(text.clone());
        }
        let request = self.client.get_secret_value().secret_id(id);
        // Boxed, as the SDK's futures are large, and in several others.
        let output = Box::pin(request.version_stage(version.stage()).send()).await;
        let output = output.map_err(|error| {
            api_error("GetSecretValue", id, &error, |kind| match kind {
                Kind::NotFound => "create the secret in this account and Region, or correct its id",
                Kind::Denied => {
                    "allow the function's role secretsmanager:GetSecretValue on this secret, and kms:Decrypt on its key if it has one of its own"
                }
                _ => "",
            })
        })?;
        match (output.secret_string, output.secret_binary) {
            (Some(text), _) => Ok(SecretString::from(text)),
            (None, Some(_)) => Err(unusable(id, "is binary".to_owned())),
            (None, None) => Err(Error::Api {
                operation: "GetSecretValue",
                subject: id.to_owned(),
                kind: Kind::Transient,
                detail: "the answer has no secret".to_owned(),
                advice: "",
                retry_after: None,
            }),
        }
    }
}

fn unusable(id: &str, detail: String) -> Error {
    Error::Api {
        operation: "GetSecretValue",
        subject: id.to_owned(),
        kind: Kind::Invalid,
        detail: format!("the secret {detail}"),
        advice: "store the bare text, or a JSON object with that field",
        retry_after: None,
    }
}

/// The secret that a text stands for: the field of a JSON object, or the text itself, even if it begins with `{` by chance. And
/// the optional `username`.
fn parse(
    text: &str,
    field: &'static str,
) -> std::result::Result<(SecretString, Option<String>), String> {
    let text = text.trim();
    let (secret, username) = match serde_json::from_str(text) {
        Ok(Value::Object(object)) => {
            let string = |name: &str| object.get(name).and_then(Value::as_str).map(str::trim);
            let secret = string(field).ok_or(format!("has no text field `{field}`"))?;
            // GHCR ignores the name, but there has to be one.
            let username = string("username").filter(|name| !name.is_empty());
            (secret.to_owned(), username.map(str::to_owned))
        }
        _ => (text.to_owned(), None),
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
        let read = |text: &str| {
            parse(text, "token")
                .map(|(secret, username)| (secret.expose_secret().to_owned(), username))
        };
        for (text, secret) in [
            ("ghp_x\n", "ghp_x"),
            (r#"{"token":" ghp_x "}"#, "ghp_x"),
            ("{begins like JSON", "{begins like JSON"),
            ("12345", "12345"),
        ] {
            assert_eq!(read(text), Ok((secret.to_owned(), None)), "{text}");
        }
        assert_eq!(
            read(r#"{"token":"ghp_x","username":"octocat"}"#),
            Ok(("ghp_x".to_owned(), Some("octocat".to_owned())))
        );
        for text in [
            "",
            " \n",
            r#"{"secret":"ghp_x"}"#,
            r#"{"token":1}"#,
            r#"{"token":""}"#,
        ] {
            let error = read(text).unwrap_err();
            assert!(!error.contains("ghp"), "{text}: {error}");
        }
    }
}
