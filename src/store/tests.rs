//! The rules of an entry, against every order in which messages may arrive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use proptest::prelude::*;

use tokio::time::{sleep, timeout};

use super::Store;
use super::engine::{Claim, Claimed, Entry, StoreErrorKind, StoreTime};
use super::model::{Fault, Memory};
use super::record::{Record, Window};
use crate::clock::{SharedClock, ShiftedClock, SystemClock};
use crate::config::Budget;

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for the future, and fails naming `what` where it takes longer than [`PATIENCE`].
pub(super) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what}"))
}

/// Asks again and again until there is a response, and fails naming `what` where none comes within [`PATIENCE`].
pub(super) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asked = async {
        loop {
            if let Some(value) = ask().await {
                return value;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    within(what, asked).await
}

const LEASE: Duration = Duration::from_millis(3_000);
const LIFETIME: u64 = 10_000_000;

/// A message on its way to the store.
#[derive(Debug, Clone)]
enum Message {
    Claim { replica: usize, have: u64, refused: bool },
    Extend { fence: u64 },
    Publish { fence: u64, token: u64, ends: StoreTime },
    Release { fence: u64 },
}

/// What may happen next. Indices are taken modulo what there is.
#[derive(Debug, Clone)]
enum Step {
    /// A replica asks for a token.
    Ask(usize),
    /// An upstream refuses a replica's token.
    Refuse(usize),
    /// The issuer responds to a replica that has a lease.
    Grant(usize),
    Fail(usize),
    Extend(usize),
    /// A message arrives. Any may be the next.
    Deliver(usize),
    Duplicate(usize),
    Lose(usize),
    Pass(u64),
    /// The store restarts without its data.
    Wipe,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..4_usize).prop_map(Step::Ask),
        1 => (0..4_usize).prop_map(Step::Refuse),
        5 => (0..4_usize).prop_map(Step::Grant),
        1 => (0..4_usize).prop_map(Step::Fail),
        1 => (0..4_usize).prop_map(Step::Extend),
        12 => (0..8_usize).prop_map(Step::Deliver),
        1 => (0..8_usize).prop_map(Step::Duplicate),
        1 => (0..8_usize).prop_map(Step::Lose),
        3 => (1_000..4_000_000_u64).prop_map(Step::Pass),
        1 => Just(Step::Wipe),
    ];
    prop::collection::vec(step, 1..120)
}

#[derive(Debug, Clone, Default)]
struct Replica {
    /// Generation and token.
    held: Option<(u64, u64)>,
    refused: bool,
    /// Fence, the store's time, and when the response arrived.
    lease: Option<(u64, StoreTime, u64)>,
}

#[derive(Default)]
struct World {
    record: Record,
    now: u64,
    replicas: [Replica; 4],
    messages: Vec<Message>,
    /// By the token's number: when it really expires.
    expires: BTreeMap<u64, u64>,
    /// By generation: the only token that was ever seen with it.
    seen: BTreeMap<u64, u64>,
    newest_fence: u64,
    wiped: bool,
}

impl World {
    fn step(&mut self, step: &Step) {
        match *step {
            Step::Ask(replica) => self.ask(replica),
            Step::Refuse(replica) => {
                self.replicas[replica].refused = self.replicas[replica].held.is_some();
                self.ask(replica);
            }
            Step::Grant(replica) => {
                let Some((fence, at, received)) = self.replicas[replica].lease.take() else { return };
                let token = u64::try_from(self.expires.len()).unwrap() + 1;
                let expires = self.now + LIFETIME;
                self.expires.insert(token, expires);
                self.replicas[replica].held = Some((fence, token));
                self.replicas[replica].refused = false;
                let ends = at.after(Duration::from_micros(expires - received));
                self.messages.push(Message::Publish { fence, token, ends });
            }
            Step::Fail(replica) => {
                if let Some((fence, ..)) = self.replicas[replica].lease.take() {
                    self.messages.push(Message::Release { fence });
                }
            }
            Step::Extend(replica) => {
                if let Some((fence, ..)) = self.replicas[replica].lease {
                    self.messages.push(Message::Extend { fence });
                }
            }
            Step::Deliver(index) => {
                if !self.messages.is_empty() {
                    let message = self.messages.swap_remove(index % self.messages.len());
                    self.deliver(message);
                }
            }
            Step::Duplicate(index) => {
                if !self.messages.is_empty() {
                    self.messages.push(self.messages[index % self.messages.len()].clone());
                }
            }
            Step::Lose(index) => {
                if !self.messages.is_empty() {
                    self.messages.swap_remove(index % self.messages.len());
                }
            }
            Step::Pass(micros) => self.now += micros,
            Step::Wipe => {
                self.record = Record::default();
                // Nothing starts faster.
                self.now += 1_000;
                self.wiped = true;
            }
        }
    }

    fn ask(&mut self, replica: usize) {
        let Replica { held, refused, .. } = self.replicas[replica];
        let have = held.map_or(0, |(generation, _)| generation);
        self.messages.push(Message::Claim { replica, have, refused });
    }

    fn deliver(&mut self, message: Message) {
        let now = StoreTime(self.now);
        match message {
            Message::Claim { replica, have, refused } => {
                match self.record.claim(now, Claim { have, refused, lease: LEASE }) {
                    Claimed::Entry(entry) => self.receive(replica, have, &entry),
                    Claimed::Lease { fence, now } => {
                        assert!(fence > self.newest_fence, "a fencing number only grows, even after a wipe");
                        self.newest_fence = fence;
                        self.replicas[replica].lease = Some((fence, now, self.now));
                    }
                    Claimed::Held { left } => assert!(left <= LEASE),
                }
            }
            Message::Extend { fence } => {
                self.record.extend(now, fence, LEASE);
            }
            Message::Publish { fence, token, ends } => {
                let before = self.record.read(now).map(|entry| entry.generation);
                let stored = self.record.publish(now, fence, &token.to_be_bytes(), ends);
                let after = self.record.read(now).map(|entry| entry.generation);
                assert!(after >= before, "an older token replaced a newer one");
                assert!(!stored || after == Some(fence));
                assert!(!stored || self.wiped || fence == self.newest_fence, "of an older lease");
            }
            Message::Release { fence } => self.record.release(fence),
        }
    }

    fn receive(&mut self, replica: usize, have: u64, entry: &Entry) {
        let token = u64::from_be_bytes(entry.sealed.as_slice().try_into().unwrap());
        assert!(entry.generation > have, "it must be newer than the token at hand");
        assert_eq!(
            *self.seen.entry(entry.generation).or_insert(token),
            token,
            "two tokens of one generation"
        );
        let left = u64::try_from(entry.left.as_micros()).unwrap();
        assert!(self.now + left <= self.expires[&token], "it would be sent after it expired");
        assert!(left > 0);
        self.replicas[replica].held = Some((entry.generation, token));
        self.replicas[replica].refused = false;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_order_of_messages_makes_an_old_or_an_expired_token(steps in steps()) {
        let mut world = World { now: 1_700_000_000_000_000, ..World::default() };
        for step in &steps {
            world.step(step);
        }
    }

    #[test]
    fn a_lease_is_given_to_one_at_a_time(gaps in prop::collection::vec(0..2_000_000_u64, 1..40)) {
        let (mut record, mut now, mut ends) = (Record::default(), 1_700_000_000_000_000, 0);
        for gap in gaps {
            now += gap;
            match record.claim(StoreTime(now), Claim { have: 0, refused: false, lease: LEASE }) {
                Claimed::Lease { .. } => {
                    prop_assert!(now >= ends, "somebody had it");
                    ends = now + 3_000_000;
                }
                Claimed::Held { left } => prop_assert_eq!(StoreTime(now).after(left), StoreTime(ends)),
                Claimed::Entry(_) => prop_assert!(false, "nothing was published"),
            }
        }
    }

    #[test]
    fn a_window_never_lets_more_through_than_it_should(
        requests in 1..6_u32,
        gaps in prop::collection::vec(0..700_000_u64, 1..80),
    ) {
        let budget = Budget { requests, per: Duration::from_secs(1) };
        let (mut window, mut now, mut sent) = (Window::default(), 5_000_000, Vec::new());
        for gap in gaps {
            now += gap;
            let in_span = |at: u64| sent.iter().filter(|sent: &&u64| at - **sent < 1_000_000).count();
            let before = u32::try_from(in_span(now)).unwrap();
            let spent = window.spend(now, budget);
            prop_assert_eq!(spent.allowed, before < requests);
            if spent.allowed {
                prop_assert_eq!(spent.remaining, requests - before - 1);
                sent.push(now);
            }
            prop_assert_eq!(spent.next.is_zero(), spent.remaining > 0);
            // One more is possible at that moment, and not a microsecond before.
            let next = now + u64::try_from(spent.next.as_micros()).unwrap();
            prop_assert!(window.clone().balance(next, budget).allowed);
            prop_assert!(spent.next.is_zero() || !window.clone().balance(next - 1, budget).allowed);
        }
    }
}

#[test]
fn a_record_survives_its_file() {
    let mut record = Record::default();
    let now = StoreTime(1_700_000_000_000_000);
    let Claimed::Lease { fence, .. } = record.claim(now, Claim { have: 0, refused: false, lease: LEASE })
    else {
        panic!("nobody has it");
    };
    assert!(record.publish(now, fence, b"\x00\xffsealed", now.after(LEASE)));
    let text = serde_json::to_string(&record).unwrap();
    assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
}

/// A server that others use too goes through millions of keys.
#[tokio::test(start_paused = true)]
async fn a_list_may_take_longer_than_what_a_token_waits_for() {
    let memory = Memory::new();
    let store = memory.store(Arc::new(SystemClock), &[1]);
    store.list().await.unwrap();
    // But not the first response.
    memory.delay_ms.store(5_000, SeqCst);
    let asked = tokio::time::Instant::now();
    assert_eq!(store.list().await.unwrap_err().kind, StoreErrorKind::Timeout);
    assert_eq!(asked.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_nobody_uses_is_looked_at() {
    let (memory, clock) = (Memory::new(), Arc::new(ShiftedClock::default()));
    let store = memory.store(Arc::clone(&clock) as SharedClock, &[1]);
    tokio::spawn(Store::keep_trying(Arc::downgrade(&store)));
    store.probe().await.unwrap();
    memory.fail(Fault::Broken);
    sleep(Duration::from_secs(20)).await;
    assert!(store.failure().is_none(), "it was used just now");
    clock.advance(Duration::from_secs(60));
    sleep(Duration::from_secs(20)).await;
    assert!(store.failure().is_some());
    memory.fail(Fault::None);
    clock.advance(Duration::from_secs(60));
    sleep(Duration::from_secs(20)).await;
    assert!(store.failure().is_none());
}
