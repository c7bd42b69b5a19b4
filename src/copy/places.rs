//! A set of a copy's destinations.

use crate::error::Error;

/// A destination that dropped out, and its error; none if it was late, and is asked again.
pub type Failed = (usize, Option<Error>);

/// Some of a copy's destinations, by their positions: at most 64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places(u64);

impl Places {
    /// Those of the first `count` positions.
    pub fn first(count: usize) -> Self {
        (0..count).fold(Places::default(), Places::with)
    }

    /// These and one more.
    pub fn with(self, place: usize) -> Self {
        Places(self.0 | 1 << place)
    }

    /// These without one.
    pub fn without(self, place: usize) -> Self {
        Places(self.0 & !(1 << place))
    }

    /// These and those.
    pub fn and(self, others: Places) -> Self {
        Places(self.0 | others.0)
    }

    /// These, but not those.
    pub fn except(self, others: Places) -> Self {
        Places(self.0 & !others.0)
    }

    /// Those that are also in `others`.
    pub fn among(self, others: Places) -> Self {
        Places(self.0 & others.0)
    }

    /// Whether `place` is one of them.
    pub fn contains(self, place: usize) -> bool {
        self.0 & 1 << place != 0
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Their positions.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..u64::BITS as usize).filter(move |place| self.contains(*place))
    }

    /// The same error for each of them.
    pub fn each(self, error: &Error) -> impl Iterator<Item = Failed> {
        self.iter().map(|place| (place, Some(error.clone())))
    }
}
