//! The secrets: whether they can be read, and have the right form.

use std::time::SystemTime;

use secrecy::{ExposeSecret, SecretString};

use super::{Check, Line, token};
use crate::error::Kind;
use crate::kept::Freshness;
use crate::rules::Rules;

/// The fewest bytes of a webhook's secret that nobody guesses: GitHub advises a random text of high entropy, and so many random
/// letters and digits have more than eighty bits. (GitHub documentation, "Validating webhook deliveries")
const WEBHOOK_SECRET_LENGTH: usize = 16;

impl Check<'_> {
    /// The webhook's secret, where the function has the setting.
    pub(super) async fn webhook_secret(&self) -> Vec<Line> {
        const SETTING: &str = "WEBHOOK_SECRET_ID";
        let Some(id) = self.settings.webhook_secret_id.as_deref() else {
            return Vec::new();
        };
        let check = format!("secret {id}");
        let freshness = Freshness::AfterRefusal;
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

    /// The secrets with GHCR tokens, each once, and what GitHub says of the tokens.
    pub(super) async fn tokens(&self, rules: &Rules) -> Vec<Line> {
        let general = self.settings.ghcr_token_secret_id.as_deref();
        let mut secrets: Vec<(&str, String)> = Vec::new();
        if let Some(id) = general {
            secrets.push((id, "GHCR_TOKEN_SECRET_ID".to_owned()));
        }
        for rule in rules.iter() {
            let id = rule.token_secret_id();
            if let Some(id) = id.filter(|id| secrets.iter().all(|(other, _)| other != id)) {
                let place = format!("`token_secret_id` of the rule for {}", rule.source());
                secrets.push((id, place));
            }
        }
        let mut lines = Vec::new();
        if general.is_none() && rules.iter().any(|rule| rule.token_secret_id().is_none()) {
            let detail = "GHCR_TOKEN_SECRET_ID is not set: public packages can be read, and none can be listed for a glob";
            lines.push(Line::ok("token", detail));
        }
        for (id, place) in secrets {
            lines.extend(self.token(id, &place).await);
        }
        lines
    }

    async fn token(&self, id: &str, place: &str) -> Vec<Line> {
        let secret = format!("secret {id}");
        let check = format!("token in {id}");
        let read = self.copier.registries.token(id);
        let token = match self.deadline.bound(read).await {
            Ok(token) => token,
            Err(error) => return vec![Line::of_error(secret, &error).at(place)],
        };
        let readable = Line::ok(
            secret,
            format!("{place}: it can be read, and holds a token"),
        );
        let kind = token::Kind::of(token.text.expose_secret());
        let grant = self.deadline.bound(self.copier.github.grant(&token)).await;
        let line = match grant {
            Ok(grant) => token::judge(check, id, kind, &grant, SystemTime::now()),
            // A token of this kind does not do, whatever GitHub's API would say.
            Err(_) if !kind.can_pull() => {
                token::judge(check, id, kind, &Default::default(), SystemTime::now())
            }
            Err(error) if error.kind() == Kind::Denied => {
                let detail = Line::of_error("", &error).detail;
                Line::failed(
                    check,
                    format!("GitHub does not accept it: {detail}"),
                    format!(
                        "it is expired, revoked or mistyped: {}",
                        token::replacement(id)
                    ),
                )
            }
            Err(error) if error.kind() == Kind::NotFound => Line::warning(
                check,
                "not known: GitHub has no `/rate_limit` there, whose answers tell scopes and expiry",
                "check GITHUB_API_URL; a host of GitHub Enterprise without rate limits is right to have none",
            ),
            Err(error) => Line::unknown(check, &error),
        };
        vec![readable, line.at(place)]
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
