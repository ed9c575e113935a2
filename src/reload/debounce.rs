//! Many events in a row become one look at the files.

use std::time::Duration;

use tokio::time::Instant;

/// How long it must have been quiet: a write, and a swap of links, is several events.
const QUIET: Duration = Duration::from_millis(150);
/// A folder that is never quiet is looked at nevertheless.
const LONGEST: Duration = Duration::from_secs(1);

/// When to look.
#[derive(Debug)]
pub(super) struct Debounce {
    /// The first and the last event since the last look.
    pending: Option<(Instant, Instant)>,
    next_poll: Instant,
}

impl Debounce {
    pub(super) fn new(now: Instant, poll: Duration) -> Self {
        Self { pending: None, next_poll: now + poll }
    }

    pub(super) fn event(&mut self, now: Instant) {
        let first = self.pending.map_or(now, |(first, _)| first);
        self.pending = Some((first, now));
    }

    /// The moment of the next look, as far as is known.
    pub(super) fn due(&self) -> Instant {
        match self.pending {
            Some((first, last)) => (last + QUIET).min(first + LONGEST),
            None => self.next_poll,
        }
    }

    /// Another interval for looks without an event, from now on.
    pub(super) fn set_poll(&mut self, now: Instant, poll: Duration) {
        self.next_poll = now + poll;
    }

    pub(super) fn looked(&mut self, now: Instant, poll: Duration) {
        *self = Self::new(now, poll);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLL: Duration = Duration::from_secs(30);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn events_in_a_row_are_looked_at_once_it_is_quiet() {
        let start = Instant::now();
        let mut debounce = Debounce::new(start, POLL);
        debounce.event(start);
        debounce.event(start + ms(100));
        assert_eq!(debounce.due(), start + ms(100) + QUIET);
    }

    #[test]
    fn a_folder_that_is_never_quiet_is_looked_at_too() {
        let start = Instant::now();
        let mut debounce = Debounce::new(start, POLL);
        for at in 0..40 {
            debounce.event(start + ms(at * 50));
        }
        assert_eq!(debounce.due(), start + LONGEST);
    }

    #[test]
    fn without_events_the_files_are_polled() {
        let start = Instant::now();
        let mut debounce = Debounce::new(start, POLL);
        assert_eq!(debounce.due(), start + POLL);
        debounce.event(start);
        debounce.looked(start + ms(200), POLL);
        assert_eq!(debounce.due(), start + ms(200) + POLL);
    }
}
