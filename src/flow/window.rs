//! What HTTP/2 peers may have under way to us (RFC 9113 section 5.2). The windows of all connections come out of a budget,
//! callers' and upstreams' apart; and no connection's window is so small beside its streams' that a few streams which
//! nobody reads stop the others.

use std::sync::atomic::{AtomicU32, Ordering};

/// What all windows of one side come to, beside [`SMALLEST`] for each connection.
const CALLERS: u32 = 16 * 1024 * 1024;
const UPSTREAMS: u32 = 40 * 1024 * 1024;
/// The smallest window that a connection can have (RFC 9113 section 6.9.2).
const SMALLEST: u32 = 65_535;
/// A connection gets at most this part of what is left.
const PART: u32 = 4;
/// So many streams can stand still before a connection does.
const STREAMS: u32 = 32;
/// Upstreams are far away: with less than this for a stream, a connection takes fewer streams.
const UPSTREAM_STREAM: u32 = 16 * 1024;

static OF_CALLERS: Budget = Budget::new(CALLERS);
static OF_UPSTREAMS: Budget = Budget::new(UPSTREAMS);

#[derive(Debug)]
struct Budget {
    in_all: u32,
    taken: AtomicU32,
}

/// One connection's window, given back when it is dropped.
#[derive(Debug)]
pub struct Window {
    budget: &'static Budget,
    taken: u32,
    stream: u32,
}

impl Budget {
    const fn new(in_all: u32) -> Self {
        Self { in_all, taken: AtomicU32::new(0) }
    }

    fn window(&'static self, most: u32, smallest_stream: u32) -> Window {
        let mut taken = 0;
        // The closure always gives a value, so the update always happens.
        let _ = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| {
            taken = most.min(self.in_all.saturating_sub(before) / PART);
            Some(before + taken)
        });
        let stream = (taken.max(SMALLEST) / STREAMS).max(smallest_stream);
        Window { budget: self, taken, stream }
    }
}

impl Window {
    /// A caller's: at most `most`, and less where many connections are open.
    pub fn of_caller(most: u32) -> Self {
        OF_CALLERS.window(most, 0)
    }

    /// An upstream's, likewise.
    pub fn of_upstream(most: u32) -> Self {
        OF_UPSTREAMS.window(most, UPSTREAM_STREAM)
    }

    pub fn connection(&self) -> u32 {
        self.taken.max(SMALLEST)
    }

    pub fn stream(&self) -> u32 {
        self.stream
    }

    /// How many streams there may be whose windows do not use up the connection's.
    pub fn streams(&self) -> usize {
        usize::try_from((self.connection() / self.stream).max(1)).unwrap_or(usize::MAX)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u32 = 1024 * 1024;

    #[test]
    fn many_connections_share_the_budget_and_each_has_a_window() {
        static BUDGET: Budget = Budget::new(16 * MIB);
        let windows: Vec<Window> = (0..1000).map(|_| BUDGET.window(4 * MIB, 0)).collect();
        assert!(BUDGET.taken.load(Ordering::Relaxed) <= 16 * MIB);
        assert!(windows.iter().all(|window| window.connection() >= SMALLEST));
        assert!(windows.iter().all(|window| window.stream() > 2000));
        drop(windows);
        assert_eq!(BUDGET.taken.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn streams_do_not_use_up_their_connections_window() {
        static BUDGET: Budget = Budget::new(16 * MIB);
        for smallest_stream in [0, UPSTREAM_STREAM] {
            let windows: Vec<Window> = (0..100).map(|_| BUDGET.window(4 * MIB, smallest_stream)).collect();
            for window in &windows {
                let streams = u32::try_from(window.streams()).unwrap();
                assert!(streams * window.stream() <= window.connection(), "{window:?}");
            }
            assert_eq!(windows[0].streams(), 32);
        }
    }

    #[test]
    fn callers_take_nothing_of_what_upstreams_may_send() {
        let callers: Vec<Window> = (0..100).map(|_| Window::of_caller(u32::MAX)).collect();
        assert!(Window::of_upstream(MIB).connection() == MIB);
        drop(callers);
    }
}
