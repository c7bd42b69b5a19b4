//! The calls of the ECR API about repositories themselves, on the repositories of the registries that are served.
//!
//! Names, shapes and texts are those of the ECR API reference. As the real service, it writes policies in its own way, and gives
//! an account's root for its number.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{State, denial, denial_because, images, refusal, success};
use crate::ecr::{Ecr, Settings};
use crate::function::ACCOUNT;
use crate::http::Reply;

/// The one about rules of the pull-through cache, which belong to the registry.
pub(super) const CACHE_RULES: &str = "DescribePullThroughCacheRules";

/// Every operation here.
pub(super) const OPERATIONS: [&str; 14] = [
    "BatchDeleteImage",
    "CreateRepository",
    "DescribeImages",
    CACHE_RULES,
    "DescribeRepositories",
    "DescribeRepositoryCreationTemplates",
    "GetLifecyclePolicy",
    "GetRepositoryPolicy",
    "ListTagsForResource",
    "PutImageScanningConfiguration",
    "PutImageTagMutability",
    "PutLifecyclePolicy",
    "SetRepositoryPolicy",
    "TagResource",
];

/// Those that are about a registry and name no repository.
const OF_THE_REGISTRY: [&str; 2] = ["DescribeRepositoryCreationTemplates", CACHE_RULES];

/// An error: its code and its message.
type Refused = (&'static str, String);

/// What is created behind the caller's back, and what ECR creates repositories with.
#[derive(Default)]
pub(super) struct Scripts {
    /// By prefix; `ROOT` for the rest.
    pub(super) templates: Vec<Value>,
    /// Of the pull-through cache.
    pub(super) cache_rules: Vec<Value>,
    /// Repositories that somebody else creates right before the caller does.
    pub(super) raced: Vec<String>,
    /// Registries of other accounts that let the caller create repositories.
    pub(super) open_accounts: Vec<String>,
}

pub(super) fn answer(
    operation: &'static str,
    region: &str,
    input: &Value,
    state: &mut State,
) -> Reply {
    let call = Call::new(operation, region, input);
    match call.and_then(|call| call.answer(state)) {
        Ok(output) => success(&output),
        Err((code, message)) => refusal(code, &message),
    }
}

struct Call<'a> {
    operation: &'static str,
    region: &'a str,
    account: String,
    name: String,
    input: &'a Value,
}

impl<'a> Call<'a> {
    fn new(operation: &'static str, region: &'a str, input: &'a Value) -> Result<Self, Refused> {
        let (account, name) = match input["resourceArn"].as_str() {
            Some(arn) => {
                let parts: Vec<&str> = arn.splitn(6, ':').collect();
                let is_arn = parts.len() == 6 && parts[3] == region;
                let name = is_arn
                    .then(|| parts[5].strip_prefix("repository/"))
                    .flatten();
                let name = name.ok_or_else(|| invalid("resourceArn", arn))?;
                (parts[4].to_owned(), name.to_owned())
            }
            None => {
                let account = input["registryId"].as_str().unwrap_or(ACCOUNT);
                let name = match &input["repositoryNames"] {
                    Value::Array(names) if names.len() == 1 => &names[0],
                    _ => &input["repositoryName"],
                };
                let name = name.as_str().unwrap_or_default();
                (account.to_owned(), name.to_owned())
            }
        };
        if name.is_empty() && !OF_THE_REGISTRY.contains(&operation) {
            return Err(invalid("repositoryName", ""));
        }
        Ok(Call {
            operation,
            region,
            account,
            name,
            input,
        })
    }

    fn arn(&self) -> String {
        format!(
            "arn:aws:ecr:{}:{}:repository/{}",
            self.region, self.account, self.name
        )
    }

    fn answer(&self, state: &mut State) -> Result<Value, Refused> {
        let action = format!("ecr:{}", self.operation);
        let resource = match OF_THE_REGISTRY.contains(&self.operation) {
            true => "*".to_owned(),
            false => self.arn(),
        };
        let is_open = self.operation == "CreateRepository"
            && state.scripts.open_accounts.contains(&self.account);
        if self.account != ACCOUNT && !is_open {
            let reason = format!("because no resource-based policy allows the {action} action");
            return Err((
                "AccessDeniedException",
                denial_because(&action, &resource, &reason),
            ));
        }
        if state.denied.contains(self.operation) {
            return Err(("AccessDeniedException", denial(&action, &resource)));
        }
        match self.operation {
            "DescribeRepositoryCreationTemplates" => {
                return Ok(self.page("repositoryCreationTemplates", &state.scripts.templates));
            }
            CACHE_RULES => {
                return Ok(self.page("pullThroughCacheRules", &state.scripts.cache_rules));
            }
            _ => {}
        }
        let key = (self.region.to_owned(), self.account.clone());
        let registry = state.registries.get(&key).cloned();
        let registry = registry.unwrap_or_else(|| panic!("no registry is served for {key:?}"));
        if self.operation == "CreateRepository" {
            if let Some(raced) = state
                .scripts
                .raced
                .iter()
                .position(|name| *name == self.name)
            {
                state.scripts.raced.remove(raced);
                registry.create_repository(&self.name);
            }
            return self.create(&registry);
        }
        let settings = registry.settings(&self.name).ok_or_else(|| {
            let message = format!(
                "The repository with name '{}' does not exist in the registry with id '{}'",
                self.name, self.account
            );
            ("RepositoryNotFoundException", message)
        })?;
        match self.operation {
            "DescribeImages" => return Ok(images::describe(&registry, &self.name, self.input)),
            "BatchDeleteImage" => return Ok(images::delete(&registry, &self.name, self.input)),
            _ => {}
        }
        self.read(&settings)
            .unwrap_or_else(|| self.write(&registry, settings))
    }

    /// One entry on each page, so that a caller has to read on.
    fn page(&self, field: &str, entries: &[Value]) -> Value {
        let at: usize = self.input["nextToken"]
            .as_str()
            .map_or(0, |token| token.parse().expect("our own token"));
        let page: Vec<Value> = entries.iter().skip(at).take(1).cloned().collect();
        let mut output = json!({"registryId": self.account, field: page});
        if at + 1 < entries.len() {
            output["nextToken"] = json!((at + 1).to_string());
        }
        output
    }

    fn create(&self, registry: &Ecr) -> Result<Value, Refused> {
        if registry.settings(&self.name).is_some() {
            let message = format!(
                "The repository with name '{}' already exists in the registry with id '{}'",
                self.name, self.account
            );
            return Err(("RepositoryAlreadyExistsException", message));
        }
        let mut settings = Settings {
            resource_tags: tags(&self.input["tags"])?,
            ..Settings::default()
        };
        if let Some(scan) = self.input["imageScanningConfiguration"]["scanOnPush"].as_bool() {
            settings.scan_on_push = scan;
        }
        if !self.input["imageTagMutability"].is_null() {
            (settings.tag_mutability, settings.exclusions) = mutability(self.input)?;
        }
        if let Value::Object(encryption) = &self.input["encryptionConfiguration"] {
            let kind = encryption["encryptionType"].as_str().unwrap_or_default();
            let key = encryption.get("kmsKey").and_then(Value::as_str);
            if !["AES256", "KMS", "KMS_DSSE"].contains(&kind) || (kind == "AES256" && key.is_some())
            {
                return Err(invalid("encryptionConfiguration", kind));
            }
            settings.encryption = kind.to_owned();
            settings.kms_key = (kind != "AES256").then(|| match key {
                Some(arn) if arn.starts_with("arn:") => arn.to_owned(),
                Some(id) => format!("arn:aws:kms:{}:{}:key/{id}", self.region, self.account),
                None => format!("arn:aws:kms:{}:{}:key/aws-ecr", self.region, self.account),
            });
        }
        registry.create_repository(&self.name);
        registry.change_settings(&self.name, |it| *it = settings.clone());
        Ok(json!({"repository": self.described(&settings)}))
    }

    /// The answer of an operation that only reads.
    fn read(&self, settings: &Settings) -> Option<Result<Value, Refused>> {
        let answer = match self.operation {
            "DescribeRepositories" => Ok(json!({"repositories": [self.described(settings)]})),
            "GetLifecyclePolicy" => self.policy(
                ("lifecyclePolicyText", settings.lifecycle_policy.as_ref()),
                ("LifecyclePolicyNotFoundException", "Lifecycle policy"),
            ),
            "GetRepositoryPolicy" => self.policy(
                ("policyText", settings.policy.as_ref()),
                ("RepositoryPolicyNotFoundException", "Repository policy"),
            ),
            "ListTagsForResource" => {
                let tags = settings.resource_tags.iter();
                let tags: Vec<Value> = tags
                    .map(|(key, value)| json!({"Key": key, "Value": value}))
                    .collect();
                Ok(json!({"tags": tags}))
            }
            _ => return None,
        };
        Some(answer)
    }

    fn policy(
        &self,
        (field, policy): (&str, Option<&Value>),
        (code, what): (&'static str, &str),
    ) -> Result<Value, Refused> {
        let policy = policy.ok_or_else(|| {
            let message = format!(
                "{what} does not exist for the repository with name '{}' in the registry with id '{}'",
                self.name, self.account
            );
            (code, message)
        })?;
        let text = serde_json::to_string_pretty(&rewritten(policy)).expect("JSON");
        let mut output = json!({"registryId": self.account, "repositoryName": self.name});
        output[field] = json!(text);
        Ok(output)
    }

    fn write(&self, registry: &Ecr, before: Settings) -> Result<Value, Refused> {
        let mut settings = before;
        let input = self.input;
        match self.operation {
            "PutImageScanningConfiguration" => {
                let scan = &input["imageScanningConfiguration"]["scanOnPush"];
                settings.scan_on_push = scan
                    .as_bool()
                    .ok_or_else(|| invalid("imageScanningConfiguration", ""))?;
            }
            "PutImageTagMutability" => {
                (settings.tag_mutability, settings.exclusions) = mutability(input)?
            }
            "PutLifecyclePolicy" => {
                settings.lifecycle_policy = Some(lifecycle_policy(&input["lifecyclePolicyText"])?)
            }
            "SetRepositoryPolicy" => {
                let text = input["policyText"].as_str().unwrap_or_default();
                let policy: Value = serde_json::from_str(text).unwrap_or_default();
                if policy["Statement"].as_array().is_none_or(Vec::is_empty) || text.len() > 10_240 {
                    return Err(invalid("PolicyText", "Invalid repository policy provided"));
                }
                settings.policy = Some(policy);
            }
            "TagResource" => settings.resource_tags.extend(tags(&input["tags"])?),
            other => panic!("{other} is no operation"),
        }
        registry.change_settings(&self.name, |it| *it = settings);
        Ok(json!({"registryId": self.account, "repositoryName": self.name}))
    }

    fn described(&self, settings: &Settings) -> Value {
        let filters = settings.exclusions.iter();
        let filters: Vec<Value> = filters
            .map(|filter| json!({"filterType": "WILDCARD", "filter": filter}))
            .collect();
        let mut described = json!({
            "repositoryArn": self.arn(),
            "registryId": self.account,
            "repositoryName": self.name,
            "repositoryUri": format!("{}.dkr.ecr.{}.amazonaws.com/{}", self.account, self.region, self.name),
            "createdAt": 1_563_223_656.0,
            "imageTagMutability": settings.tag_mutability,
            "imageScanningConfiguration": {"scanOnPush": settings.scan_on_push},
            "encryptionConfiguration": {"encryptionType": settings.encryption},
        });
        if !filters.is_empty() {
            described["imageTagMutabilityExclusionFilters"] = json!(filters);
        }
        if let Some(key) = &settings.kms_key {
            described["encryptionConfiguration"]["kmsKey"] = json!(key);
        }
        described
    }
}

fn invalid(parameter: &str, value: &str) -> Refused {
    let message =
        format!("Invalid parameter at '{parameter}' failed to satisfy constraint: '{value}'");
    ("InvalidParameterException", message)
}

fn mutability(input: &Value) -> Result<(String, Vec<String>), Refused> {
    let mode = input["imageTagMutability"].as_str().unwrap_or_default();
    let no_filters = Vec::new();
    let filters = input["imageTagMutabilityExclusionFilters"]
        .as_array()
        .unwrap_or(&no_filters);
    let takes_filters = match mode {
        "MUTABLE" | "IMMUTABLE" => false,
        "MUTABLE_WITH_EXCLUSION" | "IMMUTABLE_WITH_EXCLUSION" => true,
        other => return Err(invalid("imageTagMutability", other)),
    };
    let is_filter =
        |filter: &Value| filter["filterType"] == "WILDCARD" && filter["filter"].is_string();
    if takes_filters == filters.is_empty() || filters.len() > 5 || !filters.iter().all(is_filter) {
        return Err(invalid("imageTagMutabilityExclusionFilters", mode));
    }
    let patterns = filters
        .iter()
        .map(|filter| filter["filter"].as_str().unwrap_or_default().to_owned());
    Ok((mode.to_owned(), patterns.collect()))
}

fn lifecycle_policy(text: &Value) -> Result<Value, Refused> {
    let text = text.as_str().unwrap_or_default();
    let policy: Value = serde_json::from_str(text).unwrap_or_default();
    let is_rule = |rule: &Value| {
        let selection = &rule["selection"];
        let is_tagged = selection["tagStatus"] == "tagged";
        let names_tags =
            !selection["tagPatternList"].is_null() || !selection["tagPrefixList"].is_null();
        rule["rulePriority"]
            .as_u64()
            .is_some_and(|priority| priority > 0)
            && selection["countNumber"]
                .as_u64()
                .is_some_and(|count| count > 0)
            && is_tagged == names_tags
            && (selection["countType"] == "imageCountMoreThan") == selection["countUnit"].is_null()
            && rule["action"]["type"] == "expire"
    };
    let rules = policy["rules"].as_array();
    let is_valid = (100..=30_720).contains(&text.len())
        && rules.is_some_and(|rules| !rules.is_empty() && rules.iter().all(is_rule));
    match is_valid {
        true => Ok(policy),
        false => Err(invalid(
            "LifecyclePolicyText",
            "Lifecycle policy validation failure",
        )),
    }
}

fn tags(tags: &Value) -> Result<BTreeMap<String, String>, Refused> {
    let no_tags = Vec::new();
    let mut read = BTreeMap::new();
    for tag in tags.as_array().unwrap_or(&no_tags) {
        let (Some(key), Some(value)) = (tag["Key"].as_str(), tag["Value"].as_str()) else {
            return Err(("InvalidTagParameterException", "Invalid tag".to_owned()));
        };
        read.insert(key.to_owned(), value.to_owned());
    }
    Ok(read)
}

/// A policy as the service writes it: lists of one as their entry, rules and statements aside, and accounts by their root.
fn rewritten(value: &Value) -> Value {
    match value {
        Value::Array(entries) => Value::Array(entries.iter().map(rewritten).collect()),
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| {
                let value = match value {
                    Value::Array(entries)
                        if entries.len() == 1
                            && ["Action", "Resource", "AWS"].contains(&name.as_str()) =>
                    {
                        rewritten(&entries[0])
                    }
                    other => rewritten(other),
                };
                (name.clone(), value)
            };
            Value::Object(fields.iter().map(field).collect())
        }
        Value::String(text)
            if text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            json!(format!("arn:aws:iam::{text}:root"))
        }
        other => other.clone(),
    }
}
