//! The JSON Schema of the config file, and what is looked up in it: keys for suggestions, and which parts of a file may be
//! shown in an error.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::Value;

use crate::config::document::PathStep;

/// Made from the structs of `raw`. A test compares it, and writes it with `BLESS=1 cargo test --lib config::schema`.
const COMMITTED: &str = include_str!("../../docs/config.schema.json");

/// The JSON Schema (draft 2020-12) of the config file: what this release can do, with defaults and descriptions.
pub fn schema() -> Value {
    serde_json::from_str(COMMITTED).expect("the schema was made as JSON, and a test reads it")
}

static SCHEMA: LazyLock<Value> = LazyLock::new(schema);

static KEYS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let mut keys = BTreeSet::new();
    each_key(&SCHEMA, &mut |name, _| _ = keys.insert(name.to_owned()));
    keys
});

/// Whether some table of the config has this key.
fn is_key(name: &str) -> bool {
    KEYS.contains(name)
}

/// Visits each key of each table, with its declaration.
fn each_key(node: &Value, visit: &mut impl FnMut(&str, &Value)) {
    match node {
        Value::Object(object) => {
            if let Some(Value::Object(properties)) = object.get("properties") {
                properties.iter().for_each(|(name, declared)| visit(name, declared));
            }
            object.values().for_each(|child| each_key(child, visit));
        }
        Value::Array(items) => items.iter().for_each(|child| each_key(child, visit)),
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

/// Keys whose value, or a value below them, may be a literal secret: their declarations say so (`x-secret`). A name counts
/// in every table.
static SECRET_KEYS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let mut keys = BTreeSet::new();
    each_key(&SCHEMA, &mut |name, declared| {
        let says_so = |node: &Value| node.get("x-secret").is_some();
        if says_so(declared) || declared.get("items").is_some_and(says_so) {
            keys.insert(name.to_owned());
        }
    });
    keys
});

/// Words in the name of a parameter or header field whose literal value counts as a secret.
const SECRET_WORDS: &[&str] = &[
    "secret",
    "password",
    "passwd",
    "passphrase",
    "apikey",
    "credential",
    "authorization",
    "cookie",
    "private",
    "subscriptionkey",
];

/// Ends of such names.
const SECRET_ENDS: &[&str] =
    &["token", "assertion", "accesskey", "appkey", "authkey", "functionskey", "sharedkey"];

/// Last words of names that say where something is: `PASSWORD_STORE_DIR`, `VAULT_TOKEN_FILE`.
const PLACE_WORDS: &[&str] = &["dir", "file", "path", "name", "url", "addr"];

/// Those of them whose value is a URL.
const URL_WORDS: &[&str] = &["url", "addr"];

/// Whether a literal below this key may be a secret.
pub(crate) fn may_hold_secret(name: &str) -> bool {
    SECRET_KEYS.contains(name) || (names_a_secret(name) && !is_key(name))
}

/// Whether a parameter, header field, or variable of this name carries a secret: `client_secret`, `X-Api-Key`.
pub(crate) fn names_a_secret(name: &str) -> bool {
    sounds_secret(name) && !names_a_place(name)
}

/// Whether this literal is a secret. A URL may carry a password or a key, and its path may be one (of a webhook), whatever the
/// name says.
pub(crate) fn is_secret_literal(name: &str, literal: &[u8]) -> bool {
    let carries = || literal.iter().any(|byte| matches!(byte, b'@' | b'?'));
    let has_path = || ends_with_word_of(name, URL_WORDS) && goes_on_after_host(literal);
    names_a_secret(name) || (sounds_secret(name) && (carries() || has_path()))
}

fn goes_on_after_host(url: &[u8]) -> bool {
    const SCHEME_END: &[u8] = b"://";
    let scheme = url.windows(SCHEME_END.len()).position(|bytes| bytes == SCHEME_END);
    let mut host = url.iter().skip(scheme.map_or(0, |at| at + SCHEME_END.len()));
    match host.find(|byte| matches!(byte, b'/' | b'\\' | b'#')) {
        None => false,
        Some(b'/') => host.next().is_some(),
        Some(_) => true,
    }
}

fn names_a_place(name: &str) -> bool {
    ends_with_word_of(name, PLACE_WORDS)
}

/// The name has several words, and the last is one of these.
fn ends_with_word_of(name: &str, words: &[&str]) -> bool {
    let mut of_name = name.rsplit(['_', '-', '.']);
    let last = of_name.next().unwrap_or_default();
    of_name.next().is_some() && words.iter().any(|word| last.eq_ignore_ascii_case(word))
}

/// RFC 9396: what a token is for.
const AUTHORIZATION_DETAILS: &str = "authorization_details";

fn sounds_secret(name: &str) -> bool {
    if name == AUTHORIZATION_DETAILS {
        return false;
    }
    let plain: String = name.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
    // Only at the end of the name: `requested_token_use` and similar names are plain.
    SECRET_WORDS.iter().any(|word| plain.contains(word)) || SECRET_ENDS.iter().any(|end| plain.ends_with(end))
}

/// URLs can carry a password or a key.
pub(crate) fn text_may_be_shown(text: &str) -> bool {
    text.chars().count() <= 80 && !text.contains(['@', '?']) && !text.chars().any(char::is_control)
}

/// Whether a line cannot contain a secret: every key that is assigned on it is known and takes none (or is `known`),
/// and no string can have begun on an earlier line.
pub(crate) fn line_may_be_shown(line: &str, known: Option<&str>) -> bool {
    if line.contains(['@', '?']) || line.contains("\"\"\"") || line.contains("'''") {
        return false;
    }
    let Some((first, _)) = line.split_once('=') else {
        return line.trim_start().starts_with('[');
    };
    if first.trim() != last_key(first) {
        return false;
    }
    line.split('=').rev().skip(1).all(|before| {
        let name = last_key(before);
        let mut parts = name.split('.').map(|part| part.trim_matches(['"', '\'']));
        let last_is_known = parts.clone().next_back().is_some_and(|last| known == Some(last) || is_key(last));
        last_is_known && !parts.any(may_hold_secret)
    })
}

/// The dotted key at the end of the text before a `=`.
fn last_key(before: &str) -> &str {
    let before = before.trim_end();
    let start =
        before.rfind(|c: char| c.is_whitespace() || matches!(c, '{' | ',' | '[')).map_or(0, |at| at + 1);
    before.get(start..).unwrap_or(before)
}

#[cfg(test)]
mod tests {
    use schemars::generate::SchemaSettings;

    use crate::config::raw::RawFile;

    use super::*;

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

    /// A value whose type states no kind may be a secret, so its key must say what it is.
    #[test]
    fn every_key_with_values_of_any_kind_is_declared_secret() {
        let mut open = 0;
        each_key(&schema(), &mut |name, declared| {
            let refers = |node: &Value| {
                let target = node.get("$ref").and_then(Value::as_str);
                target.is_some_and(|target| {
                    ["Reference", "Parameter", "Egress"].iter().any(|kind| target.ends_with(kind))
                })
            };
            let any_kind = declared.get("additionalProperties").is_some_and(refers)
                || declared.get("$ref").and_then(Value::as_str).is_some_and(|to| to.ends_with("Egress"));
            if any_kind {
                open += 1;
                assert!(may_hold_secret(name), "`{name}` may hold a secret: give it `x-secret`");
            }
        });
        assert!(open > 5, "{open}");
        for name in ["client_secret", "password", "private_key", "assertion", "secrets", "value", "userinfo"]
        {
            assert!(may_hold_secret(name), "{name}");
        }
        for name in ["client_id", "certificate", "ca", "key_id", "audience", "upstream", "name"] {
            assert!(!may_hold_secret(name), "{name}");
        }
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

    #[test]
    fn lines_with_a_secret_key_are_hidden() {
        for line in [
            "\"x\", ], roots = 1 }",
            "client_secret = \"x\"",
            "issuer.corp.client_secret=\"x\"",
            "  params = { a = 1 }",
            "corp = { client_id = \"a\", client_secret = \"x\" }",
            "client_secrt = \"x\"",
            "\"client_secret\" = 'x'",
            "tail\"\"\", name = 1",
            "just a line",
            "upstream = \"https://u:p@h\"",
        ] {
            assert!(!line_may_be_shown(line, None), "{line}");
        }
    }

    #[test]
    fn vendors_names_of_keys_are_secrets() {
        for name in [
            "Ocp-Apim-Subscription-Key",
            "x-functions-key",
            "x-app-key",
            "X-Api-Key",
            "sharedKey",
            "subject_token",
        ] {
            assert!(names_a_secret(name), "{name}");
        }
        for name in [
            "x-merchant-id",
            "key_id",
            "subject_token_type",
            "requested_token_use",
            "access_key_id",
            "audience",
            "authorization_details",
            "PASSWORD_STORE_DIR",
            "VAULT_TOKEN_FILE",
            "private-key-path",
            "SECRET_NAME",
            "CREDENTIALS_URL",
            "SECRET_ADDR",
        ] {
            assert!(!names_a_secret(name), "{name}");
        }
        for name in ["secret_id", "PASSWORDFILE", "SECRET_FILENAME", "secret_path_token"] {
            assert!(names_a_secret(name), "{name}");
        }
        for literal in ["https://vault.internal", "https://vault.internal:8200/", "vault.internal:8200", ""] {
            assert!(!is_secret_literal("SECRETS_URL", literal.as_bytes()), "{literal}");
        }
        assert!(!is_secret_literal("SECRET_FILE", b"/run/secrets/a"));
        assert!(is_secret_literal("x-webhook-secret-url", b"https://hooks.internal/services/T0/B0/key"));
        assert!(is_secret_literal("SECRET_ADDR", b"vault.internal/key"));
        for literal in [
            "https://a:b@vault.internal",
            "https://vault.internal/?k=s",
            "https://vault.internal/s",
            "https://vault.internal//s",
            "https://vault.internal#s",
        ] {
            assert!(is_secret_literal("SECRETS_URL", literal.as_bytes()), "{literal}");
            assert!(!is_secret_literal("WEB_URL", literal.as_bytes()), "{literal}");
        }
    }

    #[test]
    fn other_lines_are_shown() {
        for line in [
            "[issuer.corp]",
            "[[route]]",
            "name = \"a\"",
            "client_auth = \"client_secret_basik\"",
            "tls = { roots = 1 }",
        ] {
            assert!(line_may_be_shown(line, None), "{line}");
        }
        assert!(line_may_be_shown("isuer = \"corp\"", Some("isuer")));
    }
}
