//! Every way in which a request ends without the upstream's response: a code, a status, and the response for the caller.
//!
//! The response is problem+json (RFC 9457), the trailers-only form of gRPC, or on a token listener the JSON of RFC 6749.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use super::record::Record;
use super::response::{Content, METHODS};
use crate::clock::{Clock as _, SystemClock};
use crate::metrics::Failure;
use crate::token::{TokenError, TokenErrorKind};
use crate::upstream::{UpstreamError, UpstreamErrorKind};

/// An error of RFC 6749 section 5.2.
#[derive(Debug, Clone, Copy)]
pub struct OAuthError {
    /// The value of `error`.
    pub error: &'static str,
    pub status: StatusCode,
}

impl OAuthError {
    /// The response also has `WWW-Authenticate`.
    pub const UNAUTHENTICATED: Self = Self { error: "invalid_client", status: StatusCode::UNAUTHORIZED };
}

/// How bearerd says an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ErrorForm {
    /// problem+json (RFC 9457).
    Problem,
    /// The trailers-only form of gRPC.
    Grpc,
    /// RFC 6749 section 5.2, on a token listener.
    OAuth,
}

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// The codes of `docs/errors.md`. People write scripts that depend on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    BadRequest,
    AuthorizationRefused,
    CallerRefused,
    NoRoute,
    MethodRefused,
    Misdirected,
    Internal,
    TokenRefused,
    TokenUnavailable,
    TokenBudget,
    TokenTimeout,
    UpstreamUnreachable,
    UpstreamInvalid,
    Overloaded,
    UpstreamTimeout,
}

impl Code {
    /// All codes, in the order of the documentation.
    pub const ALL: [Self; 15] = [
        Self::BadRequest,
        Self::AuthorizationRefused,
        Self::CallerRefused,
        Self::NoRoute,
        Self::MethodRefused,
        Self::Misdirected,
        Self::Internal,
        Self::TokenRefused,
        Self::TokenUnavailable,
        Self::TokenBudget,
        Self::TokenTimeout,
        Self::UpstreamUnreachable,
        Self::UpstreamInvalid,
        Self::Overloaded,
        Self::UpstreamTimeout,
    ];

    /// The value of `code` in responses, logs and metrics.
    pub fn as_str(self) -> &'static str {
        self.row().1
    }

    pub fn status(self) -> StatusCode {
        self.row().0
    }

    /// The value of `title` in responses.
    pub fn title(self) -> &'static str {
        self.row().2
    }

    /// The error type of RFC 9209 section 2.3, unless the cause has a more precise one.
    pub fn proxy_status(self) -> &'static str {
        self.row().3
    }

    /// The one table: status, code, title, error type.
    fn row(self) -> (StatusCode, &'static str, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::BadRequest => {
                (S::BAD_REQUEST, "bad_request", "The request is malformed or ambiguous", "http_request_error")
            }
            Self::AuthorizationRefused => (
                S::BAD_REQUEST,
                "authorization_refused",
                "The caller may not send Authorization on this route",
                "http_request_denied",
            ),
            Self::CallerRefused => (
                S::FORBIDDEN,
                "caller_refused",
                "This caller may not use this listener",
                "http_request_denied",
            ),
            Self::NoRoute => {
                (S::NOT_FOUND, "no_route", "No route serves this request", "destination_not_found")
            }
            Self::MethodRefused => {
                (S::METHOD_NOT_ALLOWED, "method_refused", "This method is not proxied", "http_request_denied")
            }
            Self::Misdirected => {
                (S::MISDIRECTED_REQUEST, "misdirected", "This host is not served here", "http_request_denied")
            }
            Self::Internal => {
                (S::INTERNAL_SERVER_ERROR, "internal", "A fault of bearerd", "proxy_internal_error")
            }
            Self::TokenRefused => (
                S::BAD_GATEWAY,
                "token_refused",
                "The issuer gave no usable token",
                "proxy_internal_response",
            ),
            Self::TokenUnavailable => (
                S::SERVICE_UNAVAILABLE,
                "token_unavailable",
                "No token is available at the moment",
                "proxy_internal_response",
            ),
            Self::TokenBudget => (
                S::SERVICE_UNAVAILABLE,
                "token_budget",
                "The budget of token requests is spent",
                "proxy_internal_response",
            ),
            Self::TokenTimeout => {
                (S::GATEWAY_TIMEOUT, "token_timeout", "No token came in time", "proxy_internal_response")
            }
            Self::UpstreamUnreachable => (
                S::BAD_GATEWAY,
                "upstream_unreachable",
                "The upstream cannot be reached",
                "destination_unavailable",
            ),
            Self::UpstreamInvalid => (
                S::BAD_GATEWAY,
                "upstream_invalid",
                "The upstream sent no valid response",
                "http_protocol_error",
            ),
            Self::Overloaded => {
                (S::SERVICE_UNAVAILABLE, "overloaded", "A limit is reached", "connection_limit_reached")
            }
            Self::UpstreamTimeout => (
                S::GATEWAY_TIMEOUT,
                "upstream_timeout",
                "The upstream did not respond in time",
                "http_response_timeout",
            ),
        }
    }
}

/// The error of a request that ends in bearerd.
#[derive(Debug, Clone)]
pub struct ProxyError {
    pub code: Code,
    /// What happened, to whom, and what to do, for the caller. Contains no secret.
    pub detail: Box<str>,
    /// The same for operators, if they should know more than the caller: for the log, `/status` and the page.
    pub for_operators: Option<Box<str>>,
    /// The error type of RFC 9209 section 2.3.
    pub proxy_status: &'static str,
    pub retry_after: Option<Duration>,
    /// The issuer refused bearerd: gRPC status 16 instead of 14.
    pub issuer_refused: bool,
    /// What a token listener says, if the code alone does not say it.
    pub oauth: Option<OAuthError>,
    /// The methods of the resource, for 405.
    pub allow: &'static str,
    /// The status is 407, because the caller sent no `Proxy-Authorization` (RFC 9110 section 15.5.8). Many clients send it
    /// only then.
    pub authenticate: bool,
    /// Set once the route is known.
    pub route: Option<Arc<str>>,
    pub issuer: Option<Arc<str>>,
}

impl ProxyError {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into().into_boxed_str(),
            for_operators: None,
            proxy_status: code.proxy_status(),
            retry_after: None,
            issuer_refused: false,
            oauth: None,
            allow: METHODS,
            authenticate: false,
            route: None,
            issuer: None,
        }
    }

    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(Code::BadRequest, detail)
    }

    /// The error of a request to which `route`'s upstream sent no response.
    pub(super) fn at_upstream(error: UpstreamError, route: &str) -> Self {
        let code = Code::from(error.kind);
        let detail = match upstream_remedy(error.proxy_status) {
            Some((keys, more)) => format!("{}; see {keys} of route {route}{more}", error.detail),
            None => error.detail,
        };
        Self { proxy_status: error.proxy_status, ..Self::new(code, detail) }
    }

    /// The same as another error of a token listener.
    pub(super) fn oauth(self, error: OAuthError) -> Self {
        Self { oauth: Some(error), ..self }
    }

    fn status(&self) -> StatusCode {
        match self.oauth {
            _ if self.authenticate => StatusCode::PROXY_AUTHENTICATION_REQUIRED,
            Some(oauth) => oauth.status,
            None => self.code.status(),
        }
    }

    fn operator_detail(&self) -> &str {
        self.for_operators.as_deref().unwrap_or(&self.detail)
    }
}

impl From<UpstreamErrorKind> for Code {
    fn from(kind: UpstreamErrorKind) -> Self {
        match kind {
            UpstreamErrorKind::Unreachable => Self::UpstreamUnreachable,
            UpstreamErrorKind::Invalid => Self::UpstreamInvalid,
            UpstreamErrorKind::Timeout => Self::UpstreamTimeout,
            UpstreamErrorKind::Full => Self::Overloaded,
            UpstreamErrorKind::CallerBody => Self::BadRequest,
        }
    }
}

impl From<TokenErrorKind> for Code {
    fn from(kind: TokenErrorKind) -> Self {
        match kind {
            TokenErrorKind::Refused => Self::TokenRefused,
            TokenErrorKind::Unavailable => Self::TokenUnavailable,
            TokenErrorKind::Timeout => Self::TokenTimeout,
            TokenErrorKind::Budget => Self::TokenBudget,
            TokenErrorKind::Overloaded => Self::Overloaded,
        }
    }
}

impl From<TokenError> for ProxyError {
    fn from(error: TokenError) -> Self {
        let code = Code::from(error.kind);
        Self {
            retry_after: error.retry_after,
            issuer_refused: error.issuer_refused,
            ..Self::new(code, error.detail)
        }
    }
}

/// The keys of the route that such a failure depends on, and where else to look.
fn upstream_remedy(proxy_status: &str) -> Option<(&'static str, &'static str)> {
    Some(match proxy_status {
        "dns_error" => ("upstream", ", and this machine's DNS"),
        "connection_refused" => ("upstream", ""),
        "destination_ip_unroutable" | "connection_timeout" => (
            "upstream, proxy and connect_timeout",
            ", and whether this machine may go there (routes, firewall)",
        ),
        "tls_certificate_error" | "tls_protocol_error" => {
            ("upstream and tls (ca, server_name, certificate)", "")
        }
        "destination_unavailable" => ("proxy", ""),
        "proxy_configuration_error" => ("tls and proxy", ""),
        "http_protocol_error" => ("upstream and protocol", ", and the upstream's own log"),
        _ => return None,
    })
}

/// Counts and logs an error, and returns the response for it. `head_only`: the request's method is HEAD.
pub(super) fn fail(mut error: ProxyError, record: &mut Record, head_only: bool) -> Response<Content> {
    let code = error.code.as_str();
    record.code = Some(code);
    record.metrics().failed(code);
    if let Some(route) = &record.route {
        error.route = Some(Arc::clone(&route.config.name));
        error.issuer = route.issuer().cloned();
    }
    if let Some(service) = &record.token_service {
        error.issuer = Some(Arc::clone(&service.issuer.name));
    }
    let is_server_error = error.status().is_server_error();
    if is_server_error {
        log_failure(&error, record);
    }
    // No route tells where a CONNECT failed.
    if !is_server_error || record.is_connect() {
        record.log_refusal(error.operator_detail());
    }
    record.note_failure(Failure {
        at: SystemClock.wall(),
        status: error.status().as_u16(),
        code,
        detail: error.operator_detail().to_owned(),
        request_id: record.request_id().to_owned(),
    });
    if record.form == ErrorForm::Grpc && is_server_error {
        record.metrics().note_grpc_failure();
    }
    let response = error_response(&error, record.form, record.request_id());
    if head_only { without_body(response) } else { response }
}

/// Logs one warning a minute for each route (or issuer of a token listener) and code, and every fault of bearerd.
fn log_failure(error: &ProxyError, record: &Record) {
    let request_id = record.request_id();
    let (route, issuer) = (error.route.as_deref(), error.issuer.as_deref());
    let (code, detail) = (error.code.as_str(), &error.detail);
    let due = if error.code == Code::Internal { Some(0) } else { record.warning_due(error.code) };
    match due {
        Some(more) => {
            let more = (more > 0).then_some(more);
            tracing::warn!(
                event = "request.failed",
                request_id,
                route,
                issuer,
                code,
                more,
                detail,
                "request failed"
            );
        }
        None => {
            tracing::debug!(
                event = "request.failed",
                request_id,
                route,
                issuer,
                code,
                detail,
                "request failed"
            );
        }
    }
}

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

fn error_response(error: &ProxyError, form: ErrorForm, request_id: &str) -> Response<Content> {
    let mut response = match form {
        ErrorForm::Problem => problem_response(error, request_id),
        ErrorForm::Grpc => grpc_trailers_only(error),
        ErrorForm::OAuth => oauth_response(error),
    };
    let headers = response.headers_mut();
    headers.insert(PROXY_STATUS, proxy_status(error));
    if error.code == Code::MethodRefused {
        // Required by RFC 9110 section 15.5.6.
        headers.insert(header::ALLOW, HeaderValue::from_static(error.allow));
    }
    if error.authenticate {
        headers.insert(header::PROXY_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"bearerd\""));
    }
    if let Some(seconds) = retry_after(error) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The response to HEAD: it keeps the length and loses the body. hyper does this over HTTP/1 only, and a body over HTTP/2
/// would be an error.
pub(super) fn without_body(mut response: Response<Content>) -> Response<Content> {
    if let Content::Full(body) = response.body() {
        let length = HeaderValue::from(body.len());
        response.headers_mut().insert(header::CONTENT_LENGTH, length);
    }
    response.map(|_| Content::Empty)
}

/// Whether a request is gRPC, whose clients do not read problem documents.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return false };
    match value.as_bytes().strip_prefix(b"application/grpc") {
        Some(rest) => matches!(rest.first(), None | Some(b'+' | b';' | b' ')),
        None => false,
    }
}

fn problem_response(error: &ProxyError, request_id: &str) -> Response<Content> {
    let code = error.code.as_str();
    let problem = Problem {
        r#type: format!("urn:bearerd:error:{code}"),
        title: error.code.title(),
        status: error.status().as_u16(),
        detail: &error.detail,
        code,
        route: error.route.as_deref(),
        issuer: error.issuer.as_deref(),
        request_id,
    };
    json_response(error, "application/problem+json", &problem)
}

fn json_response(
    error: &ProxyError,
    content_type: &'static str,
    members: &impl Serialize,
) -> Response<Content> {
    let mut body = serde_json::to_vec(members).expect("text and a number can be written");
    body.push(b'\n');
    let mut response = Response::new(Content::Full(body.into()));
    *response.status_mut() = error.status();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The members of an error of RFC 6749 section 5.2.
#[derive(Serialize)]
struct OAuthMembers<'a> {
    error: &'a str,
    error_description: String,
}

fn oauth_response(error: &ProxyError) -> Response<Content> {
    let members = OAuthMembers { error: oauth_error(error), error_description: described(&error.detail) };
    let mut response = json_response(error, "application/json", &members);
    let headers = response.headers_mut();
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    if error.status() == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"bearerd\""));
    }
    response
}

/// The nearest code of RFC 6749 section 5.2. It has none for a failure of the server, so these are those of section 4.1.2.1.
fn oauth_error(error: &ProxyError) -> &'static str {
    if let Some(oauth) = error.oauth {
        return oauth.error;
    }
    match error.code {
        Code::BadRequest
        | Code::AuthorizationRefused
        | Code::NoRoute
        | Code::MethodRefused
        | Code::Misdirected => "invalid_request",
        Code::CallerRefused => "invalid_client",
        Code::TokenUnavailable | Code::TokenBudget | Code::TokenTimeout | Code::Overloaded => {
            "temporarily_unavailable"
        }
        Code::Internal
        | Code::TokenRefused
        | Code::UpstreamUnreachable
        | Code::UpstreamInvalid
        | Code::UpstreamTimeout => "server_error",
    }
}

/// A text with only the characters that `error_description` may have (RFC 6749 section 5.2).
fn described(detail: &str) -> String {
    let allowed = |char| match char {
        '"' => '\'',
        '\\' => '/',
        ' '..='~' => char,
        _ => '?',
    };
    detail.replace('…', "...").chars().map(allowed).collect()
}

/// gRPC's "Trailers-Only": status and message are in the head, and there is no body.
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

/// Whole seconds, at least one. Every 503 has a value.
fn retry_after(error: &ProxyError) -> Option<u64> {
    match (error.retry_after, error.code) {
        (Some(wait), _) => Some(wait.as_millis().div_ceil(1000).max(1).try_into().unwrap_or(u64::MAX)),
        (None, Code::TokenUnavailable | Code::TokenBudget | Code::Overloaded) => Some(1),
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
    fn error_descriptions_have_only_the_characters_of_rfc_6749() {
        assert_eq!(described("a \"b\" \\ c… é\n~"), "a 'b' / c... ??~");
    }

    #[test]
    fn grpc_is_recognized_by_its_content_type() {
        let is = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
            is_grpc(&headers)
        };
        assert!(is("application/grpc") && is("application/grpc+proto") && is("application/grpc;x=1"));
        assert!(!is("application/grpcish") && !is("application/json"));
    }
}
