//! Keys in every form in which they are handed out, from the config file to the signature at the issuer.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::support::jwt::{PASSWORD, key, key_bytes, verify};
use crate::support::tls::{ca, localhost};
use crate::support::{Client, RawRequest, RawResponse, Scripted, Setup};

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

const LISTENER: &str = "tls = { certificate = { file = \"server.pem\" }, private_key = { file = \"server.key\" }, \
                        client_ca = { file = \"ca.pem\" } }";
const TOWARD: &str = "tls = { ca = { file = \"ca.pem\" }, certificate = { file = \"own.pem\" }, private_key = { file = \"own.key\" } }";
const ISSUER: &str = "# client_secret\nclient_auth = \"private_key_jwt\"\nprivate_key = { file = \"own.key\" }\n\
                      certificate = { file = \"own.pem\" }\njwt = { certificate_headers = [\"x5t#S256\"] }\n\
                      dpop = { private_key = { file = \"proofs.key\" } }";

/// What variables, editors and pipelines make of PEM.
const MADE_OF_IT: [fn(&str) -> String; 5] = [
    |pem| format!("\u{feff}{pem}"),
    |pem| pem.lines().map(|line| format!("    {line}\n")).collect(),
    |pem| pem.replace('\n', "\\n"),
    |pem| pem.replace('\n', " "),
    |pem| pem.replace('\n', "\r\n"),
];

#[tokio::test]
async fn keys_and_certificates_are_read_alike_wherever_they_are() {
    for change in MADE_OF_IT {
        let asking = || Scripted::start(Some(ca().server_asking(&localhost(), &["http/1.1"])));
        let setup = Setup::with(asking().await, asking().await);
        let grant = json!({ "access_token": "t", "token_type": "DPoP", "expires_in": 600 });
        setup.issuer.always_this(RawResponse::json(&grant));
        let (server, own) = (localhost(), ca().issue(&["client-1"]));
        setup.file("ca.pem", change(&ca().pem));
        let proofs = ca().issue(&["proofs"]);
        for (name, identity) in [("server", &server), ("own", &own), ("proofs", &proofs)] {
            setup.file(&format!("{name}.pem"), change(&identity.certificate_pem));
            let key = setup.file(&format!("{name}.key"), change(&identity.key_pem));
            std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let shown = change("-----BEGIN\nx");
        let world =
            setup.listener(LISTENER).issuer(&format!("{ISSUER}\n{TOWARD}")).route(TOWARD).start().await;
        let client = Client::tls(world.address("main"), ca().client(&["http/1.1"], Some(&own))).await;
        let response = client.expect(&shown).exchange(&RawRequest::get("/")).await;
        assert_eq!(response.status, 200, "{shown}: {}", response.text());
        let asked = world.issuer().request(1).await;
        assert_eq!(asked.params("client_assertion").len(), 1, "{shown}");
        assert!(
            asked.header("dpop").is_some() && world.upstream().last().header("dpop").is_some(),
            "{shown}"
        );
        let checked = crate::support::cli::run(world.folder(), &["check", "--config", "bearerd.toml"]).await;
        checked.expect_code(0);
        assert!(!checked.all().contains("warning"), "{shown}: {}", checked.all());
    }
}
