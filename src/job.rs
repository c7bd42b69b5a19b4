//! One copy: a source reference and a destination, valid by construction.

use std::fmt;
use std::sync::Arc;

use oci_client::Reference;
use url::Url;

use crate::manifest::Digest;

/// Where a registry is reached: a host, by https unless a setting says `http://`.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    url: Url,
}

impl Endpoint {
    /// Accepts `host`, `host:port`, `https://host` or `http://host`, without a path, a query or a user.
    ///
    /// # Errors
    /// Says what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || "a registry is written as `host`, `https://host` or `http://host`".to_owned();
        let with_scheme = if text.contains("://") {
            text.to_owned()
        } else {
            format!("https://{text}")
        };
        let url = Url::parse(&with_scheme).map_err(|_| wrong())?;
        let bare = matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if bare {
            Ok(Endpoint { url })
        } else {
            Err(wrong())
        }
    }

    /// The host, with its port where that is not the scheme's own.
    pub fn host(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        match self.url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    /// Whether the registry was configured as `http://…`: then its realm and its redirects may be http too.
    pub fn is_plain_http(&self) -> bool {
        self.url.scheme() == "http"
    }

    /// The URL of the registry's root, which ends in `/`.
    pub fn url(&self) -> &Url {
        &self.url
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.url.as_str().trim_end_matches('/'))
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Where an image goes: a repository and a tag, on the default registry unless a host is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// A registry host other than the default one, as it was written.
    pub registry: Option<String>,
    /// The repository, by ECR's grammar.
    pub repository: String,
    /// The tag that moves last.
    pub tag: String,
}

/// `[host/]repository:tag`
impl fmt::Display for Destination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(registry) = &self.registry {
            write!(formatter, "{registry}/")?;
        }
        write!(formatter, "{}:{}", self.repository, self.tag)
    }
}

/// One copy to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// What is read. Its registry is the configured source's host; it has a tag, a digest, or both.
    /// A digest beside a tag is a hint: the tag is what counts.
    pub source: Reference,
    /// Where it goes.
    pub destination: Destination,
    /// The secret with the GHCR token of the rule, if the rule names another than the general one.
    pub token_secret_id: Option<Arc<str>>,
    /// Copy the digest's other tags too, as far as the rule admits them.
    pub all_tags: bool,
    /// Look at every blob and manifest although the top digest is equal.
    pub force: bool,
    /// Plan only; change nothing.
    pub dry_run: bool,
}

impl Job {
    /// What is copied: `host/owner/name:tag`, or `@digest` where there is no tag. A digest beside a tag is left out, as it is a hint.
    pub fn source_name(&self) -> String {
        match self.source.tag() {
            Some(tag) => format!(
                "{}/{}:{tag}",
                self.source.registry(),
                self.source.repository()
            ),
            None => self.source.to_string(),
        }
    }

    /// The tag or digest that the source is asked for.
    pub fn source_tag_or_digest(&self) -> &str {
        self.source
            .tag()
            .or(self.source.digest())
            .unwrap_or_default()
    }

    /// The digest that the event named beside a tag.
    pub fn hinted_digest(&self) -> Option<Digest> {
        self.source
            .tag()
            .and(self.source.digest())
            .and_then(|digest| Digest::parse(digest).ok())
    }
}

/// Whether `text` is a tag. (distribution-spec v1.1, "Pulling manifests": at most 128 characters)
pub fn is_tag(text: &str) -> bool {
    text.len() <= 128
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
        && text
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Whether `text` is a repository name that GHCR and ECR both accept: lower-case components of letters and digits,
/// separated by `/`, and inside by `.`, `_`, `__` or hyphens; 2 to 255 characters.
/// (distribution-spec v1.1, "Pulling manifests"; ECR API, `CreateRepository`, `repositoryName`)
pub fn is_repository(text: &str) -> bool {
    (2..=255).contains(&text.len()) && text.split('/').all(is_component)
}

fn is_component(text: &str) -> bool {
    let is_separator = |byte: u8| matches!(byte, b'.' | b'_' | b'-');
    let bytes = text.as_bytes();
    let ends_well = |byte: Option<&u8>| byte.is_some_and(|byte| !is_separator(*byte));
    ends_well(bytes.first())
        && ends_well(bytes.last())
        && bytes
            .iter()
            .all(|&byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || is_separator(byte))
        && bytes
            .split(|&byte| !is_separator(byte))
            .all(|run| matches!(run, b"" | b"." | b"_" | b"__") || run.iter().all(|&b| b == b'-'))
}

/// Reads `host/repository:tag`, `host/repository@digest` or both, checked by the grammars above.
///
/// It is split by hand: `oci_client::Reference` would compile a regular expression with tables for all of Unicode, which takes
/// 18 MiB and, in a small function, most of the time of a copy that has nothing to do; and it lets tags with letters of other
/// alphabets pass.
///
/// # Errors
/// Says what is wrong.
pub fn parse_source(text: &str) -> Result<Reference, String> {
    let (host, rest) = text
        .split_once('/')
        .filter(|(host, _)| host.contains(['.', ':']) || *host == "localhost")
        .ok_or_else(|| format!("{text:?} names no registry: write `ghcr.io/owner/name:tag`"))?;
    let (rest, digest) = match rest.split_once('@') {
        Some((rest, digest)) => (rest, Some(Digest::parse(digest)?.to_string())),
        None => (rest, None),
    };
    let (repository, tag) = match rest.split_once(':') {
        Some((repository, tag)) => (repository, Some(tag.to_owned())),
        None => (rest, None),
    };
    if !is_repository(repository) {
        return Err(format!("{text:?}: not a valid repository name"));
    }
    if !tag.as_deref().is_none_or(is_tag) {
        return Err(format!("{text:?}: not a valid tag"));
    }
    let (host, repository) = (host.to_owned(), repository.to_owned());
    match (tag, digest) {
        (Some(tag), Some(digest)) => Ok(Reference::with_tag_and_digest(
            host, repository, tag, digest,
        )),
        (Some(tag), None) => Ok(Reference::with_tag(host, repository, tag)),
        (None, Some(digest)) => Ok(Reference::with_digest(host, repository, digest)),
        (None, None) => Err(format!(
            "{text:?} has neither a tag nor a digest: write `ghcr.io/owner/name:tag`"
        )),
    }
}

/// The same image at another registry host.
pub fn on_host(source: &Reference, host: &str) -> Reference {
    let host = host.to_owned();
    let repository = source.repository().to_owned();
    match (source.tag(), source.digest()) {
        (Some(tag), Some(digest)) => {
            Reference::with_tag_and_digest(host, repository, tag.to_owned(), digest.to_owned())
        }
        (Some(tag), None) => Reference::with_tag(host, repository, tag.to_owned()),
        (None, digest) => {
            Reference::with_digest(host, repository, digest.unwrap_or_default().to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_bare_host() {
        let cases = [
            ("https://ghcr.io", "https://ghcr.io", "ghcr.io"),
            ("ghcr.io", "https://ghcr.io", "ghcr.io"),
            (
                "http://127.0.0.1:5000/",
                "http://127.0.0.1:5000",
                "127.0.0.1:5000",
            ),
        ];
        for (text, shown, host) in cases {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!(
                (endpoint.to_string().as_str(), endpoint.host().as_str()),
                (shown, host)
            );
        }
        for text in [
            "",
            "ftp://ghcr.io",
            "https://ghcr.io/v2",
            "https://user@ghcr.io",
            "https://",
        ] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_follow_the_grammars() {
        for name in ["ab", "acme/api", "acme/a.b_c__d-e--f", "0/1/2"] {
            assert!(is_repository(name), "{name}");
        }
        for name in [
            "",
            "a",
            "Acme/api",
            "acme//api",
            "/acme",
            "acme/",
            "a___b",
            "a._b",
            "a..b",
            "-ab",
            "ab-",
            "a b",
            "ä/b",
        ] {
            assert!(!is_repository(name), "{name}");
        }
        assert!(is_tag("1.2.3-rc_1") && is_tag("_x") && is_tag(&"a".repeat(128)));
        for tag in ["", ".a", "-a", "a b", "a/b", "tàg", &"a".repeat(129)] {
            assert!(!is_tag(tag), "{tag}");
        }
    }

    #[test]
    fn a_source_names_registry_and_tag_or_digest() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let both = format!("ghcr.io/acme/api:1@{digest}");
        let reference = parse_source(&both).unwrap();
        assert_eq!(
            (reference.tag(), reference.digest()),
            (Some("1"), Some(digest.as_str()))
        );
        assert_eq!(
            parse_source("127.0.0.1:5000/acme/api:1")
                .unwrap()
                .registry(),
            "127.0.0.1:5000"
        );
        for text in [
            "acme/api:1",
            "ghcr.io/acme/api",
            "ghcr.io/Acme/api:1",
            "ghcr.io/acme/api:tàg",
            "ghcr.io/acme/api@sha512:00",
            "ghcr.io/acme/api:1 ",
        ] {
            assert!(parse_source(text).is_err(), "{text}");
        }
    }
}
