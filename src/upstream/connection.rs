//! Opening a connection to an upstream, and the task that drives it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::error::{UpstreamError, UpstreamErrorKind};
use super::idle::Idle;
use super::pool::{Http1, Http2};
use crate::config::RouteConfig;
use crate::metrics::RouteMetrics;
use crate::net::{Connected, Stream};

/// The largest response head that is read from an upstream.
const HEAD: usize = 128 * 1024;
/// Fields of a response head.
const HEADERS: usize = 256;
/// HTTP/2 windows that a body of some MiB does not stall on.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// An HTTP/2 connection with calls on it is pinged, so that a dead one is noticed.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_ANSWER: Duration = Duration::from_secs(20);

/// How many bytes came from the peer; tells whether a broken connection had begun to answer.
#[derive(Debug, Clone, Default)]
pub(super) struct ReadCount(Arc<AtomicU64>);

impl ReadCount {
    pub(super) fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A new connection, ready for its first call.
pub(super) enum Opened {
    Http1(Http1),
    Http2(Http2),
}

pub(super) async fn open_http1(
    connected: Connected,
    metrics: &Arc<RouteMetrics>,
    route: &RouteConfig,
) -> Result<Opened, UpstreamError> {
    let read = ReadCount::default();
    let io = TokioIo::new(Watched { stream: connected.stream, read: read.clone() });
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD).max_headers(HEADERS);
    let (sender, connection) = builder
        .handshake(io)
        .await
        .map_err(|error| UpstreamError::http(&error, &route.upstream.authority))?;
    let open = Open::new(metrics);
    tokio::spawn(async move {
        // Its end is told to the call that uses it; there is nobody else to tell.
        let _ = connection.with_upgrades().await;
        drop(open);
    });
    let patience = Idle::new(route.response_timeout);
    Ok(Opened::Http1(Http1 { sender, born: Instant::now(), read, patience }))
}

pub(super) async fn open_http2(
    connected: Connected,
    metrics: &Arc<RouteMetrics>,
    authority: &str,
) -> Result<Opened, UpstreamError> {
    let io = TokioIo::new(connected.stream);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(HEAD).unwrap_or(u32::MAX))
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWER);
    let (sender, mut connection) =
        builder.handshake(io).await.map_err(|error| UpstreamError::http(&error, authority))?;
    let open = Open::new(metrics);
    let most_streams = Arc::new(AtomicUsize::new(connection.current_max_send_streams()));
    let most = Arc::clone(&most_streams);
    tokio::spawn(async move {
        let _ = std::future::poll_fn(|cx| {
            let polled = Pin::new(&mut connection).poll(cx);
            most.store(connection.current_max_send_streams(), Ordering::Relaxed);
            polled
        })
        .await;
        drop(open);
    });
    let now = Instant::now();
    let streams = Arc::new(AtomicUsize::new(0));
    Ok(Opened::Http2(Http2 { sender, born: now, last_used: now, streams, most_streams }))
}

pub(super) fn no_http2(authority: &str) -> UpstreamError {
    UpstreamError::new(
        UpstreamErrorKind::Unreachable,
        "tls_protocol_error",
        format!(
            "{authority} does not speak HTTP/2 over TLS (ALPN); set protocol = \"auto\" or \"http1\" on the route"
        ),
    )
}

/// Counts a connection for as long as it is open.
struct Open(Arc<RouteMetrics>);

impl Open {
    fn new(metrics: &Arc<RouteMetrics>) -> Self {
        metrics.upstream_connected();
        Self(Arc::clone(metrics))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.upstream_disconnected();
    }
}

/// A stream that counts what it read.
struct Watched {
    stream: Stream,
    read: ReadCount,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        if read > 0 {
            self.read.0.fetch_add(read as u64, Ordering::Relaxed);
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
