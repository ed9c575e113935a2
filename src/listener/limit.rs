//! How many connections there may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::metrics::ListenerMetrics;

/// Counts connections over all listeners and workers.
#[derive(Debug, Default)]
pub struct ConnectionLimit {
    open: AtomicUsize,
}

impl ConnectionLimit {
    pub fn new() -> Self {
        Self::default()
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// A place for one more, unless there are `most` already.
    fn take(&self, most: usize) -> bool {
        if self.open.fetch_add(1, Ordering::Relaxed) < most {
            return true;
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
        false
    }
}

/// One connection's place. It goes where the socket goes, into an upgraded tunnel too.
pub(super) struct TakenPlace {
    limit: Arc<ConnectionLimit>,
    metrics: Arc<ListenerMetrics>,
    _tracked: TaskTrackerToken,
}

impl TakenPlace {
    pub(super) fn take(
        limit: &Arc<ConnectionLimit>,
        most: usize,
        metrics: &Arc<ListenerMetrics>,
        tracked: TaskTrackerToken,
    ) -> Option<Self> {
        if !limit.take(most) {
            return None;
        }
        metrics.connected();
        Some(Self { limit: Arc::clone(limit), metrics: Arc::clone(metrics), _tracked: tracked })
    }
}

impl Drop for TakenPlace {
    fn drop(&mut self) {
        self.limit.open.fetch_sub(1, Ordering::Relaxed);
        self.metrics.disconnected();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_limit_are_let_in() {
        let limit = ConnectionLimit::new();
        assert!(limit.take(1));
        assert!(!limit.take(1));
        assert!(limit.take(2), "a raised limit counts at once");
        assert_eq!(limit.open(), 2);
    }
}
