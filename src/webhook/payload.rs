//! The value that a request tells.

use serde_json::Value;

use super::refusal::Refusal;
use crate::secret::Secret;

/// The longest value, in bytes.
const LONGEST: usize = 4 * 1024;

/// What stands at `pointer` (RFC 6901) in a JSON body.
pub(super) fn value(body: &[u8], pointer: &str) -> Result<Secret, Refusal> {
    // serde_json's own message could quote the body, so only the place is told.
    let json: Value = serde_json::from_slice(body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Refusal::no_value(format!("the body is not JSON (line {line}, column {column})"))
    })?;
    let refuse = |what: &str| Err(Refusal::no_value(format!("the body {what} at {pointer}")));
    let value = match json.pointer(pointer) {
        Some(Value::String(text)) => Secret::from(text.as_str()),
        Some(Value::Number(number)) if number.is_i64() || number.is_u64() => Secret::from(number.to_string()),
        Some(Value::Number(_)) => return refuse("has a number that cannot be kept digit by digit"),
        Some(_) => return refuse("has neither a string nor a number"),
        None => return refuse("has nothing"),
    };
    if value.is_empty() {
        return refuse("has an empty string");
    }
    if value.expose().len() > LONGEST {
        return refuse(&format!("has more than {LONGEST} bytes"));
    }
    if value.expose_str().is_none_or(|text| text.contains(char::is_control)) {
        return refuse("has a control character");
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vendor's documented payload, its keys in this order.
    const SEISMIC: &str = r#"{"userId":"admin-1","userEmail":"a@example.com","delegationUserId":"7f3c-Ünï+/= ",
        "appId":"app","tenant":"acme","version":1,"timestamp":1700000000}"#;

    fn words(body: &str, pointer: &str) -> String {
        let refusal = value(body.as_bytes(), pointer).unwrap_err();
        assert_eq!(refusal.status.as_u16(), 422);
        refusal.words()
    }

    #[test]
    fn the_delegated_user_is_taken_byte_for_byte_and_not_the_admin() {
        let value = value(SEISMIC.as_bytes(), "/delegationUserId").unwrap();
        assert_eq!(value.expose_str(), Some("7f3c-Ünï+/= "));
    }

    #[test]
    fn a_whole_number_keeps_its_digits() {
        for digits in ["18446744073709551615", "-7", "0"] {
            let body = format!("{{\"a\":{{\"b/c\":[{digits}]}}}}");
            let value = value(body.as_bytes(), "/a/b~1c/0").unwrap();
            assert_eq!(value.expose_str(), Some(digits));
        }
        assert!(words("{\"a\":18446744073709551616}", "/a").contains("digit by digit"));
        assert!(words("{\"a\":1.50}", "/a").contains("digit by digit"));
    }

    #[test]
    fn what_is_no_value_is_refused_in_words() {
        assert!(words("{\"a\":\"\"}", "/a").contains("an empty string at /a"));
        assert!(words("{\"b\":1}", "/a").contains("nothing at /a"));
        for other in ["null", "true", "[]", "{}"] {
            assert!(words(&format!("{{\"a\":{other}}}"), "/a").contains("neither"), "{other}");
        }
        for control in ["\\u0000", "x\\n", "\\u0085", "\\u007f"] {
            assert!(words(&format!("{{\"a\":\"{control}\"}}"), "/a").contains("control character"));
        }
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(LONGEST + 1));
        assert!(words(&long, "/a").contains("4096 bytes"));
        assert!(value(long.replace("xx\"", "x\"").as_bytes(), "/a").is_ok(), "the longest");
    }

    #[test]
    fn a_broken_body_is_not_quoted() {
        let text = words("{\"a\":hunter2}", "/a");
        assert!(text.contains("line 1, column 6") && !text.contains("hunter2"), "{text}");
        let deep = format!("{}1{}", "[".repeat(30_000), "]".repeat(30_000));
        assert!(words(&deep, "/a").contains("not JSON"));
    }
}
