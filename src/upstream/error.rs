//! Why an upstream gave no response.

use std::error::Error;
use std::fmt;

use super::origin::Origin;
use crate::net::{ConnectError, ConnectErrorKind, tls_cause};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamErrorKind {
    /// No connection: DNS, TCP, TLS, the egress proxy.
    Unreachable,
    /// It was connected to, and sent no HTTP answer.
    Invalid,
    /// Connecting or answering took too long.
    Timeout,
    /// This machine has no room for another connection.
    Full,
    /// The caller broke off, or stopped sending, in the middle of its body.
    CallerBody,
}

/// A request that got no response from its upstream.
#[derive(Debug, Clone)]
pub struct UpstreamError {
    pub kind: UpstreamErrorKind,
    /// What happened, and to whom.
    pub detail: String,
    /// The error type of RFC 9209 section 2.3.
    pub proxy_status: &'static str,
}

impl UpstreamError {
    pub(super) fn new(
        kind: UpstreamErrorKind,
        proxy_status: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self { kind, detail: detail.into(), proxy_status }
    }

    pub(super) fn connect(error: ConnectError) -> Self {
        let (kind, proxy_status) = match error.kind {
            ConnectErrorKind::Dns => (UpstreamErrorKind::Unreachable, "dns_error"),
            ConnectErrorKind::Refused => (UpstreamErrorKind::Unreachable, "connection_refused"),
            ConnectErrorKind::Unreachable => (UpstreamErrorKind::Unreachable, "destination_ip_unroutable"),
            ConnectErrorKind::Timeout => (UpstreamErrorKind::Timeout, "connection_timeout"),
            ConnectErrorKind::Certificate => (UpstreamErrorKind::Unreachable, "tls_certificate_error"),
            ConnectErrorKind::Tls => (UpstreamErrorKind::Unreachable, "tls_protocol_error"),
            ConnectErrorKind::Proxy => (UpstreamErrorKind::Unreachable, "destination_unavailable"),
            ConnectErrorKind::Settings => (UpstreamErrorKind::Unreachable, "proxy_configuration_error"),
            ConnectErrorKind::Full => (UpstreamErrorKind::Full, "connection_limit_reached"),
        };
        Self { kind, detail: error.message, proxy_status }
    }

    /// A connection that broke, or a response that is none, as hyper tells it.
    pub(super) fn http(error: &hyper::Error, origin: &Origin) -> Self {
        let authority = origin.name();
        if is_caller_body(error) {
            let detail = "the caller broke off in the middle of its request body";
            return Self::new(UpstreamErrorKind::CallerBody, "http_request_error", detail);
        }
        // With TLS 1.3 our client certificate is refused only after the handshake.
        if let Some(refused) = tls_cause(error, authority) {
            return Self::connect(refused);
        }
        let (proxy_status, what) = if error.is_parse() {
            let hint = if origin.is_plain() { "; is it https://?" } else { "" };
            (NOT_HTTP, format!("sent a response that is not valid HTTP{hint}"))
        } else if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
            ("connection_terminated", "closed the connection before it answered".to_owned())
        } else {
            ("connection_terminated", "broke the connection before it answered".to_owned())
        };
        let cause = error.source().map(|cause| {
            let words = cause.to_string();
            // What an HTTP/2 peer says with its GOAWAY are its own words: it knows the token, and may repeat it.
            format!(" ({})", words.split(" (b\"").next().unwrap_or(&words))
        });
        let detail = format!("{authority} {what}{}", cause.unwrap_or_default());
        Self::new(UpstreamErrorKind::Invalid, proxy_status, detail)
    }

    /// The connection ended before there was a request on it.
    pub(super) fn closed(authority: &str) -> Self {
        let detail = format!("{authority} closed the connection before it answered");
        Self::new(UpstreamErrorKind::Invalid, "connection_terminated", detail)
    }

    /// HTTP_1_1_REQUIRED, where the route allows HTTP/2 alone.
    pub(super) fn needs_http1(authority: &str) -> Self {
        let detail = format!(
            "{authority} refuses HTTP/2 and wants HTTP/1.1 (HTTP_1_1_REQUIRED); the route says protocol = \"http2\": set \
             protocol = \"auto\" or \"http1\""
        );
        Self::new(UpstreamErrorKind::Invalid, NOT_HTTP, detail)
    }

    /// The connection ended, and with it the request; not that the response cannot be read, or the caller's fault.
    pub(super) fn is_connections_end(&self) -> bool {
        self.kind == UpstreamErrorKind::Invalid && self.proxy_status != NOT_HTTP
    }
}

const NOT_HTTP: &str = "http_protocol_error";

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

/// Marks an error that came out of the caller's body, so that the upstream is not blamed for it.
#[derive(Debug)]
pub(super) struct CallerBroke;

impl fmt::Display for CallerBroke {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the caller broke off")
    }
}

impl Error for CallerBroke {}

fn is_caller_body(error: &hyper::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<CallerBroke>() {
            return true;
        }
        cause = error.source();
    }
    false
}
