//! A request's head (RFC 9112 sections 3 and 6).

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes};
use http::{HeaderMap, Method, StatusCode, Uri, Version, header};

use super::decode::Decoder;
use super::fields::{self, KeepAlive};

/// The longest target; `http::Uri` takes no longer one.
const TARGET: usize = u16::MAX as usize - 1;
/// The most fields that are looked at without the heap.
const FIELDS: usize = 128;

/// Fields that a gateway adds: its name, an id, a credential.
const ADDED: usize = 3;

/// What a head may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of a whole head.
    pub bytes: usize,
    pub fields: usize,
}

/// The head of a request, and how its body is framed.
#[derive(Debug)]
pub struct RequestHead {
    pub method: Method,
    pub uri: Uri,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Decoder,
    /// The caller takes another answer on this connection.
    pub keep_alive: bool,
    /// The caller waits for 100 (Continue) before it sends its body (RFC 9110 section 10.1.1).
    pub expects_continue: bool,
    /// The caller would rather speak another protocol.
    pub upgrade: bool,
}

/// Why a head is not one that can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Not HTTP/1, or to be read in two ways.
    Malformed(&'static str),
    TargetTooLong,
    TooLarge,
}

impl Refused {
    /// The status that tells the caller.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        }
    }

    /// What is wrong, in words.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed(what) => what,
            Self::TargetTooLong => "its target is too long",
            Self::TooLarge => {
                "its head is larger than limits.header_bytes or has more than limits.header_count fields"
            }
        }
    }
}

impl RequestHead {
    /// Takes a head off `input`; `None`: it is not complete yet.
    ///
    /// # Errors
    /// The head can't be served; the connection can't be used any more.
    pub fn take(input: &mut Bytes, limits: Limits) -> Result<Option<Self>, Refused> {
        // A handle of its own, which what is read can borrow while `input` moves on.
        let whole = input.clone();
        let taken = if limits.fields <= FIELDS {
            let mut room = [const { MaybeUninit::uninit() }; FIELDS];
            parse(&whole, limits, room.get_mut(..limits.fields).unwrap_or_default())?
        } else {
            parse(&whole, limits, &mut vec![MaybeUninit::uninit(); limits.fields])?
        };
        let Some((length, head)) = taken else { return Ok(None) };
        input.advance(length);
        Ok(Some(head))
    }
}

fn parse<'a>(
    whole: &'a Bytes,
    limits: Limits,
    room: &mut [MaybeUninit<httparse::Header<'a>>],
) -> Result<Option<(usize, RequestHead)>, Refused> {
    let mut parsed = httparse::Request::new(&mut []);
    let lines = httparse::ParserConfig::default();
    let length = match lines.parse_request_with_uninit_headers(&mut parsed, whole, room) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Refused::TooLarge),
        Err(httparse::Error::Token) => return Err(Refused::Malformed("its method or its target is not one")),
        Err(error) => return Err(Refused::Malformed(fields::words(error))),
    };
    if length > limits.bytes {
        return Err(Refused::TooLarge);
    }
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Refused::Malformed("its first line is not whole"));
    };
    if target.len() > TARGET {
        return Err(Refused::TargetTooLong);
    }
    let method =
        Method::from_bytes(method.as_bytes()).map_err(|_| Refused::Malformed("its method is not one"))?;
    let uri = Uri::from_maybe_shared(whole.slice_ref(target.as_bytes()))
        .map_err(|_| Refused::Malformed("its target is not one"))?;
    let headers =
        fields::read(whole, parsed.headers, ADDED).ok_or(Refused::Malformed("a field is not one"))?;
    let version = if version == 1 { Version::HTTP_11 } else { Version::HTTP_10 };
    Ok(Some((length, framed(method, uri, version, headers, parsed.headers)?)))
}

/// How long the body is (RFC 9112 section 6.3), and what becomes of the connection.
fn framed(
    method: Method,
    uri: Uri,
    version: Version,
    mut headers: HeaderMap,
    lines: &[httparse::Header<'_>],
) -> Result<RequestHead, Refused> {
    let http11 = version == Version::HTTP_11;
    let mut keep = KeepAlive::of_version(http11);
    let (mut lengths, mut codings) = (0, 0);
    let (mut expects_continue, mut upgrade) = (false, method == Method::CONNECT);
    // By length first: most fields are none of these.
    for line in lines {
        match line.name.len() {
            6 if line.name.eq_ignore_ascii_case("expect") => {
                expects_continue = http11 && line.value.eq_ignore_ascii_case(b"100-continue");
            }
            7 if line.name.eq_ignore_ascii_case("upgrade") => upgrade = http11,
            10 if line.name.eq_ignore_ascii_case("connection") => keep.line(line.value),
            14 if line.name.eq_ignore_ascii_case("content-length") => lengths += 1,
            17 if line.name.eq_ignore_ascii_case("transfer-encoding") => codings += 1,
            _ => {}
        }
    }
    let mut keep_alive = keep.keeps();
    let body = if codings > 0 {
        if !http11 {
            return Err(Refused::Malformed("HTTP/1.0 has no Transfer-Encoding"));
        }
        if lengths > 0 {
            // RFC 9112 section 6.1: the coding counts, and nothing after this request is to be trusted.
            one_length(&mut headers, lengths)?;
            headers.remove(header::CONTENT_LENGTH);
            keep_alive = false;
        }
        chunked(&headers)?
    } else if lengths > 0 {
        one_length(&mut headers, lengths)?
    } else {
        Decoder::none()
    };
    Ok(RequestHead { method, uri, version, headers, body, keep_alive, expects_continue, upgrade })
}

/// What a request's last coding must be, or nobody knows where it ends.
fn chunked(headers: &HeaderMap) -> Result<Decoder, Refused> {
    match fields::ends_chunked(headers) {
        Some(true) => Ok(Decoder::chunked()),
        Some(false) | None => Err(Refused::Malformed("its last transfer coding is not chunked")),
    }
}

/// The same length said twice is one length.
fn one_length(headers: &mut HeaderMap, lines: usize) -> Result<Decoder, Refused> {
    const WRONG: Refused = Refused::Malformed("its Content-Length is not one length");
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter();
    let first = values.next().cloned().ok_or(WRONG)?;
    let length = fields::length(first.as_bytes()).ok_or(WRONG)?;
    if values.any(|other| fields::length(other.as_bytes()) != Some(length)) {
        return Err(WRONG);
    }
    if lines > 1 {
        headers.insert(header::CONTENT_LENGTH, first);
    }
    Ok(Decoder::length(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { bytes: 1000, fields: 10 };

    fn take(text: &str) -> Result<Option<RequestHead>, Refused> {
        RequestHead::take(&mut Bytes::copy_from_slice(text.as_bytes()), LIMITS)
    }

    fn head(text: &str) -> RequestHead {
        take(text).unwrap().unwrap()
    }

    fn refused(text: &str) -> StatusCode {
        take(text).unwrap_err().status()
    }

    #[test]
    fn what_follows_a_head_stays() {
        let mut input =
            Bytes::from_static(b"GET /a?b HTTP/1.1\r\nHost: x\r\nA: 1\r\na:  2 \r\n\r\nGET /next");
        let head = RequestHead::take(&mut input, LIMITS).unwrap().unwrap();
        assert_eq!(input, "GET /next");
        assert_eq!((head.method, head.uri.to_string()), (Method::GET, "/a?b".to_owned()));
        assert_eq!(head.headers.get_all("a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert!(head.keep_alive && head.body.is_end() && !head.upgrade && !head.expects_continue);
        assert!(RequestHead::take(&mut input, LIMITS).unwrap().is_none());
    }

    #[test]
    fn a_body_is_framed_in_one_way_or_refused() {
        assert!(!head("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n").body.is_end());
        assert!(head("POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n").body.is_end());
        let twice = head("POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n");
        assert_eq!(twice.headers.get_all(header::CONTENT_LENGTH).iter().count(), 1);
        let both = head("POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: Chunked\r\n\r\n");
        assert!(!both.keep_alive && !both.headers.contains_key(header::CONTENT_LENGTH));
        for wrong in [
            "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 3, 3\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length:\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: \u{fc}, chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nA: 1\r\n folded\r\n\r\n",
            "POST / HTTP/2.0\r\n\r\n",
            "P@ST / HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(refused(wrong), StatusCode::BAD_REQUEST, "{wrong:?}");
        }
    }

    #[test]
    fn limits_are_told_apart() {
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(TARGET));
        let roomy = Limits { bytes: 1 << 20, fields: 10 };
        let refused = |text: &str, limits| {
            RequestHead::take(&mut Bytes::copy_from_slice(text.as_bytes()), limits).unwrap_err()
        };
        assert_eq!(refused(&long, roomy), Refused::TargetTooLong);
        assert_eq!(refused(&long, LIMITS), Refused::TooLarge);
        let many = |count| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
        assert_eq!(refused(&many(11), LIMITS), Refused::TooLarge);
        assert_eq!(refused(&many(301), Limits { bytes: 1 << 20, fields: 300 }), Refused::TooLarge);
        assert_eq!(head(&many(10)).headers.len(), 10);
    }

    #[test]
    fn what_the_connection_becomes() {
        assert!(!head("GET / HTTP/1.0\r\n\r\n").keep_alive);
        assert!(head("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").keep_alive);
        assert!(!head("GET / HTTP/1.1\r\nConnection: x, CLOSE\r\n\r\n").keep_alive);
        assert!(head("GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n").upgrade);
        assert!(!head("GET / HTTP/1.0\r\nUpgrade: websocket\r\n\r\n").upgrade);
        assert!(head("PUT / HTTP/1.1\r\nExpect: 100-Continue\r\n\r\n").expects_continue);
        assert!(!head("PUT / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n").expects_continue);
    }
}
