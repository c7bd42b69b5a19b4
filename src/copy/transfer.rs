//! Carries out the plans of all destinations together: each blob is read once and goes to every destination that lacks it, each
//! manifest is pushed as soon as what it refers to is there, and then the tag moves.
//!
//! The tag moves last, so that at no moment it stands for something incomplete. Each destination goes its own way to the end; one
//! that fails drops out alone, and alone is tried again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;

use super::carry::Shared;
use super::plan::Plan;
use super::progress::{End, Merged, Progress, Step};
use super::sending::Sending;
use crate::error::{Error, Kind, Result};
use crate::manifest::{Digest, Manifest};
use crate::observer::Happened;
use crate::reference::Version;
use crate::registry::Repository;
use crate::retry::retry;

/// A copy that took longer looks at the source's tag once more before it writes the destination's.
const QUICK: Duration = Duration::from_secs(2);

/// How long a tag that was written is looked for. ECR may show what was there before for a moment.
const READ_BACK_PATIENCE: Duration = Duration::from_secs(10);

/// The longest wait between two looks at it.
const READ_BACK_INTERVAL: Duration = Duration::from_secs(2);

/// The plans of one image, and what it takes to carry them out.
pub(super) struct Transfer<'a> {
    pub(super) source: &'a Repository,
    pub(super) version: &'a Version,
    /// When the source's tag was looked at.
    pub(super) resolved_at: Instant,
    /// All destinations of the copy.
    pub(super) destinations: &'a [Repository],
    /// The plans, each with its destination's position.
    pub(super) plans: &'a [(usize, Plan)],
    pub(super) shared: &'a Shared,
}

impl Transfer<'_> {
    /// Moves what the plans say is missing, and tells `ended` of each plan, by its position, how it ended, as soon as it has: what one
    /// destination has must not depend on how long another takes. Dropping the future stops the transfer; finished blobs stay. A
    /// blob that by the pace of those before it can't be finished in time is not begun.
    pub(super) async fn run(&self, mut ended: impl FnMut(usize, End)) {
        let mut progress: Vec<Progress<'_>> = self
            .plans
            .iter()
            .map(|(_, plan)| Progress::new(plan))
            .collect();
        let mut blobs = Merged::new(self.plans);
        let (tell, mut told) = mpsc::unbounded_channel();
        let sending = Sending::new(self, tell);
        let concurrency = self.shared.concurrency;
        // Shared reads, waits for other copies, further tries and those that wait for a turn, and manifests.
        let mut reads = FuturesUnordered::new();
        let mut waits = FuturesUnordered::new();
        let mut tries = FuturesUnordered::new();
        let mut postponed = VecDeque::new();
        let mut steps = FuturesUnordered::new();
        let mut news = None;
        let mut is_to_be_resumed = false;
        loop {
            let more = std::iter::from_fn(|| told.try_recv().ok());
            for (position, step) in news.take().into_iter().chain(more) {
                if let Some(end) = progress[position].done(step) {
                    sending.standing.ended(position);
                    is_to_be_resumed |= matches!(end, End::Failed(Error::PartMissing { .. }));
                    ended(position, end);
                }
            }
            for (position, progress) in progress.iter_mut().enumerate() {
                for manifest in progress.ready() {
                    steps.push(self.step(position, manifest));
                }
            }
            // What is still on its way when every plan has ended is of plans that have failed. It is not thrown away where the
            // image is looked at once more.
            let is_over = progress.iter().all(Progress::is_over);
            if is_over && (!is_to_be_resumed || reads.is_empty()) {
                return;
            }
            // As long as some destination is well, it is not slowed down for those that fail: they are tried again beside it. Where
            // all of them fail, what is tried again takes the place of what would be tried next.
            let is_any_well = sending.standing.is_any_well(self.plans.len());
            let (taken, turns) = match is_any_well {
                true => (0, concurrency.div_ceil(2)),
                false => (tries.len() + postponed.len(), concurrency),
            };
            while !is_over
                && reads.len() + taken < concurrency
                && let Some((blob, wanted)) = blobs.next()
            {
                let claimed = sending.claim(blob, wanted);
                postponed.extend(claimed.later);
                reads.extend(claimed.now.map(|load| sending.send(load)));
                let elsewhere = claimed.elsewhere.into_iter();
                waits.extend(elsewhere.map(|part| sending.wait(blob, part)));
            }
            while tries.len() < turns
                && let Some(load) = postponed.pop_front()
            {
                tries.push(sending.send(load));
            }
            if reads.is_empty()
                && waits.is_empty()
                && tries.is_empty()
                && steps.is_empty()
                && told.is_empty()
            {
                break;
            }
            // Blobs, and a manifest as soon as it may go: both are under way at once.
            tokio::select! {
                Some(step) = told.recv() => news = Some(step),
                Some(left) = reads.next() => postponed.extend(left),
                Some(left) = waits.next() => postponed.extend(left),
                Some(left) = tries.next() => postponed.extend(left),
                Some(step) = steps.next() => news = Some(step),
            }
        }
        for (position, progress) in progress.into_iter().enumerate() {
            if let Some(end) = progress.end_of_time() {
                ended(position, end);
            }
        }
    }

    /// Pushes the manifest at a position of a plan by its digest; after the last one comes the tag.
    async fn step(&self, plan: usize, position: u32) -> (usize, Step) {
        let destination = self.destination(plan);
        let (_, of) = &self.plans[plan];
        let Some(push) = of.manifests.get(position as usize) else {
            return (plan, Step::Tag(self.tag(of, destination).await));
        };
        let result = retry(destination.observer(), || {
            destination.push_manifest(&push.manifest, None)
        })
        .await;
        if result.is_ok() {
            destination.observer().saw(Happened::ManifestPushed);
        }
        (plan, Step::Manifest(position, result))
    }

    /// Pushes the top manifest under its tag, and reads the tag back.
    async fn tag(&self, plan: &Plan, destination: &Repository) -> Result<End> {
        let Some(top) = &plan.top else {
            return Ok(End::Copied);
        };
        if self.is_overtaken(plan).await? {
            return Ok(End::Overtaken);
        }
        let tag = plan.tag.as_deref();
        let name = tag.map_or_else(|| top.digest.to_string(), str::to_owned);
        match retry(destination.observer(), || {
            destination.push_manifest(top, tag)
        })
        .await
        {
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
    async fn is_overtaken(&self, plan: &Plan) -> Result<bool> {
        let Version::Tag { tag, .. } = self.version else {
            return Ok(false);
        };
        if self.resolved_at.elapsed() < QUICK {
            return Ok(false);
        }
        let now = retry(self.source.observer(), || self.source.resolve(tag)).await?;
        Ok(now != Some(plan.digest))
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

    pub(super) fn destination(&self, plan: usize) -> &Repository {
        &self.destinations[self.plans[plan].0]
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
