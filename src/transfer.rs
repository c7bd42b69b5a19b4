//! Carries out a plan: blobs, then manifests children first, then the tag, then a look at what the destination has now.
//!
//! The tag moves last, so that at no moment it stands for something incomplete.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, future, stream};

use crate::error::{Error, Result, Side};
use crate::manifest::Descriptor;
use crate::plan::Plan;
use crate::registry::Repository;
use crate::retry::retry;
use crate::tally::Tally;

/// What a transfer may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Blobs in flight at once.
    pub concurrency: usize,
    /// When the invocation ends. Who calls drops the transfer then.
    pub deadline: Instant,
}

/// Moves what `plan` says is missing, and counts into `tally` what is done. Dropping the future stops the copy; finished blobs
/// stay. A blob that by the pace of those before it can't be finished in time is not begun.
///
/// # Errors
/// The first failure that trying again did not mend, or [`Error::Deadline`]. The tag has not moved then, unless the final look at it
/// failed.
pub async fn run(
    plan: &Plan,
    source: &Repository,
    destination: &Repository,
    limits: Limits,
    tally: &Tally,
) -> Result<()> {
    let pace = Pace::default();
    let are_all_copied = stream::iter(&plan.blobs)
        .map(async |blob| {
            let begin = Instant::now();
            let remaining = limits.deadline.saturating_duration_since(begin);
            if !pace.allows(blob.size, remaining) {
                return Ok(false);
            }
            copy_blob(blob, source, destination, tally).await?;
            pace.saw(blob.size, begin.elapsed());
            Ok(true)
        })
        .buffer_unordered(limits.concurrency)
        .try_fold(true, |all, one| future::ok(all && one))
        .await?;
    if !are_all_copied {
        return Err(Error::Deadline);
    }
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

/// The fastest that one blob was seen to move, in bytes per second; nothing is known before the first is done.
#[derive(Default)]
struct Pace(AtomicU64);

impl Pace {
    fn saw(&self, bytes: u64, elapsed: Duration) {
        let per_second = bytes as f64 / elapsed.as_secs_f64().max(0.001);
        self.0.fetch_max(per_second as u64, Ordering::Relaxed);
    }

    /// Whether `bytes` can be moved in `remaining`, for all that is known. The largest blobs come first, so each invocation begins
    /// at least with one of those, whatever the pace of the last.
    fn allows(&self, bytes: u64, remaining: Duration) -> bool {
        match self.0.load(Ordering::Relaxed) {
            0 => true,
            per_second => bytes as f64 <= per_second as f64 * remaining.as_secs_f64(),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_begins_only_if_it_can_be_finished_at_the_best_pace_seen() {
        let pace = Pace::default();
        let second = Duration::from_secs(1);
        assert!(pace.allows(u64::MAX, second), "nothing is known yet");
        pace.saw(1_000_000, 2 * second);
        assert!(pace.allows(500_000, second) && !pace.allows(500_001, second));
        pace.saw(1_000, second);
        assert!(
            pace.allows(500_000, second),
            "small blobs are slow for their size"
        );
        pace.saw(3_000_000, second);
        assert!(pace.allows(3_000_000, second) && !pace.allows(1, Duration::ZERO));
    }
}
