//! How many connections to upstreams the whole process may have, so that descriptors are left for everything else.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::connect::{ConnectError, ConnectErrorKind};

/// Places for connections; a limit of the machine's is the whole process' limit.
#[derive(Debug)]
pub struct Places {
    most: AtomicUsize,
    taken: AtomicUsize,
}

/// For connections to upstreams. Issuers, collectors and checks need no place: they live on what is kept in reserve.
pub static UPSTREAMS: Places = Places::new(usize::MAX);

impl Places {
    const fn new(most: usize) -> Self {
        Self { most: AtomicUsize::new(most), taken: AtomicUsize::new(0) }
    }

    /// Another number of them; what is taken stays taken.
    pub fn set_most(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    pub fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether none is left: whoever has a connection that nobody uses closes it.
    pub fn are_taken(&self) -> bool {
        self.taken() >= self.most()
    }

    fn take(&'static self) -> Option<Place> {
        let place = Place(self);
        (self.taken.fetch_add(1, Ordering::Relaxed) < self.most()).then_some(place)
    }

    /// One for a connection to `who`.
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

/// One connection's place, for as long as it lives.
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
