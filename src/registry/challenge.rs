//! What a registry asks for with its 401: the `WWW-Authenticate` header. (RFC 9110 section 11.6.1)

use http_auth::ChallengeRef;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// A challenge that can be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// Fetch a token at `realm`. (distribution's token authentication specification)
    Bearer {
        /// The URL of the token service, as the registry wrote it: not to be trusted.
        realm: String,
        /// What the token service is to be told that it is for.
        service: Option<String>,
    },
    /// Send user name and password. (RFC 7617)
    Basic,
}

impl Challenge {
    /// The challenge in the headers of a response; Bearer before Basic where both are offered, `None` where neither is.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(WWW_AUTHENTICATE);
        let mut basic = None;
        for value in values.iter().filter_map(|value| value.to_str().ok()) {
            for challenge in http_auth::parse_challenges(value).unwrap_or_default() {
                if challenge.scheme.eq_ignore_ascii_case("bearer") {
                    return Some(Challenge::Bearer {
                        realm: parameter(&challenge, "realm")?,
                        service: parameter(&challenge, "service"),
                    });
                }
                if challenge.scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Challenge::Basic);
                }
            }
        }
        basic
    }
}

fn parameter(challenge: &ChallengeRef<'_>, name: &str) -> Option<String> {
    challenge
        .params
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.to_unescaped())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(values: &[&'static str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        Challenge::of(&headers)
    }

    #[test]
    fn bearer_goes_before_basic_wherever_it_stands() {
        let bearer = Some(Challenge::Bearer {
            realm: "https://ghcr.io/token".to_owned(),
            service: Some("ghcr.io".to_owned()),
        });
        let value = r#"Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="x""#;
        assert_eq!(challenge(&[value]), bearer);
        assert_eq!(challenge(&["Basic realm=\"x\"", value]), bearer);
        let value = r#"BEARER scope="x", SERVICE=ghcr.io , Realm="https://ghcr.io/token""#;
        assert_eq!(challenge(&[value]), bearer);
        assert_eq!(challenge(&["basic realm=\"x\""]), Some(Challenge::Basic));
        for values in [
            &[][..],
            &[""],
            &["Bearer"],
            &["Bearer scope=\"x\""],
            &["Bearer realm"],
        ] {
            assert_eq!(challenge(values), None, "{values:?}");
        }
    }
}
