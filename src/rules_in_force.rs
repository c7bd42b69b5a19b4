//! The rules in force: those of the setting, or those of the secret that it names, which may change while the process lives.

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;

use crate::aws::secrets::Secrets;
use crate::config::{RulesSetting, Settings};
use crate::endpoint::Hosts;
use crate::error::{Error, Kind, Result};
use crate::kept::{Freshness, Kept};
use crate::rules::Rules;

/// How long a warm process uses the rules that it has read from a secret.
const LIFETIME: Duration = Duration::from_secs(5 * 60);

/// After rules could not be read again, those before are used for so long until the next try.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a start waits for the rules. Lambda ends one that takes ten seconds without a word.
/// (AWS Lambda developer guide, "Lambda execution environment lifecycle")
const START_PATIENCE: Duration = Duration::from_secs(5);

/// How long rules that are in force already are waited for when they are read again: a webhook's answer must not be late for it.
const RENEWAL_PATIENCE: Duration = Duration::from_secs(3);

/// Gives the rules.
pub struct RulesInForce {
    secret: Option<(String, Arc<Secrets>)>,
    hosts: Hosts,
    kept: Kept<Arc<Rules>>,
}

impl RulesInForce {
    /// Reads the rules for the first time. A secret that can't be read for the moment is read again by the first invocation.
    ///
    /// # Errors
    /// [`Error::Setting`] if they are malformed, or what the secret could not be read for if that won't pass.
    pub async fn new(settings: &mut Settings, secrets: Arc<Secrets>) -> Result<Self> {
        let mut in_force = RulesInForce {
            secret: None,
            hosts: settings.hosts.clone(),
            kept: Kept::default(),
        };
        match std::mem::replace(&mut settings.rules, RulesSetting::Written(Rules::none())) {
            RulesSetting::Written(rules) => {
                let forever = Duration::from_secs(u32::MAX.into());
                in_force
                    .kept
                    .get(Freshness::Kept, async || Ok((Arc::new(rules), forever)))
                    .await?;
            }
            RulesSetting::Secret(id) => {
                in_force.secret = Some((id, secrets));
                let read = async || Ok((in_force.read_within(START_PATIENCE).await?, LIFETIME));
                match in_force.kept.get(Freshness::Kept, read).await {
                    Err(error) if error.kind().may_pass() => {
                        tracing::warn!(%error, "the first invocation reads the rules");
                    }
                    rules => drop(rules?),
                }
            }
        }
        Ok(in_force)
    }

    /// The rules. Those of a secret are read again after five minutes; where that fails, the ones before stay in force, and the log
    /// says why.
    ///
    /// # Errors
    /// If there are none yet.
    pub async fn get(&self) -> Result<Arc<Rules>> {
        let before = self.kept.last().await;
        let read = async || {
            let Some(before) = before else {
                return Ok((self.read().await?, LIFETIME));
            };
            match self.read_within(RENEWAL_PATIENCE).await {
                Ok(rules) => Ok((rules, LIFETIME)),
                Err(error) => {
                    tracing::error!(%error, "the rules could not be read again; those before stay in force");
                    Ok((before, PATIENCE))
                }
            }
        };
        self.kept.get(Freshness::Kept, read).await
    }

    /// The rules as they are written now: those in force, unless somebody has changed the secret since.
    ///
    /// # Errors
    /// What the secret can't be read or used for; the rules before stay in force.
    pub async fn written(&self) -> Result<Arc<Rules>> {
        match self.secret {
            Some(_) => self.read_within(RENEWAL_PATIENCE).await,
            None => self.get().await,
        }
    }

    /// The id of the secret that holds the rules, if one does.
    pub fn secret_id(&self) -> Option<&str> {
        self.secret.as_ref().map(|(id, _)| id.as_str())
    }

    async fn read_within(&self, patience: Duration) -> Result<Arc<Rules>> {
        let late = || Error::Api {
            operation: "GetSecretValue",
            subject: self.secret.as_ref().map_or("", |(id, _)| id).to_owned(),
            kind: Kind::Transient,
            detail: "no answer in time".to_owned(),
            advice: "",
            retry_after: None,
        };
        let read = tokio::time::timeout(patience, self.read()).await;
        read.unwrap_or_else(|_| Err(late()))
    }

    async fn read(&self) -> Result<Arc<Rules>> {
        let Some((id, secrets)) = &self.secret else {
            return Err(Error::Internal(
                "rules of the setting don't expire".to_owned(),
            ));
        };
        let text = secrets.setting(id).await?;
        let rules = Rules::parse(text.expose_secret(), &self.hosts);
        rules.map(Arc::new).map_err(|reason| Error::Setting {
            name: "RULES",
            value: format!("secret:{id}"),
            // What is no list of rules at all may be another secret, and is not shown.
            reason: match reason.starts_with("rule ") {
                true => reason,
                false => "the secret does not hold a JSON array of rules".to_owned(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_secretsmanager::config::{
        BehaviorVersion, Credentials, Region, SharedCredentialsProvider,
    };
    use support::aws::Aws;
    use support::http::Fault;

    use super::*;

    fn rules(owner: &str) -> String {
        format!(r#"[{{"source":"{owner}/*","destination":"{{name}}"}}]"#)
    }

    async fn in_force(aws: &Aws) -> RulesInForce {
        aws.put_secret("rules", &rules("before"));
        let credentials = Credentials::new("AKIAIOSFODNN7EXAMPLE", "secret", None, None, "tests");
        let configuration = aws_config::SdkConfig::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .endpoint_url(aws.server.url())
            .region(Region::new("eu-west-3"))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .http_client(crate::aws::http_client(crate::registry::client().unwrap()))
            .build();
        let environment = |name: &str| (name == "RULES").then(|| "secret:rules".to_owned());
        let mut settings = Settings::read(environment).unwrap();
        let secrets = Arc::new(Secrets::new(&configuration));
        RulesInForce::new(&mut settings, secrets).await.unwrap()
    }

    async fn has(in_force: &RulesInForce, package: &str) -> bool {
        in_force.get().await.unwrap().find(package).is_some()
    }

    #[tokio::test]
    async fn rules_of_a_secret_are_read_again_when_they_are_old() {
        let aws = Aws::start().await;
        let in_force = in_force(&aws).await;
        aws.put_secret("rules", &rules("after"));
        assert!(has(&in_force, "before/api").await, "kept");
        in_force.kept.expire().await;
        assert!(has(&in_force, "after/api").await);
    }

    /// A typing mistake in the secret, or an outage, must not stop the mirror.
    #[tokio::test]
    async fn rules_that_can_not_be_used_leave_those_before_in_force() {
        let aws = Aws::start().await;
        let in_force = in_force(&aws).await;
        for unusable in ["", "[", "{}", "[]", r#"[{"source":"acme/*"}]"#] {
            aws.put_secret("rules", unusable);
            in_force.kept.expire().await;
            assert!(has(&in_force, "before/api").await, "{unusable}");
        }
        for fault in [Fault::Hold, Fault::DropReply] {
            aws.server.fault("POST", "GetSecretValue", 1, fault);
            in_force.kept.expire().await;
            assert!(has(&in_force, "before/api").await);
        }
        aws.server.release();
        aws.put_secret("rules", &rules("mended"));
        in_force.kept.expire().await;
        assert!(
            has(&in_force, "mended/api").await,
            "what was unusable is not kept"
        );
    }
}
