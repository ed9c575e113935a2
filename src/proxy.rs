//! The request path: what happens to one request between its listener and its upstream.
//!
//! [`Proxy::call`] is the only entry, and the only place where an error becomes a response. [`serve`] lists the steps.
//! Each step is a function of the file of its subject.

pub mod admit;
mod connect;
pub mod credential;
pub mod error;
mod forward;
mod headers;
mod record;
mod response;
mod token_endpoint;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version};
use tokio_util::sync::CancellationToken;

pub use admit::{Caller, ListenerRules, Peer};
pub(crate) use connect::{AskedHost, in_usual_spelling, route_at_host};
pub use connect::{Inside, InsideTls, Opened, ServerNameSeen};
pub use credential::fuzz_texts;
pub use error::{Code, ProxyError};
pub(crate) use headers::max_forwards;
pub use response::{Body, BodyError};
pub use token_endpoint::TokenService;

use crate::clock::{Clock as _, SystemClock};
use crate::config::{Config, Credential, HeaderEdits, Limits, RouteConfig, Serve, Source};
use crate::inbound::CallerBody;
use crate::metrics::{Metrics, RouteMetrics};
use crate::route::RouteTable;
use crate::telemetry::Repeated;
use crate::token::TokenSlot;
use crate::trace::Tracer;
use crate::upstream::{Origins, RequestBody, TrailerRules, Upstream};
use admit::{Admission, Admitted};
use credential::Injection;
use error::ErrorForm;
use headers::FieldSet;
use record::{Record, RequestTrace};
use response::{Content, LocationRule};

/// The proxy that all listeners and workers of a process share.
pub struct Proxy {
    snapshot: Arc<SnapshotCell>,
    http2_requests: Arc<Http2Requests>,
}

impl Proxy {
    pub fn new(snapshot: Arc<SnapshotCell>) -> Self {
        Self { snapshot, http2_requests: Arc::default() }
    }

    /// Serves one request. Every error becomes a response.
    pub async fn call(&self, caller: &Arc<Caller>, request: &mut Request<CallerBody>) -> Response<Body> {
        let snapshot = self.snapshot.load_full();
        let fields = FieldSet::of(request.headers());
        let head_only = request.method() == Method::HEAD;
        let mut record = self.begin_record(&snapshot, caller, request, fields);
        // Boxed, so that an idle connection reserves no space for it and hyper does not copy it.
        let steps = Box::pin(serve(&self.snapshot, &snapshot, caller, &mut record, request, fields));
        let mut response = match catch_panic(steps).await {
            Ok(response) => response,
            Err(error) => error::fail(error, &mut record, head_only),
        };
        response.headers_mut().insert(headers::X_REQUEST_ID, record.request_id.clone());
        record.status = response.status();
        response.map(|content| Body::new(content, record))
    }

    /// Starts what bearerd counts, logs, and traces about this request.
    fn begin_record(
        &self,
        snapshot: &Snapshot,
        caller: &Arc<Caller>,
        request: &mut Request<CallerBody>,
        fields: FieldSet,
    ) -> Box<Record> {
        let request_id = headers::request_id(request.headers(), fields);
        let grpc = fields.any(FieldSet::CONTENT_TYPE) && error::is_grpc(request.headers());
        let form = if grpc { ErrorForm::Grpc } else { ErrorForm::Problem };
        let mut record = Box::new(Record::begin(caller, request_id, form, &snapshot.unrouted));
        if request.version() == Version::HTTP_2 {
            record.http2 = Some(self.http2_requests.enter());
        }
        if snapshot.config.log.access {
            record.log_access(request);
        }
        if let Some(tracer) = &snapshot.tracer {
            let method = request.method().clone();
            record.trace = Some(RequestTrace::begin(tracer, &method, request.headers_mut()).into());
        }
        record
    }
}

/// The steps of one request, in order.
async fn serve(
    running: &Arc<SnapshotCell>,
    snapshot: &Snapshot,
    caller: &Arc<Caller>,
    record: &mut Record,
    request: &mut Request<CallerBody>,
    fields: FieldSet,
) -> Result<Response<Content>, ProxyError> {
    // May this request go on, and to which route?
    let listener = snapshot.listener(caller);
    let token_listener = listener.filter(|(_, rules)| rules.config.serve() == Serve::Token);
    if let Some((_, rules)) = token_listener {
        record.on_token_listener(&rules.metrics);
    }
    if let Some(http2) = &record.http2 {
        http2.check(&snapshot.config.limits)?;
    }
    if let Some((_, rules)) = token_listener {
        // Boxed, because every request would have its size.
        return Box::pin(token_endpoint::serve(snapshot, rules, caller, record, request, fields)).await;
    }
    let Admission { service, route_match, key_header, ends_here } =
        match admit::admit(snapshot, listener, caller, request, fields)? {
            Admitted::Route(admission) => admission,
            Admitted::Server => return Ok(response::options_response(None)),
            Admitted::Connect(asked) => return connect::open(asked, running, caller, request, record).await,
        };
    record.route = Some(Arc::clone(&service));
    if ends_here {
        return Ok(response::options_response(Some(&service.config)));
    }

    // What does the upstream get?
    let upgrade = if fields.any(FieldSet::UPGRADE) { forward::begin_upgrade(request) } else { None };
    if let Some(name) = key_header {
        request.headers_mut().remove(name);
    }
    let nominated = headers::prepare_request(request, caller, &service, record, fields)?;
    let token = credential::obtain_token(request, &service, record.trace.as_deref(), fields).await?;
    service.edit_request(request.headers_mut())?;
    let target = forward::upstream_target(&service.config, request.uri(), route_match)?;
    if let Some(upgrade) = &upgrade {
        upgrade.announce(request.headers_mut());
    }
    let mut head = forward::take_head(request, target, upgrade.is_some());
    if let Some(token) = &token {
        credential::set_credential(&service, &mut head, token).await?;
    }
    let (keep, idle) = (service.config.replay_limit, service.config.idle_timeout);
    let trailers = || service.request_trailers.with(key_header.into_iter().chain(&nominated));
    let body = RequestBody::new(std::mem::take(request.body_mut()), keep, idle, trailers);

    // Send it, a second time if the upstream refuses the token.
    let mut response = forward::send(&service, &mut head, body, token, record).await?;

    // What does the caller get?
    let fields = FieldSet::of(response.headers());
    response::check_response(&response, upgrade.is_some(), &service, fields)?;
    if let Some(upgrade) = upgrade {
        upgrade.complete(&mut response, caller, idle);
    }
    let nominated = response::prepare_response(&mut response, &service, fields);
    if caller.inside.is_some() {
        connect::stay_inside(response.headers_mut());
    }
    Ok(response::to_content(response, request.version(), service.response_trailers.with(&nominated)))
}

/// Turns a panic into 500 `internal`, so that one faulty request does not end the others of its connection.
async fn catch_panic<T>(
    mut future: Pin<Box<impl Future<Output = Result<T, ProxyError>>>>,
) -> Result<T, ProxyError> {
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(polled) => polled,
        // The panic hook has logged the place. The payload is not used, because it could hold anything.
        Err(_) => Poll::Ready(Err(ProxyError::new(
            Code::Internal,
            "bearerd failed by its own fault; its log has the place, next to this request ID",
        ))),
    })
    .await
}

/// Bounds the requests over HTTP/2 in the whole process. `limits.connections` alone does not, because each connection
/// carries up to a hundred.
#[derive(Debug, Default)]
struct Http2Requests(AtomicUsize);

/// This many are always allowed, even with fewer connections.
const LEAST_HTTP2_REQUESTS: usize = 1000;

/// One request over HTTP/2, counted until it is dropped.
#[derive(Debug)]
struct Http2Request {
    all: Arc<Http2Requests>,
    before: usize,
}

impl Http2Requests {
    fn enter(self: &Arc<Self>) -> Http2Request {
        Http2Request { all: Arc::clone(self), before: self.0.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Http2Request {
    /// # Errors
    /// 503 `overloaded` if the limit was reached before this request.
    fn check(&self, limits: &Limits) -> Result<(), ProxyError> {
        let most = limits.connections.max(LEAST_HTTP2_REQUESTS);
        if self.before < most {
            return Ok(());
        }
        let detail = format!(
            "{most} requests over HTTP/2 are in progress, which is the limit (limits.connections, but at least \
             {LEAST_HTTP2_REQUESTS}); find out what they wait for, or raise limits.connections"
        );
        Err(ProxyError::new(Code::Overloaded, detail))
    }
}

impl Drop for Http2Request {
    fn drop(&mut self) {
        self.all.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The running snapshot. A reload swaps it.
pub type SnapshotCell = ArcSwap<Snapshot>;

/// Everything that one config produces, as one value. A request loads it once and keeps it until it ends.
pub struct Snapshot {
    /// Grows with every load.
    pub version: u64,
    pub config: Arc<Config>,
    pub table: RouteTable,
    /// In the order of `Config::routes`.
    pub routes: Vec<Arc<RouteService>>,
    /// In the order of `Config::listeners`.
    pub listeners: Vec<Arc<ListenerRules>>,
    /// Listeners of the previous snapshot that the config no longer has. Their last requests may still arrive.
    removed_listeners: Vec<Arc<ListenerRules>>,
    /// For requests without a route.
    pub unrouted: Arc<RouteMetrics>,
    /// What token listeners hand out, by the issuers' names. Empty without such a listener. Set by whoever builds the snapshot.
    pub token_services: BTreeMap<Arc<str>, Arc<TokenService>>,
    /// `None` if `[tracing]` is off. Set by whoever builds the snapshot.
    pub tracer: Option<Arc<Tracer>>,
    /// Cancelled once another snapshot is in use.
    pub replaced: CancellationToken,
}

/// The listener index of a removed listener. No route names it.
const NO_LISTENER: usize = usize::MAX;

impl Snapshot {
    /// Builds the route table and the listeners' rules.
    pub fn new(
        version: u64,
        config: Arc<Config>,
        routes: Vec<Arc<RouteService>>,
        metrics: &Metrics,
        previous: Option<&Self>,
    ) -> Self {
        let table = RouteTable::build(&config.routes);
        let listeners = config
            .listeners
            .iter()
            .map(|it| Arc::new(ListenerRules::new(it, metrics.listener(&it.name))))
            .collect();
        let stays = |old: &ListenerRules| config.listeners.iter().any(|new| new.name == old.config.name);
        let before = previous.iter().flat_map(|previous| &previous.listeners);
        let removed_listeners = before.filter(|old| !stays(old)).cloned().collect();
        let unrouted = metrics.unrouted();
        Self {
            version,
            config,
            table,
            routes,
            listeners,
            removed_listeners,
            unrouted,
            token_services: BTreeMap::new(),
            tracer: None,
            replaced: CancellationToken::new(),
        }
    }

    /// The index and the rules of the listener that accepted a caller's connection. If the listener has been renamed, it
    /// is found by its address. If it has been removed, its last rules apply until the connection ends. What is inside a CONNECT
    /// passed the rules of a forward listener, so no other one serves it.
    fn listener(&self, caller: &Caller) -> Option<(usize, &ListenerRules)> {
        let listener = self.listener_of(caller);
        listener.filter(|(_, rules)| caller.inside.is_none() || rules.config.serve() == Serve::Forward)
    }

    fn listener_of(&self, caller: &Caller) -> Option<(usize, &ListenerRules)> {
        let named = |rules: &Arc<ListenerRules>| rules.config.name == caller.listener;
        let placed = |rules: &Arc<ListenerRules>| rules.config.address == caller.address;
        let known = &self.listeners;
        if let Some(index) = known.iter().position(named).or_else(|| known.iter().position(placed)) {
            return Some((index, known.get(index)?));
        }
        let removed = self.removed_listeners.iter().find(|rules| named(rules) || placed(rules))?;
        Some((NO_LISTENER, removed))
    }
}

/// A route with everything that it needs to serve requests.
pub struct RouteService {
    pub config: Arc<RouteConfig>,
    /// `None` for an anonymous route.
    pub slot: Option<Arc<TokenSlot>>,
    pub upstream: Arc<Upstream>,
    pub metrics: Arc<RouteMetrics>,
    injection: Injection,
    request_edits: Arc<Edits>,
    response_edits: Arc<Edits>,
    location: LocationRule,
    request_trailers: TrailerRules,
    response_trailers: TrailerRules,
    /// Indexed by [`Code`], because an outage fails every request with the same words.
    warnings: [Repeated; Code::ALL.len()],
    /// The services of single hosts, if the route goes to the host that the caller asked for.
    hosts: Option<connect::HostServices>,
}

impl RouteService {
    /// Reads the values of the header edits. Each reload reads them again.
    pub fn new(
        config: &Arc<RouteConfig>,
        slot: Option<Arc<TokenSlot>>,
        upstream: Arc<Upstream>,
        metrics: Arc<RouteMetrics>,
    ) -> Self {
        let edits = [&config.request_headers, &config.response_headers].map(|it| Arc::new(Edits::new(it)));
        Self::with_edits(config, slot, upstream, metrics, edits)
    }

    /// The same for another upstream. Reads nothing, because a request waits for it.
    fn at_upstream(&self, config: &Arc<RouteConfig>, upstream: Arc<Upstream>) -> Self {
        let edits = [&self.request_edits, &self.response_edits].map(Arc::clone);
        Self::with_edits(config, self.slot.clone(), upstream, Arc::clone(&self.metrics), edits)
    }

    /// The services of single hosts that are in use, if the route goes to the host that the caller asked for.
    pub fn at_hosts(&self) -> Vec<Arc<Self>> {
        self.hosts.as_ref().map(connect::HostServices::all).unwrap_or_default()
    }

    /// Continues with the hosts that were in use before, so that their connections stay open. `origins` has the connections.
    pub fn keep_hosts(&self, before: &[Arc<Self>], origins: &mut Origins) {
        connect::keep_hosts(self, before, origins);
    }

    fn with_edits(
        config: &Arc<RouteConfig>,
        slot: Option<Arc<TokenSlot>>,
        upstream: Arc<Upstream>,
        metrics: Arc<RouteMetrics>,
        [request_edits, response_edits]: [Arc<Edits>; 2],
    ) -> Self {
        let injection = Injection::new(config);
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
            warnings: Default::default(),
            hosts: config.follows_host().then(connect::HostServices::default),
            config: Arc::clone(config),
        }
    }

    /// The issuer's name, for errors and pages.
    pub fn issuer(&self) -> Option<&Arc<str>> {
        match &self.config.credential {
            Credential::Anonymous => None,
            Credential::Issuer { issuer, .. } => Some(&issuer.name),
        }
    }

    /// `Some(n)` if a failure with this code is to be logged as a warning now: `n` others were not since the last one.
    fn warning_due(&self, code: Code) -> Option<u64> {
        self.warnings.get(code as usize).map_or(Some(0), |warning| warning.due(SystemClock.boot()))
    }

    /// Applies `request_headers`.
    ///
    /// # Errors
    /// 503 if one of its values cannot be read, and 500 if one of `response_headers` cannot: the upstream must not act on
    /// a request whose response bearerd cannot return.
    fn edit_request(&self, headers: &mut HeaderMap) -> Result<(), ProxyError> {
        if let Some(why) = &self.request_edits.unreadable {
            return Err(ProxyError::new(Code::TokenUnavailable, why.clone()));
        }
        if let Some(why) = &self.response_edits.unreadable {
            return Err(ProxyError::new(Code::Internal, why.clone()));
        }
        self.request_edits.apply(headers);
        Ok(())
    }
}

/// `request_headers` or `response_headers` of a route, with their values read.
#[derive(Debug)]
struct Edits {
    set: Vec<(HeaderName, HeaderValue)>,
    remove: Vec<HeaderName>,
    /// Why a value could not be read. Requests fail then, because they must not go without it.
    unreadable: Option<String>,
}

impl Edits {
    fn new(edits: &HeaderEdits) -> Self {
        let mut unreadable = None;
        let mut set = Vec::new();
        for (name, source) in &edits.set {
            match read_header_value(source) {
                Ok(value) => set.push((name.clone(), value)),
                Err(why) => unreadable = Some(format!("the value of header {name} cannot be used: {why}")),
            }
        }
        Self { set, remove: edits.remove.clone(), unreadable }
    }

    fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.set.iter().map(|(name, _)| name).chain(&self.remove)
    }

    fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
    }
}

fn read_header_value(source: &Source) -> Result<HeaderValue, String> {
    let (secret, _) = source.read_or_last_good().map_err(|error| error.to_string())?;
    let mut value = HeaderValue::from_bytes(secret.expose())
        .map_err(|_| format!("{} has characters that no header may have", source.place()))?;
    value.set_sensitive(!source.is_literal());
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_internal() {
        let error = catch_panic::<()>(Box::pin(async { panic!("secret-in-a-panic") })).await.unwrap_err();
        assert_eq!(error.code, Code::Internal);
        assert!(!error.detail.contains("secret-in-a-panic"), "{}", error.detail);
    }

    #[tokio::test]
    async fn without_a_panic_the_outcome_passes() {
        assert_eq!(catch_panic(Box::pin(async { Ok(7) })).await.unwrap(), 7);
    }
}
