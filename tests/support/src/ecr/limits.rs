//! Request rates: a token bucket for each API action.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Refusal;
use crate::http;

/// Requests per second of the actions of a push, in an account without raised quotas.
/// (ECR user guide, "Amazon ECR service quotas")
pub(super) const DEFAULT_QUOTAS: [(&str, u32); 6] = [
    ("BatchCheckLayerAvailability", 1000),
    ("BatchGetImage", 2000),
    ("CompleteLayerUpload", 100),
    ("InitiateLayerUpload", 100),
    ("PutImage", 10),
    ("UploadLayerPart", 500),
];

/// The actions with a limit, and their buckets.
#[derive(Default)]
pub(super) struct Limits(BTreeMap<String, Bucket>);

/// Holds as many tokens as may be spent in one `period`, and is full at first.
struct Bucket {
    period: Duration,
    /// The time in which one token is added.
    interval: Duration,
    /// When it would be full again if no more tokens were taken. How many it holds now follows from that.
    full_at: Instant,
    refused: u64,
}

impl Limits {
    /// From now on `action` may be requested `requests` times in each `period`; at least once.
    pub(super) fn set(&mut self, action: &str, requests: u32, period: Duration, now: Instant) {
        let bucket = Bucket {
            period,
            interval: period / requests,
            full_at: now,
            refused: 0,
        };
        self.0.insert(action.to_owned(), bucket);
    }

    /// Takes a token for each of `actions`; or takes none, and counts a refusal for each whose bucket is empty.
    pub(super) fn admit(&mut self, actions: &[&str], now: Instant) -> Result<(), Refusal> {
        let mut is_refused = false;
        for (_, bucket) in self.of(actions) {
            let is_empty = bucket.after_one_more(now) > now + bucket.period;
            bucket.refused += u64::from(is_empty);
            is_refused |= is_empty;
        }
        if is_refused {
            let refusal = http::oci_error(429, "TOOMANYREQUESTS", "Rate exceeded");
            return Err(Box::new(refusal));
        }
        for (_, bucket) in self.of(actions) {
            bucket.full_at = bucket.after_one_more(now);
        }
        Ok(())
    }

    /// How many requests were refused because of `action`.
    pub(super) fn refused(&self, action: &str) -> u64 {
        self.0.get(action).map_or(0, |bucket| bucket.refused)
    }

    fn of(&mut self, actions: &[&str]) -> impl Iterator<Item = (&String, &mut Bucket)> {
        self.0
            .iter_mut()
            .filter(|(action, _)| actions.contains(&action.as_str()))
    }
}

impl Bucket {
    fn after_one_more(&self, now: Instant) -> Instant {
        self.full_at.max(now) + self.interval
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn admitted(limits: &mut Limits, actions: &[&str], now: Instant, tries: usize) -> usize {
        (0..tries)
            .filter(|_| limits.admit(actions, now).is_ok())
            .count()
    }

    #[test]
    fn a_bucket_holds_one_periods_worth_and_fills_evenly() {
        let start = Instant::now();
        let mut limits = Limits::default();
        limits.set("PutImage", 10, SECOND, start);
        for (milliseconds, tokens) in [(0, 10), (99, 0), (300, 3), (60_000, 10)] {
            let now = start + Duration::from_millis(milliseconds);
            assert_eq!(admitted(&mut limits, &["PutImage"], now, 12), tokens);
        }
        assert_eq!(limits.refused("PutImage"), 2 + 12 + 9 + 2);
    }
}
