//! HTTP/2 connections, which calls share: opening one, the task that drives it, and a call over one.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response, Uri, header};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::Instant;

use super::error::UpstreamError;
use super::idle::Idle;
use super::request_body::{Link, RequestBody};
use super::response_body::ResponseBody;
use super::{Answer, Failed, Head, Open, SentBody, Upstream, UpstreamErrorKind};
use crate::metrics::RouteMetrics;
use crate::net::Connected;

/// The largest response head that is read from an upstream.
const HEAD: u32 = 128 * 1024;
/// HTTP/2 windows that a body of some MiB does not stall on.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// An HTTP/2 connection with calls on it is pinged, so that a dead one is noticed.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_ANSWER: Duration = Duration::from_secs(20);

/// An HTTP/2 connection; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Http2 {
    pub(super) sender: http2::SendRequest<RequestBody>,
    pub(super) born: Instant,
    pub(super) last_used: Instant,
    pub(super) streams: Arc<AtomicUsize>,
    /// What the peer takes at a time, as of its last SETTINGS.
    most_streams: Arc<AtomicUsize>,
}

/// A stream in use, for as long as it lives.
#[derive(Debug)]
pub(super) struct StreamInUse(Arc<AtomicUsize>);

impl Drop for StreamInUse {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Http2 {
    fn stream(&self) -> StreamInUse {
        self.streams.fetch_add(1, Ordering::Relaxed);
        StreamInUse(Arc::clone(&self.streams))
    }

    pub(super) fn takes_another(&self) -> bool {
        !self.sender.is_closed()
            && self.streams.load(Ordering::Relaxed) < self.most_streams.load(Ordering::Relaxed)
    }
}

pub(super) async fn open(
    connected: Connected,
    metrics: &Arc<RouteMetrics>,
    authority: &str,
) -> Result<Http2, UpstreamError> {
    let io = TokioIo::new(connected.stream);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEAD)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWER);
    let (sender, mut connection) =
        builder.handshake(io).await.map_err(|error| UpstreamError::http2(&error, authority))?;
    let open = Open::new(metrics);
    let most_streams = Arc::new(AtomicUsize::new(connection.current_max_send_streams()));
    let most = Arc::clone(&most_streams);
    tokio::spawn(async move {
        let _ = poll_fn(|cx| {
            let polled = Pin::new(&mut connection).poll(cx);
            most.store(connection.current_max_send_streams(), Ordering::Relaxed);
            polled
        })
        .await;
        drop(open);
    });
    let now = Instant::now();
    let streams = Arc::new(AtomicUsize::new(0));
    Ok(Http2 { sender, born: now, last_used: now, streams, most_streams })
}

pub(super) fn missing(authority: &str) -> UpstreamError {
    UpstreamError::new(
        UpstreamErrorKind::Unreachable,
        "tls_protocol_error",
        format!(
            "{authority} does not speak HTTP/2 over TLS (ALPN); set protocol = \"auto\" or \"http1\" on the route"
        ),
    )
}

impl Upstream {
    pub(super) async fn attempt_http2(
        self: &Arc<Self>,
        mut connection: Box<Http2>,
        head: &Head,
        mut body: RequestBody,
    ) -> Result<Answer, Failed> {
        let link = body.link();
        let stream = connection.stream();
        let request = self.request_http2(head, body);
        let sending = connection.sender.try_send_request(request);
        let mut patience = Idle::new(self.route.response_timeout);
        let (outcome, body) = self.answer_in_time(sending, link, &mut patience).await;
        match outcome {
            Ok(response) => Ok(self.answer_http2(response, stream, body)),
            Err(failure) => Err(self.failed_http2(failure, body).await),
        }
    }

    fn answer_http2(
        &self,
        response: Response<Incoming>,
        stream: StreamInUse,
        body: Option<SentBody>,
    ) -> Answer {
        let progress = match &body {
            Some(SentBody::Underway(link)) => Some(Arc::clone(&link.progress)),
            Some(SentBody::Done(_) | SentBody::Whole(_) | SentBody::Unfinished) | None => None,
        };
        let idle = self.route.idle_timeout;
        let response = response.map(|incoming| ResponseBody::http2(incoming, stream, idle, progress));
        Answer { response, body }
    }

    /// Waits for the head of the answer: `response_timeout` from the last byte of the body sent, and
    /// `idle_timeout` while the body does not move.
    async fn answer_in_time<F>(
        &self,
        sending: F,
        link: Option<Link>,
        patience: &mut Idle,
    ) -> (Outcome, Option<SentBody>)
    where
        F: Future<Output = Result<Response<Incoming>, Unsent>>,
    {
        tokio::pin!(sending);
        let Some(mut link) = link else {
            return (self.response_in_time(sending.as_mut(), patience).await, None);
        };
        loop {
            let moved = link.progress.moved.load(Ordering::Relaxed);
            tokio::select! {
                biased;
                response = &mut sending => {
                    return (response.map_err(Failure::from), Some(SentBody::Underway(link)));
                }
                returned = link.sent() => {
                    let body = returned.map(|returned| SentBody::Done(Box::new(returned)));
                    return (self.response_in_time(sending.as_mut(), patience).await, body);
                }
                () = sleep_for(self.route.idle_timeout) => {
                    if link.progress.moved.load(Ordering::Relaxed) == moved {
                        let caller = link.progress.awaiting_caller.load(Ordering::Relaxed);
                        return (Err(Failure::Timeout(self.body_stuck(caller))), None);
                    }
                }
            }
        }
    }

    async fn response_in_time<F>(&self, mut sending: Pin<&mut F>, patience: &mut Idle) -> Outcome
    where
        F: Future<Output = Result<Response<Incoming>, Unsent>>,
    {
        patience.moved();
        poll_fn(|cx| match sending.as_mut().poll(cx) {
            Poll::Ready(response) => Poll::Ready(response.map_err(Failure::from)),
            Poll::Pending if patience.expired(cx) => Poll::Ready(Err(Failure::Timeout(self.no_response()))),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    async fn failed_http2(&self, failure: Failure, body: Option<SentBody>) -> Failed {
        let name = &self.route.upstream.authority;
        match failure {
            Failure::Timeout(error) => Failed { error, body: None, written: true },
            Failure::Unsent(error, request) => Failed {
                error: UpstreamError::http2(&error, name),
                body: Some(request.into_body()),
                written: false,
            },
            Failure::Broken(error) => {
                let body = match body {
                    None => Some(RequestBody::empty()),
                    Some(SentBody::Done(returned)) => returned.again(self.route.idle_timeout),
                    // The connection is gone, and its body with it: this does not wait for the caller.
                    Some(SentBody::Underway(mut link)) => match link.sent().await {
                        Some(returned) => returned.again(self.route.idle_timeout),
                        None => None,
                    },
                    Some(SentBody::Whole(_) | SentBody::Unfinished) => None,
                };
                Failed { error: UpstreamError::http2(&error, name), body, written: true }
            }
        }
    }

    fn request_http2(&self, head: &Head, body: RequestBody) -> Request<RequestBody> {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = self.authority.clone();
        parts.path_and_query = Some(head.target.clone());
        let mut request = Request::new(body);
        *request.method_mut() = head.method.clone();
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        *request.headers_mut() = head.headers.clone();
        request.headers_mut().remove(header::HOST);
        // What HTTP/1.1 says of a connection, HTTP/2 does not know (RFC 9113 section 8.2.2).
        request.headers_mut().remove(header::CONNECTION);
        request
    }
}

type Unsent = TrySendError<Request<RequestBody>>;
type Outcome = Result<Response<Incoming>, Failure>;

/// How an attempt ended without an answer.
enum Failure {
    /// Nothing was written: the request came back.
    Unsent(hyper::Error, Box<Request<RequestBody>>),
    Broken(hyper::Error),
    Timeout(UpstreamError),
}

impl From<Unsent> for Failure {
    fn from(mut error: Unsent) -> Self {
        match error.take_message() {
            Some(request) => Self::Unsent(error.into_error(), Box::new(request)),
            None => Self::Broken(error.into_error()),
        }
    }
}

async fn sleep_for(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}
