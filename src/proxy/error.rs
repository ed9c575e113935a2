//! Every way that a request ends without the upstream's response: one code each, one status each.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::token::{TokenError, TokenErrorKind};
use crate::upstream::{UpstreamError, UpstreamErrorKind};

/// The codes of `docs/errors.md`: people script against them.
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
    TokenTimeout,
    UpstreamUnreachable,
    UpstreamInvalid,
    Overloaded,
    UpstreamTimeout,
}

impl Code {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 14] = [
        Self::BadRequest,
        Self::AuthorizationRefused,
        Self::CallerRefused,
        Self::NoRoute,
        Self::MethodRefused,
        Self::Misdirected,
        Self::Internal,
        Self::TokenRefused,
        Self::TokenUnavailable,
        Self::TokenTimeout,
        Self::UpstreamUnreachable,
        Self::UpstreamInvalid,
        Self::Overloaded,
        Self::UpstreamTimeout,
    ];

    /// As it stands in `code`.
    pub fn as_str(self) -> &'static str {
        self.row().1
    }

    pub fn status(self) -> StatusCode {
        self.row().0
    }

    /// As it stands in `title`.
    pub fn title(self) -> &'static str {
        self.row().2
    }

    /// The error type of RFC 9209 section 2.3, where the cause does not know better.
    pub fn proxy_status(self) -> &'static str {
        self.row().3
    }

    /// The one table.
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
                "No token can be had at the moment",
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
                "The upstream gave no valid answer",
                "http_protocol_error",
            ),
            Self::Overloaded => {
                (S::SERVICE_UNAVAILABLE, "overloaded", "A limit is reached", "connection_limit_reached")
            }
            Self::UpstreamTimeout => (
                S::GATEWAY_TIMEOUT,
                "upstream_timeout",
                "The upstream did not answer in time",
                "http_response_timeout",
            ),
        }
    }
}

/// A request that ends here.
#[derive(Debug, Clone)]
pub struct ProxyError {
    pub code: Code,
    /// What happened, to whom, what to do; for the caller to read. No secret is in it.
    pub detail: Box<str>,
    /// The same for operators, where they should know more than the caller: for the log, `/status` and the page.
    pub for_operators: Option<Box<str>>,
    pub proxy_status: &'static str,
    pub retry_after: Option<Duration>,
    /// The issuer refused us: gRPC status 16 instead of 14.
    pub issuer_refused: bool,
    /// Filled in where the route is known.
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
            route: None,
            issuer: None,
        }
    }

    /// What the log and `/status` say of it.
    pub(super) fn told(&self) -> &str {
        self.for_operators.as_deref().unwrap_or(&self.detail)
    }

    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(Code::BadRequest, detail)
    }
}

impl From<TokenErrorKind> for Code {
    fn from(kind: TokenErrorKind) -> Self {
        match kind {
            TokenErrorKind::Refused => Self::TokenRefused,
            TokenErrorKind::Unavailable => Self::TokenUnavailable,
            TokenErrorKind::Timeout => Self::TokenTimeout,
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

impl ProxyError {
    /// A request that `route`'s upstream gave no response to.
    pub(super) fn at_upstream(error: UpstreamError, route: &str) -> Self {
        let code = match error.kind {
            UpstreamErrorKind::Unreachable => Code::UpstreamUnreachable,
            UpstreamErrorKind::Invalid => Code::UpstreamInvalid,
            UpstreamErrorKind::Timeout => Code::UpstreamTimeout,
            UpstreamErrorKind::Full => Code::Overloaded,
            UpstreamErrorKind::CallerBody => Code::BadRequest,
        };
        let detail = match upstream_remedy(error.proxy_status) {
            Some((keys, more)) => format!("{}; see {keys} of route {route}{more}", error.detail),
            None => error.detail,
        };
        Self { proxy_status: error.proxy_status, ..Self::new(code, detail) }
    }
}

/// Which keys of the route decide about such a failure, and where else to look.
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
