//! What is copied: references as people and messages write them, and the registries' grammars.
//!
//! They are split by hand: `oci_client::Reference` would compile a regular expression with tables for all of Unicode, which takes
//! 18 MiB and, in a small function, most of the time of a copy that has nothing to do; it lets tags with letters of other
//! alphabets pass; and it can't say which of tag and digest counts.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::endpoint::Hosts;
use crate::manifest::Digest;

/// An image at the source registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// `owner/name` in lower case; the name may hold slashes.
    pub package: String,
    /// Which of its images.
    pub version: Version,
}

/// Which image of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Version {
    /// What the tag stands for when it is copied.
    Tag {
        /// The tag.
        tag: String,
        /// The digest that the tag had when somebody told of it: a hint, as the tag may have moved since.
        announced: Option<Digest>,
    },
    /// Exactly this image.
    Digest(Digest),
}

impl Source {
    /// A tag of a package, without a hint.
    pub fn tagged(package: &str, tag: &str) -> Self {
        let version = Version::Tag {
            tag: tag.to_owned(),
            announced: None,
        };
        Source {
            package: package.to_owned(),
            version,
        }
    }

    /// Reads `ghcr.io/owner/name:tag`, `…@digest` or both; `ghcr.io` may also be written as the host that stands for it.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn parse(text: &str, hosts: &Hosts) -> Result<Self, String> {
        let (host, rest) = text
            .split_once('/')
            .filter(|(host, _)| host.contains(['.', ':']) || *host == "localhost")
            .ok_or_else(|| format!("{text:?} names no registry: write `ghcr.io/owner/name:tag`"))?;
        if !hosts.is_source(host) {
            return Err(format!(
                "{text:?}: images are only read from ghcr.io, which is {} here",
                hosts.source
            ));
        }
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::parse(digest)?)),
            None => (rest, None),
        };
        let (package, tag) = match rest.split_once(':') {
            Some((package, tag)) => (package, Some(tag)),
            None => (rest, None),
        };
        if !is_package(package) {
            return Err(format!(
                "{text:?}: not a valid package name: expected `owner/name`"
            ));
        }
        if !tag.is_none_or(is_tag) {
            return Err(format!("{text:?}: not a valid tag"));
        }
        let version = match (tag, digest) {
            (Some(tag), announced) => Version::Tag {
                tag: tag.to_owned(),
                announced,
            },
            (None, Some(digest)) => Version::Digest(digest),
            (None, None) => {
                return Err(format!(
                    "{text:?} has neither a tag nor a digest: write `ghcr.io/owner/name:tag`"
                ));
            }
        };
        Ok(Source {
            package: package.to_owned(),
            version,
        })
    }

    /// What is copied, at the registry `host`: `host/owner/name:tag`, or `@digest` where there is no tag.
    pub fn reference(&self, host: &str) -> String {
        match &self.version {
            Version::Tag { tag, .. } => format!("{host}/{}:{tag}", self.package),
            Version::Digest(digest) => format!("{host}/{}@{digest}", self.package),
        }
    }
}

/// As [`Source::parse`] reads it, the announced digest included.
impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.reference("ghcr.io"))?;
        match &self.version {
            Version::Tag {
                announced: Some(digest),
                ..
            } => write!(formatter, "@{digest}"),
            _ => Ok(()),
        }
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Version {
    /// The tag, if a tag is copied.
    pub fn tag(&self) -> Option<&str> {
        match self {
            Version::Tag { tag, .. } => Some(tag),
            Version::Digest(_) => None,
        }
    }

    /// The digest that was announced for the tag.
    pub fn announced(&self) -> Option<Digest> {
        match self {
            Version::Tag { announced, .. } => *announced,
            Version::Digest(_) => None,
        }
    }

    /// The tag or digest by which the registry is asked.
    pub fn tag_or_digest(&self) -> String {
        match self {
            Version::Tag { tag, .. } => tag.clone(),
            Version::Digest(digest) => digest.to_string(),
        }
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

/// Whether `text` is `owner/name`, both by the grammar of repositories.
pub fn is_package(text: &str) -> bool {
    text.contains('/') && is_repository(text)
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

/// Whether clients keep signatures and attestations of a manifest under this tag, which is made of the manifest's digest.
/// (distribution-spec v1.1, "Referrers Tag Schema"; cosign's `.sig`, `.att`, `.sbom`)
pub fn is_referrer_tag(tag: &str) -> bool {
    let Some(rest) = tag.strip_prefix("sha256-") else {
        return false;
    };
    let (digits, suffix) = rest.split_once('.').unwrap_or((rest, "x"));
    digits.len() == 64
        && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        && !suffix.is_empty()
        && suffix.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// A tag under which clients keep what refers to a manifest, made of that manifest's digest. Only those that this function copies from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReferrerTag {
    /// The manifest that is referred to.
    pub subject: Digest,
    /// What is under the tag.
    pub kind: ReferrerKind,
}

/// What clients keep under a tag that is made of a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReferrerKind {
    /// The fallback tag: an index of the referrers, kept by clients for a registry without the referrers API.
    /// (distribution-spec v1.1, "Referrers Tag Schema")
    Index,
    /// cosign's signatures. (cosign, `specs/SIGNATURE_SPEC.md`)
    Signature,
    /// cosign's attestations. (cosign, `specs/ATTESTATION_SPEC.md`)
    Attestation,
    /// What `cosign attach sbom` writes. (cosign, `specs/SBOM_SPEC.md`)
    Sbom,
}

impl ReferrerKind {
    /// All of them.
    pub const ALL: [ReferrerKind; 4] = [
        ReferrerKind::Index,
        ReferrerKind::Signature,
        ReferrerKind::Attestation,
        ReferrerKind::Sbom,
    ];

    fn suffix(self) -> &'static str {
        match self {
            ReferrerKind::Index => "",
            ReferrerKind::Signature => ".sig",
            ReferrerKind::Attestation => ".att",
            ReferrerKind::Sbom => ".sbom",
        }
    }
}

impl ReferrerTag {
    /// Reads `sha256-<digits>` with one of the endings.
    pub fn parse(tag: &str) -> Option<Self> {
        let rest = tag.strip_prefix("sha256-")?;
        let (digits, suffix) = rest.split_at_checked(64)?;
        let mut kinds = ReferrerKind::ALL.into_iter();
        Some(ReferrerTag {
            subject: Digest::parse(&format!("sha256:{digits}")).ok()?,
            kind: kinds.find(|kind| kind.suffix() == suffix)?,
        })
    }
}

/// As [`ReferrerTag::parse`] reads it.
impl fmt::Display for ReferrerTag {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.subject.encoded();
        write!(formatter, "sha256-{digits}{}", self.kind.suffix())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Hosts {
        Hosts {
            source: "127.0.0.1:5000".to_owned(),
            destination: None,
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
        let source = Source::parse(&both, &hosts()).unwrap();
        assert_eq!(source.to_string(), both, "nothing is lost");
        assert_eq!(source.version.announced(), Digest::parse(&digest).ok());
        let exact = Source::parse(&format!("127.0.0.1:5000/acme/api@{digest}"), &hosts()).unwrap();
        assert_eq!(
            (exact.version.tag(), exact.version.announced()),
            (None, None)
        );
        for text in [
            "acme/api:1",
            "ghcr.io/acme/api",
            "ghcr.io/api:1",
            "docker.io/acme/api:1",
            "ghcr.io/Acme/api:1",
            "ghcr.io/acme/api:tàg",
            "ghcr.io/acme/api@sha512:00",
            "ghcr.io/acme/api:1 ",
        ] {
            assert!(Source::parse(text, &hosts()).is_err(), "{text}");
        }
    }

    #[test]
    fn referrer_tags_are_no_images() {
        let digits = "0".repeat(64);
        for tag in [format!("sha256-{digits}"), format!("sha256-{digits}.sig")] {
            assert!(is_referrer_tag(&tag), "{tag}");
            let read = ReferrerTag::parse(&tag);
            assert_eq!(read.map(|read| read.to_string()), Some(tag));
        }
        for tag in [
            "sha256-1234".to_owned(),
            format!("sha256-{digits}.s-g"),
            "1.2.3".to_owned(),
        ] {
            assert!(!is_referrer_tag(&tag), "{tag}");
            assert_eq!(ReferrerTag::parse(&tag), None);
        }
        let unknown = format!("sha256-{digits}.other");
        assert!(is_referrer_tag(&unknown) && ReferrerTag::parse(&unknown).is_none());
    }
}
