//! The span of a token request, discovery included.

use std::borrow::Cow;
use std::time::SystemTime;

use crate::config::{IssuerConfig, TokenEndpoint};
use crate::trace::{SpanContext, SpanKind, Tracer};

/// Many requests may wait for one request, so it is a trace of its own, with a link to the first that did.
pub(super) fn request(
    tracer: &Tracer,
    issuer: &IssuerConfig,
    started: SystemTime,
    outcome: &'static str,
    status: Option<u16>,
    waiter: Option<&SpanContext>,
) {
    let mut span = tracer.start_root("token", SpanKind::Client, started, waiter.cloned());
    if !span.is_recorded() {
        return;
    }
    span.rename(format!("token {}", issuer.name));
    let (TokenEndpoint::Url(url) | TokenEndpoint::Discovery(url)) = &issuer.endpoint;
    span.set("server.address", url.host.clone());
    span.set("server.port", i64::from(url.port));
    span.set("bearerd.issuer", issuer.name.to_string());
    span.set("bearerd.outcome", outcome);
    if let Some(status) = status {
        span.set("http.response.status_code", i64::from(status));
    }
    if !matches!(outcome, "ok" | "superseded") {
        span.fail(Cow::Borrowed(outcome));
    }
}
