//! How destinations' repositories are set up, for whoever only wants to know.

use serde_json::Value;

use super::Repositories;
use crate::aws::repositories::Found;
use crate::destination::Destination;
use crate::error::Result;
use crate::rules::repository::RepositorySettings;

impl Repositories {
    /// How a repository is set up; `None` if it does not exist.
    ///
    /// # Errors
    /// What ECR refuses.
    pub async fn find(&self, destination: &Destination) -> Result<Option<Found>> {
        self.api.find(&self.address(destination)).await
    }

    /// A repository's lifecycle policy; `None` if it has none.
    ///
    /// # Errors
    /// What ECR refuses.
    pub async fn lifecycle_policy(&self, destination: &Destination) -> Result<Option<Value>> {
        self.api.lifecycle_policy(&self.address(destination)).await
    }

    /// What ECR itself would create a missing repository with at a push; `None` if it would not.
    ///
    /// # Errors
    /// What ECR refuses.
    pub async fn template(&self, destination: &Destination) -> Result<Option<RepositorySettings>> {
        self.api.template(&self.address(destination)).await
    }
}
