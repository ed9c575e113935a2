//! How tokens are requested from an issuer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::{CredentialKey, Egress, HttpUrl, TlsOptions};
use crate::config::client_auth::ClientAuth;
use crate::config::raw::values::Words;
use crate::config::reference::Source;
use crate::config::types::Scopes;
use crate::jose::Alg;

/// `[issuer.NAME]`, its preset filled in.
#[derive(Debug, Clone)]
pub struct IssuerConfig {
    pub name: Arc<str>,
    /// SHA-256 over the whole table as written (after includes), and the values of `vars`: a changed table is another
    /// issuer.
    pub digest: [u8; 32],
    pub preset: Option<Arc<str>>,
    pub endpoint: TokenEndpoint,
    pub required: bool,
    /// Its tokens are in the store, if there is one. Never for tokens that are bound to a key or a certificate.
    pub shared: bool,
    /// `None`: no limit.
    pub budget: Option<Budget>,
    /// `None`: the parameter is left out.
    pub grant_type: Option<String>,
    pub carrier: Carrier,
    pub client_auth: ClientAuth,
    /// Another HTTP Basic user, beside credentials in the body.
    pub basic: Option<BasicUser>,
    /// As a parameter, beside what `client_auth` sends.
    pub send_client_id: bool,
    /// `None` only if nothing needs one.
    pub client_id: Option<Source>,
    /// Tried on `invalid_client`.
    pub standby: Option<Standby>,
    /// For this long after the credential changed, bearerd asks again after a refusal of the client, with the usual
    /// pauses.
    pub credential_grace: Duration,
    pub scopes: Scopes,
    pub params: Params,
    pub headers: Vec<(HeaderName, Source)>,
    /// Where the server of the token endpoint may have this machine read a key file, to prove who asks.
    pub challenge_folder: Option<PathBuf>,
    /// Signs JWTs; the client's key of `tls_client_auth`.
    pub private_key: Option<Source>,
    /// For `x5t`, `x5t#S256`, `x5c`; the client's certificate of `tls_client_auth`.
    pub certificate: Option<Source>,
    /// The JWT that is made for each request, if any.
    pub jwt: Option<JwtConfig>,
    /// A ready-made assertion: the client's with `assertion_file`, else the grant's (`assertion`).
    pub assertion: Option<Source>,
    /// `client_assertion_type` (RFC 7521 section 4.2).
    pub assertion_type: String,
    pub dpop: Option<DpopConfig>,
    pub response: ResponseShape,
    /// Share of the lifetime after which a used token is renewed, above 0 and at most 1.
    pub refresh_at: f64,
    pub default_lifetime: Duration,
    /// For a whole token request, and the longest that a request waits for a token; `None`: no limit.
    pub timeout: Option<Duration>,
    /// With `tls_client_auth`, certificate and key are here too.
    pub tls: TlsOptions,
    pub egress: Egress,
}

impl IssuerConfig {
    /// Its tokens are in the store, if there is one. Other replicas cannot use a token that is bound to a key or a
    /// certificate.
    pub fn shares_tokens(&self) -> bool {
        self.shared && !is_bound(self.dpop.as_ref(), &self.tls)
    }

    /// What identifies the token with its own scopes and parameters.
    pub fn own_credential(&self) -> CredentialKey {
        CredentialKey {
            issuer: Arc::clone(&self.name),
            issuer_digest: self.digest,
            scopes: self.scopes.clone(),
            params: self.params.clone(),
            subject: None,
        }
    }

    /// The key of the file that says where tokens come from.
    pub fn endpoint_key(&self) -> &'static str {
        match (&self.endpoint, &self.preset) {
            (TokenEndpoint::Discovery(_), None) => "issuer_url",
            (TokenEndpoint::Url(_), None) => "token_url",
            // A preset makes the URL from `vars`.
            (TokenEndpoint::Discovery(_), Some(_)) => "vars (or issuer_url)",
            (TokenEndpoint::Url(_), Some(_)) => "vars (or token_url)",
        }
    }
}

/// Whether an issuer with these settings binds its tokens to the client's key or certificate.
pub(crate) fn is_bound(dpop: Option<&DpopConfig>, tls: &TlsOptions) -> bool {
    dpop.is_some() || tls.certificate.is_some()
}

/// `budget`: the most token requests in any span of this length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// [`Self::MOST_REQUESTS`] at most, and at least 1.
    pub requests: u32,
    /// [`Self::SHORTEST`] to [`Self::LONGEST`].
    pub per: Duration,
}

impl Budget {
    /// The time of each request is kept.
    pub const MOST_REQUESTS: u32 = 100_000;
    pub const SHORTEST: Duration = Duration::from_secs(1);
    /// Issuers count by the month at most.
    pub const LONGEST: Duration = Duration::from_secs(31 * 24 * 3600);
}

/// No token is kept longer. A longer lifetime is more likely a wrong unit than a wish.
pub const LONGEST_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// How the parameters of a token request travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Carrier {
    /// POST, `application/x-www-form-urlencoded`.
    #[default]
    Form,
    /// POST, `application/json` with typed values.
    Json,
    /// POST with an empty body, parameters in the query.
    Query,
    /// GET, parameters in the query.
    Get,
}

impl Words for Carrier {
    const WORDS: &'static [(&'static str, Self)] =
        &[("form", Self::Form), ("json", Self::Json), ("query", Self::Query)];
}

/// `basic`.
#[derive(Debug, Clone)]
pub struct BasicUser {
    pub user: Source,
    pub password: Source,
    pub encoding: BasicEncoding,
}

/// `standby`: keys that are not given are as in the issuer's table.
#[derive(Debug, Clone)]
pub struct Standby {
    pub client_id: Option<Source>,
    pub client_secret: Option<Source>,
    pub private_key: Option<Source>,
    pub certificate: Option<Source>,
    pub key_id: Option<Source>,
}

/// What a JWT of a token request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum JwtUse {
    /// `client_assertion` (RFC 7523 section 2.2).
    #[default]
    ClientAssertion,
    /// `assertion` of the jwt-bearer grant (RFC 7523 section 2.1).
    Assertion,
    /// `Authorization: Bearer` on the token request.
    Bearer,
}

impl Words for JwtUse {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("client_assertion", Self::ClientAssertion),
        ("assertion", Self::Assertion),
        ("bearer", Self::Bearer),
    ];
}

/// Where the scopes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ScopeIn {
    /// The `scope` parameter.
    #[default]
    Parameter,
    /// The JWT's `scope`, joined by spaces; no parameter.
    Claim,
    /// The JWT's `scope`, as an array; no parameter.
    ClaimArray,
}

impl Words for ScopeIn {
    const WORDS: &'static [(&'static str, Self)] =
        &[("parameter", Self::Parameter), ("claim", Self::Claim), ("claim_array", Self::ClaimArray)];
}

/// How a JWT's header names the certificate (RFC 7515 sections 4.1.6 to 4.1.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateHeader {
    X5t,
    X5tS256,
    X5c,
}

/// `jwt`: how the JWT of a token request is made. A new `jti` every time.
#[derive(Debug, Clone)]
pub struct JwtConfig {
    pub usage: JwtUse,
    /// `None`: by the key's type (HS256 for `client_secret_jwt`).
    pub alg: Option<Alg>,
    /// `None`: the key file's own, if it names one.
    pub key_id: Option<Source>,
    /// `typ`; empty leaves it out.
    pub typ: String,
    /// `None`: the client id, else what the key file names.
    pub issuer: Option<Source>,
    /// `None`: as `issuer`. A literal that is empty leaves it out.
    pub subject: Option<Source>,
    /// `None`: the discovered issuer, else the token URL.
    pub audience: Option<Source>,
    pub lifetime: Duration,
    pub scope: ScopeIn,
    pub certificate_headers: Vec<CertificateHeader>,
    /// More claims, with their JSON types.
    pub claims: Params,
}

/// `dpop` (RFC 9449).
#[derive(Debug, Clone)]
pub struct DpopConfig {
    pub private_key: Source,
    /// `None`: by the key's type.
    pub alg: Option<Alg>,
}

impl DpopConfig {
    /// What to do about a key that is not only for proofs.
    pub const OTHER_KEY: &str =
        "use a key of its own: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out dpop.pem";

    /// Says that the key also authenticates the client.
    pub fn same_key(key: &str) -> String {
        format!("is the same key as `{key}`, which authenticates the client")
    }
}

/// Where token requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenEndpoint {
    /// `issuer_url`: found by discovery (OpenID's path, then RFC 8414's).
    Discovery(HttpUrl),
    /// `token_url`, byte for byte.
    Url(HttpUrl),
}

/// How id and secret are written before base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BasicEncoding {
    /// `application/x-www-form-urlencoded` first: RFC 6749 section 2.3.1.
    #[default]
    Form,
    /// As they are, for servers that do not decode.
    Raw,
}

impl Words for BasicEncoding {
    const WORDS: &'static [(&'static str, Self)] = &[("form", Self::Form), ("raw", Self::Raw)];
}

/// Request parameters by name: a `BTreeMap`, so that equal sets are equal keys.
pub type Params = BTreeMap<String, ParamValue>;

/// A parameter's value. Arrays are sent as repeated parameters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ParamValue {
    Integer(i64),
    /// The float as it was written.
    Float(String),
    Boolean(bool),
    /// A literal or a reference.
    Value(Source),
    Array(Vec<Self>),
    /// Only for JSON bodies and claims.
    Table(BTreeMap<String, Self>),
}

/// `response`: where the values are in the response (RFC 6901 pointers).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseShape {
    pub token: String,
    pub token_type: String,
    pub expires_in: String,
    pub expires_at: ExpiresAt,
    pub error: String,
    pub format: ResponseFormat,
    /// Accepted token types, lower case.
    pub token_types: Vec<String>,
    pub statuses: Vec<u16>,
    /// Header fields, with their values, that a response with a token must have.
    pub require_headers: Vec<(HeaderName, String)>,
}

/// `response.expires_at`: what says when the token expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExpiresAt {
    /// The member at this pointer, if there is no `expires_in`.
    At(String),
    /// The token's own `exp`, whatever the response says.
    OwnExp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResponseFormat {
    #[default]
    Json,
    Form,
    /// The whole body is the token.
    Text,
}

impl Words for ResponseFormat {
    const WORDS: &'static [(&'static str, Self)] =
        &[("json", Self::Json), ("form", Self::Form), ("text", Self::Text)];
}
