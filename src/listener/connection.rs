//! One accepted connection, from the TLS handshake to its last byte.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Body as HttpBody;
use hyper::server::conn::http2;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::drive::{Drain, Drive, drive};
use super::http1::{Connection, End};
use super::limit::Held;
use super::stream::{CallerStream, Raw, Transport};
use super::watch::{Pace, Watch};
use super::{Handler, ListenerSettings};
use crate::config::Limits;
use crate::http1::{self, Incoming};
use crate::proxy::caller::Activity;
use crate::proxy::{Caller, Peer};

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
pub(super) struct Calls<H> {
    pub(super) watch: Arc<Watch>,
    pub(super) shared: Arc<Shared<H>>,
}

impl<H: Handler> Calls<H> {
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn would have the request twice: as given, and as lent"
    )]
    pub(super) fn answer(
        self: Arc<Self>,
        mut request: Box<Request<Incoming>>,
    ) -> impl Future<Output = Response<H::Body>> + Send {
        async move { self.shared.handler.call(&self.watch.caller, &mut request).await }
    }
}

/// Serves the connection to its end; failures are the caller's, and told at debug level.
pub(super) async fn serve<H: Handler>(
    accepted: Accepted,
    settings: Arc<ListenerSettings>,
    shared: Arc<Shared<H>>,
) {
    let Accepted { raw, peer, local, held } = accepted;
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
    serve_http(stream, known, &settings.limits, Arc::new(Calls { watch, shared })).await;
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
    limits: &Limits,
    calls: Arc<Calls<H>>,
) {
    if known == Some(true) {
        return Box::pin(serve_http2(stream, limits, calls)).await;
    }
    let (watch, shared) = (Arc::clone(&calls.watch), Arc::clone(&calls.shared));
    let head = http1::Limits { bytes: limits.header_bytes, fields: limits.header_count };
    let mut connection = Connection::new(stream, known.is_none(), head, Arc::clone(&calls));
    let ended = drive(&mut connection, Pace::http1(limits), &watch, &shared.drain).await;
    match ended {
        None | Some(End::Tunnel) => {}
        Some(End::Http2(stream)) => Box::pin(serve_http2(stream, limits, calls)).await,
        Some(End::Closed(mut stream)) => {
            if has_sent_more(&mut stream).await {
                Box::pin(linger(stream, false)).await;
            }
        }
        Some(End::Refused(stream, refused)) => {
            tracing::debug!(
                event = "caller.refused", peer = ?watch.caller.peer, reason = refused.reason(),
                "refused a request that is not one"
            );
            Box::pin(linger(stream, true)).await;
        }
        Some(End::Broken(error)) => tracing::debug!(
            event = "caller.broke_off", peer = ?watch.caller.peer, %error,
            "an HTTP/1 connection of a caller broke off"
        ),
    }
}

async fn serve_http2<H: Handler>(stream: CallerStream, limits: &Limits, calls: Arc<Calls<H>>) {
    let (watch, shared) = (Arc::clone(&calls.watch), Arc::clone(&calls.shared));
    let header_count = limits.header_count;
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        calls.watch.call_begins();
        // hyper does not count the fields of HTTP/2.
        if request.headers().len() > header_count {
            let mut response = Response::new(H::Body::default());
            *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            return Answering(Box::pin(std::future::ready(response)));
        }
        Answering(Box::pin(Arc::clone(&calls).answer(Box::new(request.map(Incoming::of_hyper)))))
    });
    let connection = http2_builder(limits).serve_connection(TokioIo::new(stream), service);
    let mut connection = Box::pin(connection);
    if let Some(Err(error)) = drive(&mut connection, Pace::http2(limits), &watch, &shared.drain).await {
        tracing::debug!(
            event = "caller.broke_off", peer = ?watch.caller.peer, %error,
            "an HTTP/2 connection of a caller broke off"
        );
    }
}

/// A call over HTTP/2. Boxed: hyper moves it several times before its task has it.
struct Answering<B>(Pin<Box<dyn Future<Output = Response<B>> + Send>>);

impl<B> Future for Answering<B> {
    type Output = Result<Response<B>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(context).map(Ok)
    }
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

/// Whether something waits to be read: mostly not, and then there is nothing to linger for.
async fn has_sent_more(stream: &mut CallerStream) -> bool {
    std::future::poll_fn(|context| {
        let mut scrap = [0; 256];
        let mut buffer = ReadBuf::new(&mut scrap);
        let polled = Pin::new(&mut *stream).poll_read(context, &mut buffer);
        Poll::Ready(matches!(polled, Poll::Ready(Ok(()))) && !buffer.filled().is_empty())
    })
    .await
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

type BoxError = Box<dyn std::error::Error + Send + Sync>;

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
