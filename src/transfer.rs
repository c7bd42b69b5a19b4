//! Carries out a plan: blobs, each manifest as soon as what it refers to is there, then the tag, then a look at what the destination
//! has now.
//!
//! The tag moves last, so that at no moment it stands for something incomplete.

mod blob;

use std::collections::HashSet;

use futures_util::StreamExt;
use futures_util::stream::{self, FuturesUnordered};

use self::blob::copy_blob;
use crate::error::{Error, Result, Side};
use crate::limits::{Carried, Limits};
use crate::manifest::{Descriptor, Digest, Manifest};
use crate::plan::{Plan, Push};
use crate::registry::Repository;
use crate::retry::retry;
use crate::tally::Tally;

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
    limits: &Limits,
    tally: &Tally,
) -> Result<()> {
    let transfer = Transfer {
        source,
        destination,
        limits,
        tally,
    };
    transfer.blobs_and_manifests(plan).await?;
    match &plan.top {
        Some(top) => transfer.tag(top, &plan.tag).await,
        None => Ok(()),
    }
}

struct Transfer<'a> {
    source: &'a Repository,
    destination: &'a Repository,
    limits: &'a Limits,
    tally: &'a Tally,
}

impl Transfer<'_> {
    async fn blobs_and_manifests(&self, plan: &Plan) -> Result<()> {
        let mut blobs = stream::iter(&plan.blobs)
            .map(|blob| self.blob(blob))
            .buffer_unordered(self.limits.concurrency);
        let mut waiting = Waiting::new(&plan.manifests);
        let mut pushes: FuturesUnordered<_> = waiting
            .ready()
            .map(|manifest| self.child(manifest))
            .collect();
        let mut is_complete = true;
        loop {
            let arrived = tokio::select! {
                Some(blob) = blobs.next() => blob?,
                Some(manifest) = pushes.next() => Some(manifest?),
                else => break,
            };
            match arrived {
                Some(digest) => waiting.arrived(digest),
                None => is_complete = false,
            }
            pushes.extend(waiting.ready().map(|manifest| self.child(manifest)));
        }
        match is_complete {
            true => Ok(()),
            false => Err(Error::Deadline),
        }
    }

    /// The blob's digest once it is at the destination; `None` if there is no time for it.
    async fn blob<'b>(&self, blob: &'b Descriptor) -> Result<Option<&'b Digest>> {
        let Descriptor { digest, size, .. } = blob;
        let repository = self.destination.reference(digest.as_str());
        // Boxed, as it is large, and one of many.
        let upload = Box::pin(copy_blob(blob, self.source, self.destination));
        let carried = self.limits.carry(&repository, *size, upload).await?;
        tracing::debug!(%digest, bytes = size, ?carried, "blob");
        match carried {
            Carried::Here => self.tally.blob_copied(*size),
            Carried::Elsewhere => self.tally.blob_present(*size),
            Carried::NotBegun => return Ok(None),
        }
        Ok(Some(digest))
    }

    /// Pushes a manifest by its digest.
    async fn child<'b>(&self, manifest: &'b Manifest) -> Result<&'b Digest> {
        retry(|_| self.destination.push_manifest(manifest, None)).await?;
        self.tally.manifest_pushed();
        Ok(&manifest.digest)
    }

    /// Pushes the top manifest under its tag, and reads the tag back.
    async fn tag(&self, top: &Manifest, tag: &str) -> Result<()> {
        retry(|_| self.destination.push_manifest(top, Some(tag))).await?;
        self.tally.manifest_pushed();
        let stored = retry(|_| self.destination.resolve(tag)).await?;
        if stored.as_ref() == Some(&top.digest) {
            return Ok(());
        }
        let stored = stored.map_or("nothing".to_owned(), |digest| digest.to_string());
        Err(Error::Content {
            side: Side::Destination,
            reference: self.destination.reference(tag),
            reason: format!(
                "read back after the copy, the tag has {stored} instead of {}; somebody else writes the same tag",
                top.digest
            ),
        })
    }
}

/// Manifests that can't be pushed yet, each with what it waits for.
struct Waiting<'a>(Vec<(HashSet<&'a Digest>, &'a Manifest)>);

impl<'a> Waiting<'a> {
    fn new(pushes: &'a [Push]) -> Self {
        let waiting = |push: &'a Push| (push.after.iter().collect(), &push.manifest);
        Waiting(pushes.iter().map(waiting).collect())
    }

    /// Something is at the destination now.
    fn arrived(&mut self, digest: &Digest) {
        for (after, _) in &mut self.0 {
            after.remove(digest);
        }
    }

    /// Takes out those that wait for nothing.
    fn ready(&mut self) -> impl Iterator<Item = &'a Manifest> + use<'a> {
        let ready = self.0.extract_if(.., |(after, _)| after.is_empty());
        let ready: Vec<_> = ready.map(|(_, manifest)| manifest).collect();
        ready.into_iter()
    }
}
