use proptest::prelude::*;

use super::*;
use crate::issuer::Unreached;
use crate::net::Hop;

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn moment(boot: f64, wall: f64) -> Moment {
    Moment { boot: secs(1_000.0 + boot), wall: SystemTime::UNIX_EPOCH + secs(1_700_000_000.0 + wall) }
}

fn validity(lifetime: f64) -> Validity {
    Validity::new(moment(0.0, 0.0), secs(lifetime), 0.8, 0.0)
}

#[test]
fn is_not_sent_in_its_last_five_seconds_or_five_percent() {
    for (lifetime, last) in [(3600.0, 3595.0), (100.0, 95.0), (60.0, 57.0), (5.0, 4.75), (1.0, 0.95)] {
        let validity = validity(lifetime);
        assert!(validity.may_be_sent(moment(last - 0.001, 0.0)), "{lifetime}: {last} by boot");
        assert!(validity.may_be_sent(moment(0.0, last - 0.001)), "{lifetime}: {last} by wall");
        assert!(!validity.may_be_sent(moment(last, 0.0)), "{lifetime}: {last} by boot");
        assert!(!validity.may_be_sent(moment(0.0, last)), "{lifetime}: {last} by wall");
    }
}

#[test]
fn t61_a_wall_clock_that_goes_back_makes_no_token_immortal() {
    let validity = validity(3600.0);
    assert!(validity.may_be_sent(moment(10.0, -7200.0)), "it is as young as before");
    assert!(validity.is_due(moment(10.0, -7200.0)), "but not to be trusted for long");
    assert!(!validity.may_be_sent(moment(3595.0, -7200.0)));
    assert!(!validity.is_due(moment(0.0, -4.0)), "a small step is no jump");
}

#[test]
fn is_due_at_its_share_of_the_lifetime_on_either_clock() {
    let validity = validity(100.0);
    assert!(!validity.is_due(moment(79.9, 79.9)));
    assert!(validity.is_due(moment(80.0, 0.0)));
    assert!(validity.is_due(moment(0.0, 80.0)));
    assert_eq!(validity.due_in(moment(30.0, 0.0)), secs(50.0));
    assert_eq!(validity.due_in(moment(90.0, 0.0)), Duration::ZERO);
}

#[test]
fn t56_jitter_spreads_renewals_over_a_tenth_and_only_earlier() {
    let due_in = |refresh_at: f64, chance: f64| {
        let asked = moment(0.0, 0.0);
        Validity::new(asked, secs(100.0), refresh_at, chance).due_in(asked).as_secs_f64().round()
    };
    assert_eq!((due_in(0.8, 0.0), due_in(0.8, 1.0)), (80.0, 70.0));
    assert_eq!((due_in(0.55, 0.0), due_in(0.55, 1.0)), (55.0, 50.0));
    assert_eq!((due_in(0.3, 0.0), due_in(0.3, 1.0)), (30.0, 30.0));
    assert_eq!((due_in(1.0, 0.0), due_in(1.0, 1.0)), (95.0, 90.0), "never later than it may be sent");
}

proptest! {
    #[test]
    fn an_expired_token_is_never_sent(
        lifetime in 1.0f64..90_000.0, refresh_at in 0.01f64..=1.0, chance in 0.0f64..=1.0,
        boot in 0.0f64..100_000.0, wall in -100_000.0f64..100_000.0,
    ) {
        let validity = Validity::new(moment(0.0, 0.0), secs(lifetime), refresh_at, chance);
        let now = moment(boot, wall);
        prop_assert!(!(validity.may_be_sent(now) && (boot >= lifetime || wall >= lifetime)));
        prop_assert!(validity.due_in(moment(0.0, 0.0)) <= secs(lifetime * refresh_at) + Duration::from_micros(1));
        prop_assert!(validity.is_due(now) || validity.may_be_sent(now), "what may not be sent is due");
    }
}

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
    let expected = [(1.0, 1.0), (2.0, 2.0), (4.0, 4.0), (8.0, 8.0), (16.0, 8.0), (32.0, 8.0), (48.0, 8.0)];
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
fn an_issuer_that_timed_out_is_asked_again_soon_unless_there_is_a_token() {
    let pause = Pause::after(&failure(FailureKind::Timeout), 9, HOUR, 0.5);
    assert_eq!(pause.length(false, false), Duration::from_secs(1));
    assert_eq!(pause.length(true, false), Duration::from_secs(48));
}

#[test]
fn only_an_unreachable_issuer_waits_for_its_probe_and_only_while_there_is_one() {
    let of = |silent, watched| {
        let unreached = Some(Unreached { hop: Hop::new("idp.example", 443, false), silent });
        let error = IssuerError { unreached, ..failure(FailureKind::Unavailable) };
        Pause::after(&error, 2, Duration::from_secs(10), 1.0).length(false, watched).as_secs_f64()
    };
    assert_eq!([of(true, true), of(true, false)], [60.0, 2.5]);
    assert_eq!([of(false, true), of(false, false)], [2.5, 2.5]);
}
