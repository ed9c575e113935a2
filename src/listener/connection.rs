//! One accepted connection, from the TLS handshake to its last byte.
//!
//! [`serve`] finds out the protocol and lets hyper serve it over a [`CallerStream`]. `watch` enforces the time limits.

use std::convert::Infallible;
use std::error::Error as _;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, EXPECT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body as HttpBody, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::transport::{SocketStream, Transport};
use super::watch::{Stage, TimeLimits, Watch, drive};
use super::{ConnectionPlace, Handler, ListenerSettings, Shared, inside, same_user};
use crate::clock::{Clock, SystemClock};
use crate::config::{Limits, Serve};
use crate::flow::{Reading, Window};
use crate::idle::{Alarm, Idle};
use crate::inbound::{CallerBody, Discard, InFlight};
use crate::metrics::ListenerMetrics;
use crate::proxy::{Caller, InsideTls, Peer};
use crate::telemetry::Repeated;

/// The number of header fields for which hyper needs no heap.
const FIELDS_ON_STACK: usize = 100;
/// The smallest read buffer. A head that is longer than `header_bytes` but fits gets a 431 when it is complete.
const BUFFER: usize = 64 * 1024;

const HTTP2_STREAMS: u32 = 100;
/// What an HTTP/2 caller may have in flight to bearerd. Each stream may have a part of it.
const HTTP2_WINDOW: u32 = 4 * 1024 * 1024;
/// How much of one response waits in memory for its caller.
const HTTP2_SEND_BUFFER: usize = 64 * 1024;
/// More streams than this that the caller reset before bearerd looked at them end the connection (CVE-2023-44487).
const HTTP2_PENDING_RESETS: usize = 20;
/// More streams than this that bearerd reset for the caller's errors end the connection (CVE-2025-8671).
const HTTP2_LOCAL_RESETS: usize = 256;

/// The connection preface of HTTP/2 (RFC 9113 section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What is read to distinguish the protocols: enough for most heads, so that they need no second read.
const FIRST_READ: usize = 1024;

/// A connection as it was accepted.
pub(super) struct AcceptedConnection {
    pub(super) socket: SocketStream,
    pub(super) peer: Peer,
    pub(super) local: Option<SocketAddr>,
    pub(super) place: ConnectionPlace,
}

/// Serves the connection until it ends. Failures are the caller's, so they are logged at debug level.
pub(super) async fn serve<H: Handler>(
    accepted: AcceptedConnection,
    settings: Arc<ListenerSettings>,
    shared: Arc<Shared<H>>,
) {
    let AcceptedConnection { socket, peer, local, place } = accepted;
    if let SocketStream::Tcp(stream) = &socket {
        // A failure costs only latency.
        let _ = stream.set_nodelay(true);
    }
    let tls = settings.tls.clone();
    let listener = Arc::clone(&settings.config.name);
    let address = settings.config.address.clone();
    let same_user = settings.config.same_user && same_user::is_same_user(peer, local).await;
    let caller = Arc::new(Caller {
        listener,
        address,
        peer,
        local,
        tls: tls.is_some(),
        same_user,
        activity: Arc::default(),
        inside: None,
    });
    let (transport, protocol) = match tls {
        None => (Transport::Plain(socket), None),
        // Boxed, or the state of a handshake would be part of every connection's.
        Some(config) => match Box::pin(handshake(config, socket, settings.limits.header_timeout)).await {
            Ok((transport, protocol)) => (transport, Some(protocol)),
            Err(error) => {
                return tracing::debug!(
                    event = "caller.tls_failed", peer = ?caller.peer, %error,
                    "the TLS handshake with a caller failed"
                );
            }
        },
    };
    let watch = Arc::new(Watch::new(caller));
    let stream = CallerStream::new(transport, Arc::clone(&watch), shared.now.clone(), Some(place));
    serve_http(stream, protocol, &settings, watch, shared).await;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// The stream, and the protocol that ALPN chose.
async fn handshake(
    config: Arc<rustls::ServerConfig>,
    socket: SocketStream,
    limit: Option<Duration>,
) -> io::Result<(Transport, Protocol)> {
    let accept = TlsAcceptor::from(config).accept(socket);
    let stream = match limit {
        None => accept.await?,
        Some(limit) => tokio::time::timeout(limit, accept).await.map_err(io::Error::from)??,
    };
    let protocol = Protocol::negotiated(&stream);
    Ok((Transport::Tls(Box::new(stream)), protocol))
}

impl Protocol {
    /// What ALPN chose.
    pub(super) fn negotiated(stream: &TlsStream<SocketStream>) -> Self {
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") { Self::Http2 } else { Self::Http1 }
    }
}

/// `protocol`: what ALPN chose. Without TLS, the first bytes decide.
///
/// Not an `async fn`, which would hold its arguments twice for as long as the connection is open. The same is true for
/// [`serve_http1`].
pub(super) fn serve_http<H: Handler>(
    stream: CallerStream,
    protocol: Option<Protocol>,
    settings: &Arc<ListenerSettings>,
    watch: Arc<Watch>,
    shared: Arc<Shared<H>>,
) -> impl Future<Output = ()> {
    let limits = &settings.limits;
    let mut detection = ProtocolDetection(Some(stream));
    async move {
        let protocol = match protocol {
            Some(protocol) => Some(protocol),
            None => drive(&mut detection, TimeLimits::http1(limits), &watch, &shared.drain).await.flatten(),
        };
        let (Some(protocol), Some(stream)) = (protocol, detection.0) else { return };
        let service = Arc::new(ConnectionService { watch, shared, settings: Arc::clone(settings) });
        match protocol {
            Protocol::Http1 => serve_http1(stream, settings, service).await,
            // Boxed, so that an HTTP/1 connection does not have the size of an HTTP/2 one.
            Protocol::Http2 => Box::pin(serve_http2(stream, settings, service)).await,
        }
    }
}

fn serve_http1<H: Handler>(
    stream: CallerStream,
    settings: &ListenerSettings,
    service: Arc<ConnectionService<H>>,
) -> impl Future<Output = ()> {
    let limits = &settings.limits;
    let (watch, shared) = (Arc::clone(&service.watch), Arc::clone(&service.shared));
    let begins_as_tls = stream.begins_as_tls();
    let service = service_fn(move |request| service.clone().respond_http1(request));
    let mut connection =
        http1_builder(limits).serve_connection(TokioIo::new(stream), service).with_upgrades();
    async move {
        let ended = drive(&mut connection, TimeLimits::http1(limits), &watch, &shared.drain).await;
        watch.becomes_tunnel();
        let Some(Err(error)) = ended else { return };
        let (listener, peer) = (&*watch.caller.listener, watch.caller.peer);
        if begins_as_tls {
            return note_tls_on_plain(listener, peer, &settings.metrics, &shared.tls_warnings);
        }
        if note_refusal(listener, peer, &settings.metrics, &error) {
            return;
        }
        if error.is_user() {
            watch.response_broke();
        }
        tracing::debug!(
            event = "caller.disconnected", ?peer, %error,
            "an HTTP/1 connection of a caller ended early"
        );
    }
}

async fn serve_http2<H: Handler>(
    stream: CallerStream,
    settings: &ListenerSettings,
    service: Arc<ConnectionService<H>>,
) {
    let limits = &settings.limits;
    let (watch, shared) = (Arc::clone(&service.watch), Arc::clone(&service.shared));
    let service = service_fn(move |request| service.clone().respond_http2(request));
    watch.speaks_http2();
    let window = Window::of_caller(HTTP2_WINDOW);
    let connection = http2_builder(limits, &window).serve_connection(TokioIo::new(stream), service);
    let mut connection = Box::pin(connection);
    if let Some(Err(error)) = drive(&mut connection, TimeLimits::http2(limits), &watch, &shared.drain).await
        && !note_refusal(&watch.caller.listener, watch.caller.peer, &settings.metrics, &error)
    {
        tracing::debug!(
            event = "caller.disconnected", peer = ?watch.caller.peer, %error,
            "an HTTP/2 connection of a caller ended early"
        );
    }
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

/// Passes the requests of one connection to the handler. There is one per connection, so that a request costs one reference
/// count that no other thread touches.
struct ConnectionService<H> {
    watch: Arc<Watch>,
    shared: Arc<Shared<H>>,
    settings: Arc<ListenerSettings>,
}

/// These are not `async fn`s, which hold their arguments twice: hyper copies the futures.
impl<H: Handler> ConnectionService<H> {
    fn respond_http1(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<H::Body>, Infallible>> {
        let http10 = request.version() < Version::HTTP_11;
        let connect = request.method() == Method::CONNECT;
        let pipelined = self.watch.request_begins(http10);
        let expects_continue = !http10 && expects_continue(request.headers());
        let activity = &self.watch.caller.activity;
        let mut request = request.map(|body| CallerBody::new(body, activity, true, expects_continue));
        async move {
            self.watch.handler_begins();
            if pipelined {
                // Otherwise hyper would serve all pipelined requests in one turn, before any other connection.
                tokio::task::yield_now().await;
            }
            let mut response = self.handle(&mut request).await;
            drop(request);
            let refused = response.status().is_client_error() || response.status().is_server_error();
            // hyper says it itself only if it learned about the stop before the response.
            let activity = &self.watch.caller.activity;
            let closes = self.shared.drain.has_begun()
                || activity.ends_with_response(refused)
                || connect && may_be_tunneled(&response);
            let upgrades = response.status() == StatusCode::SWITCHING_PROTOCOLS || connect && !refused;
            if closes && !upgrades {
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
                log_refusal(
                    &caller.listener,
                    caller.peer,
                    &self.settings.metrics,
                    ("head_too_large", "the head has too many fields"),
                );
                let mut response = Response::new(H::Body::default());
                *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                return Ok(response);
            }
            Ok(self.handle(&mut request).await)
        }
    }

    async fn handle(&self, request: &mut Request<CallerBody>) -> Response<H::Body> {
        let connect = request.method() == Method::CONNECT;
        if connect {
            self.offer_authority(request);
        }
        let mut response = self.shared.handler.call(&self.watch.caller, request).await;
        if connect {
            self.open_inside(request, &mut response);
        }
        response
    }

    /// A CONNECT takes with it what signs the certificates now: a connection may be older than the authority.
    fn offer_authority(&self, request: &mut Request<CallerBody>) {
        if let Some(authority) = &self.shared.settings.load().authority {
            request.extensions_mut().insert(Arc::clone(authority));
        }
    }

    /// Counts a CONNECT, and serves what is inside it once its response is written.
    fn open_inside(&self, request: &mut Request<CallerBody>, response: &mut Response<H::Body>) {
        let tls = response.extensions_mut().remove::<InsideTls>();
        if self.settings.config.serve() == Serve::Forward {
            let refused = !response.status().is_success();
            let passed = if refused { "refused" } else { "tunneled" };
            self.settings.metrics.connect(if tls.is_some() { "served" } else { passed });
        }
        if let Some(tls) = tls {
            let outer = Arc::clone(&self.watch.caller);
            let (settings, shared) = (Arc::clone(&self.settings), Arc::clone(&self.shared));
            tokio::spawn(inside::serve(hyper::upgrade::on(request), tls, outer, settings, shared));
        }
    }
}

/// Whether what follows a refused CONNECT may be bytes for the tunnel, sent too early, which must not be read as a request.
/// After a 407, programs try again on the same connection, and each request needs the key.
fn may_be_tunneled<B>(response: &Response<B>) -> bool {
    response.status() != StatusCode::PROXY_AUTHENTICATION_REQUIRED
}

/// As hyper reads it. hyper delays 100 (Continue) until the body is polled.
fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Reads the first bytes. The stream is gone after a shutdown.
struct ProtocolDetection(Option<CallerStream>);

impl Stage for ProtocolDetection {
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

impl<S, B> Stage for http1::UpgradeableConnection<TokioIo<CallerStream>, S>
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

impl<S, B> Stage for Pin<Box<http2::Connection<TokioIo<CallerStream>, S, TokioExecutor>>>
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

// What hyper's parser refuses, in the log and in the metrics

/// hyper's words, which are all that it reports; the reason, a label of a metric; and what is wrong.
const REASONS: [(&str, &str, &str); 10] = [
    ("invalid HTTP header parsed", "syntax", "the request line or a field is malformed"),
    ("invalid HTTP method parsed", "method", "the method is malformed"),
    ("invalid URI", "target", "the target is malformed"),
    ("URI too long", "target_too_long", "the target is too long"),
    ("invalid HTTP version parsed", "version", "it is not HTTP/1.1 or HTTP/1.0"),
    ("invalid HTTP version parsed (found HTTP2 preface)", "http2", "it is HTTP/2, which is not served here"),
    ("invalid content-length parsed", "content_length", "Content-Length is malformed or contradicts itself"),
    (
        "invalid transfer-encoding parsed",
        "transfer_encoding",
        "Transfer-Encoding does not end in chunked, or says so more than once",
    ),
    ("unexpected transfer-encoding parsed", "transfer_encoding", "HTTP/1.0 has no Transfer-Encoding"),
    ("message head is too large", "head_too_large", "the head is too large or has too many fields"),
];

/// The reason and the words, if the parser refused a request.
fn parser_refusal(error: &hyper::Error) -> Option<(&'static str, &'static str)> {
    if !error.is_parse() {
        return None;
    }
    let text = error.to_string();
    let known = REASONS.iter().find(|(hypers, ..)| *hypers == text);
    Some(known.map_or(("other", "it is malformed"), |(_, reason, words)| (reason, words)))
}

/// A connection that bearerd ended because the caller broke the rules of HTTP/2.
fn http2_refusal(error: &hyper::Error) -> Option<(&'static str, &'static str)> {
    let broken = error.source()?.downcast_ref::<h2::Error>()?;
    let ours = broken.is_library() && broken.is_go_away();
    ours.then_some(("http2_protocol", "it breaks the rules of HTTP/2, so bearerd ends its connection"))
}

/// Logs and counts what hyper has refused: with 400, 414 or 431, or over HTTP/2 with the end of the connection. Returns
/// whether `error` is such a refusal.
pub(super) fn note_refusal(
    listener: &str,
    peer: Peer,
    metrics: &ListenerMetrics,
    error: &hyper::Error,
) -> bool {
    let Some(reason) = parser_refusal(error).or_else(|| http2_refusal(error)) else { return false };
    log_refusal(listener, peer, metrics, reason);
    true
}

fn log_refusal(
    listener: &str,
    peer: Peer,
    metrics: &ListenerMetrics,
    (reason, words): (&'static str, &'static str),
) {
    metrics.refused(reason);
    tracing::info!(
        event = "caller.request_refused",
        listener,
        ?peer,
        reason,
        "refused what is not a request: {words}"
    );
}

/// Counts, and logs once a minute, that a caller spoke TLS to a listener without TLS.
fn note_tls_on_plain(listener: &str, peer: Peer, metrics: &ListenerMetrics, warnings: &Repeated) {
    metrics.refused("tls");
    if let Some(more) = warnings.due(SystemClock.boot()) {
        let more = (more > 0).then_some(more);
        tracing::warn!(
            event = "caller.tls_on_plain_listener",
            listener,
            ?peer,
            more,
            "a caller speaks TLS to a listener without TLS: its URL must begin with http://, or give [listener.{listener}] tls"
        );
    }
}

/// A caller's socket, with or without TLS. It notes what goes through, ends if a write stalls too long, and holds its place
/// in the connection limit until it is dropped.
pub(super) struct CallerStream {
    transport: Transport,
    watch: Arc<Watch>,
    /// What [`Self::poll_protocol`] read, until it is returned by a read.
    prefix: Bytes,
    /// Expires if the caller does not take what is written.
    stall: Idle,
    closing: Option<Closing>,
    now: CancellationToken,
    cancelled: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// `None` inside a CONNECT: the connection around it has one.
    _place: Option<ConnectionPlace>,
}

/// The write side is closed. What the caller still sends is discarded.
struct Closing {
    linger: Linger,
    /// The connection counts as busy until it ends.
    _busy: InFlight,
}

impl CallerStream {
    pub(super) fn new(
        transport: Transport,
        watch: Arc<Watch>,
        now: CancellationToken,
        place: Option<ConnectionPlace>,
    ) -> Self {
        let (prefix, stall) = (Bytes::new(), Idle::new(None));
        Self { transport, watch, prefix, stall, closing: None, now, cancelled: None, _place: place }
    }

    /// Reads until it is clear whether the caller speaks HTTP/2 with prior knowledge. `None`: the caller left. Reads of this
    /// stream return the same bytes again.
    fn poll_protocol(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Protocol>>> {
        let mut space = [MaybeUninit::uninit(); FIRST_READ];
        loop {
            if self.prefix.starts_with(PREFACE) {
                return Poll::Ready(Ok(Some(Protocol::Http2)));
            }
            if !PREFACE.starts_with(&self.prefix) {
                return Poll::Ready(Ok(Some(Protocol::Http1)));
            }
            let mut buffer = ReadBuf::uninit(&mut space);
            ready!(self.transport.poll_read(cx, &mut buffer, Reading::Head))?;
            match buffer.filled() {
                [] if self.prefix.is_empty() => return Poll::Ready(Ok(None)),
                [] => return Poll::Ready(Ok(Some(Protocol::Http1))),
                read => self.prefix = [&self.prefix, read].concat().into(),
            }
            self.watch.bytes_read();
        }
    }

    /// Whether the first bytes begin a TLS handshake (RFC 8446 section 5.1).
    fn begins_as_tls(&self) -> bool {
        const HANDSHAKE: u8 = 22;
        const MAJOR_VERSION: u8 = 3;
        self.prefix.starts_with(&[HANDSHAKE, MAJOR_VERSION])
    }

    /// Notes progress of a write. A write may stall for the route's `idle_timeout` at most.
    fn judge_write<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.watch.bytes_written(outcome.is_pending());
        if outcome.is_ready() {
            self.stall.moved();
            if self.watch.handler_waits() {
                // While much of the previous response is not written, hyper does not poll the next request's handler, and it
                // does not return to it when the flush of its buffer is complete.
                cx.waker().wake_by_ref();
            }
            return outcome;
        }
        let limit = self.watch.caller.activity.write_stall_ms.load(Ordering::Relaxed);
        self.stall.set_limit((limit > 0).then(|| Duration::from_millis(limit)));
        if self.stall.expired(cx) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the caller stopped reading")));
        }
        Poll::Pending
    }

    /// Whether an upgraded connection must end now. Until the upgrade, the task of the connection handles that.
    fn poll_cancelled(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        if !self.watch.is_tunnel() {
            return Poll::Pending;
        }
        let now = &self.now;
        let cancelled = self.cancelled.get_or_insert_with(|| Box::pin(now.clone().cancelled_owned()));
        cancelled.as_mut().poll(context).map(|()| io::Error::from(io::ErrorKind::ConnectionAborted))
    }
}

impl Drop for CallerStream {
    fn drop(&mut self) {
        if self.watch.ends_with_reset()
            && let SocketStream::Tcp(stream) = self.transport.socket()
        {
            // If this fails, the connection ends without a reset.
            let _ = stream.set_zero_linger();
        }
    }
}

impl AsyncRead for CallerStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.prefix.is_empty() {
            let length = this.prefix.len().min(buffer.remaining());
            buffer.put_slice(&this.prefix.split_to(length));
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let reading = this.watch.reading();
        match this.transport.poll_read(context, buffer, reading) {
            Poll::Pending => this.poll_cancelled(context).map(Err),
            ready => {
                let read = buffer.filled().len() - before;
                if read > 0 {
                    this.watch.bytes_read();
                    this.watch.caller.activity.headway.read(read)?;
                }
                ready
            }
        }
    }
}

impl AsyncWrite for CallerStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = this.transport.poll_write(context, bytes);
        this.judge_write(context, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = this.transport.poll_write_vectored(context, slices);
        this.judge_write(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(_) => true,
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = match &mut this.transport {
            Transport::Tls(stream) => Pin::new(stream).poll_flush(context),
            // The connection around it may buffer.
            Transport::Plain(socket @ SocketStream::Inside(_)) => Pin::new(socket).poll_flush(context),
            // A plain socket buffers nothing, so its flush is no sign of progress.
            Transport::Plain(_) => return Poll::Ready(Ok(())),
        };
        match flushed {
            Poll::Pending => this.judge_write(context, Poll::Pending),
            ready => ready,
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.closing.is_none() {
            let outcome = match &mut this.transport {
                Transport::Plain(socket) => Pin::new(socket).poll_shutdown(context),
                Transport::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            };
            match outcome {
                // TLS writes a last message. A caller that does not read may stall this one, too, only for so long.
                Poll::Pending => return this.judge_write(context, Poll::Pending),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => {
                    // A caller that sends meaningless bytes is not about to read a response.
                    let short = this.watch.is_http2() || this.watch.caller.activity.headway.is_doubtful();
                    let bounds = if short { SHORT } else { AFTER_HTTP1 };
                    let busy = InFlight::new(&this.watch.caller.activity);
                    this.closing = Some(Closing { linger: Linger::new(bounds), _busy: busy });
                }
            }
        }
        // An upgraded connection is closed in one direction only. The other one is still read.
        match &mut this.closing {
            Some(closing) if !this.watch.is_tunnel() => {
                let transport = &mut this.transport;
                let read = |cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>| {
                    transport.poll_read(cx, buffer, Reading::Body)
                };
                closing.linger.poll(context, read).map(Ok)
            }
            Some(_) | None => Poll::Ready(Ok(())),
        }
    }
}

/// How long a caller may take to close its side, or to send more.
const LINGER_PAUSE: Duration = Duration::from_secs(1);

/// After the last response over HTTP/1: what the parser refused may have a body behind it. The bodies of served requests
/// have been read already ([`crate::inbound`]).
const AFTER_HTTP1: Discard =
    Discard { bytes: 128 * 1024 * 1024, time: Duration::from_secs(10), pause: LINGER_PAUSE };
/// After the last frame over HTTP/2, after a flood of meaningless bytes, and at addresses with few connections.
pub(super) const SHORT: Discard =
    Discard { bytes: 16 * 1024 * 1024, time: LINGER_PAUSE, pause: LINGER_PAUSE };
/// From a caller that got 503 because all places are taken.
pub(super) const REFUSED: Discard =
    Discard { bytes: 64 * 1024 * 1024, time: Duration::from_secs(5), ..SHORT };

/// Reads until the caller has closed its side. Otherwise the kernel would reset the connection over unread bytes before the
/// caller has read the last response (RFC 9112 section 9.6).
pub(super) struct Linger {
    bounds: Discard,
    left: u64,
    end: Instant,
    until: Instant,
    alarm: Alarm,
}

impl Linger {
    pub(super) fn new(bounds: Discard) -> Self {
        let now = Instant::now();
        let (end, until) = (now + bounds.time, now + bounds.pause.min(bounds.time));
        Self { bounds, left: bounds.bytes, end, until, alarm: Alarm::default() }
    }

    /// Ready once the caller has closed its side, or the bounds are reached.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut read: impl FnMut(&mut Context<'_>, &mut ReadBuf<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<()> {
        let mut scratch = [0; 4096];
        while self.left > 0 {
            let mut buffer = ReadBuf::new(&mut scratch);
            match read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.left = self.left.saturating_sub(buffer.filled().len() as u64);
                    let now = Instant::now();
                    if now >= self.end {
                        break;
                    }
                    self.until = self.end.min(now + self.bounds.pause);
                }
                Poll::Ready(_) => break,
                Poll::Pending if self.alarm.poll(self.until, cx) => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use http_body_util::Empty;
    use hyper::body::{Bytes, Incoming};
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn refused(request: &str) -> Option<(&'static str, &'static str)> {
        let (mut caller, server) = tokio::io::duplex(256 * 1024);
        caller.write_all(request.as_bytes()).await.unwrap();
        caller.shutdown().await.unwrap();
        let service = service_fn(|_: Request<Incoming>| async {
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        });
        let connection =
            http1::Builder::new().max_buf_size(16 * 1024).serve_connection(TokioIo::new(server), service);
        connection.await.err().and_then(|error| parser_refusal(&error))
    }

    /// hyper distinguishes kinds of parser errors only by its words, so this test pins them.
    #[tokio::test]
    async fn each_kind_has_its_reason() {
        let long = "x".repeat(70_000);
        for (request, reason) in [
            ("GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), None),
            ("\u{16}\u{3}\u{1}\u{2}\r\n\r\n".to_owned(), Some("method")),
            ("GET / HTTP/1.1\r\nx y: a\r\n\r\n".to_owned(), Some("syntax")),
            ("GET http:/// HTTP/1.1\r\n\r\n".to_owned(), Some("target")),
            ("GET / HTTP/3.0\r\n\r\n".to_owned(), Some("version")),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), Some("http2")),
            ("POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n".to_owned(), Some("content_length")),
            (
                "POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n".to_owned(),
                Some("content_length"),
            ),
            ("POST / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n".to_owned(), Some("transfer_encoding")),
            ("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(), Some("transfer_encoding")),
            (format!("GET / HTTP/1.1\r\nx: {long}\r\n\r\n"), Some("head_too_large")),
            (format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(200)), Some("head_too_large")),
        ] {
            let found = refused(&request).await.map(|(reason, _)| reason);
            assert_eq!(found, reason, "{:?}", &request[..request.len().min(60)]);
        }
    }
}
