//! When a token may be sent, when it is renewed, and when its issuer is asked. Pure functions: the caller passes the
//! time.

use std::time::{Duration, SystemTime};

use crate::clock::Moment;
use crate::issuer::{FailureKind, IssuerError};

/// A token must not expire on its way to an upstream.
const LONGEST_MARGIN: Duration = Duration::from_secs(5);
/// The margin is 1/20 (5 %) of the lifetime.
const MARGIN_DIVISOR: u32 = 20;
/// Renewals of many replicas are spread over this share of the lifetime.
const RENEWAL_JITTER: f64 = 0.1;
/// Jitter alone never renews a token before half of its lifetime.
const EARLIEST_BY_JITTER: f64 = 0.5;
/// A token that came again is renewed when at least this share of the rest is over.
const AGAIN_AT: f64 = 0.5;
/// Smaller steps of the wall clock (NTP) do not cause a renewal.
const BACKWARD_STEP: Duration = Duration::from_secs(5);

/// The end of a lifetime in which a token is not sent.
pub(super) fn margin(lifetime: Duration) -> Duration {
    LONGEST_MARGIN.min(lifetime / MARGIN_DIVISOR)
}

/// How long one token is valid.
///
/// The validity starts when the token was requested, not when it arrived, because the issuer's clock may have started
/// then. It is counted on two clocks, one that also runs during a suspend and the wall clock, and ends with the first
/// of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Validity {
    asked: Moment,
    lifetime: Duration,
    /// The lifetime without its last min(5 s, 5 %).
    sendable_for: Duration,
    renew_after: Duration,
}

impl Validity {
    /// `refresh_at` is a share of `lifetime`. `chance` in 0 ..= 1 makes the renewal earlier, by up to 10 % of the
    /// lifetime.
    pub(super) fn new(asked: Moment, lifetime: Duration, refresh_at: f64, chance: f64) -> Self {
        Self::with_margin(asked, lifetime, margin(lifetime), refresh_at, chance)
    }

    /// The validity of the same token if the issuer gives it out once more, as metadata services do until shortly before
    /// it expires. `lifetime` is the rest. bearerd asks again when at least half of that is over: each request halves the
    /// rest, however small `refresh_at` is. The end of the lifetime in which the token is not sent stays as it is.
    pub(super) fn again(&self, asked: Moment, lifetime: Duration, refresh_at: f64, chance: f64) -> Self {
        let margin = self.lifetime.saturating_sub(self.sendable_for);
        Self::with_margin(asked, lifetime, margin, refresh_at.max(AGAIN_AT), chance)
    }

    fn with_margin(
        asked: Moment,
        lifetime: Duration,
        margin: Duration,
        refresh_at: f64,
        chance: f64,
    ) -> Self {
        let sendable_for = lifetime.saturating_sub(margin);
        let earliest = (refresh_at - RENEWAL_JITTER).max(refresh_at.min(EARLIEST_BY_JITTER));
        let share = refresh_at - (refresh_at - earliest) * chance.clamp(0.0, 1.0);
        let renew_after = lifetime.mul_f64(share.clamp(0.0, 1.0)).min(sendable_for);
        Self { asked, lifetime, sendable_for, renew_after }
    }

    /// The token is neither expired nor in the last min(5 s, 5 %) of its lifetime, on either clock.
    pub(super) fn may_be_sent(&self, now: Moment) -> bool {
        !self.left(now).is_zero()
    }

    /// How long the token may still be sent, if no clock jumps.
    pub(super) fn left(&self, now: Moment) -> Duration {
        self.sendable_for.saturating_sub(self.age(now))
    }

    /// What is left of the lifetime, if no clock jumps.
    pub(super) fn time_left(&self, now: Moment) -> Duration {
        self.lifetime.saturating_sub(self.age(now))
    }

    fn age(&self, now: Moment) -> Duration {
        let by_boot = now.boot.saturating_sub(self.asked.boot);
        // A wall clock that went back says nothing about the age, so the other clock decides alone.
        let by_wall = now.wall.duration_since(self.asked.wall).unwrap_or_default();
        by_boot.max(by_wall)
    }

    /// The token is due for renewal: its share of the lifetime is over, or the wall clock went back so far that the
    /// token seems to be from the future.
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

    /// The time of day at which the token expires.
    pub(super) fn expires_at(&self) -> SystemTime {
        self.asked.wall_in(self.lifetime)
    }

    /// The time of day at which the token is due for renewal.
    pub(super) fn renew_at(&self) -> SystemTime {
        self.asked.wall_in(self.renew_after)
    }
}

/// After a refused client. More frequent requests lock accounts at some issuers.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_secs(60);
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause while bearerd has a valid token.
const LONGEST_SERVED: Duration = Duration::from_secs(60);
const LONGEST_UNSERVED: Duration = Duration::from_secs(10);
/// The longest pause while probes ([`super::probe`]) show whether the issuer is reachable, for failures that they do
/// not show.
const LONGEST_WATCHED: Duration = Duration::from_secs(60);
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(5 * 60);
/// In both directions, so that replicas that failed together do not ask again together.
const PAUSE_JITTER: f64 = 0.25;

/// How long bearerd waits after a failed fetch before it asks the issuer again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pause {
    /// With a valid token that no upstream refused.
    served: Duration,
    unserved: Duration,
    /// While a probe watches the issuer, which did not respond.
    watched: Option<Duration>,
}

impl Pause {
    /// 60 s after a refusal. With a spent budget, exactly until the next request is possible. Otherwise the issuer's
    /// `Retry-After`, clamped to 1 s ..= 5 min (RFC 9110 section 10.2.3).
    /// Otherwise 1, 2, 4 … s, up to 25 % more or less by `chance` in 0 ..= 1, at least 1 s and at most 60 s, or 10 s
    /// without a valid token, or 1 s if the failure took the issuer's timeout.
    ///
    /// `in_a_row` counts failures without a success in between, this one included. `left` is how long the held token
    /// may still be sent. A pause takes at most half of it each time, so that a new token has time to arrive even from
    /// a slow issuer.
    pub(super) fn after(error: &IssuerError, in_a_row: u32, left: Duration, chance: f64) -> Self {
        if error.is_final() {
            return Self::of(PAUSE_AFTER_REFUSAL);
        }
        if let Some(asked_for) = error.retry_after {
            if error.kind == FailureKind::Budget {
                return Self::of(asked_for);
            }
            return Self::of(asked_for.clamp(SHORTEST_PAUSE, LONGEST_RETRY_AFTER));
        }
        let doubled = SHORTEST_PAUSE.saturating_mul(2u32.saturating_pow(in_a_row.saturating_sub(1)));
        let served = spread(doubled, LONGEST_SERVED, chance);
        let served = served.min((left / 2).max(SHORTEST_PAUSE));
        // The wait for a response was a pause already.
        let steps = if error.kind == FailureKind::Timeout { SHORTEST_PAUSE } else { doubled };
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
    // Spreads the longest pauses too, below their limit.
    let middle = pause.min(longest.div_f64(1.0 + PAUSE_JITTER));
    middle
        .mul_f64(1.0 - PAUSE_JITTER + 2.0 * PAUSE_JITTER * chance.clamp(0.0, 1.0))
        .clamp(SHORTEST_PAUSE, longest)
}

/// The shortest time between two requests to an issuer, however short its tokens live. The successor of a refused token
/// is exempt.
const BETWEEN_REQUESTS: Duration = Duration::from_secs(1);

/// What the slot's task does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextStep {
    Fetch,
    /// Nothing to do for this long, or until something pokes the task. `None`: until then.
    Sleep(Option<Duration>),
    /// A fetch is wanted but must wait, so pokes for a renewal have no effect during `pause`. After `useful_for`, the
    /// held token expires, and the task checks whether the fetch is still wanted.
    Hold {
        pause: Duration,
        useful_for: Duration,
    },
}

/// Everything that decides about the next step.
pub(super) struct SlotView {
    pub(super) now: Moment,
    /// A request, a refused token or an operator wants a token.
    pub(super) demanded: bool,
    /// The slot is prefetched, and was never fetched.
    pub(super) owed: bool,
    pub(super) held: Option<HeldTokenView>,
    /// When the pause after the current failure ends, by the boot clock.
    pub(super) retry_at: Option<Duration>,
    /// The issuer was unreachable and is reachable again.
    pub(super) is_back: bool,
    /// When the issuer was last asked, by the boot clock.
    pub(super) asked_at: Option<Duration>,
    /// There was a token, and an upstream refused it or its binding changed.
    pub(super) lost: bool,
    pub(super) retired: bool,
}

#[derive(Clone, Copy)]
pub(super) struct HeldTokenView {
    pub(super) validity: Validity,
    pub(super) used: bool,
    pub(super) refused: bool,
}

impl SlotView {
    pub(super) fn step(&self) -> NextStep {
        if !self.is_wanted() {
            // Looks at an unused token again when it is due: it may be used until then.
            let held = self.held.filter(|held| !self.retired && !held.validity.is_due(self.now));
            return NextStep::Sleep(held.map(|held| held.validity.due_in(self.now)));
        }
        let floor = self.asked_at.filter(|_| !self.lost).map(|asked| asked + BETWEEN_REQUESTS);
        let pause = self.retry_at.filter(|_| !self.is_back);
        match floor.max(pause).map(|earliest| earliest.saturating_sub(self.now.boot)) {
            Some(pause) if !pause.is_zero() => NextStep::Hold { pause, useful_for: self.useful_for() },
            Some(_) | None => NextStep::Fetch,
        }
    }

    /// A failed renewal is useful until the token expires. From then on, only requests are a reason to ask.
    fn useful_for(&self) -> Duration {
        let renewal = self.held.filter(|held| !self.demanded && held.validity.may_be_sent(self.now));
        renewal.map_or(Duration::MAX, |held| held.validity.left(self.now))
    }

    fn is_wanted(&self) -> bool {
        let renewal = self.held.is_some_and(|HeldTokenView { validity, used, refused }| {
            // After the token expired and a fetch failed, only requests are a reason to ask.
            let worth_it = validity.may_be_sent(self.now) || self.retry_at.is_none();
            used && (refused || validity.is_due(self.now)) && worth_it
        });
        self.demanded || (!self.retired && (self.owed || renewal))
    }
}

#[cfg(test)]
mod tests;
