//! When a token may be sent, when it is renewed, and when its issuer is asked. Pure: the time is handed in.

use std::time::{Duration, SystemTime};

use crate::clock::Clock;
use crate::issuer::{FailureKind, IssuerError};

/// A token on its way to an upstream must not end there.
const LONGEST_MARGIN: Duration = Duration::from_secs(5);
/// The margin's share of the life: 5 %.
const MARGIN_DIVISOR: u32 = 20;
/// Renewals of many replicas are spread over this share of the life.
const RENEWAL_JITTER: f64 = 0.1;
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
        let earliest = (refresh_at - RENEWAL_JITTER).max(refresh_at.min(EARLIEST_BY_JITTER));
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
    fn due_in(&self, now: Moment) -> Duration {
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

/// A refused client: asking more often locks accounts.
const REFUSED: Duration = Duration::from_secs(60);
const FIRST: Duration = Duration::from_secs(1);
/// While a valid token serves, nobody suffers.
const LONGEST_SERVED: Duration = Duration::from_secs(60);
const LONGEST_UNSERVED: Duration = Duration::from_secs(10);
/// While bare connects ([`super::lookout`]) show whether the issuer is back: for what they do not show.
const LONGEST_WATCHED: Duration = Duration::from_secs(60);
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(5 * 60);
/// Either way, so that replicas that failed together do not ask together again.
const PAUSE_JITTER: f64 = 0.25;

/// The pause after one failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pause {
    /// While a sound token serves on.
    served: Duration,
    unserved: Duration,
    /// While the issuer, which was silent, is looked out for.
    watched: Option<Duration>,
}

impl Pause {
    /// A refusal: 60 s. Else what the issuer's `Retry-After` says, within 1 s and 5 min (RFC 9110 section 10.2.3).
    /// Else 1, 2, 4 … s, up to a quarter more or less by `chance` in 0 ..= 1, but never below 1 s nor above 60 s, or
    /// 10 s without a sound token, or 1 s where the failure took the issuer's timeout.
    ///
    /// `in_a_row` counts failures without a success between them, this one included. `left`: so long may the held token
    /// still be sent. A pause takes no more than half of that, again and again, so that however slow the
    /// issuer is, a new token has the time to come.
    pub(super) fn after(error: &IssuerError, in_a_row: u32, left: Duration, chance: f64) -> Self {
        if error.is_final() {
            return Self::of(REFUSED);
        }
        if let Some(asked_for) = error.retry_after {
            return Self::of(asked_for.clamp(FIRST, LONGEST_RETRY_AFTER));
        }
        let doubled = FIRST.saturating_mul(2u32.saturating_pow(in_a_row.saturating_sub(1)));
        let served = spread(doubled, LONGEST_SERVED, chance);
        let served = served.min((left / 2).max(FIRST));
        // Waiting in vain for a response was a pause already, and shows when an issuer that hung is back.
        let steps = if error.kind == FailureKind::Timeout { FIRST } else { doubled };
        let watched = error.is_silent().then(|| spread(LONGEST_WATCHED, LONGEST_WATCHED, chance));
        Self { served, unserved: spread(steps, LONGEST_UNSERVED, chance), watched }
    }

    pub(super) fn of(pause: Duration) -> Self {
        Self { served: pause, unserved: pause, watched: None }
    }

    pub(super) fn length(self, served: bool, watched: bool) -> Duration {
        match self.watched.filter(|_| watched) {
            Some(pause) => pause,
            None if served => self.served,
            None => self.unserved,
        }
    }
}

fn spread(pause: Duration, longest: Duration, chance: f64) -> Duration {
    // The longest pauses are spread as well: below the bound, since none may be above it.
    let middle = pause.min(longest.div_f64(1.0 + PAUSE_JITTER));
    middle.mul_f64(1.0 - PAUSE_JITTER + 2.0 * PAUSE_JITTER * chance.clamp(0.0, 1.0)).clamp(FIRST, longest)
}

/// However short a token lives: its issuer is not asked more often, except for a refused token's successor.
const BETWEEN_REQUESTS: Duration = Duration::from_secs(1);

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextStep {
    Fetch,
    /// At least so long there is nothing to do, unless poked; `None`: until poked.
    Sleep(Option<Duration>),
    /// A fetch is wanted, but must wait: pokes for a due renewal are of no use until then. Whether it is still wanted is
    /// looked at again when the held token ends.
    Hold {
        pause: Duration,
        worth_it_for: Duration,
    },
}

/// All that decides about the next step.
pub(super) struct View {
    pub(super) now: Moment,
    /// A request, a refusal or an operator wants a token.
    pub(super) demanded: bool,
    /// To be fetched without a request, and never was.
    pub(super) owed: bool,
    pub(super) held: Option<HeldView>,
    /// The end of the present failure's pause, by the boot clock.
    pub(super) retry_at: Option<Duration>,
    /// The issuer was away, and is back.
    pub(super) is_back: bool,
    /// When the issuer was last asked, by the boot clock.
    pub(super) asked_at: Option<Duration>,
    /// There was a token, and it is refused by an upstream, or was bound to what has changed.
    pub(super) lost: bool,
    pub(super) retired: bool,
}

#[derive(Clone, Copy)]
pub(super) struct HeldView {
    pub(super) life: Life,
    pub(super) used: bool,
    pub(super) refused: bool,
}

impl View {
    pub(super) fn step(&self) -> NextStep {
        if !self.is_wanted() {
            // An unused token is looked at again when it is due: it may have been used until then.
            let held = self.held.filter(|held| !self.retired && !held.life.is_due(self.now));
            return NextStep::Sleep(held.map(|held| held.life.due_in(self.now)));
        }
        let floor = self.asked_at.filter(|_| !self.lost).map(|asked| asked + BETWEEN_REQUESTS);
        let pause = self.retry_at.filter(|_| !self.is_back);
        match floor.max(pause).map(|earliest| earliest.saturating_sub(self.now.boot)) {
            Some(pause) if !pause.is_zero() => NextStep::Hold { pause, worth_it_for: self.worth_it_for() },
            Some(_) | None => NextStep::Fetch,
        }
    }

    /// A renewal that failed is worth it until the token ends: from then on only calls are a reason to ask.
    fn worth_it_for(&self) -> Duration {
        let renewal = self.held.filter(|held| !self.demanded && held.life.may_be_sent(self.now));
        renewal.map_or(Duration::MAX, |held| held.life.left(self.now))
    }

    fn is_wanted(&self) -> bool {
        let renewal = self.held.is_some_and(|HeldView { life, used, refused }| {
            // Once it may not be sent and asking failed, only calls are a reason to go on asking.
            let worth_it = life.may_be_sent(self.now) || self.retry_at.is_none();
            used && (refused || life.is_due(self.now)) && worth_it
        });
        self.demanded || (!self.retired && (self.owed || renewal))
    }
}

#[cfg(test)]
mod tests;
