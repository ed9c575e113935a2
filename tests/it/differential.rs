//! Requests that were tampered with: what goes up is what an HTTP server without a proxy before it would have read, or
//! nothing.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Recorded, Setup, Wire, World, within};

/// Method, target, body.
type Taken = (String, String, Vec<u8>);

/// What hyper's server takes these bytes for.
async fn hypers(bytes: &[u8]) -> Vec<Taken> {
    let (mut caller, server) = tokio::io::duplex(1 << 20);
    let all = Arc::<Mutex<Vec<Taken>>>::default();
    let taken = Arc::clone(&all);
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let taken = Arc::clone(&taken);
        async move {
            let (parts, body) = request.into_parts();
            if let Ok(body) = body.collect().await {
                let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
                // As the upstream of the tests writes a target: a character for each byte.
                let target = target.bytes().map(char::from).collect();
                taken.lock().unwrap().push((parts.method.to_string(), target, body.to_bytes().to_vec()));
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.half_close(true);
    let serving = builder.serve_connection(TokioIo::new(server), service);
    let asking = async {
        caller.write_all(bytes).await.unwrap();
        caller.shutdown().await.unwrap();
        caller.read_to_end(&mut Vec::new()).await.unwrap();
    };
    let _ = tokio::join!(serving, asking);
    all.lock().unwrap().clone()
}

/// Sends the bytes, and reads until the proxy ends the connection or has responded to all.
async fn send(world: &World, bytes: &[u8]) {
    let mut wire = Wire::tcp(world.address("main")).await.unwrap();
    // It may refuse the beginning and close while the rest is on its way.
    let _sent = wire.send(bytes).await;
    let _finished = wire.finish().await;
    let _answers = within("the end of the responses", wire.rest()).await;
}

fn check(request: &Recorded) {
    let raw = String::from_utf8_lossy(&request.head.raw).into_owned();
    let lengths = request.headers("content-length").len() + request.headers("transfer-encoding").len();
    assert!(lengths <= 1, "one framing: {raw:?}");
    assert!(request.headers("transfer-encoding").iter().all(|coding| *coding == "chunked"), "{raw:?}");
    assert_eq!(request.headers("host").len(), 1, "{raw:?}");
    assert_eq!(request.headers("authorization"), ["Bearer token-1"], "{raw:?}");
    assert_eq!(request.head.word(2), "HTTP/1.1", "{raw:?}");
    for (name, value) in &request.head.fields {
        let token = |char: char| char.is_ascii_graphic() && !"()<>@,;:\\\"/[]?={}".contains(char);
        assert!(!name.is_empty() && name.chars().all(token), "{raw:?}");
        assert!(!value.contains(['\r', '\n', '\0']), "{raw:?}");
    }
}

/// `late`: what the last inputs meant; where their caller ended the connection, the upstream may read that only now.
async fn compare(world: &World, bytes: &[u8], late: &mut VecDeque<Vec<Taken>>) {
    let before = world.upstream().count();
    send(world, bytes).await;
    let went_up = world.upstream().requests().split_off(before);
    let hypers = hypers(bytes).await;
    let mut expected = hypers.iter();
    let text = String::from_utf8_lossy(bytes);
    for request in &went_up {
        check(request);
        let taken: Taken =
            (request.method().to_owned(), request.target().to_owned(), request.body.data.clone());
        // Everything between was refused, or got its response here.
        let known = late.iter().flatten().any(|hypers| same(hypers, &taken));
        assert!(
            expected.clone().any(|hypers| same(hypers, &taken)) || known,
            "{text:?}: {taken:?} went up, hyper read {hypers:?}"
        );
        if !known {
            expected.find(|hypers| same(hypers, &taken));
        }
    }
    late.push_back(hypers);
    if late.len() > 5 {
        late.pop_front();
    }
}

/// A target without a path gets one.
fn same(hypers: &Taken, ours: &Taken) -> bool {
    let target = if hypers.1.starts_with('/') { hypers.1.clone() } else { format!("/{}", hypers.1) };
    hypers.0 == ours.0 && target == ours.1 && hypers.2 == ours.2
}

const REQUESTS: [&str; 12] = [
    "GET /a?b=c HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;a=b\r\n!\r\n0\r\n\r\n",
    "PUT /t HTTP/1.1\r\nHost: localhost\r\nTrailer: a\r\nTransfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\na: b\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "GET / HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
    "GET http://localhost/x HTTP/1.1\r\nHost: localhost\r\nConnection: close, x\r\n\r\n",
    "\r\nDELETE /d HTTP/1.1\r\nHost: localhost\r\nX-A:\tb \r\nX-A: c\r\n\r\n",
    "POST / HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked\n\n003 ;x=\"y\"\r\nabc\r\n0\r\nb: c\r\nd:\te \r\n\r\n",
    "PATCH /p HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding:\tChunked \r\n\r\n2\r\n\r\n\r\n0\r\n\r\n",
    "OPTIONS /o HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\nConnection: TE\r\nContent-Length: 0\r\n\r\n",
];

/// What decides where a message ends, and what is near to it.
const PIECES: [&str; 40] = [
    "\r\n",
    "\n",
    "\r",
    " ",
    "\t",
    ":",
    ";",
    ",",
    "0",
    "5",
    "ff",
    "\0",
    "\u{80}",
    "+",
    "-",
    "\u{b}",
    "Content-Length: 1\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: identity\r\n",
    "chunked",
    "HTTP/1.0",
    "Connection: close\r\n",
    "0\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "\r\n folded",
    "\r\n\tfolded",
    "\r\r\n",
    "\n\n",
    "+3\r\n",
    "0x3\r\n",
    "00000000000000000",
    "3 \r\n",
    "Transfer-Encoding: xchunked\r\n",
    "Transfer-Encoding: chunked, chunked\r\n",
    "Transfer-Encoding: chunked,\r\n",
    "Transfer_Encoding: chunked\r\n",
    "Transfer-Encoding : chunked\r\n",
    "Content-Length: 1, 1\r\n",
    "Host: other\r\n",
    "Connection: transfer-encoding, content-length\r\n",
];

#[test]
fn what_was_tampered_with_goes_up_as_it_was_read_or_not_at_all() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut late = VecDeque::new();
    let world = runtime.block_on(async { Setup::new().await.log("level = \"info\"").start().await });
    runtime.block_on(async {
        for one in REQUESTS {
            for other in REQUESTS {
                compare(&world, format!("{one}{other}{one}").as_bytes(), &mut late).await;
            }
        }
        assert!(world.upstream().count() > 200, "most of them are served: {}", world.upstream().count());
    });
    let chosen = prop::collection::vec(0..REQUESTS.len(), 1..3);
    let edit = (any::<prop::sample::Index>(), 0..PIECES.len(), 0..4_usize);
    let edits = prop::collection::vec(edit, 1..4);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) };
    let mut runner = TestRunner::new(config);
    let late = std::cell::RefCell::new(late);
    let outcome = runner.run(&(chosen, edits), |(chosen, edits)| {
        let mut bytes: Vec<u8> = chosen.iter().flat_map(|at| REQUESTS[*at].bytes()).collect();
        for (at, piece, removed) in edits {
            let at = at.index(bytes.len() + 1);
            let end = (at + removed).min(bytes.len());
            bytes.splice(at..end, PIECES[piece].bytes());
        }
        runtime.block_on(compare(&world, &bytes, &mut late.borrow_mut()));
        Ok(())
    });
    runtime.block_on(async { drop(world) });
    outcome.unwrap();
}
