//! The way in for requests: sockets, connections, their limits, and how they end.
//!
//! [`serve`] is the accept loop. It never ends on an error and never spins. [`bind`] opens the sockets, `connection` serves
//! one connection, `inside` the one inside a CONNECT, and `watch` enforces their limits. `transport` carries their bytes. `small`
//! serves addresses other than the proxy's.

pub mod bind;
mod connection;
mod inside;
mod same_user;
mod small;
#[cfg(test)]
mod tests;
mod transport;
mod watch;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Body as HttpBody;
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::config::{Limits, ListenerConfig};
use crate::inbound::CallerBody;
use crate::metrics::ListenerMetrics;
use crate::net::CertificateAuthority;
use crate::proxy::{Body, BodyError, Caller, Code, Peer, Proxy};
use crate::telemetry::Repeated;
use bind::{BACKLOG, Listening, ListeningSocket};
pub use bind::{BindError, Bound, FileId, Passed, SocketListener, Unfit, Wanted, overlap};
use connection::{AcceptedConnection, Linger, REFUSED};
pub use small::{
    SmallCaller, SmallHandler, SmallLimits, SmallResponse, problem_response, serve_small, small_response,
};
pub use transport::SocketStream;
use watch::Drain;

/// How long accepting pauses after an error that concerns the whole machine, such as too many open files.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// At most this many refused callers get a response at the same time. Others are closed without one.
pub const REFUSALS: usize = 64;
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// How long tunnels may take to notice that they must end now.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// What applies to connections that are accepted from now on.
#[derive(Clone)]
pub struct ListenerSettings {
    pub config: Arc<ListenerConfig>,
    pub limits: Limits,
    /// `None` for plain HTTP.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Of a forward listener.
    pub authority: Option<Arc<CertificateAuthority>>,
    pub metrics: Arc<ListenerMetrics>,
}

impl ListenerSettings {
    /// The same with another authority.
    #[must_use]
    pub fn with_authority(&self, authority: CertificateAuthority) -> Self {
        Self { authority: Some(Arc::new(authority)), ..self.clone() }
    }
}

/// Swapped by a reload, and read for each new connection.
pub type SettingsCell = ArcSwap<ListenerSettings>;

/// How a listener learns that it must end.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Stop accepting and let requests end: HTTP/1 closes after the response, HTTP/2 sends GOAWAY.
    pub accepting: CancellationToken,
    /// Drop everything.
    pub now: CancellationToken,
}

/// What serves the requests of a listener.
pub trait Handler: Send + Sync + 'static {
    /// The body of its responses. The default is empty.
    type Body: HttpBody<Data = Bytes, Error = BodyError> + Default + Send + Unpin + 'static;

    /// Serves one request. While `caller.activity` counts it, the connection is not idle. The request is lent, because each
    /// future that gets a value holds a copy of it.
    fn call(
        &self,
        caller: &Arc<Caller>,
        request: &mut Request<CallerBody>,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

impl Handler for Proxy {
    type Body = Body;

    fn call(
        &self,
        caller: &Arc<Caller>,
        request: &mut Request<CallerBody>,
    ) -> impl Future<Output = Response<Body>> + Send {
        Self::call(self, caller, request)
    }
}

/// Serves until `stop`. Returns when every connection that it accepted has ended, including upgraded tunnels.
/// Needs a tokio runtime with I/O and time.
pub async fn serve<H: Handler>(
    bound: Bound,
    handler: Arc<H>,
    settings: Arc<SettingsCell>,
    connections: Arc<ConnectionLimit>,
    stop: Stop,
) {
    let address = bound.local();
    let listening = match bound.into_listening() {
        Ok(listening) => listening,
        Err(error) => {
            return tracing::error!(event = "listener.failed", %address, %error, "can't listen");
        }
    };
    let shared = Arc::new(Shared {
        handler,
        settings: Arc::clone(&settings),
        drain: Drain::default(),
        now: stop.now.clone(),
        tls_warnings: Repeated::default(),
        distrust_warnings: Repeated::default(),
    });
    let mut acceptor = Acceptor {
        settings,
        connections,
        shared,
        tasks: JoinSet::new(),
        sockets: TaskTracker::new(),
        refusals: Arc::new(AtomicUsize::new(0)),
        limit_log: Logged::default(),
        error_log: Logged::default(),
        address,
    };
    acceptor.accept_until_stopped(&listening, &stop).await;
    if !stop.now.is_cancelled() {
        acceptor.accept_waiting(&listening).await;
    }
    drop(listening);
    acceptor.end(&stop).await;
}

/// What the connections of one worker and listener share.
struct Shared<H> {
    handler: Arc<H>,
    settings: Arc<SettingsCell>,
    drain: Drain,
    now: CancellationToken,
    /// Callers that speak TLS to a plain listener.
    tls_warnings: Repeated,
    /// Callers that do not trust the authority.
    distrust_warnings: Repeated,
}

impl<H> Shared<H> {
    /// For one connection, which may end before the others.
    fn with_own_drain(&self) -> Self {
        Self {
            handler: Arc::clone(&self.handler),
            settings: Arc::clone(&self.settings),
            drain: Drain::default(),
            now: self.now.clone(),
            tls_warnings: Repeated::default(),
            distrust_warnings: Repeated::default(),
        }
    }
}

struct Acceptor<H> {
    settings: Arc<SettingsCell>,
    connections: Arc<ConnectionLimit>,
    shared: Arc<Shared<H>>,
    tasks: JoinSet<()>,
    /// Every socket, including those of tunnels that have outlived their connection's task.
    sockets: TaskTracker,
    refusals: Arc<AtomicUsize>,
    limit_log: Logged,
    error_log: Logged,
    address: String,
}

impl<H: Handler> Acceptor<H> {
    async fn accept_until_stopped(&mut self, listening: &Listening, stop: &Stop) {
        let mut pause = SHORTEST_PAUSE;
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.now.cancelled() => return,
                () = stop.accepting.cancelled() => return,
                Some(ended) = self.tasks.join_next() => {
                    report_panic(ended);
                    continue;
                }
                accepted = poll_fn(|context| listening.poll_accept(context)) => accepted,
            };
            match accepted {
                Ok(accepted) => {
                    pause = SHORTEST_PAUSE;
                    self.start(accepted);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    if self.error_log.is_due() {
                        tracing::error!(
                            event = "listener.accept_failed", address = %self.address, %error,
                            "can't accept connections; trying again"
                        );
                    }
                    tokio::select! {
                        () = stop.now.cancelled() => return,
                        () = stop.accepting.cancelled() => return,
                        () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                    }
                }
            }
        }
    }

    /// Accepts the callers whose connections the kernel has already accepted. Closing the socket would reset them.
    async fn accept_waiting(&mut self, listening: &Listening) {
        // Lets the runtime learn about connections that have arrived since it last looked.
        tokio::task::yield_now().await;
        for _ in 0..BACKLOG {
            let polled = poll_fn(|context| Poll::Ready(listening.poll_accept(context)));
            // Otherwise, after a number of them, tokio would report that none is waiting.
            match tokio::task::unconstrained(polled).await {
                Poll::Ready(Ok(accepted)) => self.start(accepted),
                Poll::Ready(Err(error)) if is_of_one_connection(&error) => {}
                Poll::Ready(Err(_)) | Poll::Pending => return,
            }
        }
    }

    fn start(&mut self, (socket, peer, local): NewCaller) {
        let settings = self.settings.load_full();
        let most = settings.limits.connections;
        match ConnectionPlace::take(&self.connections, most, &settings.metrics, self.sockets.token()) {
            Some(place) => {
                let accepted = AcceptedConnection { socket, peer, local, place };
                self.tasks.spawn(connection::serve(accepted, settings, Arc::clone(&self.shared)));
            }
            None => {
                if self.limit_log.is_due() {
                    tracing::warn!(
                        event = "listener.connection_limit", address = %self.address, most,
                        "limits.connections is reached; refusing callers"
                    );
                }
                self.refuse(socket, settings.tls.is_some());
            }
        }
    }

    /// Sends 503 outside the accept loop, if that is possible without a TLS handshake.
    fn refuse(&mut self, socket: SocketStream, tls: bool) {
        if tls || self.refusals.fetch_add(1, Ordering::Relaxed) >= REFUSALS {
            if !tls {
                self.refusals.fetch_sub(1, Ordering::Relaxed);
            }
            return;
        }
        let refusals = Arc::clone(&self.refusals);
        self.tasks.spawn(async move {
            send_overloaded(socket).await;
            refusals.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Waits for every accepted connection.
    async fn end(mut self, stop: &Stop) {
        self.shared.drain.begin();
        self.sockets.close();
        loop {
            tokio::select! {
                biased;
                () = stop.now.cancelled() => break,
                ended = self.tasks.join_next() => match ended {
                    Some(ended) => report_panic(ended),
                    None => break,
                },
            }
        }
        tokio::select! {
            () = stop.now.cancelled() => {}
            () = self.sockets.wait() => return,
        }
        self.tasks.shutdown().await;
        let _ = tokio::time::timeout(LAST_WAIT, self.sockets.wait()).await;
    }
}

/// A socket, its other end, and the address that it connected to, which a Unix socket does not have.
type NewCaller = (SocketStream, Peer, Option<SocketAddr>);

impl Listening {
    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<NewCaller>> {
        match &self.socket {
            ListeningSocket::Tcp(listener, local) => {
                listener.poll_accept(context).map_ok(|(stream, peer)| {
                    let local = local.or_else(|| stream.local_addr().ok());
                    (SocketStream::Tcp(stream), Peer::Tcp(peer), local)
                })
            }
            ListeningSocket::Unix(listener, _) => listener.poll_accept(context).map(|accepted| {
                let (stream, _) = accepted?;
                let uid = stream.peer_cred()?.uid();
                Ok((SocketStream::Unix(stream), Peer::Unix { uid }, None))
            }),
        }
    }
}

/// Whether an error concerns one connection that ended before it was accepted. The next one is not affected (accept(2)).
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::NotConnected
            | io::ErrorKind::WouldBlock
    )
}

fn report_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(
            event = "listener.panicked",
            "a fault of bearerd (panic) ended a connection; the others continue"
        );
    }
}

async fn send_overloaded(mut socket: SocketStream) {
    let sent = async {
        let request_id = format!("{:032x}", fastrand::u128(..));
        socket.write_all(overloaded(&request_id).as_bytes()).await?;
        socket.shutdown().await
    };
    if let Ok(Ok(())) = tokio::time::timeout(REFUSAL_TIME, sent).await {
        let mut linger = Linger::new(REFUSED);
        poll_fn(|cx| linger.poll(cx, |cx, buffer| Pin::new(&mut socket).poll_read(cx, buffer))).await;
    }
}

fn overloaded(request_id: &str) -> String {
    let code = Code::Overloaded;
    let body = serde_json::json!({
        "type": format!("urn:bearerd:error:{}", code.as_str()),
        "title": code.title(),
        "status": code.status().as_u16(),
        "detail": "limits.connections is reached: find out who keeps so many open, or raise it",
        "code": code.as_str(),
        "route": null,
        "issuer": null,
        "request_id": request_id,
    })
    .to_string();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-type: application/problem+json\r\n\
         proxy-status: bearerd; error={}; details=\"{}\"\r\nretry-after: 1\r\ncache-control: no-store\r\n\
         x-request-id: {request_id}\r\ncontent-length: {}\r\n\r\n{body}",
        code.proxy_status(),
        code.as_str(),
        body.len()
    )
}

/// Keeps a log from being flooded: allows one line in ten seconds.
#[derive(Debug, Default)]
pub struct Logged(Option<Instant>);

const LOG_EVERY: Duration = Duration::from_secs(10);

impl Logged {
    /// Whether to log now. If so, the next ten seconds are not due.
    pub fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.0.is_none_or(|last| now - last >= LOG_EVERY);
        if due {
            self.0 = Some(now);
        }
        due
    }
}

/// Counts connections over all listeners and workers.
#[derive(Debug, Default)]
pub struct ConnectionLimit {
    open: AtomicUsize,
}

impl ConnectionLimit {
    pub fn new() -> Self {
        Self::default()
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Takes a place, unless `most` are taken already.
    fn take(&self, most: usize) -> bool {
        if self.open.fetch_add(1, Ordering::Relaxed) < most {
            return true;
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
        false
    }
}

/// The place of one connection. It moves with the socket, also into an upgraded tunnel.
struct ConnectionPlace {
    limit: Arc<ConnectionLimit>,
    metrics: Arc<ListenerMetrics>,
    _tracked: TaskTrackerToken,
}

impl ConnectionPlace {
    fn take(
        limit: &Arc<ConnectionLimit>,
        most: usize,
        metrics: &Arc<ListenerMetrics>,
        tracked: TaskTrackerToken,
    ) -> Option<Self> {
        if !limit.take(most) {
            return None;
        }
        metrics.connected();
        Some(Self { limit: Arc::clone(limit), metrics: Arc::clone(metrics), _tracked: tracked })
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.limit.open.fetch_sub(1, Ordering::Relaxed);
        self.metrics.disconnected();
    }
}
