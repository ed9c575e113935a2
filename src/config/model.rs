//! The config as the rest of the program uses it: every default is filled in, and every name is resolved.
//!
//! A field is an `Option` only if the operator may leave its key out, and never if it "must be set".

mod issuer;
mod listener;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method, StatusCode};
use tracing_subscriber::filter::Targets;

use crate::config::raw::values::{Words, size_text};
use crate::config::reference::Source;
use crate::config::report::{KeyPlace, Problem};
use crate::config::types::Scopes;
use crate::workload_api::SpiffeId;

pub(crate) use issuer::is_bound;
pub use issuer::*;
pub use listener::*;

impl Config {
    /// The hosts of the routes that a listener serves.
    pub fn hosts_of(&self, listener: usize) -> Vec<HostPattern> {
        let serves = |route: &&Arc<RouteConfig>| route.listener.is_none_or(|only| only == listener);
        self.routes.iter().filter(serves).filter_map(|route| route.host.clone()).collect()
    }

    /// The values that change by themselves, each once: those that programs print for others than token requests, and those
    /// that the agent of SPIFFE streams.
    pub fn made_values(&self) -> Vec<Source> {
        let made = self
            .references
            .iter()
            .filter(|used| used.source.is_streamed() || (used.source.is_made() && !used.of_token_requests));
        let mut values: Vec<Source> = Vec::new();
        for used in made {
            if !values.contains(&used.source) {
                values.push(used.source.clone());
            }
        }
        values
    }
}

/// One loaded, checked config.
#[derive(Debug)]
pub struct Config {
    /// The file given by `--config`, absolute.
    pub path: PathBuf,
    /// Every config file that was read, absolute, the main one first.
    pub files: Vec<PathBuf>,
    /// Folders in which a new file could match `include`, absolute.
    pub include_folders: Vec<PathBuf>,
    /// Threads that serve requests.
    pub workers: usize,
    pub drain_delay: Duration,
    pub shutdown_timeout: Duration,
    pub limits: Limits,
    pub log: Log,
    /// `None`: no traces.
    pub tracing: Option<Arc<Tracing>>,
    pub admin: Admin,
    /// `None`: each process has its own tokens, and forgets them when it ends.
    pub store: Option<Arc<StoreConfig>>,
    /// In the order of their names.
    pub listeners: Vec<Arc<ListenerConfig>>,
    pub issuers: BTreeMap<String, Arc<IssuerConfig>>,
    /// In the order of the files. The order does not affect routing.
    pub routes: Vec<Arc<RouteConfig>>,
    /// In the order of their names.
    pub webhooks: Vec<Arc<WebhookConfig>>,
    /// Problems that do not stop the program.
    pub warnings: Vec<Problem>,
    /// Every value outside the config, with the place that names it.
    pub references: Vec<ReferenceUse>,
    /// Every path that bearerd writes.
    pub written: Vec<WrittenPath>,
    /// What `bearerd exec` adds to the file.
    pub program: Option<ForProgram>,
}

/// A path that bearerd writes, and the key that names it.
#[derive(Debug, Clone)]
pub struct WrittenPath {
    /// Absolute.
    pub path: PathBuf,
    pub kind: Written,
    pub place: KeyPlace,
}

/// What bearerd writes to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The CA bundle of a forward listener.
    Bundle,
    /// The value of a webhook.
    Learned,
    /// Tokens, in a folder.
    Tokens,
    /// The socket of a `unix:` address.
    Socket,
}

/// What a config needs besides its file if bearerd serves only one program, which it started.
#[derive(Debug, Clone)]
pub struct ForProgram {
    /// The value of `Proxy-Authorization` for the forward listener that is made if the file has none.
    pub key: Source,
    /// The CA bundle of a forward listener that has none.
    pub bundle: PathBuf,
    /// Files with what the program trusts already, for this bundle, each with the variable that names it.
    pub trusted: Vec<(&'static str, PathBuf)>,
    /// What the made listener does with other hosts.
    pub unmatched: Unmatched,
    /// The file that the log goes to, absolute.
    pub log_file: Option<PathBuf>,
}

impl ForProgram {
    /// The name of the made listener.
    pub const LISTENER: &str = "exec";
}

/// One reference of the config to a value elsewhere.
#[derive(Debug, Clone)]
pub struct ReferenceUse {
    pub source: Source,
    /// Other users must not be able to read the value.
    pub secret: bool,
    /// It was read when the config was loaded, and is part of it (`vars`).
    pub part_of_config: bool,
    /// It is read for each token request.
    pub of_token_requests: bool,
    /// The config file that names it.
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The key's path.
    pub key: String,
}

impl ReferenceUse {
    /// Where the config names it.
    pub fn place(&self) -> KeyPlace {
        let Self { file, line, column, key, .. } = self;
        KeyPlace { file: file.clone(), line: *line, column: *column, key: key.clone() }
    }
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
    /// `None`: the name in `OTEL_RESOURCE_ATTRIBUTES`, else [`Tracing::SERVICE_NAME`].
    pub service_name: Option<String>,
    /// 0.0 to 1.0. `None`: `OTEL_TRACES_SAMPLER` may say it.
    pub sample: Option<f64>,
    pub headers: Vec<(HeaderName, Source)>,
    pub timeout: Option<Duration>,
    pub tls: TlsOptions,
    pub batches: SpanBatches,
}

impl Tracing {
    /// The default.
    pub const SERVICE_NAME: &str = "bearerd";
}

/// How spans travel to the collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OtlpProtocol {
    /// The encoding of OTLP over HTTP that every collector accepts.
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
    /// The most spans that may wait. More are dropped.
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
    /// `callers = "network"`: `/status` and `/` respond to other machines too.
    pub callers: Callers,
}

/// `[store]`: where tokens are kept, for all replicas or for this host's next start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    pub place: StorePlace,
    /// Never empty. The first encrypts, and all decrypt.
    pub keys: Vec<Source>,
    /// Begins the name of everything that bearerd writes.
    pub prefix: String,
    /// For one operation; never zero.
    pub timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorePlace {
    /// `path`: a folder of this host, absolute.
    Folder(PathBuf),
    /// `url` or `urls`.
    Redis(RedisConfig),
}

/// A Redis or Valkey server, or several that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisConfig {
    /// Never empty. The servers themselves, or with `sentinel` the Sentinels; with `cluster` any of its servers.
    pub hosts: Vec<StoreHost>,
    /// `None`: without TLS (`redis://`, `unix:`).
    pub tls: Option<TlsOptions>,
    pub mode: RedisMode,
    /// `None`: the server's user `default`.
    pub username: Option<Source>,
    pub password: Option<Source>,
    /// Always 0 in a cluster.
    pub database: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StoreHost {
    Tcp {
        /// Without brackets for IPv6; lower case.
        host: String,
        port: u16,
    },
    /// Absolute.
    Unix(PathBuf),
}

/// How the hosts belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisMode {
    /// One server: there is one host.
    Single,
    Cluster,
    /// The Sentinels know which server is the primary of this service.
    Sentinel {
        service: String,
    },
}

/// `[webhook.NAME]`: a receiver that learns a value from signed requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookConfig {
    pub name: Arc<str>,
    pub address: Address,
    /// Exact.
    pub path: String,
    /// The field with the hex HMAC-SHA256 of the raw body. The field of the same name with `-old` appended counts too.
    pub signature_header: HeaderName,
    /// Current and previous.
    pub secrets: Vec<Source>,
    /// Pointer to the value in the payload.
    pub value: String,
    /// Pointers, and the texts that must be there.
    pub only: Vec<(String, String)>,
    /// Pointer to the payload's time.
    pub timestamp: String,
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
    /// The server must be this one, whatever its DNS name.
    pub spiffe_id: Option<SpiffeId>,
}

/// Which roots are trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Roots {
    /// The system's roots (the default without `ca`).
    #[default]
    System,
    /// Only `ca` (the default with `ca`).
    Ca,
    /// The system's and `ca`.
    Both,
    /// Mozilla's list, which is built in (and `ca`, if given).
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

impl Egress {
    /// `user:password` for the proxy.
    pub fn userinfo(&self) -> Option<&Source> {
        match self {
            Self::Proxy { userinfo, .. } => userinfo.as_ref(),
            Self::Direct | Self::Env => None,
        }
    }
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
#[derive(Debug, Clone)]
pub struct RouteConfig {
    pub name: Arc<str>,
    /// Index into [`Config::listeners`].
    pub listener: Option<usize>,
    pub host: Option<HostPattern>,
    pub path: PathPattern,
    /// `None`: any method.
    pub methods: Option<Vec<Method>>,
    /// All must be present with this value.
    pub match_headers: Vec<(HeaderName, String)>,
    pub upstream: UpstreamUrl,
    /// The file has no `upstream`: requests go to the host that the caller asked for, and their path stays as it is. If `host` is
    /// a wildcard, `upstream` is only its pattern.
    pub to_asked_host: bool,
    pub connection: ConnectionConfig,
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
    pub response_timeout: Option<Duration>,
    pub idle_timeout: Option<Duration>,
    pub connection_max_age: Option<Duration>,
}

impl RouteConfig {
    /// Whether each host that matches has an upstream of its own.
    pub fn follows_host(&self) -> bool {
        self.to_asked_host && matches!(self.host, Some(HostPattern::Wildcard(_)))
    }

    /// The settings that `bearerd explain` shows by their keys, as they are written in the file. What a request must match,
    /// the upstream's URL, the credential, header fields, and timeouts have lines of their own there.
    pub fn settings(&self) -> BTreeMap<&'static str, String> {
        // No `..`: a new key compiles only when it is decided whether `explain` shows it here.
        let Self {
            name: _,
            listener: _,
            host: _,
            path: _,
            methods: _,
            match_headers: _,
            upstream: _,
            to_asked_host: _,
            connection,
            credential: _,
            caller_authorization: _,
            inject: _,
            request_headers: _,
            response_headers: _,
            forwarded,
            rewrite_location,
            refresh_on,
            replay_limit,
            allow_encoded_slash,
            response_timeout: _,
            idle_timeout: _,
            connection_max_age: _,
        } = self;
        let ConnectionConfig { protocol: _, header_case, connect_timeout: _, tls: _, egress } = connection;
        let statuses: Vec<&str> = refresh_on.iter().map(StatusCode::as_str).collect();
        let egress = match egress {
            Egress::Direct => "none".to_owned(),
            Egress::Env => "env".to_owned(),
            Egress::Proxy { host, port, userinfo: _ } => format!("{host}:{port}"),
        };
        BTreeMap::from([
            ("allow_encoded_slash", allow_encoded_slash.to_string()),
            ("forwarded", forwarded.to_string()),
            ("header_case", header_case.word().to_owned()),
            ("proxy", egress),
            ("refresh_on", format!("[{}]", statuses.join(", "))),
            ("replay_limit", size_text(*replay_limit)),
            ("rewrite_location", rewrite_location.to_string()),
        ])
    }
}

/// How connections to an upstream are made. Routes that agree in all of it and in their upstream share connections. A
/// reload that changes any of it opens new ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionConfig {
    pub protocol: Protocol,
    pub header_case: HeaderCase,
    pub connect_timeout: Option<Duration>,
    pub tls: TlsOptions,
    pub egress: Egress,
}

impl ConnectionConfig {
    /// The values that it reads from elsewhere.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        let TlsOptions { ca, certificate, private_key, .. } = &self.tls;
        [ca.as_ref(), certificate.as_ref(), private_key.as_ref(), self.egress.userinfo()]
            .into_iter()
            .flatten()
    }
}

/// `host`, lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Exact(String),
    /// `*.example.com`: the part after `*`, with its dot (`.example.com`).
    Wildcard(String),
}

impl HostPattern {
    /// Whether it ends in a port, as only hosts of forward listeners may.
    pub fn has_port(&self) -> bool {
        let (Self::Exact(host) | Self::Wildcard(host)) = self;
        let port = host.rsplit_once(':').map(|(_, port)| port);
        port.is_some_and(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
    }
}

impl HostPattern {
    /// The host of [`Self::Exact`], or the suffix of [`Self::Wildcard`], without a port.
    pub fn without_port(&self) -> &str {
        let (Self::Exact(host) | Self::Wildcard(host)) = self;
        match host.rsplit_once(':') {
            Some((name, _)) if self.has_port() => name,
            _ => host,
        }
    }
}

impl fmt::Display for HostPattern {
    /// As it is written in the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Wildcard(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// `path` or `path_prefix`, escaped unreserved characters decoded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathPattern {
    Exact(String),
    /// Without its trailing slash; `/` is the empty string.
    Prefix(String),
}

/// Where a route's requests go.
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

/// Whose token a route's requests carry.
#[derive(Debug, Clone)]
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
        /// No format was given, so the scheme is the token's own (`Bearer`, `DPoP`).
        by_type: bool,
    },
    /// A query parameter, for upstreams that accept the token only there.
    Query { name: String },
}

/// `request_headers`, `response_headers`.
#[derive(Debug, Clone, Default)]
pub struct HeaderEdits {
    pub set: Vec<(HeaderName, Source)>,
    pub remove: Vec<HeaderName>,
}
