//! What is in destinations' repositories beyond what the registry tells.

use std::collections::HashMap;

use super::Repositories;
use crate::aws::images::{Image, Status};
use crate::destination::Destination;
use crate::error::Result;
use crate::manifest::Digest;

impl Repositories {
    /// The tags that ECR has archived, each with its digest.
    ///
    /// # Errors
    /// What ECR refuses.
    pub async fn archived(&self, destination: &Destination) -> Result<HashMap<String, Digest>> {
        let at = self.address(destination);
        let images = self.api.images(&at, Status::Archived).await?.into_iter();
        let tags =
            images.flat_map(|image| image.tags.into_iter().map(move |tag| (tag, image.digest)));
        Ok(tags.collect())
    }

    /// The images with tags that can be pulled.
    ///
    /// # Errors
    /// What ECR refuses.
    pub async fn tagged(&self, destination: &Destination) -> Result<Vec<Image>> {
        let at = self.address(destination);
        self.api.images(&at, Status::Active).await
    }

    /// Deletes tags, at most [`DELETED_TOGETHER`](crate::aws::images::DELETED_TOGETHER). Gives those that were not deleted, with ECR's
    /// reason.
    ///
    /// # Errors
    /// What ECR refuses.
    pub async fn delete_tags(
        &self,
        destination: &Destination,
        tags: &[String],
    ) -> Result<Vec<(String, String)>> {
        self.api.delete_tags(&self.address(destination), tags).await
    }
}
