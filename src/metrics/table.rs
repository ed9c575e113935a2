//! Counters whose key is only known when it is counted: small open-addressed tables without a lock.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

/// Statuses that one route is seen to answer with are few; what does not fit is counted by class.
const STATUS_SLOTS: usize = 16;
const OUTCOME_SLOTS: usize = 16;
const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "other"];

/// Counts by status.
#[derive(Debug, Default)]
pub(super) struct StatusCounts {
    /// 0: free. A slot that was claimed stays so.
    statuses: [AtomicU16; STATUS_SLOTS],
    counts: [AtomicU64; STATUS_SLOTS],
    /// By class, for statuses that found no slot: an upstream must not be able to make series without end.
    overflow: [AtomicU64; CLASSES.len()],
}

impl StatusCounts {
    pub(super) fn add(&self, status: u16) {
        self.counter(status).fetch_add(1, Ordering::Relaxed);
    }

    fn counter(&self, status: u16) -> &AtomicU64 {
        if status != 0 {
            let start = usize::from(status) % STATUS_SLOTS;
            let slots = self.statuses.iter().zip(&self.counts);
            for (slot, count) in slots.clone().skip(start).chain(slots.take(start)) {
                if claim(slot, status) {
                    return count;
                }
            }
        }
        let [one, two, three, four, five, other] = &self.overflow;
        match status / 100 {
            1 => one,
            2 => two,
            3 => three,
            4 => four,
            5 => five,
            _ => other,
        }
    }

    /// All that was counted, and the 5xx among it.
    pub(super) fn totals(&self) -> (u64, u64) {
        let slots = self.statuses.iter().zip(&self.counts);
        let exact = slots.map(|(status, count)| (status.load(Ordering::Relaxed) / 100, count));
        let classes = (1..).zip(&self.overflow);
        exact.chain(classes).fold((0, 0), |(all, errors), (class, count)| {
            let count = count.load(Ordering::Relaxed);
            (all + count, if class == 5 { errors + count } else { errors })
        })
    }

    /// Every status that was counted in any of these and how often, in order; classes of the overflow last.
    pub(super) fn sum<'a>(all: impl Iterator<Item = &'a Self>) -> Vec<(String, u64)> {
        let mut counted: BTreeMap<u16, u64> = BTreeMap::new();
        let mut overflow = CLASSES.map(|class| (class.to_owned(), 0));
        for one in all {
            for (status, count) in one.statuses.iter().zip(&one.counts) {
                *counted.entry(status.load(Ordering::Relaxed)).or_default() += count.load(Ordering::Relaxed);
            }
            for ((_, sum), count) in overflow.iter_mut().zip(&one.overflow) {
                *sum += count.load(Ordering::Relaxed);
            }
        }
        // 0 stands in slots that are free.
        let exact = counted.into_iter().filter(|(status, _)| *status != 0);
        let exact = exact.map(|(status, count)| (status.to_string(), count));
        exact.chain(overflow).filter(|(_, count)| *count != 0).collect()
    }
}

/// Whether the slot is this status's, which a free one becomes.
fn claim(slot: &AtomicU16, status: u16) -> bool {
    match slot.load(Ordering::Relaxed) {
        0 => match slot.compare_exchange(0, status, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => true,
            Err(winner) => winner == status,
        },
        taken => taken == status,
    }
}

/// Counts by the name of an outcome.
#[derive(Debug, Default)]
pub(super) struct OutcomeCounts {
    slots: [(OnceLock<&'static str>, AtomicU64); OUTCOME_SLOTS],
    overflow: AtomicU64,
}

impl OutcomeCounts {
    pub(super) fn add(&self, outcome: &'static str) {
        let mine = self.slots.iter().find(|(name, _)| *name.get_or_init(|| outcome) == outcome);
        mine.map_or(&self.overflow, |(_, count)| count).fetch_add(1, Ordering::Relaxed);
    }

    /// Every outcome that was counted and how often, in order.
    pub(super) fn all(&self) -> Vec<(&'static str, u64)> {
        let named = self.slots.iter().filter_map(|(name, count)| Some((*name.get()?, count)));
        let all = named.chain([("other", &self.overflow)]);
        let all = all.map(|(name, count)| (name, count.load(Ordering::Relaxed)));
        let mut counted: Vec<_> = all.filter(|(_, count)| *count != 0).collect();
        counted.sort_unstable();
        counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_beyond_the_slots_are_counted_by_class() {
        let counts = StatusCounts::default();
        for status in 200..216 {
            counts.add(status);
        }
        counts.add(503);
        counts.add(503);
        counts.add(777);
        counts.add(0);
        counts.add(215);
        let all = StatusCounts::sum([&counts].into_iter());
        assert_eq!(all.len(), 18);
        assert!(all.contains(&("215".to_owned(), 2)));
        assert!(all.contains(&("5xx".to_owned(), 2)));
        assert!(all.contains(&("other".to_owned(), 2)));
    }

    #[test]
    fn statuses_that_share_a_start_do_not_share_a_count() {
        let counts = StatusCounts::default();
        counts.add(200);
        counts.add(216);
        counts.add(216);
        assert_eq!(StatusCounts::sum([&counts].into_iter()), [("200".to_owned(), 1), ("216".to_owned(), 2)]);
        let other = StatusCounts::default();
        other.add(216);
        other.add(404);
        assert_eq!(
            StatusCounts::sum([&counts, &other].into_iter()),
            [("200".to_owned(), 1), ("216".to_owned(), 3), ("404".to_owned(), 1)]
        );
    }

    #[test]
    fn outcomes_are_counted_by_name() {
        let counts = OutcomeCounts::default();
        counts.add("timeout");
        counts.add("ok");
        counts.add("ok");
        assert_eq!(counts.all(), [("ok", 2), ("timeout", 1)]);
    }
}
