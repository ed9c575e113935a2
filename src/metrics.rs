//! What is counted, as atomics that the request path can bump without a lock; [`crate::admin`] writes them out.
//!
//! Labels come from the config alone, so the number of series is bounded by it. Handles are taken when the config is
//! loaded; the request path only bumps them. A handle of the same name is the same series, across reloads.

mod counts;
mod encode;
mod failure;
mod families;
mod histogram;
mod named;
mod per_worker;
mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

pub use counts::Counts;
pub use encode::{CertificateExpiry, Exposition, Extra, ProcessStats, Running, TokenExpiry, TokenFailures};
pub use failure::{Failure, UpstreamRefusal};
pub use families::{FAMILIES, Family, Kind};
pub use per_worker::this_thread_is_worker;

use failure::Last;
use histogram::{Histogram, Observed};
use named::Named;
use per_worker::PerWorker;
use table::{OutcomeCounts, StatusCounts};

/// Every series of the process. One for each process, kept across reloads.
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
    workers: usize,
}

impl Default for Metrics {
    /// For one worker.
    fn default() -> Self {
        Self::new(1)
    }
}

impl Metrics {
    /// `workers`: how many threads serve calls; see [`this_thread_is_worker`].
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
            // The config that the process started with was loaded.
            last_reload_successful: AtomicBool::new(true),
            spans_lost: AtomicU64::new(0),
            workers,
        }
    }

    /// The series of this route: the ones that are there, or new ones.
    pub fn route(&self, name: &Arc<str>) -> Arc<RouteMetrics> {
        self.routes.get_or_create(name, || RouteMetrics::new(self.workers))
    }

    /// The series of requests that found no route (400, 404, 421 …): `route` is empty there.
    pub fn unrouted(&self) -> Arc<RouteMetrics> {
        Arc::clone(&self.unrouted)
    }

    /// The series of this issuer: the ones that are there, or new ones.
    pub fn issuer(&self, name: &Arc<str>) -> Arc<IssuerMetrics> {
        self.issuers.get_or_create(name, IssuerMetrics::default)
    }

    /// The series of this listener: the ones that are there, or new ones.
    pub fn listener(&self, name: &Arc<str>) -> Arc<ListenerMetrics> {
        self.listeners.get_or_create(name, ListenerMetrics::default)
    }

    /// The series of the admin address, which is no listener of the config.
    pub fn admin(&self) -> Arc<ListenerMetrics> {
        Arc::clone(&self.admin)
    }

    /// The series of all webhooks together.
    pub fn webhooks(&self) -> Arc<ListenerMetrics> {
        Arc::clone(&self.webhooks)
    }

    /// Forgets series whose route, issuer or listener is no longer in the config.
    pub fn retain(&self, config: &crate::config::Config) {
        let routes = config.routes.iter().map(|route| &*route.name).collect();
        let issuers = config.issuers.keys().map(String::as_str).collect();
        let listeners = config.listeners.iter().map(|listener| &*listener.name).collect();
        self.routes.retain(&routes);
        self.issuers.retain(&issuers);
        self.listeners.retain(&listeners);
    }

    /// A reload came to its end; the load at the start is none.
    pub fn config_reload(&self, ok: bool) {
        let counter = if ok { &self.reloads_ok } else { &self.reloads_failed };
        counter.fetch_add(1, Ordering::Relaxed);
        self.last_reload_successful.store(ok, Ordering::Relaxed);
    }

    /// So many spans did not reach the collector.
    pub fn spans_lost(&self, spans: u64) {
        self.spans_lost.fetch_add(spans, Ordering::Relaxed);
    }

    /// Everything as text for a scrape, with what only others know.
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
            extra,
        }
    }
}

/// What is counted for one route.
#[derive(Debug, Default)]
pub struct RouteMetrics {
    calls: PerWorker<Calls>,
    failures: OutcomeCounts,
    refreshes_forced: AtomicU64,
    upstream_connections: Gauge,
    /// gRPC calls that failed here: their status is 200.
    grpc_failures: AtomicU64,
    last: Last,
}

/// What a request that goes well bumps.
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

    /// A request was answered with this status; `took` is from its head to the end of the response.
    pub fn request(&self, status: u16, took: Duration) {
        if let Some(calls) = self.calls.own() {
            calls.requests.add(status);
            calls.duration.observe(took);
        }
    }

    /// The upstream answered: from sending the request to its response's head.
    pub fn upstream(&self, took: Duration) {
        if let Some(calls) = self.calls.own() {
            calls.upstream_duration.observe(took);
        }
    }

    /// A request was answered with an error of our own.
    pub fn failed(&self, code: &'static str) {
        self.failures.add(code);
    }

    /// A token was dropped because the upstream refused it.
    pub fn refresh_forced(&self) {
        self.refreshes_forced.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection to the upstream was made.
    pub fn upstream_connected(&self) {
        self.upstream_connections.up();
    }

    /// A connection to the upstream ended.
    pub fn upstream_disconnected(&self) {
        self.upstream_connections.down();
    }

    /// A request was answered with an error of ours. Never on the way of a request that goes well.
    pub fn note_failure(&self, failure: Failure) {
        self.last.set_failure(failure);
    }

    /// A gRPC call failed here: what it is answered with does not show that.
    pub fn note_grpc_failure(&self) {
        self.grpc_failures.fetch_add(1, Ordering::Relaxed);
    }

    /// The last error of ours, since the start.
    pub fn last_failure(&self) -> Option<Arc<Failure>> {
        self.last.failure()
    }

    /// The upstream refused a token that was only just granted.
    pub fn note_upstream_refusal(&self, refusal: UpstreamRefusal) {
        self.last.set_refusal(refusal);
    }

    /// The last such refusal, since the start.
    pub fn last_upstream_refusal(&self) -> Option<Arc<UpstreamRefusal>> {
        self.last.refusal()
    }

    /// Requests answered so far, of any status.
    pub fn requests(&self) -> u64 {
        self.totals().0
    }

    /// All requests, and those answered with a 5xx.
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

    /// What was counted until now.
    pub fn counts(&self) -> Counts {
        let (requests, errors) = self.totals();
        let failures = self.grpc_failures.load(Ordering::Relaxed);
        let buckets = Histogram::counts(self.calls.all().map(|calls| &calls.duration));
        Counts { requests, errors: errors + failures, buckets }
    }

    /// Connections to the upstream that are open now.
    pub fn upstream_connections(&self) -> u64 {
        self.upstream_connections.get()
    }
}

/// What is counted for one issuer.
#[derive(Debug, Default)]
pub struct IssuerMetrics {
    requests: OutcomeCounts,
    duration: Histogram,
    waiters: Gauge,
}

impl IssuerMetrics {
    /// A token request ended. `outcome`: `ok` or a snake_case failure name.
    pub fn token_request(&self, outcome: &'static str, took: Duration) {
        self.requests.add(outcome);
        self.duration.observe(took);
    }

    /// A request began to wait for a token.
    pub fn waiting(&self) {
        self.waiters.up();
    }

    /// A request that waited for a token does so no longer.
    pub fn waited(&self) {
        self.waiters.down();
    }
}

/// What is counted for one listener.
#[derive(Debug, Default)]
pub struct ListenerMetrics {
    connections: Gauge,
    refused: OutcomeCounts,
}

impl ListenerMetrics {
    /// A caller connected.
    pub fn connected(&self) {
        self.connections.up();
    }

    /// A caller's connection ended.
    pub fn disconnected(&self) {
        self.connections.down();
    }

    /// Connections that are open now.
    pub fn connections(&self) -> u64 {
        self.connections.get()
    }

    /// What came was no request: the HTTP parser refused it. `reason` is one of few, in snake_case.
    pub fn refused(&self, reason: &'static str) {
        self.refused.add(reason);
    }
}

/// A number of things that are there now.
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
        // Signed, so that a `down` seen before its `up` by another thread does not read as 2^64 - 1.
        u64::try_from(self.0.load(Ordering::Relaxed)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
