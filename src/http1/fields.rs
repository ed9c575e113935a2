//! Header fields: from `httparse`'s to the map that the rest of the program reads.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// `room`: for so many more, since growing a map costs more than all of its insertions. Copies nothing of the values:
/// they share `head`, in which `fields` lie. `None`: a field that is not one.
pub(super) fn read(head: &Bytes, fields: &[httparse::Header<'_>], room: usize) -> Option<HeaderMap> {
    let mut map = HeaderMap::with_capacity(fields.len() + room);
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value)).ok()?;
        map.append(name, value);
    }
    Some(map)
}

/// Whether a list of tokens has this one, whatever its case (RFC 9110 section 5.6.1).
pub(super) fn has_token(value: &[u8], token: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(token))
}

/// A length: digits and nothing else (RFC 9110 section 8.6).
pub(super) fn length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |length, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        length.checked_mul(10)?.checked_add(digit)
    })
}

/// Whether `chunked` is the last transfer coding (RFC 9112 section 6.1); `None`: the last line is missing or no text.
pub(super) fn ends_chunked(headers: &HeaderMap) -> Option<bool> {
    let last = headers.get_all(header::TRANSFER_ENCODING).iter().next_back()?.to_str().ok()?;
    Some(last.rsplit(',').next().is_some_and(|coding| coding.trim_ascii().eq_ignore_ascii_case("chunked")))
}

/// What is wrong with a head's lines.
pub(super) fn words(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "a field's name is not one",
        httparse::Error::HeaderValue => "a field's value has bytes that it may not have",
        httparse::Error::NewLine => "a line does not end as it must",
        httparse::Error::Status => "its status is not one",
        httparse::Error::Token => "its first line has bytes that it may not have",
        httparse::Error::TooManyHeaders => "it has too many fields",
        httparse::Error::Version => "its version is not HTTP/1.0 or HTTP/1.1",
    }
}

/// What `Connection` says, over all its lines: once one of them says close, none takes that back.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeepAlive {
    keep: bool,
    closed: bool,
}

impl KeepAlive {
    /// HTTP/1.1 keeps a connection unless told otherwise, HTTP/1.0 closes it (RFC 9112 section 9.3).
    pub(super) fn of_version(http11: bool) -> Self {
        Self { keep: http11, closed: false }
    }

    pub(super) fn line(&mut self, value: &[u8]) {
        if has_token(value, b"close") {
            self.closed = true;
        } else if has_token(value, b"keep-alive") {
            self.keep = true;
        }
    }

    pub(super) fn keeps(self) -> bool {
        self.keep && !self.closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_digits() {
        assert_eq!(length(b"0"), Some(0));
        assert_eq!(length(b"18446744073709551615"), Some(u64::MAX));
        for wrong in ["", "+1", "-1", " 1", "1 ", "0x1", "1,1", "18446744073709551616"] {
            assert_eq!(length(wrong.as_bytes()), None, "{wrong:?}");
        }
    }

    #[test]
    fn close_is_not_taken_back() {
        let mut keep = KeepAlive::of_version(true);
        keep.line(b"Close, upgrade");
        keep.line(b"keep-alive");
        assert!(!keep.keeps());
        let mut old = KeepAlive::of_version(false);
        assert!(!old.keeps());
        old.line(b"Keep-Alive");
        assert!(old.keeps());
    }
}
