//! Keys in every form in which they are handed out, from the config file to the signature at the issuer.

use serde_json::Value;

use crate::support::Setup;
use crate::support::jwt::{PASSWORD, key, key_bytes, verify};

/// The signed assertion that a key file leads to: its header and claims.
async fn signed(file: &str, password: bool, public: &str, alg: &str) -> (Value, Value) {
    let setup = Setup::new().await;
    setup.file("key", key_bytes(file));
    setup.file("password", format!("{PASSWORD}\n"));
    let password = if password { ", password = { file = \"password\" }" } else { "" };
    let keys = format!(
        "# client_secret\nclient_auth = \"private_key_jwt\"\nprivate_key = {{ file = \"key\"{password} }}"
    );
    let world = setup.issuer(&keys).start().await;
    let request = world.issuer().request(1).await;
    let assertion = request.params("client_assertion");
    assert_eq!(assertion.len(), 1, "{file}: {}", request.text());
    verify(&assertion[0], &key(public), alg)
}

#[tokio::test]
async fn every_form_of_a_key_signs() {
    for (file, password, public, alg) in [
        ("rsa.pkcs1.pem", false, "rsa.public.pem", "RS256"),
        ("rsa.pkcs8.pem", false, "rsa.public.pem", "RS256"),
        ("rsa.modern.p12", true, "rsa.public.pem", "RS256"),
        ("rsa.legacy.p12", true, "rsa.public.pem", "RS256"),
        ("rsa.plain.p12", false, "rsa.public.pem", "RS256"),
        ("ec-p256.sec1.pem", false, "ec-p256.public.pem", "ES256"),
        ("ec-p384.pkcs8.pem", false, "ec-p384.public.pem", "ES384"),
        ("ec-p521.sec1.pem", false, "ec-p521.public.pem", "ES512"),
        ("ec-p256.modern.p12", true, "ec-p256.public.pem", "ES256"),
        ("ed25519.pkcs8.pem", false, "ed25519.public.pem", "EdDSA"),
    ] {
        let (header, claims) = signed(file, password, public, alg).await;
        assert_eq!(header.get("kid"), None, "{file}");
        assert_eq!(claims["iss"], "client-1", "{file}");
    }
}

#[tokio::test]
async fn key_files_that_name_their_key_say_kid() {
    for (file, public, alg, kid) in [
        ("rsa.jwk.json", "rsa.public.pem", "RS256", "rsa-1"),
        ("ec-p256.jwk.json", "ec-p256.public.pem", "ES256", "ec-p256-1"),
        ("ed25519.jwk.json", "ed25519.public.pem", "EdDSA", "ed25519-1"),
    ] {
        assert_eq!(signed(file, false, public, alg).await.0["kid"], kid, "{file}");
    }
}
