//! HTTP/2 at either end.

use std::collections::HashMap;

use bytes::Bytes;
use h2::Reason;
use http::{Request, Response};
use tokio::net::UnixStream;

use super::http1::answers;
use super::peer::Script;
use super::{Secrets, TOKEN};

/// With an empty SETTINGS frame.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Any frame: its kind, flags, stream and payload as the script says.
pub(super) fn any_frame(script: &mut Script<'_>) -> Vec<u8> {
    let (kind, flags, stream) = (script.byte() % 12, script.byte(), u32::from(script.byte()));
    frame(kind, flags, stream, script.piece())
}

fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for part in [name, value] {
        block.push(u8::try_from(part.len()).expect("short").min(126));
        block.extend_from_slice(part.as_bytes());
    }
}

/// A good request on some stream, with a body or without one.
pub(super) fn request(script: &mut Script<'_>, target: &str, stolen: &str) -> Vec<u8> {
    let (kind, stream) = (script.byte(), u32::from(script.byte()) * 2 + 1);
    let method = ["GET", "POST", "HEAD", "PUT", "OPTIONS", "DELETE"][usize::from(kind & 7) % 6];
    let mut block = Vec::new();
    // The stream's number is the request's.
    let mut parts = target.splitn(3, '-');
    let mut part = || parts.next().expect("three parts");
    let (whose, _, mark) = (part(), part(), part());
    let target = format!("{whose}-{stream}-{mark}");
    for (name, value) in [
        (":method", method),
        (":scheme", "http"),
        (":path", &target),
        (":authority", "localhost"),
        ("authorization", &format!("Bearer {stolen}")),
    ] {
        literal(&mut block, name, value);
    }
    let mut end = END_STREAM;
    let mut body = Vec::new();
    if kind & 8 != 0 {
        end = 0;
        let data = vec![b'b'; usize::from(script.byte()) * 16];
        let last = if kind & 16 == 0 { END_STREAM } else { 0 };
        body = frame(DATA, last, stream, &data);
    }
    [frame(HEADERS, END_HEADERS | end, stream, &block), body].concat()
}

/// A good response on some stream.
pub(super) fn response(script: &mut Script<'_>) -> Vec<u8> {
    let (kind, stream) = (script.byte(), u32::from(script.byte() % 16) * 2 + 1);
    let mut block = Vec::new();
    literal(&mut block, ":status", ["200", "401", "404", "103", "503", "204"][usize::from(kind & 7) % 6]);
    let end = if kind & 8 != 0 { END_STREAM } else { 0 };
    let head = frame(HEADERS, END_HEADERS | end, stream, &block);
    let last = if kind & 16 != 0 { END_STREAM } else { 0 };
    let data = frame(DATA, last, stream, &vec![b'a'; usize::from(script.byte()) * 16]);
    if kind & 32 != 0 { [head, data].concat() } else { head }
}

/// All that a caller got: on each stream the response to its own request.
pub(super) fn check_responses(mut bytes: &[u8], caller: usize, mark: &str) {
    let mut bodies: HashMap<u32, Vec<u8>> = HashMap::new();
    while bytes.len() >= 9 {
        let length = usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
        let (kind, flags) = (bytes[3], bytes[4]);
        let stream = u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]);
        let Some(payload) = bytes.get(9..9 + length) else { break };
        if kind == DATA {
            assert_eq!(flags & PADDED, 0, "we do not pad");
            bodies.entry(stream).or_default().extend_from_slice(payload);
        }
        bytes = &bytes[9 + length..];
    }
    for (stream, body) in bodies {
        let text = String::from_utf8_lossy(&body);
        assert!(!text.contains(&format!("unasked {mark}")), "a response that nobody asked for");
        for number in answers(&body, caller, mark) {
            assert_eq!(number, stream, "the response to another request");
        }
    }
}

/// A real server that reads what comes and responds as the script says.
pub(super) fn serve(stream: UnixStream, secrets: &Secrets, script: Vec<u8>) {
    let stolen = secrets.stolen.clone();
    tokio::spawn(async move {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        let mut script = script.into_iter();
        while let Some(Ok((request, respond))) = connection.accept().await {
            check_request(&request, &stolen);
            match script.next().unwrap_or_default() {
                255 => connection.graceful_shutdown(),
                254 => connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM),
                kind => drop(tokio::spawn(answer(request, respond, kind))),
            }
        }
    });
}

fn check_request(request: &Request<h2::RecvStream>, stolen: &str) {
    let credentials: Vec<_> = request.headers().get_all(http::header::AUTHORIZATION).iter().collect();
    assert_eq!(credentials.len(), 1, "one credential: {request:?}");
    assert!(credentials[0].as_bytes().starts_with(format!("Bearer {TOKEN}").as_bytes()), "ours");
    for (name, value) in request.headers() {
        assert!(
            !String::from_utf8_lossy(value.as_bytes()).contains(stolen),
            "{name} has the caller's credential"
        );
    }
}

async fn answer(
    mut request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    kind: u8,
) {
    if kind & 1 == 0 {
        while let Some(Ok(data)) = request.body_mut().data().await {
            let _ = request.body_mut().flow_control().release_capacity(data.len());
        }
        if let Ok(Some(trailers)) = request.body_mut().trailers().await {
            assert!(!trailers.contains_key(http::header::AUTHORIZATION), "a credential in the trailers");
        }
    }
    match kind >> 1 & 7 {
        0 => respond.send_reset(Reason::REFUSED_STREAM),
        1 => respond.send_reset(Reason::INTERNAL_ERROR),
        2 => _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await,
        3 => respond.send_reset(Reason::HTTP_1_1_REQUIRED),
        more => {
            let status = if more == 4 { 401 } else { 200 };
            let response = Response::builder().status(status).body(()).expect("a response");
            let Ok(mut body) = respond.send_response(response, false) else { return };
            let marker = format!("answer {};", request.uri().path());
            let _ = body.send_data(Bytes::from(marker), false);
            let _ = body.send_data(Bytes::from(vec![b'a'; usize::from(kind) * 300]), kind & 0x80 == 0);
        }
    }
}
