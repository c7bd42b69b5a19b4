//! Whether a repository's lifecycle policy lets expire what scheduled runs copy again.
//!
//! Only what is tagged matters: an untagged part of an image is not expired while its index is there. (ECR user guide, "Lifecycle
//! policies")

use serde_json::Value;

use super::destinations::tagged;
use super::{Line, named};
use crate::destination::{TagPattern, with_digest};
use crate::manifest::Digest;
use crate::rules::is_wildcard_match;

/// The tags that a rule writes in a repository, as far as they are known.
pub(super) struct Written(Vec<String>);

impl Written {
    /// By the patterns of the destinations, for the tags at the source.
    pub(super) fn by(patterns: &[TagPattern], tags: &[String]) -> Self {
        let mut written = Vec::new();
        for (pattern, tag) in patterns
            .iter()
            .flat_map(|pattern| tags.iter().map(move |tag| (pattern, tag)))
        {
            // Any digest does.
            let filled = pattern.fill(&tagged(tag));
            let filled = filled.ok().flatten();
            let filled = filled.map(|tag| with_digest(&tag, &Digest::of(b"")));
            written.extend(filled.filter(|tag| !written.contains(tag)));
        }
        Written(written)
    }
}

/// The line for a policy.
pub(super) fn judge(check: String, policy: &Value, written: &Written) -> Line {
    let rules = policy["rules"].as_array();
    let fights: Vec<String> = rules
        .into_iter()
        .flatten()
        .filter_map(|rule| fight(rule, written))
        .collect();
    match fights.is_empty() {
        true => Line::ok(
            check,
            "it lets nothing expire that scheduled runs would copy again, as far as the tags are known",
        ),
        false => Line::warning(
            check,
            format!(
                "scheduled runs copy again what it lets expire: {}",
                named(&fights)
            ),
            "let the rule copy less (`tags.newest`, `tags.include`), or let the policy keep more (`repository.lifecycle_keep`, or `aws ecr put-lifecycle-policy`)",
        ),
    }
}

/// How a rule of a policy lets expire what is tagged and still at the source. Images that are archived are left archived, so that only
/// expiry counts.
fn fight(rule: &Value, written: &Written) -> Option<String> {
    let selection = &rule["selection"];
    let text = |field: &str| selection[field].as_str().unwrap_or_default();
    let is_of_tagged = matches!(text("tagStatus"), "tagged" | "any");
    if rule["action"]["type"] != "expire" || !is_of_tagged || text("storageClass") == "archive" {
        return None;
    }
    let affected: Vec<&String> = written
        .0
        .iter()
        .filter(|tag| is_selected(selection, tag))
        .collect();
    let first = affected.first()?;
    let number = selection["countNumber"].as_u64()?;
    let priority = rule["rulePriority"].as_u64().unwrap_or_default();
    match text("countType") {
        "imageCountMoreThan" if affected.len() as u64 > number => Some(format!(
            "its rule {priority} keeps {number} images, and the rule admits {} tags{}",
            affected.len(),
            match text("tagStatus") {
                "any" => ", of which each platform counts as an image too",
                _ => "",
            }
        )),
        "sinceImagePushed" => Some(format!(
            "its rule {priority} lets images such as {first} expire {number} days after their push"
        )),
        "sinceImagePulled" => Some(format!(
            "its rule {priority} lets images such as {first} expire {number} days after their last pull"
        )),
        _ => None,
    }
}

/// Whether a rule of a policy may be about a tag. Where it names several prefixes or patterns, an image has to have a tag for each,
/// which can't be told from one tag.
fn is_selected(selection: &Value, tag: &str) -> bool {
    let list = |field: &str| {
        let list = selection[field].as_array().into_iter().flatten();
        list.filter_map(Value::as_str).collect::<Vec<_>>()
    };
    let (prefixes, patterns) = (list("tagPrefixList"), list("tagPatternList"));
    let is_any = prefixes.is_empty() && patterns.is_empty();
    is_any
        || prefixes.iter().any(|prefix| tag.starts_with(prefix))
        || patterns
            .iter()
            .any(|pattern| is_wildcard_match(pattern, tag))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::Status;

    fn status(selection: Value, action: &str) -> Status {
        let policy = json!({"rules": [{"rulePriority": 1, "selection": selection, "action": {"type": action}}]});
        let written = Written(["1.2.3", "1.2.4", "latest"].map(str::to_owned).to_vec());
        judge("lifecycle policy".to_owned(), &policy, &written).status
    }

    #[test]
    fn what_expires_though_it_is_copied_again_is_told() {
        let count = |status: &str, number: u64| json!({"tagStatus": status, "countType": "imageCountMoreThan", "countNumber": number});
        let mut of_pattern = count("tagged", 1);
        of_pattern["tagPatternList"] = json!(["1.*"]);
        let mut of_prefix = count("tagged", 1);
        of_prefix["tagPrefixList"] = json!(["lat"]);
        let age = |kind: &str, status: &str| json!({"tagStatus": status, "countType": kind, "countUnit": "days", "countNumber": 30});
        let mut archived = age("sinceImagePushed", "any");
        archived["storageClass"] = json!("archive");
        for (selection, action, expected) in [
            (count("any", 2), "expire", Status::Warning),
            (count("any", 3), "expire", Status::Ok),
            (count("untagged", 1), "expire", Status::Ok),
            (of_pattern, "expire", Status::Warning),
            (of_prefix, "expire", Status::Ok),
            (age("sinceImagePushed", "any"), "expire", Status::Warning),
            (age("sinceImagePulled", "tagged"), "expire", Status::Warning),
            (age("sinceImagePushed", "untagged"), "expire", Status::Ok),
            (age("sinceImagePulled", "any"), "transition", Status::Ok),
            (archived, "expire", Status::Ok),
        ] {
            assert_eq!(
                status(selection.clone(), action),
                expected,
                "{selection} {action}"
            );
        }
        assert_eq!(
            judge(
                "lifecycle policy".to_owned(),
                &json!("no policy"),
                &Written(vec![])
            )
            .status,
            Status::Ok
        );
    }
}
