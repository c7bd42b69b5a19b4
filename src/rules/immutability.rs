//! Which tags a repository's tag mutability lets move.

use super::repository::TagMutability;

impl TagMutability {
    /// Whether `tag`, once it is written, keeps its digest. The exclusions are the tags for which it is the other way round. A mode
    /// that is not known says nothing. (ECR user guide, "Preventing image tags from being overwritten")
    pub fn keeps(&self, tag: &str) -> bool {
        let is_excluded = || {
            let mut patterns = self.exclusions.iter();
            patterns.any(|pattern| is_wildcard_match(pattern, tag))
        };
        match self.mode.as_str() {
            "IMMUTABLE" => true,
            "IMMUTABLE_WITH_EXCLUSION" => !is_excluded(),
            "MUTABLE_WITH_EXCLUSION" => is_excluded(),
            _ => false,
        }
    }

    /// Whether there may be a tag that keeps its digest.
    pub fn may_keep_tags(&self) -> bool {
        self.mode != "MUTABLE"
    }
}

/// Whether `tag` is what a filter of the type `WILDCARD` says, in which `*` stands for any text, the empty one included. Lifecycle
/// policies have the same patterns.
pub fn is_wildcard_match(pattern: &str, tag: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == tag;
    };
    let Some(mut left) = tag.strip_prefix(start) else {
        return false;
    };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    // What comes first is as good as what comes later: the rest has more room then.
    for part in middle.split('*') {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_any_text() {
        for (pattern, tag) in [
            ("latest", "latest"),
            ("latest*", "latest"),
            ("latest*", "latest-arm64"),
            ("*-dev", "1.2-dev"),
            ("*", "1"),
            ("**", "1"),
            ("v*.*", "v1.2"),
            ("a*b*c", "a-b-b-c"),
            ("*a*a*", "aa"),
        ] {
            assert!(is_wildcard_match(pattern, tag), "{pattern} {tag}");
        }
        for (pattern, tag) in [
            ("latest", "latest-1"),
            ("latest*", "the-latest"),
            ("*-dev", "1-dev-2"),
            ("a*a", "a"),
            ("*a*a*", "a"),
            ("a*b*c", "a-c-b"),
            ("v*.*", "v1"),
            ("Latest", "latest"),
        ] {
            assert!(!is_wildcard_match(pattern, tag), "{pattern} {tag}");
        }
    }

    #[test]
    fn exclusions_turn_the_mode_round() {
        for (mode, excluded, other) in [
            ("IMMUTABLE", true, true),
            ("IMMUTABLE_WITH_EXCLUSION", false, true),
            ("MUTABLE_WITH_EXCLUSION", true, false),
            ("MUTABLE", false, false),
            ("SOMETHING_NEW", false, false),
        ] {
            let mutability = TagMutability {
                mode: mode.to_owned(),
                exclusions: vec!["stable".to_owned(), "latest*".to_owned()],
            };
            assert_eq!(mutability.keeps("latest-1"), excluded, "{mode}");
            assert_eq!(mutability.keeps("1.2.3"), other, "{mode}");
            assert_eq!(mutability.may_keep_tags(), mode != "MUTABLE", "{mode}");
        }
    }
}
