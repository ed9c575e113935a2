//! A preset under what the operator wrote: tables merge key by key, arrays and values replace.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Preset, preset, urls, vars};
use crate::config::document::{Document, Place};
use crate::config::report::Report;

/// The preset of each issuer that has one, by the issuer's name, over all files.
pub(crate) type Presets = BTreeMap<String, &'static Preset>;

/// Which issuers have a preset; what is wrong with it is told where the issuer is read.
pub(crate) fn presets_of<'d, 't: 'd>(documents: impl Iterator<Item = &'d Document<'t>>) -> Presets {
    let mut found = Presets::new();
    for document in documents {
        let issuers = document.root.get_ref().as_table().and_then(|root| root.get("issuer"));
        let issuers = issuers.and_then(|issuers| issuers.get_ref().as_table());
        for (name, issuer) in issuers.into_iter().flat_map(DeTable::iter) {
            let named = issuer.get_ref().as_table().and_then(|table| table.get("preset"));
            let named = named.and_then(|named| named.get_ref().as_str()).and_then(preset);
            found.extend(named.map(|preset| (name.get_ref().to_string(), preset)));
        }
    }
    found
}

/// The issuer's table with its preset filled in.
pub(crate) fn issuer_with_preset<'t>(
    place: &Place<'t>,
    mut value: Spanned<DeValue<'t>>,
    report: &mut Report,
) -> Spanned<DeValue<'t>> {
    let DeValue::Table(table) = value.get_mut() else { return value };
    let vars_at = place.key("vars");
    let Some(named) = table.get("preset").and_then(|named| named.get_ref().as_str().map(str::to_owned))
    else {
        if vars_at.is_written() && !place.key("preset").is_written() {
            report.error(
                &vars_at,
                "are for a preset, and none is named",
                "preset = \"…\"; `bearerd init` lists them",
            );
        }
        return value;
    };
    let Some(preset) = preset(&named) else {
        let at = place.key("preset");
        let hint = match super::nearest_preset(&named) {
            Some("generic") => "leave `preset` out: an issuer needs none; `bearerd init generic`".to_owned(),
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "`bearerd init` lists them; leave it out for any other issuer".to_owned(),
        };
        report.error(&at, format!("there is no preset {}", at.describe()), hint);
        report.presetless.push(place.path.to_string());
        return value;
    };
    let mut below = preset.issuer.clone();
    // One way to the token endpoint: the operator's stands instead of the preset's, whichever that is.
    if table.contains_key("token_url") || table.contains_key("issuer_url") {
        below.remove("token_url");
        below.remove("issuer_url");
    }
    drop_overridden(&mut below, table);
    let used = vars::used_in(preset, &below);
    let mut values = vars::values(&vars_at, preset, &used, report);
    let wrong = urls::check(&vars_at, &below, &values, report);
    if wrong.is_empty() {
        vars::refuse_no_url(&vars_at, preset, &below, &mut values, report);
    }
    // What comes of a value that was refused is not told again.
    for var in preset.vars.iter().filter(|var| wrong.contains(&var.name)) {
        values.insert(var.name.clone(), var.example.clone());
    }
    vars::fill(&mut below, &values);
    lay_under(table, below);
    value
}

/// A route's table with what the preset of its issuer says of routes.
pub(crate) fn route_with_preset<'t>(
    mut value: Spanned<DeValue<'t>>,
    known: &Presets,
) -> Spanned<DeValue<'t>> {
    let DeValue::Table(table) = value.get_mut() else { return value };
    let issuer = table.get("issuer").and_then(|issuer| issuer.get_ref().as_str());
    let Some(preset) = issuer.and_then(|issuer| known.get(issuer)) else { return value };
    let mut below = preset.route.clone();
    // A way to put the token on that the operator chose is not mixed with another.
    if table.contains_key("inject") {
        below.remove("inject");
    }
    lay_under(table, below);
    value
}

/// Values that the operator wrote, so that a var which only they need is not asked for.
fn drop_overridden(below: &mut DeTable<'_>, above: &DeTable<'_>) {
    for (key, value) in above.iter() {
        let Some(other) = below.get_mut(key.get_ref().as_ref()) else { continue };
        match (value.get_ref(), other.get_mut()) {
            (DeValue::Table(above), DeValue::Table(below)) if !refers(above) => drop_overridden(below, above),
            _ => _ = below.remove(key.get_ref().as_ref()),
        }
    }
}

/// A table that says where one value stands is a value.
fn refers(table: &DeTable<'_>) -> bool {
    ["file", "env", "webhook"].iter().any(|key| table.contains_key(*key))
}

fn lay_under<'t>(above: &mut DeTable<'t>, below: DeTable<'t>) {
    for (key, value) in below {
        match above.get_mut(key.get_ref().as_ref()) {
            None => _ = above.insert(key, value),
            Some(there) => {
                if let (DeValue::Table(above), DeValue::Table(below)) = (there.get_mut(), value.into_inner())
                    && !refers(above)
                {
                    lay_under(above, below);
                }
            }
        }
    }
}
