//! Carries out the plans of all destinations together: each blob is read once and goes to every destination that lacks it, each
//! manifest is pushed as soon as what it refers to is there, and then the tag moves.
//!
//! The tag moves last, so that at no moment it stands for something incomplete. Each destination goes its own way to the end; one
//! that fails drops out alone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::{self, FuturesUnordered};

use super::blob::copy_blob;
use super::carry::{Claim, Claimed, Shared};
use super::plan::Plan;
use crate::error::{Error, Kind, Result, Side};
use crate::manifest::{Descriptor, Digest, Manifest};
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

/// How a transfer ended at one destination.
#[derive(Debug)]
pub(super) enum End {
    /// Everything is there.
    Copied,
    /// The source's tag stands for another image by now, so the destination's was not written.
    Overtaken,
    /// It failed; what was sent stays.
    Failed(Error),
}

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

/// What became of a blob at one destination.
enum Carried {
    Arrived,
    /// There is no time left for it.
    NotBegun,
}

/// A step that is done at the plan with this position.
enum Step {
    Blob(u32, Result<Carried>),
    Manifest(u32, Result<()>),
    Tag(Result<End>),
}

impl Transfer<'_> {
    /// Moves what the plans say is missing, and tells the position and the end of each plan when it comes. Dropping the future stops
    /// the transfer; finished blobs stay. A blob that by the pace of those before it can't be finished in time is not begun.
    pub(super) async fn run(&self, mut ended: impl FnMut(usize, End)) {
        let failed = AtomicU64::new(0);
        let mut progress: Vec<Progress<'_>> = self
            .plans
            .iter()
            .map(|(_, plan)| Progress::new(plan))
            .collect();
        let blobs = Merged {
            plans: self.plans,
            next: vec![0; self.plans.len()],
        };
        let mut blobs = stream::iter(blobs)
            .map(|(blob, wanted)| self.blob(blob, wanted, &failed))
            .buffer_unordered(self.shared.concurrency);
        let mut steps = FuturesUnordered::new();
        // When every plan has ended there is nothing to wait for: what is still on its way is of plans that have failed.
        while progress.iter().any(|progress| !progress.is_over) {
            for (position, progress) in progress.iter_mut().enumerate() {
                for manifest in progress.ready() {
                    steps.push(self.step(position, manifest));
                }
            }
            // Blobs first, and a manifest as soon as it may go: both are under way at once.
            let done = tokio::select! {
                Some(done) = blobs.next() => done,
                Some(done) = steps.next() => vec![done],
                else => break,
            };
            for (position, step) in done {
                let Some(end) = progress
                    .get_mut(position)
                    .and_then(|progress| progress.done(step))
                else {
                    continue;
                };
                if matches!(end, End::Failed(_)) {
                    failed.fetch_or(1 << position, Ordering::Relaxed);
                }
                ended(position, end);
            }
        }
        for (position, progress) in progress
            .iter()
            .enumerate()
            .filter(|(_, progress)| !progress.is_over)
        {
            ended(position, progress.cut());
        }
    }

    /// Brings a blob to the plans that lack it, each given with the blob's position in it.
    async fn blob(
        &self,
        blob: Descriptor,
        wanted: Vec<(usize, u32)>,
        failed: &AtomicU64,
    ) -> Vec<(usize, Step)> {
        let mut done = Vec::new();
        let (mut mine, mut elsewhere) = (Vec::new(), Vec::new());
        let has_failed = |plan: usize| failed.load(Ordering::Relaxed) & 1 << plan != 0;
        for (plan, position) in wanted {
            if has_failed(plan) {
                continue;
            }
            match self.shared.carriage.try_claim(&self.reference(plan, &blob)) {
                Some(Claim::Mine(claimed)) => mine.push((plan, position, claimed)),
                Some(other) => {
                    done.push((plan, Step::Blob(position, self.settled(plan, &blob, other))))
                }
                None => elsewhere.push((plan, position)),
            }
        }
        // Boxed, as it is large, and one of many.
        done.extend(Box::pin(self.send(blob, mine)).await);
        for (plan, position) in elsewhere {
            match self
                .shared
                .carriage
                .claim(&self.reference(plan, &blob))
                .await
            {
                Claim::Mine(claimed) => {
                    done.extend(Box::pin(self.send(blob, vec![(plan, position, claimed)])).await);
                }
                other => done.push((plan, Step::Blob(position, self.settled(plan, &blob, other)))),
            }
        }
        done
    }

    /// Another copy has dealt with the blob.
    fn settled(&self, plan: usize, blob: &Descriptor, claim: Claim) -> Result<Carried> {
        match claim {
            Claim::Broken(error) => Err(error),
            Claim::Arrived | Claim::Mine(_) => {
                self.destination(plan)
                    .observer()
                    .saw(Happened::BlobPresent(blob.size));
                Ok(Carried::Arrived)
            }
        }
    }

    /// Sends a blob to the destinations that this copy has claimed it for.
    async fn send(
        &self,
        blob: Descriptor,
        claims: Vec<(usize, u32, Claimed)>,
    ) -> Vec<(usize, Step)> {
        if claims.is_empty() {
            return Vec::new();
        }
        let permit = match self.shared.carriage.permit(blob.size).await {
            Ok(Some(permit)) => permit,
            Ok(None) => {
                let not_begun =
                    |(plan, position, _)| (plan, Step::Blob(position, Ok(Carried::NotBegun)));
                return claims.into_iter().map(not_begun).collect();
            }
            Err(error) => {
                let failed = |(plan, position, _)| (plan, Step::Blob(position, Err(error.clone())));
                return claims.into_iter().map(failed).collect();
            }
        };
        let destinations: Vec<&Repository> = claims
            .iter()
            .map(|(plan, ..)| self.destination(*plan))
            .collect();
        let results = copy_blob(&blob, self.source, &destinations).await;
        if results.iter().any(Result::is_ok) {
            permit.done();
        }
        let mut done = Vec::new();
        for ((plan, position, claimed), result) in claims.into_iter().zip(results) {
            let destination = self.destination(plan);
            tracing::debug!(digest = %blob.digest, bytes = blob.size, is_copied = result.is_ok(), "blob");
            match &result {
                Ok(()) => {
                    destination.observer().saw(Happened::BlobCopied(blob.size));
                    claimed.arrived();
                }
                // No other copy that needs this blob has to ask the source again.
                Err(error) if error.side() == Some(Side::Source) && !error.kind().may_pass() => {
                    claimed.broken(error.clone());
                }
                Err(_) => drop(claimed),
            }
            done.push((
                plan,
                Step::Blob(position, result.map(|()| Carried::Arrived)),
            ));
        }
        done
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

    fn destination(&self, plan: usize) -> &Repository {
        &self.destinations[self.plans[plan].0]
    }

    fn reference(&self, plan: usize, blob: &Descriptor) -> String {
        self.destination(plan).reference(&blob.digest.to_string())
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

/// The blobs of all plans, the largest first, each once with the plans that lack it and its position in them. All plans have
/// the same order, so the next blob is the first of those that come next in each.
struct Merged<'a> {
    plans: &'a [(usize, Plan)],
    next: Vec<usize>,
}

impl Iterator for Merged<'_> {
    type Item = (Descriptor, Vec<(usize, u32)>);

    fn next(&mut self) -> Option<Self::Item> {
        let heads = self.plans.iter().zip(&self.next);
        let heads = heads.filter_map(|((_, plan), next)| plan.blobs.get(*next));
        let first = *heads.min_by_key(|blob| (std::cmp::Reverse(blob.size), blob.digest))?;
        let mut wanted = Vec::new();
        for (position, ((_, plan), next)) in self.plans.iter().zip(&mut self.next).enumerate() {
            if plan.blobs.get(*next) == Some(&first) {
                wanted.push((position, *next as u32));
                *next += 1;
            }
        }
        Some((first, wanted))
    }
}

/// How far one plan is carried out.
struct Progress<'a> {
    plan: &'a Plan,
    /// For each manifest, how many blobs and manifests it waits for.
    waits_for: Vec<u32>,
    /// Which manifest waits for which blob, in the blobs' order.
    blob_waiters: Vec<(u32, u32)>,
    /// Which manifest waits for which other manifest, in the others' order.
    manifest_waiters: Vec<(u32, u32)>,
    /// Manifests that wait for nothing, and are not begun.
    ready: Vec<u32>,
    /// Blobs and manifests that are not there yet.
    left: usize,
    /// Whether a blob was not begun, as there is no time left.
    is_cut: bool,
    is_tag_begun: bool,
    /// Its end was told.
    is_over: bool,
}

impl<'a> Progress<'a> {
    fn new(plan: &'a Plan) -> Self {
        let mut progress = Progress {
            plan,
            waits_for: Vec::with_capacity(plan.manifests.len()),
            blob_waiters: Vec::new(),
            manifest_waiters: Vec::new(),
            ready: Vec::new(),
            left: plan.blobs.len() + plan.manifests.len(),
            is_cut: false,
            is_tag_begun: false,
            is_over: false,
        };
        for (position, push) in plan.manifests.iter().enumerate() {
            let position = position as u32;
            let parts = push.after_blobs.len() + push.after_manifests.len();
            progress.waits_for.push(parts as u32);
            progress
                .blob_waiters
                .extend(push.after_blobs.iter().map(|blob| (*blob, position)));
            let manifests = push.after_manifests.iter();
            progress
                .manifest_waiters
                .extend(manifests.map(|manifest| (*manifest, position)));
            if parts == 0 {
                progress.ready.push(position);
            }
        }
        progress.blob_waiters.sort_unstable();
        progress.manifest_waiters.sort_unstable();
        progress
    }

    /// The manifests that may be pushed now. When all are there, the position after the last one stands for the tag.
    fn ready(&mut self) -> Vec<u32> {
        if self.is_over {
            return Vec::new();
        }
        if self.left == 0 && !self.is_tag_begun {
            self.is_tag_begun = true;
            return vec![self.plan.manifests.len() as u32];
        }
        std::mem::take(&mut self.ready)
    }

    /// Takes note of a step, and gives the end if that was it. The first failure is the end, as it tells most.
    fn done(&mut self, step: Step) -> Option<End> {
        let end = match step {
            Step::Blob(position, Ok(Carried::Arrived)) => {
                self.arrived(waiters(&self.blob_waiters, position));
                None
            }
            Step::Manifest(position, Ok(())) => {
                self.arrived(waiters(&self.manifest_waiters, position));
                None
            }
            Step::Blob(_, Ok(Carried::NotBegun)) => {
                self.is_cut = true;
                None
            }
            Step::Tag(Ok(end)) => Some(end),
            Step::Blob(_, Err(error)) | Step::Manifest(_, Err(error)) | Step::Tag(Err(error)) => {
                Some(End::Failed(error))
            }
        };
        let end = end.filter(|_| !self.is_over);
        self.is_over |= end.is_some();
        end
    }

    fn arrived(&mut self, waiters: Vec<u32>) {
        self.left -= 1;
        for waiter in waiters {
            let waits_for = &mut self.waits_for[waiter as usize];
            *waits_for -= 1;
            if *waits_for == 0 {
                self.ready.push(waiter);
            }
        }
    }

    /// The end of a plan of which not everything was begun.
    fn cut(&self) -> End {
        End::Failed(match self.is_cut {
            true => Error::Deadline,
            false => Error::Internal("a plan was not carried out to its end".to_owned()),
        })
    }
}

/// Those that wait for `part`.
fn waiters(pairs: &[(u32, u32)], part: u32) -> Vec<u32> {
    let begin = pairs.partition_point(|(waited_for, _)| *waited_for < part);
    let waiting = pairs[begin..]
        .iter()
        .take_while(|(waited_for, _)| *waited_for == part);
    waiting.map(|(_, waiter)| *waiter).collect()
}
