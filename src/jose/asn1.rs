//! The parts of ASN.1 that recognize key files and open PKCS#12: tag, length and value, in DER and BER.
//!
//! Windows, Java and NSS write PKCS#12 with indefinite lengths and segmented strings (BER), which DER parsers refuse.

use std::borrow::Cow;

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;
/// `[0]`, constructed.
pub(super) const CONTEXT_0: u8 = 0xa0;
/// `[0]` of a string that is not segmented.
pub(super) const CONTEXT_0_PRIMITIVE: u8 = 0x80;

const CONSTRUCTED: u8 = 0x20;

/// Bounds the work on a malicious file. No real file is nested this deep.
const DEPTH: usize = 16;

/// The bytes are not ASN.1, or incomplete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// One value with its tag.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tlv<'a> {
    pub tag: u8,
    pub content: &'a [u8],
    /// Tag, length and content.
    pub whole: &'a [u8],
}

impl<'a> Tlv<'a> {
    /// The single value in `bytes`, with nothing after it.
    pub(super) fn only(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let tlv = reader.next()?;
        if reader.is_empty() { Ok(tlv) } else { Err(Malformed) }
    }

    pub(super) fn expect(self, tag: u8) -> Result<Self, Malformed> {
        if self.tag == tag { Ok(self) } else { Err(Malformed) }
    }

    pub(super) fn children(self) -> Reader<'a> {
        Reader::new(self.content)
    }

    /// The bytes of a string, with its segments joined.
    pub(super) fn octets(self) -> Result<Cow<'a, [u8]>, Malformed> {
        if self.tag & CONSTRUCTED == 0 {
            return Ok(Cow::Borrowed(self.content));
        }
        let mut joined = Vec::with_capacity(self.content.len());
        join(self, &mut joined, DEPTH)?;
        Ok(Cow::Owned(joined))
    }

    /// A non-negative number without leading zeros.
    pub(super) fn unsigned(self) -> Result<&'a [u8], Malformed> {
        let bytes = self.expect(INTEGER)?.content;
        match bytes.first() {
            Some(first) if *first < 0x80 => {
                let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                bytes.get(zeros..).ok_or(Malformed)
            }
            _ => Err(Malformed),
        }
    }

    pub(super) fn small(self) -> Result<u32, Malformed> {
        let bytes = self.unsigned()?;
        if bytes.len() > 4 {
            return Err(Malformed);
        }
        Ok(bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }
}

fn join(string: Tlv<'_>, joined: &mut Vec<u8>, depth: usize) -> Result<(), Malformed> {
    let depth = depth.checked_sub(1).ok_or(Malformed)?;
    let mut pieces = string.children();
    while !pieces.is_empty() {
        let piece = pieces.next()?;
        match piece.tag {
            OCTET_STRING => joined.extend_from_slice(piece.content),
            tag if tag == OCTET_STRING | CONSTRUCTED => join(piece, joined, depth)?,
            _ => return Err(Malformed),
        }
    }
    Ok(())
}

/// Reads one value after another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn next(&mut self) -> Result<Tlv<'a>, Malformed> {
        let (tlv, rest) = split(self.rest, DEPTH)?;
        self.rest = rest;
        Ok(tlv)
    }

    /// The next value, which must have this tag.
    pub(super) fn expect(&mut self, tag: u8) -> Result<Tlv<'a>, Malformed> {
        self.next()?.expect(tag)
    }

    /// The next value if it has this tag. Otherwise reads nothing.
    pub(super) fn optional(&mut self, tag: u8) -> Result<Option<Tlv<'a>>, Malformed> {
        if self.rest.first() == Some(&tag) { self.next().map(Some) } else { Ok(None) }
    }
}

fn split(bytes: &[u8], depth: usize) -> Result<(Tlv<'_>, &[u8]), Malformed> {
    let depth = depth.checked_sub(1).ok_or(Malformed)?;
    let [tag, first, after @ ..] = bytes else { return Err(Malformed) };
    if tag & 0x1f == 0x1f {
        return Err(Malformed);
    }
    if *first == 0x80 {
        return if tag & CONSTRUCTED == 0 { Err(Malformed) } else { indefinite(bytes, *tag, after, depth) };
    }
    let (length, after) = length(*first, after)?;
    let (content, rest) = after.split_at_checked(length).ok_or(Malformed)?;
    Ok((Tlv { tag: *tag, content, whole: up_to(bytes, rest)? }, rest))
}

fn length(first: u8, after: &[u8]) -> Result<(usize, &[u8]), Malformed> {
    if first < 0x80 {
        return Ok((usize::from(first), after));
    }
    let count = usize::from(first & 0x7f);
    if count > 4 {
        return Err(Malformed);
    }
    let (digits, after) = after.split_at_checked(count).ok_or(Malformed)?;
    Ok((digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), after))
}

/// A value of indefinite length, which ends with two zero bytes at its own level (X.690 section 8.1.3.6).
fn indefinite<'a>(
    bytes: &'a [u8],
    tag: u8,
    start: &'a [u8],
    depth: usize,
) -> Result<(Tlv<'a>, &'a [u8]), Malformed> {
    let mut rest = start;
    loop {
        if let [0, 0, after @ ..] = rest {
            return Ok((Tlv { tag, content: up_to(start, rest)?, whole: up_to(bytes, after)? }, after));
        }
        (_, rest) = split(rest, depth)?;
    }
}

/// The part of `bytes` before its tail `rest`.
fn up_to<'a>(bytes: &'a [u8], rest: &[u8]) -> Result<&'a [u8], Malformed> {
    bytes.len().checked_sub(rest.len()).and_then(|length| bytes.get(..length)).ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_every_form_are_read() {
        let long = [&[OCTET_STRING, 0x81, 0x80][..], &[7; 128]].concat();
        assert_eq!(Tlv::only(&long).unwrap().content, [7; 128]);
        assert_eq!(Tlv::only(&[INTEGER, 1, 5]).unwrap().small(), Ok(5));
        assert!(Tlv::only(&[OCTET_STRING, 2, 0]).is_err(), "cut off");
        assert!(Tlv::only(&[OCTET_STRING, 0, 0]).is_err(), "something follows");
        assert!(Tlv::only(&[OCTET_STRING, 0x85, 0, 0, 0, 0, 0]).is_err(), "a length of five bytes");
        assert!(Tlv::only(&[0x1f, 1, 0]).is_err(), "a long tag");
    }

    #[test]
    fn a_segmented_string_of_indefinite_length_is_joined() {
        let bytes = [0x24, 0x80, 4, 1, b'a', 0x24, 3, 4, 1, b'b', 4, 2, b'c', b'd', 0, 0];
        let tlv = Tlv::only(&bytes).unwrap();
        assert_eq!(&*tlv.octets().unwrap(), b"abcd");
        assert_eq!(tlv.whole, bytes);
    }

    #[test]
    fn nesting_has_an_end() {
        let bytes = [0x30, 0x80].repeat(10_000);
        assert!(Tlv::only(&bytes).is_err());
    }

    #[test]
    fn numbers_lose_their_zeros_and_have_no_sign() {
        assert_eq!(Tlv::only(&[INTEGER, 2, 0, 0x80]).unwrap().unsigned(), Ok(&[0x80][..]));
        assert_eq!(Tlv::only(&[INTEGER, 1, 0x80]).unwrap().unsigned(), Err(Malformed));
        assert_eq!(Tlv::only(&[INTEGER, 0]).unwrap().unsigned(), Err(Malformed));
    }
}
