//! The data of all pages, read once for each request: tokens and routes ([`View`]), the kernel's numbers about the process, and
//! when certificates expire ([`Certificates`]).

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::Admin;
use super::health::{AuthorityView, Health, Loads};
use super::recent::{History, Recent};
use crate::aside::Aside;
use crate::config::{Config, IssuerConfig, Source, WebhookConfig};
use crate::jose::Certificate;
use crate::metrics::{
    CertificateExpiry, Failure, ListenerMetrics, ProcessStats, RouteMetrics, Running, TokenBudget,
    TokenExpiry, TokenFailures, UpstreamRefusal,
};
use crate::store::{Failing, Tally};
use crate::token::{Balance, SlotStatus, TokenSlot};

/// The state of the process at one moment.
pub(super) struct View {
    pub(super) now: SystemTime,
    pub(super) started_at: SystemTime,
    pub(super) uptime: Duration,
    pub(super) config: Arc<Config>,
    pub(super) config_version: u64,
    pub(super) loads: Loads,
    pub(super) draining: bool,
    /// Missing values of listeners and routes.
    pub(super) missing: Arc<Vec<String>>,
    pub(super) credentials: Vec<CredentialView>,
    /// What issuers with a budget may still be asked, by their names.
    pub(super) balances: BTreeMap<Arc<str>, Balance>,
    /// In the order of `Config::routes`.
    pub(super) traffic: Vec<Traffic>,
    /// Requests that matched no route.
    pub(super) unrouted: Traffic,
    /// In the order of `Config::listeners`.
    pub(super) listeners: Vec<ListenerView>,
    /// By the listener's name.
    pub(super) authorities: BTreeMap<Arc<str>, SeenAuthority>,
    pub(super) webhooks: Vec<WebhookView>,
    pub(super) store: Option<StoreView>,
    pub(super) log_lines_dropped: u64,
}

/// The CA of a forward listener, and why its bundle was not written.
pub(super) type SeenAuthority = (AuthorityView, Option<String>);

/// The token store (`[store]`).
#[derive(Debug)]
pub(super) struct StoreView {
    pub(super) place: String,
    /// `None`: it works, or was not tried.
    pub(super) failing: Option<Arc<Failing>>,
    pub(super) tally: Tally,
}

/// What a webhook has learned, without the value.
pub struct WebhookView {
    pub config: Arc<WebhookConfig>,
    /// Whether there is a value that token requests can use.
    pub has_value: bool,
    /// When the last value arrived.
    pub received_at: Option<SystemTime>,
    /// Why the stored value cannot be used.
    pub problem: Option<String>,
    /// The last refused request, and why.
    pub last_refusal: Option<(SystemTime, String)>,
}

/// A listener's counters.
#[derive(Debug, Clone, Default)]
pub(super) struct ListenerView {
    /// Open connections.
    pub(super) connections: u64,
    /// Of a forward listener.
    pub(super) connects: Connects,
    /// Of a token listener.
    pub(super) token_requests: u64,
    /// Of a token listener.
    pub(super) last_failure: Option<Arc<Failure>>,
}

/// The CONNECTs of a forward listener, by what came of them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Connects {
    pub(super) served: u64,
    pub(super) tunneled: u64,
    pub(super) refused: u64,
}

impl Connects {
    fn of(metrics: &ListenerMetrics) -> Self {
        let [served, tunneled, refused] =
            ["served", "tunneled", "refused"].map(|outcome| metrics.connects(outcome));
        Self { served, tunneled, refused }
    }
}

/// One token slot, and the routes that use it.
pub(super) struct CredentialView {
    pub(super) issuer: Arc<IssuerConfig>,
    /// The routes that need it, also if their own token only is requested with it.
    pub(super) routes: Vec<Arc<str>>,
    /// The issuers whose token requests use it.
    pub(super) outer: Vec<Arc<str>>,
    /// The issuers whose tokens its own token requests use.
    pub(super) inner: Vec<Arc<str>>,
    /// Only requests to a token listener have it fetched, or the other credential of its outer issuer.
    pub(super) on_demand: bool,
    pub(super) status: SlotStatus,
}

/// The traffic of a route.
#[derive(Debug, Clone, Default)]
pub(super) struct Traffic {
    pub(super) requests: u64,
    pub(super) upstream_connections: u64,
    pub(super) recent: Option<Recent>,
    /// The history, if it was requested.
    pub(super) history: Option<History>,
    pub(super) last_failure: Option<Arc<Failure>>,
    pub(super) last_refusal: Option<Arc<UpstreamRefusal>>,
}

impl Traffic {
    fn of(metrics: &RouteMetrics, recent: Option<Recent>) -> Self {
        Self {
            recent,
            history: None,
            requests: metrics.requests(),
            upstream_connections: metrics.upstream_connections(),
            last_failure: metrics.last_failure(),
            last_refusal: metrics.last_upstream_refusal(),
        }
    }
}

/// The slots of all routes and of token listeners. Routes with the same scopes and parameters share a slot, so they share an entry.
#[derive(Default)]
struct Credentials {
    places: HashMap<*const TokenSlot, usize>,
    views: Vec<CredentialView>,
}

impl Credentials {
    /// Adds a slot, and those whose tokens it needs. `route`: `None` for a token listener; `outer`: the issuer whose token
    /// requests use it.
    fn add(
        &mut self,
        slot: &Arc<TokenSlot>,
        route: Option<&Arc<str>>,
        outer: Option<&Arc<str>>,
        on_demand: bool,
    ) {
        let place = *self.places.entry(Arc::as_ptr(slot)).or_insert_with(|| {
            self.views.push(CredentialView {
                issuer: Arc::clone(slot.issuer()),
                routes: Vec::new(),
                outer: Vec::new(),
                inner: names_of(slot.inner()),
                on_demand,
                status: slot.status(),
            });
            self.views.len() - 1
        });
        let Some(view) = self.views.get_mut(place) else { return };
        view.on_demand &= on_demand;
        // Routes come one after the other.
        if let Some(route) = route.filter(|route| view.routes.last() != Some(route)) {
            view.routes.push(Arc::clone(route));
        }
        if let Some(outer) = outer.filter(|outer| !view.outer.contains(outer)) {
            view.outer.push(Arc::clone(outer));
        }
        for inner in slot.inner_of_either() {
            let unused = slot.inner().iter().all(|used| !Arc::ptr_eq(used, inner));
            self.add(inner, route, Some(&slot.issuer().name), on_demand || unused);
        }
    }
}

/// The issuers of these slots, each once.
fn names_of(slots: &[Arc<TokenSlot>]) -> Vec<Arc<str>> {
    let mut names = Vec::new();
    for slot in slots {
        let name = &slot.issuer().name;
        if !names.contains(name) {
            names.push(Arc::clone(name));
        }
    }
    names
}

impl View {
    pub(super) fn take(admin: &Admin) -> Self {
        let snapshot = admin.snapshot.load_full();
        let mut credentials = Credentials::default();
        let mut traffic = Vec::with_capacity(snapshot.routes.len());
        let recent = admin.readings.recent(admin.clock.boot(), &snapshot);
        for (route, recent) in snapshot.routes.iter().zip(recent) {
            traffic.push(Traffic::of(&route.metrics, Some(recent)));
            if let Some(slot) = &route.slot {
                credentials.add(slot, Some(&route.config.name), None, false);
            }
        }
        for service in snapshot.token_services.values() {
            credentials.add(&service.own, None, None, service.on_demand);
        }
        let listeners = snapshot.listeners.iter().map(|it| ListenerView {
            connections: it.metrics.connections(),
            connects: Connects::of(&it.metrics),
            token_requests: it.metrics.token_requests(),
            last_failure: it.metrics.last_failure(),
        });
        let issuers = snapshot.config.issuers.values();
        let balance = |issuer: &Arc<IssuerConfig>| {
            Some((Arc::clone(&issuer.name), admin.budgets.balance(&issuer.name)?))
        };
        Self {
            now: admin.clock.wall(),
            started_at: admin.started_at,
            uptime: admin.clock.boot().saturating_sub(admin.started),
            config: Arc::clone(&snapshot.config),
            config_version: snapshot.version,
            loads: admin.health.loads(),
            draining: admin.health.is_draining(),
            missing: admin.health.missing(),
            credentials: credentials.views,
            balances: issuers.filter_map(balance).collect(),
            traffic,
            unrouted: Traffic::of(&snapshot.unrouted, None),
            listeners: listeners.collect(),
            authorities: authorities(&admin.health),
            webhooks: (admin.webhooks)(),
            store: admin.store.load().as_ref().map(|store| StoreView {
                place: store.place(),
                failing: store.failure(),
                tally: store.tally(),
            }),
            log_lines_dropped: crate::telemetry::dropped_lines(),
        }
    }

    /// Adds what each route did in the last hour.
    pub(super) fn with_history(admin: &Admin) -> Self {
        let mut view = Self::take(admin);
        let history = admin.readings.history(admin.clock.boot(), &admin.snapshot.load());
        for (traffic, history) in view.traffic.iter_mut().zip(history) {
            traffic.history = Some(history);
        }
        view
    }

    /// For the metric: one for each route that has a token, and for each token that no route has.
    pub(super) fn token_expiries(&self) -> Vec<TokenExpiry> {
        let with_token = self.credentials.iter().filter_map(|it| Some((it, it.status.expires_at?)));
        with_token
            .flat_map(|(credential, at)| {
                credential.labels().map(move |route| TokenExpiry {
                    issuer: Arc::clone(&credential.issuer.name),
                    route,
                    at,
                })
            })
            .collect()
    }

    /// For the metrics: one for each issuer that has a budget.
    pub(super) fn token_budgets(&self) -> Vec<TokenBudget> {
        let of = |(issuer, balance): (&Arc<str>, &Balance)| TokenBudget {
            issuer: Arc::clone(issuer),
            remaining: balance.remaining,
            limit: balance.budget.requests,
        };
        self.balances.iter().map(of).collect()
    }

    /// Whether the process is not ending, nothing that requests need is missing, and every credential of a required issuer was
    /// fetched once.
    pub(super) fn ready(&self) -> bool {
        !self.draining && self.missing.is_empty() && self.credentials.iter().all(|it| !it.missing())
    }
}

impl View {
    /// Whether the process is ready, but requests of some routes fail because they have no token.
    pub(super) fn degraded(&self) -> bool {
        self.ready() && self.credentials.iter().any(CredentialView::degraded)
    }
}

impl CredentialView {
    /// Whether requests fail because there is no valid token and the issuer grants none. `/readyz` stays 200, because taking
    /// every replica out of service does not help.
    pub(super) fn degraded(&self) -> bool {
        self.status.fetched_once && self.status.state != "valid" && self.status.last_error.is_some()
    }

    /// Whether `/readyz` waits for this token.
    pub(super) fn missing(&self) -> bool {
        self.issuer.required && !self.on_demand && !self.status.fetched_once
    }

    /// The values of the label `route`: empty for a token that only token listeners hand out.
    fn labels(&self) -> impl Iterator<Item = Arc<str>> {
        let none = self.routes.is_empty().then(|| Arc::from(""));
        self.routes.iter().cloned().chain(none)
    }
}

fn authorities(health: &Health) -> BTreeMap<Arc<str>, SeenAuthority> {
    let seen = |authority: &AuthorityView| {
        let problem = authority.bundle.as_ref().and_then(|path| health.bundle_problem(path));
        (authority.clone(), problem)
    };
    health.authorities().iter().map(|(name, authority)| (Arc::clone(name), seen(authority))).collect()
}

impl Admin {
    pub(super) fn running(&self, view: &View) -> Running {
        Running {
            ready: view.ready(),
            loaded_at: Some(view.loads.loaded_at),
            started_at: Some(view.started_at),
            most_connections: u64::try_from(view.config.limits.connections).unwrap_or(u64::MAX),
            token_failures: token_failures(view),
            certificates: self.certificates.ends(&view.config, view.config_version, self.clock.boot()),
            process: stats(),
        }
    }
}

fn token_failures(view: &View) -> Vec<TokenFailures> {
    view.credentials
        .iter()
        .flat_map(|credential| {
            let in_a_row = credential.status.last_error.as_ref().map_or(0, |error| error.failures_in_a_row);
            let issuer = &credential.issuer.name;
            credential.labels().map(move |route| TokenFailures {
                issuer: Arc::clone(issuer),
                route,
                in_a_row,
            })
        })
        .collect()
}

const STATUS: &str = "/proc/self/status";
const FILES: &str = "/proc/self/fd";

fn stats() -> ProcessStats {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    let cpu =
        Duration::new(u64::try_from(used.tv_sec).unwrap_or(0), u32::try_from(used.tv_nsec).unwrap_or(0));
    // If `/proc` is not mounted, the samples are left out.
    let status = File::open(STATUS).and_then(std::io::read_to_string).unwrap_or_default();
    ProcessStats {
        cpu,
        resident: kibibytes(&status, "VmRSS:"),
        virtual_memory: kibibytes(&status, "VmSize:"),
        open_files: open_files(),
        most_files: getrlimit(Resource::Nofile).current,
    }
}

/// The value of a line like `VmRSS:     8192 kB`, in bytes.
fn kibibytes(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn open_files() -> Option<u64> {
    let listed = std::fs::read_dir(FILES).ok()?.count();
    // Without the descriptor of this listing.
    u64::try_from(listed).ok()?.checked_sub(1)
}

/// How long the result is kept. A reload shows at once, a replaced file after this time.
const KEPT: Duration = Duration::from_secs(300);

static READING: Aside = Aside::new("certificates", 4);

#[derive(Default)]
pub(super) struct Certificates {
    known: ArcSwapOption<Known>,
    reading: AtomicBool,
}

struct Known {
    at: Duration,
    config_version: u64,
    ends: Vec<CertificateExpiry>,
}

impl Certificates {
    /// The last result. If it is old, this starts to read the files again. `now` is of the clock that runs in suspend.
    pub(super) fn ends(
        self: &Arc<Self>,
        config: &Arc<Config>,
        version: u64,
        now: Duration,
    ) -> Vec<CertificateExpiry> {
        let known = self.known.load_full();
        let fresh = known
            .as_ref()
            .is_some_and(|known| known.config_version == version && now.saturating_sub(known.at) < KEPT);
        if !fresh {
            self.read(config, version, now);
        }
        known.map(|known| known.ends.clone()).unwrap_or_default()
    }

    fn read(self: &Arc<Self>, config: &Arc<Config>, version: u64, now: Duration) {
        if self.reading.swap(true, Ordering::AcqRel) {
            return;
        }
        let (reading, config) = (Reading(Arc::clone(self)), Arc::clone(config));
        // Without a thread, the last result stays until the next request.
        let _ = READING.spawn(move || {
            let known = Known { at: now, config_version: version, ends: read(&config) };
            reading.0.known.store(Some(Arc::new(known)));
        });
    }
}

/// Allows the next read, however this one ends.
struct Reading(Arc<Certificates>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.reading.store(false, Ordering::Release);
    }
}

/// Leaves out files that cannot be read or contain no certificate. The code that uses them reports it.
fn read(config: &Config) -> Vec<CertificateExpiry> {
    let mut ends = Vec::new();
    let mut add = |kind, name: &Arc<str>, key, source: Option<&Source>| {
        let at = source.and_then(end);
        ends.extend(at.map(|at| CertificateExpiry { kind, name: Arc::clone(name), key, at }));
    };
    for issuer in config.issuers.values() {
        let standby = issuer.standby.as_ref().and_then(|standby| standby.certificate.as_ref());
        // With `tls_client_auth`, both keys name the same certificate.
        let tls = issuer.tls.certificate.as_ref().filter(|tls| issuer.certificate.as_ref() != Some(*tls));
        // A PKCS#12 file may contain both. A file with only a key has no certificate.
        let (key, own) = match &issuer.certificate {
            Some(certificate) => ("certificate", Some(certificate)),
            None => ("private_key", issuer.private_key.as_ref()),
        };
        add("issuer", &issuer.name, key, own);
        add("issuer", &issuer.name, "standby.certificate", standby);
        add("issuer", &issuer.name, "tls.certificate", tls);
    }
    for route in &config.routes {
        add("route", &route.name, "tls.certificate", route.connection.tls.certificate.as_ref());
    }
    for listener in &config.listeners {
        let tls = listener.tls.as_ref().map(|tls| &tls.certificate);
        add("listener", &listener.name, "tls.certificate", tls);
        let own = listener.forward().and_then(|forward| forward.ca.own_certificate());
        add("listener", &listener.name, "forward.ca.certificate", own);
    }
    ends
}

fn end(source: &Source) -> Option<SystemTime> {
    let (bytes, _) = source.read_or_last_good().ok()?;
    let password = source.password().map(Source::read_or_last_good).transpose().ok()?;
    let password = password.as_ref().map(|(password, _)| &**password);
    let chain = Certificate::parse_chain_with(bytes.expose(), password).ok()?;
    chain.first().map(Certificate::not_after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_is_read() {
        let status = "VmPeak:\t  99 kB\nVmSize:\t  12 kB\nVmRSS:\t       8 kB\nThreads:\t3\n";
        assert_eq!(kibibytes(status, "VmRSS:"), Some(8192));
        assert_eq!(kibibytes(status, "VmSize:"), Some(12_288));
        assert_eq!(kibibytes(status, "VmSwap:"), None);
        assert_eq!(kibibytes("VmRSS: many kB", "VmRSS:"), None);
    }

    #[test]
    fn this_process_is_seen() {
        let before = stats();
        let (resident, mapped) = (before.resident.unwrap(), before.virtual_memory.unwrap());
        assert!(resident > 100_000 && mapped >= resident, "{before:?}");
        assert!(before.open_files.unwrap() >= 3, "{before:?}");
        assert!(stats().cpu >= before.cpu);
    }
}
