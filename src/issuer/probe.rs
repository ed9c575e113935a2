//! What the last response of the token endpoint said beside the token: for people who look for a fault.

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;
use http::header::DATE;

use super::Issuer;
use super::exchange::Answer;

/// Of one response, whatever it said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastAnswer {
    pub status: u16,
    /// When it had come, by our clock.
    pub at: SystemTime,
    /// The issuer's clock (`Date`), to the second.
    pub date: Option<SystemTime>,
}

impl LastAnswer {
    fn of(status: http::StatusCode, headers: &HeaderMap, at: SystemTime) -> Self {
        let date = headers.get(DATE).and_then(|date| date.to_str().ok());
        Self { status: status.as_u16(), at, date: date.and_then(|date| httpdate::parse_http_date(date).ok()) }
    }

    /// How far the issuer's clock is ahead of ours, in seconds; negative where it is behind. `None`: it does not say.
    pub fn clock_difference(&self) -> Option<i64> {
        let whole = |span: std::time::Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        Some(match self.date?.duration_since(self.at) {
            Ok(ahead) => whole(ahead),
            // `Date` is cut to the second before it, so that up to one second behind is none.
            Err(behind) => -whole(behind.duration()),
        })
    }
}

impl Issuer {
    /// What the token endpoint answered last; `None`: it never did.
    pub fn last_answer(&self) -> Option<Arc<LastAnswer>> {
        self.last_answer.load_full()
    }

    pub(super) fn saw(&self, answer: &Answer) {
        let seen = LastAnswer::of(answer.status, &answer.headers, self.clock.wall());
        self.last_answer.store(Some(Arc::new(seen)));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_difference_of_clocks_has_a_sign() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let answer = |date: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(DATE, date.parse().unwrap());
            LastAnswer::of(http::StatusCode::OK, &headers, at).clock_difference()
        };
        assert_eq!(answer("Sun, 09 Sep 2001 01:46:40 GMT"), Some(0));
        assert_eq!(answer("Sun, 09 Sep 2001 01:47:40 GMT"), Some(60));
        assert_eq!(answer("Sun, 09 Sep 2001 01:46:10 GMT"), Some(-30));
        assert_eq!(answer("yesterday"), None);
    }
}
