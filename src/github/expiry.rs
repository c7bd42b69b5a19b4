//! When tokens expire: GitHub says it in each answer to a token that has an end.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use reqwest::Response;

use super::time;
use crate::token::Token;

/// Such as `2026-12-01 08:15:00 UTC` or `2026-12-01 08:15:00 -0800`. A token without an end has no such header.
/// (GitHub changelog, 2021-07-26, "Expiration options for personal access tokens")
const HEADER: &str = "github-authentication-token-expiration";

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
    /// Takes over what an answer to this token says. A refusal need not say it.
    pub(super) fn note(&self, token: &Token, response: &Response) {
        let text = response.headers().get(HEADER);
        let text = text.and_then(|value| value.to_str().ok());
        let expires_at = text.and_then(time::parse_with_zone);
        let mut noted = self.lock();
        let known = noted.get(&token.secret_id);
        let known = known.filter(|said| said.token == *token && !response.status().is_success());
        let said = Said {
            token: token.clone(),
            at: SystemTime::now(),
            expires_at: expires_at.or(known.and_then(|said| said.expires_at)),
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
