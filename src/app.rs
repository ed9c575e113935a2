//! Wires everything: the only place where a config becomes a running proxy.
//!
//! [`start`] binds every address first, so that nothing else happens where an address is taken. Each worker thread has
//! a runtime of its own and serves every listener; one control thread fetches tokens, answers on the admin address,
//! reloads and ends the program.

mod admin_server;
mod build;
mod control;
mod drain;
mod harden;
mod listeners;
mod notify;
mod prepare;
mod reloading;
mod room;
mod running;
mod service_manager;
mod signals;
mod sockets;
mod watchdog;
mod webhooks;
mod worker;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::admin::{Admin, Health};
use crate::aside::Aside;
use crate::clock::SharedClock;
use crate::config::{self, Config};
use crate::listener::{BindError, Passed};
use crate::metrics::Metrics;
use crate::proxy::{Proxy, Snapshot, SnapshotCell};
use crate::telemetry::LogControl;
use crate::token::TokenCache;
use crate::trace::{Tracer, TracerCell};

pub use build::{Parts, build};
pub use harden::{harden, install_panic_hook};
pub use listeners::settings as listener_settings;
pub use notify::NotifySocket;
pub use running::{Addresses, Ended, Running};

use admin_server::AdminServer;
use control::Control;
use listeners::Listeners;
use prepare::LookedAt;
use reloading::Reloading;
use room::Room;
use service_manager::ServiceManager;
use signals::Signals;
use sockets::Sources;
use webhooks::Webhooks;
use worker::Workers;

/// What the program does around serving; a test that runs the proxy inside itself wants neither.
#[derive(Default)]
pub struct Options {
    /// SIGHUP reloads; SIGTERM and SIGINT end the program.
    pub signals: bool,
    /// A change of a file reloads.
    pub watch: bool,
    /// Where a reload puts another `[log]`.
    pub log: Option<LogControl>,
    /// A service manager listens (`NOTIFY_SOCKET`): it is told how the program stands.
    pub notify: Option<NotifySocket>,
    /// Sockets that it passed.
    pub passed: Passed,
}

/// Why the program does not start.
#[derive(Debug)]
pub enum StartError {
    /// Addresses that are taken or may not be bound.
    Address(Vec<BindError>),
    /// What only shows once files are read: a listener's certificate that does not fit its key.
    Settings(Vec<String>),
    /// The machine refuses a thread, a socket or the like.
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
    /// What the snapshot has, for token requests: their slots outlive it.
    tracers: Arc<TracerCell>,
    addresses: Arc<ArcSwap<Addresses>>,
    passed: Arc<Passed>,
}

/// Binds all addresses, then serves. Returns as soon as every listener accepts calls; tokens are still being fetched.
///
/// # Errors
/// Nothing is left behind where it fails.
pub fn start(config: Config, clock: SharedClock, options: Options) -> Result<Running, StartError> {
    let config = Arc::new(config);
    let metrics = Arc::new(Metrics::new(config.workers));
    let passed = Arc::new(options.passed);
    fits(&passed, &config)?;
    let sources = Sources::bind(&config, &passed).map_err(StartError::Address)?;
    let settings = listeners::settings(&config, None, &metrics).map_err(StartError::Settings)?;
    let room = Room::of(&config);
    room.take();

    let runtime =
        worker::runtime().map_err(|error| system("cannot start the control thread's runtime", &error))?;
    let entered = runtime.enter();
    // Asked for before the first request is accepted: from then on a signal must not kill calls.
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
    let mut first = build(&config, None, &Parts { tokens: &tokens, metrics: &metrics, changed: &[].into() });
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

    let mut webhooks = Webhooks::new(Arc::clone(&clock), metrics.webhooks(), Arc::clone(&snapshot));
    webhooks.apply(&config.webhooks, sources.webhooks);
    let views = webhooks.views();
    let admin = Admin::new(Arc::clone(&metrics), Arc::clone(&snapshot), Arc::clone(&health), clock, views);
    let admin = Arc::new(admin);
    let admin = AdminServer::start(admin, sources.admin, &config.admin.address);
    let addresses = Arc::new(ArcSwap::from_pointee(Addresses {
        listeners: listeners.addresses(),
        admin: admin.held().local.clone(),
        webhooks: webhooks.addresses(),
    }));
    announce(&config);
    room.tell(&config);
    service.started(&snapshot.load());
    let watched = sd_notify::watchdog_enabled().filter(|timeout| !timeout.is_zero());
    if let Some((timeout, tell)) = watched.zip(service.keep_alive()) {
        tokio::spawn(watchdog::run(timeout, workers.questions(), tell));
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
        workers,
        admin,
        webhooks,
        orders,
        reports,
        signals,
        log: options.log,
        service,
        reloading: Reloading::new(LookedAt::of(&config), options.watch),
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

/// A socket that nobody would accept on takes connections in and never answers: better not to start.
fn fits(passed: &Passed, config: &Config) -> Result<(), StartError> {
    let unfit = sockets::unfit(passed, config);
    let messages: Vec<String> = unfit.errors.into_iter().chain(unfit.strays).collect();
    if messages.is_empty() { Ok(()) } else { Err(StartError::Settings(messages)) }
}

/// Each credential is fetched now, so that the first request finds a token.
fn prefetch(snapshot: &Snapshot) {
    for slot in build::slots(snapshot) {
        slot.prefetch();
    }
}

/// Missing secrets and the like do not hold up the start: they are looked for beside it.
fn warn_beside(config: &Arc<Config>) {
    static CHECKING: Aside = Aside::new("references", 4);
    let config = Arc::clone(config);
    let checking = CHECKING.spawn(move || {
        for problem in config.warnings.iter().chain(&config::check_references(&config)) {
            tracing::warn!(event = "config.warning", "{}", prepare::one_line(problem));
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
