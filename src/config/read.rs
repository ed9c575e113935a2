//! From a document to the raw structs, with every wrong type and unknown key reported.

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::DeValue;

use super::deserialize::{Reader, Refused, Track};
use super::document::{Document, PathStep, Place};
use super::preset::{Presets, issuer_with_preset, route_with_preset};
use super::raw::RawFile;
use super::report::{Report, did_you_mean, misspelt};
use super::schema;

/// Reads the main file: everything that is right in it.
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

/// Reads an included file, which holds issuers and routes alone.
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

/// Reads each `[kind.NAME]` by itself, so that an error in one hides none in another. `prepare` may add to it before.
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

/// What has a wrong type is reported and left out, and the rest is read again, so that every wrong type is found; each
/// round takes one key away, so that it ends.
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

/// Takes the innermost key of the path away; an array goes as a whole, so that no index moves.
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

/// `message` is serde's; only what follows "expected" is used, because what goes before quotes the value.
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
        Some(DeValue::String(_)) if expected == "an array" => "put it in brackets: [\"…\"]".to_owned(),
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

/// `file:line:col` of a key, for messages that name another place.
pub(crate) fn elsewhere(place: &Place<'_>) -> String {
    let (line, column) = place.position();
    format!("{}:{line}:{column}", place.document.file.display.display())
}
