//! Times in an issuer's answer: how long the token lives, and when to come back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// A token that claims to live no longer than now still serves those who wait for it.
const SHORTEST: Duration = Duration::from_secs(1);
/// No token is kept longer: a lifetime beyond it is more often a mistake of units than a wish.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest that an issuer may send us away.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(5 * 60);
/// Epoch times above this are milliseconds: as seconds it lies in the year 5138, as milliseconds in 1973.
const MILLISECONDS_FROM: f64 = 1e11;

/// Seconds from a number, or from a string that holds one, rounded down; clamped to 1 s ..= 24 h.
pub(super) fn expires_in(value: &Value) -> Option<Duration> {
    let seconds = number(value)?.floor().clamp(SHORTEST.as_secs_f64(), LONGEST.as_secs_f64());
    Duration::try_from_secs_f64(seconds).ok()
}

/// A point in time from epoch seconds or milliseconds (number or string) or an RFC 3339 date.
pub(super) fn expires_at(value: &Value) -> Option<SystemTime> {
    if let Some(epoch) = number(value) {
        let seconds = if epoch > MILLISECONDS_FROM { epoch / 1000.0 } else { epoch };
        // 0 and below are how some servers write "unknown".
        let since = Duration::try_from_secs_f64(seconds).ok().filter(|since| !since.is_zero())?;
        return UNIX_EPOCH.checked_add(since);
    }
    date(value.as_str()?.trim())
}

/// What is left from `now` to `at`, clamped as [`expires_in`] is.
pub(super) fn until(at: SystemTime, now: SystemTime) -> Duration {
    at.duration_since(now).unwrap_or_default().clamp(SHORTEST, LONGEST)
}

/// `Retry-After` (RFC 9110 section 10.2.3): seconds or a date, clamped to 1 s ..= 5 min.
pub(super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Digits that do not fit are a very long time.
        value.parse().map_or(LONGEST_RETRY_AFTER, Duration::from_secs)
    } else {
        httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default()
    };
    Some(wait.clamp(SHORTEST, LONGEST_RETRY_AFTER))
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => {
            let text = text.trim();
            // Rust's own parser also takes "inf" and "nan".
            let plain =
                text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
            if plain { text.parse().ok() } else { None }
        }
        _ => None,
    }
}

fn date(text: &str) -> Option<SystemTime> {
    // humantime knows UTC only.
    let Some(split) = text.len().checked_sub(6).filter(|_| !text.ends_with(['Z', 'z'])) else {
        return humantime::parse_rfc3339_weak(text.trim_end_matches('z')).ok();
    };
    let (local, offset) = text.split_at_checked(split)?;
    let Some((hours, minutes)) = offset.strip_prefix(['+', '-']).and_then(|offset| offset.split_once(':'))
    else {
        return humantime::parse_rfc3339_weak(text).ok();
    };
    let minutes = hours.parse::<u64>().ok()? * 60 + minutes.parse::<u64>().ok()?;
    let shift = Duration::from_secs(minutes * 60);
    let local = humantime::parse_rfc3339_weak(local).ok()?;
    if offset.starts_with('-') { local.checked_add(shift) } else { local.checked_sub(shift) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seconds(value: &Value) -> Option<u64> {
        expires_in(value).map(|lifetime| lifetime.as_secs())
    }

    #[test]
    fn t06_zero_and_negative_count_as_one_second() {
        for value in [json!(0), json!(-1), json!("-3600"), json!("0"), json!(0.5), json!(-1e30)] {
            assert_eq!(expires_in(&value), Some(Duration::from_secs(1)), "{value}");
        }
    }

    #[test]
    fn t07_expires_in_string() {
        assert_eq!(seconds(&json!("3600")), Some(3600));
        assert_eq!(seconds(&json!(" 3599.9 ")), Some(3599));
    }

    #[test]
    fn t08_expires_in_float_is_rounded_down() {
        assert_eq!(expires_in(&json!(3599.9)), Some(Duration::from_secs(3599)));
        assert_eq!(seconds(&json!(3.6e3)), Some(3600));
        assert_eq!(seconds(&json!("3.6e3")), Some(3600));
    }

    #[test]
    fn t09_huge_lifetimes_are_a_day() {
        let day = Some(24 * 60 * 60);
        for value in
            [json!(1e30), json!(9_223_372_036_854_775_808_u64), json!(99_999_999_999_u64), json!("1e30")]
        {
            assert_eq!(seconds(&value), day, "{value}");
        }
        assert_eq!(seconds(&json!(86_400)), day);
        assert_eq!(seconds(&json!(86_399)), Some(86_399));
    }

    #[test]
    fn t10_unreadable_lifetimes_are_none() {
        for value in [json!("soon"), json!([]), json!(true), json!({}), json!(""), json!("inf"), json!("nan")]
        {
            assert_eq!(expires_in(&value), None, "{value}");
        }
    }

    #[test]
    fn epochs_in_seconds_milliseconds_and_strings() {
        let at = UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        for value in [
            json!(1_900_000_000),
            json!(1_900_000_000.0),
            json!("1900000000"),
            json!(1_900_000_000_000_u64),
            json!("1900000000000"),
            json!("2030-03-17T17:46:40Z"),
            json!("2030-03-17T19:46:40+02:00"),
            json!("2030-03-17T12:16:40-05:30"),
        ] {
            assert_eq!(expires_at(&value), Some(at), "{value}");
        }
    }

    #[test]
    fn no_point_in_time() {
        for value in
            [json!(0), json!(-5), json!(1e300), json!("tomorrow"), json!([]), json!("+1:é"), json!("")]
        {
            assert_eq!(expires_at(&value), None, "{value}");
        }
    }

    #[test]
    fn t32_retry_after_in_both_forms() {
        let now = httpdate::parse_http_date("Tue, 01 Jan 2030 00:00:00 GMT").unwrap();
        let wait = |value| retry_after(value, now).map(|wait| wait.as_secs());
        assert_eq!(wait("30"), Some(30));
        assert_eq!(wait("0"), Some(1));
        assert_eq!(wait("1000000000"), Some(300));
        assert_eq!(wait("99999999999999999999999"), Some(300));
        assert_eq!(wait("Tue, 01 Jan 2030 00:01:30 GMT"), Some(90));
        assert_eq!(wait("Tue, 01 Jan 2030 09:00:00 GMT"), Some(300));
        assert_eq!(wait("Mon, 31 Dec 2029 00:00:00 GMT"), Some(1));
        for garbage in ["-5", "soon", "", "1.5", "\u{e9}"] {
            assert_eq!(wait(garbage), None, "{garbage}");
        }
    }
}
