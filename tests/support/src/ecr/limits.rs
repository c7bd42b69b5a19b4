//! Request rates: a token bucket for each API action, as ECR's service quotas have them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Refusal;
use crate::http;

/// Requests per second of the actions that a push consists of, in an account that has not asked for more.
/// (ECR user guide, "Amazon ECR service quotas")
pub(super) const DEFAULT_QUOTAS: [(&str, u32); 6] = [
    ("BatchCheckLayerAvailability", 1000),
    ("BatchGetImage", 2000),
    ("CompleteLayerUpload", 100),
    ("InitiateLayerUpload", 100),
    ("PutImage", 10),
    ("UploadLayerPart", 500),
];

/// The actions that are limited; the others are not.
#[derive(Default)]
pub(super) struct Limits(BTreeMap<String, Bucket>);

/// Holds as many tokens as may be spent in one `period`, and is full at first. How full it is follows from when it would be full
/// again if nobody took anything more.
struct Bucket {
    period: Duration,
    /// The time in which one token comes back.
    interval: Duration,
    full_at: Instant,
    refused: u64,
}

impl Limits {
    /// From now on `action` may be asked for `requests` times in each `period`; at least once.
    pub(super) fn set(&mut self, action: &str, requests: u32, period: Duration, now: Instant) {
        let bucket = Bucket {
            period,
            interval: period / requests,
            full_at: now,
            refused: 0,
        };
        self.0.insert(action.to_owned(), bucket);
    }

    /// Takes a token for each of `actions`, or none, and then counts a refusal for those whose bucket is empty.
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
        assert_eq!(admitted(&mut limits, &["PutImage"], start, 12), 10);
        assert_eq!(limits.refused("PutImage"), 2);
        let almost = start + Duration::from_millis(99);
        assert_eq!(admitted(&mut limits, &["PutImage"], almost, 1), 0);
        let later = start + Duration::from_millis(300);
        assert_eq!(admitted(&mut limits, &["PutImage"], later, 12), 3);
        let idle = start + 60 * SECOND;
        assert_eq!(admitted(&mut limits, &["PutImage"], idle, 12), 10);
        assert_eq!(admitted(&mut limits, &["ListImages"], idle, 12), 12);
    }

    #[test]
    fn a_request_of_two_actions_takes_both_or_neither() {
        let now = Instant::now();
        let mut limits = Limits::default();
        limits.set("UploadLayerPart", 3, SECOND, now);
        limits.set("CompleteLayerUpload", 1, SECOND, now);
        let both = ["UploadLayerPart", "CompleteLayerUpload"];
        assert_eq!(admitted(&mut limits, &both, now, 5), 1);
        assert_eq!(limits.refused("CompleteLayerUpload"), 4);
        assert_eq!(limits.refused("UploadLayerPart"), 0);
        assert_eq!(admitted(&mut limits, &["UploadLayerPart"], now, 5), 2);
    }
}
