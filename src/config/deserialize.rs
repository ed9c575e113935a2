//! serde over a table of the document, with the path of what it stumbled on and of what nobody asked for.
//!
//! One type for every table: layers around the TOML library's own would be in the program once more for each of them.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use toml::Spanned;
use toml::de::{DeFloat, DeInteger, DeTable, DeValue};

use super::document::PathStep;

type Value<'v> = Spanned<DeValue<'v>>;

/// Where the reading is.
#[derive(Default)]
pub(super) struct Track {
    /// After an error: where it is.
    pub path: Vec<PathStep>,
    /// Keys that nothing reads.
    pub unknown: Vec<Vec<PathStep>>,
}

/// serde's words for what is wrong.
#[derive(Debug)]
pub(super) struct Refused(pub String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl Error for Refused {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// One value of the document.
pub(super) struct Reader<'v, 't> {
    value: &'v Value<'v>,
    track: &'t mut Track,
}

impl<'v, 't> Reader<'v, 't> {
    pub(super) fn new(value: &'v Value<'v>, track: &'t mut Track) -> Self {
        Self { value, track }
    }
}

impl<'de> Deserializer<'de> for Reader<'_, '_> {
    type Error = Refused;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        match self.value.get_ref() {
            DeValue::String(text) => visitor.visit_str(text),
            DeValue::Integer(number) => integer(number, visitor),
            DeValue::Float(number) => float(number, visitor),
            DeValue::Boolean(flag) => visitor.visit_bool(*flag),
            // An empty table, which serde has a word for; whoever takes one looks into the document for what it was.
            DeValue::Datetime(_) => visitor.visit_map(Entries::new(None, self.track)),
            DeValue::Array(items) => {
                visitor.visit_seq(Items { items: items.iter().enumerate(), track: self.track })
            }
            DeValue::Table(table) => visitor.visit_map(Entries::new(Some(table), self.track)),
        }
    }

    /// A table alone: serde would also take an array, by position.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        match self.value.get_ref() {
            DeValue::Table(table) => visitor.visit_map(Entries::new(Some(table), self.track)),
            _ => Err(Error::invalid_type(Unexpected::Other("value"), &visitor)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_some(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.track.unknown.push(self.track.path.clone());
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier
    }
}

fn integer<'de, V: Visitor<'de>>(number: &DeInteger<'_>, visitor: V) -> Result<V::Value, Refused> {
    if let Ok(signed) = i64::from_str_radix(number.as_str(), number.radix()) {
        visitor.visit_i64(signed)
    } else if let Ok(unsigned) = u64::from_str_radix(number.as_str(), number.radix()) {
        visitor.visit_u64(unsigned)
    } else {
        Err(Error::invalid_type(Unexpected::Other("integer beyond 64 bits"), &visitor))
    }
}

fn float<'de, V: Visitor<'de>>(number: &DeFloat<'_>, visitor: V) -> Result<V::Value, Refused> {
    match number.as_str().parse::<f64>() {
        Ok(read) if !read.is_infinite() || number.as_str().contains("inf") => visitor.visit_f64(read),
        _ => Err(Error::invalid_type(Unexpected::Other("float beyond 64 bits"), &visitor)),
    }
}

/// Reads what stands one step further; an error leaves the path where it is.
fn below<'de, S: DeserializeSeed<'de>>(
    step: PathStep,
    value: &Value<'_>,
    track: &mut Track,
    seed: S,
) -> Result<S::Value, Refused> {
    track.path.push(step);
    let read = seed.deserialize(Reader { value, track: &mut *track })?;
    track.path.pop();
    Ok(read)
}

struct Entries<'v, 't> {
    entries: Box<dyn Iterator<Item = (&'v str, &'v Value<'v>)> + 'v>,
    value: Option<(&'v str, &'v Value<'v>)>,
    track: &'t mut Track,
}

impl<'v, 't> Entries<'v, 't> {
    fn new(table: Option<&'v DeTable<'v>>, track: &'t mut Track) -> Self {
        let entries =
            table.into_iter().flat_map(DeTable::iter).map(|(key, value)| (key.get_ref().as_ref(), value));
        Self { entries: Box::new(entries), value: None, track }
    }
}

impl<'de> MapAccess<'de> for Entries<'_, '_> {
    type Error = Refused;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refused> {
        self.value = self.entries.next();
        self.value.map(|(key, _)| seed.deserialize(StrDeserializer::new(key))).transpose()
    }

    // Called once for each key that there is: inlined, that would be the greater part of the tables' code.
    #[inline(never)]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Refused> {
        let (key, value) = self.value.take().ok_or_else(|| Refused("a value without its key".to_owned()))?;
        below(PathStep::Key(key.to_owned()), value, self.track, seed)
    }
}

struct Items<'v, 't> {
    items: std::iter::Enumerate<std::slice::Iter<'v, Value<'v>>>,
    track: &'t mut Track,
}

impl<'de> SeqAccess<'de> for Items<'_, '_> {
    type Error = Refused;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Refused> {
        let Some((index, value)) = self.items.next() else { return Ok(None) };
        below(PathStep::Index(index), value, self.track, seed).map(Some)
    }
}
