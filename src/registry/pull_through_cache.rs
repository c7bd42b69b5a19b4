//! Repositories that ECR fills itself, by a rule of its pull-through cache: pushing there is not supported, and what is pushed all the
//! same may not be what is pulled. (ECR user guide, "Considerations for using pull through cache rules") The registry API does not tell
//! them from others, so it is asked elsewhere, if somebody who opens the repository can.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::Repository;
use crate::error::{Error, Kind, Operation, Result};
use crate::kept::Freshness;

/// What ECR fills a repository from.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The prefix of the rule's repositories, without a slash at the end.
    pub prefix: String,
    /// The host of the registry from which they are filled.
    pub host: String,
}

/// Says what ECR is known to fill the repository from, if it does.
pub type UpstreamLook =
    Arc<dyn Fn(Freshness) -> BoxFuture<'static, Option<Upstream>> + Send + Sync>;

impl Repository {
    /// The same, with somebody to ask whether ECR fills it itself.
    pub fn with_upstream(self, upstream: UpstreamLook) -> Self {
        Repository {
            upstream: Some(upstream),
            ..self
        }
    }

    /// Expects that ECR is not known to fill the repository itself. To be asked only where something is to be pushed.
    ///
    /// # Errors
    /// [`Error::Registry`] of kind [`Kind::Invalid`] names the prefix and the registry from which ECR fills it.
    pub async fn expect_no_upstream(&self) -> Result<()> {
        self.expect_none(Freshness::Kept).await
    }

    /// The same, as it is now, whatever was known a while ago.
    ///
    /// # Errors
    /// As [`Repository::expect_no_upstream`].
    pub async fn expect_no_upstream_now(&self) -> Result<()> {
        self.expect_none(Freshness::Anew).await
    }

    async fn expect_none(&self, freshness: Freshness) -> Result<()> {
        let Some(look) = &self.upstream else {
            return Ok(());
        };
        let Some(Upstream { prefix, host }) = look(freshness).await else {
            return Ok(());
        };
        let detail = format!(
            "nothing can be pushed there, as ECR fills the repositories under {prefix}/ from {host}, by a rule of its pull-through cache"
        );
        let place = self.place(Operation::StartUpload, "");
        let mut error = place.error(Kind::Invalid, detail);
        if let Error::Registry { advice, .. } = &mut error {
            *advice = format!(
                "name a repository with another prefix as the destination, or delete that rule with `aws ecr delete-pull-through-cache-rule --ecr-repository-prefix {prefix}`"
            );
        }
        Err(error)
    }
}
