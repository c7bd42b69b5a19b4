//! When the GitHub tokens of the rules expire: told by each scheduled run, long before they do.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use super::Run;
use crate::metrics::days_left;
use crate::rules::Rule;
use crate::token::Token;

/// So long before its end a token is worth a warning.
const NOTICE: Duration = Duration::from_secs(14 * 24 * 60 * 60);

impl Run<'_> {
    /// Has GitHub say when each token expires, unless it has said so in this run, and warns of those that do soon. That it can't be
    /// learnt is no failure: what the token is needed for has failed already.
    pub(super) async fn look_at_tokens(&self, begin: SystemTime) {
        let invocation = self.invocation;
        let copier = &invocation.copier;
        let rules = invocation.rules.iter();
        let ids: BTreeSet<Option<&str>> = rules.map(Rule::token_secret_id).collect();
        for id in ids {
            let ask = |token: Option<Token>| async move {
                match token {
                    Some(token) if !copier.github.has_spoken_of(&token, begin) => {
                        copier.github.ask_expiry(&token).await
                    }
                    _ => Ok(()),
                }
            };
            let asked = copier.registries.with_token(id, ask);
            if let Err(error) = self.deadline.bound(asked).await {
                tracing::debug!(%error, "it can't be learnt when the GitHub token expires");
            }
        }
        let now = SystemTime::now();
        for (secret, expires_at) in copier.github.expiries() {
            let Some(expires_at) = expires_at.filter(|at| *at < now + NOTICE) else {
                continue;
            };
            let days = days_left(expires_at, now);
            let what = match expires_at <= now {
                true => "has expired, or was revoked".to_owned(),
                false => format!("expires in {days} days"),
            };
            tracing::warn!(
                secret,
                days,
                "the GitHub token {what}: make a new one, and put it into this secret"
            );
            let Some(publisher) = invocation.publisher else {
                continue;
            };
            let told = publisher.token_expires(&secret, days);
            if let Err(error) = invocation.shared.deadline.bound_telling(told).await {
                tracing::warn!(%error, "the event bus was not told");
            }
        }
    }
}
