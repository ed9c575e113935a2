//! What happens again and again is said once a minute, with how often.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(60);

/// One thing that may have to be said very often. Many threads may have it at once.
#[derive(Debug, Default)]
pub struct Repeated {
    /// Milliseconds; 0: it was never said.
    next: AtomicU64,
    held_back: AtomicU64,
}

impl Repeated {
    /// `Some(n)`: it is time to say it, and that it came `n` times more since it was said last. `now` never goes back.
    pub fn due(&self, now: Duration) -> Option<u64> {
        self.due_for(now, 1)
    }

    /// As [`Self::due`], where it came `times` at once.
    pub fn due_for(&self, now: Duration, times: u64) -> Option<u64> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let next = self.next.load(Ordering::Relaxed);
        let later = millis(now.saturating_add(EVERY));
        let won = millis(now) >= next
            && self.next.compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if won {
            return Some(self.held_back.swap(0, Ordering::Relaxed));
        }
        self.held_back.fetch_add(times, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_due_once_a_minute_and_counts_what_came_between() {
        let repeated = Repeated::default();
        let due = |seconds| repeated.due(Duration::from_secs(seconds));
        assert_eq!(due(1_000), Some(0), "at once");
        assert_eq!([due(1_000), due(1_030), due(1_059)], [None; 3]);
        assert_eq!([due(1_060), due(1_060), due(1_061)], [Some(3), None, None]);
        assert_eq!(due(9_000), Some(2));
        assert_eq!(due(9_060), Some(0));
    }

    #[test]
    fn is_said_once_however_many_threads_want_to_say_it() {
        let repeated = Repeated::default();
        let said = std::thread::scope(|scope| {
            let say = || (0..1_000).filter_map(|_| repeated.due(Duration::from_secs(7))).count();
            #[expect(clippy::needless_collect, reason = "all threads start before one is waited for")]
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(say)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert_eq!(said, 1);
        assert_eq!(repeated.due(Duration::from_secs(67)), Some(3_999));
    }
}
