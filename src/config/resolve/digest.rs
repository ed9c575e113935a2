//! What tells one issuer from another: tokens belong to the digest of an issuer's table.

use std::collections::BTreeSet;
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};
use toml::de::{DeTable, DeValue};

use crate::config::document::Place;
use crate::config::report::Report;

/// SHA-256 over the table in a canonical form: keys in order, every part with its type and length, and absolute paths
/// of files. Comments, order, and spelling do not matter. Every value does, except `budget`: another limit is no reason to
/// fetch other tokens.
pub(super) fn of_issuer(place: &Place<'_>, report: &Report) -> [u8; 32] {
    let mut hasher = Context::new(&SHA256);
    if let Some(value) = place.value() {
        let mut value = value.clone();
        if let DeValue::Table(table) = &mut value {
            table.remove("budget");
        }
        value_into(&mut hasher, &value, &place.document.file.folder, true);
    }
    let vars = report.elsewhere.get(&place.key("vars").path.to_string());
    vars.into_iter().flatten().for_each(|value| part(&mut hasher, b'v', value.as_bytes()));
    // The place of a learned value is also written in another table.
    let mut learned = BTreeSet::new();
    place.value().into_iter().for_each(|value| webhooks_in(value, &mut learned));
    for store in learned.into_iter().filter_map(|name| report.webhooks.get(name)?.as_ref()) {
        part(&mut hasher, b'w', store.as_os_str().as_encoded_bytes());
    }
    finished(hasher)
}

/// Of an issuer that needs the tokens of another one: another inner issuer makes another outer one.
pub(super) fn of_chain(outer: [u8; 32], inner: [u8; 32]) -> [u8; 32] {
    let mut hasher = Context::new(&SHA256);
    hasher.update(&outer);
    hasher.update(&inner);
    finished(hasher)
}

fn finished(hasher: Context) -> [u8; 32] {
    hasher.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn webhooks_in<'v>(value: &'v DeValue<'_>, found: &mut BTreeSet<&'v str>) {
    match value {
        DeValue::Table(table) => {
            found.extend(table.get("webhook").and_then(|name| name.get_ref().as_str()));
            table.values().for_each(|value| webhooks_in(value.get_ref(), found));
        }
        DeValue::Array(items) => items.iter().for_each(|item| webhooks_in(item.get_ref(), found)),
        _ => {}
    }
}

/// `may_refer`: a table here may be a reference, whose `file` is a path.
fn value_into(hasher: &mut Context, value: &DeValue<'_>, folder: &Path, may_refer: bool) {
    match value {
        DeValue::String(text) => part(hasher, b's', text.as_bytes()),
        DeValue::Integer(number) => part(hasher, b'i', number.to_string().as_bytes()),
        DeValue::Float(number) => part(hasher, b'f', number.as_str().as_bytes()),
        DeValue::Boolean(flag) => part(hasher, b'b', &[u8::from(*flag)]),
        DeValue::Datetime(date) => part(hasher, b'd', date.to_string().as_bytes()),
        DeValue::Array(items) => {
            part(hasher, b'a', &(items.len() as u64).to_be_bytes());
            for item in items {
                value_into(hasher, item.get_ref(), folder, true);
            }
        }
        DeValue::Table(table) => {
            part(hasher, b't', &(table.len() as u64).to_be_bytes());
            table_into(hasher, table, folder, may_refer);
        }
    }
}

fn table_into(hasher: &mut Context, table: &DeTable<'_>, folder: &Path, may_refer: bool) {
    let is_reference = may_refer
        && table.keys().all(|key| matches!(key.get_ref().as_ref(), "file" | "pointer" | "password"));
    for (key, value) in table.iter() {
        let key = key.get_ref().as_ref();
        part(hasher, b'k', key.as_bytes());
        match value.get_ref() {
            // A program starts in this folder.
            DeValue::Array(_) if may_refer && key == "exec" => {
                part(hasher, b'x', folder.as_os_str().as_encoded_bytes());
                value_into(hasher, value.get_ref(), folder, false);
            }
            DeValue::String(path) if is_reference && key == "file" => {
                part(hasher, b'p', folder.join(path.as_ref()).as_os_str().as_encoded_bytes());
            }
            // A parameter or header field may be named `file` without being a reference.
            value => value_into(hasher, value, folder, !matches!(key, "params" | "headers")),
        }
    }
}

fn part(hasher: &mut Context, tag: u8, bytes: &[u8]) {
    hasher.update(&[tag]);
    hasher.update(&(bytes.len() as u64).to_be_bytes());
    hasher.update(bytes);
}
