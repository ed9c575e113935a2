//! A small HTTP/1 server for addresses beside the proxy's, such as the admin address: few connections, each for one
//! request.
//!
//! A flood of connections keeps neither a probe nor a webhook out. One place is kept free for the next connection. If that
//! requires ending another one, it is the one whose request has made the least progress: first those without a complete head,
//! then those without a complete body, then those that do not read their response, and never one that is waiting for its
//! response. Among these, it is the oldest of the peer that holds most, but none that has not had the time to send its
//! request. As long as no connection may end, the next one waits in the kernel's queue.

use std::cmp::Reverse;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::connection::{Linger, SHORT, note_refusal};
use super::transport::SocketStream;
use super::{Bound, Logged, Stop, is_of_one_connection};
use crate::idle::Idle;
use crate::inbound::OWN_STALL_MS;
use crate::metrics::ListenerMetrics;
use crate::proxy::Peer;

/// The most that the head of a request may take. The expected heads are short.
const HEADER_BYTES: usize = 16 * 1024;
/// The most that is read of a request, far more than any needs. Without it, the parser would accept zeros before a chunk
/// size without end.
const REQUEST_BYTES: u64 = 1024 * 1024;
/// The pause after a failed accept (no file descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who sent a request.
#[derive(Debug, Clone)]
pub struct SmallCaller {
    pub peer: Peer,
    /// The address that the caller connected to; `None` on a Unix socket.
    pub own: Option<SocketAddr>,
    /// When its connection was accepted.
    pub since: Instant,
    progress: Progress,
}

impl SmallCaller {
    /// The caller of a connection that was accepted now.
    pub fn new(peer: Peer, own: Option<SocketAddr>) -> Self {
        Self { peer, own, since: Instant::now(), progress: Progress::default() }
    }

    /// Call this when the request's body has been read. From then on, its connection is not ended for another one.
    pub fn has_sent_all(&self) {
        self.progress.reach(RequestStage::Response);
    }
}

/// What serves the requests.
pub trait SmallHandler: Send + Sync + 'static {
    /// Responds to one request.
    fn serve(
        self: Arc<Self>,
        caller: SmallCaller,
        request: Request<Incoming>,
    ) -> impl Future<Output = SmallResponse> + Send;
}

/// Limits on the connections of one address.
#[derive(Debug, Clone, Copy)]
pub struct SmallLimits {
    /// Open connections. See the module for what happens beyond this number.
    pub connections: usize,
    /// For a request's head.
    pub header_timeout: Duration,
    /// For a whole connection, so that a caller that reads its response byte by byte does not hold it for ever.
    pub age: Duration,
}

/// Serves this socket until `stop`. Returns when every connection has ended. Needs a tokio runtime with I/O and time.
pub async fn serve_small<H: SmallHandler>(
    bound: Bound,
    handler: Arc<H>,
    limits: SmallLimits,
    metrics: Arc<ListenerMetrics>,
    stop: Stop,
) {
    let (name, address) = (Arc::clone(bound.name()), bound.local());
    let mut listener = match bound.into_listener() {
        Ok(listener) => listener,
        Err(error) => {
            return tracing::error!(
                event = "listener.failed", %name, address, %error,
                "this address cannot be served"
            );
        }
    };
    let server = Arc::new(Server { name, handler, limits, metrics, stop });
    let mut room = Connections::new(limits.connections);
    let (mut trouble, mut crowd) = (Logged::default(), Logged::default());
    loop {
        let accepted = tokio::select! {
            biased;
            () = server.stop.now.cancelled() => break,
            () = server.stop.accepting.cancelled() => break,
            ended_one = room.make_room(), if room.is_full() => {
                if ended_one && crowd.is_due() {
                    tracing::warn!(
                        event = "listener.connection_evicted", name = %server.name, address, most = limits.connections,
                        "more connections than places: closing those that have not sent a request"
                    );
                }
                continue;
            }
            accepted = listener.accept(), if !room.is_full() => accepted,
        };
        match accepted {
            Ok((stream, peer, own)) => {
                let caller = SmallCaller::new(peer, own);
                let progress = caller.progress.clone();
                room.admit(peer, progress, Arc::clone(&server).connection(stream, caller));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if trouble.is_due() {
                    tracing::error!(
                        event = "listener.accept_failed", name = %server.name, address, %error,
                        "can't accept connections; trying again"
                    );
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    room.wait_for_all().await;
}

/// What the connections of an address share.
struct Server<H> {
    name: Arc<str>,
    handler: Arc<H>,
    limits: SmallLimits,
    metrics: Arc<ListenerMetrics>,
    stop: Stop,
}

impl<H: SmallHandler> Server<H> {
    async fn connection(self: Arc<Self>, stream: SocketStream, caller: SmallCaller) {
        let service = service_fn(|request| self.respond(caller.clone(), request));
        let (request, response) = tokio::io::split(stream);
        let response = CallerWriter::new(response, caller.progress.clone());
        let io = TokioIo::new(tokio::io::join(request.take(REQUEST_BYTES), response));
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            // So that a waiting connection is one whose request has not come.
            .keep_alive(false)
            .max_buf_size(HEADER_BYTES)
            .serve_connection(io, service);
        let mut age = pin!(sleep_until(caller.since + self.limits.age));
        let mut ending = false;
        let ended = loop {
            tokio::select! {
                biased;
                () = self.stop.now.cancelled() => return,
                () = self.stop.accepting.cancelled(), if !ending => {
                    ending = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
                ended = &mut connection => break ended,
                () = age.as_mut() => return,
            }
        };
        let refused =
            ended.as_ref().is_err_and(|error| note_refusal(&self.name, caller.peer, &self.metrics, error));
        if let Err(error) = &ended
            && !refused
        {
            return tracing::debug!(
                event = "caller.disconnected", peer = ?caller.peer, %error,
                "a connection of a caller ended early"
            );
        }
        let owes_body = caller.progress.stage() == RequestStage::EarlyResponse;
        let (request, response) = connection.into_parts().io.into_inner().into_inner();
        discard_rest(request.into_inner().unsplit(response.into_inner()), refused || owes_body).await;
    }

    async fn respond(
        &self,
        caller: SmallCaller,
        request: Request<Incoming>,
    ) -> Result<SmallResponse, Infallible> {
        let progress = caller.progress.clone();
        progress.reach(if request.body().is_end_stream() {
            RequestStage::Response
        } else {
            RequestStage::Body
        });
        let response = Arc::clone(&self.handler).serve(caller, request).await;
        progress.reach(RequestStage::EarlyResponse);
        Ok(response)
    }
}

/// Discards what the caller still sends. After a complete request, it only reads what is there already and does not wait.
async fn discard_rest(mut stream: SocketStream, refused: bool) {
    let mut linger = Linger::new(SHORT);
    let mut waits = refused;
    let ended = poll_fn(|cx| {
        linger.poll(cx, |cx, buffer| {
            let polled = Pin::new(&mut stream).poll_read(cx, buffer);
            match polled {
                Poll::Pending if !waits => Poll::Ready(Ok(())),
                polled => {
                    waits = true;
                    polled
                }
            }
        })
    });
    ended.await;
}

struct CallerWriter<W> {
    io: W,
    progress: Progress,
    stall: Idle,
}

impl<W: AsyncWrite + Unpin> CallerWriter<W> {
    pub(super) fn new(io: W, progress: Progress) -> Self {
        Self { io, progress, stall: Idle::new(Some(Duration::from_millis(OWN_STALL_MS))) }
    }

    fn into_inner(self) -> W {
        self.io
    }

    fn judge<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.progress.waits_for_reader(polled.is_pending());
        if polled.is_ready() {
            self.stall.moved();
            return polled;
        }
        if self.stall.expired(cx) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the caller stopped reading")));
        }
        Poll::Pending
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for CallerWriter<W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.judge(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.judge(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The progress of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum RequestStage {
    /// Its head is not complete.
    Head,
    /// Its head is complete, its body is not.
    Body,
    /// Its response began before its body was complete.
    EarlyResponse,
    /// It is complete and waits for its response.
    Response,
}

const REQUEST_STAGES: [RequestStage; 4] =
    [RequestStage::Head, RequestStage::Body, RequestStage::EarlyResponse, RequestStage::Response];

impl RequestStage {
    /// How long a connection in this stage keeps its place in any case. `None`: until it ends.
    const fn patience(self) -> Option<Duration> {
        match self {
            // A head usually comes with the connection.
            Self::Head => Some(Duration::from_millis(100)),
            Self::Body => Some(Duration::from_secs(2)),
            Self::EarlyResponse | Self::Response => None,
        }
    }
}

/// How long a response may wait for its caller in any case.
const UNREAD: Duration = Duration::from_secs(1);

/// The stage that the request of a connection has reached.
#[derive(Debug, Clone, Default)]
struct Progress(Arc<ProgressState>);

#[derive(Debug)]
struct ProgressState {
    stage: AtomicU8,
    since: Instant,
    /// When the response began to wait for its caller: ms from `since`, plus 1. 0 if it does not wait.
    unread: AtomicU64,
}

impl Default for ProgressState {
    fn default() -> Self {
        Self { stage: AtomicU8::new(0), since: Instant::now(), unread: AtomicU64::new(0) }
    }
}

impl Progress {
    /// A stage never goes back.
    fn reach(&self, stage: RequestStage) {
        self.0.stage.fetch_max(stage as u8, Ordering::Relaxed);
    }

    pub(super) fn stage(&self) -> RequestStage {
        *REQUEST_STAGES
            .get(usize::from(self.0.stage.load(Ordering::Relaxed)))
            .expect("only stages are stored")
    }

    /// Notes whether a part of the response could not be written.
    fn waits_for_reader(&self, waits: bool) {
        let now =
            u64::try_from(self.0.since.elapsed().as_millis()).map_or(u64::MAX, |ms| ms.saturating_add(1));
        if !waits {
            self.0.unread.store(0, Ordering::Relaxed);
        } else if self.0.unread.load(Ordering::Relaxed) == 0 {
            self.0.unread.store(now, Ordering::Relaxed);
        }
    }

    /// When its connection may be ended, and before which others. `None`: not at all.
    fn may_end(&self) -> Option<(EvictionRank, Instant)> {
        let stage = self.stage();
        if let Some(patience) = stage.patience() {
            return Some((EvictionRank::Sends(stage), self.0.since + patience));
        }
        let ms = self.0.unread.load(Ordering::Relaxed).checked_sub(1)?;
        Some((EvictionRank::DoesNotRead, self.0.since + Duration::from_millis(ms) + UNREAD))
    }
}

/// The order in which connections are ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum EvictionRank {
    Sends(RequestStage),
    DoesNotRead,
}

/// All open connections of one address.
struct Connections {
    tasks: JoinSet<()>,
    open: Vec<OpenConnection>,
    places: usize,
}

struct OpenConnection {
    peer: Peer,
    since: Instant,
    progress: Progress,
    handle: AbortHandle,
}

impl Connections {
    pub(super) fn new(places: usize) -> Self {
        Self { tasks: JoinSet::new(), open: Vec::new(), places }
    }

    /// Whether the next connection must wait for [`Self::make_room`].
    fn is_full(&self) -> bool {
        self.open.len() >= self.places
    }

    fn admit(
        &mut self,
        peer: Peer,
        progress: Progress,
        connection: impl Future<Output = ()> + Send + 'static,
    ) {
        while self.tasks.try_join_next().is_some() {}
        self.open.retain(|open| !open.handle.is_finished());
        let handle = self.tasks.spawn(connection);
        self.open.push(OpenConnection { peer, since: Instant::now(), progress, handle });
    }

    /// Waits until a connection has ended by itself, or ends one that may be ended. Returns whether it ended one. `false` may
    /// also mean that it is time to look again.
    async fn make_room(&mut self) -> bool {
        let due = self.next_to_end().map(|(_, due)| due);
        // If none may be ended, a caller may stop reading meanwhile.
        let look_at = due.unwrap_or_else(|| Instant::now() + UNREAD);
        tokio::select! {
            Some(_) = self.tasks.join_next() => {
                self.open.retain(|open| !open.handle.is_finished());
                false
            }
            () = sleep_until(look_at) => self.end_one(),
        }
    }

    fn end_one(&mut self) -> bool {
        // Its request may have come meanwhile.
        let Some((at, due)) = self.next_to_end() else { return false };
        if due > Instant::now() {
            return false;
        }
        self.open.swap_remove(at).handle.abort();
        true
    }

    /// The connection to end next, and when it may be ended.
    fn next_to_end(&self) -> Option<(usize, Instant)> {
        let out =
            self.open.iter().enumerate().filter_map(|(at, open)| Some((at, open, open.progress.may_end()?)));
        let out: Vec<_> = out.collect();
        let first = out.iter().map(|(.., (rank, _))| *rank).min()?;
        let candidates = || out.iter().filter(|(.., (rank, _))| *rank == first);
        let held = |peer: &Peer| candidates().filter(|(_, open, _)| is_same_peer(&open.peer, peer)).count();
        let (at, _, (_, due)) =
            candidates().max_by_key(|(_, open, _)| (held(&open.peer), Reverse(open.since)))?;
        Some((*at, *due))
    }

    /// Waits until all have ended.
    async fn wait_for_all(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Whether both are the same machine, or the same user of this machine.
fn is_same_peer(one: &Peer, other: &Peer) -> bool {
    match (one, other) {
        (Peer::Tcp(one), Peer::Tcp(other)) => one.ip() == other.ip(),
        (Peer::Unix { uid: one }, Peer::Unix { uid: other }) => one == other,
        _ => false,
    }
}

/// Sent with every response: none may be cached, sniffed, or read by another site.
const ALWAYS: [(HeaderName, &str); 4] = [
    (CACHE_CONTROL, "no-store"),
    (http::header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (http::header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// A response with a complete body.
pub type SmallResponse = Response<Full<Bytes>>;

/// A response with this body.
pub fn small_response(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> SmallResponse {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    for (name, value) in ALWAYS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// A problem document (RFC 9457), like the proxy's own errors.
pub fn problem_response(status: StatusCode, code: &str, detail: &str) -> SmallResponse {
    let body = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "detail": detail,
        "code": code,
    });
    small_response(status, "application/problem+json", body.to_string())
}

#[cfg(test)]
mod tests;
