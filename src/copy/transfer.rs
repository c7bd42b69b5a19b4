//! Carries out the plans of all destinations together: each blob is read once and goes to every destination that lacks it, each
//! manifest is pushed as soon as what it refers to is there, and then the tag moves.
//!
//! The tag moves last, so that at no moment it stands for something incomplete. Each destination goes its own way to the end; one
//! that fails drops out alone, and alone is tried again.

use std::collections::VecDeque;
use std::time::Instant;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::carry::Shared;
use super::plan::Plan;
use super::progress::{End, Merged, Progress, Step};
use super::sending::{Load, Sending};
use crate::error::Error;
use crate::manifest::Digest;
use crate::reference::Version;
use crate::registry::Repository;

/// The plans of one image, and what it takes to carry them out.
pub(super) struct Transfer<'a> {
    pub(super) source: &'a Repository,
    pub(super) version: &'a Version,
    /// What the source's tag stood for when it was looked at.
    pub(super) source_digest: Digest,
    /// When that was.
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
        let (tell, mut told) = mpsc::unbounded_channel();
        let sending = Sending::new(self, tell);
        let mut running = Running::new(self, &sending);
        if let Some(movements) = &self.shared.movements {
            let blobs = Merged::new(self.plans);
            movements.expect(blobs.map(|(blob, _)| blob.size).sum());
        }
        loop {
            while let Ok(step) = told.try_recv() {
                running.note(step, &mut ended);
            }
            if running.is_over() {
                return;
            }
            running.push_what_is_ready();
            running.send_blobs(&told);
            if running.under_way.is_empty() && told.is_empty() {
                break;
            }
            // A blob is told of at each destination as soon as it is there, while it may still be on its way to others.
            tokio::select! {
                Some(step) = told.recv() => running.note(step, &mut ended),
                Some(done) = running.under_way.next() => match done {
                    Done::Step(step) => running.note(step, &mut ended),
                    Done::Blob(what, left) => running.sent(what, left),
                },
            }
        }
        for (position, progress) in running.progress.into_iter().enumerate() {
            if let Some(end) = progress.end_of_time() {
                ended(position, end);
            }
        }
    }

    pub(super) fn destination(&self, plan: usize) -> &Repository {
        &self.destinations[self.plans[plan].0]
    }
}

/// What one transfer has under way, and how far its plans are carried out.
struct Running<'a> {
    transfer: &'a Transfer<'a>,
    sending: &'a Sending<'a>,
    progress: Vec<Progress<'a>>,
    /// The blobs that are not begun.
    blobs: Merged<'a>,
    /// Blobs to try again, in their turn.
    postponed: VecDeque<Load>,
    /// Blobs, and manifests as soon as they may go.
    under_way: FuturesUnordered<BoxFuture<'a, Done>>,
    /// How many of them are first tries, and how many are further ones.
    reads: usize,
    tries: usize,
    /// Whether the image will be looked at once more for a destination that has lost a part of it.
    is_to_be_resumed: bool,
}

/// Why a blob is under way.
#[derive(Clone, Copy)]
enum What {
    /// Its first try, for every destination that is well.
    Read,
    /// A further try.
    Try,
    /// Another copy, or another plan, sends it.
    Wait,
}

/// Something that is no longer under way.
enum Done {
    /// A manifest or a tag.
    Step((usize, Step)),
    /// A blob, and what has to be tried again of it.
    Blob(What, Option<Load>),
}

impl<'a> Running<'a> {
    fn new(transfer: &'a Transfer<'a>, sending: &'a Sending<'a>) -> Self {
        let plans = transfer.plans.iter();
        Running {
            transfer,
            sending,
            progress: plans.map(|(_, plan)| Progress::new(plan)).collect(),
            blobs: Merged::new(transfer.plans),
            postponed: VecDeque::new(),
            under_way: FuturesUnordered::new(),
            reads: 0,
            tries: 0,
            is_to_be_resumed: false,
        }
    }

    /// Notes a step that is done, and tells `ended` of the plan that it ends.
    fn note(&mut self, (plan, step): (usize, Step), ended: &mut impl FnMut(usize, End)) {
        if let Some(end) = self.progress[plan].done(step) {
            self.sending.standing.ended(plan);
            self.is_to_be_resumed |= matches!(end, End::Failed(Error::PartMissing { .. }));
            ended(plan, end);
        }
    }

    /// Notes a blob that is no longer under way.
    fn sent(&mut self, what: What, left: Option<Load>) {
        match what {
            What::Read => self.reads -= 1,
            What::Try => self.tries -= 1,
            What::Wait => {}
        }
        self.postponed.extend(left);
    }

    /// Whether there is nothing left to do. What is still on its way when every plan has ended is of plans that have failed; it is
    /// thrown away, but not where the image is looked at once more.
    fn is_over(&self) -> bool {
        self.has_ended() && (!self.is_to_be_resumed || self.reads == 0)
    }

    fn has_ended(&self) -> bool {
        self.progress.iter().all(Progress::is_over)
    }

    fn push_what_is_ready(&mut self) {
        let transfer = self.transfer;
        for (plan, progress) in self.progress.iter_mut().enumerate() {
            for manifest in progress.ready() {
                let step = transfer.step(plan, manifest).map(Done::Step);
                self.under_way.push(step.boxed());
            }
        }
    }

    /// Begins as many blobs as may be under way. What is settled without sending anything is `told`, and has to be noted before more
    /// is claimed: of an image that another copy has sent, that is every blob.
    ///
    /// As long as some destination is well, it is not slowed down for those that fail: they are tried again beside it. Where all of
    /// them fail, what is tried again takes the place of what would be tried next.
    fn send_blobs(&mut self, told: &UnboundedReceiver<(usize, Step)>) {
        let (sending, concurrency) = (self.sending, self.transfer.shared.concurrency);
        let is_any_well = sending.standing.is_any_well(self.progress.len());
        let (taken, turns) = match is_any_well {
            true => (0, concurrency.div_ceil(2)),
            false => (self.tries + self.postponed.len(), concurrency),
        };
        let has_ended = self.has_ended();
        while !has_ended
            && told.is_empty()
            && self.reads + taken < concurrency
            && let Some((blob, wanted)) = self.blobs.next()
        {
            let claims = sending.claim(blob, wanted);
            self.postponed.extend(claims.later);
            if let Some(load) = claims.now {
                self.reads += 1;
                self.send(What::Read, sending.send(load));
            }
            for part in claims.elsewhere {
                self.send(What::Wait, sending.wait(blob, part));
            }
        }
        while self.tries < turns
            && let Some(load) = self.postponed.pop_front()
        {
            self.tries += 1;
            self.send(What::Try, sending.send(load));
        }
    }

    fn send(&self, what: What, sent: impl Future<Output = Option<Load>> + Send + 'a) {
        let done = sent.map(move |left| Done::Blob(what, left));
        self.under_way.push(done.boxed());
    }
}
