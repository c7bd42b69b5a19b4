//! What the copies of one invocation share: the deadline, how many blobs may be on their way, and which are.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OnceCell, Semaphore};

use crate::error::{Error, Result};

/// The limits of one invocation.
pub struct Limits {
    /// When the invocation ends. Who makes a copy drops it then.
    pub deadline: Instant,
    /// Requests of one copy under way at once on each side, and blobs of all copies.
    pub concurrency: usize,
    permits: Semaphore,
    pace: Pace,
    /// By reference: `host/repository@digest`.
    uploads: Mutex<HashMap<String, Upload>>,
}

/// What became of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// This copy carried it.
    Here,
    /// Another copy did.
    Elsewhere,
    /// By the pace of those before it, it could not be finished before the deadline.
    NotBegun,
}

/// Set when the blob is at the destination.
type Upload = Arc<OnceCell<()>>;

impl Limits {
    /// At most `concurrency` blobs at once, until `deadline`.
    pub fn new(deadline: Instant, concurrency: usize) -> Self {
        Limits {
            deadline,
            concurrency,
            permits: Semaphore::new(concurrency),
            pace: Pace::default(),
            uploads: Mutex::default(),
        }
    }

    /// Has the blob `reference`, of `size` bytes, carried to the destination by `upload`, unless another copy of this invocation has
    /// done so or is about to: then that one is waited for.
    ///
    /// # Errors
    /// What `upload` failed with.
    pub async fn carry(
        &self,
        reference: &str,
        size: u64,
        upload: impl Future<Output = Result<()>>,
    ) -> Result<Carried> {
        let cell = self
            .uploads()
            .entry(reference.to_owned())
            .or_default()
            .clone();
        let mut carried = Carried::Elsewhere;
        let done = cell.get_or_try_init(async || {
            let permit = self.permits.acquire().await;
            let _permit = permit.map_err(|error| Some(Error::Internal(error.to_string())))?;
            let begin = Instant::now();
            let remaining = self.deadline.saturating_duration_since(begin);
            if !self.pace.allows(size, remaining) {
                return Err(None);
            }
            upload.await.map_err(Some)?;
            self.pace.saw(size, begin.elapsed());
            carried = Carried::Here;
            Ok(())
        });
        match done.await {
            Ok(()) => Ok(carried),
            Err(None) => Ok(Carried::NotBegun),
            Err(Some(error)) => Err(error),
        }
    }

    fn uploads(&self) -> std::sync::MutexGuard<'_, HashMap<String, Upload>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
