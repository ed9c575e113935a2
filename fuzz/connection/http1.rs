//! HTTP/1.1 at either end: what is well said, and what must hold of what comes.

use super::TOKEN;
use super::peer::{Peer, Script};

/// A good request, of one of several kinds.
pub(super) fn request(script: &mut Script<'_>, target: &str, stolen: &str) -> Vec<u8> {
    let kind = script.byte();
    let method = ["GET", "POST", "HEAD", "PUT", "OPTIONS", "DELETE"][usize::from(kind & 7) % 6];
    let mut head = format!("{method} {target} HTTP/1.{}\r\nHost: localhost\r\n", u8::from(kind & 0x80 == 0));
    head.push_str(&format!("Authorization: Bearer {stolen}\r\n"));
    if kind & 8 != 0 {
        head.push_str("Expect: 100-continue\r\n");
    }
    if kind & 16 != 0 {
        head.push_str("Connection: close\r\n");
    }
    let body = vec![b'b'; usize::from(script.byte()) * 16];
    match (kind >> 5) & 3 {
        0 => head.push_str("\r\n"),
        1 => {
            head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
            return [head.as_bytes(), &body].concat();
        }
        2 => {
            head.push_str("Transfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n");
            let chunk = format!("{:x}\r\n{}\r\n", body.len().max(1), "b".repeat(body.len().max(1)));
            let end = format!("0\r\nx-sum: 1\r\nauthorization: Bearer {stolen}\r\n\r\n");
            return [head.as_bytes(), chunk.as_bytes(), end.as_bytes()].concat();
        }
        // The rest may come in raw pieces, or not.
        _ => head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len())),
    }
    head.into_bytes()
}

/// Answers the next request that has come on this connection, in one of several ways; where none has, unasked.
pub(super) fn answer(upstream: &mut Peer, script: &mut Script<'_>, mark: &str, unheard: bool) {
    let (kind, length) = (script.byte(), usize::from(script.byte()) * 16);
    let unanswered = upstream.received.get(upstream.answered..).unwrap_or_default();
    let (marker, answered) = match read_request(unanswered) {
        Some(request) => (format!("answer {};", request.target), request.length),
        // An early response, or a part of the one before.
        None if upstream.raw || unheard || !unanswered.is_empty() => (String::new(), 0),
        None => (format!("unasked {mark};"), 0),
    };
    upstream.answered += answered;
    let body = marker + &"a".repeat(length);
    let status =
        ["200 OK", "401 Unauthorized", "404 Not Found", "302 Found", "503 Busy"][usize::from(kind & 7) % 5];
    let whole = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let response = match kind >> 3 & 7 {
        0 | 1 => whole,
        2 => format!(
            "HTTP/1.1 {status}\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        ),
        3 => format!("HTTP/1.1 103 Early Hints\r\n\r\n{whole}"),
        4 => "HTTP/1.1 204 None\r\n\r\n".to_owned(),
        more => {
            upstream.raw = true;
            match more {
                5 => format!("HTTP/1.1 {status}\r\n\r\n{body}"),
                6 => format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len() + 100),
                _ => {
                    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n".to_owned()
                }
            }
        }
    };
    upstream.send(response.as_bytes());
}

/// A request as we send one.
struct Request {
    head: String,
    target: String,
    /// With its body.
    length: usize,
}

/// `None`: it is not there as a whole.
fn read_request(bytes: &[u8]) -> Option<Request> {
    let end = find(bytes, b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let target = head.split(' ').nth(1).expect("a request line").to_owned();
    let fields = |name: &str| {
        let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect::<Vec<_>>()
    };
    let (lengths, codings) = (fields("content-length"), fields("transfer-encoding"));
    assert!(lengths.len() + codings.len() <= 1, "two ways to find the end: {head}");
    let body = &bytes[end..];
    let length: usize = match (lengths.first(), codings.first()) {
        (Some(length), _) => length.parse().expect("a length"),
        (None, Some(coding)) => {
            assert_eq!(*coding, "chunked", "{head}");
            chunked(body)?
        }
        (None, None) => 0,
    };
    (length <= body.len()).then(|| Request { target, length: end + length, head })
}

/// The length of a whole chunked body with its trailers.
fn chunked(body: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = find(&body[at..], b"\r\n")?;
        let size = std::str::from_utf8(&body[at..at + line])
            .ok()
            .and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size.expect("a chunk size, without extensions");
        at += line + 2;
        if size == 0 {
            break;
        }
        at += size + 2;
        if at > body.len() {
            return None;
        }
        assert_eq!(&body[at - 2..at], b"\r\n", "a chunk ends");
    }
    loop {
        let line = find(&body[at..], b"\r\n")?;
        let trailer = String::from_utf8_lossy(&body[at..at + line]).to_lowercase();
        assert!(!trailer.starts_with("authorization"), "{trailer}");
        at += line + 2;
        if line == 0 {
            return Some(at);
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// All that came on one connection to an upstream.
pub(super) fn check_requests(mut bytes: &[u8], stolen: &str) {
    while !bytes.is_empty() {
        // Also of one whose body did not come.
        if let Some(end) = find(bytes, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]);
            let lines = head.lines().filter_map(|line| line.split_once(':'));
            let credentials: Vec<_> =
                lines.filter(|(name, _)| name.eq_ignore_ascii_case("authorization")).collect();
            assert_eq!(credentials.len(), 1, "one credential: {head}");
            assert!(credentials[0].1.trim().starts_with(&format!("Bearer {TOKEN}")), "ours: {head}");
            assert!(!head.contains(stolen), "nothing of the caller's: {head}");
        }
        let Some(request) = read_request(bytes) else { return };
        if request.head.to_lowercase().contains("\r\nupgrade:") {
            // What follows may be a tunnel's.
            return;
        }
        bytes = &bytes[request.length..];
    }
}

/// All that a caller got: responses to its own requests, each once, in their order.
pub(super) fn check_responses(bytes: &[u8], caller: usize, mark: &str) {
    assert!(find(bytes, format!("unasked {mark}").as_bytes()).is_none(), "a response that nobody asked for");
    let mut last = 0;
    for number in answers(bytes, caller, mark) {
        assert!(number > last, "the response to request {number} came after that to {last}");
        last = number;
    }
}

/// The numbers of the requests whose responses are in these bytes.
pub(super) fn answers(mut bytes: &[u8], caller: usize, mark: &str) -> Vec<u32> {
    let mut numbers = Vec::new();
    while let Some(at) = find(bytes, b"answer /") {
        bytes = &bytes[at + 8..];
        let target: String =
            bytes.iter().take(60).take_while(|byte| **byte != b';').map(|byte| char::from(*byte)).collect();
        // A raw request may have any target.
        let Some((whose, number)) = target.strip_suffix(mark).and_then(|target| target.split_once('-'))
        else {
            continue;
        };
        assert_eq!(whose, caller.to_string(), "the response to another caller's request");
        numbers.push(number.trim_end_matches('-').parse().expect("our own number"));
    }
    numbers
}
