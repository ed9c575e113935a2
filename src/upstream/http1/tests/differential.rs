//! Whatever is taken for an answer here, hyper takes for the same answer: nothing is more lenient than it was.

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::net::UnixStream;

use super::*;
use crate::upstream::http1::Http1;

/// What a caller sees of an answer; a body that breaks off is no answer here.
#[derive(Debug, PartialEq, Eq)]
struct Taken {
    status: u16,
    reason: Option<Vec<u8>>,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

async fn ours(bytes: &[u8], method: &Method) -> Option<Taken> {
    let (near, mut far) = UnixStream::pair().unwrap();
    far.write_all(bytes).await.unwrap();
    drop(far);
    let mut connection = Http1::new(near.into(), &Metrics::default().route(&Arc::from("a")), None);
    let head = poll_fn(|cx| connection.poll_head(method, &mut false, cx)).await.ok()?;
    let mut decoder = head.body;
    let (mut body, mut trailers) = (Vec::new(), None);
    while let Some(frame) = poll_fn(|cx| connection.poll_body(&mut decoder, cx)).await {
        match frame.ok()?.into_data() {
            Ok(data) => body.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    let reason = head.reason.map(|reason| reason.as_bytes().to_vec());
    Some(Taken { status: head.status.as_u16(), reason, headers: head.headers, body, trailers })
}

async fn hypers(bytes: &[u8], method: &Method) -> Option<Taken> {
    let (near, mut far) = UnixStream::pair().unwrap();
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.max_buf_size(128 * 1024).max_headers(256);
    let (mut sender, connection) = builder.handshake(TokioIo::new(near)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = Request::builder().method(method.clone()).uri("/").body(Empty::<Bytes>::new()).unwrap();
    let bytes = bytes.to_vec();
    tokio::spawn(async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(far.read_u8().await.unwrap());
        }
        // hyper may have seen enough.
        let _ = far.write_all(&bytes).await;
    });
    let (parts, body) = sender.send_request(request).await.ok()?.into_parts();
    let reason = parts.extensions.get::<hyper::ext::ReasonPhrase>();
    let reason = reason.map(|reason| reason.as_bytes().to_vec());
    let body = body.collect().await.ok()?;
    let trailers = body.trailers().cloned();
    let body = body.to_bytes().to_vec();
    Some(Taken { status: parts.status.as_u16(), reason, headers: parts.headers, body, trailers })
}

/// `true`: it was taken here.
async fn compare(bytes: &[u8], method: &Method) -> bool {
    let Some(ours) = ours(bytes, method).await else { return false };
    let hypers = hypers(bytes, method).await;
    assert_eq!(Some(ours), hypers, "{method} {:?}", String::from_utf8_lossy(bytes));
    true
}

const ANSWERS: [&str; 30] = [
    "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\ncontent-length:  5 \t\r\n\r\nhello and more",
    "HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n",
    "HTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n",
    "HTTP/1.1 200 Fine, \u{e4} thing\r\ncontent-length: 0\r\n\r\n",
    "HTTP/1.0 200 OK\r\n\r\nto the end",
    "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\nx: y\ncontent-length: 2\n\nok",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n000\r\nx-sum: 1\r\nx-sum: 2\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: gzip\r\n\r\nraw",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n1\r\na\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\nx: y\r\n\r\nnext",
    "HTTP/1.1 200 OK\r\ntransfer-encoding:\r\n\r\nraw",
    "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n",
    "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n",
    "HTTP/1.1 205 Reset Content\r\ncontent-length: 0\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\netag: \"x\"\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "HTTP/1.1 199 What\r\ncontent-length: 5\r\n\r\nHTTP/1.1 201 Created\r\ncontent-length: 1\r\n\r\n!",
    "HTTP/1.1 999 Odd\r\ncontent-length: 1\r\n\r\nx",
    "HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nempty:\r\nbytes: \u{fc}\r\ncontent-length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nx : a\r\ncontent-length: 0\r\n\r\n",
    "\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nto the end",
];

const METHODS: [Method; 3] = [Method::GET, Method::HEAD, Method::POST];

#[tokio::test]
async fn answers_are_hypers() {
    let mut taken = 0;
    for answer in ANSWERS {
        for method in METHODS {
            taken += usize::from(compare(answer.as_bytes(), &method).await);
        }
    }
    assert!(taken > 60, "most are answers: {taken}");
}

#[tokio::test]
async fn what_is_no_answer_is_refused() {
    for wrong in [
        "",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\ncontent-length: 5, 6\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length: 0x5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\nhello",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nno field\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nna me: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nname: \0\r\n\r\n",
    ] {
        assert!(ours(wrong.as_bytes(), &Method::GET).await.is_none(), "{wrong:?}");
    }
}

/// Where, and what is put there instead of how many bytes.
fn change() -> impl Strategy<Value = (usize, usize, Vec<u8>)> {
    let piece = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..3),
        prop_oneof![
            Just("\r\n"),
            Just("\n"),
            Just("\r"),
            Just(" "),
            Just("\t"),
            Just(","),
            Just(";"),
            Just(":"),
            Just("0"),
            Just("9"),
            Just("f"),
            Just("\r\n\r\n"),
            Just("\r\n "),
            Just("content-length: 5\r\n"),
            Just("content-length: 1\r\n"),
            Just("transfer-encoding: chunked\r\n"),
            Just("transfer-encoding: gzip\r\n"),
            Just("connection: close\r\n"),
            Just("0\r\n\r\n"),
            Just("5\r\n"),
            Just("chunked"),
            Just("HTTP/1.1 100 Continue\r\n\r\n"),
        ]
        .prop_map(|text| text.as_bytes().to_vec()),
    ];
    (any::<usize>(), 0..4_usize, piece)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn changed_answers_are_hypers(
        answer in 0..ANSWERS.len(),
        method in 0..METHODS.len(),
        changes in proptest::collection::vec(change(), 1..4),
    ) {
        let mut bytes = ANSWERS[answer].as_bytes().to_vec();
        for (at, cut, put) in changes {
            // Half of them between lines, where most of the meaning is.
            let starts: Vec<usize> = (0..bytes.len()).filter(|at| *at == 0 || bytes[at - 1] == b'\n').collect();
            let at = match starts.get(at % (2 * starts.len().max(1))) {
                Some(start) => *start,
                None => at % (bytes.len() + 1),
            };
            let end = (at + cut).min(bytes.len());
            bytes.splice(at..end, put);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(compare(&bytes, &METHODS[method]));
    }
}
