//! How a client proves who it is without sending a secret: JWTs that are signed for each request, ready-made assertions,
//! DPoP toward the issuer. Every signature is verified by other code than made it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::jwt::{key, key_bytes, verify};
use crate::support::{RawResponse, Recorded, Setup, World, cli, eventually, unix_now};

/// A scene with the test key `file` beside the config as `key`.
async fn with_key(file: &str) -> Setup {
    let setup = Setup::new().await;
    setup.file("key", key_bytes(file));
    setup
}

const SIGNED: &str = "client_auth = \"private_key_jwt\"\nprivate_key = { file = \"key\" }\n# client_secret";
const ASSERTION_TYPE: &str =
    "client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer";

async fn asked(setup: Setup, keys: &str) -> std::sync::Arc<Recorded> {
    setup.issuer(keys).start().await.issuer().request(1).await
}

/// The one value of a parameter.
fn parameter(request: &Recorded, name: &str) -> String {
    let values = request.params(name);
    assert_eq!(values.len(), 1, "{name} in {}", request.text());
    values[0].clone()
}

/// Header and claims of the RS256 JWT in `token`, whose times are right; the claims without the times and the `jti`.
fn rs256(token: &str) -> (Value, Value) {
    let (header, mut claims) = verify(token, &key("rsa.public.pem"), "RS256");
    let object = claims.as_object_mut().unwrap();
    let mut time = |name| object.remove(name).unwrap().as_f64().unwrap();
    let (issued, not_before, end) = (time("iat"), time("nbf"), time("exp"));
    let age = unix_now() - issued;
    assert!((4.0..30.0).contains(&age), "dated {age} s ago, for clocks that are behind");
    assert!(issued == not_before && end - issued == 60.0, "{issued} {not_before} {end}");
    assert!(object.remove("jti").unwrap().as_str().unwrap().len() >= 22);
    (header, claims)
}

#[tokio::test]
async fn t103_private_key_jwt_is_sent_as_the_clients_assertion() {
    let setup = with_key("rsa.pkcs1.pem").await;
    let token_url = format!("{}/token", setup.issuer.url);
    let request = asked(setup, &format!("scopes = [\"read\"]\n{SIGNED}")).await;
    let token = parameter(&request, "client_assertion");
    assert_eq!(
        request.text(),
        format!("grant_type=client_credentials&scope=read&{ASSERTION_TYPE}&client_assertion={token}")
    );
    assert_eq!(request.header("authorization"), None);
    let (header, claims) = rs256(&token);
    assert_eq!(header, json!({ "alg": "RS256", "typ": "JWT" }));
    assert_eq!(claims, json!({ "iss": "client-1", "sub": "client-1", "aud": token_url }));
}

#[tokio::test]
async fn jwt_says_what_the_config_says() {
    let keys = "send_client_id = true\nscopes = [\"b\", \"a\"]\njwt = { alg = \"PS384\", key_id = \"k1\", type = \"\", issuer = \"i\", subject = \"\", audience = \"https://a/\", lifetime = \"5m\", scope = \"claim_array\", claims = { n = 7, yes = true, list = [\"x\"], t = { f = 1.5 } } }";
    let request = asked(with_key("rsa.jwk.json").await, &format!("{keys}\n{SIGNED}")).await;
    assert_eq!(request.params("client_id"), ["client-1"]);
    assert!(request.params("scope").is_empty(), "it is a claim");
    let (header, claims) = verify(&parameter(&request, "client_assertion"), &key("rsa.public.pem"), "PS384");
    assert_eq!(header, json!({ "alg": "PS384", "kid": "k1" }));
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 300);
    assert_eq!(claims["scope"], json!(["b", "a"]));
    for (name, value) in
        [("iss", json!("i")), ("aud", json!("https://a/")), ("n", json!(7)), ("yes", json!(true))]
    {
        assert_eq!(claims[name], value, "{name}");
    }
    assert_eq!((&claims["list"], &claims["t"]), (&json!(["x"]), &json!({ "f": 1.5 })));
    assert_eq!(claims.get("sub"), None);
}

#[tokio::test]
async fn jwt_bearer_grant_carries_the_assertion_and_no_client() {
    let setup = with_key("google.json").await;
    let keys = "jwt = { use = \"assertion\", scope = \"claim\" }\nscopes = [\"b\", \"a\"]\nprivate_key = { file = \"key\" }\n# client_secret\n# client_id";
    let request = asked(setup, keys).await;
    let token = parameter(&request, "assertion");
    let grant = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer";
    assert_eq!(request.text(), format!("{grant}&assertion={token}"));
    let (header, claims) = rs256(&token);
    let file: Value = serde_json::from_str(&key("google.json")).unwrap();
    assert_eq!(header["kid"], file["private_key_id"]);
    assert_eq!((&claims["iss"], &claims["scope"]), (&file["client_email"], &json!("b a")));
}

#[tokio::test]
async fn routes_subject_replaces_the_issuers() {
    let setup = with_key("zitadel-user.json").await;
    let keys = "jwt = { use = \"assertion\", subject = \"nobody\" }\nprivate_key = { file = \"key\" }\n# client_secret\n# client_id";
    let world = setup.issuer(keys).route("subject = \"mailbox@example.com\"").start().await;
    let (_, claims) = rs256(&parameter(&*world.issuer().request(1).await, "assertion"));
    assert_eq!(claims["sub"], "mailbox@example.com");
}

#[tokio::test]
async fn jwt_as_bearer_is_in_the_header() {
    let keys = "jwt = { use = \"bearer\" }\nprivate_key = { file = \"key\" }\nbody = \"json\"\ngrant_type = \"\"\nparams = { repositories = [\"a\"] }\n# client_secret";
    let request = asked(with_key("rsa.pkcs8.pem").await, keys).await;
    assert_eq!(request.text(), r#"{"repositories":["a"]}"#);
    assert_eq!(rs256(request.bearer().unwrap()).1["iss"], "client-1");
}

#[tokio::test]
async fn client_secret_jwt_is_signed_with_the_secret() {
    for alg in ["HS256", "HS384", "HS512"] {
        let setup = Setup::new().await;
        let secret = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        setup.file("secret", format!("{secret}\n"));
        let request =
            asked(setup, &format!("client_auth = \"client_secret_jwt\"\njwt = {{ alg = \"{alg}\" }}")).await;
        let (_, claims) = verify(&parameter(&request, "client_assertion"), secret, alg);
        assert_eq!(claims["sub"], "client-1");
        assert!(!request.text().contains("0123456789abcdef"));
    }
}

#[tokio::test]
async fn certificate_is_in_the_header_in_three_ways() {
    let setup = with_key("rsa.modern.p12").await;
    setup.file("certificate", key("rsa.certificate.pem"));
    let keys = "jwt = { certificate_headers = [\"x5t\", \"x5t#S256\", \"x5c\"] }\nclient_auth = \"private_key_jwt\"\nprivate_key = { file = \"key\", password = \"test-password\" }\ncertificate = { file = \"certificate\" }\n# client_secret";
    let request = asked(setup, keys).await;
    let (header, _) = rs256(&parameter(&request, "client_assertion"));
    let base64: String =
        key("rsa.certificate.pem").lines().filter(|line| !line.starts_with("-----")).collect();
    assert_eq!(header["x5c"], json!([base64]));
    use base64::Engine;
    let der = base64::engine::general_purpose::STANDARD.decode(base64).unwrap();
    let hash = |algorithm| {
        let digest = aws_lc_rs::digest::digest(algorithm, &der);
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest)
    };
    assert_eq!(header["x5t"], hash(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY));
    assert_eq!(header["x5t#S256"], hash(&aws_lc_rs::digest::SHA256));
}

/// Tokens of one second, so that the issuer is asked again and again.
fn short_lived(setup: &Setup) {
    setup.issuer.always(|_, n| RawResponse::brief_token(n));
}

/// Requests until the issuer was asked like this.
async fn until_asked(world: &World, what: &str, wanted: impl Fn(&Recorded) -> bool) {
    eventually(what, || async {
        world.get("/").await.expect_status(200);
        wanted(&world.issuer().last()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn t103_no_assertion_is_sent_twice_and_a_changed_key_is_used() {
    let setup = with_key("ec-p256.sec1.pem").await;
    short_lived(&setup);
    let world = setup.issuer(SIGNED).start().await;
    until_asked(&world, "three requests", |_| world.issuer().count() >= 3).await;
    let tokens: BTreeSet<_> =
        world.issuer().requests().iter().map(|request| parameter(request, "client_assertion")).collect();
    assert_eq!(tokens.len(), world.issuer().count());
    let ids: BTreeSet<_> = tokens
        .iter()
        .map(|token| verify(token, &key("ec-p256.public.pem"), "ES256").1["jti"].to_string())
        .collect();
    assert_eq!(ids.len(), tokens.len());

    world.file("key", &key("ed25519.pkcs8.pem")[..40]);
    let before = world.issuer().count();
    until_asked(&world, "a request meanwhile", |_| world.issuer().count() > before + 1).await;
    verify(&parameter(&world.issuer().last(), "client_assertion"), &key("ec-p256.public.pem"), "ES256");
    let warned =
        world.log().wait("the warning", |line| line.contains("so the last good one stays in use")).await;
    assert!(warned.contains("private_key"), "{warned}");

    world.file("key", key("ed25519.pkcs8.pem"));
    until_asked(&world, "the new key in use", |request| {
        let token = parameter(request, "client_assertion");
        let header = token.split('.').next().unwrap();
        use base64::Engine;
        let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(header).unwrap();
        String::from_utf8(header).unwrap().contains("EdDSA")
    })
    .await;
    verify(&parameter(&world.issuer().last(), "client_assertion"), &key("ed25519.public.pem"), "EdDSA");
}

#[tokio::test]
async fn assertion_file_is_read_at_every_fetch_and_trimmed() {
    let setup = Setup::new().await;
    short_lived(&setup);
    setup.file("assertion", "\n first.ready.made \r\n\n");
    let keys = "client_auth = \"assertion_file\"\nassertion = { file = \"assertion\" }\n# client_secret";
    let world = setup.issuer(keys).start().await;
    let first = world.issuer().request(1).await;
    assert_eq!(
        first.text(),
        format!("grant_type=client_credentials&{ASSERTION_TYPE}&client_assertion=first.ready.made")
    );
    world.file("assertion", "second.ready.made");
    until_asked(&world, "the second assertion", |request| request.text().ends_with("=second.ready.made"))
        .await;
}

#[tokio::test]
async fn saml_assertion_goes_as_it_is_with_its_type() {
    let setup = Setup::new().await;
    setup.file("assertion", "PHNhbWw+");
    let keys = "client_auth = \"assertion_file\"\nassertion = { file = \"assertion\" }\nassertion_type = \"urn:ietf:params:oauth:client-assertion-type:saml2-bearer\"\nsend_client_id = true\n# client_secret";
    assert_eq!(
        asked(setup, keys).await.text(),
        "grant_type=client_credentials&client_id=client-1\
         &client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Asaml2-bearer\
         &client_assertion=PHNhbWw%2B"
    );
}

#[tokio::test]
async fn ready_made_assertion_may_be_the_grants() {
    let setup = Setup::new().await;
    setup.file("assertion", "ready.made.jwt");
    let keys =
        "grant_type = \"urn:ietf:params:oauth:grant-type:jwt-bearer\"\nassertion = { file = \"assertion\" }";
    let request = asked(setup, keys).await;
    assert_eq!(
        request.text(),
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=ready.made.jwt"
    );
    assert!(request.basic().is_some(), "the client's own way beside it");
}

fn dated(end: i64) -> String {
    use base64::Engine;
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(format!("{{\"exp\":{end}}}"));
    format!("e30.{claims}.canary-signature")
}

/// What a refusal says of an issuer that says back what it got.
async fn refused(setup: Setup, keys: &str) -> (World, String) {
    setup.issuer.always(|request, _| {
        let said = json!({ "error": "invalid_client", "error_description": request.text() });
        RawResponse::status(401).body(said.to_string())
    });
    let world = setup.issuer(keys).start().await;
    world.issuer().request(1).await;
    let response = world.get("/").await;
    response.expect_problem(502, "token_refused");
    let detail = response.json()["detail"].as_str().unwrap().to_owned();
    (world, detail)
}

#[tokio::test]
async fn expired_assertion_is_reported_where_the_issuer_refuses() {
    let setup = Setup::new().await;
    setup.file("assertion", dated(1_600_000_000));
    let keys = "client_auth = \"assertion_file\"\nassertion = { file = \"assertion\" }\n# client_secret";
    let (world, detail) = refused(setup, keys).await;
    assert!(detail.contains("expired on 2020-09-13T12:26:40Z"), "{detail}");
    for text in [detail, world.log().text(), world.admin("/status").await.text()] {
        assert!(!text.contains("canary"), "{text}");
    }
}

#[tokio::test]
async fn expired_certificate_is_reported_before_and_where_the_issuer_refuses() {
    let setup = with_key("rsa.pkcs8.pem").await;
    setup.file("certificate", key("rsa.expired-certificate.pem"));
    let keys = format!("certificate = {{ file = \"certificate\" }}\n{SIGNED}");
    let (world, detail) = refused(setup, &keys).await;
    assert!(detail.contains("expired on 2021-01-01T00:00:00Z"), "{detail}");
    let warned =
        world.log().wait("the warning", |line| line.contains("WARN") && line.contains("2021-01-01")).await;
    assert!(warned.contains("certificate"), "{warned}");
    assert!(!detail.contains(&parameter(&world.issuer().last(), "client_assertion")), "{detail}");
}

#[tokio::test]
async fn keys_of_no_use_are_reported_and_nobody_is_asked() {
    for (file, keys, words) in [
        ("rsa.encrypted.pem", "", "encrypted"),
        ("rsa.public.pem", "", "public key"),
        ("openssh.pem", "", "OpenSSH"),
        ("ec-p256.pkcs8.pem", "jwt = { alg = \"RS256\" }", "RS256"),
        ("rsa.modern.p12", "", "password"),
    ] {
        let world = with_key(file).await.issuer(&format!("{keys}\n{SIGNED}")).start().await;
        let response = world.get("/").await;
        let detail = response.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("private_key") && detail.contains(words), "{file}: {detail}");
        assert_eq!(world.issuer().count(), 0, "{file}");
        for line in key_bytes(file).split(|&byte| byte == b'\n').filter(|line| line.len() > 40) {
            let line = String::from_utf8_lossy(line).into_owned();
            assert!(!world.log().text().contains(&line) && !detail.contains(&line), "{file}");
        }
    }
}

#[tokio::test]
async fn check_tells_of_keys_of_no_use() {
    for (file, keys, words) in [
        ("rsa.encrypted.pem", "", "encrypted"),
        ("ec-p256.pkcs8.pem", "jwt = { alg = \"PS256\" }", "PS256"),
        ("rsa.pkcs8.pem", "certificate = { file = \"expired\" }", "expired on 2021-01-01"),
        ("ec-p256.pkcs8.pem", "certificate = { file = \"expired\" }", "does not belong"),
    ] {
        let setup = with_key(file).await.issuer(&format!("{keys}\n{SIGNED}"));
        setup.file("expired", key("rsa.expired-certificate.pem"));
        setup.write();
        let told = cli::run(setup.folder(), &["check"]).await.all();
        assert!(told.contains(words) && told.contains("issuer.corp"), "{file}: {told}");
    }
}

#[tokio::test]
async fn missing_variable_of_a_key_is_reported_in_readyz() {
    let keys = "client_auth = \"private_key_jwt\"\nprivate_key = { env = \"NO_SUCH_KEY\" }\n# client_secret";
    let world = Setup::new().await.issuer(keys).start().await;
    let response = world.get("/").await;
    assert!(response.text().contains("environment variable NO_SUCH_KEY"), "{}", response.text());
    assert_eq!(world.admin("/readyz").await.status, 503);
}

const DPOP: &str = "dpop = { private_key = { file = \"key\" } }";

fn bound(token: &str, seconds: u32) -> RawResponse {
    RawResponse::json(&json!({ "access_token": token, "token_type": "DPoP", "expires_in": seconds }))
}

fn proof(request: &Recorded) -> Value {
    let (header, claims) = verify(request.header("dpop").unwrap(), &key("ec-p256.public.pem"), "ES256");
    assert_eq!(header["typ"], "dpop+jwt");
    claims
}

fn wants_nonce(status: u16, nonce: &str) -> RawResponse {
    RawResponse::oauth_error(status, "use_dpop_nonce").header("DPoP-Nonce", nonce)
}

#[tokio::test]
async fn t36_a_nonce_is_sent_at_once_and_remembered() {
    for status in [400, 401] {
        let setup = with_key("ec-p256.pkcs8.pem").await;
        setup.file("client", key("rsa.pkcs8.pem"));
        setup.issuer.next(wants_nonce(status, "nonce-1"));
        setup.issuer.always(|_, n| bound("t", 1).header("dpop-nonce", &format!("nonce-{n}")));
        let keys = SIGNED.replace("\"key\"", "\"client\"");
        let world =
            setup.issuer(&format!("token_url = \"{{issuer}}/token?v=1\"\n{DPOP}\n{keys}")).start().await;
        until_asked(&world, "three requests", |_| world.issuer().count() >= 3).await;
        let requests = world.issuer().requests();
        let proofs: Vec<_> = requests.iter().map(|request| proof(request)).collect();
        assert_eq!(proofs[0].get("nonce"), None);
        assert_eq!((&proofs[1]["nonce"], &proofs[2]["nonce"]), (&json!("nonce-1"), &json!("nonce-2")));
        for claims in &proofs {
            assert_eq!(claims["htm"], "POST");
            assert_eq!(claims["htu"], format!("{}/token", world.issuer().url), "without the query");
            assert_eq!(claims.get("ath"), None);
        }
        let ids: BTreeSet<_> = proofs.iter().map(|claims| claims["jti"].to_string()).collect();
        assert_eq!(ids.len(), proofs.len());
        let assertions: BTreeSet<_> =
            requests.iter().map(|request| parameter(request, "client_assertion")).collect();
        assert_eq!(assertions.len(), requests.len(), "an assertion is sent once alone");
    }
}

#[tokio::test]
async fn t36_a_second_wish_for_a_nonce_is_an_error() {
    let setup = with_key("ec-p256.pkcs8.pem").await;
    setup.issuer.always(|_, n| wants_nonce(400, &format!("nonce-{n}")));
    let world = setup.issuer(DPOP).start().await;
    world.issuer().request(2).await;
    let response = world.get("/").await;
    response.expect_problem(502, "token_refused");
    assert!(response.text().contains("use_dpop_nonce"), "{}", response.text());
    assert_eq!(world.upstream().count(), 0);
}

#[tokio::test]
async fn t36_a_nonce_that_is_none_is_not_sent() {
    let setup = with_key("ec-p256.pkcs8.pem").await;
    setup.issuer.next(wants_nonce(400, &"n".repeat(1025)));
    setup.issuer.always(|_, _| bound("t", 60));
    let world = setup.issuer(DPOP).start().await;
    world.issuer().request(1).await;
    eventually("a token", || async { (world.get("/").await.status == 200).then_some(()) }).await;
    assert_eq!(proof(&*world.issuer().request(2).await).get("nonce"), None);
}

#[tokio::test]
async fn dpop_with_a_bearer_response_is_refused() {
    let world = with_key("ec-p256.pkcs8.pem").await.issuer(DPOP).start().await;
    world.get("/").await.expect_problem(502, "token_refused");
}

#[cfg(not(feature = "pkcs11"))]
#[tokio::test]
async fn a_key_in_a_device_needs_a_program_that_can_load_modules() {
    let keys = SIGNED
        .replace("file = \"key\"", "pkcs11 = \"pkcs11:object=k?module-path=/m.so&pin-value=canary-pin\"");
    let output = cli::refusal(&with_key("rsa.pkcs8.pem").await.issuer(&keys)).await;
    assert!(
        output.contains("built without keys in devices") && output.contains("--features pkcs11"),
        "{output}"
    );
    assert!(!output.contains("canary-pin"), "{output}");
}
