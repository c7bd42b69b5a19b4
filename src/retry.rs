//! The one retry: which errors are worth another try, how often, and how long to wait.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

use crate::error::{Kind, Result};

/// Tries after the first one.
const RETRIES: usize = 4;

/// Runs `operation`, which is told how many tries went before, until it succeeds, fails for good, or has failed
/// four times more. Only [`Kind::Transient`] is tried again: after 0.2 s, doubling, with jitter, and not before a
/// registry's `Retry-After`. The invocation's deadline ends it from outside.
///
/// # Errors
/// The last error.
pub async fn retry<T>(mut operation: impl AsyncFnMut(usize) -> Result<T>) -> Result<T> {
    let mut delays = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(10))
        .with_max_times(RETRIES)
        .with_jitter()
        .build();
    let mut tries = 0;
    loop {
        let error = match operation(tries).await {
            Err(error) if error.kind() == Kind::Transient => error,
            result => return result,
        };
        let Some(delay) = delays.next() else {
            return Err(error);
        };
        tries += 1;
        let delay = delay.max(error.retry_after().unwrap_or_default());
        tracing::info!(%error, delay_ms = delay.as_millis() as u64, "trying again");
        tokio::time::sleep(delay).await;
    }
}
