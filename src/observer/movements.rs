//! Blobs on their way, for whoever watches: counted where the bytes move, looked at whenever the watcher likes. Nobody waits for
//! him, and where there is none, nothing is counted.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::manifest::Digest;

/// The blobs of all copies of one invocation.
#[derive(Debug, Default)]
pub struct Movements {
    expected: AtomicU64,
    blobs: Mutex<Vec<Arc<Movement>>>,
}

/// One try to bring a blob to its destinations.
#[derive(Debug)]
pub struct Movement {
    /// The blob.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
    moved: AtomicU64,
    state: AtomicU8,
}

/// Where a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// On its way.
    UnderWay,
    /// At a destination.
    Arrived,
    /// Nowhere: the try failed, or was given up.
    BrokenOff,
}

/// Held by whoever moves a blob. Dropped before the blob has arrived, it says that the try was given up.
#[derive(Debug)]
pub struct Moving(Arc<Movement>);

impl Movements {
    /// So many more bytes are to be moved.
    pub fn expect(&self, bytes: u64) {
        self.expected.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many of the expected bytes need not be moved.
    pub fn spare(&self, bytes: u64) {
        self.expected.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// A blob is begun.
    pub fn begin(&self, digest: Digest, bytes: u64) -> Moving {
        let movement = Arc::new(Movement {
            digest,
            bytes,
            moved: AtomicU64::new(0),
            state: AtomicU8::new(State::UnderWay as u8),
        });
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        blobs.push(movement.clone());
        Moving(movement)
    }

    /// How many bytes there are to move, those included that have moved.
    pub fn expected(&self) -> u64 {
        self.expected.load(Ordering::Relaxed)
    }

    /// The blobs on their way, and those that have ended since the last look, in the order in which they began. Each is seen to end
    /// once.
    pub fn look(&self) -> Vec<(Arc<Movement>, State)> {
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        let seen: Vec<_> = blobs
            .iter()
            .map(|blob| (blob.clone(), blob.state()))
            .collect();
        let on_their_way = seen.iter().filter(|(_, state)| *state == State::UnderWay);
        *blobs = on_their_way.map(|(blob, _)| blob.clone()).collect();
        seen
    }
}

impl Movement {
    /// How many bytes have moved.
    pub fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Where the blob is.
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            state if state == State::Arrived as u8 => State::Arrived,
            state if state == State::BrokenOff as u8 => State::BrokenOff,
            _ => State::UnderWay,
        }
    }

    /// So many more bytes have moved.
    pub fn add(&self, bytes: usize) {
        self.moved.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Moving {
    /// For whoever counts the bytes.
    pub fn movement(&self) -> Arc<Movement> {
        self.0.clone()
    }

    /// The blob has arrived at a destination.
    pub fn arrived(&self) {
        self.0.state.store(State::Arrived as u8, Ordering::Release);
    }

    /// Whether it has.
    pub fn has_arrived(&self) -> bool {
        self.0.state() == State::Arrived
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        if !self.has_arrived() {
            self.0
                .state
                .store(State::BrokenOff as u8, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_blob_is_seen_until_it_has_been_seen_to_end() {
        let movements = Movements::default();
        let first = movements.begin(Digest::of(b"first"), 5);
        let second = movements.begin(Digest::of(b"second"), 6);
        first.movement().add(2);
        first.movement().add(3);
        first.arrived();
        drop(second);
        let seen = movements.look();
        let states: Vec<_> = seen
            .iter()
            .map(|(blob, state)| (blob.moved(), *state))
            .collect();
        assert_eq!(states, [(5, State::Arrived), (0, State::BrokenOff)]);
        assert!(movements.look().is_empty());
    }
}
