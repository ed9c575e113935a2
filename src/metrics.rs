//! Counters and histograms as atomics, which the request path increments without a lock. [`crate::admin`] serves them.
//!
//! Labels come from the config alone, which bounds the number of series. Handles are created when the config is loaded, and a
//! handle of the same name stays the same series across reloads ([`Named`]). Each worker increments its own counters, so that
//! no core waits for another's cache line, and a scrape adds them up ([`PerWorker`]).

mod encode;
mod failure;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use encode::{OutcomeCounts, StatusCounts};
use failure::Last;

pub use encode::{
    CertificateExpiry, Exposition, Extra, FAMILIES, Family, Kind, ProcessStats, Running, TokenBudget,
    TokenExpiry, TokenFailures,
};
pub use failure::{Counts, Failure, UpstreamRefusal};

/// Every series of the process. They stay across reloads.
#[derive(Debug)]
pub struct Metrics {
    routes: Named<RouteMetrics>,
    issuers: Named<IssuerMetrics>,
    listeners: Named<ListenerMetrics>,
    admin: Arc<ListenerMetrics>,
    webhooks: Arc<ListenerMetrics>,
    unrouted: Arc<RouteMetrics>,
    reloads_ok: AtomicU64,
    reloads_failed: AtomicU64,
    last_reload_successful: AtomicBool,
    spans_lost: AtomicU64,
    store: Arc<StoreMetrics>,
    workers: usize,
}

impl Default for Metrics {
    /// Creates the series for one worker.
    fn default() -> Self {
        Self::new(1)
    }
}

impl Metrics {
    /// `workers` is the number of threads that serve requests; see [`this_thread_is_worker`].
    pub fn new(workers: usize) -> Self {
        Self {
            routes: Named::default(),
            issuers: Named::default(),
            listeners: Named::default(),
            admin: Arc::default(),
            webhooks: Arc::default(),
            unrouted: Arc::new(RouteMetrics::new(workers)),
            reloads_ok: AtomicU64::new(0),
            reloads_failed: AtomicU64::new(0),
            // The config was loaded at the start.
            last_reload_successful: AtomicBool::new(true),
            spans_lost: AtomicU64::new(0),
            store: Arc::default(),
            workers,
        }
    }

    /// The series of this route, existing or new.
    pub fn route(&self, name: &Arc<str>) -> Arc<RouteMetrics> {
        self.routes.get_or_create(name, || RouteMetrics::new(self.workers))
    }

    /// The series of requests that matched no route (400, 404, 421 …). Their label `route` is empty.
    pub fn unrouted(&self) -> Arc<RouteMetrics> {
        Arc::clone(&self.unrouted)
    }

    /// The series of this issuer, existing or new.
    pub fn issuer(&self, name: &Arc<str>) -> Arc<IssuerMetrics> {
        self.issuers.get_or_create(name, IssuerMetrics::default)
    }

    /// The series of this listener, existing or new.
    pub fn listener(&self, name: &Arc<str>) -> Arc<ListenerMetrics> {
        self.listeners.get_or_create(name, ListenerMetrics::default)
    }

    /// The series of the admin address, which is not a listener of the config.
    pub fn admin(&self) -> Arc<ListenerMetrics> {
        Arc::clone(&self.admin)
    }

    /// The series of all webhooks together.
    pub fn webhooks(&self) -> Arc<ListenerMetrics> {
        Arc::clone(&self.webhooks)
    }

    /// The series of the token store.
    pub fn store(&self) -> Arc<StoreMetrics> {
        Arc::clone(&self.store)
    }

    /// Removes series whose route, issuer, or listener is no longer in the config.
    pub fn retain(&self, config: &crate::config::Config) {
        let routes = config.routes.iter().map(|route| &*route.name).collect();
        let issuers = config.issuers.keys().map(String::as_str).collect();
        let listeners = config.listeners.iter().map(|listener| &*listener.name).collect();
        self.routes.retain(&routes);
        self.issuers.retain(&issuers);
        self.listeners.retain(&listeners);
    }

    /// Counts a reload. The load at the start is not a reload.
    pub fn config_reload(&self, ok: bool) {
        let counter = if ok { &self.reloads_ok } else { &self.reloads_failed };
        counter.fetch_add(1, Ordering::Relaxed);
        self.last_reload_successful.store(ok, Ordering::Relaxed);
    }

    /// Counts spans that did not reach the collector.
    pub fn spans_lost(&self, spans: u64) {
        self.spans_lost.fetch_add(spans, Ordering::Relaxed);
    }

    /// Everything as text for a scrape, together with what other modules know.
    pub fn render(&self, format: Exposition, extra: Extra) -> String {
        encode::render(self.scrape(extra), format)
    }

    fn scrape(&self, extra: Extra) -> encode::Scrape {
        encode::Scrape {
            routes: self.routes.all(),
            issuers: self.issuers.all(),
            listeners: self.listeners.all(),
            small_servers: [("admin address", self.admin()), ("webhooks", self.webhooks())],
            unrouted: Arc::clone(&self.unrouted),
            reloads_ok: self.reloads_ok.load(Ordering::Relaxed),
            reloads_failed: self.reloads_failed.load(Ordering::Relaxed),
            last_reload_successful: self.last_reload_successful.load(Ordering::Relaxed),
            spans_lost: self.spans_lost.load(Ordering::Relaxed),
            store: Arc::clone(&self.store),
            extra,
        }
    }
}

/// The counters of the token store (`[store]`). No request comes here.
#[derive(Debug, Default)]
pub struct StoreMetrics {
    operations: StoreOperations,
    duration: Histogram,
}

/// How often each operation had each outcome.
#[expect(clippy::disallowed_types, reason = "operations are rare, and tasks of the control thread do them")]
type StoreOperations = std::sync::Mutex<BTreeMap<(&'static str, &'static str), u64>>;

impl StoreMetrics {
    /// Counts an operation. `took` is `None` if it was skipped because the store failed just before.
    pub fn operation(&self, operation: &'static str, outcome: &'static str, took: Option<Duration>) {
        let mut operations = self.operations.lock().unwrap_or_else(PoisonError::into_inner);
        *operations.entry((operation, outcome)).or_default() += 1;
        if let Some(took) = took {
            self.duration.observe(took);
        }
    }

    /// (operation, outcome) and how often, in the order of their names.
    pub fn operations(&self) -> Vec<((&'static str, &'static str), u64)> {
        let operations = self.operations.lock().unwrap_or_else(PoisonError::into_inner);
        operations.iter().map(|(names, count)| (*names, *count)).collect()
    }

    fn duration(&self) -> Observed {
        Histogram::sum(std::iter::once(&self.duration))
    }
}

/// The counters of one route.
#[derive(Debug, Default)]
pub struct RouteMetrics {
    calls: PerWorker<Calls>,
    failures: OutcomeCounts,
    refreshes_forced: AtomicU64,
    upstream_connections: Gauge,
    /// gRPC requests that bearerd failed. Their HTTP status is 200.
    grpc_failures: AtomicU64,
    last: Last,
}

/// The counters that a successful request increments.
#[derive(Debug, Default)]
struct Calls {
    requests: StatusCounts,
    duration: Histogram,
    upstream_duration: Histogram,
}

impl RouteMetrics {
    fn new(workers: usize) -> Self {
        Self { calls: PerWorker::new(workers), ..Self::default() }
    }

    /// Counts a response with this status. `took` is the time from the request's head to the end of the response.
    pub fn request(&self, status: u16, took: Duration) {
        if let Some(calls) = self.calls.own() {
            calls.requests.add(status);
            calls.duration.observe(took);
        }
    }

    /// Counts an upstream's response. `took` is the time from sending the request to the response's head.
    pub fn upstream(&self, took: Duration) {
        if let Some(calls) = self.calls.own() {
            calls.upstream_duration.observe(took);
        }
    }

    /// Remembers an error of bearerd's own. Never called for a successful request.
    pub fn failed(&self, code: &'static str) {
        self.failures.add(code);
    }

    /// Counts a token that was dropped because the upstream refused it.
    pub fn refresh_forced(&self) {
        self.refreshes_forced.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a new connection to the upstream.
    pub fn upstream_connected(&self) {
        self.upstream_connections.up();
    }

    /// Counts the end of a connection to the upstream.
    pub fn upstream_disconnected(&self) {
        self.upstream_connections.down();
    }

    /// Remembers an error of bearerd's own. Never called for a successful request.
    pub fn note_failure(&self, failure: Failure) {
        self.last.set_failure(failure);
    }

    /// Counts a gRPC request that bearerd failed, which its HTTP status does not show.
    pub fn note_grpc_failure(&self) {
        self.grpc_failures.fetch_add(1, Ordering::Relaxed);
    }

    /// The last error of bearerd's own since the start.
    pub fn last_failure(&self) -> Option<Arc<Failure>> {
        self.last.failure()
    }

    /// Remembers that the upstream refused a token that was just fetched.
    pub fn note_upstream_refusal(&self, refusal: UpstreamRefusal) {
        self.last.set_refusal(refusal);
    }

    /// The last such refusal since the start.
    pub fn last_upstream_refusal(&self) -> Option<Arc<UpstreamRefusal>> {
        self.last.refusal()
    }

    /// Responses since the start, of any status.
    pub fn requests(&self) -> u64 {
        self.totals().0
    }

    /// All responses, and those with a 5xx status.
    fn totals(&self) -> (u64, u64) {
        let each = self.calls.all().map(|calls| calls.requests.totals());
        each.fold((0, 0), |(all, errors), (more, bad)| (all + more, errors + bad))
    }

    fn statuses(&self) -> Vec<(String, u64)> {
        StatusCounts::sum(self.calls.all().map(|calls| &calls.requests))
    }

    fn duration(&self) -> Observed {
        Histogram::sum(self.calls.all().map(|calls| &calls.duration))
    }

    fn upstream_duration(&self) -> Observed {
        Histogram::sum(self.calls.all().map(|calls| &calls.upstream_duration))
    }

    /// The current values.
    pub fn counts(&self) -> Counts {
        let (requests, errors) = self.totals();
        let failures = self.grpc_failures.load(Ordering::Relaxed);
        let buckets = Histogram::counts(self.calls.all().map(|calls| &calls.duration));
        Counts { requests, errors: errors + failures, buckets }
    }

    /// Open connections to the upstream.
    pub fn upstream_connections(&self) -> u64 {
        self.upstream_connections.get()
    }
}

/// The counters of one issuer.
#[derive(Debug, Default)]
pub struct IssuerMetrics {
    requests: OutcomeCounts,
    duration: Histogram,
    waiters: Gauge,
}

impl IssuerMetrics {
    /// Counts a token request. `outcome` is `ok` or a snake_case failure name. `took`: `None` if it did not end.
    pub fn token_request(&self, outcome: &'static str, took: Option<Duration>) {
        self.requests.add(outcome);
        took.into_iter().for_each(|took| self.duration.observe(took));
    }

    /// Counts a request that waits for a token.
    pub fn waiting(&self) {
        self.waiters.up();
    }

    /// Counts the end of a wait for a token.
    pub fn waited(&self) {
        self.waiters.down();
    }
}

/// The counters of one listener.
#[derive(Debug, Default)]
pub struct ListenerMetrics {
    connections: Gauge,
    refused: OutcomeCounts,
    /// Of a token listener.
    token_requests: AtomicU64,
    last: Last,
    connects: OutcomeCounts,
}

impl ListenerMetrics {
    /// Counts a new connection of a caller.
    pub fn connected(&self) {
        self.connections.up();
    }

    /// Counts the end of a caller's connection.
    pub fn disconnected(&self) {
        self.connections.down();
    }

    /// Open connections.
    pub fn connections(&self) -> u64 {
        self.connections.get()
    }

    /// Counts a request of a token listener.
    pub fn token_request(&self) {
        self.token_requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Responses of a token listener since the start.
    pub fn token_requests(&self) -> u64 {
        self.token_requests.load(Ordering::Relaxed)
    }

    /// Remembers an error of a token listener.
    pub fn note_failure(&self, failure: Failure) {
        self.last.set_failure(failure);
    }

    /// The last error of a token listener since the start.
    pub fn last_failure(&self) -> Option<Arc<Failure>> {
        self.last.failure()
    }

    /// Counts bytes that the HTTP parser refused as a request. `reason` is one of a few snake_case words.
    pub fn refused(&self, reason: &'static str) {
        self.refused.add(reason);
    }

    /// Counts a CONNECT of a forward listener. `outcome` is one of a few words.
    pub fn connect(&self, outcome: &'static str) {
        self.connects.add(outcome);
    }

    /// CONNECTs of a forward listener since the start that had this outcome.
    pub fn connects(&self, outcome: &str) -> u64 {
        self.connects.all().iter().filter(|(found, _)| *found == outcome).map(|(_, count)| count).sum()
    }
}

/// The current number of something.
#[derive(Debug, Default)]
struct Gauge(AtomicI64);

impl Gauge {
    fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn down(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        // Signed, so that another thread that sees a `down` before its `up` does not read 2^64 - 1.
        u64::try_from(self.0.load(Ordering::Relaxed)).unwrap_or(0)
    }
}

/// Upper bounds of buckets, in seconds: Prometheus' usual ones, and two smaller ones for responses from the same machine.
const BOUNDS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// The same in nanoseconds, so that an observation compares integers.
const BOUNDS_NANOS: [u64; 13] = [
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// A histogram of durations in fixed buckets. An observation is two atomic additions. It takes 120 bytes, because a config may
/// have ten thousand routes, each with two histograms for each worker.
#[derive(Debug, Default)]
struct Histogram {
    /// Observations in each bucket (not cumulative). The last bucket is above every bound.
    buckets: [AtomicU64; 14],
    sum_nanos: AtomicU64,
}

/// The values of a histogram at one moment.
#[derive(Debug, Clone, PartialEq)]
struct Observed {
    /// Seconds.
    sum: f64,
    count: u64,
    /// Upper bound and observations of each bucket (not cumulative).
    buckets: Vec<(f64, u64)>,
}

impl Histogram {
    fn observe(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        // A bound belongs to its bucket (`le`). Comparing all bounds without a branch is faster than a search.
        let index = BOUNDS_NANOS.iter().map(|bound| usize::from(*bound < nanos)).sum::<usize>();
        if let Some(bucket) = self.buckets.get(index) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Observations in each bucket (not cumulative), summed over all histograms.
    fn counts<'a>(all: impl Iterator<Item = &'a Self>) -> [u64; 14] {
        all.fold([0; 14], |mut sums, one| {
            for (sum, bucket) in sums.iter_mut().zip(&one.buckets) {
                *sum += bucket.load(Ordering::Relaxed);
            }
            sums
        })
    }

    /// The sum of all histograms.
    fn sum<'a>(all: impl Iterator<Item = &'a Self> + Clone) -> Observed {
        let nanos = all.clone().fold(0_u64, |sum, one| {
            // Wraps like a separate counter.
            sum.wrapping_add(one.sum_nanos.load(Ordering::Relaxed))
        });
        let bounds = BOUNDS.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(Self::counts(all)).collect();
        Observed {
            sum: Duration::from_nanos(nanos).as_secs_f64(),
            // From the same values as the buckets, so that `+Inf` and `_count` always agree.
            count: buckets.iter().map(|(_, count)| count).sum(),
            buckets,
        }
    }
}

#[expect(
    clippy::disallowed_types,
    reason = "taken while a config is loaded and at a scrape; the request path holds the handles"
)]
type Lock<T> = std::sync::Mutex<T>;

#[derive(Debug)]
struct Named<T>(Lock<BTreeMap<Arc<str>, Arc<T>>>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Lock::new(BTreeMap::new()))
    }
}

impl<T> Named<T> {
    fn get_or_create(&self, name: &Arc<str>, new: impl FnOnce() -> T) -> Arc<T> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(Arc::clone(name)).or_insert_with(|| Arc::new(new())))
    }

    /// Removes every name that is not in `names`. Handles that are still held count on, but no scrape shows them.
    fn retain(&self, names: &BTreeSet<&str>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| names.contains(&**name));
    }

    /// All handles, ordered by name.
    fn all(&self) -> Vec<(Arc<str>, Arc<T>)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(name, value)| (Arc::clone(name), Arc::clone(value))).collect()
    }
}

thread_local! {
    /// The number of this thread's worker. Other threads count as the first worker.
    static WORKER: Cell<usize> = const { Cell::new(0) };
}

/// Sets the worker number of this thread.
pub fn this_thread_is_worker(index: usize) {
    WORKER.set(index);
}

/// One `T` for each worker, which increments its own. A scrape adds them up.
#[derive(Debug)]
struct PerWorker<T>(Box<[Line<T>]>);

/// Aligned to two cache lines, because processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line<T>(T);

impl<T: Default> PerWorker<T> {
    fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| Line::default()).collect())
    }
}

impl<T: Default> Default for PerWorker<T> {
    fn default() -> Self {
        Self::new(1)
    }
}

impl<T> PerWorker<T> {
    /// The `T` of this thread's worker.
    fn own(&self) -> Option<&T> {
        let own = self.0.get(WORKER.get()).or_else(|| self.0.first());
        own.map(|line| &line.0)
    }

    fn all(&self) -> impl Iterator<Item = &T> + Clone {
        self.0.iter().map(|line| &line.0)
    }
}

#[cfg(test)]
mod tests;
