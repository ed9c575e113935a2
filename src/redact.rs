//! Makes an issuer's words fit to be shown: no control characters, limited length, and nothing at all if they contain a
//! secret in any form, for example with other white space, escaped, in hex or base64, encoded more than once, or cut
//! short.
//!
//! No list of encodings is complete, so [`holds_any`] decodes the text instead: it decodes everything that may be an
//! encoding, one step at a time, and examines the results in the same way. It compares text and secret without white
//! space and case.

use std::borrow::Cow;

use zeroize::Zeroizing;

use crate::secret::Secret;

/// A parameter or header field with a shorter value is not a secret.
const SHORTEST_VALUE: usize = 4;
/// The most bytes of IDs for an issuer's support.
const TRACE_LIMIT: usize = 128;
/// The most bytes of a code.
const CODE_LIMIT: usize = 64;
/// A longer text is cut to this many bytes before it is examined, and nothing of the rest is shown.
const EXAMINED_LIMIT: usize = 4 * 1024;

/// Every secret that a server could echo.
#[derive(Default, Clone)]
pub(crate) struct Redactor(Vec<KnownSecret>);

impl Redactor {
    pub(crate) fn add(&mut self, secret: &Secret) {
        self.0.extend(KnownSecret::new(secret.expose()).filter(|known| !self.0.contains(known)));
    }

    /// Adds a value that may be secret. The URL of an API, which servers quote in their errors, is not.
    pub(crate) fn add_value(&mut self, value: &Secret) {
        let after_scheme = value.expose_str().and_then(|text| Some(text.split_once("://")?.1));
        match after_scheme {
            _ if value.expose().len() < SHORTEST_VALUE => {}
            Some(rest) if rest.contains(['@', '?', '#']) => self.add(&Secret::from(rest)),
            Some(_) => {}
            None => self.add(value),
        }
    }

    /// `text` without control characters, at most `limit` bytes. `None`: it contains a secret in some form.
    pub(crate) fn show(&self, text: &str, limit: usize) -> Option<String> {
        let text = cut(text, EXAMINED_LIMIT);
        if holds_any(text, &self.0) {
            return None;
        }
        Some(cut(clean(text).trim(), limit).to_owned())
    }

    /// IDs for an issuer's support as `name=value`, each value once and complete, in printable ASCII, at most 128
    /// bytes.
    pub(crate) fn show_traces<'a>(
        &self,
        traces: impl IntoIterator<Item = &'a (String, String)>,
    ) -> Option<String> {
        let mut shown = String::new();
        let mut values: Vec<String> = Vec::new();
        for (name, value) in traces {
            let Some(value) = self.show(value, TRACE_LIMIT) else { continue };
            let printable = value.bytes().all(|byte| matches!(byte, 0x21..=0x7E));
            if value.is_empty() || !printable || values.contains(&value) {
                continue;
            }
            let one = format!("{}{name}={value}", if shown.is_empty() { "" } else { " " });
            if shown.len() + one.len() <= TRACE_LIMIT {
                shown.push_str(&one);
                values.push(value);
            }
        }
        (!shown.is_empty()).then_some(shown)
    }

    /// An OAuth `error` code or another short name, in printable ASCII, at most 64 bytes. `None`: nothing of it may be
    /// shown.
    pub(crate) fn show_code(&self, code: &str) -> Option<String> {
        self.show(code, EXAMINED_LIMIT)?;
        // Once more, because the removed characters may have hidden a secret.
        let plain: String = code.chars().filter(|character| matches!(character, ' '..='~')).collect();
        self.show(&plain, CODE_LIMIT).filter(|shown| !shown.is_empty())
    }
}

/// The beginning of `text`, at most `limit` bytes, cut between characters.
fn cut(text: &str, limit: usize) -> &str {
    let end = (0..=limit.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    text.get(..end.unwrap_or_default()).unwrap_or_default()
}

/// Replaces control characters, and those that reorder or hide text, with spaces.
fn clean(text: &str) -> Cow<'_, str> {
    if !text.contains(unfit) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|character| if unfit(character) { ' ' } else { character }).collect())
}

fn unfit(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A match of this many bytes of a secret counts.
const SHORTEST_MATCH: usize = 8;
/// A shorter secret may be part of unrelated words.
const SHORTEST_WHOLE: usize = 5;
/// The bytes in eight characters of base64, wherever they begin.
const SHORTEST_DECODED_MATCH: usize = 5;
/// Shorter runs of an alphabet's characters are not decoded.
const SHORTEST_ENCODING: usize = 8;
/// The most encodings inside each other.
const DEPTH: usize = 5;
/// The most bytes that are examined for one text. A text that needs more counts as one with a secret.
const BUDGET: usize = 128 * 1024;

/// One secret in the form in which texts are compared with it.
#[derive(Clone, PartialEq)]
enum KnownSecret {
    /// Any [`SHORTEST_MATCH`] of it counts. Hex is compared in its written form, because eight digits from an odd one
    /// on contain only three whole bytes.
    Long { text: Zeroizing<String>, hex: Zeroizing<String> },
    /// It counts anywhere, but only as a whole.
    Whole(Zeroizing<String>),
    /// It counts only as a whole word, because many words contain a secret of two letters.
    Short(Zeroizing<String>),
}

impl KnownSecret {
    /// `None`: there is nothing to look for.
    fn new(secret: &[u8]) -> Option<Self> {
        let text = Zeroizing::new(String::from_utf8_lossy(secret).into_owned());
        let word = words(&text);
        let text = compact(&word);
        if text.len() >= SHORTEST_MATCH {
            let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).expect("four bits");
            let mut hex = Zeroizing::new(String::with_capacity(secret.len() * 2));
            hex.extend(secret.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
            return Some(Self::Long { text, hex });
        }
        if text.len() >= SHORTEST_WHOLE {
            return Some(Self::Whole(text));
        }
        (!word.is_empty()).then_some(Self::Short(word))
    }
}

/// The text itself, or what one of its encodings contains.
struct DecodedText {
    text: Zeroizing<String>,
    /// A match of this many bytes counts here.
    run: usize,
    depth: usize,
}

/// Whether `text` contains one of the secrets in any form.
fn holds_any(text: &str, known: &[KnownSecret]) -> bool {
    if known.is_empty() {
        return false;
    }
    let mut views =
        vec![DecodedText { text: Zeroizing::new(text.to_owned()), run: SHORTEST_MATCH, depth: 0 }];
    let (mut next, mut looked_at) = (0, 0);
    while let Some(view) = views.get(next) {
        looked_at += view.text.len();
        if looked_at > BUDGET || view.holds_run(known) || view.holds_word(known) {
            return true;
        }
        for inner in view.inner() {
            let seen = views.iter().any(|seen| seen.run <= inner.run && seen.text == inner.text);
            if !seen && !inner.text.is_empty() {
                views.push(inner);
            }
        }
        next += 1;
    }
    false
}

impl DecodedText {
    fn holds_run(&self, known: &[KnownSecret]) -> bool {
        let text = compact(&self.text.to_lowercase());
        let sorted = |length| {
            let mut runs = Zeroizing::new(runs(&text, length).collect::<Vec<_>>());
            runs.sort_unstable();
            runs
        };
        let (decoded, written) = (sorted(self.run), sorted(SHORTEST_MATCH));
        known.iter().any(|known| match known {
            KnownSecret::Long { text, hex } => {
                runs(text, self.run).any(|run| decoded.binary_search(&run).is_ok())
                    || runs(hex, SHORTEST_MATCH).any(|run| written.binary_search(&run).is_ok())
            }
            KnownSecret::Whole(_) | KnownSecret::Short(_) => false,
        })
    }

    fn holds_word(&self, known: &[KnownSecret]) -> bool {
        let text = words(&self.text);
        let together = compact(&text);
        known.iter().any(|known| match known {
            KnownSecret::Whole(secret) => together.contains(secret.as_str()),
            KnownSecret::Short(word) => is_word_of(&text, word),
            KnownSecret::Long { .. } => false,
        })
    }

    /// The results of decoding each encoding in this text once.
    fn inner(&self) -> Vec<Self> {
        if self.depth == DEPTH {
            return Vec::new();
        }
        let compact = compact(&self.text);
        let escapes = [&self.text, &compact].into_iter().flat_map(|text| {
            let of_a_form = Zeroizing::new(text.replace('+', " "));
            let decoded = [unescaped(text, url), unescaped(&of_a_form, url), unescaped(text, json)];
            decoded.into_iter().chain([unescaped(text, html)]).filter(move |decoded| decoded != text)
        });
        let escapes = escapes.map(|text| (text, self.run));
        let digits =
            hex(&compact).into_iter().chain(base64(&compact)).map(|text| (text, SHORTEST_DECODED_MATCH));
        escapes.chain(digits).map(|(text, run)| Self { text, run, depth: self.depth + 1 }).collect()
    }
}

/// Each run of `length` bytes (at most 8) as a number.
fn runs(text: &str, length: usize) -> impl Iterator<Item = u64> {
    text.as_bytes()
        .windows(length)
        .map(|bytes| bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

fn is_word_of(text: &str, word: &str) -> bool {
    if word.is_empty() {
        return false;
    }
    let in_word = |character: Option<char>| character.is_some_and(|it| it.is_alphanumeric() || it == '_');
    text.match_indices(word).any(|(at, _)| {
        let (before, rest) = text.split_at_checked(at).unwrap_or_default();
        let after = rest.strip_prefix(word).unwrap_or_default();
        let begins_inside = in_word(before.chars().next_back()) && in_word(word.chars().next());
        let ends_inside = in_word(after.chars().next()) && in_word(word.chars().next_back());
        !begins_inside && !ends_inside
    })
}

/// The words in lower case, separated by single spaces.
fn words(text: &str) -> Zeroizing<String> {
    let mut words = Zeroizing::new(String::with_capacity(text.len()));
    for word in text.split(is_space).filter(|word| !word.is_empty()) {
        if !words.is_empty() {
            words.push(' ');
        }
        words.push_str(word);
    }
    Zeroizing::new(words.to_lowercase())
}

fn compact(text: &str) -> Zeroizing<String> {
    let mut compact = Zeroizing::new(String::with_capacity(text.len()));
    compact.extend(text.split(is_space));
    compact
}

fn is_space(character: char) -> bool {
    character.is_whitespace() || unfit(character)
}

/// `text` with each escape replaced by what it means.
fn unescaped(text: &str, escape: fn(&str) -> Option<(usize, Escaped)>) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let mut buffer = [0; 4];
        let length = match escape(rest) {
            Some((length, Escaped::Byte(byte))) => {
                bytes.push(byte);
                length
            }
            Some((length, Escaped::Character(character))) => {
                bytes.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
                length
            }
            None => {
                bytes.extend_from_slice(next.encode_utf8(&mut buffer).as_bytes());
                next.len_utf8()
            }
        };
        rest = rest.split_at_checked(length).map_or("", |(_, rest)| rest);
    }
    Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned())
}

/// What an escape stands for.
enum Escaped {
    Byte(u8),
    Character(char),
}

/// The escape of URLs (RFC 3986 section 2.1) at the start of `text`, with its length.
fn url(text: &str) -> Option<(usize, Escaped)> {
    let digits = text.strip_prefix('%').and_then(|text| hex_digits(text, 0, 2))?;
    Some((3, Escaped::Byte(u8::try_from(digits).ok()?)))
}

/// The escape of JSON (RFC 8259 section 7), and of other formats with a backslash.
fn json(text: &str) -> Option<(usize, Escaped)> {
    let next = text.strip_prefix('\\')?.chars().next()?;
    let character = match next {
        'u' => return utf16(text),
        'x' => return Some((4, Escaped::Byte(u8::try_from(hex_digits(text, 2, 2)?).ok()?))),
        'n' | 'r' | 't' | 'b' | 'f' => ' ',
        protected if protected.is_ascii_punctuation() => protected,
        _ => return None,
    };
    Some((2, Escaped::Character(character)))
}

fn hex_digits(text: &str, at: usize, count: usize) -> Option<u32> {
    let digits = text.get(at..at + count)?;
    digits.chars().try_fold(0, |value, digit| Some(value << 4 | digit.to_digit(16)?))
}

/// `\uXXXX`, or two of them that form one character.
fn utf16(text: &str) -> Option<(usize, Escaped)> {
    let first = hex_digits(text, 2, 4)?;
    let second = text.get(6..8).filter(|next| *next == "\\u").and_then(|_| hex_digits(text, 8, 4));
    let (length, value) = match (first, second) {
        (0xd800..=0xdbff, Some(low @ 0xdc00..=0xdfff)) => {
            (12, 0x1_0000 + ((first - 0xd800) << 10) + (low - 0xdc00))
        }
        _ => (6, first),
    };
    Some((length, Escaped::Character(char::from_u32(value)?)))
}

/// The entity of HTML, as far as escaping produces it.
fn html(text: &str) -> Option<(usize, Escaped)> {
    const LONGEST: usize = 10;
    let (name, _) = text.strip_prefix('&')?.split_once(';').filter(|(name, _)| name.len() <= LONGEST)?;
    let character = match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        _ => {
            let number = name.strip_prefix('#')?;
            let value = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => number.parse(),
            };
            char::from_u32(value.ok()?)?
        }
    };
    Some((name.len() + 2, Escaped::Character(character)))
}

/// The decoded hex digits in `text`, from either digit on.
fn hex(text: &str) -> [Zeroizing<String>; 2] {
    let value = |byte: u8| char::from(byte).to_digit(16);
    [0, 4].map(|skipped| decoded(text, 4, skipped, value))
}

/// The decoded base64 in `text`, from each bit on at which a byte can begin.
fn base64(text: &str) -> [Zeroizing<String>; 4] {
    let value = |byte: u8| {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        Some(u32::from(value))
    };
    [0, 2, 4, 6].map(|skipped| decoded(text, 6, skipped, value))
}

/// Each run of digits of `bits` bits as bytes, without the first `skipped` bits. Short stretches are dropped, because
/// random bytes contain some text by chance.
fn decoded(text: &str, bits: u32, skipped: u32, value: impl Fn(u8) -> Option<u32>) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    for run in
        text.as_bytes().split(|&byte| value(byte).is_none()).filter(|run| run.len() >= SHORTEST_ENCODING)
    {
        let (mut collected, mut count, mut wanted) = (0_u32, 0, skipped + 8);
        for digit in run.iter().filter_map(|&byte| value(byte)) {
            collected = collected << bits | digit;
            count += bits;
            if count >= wanted {
                count -= wanted;
                wanted = 8;
                bytes.extend(u8::try_from(collected >> count & 0xff));
            }
        }
        // A byte that is not UTF-8 separates the runs.
        bytes.push(0xff);
    }
    let text = Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned());
    let stretches =
        text.split(char::REPLACEMENT_CHARACTER).filter(|part| part.len() >= SHORTEST_DECODED_MATCH);
    Zeroizing::new(stretches.collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests;
