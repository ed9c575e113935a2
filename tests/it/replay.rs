//! A 401 from upstream, and connections that died: rows T70 to T83.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::h2::{H2Client, whole};
use crate::support::manual::Manual;
use crate::support::{Gate, RawRequest, RawResponse, Setup, World, eventually, stays, within};

/// An upstream that takes every token but `token-1`.
async fn revoked(route: &str) -> World {
    let setup = Setup::new().await;
    setup.upstream.always(|request, _| match request.bearer() {
        Some("token-1") => RawResponse::unauthorized(),
        _ => RawResponse::ok(request.body.data.clone()),
    });
    setup.route(route).start().await
}

#[tokio::test]
async fn t70_revoked_token_is_replaced_and_the_request_replayed() {
    let world = revoked("").await;
    world.get("/x?y").await.expect_status(200);
    assert_eq!(world.issuer().count(), 2);
    let requests = world.upstream().requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[1].bearer(), Some("token-2"));
    assert_eq!(requests[1].target(), "/x?y");
    assert_eq!(world.metric("bearerd_refreshes_forced_total", &[("route", "api")]).await, Some(1.0));
    world.get("/").await.expect_status(200);
    assert_eq!(world.issuer().count(), 2);
}

#[tokio::test]
async fn t71_second_401_is_the_callers_unchanged() {
    let setup = Setup::new().await;
    setup.upstream.always_this(RawResponse::unauthorized().header("x-upstream", "1"));
    let world = setup.start().await;
    let response = world.get("/").await;
    response.expect_status(401);
    assert_eq!(response.header("www-authenticate"), Some("Bearer error=\"invalid_token\""));
    assert_eq!(response.header("x-upstream"), Some("1"));
    assert_eq!(response.text(), "who are you");
    assert_eq!(world.upstream().count(), 2);
    assert_eq!(world.issuer().count(), 2);
}

#[tokio::test]
async fn t71_token_of_a_401_is_not_dropped_by_another_401_for_ten_seconds() {
    let setup = Setup::new().await;
    setup.upstream.always_this(RawResponse::unauthorized());
    let world = setup.start().await;
    world.get("/").await.expect_status(401);
    for _ in 0..10 {
        world.get("/").await.expect_status(401);
    }
    assert_eq!(world.upstream().count(), 12, "no replay meanwhile");
    stays(Duration::from_millis(300), || world.issuer().count()).await;
    assert_eq!(world.issuer().count(), 2);
}

#[tokio::test]
async fn t72_thousand_401s_make_one_token_request() {
    let world = revoked("").await;
    world.ready().await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let client = H2Client::plain(world.address("main")).await;
        for _ in 0..100 {
            let mut client = client.clone();
            calls.spawn(async move { client.get("/").await.status });
        }
    }
    assert!(calls.join_all().await.iter().all(|status| *status == 200));
    assert_eq!(world.issuer().count(), 2);
    let forced = world.metric("bearerd_refreshes_forced_total", &[("route", "api")]).await;
    assert_eq!(forced, Some(1.0), "tokens are counted, not calls");
    let replayed = world.upstream().requests().iter().filter(|call| call.bearer() == Some("token-2")).count();
    assert_eq!(replayed, 1000);
}

#[tokio::test]
async fn t72_late_401_of_an_old_token_does_not_drop_the_new_one() {
    let setup = Setup::new().await;
    let gate = Gate::new();
    let late = gate.clone();
    setup.upstream.always(move |request, _| match (request.target(), request.bearer()) {
        ("/late", Some("token-1")) => RawResponse::unauthorized().gated(&late),
        (_, Some("token-1")) => RawResponse::unauthorized(),
        _ => RawResponse::ok("ok"),
    });
    let world = setup.start().await;
    let mut waiting = world.connect().await;
    waiting.send(&RawRequest::get("/late")).await;
    world.upstream().request(1).await;
    world.get("/").await.expect_status(200);
    gate.open();
    waiting.response().await.expect_status(200);
    assert_eq!(world.issuer().count(), 2);
    assert_eq!(world.upstream().last().bearer(), Some("token-2"));
}

#[tokio::test]
async fn t73_body_beyond_the_replay_limit_is_not_replayed() {
    let world = revoked("replay_limit = \"1KiB\"").await;
    let response = world.exchange(RawRequest::post("/", "x".repeat(1025))).await;
    response.expect_status(401);
    assert_eq!(world.upstream().count(), 1);
    // The token was dropped nonetheless, so the next request works.
    eventually("a served call", || async { (world.get("/").await.status == 200).then_some(()) }).await;
    assert_eq!(world.issuer().count(), 2);
}

#[tokio::test]
async fn t74_body_up_to_the_replay_limit_is_replayed_whatever_the_method() {
    let world = revoked("replay_limit = \"1KiB\"").await;
    let response = world.exchange(RawRequest::post("/", "x".repeat(1024))).await;
    response.expect_status(200);
    assert_eq!(response.text(), "x".repeat(1024));
    for method in ["PATCH", "PUT", "DELETE"] {
        let world = revoked("").await;
        let response = world.exchange(RawRequest::new(method, "/").body("hello")).await;
        response.expect_status(200);
        assert_eq!(response.text(), "hello", "{method}");
        assert_eq!(world.upstream().count(), 2);
    }
}

#[tokio::test]
async fn t74_chunked_body_is_replayed_with_its_trailers() {
    let world = revoked("").await;
    let mut client = world.connect().await;
    let call = RawRequest::new("POST", "/").header("Transfer-Encoding", "chunked").header("Trailer", "x-sum");
    client.send(&call).await;
    client.wire.send("5\r\nhello\r\n6\r\n world\r\n0\r\nx-sum: 1\r\n\r\n").await.unwrap();
    let response = client.response().await;
    response.expect_status(200);
    assert_eq!(response.text(), "hello world");
    let last = world.upstream().last();
    assert_eq!(last.body.trailers, [("x-sum".to_owned(), "1".to_owned())]);
}

#[tokio::test]
async fn replay_limit_zero_turns_replay_off() {
    let world = revoked("replay_limit = \"0B\"").await;
    world.exchange(RawRequest::post("/", "x")).await.expect_status(401);
    assert_eq!(world.upstream().count(), 1);
}

#[tokio::test]
async fn body_is_forwarded_as_it_arrives_and_never_held_back() {
    let upstream = Manual::start().await;
    let world = Setup::new().await.route(&format!("upstream = \"{}\"", upstream.url)).start().await;
    let mut client = world.connect().await;
    client.send(&RawRequest::new("POST", "/").header("Content-Length", "10")).await;
    client.wire.send("hello").await.unwrap();
    let mut wire = upstream.accept().await;
    within("the head", wire.head()).await.unwrap().unwrap();
    let first = within("the first half", wire.exact(5)).await.unwrap();
    assert_eq!(first, b"hello");
    client.wire.send("world").await.unwrap();
    assert_eq!(wire.exact(5).await.unwrap(), b"world");
}

#[tokio::test]
async fn answer_before_the_body_ended_reaches_the_caller() {
    let upstream = Manual::start().await;
    let world = Setup::new().await.route(&format!("upstream = \"{}\"", upstream.url)).start().await;
    let mut client = world.connect().await;
    client.send(&RawRequest::new("POST", "/").header("Content-Length", "1000000")).await;
    let mut wire = upstream.accept().await;
    within("the head", wire.head()).await.unwrap().unwrap();
    wire.send("HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
    let response = client.response().await;
    response.expect_status(413);
    assert_eq!(response.text(), "no");
}

#[tokio::test]
async fn t73_401_while_the_body_still_comes_is_passed_and_the_next_request_has_a_new_token() {
    let upstream = Manual::start().await;
    let world = Setup::new().await.route(&format!("upstream = \"{}\"", upstream.url)).start().await;
    let mut client = world.connect().await;
    client.send(&RawRequest::new("POST", "/").header("Content-Length", "100")).await;
    client.wire.send("half").await.unwrap();
    let mut wire = upstream.accept().await;
    within("the head", wire.head()).await.unwrap().unwrap();
    wire.exact(4).await.unwrap();
    wire.send("HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
    client.response().await.expect_status(401);
    let mut next = world.connect().await;
    next.send(&RawRequest::get("/")).await;
    let mut wire = upstream.accept().await;
    let head = within("the next head", wire.head()).await.unwrap().unwrap();
    assert_eq!(head.header("authorization"), Some("Bearer token-2"));
}

#[tokio::test]
async fn t75_failed_fetch_hands_out_the_upstreams_401() {
    let setup = Setup::new().await;
    setup.issuer.next(RawResponse::token("token-1"));
    setup.issuer.always_this(RawResponse::status(500));
    setup.upstream.always_this(RawResponse::unauthorized());
    let world = setup.start().await;
    let response = world.get("/").await;
    response.expect_status(401);
    assert_eq!(response.text(), "who are you");
    assert_eq!(world.upstream().count(), 1);
}

#[tokio::test]
async fn t76_403_is_passed_and_touches_no_token() {
    let setup = Setup::new().await;
    let challenge = "Bearer error=\"insufficient_scope\"";
    setup.upstream.always_this(RawResponse::status(403).header("www-authenticate", challenge));
    let world = setup.start().await;
    let response = world.get("/").await;
    response.expect_status(403);
    assert_eq!(response.header("www-authenticate"), Some(challenge));
    assert_eq!((world.upstream().count(), world.issuer().count()), (1, 1));
}

#[tokio::test]
async fn refresh_on_names_the_statuses() {
    let setup = Setup::new().await;
    setup.upstream.always(|request, _| match request.bearer() {
        Some("token-1") => RawResponse::status(419),
        _ => RawResponse::ok("ok"),
    });
    let world = setup.route("refresh_on = [401, 419]").start().await;
    world.get("/").await.expect_status(200);
    assert_eq!(world.issuer().count(), 2);
    let setup = Setup::new().await;
    setup.upstream.always_this(RawResponse::unauthorized());
    let world = setup.route("refresh_on = []").start().await;
    world.get("/").await.expect_status(401);
    assert_eq!((world.upstream().count(), world.issuer().count()), (1, 1));
}

#[tokio::test]
async fn status_other_than_401_may_mean_a_new_token_too() {
    for status in [403, 404] {
        let setup = Setup::new().await;
        setup.upstream.always(move |request, _| match request.bearer() {
            Some("token-1") => RawResponse::status(status).body("gone"),
            _ => RawResponse::ok(request.body.data.clone()),
        });
        let world = setup.route(&format!("refresh_on = [401, {status}]")).start().await;
        let response = world.exchange(RawRequest::post("/x", "kept")).await;
        response.expect_status(200);
        assert_eq!(response.text(), "kept");
        assert_eq!((world.upstream().count(), world.issuer().count()), (2, 2));

        world.upstream().always_this(RawResponse::status(status).body("gone"));
        let response = world.get("/x").await;
        response.expect_status(status);
        assert_eq!(response.text(), "gone", "a true 404 is the caller's");
        assert_eq!((world.upstream().count(), world.issuer().count()), (3, 2));
    }
}

#[tokio::test]
async fn t78_401_after_interim_responses_is_replayed() {
    let setup = Setup::new().await;
    let bytes =
        "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 401 No\r\ncontent-length: 2\r\n\r\nno";
    setup.upstream.next(RawResponse::raw(bytes));
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    assert_eq!(world.upstream().count(), 2);
}

#[tokio::test]
async fn t80_grpc_status_16_is_passed_and_touches_no_token() {
    let setup = Setup::new().await;
    let answer =
        RawResponse::status(200).header("content-type", "application/grpc").header("grpc-status", "16");
    setup.upstream.always_this(answer);
    let world = setup.start().await;
    let mut client = H2Client::plain(world.address("main")).await;
    let request = client.request("POST", "/p.S/M").header("content-type", "application/grpc");
    let response = client.exchange(request.body(whole("")).unwrap()).await;
    assert_eq!(response.header("grpc-status"), Some("16"));
    assert_eq!((world.upstream().count(), world.issuer().count()), (1, 1));
}

/// The upstream closes the kept connection when the second request comes on it, without a byte.
async fn dying_connection() -> World {
    let setup = Setup::new().await;
    let seen = std::sync::Mutex::new(BTreeMap::<usize, usize>::new());
    setup.upstream.always(move |request, _| {
        let mut seen = seen.lock().unwrap();
        let count = seen.entry(request.connection).or_default();
        *count += 1;
        if request.connection == 0 && *count == 2 { RawResponse::drop() } else { RawResponse::ok("ok") }
    });
    let world = setup.start().await;
    world.get("/first").await.expect_status(200);
    world
}

#[tokio::test]
async fn t82_idempotent_request_is_sent_once_more_when_its_pooled_connection_died() {
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        let world = dying_connection().await;
        let call = RawRequest::new(method, "/second");
        let call = if method == "PUT" { call.body("kept") } else { call };
        world.exchange(call).await.expect_status(200);
        let requests = world.upstream().requests();
        assert_eq!(requests.len(), 3, "{method}");
        assert_eq!(requests[2].connection, 1);
        assert_eq!(requests[2].body.data, requests[1].body.data);
        assert_eq!(world.issuer().count(), 1);
    }
}

/// The connection dies late, and meanwhile the token has expired: a second one would carry it all the same.
#[tokio::test]
async fn an_expired_token_is_not_sent_once_more() {
    let setup = Setup::new().await;
    setup.issuer.always(|_, n| RawResponse::token_for(&format!("token-{n}"), 2));
    setup.upstream.next(RawResponse::ok("ok"));
    setup.upstream.next(RawResponse::drop().delayed(Duration::from_secs(3)));
    let world = setup.start().await;
    world.get("/first").await.expect_status(200);
    world.get("/second").await.expect_status(502);
    assert_eq!(world.upstream().count(), 2);
}

#[tokio::test]
async fn t82_other_methods_are_not_sent_twice() {
    let world = dying_connection().await;
    let response = world.exchange(RawRequest::post("/second", "pay")).await;
    assert_eq!(response.status, 502, "{}", response.text());
    assert_eq!(world.upstream().count(), 2);
}

#[tokio::test]
async fn t82_connection_closed_while_idle_is_replaced_for_any_method() {
    let setup = Setup::new().await;
    setup.upstream.next(RawResponse::ok("ok").then_close());
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    eventually("the close", || async { (world.upstream().closed() == 1).then_some(()) }).await;
    world.exchange(RawRequest::post("/", "pay")).await.expect_status(200);
    assert_eq!(world.upstream().count(), 2);
}
