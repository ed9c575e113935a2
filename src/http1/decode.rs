//! A body on its way in: where it ends (RFC 9112 sections 6 and 7).

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};
use hyper::body::Frame;

/// All chunk extensions of a body; nobody here understands one (CVE-2023-39326 and its like).
const EXTENSIONS: usize = 16 * 1024;
const TRAILER_BYTES: usize = 16 * 1024;
const TRAILERS: usize = 100;

/// Takes a body's frames off what was read.
#[derive(Debug)]
pub struct Decoder(Kind);

#[derive(Debug)]
enum Kind {
    /// Bytes that are still to come.
    Length(u64),
    Chunked(Chunked),
    UntilClose {
        closed: bool,
    },
}

#[derive(Debug)]
struct Chunked {
    state: State,
    /// Of the chunk that is being read.
    left: u64,
    extensions: usize,
    trailers: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first digit of a size.
    Size,
    Digits,
    /// Spaces after a size.
    Space,
    Extension,
    SizeEnd,
    Data,
    DataCr,
    DataLf,
    /// At the start of a line after the last chunk.
    Trailer,
    TrailerLine,
    LastLf,
    End,
}

/// Why a body can't be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadBody(pub &'static str);

impl std::fmt::Display for BadBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for BadBody {}

impl Decoder {
    pub fn none() -> Self {
        Self::length(0)
    }

    pub fn length(length: u64) -> Self {
        Self(Kind::Length(length))
    }

    pub fn chunked() -> Self {
        Self(Kind::Chunked(Chunked { state: State::Size, left: 0, extensions: 0, trailers: Vec::new() }))
    }

    /// A response whose end is the connection's.
    pub fn until_close() -> Self {
        Self(Kind::UntilClose { closed: false })
    }

    pub fn is_until_close(&self) -> bool {
        matches!(self.0, Kind::UntilClose { .. })
    }

    /// Nothing more belongs to the body.
    pub fn is_end(&self) -> bool {
        match &self.0 {
            Kind::Length(left) => *left == 0,
            Kind::Chunked(chunked) => chunked.state == State::End,
            Kind::UntilClose { closed } => *closed,
        }
    }

    /// Bytes that are still to come, where that is known.
    pub fn left(&self) -> Option<u64> {
        match &self.0 {
            Kind::Length(left) => Some(*left),
            Kind::Chunked(_) | Kind::UntilClose { .. } => None,
        }
    }

    /// All of the body, where all of it is in `input`, or where there is none.
    pub fn take_whole(&mut self, input: &mut Bytes) -> Option<Bytes> {
        let Kind::Length(left) = &mut self.0 else { return None };
        let size = usize::try_from(*left).ok().filter(|size| *size <= input.len())?;
        *left = 0;
        Some(if size == 0 { Bytes::new() } else { input.split_to(size) })
    }

    /// Takes the next frame off `input`; `None`: at the end, or more must be read.
    ///
    /// # Errors
    /// The framing is broken: nothing after it can be trusted.
    pub fn take(&mut self, input: &mut Bytes) -> Result<Option<Frame<Bytes>>, BadBody> {
        match &mut self.0 {
            Kind::Length(left) => Ok(take_data(left, input)),
            Kind::Chunked(chunked) => chunked.take(input),
            Kind::UntilClose { .. } if input.is_empty() => Ok(None),
            Kind::UntilClose { .. } => Ok(Some(Frame::data(std::mem::take(input)))),
        }
    }

    /// The peer sends no more.
    ///
    /// # Errors
    /// The body is not whole.
    pub fn closed(&mut self) -> Result<(), BadBody> {
        if let Kind::UntilClose { closed } = &mut self.0 {
            *closed = true;
        }
        if self.is_end() { Ok(()) } else { Err(BadBody("it ended before its end")) }
    }
}

fn take_data(left: &mut u64, input: &mut Bytes) -> Option<Frame<Bytes>> {
    let size = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
    if size == 0 {
        return None;
    }
    *left -= size as u64;
    Some(Frame::data(input.split_to(size)))
}

impl Chunked {
    fn take(&mut self, input: &mut Bytes) -> Result<Option<Frame<Bytes>>, BadBody> {
        loop {
            if self.state == State::Data {
                let frame = take_data(&mut self.left, input);
                if self.left == 0 {
                    self.state = State::DataCr;
                }
                if frame.is_some() || input.is_empty() {
                    return Ok(frame);
                }
                continue;
            }
            if self.state == State::End {
                return Ok(None);
            }
            let Some(byte) = input.first().copied() else { return Ok(None) };
            input.advance(1);
            let next = self.next(byte)?;
            // Read first: a body whose trailers are broken has no end.
            let fields = match next {
                State::End if !self.trailers.is_empty() => Some(trailers(&self.trailers)?),
                _ => None,
            };
            self.state = next;
            if let Some(fields) = fields {
                return Ok(Some(Frame::trailers(fields)));
            }
        }
    }

    fn next(&mut self, byte: u8) -> Result<State, BadBody> {
        const SIZE: BadBody = BadBody("a chunk's size is not one");
        match (self.state, byte) {
            (State::Size | State::Digits, byte) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16).ok_or(SIZE)?;
                let size = self.left.checked_mul(16).ok_or(SIZE)?;
                self.left = size.checked_add(u64::from(digit)).ok_or(SIZE)?;
                Ok(State::Digits)
            }
            (State::Digits | State::Space, b' ' | b'\t') => {
                self.note_extension()?;
                Ok(State::Space)
            }
            (State::Digits | State::Space, b';') => Ok(State::Extension),
            (State::Digits | State::Space | State::Extension, b'\r') => Ok(State::SizeEnd),
            (State::Extension, b'\n') => Err(BadBody("a chunk extension has a bare line feed")),
            (State::Extension, _) => {
                self.note_extension()?;
                Ok(State::Extension)
            }
            (State::SizeEnd, b'\n') if self.left == 0 => Ok(State::Trailer),
            (State::SizeEnd, b'\n') => Ok(State::Data),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size),
            (State::Trailer, b'\r') => Ok(State::LastLf),
            (State::Trailer | State::TrailerLine, _) => self.trailer(byte),
            (State::LastLf, b'\n') => Ok(State::End),
            (State::Size | State::Digits | State::Space | State::SizeEnd, _) => Err(SIZE),
            (State::DataCr | State::DataLf, _) => Err(BadBody("a chunk is longer than its size")),
            (State::LastLf, _) => Err(BadBody("its last line does not end as it must")),
            (State::Data | State::End, _) => Err(BadBody("a chunk was taken twice")),
        }
    }

    fn note_extension(&mut self) -> Result<(), BadBody> {
        self.extensions += 1;
        if self.extensions > EXTENSIONS { Err(BadBody("its chunk extensions are too long")) } else { Ok(()) }
    }

    fn trailer(&mut self, byte: u8) -> Result<State, BadBody> {
        if self.trailers.len() >= TRAILER_BYTES {
            return Err(BadBody("its trailers are too long"));
        }
        if byte == b'\n' && self.trailers.last() != Some(&b'\r') {
            // Some read on, some take the line for the end.
            return Err(BadBody("a trailer has a bare line feed"));
        }
        self.trailers.push(byte);
        Ok(if byte == b'\n' { State::Trailer } else { State::TrailerLine })
    }
}

fn trailers(lines: &[u8]) -> Result<HeaderMap, BadBody> {
    const WRONG: BadBody = BadBody("its trailers are not fields");
    let mut text = Vec::with_capacity(lines.len() + 2);
    text.extend_from_slice(lines);
    text.extend_from_slice(b"\r\n");
    let mut room = [httparse::EMPTY_HEADER; TRAILERS];
    let fields = match httparse::parse_headers(&text, &mut room) {
        // An empty line among them would be their end to others.
        Ok(httparse::Status::Complete((used, fields))) if used == text.len() => fields,
        Ok(_) => return Err(WRONG),
        Err(httparse::Error::TooManyHeaders) => return Err(BadBody("it has too many trailers")),
        Err(_) => return Err(WRONG),
    };
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| WRONG)?;
        map.append(name, HeaderValue::from_bytes(field.value).map_err(|_| WRONG)?);
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Data, trailers and what is left, read in pieces of this many bytes.
    fn read(
        decoder: &mut Decoder,
        text: &[u8],
        step: usize,
    ) -> Result<(Vec<u8>, HeaderMap, Vec<u8>), BadBody> {
        let (mut data, mut trailers, mut rest) = (Vec::new(), HeaderMap::new(), Vec::new());
        for piece in text.chunks(step) {
            let mut input = Bytes::copy_from_slice(piece);
            while let Some(frame) = decoder.take(&mut input)? {
                match frame.into_data() {
                    Ok(bytes) => data.extend_from_slice(&bytes),
                    Err(frame) => trailers = frame.into_trailers().unwrap(),
                }
            }
            assert!(input.is_empty() || decoder.is_end());
            rest.extend_from_slice(&input);
        }
        Ok((data, trailers, rest))
    }

    #[test]
    fn chunks_may_come_in_any_pieces() {
        let text = b"5;a=b\r\nhello\r\n1 \r\n!\r\n0;last\r\nChecksum: 7\r\nb: c\r\n\r\nnext";
        for step in 1..text.len() {
            let mut decoder = Decoder::chunked();
            let (data, trailers, rest) = read(&mut decoder, text, step).unwrap();
            assert_eq!((data.as_slice(), rest.as_slice()), (&b"hello!"[..], &b"next"[..]), "{step}");
            assert_eq!((trailers.len(), &trailers["checksum"]), (2, &HeaderValue::from_static("7")));
            assert!(decoder.is_end() && decoder.closed().is_ok());
        }
    }

    #[test]
    fn broken_framing_is_refused() {
        let long = format!("1;{}\r\na\r\n", "x".repeat(EXTENSIONS + 1));
        let many = format!("0\r\n{}\r\n", "a: b\r\n".repeat(TRAILERS + 1));
        let large = format!("0\r\na: {}\r\n\r\n", "b".repeat(TRAILER_BYTES));
        for wrong in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "5\nhello",
            "5\r\rhello",
            "2\r\nabc",
            "1\r\na\n",
            "ffffffffffffffff1\r\n",
            "1;a\nb\r\n",
            " 1\r\na\r\n",
            "0\r\nno field\r\n\r\n",
            "0\r\na: b\r\n\n\r\n",
            "0\r\na: b\n\r\n",
            "0\r\n\rx",
            &long,
            &many,
            &large,
        ] {
            assert!(read(&mut Decoder::chunked(), wrong.as_bytes(), 7).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_length_is_kept_and_a_short_body_is_told() {
        let mut decoder = Decoder::length(5);
        let (data, _, rest) = read(&mut decoder, b"hellonext", 3).unwrap();
        assert_eq!((data.as_slice(), rest.as_slice()), (&b"hello"[..], &b"next"[..]));
        let mut short = Decoder::length(5);
        read(&mut short, b"hell", 3).unwrap();
        assert_eq!(short.left(), Some(1));
        assert!(short.closed().is_err());
        assert!(Decoder::chunked().closed().is_err());
        let mut until_close = Decoder::until_close();
        assert!(!until_close.is_end());
        assert!(until_close.closed().is_ok() && until_close.is_end());
    }
}
