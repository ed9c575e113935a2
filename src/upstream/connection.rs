//! Connections to origins: opening them, the tasks and sockets that drive them, and the pools that keep them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::body::RequestBody;
use super::{Origin, UpstreamError};
use crate::flow::{self, Reading, Window};
use crate::idle::{Headway, Idle};
use crate::metrics::RouteMetrics;
use crate::net::{ConnectErrorKind, Stream, UPSTREAMS};

/// The largest response head that is read, in bytes and in fields.
const HEAD: u32 = 128 * 1024;
const FIELDS: usize = 256;
/// What an HTTP/2 upstream may have in flight to bearerd. Each stream may have a part of it.
const HTTP2_WINDOW: u32 = 16 * 1024 * 1024;
/// How much of one request body waits in memory to be sent.
const HTTP2_SEND_BUFFER: usize = 128 * 1024;
/// The limit of streams before the peer's SETTINGS arrive. No peer can announce this number.
const NOT_SETTLED: usize = usize::MAX - 1;
/// How long a new connection waits for SETTINGS. They come first (RFC 9113 section 3.4), but some peers are slow.
const SETTLING: Duration = Duration::from_secs(1);

/// How often a connection with an abandoned stream is checked.
const ABANDONED: Duration = Duration::from_secs(1);

/// A connection that is ready for a request.
pub(super) enum Connection {
    /// Boxed, because it moves along with its request and its response.
    Http1(Box<Http1>),
    Http2(Http2),
}

/// An HTTP/1.1 connection.
#[derive(Debug)]
pub(super) struct Http1 {
    pub(super) sender: http1::SendRequest<RequestBody>,
    pub(super) traffic: Arc<Traffic>,
    born: Instant,
    /// How long the upstream keeps the connection without a request, if it said so (`Keep-Alive: timeout`).
    pub(super) kept: Option<Duration>,
    /// Times out the responses: one timer for all of them.
    pub(super) patience: Idle,
    driver: AbortHandle,
}

impl Http1 {
    /// Ends the connection at once, with everything on it.
    pub(super) fn abort(&self) {
        self.driver.abort();
    }
}

/// An HTTP/2 connection. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Http2 {
    pub(super) sender: http2::SendRequest<RequestBody>,
    pub(super) state: Arc<Http2State>,
}

#[derive(Debug)]
pub(super) struct Http2State {
    born: Instant,
    pub(super) traffic: Arc<Traffic>,
    streams: AtomicUsize,
    /// How many streams the peer accepts at a time, by its last SETTINGS.
    most_streams: AtomicUsize,
    /// When a stream last began or ended: ms from `born`.
    used: AtomicU64,
    /// It gets no new requests, because it refused one or went silent.
    retired: AtomicBool,
    /// Wakes requests that wait for room on any connection of the pool.
    room: Arc<Notify>,
    tasks: Tasks,
}

/// Starts hyper's tasks. The first one owns the socket, so the connection ends with it.
#[derive(Debug, Clone, Default)]
struct Tasks(Arc<OnceLock<AbortHandle>>);

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let task = tokio::spawn(task);
        self.0.get_or_init(|| task.abort_handle());
    }
}

/// A stream in use, until it is dropped.
#[derive(Debug)]
pub(super) struct StreamInUse(Arc<Http2State>);

impl StreamInUse {
    /// See [`Http2State::retire`].
    pub(super) fn retire(&self) {
        self.0.retire();
    }

    /// Gives up a stream whose body the peer neither takes nor refuses. hyper cannot reset it, so the connection ends once no
    /// other stream is in use.
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

    fn is_usable(&self) -> bool {
        !self.sender.is_closed() && !self.state.retired.load(Ordering::Relaxed)
    }

    /// Whether one more stream may be opened. Further ones would wait inside hyper, and be lost with the connection.
    pub(super) fn has_room(&self) -> bool {
        self.is_usable() && self.state.streams.load(Ordering::Relaxed) < self.most_streams()
    }

    /// 0 if the peer accepts none at the moment.
    pub(super) fn most_streams(&self) -> usize {
        self.state.most_streams.load(Ordering::Relaxed)
    }

    /// Since when it has had no stream. `None` if it has one.
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

    /// Gives it no new requests. It ends once its streams have ended.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.room.notify_waiters();
    }

    fn note_use(&self) {
        let ms = self.born.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
        self.used.store(ms, Ordering::Relaxed);
    }

    /// `room`: the most streams at a time, even if the peer accepts more. Streams whose callers do not read must not use up
    /// the connection's window.
    fn note_limit(&self, most: usize, room: usize) {
        // One stream at a time until the peer has said how many it accepts.
        let most = if most == NOT_SETTLED { 1 } else { most.min(room) };
        if self.most_streams.swap(most, Ordering::Relaxed) < most {
            self.room.notify_waiters();
        }
    }
}

impl Origin {
    /// Opens a connection in the protocol that the origin speaks. `http1`: only in HTTP/1.1. `room` is notified when an
    /// HTTP/2 connection can take more requests.
    pub(super) async fn dial(
        &self,
        http1: bool,
        metrics: &Arc<RouteMetrics>,
        room: &Arc<Notify>,
    ) -> Result<Connection, UpstreamError> {
        let http1 = http1 || self.requires_http1();
        let connector = if http1 { &self.http1_connector } else { &self.connector };
        let connected = match connector.connect().await {
            Err(error) if error.kind == ConnectErrorKind::Full && drop_unused() => {
                // The tasks of the dropped connections run before this one continues.
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
            // If the peer refuses bearerd's certificate, h2 keeps only the text of the error.
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
            // A proxy removes these from a response and does not refuse it (RFC 9112 sections 5.1 and 5.2).
            .allow_spaces_after_header_name_in_responses(true)
            .allow_obsolete_multiline_headers_in_responses(true)
            .title_case_headers(self.title_case());
        let (sender, connection) =
            builder.handshake(TokioIo::new(wire)).await.map_err(|error| UpstreamError::http(&error, self))?;
        // The request that uses the connection learns about its end. Nobody else needs to.
        let driver = tokio::spawn(connection.with_upgrades()).abort_handle();
        Ok(Http1 { sender, traffic, born: Instant::now(), kept: None, patience: Idle::new(None), driver })
    }

    /// Waits until the peer has said how many streams it accepts. It would refuse further ones.
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
        let failed = |error| UpstreamError::http(&error, self).before_http2(self);
        let (sender, connection) = builder.handshake(TokioIo::new(wire)).await.map_err(failed)?;
        let mut driver = Driver { connection, state: Arc::new(state), window };
        match tokio::time::timeout(SETTLING, driver.run(DriveUntil::Settled)).await {
            Ok(Some(Err(error))) => return Err(failed(error)),
            Ok(Some(Ok(()))) => return Err(UpstreamError::closed(self.name()).before_http2(self)),
            Ok(None) | Err(_) => {}
        }
        let state = Arc::clone(&driver.state);
        tokio::spawn(async move {
            driver.run(DriveUntil::End).await;
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
enum DriveUntil {
    /// The peer's SETTINGS have come.
    Settled,
    End,
}

impl Driver {
    /// Drives the connection. Returns how it ended, if it has ended.
    async fn run(&mut self, until: DriveUntil) -> Option<hyper::Result<()>> {
        let traffic = Arc::clone(&self.state.traffic);
        let mut arrived = pin!(traffic.arrived.notified());
        poll_fn(|cx| {
            loop {
                // First, because a peer may send GOAWAY along with its SETTINGS.
                if let Poll::Ready(ended) = Pin::new(&mut self.connection).poll(cx) {
                    return Poll::Ready(Some(ended));
                }
                let most = self.connection.current_max_send_streams();
                self.state.note_limit(most, self.window.streams());
                if most != NOT_SETTLED && until == DriveUntil::Settled {
                    return Poll::Ready(None);
                }
                if most != NOT_SETTLED && most > 0 {
                    return Poll::Pending;
                }
                // hyper reads a new limit only with the next request. If none can be sent, only this notices it.
                ready!(arrived.as_mut().poll(cx));
                arrived.set(traffic.arrived.notified());
            }
        })
        .await
    }
}

/// The largest TLS record.
const RECORD: usize = 16 * 1024;

/// What a connection has carried, in bytes.
#[derive(Debug)]
pub(super) struct Traffic {
    read: AtomicU64,
    /// Grows with everything written that the peer may have received.
    written: AtomicU64,
    /// `written` when the current request of an HTTP/1.1 connection began.
    began: AtomicU64,
    http2: AtomicBool,
    /// Over HTTP/1: the head of a response comes next.
    head: AtomicBool,
    /// Over HTTP/2: something was read.
    pub(super) arrived: Notify,
    /// The headway of a response over HTTP/1.
    pub(super) headway: Headway,
}

impl Traffic {
    fn new() -> Self {
        let (read, written, began) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(u64::MAX));
        let (http2, head) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { read, written, began, http2, head, arrived: Notify::new(), headway: Headway::default() }
    }

    /// A request begins on an HTTP/1.1 connection.
    pub(super) fn request_begins(&self) {
        self.began.store(self.written(), Ordering::Relaxed);
        self.head.store(true, Ordering::Relaxed);
    }

    /// The head of its response has arrived.
    pub(super) fn response_begins(&self) {
        self.head.store(false, Ordering::Relaxed);
    }

    pub(super) fn speaks_http2(&self) {
        self.http2.store(true, Ordering::Relaxed);
    }

    fn reading(&self) -> Reading {
        if self.http2.load(Ordering::Relaxed) {
            Reading::Http2
        } else if self.head.load(Ordering::Relaxed) || self.headway.is_doubtful() {
            Reading::Head
        } else {
            Reading::Body
        }
    }

    /// Whether no byte of the current request of an HTTP/1.1 connection was written.
    pub(super) fn is_unwritten(&self) -> bool {
        self.began.load(Ordering::Relaxed) == self.written()
    }

    pub(super) fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

/// Counts a connection while it is open.
struct CountedConnection(Arc<RouteMetrics>);

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.0.upstream_disconnected();
    }
}

/// An upstream's socket. It counts its bytes, reads on after a failed write, and closes in order when it is dropped.
struct Wire {
    stream: Stream,
    traffic: Arc<Traffic>,
    _open: CountedConnection,
    /// A write failed.
    broken: bool,
}

impl Wire {
    pub(super) fn new(stream: Stream, metrics: &Arc<RouteMetrics>) -> (Self, Arc<Traffic>) {
        metrics.upstream_connected();
        let traffic = Arc::new(Traffic::new());
        let open = CountedConnection(Arc::clone(metrics));
        (Self { stream, traffic: Arc::clone(&traffic), _open: open, broken: false }, traffic)
    }

    /// An upstream may respond before it has read the complete request, and then close. What it does not accept is discarded,
    /// and reading continues until its response or the end (RFC 9112 section 9.5). If it has accepted no byte of the request,
    /// no response will come.
    fn write(
        &mut self,
        offered: usize,
        write: impl FnOnce(Pin<&mut Stream>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Ready(Ok(offered));
        }
        let polled = write(Pin::new(&mut self.stream));
        match polled {
            Poll::Ready(Ok(taken)) => _ = self.traffic.written.fetch_add(taken as u64, Ordering::Relaxed),
            Poll::Ready(Err(error)) => {
                // A part of a record is unreadable. Of several records, some may have arrived.
                if offered > RECORD && self.stream.is_tls() {
                    self.traffic.written.fetch_add(1, Ordering::Relaxed);
                }
                if self.traffic.is_unwritten() {
                    return Poll::Ready(Err(error));
                }
                self.broken = true;
                return Poll::Ready(Ok(offered));
            }
            Poll::Pending => {}
        }
        polled
    }
}

impl Drop for Wire {
    /// Closes as far as possible without waiting. A TLS peer would take a missing close_notify for an attack.
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
        let reading = self.traffic.reading();
        let polled = flow::poll_read(Pin::new(&mut self.stream), cx, buf, reading);
        let read = buf.filled().len() - before;
        if read > 0 {
            self.traffic.read.fetch_add(read as u64, Ordering::Relaxed);
            if reading == Reading::Http2 {
                self.traffic.arrived.notify_one();
            }
            self.traffic.headway.read(read)?;
        }
        polled
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.write(buf.len(), |stream| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let offered = bufs.iter().map(|buf| buf.len()).sum();
        self.write(offered, |stream| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(0, |stream| stream.poll_flush(cx).map_ok(|()| 0)).map_ok(|_| ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// How long an unused connection is kept. This is below the usual idle limits of servers, so that few connections die in use.
const IDLE: Duration = Duration::from_secs(50);
/// How often a worker with connections looks for those that are too old.
const SWEEP: Duration = Duration::from_secs(2);
/// The most unused HTTP/1.1 connections that a worker keeps for one origin.
const MOST_IDLE: usize = 256;

thread_local! {
    static POOLS: RefCell<Pools> = RefCell::new(Pools::default());
    static SWEEPING: Cell<bool> = const { Cell::new(false) };
}

/// The connections of one worker, by [`Origin::id`]. The worker that made a connection keeps it: no lock, and nothing crosses
/// threads.
///
/// HTTP/1.1 connections are taken last in, first out, so that few stay warm and the others age out. HTTP/2 connections are
/// shared, and so is the attempt to open one: meanwhile, requests wait for it, or for room on another connection.
type Pools = HashMap<u64, Pool, BuildHasherDefault<ById>>;

/// IDs are bearerd's own and count up, so one multiplication spreads them.
#[derive(Default)]
struct ById(u64);

impl Hasher for ById {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(self.0 ^ u64::from(*byte)));
    }

    fn write_u64(&mut self, id: u64) {
        // 2^64 divided by the golden ratio.
        self.0 = id.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// One worker's connections to one origin.
struct Pool {
    origin: Weak<Origin>,
    http1: Vec<IdleHttp1>,
    http2: Vec<Http2>,
    /// The connection attempt in progress, for all waiting requests.
    dial: Option<Dial>,
    room: Arc<Notify>,
    /// The smallest `connection_max_age` of the requests so far. An HTTP/2 connection belongs to no request that could say when it
    /// is too old.
    max_age: Option<Duration>,
}

struct IdleHttp1 {
    connection: Box<Http1>,
    /// When it is too old, or the upstream closes it.
    until: Instant,
}

/// The outcome of a shared connection attempt. `None` while it is in progress.
type Dial = watch::Receiver<Option<Result<Dialed, UpstreamError>>>;

#[derive(Clone)]
pub(super) enum Dialed {
    Http2(Http2),
    /// It is in the pool, for the first request that takes it.
    Http1,
}

/// Takes a connection that accepts one more request: an HTTP/2 one if possible, else an HTTP/1.1 one.
pub(super) fn take_pooled(origin: &Origin, max_age: Option<Duration>) -> Option<Connection> {
    let now = Instant::now();
    with_pool(origin.id, |pool| {
        pool.max_age = pool.max_age.into_iter().chain(max_age).min();
        let shared = if origin.requires_http1() { None } else { pool.share_http2(max_age, now) };
        shared.map(Connection::Http2).or_else(|| pool.take_http1(max_age, now).map(Connection::Http1))
    })?
}

/// Whether there is an HTTP/2 connection that may have room later.
pub(super) fn may_have_room(origin: &Origin) -> bool {
    with_pool(origin.id, |pool| pool.http2.iter().any(Http2::is_usable)).unwrap_or(false)
}

/// Whether the peer accepts no requests on a connection at the moment. It would say the same on another one.
pub(super) fn is_full_now(origin: &Origin) -> bool {
    let shut = |known: &Http2| known.is_usable() && known.most_streams() == 0;
    with_pool(origin.id, |pool| pool.http2.iter().any(shut)).unwrap_or(false)
}

/// Notified when an HTTP/2 connection has room or is gone.
pub(super) fn room_signal(origin: &Arc<Origin>) -> Arc<Notify> {
    with_new_pool(origin, |pool| Arc::clone(&pool.room))
}

/// Returns a connection to the pool after its response has ended.
pub(super) fn return_http1(origin: &Arc<Origin>, connection: Box<Http1>, max_age: Option<Duration>) {
    let now = Instant::now();
    let idle = now + connection.kept.map_or(IDLE, |kept| kept.min(IDLE));
    let until = max_age.map_or(idle, |max| idle.min(connection.born + max));
    if connection.sender.is_closed() || until <= now {
        return;
    }
    with_new_pool(origin, |pool| {
        if pool.http1.len() < MOST_IDLE {
            pool.http1.push(IdleHttp1 { connection, until });
        }
    });
}

/// Adds a connection that requests share.
pub(super) fn add_http2(origin: &Arc<Origin>, connection: Http2) {
    with_new_pool(origin, |pool| pool.http2.push(connection));
}

/// The connection attempt in progress, or a new one. It continues if the request that began it is given up.
pub(super) fn shared_dial(origin: &Arc<Origin>, metrics: &Arc<RouteMetrics>) -> Dial {
    with_new_pool(origin, |pool| {
        let room = Arc::clone(&pool.room);
        let (origin, metrics) = (Arc::clone(origin), Arc::clone(metrics));
        let start = || spawn_dial(origin.id, async move { dial_once(&origin, &metrics, &room).await });
        pool.dial.get_or_insert_with(start).clone()
    })
}

async fn dial_once(
    origin: &Arc<Origin>,
    metrics: &Arc<RouteMetrics>,
    room: &Arc<Notify>,
) -> Result<Dialed, UpstreamError> {
    Ok(match origin.dial(false, metrics, room).await? {
        Connection::Http2(connection) => {
            add_http2(origin, connection.clone());
            Dialed::Http2(connection)
        }
        Connection::Http1(connection) => {
            return_http1(origin, connection, None);
            Dialed::Http1
        }
    })
}

fn spawn_dial(id: u64, dial: impl Future<Output = Result<Dialed, UpstreamError>> + Send + 'static) -> Dial {
    let (tell, waiting) = watch::channel(None);
    tokio::spawn(async move {
        let underway = DialInProgress(id);
        let dialed = dial.await;
        drop(underway);
        // All waiting requests may be gone.
        let _ = tell.send(Some(dialed));
    });
    waiting
}

/// A connection attempt, until it ends or panics.
struct DialInProgress(u64);

impl Drop for DialInProgress {
    fn drop(&mut self) {
        with_pool(self.0, |pool| pool.dial = None);
    }
}

fn is_too_old(born: Instant, max_age: Option<Duration>, now: Instant) -> bool {
    max_age.is_some_and(|max| born + max < now)
}

fn with_pool<R>(id: u64, f: impl FnOnce(&mut Pool) -> R) -> Option<R> {
    POOLS.with_borrow_mut(|pools| pools.get_mut(&id).map(f))
}

fn with_new_pool<R>(origin: &Arc<Origin>, f: impl FnOnce(&mut Pool) -> R) -> R {
    let result = POOLS.with_borrow_mut(|pools| {
        f(pools.entry(origin.id).or_insert_with(|| Pool {
            origin: Arc::downgrade(origin),
            http1: Vec::new(),
            http2: Vec::new(),
            dial: None,
            room: Arc::default(),
            max_age: None,
        }))
    });
    if !SWEEPING.replace(true) {
        tokio::spawn(sweep());
    }
    result
}

/// Closes unused connections to free their places. Returns whether there were any.
fn drop_unused() -> bool {
    POOLS.with_borrow_mut(|pools| pools.values_mut().filter_map(Pool::drop_unused).count() > 0)
}

/// One task for each worker instead of a timer for each connection. It ends when there are no connections, and starts again
/// with the next one.
async fn sweep() {
    loop {
        tokio::time::sleep(SWEEP).await;
        let now = Instant::now();
        let empty = POOLS.with_borrow_mut(|pools| {
            pools.retain(|_, pool| pool.keep_fresh(now));
            pools.values().all(Pool::is_empty)
        });
        // A connection attempt of another worker found no place.
        if UPSTREAMS.are_taken() {
            drop_unused();
        }
        if empty {
            SWEEPING.set(false);
            return;
        }
    }
}

impl Pool {
    fn is_empty(&self) -> bool {
        self.http1.is_empty() && self.http2.is_empty() && self.dial.is_none()
    }

    /// The first connection with room, so that the others fall out of use and end.
    fn share_http2(&self, max_age: Option<Duration>, now: Instant) -> Option<Http2> {
        let fit = |known: &&Http2| known.has_room() && !is_too_old(known.state.born, max_age, now);
        self.http2.iter().find(fit).cloned()
    }

    /// The usable connection that was used last.
    fn take_http1(&mut self, max_age: Option<Duration>, now: Instant) -> Option<Box<Http1>> {
        let fit = |idle: &IdleHttp1| {
            let connection = &idle.connection;
            connection.sender.is_ready() && idle.until > now && !is_too_old(connection.born, max_age, now)
        };
        let at = self.http1.iter().rposition(fit)?;
        Some(self.http1.remove(at).connection)
    }

    /// `None` if there was none.
    fn drop_unused(&mut self) -> Option<()> {
        let before = self.http1.len() + self.http2.len();
        self.http1.clear();
        self.http2.retain(|known| known.unused_since().is_none());
        (self.http1.len() + self.http2.len() < before).then_some(())
    }

    /// Drops what is too old or has ended. Returns `false` if the origin is no longer configured.
    fn keep_fresh(&mut self, now: Instant) -> bool {
        self.http1.retain(|idle| !idle.connection.sender.is_closed() && idle.until > now);
        let max_age = self.max_age;
        self.http2.retain(|known| {
            let unwanted = |since| since + IDLE <= now || is_too_old(known.state.born, max_age, now);
            known.is_usable() && !known.unused_since().is_some_and(unwanted)
        });
        self.origin.strong_count() > 0
    }
}

#[cfg(test)]
pub(super) fn dial_that_panics(origin: &Arc<Origin>) {
    let dial = spawn_dial(origin.id, async { panic!("as the test wants") });
    with_new_pool(origin, |pool| pool.dial = Some(dial));
}
