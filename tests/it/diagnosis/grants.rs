//! What the token is for: scopes and audience.

use serde_json::json;

use super::{line, no_token, vendor};
use crate::support::oidc::OidcProvider;
use crate::support::{RawResponse, Setup, World};

async fn real(keys: &str) -> (OidcProvider, World) {
    let client = json!({
        "client_id": "client-1",
        "client_secret": crate::support::setup::SECRET,
        "scope": "read",
    });
    let options = json!({
        "scopes": ["read", "write"],
        "resources": { "https://api.example/": { "scope": "read" } },
        "clients": [client],
    });
    let provider = OidcProvider::start(&options).await;
    let keys = format!("token_url = \"{}/token\"\n{keys}", provider.issuer);
    let world = Setup::new().await.issuer(&keys).start().await;
    (provider, world)
}

#[tokio::test]
#[ignore = "needs node and npm"]
async fn scope_not_granted() {
    let (_provider, world) = real("scopes = [\"write\"]").await;
    let facts = ["responded 400 invalid_scope ("];
    let remedy =
        ["check scopes of [issuer.corp] and of the route, and allow this client these scopes at the issuer"];
    no_token(&world, 502, "token_refused", &facts, &remedy).await;
    assert_eq!(world.status().await["tokens"][0]["scopes"], json!(["write"]));
    line(&world, &["WARN", "no token from the issuer", "write"]).await;
}

#[tokio::test]
async fn fewer_scopes_granted_than_asked_for() {
    let setup = Setup::new().await;
    let grant = json!({ "access_token": "t", "token_type": "Bearer", "expires_in": 600, "scope": "read" });
    setup.issuer.always_this(RawResponse::json(&grant));
    let world = setup.issuer("scopes = [\"read\", \"write\"]").start().await;
    world.get("/").await.expect_status(200);
    let words = [
        "WARN",
        "corp",
        "the issuer's response grants less than bearerd requested, without the scopes write: allow this client these scopes at \
         the issuer, or remove them from scopes",
    ];
    line(&world, &words).await;
    let token = &world.status().await["tokens"][0];
    assert_eq!((&token["scopes"], &token["granted_scope"]), (&json!(["read", "write"]), &json!("read")));
}

#[tokio::test]
async fn scope_missing_in_the_words_of_vendors() {
    for body in [
        r#"{"error":"invalid_request","error_description":"AADSTS900144: The request body must contain the following parameter: 'scope'."}"#,
        r#"{"error":"invalid_scope","error_description":"The authorization server resource does not have any configured default scopes, 'scope' must be provided."}"#,
    ] {
        let setup = Setup::new().await;
        setup.issuer.always_this(vendor(400, body));
        let world = setup.start().await;
        let remedy = ["the issuer requires a scope; set scopes of [issuer.corp] or of the route"];
        no_token(&world, 502, "token_refused", &["responded 400 invalid_"], &remedy).await;
    }
}

#[tokio::test]
#[ignore = "needs node and npm"]
async fn resource_unknown_to_the_issuer() {
    let (_provider, world) = real("params = { resource = \"https://other.example/\" }").await;
    let facts = ["responded 400 invalid_target ("];
    let remedy =
        ["give the API's URI as resource: params = { resource = \"…\" } of [issuer.corp] or of the route"];
    no_token(&world, 502, "token_refused", &facts, &remedy).await;
}

#[tokio::test]
async fn audience_missing() {
    for (status, body) in [
        (
            403,
            r#"{"error":"access_denied","error_description":"No audience parameter was provided, and no default audience has been configured"}"#,
        ),
        (403, r#"{"error":"access_denied","error_description":"Service not found: https://api.example"}"#),
    ] {
        let setup = Setup::new().await;
        setup.issuer.always_this(vendor(status, body));
        let world = setup.start().await;
        let remedy = [
            "give the API's identifier as audience: params = { audience = \"…\" } of [issuer.corp] or of the route",
        ];
        no_token(&world, 502, "token_refused", &["responded 40"], &remedy).await;
    }
}

#[tokio::test]
async fn audience_not_allowed() {
    let setup = Setup::new().await;
    setup.issuer.always_this(vendor(
        400,
        r#"{"error":"invalid_request","error_description":"Requested audience 'x' has not been whitelisted by the OAuth 2.0 Client."}"#,
    ));
    let world = setup.start().await;
    let remedy = [
        "allow this client that audience at the issuer, or check params.audience of [issuer.corp] and of the route",
    ];
    no_token(&world, 502, "token_refused", &["responded 400 invalid_request (Requested"], &remedy).await;
}

#[tokio::test]
async fn resource_of_entra_unknown() {
    let setup = Setup::new().await;
    setup.issuer.always_this(vendor(
        400,
        r#"{"error":"invalid_resource","error_description":"AADSTS500011: The resource principal named api://x was not found in the tenant named acme."}"#,
    ));
    let world = setup.start().await;
    let remedy = ["the tenant has no such resource; check scopes of [issuer.corp] and of the route"];
    no_token(&world, 502, "token_refused", &["responded 400 invalid_resource (AADSTS500011"], &remedy).await;
}
