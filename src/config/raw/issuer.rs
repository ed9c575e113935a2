//! `[issuer.NAME]` as it is written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::super::model::{BasicEncoding, Carrier, JwtUse, ResponseFormat, Roots, ScopeIn};
use super::keys::{Flag, Lasting, Word, Words};
use super::values::{RawEgress, RawParams, RawReference};

/// What `client_auth` may be.
pub(crate) const CLIENT_AUTH: [&str; 7] = [
    "client_secret_basic",
    "client_secret_post",
    "client_secret_jwt",
    "private_key_jwt",
    "tls_client_auth",
    "assertion_file",
    "none",
];

/// An authorization server that tokens are asked of.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Issuer")]
pub(crate) struct RawIssuer {
    /// A vendor's preset: it fills in what is not given here. `bearerd init` lists them.
    #[schemars(extend("x-errors" = "not a preset"))]
    pub preset: Option<String>,
    /// What the preset asks for, by name: a string, a number, or where it stands.
    #[schemars(extend("x-errors" = "missing, unknown to the preset; what would turn a URL to another host; without `preset`"))]
    pub vars: Option<RawParams>,
    /// Where discovery starts: OpenID's path, then RFC 8414's; the document's `issuer` must equal it.
    #[schemars(extend("x-errors" = "beside `token_url`; a query; `http://` to another machine"))]
    pub issuer_url: Option<String>,
    /// The token endpoint, byte for byte. One of `issuer_url` and `token_url` must be given.
    #[schemars(extend("x-errors" = "neither this nor `issuer_url`; a user, a password or a fragment; `http://` to another machine"))]
    pub token_url: Option<String>,
    /// false: /readyz does not wait for this issuer.
    pub required: Flag<true>,
    /// The grant that is asked for; any string, and "" leaves the parameter out. With jwt.use = "assertion" the default
    /// is the jwt-bearer grant.
    #[schemars(extend("default" = Self::GRANT_TYPE))]
    pub grant_type: Option<String>,
    /// The method of a token request; "GET" writes the parameters into the query.
    #[schemars(extend("x-errors" = "`\"GET\"` with a `body` other than `\"query\"`"))]
    pub method: Word<TokenMethod>,
    /// How the parameters of a token request are written.
    pub body: Word<Carrier>,
    /// The client's name at the issuer.
    #[schemars(extend("x-errors" = "missing with a secret, with `tls_client_auth` or with `send_client_id`; empty"))]
    pub client_id: Option<RawReference>,
    /// Send `client_id` as a parameter, beside what `client_auth` sends.
    pub send_client_id: Flag<false>,
    /// How the client proves who it is.
    #[schemars(extend("default" = "client_secret_basic", "enum" = CLIENT_AUTH))]
    pub client_auth: Option<String>,
    /// The client's secret. `""` says that it is empty (RFC 6749 section 2.3.1); an empty file does not.
    #[schemars(extend("x-errors" = "missing with a `client_auth` that has a secret, and given with any other; a literal in a file that others may read"))]
    pub client_secret: Option<RawReference>,
    /// "form": id and secret are form-encoded before base64 (RFC 6749 section 2.3.1); "raw" for servers that do not
    /// decode.
    #[schemars(extend("x-errors" = "where no Basic is sent"))]
    pub basic_encoding: Word<BasicEncoding>,
    /// Another HTTP Basic user, beside credentials in the body.
    #[schemars(extend("x-errors" = "beside `client_secret_basic`"))]
    pub basic: Option<RawBasic>,
    /// A second credential, tried where the issuer refuses the first; what is not given is as in the issuer's table.
    #[schemars(extend("x-errors" = "names none; what `client_auth` does not use"))]
    pub standby: Option<RawStandby>,
    /// So long after the credential changed, a refused client is asked again with the usual pauses.
    pub credential_grace: Lasting<0>,
    /// Scopes to ask for; joined by a space in this order, left out when empty.
    #[schemars(extend("default" = [], "x-errors" = "more than one scope in a string"))]
    pub scopes: Option<Vec<String>>,
    /// More parameters of a token request.
    #[schemars(extend("x-errors" = "`grant_type`, `scope`, `client_id`, `client_secret` have keys of their own (but `scope = \"\"` may be sent); an array in an array or a table without `body = \"json\"`"))]
    pub params: Option<RawParams>,
    /// More headers of a token request.
    #[schemars(extend("x-errors" = "`authorization` beside `client_secret_basic`; headers of the connection"))]
    pub headers: Option<BTreeMap<String, RawReference>>,
    /// The key that signs JWTs, and the client's key of tls_client_auth: PKCS#8, PKCS#1, SEC1, JWK, PKCS#12, or a
    /// vendor's key JSON.
    #[schemars(extend("x-errors" = "missing with `private_key_jwt`; where nothing uses it"))]
    pub private_key: Option<RawReference>,
    /// The client's certificate, PEM or PKCS#12: for x5t, x5t#S256 and x5c in JWTs, and for tls_client_auth.
    #[schemars(extend("x-errors" = "where nothing uses it"))]
    pub certificate: Option<RawReference>,
    /// How JWTs for token requests are made.
    #[schemars(extend("x-errors" = "where none is made"))]
    pub jwt: Option<RawJwt>,
    /// A ready-made assertion, read at every fetch.
    #[schemars(extend("x-errors" = "missing with `assertion_file`; beside `jwt.use = \"assertion\"`"))]
    pub assertion: Option<RawReference>,
    /// The type of a client assertion (RFC 7521 section 4.2); for a JWT-SVID of SPIFFE
    /// `urn:ietf:params:oauth:client-assertion-type:jwt-spiffe`.
    #[schemars(extend("default" = Self::ASSERTION_TYPE, "x-errors" = "where no client assertion is sent"))]
    pub assertion_type: Option<String>,
    /// Bind tokens to a key (RFC 9449).
    pub dpop: Option<RawDpop>,
    /// Where things stand in the issuer's response.
    pub response: Option<RawResponse>,
    /// Share of a token's lifetime after which it is renewed.
    #[schemars(extend("default" = Self::REFRESH_AT, "exclusiveMinimum" = 0, "maximum" = 1, "x-errors" = "not above 0 and at most 1"))]
    pub refresh_at: Option<f64>,
    // Shorter than what common issuers give, so that a wrong guess does little harm.
    /// A token's lifetime where the issuer does not say.
    #[schemars(extend("x-errors" = "`0s`"))]
    pub default_lifetime: Lasting<300>,
    /// For a whole token request, and the longest a request waits for a token.
    pub timeout: Lasting<10>,
    /// TLS toward the issuer.
    pub tls: Option<RawTls>,
    /// Proxy for token requests alone.
    pub proxy: Option<RawEgress>,
}

impl RawIssuer {
    /// RFC 6749 section 4.4.2.
    pub(crate) const GRANT_TYPE: &str = "client_credentials";
    /// RFC 7523 section 2.2.
    pub(crate) const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    /// Late enough to use a token well, early enough to try again a few times before it ends.
    pub(crate) const REFRESH_AT: f64 = 0.8;
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
    pub user: Option<RawReference>,
    /// The user's password.
    #[schemars(extend("x-errors" = "missing; a literal in a file that others may read"))]
    pub password: Option<RawReference>,
}

/// A second credential.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Standby")]
pub(crate) struct RawStandby {
    /// The client's name at the issuer.
    pub client_id: Option<RawReference>,
    /// The client's secret.
    #[schemars(extend("x-errors" = "where no secret is used"))]
    pub client_secret: Option<RawReference>,
    /// The key that signs JWTs.
    #[schemars(extend("x-errors" = "where no key signs"))]
    pub private_key: Option<RawReference>,
    /// The certificate of that key.
    #[schemars(extend("x-errors" = "where no key signs"))]
    pub certificate: Option<RawReference>,
    /// The key's id.
    #[schemars(extend("x-errors" = "where no key signs"))]
    pub key_id: Option<RawReference>,
}

/// How JWTs for token requests are made. A new `jti` every time.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Jwt")]
pub(crate) struct RawJwt {
    /// What the JWT is for: the client's assertion, the assertion of the jwt-bearer grant, or a Bearer token on the
    /// token request.
    #[serde(rename = "use")]
    pub usage: Word<JwtUse>,
    /// The signature's algorithm. Not given: by the key's type. `HS256`, `HS384`, `HS512` for
    /// `client_secret_jwt`; else one of the others.
    #[schemars(extend("enum" = alg_names(), "x-errors" = "does not go with the key"))]
    pub alg: Option<String>,
    /// `kid`. Not given: the key file's own.
    pub key_id: Option<RawReference>,
    /// `typ`; "" leaves it out.
    #[serde(rename = "type")]
    #[schemars(extend("default" = Self::TYPE))]
    pub typ: Option<String>,
    /// `iss`. Not given: the client id, else what the key file names.
    pub issuer: Option<RawReference>,
    /// `sub`. Not given: as `issuer`; "" leaves it out.
    pub subject: Option<RawReference>,
    /// `aud`. Not given: the discovered issuer, else the token URL.
    pub audience: Option<RawReference>,
    // Servers refuse long-lived assertions; one is made for each request.
    /// From `iat` to `exp`.
    #[schemars(extend("x-errors" = "less than `10s`"))]
    pub lifetime: Lasting<60>,
    /// Where the scopes stand: in the `scope` parameter, or in the JWT as a text or an array.
    pub scope: Word<ScopeIn>,
    /// How the certificate stands in the header: "x5t", "x5t#S256", "x5c". Not given: "x5t#S256" where there is a
    /// certificate.
    #[schemars(extend("x-errors" = "other names; with `client_secret_jwt`"))]
    pub certificate_headers: Option<Vec<String>>,
    /// More claims, with their JSON types.
    #[schemars(extend("x-errors" = "`iss`, `sub`, `aud`, `exp`, `iat`, `nbf`, `jti`"))]
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
    /// The key; another than the one that proves who the client is.
    #[schemars(extend("x-errors" = "missing"))]
    pub private_key: Option<RawReference>,
    /// The signature's algorithm. Not given: by the key's type.
    #[schemars(extend("enum" = alg_names(), "x-errors" = "HS256 and the like"))]
    pub alg: Option<String>,
}

/// Where things stand in the issuer's response, as JSON pointers (RFC 6901).
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
    /// Its lifetime in seconds.
    #[schemars(extend("default" = Self::EXPIRES_IN))]
    pub expires_in: Option<String>,
    /// When it ends.
    #[schemars(extend("default" = Self::EXPIRES_AT))]
    pub expires_at: Option<String>,
    /// The error code of a refusal.
    #[schemars(extend("default" = Self::ERROR))]
    pub error: Option<String>,
    /// How the response is written.
    pub format: Word<ResponseFormat>,
    /// Token types that are accepted, in any case.
    #[schemars(extend("default" = [Self::TOKEN_TYPE], "x-errors" = "empty"))]
    pub token_types: Option<Vec<String>>,
    /// Statuses of a response with a token.
    #[schemars(extend("default" = [Self::STATUS], "x-errors" = "empty; not 200 to 599"))]
    pub statuses: Option<Vec<u16>>,
}

/// RFC 6749 section 5.1; `expires_on` is what Azure's managed identities add.
impl RawResponse {
    pub(crate) const TOKEN: &str = "/access_token";
    pub(crate) const TYPE: &str = "/token_type";
    pub(crate) const EXPIRES_IN: &str = "/expires_in";
    pub(crate) const EXPIRES_AT: &str = "/expires_on";
    pub(crate) const ERROR: &str = "/error";
    pub(crate) const TOKEN_TYPE: &str = "Bearer";
    pub(crate) const STATUS: u16 = 200;
}

/// TLS toward an issuer or an upstream.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Tls")]
pub(crate) struct RawTls {
    /// Certificate authorities, PEM; they stand instead of the system's.
    pub ca: Option<RawReference>,
    /// Which roots count: "ca" (the default with `ca`), "system" (the default without), "both", or "bundled".
    #[schemars(extend("default" = null, "x-errors" = "`ca` or `both` without `ca`; `system` with it"))]
    pub roots: Word<Roots>,
    /// Our certificate chain, PEM, for servers that ask for one.
    #[schemars(extend("x-errors" = "without `private_key`"))]
    pub certificate: Option<RawReference>,
    /// Its private key, PEM.
    #[schemars(extend("x-errors" = "without `certificate`; a literal in a file that others may read"))]
    pub private_key: Option<RawReference>,
    /// The name to ask for and to check, where it is not the URL's host.
    pub server_name: Option<String>,
}
