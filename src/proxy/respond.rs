//! From a [`ProxyError`] to the response: problem+json (RFC 9457), or gRPC's trailers-only form.

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use serde::Serialize;

use super::body::Content;
use super::error::{Code, ProxyError};
use crate::config::RouteConfig;

const PROXY_STATUS: http::HeaderName = http::HeaderName::from_static("proxy-status");
/// What a route without `methods` takes as far as we know; the rest is its upstream's business.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// The members of an error's body, in this order.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    route: Option<&'a str>,
    issuer: Option<&'a str>,
    request_id: &'a str,
}

/// The answer for an error. `request_id` is what the log has.
pub(super) fn respond(error: &ProxyError, grpc: bool, request_id: &str) -> Response<Content> {
    let mut response = if grpc { grpc_trailers_only(error) } else { problem(error, request_id) };
    let headers = response.headers_mut();
    headers.insert(PROXY_STATUS, proxy_status(error));
    if error.code == Code::MethodRefused {
        // RFC 9110 section 15.5.6 wants it.
        headers.insert(header::ALLOW, HeaderValue::from_static(METHODS));
    }
    if let Some(seconds) = retry_after(error) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The same to HEAD: the length stands, the body does not. hyper sees to that over HTTP/1 alone, and a body over HTTP/2
/// is an error there.
pub(super) fn without_body(mut response: Response<Content>) -> Response<Content> {
    if let Content::Full(body) = response.body() {
        let length = HeaderValue::from(body.len());
        response.headers_mut().insert(header::CONTENT_LENGTH, length);
    }
    response.map(|_| Content::Empty)
}

/// The response to an OPTIONS that ends here: of the server as a whole, or with no hop left for its route.
pub(super) fn options(route: Option<&RouteConfig>) -> Response<Content> {
    let mut response = Response::new(Content::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    let methods = route.and_then(|route| route.methods.as_ref()).map(|methods| {
        let methods: Vec<&str> = methods.iter().map(Method::as_str).collect();
        HeaderValue::try_from(methods.join(", ")).expect("methods are tokens")
    });
    response.headers_mut().insert(header::ALLOW, methods.unwrap_or(HeaderValue::from_static(METHODS)));
    response
}

/// Whether a request speaks gRPC, and so cannot read a problem document.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return false };
    match value.as_bytes().strip_prefix(b"application/grpc") {
        Some(rest) => matches!(rest.first(), None | Some(b'+' | b';' | b' ')),
        None => false,
    }
}

fn problem(error: &ProxyError, request_id: &str) -> Response<Content> {
    let code = error.code.as_str();
    let problem = Problem {
        r#type: format!("urn:bearerd:error:{code}"),
        title: error.code.title(),
        status: error.code.status().as_u16(),
        detail: &error.detail,
        code,
        route: error.route.as_deref(),
        issuer: error.issuer.as_deref(),
        request_id,
    };
    let mut body = serde_json::to_vec(&problem).expect("text and a number can be written");
    body.push(b'\n');
    let mut response = Response::new(Content::Full(body.into()));
    *response.status_mut() = error.code.status();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Status and message stand in the head, and there is no body: gRPC's "Trailers-Only".
fn grpc_trailers_only(error: &ProxyError) -> Response<Content> {
    let status = if error.issuer_refused { "16" } else { "14" };
    let mut response = Response::new(Content::Empty);
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static(status));
    headers.insert("grpc-message", HeaderValue::from_static(error.code.as_str()));
    response
}

fn proxy_status(error: &ProxyError) -> HeaderValue {
    let text = format!("bearerd; error={}; details=\"{}\"", error.proxy_status, error.code.as_str());
    HeaderValue::try_from(text).expect("error types and codes are words")
}

/// Whole seconds, at least one; every 503 says when to come again.
fn retry_after(error: &ProxyError) -> Option<u64> {
    match (error.retry_after, error.code) {
        (Some(wait), _) => Some(wait.as_millis().div_ceil(1000).max(1).try_into().unwrap_or(u64::MAX)),
        (None, Code::TokenUnavailable | Code::Overloaded) => Some(1),
        (None, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn codes_are_unique() {
        let codes: std::collections::HashSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(codes.len(), Code::ALL.len());
    }

    #[test]
    fn retry_after_is_rounded_up_to_whole_seconds() {
        let mut error = ProxyError::new(Code::TokenUnavailable, "x");
        assert_eq!(retry_after(&error), Some(1));
        error.retry_after = Some(Duration::from_millis(1_001));
        assert_eq!(retry_after(&error), Some(2));
        error.retry_after = Some(Duration::ZERO);
        assert_eq!(retry_after(&error), Some(1));
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        let is = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
            is_grpc(&headers)
        };
        assert!(is("application/grpc") && is("application/grpc+proto") && is("application/grpc;x=1"));
        assert!(!is("application/grpcish") && !is("application/json"));
    }
}
