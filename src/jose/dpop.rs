//! DPoP proofs (RFC 9449 section 4.2).

use std::time::SystemTime;

use super::{Alg, KeyError, PrivateKey};
use crate::secret::Secret;

/// Makes the proofs of one key. Cheap to use for each call: the key is parsed once.
#[derive(Debug)]
pub struct Prover {}

/// What one proof is for.
#[derive(Debug, Clone, Copy)]
pub struct Proof<'a> {
    pub method: &'a str,
    /// `htu`: the target without query and fragment.
    pub url: &'a str,
    pub issued_at: SystemTime,
    pub nonce: Option<&'a str>,
    /// The access token, whose hash is `ath`; `None` at the token endpoint.
    pub token: Option<&'a Secret>,
}

impl Prover {
    /// # Errors
    /// The algorithm does not go with the key, or is symmetric.
    pub fn new(_key: PrivateKey, _alg: Option<Alg>) -> Result<Self, KeyError> {
        todo!()
    }

    /// The key's JWK thumbprint (`jkt`).
    pub fn thumbprint(&self) -> &str {
        todo!()
    }

    /// The value of the `DPoP` header; a new `jti` every time.
    ///
    /// # Errors
    /// The signature fails.
    pub fn proof(&self, _proof: &Proof<'_>) -> Result<Secret, KeyError> {
        todo!()
    }
}
