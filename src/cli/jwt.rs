//! Looks into a JWT (RFC 7519) without checking it: for people who want to see what an issuer granted.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// What stands in a JWT. Its signature was not checked.
#[derive(Debug, PartialEq)]
pub(super) struct Jwt {
    pub(super) header: Value,
    pub(super) claims: Value,
}

/// `None`: not a signed JWT (RFC 7515 compact form), so an opaque token.
pub(super) fn decode(token: &str) -> Option<Jwt> {
    let mut parts = token.split('.');
    let (header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    Some(Jwt { header: object(header)?, claims: object(claims)? })
}

fn object(part: &str) -> Option<Value> {
    let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice(&bytes).ok().filter(Value::is_object)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shows_header_and_claims() {
        // RFC 7519 section 3.1.
        let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.\
                     eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
                     dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let jwt = decode(token).unwrap();
        assert_eq!(jwt.header, json!({"typ": "JWT", "alg": "HS256"}));
        assert_eq!(jwt.claims.get("exp"), Some(&json!(1_300_819_380)));
    }

    #[test]
    fn everything_else_is_opaque() {
        for token in ["", "abc", "a.b.c", "e30.e30", "e30.e30.x.y", "W10.e30.x", "e30.e30.x.y.z"] {
            assert_eq!(decode(token), None, "{token}");
        }
        assert!(decode("e30.e30.").is_some(), "an unsigned one is a JWT too");
    }
}
