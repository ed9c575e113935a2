//! What a hostile or merely odd peer does, on either side.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Frame;

use crate::support::cli::run;
use crate::support::frames::Frames;
use crate::support::h2::{EchoUpstream, H2Client, streamed, whole};
use crate::support::manual::{Manual, manual};
use crate::support::{Client, RawRequest, RawResponse, Setup, eventually, let_pass, to, within};

#[tokio::test]
async fn get_with_a_body_of_unknown_length_keeps_it() {
    let world = Setup::new().await.start().await;
    let mut client = world.connect().await;
    let head = "GET /search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.wire.send(format!("{head}5\r\nhello\r\n0\r\n\r\n")).await.unwrap();
    client.response().await.expect_status(200);
    assert_eq!(world.upstream().last().text(), "hello");

    let mut client = H2Client::plain(world.address("main")).await;
    let (frames, body) = streamed();
    frames.send(Frame::data(Bytes::from("again"))).await.unwrap();
    drop(frames);
    let request = client.request("GET", "/search").body(body).unwrap();
    assert_eq!(client.exchange(request).await.status, 200);
    assert_eq!(world.upstream().last().text(), "again");
}

#[tokio::test]
async fn switch_of_protocols_that_nobody_asked_for_is_no_response() {
    let setup = Setup::new().await;
    let bytes = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    setup.upstream.always_this(RawResponse::raw(bytes));
    let world = setup.start().await;
    world.get("/").await.expect_problem(502, "upstream_invalid");
    let mut client = H2Client::plain(world.address("main")).await;
    assert_eq!(client.get("/").await.status, 502);
}

#[tokio::test]
async fn h2c_among_other_protocols_is_not_forwarded() {
    let world = Setup::new().await.start().await;
    for protocols in ["websocket, h2c", "x,H2C", "h2c/1"] {
        let call = RawRequest::get("/").header("Connection", "Upgrade").header("Upgrade", protocols);
        world.exchange(call).await.expect_status(200);
        assert_eq!(world.upstream().last().header("upgrade"), None, "{protocols}");
    }
}

#[tokio::test]
async fn version_of_a_response_is_our_own() {
    let setup = Setup::new().await;
    setup
        .upstream
        .always_this(RawResponse::raw("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok").then_close());
    let world = setup.start().await;
    let response = world.get("/").await;
    assert_eq!((response.head.word(0), response.text().as_str()), ("HTTP/1.1", "ok"));
}

#[tokio::test]
async fn cookies_that_http2_split_are_one_line_over_http1() {
    let world = Setup::new().await.start().await;
    let mut client = H2Client::plain(world.address("main")).await;
    let request = client.request("GET", "/").header("cookie", "a=1").header("cookie", "b=2");
    assert_eq!(client.exchange(request.body(whole("")).unwrap()).await.status, 200);
    assert_eq!(world.upstream().last().headers("cookie"), ["a=1; b=2"]);
}

#[tokio::test]
async fn absolute_form_needs_a_host_line_too() {
    let world = Setup::new().await.start().await;
    let mut client = world.connect().await;
    client.wire.send("GET http://localhost/ HTTP/1.1\r\n\r\n").await.unwrap();
    client.response().await.expect_problem(400, "bad_request");
}

#[tokio::test]
async fn target_that_begins_with_its_query_gets_a_path() {
    let upstream = EchoUpstream::plain().await;
    for protocol in ["http1", "http2"] {
        let world = to(&upstream.url, &format!("protocol = \"{protocol}\"")).await;
        let mut client = world.connect().await;
        client.wire.send("GET http://localhost?x=1 HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        client.response().await.expect_status(200);
        assert_eq!(upstream.last().target, "/?x=1", "{protocol}");
    }
}

#[tokio::test]
async fn transfer_codings_beside_chunked_are_refused() {
    let world = Setup::new().await.start().await;
    for lines in [
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: , chunked\r\n",
    ] {
        let mut client = world.connect().await;
        let head = format!("POST / HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n");
        client.wire.send(format!("{head}5\r\nhello\r\n0\r\n\r\n")).await.unwrap();
        assert_eq!(client.response().await.status, 400, "{lines}");
    }
    assert_eq!(world.upstream().count(), 0);
}

#[tokio::test]
async fn coding_of_a_response_that_is_not_only_chunked_is_no_response() {
    let setup = Setup::new().await;
    let bytes = "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    setup.upstream.always_this(RawResponse::raw(bytes));
    let world = setup.start().await;
    world.get("/").await.expect_problem(502, "upstream_invalid");
}

#[tokio::test]
async fn repeated_length_of_a_response_is_said_once() {
    let setup = Setup::new().await;
    setup.upstream.next(RawResponse::raw("HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nok"));
    setup
        .upstream
        .next(RawResponse::raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok"));
    let world = setup.start().await;
    for _ in 0..2 {
        let response = world.get("/").await;
        if response.status == 200 {
            assert_eq!((response.headers("content-length"), response.text()), (vec!["2"], "ok".to_owned()));
        } else {
            response.expect_problem(502, "upstream_invalid");
        }
    }
}

#[tokio::test]
async fn forwarded_host_is_set_for_http2_requests_too() {
    let world = Setup::new().await.route("forwarded = true").start().await;
    let address = world.address("main");
    let mut client = H2Client::plain(address).await;
    let request = client.request("GET", "/").header("x-forwarded-host", "evil.test");
    assert_eq!(client.exchange(request.body(whole("")).unwrap()).await.status, 200);
    assert_eq!(world.upstream().last().headers("x-forwarded-host"), [address.to_string()]);
}

#[tokio::test]
async fn caller_that_leaves_is_not_counted_as_our_fault() {
    let (world, client, mut wire) = manual("", &RawRequest::get("/")).await;
    drop(client);
    assert!(within("the upstream's connection to end", wire.closed()).await);
    eventually("the request to be counted", || async {
        world.metric("bearerd_requests_total", &[("route", "api")]).await
    })
    .await;
    assert_eq!(world.metric("bearerd_requests_total", &[("route", "api"), ("status", "500")]).await, None);
    world
        .log()
        .wait("the request's line", |line| line.contains("bearerd::access") && line.contains("499"))
        .await;
}

#[tokio::test]
async fn http2_caller_that_resets_ends_the_upstreams_call() {
    let upstream = Manual::start().await;
    let world = to(&upstream.url, "").await;
    let client = H2Client::plain(world.address("main")).await;
    let request = client.request("GET", "/").body(whole("")).unwrap();
    let mut other = client.clone();
    let call = tokio::spawn(async move { other.open(request).await });
    let mut wire = upstream.accept().await;
    within("the request", wire.head()).await.unwrap().unwrap();
    call.abort();
    assert!(within("the upstream's connection to end", wire.closed()).await);
    drop(client);
}

#[tokio::test]
async fn request_body_may_rest_while_the_response_moves() {
    let upstream = Manual::start().await;
    let world = to(&upstream.url, "idle_timeout = \"2s\"").await;
    let mut client = H2Client::plain(world.address("main")).await;
    let (frames, body) = streamed();
    frames.send(Frame::data(Bytes::from("x"))).await.unwrap();
    let request = client.request("POST", "/").body(body).unwrap();
    let serve = async {
        let mut wire = upstream.accept().await;
        within("the head", wire.head()).await.unwrap().unwrap();
        wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        wire
    };
    let (response, mut wire) = tokio::join!(client.open(request), serve);
    let mut response = response.unwrap().into_body();
    for n in 0..10 {
        let_pass(Duration::from_millis(300)).await;
        wire.send("1\r\ny\r\n").await.unwrap();
        let frame = within("a frame", response.frame()).await.expect("the response goes on");
        assert_eq!(frame.unwrap_or_else(|error| panic!("{n}: {error}")).into_data().unwrap(), "y");
    }
    drop(frames);
}

#[tokio::test]
async fn last_words_of_an_http2_upstream_are_not_repeated() {
    let upstream = Manual::start().await;
    let setup = Setup::new().await.env("BEARERD_LOG", "trace");
    let world = setup.route(&format!("upstream = \"{}\"\nprotocol = \"http2\"", upstream.url)).start().await;
    let mut client = world.connect().await;
    client.send(&RawRequest::get("/")).await;
    let mut wire = upstream.accept().await;
    wire.exact(24).await.unwrap();
    let words = b"Bearer token-1";
    let mut frames = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    frames.extend([0, 0, 8 + u8::try_from(words.len()).unwrap(), 7, 0, 0, 0, 0, 0]);
    frames.extend([0, 0, 0, 0, 0, 0, 0, 11]);
    frames.extend(words);
    wire.send(frames).await.unwrap();
    let response = client.response().await;
    response.expect_problem(502, "upstream_invalid");
    assert!(!response.text().contains("token-1"), "{}", response.text());
    world.log().wait("the request's line", |line| line.contains("bearerd::access")).await;
    assert!(!world.log().text().contains("token-1"), "{}", world.log().text());
}

#[tokio::test]
async fn refused_http2_target_is_not_logged_with_its_query() {
    let world = Setup::new().await.env("BEARERD_LOG", "trace").start().await;
    let mut frames = Frames::connect(world.address("main")).await;
    let fields = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/a b?key=canary-1"),
        (":authority", "localhost"),
    ];
    frames.request(1, &fields, None).await;
    assert!(frames.outcome(1).await.is_refusal());
    world.get("/").await.expect_status(200);
    world.log().wait("the request's line", |line| line.contains("bearerd::access")).await;
    assert!(!world.log().text().contains("canary-1"), "{}", world.log().text());
}

#[tokio::test]
async fn http2_caller_that_never_opens_its_window_is_given_up() {
    let setup = Setup::new().await.limits("keep_alive = \"1s\"");
    setup.upstream.always_this(RawResponse::ok(vec![b'x'; 4 << 20]));
    let world = setup.route("idle_timeout = \"1s\"").start().await;
    let mut frames = Frames::connect(world.address("main")).await;
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "localhost")];
    frames.request(1, &fields, None).await;
    assert!(frames.outcome(1).await.is_ok());
    within("the connection to end", frames.end()).await;
    eventually("the upstream's connection to end", || async {
        (world.upstream().closed() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn refreshes_are_counted_by_token_not_by_request() {
    let setup = Setup::new().await;
    setup.upstream.always(|request, _| {
        if request.bearer() == Some("token-1") { RawResponse::unauthorized() } else { RawResponse::ok("ok") }
    });
    let world = setup.start().await;
    world.ready().await;
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let address = world.address("main");
        requests.spawn(async move {
            Client::tcp(address).await.exchange(&RawRequest::get("/")).await.expect_status(200)
        });
    }
    while let Some(call) = requests.join_next().await {
        call.unwrap();
    }
    assert_eq!(world.metric("bearerd_refreshes_forced_total", &[("route", "api")]).await, Some(1.0));
}

#[tokio::test]
async fn hop_by_hop_fields_in_trailers_stay_on_their_hop() {
    let setup = Setup::new().await;
    let bytes = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\n\
                 x-sum: 7\r\nconnection: x\r\nkeep-alive: 1\r\n\r\n";
    setup.upstream.always_this(RawResponse::raw(bytes));
    let world = setup.start().await;
    let mut client = H2Client::plain(world.address("main")).await;
    let response = client.get("/").await;
    let trailers = response.trailers.expect("trailers");
    assert_eq!(trailers.keys().collect::<Vec<_>>(), ["x-sum"]);
}

#[tokio::test]
async fn plain_requests_to_this_machine_do_not_leave_it_through_a_proxy() {
    for setup in [
        Setup::new().await.route("proxy = \"http://egress.example:3128\""),
        Setup::new().await.issuer("proxy = \"http://egress.example:3128\""),
    ] {
        setup.write();
        let output = run(setup.folder(), &["check"]).await;
        output.expect_code(78);
        assert!(output.all().contains("in the clear"), "{}", output.all());
    }
}
