//! What a token is bound to changed: a learned value, the client's certificate, the DPoP key.

use std::sync::atomic::Ordering::SeqCst;

use super::support::{Rig, failure, grant, settle};
use crate::issuer::FailureKind;
use crate::token::{Rejected, RetryCause};

impl Rig {
    fn rebind(&self, why: RetryCause) {
        self.idp.binding.fetch_add(1, SeqCst);
        self.slot.retry_now(why);
    }
}

#[tokio::test(start_paused = true)]
async fn t104_a_token_whose_binding_changed_is_replaced_at_once_and_calls_wait() {
    for why in [RetryCause::FilesChanged, RetryCause::Operator] {
        let rig = Rig::new();
        assert_eq!(rig.call_text().await, "t1");
        rig.rebind(why);
        settle().await;
        assert!(rig.slot.current().is_none(), "the old one is not sent any more");
        assert_eq!(rig.call_text().await, "t2");
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
    rig.call_text().await;
    rig.idp.fingerprint.store(1, SeqCst);
    rig.slot.retry_now(RetryCause::FilesChanged);
    rig.slot.retry_now(RetryCause::Operator);
    rig.pass(10.0).await;
    assert_eq!((rig.call_text().await.as_str(), rig.idp.asked()), ("t1", 1));
}

#[tokio::test(start_paused = true)]
async fn t104_a_changed_binding_alone_drops_nothing_until_somebody_says_so() {
    let rig = Rig::new();
    rig.call_text().await;
    rig.idp.binding.store(1, SeqCst);
    rig.pass(10.0).await;
    assert_eq!(rig.call_text().await, "t1");
}

#[tokio::test(start_paused = true)]
async fn t104_the_successor_may_be_refused_within_ten_seconds() {
    let rig = Rig::new();
    rig.call_text().await;
    rig.rebind(RetryCause::FilesChanged);
    settle().await;
    let token = rig.call().await.unwrap();
    assert_eq!(token.generation, 2);
    assert_eq!(rig.slot.reject(2), Rejected::Dropped, "it was not fetched because of a 401");
    assert_eq!(rig.newer_than(2).await.unwrap().generation, 3);
    assert_eq!(rig.slot.reject(3), Rejected::Keep);
}

#[tokio::test(start_paused = true)]
async fn t104_what_was_asked_for_with_the_old_binding_is_not_used() {
    let rig = Rig::new();
    rig.idp.delay(5_000);
    let call = rig.call();
    let change = async {
        rig.pass(2.0).await;
        rig.rebind(RetryCause::FilesChanged);
    };
    let (token, ()) = tokio::join!(call, change);
    assert_eq!(token.unwrap().secret.expose(), b"t2");
    settle().await;
    assert_eq!(rig.idp.outcomes(), ["superseded", "ok"]);
    assert_eq!(rig.idp.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn t104_a_renewal_with_the_old_binding_is_not_used() {
    let rig = Rig::new();
    rig.idp.answer(|number| Ok(grant(number, 100)));
    rig.call_text().await;
    // The renewal begins between 70 s and 80 s.
    rig.idp.delay(30_000);
    rig.pass(81.0).await;
    assert!(rig.slot.status().fetching);
    rig.idp.delay(100);
    rig.rebind(RetryCause::FilesChanged);
    settle().await;
    assert!(rig.slot.current().is_none());
    assert_eq!(rig.call_text().await, "t3");
    assert_eq!(rig.idp.outcomes(), ["ok", "superseded", "ok"]);
}

#[tokio::test(start_paused = true)]
async fn t104_several_changes_end_with_the_last_binding() {
    let rig = Rig::new();
    rig.call_text().await;
    for _ in 0..5 {
        rig.rebind(RetryCause::FilesChanged);
        rig.pass(0.05).await;
    }
    rig.pass(1.0).await;
    let asked = rig.idp.asked();
    assert_eq!(rig.call_text().await, format!("t{asked}"), "the last one that was asked for");
    rig.pass(10.0).await;
    assert_eq!(rig.idp.asked(), asked);
}

#[tokio::test(start_paused = true)]
async fn t104_a_failed_successor_is_a_failure_like_others() {
    let rig = Rig::new();
    rig.call_text().await;
    rig.idp.answer(|_| Err(failure(FailureKind::Unavailable)));
    rig.rebind(RetryCause::FilesChanged);
    settle().await;
    assert!(rig.call().await.is_err(), "the old token would be of no use");
    rig.idp.answer(|number| Ok(grant(number, 3600)));
    rig.pass(2.0).await;
    let token = rig.call().await.unwrap();
    assert_eq!((token.generation, rig.slot.reject(2)), (2, Rejected::Dropped));
}

#[tokio::test(start_paused = true)]
async fn t104_a_refusal_of_the_client_that_came_during_the_flight_is_asked_again_with_the_new_credential() {
    let rig = Rig::new();
    rig.idp.delay(2_000);
    rig.idp.answer(|number| match number {
        1 => Err(failure(FailureKind::ClientRefused)),
        _ => Ok(grant(number, 3600)),
    });
    let call = rig.call();
    let change = async {
        rig.pass(1.0).await;
        rig.idp.fingerprint.store(1, SeqCst);
        rig.slot.retry_now(RetryCause::FilesChanged);
    };
    let (first, ()) = tokio::join!(call, change);
    assert!(first.is_err());
    rig.pass(2.5).await;
    assert_eq!(rig.call_text().await, "t2");
}
