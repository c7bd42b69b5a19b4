//! The one owner of an invocation's time.
//!
//! Lambda kills a process at its deadline without a word, so all work ends before: calls of registries and of AWS, listings,
//! waits. After the work there is a little time left to settle messages and to answer.

use std::time::{Duration, Instant, SystemTime};

use crate::error::{Error, Result};

/// Kept back from Lambda's deadline, to settle messages and to answer.
const MARGIN: Duration = Duration::from_secs(2);

/// Kept back from Lambda's deadline when work is over: enough to write the log and the reply.
const LAST_MARGIN: Duration = Duration::from_millis(300);

/// Kept back from the end when somebody is told what was done, which matters less than to settle it.
const SETTLING: Duration = Duration::from_secs(1);

/// When the work of an invocation has to end, and when everything has to.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    work: Instant,
    end: Instant,
}

impl Deadline {
    /// The deadline that Lambda gives as milliseconds since 1970.
    pub fn of_invocation(milliseconds: u64) -> Self {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds);
        let remaining = at.duration_since(SystemTime::now()).unwrap_or_default();
        let now = Instant::now();
        Deadline {
            work: now + remaining.saturating_sub(MARGIN),
            end: now + remaining.saturating_sub(LAST_MARGIN),
        }
    }

    /// The deadline of what nobody cuts off, as on a laptop: a week. Whatever has stalled for good comes to an end all the same.
    pub fn of_a_week() -> Self {
        let end = Instant::now() + Duration::from_secs(7 * 24 * 60 * 60);
        Deadline { work: end, end }
    }

    /// The same, but the work ends in `limit` from now at the latest.
    pub fn within(self, limit: Duration) -> Self {
        let work = self.work.min(Instant::now() + limit);
        Deadline { work, ..self }
    }

    /// The time that is left to work.
    pub fn remaining(&self) -> Duration {
        self.work.saturating_duration_since(Instant::now())
    }

    /// Whether the time to work is over.
    pub fn is_over(&self) -> bool {
        self.remaining().is_zero()
    }

    /// Works until the deadline. Dropping the work must leave what is done.
    ///
    /// # Errors
    /// [`Error::Deadline`] if the time was over first.
    pub async fn bound<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout_at(self.work.into(), work).await {
            Ok(result) => result,
            Err(_) => Err(Error::Deadline),
        }
    }

    /// Tells somebody of what was done. There is a little time for it after the work's own deadline, and then some to settle.
    ///
    /// # Errors
    /// [`Error::Deadline`] if that time was over first.
    pub async fn bound_telling<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let until = self.end.checked_sub(SETTLING).unwrap_or(self.work);
        match tokio::time::timeout_at(until.into(), work).await {
            Ok(result) => result,
            Err(_) => Err(Error::Deadline),
        }
    }

    /// Settles what the work has left to settle: a message's fate. There is time for it after the work's own deadline.
    ///
    /// # Errors
    /// [`Error::Deadline`] if that time was over first, too.
    pub async fn bound_settling<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout_at(self.end.into(), work).await {
            Ok(result) => result,
            Err(_) => Err(Error::Deadline),
        }
    }
}
