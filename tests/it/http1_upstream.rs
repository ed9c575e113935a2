//! Upstreams that speak HTTP/1.1: connections that are kept, that have died, and what is said on them.

use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::manual::Manual;
use crate::support::{
    Client, RawRequest, RawResponse, Response, Setup, World, eventually, let_pass, to, within,
};

async fn at_once(world: &World, call: RawRequest, count: usize) -> Vec<Response> {
    let address = world.address("main");
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..count {
        let call = call.clone();
        running.spawn(async move { Client::tcp(address).await.exchange(&call).await });
    }
    running.join_all().await
}

/// Answers one request on each connection, and keeps it open without reading: whoever writes to it fails at once, and
/// sees nothing of that before.
fn reads_no_more(path: &std::path::Path) -> Arc<AtomicUsize> {
    let listener = UnixListener::bind(path).unwrap();
    let served = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&served);
    std::thread::spawn(move || {
        let open = Mutex::new(Vec::new());
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            respond_whole(&stream);
            stream.shutdown(Shutdown::Read).unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            open.lock().unwrap().push(stream);
        }
    });
    served
}

/// Reads a request with its `Content-Length`, and responds with how much came.
fn respond_whole(mut stream: &UnixStream) {
    use std::io::{Read, Write};
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = crate::support::message::Head::parse(head);
    let length = head.header("content-length").map_or(0, |length| length.parse().unwrap());
    stream.read_exact(&mut vec![0; length]).unwrap();
    let body = format!("{} {length}", head.word(0));
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
}

#[tokio::test]
async fn request_that_was_never_written_is_sent_again_whatever_its_method() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("up.sock");
    let served = reads_no_more(&path);
    let world = to(&format!("unix:{}", path.display()), "").await;
    for (n, (method, size)) in [("GET", 0), ("POST", 10), ("PATCH", 40_000), ("DELETE", 0), ("POST", 200_000)]
        .into_iter()
        .enumerate()
    {
        let call = RawRequest::new(method, "/").body(vec![b'x'; size]);
        assert_eq!(world.exchange(call).await.text(), format!("{method} {size}"));
        // It is counted after the response, once nothing more is read.
        eventually("the upstream to read no more", || async {
            (served.load(Ordering::SeqCst) == n + 1).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn response_that_began_is_not_asked_for_again() {
    let upstream = Manual::start().await;
    let world = to(&upstream.url, "").await;
    let mut client = world.connect().await;
    for begun in ["HTTP/1.1 200 O", "HTTP/1.1 200 OK\r\ncontent-le", "H"] {
        client.send(&RawRequest::get("/first")).await;
        let mut wire = upstream.accept().await;
        within("the request", wire.head()).await.unwrap().unwrap();
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        client.response().await.expect_status(200);
        client.send(&RawRequest::get("/second")).await;
        within("the second request", wire.head()).await.unwrap().unwrap();
        wire.send(begun).await.unwrap();
        drop(wire);
        client.response().await.expect_problem(502, "upstream_invalid");
        assert!(!upstream.has_connection().await, "{begun:?}");
    }
}

#[tokio::test]
async fn however_many_connections_have_died_a_request_is_served() {
    let setup = Setup::new().await;
    let upstream = &setup.upstream;
    // Each connection carries one response, and ends without a byte when it is used again.
    let used = Arc::<Mutex<Vec<usize>>>::default();
    upstream.always(move |request, _| {
        let mut used = used.lock().unwrap();
        let again = used.contains(&request.connection);
        used.push(request.connection);
        if again { RawResponse::drop() } else { RawResponse::ok("ok").delayed(Duration::from_millis(100)) }
    });
    let world = setup.start().await;
    for _ in 0..2 {
        for answer in at_once(&world, RawRequest::get("/"), 30).await {
            answer.expect_status(200);
        }
    }
    // A dead one is tried once, and not one after the other.
    let before = world.upstream().count();
    world.get("/").await.expect_status(200);
    assert!(world.upstream().count() - before <= 2);
}

#[tokio::test]
async fn connections_that_ended_while_they_were_idle_are_not_used() {
    let upstream = Manual::start().await;
    let world = to(&upstream.url, "").await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = world.connect().await;
        client.send(&RawRequest::get("/")).await;
        clients.push((client, upstream.accept().await));
    }
    for (client, wire) in &mut clients {
        wire.head().await.unwrap().unwrap();
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        client.response().await.expect_status(200);
    }
    let (mut clients, wires): (Vec<_>, Vec<_>) = clients.into_iter().unzip();
    drop(wires);
    eventually("the ends to be seen", || async {
        let open = world.metric("bearerd_upstream_connections", &[("route", "api")]).await;
        (open == Some(0.0)).then_some(())
    })
    .await;
    clients[0].send(&RawRequest::post("/", "x")).await;
    let mut wire = upstream.accept().await;
    wire.head().await.unwrap().unwrap();
    wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    clients[0].response().await.expect_status(200);
}

#[tokio::test]
async fn what_an_upstream_says_out_of_turn_is_nobodys_response() {
    let upstream = Manual::start().await;
    let world = to(&upstream.url, "").await;
    for words in ["HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "x"]
    {
        let mut client = world.connect().await;
        client.send(&RawRequest::get("/")).await;
        let mut wire = upstream.accept().await;
        wire.head().await.unwrap().unwrap();
        // Also where both come at once.
        wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok{words}")).await.unwrap();
        assert_eq!(client.response().await.text(), "ok");
        assert!(within("the upstream's connection to end", wire.closed()).await, "{words:?}");
    }
}

#[tokio::test]
async fn connection_is_not_used_when_the_upstream_is_about_to_close_it() {
    let setup = Setup::new().await;
    setup.upstream.always(|request, _| {
        let answer = RawResponse::ok("ok");
        match request.target() {
            "/short" => answer.header("keep-alive", "timeout=1, max=100"),
            "/never" => answer.header("Keep-Alive", "timeout=0"),
            _ => answer.header("Keep-Alive", "timeout=100"),
        }
    });
    let world = setup.start().await;
    for _ in 0..3 {
        world.get("/long").await.expect_status(200);
    }
    assert_eq!(world.upstream().opened(), 1);
    let answer = world.get("/short").await;
    answer.expect_status(200);
    assert_eq!(answer.header("keep-alive"), None, "that was for this hop");
    let_pass(Duration::from_millis(1200)).await;
    world.exchange(RawRequest::post("/", "x")).await.expect_status(200);
    assert_eq!((world.upstream().opened(), world.upstream().last().connection), (2, 1));
    world.get("/never").await.expect_status(200);
    world.exchange(RawRequest::post("/", "x")).await.expect_status(200);
    assert_eq!(world.upstream().last().connection, 2);
    eventually("the unused ones to end", || async { (world.upstream().closed() == 2).then_some(()) }).await;
}

#[tokio::test]
async fn title_case_is_for_upstreams_that_compare_names_letter_by_letter() {
    let title = Setup::new().await.route("header_case = \"title\"\nforwarded = true").start().await;
    let lower = Setup::new().await.start().await;
    for (world, titled) in [(&title, true), (&lower, false)] {
        let call = RawRequest::new("POST", "/")
            .header("x-device-id", "7")
            .header("CONTENT-TYPE", "text/plain")
            .header("TE", "trailers")
            .header("transfer-encoding", "chunked");
        let mut client = world.connect().await;
        client.send(&call).await;
        client.wire.send("2\r\nok\r\n0\r\n\r\n").await.unwrap();
        client.response().await.expect_status(200);
        let request = world.upstream().last();
        let names: Vec<&str> = request.head.fields.iter().map(|(name, _)| name.as_str()).collect();
        let mut wanted = vec![
            "Authorization",
            "Connection",
            "Content-Type",
            "Host",
            "Te",
            "Transfer-Encoding",
            "Via",
            "X-Device-Id",
            "X-Request-Id",
        ];
        if titled {
            wanted.extend(["X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"]);
        }
        for name in &wanted {
            let lower = name.to_ascii_lowercase();
            let name = if titled { name } else { lower.as_str() };
            assert!(names.contains(&name), "{name} in {names:?}");
        }
        assert_eq!(names.len(), wanted.len(), "{names:?}");
        assert_eq!(request.bearer(), Some("token-1"));
    }
}

#[tokio::test]
async fn reload_keeps_connections_and_the_requests_on_them() {
    let upstream = Manual::start().await;
    let mut world = to(&upstream.url, "").await;
    let mut client = world.connect().await;
    client.send(&RawRequest::new("POST", "/").header("Content-Length", "6")).await;
    let mut wire = upstream.accept().await;
    wire.head().await.unwrap().unwrap();
    client.wire.send("abc").await.unwrap();
    let more =
        "[[route]]\nname = \"b\"\npath = \"/b\"\nanonymous = true\nupstream = \"http://127.0.0.1:1\"\n";
    world.change(|text| format!("{text}\n{more}"));
    world.reload().await;
    client.wire.send("def").await.unwrap();
    assert_eq!(within("the body", wire.exact(6)).await.unwrap(), b"abcdef");
    wire.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha").await.unwrap();
    client.head().await;
    world.reload().await;
    wire.send("lf").await.unwrap();
    assert_eq!(within("the response", client.wire.exact(4)).await.unwrap(), b"half");
    client.send(&RawRequest::get("/next")).await;
    assert_eq!(within("the next request", wire.head()).await.unwrap().unwrap().word(1), "/next");
}

/// What an upstream writes, and what its caller reads: status, body, trailers. `None`: it is no response.
const RESPONSES: &[(&str, Option<(u16, &str)>)] = &[
    ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", Some((200, "hello"))),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", Some((200, "hello"))),
    ("HTTP/1.1 200 OK\r\ncontent-length:  5 \t\r\n\r\nhello and more", Some((200, "hello"))),
    ("HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", Some((200, ""))),
    ("HTTP/1.1 200 Fine, \u{e4} thing\r\ncontent-length: 0\r\n\r\n", Some((200, ""))),
    ("HTTP/1.0 200 OK\r\n\r\nto the end", Some((200, "to the end"))),
    ("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok", Some((200, "ok"))),
    ("HTTP/1.1 200 OK\nx: y\ncontent-length: 2\n\nok", Some((200, "ok"))),
    ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Some((200, "hello"))),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n000\r\nx-sum: 1\r\n\r\n",
        Some((200, "hello")),
    ),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\nnext",
        Some((200, "ab")),
    ),
    ("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", Some((204, ""))),
    ("HTTP/1.1 205 Reset Content\r\ncontent-length: 0\r\n\r\n", Some((205, ""))),
    ("HTTP/1.1 205 Reset Content\r\ncontent-length: 4\r\n\r\nevil", Some((205, ""))),
    (
        "HTTP/1.1 205 Reset Content\r\ntransfer-encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
        Some((205, "")),
    ),
    ("HTTP/1.1 205 Reset Content\r\n\r\nevil", Some((205, ""))),
    ("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\netag: \"x\"\r\n\r\n", Some((304, ""))),
    (
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        Some((200, "")),
    ),
    ("HTTP/1.1 999 Odd\r\ncontent-length: 1\r\n\r\nx", Some((999, "x"))),
    ("HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 0\r\n\r\n", Some((200, ""))),
    ("HTTP/1.1 200 OK\r\nx : a\r\ncontent-length: 0\r\n\r\n", Some((200, ""))),
    ("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nto the end", Some((200, "to the end"))),
    ("HTTP/1.1 200 OK\r\nempty:\r\nbytes: \u{fc}\r\ncontent-length: 0\r\n\r\n", Some((200, ""))),
    ("", None),
    ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell", None),
    ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!", None),
    ("HTTP/1.1 200 OK\r\ncontent-length: 5, 6\r\n\r\nhello!", None),
    ("HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nhello", None),
    ("HTTP/1.1 200 OK\r\ncontent-length: 0x5\r\n\r\nhello", None),
    ("HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\nhello", None),
    ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", None),
    ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n", None),
    ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nraw", None),
    ("HTTP/1.1 200 OK\r\ntransfer-encoding:\r\n\r\nraw", None),
    ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", None),
    ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n", None),
    ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n\r\n0\r\n\r\n", None),
    ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nno field\r\n\r\n", None),
    ("HTTP/2 200 OK\r\n\r\n", None),
    ("HTTP/1.1 2000 OK\r\n\r\n", None),
    ("HTTP/1.1 099 OK\r\n\r\n", None),
    ("HTTP/1.1 200 OK\r\nna me: x\r\n\r\n", None),
    ("HTTP/1.1 200 OK\r\nname: \0\r\n\r\n", None),
    ("SSH-2.0-x\r\n\r\n", None),
];

#[tokio::test]
async fn responses_are_read_as_their_framing_says_and_no_other_way() {
    let setup = Setup::new().await;
    setup.upstream.always(|request, _| {
        let at: usize = request.target()[1..].parse().unwrap();
        let bytes: Vec<u8> = RESPONSES[at].0.chars().map(|char| u8::try_from(char).unwrap()).collect();
        RawResponse::raw(bytes).then_close()
    });
    let world = setup.start().await;
    for (at, (text, expected)) in RESPONSES.iter().enumerate() {
        let mut client = world.connect().await;
        client.send(&RawRequest::get(&format!("/{at}"))).await;
        let head = client.head().await;
        let status: u16 = head.word(1).parse().unwrap();
        let bodiless = [204, 304].contains(&status);
        let body = if bodiless { Ok(Default::default()) } else { client.wire.body(&head, true).await };
        match (expected, body) {
            (Some((wanted, wanted_body)), Ok(body)) => {
                assert_eq!((status, body.data.as_slice()), (*wanted, wanted_body.as_bytes()), "{text:?}");
                // The caller's connection is in step.
                assert_eq!(client.exchange(&RawRequest::get("/0")).await.text(), "hello", "{text:?}");
            }
            (None, Ok(_)) => assert_eq!(status, 502, "{text:?}"),
            (None, Err(_)) => assert_eq!(status, 200, "broken off: {text:?}"),
            (Some(_), Err(error)) => panic!("{text:?}: {error}"),
        }
    }
}
