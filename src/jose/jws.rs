//! JWS compact serialization (RFC 7515 section 7.1).

use serde_json::{Map, Value};

use super::{Alg, KeyError, PrivateKey};
use crate::secret::Secret;

/// What signs.
#[derive(Debug, Clone, Copy)]
pub enum Signer<'a> {
    Key(&'a PrivateKey),
    /// HMAC with a shared secret.
    Secret(&'a Secret),
}

/// The header; members that are `None` are left out.
#[derive(Debug, Clone)]
pub struct Header<'a> {
    pub alg: Alg,
    pub typ: Option<&'a str>,
    pub key_id: Option<&'a str>,
    pub x5t: Option<String>,
    pub x5t_s256: Option<String>,
    pub x5c: Option<Vec<String>>,
    pub jwk: Option<Map<String, Value>>,
}

/// The signed JWT.
///
/// # Errors
/// The algorithm does not go with the signer; an HMAC secret that is too short for it (RFC 7518 section 3.2) is *not*
/// refused, since the issuer chose it.
pub fn sign(
    _header: &Header<'_>,
    _claims: &Map<String, Value>,
    _signer: Signer<'_>,
) -> Result<Secret, KeyError> {
    todo!()
}
