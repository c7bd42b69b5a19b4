//! The secrets: whether they can be read, and have the right form.

use std::time::SystemTime;

use futures_util::{StreamExt, stream};
use secrecy::{ExposeSecret, SecretString};

use super::{Check, Line, side_by_side, token};
use crate::config::GHCR_TOKEN;
use crate::error::{Error, Kind, Result};
use crate::github::Grant;
use crate::kept::Freshness;
use crate::rules::Rules;
use crate::token::Token;

/// The fewest bytes of a webhook's secret that nobody guesses: GitHub advises a random text of high entropy, and so many random
/// letters and digits have more than eighty bits. (GitHub documentation, "Validating webhook deliveries")
const WEBHOOK_SECRET_LENGTH: usize = 16;

/// Secrets that are read, and tokens that are asked about, side by side.
const SECRETS: usize = 4;

/// What a secret with a GHCR token holds.
pub(super) struct ReadToken {
    id: String,
    /// Which setting or rule names it.
    place: String,
    token: Result<Token>,
}

impl Check<'_> {
    /// The webhook's secret, where the function has the setting.
    pub(super) async fn webhook_secret(&self) -> Vec<Line> {
        const SETTING: &str = "WEBHOOK_SECRET_ID";
        let Some(id) = self.settings.webhook_secret_id.as_deref() else {
            return Vec::new();
        };
        let check = format!("secret {id}");
        let freshness = Freshness::Anew;
        let current = self.secrets.webhook_secret(id, freshness);
        let current = match self.deadline.bound(current).await {
            Ok(current) => current,
            Err(error) => return vec![Line::of_error(check, &error).at(SETTING)],
        };
        let previous = self.secrets.previous_webhook_secret(id, freshness);
        vec![match self.deadline.bound(previous).await {
            Ok(previous) => judge_webhook_secret(check, &current, previous.as_ref()).at(SETTING),
            Err(error) => Line::unknown(format!("previous version of {check}"), &error).at(SETTING),
        }]
    }

    /// The secrets with GHCR tokens, each once, read anew: before anything else looks at a package with them.
    pub(super) async fn read_tokens(&self, rules: &Rules) -> Vec<ReadToken> {
        let general = self.settings.ghcr_token_secret_id.as_deref();
        let mut secrets: Vec<(String, String)> = Vec::new();
        if let Some(id) = general {
            let place = match id {
                GHCR_TOKEN => "GHCR_TOKEN",
                _ => "GHCR_TOKEN_SECRET_ID",
            };
            secrets.push((id.to_owned(), place.to_owned()));
        }
        for rule in rules.iter() {
            let id = rule.token_secret_id();
            if let Some(id) = id.filter(|id| secrets.iter().all(|(other, _)| other != id)) {
                let place = format!("`token_secret_id` of the rule for {}", rule.source());
                secrets.push((id.to_owned(), place));
            }
        }
        let read = secrets.into_iter().map(async |(id, place)| {
            let token = self.copier.registries.token(&id);
            let token = self.deadline.bound(token).await;
            ReadToken { id, place, token }
        });
        stream::iter(read).buffered(SECRETS).collect().await
    }

    /// What is to be said of the tokens, and what GitHub says of them.
    pub(super) async fn tokens(&self, rules: &Rules, read: &[ReadToken]) -> Vec<Line> {
        let is_anonymous = self.settings.ghcr_token_secret_id.is_none();
        let mut lines = Vec::new();
        if is_anonymous && rules.iter().any(|rule| rule.token_secret_id().is_none()) {
            let detail = "GHCR_TOKEN_SECRET_ID is not set: public packages can be read, and none can be listed for a glob";
            lines.push(Line::ok("token", detail));
        }
        let of_tokens = read.iter().map(|read| self.token(read));
        lines.extend(side_by_side(of_tokens, SECRETS).await);
        lines
    }

    async fn token(&self, ReadToken { id, place, token }: &ReadToken) -> Vec<Line> {
        let secret = format!("secret {id}");
        let is_held = id == GHCR_TOKEN;
        let check = match is_held {
            true => "token".to_owned(),
            false => format!("token in {id}"),
        };
        let token = match token {
            Ok(token) => token,
            Err(error) => return vec![Line::of_error(secret, error).at(place)],
        };
        let readable = format!("{place}: it can be read, and holds a token");
        let readable = (!is_held).then(|| Line::ok(secret, readable));
        let kind = token::Kind::of(token.text.expose_secret());
        let now = SystemTime::now();
        let line = match self.deadline.bound(self.copier.github.grant(token)).await {
            Ok(grant) => token::judge(check, id, kind, &grant, now),
            // A token of this kind does not do, whatever GitHub's API would say.
            Err(_) if !kind.can_pull() => token::judge(check, id, kind, &Grant::default(), now),
            Err(error) => judge_refusal(check, id, &error),
        };
        readable.into_iter().chain([line.at(place)]).collect()
    }
}

/// The line for a token of which GitHub says nothing.
fn judge_refusal(check: String, id: &str, error: &Error) -> Line {
    match error.kind() {
        Kind::Denied => {
            let detail = Line::of_error("", error).detail;
            Line::failed(
                check,
                format!("GitHub does not accept it: {detail}"),
                format!(
                    "it is expired, revoked or mistyped: {}",
                    token::replacement(id)
                ),
            )
        }
        Kind::NotFound => Line::warning(
            check,
            "not known: GitHub has no `/rate_limit` there, whose answers tell scopes and expiry",
            "check GITHUB_API_URL; a host of GitHub Enterprise without rate limits is right to have none",
        ),
        _ => Line::unknown(check, error),
    }
}

fn judge_webhook_secret(
    check: String,
    current: &SecretString,
    previous: Option<&SecretString>,
) -> Line {
    let length = current.expose_secret().len();
    if length < WEBHOOK_SECRET_LENGTH {
        return Line::warning(
            check,
            format!(
                "it has fewer than {WEBHOOK_SECRET_LENGTH} characters, so that it may be guessed from one delivery"
            ),
            "make a long random one, such as by `openssl rand -hex 32`, and set it in GitHub's webhook and in the secret",
        );
    }
    let previous = match previous {
        Some(_) => "its previous version is accepted too",
        None => "it has no previous version that could be accepted too",
    };
    Line::ok(check, format!("it can be read, and {previous}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;

    #[test]
    fn a_short_webhook_secret_is_told_without_being_shown() {
        let judge = |text: &str| judge_webhook_secret("secret".to_owned(), &text.into(), None);
        assert_eq!(judge("It's a Secret to Everybody").status, Status::Ok);
        let short = judge("hunter2");
        assert_eq!(short.status, Status::Warning);
        assert!(!format!("{short:?}").contains("hunter2"));
    }
}
