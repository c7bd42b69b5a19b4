//! What is to be thought of a GHCR token, by its form and by what GitHub says of it.

use std::time::{Duration, SystemTime};

use super::{Line, Status};
use crate::config::GHCR_TOKEN;
use crate::github::Grant;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A token that expires sooner is to be replaced now.
const NOTICE: Duration = Duration::from_secs(14 * DAY.as_secs());

/// Scopes with which packages can be read. (GitHub documentation, "About permissions for GitHub Packages")
const READING: [&str; 2] = ["read:packages", "write:packages"];

/// The kinds of tokens that GitHub writes so that they can be told apart. (GitHub documentation, "About authentication to GitHub",
/// GitHub's token formats)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Classic,
    OAuth,
    FineGrained,
    App,
    Refresh,
    /// An old form, or one of another host.
    Unknown,
}

impl Kind {
    /// By how the token begins.
    pub(super) fn of(text: &str) -> Self {
        let kinds = [
            ("ghp_", Kind::Classic),
            ("gho_", Kind::OAuth),
            ("github_pat_", Kind::FineGrained),
            ("ghs_", Kind::App),
            ("ghu_", Kind::App),
            ("ghr_", Kind::Refresh),
        ];
        let found = kinds.into_iter().find(|(start, _)| text.starts_with(start));
        found.map_or(Kind::Unknown, |(_, kind)| kind)
    }

    /// Whether GHCR lets tokens of this kind pull private packages. (GitHub documentation, "Working with the Container registry";
    /// github/roadmap#558; community discussion 171423)
    pub(super) fn can_pull(self) -> bool {
        !matches!(self, Kind::FineGrained | Kind::App | Kind::Refresh)
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Classic => "a classic personal access token",
            Kind::OAuth => "an OAuth token",
            Kind::FineGrained => "a fine-grained personal access token",
            Kind::App => "a token of a GitHub App or of a workflow",
            Kind::Refresh => "a refresh token",
            Kind::Unknown => "a token of a form that is not known here",
        }
    }
}

/// How to come by a token that does, for the secret `id`.
pub(super) fn replacement(id: &str) -> String {
    let place = match id {
        GHCR_TOKEN => "export it as GHCR_TOKEN".to_owned(),
        _ => format!("store it in the secret {id}"),
    };
    format!(
        "make a classic personal access token with the scope read:packages, authorise it for the organisation's SSO if it has one, and {place}"
    )
}

/// The line for a token that GitHub accepts: all that was found, under the worst of it.
pub(super) fn judge(check: String, id: &str, kind: Kind, grant: &Grant, now: SystemTime) -> Line {
    if !kind.can_pull() {
        let detail = format!("it is {}, with which GHCR lets nobody pull", kind.name());
        return Line::failed(check, detail, replacement(id));
    }
    let (of_scopes, scopes) = judge_scopes(grant.scopes.as_deref());
    let (of_expiry, expiry) = judge_expiry(grant.expires_at, now);
    let detail = format!("it is {}, {scopes}, and {expiry}", kind.name());
    match of_scopes.max(of_expiry) {
        Status::Ok => Line::ok(check, detail),
        Status::Warning if of_expiry == Status::Ok => Line::warning(
            check,
            detail,
            "whether it does shows at the packages; a classic token with the scope read:packages does",
        ),
        Status::Warning => Line::warning(check, detail, replacement(id)),
        Status::Failed => Line::failed(check, detail, replacement(id)),
    }
}

fn judge_scopes(scopes: Option<&[String]>) -> (Status, String) {
    let Some(scopes) = scopes else {
        return (
            Status::Warning,
            "for which GitHub names no scopes".to_owned(),
        );
    };
    let has = |name: &str| scopes.iter().any(|scope| scope == name);
    if READING.iter().any(|name| has(name)) {
        return (Status::Ok, "with the right to read packages".to_owned());
    }
    let named = match scopes.is_empty() {
        true => "none".to_owned(),
        false => scopes.join(", "),
    };
    match has("repo") {
        // It once had the right to read packages in it, and nobody says whether it still has.
        true => (
            Status::Warning,
            format!("with the scopes {named}, in which read:packages is not named"),
        ),
        false => (
            Status::Failed,
            format!("without the scope read:packages (its scopes: {named})"),
        ),
    }
}

fn judge_expiry(expires_at: Option<SystemTime>, now: SystemTime) -> (Status, String) {
    let Some(expires_at) = expires_at else {
        return (Status::Ok, "does not expire".to_owned());
    };
    match expires_at.duration_since(now) {
        Ok(left) if !left.is_zero() => {
            let status = match left < NOTICE {
                true => Status::Warning,
                false => Status::Ok,
            };
            let text = match left.as_secs() / DAY.as_secs() {
                0 => "expires within a day".to_owned(),
                1 => "expires in 1 day".to_owned(),
                days => format!("expires in {days} days"),
            };
            (status, text)
        }
        _ => (Status::Failed, "has expired".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(token: &str, scopes: Option<&[&str]>, expires_at: Option<SystemTime>) -> Line {
        let grant = Grant {
            scopes: scopes.map(|scopes| scopes.iter().map(|it| (*it).to_owned()).collect()),
            expires_at,
        };
        let now = SystemTime::UNIX_EPOCH + 100 * DAY;
        judge(
            "token".to_owned(),
            "ghcr-token",
            Kind::of(token),
            &grant,
            now,
        )
    }

    #[test]
    fn scopes_and_kinds_are_judged() {
        let read: Option<&[&str]> = Some(&["read:packages"]);
        for (token, scopes, status, words) in [
            ("ghp_x", read, Status::Ok, "classic"),
            (
                "gho_x",
                Some(&["repo", "write:packages"][..]),
                Status::Ok,
                "OAuth",
            ),
            ("ghp_x", Some(&[][..]), Status::Failed, "its scopes: none"),
            (
                "ghp_x",
                Some(&["gist"][..]),
                Status::Failed,
                "without the scope",
            ),
            ("ghp_x", Some(&["repo"][..]), Status::Warning, "not named"),
            ("0123abcd", None, Status::Warning, "names no scopes"),
            ("github_pat_x", None, Status::Failed, "fine-grained"),
            ("ghs_x", None, Status::Failed, "GitHub App"),
            ("ghu_x", read, Status::Failed, "GitHub App"),
            ("ghr_x", None, Status::Failed, "refresh token"),
        ] {
            let line = line(token, scopes, None);
            assert_eq!(line.status, status, "{token} {scopes:?}");
            assert!(line.detail.contains(words), "{line:?}");
            assert_eq!(line.remedy.is_empty(), status == Status::Ok, "{line:?}");
            assert!(!format!("{line:?}").contains(token), "{line:?}");
        }
    }

    #[test]
    fn expiry_warns_from_fourteen_days_before() {
        for (days, status, words) in [
            (Some(99), Status::Failed, "has expired"),
            (Some(100), Status::Failed, "has expired"),
            (Some(101), Status::Warning, "in 1 day"),
            (Some(113), Status::Warning, "in 13 days"),
            (Some(114), Status::Ok, "in 14 days"),
            (None, Status::Ok, "does not expire"),
        ] {
            let expires_at = days.map(|days| SystemTime::UNIX_EPOCH + days * DAY);
            let line = line("ghp_x", Some(&["read:packages"]), expires_at);
            assert_eq!(line.status, status, "{days:?}");
            assert!(line.detail.contains(words), "{line:?}");
        }
    }
}
