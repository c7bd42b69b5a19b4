//! What is known of what refers to a manifest: the tags that are made of its digest, and where the registry has it, the referrers API.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::brought::Trouble;
use crate::allowance::Allowance;
use crate::copy::{ANNOUNCED_TAG_PATIENCE, announced_top};
use crate::error::{Error, Kind, Result};
use crate::manifest::{Digest, Entries};
use crate::reference::{ReferrerKind, ReferrerTag, Version};
use crate::registry::Repository;
use crate::retry::retry;

/// The tags of a package that are made of digests, by those. A package may have a hundred thousand, so their texts are not kept.
#[derive(Clone, Debug, Default)]
pub struct ReferrerTags {
    /// A bit for each kind of tag.
    kinds: BTreeMap<Digest, u8>,
    /// The tag that an event named, and the digest that it had.
    named: Option<(ReferrerTag, Option<Digest>)>,
}

impl ReferrerTags {
    /// Those among the tags of a package.
    pub fn among(tags: &[String]) -> Self {
        let tags = tags.iter().filter_map(|tag| ReferrerTag::parse(tag));
        tags.fold(ReferrerTags::default(), ReferrerTags::and)
    }

    /// These, and the one that an event named: it may be missing in a list that is late.
    pub(super) fn with(mut self, tag: ReferrerTag, announced: Option<Digest>) -> Self {
        self.named = Some((tag, announced));
        self.and(tag)
    }

    fn and(mut self, tag: ReferrerTag) -> Self {
        *self.kinds.entry(tag.subject).or_default() |= bit(tag.kind);
        self
    }

    /// The digests that tags are made of, in their order.
    pub fn subjects(&self) -> impl Iterator<Item = Digest> {
        self.kinds.keys().copied()
    }

    /// Whether a tag is made of `subject`.
    pub(super) fn has(&self, subject: &Digest) -> bool {
        self.kinds.contains_key(subject)
    }

    fn of(&self, subject: Digest) -> impl Iterator<Item = ReferrerTag> {
        let bits = self.kinds.get(&subject).copied().unwrap_or_default();
        let kinds = ReferrerKind::ALL.into_iter();
        let kinds = kinds.filter(move |kind| bits & bit(*kind) != 0);
        kinds.map(move |kind| ReferrerTag { subject, kind })
    }
}

fn bit(kind: ReferrerKind) -> u8 {
    1 << kind as u8
}

/// How what refers to a manifest is found.
pub(super) struct Known<'a> {
    pub(super) tags: Cow<'a, ReferrerTags>,
    /// Whether the registry has the referrers API.
    pub(super) has_api: bool,
}

/// Something that refers to a manifest, as the source has it.
#[derive(Debug)]
pub(super) enum What {
    /// Under a tag of cosign's.
    Tag { version: Version, is_named: bool },
    /// An OCI referrer.
    Manifest(Digest),
}

impl What {
    pub(super) fn version(&self) -> Version {
        match self {
            What::Tag { version, .. } => version.clone(),
            What::Manifest(digest) => Version::Digest(*digest),
        }
    }

    pub(super) fn name(&self) -> String {
        self.version().tag_or_digest()
    }

    /// Its digest, if that is known before it is read.
    pub(super) fn digest(&self) -> Option<Digest> {
        match self {
            What::Tag { .. } => None,
            What::Manifest(digest) => Some(*digest),
        }
    }

    /// Whether it is what an event told of.
    pub(super) fn is_announced(&self) -> bool {
        matches!(self, What::Tag { is_named: true, .. })
    }
}

/// What refers to one manifest, oldest first, and what stood in the way of learning more.
#[derive(Default)]
pub(super) struct Listed {
    pub(super) what: Vec<What>,
    pub(super) troubles: Vec<Trouble>,
}

impl<'a> Known<'a> {
    pub(super) fn by_tags(tags: Cow<'a, ReferrerTags>) -> Self {
        Known {
            tags,
            has_api: false,
        }
    }

    /// Whether nothing refers to anything.
    pub(super) fn is_empty(&self) -> bool {
        self.tags.kinds.is_empty() && !self.has_api
    }

    /// Whether something may refer to a manifest.
    pub(super) fn may_have(&self, subject: &Digest) -> bool {
        self.has_api || self.tags.has(subject)
    }

    /// Whether something may refer to any other manifest than this.
    pub(super) fn may_have_others(&self, than: &Digest) -> bool {
        self.has_api || self.tags.kinds.keys().any(|subject| subject != than)
    }

    /// What refers to a manifest: one GET request for the index under its fallback tag, if there is one. A part that can't be learnt
    /// hides nothing of the rest.
    pub(super) async fn listed(
        &self,
        source: &Repository,
        subject: Digest,
        allowance: &Allowance,
    ) -> Listed {
        let mut listed = Listed::default();
        let mut referrers: Vec<Digest> = Vec::new();
        let mut tags = Vec::new();
        for tag in self.tags.of(subject) {
            let (version, is_named) = self.version(tag);
            if tag.kind != ReferrerKind::Index {
                tags.push(What::Tag { version, is_named });
                continue;
            }
            match index(source, &version, is_named, allowance).await {
                Ok(entries) => {
                    referrers = entries.listed.iter().map(|entry| entry.digest).collect();
                    if entries.unreadable > 0 {
                        let warning = format!(
                            "{}: {} entries have no digest that could be copied",
                            source.reference(&tag.to_string()),
                            entries.unreadable
                        );
                        listed.troubles.push(Trouble::Warning(warning));
                    }
                }
                Err(error) => listed.troubles.push(Trouble::Failure {
                    what: format!("{tag} with what refers to {subject}"),
                    is_announced: is_named,
                    error,
                }),
            }
        }
        if self.has_api {
            match retry(source.observer(), || source.referrers(&subject)).await {
                Ok(more) => referrers.extend(more.unwrap_or_default()),
                Err(error) => listed.troubles.push(Trouble::Failure {
                    what: format!("what refers to {subject}"),
                    is_announced: false,
                    error,
                }),
            }
        }
        let mut met = HashSet::with_capacity(referrers.len());
        referrers.retain(|digest| met.insert(*digest));
        listed.what = referrers.into_iter().map(What::Manifest).collect();
        listed.what.extend(tags);
        listed
    }

    /// A tag as it is copied, with the digest that was announced for it, and whether it is the one that was named.
    fn version(&self, tag: ReferrerTag) -> (Version, bool) {
        let named = self.tags.named.filter(|(named, _)| *named == tag);
        let version = Version::Tag {
            tag: tag.to_string(),
            announced: named.and_then(|(_, announced)| announced),
        };
        (version, named.is_some())
    }
}

/// What the index under a fallback tag lists. That there is none is an error only if the tag was named by an event.
async fn index(
    source: &Repository,
    version: &Version,
    is_named: bool,
    allowance: &Allowance,
) -> Result<Entries> {
    let patience = match is_named {
        true => ANNOUNCED_TAG_PATIENCE,
        false => Duration::ZERO,
    };
    let manifest = match announced_top(source, version, patience, allowance).await {
        Ok((manifest, _)) => manifest,
        Err(error) if is_gone(&error) && !is_named => return Ok(Entries::default()),
        Err(error) => return Err(error),
    };
    let entries = manifest.entries();
    allowance.give_back(manifest.bytes.len() as u64);
    entries.map_err(|reason| source.not_copied(&version.tag_or_digest(), reason))
}

fn is_gone(error: &Error) -> bool {
    error.kind() == Kind::NotFound
}
