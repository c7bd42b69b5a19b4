//! A rule's `tags`: which of a package's tags are copied.

use std::num::NonZeroUsize;

use semver::{Version, VersionReq};
use serde::Deserialize;
use serde_json::Value;

use super::MinAge;
use super::glob::{self, GlobSet};
use crate::reference::{is_referrer_tag, is_tag};

/// The conditions, all of which must hold; without any, every tag is copied.
#[derive(Debug, Default)]
pub struct TagFilter {
    include: Option<GlobSet>,
    exclude: GlobSet,
    semver: Option<VersionReq>,
    newest: Option<NonZeroUsize>,
    min_age: Option<MinAge>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TagFields {
    include: Option<Vec<String>>,
    #[serde(default)]
    exclude: Vec<String>,
    semver: Option<String>,
    newest: Option<NonZeroUsize>,
    min_age: Option<Value>,
}

impl TagFilter {
    /// Reads the field.
    ///
    /// # Errors
    /// Names the condition that can't be understood.
    pub(super) fn new(fields: Option<TagFields>) -> Result<Self, String> {
        let Some(fields) = fields else {
            return Ok(TagFilter::default());
        };
        let range = |text: String| {
            let range = VersionReq::parse(&text);
            range.map_err(|error| format!("tags.semver {text:?}: {error}"))
        };
        let globs = |name: &str, globs: &[String]| {
            glob::tags(globs).map_err(|reason| format!("{name}: {reason}"))
        };
        let include = fields
            .include
            .map(|include| globs("tags.include", &include));
        Ok(TagFilter {
            include: include.transpose()?,
            exclude: globs("tags.exclude", &fields.exclude)?,
            semver: fields.semver.map(range).transpose()?,
            newest: fields.newest,
            min_age: fields.min_age.as_ref().map(MinAge::read).transpose()?,
        })
    }

    /// Why `tag` is not copied, or `None` if it is, as far as its name tells.
    pub fn refusal(&self, tag: &str) -> Option<String> {
        if let Some(reason) = not_an_image(tag) {
            return Some(reason);
        }
        let include = self.include.as_ref();
        if include.is_some_and(|include| !include.is_match(tag)) {
            return Some(format!("the rule does not include tag {tag}"));
        }
        if self.exclude.is_match(tag) {
            return Some(format!("the rule excludes tag {tag}"));
        }
        let version = || Version::parse(tag.strip_prefix('v').unwrap_or(tag)).ok();
        let range = self.semver.as_ref()?;
        let is_in_range = version().is_some_and(|version| range.matches(&version));
        (!is_in_range).then(|| format!("tag {tag} is no version in the rule's range {range}"))
    }

    /// Those of `tags`, in push order, that a scheduled run looks at: the newest of those that are not refused. Where the age counts
    /// too, the newest are not known here: see [`TagFilter::newest_of_age`].
    pub fn admitted(&self, tags: Vec<String>) -> Vec<String> {
        let mut admitted: Vec<String> = tags
            .into_iter()
            .filter(|tag| self.refusal(tag).is_none())
            .collect();
        let newest = match self.min_age {
            Some(_) => usize::MAX,
            None => self.newest.map_or(usize::MAX, NonZeroUsize::get),
        };
        admitted.split_off(admitted.len().saturating_sub(newest))
    }

    /// How old a version has to be.
    pub fn min_age(&self) -> Option<&MinAge> {
        self.min_age.as_ref()
    }

    /// How many of the newest tags a scheduled run looks at that are old enough, where the rule asks for both.
    pub fn newest_of_age(&self) -> Option<usize> {
        let newest = self.newest.filter(|_| self.min_age.is_some());
        newest.map(NonZeroUsize::get)
    }
}

/// Why nothing is ever copied under `tag`: tags come from lists of GitHub's as well as from events, and end up in URLs.
pub fn not_an_image(tag: &str) -> Option<String> {
    if !is_tag(tag) {
        return Some(format!("{tag:?} is not a valid tag"));
    }
    is_referrer_tag(tag).then(|| format!("tag {tag} is a signature or an attestation"))
}
