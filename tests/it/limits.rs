//! Limits, and what happens at them.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;

use crate::support::frames::{Frames, Outcome, PREFACE, SETTINGS, frame, request};
use crate::support::h2::H2Client;
use crate::support::manual::Manual;
use crate::support::{RawRequest, RawResponse, Setup, World, eventually, let_pass, within};

async fn scene(limits: &str) -> World {
    Setup::new().await.limits(limits).start().await
}

#[tokio::test]
async fn too_many_headers_are_431_without_a_body() {
    let world = scene("header_count = 10").await;
    let call =
        |count: usize| (0..count).fold(RawRequest::get("/"), |call, n| call.header(&format!("x-{n}"), "1"));
    world.exchange(call(9)).await.expect_status(200);
    let response = world.exchange(call(10)).await;
    assert_eq!((response.status, response.text().as_str()), (431, ""));
    assert_eq!(world.upstream().count(), 1);
}

#[tokio::test]
async fn default_header_count_is_100() {
    let world = scene("").await;
    let call =
        |count: usize| (0..count).fold(RawRequest::get("/"), |call, n| call.header(&format!("x-{n}"), "1"));
    world.exchange(call(90)).await.expect_status(200);
    world.exchange(call(101)).await.expect_status(431);
}

#[tokio::test]
async fn too_long_a_header_section_is_431() {
    let world = scene("header_bytes = \"16KiB\"").await;
    world.exchange(RawRequest::get("/").header("x-long", &"a".repeat(10_000))).await.expect_status(200);
    let response = world.exchange(RawRequest::get("/").header("x-long", &"a".repeat(20_000))).await;
    assert_eq!((response.status, response.text().as_str()), (431, ""));
}

#[tokio::test]
async fn too_long_a_target_is_414_or_431() {
    let world = scene("").await;
    let mut client = world.connect().await;
    let _sent =
        client.wire.send(RawRequest::get(&format!("/{}", "a".repeat(100_000))).bytes("localhost")).await;
    if let Some(response) = client.response_or_end().await {
        assert!([414, 431].contains(&response.status), "{}", response.head.start);
        assert_eq!(response.text(), "");
    }
    assert_eq!(world.upstream().count(), 0);
}

#[tokio::test]
async fn header_limits_hold_over_http2() {
    let world = scene("header_bytes = \"16KiB\"").await;
    let mut client = H2Client::plain(world.address("main")).await;
    let request = client.request("GET", "/").header("x-long", "a".repeat(64_000));
    let refused = client.try_exchange(request.body(crate::support::h2::whole("")).unwrap()).await;
    assert!(refused.is_err() || refused.is_ok_and(|response| response.status == 431));
    assert_eq!(world.upstream().count(), 0);
    let mut client = H2Client::plain(world.address("main")).await;
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test]
async fn http2_refusals_are_logged_with_their_reason_and_counted() {
    let world = scene("header_count = 10").await;
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "localhost")];
    let with = |name, count| [&fields[..], &vec![(name, "1"); count]].concat();
    let mut frames = Frames::connect(world.address("main")).await;
    frames.request(1, &with("x-a", 10), None).await;
    assert!(frames.outcome(1).await.is_ok());
    frames.request(3, &with("x-a", 11), None).await;
    assert!(matches!(frames.outcome(3).await, Outcome::Headers(_)));
    // A name in upper case ends the connection.
    frames.request(5, &with("X-A", 1), None).await;
    assert!(matches!(frames.outcome(5).await, Outcome::GoAway(_)));
    assert_eq!(world.upstream().count(), 1);
    for reason in ["head_too_large", "http2_protocol"] {
        let labels = [("listener", "main"), ("reason", reason)];
        eventually("the count", || async {
            (world.metric("bearerd_requests_refused_total", &labels).await == Some(1.0)).then_some(())
        })
        .await;
        let told = |line: &str| line.contains("caller.request_refused") && line.contains(reason);
        world.log().wait("the line", told).await;
    }
}

#[tokio::test]
async fn streams_that_are_reset_at_once_end_their_connection_alone() {
    let world = scene("").await;
    let mut frames = Frames::connect(world.address("main")).await;
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "localhost")];
    for stream in (1..20_000).step_by(2) {
        frames.request(stream, &fields, None).await;
        frames.reset(stream).await;
    }
    let outcome = frames.outcome(u32::MAX).await;
    assert!(matches!(outcome, Outcome::GoAway(_) | Outcome::Closed), "{outcome:?}");
    world.get("/").await.expect_status(200);
    assert_eq!(H2Client::plain(world.address("main")).await.get("/").await.status, 200);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_overloaded_and_room_comes_back() {
    let world = scene("connections = 2").await;
    let mut first = world.connect().await;
    let mut second = world.connect().await;
    first.exchange(&RawRequest::get("/")).await.expect_status(200);
    second.exchange(&RawRequest::get("/")).await.expect_status(200);
    let mut third = world.connect().await;
    let _sent = third.wire.send(RawRequest::get("/").bytes("localhost")).await;
    if let Some(response) = third.response_or_end().await {
        response.expect_problem(503, "overloaded");
    }
    drop(first);
    eventually("room for a request", || async {
        let mut client = world.connect().await;
        let _sent = client.wire.send(RawRequest::get("/").bytes("localhost")).await;
        client.response_or_end().await.filter(|response| response.status == 200)
    })
    .await;
    second.exchange(&RawRequest::get("/")).await.expect_status(200);
}

/// One connection carries a hundred of them.
#[tokio::test]
async fn requests_over_http2_are_bounded_too() {
    let setup = Setup::new().await.limits("connections = 20").issuer("timeout = \"5m\"");
    setup.issuer.always_this(RawResponse::hang());
    let world = setup.start().await;
    let mut crowd = Vec::new();
    for n in 1..=10 {
        let mut stream = tokio::net::TcpStream::connect(world.address("main")).await.unwrap();
        let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        (0..100).for_each(|n| bytes.extend(request(2 * n + 1, "GET", "/", true)));
        stream.write_all(&bytes).await.unwrap();
        crowd.push(stream);
        eventually("all of them to wait", || async {
            let waiting = world.metric("bearerd_token_waiters", &[("issuer", "corp")]).await;
            (waiting == Some(100.0 * f64::from(n))).then_some(())
        })
        .await;
    }
    let mut client = H2Client::plain(world.address("main")).await;
    let refused = client.get("/").await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert!(refused.text().contains("\"code\":\"overloaded\""), "{}", refused.text());
    crowd.pop();
    eventually("room", || async {
        let mut client = client.clone();
        let answer = tokio::time::timeout(Duration::from_millis(200), client.get("/")).await;
        // Now it waits for the token as well.
        answer.is_err().then_some(())
    })
    .await;
}

#[tokio::test]
async fn connections_are_counted_by_listener() {
    let world = scene("").await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut client = world.connect().await;
        client.exchange(&RawRequest::get("/")).await.expect_status(200);
        open.push(client);
    }
    assert_eq!(world.metric("bearerd_connections", &[("listener", "main")]).await, Some(3.0));
    open.clear();
    eventually("no connection", || async {
        (world.metric("bearerd_connections", &[("listener", "main")]).await == Some(0.0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn slow_head_is_cut_off() {
    let world = scene("header_timeout = \"1s\"").await;
    for start in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: localhost\r\nx-slow: 1\r\n"] {
        let started = Instant::now();
        let mut client = world.connect().await;
        client.wire.send(start).await.unwrap();
        if let Some(response) = client.response_or_end().await {
            assert_eq!(response.status, 408, "{}", response.head.start);
        }
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(8), "{took:?}");
    }
    world.get("/").await.expect_status(200);
}

#[tokio::test]
async fn dripping_head_is_cut_off_as_a_whole() {
    let world = scene("header_timeout = \"700ms\"").await;
    let mut client = world.connect().await;
    let started = Instant::now();
    client.wire.send("GET / HTTP/1.1\r\nHost: localhost\r\n").await.unwrap();
    while started.elapsed() < Duration::from_secs(9) {
        if client.wire.send("x: y\r\n").await.is_err() {
            return;
        }
        let_pass(Duration::from_millis(100)).await;
    }
    panic!("the proxy read a head for {:?}", started.elapsed());
}

#[tokio::test]
async fn idle_kept_connection_is_closed() {
    let world = scene("keep_alive = \"1s\"").await;
    let mut client = world.connect().await;
    let started = Instant::now();
    client.exchange(&RawRequest::get("/")).await.expect_status(200);
    assert!(within("the end of the idle connection", client.wire.closed()).await);
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(8), "{took:?}");
}

#[tokio::test]
async fn keep_alive_does_not_end_a_request_that_takes_longer() {
    let upstream = Manual::start().await;
    let world = Setup::new()
        .await
        .limits("keep_alive = \"1s\"\nheader_timeout = \"1s\"")
        .route(&format!("upstream = \"{}\"", upstream.url))
        .start()
        .await;
    let mut client = world.connect().await;
    client.send(&RawRequest::get("/")).await;
    let mut wire = upstream.accept().await;
    within("the request", wire.head()).await.unwrap().unwrap();
    let_pass(Duration::from_millis(2500)).await;
    wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    client.response().await.expect_status(200);
}

#[tokio::test]
async fn body_that_stalls_is_given_up_after_idle_timeout() {
    let upstream = Manual::start().await;
    let route = format!("upstream = \"{}\"\nidle_timeout = \"400ms\"", upstream.url);
    let world = Setup::new().await.route(&route).start().await;
    let mut client = world.connect().await;
    client.send(&RawRequest::new("POST", "/").header("Content-Length", "100")).await;
    client.wire.send("half").await.unwrap();
    let mut wire = upstream.accept().await;
    within("the head", wire.head()).await.unwrap().unwrap();
    assert_eq!(wire.exact(4).await.unwrap(), b"half");
    assert!(within("the upstream's connection to end", wire.closed()).await);
    let response = client.response_or_end().await;
    assert!(response.is_none_or(|response| response.status >= 400));
}

#[tokio::test]
async fn body_that_moves_slowly_is_not_given_up() {
    let world = Setup::new().await.route("idle_timeout = \"2s\"\nresponse_timeout = \"2s\"").start().await;
    let mut client = world.connect().await;
    client.send(&RawRequest::new("POST", "/").header("Content-Length", "12")).await;
    for _ in 0..12 {
        client.wire.send("x").await.unwrap();
        let_pass(Duration::from_millis(250)).await;
    }
    client.response().await.expect_status(200);
}

#[tokio::test]
async fn gigabyte_is_streamed_up_and_down_in_bounded_memory() {
    const TOTAL: usize = 1 << 30;
    let upstream = Manual::start().await;
    let world = Setup::new().await.route(&format!("upstream = \"{}\"", upstream.url)).start().await;
    let mut client = world.connect().await;
    let before = world.memory();
    client.send(&RawRequest::new("POST", "/").header("Content-Length", &TOTAL.to_string())).await;
    let mut wire = upstream.accept().await;
    within("the head", wire.head()).await.unwrap().unwrap();
    let block = vec![b'x'; 1 << 20];
    let send = async {
        for _ in 0..TOTAL / block.len() {
            client.wire.send(&block).await.unwrap();
        }
    };
    let receive = async {
        let mut left = TOTAL;
        while left > 0 {
            left -= wire.some().await.unwrap().len();
        }
    };
    tokio::join!(send, receive);
    let up = world.memory().saturating_sub(before);
    wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {TOTAL}\r\n\r\n")).await.unwrap();
    client.head().await;
    let send = async {
        for _ in 0..TOTAL / block.len() {
            wire.send(&block).await.unwrap();
        }
    };
    let receive = async {
        let mut left = TOTAL;
        while left > 0 {
            left -= client.wire.some().await.unwrap().len();
        }
    };
    tokio::join!(send, receive);
    let down = world.memory().saturating_sub(before);
    assert!(up < 16 * 1024 && down < 16 * 1024, "{up} KiB more going up, {down} KiB coming down");
}
