//! DPoP proofs (RFC 9449 section 4.2).

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

use super::jws::{self, Header, Signer};
use super::{Alg, KeyError, PrivateKey};
use crate::secret::Secret;

/// Makes the proofs of one key. Cheap to use for each request: the key is parsed once, and so is the header.
pub struct Prover {
    key: PrivateKey,
    alg: Alg,
    /// base64url; the same for every proof.
    header: String,
    thumbprint: String,
}

impl fmt::Debug for Prover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prover").field("alg", &self.alg).field("thumbprint", &self.thumbprint).finish()
    }
}

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

#[derive(Serialize)]
struct Claims<'a> {
    jti: String,
    htm: &'a str,
    htu: &'a str,
    iat: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ath: Option<String>,
}

impl Prover {
    /// # Errors
    /// The algorithm does not go with the key, or is symmetric.
    pub fn new(key: PrivateKey, alg: Option<Alg>) -> Result<Self, KeyError> {
        let alg = alg.unwrap_or_else(|| key.default_alg());
        key.check_alg(alg)?;
        let header = jws::encode(&Header {
            alg,
            typ: Some("dpop+jwt"),
            key_id: None,
            x5t: None,
            x5t_s256: None,
            x5c: None,
            jwk: Some(key.public_jwk()),
        })?
        .to_string();
        Ok(Self { alg, header, thumbprint: key.thumbprint(), key })
    }

    /// The key's JWK thumbprint (`jkt`).
    pub fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    /// The value of the `DPoP` header; a new `jti` every time.
    ///
    /// # Errors
    /// The signature fails, or the system gives no randomness.
    pub fn proof(&self, proof: &Proof<'_>) -> Result<Secret, KeyError> {
        let claims = Claims {
            jti: jws::unique_id()?,
            htm: proof.method,
            htu: proof.url,
            iat: proof.issued_at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            nonce: proof.nonce,
            ath: proof
                .token
                .map(|token| URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, token.expose()))),
        };
        jws::sign_encoded(&self.header, &claims, self.alg, Signer::Key(&self.key))
    }
}

#[cfg(test)]
mod tests;
