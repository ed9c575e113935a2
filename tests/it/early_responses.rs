//! Responses that come before the request's body has: whoever sends it gets to read them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::support::frames::{DATA, END_STREAM, Frames, GOAWAY, HEADERS, RST_STREAM, WINDOW_UPDATE};
use crate::support::manual::Manual;
use crate::support::message::Head;
use crate::support::peer::{NO_ERROR, Peer, PeerServer};
use crate::support::{
    RawRequest, RawResponse, Setup, Wire, World, blocking, eventually, let_pass, to, within,
};

const MB: usize = 1_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length,
    Chunked,
    Http10,
}

/// What a caller that sends all of its body before it reads got.
struct Got {
    head: Head,
    body: String,
    /// Nothing came after the response but the end of the connection.
    closed: bool,
}

/// Blocks, as a simple client does.
fn send_all_then_read(
    address: SocketAddr,
    start: &str,
    framing: Framing,
    size: usize,
) -> std::io::Result<Got> {
    static BLOCK: [u8; 50_000] = [b'x'; 50_000];
    let patience = Some(Duration::from_secs(20));
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(patience)?;
    stream.set_write_timeout(patience)?;
    let (version, framed) = match framing {
        Framing::Length => ("1.1", format!("Content-Length: {size}")),
        Framing::Chunked => ("1.1", "Transfer-Encoding: chunked".to_owned()),
        Framing::Http10 => ("1.0", format!("Content-Length: {size}")),
    };
    let (line, fields) = start.split_once('\n').unwrap_or((start, ""));
    write!(stream, "{line} HTTP/{version}\r\nHost: localhost\r\n{fields}{framed}\r\n\r\n")?;
    for _ in 0..size / BLOCK.len() {
        if framing == Framing::Chunked {
            write!(stream, "{:x}\r\n", BLOCK.len())?;
        }
        stream.write_all(&BLOCK)?;
        if framing == Framing::Chunked {
            stream.write_all(b"\r\n")?;
        }
    }
    if framing == Framing::Chunked {
        stream.write_all(b"0\r\n\r\n")?;
    }
    read_response(&mut stream)
}

fn read_response(stream: &mut TcpStream) -> std::io::Result<Got> {
    let mut raw = Vec::new();
    let mut byte = [0];
    while !raw.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        raw.push(byte[0]);
    }
    let head = Head::parse(raw);
    let mut body = vec![0; head.header("content-length").map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body)?;
    let closed = head.has("connection", "close") && stream.read(&mut byte)? == 0;
    Ok(Got { head, body: String::from_utf8(body).unwrap(), closed })
}

/// Expects this status, the whole response, and the end where it was said.
pub async fn expect(address: SocketAddr, start: &str, framing: Framing, size: usize, status: &str) {
    let text = start.to_owned();
    let blocking = tokio::task::spawn_blocking(move || send_all_then_read(address, &text, framing, size));
    let got = match blocking.await.unwrap() {
        Ok(got) => got,
        Err(error) => panic!("{start:?} {framing:?} {size}: {error}"),
    };
    assert_eq!(got.head.word(1), status, "{start:?} {framing:?} {size}: {}", got.body);
    assert!(!got.body.is_empty());
    if got.head.has("connection", "close") {
        assert!(got.closed, "{start:?} {framing:?} {size}: what was said is done");
    }
}

const ALL: [(Framing, usize); 7] = [
    (Framing::Length, 3 * MB / 2),
    (Framing::Length, 4 * MB),
    (Framing::Length, 64 * MB),
    (Framing::Chunked, 3 * MB / 2),
    (Framing::Chunked, 4 * MB),
    (Framing::Http10, 3 * MB / 2),
    (Framing::Http10, 4 * MB),
];

#[tokio::test]
async fn our_own_refusals_are_read() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::status(503));
    let world = setup
        .route("path_prefix = \"/api\"\ncaller_authorization = \"reject\"")
        .more("[[route]]\nname = \"free\"\npath = \"/free\"\nanonymous = true\nupstream = \"http://127.0.0.1:1\"\n")
        .start()
        .await;
    let address = world.address("main");
    for (framing, size) in ALL {
        for (start, status) in [
            ("POST /nowhere", "404"),
            ("POST /api\nOrigin: https://elsewhere.example\r\n", "403"),
            ("POST /api\nAuthorization: Bearer mine\r\n", "400"),
            ("POST /api/../x", "400"),
            ("POST /api", "503"),
            ("POST /free", "502"),
        ] {
            if size < 64 * MB || status == "404" {
                expect(address, start, framing, size, status).await;
            }
        }
    }
}

/// How an upstream goes on after it has refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Closes,
    SaysCloseAndCloses,
    ReadsOn,
    StopsReading,
}

const REFUSAL: &str = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\n";

/// An upstream that refuses each request as soon as it has its head; gives its URL.
async fn refusing(then: Then) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(refuse(Wire::new(stream), then));
        }
    });
    format!("http://{address}")
}

async fn refuse(mut wire: Wire, then: Then) {
    while let Ok(Some(head)) = wire.head().await {
        let closes = if then == Then::SaysCloseAndCloses { "connection: close\r\n" } else { "" };
        wire.send(format!("{REFUSAL}{closes}\r\nbig")).await.unwrap();
        match then {
            Then::Closes | Then::SaysCloseAndCloses => return,
            Then::ReadsOn => _ = wire.body(&head, false).await,
            Then::StopsReading => std::future::pending().await,
        }
    }
}

#[tokio::test]
async fn upstreams_refusals_are_read() {
    for then in [Then::Closes, Then::SaysCloseAndCloses, Then::ReadsOn, Then::StopsReading] {
        let world = to(&refusing(then).await, "").await;
        for (framing, size) in ALL {
            // What fits into the buffers of sockets looks as if it was read.
            let large = size == 64 * MB;
            if large == (then == Then::StopsReading) || (large && then == Then::Closes) {
                expect(world.address("main"), "POST /", framing, size, "413").await;
            }
        }
        eventually("the upstream's connections to end", || async {
            let open = world.metric("bearerd_upstream_connections", &[("route", "api")]).await;
            (open == Some(0.0) || then == Then::ReadsOn).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn upstreams_refusals_over_http2_are_read() {
    for then in [Then::ReadsOn, Then::SaysCloseAndCloses, Then::StopsReading] {
        let upstream = PeerServer::plain(move |mut peer: Peer| async move {
            peer.generous = then == Then::ReadsOn;
            peer.begin(&[]).await;
            while let Ok(stream) = peer.begun().await {
                peer.head(stream, 413, &[("content-length", "3")]).await;
                peer.data(stream, b"big", true).await;
                if then == Then::SaysCloseAndCloses {
                    peer.reset(stream, NO_ERROR).await;
                }
            }
        })
        .await;
        let world = to(&upstream.url, "protocol = \"http2\"").await;
        for (framing, size) in ALL {
            // What fits into the buffers on the way is no trouble.
            if size == if then == Then::StopsReading { 64 * MB } else { 4 * MB } {
                expect(world.address("main"), "POST /", framing, size, "413").await;
            }
        }
        assert_eq!(upstream.accepted(), 1, "{then:?}: the connection serves on");
        eventually("the end of a connection of no more use", || async {
            (then != Then::StopsReading || upstream.closed() == 1).then_some(())
        })
        .await;
    }
}

/// What the parser refuses has no body; the caller's is on its way all the same, fast or slowly.
#[tokio::test]
async fn parsers_refusals_are_read() {
    let world = Setup::new().await.limits("header_timeout = \"1500ms\"").start().await;
    let address = world.address("main");
    let many = "x: y\r\n".repeat(150);
    for (line, fields, status) in
        [("POST /?\"", "", "400"), ("POST /", "Transfer-Encoding: gzip\r\n", "400"), ("POST /", &many, "431")]
    {
        for (size, pause) in [(3 * MB / 2, 0), (4 * MB, 0), (64 * MB, 0), (4 * MB, 25)] {
            let head =
                format!("{line} HTTP/1.1\r\nHost: localhost\r\n{fields}Content-Length: {size}\r\n\r\n");
            let sent = tokio::task::spawn_blocking(move || {
                let mut stream = TcpStream::connect(address)?;
                stream.set_read_timeout(Some(Duration::from_secs(20)))?;
                stream.write_all(head.as_bytes())?;
                for _ in 0..size / 50_000 {
                    stream.write_all(&[b'x'; 50_000])?;
                    blocking::let_pass(Duration::from_millis(pause));
                }
                read_response(&mut stream)
            });
            let got = sent.await.unwrap().unwrap_or_else(|error| panic!("{line} {size} {pause}: {error}"));
            assert_eq!((got.head.word(1), got.closed), (status, true), "{line} {size}");
        }
    }
}

#[tokio::test]
async fn connection_limits_refusal_is_read() {
    let world = Setup::new().await.limits("connections = 1").start().await;
    let mut first = world.connect().await;
    first.exchange(&RawRequest::get("/")).await.expect_status(200);
    for size in [3 * MB / 2, 4 * MB, 64 * MB] {
        expect(world.address("main"), "POST /", Framing::Length, size, "503").await;
    }
}

#[tokio::test]
async fn rest_of_a_small_body_is_read_and_the_connection_kept() {
    let world = Setup::new().await.route("path_prefix = \"/api\"").start().await;
    let mut client = world.connect().await;
    for size in [1, 1_000, 50_000] {
        let response = client.exchange(&RawRequest::post("/nowhere", vec![b'x'; size])).await;
        response.expect_problem(404, "no_route");
        assert_eq!(response.header("connection"), None);
        client.exchange(&RawRequest::get("/api")).await.expect_status(200);
    }
    // What follows the unread body is there already.
    for size in [1_000, 50_000] {
        let mut bytes = RawRequest::post("/nowhere", vec![b'x'; size]).bytes("localhost");
        bytes.extend(RawRequest::post("/nowhere", vec![b'y'; size]).bytes("localhost"));
        bytes.extend(RawRequest::get("/api").bytes("localhost"));
        client.wire.send(bytes).await.unwrap();
        for status in [404, 404, 200] {
            client.response().await.expect_status(status);
        }
    }
    let chunks = RawRequest::new("POST", "/nowhere").header("Transfer-Encoding", "chunked");
    client.send(&chunks).await;
    client.wire.send("5\r\nhello\r\n0\r\n\r\n").await.unwrap();
    client.response().await.expect_status(404);
}

#[tokio::test]
async fn end_that_follows_a_large_body_is_said_at_once() {
    let world = Setup::new().await.route("path_prefix = \"/api\"").start().await;
    let mut client = world.connect().await;
    client.send(&RawRequest::new("POST", "/nowhere").header("Content-Length", "100000000")).await;
    let response = client.response().await;
    response.expect_problem(404, "no_route");
    assert_eq!(response.header("connection"), Some("close"));
    drop(client);
    eventually("the connection to end", || async {
        (world.metric("bearerd_connections", &[("listener", "main")]).await == Some(0.0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn body_that_was_not_asked_for_ends_the_connection_and_that_is_said() {
    let world = Setup::new().await.route("path_prefix = \"/api\"").start().await;
    for length in ["5", "100000"] {
        let mut client = world.connect().await;
        let call = RawRequest::new("POST", "/nowhere")
            .header("Content-Length", length)
            .header("Expect", "100-continue");
        client.send(&call).await;
        let head = within("a response", client.wire.head()).await.unwrap().unwrap();
        assert_eq!((head.word(1), head.header("connection")), ("404", Some("close")));
        within("the body", client.wire.body(&head, false)).await.unwrap();
        assert!(within("the end", client.wire.closed()).await);
    }
}

#[tokio::test]
async fn upload_goes_on_after_a_complete_response() {
    let upstream = Manual::start().await;
    let world =
        Setup::new().await.limits("keep_alive = \"2s\"").route(&format!("upstream = \"{}\"", upstream.url));
    let world = world.start().await;
    let mut client = world.connect().await;
    client.send(&RawRequest::new("POST", "/").header("Transfer-Encoding", "chunked")).await;
    let mut wire = upstream.accept().await;
    within("the head", wire.head()).await.unwrap().unwrap();
    wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(client.response().await.text(), "ok");
    for n in 0..6 {
        let_pass(Duration::from_millis(500)).await;
        client.wire.send(format!("1\r\n{n}\r\n")).await.unwrap();
        let sent = within("a piece", wire.chunk(&mut Vec::new())).await.unwrap();
        assert_eq!(sent, n.to_string().as_bytes());
    }
    client.wire.send("0\r\n\r\n").await.unwrap();
    assert!(within("the end", wire.chunk(&mut Vec::new())).await.unwrap().is_empty());
    within("the trailer section", wire.until(b"\r\n")).await.unwrap();
    // Both connections serve on.
    client.send(&RawRequest::get("/second")).await;
    assert_eq!(within("the next request", wire.head()).await.unwrap().unwrap().word(1), "/second");
    wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(client.response().await.text(), "ok");
}

#[tokio::test]
async fn connection_that_still_sends_a_body_takes_no_other_request() {
    let upstream = Manual::start().await;
    let world = to(&upstream.url, "").await;
    let mut client = world.connect().await;
    client.send(&RawRequest::new("POST", "/").header("Content-Length", "2")).await;
    let mut wire = upstream.accept().await;
    within("the head", wire.head()).await.unwrap().unwrap();
    wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(client.response().await.text(), "ok");
    let mut other = world.connect().await;
    other.send(&RawRequest::get("/other")).await;
    let mut second = upstream.accept().await;
    assert_eq!(within("the head", second.head()).await.unwrap().unwrap().word(1), "/other");
    second.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(other.response().await.text(), "ok");
    client.wire.send("xy").await.unwrap();
    assert_eq!(within("the body", wire.exact(2)).await.unwrap(), b"xy");
}

#[tokio::test]
async fn upload_that_an_upstream_stopped_reading_ends_after_idle_timeout() {
    let upstream = Manual::start().await;
    let world = to(&upstream.url, "idle_timeout = \"2s\"").await;
    let address = world.address("main");
    let answer = async {
        let mut wire = upstream.accept().await;
        within("the head", wire.head()).await.unwrap().unwrap();
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        wire
    };
    let (_wire, ()) = tokio::join!(answer, expect(address, "POST /", Framing::Length, 64 * MB, "200"));
}

/// Sends a part of a body; gives what came of the stream.
async fn http2_caller(world: &World, path: &str) -> (Frames, Vec<u8>, u32) {
    let mut caller = Frames::connect(world.address("main")).await;
    let authority = world.address("main").to_string();
    let fields = [(":method", "POST"), (":scheme", "http"), (":authority", &authority), (":path", path)];
    caller.begin_request(1, &fields).await;
    caller.frame(DATA, 0, 1, &[b'x'; 10_000]).await;
    let mut body = Vec::new();
    let mut begun = false;
    loop {
        let frame = caller.next(1).await;
        match frame.kind {
            HEADERS => begun = true,
            DATA => {
                body.extend_from_slice(&frame.payload);
                if frame.flags & END_STREAM != 0 {
                    break;
                }
            }
            WINDOW_UPDATE => {}
            kind => panic!("frame {kind} before the end of the response"),
        }
    }
    assert!(begun, "a head came first");
    loop {
        let frame = caller.next(1).await;
        match frame.kind {
            RST_STREAM => return (caller, body, frame.number(0)),
            WINDOW_UPDATE => {}
            kind => panic!("frame {kind} after the end of the response"),
        }
    }
}

#[tokio::test]
async fn http2_callers_are_told_that_their_body_is_not_wanted() {
    let world = to(&refusing(Then::SaysCloseAndCloses).await, "path_prefix = \"/api\"").await;
    for (path, expected) in [("/nowhere", "no_route"), ("/api", "big")] {
        let (mut caller, body, code) = http2_caller(&world, path).await;
        assert!(String::from_utf8(body).unwrap().contains(expected), "{path}");
        assert_eq!(code, NO_ERROR, "{path}");
        // The connection serves on.
        let fields =
            [(":method", "GET"), (":scheme", "http"), (":authority", "localhost"), (":path", "/nowhere")];
        caller.request(3, &fields, None).await;
        assert_eq!(caller.next(3).await.kind, HEADERS);
    }
}

/// curl 7 fails where a reset without error comes between the head of its request and the body.
#[tokio::test]
async fn http2_callers_with_little_left_to_send_are_not_reset() {
    let upstreams = to(&refusing(Then::SaysCloseAndCloses).await, "path_prefix = \"/api\"").await;
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::oauth_error(400, "invalid_scope"));
    let without_token = setup.start().await;
    for (world, path) in [(&upstreams, "/nowhere"), (&upstreams, "/api"), (&without_token, "/api")] {
        let mut caller = Frames::connect(world.address("main")).await;
        let length = ("content-length", "10");
        let fields =
            [(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", path), length];
        caller.begin_request(1, &fields).await;
        while !caller.next(1).await.ends_stream() {}
        // Later than a reset would come that follows the response.
        let other =
            [(":method", "GET"), (":scheme", "http"), (":authority", "localhost"), (":path", "/nowhere")];
        caller.request(3, &other, None).await;
        caller.frame(DATA, END_STREAM, 1, &[b'x'; 10]).await;
        caller.request(5, &other, None).await;
        let mut ended = 0;
        while ended < 2 {
            let frame = caller.any().await;
            if frame.stream == 0 {
                continue;
            }
            assert!(frame.kind != RST_STREAM, "{path}: stream {} is reset", frame.stream);
            ended += usize::from(frame.ends_stream());
        }
    }
}

/// What still comes of one request that nobody wants is no limit for the others of its connection.
#[tokio::test]
async fn http2_uploads_beside_an_unwanted_body_go_on() {
    let world = Setup::new().await.route("path_prefix = \"/api\"").start().await;
    let mut caller = Frames::connect(world.address("main")).await;
    let post =
        |path| [(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", path)];
    let unwanted = [&post("/nowhere")[..], &[("content-length", "60000")]].concat();
    caller.begin_request(1, &unwanted).await;
    caller.frame(DATA, 0, 1, &[b'x'; 1000]).await;
    let (mut windows, mut left, mut refused) = ([64_535usize, 65_535], 4 * MB, false);
    loop {
        let piece = if refused { 10_000.min(left) } else { 0 };
        if piece > 0 && windows.iter().all(|window| *window >= piece) {
            left -= piece;
            windows = windows.map(|window| window - piece);
            caller.frame(DATA, if left == 0 { END_STREAM } else { 0 }, 3, &vec![b'x'; piece]).await;
            continue;
        }
        let frame = caller.any().await;
        match (frame.kind, frame.stream) {
            (WINDOW_UPDATE, 0) => windows[0] += frame.number(0) as usize,
            (WINDOW_UPDATE, 3) => windows[1] += frame.number(0) as usize,
            (DATA, 1) if frame.ends_stream() => {
                refused = true;
                caller.begin_request(3, &post("/api")).await;
            }
            (HEADERS, 3) => break,
            (RST_STREAM | GOAWAY, _) => panic!("{frame:?} with {left} to be sent"),
            _ => {}
        }
    }
    assert_eq!((left, world.upstream().last().body.data.len()), (0, 4 * MB));
}

/// Some take a reset without error for the loss of the response: curl before 8.
#[tokio::test]
async fn http2_callers_may_send_all_before_they_read() {
    let world = to(&refusing(Then::SaysCloseAndCloses).await, "path_prefix = \"/api\"").await;
    for (path, expected) in [("/nowhere", "no_route"), ("/api", "big")] {
        let mut caller = Frames::connect(world.address("main")).await;
        let authority = world.address("main").to_string();
        let fields = [(":method", "POST"), (":scheme", "http"), (":authority", &authority), (":path", path)];
        caller.begin_request(1, &fields).await;
        // The connection's window and the stream's are those of RFC 9113 until more is given.
        let (mut windows, mut left, mut body, mut ended) = ([65_535usize; 2], 4 * MB, Vec::new(), false);
        while left > 0 || !ended {
            let piece = 10_000.min(left);
            if piece > 0 && windows.iter().all(|window| *window >= piece) {
                left -= piece;
                windows = windows.map(|window| window - piece);
                caller.frame(DATA, if left == 0 { END_STREAM } else { 0 }, 1, &vec![b'x'; piece]).await;
                continue;
            }
            let frame = caller.any().await;
            match (frame.kind, frame.stream) {
                (WINDOW_UPDATE, stream) => windows[stream.min(1) as usize] += frame.number(0) as usize,
                (DATA, 1) => {
                    body.extend_from_slice(&frame.payload);
                    ended = frame.ends_stream();
                }
                (RST_STREAM | GOAWAY, _) => panic!("{path}: {frame:?} with {left} to be sent"),
                _ => {}
            }
        }
        assert!(String::from_utf8(body).unwrap().contains(expected), "{path}");
    }
}

#[tokio::test]
async fn end_of_the_program_waits_for_the_reader_of_an_early_response() {
    let mut world = to(&refusing(Then::Closes).await, "").await;
    let address = world.address("main");
    let reading = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        write!(stream, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8000000\r\n\r\n").unwrap();
        for _ in 0..80 {
            stream.write_all(&[b'x'; 100_000]).unwrap();
            blocking::let_pass(Duration::from_millis(5));
        }
        read_response(&mut stream).unwrap()
    });
    eventually("the request", || async {
        (world.metric("bearerd_connections", &[("listener", "main")]).await == Some(1.0)).then_some(())
    })
    .await;
    world.signal(rustix::process::Signal::TERM);
    assert_eq!(reading.await.unwrap().head.word(1), "413");
    assert!(world.proxy.exit().await.success());
}
