//! What the copies of one invocation share: how many blobs may be on their way at once, which of them are, and whether there is
//! time for another.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit, watch};

use super::estimate::Estimate;
use super::mount::Holders;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::observer::Movements;

/// The blobs that are on their way, and those that have arrived.
pub struct Carriage {
    permits: Semaphore,
    pace: Pace,
    deadline: Deadline,
    /// By reference: `host/repository@digest`.
    uploads: Mutex<HashMap<String, watch::Receiver<State>>>,
    /// Where blobs may be mounted from.
    pub(super) holders: Holders,
}

/// What is known of one blob at one destination.
#[derive(Clone, Debug)]
enum State {
    /// A copy is sending it.
    UnderWay,
    /// It is there.
    Arrived,
    /// The source could not give it, after as many tries as are worth it: so it is for all who waited, and if the failure does not
    /// pass, for everybody else too.
    Broken(Error),
    /// It did not arrive; another copy may try.
    Given,
}

/// Whether a blob has to be sent.
pub enum Claim {
    /// No copy sends it: the one that holds this has to.
    Mine(Claimed),
    /// Another copy of this invocation sent it, or did as this one waited.
    Arrived,
    /// Another copy failed because of the source.
    Broken(Error),
}

/// The right to send one blob to one destination. Dropped without a result, it passes to the next copy.
pub struct Claimed(watch::Sender<State>);

impl Claimed {
    /// The blob has arrived.
    pub fn arrived(self) {
        self.0.send_replace(State::Arrived);
    }

    /// The source can't give the blob.
    pub fn broken(self, error: Error) {
        self.0.send_replace(State::Broken(error));
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        self.0.send_if_modified(|state| {
            let is_open = matches!(state, State::UnderWay);
            if is_open {
                *state = State::Given;
            }
            is_open
        });
    }
}

impl Carriage {
    /// At most `concurrency` blobs at once, until `deadline`.
    pub fn new(deadline: Deadline, concurrency: usize) -> Self {
        Carriage {
            permits: Semaphore::new(concurrency),
            pace: Pace::default(),
            deadline,
            uploads: Mutex::default(),
            holders: Holders::default(),
        }
    }

    /// Claims the blob `reference` for this copy, if nobody else has; `None` if another copy is sending it just now.
    pub fn try_claim(&self, reference: &str) -> Option<Claim> {
        let mut uploads = self.uploads();
        if let Some(receiver) = uploads.get(reference) {
            match &*receiver.borrow() {
                State::UnderWay => return None,
                State::Arrived => return Some(Claim::Arrived),
                State::Broken(error) if !error.kind().may_pass() => {
                    return Some(Claim::Broken(error.clone()));
                }
                State::Broken(_) | State::Given => {}
            }
        }
        let (sender, receiver) = watch::channel(State::UnderWay);
        uploads.insert(reference.to_owned(), receiver);
        Some(Claim::Mine(Claimed(sender)))
    }

    /// As [`Carriage::try_claim`], but waits for another copy that is sending the blob.
    pub async fn claim(&self, reference: &str) -> Claim {
        loop {
            if let Some(claim) = self.try_claim(reference) {
                return claim;
            }
            let receiver = self.uploads().get(reference).cloned();
            if let Some(mut receiver) = receiver {
                // An error says that the sender is gone, which the next turn sees.
                let state = receiver.wait_for(|state| !matches!(state, State::UnderWay));
                if let Ok(State::Broken(error)) = state.await.as_deref() {
                    return Claim::Broken(error.clone());
                }
            }
        }
    }

    /// Forgets that blobs have arrived, as the destination has lost one: those whose reference begins with `prefix`.
    pub fn forget(&self, prefix: &str) {
        self.holders.distrust(prefix);
        self.uploads().retain(|reference, receiver| {
            !reference.starts_with(prefix) || matches!(&*receiver.borrow(), State::UnderWay)
        });
    }

    /// Waits for the permit to send a blob of so many bytes; `None` if by the pace of those before it, it could not be finished
    /// before the deadline.
    ///
    /// # Errors
    /// [`Error::Internal`] if there are no permits any more.
    pub async fn permit(&self, bytes: u64) -> Result<Option<Permit<'_>>> {
        let permit = self.permits.acquire().await;
        let permit = permit.map_err(|error| Error::Internal(error.to_string()))?;
        let is_worth_it = self.pace.allows(bytes, self.deadline.remaining());
        Ok(is_worth_it.then(|| Permit {
            _permit: permit,
            begin: Instant::now(),
            bytes,
            pace: &self.pace,
        }))
    }

    fn uploads(&self) -> MutexGuard<'_, HashMap<String, watch::Receiver<State>>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The permit to send one blob.
pub struct Permit<'a> {
    _permit: SemaphorePermit<'a>,
    begin: Instant,
    bytes: u64,
    pace: &'a Pace,
}

impl Permit<'_> {
    /// The blob has arrived somewhere, which tells how fast blobs move.
    pub fn arrived(&self) {
        self.pace.saw(self.bytes, self.begin.elapsed());
    }
}

/// The fastest that one blob was seen to move, in bytes per second; nothing is known before the first is done.
#[derive(Default)]
struct Pace(AtomicU64);

/// A smaller blob says nothing of the pace, and has time whenever there is any: requests take longer than its bytes.
const TELLING: u64 = 8 * 1024 * 1024;

impl Pace {
    fn saw(&self, bytes: u64, elapsed: Duration) {
        if bytes >= TELLING {
            let per_second = bytes as f64 / elapsed.as_secs_f64().max(0.001);
            self.0.fetch_max(per_second as u64, Ordering::Relaxed);
        }
    }

    /// Whether `bytes` can be moved in `remaining`, for all that is known. The largest blobs come first, so each invocation begins
    /// at least with one of those, whatever the pace of the last.
    fn allows(&self, bytes: u64, remaining: Duration) -> bool {
        match self.0.load(Ordering::Relaxed) {
            0 => true,
            _ if bytes < TELLING => !remaining.is_zero(),
            per_second => bytes as f64 <= per_second as f64 * remaining.as_secs_f64(),
        }
    }
}

/// What all copies of one invocation share.
pub struct Shared {
    /// Looks of one copy that are under way at once, and blobs of all copies.
    pub concurrency: usize,
    /// The blobs.
    pub carriage: Arc<Carriage>,
    /// What dry runs would copy.
    pub estimate: Estimate,
    /// The memory for manifests.
    pub memory: crate::allowance::Memory,
    /// When the work ends.
    pub deadline: Deadline,
    /// Counts the blobs on their way, if anybody watches them.
    pub movements: Option<Arc<Movements>>,
}

impl Shared {
    /// For one invocation.
    pub fn new(deadline: Deadline, concurrency: usize) -> Self {
        Shared {
            concurrency,
            carriage: Arc::new(Carriage::new(deadline, concurrency)),
            estimate: Estimate::default(),
            memory: crate::allowance::Memory::default(),
            deadline,
            movements: None,
        }
    }

    /// The same, watched through `movements`.
    pub fn watched(self, movements: Arc<Movements>) -> Self {
        Shared {
            movements: Some(movements),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_begins_only_if_it_can_be_finished_at_the_best_pace_seen() {
        const MIB: u64 = 1024 * 1024;
        let pace = Pace::default();
        let second = Duration::from_secs(1);
        pace.saw(1_000, second);
        assert!(pace.allows(u64::MAX, second), "nothing is known yet");
        pace.saw(100 * MIB, 2 * second);
        assert!(pace.allows(50 * MIB, second) && !pace.allows(50 * MIB + 1, second));
        assert!(pace.allows(MIB, second / 1000), "small blobs have time");
        pace.saw(10 * MIB, second);
        assert!(
            pace.allows(50 * MIB, second),
            "smaller blobs are slow for their size"
        );
        pace.saw(300 * MIB, second);
        assert!(pace.allows(300 * MIB, second) && !pace.allows(1, Duration::ZERO));
    }

    #[test]
    fn one_copy_sends_a_blob_and_the_others_hear_of_it() {
        let carriage = Carriage::new(Deadline::of_invocation(0), 1);
        let Some(Claim::Mine(first)) = carriage.try_claim("ecr/a@1") else {
            unreachable!("nobody else claims it")
        };
        assert!(carriage.try_claim("ecr/a@1").is_none());
        drop(first);
        let Some(Claim::Mine(second)) = carriage.try_claim("ecr/a@1") else {
            unreachable!("the first gave it back")
        };
        second.arrived();
        assert!(matches!(
            carriage.try_claim("ecr/a@1"),
            Some(Claim::Arrived)
        ));
        carriage.forget("ecr/a@");
        assert!(matches!(
            carriage.try_claim("ecr/a@1"),
            Some(Claim::Mine(_))
        ));
    }
}
