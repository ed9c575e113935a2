//! Tokens that replicas share by a store: each replica is a cache of its own, all have one issuer and one store.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Scripted, TestClock, cache, failure, grant, issuer, key, request, settle, text};
use crate::clock::SharedClock;
use crate::config::IssuerConfig;
use crate::issuer::FailureKind;
use crate::store::model::{Fault, Memory};
use crate::token::{Rejected, TokenCache, TokenErrorKind, TokenSlot};

/// One process: its clock, its cache, its slot.
struct Replica {
    clock: Arc<TestClock>,
    cache: TokenCache,
    slot: Arc<TokenSlot>,
}

struct Fleet {
    idp: Arc<Scripted>,
    memory: Arc<Memory>,
    replicas: Vec<Replica>,
}

impl Fleet {
    fn of(count: usize) -> Self {
        Self::with(count, |_| {})
    }

    fn with(count: usize, change: impl Fn(&mut IssuerConfig)) -> Self {
        let idp = Arc::new(Scripted::new());
        idp.serve_many_slots();
        let mut fleet = Self { idp, memory: Memory::new(), replicas: Vec::new() };
        for _ in 0..count {
            fleet.start(&[1], &change);
        }
        fleet
    }

    /// Starts one more replica, whose store has these keys.
    fn start(&mut self, keys: &[u8], change: impl Fn(&mut IssuerConfig)) {
        let clock = Arc::new(TestClock {
            start: Instant::now(),
            boot_ms: AtomicU64::new(0),
            wall_ms: AtomicI64::new(0),
        });
        let cache = cache(Arc::clone(&clock) as SharedClock, &self.idp);
        cache.store_cell().store(Some(self.memory.store(Arc::clone(&clock) as SharedClock, keys)));
        let mut config = issuer("corp", 1);
        change(&mut config);
        let slot = cache.slot(&key(&config, &["read"]), &Arc::new(config), 10_000);
        self.replicas.push(Replica { clock, cache, slot });
    }

    fn slot(&self, replica: usize) -> &Arc<TokenSlot> {
        &self.replicas[replica].slot
    }

    /// One request at each replica at the same time. Returns the tokens' texts.
    async fn requests(&self) -> Vec<String> {
        let mut all = JoinSet::new();
        for replica in &self.replicas {
            let slot = Arc::clone(&replica.slot);
            all.spawn(async move { text(&request(&slot).await.unwrap()) });
        }
        let mut texts = all.join_all().await;
        texts.sort();
        texts.dedup();
        texts
    }

    /// The token that a request at this replica gets.
    async fn text(&self, replica: usize) -> String {
        text(&request(self.slot(replica)).await.unwrap())
    }

    async fn pass(&self, seconds: f64) {
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        settle().await;
    }

    fn claims(&self) -> usize {
        self.memory.claims.swap(0, SeqCst)
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_replicas_that_start_together_make_one_request() {
    let fleet = Fleet::of(1_000);
    for replica in &fleet.replicas {
        replica.slot.prefetch();
    }
    assert_eq!(fleet.requests().await, ["t1"]);
    assert_eq!(fleet.idp.asked(), 1);
    let by = fleet.slot(7).status().shared.unwrap();
    assert_eq!(Some(by.generation), fleet.memory.generation());
    let own = fleet.replicas.iter().filter(|replica| replica.slot.status().shared.unwrap().own).count();
    assert_eq!(own, 1, "one replica requested it");
}

#[tokio::test(start_paused = true)]
async fn a_shared_lifetime_counts_from_the_request_and_not_from_the_wait_for_its_values() {
    let fleet = Fleet::of(2);
    fleet.idp.making(8_000);
    fleet.idp.respond(|number| Ok(grant(number, 20)));
    assert_eq!(fleet.text(0).await, "t1");
    fleet.pass(1.0).await;
    assert_eq!(fleet.text(1).await, "t1");
    let expiry = |replica| fleet.slot(replica).status().expires_at.unwrap();
    let right = fleet.idp.asked_moment(1).wall + Duration::from_secs(20);
    assert_eq!(expiry(0), right);
    let apart = expiry(1).duration_since(right).unwrap_or_else(|early| early.duration());
    assert!(apart <= Duration::from_millis(100), "{apart:?}");
}

#[tokio::test(start_paused = true)]
async fn each_renewal_is_one_request_and_at_most_two_reads_for_each_replica() {
    let fleet = Fleet::of(50);
    fleet.idp.respond(|number| Ok(grant(number, 60)));
    assert_eq!(fleet.requests().await, ["t1"]);
    fleet.claims();
    // Half an hour at a lifetime of a minute.
    let (mut renewals, mut seconds) = (1, 0);
    while seconds < 1_800 {
        fleet.pass(1.0).await;
        seconds += 1;
        for replica in 0..50 {
            fleet.text(replica).await;
        }
        if fleet.idp.asked() > renewals {
            assert_eq!(fleet.idp.asked(), renewals + 1);
            renewals += 1;
            // All have the new token when the last of them reached its own time of renewal.
            for _ in 0..8 {
                fleet.pass(1.0).await;
                seconds += 1;
                for replica in 0..50 {
                    fleet.text(replica).await;
                }
            }
            assert_eq!(fleet.requests().await, [format!("t{renewals}")]);
            let claims = fleet.claims();
            assert!((50..=100).contains(&claims), "{claims} reads of 50 replicas");
        }
    }
    assert!((34..=45).contains(&renewals), "{renewals} renewals in half an hour");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_401s_at_once_make_one_request() {
    let fleet = Fleet::of(1_000);
    fleet.requests().await;
    let mut all = JoinSet::new();
    for replica in &fleet.replicas {
        let slot = Arc::clone(&replica.slot);
        all.spawn(async move {
            let token = slot.current().unwrap();
            assert_eq!(slot.reject(token.generation), Rejected::Dropped);
            text(&slot.newer_than(token.generation, None).await.unwrap())
        });
    }
    let mut texts = all.join_all().await;
    texts.dedup();
    assert_eq!(texts, ["t2"]);
    assert_eq!(fleet.idp.asked(), 2);
    // The new one is kept for 10 s, at every replica.
    let generation = fleet.slot(3).current().unwrap().generation;
    assert_eq!(fleet.slot(3).reject(generation), Rejected::Keep);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_starts_after_a_401_keeps_the_new_token_for_a_while() {
    let mut fleet = Fleet::of(1);
    fleet.requests().await;
    let first = fleet.slot(0).current().unwrap();
    fleet.slot(0).reject(first.generation);
    Arc::clone(fleet.slot(0)).newer_than(first.generation, None).await.unwrap();
    fleet.start(&[1], |_| {});
    fleet.pass(1.0).await;
    let token = request(fleet.slot(1)).await.unwrap();
    assert_eq!(text(&token), "t2");
    assert_eq!(fleet.slot(1).reject(token.generation), Rejected::Keep);
    fleet.pass(10.0).await;
    assert_eq!(fleet.slot(1).reject(token.generation), Rejected::Dropped);
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_dies_keeps_nobody_for_longer_than_its_lease() {
    let fleet = Fleet::of(3);
    fleet.idp.delay(60_000);
    fleet.slot(0).prefetch();
    fleet.pass(0.5).await;
    fleet.memory.fail(Fault::HolderStopped);
    fleet.idp.delay(100);
    let began = Instant::now();
    assert_eq!(fleet.text(1).await, "t2");
    let took = began.elapsed().as_secs_f64();
    assert!((2.0..4.0).contains(&took), "{took} s");
    assert_eq!(fleet.text(2).await, "t2");
}

#[tokio::test(start_paused = true)]
async fn a_slow_issuer_costs_no_second_request() {
    let fleet = Fleet::of(20);
    fleet.idp.delay(8_000);
    assert_eq!(fleet.requests().await, ["t1"]);
    assert_eq!(fleet.idp.asked(), 1, "the lease was extended");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_another_replica_longer_than_the_issuers_timeout() {
    let fleet = Fleet::with(2, |config| config.timeout = Some(Duration::from_secs(3)));
    fleet.idp.delay(60_000);
    fleet.slot(0).prefetch();
    fleet.pass(0.5).await;
    fleet.idp.delay(100);
    fleet.slot(1).prefetch();
    fleet.pass(2.9).await;
    assert_eq!(fleet.idp.asked(), 1);
    fleet.pass(1.1).await;
    assert_eq!(fleet.text(1).await, "t2");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_was_stopped_past_its_lease_does_not_overwrite_a_newer_token() {
    let fleet = Fleet::of(2);
    fleet.idp.delay(9_000);
    fleet.memory.fail(Fault::HolderStopped);
    fleet.slot(0).prefetch();
    fleet.pass(3.5).await;
    fleet.idp.delay(100);
    assert_eq!(fleet.text(1).await, "t2");
    fleet.pass(0.1).await;
    let newer = fleet.memory.generation();
    assert!(newer.is_some());
    fleet.pass(6.0).await;
    assert_eq!(fleet.text(0).await, "t1", "its own token is valid, and its own");
    assert_eq!(fleet.memory.generation(), newer);
    // Renewals go on from the newer one.
    fleet.pass(2_950.0).await;
    fleet.requests().await;
    fleet.pass(5.0).await;
    assert_eq!(fleet.requests().await, ["t3"]);
    assert_eq!(fleet.idp.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_dead_store_costs_its_timeout_once_in_five_seconds() {
    let fleet = Fleet::with(1, |config| config.timeout = Some(Duration::from_secs(10)));
    fleet.idp.delay(0);
    fleet.idp.respond(|number| Ok(grant(number, 1)));
    for fault in [Fault::Dead, Fault::Broken] {
        fleet.memory.fail(fault);
        fleet.pass(6.0).await;
        let mut slow = 0;
        for _ in 0..5 {
            let began = Instant::now();
            fleet.text(0).await;
            let took = began.elapsed();
            assert!(took <= Duration::from_millis(100), "{took:?}");
            slow += usize::from(took > Duration::from_millis(2));
            fleet.pass(1.0).await;
        }
        assert!(slow <= 1, "{slow} requests waited for the store");
    }
    fleet.memory.fail(Fault::None);
    fleet.pass(6.0).await;
    fleet.text(0).await;
    settle().await;
    assert!(fleet.slot(0).status().shared.is_some(), "the store is used again");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_slower_than_its_timeout_is_done_without() {
    let fleet = Fleet::of(2);
    fleet.memory.delay_ms.store(500, SeqCst);
    let began = Instant::now();
    fleet.requests().await;
    assert_eq!(began.elapsed(), Duration::from_millis(200), "100 ms for the store, 100 ms for the issuer");
    assert_eq!(fleet.idp.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_nobody_waits_for_is_patient_with_a_slow_store() {
    let fleet = Fleet::of(2);
    fleet.memory.delay_ms.store(500, SeqCst);
    for replica in &fleet.replicas {
        replica.slot.prefetch();
    }
    fleet.pass(5.0).await;
    assert_eq!(fleet.idp.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_lost_everything_costs_one_request_at_the_next_renewal() {
    let fleet = Fleet::of(10);
    fleet.requests().await;
    fleet.memory.wipe();
    for _ in 0..36 {
        fleet.pass(100.0).await;
        fleet.requests().await;
    }
    assert_eq!(fleet.idp.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn rubbish_in_the_store_is_replaced() {
    let mut fleet = Fleet::of(1);
    fleet.requests().await;
    fleet.pass(0.1).await;
    fleet.memory.garble();
    fleet.start(&[1], |_| {});
    assert_eq!(fleet.text(1).await, "t2");
    fleet.pass(0.1).await;
    fleet.start(&[1], |_| {});
    assert_eq!(fleet.text(2).await, "t2");
}

/// Somebody else renews the token already.
#[tokio::test(start_paused = true)]
async fn rubbish_takes_no_lease_from_its_holder() {
    let mut fleet = Fleet::of(1);
    fleet.requests().await;
    fleet.pass(0.1).await;
    fleet.memory.garble();
    fleet.idp.delay(5_000);
    while fleet.idp.asked() == 1 {
        fleet.pass(1.0).await;
    }
    fleet.start(&[1], |_| {});
    assert_eq!(fleet.text(1).await, "t2");
    assert_eq!(fleet.idp.asked(), 2);
}

/// A token is not sent in its last 5 s, and there is no other one.
#[tokio::test(start_paused = true)]
async fn a_token_that_may_not_be_sent_any_more_is_not_taken() {
    for (number, keys) in [&[1][..], &[2, 1]].into_iter().enumerate() {
        let mut fleet = Fleet::of(1);
        assert_eq!(fleet.text(0).await, "t1");
        fleet.pass(0.1).await;
        fleet.replicas.clear();
        fleet.pass(3_596.5).await;
        fleet.start(keys, |_| {});
        fleet.replicas[0].clock.jump_wall(3_597);
        assert_eq!(fleet.text(0).await, "t2", "case {number}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_of_a_former_key_that_was_refused_does_not_come_back() {
    let mut fleet = Fleet::of(1);
    fleet.idp.respond(|number| match number {
        2 => Err(failure(FailureKind::Unavailable)),
        number => Ok(grant(number, 3_600)),
    });
    assert_eq!(fleet.text(0).await, "t1");
    fleet.start(&[2, 1], |_| {});
    let refused = request(fleet.slot(1)).await.unwrap();
    assert_eq!(text(&refused), "t1");
    assert_eq!(fleet.slot(1).reject(refused.generation), Rejected::Dropped);
    fleet.pass(0.5).await;
    assert_eq!(fleet.idp.asked(), 2);
    fleet.start(&[2, 1], |_| {});
    assert_eq!(fleet.text(2).await, "t3");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_while_it_takes_a_token_of_a_former_key_costs_its_timeout() {
    let mut fleet = Fleet::of(1);
    assert_eq!(fleet.text(0).await, "t1");
    fleet.pass(0.1).await;
    fleet.start(&[2, 1], |_| {});
    fleet.memory.fail(Fault::PublishHangs);
    let began = Instant::now();
    assert_eq!(fleet.text(1).await, "t1");
    assert!(began.elapsed() < Duration::from_millis(150), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn replicas_with_other_keys_share_nothing_and_rotated_keys_lose_no_token() {
    let mut fleet = Fleet::of(1);
    assert_eq!(fleet.text(0).await, "t1");
    fleet.start(&[2], |_| {});
    assert_eq!(fleet.text(1).await, "t2");
    fleet.start(&[3, 1], |_| {});
    assert_eq!(fleet.text(2).await, "t1", "under the former key");
    fleet.start(&[3], |_| {});
    assert_eq!(fleet.text(3).await, "t1", "it was stored under the new key");
    fleet.start(&[5, 4, 3], |_| {});
    assert_eq!(fleet.text(4).await, "t1", "under any former key");
}

#[tokio::test(start_paused = true)]
async fn clocks_that_differ_by_half_a_minute_make_no_expired_token_and_no_storm() {
    let fleet = Fleet::of(3);
    fleet.idp.respond(|number| Ok(grant(number, 60)));
    fleet.replicas[1].clock.jump_wall(30);
    fleet.replicas[2].clock.jump_wall(-30);
    let granted = |text: &str| text.trim_start_matches('t').parse::<usize>().unwrap();
    for _ in 0..600 {
        for replica in 0..3 {
            let token = granted(&fleet.text(replica).await);
            let asked = fleet.idp.asked_at_exactly()[token - 1];
            let age = fleet.idp.start.elapsed().as_secs_f64() - asked;
            assert!(age < 60.0, "replica {replica} sent a token of {age} s");
        }
        fleet.pass(1.0).await;
    }
    assert!(fleet.idp.asked() <= 16, "{} requests in ten minutes", fleet.idp.asked());
}

#[tokio::test(start_paused = true)]
async fn a_store_does_not_prolong_a_token() {
    let mut fleet = Fleet::of(1);
    fleet.idp.respond(|number| match number {
        1 => Ok(grant(number, 600)),
        _ => Err(failure(FailureKind::Unavailable)),
    });
    assert_eq!(fleet.text(0).await, "t1");
    fleet.pass(500.0).await;
    fleet.memory.prolong(Duration::from_secs(3_600));
    fleet.start(&[1], |_| {});
    fleet.replicas[1].clock.jump_wall(500);
    assert_eq!(fleet.text(1).await, "t1");
    // 100 s are left, and 60 s more because clocks may differ.
    fleet.pass(165.0).await;
    assert!(request(fleet.slot(1)).await.is_err(), "its own end has passed");
}

#[tokio::test(start_paused = true)]
async fn a_failure_gives_the_lease_back() {
    let fleet = Fleet::of(2);
    fleet.idp.respond(|number| match number {
        1 => Err(failure(FailureKind::Unavailable)),
        number => Ok(grant(number, 3600)),
    });
    let error = request(fleet.slot(0)).await.map(|_| ()).unwrap_err();
    assert_eq!(error.kind, TokenErrorKind::Unavailable);
    let began = Instant::now();
    assert_eq!(fleet.text(1).await, "t2");
    assert!(began.elapsed() < Duration::from_millis(200), "the lease was given back");
}

#[tokio::test(start_paused = true)]
async fn tokens_of_an_issuer_that_is_not_shared_stay_here() {
    let fleet = Fleet::with(2, |config| config.shared = false);
    fleet.requests().await;
    assert_eq!((fleet.idp.asked(), fleet.claims()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_names_a_key_is_not_shared() {
    use base64::Engine as _;
    let fleet = Fleet::of(2);
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(r#"{"cnf":{"x5t#S256":"abc"}}"#);
    fleet.idp.respond(move |number| {
        let token = crate::secret::Secret::from(format!("e30.{claims}.t{number}"));
        Ok(crate::issuer::Grant { token, ..grant(number, 3600) })
    });
    fleet.requests().await;
    assert_eq!((fleet.idp.asked(), fleet.memory.generation()), (2, None));
}

#[tokio::test(start_paused = true)]
async fn a_store_may_come_and_go_with_a_reload() {
    let fleet = Fleet::of(1);
    fleet.requests().await;
    fleet.replicas[0].cache.use_store(None);
    fleet.pass(3_500.0).await;
    assert_eq!(fleet.text(0).await, "t2");
    assert!(fleet.slot(0).status().shared.is_none());
}
