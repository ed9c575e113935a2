//! Heads and bodies on their way out.

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, Method, Response, StatusCode, Version, header};
use hyper::ext::ReasonPhrase;

use super::fields::{has_token, length};
use super::output::Output;

/// One field's line.
pub type Field<'a> = (&'a HeaderName, &'a [u8]);

/// Writes a request's head. `first` come before `headers`; `skip` says which of those are left out.
pub fn request_head<'a>(
    out: &mut Vec<u8>,
    method: &Method,
    target: &PathAndQuery,
    first: impl IntoIterator<Item = Field<'a>>,
    headers: &HeaderMap,
    skip: impl Fn(&HeaderName) -> bool,
) {
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(target.as_str().as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in first {
        field(out, name, value);
    }
    for (name, value) in headers {
        if !skip(name) {
            field(out, name, value.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// What a response answers, as far as its bytes depend on it.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub version: Version,
    /// The method was HEAD: the head is as for GET, and nothing follows it.
    pub head_only: bool,
    /// Another request may follow on the connection.
    pub keep_alive: bool,
}

/// Writes a response's head, `Date` (RFC 9110 section 6.6.1) and what frames its body (RFC 9112 section 6) included.
/// `empty`: there is no body; `exact`: its length, where that is known. Gives how the body is to be written, and whether
/// the connection can be kept.
pub fn response_head<B>(
    out: &mut Vec<u8>,
    asked: Asked,
    response: &Response<B>,
    (empty, exact): (bool, Option<u64>),
    now: impl FnOnce() -> SystemTime,
) -> (Encoder, bool) {
    let (status, headers) = (response.status(), response.headers());
    let (encoder, length) = framing(asked, status, headers, (empty, exact));
    let chunked = matches!(encoder.0, Kind::Chunked(_));
    status_line(out, asked.version, response);
    let (mut dated, mut closes, mut said) = (false, !asked.keep_alive || encoder.is_until_close(), false);
    for (name, value) in headers {
        match name.as_str().len() {
            4 => dated = dated || *name == header::DATE,
            7 if !chunked && *name == header::TRAILER => continue,
            10 if *name == header::CONNECTION => {
                said = true;
                closes = closes || has_token(value.as_bytes(), b"close");
            }
            14 if *name == header::CONTENT_LENGTH => continue,
            17 if *name == header::TRANSFER_ENCODING => continue,
            _ => {}
        }
        field(out, name, value.as_bytes());
    }
    if let Some(length) = length {
        out.extend_from_slice(b"content-length: ");
        decimal(out, length);
        out.extend_from_slice(b"\r\n");
    } else if chunked {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    if !said && closes {
        out.extend_from_slice(b"connection: close\r\n");
    } else if !said && asked.version == Version::HTTP_10 {
        out.extend_from_slice(b"connection: keep-alive\r\n");
    }
    if !dated {
        date(out, now());
    }
    out.extend_from_slice(b"\r\n");
    (encoder, !closes)
}

/// How the body is written, and the length that the head says.
fn framing(
    asked: Asked,
    status: StatusCode,
    headers: &HeaderMap,
    (empty, exact): (bool, Option<u64>),
) -> (Encoder, Option<u64>) {
    if status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return (Encoder::none(), None);
    }
    let given = headers.get(header::CONTENT_LENGTH).and_then(|value| length(value.as_bytes()));
    if asked.head_only {
        return (Encoder::none(), given);
    }
    let known = if empty { Some(0) } else { given.or(exact) };
    match known {
        Some(length) => (Encoder::length(length), Some(length)),
        None if asked.version == Version::HTTP_10 => (Encoder::until_close(), None),
        None => (Encoder::chunked(headers), None),
    }
}

fn status_line<B>(out: &mut Vec<u8>, version: Version, response: &Response<B>) {
    let status = response.status();
    let reason = response.extensions().get::<ReasonPhrase>();
    if version != Version::HTTP_10 && status == StatusCode::OK && reason.is_none() {
        return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    out.extend_from_slice(if version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    // Some parsers want a reason, whatever it is.
    let usual = || status.canonical_reason().unwrap_or("<none>").as_bytes();
    out.extend_from_slice(reason.map_or_else(usual, ReasonPhrase::as_bytes));
    out.extend_from_slice(b"\r\n");
}

fn field(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    let name = name.as_str().as_bytes();
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn date(out: &mut Vec<u8>, now: SystemTime) {
    thread_local! {
        /// The second of the last one, and how it is written.
        static LAST: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let second = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    LAST.with_borrow_mut(|(last, text)| {
        if *last != second || text.is_empty() {
            *last = second;
            *text = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(second));
        }
        field(out, &header::DATE, text.as_bytes());
    });
}

/// How a body is framed on its way out.
#[derive(Debug)]
pub struct Encoder(Kind);

#[derive(Debug)]
enum Kind {
    /// Bytes that are still to go.
    Length(u64),
    /// With the trailer fields that the head announced.
    Chunked(Vec<HeaderName>),
    UntilClose,
}

/// A body was shorter or longer than its head said: the connection must end, or the peer would take what follows for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongLength;

impl Encoder {
    pub fn none() -> Self {
        Self(Kind::Length(0))
    }

    pub fn length(length: u64) -> Self {
        Self(Kind::Length(length))
    }

    /// `headers`: their `Trailer` says what may follow the last chunk (RFC 9110 section 6.6.2).
    pub fn chunked(headers: &HeaderMap) -> Self {
        let named =
            headers.get_all(header::TRAILER).iter().flat_map(|line| line.as_bytes().split(|b| *b == b','));
        Self(Kind::Chunked(named.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()).collect()))
    }

    pub fn until_close() -> Self {
        Self(Kind::UntilClose)
    }

    /// Nothing is to be written.
    pub fn is_none(&self) -> bool {
        matches!(self.0, Kind::Length(0))
    }

    pub fn is_until_close(&self) -> bool {
        matches!(self.0, Kind::UntilClose)
    }

    /// Writes one frame's data.
    ///
    /// # Errors
    /// It is more than was announced; what was announced is written.
    pub fn data(&mut self, out: &mut Output, mut data: Bytes) -> Result<(), WrongLength> {
        match &mut self.0 {
            Kind::Length(left) => {
                let room = usize::try_from(*left).unwrap_or(usize::MAX);
                let fits = data.len() <= room;
                data.truncate(room);
                *left -= data.len() as u64;
                out.push(data);
                return if fits { Ok(()) } else { Err(WrongLength) };
            }
            // An empty chunk would be the last one.
            Kind::Chunked(_) if data.is_empty() => {}
            Kind::Chunked(_) => {
                hexadecimal(out.tail(), data.len() as u64);
                out.tail().extend_from_slice(b"\r\n");
                out.push(data);
                out.tail().extend_from_slice(b"\r\n");
            }
            Kind::UntilClose => out.push(data),
        }
        Ok(())
    }

    /// Writes the end.
    ///
    /// # Errors
    /// It is less than was announced.
    pub fn end(self, out: &mut Output, trailers: Option<&HeaderMap>) -> Result<(), WrongLength> {
        match self.0 {
            Kind::Length(0) | Kind::UntilClose => Ok(()),
            Kind::Length(_) => Err(WrongLength),
            Kind::Chunked(announced) => {
                let out = out.tail();
                out.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten() {
                    if announced.contains(name) && may_trail(name) {
                        field(out, name, value.as_bytes());
                    }
                }
                out.extend_from_slice(b"\r\n");
                Ok(())
            }
        }
    }
}

fn hexadecimal(out: &mut Vec<u8>, number: u64) {
    digits::<16>(out, number);
}

fn decimal(out: &mut Vec<u8>, number: u64) {
    digits::<10>(out, number);
}

/// Without `std::fmt`, which costs more than the rest of a line.
fn digits<const BASE: u64>(out: &mut Vec<u8>, mut left: u64) {
    let mut digits = [0; 20];
    let mut count = 0;
    for digit in digits.iter_mut().rev() {
        let at = usize::try_from(left % BASE).unwrap_or_default();
        *digit = b"0123456789abcdef".get(at).copied().unwrap_or_default();
        left /= BASE;
        count += 1;
        if left == 0 {
            break;
        }
    }
    let start = digits.len() - count;
    out.extend_from_slice(digits.get(start..).unwrap_or_default());
}

/// What decides how a message is routed, framed, authorised or understood may not come after it (RFC 9110 section 6.5.1).
fn may_trail(name: &HeaderName) -> bool {
    !matches!(
        *name,
        header::AUTHORIZATION
            | header::CACHE_CONTROL
            | header::CONTENT_ENCODING
            | header::CONTENT_LENGTH
            | header::CONTENT_RANGE
            | header::CONTENT_TYPE
            | header::HOST
            | header::MAX_FORWARDS
            | header::SET_COOKIE
            | header::TRAILER
            | header::TRANSFER_ENCODING
            | header::TE
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: Asked = Asked { version: Version::HTTP_11, head_only: false, keep_alive: true };

    fn response(status: u16, fields: &[(&'static str, &'static str)]) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in fields {
            response.headers_mut().append(*name, value.parse().unwrap());
        }
        response
    }

    fn head(asked: Asked, response: &Response<()>, body: (bool, Option<u64>)) -> (String, bool) {
        let mut out = Vec::new();
        let (_, keep) = response_head(&mut out, asked, response, body, || SystemTime::UNIX_EPOCH);
        (String::from_utf8(out).unwrap(), keep)
    }

    #[test]
    fn a_head_says_what_follows_it() {
        let dated = [("date", "x"), ("content-length", "5")];
        let text = |asked, status, fields: &[_], body| head(asked, &response(status, fields), body);
        assert_eq!(
            text(KEPT, 200, &dated, (false, None)),
            ("HTTP/1.1 200 OK\r\ndate: x\r\ncontent-length: 5\r\n\r\n".to_owned(), true)
        );
        assert_eq!(
            text(KEPT, 299, &[("date", "x"), ("transfer-encoding", "gzip")], (false, None)),
            ("HTTP/1.1 299 <none>\r\ndate: x\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(), true)
        );
        assert_eq!(
            text(Asked { version: Version::HTTP_10, ..KEPT }, 200, &[("date", "x")], (false, None)),
            ("HTTP/1.0 200 OK\r\ndate: x\r\nconnection: close\r\n\r\n".to_owned(), false)
        );
        assert_eq!(
            text(Asked { version: Version::HTTP_10, ..KEPT }, 404, &[("date", "x")], (true, None)),
            (
                "HTTP/1.0 404 Not Found\r\ndate: x\r\ncontent-length: 0\r\nconnection: keep-alive\r\n\r\n"
                    .to_owned(),
                true
            )
        );
        assert_eq!(
            text(Asked { keep_alive: false, ..KEPT }, 204, &[], (true, None)),
            (
                "HTTP/1.1 204 No Content\r\nconnection: close\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n"
                    .to_owned(),
                false
            )
        );
        let head_only = Asked { head_only: true, ..KEPT };
        assert!(text(head_only, 200, &dated, (true, None)).0.contains("content-length: 5\r\n"));
        assert!(!text(head_only, 200, &[], (true, None)).0.contains("content-length"));
        assert!(text(KEPT, 200, &[], (false, Some(1234567890))).0.contains("content-length: 1234567890\r\n"));
        assert!(!text(KEPT, 200, &[("connection", "close")], (true, None)).1);
        assert!(!text(KEPT, 200, &[("trailer", "a")], (true, None)).0.contains("trailer"));
    }

    #[test]
    fn a_request_is_written_as_it_goes_up() {
        let mut headers = HeaderMap::new();
        headers.append("accept", "a".parse().unwrap());
        headers.append("accept", "b".parse().unwrap());
        headers.append("host", "old".parse().unwrap());
        let target = PathAndQuery::from_static("/a?b=c");
        let mut out = Vec::new();
        let first: [Field<'_>; 1] = [(&header::HOST, b"new")];
        request_head(&mut out, &Method::GET, &target, first, &headers, |name| *name == header::HOST);
        assert_eq!(out, b"GET /a?b=c HTTP/1.1\r\nhost: new\r\naccept: a\r\naccept: b\r\n\r\n");
    }

    #[test]
    fn bodies_are_as_long_as_was_said() {
        let mut out = Output::default();
        let mut encoder = Encoder::length(3);
        encoder.data(&mut out, Bytes::from_static(b"ab")).unwrap();
        assert_eq!(encoder.data(&mut out, Bytes::from_static(b"cd")), Err(WrongLength));
        assert_eq!(out.tail(), b"abc");
        assert_eq!(encoder.end(&mut out, None), Ok(()));
        assert_eq!(Encoder::length(1).end(&mut out, None), Err(WrongLength));
    }

    #[test]
    fn chunks_and_announced_trailers() {
        let mut headers = HeaderMap::new();
        headers.append(header::TRAILER, "checksum, Host".parse().unwrap());
        let mut encoder = Encoder::chunked(&headers);
        let mut out = Output::default();
        encoder.data(&mut out, Bytes::new()).unwrap();
        encoder.data(&mut out, Bytes::from(vec![b'x'; 26])).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("checksum", "7".parse().unwrap());
        trailers.insert("host", "evil".parse().unwrap());
        trailers.insert("other", "1".parse().unwrap());
        encoder.end(&mut out, Some(&trailers)).unwrap();
        let expected = format!("1a\r\n{}\r\n0\r\nchecksum: 7\r\n\r\n", "x".repeat(26));
        assert_eq!(out.tail(), expected.as_bytes());
    }

    #[test]
    fn numbers_are_written() {
        for number in [0, 9, 10, 255, 256, u64::MAX] {
            let (mut ten, mut sixteen) = (Vec::new(), Vec::new());
            decimal(&mut ten, number);
            hexadecimal(&mut sixteen, number);
            assert_eq!(ten, number.to_string().as_bytes());
            assert_eq!(sixteen, format!("{number:x}").as_bytes());
        }
    }
}
