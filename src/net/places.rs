//! Limits of outbound connections, so that no target takes the descriptors that others need: [`Places`] for all connections to
//! upstreams together, and turns ([`turns_at`]) for each other target, such as an issuer or a collector.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use moka::sync::Cache;
use tokio::sync::Semaphore;

use super::failure::{ConnectError, ConnectErrorKind};

/// Places for connections of the whole process.
#[derive(Debug)]
pub struct Places {
    most: AtomicUsize,
    taken: AtomicUsize,
}

/// The places of connections to upstreams. Other connections use the reserve.
pub static UPSTREAMS: Places = Places::new(usize::MAX);

impl Places {
    const fn new(most: usize) -> Self {
        Self { most: AtomicUsize::new(most), taken: AtomicUsize::new(0) }
    }

    /// Changes the limit. Places that are taken stay taken.
    pub fn set_most(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    pub fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether no place is left. Then idle connections are closed.
    pub fn are_taken(&self) -> bool {
        self.taken() >= self.most()
    }

    fn take(&'static self) -> Option<Place> {
        let place = Place(self);
        (self.taken.fetch_add(1, Ordering::Relaxed) < self.most()).then_some(place)
    }

    /// Takes a place for a connection to `who`.
    pub(super) fn place_for(&'static self, who: &str) -> Result<Place, ConnectError> {
        self.take().ok_or_else(|| ConnectError {
            kind: ConnectErrorKind::Full,
            message: format!(
                "no connection to {who}: {} connections to upstreams are open, and the limit of open files has no \
                 room for more (ulimit -n, LimitNOFILE)",
                self.most()
            ),
        })
    }
}

/// The place of a connection, which is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place(&'static Places);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
pub(super) fn leaked(most: usize) -> &'static Places {
    Box::leak(Box::new(Places::new(most)))
}

/// The most targets in the cache. A config has fewer.
const TARGETS_KEPT: u64 = 16 * 1024;

static AT_ONCE: AtomicUsize = AtomicUsize::new(64);

static TARGETS: LazyLock<Cache<String, Arc<Semaphore>>> =
    LazyLock::new(|| Cache::builder().max_capacity(TARGETS_KEPT).build());

/// Sets the number of turns for new targets. Known targets keep theirs.
pub fn set_turns(most: usize) {
    AT_ONCE.store(most, Ordering::Relaxed);
}

/// The turns at one target, shared by the whole process.
pub(super) fn turns_at(who: &str) -> Arc<Semaphore> {
    TARGETS.get_with_by_ref(who, || Arc::new(Semaphore::new(AT_ONCE.load(Ordering::Relaxed))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_given_than_there_are_and_they_come_back() {
        let places = leaked(2);
        let held: Vec<_> = (0..3).map(|_| places.take()).collect();
        assert_eq!(held.iter().flatten().count(), 2);
        assert_eq!(places.taken(), 2, "a refusal takes none");
        drop(held);
        assert_eq!(places.taken(), 0);
        assert!(!places.are_taken());
        places.set_most(0);
        assert!(places.are_taken());
        assert!(places.take().is_none());
    }
}
