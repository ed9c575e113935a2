//! `docs/troubleshooting.md` quotes bearerd: every quote must be words that a test here pins, and every section must say
//! which test breaks it that way.

use std::fs;
use std::path::Path;

/// A quote's parts between gaps; shorter ones prove nothing.
const SHORTEST: usize = 8;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Everything that the tests beside this one say, as the program would: strings continued on the next line are joined.
fn pinned() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/diagnosis");
    let mut all = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.file_stem().is_some_and(|name| name != "documented") {
            all.push_str(&fs::read_to_string(path).unwrap());
        }
    }
    let mut joined = String::new();
    for line in all.lines() {
        let line = if joined.ends_with('\u{0}') { line.trim_start() } else { line };
        let joined_on = line.strip_suffix('\\');
        joined = joined.trim_end_matches('\u{0}').to_owned();
        joined.push_str(joined_on.unwrap_or(line));
        joined.push(if joined_on.is_some() { '\u{0}' } else { '\n' });
    }
    joined.replace("\\\"", "\"")
}

/// The lines of ```` ```text ```` blocks, each with the headline above it.
fn quotes(document: &str) -> Vec<(String, String)> {
    let (mut found, mut inside, mut headline) = (Vec::new(), false, String::new());
    for line in document.lines() {
        match line {
            "```text" => inside = true,
            _ if line.starts_with("```") => inside = false,
            _ if inside => found.push((headline.clone(), line.to_owned())),
            _ if line.starts_with("## ") || line.starts_with("### ") => headline = line.to_owned(),
            _ => {}
        }
    }
    found
}

#[test]
fn every_quote_is_pinned_by_a_test() {
    let (document, pinned) = (read("docs/troubleshooting.md"), pinned());
    let quotes = quotes(&document);
    assert!(quotes.len() > 25, "{}", quotes.len());
    let mut unknown = Vec::new();
    for (headline, quote) in &quotes {
        let parts: Vec<&str> =
            quote.split('…').map(str::trim).filter(|part| part.len() >= SHORTEST).collect();
        assert!(!parts.is_empty(), "{headline}: {quote:?} says nothing");
        unknown.extend(parts.into_iter().filter(|part| !pinned.contains(part)).map(|part| (headline, part)));
    }
    assert!(unknown.is_empty(), "no test has these words: {unknown:#?}");
}

#[test]
fn every_section_names_its_tests() {
    let (document, pinned) = (read("docs/troubleshooting.md"), pinned());
    let mut named = Vec::new();
    for section in document.split("\n### ").skip(1) {
        let headline = section.lines().next().unwrap();
        let tests: Vec<&str> = section
            .lines()
            .filter_map(|line| line.strip_prefix("<!-- tested by ")?.strip_suffix(" -->"))
            .flat_map(|names| names.split(", "))
            .collect();
        assert!(!tests.is_empty(), "`{headline}` names no test");
        for test in &tests {
            assert!(pinned.contains(&format!("async fn {test}()")), "`{headline}`: there is no test {test}");
        }
        named.extend(tests);
    }
    let all = pinned.split("#[tokio::test]\nasync fn ").skip(1).map(|rest| rest.split('(').next().unwrap());
    let missing: Vec<&str> = all.filter(|test| !named.contains(test)).collect();
    assert!(missing.is_empty(), "no section is about {missing:?}");
}
