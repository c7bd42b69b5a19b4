//! What GitHub says of a token beside each answer: its scopes, and when it expires.
//! (GitHub documentation, "Scopes for OAuth apps"; GitHub changelog, 2021-07-26, "Expiration options for personal access tokens";
//! GitHub documentation, "REST API endpoints for rate limits")

use std::time::{Duration, SystemTime};

use serde_json::json;

use super::{Exhausted, GitHub, RATE_LIMIT, iso_8601};
use crate::http::{self, Reply, lock};

/// Of all accepted tokens.
pub(super) struct Grant {
    /// `None` for a kind of token that has no scopes.
    scopes: Option<String>,
    expires_at: Option<SystemTime>,
}

/// A classic token that may read packages, without an end.
impl Default for Grant {
    fn default() -> Grant {
        Grant {
            scopes: Some("read:packages".to_owned()),
            expires_at: None,
        }
    }
}

impl Grant {
    /// Whether the tokens have this scope, or are of a kind that has none.
    pub(super) fn has(&self, scope: &str) -> bool {
        let scopes = self.scopes.as_ref();
        scopes.is_none_or(|scopes| scopes.split(',').any(|it| it.trim() == scope))
    }

    pub(super) fn tell(&self, answer: &mut Reply) {
        let headers = answer.headers_mut();
        if let Some(scopes) = &self.scopes {
            let value = scopes.parse().expect("a valid header");
            headers.insert("x-oauth-scopes", value);
        }
        if let Some(expires_at) = self.expires_at {
            let text = iso_8601(expires_at).replace('T', " ").replace('Z', " UTC");
            let value = text.parse().expect("a valid header");
            headers.insert("github-authentication-token-expiration", value);
        }
    }
}

impl GitHub {
    /// The scopes of the accepted tokens, with commas between them; `None` for tokens of a kind without scopes.
    pub fn set_scopes(&self, scopes: Option<&str>) {
        lock(&self.state).grant.scopes = scopes.map(str::to_owned);
    }

    /// When the accepted tokens expire, as GitHub says. They stay accepted: see [`GitHub::accept_tokens`].
    pub fn expire_in(&self, duration: Duration) {
        lock(&self.state).grant.expires_at = Some(SystemTime::now() + duration);
    }
}

/// The answer of `/rate_limit`, which itself counts for no limit.
pub(super) fn rate_limit(
    requests_left: usize,
    exhausted: Option<&Exhausted>,
    in_an_hour: u64,
) -> Reply {
    let (left, reset) = match exhausted {
        Some(exhausted) => (0, exhausted.reset),
        None => (requests_left, in_an_hour),
    };
    let limit =
        json!({"limit": RATE_LIMIT, "used": RATE_LIMIT - left, "remaining": left, "reset": reset});
    http::json(200, &json!({"resources": {"core": limit}, "rate": limit}))
}
