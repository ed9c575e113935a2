//! Private keys, in every form in which they are handed out.

mod der;
mod json;
mod read;

use std::fmt;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::pair::Pair;
use super::{Alg, Certificate};
use crate::secret::Secret;

pub(super) use der::{Form, form};
pub(super) use read::{unwrapped, with_its_last_byte};

/// What is wrong with a key or certificate, and what to do. Never the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyError(pub String);

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for KeyError {}

/// What a key's file says beside the key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// `kid` of a JWK, `private_key_id` of Google, `keyId` of ZITADEL.
    pub key_id: Option<String>,
    /// Whose key it is: `client_email` of Google; `userId` or `clientId` of ZITADEL.
    pub subject: Option<String>,
    /// `alg` of a JWK.
    pub alg: Option<Alg>,
}

/// A private key, parsed once.
pub struct PrivateKey {
    pair: Pair,
    identity: Identity,
    certificates: Vec<Certificate>,
    jwk: Map<String, Value>,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(crate::secret::MASK)
    }
}

impl PrivateKey {
    /// Reads PEM or DER (PKCS#8, PKCS#1, SEC1), a JWK (RFC 7517), PKCS#12 with its password, or a vendor's key JSON;
    /// the binary forms in base64 too. A password also opens PKCS#8 that is encrypted with it.
    ///
    /// # Errors
    /// What it is instead (a public key, a certificate alone, an encrypted PEM …) and how to make it fit.
    pub fn parse(bytes: &Secret, password: Option<&Secret>) -> Result<Self, KeyError> {
        read::parse(bytes.expose(), password)
    }

    /// `found` may hold certificates of others; those that lead from the key's own upward are kept.
    fn new(pair: Pair, identity: Identity, found: Vec<Certificate>) -> Result<Self, KeyError> {
        if let Some(alg) = identity.alg {
            pair.check_alg(alg)?;
        }
        let jwk = pair.public_jwk()?;
        let certificates = Certificate::chain_to(found, pair.public());
        Ok(Self { pair, identity, certificates, jwk })
    }

    /// The usual algorithm of a key of this type: RS256, ES256/384/512 by curve, EdDSA; a JWK's own `alg` goes before.
    pub fn default_alg(&self) -> Alg {
        self.identity.alg.unwrap_or_else(|| self.pair.default_alg())
    }

    /// # Errors
    /// The algorithm does not go with this type of key; says which do.
    pub fn check_alg(&self, alg: Alg) -> Result<(), KeyError> {
        self.pair.check_alg(alg)
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The chain that stands beside the key (PKCS#12, a PEM file with both, `x5c` of a JWK), leaf first; may be empty.
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// The public key as a JWK with its required members alone.
    pub fn public_jwk(&self) -> Map<String, Value> {
        self.jwk.clone()
    }

    /// The JWK thumbprint with SHA-256 (RFC 7638), base64url.
    pub fn thumbprint(&self) -> String {
        // Members are in lexical order and have no character that JSON escapes.
        let members: Vec<String> =
            self.jwk.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        let canonical = format!("{{{}}}", members.join(","));
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, canonical.as_bytes()))
    }

    /// PKCS#8 DER, for TLS.
    ///
    /// # Errors
    /// The key cannot be written so.
    pub fn pkcs8(&self) -> Result<Secret, KeyError> {
        self.pair.pkcs8()
    }

    pub(super) fn sign(&self, alg: Alg, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.pair.sign(alg, message)
    }

    /// What a certificate of this key holds as its `subjectPublicKey`.
    pub(super) fn public(&self) -> &[u8] {
        self.pair.public()
    }
}

#[cfg(test)]
mod tests;
