//! For whom a token is meant, where that can be read: for people who look for the reason of a refusal.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::redact::Redactor;

/// The most bytes of names that are shown.
const NAMES_LIMIT: usize = 128;
/// A longer part of a token is not looked into.
const CLAIMS_LIMIT: usize = 8 * 1024;

/// `aud` of a JWT (RFC 7519 section 4.1.3), which nobody checked.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub enum Audience {
    /// The token is opaque.
    #[default]
    Unknown,
    /// A JWT that is meant for nobody in particular.
    None,
    /// At most 128 printable characters.
    Named(String),
}

/// For whom the token is meant, as far as it may be shown.
pub(super) fn of(token: &str, redactor: &Redactor) -> Audience {
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Audience::Unknown;
    };
    if claims.len() > CLAIMS_LIMIT {
        return Audience::Unknown;
    }
    let claims = URL_SAFE_NO_PAD.decode(claims).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let Some(Value::Object(claims)) = claims else { return Audience::Unknown };
    let names = match claims.get("aud") {
        Some(Value::String(name)) => name.clone(),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
        _ => String::new(),
    };
    // What a secret has to do in there only its issuer knows.
    // What is left out may be what hid it: looked for with and without.
    let plain: String = names.chars().filter(|letter| matches!(letter, ' '..='~')).collect();
    let shown = redactor.show(&names, NAMES_LIMIT).and_then(|_| redactor.show(&plain, NAMES_LIMIT));
    let Some(shown) = shown else { return Audience::Unknown };
    // An issuer that writes a token there does not get it shown.
    if token.split('.').any(|part| part.len() > 8 && shown.contains(part)) {
        return Audience::Unknown;
    }
    if shown.is_empty() { Audience::None } else { Audience::Named(shown) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn jwt(claims: &str) -> Audience {
        let mut redactor = Redactor::default();
        redactor.add(&Secret::from("s3cr3t-of-the-client"));
        of(&format!("e30.{}.x", URL_SAFE_NO_PAD.encode(claims)), &redactor)
    }

    #[test]
    fn the_audience_of_a_jwt() {
        let named = |names: &str| Audience::Named(names.to_owned());
        assert_eq!(jwt(r#"{"aud":"https://api"}"#), named("https://api"));
        assert_eq!(jwt(r#"{"aud":["a","b",7]}"#), named("a, b"));
        assert_eq!(jwt(r#"{"aud":"a\u001b[2J\n"}"#), named("a[2J"));
        assert_eq!(jwt(r#"{"aud":"s3écér3ét-éof-éthée-cliéent"}"#), Audience::Unknown);
        assert_eq!(jwt(r#"{"aud":"for s3cr3t-of-the-client"}"#), Audience::Unknown);
        for nobody in [r#"{"sub":"x"}"#, r#"{"aud":""}"#, r#"{"aud":[]}"#, r#"{"aud":7}"#] {
            assert_eq!(jwt(nobody), Audience::None, "{nobody}");
        }
        assert_eq!(jwt(&format!(r#"{{"aud":"{}"}}"#, "x".repeat(500))), named(&"x".repeat(128)));
    }

    #[test]
    fn everything_else_is_unknown() {
        for token in ["", "opaque", "a.b", "a.b.c", "a.b.c.d.e", "e30.W10.x"] {
            assert_eq!(of(token, &Redactor::default()), Audience::Unknown, "{token}");
        }
        let claims = URL_SAFE_NO_PAD.encode(r#"{"aud":"header-of-it"}"#);
        let token = format!("header-of-it.{claims}.x");
        assert_eq!(of(&token, &Redactor::default()), Audience::Unknown);
    }
}
