//! Failed fetches, and how soon an issuer that was unreachable is asked again.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Rig, away, failure, grant, issuer, key, request, settle, unreached};
use crate::issuer::{FailureKind, IssuerError};
use crate::token::{RetryCause, TokenErrorKind};

#[tokio::test(start_paused = true)]
async fn t30_backs_off_1_2_4_up_to_10_s_however_often_it_is_called() {
    let rig = Rig::new();
    rig.idp.delay(0);
    rig.idp.respond(|_| Err(failure(FailureKind::Unavailable)));
    keep_requesting(&rig, 90).await;
    let asked_at = rig.idp.asked_at();
    let pauses: Vec<f64> = asked_at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.len() >= 8, "{pauses:?}");
    for (pause, expected) in pauses.iter().zip([1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0]) {
        assert!((pause - expected).abs() <= expected * 0.25 + 0.2, "{pauses:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn t30_backs_off_up_to_60_s_while_a_valid_token_is_left_and_to_10_s_from_then_on() {
    let rig = Rig::new();
    rig.idp.delay(0);
    rig.idp.respond(|number| match number {
        1 => Ok(grant(1, 2_000)),
        _ => Err(failure(FailureKind::Unavailable)),
    });
    keep_requesting(&rig, 2_100).await;
    let asked_at = rig.idp.asked_at();
    let pauses = |from: f64, to: f64| -> Vec<f64> {
        let within = asked_at.windows(2).filter(|pair| pair[0] >= from && pair[1] <= to);
        within.map(|pair| pair[1] - pair[0]).collect()
    };
    let early = pauses(1_400.0, 1_900.0);
    let longest = early.iter().copied().fold(0.0, f64::max);
    assert!(longest > 30.0 && longest <= 60.2, "{early:?}");
    let last = asked_at.iter().rfind(|at| **at < 1_995.0).unwrap();
    assert!(*last >= 1_992.0, "tried just before the token's last 5 s: {asked_at:?}");
    let late = pauses(1_996.5, 2_100.0);
    assert!(late.len() >= 8 && late.iter().all(|pause| *pause <= 10.2), "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_issuer_has_time_to_respond_before_the_token_expires() {
    for took_ms in [100, 1_000, 2_000] {
        let rig = Rig::new();
        rig.idp.respond(|number| match number {
            1 => Ok(grant(1, 60)),
            _ => Err(failure(FailureKind::Unavailable)),
        });
        rig.request_text().await;
        // Fails until shortly before the token expires, and responds from then on.
        rig.pass(50.0).await;
        rig.idp.respond(|number| Ok(grant(number, 60)));
        rig.idp.delay(took_ms);
        for _ in 0..300 {
            assert!(rig.slot.current().is_some(), "no request waits: {took_ms} {:?}", rig.idp.asked_at());
            rig.pass(0.1).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t31_retry_after_is_observed_and_reported() {
    let rig = Rig::new();
    rig.idp.delay(0);
    rig.idp.respond(|number| match number {
        1 => Err(IssuerError {
            retry_after: Some(Duration::from_secs(30)),
            ..failure(FailureKind::Unavailable)
        }),
        _ => Ok(grant(number, 3600)),
    });
    let error = rig.request().await.err().unwrap();
    assert_eq!((error.kind, error.retry_after), (TokenErrorKind::Unavailable, Some(Duration::from_secs(30))));
    rig.pass(29.5).await;
    let error = rig.request().await.err().unwrap();
    assert_eq!(error.retry_after, Some(Duration::from_secs(1)), "what remains, at least 1 s");
    assert_eq!(rig.idp.asked(), 1);
    rig.pass(0.6).await;
    assert_eq!(rig.idp.asked(), 2, "t55: asked again by itself, since requests came");
    assert!(rig.slot.current().is_some());
    assert!(rig.slot.status().last_error.is_none());
}

#[tokio::test(start_paused = true)]
async fn t31_retry_after_holds_for_a_slot_with_a_valid_token_too() {
    let rig = Rig::new();
    rig.idp.delay(0);
    rig.idp.respond(|number| match number {
        2 => Err(IssuerError {
            retry_after: Some(Duration::from_secs(15)),
            ..failure(FailureKind::Unavailable)
        }),
        _ => Ok(grant(number, 1000)),
    });
    rig.request_text().await;
    rig.pass(695.0).await;
    for _ in 0..1_300 {
        assert!(rig.slot.current().is_some(), "the valid token stays in use");
        rig.pass(0.1).await;
    }
    let asked_at = rig.idp.asked_at();
    assert_eq!(asked_at.len(), 3, "{asked_at:?}");
    let pause = asked_at[2] - asked_at[1];
    assert!((14.9..=15.2).contains(&pause), "{asked_at:?}");
}

#[tokio::test(start_paused = true)]
async fn t34_a_refused_client_is_asked_again_after_60_s() {
    for (kind, issuer_refused) in [
        (FailureKind::ClientRefused, true),
        (FailureKind::RequestRefused, true),
        (FailureKind::Unusable, false),
    ] {
        let rig = Rig::new();
        rig.idp.delay(0);
        rig.idp.respond(move |_| Err(failure(kind)));
        keep_requesting(&rig, 59).await;
        let error = rig.request().await.err().unwrap();
        assert_eq!((error.kind, error.issuer_refused), (TokenErrorKind::Refused, issuer_refused));
        assert_eq!(rig.idp.asked() == 1, issuer_refused, "{kind:?} {}", rig.idp.asked());
        keep_requesting(&rig, 2).await;
        assert!(rig.idp.asked() >= 2);
    }
}

#[tokio::test(start_paused = true)]
async fn kinds_of_failure_become_kinds_of_errors() {
    for (kind, expected) in [
        (FailureKind::Unavailable, TokenErrorKind::Unavailable),
        (FailureKind::Credential, TokenErrorKind::Unavailable),
        (FailureKind::Timeout, TokenErrorKind::Timeout),
    ] {
        let rig = Rig::new();
        rig.idp.respond(move |_| Err(failure(kind)));
        let error = rig.request().await.err().unwrap();
        assert_eq!((error.kind, error.issuer_refused), (expected, false));
        let again = rig.request().await.err().unwrap();
        assert_eq!((again.kind, again.detail), (expected, error.detail), "the last failure's status");
    }
}

const REFUSALS: [(FailureKind, &str); 2] =
    [(FailureKind::ClientRefused, "client_refused"), (FailureKind::RequestRefused, "request_refused")];

#[tokio::test(start_paused = true)]
async fn t34_sighup_asks_again_at_once_after_a_refusal() {
    for (kind, _) in REFUSALS {
        let rig = Rig::new();
        rig.idp.respond(move |_| Err(failure(kind)));
        assert!(rig.request().await.is_err());
        rig.pass(5.0).await;
        rig.slot.retry_now(RetryCause::FilesChanged);
        rig.pass(2.0).await;
        assert_eq!(rig.idp.asked(), 1, "another file changed");
        rig.slot.retry_now(RetryCause::Operator);
        settle().await;
        assert_eq!(rig.idp.asked(), 2);
        rig.pass(1.0).await;
        assert_eq!(rig.slot.status().last_error.unwrap().failures_in_a_row, 2);
        rig.pass(50.0).await;
        assert_eq!(rig.idp.asked(), 2, "and then after a minute");
    }
}

#[tokio::test(start_paused = true)]
async fn t34_a_changed_secret_is_tried_at_once() {
    for (kind, outcome) in REFUSALS {
        let rig = Rig::new();
        rig.idp.respond(move |number| match number {
            1 => Err(failure(kind)),
            _ => Ok(grant(number, 3600)),
        });
        assert!(rig.request().await.is_err());
        rig.pass(5.0).await;
        rig.idp.fingerprint.store(1, SeqCst);
        rig.slot.retry_now(RetryCause::FilesChanged);
        rig.pass(0.5).await;
        assert_eq!(rig.slot.current().map(|token| token.generation), Some(1));
        assert_eq!(rig.idp.outcomes(), [outcome, "ok"]);
    }
}

/// The change was noticed when the file was incomplete, and no further change is reported.
#[tokio::test(start_paused = true)]
async fn a_changed_secret_file_is_checked_again_after_a_second() {
    let rig = Rig::new();
    rig.idp.respond(|number| match number {
        1 | 2 => Err(failure(FailureKind::ClientRefused)),
        _ => Ok(grant(number, 3600)),
    });
    assert!(rig.request().await.is_err());
    rig.pass(5.0).await;
    rig.slot.retry_now(RetryCause::Operator);
    rig.pass(0.9).await;
    assert_eq!(rig.idp.asked(), 2, "with the secret as it was");
    rig.idp.fingerprint.store(1, SeqCst);
    rig.pass(0.6).await;
    assert_eq!((rig.idp.asked(), rig.slot.current().is_some()), (3, true));
    let read = rig.idp.fingerprints_read.load(SeqCst);
    rig.pass(100.0).await;
    assert_eq!(rig.idp.fingerprints_read.load(SeqCst), read, "once");
}

#[tokio::test(start_paused = true)]
async fn t34_requests_find_a_changed_secret_but_read_files_at_most_once_a_second() {
    let rig = Rig::new();
    rig.idp.respond(|number| match number {
        1 => Err(failure(FailureKind::RequestRefused)),
        _ => Ok(grant(number, 3600)),
    });
    assert!(rig.request().await.is_err());
    let before = rig.idp.fingerprints_read.load(SeqCst);
    keep_requesting(&rig, 10).await;
    let reads = rig.idp.fingerprints_read.load(SeqCst) - before;
    assert!((8..=11).contains(&reads), "{reads}");
    assert_eq!(rig.idp.asked(), 1);
    rig.idp.fingerprint.store(1, SeqCst);
    keep_requesting(&rig, 2).await;
    assert_eq!(rig.request_text().await, "t2");
}

#[tokio::test(start_paused = true)]
async fn a_changed_file_does_not_shorten_other_pauses() {
    let rig = Rig::new();
    rig.idp.respond(|_| {
        Err(IssuerError { retry_after: Some(Duration::from_secs(60)), ..failure(FailureKind::Unavailable) })
    });
    assert!(rig.request().await.is_err());
    rig.idp.fingerprint.store(1, SeqCst);
    rig.slot.retry_now(RetryCause::FilesChanged);
    rig.pass(10.0).await;
    assert_eq!(rig.idp.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn retry_now_leaves_a_healthy_slot_alone() {
    let rig = Rig::new();
    rig.request_text().await;
    rig.slot.retry_now(RetryCause::Operator);
    rig.idp.fingerprint.store(1, SeqCst);
    rig.slot.retry_now(RetryCause::FilesChanged);
    rig.pass(10.0).await;
    assert_eq!(rig.idp.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn t45_a_flapping_issuer_is_not_noticed_while_a_token_is_valid() {
    let rig = Rig::new();
    rig.idp.respond(|number| {
        if number % 2 == 0 { Err(failure(FailureKind::Unavailable)) } else { Ok(grant(number, 60)) }
    });
    rig.request_text().await;
    for _ in 0..6_000 {
        assert!(rig.slot.current().is_some());
        rig.pass(0.1).await;
    }
    assert!(rig.idp.asked() > 20);
}

#[tokio::test(start_paused = true)]
async fn t53_t54_while_renewals_fail_the_valid_token_stays_in_use_and_never_an_expired_one() {
    let rig = Rig::new();
    rig.idp.respond(|number| match number {
        1 => Ok(grant(1, 100)),
        _ => Err(failure(FailureKind::Unavailable)),
    });
    rig.request_text().await;
    // Requested at 0 s, arrived at 0.1 s.
    for tenth in 1..=948 {
        assert!(rig.slot.current().is_some(), "{tenth}");
        rig.pass(0.1).await;
    }
    rig.pass(0.2).await;
    assert!(rig.slot.current().is_none());
    assert_eq!(rig.slot.status().state, "expired");
    let error = rig.request().await.err().unwrap();
    assert_eq!(error.kind, TokenErrorKind::Unavailable);
    assert!(error.retry_after >= Some(Duration::from_secs(1)));
    assert!((3..=11).contains(&rig.idp.asked()), "with pauses: {}", rig.idp.asked());

    // The request before may have started the fetch.
    assert!(rig.request().await.is_err());
    rig.idp.respond(|number| Ok(grant(number, 100)));
    rig.pass(61.0).await;
    assert!(rig.slot.current().is_some(), "t55: by itself within the longest pause, since a request came");
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_no_request_meets_is_not_probed_after_the_token_expired() {
    let rig = Rig::new();
    rig.idp.respond(|number| match number {
        1 => Ok(grant(1, 100)),
        _ => Err(failure(FailureKind::Unavailable)),
    });
    rig.request_text().await;
    rig.pass(200.0).await;
    let asked = rig.idp.asked();
    rig.pass(10_000.0).await;
    assert_eq!(rig.idp.asked(), asked);
}

#[tokio::test(start_paused = true)]
async fn a_request_after_the_pause_waits_for_the_next_try() {
    let rig = Rig::new();
    rig.idp.respond(|number| match number {
        1 => Err(failure(FailureKind::Unavailable)),
        _ => Ok(grant(number, 3600)),
    });
    assert!(rig.request().await.is_err());
    rig.pass(5.0).await;
    assert_eq!(rig.idp.asked(), 1);
    assert_eq!(rig.request_text().await, "t2");
}

#[tokio::test(start_paused = true)]
async fn status_shows_the_failure_and_the_next_try() {
    let rig = Rig::new();
    rig.idp.respond(|_| {
        Err(IssuerError {
            code: Some("invalid_client".to_owned()),
            trace: Some("trace_id=7".to_owned()),
            ..failure(FailureKind::ClientRefused)
        })
    });
    assert!(rig.request().await.is_err());
    let status = rig.slot.status();
    let error = status.last_error.unwrap();
    assert_eq!((status.state, status.fetched_once, status.fetching), ("none", false, false));
    assert_eq!((error.code.as_deref(), error.failures_in_a_row), (Some("invalid_client"), 1));
    assert_eq!(error.trace.as_deref(), Some("trace_id=7"));
    assert_eq!(error.next_try, Some(error.at + Duration::from_secs(60)));
}

/// Sends a request every tenth of a second until one gets a token. Returns how long that took.
async fn served_after(rig: &Rig) -> f64 {
    let from = Instant::now();
    while rig.request().await.is_err() {
        rig.pass(0.1).await;
        assert!(from.elapsed() < Duration::from_secs(120), "never");
    }
    from.elapsed().as_secs_f64()
}

async fn keep_requesting(rig: &Rig, seconds: u32) {
    for _ in 0..seconds * 10 {
        let _ = rig.request().await;
        rig.pass(0.1).await;
    }
}

fn gaps(moments: &[f64]) -> Vec<f64> {
    moments.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_issuer_is_asked_as_soon_as_it_is_reachable() {
    for seconds in [3, 20, 75, 300] {
        let rig = Rig::new();
        rig.idp.vanish();
        keep_requesting(&rig, seconds).await;
        let asked = rig.idp.asked();
        assert!(asked <= 2 + seconds as usize / 45, "left alone meanwhile: {:?}", rig.idp.asked_at());
        let connects = gaps(&rig.idp.probed_at());
        let regular = connects.iter().filter(|gap| (0.89..=1.11).contains(*gap)).count();
        // Each token request restarts the sequence.
        assert!(regular + 2 * asked >= connects.len(), "each second, jittered: {connects:?}");
        assert!(regular + 4 * asked >= seconds as usize, "all the time: {connects:?}");

        rig.idp.come_back(3600);
        let took = served_after(&rig).await;
        assert!(took <= 1.4, "{took} s after {seconds} s");
        assert_eq!(rig.idp.asked(), asked + 1);
        let probed = rig.idp.probed_at().len();
        rig.pass(10.0).await;
        assert_eq!(rig.idp.probed_at().len(), probed, "no longer probed");
    }
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_takes_connections_and_does_not_respond_is_asked_again_within_a_second() {
    let rig = Rig::new();
    rig.idp.delay(10_000);
    rig.idp.respond(|_| Err(failure(FailureKind::Timeout)));
    keep_requesting(&rig, 75).await;
    let asked_at = rig.idp.asked_at();
    assert!(gaps(&asked_at).iter().all(|gap| (10.9..=11.5).contains(gap)), "{asked_at:?}");
    assert!(rig.idp.probed_at().is_empty());
    rig.idp.delay(100);
    rig.idp.come_back(3600);
    // The current request ends as it began.
    let took = served_after(&rig).await;
    assert!(took <= 11.4, "{took}");
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_responds_5xx_is_asked_again_within_11_s() {
    for seconds in [20, 75, 300] {
        let rig = Rig::new();
        rig.idp.respond(|_| Err(IssuerError { http_status: Some(503), ..failure(FailureKind::Unavailable) }));
        keep_requesting(&rig, seconds).await;
        rig.idp.come_back(3600);
        let took = served_after(&rig).await;
        assert!(took <= 10.4, "{took} s after {seconds} s");
        assert!(rig.idp.probed_at().is_empty(), "it is there: no connect tells more than that");
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_that_accepts_connections_all_the_time_does_not_prove_that_the_issuer_is_back() {
    let rig = Rig::new();
    rig.idp.delay(0);
    rig.idp.respond(|_| Err(unreached("proxy.example", false)));
    keep_requesting(&rig, 60).await;
    let pauses = gaps(&rig.idp.asked_at());
    for (pause, expected) in pauses.iter().zip([1.0, 2.0, 4.0, 8.0, 8.0, 8.0]) {
        assert!((pause - expected).abs() <= expected * 0.25 + 0.2, "the usual pauses: {pauses:?}");
    }
    // Now the address itself disappears and returns, both within one pause of at least 6 s.
    let asked = rig.idp.asked();
    while rig.idp.asked() == asked {
        keep_requesting(&rig, 1).await;
    }
    rig.idp.reachable.store(false, SeqCst);
    keep_requesting(&rig, 3).await;
    rig.idp.come_back(3600);
    let took = served_after(&rig).await;
    assert!(took <= 1.4, "{took}");
}

#[tokio::test(start_paused = true)]
async fn requests_fail_at_once_with_retry_after_one_second() {
    let rig = Rig::new();
    rig.idp.vanish();
    assert!(rig.request().await.is_err());
    for _ in 0..100 {
        let before = Instant::now();
        let error = rig.request().await.err().unwrap();
        assert_eq!(before.elapsed(), Duration::ZERO);
        assert_eq!(
            (error.kind, error.retry_after),
            (TokenErrorKind::Unavailable, Some(Duration::from_secs(1)))
        );
        rig.pass(0.05).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_valid_token_is_renewed_as_soon_as_the_issuer_is_back_and_no_request_notices_the_outage() {
    let rig = Rig::new();
    rig.idp.respond(|number| Ok(grant(number, 300)));
    rig.request_text().await;
    rig.idp.vanish();
    for _ in 0..2_900 {
        assert!(rig.slot.current().is_some());
        rig.pass(0.1).await;
    }
    rig.idp.come_back(300);
    for _ in 0..300 {
        assert!(rig.slot.current().is_some());
        rig.pass(0.1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_no_request_meets_is_not_probed() {
    let rig = Rig::new();
    rig.idp.respond(|number| Ok(grant(number, 100)));
    rig.request_text().await;
    rig.idp.vanish();
    rig.pass(200.0).await;
    let probed = rig.idp.probed_at();
    assert!(probed.last().is_some_and(|last| *last < 100.0), "until the token expired: {probed:?}");

    // The next request finds the pause over, and asks. With further requests, the issuer is probed again.
    let asked = rig.idp.asked();
    assert!(rig.request().await.is_err());
    assert_eq!(rig.idp.asked(), asked + 1);
    assert!(rig.request().await.is_err());
    rig.pass(5.0).await;
    assert!(rig.idp.probed_at().len() >= probed.len() + 3);
}

#[tokio::test(start_paused = true)]
async fn rare_requests_find_an_issuer_that_is_back() {
    let rig = Rig::new();
    rig.idp.vanish();
    for _ in 0..5 {
        assert!(rig.request().await.is_err());
        rig.pass(30.0).await;
    }
    rig.idp.come_back(3600);
    rig.pass(30.0).await;
    rig.request_text().await;

    let rig = Rig::new();
    rig.idp.vanish();
    assert!(rig.request().await.is_err());
    rig.idp.come_back(3600);
    rig.pass(5.0).await;
    rig.request_text().await;
}

#[tokio::test(start_paused = true)]
async fn a_prefetch_succeeds_as_soon_as_the_issuer_is_available() {
    let rig = Rig::new();
    rig.idp.vanish();
    rig.slot.prefetch();
    rig.pass(75.0).await;
    rig.idp.come_back(3600);
    rig.pass(1.4).await;
    assert!(rig.slot.status().fetched_once);
}

#[tokio::test(start_paused = true)]
async fn one_address_is_probed_once_a_second_however_many_issuers_and_slots_wait() {
    let rig = Rig::new();
    rig.idp.vanish();
    rig.idp.serve_many_slots();
    let configs: Vec<_> = (0..5).map(|n| Arc::new(issuer(&format!("i{n}"), n))).collect();
    let mut slots = Vec::new();
    for config in &configs {
        for scope in ["a", "b", "c", "d"] {
            let slot = rig.cache.slot(&key(config, &[scope]), config, 10);
            slot.prefetch();
            slots.push(slot);
        }
    }
    rig.pass(30.0).await;
    let connects = gaps(&rig.idp.probed_at());
    assert!(connects.len() <= 33 && connects.iter().all(|gap| *gap >= 0.89), "{connects:?}");
    assert_eq!(rig.idp.asked(), slots.len(), "each once");
    rig.idp.come_back(3600);
    rig.pass(1.3).await;
    assert!(slots.iter().all(|slot| slot.current().is_some()));
    assert_eq!(rig.idp.asked(), 2 * slots.len());
}

#[tokio::test(start_paused = true)]
async fn two_addresses_have_two_probes() {
    let rig = Rig::new();
    rig.idp.reachable.store(false, SeqCst);
    rig.idp.serve_many_slots();
    rig.idp.respond(|number| Err(away(if number % 2 == 0 { "one.example" } else { "two.example" })));
    for scope in ["a", "b"] {
        let config = Arc::new(issuer("corp", 1));
        rig.cache.slot(&key(&config, &[scope]), &config, 10).prefetch();
        settle().await;
    }
    rig.pass(10.0).await;
    assert_eq!(rig.idp.probed_hops().into_iter().collect::<HashSet<_>>().len(), 2);
    assert!(rig.idp.probed_at().len() >= 16);
}

#[tokio::test(start_paused = true)]
async fn a_probe_ends_with_its_slots() {
    let Rig { idp, cache, slot, .. } = Rig::new();
    idp.vanish();
    slot.prefetch();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let probed = idp.probed_at().len();
    assert!(probed >= 8);
    drop(slot);
    cache.retain(&[]);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(idp.probed_at().len() <= probed + 1);
}

#[tokio::test(start_paused = true)]
async fn sighup_asks_an_issuer_that_is_away_at_once() {
    let rig = Rig::new();
    rig.idp.vanish();
    assert!(rig.request().await.is_err());
    rig.pass(5.0).await;
    let asked = rig.idp.asked();
    rig.slot.retry_now(RetryCause::Operator);
    settle().await;
    assert_eq!(rig.idp.asked(), asked + 1);
    rig.slot.retry_now(RetryCause::FilesChanged);
    rig.pass(0.5).await;
    assert_eq!(rig.idp.asked(), asked + 1, "a changed secret does not bring the issuer back");
}

/// A request must never wait for a fetch that has to wait itself.
#[tokio::test(start_paused = true)]
async fn no_request_waits_while_the_issuer_is_probed() {
    for lifetime in [1, 2, 5, 30] {
        let rig = Rig::new();
        rig.idp.delay(1);
        rig.idp.respond(move |number| Ok(grant(number, lifetime)));
        rig.request_text().await;
        rig.idp.vanish();
        for _ in 0..60_000 {
            let before = Instant::now();
            let _ = rig.request().await;
            assert!(before.elapsed() < Duration::from_millis(200), "{:?}", before.elapsed());
            // Without letting the slot's task run first, because a request may come before it.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// The requests that the replicas of one service send to their issuer.
struct Herd {
    rigs: Vec<Rig>,
}

impl Herd {
    /// The moment at which all of them lost the issuer.
    async fn waiting(size: usize) -> Self {
        let rigs: Vec<Rig> = (0..size).map(|_| Rig::new()).collect();
        for rig in &rigs {
            rig.idp.vanish();
            rig.slot.prefetch();
        }
        tokio::time::sleep(Duration::from_secs(75)).await;
        Self { rigs }
    }

    /// The times of token requests since then, in seconds.
    fn asked_since(&self, moment: f64) -> Vec<f64> {
        let all = self.rigs.iter().flat_map(|rig| rig.idp.asked_at_exactly());
        let mut since: Vec<f64> = all.map(|at| at - moment).filter(|after| *after >= 0.0).collect();
        since.sort_by(f64::total_cmp);
        since
    }

    fn served(&self) -> usize {
        self.rigs.iter().filter(|rig| rig.slot.status().state == "valid").count()
    }
}

/// The most requests within so many seconds.
fn busiest(asked: &[f64], span: f64) -> usize {
    let within = |first: usize| asked.iter().skip(first).take_while(|at| **at < asked[first] + span).count();
    (0..asked.len()).map(within).max().unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_thousand_replicas_send_a_recovering_issuer_one_request_each_spread_over_a_second() {
    let from = Instant::now();
    let herd = Herd::waiting(1_000).await;
    let asked_before: usize = herd.rigs.iter().map(|rig| rig.idp.asked()).sum();
    assert!(asked_before <= 3_000, "in 75 s without it: {asked_before}");
    herd.rigs.iter().for_each(|rig| rig.idp.come_back(3600));
    let back = from.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let asked = herd.asked_since(back);
    assert_eq!(herd.served(), 1_000);
    // One or the other was just sending a request when the issuer came back.
    assert!((950..=1_000).contains(&asked.len()), "in the minute after: {}", asked.len());
    assert!(*asked.last().unwrap() <= 1.2, "{asked:?}");
    assert!(busiest(&asked, 0.1) <= 200, "and not at once: {}", busiest(&asked, 0.1));
}

/// An issuer that is back and accepts a hundred requests a second; all others get 503.
#[tokio::test(start_paused = true)]
async fn a_thousand_replicas_recover_with_an_issuer_that_accepts_a_hundred_requests_a_second() {
    let from = Instant::now();
    let herd = Herd::waiting(1_000).await;
    let taken = Arc::new(std::sync::atomic::AtomicU64::new(0));
    for rig in &herd.rigs {
        let taken = Arc::clone(&taken);
        rig.idp.respond(move |number| {
            // The upper half is the second, the lower half the number of accepted requests in it.
            let second = from.elapsed().as_secs();
            let now = taken.fetch_update(SeqCst, SeqCst, |taken| {
                Some(if taken >> 32 == second { taken + 1 } else { (second << 32) + 1 })
            });
            let now = now.map(|before| if before >> 32 == second { before & 0xFFFF_FFFF } else { 0 });
            if now.unwrap() < 100 {
                Ok(grant(number, 3600))
            } else {
                Err(IssuerError { http_status: Some(503), ..failure(FailureKind::Unavailable) })
            }
        });
        rig.idp.reachable.store(true, SeqCst);
    }
    let back = from.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let asked = herd.asked_since(back);
    assert_eq!(herd.served(), 1_000, "in a minute");
    // Usually 2,400, and the last replica has its token after 25 s.
    assert!(asked.len() <= 4_000, "requests in that minute: {}", asked.len());
    let busiest = busiest(&asked, 1.0);
    assert!(busiest <= 1_100, "never more than one from each in a second: {busiest}");
}

#[tokio::test(start_paused = true)]
async fn waiting_requests_are_bounded_in_an_outage_too() {
    let rig = Rig::with(3, |_| {});
    rig.idp.delay(10_000);
    rig.idp.respond(|_| Err(failure(FailureKind::Timeout)));
    let mut requests = JoinSet::new();
    for _ in 0..50 {
        let slot = Arc::clone(&rig.slot);
        requests.spawn(async move { request(&slot).await.err().map(|error| error.kind) });
    }
    let ended = requests.join_all().await;
    let count = |kind| ended.iter().filter(|ended| **ended == Some(kind)).count();
    assert_eq!((count(TokenErrorKind::Timeout), count(TokenErrorKind::Overloaded)), (3, 47));
}
