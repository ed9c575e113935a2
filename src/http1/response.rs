//! A response's head (RFC 9112 sections 4 and 6).

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes};
use http::{HeaderMap, Method, StatusCode, Version, header};
use hyper::ext::ReasonPhrase;

use super::decode::Decoder;
use super::fields::{self, KeepAlive};
use super::search::Search;

/// The largest head that is read; a response may have some large cookies.
const BYTES: usize = 128 * 1024;
const FIELDS: usize = 256;

/// Fields that a gateway adds: an id.
const ADDED: usize = 1;

/// The head of a response, and how its body is framed.
#[derive(Debug)]
pub struct ResponseHead {
    pub status: StatusCode,
    /// Where it is another one than the status usually has.
    pub reason: Option<ReasonPhrase>,
    pub headers: HeaderMap,
    pub body: Decoder,
    /// The connection takes another request after this body.
    pub keep_alive: bool,
}

/// Why a head is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadHead(pub &'static str);

impl ResponseHead {
    /// Takes the head of the answer to a `method` off `input`, and interim ones (1xx but 101) before it; `None`: it is
    /// not complete yet.
    ///
    /// # Errors
    /// It can't be read; the connection can't be used any more.
    pub fn take(input: &mut Bytes, method: &Method, search: &mut Search) -> Result<Option<Self>, BadHead> {
        while search.is_worth_a_try(input) {
            // A handle of its own, which what is read can borrow while `input` moves on.
            let whole = input.clone();
            let mut room = [const { MaybeUninit::uninit() }; FIELDS];
            let Some((length, head)) = parse(&whole, method, &mut room)? else { break };
            input.advance(length);
            if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Ok(Some(head));
            }
            if !search.passes_over() {
                return Err(BadHead("it goes on sending interim answers"));
            }
        }
        if input.len() > BYTES { Err(TOO_LARGE) } else { Ok(None) }
    }
}

const TOO_LARGE: BadHead = BadHead("its head is larger than 128 KiB");

fn parse<'a>(
    whole: &'a Bytes,
    method: &Method,
    room: &mut [MaybeUninit<httparse::Header<'a>>],
) -> Result<Option<(usize, ResponseHead)>, BadHead> {
    let mut parsed = httparse::Response::new(&mut []);
    let lines = httparse::ParserConfig::default();
    let length = match lines.parse_response_with_uninit_headers(&mut parsed, whole, room) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(BadHead("it has more than 256 fields")),
        Err(error) => return Err(BadHead(fields::words(error))),
    };
    if length > BYTES {
        return Err(TOO_LARGE);
    }
    let (Some(version), Some(status)) = (parsed.version, parsed.code) else {
        return Err(BadHead("its first line is not whole"));
    };
    let status = StatusCode::from_u16(status).map_err(|_| BadHead("its status is not one"))?;
    let reason = parsed.reason.filter(|reason| Some(*reason) != status.canonical_reason());
    let reason = reason.and_then(|reason| ReasonPhrase::try_from(reason.as_bytes()).ok());
    let headers = fields::read(whole, parsed.headers, ADDED).ok_or(BadHead("a field is not one"))?;
    let version = if version == 1 { Version::HTTP_11 } else { Version::HTTP_10 };
    let mut keep = KeepAlive::of_version(version == Version::HTTP_11);
    let (mut lengths, mut codings) = (0, 0);
    for line in &*parsed.headers {
        match line.name.len() {
            10 if line.name.eq_ignore_ascii_case("connection") => keep.line(line.value),
            14 if line.name.eq_ignore_ascii_case("content-length") => lengths += 1,
            17 if line.name.eq_ignore_ascii_case("transfer-encoding") => codings += 1,
            _ => {}
        }
    }
    let body = body(status, method, version, &headers, lengths, codings)?;
    let keep_alive = keep.keeps() && !body.is_until_close() && status != StatusCode::SWITCHING_PROTOCOLS;
    Ok(Some((length, ResponseHead { status, reason, headers, body, keep_alive })))
}

/// How long the body is (RFC 9112 section 6.3).
fn body(
    status: StatusCode,
    method: &Method,
    version: Version,
    headers: &HeaderMap,
    lengths: usize,
    codings: usize,
) -> Result<Decoder, BadHead> {
    let none = status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || *method == Method::HEAD
        || (*method == Method::CONNECT && status.is_success());
    if none {
        return Ok(Decoder::none());
    }
    if codings > 0 {
        if version == Version::HTTP_10 {
            return Err(BadHead("HTTP/1.0 has no Transfer-Encoding"));
        }
        return match fields::ends_chunked(headers) {
            Some(true) => Ok(Decoder::chunked()),
            Some(false) => Ok(Decoder::until_close()),
            None => Err(BadHead("its Transfer-Encoding is not text")),
        };
    }
    if lengths == 0 {
        return Ok(Decoder::until_close());
    }
    one_length(headers).map(Decoder::length).ok_or(BadHead("its Content-Length is not one length"))
}

/// Said several times, in lines or in a list, it must be the same.
fn one_length(headers: &HeaderMap) -> Option<u64> {
    let lines = headers.get_all(header::CONTENT_LENGTH).iter();
    let mut lengths = lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(|item| fields::length(item.trim_ascii()));
    let first = lengths.next()??;
    lengths.all(|other| other == Some(first)).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(text: &str) -> Result<Option<ResponseHead>, BadHead> {
        ResponseHead::take(&mut Bytes::copy_from_slice(text.as_bytes()), &Method::GET, &mut Search::default())
    }

    fn head(text: &str) -> ResponseHead {
        take(text).unwrap().unwrap()
    }

    #[test]
    fn interim_answers_are_passed_over() {
        let text = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 Nope\r\n\r\nrest";
        let mut input = Bytes::from_static(text);
        let head = ResponseHead::take(&mut input, &Method::GET, &mut Search::default()).unwrap().unwrap();
        assert_eq!((head.status, input), (StatusCode::NO_CONTENT, Bytes::from_static(b"rest")));
        assert_eq!(head.reason.unwrap().as_bytes(), b"Nope");
        assert!(head.headers.is_empty());
        assert!(take("HTTP/1.1 100 Continue\r\n\r\n").unwrap().is_none());
        assert!(take("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2").unwrap().is_none());
        assert_eq!(head_status("HTTP/1.1 101 Switching Protocols\r\n\r\n"), 101);
        assert!(take(&"HTTP/1.1 100 Continue\r\n\r\n".repeat(16)).is_err());
    }

    fn head_status(text: &str) -> u16 {
        head(text).status.as_u16()
    }

    #[test]
    fn bodies_are_framed() {
        let ended = |text: &str| head(text).body.is_end();
        assert!(ended("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
        assert!(!ended("HTTP/1.1 200 OK\r\nContent-Length: 7, 7\r\nContent-Length: 7\r\n\r\n"));
        assert!(ended("HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n"));
        let until_close = head("HTTP/1.1 200 OK\r\n\r\n");
        assert!(until_close.body.is_until_close() && !until_close.keep_alive);
        assert!(head("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n").body.is_until_close());
        assert!(head("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n").keep_alive);
        assert!(!head("HTTP/1.0 200 OK\r\nContent-Length: 7\r\n\r\n").keep_alive);
        let mut to_head = Bytes::from_static(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n");
        assert!(
            ResponseHead::take(&mut to_head, &Method::HEAD, &mut Search::default())
                .unwrap()
                .unwrap()
                .body
                .is_end()
        );
        for wrong in [
            "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nContent-Length: 8\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 7, 8\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: \u{fc}, chunked\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n",
        ] {
            assert!(take(wrong).is_err(), "{wrong:?}");
        }
    }
}
