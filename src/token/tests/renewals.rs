use std::time::Duration;

use super::support::{Rig, grant, settle, text};
use crate::issuer::Grant;
use crate::token::TokenErrorKind;

#[tokio::test(start_paused = true)]
async fn t52_a_used_token_is_renewed_once_behind_the_scenes() {
    let rig = Rig::new();
    rig.idp.answer(|number| Ok(grant(number, 1000)));
    rig.idp.delay(5_000);
    assert_eq!(rig.call_text().await, "t1");
    rig.pass(690.0).await;
    assert_eq!(rig.idp.asked(), 1);
    let mut seen = Vec::new();
    for _ in 0..1_300 {
        for _ in 0..50 {
            let token = rig.slot.current().expect("no request waits for a renewal");
            seen.push(text(&token));
        }
        rig.pass(0.1).await;
    }
    seen.dedup();
    assert_eq!(seen, ["t1", "t2"]);
    assert_eq!(rig.idp.asked(), 2);
    let renewed_at = rig.idp.asked_at()[1];
    assert!((700.0..=800.2).contains(&renewed_at), "jitter only makes it earlier: {renewed_at}");
}

#[tokio::test(start_paused = true)]
async fn a_used_token_is_renewed_without_another_call() {
    let rig = Rig::new();
    rig.idp.answer(|number| Ok(grant(number, 100)));
    rig.call_text().await;
    rig.pass(85.0).await;
    assert_eq!(rig.idp.asked(), 2);
    let token = rig.slot.held.load_full().unwrap();
    assert!(token.token.generation == 2 && !token.used.load(std::sync::atomic::Ordering::SeqCst));
}

#[tokio::test(start_paused = true)]
async fn t57_an_unused_token_is_not_renewed_and_the_next_call_fetches_again() {
    let rig = Rig::new();
    rig.idp.answer(|number| Ok(grant(number, 100)));
    rig.slot.prefetch();
    rig.pass(5_000.0).await;
    assert_eq!(rig.idp.asked(), 1);
    assert_eq!(rig.call_text().await, "t2");

    // Used once: renewed once, and no more.
    rig.pass(5_000.0).await;
    assert_eq!(rig.idp.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_late_first_use_gets_the_valid_token_and_starts_the_renewal() {
    let rig = Rig::new();
    rig.idp.answer(|number| Ok(grant(number, 100)));
    rig.slot.prefetch();
    rig.pass(90.0).await;
    assert_eq!(rig.idp.asked(), 1);
    assert_eq!(rig.call_text().await, "t1");
    rig.pass(0.2).await;
    assert_eq!(rig.call_text().await, "t2");
    assert_eq!(rig.idp.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn t06_lifetimes_of_a_second_serve_and_cause_no_hot_loop() {
    for said in [0, 1] {
        let rig = Rig::new();
        rig.idp.delay(10);
        rig.idp.answer(move |number| Ok(grant(number, said)));
        let mut served = 0;
        for _ in 0..1_000 {
            served += usize::from(rig.call().await.is_ok());
            rig.pass(0.01).await;
        }
        assert_eq!(served, 1_000, "every request is served, if late");
        let gaps: Vec<f64> = rig.idp.asked_at().windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().all(|gap| *gap >= 1.0) && gaps.len() >= 9, "{gaps:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn t11_a_lifetime_of_5_s_is_renewed_in_time() {
    let rig = Rig::new();
    rig.idp.answer(|number| Ok(grant(number, 5)));
    rig.call_text().await;
    for _ in 0..300 {
        assert!(rig.slot.current().is_some());
        rig.pass(0.1).await;
    }
    assert!((6..=10).contains(&rig.idp.asked()), "{}", rig.idp.asked());
}

#[tokio::test(start_paused = true)]
async fn t63_the_lifetime_counts_from_when_the_token_was_asked_for() {
    let rig = Rig::new();
    rig.idp.delay(9_000);
    rig.idp.answer(|number| Ok(grant(number, 10)));
    assert_eq!(rig.call_text().await, "t1");
    rig.pass(0.4).await;
    assert!(rig.slot.current().is_some());
    rig.pass(0.2).await;
    assert!(rig.slot.current().is_none(), "9.5 s after it was asked for");
}

#[tokio::test(start_paused = true)]
async fn t63_a_token_that_ended_before_it_came_is_never_sent() {
    let rig = Rig::new();
    rig.idp.delay(5_000);
    rig.idp.answer(|number| Ok(grant(number, 5)));
    let error = rig.call().await.err().unwrap();
    assert_eq!(error.kind, TokenErrorKind::Refused);
    assert!(error.detail.contains("corp"), "{}", error.detail);
    assert!(rig.slot.current().is_none());
    assert_eq!(rig.idp.outcomes(), ["unusable"]);
}

#[tokio::test(start_paused = true)]
async fn t05_without_a_lifetime_the_default_counts() {
    let rig = Rig::with(10, |issuer| issuer.default_lifetime = Duration::from_secs(40));
    rig.idp.answer(|number| Ok(Grant { expires_in: None, ..grant(number, 0) }));
    rig.slot.prefetch();
    rig.pass(37.9).await;
    assert_eq!(rig.slot.status().state, "valid");
    rig.pass(0.2).await;
    assert_eq!(rig.slot.status().state, "expired");
    let status = rig.slot.status();
    assert_eq!(status.expires_at.unwrap(), status.fetched_at.unwrap() + Duration::from_millis(39_900));
}

#[tokio::test(start_paused = true)]
async fn t60_a_wall_clock_two_hours_ahead_ends_the_token_and_is_refetched_once() {
    let rig = Rig::new();
    rig.call_text().await;
    rig.pass(10.0).await;
    rig.clock.jump_wall(7_200);
    assert!(rig.slot.current().is_none(), "never sent once the wall clock says that it ended");
    for _ in 0..100 {
        assert_eq!(rig.call_text().await, "t2");
        rig.pass(0.1).await;
    }
    assert_eq!(rig.idp.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn t61_a_wall_clock_two_hours_back_renews_behind_the_scenes_and_makes_nothing_immortal() {
    let rig = Rig::new();
    rig.call_text().await;
    rig.pass(10.0).await;
    rig.clock.jump_wall(-7_200);
    assert_eq!(rig.call_text().await, "t1", "no request waits");
    rig.pass(0.2).await;
    for _ in 0..100 {
        assert_eq!(rig.call_text().await, "t2");
        rig.pass(0.1).await;
    }
    assert_eq!(rig.idp.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn t62_a_token_that_ended_in_suspend_is_fetched_again_before_it_is_used() {
    let rig = Rig::new();
    rig.idp.answer(|number| Ok(grant(number, 60)));
    rig.call_text().await;
    rig.clock.suspend(90);
    assert!(rig.slot.current().is_none());
    assert_eq!(rig.call_text().await, "t2");
    assert_eq!(rig.idp.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn t62_a_suspend_past_the_renewal_renews_at_the_next_call() {
    let rig = Rig::new();
    rig.idp.answer(|number| Ok(grant(number, 100)));
    rig.call_text().await;
    rig.clock.suspend(85);
    assert_eq!(rig.call_text().await, "t1");
    settle().await;
    assert_eq!(rig.idp.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_held_back_is_not_poked_by_every_call() {
    let rig = Rig::new();
    rig.idp.answer(|number| {
        if number == 1 {
            Ok(grant(1, 2000))
        } else {
            Err(super::support::failure(crate::issuer::FailureKind::ClientRefused))
        }
    });
    rig.call_text().await;
    rig.pass(1_700.0).await;
    assert!((2..=7).contains(&rig.idp.asked()), "{}", rig.idp.asked());
    assert!(rig.slot.current().is_some());
    assert!(!rig.slot.signals.is_poked());
    rig.clock.suspend(61);
    assert!(rig.slot.current().is_some());
    assert!(rig.slot.signals.is_poked(), "once the pause is over, and the task's timer stood still");
}
