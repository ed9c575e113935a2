//! An issuer's own words, made fit to be shown: no control characters, no secret, not too long.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use super::form;
use crate::secret::{MASK, Secret};

/// A shorter value of a parameter or header is no secret, and masking it would tear words apart.
const SHORTEST_VALUE: usize = 4;

/// The most bytes of ids for an issuer's support.
const TRACE_LIMIT: usize = 128;

/// What some write in the place of a character, since a page could hold the JSON.
const GO_JSON: &[(char, &str)] =
    &[('"', "\\\""), ('\\', "\\\\"), ('&', "\\u0026"), ('<', "\\u003c"), ('>', "\\u003e")];
const DOT_NET_JSON: &[(char, &str)] = &[
    ('"', "\\u0022"),
    ('\\', "\\\\"),
    ('&', "\\u0026"),
    ('<', "\\u003C"),
    ('>', "\\u003E"),
    ('\'', "\\u0027"),
    ('+', "\\u002B"),
];
const GO_HTML: &[(char, &str)] =
    &[('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&#34;"), ('\'', "&#39;"), ('+', "&#43;")];
/// Bytes in the place of one.
const LONGEST_ESCAPE: usize = 6;

/// Every form in which a server could hand a secret back to us.
#[derive(Default, Clone)]
pub(super) struct Redactor {
    /// Longest first, so that a form inside another does not leave the outer one's rest standing.
    forms: Vec<Zeroizing<String>>,
}

impl Redactor {
    /// The client's secret, and with the client's id the two ways of HTTP Basic.
    pub(super) fn add_client(&mut self, id: Option<&Secret>, secret: &Secret) {
        self.add(secret);
        let Some(id) = id else { return };
        for (id, secret) in [
            (Zeroizing::new(id.expose().to_vec()), Zeroizing::new(secret.expose().to_vec())),
            (form_encoded(id), form_encoded(secret)),
        ] {
            self.add_base64(&Zeroizing::new([id.as_slice(), b":", secret.as_slice()].concat()));
        }
    }

    /// A value that may be secret but need not be.
    pub(super) fn add_value(&mut self, value: &Secret) {
        if value.expose().len() >= SHORTEST_VALUE {
            self.add(value);
        }
    }

    pub(super) fn add(&mut self, secret: &Secret) {
        let plain = Zeroizing::new(String::from_utf8_lossy(secret.expose()).into_owned());
        let encoded = form::encoded(secret.expose());
        // Servers differ in how they write an escape; the value is the same.
        let lower = lower_case_escapes(&encoded);
        self.add_form(encoded.replace('+', "%20"));
        self.add_form(lower.replace('+', "%20"));
        self.add_form(lower);
        self.add_form(encoded);
        self.add_form(plain.trim().to_owned());
        self.add_escaped(&plain);
        self.add_form(plain.to_string());
        self.add_base64(secret.expose());
    }

    /// As it stands in a quoted JSON body, or in a web page.
    fn add_escaped(&mut self, plain: &str) {
        if !plain.contains(['"', '\\', '/', '&', '<', '>', '\'', '+']) {
            return;
        }
        let json = Zeroizing::new(serde_json::to_string(plain).unwrap_or_default());
        let json = json.strip_prefix('"').and_then(|json| json.strip_suffix('"')).unwrap_or_default();
        self.add_form(json.replace('/', "\\/"));
        self.add_form(json.to_owned());
        for table in [GO_JSON, DOT_NET_JSON, GO_HTML] {
            self.add_form(escaped(plain, table));
        }
        let html = Zeroizing::new(plain.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"));
        for apostrophe in ["&#39;", "&#x27;", "&apos;"] {
            self.add_form(html.replace('"', "&quot;").replace('\'', apostrophe));
        }
    }

    /// Without padding: what is left of it then says nothing.
    fn add_base64(&mut self, bytes: &[u8]) {
        self.add_form(STANDARD_NO_PAD.encode(bytes));
        self.add_form(URL_SAFE_NO_PAD.encode(bytes));
    }

    fn add_form(&mut self, form: String) {
        // Text is searched after it was cleaned, so what is searched for has to be clean too.
        let form = Zeroizing::new(clean(&Zeroizing::new(form)).into_owned());
        if form.is_empty() || self.forms.contains(&form) {
            return;
        }
        let place = self.forms.partition_point(|other| other.len() >= form.len());
        self.forms.insert(place, form);
    }

    /// `text` without control characters and with every secret masked; at most `limit` bytes.
    pub(super) fn show(&self, text: &str, limit: usize) -> String {
        let text = Zeroizing::new(clean(text).into_owned());
        let mut shown = String::new();
        let mut rest = text.trim();
        while let Some(next) = rest.chars().next() {
            let form = self.forms.iter().find(|form| rest.starts_with(form.as_str()));
            let mut one = [0; 4];
            let (piece, taken): (&str, usize) = match form {
                Some(form) => (MASK, form.len()),
                None => (next.encode_utf8(&mut one), next.len_utf8()),
            };
            if shown.len() + piece.len() > limit {
                break;
            }
            shown.push_str(piece);
            rest = rest.split_at_checked(taken).map_or("", |(_, rest)| rest);
        }
        shown
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
            let value = self.show(value, TRACE_LIMIT);
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

    /// An OAuth `error` code or another short name, printable ASCII alone, at most 64 bytes.
    pub(super) fn show_code(&self, code: &str) -> String {
        let mut shown = self.show(code, 256);
        shown.retain(|character| matches!(character, ' '..='~'));
        shown.truncate(64);
        shown.trim().to_owned()
    }
}

fn escaped(plain: &str, table: &[(char, &str)]) -> String {
    let mut text = String::with_capacity(plain.len() * LONGEST_ESCAPE);
    for character in plain.chars() {
        match table.iter().find(|(known, _)| *known == character) {
            Some((_, escape)) => text.push_str(escape),
            None => text.push(character),
        }
    }
    text
}

fn form_encoded(secret: &Secret) -> Zeroizing<Vec<u8>> {
    let mut encoded = Zeroizing::new(Vec::with_capacity(secret.expose().len() * form::GROWTH));
    form::encode(secret.expose(), &mut encoded);
    encoded
}

fn lower_case_escapes(encoded: &str) -> String {
    let mut escaped = 0;
    encoded
        .chars()
        .map(|character| {
            escaped = if character == '%' { 2 } else { i32::max(escaped - 1, -1) };
            if escaped >= 0 { character.to_ascii_lowercase() } else { character }
        })
        .collect()
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
mod tests {
    use super::*;

    fn knows(id: &str, secret: &str) -> Redactor {
        let mut redactor = Redactor::default();
        redactor.add_client(Some(&Secret::from(id)), &Secret::from(secret));
        redactor
    }

    #[test]
    fn masks_every_form() {
        let secret = "s3:c+r é/%t";
        let redactor = knows("svc a", secret);
        for form in [
            secret.to_owned(),
            "s3%3Ac%2Br+%C3%A9%2F%25t".to_owned(),
            "s3%3ac%2br+%c3%a9%2f%25t".to_owned(),
            "s3%3Ac%2Br%20%C3%A9%2F%25t".to_owned(),
            STANDARD_NO_PAD.encode(secret),
            STANDARD_NO_PAD.encode("svc a:s3:c+r é/%t"),
            STANDARD_NO_PAD.encode("svc+a:s3%3Ac%2Br+%C3%A9%2F%25t"),
            URL_SAFE_NO_PAD.encode("svc a:s3:c+r é/%t"),
        ] {
            assert_eq!(redactor.show(&format!("bad {form} here"), 512), "bad [secret] here");
        }
    }

    #[test]
    fn masks_what_was_escaped_for_json_or_html() {
        let redactor = knows("a", r#"p"a/s\s<&'d"#);
        for form in [
            r#"p\"a/s\\s<&'d"#,
            r#"p\"a\/s\\s<&'d"#,
            r"p&quot;a/s\s&lt;&amp;&#39;d",
            r"p&quot;a/s\s&lt;&amp;&#x27;d",
            r#"p\"a/s\\s\u003c\u0026'd"#,
            r"p\u0022a/s\\s\u003C\u0026\u0027d",
            r"p&#34;a/s\s&lt;&amp;&#39;d",
        ] {
            assert_eq!(redactor.show(&format!("bad {form} here"), 512), "bad [secret] here");
        }
    }

    #[test]
    fn a_control_character_does_not_hide_a_secret() {
        assert_eq!(
            knows("a", "hun\nter2").show("no hun\nter2, no hun\u{1}ter2", 512),
            "no [secret], no [secret]"
        );
        assert_eq!(knows("a", "hunter2").show("\u{1b}[31mred\r\n\u{202e}x", 512), "[31mred   x");
    }

    #[test]
    fn cuts_after_masking_and_never_inside_a_character() {
        let redactor = knows("a", "hunter2");
        assert_eq!(redactor.show("ab hunter2", 9), "ab ");
        assert_eq!(redactor.show("éé", 3), "é");
        assert!(redactor.show(&"é".repeat(1000), 511).len() == 510);
    }

    #[test]
    fn a_secret_of_one_letter_does_not_blow_up() {
        let shown = knows("a", "e").show(&"e".repeat(100_000), 512);
        assert_eq!(shown.len(), 512 / MASK.len() * MASK.len());
    }

    #[test]
    fn codes_are_short_and_plain() {
        let redactor = knows("a", "hunter2");
        assert_eq!(redactor.show_code("invalid_clïent\n"), "invalid_clent");
        assert_eq!(redactor.show_code("bad_hunter2"), "bad_[secret]");
        assert_eq!(redactor.show_code(&"x".repeat(100)).len(), 64);
    }

    #[test]
    fn traces_are_whole_distinct_and_printable() {
        let redactor = knows("a", "hunter2");
        let shown = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> =
                pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
            redactor.show_traces(&pairs)
        };
        assert_eq!(shown(&[("a", "1"), ("b", "2"), ("c", "1")]).as_deref(), Some("a=1 b=2"));
        assert_eq!(shown(&[("a", "x hunter2"), ("b", "é"), ("c", ""), ("d", "a\nb")]), None);
        assert_eq!(shown(&[("a", "hunter2")]).as_deref(), Some("a=[secret]"));
        let long = "x".repeat(100);
        assert_eq!(shown(&[("a", &long), ("b", &long[1..]), ("c", "3")]), Some(format!("a={long} c=3")));
    }

    #[test]
    fn short_values_stay() {
        let mut redactor = Redactor::default();
        redactor.add_value(&Secret::from("42"));
        redactor.add_value(&Secret::from("4242"));
        assert_eq!(redactor.show("42 4242", 512), "42 [secret]");
    }
}
