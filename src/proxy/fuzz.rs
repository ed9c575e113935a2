//! The way in for fuzzing: what callers and upstreams write, taken apart here.

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::{dpop, query};
use crate::net::dpop::NONCE;
use crate::secret::Secret;

const NAME: &str = "access_token";
const TOKEN: &str = "eyJ/token+1";

/// Lines: a target, a challenge, a nonce, a `Location`.
pub(super) fn texts(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    target(line());
    challenge(line(), line());
    location(line());
}

fn target(line: &[u8]) {
    let Ok(target) = PathAndQuery::try_from(line) else { return };
    let Ok(put) = query::with_token(&target, NAME, &Secret::from(TOKEN)) else { return };
    debug_assert!(put.query().is_some_and(|query| query.starts_with("access_token=eyJ%2Ftoken%2B1")));
    debug_assert_eq!(put.path(), target.path());
    debug_assert_eq!(
        put.query().unwrap_or_default().split(['&', ';']).filter(|part| query::has(part, NAME)).count(),
        1
    );
}

fn challenge(line: &[u8], nonce: &[u8]) {
    let (Ok(line), Ok(nonce)) = (HeaderValue::from_bytes(line), HeaderValue::from_bytes(nonce)) else {
        return;
    };
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(header::WWW_AUTHENTICATE, line);
    headers.insert(NONCE, nonce);
    let asks = dpop::asks_for_nonce(&response);
    debug_assert!(!asks || dpop::nonce(response.headers()).is_some());
}

fn location(line: &[u8]) {
    let text = String::from_utf8_lossy(line);
    if let Some(clean) = query::scrubbed(&text, NAME, &Secret::from(TOKEN)) {
        debug_assert!(clean.len() < text.len(), "something was taken out");
    }
}
