//! DPoP proofs (RFC 9449 section 4.2).

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

use super::jws::{self, Header, Signer};
use super::{Alg, Certificate, DeviceKey, KeyError, PrivateKey};
use crate::secret::Secret;

/// Makes the proofs of one key. Cheap enough for each request, because the key and the header are prepared once.
pub struct Prover {
    key: PrivateKey,
    alg: Alg,
    /// base64url. The same for every proof.
    header: String,
    thumbprint: String,
}

impl fmt::Debug for Prover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prover").field("alg", &self.alg).field("thumbprint", &self.thumbprint).finish()
    }
}

/// The contents of one proof.
#[derive(Debug, Clone, Copy)]
pub struct Proof<'a> {
    pub method: &'a str,
    /// `htu`: the target URL without query and fragment.
    pub url: &'a str,
    pub issued_at: SystemTime,
    pub nonce: Option<&'a str>,
    /// The access token, whose hash becomes `ath`. `None` at the token endpoint.
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
    /// The algorithm does not fit the key, or is symmetric.
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

    /// Whether the certificate is for this key.
    pub fn is_certified_by(&self, certificate: &Certificate) -> bool {
        certificate.is_of(&self.key)
    }

    /// The key is in a device, so a proof may fail for a while.
    pub fn is_in_device(&self) -> bool {
        self.key.device().is_some()
    }

    /// Another key has taken the place of this one in its device, so there will be no more proofs.
    pub fn is_replaced(&self) -> bool {
        self.key.device().is_some_and(DeviceKey::is_replaced)
    }

    /// The value of the `DPoP` header field, each time with a new `jti`. At once, unless the key is in a device.
    ///
    /// # Errors
    /// The signature fails, or the system provides no random bytes.
    pub async fn proof(&self, proof: &Proof<'_>) -> Result<Secret, KeyError> {
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
        jws::sign_encoded(&self.header, &claims, self.alg, Signer::Key(&self.key)).await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use serde_json::{Value, json};

    use super::*;
    use crate::jose::other;

    fn prover(file: &str, alg: Option<Alg>) -> Prover {
        Prover::new(PrivateKey::parse(&Secret::new(other::key_bytes(file)), None).unwrap(), alg).unwrap()
    }

    fn proof<'a>(nonce: Option<&'a str>, token: Option<&'a Secret>) -> Proof<'a> {
        Proof {
            method: "POST",
            url: "https://server.example.com/token",
            issued_at: UNIX_EPOCH + Duration::from_millis(1_562_262_616_900),
            nonce,
            token,
        }
    }

    #[test]
    fn a_proof_has_what_rfc_9449_asks_for_and_no_more() {
        let prover = prover("ec-p256.pkcs8.pem", None);
        let made = prover.proof(&proof(None, None)).now_or_never().unwrap().unwrap();
        let public: Value = serde_json::from_str(&other::key("ec-p256.public.jwk.json")).unwrap();
        let (header, mut claims) =
            other::verify(made.expose_str().unwrap(), &other::key("ec-p256.public.pem"), "ES256");
        assert_eq!(header, json!({ "alg": "ES256", "typ": "dpop+jwt", "jwk": public }));
        let jti = claims.as_object_mut().unwrap().remove("jti").unwrap();
        assert_eq!(URL_SAFE_NO_PAD.decode(jti.as_str().unwrap()).unwrap().len(), 16);
        assert_eq!(
            claims,
            json!({ "htm": "POST", "htu": "https://server.example.com/token", "iat": 1_562_262_616 })
        );
    }

    #[test]
    fn rfc_9449_7_1_hash_of_the_token() {
        let token = Secret::from("Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU");
        let made = prover("ec-p256.jwk.json", None)
            .proof(&proof(Some("eyJ7S_zG"), Some(&token)))
            .now_or_never()
            .unwrap()
            .unwrap();
        let (_, claims) =
            other::verify(made.expose_str().unwrap(), &other::key("ec-p256.public.jwk.json"), "ES256");
        assert_eq!(claims["ath"], "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo");
        assert_eq!(claims["nonce"], "eyJ7S_zG");
    }

    #[test]
    fn no_two_proofs_are_alike() {
        let prover = prover("ed25519.pkcs8.pem", Some(Alg::Ed25519));
        let made: BTreeSet<Vec<u8>> = (0..100)
            .map(|_| prover.proof(&proof(None, None)).now_or_never().unwrap().unwrap().expose().to_vec())
            .collect();
        assert_eq!(made.len(), 100);
    }

    #[test]
    fn every_type_of_key_proves() {
        for (file, alg) in [("rsa", "RS256"), ("rsa", "PS256"), ("ec-p384", "ES384"), ("ec-p521", "ES512")] {
            let prover = prover(&format!("{file}.pkcs8.pem"), Some(alg.parse().unwrap()));
            let made = prover.proof(&proof(None, None)).now_or_never().unwrap().unwrap();
            let (header, _) =
                other::verify(made.expose_str().unwrap(), &other::key(&format!("{file}.public.pem")), alg);
            let public: Value =
                serde_json::from_str(&other::key(&format!("{file}.public.jwk.json"))).unwrap();
            assert_eq!(header["jwk"], public);
        }
    }

    #[test]
    fn a_symmetric_algorithm_and_a_wrong_one_are_refused() {
        for alg in [Alg::Hs256, Alg::Rs256] {
            let key = PrivateKey::parse(&Secret::new(other::key_bytes("ec-p256.jwk.json")), None).unwrap();
            assert!(Prover::new(key, Some(alg)).is_err());
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let prover = prover("ec-p256.pkcs8.pem", None);
        assert_eq!(
            format!("{prover:?}"),
            format!("Prover {{ alg: Es256, thumbprint: {:?} }}", prover.thumbprint())
        );
    }
}
