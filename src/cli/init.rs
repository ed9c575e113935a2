//! `bearerd init`: the presets there are, and a config to start from.

mod generic;
mod text;

use std::fmt::Write;

use serde_json::{Value, json};

use super::args::Output;
use super::{Exit, Failure, output};
use crate::config::{self, Preset, PresetKey};

/// What follows the list.
const GO_ON: &str = "\
bearerd init NAME > bearerd.toml     writes a config for NAME, with comments on where each value is found
bearerd check --online               then says what is still wrong with it

An issuer that is not in the list:
bearerd init --issuer-url URL        reads its discovery document and writes a config that fits
bearerd init generic                 writes a config for any issuer
config.example.toml shows every key, and `bearerd schema` tells your editor about them.";

/// Any issuer, as if it were a preset.
const GENERIC: &str = "generic";

pub(super) fn init(name: Option<&str>, issuer_url: Option<&str>, format: Output) -> Result<Exit, Failure> {
    if let Some(url) = issuer_url {
        print(GENERIC, &generic::discovered(url)?, format);
        return Ok(Exit::Fine);
    }
    match (name, format) {
        (Some(GENERIC), format) => print(GENERIC, &generic::template(), format),
        (None, Output::Text) => output::answer(&list(config::presets())),
        (None, Output::Json) => output::answer_json(&json!({
            "presets": config::presets().map(described).collect::<Vec<_>>(),
        })),
        (Some(name), format) => {
            let preset = config::preset(name).ok_or_else(|| unknown(name))?;
            print(name, &text::config(preset), format);
        }
    }
    Ok(Exit::Fine)
}

fn print(name: &str, text: &str, format: Output) {
    match format {
        Output::Text => output::answer(text),
        Output::Json => output::answer_json(&json!({ "preset": name, "config": text })),
    }
}

fn unknown(name: &str) -> Failure {
    let hint = match config::nearest_preset(name) {
        Some(meant) => format!("did you mean `{meant}`? `bearerd init` lists them all"),
        None => "`bearerd init` lists them; `bearerd init generic` fits any issuer".to_owned(),
    };
    Failure::new(Exit::Usage, format!("no preset `{name}`; {hint}"))
}

/// Every preset on a line of its own, in columns.
fn list<'a>(presets: impl Iterator<Item = &'a Preset>) -> String {
    let mut rows: Vec<[String; 3]> = presets
        .map(|preset| {
            let vars: Vec<&str> = preset.vars.iter().map(|var| &*var.name).collect();
            [preset.name.to_owned(), preset.title.clone(), vars.join(", ")]
        })
        .collect();
    rows.sort();
    let width = |column: usize, head: &str| {
        let longest = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        longest.unwrap_or_default().max(head.len())
    };
    let (name, title) = (width(0, "PRESET"), width(1, "FOR"));
    let mut text = format!("{:name$}  {:title$}  VARS\n", "PRESET", "FOR");
    for [preset, of, vars] in &rows {
        let line = format!("{preset:name$}  {of:title$}  {vars}");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", line.trim_end());
    }
    format!("{text}\n{GO_ON}")
}

fn described(preset: &Preset) -> Value {
    let keys = |keys: &[PresetKey]| -> Vec<Value> {
        keys.iter().map(|key| json!({ "key": key.key, "about": key.about, "example": key.example })).collect()
    };
    json!({
        "name": preset.name,
        "title": preset.title,
        "about": preset.about,
        "vars": preset.vars.iter().map(|var| json!({
            "name": var.name,
            "about": var.about,
            "example": var.example,
            "default": var.default,
        })).collect::<Vec<_>>(),
        "needs": keys(&preset.needs),
        "options": keys(&preset.options),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_each_preset_with_its_vars_in_columns() {
        let text = list(config::presets());
        let starts: Vec<usize> = config::presets()
            .map(|preset| {
                let begins = format!("{} ", preset.name);
                let line = text.lines().find(|line| line.starts_with(&begins)).unwrap();
                assert!(preset.vars.iter().all(|var| line.contains(&*var.name)), "{line}");
                // A title may be the name once more.
                let after = preset.name.len();
                line[after..].find(&*preset.title).map(|at| line[..after + at].chars().count()).unwrap()
            })
            .collect();
        assert!(starts.windows(2).all(|pair| pair[0] == pair[1]), "{text}");
        assert!(text.contains("bearerd init NAME") && text.contains("config.example.toml"), "{text}");
    }

    #[test]
    fn an_unknown_name_is_bad_usage_with_the_nearest() {
        let failure = init(Some("keyclock"), None, Output::Text).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.contains("did you mean `keycloak`?"), "{}", failure.message);
        let failure = init(Some("zzzzzzzzzz"), None, Output::Text).unwrap_err();
        assert!(failure.message.contains("`bearerd init` lists them"), "{}", failure.message);
    }
}
