//! Which repositories of a destination's registry ECR fills itself. Its registry API does not tell, so the ECR API is asked for the
//! rules of the registry's pull-through cache: only where something is to be pushed, and not again for some minutes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use crate::aws::pull_through_cache::CacheRule;
use crate::aws::repositories::{Address, RepositoryApi};
use crate::endpoint::{ecr_account, ecr_region};
use crate::error::{Error, Kind};
use crate::kept::KeptBy;
use crate::registry::{Upstream, UpstreamLook};

/// How long it is kept that a registry has no rules, or that the right to look is missing.
const LIFETIME: Duration = Duration::from_secs(10 * 60);

/// How long anything else is kept: whoever deletes a rule, as the error advises, need not wait long for it to be seen.
const SHORT_LIFETIME: Duration = Duration::from_secs(60);

/// How long an answer is waited for. Without one the copy is tried.
const PATIENCE: Duration = Duration::from_secs(3);

/// A registry, by its Region and account; neither where it is the function's own.
type Key = (Option<String>, Option<String>);

/// The rules of a registry; none if they could not be learnt.
type Rules = Arc<Vec<CacheRule>>;

/// Asks ECR, and keeps its answers. Lives as long as the process.
pub(super) struct CacheRules {
    api: Arc<RepositoryApi>,
    kept: KeptBy<Key, Rules>,
}

impl CacheRules {
    /// Makes no call yet.
    pub(super) fn new(api: Arc<RepositoryApi>) -> Self {
        CacheRules {
            api,
            kept: KeptBy::default(),
        }
    }

    /// Answers for the repository `name` on `host`. A host that is not one of ECR's stands in for the caller's own registry.
    pub(super) fn of(&self, host: &str, name: &str) -> UpstreamLook {
        let at = Arc::new(Address {
            region: ecr_region(host).map(str::to_owned),
            account: ecr_account(host).map(str::to_owned),
            repository: name.to_owned(),
        });
        let rules = self.kept.of((at.region.clone(), at.account.clone()));
        let api = self.api.clone();
        Arc::new(move |freshness| {
            let (api, at, rules) = (api.clone(), at.clone(), rules.clone());
            async move {
                let look = async || Ok(look(&api, &at).await);
                let rules = rules.get(freshness, look).await.ok()?;
                upstream(&rules, &at.repository)
            }
            .boxed()
        })
    }
}

/// The rules of a registry, and how long they may be kept.
async fn look(api: &RepositoryApi, at: &Address) -> (Rules, Duration) {
    let found = tokio::time::timeout(PATIENCE, api.cache_rules(at)).await;
    let (rules, lifetime) = match found.unwrap_or_else(|_| Err(too_late())) {
        Ok(rules) if rules.is_empty() => (rules, LIFETIME),
        Ok(rules) => (rules, SHORT_LIFETIME),
        Err(error) => {
            tracing::info!(%error, "whether ECR fills the repository itself is not known: the copy is tried");
            let lifetime = match error.kind() {
                Kind::Denied => LIFETIME,
                _ => SHORT_LIFETIME,
            };
            (Vec::new(), lifetime)
        }
    };
    (Arc::new(rules), lifetime)
}

/// What ECR fills a repository from: by the rule with the longest prefix, to whose end ECR always adds a slash; so a repository that
/// is named as a prefix is not filled. (ECR user guide, "Customizing repository prefixes for ECR to ECR pull through cache")
///
/// `ROOT` stands for every repository that no other rule names, those that are filled by pushes among them. Nothing says that ECR
/// refuses these, so that rule is left to ECR.
fn upstream(rules: &[CacheRule], repository: &str) -> Option<Upstream> {
    let prefixes = rules.iter().map(|rule| {
        let prefix = rule.prefix.trim_end_matches('/');
        (prefix, &rule.upstream)
    });
    let is_beneath = |(prefix, _): &(&str, &String)| {
        let rest = repository.strip_prefix(*prefix);
        *prefix != "ROOT" && rest.is_some_and(|rest| rest.starts_with('/'))
    };
    let (prefix, host) = prefixes
        .filter(is_beneath)
        .max_by_key(|(prefix, _)| prefix.len())?;
    Some(Upstream {
        prefix: prefix.to_owned(),
        host: host.clone(),
    })
}

fn too_late() -> Error {
    Error::Api {
        operation: "DescribePullThroughCacheRules",
        subject: "the registry".to_owned(),
        kind: Kind::Transient,
        detail: "no answer in time".to_owned(),
        advice: "",
        retry_after: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_of_whole_components_fills_a_repository_and_root_none() {
        let rule = |prefix: &str| CacheRule {
            prefix: prefix.to_owned(),
            upstream: format!("{prefix}.example"),
        };
        let rules = ["ROOT", "cache", "cache/team/"].map(rule);
        let prefix = |repository| upstream(&rules, repository).map(|it| it.prefix);
        assert_eq!(prefix("cache/api").as_deref(), Some("cache"));
        assert_eq!(prefix("cache/team/api").as_deref(), Some("cache/team"));
        for other in ["cache", "cached/api", "prod/cache/api", "prod/api"] {
            assert_eq!(prefix(other), None, "{other}");
        }
    }
}
