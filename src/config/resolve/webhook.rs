//! `[webhook.NAME]`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::super::document::Place;
use super::super::model::{Address, WebhookConfig};
use super::super::raw::RawWebhook;
use super::super::raw::keys::check;
use super::super::raw::values::RawReference;
use super::super::report::Report;
use super::super::types;
use super::listener::refuse_same_address;
use super::value::{ValueKind, reference};

/// All webhooks, in the order of their names; leaves their names behind for the references to them.
pub(super) fn resolve(
    top: &Place<'_>,
    written: BTreeMap<String, RawWebhook>,
    mut taken: Vec<(Address, String)>,
    report: &mut Report,
) -> Vec<Arc<WebhookConfig>> {
    let all = top.key("webhook");
    let mut webhooks = Vec::new();
    let mut stores: Vec<(PathBuf, String)> = Vec::new();
    for (name, raw) in written {
        let place = all.key(&name);
        let config = webhook(&place, &name, raw, report).map(Arc::new);
        report.webhooks.insert(name.clone(), config.as_ref().map(|config| config.store.clone()));
        let Some(config) = config else { continue };
        refuse_same_address(&place.key("address"), &config.address, &taken, report);
        taken.push((config.address.clone(), format!("webhook `{name}`")));
        if let Some((_, other)) = stores.iter().find(|(store, _)| *store == config.store) {
            let message = format!("is the store of webhook `{other}` too");
            report.error(&place.key("store"), message, "give each its own file");
        }
        stores.push((config.store.clone(), name));
        webhooks.push(config);
    }
    webhooks
}

fn webhook(place: &Place<'_>, name: &str, raw: RawWebhook, report: &mut Report) -> Option<WebhookConfig> {
    check(place, types::name(name), report);
    let RawWebhook { address, path, signature_header, secrets, value, store } = raw;
    let mut text = |key: &str, written: Option<String>, example: &str| {
        if written.is_none() {
            report.missing(&place.key(key), "is missing", format!("{key} = {example}"));
        }
        written
    };
    let address = text("address", address, "\"127.0.0.1:9181\"");
    let path = text("path", path, "\"/seismic\", the path that the sender calls");
    let header = text("signature_header", signature_header, "\"x-seismic-signature\"");
    let value = text("value", value, "\"/delegationUserId\", where the value stands in the payload");
    let store = text("store", store, "\"/var/lib/bearerd/seismic.json\", a file that bearerd may write");
    let folder = &place.document.file.folder;
    let address =
        address.and_then(|address| check(&place.key("address"), types::address(&address, folder), report));
    let path = path.and_then(|path| request_path(&place.key("path"), path, report));
    let signature_header =
        header.and_then(|name| check(&place.key("signature_header"), types::header_name(&name), report));
    let value = value.filter(|value| check(&place.key("value"), types::pointer(value), report).is_some());
    let store = store.and_then(|path| {
        let usable = !path.is_empty() && !path.contains('\0') && !path.ends_with('/');
        if !usable {
            report.error(&place.key("store"), "is no path of a file", "");
        }
        usable.then(|| folder.join(path))
    });
    let secrets = signing_secrets(&place.key("secrets"), secrets, report);
    Some(WebhookConfig {
        name: name.into(),
        address: address?,
        path: path?,
        signature_header: signature_header?,
        secrets: secrets?,
        value: value?,
        store: store?,
    })
}

fn request_path(place: &Place<'_>, path: String, report: &mut Report) -> Option<String> {
    let visible = path.bytes().all(|byte| matches!(byte, 0x21..=0x7E));
    if !path.starts_with('/') || !visible || path.contains(['?', '#']) {
        report.error(place, "is no path of a request", "such as \"/seismic\", without a query");
        return None;
    }
    Some(path)
}

fn signing_secrets(
    place: &Place<'_>,
    written: Option<Vec<RawReference>>,
    report: &mut Report,
) -> Option<Vec<super::super::reference::Source>> {
    let hint = "secrets = [{ file = \"…\" }], and the previous one beside it while it changes";
    let Some(written) = written else {
        report.missing(place, "is missing", hint);
        return None;
    };
    if written.is_empty() {
        report.error(place, "names no secret, so nobody could sign", hint);
        return None;
    }
    let read: Vec<_> = written
        .into_iter()
        .enumerate()
        .map(|(index, raw)| reference(&place.index(index), raw, ValueKind::Secret, report))
        .collect();
    read.into_iter().collect()
}
