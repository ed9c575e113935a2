//! A small HTTP/1 server for addresses beside the proxy's, such as the admin address: few connections, each for one
//! request.

mod answer;
mod outward;
mod room;

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::Request;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::Instant;

use super::accept::{Logged, is_of_one_connection};
use super::linger::{self, Linger};
use super::stream::Raw;
use super::{Bound, Stop, refusal};
use crate::metrics::ListenerMetrics;
use crate::proxy::Peer;
pub use answer::{Answer, answer, problem};
use outward::Outward;
use room::{Progress, Room, Stage};

/// The most that a request's head may take; ours are short.
const HEADER_BYTES: usize = 16 * 1024;
/// All that is read of a request, far more than any has: the parser takes the zeros before a chunk's size without end.
const REQUEST_BYTES: u64 = 1024 * 1024;
/// After a failed accept (no file descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whose request it is.
#[derive(Debug, Clone)]
pub struct Asker {
    /// Who is at the other end.
    pub peer: Peer,
    /// The address that the connection came to; `None`: a Unix socket.
    pub own: Option<SocketAddr>,
    /// When its connection was accepted.
    pub since: Instant,
    progress: Progress,
}

impl Asker {
    /// Of a connection that was accepted now.
    pub fn new(peer: Peer, own: Option<SocketAddr>) -> Self {
        Self { peer, own, since: Instant::now(), progress: Progress::default() }
    }

    /// To be called when the request's body was read: from then on its connection makes room for no other.
    pub fn has_sent_all(&self) {
        self.progress.reach(Stage::Answer);
    }
}

/// What answers.
pub trait Answerer: Send + Sync + 'static {
    /// Answers one request.
    fn answer(
        self: Arc<Self>,
        asker: Asker,
        request: Request<Incoming>,
    ) -> impl Future<Output = Answer> + Send;
}

/// What a connection may take.
#[derive(Debug, Clone, Copy)]
pub struct SmallLimits {
    /// Open ones; see [`room`] for what happens beyond.
    pub connections: usize,
    /// For a request's head.
    pub header_timeout: Duration,
    /// For a whole connection: who reads a response byte by byte does not hold it for ever.
    pub age: Duration,
}

/// Answers on this socket until `stop`; returns when every connection has ended. Needs a runtime with I/O and time.
pub async fn serve_small<A: Answerer>(
    bound: Bound,
    answerer: Arc<A>,
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
    let server = Arc::new(Server { name, answerer, limits, metrics, stop });
    let mut room = Room::new(limits.connections);
    let (mut trouble, mut crowd) = (Logged::default(), Logged::default());
    loop {
        let accepted = tokio::select! {
            biased;
            () = server.stop.now.cancelled() => break,
            () = server.stop.accepting.cancelled() => break,
            ended_one = room.made(), if room.is_full() => {
                if ended_one && crowd.is_due() {
                    tracing::warn!(
                        event = "listener.connection_evicted", name = %server.name, address, most = limits.connections,
                        "more connections than there are places: those that have not sent a request are closed"
                    );
                }
                continue;
            }
            accepted = listener.accept(), if !room.is_full() => accepted,
        };
        match accepted {
            Ok((stream, peer, own)) => {
                let asker = Asker::new(peer, own);
                let progress = asker.progress.clone();
                room.let_in(peer, progress, Arc::clone(&server).connection(stream, asker));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if trouble.is_due() {
                    tracing::error!(
                        event = "listener.accept_failed", name = %server.name, address, %error,
                        "can't accept connections; trying on"
                    );
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    room.emptied().await;
}

/// What all connections of an address share.
struct Server<A> {
    name: Arc<str>,
    answerer: Arc<A>,
    limits: SmallLimits,
    metrics: Arc<ListenerMetrics>,
    stop: Stop,
}

impl<A: Answerer> Server<A> {
    async fn connection(self: Arc<Self>, stream: Raw, asker: Asker) {
        let service = service_fn(|request| self.respond(asker.clone(), request));
        let (request, answer) = tokio::io::split(stream);
        let answer = Outward::new(answer, asker.progress.clone());
        let io = TokioIo::new(tokio::io::join(request.take(REQUEST_BYTES), answer));
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            // So that a connection that waits is one whose request has not come.
            .keep_alive(false)
            .max_buf_size(HEADER_BYTES)
            .serve_connection(io, service);
        let mut age = pin!(tokio::time::sleep_until(asker.since + self.limits.age));
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
            ended.as_ref().is_err_and(|error| refusal::tell(&self.name, asker.peer, &self.metrics, error));
        if let Err(error) = &ended
            && !refused
        {
            return tracing::debug!(
                event = "caller.disconnected", peer = ?asker.peer, %error,
                "a connection to an address of ours broke off"
            );
        }
        let owes_body = asker.progress.stage() == Stage::EarlyAnswer;
        let (request, answer) = connection.into_parts().io.into_inner().into_inner();
        see_off(request.into_inner().unsplit(answer.into_inner()), refused || owes_body).await;
    }

    async fn respond(&self, asker: Asker, request: Request<Incoming>) -> Result<Answer, Infallible> {
        let progress = asker.progress.clone();
        progress.reach(if request.body().is_end_stream() { Stage::Answer } else { Stage::Body });
        let answer = Arc::clone(&self.answerer).answer(asker, request).await;
        progress.reach(Stage::EarlyAnswer);
        Ok(answer)
    }
}

/// Throws away what the caller still sends: after a refused head, and else only where something waits to be read, since
/// the caller of a clean `Connection: close` is not waited for.
async fn see_off(mut stream: Raw, refused: bool) {
    let mut linger = Linger::new(linger::SHORT);
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
