//! What an intermediary must take leniently, and what it must refuse because two could read it in two ways.

use std::time::Duration;

use crate::support::frames::{Frames, Outcome};
use crate::support::h2::{H2Client, H2Upstream, streamed, whole};
use crate::support::manual::Manual;
use crate::support::{Client, RawRequest, RawResponse, Response, Setup, World, let_pass, to, within};

/// An upstream that responds with exactly these bytes and closes.
async fn responding(bytes: &str) -> World {
    let setup = Setup::new().await;
    setup.upstream.always_this(RawResponse::raw(bytes).then_close());
    setup.start().await
}

const CHUNKED: &str = "5\r\nhello\r\n0\r\n\r\n";

// --- framing is decided before fields are stripped ---

#[tokio::test]
async fn nominating_the_framing_of_a_response_does_not_change_its_framing() {
    for fields in [
        "connection: transfer-encoding\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 3\r\nconnection: close, transfer-encoding\r\n",
        "connection: transfer-encoding\r\ntransfer-encoding: chunked\r\n",
        "connection: transfer-encoding, content-length\r\ntransfer-encoding: chunked\r\ncontent-length: 900\r\n",
    ] {
        let world = responding(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n{CHUNKED}")).await;
        let response = world.get("/").await;
        response.expect_status(200);
        assert_eq!(response.text(), "hello", "{fields}");
        assert_eq!(
            response.headers("content-length").len() + response.headers("transfer-encoding").len(),
            1,
            "{fields}"
        );
        let response = H2Client::plain(world.address("main")).await.get("/").await;
        assert_eq!((response.status, response.text().as_str()), (200, "hello"), "{fields}");
        assert!(response.header("content-length").is_none_or(|length| length == "5"), "{fields}");
    }
}

#[tokio::test]
async fn nominating_the_length_of_a_response_does_not_lose_it() {
    for nominated in ["content-length", "Content-Length, close", "keep-alive, content-length"] {
        let bytes = format!("HTTP/1.1 200 OK\r\nconnection: {nominated}\r\ncontent-length: 5\r\n\r\nhello");
        let world = responding(&bytes).await;
        let response = world.get("/").await;
        response.expect_status(200);
        assert_eq!(response.text(), "hello");
        assert_eq!(response.header("content-length"), Some("5"));
    }
}

#[tokio::test]
async fn nominating_the_framing_of_a_request_does_not_change_its_framing() {
    let setup = Setup::new().await;
    setup.upstream.always(|request, _| RawResponse::ok(request.body.data.clone()));
    let world = setup.start().await;
    for (fields, body) in [
        ("Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n", CHUNKED),
        ("Connection: transfer-encoding, close\r\nTransfer-Encoding: chunked\r\n", CHUNKED),
        ("Connection: content-length\r\nContent-Length: 5\r\n", "hello"),
        ("Connection: content-length, transfer-encoding\r\nTransfer-Encoding: chunked\r\n", CHUNKED),
    ] {
        let mut client = world.connect().await;
        let head = format!("POST / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        client.wire.send(format!("{head}{body}")).await.unwrap();
        let response = client.response().await;
        // A length beside a coding may be refused (RFC 9112 section 6.1).
        if response.status != 400 {
            response.expect_status(200);
            assert_eq!(response.text(), "hello", "{fields}");
            let request = world.upstream().last();
            let framings =
                request.headers("content-length").len() + request.headers("transfer-encoding").len();
            assert_eq!(framings, 1, "{fields}");
        }
    }
}

#[tokio::test]
async fn nominating_host_te_or_trailer_loses_nothing_that_the_message_needs() {
    let setup = Setup::new().await;
    let trailing = "HTTP/1.1 200 OK\r\nconnection: trailer, close\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n";
    setup.upstream.always_this(RawResponse::raw(trailing).then_close());
    let world = setup.start().await;
    let call = RawRequest::new("POST", "/")
        .header("Connection", "host, te, trailer")
        .header("TE", "trailers")
        .header("Trailer", "x-up")
        .header("Transfer-Encoding", "chunked");
    let mut client = world.connect().await;
    client.send(&call).await;
    client.wire.send("2\r\nup\r\n0\r\nx-up: 8\r\n\r\n").await.unwrap();
    let response = client.response().await;
    response.expect_status(200);
    assert_eq!(response.body.trailers, [("x-sum".to_owned(), "7".to_owned())]);
    let request = world.upstream().last();
    assert_eq!(request.headers("host"), [world.upstream().address.unwrap().to_string()]);
    assert_eq!(request.header("te"), Some("trailers"));
    assert_eq!(request.body.trailers, [("x-up".to_owned(), "8".to_owned())]);
}

#[tokio::test]
async fn connection_in_a_response_over_http2_is_no_response() {
    for field in ["connection", "transfer-encoding", "keep-alive", "proxy-connection", "upgrade"] {
        let upstream = H2Upstream::responding(move |_| {
            http::Response::builder().header(field, "chunked").body(whole("ok")).unwrap()
        })
        .await;
        let world = to(&upstream.url, "protocol = \"http2\"").await;
        let response = world.get("/").await;
        // The library on the other side may take the field off before it sends.
        if response.status == 200 {
            assert_eq!(response.header(field), None);
            assert_eq!(response.text(), "ok");
        } else {
            response.expect_problem(502, "upstream_invalid");
        }
    }
}

// --- lengths ---

fn h2_post(path: &'static str) -> Vec<(&'static str, &'static str)> {
    vec![(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost")]
}

#[tokio::test]
async fn http2_lengths_that_are_none_are_400() {
    let world = Setup::new().await.start().await;
    let strange: [&[&str]; 10] = [
        &[""],
        &["0", "0"],
        &["+0"],
        &["0x0"],
        &["-0"],
        &["0, 0"],
        &[" 0"],
        &["0", "1"],
        &["00", "0"],
        &["5"],
    ];
    for lengths in strange {
        let mut fields = h2_post("/first");
        fields.extend(lengths.iter().map(|length| ("content-length", *length)));
        let mut frames = Frames::connect(world.address("main")).await;
        frames.request(1, &fields, None).await;
        let outcome = frames.outcome(1).await;
        assert!(outcome.is_refusal(), "{lengths:?}: {outcome:?}");
    }
    let strange: [&[&str]; 6] = [&[""], &["5", "5"], &["+5"], &["5,5"], &["4"], &["6"]];
    for lengths in strange {
        let mut fields = h2_post("/first");
        fields.extend(lengths.iter().map(|length| ("content-length", *length)));
        let mut frames = Frames::connect(world.address("main")).await;
        frames.request(1, &fields, Some(b"hello")).await;
        let outcome = frames.outcome(1).await;
        assert!(outcome.is_refusal(), "{lengths:?}: {outcome:?}");
    }
    assert_eq!(world.upstream().count(), 0);
}

#[tokio::test]
async fn lengths_of_a_response_that_are_none_are_no_response() {
    let strange: [&[&str]; 6] = [&[""], &["+2"], &["0x2"], &["2", "3"], &["2, 3"], &["2 2"]];
    for lengths in strange {
        let fields: String = lengths.iter().map(|length| format!("content-length: {length}\r\n")).collect();
        let world = responding(&format!("HTTP/1.1 200 OK\r\n{fields}\r\nok")).await;
        world.get("/").await.expect_problem(502, "upstream_invalid");
        // Nothing follows these heads, but what they say must still be a length.
        for (method, status) in [("HEAD", 200), ("GET", 304)] {
            let world = responding(&format!("HTTP/1.1 {status} X\r\n{fields}\r\n")).await;
            let response = world.connect().await.exchange(&RawRequest::new(method, "/")).await;
            assert_eq!(response.status, 502, "{method} {status} {lengths:?}");
        }
    }
    let strange: [&[&str]; 4] = [&[""], &["0", "1"], &["+0"], &["0x0"]];
    for lengths in strange {
        let upstream = H2Upstream::responding(move |_| {
            let mut response = http::Response::new(whole(""));
            for length in lengths {
                response.headers_mut().append("content-length", length.parse().unwrap());
            }
            response
        })
        .await;
        let world = to(&upstream.url, "protocol = \"http2\"").await;
        assert_eq!(world.get("/").await.status, 502, "{lengths:?}");
    }
}

#[tokio::test]
async fn posts_without_a_body_say_so() {
    let world = Setup::new().await.start().await;
    for method in ["POST", "PUT", "PATCH"] {
        // By hand: clients say the length themselves.
        let mut frames = Frames::connect(world.address("main")).await;
        let mut fields = h2_post("/h2");
        fields[0].1 = method;
        frames.request(1, &fields, None).await;
        assert!(frames.outcome(1).await.is_ok());
        let request = world.upstream().last();
        assert_eq!(request.header("content-length"), Some("0"), "{method} over HTTP/2");
        assert_eq!(request.header("transfer-encoding"), None, "{method} over HTTP/2");
        world.exchange(RawRequest::new(method, "/h1")).await.expect_status(200);
        let request = world.upstream().last();
        assert_eq!(request.header("content-length"), Some("0"), "{method} over HTTP/1.1");
        world.exchange(RawRequest::new(method, "/h10").http10()).await.expect_status(200);
        assert_eq!(world.upstream().last().header("content-length"), Some("0"), "{method} over HTTP/1.0");
    }
    for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
        let mut frames = Frames::connect(world.address("main")).await;
        let mut fields = h2_post("/h2");
        fields[0].1 = method;
        frames.request(1, &fields, None).await;
        assert!(frames.outcome(1).await.is_ok());
        assert_eq!(world.upstream().last().header("content-length"), None, "{method}");
    }
}

#[tokio::test]
async fn posts_without_a_body_say_so_when_they_are_replayed() {
    let setup = Setup::new().await;
    setup.upstream.next(RawResponse::unauthorized());
    let world = setup.start().await;
    let mut frames = Frames::connect(world.address("main")).await;
    frames.request(1, &h2_post("/"), None).await;
    assert!(frames.outcome(1).await.is_ok());
    let lengths: Vec<_> = world
        .upstream()
        .requests()
        .iter()
        .map(|request| request.header("content-length").map(str::to_owned))
        .collect();
    assert_eq!(lengths, [Some("0".to_owned()), Some("0".to_owned())]);
}

#[tokio::test]
async fn length_of_a_304_and_of_a_head_pass_and_a_204_has_none() {
    let setup = Setup::new().await;
    setup.upstream.always(|request, _| match request.target() {
        "/304" => {
            RawResponse::raw("HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\ncontent-length: 1234\r\n\r\n")
        }
        "/head" => RawResponse::raw("HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n"),
        "/head304" => RawResponse::raw("HTTP/1.1 304 Not Modified\r\ncontent-length: 1234\r\n\r\n"),
        "/204" => RawResponse::raw("HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n"),
        "/204-with" => RawResponse::raw("HTTP/1.1 204 No Content\r\ncontent-length: 3\r\n\r\n").then_close(),
        _ => RawResponse::ok("ok"),
    });
    let world = setup.start().await;
    let mut client = world.connect().await;
    for (method, target, status, length) in [
        ("GET", "/304", 304, Some("1234")),
        ("HEAD", "/head", 200, Some("1234")),
        ("HEAD", "/head304", 304, Some("1234")),
        ("GET", "/204", 204, None),
        ("HEAD", "/204", 204, None),
        ("GET", "/204-with", 204, None),
        ("GET", "/in-step", 200, Some("2")),
    ] {
        let response = client.exchange(&RawRequest::new(method, target)).await;
        response.expect_status(status);
        assert_eq!(response.header("content-length"), length, "{method} {target}");
        assert_eq!(response.header("transfer-encoding"), None, "{method} {target}");
    }
    let mut client = H2Client::plain(world.address("main")).await;
    let response = client.get("/304").await;
    assert_eq!((response.status, response.header("content-length")), (304, Some("1234")));
    let response = client.get("/204").await;
    assert_eq!((response.status, response.header("content-length")), (204, None));
}

// --- targets ---

#[tokio::test]
async fn http2_paths_and_schemes_that_are_none_are_400() {
    let world = Setup::new().await.start().await;
    for (scheme, path) in [
        ("http", "?x"),
        ("http", "?"),
        ("http", "*"),
        ("http", "*?x"),
        ("http", "*/"),
        ("http", "x"),
        ("http", "http://localhost/"),
        ("", "/"),
        ("ftp", "/"),
        ("ws", "/"),
        ("httpx", "/"),
        ("h", "/"),
    ] {
        let mut frames = Frames::connect(world.address("main")).await;
        let fields = [(":method", "GET"), (":scheme", scheme), (":path", path), (":authority", "localhost")];
        frames.request(1, &fields, None).await;
        let outcome = frames.outcome(1).await;
        assert!(outcome.is_refusal(), "{scheme:?} {path:?}: {outcome:?}");
    }
    assert_eq!(world.upstream().count(), 0);
    for scheme in ["http", "https"] {
        let mut frames = Frames::connect(world.address("main")).await;
        let fields = [(":method", "GET"), (":scheme", scheme), (":path", "/"), (":authority", "localhost")];
        frames.request(1, &fields, None).await;
        let outcome = frames.outcome(1).await;
        assert!(outcome.is_ok(), "{scheme:?}: {outcome:?}");
    }
}

#[tokio::test]
async fn absolute_form_of_another_scheme_is_400() {
    let world = Setup::new().await.start().await;
    for target in [
        "ftp://localhost/",
        "ws://localhost/",
        "gopher://localhost/x",
        "httpx://localhost/",
        "h://localhost/",
    ] {
        world.exchange(RawRequest::get(target).host("localhost")).await.expect_problem(400, "bad_request");
    }
    assert_eq!(world.upstream().count(), 0);
    for target in ["http://localhost/x", "https://localhost/x", "HTTP://localhost/x"] {
        world.exchange(RawRequest::get(target).host("localhost")).await.expect_status(200);
        assert_eq!(world.upstream().last().target(), "/x");
    }
}

#[tokio::test]
async fn other_forms_of_targets_are_400() {
    let world = Setup::new().await.start().await;
    for (method, target) in [
        ("GET", "*"),
        ("POST", "*"),
        ("OPTIONS", "*?x"),
        ("OPTIONS", "**"),
        ("GET", "localhost:80"),
        ("GET", "localhost"),
        ("GET", "?x"),
        ("GET", "http:///x"),
        ("GET", "http:/x"),
        ("GET", "http://user@localhost/"),
        ("GET", "http://user:pass@localhost/"),
        ("GET", "http://@localhost/"),
    ] {
        let response = world.exchange(RawRequest::new(method, target).host("localhost")).await;
        assert_eq!(response.status, 400, "{method} {target}: {}", response.text());
    }
    assert_eq!(world.upstream().count(), 0);
}

/// A request over HTTP/2, and one over HTTP/1 in absolute form, with this authority and this `Host`.
async fn sent_with_both(world: &World, authority: &str, host: &str) -> (Outcome, Response) {
    let mut frames = Frames::connect(world.address("main")).await;
    let fields =
        [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", authority), ("host", host)];
    frames.request(1, &fields, None).await;
    let request = RawRequest::get(&format!("http://{authority}/")).host(host);
    (frames.outcome(1).await, world.exchange(request).await)
}

#[tokio::test]
async fn host_and_authority_that_differ_are_400() {
    let world = Setup::new().await.listener("names = [\"a.test\"]").start().await;
    for (authority, host) in [
        ("localhost", "a.test"),
        ("localhost:443", "localhost"),
        ("localhost", "localhost:8080"),
        ("a.test", "a.test."),
        ("localhost", ""),
    ] {
        let (http2, http1) = sent_with_both(&world, authority, host).await;
        assert!(http2.is_refusal(), "{authority:?} {host:?}: {http2:?}");
        http1.expect_problem(400, "bad_request");
    }
    assert_eq!(world.upstream().count(), 0);
    // The same after the normalization of RFC 3986 section 6.2.3, which RFC 9113 section 8.3.1 requires for this.
    for (authority, host) in [("localhost:80", "localhost"), ("localhost", "LOCALHOST:80")] {
        let (http2, http1) = sent_with_both(&world, authority, host).await;
        assert!(http2.is_ok(), "{authority} {host}");
        http1.expect_status(200);
    }
    let mut frames = Frames::connect(world.address("main")).await;
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), ("host", "localhost")];
    frames.request(1, &fields, None).await;
    assert!(frames.outcome(1).await.is_ok(), "HTTP/2 from a gateway may have Host alone");
}

#[tokio::test]
async fn http10_is_held_open_where_it_asks_for_that() {
    let world = Setup::new().await.start().await;
    let mut client = world.connect().await;
    let keep = RawRequest::get("/").http10().header("Connection", "keep-alive");
    for _ in 0..3 {
        let response = client.exchange(&keep).await;
        response.expect_status(200);
        assert_eq!(response.header("connection").map(str::to_lowercase).as_deref(), Some("keep-alive"));
    }
    assert_eq!(client.exchange(&RawRequest::get("/").http10().without_host()).await.text(), "ok");
    assert!(client.wire.closed().await);
    for lines in ["Host: localhost\r\nHost: localhost\r\n", "Host: a@localhost\r\n", "Host: \r\n"] {
        let mut client = world.connect().await;
        client.wire.send(format!("GET / HTTP/1.0\r\n{lines}\r\n")).await.unwrap();
        assert_eq!(client.response().await.status, 400, "{lines:?}");
    }
}

// --- OPTIONS ---

async fn options(world: &World, target: &str, more: &[(&str, &str)]) -> Response {
    let call =
        more.iter().fold(RawRequest::new("OPTIONS", target), |call, (name, value)| call.header(name, value));
    world.connect().await.exchange(&call).await
}

fn expect_response_from_here(response: &Response) {
    response.expect_status(204);
    let allow = response.header("allow").expect("Allow");
    assert!(allow.split(", ").any(|method| method == "OPTIONS"), "{allow}");
    assert_eq!((response.header("content-length"), response.header("transfer-encoding")), (None, None));
    assert!(response.header("x-request-id").is_some());
}

#[tokio::test]
async fn options_of_the_server_get_their_response_here() {
    let world = Setup::new().await.start().await;
    let asked = world.issuer().request(1).await;
    assert_eq!(asked.method(), "POST");
    expect_response_from_here(&options(&world, "*", &[]).await);
    expect_response_from_here(&options(&world, "*", &[("Max-Forwards", "7")]).await);
    expect_response_from_here(&options(&world, "*", &[("Authorization", "Bearer mine")]).await);
    // The connection stays in step, whatever body came.
    let mut client = world.connect().await;
    client.wire.send(RawRequest::new("OPTIONS", "*").body("hello").bytes("localhost")).await.unwrap();
    client.response_to("OPTIONS").await.expect_status(204);
    client.exchange(&RawRequest::get("/")).await.expect_status(200);

    let before = world.upstream().count();
    let mut frames = Frames::connect(world.address("main")).await;
    let fields = [(":method", "OPTIONS"), (":scheme", "http"), (":path", "*"), (":authority", "localhost")];
    frames.request(1, &fields, None).await;
    /// `:status: 204` in HPACK's static table.
    const STATUS_204: u8 = 0x89;
    let outcome = frames.outcome(1).await;
    assert!(matches!(&outcome, Outcome::Headers(block) if block.first() == Some(&STATUS_204)), "{outcome:?}");
    assert_eq!(world.upstream().count(), before);
    assert_eq!(world.issuer().count(), 1);
}

#[tokio::test]
async fn options_of_the_server_wait_for_no_token() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::oauth_error(401, "invalid_client"));
    let world = setup.start().await;
    expect_response_from_here(&options(&world, "*", &[]).await);
    expect_response_from_here(&options(&world, "/", &[("Max-Forwards", "0")]).await);
}

#[tokio::test]
async fn max_forwards_is_counted_down_and_responded_to_at_zero() {
    let world = Setup::new().await.start().await;
    options(&world, "/x", &[("Max-Forwards", "5")]).await.expect_status(200);
    assert_eq!(world.upstream().last().header("max-forwards"), Some("4"));
    options(&world, "/x", &[("Max-Forwards", "1")]).await.expect_status(200);
    assert_eq!(world.upstream().last().header("max-forwards"), Some("0"));
    options(&world, "/x", &[("Max-Forwards", "99999999999999999999999")]).await.expect_status(200);
    let left = world.upstream().last().header("max-forwards").unwrap().to_owned();
    assert!(left.bytes().all(|byte| byte.is_ascii_digit()), "{left}");
    let before = world.upstream().count();
    expect_response_from_here(&options(&world, "/x", &[("Max-Forwards", "0")]).await);
    expect_response_from_here(&options(&world, "/x", &[("Max-Forwards", "00")]).await);
    for strange in ["", "-1", "+1", "1, 2", "x", "0x1"] {
        options(&world, "/x", &[("Max-Forwards", strange)]).await.expect_problem(400, "bad_request");
    }
    let twice = [("Max-Forwards", "1"), ("Max-Forwards", "1")];
    options(&world, "/x", &twice).await.expect_problem(400, "bad_request");
    assert_eq!(world.upstream().count(), before);
    // It counts for OPTIONS (and TRACE, which is refused) alone.
    world.exchange(RawRequest::get("/x").header("Max-Forwards", "0")).await.expect_status(200);
    assert_eq!(world.upstream().last().header("max-forwards"), Some("0"));
}

#[tokio::test]
async fn max_forwards_at_zero_tells_what_the_route_takes() {
    let world =
        Setup::new().await.route("path_prefix = \"/a\"\nmethods = [\"GET\", \"OPTIONS\"]").start().await;
    let response = options(&world, "/a", &[("Max-Forwards", "0")]).await;
    assert_eq!((response.status, response.header("allow")), (204, Some("GET, OPTIONS")));
    options(&world, "/b", &[("Max-Forwards", "0")]).await.expect_problem(404, "no_route");
}

// --- the order of checks ---

/// What may be wrong with a request, in the order in which bearerd reports it.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Wrong {
    Malformed,
    Misdirected,
    Refused,
    NoRoute,
}

impl Wrong {
    const ALL: [Self; 4] = [Self::Malformed, Self::Misdirected, Self::Refused, Self::NoRoute];

    fn expected(self) -> (u16, &'static str) {
        match self {
            Self::Malformed => (400, "bad_request"),
            Self::Misdirected => (421, "misdirected"),
            Self::Refused => (403, "caller_refused"),
            Self::NoRoute => (404, "no_route"),
        }
    }
}

/// Every way in which a request can be wrong in these points, each with the ways of the others.
fn wrong_requests(wrong: &[Wrong]) -> Vec<RawRequest> {
    let paths: &[&str] = match (wrong.contains(&Wrong::Malformed), wrong.contains(&Wrong::NoRoute)) {
        (false, false) => &["/a/x"],
        (false, true) => &["/other", "/get-only"],
        (true, false) => &["/a/../x", "/a/%2F", "/a/%zz"],
        (true, true) => &["/other/../x", "/other/%2F", "/get-only/%5C"],
    };
    let hosts: &[&str] =
        if wrong.contains(&Wrong::Misdirected) { &["evil.test", "localhost."] } else { &["localhost"] };
    let pages: &[&[(&str, &str)]] = if wrong.contains(&Wrong::Refused) {
        &[
            &[("Origin", "https://evil.test")],
            &[("Sec-Fetch-Site", "cross-site")],
            &[("Referer", "https://evil.test/")],
        ]
    } else {
        &[&[]]
    };
    let mut calls = Vec::new();
    for path in paths {
        for host in hosts {
            for page in pages {
                let call = RawRequest::new("DELETE", path).host(host);
                calls.push(page.iter().fold(call, |call, (name, value)| call.header(name, value)));
            }
        }
    }
    calls
}

#[tokio::test]
async fn of_several_faults_the_first_in_their_order_is_reported() {
    let world = Setup::new()
        .await
        .route("path_prefix = \"/a\"")
        .more("[[route]]\nname = \"get\"\npath = \"/get-only\"\nmethods = [\"GET\", \"HEAD\"]\nupstream = \"{upstream}\"\nissuer = \"corp\"")
        .start()
        .await;
    for first in Wrong::ALL {
        for second in Wrong::ALL {
            let (status, code) =
                Wrong::ALL.into_iter().find(|wrong| *wrong == first || *wrong == second).unwrap().expected();
            for call in wrong_requests(&[first, second]) {
                let response = world.exchange(call.clone()).await;
                let found = (response.status, response.code());
                let call = String::from_utf8(call.bytes("")).unwrap();
                assert_eq!(found, (status, Some(code.to_owned())), "{first:?} and {second:?}: {call}");
            }
        }
    }
    let all = wrong_requests(&Wrong::ALL);
    for call in all {
        world.exchange(call).await.expect_problem(400, "bad_request");
    }
    assert_eq!(world.upstream().count(), 0);
    for call in wrong_requests(&[]) {
        world.exchange(call).await.expect_status(200);
    }
}

#[tokio::test]
async fn options_of_the_server_are_checked_as_other_requests_are() {
    let world = Setup::new().await.route("path_prefix = \"/a\"").start().await;
    let page = ("Origin", "https://evil.test");
    world
        .exchange(RawRequest::new("OPTIONS", "*").host("evil.test"))
        .await
        .expect_problem(421, "misdirected");
    let both = RawRequest::new("OPTIONS", "*").host("evil.test").header(page.0, page.1);
    world.exchange(both).await.expect_problem(421, "misdirected");
    options(&world, "*", &[page]).await.expect_problem(403, "caller_refused");
    options(&world, "*", &[("Transfer-Encoding", "gzip, chunked")]).await.expect_status(400);
    let call = RawRequest::new("OPTIONS", "*").host("a, b");
    world.exchange(call).await.expect_problem(400, "bad_request");
}

#[tokio::test]
async fn path_that_only_other_methods_serve_names_them_over_both_protocols() {
    let world = Setup::new().await.route("path_prefix = \"/a\"\nmethods = [\"PUT\", \"GET\"]").start().await;
    let response = world.exchange(RawRequest::post("/a/x", "hello")).await;
    response.expect_problem(404, "no_route");
    assert!(response.text().contains("GET, PUT"), "{}", response.text());
    let mut client = H2Client::plain(world.address("main")).await;
    let request = client.request("POST", "/a/x").body(whole("hello")).unwrap();
    let response = client.exchange(request).await;
    assert_eq!(response.status, 404);
    assert!(response.text().contains("GET, PUT"), "{}", response.text());
}

// --- what upstreams send that is old or odd ---

#[tokio::test]
async fn blank_before_the_colon_of_a_responses_field_is_taken_out() {
    let world = responding("HTTP/1.1 200 OK\r\nX-Foo : bar\r\nContent-Length \t: 2\r\n\r\nok").await;
    let response = world.get("/").await;
    response.expect_status(200);
    assert_eq!((response.header("x-foo"), response.text().as_str()), (Some("bar"), "ok"));
    assert_eq!(response.header("content-length"), Some("2"));
}

#[tokio::test]
async fn folded_lines_of_a_response_become_one() {
    let world = responding("HTTP/1.1 200 OK\r\nX-Foo: a\r\n  b\r\n\tc\r\nContent-Length: 2\r\n\r\nok").await;
    let response = world.get("/").await;
    response.expect_status(200);
    let value = response.header("x-foo").unwrap();
    assert_eq!(value.split_whitespace().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(response.text(), "ok");
    let response = H2Client::plain(world.address("main")).await.get("/").await;
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
}

#[tokio::test]
async fn interim_responses_end_here_however_many_there_are() {
    for interim in ["102 Processing", "103 Early Hints", "100 Continue", "199 Odd"] {
        let interims = format!("HTTP/1.1 {interim}\r\nlink: </a>\r\n\r\n").repeat(300);
        let world = responding(&format!("{interims}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")).await;
        let response = world.get("/").await;
        response.expect_status(200);
        assert_eq!((response.header("link"), response.text().as_str()), (None, "ok"), "{interim}");
    }
}

#[tokio::test]
async fn interim_responses_one_by_one_end_here_too() {
    let upstream = Manual::start().await;
    let world = to(&upstream.url, "").await;
    let mut client = world.connect().await;
    client.send(&RawRequest::get("/")).await;
    let mut wire = upstream.accept().await;
    within("the request at the upstream", wire.head()).await.unwrap().unwrap();
    for _ in 0..40 {
        wire.send("HTTP/1.1 102 Processing\r\n\r\n").await.unwrap();
        tokio::task::yield_now().await;
    }
    wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(client.response().await.text(), "ok");
}

#[tokio::test]
async fn interim_responses_without_end_are_no_response() {
    let upstream = Manual::start().await;
    let world = to(&upstream.url, "").await;
    let mut client = world.connect().await;
    client.send(&RawRequest::get("/")).await;
    let mut wire = upstream.accept().await;
    within("the request at the upstream", wire.head()).await.unwrap().unwrap();
    let flood = tokio::spawn(async move {
        while wire.send("HTTP/1.1 102 Processing\r\n\r\n".repeat(100)).await.is_ok() {}
    });
    client.response().await.expect_problem(502, "upstream_invalid");
    within("the flood's connection to end", flood).await.unwrap();
    assert!(world.processor_time() < Duration::from_secs(5), "{:?}", world.processor_time());
}

#[tokio::test]
async fn interim_responses_do_not_put_off_response_timeout() {
    let upstream = Manual::start().await;
    let world = to(&upstream.url, "response_timeout = \"500ms\"").await;
    let mut client = world.connect().await;
    client.send(&RawRequest::get("/")).await;
    let mut wire = upstream.accept().await;
    within("the request at the upstream", wire.head()).await.unwrap().unwrap();
    let drip = tokio::spawn(async move {
        while wire.send("HTTP/1.1 102 Processing\r\n\r\n").await.is_ok() {
            let_pass(Duration::from_millis(20)).await;
        }
    });
    client.response().await.expect_problem(504, "upstream_timeout");
    within("the upstream's connection to end", drip).await.unwrap();
}

/// Sends the head of a chunked message and then this piece without end, until the proxy has had enough.
async fn flood(wire: &mut crate::support::Wire, head: &str, first: &str, piece: &str) -> usize {
    wire.send(format!("{head}{first}")).await.unwrap();
    let block = piece.repeat(16 * 1024 / piece.len());
    let mut sent = 0;
    while sent < 256 << 20 && wire.send(&block).await.is_ok() {
        sent += block.len();
    }
    sent
}

const FLOODS: [(&str, &str); 5] =
    [("0", "0"), ("5", " "), ("5;", "x=y;"), ("5;a=\"", "b"), ("0\r\nx: ", "y")];

#[tokio::test]
async fn chunk_sizes_and_extensions_without_end_are_refused() {
    for (first, piece) in FLOODS {
        let world = Setup::new().await.start().await;
        let mut client = world.connect().await;
        let head = "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
        let sent = within("the flood to be refused", flood(&mut client.wire, head, first, piece)).await;
        assert!(sent < 32 << 20, "{sent} bytes of {piece:?} were taken");
        assert!(world.processor_time() < Duration::from_secs(5), "{:?}", world.processor_time());

        let upstream = Manual::start().await;
        let world = to(&upstream.url, "").await;
        let mut client = world.connect().await;
        client.send(&RawRequest::get("/")).await;
        let mut wire = upstream.accept().await;
        within("the request at the upstream", wire.head()).await.unwrap().unwrap();
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let sent = within("the flood to be refused", flood(&mut wire, head, first, piece)).await;
        assert!(sent < 32 << 20, "{sent} bytes of {piece:?} were taken");
        assert!(world.processor_time() < Duration::from_secs(5), "{:?}", world.processor_time());
        drop(client);
    }
}

#[tokio::test]
async fn callers_of_a_webhook_that_send_without_end_hold_nobody_up() {
    const WEBHOOK: &str = "[webhook.w]\naddress = \"127.0.0.1:0\"\npath = \"/w\"\nsignature_header = \"x-signature\"\n\
                           secrets = [{ file = \"secret\" }]\nvalue = \"/v\"\nstore = \"w.json\"";
    let world = Setup::new().await.more(WEBHOOK).start().await;
    let address = crate::webhook::address_of(&world.proxy, "w").await;
    let mut client = Client::tcp(address).await;
    let signature = "0".repeat(64);
    let head = format!(
        "POST /w HTTP/1.1\r\nHost: localhost\r\nx-signature: {signature}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let started = std::time::Instant::now();
    let sent = within("the flood to be refused", flood(&mut client.wire, &head, "0", "0")).await;
    assert!(sent < 32 << 20, "{sent} bytes were taken");
    assert!(started.elapsed() < Duration::from_secs(8), "only the time-out of the whole request ended it");
    assert!(world.processor_time() < Duration::from_secs(5), "{:?}", world.processor_time());
}

#[tokio::test]
async fn issuers_that_send_without_end_hold_nobody_up() {
    for (head, piece) in [
        ("", "HTTP/1.1 102 Processing\r\n\r\n"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0", "0"),
    ] {
        let issuer = Manual::start().await;
        let setup = Setup::new().await.issuer(&format!("token_url = \"{}\"", issuer.url));
        let world = setup.start().await;
        let mut wire = issuer.accept().await;
        within("the token request", wire.head()).await.unwrap().unwrap();
        let flood = tokio::spawn(async move { flood(&mut wire, head, "", piece).await });
        let sent = within("the flood to be refused", flood).await.unwrap();
        assert!(sent < 32 << 20, "{sent} bytes of {piece:?} were taken");
        let response = world.get("/").await;
        assert!([502, 503].contains(&response.status), "{}", response.text());
        assert!(world.processor_time() < Duration::from_secs(5), "{:?}", world.processor_time());
    }
}

#[tokio::test]
async fn egress_proxies_that_send_without_end_hold_nobody_up() {
    let proxy = Manual::start().await;
    let route = format!(
        "upstream = \"https://api.example\"\nproxy = \"http://{}\"\nconnect_timeout = \"60s\"",
        proxy.address
    );
    let world = Setup::new().await.route(&route).start().await;
    let mut client = world.connect().await;
    client.send(&RawRequest::get("/")).await;
    let mut wire = proxy.accept().await;
    within("the request for a tunnel", wire.head()).await.unwrap().unwrap();
    let piece = "HTTP/1.1 102 Processing\r\n\r\n";
    let sent = within("the flood to be refused", flood(&mut wire, "", "", piece)).await;
    assert!(sent < 32 << 20, "{sent} bytes were taken");
    client.response().await.expect_problem(502, "upstream_unreachable");
    assert!(world.processor_time() < Duration::from_secs(5), "{:?}", world.processor_time());
}

#[tokio::test]
async fn collectors_that_send_without_end_hold_nobody_up() {
    for (head, piece) in [
        ("", "HTTP/1.1 102 Processing\r\n\r\n"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0", "0"),
    ] {
        let collector = Manual::start().await;
        let table = format!("[tracing]\nendpoint = \"{}\"\ntimeout = \"60s\"", collector.url);
        let world = Setup::new().await.more(&table).start().await;
        world.get("/").await.expect_status(200);
        let mut wire = collector.accept().await;
        within("the spans", wire.head()).await.unwrap().unwrap();
        let sent = within("the flood to be refused", flood(&mut wire, head, "", piece)).await;
        assert!(sent < 32 << 20, "{sent} bytes of {piece:?} were taken");
        assert!(world.processor_time() < Duration::from_secs(5), "{:?}", world.processor_time());
        // The next spans go over another connection.
        world.get("/").await.expect_status(200);
        collector.accept().await;
    }
}

#[tokio::test]
async fn chunks_with_a_few_zeros_and_extensions_pass() {
    let world = responding(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0000005;a=b;c=\"d\"\r\nhello\r\n000;x\r\n\r\n",
    )
    .await;
    assert_eq!(world.get("/").await.text(), "hello");
}

// --- a response that breaks off looks broken ---

/// Whether the connection ends with a reset.
async fn is_reset(client: &mut Client) -> bool {
    loop {
        match within("the end of the connection", client.wire.some()).await {
            Ok(bytes) if bytes.is_empty() => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[tokio::test]
async fn answer_that_breaks_off_resets_an_http10_caller() {
    for keep in [false, true] {
        for (head, part) in
            [("transfer-encoding: chunked", "5\r\nhello\r\n"), ("content-length: 10", "hello")]
        {
            let upstream = Manual::start().await;
            let world = to(&upstream.url, "").await;
            let mut client = world.connect().await;
            let mut call = RawRequest::get("/").http10();
            if keep {
                call = call.header("Connection", "keep-alive");
            }
            client.send(&call).await;
            let mut wire = upstream.accept().await;
            within("the request at the upstream", wire.head()).await.unwrap().unwrap();
            wire.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{part}")).await.unwrap();
            client.head().await;
            assert_eq!(client.wire.exact(5).await.unwrap(), b"hello");
            drop(wire);
            assert!(is_reset(&mut client).await, "{head}, keep-alive: {keep}");
        }
    }
}

#[tokio::test]
async fn answer_that_stalls_resets_an_http10_caller() {
    let upstream = Manual::start().await;
    let world = to(&upstream.url, "idle_timeout = \"1s\"").await;
    let mut client = world.connect().await;
    client.send(&RawRequest::get("/").http10()).await;
    let mut wire = upstream.accept().await;
    within("the request at the upstream", wire.head()).await.unwrap().unwrap();
    wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await.unwrap();
    client.head().await;
    assert!(is_reset(&mut client).await);
}

#[tokio::test]
async fn whole_response_to_http10_ends_without_a_reset() {
    let world =
        responding("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await;
    let mut client = world.connect().await;
    client.send(&RawRequest::get("/").http10()).await;
    assert_eq!(client.response().await.text(), "hello");
    let mut client = world.connect().await;
    client.send(&RawRequest::get("/").http10()).await;
    assert!(!is_reset(&mut client).await);
}

#[tokio::test]
async fn response_that_breaks_off_is_broken_over_http2() {
    let upstream = Manual::start().await;
    let world = to(&upstream.url, "").await;
    let mut client = H2Client::plain(world.address("main")).await;
    let (_frames, body) = streamed();
    let request = client.request("GET", "/").body(body).unwrap();
    let call = tokio::spawn(async move { client.try_exchange(request).await });
    let mut wire = upstream.accept().await;
    within("the request at the upstream", wire.head()).await.unwrap().unwrap();
    wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await.unwrap();
    drop(wire);
    assert!(within("the request to end", call).await.unwrap().is_err());
}
