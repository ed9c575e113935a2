//! Wires everything: the only module that turns a config into a running proxy.
//!
//! [`start`] binds every address first, so that nothing else happens if an address is taken. Each worker thread has its own
//! runtime and serves every listener. One control thread fetches tokens, serves the admin address and webhooks, reloads, and
//! ends the program. [`build`] makes the snapshot that requests read, at the start and for each reload.

mod alone;
mod bundles;
mod control;
mod listeners;
mod orphans;
mod programs;
mod reloading;
mod room;
mod service_manager;
mod sockets;
mod webhooks;
mod worker;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use bundles::Bundles;
use control::{Control, Order, Signals};
use listeners::Listeners;
use programs::Programs;
use reloading::{KnownFiles, Reloading};
use room::Room;
use service_manager::ServiceManager;
use sockets::Sources;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use webhooks::{AdminServer, Webhooks};
use worker::Workers;

use crate::admin::{Admin, Health};
use crate::aside::Aside;
use crate::clock::SharedClock;
use crate::config::{self, Config, Credential, IssuerConfig, RouteConfig, Serve};
use crate::listener::{BindError, Passed};
use crate::metrics::Metrics;
use crate::proxy::{Proxy, RouteService, Snapshot, SnapshotCell, TokenService};
use crate::reload::Change;
use crate::telemetry::LogControl;
use crate::token::{TokenCache, TokenSlot};
use crate::trace::{Tracer, TracerCell};
use crate::upstream::{Origins, Upstream};
pub use alone::{Alone, serve_alone};
pub use listeners::settings as listener_settings;
pub use room::{harden, install_panic_hook, with_inherited_limits};
pub use service_manager::NotifySocket;

/// What the program does besides serving. A test that runs the proxy in its own process needs none of it.
#[derive(Default)]
pub struct Options {
    /// SIGHUP reloads; SIGTERM and SIGINT end the program.
    pub signals: bool,
    /// A changed file reloads.
    pub watch: bool,
    /// Applies the `[log]` of a reload.
    pub log: Option<LogControl>,
    /// The service manager's socket (`NOTIFY_SOCKET`), which gets the program's state.
    pub notify: Option<NotifySocket>,
    /// Sockets that the service manager passed.
    pub passed: Passed,
}

/// Why the program does not start.
#[derive(Debug)]
pub enum StartError {
    /// Addresses that are taken or may not be bound.
    Address(Vec<BindError>),
    /// Errors that show only once files are read, such as a listener's certificate that does not fit its key.
    Settings(Vec<String>),
    /// The machine refuses a thread, a socket, or the like.
    System(String),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(errors) => {
                let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
                f.write_str(&lines.join("\n"))
            }
            Self::Settings(messages) => f.write_str(&messages.join("\n")),
            Self::System(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for StartError {}

/// Everything that stays the same across reloads.
struct Shared {
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    snapshot: Arc<SnapshotCell>,
    tokens: TokenCache,
    /// The snapshot's tracer, for token requests, whose slots outlive the snapshot.
    tracers: Arc<TracerCell>,
    addresses: Arc<ArcSwap<Addresses>>,
    passed: Arc<Passed>,
}

/// Binds all addresses, then serves. Returns as soon as every listener accepts connections. The first tokens may still be on
/// their way.
///
/// # Errors
/// Nothing keeps running if the start fails.
pub fn start(config: Config, clock: SharedClock, options: Options) -> Result<Running, StartError> {
    crate::net::recognize_own();
    let config = Arc::new(config);
    let metrics = Arc::new(Metrics::new(config.workers));
    let passed = Arc::new(options.passed);
    fits(&passed, &config)?;
    let sources = Sources::bind(&config, &passed).map_err(StartError::Address)?;
    programs::run_first(&config);
    // Before anything is made of the files, so that a change from here on is noticed.
    let known_files = KnownFiles::of(&config);
    let settings = listeners::settings(&config, None, &metrics).map_err(StartError::Settings)?;
    bundles::write_first(&settings).map_err(StartError::System)?;
    let room = Room::of(&config);
    room.take();
    orphans::wait_as_process_1()
        .map_err(|error| system("cannot start the thread that waits for orphans", &error))?;

    let runtime =
        worker::runtime().map_err(|error| system("cannot start the control thread's runtime", &error))?;
    let entered = runtime.enter();
    // Before the first request is accepted, because from then on a signal must not interrupt requests.
    let signals = options
        .signals
        .then(Signals::new)
        .transpose()
        .map_err(|error| system("cannot listen to signals", &error))?;

    let tracer = config.tracing.as_ref().map(|tracing| Tracer::start(tracing, runtime.handle(), &metrics));
    let tracer = tracer.transpose().map_err(|error| StartError::Settings(vec![error]))?;
    let tracers = Arc::new(TracerCell::from(tracer.clone()));
    let control_runtime = runtime.handle().clone();
    let tokens =
        TokenCache::new(control_runtime, Arc::clone(&clock), Arc::clone(&metrics), Arc::clone(&tracers));
    tokens.use_store(config.store.as_ref());
    tokens.use_budgets(config.issuers.values());
    let mut first =
        build(&config, None, &Parts { tokens: &tokens, metrics: &metrics, changed: &Change::default() });
    first.tracer = tracer;
    let snapshot = Arc::new(SnapshotCell::from_pointee(first));
    let health = Arc::new(Health::new());
    let missing = config::missing_values(&config);
    let mut service = ServiceManager::new(options.notify);
    service.set_missing(&missing);
    health.set_missing(missing);
    let proxy = Arc::new(Proxy::new(Arc::clone(&snapshot)));

    let (reports_to, reports) = mpsc::unbounded_channel();
    let workers = Workers::start(config.workers, &proxy, &reports_to)
        .map_err(|error| system("cannot start a worker thread", &error))?;
    let mut listeners = Listeners::new(CancellationToken::new());
    let shares = listeners.prepare(&settings, sources.listeners, &workers).map_err(StartError::System)?;
    listeners.apply(&settings, shares, &workers);
    let mut bundles = Bundles::new(Arc::clone(&health));
    bundles.keep(&settings, true);

    let mut webhooks = Webhooks::new(Arc::clone(&clock), metrics.webhooks(), Arc::clone(&snapshot));
    webhooks.apply(&config.webhooks, sources.webhooks);
    let views = webhooks.views();
    let admin = Admin::new(
        Arc::clone(&metrics),
        Arc::clone(&snapshot),
        Arc::clone(&health),
        clock,
        views,
        tokens.store_cell(),
        tokens.budgets(),
    );
    let admin = Arc::new(admin);
    let admin = AdminServer::start(admin, sources.admin, &config.admin.address);
    let addresses = Arc::new(ArcSwap::from_pointee(Addresses {
        listeners: listeners.addresses(),
        admin: admin.held().local.clone(),
        webhooks: webhooks.addresses(),
    }));
    announce(&config);
    room.warn(&config);
    service.started(&snapshot.load());
    let watched = sd_notify::watchdog_enabled().filter(|timeout| !timeout.is_zero());
    if let Some((timeout, tell)) = watched.zip(service.keep_alive()) {
        tokio::spawn(worker::watchdog(timeout, workers.pings(), tell));
    }
    prefetch(&snapshot.load());
    warn_beside(&config);
    drop(entered);

    let shared =
        Shared { metrics, health, snapshot, tokens, tracers, addresses: Arc::clone(&addresses), passed };
    let (orders_to, orders) = mpsc::unbounded_channel();
    let control = Control {
        shared,
        listeners,
        bundles,
        workers,
        admin,
        webhooks,
        orders,
        reports,
        signals,
        log: options.log,
        service,
        reloading: Reloading::new(known_files, options.watch),
        programs: Programs::default(),
    };
    let thread = std::thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || {
            config::files::hurry();
            control.run_on(runtime)
        })
        .map_err(|error| system("cannot start the control thread", &error))?;
    Ok(Running::new(addresses, orders_to, thread))
}

/// Refuses passed sockets without a listener: they would accept connections that nothing serves.
fn fits(passed: &Passed, config: &Config) -> Result<(), StartError> {
    let unfit = sockets::unfit(passed, config);
    let messages: Vec<String> = unfit.errors.into_iter().chain(unfit.strays).collect();
    if messages.is_empty() { Ok(()) } else { Err(StartError::Settings(messages)) }
}

/// Fetches every credential now that is not only for requests to a token listener, so that the first request finds a token.
fn prefetch(snapshot: &Snapshot) {
    for slot in slots_at_start(snapshot) {
        slot.prefetch();
    }
}

/// Checks references, such as missing secrets, on another thread, so that they do not delay the start.
fn warn_beside(config: &Arc<Config>) {
    static CHECKING: Aside = Aside::new("references", 4);
    let config = Arc::clone(config);
    let checking = CHECKING.spawn(move || {
        for problem in config.warnings.iter().chain(&config::check_references(&config)) {
            tracing::warn!(event = "config.warning", "{}", reloading::one_line(problem));
        }
    });
    if let Err(error) = checking {
        tracing::warn!(event = "config.files_not_watched", %error, "what the config names was not looked for");
    }
}

fn announce(config: &Config) {
    tracing::info!(
        event = "process.started",
        version = env!("CARGO_PKG_VERSION"),
        config = %config.path.display(),
        routes = config.routes.len(),
        issuers = config.issuers.len(),
        workers = config.workers,
        "bearerd is serving"
    );
}

fn system(what: &str, error: &std::io::Error) -> StartError {
    StartError::System(format!("{what}: {error}"))
}

/// What a snapshot is built from, besides the config.
pub struct Parts<'a> {
    pub tokens: &'a TokenCache,
    pub metrics: &'a Metrics,
    /// What changed since `previous` was built.
    pub changed: &'a Change,
}

/// Builds the snapshot of `config`. Tokens whose key did not change stay, and so do connections whose settings and files did
/// not change.
pub fn build(config: &Arc<Config>, previous: Option<&Snapshot>, parts: &Parts<'_>) -> Snapshot {
    let old = previous.iter().flat_map(|previous| &previous.routes);
    let kept: Vec<_> = old.filter(|old| !connects_with(&old.config, parts.changed)).collect();
    let hosts: Vec<_> = kept.iter().flat_map(|old| old.at_hosts()).collect();
    let kept = kept.into_iter().chain(&hosts);
    let mut origins = Origins::known(kept.map(|old| Arc::clone(old.upstream.origin())));
    let service = |route| {
        let service = service(config, route, &mut origins, parts);
        service.keep_hosts(&hosts, &mut origins);
        service
    };
    let routes = config.routes.iter().map(service).collect();
    let version = previous.map_or(1, |previous| previous.version + 1);
    let mut snapshot = Snapshot::new(version, Arc::clone(config), routes, parts.metrics, previous);
    snapshot.token_services = token_services(config, &snapshot.routes, parts.tokens);
    snapshot
}

/// What token listeners hand out: the tokens of all issuers.
fn token_services(
    config: &Config,
    routes: &[Arc<RouteService>],
    tokens: &TokenCache,
) -> BTreeMap<Arc<str>, Arc<TokenService>> {
    if !config.listeners.iter().any(|listener| listener.serve() == Serve::Token) {
        return BTreeMap::new();
    }
    let needed = with_inner(route_slots(routes), |slot| slot.inner().to_vec());
    let used: HashSet<&str> = needed.iter().map(|slot| &*slot.issuer().name).collect();
    let service = |issuer: &Arc<IssuerConfig>| {
        let own = tokens.slot(&issuer.own_credential(), issuer, config.limits.waiters);
        // An issuer may grant nothing without the scopes of a route.
        let on_demand = used.contains(&*issuer.name);
        (Arc::clone(&issuer.name), Arc::new(TokenService::new(issuer, own, on_demand, routes)))
    };
    config.issuers.values().map(service).collect()
}

fn service(
    config: &Config,
    route: &Arc<RouteConfig>,
    origins: &mut Origins,
    parts: &Parts<'_>,
) -> Arc<RouteService> {
    let slot = match &route.credential {
        Credential::Anonymous => None,
        Credential::Issuer { issuer, key } => Some(parts.tokens.slot(key, issuer, config.limits.waiters)),
    };
    let metrics = parts.metrics.route(&route.name);
    let upstream = Upstream::new(route, origins.of(route), Arc::clone(&metrics));
    Arc::new(RouteService::new(route, slot, Arc::new(upstream), metrics))
}

/// Every slot once, even if several routes share it, with the slots of other issuers that it needs.
fn slots(snapshot: &Snapshot) -> Vec<Arc<TokenSlot>> {
    let handed_out = snapshot.token_services.values().map(|service| Arc::clone(&service.own));
    with_inner(route_slots(&snapshot.routes).chain(handed_out), |slot| {
        slot.inner_of_either().cloned().collect()
    })
}

/// Those whose tokens are fetched without a request.
fn slots_at_start(snapshot: &Snapshot) -> Vec<Arc<TokenSlot>> {
    let services = snapshot.token_services.values().filter(|service| !service.on_demand);
    let own = services.map(|service| Arc::clone(&service.own));
    with_inner(route_slots(&snapshot.routes).chain(own), |slot| slot.inner().to_vec())
}

fn route_slots(routes: &[Arc<RouteService>]) -> impl Iterator<Item = Arc<TokenSlot>> {
    routes.iter().filter_map(|route| route.slot.clone())
}

fn with_inner(
    slots: impl Iterator<Item = Arc<TokenSlot>>,
    inner: impl Fn(&TokenSlot) -> Vec<Arc<TokenSlot>>,
) -> Vec<Arc<TokenSlot>> {
    let mut all: Vec<Arc<TokenSlot>> = Vec::new();
    let mut met = HashSet::new();
    let mut next: VecDeque<Arc<TokenSlot>> = slots.collect();
    while let Some(slot) = next.pop_front() {
        if met.insert(Arc::as_ptr(&slot)) {
            next.extend(inner(&slot));
            all.push(slot);
        }
    }
    all
}

/// Whether the route's connections depend on what changed.
fn connects_with(route: &RouteConfig, changed: &Change) -> bool {
    route.connection.sources().any(|source| changed.concerns(source))
}

/// The real addresses, such as `127.0.0.1:43211` or `unix:/run/x.sock`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// By the listener's name.
    pub listeners: BTreeMap<String, String>,
    pub admin: String,
    /// By the webhook's name.
    pub webhooks: BTreeMap<String, String>,
}

/// How the proxy ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Every request ended by itself.
    Drained,
    /// Requests were cut off by `shutdown_timeout`, a second signal, or [`Running::stop`].
    Cut,
    /// Something failed. The log has it too.
    Failed(String),
}

/// A handle on a running proxy. Dropping it stops the proxy at once, without waiting.
pub struct Running {
    addresses: Arc<ArcSwap<Addresses>>,
    orders: UnboundedSender<Order>,
    control: JoinHandle<Ended>,
}

impl Running {
    fn new(
        addresses: Arc<ArcSwap<Addresses>>,
        orders: UnboundedSender<Order>,
        control: JoinHandle<Ended>,
    ) -> Self {
        Self { addresses, orders, control }
    }

    /// The current addresses.
    pub fn addresses(&self) -> Arc<Addresses> {
        self.addresses.load_full()
    }

    /// Loads the config again, as SIGHUP does, and returns once the new one is in use.
    ///
    /// # Errors
    /// The reason why the old config stays in use.
    pub async fn reload(&self) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        let _ = self.orders.send(Order::Reload(reply));
        answer.await.unwrap_or_else(|_| Err("it is ending".to_owned()))
    }

    /// Ends as SIGTERM does: waits for `drain_delay`, accepts no more connections, and lets requests end.
    pub fn drain(&self) {
        let _ = self.orders.send(Order::Drain);
    }

    /// Ends at once and cuts off requests.
    pub fn stop(&self) {
        let _ = self.orders.send(Order::Stop);
    }

    /// Blocks until the proxy has ended.
    pub fn join(self) -> Ended {
        self.control.join().unwrap_or_else(|_| Ended::Failed("the control thread panicked".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::{Source, fixture};

    fn file(path: &str) -> Source {
        Source::file(PathBuf::from(path), None)
    }

    #[test]
    fn a_changed_file_touches_only_routes_that_use_it() {
        let mut route = fixture::route();
        route.connection.tls.ca = Some(file("/ca.pem"));
        let changed = |path: &str| Change { files: [PathBuf::from(path)].into(), ..Change::default() };
        assert!(connects_with(&route, &changed("/ca.pem")));
        assert!(!connects_with(&route, &changed("/other.pem")));
        assert!(!connects_with(&route, &Change { made: true, ..Change::default() }));
    }
}
