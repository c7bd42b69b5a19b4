//! The ECR API for repositories themselves: whether one is there, how it is set up, and changes to that.
//!
//! Nothing is decided here.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use aws_config::{Region, SdkConfig};
use aws_sdk_ecr::Client;
use aws_sdk_ecr::types::{
    EncryptionConfiguration, EncryptionType, ImageScanningConfiguration, ImageTagMutability,
    ImageTagMutabilityExclusionFilter, ImageTagMutabilityExclusionFilterType, RctAppliedFor,
    RepositoryCreationTemplate, Tag,
};
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use serde_json::Value;

use super::error::api_error;
use crate::error::{Error, Kind, Result};
use crate::rules::repository::{Encryption, RepositorySettings, TagMutability};

/// So many pages of creation templates are read. A registry has at most a hundred. (ECR user guide, "Service quotas")
const TEMPLATE_PAGES_LIMIT: usize = 10;

/// Where a repository is, as far as a destination says so.
#[derive(Clone, Debug)]
pub struct Address {
    /// The registry's Region, if it is named.
    pub region: Option<String>,
    /// The registry's account, if it is named.
    pub account: Option<String>,
    /// The repository's name.
    pub repository: String,
}

/// How a repository is set up, as far as one call tells.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its ARN.
    pub arn: String,
    /// Whether an image is scanned when it is pushed.
    pub scan_on_push: bool,
    /// Whether tags may move.
    pub tag_mutability: TagMutability,
    /// How images are encrypted.
    pub encryption: Encryption,
}

/// A change of one setting.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// `PutImageScanningConfiguration`
    ScanOnPush(bool),
    /// `PutImageTagMutability`
    TagMutability(TagMutability),
    /// `PutLifecyclePolicy`
    LifecyclePolicy(Value),
    /// `SetRepositoryPolicy`
    Policy(Value),
    /// `TagResource`
    ResourceTags(BTreeMap<String, String>),
}

/// The names are those of the rules; policies are not written out.
impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::ScanOnPush(scan) => write!(formatter, "scan_on_push: {scan}"),
            Change::TagMutability(mutability) => {
                write!(formatter, "tag_mutability: {}", mutability.mode)?;
                match mutability.exclusions.is_empty() {
                    true => Ok(()),
                    false => write!(formatter, " ({})", mutability.exclusions.join(", ")),
                }
            }
            Change::LifecyclePolicy(_) => formatter.write_str("lifecycle_policy"),
            Change::Policy(_) => formatter.write_str("policy"),
            Change::ResourceTags(tags) => {
                let tags: Vec<String> = tags
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect();
                write!(formatter, "resource_tags: {}", tags.join(", "))
            }
        }
    }
}

/// The ECR API in every Region that a destination names.
pub struct RepositoryApi {
    configuration: SdkConfig,
    /// By Region, where it is not the function's own.
    clients: Mutex<HashMap<Option<String>, Client>>,
}

impl RepositoryApi {
    /// Makes no call yet.
    pub fn new(configuration: &SdkConfig) -> Self {
        RepositoryApi {
            configuration: configuration.clone(),
            clients: Mutex::default(),
        }
    }

    pub(super) fn client(&self, at: &Address) -> Client {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let client = clients.entry(at.region.clone()).or_insert_with(|| {
            let mut configuration = aws_sdk_ecr::config::Builder::from(&self.configuration);
            if let Some(region) = &at.region {
                configuration = configuration.region(Region::new(region.clone()));
            }
            Client::from_conf(configuration.build())
        });
        client.clone()
    }

    /// The repository, or `None` if it does not exist. `DescribeRepositories`
    ///
    /// # Errors
    /// [`Error::Api`]
    pub async fn find(&self, at: &Address) -> Result<Option<Found>> {
        let request = self
            .client(at)
            .describe_repositories()
            .set_registry_id(at.account.clone())
            .repository_names(&at.repository);
        // Boxed, here and below, as the SDK's futures are large.
        let found = match Box::pin(request.send()).await {
            Ok(output) => output.repositories.unwrap_or_default().into_iter().next(),
            Err(error) if error.code() == Some("RepositoryNotFoundException") => return Ok(None),
            Err(error) => return Err(refused("DescribeRepositories", at, &error)),
        };
        let Some(found) = found else {
            return Ok(None);
        };
        let encryption = found.encryption_configuration;
        Ok(Some(Found {
            arn: found.repository_arn.unwrap_or_default(),
            scan_on_push: found
                .image_scanning_configuration
                .is_some_and(|scanning| scanning.scan_on_push),
            tag_mutability: tag_mutability(
                found.image_tag_mutability,
                found.image_tag_mutability_exclusion_filters,
            )
            .unwrap_or_else(|| TagMutability {
                mode: "MUTABLE".to_owned(),
                exclusions: Vec::new(),
            }),
            encryption: Encryption {
                kind: encryption.as_ref().map_or_else(
                    || "AES256".to_owned(),
                    |encryption| encryption.encryption_type.as_str().to_owned(),
                ),
                kms_key: encryption.and_then(|encryption| encryption.kms_key),
            },
        }))
    }

    /// The lifecycle policy. `GetLifecyclePolicy`
    ///
    /// # Errors
    /// [`Error::Api`]
    pub async fn lifecycle_policy(&self, at: &Address) -> Result<Option<Value>> {
        let request = self
            .client(at)
            .get_lifecycle_policy()
            .set_registry_id(at.account.clone())
            .repository_name(&at.repository);
        match Box::pin(request.send()).await {
            Ok(output) => Ok(output.lifecycle_policy_text.map(|text| read(&text))),
            Err(error) if error.code() == Some("LifecyclePolicyNotFoundException") => Ok(None),
            Err(error) => Err(refused("GetLifecyclePolicy", at, &error)),
        }
    }

    /// The repository policy. `GetRepositoryPolicy`
    ///
    /// # Errors
    /// [`Error::Api`]
    pub async fn policy(&self, at: &Address) -> Result<Option<Value>> {
        let request = self
            .client(at)
            .get_repository_policy()
            .set_registry_id(at.account.clone())
            .repository_name(&at.repository);
        match Box::pin(request.send()).await {
            Ok(output) => Ok(output.policy_text.map(|text| read(&text))),
            Err(error) if error.code() == Some("RepositoryPolicyNotFoundException") => Ok(None),
            Err(error) => Err(refused("GetRepositoryPolicy", at, &error)),
        }
    }

    /// The resource tags. `ListTagsForResource`
    ///
    /// # Errors
    /// [`Error::Api`]
    pub async fn resource_tags(
        &self,
        at: &Address,
        found: &Found,
    ) -> Result<BTreeMap<String, String>> {
        let request = self
            .client(at)
            .list_tags_for_resource()
            .resource_arn(&found.arn);
        let output = Box::pin(request.send())
            .await
            .map_err(|error| refused("ListTagsForResource", at, &error))?;
        Ok(resource_tags(output.tags))
    }

    /// Creates the repository with those settings that a creation takes. `None` if it exists by now. `CreateRepository`
    ///
    /// # Errors
    /// [`Error::Api`]
    pub async fn create(
        &self,
        at: &Address,
        settings: &RepositorySettings,
    ) -> Result<Option<Created>> {
        let (mode, exclusions) = match &settings.tag_mutability {
            Some(mutability) => (
                Some(ImageTagMutability::from(mutability.mode.as_str())),
                exclusion_filters(mutability)?,
            ),
            None => (None, None),
        };
        let encryption = match &settings.encryption {
            Some(encryption) => {
                let configuration = EncryptionConfiguration::builder()
                    .encryption_type(EncryptionType::from(encryption.kind.as_str()))
                    .set_kms_key(encryption.kms_key.clone());
                Some(configuration.build().map_err(unbuilt)?)
            }
            None => None,
        };
        let request = self
            .client(at)
            .create_repository()
            .set_registry_id(at.account.clone())
            .repository_name(&at.repository)
            .set_image_scanning_configuration(settings.scan_on_push.map(scanning))
            .set_image_tag_mutability(mode)
            .set_image_tag_mutability_exclusion_filters(exclusions)
            .set_encryption_configuration(encryption)
            .set_tags(tags(&settings.resource_tags)?);
        match Box::pin(request.send()).await {
            Ok(output) => Ok(Some(Created {
                arn: output
                    .repository
                    .and_then(|repository| repository.repository_arn)
                    .unwrap_or_default(),
            })),
            Err(error) if error.code() == Some("RepositoryAlreadyExistsException") => Ok(None),
            Err(error) => Err(refused("CreateRepository", at, &error)),
        }
    }

    /// Changes one setting of the repository whose ARN is `arn`.
    ///
    /// # Errors
    /// [`Error::Api`]
    pub async fn change(&self, at: &Address, arn: &str, change: &Change) -> Result<()> {
        let client = self.client(at);
        match change {
            Change::ScanOnPush(scan) => {
                let request = client
                    .put_image_scanning_configuration()
                    .set_registry_id(at.account.clone())
                    .repository_name(&at.repository)
                    .image_scanning_configuration(scanning(*scan));
                let result = Box::pin(request.send()).await;
                done("PutImageScanningConfiguration", at, result)
            }
            Change::TagMutability(mutability) => {
                let request = client
                    .put_image_tag_mutability()
                    .set_registry_id(at.account.clone())
                    .repository_name(&at.repository)
                    .image_tag_mutability(ImageTagMutability::from(mutability.mode.as_str()))
                    .set_image_tag_mutability_exclusion_filters(exclusion_filters(mutability)?);
                let result = Box::pin(request.send()).await;
                done("PutImageTagMutability", at, result)
            }
            Change::LifecyclePolicy(policy) => {
                let request = client
                    .put_lifecycle_policy()
                    .set_registry_id(at.account.clone())
                    .repository_name(&at.repository)
                    .lifecycle_policy_text(policy.to_string());
                let result = Box::pin(request.send()).await;
                done("PutLifecyclePolicy", at, result)
            }
            Change::Policy(policy) => {
                let request = client
                    .set_repository_policy()
                    .set_registry_id(at.account.clone())
                    .repository_name(&at.repository)
                    .policy_text(policy.to_string());
                let result = Box::pin(request.send()).await;
                done("SetRepositoryPolicy", at, result)
            }
            Change::ResourceTags(added) => {
                let request = client
                    .tag_resource()
                    .resource_arn(arn)
                    .set_tags(tags(added)?);
                let result = Box::pin(request.send()).await;
                done("TagResource", at, result)
            }
        }
    }

    /// What ECR itself would create the repository with at a push: the settings of the creation template with the longest prefix
    /// that it has, or of `ROOT`; nothing if there is none, or if the registry is another account's, whose templates can't be read.
    /// `DescribeRepositoryCreationTemplates` (ECR user guide, "Repository creation templates")
    ///
    /// # Errors
    /// [`Error::Api`]
    pub async fn template(&self, at: &Address) -> Result<Option<RepositorySettings>> {
        let client = self.client(at);
        let mut best: Option<RepositoryCreationTemplate> = None;
        let mut next_token = None;
        for _ in 0..TEMPLATE_PAGES_LIMIT {
            let request = client
                .describe_repository_creation_templates()
                .set_next_token(next_token);
            let page = Box::pin(request.send())
                .await
                .map_err(|error| refused("DescribeRepositoryCreationTemplates", at, &error))?;
            if at.account.is_some() && page.registry_id.is_some() && at.account != page.registry_id
            {
                return Ok(None);
            }
            let templates = page.repository_creation_templates.unwrap_or_default();
            best = best
                .into_iter()
                .chain(templates)
                .filter(|template| rank(template, &at.repository).is_some())
                .max_by_key(|template| rank(template, &at.repository));
            next_token = page.next_token;
            if next_token.is_none() {
                break;
            }
        }
        Ok(best.map(settings))
    }
}

/// A repository that was created.
#[derive(Debug)]
pub struct Created {
    /// Its ARN.
    pub arn: String,
}

/// How well a template fits: by the length of its prefix, `ROOT` last; `None` if it is not for this repository, or not for those
/// that ECR creates at a push. A prefix is whole components of a name. (ECR API reference, `CreateRepositoryCreationTemplate`)
fn rank(template: &RepositoryCreationTemplate, repository: &str) -> Option<usize> {
    let is_for_pushes = template
        .applied_for
        .as_ref()
        .is_some_and(|applied| applied.contains(&RctAppliedFor::CreateOnPush));
    let prefix = template.prefix.as_deref().filter(|_| is_for_pushes)?;
    if prefix == "ROOT" {
        return Some(0);
    }
    let prefix = prefix.trim_end_matches('/');
    let rest = repository.strip_prefix(prefix)?;
    rest.starts_with('/').then_some(prefix.len())
}

fn settings(template: RepositoryCreationTemplate) -> RepositorySettings {
    let policy = |text: Option<String>| {
        let text = text.filter(|text| !text.trim().is_empty());
        text.map(|text| read(&text))
    };
    RepositorySettings {
        scan_on_push: None,
        tag_mutability: tag_mutability(
            template.image_tag_mutability,
            template.image_tag_mutability_exclusion_filters,
        ),
        lifecycle_policy: policy(template.lifecycle_policy),
        encryption: template
            .encryption_configuration
            .map(|encryption| Encryption {
                kind: encryption.encryption_type.as_str().to_owned(),
                kms_key: encryption.kms_key.filter(|key| !key.is_empty()),
            }),
        policy: policy(template.repository_policy),
        resource_tags: resource_tags(template.resource_tags),
    }
}

/// A policy as a value. A text that is no JSON is one too, which differs from every policy.
fn read(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

fn tag_mutability(
    mode: Option<ImageTagMutability>,
    filters: Option<Vec<ImageTagMutabilityExclusionFilter>>,
) -> Option<TagMutability> {
    let exclusions = filters.unwrap_or_default().into_iter();
    mode.map(|mode| TagMutability {
        mode: mode.as_str().to_owned(),
        exclusions: exclusions.map(|filter| filter.filter).collect(),
    })
}

fn resource_tags(tags: Option<Vec<Tag>>) -> BTreeMap<String, String> {
    let tags = tags.unwrap_or_default().into_iter();
    tags.map(|tag| (tag.key, tag.value)).collect()
}

fn scanning(scan_on_push: bool) -> ImageScanningConfiguration {
    ImageScanningConfiguration::builder()
        .scan_on_push(scan_on_push)
        .build()
}

fn exclusion_filters(
    mutability: &TagMutability,
) -> Result<Option<Vec<ImageTagMutabilityExclusionFilter>>> {
    let filter = |pattern: &String| {
        ImageTagMutabilityExclusionFilter::builder()
            .filter_type(ImageTagMutabilityExclusionFilterType::Wildcard)
            .filter(pattern)
            .build()
            .map_err(unbuilt)
    };
    let filters: Vec<_> = mutability
        .exclusions
        .iter()
        .map(filter)
        .collect::<Result<_>>()?;
    Ok((!filters.is_empty()).then_some(filters))
}

fn tags(tags: &BTreeMap<String, String>) -> Result<Option<Vec<Tag>>> {
    let tag = |(key, value): (&String, &String)| {
        let tag = Tag::builder().key(key).value(value);
        tag.build().map_err(unbuilt)
    };
    let tags: Vec<Tag> = tags.iter().map(tag).collect::<Result<_>>()?;
    Ok((!tags.is_empty()).then_some(tags))
}

/// Every field that the SDK asks for is given above.
fn unbuilt(error: impl ToString) -> Error {
    Error::Internal(error.to_string())
}

fn done<T, E>(
    operation: &'static str,
    at: &Address,
    result: std::result::Result<T, SdkError<E>>,
) -> Result<()>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    result
        .map(|_| ())
        .map_err(|error| refused(operation, at, &error))
}

pub(super) fn refused<E>(operation: &'static str, at: &Address, error: &SdkError<E>) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let is_named = at.account.is_some();
    let advice = |kind| match (kind, operation, is_named) {
        (Kind::Denied, "CreateRepository", false) => {
            "allow the function's role ecr:CreateRepository (and ecr:TagResource for resource tags, kms:CreateGrant and kms:DescribeKey for a key) on the repository, or create it with `aws ecr create-repository`"
        }
        (Kind::Denied, "CreateRepository", true) => {
            "the destination names its registry: another account's repositories are created by that account, with `aws ecr create-repository`; for your own, allow the function's role ecr:CreateRepository"
        }
        (Kind::Denied, _, false) => {
            "allow the function's role this action of ecr on the repository"
        }
        (Kind::Denied, _, true) => {
            "the destination names its registry: the settings of another account's repositories are that account's to make; for your own, allow the function's role this action of ecr"
        }
        _ => "",
    };
    let subject = match (&at.account, &at.region) {
        (Some(account), Some(region)) => format!("{} in {account}, {region}", at.repository),
        _ => at.repository.clone(),
    };
    api_error(operation, &subject, error, advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(prefix: &str, applied_for: RctAppliedFor) -> RepositoryCreationTemplate {
        RepositoryCreationTemplate::builder()
            .prefix(prefix)
            .applied_for(applied_for)
            .build()
    }

    #[test]
    fn the_longest_prefix_of_whole_components_fits_best_and_root_least() {
        let rank =
            |prefix, repository| rank(&template(prefix, RctAppliedFor::CreateOnPush), repository);
        assert_eq!(rank("prod/team", "prod/team/api"), Some(9));
        assert_eq!(rank("prod", "prod/team/api"), Some(4));
        assert_eq!(rank("ROOT", "prod/team/api"), Some(0));
        for (prefix, repository) in [("pro", "prod/api"), ("prod", "prod"), ("test", "prod/api")] {
            assert_eq!(rank(prefix, repository), None, "{prefix} {repository}");
        }
        let other = template("prod", RctAppliedFor::PullThroughCache);
        assert_eq!(super::rank(&other, "prod/api"), None);
    }
}
