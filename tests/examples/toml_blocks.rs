//! Configs and parts of them.
//!
//! A part is loaded in a frame: to its issuers and routes is added what they lack, and nothing is taken away. Keys
//! without a table must be those of some table.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use toml::{Table, Value};

use super::blocks::Block;

/// Files that a config's `vars` read, which must be there when it is loaded.
const NEIGHBOURS: [(&str, &str); 1] = [(
    "default-env.json",
    r#"{"VCAP_SERVICES":{"xsuaa":[{"credentials":{"url":"https://acme.example.com"}}]}}"#,
)];

/// Where keys without a table may belong.
const TABLES: [&str; 6] =
    ["", "[issuer.corp]\n", "[[route]]\n", "[listener.main]\n", "[log]\n", "[limits]\n"];

/// What the first line of a whole file is.
pub(crate) const WHOLE: &str = "# bearerd.toml";

pub(crate) fn is_whole(text: &str) -> bool {
    text.lines().next().is_some_and(|line| line == WHOLE || line == "# /etc/bearerd/bearerd.toml")
}

pub(crate) fn load(block: &Block) {
    if is_whole(&block.text) {
        return loaded(&block.to_string(), &block.text)
            .unwrap_or_else(|problems| panic!("{block}: {problems}"));
    }
    let headings = TABLES.map(|heading| format!("{heading}{}", block.text));
    let parts = headings.iter().filter_map(|text| text.parse::<Table>().ok());
    let frames: Vec<String> = parts.flat_map(|part| frames(&part)).collect();
    let refused: Vec<String> = frames.iter().map_while(|frame| loaded("part", frame).err()).collect();
    assert!(refused.len() < frames.len(), "{block}: in no frame: {}", refused.join("\n"));
}

/// From the part alone to the part with all that an issuer may lack.
fn frames(part: &Table) -> Vec<String> {
    let address = ("token_url", "https://idp.example.com/token");
    let id = ("client_id", "billing");
    let secret = ("client_secret", "of the client");
    let lacking: [&[(&str, &str)]; 5] = [&[], &[address], &[id], &[id, secret], &[address, id, secret]];
    lacking.map(|lacking| framed(part, lacking)).to_vec()
}

fn framed(part: &Table, lacking: &[(&str, &str)]) -> String {
    let mut file = part.clone();
    let text = |value: &str| Value::String(value.to_owned());
    let routes = file.entry("route").or_insert_with(|| Value::Array(Vec::new())).as_array_mut().unwrap();
    if routes.is_empty() {
        routes.push(Value::Table(Table::new()));
    }
    let named =
        part.get("issuer").and_then(Value::as_table).and_then(|issuers| issuers.keys().next()).cloned();
    let issuer = named.unwrap_or_else(|| "corp".to_owned());
    let mut wanted = vec![issuer.clone()];
    for (number, route) in routes.iter_mut().enumerate() {
        let route = route.as_table_mut().unwrap();
        route.entry("name").or_insert_with(|| text(&format!("route-{number}")));
        route.entry("upstream").or_insert_with(|| text("https://api.example.com"));
        if !route.contains_key("anonymous") {
            let issuer = route.entry("issuer").or_insert_with(|| text(&issuer));
            wanted.push(issuer.as_str().unwrap().to_owned());
        }
    }
    let issuers = file.entry("issuer").or_insert_with(|| Value::Table(Table::new())).as_table_mut().unwrap();
    for name in wanted {
        let absent = !issuers.contains_key(&name);
        let issuer =
            issuers.entry(name).or_insert_with(|| Value::Table(Table::new())).as_table_mut().unwrap();
        let all = [("token_url", "https://idp.example.com/token"), ("client_auth", "none")];
        for (key, value) in if absent { &all[..] } else { lacking } {
            issuer.entry(*key).or_insert_with(|| text(value));
        }
    }
    serde_json::to_string(&file).map(|json| inline(&serde_json::from_str(&json).unwrap())).unwrap()
}

/// A table's keys, each with its value on its line.
fn inline(json: &serde_json::Value) -> String {
    let entries = json.as_object().unwrap().iter();
    entries.map(|(key, value)| format!("{key:?} = {}\n", one_line(value))).collect()
}

fn one_line(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Object(table) => {
            let keys: Vec<String> =
                table.iter().map(|(key, value)| format!("{key:?} = {}", one_line(value))).collect();
            format!("{{ {} }}", keys.join(", "))
        }
        serde_json::Value::Array(items) => {
            format!("[{}]", items.iter().map(one_line).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// Loads a file of that content, which its owner alone may read.
pub(crate) fn loaded(what: &str, text: &str) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("examples/{number}"));
    fs::create_dir_all(&folder).unwrap();
    for (name, content) in NEIGHBOURS {
        fs::write(folder.join(name), content).unwrap();
    }
    let file = folder.join("bearerd.toml");
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    bearerd::config::load_to_examine(&file)
        .map(drop)
        .map_err(|problems| format!("{what}:\n{text}\n{problems}"))
}

#[test]
fn a_part_is_framed_and_a_wrong_one_is_refused() {
    let fits = |text: &str| frames(&text.parse().unwrap()).iter().any(|frame| loaded("part", frame).is_ok());
    assert!(fits("[issuer.a]\nscopes = [\"x\"]\n"));
    assert!(fits("[[route]]\npath_prefix = \"/x\"\n"));
    assert!(fits("[log]\nformat = \"json\"\n"));
    assert!(!fits("[issuer.a]\nscope = [\"x\"]\n"));
    assert!(!fits("[[route]]\nmethods = [\"get\"]\n"));
    assert!(!fits("[log]\nformat = \"yaml\"\n"));
}
