//! The span of a token request, discovery included.

use std::borrow::Cow;
use std::time::SystemTime;

use crate::config::{IssuerConfig, TokenEndpoint};
use crate::trace::{Context, Span, SpanKind, Tracer};

/// Many requests may wait for one request, so it is a trace of its own, with a link to the first that did.
pub(super) fn request(
    tracer: &Tracer,
    issuer: &IssuerConfig,
    started: SystemTime,
    outcome: &'static str,
    status: Option<u16>,
    waiter: Option<&Context>,
) {
    let context = tracer.root();
    if !context.is_sampled() {
        return;
    }
    let mut span = Span::new(context, None, format!("token {}", issuer.name), SpanKind::Client, started);
    span.link = waiter.copied();
    let (TokenEndpoint::Url(url) | TokenEndpoint::Discovery(url)) = &issuer.endpoint;
    span.set("server.address", url.host.clone());
    span.set("server.port", url.port);
    span.set("bearerd.issuer", issuer.name.to_string());
    span.set("bearerd.outcome", outcome);
    if let Some(status) = status {
        span.set("http.response.status_code", status);
    }
    if !matches!(outcome, "ok" | "superseded") {
        span.error = Some(Cow::Borrowed(outcome));
    }
    tracer.end(span);
}
