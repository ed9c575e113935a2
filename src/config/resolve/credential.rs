//! What identifies a token: the issuer's table as a digest, and a route's own scopes and parameters.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest;
use toml::de::{DeTable, DeValue};

use super::super::document::Place;
use super::super::model::{Carrier, CredentialKey, IssuerConfig, Params};
use super::super::raw::values::RawParams;
use super::super::report::Report;
use super::value::{params, refuse_tables, scopes};

/// SHA-256 over the table in one canonical form: keys in order, every part with its type and length, paths of files
/// absolute. Comments, order and spelling do not matter; every value does.
pub(super) fn issuer_digest(place: &Place<'_>, report: &Report) -> [u8; 32] {
    let mut hasher = digest::Context::new(&digest::SHA256);
    if let Some(value) = place.value() {
        value_into(&mut hasher, value, &place.document.file.folder, true);
    }
    let vars = report.elsewhere.get(&place.key("vars").path.to_string());
    vars.into_iter().flatten().for_each(|value| part(&mut hasher, b'v', value.as_bytes()));
    // Where a learned value stands is written elsewhere too.
    let mut learned = BTreeSet::new();
    place.value().into_iter().for_each(|value| webhooks_in(value, &mut learned));
    for store in learned.into_iter().filter_map(|name| report.webhooks.get(name)?.as_ref()) {
        part(&mut hasher, b'w', store.as_os_str().as_encoded_bytes());
    }
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(hasher.finish().as_ref()).for_each(|(to, from)| *to = *from);
    bytes
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
fn value_into(hasher: &mut digest::Context, value: &DeValue<'_>, folder: &Path, may_refer: bool) {
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

fn table_into(hasher: &mut digest::Context, table: &DeTable<'_>, folder: &Path, may_refer: bool) {
    let is_reference = may_refer
        && table.keys().all(|key| matches!(key.get_ref().as_ref(), "file" | "pointer" | "password"));
    for (key, value) in table.iter() {
        let key = key.get_ref().as_ref();
        part(hasher, b'k', key.as_bytes());
        match value.get_ref() {
            DeValue::String(path) if is_reference && key == "file" => {
                part(hasher, b'p', folder.join(path.as_ref()).as_os_str().as_encoded_bytes());
            }
            // A parameter or header may be called `file` without being one.
            value => value_into(hasher, value, folder, !matches!(key, "params" | "headers")),
        }
    }
}

fn part(hasher: &mut digest::Context, tag: u8, bytes: &[u8]) {
    hasher.update(&[tag]);
    hasher.update(&(bytes.len() as u64).to_be_bytes());
    hasher.update(bytes);
}

/// The key of a route's token; its scopes stand instead of the issuer's, its parameters are added.
pub(super) fn key(
    place: &Place<'_>,
    issuer: Option<&Arc<IssuerConfig>>,
    own_scopes: Option<Vec<String>>,
    own_params: Option<RawParams>,
    subject: Option<String>,
    report: &mut Report,
) -> Option<CredentialKey> {
    let own_scopes = own_scopes.map(|raw| scopes(&place.key("scopes"), raw, report));
    let own_params = params(&place.key("params"), own_params, report);
    let issuer = issuer?;
    if issuer.carrier != Carrier::Json {
        refuse_tables(&place.key("params"), &own_params, report);
    }
    if subject.is_some() && issuer.jwt.is_none() {
        report.error(
            &place.key("subject"),
            format!("is the `sub` of a JWT, and issuer `{}` makes none", issuer.name),
            "leave it out, or sign with private_key: see `jwt`",
        );
    }
    let mut all: Params = issuer.params.clone();
    all.extend(own_params);
    Some(CredentialKey {
        issuer: Arc::clone(&issuer.name),
        issuer_digest: issuer.digest,
        scopes: own_scopes.unwrap_or_else(|| issuer.scopes.clone()),
        params: all,
        subject,
    })
}
