//! Clocks that tests can move.
//!
//! A token's lifetime is measured by two clocks: one that also runs while the machine is suspended (`CLOCK_BOOTTIME`),
//! and the wall clock, which may jump. See [`crate::token`].

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A source of time.
pub trait Clock: Send + Sync + 'static {
    /// The time since a fixed moment. It never goes back, and continues during suspend.
    fn boot(&self) -> Duration;
    /// The time of day. It may jump in either direction.
    fn wall(&self) -> SystemTime;
}

/// A clock that the whole process shares.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's own clocks.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn boot(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that asks the machine for the time of day")]
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// The machine's clocks, which a test can move.
#[derive(Debug, Default)]
pub struct ShiftedClock {
    boot_ms: AtomicU64,
    wall_ms: AtomicI64,
}

impl ShiftedClock {
    /// Moves both clocks forward, as waiting or a suspend does.
    pub fn advance(&self, by: Duration) {
        let ms = millis(by);
        self.boot_ms.fetch_add(ms, Ordering::SeqCst);
        self.wall_ms.fetch_add(i64::try_from(ms).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    /// Moves only the wall clock, as an operator or NTP does, by milliseconds in either direction.
    pub fn jump_wall(&self, by_ms: i64) {
        self.wall_ms.fetch_add(by_ms, Ordering::SeqCst);
    }
}

impl Clock for ShiftedClock {
    fn boot(&self) -> Duration {
        SystemClock.boot() + Duration::from_millis(self.boot_ms.load(Ordering::SeqCst))
    }

    fn wall(&self) -> SystemTime {
        let shift = self.wall_ms.load(Ordering::SeqCst);
        let by = Duration::from_millis(shift.unsigned_abs());
        if shift >= 0 { SystemClock.wall() + by } else { SystemClock.wall() - by }
    }
}

/// One reading of both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Never goes back, and runs during a suspend.
    pub boot: Duration,
    pub wall: SystemTime,
}

impl Moment {
    pub fn now(clock: &dyn Clock) -> Self {
        Self { boot: clock.boot(), wall: clock.wall() }
    }

    /// The moment `by` before this one.
    #[must_use]
    pub fn before(&self, by: Duration) -> Self {
        Self { boot: self.boot.saturating_sub(by), wall: self.wall.checked_sub(by).unwrap_or(self.wall) }
    }

    /// The time of day `by` after this moment.
    pub fn wall_in(&self, by: Duration) -> SystemTime {
        self.wall.checked_add(by).unwrap_or(self.wall)
    }
}

/// Whole milliseconds; the most that fit if it is longer.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whole microseconds; the most that fit if it is longer.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The time of day as RFC 3339, UTC, to the second.
pub fn rfc3339(at: SystemTime) -> String {
    // The formatter panics outside of 1970 to 9999, and a wall clock may have any time.
    let last = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_seconds(at.clamp(UNIX_EPOCH, last)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_by_ages_breaks_nothing() {
        assert_eq!(rfc3339(UNIX_EPOCH - Duration::from_secs(5)), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(1 << 40)), "9999-12-31T23:59:59Z");
    }
}
