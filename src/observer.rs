//! Counts of what a copy does, made where it happens.
//!
//! Each repository reports to one [`Observer`] what it does, and so do the survey and the transfer. Reports, progress bars and
//! metrics get their numbers from there and from nowhere else.

mod movements;

use std::sync::atomic::{AtomicU64, Ordering};

pub use self::movements::{Movement, Movements, Moving, State};

/// Something that happened at a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// An HTTP request was sent, authorization left aside: one that is sent again with renewed authorization counts once. A redirect
    /// that is followed is another one.
    Request,
    /// Something is tried once more.
    Retry,
    /// The registry answered 429.
    Throttled,
    /// A manifest was there already.
    ManifestPresent,
    /// A manifest was written.
    ManifestPushed,
    /// A blob of so many bytes was there already.
    BlobPresent(u64),
    /// A blob of so many bytes was written.
    BlobCopied(u64),
    /// A blob came from another repository of the registry.
    BlobMounted,
}

/// Counts what happens at one repository during one copy.
#[derive(Debug, Default)]
pub struct Observer {
    requests: AtomicU64,
    retries: AtomicU64,
    throttled: AtomicU64,
    manifests_present: AtomicU64,
    manifests_pushed: AtomicU64,
    blobs_present: AtomicU64,
    blobs_copied: AtomicU64,
    blobs_mounted: AtomicU64,
    bytes_present: AtomicU64,
    bytes_copied: AtomicU64,
}

/// What an observer has counted so far. Bytes are of blobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// HTTP requests.
    pub requests: u64,
    /// Further tries.
    pub retries: u64,
    /// Answers 429.
    pub throttled: u64,
    /// Manifests that were there already.
    pub manifests_present: u64,
    /// Manifests that were written.
    pub manifests_pushed: u64,
    /// Blobs that were there already.
    pub blobs_present: u64,
    /// Blobs that were written.
    pub blobs_copied: u64,
    /// Blobs that came from another repository of the registry.
    pub blobs_mounted: u64,
    /// Bytes of the blobs that were there already.
    pub bytes_present: u64,
    /// Bytes of the blobs that were written.
    pub bytes_copied: u64,
}

impl Observer {
    /// Counts.
    pub fn saw(&self, happened: Happened) {
        let add = |counter: &AtomicU64, number| _ = counter.fetch_add(number, Ordering::Relaxed);
        match happened {
            Happened::Request => add(&self.requests, 1),
            Happened::Retry => add(&self.retries, 1),
            Happened::Throttled => add(&self.throttled, 1),
            Happened::ManifestPresent => add(&self.manifests_present, 1),
            Happened::ManifestPushed => add(&self.manifests_pushed, 1),
            Happened::BlobPresent(bytes) => {
                add(&self.blobs_present, 1);
                add(&self.bytes_present, bytes);
            }
            Happened::BlobCopied(bytes) => {
                add(&self.blobs_copied, 1);
                add(&self.bytes_copied, bytes);
            }
            Happened::BlobMounted => add(&self.blobs_mounted, 1),
        }
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            requests: load(&self.requests),
            retries: load(&self.retries),
            throttled: load(&self.throttled),
            manifests_present: load(&self.manifests_present),
            manifests_pushed: load(&self.manifests_pushed),
            blobs_present: load(&self.blobs_present),
            blobs_copied: load(&self.blobs_copied),
            blobs_mounted: load(&self.blobs_mounted),
            bytes_present: load(&self.bytes_present),
            bytes_copied: load(&self.bytes_copied),
        }
    }

    /// Forgets what was found to be there already, as the same image is looked at anew.
    pub fn looks_again(&self) {
        for counter in [
            &self.manifests_present,
            &self.blobs_present,
            &self.bytes_present,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

impl Counts {
    /// Whether anything was written.
    pub fn has_progress(&self) -> bool {
        self.manifests_pushed + self.blobs_copied + self.blobs_mounted > 0
    }
}
