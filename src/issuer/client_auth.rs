//! What stands in `Authorization` of a token request (RFC 6749 section 2.3.1, RFC 6750 section 2.1).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use zeroize::Zeroizing;

use super::form;
use crate::config::BasicEncoding;
use crate::secret::Secret;

const SCHEME: &str = "Basic ";

/// The `Authorization` value of HTTP Basic (RFC 7617), marked sensitive; its memory is wiped when it is dropped.
pub(super) fn basic(id: &Secret, secret: &Secret, encoding: BasicEncoding) -> Option<HeaderValue> {
    let (id, secret) = (id.expose(), secret.expose());
    // Large enough from the start: a buffer that grows leaves an unwiped copy behind.
    let mut pair = Zeroizing::new(Vec::with_capacity((id.len() + secret.len()) * form::GROWTH + 1));
    match encoding {
        BasicEncoding::Form => {
            form::encode(id, &mut pair);
            pair.push(b':');
            form::encode(secret, &mut pair);
        }
        BasicEncoding::Raw => {
            pair.extend_from_slice(id);
            pair.push(b':');
            pair.extend_from_slice(secret);
        }
    }
    let length = base64::encoded_len(pair.len(), true)?;
    let mut value = String::with_capacity(SCHEME.len() + length);
    value.push_str(SCHEME);
    STANDARD.encode_string(pair.as_slice(), &mut value);
    sensitive(Secret::from(value))
}

/// The `Authorization` value with a JWT of our own.
pub(super) fn bearer(jwt: &Secret) -> Result<HeaderValue, String> {
    let mut value = Vec::with_capacity(jwt.expose().len() + 7);
    value.extend_from_slice(b"Bearer ");
    value.extend_from_slice(jwt.expose());
    sensitive(Secret::new(value)).ok_or_else(|| "the JWT may not stand in a header".to_owned())
}

/// A header value that owns its secret: kept out of HPACK's tables and of `Debug`. `None`: it may not stand in
/// a header.
pub(super) fn sensitive(secret: Secret) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_maybe_shared(secret.into_bytes()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(id: &str, secret: &str, encoding: BasicEncoding) -> String {
        let value = basic(&Secret::from(id), &Secret::from(secret), encoding).unwrap();
        assert!(value.is_sensitive());
        let encoded = value.to_str().unwrap().strip_prefix("Basic ").unwrap().to_owned();
        String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap()
    }

    #[test]
    fn t106_basic_form_encodes_before_base64() {
        assert_eq!(decoded("svc a", "a:b +%é\"", BasicEncoding::Form), "svc+a:a%3Ab+%2B%25%C3%A9%22");
        let value = basic(&Secret::from("s6BhdRkqt3"), &Secret::from("gX1fBat3bV"), BasicEncoding::Form);
        // The example of RFC 6749 section 2.3.1.
        assert_eq!(value.unwrap(), "Basic czZCaGRSa3F0MzpnWDFmQmF0M2JW");
    }

    #[test]
    fn t106_basic_raw_sends_the_bytes_as_they_are() {
        assert_eq!(decoded("svc a", "a:b +%é\"", BasicEncoding::Raw), "svc a:a:b +%é\"");
    }

    #[test]
    fn the_value_is_not_shown() {
        let value = basic(&Secret::from("a"), &Secret::from("b"), BasicEncoding::Raw).unwrap();
        assert_eq!(format!("{value:?}"), "Sensitive");
    }
}
