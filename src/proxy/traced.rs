//! What of a request is traced, where `[tracing]` is on: the request itself, each attempt upstream, each wait for a token.
//! Names come from the config and from a short list of methods; nothing else of a request is in a span.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderMap, Method};
use opentelemetry::Context;

use super::error::Code;
use super::snapshot::RouteService;
use crate::config::UpstreamTarget;
use crate::token::{Token, TokenError, TokenSlot};
use crate::trace::{Parent, Span, SpanKind, TRACEPARENT, Tracer, traceparent};
use crate::upstream::{Answer, Head, UpstreamError};

/// The span of a request.
pub(super) struct Traced {
    tracer: Arc<Tracer>,
    span: Span,
    /// What the spans of its steps begin from.
    below: Context,
    /// A flag of its trace id ([`Parent::random`]).
    random: bool,
    method: &'static str,
}

impl Traced {
    /// Reads the caller's context, and takes it out of the headers where it cannot be read.
    pub(super) fn begin(tracer: &Arc<Tracer>, method: &Method, headers: &mut HeaderMap) -> Self {
        let Parent { context, random } = Parent::take_from(headers);
        let method = known(method);
        let span = tracer.start_below(&context, method, SpanKind::Server);
        Self { tracer: Arc::clone(tracer), below: span.below(), span, random, method }
    }

    /// The request has ended. `code`: an error of ours.
    pub(super) fn end(
        mut self,
        listener: &str,
        route: Option<&RouteService>,
        status: u16,
        code: Option<&'static str>,
    ) {
        let span = &mut self.span;
        if !span.is_recorded() {
            return;
        }
        span.set("http.request.method", self.method);
        span.set("http.response.status_code", i64::from(status));
        span.set("bearerd.listener", listener.to_owned());
        if let Some(route) = route {
            span.rename(format!("{} {}", self.method, route.config.name));
            span.set("http.route", route.config.name.to_string());
            name_route(span, route);
        }
        let error = match code {
            Some(code) => Some(Cow::Borrowed(code)),
            None if status == super::record::CALLER_LEFT => Some(Cow::Borrowed("caller_left")),
            None if status >= 500 => Some(Cow::Owned(status.to_string())),
            None => None,
        };
        error.into_iter().for_each(|error| span.fail(error));
    }

    /// An attempt upstream begins, and tells the upstream of its span.
    pub(super) fn attempt<'a>(&'a self, service: &'a RouteService, head: &mut Head) -> Box<StepSpan<'a>> {
        let step = StepSpan::new(self, service, SpanKind::Client);
        step.announce(head);
        Box::new(step)
    }
}

/// Semantic conventions for HTTP: other methods than these go by one name.
fn known(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "QUERY" => "QUERY",
        _ => "_OTHER",
    }
}

fn name_route(span: &mut Span, route: &RouteService) {
    span.set("bearerd.route", route.config.name.to_string());
    if let Some(issuer) = route.issuer() {
        span.set("bearerd.issuer", issuer.to_string());
    }
}

/// A part of a request; recorded when it is dropped, so that one that nobody waits for any more is too.
pub(super) struct StepSpan<'a> {
    call: &'a Traced,
    service: &'a RouteService,
    kind: SpanKind,
    span: Span,
    status: Option<u16>,
    /// Until it has ended: nobody waited for that.
    error: Option<Cow<'static, str>>,
}

impl<'a> StepSpan<'a> {
    fn new(call: &'a Traced, service: &'a RouteService, kind: SpanKind) -> Self {
        let name = if kind == SpanKind::Client { call.method } else { "wait for token" };
        let span = call.tracer.start_below(&call.below, name, kind.clone());
        let error = Some(Cow::Borrowed("caller_left"));
        Self { call, service, kind, span, status: None, error }
    }

    /// A route that edits the header itself has its way.
    fn announce(&self, head: &mut Head) {
        let edits = &self.service.request_edits;
        let edited =
            edits.remove.contains(&TRACEPARENT) || edits.set.iter().any(|(name, _)| *name == TRACEPARENT);
        if !edited {
            head.headers.insert(TRACEPARENT, traceparent(self.span.context(), self.call.random));
        }
    }

    /// The request is sent once more, because its pooled connection was dead: that is an attempt of its own.
    pub(super) fn again(&mut self, head: &mut Head) {
        self.error = Some(Cow::Borrowed("connection_terminated"));
        *self = StepSpan::new(self.call, self.service, self.kind.clone());
        self.announce(head);
    }

    pub(super) fn answered(mut self, answer: &Result<Answer, UpstreamError>) {
        self.error = match answer {
            Ok(answer) => {
                let status = answer.response.status().as_u16();
                self.status = Some(status);
                (status >= 400).then(|| Cow::Owned(status.to_string()))
            }
            Err(error) => Some(Cow::Borrowed(error.proxy_status)),
        };
    }

    fn describe(&mut self) {
        let (span, call, route) = (&mut self.span, self.call, &self.service.config);
        if self.kind == SpanKind::Client {
            span.rename(format!("{} {}", call.method, route.name));
            span.set("http.request.method", call.method);
            if let UpstreamTarget::Tcp { host, port, .. } = &route.upstream.target {
                span.set("server.address", host.clone());
                span.set("server.port", i64::from(*port));
            }
        }
        if let Some(status) = self.status {
            span.set("http.response.status_code", i64::from(status));
        }
        name_route(span, self.service);
        self.error.take().into_iter().for_each(|error| span.fail(error));
    }
}

impl Drop for StepSpan<'_> {
    fn drop(&mut self) {
        if self.span.is_recorded() {
            self.describe();
        }
    }
}

/// Waits for a token newer than that generation.
pub(super) async fn token(
    slot: &Arc<TokenSlot>,
    than: u64,
    service: &RouteService,
    call: Option<&Traced>,
) -> Result<Arc<Token>, TokenError> {
    let step = call.map(|call| StepSpan::new(call, service, SpanKind::Internal));
    let recorded = step.as_ref().map(|step| &step.span).filter(|span| span.is_recorded());
    let waiter = recorded.map(|span| span.context().clone());
    let outcome = Arc::clone(slot).newer_than(than, waiter).await;
    if let Some(mut step) = step {
        step.error = outcome.as_ref().err().map(|error| Cow::Borrowed(Code::from(error.kind).as_str()));
    }
    outcome
}
