//! `application/x-www-form-urlencoded` (RFC 6749 appendix B), both ways.

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// The most bytes that `encode` writes for one byte: buffers of secrets are made large enough at once,
/// because a buffer that grows leaves an unwiped copy behind.
pub(super) const GROWTH: usize = 3;

/// Appends `bytes` encoded: letters, digits and `*-._` as they are, a space as `+`, all else as `%XX`.
pub(super) fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    for &byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'*' | b'-' | b'.' | b'_' => out.push(byte),
            b' ' => out.push(b'+'),
            _ => out.extend([b'%', hex(byte >> 4), hex(byte & 15)]),
        }
    }
}

fn hex(nibble: u8) -> u8 {
    *HEX.get(usize::from(nibble)).expect("four bits")
}

/// The pairs of a form, decoded; `None` where an escape is broken or the text is not UTF-8.
pub(super) fn decode(bytes: &[u8]) -> Option<Vec<(String, String)>> {
    bytes
        .split(|&byte| byte == b'&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let split = pair.iter().position(|&byte| byte == b'=').unwrap_or(pair.len());
            let (name, value) = pair.split_at_checked(split)?;
            Some((decode_part(name)?, decode_part(value.strip_prefix(b"=").unwrap_or(value))?))
        })
        .collect()
}

fn decode_part(part: &[u8]) -> Option<String> {
    let mut decoded = Vec::with_capacity(part.len());
    let mut rest = part;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let (digits, after) = rest.split_at_checked(2)?;
                rest = after;
                digits.iter().try_fold(0, |value, &digit| Some(value << 4 | nibble(digit)?))?
            }
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// `encode` as text.
#[cfg(test)]
pub(super) fn encoded(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len() * GROWTH);
    encode(text, &mut out);
    String::from_utf8(out).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_the_example_of_rfc_6749() {
        assert_eq!(encoded(" %&+£€".as_bytes()), "+%25%26%2B%C2%A3%E2%82%AC");
    }

    #[test]
    fn leaves_what_the_form_standard_leaves() {
        assert_eq!(encoded(b"aZ09*-._~:/\""), "aZ09*-._%7E%3A%2F%22");
    }

    #[test]
    fn decodes_what_it_encoded() {
        let text = "a:b +%é\"&=";
        let form = format!("{}={}&x=1", encoded(text.as_bytes()), encoded(text.as_bytes()));
        assert_eq!(
            decode(form.as_bytes()),
            Some(vec![(text.to_owned(), text.to_owned()), ("x".to_owned(), "1".to_owned())])
        );
    }

    #[test]
    fn refuses_broken_escapes() {
        for form in ["a=%", "a=%4", "a=%zz", "a=%+1", "a=%ff"] {
            assert_eq!(decode(form.as_bytes()), None, "{form}");
        }
        assert_eq!(decode(b"a&b=&=c&&"), Some(vec![pair("a", ""), pair("b", ""), pair("", "c")]));
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }
}
