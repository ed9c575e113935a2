//! Tokens that are bound to a key (RFC 9449), on their way to the upstream.

use serde_json::{Value, json};

use crate::support::h2::{EchoUpstream, H2Client};
use crate::support::jwt::{key, verify};
use crate::support::manual::Manual;
use crate::support::{
    RawRequest, RawResponse, Recorded, Scripted, Setup, World, eventually, stays, unix_now, within,
};

/// Of RFC 9449 section 7.1, and its hash as written there.
const TOKEN: &str = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
const ATH: &str = "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo";

const ISSUER: &str = "dpop = { private_key = { file = \"dpop.pem\" } }";

fn bound(token: &str) -> RawResponse {
    RawResponse::json(&json!({ "access_token": token, "token_type": "DPoP", "expires_in": 3600 }))
}

/// A scene whose issuer binds [`TOKEN`] to the key, then `token-2`, `token-3` …
async fn setup() -> Setup {
    setup_with(Scripted::upstream().await).await
}

async fn setup_with(upstream: Scripted) -> Setup {
    let setup = Setup::with(Scripted::issuer().await, upstream);
    setup.file("dpop.pem", key("ec-p256.pkcs8.pem"));
    setup.issuer.always(|_, n| match n {
        1 => bound(TOKEN),
        _ => bound(&format!("token-{n}")),
    });
    setup.issuer(ISSUER)
}

/// The claims of the one proof that a request carries; the signature and the key in its header are looked at.
fn proof(request: &Recorded) -> Value {
    proof_in(request.header("dpop").expect("a proof"))
}

fn proof_in(proof: &str) -> Value {
    let (header, claims) = verify(proof, &key("ec-p256.public.jwk.json"), "ES256");
    assert_eq!(header["typ"], "dpop+jwt");
    let public: Value = serde_json::from_str(&key("ec-p256.public.jwk.json")).unwrap();
    for member in ["kty", "crv", "x", "y"] {
        assert_eq!(header["jwk"][member], public[member], "{member}");
    }
    assert_eq!(header["jwk"].get("d"), None, "never the private part");
    claims
}

fn wants_nonce(nonce: &str) -> RawResponse {
    RawResponse::status(401)
        .header("www-authenticate", "DPoP error=\"use_dpop_nonce\", error_description=\"a nonce, please\"")
        .header("dpop-nonce", nonce)
        .body("nonce")
}

/// An upstream that wants this nonce in every proof.
fn strict(nonce: &'static str) -> impl Fn(&Recorded, usize) -> RawResponse {
    move |request, _| match request.header("dpop").map(proof_in) {
        Some(claims) if claims["nonce"] == nonce => RawResponse::ok(request.body.data.clone()),
        _ => wants_nonce(nonce),
    }
}

fn nonces(world: &World) -> Vec<Value> {
    world.upstream().requests().iter().map(|request| proof(request)["nonce"].clone()).collect()
}

#[tokio::test]
async fn every_request_carries_the_token_and_a_new_proof_for_it() {
    let world = setup().await.start().await;
    let mut seen = std::collections::BTreeSet::new();
    for (method, target) in [("GET", "/x?a=1"), ("GET", "/x?a=1"), ("POST", "/y/%7Ez"), ("DELETE", "/")] {
        world.exchange(RawRequest::new(method, target)).await.expect_status(200);
        let request = world.upstream().last();
        assert_eq!(request.headers("authorization"), [format!("DPoP {TOKEN}")]);
        let claims = proof(&request);
        let path = target.split('?').next().unwrap();
        assert_eq!(claims["htm"], method);
        assert_eq!(claims["htu"], format!("{}{path}", world.upstream().url));
        assert_eq!(claims["ath"], ATH);
        assert_eq!(claims.get("nonce"), None);
        assert!((claims["iat"].as_f64().unwrap() - unix_now()).abs() < 10.0, "{claims}");
        assert!(seen.insert(claims["jti"].as_str().unwrap().to_owned()), "a jti of its own");
    }
    assert_eq!(world.issuer().count(), 1);
}

#[tokio::test]
async fn target_of_the_proof_is_the_upstreams_and_not_the_routes() {
    let setup = setup().await;
    let upstream = format!("{}/api/v2", setup.upstream.url);
    let world = setup.route(&format!("upstream = \"{upstream}\"\npath_prefix = \"/billing\"")).start().await;
    world.get("/billing/x?y").await.expect_status(200);
    assert_eq!(proof(&world.upstream().last())["htu"], format!("{upstream}/x"));
}

#[tokio::test]
async fn unix_upstream_is_http_localhost_in_the_proof() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Scripted::unix(&folder.path().join("api.sock")).await;
    let world = setup_with(upstream).await.start().await;
    world.get("/x?y").await.expect_status(200);
    assert_eq!(proof(&world.upstream().last())["htu"], "http://localhost/x");
}

#[tokio::test]
async fn proofs_go_over_http2_too() {
    let upstream = EchoUpstream::plain().await;
    let route = format!("upstream = \"{}\"\nprotocol = \"http2\"", upstream.url);
    let world = setup().await.route(&route).start().await;
    let mut client = H2Client::plain(world.address("main")).await;
    assert_eq!(client.get("/x?y").await.status, 200);
    let seen = upstream.last();
    assert_eq!(seen.headers["authorization"], format!("DPoP {TOKEN}"));
    let claims = proof_in(seen.headers["dpop"].to_str().unwrap());
    assert_eq!(
        (claims["htu"].as_str(), claims["htm"].as_str()),
        (Some(&*format!("{}/x", upstream.url)), Some("GET"))
    );
}

#[tokio::test]
async fn upgrades_carry_a_proof() {
    let upstream = Manual::start().await;
    let world = setup().await.route(&format!("upstream = \"{}\"", upstream.url)).start().await;
    let mut client = world.connect().await;
    let call = RawRequest::get("/ws").header("Connection", "Upgrade").header("Upgrade", "websocket");
    client.send(&call).await;
    let mut wire = upstream.accept().await;
    let head = within("the handshake", wire.head()).await.unwrap().unwrap();
    assert_eq!(head.header("authorization"), Some(&*format!("DPoP {TOKEN}")));
    let claims = proof_in(head.header("dpop").unwrap());
    assert_eq!(claims["htu"], format!("{}/ws", upstream.url));
    wire.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(client.head().await.word(1), "101");
}

#[tokio::test]
async fn callers_own_proof_is_taken_out_in_every_form() {
    let world = setup().await.start().await;
    let call = RawRequest::get("/").header("DPoP", "mine").header("dpop", "mine").header("d_pop", "mine");
    world.exchange(call.header("authorization", "DPoP mine")).await.expect_status(200);
    let request = world.upstream().last();
    assert_eq!(proof(&request)["ath"], ATH);
    assert_eq!(request.header("d_pop"), None);
}

#[tokio::test]
async fn kept_callers_authorization_keeps_its_own_proof() {
    let world = setup().await.route("caller_authorization = \"keep\"").start().await;
    let call = RawRequest::get("/").header("authorization", "DPoP mine").header("dpop", "my-proof");
    world.exchange(call).await.expect_status(200);
    let request = world.upstream().last();
    assert_eq!(
        (request.header("authorization"), request.header("dpop")),
        (Some("DPoP mine"), Some("my-proof"))
    );
    world.exchange(RawRequest::get("/").header("dpop", "my-proof")).await.expect_status(200);
    assert_eq!(proof(&world.upstream().last())["ath"], ATH);
}

#[tokio::test]
async fn other_routes_leave_a_callers_proof_alone() {
    let world = Setup::new().await.start().await;
    world.exchange(RawRequest::get("/").header("dpop", "my-proof")).await.expect_status(200);
    let request = world.upstream().last();
    assert_eq!(request.bearer(), Some("token-1"));
    assert_eq!(request.header("dpop"), Some("my-proof"));
}

#[tokio::test]
async fn format_that_is_given_is_used_as_written() {
    let route = "inject = { header = \"x-token\", format = \"Token {token}\" }";
    let world = setup().await.route(route).start().await;
    world.get("/").await.expect_status(200);
    let request = world.upstream().last();
    assert_eq!(request.header("x-token"), Some(&*format!("Token {TOKEN}")));
    assert_eq!(proof(&request)["ath"], ATH);
}

#[tokio::test]
async fn t81_nonce_that_is_asked_for_goes_into_a_new_proof_with_the_same_token() {
    let setup = setup().await;
    setup.upstream.always(strict("nonce-1"));
    let world = setup.start().await;
    let response = world.exchange(RawRequest::post("/x", "kept")).await;
    response.expect_status(200);
    assert_eq!(response.text(), "kept");
    let requests = world.upstream().requests();
    assert_eq!(nonces(&world), [Value::Null, "nonce-1".into()]);
    assert_ne!(proof(&requests[0])["jti"], proof(&requests[1])["jti"]);
    assert!(
        requests.iter().all(|request| request.header("authorization") == Some(&*format!("DPoP {TOKEN}")))
    );
    assert_eq!(world.issuer().count(), 1, "the token was not refused");
    let forced = world.metric("bearerd_refreshes_forced_total", &[("route", "api")]).await;
    assert!(forced.unwrap_or(0.0) < 0.5);

    world.get("/x").await.expect_status(200);
    assert_eq!(world.upstream().count(), 3, "the nonce is remembered");
}

#[tokio::test]
async fn t81_nonce_of_any_response_is_used_from_then_on() {
    let setup = setup().await;
    setup.upstream.always(|_, n| RawResponse::ok("ok").header("dpop-nonce", &format!("nonce-{n}")));
    let world = setup.start().await;
    for _ in 0..3 {
        let response = world.get("/").await;
        assert!(response.header("dpop-nonce").is_some(), "responses pass as they are");
    }
    assert_eq!(nonces(&world), [Value::Null, "nonce-1".into(), "nonce-2".into()]);
}

#[tokio::test]
async fn t81_request_is_sent_once_more_for_a_nonce_and_no_further() {
    let setup = setup().await;
    setup.upstream.always(|_, n| wants_nonce(&format!("nonce-{n}")));
    let world = setup.start().await;
    let response = world.get("/").await;
    response.expect_status(401);
    assert_eq!(response.text(), "nonce");
    assert_eq!(response.header("dpop-nonce"), Some("nonce-2"));
    assert_eq!(world.upstream().count(), 2);
    stays(std::time::Duration::from_millis(300), || world.issuer().count()).await;
    assert_eq!(world.issuer().count(), 1, "no token is dropped for want of a nonce");
}

#[tokio::test]
async fn t81_body_that_is_not_kept_makes_no_second_try_but_the_nonce_is_known() {
    let setup = setup().await;
    setup.upstream.always(strict("nonce-1"));
    let world = setup.route("replay_limit = \"1KiB\"").start().await;
    world.exchange(RawRequest::post("/", "x".repeat(1025))).await.expect_status(401);
    assert_eq!(world.upstream().count(), 1);
    world.exchange(RawRequest::post("/", "x".repeat(1025))).await.expect_status(200);
    assert_eq!((world.upstream().count(), world.issuer().count()), (2, 1));
}

#[tokio::test]
async fn t70_refused_token_is_replaced_and_the_replay_has_a_proof_of_its_own() {
    let setup = setup().await;
    setup.upstream.always(|request, _| match request.header("authorization") {
        Some("DPoP token-2") => RawResponse::ok("ok"),
        _ => RawResponse::status(401).header("www-authenticate", "DPoP error=\"invalid_token\""),
    });
    let world = setup.start().await;
    world.get("/x").await.expect_status(200);
    let requests = world.upstream().requests();
    let (first, second) = (proof(&requests[0]), proof(&requests[1]));
    assert_eq!(first["ath"], ATH);
    assert_ne!(first["ath"], second["ath"]);
    assert_ne!(first["jti"], second["jti"]);
    assert_eq!(world.issuer().count(), 2);
}

#[tokio::test]
async fn t81_new_nonce_and_new_token_may_be_wanted_by_one_request() {
    let setup = setup().await;
    let refused = || RawResponse::status(401).header("www-authenticate", "DPoP error=\"invalid_token\"");
    setup.upstream.next(wants_nonce("nonce-1"));
    setup.upstream.next(refused());
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    assert_eq!(nonces(&world), [Value::Null, "nonce-1".into(), "nonce-1".into()]);
    assert_eq!(world.upstream().last().header("authorization"), Some("DPoP token-2"));

    world.upstream().next(refused());
    world.get("/").await.expect_status(401);
    assert_eq!(world.issuer().count(), 2, "within 10 s of a 401");
}

#[tokio::test]
async fn t82_request_whose_connection_died_is_sent_again_with_a_new_proof() {
    let setup = setup().await;
    setup.upstream.next(RawResponse::ok("ok"));
    setup.upstream.next(RawResponse::drop());
    let world = setup.start().await;
    world.get("/first").await.expect_status(200);
    world.get("/second").await.expect_status(200);
    let requests = world.upstream().requests();
    assert_eq!(requests.len(), 3);
    assert_eq!(proof(&requests[1])["htu"], proof(&requests[2])["htu"]);
    assert_ne!(proof(&requests[1])["jti"], proof(&requests[2])["jti"]);
}

#[tokio::test]
async fn t104_changed_key_replaces_the_token_that_is_bound_to_it() {
    let world = setup().await.start().await;
    world.get("/").await.expect_status(200);
    world.file("dpop.pem", key("ec-p384.pkcs8.pem"));
    eventually("a request with the new key's token", || async {
        world.get("/").await.expect_status(200);
        (world.upstream().last().header("authorization") == Some("DPoP token-2")).then_some(())
    })
    .await;
    for request in world.upstream().requests() {
        let (file, alg) = match request.header("authorization") {
            Some("DPoP token-2") => ("ec-p384.public.jwk.json", "ES384"),
            _ => ("ec-p256.public.jwk.json", "ES256"),
        };
        verify(request.header("dpop").unwrap(), &key(file), alg);
    }
    assert_eq!(world.issuer().count(), 2);
}

#[tokio::test]
async fn neither_token_nor_proof_is_in_any_log() {
    let setup = setup().await;
    setup.upstream.always(strict("canary-nonce"));
    let world = setup.log("level = \"trace\"").start().await;
    world.get("/").await.expect_status(200);
    world.log().wait("the request's line", |line| line.contains("\"status\":200")).await;
    let log = world.log().text();
    let request = world.upstream().last();
    assert!(!log.contains(TOKEN) && !log.contains("canary-nonce"));
    assert!(!log.contains(request.header("dpop").unwrap()));
}
