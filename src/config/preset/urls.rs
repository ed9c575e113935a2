//! What a var may hold where it becomes part of a URL: a secret is sent there, so no value may turn it to another host.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use super::vars::Values;
use crate::config::document::Place;
use crate::config::report::Report;

const HTTPS: &str = "https://";

/// Where in a URL a value comes to stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// All of it.
    Whole,
    /// Its beginning: scheme and host, maybe a path.
    Start,
    /// All that stands between `https://` and the path; a folder may follow the host.
    Host,
    /// A label or more of a host whose rest the preset gives.
    Label,
    /// The beginning of the path, right behind a value that ends with the host.
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

/// As far as a value that fits nowhere else goes: see `types::url`.
fn is_of_a_url(character: char) -> bool {
    matches!(character, '!'..='~') && !matches!(character, '"' | '<' | '>' | '^' | '`')
}

fn is_of_a_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// Reports each value that does not fit where `below` puts it, once each. Gives their names.
pub(super) fn check(
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

/// The names in a URL of a preset, and where each stands; none where the text is no URL.
fn parts(template: &str) -> Vec<(&str, Part)> {
    let behind_scheme = template.strip_prefix(HTTPS);
    if behind_scheme.is_none() && !template.starts_with('{') {
        return Vec::new();
    }
    let authority_end = behind_scheme.map_or(0, |rest| HTTPS.len() + rest.find('/').unwrap_or(rest.len()));
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
            if open == HTTPS.len() && after == authority_end { Part::Host } else { Part::Label }
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
    fn each_place_in_a_url_is_told() {
        assert_eq!(parts("{url}"), [("url", Part::Whole)]);
        assert_eq!(parts("{url}{path}"), [("url", Part::Start), ("path", Part::Path)]);
        assert_eq!(parts("{url}/realms/{realm}/t"), [("url", Part::Start), ("realm", Part::Piece)]);
        assert_eq!(parts("https://{site}/?oauth=token"), [("site", Part::Host)]);
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
