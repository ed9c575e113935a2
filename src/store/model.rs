//! A store in memory for tests, with the faults of a real one.

#![expect(clippy::disallowed_types, reason = "tests")]

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::Store;
use super::engine::{
    Claim, Claimed, Engine, Entry, EntryId, Listed, Operation, Probed, Spent, StoreError, StoreErrorKind,
    StoreTime,
};
use super::record::{Record, Window};
use crate::clock::{SharedClock, micros};
use crate::config::{Budget, Source, StoreConfig, StorePlace};
use crate::metrics::Metrics;

/// What a store does instead of responding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Fault {
    #[default]
    None,
    /// It never responds.
    Dead,
    /// It responds with errors.
    Broken,
    /// Leases are neither extended nor released, as if their holder were stopped.
    HolderStopped,
    /// It does not respond when a token is to be stored.
    PublishHangs,
}

/// All that the store keeps. Replicas share it.
pub(crate) struct Memory {
    records: Mutex<BTreeMap<EntryId, Record>>,
    windows: Mutex<BTreeMap<EntryId, Window>>,
    fault: Mutex<Fault>,
    started: Instant,
    pub(crate) delay_ms: AtomicU64,
    pub(crate) claims: AtomicUsize,
    pub(crate) operations: AtomicUsize,
}

impl Memory {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            records: Mutex::default(),
            windows: Mutex::default(),
            fault: Mutex::default(),
            started: Instant::now(),
            delay_ms: AtomicU64::new(1),
            claims: AtomicUsize::new(0),
            operations: AtomicUsize::new(0),
        })
    }

    pub(crate) fn fail(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    /// Restarted without its data.
    pub(crate) fn wipe(&self) {
        self.records.lock().unwrap().clear();
    }

    /// The generation of the only entry.
    pub(crate) fn generation(&self) -> Option<u64> {
        let records = self.records.lock().unwrap();
        let mut generations = records.values().filter_map(|record| record.read(self.now()));
        let first = generations.next().map(|entry| entry.generation);
        assert!(generations.next().is_none(), "one entry");
        first
    }

    /// Writes rubbish over every entry.
    pub(crate) fn garble(&self) {
        for record in self.records.lock().unwrap().values_mut() {
            if let Some(entry) = record.read(self.now()) {
                let ends = self.now().after(entry.left);
                record.publish(self.now(), entry.generation, b"rubbish", ends);
            }
        }
    }

    /// Makes every entry last longer than its token, as a clock that goes back does.
    pub(crate) fn prolong(&self, by: Duration) {
        for record in self.records.lock().unwrap().values_mut() {
            if let Some(entry) = record.read(self.now()) {
                let ends = self.now().after(entry.left + by);
                record.publish(self.now(), entry.generation, &entry.sealed, ends);
            }
        }
    }

    /// A replica's store: its own connection to this memory.
    pub(crate) fn store(self: &Arc<Self>, clock: SharedClock, keys: &[u8]) -> Arc<Store> {
        let key = |byte: &u8| Source::literal(format!("{byte:02x}").repeat(32).as_str());
        let config = StoreConfig {
            place: StorePlace::Folder("/nowhere".into()),
            keys: keys.iter().map(key).collect(),
            prefix: "bearerd".to_owned(),
            timeout: Duration::from_millis(100),
        };
        let engine = Box::new(Connection(Arc::clone(self)));
        Arc::new(Store::with_engine(Arc::new(config), engine, clock, Metrics::default().store()))
    }

    fn now(&self) -> StoreTime {
        StoreTime(1_700_000_000_000_000 + micros(self.started.elapsed()))
    }
}

struct Connection(Arc<Memory>);

impl Connection {
    fn operation<'a, T: Send + 'a>(
        &'a self,
        act: impl FnOnce(&Memory, StoreTime) -> T + Send + 'a,
    ) -> Operation<'a, T> {
        Box::pin(async move {
            self.0.operations.fetch_add(1, SeqCst);
            tokio::time::sleep(Duration::from_millis(self.0.delay_ms.load(SeqCst))).await;
            let fault = *self.0.fault.lock().unwrap();
            match fault {
                Fault::Dead => pending().await,
                Fault::Broken => Err(StoreError::new(StoreErrorKind::Unable, "broken")),
                Fault::None | Fault::HolderStopped | Fault::PublishHangs => Ok(act(&self.0, self.0.now())),
            }
        })
    }

    fn record<'a, T: Send + 'a>(
        &'a self,
        id: &'a EntryId,
        act: impl FnOnce(&mut Record, StoreTime) -> T + Send + 'a,
    ) -> Operation<'a, T> {
        self.operation(|memory, now| act(memory.records.lock().unwrap().entry(id.clone()).or_default(), now))
    }

    fn window<'a>(
        &'a self,
        id: &'a EntryId,
        act: impl FnOnce(&mut Window, u64) -> Spent + Send + 'a,
    ) -> Operation<'a, Spent> {
        self.operation(|memory, now| {
            act(memory.windows.lock().unwrap().entry(id.clone()).or_default(), now.0)
        })
    }

    fn holder_is_stopped(&self) -> bool {
        *self.0.fault.lock().unwrap() == Fault::HolderStopped
    }
}

impl Engine for Connection {
    fn claim<'a>(&'a self, id: &'a EntryId, claim: Claim) -> Operation<'a, Claimed> {
        self.0.claims.fetch_add(1, SeqCst);
        self.record(id, move |record, now| record.claim(now, claim))
    }

    fn read<'a>(&'a self, id: &'a EntryId) -> Operation<'a, Option<Entry>> {
        self.record(id, |record, now| record.read(now))
    }

    fn extend<'a>(&'a self, id: &'a EntryId, fence: u64, lease: Duration) -> Operation<'a, bool> {
        let stopped = self.holder_is_stopped();
        self.record(id, move |record, now| !stopped && record.extend(now, fence, lease))
    }

    fn publish<'a>(
        &'a self,
        id: &'a EntryId,
        fence: u64,
        sealed: &'a [u8],
        ends: StoreTime,
    ) -> Operation<'a, bool> {
        if *self.0.fault.lock().unwrap() == Fault::PublishHangs {
            return Box::pin(pending());
        }
        self.record(id, move |record, now| record.publish(now, fence, sealed, ends))
    }

    fn release<'a>(&'a self, id: &'a EntryId, fence: u64) -> Operation<'a, ()> {
        let stopped = self.holder_is_stopped();
        self.record(id, move |record, _| {
            if !stopped {
                record.release(fence);
            }
        })
    }

    fn remove<'a>(&'a self, ids: &'a [EntryId]) -> Operation<'a, u64> {
        self.operation(|memory, now| {
            let mut records = memory.records.lock().unwrap();
            let mut remove = |id: &EntryId| records.get_mut(id).is_some_and(|record| record.remove(now));
            ids.iter().map(|id| u64::from(remove(id))).sum()
        })
    }

    fn list(&self) -> Operation<'_, Vec<Listed>> {
        // As from a server with many keys of other programs.
        Box::pin(async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            self.operation(|_, _| Vec::new()).await
        })
    }

    fn spend<'a>(&'a self, id: &'a EntryId, budget: Budget) -> Operation<'a, Spent> {
        self.window(id, move |window, now| window.spend(now, budget))
    }

    fn balance<'a>(&'a self, id: &'a EntryId, budget: Budget) -> Operation<'a, Spent> {
        self.window(id, move |window, now| window.balance(now, budget))
    }

    fn probe(&self) -> Operation<'_, Probed> {
        self.operation(|_, _| Probed {
            latency: Duration::ZERO,
            server: "memory".to_owned(),
            warnings: Vec::new(),
        })
    }

    fn place(&self) -> String {
        "memory".to_owned()
    }
}
