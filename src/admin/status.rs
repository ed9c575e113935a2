//! The JSON of `/status`, made from a [`View`]. `docs/status.schema.json` is generated from these types. Keys are only ever added.

use std::borrow::Cow;
use std::time::SystemTime;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use crate::admin::recent::{History, Point, Recent};
use crate::admin::view::{
    Connects, CredentialView, ListenerView, SeenAuthority, StoreView, Traffic, View, WebhookView,
};
use crate::clock::rfc3339;
use crate::config::{
    self, Address, Credential, HttpUrl, IssuerConfig, ListenerConfig, PathPattern, Problem, RouteConfig,
    Serve, TokenEndpoint, UpstreamTarget, UpstreamUrl, Words,
};
use crate::metrics::Failure;
use crate::store::Tally;
use crate::token::Balance;

/// The state of bearerd. It contains no secret and no token.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Status {
    /// The program's version.
    version: String,
    /// The time of this response. All times here are of the same clock.
    now: Time,
    started_at: Time,
    uptime_seconds: u64,
    /// Whether `/readyz` responds 200.
    ready: bool,
    /// Ready, but some routes have no valid token and cannot get one, so their requests fail.
    degraded: bool,
    /// The process is ending.
    draining: bool,
    config: ConfigStatus,
    listeners: Vec<ListenerStatus>,
    routes: Vec<RouteStatus>,
    unrouted: UnroutedStatus,
    issuers: Vec<IssuerStatus>,
    /// One for each set of issuer, scopes, and parameters that routes use, that such a token is requested with, or that token
    /// listeners hand out.
    tokens: Vec<TokenStatus>,
    webhooks: Vec<WebhookStatus>,
    /// The token store. `null`: the config has none.
    store: Option<StoreStatus>,
    /// Log lines that were dropped because stderr did not accept them.
    log_lines_dropped: u64,
}

/// The running config.
#[derive(Debug, Serialize, JsonSchema)]
struct ConfigStatus {
    path: String,
    /// Grows with every load.
    version: u64,
    loaded_at: Time,
    /// `null` before the first reload.
    last_reload: Option<ReloadStatus>,
    warnings: Vec<WarningStatus>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ReloadStatus {
    ok: bool,
    at: Time,
    /// Why the new file was refused.
    error: Option<String>,
}

/// A problem of the config that does not stop the program.
#[derive(Debug, Serialize, JsonSchema)]
struct WarningStatus {
    file: String,
    line: usize,
    column: usize,
    key: String,
    message: String,
    hint: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ListenerStatus {
    name: String,
    /// As configured.
    address: String,
    /// `local` or `network`.
    callers: &'static str,
    tls: bool,
    /// `proxy`, `forward`, or `token`.
    serve: &'static str,
    /// Open connections.
    connections: u64,
    /// CONNECT requests of a forward listener since the start. `null`: it is none.
    connects: Option<ConnectsStatus>,
    /// Responses of a token listener since the start. `null`: it is none.
    token_requests: Option<u64>,
    /// The last request to a token listener since the start that got an error.
    last_error: Option<RequestErrorStatus>,
    /// Of a forward listener. `null`: it has none, or its files are missing.
    ca: Option<CaStatus>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ConnectsStatus {
    /// bearerd ended TLS, and the requests inside count as those of their routes.
    served: u64,
    /// Passed through unread, to hosts that no route names.
    tunneled: u64,
    refused: u64,
}

/// The CA of a forward listener, without its key.
#[derive(Debug, Serialize, JsonSchema)]
struct CaStatus {
    /// bearerd made it at its start, or later as the successor of that one.
    ephemeral: bool,
    /// Of the newest certificate, like the two below.
    subject: String,
    not_after: Time,
    /// SHA-256, in hex.
    fingerprint: String,
    /// What programs must trust, as PEM. Several if programs may still know an older one.
    certificates: String,
    /// The file of `ca_bundle`.
    bundle: Option<String>,
    /// Why it was not written.
    bundle_problem: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct RouteStatus {
    name: String,
    #[serde(rename = "match")]
    matches: MatchStatus,
    upstream: String,
    /// `null`: requests are forwarded without a token.
    issuer: Option<String>,
    scopes: Vec<String>,
    /// Responses since the start.
    requests: u64,
    /// Open connections to the upstream.
    upstream_connections: u64,
    recent: RecentStatus,
    /// Only in `/status?history`, and for the first 1,000 routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<HistoryStatus>,
    /// The last request since the start that got an error of bearerd's own.
    last_error: Option<RequestErrorStatus>,
    /// The last time since the start that the upstream refused a token that was just fetched.
    upstream_refusal: Option<UpstreamRefusalStatus>,
}

/// Requests that ended in about the last minute, from the metrics.
#[derive(Debug, Default, Serialize, JsonSchema)]
struct RecentStatus {
    /// The length of this window: 50 to 60 s, less just after the start.
    seconds: f64,
    requests: u64,
    /// Responses with a 5xx status, of the upstream or of bearerd, and gRPC requests that bearerd failed. Errors of callers (4xx)
    /// and an upstream's gRPC status do not count.
    errors: u64,
    /// Requests.
    per_second: f64,
    /// The median time from a request's head to the end of its response, in milliseconds, estimated from the histogram; at most
    /// 10 000. `null`: no requests.
    p50_ms: Option<f64>,
    /// The same for the 99th percentile.
    p99_ms: Option<f64>,
}

/// What a route did in the last hour, minute by minute, oldest first; shorter just after the start. All lists have the same
/// length.
#[derive(Debug, Serialize, JsonSchema)]
struct HistoryStatus {
    /// The length of a point, in seconds.
    step_seconds: u64,
    /// The length of the last point so far, in seconds.
    last_seconds: u64,
    requests: Vec<u32>,
    /// As in `recent`.
    errors: Vec<u32>,
    /// Milliseconds; `null`: no requests.
    p50_ms: Vec<Option<f64>>,
    p99_ms: Vec<Option<f64>>,
}

/// A request that got an error of bearerd's own.
#[derive(Debug, Serialize, JsonSchema)]
struct RequestErrorStatus {
    at: Time,
    status: u16,
    /// As in the problem document of the response.
    code: &'static str,
    /// What happened, to whom, and what to do; at most 1 KiB.
    detail: String,
    /// The ID in the log.
    request_id: String,
}

/// An upstream that refuses a valid token.
#[derive(Debug, Serialize, JsonSchema)]
struct UpstreamRefusalStatus {
    at: Time,
    /// The upstream's status.
    status: u16,
    /// What to check; at most 1 KiB.
    detail: String,
}

/// Requests without a route: those that matched none (400, 403, 404, 405, 421), and those of token listeners.
#[derive(Debug, Serialize, JsonSchema)]
struct UnroutedStatus {
    /// Since the start.
    requests: u64,
    /// Not of token listeners, which have their own.
    last_error: Option<RequestErrorStatus>,
}

/// Which requests a route serves. `null` matches any.
#[derive(Debug, Serialize, JsonSchema)]
struct MatchStatus {
    listener: Option<String>,
    host: Option<String>,
    /// The whole path, else `null`.
    path: Option<String>,
    /// Whole segments, else `null`.
    path_prefix: Option<String>,
    methods: Option<Vec<String>>,
    /// Names of the header fields that must match.
    headers: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct IssuerStatus {
    name: String,
    /// The token URL, or the issuer's URL with `discovery`. Without the query.
    url: String,
    discovery: bool,
    /// `/readyz` waits for its tokens.
    required: bool,
    client_auth: &'static str,
    /// The preset of the issuer's table.
    preset: Option<String>,
    /// As sent. `null`: not sent.
    grant_type: Option<String>,
    /// `current`, or `standby` while the issuer accepts only that one.
    credential: &'static str,
    scopes: Vec<String>,
    /// The limit of token requests. `null`: there is none.
    budget: Option<BudgetStatus>,
}

/// How many token requests an issuer may get, and how many are left.
#[derive(Debug, Serialize, JsonSchema)]
struct BudgetStatus {
    /// As configured: the most token requests in any span of `per_seconds`.
    requests: u32,
    per_seconds: u64,
    /// The requests of all replicas count, in the store. `false`: those of this process, since its start.
    shared: bool,
    /// Token requests that are possible now, as far as this process knows.
    remaining: u32,
    /// When the next one is possible. `null`: now.
    next_request_at: Option<Time>,
}

/// A token, without its value.
#[derive(Debug, Serialize, JsonSchema)]
struct TokenStatus {
    issuer: String,
    /// Names of the routes that use it, or whose token is requested with it. Empty for a token that only token listeners hand
    /// out.
    routes: Vec<String>,
    /// Names of the issuers whose token requests use it.
    outer: Vec<String>,
    /// Names of the issuers whose tokens its own token requests use.
    inner: Vec<String>,
    scopes: Vec<String>,
    /// Names of further parameters; values may be secret.
    parameters: Vec<String>,
    required: bool,
    /// It is fetched only when it is needed (by a request to a token listener, or for `standby`), and `/readyz` does not wait
    /// for it.
    on_demand: bool,
    /// `valid`, `none` or `expired`.
    state: &'static str,
    /// The scopes in the issuer's response, if it has any.
    granted_scope: Option<String>,
    /// A token request is in progress.
    fetching: bool,
    /// Requests that wait for it.
    waiters: usize,
    /// Whether it was fetched at least once since the start.
    fetched_once: bool,
    fetched_at: Option<Time>,
    age_seconds: Option<u64>,
    expires_at: Option<Time>,
    /// 0 once it has expired.
    seconds_left: Option<u64>,
    /// From then on, the next use renews it in the background.
    renew_at: Option<Time>,
    last_error: Option<TokenErrorStatus>,
    /// Its place in the store. `null`: there is no token, or it is only this process's.
    shared: Option<SharedTokenStatus>,
}

/// A token that is in the store.
#[derive(Debug, Serialize, JsonSchema)]
struct SharedTokenStatus {
    /// Grows with each token that is fetched for all.
    generation: u64,
    /// The host whose bearerd fetched it.
    by: String,
    /// This process fetched it.
    own: bool,
}

/// The token store (`[store]`). bearerd goes on without it.
#[derive(Debug, Serialize, JsonSchema)]
struct StoreStatus {
    /// Where it is.
    place: String,
    /// `false`: the last operation failed, and tokens are fetched without it.
    up: bool,
    failure: Option<StoreFailureStatus>,
    /// Since the start, how often a token that was asked for was in the store.
    hits: u64,
    /// How often this bearerd got the right to fetch a token for all.
    leases: u64,
    /// How often another bearerd was fetching the token.
    held: u64,
    /// Failed operations.
    failures: u64,
    /// Operations that were not tried, because the store had failed less than 5 s before.
    skipped: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
struct StoreFailureStatus {
    /// When the first operation failed of those that failed in a row.
    since: Time,
    /// When the last one failed.
    at: Time,
    /// `timeout`, `unreachable`, `refused`, `unable`, `invalid` or `keys`.
    kind: &'static str,
    /// What happened, to whom, and what to do.
    detail: String,
}

#[derive(Debug, Serialize, JsonSchema)]
struct TokenErrorStatus {
    at: Time,
    /// What happened, to whom, and what to do.
    detail: String,
    /// Only what to do.
    remedy: Option<String>,
    /// The issuer's OAuth error code, if it sent one.
    code: Option<String>,
    /// The issuer's IDs of the request, for its support.
    trace: Option<String>,
    next_try: Option<Time>,
    failures_in_a_row: u32,
}

/// What a `[webhook]` has learned, without the value.
#[derive(Debug, Serialize, JsonSchema)]
struct WebhookStatus {
    name: String,
    /// As configured.
    address: String,
    path: String,
    /// Whether there is a value that token requests can use.
    has_value: bool,
    /// When the last value arrived, also before a restart.
    received_at: Option<Time>,
    /// Why the stored value cannot be used.
    problem: Option<String>,
    last_refusal: Option<RefusalStatus>,
}

/// The last refused request of a webhook since the start.
#[derive(Debug, Serialize, JsonSchema)]
struct RefusalStatus {
    at: Time,
    detail: String,
}

/// RFC 3339, UTC.
#[derive(Debug, Clone, Copy)]
struct Time(SystemTime);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&rfc3339(self.0))
    }
}

impl JsonSchema for Time {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

pub(in crate::admin) fn status(view: &View) -> Status {
    let config = &view.config;
    let traffic = view.traffic.iter().cloned().chain(std::iter::repeat_with(Traffic::default));
    let seen = view.listeners.iter().cloned().chain(std::iter::repeat_with(ListenerView::default));
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        now: Time(view.now),
        started_at: Time(view.started_at),
        uptime_seconds: view.uptime.as_secs(),
        ready: view.ready(),
        degraded: view.degraded(),
        draining: view.draining,
        config: config_status(view),
        listeners: config.listeners.iter().zip(seen).map(|(it, seen)| listener(view, it, &seen)).collect(),
        routes: config
            .routes
            .iter()
            .zip(traffic)
            .map(|(it, seen)| route(it, &seen, &config.listeners))
            .collect(),
        unrouted: UnroutedStatus {
            requests: view.unrouted.requests,
            last_error: view.unrouted.last_failure.as_deref().map(request_error),
        },
        issuers: config.issuers.values().map(|it| issuer(it, view)).collect(),
        tokens: view.credentials.iter().map(|it| token(it, view.now)).collect(),
        webhooks: view.webhooks.iter().map(webhook).collect(),
        store: view.store.as_ref().map(store),
        log_lines_dropped: view.log_lines_dropped,
    }
}

fn config_status(view: &View) -> ConfigStatus {
    let last_reload = view.loads.last.as_ref().map(|last| ReloadStatus {
        ok: last.error.is_none(),
        at: Time(last.at),
        error: last.error.clone(),
    });
    ConfigStatus {
        path: view.config.path.display().to_string(),
        version: view.config_version,
        loaded_at: Time(view.loads.loaded_at),
        last_reload,
        // Checks references now, because a missing file may exist by now.
        warnings: view
            .config
            .warnings
            .iter()
            .chain(&config::check_references(&view.config))
            .map(warning)
            .collect(),
    }
}

fn warning(problem: &Problem) -> WarningStatus {
    WarningStatus {
        file: problem.file.display().to_string(),
        line: problem.line,
        column: problem.column,
        key: problem.key.clone(),
        message: problem.message.clone(),
        hint: problem.hint.clone(),
    }
}

fn listener(view: &View, config: &ListenerConfig, seen: &ListenerView) -> ListenerStatus {
    ListenerStatus {
        name: config.name.to_string(),
        address: address(&config.address),
        callers: config.callers.word(),
        tls: config.tls.is_some(),
        serve: config.serve().word(),
        connections: seen.connections,
        connects: (config.serve() == Serve::Forward).then(|| connects(seen.connects)),
        token_requests: (config.serve() == Serve::Token).then_some(seen.token_requests),
        last_error: seen.last_failure.as_deref().map(request_error),
        ca: view.authorities.get(&config.name).map(ca),
    }
}

fn connects(seen: Connects) -> ConnectsStatus {
    let Connects { served, tunneled, refused } = seen;
    ConnectsStatus { served, tunneled, refused }
}

fn ca((authority, problem): &SeenAuthority) -> CaStatus {
    CaStatus {
        ephemeral: authority.ephemeral,
        subject: authority.newest.subject(),
        not_after: Time(authority.newest.not_after()),
        fingerprint: authority.newest.fingerprint(),
        certificates: authority.pem.clone(),
        bundle: authority.bundle.as_ref().map(|path| path.display().to_string()),
        bundle_problem: problem.clone(),
    }
}

fn address(address: &Address) -> String {
    match address {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(path) => format!("unix:{}", path.display()),
    }
}

fn webhook(view: &WebhookView) -> WebhookStatus {
    WebhookStatus {
        name: view.config.name.to_string(),
        address: address(&view.config.address),
        path: view.config.path.clone(),
        has_value: view.has_value,
        received_at: view.received_at.map(Time),
        problem: view.problem.clone(),
        last_refusal: view
            .last_refusal
            .as_ref()
            .map(|(at, detail)| RefusalStatus { at: Time(*at), detail: detail.clone() }),
    }
}

fn store(view: &StoreView) -> StoreStatus {
    let Tally { hits, leases, held, failures, skipped } = view.tally;
    StoreStatus {
        place: view.place.clone(),
        up: view.failing.is_none(),
        failure: view.failing.as_ref().map(|failing| StoreFailureStatus {
            since: Time(failing.since),
            at: Time(failing.at),
            kind: failing.gone.kind.as_str(),
            detail: failing.gone.detail.clone(),
        }),
        hits,
        leases,
        held,
        failures,
        skipped,
    }
}

fn route(
    config: &RouteConfig,
    traffic: &Traffic,
    listeners: &[std::sync::Arc<ListenerConfig>],
) -> RouteStatus {
    let (issuer, scopes) = match &config.credential {
        Credential::Anonymous => (None, Vec::new()),
        Credential::Issuer { issuer, key } => {
            (Some(issuer.name.to_string()), key.scopes.iter().cloned().collect())
        }
    };
    let (path, path_prefix) = match &config.path {
        PathPattern::Exact(path) => (Some(path.clone()), None),
        PathPattern::Prefix(prefix) if prefix.is_empty() => (None, Some("/".to_owned())),
        PathPattern::Prefix(prefix) => (None, Some(prefix.clone())),
    };
    RouteStatus {
        name: config.name.to_string(),
        matches: MatchStatus {
            listener: config.listener.and_then(|at| listeners.get(at)).map(|it| it.name.to_string()),
            host: config.host.as_ref().map(ToString::to_string),
            path,
            path_prefix,
            methods: config.methods.as_ref().map(|all| all.iter().map(ToString::to_string).collect()),
            headers: config.match_headers.iter().map(|(name, _)| name.to_string()).collect(),
        },
        upstream: upstream(&config.upstream),
        issuer,
        scopes,
        requests: traffic.requests,
        upstream_connections: traffic.upstream_connections,
        recent: traffic.recent.as_ref().map(recent).unwrap_or_default(),
        history: traffic.history.as_ref().map(history),
        last_error: traffic.last_failure.as_deref().map(request_error),
        upstream_refusal: traffic.last_refusal.as_deref().map(|refusal| UpstreamRefusalStatus {
            at: Time(refusal.at),
            status: refusal.status,
            detail: refusal.detail.clone(),
        }),
    }
}

fn recent(recent: &Recent) -> RecentStatus {
    let (seconds, counts) = (recent.window.as_secs_f64(), &recent.counts);
    let quantile = |share| counts.quantile(share).map(|seconds| rounded(seconds * 1_000.0));
    RecentStatus {
        seconds: rounded(seconds),
        requests: counts.requests,
        errors: counts.errors,
        // Just after the start, one request must not become a rate of a thousand in a second.
        per_second: rounded(counts.requests as f64 / seconds.max(1.0)),
        p50_ms: quantile(0.5),
        p99_ms: quantile(0.99),
    }
}

fn history(history: &History) -> HistoryStatus {
    let milliseconds = |of: fn(&Point) -> Option<f32>| -> Vec<Option<f64>> {
        history.points.iter().map(|it| of(it).map(|seconds| rounded(f64::from(seconds) * 1_000.0))).collect()
    };
    HistoryStatus {
        step_seconds: History::STEP.as_secs(),
        last_seconds: history.last.as_secs(),
        requests: history.points.iter().map(|point| point.requests).collect(),
        errors: history.points.iter().map(|point| point.errors).collect(),
        p50_ms: milliseconds(|point| point.p50),
        p99_ms: milliseconds(|point| point.p99),
    }
}

fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

fn request_error(failure: &Failure) -> RequestErrorStatus {
    RequestErrorStatus {
        at: Time(failure.at),
        status: failure.status,
        code: failure.code,
        detail: failure.detail.clone(),
        request_id: failure.request_id.clone(),
    }
}

/// Built from the URL's parts, so that nothing else of it is shown.
fn upstream(url: &UpstreamUrl) -> String {
    match &url.target {
        UpstreamTarget::Tcp { https, .. } => {
            format!("{}://{}{}", scheme(*https), url.authority, without_query(&url.path))
        }
        UpstreamTarget::Unix(path) => format!("unix:{}", path.display()),
    }
}

fn issuer(config: &IssuerConfig, view: &View) -> IssuerStatus {
    let (url, discovery) = match &config.endpoint {
        TokenEndpoint::Discovery(url) => (url, true),
        TokenEndpoint::Url(url) => (url, false),
    };
    // All token requests of an issuer use the same credential.
    let standby = view.credentials.iter().any(|it| it.issuer.name == config.name && it.status.standby);
    IssuerStatus {
        name: config.name.to_string(),
        url: endpoint(url),
        discovery,
        required: config.required,
        client_auth: config.client_auth.as_str(),
        preset: config.preset.as_ref().map(ToString::to_string),
        grant_type: config.grant_type.clone(),
        credential: if standby { "standby" } else { "current" },
        scopes: config.scopes.iter().cloned().collect(),
        budget: view.balances.get(&config.name).map(|balance| budget(balance, view.now)),
    }
}

fn budget(balance: &Balance, now: SystemTime) -> BudgetStatus {
    let waits = (balance.remaining == 0).then_some(balance.next);
    BudgetStatus {
        requests: balance.budget.requests,
        per_seconds: balance.budget.per.as_secs(),
        shared: balance.shared,
        remaining: balance.remaining,
        next_request_at: waits.and_then(|wait| now.checked_add(wait)).map(Time),
    }
}

/// The URL without its query, because some issuers have a key there.
fn endpoint(url: &HttpUrl) -> String {
    format!("{}://{}{}", scheme(url.https), url.authority, without_query(&url.path_and_query))
}

fn scheme(https: bool) -> &'static str {
    if https { "https" } else { "http" }
}

fn without_query(path: &str) -> &str {
    path.split_once('?').map_or(path, |(path, _)| path)
}

fn token(view: &CredentialView, now: SystemTime) -> TokenStatus {
    let status = &view.status;
    let whole = |from: SystemTime, to: SystemTime| to.duration_since(from).unwrap_or_default().as_secs();
    TokenStatus {
        issuer: view.issuer.name.to_string(),
        routes: view.routes.iter().map(ToString::to_string).collect(),
        outer: view.outer.iter().map(ToString::to_string).collect(),
        inner: view.inner.iter().map(ToString::to_string).collect(),
        scopes: status.key.scopes.iter().cloned().collect(),
        parameters: status.key.params.keys().cloned().collect(),
        required: view.issuer.required,
        on_demand: view.on_demand,
        state: status.state,
        granted_scope: status.granted_scope.clone(),
        fetching: status.fetching,
        waiters: status.waiters,
        fetched_once: status.fetched_once,
        fetched_at: status.fetched_at.map(Time),
        age_seconds: status.fetched_at.map(|at| whole(at, now)),
        expires_at: status.expires_at.map(Time),
        seconds_left: status.expires_at.map(|at| whole(now, at)),
        renew_at: status.renew_at.map(Time),
        last_error: status.last_error.as_ref().map(|error| TokenErrorStatus {
            at: Time(error.at),
            detail: error.detail.clone(),
            remedy: error.remedy.clone(),
            code: error.code.clone(),
            trace: error.trace.clone(),
            next_try: error.next_try.map(Time),
            failures_in_a_row: error.failures_in_a_row,
        }),
        shared: status.shared.as_ref().map(|shared| SharedTokenStatus {
            generation: shared.generation,
            by: shared.by.to_string(),
            own: shared.own,
        }),
    }
}
