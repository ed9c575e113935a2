//! The API behind: down, unknown, or not content with a good token.

use super::{event, holds, no_response, text_at};
use crate::support::nobody;
use crate::support::peer::{HTTP_1_1_REQUIRED, MAX_CONCURRENT_STREAMS, Peer, PeerServer};
use crate::support::{RawResponse, Setup, World};

#[tokio::test]
async fn upstream_down() {
    let nobody = nobody();
    let world = Setup::new().await.route(&format!("upstream = \"http://{nobody}\"")).start().await;
    let refused = format!("{nobody} refused the connection");
    let words = [&*refused, "is it running, and is the port right?", "see upstream of route api"];
    no_response(&world, 502, "upstream_unreachable", &words).await;
}

#[tokio::test]
async fn upstream_whose_name_is_not_resolved() {
    let world = Setup::new().await.route("upstream = \"https://api.invalid\"").start().await;
    let words = [
        "can't connect to api.invalid:443: the name api.invalid was not resolved: ",
        "see upstream of route api, and this machine's DNS",
    ];
    no_response(&world, 502, "upstream_unreachable", &words).await;
}

#[tokio::test]
async fn upstream_that_is_too_slow() {
    let setup = Setup::new().await;
    setup.upstream.always_this(RawResponse::hang());
    let world = setup.route("response_timeout = \"300ms\"").start().await;
    let words = ["sent no response within response_timeout (300ms)"];
    no_response(&world, 504, "upstream_timeout", &words).await;
}

#[tokio::test]
async fn upstream_that_wants_http1() {
    let upstream = PeerServer::plain(|mut peer: Peer| async move {
        peer.begin(&[]).await;
        let asked = peer.asked().await.unwrap();
        peer.reset(asked.stream, HTTP_1_1_REQUIRED).await;
        peer.end().await;
    })
    .await;
    let route = format!("upstream = \"{}\"\nprotocol = \"http2\"", upstream.url);
    let world = Setup::new().await.route(&route).start().await;
    let words = [
        "refuses HTTP/2 and requires HTTP/1.1 (HTTP_1_1_REQUIRED)",
        "the route says protocol = \"http2\": set protocol = \"auto\" or \"http1\"",
    ];
    no_response(&world, 502, "upstream_invalid", &words).await;
}

#[tokio::test]
async fn upstream_that_takes_no_more_requests_at_a_time() {
    let upstream = PeerServer::plain(|mut peer: Peer| async move {
        peer.begin(&[(MAX_CONCURRENT_STREAMS, 0)]).await;
        peer.end().await;
    })
    .await;
    let route =
        format!("upstream = \"{}\"\nprotocol = \"http2\"\nresponse_timeout = \"300ms\"", upstream.url);
    let world = Setup::new().await.route(&route).start().await;
    let words = ["takes no more requests at a time, and none of them ended within response_timeout (300ms)"];
    no_response(&world, 504, "upstream_timeout", &words).await;
}

/// Refuses every token that the issuer gives.
async fn refusing(token: &str, challenge: &str) -> World {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::token(token));
    setup.upstream.always_this(RawResponse::status(401).header("www-authenticate", challenge));
    let world = setup.start().await;
    world.ready().await;
    let response = world.get("/").await;
    response.expect_status(401);
    assert_eq!(response.header("proxy-status"), None, "the response is the upstream's own");
    world
}

async fn told(world: &World, words: &[&str]) {
    let logged = event(world, "the upstream refuses a token that was just issued").await;
    assert_eq!((text_at(&logged, "/level"), text_at(&logged, "/route")), ("WARN", "api"));
    holds("the log", text_at(&logged, "/detail"), words);
    let shown = world.status().await;
    let refusal = shown.pointer("/routes/0/upstream_refusal").expect("a refusal");
    assert_eq!(refusal["status"], 401);
    holds("/status", text_at(refusal, "/detail"), words);
    assert!(world.metric("bearerd_refreshes_forced_total", &[("route", "api")]).await >= Some(1.0));
}

#[tokio::test]
async fn upstream_401_with_a_good_token() {
    let world = refusing("opaque-token", "Bearer error=\"invalid_token\"").await;
    let words = [
        "responds 401 to a token that issuer corp has just issued",
        "`bearerd token corp --route api --decode`",
        "set scopes or params of route api",
    ];
    told(&world, &words).await;
    let text = format!("{}{}", world.log().text(), world.status().await);
    assert!(!text.contains("opaque-token"), "{text}");
}

/// `{"alg":"none"}`, the claims, a signature.
fn jwt(claims: &str) -> String {
    use base64::Engine;
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
    format!("eyJhbGciOiJub25lIn0.{claims}.x")
}

#[tokio::test]
async fn token_without_an_audience() {
    let world = refusing(&jwt(r#"{"iss":"https://idp.example","scope":"read"}"#), "Bearer").await;
    let words = ["the token is a JWT without `aud`: give params (audience, resource) or scopes of route api"];
    told(&world, &words).await;
}

#[tokio::test]
async fn token_for_another_audience() {
    let world = refusing(&jwt(r#"{"aud":["https://other.example"],"scope":"read"}"#), "Bearer").await;
    told(&world, &["the token is for the audience https://other.example"]).await;
}
