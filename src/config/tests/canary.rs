//! Whatever is wrong, nothing panics and no literal secret is told.

use proptest::prelude::*;

use super::*;
use crate::config::schema;

const CANARY: &str = "hunter2";

fn told(text: &str, access: Access) -> String {
    match load_as(text, access) {
        Ok(config) => format!("{config:?}"),
        Err(problems) => format!("{problems}\n{problems:?}\n{}", problems.to_json()),
    }
}

fn is_silent(text: &str) {
    for access in [PRIVATE, READABLE] {
        let told = told(text, access);
        assert!(!told.contains(CANARY), "{text}\n---\n{told}");
    }
}

#[test]
fn no_literal_secret_is_told() {
    for issuer in [
        "client_secret = \"hunter2\"",
        "client_secret = \"hunter2",
        "client_secret = hunter2",
        "client_secret = \"\"\"\nhunter2\"\"\" x",
        "client_secret = \"\"\"\nhunter2 \\q\n\"\"\"",
        "client_secret = '''\n[hunter2\n''' 5",
        "client_secret = [\"hunter2\"]",
        "client_secret = { value = \"hunter2\" }",
        "client_secret = { file = \"a\", password = \"hunter2\" }",
        "client_secrt = \"hunter2\"",
        "client_secret = \"hunter2\"\nclient_secret = \"hunter2\"",
        "clientsecret = { client_secret = \"hunter2\", roots = 1 }",
        "standby = { client_id = \"x\", client_secret = \"hunter2\" }",
        "basic = { user = \"x\", password = \"hunter2\" }",
        "params = { password = \"hunter2\", scope = 1 }",
        "params = [\"hunter2\"]",
        "params = { audience = [[\"hunter2\"]] }",
        "headers = { authorization = \"hunter2\" }",
        "headers = { x = [\"hunter2\"] }",
        "proxy = \"https://u:hunter2@egress\"",
        "proxy = \"u:hunter2@egress\"",
        "proxy = { url = \"http://egress\", userinfo = 5, passwd = \"hunter2\" }",
        "proxy = { url = \"https://u:hunter2@egress\" }",
        "tls = { private_key = \"hunter2\", roots = \"x\" }",
        "jwt = { key = \"hunter2\" }",
        "private_key = \"hunter2\"",
        "vars = { key = \"hunter2\" }",
        "tls = { roots = \"x\", private_key = \"\"\"\nhunter2\"\"\", server_name = \"a b\" }",
    ] {
        is_silent(&with(issuer, "bogus = 1"));
    }
    for url in ["https://u:hunter2@h", "http://u:hunter2@h", "https://h?key=hunter2", "u:hunter2@h"] {
        is_silent(&with("", "").replace("https://h", url));
        // A token URL may have a query; nothing is told of it unless something is wrong with it.
        if !url.contains('?') {
            is_silent(&with("", "").replace("https://idp/token", url));
        }
    }
    is_silent(&format!(
        "[listener.main]\nrequire_header = {{ name = \"x y\", value = \"hunter2\" }}\n{}",
        with("", "")
    ));
    is_silent(&format!("[webhook.a]\nsecrets = [\"hunter2\"]\n{}", with("", "")));
}

#[test]
fn a_literal_secret_is_taken_from_a_file_of_the_owner_alone() {
    let config = load_as(&with("client_secret = \"hunter2\"", ""), PRIVATE).unwrap();
    let issuer = config.issuers.get("corp").unwrap();
    assert_eq!(issuer.client_auth.secret().unwrap().read().unwrap().expose(), b"hunter2");
    assert!(!format!("{config:?}").contains(CANARY));
}

/// Pieces of config files, right and wrong.
fn piece() -> impl Strategy<Value = String> {
    let mut keys = Vec::new();
    collect(&schema(), &mut keys);
    keys.extend(["issuer.a", "route", "listener.main", "jwt", "preset", "x y", ""].map(str::to_owned));
    let value = prop_oneof![
        Just("1".to_owned()),
        Just("-1".to_owned()),
        Just("1.5".to_owned()),
        Just("nan".to_owned()),
        Just("true".to_owned()),
        Just("2020-01-01".to_owned()),
        Just("\"30s\"".to_owned()),
        Just("\"https://h/a\"".to_owned()),
        Just("[]".to_owned()),
        Just("[\"a\", 1]".to_owned()),
        Just("{}".to_owned()),
        Just("{ file = \"a\" }".to_owned()),
        Just("{ env = \"a\", pointer = 5 }".to_owned()),
        Just("[[1]]".to_owned()),
        Just("\"".to_owned()),
        Just("'''".to_owned()),
        "\"[ -~]{0,12}\"",
        "\\PC{0,8}",
    ];
    let key = prop::sample::select(keys);
    prop_oneof![
        3 => Just("[[route]]".to_owned()),
        1 => Just("[issuer.corp]".to_owned()),
        1 => Just("[listener.main]".to_owned()),
        2 => key.clone().prop_map(|key| format!("[{key}]")),
        1 => key.clone().prop_map(|key| format!("[[{key}]]")),
        12 => (key, value).prop_map(|(key, value)| format!("{key} = {value}")),
        1 => "\\PC{0,20}",
    ]
}

fn collect(node: &serde_json::Value, keys: &mut Vec<String>) {
    if let Some(object) = node.as_object() {
        if let Some(properties) = object.get("properties").and_then(|value| value.as_object()) {
            keys.extend(properties.keys().cloned());
        }
        object.values().for_each(|child| collect(child, keys));
    }
}

proptest! {
    #[test]
    fn nothing_panics(pieces in prop::collection::vec(piece(), 0..24)) {
        let text = pieces.join("\n");
        for access in [PRIVATE, READABLE] {
            if let Err(problems) = load_as(&text, access) {
                prop_assert!(problems.errors().next().is_some(), "refused without a word: {text}");
                for problem in &problems.0 {
                    prop_assert!(problem.line <= text.lines().count() + 1, "{problem:?}");
                    prop_assert!(!problem.to_string().is_empty());
                }
            }
        }
    }

    #[test]
    fn nothing_panics_on_any_text(text in "(?s).{0,200}") {
        let _ = told(&text, PRIVATE);
    }

    #[test]
    fn a_secret_stays_hidden_whatever_is_around(pieces in prop::collection::vec(piece(), 0..12), at in 0usize..12) {
        let mut pieces: Vec<String> = pieces;
        pieces.retain(|piece| !piece.contains(CANARY));
        pieces.insert(at.min(pieces.len()), "client_secret = \"hunter2\"".to_owned());
        is_silent(&pieces.join("\n"));
    }
}
