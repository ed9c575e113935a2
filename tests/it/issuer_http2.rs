//! Issuers whose HTTP/2 side does not process a request, or not to its end.

use h2::Reason;

use crate::support::h2_issuer::{Act, H2Issuer};
use crate::support::peer::{NO_ERROR, Peer, PeerServer};
use crate::support::tls::{ca, localhost};
use crate::support::{Setup, World, eventually};

/// The scene with this issuer, reached by `endpoint`.
async fn world(issuer: &H2Issuer, endpoint: &str) -> World {
    at(&issuer.url, endpoint).await
}

async fn at(url: &str, endpoint: &str) -> World {
    let setup = Setup::new().await;
    setup.file("ca.pem", &ca().pem);
    let endpoint = endpoint.replace("{h2}", url);
    setup.issuer(&format!("{endpoint}\ntls = {{ ca = {{ file = \"ca.pem\" }} }}")).start().await
}

const TOKEN_URL: &str = "token_url = \"{h2}/token\"";
const ISSUER_URL: &str = "issuer_url = \"{h2}\"";
const DOCUMENT: &str = "/.well-known/openid-configuration";

#[tokio::test]
async fn an_issuer_that_requires_http1_is_asked_over_it_from_then_on() {
    let issuer = H2Issuer::start(|_| Act::Reset(Reason::HTTP_1_1_REQUIRED)).await;
    let world = world(&issuer, TOKEN_URL).await;
    world.get("/").await.expect_status(200);
    assert_eq!(issuer.seen(), ["h2 /token", "http/1.1 /token"]);
    eventually("the next token request", || async {
        world.get("/").await.expect_status(200);
        (issuer.seen().len() > 2).then_some(())
    })
    .await;
    assert_eq!(issuer.seen()[2], "http/1.1 /token");
}

#[tokio::test]
async fn discovery_learns_of_http1_too() {
    let issuer = H2Issuer::start(|_| Act::Reset(Reason::HTTP_1_1_REQUIRED)).await;
    let world = world(&issuer, ISSUER_URL).await;
    world.get("/").await.expect_status(200);
    let document = format!("http/1.1 {DOCUMENT}");
    assert_eq!(issuer.seen(), [&format!("h2 {DOCUMENT}"), &document, "http/1.1 /token"]);
}

#[tokio::test]
async fn a_request_that_was_not_processed_is_sent_once_more_on_a_new_connection() {
    for unprocessed in [Act::Reset(Reason::REFUSED_STREAM), Act::GoAway] {
        let issuer = H2Issuer::start(move |n| if n == 1 { unprocessed } else { Act::RawResponse }).await;
        let world = world(&issuer, TOKEN_URL).await;
        world.get("/").await.expect_status(200);
        let seen = issuer.seen();
        assert_eq!((seen.len(), seen[1].as_str()), (2, "h2 /token"), "{unprocessed:?}: {seen:?}");
    }
}

#[tokio::test]
async fn a_request_that_is_never_processed_is_sent_twice_and_then_waits() {
    let issuer = H2Issuer::start(|_| Act::GoAway).await;
    let world = world(&issuer, TOKEN_URL).await;
    let response = world.get("/").await;
    response.expect_problem(503, "token_unavailable");
    assert!(response.text().contains("twice did not process the request"), "{}", response.text());
    assert_eq!(issuer.seen().len(), 2);
}

#[tokio::test]
async fn any_other_reset_is_not_repeated() {
    let issuer = H2Issuer::start(|_| Act::Reset(Reason::INTERNAL_ERROR)).await;
    let world = world(&issuer, TOKEN_URL).await;
    world.get("/").await.expect_problem(503, "token_unavailable");
    assert_eq!(issuer.seen(), ["h2 /token"]);
}

/// A token as text is a token at any length, so nothing else shows that the rest is missing.
#[tokio::test]
async fn half_a_token_is_no_token() {
    let issuer = PeerServer::start(Some(localhost().server(&["h2"])), |mut peer: Peer| async move {
        peer.begin(&[]).await;
        while let Ok(asked) = peer.asked().await {
            peer.head(asked.stream, 200, &[("content-type", "text/plain")]).await;
            peer.data(asked.stream, b"half-of-a-tok", false).await;
            peer.reset(asked.stream, NO_ERROR).await;
        }
    })
    .await;
    let world = at(&issuer.url, &format!("{TOKEN_URL}\nresponse = {{ format = \"text\" }}")).await;
    let response = world.get("/").await;
    response.expect_problem(503, "token_unavailable");
    assert!(response.text().contains("in the middle of the body"), "{}", response.text());
    assert_eq!(world.upstream().count(), 0);
}
