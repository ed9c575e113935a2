//! A preset as a config file, with a comment on where each value is found.

use std::fmt::Write;

use crate::config::{Preset, PresetKey, PresetVar};

/// How wide comments are, in characters.
const WIDTH: usize = 100;

/// The whole file.
pub(super) fn config(preset: &Preset) -> String {
    let mut text = String::new();
    comment(&mut text, &format!("{}.", preset.title.trim_end_matches('.')));
    if !preset.about.trim().is_empty() {
        text.push_str("#\n");
        comment(&mut text, &preset.about);
    }
    how_to_go_on(&mut text);
    listener(&mut text);
    issuer(&mut text, preset);
    route(&mut text, preset.name);
    if !preset.extra.trim().is_empty() {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n{}\n", preset.extra.trim());
    }
    text
}

pub(super) fn how_to_go_on(text: &mut String) {
    text.push_str("#\n");
    comment(
        text,
        "Put your values in the place of the examples. Then: bearerd check, bearerd check --online, bearerd run.",
    );
}

pub(super) fn listener(text: &mut String) {
    text.push_str(
        "\n[listener.main]\naddress = \"127.0.0.1:8080\"              # where your program sends its requests, over plain http\n",
    );
}

fn issuer(text: &mut String, preset: &Preset) {
    // Writing to a String cannot fail.
    let _ = write!(text, "\n[issuer.{0}]\npreset = \"{0}\"\n", preset.name);
    vars(text, &preset.vars);
    for key in &preset.needs {
        text.push('\n');
        comment(text, &key.about);
        let _ = writeln!(text, "{} = {}", key.key, key.example.trim());
    }
    for key in &preset.options {
        text.push('\n');
        option(text, key);
    }
}

/// What has a default is told, and left out.
fn vars(text: &mut String, vars: &[PresetVar]) {
    if vars.is_empty() {
        return;
    }
    text.push('\n');
    for var in vars {
        let default = match var.default.as_deref() {
            Some("") => ". Optional".to_owned(),
            Some(default) => format!(". Optional: {default} where it is left out"),
            None => String::new(),
        };
        comment(text, &format!("{}: {}{default}", var.name, var.about));
    }
    let given = |wanted: bool| -> Vec<String> {
        let of = vars.iter().filter(|var| var.default.is_none() == wanted);
        of.map(|var| format!("{} = {}", var.name, quoted(&var.example))).collect()
    };
    let (needed, optional) = (given(true), given(false));
    let _ = match needed.as_slice() {
        [] => writeln!(text, "# vars = {{ {} }}", optional.join(", ")),
        needed => writeln!(text, "vars = {{ {} }}", needed.join(", ")),
    };
}

/// Commented out, every line of it.
fn option(text: &mut String, key: &PresetKey) {
    comment(text, &format!("Optional. {}", key.about));
    let written = format!("{} = {}", key.key, key.example.trim());
    for line in written.lines() {
        let _ = writeln!(text, "# {line}");
    }
}

pub(super) fn route(text: &mut String, issuer: &str) {
    let _ = write!(
        text,
        "\n# One for each API that this token is for.\n[[route]]\nname = \"api\"\npath_prefix = \"/api\"                    # http://127.0.0.1:8080/api/x goes to\nupstream = \"https://api.example.com\"    # https://api.example.com/x\nissuer = \"{issuer}\"\n"
    );
}

/// Text as comment lines of at most [`WIDTH`] characters; an empty line parts paragraphs.
pub(super) fn comment(text: &mut String, words: &str) {
    for (index, paragraph) in words.trim().split("\n\n").enumerate() {
        if index > 0 {
            text.push_str("#\n");
        }
        let mut line = String::from("#");
        for word in paragraph.split_whitespace() {
            if line.chars().count() + 1 + word.chars().count() > WIDTH && line.len() > 1 {
                text.push_str(&line);
                text.push('\n');
                line = String::from("#");
            }
            line.push(' ');
            line.push_str(word);
        }
        text.push_str(&line);
        text.push('\n');
    }
}

/// A TOML basic string.
pub(super) fn quoted(value: &str) -> String {
    let mut quoted = String::from("\"");
    for character in value.chars() {
        match character {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(character);
            }
            control if control.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_wrapped_and_paragraphs_stay() {
        let mut text = String::new();
        comment(&mut text, &format!("{}\nb\n\nnext", "a ".repeat(60)));
        assert!(text.lines().all(|line| line.starts_with('#') && line.chars().count() <= WIDTH), "{text}");
        assert!(text.ends_with("a b\n#\n# next\n"), "{text}");
    }

    #[test]
    fn examples_are_quoted() {
        assert_eq!(quoted("a\"b\\c\n"), "\"a\\\"b\\\\c\\u000A\"");
    }

    #[test]
    fn every_preset_is_toml_with_its_keys() {
        for preset in crate::config::presets() {
            let text = config(preset);
            let table: toml::Table = text.parse().unwrap_or_else(|error| panic!("{}: {error}", preset.name));
            let issuer = table["issuer"][preset.name].as_table().unwrap();
            assert_eq!(issuer["preset"].as_str(), Some(preset.name));
            for var in &preset.vars {
                let given = issuer.get("vars").is_some_and(|vars| vars.get(&var.name).is_some());
                assert_eq!(given, var.default.is_none(), "{}: {text}", var.name);
            }
            for option in &preset.options {
                assert!(text.contains(&format!("\n# {} = ", option.key)), "{text}");
            }
        }
    }
}
