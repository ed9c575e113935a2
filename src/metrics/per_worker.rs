//! Counters that every request bumps: each worker has its own, so that no core waits for another's cache line. A scrape
//! adds them up.

use std::cell::Cell;

thread_local! {
    /// Which worker this thread is; others count with the first.
    static WORKER: Cell<usize> = const { Cell::new(0) };
}

/// This thread is the worker of this number, from now on.
pub fn this_thread_is_worker(index: usize) {
    WORKER.set(index);
}

/// One `T` for each worker.
#[derive(Debug)]
pub(super) struct PerWorker<T>(Box<[Line<T>]>);

/// Two cache lines: the processor fetches them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line<T>(T);

impl<T: Default> PerWorker<T> {
    pub(super) fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| Line::default()).collect())
    }
}

impl<T: Default> Default for PerWorker<T> {
    fn default() -> Self {
        Self::new(1)
    }
}

impl<T> PerWorker<T> {
    /// This worker's own, to be counted in.
    pub(super) fn own(&self) -> Option<&T> {
        let own = self.0.get(WORKER.get()).or_else(|| self.0.first());
        own.map(|line| &line.0)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &T> + Clone {
        self.0.iter().map(|line| &line.0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn each_worker_has_its_own_and_others_share_the_first() {
        let counters: PerWorker<AtomicU64> = PerWorker::new(3);
        std::thread::scope(|threads| {
            for worker in [1, 2, 2, 7] {
                let counters = &counters;
                threads.spawn(move || {
                    this_thread_is_worker(worker);
                    counters.own().unwrap().fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        let all: Vec<u64> = counters.all().map(|count| count.load(Ordering::Relaxed)).collect();
        assert_eq!(all, [1, 1, 2]);
        assert_eq!(PerWorker::<AtomicU64>::new(0).all().count(), 1);
    }
}
