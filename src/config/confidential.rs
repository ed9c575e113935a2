//! Which parts of a config file may be shown in an error. When in doubt: none.

use super::schema;

/// Keys whose value, or a value below them, may be a literal secret.
const CONFIDENTIAL: &[&str] = &[
    "assertion",
    "basic",
    "claims",
    "client_secret",
    "headers",
    "match_headers",
    "params",
    "password",
    "private_key",
    "proxy",
    "request_headers",
    "require_header",
    "response_headers",
    "secret",
    "secrets",
    "set",
    "standby",
    "userinfo",
    "value",
    "vars",
    "webhook",
];

/// Words in the name of a parameter or header whose literal value is taken to be a secret.
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

/// Whether a literal below this key may be a secret.
pub(crate) fn key(name: &str) -> bool {
    CONFIDENTIAL.contains(&name) || (names_a_secret(name) && !schema::is_key(name))
}

/// Whether a parameter or header of this name carries a secret: `client_secret`, `X-Api-Key`.
pub(crate) fn names_a_secret(name: &str) -> bool {
    let plain: String = name.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
    // Not anywhere in the name: `requested_token_use` and the like are plain.
    SECRET_WORDS.iter().any(|word| plain.contains(word)) || SECRET_ENDS.iter().any(|end| plain.ends_with(end))
}

/// URLs can carry a password or a key.
pub(crate) fn text_may_be_shown(text: &str) -> bool {
    text.chars().count() <= 80 && !text.contains(['@', '?']) && !text.chars().any(char::is_control)
}

/// Whether a line can hold no secret: every key assigned on it is a known one that takes none (or `known`), and no
/// string can have begun on an earlier line.
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
        let last_is_known =
            parts.clone().next_back().is_some_and(|last| known == Some(last) || schema::is_key(last));
        last_is_known && !parts.any(key)
    })
}

/// The dotted key at the end of what stands before a `=`.
fn last_key(before: &str) -> &str {
    let before = before.trim_end();
    let start =
        before.rfind(|c: char| c.is_whitespace() || matches!(c, '{' | ',' | '[')).map_or(0, |at| at + 1);
    before.get(start..).unwrap_or(before)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        ] {
            assert!(!names_a_secret(name), "{name}");
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
