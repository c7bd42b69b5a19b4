//! Times as GitHub's API writes them.

use std::time::{Duration, SystemTime};

/// Reads a time in UTC, such as `2026-11-20T08:15:00Z`; parts of a second are left out. GitHub writes no other time zone.
/// (GitHub's documentation, "Timezones and the REST API"; RFC 3339 section 5.6)
pub(super) fn parse(text: &str) -> Option<SystemTime> {
    let text = text.strip_suffix('Z')?;
    let (date, time) = text.split_once('T')?;
    let time = match time.split_once('.') {
        Some((time, fraction)) => {
            number(fraction, fraction.len())?;
            time
        }
        None => time,
    };
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    let is_date = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day);
    // The sixty-first second is a leap second.
    if !is_date || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let leap_days = |year: u64| year / 4 - year / 100 + year / 400;
    let years = (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969);
    let months: u64 = (1..month).map(|month| days_of(year, month)).sum();
    let days = years + months + day - 1;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// Reads a time such as `2026-12-01 08:15:00 UTC` or `2026-12-01 08:15:00 -0800`.
pub(super) fn parse_with_zone(text: &str) -> Option<SystemTime> {
    let mut parts = text.trim().splitn(3, ' ');
    let (date, time, zone) = (parts.next()?, parts.next()?, parts.next()?);
    let written = parse(&format!("{date}T{time}Z"))?;
    let (is_ahead, offset) = match (zone.strip_prefix('+'), zone.strip_prefix('-')) {
        (Some(offset), _) => (true, offset),
        (_, Some(offset)) => (false, offset),
        _ if zone == "UTC" => return Some(written),
        _ => return None,
    };
    let offset = offset.replacen(':', "", 1);
    let offset = number(&offset, 4)?;
    let offset = Duration::from_secs((offset / 100 * 60 + offset % 100) * 60);
    match is_ahead {
        true => written.checked_sub(offset),
        false => written.checked_add(offset),
    }
}

fn days_of(year: u64, month: u64) -> u64 {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Three numbers of so many digits.
fn numbers(text: &str, separator: char, digits: [usize; 3]) -> Option<[u64; 3]> {
    let mut parts = text.split(separator);
    let mut next = |digits| number(parts.next()?, digits);
    let [first, second, third] = digits;
    let numbers = [next(first)?, next(second)?, next(third)?];
    parts.next().is_none().then_some(numbers)
}

fn number(text: &str, digits: usize) -> Option<u64> {
    let is_number = !text.is_empty()
        && text.len() == digits
        && digits <= 18
        && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn githubs_times_are_read() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1999-12-31T23:59:59Z", 946_684_799),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2000-03-01T00:00:00Z", 951_868_800),
            ("2026-11-20T08:15:00Z", 1_795_162_500),
            ("2026-11-20T08:15:00.123Z", 1_795_162_500),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
        ] {
            let expected = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(parse(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn a_time_may_have_a_zone() {
        for (text, expected) in [
            ("2026-11-20 08:15:00 UTC", Some(1_795_162_500)),
            ("2026-11-20 00:15:00 -0800", Some(1_795_162_500)),
            ("2026-11-20 09:45:00 +0130", Some(1_795_162_500)),
            ("2026-11-20 09:45:00 +01:30", Some(1_795_162_500)),
            ("2026-11-20 08:15:00", None),
            ("2026-11-20 08:15:00 PST", None),
            ("2026-11-20 08:15:00 +1", None),
            ("1970-01-01 00:00:00 +0100", None),
        ] {
            let expected =
                expected.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
            // A time before 1970 may or may not be representable.
            let found = parse_with_zone(text).filter(|time| *time >= SystemTime::UNIX_EPOCH);
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_unknown() {
        for text in [
            "",
            "Z",
            "0001-01-01T00:00:00Z",
            "2026-11-20",
            "2026-11-20T08:15:00",
            "2026-11-20T08:15:00+01:00",
            "2026-11-20 08:15:00Z",
            "2026-02-29T00:00:00Z",
            "2100-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-11-31T00:00:00Z",
            "2026-11-20T24:00:00Z",
            "2026-11-20T08:60:00Z",
            "2026-11-20T08:15Z",
            "2026-11-20T08:15:00:00Z",
            "2026-11-20T08:15:00.Z",
            "26-11-20T08:15:00Z",
            "2026-1-20T08:15:00Z",
            "+026-11-20T08:15:00Z",
            "2026-11-20T08:15:0xZ",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
