//! How far each plan of a transfer is carried out: what waits for what, and what comes next. Nothing here speaks to a registry.

use super::plan::Plan;
use crate::error::{Error, Result};
use crate::manifest::Descriptor;

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

/// What became of a blob at one destination.
pub(super) enum Carried {
    /// It is there.
    Arrived,
    /// There is no time left for it.
    NotBegun,
}

/// A step of a plan that is done. Blobs and manifests are named by their position in the plan.
pub(super) enum Step {
    /// A blob.
    Blob(u32, Result<Carried>),
    /// A manifest, pushed by its digest.
    Manifest(u32, Result<()>),
    /// The tag.
    Tag(Result<End>),
}

/// The blobs of all plans, the largest first, each once with the plans that lack it and its position in them. All plans have
/// the same order, so the next blob is the first of those that come next in each.
pub(super) struct Merged<'a> {
    plans: &'a [(usize, Plan)],
    next: Vec<usize>,
}

impl<'a> Merged<'a> {
    pub(super) fn new(plans: &'a [(usize, Plan)]) -> Self {
        Merged {
            plans,
            next: vec![0; plans.len()],
        }
    }
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
pub(super) struct Progress<'a> {
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
    is_over: bool,
    is_tag_begun: bool,
}

impl<'a> Progress<'a> {
    pub(super) fn new(plan: &'a Plan) -> Self {
        let mut progress = Progress {
            plan,
            waits_for: Vec::with_capacity(plan.manifests.len()),
            blob_waiters: Vec::new(),
            manifest_waiters: Vec::new(),
            ready: Vec::new(),
            left: plan.blobs.len() + plan.manifests.len(),
            is_cut: false,
            is_over: false,
            is_tag_begun: false,
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

    /// Whether the plan has ended.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// The manifests that may be pushed now. When all are there, the position after the last one stands for the tag.
    pub(super) fn ready(&mut self) -> Vec<u32> {
        if self.is_over {
            return Vec::new();
        }
        if self.left == 0 && !self.is_tag_begun {
            self.is_tag_begun = true;
            return vec![self.plan.manifests.len() as u32];
        }
        std::mem::take(&mut self.ready)
    }

    /// Notes what is done. Gives the plan's end if that ends it: of several failures, the first tells most.
    pub(super) fn done(&mut self, step: Step) -> Option<End> {
        if self.is_over {
            return None;
        }
        let end = match step {
            Step::Blob(position, Ok(Carried::Arrived)) => {
                self.arrived(waiters(&self.blob_waiters, position));
                return None;
            }
            Step::Manifest(position, Ok(())) => {
                self.arrived(waiters(&self.manifest_waiters, position));
                return None;
            }
            Step::Blob(_, Ok(Carried::NotBegun)) => {
                self.is_cut = true;
                return None;
            }
            Step::Tag(Ok(end)) => end,
            Step::Blob(_, Err(error)) | Step::Manifest(_, Err(error)) | Step::Tag(Err(error)) => {
                End::Failed(error)
            }
        };
        self.is_over = true;
        Some(end)
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

    /// The end of a plan for which nothing more can be done, unless it has ended.
    pub(super) fn end_of_time(self) -> Option<End> {
        match (self.is_over, self.is_cut) {
            (true, _) => None,
            (false, true) => Some(End::Failed(Error::Deadline)),
            (false, false) => Some(End::Failed(Error::Internal(
                "a plan was not carried out to its end".to_owned(),
            ))),
        }
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
