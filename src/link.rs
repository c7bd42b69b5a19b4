//! Where the next page of a list is: the `Link` header that registries and GitHub's REST API share. (RFC 8288)
//!
//! A list whose next page can't be fetched is not a short list but an unknown one, so each reason not to follow a link is an error.

use reqwest::header::{HeaderMap, LINK};
use url::Url;

/// Why the next page must not be fetched: the credential would go along with the request.
///
/// The text names the other host, but no path or query, which may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UntrustedLink {
    /// Another scheme, host or port than that of the page before.
    #[error("the list continues on another host, {0}, which gets no credential")]
    OtherHost(String),
    /// A user name or password in the link, which would be sent with the request.
    #[error("the link to the list's next page brings credentials of its own")]
    Credentials,
    /// The page would be fetched again and again.
    #[error("the link to the list's next page leads back to the page itself")]
    SamePage,
    /// No header text, or no URL.
    #[error("the link to the list's next page can't be understood")]
    Malformed,
}

/// The target of the `Link` header with `rel="next"`, which may be relative to `base`, the URL of this page; `None` if this page is
/// the last one.
///
/// # Errors
/// There is a next page, but not one to fetch.
pub fn next_page(headers: &HeaderMap, base: &Url) -> Result<Option<Url>, UntrustedLink> {
    for value in headers.get_all(LINK) {
        let value = value.to_str().map_err(|_| UntrustedLink::Malformed)?;
        if let Some(target) = next_target(value) {
            return trusted(target, base).map(Some);
        }
    }
    Ok(None)
}

fn trusted(target: &str, base: &Url) -> Result<Url, UntrustedLink> {
    let target = target
        .strip_prefix('<')
        .and_then(|target| target.strip_suffix('>'))
        .ok_or(UntrustedLink::Malformed)?;
    let mut next = base.join(target).map_err(|_| UntrustedLink::Malformed)?;
    // It is not sent, so it makes no other page.
    next.set_fragment(None);
    if next.origin() != base.origin() {
        let host = next.origin().ascii_serialization();
        return Err(UntrustedLink::OtherHost(host));
    }
    if (next.username(), next.password()) != (base.username(), base.password()) {
        return Err(UntrustedLink::Credentials);
    }
    if next == *base {
        return Err(UntrustedLink::SamePage);
    }
    Ok(next)
}

/// What stands where the target belongs, in the first link whose relations include `next`.
fn next_target(value: &str) -> Option<&str> {
    split(value, ',').find_map(|link| {
        let mut parts = split(link, ';').map(str::trim);
        let target = parts.next()?;
        parts.any(has_relation_next).then_some(target)
    })
}

/// `rel` holds one relation or several, in either case. (RFC 8288, section 3.3)
fn has_relation_next(parameter: &str) -> bool {
    let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
    name.trim().eq_ignore_ascii_case("rel")
        && value
            .trim()
            .trim_matches('"')
            .split_ascii_whitespace()
            .any(|relation| relation.eq_ignore_ascii_case("next"))
}

/// The parts of `text` between those separators that are neither in quotes nor in a `<target>`.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut closed_by = None;
    let mut is_escaped = false;
    text.split(move |character| {
        match closed_by {
            _ if is_escaped => is_escaped = false,
            Some('"') if character == '\\' => is_escaped = true,
            Some(end) if character == end => closed_by = None,
            Some(_) => {}
            None if character == '"' => closed_by = Some('"'),
            None if character == '<' => closed_by = Some('>'),
            None => return character == separator,
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "https://ghcr.io/v2/acme/api/tags/list?n=2";

    fn next(links: &[&str]) -> Result<Option<String>, UntrustedLink> {
        let base = Url::parse(BASE).unwrap();
        let mut headers = HeaderMap::new();
        for link in links {
            headers.append(LINK, link.parse().unwrap());
        }
        Ok(next_page(&headers, &base)?.map(String::from))
    }

    #[test]
    fn the_next_page_is_found_in_every_way_to_write_it() {
        let cases = [
            (
                r#"</v2/acme/api/tags/list?last=b&n=2>; rel="next""#,
                "https://ghcr.io/v2/acme/api/tags/list?last=b&n=2",
            ),
            (
                r#"<https://ghcr.io/x?page=1>; rel="prev", <https://ghcr.io/x?page=3>; rel="next""#,
                "https://ghcr.io/x?page=3",
            ),
            (
                "<?page=2>; title=x; REL=NEXT",
                "https://ghcr.io/v2/acme/api/tags/list?page=2",
            ),
            (
                r#"</a,b;c?d="e">; title="f\", <g>; rel=next"; rel="last next""#,
                "https://ghcr.io/a,b;c?d=%22e%22",
            ),
            ("<https://ghcr.io:443/x>;rel=next", "https://ghcr.io/x"),
        ];
        for (link, url) in cases {
            assert_eq!(next(&[link]), Ok(Some(url.to_owned())), "{link}");
        }
        let links = ["</first>; rel=first", "</second>; rel=next"];
        assert_eq!(next(&links), Ok(Some("https://ghcr.io/second".to_owned())));
    }

    #[test]
    fn a_list_without_a_link_to_a_next_page_is_complete() {
        for links in [
            &[][..],
            &[""],
            &["<"],
            &["</x>; rel=last"],
            &["</x>; rel=nextish"],
            &[r#"</x>; title="rel=next""#],
            &[r#"<https://evil.example/x>; rel="prev""#],
        ] {
            assert_eq!(next(links), Ok(None), "{links:?}");
        }
    }

    #[test]
    fn a_next_page_that_can_t_be_trusted_is_no_end_of_the_list() {
        let other = |host: &str| UntrustedLink::OtherHost(host.to_owned());
        let cases = [
            (
                "<https://evil.example/x?secret>; rel=next",
                other("https://evil.example"),
            ),
            ("<http://ghcr.io/x>; rel=next", other("http://ghcr.io")),
            (
                "<https://ghcr.io:8443/x>; rel=next",
                other("https://ghcr.io:8443"),
            ),
            ("<file:///etc/passwd>; rel=next", other("null")),
            (
                "<https://user:password@ghcr.io/x>; rel=next",
                UntrustedLink::Credentials,
            ),
            ("<>; rel=next", UntrustedLink::SamePage),
            ("<#2>; rel=next", UntrustedLink::SamePage),
            ("<https://[>; rel=next", UntrustedLink::Malformed),
            ("/x; rel=next", UntrustedLink::Malformed),
        ];
        for (link, refusal) in cases {
            assert_eq!(next(&[link]), Err(refusal), "{link}");
        }
        let mut headers = HeaderMap::new();
        let bytes = reqwest::header::HeaderValue::from_bytes(b"</\xff>; rel=next").unwrap();
        headers.insert(LINK, bytes);
        let refused = next_page(&headers, &Url::parse(BASE).unwrap());
        assert_eq!(refused, Err(UntrustedLink::Malformed));
    }

    #[test]
    fn a_refused_link_is_named_by_its_host_alone() {
        let refused = next(&["<https://user:password@evil.example/x?token=secret>; rel=next"]);
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("https://evil.example"), "{text}");
        assert!(
            !text.contains("password") && !text.contains("secret"),
            "{text}"
        );
    }
}
