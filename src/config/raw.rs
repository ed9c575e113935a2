//! The file as it is written: what TOML gives, nothing checked but types.
//!
//! A key is declared here and nowhere else: its name, its type with bounds and default (`keys`; a text's default is a
//! constant of the struct), what it means (the doc comment), and what is often wrong with it (`x-errors`). The JSON
//! Schema, docs/config.md, config.example.toml, suggestions and the defaults that serve are made from it.
//!
//! No field must be there, so that one missing key hides no other error. No tagged, untagged or flattened structs: they
//! lose the place of an error and unknown keys.

pub(crate) mod issuer;
pub(crate) mod keys;
pub(crate) mod route;
pub(crate) mod values;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::model::{Callers, LogFormat, OtlpProtocol, Tracing};
use issuer::{RawIssuer, RawTls};
use keys::{Count, Flag, Lasting, Plaintext, Size, Word};
use route::RawRoute;
use values::RawReference;

/// The config file of bearerd.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, title = "bearerd config")]
pub(crate) struct RawFile {
    // One thread serves some ten thousand requests a second; a sidecar should not take more unasked. More than the bound
    // are a slip.
    /// Threads that serve requests. They share each bound socket. A change needs a restart.
    pub workers: Count<1, 1024>,
    /// More files with issuers and routes, for example one for each team. The last part of a path may contain `*`.
    #[schemars(extend("default" = [], "x-errors" = "`*` before the last part; a named file that is missing; anything but issuers and routes in it"))]
    pub include: Option<Vec<String>>,
    // Kubernetes sends SIGTERM and takes the endpoint away at once; who needs more says so.
    /// How long bearerd still accepts requests after SIGTERM, while /readyz already returns 503.
    pub drain_delay: Lasting<0>,
    // Kubernetes' own grace period.
    /// How long running requests may take to end after SIGTERM. "0s" means no limit.
    pub shutdown_timeout: Lasting<30>,
    pub limits: Option<RawLimits>,
    pub log: Option<RawLog>,
    pub tracing: Option<RawTracing>,
    pub admin: Option<RawAdmin>,
    /// Addresses where bearerd accepts requests, by name.
    pub listener: BTreeMap<String, RawListener>,
    /// Authorization servers that give tokens, by name.
    pub issuer: BTreeMap<String, RawIssuer>,
    /// Which requests bearerd forwards, where to, and with whose token.
    pub route: Vec<RawRoute>,
    /// Receivers that learn a value from signed requests, by name.
    pub webhook: BTreeMap<String, RawWebhook>,
}

/// A receiver that learns a value from signed requests.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Webhook")]
pub(crate) struct RawWebhook {
    /// IP address and port, or "unix:" and a path.
    #[schemars(extend("x-errors" = "missing; used twice"))]
    pub address: Option<String>,
    /// The exact path of the requests.
    #[schemars(extend("x-errors" = "missing; a query"))]
    pub path: Option<String>,
    /// The header field with the hex HMAC-SHA256 of the body. The field of this name with "-old" appended counts too.
    #[schemars(extend("x-errors" = "missing"))]
    pub signature_header: Option<String>,
    /// Signing secrets: the current one and the previous one.
    #[schemars(extend("x-errors" = "missing; empty; a literal in a file that others may read"))]
    pub secrets: Option<Vec<RawReference>>,
    /// JSON pointer to the value in the payload (RFC 6901).
    #[schemars(extend("x-errors" = "missing; not a JSON pointer"))]
    pub value: Option<String>,
    /// The file that keeps the value.
    #[schemars(extend("x-errors" = "missing; the store of another webhook"))]
    pub store: Option<String>,
}

/// Limits for callers.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Limits")]
pub(crate) struct RawLimits {
    // Four times what common servers take, because tokens of callers can be large. Less than the bound holds no ordinary
    // request, and more is held for each connection.
    /// Size of a request's header section.
    pub header_bytes: Size<{ 32 << 10 }, { 1 << 10 }, { 1 << 20 }>,
    // hyper has a table of so many for each request, and `http` can't hold more than twice of it.
    /// Number of header fields of a request.
    pub header_count: Count<100, 10_000>,
    /// How long a caller may take to send a request's header section.
    pub header_timeout: Lasting<10>,
    // Longer than the 60 s for which load balancers keep theirs, so that they close first.
    /// How long a connection may stay idle between two requests.
    pub keep_alive: Lasting<75>,
    // The bound is as many descriptors as Linux gives a process.
    /// Connections of callers, for all listeners together. Fewer if the limit of open files does not allow so many.
    pub connections: Count<10_000, 1_000_000>,
    /// Requests that wait for one token.
    pub waiters: Count<10_000, 1_000_000>,
}

/// Logs, written to stderr.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Log")]
pub(crate) struct RawLog {
    /// "text" for people, "json" for machines.
    pub format: Word<LogFormat>,
    /// What to log, in env-filter syntax without its brackets: "info", "debug", "info,bearerd::token=debug".
    #[schemars(extend("default" = Self::LEVEL, "x-errors" = "a word that is not a level; brackets"))]
    pub level: Option<String>,
    /// Log a line for each request.
    pub access: Flag<true>,
}

impl RawLog {
    pub(crate) const LEVEL: &str = "info";
}

/// Traces for an OpenTelemetry collector (OTLP). Off unless the file or the environment has an endpoint.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Tracing")]
pub(crate) struct RawTracing {
    /// The URL of the collector, such as "http://127.0.0.1:4318". A URL without a path gets /v1/traces. Unset:
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`.
    #[schemars(extend(
        "x-errors" = "not an absolute URL; a query; `http://` to another machine; a path, over gRPC"
    ))]
    pub endpoint: Option<String>,
    /// How spans are sent. Unset: `OTEL_EXPORTER_OTLP_PROTOCOL`.
    pub protocol: Word<OtlpProtocol>,
    /// `service.name` of the spans. Unset: `OTEL_SERVICE_NAME`.
    #[schemars(extend("default" = Self::SERVICE_NAME, "x-errors" = "empty"))]
    pub service_name: Option<String>,
    /// The share of new traces that is recorded, 0.0 to 1.0. A caller's own decision overrides it. Unset:
    /// `OTEL_TRACES_SAMPLER`.
    #[schemars(extend("default" = Self::SAMPLE, "minimum" = 0, "maximum" = 1, "x-errors" = "less than 0; more than 1"))]
    pub sample: Option<f64>,
    /// Header fields of each request to the collector. Values may be references.
    #[schemars(extend("x-errors" = "not a header field that may be set"))]
    pub headers: Option<BTreeMap<String, RawReference>>,
    // OTLP's own default.
    /// Timeout of a batch of spans, including repeated requests. Unset: `OTEL_EXPORTER_OTLP_TIMEOUT`.
    pub timeout: Lasting<10>,
    /// "allow": an http:// URL to another machine, with a warning.
    pub plaintext: Word<Plaintext>,
    /// TLS for connections to the collector.
    pub tls: Option<RawTls>,
}

impl RawTracing {
    pub(crate) const SERVICE_NAME: &str = Tracing::SERVICE_NAME;
    // What the library does where nobody says anything.
    pub(crate) const SAMPLE: f64 = 1.0;
}

/// The admin address: health, metrics, status.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Admin")]
pub(crate) struct RawAdmin {
    /// IP address and port, or "unix:" and a path.
    #[schemars(extend("default" = Self::ADDRESS, "x-errors" = "not an IP address and port, nor `unix:`"))]
    pub address: Option<String>,
    /// "network": other machines may read /status and / too.
    pub callers: Word<Callers>,
}

impl RawAdmin {
    pub(crate) const ADDRESS: &str = "127.0.0.1:9180";
}

/// An address where bearerd accepts requests.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Listener")]
pub(crate) struct RawListener {
    /// IP address and port, or "unix:" and a path. Only the listener `main` has a default.
    #[schemars(extend("default" = Self::ADDRESS, "x-errors" = "missing on any listener but `main`; used twice; other than loopback with `callers = \"local\"`"))]
    pub address: Option<String>,
    /// Host names besides localhost, loopback literals, and the listener's own address. A warning says if browser pages
    /// of other sites could use them: over plain http without `require_header`.
    #[schemars(extend("default" = [], "x-errors" = "a URL, a port, a wildcard"))]
    pub names: Option<Vec<String>>,
    /// Origins of other sites whose browser pages may send requests, such as "https://app.example".
    #[schemars(extend("default" = [], "x-errors" = "`*`, a path"))]
    pub origins: Option<Vec<String>>,
    /// "network" allows an address that other machines can reach. It requires `allow`, `require_header`, or
    /// `tls.client_ca`.
    #[schemars(extend("x-errors" = "`\"network\"` without `allow`, `require_header`, or `tls.client_ca`"))]
    pub callers: Word<Callers>,
    /// Addresses of callers that may send requests: addresses or networks such as "10.0.0.0/8". Default: any.
    #[schemars(extend("x-errors" = "not an address or network; empty; on `unix:`"))]
    pub allow: Option<Vec<String>>,
    /// A header field that every request must have.
    pub require_header: Option<RawRequireHeader>,
    /// TLS for connections from callers.
    pub tls: Option<RawListenerTls>,
    /// File mode of a Unix socket, in octal.
    #[schemars(extend("default" = Self::MODE, "x-errors" = "not octal; on TCP"))]
    pub mode: Option<String>,
    /// Group of a Unix socket: a name or a number.
    #[schemars(extend("x-errors" = "unknown on this machine; on TCP"))]
    pub group: Option<String>,
    /// Users that may send requests over a Unix socket. Empty: every user that the file mode allows.
    #[schemars(extend("default" = [], "x-errors" = "on TCP"))]
    pub allow_uids: Option<Vec<u32>>,
}

impl RawListener {
    /// This machine alone: the credentials are whoever's that can connect.
    pub(crate) const ADDRESS: &str = "127.0.0.1:8080";
    /// The owner alone.
    pub(crate) const MODE: &str = "0600";
}

/// A header field that every request must have.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "RequireHeader")]
pub(crate) struct RawRequireHeader {
    /// The field's name.
    #[schemars(extend("x-errors" = "missing"))]
    pub name: Option<String>,
    /// The value that the field must have.
    #[schemars(extend("x-errors" = "missing; a literal in a file that others may read"))]
    pub value: Option<RawReference>,
}

/// TLS for connections from callers.
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
    /// Callers must present a certificate of this authority, PEM.
    pub client_ca: Option<RawReference>,
}
