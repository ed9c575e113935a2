//! Everything that one config comes to, as one value: a request loads it once and keeps it to its end.

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::caller::{Caller, ListenerRules};
use super::dpop;
use super::error::{Code, ProxyError};
use super::inject::Injection;
use super::location::LocationRule;
use crate::clock::{Clock as _, SystemClock};
use crate::config::{Config, Credential, HeaderEdits, RouteConfig, Source};
use crate::metrics::{Metrics, RouteMetrics};
use crate::route::RouteTable;
use crate::telemetry::Repeated;
use crate::token::{Token, TokenSlot};
use crate::trace::Tracer;
use crate::upstream::{Head, TrailerRules, Upstream};

/// Where the running snapshot stands; a reload swaps it.
pub type SnapshotCell = ArcSwap<Snapshot>;

/// See the module.
pub struct Snapshot {
    /// Grows with every load.
    pub version: u64,
    pub config: Arc<Config>,
    pub table: RouteTable,
    /// In the order of `Config::routes`.
    pub routes: Vec<Arc<RouteService>>,
    /// In the order of `Config::listeners`.
    pub listeners: Vec<Arc<ListenerRules>>,
    /// Listeners of the snapshot before that are no longer in the config: their last requests may be on their way.
    gone: Vec<Arc<ListenerRules>>,
    /// For requests that no route serves.
    pub unrouted: Arc<RouteMetrics>,
    /// `None`: `[tracing]` is off. Whoever builds the snapshot puts it here.
    pub tracer: Option<Arc<Tracer>>,
}

impl Snapshot {
    /// Builds what does not depend on anything that runs: the table, and the listeners' rules.
    pub fn new(
        version: u64,
        config: Arc<Config>,
        routes: Vec<Arc<RouteService>>,
        metrics: &Metrics,
        previous: Option<&Self>,
    ) -> Self {
        let table = RouteTable::build(&config.routes);
        let listeners =
            config.listeners.iter().map(|listener| Arc::new(ListenerRules::new(listener))).collect();
        let stays = |old: &ListenerRules| config.listeners.iter().any(|new| new.name == old.config.name);
        let before = previous.iter().flat_map(|previous| &previous.listeners);
        let gone = before.filter(|old| !stays(old)).cloned().collect();
        Self { version, config, table, routes, listeners, gone, unrouted: metrics.unrouted(), tracer: None }
    }

    /// The rules for a caller's connection, and the listener's index. A connection that a listener accepted under
    /// another name is found by its address; one whose listener is gone is served to its end by the rules that it had.
    pub(super) fn listener(&self, caller: &Caller) -> Option<(usize, &ListenerRules)> {
        let named = |rules: &Arc<ListenerRules>| rules.config.name == caller.listener;
        let placed = |rules: &Arc<ListenerRules>| rules.config.address == caller.address;
        let known = &self.listeners;
        if let Some(index) = known.iter().position(named).or_else(|| known.iter().position(placed)) {
            return Some((index, known.get(index)?));
        }
        let gone = self.gone.iter().find(|rules| named(rules) || placed(rules))?;
        Some((NO_LISTENER, gone))
    }
}

/// No route names it.
const NO_LISTENER: usize = usize::MAX;

/// A route with all that it needs to serve.
pub struct RouteService {
    pub config: Arc<RouteConfig>,
    /// `None`: anonymous.
    pub slot: Option<Arc<TokenSlot>>,
    pub upstream: Arc<Upstream>,
    pub metrics: Arc<RouteMetrics>,
    pub(super) injection: Injection,
    pub(super) request_edits: Edits,
    pub(super) response_edits: Edits,
    pub(super) location: LocationRule,
    pub(super) request_trailers: TrailerRules,
    pub(super) response_trailers: TrailerRules,
    /// By [`Code`]: an outage fails every request with the same words.
    complaints: [Repeated; Code::ALL.len()],
}

impl RouteService {
    /// Reads the values of the header edits; read again with every reload.
    pub fn new(
        config: &Arc<RouteConfig>,
        slot: Option<Arc<TokenSlot>>,
        upstream: Arc<Upstream>,
        metrics: Arc<RouteMetrics>,
    ) -> Self {
        let injection = Injection::new(config);
        let (request_edits, response_edits) =
            (Edits::new(&config.request_headers), Edits::new(&config.response_headers));
        Self {
            slot,
            upstream,
            metrics,
            request_trailers: TrailerRules::new(injection.headers().chain(request_edits.names())),
            response_trailers: TrailerRules::new(response_edits.names()),
            injection,
            request_edits,
            response_edits,
            location: LocationRule::new(config),
            complaints: Default::default(),
            config: Arc::clone(config),
        }
    }

    /// Puts a token on a request, in the place of any other; with its proof, where it is bound to a key.
    ///
    /// # Errors
    /// See [`Injection::apply`] and [`dpop::prove`].
    pub(super) fn put_on(&self, head: &mut Head, token: &Token) -> Result<(), ProxyError> {
        self.injection.apply(head, token)?;
        match &token.prover {
            None => Ok(()),
            Some(prover) => dpop::prove(self, prover, head, token),
        }
    }

    /// Whether it is time to warn of a failure with this code; see [`Repeated::due`].
    pub(super) fn complains(&self, code: Code) -> Option<u64> {
        self.complaints.get(code as usize).map_or(Some(0), |complaint| complaint.due(SystemClock.boot()))
    }

    /// The issuer's name, for errors and pages.
    pub fn issuer(&self) -> Option<&Arc<str>> {
        match &self.config.credential {
            Credential::Anonymous => None,
            Credential::Issuer { issuer, .. } => Some(&issuer.name),
        }
    }
}

/// Header edits with their values read.
#[derive(Debug)]
pub(super) struct Edits {
    pub(super) set: Vec<(HeaderName, HeaderValue)>,
    pub(super) remove: Vec<HeaderName>,
    /// A value that could not be read: calls fail rather than go without it.
    pub(super) unreadable: Option<String>,
}

impl Edits {
    fn new(edits: &HeaderEdits) -> Self {
        let mut unreadable = None;
        let mut set = Vec::new();
        for (name, source) in &edits.set {
            match value(source) {
                Ok(value) => set.push((name.clone(), value)),
                Err(why) => unreadable = Some(format!("the value of header {name} cannot be used: {why}")),
            }
        }
        Self { set, remove: edits.remove.clone(), unreadable }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.set.iter().map(|(name, _)| name).chain(&self.remove)
    }

    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
    }
}

fn value(source: &Source) -> Result<HeaderValue, String> {
    let (secret, _) = source.read_or_last_good().map_err(|error| error.to_string())?;
    let mut value = HeaderValue::from_bytes(secret.expose())
        .map_err(|_| format!("{} has characters that no header may have", source.place()))?;
    value.set_sensitive(!source.is_literal());
    Ok(value)
}
