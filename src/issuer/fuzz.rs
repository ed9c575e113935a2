//! The way in for fuzzing: an issuer's config with every default, and arbitrary answers to it.

use std::collections::BTreeSet;
use std::time::UNIX_EPOCH;

use http::header::{CONTENT_TYPE, DATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use zeroize::Zeroizing;

use super::context::Context;
use super::exchange::{Answer, Lost};
use super::redact::Redactor;
use super::response::{Asked, judge};
use crate::config::{
    BasicEncoding, ClientAuth, HttpUrl, IssuerConfig, ResponseFormat, Source, TokenEndpoint,
};
use crate::secret::Secret;

/// The first byte chooses the status, the format and the headers, the rest is the body.
pub(super) fn response(bytes: &[u8]) {
    let (&choice, body) = bytes.split_first().unwrap_or((&0, &[]));
    let mut config = config();
    if choice & 1 == 1 {
        config.response.format = ResponseFormat::Form;
    }
    let status = match (choice >> 1) & 7 {
        0..=3 => StatusCode::OK,
        4 => StatusCode::BAD_REQUEST,
        5 => StatusCode::UNAUTHORIZED,
        6 => StatusCode::FOUND,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = if choice & 16 == 16 { Err(Lost::CutOff) } else { Ok(Zeroizing::new(body.to_vec())) };
    let mut redactor = Redactor::default();
    redactor.add_client(Some(&Secret::from("svc")), &Secret::from("s3:c+r t"));
    let context = Context::new(&config, &url(), &redactor);
    let scopes = BTreeSet::from(["read".to_owned()]);
    let answer = Answer { status, headers: headers(choice), body };
    match judge(answer, &context, &Asked { at: UNIX_EPOCH, scopes: &scopes }) {
        Ok((grant, _)) => {
            let token = grant.token.expose();
            debug_assert!((1..=16 * 1024).contains(&token.len()));
            debug_assert!(token.iter().all(|byte| (0x21..=0x7E).contains(byte)));
            debug_assert_eq!(grant.token_type, "bearer");
        }
        Err(error) => {
            let trace = error.trace.unwrap_or_default();
            debug_assert!(trace.len() <= 128 && trace.bytes().all(|byte| (0x20..=0x7E).contains(&byte)));
            for shown in [error.detail, error.code.unwrap_or_default(), trace] {
                debug_assert!(!shown.contains("s3:c+r t"));
                debug_assert!(!shown.contains(char::is_control));
            }
        }
    }
}

fn headers(choice: u8) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if choice & 32 == 32 {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    if choice & 128 == 128 {
        headers.insert(DATE, HeaderValue::from_static("Thu, 01 Jan 1970 01:00:00 GMT"));
        headers.insert("x-request-id", HeaderValue::from_static("7"));
    }
    headers
}

/// `client_secret_basic` with every default.
pub(super) fn config() -> IssuerConfig {
    IssuerConfig {
        client_auth: ClientAuth::Basic { secret: Source::literal("s3:c+r t"), encoding: BasicEncoding::Form },
        client_id: Some(Source::literal("svc")),
        ..IssuerConfig::with_defaults("corp", TokenEndpoint::Url(url()))
    }
}

pub(super) fn url() -> HttpUrl {
    HttpUrl {
        text: "https://idp.example/token?k=v".to_owned(),
        https: true,
        host: "idp.example".to_owned(),
        port: 443,
        authority: "idp.example".to_owned(),
        path_and_query: "/token?k=v".to_owned(),
    }
}
