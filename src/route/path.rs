//! The path as it is matched, and as it is sent to the upstream.

use std::borrow::Cow;
use std::fmt;

/// A valid request path: no dot segment, no backslash, no control character, no broken escape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatchPath<'a> {
    /// As the caller sent it, without the query.
    pub raw: &'a str,
    /// The form that routes are compared with: escaped unreserved characters are decoded, other escapes are in upper case, and
    /// bytes beyond ASCII are escaped (RFC 3986 section 6.2.2). Borrowed if nothing had to change.
    ///
    /// It has as many `/` as `raw`, so segments correspond.
    pub canonical: Cow<'a, str>,
    /// It contains an escaped slash, which is refused unless the route allows it.
    pub encoded_slash: bool,
}

/// Why a path is refused. `Display` writes a phrase for `detail`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathError {
    /// It does not begin with `/`, such as the `*` of `OPTIONS *`.
    NotAbsolute,
    DotSegment,
    Backslash,
    ControlCharacter,
    BrokenEscape,
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAbsolute => "the path does not begin with a slash",
            Self::DotSegment => "the path has a dot segment (`.` or `..`)",
            Self::Backslash => "the path has a backslash",
            Self::ControlCharacter => "the path has a control character",
            Self::BrokenEscape => "the path has a `%` that is not followed by two hexadecimal digits",
        })
    }
}

impl std::error::Error for PathError {}

/// Checks the path (without its query) and makes its canonical form. Allocates only if the two differ.
///
/// An escaped slash is no error here, because a route may allow it. For the check of dot segments it separates segments,
/// because the upstream will decode it.
///
/// # Errors
/// The response is 400.
pub fn parse(raw: &str) -> Result<MatchPath<'_>, PathError> {
    if !raw.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    let mut bytes = raw.bytes();
    let mut segment = Dots::default();
    let mut encoded_slash = false;
    let mut rewrite = false;
    while let Some(byte) = bytes.next() {
        let meant = if byte == b'%' {
            let (decoded, canonical) = escape(&mut bytes)?;
            rewrite |= !canonical;
            encoded_slash |= decoded == b'/';
            decoded
        } else {
            rewrite |= !byte.is_ascii();
            byte
        };
        segment.push(meant)?;
    }
    segment.end()?;
    let canonical = if rewrite { Cow::Owned(canonical(raw)) } else { Cow::Borrowed(raw) };
    Ok(MatchPath { raw, canonical, encoded_slash })
}

/// Reads the two digits after a `%`: the byte they represent, and whether the escape is canonical as it is written.
fn escape(bytes: &mut std::str::Bytes<'_>) -> Result<(u8, bool), PathError> {
    let high = bytes.next().ok_or(PathError::BrokenEscape)?;
    let low = bytes.next().ok_or(PathError::BrokenEscape)?;
    let value = hex(high).zip(hex(low)).map(|(high, low)| high << 4 | low).ok_or(PathError::BrokenEscape)?;
    let canonical = !high.is_ascii_lowercase() && !low.is_ascii_lowercase() && !is_unreserved(value);
    Ok((value, canonical))
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Finds dot segments, byte by byte as decoded.
#[derive(Default)]
enum Dots {
    #[default]
    Start,
    One,
    Two,
    Other,
}

impl Dots {
    fn push(&mut self, byte: u8) -> Result<(), PathError> {
        match byte {
            b'\\' => return Err(PathError::Backslash),
            0..=0x1F | 0x7F => return Err(PathError::ControlCharacter),
            b'/' => {
                self.end()?;
                *self = Self::Start;
            }
            // Some servers cut off path parameters before they resolve dot segments. `/..;x/` goes up there.
            b';' => {
                self.end()?;
                *self = Self::Other;
            }
            b'.' => {
                *self = match self {
                    Self::Start => Self::One,
                    Self::One => Self::Two,
                    Self::Two | Self::Other => Self::Other,
                }
            }
            _ => *self = Self::Other,
        }
        Ok(())
    }

    fn end(&self) -> Result<(), PathError> {
        match self {
            Self::One | Self::Two => Err(PathError::DotSegment),
            Self::Start | Self::Other => Ok(()),
        }
    }
}

/// `raw` has no broken escape.
fn canonical(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        let meant = match byte {
            b'%' => escape(&mut bytes).map_or(byte, |(value, _)| value),
            _ => byte,
        };
        if is_unreserved(meant) || byte != b'%' && byte.is_ascii() {
            out.push(char::from(meant));
        } else {
            out.push('%');
            out.push(upper_hex(meant >> 4));
            out.push(upper_hex(meant & 0xF));
        }
    }
    out
}

fn upper_hex(nibble: u8) -> char {
    char::from(if nibble < 10 { b'0' + nibble } else { b'A' + nibble - 10 })
}

/// The target for the upstream: `upstream_path` without its trailing slash, then what follows the matched prefix. If nothing
/// follows, `upstream_path` as written, or `/`. Then the query, byte for byte.
///
/// `prefix_segments` is the number of segments of a matched `path_prefix` (0 for `/`: the whole path follows), or `None` for
/// an exact path, which is replaced completely. A query of `Some("")` keeps its bare `?`.
pub fn upstream_target(
    upstream_path: &str,
    raw_path: &str,
    query: Option<&str>,
    prefix_segments: Option<usize>,
) -> String {
    let rest = prefix_segments.map_or("", |segments| after_segments(raw_path, segments));
    let (base, rest) = match (upstream_path, rest) {
        ("", "") => ("/", ""),
        (_, "") => (upstream_path, ""),
        _ => (upstream_path.strip_suffix('/').unwrap_or(upstream_path), rest),
    };
    let mut target =
        String::with_capacity(base.len() + rest.len() + query.map_or(0, |query| query.len() + 1));
    target.push_str(base);
    target.push_str(rest);
    if let Some(query) = query {
        target.push('?');
        target.push_str(query);
    }
    target
}

/// What follows the first `segments` segments, beginning with its slash.
fn after_segments(path: &str, segments: usize) -> &str {
    path.match_indices('/').nth(segments).and_then(|(at, _)| path.get(at..)).unwrap_or("")
}

#[cfg(test)]
mod tests;
