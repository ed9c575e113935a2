//! How long an issuer is left alone after a failure. Pure.

use std::time::Duration;

use crate::issuer::FailureKind;

/// A refused client: asking more often locks accounts.
const REFUSED: Duration = Duration::from_secs(60);
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(5 * 60);
/// Either way, so that replicas do not ask at the same moment.
const JITTER: f64 = 0.1;

/// Whether asking again is pointless until a person or a file changes something.
pub(super) fn is_refusal(kind: FailureKind) -> bool {
    match kind {
        FailureKind::ClientRefused | FailureKind::RequestRefused => true,
        FailureKind::Unusable | FailureKind::Unavailable | FailureKind::Timeout | FailureKind::Credential => {
            false
        }
    }
}

/// A refusal: 60 s. Else what the issuer's `Retry-After` says, within 1 s and 5 min (RFC 9110 section 10.2.3).
/// Else 1, 2, 4 … 60 s, up to 10 % more or less by `chance` in 0 ..= 1, but never below 1 s nor above 60 s.
///
/// `in_a_row` counts failures without a success between them, this one included.
pub(super) fn pause(
    kind: FailureKind,
    in_a_row: u32,
    retry_after: Option<Duration>,
    chance: f64,
) -> Duration {
    if is_refusal(kind) {
        return REFUSED;
    }
    if let Some(asked_for) = retry_after {
        return asked_for.clamp(FIRST, LONGEST_RETRY_AFTER);
    }
    let doubled = FIRST.saturating_mul(2u32.saturating_pow(in_a_row.saturating_sub(1))).min(LONGEST);
    doubled.mul_f64(1.0 - JITTER + 2.0 * JITTER * chance.clamp(0.0, 1.0)).clamp(FIRST, LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unjittered(in_a_row: u32) -> u64 {
        pause(FailureKind::Unavailable, in_a_row, None, 0.5).as_secs()
    }

    #[test]
    fn t30_doubles_up_to_a_minute() {
        let pauses: Vec<u64> = (1..=9).map(unjittered).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(unjittered(u32::MAX), 60);
    }

    #[test]
    fn t30_jitter_stays_within_a_tenth_and_within_the_bounds() {
        let at = |in_a_row, chance| pause(FailureKind::Timeout, in_a_row, None, chance).as_secs_f64();
        assert_eq!((at(4, 0.0), at(4, 1.0)), (7.2, 8.8));
        assert_eq!((at(1, 0.0), at(1, 1.0)), (1.0, 1.1));
        assert_eq!((at(20, 0.0), at(20, 1.0)), (54.0, 60.0));
    }

    #[test]
    fn t32_retry_after_goes_before_the_back_off_within_its_bounds() {
        let of = |seconds| {
            pause(FailureKind::Unavailable, 7, Some(Duration::from_secs(seconds)), 0.3).as_secs_f64()
        };
        assert_eq!((of(0), of(30), of(1_000_000_000)), (1.0, 30.0, 300.0));
    }

    #[test]
    fn t34_a_refusal_waits_a_minute_whatever_came_before() {
        for kind in [FailureKind::ClientRefused, FailureKind::RequestRefused] {
            assert_eq!(pause(kind, 1, Some(Duration::from_secs(5)), 0.0), Duration::from_secs(60));
        }
        for kind in [FailureKind::Unusable, FailureKind::Credential, FailureKind::Timeout] {
            assert_eq!(pause(kind, 1, None, 0.5), Duration::from_secs(1));
        }
    }
}
