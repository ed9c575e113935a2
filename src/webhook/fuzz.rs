//! The entry point for fuzzing: arbitrary requests to a webhook.

use aws_lc_rs::hmac;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::signature::Signatures;
use crate::config::Source;

const HEADER: HeaderName = HeaderName::from_static("x-signature");
const SECRET: &str = "hunter2";

/// Lines: the signature, a JSON pointer; the rest is the body.
pub(super) fn call(bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |byte| *byte == b'\n');
    let mut part = || parts.next().unwrap_or_default();
    let (signature, pointer, body) = (part(), part(), part());
    if let Ok(value) = HeaderValue::from_bytes(signature)
        && let Ok(signatures) = Signatures::of(&HEADER, &HeaderMap::from_iter([(HEADER, value)]))
    {
        let taken = signatures.check(&[Source::literal(SECRET)], body).is_ok();
        let right = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), body);
        let right: String = right.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let said = String::from_utf8_lossy(signature).to_ascii_lowercase();
        debug_assert!(!taken || said.contains(&right), "a request is taken that nobody signed");
    }
    let Ok(pointer) = std::str::from_utf8(pointer) else { return };
    let Ok(payload) = super::payload(body) else { return };
    let only = [(pointer.to_owned(), "acme".to_owned())];
    debug_assert!(super::other_than(&payload, &only).is_none_or(|found| found == pointer));
    _ = super::time_at(&payload, pointer);
    match super::value_at(&payload, pointer) {
        Ok(value) => {
            let text = value.expose_str().unwrap_or_default();
            debug_assert!((1..=4096).contains(&text.len()) && !text.contains(char::is_control));
        }
        Err(refusal) => debug_assert!(!refusal.words().is_empty()),
    }
}
