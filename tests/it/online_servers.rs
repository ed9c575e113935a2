//! `bearerd check --online` against servers that response as real ones do.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::support::cli::run;
use crate::support::setup::SECRET;
use crate::support::{RawResponse, Recorded, Setup};

const TOKEN: &str = "canary-token-of-the-check";

async fn shown(setup: &Setup, code: i32) -> String {
    setup.write();
    let output = run(setup.folder(), &["check", "--online"]).await;
    output.expect_code(code);
    assert!(!output.all().contains(SECRET) && !output.all().contains(TOKEN), "{}", output.all());
    output.stdout
}

#[track_caller]
fn has(shown: &str, words: &[&str]) {
    for word in words {
        assert!(shown.contains(word), "{word} in {shown}");
    }
}

fn refused(status: u16, code: &str, words: &str) -> RawResponse {
    let body = json!({ "error": code, "error_description": words });
    RawResponse::status(status).header("content-type", "application/json").body(body.to_string())
}

/// A discovery document at every GET, and `answer` at the token endpoint.
fn discovered(setup: &Setup, more: Value, answer: impl Fn(&Recorded) -> RawResponse + Send + Sync + 'static) {
    let url = setup.issuer.url.clone();
    let mut document = json!({ "issuer": url, "token_endpoint": format!("{url}/token") });
    document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    setup.issuer.always(move |request, _| match request.method() {
        "GET" => RawResponse::json(&document),
        _ => answer(request),
    });
}

fn audience(request: &Recorded) -> String {
    let assertion = request.params("client_assertion").join("");
    let claims = URL_SAFE_NO_PAD.decode(assertion.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice::<Value>(&claims).unwrap()["aud"].as_str().unwrap().to_owned()
}

async fn signing(more: &str) -> Setup {
    Setup::new().await.issuer("issuer_url = \"{issuer}\"\nclient_auth = \"client_secret_jwt\"").issuer(more)
}

#[tokio::test]
async fn spring_that_wants_the_client_id_beside_an_assertion_is_reported() {
    let setup = signing("").await;
    discovered(&setup, json!({}), |request| match request.params("client_id").as_slice() {
        [] => RawResponse::oauth_error(400, "invalid_request"),
        _ => RawResponse::token(TOKEN),
    });
    let shown = shown(&setup, 1).await;
    has(
        &shown,
        &["set send_client_id = true in [issuer.corp]", "the issuer accepts send_client_id = true: set that"],
    );
    assert_eq!(setup.issuer.requests().iter().filter(|request| request.method() == "POST").count(), 2);
}

#[tokio::test]
async fn hydra_that_wants_its_token_endpoint_as_audience_is_reported() {
    let setup = signing("").await;
    let endpoint = format!("{}/token", setup.issuer.url);
    let wanted = endpoint.clone();
    discovered(&setup, json!({}), move |request| {
        if audience(request) == wanted {
            return RawResponse::token(TOKEN);
        }
        refused(
            401,
            "invalid_client",
            "Claim 'audience' from 'client_assertion' must match the token endpoint.",
        )
    });
    let shown = shown(&setup, 1).await;
    has(
        &shown,
        &[
            "set jwt.audience of [issuer.corp]",
            &format!("the issuer accepts jwt = {{ audience = \"{endpoint}\" }}"),
        ],
    );
    has(&shown, &["2 more requests were made"]);
}

#[tokio::test]
async fn glewlwyd_that_refuses_an_audience_without_a_word_is_reported() {
    let setup = signing("").await;
    let wanted = format!("{}/token", setup.issuer.url);
    let endpoint = wanted.clone();
    discovered(&setup, json!({}), move |request| match audience(request) == wanted {
        true => RawResponse::token(TOKEN),
        false => RawResponse::status(403),
    });
    let takes = format!("the issuer accepts jwt = {{ audience = \"{endpoint}\" }}");
    has(&shown(&setup, 1).await, &["jwt.audience of [issuer.corp]", &takes]);
}

/// The same of a key: the remedy names the keys of the config that decide.
#[tokio::test]
async fn a_signature_that_is_refused_without_a_word_is_reported_with_its_keys() {
    let key = crate::support::jwt::key_path("rsa.pkcs8.pem");
    let setup = Setup::new().await.issuer(&format!(
        "issuer_url = \"{{issuer}}\"\nclient_auth = \"private_key_jwt\"\n# client_secret\n\
         private_key = {{ file = \"{}\" }}",
        key.display()
    ));
    discovered(&setup, json!({}), |_| RawResponse::status(403));
    has(&shown(&setup, 1).await, &["jwt.key_id, jwt.alg and jwt.audience of [issuer.corp]"]);
}

#[tokio::test]
async fn keycloak_that_has_the_client_registered_for_an_assertion_is_reported() {
    let setup = Setup::new().await;
    setup.issuer.always(|request, _| match request.params("client_assertion").as_slice() {
        [_] => RawResponse::token(TOKEN),
        _ => refused(400, "invalid_client", "Parameter client_assertion_type is missing"),
    });
    let shown = shown(&setup, 1).await;
    has(&shown, &["registered for a signed JWT", "the issuer accepts client_auth = \"client_secret_jwt\""]);
    assert_eq!(setup.issuer.count(), 2);
}

#[tokio::test]
async fn keycloak_that_stumbles_over_an_encoding_is_reported() {
    let setup = Setup::new().await.issuer("basic_encoding = \"raw\"");
    setup.file("secret", "a+b/c=%é");
    let form = STANDARD.encode("client-1:a%2Bb%2Fc%3D%25%C3%A9");
    setup.issuer.always(move |request, _| {
        if request.header("authorization") == Some(&format!("Basic {form}")) {
            return RawResponse::token(TOKEN);
        }
        refused(400, "unauthorized_client", "Unexpected error when authenticating client")
    });
    has(&shown(&setup, 1).await, &["the issuer accepts client_auth = \"client_secret_basic\": set that"]);
}

#[tokio::test]
async fn rauthy_and_glewlwyd_that_find_no_secret_are_reported() {
    let glewlwyd = || RawResponse::status(403);
    let rauthy = || {
        let body = json!({ "timestamp": 1, "error": "BadRequest", "message": "'client_secret' is missing" });
        RawResponse::status(400).header("content-type", "application/json").body(body.to_string())
    };
    for refusal in [glewlwyd, rauthy] {
        let setup = Setup::new().await;
        setup.issuer.always(move |request, _| match request.params("client_secret").as_slice() {
            [_] => RawResponse::token(TOKEN),
            _ => refusal(),
        });
        has(&shown(&setup, 1).await, &["the issuer accepts client_auth = \"client_secret_post\""]);
    }
}

#[tokio::test]
async fn a_refused_proof_is_no_wrong_secret() {
    let setup = Setup::new().await;
    setup.issuer.always(|_, _| {
        RawResponse::status(401).header("WWW-Authenticate", "DPoP error=\"invalid_dpop_proof\"").body("no")
    });
    has(&shown(&setup, 1).await, &["invalid_dpop_proof", "set dpop of [issuer.corp]"]);
    assert_eq!(setup.issuer.count(), 1, "no other method is tried");
}

#[tokio::test]
async fn keycloak_on_this_machine_whose_aliases_are_not_https_gives_tokens() {
    let setup = Setup::new().await.issuer("issuer_url = \"{issuer}\"");
    let alias = format!("{}/token", setup.issuer.url);
    discovered(&setup, json!({ "mtls_endpoint_aliases": { "token_endpoint": alias } }), |_| {
        RawResponse::token(TOKEN)
    });
    has(&shown(&setup, 0).await, &["issuer corp: ok"]);
}

#[tokio::test]
async fn the_endpoint_that_discovery_found_is_named_where_it_fails() {
    let setup = Setup::new().await.issuer("issuer_url = \"{issuer}\"");
    discovered(&setup, json!({}), |_| RawResponse::status(404));
    let shown = shown(&setup, 1).await;
    has(&shown, &["/token, client_secret_basic", "responded 404"]);
    assert!(!shown.contains("discovery did not find it"), "{shown}");
}

#[tokio::test]
async fn a_scope_that_was_granted_is_known_and_told_once() {
    let setup = Setup::new().await.issuer("issuer_url = \"{issuer}\"\nscopes = [\"read\", \"odd\"]");
    let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let jwt =
        format!("{}.{}.c2ln", encode(json!({ "alg": "RS256" })), encode(json!({ "scope": "odd read" })));
    discovered(&setup, json!({ "scopes_supported": ["read"] }), move |_| {
        RawResponse::json(
            &json!({ "access_token": jwt, "token_type": "Bearer", "expires_in": 60, "scope": "read odd" }),
        )
    });
    let shown = shown(&setup, 0).await;
    assert!(!shown.contains("does not advertise"), "{shown}");
    assert_eq!(shown.lines().filter(|line| line.trim_start().starts_with("scope ")).count(), 1, "{shown}");
}

#[tokio::test]
async fn an_empty_grant_is_no_list_of_scopes() {
    let setup = Setup::new().await.issuer("scopes = [\"wrong\"]");
    setup.issuer.always(|request, _| match request.params("scope").as_slice() {
        [] => RawResponse::json(&json!({ "access_token": TOKEN, "token_type": "Bearer", "scope": "" })),
        _ => RawResponse::oauth_error(400, "invalid_scope"),
    });
    has(&shown(&setup, 1).await, &["without a scope in the request, it grants a token"]);
}

#[tokio::test]
async fn what_was_not_asked_for_says_why() {
    let setup = Setup::new().await.more(
        "[[route]]\nname = \"other\"\npath_prefix = \"/other\"\nupstream = \"{upstream}\"\nissuer = \"corp\"\nscopes = [\"b\"]\n",
    );
    setup.issuer.always_this(RawResponse::oauth_error(401, "invalid_client"));
    let shown = shown(&setup, 1).await;
    has(
        &shown,
        &["  endpoint     ", "  not asked    for route other, scopes b (the response above settles it)"],
    );
}
