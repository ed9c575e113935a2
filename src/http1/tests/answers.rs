//! Answers as they are written here, read by hyper's client: it must see what was meant, and where it ends.

use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::ext::ReasonPhrase;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::super::{Asked, Output, response_head};

const STATUS: [u16; 9] = [200, 200, 204, 206, 304, 404, 413, 500, 599];
const NAMES: [&str; 7] = ["x-a", "x-b", "set-cookie", "date", "trailer", "transfer-encoding", "keep-alive"];
const TRAILERS: [&str; 5] = ["x-sum", "x-other", "host", "set-cookie", "transfer-encoding"];

#[derive(Debug, Clone)]
struct Answer {
    status: u16,
    reason: Option<Vec<u8>>,
    fields: Vec<(usize, Vec<u8>)>,
    /// Its `Trailer`, its frames, and what follows them.
    announced: bool,
    frames: Vec<Vec<u8>>,
    trailers: Vec<(usize, Vec<u8>)>,
    /// Whether the length is said by the handler, known from the body, or neither.
    length: usize,
    http10: bool,
    head_only: bool,
    keep_alive: bool,
}

/// Bytes that a field's value may have.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![b' '..=b'~', Just(b'\t'), Just(b','), 0x80..=0xff_u8];
    prop::collection::vec(byte, 0..20).prop_map(|bytes| bytes.trim_ascii().to_vec())
}

fn fields(names: usize) -> impl Strategy<Value = Vec<(usize, Vec<u8>)>> {
    prop::collection::vec((0..names, value()), 0..4)
}

fn answer() -> impl Strategy<Value = Answer> {
    let frames = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..4);
    let large = prop::collection::vec(Just(vec![b'x'; 5000]), 1..3);
    let head = (prop::sample::select(&STATUS[..]), prop::option::of(value()), fields(NAMES.len()));
    let body = (any::<bool>(), prop_oneof![frames, large], fields(TRAILERS.len()), 0..3_usize);
    (head, body, any::<(bool, bool, bool)>()).prop_map(|(head, body, (http10, head_only, keep_alive))| {
        let ((status, reason, fields), (announced, frames, trailers, length)) = (head, body);
        Answer { status, reason, fields, announced, frames, trailers, length, http10, head_only, keep_alive }
    })
}

fn map(names: &[&'static str], fields: &[(usize, Vec<u8>)]) -> HeaderMap {
    let line = |(name, value): &(usize, Vec<u8>)| {
        (HeaderName::from_static(names[*name]), HeaderValue::from_bytes(value).unwrap())
    };
    fields.iter().map(line).collect()
}

impl Answer {
    fn has_body(&self) -> bool {
        !self.head_only && !matches!(self.status, 204 | 304)
    }

    fn body(&self) -> Vec<u8> {
        self.frames.concat()
    }

    fn response(&self) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap();
        *response.headers_mut() = map(&NAMES, &self.fields);
        if self.announced {
            response.headers_mut().append(header::TRAILER, HeaderValue::from_static("x-sum, Host"));
        }
        if self.length == 1 {
            response.headers_mut().insert(header::CONTENT_LENGTH, self.body().len().into());
        }
        let reason = self.reason.as_deref().and_then(|reason| ReasonPhrase::try_from(reason).ok());
        if let Some(reason) = reason {
            response.extensions_mut().insert(reason);
        }
        response
    }

    /// What goes out, and whether another answer may follow it.
    fn written(&self) -> (Vec<u8>, bool) {
        let version = if self.http10 { Version::HTTP_10 } else { Version::HTTP_11 };
        let asked = Asked { version, head_only: self.head_only, keep_alive: self.keep_alive };
        let body = self.body();
        let known = (self.length == 2).then_some(body.len() as u64);
        let mut out = Output::default();
        let shape = (body.is_empty() && self.length == 2, known);
        let (mut encoder, keep) =
            response_head(out.tail(), asked, &self.response(), shape, || SystemTime::UNIX_EPOCH);
        if !encoder.is_none() {
            for frame in &self.frames {
                encoder.data(&mut out, Bytes::copy_from_slice(frame)).unwrap();
            }
            encoder.end(&mut out, Some(&map(&TRAILERS, &self.trailers))).unwrap();
        }
        let mut io = Vec::new();
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(out.poll_write(&mut io, &mut cx).is_ready());
        (io, keep)
    }
}

async fn read_head(peer: &mut DuplexStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(peer.read_u8().await.unwrap());
    }
}

async fn ask(sender: &mut SendRequest<Empty<Bytes>>, method: &str) -> Response<hyper::body::Incoming> {
    let request = Request::builder().method(method).uri("/").body(Empty::new()).unwrap();
    sender.send_request(request).await.unwrap()
}

async fn check(answer: &Answer) {
    let (client, mut peer) = tokio::io::duplex(1 << 20);
    let (mut sender, connection) = handshake(TokioIo::new(client)).await.unwrap();
    let (bytes, keep) = answer.written();
    let playing = async {
        read_head(&mut peer).await;
        peer.write_all(&bytes).await.unwrap();
        if keep {
            read_head(&mut peer).await;
            peer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnext").await.unwrap();
        }
        peer.shutdown().await.unwrap();
    };
    let asking = async {
        let (head, body) = ask(&mut sender, if answer.head_only { "HEAD" } else { "GET" }).await.into_parts();
        let body = body.collect().await.unwrap();
        compare(answer, &head, body.trailers().cloned(), &body.to_bytes());
        if keep {
            sender.ready().await.unwrap();
            let next = ask(&mut sender, "GET").await.into_body().collect().await.unwrap();
            assert_eq!(next.to_bytes(), "next");
        }
        drop(sender);
    };
    let _ = tokio::join!(playing, asking, connection);
}

fn compare(answer: &Answer, head: &http::response::Parts, trailers: Option<HeaderMap>, body: &Bytes) {
    let meant = answer.response();
    assert_eq!((head.status, head.headers.contains_key(header::DATE)), (meant.status(), true));
    let reason = meant.extensions().get::<ReasonPhrase>().map(ReasonPhrase::as_bytes);
    let usual = meant.status().canonical_reason().unwrap_or("<none>").as_bytes();
    let read = head.extensions.get::<ReasonPhrase>().map_or(usual, ReasonPhrase::as_bytes);
    // An empty one, or one that is not ASCII, is no reason to hyper.
    if reason.is_some_and(|reason| reason.is_ascii() && !reason.is_empty()) {
        assert_eq!(read, reason.unwrap_or(usual));
    }
    for name in ["x-a", "x-b", "set-cookie", "keep-alive"] {
        let values = |headers: &HeaderMap| headers.get_all(name).iter().cloned().collect::<Vec<_>>();
        assert_eq!(values(&head.headers), values(meant.headers()), "{name}");
    }
    assert_eq!(body, &if answer.has_body() { answer.body() } else { Vec::new() });
    let framings = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING]
        .map(|name| head.headers.get_all(name).iter().count());
    assert!(framings.iter().sum::<usize>() <= 1, "{:?}", head.headers);
    let goes = answer.announced && answer.length == 0 && !answer.http10 && answer.has_body();
    let mut expected = if goes { map(&TRAILERS, &answer.trailers) } else { HeaderMap::new() };
    for name in ["x-other", "host", "set-cookie", "transfer-encoding"] {
        expected.remove(name);
    }
    assert_eq!(trailers.unwrap_or_default(), expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn an_answer_is_read_as_it_was_meant(answer in answer()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let limit = std::time::Duration::from_secs(10);
            tokio::time::timeout(limit, check(&answer)).await.unwrap();
        });
    }
}
