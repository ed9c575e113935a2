//! Configs and keys that the unit tests here share.

use std::collections::BTreeSet;

use super::fuzz;
use super::{FailureKind, IssuerError};
use crate::config::{ClientAuth, CredentialKey, IssuerConfig, JwtConfig, JwtUse, Params, ScopeIn, Source};

/// A file of the folder of test keys.
pub(super) fn key_file(name: &str) -> Source {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures/keys");
    Source::file(folder.join(name), None)
}

pub(super) fn jwt(usage: JwtUse) -> JwtConfig {
    JwtConfig {
        usage,
        alg: None,
        key_id: None,
        typ: "JWT".to_owned(),
        issuer: None,
        subject: None,
        audience: None,
        lifetime: std::time::Duration::from_secs(60),
        scope: ScopeIn::Parameter,
        certificate_headers: Vec::new(),
        claims: Params::new(),
    }
}

/// `private_key_jwt` with a key of the folder of test keys.
pub(super) fn signing(key: &str) -> IssuerConfig {
    IssuerConfig {
        client_auth: ClientAuth::PrivateKeyJwt,
        private_key: Some(key_file(key)),
        jwt: Some(jwt(JwtUse::ClientAssertion)),
        ..fuzz::config()
    }
}

pub(super) fn key(config: &IssuerConfig) -> CredentialKey {
    CredentialKey {
        issuer: config.name.clone(),
        issuer_digest: config.digest,
        scopes: BTreeSet::from(["read".to_owned(), "write".to_owned()]),
        params: config.params.clone(),
        subject: None,
    }
}

pub(super) fn failure(kind: FailureKind, detail: &str) -> IssuerError {
    IssuerError { http_status: Some(401), ..IssuerError::new(kind, format!("issuer corp: {detail}")) }
}
