//! JWS compact serialization (RFC 7515 section 7.1).

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

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
#[derive(Debug, Clone, Serialize)]
pub struct Header<'a> {
    #[serde(serialize_with = "name")]
    pub alg: Alg,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub typ: Option<&'a str>,
    #[serde(rename = "kid", skip_serializing_if = "Option::is_none")]
    pub key_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x5t: Option<String>,
    #[serde(rename = "x5t#S256", skip_serializing_if = "Option::is_none")]
    pub x5t_s256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x5c: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwk: Option<Map<String, Value>>,
}

fn name<S: serde::Serializer>(alg: &Alg, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(alg.as_str())
}

/// A value for `jti` (RFC 7519 section 4.1.7): 128 random bits, base64url.
///
/// # Errors
/// The system gives no randomness.
pub fn unique_id() -> Result<String, KeyError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| KeyError("the system gives no random bytes".to_owned()))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// The signed JWT.
///
/// # Errors
/// The algorithm does not go with the signer; an HMAC secret that is too short for it (RFC 7518 section 3.2) is *not*
/// refused, since the issuer chose it.
pub fn sign(
    header: &Header<'_>,
    claims: &Map<String, Value>,
    signer: Signer<'_>,
) -> Result<Secret, KeyError> {
    sign_encoded(&encode(header)?, claims, header.alg, signer)
}

/// One part of a JWT: base64url of the JSON.
pub(super) fn encode(part: &impl Serialize) -> Result<Zeroizing<String>, KeyError> {
    let json = serde_json::to_vec(part)
        .map(Zeroizing::new)
        .map_err(|_| KeyError("the JWT cannot be written as JSON".to_owned()))?;
    Ok(Zeroizing::new(URL_SAFE_NO_PAD.encode(&json)))
}

/// [`sign`] with a header that is encoded already.
pub(super) fn sign_encoded(
    header: &str,
    claims: &impl Serialize,
    alg: Alg,
    signer: Signer<'_>,
) -> Result<Secret, KeyError> {
    let claims = encode(claims)?;
    let message = Zeroizing::new(format!("{header}.{}", *claims));
    let signature = match signer {
        Signer::Key(key) => key.sign(alg, message.as_bytes())?,
        Signer::Secret(secret) => mac(alg, secret, message.as_bytes())?,
    };
    let signature = URL_SAFE_NO_PAD.encode(signature);
    Ok(Secret::from(format!("{}.{signature}", *message)))
}

fn mac(alg: Alg, secret: &Secret, message: &[u8]) -> Result<Vec<u8>, KeyError> {
    let algorithm = match alg {
        Alg::Hs256 => hmac::HMAC_SHA256,
        Alg::Hs384 => hmac::HMAC_SHA384,
        Alg::Hs512 => hmac::HMAC_SHA512,
        _ => {
            return Err(KeyError(format!(
                "{alg} signs with a private key, not with a shared secret; use HS256, HS384 or HS512"
            )));
        }
    };
    let key = hmac::Key::new(algorithm, secret.expose());
    Ok(hmac::sign(&key, message).as_ref().to_vec())
}

#[cfg(test)]
mod tests;
