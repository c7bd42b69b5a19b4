//! The ECR API for the images in a repository: what is there, what is archived, and the deletion of tags.
//!
//! Nothing is decided here.

use std::time::SystemTime;

use aws_sdk_ecr::error::ProvideErrorMetadata;
use aws_sdk_ecr::types::{DescribeImagesFilter, ImageIdentifier, ImageStatusFilter, TagStatus};

use super::repositories::{Address, RepositoryApi, refused};
use crate::error::Result;
use crate::manifest::Digest;

/// Images in one answer, the most that ECR gives, and pages of them: a repository has at most 100,000 images.
/// (ECR API reference, `DescribeImages`; ECR user guide, "Service quotas")
const PAGE: i32 = 1000;
const PAGES_LIMIT: usize = 100;

/// The most tags that are deleted by one call. (ECR API reference, `BatchDeleteImage`)
pub const DELETED_TOGETHER: usize = 100;

/// An image with tags.
#[derive(Clone, Debug)]
pub struct Image {
    /// The digest of its manifest.
    pub digest: Digest,
    /// Its tags.
    pub tags: Vec<String>,
    /// When it was pushed.
    pub pushed_at: Option<SystemTime>,
}

/// Which images are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Those that can be pulled.
    Active,
    /// Those that ECR has archived: a pull answers as if they were not there, and a push restores them.
    /// (ECR user guide, "Archiving an image")
    Archived,
}

impl RepositoryApi {
    /// The images that have tags; none where the repository does not exist, or not yet. `DescribeImages`
    ///
    /// # Errors
    /// [`Error::Api`](crate::error::Error::Api)
    pub async fn images(&self, at: &Address, status: Status) -> Result<Vec<Image>> {
        let filter = DescribeImagesFilter::builder()
            .tag_status(TagStatus::Tagged)
            .image_status(match status {
                Status::Active => ImageStatusFilter::Active,
                Status::Archived => ImageStatusFilter::Archived,
            })
            .build();
        let (mut images, mut next) = (Vec::new(), None);
        for _ in 0..PAGES_LIMIT {
            let request = self
                .client(at)
                .describe_images()
                .set_registry_id(at.account.clone())
                .repository_name(&at.repository)
                .filter(filter.clone())
                .max_results(PAGE)
                .set_next_token(next);
            let output = match Box::pin(request.send()).await {
                Ok(output) => output,
                Err(error) if error.code() == Some("RepositoryNotFoundException") => break,
                Err(error) => return Err(refused("DescribeImages", at, &error)),
            };
            for image in output.image_details.unwrap_or_default() {
                let digest = image
                    .image_digest
                    .and_then(|text| Digest::parse(&text).ok());
                images.extend(digest.map(|digest| {
                    Image {
                        digest,
                        tags: image.image_tags.unwrap_or_default(),
                        pushed_at: image
                            .image_pushed_at
                            .and_then(|at| SystemTime::try_from(at).ok()),
                    }
                }));
            }
            next = output.next_token;
            if next.is_none() {
                break;
            }
        }
        Ok(images)
    }

    /// Deletes tags, at most [`DELETED_TOGETHER`], and with its last tag an image. Gives those that were not deleted, with the reason.
    /// `BatchDeleteImage`
    ///
    /// # Errors
    /// [`Error::Api`](crate::error::Error::Api)
    pub async fn delete_tags(
        &self,
        at: &Address,
        tags: &[String],
    ) -> Result<Vec<(String, String)>> {
        let ids = tags
            .iter()
            .map(|tag| ImageIdentifier::builder().image_tag(tag).build());
        let request = self
            .client(at)
            .batch_delete_image()
            .set_registry_id(at.account.clone())
            .repository_name(&at.repository)
            .set_image_ids(Some(ids.collect()));
        let output = Box::pin(request.send())
            .await
            .map_err(|error| refused("BatchDeleteImage", at, &error))?;
        let failures = output.failures.unwrap_or_default().into_iter();
        let failures = failures.map(|failure| {
            let tag = failure.image_id.and_then(|id| id.image_tag);
            let reason = failure.failure_reason;
            (tag.unwrap_or_default(), reason.unwrap_or_default())
        });
        Ok(failures.collect())
    }
}
