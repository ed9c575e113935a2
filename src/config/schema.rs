//! The JSON Schema of the config file, and the look-ups in it that give suggestions.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::Value;

use super::document::PathStep;

/// As the structs of `raw` say it; a test compares, and makes it with `BLESS=1 cargo test --lib config::schema`.
const COMMITTED: &str = include_str!("../../docs/config.schema.json");

/// The JSON Schema (draft 2020-12) of the config file: what this release can do, with defaults and descriptions.
pub fn schema() -> Value {
    serde_json::from_str(COMMITTED).expect("the schema was made as JSON, and a test reads it")
}

static SCHEMA: LazyLock<Value> = LazyLock::new(schema);

static KEYS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let mut keys = BTreeSet::new();
    collect_keys(&SCHEMA, &mut keys);
    keys
});

/// Whether some table of the config has this key.
pub(crate) fn is_key(name: &str) -> bool {
    KEYS.contains(name)
}

fn collect_keys(node: &Value, keys: &mut BTreeSet<String>) {
    match node {
        Value::Object(object) => {
            if let Some(Value::Object(properties)) = object.get("properties") {
                keys.extend(properties.keys().cloned());
            }
            object.values().for_each(|child| collect_keys(child, keys));
        }
        Value::Array(items) => items.iter().for_each(|child| collect_keys(child, keys)),
        _ => {}
    }
}

/// The keys that the table at this path may have.
pub(crate) fn keys_at(path: &[PathStep]) -> Vec<&'static str> {
    let mut nodes = vec![&*SCHEMA];
    for step in path {
        nodes = nodes.into_iter().flat_map(alternatives).filter_map(|node| below(node, step)).collect();
    }
    nodes
        .into_iter()
        .flat_map(alternatives)
        .filter_map(|node| node.get("properties")?.as_object())
        .flat_map(|properties| properties.keys().map(String::as_str))
        .collect()
}

/// The node itself and what it refers to or offers.
fn alternatives(node: &'static Value) -> Vec<&'static Value> {
    let mut all = vec![node];
    if let Some(target) = node.get("$ref").and_then(Value::as_str).and_then(|name| name.strip_prefix('#')) {
        all.extend(alternatives(SCHEMA.pointer(target).expect("the schema refers to its own parts")));
    }
    for choice in ["anyOf", "oneOf", "allOf"] {
        if let Some(Value::Array(choices)) = node.get(choice) {
            all.extend(choices.iter().flat_map(alternatives));
        }
    }
    all
}

fn below(node: &'static Value, step: &PathStep) -> Option<&'static Value> {
    match step {
        PathStep::Key(key) => node
            .get("properties")
            .and_then(|properties| properties.get(key))
            .or_else(|| node.get("additionalProperties").filter(|schema| schema.is_object())),
        PathStep::Index(_) => node.get("items"),
    }
}

#[cfg(test)]
mod tests {
    use schemars::generate::SchemaSettings;

    use super::*;
    use crate::config::raw::RawFile;

    fn of_the_structs() -> Value {
        let generator = SchemaSettings::draft2020_12().into_generator();
        let mut schema = Value::from(generator.into_root_schema_for::<RawFile>());
        without_null(&mut schema);
        schema
    }

    /// TOML has no null; the generator writes one for every optional key.
    fn without_null(node: &mut Value) {
        match node {
            Value::Object(object) => {
                for key in ["type", "anyOf"] {
                    let Some(Value::Array(choices)) = object.get_mut(key) else { continue };
                    choices.retain(|choice| {
                        choice != "null" && choice.get("type").is_none_or(|kind| kind != "null")
                    });
                    let only = if choices.len() == 1 { choices.pop() } else { None };
                    match only {
                        Some(Value::Object(inner)) => {
                            object.remove(key);
                            object.extend(inner);
                        }
                        Some(kind) => drop(object.insert(key.to_owned(), kind)),
                        None => {}
                    }
                }
                object.retain(|key, value| key != "default" || !value.is_null());
                object.values_mut().for_each(without_null);
            }
            Value::Array(items) => items.iter_mut().for_each(without_null),
            _ => {}
        }
    }

    #[test]
    fn the_schema_in_docs_is_that_of_the_structs() {
        let made = of_the_structs();
        if std::env::var_os("BLESS").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/config.schema.json");
            std::fs::write(path, format!("{made:#}\n")).unwrap();
        } else {
            assert!(
                schema() == made,
                "docs/config.schema.json is not as the structs: run this test with BLESS=1"
            );
        }
    }

    fn path(keys: &[&str]) -> Vec<PathStep> {
        keys.iter().map(|key| PathStep::Key((*key).to_owned())).collect()
    }

    #[test]
    fn finds_the_keys_of_nested_tables() {
        assert!(keys_at(&[]).contains(&"issuer"));
        assert!(keys_at(&path(&["issuer", "corp"])).contains(&"token_url"));
        assert!(keys_at(&path(&["issuer", "corp", "tls"])).contains(&"roots"));
        assert!(keys_at(&path(&["issuer", "corp", "client_secret"])).contains(&"pointer"));
        assert!(keys_at(&[path(&["route"]), vec![PathStep::Index(3)]].concat()).contains(&"upstream"));
        assert!(keys_at(&path(&["limits", "connections"])).is_empty());
    }

    #[test]
    fn no_table_takes_unknown_keys() {
        fn tables(node: &Value, found: &mut usize) {
            if let Some(object) = node.as_object() {
                if object.contains_key("properties") {
                    *found += 1;
                    assert_eq!(object.get("additionalProperties"), Some(&Value::Bool(false)), "{object:?}");
                }
                object.values().for_each(|child| tables(child, found));
            }
        }
        let mut found = 0;
        tables(&schema(), &mut found);
        assert!(found > 10, "{found}");
    }
}
