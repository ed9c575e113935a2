//! The file as it is written: the values of TOML, of which only the types are checked.
//!
//! This is the only place that declares a key: its name, its type with bounds and default (`values`; the default of a text
//! is a constant of the struct), whether it is secret (`RawSecret`, `RawKey`, or `x-secret`), its description (the doc comment),
//! and typical errors (`x-errors`). The JSON Schema,
//! docs/config.md, config.example.toml, suggestions, and the defaults of the program are made from it.
//!
//! Every field is optional, so that one missing key hides no other error. No struct is tagged, untagged, or flattened: these
//! lose unknown keys and the place of an error.

pub(crate) mod values;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::client_auth::{self, ClientSecretBasic, Method};
use crate::config::model::{
    BasicEncoding, Budget, CallerAuthorization, Callers, Carrier, HeaderCase, JwtUse, LogFormat,
    OtlpProtocol, Protocol, ResponseFormat, Roots, ScopeIn, Serve, Tracing, Unmatched,
};
use crate::config::raw::values::{
    Count, Flag, Lasting, Plaintext, RawCa, RawCertificate, RawEgress, RawKey, RawListenerSvid, RawParams,
    RawPublic, RawReference, RawSecret, RawSigningKey, RawX509Svid, Size, Word, Words,
};

/// The config file of bearerd.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, title = "bearerd config")]
pub(crate) struct RawFile {
    // One thread serves some ten thousand requests a second, and a sidecar should not use more by default. More than
    // the bound is an error.
    /// Threads that serve requests. They share each bound socket. A change needs a restart.
    pub workers: Count<1, 1024>,
    /// More files with issuers and routes, for example one for each team. The last part of a path may contain `*`.
    #[schemars(extend("default" = [], "x-errors" = "`*` before the last part; a named file that is missing; anything but issuers and routes in it"))]
    pub include: Option<Vec<String>>,
    // Kubernetes sends SIGTERM and removes the endpoint at once.
    /// How long bearerd still accepts requests after SIGTERM, while /readyz already returns 503.
    pub drain_delay: Lasting<0>,
    // Kubernetes' own grace period.
    /// How long running requests may take to end after SIGTERM. "0s" means no limit.
    pub shutdown_timeout: Lasting<30>,
    pub limits: Option<RawLimits>,
    pub log: Option<RawLog>,
    pub tracing: Option<RawTracing>,
    pub admin: Option<RawAdmin>,
    pub store: Option<RawStore>,
    /// Addresses where bearerd accepts requests, by name.
    pub listener: BTreeMap<String, RawListener>,
    /// Authorization servers that give tokens, by name.
    pub issuer: BTreeMap<String, RawIssuer>,
    /// Which requests bearerd forwards, where to, and with whose token.
    pub route: Vec<RawRoute>,
    /// Receivers that learn a value from signed requests, by name.
    #[schemars(extend("x-secret" = true))]
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
    pub secrets: Option<Vec<RawSecret>>,
    /// JSON pointer to the value in the payload (RFC 6901).
    #[schemars(extend("x-errors" = "missing; not a JSON pointer"))]
    pub value: Option<String>,
    /// JSON pointers with the text, number, or boolean that a payload must have there. bearerd acknowledges any other
    /// payload and keeps nothing of it.
    #[schemars(extend("x-errors" = "not a JSON pointer"))]
    pub only: Option<BTreeMap<String, String>>,
    /// JSON pointer to the time of the payload, in epoch seconds or milliseconds, or as an RFC 3339 date. A payload that is
    /// older than the stored value does not replace it.
    #[schemars(extend("default" = Self::TIMESTAMP, "x-errors" = "not a JSON pointer"))]
    pub timestamp: Option<String>,
    /// The file that keeps the value.
    #[schemars(extend("x-errors" = "missing; a folder; a path that something else uses"))]
    pub store: Option<String>,
}

impl RawWebhook {
    pub(crate) const TIMESTAMP: &str = "/timestamp";
}

/// Limits for callers.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Limits")]
pub(crate) struct RawLimits {
    // Four times the limit of common servers, because tokens of callers can be large. Ordinary requests need more than
    // the lower bound. The upper bound limits the memory of each connection.
    /// Size of a request's header section.
    pub header_bytes: Size<{ 32 << 10 }, { 1 << 10 }, { 1 << 20 }>,
    // hyper has a table of this size for each request, and `http` cannot hold more than twice as many.
    /// Number of header fields of a request.
    pub header_count: Count<100, 10_000>,
    /// How long a caller may take to send a request's header section.
    pub header_timeout: Lasting<10>,
    // Longer than the 60 s of common load balancers, so that they close first.
    /// How long a connection may stay idle between two requests.
    pub keep_alive: Lasting<75>,
    // The bound is the number of descriptors that Linux gives a process.
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
    #[schemars(extend("x-errors" = "not a header field that may be set", "x-secret" = true))]
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
    // The library's default.
    const SAMPLE: f64 = 1.0;
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

/// Where tokens are kept: in a Redis or Valkey server, for all replicas, or in a folder, for this host's next start.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Store")]
pub(crate) struct RawStore {
    /// The server: "redis://HOST:PORT/DATABASE", "rediss://…" for TLS, or "unix:" and a socket's path. Port and database
    /// may be left out. `url`, `urls`, or `path` is required.
    #[schemars(extend("x-errors" = "missing; beside `urls` or `path`; another scheme; a user, a password, or a query; a database other than 0 with `cluster`"))]
    pub url: Option<String>,
    /// The servers of a cluster, or the Sentinels.
    #[schemars(extend("x-errors" = "as `url`; empty; several without `cluster` or `sentinel`; different schemes or databases; the same server twice"))]
    pub urls: Option<Vec<String>>,
    /// The servers are a Redis Cluster. bearerd finds all of them through the listed ones.
    #[schemars(extend("x-errors" = "beside `sentinel`, `path`, or `unix:`"))]
    pub cluster: Flag<false>,
    /// The name of the service that the Sentinels watch. bearerd asks them for its primary server.
    #[schemars(extend("x-errors" = "beside `cluster`, `path`, or `unix:`; empty"))]
    pub sentinel: Option<String>,
    /// The user at the server (ACL). Default: the server's default user.
    #[schemars(extend("x-errors" = "without `password`; beside `path`; empty"))]
    pub username: Option<RawPublic>,
    /// The user's password.
    #[schemars(extend("x-errors" = "beside `path`; a literal in a file that others may read"))]
    pub password: Option<RawSecret>,
    /// A folder of this host, instead of a server: a restart makes no token request.
    #[schemars(extend("x-errors" = "beside `url`, `urls`, `cluster`, `sentinel`, `username`, `password`, or `tls`; empty; a path that something else uses"))]
    pub path: Option<String>,
    /// Keys of 32 bytes, in base64 or hex. The first encrypts, and all decrypt.
    #[schemars(extend("x-errors" = "missing; empty; not 32 bytes; the same reference or literal twice; a literal in a file that others may read"))]
    pub keys: Option<Vec<RawSecret>>,
    /// The start of the name of everything that bearerd writes there, so that several deployments can use one server.
    #[schemars(extend("default" = Self::PREFIX, "x-errors" = "anything but 1 to 64 letters, digits, `.`, `_`, `:`, `-`"))]
    pub prefix: Option<String>,
    // A server in the same network responds in a few milliseconds.
    /// Timeout of one operation. Then the request continues without the store, and bearerd does not try it for 5 s.
    #[schemars(extend("x-errors" = "`0s`; more than `5s`"))]
    pub timeout: Lasting<0, 100>,
    /// TLS for connections to the server.
    #[schemars(extend("x-errors" = "without `rediss://`; beside `path`"))]
    pub tls: Option<RawTls>,
}

impl RawStore {
    pub(crate) const PREFIX: &str = "bearerd";
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
    #[schemars(extend("default" = [], "x-errors" = "`*`, a path; with `serve = \"token\"`"))]
    pub origins: Option<Vec<String>>,
    /// "network" allows an address that other machines can reach. It requires `allow`, `require_header`,
    /// `tls.client_ca`, or `tls.spiffe.client_certificates`.
    #[schemars(extend("x-errors" = "`\"network\"` without one of these"))]
    pub callers: Word<Callers>,
    /// Addresses of callers that may send requests: addresses or networks such as "10.0.0.0/8". Default: any.
    #[schemars(extend("x-errors" = "not an address or network; empty; on `unix:`"))]
    pub allow: Option<Vec<String>>,
    /// A header field that every request must have.
    #[schemars(extend("x-secret" = true))]
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
    /// What the listener is for. "proxy": programs send it the requests of its routes. "forward": programs use it as their
    /// `HTTP_PROXY` and `HTTPS_PROXY`. "token": programs fetch tokens from it.
    #[schemars(extend("x-errors" = "`\"token\"` on TCP without `require_header`, or without an issuer whose tokens others can use"))]
    pub serve: Word<Serve>,
    /// How a forward listener serves.
    #[schemars(extend("x-errors" = "without `serve = \"forward\"`"))]
    pub forward: Option<RawForward>,
}

/// How a forward listener serves.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Forward")]
pub(crate) struct RawForward {
    /// The authority that signs the certificates of the routes' hosts. "ephemeral": made at each start, and its key never
    /// leaves memory. Or the certificate and the key of your own.
    #[schemars(extend("default" = RawCa::EPHEMERAL))]
    pub ca: Option<RawCa>,
    /// A PEM file that bearerd writes: the system's roots and the authority's certificate, for programs that replace their
    /// roots by it. Beside it, the same as PKCS#12 (.p12) and JKS (.jks) for Java, with the password "changeit". Relative paths
    /// start at the config file's folder.
    #[schemars(extend("x-errors" = "not a file's path; a folder; ends in .p12 or .jks; a path that something else uses"))]
    pub ca_bundle: Option<String>,
    /// What happens to a CONNECT for a host that no route names. "tunnel" lets it through unread, but never to this machine,
    /// to link-local addresses, or to metadata services.
    pub unmatched: Word<Unmatched>,
    /// The proxy for these tunnels. "env" obeys HTTPS_PROXY and NO_PROXY.
    #[schemars(extend("x-errors" = "without `unmatched = \"tunnel\"`; https; a path; one of bearerd's own listeners"))]
    pub proxy: Option<RawEgress>,
}

impl RawListener {
    /// Only this machine, because whoever can connect can use the credentials.
    pub(crate) const ADDRESS: &str = "127.0.0.1:8080";
    /// Only the owner.
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
    pub value: Option<RawSecret>,
}

/// TLS for connections from callers.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "ListenerTls")]
pub(crate) struct RawListenerTls {
    /// The certificate chain, PEM.
    #[schemars(extend("x-errors" = "missing without `spiffe`"))]
    pub certificate: Option<RawCertificate>,
    /// Its private key, PEM.
    #[schemars(extend("x-errors" = "missing without `spiffe`; a literal in a file that others may read"))]
    pub private_key: Option<RawKey>,
    /// Callers must present a certificate of this authority, PEM.
    pub client_ca: Option<RawCertificate>,
    /// Identity of the SPIFFE Workload API, in place of `certificate` and `private_key`.
    #[schemars(extend("x-errors" = "beside `certificate` or `private_key`"))]
    pub spiffe: Option<RawListenerSvid>,
}

/// An authorization server that gives tokens.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Issuer")]
pub(crate) struct RawIssuer {
    /// A vendor's preset, which provides defaults for this table. `bearerd init` lists the presets.
    #[schemars(extend("x-errors" = "not a preset"))]
    pub preset: Option<String>,
    /// Values that the preset requires, by name: a string, a number, or a reference.
    #[schemars(extend("x-errors" = "missing; unknown to the preset; a value that would change a URL's host; without `preset`", "x-secret" = true))]
    pub vars: Option<RawParams>,
    /// Where discovery starts: OpenID's path, then RFC 8414's. The document's `issuer` must equal it.
    #[schemars(extend("x-errors" = "beside `token_url`; a query; `http://` to another machine"))]
    pub issuer_url: Option<String>,
    /// The token endpoint, used byte for byte. Either this or `issuer_url` is required.
    #[schemars(extend("x-errors" = "neither this nor `issuer_url`; a user, a password, or a fragment; `http://` to another machine"))]
    pub token_url: Option<String>,
    /// false: /readyz does not wait for this issuer.
    pub required: Flag<true>,
    /// Keep the tokens in `[store]`, if there is one. Tokens that are bound to a key or a certificate are never shared.
    pub shared: Flag<true>,
    /// The most token requests in a span of time. Default: no limit.
    pub budget: Option<RawBudget>,
    /// The grant type: any string. "" omits the parameter. With jwt.use = "assertion", the default is the jwt-bearer
    /// grant.
    #[schemars(extend("default" = Self::GRANT_TYPE))]
    pub grant_type: Option<String>,
    /// The method of a token request. "GET" puts the parameters into the query.
    #[schemars(extend("x-errors" = "`\"GET\"` with a `body` other than `\"query\"`"))]
    pub method: Word<TokenMethod>,
    /// Format of the parameters of a token request.
    pub body: Word<Carrier>,
    /// The client ID at the issuer.
    #[schemars(extend("x-errors" = "missing with a secret, with `tls_client_auth`, or with `send_client_id`; empty"))]
    pub client_id: Option<RawPublic>,
    /// Also send `client_id` as a parameter, in addition to what `client_auth` sends.
    pub send_client_id: Flag<false>,
    /// How the client proves who it is.
    #[schemars(extend("default" = ClientSecretBasic.name(), "enum" = client_auth::names().collect::<Vec<_>>()))]
    pub client_auth: Option<String>,
    /// The client's secret. `""` means an empty secret (RFC 6749, section 2.3.1). An empty file does not.
    #[schemars(extend("x-errors" = "missing with a `client_auth` that uses a secret; set with any other; a literal in a file that others may read"))]
    pub client_secret: Option<RawSecret>,
    /// "form": ID and secret are form-encoded before base64 (RFC 6749, section 2.3.1). "raw" is for servers that do not
    /// decode.
    #[schemars(extend("x-errors" = "if bearerd sends no Basic credentials"))]
    pub basic_encoding: Word<BasicEncoding>,
    /// Another HTTP Basic user, in addition to the credentials in the body.
    #[schemars(extend("x-errors" = "beside `client_secret_basic`", "x-secret" = true))]
    pub basic: Option<RawBasic>,
    /// A second credential, tried if the issuer refuses the first. Missing keys are taken from the issuer's table.
    #[schemars(extend("x-errors" = "empty; a key that `client_auth` does not use", "x-secret" = true))]
    pub standby: Option<RawStandby>,
    /// For this long after the credential changed, a refusal of the client is not final: bearerd asks again after the
    /// usual pauses.
    pub credential_grace: Lasting<0>,
    /// Scopes to request, joined by a space in this order. The parameter is omitted if the list is empty.
    #[schemars(extend("default" = [], "x-errors" = "more than one scope in a string"))]
    pub scopes: Option<Vec<String>>,
    /// More parameters of a token request.
    #[schemars(extend("x-errors" = "`grant_type`, `scope`, `client_id`, `client_secret`, which have their own keys (but `scope = \"\"` is allowed); an array in an array, or a table, without `body = \"json\"`", "x-secret" = true))]
    pub params: Option<RawParams>,
    /// More header fields of a token request.
    #[schemars(extend("x-errors" = "`authorization` beside `client_secret_basic`; header fields of the connection", "x-secret" = true))]
    pub headers: Option<BTreeMap<String, RawReference>>,
    /// The folder of key files of Azure Arc's agent. If a 401 names a file below it (`WWW-Authenticate: Basic
    /// realm=FILE`), bearerd requests the token again with the file's content.
    #[schemars(extend("x-errors" = "beside another way to send `authorization`"))]
    pub challenge_folder: Option<String>,
    /// The key that signs JWTs, and the client's key of tls_client_auth: PKCS#8, PKCS#1, SEC1, JWK, PKCS#12, or a
    /// vendor's key JSON.
    #[schemars(extend("x-errors" = "missing with `private_key_jwt`; if nothing uses it"))]
    pub private_key: Option<RawSigningKey>,
    /// The client's certificate in PEM or PKCS#12, for JWT headers (x5t, x5t#S256, x5c) and for tls_client_auth.
    #[schemars(extend("x-errors" = "if nothing uses it"))]
    pub certificate: Option<RawCertificate>,
    /// How to make JWTs for token requests.
    #[schemars(extend("x-errors" = "if bearerd makes no JWT"))]
    pub jwt: Option<RawJwt>,
    /// A ready-made assertion, read for every token request.
    #[schemars(extend("x-errors" = "missing with `assertion_file`; beside `jwt.use = \"assertion\"`"))]
    pub assertion: Option<RawSecret>,
    /// The type of a client assertion (RFC 7521, section 4.2). For a JWT-SVID of SPIFFE, use
    /// `urn:ietf:params:oauth:client-assertion-type:jwt-spiffe`.
    #[schemars(extend("default" = Self::ASSERTION_TYPE, "x-errors" = "if bearerd sends no client assertion"))]
    pub assertion_type: Option<String>,
    /// Bind tokens to a key (RFC 9449).
    pub dpop: Option<RawDpop>,
    /// Where the values are in the issuer's response.
    pub response: Option<RawResponse>,
    /// The share of a token's lifetime after which bearerd renews it.
    #[schemars(extend("default" = Self::REFRESH_AT, "exclusiveMinimum" = 0, "maximum" = 1, "x-errors" = "0 or less; more than 1"))]
    pub refresh_at: Option<f64>,
    // Shorter than the lifetime that common issuers grant, so that a wrong guess does little harm.
    /// A token's lifetime if neither the issuer nor the token (a JWT's `exp`) says it.
    #[schemars(extend("x-errors" = "`0s`"))]
    pub default_lifetime: Lasting<300>,
    /// Timeout of a whole token request, and the longest time that a request waits for a token.
    pub timeout: Lasting<10>,
    /// TLS for connections to the issuer.
    pub tls: Option<RawTls>,
    /// Proxy for token requests only.
    #[schemars(extend("x-errors" = "one of bearerd's own listeners", "x-secret" = true))]
    pub proxy: Option<RawEgress>,
}

impl RawIssuer {
    /// RFC 6749 section 4.4.2.
    pub(crate) const GRANT_TYPE: &str = "client_credentials";
    /// RFC 7523 section 2.2.
    pub(crate) const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    /// Late enough to use a token well, and early enough for a few more attempts before it expires.
    pub(crate) const REFRESH_AT: f64 = 0.8;
}

/// The most token requests in any span of time.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Budget")]
pub(crate) struct RawBudget {
    /// The number of token requests.
    #[schemars(extend("minimum" = 1, "maximum" = Budget::MOST_REQUESTS, "x-errors" = format!("missing; 0; more than {}", Budget::MOST_REQUESTS)))]
    pub requests: Option<u64>,
    /// The length of the span.
    #[schemars(extend("default" = null, "x-errors" = "missing; less than `1s`; more than `31d`"))]
    pub per: Lasting<0>,
}

/// `method` of a token request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum TokenMethod {
    #[default]
    Post,
    Get,
}

impl Words for TokenMethod {
    const WORDS: &'static [(&'static str, Self)] = &[("POST", Self::Post), ("GET", Self::Get)];
}

/// Another HTTP Basic user of a token request.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Basic")]
pub(crate) struct RawBasic {
    /// The user's name.
    #[schemars(extend("x-errors" = "missing"))]
    pub user: Option<RawPublic>,
    /// The user's password.
    #[schemars(extend("x-errors" = "missing; a literal in a file that others may read"))]
    pub password: Option<RawSecret>,
}

/// A second credential.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Standby")]
pub(crate) struct RawStandby {
    /// The client ID at the issuer.
    pub client_id: Option<RawPublic>,
    /// The client's secret.
    #[schemars(extend("x-errors" = "if no secret is used"))]
    pub client_secret: Option<RawSecret>,
    /// The key that signs JWTs.
    #[schemars(extend("x-errors" = "if no key signs"))]
    pub private_key: Option<RawSigningKey>,
    /// The certificate of that key.
    #[schemars(extend("x-errors" = "if no key signs"))]
    pub certificate: Option<RawCertificate>,
    /// The key's ID.
    #[schemars(extend("x-errors" = "if no key signs"))]
    pub key_id: Option<RawPublic>,
}

/// How to make JWTs for token requests. Each JWT has a new `jti`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Jwt")]
pub(crate) struct RawJwt {
    /// Use of the JWT: the client's assertion, the assertion of the jwt-bearer grant, or a Bearer token on the token
    /// request.
    #[serde(rename = "use")]
    pub usage: Word<JwtUse>,
    /// The signature's algorithm. Default: depends on the key's type. `client_secret_jwt` uses `HS256`, `HS384`, or
    /// `HS512`, and all others the other values.
    #[schemars(extend("enum" = alg_names(), "x-errors" = "does not go with the key"))]
    pub alg: Option<String>,
    /// `kid`. Default: the one in the key file.
    pub key_id: Option<RawPublic>,
    /// `typ`. "" omits it.
    #[serde(rename = "type")]
    #[schemars(extend("default" = Self::TYPE))]
    pub typ: Option<String>,
    /// `iss`. Default: the client ID, else the one in the key file.
    pub issuer: Option<RawPublic>,
    /// `sub`. Default: same as `issuer`. "" omits it.
    pub subject: Option<RawPublic>,
    /// `aud`. Default: the discovered issuer, else the token URL.
    pub audience: Option<RawPublic>,
    // Servers refuse long-lived assertions, and bearerd makes a new one for each request.
    /// The time from `iat` to `exp`.
    #[schemars(extend("x-errors" = "less than `10s`"))]
    pub lifetime: Lasting<60>,
    /// Where to put the scopes: into the `scope` parameter, or into the JWT as a string or an array.
    pub scope: Word<ScopeIn>,
    /// How the JWT's header names the certificate: "x5t", "x5t#S256", "x5c". Default: "x5t#S256" if there is a
    /// certificate.
    #[schemars(extend("x-errors" = "other names; with `client_secret_jwt`"))]
    pub certificate_headers: Option<Vec<String>>,
    /// More claims, with their JSON types.
    #[schemars(extend("x-errors" = "`iss`, `sub`, `aud`, `exp`, `iat`, `nbf`, `jti`", "x-secret" = true))]
    pub claims: Option<RawParams>,
}

impl RawJwt {
    pub(crate) const TYPE: &str = "JWT";
}

fn alg_names() -> Vec<&'static str> {
    crate::jose::Alg::names().collect()
}

/// Bind tokens to a key (RFC 9449).
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Dpop")]
pub(crate) struct RawDpop {
    /// The key. It should differ from the key that authenticates the client, because some issuers refuse one key for both.
    #[schemars(extend("x-errors" = "missing"))]
    pub private_key: Option<RawSigningKey>,
    /// The signature's algorithm. Default: depends on the key's type.
    #[schemars(extend("enum" = alg_names(), "x-errors" = "an HMAC algorithm such as HS256"))]
    pub alg: Option<String>,
}

/// Where the values are in the issuer's response, as JSON pointers (RFC 6901).
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Response")]
pub(crate) struct RawResponse {
    /// The token.
    #[schemars(extend("default" = Self::TOKEN))]
    pub token: Option<String>,
    /// The token's type.
    #[serde(rename = "type")]
    #[schemars(extend("default" = Self::TYPE))]
    pub token_type: Option<String>,
    /// The token's lifetime in seconds.
    #[schemars(extend("default" = Self::EXPIRES_IN))]
    pub expires_in: Option<String>,
    /// When the token expires, if the response has no lifetime. With `"jwt"`, the token's own `exp`, whatever the response says.
    #[schemars(extend("default" = Self::EXPIRES_AT))]
    pub expires_at: Option<String>,
    /// The error code if the issuer refuses.
    #[schemars(extend("default" = Self::ERROR))]
    pub error: Option<String>,
    /// Format of the response. "text": the whole body is the token.
    #[schemars(extend("x-errors" = "\"text\" beside a pointer to the token, its type, or its lifetime"))]
    pub format: Word<ResponseFormat>,
    /// Accepted token types, case-insensitive.
    #[schemars(extend("default" = [Self::TOKEN_TYPE], "x-errors" = "empty"))]
    pub token_types: Option<Vec<String>>,
    /// Statuses of a response that contains a token.
    #[schemars(extend("default" = [Self::STATUS], "x-errors" = "empty; not 200 to 599"))]
    pub statuses: Option<Vec<u16>>,
    /// Header fields that a response with a token must have, with their values. bearerd refuses any other response.
    pub require_headers: Option<BTreeMap<String, String>>,
}

/// RFC 6749 section 5.1. `expires_on` is a field of Azure's managed identities.
impl RawResponse {
    pub(crate) const TOKEN: &str = "/access_token";
    pub(crate) const TYPE: &str = "/token_type";
    pub(crate) const EXPIRES_IN: &str = "/expires_in";
    pub(crate) const EXPIRES_AT: &str = "/expires_on";
    /// The word in `expires_at` for the token's own `exp`.
    pub(crate) const OWN_EXP: &str = "jwt";
    pub(crate) const ERROR: &str = "/error";
    pub(crate) const TOKEN_TYPE: &str = "Bearer";
    pub(crate) const STATUS: u16 = 200;
}

/// TLS for connections to an issuer or an upstream.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Tls")]
pub(crate) struct RawTls {
    /// Certificate authorities, PEM. They replace the system's, and those of `spiffe`.
    pub ca: Option<RawCertificate>,
    /// Trusted roots: "ca" (the default with `ca` or `spiffe`), "system" (the default without), "both", or "bundled".
    #[schemars(extend("default" = null, "x-errors" = "`ca` or `both` without `ca` and `spiffe`; `system` with `ca`"))]
    pub roots: Word<Roots>,
    /// The client certificate chain, PEM, for servers that request one.
    #[schemars(extend("x-errors" = "without `private_key`"))]
    pub certificate: Option<RawCertificate>,
    /// Its private key, PEM.
    #[schemars(extend("x-errors" = "without `certificate`; a literal in a file that others may read"))]
    pub private_key: Option<RawKey>,
    /// The server name to request and verify, if it is not the URL's host. "spiffe://…": the SPIFFE ID that the server's
    /// certificate must have, in place of a name.
    #[schemars(extend("x-errors" = "not a name; `spiffe://…` without `spiffe` or `ca`, or with other `roots`"))]
    pub server_name: Option<String>,
    /// Identity and trust bundle of the SPIFFE Workload API, in place of `certificate`, `private_key`, and `ca`.
    #[schemars(extend("x-errors" = "beside `certificate` or `private_key`"))]
    pub spiffe: Option<RawX509Svid>,
}

/// Which requests bearerd forwards, where to, and with whose token.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Route")]
pub(crate) struct RawRoute {
    /// The route's name in logs, metrics, and errors.
    #[schemars(extend("x-errors" = "missing; used twice"))]
    pub name: Option<String>,
    /// The listener of the route. Default: any.
    #[schemars(extend("x-errors" = "no such listener"))]
    pub listener: Option<String>,
    /// The host of the request. "*.example.com" matches one label or more. On a forward listener, a port other than 443 and
    /// 80 is part of it: "api.example.com:8443". Default: the listener's own names.
    #[schemars(extend("x-errors" = "a URL, `*` anywhere but first; a port, or missing, where the listener says otherwise"))]
    pub host: Option<String>,
    /// An exact path. Cannot be combined with `path_prefix`.
    #[schemars(extend("x-errors" = "beside `path_prefix`; a dot segment, a backslash, a query; an escaped slash without `allow_encoded_slash`"))]
    pub path: Option<String>,
    /// A prefix of whole path segments.
    #[schemars(extend("default" = "/", "x-errors" = "as `path`"))]
    pub path_prefix: Option<String>,
    /// Methods that the route serves. Default: any.
    #[schemars(extend("x-errors" = "empty; lower case; CONNECT, TRACE"))]
    pub methods: Option<Vec<String>>,
    /// Header fields that a request must have, with these values.
    #[schemars(extend("x-errors" = "`host`", "x-secret" = true))]
    pub match_headers: Option<BTreeMap<String, String>>,
    /// Where requests go: a URL, or "unix:" and a socket's path. Default on a forward listener: the host that the program
    /// asked for, over TLS, with the path as it is.
    #[schemars(extend("x-errors" = "missing on any other listener; a query, a user, a password; one of bearerd's own listeners; `http://` to another machine"))]
    pub upstream: Option<String>,
    /// HTTP version for the upstream. "auto" chooses by ALPN. "http2" over http uses prior knowledge.
    pub protocol: Word<Protocol>,
    /// "allow": http:// to another machine, with a warning.
    pub plaintext: Word<Plaintext>,
    /// The issuer whose token the requests carry. Either this or `anonymous = true`.
    #[schemars(extend("x-errors" = "missing without `anonymous = true`; no such issuer"))]
    pub issuer: Option<String>,
    /// Forward without a token.
    #[schemars(extend("default" = false, "x-errors" = "beside `issuer`, `scopes`, `params`, `subject`, `inject`"))]
    pub anonymous: Option<bool>,
    /// Scopes that replace the issuer's.
    pub scopes: Option<Vec<String>>,
    /// Parameters of the token request, added to the issuer's.
    #[schemars(extend("x-secret" = true))]
    pub params: Option<RawParams>,
    /// The `sub` of the JWT in the token request. Replaces the issuer's.
    #[schemars(extend("x-errors" = "if the issuer's token request has no JWT"))]
    pub subject: Option<String>,
    /// What happens to an `Authorization` header field of the caller.
    pub caller_authorization: Word<CallerAuthorization>,
    /// How bearerd adds the token to a request.
    pub inject: Option<RawInject>,
    /// Header fields to set on or remove from requests.
    #[schemars(extend("x-secret" = true))]
    pub request_headers: Option<RawHeaderEdits>,
    /// Header fields to set on or remove from responses.
    #[schemars(extend("x-secret" = true))]
    pub response_headers: Option<RawHeaderEdits>,
    /// Set X-Forwarded-For, X-Forwarded-Proto, and X-Forwarded-Host.
    pub forwarded: Flag<false>,
    /// Rewrite a `Location` under `upstream` to point through the proxy.
    pub rewrite_location: Flag<true>,
    /// Statuses of the upstream that lead to a new token.
    #[schemars(extend("default" = [Self::REFRESH_ON], "x-errors" = "not 300 to 599"))]
    pub refresh_on: Option<Vec<u16>>,
    // Enough for most requests of an API. Kept bodies are in memory, so more costs memory for every running request.
    /// The largest body that bearerd keeps for a replay. "0B" turns replays off.
    pub replay_limit: Size<{ 64 << 10 }, 0, { 1 << 30 }>,
    /// Accept paths with an escaped slash.
    pub allow_encoded_slash: Flag<false>,
    /// Timeout for DNS, connection, and TLS.
    pub connect_timeout: Lasting<5>,
    /// Timeout from the last byte of the request to the head of the response.
    pub response_timeout: Lasting<60>,
    /// Timeout without a byte, on a body or an upgraded connection.
    pub idle_timeout: Lasting<300>,
    // bearerd follows a changed DNS name within this time.
    /// How long bearerd uses a connection to the upstream, so that it sees DNS changes.
    pub connection_max_age: Lasting<600>,
    /// Case of field names for this upstream over HTTP/1.1. "title" (`Content-Type`) is for servers with case-sensitive
    /// names.
    pub header_case: Word<HeaderCase>,
    /// TLS for connections to the upstream.
    pub tls: Option<RawTls>,
    /// Proxy to reach the upstream, with CONNECT.
    #[schemars(extend("x-errors" = "with a `unix:` upstream; one of bearerd's own listeners", "x-secret" = true))]
    pub proxy: Option<RawEgress>,
}

impl RawRoute {
    /// RFC 6750 section 3.1: `invalid_token` comes as 401.
    pub(crate) const REFRESH_ON: u16 = 401;
}

/// How bearerd adds the token to a request.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Inject")]
pub(crate) struct RawInject {
    /// The header field that carries the token.
    #[schemars(extend("default" = "authorization", "x-errors" = "a header field of the connection"))]
    pub header: Option<String>,
    /// The field's value, with {token} once.
    #[schemars(extend("default" = Self::FORMAT, "x-errors" = "`{token}` missing or repeated"))]
    pub format: Option<String>,
    /// The query parameter that carries the token, for upstreams that accept it only there. Cannot be combined with the
    /// others.
    #[schemars(extend("x-errors" = "beside `header` or `format`; with an issuer that has `dpop`"))]
    pub query: Option<String>,
}

impl RawInject {
    /// RFC 6750 section 2.1.
    pub(crate) const FORMAT: &str = "Bearer {token}";
}

/// Header fields to set or remove.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "HeaderEdits")]
pub(crate) struct RawHeaderEdits {
    /// Header fields to set. They replace all fields of the same name.
    #[schemars(extend("x-errors" = "the header field that carries the token; header fields of the connection", "x-secret" = true))]
    pub set: Option<BTreeMap<String, RawReference>>,
    /// Names of header fields to remove.
    #[schemars(extend("default" = [], "x-errors" = "a name that is also set; header fields of the connection"))]
    pub remove: Option<Vec<String>>,
}
