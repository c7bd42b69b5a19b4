//! What GitHub's error answers mean: a rate limit, the token, an owner or package that is not there, or GitHub in distress.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use url::Url;

use super::{Call, limited_body};
use crate::error::{Error, Kind};
use crate::redaction::KnownSecrets;

/// The most bytes of an error answer.
const BODY_LIMIT: usize = 64 * 1024;

/// The most characters of GitHub's own words in an error.
const QUOTED_LIMIT: usize = 200;

/// How long to leave GitHub alone where it does not say.
/// (GitHub's documentation, "Rate limits for the REST API": "wait for at least one minute before retrying")
const MINUTE: Duration = Duration::from_secs(60);

/// The longest wait that is believed. The limits themselves count an hour's requests.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

const LIMITED: &str =
    "GitHub's rate limit is reached; a later scheduled run finds what this one missed";
const DENIED: &str = "the GHCR token is expired, revoked, lacks read:packages or is not authorised for the organisation's SSO";
const NO_TOKEN: &str = "GitHub lists packages for nobody without a token: set GHCR_TOKEN_SECRET_ID";
const SSO: &str = "authorise the GHCR token for the organisation's SSO: on GitHub under Settings, Developer settings, Personal access tokens, Configure SSO";
const NOT_FOUND: &str = "the owner or package does not exist, or the token's account can't see it, or the token is not authorised for the organisation's SSO";
const MOVED: &str = "the owner or package has a new name, which the rule has to use; otherwise check GITHUB_API_URL";
const CHECK_URL: &str = "check GITHUB_API_URL";

/// The body of an error answer.
#[derive(Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    message: String,
}

/// The error that `response`, which is not 200, stands for.
///
/// GitHub answers 404 also to those who must not know that something exists, and 403 also to those who ask too often, so headers
/// and message decide. A page of HTML comes from a proxy or from GitHub in distress, and says nothing about the token or the owner.
pub(super) async fn of(response: Response, call: &Call<'_>, known_secrets: &KnownSecrets) -> Error {
    let status = response.status();
    let headers = response.headers().clone();
    let api = response.url().host_str().unwrap_or_default().to_owned();
    let body = match status.is_server_error() {
        true => Vec::new(),
        false => match limited_body(response, BODY_LIMIT).await {
            Ok(body) => body,
            Err(detail) => return call.transient(format!("{status}, and {detail}")),
        },
    };
    let Refusal { message } = serde_json::from_slice(&body).unwrap_or_default();
    let wait = wait(status, &headers, &message, SystemTime::now());
    let is_page = body.trim_ascii_start().starts_with(b"<");
    let sso = sso(&headers);
    let (kind, advice) = match status.as_u16() {
        408 | 425 | 500..=599 => (Kind::Transient, ""),
        _ if wait.is_some() => (Kind::Transient, LIMITED),
        _ if is_page => (Kind::Transient, CHECK_URL),
        401 | 403 | 404 if sso.is_some() => (Kind::Denied, SSO),
        401 | 403 if call.token.is_none() => (Kind::Denied, NO_TOKEN),
        401 | 403 => (Kind::Denied, DENIED),
        404 => (Kind::NotFound, NOT_FOUND),
        300..=399 => (Kind::Invalid, MOVED),
        _ => (Kind::Invalid, CHECK_URL),
    };
    let mut detail = status.to_string();
    if let Some(message) = quotable(&message, known_secrets) {
        detail.push_str(&format!(": {message}"));
    }
    // The page's full address holds a secret, and another host than GitHub's own is recommended to nobody.
    if let Some(page) = sso.flatten().filter(|page| is_site_of(page, &api)) {
        detail.push_str(&format!(", SSO at {page}"));
    }
    Error::Api {
        operation: call.operation,
        subject: call.subject.to_owned(),
        kind,
        detail,
        advice,
        retry_after: wait,
    }
}

/// How long GitHub asks to be left alone, counted from `now`; `None` if no rate limit is reached.
/// (GitHub's documentation, "Rate limits for the REST API", Exceeding the rate limit)
fn wait(
    status: StatusCode,
    headers: &HeaderMap,
    message: &str,
    now: SystemTime,
) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    let seconds = |seconds| Duration::from_secs(seconds).clamp(Duration::from_secs(1), DAY);
    let message = message.to_ascii_lowercase();
    match status.as_u16() {
        403 | 429 | 500..=599 if headers.contains_key(RETRY_AFTER) => {
            Some(number(RETRY_AFTER.as_str()).map_or(MINUTE, seconds))
        }
        403 | 429 if number("x-ratelimit-remaining") == Some(0) => {
            let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            // Both are whole seconds, rounded down, so the difference may be short by one.
            let until = |reset: u64| seconds(reset.saturating_sub(now).saturating_add(1));
            Some(number("x-ratelimit-reset").map_or(MINUTE, until))
        }
        429 => Some(MINUTE),
        // The secondary limit may come without headers, and used to be called abuse detection. (hub4j/github-api#1805)
        403 if message.contains("rate limit") || message.contains("abuse") => Some(MINUTE),
        _ => None,
    }
}

/// Whether the organisation requires SSO, and the host of the page on which the token can be authorised.
/// (GitHub's documentation, "Authenticating to the REST API", Personal access tokens and SAML SSO)
fn sso(headers: &HeaderMap) -> Option<Option<String>> {
    let value = headers.get("x-github-sso")?.to_str().ok()?;
    let parameters = value.strip_prefix("required")?;
    let page = parameters.split(';').find_map(|parameter| {
        let url = Url::parse(parameter.trim().strip_prefix("url=")?).ok()?;
        url.host_str().map(str::to_owned)
    });
    Some(page)
}

/// Whether `page` is the host of the web site that the API at the host `api` belongs to: the same, or the domain around it.
fn is_site_of(page: &str, api: &str) -> bool {
    let below = api.strip_suffix(page);
    below.is_some_and(|below| below.is_empty() || below.ends_with('.'))
}

/// GitHub's own words, if they are fit for a log: short, on one line, and without a secret or an address.
fn quotable(message: &str, known_secrets: &KnownSecrets) -> Option<String> {
    let holds_secret = known_secrets.redact(message) != message;
    let is_safe = !message.is_empty() && !message.contains("://") && !holds_secret;
    let printable = message
        .chars()
        .map(|character| match character.is_control() {
            true => ' ',
            false => character,
        })
        .take(QUOTED_LIMIT);
    is_safe.then(|| printable.collect())
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    type Headers = &'static [(&'static str, &'static str)];

    fn headers(pairs: Headers) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    const EXHAUSTED: (&str, &str) = ("x-ratelimit-remaining", "0");

    #[test]
    fn the_wait_follows_retry_after_then_the_reset_then_a_minute() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let secondary = "You have exceeded a secondary rate limit. Please wait.";
        let cases: [(u16, Headers, &str, Option<u64>); 18] = [
            (429, &[("retry-after", "7")], "", Some(7)),
            (403, &[("retry-after", "7"), EXHAUSTED], "", Some(7)),
            (503, &[("retry-after", "7")], "", Some(7)),
            (429, &[("retry-after", "0")], "", Some(1)),
            (429, &[("retry-after", "soon")], "", Some(60)),
            (
                403,
                &[EXHAUSTED, ("x-ratelimit-reset", "1000090")],
                "",
                Some(91),
            ),
            (
                429,
                &[EXHAUSTED, ("x-ratelimit-reset", "1000090")],
                "",
                Some(91),
            ),
            (
                403,
                &[EXHAUSTED, ("x-ratelimit-reset", "999999")],
                "",
                Some(1),
            ),
            (
                403,
                &[EXHAUSTED, ("x-ratelimit-reset", "18446744073709551615")],
                "",
                Some(86_400),
            ),
            (403, &[EXHAUSTED], "", Some(60)),
            (429, &[], "", Some(60)),
            (403, &[], secondary, Some(60)),
            (
                403,
                &[("x-ratelimit-remaining", "4000")],
                secondary,
                Some(60),
            ),
            (
                403,
                &[],
                "You have triggered an abuse detection mechanism.",
                Some(60),
            ),
            (
                403,
                &[("x-ratelimit-remaining", "4000")],
                "Must have admin rights.",
                None,
            ),
            (401, &[EXHAUSTED, ("retry-after", "7")], secondary, None),
            (404, &[EXHAUSTED], "Not Found", None),
            (500, &[EXHAUSTED], "", None),
        ];
        for (status, pairs, message, expected) in cases {
            let status = StatusCode::from_u16(status).unwrap();
            let found = wait(status, &headers(pairs), message, now);
            let expected = expected.map(Duration::from_secs);
            assert_eq!(found, expected, "{status} {pairs:?} {message}");
        }
    }

    #[test]
    fn sso_is_named_by_the_host_of_its_page_if_that_is_githubs() {
        let page = |value: &'static str| {
            sso(&HeaderMap::from_iter([(
                HeaderName::from_static("x-github-sso"),
                HeaderValue::from_static(value),
            )]))
        };
        let cases = [
            (
                "required; url=https://github.com/orgs/acme/sso?authorization_request=secret",
                Some(Some("github.com".to_owned())),
            ),
            ("required", Some(None)),
            ("required; url=nonsense", Some(None)),
            ("partial-results; organizations=21955855,20582480", None),
        ];
        for (value, expected) in cases {
            assert_eq!(page(value), expected, "{value}");
        }
        for (page, api) in [
            ("github.com", "api.github.com"),
            ("acme.ghe.com", "api.acme.ghe.com"),
            ("ghe.example", "ghe.example"),
        ] {
            assert!(is_site_of(page, api), "{page}");
        }
        for page in ["evil.example", "hub.com", "x.api.github.com"] {
            assert!(!is_site_of(page, "api.github.com"), "{page}");
        }
    }
}
