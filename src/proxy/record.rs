//! What bearerd counts, logs, and traces about a request: once, when its response has ended.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Frame;
use opentelemetry::Context;

use super::admit::Caller;
use super::error::{Code, ErrorForm};
use super::response::BodyError;
use super::token_endpoint::TokenService;
use super::{Http2Request, RouteService};
use crate::config::UpstreamTarget;
use crate::inbound::{InFlight, OWN_STALL_MS, Outgoing};
use crate::metrics::{Failure, ListenerMetrics, RouteMetrics};
use crate::token::{Token, TokenError, TokenSlot};
use crate::trace::{Parent, Span, SpanKind, TRACEPARENT, Tracer, traceparent};
use crate::upstream::{Head, ResponseBody, UpstreamError};

/// The status of a request whose caller left before there was a response. It is never sent.
const CALLER_LEFT: u16 = 499;

/// One request, from its head to the end of its response.
pub(super) struct Record {
    pub(super) request_id: HeaderValue,
    pub(super) form: ErrorForm,
    pub(super) route: Option<Arc<RouteService>>,
    /// The issuer that a request of a token listener is for.
    pub(super) token_service: Option<Arc<TokenService>>,
    pub(super) status: StatusCode,
    /// The code of bearerd's own error.
    pub(super) code: Option<&'static str>,
    pub(super) upstream_took: Option<Duration>,
    /// `None` over HTTP/1.
    pub(super) http2: Option<Http2Request>,
    /// A CONNECT that was opened. The requests inside it are counted, and not the CONNECT.
    pub(super) opened: bool,
    /// `None` if `[tracing]` is off.
    pub(super) trace: Option<Box<RequestTrace>>,
    _in_flight: InFlight,
    caller: Arc<Caller>,
    started: Instant,
    unrouted: Arc<RouteMetrics>,
    /// `None` if the listener is no token listener.
    token_listener: Option<Arc<ListenerMetrics>>,
    /// `None` if the access log is off.
    access: Option<AccessLine>,
    sent: u64,
    broken: bool,
    /// The response has begun.
    responding: bool,
    /// The response is bearerd's own.
    own: bool,
    /// See [`Outgoing::held`].
    held: bool,
    /// The connection has a frame and has not requested the next one.
    frame_out: bool,
}

/// What the access log says about a request. Never the query or the value of a header field.
#[derive(Debug)]
struct AccessLine {
    method: Method,
    /// Of CONNECT, the host and the port.
    path: String,
    /// Why bearerd refused the request, or could not open the CONNECT. Other failures with a 5xx status have a line of their own.
    detail: Option<Box<str>>,
}

impl Record {
    pub(super) fn begin(
        caller: &Arc<Caller>,
        request_id: HeaderValue,
        form: ErrorForm,
        unrouted: &Arc<RouteMetrics>,
    ) -> Self {
        caller.activity.requests.fetch_add(1, Ordering::Relaxed);
        Self {
            _in_flight: InFlight::new(&caller.activity),
            request_id,
            form,
            route: None,
            token_service: None,
            status: StatusCode::from_u16(CALLER_LEFT).expect("499 has three digits"),
            code: None,
            upstream_took: None,
            http2: None,
            opened: false,
            trace: None,
            caller: Arc::clone(caller),
            started: Instant::now(),
            unrouted: Arc::clone(unrouted),
            token_listener: None,
            access: None,
            sent: 0,
            broken: false,
            responding: false,
            own: true,
            held: false,
            frame_out: false,
        }
    }

    pub(super) fn request_id(&self) -> &str {
        self.request_id.to_str().expect("an acceptable ID, or hexadecimal digits")
    }

    /// The request is for a token listener.
    pub(super) fn on_token_listener(&mut self, metrics: &Arc<ListenerMetrics>) {
        self.form = ErrorForm::OAuth;
        self.token_listener = Some(Arc::clone(metrics));
    }

    pub(super) fn log_access<B>(&mut self, request: &Request<B>) {
        let uri = request.uri();
        let path = match (request.method(), uri.host()) {
            // It has no path. Its authority could contain a password.
            (&Method::CONNECT, Some(host)) => match uri.port() {
                Some(port) => format!("{host}:{port}"),
                None => host.to_owned(),
            },
            _ => uri.path().to_owned(),
        };
        self.access = Some(AccessLine { method: request.method().clone(), path, detail: None });
    }

    /// The access log is on, and the request is a CONNECT.
    pub(super) fn is_connect(&self) -> bool {
        self.access.as_ref().is_some_and(|access| access.method == Method::CONNECT)
    }

    pub(super) fn log_refusal(&mut self, detail: &str) {
        if let Some(access) = &mut self.access {
            access.detail = Some(detail.into());
        }
    }

    /// The metrics of the route, or of requests without a route.
    pub(super) fn metrics(&self) -> &RouteMetrics {
        self.route.as_ref().map_or(&self.unrouted, |route| &route.metrics)
    }

    /// Remembers an error of bearerd's own.
    pub(super) fn note_failure(&self, failure: Failure) {
        match &self.token_listener {
            Some(listener) => listener.note_failure(failure),
            None => self.metrics().note_failure(failure),
        }
    }

    /// See [`RouteService::warning_due`].
    pub(super) fn warning_due(&self, code: Code) -> Option<u64> {
        match (&self.route, &self.token_service) {
            (Some(route), _) => route.warning_due(code),
            (None, Some(service)) => service.warning_due(code),
            (None, None) => Some(0),
        }
    }

    /// A response begins: bearerd's own, or the upstream's.
    pub(super) fn begin_response(&mut self, own: bool) {
        self.own = own;
        let limit_ms = match &self.route {
            Some(route) if !own => {
                route.config.idle_timeout.map_or(0, |limit| limit.as_millis().try_into().unwrap_or(u64::MAX))
            }
            Some(_) | None => OWN_STALL_MS,
        };
        self.caller.activity.respond_within(limit_ms);
        self.outgoing().open.fetch_add(1, Ordering::Relaxed);
        self.responding = true;
        // An HTTP/2 caller that opens no window takes nothing.
        self.set_held(true);
    }

    fn outgoing(&self) -> &Outgoing {
        if self.own { &self.caller.activity.own } else { &self.caller.activity.passed }
    }

    /// Whether the response waits for the caller.
    fn set_held(&mut self, held: bool) {
        if std::mem::replace(&mut self.held, held) != held {
            let count = &self.outgoing().held;
            if held {
                count.fetch_add(1, Ordering::Relaxed)
            } else {
                count.fetch_sub(1, Ordering::Relaxed)
            };
        }
    }

    /// The connection requests a frame, so it has room again.
    pub(super) fn frame_requested(&mut self) {
        if std::mem::replace(&mut self.frame_out, false) {
            self.outgoing().taken.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What the connection got.
    pub(super) fn frame_polled(&mut self, polled: &Poll<Option<Result<Frame<Bytes>, BodyError>>>) {
        match polled {
            Poll::Ready(Some(Ok(frame))) => self.sent += frame.data_ref().map_or(0, |data| data.len() as u64),
            Poll::Ready(Some(Err(_))) => self.broken = true,
            Poll::Ready(None) | Poll::Pending => {}
        }
        self.frame_out = matches!(polled, Poll::Ready(Some(Ok(_))));
        self.set_held(self.frame_out);
    }

    /// The response was dropped before its end: by its caller, or by the end of bearerd.
    pub(super) fn broke_off(&mut self) {
        // The connection never asks for the content of a response to HEAD.
        self.broken |= self.access.as_ref().is_some_and(|access| access.method != Method::HEAD);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.frame_requested();
        self.set_held(false);
        if self.responding {
            self.outgoing().open.fetch_sub(1, Ordering::Relaxed);
        }
        let took = self.started.elapsed();
        if !self.opened {
            self.metrics().request(self.status.as_u16(), took);
        }
        if let Some(listener) = &self.token_listener {
            listener.token_request();
        }
        if let Some(trace) = self.trace.take() {
            trace.end(&self.caller.listener, self.route.as_deref(), self.status.as_u16(), self.code);
        }
        if let Some(access) = self.access.take() {
            tracing::info!(
                target: "bearerd::access",
                event = "access",
                request_id = self.request_id(),
                listener = %self.caller.listener,
                method = %access.method,
                path = access.path,
                route = self.route.as_ref().map(|route| &*route.config.name),
                issuer = self.token_service.as_ref().map(|service| &*service.issuer.name),
                status = self.status.as_u16(),
                code = self.code,
                detail = access.detail,
                ms = milliseconds(took),
                upstream_ms = self.upstream_took.map(milliseconds),
                bytes = self.sent,
                broken = self.broken.then_some(true),
                "request"
            );
        }
    }
}

fn milliseconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 1_000_000.0).round() / 1_000.0
}

/// The span of a request, if `[tracing]` is on. Spans of its steps are below it: each attempt to send it, each wait for a
/// token. Names come from the config and from a short list of methods. Spans contain nothing else of a request.
pub(super) struct RequestTrace {
    tracer: Arc<Tracer>,
    span: Span,
    /// The parent of the spans of its steps.
    below: Context,
    /// See [`Parent::random`].
    random: bool,
    method: &'static str,
}

impl RequestTrace {
    /// Reads the caller's trace context, and removes it from the header section if it cannot be read.
    pub(super) fn begin(tracer: &Arc<Tracer>, method: &Method, headers: &mut HeaderMap) -> Self {
        let Parent { context, random } = Parent::take_from(headers);
        let method = span_method(method);
        let span = tracer.start_below(&context, method, SpanKind::Server);
        Self { tracer: Arc::clone(tracer), below: span.below(), span, random, method }
    }

    /// The request has ended. `code`: bearerd's own error.
    fn end(mut self, listener: &str, route: Option<&RouteService>, status: u16, code: Option<&'static str>) {
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
            None if status == CALLER_LEFT => Some(Cow::Borrowed("caller_left")),
            None if status >= 500 => Some(Cow::Owned(status.to_string())),
            None => None,
        };
        error.into_iter().for_each(|error| span.fail(error));
    }

    /// Begins the span of an attempt, and tells the upstream about it.
    pub(super) fn begin_attempt<'a>(
        &'a self,
        service: &'a RouteService,
        head: &mut Head,
    ) -> Box<StepSpan<'a>> {
        let step = StepSpan::new(self, service, SpanKind::Client);
        step.announce(head);
        Box::new(step)
    }
}

/// The method's name in spans. The semantic conventions for HTTP give all other methods one name.
fn span_method(method: &Method) -> &'static str {
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

/// The span of one step. Dropping it records it, so that a step whose caller left is recorded too.
pub(super) struct StepSpan<'a> {
    trace: &'a RequestTrace,
    service: &'a RouteService,
    kind: SpanKind,
    span: Span,
    status: Option<u16>,
    /// `caller_left` until the step has ended.
    error: Option<Cow<'static, str>>,
}

impl<'a> StepSpan<'a> {
    fn new(trace: &'a RequestTrace, service: &'a RouteService, kind: SpanKind) -> Self {
        let name = if kind == SpanKind::Client { trace.method } else { "wait for token" };
        let span = trace.tracer.start_below(&trace.below, name, kind.clone());
        let error = Some(Cow::Borrowed("caller_left"));
        Self { trace, service, kind, span, status: None, error }
    }

    /// Sets `traceparent`, unless the route edits the field itself.
    fn announce(&self, head: &mut Head) {
        let edited = self.service.request_edits.names().any(|name| *name == TRACEPARENT);
        if !edited {
            head.headers.insert(TRACEPARENT, traceparent(self.span.context(), self.trace.random));
        }
    }

    /// The request is sent once more because its pooled connection was dead. This is an attempt of its own.
    pub(super) fn begin_again(&mut self, head: &mut Head) {
        self.error = Some(Cow::Borrowed("connection_terminated"));
        *self = StepSpan::new(self.trace, self.service, self.kind.clone());
        self.announce(head);
    }

    pub(super) fn end(mut self, outcome: &Result<Response<ResponseBody>, UpstreamError>) {
        self.error = match outcome {
            Ok(response) => {
                let status = response.status().as_u16();
                self.status = Some(status);
                (status >= 400).then(|| Cow::Owned(status.to_string()))
            }
            Err(error) => Some(Cow::Borrowed(error.proxy_status)),
        };
    }

    fn describe(&mut self) {
        let (span, trace, route) = (&mut self.span, self.trace, &self.service.config);
        if self.kind == SpanKind::Client {
            span.rename(format!("{} {}", trace.method, route.name));
            span.set("http.request.method", trace.method);
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

/// Waits for a token of a later generation than `than`.
///
/// # Errors
/// The token fetch failed, or took too long.
pub(super) async fn wait_for_token(
    slot: &Arc<TokenSlot>,
    than: u64,
    service: &RouteService,
    trace: Option<&RequestTrace>,
) -> Result<Arc<Token>, TokenError> {
    let step = trace.map(|trace| StepSpan::new(trace, service, SpanKind::Internal));
    let recorded = step.as_ref().map(|step| &step.span).filter(|span| span.is_recorded());
    let waiter = recorded.map(|span| span.context().clone());
    let outcome = Arc::clone(slot).newer_than(than, waiter).await;
    if let Some(mut step) = step {
        step.error = outcome.as_ref().err().map(|error| Cow::Borrowed(Code::from(error.kind).as_str()));
    }
    outcome
}
