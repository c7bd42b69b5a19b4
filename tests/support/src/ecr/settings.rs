//! How a repository is set up, which the registry API obeys and the JSON API of [`crate::aws`] reads and changes.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Repository;

/// The settings of a repository; a new one's are ECR's defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub scan_on_push: bool,
    /// `imageTagMutability`
    pub tag_mutability: String,
    /// The patterns of the exclusion filters.
    pub exclusions: Vec<String>,
    /// `AES256`, `KMS` or `KMS_DSSE`.
    pub encryption: String,
    /// An ARN.
    pub kms_key: Option<String>,
    pub lifecycle_policy: Option<Value>,
    pub policy: Option<Value>,
    pub resource_tags: BTreeMap<String, String>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            scan_on_push: false,
            tag_mutability: "MUTABLE".to_owned(),
            exclusions: Vec::new(),
            encryption: "AES256".to_owned(),
            kms_key: None,
            lifecycle_policy: None,
            policy: None,
            resource_tags: BTreeMap::new(),
        }
    }
}

impl Repository {
    /// Whether `tag` keeps the digest that it has. Exclusions are what it is otherwise for.
    pub(super) fn is_immutable(&self, tag: &str) -> bool {
        let Settings {
            tag_mutability,
            exclusions,
            ..
        } = &self.settings;
        let is_excluded = exclusions.iter().any(|pattern| matches(pattern, tag));
        tag_mutability.starts_with("IMMUTABLE") != is_excluded
    }
}

/// Whether `tag` is what a pattern says, in which `*` is any text.
fn matches(pattern: &str, tag: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == tag,
        Some((start, rest)) => tag.strip_prefix(start).is_some_and(|tag| {
            tag.char_indices()
                .map(|(at, _)| at)
                .chain([tag.len()])
                .any(|at| matches(rest, &tag[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exclusions_turn_a_mode_round_for_the_tags_that_match() {
        let is_immutable = |mode: &str, exclusions: &[&str], tag: &str| {
            let settings = Settings {
                tag_mutability: mode.to_owned(),
                exclusions: exclusions.iter().map(ToString::to_string).collect(),
                ..Settings::default()
            };
            let repository = Repository {
                settings,
                ..Repository::default()
            };
            repository.is_immutable(tag)
        };
        assert!(is_immutable("IMMUTABLE", &[], "latest"));
        assert!(!is_immutable("MUTABLE", &[], "latest"));
        let exclusions = ["latest*", "*-dev"];
        for (tag, excluded) in [("latest-1", true), ("1-dev", true), ("1-dev-2", false)] {
            assert_eq!(
                is_immutable("IMMUTABLE_WITH_EXCLUSION", &exclusions, tag),
                !excluded
            );
            assert_eq!(
                is_immutable("MUTABLE_WITH_EXCLUSION", &exclusions, tag),
                excluded
            );
        }
    }
}
