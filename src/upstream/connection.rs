//! Connections to an origin: opening them, and the tasks that drive them.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::error::UpstreamError;
use super::origin::Origin;
use super::pool;
use super::request_body::RequestBody;
use crate::flow::Window;
use crate::idle::{Headway, Idle};
use crate::metrics::RouteMetrics;
use crate::net::{ConnectErrorKind, Stream};

/// The largest response head that is read, in bytes and in fields.
const HEAD: u32 = 128 * 1024;
const FIELDS: usize = 256;
/// What an HTTP/2 peer may have under way to us; each stream may have a part of it.
const HTTP2_WINDOW: u32 = 16 * 1024 * 1024;
/// Of one request's body, what waits in memory to be sent.
const HTTP2_SEND_BUFFER: usize = 128 * 1024;
/// Streams that are opened at the same time on one connection, whatever more the peer takes. Few enough that those whose
/// callers do not read cannot use up the connection's window.
const HTTP2_STREAMS: usize = 64;
/// The limit of streams before the peer's SETTINGS have come: no peer can announce it.
const NOT_SETTLED: usize = usize::MAX - 1;
/// How long a new connection waits for them. They are the first that a peer sends (RFC 9113 section 3.4), but some are slow.
const SETTLING: Duration = Duration::from_secs(1);

/// A connection that is ready for a request.
pub(super) enum Connection {
    Http1(Http1),
    Http2(Http2),
}

/// An HTTP/1.1 connection.
#[derive(Debug)]
pub(super) struct Http1 {
    pub(super) sender: http1::SendRequest<RequestBody>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) born: Instant,
    /// The upstream said that it will close the connection then (`Keep-Alive: timeout`).
    pub(super) kept_until: Option<Instant>,
    /// Times out the responses: one timer for all of them, see [`Idle`].
    pub(super) patience: Idle,
}

/// An HTTP/2 connection; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Http2 {
    pub(super) sender: http2::SendRequest<RequestBody>,
    pub(super) state: Arc<Http2State>,
}

#[derive(Debug)]
pub(super) struct Http2State {
    pub(super) born: Instant,
    pub(super) traffic: Arc<Traffic>,
    streams: AtomicUsize,
    /// What the peer takes at a time, as of its last SETTINGS.
    most_streams: AtomicUsize,
    /// When a stream last began or ended: ms from `born`.
    used: AtomicU64,
    /// It gets no new requests: it refused one, or went silent.
    retired: AtomicBool,
}

/// A stream in use, for as long as it lives.
#[derive(Debug)]
pub(super) struct StreamInUse(Arc<Http2State>);

impl Drop for StreamInUse {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
        self.0.note_use();
    }
}

impl Http2 {
    pub(super) fn stream(&self) -> StreamInUse {
        self.state.streams.fetch_add(1, Ordering::Relaxed);
        self.state.note_use();
        StreamInUse(Arc::clone(&self.state))
    }

    /// It ends once its streams have ended.
    pub(super) fn retire(&self) {
        self.state.retired.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_usable(&self) -> bool {
        !self.sender.is_closed() && !self.state.retired.load(Ordering::Relaxed)
    }

    pub(super) fn has_room(&self) -> bool {
        let most = self.state.most_streams.load(Ordering::Relaxed).min(HTTP2_STREAMS);
        self.is_usable() && self.state.streams.load(Ordering::Relaxed) < most
    }

    /// How long it has had no stream.
    pub(super) fn unused_since(&self) -> Option<Instant> {
        let unused = self.state.streams.load(Ordering::Relaxed) == 0;
        unused.then(|| self.state.born + Duration::from_millis(self.state.used.load(Ordering::Relaxed)))
    }
}

impl Http2State {
    fn note_use(&self) {
        let ms = self.born.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
        self.used.store(ms, Ordering::Relaxed);
    }
}

impl Origin {
    /// A new connection, in the protocol that the origin speaks. `http1`: in no other than HTTP/1.1.
    pub(super) async fn dial(
        &self,
        http1: bool,
        metrics: &Arc<RouteMetrics>,
    ) -> Result<Connection, UpstreamError> {
        let http1 = http1 || self.requires_http1();
        let connector = if http1 { &self.http1_connector } else { &self.connector };
        let connected = match connector.connect().await {
            Err(error) if error.kind == ConnectErrorKind::Full && pool::drop_unused() => {
                // The tasks of those that were dropped run before this one goes on.
                tokio::task::yield_now().await;
                connector.connect().await
            }
            connected => connected,
        };
        let connected = connected.map_err(UpstreamError::connect)?;
        let open = Open::new(metrics);
        let http2 = !http1 && self.speaks_http2(connected.http2);
        if !http1 {
            self.learn_protocol(http2);
        }
        if http2 {
            self.open_http2(connected.stream, open).await.map(Connection::Http2)
        } else {
            self.open_http1(connected.stream, open).await.map(Connection::Http1)
        }
    }

    async fn open_http1(&self, stream: Stream, open: Open) -> Result<Http1, UpstreamError> {
        let traffic = Arc::new(Traffic::default());
        let io = TokioIo::new(Wire { stream, traffic: Arc::clone(&traffic), open, broken: false });
        let mut builder = http1::Builder::new();
        builder
            .max_buf_size(usize::try_from(HEAD).expect("128 KiB is a size"))
            .max_headers(FIELDS)
            // RFC 9112 sections 5.1 and 5.2: a proxy takes these out of a response, and does not refuse it.
            .allow_spaces_after_header_name_in_responses(true)
            .allow_obsolete_multiline_headers_in_responses(true)
            .title_case_headers(self.title_case());
        let (sender, connection) =
            builder.handshake(io).await.map_err(|error| UpstreamError::http(&error, self))?;
        // Its end is told to the request that uses it; there is nobody else to tell.
        tokio::spawn(connection.with_upgrades());
        let patience = Idle::new(None);
        Ok(Http1 { sender, traffic, born: Instant::now(), kept_until: None, patience })
    }

    /// Waits until the peer has said how many streams it takes: more of them would be refused.
    async fn open_http2(&self, stream: Stream, open: Open) -> Result<Http2, UpstreamError> {
        let traffic = Arc::new(Traffic::default());
        let io = TokioIo::new(Wire { stream, traffic: Arc::clone(&traffic), open, broken: false });
        let window = Window::take(HTTP2_WINDOW);
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(window.stream())
            .initial_connection_window_size(window.connection())
            .initial_max_send_streams(NOT_SETTLED)
            .max_send_buf_size(HTTP2_SEND_BUFFER)
            .max_header_list_size(HEAD);
        let (sender, mut connection) =
            builder.handshake(io).await.map_err(|error| UpstreamError::http(&error, self))?;
        let most = match tokio::time::timeout(SETTLING, settle(&mut connection, &traffic, self)).await {
            Ok(settled) => settled?,
            Err(_) => NOT_SETTLED,
        };
        let born = Instant::now();
        let state = Arc::new(Http2State {
            born,
            traffic,
            streams: AtomicUsize::new(0),
            most_streams: AtomicUsize::new(limit(most)),
            used: AtomicU64::new(0),
            retired: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            let _ = poll_fn(|cx| {
                let polled = Pin::new(&mut connection).poll(cx);
                let most = limit(connection.current_max_send_streams());
                shared.most_streams.store(most, Ordering::Relaxed);
                polled
            })
            .await;
            drop(window);
        });
        Ok(Http2 { sender, state })
    }
}

type Http2Task = http2::Connection<TokioIo<Wire>, RequestBody, TokioExecutor>;

/// Waits for the peer's SETTINGS; gives the number of streams that it takes.
async fn settle(
    connection: &mut Http2Task,
    traffic: &Traffic,
    origin: &Origin,
) -> Result<usize, UpstreamError> {
    let mut arrived = pin!(traffic.arrived.notified());
    poll_fn(|cx| {
        loop {
            // Looked at first: a peer may say goodbye with its SETTINGS.
            match Pin::new(&mut *connection).poll(cx) {
                Poll::Ready(Err(error)) => return Poll::Ready(Err(UpstreamError::http(&error, origin))),
                Poll::Ready(Ok(())) => return Poll::Ready(Err(UpstreamError::closed(origin.name()))),
                Poll::Pending => {}
            }
            let most = connection.current_max_send_streams();
            if most != NOT_SETTLED {
                return Poll::Ready(Ok(most));
            }
            ready!(arrived.as_mut().poll(cx));
            arrived.set(traffic.arrived.notified());
        }
    })
    .await
}

/// One stream at a time, as long as the peer has not said what it takes.
fn limit(most: usize) -> usize {
    if most == NOT_SETTLED { 1 } else { most }
}

/// Counts a connection for as long as it is open.
#[derive(Debug)]
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

/// What went over a connection, in bytes.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    read: AtomicU64,
    /// Grows where anything was written that the peer may have got.
    written: AtomicU64,
    arrived: Notify,
    /// Of a response over HTTP/1.
    pub(super) headway: Headway,
}

impl Traffic {
    pub(super) fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

/// The most that goes out as one record of TLS.
const RECORD: usize = 16 * 1024;

/// A stream that counts what it takes and gives, and closes in order when it is dropped.
struct Wire {
    stream: Stream,
    traffic: Arc<Traffic>,
    #[expect(dead_code, reason = "counts by being dropped")]
    open: Open,
    /// A write failed.
    broken: bool,
}

impl Wire {
    /// An upstream may answer before it has read a request to its end, and then close: what it does not take is thrown
    /// away, and reading goes on to its response or to the end (RFC 9112 section 9.5).
    fn judge_write(&mut self, polled: Poll<io::Result<usize>>, offered: usize) -> Poll<io::Result<usize>> {
        match polled {
            Poll::Ready(Ok(taken)) => {
                self.traffic.written.fetch_add(taken as u64, Ordering::Relaxed);
                Poll::Ready(Ok(taken))
            }
            Poll::Ready(Err(_)) => {
                // Nobody can read a part of a record; of several, some may have arrived.
                if offered > RECORD && self.stream.is_tls() {
                    self.traffic.written.fetch_add(1, Ordering::Relaxed);
                }
                self.broken = true;
                Poll::Ready(Ok(offered))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Wire {
    /// As far as that takes no waiting: a TLS peer would take a bare end for an attack.
    fn drop(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let _ = pin!(&mut self.stream).poll_shutdown(&mut cx);
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        if read > 0 {
            self.traffic.read.fetch_add(read as u64, Ordering::Relaxed);
            self.traffic.arrived.notify_one();
            self.traffic.headway.read(read)?;
        }
        polled
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Ready(Ok(buf.len()));
        }
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.judge_write(polled, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let offered = bufs.iter().map(|buf| buf.len()).sum();
        if self.broken {
            return Poll::Ready(Ok(offered));
        }
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.judge_write(polled, offered)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.broken {
            return Poll::Ready(Ok(()));
        }
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.judge_write(polled.map_ok(|()| 0), 0).map_ok(|_| ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
