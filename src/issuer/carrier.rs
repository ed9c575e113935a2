//! The parameters of a token request as they travel: a form, a query, or JSON with typed values.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::form;
use crate::secret::Secret;

/// The most bytes that JSON writes for one byte of text (`\u0000`).
const JSON_GROWTH: usize = 6;

/// A parameter's value, read from its sources.
#[derive(Clone)]
pub(super) enum Value {
    /// A string in JSON.
    Text(Arc<Secret>),
    /// A number or boolean, as it was written.
    Bare(String),
    Array(Vec<Self>),
    Table(Vec<(String, Self)>),
}

impl Value {
    pub(super) fn text(text: &str) -> Self {
        Self::Text(Arc::new(Secret::from(text)))
    }

    /// As a claim. `Err`: a text in it is not UTF-8.
    pub(super) fn to_json(&self) -> Result<serde_json::Value, NotText> {
        Ok(match self {
            Self::Text(text) => text.expose_str().ok_or(NotText)?.into(),
            Self::Bare(text) => bare_json(text).parse().unwrap_or_else(|_| text.as_str().into()),
            Self::Array(items) => items.iter().map(Self::to_json).collect::<Result<Vec<_>, _>>()?.into(),
            Self::Table(members) => {
                let members = members.iter().map(|(name, value)| Ok((name.clone(), value.to_json()?)));
                serde_json::Value::Object(members.collect::<Result<_, _>>()?)
            }
        })
    }

    /// The most bytes that it takes as JSON.
    fn json_size(&self) -> usize {
        match self {
            Self::Text(text) => text.expose().len() * JSON_GROWTH + 2,
            Self::Bare(text) => text.len() + 2,
            Self::Array(items) => items.iter().map(|item| item.json_size() + 1).sum::<usize>() + 2,
            Self::Table(members) => object_size(members),
        }
    }

    fn write_json(&self, out: &mut Vec<u8>) -> Result<(), NotText> {
        match self {
            Self::Text(text) => write_string(text.expose_str().ok_or(NotText)?, out),
            Self::Bare(text) => {
                let number = bare_json(text);
                match serde_json::from_str::<serde_json::Value>(&number) {
                    Ok(_) => out.extend_from_slice(number.as_bytes()),
                    Err(_) => write_string(text, out),
                }
            }
            Self::Array(items) => {
                out.push(b'[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    item.write_json(out)?;
                }
                out.push(b']');
            }
            Self::Table(members) => write_object(members, out)?,
        }
        Ok(())
    }
}

/// A value that JSON cannot carry: it is not UTF-8.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotText;

/// TOML allows `+1.5` and `1_000.5`, JSON does not.
fn bare_json(text: &str) -> String {
    text.trim_start_matches('+').replace('_', "")
}

fn object_size(members: &[(String, Value)]) -> usize {
    members.iter().map(|(name, value)| name.len() * JSON_GROWTH + value.json_size() + 4).sum::<usize>() + 2
}

fn write_object(members: &[(String, Value)], out: &mut Vec<u8>) -> Result<(), NotText> {
    out.push(b'{');
    for (index, (name, value)) in members.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(name, out);
        out.push(b':');
        value.write_json(out)?;
    }
    out.push(b'}');
    Ok(())
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    // Writing text into memory cannot fail.
    _ = serde_json::to_writer(out, text);
}

/// A JSON object with the members in their order.
pub(super) fn json(pairs: &[(String, Value)]) -> Result<Secret, NotText> {
    // Large enough from the start: a buffer that grows leaves an unwiped copy behind.
    let mut body = Zeroizing::new(Vec::with_capacity(object_size(pairs)));
    write_object(pairs, &mut body)?;
    Ok(Secret::new(std::mem::take(&mut *body)))
}

/// `application/x-www-form-urlencoded` after `before`, joined to it by `&` where it is not empty. Arrays are repeated
/// parameters, tables JSON text.
pub(super) fn form(before: &str, pairs: &[(String, Value)]) -> Result<Secret, NotText> {
    let mut flat = Vec::with_capacity(pairs.len());
    for (name, value) in pairs {
        flatten(name, value, &mut flat)?;
    }
    let size: usize =
        flat.iter().map(|(name, value)| (name.len() + value.bytes().len()) * form::GROWTH + 2).sum();
    let mut body = Zeroizing::new(Vec::with_capacity(before.len() + size));
    body.extend_from_slice(before.as_bytes());
    for (name, value) in &flat {
        if !body.is_empty() && !body.ends_with(b"?") && !body.ends_with(b"&") {
            body.push(b'&');
        }
        form::encode(name.as_bytes(), &mut body);
        body.push(b'=');
        form::encode(value.bytes(), &mut body);
    }
    Ok(Secret::new(std::mem::take(&mut *body)))
}

enum Flat<'a> {
    Borrowed(&'a [u8]),
    Made(Secret),
}

impl Flat<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Made(secret) => secret.expose(),
        }
    }
}

fn flatten<'a>(name: &'a str, value: &'a Value, out: &mut Vec<(&'a str, Flat<'a>)>) -> Result<(), NotText> {
    match value {
        Value::Text(text) => out.push((name, Flat::Borrowed(text.expose()))),
        Value::Bare(text) => out.push((name, Flat::Borrowed(text.as_bytes()))),
        Value::Array(items) => items.iter().try_for_each(|item| flatten(name, item, out))?,
        Value::Table(members) => out.push((name, Flat::Made(json(members)?))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs() -> Vec<(String, Value)> {
        let table = Value::Table(vec![("b".to_owned(), Value::text("\"x\""))]);
        [
            ("account_id", Value::Bare("12345".to_owned())),
            ("ratio", Value::Bare("1.50".to_owned())),
            ("odd", Value::Bare("+1_000.5".to_owned())),
            ("strict", Value::Bare("true".to_owned())),
            ("number as text", Value::text("7")),
            ("list", Value::Array(vec![Value::text("a b"), Value::Bare("2".to_owned())])),
            ("t", table),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    #[test]
    fn json_keeps_types_and_order() {
        let text = json(&pairs()).unwrap();
        assert_eq!(
            text.expose_str().unwrap(),
            r#"{"account_id":12345,"ratio":1.50,"odd":1000.5,"strict":true,"number as text":"7","list":["a b",2],"t":{"b":"\"x\""}}"#
        );
        assert_eq!(json(&[]).unwrap(), Secret::from("{}"));
    }

    #[test]
    fn a_form_repeats_arrays_and_writes_tables_as_json() {
        assert_eq!(
            form("", &pairs()).unwrap().expose_str().unwrap(),
            "account_id=12345&ratio=1.50&odd=%2B1_000.5&strict=true&number+as+text=7&list=a+b&list=2\
             &t=%7B%22b%22%3A%22%5C%22x%5C%22%22%7D"
        );
    }

    #[test]
    fn a_query_is_added_to() {
        let pairs = [("a".to_owned(), Value::text("1"))];
        for (before, after) in
            [("/t?", "/t?a=1"), ("/t?x=y", "/t?x=y&a=1"), ("/t?x=y&", "/t?x=y&a=1"), ("", "a=1")]
        {
            assert_eq!(form(before, &pairs).unwrap(), Secret::from(after));
        }
        assert_eq!(form("/t?x", &[]).unwrap(), Secret::from("/t?x"));
    }

    #[test]
    fn no_buffer_grows() {
        let worst = vec![("\u{1}".repeat(50), Value::text(&"\u{1}".repeat(500)))];
        assert!(object_size(&worst) >= json(&worst).unwrap().expose().len());
        assert!(object_size(&pairs()) >= json(&pairs()).unwrap().expose().len());
    }

    #[test]
    fn claims_have_their_types() {
        let value = Value::Table(pairs()).to_json().unwrap();
        assert_eq!(value["account_id"], 12345);
        assert_eq!(value["ratio"], 1.5);
        assert_eq!(value["strict"], true);
        assert_eq!(value["list"], serde_json::json!(["a b", 2]));
        assert_eq!(Value::Text(Arc::new(Secret::new(vec![0xFF]))).to_json(), Err(NotText));
    }
}
