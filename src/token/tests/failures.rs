use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::support::{Rig, failure, grant, settle};
use crate::issuer::{FailureKind, IssuerError};
use crate::token::{RetryCause, TokenErrorKind};

/// Requests every tenth of a second for so long.
async fn keep_calling(rig: &Rig, seconds: u32) {
    for _ in 0..seconds * 10 {
        let _ = rig.call().await;
        rig.pass(0.1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn t30_backs_off_1_2_4_up_to_10_s_however_often_it_is_called() {
    let rig = Rig::new();
    rig.idp.delay(0);
    rig.idp.answer(|_| Err(failure(FailureKind::Unavailable)));
    keep_calling(&rig, 90).await;
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
    rig.idp.answer(|number| match number {
        1 => Ok(grant(1, 2_000)),
        _ => Err(failure(FailureKind::Unavailable)),
    });
    keep_calling(&rig, 2_100).await;
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
async fn a_try_before_the_end_leaves_a_slow_issuer_the_time_to_answer() {
    for took_ms in [100, 1_000, 2_000] {
        let rig = Rig::new();
        rig.idp.answer(|number| match number {
            1 => Ok(grant(1, 60)),
            _ => Err(failure(FailureKind::Unavailable)),
        });
        rig.call_text().await;
        // It fails up to shortly before the end, and responds from then on.
        rig.pass(50.0).await;
        rig.idp.answer(|number| Ok(grant(number, 60)));
        rig.idp.delay(took_ms);
        for _ in 0..300 {
            assert!(rig.slot.current().is_some(), "no request waits: {took_ms} {:?}", rig.idp.asked_at());
            rig.pass(0.1).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t31_retry_after_is_kept_and_told_and_then_all_flows_again() {
    let rig = Rig::new();
    rig.idp.delay(0);
    rig.idp.answer(|number| match number {
        1 => Err(IssuerError {
            retry_after: Some(Duration::from_secs(30)),
            ..failure(FailureKind::Unavailable)
        }),
        _ => Ok(grant(number, 3600)),
    });
    let error = rig.call().await.err().unwrap();
    assert_eq!((error.kind, error.retry_after), (TokenErrorKind::Unavailable, Some(Duration::from_secs(30))));
    rig.pass(29.5).await;
    let error = rig.call().await.err().unwrap();
    assert_eq!(error.retry_after, Some(Duration::from_secs(1)), "what remains, at least 1 s");
    assert_eq!(rig.idp.asked(), 1);
    rig.pass(0.6).await;
    assert_eq!(rig.idp.asked(), 2, "t55: asked again by itself, since calls came");
    assert!(rig.slot.current().is_some());
    assert!(rig.slot.status().last_error.is_none());
}

#[tokio::test(start_paused = true)]
async fn t31_retry_after_holds_for_a_slot_with_a_valid_token_too() {
    let rig = Rig::new();
    rig.idp.delay(0);
    rig.idp.answer(|number| match number {
        2 => Err(IssuerError {
            retry_after: Some(Duration::from_secs(15)),
            ..failure(FailureKind::Unavailable)
        }),
        _ => Ok(grant(number, 1000)),
    });
    rig.call_text().await;
    rig.pass(695.0).await;
    for _ in 0..1_300 {
        assert!(rig.slot.current().is_some(), "the valid token serves on");
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
        rig.idp.answer(move |_| Err(failure(kind)));
        keep_calling(&rig, 59).await;
        let error = rig.call().await.err().unwrap();
        assert_eq!((error.kind, error.issuer_refused), (TokenErrorKind::Refused, issuer_refused));
        assert_eq!(rig.idp.asked() == 1, issuer_refused, "{kind:?} {}", rig.idp.asked());
        keep_calling(&rig, 2).await;
        assert!(rig.idp.asked() >= 2);
    }
}

#[tokio::test(start_paused = true)]
async fn kinds_of_failure_become_kinds_of_answers() {
    for (kind, expected) in [
        (FailureKind::Unavailable, TokenErrorKind::Unavailable),
        (FailureKind::Credential, TokenErrorKind::Unavailable),
        (FailureKind::Timeout, TokenErrorKind::Timeout),
    ] {
        let rig = Rig::new();
        rig.idp.answer(move |_| Err(failure(kind)));
        let error = rig.call().await.err().unwrap();
        assert_eq!((error.kind, error.issuer_refused), (expected, false));
        let again = rig.call().await.err().unwrap();
        assert_eq!((again.kind, again.detail), (expected, error.detail), "the last failure's status");
    }
}

const REFUSALS: [(FailureKind, &str); 2] =
    [(FailureKind::ClientRefused, "client_refused"), (FailureKind::RequestRefused, "request_refused")];

#[tokio::test(start_paused = true)]
async fn t34_sighup_asks_again_at_once_after_a_refusal() {
    for (kind, _) in REFUSALS {
        let rig = Rig::new();
        rig.idp.answer(move |_| Err(failure(kind)));
        assert!(rig.call().await.is_err());
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
        rig.idp.answer(move |number| match number {
            1 => Err(failure(kind)),
            _ => Ok(grant(number, 3600)),
        });
        assert!(rig.call().await.is_err());
        rig.pass(5.0).await;
        rig.idp.fingerprint.store(1, SeqCst);
        rig.slot.retry_now(RetryCause::FilesChanged);
        rig.pass(0.5).await;
        assert_eq!(rig.slot.current().map(|token| token.generation), Some(1));
        assert_eq!(rig.idp.outcomes(), [outcome, "ok"]);
    }
}

/// Its file was half written when the change was told, and nobody tells of the rest.
#[tokio::test(start_paused = true)]
async fn a_secret_is_looked_at_once_more_when_its_file_has_settled() {
    let rig = Rig::new();
    rig.idp.answer(|number| match number {
        1 | 2 => Err(failure(FailureKind::ClientRefused)),
        _ => Ok(grant(number, 3600)),
    });
    assert!(rig.call().await.is_err());
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
async fn t34_calls_find_a_changed_secret_but_read_files_once_a_second_at_most() {
    let rig = Rig::new();
    rig.idp.answer(|number| match number {
        1 => Err(failure(FailureKind::RequestRefused)),
        _ => Ok(grant(number, 3600)),
    });
    assert!(rig.call().await.is_err());
    let before = rig.idp.fingerprints_read.load(SeqCst);
    keep_calling(&rig, 10).await;
    let reads = rig.idp.fingerprints_read.load(SeqCst) - before;
    assert!((8..=11).contains(&reads), "{reads}");
    assert_eq!(rig.idp.asked(), 1);
    rig.idp.fingerprint.store(1, SeqCst);
    keep_calling(&rig, 2).await;
    assert_eq!(rig.call_text().await, "t2");
}

#[tokio::test(start_paused = true)]
async fn a_changed_file_does_not_shorten_other_pauses() {
    let rig = Rig::new();
    rig.idp.answer(|_| {
        Err(IssuerError { retry_after: Some(Duration::from_secs(60)), ..failure(FailureKind::Unavailable) })
    });
    assert!(rig.call().await.is_err());
    rig.idp.fingerprint.store(1, SeqCst);
    rig.slot.retry_now(RetryCause::FilesChanged);
    rig.pass(10.0).await;
    assert_eq!(rig.idp.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn retry_now_leaves_a_healthy_slot_alone() {
    let rig = Rig::new();
    rig.call_text().await;
    rig.slot.retry_now(RetryCause::Operator);
    rig.idp.fingerprint.store(1, SeqCst);
    rig.slot.retry_now(RetryCause::FilesChanged);
    rig.pass(10.0).await;
    assert_eq!(rig.idp.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn t45_a_flapping_issuer_is_not_noticed_while_a_token_is_valid() {
    let rig = Rig::new();
    rig.idp.answer(|number| {
        if number % 2 == 0 { Err(failure(FailureKind::Unavailable)) } else { Ok(grant(number, 60)) }
    });
    rig.call_text().await;
    for _ in 0..6_000 {
        assert!(rig.slot.current().is_some());
        rig.pass(0.1).await;
    }
    assert!(rig.idp.asked() > 20);
}

#[tokio::test(start_paused = true)]
async fn t53_t54_a_failing_renewal_serves_the_valid_token_on_and_never_the_expired_one() {
    let rig = Rig::new();
    rig.idp.answer(|number| match number {
        1 => Ok(grant(1, 100)),
        _ => Err(failure(FailureKind::Unavailable)),
    });
    rig.call_text().await;
    // Asked for at 0 s, come at 0.1 s.
    for tenth in 1..=948 {
        assert!(rig.slot.current().is_some(), "{tenth}");
        rig.pass(0.1).await;
    }
    rig.pass(0.2).await;
    assert!(rig.slot.current().is_none());
    assert_eq!(rig.slot.status().state, "expired");
    let error = rig.call().await.err().unwrap();
    assert_eq!(error.kind, TokenErrorKind::Unavailable);
    assert!(error.retry_after >= Some(Duration::from_secs(1)));
    assert!((3..=11).contains(&rig.idp.asked()), "with pauses: {}", rig.idp.asked());

    // The request before may have been the one that asked again.
    assert!(rig.call().await.is_err());
    rig.idp.answer(|number| Ok(grant(number, 100)));
    rig.pass(61.0).await;
    assert!(rig.slot.current().is_some(), "t55: by itself within the longest pause, since a request came");
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_nobody_notices_is_not_probed_after_the_token_ended() {
    let rig = Rig::new();
    rig.idp.answer(|number| match number {
        1 => Ok(grant(1, 100)),
        _ => Err(failure(FailureKind::Unavailable)),
    });
    rig.call_text().await;
    rig.pass(200.0).await;
    let asked = rig.idp.asked();
    rig.pass(10_000.0).await;
    assert_eq!(rig.idp.asked(), asked);
}

#[tokio::test(start_paused = true)]
async fn a_call_after_the_pause_waits_for_the_next_try() {
    let rig = Rig::new();
    rig.idp.answer(|number| match number {
        1 => Err(failure(FailureKind::Unavailable)),
        _ => Ok(grant(number, 3600)),
    });
    assert!(rig.call().await.is_err());
    rig.pass(5.0).await;
    assert_eq!(rig.idp.asked(), 1);
    assert_eq!(rig.call_text().await, "t2");
}

#[tokio::test(start_paused = true)]
async fn status_tells_the_failure_and_the_next_try() {
    let rig = Rig::new();
    rig.idp.answer(|_| {
        Err(IssuerError {
            code: Some("invalid_client".to_owned()),
            trace: Some("trace_id=7".to_owned()),
            ..failure(FailureKind::ClientRefused)
        })
    });
    assert!(rig.call().await.is_err());
    let status = rig.slot.status();
    let error = status.last_error.unwrap();
    assert_eq!((status.state, status.fetched_once, status.fetching), ("none", false, false));
    assert_eq!((error.code.as_deref(), error.failures_in_a_row), (Some("invalid_client"), 1));
    assert_eq!(error.trace.as_deref(), Some("trace_id=7"));
    assert_eq!(error.next_try, Some(error.at + Duration::from_secs(60)));
}
