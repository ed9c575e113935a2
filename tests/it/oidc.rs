//! Against oidc-provider, the certified OpenID implementation.

use serde_json::{Value, json};

use crate::support::jwt::{self, key};
use crate::support::oidc::OidcProvider;
use crate::support::tls::{Identity, ca, localhost};
use crate::support::{Setup, World, eventually};

const BASIC_SECRET: &str = "a:b +%&=\"~!/?";

fn options() -> Value {
    json!({
        "scopes": ["read", "write"],
        "ttl": 600,
        "resources": { "https://api.example/": { "scope": "read write" } },
        "clients": [
            {
                "client_id": "client:1 +",
                "client_secret": BASIC_SECRET,
                "token_endpoint_auth_method": "client_secret_basic",
                "scope": "read",
            },
            {
                "client_id": "poster",
                "client_secret": BASIC_SECRET,
                "token_endpoint_auth_method": "client_secret_post",
                "scope": "read write",
            },
        ],
    })
}

async fn scene(provider: &OidcProvider, issuer: &str) -> World {
    let setup = Setup::new().await;
    setup.file("secret", format!("{BASIC_SECRET}\n"));
    let url = format!("token_url = \"{}/token\"\n", provider.issuer);
    let url = if issuer.contains("issuer_url") { String::new() } else { url };
    setup.issuer(&format!("{url}{issuer}").replace("{provider}", &provider.issuer)).start().await
}

async fn token(world: &World) -> String {
    world.get("/").await.expect_status(200);
    world.upstream().last().bearer().unwrap().to_owned()
}

fn claims(token: &str) -> Value {
    use base64::Engine;
    let payload = token.split('.').nth(1).expect("a JWT");
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap())
        .unwrap()
}

#[tokio::test]
#[ignore = "needs node and npm"]
async fn t106_basic_with_special_characters_is_understood() {
    let provider = OidcProvider::start(&options()).await;
    let world = scene(&provider, "client_id = \"client:1 +\"\nscopes = [\"read\"]").await;
    assert!(token(&world).await.len() > 20);
    world.ready().await;
}

#[tokio::test]
#[ignore = "needs node and npm"]
async fn post_with_special_characters_is_understood() {
    let provider = OidcProvider::start(&options()).await;
    let world = scene(&provider, "client_id = \"poster\"\nclient_auth = \"client_secret_post\"").await;
    assert!(token(&world).await.len() > 20);
}

#[tokio::test]
#[ignore = "needs node and npm"]
async fn resource_parameter_gives_a_jwt_for_that_resource() {
    let provider = OidcProvider::start(&options()).await;
    let keys = "client_id = \"poster\"\nclient_auth = \"client_secret_post\"\nscopes = [\"write\", \"read\"]\n\
                params = { resource = \"https://api.example/\" }";
    let world = scene(&provider, keys).await;
    let claims = claims(&token(&world).await);
    assert_eq!(claims["aud"], "https://api.example/");
    assert_eq!(claims["client_id"], "poster");
    let scope = claims["scope"].as_str().unwrap();
    assert!(scope.contains("read") && scope.contains("write"), "{scope}");
}

#[tokio::test]
#[ignore = "needs node and npm"]
async fn discovery_finds_the_token_endpoint() {
    let provider = OidcProvider::start(&options()).await;
    let keys = "client_id = \"client:1 +\"\nissuer_url = \"{provider}\"";
    assert!(token(&scene(&provider, keys).await).await.len() > 20);
}

#[tokio::test]
#[ignore = "needs node and npm"]
async fn discovery_over_tls_with_the_runs_ca() {
    let identity = localhost();
    let mut options = options();
    options["tls"] = json!({ "key": identity.key_pem, "cert": identity.certificate_pem });
    let provider = OidcProvider::start(&options).await;
    assert!(provider.issuer.starts_with("https://"));
    let setup = Setup::new().await;
    setup.file("secret", BASIC_SECRET);
    setup.file("ca.pem", &ca().pem);
    let keys = format!(
        "client_id = \"client:1 +\"\nissuer_url = \"{}\"\ntls = {{ ca = {{ file = \"ca.pem\" }} }}",
        provider.issuer
    );
    assert!(token(&setup.issuer(&keys).start().await).await.len() > 20);
}

#[tokio::test]
#[ignore = "needs node and npm"]
async fn wrong_secret_is_token_refused() {
    let provider = OidcProvider::start(&options()).await;
    let world = scene(&provider, "client_id = \"client:1 +\"\nbasic_encoding = \"raw\"").await;
    let response = world.get("/").await;
    response.expect_problem(502, "token_refused");
    assert_eq!(world.admin("/readyz").await.status, 503);
    assert_eq!(world.upstream().count(), 0);
}

#[tokio::test]
#[ignore = "needs node and npm"]
async fn scope_that_is_not_allowed_is_token_refused() {
    let provider = OidcProvider::start(&options()).await;
    let world = scene(&provider, "client_id = \"client:1 +\"\nscopes = [\"write\"]").await;
    let response = world.get("/").await;
    response.expect_problem(502, "token_refused");
    assert!(response.json()["detail"].as_str().unwrap().contains("invalid_scope"), "{}", response.text());
}

#[tokio::test]
#[ignore = "needs node and npm"]
async fn unknown_client_is_token_refused() {
    let provider = OidcProvider::start(&options()).await;
    let world = scene(&provider, "client_id = \"nobody\"").await;
    world.get("/").await.expect_problem(502, "token_refused");
}

/// One client of the given method and keys, with an issuer that knows them.
async fn with_client(client: Value) -> OidcProvider {
    let mut options = options();
    let mut client = client;
    client["client_id"] = "signer".into();
    client["scope"] = "read".into();
    options["clients"] = json!([client]);
    OidcProvider::start(&options).await
}

fn jwks(names: &[&str]) -> Value {
    let public = |name: &&str| {
        let mut public: Value = serde_json::from_str(&key(&format!("{name}.public.jwk.json"))).unwrap();
        public["kid"] = format!("{name}-1").into();
        public
    };
    json!({ "keys": names.iter().map(public).collect::<Vec<_>>() })
}

/// Issues tokens to `signer` with these keys of the config. `{keys}` is the folder of test keys.
async fn accepted(provider: &OidcProvider, keys: &str) {
    let keys = keys.replace("{keys}", jwt::key_path("").to_str().unwrap().trim_end_matches('/'));
    let world = scene(provider, &format!("client_id = \"signer\"\n# client_secret\n{keys}")).await;
    assert!(token(&world).await.len() > 20);
}

#[tokio::test]
#[ignore = "needs node and npm"]
async fn client_secret_jwt_is_accepted_with_every_hash() {
    let secret = "a-secret-as-long-as-the-longest-hash-is-0123456789-0123456789-xyz";
    let provider =
        with_client(json!({ "token_endpoint_auth_method": "client_secret_jwt", "client_secret": secret }))
            .await;
    for alg in ["HS256", "HS384", "HS512"] {
        let keys = format!(
            "client_auth = \"client_secret_jwt\"\nclient_secret = \"{secret}\"\njwt = {{ alg = \"{alg}\" }}"
        );
        accepted(&provider, &keys).await;
    }
}

#[tokio::test]
#[ignore = "needs node and npm"]
async fn t103_private_key_jwt_is_accepted_with_every_algorithm() {
    let names = ["rsa", "ec-p256", "ec-p384", "ec-p521", "ed25519"];
    let provider =
        with_client(json!({ "token_endpoint_auth_method": "private_key_jwt", "jwks": jwks(&names) })).await;
    for (file, algs) in [
        ("rsa.pkcs1.pem", &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"][..]),
        ("ec-p256.sec1.pem", &["ES256"]),
        ("ec-p384.jwk.json", &["ES384"]),
        ("ec-p521.pkcs8.pem", &["ES512"]),
        ("ed25519.pkcs8.pem", &["EdDSA", "Ed25519"]),
    ] {
        for alg in algs {
            let keys = format!(
                "client_auth = \"private_key_jwt\"\nprivate_key = {{ file = \"{{keys}}/{file}\" }}\njwt = {{ alg = \"{alg}\" }}"
            );
            accepted(&provider, &keys).await;
        }
    }
}

#[tokio::test]
#[ignore = "needs node and npm"]
async fn t103_by_discovery_the_audience_is_the_issuer() {
    let provider =
        with_client(json!({ "token_endpoint_auth_method": "private_key_jwt", "jwks": jwks(&["rsa"]) })).await;
    let key = "client_auth = \"private_key_jwt\"\nprivate_key = { file = \"{keys}/rsa.jwk.json\" }";
    accepted(&provider, &format!("issuer_url = \"{{provider}}\"\n{key}")).await;
    // PKCS#12 holds the same key.
    let pkcs12 = "client_auth = \"private_key_jwt\"\nprivate_key = { file = \"{keys}/rsa.modern.p12\", password = \"test-password\" }\njwt = { key_id = \"rsa-1\" }";
    accepted(&provider, pkcs12).await;
}

#[tokio::test]
#[ignore = "needs node and npm"]
async fn t103_a_key_that_was_replaced_signs_the_next_request() {
    let names = ["rsa", "ec-p256"];
    let provider =
        with_client(json!({ "token_endpoint_auth_method": "private_key_jwt", "jwks": jwks(&names[1..]) }))
            .await;
    let setup = Setup::new().await;
    setup.file("key.pem", key("rsa.pkcs8.pem"));
    let keys = format!(
        "token_url = \"{}/token\"\nclient_id = \"signer\"\n# client_secret\nclient_auth = \"private_key_jwt\"\nprivate_key = {{ file = \"key.pem\" }}",
        provider.issuer
    );
    let world = setup.issuer(&keys).start().await;
    world.get("/").await.expect_problem(502, "token_refused");
    world.file("key.pem", key("ec-p256.pkcs8.pem"));
    eventually("the new key to be used", || async { (world.get("/").await.status == 200).then_some(()) })
        .await;
}

#[tokio::test]
#[ignore = "needs node and npm"]
async fn assertion_file_is_accepted() {
    let provider =
        with_client(json!({ "token_endpoint_auth_method": "private_key_jwt", "jwks": jwks(&["rsa"]) })).await;
    let now = crate::support::unix_now();
    let claims = json!({
        "iss": "signer", "sub": "signer", "aud": provider.issuer, "jti": "once", "exp": now.floor() + 60.0,
    });
    // Made by another library, as another program would.
    let made = jsonwebtoken::encode(
        &jsonwebtoken::Header::new(jsonwebtoken::Algorithm::RS256),
        &claims,
        &jsonwebtoken::EncodingKey::from_rsa_pem(key("rsa.pkcs8.pem").as_bytes()).unwrap(),
    );
    let setup = Setup::new().await;
    setup.file("assertion", format!("{}\n\n", made.unwrap()));
    let keys = format!(
        "token_url = \"{}/token\"\nclient_id = \"signer\"\n# client_secret\nclient_auth = \"assertion_file\"\nassertion = {{ file = \"assertion\" }}",
        provider.issuer
    );
    assert!(token(&setup.issuer(&keys).start().await).await.len() > 20);
}

/// A provider that serves https, and asks for client certificates at another address.
async fn asking(client: Value) -> OidcProvider {
    let server = localhost();
    let mut options = options();
    let mut client = client;
    client["client_id"] = "holder".into();
    client["scope"] = "read".into();
    client["tls_client_certificate_bound_access_tokens"] = true.into();
    options["clients"] = json!([client]);
    options["tls"] = json!({ "key": server.key_pem, "cert": server.certificate_pem });
    options["mtls"] = json!({ "key": server.key_pem, "cert": server.certificate_pem, "ca": ca().pem });
    OidcProvider::start(&options).await
}

/// `holder` with this certificate, its endpoint found by discovery.
async fn holder(provider: &OidcProvider, certificate: &str, private_key: &str) -> World {
    let setup = Setup::new().await;
    setup.file("ca.pem", &ca().pem);
    setup.file("cert.pem", certificate);
    setup.file("key.pem", private_key);
    let keys = format!(
        "issuer_url = \"{}\"\nclient_id = \"holder\"\n# client_secret\nclient_auth = \"tls_client_auth\"\ncertificate = {{ file = \"cert.pem\" }}\nprivate_key = {{ file = \"key.pem\" }}\ntls = {{ ca = {{ file = \"ca.pem\" }} }}",
        provider.issuer
    );
    setup.issuer(&keys).start().await
}

#[tokio::test]
#[ignore = "needs node and npm"]
async fn tls_client_auth_goes_to_the_alias_with_the_certificate() {
    let provider = asking(json!({
        "token_endpoint_auth_method": "tls_client_auth", "tls_client_auth_san_dns": "client.test",
    }))
    .await;
    let Identity { certificate_pem, key_pem, .. } = ca().issue(&["client.test"]);
    let world = holder(&provider, &certificate_pem, &key_pem).await;
    assert!(token(&world).await.len() > 20);
    let url = world.log().wait("where it asked", |line| line.contains("requested a token")).await;
    assert!(url.contains(&provider.alias.unwrap()["https://".len()..]), "{url}");
}

#[tokio::test]
#[ignore = "needs node and npm"]
async fn tls_client_auth_with_another_certificate_is_refused() {
    let provider = asking(json!({
        "token_endpoint_auth_method": "tls_client_auth", "tls_client_auth_san_dns": "client.test",
    }))
    .await;
    let other = ca().issue(&["other.test"]);
    let world = holder(&provider, &other.certificate_pem, &other.key_pem).await;
    world.get("/").await.expect_problem(502, "token_refused");
}

/// A provider that knows the EC test certificate, self-signed.
async fn knowing_the_test_certificate() -> OidcProvider {
    let certificate = key("ec-p256.certificate.pem");
    let mut registered: Value = serde_json::from_str(&key("ec-p256.public.jwk.json")).unwrap();
    let base64: String = certificate.lines().filter(|line| !line.starts_with("-----")).collect();
    registered["x5c"] = json!([base64]);
    asking(json!({
        "token_endpoint_auth_method": "self_signed_tls_client_auth", "jwks": { "keys": [registered] },
    }))
    .await
}

#[tokio::test]
#[ignore = "needs node and npm"]
async fn tls_client_auth_takes_a_pkcs12_file_with_both() {
    let provider = knowing_the_test_certificate().await;
    for file in ["ec-p256.modern.p12", "ec-p256.legacy.p12"] {
        let setup = Setup::new().await;
        setup.file("ca.pem", &ca().pem);
        setup.file("client.p12", jwt::key_bytes(file));
        setup.file("password", jwt::PASSWORD);
        let keys = format!(
            "issuer_url = \"{}\"\nclient_id = \"holder\"\n# client_secret\nclient_auth = \"tls_client_auth\"\ncertificate = {{ file = \"client.p12\", password = {{ file = \"password\" }} }}\ntls = {{ ca = {{ file = \"ca.pem\" }} }}",
            provider.issuer
        );
        let world = setup.issuer(&keys).start().await;
        assert!(token(&world).await.len() > 20, "{file}");
    }
}

#[tokio::test]
#[ignore = "needs node and npm"]
async fn t104_a_self_signed_certificate_that_was_replaced_is_shown_next() {
    let provider = knowing_the_test_certificate().await;
    let world = holder(&provider, &key("rsa.certificate.pem"), &key("rsa.pkcs8.pem")).await;
    world.get("/").await.expect_problem(502, "token_refused");
    world.file("cert.pem", key("ec-p256.certificate.pem"));
    world.file("key.pem", key("ec-p256.sec1.pem"));
    eventually("the new certificate to be shown", || async {
        (world.get("/").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs node and npm"]
async fn t36_dpop_with_nonces_is_accepted() {
    let mut options = options();
    options["dpop"] = true.into();
    options["clients"] = json!([{
        "client_id": "signer",
        "scope": "read",
        "token_endpoint_auth_method": "private_key_jwt",
        "jwks": jwks(&["rsa"]),
        "dpop_bound_access_tokens": true,
    }]);
    let provider = OidcProvider::start(&options).await;
    for (file, alg) in
        [("ec-p256.pkcs8.pem", "ES256"), ("ed25519.pkcs8.pem", "EdDSA"), ("rsa.pkcs8.pem", "PS256")]
    {
        let keys = "client_auth = \"private_key_jwt\"\nprivate_key = { file = \"{keys}/rsa.pkcs8.pem\" }"
            .replace("{keys}", jwt::key_path("").to_str().unwrap());
        let dpop = format!(
            "dpop = {{ private_key = {{ file = \"{}\" }}, alg = \"{alg}\" }}",
            jwt::key_path(file).display()
        );
        let world =
            scene(&provider, &format!("client_id = \"signer\"\n# client_secret\n{keys}\n{dpop}")).await;
        world.get("/").await.expect_status(200);
        let request = world.upstream().last();
        assert!(request.header("authorization").unwrap().starts_with("DPoP "), "{:?}", request.head.fields);
        assert!(request.header("dpop").is_some());
    }
}

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// Two providers: the outer one grants tokens for JWTs of the inner one, which are for `audience`, or for the outer one.
async fn chain(audience: Option<&str>) -> (World, [OidcProvider; 2]) {
    // Each needs the other's address, so the inner one has a resource for any outer one.
    let inner = OidcProvider::start(&json!({
        "anyResource": true,
        "clients": [{ "client_id": "host", "client_secret": BASIC_SECRET }],
    }))
    .await;
    let outer = OidcProvider::start(&json!({
        "trusts": inner.issuer,
        "scopes": ["read"],
        "clients": [{
            "client_id": "billing", "client_secret": BASIC_SECRET, "scope": "read", "grant_types": [JWT_BEARER],
        }],
    }))
    .await;
    let audience = audience.unwrap_or(&outer.issuer);
    let inner_table = format!(
        "[issuer.inner]\ntoken_url = \"{}/token\"\nclient_id = \"host\"\nclient_secret = {{ file = \"secret\" }}\nparams = {{ resource = \"{audience}\" }}",
        inner.issuer
    );
    let setup = Setup::new().await.more(&inner_table).issuer(&format!(
        "token_url = \"{}/token\"\nclient_id = \"billing\"\ngrant_type = \"{JWT_BEARER}\"\nassertion = {{ issuer = \"inner\" }}\nscopes = [\"read\"]",
        outer.issuer
    ));
    setup.file("secret", BASIC_SECRET);
    (setup.start().await, [inner, outer])
}

#[tokio::test]
#[ignore = "needs node and npm"]
async fn a_token_of_one_provider_is_exchanged_at_another() {
    let (world, _providers) = chain(None).await;
    let token = token(&world).await;
    assert!(!token.contains('.'), "the outer provider's own, which is opaque: {token}");
    world.ready().await;
    let status = world.status().await;
    let tokens = status["tokens"].as_array().unwrap();
    assert_eq!((&tokens[0]["inner"], &tokens[1]["outer"]), (&json!(["inner"]), &json!(["corp"])));
    assert_eq!(tokens[0]["granted_scope"], "read");
}

#[tokio::test]
#[ignore = "needs node and npm"]
async fn a_token_for_another_audience_is_refused_by_the_outer_provider() {
    let (world, _providers) = chain(Some("https://elsewhere.example/")).await;
    let response = world.get("/").await;
    response.expect_problem(502, "token_refused");
    assert!(response.text().contains("invalid_grant"), "{}", response.text());
    assert_eq!(world.upstream().count(), 0);
}
