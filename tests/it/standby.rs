//! Two credentials at once, and a grace time after one was changed.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use crate::support::jwt::{key, key_bytes, verify};
use crate::support::{RawResponse, Recorded, Setup, World, cli, eventually, stays};

const STANDBY: &str = "standby = { client_secret = { file = \"next\" } }";

/// An issuer that takes one secret alone, for brief tokens; another gets 401 and everything said back.
fn takes(setup: &Setup, secret: &'static str) {
    setup.issuer.always(move |request, n| answer(request, n, secret));
}

fn answer(request: &Recorded, n: usize, secret: &str) -> RawResponse {
    let basic = request.basic().unwrap_or_default();
    if basic.ends_with(&format!(":{secret}")) {
        return RawResponse::brief_token(n);
    }
    let said = json!({ "error": "invalid_client", "error_description": format!("no {basic}") });
    RawResponse::status(401).body(said.to_string())
}

async fn scene(secret: &'static str) -> Setup {
    let setup = Setup::new().await;
    setup.file("secret", "canary-current");
    setup.file("next", "canary-next");
    takes(&setup, secret);
    setup.issuer(STANDBY)
}

fn secrets(world: &World) -> Vec<String> {
    let of = |request: &Recorded| request.basic().unwrap().split(':').nth(1).unwrap().to_owned();
    world.issuer().requests().iter().map(|request| of(request)).collect()
}

async fn credential(world: &World) -> String {
    let status = world.status().await;
    status["issuers"][0]["credential"].as_str().unwrap().to_owned()
}

async fn requests_until_asked(world: &World, times: usize) {
    eventually("the issuer to be asked again", || async {
        world.get("/").await.expect_status(200);
        (world.issuer().count() >= times).then_some(())
    })
    .await;
}

#[tokio::test]
async fn standby_is_not_tried_while_the_current_one_works() {
    let world = scene("canary-current").await.start().await;
    requests_until_asked(&world, 3).await;
    assert!(secrets(&world).iter().all(|secret| secret == "canary-current"));
    assert_eq!(credential(&world).await, "current");
}

#[tokio::test]
async fn standby_is_tried_at_once_and_first_from_then_on() {
    let world = scene("canary-next").await.start().await;
    world.get("/").await.expect_status(200);
    assert_eq!(secrets(&world)[..2], ["canary-current", "canary-next"]);
    requests_until_asked(&world, 4).await;
    assert!(secrets(&world)[1..].iter().all(|secret| secret == "canary-next"), "{:?}", secrets(&world));
    assert_eq!(credential(&world).await, "standby");

    takes_now(&world, "canary-current");
    requests_until_asked(&world, world.issuer().count() + 2).await;
    assert_eq!(credential(&world).await, "current");
    let fell = || world.log().lines().iter().filter(|line| line.contains("from now on")).count();
    eventually("a line each way", || async { (fell() >= 2).then_some(()) }).await;
    assert_eq!(fell(), 2, "said once each way");
    assert!(!world.log().text().contains("canary"), "{}", world.log().text());
}

fn takes_now(world: &World, secret: &'static str) {
    world.issuer().always(move |request, n| answer(request, n, secret));
}

#[tokio::test]
async fn both_refused_names_both_and_waits() {
    let world = scene("neither").await.start().await;
    world.issuer().request(2).await;
    let response = world.get("/").await;
    response.expect_problem(502, "token_refused");
    let detail = response.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.contains("with the current credential") && detail.contains("with the standby credential"),
        "{detail}"
    );
    assert!(!detail.contains("canary"), "{detail}");
    stays(Duration::from_millis(500), || world.issuer().count()).await;
}

#[tokio::test]
async fn standby_is_for_a_refused_client_alone() {
    let setup = scene("neither").await;
    setup.issuer.always_this(RawResponse::oauth_error(400, "invalid_scope"));
    let world = setup.start().await;
    world.issuer().request(1).await;
    world.get("/").await.expect_problem(502, "token_refused");
    assert_eq!(secrets(&world), ["canary-current"]);
}

#[tokio::test]
async fn standby_may_be_another_client() {
    let setup = Setup::new().await;
    setup.file("next", "s2");
    takes(&setup, "s2");
    let world = setup
        .issuer("standby = { client_id = \"client-2\", client_secret = { file = \"next\" } }")
        .start()
        .await;
    assert_eq!(world.issuer().request(2).await.basic().unwrap(), "client-2:s2");
}

#[tokio::test]
async fn missing_standby_is_reported_beside_the_refusal() {
    let setup = Setup::new().await;
    takes(&setup, "neither");
    let world = setup.issuer("standby = { client_secret = { file = \"nowhere\" } }").start().await;
    let response = world.get("/").await;
    response.expect_problem(502, "token_refused");
    let detail = response.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("invalid_client") && detail.contains("nowhere: no such file"), "{detail}");
}

#[tokio::test]
async fn within_the_grace_a_refused_client_is_asked_again_with_the_usual_pauses() {
    let setup = Setup::new().await;
    setup.file("secret", "new");
    setup
        .issuer
        .always(|request, n| if n < 3 { answer(request, n, "other") } else { RawResponse::token("t") });
    let world = setup.issuer("credential_grace = \"15m\"").start().await;
    world.issuer().request(1).await;
    let response = world.get("/").await;
    response.expect_problem(502, "token_refused");
    assert!(response.text().contains("within credential_grace (15m)"), "{}", response.text());
    eventually("the credential to be known", || async { (world.get("/").await.status == 200).then_some(()) })
        .await;
}

#[tokio::test]
async fn without_grace_a_refused_client_waits_for_a_minute() {
    let setup = Setup::new().await;
    takes(&setup, "other");
    let world = setup.start().await;
    world.issuer().request(1).await;
    world.get("/").await.expect_problem(502, "token_refused");
    stays(Duration::from_secs(3), || world.issuer().count()).await;
}

#[tokio::test]
async fn standby_key_signs_the_grant_where_the_first_is_refused() {
    let setup = Setup::new().await;
    setup.file("first.pem", key_bytes("rsa.pkcs8.pem"));
    setup.file("second.pem", key_bytes("ec-p256.pkcs8.pem"));
    setup.issuer.always(|request, n| {
        let assertion = request.params("assertion");
        let by_second = assertion[0].starts_with(&URL_SAFE_NO_PAD.encode("{\"alg\":\"ES25"));
        if by_second {
            RawResponse::token(&format!("token-{n}"))
        } else {
            RawResponse::oauth_error(401, "invalid_client")
        }
    });
    let keys = "# client_secret\nprivate_key = { file = \"first.pem\" }\njwt = { use = \"assertion\" }\n\
                standby = { private_key = { file = \"second.pem\" } }";
    let world = setup.issuer(keys).start().await;
    world.get("/").await.expect_status(200);
    let assertion = world.issuer().request(2).await.params("assertion")[0].clone();
    verify(&assertion, &key("ec-p256.public.pem"), "ES256");
}

#[tokio::test]
async fn standby_with_a_method_that_has_no_secret_is_a_config_error() {
    let setup = Setup::new().await.issuer(&format!("client_auth = \"none\"\n# client_secret\n{STANDBY}"));
    setup.write();
    cli::run(setup.folder(), &["check"]).await.expect_code(78);
}
