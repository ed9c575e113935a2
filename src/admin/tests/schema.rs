//! `docs/status.schema.json` is what `/status` keeps to.

use serde_json::Value;

use super::super::status::{Status, status};
use super::fixture;

const COMMITTED: &str = include_str!("../../../docs/status.schema.json");

#[test]
fn the_schema_in_docs_is_that_of_the_types() {
    let generator = schemars::generate::SchemaSettings::draft2020_12().for_serialize().into_generator();
    let mut made = generator.into_root_schema_for::<Status>();
    made.insert("title".to_owned(), "bearerd /status".into());
    let made = serde_json::to_value(&made).unwrap();
    if serde_json::from_str::<Value>(COMMITTED).ok().as_ref() != Some(&made) {
        let path = std::env::temp_dir().join("status.schema.json");
        std::fs::write(&path, serde_json::to_string_pretty(&made).unwrap() + "\n").unwrap();
        panic!("docs/status.schema.json is not what the types say; the new one is in {}", path.display());
    }
}

#[test]
fn a_rendered_status_keeps_to_the_schema() {
    let schema: Value = serde_json::from_str(COMMITTED).unwrap();
    for credentials in [
        Vec::new(),
        vec![fixture::valid(fixture::issuer("corp", true), &["billing"])],
        vec![fixture::refused(fixture::issuer("corp", true), &["billing"])],
    ] {
        let rendered = serde_json::to_value(status(&fixture::view(credentials))).unwrap();
        let mut problems = Vec::new();
        check(&schema, &schema, &rendered, "", &mut problems);
        assert_eq!(problems, [""; 0]);
    }
}

#[test]
fn the_check_finds_what_is_wrong() {
    let schema: Value = serde_json::from_str(COMMITTED).unwrap();
    let mut rendered = serde_json::to_value(status(&fixture::view(Vec::new()))).unwrap();
    rendered["ready"] = "yes".into();
    rendered["config"]["version"] = Value::Null;
    rendered["routes"][0].as_object_mut().unwrap().remove("match");
    let mut problems = Vec::new();
    check(&schema, &schema, &rendered, "", &mut problems);
    assert_eq!(problems.len(), 3, "{problems:?}");
}

/// As much of JSON Schema as the committed one uses: type, required, properties, items, `$ref`, anyOf.
fn check(root: &Value, schema: &Value, value: &Value, at: &str, problems: &mut Vec<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target =
            root.pointer(reference.trim_start_matches('#')).expect("a reference that leads somewhere");
        return check(root, target, value, at, problems);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let fits = any.iter().any(|schema| {
            let mut found = Vec::new();
            check(root, schema, value, at, &mut found);
            found.is_empty()
        });
        if !fits {
            problems.push(format!("{at}: fits none"));
        }
        return;
    }
    let types = match &schema["type"] {
        Value::Array(all) => all.clone(),
        one => vec![one.clone()],
    };
    let named = |kind: &str| types.iter().any(|it| it == kind);
    let fits = match value {
        Value::Null => named("null"),
        Value::Bool(_) => named("boolean"),
        Value::Number(number) => named("number") || (named("integer") && !number.is_f64()),
        Value::String(_) => named("string"),
        Value::Array(_) => named("array"),
        Value::Object(_) => named("object"),
    };
    if !fits {
        problems.push(format!("{at}: {value} is none of {types:?}"));
    }
    if let Value::Array(items) = value {
        items.iter().for_each(|item| check(root, &schema["items"], item, &format!("{at}[]"), problems));
    }
    if let Value::Object(object) = value {
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !object.contains_key(name) {
                problems.push(format!("{at}/{name}: missing"));
            }
        }
        for (name, value) in object {
            check(root, &schema["properties"][name], value, &format!("{at}/{name}"), problems);
        }
    }
}
