//! Against hyper's server, which has been read by many: whatever is taken for a request here, hyper takes for the same
//! request. To refuse more than it does is fine.

mod answers;

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Limits, RequestHead};

const LIMITS: Limits = Limits { bytes: 64 * 1024, fields: 100 };

/// A whole request: method, target, fields, body, trailers.
#[derive(Debug, Clone, PartialEq)]
struct Taken {
    method: String,
    target: String,
    fields: HeaderMap,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

/// Requests in a row, until one is refused, is not whole, or is the last one.
fn ours(bytes: &[u8]) -> Vec<Taken> {
    let (mut input, mut all) = (Bytes::copy_from_slice(bytes), Vec::new());
    while let Ok(Some(mut head)) = RequestHead::take(&mut input, LIMITS) {
        let (mut body, mut trailers) = (Vec::new(), None);
        while let Ok(Some(frame)) = head.body.take(&mut input) {
            match frame.into_data() {
                Ok(data) => body.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        if !head.body.is_end() {
            break;
        }
        let (method, target) = (head.method.to_string(), head.uri.to_string());
        all.push(Taken { method, target, fields: head.headers, body, trailers });
        if !head.keep_alive || head.upgrade {
            break;
        }
    }
    all
}

async fn hypers(bytes: &[u8]) -> Vec<Taken> {
    let (mut caller, server) = tokio::io::duplex(1 << 20);
    let all = Rc::new(RefCell::new(Vec::new()));
    let taken = Rc::clone(&all);
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let taken = Rc::clone(&taken);
        async move {
            let (parts, body) = request.into_parts();
            if let Ok(body) = body.collect().await {
                let trailers = body.trailers().cloned();
                let body = body.to_bytes().to_vec();
                let (method, target) = (parts.method.to_string(), parts.uri.to_string());
                taken.borrow_mut().push(Taken { method, target, fields: parts.headers, body, trailers });
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.max_headers(LIMITS.fields).half_close(true);
    let serving = builder.serve_connection(TokioIo::new(server), service);
    let asking = async {
        caller.write_all(bytes).await.unwrap();
        caller.shutdown().await.unwrap();
        caller.read_to_end(&mut Vec::new()).await.unwrap();
    };
    let _ = tokio::join!(serving, asking);
    all.take()
}

fn compare(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (ours, hypers) = (ours(bytes), runtime.block_on(hypers(bytes)));
    let same = ours.iter().zip(&hypers).all(|(ours, hypers)| ours == hypers);
    let text = String::from_utf8_lossy(bytes);
    assert!(same && ours.len() <= hypers.len(), "{text:?}\nours {ours:#?}\nhyper's {hypers:#?}");
}

const REQUESTS: [&str; 12] = [
    "GET /a?b=c HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;a=b\r\n!\r\n0\r\n\r\n",
    "PUT /t HTTP/1.1\r\nTrailer: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\nA\r\n0123456789\r\n0\r\na: b\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "GET / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
    "GET http://host/x HTTP/1.1\r\nHost: host\r\nConnection: close, x\r\nExpect: 100-continue\r\n\r\n",
    "\r\nHEAD * HTTP/1.1\r\nX-A:\tb \r\nX-A: \x01c\r\n\r\n",
    "POST / HTTP/1.1\nHost: a\nHost: b\nTransfer-Encoding: chunked\n\n003 ;x=\"y\"\r\nabc\r\n0\r\nb: c\r\nd:\te \r\n\r\n",
    "PATCH /p HTTP/1.1\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding:\tChunked \r\n\r\n2\r\n\r\n\r\n0\r\n\r\n",
    "OPTIONS host:1 HTTP/1.1\r\nConnection: keep-alive\r\nConnection: TE\r\nContent-Length: 0\r\n\r\n",
];

#[test]
fn well_formed_requests_are_the_same() {
    for one in REQUESTS {
        compare(one.as_bytes());
        for other in REQUESTS {
            compare(format!("{one}{other}{one}").as_bytes());
        }
    }
    assert_eq!(ours(REQUESTS[2].as_bytes())[0].body, b"hello!");
    assert_eq!(ours(format!("{}{}{}", REQUESTS[3], REQUESTS[1], REQUESTS[0]).as_bytes()).len(), 3);
}

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
    "GET / HTTP/1.1\r\n\r\n",
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
    "Connection: upgrade\r\nUpgrade: x\r\n",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn what_was_tampered_with_is_the_same_or_refused(
        chosen in prop::collection::vec(0..REQUESTS.len(), 1..3),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..PIECES.len(), 0..4_usize), 0..4),
    ) {
        let mut bytes: Vec<u8> = chosen.iter().flat_map(|at| REQUESTS[*at].bytes()).collect();
        for (at, piece, removed) in edits {
            let at = at.index(bytes.len() + 1);
            let end = (at + removed).min(bytes.len());
            bytes.splice(at..end, PIECES[piece].bytes());
        }
        compare(&bytes);
    }
}
