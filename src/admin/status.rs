//! What `/status` says. `docs/status.schema.json` is made from these types; keys are only ever added.

mod read;

use std::borrow::Cow;
use std::time::SystemTime;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use crate::clock::rfc3339;
pub(super) use read::status;

/// What bearerd is doing now. No secret and no token is in it.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Status {
    /// The program's version.
    version: String,
    /// When this was written, by the clock of all times here.
    now: Time,
    started_at: Time,
    uptime_seconds: u64,
    /// What `/readyz` answers by.
    ready: bool,
    /// Ready, but some routes have no valid token and get none: their requests fail.
    degraded: bool,
    /// The process is ending.
    draining: bool,
    config: ConfigStatus,
    listeners: Vec<ListenerStatus>,
    routes: Vec<RouteStatus>,
    unrouted: UnroutedStatus,
    issuers: Vec<IssuerStatus>,
    /// One for each set of issuer, scopes and parameters that routes use.
    tokens: Vec<TokenStatus>,
    webhooks: Vec<WebhookStatus>,
    /// Log lines given up because stderr did not take them.
    log_lines_dropped: u64,
}

/// The config that serves.
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
    /// Why the new file was not taken.
    error: Option<String>,
}

/// What was noticed in the config that does not stop the program.
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
    /// Open connections.
    connections: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
struct RouteStatus {
    name: String,
    #[serde(rename = "match")]
    matches: MatchStatus,
    upstream: String,
    /// `null`: calls are forwarded without a token.
    issuer: Option<String>,
    scopes: Vec<String>,
    /// Requests answered since the start.
    requests: u64,
    /// Open connections to the upstream.
    upstream_connections: u64,
    recent: RecentStatus,
    /// Only in `/status?history`, and for the first 1,000 routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<HistoryStatus>,
    /// The last request that bearerd answered with an error of its own, since the start.
    last_error: Option<CallErrorStatus>,
    /// The last time that the upstream refused a token that was only just granted, since the start.
    upstream_refusal: Option<UpstreamRefusalStatus>,
}

/// Requests that ended in about the last minute, as told by the metrics.
#[derive(Debug, Default, Serialize, JsonSchema)]
struct RecentStatus {
    /// How far it reaches back: 50 to 60 s, less just after the start.
    seconds: f64,
    requests: u64,
    /// Answered with a 5xx, by the upstream or by bearerd, and gRPC calls that bearerd failed itself. What a caller did
    /// wrong (4xx) is none, nor is an upstream's own gRPC status.
    errors: u64,
    /// Requests.
    per_second: f64,
    /// Milliseconds from a request's head to the end of its answer for half of the requests, as near as the histogram tells;
    /// 10 000 at most. `null`: no requests.
    p50_ms: Option<f64>,
    /// The same for 99 of 100 requests.
    p99_ms: Option<f64>,
}

/// What a route did in the last hour, minute by minute, oldest first; shorter just after the start. All lists are of one
/// length.
#[derive(Debug, Serialize, JsonSchema)]
struct HistoryStatus {
    /// Seconds that a point stands for.
    step_seconds: u64,
    /// The same for the last point, which is under way.
    last_seconds: u64,
    requests: Vec<u32>,
    /// As in `recent`.
    errors: Vec<u32>,
    /// Milliseconds; `null`: no requests.
    p50_ms: Vec<Option<f64>>,
    p99_ms: Vec<Option<f64>>,
}

/// A request that bearerd answered itself.
#[derive(Debug, Serialize, JsonSchema)]
struct CallErrorStatus {
    at: Time,
    status: u16,
    /// As in the problem document that the caller got.
    code: &'static str,
    /// What happened, to whom, what to do; at most 1 KiB.
    detail: String,
    /// What the log has.
    request_id: String,
}

/// An upstream that says no to a good token.
#[derive(Debug, Serialize, JsonSchema)]
struct UpstreamRefusalStatus {
    at: Time,
    /// The upstream's.
    status: u16,
    /// What to check; at most 1 KiB.
    detail: String,
}

/// Requests that reached no route: 400, 403, 404, 405, 421.
#[derive(Debug, Serialize, JsonSchema)]
struct UnroutedStatus {
    /// Since the start.
    requests: u64,
    last_error: Option<CallErrorStatus>,
}

/// Which calls a route serves; `null` matches any.
#[derive(Debug, Serialize, JsonSchema)]
struct MatchStatus {
    listener: Option<String>,
    host: Option<String>,
    /// The whole path, else `null`.
    path: Option<String>,
    /// Whole segments, else `null`.
    path_prefix: Option<String>,
    methods: Option<Vec<String>>,
    /// Names of the headers that are looked at.
    headers: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct IssuerStatus {
    name: String,
    /// The token URL, or with `discovery` the issuer's; without a query.
    url: String,
    discovery: bool,
    /// `/readyz` waits for its tokens.
    required: bool,
    client_auth: &'static str,
    /// What fills in its table, where one does.
    preset: Option<String>,
    /// As it is sent; `null`: none is.
    grant_type: Option<String>,
    /// `current`, or `standby` while the issuer takes that one.
    credential: &'static str,
    scopes: Vec<String>,
}

/// One token's life; never its value.
#[derive(Debug, Serialize, JsonSchema)]
struct TokenStatus {
    issuer: String,
    /// Names of the routes whose requests carry it.
    routes: Vec<String>,
    scopes: Vec<String>,
    /// Names of further parameters; values may be secret.
    parameters: Vec<String>,
    required: bool,
    /// `valid`, `none` or `expired`.
    state: &'static str,
    /// As the issuer named them, where it did.
    granted_scope: Option<String>,
    /// A request to the issuer is under way.
    fetching: bool,
    /// Requests that wait for it.
    waiters: usize,
    /// Was fetched at least once since the start.
    fetched_once: bool,
    fetched_at: Option<Time>,
    age_seconds: Option<u64>,
    expires_at: Option<Time>,
    /// 0 once it has ended.
    seconds_left: Option<u64>,
    /// From then on the next use renews it behind the scenes.
    renew_at: Option<Time>,
    last_error: Option<TokenErrorStatus>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct TokenErrorStatus {
    at: Time,
    /// What happened, to whom, what to do.
    detail: String,
    /// What to do, by itself.
    remedy: Option<String>,
    /// The issuer's OAuth error code, where it gave one.
    code: Option<String>,
    /// Under which ids the issuer knows the request, for its support.
    trace: Option<String>,
    next_try: Option<Time>,
    failures_in_a_row: u32,
}

/// What a `[webhook]` has learned; never the value.
#[derive(Debug, Serialize, JsonSchema)]
struct WebhookStatus {
    name: String,
    /// As configured.
    address: String,
    path: String,
    /// There is one that token requests can use.
    has_value: bool,
    /// When one last came, before a restart too.
    received_at: Option<Time>,
    /// Why the stored value cannot be used.
    problem: Option<String>,
    last_refusal: Option<RefusalStatus>,
}

/// The last request of a webhook that was not taken, since the start.
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
