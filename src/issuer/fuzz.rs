//! The entry points for fuzzing: an issuer's config with every default, and arbitrary responses to it.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::header::{CONTENT_TYPE, DATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use zeroize::Zeroizing;

use super::error::ErrorContext;
use super::exchange::{BodyError, IssuerResponse};
use super::request::form_encode;
use super::response::{SentRequest, judge};
use crate::clock::Moment;
use crate::config::client_auth::ClientSecretBasic;
use crate::config::{ClientAuth, HttpUrl, IssuerConfig, ResponseFormat, Scopes, Source, TokenEndpoint};
use crate::redact::Redactor;
use crate::secret::Secret;

/// The first byte selects the status, the format and the header fields; the rest is the body.
pub(super) fn response(bytes: &[u8]) {
    let (&choice, body) = bytes.split_first().unwrap_or((&0, &[]));
    let mut config = config();
    if choice & 1 == 1 {
        config.response.format = ResponseFormat::Form;
    }
    if choice & 64 == 64 {
        config.response.format = ResponseFormat::Text;
        config.response.token = String::new();
    }
    let status = match (choice >> 1) & 7 {
        0..=3 => StatusCode::OK,
        4 => StatusCode::BAD_REQUEST,
        5 => StatusCode::UNAUTHORIZED,
        6 => StatusCode::FOUND,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = if choice & 16 == 16 { Err(BodyError::CutOff) } else { Ok(Zeroizing::new(body.to_vec())) };
    let mut redactor = Redactor::default();
    redactor.add(&Secret::from("s3:c+r t"));
    let context = ErrorContext::new(&config, &url(), &redactor);
    let scopes = Scopes::from(["read"]);
    let response = IssuerResponse { status, headers: headers(choice), body };
    let at = Moment { boot: Duration::ZERO, wall: UNIX_EPOCH };
    match judge(response, &context, &SentRequest { at, scopes: &scopes }) {
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

/// A text that contains eight characters of a secret is not shown.
pub(super) fn masked(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.splitn(3, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (secret, steps, around) = (line(), line(), line());
    let secret: String = secret.chars().take(40).collect();
    let mut redactor = Redactor::default();
    redactor.add(&Secret::from(secret.as_str()));
    if let Some(shown) = redactor.show(around, SHOWN) {
        debug_assert!(shown.len() <= SHOWN && !shown.contains(char::is_control));
        debug_assert!(secret.len() < 8 || !shown.contains(secret.as_str()) || secret.trim().len() < 8);
    }
    let encoded = steps.bytes().take(4).fold(secret.clone(), |text, step| echoed(&text, step));
    let (before, after) = around.split_at_checked(around.len() / 2).unwrap_or_default();
    let echo = format!("{before} {encoded} {after}");
    let long = secret.split(char::is_whitespace).map(str::len).sum::<usize>() >= 16;
    // A text that is too long to be examined is not shown either.
    debug_assert!(!long || echo.len() > 4096 || redactor.show(&echo, SHOWN).is_none());
}

const SHOWN: usize = 512;
/// The number of ways in [`echoed`].
#[cfg(test)]
pub(crate) const STEPS: u8 = 14;

/// What a server may turn a text into when it echoes it.
pub(crate) fn echoed(text: &str, step: u8) -> String {
    let percent = |plain: fn(u8) -> bool| {
        let escaped = |byte| match plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        };
        text.bytes().map(escaped).collect::<String>()
    };
    let wrapped = |every, space| {
        let characters: Vec<char> = text.chars().collect();
        characters.chunks(every).map(String::from_iter).collect::<Vec<_>>().join(space)
    };
    match step % 14 {
        0 => percent(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)),
        1 => percent(|_| false),
        2 => {
            let mut form = Vec::new();
            form_encode(text.as_bytes(), &mut form);
            String::from_utf8(form).unwrap_or_default()
        }
        3 => {
            let quoted = serde_json::json!(text).to_string();
            quoted.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or_default().to_owned()
        }
        4 => text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect(),
        5 => {
            let html = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            html.replace('"', "&quot;").replace('\'', "&#39;")
        }
        6 => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        7 => text.bytes().map(|byte| format!("{byte:02X}")).collect(),
        8 => STANDARD.encode(text),
        9 => URL_SAFE_NO_PAD.encode(text),
        10 => format!("svc:{text}"),
        11 => format!("client_secret={text}&x=y"),
        12 => wrapped(7, "\r\n"),
        _ => wrapped(64, "\u{200b} "),
    }
}

/// `client_secret_basic` with every default.
pub(super) fn config() -> IssuerConfig {
    IssuerConfig {
        client_auth: ClientAuth::with_secret(&ClientSecretBasic, Source::literal("s3:c+r t")),
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
