//! Requests that two parsers could read in two ways.

use crate::support::frames::{DATA, END_HEADERS, END_STREAM, Frames, HEADERS, Outcome, RST_STREAM, block};
use crate::support::manual::Manual;
use crate::support::{Client, RawRequest, RawResponse, Setup, World, to, within};

async fn scene() -> World {
    let setup = Setup::new().await;
    setup.upstream.always(|request, _| RawResponse::ok(format!("{} {}", request.target(), request.text())));
    setup.start().await
}

async fn send(world: &World, bytes: &str) -> Client {
    let mut client = world.connect().await;
    client.wire.send(bytes).await.unwrap();
    client
}

/// The proxy refuses this with 400, and nothing reaches the upstream.
async fn expect_400(world: &World, bytes: &str) {
    let before = world.upstream().count();
    let mut client = send(world, bytes).await;
    let response = client.response().await;
    assert_eq!(response.status, 400, "{bytes:?}: {}", response.text());
    assert_eq!(world.upstream().count(), before, "{bytes:?}");
}

/// Every request at the upstream carries our token once, our framing, and no target that was smuggled.
fn expect_clean(world: &World) {
    for request in world.upstream().requests() {
        assert_eq!(request.headers("authorization"), ["Bearer token-1"], "{}", request.head.start);
        let lengths = request.headers("content-length").len();
        let encodings = request.headers("transfer-encoding").len();
        assert!(lengths + encodings <= 1, "{}", String::from_utf8_lossy(&request.head.raw));
        assert!(!request.target().contains("smuggled"), "{}", request.head.start);
    }
}

const HEAD: &str = "POST /first HTTP/1.1\r\nHost: localhost\r\n";

#[tokio::test]
async fn two_lengths_are_400() {
    let world = scene().await;
    for lines in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: \r\n",
        "Content-Length: 99999999999999999999\r\n",
    ] {
        expect_400(&world, &format!("{HEAD}{lines}\r\nhello")).await;
    }
}

#[tokio::test]
async fn transfer_encoding_with_a_length_loses_the_length_and_the_connection() {
    let world = scene().await;
    for lines in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 35\r\n",
    ] {
        let smuggled = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let mut client = send(&world, &format!("{HEAD}{lines}\r\n0\r\n\r\n{smuggled}")).await;
        let response = client.response().await;
        assert!([200, 400].contains(&response.status), "{}", response.head.start);
        assert!(client.response_or_end().await.is_none(), "the connection goes on after {lines:?}");
    }
    expect_clean(&world);
}

#[tokio::test]
async fn strange_transfer_encodings_are_refused() {
    let world = scene().await;
    for lines in [
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding\u{b}: chunked\r\n",
        " Transfer-Encoding: chunked\r\n",
    ] {
        expect_400(&world, &format!("{HEAD}{lines}\r\n0\r\n\r\n")).await;
    }
}

#[tokio::test]
async fn broken_chunks_never_complete_a_request() {
    let world = scene().await;
    for body in [
        "5\r\nhelloX\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5 \n\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "zz\r\nhello\r\n0\r\n\r\n",
    ] {
        let mut client = send(&world, &format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{body}")).await;
        if let Some(response) = client.response_or_end().await {
            assert!(response.status >= 400, "{body:?}: {}", response.head.start);
        }
    }
    // A scripted upstream records whole messages alone.
    assert_eq!(world.upstream().count(), 0);
}

#[tokio::test]
async fn http10_with_transfer_encoding_is_400() {
    let world = scene().await;
    let head = "POST / HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n";
    expect_400(&world, &format!("{head}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")).await;
}

#[tokio::test]
async fn host_is_wanted_once_and_well_formed() {
    let world = scene().await;
    for lines in [
        "",
        "Host: localhost\r\nHost: localhost\r\n",
        "Host: localhost\r\nHost: evil.test\r\n",
        "Host: localhost, evil.test\r\n",
        "Host: local host\r\n",
        "Host: user@localhost\r\n",
        "Host: localhost/x\r\n",
        "Host: localhost:port\r\n",
        "Host: localhost:99999\r\n",
        "Host: [::1\r\n",
    ] {
        expect_400(&world, &format!("GET / HTTP/1.1\r\n{lines}\r\n")).await;
    }
    let response = world.exchange(RawRequest::get("/").host("")).await;
    assert!([400, 421].contains(&response.status), "{}", response.head.start);
    assert_eq!(world.upstream().count(), 0);
}

#[tokio::test]
async fn absolute_form_that_differs_from_host_is_refused() {
    let world = scene().await;
    for target in ["http://evil.test/", "http://localhost@evil.test/", "https://evil.test:443/x"] {
        let response = world.exchange(RawRequest::get(target).host("localhost")).await;
        assert!([400, 421].contains(&response.status), "{target}: {}", response.head.start);
        let response = world.exchange(RawRequest::get(target).host("evil.test")).await;
        assert!([400, 421].contains(&response.status), "{target}: {}", response.head.start);
    }
    assert_eq!(world.upstream().count(), 0);
}

#[tokio::test]
async fn upstream_is_the_configs_alone() {
    let world = scene().await;
    for call in [
        RawRequest::get("/").header("X-Forwarded-Host", "evil.test"),
        RawRequest::get("//evil.test/"),
        RawRequest::get("/@evil.test"),
        RawRequest::get("/http://evil.test/"),
        RawRequest::get("/").header("X-Original-URL", "/admin").header("X-Rewrite-URL", "/admin"),
    ] {
        world.exchange(call).await.expect_status(200);
        let own = world.upstream().address.unwrap().to_string();
        assert_eq!(world.upstream().last().headers("host"), [own]);
    }
}

#[tokio::test]
async fn folded_and_bare_lines_are_refused() {
    let world = scene().await;
    for lines in [
        "X-A: 1\r\n folded\r\n",
        "X-A: 1\r\n\tfolded\r\n",
        "X-A: a\rb\r\n",
        "X-A: a\0b\r\n",
        "X A: 1\r\n",
        ": 1\r\n",
        "X-A\r\n",
        "X-A : 1\r\n",
    ] {
        expect_400(&world, &format!("GET / HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n")).await;
    }
}

#[tokio::test]
async fn strange_request_lines_are_refused() {
    let world = scene().await;
    for line in [
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET /a b HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "G@T / HTTP/1.1",
        "GET relative HTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP/2.0",
    ] {
        let mut client = send(&world, &format!("{line}\r\nHost: localhost\r\n\r\n")).await;
        if let Some(response) = client.response_or_end().await {
            assert!(response.status >= 400, "{line:?}: {}", response.head.start);
        }
    }
    assert_eq!(world.upstream().count(), 0);
}

#[tokio::test]
async fn unread_body_never_becomes_the_next_request() {
    let world = scene().await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";
    // Refused before its body is read.
    let refused = RawRequest::post("/../x", smuggled).bytes("localhost");
    let mut client = world.connect().await;
    client.wire.send(refused).await.unwrap();
    client.response().await.expect_status(400);
    // Either the connection is over, or it is in step.
    let _sent = client.wire.send(RawRequest::get("/first").bytes("localhost")).await;
    if let Some(next) = client.response_or_end().await {
        assert_eq!(next.text(), "/first ");
    }
    // GET with a body.
    let mut client = world.connect().await;
    let response = client.exchange(&RawRequest::get("/first").body(smuggled)).await;
    assert!(response.status == 200 || response.status == 400, "{}", response.head.start);
    expect_clean(&world);
}

#[tokio::test]
async fn body_that_the_upstream_left_unread_does_not_poison_its_connection() {
    let setup = Setup::new().await;
    let early = RawResponse::raw(
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
    );
    setup.upstream.next(early);
    let world = setup.start().await;
    assert_eq!(world.get("/first").await.text(), "ok");
    for _ in 0..3 {
        assert_eq!(
            world.get("/next").await.text(),
            "ok",
            "bytes of an old response were taken for a new one"
        );
    }
}

#[tokio::test]
async fn response_with_both_framings_is_reframed() {
    let setup = Setup::new().await;
    let bytes =
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    setup.upstream.always_this(RawResponse::raw(bytes).then_close());
    let world = setup.start().await;
    let response = world.get("/").await;
    if response.status == 200 {
        assert_eq!(response.text(), "hello");
        assert_eq!(response.headers("content-length").len() + response.headers("transfer-encoding").len(), 1);
    } else {
        response.expect_problem(502, "upstream_invalid");
    }
}

#[tokio::test]
async fn one_request_in_is_one_request_out() {
    let world = scene().await;
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..200 {
        let address = world.address("main");
        calls.spawn(async move {
            let mut client = Client::tcp(address).await;
            let call = RawRequest::post(&format!("/{n}"), format!("body-{n}"));
            if n % 7 == 0 {
                // Leaves in the middle.
                let bytes = call.bytes("localhost");
                client.wire.send(&bytes[..bytes.len() - 2]).await.unwrap();
                return;
            }
            assert_eq!(client.exchange(&call).await.text(), format!("/{n} body-{n}"));
        });
    }
    calls.join_all().await;
    for request in world.upstream().requests() {
        assert_eq!(request.text(), format!("body-{}", &request.target()[1..]));
    }
}

const GOOD: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "http"), (":path", "/first"), (":authority", "localhost")];

#[tokio::test]
async fn raw_frames_of_a_good_request_work() {
    let world = scene().await;
    let mut frames = Frames::connect(world.address("main")).await;
    frames.request(1, &GOOD, Some(b"hello")).await;
    let outcome = frames.outcome(1).await;
    assert!(outcome.is_ok(), "{outcome:?}");
}

#[tokio::test]
async fn http2_fields_that_http1_would_read_otherwise_are_refused() {
    let world = scene().await;
    for field in [
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("upgrade", "websocket"),
        ("X-Upper", "1"),
        ("x:colon", "1"),
        ("x space", "1"),
        ("x-crlf", "1\r\nx: y"),
        ("x-lf", "1\nx: y"),
        ("x-nul", "1\0"),
        ("x\r\ny", "1"),
        ("te", "gzip"),
        (":status", "200"),
        (":path", "/again"),
    ] {
        let mut frames = Frames::connect(world.address("main")).await;
        frames.request(1, &[&GOOD[..], &[field]].concat(), None).await;
        let outcome = frames.outcome(1).await;
        assert!(outcome.is_refusal(), "{field:?}: {outcome:?}");
    }
    assert_eq!(world.upstream().count(), 0);
}

#[tokio::test]
async fn http2_requests_that_make_no_sense_are_refused() {
    let world = scene().await;
    let requests: [&[(&str, &str)]; 8] = [
        &[(":method", "GET"), (":scheme", "http"), (":path", ""), (":authority", "localhost")],
        &[(":method", "GET"), (":scheme", "http"), (":path", "x"), (":authority", "localhost")],
        &[(":method", "GET"), (":scheme", "http"), (":path", "/a b"), (":authority", "localhost")],
        &[(":method", "G T"), (":scheme", "http"), (":path", "/"), (":authority", "localhost")],
        &[(":method", "GET"), (":scheme", "http"), (":path", "/a/../b"), (":authority", "localhost")],
        &[(":scheme", "http"), (":path", "/"), (":authority", "localhost")],
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "localhost"),
            ("host", "evil.test"),
        ],
        &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "user@localhost")],
    ];
    for fields in requests {
        let mut frames = Frames::connect(world.address("main")).await;
        frames.request(1, fields, None).await;
        let outcome = frames.outcome(1).await;
        assert!(outcome.is_refusal(), "{fields:?}: {outcome:?}");
    }
    assert_eq!(world.upstream().count(), 0);
}

#[tokio::test]
async fn http2_body_that_differs_from_its_length_never_completes_a_request() {
    let world = scene().await;
    for length in ["3", "9"] {
        let mut frames = Frames::connect(world.address("main")).await;
        frames.request(1, &[&GOOD[..], &[("content-length", length)]].concat(), Some(b"hello")).await;
        let outcome = frames.outcome(1).await;
        assert!(!outcome.is_ok(), "{length}: {outcome:?}");
        assert_ne!(outcome, Outcome::Headers(vec![0x88]));
    }
    assert_eq!(world.upstream().count(), 0);
}

/// An upload that its caller takes back in the middle, by a reset without error, is not whole for the upstream.
#[tokio::test]
async fn http2_body_that_is_reset_does_not_end() {
    let upstream = Manual::start().await;
    let world = to(&upstream.url, "").await;
    let mut frames = Frames::connect(world.address("main")).await;
    let fields = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "localhost")];
    frames.begin_request(1, &fields).await;
    frames.frame(DATA, 0, 1, b"half").await;
    let mut wire = upstream.accept().await;
    let head = within("the request", wire.head()).await.unwrap().unwrap();
    let half = within("half of the body", wire.chunk(&mut Vec::new())).await.unwrap();
    assert_eq!(half, b"half");
    const NO_ERROR: [u8; 4] = [0; 4];
    frames.frame(RST_STREAM, 0, 1, &NO_ERROR).await;
    let rest = within("the end of the body", wire.body(&head, true)).await;
    assert!(rest.is_err(), "the upstream takes a part for the whole");
}

const POST: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "localhost")];

/// RFC 9113 section 8.2.1: malformed. An HTTP/1.1 upstream would read `acme`, and bearerd ` acme`, so the route of others would
/// serve it.
#[tokio::test]
async fn http2_values_with_white_space_around_them_are_400() {
    let setup = Setup::new().await;
    let more = "[[route]]\nname = \"acme\"\npath_prefix = \"/\"\nmatch_headers = { x-tenant = \"acme\" }\nanonymous = true\n\
                upstream = \"{upstream}/acme\"\n";
    let world = setup.more(more).start().await;
    for (value, fine) in [
        ("acme", true),
        ("a cme", true),
        ("", true),
        (" acme", false),
        ("acme ", false),
        ("\tacme", false),
        ("acme\t", false),
        (" ", false),
    ] {
        let before = world.upstream().count();
        for name in ["x-tenant", "cookie", "te"] {
            if fine && name == "te" {
                continue;
            }
            let mut frames = Frames::connect(world.address("main")).await;
            frames.request(1, &[&POST[..], &[(name, value)]].concat(), None).await;
            let outcome = frames.outcome(1).await;
            assert_eq!((outcome.is_ok(), outcome.is_refusal()), (fine, !fine), "{name}: {value:?}");
        }
        assert_eq!(world.upstream().count() > before, fine, "{value:?}");
        // Over HTTP/1.1, the white space is no part of the value.
        if value.trim() == "acme" {
            let request = RawRequest::get("/").header("x-tenant", value);
            world.exchange(request).await.expect_status(200);
            assert_eq!(world.upstream().last().target(), "/acme/", "{value:?}");
        }
    }
}

#[tokio::test]
async fn http2_trailers_with_white_space_around_them_end_the_request() {
    for (value, fine) in [("1", true), (" 1", false), ("1\t", false)] {
        let world = scene().await;
        let mut frames = Frames::connect(world.address("main")).await;
        frames.begin_request(1, &POST).await;
        frames.frame(DATA, 0, 1, b"body").await;
        frames.frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("x-sum", value)])).await;
        let outcome = frames.outcome(1).await;
        assert_eq!((outcome.is_ok(), outcome.is_refusal()), (fine, !fine), "{value:?}: {outcome:?}");
        assert_eq!(world.upstream().count(), usize::from(fine), "{value:?}");
    }
}
