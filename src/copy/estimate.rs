//! What the copies that dry runs plan come to: how many images, how many bytes, and what ECR asks for them a month.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::plan::Plan;
use crate::manifest::Digest;

/// What ECR asks for a gigabyte that is stored for a month, in US dollars; a gigabyte is taken for 10⁹ bytes.
/// (Amazon ECR pricing, 2026)
const USD_PER_GIGABYTE: f64 = 0.10;

/// Adds up plans. A repository stores a blob once, however many of its images have it.
#[derive(Default)]
pub struct Estimate(Mutex<Planned>);

#[derive(Default)]
struct Planned {
    images: u64,
    bytes: u64,
    /// By repository.
    blobs: HashMap<String, HashSet<Digest>>,
}

/// What was added up.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sum {
    /// Images that would be copied, one for each destination.
    pub images: u64,
    /// Bytes of the blobs that would be copied, each counted once for each repository.
    pub bytes: u64,
    /// What they cost a month at ECR's price for private repositories, in US dollars and whole cents.
    pub monthly_usd: f64,
}

impl Estimate {
    /// Adds what would be copied to a repository, `host/name`.
    pub(super) fn add(&self, repository: String, plan: &Plan) {
        let mut planned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let planned = &mut *planned;
        planned.images += 1;
        let known = planned.blobs.entry(repository).or_default();
        for blob in &plan.blobs {
            if known.insert(blob.digest) {
                planned.bytes = planned.bytes.saturating_add(blob.size);
            }
        }
    }

    /// What was added so far; `None` if it is nothing.
    pub fn sum(&self) -> Option<Sum> {
        let planned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let cents = planned.bytes as f64 / 1e9 * USD_PER_GIGABYTE * 100.0;
        (planned.images > 0).then(|| Sum {
            images: planned.images,
            bytes: planned.bytes,
            monthly_usd: cents.ceil() / 100.0,
        })
    }
}
