//! Carries out a plan: blobs, then manifests children first, then the tag, then a look at what the destination has now.
//!
//! The tag moves last, so that at no moment it stands for something incomplete.

use futures_util::{StreamExt, TryStreamExt, future, stream};

use crate::error::{Error, Result, Side};
use crate::manifest::Descriptor;
use crate::plan::Plan;
use crate::registry::Repository;
use crate::retry::retry;
use crate::tally::Tally;

/// Moves what `plan` says is missing, at most `concurrency` blobs at once, and counts into `tally` what is done.
/// Dropping the future stops the copy; finished blobs stay.
///
/// # Errors
/// The first failure that trying again did not mend. The tag has not moved then, unless the final look at it failed.
pub async fn run(
    plan: &Plan,
    source: &Repository,
    destination: &Repository,
    concurrency: usize,
    tally: &Tally,
) -> Result<()> {
    stream::iter(&plan.blobs)
        .map(|blob| copy_blob(blob, source, destination, tally))
        .buffer_unordered(concurrency)
        .try_for_each(future::ok)
        .await?;
    for manifest in &plan.manifests {
        retry(async |_| destination.push_manifest(manifest, None).await).await?;
        tally.manifest_pushed();
    }
    let Some(top) = &plan.top else {
        return Ok(());
    };
    retry(async |_| destination.push_manifest(top, Some(&plan.tag)).await).await?;
    tally.manifest_pushed();
    let stored = retry(async |_| destination.resolve(&plan.tag).await).await?;
    if stored.as_ref() != Some(&top.digest) {
        let stored = stored.map_or("nothing".to_owned(), |digest| digest.to_string());
        return Err(Error::Content {
            side: Side::Destination,
            reference: destination.reference(&plan.tag),
            reason: format!(
                "read back after the copy, the tag has {stored} instead of {}; somebody else writes the same tag",
                top.digest
            ),
        });
    }
    Ok(())
}

/// Streams one blob across, each try with a fresh read and a fresh upload session.
///
/// The first try does not compute the digest: the destination does at commit, and twice is most of the processor time there is.
/// A later try does, so that a wrong digest says whose fault it is.
async fn copy_blob(
    blob: &Descriptor,
    source: &Repository,
    destination: &Repository,
    tally: &Tally,
) -> Result<()> {
    let was_present = retry(async |tries| {
        let is_again = tries > 0;
        // The connection may have broken after the commit.
        if is_again && destination.has_blob(&blob.digest).await? {
            return Ok(true);
        }
        let (reader, upload) = future::try_join(
            source.fetch_blob(blob, is_again),
            destination.start_upload(&blob.digest),
        )
        .await?;
        destination.finish_upload(upload, reader).await?;
        Ok(false)
    })
    .await?;
    tracing::debug!(digest = %blob.digest, bytes = blob.size, was_present, "blob copied");
    tally.blob_copied(blob.size);
    Ok(())
}
