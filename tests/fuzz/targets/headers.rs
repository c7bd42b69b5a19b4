//! Headers of a registry's response: `WWW-Authenticate`, `Link`, and the URL that was asked, a line each.
#![no_main]

use fuzz::{assert_one_line, split_line};
use ghcr_to_ecr::link::next_page;
use ghcr_to_ecr::registry::Challenge;
use libfuzzer_sys::fuzz_target;
use reqwest::header::{HeaderMap, HeaderValue, LINK, WWW_AUTHENTICATE};
use url::Url;

fuzz_target!(|bytes: &[u8]| {
    let (challenge, rest) = split_line(bytes);
    let (link, asked) = split_line(rest);
    if let Ok(value) = HeaderValue::from_bytes(challenge) {
        check_challenge(value);
    }
    let asked = str::from_utf8(asked)
        .ok()
        .and_then(|url| Url::parse(url).ok());
    let usual = Url::parse("https://ghcr.io/v2/acme/api/tags/list?n=100").expect("a URL");
    let asked = asked
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.username().is_empty())
        .filter(|url| url.password().is_none())
        .unwrap_or(usual);
    if let Ok(value) = HeaderValue::from_bytes(link) {
        check_link(value, &asked);
    }
});

/// Bearer goes before Basic, wherever each stands.
fn check_challenge(value: HeaderValue) {
    let basic = HeaderValue::from_static("Basic realm=\"x\"");
    let of = |values: [&HeaderValue; 2]| {
        let headers = values.map(|value| (WWW_AUTHENTICATE, value.clone()));
        let mut map = HeaderMap::new();
        map.extend(headers);
        assert_eq!(map.get_all(WWW_AUTHENTICATE).iter().count(), 2);
        Challenge::of(&map)
    };
    let alone = Challenge::of(&HeaderMap::from_iter([(WWW_AUTHENTICATE, value.clone())]));
    let after = of([&basic, &value]);
    match alone {
        Some(Challenge::Bearer { .. }) => {
            assert_eq!(after, alone);
            assert_eq!(of([&value, &basic]), alone);
        }
        Some(Challenge::Basic) => assert_eq!(after, alone),
        // A Bearer challenge without a realm can't be answered, whatever else is offered.
        None => assert!(matches!(after, None | Some(Challenge::Basic))),
    }
}

/// A credential goes along to the next page: it is on the same host, and brings no credential of its own. Any other link to a next
/// page is refused by name.
fn check_link(value: HeaderValue, asked: &Url) {
    let headers = HeaderMap::from_iter([(LINK, value)]);
    let next = match next_page(&headers, asked) {
        Ok(Some(next)) => next,
        Ok(None) => return,
        Err(refused) => return assert_one_line(&refused.to_string()),
    };
    assert_ne!(next, *asked);
    assert_eq!(
        (next.scheme(), next.host_str(), next.port_or_known_default()),
        (
            asked.scheme(),
            asked.host_str(),
            asked.port_or_known_default()
        )
    );
    assert_eq!((next.username(), next.password()), ("", None), "{next}");
}
