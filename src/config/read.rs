//! From a document to the structs of `raw`. Every wrong type and every unknown key is reported.
//!
//! `Reader` is serde's view of a value. It knows the path of a wrong value, and of each key that nothing reads. It is one
//! type for every table, because wrappers around the TOML library's own deserializer would be compiled once for each.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;
use toml::Spanned;
use toml::de::{DeFloat, DeInteger, DeTable, DeValue};

use crate::config::document::{Document, PathStep, Place};
use crate::config::preset::{Presets, issuer_with_preset, route_with_preset};
use crate::config::raw::RawFile;
use crate::config::report::{Report, did_you_mean, misspelt};
use crate::config::schema;

/// Reads the main file: everything that is correct in it.
pub(crate) fn main_file(document: &Document<'_>, presets: &Presets, report: &mut Report) -> RawFile {
    let mut top = document.root.clone();
    if let DeValue::Table(table) = top.get_mut() {
        for key in ["listener", "issuer", "route", "webhook"] {
            table.remove(key);
        }
    }
    let mut file: RawFile = table(&document.root(), top, report);
    named(document, "listener", &mut file.listener, as_written, report);
    named(document, "webhook", &mut file.webhook, as_written, report);
    issuers_and_routes(document, presets, &mut file, report);
    file
}

/// Reads an included file, which contains only issuers and routes.
pub(crate) fn included_file(document: &Document<'_>, presets: &Presets, report: &mut Report) -> RawFile {
    let mut file = RawFile::default();
    let place = document.root();
    for key in document.root.get_ref().as_table().into_iter().flat_map(|table| table.keys()) {
        match key.get_ref().as_ref() {
            "issuer" | "route" => {}
            key if schema::keys_at(&[]).contains(&key) => report.error(
                &place.key(key),
                "an included file holds only issuers and routes",
                "move it to the main file",
            ),
            key => unknown(&place, &[PathStep::Key(key.to_owned())], report),
        }
    }
    issuers_and_routes(document, presets, &mut file, report);
    file
}

fn issuers_and_routes(document: &Document<'_>, presets: &Presets, file: &mut RawFile, report: &mut Report) {
    named(document, "issuer", &mut file.issuer, issuer_with_preset, report);
    let place = document.root().key("route");
    match place.value() {
        None => {}
        Some(DeValue::Array(routes)) => {
            for (index, route) in routes.iter().enumerate() {
                let route = route_with_preset(route.clone(), presets);
                file.route.push(table(&place.index(index), route, report));
            }
        }
        Some(_) => report.error(
            &place,
            format!("expected an array of tables, found {}", place.describe()),
            "begin each route with [[route]]",
        ),
    }
}

fn as_written<'t>(_: &Place<'t>, value: Spanned<DeValue<'t>>, _: &mut Report) -> Spanned<DeValue<'t>> {
    value
}

/// Reads each `[kind.NAME]` separately, so that an error in one hides none in another. `prepare` may add values first.
fn named<'t, T: DeserializeOwned + Default>(
    document: &'t Document<'t>,
    kind: &str,
    into: &mut std::collections::BTreeMap<String, T>,
    prepare: fn(&Place<'t>, Spanned<DeValue<'t>>, &mut Report) -> Spanned<DeValue<'t>>,
    report: &mut Report,
) {
    let place = document.root().key(kind);
    match place.value() {
        None => {}
        Some(DeValue::Table(entries)) => {
            for (name, value) in entries.iter() {
                let place = place.key(name.get_ref());
                let value = prepare(&place, value.clone(), report);
                let read = table(&place, value, report);
                into.insert(name.get_ref().to_string(), read);
            }
        }
        Some(_) => report.error(
            &place,
            format!("expected a table, found {}", place.describe()),
            format!("begin each {kind} with its name: [{kind}.NAME]"),
        ),
    }
}

/// Reads one table.
fn table<T: DeserializeOwned + Default>(
    place: &Place<'_>,
    value: Spanned<DeValue<'_>>,
    report: &mut Report,
) -> T {
    let mut read = T::default();
    in_rounds(place, value, report, &mut |reader| {
        read = T::deserialize(reader)?;
        Ok(())
    });
    read
}

/// Reports a value of a wrong type, leaves it out, and reads the rest again, so that every wrong type is found. Each
/// round removes one key, so this ends.
fn in_rounds(
    place: &Place<'_>,
    mut value: Spanned<DeValue<'_>>,
    report: &mut Report,
    read: &mut dyn FnMut(Reader<'_, '_>) -> Result<(), Refused>,
) {
    loop {
        let mut track = Track::default();
        match read(Reader::new(&value, &mut track)) {
            Ok(()) => {
                for steps in &track.unknown {
                    unknown(place, steps, report);
                }
                return;
            }
            Err(Refused(text)) => {
                wrong_type(&place.join(&track.path), &text, report);
                if !remove(&mut value, &track.path) {
                    return;
                }
            }
        }
    }
}

/// Removes the innermost key of the path. An array is removed as a whole, so that no index changes.
fn remove(value: &mut Spanned<DeValue<'_>>, steps: &[PathStep]) -> bool {
    let Some(last) = steps.iter().rposition(|step| matches!(step, PathStep::Key(_))) else { return false };
    let mut table = value.get_mut();
    for step in steps.iter().take(last) {
        let next = match (step, table) {
            (PathStep::Key(key), DeValue::Table(table)) => table.get_mut(key.as_str()),
            (PathStep::Index(index), DeValue::Array(array)) => array.get_mut(*index),
            _ => None,
        };
        let Some(next) = next else { return false };
        table = next.get_mut();
    }
    match (steps.get(last), table) {
        (Some(PathStep::Key(key)), DeValue::Table(table)) => table.remove(key.as_str()).is_some(),
        _ => false,
    }
}

/// `message` is serde's. Only the part after "expected" is used, because the part before quotes the value.
fn wrong_type(place: &Place<'_>, message: &str, report: &mut Report) {
    let expected = message.rsplit_once("expected ").map_or("another value", |(_, expected)| expected);
    let expected = match expected {
        "usize" | "u16" | "u32" | "u64" | "i64" => "a whole number",
        "f64" | "floating point" => "a number",
        "a sequence" => "an array",
        "a map" => "a table",
        words if words.starts_with("struct ") => "a table",
        words => words,
    };
    let found = place.describe();
    let hint = match place.value() {
        Some(DeValue::Integer(number)) if expected.starts_with("a duration") => {
            format!("give a unit: \"{number}s\"")
        }
        Some(DeValue::Integer(number)) if expected.starts_with("a size") => {
            format!("give a unit: \"{number}B\"")
        }
        Some(DeValue::String(text)) if expected == "an array" => {
            let several = text.trim().contains(|char: char| char.is_whitespace() || char == ',');
            let hint = match several {
                true => "put it in brackets, and each of its words in quotes: [\"…\", \"…\"]",
                false => "put it in brackets: [\"…\"]",
            };
            hint.to_owned()
        }
        _ => String::new(),
    };
    report.error(place, format!("expected {expected}, found {found}"), hint);
}

fn unknown(table: &Place<'_>, steps: &[PathStep], report: &mut Report) {
    let place = table.join(steps);
    let Some((PathStep::Key(written), parent)) = place.path.0.split_last() else { return };
    let keys = schema::keys_at(parent);
    let meant = misspelt(written, keys.iter().copied());
    let elsewhere = match parent {
        [] => {
            "listeners, issuers and routes are written [listener.NAME], [issuer.NAME], [[route]]".to_owned()
        }
        _ => format!("known here: {}", keys.join(", ")),
    };
    let hint = did_you_mean(written, keys.iter().copied(), &elsewhere);
    report.unknown(&place, written, "unknown key", &hint, meant);
}

type Value<'v> = Spanned<DeValue<'v>>;

/// The position of the reader.
#[derive(Default)]
pub(super) struct Track {
    /// After an error: its path.
    pub path: Vec<PathStep>,
    /// Keys that no field reads.
    pub unknown: Vec<Vec<PathStep>>,
}

/// serde's message about an error.
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
            // serde has no type for dates, so a date is read as an empty table. Whoever expects a table looks into the
            // document.
            DeValue::Datetime(_) => visitor.visit_map(Entries::new(None, self.track)),
            DeValue::Array(items) => {
                visitor.visit_seq(Items { items: items.iter().enumerate(), track: self.track })
            }
            DeValue::Table(table) => visitor.visit_map(Entries::new(Some(table), self.track)),
        }
    }

    /// Only a table: serde would also accept an array, by position.
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

/// Reads the value one step further. After an error the path stays as it is.
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

    // Not inlined, because it is called for each key and would be most of the tables' code.
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
