//! How old a version has to be before it is copied.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde_json::Value;

/// The units of a rule's `tags.min_age`, in seconds.
const UNITS: [(&str, u64); 3] = [("m", 60), ("h", 60 * 60), ("d", 24 * 60 * 60)];

/// A rule's `tags.min_age`, such as `24h`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MinAge {
    written: String,
    duration: Duration,
}

impl MinAge {
    /// Reads the field.
    ///
    /// # Errors
    /// Says what was expected.
    pub(super) fn read(value: &Value) -> Result<Self, String> {
        let wrong = || {
            format!(
                "tags.min_age {value}: expected a whole number with a unit, such as \"30m\", \"24h\" or \"7d\""
            )
        };
        let written = value.as_str().ok_or_else(wrong)?;
        let unit = UNITS.iter().find_map(|(unit, seconds)| {
            let number = written.strip_suffix(unit)?;
            Some((number, *seconds))
        });
        let (number, seconds) = unit.ok_or_else(wrong)?;
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let number: Option<u32> = number
            .parse()
            .ok()
            .filter(|number| is_number && *number > 0);
        let number = number.ok_or_else(wrong)?;
        Ok(MinAge {
            written: written.to_owned(),
            duration: Duration::from_secs(u64::from(number) * seconds),
        })
    }

    /// Why a version that was created at `created_at` is not copied at `now`; `None` if it is old enough.
    pub fn refusal(&self, created_at: SystemTime, now: SystemTime) -> Option<String> {
        // The clocks of two machines may differ.
        let age = now.duration_since(created_at).unwrap_or_default();
        (age < self.duration).then(|| {
            format!(
                "by GitHub's time the version is {} old, and the rule's tags.min_age is {self}: a scheduled run copies it when it is old enough",
                Age(age)
            )
        })
    }

    /// Why a version is not copied whose time is not known.
    pub fn refusal_of_unknown(&self, reason: impl fmt::Display) -> String {
        format!(
            "the rule's tags.min_age is {self}, and GitHub's time of the version can't be learnt: {reason}"
        )
    }
}

/// As it is written in the rule.
impl fmt::Display for MinAge {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.written)
    }
}

/// An age for a person.
struct Age(Duration);

impl fmt::Display for Age {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            seconds @ ..60 => write!(formatter, "{seconds} s"),
            seconds @ 60..3_600 => write!(formatter, "{} min", seconds / 60),
            seconds @ 3_600..172_800 => write!(formatter, "{} h", seconds / 3_600),
            seconds => write!(formatter, "{} days", seconds / 86_400),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn minutes_hours_and_days_are_read_and_all_else_is_named() {
        for (text, seconds) in [("30m", 1_800), ("24h", 86_400), ("7d", 604_800)] {
            let age = MinAge::read(&json!(text)).unwrap();
            assert_eq!(age.duration, Duration::from_secs(seconds));
            assert_eq!(age.to_string(), text);
        }
        for wrong in [
            json!(""),
            json!("h"),
            json!("24"),
            json!("0h"),
            json!("-1h"),
            json!("+1h"),
            json!("1.5h"),
            json!("1h30m"),
            json!("24 h"),
            json!("24H"),
            json!("10s"),
            json!("2w"),
            json!("99999999999d"),
            json!(24),
            json!(["24h"]),
        ] {
            let error = MinAge::read(&wrong).unwrap_err();
            assert!(error.starts_with("tags.min_age"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_version_is_old_enough_from_its_age_on() {
        let min_age = MinAge::read(&json!("24h")).unwrap();
        let created_at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |seconds| min_age.refusal(created_at, created_at + Duration::from_secs(seconds));
        assert_eq!(at(86_400), None);
        for (seconds, age) in [(0, "0 s"), (90, "1 min"), (86_399, "23 h")] {
            let reason = at(seconds).unwrap();
            assert!(reason.contains(&format!("is {age} old")), "{reason}");
            assert!(reason.contains("tags.min_age is 24h"), "{reason}");
        }
        let ahead = created_at - Duration::from_secs(10);
        assert!(min_age.refusal(created_at, ahead).is_some());
        assert_eq!(Age(Duration::from_secs(200_000)).to_string(), "2 days");
    }
}
