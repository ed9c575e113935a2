//! One accepted connection, from the TLS handshake to its last byte.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONNECTION, EXPECT};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::{Body as HttpBody, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::drive::{Drain, Driven, drive};
use super::limit::TakenPlace;
use super::stream::{CallerStream, Raw, Transport};
use super::watch::{Pace, Watch};
use super::{Handler, ListenerSettings, refusal};
use crate::config::Limits;
use crate::flow::Window;
use crate::inbound::CallerBody;
use crate::proxy::{Caller, Peer};
use crate::telemetry::Repeated;

/// hyper's number of header fields for which it needs no heap.
const FIELDS_ON_STACK: usize = 100;
/// The smallest read buffer: a head that is longer than `header_bytes` but fits is answered 431 when it is complete.
const BUFFER: usize = 64 * 1024;

const HTTP2_STREAMS: u32 = 100;
/// What an HTTP/2 caller may have under way to us; each stream may have a part of it.
const HTTP2_WINDOW: u32 = 4 * 1024 * 1024;
/// Of one response, what waits for its caller in memory.
const HTTP2_SEND_BUFFER: usize = 64 * 1024;
/// Streams that the caller reset before they were looked at: more than these end the connection (CVE-2023-44487).
const HTTP2_PENDING_RESETS: usize = 20;
/// Streams reset here for the caller's faults: more than these end the connection (CVE-2025-8671).
const HTTP2_LOCAL_RESETS: usize = 256;

/// What the connections of one worker and listener share.
pub(super) struct Shared<H> {
    pub(super) handler: Arc<H>,
    pub(super) drain: Drain,
    pub(super) now: CancellationToken,
    /// Callers that speak TLS where none is spoken.
    pub(super) tls_complaints: Repeated,
}

/// A connection as it was accepted.
pub(super) struct Accepted {
    pub(super) raw: Raw,
    pub(super) peer: Peer,
    pub(super) local: Option<std::net::SocketAddr>,
    pub(super) held: TakenPlace,
}

/// One per connection, so that a request costs one reference count that no other thread touches.
struct Requests<H> {
    watch: Arc<Watch>,
    shared: Arc<Shared<H>>,
    settings: Arc<ListenerSettings>,
}

/// Serves the connection to its end; failures are the caller's, and told at debug level.
pub(super) async fn serve<H: Handler>(
    accepted: Accepted,
    settings: Arc<ListenerSettings>,
    shared: Arc<Shared<H>>,
) {
    let Accepted { raw, peer, local, held } = accepted;
    if let Raw::Tcp(stream) = &raw {
        // A failure costs latency alone.
        let _ = stream.set_nodelay(true);
    }
    let tls = settings.tls.clone();
    let listener = Arc::clone(&settings.config.name);
    let address = settings.config.address.clone();
    let caller =
        Arc::new(Caller { listener, address, peer, local, tls: tls.is_some(), activity: Arc::default() });
    let (transport, known) = match tls {
        None => (Transport::Plain(raw), None),
        // Boxed: a handshake's state would else be part of every connection's.
        Some(config) => match Box::pin(handshake(config, raw, settings.limits.header_timeout)).await {
            Ok((transport, protocol)) => (transport, Some(protocol)),
            Err(error) => {
                return tracing::debug!(event = "caller.tls_failed", peer = ?caller.peer, %error, "no TLS with a caller");
            }
        },
    };
    let watch = Arc::new(Watch::new(caller));
    let stream = CallerStream::new(transport, Arc::clone(&watch), shared.now.clone(), held);
    serve_http(stream, known, &settings, watch, shared).await;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// The stream, and the protocol that ALPN chose.
async fn handshake(
    config: Arc<rustls::ServerConfig>,
    raw: Raw,
    limit: Option<Duration>,
) -> io::Result<(Transport, Protocol)> {
    let accept = TlsAcceptor::from(config).accept(raw);
    let stream = match limit {
        None => accept.await?,
        Some(limit) => tokio::time::timeout(limit, accept).await.map_err(io::Error::from)??,
    };
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let protocol = if http2 { Protocol::Http2 } else { Protocol::Http1 };
    Ok((Transport::Tls(Box::new(stream)), protocol))
}

/// `known`: what ALPN chose; without TLS, the first bytes tell. No `async fn`, which keeps its arguments twice, for as
/// long as the connection rests; neither is [`serve_http1`].
fn serve_http<H: Handler>(
    stream: CallerStream,
    known: Option<Protocol>,
    settings: &Arc<ListenerSettings>,
    watch: Arc<Watch>,
    shared: Arc<Shared<H>>,
) -> impl Future<Output = ()> {
    let limits = &settings.limits;
    let mut first = Sniff(Some(stream));
    async move {
        let protocol = match known {
            Some(protocol) => Some(protocol),
            None => drive(&mut first, Pace::http1(limits), &watch, &shared.drain).await.flatten(),
        };
        let (Some(protocol), Some(stream)) = (protocol, first.0) else { return };
        let requests = Arc::new(Requests { watch, shared, settings: Arc::clone(settings) });
        match protocol {
            Protocol::Http1 => serve_http1(stream, settings, requests).await,
            // Boxed, so that an HTTP/1 connection does not have the size of an HTTP/2 one.
            Protocol::Http2 => Box::pin(serve_http2(stream, settings, requests)).await,
        }
    }
}

fn serve_http1<H: Handler>(
    stream: CallerStream,
    settings: &ListenerSettings,
    requests: Arc<Requests<H>>,
) -> impl Future<Output = ()> {
    let limits = &settings.limits;
    let (watch, shared) = (Arc::clone(&requests.watch), Arc::clone(&requests.shared));
    let begins_as_tls = stream.begins_as_tls();
    let service = service_fn(move |request| requests.clone().respond_http1(request));
    let mut connection =
        http1_builder(limits).serve_connection(TokioIo::new(stream), service).with_upgrades();
    async move {
        let ended = drive(&mut connection, Pace::http1(limits), &watch, &shared.drain).await;
        watch.becomes_tunnel();
        let Some(Err(error)) = ended else { return };
        if begins_as_tls {
            return refusal::tell_tls(
                &watch.caller.listener,
                watch.caller.peer,
                &settings.metrics,
                &shared.tls_complaints,
            );
        }
        if refusal::tell(&watch.caller.listener, watch.caller.peer, &settings.metrics, &error) {
            return;
        }
        if error.is_user() {
            watch.response_broke();
        }
        tracing::debug!(
            event = "caller.disconnected", peer = ?watch.caller.peer, %error,
            "an HTTP/1 connection of a caller broke off"
        );
    }
}

async fn serve_http2<H: Handler>(
    stream: CallerStream,
    settings: &ListenerSettings,
    requests: Arc<Requests<H>>,
) {
    let limits = &settings.limits;
    let (watch, shared) = (Arc::clone(&requests.watch), Arc::clone(&requests.shared));
    let service = service_fn(move |request| requests.clone().respond_http2(request));
    watch.speaks_http2();
    let window = Window::of_caller(HTTP2_WINDOW);
    let connection = http2_builder(limits, &window).serve_connection(TokioIo::new(stream), service);
    let mut connection = Box::pin(connection);
    if let Some(Err(error)) = drive(&mut connection, Pace::http2(limits), &watch, &shared.drain).await
        && !refusal::tell(&watch.caller.listener, watch.caller.peer, &settings.metrics, &error)
    {
        tracing::debug!(
            event = "caller.disconnected", peer = ?watch.caller.peer, %error,
            "an HTTP/2 connection of a caller broke off"
        );
    }
}

/// What is handed on is copied as a whole, and an `async fn` keeps its arguments twice: these are none.
impl<H: Handler> Requests<H> {
    fn respond_http1(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<H::Body>, Infallible>> {
        let http10 = request.version() < Version::HTTP_11;
        let pipelined = self.watch.request_begins(http10);
        let expects_continue = !http10 && expects_continue(request.headers());
        let activity = &self.watch.caller.activity;
        let mut request = request.map(|body| CallerBody::new(body, activity, true, expects_continue));
        async move {
            if pipelined {
                // hyper would answer the next one in the same turn, and the next ones before anything is heard of others.
                tokio::task::yield_now().await;
            }
            let mut response = self.shared.handler.call(&self.watch.caller, &mut request).await;
            drop(request);
            let refused = response.status().is_client_error() || response.status().is_server_error();
            // hyper says so itself only where it was told of the stop before the response.
            let activity = &self.watch.caller.activity;
            let closes = self.shared.drain.has_begun() || activity.ends_with_response(refused);
            if closes && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response)
        }
    }

    fn respond_http2(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<H::Body>, Infallible>> {
        // hyper counts the fields of HTTP/1 itself, but not those of HTTP/2.
        let too_many = request.headers().len() > self.settings.limits.header_count;
        let activity = &self.watch.caller.activity;
        let mut request = request.map(|body| CallerBody::new(body, activity, false, false));
        async move {
            if too_many {
                let caller = &self.watch.caller;
                refusal::tell_too_many_fields(&caller.listener, caller.peer, &self.settings.metrics);
                let mut response = Response::new(H::Body::default());
                *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                return Ok(response);
            }
            Ok(self.shared.handler.call(&self.watch.caller, &mut request).await)
        }
    }
}

/// As hyper sees it, which waits with 100 (Continue) until the body is wanted.
fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

fn http1_builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_header_size(limits.header_bytes)
        .max_buf_size(limits.header_bytes.max(BUFFER));
    if limits.header_count != FIELDS_ON_STACK {
        builder.max_headers(limits.header_count);
    }
    builder
}

fn http2_builder(limits: &Limits, window: &Window) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(HTTP2_STREAMS)
        .initial_stream_window_size(window.stream())
        .initial_connection_window_size(window.connection())
        .max_send_buf_size(HTTP2_SEND_BUFFER)
        .max_pending_accept_reset_streams(HTTP2_PENDING_RESETS)
        .max_local_error_reset_streams(HTTP2_LOCAL_RESETS);
    builder
}

/// Reads the first bytes; the stream is gone once it was shut down.
struct Sniff(Option<CallerStream>);

impl Driven for Sniff {
    type Output = Option<Protocol>;

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            None => Poll::Ready(None),
            Some(stream) => stream.poll_protocol(cx).map(|result| result.ok().flatten()),
        }
    }

    fn shut_down(&mut self) {
        self.0 = None;
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl<S, B> Driven for http1::UpgradeableConnection<TokioIo<CallerStream>, S>
where
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<BoxError>,
    B: HttpBody + 'static,
    B::Error: Into<BoxError>,
{
    type Output = hyper::Result<()>;

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Future::poll(Pin::new(self), cx)
    }

    fn shut_down(&mut self) {
        Pin::new(self).graceful_shutdown();
    }
}

impl<S, B> Driven for Pin<Box<http2::Connection<TokioIo<CallerStream>, S, TokioExecutor>>>
where
    S: HttpService<Incoming, ResBody = B>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: HttpBody + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Output = hyper::Result<()>;

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Future::poll(self.as_mut(), cx)
    }

    fn shut_down(&mut self) {
        self.as_mut().graceful_shutdown();
    }
}
