//! What a route's counters say at one moment, to be compared with what they said at another.

use super::histogram::BOUNDS;

/// Buckets of a histogram: one for each bound, and one above them all.
const BUCKETS: usize = BOUNDS.len() + 1;

/// Of all requests since the start, or between two moments.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Requests answered.
    pub requests: u64,
    /// Requests answered with a 5xx, whoever said so, and gRPC calls that bearerd failed.
    pub errors: u64,
    pub(super) buckets: [u64; BUCKETS],
}

impl Counts {
    /// What has come since `before`. Counters are bumped one after the other, so none of them is trusted to have grown.
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

    /// So many seconds did this share of the requests take at most, as near as the buckets tell; `None` without requests.
    /// What is above the last bound counts as that bound.
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
    use std::time::Duration;

    use super::super::RouteMetrics;

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
