//! Pushes the manifests of a plan, and at last its tag, which is read back.

use std::time::{Duration, Instant};

use super::carry::Claim;
use super::plan::Plan;
use super::progress::{End, Step};
use super::transfer::Transfer;
use crate::error::{Error, Kind, Result};
use crate::manifest::{Digest, Manifest};
use crate::observer::Happened;
use crate::reference::Version;
use crate::registry::Repository;
use crate::retry::{Retry, retry};

/// A copy that took longer looks at the source's tag once more before it writes the destination's.
const QUICK: Duration = Duration::from_secs(2);

/// How long a tag that was written is looked for. ECR may show what was there before for a moment.
const READ_BACK_PATIENCE: Duration = Duration::from_secs(10);

/// The longest wait between two looks at it.
const READ_BACK_INTERVAL: Duration = Duration::from_secs(2);

impl Transfer<'_> {
    /// Pushes the manifest at a position of a plan by its digest; after the last one comes the tag.
    pub(super) async fn step(&self, plan: usize, position: u32) -> (usize, Step) {
        let destination = self.destination(plan);
        let (_, of) = &self.plans[plan];
        let Some(push) = of.manifests.get(position as usize) else {
            return (plan, Step::Tag(self.tag(of, destination).await));
        };
        let result = self.push(destination, &push.manifest).await;
        (plan, Step::Manifest(position, result))
    }

    /// Pushes a manifest by its digest, unless another copy, or another plan for the same repository, has pushed it.
    async fn push(&self, destination: &Repository, manifest: &Manifest) -> Result<()> {
        // A blob may have the same digest.
        let reference = format!(
            "{} manifest",
            destination.reference(&manifest.digest.to_string())
        );
        let claimed = match self.shared.carriage.claim(&reference).await {
            Claim::Mine(claimed) => claimed,
            Claim::Broken(error) => return Err(error),
            Claim::Arrived => {
                destination.observer().saw(Happened::ManifestPresent);
                return Ok(());
            }
        };
        let push = || destination.push_manifest(manifest, None);
        retry(destination.observer(), push).await?;
        destination.observer().saw(Happened::ManifestPushed);
        claimed.arrived();
        Ok(())
    }

    /// Pushes the top manifest under its tag, and reads the tag back.
    async fn tag(&self, plan: &Plan, destination: &Repository) -> Result<End> {
        let Some(top) = &plan.top else {
            return Ok(End::Copied);
        };
        let tag = plan.tag.as_deref();
        let name = tag.map_or_else(|| top.digest.to_string(), str::to_owned);
        let mut retry = Retry::default();
        let pushed = loop {
            // Both the turn and the next try may be waited for, long enough for the source's tag to move.
            destination.turn_to_push().await;
            if self.is_overtaken().await? {
                return Ok(End::Overtaken);
            }
            match destination.push_in_turn(top, tag).await {
                Err(error) if retry.is_worth_it(&error) => {
                    retry.wait(&error, destination.observer()).await;
                }
                result => break result,
            }
        };
        match pushed {
            Ok(()) => {}
            // ECR refuses to write a tag of an immutable repository again even with the digest that it has: after an answer that
            // was lost, or by the side of another copy of the same image. (aws/containers-roadmap#2179)
            Err(error) if error.kind() == Kind::Immutable => {
                // It may be shown late, too.
                match self
                    .read_back(&name, destination, |stored| stored.is_some())
                    .await?
                {
                    Some(stored) if stored == top.digest => {}
                    Some(_) => return Err(error),
                    None => return Err(not_shown(top, &name, None, destination)),
                }
                destination.observer().saw(Happened::ManifestPresent);
                return Ok(End::Copied);
            }
            Err(error) => return Err(error),
        }
        destination.observer().saw(Happened::ManifestPushed);
        // What is shown may still be what was there before.
        let is_shown = |stored| stored == Some(top.digest);
        match self.read_back(&name, destination, is_shown).await? {
            stored if is_shown(stored) => Ok(End::Copied),
            stored => Err(not_shown(top, &name, stored, destination)),
        }
    }

    /// Whether the source's tag has moved since it was looked at, which is asked only if that was some time ago. A slow copy of an
    /// old image must not put the tag back behind a quick copy of a newer one.
    async fn is_overtaken(&self) -> Result<bool> {
        let Version::Tag { tag, .. } = self.version else {
            return Ok(false);
        };
        if self.resolved_at.elapsed() < QUICK {
            return Ok(false);
        }
        let now = retry(self.source.observer(), || self.source.resolve(tag)).await?;
        Ok(now != Some(self.source_digest))
    }

    /// What the destination has under `name`: looks again until that is conclusive, for as long as the registry may be late.
    async fn read_back(
        &self,
        name: &str,
        destination: &Repository,
        is_conclusive: impl Fn(Option<Digest>) -> bool,
    ) -> Result<Option<Digest>> {
        let until = Instant::now() + READ_BACK_PATIENCE;
        let mut delay = Duration::from_millis(100);
        loop {
            let stored = retry(destination.observer(), || destination.resolve(name)).await?;
            let left = until.saturating_duration_since(Instant::now());
            if is_conclusive(stored) || left.is_zero() {
                return Ok(stored);
            }
            tokio::time::sleep(delay.min(left)).await;
            delay = (2 * delay).min(READ_BACK_INTERVAL);
        }
    }
}

/// The error for a tag that was pushed and is not shown.
fn not_shown(
    top: &Manifest,
    name: &str,
    stored: Option<Digest>,
    destination: &Repository,
) -> Error {
    let stored = stored.map_or("nothing".to_owned(), |digest| digest.to_string());
    destination.not_as_written(name, format!(
        "read back after the copy, it has {stored} instead of {}: the registry is late, or somebody else writes the same tag",
        top.digest
    ))
}
