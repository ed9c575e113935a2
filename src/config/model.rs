//! The config as the rest of the program uses it: every default filled in, every name resolved.
//!
//! Nothing here is an `Option` that "must be set": what is absent is absent because the operator left it out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method, StatusCode};
use ipnet::IpNet;
use tracing_subscriber::filter::Targets;

use super::problem::Problem;
use super::raw::keys::Words;
use super::reference::Source;
use super::types::scopes::Scopes;

mod issuer;

pub use issuer::*;

/// One loaded, checked config.
#[derive(Debug)]
pub struct Config {
    /// The file given by `--config`, absolute.
    pub path: PathBuf,
    /// Every config file that was read, absolute, the main one first.
    pub files: Vec<PathBuf>,
    /// Folders in which a file could appear that `include` would match, absolute.
    pub include_folders: Vec<PathBuf>,
    /// Threads that serve calls.
    pub workers: usize,
    pub drain_delay: Duration,
    pub shutdown_timeout: Duration,
    pub limits: Limits,
    pub log: Log,
    /// `None`: no traces.
    pub tracing: Option<Arc<Tracing>>,
    pub admin: Admin,
    /// In the order of their names.
    pub listeners: Vec<Arc<ListenerConfig>>,
    pub issuers: BTreeMap<String, Arc<IssuerConfig>>,
    /// In the order of the files; the order never matters for routing.
    pub routes: Vec<Arc<RouteConfig>>,
    /// In the order of their names.
    pub webhooks: Vec<Arc<WebhookConfig>>,
    /// What was noticed that does not stop the program.
    pub warnings: Vec<Problem>,
    /// Every value that stands outside the config, with the place that names it.
    pub references: Vec<ReferenceUse>,
}

/// One reference of the config to a file or to the environment.
#[derive(Debug, Clone)]
pub struct ReferenceUse {
    pub source: Source,
    /// What stands there must not be readable by others.
    pub secret: bool,
    /// It was read when the config was loaded, and is a part of it (`vars`).
    pub part_of_config: bool,
    /// The config file that names it.
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The key's path.
    pub key: String,
}

/// `[limits]`. A duration of `None` means the operator turned it off with `"0s"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub header_bytes: usize,
    pub header_count: usize,
    pub header_timeout: Option<Duration>,
    pub keep_alive: Option<Duration>,
    pub connections: usize,
    pub waiters: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

impl Words for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    pub format: LogFormat,
    /// Which lines are written.
    pub level: Targets,
    pub access: bool,
}

/// `[tracing]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracing {
    pub protocol: OtlpProtocol,
    /// With its path; over gRPC it has none.
    pub endpoint: HttpUrl,
    /// `None`: what `OTEL_RESOURCE_ATTRIBUTES` has, else [`Tracing::SERVICE_NAME`].
    pub service_name: Option<String>,
    /// 0.0 to 1.0. `None`: `OTEL_TRACES_SAMPLER` may say it.
    pub sample: Option<f64>,
    pub headers: Vec<(HeaderName, Source)>,
    pub timeout: Option<Duration>,
    pub tls: TlsOptions,
    pub batches: SpanBatches,
}

impl Tracing {
    /// Where nobody gives another.
    pub const SERVICE_NAME: &str = "bearerd";
}

/// How spans travel to the collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OtlpProtocol {
    /// Of OTLP over HTTP, the one encoding that every collector takes.
    #[default]
    Http,
    Grpc,
}

impl Words for OtlpProtocol {
    const WORDS: &'static [(&'static str, Self)] = &[("http/protobuf", Self::Http), ("grpc", Self::Grpc)];
}

/// How spans are gathered before they are sent (`OTEL_BSP_…`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanBatches {
    /// Spans that may wait; more are dropped.
    pub queue: usize,
    /// The most spans in one request.
    pub most: usize,
    /// How long the first span of a batch waits for others.
    pub delay: Duration,
    /// For one batch, repeated requests included.
    pub export_timeout: Duration,
}

/// `[admin]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    pub address: Address,
    /// `callers = "network"`: `/status` and `/` answer other machines too.
    pub callers: Callers,
}

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Callers {
    #[default]
    Local,
    Network,
}

impl Words for Callers {
    const WORDS: &'static [(&'static str, Self)] = &[("local", Self::Local), ("network", Self::Network)];
}

/// `[listener.NAME]`.
#[derive(Debug)]
pub struct ListenerConfig {
    pub name: Arc<str>,
    pub address: Address,
    /// Lower case, without a port.
    pub names: Vec<String>,
    /// Browser origins that may call, as `scheme://host[:port]`, lower case.
    pub origins: Vec<String>,
    pub callers: Callers,
    pub allow: Vec<IpNet>,
    pub require_header: Option<(HeaderName, Source)>,
    pub tls: Option<ListenerTls>,
    pub unix: UnixOptions,
}

#[derive(Debug)]
pub struct ListenerTls {
    pub certificate: Source,
    pub private_key: Source,
    pub client_ca: Option<Source>,
}

impl ListenerTls {
    /// A file that it names gives nothing now, and never did.
    pub fn is_missing(&self) -> bool {
        [Some(&self.certificate), Some(&self.private_key), self.client_ca.as_ref()]
            .into_iter()
            .flatten()
            .any(|source| source.read_or_last_good().is_err())
    }
}

impl UnixOptions {
    /// The owner alone may connect.
    pub const OWNER_ALONE: Self = Self { mode: 0o600, group: None, allow_uids: Vec::new() };
}

/// What applies to `unix:` addresses alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixOptions {
    pub mode: u32,
    /// The group's id, looked up at load.
    pub group: Option<u32>,
    /// Empty: any user that the file mode lets in.
    pub allow_uids: Vec<u32>,
}

/// `[webhook.NAME]`: a receiver that learns a value from signed calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookConfig {
    pub name: Arc<str>,
    pub address: Address,
    /// Exact.
    pub path: String,
    /// Hex HMAC-SHA256 of the raw body; the header of the same name with `-old` counts too.
    pub signature_header: HeaderName,
    /// Current and previous.
    pub secrets: Vec<Source>,
    /// Pointer to the value in the payload.
    pub value: String,
    /// The file that keeps the value: `{"value": "…", …}`.
    pub store: PathBuf,
}

/// `tls = { … }` toward an issuer or an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsOptions {
    pub ca: Option<Source>,
    pub roots: Roots,
    pub certificate: Option<Source>,
    pub private_key: Option<Source>,
    pub server_name: Option<String>,
}

/// Which roots count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Roots {
    /// The system's roots (the default without `ca`).
    #[default]
    System,
    /// `ca` alone (the default with `ca`).
    Ca,
    /// The system's and `ca`.
    Both,
    /// Mozilla's list, built in (and `ca`, where given).
    Bundled,
}

impl Words for Roots {
    const WORDS: &'static [(&'static str, Self)] =
        &[("ca", Self::Ca), ("system", Self::System), ("both", Self::Both), ("bundled", Self::Bundled)];
}

/// How connections leave this machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Egress {
    #[default]
    Direct,
    /// `HTTPS_PROXY` and `NO_PROXY`.
    Env,
    /// CONNECT through this proxy.
    Proxy {
        host: String,
        port: u16,
        /// `user:password`.
        userinfo: Option<Source>,
    },
}

/// An absolute `http` or `https` URL from the config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl {
    /// As it was written.
    pub text: String,
    pub https: bool,
    /// Without brackets for IPv6; lower case.
    pub host: String,
    pub port: u16,
    /// Host and port as they go into `Host` (RFC 9110 section 7.2): brackets kept, default port left out.
    pub authority: String,
    /// Path and query as written, at least `/`.
    pub path_and_query: String,
}

/// `[[route]]`.
#[derive(Debug)]
pub struct RouteConfig {
    pub name: Arc<str>,
    /// Index into [`Config::listeners`].
    pub listener: Option<usize>,
    pub host: Option<HostPattern>,
    pub path: PathPattern,
    /// `None`: any method.
    pub methods: Option<Vec<Method>>,
    /// All must be there with this value.
    pub match_headers: Vec<(HeaderName, String)>,
    pub upstream: UpstreamUrl,
    pub protocol: Protocol,
    pub credential: Credential,
    pub caller_authorization: CallerAuthorization,
    pub inject: Inject,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    pub forwarded: bool,
    pub rewrite_location: bool,
    pub refresh_on: Vec<StatusCode>,
    pub replay_limit: usize,
    pub allow_encoded_slash: bool,
    pub connect_timeout: Option<Duration>,
    pub response_timeout: Option<Duration>,
    pub idle_timeout: Option<Duration>,
    pub connection_max_age: Option<Duration>,
    pub header_case: HeaderCase,
    pub tls: TlsOptions,
    pub egress: Egress,
}

/// `host`, lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Exact(String),
    /// `*.example.com`: the part after `*`, with its dot (`.example.com`).
    Wildcard(String),
}

/// `path` or `path_prefix`, escaped unreserved characters decoded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathPattern {
    Exact(String),
    /// Without its trailing slash; `/` is the empty string.
    Prefix(String),
}

/// Where a route's calls go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamUrl {
    /// As it was written.
    pub text: String,
    pub target: UpstreamTarget,
    /// What goes into `Host`: `localhost` for a Unix socket.
    pub authority: String,
    /// As written; may be empty.
    pub path: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum UpstreamTarget {
    Tcp { https: bool, host: String, port: u16 },
    Unix(PathBuf),
}

/// How field names are written over HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HeaderCase {
    #[default]
    Lower,
    /// `Content-Type`.
    Title,
}

impl Words for HeaderCase {
    const WORDS: &'static [(&'static str, Self)] = &[("lower", Self::Lower), ("title", Self::Title)];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Protocol {
    #[default]
    Auto,
    Http1,
    Http2,
}

impl Words for Protocol {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("http1", Self::Http1), ("http2", Self::Http2)];
}

/// Whose token a route's calls carry.
#[derive(Debug)]
pub enum Credential {
    Anonymous,
    Issuer { issuer: Arc<IssuerConfig>, key: CredentialKey },
}

/// What identifies a token: the issuer's table, the set of scopes, the effective parameters and the subject.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CredentialKey {
    pub issuer: Arc<str>,
    pub issuer_digest: [u8; 32],
    pub scopes: Scopes,
    pub params: Params,
    pub subject: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CallerAuthorization {
    #[default]
    Replace,
    Keep,
    Reject,
}

impl Words for CallerAuthorization {
    const WORDS: &'static [(&'static str, Self)] =
        &[("replace", Self::Replace), ("keep", Self::Keep), ("reject", Self::Reject)];
}

/// `inject`: how the token is put on a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inject {
    /// The header and the text around `{token}`.
    Header {
        name: HeaderName,
        before: String,
        after: String,
        /// No format was given: the scheme is the token's own (`Bearer`, `DPoP`).
        by_type: bool,
    },
    /// A parameter of the query, for upstreams that take the token nowhere else.
    Query { name: String },
}

/// `request_headers`, `response_headers`.
#[derive(Debug, Default)]
pub struct HeaderEdits {
    pub set: Vec<(HeaderName, Source)>,
    pub remove: Vec<HeaderName>,
}
