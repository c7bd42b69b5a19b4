//! The ECR API for the rules of a registry's pull-through cache.
//!
//! Nothing is decided here.

use super::error::api_error;
use super::repositories::{Address, RepositoryApi};
use crate::error::{Kind, Result};

/// So many pages of rules are read. A registry has at most fifty rules, and a page holds a hundred unless fewer are asked for.
/// (ECR user guide, "Service quotas"; ECR API reference, `DescribePullThroughCacheRules`)
const PAGES_LIMIT: usize = 10;

/// A rule by which ECR fills repositories itself.
#[derive(Clone, Debug)]
pub struct CacheRule {
    /// What the names of its repositories begin with, as ECR shows it: with or without a slash at the end, or `ROOT`.
    pub prefix: String,
    /// The host of the registry from which they are filled.
    pub upstream: String,
}

impl RepositoryApi {
    /// All rules of the registry that an address names. `DescribePullThroughCacheRules`
    ///
    /// # Errors
    /// [`Error::Api`](crate::error::Error::Api)
    pub async fn cache_rules(&self, at: &Address) -> Result<Vec<CacheRule>> {
        const OPERATION: &str = "DescribePullThroughCacheRules";
        let (mut rules, mut next) = (Vec::new(), None);
        for _ in 0..PAGES_LIMIT {
            let request = self
                .client(at)
                .describe_pull_through_cache_rules()
                .set_registry_id(at.account.clone())
                .set_next_token(next);
            // Boxed, as the SDK's futures are large.
            let output = Box::pin(request.send()).await.map_err(|error| {
                let subject = at.account.as_deref().unwrap_or("the function's account");
                api_error(OPERATION, subject, &error, |kind| match kind {
                    Kind::Denied => {
                        "allow the function's role ecr:DescribePullThroughCacheRules on *"
                    }
                    _ => "",
                })
            })?;
            let page = output.pull_through_cache_rules.unwrap_or_default();
            rules.extend(page.into_iter().filter_map(|rule| {
                Some(CacheRule {
                    prefix: rule.ecr_repository_prefix?,
                    upstream: rule.upstream_registry_url.unwrap_or_default(),
                })
            }));
            next = output.next_token;
            if next.is_none() {
                break;
            }
        }
        Ok(rules)
    }
}
