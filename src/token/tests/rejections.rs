//! Tokens that are replaced before they expire: an upstream refused one, or what it is bound to changed.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::{Rig, Scripted, away, cache, failure, grant, issuer, key, request, settle, text};
use crate::clock::{SharedClock, ShiftedClock};
use crate::issuer::{FailureKind, IssuerError};
use crate::token::{Rejected, RetryCause, TokenErrorKind};

#[tokio::test(start_paused = true)]
async fn t70_a_refused_token_is_replaced_at_once() {
    let rig = Rig::new();
    let first = rig.request().await.unwrap();
    assert_eq!(rig.slot.reject(first.generation), Rejected::Dropped);
    assert!(rig.slot.current().is_none());
    assert_eq!(rig.slot.status().state, "none");
    let second = rig.newer_than(first.generation).await.unwrap();
    assert_eq!((text(&second), second.generation), ("t2".to_owned(), 2));
    assert_eq!(rig.idp.asked_at(), [0.0, 0.1], "without a pause");
}

#[tokio::test(start_paused = true)]
async fn t71_a_token_fetched_because_of_a_401_is_kept_for_10_s() {
    let rig = Rig::new();
    rig.idp.delay(0);
    let mut generation = rig.request().await.unwrap().generation;
    assert_eq!(rig.slot.reject(generation), Rejected::Dropped);
    generation = rig.newer_than(generation).await.unwrap().generation;
    for _ in 0..99 {
        rig.pass(0.1).await;
        assert_eq!(rig.slot.reject(generation), Rejected::Keep);
        assert_eq!(rig.slot.current().unwrap().generation, generation);
    }
    assert_eq!(rig.idp.asked(), 2);
    rig.pass(0.2).await;
    assert_eq!(rig.slot.reject(generation), Rejected::Dropped);
    assert_eq!(rig.newer_than(generation).await.unwrap().generation, 3);
    assert_eq!(rig.slot.reject(3), Rejected::Keep);
}

#[tokio::test(start_paused = true)]
async fn t71_a_refused_token_leaves_a_warning() {
    let (write, read) = std::sync::mpsc::channel();
    let writer = move || Lines(write.clone());
    let subscriber = tracing_subscriber::fmt().with_writer(writer).with_ansi(false).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let rig = Rig::new();
    let first = rig.request().await.unwrap();
    rig.slot.reject(first.generation);
    rig.newer_than(first.generation).await.unwrap();
    let log = String::from_utf8(read.try_iter().flatten().collect()).unwrap();
    let warned =
        log.lines().any(|line| line.contains("WARN") && line.contains("an upstream refused the token"));
    assert!(warned, "{log}");
}

struct Lines(std::sync::mpsc::Sender<Vec<u8>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.send(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn t71_a_renewed_token_is_dropped_by_its_first_401() {
    let rig = Rig::new();
    rig.idp.respond(|number| Ok(grant(number, 100)));
    rig.request_text().await;
    rig.pass(81.0).await;
    assert_eq!(rig.slot.current().unwrap().generation, 2);
    assert_eq!(rig.slot.reject(2), Rejected::Dropped);
}

#[tokio::test(start_paused = true)]
async fn t72_a_thousand_401s_cause_one_request() {
    let rig = Rig::new();
    rig.request_text().await;
    let mut tasks = JoinSet::new();
    for _ in 0..1_000 {
        let slot = Arc::clone(&rig.slot);
        tasks.spawn(async move {
            assert_ne!(slot.reject(1), Rejected::Keep);
            slot.newer_than(1, None).await.unwrap().generation
        });
    }
    assert_eq!(tasks.join_all().await, vec![2; 1_000]);
    assert_eq!(rig.idp.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn t72_a_401_on_an_older_token_leaves_the_newer_one_alone() {
    let rig = Rig::new();
    rig.idp.respond(|number| Ok(grant(number, 100)));
    rig.request_text().await;
    rig.pass(81.0).await;
    assert_eq!(rig.slot.reject(1), Rejected::Replace);
    assert_eq!(rig.slot.current().unwrap().generation, 2);
    assert_eq!(rig.newer_than(1).await.unwrap().generation, 2);
    assert_eq!(rig.idp.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn t73_a_refused_token_is_replaced_even_if_nobody_waits() {
    let rig = Rig::new();
    rig.request_text().await;
    assert_eq!(rig.slot.reject(1), Rejected::Dropped);
    rig.pass(0.2).await;
    assert_eq!(rig.slot.current().unwrap().generation, 2);
}

#[tokio::test(start_paused = true)]
async fn t75_a_failed_replacement_fails_all_who_wait() {
    let rig = Rig::new();
    rig.request_text().await;
    rig.idp.respond(|_| Err(failure(FailureKind::Unavailable)));
    assert_eq!(rig.slot.reject(1), Rejected::Dropped);
    assert_eq!(rig.newer_than(1).await.err().unwrap().kind, TokenErrorKind::Unavailable);
    assert_eq!(rig.newer_than(1).await.err().unwrap().kind, TokenErrorKind::Unavailable);
    assert_eq!(rig.idp.asked(), 2, "the failure is in force");

    rig.idp.respond(|number| Ok(grant(number, 3600)));
    rig.pass(1.5).await;
    let token = rig.slot.current().unwrap();
    assert_eq!((token.generation, rig.slot.reject(2)), (2, Rejected::Keep), "still because of that 401");
}

#[tokio::test(start_paused = true)]
async fn a_fetch_from_before_the_401_does_not_replace_the_refused_token() {
    let rig = Rig::new();
    rig.idp.respond(|number| Ok(grant(number, 100)));
    rig.request_text().await;
    rig.idp.delay(30_000);
    rig.pass(81.0).await;
    assert!(rig.slot.status().fetching, "a renewal is under way");
    rig.idp.delay(100);
    assert_eq!(rig.slot.reject(1), Rejected::Dropped);
    let token = rig.newer_than(1).await.unwrap();
    assert_eq!((text(&token), token.generation), ("t3".to_owned(), 2));
    settle().await;
    assert_eq!(rig.idp.outcomes(), ["ok", "superseded", "ok"]);
    assert_eq!(rig.slot.reject(2), Rejected::Keep);
}

#[tokio::test(start_paused = true)]
async fn rejecting_what_never_was_changes_nothing() {
    let rig = Rig::new();
    assert_eq!(rig.slot.reject(7), Rejected::Replace);
    rig.pass(1.0).await;
    assert_eq!(rig.idp.asked(), 0);
}

/// Threads that really run at the same time, on the machine's clocks: no demand and no wake-up is lost between them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn t72_storms_from_many_threads_cause_one_request_each() {
    const ROUNDS: u64 = 200;
    const CALLS: usize = 16;
    let clock = Arc::new(ShiftedClock::default());
    let idp = Arc::new(Scripted::new());
    idp.delay(0);
    idp.respond(|number| Ok(grant(number, 86_400)));
    let cache = cache(Arc::clone(&clock) as SharedClock, &idp);
    let config = Arc::new(issuer("corp", 1));
    let slot = cache.slot(&key(&config, &[]), &config, 10_000);
    let barrier = Arc::new(Barrier::new(CALLS));
    let mut tasks = JoinSet::new();
    for _ in 0..CALLS {
        let (slot, clock, barrier) = (Arc::clone(&slot), Arc::clone(&clock), Arc::clone(&barrier));
        tasks.spawn(async move {
            for round in 1..=ROUNDS {
                let generation = request(&slot).await.unwrap().generation;
                assert_eq!(generation, round);
                if barrier.wait().await.is_leader() {
                    clock.advance(Duration::from_secs(11));
                }
                barrier.wait().await;
                assert_ne!(slot.reject(generation), Rejected::Keep);
                let newer = Arc::clone(&slot).newer_than(generation, None).await.unwrap();
                assert_eq!(newer.generation, round + 1);
                barrier.wait().await;
            }
        });
    }
    tokio::time::timeout(Duration::from_secs(60), tasks.join_all()).await.expect("nobody waits for ever");
    assert_eq!(idp.asked(), usize::try_from(ROUNDS).unwrap() + 1);
}

/// An upstream has refused the first token, and the next fetch ends with `failure`.
async fn refused_meanwhile(failure: impl Fn() -> IssuerError + Send + Sync + 'static) -> Rig {
    let rig = Rig::new();
    rig.idp.delay(0);
    rig.request_text().await;
    rig.pass(60.0).await;
    rig.idp.respond(move |_| Err(failure()));
    assert_eq!(rig.slot.reject(1), Rejected::Dropped);
    settle().await;
    rig
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_stays_in_use_while_the_issuer_is_not_available() {
    let failures: [fn() -> IssuerError; 6] = [
        || away("idp.example"),
        || failure(FailureKind::Unavailable),
        || failure(FailureKind::Timeout),
        || failure(FailureKind::Unusable),
        || failure(FailureKind::Credential),
        || IssuerError { forgiven: true, ..failure(FailureKind::ClientRefused) },
    ];
    for failure in failures {
        let rig = refused_meanwhile(failure).await;
        for _ in 0..600 {
            assert_eq!(rig.request_text().await, "t1");
            rig.pass(0.1).await;
        }
        assert_eq!(rig.slot.status().state, "valid");
        // A request that is refused once more returns the upstream's response.
        assert_eq!(rig.slot.reject(1), Rejected::Replace);
        assert!(rig.newer_than(1).await.is_err());
        rig.idp.come_back(3600);
        let from = tokio::time::Instant::now();
        while rig.request().await.unwrap().generation == 1 {
            rig.pass(0.1).await;
            assert!(from.elapsed() < Duration::from_secs(11), "fetched anew after the back-off");
        }
        assert_eq!(rig.slot.reject(2), Rejected::Keep, "because of that 401");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_not_used_if_the_issuer_refuses_as_well() {
    for kind in [FailureKind::ClientRefused, FailureKind::RequestRefused] {
        let rig = refused_meanwhile(move || failure(kind)).await;
        let error = rig.request().await.err().unwrap();
        assert_eq!((error.kind, error.issuer_refused), (TokenErrorKind::Refused, true));
        assert_eq!(rig.slot.status().state, "none");
        rig.idp.come_back(3600);
        rig.pass(60.5).await;
        assert_eq!(rig.request().await.unwrap().generation, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_not_used_after_it_expires() {
    let rig = Rig::new();
    rig.idp.respond(|number| Ok(grant(number, 100)));
    rig.request_text().await;
    rig.idp.vanish();
    assert_eq!(rig.slot.reject(1), Rejected::Dropped);
    rig.pass(0.2).await;
    for _ in 0..945 {
        assert!(rig.slot.current().is_some());
        rig.pass(0.1).await;
    }
    rig.pass(0.5).await;
    assert!(rig.slot.current().is_none());
    assert!(rig.request().await.is_err());
}

/// A token that is fetched after an outage in which a refused token expired was not fetched because of the 401.
#[tokio::test(start_paused = true)]
async fn the_successor_of_a_refused_token_that_expired_is_dropped_by_its_first_401() {
    let rig = Rig::new();
    rig.idp.respond(|number| Ok(grant(number, 20)));
    rig.request_text().await;
    rig.idp.vanish();
    assert_eq!(rig.slot.reject(1), Rejected::Dropped);
    rig.pass(30.0).await;
    rig.idp.come_back(3600);
    let mut next = rig.request().await;
    while next.is_err() {
        rig.pass(0.1).await;
        next = rig.request().await;
    }
    let generation = next.unwrap().generation;
    assert_eq!(rig.slot.reject(generation), Rejected::Dropped);
    assert!(rig.newer_than(generation).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn requests_wait_for_the_successor_and_get_the_refused_token_if_it_does_not_come() {
    let rig = Rig::new();
    rig.request_text().await;
    rig.idp.delay(9_000);
    rig.idp.respond(|_| Err(failure(FailureKind::Timeout)));
    assert_eq!(rig.slot.reject(1), Rejected::Dropped);
    let from = tokio::time::Instant::now();
    let refused = rig.newer_than(1);
    let others = async {
        rig.pass(1.0).await;
        rig.request_text().await
    };
    let (refused, other) = tokio::join!(refused, others);
    assert_eq!(refused.err().unwrap().kind, TokenErrorKind::Timeout, "the upstream's response is better");
    assert_eq!((other.as_str(), from.elapsed().as_secs()), ("t1", 9));
    // From then on no request waits, and further tries happen in the background.
    for _ in 0..600 {
        let before = tokio::time::Instant::now();
        assert_eq!(rig.request_text().await, "t1");
        assert_eq!(before.elapsed(), Duration::ZERO);
        rig.pass(0.1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_timed_out_gets_the_refused_token_that_is_still_valid() {
    let rig = Rig::new();
    rig.request_text().await;
    rig.idp.delay(12_000);
    assert_eq!(rig.slot.reject(1), Rejected::Dropped);
    assert_eq!(rig.request_text().await, "t1", "after the issuer's timeout");
    assert!(rig.newer_than(1).await.is_ok(), "the fetch goes on");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_refused_in_an_outage_is_used_without_a_gap_and_replaced_within_ten_seconds() {
    let rig = Rig::new();
    rig.idp.delay(0);
    rig.idp.respond(|number| Ok(grant(number, 3_600)));
    rig.request_text().await;
    rig.idp.respond(|_| Err(failure(FailureKind::Unavailable)));
    // The renewal fails for so long that the pauses are long.
    rig.pass(3_300.0).await;
    let asked = rig.idp.asked();
    assert_eq!(rig.slot.reject(1), Rejected::Dropped);
    assert!(rig.slot.current().is_some());
    assert!(rig.newer_than(1).await.is_err());
    assert_eq!(rig.request_text().await, "t1");
    rig.pass(10.1).await;
    assert!(rig.idp.asked() > asked, "a refused token counts as none");
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_whose_binding_changed_is_gone() {
    let rig = refused_meanwhile(|| failure(FailureKind::Unavailable)).await;
    assert!(rig.slot.current().is_some());
    rig.idp.binding.store(1, SeqCst);
    rig.slot.retry_now(RetryCause::FilesChanged);
    settle().await;
    assert!(rig.request().await.is_err());
    rig.idp.come_back(3600);
    rig.pass(10.1).await;
    assert_eq!(rig.request().await.unwrap().generation, 2);
    assert_eq!(rig.slot.reject(2), Rejected::Dropped, "it was not fetched because of a 401");
}

impl Rig {
    fn rebind(&self, why: RetryCause) {
        self.idp.binding.fetch_add(1, SeqCst);
        self.slot.retry_now(why);
    }
}

#[tokio::test(start_paused = true)]
async fn t104_a_token_whose_binding_changed_is_replaced_at_once_and_requests_wait() {
    for why in [RetryCause::FilesChanged, RetryCause::Operator] {
        let rig = Rig::new();
        assert_eq!(rig.request_text().await, "t1");
        rig.rebind(why);
        settle().await;
        assert!(rig.slot.current().is_none(), "the old one is not sent any more");
        assert_eq!(rig.request_text().await, "t2");
        assert_eq!(rig.idp.asked_at(), [0.0, 0.1], "without a pause");
    }
}

#[tokio::test(start_paused = true)]
async fn t104_a_token_that_nobody_uses_is_replaced_too() {
    let rig = Rig::new();
    rig.slot.prefetch();
    rig.pass(5.0).await;
    rig.rebind(RetryCause::FilesChanged);
    rig.pass(5.0).await;
    assert_eq!(rig.idp.asked(), 2);
    assert_eq!(rig.slot.status().state, "valid");
}

#[tokio::test(start_paused = true)]
async fn t94_a_token_whose_binding_did_not_change_stays() {
    let rig = Rig::new();
    rig.request_text().await;
    rig.idp.fingerprint.store(1, SeqCst);
    rig.slot.retry_now(RetryCause::FilesChanged);
    rig.slot.retry_now(RetryCause::Operator);
    rig.pass(10.0).await;
    assert_eq!((rig.request_text().await.as_str(), rig.idp.asked()), ("t1", 1));
}

#[tokio::test(start_paused = true)]
async fn t104_a_changed_binding_drops_nothing_before_it_is_noticed() {
    let rig = Rig::new();
    rig.request_text().await;
    rig.idp.binding.store(1, SeqCst);
    rig.pass(10.0).await;
    assert_eq!(rig.request_text().await, "t1");
}

#[tokio::test(start_paused = true)]
async fn t104_the_successor_may_be_refused_within_ten_seconds() {
    let rig = Rig::new();
    rig.request_text().await;
    rig.rebind(RetryCause::FilesChanged);
    settle().await;
    let token = rig.request().await.unwrap();
    assert_eq!(token.generation, 2);
    assert_eq!(rig.slot.reject(2), Rejected::Dropped, "it was not fetched because of a 401");
    assert_eq!(rig.newer_than(2).await.unwrap().generation, 3);
    assert_eq!(rig.slot.reject(3), Rejected::Keep);
}

#[tokio::test(start_paused = true)]
async fn t104_a_token_requested_with_the_old_binding_is_not_used() {
    let rig = Rig::new();
    rig.idp.delay(5_000);
    let request = rig.request();
    let change = async {
        rig.pass(2.0).await;
        rig.rebind(RetryCause::FilesChanged);
    };
    let (token, ()) = tokio::join!(request, change);
    assert_eq!(token.unwrap().secret.expose(), b"t2");
    settle().await;
    assert_eq!(rig.idp.outcomes(), ["superseded", "ok"]);
    assert_eq!(rig.idp.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn t104_a_renewal_with_the_old_binding_is_not_used() {
    let rig = Rig::new();
    rig.idp.respond(|number| Ok(grant(number, 100)));
    rig.request_text().await;
    // The renewal begins between 70 s and 80 s.
    rig.idp.delay(30_000);
    rig.pass(81.0).await;
    assert!(rig.slot.status().fetching);
    rig.idp.delay(100);
    rig.rebind(RetryCause::FilesChanged);
    settle().await;
    assert!(rig.slot.current().is_none());
    assert_eq!(rig.request_text().await, "t3");
    assert_eq!(rig.idp.outcomes(), ["ok", "superseded", "ok"]);
}

#[tokio::test(start_paused = true)]
async fn t104_several_changes_end_with_the_last_binding() {
    let rig = Rig::new();
    rig.request_text().await;
    for _ in 0..5 {
        rig.rebind(RetryCause::FilesChanged);
        rig.pass(0.05).await;
    }
    rig.pass(1.0).await;
    let asked = rig.idp.asked();
    assert_eq!(rig.request_text().await, format!("t{asked}"), "the last one that was asked for");
    rig.pass(10.0).await;
    assert_eq!(rig.idp.asked(), asked);
}

#[tokio::test(start_paused = true)]
async fn t104_a_failed_successor_is_a_failure_like_others() {
    let rig = Rig::new();
    rig.request_text().await;
    rig.idp.respond(|_| Err(failure(FailureKind::Unavailable)));
    rig.rebind(RetryCause::FilesChanged);
    settle().await;
    assert!(rig.request().await.is_err(), "the old token would be of no use");
    rig.idp.respond(|number| Ok(grant(number, 3600)));
    rig.pass(2.0).await;
    let token = rig.request().await.unwrap();
    assert_eq!((token.generation, rig.slot.reject(2)), (2, Rejected::Dropped));
}

#[tokio::test(start_paused = true)]
async fn t104_a_client_refused_during_the_fetch_is_tried_again_with_the_new_credential() {
    let rig = Rig::new();
    rig.idp.delay(2_000);
    rig.idp.respond(|number| match number {
        1 => Err(failure(FailureKind::ClientRefused)),
        _ => Ok(grant(number, 3600)),
    });
    let request = rig.request();
    let change = async {
        rig.pass(1.0).await;
        rig.idp.fingerprint.store(1, SeqCst);
        rig.slot.retry_now(RetryCause::FilesChanged);
    };
    let (first, ()) = tokio::join!(request, change);
    assert!(first.is_err());
    rig.pass(2.5).await;
    assert_eq!(rig.request_text().await, "t2");
}
