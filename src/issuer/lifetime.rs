//! Times in an issuer's response: how long the token lives, and when to come back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::Grant;

/// A token that claims to live no longer than now still serves those who wait for it.
const SHORTEST: Duration = Duration::from_secs(1);
/// No token is kept longer: a lifetime beyond it is more often an error of units than a wish.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest that an issuer may send us away.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(5 * 60);
/// Epoch times above this are milliseconds: as seconds it lies in the year 5138, as milliseconds in 1973.
const MILLISECONDS_FROM: f64 = 1e11;

impl Grant {
    /// How long the token lives from when it was asked for, where the response says so: the earlier where it does twice.
    pub fn told_lifetime(&self, asked: SystemTime) -> Option<Duration> {
        let until = self.expires_at.map(|end| end.duration_since(asked).unwrap_or_default());
        match (self.expires_in, until) {
            (Some(length), Some(until)) => Some(length.min(until)),
            (length, until) => length.or(until),
        }
    }

    /// The same, or else `default`; within 1 s and 24 h.
    pub fn lifetime(&self, default: Duration, asked: SystemTime) -> Duration {
        self.told_lifetime(asked).unwrap_or(default).clamp(SHORTEST, LONGEST)
    }
}

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
    fn a_life_is_what_the_issuer_says_or_the_default() {
        let asked = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let secs = Duration::from_secs;
        let grant = |expires_in, expires_at| Grant {
            token: crate::secret::Secret::from("t"),
            token_type: "bearer".to_owned(),
            prover: None,
            expires_in,
            expires_at,
            scope: None,
            audience: crate::issuer::Audience::Unknown,
        };
        let at = |seconds| Some(asked + secs(seconds));
        for ((expires_in, expires_at), expected) in [
            ((None, None), 300),
            ((Some(secs(3600)), None), 3600),
            ((Some(secs(3600)), at(60)), 60),
            ((Some(secs(60)), at(3600)), 60),
            ((None, at(3600)), 3600),
            ((Some(Duration::ZERO), None), 1),
            ((Some(Duration::MAX), None), 86_400),
            ((None, Some(UNIX_EPOCH)), 1),
        ] {
            assert_eq!(
                grant(expires_in, expires_at).lifetime(secs(300), asked),
                secs(expected),
                "{expected}"
            );
        }
        let day = grant(None, None).lifetime(secs(1_000_000_000), asked);
        assert_eq!(day, secs(86_400), "a default has the same bounds");
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
