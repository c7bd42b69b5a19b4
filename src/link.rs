//! Where the next page of a list is: the `Link` header that registries and GitHub's REST API share.

use reqwest::header::{HeaderMap, LINK};
use url::Url;

/// The `rel="next"` of a `Link` header, which may be relative. One on another host is not followed: the token would go along.
/// Nor is one with a user or password of its own, which would be sent beside the token. (RFC 8288)
pub fn next_page(headers: &HeaderMap, base: &Url) -> Option<Url> {
    let value = headers.get(LINK)?.to_str().ok()?;
    let target = value.split(',').find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = parameters.split(';').any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            name.trim().eq_ignore_ascii_case("rel") && value.trim().trim_matches('"') == "next"
        });
        is_next.then_some(target)
    })?;
    let next = base.join(target).ok()?;
    let user = |url: &Url| (url.username().to_owned(), url.password().map(str::to_owned));
    let is_trusted = next.origin() == base.origin() && user(&next) == user(base);
    (is_trusted && next != *base).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_on_the_same_host() {
        let base = Url::parse("https://ghcr.io/v2/acme/api/tags/list?n=2").unwrap();
        let next = |link: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(LINK, link.parse().unwrap());
            next_page(&headers, &base).map(String::from)
        };
        let found = [
            (
                r#"</v2/acme/api/tags/list?last=b&n=2>; rel="next""#,
                "https://ghcr.io/v2/acme/api/tags/list?last=b&n=2",
            ),
            (
                r#"<https://ghcr.io/x?page=1>; rel="prev", <https://ghcr.io/x?page=3>; rel="next""#,
                "https://ghcr.io/x?page=3",
            ),
            (
                "<?page=2>; title=x; REL=next",
                "https://ghcr.io/v2/acme/api/tags/list?page=2",
            ),
        ];
        for (link, url) in found {
            assert_eq!(next(link).as_deref(), Some(url));
        }
        for link in [
            r#"<https://evil.example/x>; rel="next""#,
            r#"<http://ghcr.io/x>; rel="next""#,
            "<x>; rel=last",
            "x; rel=next",
            "<",
            "",
            r#"<>; rel="next""#,
        ] {
            assert_eq!(next(link), None, "{link}");
        }
    }
}
