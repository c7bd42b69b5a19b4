//! Brings blobs to the destinations that lack them: who sends which, and what becomes of those that fail.
//!
//! A blob is read once and goes to all destinations that are well. A destination that fails for a passing reason limps until an
//! upload to it succeeds again: what it has missed, and what comes meanwhile, is sent to it alone, beside the others.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc::UnboundedSender;

use super::blob::{Receiver, copy_blob};
use super::carry::{Claim, Claimed};
use super::mount::Came;
use super::progress::{Carried, Step};
use super::transfer::Transfer;
use crate::error::{Error, Result, Side};
use crate::manifest::Descriptor;
use crate::observer::{Happened, Movements, Moving};
use crate::retry::Retry;

/// Sends the blobs of one transfer.
pub(super) struct Sending<'a> {
    transfer: &'a Transfer<'a>,
    /// Is told of each blob at each plan.
    tell: UnboundedSender<(usize, Step)>,
    /// How the plans stand.
    pub(super) standing: Standing,
}

/// A blob's position in one plan.
type Part = (usize, u32);

/// A blob to send, with one read, to the plans that this copy has claimed it for.
pub(super) struct Load {
    blob: Descriptor,
    parts: Vec<(Part, Claimed)>,
    retry: Retry,
    /// Why the last try failed, and at which plan.
    failure: Option<(usize, Error)>,
}

/// What is to be done about one blob.
#[derive(Default)]
pub(super) struct Claims {
    /// For the plans that are well.
    pub(super) now: Option<Load>,
    /// For those that limp.
    pub(super) later: Option<Load>,
    /// For those to whose repository another copy, or another plan, sends it just now.
    pub(super) elsewhere: Vec<Part>,
}

/// How the plans of a transfer stand, by their positions.
#[derive(Default)]
pub(super) struct Standing {
    ended: AtomicU64,
    limping: AtomicU64,
}

impl Standing {
    /// The plan has ended, well or not.
    pub(super) fn ended(&self, plan: usize) {
        self.ended.fetch_or(1 << plan, Ordering::Relaxed);
    }

    /// Whether one of `count` plans goes on without trouble.
    pub(super) fn is_any_well(&self, count: usize) -> bool {
        (0..count).any(|plan| !self.has_ended(plan) && !self.limps(plan))
    }

    fn has_ended(&self, plan: usize) -> bool {
        self.ended.load(Ordering::Relaxed) & 1 << plan != 0
    }

    fn limps(&self, plan: usize) -> bool {
        self.limping.load(Ordering::Relaxed) & 1 << plan != 0
    }

    fn set_limps(&self, plan: usize, limps: bool) {
        match limps {
            true => self.limping.fetch_or(1 << plan, Ordering::Relaxed),
            false => self.limping.fetch_and(!(1 << plan), Ordering::Relaxed),
        };
    }
}

impl<'a> Sending<'a> {
    pub(super) fn new(transfer: &'a Transfer<'a>, tell: UnboundedSender<(usize, Step)>) -> Self {
        Sending {
            transfer,
            tell,
            standing: Standing::default(),
        }
    }

    /// Claims a blob for the plans that want it.
    pub(super) fn claim(&self, blob: Descriptor, wanted: Vec<Part>) -> Claims {
        let mut claims = Claims::default();
        let (mut well, mut limping) = (Vec::new(), Vec::new());
        for part in wanted {
            let (plan, _) = part;
            if self.standing.has_ended(plan) {
                continue;
            }
            let claim = self
                .transfer
                .shared
                .carriage
                .try_claim(&self.reference(plan, &blob));
            match claim {
                Some(Claim::Mine(claimed)) if self.standing.limps(plan) => {
                    limping.push((part, claimed));
                }
                Some(Claim::Mine(claimed)) => well.push((part, claimed)),
                Some(Claim::Arrived) => self.is_there(part, &blob),
                Some(Claim::Broken(error)) => self.told(part, Err(error)),
                None => claims.elsewhere.push(part),
            }
        }
        // Where nobody is well there is nobody to be spared.
        if well.is_empty() {
            std::mem::swap(&mut well, &mut limping);
        }
        claims.now = Load::new(blob, well);
        claims.later = Load::new(blob, limping);
        if let Some(movements) = self.movements() {
            match (&claims.now, &claims.later) {
                (None, None) => movements.spare(blob.size),
                // It moves twice.
                (Some(_), Some(_)) => movements.expect(blob.size),
                _ => {}
            }
        }
        claims
    }

    /// Waits until whoever sends the blob has sent it. If he could not, it is to be sent by this copy.
    pub(super) async fn wait(&self, blob: Descriptor, part: Part) -> Option<Load> {
        let (plan, _) = part;
        let reference = self.reference(plan, &blob);
        match self.transfer.shared.carriage.claim(&reference).await {
            Claim::Mine(claimed) => {
                if let Some(movements) = self.movements() {
                    movements.expect(blob.size);
                }
                return Load::new(blob, vec![(part, claimed)]);
            }
            Claim::Arrived => self.is_there(part, &blob),
            Claim::Broken(error) => self.told(part, Err(error)),
        }
        None
    }

    /// Makes one try to send a blob, and gives what has to be tried again.
    pub(super) async fn send(&self, mut load: Load) -> Option<Load> {
        self.wait_after_failure(&mut load).await;
        let has_not_ended = |((plan, _), _): &(Part, Claimed)| !self.standing.has_ended(*plan);
        load.parts.retain(has_not_ended);
        if load.parts.is_empty() {
            return None;
        }
        let permit = match self.transfer.shared.carriage.permit(load.blob.size).await {
            Ok(Some(permit)) => permit,
            result => {
                for (part, _) in load.parts {
                    let result = result.as_ref().map_err(Error::clone);
                    self.told(part, result.map(|_| Carried::NotBegun));
                }
                return None;
            }
        };
        let blob = load.blob;
        let plans = load.parts.iter().map(|((plan, _), _)| *plan);
        let is_again = load.retry.tries() > 0;
        let holders = &self.transfer.shared.carriage.holders;
        let receiver = |plan| {
            let repository = self.transfer.destination(plan);
            // A further try has nothing to do with other repositories.
            let mount = (!is_again).then(|| holders.mount(repository, &blob.digest));
            Receiver {
                repository,
                mount: mount.flatten(),
            }
        };
        let receivers: Vec<Receiver<'_>> = plans.map(receiver).collect();
        let mut parts: Vec<_> = load.parts.drain(..).map(Some).collect();
        let movements = self.movements();
        let moving = movements.map(|movements| movements.begin(blob.digest, blob.size));
        let done = |position: usize, result: Result<Came>| {
            tracing::debug!(digest = %blob.digest, bytes = blob.size, is_copied = result.is_ok(), "blob");
            if let Ok(came) = result {
                if let Some(moving) = &moving {
                    moving.arrived();
                }
                let Receiver { repository, mount } = &receivers[position];
                if mount.is_some() {
                    holders.answered(repository, came);
                }
                holders.note(repository, &blob.digest);
                // What is mounted does not tell how fast blobs move.
                if came != Came::Mounted {
                    permit.arrived();
                }
            }
            if let Some((part, claimed)) = parts.get_mut(position).and_then(Option::take) {
                self.settle(&mut load, part, claimed, result);
            }
        };
        let movement = moving.as_ref().map(Moving::movement);
        let source = self.transfer.source;
        copy_blob(&blob, source, &receivers, is_again, movement, done).await;
        // What has arrived somewhere moves once more for those where it has not.
        if let (Some(movements), false) = (movements, load.parts.is_empty())
            && moving.as_ref().is_some_and(Moving::has_arrived)
        {
            movements.expect(blob.size);
        }
        (!load.parts.is_empty()).then_some(load)
    }

    /// Waits before a further try, as long as the side that failed asks for.
    async fn wait_after_failure(&self, load: &mut Load) {
        if let Some((plan, error)) = load.failure.take() {
            let failed = match error.side() {
                Some(Side::Destination) => self.transfer.destination(plan),
                _ => self.transfer.source,
            };
            // The wait is one, and the further try is one at each destination that failed.
            let others = load.parts.iter().map(|((other, _), _)| *other);
            let others = others.filter(|other| *other != plan);
            if error.side() == Some(Side::Destination) {
                others.for_each(|other| {
                    let observer = self.transfer.destination(other).observer();
                    observer.saw(Happened::Retry);
                });
            }
            load.retry.wait(&error, failed.observer()).await;
        }
    }

    /// Notes what became of a blob at one plan. What is worth another try goes back into the load.
    fn settle(&self, load: &mut Load, part: Part, claimed: Claimed, result: Result<Came>) {
        let (plan, _) = part;
        match result {
            Ok(came) => {
                self.standing.set_limps(plan, false);
                let observer = self.transfer.destination(plan).observer();
                observer.saw(match came {
                    Came::Mounted => Happened::BlobMounted,
                    Came::Sent | Came::SentAfterRefusal => Happened::BlobCopied(load.blob.size),
                });
                claimed.arrived();
                self.told(part, Ok(Carried::Arrived));
            }
            Err(error) if load.retry.is_worth_it(&error) => {
                if error.side() == Some(Side::Destination) {
                    self.standing.set_limps(plan, true);
                }
                load.parts.push((part, claimed));
                load.failure = more_patient(load.failure.take(), (plan, error));
            }
            Err(error) => {
                // Whoever needs the same blob need not ask the source again.
                if error.side() == Some(Side::Source) {
                    claimed.broken(error.clone());
                }
                self.told(part, Err(error));
            }
        }
    }

    fn movements(&self) -> Option<&Movements> {
        self.transfer.shared.movements.as_deref()
    }

    fn is_there(&self, part: Part, blob: &Descriptor) {
        let (plan, _) = part;
        let observer = self.transfer.destination(plan).observer();
        observer.saw(Happened::BlobPresent(blob.size));
        self.told(part, Ok(Carried::Arrived));
    }

    fn told(&self, (plan, position): Part, result: Result<Carried>) {
        // The transfer that listens is what polls this.
        _ = self.tell.send((plan, Step::Blob(position, result)));
    }

    fn reference(&self, plan: usize, blob: &Descriptor) -> String {
        let destination = self.transfer.destination(plan);
        destination.reference(&blob.digest.to_string())
    }
}

impl Load {
    fn new(blob: Descriptor, parts: Vec<(Part, Claimed)>) -> Option<Self> {
        (!parts.is_empty()).then(|| Load {
            blob,
            parts,
            retry: Retry::default(),
            failure: None,
        })
    }
}

/// Of two failures, the one after which to wait longer.
fn more_patient(one: Option<(usize, Error)>, other: (usize, Error)) -> Option<(usize, Error)> {
    let patience = |(_, error): &(usize, Error)| error.retry_after();
    match one {
        Some(one) if patience(&one) >= patience(&other) => Some(one),
        _ => Some(other),
    }
}
