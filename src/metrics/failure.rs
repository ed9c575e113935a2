//! What `/status` shows besides counters: the last failures of a route, and the difference of its counters between two moments.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;

use super::BOUNDS;

/// The longest text that is kept, in bytes, because each of ten thousand routes may keep two.
const LONGEST: usize = 1024;

/// A request that got an error of bearerd's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub at: SystemTime,
    pub status: u16,
    /// One of `docs/errors.md`.
    pub code: &'static str,
    /// What happened, to whom, and what to do. It contains no secret.
    pub detail: String,
    /// The request ID in the log.
    pub request_id: String,
}

/// An upstream that refused a token that was just fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamRefusal {
    pub at: SystemTime,
    /// The upstream's status.
    pub status: u16,
    /// Who refused what, and what to check.
    pub detail: String,
}

/// The last failure of each kind.
#[derive(Debug, Default)]
pub(super) struct Last {
    failure: ArcSwapOption<Failure>,
    refusal: ArcSwapOption<UpstreamRefusal>,
}

impl Last {
    pub(super) fn set_failure(&self, failure: Failure) {
        let (detail, request_id) = (plain(&failure.detail), plain(&failure.request_id));
        self.failure.store(Some(Arc::new(Failure { detail, request_id, ..failure })));
    }

    pub(super) fn failure(&self) -> Option<Arc<Failure>> {
        self.failure.load_full()
    }

    pub(super) fn set_refusal(&self, refusal: UpstreamRefusal) {
        let detail = plain(&refusal.detail);
        self.refusal.store(Some(Arc::new(UpstreamRefusal { detail, ..refusal })));
    }

    pub(super) fn refusal(&self) -> Option<Arc<UpstreamRefusal>> {
        self.refusal.load_full()
    }
}

/// Makes one line of limited length, without characters that make a terminal or a page show something else.
fn plain(text: &str) -> String {
    let mut kept = String::with_capacity(text.len().min(LONGEST));
    for letter in text.chars().map(|letter| if misleads(letter) { ' ' } else { letter }) {
        if kept.len() + letter.len_utf8() > LONGEST - '…'.len_utf8() {
            kept.push('…');
            break;
        }
        kept.push(letter);
    }
    kept
}

/// Control characters, line ends, and characters that change the direction of writing.
fn misleads(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// The buckets of a histogram: one for each bound, and one above all bounds.
const BUCKETS: usize = BOUNDS.len() + 1;

/// The counters of a route since the start, or between two moments.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Responses.
    pub requests: u64,
    /// Responses with a 5xx status, of the upstream or of bearerd, and gRPC requests that bearerd failed.
    pub errors: u64,
    pub(super) buckets: [u64; BUCKETS],
}

impl Counts {
    /// The difference since `before`. Counters are incremented one after the other, so none of them must have grown.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut buckets = self.buckets;
        for (bucket, before) in buckets.iter_mut().zip(before.buckets) {
            *bucket = bucket.saturating_sub(before);
        }
        Self {
            requests: self.requests.saturating_sub(before.requests),
            errors: self.errors.saturating_sub(before.errors),
            buckets,
        }
    }

    /// The quantile: the most seconds that this share of the requests took, estimated from the buckets. `None` without
    /// requests. What is above the last bound counts as that bound.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let all: u64 = self.buckets.iter().sum();
        if all == 0 {
            return None;
        }
        let wanted = share.clamp(0.0, 1.0) * all as f64;
        let (mut below, mut from) = (0.0, 0.0);
        for (bound, count) in BOUNDS.into_iter().zip(self.buckets) {
            let count = count as f64;
            if count > 0.0 && below + count >= wanted {
                return Some(from + (bound - from) * ((wanted - below) / count));
            }
            below += count;
            from = bound;
        }
        Some(from)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::RouteMetrics;
    use super::*;

    fn failure(detail: &str) -> Failure {
        Failure {
            at: UNIX_EPOCH,
            status: 502,
            code: "token_refused",
            detail: detail.to_owned(),
            request_id: "id".to_owned(),
        }
    }

    #[test]
    fn the_last_failure_stands() {
        let last = Last::default();
        assert_eq!(last.failure(), None);
        last.set_failure(failure("first"));
        last.set_failure(failure("second"));
        assert_eq!(last.failure().unwrap().detail, "second");
        assert_eq!(last.refusal(), None);
    }

    #[test]
    fn what_is_kept_is_one_plain_line_and_not_endless() {
        assert_eq!(plain("a\r\nb\u{1b}[2Jc\u{202e}d\u{2028}"), "a  b [2Jc d ");
        assert_eq!(plain("größer"), "größer");
        assert_eq!(plain(&"x".repeat(1021)), "x".repeat(1021));
        for letter in ["x", "ö", "漢"] {
            let kept = plain(&letter.repeat(2000));
            assert!(
                kept.len() <= LONGEST && kept.len() > LONGEST - 6 && kept.ends_with('…'),
                "{}",
                kept.len()
            );
        }
    }

    fn milliseconds(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn quantiles_are_within_their_bucket() {
        let route = RouteMetrics::default();
        assert_eq!(route.counts().quantile(0.5), None);
        for _ in 0..98 {
            route.request(200, milliseconds(2));
        }
        route.request(200, milliseconds(300));
        route.request(200, milliseconds(300));
        let counts = route.counts();
        let median = counts.quantile(0.5).unwrap();
        assert!((0.001..=0.0025).contains(&median), "{median}");
        let slow = counts.quantile(0.99).unwrap();
        assert!((0.25..=0.5).contains(&slow), "{slow}");
        assert!(counts.quantile(0.98).unwrap() <= 0.0025);
    }

    #[test]
    fn what_is_above_every_bound_counts_as_the_last_one() {
        let route = RouteMetrics::default();
        route.request(200, milliseconds(60_000));
        assert_eq!(route.counts().quantile(0.5), Some(10.0));
    }

    #[test]
    fn only_what_has_come_since_counts() {
        let route = RouteMetrics::default();
        route.request(502, milliseconds(60_000));
        let before = route.counts();
        for status in [200, 404, 500, 503] {
            route.request(status, milliseconds(1));
        }
        let recent = route.counts().since(&before);
        assert_eq!((recent.requests, recent.errors), (4, 2));
        assert!(recent.quantile(1.0).unwrap() <= 0.001);
        assert_eq!(before.since(&route.counts()).requests, 0, "never below nothing");
    }

    #[test]
    fn a_grpc_call_that_failed_is_an_error_though_its_status_is_200() {
        let route = RouteMetrics::default();
        route.note_grpc_failure();
        route.request(200, milliseconds(1));
        assert_eq!(route.counts().errors, 1);
    }

    #[test]
    fn errors_beyond_the_slots_of_statuses_count_too() {
        let route = RouteMetrics::default();
        for status in 500..530 {
            route.request(status, milliseconds(1));
        }
        assert_eq!((route.counts().requests, route.counts().errors), (30, 30));
    }
}
