//! What has to change so that a repository is as its rule says: decided from what was found, without a call.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::aws::repositories::{Change, Found};
use crate::rules::repository::{Encryption, RepositorySettings};

/// What was found of a repository. A setting that the rule does not name is not looked at, and `None`.
#[derive(Debug)]
pub struct Looked {
    /// What the repository itself says.
    pub found: Found,
    /// The lifecycle policy, if there is one.
    pub lifecycle_policy: Option<Option<Value>>,
    /// The repository policy, if there is one.
    pub policy: Option<Option<Value>>,
    /// The resource tags.
    pub resource_tags: Option<BTreeMap<String, String>>,
}

/// The changes to make, each with what is there before, and a warning for what can't be changed.
#[derive(Debug, Default, PartialEq)]
pub struct Difference {
    /// In the order of the rule's fields.
    pub changes: Vec<(Change, String)>,
    /// What stays as it is.
    pub warning: Option<String>,
}

/// Compares what a rule names with what there is. What the rule does not name, and what could not be looked at, is left alone.
pub fn difference(expected: &RepositorySettings, looked: &Looked) -> Difference {
    let Looked {
        found,
        lifecycle_policy,
        policy,
        resource_tags,
    } = looked;
    let mut changes = Vec::new();
    if let Some(scan) = expected
        .scan_on_push
        .filter(|scan| *scan != found.scan_on_push)
    {
        let before = Change::ScanOnPush(found.scan_on_push);
        changes.push((Change::ScanOnPush(scan), before.to_string()));
    }
    if let Some(mutability) = &expected.tag_mutability {
        let before = &found.tag_mutability;
        let is_same = mutability.mode == before.mode
            && sorted(&mutability.exclusions) == sorted(&before.exclusions);
        if !is_same {
            let before = Change::TagMutability(before.clone()).to_string();
            changes.push((Change::TagMutability(mutability.clone()), before));
        }
    }
    if let (Some(expected), Some(before)) = (&expected.lifecycle_policy, lifecycle_policy)
        && !is_same_policy(expected, before.as_ref())
    {
        let change = Change::LifecyclePolicy(expected.clone());
        changes.push((change, presence(before.as_ref())));
    }
    if let (Some(expected), Some(before)) = (&expected.policy, policy)
        && !is_same_policy(expected, before.as_ref())
    {
        let change = Change::Policy(expected.clone());
        changes.push((change, presence(before.as_ref())));
    }
    if let Some(before) = resource_tags {
        let differs = |(key, value): &(&String, &String)| before.get(*key) != Some(*value);
        let differing = expected.resource_tags.iter().filter(differs);
        let differing: BTreeMap<String, String> = differing
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if !differing.is_empty() {
            let before: BTreeMap<String, String> = before
                .iter()
                .filter(|(key, _)| differing.contains_key(*key))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            let before = Change::ResourceTags(before).to_string();
            changes.push((Change::ResourceTags(differing), before));
        }
    }
    let warning = expected
        .encryption
        .as_ref()
        .filter(|encryption| !is_same_encryption(encryption, &found.encryption))
        .map(|encryption| {
            format!(
                "the rule says encryption {}, but the repository has {}, which can't be changed: create the repository anew, or change the rule",
                shown(encryption),
                shown(&found.encryption)
            )
        });
    Difference { changes, warning }
}

fn sorted(patterns: &[String]) -> Vec<&String> {
    let mut patterns: Vec<&String> = patterns.iter().collect();
    patterns.sort();
    patterns.dedup();
    patterns
}

fn presence(policy: Option<&Value>) -> String {
    match policy {
        Some(_) => "another one",
        None => "none",
    }
    .to_owned()
}

fn shown(encryption: &Encryption) -> String {
    match &encryption.kms_key {
        Some(key) => format!("{} with {key}", encryption.kind),
        None => encryption.kind.clone(),
    }
}

/// ECR answers with the ARN of the key, where the rule may have its id or an alias. What key an alias stands for can't be told
/// without a right of KMS, so it is believed.
fn is_same_encryption(expected: &Encryption, found: &Encryption) -> bool {
    let is_kms = |encryption: &Encryption| encryption.kind.starts_with("KMS");
    let (Some(expected_key), Some(found_key)) = (&expected.kms_key, &found.kms_key) else {
        return is_kms(expected) == is_kms(found);
    };
    let is_alias = expected_key.starts_with("alias/") || expected_key.contains(":alias/");
    is_kms(found)
        && (is_alias
            || expected_key == found_key
            || found_key.rsplit('/').next() == Some(expected_key))
}

/// Whether two policies say the same. ECR and IAM write them in their own way: other spaces and order, a text in place of a list
/// of one, an account's root in place of its number. (IAM user guide, "JSON policy element reference")
fn is_same_policy(expected: &Value, found: Option<&Value>) -> bool {
    found.is_some_and(|found| canonical(expected) == canonical(found))
}

fn canonical(value: &Value) -> Value {
    match value {
        Value::Array(entries) => {
            let mut entries: Vec<Value> = entries.iter().map(canonical).collect();
            entries.sort_by_cached_key(Value::to_string);
            entries.dedup();
            match <[Value; 1]>::try_from(entries) {
                Ok([only]) => only,
                Err(entries) => Value::Array(entries),
            }
        }
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| {
                let value = match (name.as_str(), value) {
                    ("Principal" | "NotPrincipal", Value::String(anyone)) if anyone == "*" => {
                        Value::Object([("AWS".to_owned(), value.clone())].into_iter().collect())
                    }
                    _ => canonical(value),
                };
                (name.clone(), value)
            };
            Value::Object(fields.iter().map(field).collect())
        }
        Value::String(text) => Value::String(account_of_root(text).unwrap_or(text).to_owned()),
        Value::Number(number) => Value::String(number.to_string()),
        Value::Bool(flag) => Value::String(flag.to_string()),
        Value::Null => Value::Null,
    }
}

/// `123456789012` of `arn:aws:iam::123456789012:root`, in any partition.
fn account_of_root(arn: &str) -> Option<&str> {
    let (_, rest) = arn.strip_prefix("arn:aws")?.split_once(":iam::")?;
    let account = rest.strip_suffix(":root")?;
    let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    is_account.then_some(account)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::repository::{RepositoryRule, TagMutability};

    fn looked() -> Looked {
        Looked {
            found: Found {
                arn: String::new(),
                scan_on_push: false,
                tag_mutability: TagMutability {
                    mode: "MUTABLE".to_owned(),
                    exclusions: Vec::new(),
                },
                encryption: Encryption {
                    kind: "AES256".to_owned(),
                    kms_key: None,
                },
            },
            lifecycle_policy: Some(None),
            policy: Some(None),
            resource_tags: Some(BTreeMap::from([("owner".to_owned(), "me".to_owned())])),
        }
    }

    fn settings(value: Value) -> RepositorySettings {
        RepositoryRule::parse(value).unwrap().settings
    }

    #[test]
    fn only_what_the_rule_names_and_differs_is_changed() {
        assert_eq!(
            difference(&settings(json!({})), &looked()),
            Difference::default()
        );
        let agrees = settings(
            json!({"scan_on_push": false, "tag_mutability": "MUTABLE", "encryption": "AES256",
            "resource_tags": {"owner": "me"}}),
        );
        assert_eq!(difference(&agrees, &looked()), Difference::default());
        let differs = settings(
            json!({"scan_on_push": true, "tag_mutability": "IMMUTABLE_WITH_EXCLUSION",
            "tag_mutability_exclusions": ["b", "a"], "lifecycle_keep": 3,
            "policy": {"Statement": [{"Effect": "Allow"}]}, "resource_tags": {"owner": "you", "team": "a"}}),
        );
        let changes = difference(&differs, &looked()).changes;
        let shown: Vec<String> = changes
            .iter()
            .map(|(change, before)| format!("{change} | {before}"))
            .collect();
        assert_eq!(
            shown,
            [
                "scan_on_push: true | scan_on_push: false",
                "tag_mutability: IMMUTABLE_WITH_EXCLUSION (b, a) | tag_mutability: MUTABLE",
                "lifecycle_policy | none",
                "policy | none",
                "resource_tags: owner=you, team=a | resource_tags: owner=me",
            ]
        );
    }

    #[test]
    fn what_could_not_be_looked_at_is_left_alone() {
        let blind = Looked {
            lifecycle_policy: None,
            policy: None,
            resource_tags: None,
            ..looked()
        };
        let expected = settings(
            json!({"lifecycle_keep": 3, "policy": {"Statement": [{"Effect": "Allow"}]}, "resource_tags": {"a": "b"}}),
        );
        assert_eq!(difference(&expected, &blind), Difference::default());
    }

    #[test]
    fn policies_are_compared_by_what_they_say() {
        let expected = json!({"Version": "2012-10-17", "Statement": [{
            "Effect": "Allow", "Principal": {"AWS": ["123456789012", "arn:aws:iam::210987654321:role/x"]},
            "Action": ["ecr:BatchGetImage"], "Condition": {"Bool": {"aws:SecureTransport": true}}}]});
        let found = json!({"Statement": {
            "Action": "ecr:BatchGetImage", "Effect": "Allow",
            "Principal": {"AWS": ["arn:aws:iam::210987654321:role/x", "arn:aws:iam::123456789012:root"]},
            "Condition": {"Bool": {"aws:SecureTransport": "true"}}}, "Version": "2012-10-17"});
        assert!(is_same_policy(&expected, Some(&found)));
        let mut other = found.clone();
        other["Statement"]["Effect"] = json!("Deny");
        assert!(!is_same_policy(&expected, Some(&other)));
        assert!(!is_same_policy(&expected, Some(&json!("no JSON"))));
        let anyone = |principal: Value| json!({"Statement": [{"Principal": principal}]});
        assert!(is_same_policy(
            &anyone(json!("*")),
            Some(&anyone(json!({"AWS": "*"})))
        ));
    }

    #[test]
    fn another_encryption_is_a_warning_and_no_change() {
        let arn = "arn:aws:kms:eu-west-3:123456789012:key/1234-ab";
        let with = |kind: &str, key: Option<&str>| Looked {
            found: Found {
                encryption: Encryption {
                    kind: kind.to_owned(),
                    kms_key: key.map(str::to_owned),
                },
                ..looked().found
            },
            ..looked()
        };
        for key in [arn, "1234-ab", "alias/ecr"] {
            let expected = settings(json!({"encryption": {"kms_key": key}}));
            assert_eq!(
                difference(&expected, &with("KMS", Some(arn))),
                Difference::default(),
                "{key}"
            );
        }
        for (expected, found) in [
            (json!("AES256"), with("KMS", Some(arn))),
            (json!({"kms_key": "other"}), with("KMS", Some(arn))),
            (json!({"kms_key": "alias/ecr"}), with("AES256", None)),
        ] {
            let expected = settings(json!({ "encryption": expected }));
            let difference = difference(&expected, &found);
            assert!(difference.changes.is_empty());
            assert!(
                difference
                    .warning
                    .is_some_and(|text| text.contains("can't be changed"))
            );
        }
    }
}
