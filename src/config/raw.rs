//! The file as it is written: what TOML gives, nothing checked but types.
//!
//! Every field is optional, so that one missing key hides no other error. The doc comments are the descriptions of
//! the JSON Schema. No tagged, untagged or flattened structs: they lose the place of an error and unknown keys.

pub(crate) mod issuer;
pub(crate) mod route;
pub(crate) mod values;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use issuer::{RawIssuer, RawTls};
use route::RawRoute;
use values::{DurationText, RawReference, SizeText};

/// The config file of bearerd.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, title = "bearerd config")]
pub(crate) struct RawFile {
    /// Threads that serve calls; they share each bound socket. A change needs a restart.
    #[schemars(extend("default" = 1, "minimum" = 1, "maximum" = 1024, "x-errors" = "0; more than 1024"))]
    pub workers: Option<usize>,
    /// More files with issuers and routes, so that teams own theirs. `*` may stand in the last part of a path.
    #[schemars(extend("default" = [], "x-errors" = "`*` before the last part; a named file that is missing; anything but issuers and routes in it"))]
    pub include: Option<Vec<String>>,
    /// After SIGTERM: how long calls are still accepted while /readyz says 503 already.
    #[schemars(extend("default" = "0s"))]
    pub drain_delay: Option<DurationText>,
    /// How long running calls may take to end after SIGTERM; "0s" waits without end.
    #[schemars(extend("default" = "30s"))]
    pub shutdown_timeout: Option<DurationText>,
    pub limits: Option<RawLimits>,
    pub log: Option<RawLog>,
    pub tracing: Option<RawTracing>,
    pub admin: Option<RawAdmin>,
    /// Where calls are accepted, by name.
    pub listener: BTreeMap<String, RawListener>,
    /// Authorization servers that tokens are asked of, by name.
    pub issuer: BTreeMap<String, RawIssuer>,
    /// What is forwarded where, and with whose token.
    pub route: Vec<RawRoute>,
    /// Receivers that learn a value from signed calls, by name.
    pub webhook: BTreeMap<String, RawWebhook>,
}

/// A receiver that learns a value from signed calls.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Webhook")]
pub(crate) struct RawWebhook {
    /// IP address and port, or "unix:" and a path.
    #[schemars(extend("x-errors" = "missing; used twice"))]
    pub address: Option<String>,
    /// The path that requests come to, exactly.
    #[schemars(extend("x-errors" = "missing; a query"))]
    pub path: Option<String>,
    /// The header with the hex HMAC-SHA256 of the body; the header of the same name with "-old" counts too.
    #[schemars(extend("x-errors" = "missing"))]
    pub signature_header: Option<String>,
    /// Signing secrets: the current one and the previous one.
    #[schemars(extend("x-errors" = "missing; empty; a literal in a file that others may read"))]
    pub secrets: Option<Vec<RawReference>>,
    /// Where the value stands in the payload (RFC 6901).
    #[schemars(extend("x-errors" = "missing; not a JSON pointer"))]
    pub value: Option<String>,
    /// The file that keeps the value.
    #[schemars(extend("x-errors" = "missing; the store of another webhook"))]
    pub store: Option<String>,
}

/// Limits toward callers.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Limits")]
pub(crate) struct RawLimits {
    /// Size of a request's header section.
    #[schemars(extend("default" = "32KiB", "x-errors" = "less than `1KiB`; more than `1MiB`"))]
    pub header_bytes: Option<SizeText>,
    /// Number of header lines of a request.
    #[schemars(extend("default" = 100, "minimum" = 1, "maximum" = 10000, "x-errors" = "0; more than 10000"))]
    pub header_count: Option<usize>,
    /// How long a caller may take to send a request's header section.
    #[schemars(extend("default" = "10s"))]
    pub header_timeout: Option<DurationText>,
    /// How long a connection may stay idle between two requests.
    #[schemars(extend("default" = "75s"))]
    pub keep_alive: Option<DurationText>,
    /// Connections of callers, over all listeners; fewer where the limit of open files has no room for so many.
    #[schemars(extend("default" = 10000, "minimum" = 1, "maximum" = 1000000, "x-errors" = "0; more than 1000000"))]
    pub connections: Option<usize>,
    /// Callers that wait for one token.
    #[schemars(extend("default" = 10000, "minimum" = 1, "maximum" = 1000000, "x-errors" = "0; more than 1000000"))]
    pub waiters: Option<usize>,
}

/// Logs, written to stderr.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Log")]
pub(crate) struct RawLog {
    /// "text" for people, "json" for machines.
    #[schemars(extend("default" = "text", "enum" = ["text", "json"]))]
    pub format: Option<String>,
    /// What is logged, in env-filter syntax without its brackets: "info", "debug", "info,bearerd::token=debug".
    #[schemars(extend("default" = "info", "x-errors" = "a word that is no level, brackets"))]
    pub level: Option<String>,
    /// A line per request.
    #[schemars(extend("default" = true))]
    pub access: Option<bool>,
}

/// Traces, sent to an OpenTelemetry collector (OTLP). Without an endpoint, here or in the environment, there are none.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Tracing")]
pub(crate) struct RawTracing {
    /// The collector, as "http://127.0.0.1:4318"; /v1/traces is added where the URL has no path. Else
    /// `OTEL_EXPORTER_OTLP_ENDPOINT` says it.
    #[schemars(extend(
        "x-errors" = "not an absolute URL; a query; `http://` to another machine; a path, over gRPC"
    ))]
    pub endpoint: Option<String>,
    /// How spans are sent. Else `OTEL_EXPORTER_OTLP_PROTOCOL` says it.
    #[schemars(extend("default" = "http/protobuf", "enum" = ["http/protobuf", "grpc"]))]
    pub protocol: Option<String>,
    /// `service.name` of the spans. Else `OTEL_SERVICE_NAME` says it.
    #[schemars(extend("default" = "bearerd", "x-errors" = "empty"))]
    pub service_name: Option<String>,
    /// The share of new traces that is recorded, 0.0 to 1.0; a caller's own decision goes before it. Else
    /// `OTEL_TRACES_SAMPLER` says it.
    #[schemars(extend("default" = 1.0, "minimum" = 0, "maximum" = 1, "x-errors" = "below 0, above 1"))]
    pub sample: Option<f64>,
    /// Headers of each request to the collector; values may be references.
    #[schemars(extend("x-errors" = "not a header that may be set"))]
    pub headers: Option<BTreeMap<String, RawReference>>,
    /// For one batch of spans: connecting and repeated requests included. Else `OTEL_EXPORTER_OTLP_TIMEOUT` says it.
    #[schemars(extend("default" = "10s"))]
    pub timeout: Option<DurationText>,
    /// "allow": an http:// URL to another machine, which is warned about.
    #[schemars(extend("default" = "refuse", "enum" = ["refuse", "allow"]))]
    pub plaintext: Option<String>,
    /// TLS toward the collector.
    pub tls: Option<RawTls>,
}

/// The admin address: health, metrics, status.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Admin")]
pub(crate) struct RawAdmin {
    /// IP address and port, or "unix:" and a path.
    #[schemars(extend("default" = "127.0.0.1:9180", "x-errors" = "not an IP address and port, nor `unix:`"))]
    pub address: Option<String>,
    /// "network": /status and / answer other machines too.
    #[schemars(extend("default" = "local", "enum" = ["local", "network"]))]
    pub callers: Option<String>,
}

/// Where calls are accepted.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Listener")]
pub(crate) struct RawListener {
    /// IP address and port, or "unix:" and a path. Only the listener `main` has a default.
    #[schemars(extend("default" = "127.0.0.1:8080", "x-errors" = "missing on any listener but `main`; used twice; other than loopback with `callers = \"local\"`"))]
    pub address: Option<String>,
    /// Host names it answers to beside localhost, loopback literals and its own address. Warned about where pages could
    /// ride: over plain http without `require_header`.
    #[schemars(extend("default" = [], "x-errors" = "a URL, a port, a wildcard"))]
    pub names: Option<Vec<String>>,
    /// Origins of other sites whose browser pages may call, as "https://app.example".
    #[schemars(extend("default" = [], "x-errors" = "`*`, a path"))]
    pub origins: Option<Vec<String>>,
    /// "network" allows an address that other machines can reach; then one of `allow`, `require_header`,
    /// `tls.client_ca` must be given.
    #[schemars(extend("default" = "local", "enum" = ["local", "network"], "x-errors" = "`\"network\"` without `allow`, `require_header` or `tls.client_ca`"))]
    pub callers: Option<String>,
    /// Peer addresses that may call: addresses or networks as "10.0.0.0/8". Not given: any.
    #[schemars(extend("x-errors" = "not an address or network; empty; on `unix:`"))]
    pub allow: Option<Vec<String>>,
    /// A header that every request must carry.
    pub require_header: Option<RawRequireHeader>,
    /// TLS toward callers.
    pub tls: Option<RawListenerTls>,
    /// File mode of a unix socket, in octal.
    #[schemars(extend("default" = "0600", "x-errors" = "not octal; on TCP"))]
    pub mode: Option<String>,
    /// Group of a unix socket: a name or a number.
    #[schemars(extend("x-errors" = "unknown on this machine; on TCP"))]
    pub group: Option<String>,
    /// Users that may call over a unix socket. Empty: any that the file mode lets in.
    #[schemars(extend("default" = [], "x-errors" = "on TCP"))]
    pub allow_uids: Option<Vec<u32>>,
}

/// A header that every request must carry.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "RequireHeader")]
pub(crate) struct RawRequireHeader {
    /// The header's name.
    #[schemars(extend("x-errors" = "missing"))]
    pub name: Option<String>,
    /// The value that it must have.
    #[schemars(extend("x-errors" = "missing; a literal in a file that others may read"))]
    pub value: Option<RawReference>,
}

/// TLS toward callers.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "ListenerTls")]
pub(crate) struct RawListenerTls {
    /// The certificate chain, PEM.
    #[schemars(extend("x-errors" = "missing"))]
    pub certificate: Option<RawReference>,
    /// Its private key, PEM.
    #[schemars(extend("x-errors" = "missing; a literal in a file that others may read"))]
    pub private_key: Option<RawReference>,
    /// Callers must show a certificate of this authority, PEM.
    pub client_ca: Option<RawReference>,
}
