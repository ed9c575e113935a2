//! Where the command writes. A reader that has left (`bearerd schema | head`) is no failure.

use std::io::Write;

use super::style;
use crate::config;

/// A response, to stdout, with a line end.
pub(super) fn answer(text: &str) {
    answer_bytes(text.trim_end_matches('\n').as_bytes());
}

/// A response for people, in colours where they are wanted.
pub(super) fn answer_people(text: &str) {
    let mut stdout = anstream::stdout().lock();
    let _ = writeln!(stdout, "{}", style::paint(text.trim_end_matches('\n'))).and_then(|()| stdout.flush());
}

/// A response that must not be copied about, to stdout, with a line end.
pub(super) fn answer_bytes(bytes: &[u8]) {
    answer_parts(&[bytes]);
}

/// The same in pieces, one behind the other.
pub(super) fn answer_parts(parts: &[&[u8]]) {
    let mut stdout = std::io::stdout().lock();
    let _ = parts
        .iter()
        .chain([&b"\n"[..]].iter())
        .try_for_each(|part| stdout.write_all(part))
        .and_then(|()| stdout.flush());
}

/// A response for a program, to stdout.
pub(super) fn answer_json(value: &serde_json::Value) {
    answer(&harmless_json(&format!("{value:#}")));
}

/// The same on one line.
pub(super) fn answer_json_line(value: &serde_json::Value) {
    answer(&harmless_json(&value.to_string()));
}

/// The same JSON, where nothing steers a terminal: what serde_json writes as it is can stand in strings alone.
fn harmless_json(json: &str) -> String {
    let mut harmless = String::with_capacity(json.len());
    for character in json.chars() {
        if character != '\n' && steers(character) {
            harmless.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            harmless.push(character);
        }
    }
    harmless
}

/// Anything else, to stderr, with a line end.
pub(super) fn tell(text: &str) {
    let mut stderr = anstream::stderr().lock();
    let _ = writeln!(stderr, "{}", style::paint(text.trim_end_matches('\n')));
}

/// What clap has to say: help is a response, an error is not. It leaves out the last line end now and then.
pub(super) fn usage(error: &clap::Error) {
    let text = error.render().ansi().to_string();
    let text = text.trim_end_matches('\n');
    // Nothing is left to be told where stdout or stderr is closed.
    let _ = if error.use_stderr() {
        writeln!(anstream::stderr().lock(), "{text}")
    } else {
        writeln!(anstream::stdout().lock(), "{text}")
    };
}

/// Text from elsewhere, so that it cannot steer a terminal: control characters but line ends and tabs are escaped, and
/// so is what reorders or hides text.
pub(super) fn harmless(text: &str) -> String {
    let mut harmless = String::with_capacity(text.len());
    for character in text.chars() {
        if steers(character) && !matches!(character, '\n' | '\t') {
            harmless.extend(character.escape_unicode());
        } else {
            harmless.push(character);
        }
    }
    harmless
}

fn steers(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
}

/// `did you mean …?`, or the names that there are.
pub(super) fn suggestion<'a>(written: &str, names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match config::nearest(written, names.iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None if names.is_empty() => "there are none in the config".to_owned(),
        None => format!("there are: {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_elsewhere_cannot_steer_a_terminal() {
        assert_eq!(harmless("a\u{1b}[2J\n\tb\u{9b}\u{202e}c"), "a\\u{1b}[2J\n\tb\\u{9b}\\u{202e}c");
        let value = serde_json::json!({ "a": "é\u{9b}31m\u{7f}\u{202e}\u{1b}" });
        let shown = harmless_json(&format!("{value:#}"));
        assert_eq!(shown, "{\n  \"a\": \"é\\u009b31m\\u007f\\u202e\\u001b\"\n}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            value,
            "the value is the same"
        );
    }
}
