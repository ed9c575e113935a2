//! The values of a preset's `vars`: reading them, filling them in, and checking what they do to a URL. A secret is sent to
//! that URL, so no value may lead to another host.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::document::Place;
use crate::config::preset::{Preset, PresetVar};
use crate::config::reference::Source;
use crate::config::report::{Report, did_you_mean};
use crate::config::types::url;

/// Values by name.
pub(super) type Values = BTreeMap<String, String>;

/// Reads `vars`: each is a string, a number, or a reference to a file or the environment.
pub(super) fn values(at: &Place<'_>, preset: &Preset, used: &BTreeSet<&str>, report: &mut Report) -> Values {
    let mut values = Values::new();
    let written = at.value().and_then(DeValue::as_table);
    for (key, value) in written.into_iter().flat_map(DeTable::iter) {
        let name = key.get_ref().as_ref();
        let place = at.key(name);
        let Some(var) = preset.vars.iter().find(|var| var.name == name) else {
            let known: Vec<&str> = preset.vars.iter().map(|var| var.name.as_str()).collect();
            let otherwise = match known.as_slice() {
                [] => format!("preset `{}` takes none", preset.name),
                known => format!("preset `{}` takes {}", preset.name, known.join(", ")),
            };
            let hint = did_you_mean(name, known.iter().copied(), &otherwise);
            report.error(&place, "is not a var of this preset", hint);
            continue;
        };
        let Some(text) = value_of(&place, value.get_ref(), var, report) else { continue };
        if value.get_ref().is_table() {
            report.elsewhere.entry(at.path.to_string()).or_default().push(text.clone());
        }
        match if var.host { host(&text) } else { Some(without_ending(text, var)) } {
            Some(text) => _ = values.insert(name.to_owned(), text),
            None => report.error(&place, "is not a host name", format!("write it as \"{}\"", var.example)),
        }
    }
    for var in &preset.vars {
        if values.contains_key(&var.name) {
            continue;
        }
        let is_used = used.contains(var.name.as_str());
        if let Some(text) =
            var.env.as_deref().filter(|_| is_used).and_then(|name| of_environment(at, name, var, report))
        {
            values.insert(var.name.clone(), text);
            continue;
        }
        if var.default.is_none() && is_used {
            let hint = match &var.env {
                Some(name) => {
                    format!("set {name} where bearerd is started, or vars = {{ {} }}", var.written())
                }
                None => format!("vars = {{ {} }}", var.written()),
            };
            let message = format!("is missing, and preset `{}` needs it: {}", preset.name, var.about);
            report.missing(&at.key(&var.name), message, hint);
        }
        // A missing var was reported above. Its example prevents a second error about the URL.
        values.insert(var.name.clone(), var.default.as_ref().unwrap_or(&var.example).clone());
    }
    values
}

/// Reports vars that make no valid URL of the preset's endpoint, at the vars, because the file has no URL. The message
/// quotes the template and not the values, which may contain a password.
pub(super) fn refuse_no_url(
    at: &Place<'_>,
    preset: &Preset,
    below: &DeTable<'_>,
    values: &mut Values,
    report: &mut Report,
) {
    for key in ["token_url", "issuer_url"] {
        let Some(template) = below.get(key).and_then(|value| value.get_ref().as_str()) else { continue };
        let text = filled(template, values);
        let reason = match url::parts(&text) {
            _ if text.matches("://").count() > 1 => "it contains a whole URL".to_owned(),
            Err(wrong) => wrong.message,
            Ok(_) => continue,
        };
        let named = || preset.vars.iter().filter(|var| template.contains(&format!("{{{}}}", var.name)));
        let examples: Vec<String> =
            named().filter(|var| at.key(&var.name).is_written()).map(PresetVar::written).collect();
        report.error(
            at,
            format!("do not fit into the preset's {key} \"{template}\": {reason}"),
            format!("as in vars = {{ {} }}", examples.join(", ")),
        );
        // Such a URL must cause no second error.
        let examples = named().map(|var| (var.name.clone(), var.example.clone()));
        values.extend(examples);
    }
}

/// Warns of a key beside the var that would fill it, with another value. `place`: the table that the operator wrote.
pub(super) fn check_contradictions(
    place: &Place<'_>,
    (preset, written): (&DeTable<'_>, &DeTable<'_>),
    values: &Values,
    report: &mut Report,
) {
    let issuer = place.path.0.iter().take(2).cloned().collect::<Vec<_>>();
    let vars = place.document.root().join(&issuer).key("vars");
    for (key, template) in preset.iter() {
        let key = key.get_ref().as_ref();
        let Some(own) = written.get(key) else { continue };
        let at = place.key(key);
        match (template.get_ref(), own.get_ref()) {
            (DeValue::Table(preset), DeValue::Table(own)) => {
                check_contradictions(&at, (preset, own), values, report);
            }
            (DeValue::String(template), own) => {
                let var = template.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
                let Some(var) = var.filter(|var| vars.key(var).is_written()) else { continue };
                if values.get(var).map(String::as_str) != own.as_str() {
                    let message = format!("is used in place of `vars.{var}`, which says otherwise");
                    report.warning(&at, message, "keep one of them");
                }
            }
            _ => {}
        }
    }
}

fn value_of(place: &Place<'_>, value: &DeValue<'_>, var: &PresetVar, report: &mut Report) -> Option<String> {
    let text = match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Table(table) => elsewhere(place, table, report)?,
        _ => {
            let found = place.describe();
            report.error(
                place,
                format!(
                    "expected a string, a number, {{ file = \"…\" }} or {{ env = \"…\" }}, found {found}"
                ),
                "",
            );
            return None;
        }
    };
    let text = text.trim();
    if text.is_empty() || text.chars().any(char::is_control) {
        report.error(place, "is empty or contains a control character", var.written());
        return None;
    }
    Some(text.to_owned())
}

/// The value of a variable that the platform sets. Like a referenced var, it is part of the issuer's table.
fn of_environment(at: &Place<'_>, name: &str, var: &PresetVar, report: &mut Report) -> Option<String> {
    let value = Source::env(name.to_owned(), None).read().ok()?;
    let text = value.expose_str()?.trim().to_owned();
    if text.is_empty() || text.chars().any(char::is_control) {
        return None;
    }
    report.elsewhere.entry(at.path.to_string()).or_default().push(text.clone());
    if !var.host {
        return Some(text);
    }
    // Platforms also write http://, for services of the machine.
    let host = host(text.strip_prefix("http://").unwrap_or(&text));
    if host.is_none() {
        report.error(
            at,
            format!("the environment's {name} is not a host name"),
            format!("write it as \"{}\", or set vars.{}", var.example, var.name),
        );
    }
    host
}

/// A host name, taken out of a URL if one was given. Consoles show the one or the other.
fn host(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase().replace('_', "-");
    let text = text.strip_prefix("https://").unwrap_or(&text).trim_end_matches('/');
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:[]".contains(&byte);
    (!text.is_empty() && text.bytes().all(fits)).then(|| text.to_owned())
}

fn without_ending(text: String, var: &PresetVar) -> String {
    match var.ending.as_deref().and_then(|ending| text.strip_suffix(ending)) {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}

/// Reads a referenced var. It is part of the issuer's table, so it is read together with the table.
fn elsewhere(place: &Place<'_>, table: &DeTable<'_>, report: &mut Report) -> Option<String> {
    let text = |key: &str| table.get(key).and_then(|value| value.get_ref().as_str()).map(str::to_owned);
    let pointer = text("pointer");
    let known = table.keys().all(|key| matches!(key.get_ref().as_ref(), "file" | "env" | "pointer"));
    let source = match (text("file"), text("env")) {
        (Some(file), None) if known => Source::file(place.document.file.folder.join(file), pointer),
        (None, Some(name)) if known => Source::env(name, pointer),
        _ if table.contains_key("exec") => {
            report.error(
                place,
                "cannot come from a program: a var is part of the config, and loading it runs none",
                "write the value, { file = \"…\" } or { env = \"…\" }",
            );
            return None;
        }
        _ => {
            report.error(
                place,
                "does not say where the value is",
                "write { file = \"…\" } or { env = \"…\" }",
            );
            return None;
        }
    };
    report.part_of_config(place, &source);
    match source.read() {
        Ok(value) => match value.expose_str() {
            Some(text) => Some(text.to_owned()),
            None => {
                report.error(place, format!("{}: is not UTF-8", source.place()), "");
                None
            }
        },
        Err(error) => {
            report.error(
                place,
                error.to_string(),
                "a var is part of the config, so it must be there at start",
            );
            None
        }
    }
}

/// The vars that a table names.
pub(super) fn used_in<'p>(preset: &'p Preset, table: &DeTable<'_>) -> BTreeSet<&'p str> {
    let mut used = BTreeSet::new();
    table.values().for_each(|value| note_used(preset, value.get_ref(), &mut used));
    used
}

fn note_used<'p>(preset: &'p Preset, value: &DeValue<'_>, used: &mut BTreeSet<&'p str>) {
    match value {
        DeValue::String(text) => {
            let named = preset.vars.iter().filter(|var| text.contains(&format!("{{{}}}", var.name)));
            used.extend(named.map(|var| var.name.as_str()));
        }
        DeValue::Array(items) => items.iter().for_each(|item| note_used(preset, item.get_ref(), used)),
        DeValue::Table(table) => table.values().for_each(|value| note_used(preset, value.get_ref(), used)),
        _ => {}
    }
}

/// Replaces `{name}` by the values. What an optional var leaves empty is left out.
pub(super) fn fill(table: &mut DeTable<'_>, values: &Values) {
    let mut empty = Vec::new();
    for (key, value) in table.iter_mut() {
        let was = value.get_ref().as_str().is_some_and(str::is_empty);
        fill_value(value, values);
        if !was && value.get_ref().as_str().is_some_and(str::is_empty) {
            empty.push(key.get_ref().clone());
        }
    }
    for key in empty {
        table.remove(&*key);
    }
}

fn fill_value(value: &mut Spanned<DeValue<'_>>, values: &Values) {
    match value.get_mut() {
        DeValue::String(text) if text.contains('{') => *text = Cow::Owned(filled(text, values)),
        DeValue::Array(items) => items.iter_mut().for_each(|item| fill_value(item, values)),
        DeValue::Table(table) => fill(table, values),
        _ => {}
    }
}

/// Works in one pass: a value is not searched for names again. If two `/` meet at the start or end of a value, one is
/// dropped, so that `https://idp/` and `https://idp` mean the same.
fn filled(template: &str, values: &Values) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        let named = after.split_once('}').and_then(|(name, after)| Some((values.get(name)?, after)));
        match named {
            Some((value, after)) => {
                let value = if after.starts_with('/') { value.trim_end_matches('/') } else { value };
                if value.starts_with('/') {
                    text.truncate(text.trim_end_matches('/').len());
                }
                text.push_str(value);
                rest = after;
            }
            None => {
                text.push('{');
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
}

const SCHEMES: [&str; 2] = ["https://", "http://"];

/// The part of a URL that a value becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// All of it.
    Whole,
    /// Its beginning: scheme and host, maybe a path.
    Start,
    /// Everything between the scheme and the path. A folder may follow the host.
    Host,
    /// One or more labels of a host. The preset has the rest.
    Label,
    /// The beginning of the path, directly after a value that ends with the host.
    Path,
    /// A piece of the path or query.
    Piece,
}

impl Part {
    /// `Err` says what the value must be.
    fn check(self, value: &str) -> Result<(), &'static str> {
        let splits = value.contains(['?', '#', '\\']);
        let climbs = value.split('/').any(|segment| matches!(segment, "." | ".."));
        match self {
            Self::Whole => Ok(()),
            Self::Start | Self::Path | Self::Piece if !value.chars().all(is_of_a_url) => Err(UNFIT),
            Self::Start if !splits => Ok(()),
            Self::Start => Err("must be a URL without a query"),
            Self::Host if !splits && !climbs && !value.contains('@') && value.chars().all(is_of_a_url) => {
                Ok(())
            }
            Self::Host => Err("must be a host, such as \"idp.example.com\""),
            Self::Label if value.bytes().all(is_of_a_host) => Ok(()),
            Self::Label => Err("becomes part of a host name: letters, digits, `-` and dots alone"),
            Self::Path if !value.starts_with('/') => Err("must be a path, such as \"/token\""),
            Self::Path | Self::Piece if !splits && !climbs && !value.contains('@') => Ok(()),
            Self::Path | Self::Piece => {
                Err("becomes part of a path: without `?`, `#`, `@`, `\\` and segments of dots")
            }
        }
    }
}

const UNFIT: &str = "becomes part of a URL, and holds a character that no URL may have";

/// Whether a URL may contain it: see `types::url`.
fn is_of_a_url(character: char) -> bool {
    matches!(character, '!'..='~') && !matches!(character, '"' | '<' | '>' | '^' | '`')
}

fn is_of_a_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// Reports each value that does not fit where `below` puts it, once each. Returns their names.
pub(super) fn check_urls(
    at: &Place<'_>,
    below: &DeTable<'_>,
    values: &Values,
    report: &mut Report,
) -> Vec<String> {
    let mut wrong = BTreeMap::new();
    below.values().for_each(|value| look(value.get_ref(), values, &mut wrong));
    for (name, what) in &wrong {
        let hint = if *what == UNFIT { "percent-encode it: a space is %20" } else { "" };
        report.error(&at.key(name), *what, hint);
    }
    wrong.into_keys().map(str::to_owned).collect()
}

fn look<'v>(value: &DeValue<'_>, values: &'v Values, wrong: &mut BTreeMap<&'v str, &'static str>) {
    match value {
        DeValue::String(text) => {
            for (name, part) in parts(text) {
                let Some((name, value)) = values.get_key_value(name) else { continue };
                if let Err(what) = part.check(value) {
                    wrong.entry(name).or_insert(what);
                }
            }
        }
        DeValue::Array(items) => items.iter().for_each(|item| look(item.get_ref(), values, wrong)),
        DeValue::Table(table) => table.values().for_each(|value| look(value.get_ref(), values, wrong)),
        _ => {}
    }
}

/// The names in a preset's URL, and the part that each becomes. Empty if the text is not a URL.
fn parts(template: &str) -> Vec<(&str, Part)> {
    let scheme = SCHEMES.iter().find(|scheme| template.starts_with(*scheme)).map_or(0, |scheme| scheme.len());
    if scheme == 0 && !template.starts_with('{') {
        return Vec::new();
    }
    let authority = template.get(scheme..).filter(|_| scheme > 0);
    let authority_end = authority.map_or(0, |rest| scheme + rest.find('/').unwrap_or(rest.len()));
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(open) = template.get(at..).and_then(|rest| rest.find('{')).map(|open| at + open) {
        let Some(close) = template.get(open..).and_then(|rest| rest.find('}')).map(|close| open + close)
        else {
            break;
        };
        let after = close + 1;
        let part = if open == 0 {
            if after == template.len() { Part::Whole } else { Part::Start }
        } else if open < authority_end {
            if open == scheme && after == authority_end { Part::Host } else { Part::Label }
        } else if open == at {
            Part::Path
        } else {
            Part::Piece
        };
        found.extend(template.get(open + 1..close).map(|name| (name, part)));
        at = after;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_put_in_once_and_other_braces_stay() {
        let values = Values::from([
            ("base".to_owned(), "https://idp/".to_owned()),
            ("realm".to_owned(), "{base}".to_owned()),
            ("path".to_owned(), "/token".to_owned()),
        ]);
        assert_eq!(filled("{base}/realms/{realm}/x", &values), "https://idp/realms/{base}/x");
        assert_eq!(filled("{base}", &values), "https://idp/");
        assert_eq!(filled("{base}{path}", &values), "https://idp/token");
        assert_eq!(filled("Bearer {token}", &values), "Bearer {token}");
        assert_eq!(filled("{ {base", &values), "{ {base");
    }

    #[test]
    fn each_part_of_a_url_is_found() {
        assert_eq!(parts("{url}"), [("url", Part::Whole)]);
        assert_eq!(parts("{url}{path}"), [("url", Part::Start), ("path", Part::Path)]);
        assert_eq!(parts("{url}/realms/{realm}/t"), [("url", Part::Start), ("realm", Part::Piece)]);
        assert_eq!(parts("https://{site}/?oauth=token"), [("site", Part::Host)]);
        assert_eq!(parts("http://{host}/token/{name}"), [("host", Part::Host), ("name", Part::Piece)]);
        assert_eq!(
            parts("https://{a}.auth.{b}.example.com/{a}.x/{c}"),
            [("a", Part::Label), ("b", Part::Label), ("a", Part::Piece), ("c", Part::Piece)]
        );
        assert_eq!(parts("https://login.{region}/t"), [("region", Part::Label)]);
        assert!(parts("Bearer {token}").is_empty() && parts("api://{id}").is_empty());
    }

    #[test]
    fn no_value_turns_a_url_to_another_host() {
        for (part, good, bad) in [
            (
                Part::Start,
                &["https://idp", "http://localhost:8080/auth/"][..],
                &["https://idp?", "https://idp#"][..],
            ),
            (
                Part::Host,
                &["a.example", "a.example:8443", "a.example/blog"],
                &["a@b", "a?", "a#", "a/../b", "a\\b"],
            ),
            (
                Part::Label,
                &["acme", "1234567-sb1", "mypurecloud.de"],
                &["a/", "a:1", "a?", "a#", "a@b", "a%2f", "é"],
            ),
            (Part::Path, &["/token", "/a/b/"], &["token", ".b.example/t", "@b/t", ":1/t", "/t?a", "/a/../b"]),
            (
                Part::Piece,
                &["acme", "contoso.onmicrosoft.com", "a/b"],
                &["..", "a/../b", "a?b", "a#b", "x@b", "my realm", "é", "<a>"],
            ),
        ] {
            for value in good {
                assert_eq!(part.check(value), Ok(()), "{part:?} {value}");
            }
            for value in bad {
                assert!(part.check(value).is_err(), "{part:?} {value}");
            }
        }
    }
}
