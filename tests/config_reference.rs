//! The tables of `docs/config.md` are made from the schema; the prose between them is written by hand.
//! `BLESS=1 cargo test --test config_reference` writes them, and a section for each table that has none yet.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and read what they check"
)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

const END: &str = "<!-- end -->";

/// The text before the table of methods of client authentication.
const METHODS: &str = "<!-- methods -->";

/// What the file as a whole is called among the schema's definitions.
const FILE: &str = "File";

fn document() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/config.md")
}

/// The tables of the file by name, and the whole file as one of them.
struct Tables(BTreeMap<String, Value>);

impl Tables {
    fn of_the_schema() -> Self {
        let schema = bearerd::config::schema();
        let mut tables: BTreeMap<String, Value> = schema["$defs"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, table)| (name.clone(), table.clone()))
            .collect();
        tables.insert(FILE.to_owned(), schema);
        Self(tables)
    }

    /// Those that have keys: the others are values that may be written in more than one form.
    fn with_keys(&self) -> impl Iterator<Item = &String> {
        self.0.iter().filter(|(_, table)| table.get("properties").is_some()).map(|(name, _)| name)
    }

    fn description<'a>(&'a self, node: &'a Value) -> &'a str {
        let own = node["description"].as_str();
        own.or_else(|| self.0[referred(node)?]["description"].as_str()).expect("every key has a description")
    }
}

/// The name of the definition that a node refers to.
fn referred(node: &Value) -> Option<&str> {
    node["$ref"].as_str()?.strip_prefix("#/$defs/")
}

/// Where each definition is explained: the anchor of the heading above its table.
struct Anchors(BTreeMap<String, String>);

impl Anchors {
    fn of(document: &str) -> Self {
        let mut anchors = BTreeMap::new();
        let mut heading = String::new();
        for line in document.lines() {
            if let Some(text) = line.strip_prefix("## ") {
                heading = anchor(text);
            } else if let Some(name) = marker(line) {
                anchors.insert(name.to_owned(), heading.clone());
            }
        }
        // What may be written in more than one form is explained where its table form is.
        for (form, table) in [("Reference", "Elsewhere"), ("Egress", "Proxy"), ("Ca", "OwnCa")] {
            if let Some(anchor) = anchors.get(table).cloned() {
                anchors.insert(form.to_owned(), anchor);
            }
        }
        anchors.insert("Parameter".to_owned(), "parameters".to_owned());
        Self(anchors)
    }

    fn link(&self, words: &str, name: &str) -> String {
        let anchor = self.0.get(name).map_or("", String::as_str);
        format!("[{words}](#{anchor})")
    }
}

/// As GitHub makes it from a heading.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading.to_lowercase().chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn marker(line: &str) -> Option<&str> {
    line.strip_prefix("<!-- table ")?.strip_suffix(" -->")
}

/// What may be written for a key, in words.
fn kind(node: &Value, anchors: &Anchors) -> String {
    if let Some(name) = referred(node) {
        let words = match name {
            "Reference" => "reference",
            "Parameter" => "parameter",
            "Egress" => "proxy",
            "Ca" => "CA",
            _ => "table",
        };
        return anchors.link(words, name);
    }
    if let Some(values) = node["enum"].as_array() {
        let values: Vec<String> = values.iter().map(code).collect();
        return format!("one of {}", values.join(", "));
    }
    if let Some(forms) = node["anyOf"].as_array() {
        let forms: Vec<String> = forms.iter().map(|form| kind(form, anchors)).collect();
        return forms.join(" or ");
    }
    let pattern = node["pattern"].as_str().unwrap_or_default();
    match node["type"].as_str().expect("every key has a type") {
        "array" => array(&node["items"], anchors),
        "object" => named(&node["additionalProperties"], anchors),
        "integer" => "whole number".to_owned(),
        "string" if pattern.contains("KiB") => "size".to_owned(),
        "string" if pattern.contains("ms") => "duration".to_owned(),
        other => other.to_owned(),
    }
}

fn array(items: &Value, anchors: &Anchors) -> String {
    match (referred(items), items["type"].as_str()) {
        (Some("Reference"), _) => format!("array of {}", anchors.link("references", "Reference")),
        (Some(name), _) => anchors.link("array of tables", name),
        (None, Some("string")) => "array of strings".to_owned(),
        (None, Some("integer")) => "array of numbers".to_owned(),
        (None, other) => panic!("no words for an array of {other:?}"),
    }
}

/// A table whose keys the operator chooses.
fn named(values: &Value, anchors: &Anchors) -> String {
    match (referred(values), values["type"].as_str()) {
        (Some("Reference"), _) => format!("table of {}", anchors.link("references", "Reference")),
        (Some("Parameter"), _) => format!("table of {}", anchors.link("parameters", "Parameter")),
        (Some(name), _) => anchors.link("tables by name", name),
        (None, Some("string")) => "table of strings".to_owned(),
        (None, other) => panic!("no words for a table of {other:?}"),
    }
}

fn code(value: &Value) -> String {
    format!("`{value}`")
}

fn rendered(tables: &Tables, name: &str, anchors: &Anchors) -> String {
    let mut text = "| key | type | default | meaning | errors |\n|---|---|---|---|---|\n".to_owned();
    for (key, node) in tables.0[name]["properties"].as_object().unwrap() {
        let default = node.get("default").map(code).unwrap_or_default();
        let mistakes = node["x-errors"].as_str().unwrap_or_default();
        let meaning = tables.description(node).replace('\n', " ");
        let cells = [format!("`{key}`"), kind(node, anchors), default, meaning, mistakes.to_owned()];
        let cells = cells.map(|cell| cell.replace('|', "\\|"));
        writeln!(text, "| {} |", cells.join(" | ")).unwrap();
    }
    text
}

/// The methods of client authentication.
fn methods() -> String {
    let mut text = "| `client_auth` | what is sent | needs |\n|---|---|---|\n".to_owned();
    for method in bearerd::config::client_auth::METHODS {
        let [sent, needs] = method.about();
        writeln!(text, "| `{}` | {sent} | {needs} |", method.name()).unwrap();
    }
    text
}

/// The document with each table made anew.
fn made_anew(document: &str, tables: &Tables) -> String {
    let anchors = Anchors::of(document);
    let mut text = String::new();
    let mut inside = false;
    for line in document.lines() {
        inside &= line != END;
        if !inside {
            writeln!(text, "{line}").unwrap();
        }
        if let Some(name) = marker(line) {
            inside = true;
            text.push_str(&rendered(tables, name, &anchors));
        } else if line == METHODS {
            inside = true;
            text.push_str(&methods());
        }
    }
    text
}

/// How the table is written in a config: `[tracing]`, `[listener.NAME]`, or its key alone where it is part of another.
fn written(tables: &Tables, wanted: &str) -> String {
    for (key, node) in tables.0[FILE]["properties"].as_object().unwrap() {
        if referred(node) == Some(wanted) {
            return format!("[{key}]");
        }
        if referred(&node["additionalProperties"]) == Some(wanted) {
            return format!("[{key}.NAME]");
        }
        if referred(&node["items"]) == Some(wanted) {
            return format!("[[{key}]]");
        }
    }
    let inner = tables.0.values().filter_map(|table| table["properties"].as_object()).flatten();
    let key = inner.filter(|(_, node)| referred(node) == Some(wanted)).map(|(key, _)| key.clone()).next();
    key.unwrap_or_else(|| wanted.to_owned())
}

fn missing<'a>(document: &'a str, tables: &'a Tables) -> impl Iterator<Item = &'a String> {
    tables.with_keys().filter(|name| !document.lines().any(|line| marker(line) == Some(name)))
}

#[test]
fn tables_are_those_of_the_schema() {
    let tables = Tables::of_the_schema();
    let mut found = fs::read_to_string(document()).unwrap();
    if std::env::var_os("BLESS").is_some() {
        let mut sections = String::new();
        for name in missing(&found, &tables) {
            let heading = written(&tables, name);
            write!(sections, "\n## `{heading}`\n\n<!-- table {name} -->\n{END}\n").unwrap();
        }
        found = made_anew(&(found + &sections), &tables);
        fs::write(document(), &found).unwrap();
    }
    let missing: Vec<_> = missing(&found, &tables).collect();
    assert!(missing.is_empty(), "no table for {missing:?}: run this test with BLESS=1, and write its prose");
    for (found, wanted) in found.lines().zip(made_anew(&found, &tables).lines()) {
        assert_eq!(found, wanted, "docs/config.md is not as the schema: run this test with BLESS=1");
    }
    assert_eq!(
        found,
        made_anew(&found, &tables),
        "docs/config.md is not as the schema: run this test with BLESS=1"
    );
}

#[test]
fn links_inside_the_reference_lead_to_headings() {
    let text = fs::read_to_string(document()).unwrap();
    let headings: Vec<String> =
        text.lines().filter_map(|line| line.strip_prefix("## ")).map(anchor).collect();
    let mut links = 0;
    for target in text.split("](#").skip(1).filter_map(|rest| rest.split(')').next()) {
        links += 1;
        assert!(headings.iter().any(|heading| heading == target), "no heading for #{target}");
    }
    assert!(links > 50, "{links}");
}
