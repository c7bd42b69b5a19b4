//! What a token may do, and when it expires: GitHub says it in each answer to a token.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use reqwest::StatusCode;
use reqwest::header::HeaderMap;

use super::time;
use crate::token::Token;

/// Such as `2026-12-01 08:15:00 UTC` or `2026-12-01 08:15:00 -0800`. A token without an end has no such header.
/// (GitHub changelog, 2021-07-26, "Expiration options for personal access tokens")
const HEADER: &str = "github-authentication-token-expiration";

/// The scopes of a classic token or of an OAuth token, with commas between them. A fine-grained token and one of an app have no
/// scopes, and the answers to them no such header.
/// (GitHub documentation, "Scopes for OAuth apps", "Headers")
const SCOPES_HEADER: &str = "x-oauth-scopes";

/// What GitHub says of a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Its scopes; `None` if its kind has none.
    pub scopes: Option<Vec<String>>,
    /// When it expires; `None` if it has no end.
    pub expires_at: Option<SystemTime>,
}

impl Grant {
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let scopes = |text: &str| {
            let scopes = text.split(',').map(|scope| scope.trim().to_owned());
            scopes.filter(|scope| !scope.is_empty()).collect()
        };
        Grant {
            scopes: text(SCOPES_HEADER).map(scopes),
            expires_at: text(HEADER).and_then(time::parse_with_zone),
        }
    }
}

/// What GitHub said last of each token, by the id of the secret that holds it.
#[derive(Default)]
pub(super) struct Expiries(Mutex<BTreeMap<String, Said>>);

/// What GitHub said, and when.
struct Said {
    token: Token,
    at: SystemTime,
    expires_at: Option<SystemTime>,
}

impl Expiries {
    /// Takes over what an answer to this token says. A refusal need not say it; and a token that GitHub does not know has expired by
    /// now, or was revoked.
    pub(super) fn note(&self, token: &Token, grant: &Grant, status: StatusCode) {
        let now = SystemTime::now();
        let mut noted = self.lock();
        let known = noted.get(&token.secret_id);
        let known = known.filter(|said| said.token == *token && !status.is_success());
        let said = Said {
            token: token.clone(),
            at: now,
            expires_at: match status {
                StatusCode::UNAUTHORIZED => Some(now),
                _ => grant.expires_at.or(known.and_then(|said| said.expires_at)),
            },
        };
        noted.insert(token.secret_id.clone(), said);
    }

    /// Whether GitHub has answered this token since `begin`.
    pub(super) fn has_spoken_of(&self, token: &Token, begin: SystemTime) -> bool {
        let noted = self.lock();
        let said = noted.get(&token.secret_id);
        said.is_some_and(|said| said.token == *token && said.at >= begin)
    }

    pub(super) fn all(&self) -> BTreeMap<String, Option<SystemTime>> {
        let noted = self.lock();
        let noted = noted.iter();
        noted
            .map(|(id, said)| (id.clone(), said.expires_at))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Said>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
