//! What HTTP/2 peers may have under way to us (RFC 9113 section 5.2). Bytes that nobody reads wait in memory, so the
//! windows of all connections come out of one budget; and no connection's window is so small beside its streams' that a
//! few streams which nobody reads stop the others.

use std::sync::atomic::{AtomicU32, Ordering};

/// What all windows of the process come to, beside [`SMALLEST`] for each connection.
const IN_ALL: u32 = 48 * 1024 * 1024;
/// The smallest window that a connection can have (RFC 9113 section 6.9.2).
const SMALLEST: u32 = 65_535;
/// A connection gets at most this part of what is left.
const PART: u32 = 4;
/// So many streams can stand still before a connection does.
const STREAMS: u32 = 32;
const SMALLEST_STREAM: u32 = 8 * 1024;

static BUDGET: Budget = Budget(AtomicU32::new(0));

/// What is taken of [`IN_ALL`].
#[derive(Debug)]
struct Budget(AtomicU32);

/// One connection's window, given back when it is dropped.
#[derive(Debug)]
pub struct Window {
    budget: &'static Budget,
    taken: u32,
}

impl Budget {
    fn window(&'static self, most: u32) -> Window {
        let mut taken = 0;
        // The closure always gives a value, so the update always happens.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| {
            taken = most.min(IN_ALL.saturating_sub(before) / PART);
            Some(before + taken)
        });
        Window { budget: self, taken }
    }
}

impl Window {
    /// At most `most`; less where many connections are open.
    pub fn take(most: u32) -> Self {
        BUDGET.window(most)
    }

    pub fn connection(&self) -> u32 {
        self.taken.max(SMALLEST)
    }

    pub fn stream(&self) -> u32 {
        (self.connection() / STREAMS).max(SMALLEST_STREAM)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_connections_share_the_budget_and_each_has_a_window() {
        static BUDGET: Budget = Budget(AtomicU32::new(0));
        let windows: Vec<Window> = (0..1000).map(|_| BUDGET.window(4 * 1024 * 1024)).collect();
        assert!(BUDGET.0.load(Ordering::Relaxed) <= IN_ALL);
        assert!(windows.iter().all(|window| window.connection() >= SMALLEST));
        assert!(windows.iter().all(|window| window.stream() >= SMALLEST_STREAM));
        let first = windows.first().unwrap();
        assert!(first.connection() >= STREAMS * first.stream());
        drop(windows);
        assert_eq!(BUDGET.0.load(Ordering::Relaxed), 0);
    }
}
