//! What is remembered of a request: counted and logged once, when its response has ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use hyper::body::Frame;

use super::body::BodyError;
use super::caller::Caller;
use super::crowd::Place;
use super::snapshot::RouteService;
use super::traced::Traced;
use crate::inbound::{InFlight, OWN_STALL_MS, Outgoing};
use crate::metrics::RouteMetrics;

/// The status of a request whose caller went away before there was a response; never sent.
pub(super) const CALLER_LEFT: u16 = 499;

/// One request, from its head to the end of its response.
pub(super) struct Record {
    pub(super) request_id: HeaderValue,
    pub(super) grpc: bool,
    pub(super) route: Option<Arc<RouteService>>,
    pub(super) status: StatusCode,
    /// The code of an error of ours.
    pub(super) code: Option<&'static str>,
    pub(super) upstream_took: Option<Duration>,
    /// `None`: it came over HTTP/1.
    pub(super) place: Option<Place>,
    /// `None`: `[tracing]` is off.
    pub(super) traced: Option<Box<Traced>>,
    _in_flight: InFlight,
    caller: Arc<Caller>,
    started: Instant,
    unrouted: Arc<RouteMetrics>,
    /// What only the access log needs; `None` where it is off.
    line: Option<Line>,
    sent: u64,
    broken: bool,
    /// The response has begun.
    responds: bool,
    /// It is one of ours.
    own: bool,
    /// See [`crate::inbound::Outgoing::held`].
    held: bool,
    /// A frame was handed to the connection, and nobody has asked for the next one.
    lies: bool,
}

/// What of the request stands in its access line: never its query, nor a header's value.
#[derive(Debug)]
struct Line {
    method: Method,
    path: String,
    /// Why the request was turned away, where it was: failures of 5xx have a line of their own.
    detail: Option<Box<str>>,
}

impl Record {
    pub(super) fn begin(
        caller: &Arc<Caller>,
        request_id: HeaderValue,
        grpc: bool,
        unrouted: &Arc<RouteMetrics>,
    ) -> Self {
        caller.activity.calls.fetch_add(1, Ordering::Relaxed);
        Self {
            _in_flight: InFlight::new(&caller.activity),
            request_id,
            grpc,
            route: None,
            status: StatusCode::from_u16(CALLER_LEFT).expect("499 has three digits"),
            code: None,
            upstream_took: None,
            place: None,
            traced: None,
            caller: Arc::clone(caller),
            started: Instant::now(),
            unrouted: Arc::clone(unrouted),
            line: None,
            sent: 0,
            broken: false,
            responds: false,
            own: true,
            held: false,
            lies: false,
        }
    }

    /// As it stands in the log and in errors.
    pub(super) fn request_id(&self) -> &str {
        self.request_id.to_str().expect("an id is made of hexadecimal digits, or was looked at")
    }

    pub(super) fn log_access(&mut self, method: &Method, path: &str) {
        self.line = Some(Line { method: method.clone(), path: path.to_owned(), detail: None });
    }

    pub(super) fn log_refusal(&mut self, detail: &str) {
        if let Some(line) = &mut self.line {
            line.detail = Some(detail.into());
        }
    }

    /// A response begins: one of ours, or the upstream's.
    pub(super) fn respond(&mut self, own: bool) {
        self.own = own;
        let limit_ms = match &self.route {
            Some(route) if !own => {
                route.config.idle_timeout.map_or(0, |limit| limit.as_millis().try_into().unwrap_or(u64::MAX))
            }
            Some(_) | None => OWN_STALL_MS,
        };
        self.caller.activity.respond_within(limit_ms);
        self.outgoing().open.fetch_add(1, Ordering::Relaxed);
        self.responds = true;
        // An HTTP/2 caller that opens no window takes nothing.
        self.hold(true);
    }

    fn outgoing(&self) -> &Outgoing {
        if self.own { &self.caller.activity.own } else { &self.caller.activity.passed }
    }

    /// Whether the next move is the caller's.
    fn hold(&mut self, held: bool) {
        if std::mem::replace(&mut self.held, held) != held {
            let count = &self.outgoing().held;
            if held {
                count.fetch_add(1, Ordering::Relaxed)
            } else {
                count.fetch_sub(1, Ordering::Relaxed)
            };
        }
    }

    /// The connection asks for a frame: it has room for more than it had before.
    pub(super) fn asked(&mut self) {
        if std::mem::replace(&mut self.lies, false) {
            self.outgoing().taken.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Of its route, or of requests without one.
    pub(super) fn metrics(&self) -> &RouteMetrics {
        self.route.as_ref().map_or(&self.unrouted, |route| &route.metrics)
    }

    /// What it gets.
    pub(super) fn frame(&mut self, polled: &Poll<Option<Result<Frame<Bytes>, BodyError>>>) {
        match polled {
            Poll::Ready(Some(Ok(frame))) => self.sent += frame.data_ref().map_or(0, |data| data.len() as u64),
            Poll::Ready(Some(Err(_))) => self.broken = true,
            Poll::Ready(None) | Poll::Pending => {}
        }
        self.lies = matches!(polled, Poll::Ready(Some(Ok(_))));
        self.hold(self.lies);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.asked();
        self.hold(false);
        if self.responds {
            self.outgoing().open.fetch_sub(1, Ordering::Relaxed);
        }
        let took = self.started.elapsed();
        self.metrics().request(self.status.as_u16(), took);
        if let Some(traced) = self.traced.take() {
            traced.end(&self.caller.listener, self.route.as_deref(), self.status.as_u16(), self.code);
        }
        if let Some(line) = self.line.take() {
            tracing::info!(
                target: "bearerd::access",
                event = "access",
                request_id = self.request_id(),
                listener = %self.caller.listener,
                method = %line.method,
                path = line.path,
                route = self.route.as_ref().map(|route| &*route.config.name),
                status = self.status.as_u16(),
                code = self.code,
                detail = line.detail,
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
