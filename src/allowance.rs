//! How much memory the manifests of one invocation may take.
//!
//! Manifests are held from the moment when they are read until they are pushed. Ordinary images need some tens of kilobytes;
//! one with a hundred thousand layers needs megabytes, and an event may name several. Each copy may hold a little, and one copy
//! at a time may hold much: so the process stays small, whatever the images are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use crate::manifest::MANIFESTS_LIMIT;

/// What every copy may hold, in bytes.
const SMALL: u64 = 512 * 1024;

/// Gives each copy of an invocation its [`Allowance`].
#[derive(Debug)]
pub struct Memory(Arc<Semaphore>);

impl Default for Memory {
    fn default() -> Self {
        Memory(Arc::new(Semaphore::new(1)))
    }
}

impl Memory {
    /// The allowance of one copy.
    pub fn allowance(&self) -> Allowance {
        Allowance {
            large: self.0.clone(),
            held: AtomicU64::new(0),
            permit: OnceCell::new(),
        }
    }
}

/// What one copy holds of manifests, until it is dropped.
#[derive(Debug)]
pub struct Allowance {
    large: Arc<Semaphore>,
    /// Bytes.
    held: AtomicU64,
    /// Held by the one copy that may hold more than [`SMALL`].
    permit: OnceCell<OwnedSemaphorePermit>,
}

impl Allowance {
    /// Takes so many bytes more. A copy that needs much waits until no other copy does.
    ///
    /// # Errors
    /// Says that the manifests of one image have more than [`MANIFESTS_LIMIT`] bytes.
    pub async fn take(&self, bytes: u64) -> Result<(), String> {
        let held = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if held > MANIFESTS_LIMIT {
            return Err(format!(
                "its manifests have more than {MANIFESTS_LIMIT} bytes together"
            ));
        }
        if held > SMALL {
            let permit = self
                .permit
                .get_or_try_init(|| self.large.clone().acquire_owned());
            permit.await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Gives so many bytes back, as they are no longer held.
    pub fn give_back(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}
