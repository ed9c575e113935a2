//! An issuer's own words, made fit to be shown: no control characters, not too long, and none at all where a secret is
//! in them.

mod echo;

use std::borrow::Cow;

use self::echo::Known;
use crate::secret::Secret;

/// A shorter value of a parameter or header is no secret.
const SHORTEST_VALUE: usize = 4;
/// The most bytes of ids for an issuer's support.
const TRACE_LIMIT: usize = 128;
/// The most bytes of a code.
const CODE_LIMIT: usize = 64;
/// What is longer is cut before it is looked through: nothing of the rest is shown.
const EXAMINED: usize = 4 * 1024;

/// Every secret that a server could hand back to us.
#[derive(Default, Clone)]
pub(super) struct Redactor(Vec<Known>);

impl Redactor {
    pub(super) fn add(&mut self, secret: &Secret) {
        self.0.extend(Known::new(secret.expose()).filter(|known| !self.0.contains(known)));
    }

    /// A value that may be secret but need not be. The URL of an API, which servers quote in what they say, is none.
    pub(super) fn add_value(&mut self, value: &Secret) {
        let after_scheme = value.expose_str().and_then(|text| Some(text.split_once("://")?.1));
        match after_scheme {
            _ if value.expose().len() < SHORTEST_VALUE => {}
            Some(rest) if rest.contains(['@', '?', '#']) => self.add(&Secret::from(rest)),
            Some(_) => {}
            None => self.add(value),
        }
    }

    /// `text` without control characters, at most `limit` bytes. `None`: a secret is in it, in whatever form.
    pub(super) fn show(&self, text: &str, limit: usize) -> Option<String> {
        let text = cut(text, EXAMINED);
        if echo::holds(text, &self.0) {
            return None;
        }
        Some(cut(clean(text).trim(), limit).to_owned())
    }

    /// Ids for an issuer's support as `name=value`, each value once and whole; printable ASCII alone, at most 128
    /// bytes.
    pub(super) fn show_traces<'a>(
        &self,
        traces: impl IntoIterator<Item = &'a (String, String)>,
    ) -> Option<String> {
        let mut shown = String::new();
        let mut values: Vec<String> = Vec::new();
        for (name, value) in traces {
            let Some(value) = self.show(value, TRACE_LIMIT) else { continue };
            let printable = value.bytes().all(|byte| matches!(byte, 0x21..=0x7E));
            if value.is_empty() || !printable || values.contains(&value) {
                continue;
            }
            let one = format!("{}{name}={value}", if shown.is_empty() { "" } else { " " });
            if shown.len() + one.len() <= TRACE_LIMIT {
                shown.push_str(&one);
                values.push(value);
            }
        }
        (!shown.is_empty()).then_some(shown)
    }

    /// An OAuth `error` code or another short name, printable ASCII alone, at most 64 bytes; `None` where nothing of it
    /// may be shown.
    pub(super) fn show_code(&self, code: &str) -> Option<String> {
        self.show(code, EXAMINED)?;
        // Once more: what is left may be a secret that only the characters between hid.
        let plain: String = code.chars().filter(|character| matches!(character, ' '..='~')).collect();
        self.show(&plain, CODE_LIMIT).filter(|shown| !shown.is_empty())
    }
}

/// The beginning of `text`, no longer than `limit` bytes and no part of a character.
fn cut(text: &str, limit: usize) -> &str {
    let end = (0..=limit.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    text.get(..end.unwrap_or_default()).unwrap_or_default()
}

/// Control characters, and those that reorder or hide text, become spaces.
fn clean(text: &str) -> Cow<'_, str> {
    if !text.contains(unfit) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|character| if unfit(character) { ' ' } else { character }).collect())
}

fn unfit(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests;
