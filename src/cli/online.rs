//! `bearerd check --online`: what issuers and upstreams say about a config, on one screen.
//!
//! It requests tokens and opens connections to upstreams exactly as the proxy does, and sends no request over those. If
//! bearerd runs, it also sends a CONNECT through each forward listener; if not, it serves them itself for that. Nothing that
//! it shows contains a secret.

mod forward;
mod guess;
mod issuer;
mod report;

use std::future::Future;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cli::args::{Common, Output};
use crate::cli::online::report::{
    ForwardReport, IssuerReport, Report, StoreReport, TlsReport, UpstreamReport,
};
use crate::cli::{Exit, Failure, check as offline, find, output, show_programs};
use crate::clock::{Clock, SystemClock, millis};
use crate::config::{
    self, Config, ConnectionConfig, Credential, CredentialKey, HostPattern, IssuerConfig, Problem,
    RouteConfig, StoreConfig, UpstreamTarget, UpstreamUrl,
};
use crate::issuer::chained_by_either;
use crate::net::{Connected, Connector, Facts, tls_cause};
use crate::store::Probed;

/// The time limit of the whole run. Whatever has not ended by then is reported as such.
const LIMIT: Duration = Duration::from_secs(60);
/// How long programs for others than issuers may take.
const MAKING: Duration = Duration::from_secs(15);
/// How many issuers and upstreams are checked at the same time.
const AT_ONCE: usize = 16;

/// The options of the command line.
#[derive(Debug, Clone, Copy)]
pub(super) struct OnlineOptions {
    /// A few more requests may find out what a refusing issuer accepts.
    pub(super) guess: bool,
    pub(super) output: Output,
}

pub(super) fn check(common: &Common, asked: OnlineOptions) -> Result<Exit, Failure> {
    let path = find(common)?;
    let Ok(config) = config::load_to_examine(&path) else { return offline::check(common, asked.output) };
    let _shown_until_the_end = show_programs(&config);
    config::make_all(&config.made_values(), MAKING);
    let problems = offline::all_problems(&config);
    if problems.iter().any(offline::is_error) {
        return offline::check(common, asked.output);
    }
    let config = Arc::new(config);
    let Asked { issuers, upstreams, forward, store } = ask(&config, asked.guess)?;
    let ok = issuers.iter().all(|issuer| issuer.ok)
        && upstreams.iter().all(|upstream| upstream.ok)
        && forward.iter().all(|forward| forward.ok);
    let report = Report {
        ok,
        config: path.to_string_lossy().into_owned(),
        problems: problems.iter().map(Problem::to_json).collect(),
        issuers,
        upstreams,
        forward,
        store,
    };
    match asked.output {
        Output::Json => output::answer_json(&serde_json::json!(report)),
        Output::Text => {
            let shown = format!("{}{}", offline::report(&problems), report::to_text(&report));
            output::answer_people(&output::harmless(&shown));
        }
    }
    Ok(if ok { Exit::Fine } else { Exit::No })
}

struct Asked {
    issuers: Vec<IssuerReport>,
    upstreams: Vec<UpstreamReport>,
    forward: Vec<ForwardReport>,
    store: Option<StoreReport>,
}

fn ask(config: &Arc<Config>, guess: bool) -> Result<Asked, Failure> {
    let forward = forward::tries(config);
    let runtime = super::runtime()?;
    let reports = runtime.block_on(ask_all(config, forward, guess));
    // A pending name look-up must not delay the exit.
    runtime.shutdown_background();
    Ok(reports)
}

async fn ask_all(config: &Arc<Config>, forward: Vec<forward::Try>, guess: bool) -> Asked {
    let bounds = Bounds { end: Instant::now() + LIMIT, now: SystemClock.wall(), guess };
    let planned = planned_upstreams(config);
    let stores = usize::from(config.store.is_some());
    let progress = Progress::new(config.issuers.len() + planned.len() + forward.len() + stores);
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut issuers = JoinSet::new();
    for (index, issuer) in config.issuers.values().enumerate() {
        let (room, issuer, progress) = (Arc::clone(&room), Arc::clone(issuer), Arc::clone(&progress));
        let wanted = wanted_credentials(config, &issuer);
        issuers.spawn(async move {
            let _permit = room.acquire_owned().await;
            let report = issuer::ask(issuer, wanted, bounds).await;
            progress.done("issuer", &report.name, report.ok);
            (index, report)
        });
    }
    let mut upstreams = JoinSet::new();
    for (index, planned) in planned.into_iter().enumerate() {
        let (room, progress) = (Arc::clone(&room), Arc::clone(&progress));
        upstreams.spawn(async move {
            let _permit = room.acquire_owned().await;
            let report = connect_upstream(planned, bounds).await;
            progress.done("upstream", &report.upstream, report.ok);
            (index, report)
        });
    }
    let mut forwards = JoinSet::new();
    for (index, forward) in forward.into_iter().enumerate() {
        let (progress, config) = (Arc::clone(&progress), Arc::clone(config));
        forwards.spawn(async move {
            let report = forward::connect(&config, forward, bounds).await;
            progress.done("listener", &report.listener, report.ok);
            (index, report)
        });
    }
    let probing = async {
        let report = probe_store(config.store.as_ref()?, bounds).await;
        progress.done("store", &report.store, report.ok);
        Some(report)
    };
    let (issuers, upstreams, forward, store) =
        tokio::join!(in_order(issuers), in_order(upstreams), in_order(forwards), probing);
    progress.end();
    Asked { issuers, upstreams, forward, store }
}

/// Writes, reads, and removes an entry of its own.
async fn probe_store(config: &Arc<StoreConfig>, bounds: Bounds) -> StoreReport {
    let store = super::store::open(config);
    let mut report = StoreReport { store: store.place(), ..StoreReport::default() };
    match bounds.hold(store.probe()).await {
        Some(Ok(Probed { latency, server, warnings })) => {
            report.ok = true;
            report.server = Some(server);
            report.ms = Some(latency.as_secs_f64() * 1000.0);
            report.warnings = warnings;
        }
        Some(Err(gone)) => report.error = Some(gone.detail),
        None => report.error = Some(out_of_time()),
    }
    report
}

/// In the order of the config.
async fn in_order<T: 'static>(tasks: JoinSet<(usize, T)>) -> Vec<T> {
    let mut ended = tasks.join_all().await;
    ended.sort_by_key(|(index, _)| *index);
    ended.into_iter().map(|(_, report)| report).collect()
}

/// Limits and options of the whole run.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    end: Instant,
    /// When the run began.
    now: SystemTime,
    guess: bool,
}

impl Bounds {
    /// `None`: the time limit was reached.
    async fn hold<T>(self, future: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout_at(self.end, future).await.ok()
    }

    fn over(self) -> bool {
        Instant::now() >= self.end
    }
}

/// The message of a failure by the time limit of the whole run.
fn out_of_time() -> String {
    format!(
        "no response within the {} that all of check --online may take",
        humantime::format_duration(LIMIT)
    )
}

/// A token that the proxy would request.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) key: CredentialKey,
    /// The routes that use it; empty: the issuer's own scopes, which no route uses.
    pub(super) routes: Vec<String>,
    /// The issuers whose token requests use it.
    pub(super) outer: Vec<String>,
    /// The proxy requests it, or no route uses this issuer.
    pub(super) needed: bool,
}

/// The tokens of one issuer: those of its routes in the order of the file, and its own.
pub(super) fn wanted_credentials(config: &Config, issuer: &IssuerConfig) -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for route in &config.routes {
        let Credential::Issuer { key, .. } = &route.credential else { continue };
        if key.issuer != issuer.name {
            continue;
        }
        match wanted.iter_mut().find(|known| known.key == *key) {
            Some(known) => known.routes.push(route.name.to_string()),
            None => {
                let routes = vec![route.name.to_string()];
                wanted.push(Wanted { key: key.clone(), routes, outer: Vec::new(), needed: true });
            }
        }
    }
    for (outer, key) in inner_tokens(config) {
        if *key.issuer != *issuer.name {
            continue;
        }
        match wanted.iter_mut().find(|known| known.key == key) {
            Some(known) if known.outer.contains(&outer) => {}
            Some(known) => known.outer.push(outer),
            None => wanted.push(Wanted { key, routes: Vec::new(), outer: vec![outer], needed: true }),
        }
    }
    let own = issuer.own_credential();
    if !wanted.iter().any(|known| known.key == own) {
        let needed = wanted.is_empty();
        wanted.push(Wanted { key: own, routes: Vec::new(), outer: Vec::new(), needed });
    }
    wanted
}

/// Every token of an issuer that token requests of another one use, with the name of the other one.
fn inner_tokens(config: &Config) -> Vec<(String, CredentialKey)> {
    let mut next: Vec<(Arc<IssuerConfig>, CredentialKey)> = Vec::new();
    for route in &config.routes {
        if let Credential::Issuer { issuer, key } = &route.credential {
            next.push((Arc::clone(issuer), key.clone()));
        }
    }
    next.extend(config.issuers.values().map(|issuer| (Arc::clone(issuer), issuer.own_credential())));
    let mut found = Vec::new();
    while let Some((issuer, key)) = next.pop() {
        for (_, chained) in chained_by_either(&issuer, &key) {
            let (inner, inner_key) = chained.token();
            let one = (issuer.name.to_string(), inner_key.clone());
            if !found.contains(&one) {
                found.push(one);
                next.push((Arc::clone(inner), inner_key.clone()));
            }
        }
    }
    found
}

/// An upstream, and how it is reached.
#[derive(Debug, Clone)]
struct Planned {
    routes: Vec<String>,
    /// Scheme, host and port.
    upstream: String,
    target: UpstreamTarget,
    connection: ConnectionConfig,
}

/// Routes that connect in the same way share a connection.
fn planned_upstreams(config: &Config) -> Vec<Planned> {
    let mut planned: Vec<Planned> = Vec::new();
    // A wildcard without `upstream` names no host to connect to.
    let each_host =
        |route: &RouteConfig| route.to_asked_host && matches!(route.host, Some(HostPattern::Wildcard(_)));
    for route in config.routes.iter().filter(|route| !each_host(route)) {
        let same = planned
            .iter_mut()
            .find(|known| known.target == route.upstream.target && known.connection == route.connection);
        match same {
            Some(known) => known.routes.push(route.name.to_string()),
            None => planned.push(Planned {
                routes: vec![route.name.to_string()],
                upstream: upstream_address(&route.upstream),
                target: route.upstream.target.clone(),
                connection: route.connection.clone(),
            }),
        }
    }
    planned
}

/// Where the connection goes, without a path.
fn upstream_address(upstream: &UpstreamUrl) -> String {
    match &upstream.target {
        UpstreamTarget::Tcp { https, .. } => {
            format!("{}://{}", if *https { "https" } else { "http" }, upstream.authority)
        }
        UpstreamTarget::Unix(path) => format!("unix:{}", path.display()),
    }
}

/// A longer line would wrap, and could not be erased as a whole.
const PROGRESS_WIDTH: usize = 78;
/// Moves to the start of the line and erases it.
const ERASE: &str = "\r\x1b[2K";

#[derive(Debug)]
struct Progress {
    shown: bool,
    all: usize,
    done: AtomicUsize,
}

impl Progress {
    /// Starts with `all` issuers and upstreams to wait for.
    fn new(all: usize) -> Arc<Self> {
        let dumb = std::env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
        let this = Self { shown: std::io::stderr().is_terminal() && !dumb, all, done: AtomicUsize::new(0) };
        this.say("");
        Arc::new(this)
    }

    fn done(&self, what: &str, name: &str, ok: bool) {
        self.done.fetch_add(1, Ordering::Relaxed);
        self.say(&format!(" ({what} {name}: {})", if ok { "ok" } else { "failed" }));
    }

    /// Erases the line, before the report.
    fn end(&self) {
        self.write("");
    }

    fn say(&self, last: &str) {
        let (done, all) = (self.done.load(Ordering::Relaxed), self.all);
        self.write(&progress_line(done, all, last));
    }

    fn write(&self, text: &str) {
        if self.shown {
            let mut stderr = std::io::stderr().lock();
            let _ = write!(stderr, "{ERASE}{text}").and_then(|()| stderr.flush());
        }
    }
}

fn progress_line(done: usize, all: usize, last: &str) -> String {
    let line = format!("asking issuers and upstreams: {done} of {all} answered{}", output::harmless(last));
    let line = line.replace(['\n', '\t'], " ");
    match line.char_indices().nth(PROGRESS_WIDTH) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

/// With TLS 1.3 a server refuses the client's certificate, or its absence, only after the handshake. This is how long
/// to wait for that.
const REFUSAL: std::ops::RangeInclusive<Duration> = Duration::from_millis(200)..=Duration::from_secs(1);

async fn connect_upstream(planned: Planned, bounds: Bounds) -> UpstreamReport {
    let connector =
        Connector::to_upstream(&planned.target, &planned.connection, planned.connection.protocol.into());
    let started = Instant::now();
    let outcome = bounds.hold(connector.connect()).await;
    let took = started.elapsed();
    let mut report = UpstreamReport {
        upstream: planned.upstream,
        routes: planned.routes,
        ok: false,
        address: None,
        protocol: None,
        ms: None,
        tls: None,
        error: None,
    };
    let mut connected = match outcome {
        Some(Ok(connected)) => connected,
        Some(Err(error)) => return UpstreamReport { error: Some(error.message), ..report },
        None => return UpstreamReport { error: Some(out_of_time()), ..report },
    };
    let facts = connected.stream.facts();
    let refused = match facts.tls {
        Some(_) => refusal(&mut connected, &connector, took).await,
        None => None,
    };
    report.ok = refused.is_none();
    report.error = refused;
    report.address = facts.address.map(|address| address.to_string());
    report.protocol = Some(if connected.http2 { "h2" } else { "http/1.1" });
    report.ms = Some(millis(took));
    report.tls = tls_report(&facts, bounds);
    report
}

fn tls_report(facts: &Facts, bounds: Bounds) -> Option<TlsReport> {
    let ends = facts.certificate.as_deref().and_then(|der| issuer::certificate_end(der, bounds.now));
    Some(TlsReport { version: facts.tls?.to_owned(), ends })
}

/// What the server says about the client's certificate. It needs about as long as the connection attempt took.
async fn refusal(connected: &mut Connected, connector: &Connector, took: Duration) -> Option<String> {
    let mut byte = [0; 1];
    let patience = took.clamp(*REFUSAL.start(), *REFUSAL.end());
    let read = tokio::time::timeout(patience, connected.stream.read(&mut byte)).await;
    match read {
        Ok(Err(error)) => tls_cause(&error, connector.who()).map(|cause| cause.message),
        // The server speaks first (HTTP/2 does), has closed, or waits for a request.
        Ok(Ok(_)) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_never_wraps_and_steers_nothing() {
        assert_eq!(
            progress_line(1, 3, " (issuer a: ok)"),
            "asking issuers and upstreams: 1 of 3 answered (issuer a: ok)"
        );
        let long = progress_line(1, 3, &format!(" (upstream {}\u{1b}[2J", "é".repeat(200)));
        assert_eq!(long.chars().count(), PROGRESS_WIDTH + 1);
        assert!(!long.contains('\u{1b}'));
    }
}
