//! How often each of ECR's API actions may be called: limited on our side, before ECR has to refuse.
//!
//! ECR's registry endpoint is a front for its API, so every request to it counts as one of these actions, per account and
//! Region. (Amazon ECR user guide, "Service quotas")

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The actions that a copy needs. A blob that goes up in one PUT is one `CompleteLayerUpload`, and the quota of its
/// `UploadLayerPart` (500/s) is never the one that is met first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Reading a manifest, or asking for its digest.
    BatchGetImage,
    /// Asking for a blob.
    BatchCheckLayerAvailability,
    /// Opening an upload session.
    InitiateLayerUpload,
    /// Sending a blob.
    CompleteLayerUpload,
    /// Writing a manifest.
    PutImage,
}

impl Action {
    /// ECR's default quota, in requests per second.
    fn quota(self) -> f64 {
        match self {
            Action::BatchGetImage => 2_000.0,
            Action::BatchCheckLayerAvailability => 1_000.0,
            Action::InitiateLayerUpload | Action::CompleteLayerUpload => 100.0,
            Action::PutImage => 10.0,
        }
    }
}

/// One token bucket for each action at one registry, that is, in one account and Region.
#[derive(Debug, Default)]
pub struct Budget {
    buckets: [Mutex<Option<Bucket>>; 5],
}

impl Budget {
    /// Waits until there is room for one more request. A request that waits has its place; one that gives up gives it to those that
    /// come after: a copy that failed must not hold up the next one in the same process.
    pub async fn take(&self, action: Action) {
        let wait = self.with(action, |bucket, _| bucket.take());
        if !wait.is_zero() {
            let mut turn = Turn {
                budget: self,
                action,
                is_over: false,
            };
            tokio::time::sleep(wait).await;
            turn.is_over = true;
        }
    }

    /// ECR refused one: others in the account use the quota too. From now on there is less room, which grows back in time.
    pub fn refused(&self, action: Action) {
        self.with(action, Bucket::refused);
    }

    fn with<T>(&self, action: Action, change: impl FnOnce(&mut Bucket, Instant) -> T) -> T {
        let now = Instant::now();
        let bucket = &self.buckets[action as usize];
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = bucket.get_or_insert_with(|| Bucket::new(action.quota(), now));
        bucket.refill(now);
        change(bucket, now)
    }
}

/// The place of a request that waits.
struct Turn<'a> {
    budget: &'a Budget,
    action: Action,
    is_over: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.budget
                .with(self.action, |bucket, _| bucket.tokens += 1.0);
        }
    }
}

/// How long it takes until the whole quota is used again after a refusal.
const RECOVERY: Duration = Duration::from_secs(60);

/// Refusals within this time count as one: their requests were under way already when the first came back.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(1);

/// Holds one second's worth. Below zero, that much is promised to requests that wait.
#[derive(Debug)]
struct Bucket {
    quota: f64,
    /// Tokens per second, at most the quota.
    rate: f64,
    tokens: f64,
    filled_at: Instant,
    refused_at: Option<Instant>,
}

impl Bucket {
    fn new(quota: f64, now: Instant) -> Self {
        Bucket {
            quota,
            rate: quota,
            tokens: quota,
            filled_at: now,
            refused_at: None,
        }
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.filled_at = now;
        self.tokens = (self.tokens + elapsed * self.rate).min(self.rate);
        let growth = self.quota * elapsed / RECOVERY.as_secs_f64();
        self.rate = (self.rate + growth).min(self.quota);
    }

    /// Takes one token, and says how long to wait for it.
    fn take(&mut self) -> Duration {
        self.tokens -= 1.0;
        Duration::from_secs_f64((-self.tokens).max(0.0) / self.rate)
    }

    fn refused(&mut self, now: Instant) {
        let is_another = |at: Instant| now.saturating_duration_since(at) >= REFUSAL_INTERVAL;
        if self.refused_at.is_none_or(is_another) {
            self.rate = (self.rate / 2.0).max(self.quota / 64.0);
            self.refused_at = Some(now);
        }
        self.tokens = self.tokens.min(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn waits(bucket: &mut Bucket, times: usize) -> Vec<u128> {
        (0..times).map(|_| bucket.take().as_millis()).collect()
    }

    #[test]
    fn one_seconds_worth_goes_at_once_and_the_rest_in_step() {
        let now = Instant::now();
        let mut bucket = Bucket::new(10.0, now);
        let expected = [vec![0; 10], vec![100, 200, 300]].concat();
        assert_eq!(waits(&mut bucket, 13), expected);
        // Three of these ten are promised to requests that wait.
        let later = now + SECOND;
        bucket.refill(later);
        assert_eq!(waits(&mut bucket, 8), [vec![0; 7], vec![100]].concat());
        let much_later = later + 60 * SECOND;
        bucket.refill(much_later);
        assert_eq!(waits(&mut bucket, 11)[9..], [0, 100]);
    }

    #[test]
    fn refusals_halve_the_rate_once_a_second_and_time_mends_it() {
        let now = Instant::now();
        let mut bucket = Bucket::new(10.0, now);
        for _ in 0..7 {
            bucket.refused(now);
        }
        assert_eq!(waits(&mut bucket, 2), [200, 400]);
        let later = now + SECOND;
        bucket.refused(later);
        assert!((bucket.rate - 2.5).abs() < 0.01, "{}", bucket.rate);
        for seconds in 2..20 {
            bucket.refused(now + seconds * SECOND);
        }
        assert!(
            bucket.rate > 0.1,
            "it never comes to a stand: {}",
            bucket.rate
        );
        bucket.refill(later + 80 * SECOND);
        assert!((bucket.rate - 10.0).abs() < 0.01, "{}", bucket.rate);
    }
}
