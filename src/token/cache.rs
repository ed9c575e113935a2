//! Maps what identifies a token to its slot, with moka.
//!
//! moka decides nothing about a token's freshness: it evicts by least recent use and bounds the memory. Its clock
//! stands still during a suspend, and tests cannot move it.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use moka::policy::EvictionPolicy;
use tokio::runtime::Handle;

use super::budget::{Budgets, IssuerBudget};
use super::probe::{Connect, Probes};
use super::shared::{Sharing, Want};
use super::slot::TokenSlot;
use super::slot_task::SlotTask;
use crate::clock::SharedClock;
use crate::config::{CredentialKey, IssuerConfig, StoreConfig};
use crate::issuer::{self, Grant, Issuer, IssuerError};
use crate::metrics::{IssuerMetrics, Metrics};
use crate::store::{Store, StoreCell};
use crate::trace::{Tracer, TracerCell};

/// Far above any sensible config. Bounds the memory that a wrong one can use.
const CAPACITY: u64 = 10_000;

/// moka releases evicted entries late (it reclaims by epochs), so a slot that must go at once is in a cell that can be
/// emptied.
type Cell = Arc<ArcSwapOption<TokenSlot>>;

/// Identifies an issuer's table: the same table is the same issuer, across reloads.
type IssuerId = (Arc<str>, [u8; 32]);

type MakeSource = Box<dyn Fn(&Arc<IssuerConfig>) -> Arc<dyn TokenSource> + Send + Sync>;

#[expect(clippy::disallowed_types, reason = "taken when a config is loaded; no request comes here")]
type IssuerMap = std::sync::Mutex<HashMap<IssuerId, Weak<dyn TokenSource>>>;

/// All slots of the process. It outlives every config, so that a reload keeps the tokens whose key did not change.
pub struct TokenCache {
    pub(super) slots: moka::sync::Cache<CredentialKey, Cell>,
    /// Slots of one issuer share its connections and its metadata.
    issuers: IssuerMap,
    probes: Arc<Probes>,
    make_source: MakeSource,
    /// Where tokens are shared, if anywhere.
    store: Arc<StoreCell>,
    budgets: Arc<Budgets>,
    metrics: Arc<Metrics>,
    control: Handle,
    clock: SharedClock,
}

impl TokenCache {
    /// Fetches run on `control`'s thread, never on a worker's.
    pub fn new(control: Handle, clock: SharedClock, metrics: Arc<Metrics>, tracers: Arc<TracerCell>) -> Self {
        let issuer_clock = Arc::clone(&clock);
        let issuer_metrics = Arc::clone(&metrics);
        let store = Arc::new(StoreCell::empty());
        let budgets = Arc::new(Budgets::new(Arc::clone(&store), Arc::clone(&clock)));
        let issuer_budgets = Arc::clone(&budgets);
        let make_source = move |config: &Arc<IssuerConfig>| -> Arc<dyn TokenSource> {
            Arc::new(MeteredIssuer {
                issuer: Issuer::new(Arc::clone(config), Arc::clone(&issuer_clock)),
                budgets: Arc::clone(&issuer_budgets),
                metrics: issuer_metrics.issuer(&config.name),
                tracers: Arc::clone(&tracers),
            })
        };
        let connect: Connect = Box::new(|hop| Box::pin(async move { hop.answers().await }));
        Self { store, budgets, ..Self::with_sources(control, clock, metrics, Box::new(make_source), connect) }
    }

    pub(super) fn with_sources(
        control: Handle,
        clock: SharedClock,
        metrics: Arc<Metrics>,
        make_source: MakeSource,
        connect: Connect,
    ) -> Self {
        let slots = moka::sync::Cache::builder()
            .max_capacity(CAPACITY)
            // The default policy would refuse a new key while all the old ones are in use.
            .eviction_policy(EvictionPolicy::lru())
            .eviction_listener(|_key, cell: Cell, _cause| cell.store(None))
            .build();
        let probes = Arc::new(Probes::new(control.clone(), connect));
        let store = Arc::new(StoreCell::empty());
        let budgets = Arc::new(Budgets::new(Arc::clone(&store), Arc::clone(&clock)));
        let issuers = IssuerMap::default();
        Self { slots, issuers, probes, make_source, store, budgets, metrics, control, clock }
    }

    /// Shares tokens by this store from now on. The same table is the same store, which keeps its connection.
    pub fn use_store(&self, config: Option<&Arc<StoreConfig>>) {
        let now = self.store.load_full();
        if now.as_ref().map(|store| store.config()) == config.map(|config| &**config) {
            return;
        }
        self.store.store(config.map(|config| {
            let (clock, metrics) = (Arc::clone(&self.clock), self.metrics.store());
            let store = Arc::new(Store::new(Arc::clone(config), &self.control, clock, metrics));
            self.control.spawn(Store::keep_trying(Arc::downgrade(&store)));
            store
        }));
        self.budgets.forget_store();
    }

    /// Counts token requests by these issuers' budgets from now on.
    pub fn use_budgets<'a>(&self, issuers: impl Iterator<Item = &'a Arc<IssuerConfig>>) {
        self.budgets.apply(issuers);
        let budgets = Arc::clone(&self.budgets);
        self.control.spawn(async move { budgets.look().await });
    }

    /// What issuers may still be asked.
    pub fn budgets(&self) -> Arc<Budgets> {
        Arc::clone(&self.budgets)
    }

    /// Where the store in use is found.
    pub fn store_cell(&self) -> Arc<StoreCell> {
        Arc::clone(&self.store)
    }

    /// The slot of this key: the existing one or a new one. `waiters` is `[limits] waiters`. A configured route holds
    /// its slot. A slot that nobody holds and nobody uses ends by itself.
    ///
    /// A new slot requests no token until it is used or [`TokenSlot::prefetch`] is called.
    pub fn slot(&self, key: &CredentialKey, issuer: &Arc<IssuerConfig>, waiters: usize) -> Arc<TokenSlot> {
        // First, because a new slot holds them.
        let inner = [issuer::chained(issuer, key), issuer::chained_by_standby(issuer, key)].map(|uses| {
            let slots = uses.into_iter().map(|(_, chained)| {
                let (issuer, key) = chained.token();
                self.slot(key, issuer, waiters)
            });
            slots.collect::<Vec<_>>()
        });
        let new = || self.new_slot(key, issuer, waiters, inner.clone());
        let cell = self.slots.get_with_by_ref(key, || Arc::new(ArcSwapOption::from(Some(new()))));
        // Empty only if it was evicted just now: there are more keys than room.
        let slot = cell.load_full().unwrap_or_else(new);
        slot.set_waiters(waiters);
        slot
    }

    /// Removes every slot that is not in `keep`. Their tokens are wiped when no request holds them any more.
    pub fn retain(&self, keep: &[Arc<TokenSlot>]) {
        let keep: HashSet<*const TokenSlot> = keep.iter().map(Arc::as_ptr).collect();
        for (key, cell) in &self.slots {
            let kept = cell.load().as_ref().is_some_and(|slot| keep.contains(&Arc::as_ptr(slot)));
            if !kept {
                if let Some(slot) = cell.swap(None) {
                    slot.retire();
                }
                self.slots.invalidate(&*key);
            }
        }
        self.slots.run_pending_tasks();
        self.locked_issuers().retain(|_, issuer| issuer.strong_count() > 0);
    }

    fn new_slot(
        &self,
        key: &CredentialKey,
        issuer: &Arc<IssuerConfig>,
        waiters: usize,
        [inner, inner_of_standby]: [Vec<Arc<TokenSlot>>; 2],
    ) -> Arc<TokenSlot> {
        let source = self.source(issuer);
        let clock = Arc::clone(&self.clock);
        let mut slot = TokenSlot::new(key.clone(), Arc::clone(issuer), source, clock, waiters);
        (slot.inner, slot.inner_of_standby) = (inner, inner_of_standby);
        let slot = Arc::new(slot);
        slot.inner_of_either().for_each(|inner| inner.used_by(&slot));
        let (store, control) = (Arc::clone(&self.store), self.control.clone());
        let sharing = Sharing { store, control, clock: Arc::clone(&self.clock) };
        self.control.spawn(SlotTask::new(&slot, Arc::clone(&self.probes), sharing).run());
        slot
    }

    fn source(&self, issuer: &Arc<IssuerConfig>) -> Arc<dyn TokenSource> {
        let id = (Arc::clone(&issuer.name), issuer.digest);
        let mut issuers = self.locked_issuers();
        if let Some(there) = issuers.get(&id).and_then(Weak::upgrade) {
            return there;
        }
        let source = (self.make_source)(issuer);
        issuers.insert(id, Arc::downgrade(&source));
        source
    }

    fn locked_issuers(&self) -> std::sync::MutexGuard<'_, HashMap<IssuerId, Weak<dyn TokenSource>>> {
        // A panic under the lock leaves a complete map.
        self.issuers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

pub(super) type Fetching<'a> = Pin<Box<dyn Future<Output = Result<Grant, IssuerError>> + Send + 'a>>;

pub(super) type Preparing<'a> = Pin<Box<dyn Future<Output = bool> + Send + 'a>>;

pub(super) trait TokenSource: Send + Sync + 'static {
    /// Makes one token request, within the issuer's timeout. Dropping the future cancels it.
    fn fetch<'a>(&'a self, key: &'a CredentialKey, want: Want) -> Fetching<'a>;
    /// See [`Issuer::prepare`].
    fn prepare<'a>(&'a self, _key: &'a CredentialKey, _want: &'a Want) -> Preparing<'a> {
        Box::pin(std::future::ready(false))
    }
    /// See [`Issuer::token_identity`]. Reads files.
    fn token_identity(&self, key: &CredentialKey) -> [u8; 32];
    /// See [`Issuer::credential_fingerprint`]. Reads files.
    fn credential_fingerprint(&self) -> [u8; 32];
    /// See [`Issuer::binding_fingerprint`]. Reads files.
    fn binding_fingerprint(&self, key: &CredentialKey) -> [u8; 32];
    /// See [`Issuer::standby_in_use`].
    fn standby_in_use(&self) -> bool;
    /// The issuer's budget, if it has one, allows a token request now.
    fn may_be_asked(&self) -> bool {
        true
    }
    /// Whether to log that the issuer's budget is spent.
    fn budget_warning_due(&self) -> Option<u64> {
        None
    }
    /// Counts a token request. `outcome` is a metric label. `took`: `None` if it did not end.
    fn requested(&self, outcome: &'static str, took: Option<Duration>);
    /// Counts a request that starts to wait.
    fn waiting(&self);
    /// Counts a request that stops waiting.
    fn waited(&self);
    /// The tracer that records token requests now, if there is one.
    fn tracer(&self) -> Option<Arc<Tracer>> {
        None
    }
}

/// A real issuer with its metrics.
struct MeteredIssuer {
    pub(super) issuer: Issuer,
    budgets: Arc<Budgets>,
    pub(super) metrics: Arc<IssuerMetrics>,
    tracers: Arc<TracerCell>,
}

impl TokenSource for MeteredIssuer {
    fn fetch<'a>(&'a self, key: &'a CredentialKey, want: Want) -> Fetching<'a> {
        Box::pin(async move {
            let budget = IssuerBudget { budgets: &self.budgets, issuer: &self.issuer.config().name };
            self.issuer.fetch_through(&budget, key, &*want.inner, want.prepared).await
        })
    }

    fn prepare<'a>(&'a self, key: &'a CredentialKey, want: &'a Want) -> Preparing<'a> {
        Box::pin(self.issuer.prepare(key, &*want.inner))
    }

    fn token_identity(&self, key: &CredentialKey) -> [u8; 32] {
        self.issuer.token_identity(key)
    }

    fn credential_fingerprint(&self) -> [u8; 32] {
        self.issuer.credential_fingerprint()
    }

    fn binding_fingerprint(&self, key: &CredentialKey) -> [u8; 32] {
        self.issuer.binding_fingerprint(key)
    }

    fn standby_in_use(&self) -> bool {
        self.issuer.standby_in_use()
    }

    fn may_be_asked(&self) -> bool {
        self.budgets.balance(&self.issuer.config().name).is_none_or(|balance| balance.remaining > 0)
    }

    fn budget_warning_due(&self) -> Option<u64> {
        self.budgets.warning_due(&self.issuer.config().name)
    }

    fn requested(&self, outcome: &'static str, took: Option<Duration>) {
        self.metrics.token_request(outcome, took);
    }

    fn waiting(&self) {
        self.metrics.waiting();
    }

    fn waited(&self) {
        self.metrics.waited();
    }
    fn tracer(&self) -> Option<Arc<Tracer>> {
        self.tracers.load_full()
    }
}
