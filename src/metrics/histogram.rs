//! A histogram of durations in fixed buckets: two atomic additions an observation.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds, in seconds: Prometheus' usual ones, and two below for responses from the same machine.
pub(super) const BOUNDS: [f64; 13] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// The same, in nanoseconds, so that an observation compares integers.
const BOUNDS_NANOS: [u64; 13] = [
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// 120 bytes: a config may have ten thousand routes, each with two for each worker.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// Observations in each bucket alone; the last one is above every bound.
    buckets: [AtomicU64; 14],
    sum_nanos: AtomicU64,
}

/// What a histogram held at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Observed {
    /// Seconds.
    pub(super) sum: f64,
    pub(super) count: u64,
    /// Upper bound and observations in this bucket alone.
    pub(super) buckets: Vec<(f64, u64)>,
}

impl Histogram {
    pub(super) fn observe(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        // A bound belongs to its bucket (`le`). All are compared, without a branch: that is quicker than a search.
        let index = BOUNDS_NANOS.iter().map(|bound| usize::from(*bound < nanos)).sum::<usize>();
        if let Some(bucket) = self.buckets.get(index) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Observations in each bucket alone, of all of these together.
    pub(super) fn counts<'a>(all: impl Iterator<Item = &'a Self>) -> [u64; 14] {
        all.fold([0; 14], |mut sums, one| {
            for (sum, bucket) in sums.iter_mut().zip(&one.buckets) {
                *sum += bucket.load(Ordering::Relaxed);
            }
            sums
        })
    }

    /// All of these together.
    pub(super) fn sum<'a>(all: impl Iterator<Item = &'a Self> + Clone) -> Observed {
        let nanos = all.clone().fold(0_u64, |sum, one| {
            // As a counter of its own would.
            sum.wrapping_add(one.sum_nanos.load(Ordering::Relaxed))
        });
        let bounds = BOUNDS.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(Self::counts(all)).collect();
        Observed {
            sum: Duration::from_nanos(nanos).as_secs_f64(),
            // From the same loads as the buckets, so that `+Inf` and `_count` always agree.
            count: buckets.iter().map(|(_, count)| count).sum(),
            buckets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_lists_of_bounds_agree() {
        for (seconds, nanos) in BOUNDS.iter().zip(BOUNDS_NANOS) {
            assert_eq!(Duration::from_secs_f64(*seconds), Duration::from_nanos(nanos));
        }
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(1));
        histogram.observe(Duration::from_nanos(1_000_001));
        histogram.observe(Duration::from_secs(11));
        let observed = Histogram::sum([&histogram].into_iter());
        assert_eq!(observed.count, 3);
        let counts: Vec<u64> = observed.buckets.iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    }
}
