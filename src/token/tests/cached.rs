//! An issuer that gives out the same token until shortly before it expires, as metadata services do.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use super::{Rig, grant, settle};
use crate::config::IssuerConfig;
use crate::token::{Rejected, Token};

/// The issuer makes a new token only when the last one has at most `until` seconds left.
fn cache_tokens(rig: &Rig, lifetime: u64, until: u64) {
    let start = rig.idp.start;
    let made = std::sync::atomic::AtomicU64::new(u64::MAX);
    rig.idp.respond(move |_| {
        let now = start.elapsed().as_secs();
        let last = made.load(SeqCst);
        let left = last.checked_add(lifetime).unwrap_or_default().saturating_sub(now);
        if last == u64::MAX || left <= until {
            made.store(now, SeqCst);
            return Ok(grant(usize::try_from(now).unwrap(), lifetime));
        }
        Ok(grant(usize::try_from(last).unwrap(), left))
    });
}

fn rig(refresh_at: f64) -> Rig {
    Rig::with(100, |issuer: &mut IssuerConfig| issuer.refresh_at = refresh_at)
}

/// Requests for so many seconds, one every ten. Returns how many tokens they saw.
async fn use_for(rig: &Rig, seconds: u64) -> usize {
    let mut generations = Vec::new();
    for _ in 0..seconds / 10 {
        let token: Arc<Token> = rig.request().await.unwrap();
        generations.push(token.generation);
        rig.pass(10.0).await;
    }
    generations.dedup();
    generations.len()
}

#[tokio::test(start_paused = true)]
async fn the_same_token_again_is_kept_and_asked_for_less_and_less_often() {
    // A day, the longest lifetime, with the earliest and the latest sensible times to renew.
    for (refresh_at, until, most) in
        [(0.8, 300, 6), (0.01, 300, 12), (1.0, 300, 6), (0.8, 3, 12), (0.01, 0, 20)]
    {
        let rig = rig(refresh_at);
        cache_tokens(&rig, 86_400, until);
        assert!(use_for(&rig, 86_300).await <= 2, "{refresh_at}, {until}");
        assert!(rig.idp.asked() <= most, "{refresh_at}, {until}: {} requests", rig.idp.asked());
    }
}

#[tokio::test(start_paused = true)]
async fn no_request_waits_while_the_issuer_still_has_the_same_token() {
    let rig = rig(0.8);
    cache_tokens(&rig, 3600, 225);
    rig.request_text().await;
    for _ in 0..2 * 3600 {
        assert!(rig.slot.current().is_some(), "at {:?}", rig.idp.start.elapsed());
        rig.pass(1.0).await;
    }
    let asked = rig.idp.asked();
    assert!((4..=8).contains(&asked), "{asked} requests for two lifetimes");
}

#[tokio::test(start_paused = true)]
async fn a_kept_token_is_not_sent_in_the_last_seconds_of_its_whole_lifetime() {
    let rig = rig(0.8);
    rig.idp.delay(0);
    rig.idp.respond(|number| match number {
        1 => Ok(grant(1, 1000)),
        _ => Ok(grant(1, 20)),
    });
    rig.request_text().await;
    while rig.idp.asked() < 2 {
        rig.pass(1.0).await;
    }
    let held = rig.slot.held.load_full().unwrap();
    let left = held.validity.left(rig.slot.now()).as_secs_f64();
    // 5 s of the thousand, and not 1 s of the twenty.
    let asked = rig.idp.asked_at()[1];
    let passed = rig.idp.start.elapsed().as_secs_f64() - asked;
    assert!((left - (15.0 - passed)).abs() < 0.2, "{left} s left, {passed} s after it was asked for");
    assert_eq!(held.token.generation, 1);
    assert!(held.used.load(SeqCst), "it was used in its lifetime");
}

#[tokio::test(start_paused = true)]
async fn the_same_token_after_a_refusal_is_another_generation() {
    let rig = rig(0.8);
    rig.idp.respond(|_| Ok(grant(1, 1000)));
    let first = rig.request().await.unwrap();
    assert_eq!(rig.slot.reject(first.generation), Rejected::Dropped);
    let second = rig.newer_than(first.generation).await.unwrap();
    assert_eq!((second.generation, second.secret.expose()), (2, first.secret.expose()));
    settle().await;
    assert_eq!(rig.slot.reject(second.generation), Rejected::Keep, "the issuer has no other");
    assert_eq!(rig.idp.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_same_token_in_its_last_seconds_serves_those_who_have_no_other() {
    let rig = rig(0.8);
    rig.idp.delay(0);
    rig.idp.respond(|number| Ok(grant(1, if number == 1 { 1000 } else { 3 })));
    rig.request_text().await;
    // No renewal comes in time.
    rig.clock.suspend(997);
    let token = rig.request().await.unwrap();
    assert_eq!(
        (token.generation, rig.idp.asked()),
        (2, 2),
        "what the issuer grants then is a grant like any other"
    );
}
