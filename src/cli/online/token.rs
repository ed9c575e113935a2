//! What may be told of a token.

use std::collections::BTreeSet;
use std::time::SystemTime;

use serde_json::{Map, Value};

use super::super::jwt;
use super::report::TokenReport;
use crate::config::{CredentialKey, IssuerConfig};
use crate::issuer::Grant;

/// Claims that say for whom and for what a token is. None of them is a secret, or about a person.
const CLAIMS: [&str; 9] = ["iss", "aud", "azp", "client_id", "scp", "scope", "roles", "iat", "exp"];
/// The claims in which issuers write scopes.
pub(super) const SCOPE_CLAIMS: [&str; 2] = ["scope", "scp"];

pub(super) fn report(
    grant: &Grant,
    key: &CredentialKey,
    config: &IssuerConfig,
    requested: SystemTime,
) -> TokenReport {
    let claims = grant.token.expose_str().and_then(jwt::decode).map(|jwt| shown(&jwt.claims));
    let granted = grant.scope.clone().or_else(|| claims.as_ref().and_then(scopes_claimed));
    TokenReport {
        kind: kind(&grant.token_type),
        expires_in: grant.lifetime(config.default_lifetime, requested).as_secs(),
        expires_in_assumed: grant.stated_lifetime(requested).is_none(),
        not_granted: granted.map(|granted| missing(&key.scopes, &granted)).unwrap_or_default(),
        scope: grant.scope.clone(),
        claims,
    }
}

/// As RFC 6750 and RFC 9449 write it; the grant has it in lower case.
fn kind(token_type: &str) -> String {
    match token_type {
        "bearer" => "Bearer".to_owned(),
        "dpop" => "DPoP".to_owned(),
        other => other.to_owned(),
    }
}

fn shown(claims: &Value) -> Map<String, Value> {
    CLAIMS.iter().filter_map(|name| Some(((*name).to_owned(), claims.get(name)?.clone()))).collect()
}

/// The scopes that the token itself names: a text or a list.
fn scopes_claimed(claims: &Map<String, Value>) -> Option<String> {
    match SCOPE_CLAIMS.iter().find_map(|name| claims.get(*name))? {
        Value::String(scopes) => Some(scopes.clone()),
        Value::Array(scopes) => Some(scopes.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")),
        _ => None,
    }
}

/// What was asked for and not granted. `…/.default` asks for whatever the client has, and is never named again;
/// some issuers name a scope without the resource that it was asked with.
fn missing(asked: &[String], granted: &str) -> Vec<String> {
    let granted: BTreeSet<&str> = granted.split_whitespace().collect();
    let short = |scope: &str| scope.rsplit('/').next().unwrap_or(scope).to_owned();
    asked
        .iter()
        .filter(|scope| !scope.ends_with("/.default"))
        .filter(|scope| !granted.contains(scope.as_str()) && !granted.contains(short(scope).as_str()))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(scopes: &[&str]) -> Vec<String> {
        scopes.iter().map(|scope| (*scope).to_owned()).collect()
    }

    #[test]
    fn what_was_not_granted_is_named() {
        assert_eq!(missing(&asked(&["a", "b"]), "b c"), ["a"]);
        assert!(missing(&asked(&["api://x/.default"]), "").is_empty());
        assert!(missing(&asked(&["https://api/read"]), "read").is_empty());
    }

    #[test]
    fn other_claims_are_not_shown() {
        let claims = shown(&json!({ "aud": "a", "email": "user@example.com", "sub": "x", "exp": 5 }));
        assert_eq!(claims.keys().collect::<Vec<_>>(), ["aud", "exp"]);
    }

    #[test]
    fn scopes_in_a_token_may_be_a_list() {
        let claims = shown(&json!({ "scp": ["a", "b"] }));
        assert_eq!(scopes_claimed(&claims).as_deref(), Some("a b"));
    }
}
