//! Private keys, in every form in which they are handed out.

use std::fmt;

use serde_json::{Map, Value};

use super::{Alg, Certificate};
use crate::secret::Secret;

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
pub struct PrivateKey {}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(crate::secret::MASK)
    }
}

impl PrivateKey {
    /// Reads PEM or DER (PKCS#8, PKCS#1, SEC1), a JWK (RFC 7517), PKCS#12 with its password, or a vendor's key JSON.
    ///
    /// # Errors
    /// What it is instead (a public key, a certificate alone, an encrypted PEM …) and how to make it fit.
    pub fn parse(_bytes: &Secret, _password: Option<&Secret>) -> Result<Self, KeyError> {
        todo!()
    }

    /// The usual algorithm of a key of this type: RS256, ES256/384/512 by curve, EdDSA; a JWK's own `alg` goes before.
    pub fn default_alg(&self) -> Alg {
        todo!()
    }

    /// # Errors
    /// The algorithm does not go with this type of key; says which do.
    pub fn check_alg(&self, _alg: Alg) -> Result<(), KeyError> {
        todo!()
    }

    pub fn identity(&self) -> &Identity {
        todo!()
    }

    /// The chain that stands beside the key (PKCS#12, a PEM file with both, `x5c` of a JWK), leaf first; may be empty.
    pub fn certificates(&self) -> &[Certificate] {
        todo!()
    }

    /// The public key as a JWK with its required members alone.
    pub fn public_jwk(&self) -> Map<String, Value> {
        todo!()
    }

    /// The JWK thumbprint with SHA-256 (RFC 7638), base64url.
    pub fn thumbprint(&self) -> String {
        todo!()
    }

    /// PKCS#8 DER, for TLS.
    ///
    /// # Errors
    /// The key cannot be written so.
    pub fn pkcs8(&self) -> Result<Secret, KeyError> {
        todo!()
    }
}
