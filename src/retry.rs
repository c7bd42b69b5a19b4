//! The one retry: which errors are worth another try, how often, and how long to wait.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use crate::error::{Error, Kind, Result};
use crate::observer::{Happened, Observer};

/// Tries after the first one.
const RETRIES: usize = 4;

/// Tries after the first one as long as the registry only asks for patience: to be throttled is no failure.
const THROTTLED_RETRIES: usize = 8;

/// Where a registry or API asks for a longer wait, nothing is tried again in this invocation.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The tries of one operation.
#[derive(Default)]
pub struct Retry {
    /// Tries that failed, and those of them that were only asked for patience.
    tries: usize,
    throttled: usize,
    delays: Option<ExponentialBackoff>,
}

impl Retry {
    /// How many tries have failed and were followed by another one.
    pub fn tries(&self) -> usize {
        self.tries
    }

    /// Whether to try once more after `error`.
    ///
    /// [`Kind::Transient`] is tried again four times, and as long as the operation is only throttled another eight times. Content that
    /// is not what it should be is looked at once more, as it may have been damaged on the way; then it is believed. The
    /// invocation's deadline ends it from outside.
    pub fn is_worth_it(&self, error: &Error) -> bool {
        match (error.kind(), error.retry_after()) {
            (Kind::Transient, Some(wait)) => {
                wait <= LONGEST_WAIT && self.throttled < THROTTLED_RETRIES
            }
            // The same manifest is refused again until its parts are there again.
            (Kind::Transient, None) => {
                let failed = self.tries - self.throttled;
                !matches!(error, Error::PartMissing { .. }) && failed < RETRIES
            }
            _ => matches!(error, Error::Content { .. }) && self.tries == 0,
        }
    }

    /// Waits until it is time for the next try: 0.2 s, doubling up to 10 s, with jitter, and not before a `Retry-After` is over.
    pub async fn wait(&mut self, error: &Error, observer: &Observer) {
        let delays = self.delays.get_or_insert_with(|| {
            ExponentialBuilder::default()
                .with_min_delay(Duration::from_millis(200))
                .with_max_delay(Duration::from_secs(10))
                .without_max_times()
                .with_jitter()
                .build()
        });
        let asked_for = error.retry_after().unwrap_or_default();
        let delay = delays.next().unwrap_or_default().max(asked_for);
        self.tries += 1;
        self.throttled += usize::from(error.retry_after().is_some());
        observer.saw(Happened::Retry);
        tracing::info!(%error, delay_ms = delay.as_millis() as u64, "trying again");
        tokio::time::sleep(delay).await;
    }
}

/// Runs `operation` until it succeeds, fails for good, or has failed too often; see [`Retry::is_worth_it`]. `observer` counts the
/// further tries.
///
/// # Errors
/// The last error.
pub async fn retry<T, F>(observer: &Observer, mut operation: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut retry = Retry::default();
    loop {
        match operation().await {
            Err(error) if retry.is_worth_it(&error) => retry.wait(&error, observer).await,
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transient(retry_after: Option<Duration>) -> Error {
        Error::Api {
            operation: "list packages",
            subject: "acme".to_owned(),
            kind: Kind::Transient,
            detail: String::new(),
            advice: "",
            retry_after,
        }
    }

    #[test]
    fn to_be_throttled_takes_no_try_from_what_fails() {
        let retry = |failed, throttled| Retry {
            tries: failed + throttled,
            throttled,
            delays: None,
        };
        assert!(retry(RETRIES - 1, THROTTLED_RETRIES).is_worth_it(&transient(None)));
        assert!(!retry(RETRIES, 0).is_worth_it(&transient(None)));
        let second = Some(Duration::from_secs(1));
        assert!(retry(RETRIES, THROTTLED_RETRIES - 1).is_worth_it(&transient(second)));
    }

    #[test]
    fn a_wait_of_more_than_a_minute_is_left_to_the_next_invocation() {
        let throttled = |retry_after| transient(Some(retry_after));
        let tried = |throttled| Retry {
            tries: throttled,
            throttled,
            delays: None,
        };
        let minute = Duration::from_secs(60);
        assert!(tried(0).is_worth_it(&throttled(minute)));
        assert!(tried(THROTTLED_RETRIES - 1).is_worth_it(&throttled(minute)));
        assert!(!tried(THROTTLED_RETRIES).is_worth_it(&throttled(minute)));
        assert!(!tried(0).is_worth_it(&throttled(minute + Duration::from_secs(1))));
    }
}
