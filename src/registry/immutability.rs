//! Tags that keep the digest that they have. The registry API says so only when such a tag is written, at the end of a copy; so it is
//! asked elsewhere, if somebody who opens the repository can.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{Repository, suffix};
use crate::error::{Error, Kind, Operation};
use crate::manifest::Digest;

/// Says whether a tag, by its name, is known to keep the digest that it has.
pub type Immutability = Arc<dyn Fn(String) -> BoxFuture<'static, bool> + Send + Sync>;

impl Repository {
    /// The same, with somebody to ask which tags are immutable.
    pub fn with_immutability(self, immutability: Immutability) -> Self {
        Repository {
            immutability: Some(immutability),
            ..self
        }
    }

    /// Whether `tag`, which has another digest than it is to have, is known to keep it. To be asked only then.
    pub async fn keeps(&self, tag: &str) -> bool {
        match &self.immutability {
            Some(is_immutable) => is_immutable(tag.to_owned()).await,
            None => false,
        }
    }

    /// The error for a tag that keeps the digest `stored`.
    pub fn immutable_tag(&self, tag: &str, stored: &Digest) -> Error {
        let detail = format!("it has {stored}");
        self.immutable(&suffix(tag), detail, advice(&self.name, tag))
    }

    /// The error for `count` tags that keep other digests than those at the source, of which `first` are some.
    pub fn immutable_tags(&self, count: usize, first: &[String]) -> Error {
        let named = first.join(", ");
        let more = match count.saturating_sub(first.len()) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let detail = match count {
            1 => format!("1 tag has another digest than at the source: {named}"),
            _ => format!("{count} tags have other digests than at the source: {named}{more}"),
        };
        let options = options(&self.name, "them");
        let advice = format!("the repository's tags are immutable: {options}");
        self.immutable("", detail, advice)
    }

    /// What can be done where `tags` keep the digests that they have, but are to move.
    pub fn ways_to_move(&self, tags: &str) -> String {
        options(&self.name, tags)
    }

    fn immutable(&self, suffix: &str, detail: String, advised: String) -> Error {
        let place = self.place(Operation::PushManifest, suffix);
        let mut error = place.error(Kind::Immutable, detail);
        if let Error::Registry { advice, .. } = &mut error {
            *advice = advised;
        }
        error
    }
}

/// What is to be known of an immutable tag, and what can be done.
pub(super) fn advice(repository: &str, tag: &str) -> String {
    let options = options(repository, tag);
    format!("the tag exists with another digest and the repository's tags are immutable: {options}")
}

/// Filters are named without the whole command, which would replace those that there are.
fn options(repository: &str, tags: &str) -> String {
    // cosign writes such a tag again with each signature, and looks for it under no other name.
    if tags.starts_with("sha256-") {
        return "cosign's tags grow with each signature: exclude `sha256-*` from immutability by the repository's exclusion filters (`aws ecr put-image-tag-mutability`)".to_owned();
    }
    format!(
        "let {tags} move by the repository's exclusion filters (`aws ecr put-image-tag-mutability`), or have the rule write a tag of its own for each digest, to `{repository}:{{tag}}-{{digest8}}`"
    )
}
