//! Property tests: random histories of a slot, and what holds in all of them.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::{Rig, away, failure, grant, settle, unreached};
use crate::clock::Moment;
use crate::issuer::{FailureKind, IssuerError};
use crate::token::{RetryCause, Token};

/// The state of the issuer.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    /// Grants tokens for so many seconds.
    Well(u64),
    /// No connection succeeds.
    Away,
    /// Accepts connections and does not respond.
    Hangs,
    /// Accepts connections, but TLS fails.
    NoTls,
    /// 503.
    Busy,
    /// 429 with `Retry-After`.
    Throttles(u64),
    Refuses,
    /// 200 and a web page.
    Garbage,
}

impl Mode {
    fn failure(self) -> Option<IssuerError> {
        Some(match self {
            Self::Well(_) => return None,
            Self::Away => away("idp.example"),
            Self::Hangs => failure(FailureKind::Timeout),
            Self::NoTls => unreached("idp.example", false),
            Self::Busy => IssuerError { http_status: Some(503), ..failure(FailureKind::Unavailable) },
            Self::Throttles(seconds) => IssuerError {
                retry_after: Some(Duration::from_secs(seconds)),
                ..failure(FailureKind::Unavailable)
            },
            Self::Refuses => failure(FailureKind::ClientRefused),
            Self::Garbage => failure(FailureKind::Unusable),
        })
    }

    /// The longest time from the issuer's recovery until a request gets a token.
    fn served_within(self) -> f64 {
        match self {
            Self::Well(_) => 1.2,
            Self::Away => 1.5,
            // The current request.
            Self::Hangs => 12.0,
            Self::NoTls | Self::Busy | Self::Garbage => 10.5,
            Self::Throttles(seconds) => seconds as f64 + 0.5,
            Self::Refuses => 60.5,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Becomes(Mode),
    /// For so long nothing happens except requests, one every so many milliseconds.
    Passes {
        seconds: u64,
        between_ms: u64,
    },
    /// For so long nothing happens, not even requests.
    Rests(u64),
    /// The upstream refuses the token that is held.
    Refused,
    Suspends(u64),
    Jumps(i64),
    SecretChanges,
    BindingChanges,
    Sighup,
}

fn modes() -> impl Strategy<Value = Mode> {
    prop_oneof![
        3 => prop_oneof![Just(1), Just(5), 20u64..200, Just(3600)].prop_map(Mode::Well),
        2 => Just(Mode::Away),
        1 => Just(Mode::Hangs),
        1 => Just(Mode::NoTls),
        2 => Just(Mode::Busy),
        1 => (1u64..40).prop_map(Mode::Throttles),
        1 => Just(Mode::Refuses),
        1 => Just(Mode::Garbage),
    ]
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => modes().prop_map(Act::Becomes),
        6 => (1u64..60, 100u64..2_000).prop_map(|(seconds, between_ms)| Act::Passes { seconds, between_ms }),
        1 => (1u64..200).prop_map(Act::Rests),
        3 => Just(Act::Refused),
        1 => (1u64..4_000).prop_map(Act::Suspends),
        1 => (-4_000i64..4_000).prop_map(Act::Jumps),
        1 => Just(Act::SecretChanges),
        1 => Just(Act::BindingChanges),
        1 => Just(Act::Sighup),
    ]
}

struct Story {
    rig: Rig,
    mode: Mode,
    /// The mode since the last success after which the issuer is asked latest.
    worst: Mode,
    seen: u64,
    /// Whatever may cause a request outside the usual pace.
    causes: usize,
    started: Instant,
}

impl Story {
    fn new() -> Self {
        let rig = Rig::new();
        let mode = Mode::Well(60);
        let mut story = Self { rig, mode, worst: mode, seen: 0, causes: 0, started: Instant::now() };
        story.becomes(mode);
        story
    }

    fn becomes(&mut self, mode: Mode) {
        self.mode = mode;
        if mode.served_within() > self.worst.served_within() {
            self.worst = mode;
        }
        let idp = &self.rig.idp;
        idp.delay(if mode == Mode::Hangs { 10_000 } else { 100 });
        idp.reachable.store(mode != Mode::Away, SeqCst);
        let lifetime = if let Mode::Well(lifetime) = mode { lifetime } else { 0 };
        idp.respond(move |number| mode.failure().map_or_else(|| Ok(grant(number, lifetime)), Err));
    }

    async fn act(&mut self, act: Act) {
        match act {
            Act::Becomes(mode) => self.becomes(mode),
            Act::Passes { seconds, between_ms } => {
                let until = Instant::now() + Duration::from_secs(seconds);
                while Instant::now() < until {
                    self.request().await;
                    tokio::time::sleep(Duration::from_millis(between_ms)).await;
                    settle().await;
                }
            }
            Act::Rests(seconds) => self.rig.pass(seconds as f64).await,
            Act::Refused => self.refuse().await,
            Act::Suspends(seconds) => self.rig.clock.suspend(seconds),
            Act::Jumps(seconds) => self.rig.clock.jump_wall(seconds),
            Act::SecretChanges => {
                self.causes += 1;
                self.rig.idp.fingerprint.fetch_add(1, SeqCst);
                self.rig.slot.retry_now(RetryCause::FilesChanged);
            }
            Act::BindingChanges => {
                self.causes += 1;
                self.rig.idp.binding.fetch_add(1, SeqCst);
                self.rig.slot.retry_now(RetryCause::FilesChanged);
            }
            Act::Sighup => {
                self.causes += 1;
                self.rig.slot.retry_now(RetryCause::Operator);
            }
        }
    }

    /// Whether a request gets a token, which must never be an expired one.
    async fn request(&mut self) -> bool {
        let Ok(token) = self.rig.request().await else { return false };
        self.check(&token);
        if token.generation > self.seen {
            self.seen = token.generation;
            self.worst = self.mode;
        }
        true
    }

    fn check(&self, token: &Token) {
        let number: usize = token.secret.expose_str().unwrap()[1..].parse().unwrap();
        let (asked, now) = (self.rig.idp.asked_moment(number), Moment::now(&*self.rig.clock));
        let held = self.rig.slot.held.load();
        // The token that was held when the request came. Its successor's lifetime is longer.
        let lifetime = held.as_ref().map_or(Duration::ZERO, |held| held.validity.lifetime());
        let age = (now.boot - asked.boot).max(now.wall.duration_since(asked.wall).unwrap_or_default());
        assert!(age < lifetime, "{number} is sent {age:?} after it was asked for, and lives {lifetime:?}");
    }

    async fn refuse(&mut self) {
        let Some(token) = self.rig.slot.current() else { return };
        self.causes += 1;
        self.rig.slot.reject(token.generation);
        if let Ok(newer) = self.rig.newer_than(token.generation).await {
            assert!(newer.generation > token.generation);
            self.check(&newer);
        }
    }

    /// Checks everything that must hold.
    async fn end(mut self) {
        let worst = self.worst;
        self.becomes(Mode::Well(3600));
        let back = Instant::now();
        let allowed = worst.served_within() + 1.2;
        while !self.request().await {
            let waited = back.elapsed().as_secs_f64();
            assert!(waited <= allowed, "after {worst:?} not served within {waited} s");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(!self.rig.idp.overlapped.load(SeqCst), "two requests at once");
        let most = usize::try_from(self.started.elapsed().as_secs()).unwrap() + self.causes + 2;
        assert!(self.rig.idp.asked() <= most, "{} requests, at most {most}", self.rig.idp.asked());
        self.rig.pass(100.0).await;
        assert_eq!(self.rig.slot.status().waiters, 0);
    }
}

fn tell(story: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(story);
}

/// Lets time pass without requests while the issuer fails in this mode, from when the token is due until it expires.
/// Returns when the last try before that was.
async fn last_try_before_the_end(lifetime: u64, mode: Mode) -> (f64, Vec<f64>) {
    let mut story = Story::new();
    story.becomes(Mode::Well(lifetime));
    assert!(story.request().await);
    story.becomes(mode);
    story.rig.pass(lifetime as f64 * 1.2).await;
    let held = story.rig.slot.held.load_full().unwrap();
    let end = held.validity.left(story.rig.idp.asked_moment(1)).as_secs_f64();
    let mut tries = story.rig.idp.asked_at_exactly();
    tries.extend(story.rig.idp.probed_at());
    tries.sort_by(f64::total_cmp);
    (end, tries)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_slot_keeps_its_promises_whatever_happens(acts in prop::collection::vec(acts(), 1..40)) {
        tell(async {
            let mut story = Story::new();
            for act in acts {
                story.act(act).await;
            }
            story.end().await;
        });
    }

    #[test]
    fn there_is_always_a_try_before_a_token_expires(
        lifetime in 20u64..4_000,
        mode in prop_oneof![Just(Mode::Away), Just(Mode::NoTls), Just(Mode::Busy), Just(Mode::Garbage)],
    ) {
        tell(async move {
            let (end, tries) = last_try_before_the_end(lifetime, mode).await;
            let last = tries.iter().rfind(|at| **at < end).unwrap();
            assert!(end - last <= 2.6, "{mode:?} {lifetime} s: {end} {tries:?}");
            let after = tries.iter().filter(|at| **at > end + 1.0).count();
            assert_eq!(after, 0, "no request comes: {end} {tries:?}");
        });
    }
}

#[test]
fn a_slot_survives_a_day_of_short_outages() {
    tell(async {
        let mut story = Story::new();
        for round in 0..200 {
            let modes = [Mode::Away, Mode::Busy, Mode::Well(120), Mode::Hangs, Mode::Well(60)];
            story.becomes(modes[round % modes.len()]);
            story.act(Act::Passes { seconds: 45, between_ms: 700 }).await;
            if round % 7 == 0 {
                story.refuse().await;
            }
        }
        story.end().await;
    });
}

/// This once lost 743 of 743 requests: one request to a path that responds 401, in an outage, with an hour of lifetime
/// left.
#[test]
fn one_refusal_in_an_outage_costs_no_other_request() {
    for mode in [Mode::Away, Mode::Busy, Mode::Hangs, Mode::NoTls] {
        tell(async move {
            let mut story = Story::new();
            story.becomes(Mode::Well(3600));
            assert!(story.request().await);
            story.becomes(mode);
            story.refuse().await;
            for _ in 0..743 {
                assert!(story.request().await, "{mode:?}");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            story.end().await;
        });
    }
}
