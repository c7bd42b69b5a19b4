//! Which tags of a destination are immutable. ECR's registry API does not tell, so the ECR API is asked: only about a repository in
//! which a tag was found that has another digest than it is to have, and not again for some minutes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use crate::aws::repositories::{Address, RepositoryApi};
use crate::endpoint::{ecr_account, ecr_region};
use crate::error::{Error, Kind};
use crate::kept::{Freshness, KeptBy};
use crate::registry::Immutability;
use crate::rules::repository::TagMutability;

/// How long it is kept that a repository lets every tag move, or that the right to look is missing. The registry's refusal at the
/// end of a copy is always believed.
const LIFETIME: Duration = Duration::from_secs(10 * 60);

/// How long anything else is kept: whoever makes a tag mutable, as the error advises, need not wait long for it to be seen.
const SHORT_LIFETIME: Duration = Duration::from_secs(60);

/// How long an answer is waited for. Without one the copy finds out.
const PATIENCE: Duration = Duration::from_secs(3);

/// How a repository is set up, if that could be learnt.
type Setting = Option<Arc<TagMutability>>;

/// Asks ECR, and keeps its answers. Lives as long as the process.
pub(super) struct Immutabilities {
    api: Arc<RepositoryApi>,
    /// By registry host and name.
    kept: KeptBy<(String, String), Setting>,
}

impl Immutabilities {
    /// Makes no call yet.
    pub(super) fn new(api: Arc<RepositoryApi>) -> Self {
        Immutabilities {
            api,
            kept: KeptBy::default(),
        }
    }

    /// Answers for the repository `name` on `host`. A host that is not one of ECR's stands in for the caller's own registry.
    pub(super) fn of(&self, host: &str, name: &str) -> Immutability {
        let setting = self.kept.of((host.to_owned(), name.to_owned()));
        let api = self.api.clone();
        let at = Arc::new(Address {
            region: ecr_region(host).map(str::to_owned),
            account: ecr_account(host).map(str::to_owned),
            repository: name.to_owned(),
        });
        Arc::new(move |tag| {
            let (api, at, setting) = (api.clone(), at.clone(), setting.clone());
            async move {
                let look = async || Ok(look(&api, &at).await);
                let mutability = setting.get(Freshness::Kept, look).await;
                mutability.is_ok_and(|it| it.is_some_and(|mutability| mutability.keeps(&tag)))
            }
            .boxed()
        })
    }
}

/// How a repository is set up, and how long that may be kept.
async fn look(api: &RepositoryApi, at: &Address) -> (Setting, Duration) {
    let found = tokio::time::timeout(PATIENCE, api.find(at)).await;
    match found.unwrap_or_else(|_| Err(too_late(at))) {
        Ok(Some(found)) => {
            let lifetime = match found.tag_mutability.may_keep_tags() {
                true => SHORT_LIFETIME,
                false => LIFETIME,
            };
            (Some(Arc::new(found.tag_mutability)), lifetime)
        }
        Ok(None) => (None, SHORT_LIFETIME),
        Err(error) => {
            tracing::info!(%error, "whether its tags are immutable is not known: the copy finds out");
            let lifetime = match error.kind() {
                Kind::Denied => LIFETIME,
                _ => SHORT_LIFETIME,
            };
            (None, lifetime)
        }
    }
}

fn too_late(at: &Address) -> Error {
    Error::Api {
        operation: "DescribeRepositories",
        subject: at.repository.clone(),
        kind: Kind::Transient,
        detail: "no answer in time".to_owned(),
        advice: "",
        retry_after: None,
    }
}
