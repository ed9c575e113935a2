//! JWS compact serialization (RFC 7515 section 7.1), and its signature algorithms.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::{KeyError, PrivateKey};
use crate::secret::Secret;

/// The key of a signature.
#[derive(Debug, Clone, Copy)]
pub enum Signer<'a> {
    Key(&'a PrivateKey),
    /// HMAC with a shared secret.
    Secret(&'a Secret),
}

/// The JOSE header. Members that are `None` are omitted.
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
/// The system provides no random bytes.
pub fn unique_id() -> Result<String, KeyError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| KeyError("the system gives no random bytes".to_owned()))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// Returns the signed JWT: at once, unless the key is in a device.
///
/// # Errors
/// The algorithm does not fit the signer. An HMAC secret that is too short (RFC 7518 section 3.2) is *not* refused,
/// because the issuer chose it.
pub async fn sign(
    header: &Header<'_>,
    claims: &Map<String, Value>,
    signer: Signer<'_>,
) -> Result<Secret, KeyError> {
    sign_encoded(&encode(header)?, claims, header.alg, signer).await
}

/// One part of a JWT: the base64url of its JSON.
pub(super) fn encode(part: &impl Serialize) -> Result<Zeroizing<String>, KeyError> {
    let json = serde_json::to_vec(part)
        .map(Zeroizing::new)
        .map_err(|_| KeyError("the JWT cannot be written as JSON".to_owned()))?;
    Ok(Zeroizing::new(URL_SAFE_NO_PAD.encode(&json)))
}

/// [`sign`] with an encoded header.
pub(super) async fn sign_encoded(
    header: &str,
    claims: &impl Serialize,
    alg: Alg,
    signer: Signer<'_>,
) -> Result<Secret, KeyError> {
    let claims = encode(claims)?;
    let message = Zeroizing::new(format!("{header}.{}", *claims));
    let signature = match signer {
        Signer::Key(key) => key.sign(alg, message.as_bytes()).await?,
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

/// A signature algorithm, as `alg` names it (RFC 7518 section 3.1, RFC 8037, RFC 9864).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alg {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    /// Ed25519 keys, with the older name.
    EdDsa,
    /// Ed25519 keys, with RFC 9864's name.
    Ed25519,
}

const NAMES: [(&str, Alg); 14] = [
    ("HS256", Alg::Hs256),
    ("HS384", Alg::Hs384),
    ("HS512", Alg::Hs512),
    ("RS256", Alg::Rs256),
    ("RS384", Alg::Rs384),
    ("RS512", Alg::Rs512),
    ("PS256", Alg::Ps256),
    ("PS384", Alg::Ps384),
    ("PS512", Alg::Ps512),
    ("ES256", Alg::Es256),
    ("ES384", Alg::Es384),
    ("ES512", Alg::Es512),
    ("EdDSA", Alg::EdDsa),
    ("Ed25519", Alg::Ed25519),
];

impl Alg {
    /// Every name, in the order of this module.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, _)| *name)
    }

    pub fn as_str(self) -> &'static str {
        NAMES.iter().find(|(_, alg)| *alg == self).map_or("none", |(name, _)| name)
    }

    /// Whether it signs with a shared secret (HMAC) instead of a key pair.
    pub fn is_symmetric(self) -> bool {
        matches!(self, Self::Hs256 | Self::Hs384 | Self::Hs512)
    }
}

/// The text names no known algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownAlg;

impl FromStr for Alg {
    type Err = UnknownAlg;

    fn from_str(text: &str) -> Result<Self, UnknownAlg> {
        NAMES.iter().find(|(name, _)| *name == text).map(|(_, alg)| *alg).ok_or(UnknownAlg)
    }
}

impl fmt::Display for Alg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests;
