//! What the headers of an answer say of it.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};

use super::lifetime;

/// When the issuer wants to be asked again.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    lifetime::retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?, now)
}

/// The first content coding that is not `identity`.
pub(super) fn coding(headers: &HeaderMap) -> Option<String> {
    headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .map(|coding| String::from_utf8_lossy(coding.trim_ascii()).into_owned())
        .find(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"))
}

/// Its content type says that it is JSON.
pub(super) fn called_json(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|kind| kind.ends_with("/json") || kind.ends_with("+json"))
}

/// It is a web page, by its content type or its looks.
pub(super) fn is_html(body: &[u8], headers: &HeaderMap) -> bool {
    let named =
        media_type(headers).is_some_and(|kind| kind == "text/html" || kind == "application/xhtml+xml");
    named || body.trim_ascii_start().starts_with(b"<")
}

fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next()?.trim().to_ascii_lowercase())
}
