//! Connections to an origin: opening them, and the tasks that drive them.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Poll, ready};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::error::UpstreamError;
use super::origin::Origin;
use super::pool;
use super::request_body::RequestBody;
use super::wire::{Traffic, Wire};
use crate::flow::Window;
use crate::idle::Idle;
use crate::metrics::RouteMetrics;
use crate::net::ConnectErrorKind;

/// The largest response head that is read, in bytes and in fields.
const HEAD: u32 = 128 * 1024;
const FIELDS: usize = 256;
/// What an HTTP/2 peer may have under way to us; each stream may have a part of it.
const HTTP2_WINDOW: u32 = 16 * 1024 * 1024;
/// Of one request's body, what waits in memory to be sent.
const HTTP2_SEND_BUFFER: usize = 128 * 1024;
/// The limit of streams before the peer's SETTINGS have come: no peer can announce it.
const NOT_SETTLED: usize = usize::MAX - 1;
/// How long a new connection waits for them. They are the first that a peer sends (RFC 9113 section 3.4), but some are slow.
const SETTLING: Duration = Duration::from_secs(1);

/// How often a connection with an abandoned stream is looked at.
const ABANDONED: Duration = Duration::from_secs(1);

/// A connection that is ready for a request.
pub(super) enum Connection {
    /// Boxed: it goes from hand to hand with its request and its response.
    Http1(Box<Http1>),
    Http2(Http2),
}

/// An HTTP/1.1 connection.
#[derive(Debug)]
pub(super) struct Http1 {
    pub(super) sender: http1::SendRequest<RequestBody>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) born: Instant,
    /// How long the upstream keeps the connection without a request, where it said so (`Keep-Alive: timeout`).
    pub(super) kept: Option<Duration>,
    /// Times out the responses: one timer for all of them, see [`Idle`].
    pub(super) patience: Idle,
    driver: AbortHandle,
}

impl Http1 {
    /// Ends it at once, whatever is on its way.
    pub(super) fn abort(&self) {
        self.driver.abort();
    }
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
    /// Wakes requests that wait for room on any connection of the pool.
    room: Arc<Notify>,
    tasks: Tasks,
}

/// Starts hyper's tasks. The first one owns the socket: its end is the connection's.
#[derive(Debug, Clone, Default)]
struct Tasks(Arc<OnceLock<AbortHandle>>);

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let task = tokio::spawn(task);
        self.0.get_or_init(|| task.abort_handle());
    }
}

/// A stream in use, for as long as it lives.
#[derive(Debug)]
pub(super) struct StreamInUse(Arc<Http2State>);

impl StreamInUse {
    /// See [`Http2State::retire`].
    pub(super) fn retire(&self) {
        self.0.retire();
    }

    /// Gives up a stream whose body the peer does not take, and does not refuse. hyper has no way to reset it: the
    /// connection ends, once no other stream is in use.
    pub(super) async fn abandon(self) {
        self.0.retire();
        while self.0.streams.load(Ordering::Relaxed) > 1 {
            tokio::time::sleep(ABANDONED).await;
        }
        if let Some(task) = self.0.tasks.0.get() {
            task.abort();
        }
    }
}

impl Drop for StreamInUse {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
        self.0.note_use();
        self.0.room.notify_one();
    }
}

impl Http2 {
    pub(super) fn stream(&self) -> StreamInUse {
        self.state.streams.fetch_add(1, Ordering::Relaxed);
        self.state.note_use();
        StreamInUse(Arc::clone(&self.state))
    }

    pub(super) fn is_usable(&self) -> bool {
        !self.sender.is_closed() && !self.state.retired.load(Ordering::Relaxed)
    }

    /// One more stream may be opened. More of them would wait within hyper, and be lost with the connection.
    pub(super) fn has_room(&self) -> bool {
        self.is_usable() && self.state.streams.load(Ordering::Relaxed) < self.most_streams()
    }

    /// Zero: the peer takes none for now.
    pub(super) fn most_streams(&self) -> usize {
        self.state.most_streams.load(Ordering::Relaxed)
    }

    /// Since when it has had no stream.
    pub(super) fn unused_since(&self) -> Option<Instant> {
        let unused = self.state.streams.load(Ordering::Relaxed) == 0;
        unused.then(|| self.state.born + Duration::from_millis(self.state.used.load(Ordering::Relaxed)))
    }
}

impl Http2State {
    fn new(traffic: Arc<Traffic>, room: Arc<Notify>) -> Self {
        Self {
            born: Instant::now(),
            traffic,
            streams: AtomicUsize::new(0),
            most_streams: AtomicUsize::new(0),
            used: AtomicU64::new(0),
            retired: AtomicBool::new(false),
            room,
            tasks: Tasks::default(),
        }
    }

    /// It gets no new requests, and ends once its streams have ended.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.room.notify_waiters();
    }

    fn note_use(&self) {
        let ms = self.born.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
        self.used.store(ms, Ordering::Relaxed);
    }

    /// `room`: streams at a time, whatever more the peer takes: those whose callers do not read must not use up the
    /// connection's window.
    fn note_limit(&self, most: usize, room: usize) {
        // One stream at a time, as long as the peer has not said what it takes.
        let most = if most == NOT_SETTLED { 1 } else { most.min(room) };
        if self.most_streams.swap(most, Ordering::Relaxed) < most {
            self.room.notify_waiters();
        }
    }
}

impl Origin {
    /// A new connection, in the protocol that the origin speaks. `http1`: in no other than HTTP/1.1. `room` is woken
    /// when an HTTP/2 one can take more requests.
    pub(super) async fn dial(
        &self,
        http1: bool,
        metrics: &Arc<RouteMetrics>,
        room: &Arc<Notify>,
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
        let tls = connected.stream.tls_failure();
        let (wire, traffic) = Wire::new(connected.stream, metrics);
        let http2 = !http1 && self.speaks_http2(connected.http2);
        if !http1 {
            self.learn_protocol(http2);
        }
        if http2 {
            let state = Http2State::new(traffic, Arc::clone(room));
            // h2 keeps only the text of what failed below it, where our certificate is refused.
            let opened = self.open_http2(wire, state).await;
            opened
                .map(Connection::Http2)
                .map_err(|error| tls.told(self.name()).map_or(error, UpstreamError::connect))
        } else {
            self.open_http1(wire, traffic).await.map(|connection| Connection::Http1(Box::new(connection)))
        }
    }

    async fn open_http1(&self, wire: Wire, traffic: Arc<Traffic>) -> Result<Http1, UpstreamError> {
        let mut builder = http1::Builder::new();
        builder
            .max_buf_size(usize::try_from(HEAD).expect("128 KiB is a size"))
            .max_headers(FIELDS)
            // RFC 9112 sections 5.1 and 5.2: a proxy takes these out of a response, and does not refuse it.
            .allow_spaces_after_header_name_in_responses(true)
            .allow_obsolete_multiline_headers_in_responses(true)
            .title_case_headers(self.title_case());
        let (sender, connection) =
            builder.handshake(TokioIo::new(wire)).await.map_err(|error| UpstreamError::http(&error, self))?;
        // Its end is told to the request that uses it; there is nobody else to tell.
        let driver = tokio::spawn(connection.with_upgrades()).abort_handle();
        Ok(Http1 { sender, traffic, born: Instant::now(), kept: None, patience: Idle::new(None), driver })
    }

    /// Waits until the peer has said how many streams it takes: more of them would be refused.
    async fn open_http2(&self, wire: Wire, state: Http2State) -> Result<Http2, UpstreamError> {
        let window = Window::of_upstream(HTTP2_WINDOW);
        state.traffic.speaks_http2();
        let mut builder = http2::Builder::new(state.tasks.clone());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(window.stream())
            .initial_connection_window_size(window.connection())
            .initial_max_send_streams(NOT_SETTLED)
            .max_send_buf_size(HTTP2_SEND_BUFFER)
            .max_header_list_size(HEAD);
        let failed = |error| UpstreamError::http(&error, self);
        let (sender, connection) = builder.handshake(TokioIo::new(wire)).await.map_err(failed)?;
        let mut driver = Driver { connection, state: Arc::new(state), window };
        match tokio::time::timeout(SETTLING, driver.run(Until::Settled)).await {
            Ok(Some(Err(error))) => return Err(failed(error)),
            Ok(Some(Ok(()))) => return Err(UpstreamError::closed(self.name())),
            Ok(None) | Err(_) => {}
        }
        let state = Arc::clone(&driver.state);
        tokio::spawn(async move {
            driver.run(Until::End).await;
            drop(driver.connection);
            driver.state.retire();
            drop(driver.window);
        });
        Ok(Http2 { sender, state })
    }
}

struct Driver {
    connection: http2::Connection<TokioIo<Wire>, RequestBody, Tasks>,
    state: Arc<Http2State>,
    window: Window,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// The peer's SETTINGS have come.
    Settled,
    End,
}

impl Driver {
    /// Drives the connection; gives how it ended, where it has ended.
    async fn run(&mut self, until: Until) -> Option<hyper::Result<()>> {
        let traffic = Arc::clone(&self.state.traffic);
        let mut arrived = pin!(traffic.arrived.notified());
        poll_fn(|cx| {
            loop {
                // Looked at first: a peer may say goodbye with its SETTINGS.
                if let Poll::Ready(ended) = Pin::new(&mut self.connection).poll(cx) {
                    return Poll::Ready(Some(ended));
                }
                let most = self.connection.current_max_send_streams();
                self.state.note_limit(most, self.window.streams());
                if most != NOT_SETTLED && until == Until::Settled {
                    return Poll::Ready(None);
                }
                if most != NOT_SETTLED && most > 0 {
                    return Poll::Pending;
                }
                // hyper looks at a new limit with the next request: where none can be sent, nothing else would.
                ready!(arrived.as_mut().poll(cx));
                arrived.set(traffic.arrived.notified());
            }
        })
        .await
    }
}
