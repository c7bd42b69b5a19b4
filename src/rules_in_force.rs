//! The rules in force: those of the setting, or those of the secret that it names, which may change while the process lives.

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;

use crate::aws::secrets::Secrets;
use crate::config::{RulesSetting, Settings};
use crate::endpoint::Hosts;
use crate::error::{Error, Result};
use crate::kept::{Freshness, Kept};
use crate::rules::Rules;

/// How long a warm process uses the rules that it has read from a secret.
const LIFETIME: Duration = Duration::from_secs(5 * 60);

/// After rules could not be read again, those before are used for so long until the next try.
const PATIENCE: Duration = Duration::from_secs(60);

/// Gives the rules.
pub struct RulesInForce {
    secret: Option<(String, Arc<Secrets>)>,
    hosts: Hosts,
    kept: Kept<Arc<Rules>>,
}

impl RulesInForce {
    /// Reads the rules for the first time.
    ///
    /// # Errors
    /// [`Error::Setting`] if they are malformed, or what the secret could not be read for.
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
                in_force.get().await?;
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
        let read = async || match (self.read().await, before) {
            (Ok(rules), _) => Ok((Arc::new(rules), LIFETIME)),
            (Err(error), Some(before)) => {
                tracing::error!(%error, "the rules could not be read again; those before stay in force");
                Ok((before, PATIENCE))
            }
            (Err(error), None) => Err(error),
        };
        self.kept.get(Freshness::Kept, read).await
    }

    async fn read(&self) -> Result<Rules> {
        let Some((id, secrets)) = &self.secret else {
            return Err(Error::Internal(
                "rules of the setting don't expire".to_owned(),
            ));
        };
        let text = secrets.setting(id).await?;
        Rules::parse(text.expose_secret(), &self.hosts).map_err(|reason| Error::Setting {
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
