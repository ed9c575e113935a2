//! A response body as a document of members: JSON or a form.
//!
//! Only the requested members are kept. What else an issuer sends (a refresh token, an ID token) is never copied, and
//! so cannot leak.

use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::secret::Secret;

const BOM: &[u8] = b"\xEF\xBB\xBF";
/// The most members of a response that an error names.
const NAMES_LIMIT: usize = 10;
/// Some numbers of this size do not fit into a float.
const LARGE: f64 = 1e308;

/// Why a body is not a document. Says nothing about its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Malformed {
    Empty,
    NotUtf8,
    /// Not JSON, from this line and column on.
    Syntax {
        line: usize,
        column: usize,
    },
    /// The JSON is incomplete.
    Truncated,
    /// A member that counts is there twice, and which one is meant would be a guess.
    Duplicate,
    NotForm,
    /// JSON or a page where a bare token was expected.
    NotText,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("an empty body"),
            Self::NotUtf8 => f.write_str("a body that is not UTF-8"),
            Self::Syntax { line, column } => write!(f, "invalid JSON (line {line}, column {column})"),
            Self::Truncated => f.write_str("incomplete JSON"),
            Self::Duplicate => f.write_str("JSON that has a member of the token response twice"),
            Self::NotText => f.write_str("no bare token"),
            Self::NotForm => f.write_str("no form that has each member of the token response once"),
        }
    }
}

/// The requested members of a response. Not `Debug`, because they include a token.
#[cfg_attr(test, derive(Debug))]
pub(super) struct Document(Value);

impl Document {
    /// Reads JSON (RFC 8259), with or without a byte order mark, at most 128 levels deep. Keeps members whose name is a
    /// segment of one of `pointers` (RFC 6901), at any level.
    pub(super) fn json(bytes: &[u8], pointers: &[&str]) -> Result<Self, Malformed> {
        let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes);
        if bytes.trim_ascii().is_empty() {
            return Err(Malformed::Empty);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed::NotUtf8)?;
        Self::keeping(text, &KeptNames::Exact(names_in(pointers))).map_err(|error| match error.classify() {
            // Our visitor reports no other error.
            serde_json::error::Category::Data => Malformed::Duplicate,
            serde_json::error::Category::Eof => Malformed::Truncated,
            _ => Malformed::Syntax { line: error.line(), column: error.column() },
        })
    }

    /// Reads JSON as an error report, on which nothing depends. Keeps members whose folded name (see [`fold`]) is in
    /// `names` or a segment of `pointer`, under that name. If there are two, keeps the first.
    pub(super) fn report(bytes: &[u8], names: &[&str], pointer: &str) -> Option<Self> {
        let text = std::str::from_utf8(bytes.strip_prefix(BOM).unwrap_or(bytes)).ok()?;
        let mut folded: Vec<String> = names_in(&[pointer]).iter().map(|name| fold(name)).collect();
        folded.extend(names.iter().map(|&name| name.to_owned()));
        Self::keeping(text, &KeptNames::Folded(folded)).ok()
    }

    fn keeping(text: &str, names: &KeptNames) -> serde_json::Result<Self> {
        whatever_its_numbers(text, |text| {
            let mut json = serde_json::Deserializer::from_str(text);
            let value = Node { names, keep: true }.deserialize(&mut json)?;
            json.end().map(|()| match value {
                Value::Bool(_) => Self(Value::Object(Map::new())),
                value => Self(value),
            })
        })
    }

    /// Reads a form as a flat object of strings.
    pub(super) fn form(bytes: &[u8], pointers: &[&str]) -> Result<Self, Malformed> {
        let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes).trim_ascii();
        if bytes.is_empty() {
            return Err(Malformed::Empty);
        }
        // Any text can be read as a form, but this one is JSON.
        if bytes.starts_with(b"{") {
            return Err(Malformed::NotForm);
        }
        let names = names_in(pointers);
        let mut members = Map::new();
        for (name, value) in decode_form(bytes).ok_or(Malformed::NotForm)? {
            if names.contains(&name) && members.insert(name, Value::String(value)).is_some() {
                return Err(Malformed::Duplicate);
            }
        }
        Ok(Self(Value::Object(members)))
    }

    /// Reads a body that is one text, at the pointer "" (RFC 6901 section 5), without the white space around it.
    pub(super) fn text(bytes: &[u8]) -> Result<Self, Malformed> {
        let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes).trim_ascii();
        match bytes.first() {
            None => return Err(Malformed::Empty),
            // What begins a page or JSON begins no token.
            Some(b'<' | b'{' | b'[' | b'"') => return Err(Malformed::NotText),
            Some(_) => {}
        }
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed::NotUtf8)?;
        Ok(Self(Value::String(text.to_owned())))
    }

    /// The value at `pointer`. `null` counts as missing.
    pub(super) fn get(&self, pointer: &str) -> Option<&Value> {
        self.0.pointer(pointer).filter(|value| !value.is_null())
    }

    /// The whole document.
    pub(super) fn root(&self) -> &Value {
        &self.0
    }

    /// The value at `pointer` in a [`Self::report`].
    pub(super) fn get_folded(&self, pointer: &str) -> Option<&Value> {
        let folded: String =
            pointer.split('/').skip(1).map(|segment| format!("/{}", fold(segment))).collect();
        self.0.pointer(&folded)
    }

    /// Moves the text at `pointer` out, so that it is wiped with the secret. `None`: there is no text.
    pub(super) fn take_secret(&mut self, pointer: &str) -> Option<Secret> {
        match self.0.pointer_mut(pointer)? {
            Value::String(text) => Some(Secret::from(std::mem::take(text))),
            _ => None,
        }
    }
}

/// Reads JSON. `None`: it is invalid, or something else.
pub(crate) fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    whatever_its_numbers(std::str::from_utf8(bytes).ok()?, |text| serde_json::from_str(text)).ok()
}

/// To serde_json, a number beyond a float makes the whole text invalid. Here it counts as a text with the same digits.
fn whatever_its_numbers<T>(
    text: &str,
    read: impl Fn(&str) -> serde_json::Result<T>,
) -> serde_json::Result<T> {
    read(text).or_else(|error| match with_large_numbers_quoted(text) {
        Some(quoted) if error.is_syntax() => read(&quoted),
        _ => Err(error),
    })
}

/// `None`: there is no large number.
fn with_large_numbers_quoted(text: &str) -> Option<Zeroizing<String>> {
    // Large enough from the start, because a text that grows leaves an unwiped copy.
    let mut quoted = Zeroizing::new(String::with_capacity(2 * text.len()));
    let (mut rest, mut found) = (text, false);
    let begins = |byte: u8| matches!(byte, b'"' | b'-' | b'0'..=b'9');
    while let Some(first) = rest.bytes().next() {
        let length = match first {
            b'"' => string_length(rest),
            _ if begins(first) => rest.bytes().take_while(|&byte| is_in_number(byte)).count(),
            _ => rest.bytes().take_while(|&byte| !begins(byte)).count(),
        };
        let (token, after) = rest.split_at_checked(length)?;
        let is_large = first != b'"' && token.parse::<f64>().is_ok_and(|number| number.abs() >= LARGE);
        let mark = if is_large { "\"" } else { "" };
        [mark, token, mark].iter().for_each(|part| quoted.push_str(part));
        (rest, found) = (after, found || is_large);
    }
    found.then_some(quoted)
}

/// The length of the JSON string at the start, with its quotation marks.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    let end = text.bytes().skip(1).position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |end| end + 2)
}

fn is_in_number(byte: u8) -> bool {
    byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E')
}

/// The pointer to the member `name` next to the one at `pointer`.
pub(super) fn beside(pointer: &str, name: &str) -> String {
    let parent = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
    format!("{parent}/{name}")
}

fn names_in(pointers: &[&str]) -> Vec<String> {
    pointers
        .iter()
        .flat_map(|pointer| pointer.split('/').skip(1))
        .map(|segment| segment.replace("~1", "/").replace("~0", "~"))
        .collect()
}

/// A member's name without the differences between vendors: `errorCode`, `error_code` and `ErrorCode` are the same.
pub(super) fn fold(name: &str) -> String {
    name.chars().filter(|character| !matches!(character, '_' | '-')).map(|c| c.to_ascii_lowercase()).collect()
}

/// The decoded pairs of a form. `None`: an escape is broken, or the text is not UTF-8.
pub(crate) fn decode_form(bytes: &[u8]) -> Option<Vec<(String, String)>> {
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

/// The names of a JSON object's members without their values, at most 10.
pub(super) fn member_names(bytes: &[u8]) -> Vec<String> {
    serde_json::from_slice(bytes.strip_prefix(BOM).unwrap_or(bytes))
        .map_or_else(|_| Vec::new(), |MemberNames(names)| names)
}

struct MemberNames(Vec<String>);

impl<'de> serde::Deserialize<'de> for MemberNames {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = MemberNames;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<MemberNames, A::Error> {
                let mut names = Vec::new();
                while let Some((name, IgnoredAny)) = members.next_entry::<String, IgnoredAny>()? {
                    if names.len() < NAMES_LIMIT {
                        names.push(name);
                    }
                }
                Ok(MemberNames(names))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// Which members are kept.
enum KeptNames {
    Exact(Vec<String>),
    /// Names as [`fold`] writes them.
    Folded(Vec<String>),
}

impl KeptNames {
    /// The name under which a member is kept, if it is.
    fn kept(&self, name: String) -> Option<String> {
        match self {
            Self::Exact(names) => names.contains(&name).then_some(name),
            Self::Folded(names) => Some(fold(&name)).filter(|name| names.contains(name)),
        }
    }

    fn allow_duplicates(&self) -> bool {
        matches!(self, Self::Folded(_))
    }
}

/// Visits every value, so that serde_json's depth limit holds for the whole document, and keeps some of them.
struct Node<'a> {
    names: &'a KeptNames,
    keep: bool,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(if self.keep { Value::from(text) } else { Value::Null })
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut kept = Vec::new();
        while let Some(item) = items.next_element_seed(Node { ..self })? {
            if self.keep {
                kept.push(item);
            }
        }
        Ok(Value::Array(kept))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let (mut kept, mut empty) = (Map::new(), true);
        while let Some(name) = members.next_key::<String>()? {
            empty = false;
            let name = if self.keep { self.names.kept(name) } else { None };
            let value = members.next_value_seed(Node { names: self.names, keep: name.is_some() })?;
            let Some(name) = name else { continue };
            match kept.entry(name) {
                Entry::Vacant(place) => {
                    place.insert(value);
                }
                Entry::Occupied(_) if self.names.allow_duplicates() => {}
                Entry::Occupied(_) => return Err(A::Error::custom("duplicate member")),
            }
        }
        // A non-empty object must not look empty, because an empty `"error": {}` counts as no error.
        Ok(if kept.is_empty() && !empty { Value::Bool(true) } else { Value::Object(kept) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issuer::request::form_encoded;

    fn json(text: &str) -> Result<Document, Malformed> {
        Document::json(text.as_bytes(), &["/a/b~1c", "/t"])
    }

    #[test]
    fn keeps_only_what_was_asked_for() {
        let document = json(r#"{"a":{"b/c":1,"x":2},"refresh_token":"r","t":[{"t":"v","z":3}]}"#).unwrap();
        assert_eq!(document.0, serde_json::json!({"a":{"b/c":1},"t":[{"t":"v"}]}));
        let document = json(r#"{"a":{"x":2},"t":{}}"#).unwrap();
        assert_eq!(document.0, serde_json::json!({"a":true,"t":{}}));
        assert_eq!(json(r#"{"x":{}}"#).unwrap().0, serde_json::json!({}));
    }

    #[test]
    fn takes_secrets_out() {
        let mut document = json(r#"{"t":"v","a":1}"#).unwrap();
        assert_eq!(document.take_secret("/t"), Some(Secret::from("v")));
        assert_eq!(document.take_secret("/a"), None);
        assert_eq!(document.0, serde_json::json!({"t":"","a":1}));
    }

    #[test]
    fn a_number_beyond_a_float_counts_as_a_text() {
        for large in ["1e999", "-1E+400", "2e308", "1e99999999999999999999", &"9".repeat(400)] {
            let text = format!(r#"{{"x":[{large}],"\"":"\\","t":{large},"a":{{"b/c":"{large} é\"1e999"}}}}"#);
            let kept = serde_json::json!({"a":{"b/c":format!("{large} é\"1e999")},"t":large});
            assert_eq!(json(&text).unwrap().0, kept, "{text}");
            assert_eq!(parse_json::<Value>(text.as_bytes()).unwrap()["t"], large);
        }
        assert_eq!(json(r#"{"t":1e999,"t":1}"#).unwrap_err(), Malformed::Duplicate);
        assert!(matches!(json(r#"{"t":1e999,}"#), Err(Malformed::Syntax { .. })));
        assert_eq!(json(r#"{"t":1e999"#).unwrap_err(), Malformed::Truncated);
        assert_eq!(json(r#"{"t":"1e999"#).unwrap_err(), Malformed::Truncated);
    }

    #[test]
    fn duplicates_count_only_where_they_matter() {
        assert_eq!(json(r#"{"t":1,"t":1}"#).unwrap_err(), Malformed::Duplicate);
        assert!(json(r#"{"x":1,"x":1}"#).is_ok());
    }

    #[test]
    fn tells_truncated_from_broken() {
        assert_eq!(json(r#"{"t":"v""#).unwrap_err(), Malformed::Truncated);
        assert_eq!(json("\u{feff} \n").unwrap_err(), Malformed::Empty);
        assert_eq!(json("{\n<").unwrap_err(), Malformed::Syntax { line: 2, column: 1 });
        assert!(matches!(json(r#"{"t":1} x"#), Err(Malformed::Syntax { .. })));
    }

    #[test]
    fn a_report_is_read_whatever_the_case_and_keeps_the_first_of_two() {
        let text =
            r#"{"Error":"a","ERROR":"b","error_code":1,"secret":"s","X":{"Y_z":{"message":"m","q":1}}}"#;
        let report = Document::report(text.as_bytes(), &["error", "errorcode", "message"], "/x/Y_z").unwrap();
        assert_eq!(report.0, serde_json::json!({"error":"a","errorcode":1,"x":{"yz":{"message":"m"}}}));
        assert_eq!(report.get_folded("/x/Y_z"), Some(&serde_json::json!({"message":"m"})));
        assert!(Document::report(b"{", &[], "").is_none());
    }

    #[test]
    fn member_names_come_without_values() {
        assert_eq!(member_names(br#"{"a":"secret","b":{"c":1},"a":2}"#), ["a", "b", "a"]);
        let many: Vec<_> = (0..50).map(|n| format!("\"m{n}\":0")).collect();
        assert_eq!(member_names(format!("{{{}}}", many.join(",")).as_bytes()).len(), NAMES_LIMIT);
        assert!(member_names(b"[1]").is_empty() && member_names(b"{").is_empty());
    }

    #[test]
    fn names_what_stands_beside() {
        assert_eq!(beside("/data/token", "scope"), "/data/scope");
        assert_eq!(beside("/error", "error_description"), "/error_description");
        assert_eq!(beside("", "scope"), "/scope");
    }

    #[test]
    fn decodes_what_it_encoded() {
        let text = "a:b +%é\"&=";
        let form = format!("{}={}&x=1", form_encoded(text.as_bytes()), form_encoded(text.as_bytes()));
        assert_eq!(
            decode_form(form.as_bytes()),
            Some(vec![(text.to_owned(), text.to_owned()), ("x".to_owned(), "1".to_owned())])
        );
    }

    #[test]
    fn refuses_broken_escapes() {
        for form in ["a=%", "a=%4", "a=%zz", "a=%+1", "a=%ff"] {
            assert_eq!(decode_form(form.as_bytes()), None, "{form}");
        }
        assert_eq!(decode_form(b"a&b=&=c&&"), Some(vec![pair("a", ""), pair("b", ""), pair("", "c")]));
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }
}
