//! When tokens expire: GitHub says it in each answer to a token that has an end.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use reqwest::header::HeaderMap;

use super::time;
use crate::token::Token;

/// Such as `2026-12-01 08:15:00 UTC` or `2026-12-01 08:15:00 -0800`. A token without an end has no such header.
/// (GitHub changelog, 2021-07-26, "Expiration options for personal access tokens")
const HEADER: &str = "github-authentication-token-expiration";

/// What GitHub said last of each token, by the id of the secret that holds it.
#[derive(Default)]
pub(super) struct Expiries(Mutex<BTreeMap<String, Option<SystemTime>>>);

impl Expiries {
    /// Takes over what an answer to this token says.
    pub(super) fn note(&self, token: &Token, headers: &HeaderMap) {
        let text = headers.get(HEADER).and_then(|value| value.to_str().ok());
        let expires_at = text.and_then(time::parse_with_zone);
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.insert(token.secret_id.clone(), expires_at);
    }

    pub(super) fn all(&self) -> BTreeMap<String, Option<SystemTime>> {
        let noted = self.0.lock();
        noted.unwrap_or_else(PoisonError::into_inner).clone()
    }
}
