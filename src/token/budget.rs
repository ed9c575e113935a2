//! How many token requests each issuer may get (`budget`). The count of a process outlives its configs.
//!
//! The process always counts. With a store, the requests of all replicas are also counted there. While the store is unavailable,
//! the count of this process decides alone.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::clock::{SharedClock, micros};
use crate::config::{Budget, IssuerConfig, TokenEndpoint};
use crate::issuer::{Denied, Gate, Permitting};
use crate::store::{Spent, Store, StoreCell, StoreError, Window};
use crate::telemetry::Repeated;

/// All budgets of the process, by the issuer's name.
pub struct Budgets {
    issuers: Map,
    store: Arc<StoreCell>,
    clock: SharedClock,
}

#[expect(clippy::disallowed_types, reason = "token requests are rare; no request of a caller comes here")]
type Map = std::sync::Mutex<HashMap<Arc<str>, Counted>>;

/// One budget and what was spent of it.
struct Counted {
    config: Arc<IssuerConfig>,
    budget: Budget,
    window: Window,
    /// The store's last response, and its time by the boot clock. `None`: there is no store, or it is unavailable.
    reported: Option<(Duration, Spent)>,
    repeated: Repeated,
}

/// The state of a budget, as far as this process knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balance {
    pub budget: Budget,
    /// All replicas that use the same store count together.
    pub shared: bool,
    /// How many more requests may be sent now.
    pub remaining: u32,
    /// How long until the next request is possible. Zero if `remaining` is not.
    pub next: Duration,
}

impl Budgets {
    /// No issuer has a budget yet.
    pub fn new(store: Arc<StoreCell>, clock: SharedClock) -> Self {
        Self { issuers: Map::default(), store, clock }
    }

    /// Uses the budgets of these issuers from now on. Earlier requests to an issuer of the same name still count.
    pub(super) fn apply<'a>(&self, issuers: impl Iterator<Item = &'a Arc<IssuerConfig>>) {
        let mut all = self.locked();
        let mut limited = BTreeSet::new();
        for (config, budget) in issuers.filter_map(|issuer| Some((issuer, issuer.budget?))) {
            limited.insert(Arc::clone(&config.name));
            let counted = all.entry(Arc::clone(&config.name)).or_insert_with(|| Counted::new(config, budget));
            if counted.budget != budget || counted.config.digest != config.digest {
                // The store may count other requests for it.
                counted.reported = None;
            }
            (counted.config, counted.budget) = (Arc::clone(config), budget);
        }
        all.retain(|name, _| limited.contains(name));
    }

    /// From now on, another store is used, or none.
    pub(super) fn forget_store(&self) {
        self.locked().values_mut().for_each(|counted| counted.reported = None);
    }

    fn uses(&self, store: &Arc<Store>) -> bool {
        self.store.load().as_ref().is_some_and(|now| Arc::ptr_eq(now, store))
    }

    /// For budgets that the store has not reported yet, asks it how much other replicas, or an earlier start, spent.
    pub(super) async fn look(&self) {
        let Some(store) = self.store.load_full() else { return };
        let unknown: Vec<(Arc<IssuerConfig>, Budget)> = {
            let all = self.locked();
            let unknown = all.values().filter(|counted| counted.config.shared && counted.reported.is_none());
            unknown.map(|counted| (Arc::clone(&counted.config), counted.budget)).collect()
        };
        for (config, budget) in unknown {
            let Ok(spent) = balance_in_store(&store, &config, budget).await else { return };
            let now = self.clock.boot();
            if let Some(counted) = self.locked().get_mut(&config.name)
                && counted.budget == budget
                && self.uses(&store)
            {
                counted.reported.get_or_insert((now, spent));
            }
        }
    }

    /// What is left for the issuer of this name. `None`: it has no budget.
    pub fn balance(&self, issuer: &str) -> Option<Balance> {
        let now = self.clock.boot();
        self.locked().get_mut(issuer).map(|counted| counted.balance(now))
    }

    /// Counts one request to an issuer, unless its budget is spent.
    async fn spend(&self, issuer: &Arc<str>) -> Result<(), Denied> {
        let Some(taken) = self.take(issuer)? else { return Ok(()) };
        let Some(store) = self.store.load_full().filter(|_| taken.config.shared) else {
            taken.keep();
            return Ok(());
        };
        let parts = parts(&taken.config);
        // Waits no longer than the store's timeout, because a connection to the issuer is open.
        let spent = store.spend(&slices(&parts), taken.budget, &|| true).await.ok();
        let now = self.clock.boot();
        if let Some(counted) = self.locked().get_mut(issuer) {
            counted.reported = spent.filter(|_| self.uses(&store)).map(|spent| (now, spent));
        }
        match spent {
            Some(Spent { allowed: false, next, .. }) => Err(self.deny(taken.budget, true, next)),
            Some(_) | None => {
                taken.keep();
                Ok(())
            }
        }
    }

    /// Takes one request from the count of this process. `None`: the issuer has no budget.
    fn take(&self, issuer: &Arc<str>) -> Result<Option<Taken<'_>>, Denied> {
        let now = self.clock.boot();
        let mut all = self.locked();
        let Some(counted) = all.get_mut(issuer) else { return Ok(None) };
        let (at, budget) = (micros(now), counted.budget);
        let spent = counted.window.spend(at, budget);
        if spent.allowed {
            let config = Arc::clone(&counted.config);
            return Ok(Some(Taken { budgets: self, config, budget, at: Some(at) }));
        }
        let shared = counted.reported.is_some();
        drop(all);
        Err(self.deny(budget, shared, spent.next))
    }

    fn deny(&self, budget: Budget, shared: bool, next: Duration) -> Denied {
        let at = self.clock.wall().checked_add(next).map_or(SystemTime::UNIX_EPOCH, whole_second);
        Denied { budget, shared, next, at }
    }

    /// Whether to log that the budget is spent: once a minute, however many tokens the issuer has.
    pub(super) fn warning_due(&self, issuer: &str) -> Option<u64> {
        let now = self.clock.boot();
        self.locked().get(issuer).and_then(|counted| counted.repeated.due(now))
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, Counted>> {
        // A panic under the lock leaves a complete map.
        self.issuers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Counted {
    fn new(config: &Arc<IssuerConfig>, budget: Budget) -> Self {
        let (window, repeated) = (Window::default(), Repeated::default());
        Self { config: Arc::clone(config), budget, window, reported: None, repeated }
    }

    /// The lesser of what this process counts and what the store said last.
    fn balance(&mut self, now: Duration) -> Balance {
        let own = self.window.balance(micros(now), self.budget);
        let shared = self.reported.and_then(|(at, spent)| aged(spent, now.saturating_sub(at), self.budget));
        let (remaining, next) = shared.map_or((own.remaining, own.next), |(remaining, next)| {
            (remaining.min(own.remaining), next.max(own.next))
        });
        Balance { budget: self.budget, shared: shared.is_some(), remaining, next }
    }
}

/// What is left of a store's response after `age`: at most this much, because other replicas spend too.
fn aged(reported: Spent, age: Duration, budget: Budget) -> Option<(u32, Duration)> {
    if age >= budget.per {
        return None;
    }
    let next = reported.next.saturating_sub(age);
    Some((if next.is_zero() { reported.remaining.max(1) } else { 0 }, next))
}

/// A counted request, which is uncounted on drop unless it is kept.
struct Taken<'a> {
    budgets: &'a Budgets,
    config: Arc<IssuerConfig>,
    budget: Budget,
    /// When it was counted. `None`: it stays counted.
    at: Option<u64>,
}

impl Taken<'_> {
    fn keep(mut self) {
        self.at = None;
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let Some(at) = self.at else { return };
        if let Some(counted) = self.budgets.locked().get_mut(&self.config.name) {
            counted.window.give_back(at);
        }
    }
}

/// The budget of one issuer.
pub(super) struct IssuerBudget<'a> {
    pub(super) budgets: &'a Budgets,
    pub(super) issuer: &'a Arc<str>,
}

impl Gate for IssuerBudget<'_> {
    fn permit(&self) -> Permitting<'_> {
        Box::pin(self.budgets.spend(self.issuer))
    }
}

/// What all replicas together have left of an issuer's budget.
///
/// # Errors
/// The store is unavailable.
pub async fn balance_in_store(
    store: &Store,
    config: &IssuerConfig,
    budget: Budget,
) -> Result<Spent, StoreError> {
    store.balance(&slices(&parts(config)), budget).await
}

/// What identifies a budget in the store: replicas of another config or client have another one.
fn parts(config: &IssuerConfig) -> [Vec<u8>; 4] {
    let (TokenEndpoint::Url(url) | TokenEndpoint::Discovery(url)) = &config.endpoint;
    let client = config.client_id.as_ref().and_then(|id| id.to_send().ok());
    let client = client.map_or_else(Vec::new, |(id, _)| id.expose().to_vec());
    [b"budget".to_vec(), config.name.as_bytes().to_vec(), url.text.clone().into_bytes(), client]
}

fn slices(parts: &[Vec<u8>; 4]) -> [&[u8]; 4] {
    parts.each_ref().map(Vec::as_slice)
}

/// Rounded up.
fn whole_second(at: SystemTime) -> SystemTime {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let whole = since.as_secs() + u64::from(since.subsec_nanos() > 0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Budget = Budget { requests: 5, per: Duration::from_secs(100) };

    fn reported(remaining: u32, next: u64) -> Spent {
        Spent { allowed: true, remaining, next: Duration::from_secs(next) }
    }

    #[test]
    fn what_the_store_said_ages() {
        let after = |reported, age| aged(reported, Duration::from_secs(age), BUDGET);
        assert_eq!(after(reported(2, 0), 99), Some((2, Duration::ZERO)));
        assert_eq!(after(reported(2, 0), 100), None, "every request has left the span");
        assert_eq!(after(reported(0, 40), 10), Some((0, Duration::from_secs(30))));
        assert_eq!(after(reported(0, 40), 40), Some((1, Duration::ZERO)), "at least one");
    }

    #[test]
    fn seconds_are_rounded_up() {
        let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        assert_eq!([whole_second(at(1_000)), whole_second(at(1_001))], [at(1_000), at(2_000)]);
    }
}
