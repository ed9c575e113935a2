//! What goes through as it came, and what does not: the tables of `docs/limits.md`.

use crate::support::frames::{Frames, Outcome};
use crate::support::h2::H2Client;
use crate::support::manual::Manual;
use crate::support::{RawRequest, RawResponse, Response, Setup, World, within};

/// The upstream says back which target it was asked for.
async fn scene() -> World {
    let setup = Setup::new().await;
    setup.upstream.always(|request, _| RawResponse::ok(request.target().to_owned()));
    setup.start().await
}

async fn over_http1(world: &World, target: &[u8]) -> Response {
    let mut client = world.connect().await;
    client.wire.send([b"GET ", target, b" HTTP/1.1\r\nHost: localhost\r\n\r\n"].concat()).await.unwrap();
    client.response().await
}

async fn over_http2(world: &World, target: &str) -> Outcome {
    let mut frames = Frames::connect(world.address("main")).await;
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", target), (":authority", "localhost")];
    frames.request(1, &fields, None).await;
    frames.outcome(1).await
}

#[tokio::test]
async fn these_characters_of_a_target_pass_as_they_came() {
    let world = scene().await;
    for target in [
        "/a\"b",
        "/a{b}?q={c}",
        "/a|b?c|d",
        "/a^b?c^d",
        "/a'b?c'd",
        "/a[b]?c[d]",
        "/a?q=`b`",
        "/a?b\\c",
        "/a?%zz",
        "/a?q=~!@$&()*+,;=:/?",
        "/~!@$&()*+,;=:",
        "/f\u{fc}r?\u{20ac}",
        "//x//",
        "/%C3%BC%41",
    ] {
        let response = over_http1(&world, target.as_bytes()).await;
        response.expect_status(200);
        assert_eq!(world.upstream().last().head.raw[4..4 + target.len()], *target.as_bytes(), "{target}");
        assert!(over_http2(&world, target).await.is_ok(), "{target}");
        assert_eq!(world.upstream().last().head.raw[4..4 + target.len()], *target.as_bytes(), "{target}");
    }
}

#[tokio::test]
async fn these_characters_of_a_target_are_refused_by_the_library() {
    let world = scene().await;
    for target in ["/a`b", "/a<b>", "/a?b<c>", "/a?q=\"b\"", "/a\u{7f}b", "/a?\u{7f}", "/a\u{1}", "/a\tb"] {
        let response = over_http1(&world, target.as_bytes()).await;
        assert_eq!((response.status, response.text().as_str()), (400, ""), "{target:?}");
        assert!(matches!(over_http2(&world, target).await, Outcome::Reset(_)), "{target:?}");
    }
    for target in [&b"/f\xfcr"[..], b"/a?q=f\xfcr"] {
        assert_eq!(over_http1(&world, target).await.status, 400, "Latin-1 in a target");
    }
    assert_eq!(world.upstream().count(), 0);
}

#[tokio::test]
async fn fragment_of_a_target_is_lost() {
    let world = scene().await;
    for (target, up) in [("/x#frag", "/x"), ("/x?y#frag", "/x?y"), ("/#/../x", "/")] {
        assert_eq!(over_http1(&world, target.as_bytes()).await.text(), up);
        assert!(over_http2(&world, target).await.is_ok());
        assert_eq!(world.upstream().last().target(), up);
    }
}

#[tokio::test]
async fn options_of_an_empty_path_ask_for_the_root() {
    let world = scene().await;
    let response = world.exchange(RawRequest::new("OPTIONS", "http://localhost").host("localhost")).await;
    assert_eq!((response.status, response.text().as_str()), (200, "/"));
}

#[tokio::test]
async fn scheme_of_an_http2_request_without_an_authority_is_not_looked_at() {
    let world = scene().await;
    let mut frames = Frames::connect(world.address("main")).await;
    let fields = [(":method", "GET"), (":scheme", "ftp"), (":path", "/"), ("host", "localhost")];
    frames.request(1, &fields, None).await;
    assert!(frames.outcome(1).await.is_ok());
}

#[tokio::test]
async fn names_go_out_in_lower_case_and_values_of_one_name_in_their_order() {
    let setup = Setup::new().await;
    setup.upstream.always_this(RawResponse::ok("ok").header("X-Down", "b").header("X-DOWN", "a"));
    let world = setup.start().await;
    let response = world.exchange(RawRequest::get("/").header("X-Up", "2").header("X-UP", "1")).await;
    let fields = |fields: &[(String, String)], name: &str| -> Vec<String> {
        fields.iter().filter(|field| field.0 == name).map(|(_, value)| value.clone()).collect()
    };
    assert_eq!(fields(&response.head.fields, "x-down"), ["b", "a"]);
    assert_eq!(fields(&world.upstream().last().head.fields, "x-up"), ["2", "1"]);
}

#[tokio::test]
async fn heads_of_responses_have_a_limit() {
    let world = scene().await;
    for (fields, status) in [(200, 200), (300, 502)] {
        let lines: String = (0..fields).map(|n| format!("x-{n}: 1\r\n")).collect();
        world
            .upstream()
            .next(RawResponse::raw(format!("HTTP/1.1 200 OK\r\n{lines}content-length: 2\r\n\r\nok")));
        assert_eq!(world.get("/").await.status, status, "{fields} fields");
    }
    for (kib, status) in [(100, 200), (200, 502)] {
        let answer = RawResponse::ok("ok").header("x-long", &"x".repeat(kib * 1024));
        world.upstream().next(answer);
        assert_eq!(world.get("/").await.status, status, "{kib} KiB");
    }
}

#[tokio::test]
async fn fields_of_a_request_pass_or_are_refused() {
    let world = scene().await;
    let send = async |line: &[u8]| {
        let mut client = world.connect().await;
        let head = [b"GET / HTTP/1.1\r\nHost: localhost\r\n", line, b"\r\n\r\n"].concat();
        client.wire.send(head).await.unwrap();
        client.response().await.status
    };
    for (line, name, value) in [
        (&b"X-A: caf\xe9"[..], "x-a", &b"caf\xe9"[..]),
        (b"X-A: a\tb", "x-a", b"a\tb"),
        (b"X-A:", "x-a", b""),
        (b"X!#$%&'*+-.^_`|~: 1", "x!#$%&'*+-.^_`|~", b"1"),
    ] {
        assert_eq!(send(line).await, 200);
        let raw = world.upstream().last().head.raw.clone();
        let wanted = [name.as_bytes(), b": ", value, b"\r\n"].concat();
        assert!(
            raw.windows(wanted.len()).any(|window| window == wanted),
            "{}",
            String::from_utf8_lossy(&raw)
        );
    }
    for line in [&b"X-A: \x7f"[..], b"X-A: a\x01b", b"X@A: 1", b"X[A]: 1", b"X/A: 1", b"X\xe9: 1"] {
        assert_eq!(send(line).await, 400, "{}", String::from_utf8_lossy(line));
    }
}

#[tokio::test]
async fn status_lines_pass_or_are_no_response() {
    let world = scene().await;
    let send = async |start: &str| {
        let bytes = start.chars().map(|char| u8::try_from(char).unwrap()).collect::<Vec<u8>>();
        let answer = [&*bytes, b"\r\ncontent-length: 2\r\n\r\nok"].concat();
        world.upstream().next(RawResponse::raw(answer).then_close());
        world.get("/").await.head.start
    };
    for (came, went) in [
        ("HTTP/1.1 200 Very Fine", "HTTP/1.1 200 Very Fine"),
        ("HTTP/1.1 999 Odd", "HTTP/1.1 999 Odd"),
        ("HTTP/1.1 200", "HTTP/1.1 200 "),
        ("HTTP/1.0 200 OK", "HTTP/1.1 200 OK"),
        ("HTTP/1.1 200 caf\u{e9}", "HTTP/1.1 200 "),
    ] {
        assert_eq!(send(came).await, went);
    }
    for came in ["HTTP/1.1 1000 X", "HTTP/1.1 099 X", "HTTP/1.2 200 OK", "HTTP/2.0 200 OK", "ICY 200 OK"] {
        assert_eq!(send(came).await, "HTTP/1.1 502 Bad Gateway", "{came}");
    }
}

#[tokio::test]
async fn field_lines_of_a_response_pass_or_are_no_response() {
    let world = scene().await;
    let send = async |line: &[u8]| {
        let answer = [b"HTTP/1.1 200 OK\r\n", line, b"\r\ncontent-length: 2\r\n\r\nok"].concat();
        world.upstream().next(RawResponse::raw(answer).then_close());
        world.get("/").await
    };
    assert_eq!(send(b"X-A: caf\xe9").await.header("x-a"), Some("caf\u{e9}"));
    let response = send(b"X-A: a\nX-B: b").await;
    assert_eq!((response.header("x-a"), response.header("x-b")), (Some("a"), Some("b")), "a bare line feed");
    for line in [&b"X-A: a\x01b"[..], b"X-A: \x7f", b"X@A: 1", b"X A: 1", b"X[A]: 1", b"no colon", b": 1"] {
        assert_eq!(send(line).await.status, 502, "{}", String::from_utf8_lossy(line));
    }
}

/// A frame of stream 1 (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, 1], payload].concat()
}

/// `:status` as HPACK's literal, with one more field.
fn status(status: &str) -> Vec<u8> {
    [b"\x08\x03", status.as_bytes(), b"\x00\x04link\x04</a>"].concat()
}

#[tokio::test]
async fn interim_responses_over_http2_end_here_too() {
    const HEADERS: u8 = 1;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    let upstream = Manual::start().await;
    let route = format!("upstream = \"{}\"\nprotocol = \"http2\"", upstream.url);
    let world = Setup::new().await.route(&route).start().await;
    let mut client = world.connect().await;
    client.send(&RawRequest::get("/")).await;
    let mut wire = upstream.accept().await;
    // Empty SETTINGS of stream 0.
    wire.send([0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let preface = within("the preface", wire.exact(24)).await.unwrap();
    assert!(preface.starts_with(b"PRI "));
    loop {
        let head = within("the request", wire.exact(9)).await.unwrap();
        wire.exact(usize::from(u16::from_be_bytes([head[1], head[2]]))).await.unwrap();
        if head[3] == HEADERS {
            break;
        }
    }
    for _ in 0..30 {
        wire.send(frame(HEADERS, END_HEADERS, &status("103"))).await.unwrap();
    }
    wire.send(frame(HEADERS, END_HEADERS | END_STREAM, &status("204"))).await.unwrap();
    let head = within("the response", client.wire.head()).await.unwrap().unwrap();
    assert_eq!((head.word(1), head.headers("link")), ("204", vec!["</a>"]));
}

#[tokio::test]
async fn trailers_go_to_http1_callers_that_take_them_alone() {
    let setup = Setup::new().await;
    let bytes = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2;ext=1\r\nok\r\n0\r\nx-sum: 7\r\nx-other: 8\r\n\r\n";
    setup.upstream.always_this(RawResponse::raw(bytes));
    let world = setup.start().await;
    let response = world.get("/").await;
    assert_eq!(response.text(), "ok");
    assert!(response.body.trailers.is_empty(), "the caller did not say TE: trailers");
    let call = RawRequest::get("/").header("TE", "trailers").header("Connection", "TE");
    let response = world.exchange(call).await;
    assert_eq!(response.body.trailers, [("x-sum".to_owned(), "7".to_owned())], "x-other was not announced");
    assert!(!String::from_utf8_lossy(&response.body.raw).contains("ext"), "extensions are for one hop");
    let trailers = H2Client::plain(world.address("main")).await.get("/").await.trailers.unwrap();
    assert_eq!(trailers.get("x-sum").unwrap(), "7");
}
