//! How long an issuer is left alone after a failure. Pure.

use std::time::Duration;

use crate::issuer::{FailureKind, IssuerError};

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
const JITTER: f64 = 0.25;

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
        let served = jittered(doubled, LONGEST_SERVED, chance);
        let served = served.min((left / 2).max(FIRST));
        // Waiting in vain for a response was a pause already, and shows when an issuer that hung is back.
        let steps = if error.kind == FailureKind::Timeout { FIRST } else { doubled };
        let watched = error.is_silent().then(|| jittered(LONGEST_WATCHED, LONGEST_WATCHED, chance));
        Self { served, unserved: jittered(steps, LONGEST_UNSERVED, chance), watched }
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

fn jittered(pause: Duration, longest: Duration, chance: f64) -> Duration {
    // The longest pauses are spread as well: below the bound, since none may be above it.
    let middle = pause.min(longest.div_f64(1.0 + JITTER));
    middle.mul_f64(1.0 - JITTER + 2.0 * JITTER * chance.clamp(0.0, 1.0)).clamp(FIRST, longest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issuer::Unreached;
    use crate::net::Hop;

    const HOUR: Duration = Duration::from_secs(3600);

    fn failure(kind: FailureKind) -> IssuerError {
        IssuerError::new(kind, String::new())
    }

    fn after(in_a_row: u32, left: Duration, chance: f64) -> (f64, f64) {
        let pause = Pause::after(&failure(FailureKind::Unavailable), in_a_row, left, chance);
        (pause.length(true, true).as_secs_f64(), pause.length(false, true).as_secs_f64())
    }

    #[test]
    fn t30_doubles_up_to_a_minute_with_a_token_and_to_ten_seconds_without() {
        let pauses: Vec<_> = (1..=8).map(|in_a_row| after(in_a_row, HOUR, 0.5)).collect();
        let expected =
            [(1.0, 1.0), (2.0, 2.0), (4.0, 4.0), (8.0, 8.0), (16.0, 8.0), (32.0, 8.0), (48.0, 8.0)];
        assert_eq!(pauses[..7], expected);
        assert_eq!((after(8, HOUR, 1.0), after(u32::MAX, HOUR, 1.0)), ((60.0, 10.0), (60.0, 10.0)));
    }

    #[test]
    fn t30_jitter_stays_within_a_quarter_and_within_the_bounds() {
        assert_eq!((after(3, HOUR, 0.0), after(3, HOUR, 1.0)), ((3.0, 3.0), (5.0, 5.0)));
        assert_eq!((after(1, HOUR, 0.0), after(1, HOUR, 1.0)), ((1.0, 1.0), (1.25, 1.25)));
        assert_eq!((after(20, HOUR, 0.0), after(20, HOUR, 1.0)), ((36.0, 6.0), (60.0, 10.0)));
    }

    #[test]
    fn a_pause_ends_before_the_token_does_and_leaves_time_for_the_next_one() {
        let left = |seconds: f64| after(20, Duration::from_secs_f64(seconds), 1.0).0;
        assert_eq!([left(61.0), left(60.0), left(12.0), left(2.0)], [30.5, 30.0, 6.0, 1.0]);
        assert_eq!([left(1.0), left(0.0)], [1.0, 1.0], "never a hot loop");
        assert_eq!(after(1, Duration::from_secs(5), 0.5).0, 1.0, "a short pause stays as it is");
    }

    #[test]
    fn t32_retry_after_goes_before_the_back_off_within_its_bounds() {
        let of = |seconds| {
            let error = IssuerError {
                retry_after: Some(Duration::from_secs(seconds)),
                ..failure(FailureKind::Unavailable)
            };
            Pause::after(&error, 7, Duration::ZERO, 0.3)
        };
        for (said, kept) in [(0, 1), (30, 30), (1_000_000_000, 300)] {
            assert_eq!(of(said), Pause::of(Duration::from_secs(kept)));
        }
    }

    #[test]
    fn t34_a_refusal_waits_a_minute_whatever_came_before_and_no_longer_where_it_is_forgiven() {
        for kind in [FailureKind::ClientRefused, FailureKind::RequestRefused] {
            let refused = IssuerError { retry_after: Some(Duration::from_secs(5)), ..failure(kind) };
            assert_eq!(Pause::after(&refused, 1, Duration::ZERO, 0.0), Pause::of(Duration::from_secs(60)));
            let forgiven = IssuerError { forgiven: true, ..failure(kind) };
            assert_eq!(Pause::after(&forgiven, 1, HOUR, 0.5), Pause::of(Duration::from_secs(1)));
        }
        for kind in [FailureKind::Unusable, FailureKind::Credential, FailureKind::Timeout] {
            assert_eq!(Pause::after(&failure(kind), 1, HOUR, 0.5), Pause::of(Duration::from_secs(1)));
        }
    }

    #[test]
    fn an_issuer_that_took_all_of_its_time_is_asked_again_soon_unless_a_token_serves() {
        let pause = Pause::after(&failure(FailureKind::Timeout), 9, HOUR, 0.5);
        assert_eq!(pause.length(false, false), Duration::from_secs(1));
        assert_eq!(pause.length(true, false), Duration::from_secs(48));
    }

    #[test]
    fn only_a_silent_issuer_is_left_to_the_bare_connects_and_only_while_there_are_any() {
        let of = |silent, watched| {
            let unreached = Some(Unreached { hop: Hop::new("idp.example", 443, false), silent });
            let error = IssuerError { unreached, ..failure(FailureKind::Unavailable) };
            Pause::after(&error, 2, Duration::from_secs(10), 1.0).length(false, watched).as_secs_f64()
        };
        assert_eq!([of(true, true), of(true, false)], [60.0, 2.5]);
        assert_eq!([of(false, true), of(false, false)], [2.5, 2.5]);
    }
}
