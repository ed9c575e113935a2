//! One fetch for all who wait, renewals, and which requests share a token.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::{Rig, failure, grant, issuer, key, request, settle, text};
use crate::config::{ParamValue, Source};
use crate::issuer::{FailureKind, Grant};
use crate::token::{Rejected, TokenErrorKind};

fn many(rig: &Rig, requests: usize) -> JoinSet<Result<String, TokenErrorKind>> {
    let mut tasks = JoinSet::new();
    for _ in 0..requests {
        let slot = Arc::clone(&rig.slot);
        tasks
            .spawn(async move { request(&slot).await.map(|token| text(&token)).map_err(|error| error.kind) });
    }
    tasks
}

#[tokio::test(start_paused = true)]
async fn t50_a_thousand_cold_requests_are_served_by_one_request() {
    let rig = Rig::new();
    let tasks = many(&rig, 1_000);
    settle().await;
    assert_eq!((rig.slot.status().waiters, rig.idp.waiting_now()), (1_000, 1_000));
    let results = tasks.join_all().await;
    assert_eq!(results, vec![Ok("t1".to_owned()); 1_000]);
    assert_eq!(rig.idp.asked(), 1);
    assert_eq!((rig.slot.status().waiters, rig.idp.waiting_now()), (0, 0));
    assert_eq!(rig.idp.outcomes(), ["ok"]);
}

#[tokio::test(start_paused = true)]
async fn t51_a_failed_fetch_fails_all_who_waited_and_starts_no_stampede() {
    let rig = Rig::new();
    rig.idp.respond(|_| Err(failure(FailureKind::Unavailable)));
    let results = many(&rig, 1_000).join_all().await;
    assert_eq!(results, vec![Err(TokenErrorKind::Unavailable); 1_000]);
    assert_eq!(rig.idp.asked(), 1);
    let results = many(&rig, 1_000).join_all().await;
    assert_eq!(results, vec![Err(TokenErrorKind::Unavailable); 1_000]);
    assert_eq!(rig.idp.asked(), 1, "failed at once");
}

#[tokio::test(start_paused = true)]
async fn t41_a_slow_response_serves_all_and_a_caller_that_leaves_cancels_nothing() {
    let rig = Rig::new();
    rig.idp.delay(8_000);
    let first = tokio::spawn({
        let slot = Arc::clone(&rig.slot);
        async move { request(&slot).await.map(|_| ()) }
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
        let impatient = tokio::time::timeout(Duration::from_millis(30), rig.request()).await;
        assert!(impatient.is_err());
    }
    rig.pass(0.1).await;
    assert_eq!(rig.slot.current().map(|token| text(&token)), Some("t1".to_owned()));
    assert_eq!(rig.idp.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn t42_a_request_waits_at_most_the_issuers_timeout_and_the_fetch_goes_on() {
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
async fn a_timeout_of_zero_lets_requests_wait_on() {
    let rig = Rig::with(10, |issuer| issuer.timeout = None);
    rig.idp.delay(100_000);
    assert_eq!(rig.request_text().await, "t1");
    assert_eq!(rig.slot.timeout(), None);
}

#[tokio::test(start_paused = true)]
async fn more_waiters_than_allowed_are_turned_away_at_once() {
    let rig = Rig::with(3, |_| {});
    let tasks = many(&rig, 3);
    settle().await;
    let error = rig.request().await.err().unwrap();
    assert_eq!(error.kind, TokenErrorKind::Overloaded);
    assert!(error.retry_after.is_some() && !error.issuer_refused);
    assert_eq!(tasks.join_all().await, vec![Ok("t1".to_owned()); 3], "those who were there first are served");
    assert_eq!(rig.request_text().await, "t1");
}

#[tokio::test(start_paused = true)]
async fn prefetch_asks_without_a_request_until_it_has_one_token() {
    let rig = Rig::new();
    rig.pass(100.0).await;
    assert_eq!(rig.idp.asked(), 0, "nobody wants it yet");
    rig.idp.respond(|number| {
        if number < 4 { Err(failure(FailureKind::Unavailable)) } else { Ok(grant(number, 3600)) }
    });
    rig.slot.prefetch();
    rig.pass(30.0).await;
    assert_eq!(rig.idp.asked(), 4);
    assert!(rig.slot.status().fetched_once);
    rig.slot.prefetch();
    rig.pass(10_000.0).await;
    assert_eq!(rig.idp.asked(), 4, "not used, not renewed");
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_fetch_is_a_failure_like_others() {
    let rig = Rig::new();
    rig.idp.respond(|number| if number == 1 { panic!("scripted") } else { Ok(grant(number, 60)) });
    assert_eq!(rig.request().await.err().unwrap().kind, TokenErrorKind::Unavailable);
    rig.pass(1.5).await;
    assert_eq!(rig.request_text().await, "t2");
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

#[tokio::test(start_paused = true)]
async fn t52_a_used_token_is_renewed_once_in_the_background() {
    let rig = Rig::new();
    rig.idp.respond(|number| Ok(grant(number, 1000)));
    rig.idp.delay(5_000);
    assert_eq!(rig.request_text().await, "t1");
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
async fn a_used_token_is_renewed_without_another_request() {
    let rig = Rig::new();
    rig.idp.respond(|number| Ok(grant(number, 100)));
    rig.request_text().await;
    rig.pass(85.0).await;
    assert_eq!(rig.idp.asked(), 2);
    let token = rig.slot.held.load_full().unwrap();
    assert!(token.token.generation == 2 && !token.used.load(std::sync::atomic::Ordering::SeqCst));
}

#[tokio::test(start_paused = true)]
async fn t57_an_unused_token_is_not_renewed_and_the_next_request_fetches_again() {
    let rig = Rig::new();
    rig.idp.respond(|number| Ok(grant(number, 100)));
    rig.slot.prefetch();
    rig.pass(5_000.0).await;
    assert_eq!(rig.idp.asked(), 1);
    assert_eq!(rig.request_text().await, "t2");

    // Used once, so renewed once and no more.
    rig.pass(5_000.0).await;
    assert_eq!(rig.idp.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_late_first_use_gets_the_valid_token_and_starts_the_renewal() {
    let rig = Rig::new();
    rig.idp.respond(|number| Ok(grant(number, 100)));
    rig.slot.prefetch();
    rig.pass(90.0).await;
    assert_eq!(rig.idp.asked(), 1);
    assert_eq!(rig.request_text().await, "t1");
    rig.pass(0.2).await;
    assert_eq!(rig.request_text().await, "t2");
    assert_eq!(rig.idp.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn t06_lifetimes_of_a_second_serve_and_cause_no_hot_loop() {
    for said in [0, 1] {
        let rig = Rig::new();
        rig.idp.delay(10);
        rig.idp.respond(move |number| Ok(grant(number, said)));
        let mut served = 0;
        for _ in 0..1_000 {
            served += usize::from(rig.request().await.is_ok());
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
    rig.idp.respond(|number| Ok(grant(number, 5)));
    rig.request_text().await;
    for _ in 0..300 {
        assert!(rig.slot.current().is_some());
        rig.pass(0.1).await;
    }
    assert!((6..=10).contains(&rig.idp.asked()), "{}", rig.idp.asked());
}

#[tokio::test(start_paused = true)]
async fn t63_the_lifetime_counts_from_the_token_request() {
    let rig = Rig::new();
    rig.idp.delay(9_000);
    rig.idp.respond(|number| Ok(grant(number, 10)));
    assert_eq!(rig.request_text().await, "t1");
    rig.pass(0.4).await;
    assert!(rig.slot.current().is_some());
    rig.pass(0.2).await;
    assert!(rig.slot.current().is_none(), "9.5 s after it was asked for");
}

#[tokio::test(start_paused = true)]
async fn t63_a_token_that_expired_before_it_came_is_never_sent() {
    let rig = Rig::new();
    rig.idp.delay(5_000);
    rig.idp.respond(|number| Ok(grant(number, 5)));
    let error = rig.request().await.err().unwrap();
    assert_eq!(error.kind, TokenErrorKind::Refused);
    assert!(error.detail.contains("corp"), "{}", error.detail);
    assert!(rig.slot.current().is_none());
    assert_eq!(rig.idp.outcomes(), ["unusable"]);
}

#[tokio::test(start_paused = true)]
async fn t05_without_a_lifetime_the_default_counts() {
    let rig = Rig::with(10, |issuer| issuer.default_lifetime = Duration::from_secs(40));
    rig.idp.respond(|number| Ok(Grant { expires_in: None, ..grant(number, 0) }));
    rig.slot.prefetch();
    rig.pass(37.9).await;
    assert_eq!(rig.slot.status().state, "valid");
    rig.pass(0.2).await;
    assert_eq!(rig.slot.status().state, "expired");
    let status = rig.slot.status();
    assert_eq!(status.expires_at.unwrap(), status.fetched_at.unwrap() + Duration::from_millis(39_900));
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_counts_from_the_request_and_not_from_the_wait_for_its_values() {
    let rig = Rig::new();
    rig.idp.making(8_000);
    rig.idp.respond(|number| Ok(grant(number, 5)));
    assert_eq!(rig.request_text().await, "t1");
    let status = rig.slot.status();
    let asked = rig.idp.asked_moment(1).wall;
    assert_eq!(status.expires_at.unwrap(), asked + Duration::from_secs(5));

    // Clocks that jump before the request do not make its token older.
    let rig = Rig::new();
    rig.idp.making(8_000);
    rig.slot.prefetch();
    rig.pass(5.0).await;
    rig.clock.suspend(7_200);
    rig.clock.jump_wall(7_200);
    assert_eq!(rig.request_text().await, "t1");
    assert_eq!(rig.slot.status().state, "valid");
    // Those that jump after it do.
    let rig = Rig::new();
    rig.idp.delay(8_000);
    rig.slot.prefetch();
    rig.pass(5.0).await;
    rig.clock.suspend(7_200);
    assert_eq!(rig.request().await.err().unwrap().kind, TokenErrorKind::Refused);
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_values_brings_no_two_requests_within_a_second() {
    let rig = Rig::new();
    rig.idp.respond(|number| Ok(grant(number, 1)));
    rig.idp.making(3_000);
    rig.request_text().await;
    rig.idp.making(0);
    while rig.idp.asked() < 3 {
        rig.pass(0.05).await;
        rig.request_text().await;
    }
    let asked = rig.idp.asked_at_exactly();
    assert!(asked.windows(2).all(|pair| pair[1] - pair[0] >= 1.0), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn t60_a_wall_clock_two_hours_ahead_expires_the_token_and_is_refetched_once() {
    let rig = Rig::new();
    rig.request_text().await;
    rig.pass(10.0).await;
    rig.clock.jump_wall(7_200);
    assert!(rig.slot.current().is_none(), "never sent once the wall clock says that it expired");
    for _ in 0..100 {
        assert_eq!(rig.request_text().await, "t2");
        rig.pass(0.1).await;
    }
    assert_eq!(rig.idp.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn t61_a_wall_clock_two_hours_back_renews_in_the_background_and_makes_nothing_immortal() {
    let rig = Rig::new();
    rig.request_text().await;
    rig.pass(10.0).await;
    rig.clock.jump_wall(-7_200);
    assert_eq!(rig.request_text().await, "t1", "no request waits");
    rig.pass(0.2).await;
    for _ in 0..100 {
        assert_eq!(rig.request_text().await, "t2");
        rig.pass(0.1).await;
    }
    assert_eq!(rig.idp.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn t62_a_token_that_expired_in_suspend_is_fetched_again_before_it_is_used() {
    let rig = Rig::new();
    rig.idp.respond(|number| Ok(grant(number, 60)));
    rig.request_text().await;
    rig.clock.suspend(90);
    assert!(rig.slot.current().is_none());
    assert_eq!(rig.request_text().await, "t2");
    assert_eq!(rig.idp.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn t62_a_suspend_past_the_renewal_renews_at_the_next_request() {
    let rig = Rig::new();
    rig.idp.respond(|number| Ok(grant(number, 100)));
    rig.request_text().await;
    rig.clock.suspend(85);
    assert_eq!(rig.request_text().await, "t1");
    settle().await;
    assert_eq!(rig.idp.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn requests_do_not_poke_a_renewal_that_has_to_wait() {
    let rig = Rig::new();
    rig.idp.respond(
        |number| {
            if number == 1 { Ok(grant(1, 2000)) } else { Err(failure(FailureKind::ClientRefused)) }
        },
    );
    rig.request_text().await;
    rig.pass(1_700.0).await;
    assert!((2..=7).contains(&rig.idp.asked()), "{}", rig.idp.asked());
    assert!(rig.slot.current().is_some());
    assert!(!rig.slot.signals.is_poked());
    rig.clock.suspend(61);
    assert!(rig.slot.current().is_some());
    assert!(rig.slot.signals.is_poked(), "once the pause is over, and the task's timer stood still");
}

#[tokio::test(start_paused = true)]
async fn t58_the_same_key_shares_a_slot_and_another_scope_does_not() {
    let rig = Rig::new();
    let config = Arc::new(issuer("corp", 1));
    let slot = |scopes: &[&str]| rig.cache.slot(&key(&config, scopes), &config, 10);
    assert!(Arc::ptr_eq(&rig.slot, &slot(&["read"])));
    assert!(Arc::ptr_eq(&slot(&["a", "b"]), &slot(&["b", "a", "b"])), "scopes are a set");
    assert!(!Arc::ptr_eq(&rig.slot, &slot(&["write"])));
}

#[tokio::test(start_paused = true)]
async fn t59_keys_made_to_collide_are_distinct() {
    let rig = Rig::new();
    let config = Arc::new(issuer("corp", 1));
    let base = key(&config, &[]);
    let mut keys = vec![base.clone()];
    for scopes in [&["a b"][..], &["a", "b"], &["ab"], &["a|b", "c"], &["a", "b|c"], &["a,b,c"], &[""]] {
        keys.push(key(&config, scopes));
    }
    let text = |text: &str| ParamValue::Value(Source::literal(text));
    let params = [
        ("a", text("b=c")),
        ("a=b", text("c")),
        ("a", text("1")),
        ("a", ParamValue::Integer(1)),
        ("a", ParamValue::Float("1".to_owned())),
        ("a", ParamValue::Array(vec![text("1")])),
        ("a", ParamValue::Array(vec![text("1"), text("1")])),
        ("a", ParamValue::Boolean(true)),
        ("a", text("true")),
        ("subject", text("x")),
    ];
    for (name, value) in params {
        let mut key = base.clone();
        key.params.insert(name.to_owned(), value);
        keys.push(key);
    }
    for subject in ["x", ""] {
        let mut key = base.clone();
        key.subject = Some(subject.to_owned());
        keys.push(key);
    }
    let slots: Vec<_> = keys.iter().map(|key| rig.cache.slot(key, &config, 10)).collect();
    for (one, slot) in slots.iter().enumerate() {
        for (other, second) in slots.iter().enumerate() {
            assert_eq!(one == other, Arc::ptr_eq(slot, second), "{:?} {:?}", keys[one], keys[other]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_issuers_never_share_nor_two_tables_of_one_name() {
    let rig = Rig::new();
    let configs =
        [("corp", 1), ("corp", 2), ("other", 1)].map(|(name, digest)| Arc::new(issuer(name, digest)));
    let slots = configs.map(|config| rig.cache.slot(&key(&config, &["read"]), &config, 10));
    assert!(Arc::ptr_eq(&rig.slot, &slots[0]));
    assert!(!Arc::ptr_eq(&slots[0], &slots[1]));
    assert!(!Arc::ptr_eq(&slots[0], &slots[2]));
    assert!(!Arc::ptr_eq(&slots[1], &slots[2]));
}

#[tokio::test(start_paused = true)]
async fn t95_a_reload_keeps_the_token_and_takes_the_new_limit() {
    let rig = Rig::new();
    assert_eq!(rig.request_text().await, "t1");
    let again = Arc::new(issuer("corp", 1));
    let slot = rig.cache.slot(&key(&again, &["read"]), &again, 0);
    rig.cache.retain(&[Arc::clone(&slot)]);
    assert_eq!(slot.current().map(|token| text(&token)), Some("t1".to_owned()));
    assert_eq!(slot.reject(1), Rejected::Dropped);
    assert!(rig.request().await.is_err(), "no request may wait now");
}

#[tokio::test(start_paused = true)]
async fn t97_what_is_not_kept_is_gone_at_once_and_ends() {
    let Rig { cache, slot, .. } = Rig::new();
    Arc::clone(&slot).newer_than(0, None).await.unwrap();
    let held = Arc::downgrade(&slot.held.load_full().unwrap());
    let weak = Arc::downgrade(&slot);
    let closed = slot.signals.closed.clone();
    cache.retain(&[]);
    assert!(slot.current().is_some(), "a request that holds it goes on");
    drop(slot);
    assert!(weak.upgrade().is_none() && held.upgrade().is_none(), "nothing else holds the token");
    assert!(closed.is_cancelled());
    settle().await;
    let config = Arc::new(issuer("corp", 1));
    assert!(cache.slot(&key(&config, &["read"]), &config, 10).current().is_none(), "and it starts anew");
}

#[tokio::test(start_paused = true)]
async fn t97_a_retired_slot_serves_its_requests_but_renews_nothing() {
    let rig = Rig::new();
    rig.slot.prefetch();
    rig.request_text().await;
    rig.cache.retain(&[]);
    rig.pass(10_000.0).await;
    assert_eq!(rig.idp.asked(), 1, "no renewal");
    assert_eq!(rig.request_text().await, "t2", "a request of the old config that still runs");
}

#[tokio::test(start_paused = true)]
async fn t65_ten_thousand_slots_are_the_bound_and_a_route_keeps_its_own() {
    let rig = Rig::new();
    rig.request_text().await;
    let config = Arc::new(issuer("corp", 1));
    for number in 0..10_500 {
        let scope = number.to_string();
        rig.cache.slot(&key(&config, &[&scope]), &config, 10);
    }
    rig.cache.slots.run_pending_tasks();
    let slots = rig.cache.slots.entry_count();
    assert!((9_000..=10_000).contains(&slots), "{slots}");
    assert_eq!(rig.request_text().await, "t1", "evicted, but held");
    let newest = rig.cache.slot(&key(&config, &["10499"]), &config, 10);
    assert!(Arc::ptr_eq(&newest, &rig.cache.slot(&key(&config, &["10499"]), &config, 10)), "new keys get in");
}
