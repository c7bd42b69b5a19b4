//! Values that a warm process keeps, and reads again when they are old or were refused.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::error::{Kind, Result};

/// After a refusal a value is read again, but not more often than this, so that refusals can't be made to cause a flood of calls.
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);

/// How old a value may be that is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// As old as its lifetime lets it be.
    Kept,
    /// Read again at once, as the kept one was refused.
    AfterRefusal,
    /// Read again in any case: for somebody who may ask, and wants to know how it is now.
    Anew,
}

/// A value that is read from elsewhere and kept for some time.
#[derive(Debug)]
pub struct Kept<T>(Mutex<Option<Entry<T>>>);

#[derive(Debug)]
struct Entry<T> {
    value: T,
    expires_at: Instant,
    /// When it was last read because of a refusal.
    refreshed_at: Option<Instant>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Kept(Mutex::new(None))
    }
}

impl<T: Clone> Kept<T> {
    /// The value at hand, or what `read` gives, with the time for which it may be kept. Several that ask at once cause one read.
    ///
    /// # Errors
    /// What `read` failed with.
    pub async fn get(
        &self,
        freshness: Freshness,
        read: impl AsyncFnOnce() -> Result<(T, Duration)>,
    ) -> Result<T> {
        let mut entry = self.0.lock().await;
        let now = Instant::now();
        let is_usable = |entry: &Entry<T>| {
            let is_refreshed = entry
                .refreshed_at
                .is_some_and(|at| now - at < REFRESH_INTERVAL);
            let is_fresh = match freshness {
                Freshness::Kept => true,
                Freshness::AfterRefusal => is_refreshed,
                Freshness::Anew => false,
            };
            is_fresh && entry.expires_at > now
        };
        if let Some(entry) = entry.as_ref().filter(|entry| is_usable(entry)) {
            return Ok(entry.value.clone());
        }
        let (value, lifetime) = read().await?;
        *entry = Some(Entry {
            value: value.clone(),
            expires_at: now + lifetime,
            refreshed_at: (freshness != Freshness::Kept).then_some(now),
        });
        Ok(value)
    }

    /// The value that was last read, however old it is.
    pub async fn last(&self) -> Option<T> {
        self.0
            .lock()
            .await
            .as_ref()
            .map(|entry| entry.value.clone())
    }
}

/// So many values are kept of one sort, so that a warm process does not grow.
const VALUES_LIMIT: usize = 1000;

/// Values of one sort, by what they are about.
#[derive(Debug)]
pub struct KeptBy<K, T>(SyncMutex<HashMap<K, Arc<Kept<T>>>>);

impl<K, T> Default for KeptBy<K, T> {
    fn default() -> Self {
        KeptBy(SyncMutex::default())
    }
}

impl<K: Eq + Hash, T> KeptBy<K, T> {
    /// The value that is about `key`, which may not have been read yet.
    pub fn of(&self, key: K) -> Arc<Kept<T>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= VALUES_LIMIT && !kept.contains_key(&key) {
            kept.clear();
        }
        kept.entry(key).or_default().clone()
    }
}

/// Attempts something with the value at hand. If that is refused and the value has been replaced meanwhile, attempts it once more
/// with the new one.
///
/// # Errors
/// What the value or the last attempt failed with.
pub async fn with_renewal<V, T, R, A>(
    value: impl Fn(Freshness) -> R,
    attempt: impl Fn(V) -> A,
) -> Result<T>
where
    V: Clone + PartialEq,
    R: Future<Output = Result<V>>,
    A: Future<Output = Result<T>>,
{
    let kept = value(Freshness::Kept).await?;
    let result = attempt(kept.clone()).await;
    if !result
        .as_ref()
        .is_err_and(|error| error.kind() == Kind::Denied)
    {
        return result;
    }
    let fresh = value(Freshness::AfterRefusal).await?;
    if fresh == kept {
        return result;
    }
    attempt(fresh).await
}

#[cfg(test)]
impl<T> Kept<T> {
    /// As if the lifetime of the value were over.
    pub(crate) async fn expire(&self) {
        if let Some(entry) = self.0.lock().await.as_mut() {
            entry.expires_at = Instant::now();
        }
    }
}
