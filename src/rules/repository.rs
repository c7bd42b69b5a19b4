//! What a rule says of the repositories that its images go to: whether a missing one is created, and with which settings.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use serde::Deserialize;
use serde_json::{Value, json};

/// The values of `imageTagMutability`. (ECR API reference, `CreateRepository`)
const TAG_MUTABILITIES: [&str; 4] = [
    "MUTABLE",
    "IMMUTABLE",
    "MUTABLE_WITH_EXCLUSION",
    "IMMUTABLE_WITH_EXCLUSION",
];

/// The most exclusion filters, and the most characters of one. (ECR API reference, `ImageTagMutabilityExclusionFilter`)
const EXCLUSIONS_LIMIT: usize = 5;
const EXCLUSION_LENGTH_LIMIT: usize = 128;

/// The most bytes of the text of a lifecycle policy and of a repository policy. (ECR API reference, `PutLifecyclePolicy`,
/// `SetRepositoryPolicy`)
const LIFECYCLE_POLICY_LIMIT: usize = 30_720;
const POLICY_LIMIT: usize = 10_240;

/// The most resource tags, and the most characters of a key and of a value. (ECR user guide, "Tagging a private repository")
const RESOURCE_TAGS_LIMIT: usize = 50;
const TAG_KEY_LIMIT: usize = 128;
const TAG_VALUE_LIMIT: usize = 256;

/// The most characters of a KMS key's id, alias or ARN. (ECR API reference, `EncryptionConfiguration`)
const KMS_KEY_LIMIT: usize = 2048;

/// Untagged images that no index refers to are kept so long beside `lifecycle_keep`: as long as a queue may hold the rest of a copy.
const UNTAGGED_DAYS: u32 = 14;

/// The rule's `repository`, checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RepositoryRule {
    /// Whether a missing repository is created.
    pub create: bool,
    /// What it is created with, and what scheduled runs put right.
    pub settings: RepositorySettings,
}

/// Settings of an ECR repository. What is not named is not touched.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RepositorySettings {
    /// Whether an image is scanned when it is pushed.
    pub scan_on_push: Option<bool>,
    /// Whether tags may move.
    pub tag_mutability: Option<TagMutability>,
    /// The lifecycle policy.
    pub lifecycle_policy: Option<Value>,
    /// How images are encrypted. It can't be changed after the creation.
    pub encryption: Option<Encryption>,
    /// The repository policy: what others may do.
    pub policy: Option<Value>,
    /// Resource tags that the repository has, perhaps among others.
    pub resource_tags: BTreeMap<String, String>,
}

/// Whether tags may move, and which tags it is otherwise for.
#[derive(Clone, Debug, PartialEq)]
pub struct TagMutability {
    /// ECR's `imageTagMutability`.
    pub mode: String,
    /// Patterns with `*`, for the two modes that take them.
    pub exclusions: Vec<String>,
}

/// How images are encrypted at rest.
#[derive(Clone, Debug, PartialEq)]
pub struct Encryption {
    /// ECR's `encryptionType`.
    pub kind: String,
    /// The id, alias or ARN of the key; with none it is AWS's own.
    pub kms_key: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    create: bool,
    scan_on_push: Option<bool>,
    tag_mutability: Option<String>,
    tag_mutability_exclusions: Option<Vec<String>>,
    lifecycle_keep: Option<NonZeroU32>,
    lifecycle_policy: Option<Value>,
    encryption: Option<Value>,
    policy: Option<Value>,
    #[serde(default)]
    resource_tags: BTreeMap<String, String>,
}

impl RepositoryRule {
    /// Reads the JSON of the field.
    ///
    /// # Errors
    /// Names the first mistake.
    pub fn parse(value: Value) -> Result<Self, String> {
        if !value.is_object() {
            return Err("`repository`: expected an object".to_owned());
        }
        let fields: Fields =
            serde_json::from_value(value).map_err(|error| format!("`repository`: {error}"))?;
        let settings = RepositorySettings {
            scan_on_push: fields.scan_on_push,
            tag_mutability: tag_mutability(
                fields.tag_mutability,
                fields.tag_mutability_exclusions,
            )?,
            lifecycle_policy: lifecycle_policy(fields.lifecycle_keep, fields.lifecycle_policy)?,
            encryption: fields.encryption.map(encryption).transpose()?,
            policy: policy(fields.policy)?,
            resource_tags: resource_tags(fields.resource_tags)?,
        };
        Ok(RepositoryRule {
            create: fields.create,
            settings,
        })
    }
}

impl RepositorySettings {
    /// Whether nothing is named.
    pub fn is_empty(&self) -> bool {
        *self == RepositorySettings::default()
    }

    /// These settings, and where nothing is named, those of `template`.
    pub fn or(&self, template: RepositorySettings) -> Self {
        let mut resource_tags = template.resource_tags;
        resource_tags.extend(self.resource_tags.clone());
        RepositorySettings {
            scan_on_push: self.scan_on_push.or(template.scan_on_push),
            tag_mutability: self.tag_mutability.clone().or(template.tag_mutability),
            lifecycle_policy: self.lifecycle_policy.clone().or(template.lifecycle_policy),
            encryption: self.encryption.clone().or(template.encryption),
            policy: self.policy.clone().or(template.policy),
            resource_tags,
        }
    }
}

fn tag_mutability(
    mode: Option<String>,
    exclusions: Option<Vec<String>>,
) -> Result<Option<TagMutability>, String> {
    let Some(mode) = mode else {
        return match exclusions {
            Some(_) => Err(
                "`repository.tag_mutability_exclusions` needs `tag_mutability` beside it"
                    .to_owned(),
            ),
            None => Ok(None),
        };
    };
    if !TAG_MUTABILITIES.contains(&mode.as_str()) {
        return Err(format!(
            "`repository.tag_mutability` is {mode:?}: expected one of {}",
            TAG_MUTABILITIES.join(", ")
        ));
    }
    let takes_exclusions = mode.ends_with("_WITH_EXCLUSION");
    let exclusions = match (takes_exclusions, exclusions) {
        (true, Some(exclusions)) => exclusions,
        (false, None) => Vec::new(),
        (true, None) => {
            return Err(format!(
                "`repository.tag_mutability` is {mode}, which needs `tag_mutability_exclusions` such as [\"latest*\"]"
            ));
        }
        (false, Some(_)) => {
            return Err(format!(
                "`repository.tag_mutability` is {mode}, which takes no `tag_mutability_exclusions`; {mode}_WITH_EXCLUSION does"
            ));
        }
    };
    if takes_exclusions && !(1..=EXCLUSIONS_LIMIT).contains(&exclusions.len()) {
        return Err(format!(
            "`repository.tag_mutability_exclusions`: expected one to {EXCLUSIONS_LIMIT} patterns"
        ));
    }
    if let Some(wrong) = exclusions.iter().find(|pattern| !is_exclusion(pattern)) {
        return Err(format!(
            "`repository.tag_mutability_exclusions`: {wrong:?} is no pattern of a tag: letters, digits, `.`, `_`, `-` and `*`, at most {EXCLUSION_LENGTH_LIMIT}"
        ));
    }
    Ok(Some(TagMutability { mode, exclusions }))
}

fn is_exclusion(pattern: &str) -> bool {
    (1..=EXCLUSION_LENGTH_LIMIT).contains(&pattern.len())
        && pattern
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._*-".contains(&byte))
}

fn lifecycle_policy(
    keep: Option<NonZeroU32>,
    policy: Option<Value>,
) -> Result<Option<Value>, String> {
    match (keep, policy) {
        (Some(_), Some(_)) => Err(
            "`repository`: `lifecycle_keep` and `lifecycle_policy` exclude each other".to_owned(),
        ),
        (Some(keep), None) => Ok(Some(keep_newest(keep))),
        (None, Some(policy)) => {
            let name = "repository.lifecycle_policy";
            checked(name, policy, "rules", LIFECYCLE_POLICY_LIMIT).map(Some)
        }
        (None, None) => Ok(None),
    }
}

/// A lifecycle policy that keeps the newest tagged images.
///
/// `tagStatus` `any` would count the manifests of an index as images, of which there may be ten in one. They go when nothing
/// refers to them any more: what an index refers to never expires before it. (ECR user guide, "Lifecycle policy evaluation rules")
fn keep_newest(keep: NonZeroU32) -> Value {
    json!({"rules": [
        {
            "rulePriority": 1,
            "description": format!("Keep the newest tagged images: {keep}"),
            "selection": {
                "tagStatus": "tagged",
                "tagPatternList": ["*"],
                "countType": "imageCountMoreThan",
                "countNumber": keep,
            },
            "action": {"type": "expire"},
        },
        {
            "rulePriority": 2,
            "description": format!("Remove what has had no tag for {UNTAGGED_DAYS} days and is part of no image"),
            "selection": {
                "tagStatus": "untagged",
                "countType": "sinceImagePushed",
                "countUnit": "days",
                "countNumber": UNTAGGED_DAYS,
            },
            "action": {"type": "expire"},
        },
    ]})
}

fn encryption(value: Value) -> Result<Encryption, String> {
    let expected = || {
        "`repository.encryption`: expected \"AES256\" or {\"kms_key\": \"<id, alias or ARN>\"}"
            .to_owned()
    };
    let key = match &value {
        Value::String(kind) if kind == "AES256" => {
            return Ok(Encryption {
                kind: kind.clone(),
                kms_key: None,
            });
        }
        Value::Object(fields) if fields.len() == 1 => fields.get("kms_key"),
        _ => None,
    };
    let key = key.and_then(Value::as_str).ok_or_else(expected)?;
    match (1..=KMS_KEY_LIMIT).contains(&key.len()) {
        true => Ok(Encryption {
            kind: "KMS".to_owned(),
            kms_key: Some(key.to_owned()),
        }),
        false => Err(expected()),
    }
}

/// An empty object names nothing.
fn policy(value: Option<Value>) -> Result<Option<Value>, String> {
    match value {
        None => Ok(None),
        Some(Value::Object(fields)) if fields.is_empty() => Ok(None),
        Some(policy) => checked("repository.policy", policy, "Statement", POLICY_LIMIT).map(Some),
    }
}

/// A policy that is an object with the one field that every policy has. ECR checks the rest.
fn checked(name: &str, policy: Value, field: &str, limit: usize) -> Result<Value, String> {
    let has_content = match policy.get(field) {
        Some(Value::Array(entries)) => !entries.is_empty(),
        Some(Value::Object(entry)) => !entry.is_empty() && field == "Statement",
        _ => false,
    };
    if !has_content {
        return Err(format!(
            "`{name}`: expected a policy, an object with `{field}`"
        ));
    }
    match policy.to_string().len() <= limit {
        true => Ok(policy),
        false => Err(format!(
            "`{name}` has more than the {limit} bytes that ECR takes"
        )),
    }
}

fn resource_tags(tags: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, String> {
    if tags.len() > RESOURCE_TAGS_LIMIT {
        return Err(format!(
            "`repository.resource_tags`: a resource has at most {RESOURCE_TAGS_LIMIT} tags"
        ));
    }
    for (key, value) in &tags {
        if key.is_empty() || key.chars().count() > TAG_KEY_LIMIT {
            return Err(format!(
                "`repository.resource_tags`: {key:?} is no key: it has 1 to {TAG_KEY_LIMIT} characters"
            ));
        }
        if key.to_ascii_lowercase().starts_with("aws:") {
            return Err(format!(
                "`repository.resource_tags`: {key:?} begins with `aws:`, which is AWS's own"
            ));
        }
        if value.chars().count() > TAG_VALUE_LIMIT {
            return Err(format!(
                "`repository.resource_tags`: the value of {key:?} has more than {TAG_VALUE_LIMIT} characters"
            ));
        }
    }
    Ok(tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: Value) -> Result<RepositoryRule, String> {
        RepositoryRule::parse(value)
    }

    #[test]
    fn every_field_is_read() {
        let lifecycle = json!({"rules": [{"rulePriority": 1}]});
        let policy = json!({"Statement": [{"Effect": "Allow"}]});
        let rule = parse(json!({
            "create": true, "scan_on_push": false, "tag_mutability": "IMMUTABLE_WITH_EXCLUSION",
            "tag_mutability_exclusions": ["latest*"], "lifecycle_policy": lifecycle,
            "encryption": {"kms_key": "alias/ecr"}, "policy": policy, "resource_tags": {"team": "a"},
        }))
        .unwrap();
        let expected = RepositorySettings {
            scan_on_push: Some(false),
            tag_mutability: Some(TagMutability {
                mode: "IMMUTABLE_WITH_EXCLUSION".to_owned(),
                exclusions: vec!["latest*".to_owned()],
            }),
            lifecycle_policy: Some(lifecycle),
            encryption: Some(Encryption {
                kind: "KMS".to_owned(),
                kms_key: Some("alias/ecr".to_owned()),
            }),
            policy: Some(policy),
            resource_tags: BTreeMap::from([("team".to_owned(), "a".to_owned())]),
        };
        assert_eq!((rule.create, rule.settings), (true, expected));
        let nothing = parse(json!({"policy": {}, "resource_tags": {}})).unwrap();
        assert_eq!(nothing, RepositoryRule::default());
    }

    #[test]
    fn lifecycle_keep_counts_tagged_images_alone() {
        let rule = parse(json!({"lifecycle_keep": 10})).unwrap();
        let policy = rule.settings.lifecycle_policy.unwrap();
        let selection = &policy["rules"][0]["selection"];
        assert_eq!(selection["countNumber"], 10);
        assert_eq!(selection["tagStatus"], "tagged");
        assert_eq!(policy["rules"][1]["selection"]["tagStatus"], "untagged");
    }

    #[test]
    fn every_mistake_is_named() {
        let keys: BTreeMap<String, &str> =
            (0..51).map(|number| (format!("k{number}"), "")).collect();
        let cases = [
            (json!("create"), "expected an object"),
            (json!({"creat": true}), "unknown field `creat`"),
            (json!({"create": "yes"}), "expected a boolean"),
            (
                json!({"tag_mutability": "immutable"}),
                "expected one of MUTABLE, IMMUTABLE",
            ),
            (
                json!({"tag_mutability_exclusions": ["a"]}),
                "needs `tag_mutability`",
            ),
            (
                json!({"tag_mutability": "IMMUTABLE", "tag_mutability_exclusions": ["a"]}),
                "takes no `tag_mutability_exclusions`",
            ),
            (
                json!({"tag_mutability": "IMMUTABLE_WITH_EXCLUSION"}),
                "needs `tag_mutability_exclusions`",
            ),
            (
                json!({"tag_mutability": "MUTABLE_WITH_EXCLUSION", "tag_mutability_exclusions": ["1", "2", "3", "4", "5", "6"]}),
                "one to 5",
            ),
            (
                json!({"tag_mutability": "MUTABLE_WITH_EXCLUSION", "tag_mutability_exclusions": ["a?"]}),
                "\"a?\" is no pattern",
            ),
            (json!({"lifecycle_keep": 0}), "nonzero"),
            (
                json!({"lifecycle_keep": 1, "lifecycle_policy": {"rules": [1]}}),
                "exclude each other",
            ),
            (
                json!({"lifecycle_policy": {"rules": []}}),
                "`repository.lifecycle_policy`: expected a policy",
            ),
            (
                json!({"lifecycle_policy": "keep"}),
                "an object with `rules`",
            ),
            (
                json!({"lifecycle_policy": {"rules": ["x".repeat(31_000)]}}),
                "30720 bytes",
            ),
            (json!({"encryption": "KMS"}), "\"AES256\" or"),
            (json!({"encryption": {"kms_key": ""}}), "\"AES256\" or"),
            (
                json!({"encryption": {"kms_key": "a", "type": "KMS"}}),
                "\"AES256\" or",
            ),
            (
                json!({"policy": {"Version": "2012-10-17"}}),
                "an object with `Statement`",
            ),
            (
                json!({"policy": {"Statement": ["x".repeat(11_000)]}}),
                "10240 bytes",
            ),
            (json!({"resource_tags": {"aws:x": "1"}}), "AWS's own"),
            (json!({"resource_tags": {"": "1"}}), "is no key"),
            (
                json!({"resource_tags": {"k": "x".repeat(257)}}),
                "256 characters",
            ),
            (json!({"resource_tags": keys}), "at most 50"),
        ];
        for (value, expected) in cases {
            let error = parse(value.clone()).unwrap_err();
            assert!(error.contains(expected), "{value}: {error}");
            assert!(error.starts_with("`repository"), "{error}");
        }
    }

    #[test]
    fn what_a_rule_names_goes_before_the_template() {
        let rule = parse(json!({"scan_on_push": true, "resource_tags": {"a": "rule"}})).unwrap();
        let template = RepositorySettings {
            scan_on_push: Some(false),
            encryption: encryption(json!({"kms_key": "k"})).ok(),
            resource_tags: [("a", "template"), ("b", "template")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..RepositorySettings::default()
        };
        let both = rule.settings.or(template.clone());
        assert_eq!(both.scan_on_push, Some(true));
        assert_eq!(both.encryption, template.encryption);
        assert_eq!(
            (
                both.resource_tags["a"].as_str(),
                both.resource_tags["b"].as_str()
            ),
            ("rule", "template")
        );
    }
}
