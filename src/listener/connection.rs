//! One accepted connection, from the TLS handshake to its last byte.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Body as HttpBody;
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::drive::{Drain, Drive, drive};
use super::limit::Held;
use super::stream::{CallerStream, Raw, Transport};
use super::watch::{Pace, Watch};
use super::{Handler, ListenerSettings};
use crate::config::Limits;
use crate::http1::Incoming;
use crate::proxy::caller::Activity;
use crate::proxy::{Caller, Peer};

/// hyper's number of headers for which it needs no heap.
const HEADERS_ON_STACK: usize = 100;
/// The least read buffer: a head that is longer than `header_bytes` but fits is answered 431 when it is complete.
const BUFFER: usize = 64 * 1024;

const HTTP2_STREAMS: u32 = 200;
const HTTP2_STREAM_WINDOW: u32 = 1024 * 1024;
const HTTP2_CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Streams that the caller reset before they were looked at: more than these end the connection (CVE-2023-44487).
const HTTP2_PENDING_RESETS: usize = 20;
/// Streams reset here for the caller's faults: more than these end the connection (CVE-2025-8671).
const HTTP2_LOCAL_RESETS: usize = 256;

/// What is read and thrown away after the last answer, so that the kernel does not reset the connection over unread
/// bytes before the caller has read that answer (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;

/// What the connections of one worker and listener share.
pub(super) struct Shared<H> {
    pub(super) handler: Arc<H>,
    pub(super) drain: Drain,
    pub(super) now: CancellationToken,
}

/// A connection as it was accepted.
pub(super) struct Accepted {
    pub(super) raw: Raw,
    pub(super) peer: Peer,
    pub(super) local: Option<std::net::SocketAddr>,
    pub(super) held: Held,
}

/// One per connection, so that a call costs one reference count that no other thread touches.
struct Calls<H> {
    watch: Arc<Watch>,
    shared: Arc<Shared<H>>,
    header_count: usize,
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
    let caller = Arc::new(Caller {
        listener,
        address,
        peer,
        local,
        tls: tls.is_some(),
        activity: Activity::default(),
    });
    let (transport, known) = match tls {
        None => (Transport::Plain(raw), None),
        // Boxed: a handshake's state would else be part of every connection's.
        Some(config) => match Box::pin(handshake(config, raw, settings.limits.header_timeout)).await {
            Ok((transport, http2)) => (transport, Some(http2)),
            Err(error) => {
                return tracing::debug!(event = "caller.no_tls", peer = ?caller.peer, %error, "no TLS with a caller");
            }
        },
    };
    let watch = Arc::new(Watch::new(caller));
    let stream = CallerStream::new(transport, Arc::clone(&watch), shared.now.clone(), held);
    serve_http(stream, known, &watch, &settings.limits, &shared).await;
}

/// The stream, and whether ALPN chose `h2`.
async fn handshake(
    config: Arc<rustls::ServerConfig>,
    raw: Raw,
    limit: Option<Duration>,
) -> io::Result<(Transport, bool)> {
    let accept = TlsAcceptor::from(config).accept(raw);
    let stream = match limit {
        None => accept.await?,
        Some(limit) => tokio::time::timeout(limit, accept).await.map_err(io::Error::from)??,
    };
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok((Transport::Tls(Box::new(stream)), http2))
}

/// `known`: whether ALPN chose HTTP/2; without TLS, the first bytes tell.
async fn serve_http<H: Handler>(
    stream: CallerStream,
    known: Option<bool>,
    watch: &Arc<Watch>,
    limits: &Limits,
    shared: &Arc<Shared<H>>,
) {
    let mut first = Sniff(Some(stream));
    let http2 = match known {
        Some(http2) => Some(http2),
        None => drive(&mut first, Pace::http1(limits), watch, &shared.drain).await.flatten(),
    };
    let (Some(http2), Some(stream)) = (http2, first.0) else { return };
    let calls = Arc::new(Calls {
        watch: Arc::clone(watch),
        shared: Arc::clone(shared),
        header_count: limits.header_count,
    });
    let service = service_fn(move |request| {
        calls.watch.call_begins();
        answer(Arc::clone(&calls), request)
    });
    if http2 {
        // Boxed, so that an HTTP/1 connection does not have the size of an HTTP/2 one.
        let connection = http2_builder(limits).serve_connection(TokioIo::new(stream), service);
        let mut connection = Box::pin(connection);
        if let Some(Err(error)) = drive(&mut connection, Pace::http2(limits), watch, &shared.drain).await {
            tracing::debug!(
                event = "caller.broke_off", peer = ?watch.caller.peer, %error,
                "an HTTP/2 connection of a caller broke off"
            );
        }
        return;
    }
    let mut connection =
        http1_builder(limits).serve_connection(TokioIo::new(stream), service).with_upgrades();
    let ended = drive(&mut connection, Pace::http1(limits), watch, &shared.drain).await;
    watch.becomes_tunnel();
    let Some(ended) = ended else { return };
    let refused = ended.as_ref().is_err_and(hyper::Error::is_parse);
    if let Err(error) = ended {
        tracing::debug!(
            event = "caller.broke_off", peer = ?watch.caller.peer, %error,
            "an HTTP/1 connection of a caller broke off"
        );
        if !refused {
            return;
        }
    }
    // Without parts, the stream lives on as a tunnel.
    if let Some(parts) = connection.into_parts() {
        Box::pin(linger(parts.io.into_inner(), refused)).await;
    }
}

async fn answer<H: Handler>(
    calls: Arc<Calls<H>>,
    request: Request<hyper::body::Incoming>,
) -> Result<Response<H::Body>, Infallible> {
    // hyper counts HTTP/1 headers itself, but not those of HTTP/2.
    if request.headers().len() > calls.header_count {
        let mut response = Response::new(H::Body::default());
        *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Ok(response);
    }
    let http1 = request.version() < Version::HTTP_2;
    let mut response = calls.shared.handler.call(&calls.watch.caller, request.map(Incoming::of_hyper)).await;
    // hyper says so itself only where it was told of the stop before the answer.
    if http1 && calls.shared.drain.has_begun() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

fn http1_builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_header_size(limits.header_bytes)
        .max_buf_size(limits.header_bytes.max(BUFFER));
    if limits.header_count != HEADERS_ON_STACK {
        builder.max_headers(limits.header_count);
    }
    builder
}

fn http2_builder(limits: &Limits) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(HTTP2_STREAMS)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
        .max_pending_accept_reset_streams(HTTP2_PENDING_RESETS)
        .max_local_error_reset_streams(HTTP2_LOCAL_RESETS);
    builder
}

/// Throws away what the caller still sends: after a refused head, and else only where something waits to be read, since
/// the caller of a clean `Connection: close` is not waited for.
pub(super) async fn linger(mut stream: impl AsyncRead + Unpin, refused: bool) {
    let mut scrap = vec![0; 16 * 1024];
    let until = Instant::now() + LINGER;
    let mut total = 0;
    let mut patience = if refused { until } else { Instant::now() };
    while let Ok(Ok(read @ 1..)) = tokio::time::timeout_at(patience, stream.read(&mut scrap)).await {
        total += read;
        if total > LINGER_BYTES {
            return;
        }
        patience = until;
    }
}

/// Reads the first bytes; the stream is gone once it was shut down.
struct Sniff(Option<CallerStream>);

impl Drive for Sniff {
    type Output = Option<bool>;

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            None => Poll::Ready(None),
            Some(stream) => stream.poll_is_http2(context).map(|result| result.ok().flatten()),
        }
    }

    fn shut_down(&mut self) {
        self.0 = None;
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl<S, B> Drive for http1::UpgradeableConnection<TokioIo<CallerStream>, S>
where
    S: HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<BoxError>,
    B: HttpBody + 'static,
    B::Error: Into<BoxError>,
{
    type Output = hyper::Result<()>;

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Self::Output> {
        Future::poll(Pin::new(self), context)
    }

    fn shut_down(&mut self) {
        Pin::new(self).graceful_shutdown();
    }
}

impl<S, B> Drive for Pin<Box<http2::Connection<TokioIo<CallerStream>, S, TokioExecutor>>>
where
    S: HttpService<hyper::body::Incoming, ResBody = B>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: HttpBody + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Output = hyper::Result<()>;

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Self::Output> {
        Future::poll(self.as_mut(), context)
    }

    fn shut_down(&mut self) {
        self.as_mut().graceful_shutdown();
    }
}
