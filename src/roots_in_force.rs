//! The trusted roots in force: those built in, those of the setting, or those of the secret that it names, which may change while the
//! process lives.

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;

use crate::aws::secrets::Secrets;
use crate::config::RootsSetting;
use crate::error::{Error, Result};
use crate::kept::{Freshness, Kept};
use crate::verification::{GitHubHost, TrustedRoots};

/// How long a warm process uses the roots that it has read from a secret.
const LIFETIME: Duration = Duration::from_secs(5 * 60);

/// Gives the roots.
pub struct RootsInForce {
    setting: RootsSetting,
    host: GitHubHost,
    secrets: Arc<Secrets>,
    kept: Kept<Arc<TrustedRoots>>,
}

impl RootsInForce {
    /// Nothing is read before it is asked for: most rules require nothing.
    pub fn new(setting: RootsSetting, host: GitHubHost, secrets: Arc<Secrets>) -> Self {
        RootsInForce {
            setting,
            host,
            secrets,
            kept: Kept::default(),
        }
    }

    /// The roots. Those of a secret are read again after five minutes; what can't be read or used then is an error, and nothing is
    /// believed without them.
    ///
    /// # Errors
    /// Names the secret or the setting.
    pub async fn get(&self) -> Result<Arc<TrustedRoots>> {
        let read = async || {
            let forever = Duration::from_secs(u32::MAX.into());
            Ok(match &self.setting {
                RootsSetting::BuiltIn => (self.roots(None)?, forever),
                RootsSetting::Written(text) => (self.roots(Some(text))?, forever),
                RootsSetting::Secret(id) => {
                    let text = self.secrets.setting(id).await?;
                    (self.roots(Some(text.expose_secret()))?, LIFETIME)
                }
            })
        };
        self.kept.get(Freshness::Kept, read).await
    }

    fn roots(&self, text: Option<&str>) -> Result<Arc<TrustedRoots>> {
        let roots = TrustedRoots::new(self.host.clone(), text);
        roots.map(Arc::new).map_err(|reason| Error::Setting {
            name: "TRUSTED_ROOT",
            value: match &self.setting {
                RootsSetting::Secret(id) => format!("secret:{id}"),
                _ => "…".to_owned(),
            },
            reason,
        })
    }
}
