//! The one retry: which errors are worth another try, how often, and how long to wait.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

use crate::error::{Error, Kind, Result};

/// Tries after the first one.
const RETRIES: usize = 4;

/// Tries after the first one as long as the registry only asks for patience: to be throttled is no failure.
const THROTTLED_RETRIES: usize = 8;

/// Runs `operation`, which is told how many tries went before, until it succeeds, fails for good, or has failed too often: four
/// times more, or eight times if it was throttled.
///
/// [`Kind::Transient`] is tried again: after 0.2 s, doubling up to 10 s, with jitter, and not before a registry's `Retry-After`.
/// Content that is not what it should be is looked at once more, as it may have been damaged on the way; then it is believed.
/// The invocation's deadline ends it from outside.
///
/// # Errors
/// The last error.
pub async fn retry<T, F>(mut operation: impl FnMut(usize) -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut tries = 0;
    let mut delays = None;
    loop {
        let error = match operation(tries).await {
            Err(error) if is_worth_another_try(&error, tries) => error,
            result => return result,
        };
        let delays = delays.get_or_insert_with(|| {
            ExponentialBuilder::default()
                .with_min_delay(Duration::from_millis(200))
                .with_max_delay(Duration::from_secs(10))
                .without_max_times()
                .with_jitter()
                .build()
        });
        let asked_for = error.retry_after().unwrap_or_default();
        let delay = delays.next().unwrap_or_default().max(asked_for);
        tries += 1;
        tracing::info!(%error, delay_ms = delay.as_millis() as u64, "trying again");
        tokio::time::sleep(delay).await;
    }
}

fn is_worth_another_try(error: &Error, tries: usize) -> bool {
    match error.kind() {
        Kind::Transient if error.retry_after().is_some() => tries < THROTTLED_RETRIES,
        Kind::Transient => tries < RETRIES,
        _ => matches!(error, Error::Content { .. }) && tries == 0,
    }
}
