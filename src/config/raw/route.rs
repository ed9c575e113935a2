//! `[[route]]` as it is written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::super::model::{CallerAuthorization, HeaderCase, Protocol};
use super::issuer::RawTls;
use super::keys::{Flag, Lasting, Plaintext, Size, Word};
use super::values::{RawEgress, RawParams, RawReference};

/// What is forwarded where, and with whose token.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Route")]
pub(crate) struct RawRoute {
    /// The route's name in logs, metrics and errors.
    #[schemars(extend("x-errors" = "missing; used twice"))]
    pub name: Option<String>,
    /// The listener it answers on. Not given: any.
    #[schemars(extend("x-errors" = "no such listener"))]
    pub listener: Option<String>,
    /// The host that callers ask for; "*.example.com" matches one label or more. Not given: the listener's own names.
    #[schemars(extend("x-errors" = "a port, a URL, `*` elsewhere than first"))]
    pub host: Option<String>,
    /// An exact path. Not together with `path_prefix`.
    #[schemars(extend("x-errors" = "beside `path_prefix`; a dot segment, a backslash, a query; an escaped slash without `allow_encoded_slash`"))]
    pub path: Option<String>,
    /// A prefix of whole path segments.
    #[schemars(extend("default" = "/", "x-errors" = "as `path`"))]
    pub path_prefix: Option<String>,
    /// Methods it serves. Not given: any.
    #[schemars(extend("x-errors" = "empty; lower case; CONNECT, TRACE"))]
    pub methods: Option<Vec<String>>,
    /// Headers that a request must carry, with these values.
    #[schemars(extend("x-errors" = "`host`"))]
    pub match_headers: Option<BTreeMap<String, String>>,
    /// Where calls go: a URL, or "unix:" and a socket's path.
    #[schemars(extend("x-errors" = "missing; a query, a user, a password; a listener of our own; `http://` to another machine"))]
    pub upstream: Option<String>,
    /// HTTP version toward the upstream; "auto" chooses by ALPN, "http2" over http is prior knowledge.
    pub protocol: Word<Protocol>,
    /// "allow": http:// to another machine, warned about.
    pub plaintext: Word<Plaintext>,
    /// Whose token the requests carry. Either this or `anonymous = true`.
    #[schemars(extend("x-errors" = "missing without `anonymous = true`; no such issuer"))]
    pub issuer: Option<String>,
    /// Forward without a token.
    #[schemars(extend("default" = false, "x-errors" = "beside `issuer`, `scopes`, `params`, `subject`, `inject`"))]
    pub anonymous: Option<bool>,
    /// Scopes instead of the issuer's.
    pub scopes: Option<Vec<String>>,
    /// Parameters of the token request, added to the issuer's.
    pub params: Option<RawParams>,
    /// The `sub` of the JWT that the issuer's token request carries, instead of the issuer's.
    #[schemars(extend("x-errors" = "where the issuer makes no JWT"))]
    pub subject: Option<String>,
    /// What happens to an Authorization header of the caller.
    pub caller_authorization: Word<CallerAuthorization>,
    /// How the token is put on a request.
    pub inject: Option<RawInject>,
    /// Headers that are set on or removed from requests.
    pub request_headers: Option<RawHeaderEdits>,
    /// Headers that are set on or removed from responses.
    pub response_headers: Option<RawHeaderEdits>,
    /// Set X-Forwarded-For, -Proto and -Host.
    pub forwarded: Flag<false>,
    /// A Location under `upstream` points back through the proxy.
    pub rewrite_location: Flag<true>,
    /// Statuses of the upstream that mean "get a new token".
    #[schemars(extend("default" = [Self::REFRESH_ON], "x-errors" = "not 300 to 599"))]
    pub refresh_on: Option<Vec<u16>>,
    // Enough for most requests of an API; more costs memory for every request under way, since kept bodies are in memory.
    /// Bodies up to this may be replayed; "0B" turns replay off.
    pub replay_limit: Size<{ 64 << 10 }, 0, { 1 << 30 }>,
    /// Let paths with an escaped slash pass.
    pub allow_encoded_slash: Flag<false>,
    /// For DNS, connection and TLS.
    pub connect_timeout: Lasting<5>,
    /// From the last request byte sent to the response's headers.
    pub response_timeout: Lasting<60>,
    /// Without a byte, on a body or an upgraded connection.
    pub idle_timeout: Lasting<300>,
    // A moved name is followed within this time.
    /// After this, a connection to the upstream is not used again, so that DNS changes are seen.
    pub connection_max_age: Lasting<600>,
    /// How field names are written toward this upstream over HTTP/1.1; "title" (`Content-Type`) is for servers that compare
    /// names letter by letter.
    pub header_case: Word<HeaderCase>,
    /// TLS toward the upstream.
    pub tls: Option<RawTls>,
    /// Proxy to reach the upstream by CONNECT.
    #[schemars(extend("x-errors" = "with a `unix:` upstream"))]
    pub proxy: Option<RawEgress>,
}

impl RawRoute {
    /// RFC 6750 section 3.1: `invalid_token` comes as 401.
    pub(crate) const REFRESH_ON: u16 = 401;
}

/// How the token is put on a request.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Inject")]
pub(crate) struct RawInject {
    /// The header that carries the token.
    #[schemars(extend("default" = "authorization", "x-errors" = "a header of the connection"))]
    pub header: Option<String>,
    /// The header's value, with {token} once.
    #[schemars(extend("default" = Self::FORMAT, "x-errors" = "`{token}` not once"))]
    pub format: Option<String>,
    /// The parameter of the query that carries the token, for upstreams that take it nowhere else. Not together with
    /// the others.
    #[schemars(extend("x-errors" = "beside `header` or `format`; with an issuer that has `dpop`"))]
    pub query: Option<String>,
}

impl RawInject {
    /// RFC 6750 section 2.1.
    pub(crate) const FORMAT: &str = "Bearer {token}";
}

/// Headers that are set or removed.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "HeaderEdits")]
pub(crate) struct RawHeaderEdits {
    /// Headers to set, instead of any of that name.
    #[schemars(extend("x-errors" = "the header that carries the token; headers of the connection"))]
    pub set: Option<BTreeMap<String, RawReference>>,
    /// Names of headers to remove.
    #[schemars(extend("default" = [], "x-errors" = "one that is set, too; headers of the connection"))]
    pub remove: Option<Vec<String>>,
}
