//! Counts while a copy runs, so that what was done is known even if it is cut off.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What was written, and the requests that it took.
#[derive(Debug, Default)]
pub struct Tally {
    manifests: AtomicU64,
    blobs: AtomicU64,
    bytes: AtomicU64,
    present_blobs: AtomicU64,
    present_bytes: AtomicU64,
    /// Counted where they are made.
    pub requests: Requests,
}

/// Counters of the requests to each registry, authorization left aside.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    source: Arc<AtomicU64>,
    destination: Arc<AtomicU64>,
}

impl Tally {
    /// One more manifest is at the destination.
    pub fn manifest_pushed(&self) {
        self.manifests.fetch_add(1, Ordering::Relaxed);
    }

    /// One more blob is at the destination, with `bytes` bytes.
    pub fn blob_copied(&self, bytes: u64) {
        self.blobs.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// One more blob, with `bytes` bytes, turned out to be at the destination when its turn came.
    pub fn blob_present(&self, bytes: u64) {
        self.present_blobs.fetch_add(1, Ordering::Relaxed);
        self.present_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Blobs that turned out to be there, and their bytes.
    pub fn present(&self) -> (u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (load(&self.present_blobs), load(&self.present_bytes))
    }

    /// Manifests written so far.
    pub fn manifests(&self) -> u64 {
        self.manifests.load(Ordering::Relaxed)
    }

    /// Blobs written so far.
    pub fn blobs(&self) -> u64 {
        self.blobs.load(Ordering::Relaxed)
    }

    /// Bytes of the blobs written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Requests {
    /// The counter that the source repository counts with.
    pub fn source_counter(&self) -> Arc<AtomicU64> {
        self.source.clone()
    }

    /// The counter that the destination repository counts with.
    pub fn destination_counter(&self) -> Arc<AtomicU64> {
        self.destination.clone()
    }

    /// Requests to the source so far, and to the storage that it redirects to.
    pub fn source(&self) -> u64 {
        self.source.load(Ordering::Relaxed)
    }

    /// Requests to the destination so far.
    pub fn destination(&self) -> u64 {
        self.destination.load(Ordering::Relaxed)
    }
}
