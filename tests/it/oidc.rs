//! Against oidc-provider, the certified OpenID implementation.

use serde_json::{Value, json};

use crate::support::oidc::OidcProvider;
use crate::support::tls::{ca, localhost};
use crate::support::{Setup, World};

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
async fn t106_basic_with_special_characters_is_understood() {
    let provider = OidcProvider::start(&options()).await;
    let world = scene(&provider, "client_id = \"client:1 +\"\nscopes = [\"read\"]").await;
    assert!(token(&world).await.len() > 20);
    world.ready().await;
}

#[tokio::test]
async fn post_with_special_characters_is_understood() {
    let provider = OidcProvider::start(&options()).await;
    let world = scene(&provider, "client_id = \"poster\"\nclient_auth = \"client_secret_post\"").await;
    assert!(token(&world).await.len() > 20);
}

#[tokio::test]
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
async fn discovery_finds_the_token_endpoint() {
    let provider = OidcProvider::start(&options()).await;
    let keys = "client_id = \"client:1 +\"\nissuer_url = \"{provider}\"";
    assert!(token(&scene(&provider, keys).await).await.len() > 20);
}

#[tokio::test]
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
async fn wrong_secret_is_token_refused() {
    let provider = OidcProvider::start(&options()).await;
    let world = scene(&provider, "client_id = \"client:1 +\"\nbasic_encoding = \"raw\"").await;
    let response = world.get("/").await;
    response.expect_problem(502, "token_refused");
    assert_eq!(world.admin("/readyz").await.status, 503);
    assert_eq!(world.upstream().count(), 0);
}

#[tokio::test]
async fn scope_that_is_not_allowed_is_token_refused() {
    let provider = OidcProvider::start(&options()).await;
    let world = scene(&provider, "client_id = \"client:1 +\"\nscopes = [\"write\"]").await;
    let response = world.get("/").await;
    response.expect_problem(502, "token_refused");
    assert!(response.json()["detail"].as_str().unwrap().contains("invalid_scope"), "{}", response.text());
}

#[tokio::test]
async fn unknown_client_is_token_refused() {
    let provider = OidcProvider::start(&options()).await;
    let world = scene(&provider, "client_id = \"nobody\"").await;
    world.get("/").await.expect_problem(502, "token_refused");
}
