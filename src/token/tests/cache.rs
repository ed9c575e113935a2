use std::sync::Arc;

use super::support::{Rig, issuer, key, settle, text};
use crate::config::{ParamValue, Source};
use crate::token::Rejected;

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
    assert_eq!(rig.call_text().await, "t1");
    let again = Arc::new(issuer("corp", 1));
    let slot = rig.cache.slot(&key(&again, &["read"]), &again, 0);
    rig.cache.retain(&[Arc::clone(&slot)]);
    assert_eq!(slot.current().map(|token| text(&token)), Some("t1".to_owned()));
    assert_eq!(slot.reject(1), Rejected::Dropped);
    assert!(rig.call().await.is_err(), "no request may wait now");
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
async fn t97_a_retired_slot_serves_its_calls_but_asks_for_nothing_unasked() {
    let rig = Rig::new();
    rig.slot.prefetch();
    rig.call_text().await;
    rig.cache.retain(&[]);
    rig.pass(10_000.0).await;
    assert_eq!(rig.idp.asked(), 1, "no renewal");
    assert_eq!(rig.call_text().await, "t2", "a request of the old config that still runs");
}

#[tokio::test(start_paused = true)]
async fn t65_ten_thousand_slots_are_the_bound_and_a_route_keeps_its_own() {
    let rig = Rig::new();
    rig.call_text().await;
    let config = Arc::new(issuer("corp", 1));
    for number in 0..10_500 {
        let scope = number.to_string();
        rig.cache.slot(&key(&config, &[&scope]), &config, 10);
    }
    rig.cache.slots.run_pending_tasks();
    let slots = rig.cache.slots.entry_count();
    assert!((9_000..=10_000).contains(&slots), "{slots}");
    assert_eq!(rig.call_text().await, "t1", "evicted, but held");
    let newest = rig.cache.slot(&key(&config, &["10499"]), &config, 10);
    assert!(Arc::ptr_eq(&newest, &rig.cache.slot(&key(&config, &["10499"]), &config, 10)), "new keys get in");
}
