//! Tokens that replicas share, or that one host keeps for its next start (`[store]`).
//!
//! bearerd does not depend on the store. Each operation has a short timeout. After a failure, bearerd continues without the store
//! and does not try it for [`SKIPPED_FOR`]. Only tasks of the control thread use it, never a request.
//!
//! An [`engine`] stores encrypted bytes: [`folder`] keeps them in files, and [`redis`] in Redis or Valkey. [`record`] has the
//! rules that both follow. [`sealed`] encrypts.

mod engine;
mod folder;
#[cfg(test)]
pub(crate) mod model;
mod record;
mod redis;
mod sealed;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::runtime::Handle;

pub use self::engine::{
    Claim, EntryId, LIST_LIMIT, Listed, Probed, Spent, StoreError, StoreErrorKind, StoreTime,
};
pub use self::record::Window;
pub use self::sealed::StoredToken;

use self::engine::{Claimed as RawClaimed, Engine};
use self::sealed::Purpose;
use crate::clock::{SharedClock, millis};
use crate::config::{Budget, StoreConfig, StoreKey, StorePlace};
use crate::metrics::StoreMetrics;
use crate::telemetry::Repeated;

/// After a failure.
const SKIPPED_FOR: Duration = Duration::from_secs(5);
/// How long an operation may take if nobody waits for it, such as the first one at the start.
const PATIENCE: Duration = Duration::from_secs(2);
/// bearerd checks a store that has not been used for this long.
const IDLE: Duration = Duration::from_secs(60);
/// How long an operator waits for a list. A server scans all of its keys, including those of other programs.
const PATIENCE_FOR_A_LIST: Duration = Duration::from_secs(60);

/// The store of a config.
pub struct Store {
    config: Arc<StoreConfig>,
    engine: Box<dyn Engine>,
    clock: SharedClock,
    metrics: Arc<StoreMetrics>,
    host: String,
    breaker: Breaker,
    /// When the last operation began, by the boot clock, in milliseconds.
    used_at: AtomicU64,
    /// Limits the warnings about entries that cannot be decrypted.
    unreadable: Repeated,
}

/// The store in use. A reload may replace it.
pub type StoreCell = ArcSwapOption<Store>;

/// Whether somebody waits for the outcome, so that an operation may take no longer than `timeout`.
pub type Hurried<'a> = &'a (dyn Fn() -> bool + Send + Sync);

/// For operations that nobody waits for.
pub const NOBODY_WAITS: Hurried<'static> = &|| false;

/// The names of one token's entry: under the first key, and under the others, which may have been the first key before.
pub struct Names {
    keys: Vec<StoreKey>,
    ids: Vec<EntryId>,
}

impl Names {
    fn current(&self) -> (&StoreKey, &EntryId) {
        let both = self.keys.first().zip(self.ids.first());
        both.expect("names are made only with at least one key")
    }

    fn former(&self) -> impl Iterator<Item = (&StoreKey, &EntryId)> {
        self.keys.iter().zip(&self.ids).skip(1)
    }

    /// Under every key, the current one first.
    pub fn ids(&self) -> &[EntryId] {
        &self.ids
    }
}

/// A token of the store.
pub struct Found {
    pub generation: u64,
    pub stored: StoredToken,
    /// How long until it expires, from the time of the request to the store.
    pub left: Duration,
}

/// The right to fetch a token for all replicas.
pub struct Lease {
    pub fence: u64,
    /// The store's time when the lease was given.
    now: StoreTime,
    /// When the store's response arrived, by the boot clock.
    received: Duration,
}

/// An entry as it is in the store, for operators.
pub struct Entry {
    /// The index of its key in `keys`. 0: the one that encrypts.
    pub key: usize,
    pub id: EntryId,
    /// `None`: it cannot be decrypted.
    pub found: Option<Found>,
}

/// A store that is unavailable.
#[derive(Debug, Clone)]
pub struct Failing {
    pub gone: StoreError,
    /// When the first of the current failures in a row happened.
    pub since: SystemTime,
    /// When the last one happened.
    pub at: SystemTime,
}

/// The number of operations with each outcome since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// The token was in the store.
    pub hits: u64,
    /// This bearerd got the right to fetch a token for all replicas.
    pub leases: u64,
    /// Another one was fetching the token.
    pub held: u64,
    pub failures: u64,
    /// Not tried, because the store failed just before.
    pub skipped: u64,
}

/// The store's response to a [`Claim`].
pub enum Claimed {
    Token(Found),
    Lease(Lease),
    Held { left: Duration },
}

impl Store {
    /// Connects in the background, on `control`.
    pub fn new(
        config: Arc<StoreConfig>,
        control: &Handle,
        clock: SharedClock,
        metrics: Arc<StoreMetrics>,
    ) -> Self {
        let engine: Box<dyn Engine> = match &config.place {
            StorePlace::Folder(folder) => {
                Box::new(folder::Folder::new(folder.clone(), &config.prefix, Arc::clone(&clock)))
            }
            StorePlace::Redis(redis) => Box::new(redis::Redis::new(redis.clone(), &config.prefix, control)),
        };
        Self::with_engine(config, engine, clock, metrics)
    }

    fn with_engine(
        config: Arc<StoreConfig>,
        engine: Box<dyn Engine>,
        clock: SharedClock,
        metrics: Arc<StoreMetrics>,
    ) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self {
            config,
            engine,
            clock,
            metrics,
            host,
            breaker: Breaker::default(),
            used_at: AtomicU64::new(0),
            unreadable: Repeated::default(),
        }
    }

    pub fn config(&self) -> &StoreConfig {
        &self.config
    }

    /// The name of this host, for [`StoredToken::by`].
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Where the store is, in words.
    pub fn place(&self) -> String {
        self.engine.place()
    }

    /// Why it is unavailable. `None`: it works, or was not tried.
    pub fn failure(&self) -> Option<Arc<Failing>> {
        self.breaker.failure.load_full()
    }

    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for ((operation, outcome), count) in self.metrics.operations() {
            let counted = match (operation, outcome) {
                ("claim", "hit") => &mut tally.hits,
                ("claim", "lease") => &mut tally.leases,
                ("claim", "held") => &mut tally.held,
                (_, outcome) if outcome == StoreErrorKind::Skipped.as_str() => &mut tally.skipped,
                (_, outcome) if StoreErrorKind::ALL.iter().any(|kind| kind.as_str() == outcome) => {
                    &mut tally.failures
                }
                _ => continue,
            };
            *counted += count;
        }
        tally
    }

    /// The names of the token with this identity (`Issuer::token_identity`). Reads the keys' files.
    ///
    /// # Errors
    /// A key cannot be read, and never could.
    pub fn token_names(&self, identity: &[u8; 32]) -> Result<Names, StoreError> {
        self.names(Purpose::Token, &[identity])
    }

    fn names(&self, purpose: Purpose, parts: &[&[u8]]) -> Result<Names, StoreError> {
        let read = |source: &crate::config::Source| -> Result<StoreKey, String> {
            let (secret, _) = source.to_send().map_err(|error| error.to_string())?;
            StoreKey::parse(&secret).map_err(|reason| format!("{}: {reason}", source.place()))
        };
        let keys: Result<Vec<StoreKey>, String> = self.config.keys.iter().map(read).collect();
        let keys = keys.map_err(|reason| {
            let gone =
                StoreError::new(StoreErrorKind::Keys, format!("the store's key cannot be used: {reason}"));
            self.breaker.fail(&gone, &self.clock);
            gone
        })?;
        let ids = keys.iter().map(|key| sealed::name(key, purpose, parts.iter().copied())).collect();
        Ok(Names { keys, ids })
    }

    /// See [`Claim`]. Removes and ignores an entry that cannot be decrypted.
    ///
    /// # Errors
    /// The store is unavailable.
    pub async fn claim(
        &self,
        names: &Names,
        claim: Claim,
        hurried: Hurried<'_>,
    ) -> Result<Claimed, StoreError> {
        let (key, id) = names.current();
        let mut ask = claim;
        for _ in 0..2 {
            let claimed =
                self.operation("claim", hurried, RawClaimed::outcome, self.engine.claim(id, ask)).await?;
            let received = self.clock.boot();
            let entry = match claimed {
                RawClaimed::Held { left } => return Ok(Claimed::Held { left }),
                RawClaimed::Lease { fence, now } => {
                    let lease = Lease { fence, now, received };
                    return Ok(match self.under_a_former_key(names, claim, hurried).await {
                        Some(found) => {
                            let ends = self.clock.boot() + found.left;
                            self.keep(names, &lease, &found.stored, ends, hurried).await;
                            Claimed::Token(Found { generation: lease.fence, ..found })
                        }
                        None => Claimed::Lease(lease),
                    });
                }
                RawClaimed::Entry(entry) => entry,
            };
            // Removes only this entry: neither a newer one, nor the lease of a replica that is fetching.
            ask = Claim { have: entry.generation, refused: true, ..claim };
            if let Some(found) = self.open(key, id, entry) {
                return Ok(Claimed::Token(found));
            }
            if self.unreadable.due(received).is_some() {
                tracing::warn!(
                    event = "store.entry_unreadable",
                    store = self.place(),
                    "an entry of the store cannot be decrypted and is removed: another program writes there, or a bearerd of \
                 another version uses the same keys"
                );
            }
        }
        Err(StoreError::new(
            StoreErrorKind::Invalid,
            format!(
                "{}: its entries cannot be decrypted: find out which other program writes there",
                self.place()
            ),
        ))
    }

    /// The token under a key that was the first before `keys` were rotated. Removes one that an upstream refused.
    async fn under_a_former_key(&self, names: &Names, claim: Claim, hurried: Hurried<'_>) -> Option<Found> {
        if claim.have > 0 && !claim.refused {
            return None;
        }
        for (key, id) in names.former() {
            let read = self.operation("read", hurried, ok, self.engine.read(id)).await.ok()?;
            let Some(entry) = read else { continue };
            if claim.refused && entry.generation <= claim.have {
                // It became the refused one when it was stored under the first key.
                let remove = self.engine.remove(std::slice::from_ref(id));
                self.operation("remove", hurried, ok, remove).await.ok()?;
            } else if let Some(found) = self.open(key, id, entry) {
                return Some(found);
            }
        }
        None
    }

    /// The token of an entry, if it can be decrypted and has not certainly expired.
    fn open(&self, key: &StoreKey, id: &EntryId, entry: engine::Entry) -> Option<Found> {
        let now = self.clock.wall();
        let stored = sealed::open(key, id, entry.generation, &entry.sealed, now)?;
        // The store's clock may have gone back, or somebody may have made the entry last longer.
        let left = entry.left.min(stored.lasts_at_most(now));
        Some(Found { generation: entry.generation, stored, left })
    }

    /// A token's entries under all keys, the current one first.
    ///
    /// # Errors
    /// The store is unavailable.
    pub async fn look(&self, names: &Names) -> Result<Vec<Entry>, StoreError> {
        let mut entries = Vec::new();
        for (place, (key, id)) in names.keys.iter().zip(&names.ids).enumerate() {
            let read = self.operation("read", NOBODY_WAITS, ok, self.engine.read(id)).await?;
            let Some(entry) = read else { continue };
            entries.push(Entry { key: place, id: id.clone(), found: self.open(key, id, entry) });
        }
        Ok(entries)
    }

    /// Stores a token that expires at `ends` by the boot clock. It does not replace a newer one.
    pub async fn publish(&self, names: &Names, lease: &Lease, stored: &StoredToken, ends: Duration) {
        self.keep(names, lease, stored, ends, NOBODY_WAITS).await;
    }

    async fn keep(
        &self,
        names: &Names,
        lease: &Lease,
        stored: &StoredToken,
        ends: Duration,
        hurried: Hurried<'_>,
    ) {
        let (key, id) = names.current();
        let sealed = sealed::seal(key, id, lease.fence, stored);
        // By the store's clock, and never later than `ends`, because the store gave the lease before bearerd received it.
        let ends = lease.now.after(ends.saturating_sub(lease.received));
        let publish = self.engine.publish(id, lease.fence, &sealed, ends);
        let outcome = |stored: &bool| if *stored { "ok" } else { "superseded" };
        if let Ok(false) = self.operation("publish", hurried, outcome, publish).await {
            tracing::debug!(
                event = "store.superseded",
                store = self.place(),
                "another replica has a newer token, which stays"
            );
        }
    }

    /// Extends the lease to `length` from now.
    pub async fn extend(&self, names: &Names, lease: &Lease, length: Duration) {
        let extend = self.engine.extend(names.current().1, lease.fence, length);
        let _ = self.operation("extend", NOBODY_WAITS, ok, extend).await;
    }

    /// Returns the lease, so that another replica may fetch.
    pub async fn release(&self, names: &Names, lease: &Lease) {
        let release = self.engine.release(names.current().1, lease.fence);
        let _ = self.operation("release", NOBODY_WAITS, ok, release).await;
    }

    /// Takes one token request from the budget that `parts` identify, if it is not spent.
    ///
    /// # Errors
    /// The store is unavailable.
    pub async fn spend(
        &self,
        parts: &[&[u8]],
        budget: Budget,
        hurried: Hurried<'_>,
    ) -> Result<Spent, StoreError> {
        let names = self.names(Purpose::Budget, parts)?;
        let outcome = |spent: &Spent| if spent.allowed { "ok" } else { "spent" };
        self.operation("spend", hurried, outcome, self.engine.spend(names.current().1, budget)).await
    }

    /// The state of a budget.
    ///
    /// # Errors
    /// The store is unavailable.
    pub async fn balance(&self, parts: &[&[u8]], budget: Budget) -> Result<Spent, StoreError> {
        let names = self.names(Purpose::Budget, parts)?;
        self.operation("balance", NOBODY_WAITS, ok, self.engine.balance(names.current().1, budget)).await
    }

    /// Everything that the store holds, without values.
    ///
    /// # Errors
    /// The store is unavailable.
    pub async fn list(&self) -> Result<Vec<Listed>, StoreError> {
        // A list may take long, but not the first response.
        self.responds().await?;
        let list = self.engine.list();
        self.operation_within(PATIENCE_FOR_A_LIST, "list", NOBODY_WAITS, ok, list).await
    }

    /// Removes a token's entries, under every key. Returns how many there were.
    ///
    /// # Errors
    /// The store is unavailable.
    pub async fn forget(&self, names: &Names) -> Result<u64, StoreError> {
        self.operation("remove", NOBODY_WAITS, ok, self.engine.remove(&names.ids)).await
    }

    /// Writes, reads, and removes an entry of its own, and says what it learned.
    ///
    /// # Errors
    /// Why the store is unavailable.
    pub async fn probe(&self) -> Result<Probed, StoreError> {
        // Without keys, bearerd cannot use even a store that responds.
        self.token_names(&[0; 32])?;
        self.operation("probe", NOBODY_WAITS, ok, self.engine.probe()).await
    }

    /// Tries a failed store until it works, and checks one that has not been used for a while, so that its shown state is
    /// correct even if nobody needs a token for hours. Ends with the store.
    pub async fn keep_trying(store: Weak<Self>) {
        loop {
            // Replicas do not try all at once.
            tokio::time::sleep(SKIPPED_FOR.mul_f64(1.0 + fastrand::f64() / 4.0)).await;
            let Some(store) = store.upgrade() else { return };
            if store.failure().is_some() {
                let _ = store.probe().await;
            } else if store.is_idle() {
                let _ = store.responds().await;
            }
        }
    }

    /// Whether the store responds.
    async fn responds(&self) -> Result<(), StoreError> {
        let nothing = EntryId("nothing".into());
        self.operation("read", NOBODY_WAITS, ok, self.engine.read(&nothing)).await.map(drop)
    }

    fn is_idle(&self) -> bool {
        millis(self.clock.boot()).saturating_sub(self.used_at.load(Ordering::Relaxed)) >= millis(IDLE)
    }

    async fn operation<T>(
        &self,
        name: &'static str,
        hurried: Hurried<'_>,
        label: impl FnOnce(&T) -> &'static str,
        operation: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.operation_within(PATIENCE, name, hurried, label, operation).await
    }

    /// Does `operation` within `timeout`, or within `patience` as long as nobody waits. Fails at once if the store failed
    /// within the last 5 s. `label` names a success, for metrics.
    async fn operation_within<T>(
        &self,
        patience: Duration,
        name: &'static str,
        hurried: Hurried<'_>,
        label: impl FnOnce(&T) -> &'static str,
        operation: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let started = self.clock.boot();
        self.used_at.store(millis(started), Ordering::Relaxed);
        if let Some(gone) = self.breaker.is_open(started) {
            self.metrics.operation(name, gone.kind.as_str(), None);
            return Err(gone);
        }
        let outcome = self.within(patience, hurried, operation).await;
        let now = self.clock.boot();
        let label = outcome.as_ref().map_or_else(|gone| gone.kind.as_str(), label);
        self.metrics.operation(name, label, Some(now.saturating_sub(started)));
        match &outcome {
            Ok(_) => self.breaker.succeed(&self.place()),
            Err(gone) => self.breaker.fail(gone, &self.clock),
        }
        outcome
    }

    async fn within<T>(
        &self,
        patience: Duration,
        hurried: Hurried<'_>,
        operation: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let timeout = self.config.timeout;
        let mut operation = pin!(operation);
        let mut waited = Duration::ZERO;
        loop {
            if let Ok(outcome) = tokio::time::timeout(timeout, &mut operation).await {
                return outcome;
            }
            waited += timeout;
            if waited >= patience || hurried() {
                // A longer `timeout` helps only if it ended the wait.
                let hint = if waited < patience { ", or raise timeout in [store]" } else { "" };
                let detail = format!(
                    "{}: no response within {}: find out why it is slow{hint}",
                    self.place(),
                    humantime::format_duration(waited)
                );
                return Err(StoreError::new(StoreErrorKind::Timeout, detail));
            }
        }
    }
}

/// Prevents a failed store from costing every fetch a timeout.
#[derive(Default)]
struct Breaker {
    /// By the boot clock, in milliseconds.
    skip_until: AtomicU64,
    failure: ArcSwapOption<Failing>,
    repeated: Repeated,
}

impl Breaker {
    /// The failure, as long as the store must not be tried.
    fn is_open(&self, now: Duration) -> Option<StoreError> {
        let failure = self.failure.load();
        let failure = failure.as_ref().filter(|_| millis(now) < self.skip_until.load(Ordering::Relaxed))?;
        Some(StoreError { kind: StoreErrorKind::Skipped, detail: failure.gone.detail.clone() })
    }

    fn fail(&self, gone: &StoreError, clock: &SharedClock) {
        let (now, at) = (clock.boot(), clock.wall());
        self.skip_until.store(millis(now + SKIPPED_FOR), Ordering::Relaxed);
        let before = self.failure.load_full();
        let since = before.as_ref().map_or(at, |before| before.since);
        self.failure.store(Some(Arc::new(Failing { gone: gone.clone(), since, at })));
        // The first line counts, or the second failure would have one too.
        let is_due = self.repeated.due(now).is_some();
        if is_due || before.is_none_or(|before| before.gone.kind != gone.kind) {
            let (detail, kind) = (&gone.detail, gone.kind.as_str());
            tracing::warn!(
                event = "store.failed",
                detail,
                kind,
                "the store is unavailable; tokens are fetched without it"
            );
        }
    }

    fn succeed(&self, place: &str) {
        if self.failure.load().is_some() && self.failure.swap(None).is_some() {
            tracing::info!(event = "store.recovered", store = place, "the store works again");
        }
    }
}

/// The label of an operation whose success has only one form.
fn ok<T>(_: &T) -> &'static str {
    "ok"
}
