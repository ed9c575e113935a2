//! An answer as a document of members: JSON, or a form.
//!
//! Only the members that somebody asks for are kept. What an issuer sends beside (a refresh token, an ID token)
//! is never copied, and so cannot leak.

use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::form;
use crate::secret::Secret;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Why an answer is no document. Says nothing of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Malformed {
    Empty,
    NotUtf8,
    /// Not JSON, from this line and column on.
    Syntax {
        line: usize,
        column: usize,
    },
    /// The JSON ends too early.
    Truncated,
    /// A member that counts stands there twice: which one holds would be a guess.
    Duplicate,
    NotForm,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("an empty body"),
            Self::NotUtf8 => f.write_str("a body that is not UTF-8"),
            Self::Syntax { line, column } => write!(f, "no JSON (line {line}, column {column})"),
            Self::Truncated => f.write_str("JSON that is cut off"),
            Self::Duplicate => f.write_str("JSON in which a member of the token stands twice"),
            Self::NotForm => f.write_str("no form in which each member of the token stands once"),
        }
    }
}

/// The members of an answer that were asked for. Not `Debug`: they hold a token.
#[cfg_attr(test, derive(Debug))]
pub(super) struct Document(Value);

impl Document {
    /// Reads JSON (RFC 8259), with or without a byte order mark, at most 128 levels deep. Keeps members whose
    /// name is a segment of one of `pointers` (RFC 6901), wherever they stand.
    pub(super) fn json(bytes: &[u8], pointers: &[&str]) -> Result<Self, Malformed> {
        let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes);
        if bytes.trim_ascii().is_empty() {
            return Err(Malformed::Empty);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed::NotUtf8)?;
        let names = names_in(pointers);
        let mut json = serde_json::Deserializer::from_str(text);
        Node { names: &names, keep: true }
            .deserialize(&mut json)
            .and_then(|value| json.end().map(|()| Self(value)))
            .map_err(|error| match error.classify() {
                // The visitor itself complains about nothing else.
                serde_json::error::Category::Data => Malformed::Duplicate,
                serde_json::error::Category::Eof => Malformed::Truncated,
                _ => Malformed::Syntax { line: error.line(), column: error.column() },
            })
    }

    /// Reads a form as a flat object of strings.
    pub(super) fn form(bytes: &[u8], pointers: &[&str]) -> Result<Self, Malformed> {
        let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes).trim_ascii();
        if bytes.is_empty() {
            return Err(Malformed::Empty);
        }
        // Any text can be read as a form; this one means JSON.
        if bytes.starts_with(b"{") {
            return Err(Malformed::NotForm);
        }
        let names = names_in(pointers);
        let mut members = Map::new();
        for (name, value) in form::decode(bytes).ok_or(Malformed::NotForm)? {
            if names.contains(&name) && members.insert(name, Value::String(value)).is_some() {
                return Err(Malformed::Duplicate);
            }
        }
        Ok(Self(Value::Object(members)))
    }

    /// What stands at `pointer`; `null` counts as nothing.
    pub(super) fn get(&self, pointer: &str) -> Option<&Value> {
        self.0.pointer(pointer).filter(|value| !value.is_null())
    }

    /// Moves the text at `pointer` out, so that it is wiped with the secret. `None`: no text is there.
    pub(super) fn take_secret(&mut self, pointer: &str) -> Option<Secret> {
        match self.0.pointer_mut(pointer)? {
            Value::String(text) => Some(Secret::from(std::mem::take(text))),
            _ => None,
        }
    }
}

/// The pointer to the member `name` beside the one at `pointer`.
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

/// Visits every value, so that serde_json's depth limit holds for all of the document, and keeps some.
struct Node<'a> {
    names: &'a [String],
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
        let mut kept = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let keep = self.keep && self.names.contains(&name);
            let value = members.next_value_seed(Node { names: self.names, keep })?;
            if keep && kept.insert(name, value).is_some() {
                return Err(A::Error::custom("duplicate member"));
            }
        }
        Ok(Value::Object(kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Result<Document, Malformed> {
        Document::json(text.as_bytes(), &["/a/b~1c", "/t"])
    }

    #[test]
    fn keeps_only_what_was_asked_for() {
        let document = json(r#"{"a":{"b/c":1,"x":2},"refresh_token":"r","t":[{"t":"v","z":3}]}"#).unwrap();
        assert_eq!(document.0, serde_json::json!({"a":{"b/c":1},"t":[{"t":"v"}]}));
    }

    #[test]
    fn takes_secrets_out() {
        let mut document = json(r#"{"t":"v","a":1}"#).unwrap();
        assert_eq!(document.take_secret("/t"), Some(Secret::from("v")));
        assert_eq!(document.take_secret("/a"), None);
        assert_eq!(document.0, serde_json::json!({"t":"","a":1}));
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
    fn names_what_stands_beside() {
        assert_eq!(beside("/data/token", "scope"), "/data/scope");
        assert_eq!(beside("/error", "error_description"), "/error_description");
        assert_eq!(beside("", "scope"), "/scope");
    }
}
