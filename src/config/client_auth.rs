//! Client authentication (RFC 6749 section 2.3; the names are RFC 8414's). Each method is one file: its name, what
//! proves the client, which keys it needs, how `check --online` tries it, and what to check if the issuer refuses the
//! client.

mod assertion_file;
mod client_secret_basic;
mod client_secret_jwt;
mod client_secret_post;
mod none;
mod private_key_jwt;
mod tls_client_auth;

use std::fmt;

use super::model::{BasicEncoding, IssuerConfig};
use super::reference::Source;

pub use assertion_file::AssertionFile;
pub use client_secret_basic::ClientSecretBasic;
pub use client_secret_jwt::ClientSecretJwt;
pub use client_secret_post::ClientSecretPost;
pub use none::NoProof;
pub use private_key_jwt::PrivateKeyJwt;
pub use tls_client_auth::TlsClientAuth;

/// Every method that `client_auth` may name.
pub const METHODS: [&dyn Method; 7] = [
    &ClientSecretBasic,
    &ClientSecretPost,
    &ClientSecretJwt,
    &PrivateKeyJwt,
    &TlsClientAuth,
    &AssertionFile,
    &NoProof,
];

/// One method of client authentication.
pub trait Method: fmt::Debug + Sync {
    /// The value of `client_auth`.
    fn name(&self) -> &'static str;

    /// What is sent, and which keys it needs, for docs/config.md.
    fn about(&self) -> [&'static str; 2];

    /// The key that `bearerd init` writes for it, as TOML; empty if it suits only particular issuers.
    fn example(&self) -> &'static str {
        ""
    }

    fn proof(&self) -> Proof;

    /// Whether `client_id` is required. `jwt_issuer`: `jwt.issuer` names the client. It is not required if a key file
    /// or an assertion may name it.
    fn needs_client_id(&self, jwt_issuer: bool) -> bool;

    /// Whether `client_id` is a parameter of the token request without `send_client_id`. With an assertion it is
    /// redundant (RFC 7521 section 4.2), and some servers refuse it.
    fn sends_client_id(&self, _: &IssuerConfig) -> bool {
        false
    }

    /// What to check if the issuer refuses the client.
    fn remedy(&self, issuer: &IssuerConfig) -> String;

    /// Whether an issuer that advertises `name` accepts this method.
    fn is_advertised_as(&self, name: &str) -> bool {
        name == self.name()
    }

    /// The encodings in which `check --online` tries this method with a client's secret, after the issuer refused another
    /// way of sending it. Empty: the method sends no secret.
    fn encodings(&self) -> &'static [BasicEncoding] {
        &[]
    }

    /// Whether a refusal with this code means that the issuer did not even see the client.
    fn may_be_unseen(&self, _code: &str) -> bool {
        false
    }
}

/// Which part of a token request proves who the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// `client_id` and `client_secret` by HTTP Basic.
    Basic,
    /// `client_secret` as a parameter.
    Parameter,
    /// `client_assertion`, signed with `client_secret`.
    SignedBySecret,
    /// `client_assertion`, signed with `private_key`.
    SignedByKey,
    /// `client_assertion`, read from `assertion`.
    ReadyMade,
    /// The certificate of the connection.
    Certificate,
    Nothing,
}

impl Proof {
    /// `client_secret` is used.
    pub fn has_secret(self) -> bool {
        self.sends_secret() || self == Self::SignedBySecret
    }

    /// `client_secret` itself goes to the issuer.
    pub fn sends_secret(self) -> bool {
        matches!(self, Self::Basic | Self::Parameter)
    }

    /// A `client_assertion` is sent.
    pub fn is_assertion(self) -> bool {
        matches!(self, Self::SignedBySecret | Self::SignedByKey | Self::ReadyMade)
    }
}

/// An issuer's `client_auth`.
#[derive(Debug, Clone)]
pub struct ClientAuth {
    pub method: &'static dyn Method,
    /// `client_secret`; present if [`Proof::has_secret`].
    pub secret: Option<Source>,
    /// `basic_encoding`.
    pub encoding: BasicEncoding,
}

impl ClientAuth {
    /// A method without a secret.
    pub fn new(method: &'static dyn Method) -> Self {
        Self { method, secret: None, encoding: BasicEncoding::Form }
    }

    /// A method with a secret.
    pub fn with_secret(method: &'static dyn Method, secret: Source) -> Self {
        Self { secret: Some(secret), ..Self::new(method) }
    }

    /// Its name in the config.
    pub fn as_str(&self) -> &'static str {
        self.method.name()
    }

    pub fn proof(&self) -> Proof {
        self.method.proof()
    }

    /// The secret that client and issuer share.
    pub fn secret(&self) -> Option<&Source> {
        self.secret.as_ref()
    }
}

/// The method of this name.
pub(super) fn method(name: &str) -> Option<&'static dyn Method> {
    METHODS.into_iter().find(|method| method.name() == name)
}

pub(super) fn names() -> impl Iterator<Item = &'static str> + Clone {
    METHODS.iter().map(|method| method.name())
}

/// [`Method::example`] of the methods with a secret.
const A_SECRET: &str = "client_secret = { file = \"client-secret\" }     # or { env = \"…\" }";

/// `alternative`: what else the server may require.
fn check_secret(issuer: &IssuerConfig, alternative: &str) -> String {
    let name = &issuer.name;
    let place = match issuer.client_auth.secret() {
        Some(secret) if !secret.is_literal() => format!(" ({})", secret.place()),
        _ => String::new(),
    };
    // A process sees its environment as it was at the start.
    let restart =
        if place.contains("environment variable") { "; a changed variable needs a restart" } else { "" };
    format!(
        "check client_id and client_secret of [issuer.{name}]{place}, and whether the server wants \
         {alternative}{restart}"
    )
}

/// What to check about a ready-made assertion.
pub fn check_assertion(issuer: &IssuerConfig) -> String {
    format!(
        "check assertion, assertion_type and client_id of [issuer.{}]: the assertion must not be expired, and its \
         issuer, subject and audience must be those that the issuer expects of this client",
        issuer.name
    )
}

/// What to check about a JWT that is the grant, or the Bearer token of the request.
pub fn check_jwt(issuer: &IssuerConfig) -> String {
    format!(
        "check jwt.issuer, jwt.subject, jwt.audience, jwt.key_id, jwt.alg and jwt.lifetime of [issuer.{}], and \
         whether the key that belongs to private_key is registered there",
        issuer.name
    )
}
