//! From what is written to what is used: defaults, references between tables, and every check that needs more than one
//! key. This file has the top level, `[limits]`, `[log]`, and `[admin]`.

mod budget;
mod chain;
mod digest;
mod issuer;
mod listener;
mod needs;
mod route;
mod spiffe;
mod store;
mod tracing;
mod value;
mod written;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::config::document::{Document, FileText, Place};
use crate::config::environment::OtelVariables;
use crate::config::model::{
    Address, Admin, Config, ForProgram, IssuerConfig, Limits, Log, RouteConfig, Serve,
};
use crate::config::raw::values::{Lasting, check};
use crate::config::raw::{RawAdmin, RawFile, RawIssuer, RawLimits, RawLog, RawRoute};
use crate::config::report::{Report, Severity};
use crate::config::types;

/// The main file and the files that it includes.
pub(crate) struct Input<'t> {
    pub main: (&'t Document<'t>, RawFile),
    pub included: Vec<(&'t Document<'t>, RawFile)>,
    pub include_folders: Vec<std::path::PathBuf>,
    pub program: Option<ForProgram>,
}

/// Every issuer of the files; `None` if it has errors.
type Issuers = BTreeMap<String, Option<Arc<IssuerConfig>>>;

/// The tables that other tables may name.
pub(crate) struct Known {
    pub issuers: Issuers,
    pub chains: chain::Chains,
    pub listeners: listener::Listeners,
}

/// The admin address of `bearerd exec` if the file has none, so that any number of programs run at the same time.
const ANY_PORT: &str = "127.0.0.1:0";

/// The config, or `None` if there is an error.
pub(crate) fn resolve(input: Input<'_>, otel: &OtelVariables, report: &mut Report) -> Option<Config> {
    let Input { main: (main, raw), included, include_folders, program } = input;
    let RawFile {
        workers,
        include: _,
        drain_delay,
        shutdown_timeout,
        limits,
        log,
        tracing,
        admin,
        store,
        listener,
        issuer,
        route,
        webhook,
    } = raw;
    let top = main.root();
    let workers = workers.read(&top, "workers", report);
    let shutdown_timeout = read_shutdown(&top, shutdown_timeout, report);
    let drain_delay = drain_delay.read(&top, "drain_delay", report);
    let limits = read_limits(&top.key("limits"), limits.unwrap_or_default(), report);
    let log = read_log(&top.key("log"), log.unwrap_or_default(), report);
    let default = if program.is_some() { ANY_PORT } else { RawAdmin::ADDRESS };
    let admin = read_admin(&top.key("admin"), admin.unwrap_or_default(), default, report);
    let listeners = listener::resolve(&top, listener, &admin, program.as_ref(), report);
    // Before the issuers, because their references name webhooks.
    let webhooks = listener::resolve_webhooks(&top, webhook, taken(&admin, &listeners), report);
    let store = store::resolve(&top.key("store"), store, report);
    let tracing = tracing::resolve(&top.key("tracing"), tracing, otel, report);

    let mut issuers = vec![(main, issuer)];
    let mut routes = vec![(main, route)];
    for (document, raw) in included {
        issuers.push((document, raw.issuer));
        routes.push((document, raw.route));
    }
    let files: Vec<_> = issuers.iter().map(|(document, _)| document.file.absolute.clone()).collect();
    let shown =
        |(document, _): &(&Document<'_>, _)| (document.file.display.clone(), document.file.absolute.clone());
    let shown_files: Vec<_> = issuers.iter().map(shown).collect();
    let (issuers, chains, places) = all_issuers(issuers, &listeners, report);
    let known = Known { issuers, chains, listeners };
    listener::check_token_listeners(&top, &known, report);
    let routes = all_routes(routes, &known, report);
    listener::check_forward_listeners(&top, &known, &routes, report);
    budget::check(&places, &known.issuers, &routes, report);
    needs::check(&places, &known.issuers, &routes, report);
    let tables = written::Tables {
        admin: admin.as_ref(),
        listeners: &known.listeners,
        webhooks: &webhooks,
        store: store.as_ref(),
        program: program.as_ref(),
    };
    value::check_writers_of_main(&top.key("include"), report);
    let written = written::check(&top, &shown_files, &tables, report);

    if report.problems.iter().any(|problem| problem.severity == Severity::Error) {
        return None;
    }
    Some(Config {
        path: main.file.absolute.clone(),
        files,
        include_folders,
        workers,
        drain_delay,
        shutdown_timeout,
        limits,
        log: log?,
        tracing: tracing.map(Arc::new),
        admin: admin?,
        store: store.map(Arc::new),
        listeners: known.listeners.configs.into_iter().flatten().collect(),
        issuers: known.issuers.into_iter().filter_map(|(name, issuer)| Some((name, issuer?))).collect(),
        routes,
        webhooks,
        warnings: Vec::new(),
        references: Vec::new(),
        written,
        program,
    })
}

/// What `resolve` makes of an empty file: the defaults.
fn unwritten<T>(resolve: impl FnOnce(&Place<'_>, &mut Report) -> T) -> T {
    let text = FileText::nowhere("");
    let (document, _) = Document::parse(&text);
    resolve(&document.root(), &mut Report::default())
}

/// Addresses that are already in use.
fn taken(admin: &Option<Admin>, listeners: &listener::Listeners) -> Vec<(Address, String)> {
    let admin = admin.iter().map(|admin| (admin.address.clone(), "the admin address".to_owned()));
    let listeners = listeners.configs.iter().flatten();
    let listeners =
        listeners.map(|listener| (listener.address.clone(), format!("listener `{}`", listener.name)));
    admin.chain(listeners).collect()
}

/// Every issuer, and where each is written.
fn all_issuers<'t>(
    written: Vec<(&'t Document<'t>, BTreeMap<String, RawIssuer>)>,
    listeners: &listener::Listeners,
    report: &mut Report,
) -> (Issuers, chain::Chains, BTreeMap<String, Place<'t>>) {
    let mut places: BTreeMap<String, Place<'t>> = BTreeMap::new();
    let mut issuers = BTreeMap::new();
    for (document, tables) in written {
        for (name, raw) in tables {
            let place = document.root().key("issuer").key(&name);
            if let Some(first) = places.get(&name) {
                let message = format!("another issuer has this name, at {}", first.label());
                report.error(&place, message, "give one of them another name");
                continue;
            }
            let issuer = issuer::resolve(&place, &name, raw, listeners, report);
            places.insert(name.clone(), place);
            issuers.insert(name, issuer);
        }
    }
    let (issuers, chains) = chain::link(issuers, &places, report);
    (issuers, chains, places)
}

fn all_routes<'t>(
    written: Vec<(&'t Document<'t>, Vec<RawRoute>)>,
    known: &Known,
    report: &mut Report,
) -> Vec<Arc<RouteConfig>> {
    let mut names: BTreeMap<String, Place<'t>> = BTreeMap::new();
    let mut matches = Vec::new();
    let mut routes = Vec::new();
    let main = written.first().map(|(document, _)| *document);
    for (document, tables) in written {
        let all = document.root().key("route");
        for (index, mut raw) in tables.into_iter().enumerate() {
            let place = all.index(index);
            let name = unique_name(&place, raw.name.take(), &mut names, report);
            let matching = route::matching(&place, &mut raw, known, report);
            let label = name.clone().unwrap_or_default();
            routes
                .extend(route::resolve(&place, &label, raw, matching.as_ref(), known, report).map(Arc::new));
            matches.extend(matching.map(|matching| route::Candidate { place, name: label, matching }));
        }
    }
    route::refuse_ties(&matches, report);
    let serve = |serve| known.listeners.configs.iter().flatten().any(|config| config.serve() == serve);
    let none = names.is_empty() && matches.is_empty() && !report.incomplete && !serve(Serve::Token);
    if let Some(main) = main.filter(|_| none) {
        let place = main.root().key("route");
        report.missing(
            &place,
            "there is no route, so nothing would be forwarded",
            "add a [[route]] with name, upstream and issuer",
        );
    }
    routes
}

fn unique_name<'t>(
    place: &Place<'t>,
    name: Option<String>,
    names: &mut BTreeMap<String, Place<'t>>,
    report: &mut Report,
) -> Option<String> {
    let at = place.key("name");
    let Some(name) = name else {
        report.missing(&at, "is missing", "every route has a name: name = \"billing\"");
        return None;
    };
    check(&at, types::name(&name), report)?;
    if let Some(first) = names.get(&name) {
        let message = format!("another route has this name, at {}", first.label());
        report.error(&at, message, "give one of them another name");
    } else {
        names.insert(name.clone(), at);
    }
    Some(name)
}

/// "No limit", where a time must be added: longer than any process runs, and short enough for every clock.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// `shutdown_timeout`.
fn read_shutdown<const SECONDS: u64>(
    top: &Place<'_>,
    written: Lasting<SECONDS>,
    report: &mut Report,
) -> Duration {
    written.timeout(top, "shutdown_timeout", report).unwrap_or(NEVER)
}

fn read_limits(at: &Place<'_>, raw: RawLimits, report: &mut Report) -> Limits {
    Limits {
        header_bytes: raw.header_bytes.read(at, "header_bytes", report),
        header_count: raw.header_count.read(at, "header_count", report),
        header_timeout: raw.header_timeout.timeout(at, "header_timeout", report),
        keep_alive: raw.keep_alive.timeout(at, "keep_alive", report),
        connections: raw.connections.read(at, "connections", report),
        waiters: raw.waiters.read(at, "waiters", report),
    }
}

/// `None` if its level is wrong.
fn read_log(at: &Place<'_>, raw: RawLog, report: &mut Report) -> Option<Log> {
    let level = raw.level.as_deref().unwrap_or(RawLog::LEVEL);
    let level = check(&at.key("level"), types::log_filter(level), report);
    let format = raw.format.read(at, "format", report);
    Some(Log { format, level: level?, access: raw.access.0 })
}

/// `None` if its address is wrong.
fn read_admin(at: &Place<'_>, raw: RawAdmin, default: &str, report: &mut Report) -> Option<Admin> {
    let callers = raw.callers.read(at, "callers", report);
    let address = raw.address.as_deref().unwrap_or(default);
    let address = check(&at.key("address"), types::address(address, &at.document.file.folder), report)?;
    Some(Admin { address, callers })
}
