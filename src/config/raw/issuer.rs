//! `[issuer.NAME]` as it is written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::super::client_auth::{self, ClientSecretBasic, Method};
use super::super::model::{BasicEncoding, Carrier, JwtUse, ResponseFormat, Roots, ScopeIn};
use super::keys::{Flag, Lasting, Word, Words};
use super::values::{RawEgress, RawParams, RawReference};

/// An authorization server that gives tokens.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Issuer")]
pub(crate) struct RawIssuer {
    /// A vendor's preset, which provides defaults for this table. `bearerd init` lists the presets.
    #[schemars(extend("x-errors" = "not a preset"))]
    pub preset: Option<String>,
    /// Values that the preset requires, by name: a string, a number, or a reference.
    #[schemars(extend("x-errors" = "missing; unknown to the preset; a value that would change a URL's host; without `preset`"))]
    pub vars: Option<RawParams>,
    /// Where discovery starts: OpenID's path, then RFC 8414's. The document's `issuer` must equal it.
    #[schemars(extend("x-errors" = "beside `token_url`; a query; `http://` to another machine"))]
    pub issuer_url: Option<String>,
    /// The token endpoint, used byte for byte. Either this or `issuer_url` is required.
    #[schemars(extend("x-errors" = "neither this nor `issuer_url`; a user, a password, or a fragment; `http://` to another machine"))]
    pub token_url: Option<String>,
    /// false: /readyz does not wait for this issuer.
    pub required: Flag<true>,
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
    pub client_id: Option<RawReference>,
    /// Also send `client_id` as a parameter, in addition to what `client_auth` sends.
    pub send_client_id: Flag<false>,
    /// How the client proves who it is.
    #[schemars(extend("default" = ClientSecretBasic.name(), "enum" = client_auth::names().collect::<Vec<_>>()))]
    pub client_auth: Option<String>,
    /// The client's secret. `""` means an empty secret (RFC 6749, section 2.3.1). An empty file does not.
    #[schemars(extend("x-errors" = "missing with a `client_auth` that uses a secret; set with any other; a literal in a file that others may read"))]
    pub client_secret: Option<RawReference>,
    /// "form": ID and secret are form-encoded before base64 (RFC 6749, section 2.3.1). "raw" is for servers that do not
    /// decode.
    #[schemars(extend("x-errors" = "if bearerd sends no Basic credentials"))]
    pub basic_encoding: Word<BasicEncoding>,
    /// Another HTTP Basic user, in addition to the credentials in the body.
    #[schemars(extend("x-errors" = "beside `client_secret_basic`"))]
    pub basic: Option<RawBasic>,
    /// A second credential, tried if the issuer refuses the first. Missing keys are taken from the issuer's table.
    #[schemars(extend("x-errors" = "empty; a key that `client_auth` does not use"))]
    pub standby: Option<RawStandby>,
    /// For this long after the credential changed, a refusal of the client is not final: bearerd asks again after the
    /// usual pauses.
    pub credential_grace: Lasting<0>,
    /// Scopes to request, joined by a space in this order. The parameter is omitted if the list is empty.
    #[schemars(extend("default" = [], "x-errors" = "more than one scope in a string"))]
    pub scopes: Option<Vec<String>>,
    /// More parameters of a token request.
    #[schemars(extend("x-errors" = "`grant_type`, `scope`, `client_id`, `client_secret`, which have their own keys (but `scope = \"\"` is allowed); an array in an array, or a table, without `body = \"json\"`"))]
    pub params: Option<RawParams>,
    /// More header fields of a token request.
    #[schemars(extend("x-errors" = "`authorization` beside `client_secret_basic`; header fields of the connection"))]
    pub headers: Option<BTreeMap<String, RawReference>>,
    /// The key that signs JWTs, and the client's key of tls_client_auth: PKCS#8, PKCS#1, SEC1, JWK, PKCS#12, or a
    /// vendor's key JSON.
    #[schemars(extend("x-errors" = "missing with `private_key_jwt`; if nothing uses it"))]
    pub private_key: Option<RawReference>,
    /// The client's certificate in PEM or PKCS#12, for JWT headers (x5t, x5t#S256, x5c) and for tls_client_auth.
    #[schemars(extend("x-errors" = "if nothing uses it"))]
    pub certificate: Option<RawReference>,
    /// How to make JWTs for token requests.
    #[schemars(extend("x-errors" = "if bearerd makes no JWT"))]
    pub jwt: Option<RawJwt>,
    /// A ready-made assertion, read for every token request.
    #[schemars(extend("x-errors" = "missing with `assertion_file`; beside `jwt.use = \"assertion\"`"))]
    pub assertion: Option<RawReference>,
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
    // Shorter than what common issuers give, so that a wrong guess does little harm.
    /// A token's lifetime if the issuer does not say.
    #[schemars(extend("x-errors" = "`0s`"))]
    pub default_lifetime: Lasting<300>,
    /// Timeout of a whole token request, and the longest time that a request waits for a token.
    pub timeout: Lasting<10>,
    /// TLS for connections to the issuer.
    pub tls: Option<RawTls>,
    /// Proxy for token requests only.
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
    /// The client ID at the issuer.
    pub client_id: Option<RawReference>,
    /// The client's secret.
    #[schemars(extend("x-errors" = "if no secret is used"))]
    pub client_secret: Option<RawReference>,
    /// The key that signs JWTs.
    #[schemars(extend("x-errors" = "if no key signs"))]
    pub private_key: Option<RawReference>,
    /// The certificate of that key.
    #[schemars(extend("x-errors" = "if no key signs"))]
    pub certificate: Option<RawReference>,
    /// The key's ID.
    #[schemars(extend("x-errors" = "if no key signs"))]
    pub key_id: Option<RawReference>,
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
    pub key_id: Option<RawReference>,
    /// `typ`. "" omits it.
    #[serde(rename = "type")]
    #[schemars(extend("default" = Self::TYPE))]
    pub typ: Option<String>,
    /// `iss`. Default: the client ID, else the one in the key file.
    pub issuer: Option<RawReference>,
    /// `sub`. Default: same as `issuer`. "" omits it.
    pub subject: Option<RawReference>,
    /// `aud`. Default: the discovered issuer, else the token URL.
    pub audience: Option<RawReference>,
    // Servers refuse long-lived assertions; one is made for each request.
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
    /// The key. It must differ from the key that authenticates the client.
    #[schemars(extend("x-errors" = "missing"))]
    pub private_key: Option<RawReference>,
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
    /// When the token expires.
    #[schemars(extend("default" = Self::EXPIRES_AT))]
    pub expires_at: Option<String>,
    /// The error code if the issuer refuses.
    #[schemars(extend("default" = Self::ERROR))]
    pub error: Option<String>,
    /// Format of the response.
    pub format: Word<ResponseFormat>,
    /// Accepted token types, case-insensitive.
    #[schemars(extend("default" = [Self::TOKEN_TYPE], "x-errors" = "empty"))]
    pub token_types: Option<Vec<String>>,
    /// Statuses of a response that contains a token.
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

/// TLS for connections to an issuer or an upstream.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, rename = "Tls")]
pub(crate) struct RawTls {
    /// Certificate authorities, PEM. They replace the system's.
    pub ca: Option<RawReference>,
    /// Trusted roots: "ca" (the default with `ca`), "system" (the default without), "both", or "bundled".
    #[schemars(extend("default" = null, "x-errors" = "`ca` or `both` without `ca`; `system` with it"))]
    pub roots: Word<Roots>,
    /// The client certificate chain, PEM, for servers that request one.
    #[schemars(extend("x-errors" = "without `private_key`"))]
    pub certificate: Option<RawReference>,
    /// Its private key, PEM.
    #[schemars(extend("x-errors" = "without `certificate`; a literal in a file that others may read"))]
    pub private_key: Option<RawReference>,
    /// The server name to request and verify, if it is not the URL's host.
    pub server_name: Option<String>,
}
