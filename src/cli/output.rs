//! Where the command writes. A reader that has left (`bearerd schema | head`) is no failure.

use std::io::Write;

/// An answer, to stdout, with a line end.
pub(super) fn answer(text: &str) {
    answer_bytes(text.trim_end_matches('\n').as_bytes());
}

/// An answer that must not be copied about, to stdout, with a line end.
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

/// An answer for a program, to stdout.
pub(super) fn answer_json(value: &serde_json::Value) {
    answer(&format!("{value:#}"));
}

/// Anything else, to stderr, with a line end.
pub(super) fn tell(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "{}", text.trim_end_matches('\n'));
}

/// Text from elsewhere, so that it cannot steer a terminal: control characters but line ends and tabs are escaped.
pub(super) fn harmless(text: &str) -> String {
    let mut harmless = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && !matches!(character, '\n' | '\t') {
            harmless.extend(character.escape_unicode());
        } else {
            harmless.push(character);
        }
    }
    harmless
}

/// `did you mean …?`, or the names that there are.
pub(super) fn suggestion<'a>(written: &str, names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match nearest(written, names.iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None if names.is_empty() => "there are none in the config".to_owned(),
        None => format!("there are: {}", names.join(", ")),
    }
}

/// The name that was probably meant.
pub(super) fn nearest<'a>(written: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|name| (strsim::damerau_levenshtein(written, name), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .min()
        .map(|(_, name)| name)
}
