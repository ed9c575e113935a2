//! Why an upstream gave no answer.

use std::error::Error;
use std::{fmt, io};

use crate::http1::BadHead;
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

/// A call that got no answer from its upstream.
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

    /// A connection that broke, or an answer that was none, as hyper tells it.
    pub(super) fn http2(error: &hyper::Error, authority: &str) -> Self {
        if is_caller_body(error) {
            return Self::caller_broke();
        }
        let broken = if error.is_parse() {
            Broken::NotHttp
        } else if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
            Broken::Closed
        } else {
            Broken::Off
        };
        Self::broken(broken, authority, error, error.source())
    }

    /// A connection that could not be read or written.
    pub(super) fn io(error: &io::Error, authority: &str) -> Self {
        Self::broken(Broken::Off, authority, error, Some(error))
    }

    /// An upstream that sends no more, and has not answered.
    pub(super) fn closed(authority: &str) -> Self {
        Self::invalid(Broken::Closed, authority, "")
    }

    pub(super) fn not_http(head: BadHead, authority: &str) -> Self {
        Self::invalid(Broken::NotHttp, authority, &format!(" ({})", head.0))
    }

    pub(super) fn caller_broke() -> Self {
        let detail = "the caller broke off in the middle of its request body";
        Self::new(UpstreamErrorKind::CallerBody, "http_request_error", detail)
    }

    fn broken(
        broken: Broken,
        authority: &str,
        error: &(dyn Error + 'static),
        cause: Option<&(dyn Error + 'static)>,
    ) -> Self {
        // With TLS 1.3 our client certificate is refused only after the handshake.
        if let Some(refused) = tls_cause(error, authority) {
            return Self::connect(refused);
        }
        let cause = cause.map(|cause| {
            let words = cause.to_string();
            // What an HTTP/2 peer says with its GOAWAY are its own words: it knows the token, and may repeat it.
            format!(" ({})", words.split(" (b\"").next().unwrap_or(&words))
        });
        Self::invalid(broken, authority, &cause.unwrap_or_default())
    }

    fn invalid(broken: Broken, authority: &str, cause: &str) -> Self {
        let (proxy_status, what) = match broken {
            Broken::NotHttp => ("http_protocol_error", "sent an answer that is not valid HTTP"),
            Broken::Closed => ("connection_terminated", "closed the connection before it answered"),
            Broken::Off => ("connection_terminated", "broke the connection before it answered"),
        };
        Self::new(UpstreamErrorKind::Invalid, proxy_status, format!("{authority} {what}{cause}"))
    }
}

/// How an upstream that was connected to gave no answer.
#[derive(Debug, Clone, Copy)]
enum Broken {
    NotHttp,
    Closed,
    Off,
}

/// Marks an error that came out of the caller's body, so that the upstream is not blamed for it.
#[derive(Debug)]
pub(super) struct CallerBroke {
    /// It did not break off: it sent nothing for `idle_timeout`.
    pub(super) stalled: bool,
}

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
