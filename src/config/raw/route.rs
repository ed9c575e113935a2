//! `[[route]]` as it is written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::super::model::{CallerAuthorization, HeaderCase, Protocol};
use super::issuer::RawTls;
use super::keys::{Flag, Lasting, Plaintext, Size, Word};
use super::values::{RawEgress, RawParams, RawReference};

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
    /// The host of the request. "*.example.com" matches one label or more. Default: the listener's own names.
    #[schemars(extend("x-errors" = "a port, a URL, `*` anywhere but first"))]
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
    #[schemars(extend("x-errors" = "`host`"))]
    pub match_headers: Option<BTreeMap<String, String>>,
    /// Where requests go: a URL, or "unix:" and a socket's path.
    #[schemars(extend("x-errors" = "missing; a query, a user, a password; one of bearerd's own listeners; `http://` to another machine"))]
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
    pub params: Option<RawParams>,
    /// The `sub` of the JWT in the token request. Replaces the issuer's.
    #[schemars(extend("x-errors" = "if the issuer's token request has no JWT"))]
    pub subject: Option<String>,
    /// What happens to an `Authorization` header field of the caller.
    pub caller_authorization: Word<CallerAuthorization>,
    /// How bearerd adds the token to a request.
    pub inject: Option<RawInject>,
    /// Header fields to set on or remove from requests.
    pub request_headers: Option<RawHeaderEdits>,
    /// Header fields to set on or remove from responses.
    pub response_headers: Option<RawHeaderEdits>,
    /// Set X-Forwarded-For, X-Forwarded-Proto, and X-Forwarded-Host.
    pub forwarded: Flag<false>,
    /// Rewrite a `Location` under `upstream` to point through the proxy.
    pub rewrite_location: Flag<true>,
    /// Statuses of the upstream that lead to a new token.
    #[schemars(extend("default" = [Self::REFRESH_ON], "x-errors" = "not 300 to 599"))]
    pub refresh_on: Option<Vec<u16>>,
    // Enough for most requests of an API; more costs memory for every request under way, since kept bodies are in memory.
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
    // A moved name is followed within this time.
    /// How long bearerd uses a connection to the upstream, so that it sees DNS changes.
    pub connection_max_age: Lasting<600>,
    /// Case of field names for this upstream over HTTP/1.1. "title" (`Content-Type`) is for servers with case-sensitive
    /// names.
    pub header_case: Word<HeaderCase>,
    /// TLS for connections to the upstream.
    pub tls: Option<RawTls>,
    /// Proxy to reach the upstream, with CONNECT.
    #[schemars(extend("x-errors" = "with a `unix:` upstream"))]
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
    #[schemars(extend("x-errors" = "the header field that carries the token; header fields of the connection"))]
    pub set: Option<BTreeMap<String, RawReference>>,
    /// Names of header fields to remove.
    #[schemars(extend("default" = [], "x-errors" = "a name that is also set; header fields of the connection"))]
    pub remove: Option<Vec<String>>,
}
