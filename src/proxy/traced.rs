//! What of a request is traced, where `[tracing]` is on: the request itself, each attempt upstream, each wait for a token.
//! Names come from the config and from a short list of methods; nothing else of a request is in a span.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, Method};

use super::error::Code;
use super::snapshot::RouteService;
use crate::config::UpstreamTarget;
use crate::token::{Token, TokenError, TokenSlot};
use crate::trace::{self, Context, Span, SpanKind, TRACEPARENT, Tracer};
use crate::upstream::{Answer, Head, UpstreamError};

/// The span of a request.
pub(super) struct Traced {
    tracer: Arc<Tracer>,
    context: Context,
    parent: Option<[u8; 8]>,
    started: SystemTime,
    method: &'static str,
}

impl Traced {
    /// Reads the caller's context, and takes it out of the headers where it cannot be read.
    pub(super) fn begin(tracer: &Arc<Tracer>, method: &Method, headers: &mut HeaderMap) -> Self {
        let (context, parent) = tracer.join(headers);
        Self { tracer: Arc::clone(tracer), context, parent, started: trace::now(), method: known(method) }
    }

    /// The request has ended. `code`: an error of ours.
    pub(super) fn end(
        &self,
        listener: &str,
        route: Option<&RouteService>,
        status: u16,
        code: Option<&'static str>,
    ) {
        if !self.context.is_sampled() {
            return;
        }
        let name = match route {
            Some(route) => format!("{} {}", self.method, route.config.name),
            None => self.method.to_owned(),
        };
        let mut span = Span::new(self.context, self.parent, name, SpanKind::Server, self.started);
        span.set("http.request.method", self.method);
        span.set("http.response.status_code", status);
        span.set("bearerd.listener", listener.to_owned());
        if let Some(route) = route {
            span.set("http.route", route.config.name.to_string());
            name_route(&mut span, route);
        }
        span.error = match code {
            Some(code) => Some(Cow::Borrowed(code)),
            None if status == super::record::CALLER_LEFT => Some(Cow::Borrowed("caller_left")),
            None if status >= 500 => Some(Cow::Owned(status.to_string())),
            None => None,
        };
        self.tracer.end(span);
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
    context: Context,
    started: SystemTime,
    status: Option<u16>,
    /// Until it has ended: nobody waited for that.
    error: Option<Cow<'static, str>>,
}

impl<'a> StepSpan<'a> {
    fn new(call: &'a Traced, service: &'a RouteService, kind: SpanKind) -> Self {
        Self {
            call,
            service,
            kind,
            context: call.context.child(),
            started: trace::now(),
            status: None,
            error: Some(Cow::Borrowed("caller_left")),
        }
    }

    /// A route that edits the header itself has its way.
    fn announce(&self, head: &mut Head) {
        let edits = &self.service.request_edits;
        let edited =
            edits.remove.contains(&TRACEPARENT) || edits.set.iter().any(|(name, _)| *name == TRACEPARENT);
        if !edited {
            head.headers.insert(TRACEPARENT, self.context.header());
        }
    }

    /// The request is sent once more, because its pooled connection was dead: that is an attempt of its own.
    pub(super) fn again(&mut self, head: &mut Head) {
        self.error = Some(Cow::Borrowed("connection_terminated"));
        *self = StepSpan::new(self.call, self.service, self.kind);
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

    fn span(&self) -> Span {
        let (call, route) = (self.call, &self.service.config);
        let name = match self.kind {
            SpanKind::Client => format!("{} {}", call.method, route.name),
            SpanKind::Internal | SpanKind::Server => "wait for token".to_owned(),
        };
        let mut span = Span::new(self.context, Some(call.context.span_id), name, self.kind, self.started);
        if self.kind == SpanKind::Client {
            span.set("http.request.method", call.method);
            if let UpstreamTarget::Tcp { host, port, .. } = &route.upstream.target {
                span.set("server.address", host.clone());
                span.set("server.port", *port);
            }
        }
        if let Some(status) = self.status {
            span.set("http.response.status_code", status);
        }
        name_route(&mut span, self.service);
        span.error.clone_from(&self.error);
        span
    }
}

impl Drop for StepSpan<'_> {
    fn drop(&mut self) {
        if self.context.is_sampled() {
            self.call.tracer.end(self.span());
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
    let waiter = step.as_ref().map(|step| step.context).filter(Context::is_sampled);
    let outcome = Arc::clone(slot).newer_than(than, waiter).await;
    if let Some(mut step) = step {
        step.error = outcome.as_ref().err().map(|error| Cow::Borrowed(Code::from(error.kind).as_str()));
    }
    outcome
}
