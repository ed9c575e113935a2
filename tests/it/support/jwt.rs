//! Verifies what bearerd signed by other code than made it (jsonwebtoken on RustCrypto, p521), and has keys of every
//! form. Test keys only; nothing else was ever signed with them.
//!
//! Files in `tests/it/fixtures/keys`, by [`key`] (text), [`key_bytes`] and [`key_path`]:
//!
//! | file | what |
//! |---|---|
//! | `rsa.pkcs1.pem`, `rsa.pkcs8.pem`, `rsa.public.pem` | RSA, 2048 bits |
//! | `rsa.jwk.json`, `rsa.public.jwk.json` | the same key; `kid` is `rsa-1` |
//! | `ec-p256.sec1.pem` (after EC PARAMETERS), `ec-p256.pkcs8.pem`, `ec-p256.public.pem` | likewise `ec-p384.`, `ec-p521.` |
//! | `ec-p256.jwk.json`, `ec-p256.public.jwk.json` | the same key; `kid` is `ec-p256-1`; likewise `ec-p384.`, `ec-p521.` |
//! | `ed25519.pkcs8.pem`, `ed25519.public.pem`, `ed25519.jwk.json`, `ed25519.public.jwk.json` | `kid` is `ed25519-1` |
//! | `rsa.certificate.pem`, `ec-p256.certificate.pem` | self-signed, valid for a century |
//! | `rsa.expired-certificate.pem`, `ec-p256.expired-certificate.pem` | ended 2021-01-01T00:00:00Z |
//! | `rsa.modern.p12`, `ec-p256.modern.p12` | key and certificate, PBES2 with AES; password [`PASSWORD`] |
//! | `rsa.legacy.p12`, `ec-p256.legacy.p12` | the same with 3DES, RC2 and SHA-1 |
//! | `rsa.no-password.p12`, `rsa.plain.p12` | the empty password; not encrypted at all |
//! | `google.json`, `zitadel-user.json`, `zitadel-application.json` | vendors' key files around the RSA key |
//! | `rsa.encrypted.pem`, `rsa.encrypted-pkcs1.pem` | encrypted with [`PASSWORD`] |
//! | `rsa-1024.pkcs8.pem`, `ec-secp256k1.pkcs8.pem`, `x25519.pkcs8.pem`, `openssh.pem` | of no use |
//! | `rsa-pss.pkcs8.pem` | for PS256 to PS512 alone |
//! | `p12/` | PKCS#12 of more kinds: other ciphers, BER, a chain, no key |
//! | `rfc….jwk.json` | examples of the RFCs |

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use p521::ecdsa::signature::Verifier;
use p521::pkcs8::DecodePublicKey;
use serde_json::Value;

/// Of the PKCS#12 files and the encrypted keys.
pub const PASSWORD: &str = "test-password";

pub fn key_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures/keys").join(name)
}

pub fn key_bytes(name: &str) -> Vec<u8> {
    std::fs::read(key_path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub fn key(name: &str) -> String {
    String::from_utf8(key_bytes(name)).unwrap()
}

/// Header and claims, once the signature is that of `key` and the header names `alg`. `key` is a public PEM or JWK, or
/// the shared secret for HS256 to HS512. Times are not looked at.
pub fn verify(token: &str, key: &str, alg: &str) -> (Value, Value) {
    let (message, signature) = token.rsplit_once('.').expect("a JWT has three parts");
    let (header, claims) = message.split_once('.').expect("a JWT has three parts");
    let (header, claims) = (part(header), part(claims));
    assert_eq!(header["alg"], alg, "the header names another algorithm: {header}");
    assert!(
        !signature.contains('=') && URL_SAFE_NO_PAD.decode(signature).is_ok(),
        "the signature is base64url without padding"
    );
    if alg == "ES512" {
        verify_p521(message, signature, key);
    } else {
        let algorithm: Algorithm =
            if alg == "Ed25519" { Algorithm::EdDSA } else { alg.parse().expect("a known algorithm") };
        let key = decoding_key(key, algorithm);
        assert!(
            jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key, algorithm).unwrap(),
            "the {alg} signature is wrong"
        );
    }
    (header, claims)
}

fn part(text: &str) -> Value {
    let json = URL_SAFE_NO_PAD.decode(text).expect("base64url without padding");
    serde_json::from_slice(&json).expect("JSON")
}

fn decoding_key(key: &str, algorithm: Algorithm) -> DecodingKey {
    if key.trim_start().starts_with('{') {
        return DecodingKey::from_jwk(&serde_json::from_str(key).expect("a JWK")).expect("a usable JWK");
    }
    match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => DecodingKey::from_secret(key.as_bytes()),
        Algorithm::ES256 | Algorithm::ES384 => DecodingKey::from_ec_pem(key.as_bytes()).expect("an EC key"),
        Algorithm::EdDSA => DecodingKey::from_ed_pem(key.as_bytes()).expect("an Ed25519 key"),
        _ => DecodingKey::from_rsa_pem(key.as_bytes()).expect("an RSA key"),
    }
}

fn verify_p521(message: &str, signature: &str, key: &str) {
    let public = if key.trim_start().starts_with('{') {
        p521::PublicKey::from_jwk_str(key).expect("a P-521 JWK")
    } else {
        p521::PublicKey::from_public_key_pem(key).expect("a P-521 key")
    };
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    assert_eq!(signature.len(), 132, "both numbers at their full length");
    let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(&public.to_sec1_bytes()).unwrap();
    let signature = p521::ecdsa::Signature::from_slice(&signature).unwrap();
    key.verify(message.as_bytes(), &signature).expect("the ES512 signature is right");
}
