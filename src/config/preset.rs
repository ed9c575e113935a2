//! Presets: what a vendor defines, as data. Each preset is a file of `presets/`, which the build embeds. What the operator
//! writes is merged over the preset.

mod vars;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::document::{Document, Place};
use crate::config::raw::values::RawElsewhere;
use crate::config::report::{Report, nearest};

const FILES: &[(&str, &str)] = &include!(concat!(env!("OUT_DIR"), "/presets.rs"));

/// A vendor's preset.
#[derive(Debug)]
pub struct Preset {
    pub name: &'static str,
    /// The system, in a few words.
    pub title: String,
    /// What an operator should know about it; may be empty.
    pub about: String,
    /// In the order of their names.
    pub vars: Vec<PresetVar>,
    /// Keys of `[issuer.NAME]` that the operator gives.
    pub needs: Vec<PresetKey>,
    /// Keys of `[issuer.NAME]` that the operator may give.
    pub options: Vec<PresetKey>,
    /// More TOML that an issuer of this kind needs, such as a `[webhook.NAME]`; may be empty.
    pub extra: String,
    /// Keys of `[issuer.NAME]`.
    issuer: DeTable<'static>,
    /// Keys of the `[[route]]`s that use such an issuer.
    route: DeTable<'static>,
}

/// A value that a preset requires.
#[derive(Debug)]
pub struct PresetVar {
    pub name: String,
    pub about: String,
    pub example: String,
    /// If there is one, the operator may leave the value out. If it is empty, so is what the var alone fills.
    pub default: Option<String>,
    /// The environment variable that has the value where the operator leaves it out. It goes before the default.
    pub env: Option<String>,
    /// It is a host name or a part of one. It becomes lower case, with `-` for `_`, and is taken out of
    /// `https://HOST/`.
    pub host: bool,
    /// An ending that is cut off.
    pub ending: Option<String>,
}

impl PresetVar {
    /// The operator must write it.
    pub fn is_needed(&self) -> bool {
        self.default.is_none() && self.env.is_none()
    }

    /// An example of how an operator could write it.
    fn written(&self) -> String {
        format!("{} = \"{}\"", self.name, self.example)
    }
}

/// A key that a preset leaves to the operator.
#[derive(Debug)]
pub struct PresetKey {
    pub key: String,
    pub about: String,
    /// TOML.
    pub example: String,
}

impl Preset {
    /// Keys of `[issuer.NAME]` that the preset sets.
    pub fn issuer_keys(&self) -> impl Iterator<Item = &str> {
        self.issuer.keys().map(|key| key.get_ref().as_ref())
    }

    /// Keys of `[[route]]` that the preset sets.
    pub fn route_keys(&self) -> impl Iterator<Item = &str> {
        self.route.keys().map(|key| key.get_ref().as_ref())
    }
}

static PRESETS: LazyLock<Vec<Preset>> =
    LazyLock::new(|| FILES.iter().filter_map(|(name, text)| read(name, text).ok()).collect());

/// What people write if they mean no particular vendor.
const NO_VENDOR: [&str; 8] =
    ["generic", "oauth", "oauth2", "oidc", "openid", "openid-connect", "custom", "other"];

/// The preset that was probably meant by an unknown name; `generic` if any issuer was meant.
pub fn nearest_preset(written: &str) -> Option<&'static str> {
    if NO_VENDOR.contains(&written.to_ascii_lowercase().as_str()) {
        return Some("generic");
    }
    nearest(written, presets().map(|preset| preset.name))
}

/// Every preset, in the order of their names.
pub fn presets() -> impl Iterator<Item = &'static Preset> {
    PRESETS.iter()
}

/// The preset of this name.
pub fn preset(name: &str) -> Option<&'static Preset> {
    presets().find(|preset| preset.name == name)
}

fn read(name: &'static str, text: &'static str) -> Result<Preset, String> {
    let document = DeTable::parse(text).map_err(|error| error.to_string())?.into_inner();
    let mut parts = Parts(document);
    let preset = Preset {
        name,
        title: parts.text("title")?.ok_or("title is missing")?,
        about: parts.text("about")?.unwrap_or_default().trim().to_owned(),
        vars: parts.entries("vars", |name, mut parts| {
            let var = PresetVar {
                name,
                about: parts.text("about")?.ok_or("about is missing")?,
                example: parts.text("example")?.ok_or("example is missing")?,
                default: parts.text("default")?,
                env: parts.text("env")?,
                host: parts.flag("host")?,
                ending: parts.text("ending")?,
            };
            parts.end().map(|()| var)
        })?,
        needs: parts.entries("needs", key)?,
        options: parts.entries("options", key)?,
        extra: parts.text("extra")?.unwrap_or_default(),
        issuer: parts.table("issuer")?,
        route: parts.table("route")?,
    };
    parts.end().map(|()| preset)
}

fn key(key: String, mut parts: Parts) -> Result<PresetKey, String> {
    let about = parts.text("about")?.ok_or("about is missing")?;
    let example = parts.text("example")?.ok_or("example is missing")?;
    parts.end().map(|()| PresetKey { key, about, example })
}

/// A table that is taken apart. Keys that are left at the end are unknown.
struct Parts(DeTable<'static>);

impl Parts {
    fn text(&mut self, key: &str) -> Result<Option<String>, String> {
        match self.0.remove(key).map(Spanned::into_inner) {
            None => Ok(None),
            Some(DeValue::String(text)) => Ok(Some(text.into_owned())),
            Some(_) => Err(format!("{key} is no text")),
        }
    }

    fn flag(&mut self, key: &str) -> Result<bool, String> {
        match self.0.remove(key).map(Spanned::into_inner) {
            None => Ok(false),
            Some(DeValue::Boolean(flag)) => Ok(flag),
            Some(_) => Err(format!("{key} is neither true nor false")),
        }
    }

    fn table(&mut self, key: &str) -> Result<DeTable<'static>, String> {
        match self.0.remove(key).map(Spanned::into_inner) {
            None => Ok(DeTable::default()),
            Some(DeValue::Table(table)) => Ok(table),
            Some(_) => Err(format!("{key} is no table")),
        }
    }

    /// The tables in a table, in the order in which they are written.
    fn entries<T>(
        &mut self,
        key: &str,
        read: fn(String, Self) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        let mut entries: Vec<_> = self.table(key)?.into_iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        let entries = entries.into_iter().map(|(name, value)| match value.into_inner() {
            DeValue::Table(table) => {
                let name = name.into_inner().into_owned();
                read(name.clone(), Self(table)).map_err(|error| format!("{key}.{name}: {error}"))
            }
            _ => Err(format!("{key}.{} is no table", name.get_ref())),
        });
        entries.collect()
    }

    fn end(self) -> Result<(), String> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(key) => Err(format!("unknown key {}", key.get_ref())),
        }
    }
}

/// The preset of each issuer that has one, by the issuer's name, over all files.
pub(crate) type Presets = BTreeMap<String, &'static Preset>;

/// Which issuers have a preset. Errors are reported when the issuer is read.
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

/// Fills the preset into the issuer's table.
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
                "are for a preset, but no preset is named",
                "preset = \"…\"; `bearerd init` lists them",
            );
        }
        return value;
    };
    let Some(preset) = preset(&named) else {
        let at = place.key("preset");
        let hint = match nearest_preset(&named) {
            Some("generic") => "leave `preset` out: an issuer needs none; `bearerd init generic`".to_owned(),
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "`bearerd init` lists them; leave it out for any other issuer".to_owned(),
        };
        report.error(&at, format!("there is no preset {}", at.describe()), hint);
        report.presetless.push(place.path.to_string());
        return value;
    };
    let mut below = preset.issuer.clone();
    // There is only one way to the token endpoint: the operator's replaces the preset's.
    if table.contains_key("token_url") || table.contains_key("issuer_url") {
        below.remove("token_url");
        below.remove("issuer_url");
    }
    drop_overridden(&mut below, table);
    let used = vars::used_in(preset, &below);
    let mut values = vars::values(&vars_at, preset, &used, report);
    vars::check_contradictions(place, (&preset.issuer, &*table), &values, report);
    let wrong = vars::check_urls(&vars_at, &below, &values, report);
    if wrong.is_empty() {
        vars::refuse_no_url(&vars_at, preset, &below, &mut values, report);
    }
    // A refused value must cause no second error.
    for var in preset.vars.iter().filter(|var| wrong.contains(&var.name)) {
        values.insert(var.name.clone(), var.example.clone());
    }
    vars::fill(&mut below, &values);
    lay_under(table, below);
    value
}

/// Fills what the issuer's preset says about routes into the route's table.
pub(crate) fn route_with_preset<'t>(
    mut value: Spanned<DeValue<'t>>,
    known: &Presets,
) -> Spanned<DeValue<'t>> {
    let DeValue::Table(table) = value.get_mut() else { return value };
    let issuer = table.get("issuer").and_then(|issuer| issuer.get_ref().as_str());
    let Some(preset) = issuer.and_then(|issuer| known.get(issuer)) else { return value };
    let mut below = preset.route.clone();
    // If the operator chose how to add the token, the preset's way is not mixed in.
    if table.contains_key("inject") {
        below.remove("inject");
    }
    lay_under(table, below);
    value
}

/// Removes the values that the operator overrides, so that a var that only they need is not required.
fn drop_overridden(below: &mut DeTable<'_>, above: &DeTable<'_>) {
    for (key, value) in above.iter() {
        let Some(other) = below.get_mut(key.get_ref().as_ref()) else { continue };
        match (value.get_ref(), other.get_mut()) {
            (DeValue::Table(above), DeValue::Table(below)) if !refers(key.get_ref(), above) => {
                drop_overridden(below, above);
            }
            _ => _ = below.remove(key.get_ref().as_ref()),
        }
    }
}

/// A table that says where a value is counts as a value. In a table of other values, such a key is the name of one.
fn refers(key: &str, table: &DeTable<'_>) -> bool {
    !matches!(key, "params" | "headers" | "jwt" | "claims" | "vars")
        && RawElsewhere::PLACES.iter().any(|key| table.contains_key(*key))
}

fn lay_under<'t>(above: &mut DeTable<'t>, below: DeTable<'t>) {
    for (key, value) in below {
        match above.get_mut(key.get_ref().as_ref()) {
            None => _ = above.insert(key, value),
            Some(there) => {
                if let (DeValue::Table(above), DeValue::Table(below)) = (there.get_mut(), value.into_inner())
                    && !refers(key.get_ref(), above)
                {
                    lay_under(above, below);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_a_preset() {
        for (name, text) in FILES {
            let preset = read(name, text).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(!preset.title.is_empty(), "{name}");
            assert!(preset.issuer_keys().next().is_some(), "{name} fills in nothing");
        }
        assert_eq!(presets().count(), FILES.len());
    }

    #[test]
    fn presets_set_known_keys_alone() {
        use crate::config::document::PathStep;
        use crate::config::schema::keys_at;
        let step = |key: &str| PathStep::Key(key.to_owned());
        let issuer = keys_at(&[step("issuer"), step("corp")]);
        let route = keys_at(&[step("route"), PathStep::Index(0)]);
        for preset in presets() {
            let named = preset.needs.iter().chain(&preset.options).map(|key| key.key.as_str());
            for key in preset.issuer_keys().chain(named) {
                assert!(issuer.contains(&key.split('.').next().unwrap()), "{}: {key}", preset.name);
                assert!(!matches!(key, "preset" | "vars"), "{}: {key}", preset.name);
            }
            for key in preset.route_keys() {
                assert!(route.contains(&key), "{}: route {key}", preset.name);
                assert!(
                    !matches!(key, "name" | "issuer" | "anonymous" | "upstream"),
                    "{}: {key}",
                    preset.name
                );
            }
        }
    }

    #[test]
    fn every_var_of_a_preset_is_used_and_every_placeholder_is_a_var() {
        for (name, text) in FILES {
            let preset = read(name, text).unwrap();
            let data = &text[text.find("[issuer]").unwrap()..];
            for var in &preset.vars {
                assert!(data.contains(&format!("{{{}}}", var.name)), "{name}: {} is not used", var.name);
            }
        }
    }
}
