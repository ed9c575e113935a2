//! X.509 certificates: what a JWT's header and an operator want to know of them.

use std::time::SystemTime;

use super::{KeyError, PrivateKey};

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {}

impl Certificate {
    /// Reads PEM (one or more, other blocks ignored) or one DER certificate; leaf first, at least one.
    ///
    /// # Errors
    /// What it is instead.
    pub fn parse_chain(_bytes: &[u8]) -> Result<Vec<Self>, KeyError> {
        todo!()
    }

    pub fn der(&self) -> &[u8] {
        todo!()
    }

    /// base64url SHA-1 of the DER (RFC 7515 section 4.1.7).
    pub fn x5t(&self) -> String {
        todo!()
    }

    /// base64url SHA-256 of the DER (RFC 7515 section 4.1.8).
    pub fn x5t_s256(&self) -> String {
        todo!()
    }

    /// Standard base64 of the DER, one member of `x5c`.
    pub fn x5c(&self) -> String {
        todo!()
    }

    pub fn not_before(&self) -> SystemTime {
        todo!()
    }

    pub fn not_after(&self) -> SystemTime {
        todo!()
    }

    /// Its subject, in words for an operator.
    pub fn subject(&self) -> String {
        todo!()
    }

    /// Whether it certifies the public half of this key.
    pub fn is_of(&self, _key: &PrivateKey) -> bool {
        todo!()
    }
}
