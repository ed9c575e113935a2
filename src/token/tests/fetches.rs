use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::support::{Rig, call, failure, grant, settle, text};
use crate::issuer::FailureKind;
use crate::token::TokenErrorKind;

fn many(rig: &Rig, calls: usize) -> JoinSet<Result<String, TokenErrorKind>> {
    let mut tasks = JoinSet::new();
    for _ in 0..calls {
        let slot = Arc::clone(&rig.slot);
        tasks.spawn(async move { call(&slot).await.map(|token| text(&token)).map_err(|error| error.kind) });
    }
    tasks
}

#[tokio::test(start_paused = true)]
async fn t50_a_thousand_cold_calls_are_served_by_one_request() {
    let rig = Rig::new();
    let tasks = many(&rig, 1_000);
    settle().await;
    assert_eq!((rig.slot.status().waiters, rig.idp.waiting_now()), (1_000, 1_000));
    let answers = tasks.join_all().await;
    assert_eq!(answers, vec![Ok("t1".to_owned()); 1_000]);
    assert_eq!(rig.idp.asked(), 1);
    assert_eq!((rig.slot.status().waiters, rig.idp.waiting_now()), (0, 0));
    assert_eq!(rig.idp.outcomes(), ["ok"]);
}

#[tokio::test(start_paused = true)]
async fn t51_a_failed_flight_fails_all_who_waited_and_starts_no_stampede() {
    let rig = Rig::new();
    rig.idp.answer(|_| Err(failure(FailureKind::Unavailable)));
    let answers = many(&rig, 1_000).join_all().await;
    assert_eq!(answers, vec![Err(TokenErrorKind::Unavailable); 1_000]);
    assert_eq!(rig.idp.asked(), 1);
    let answers = many(&rig, 1_000).join_all().await;
    assert_eq!(answers, vec![Err(TokenErrorKind::Unavailable); 1_000]);
    assert_eq!(rig.idp.asked(), 1, "answered at once");
}

#[tokio::test(start_paused = true)]
async fn t41_a_slow_answer_serves_all_and_a_caller_that_leaves_cancels_nothing() {
    let rig = Rig::new();
    rig.idp.delay(8_000);
    let first = tokio::spawn({
        let slot = Arc::clone(&rig.slot);
        async move { call(&slot).await.map(|_| ()) }
    });
    settle().await;
    let others = many(&rig, 500);
    settle().await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!(rig.slot.status().waiters, 500);
    assert_eq!(others.join_all().await, vec![Ok("t1".to_owned()); 500]);
    assert_eq!(rig.idp.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn t41_callers_that_all_give_up_one_after_another_share_one_request() {
    let rig = Rig::new();
    rig.idp.delay(200);
    for _ in 0..5 {
        let impatient = tokio::time::timeout(Duration::from_millis(30), rig.call()).await;
        assert!(impatient.is_err());
    }
    rig.pass(0.1).await;
    assert_eq!(rig.slot.current().map(|token| text(&token)), Some("t1".to_owned()));
    assert_eq!(rig.idp.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn t42_a_call_waits_at_most_the_issuers_timeout_and_the_flight_goes_on() {
    let rig = Rig::new();
    rig.idp.delay(12_000);
    let tasks = many(&rig, 1);
    rig.pass(5.0).await;
    let late = many(&rig, 1);
    assert_eq!(tasks.join_all().await, [Err(TokenErrorKind::Timeout)]);
    assert_eq!(late.join_all().await, [Ok("t1".to_owned())]);
    assert_eq!(rig.idp.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_zero_lets_calls_wait_on() {
    let rig = Rig::with(10, |issuer| issuer.timeout = None);
    rig.idp.delay(100_000);
    assert_eq!(rig.call_text().await, "t1");
    assert_eq!(rig.slot.timeout(), None);
}

#[tokio::test(start_paused = true)]
async fn more_waiters_than_allowed_are_turned_away_at_once() {
    let rig = Rig::with(3, |_| {});
    let tasks = many(&rig, 3);
    settle().await;
    let error = rig.call().await.err().unwrap();
    assert_eq!(error.kind, TokenErrorKind::Overloaded);
    assert!(error.retry_after.is_some() && !error.issuer_refused);
    assert_eq!(tasks.join_all().await, vec![Ok("t1".to_owned()); 3], "those who were there first are served");
    assert_eq!(rig.call_text().await, "t1");
}

#[tokio::test(start_paused = true)]
async fn prefetch_asks_without_a_call_until_it_has_one_token() {
    let rig = Rig::new();
    rig.pass(100.0).await;
    assert_eq!(rig.idp.asked(), 0, "nobody wants it yet");
    rig.idp.answer(
        |number| {
            if number < 4 { Err(failure(FailureKind::Unavailable)) } else { Ok(grant(number, 3600)) }
        },
    );
    rig.slot.prefetch();
    rig.pass(30.0).await;
    assert_eq!(rig.idp.asked(), 4);
    assert!(rig.slot.status().fetched_once);
    rig.slot.prefetch();
    rig.pass(10_000.0).await;
    assert_eq!(rig.idp.asked(), 4, "not used, not renewed");
}

#[tokio::test(start_paused = true)]
async fn a_fault_in_a_request_is_a_failure_like_others() {
    let rig = Rig::new();
    rig.idp.answer(|number| if number == 1 { panic!("scripted") } else { Ok(grant(number, 60)) });
    assert_eq!(rig.call().await.err().unwrap().kind, TokenErrorKind::Unavailable);
    rig.pass(1.5).await;
    assert_eq!(rig.call_text().await, "t2");
}

#[tokio::test(start_paused = true)]
async fn a_request_ends_with_its_slot() {
    let Rig { idp, cache, slot, .. } = Rig::new();
    slot.prefetch();
    settle().await;
    assert_eq!(idp.under_way(), 1);
    drop(slot);
    cache.retain(&[]);
    settle().await;
    assert_eq!((idp.asked(), idp.under_way()), (1, 0));
}
