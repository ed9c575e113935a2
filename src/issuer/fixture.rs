//! Configs and keys that the unit tests here share.

use super::fuzz;
use super::{FailureKind, IssuerError};
use crate::config::client_auth::PrivateKeyJwt;
use crate::config::{ClientAuth, CredentialKey, IssuerConfig, JwtConfig, JwtUse, Scopes, Source};

/// A file of the folder of test keys.
pub(super) fn key_file(name: &str) -> Source {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures/keys");
    Source::file(folder.join(name), None)
}

/// `private_key_jwt` with a key of the folder of test keys.
pub(super) fn signing(key: &str) -> IssuerConfig {
    IssuerConfig {
        client_auth: ClientAuth::new(&PrivateKeyJwt),
        private_key: Some(key_file(key)),
        jwt: Some(JwtConfig::with_defaults(JwtUse::ClientAssertion)),
        ..fuzz::config()
    }
}

pub(super) fn key(config: &IssuerConfig) -> CredentialKey {
    CredentialKey {
        issuer: config.name.clone(),
        issuer_digest: config.digest,
        scopes: Scopes::from(["read", "write"]),
        params: config.params.clone(),
        subject: None,
    }
}

pub(super) fn failure(kind: FailureKind, detail: &str) -> IssuerError {
    IssuerError { http_status: Some(401), ..IssuerError::new(kind, format!("issuer corp: {detail}")) }
}
