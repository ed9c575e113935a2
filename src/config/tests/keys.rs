//! The schema, the example, the reference page and the defaults say the same.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{lines, load, with};
use crate::config::{self, Config, Scopes, schema};

const EXAMPLE: &str = include_str!("../../../config.example.toml");
const REFERENCE: &str = include_str!("../../../docs/config.md");

fn keys() -> BTreeSet<String> {
    fn collect(node: &Value, keys: &mut BTreeSet<String>) {
        match node {
            Value::Object(object) => {
                if let Some(Value::Object(properties)) = object.get("properties") {
                    keys.extend(properties.keys().cloned());
                }
                object.values().for_each(|child| collect(child, keys));
            }
            Value::Array(items) => items.iter().for_each(|child| collect(child, keys)),
            _ => {}
        }
    }
    let mut keys = BTreeSet::new();
    collect(&schema(), &mut keys);
    keys
}

#[test]
fn every_key_stands_in_the_reference() {
    for key in keys() {
        assert!(REFERENCE.contains(&format!("`{key}`")), "docs/config.md lacks `{key}`");
    }
}

/// The definition of the schema that a section of the example is of, by its heading: `[issuer.corp]`, `[[route]]`.
fn definition(heading: &str) -> Option<&'static str> {
    let path: Vec<&str> = heading.split(['[', ']', '.']).filter(|part| !part.is_empty()).collect();
    match path[..] {
        ["limits"] => Some("Limits"),
        ["log"] => Some("Log"),
        ["tracing"] => Some("Tracing"),
        ["admin"] => Some("Admin"),
        ["listener", _] => Some("Listener"),
        ["issuer", _] => Some("Issuer"),
        ["issuer", _, "response"] => Some("Response"),
        ["issuer", _, "jwt"] => Some("Jwt"),
        ["webhook", _] => Some("Webhook"),
        ["route"] => Some("Route"),
        _ => None,
    }
}

/// The example with a line for each key that it lacks: in the first section of its table, with the default where there is
/// one, and its description.
fn completed(example: &str) -> String {
    let schema = schema();
    let blocks: Vec<&str> = example.split_inclusive("\n\n").collect();
    let heading = |block: &str| {
        block.lines().find_map(|line| definition(line.trim_start_matches("# ").split('#').next()?.trim()))
    };
    let mut done = BTreeSet::new();
    let mut text = String::new();
    for block in &blocks {
        text.push_str(block.trim_end_matches('\n'));
        text.push('\n');
        if let Some(table) = heading(block).filter(|table| done.insert(*table)) {
            let of_table: Vec<&str> =
                blocks.iter().copied().filter(|block| heading(block) == Some(table)).collect();
            for (key, node) in schema["$defs"][table]["properties"].as_object().unwrap() {
                let written = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} = "));
                let has_section =
                    example.contains(&format!(".{key}]\n")) || example.contains(&format!(".{key}] "));
                if !has_section && !of_table.iter().flat_map(|block| block.lines()).any(written) {
                    let about = node["description"].as_str().unwrap_or_default().replace('\n', " ");
                    let line = match node.get("default") {
                        Some(default) => format!("{key} = {default}"),
                        None => format!("# {key} = "),
                    };
                    text.push_str(&format!("{line:<39} # {about}\n"));
                }
            }
        }
        text.push('\n');
    }
    text.trim_end().to_owned() + "\n"
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the project's own file, in a test")]
fn the_example_has_every_key_of_each_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.toml");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, completed(EXAMPLE)).unwrap();
    }
    let example = std::fs::read_to_string(path).unwrap();
    let words: BTreeSet<&str> = example.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    for key in keys() {
        assert!(words.contains(key.as_str()), "config.example.toml lacks {key}");
    }
    for (line, wanted) in example.lines().zip(completed(&example).lines()) {
        assert_eq!(line, wanted, "config.example.toml lacks a key: run this test with BLESS=1");
    }
}

/// A value is the default, or its comment says what the default is.
#[test]
fn the_example_shows_defaults() {
    let schema = schema();
    let (mut node, mut seen, mut compared) = (&schema, BTreeSet::new(), 0);
    for line in EXAMPLE.lines() {
        if line.starts_with('[') {
            let table = definition(line.split('#').next().unwrap().trim());
            // What a table of its kind has was shown by the first one.
            node = table
                .filter(|table| seen.insert(*table))
                .map_or(&Value::Null, |table| &schema["$defs"][table]);
        }
        let Ok(written) = toml::from_str::<toml::Table>(line) else { continue };
        for (key, value) in written {
            let Some(default) = node["properties"][&key].get("default") else { continue };
            compared += 1;
            let value = serde_json::to_value(value).unwrap();
            assert!(value == *default || line.contains("(default: "), "{line}: the default is {default}");
        }
    }
    assert!(compared > 50, "{compared}");
}

#[test]
fn the_example_loads() {
    let text = EXAMPLE.replace("include = [\"conf.d/*.toml\"]", "");
    let config = load(&text).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.warnings, []);
    assert!(!config::check_references(&config).is_empty(), "its files are not there");
}

/// Each commented line that is another way to write a key works too.
#[test]
fn the_examples_other_ways_load_too() {
    let mut tried = 0;
    for line in EXAMPLE.lines().filter_map(|line| line.strip_prefix("# ")) {
        let Some((key, _)) = line.split_once(" = ") else { continue };
        let issuer = match key {
            "tls" if line.contains("client_ca") => continue,
            "tls" | "proxy" => with(line, line),
            "client_secret" => with(line, ""),
            "issuer_url" => with("", "").replace("token_url = \"https://idp/token\"", line),
            "path" => with("", line),
            _ => continue,
        };
        tried += 1;
        assert_eq!(lines(&issuer), [""; 0], "{line}");
    }
    assert!(tried > 6, "{tried}");
    let listeners: String = EXAMPLE
        .lines()
        .skip_while(|line| *line != "# [listener.network]")
        .map_while(|line| line.strip_prefix("# ").or_else(|| line.is_empty().then_some("")))
        .filter(|line| !line.starts_with("group"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(lines(&format!("{listeners}{}", with("", ""))), [""; 0]);
}

/// The schema's defaults below a definition, as TOML lines.
fn defaults(schema: &Value, definition: Option<&str>) -> String {
    let node = definition.map_or(schema, |name| &schema["$defs"][name]);
    let properties = node["properties"].as_object().unwrap();
    let written = properties.iter().filter_map(|(key, value)| {
        let default = value.get("default").filter(|default| !default.is_object())?;
        // A path_prefix beside path, and anonymous beside issuer, are the caller's to choose.
        Some(format!("{key} = {default}\n"))
    });
    written.collect()
}

/// All that a config says, but for digests: they are over what is written, and a default written out differs.
fn shape(config: &Config) -> String {
    let digest = format!("{:?}", config.issuers["corp"].digest);
    let parts =
        (&config.limits, &config.log, &config.admin, &config.listeners, &config.issuers, &config.routes);
    let times = (config.workers, config.drain_delay, config.shutdown_timeout);
    format!("{times:?} {parts:?}").replace(&digest, "")
}

#[test]
fn the_schemas_defaults_are_the_real_ones() {
    let schema = schema();
    let response = defaults(&schema, Some("Response")).replace('\n', ", ");
    let inject = defaults(&schema, Some("Inject")).replace('\n', ", ");
    let listener: String = defaults(&schema, Some("Listener"))
        .lines()
        .filter(|line| !line.starts_with("mode") && !line.starts_with("allow_uids"))
        .map(|line| format!("{line}\n"))
        .collect();
    let written = format!(
        "{}[limits]\n{}[log]\n{}[admin]\n{}[listener.main]\n{listener}{}",
        defaults(&schema, None),
        defaults(&schema, Some("Limits")),
        defaults(&schema, Some("Log")),
        defaults(&schema, Some("Admin")),
        with(
            &format!(
                "client_secret = {{ env = \"S\" }}\n{}response = {{ {} }}",
                defaults(&schema, Some("Issuer")),
                response.trim_end_matches(", ")
            ),
            &format!(
                "{}inject = {{ {} }}",
                defaults(&schema, Some("Route")).replace("anonymous", "#"),
                inject.trim_end_matches(", ")
            ),
        ),
    );
    let written = load(&written).unwrap_or_else(|problems| panic!("{problems}\n{written}"));
    let plain = load(&with("", "")).unwrap();
    assert_eq!(shape(&written), shape(&plain));
}

#[test]
fn every_count_has_the_bound_that_the_schema_says() {
    let schema = schema();
    let mut tried = 0;
    for (node, table) in [(&schema, ""), (&schema["$defs"]["Limits"], "[limits]\n")] {
        for (key, value) in node["properties"].as_object().unwrap() {
            if value["type"] != "integer" {
                continue;
            }
            tried += 1;
            let most = value["maximum"].as_u64().unwrap_or_else(|| panic!("{key} has no maximum"));
            let with_count = |count: u64| lines(&format!("{table}{key} = {count}\n{}", with("", "")));
            assert_eq!(with_count(most), [""; 0]);
            let refused = with_count(most + 1);
            assert!(refused[0].ends_with(&format!("{key}: must be at most {most}")), "{refused:?}");
            assert!(!with_count(i64::MAX as u64).is_empty());
        }
    }
    assert_eq!(tried, 4);
}

#[test]
fn equal_issuers_have_equal_digests_and_others_have_not() {
    let digest = |issuer: &str| load(&with(issuer, "")).unwrap().issuers["corp"].digest;
    let plain = digest("");
    assert_eq!(digest("# a comment"), plain);
    assert_eq!(
        digest("client_secret = { file = \"a\" }"),
        digest("client_secret = { file = \"/etc/bearerd/a\" }")
    );
    assert_eq!(digest("tls = { roots = \"bundled\" }"), digest("tls.roots = \"bundled\""));
    let mut all = vec![
        plain,
        digest("client_secret = { file = \"b\" }"),
        digest("client_secret = { env = \"b\" }"),
        digest("timeout = \"9s\""),
        digest("params = { a = 1 }"),
        digest("params = { a = \"1\" }"),
        digest("params = { a = [1] }"),
        digest("scopes = [\"a\", \"b\"]"),
        digest("scopes = [\"a,b\"]"),
    ];
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[test]
fn another_store_of_a_learned_value_is_another_issuer() {
    let issuer = "headers = { x-user = { webhook = \"w\" } }";
    let webhook = "[webhook.w]\naddress = \"127.0.0.1:9181\"\npath = \"/s\"\nsignature_header = \"x-sig\"\n\
                   secrets = [{ file = \"a\" }]\nvalue = \"/id\"\nstore = \"STORE\"\n";
    let digest = |store: &str| {
        let text = format!("{}{}", with(issuer, ""), webhook.replace("STORE", store));
        load(&text).unwrap_or_else(|problems| panic!("{problems}")).issuers["corp"].digest
    };
    assert_eq!(digest("a.json"), digest("/etc/bearerd/a.json"));
    assert_ne!(digest("a.json"), digest("b.json"));
}

#[test]
fn a_routes_credential_has_its_own_scopes_and_more_parameters() {
    let text = with(
        "scopes = [\"a\", \"b\"]\nparams = { x = 1, y = 1.50 }",
        "scopes = [\"c\"]\nparams = { y = true, z = [\"1\", { env = \"Z\" }] }",
    );
    let config = load(&text).unwrap();
    let config::Credential::Issuer { key, issuer } = &config.routes[0].credential else { panic!() };
    assert_eq!(key.scopes, Scopes::from(["c"]));
    assert_eq!(key.params.keys().collect::<Vec<_>>(), ["x", "y", "z"]);
    assert_eq!(key.params["y"], config::ParamValue::Boolean(true));
    assert_eq!(issuer.params["y"], config::ParamValue::Float("1.50".to_owned()));
    assert_eq!(key.issuer_digest, issuer.digest);
    let plain = load(&text.replace("scopes = [\"c\"]\n", "")).unwrap();
    let config::Credential::Issuer { key, .. } = &plain.routes[0].credential else { panic!() };
    assert_eq!(key.scopes.len(), 2);
}
