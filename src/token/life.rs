//! How long a token may be sent, and when it is renewed. Pure: the time is handed in.
//!
//! A life starts when the token was asked for, not when it came: the issuer's clock may have started then. It is
//! counted on two clocks at once, one that also runs in suspend and the wall clock, and ends with the first of them.

use std::time::{Duration, SystemTime};

use crate::clock::Clock;

/// A token on its way to an upstream must not end there.
const LONGEST_MARGIN: Duration = Duration::from_secs(5);
/// The margin's share of the life: 5 %.
const MARGIN_DIVISOR: u32 = 20;
/// Renewals of many replicas are spread over this share of the life.
const JITTER: f64 = 0.1;
/// Jitter alone never makes a renewal earlier than at half the life.
const EARLIEST_BY_JITTER: f64 = 0.5;
/// NTP steps smaller than this are no reason to ask for a token.
const BACKWARD_STEP: Duration = Duration::from_secs(5);

/// One reading of both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    /// Never goes back, goes on in suspend.
    pub(super) boot: Duration,
    pub(super) wall: SystemTime,
}

impl Moment {
    pub(super) fn now(clock: &dyn Clock) -> Self {
        Self { boot: clock.boot(), wall: clock.wall() }
    }

    /// The time of day in `by` from this moment.
    pub(super) fn wall_in(&self, by: Duration) -> SystemTime {
        self.wall.checked_add(by).unwrap_or(self.wall)
    }
}

/// The life of one token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Life {
    asked: Moment,
    lifetime: Duration,
    /// The lifetime without its last min(5 s, 5 %).
    sendable_for: Duration,
    renew_after: Duration,
}

impl Life {
    /// `refresh_at` is a share of `lifetime`; `chance` in 0 ..= 1 makes the renewal earlier, by up to 10 % of the life.
    pub(super) fn new(asked: Moment, lifetime: Duration, refresh_at: f64, chance: f64) -> Self {
        let margin = LONGEST_MARGIN.min(lifetime / MARGIN_DIVISOR);
        let sendable_for = lifetime.saturating_sub(margin);
        let earliest = (refresh_at - JITTER).max(refresh_at.min(EARLIEST_BY_JITTER));
        let share = refresh_at - (refresh_at - earliest) * chance.clamp(0.0, 1.0);
        let renew_after = lifetime.mul_f64(share.clamp(0.0, 1.0)).min(sendable_for);
        Self { asked, lifetime, sendable_for, renew_after }
    }

    /// The token is neither expired nor in its last min(5 s, 5 %) of life, on either clock.
    pub(super) fn may_be_sent(&self, now: Moment) -> bool {
        !self.left(now).is_zero()
    }

    /// How long it may still be sent, if no clock jumps.
    pub(super) fn left(&self, now: Moment) -> Duration {
        let by_boot = now.boot.saturating_sub(self.asked.boot);
        // A wall clock that went back says nothing about the age: the other clock decides alone.
        let by_wall = now.wall.duration_since(self.asked.wall).unwrap_or_default();
        self.sendable_for.saturating_sub(by_boot.max(by_wall))
    }

    /// Time to renew: its share of the life is over, or the wall clock went back so far that the token seems to be
    /// from the future.
    pub(super) fn is_due(&self, now: Moment) -> bool {
        let by_wall = match now.wall.duration_since(self.asked.wall) {
            Ok(age) => age >= self.renew_after,
            Err(back) => back.duration() > BACKWARD_STEP,
        };
        by_wall || now.boot.saturating_sub(self.asked.boot) >= self.renew_after
    }

    /// How long until [`Self::is_due`], if the wall clock does not jump.
    pub(super) fn due_in(&self, now: Moment) -> Duration {
        self.renew_after.saturating_sub(now.boot.saturating_sub(self.asked.boot))
    }

    pub(super) fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// By the wall clock of when it was asked for.
    pub(super) fn expires_at(&self) -> SystemTime {
        self.asked.wall_in(self.lifetime)
    }

    /// By the wall clock of when it was asked for.
    pub(super) fn renew_at(&self) -> SystemTime {
        self.asked.wall_in(self.renew_after)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn moment(boot: f64, wall: f64) -> Moment {
        Moment { boot: secs(1_000.0 + boot), wall: SystemTime::UNIX_EPOCH + secs(1_700_000_000.0 + wall) }
    }

    fn life(lifetime: f64) -> Life {
        Life::new(moment(0.0, 0.0), secs(lifetime), 0.8, 0.0)
    }

    #[test]
    fn is_not_sent_in_its_last_five_seconds_or_five_percent() {
        for (lifetime, last) in [(3600.0, 3595.0), (100.0, 95.0), (60.0, 57.0), (5.0, 4.75), (1.0, 0.95)] {
            let life = life(lifetime);
            assert!(life.may_be_sent(moment(last - 0.001, 0.0)), "{lifetime}: {last} by boot");
            assert!(life.may_be_sent(moment(0.0, last - 0.001)), "{lifetime}: {last} by wall");
            assert!(!life.may_be_sent(moment(last, 0.0)), "{lifetime}: {last} by boot");
            assert!(!life.may_be_sent(moment(0.0, last)), "{lifetime}: {last} by wall");
        }
    }

    #[test]
    fn t61_a_wall_clock_that_goes_back_makes_no_token_immortal() {
        let life = life(3600.0);
        assert!(life.may_be_sent(moment(10.0, -7200.0)), "it is as young as before");
        assert!(life.is_due(moment(10.0, -7200.0)), "but not to be trusted for long");
        assert!(!life.may_be_sent(moment(3595.0, -7200.0)));
        assert!(!life.is_due(moment(0.0, -4.0)), "a small step is no jump");
    }

    #[test]
    fn is_due_at_its_share_of_the_life_on_either_clock() {
        let life = life(100.0);
        assert!(!life.is_due(moment(79.9, 79.9)));
        assert!(life.is_due(moment(80.0, 0.0)));
        assert!(life.is_due(moment(0.0, 80.0)));
        assert_eq!(life.due_in(moment(30.0, 0.0)), secs(50.0));
        assert_eq!(life.due_in(moment(90.0, 0.0)), Duration::ZERO);
    }

    #[test]
    fn t56_jitter_spreads_renewals_over_a_tenth_and_only_earlier() {
        let due_in = |refresh_at: f64, chance: f64| {
            let asked = moment(0.0, 0.0);
            Life::new(asked, secs(100.0), refresh_at, chance).due_in(asked).as_secs_f64().round()
        };
        assert_eq!((due_in(0.8, 0.0), due_in(0.8, 1.0)), (80.0, 70.0));
        assert_eq!((due_in(0.55, 0.0), due_in(0.55, 1.0)), (55.0, 50.0));
        assert_eq!((due_in(0.3, 0.0), due_in(0.3, 1.0)), (30.0, 30.0));
        assert_eq!((due_in(1.0, 0.0), due_in(1.0, 1.0)), (95.0, 90.0), "never later than it may be sent");
    }

    proptest! {
        #[test]
        fn an_ended_life_is_never_sent(
            lifetime in 1.0f64..90_000.0, refresh_at in 0.01f64..=1.0, chance in 0.0f64..=1.0,
            boot in 0.0f64..100_000.0, wall in -100_000.0f64..100_000.0,
        ) {
            let life = Life::new(moment(0.0, 0.0), secs(lifetime), refresh_at, chance);
            let now = moment(boot, wall);
            prop_assert!(!(life.may_be_sent(now) && (boot >= lifetime || wall >= lifetime)));
            prop_assert!(life.due_in(moment(0.0, 0.0)) <= secs(lifetime * refresh_at) + Duration::from_micros(1));
            prop_assert!(life.is_due(now) || life.may_be_sent(now), "what may not be sent is due");
        }
    }
}
