//! A small HTTP/1 server for addresses beside the proxy's, such as the admin address: few connections, none for long.

mod answer;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncReadExt;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::accept::{Logged, is_of_one_connection};
use super::stream::Raw;
use super::{Bound, Stop};
use crate::proxy::Peer;
pub use answer::{Answer, answer, problem};

/// The most that a request's head may take; ours are short.
const HEADER_BYTES: usize = 16 * 1024;
/// After a failed accept (no file descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// See [`linger`].
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;

/// Whose request it is.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    pub peer: Peer,
    /// The address that the connection came to; `None`: a Unix socket.
    pub own: Option<SocketAddr>,
    /// When its connection was accepted.
    pub since: Instant,
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
    /// Open ones; one more closes the oldest, so that nobody can keep others out by holding them.
    pub connections: usize,
    /// For a request's head, and between two requests of a connection.
    pub header_timeout: Duration,
    /// For a whole connection: who reads an answer byte by byte does not hold it for ever.
    pub age: Duration,
    /// More than one request each.
    pub keep_alive: bool,
}

/// Answers on this socket until `stop`; returns when every connection has ended. Needs a runtime with I/O and time.
pub async fn serve_small<A: Answerer>(bound: Bound, answerer: Arc<A>, limits: SmallLimits, stop: Stop) {
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
    let mut connections = Connections { most: limits.connections, ..Connections::default() };
    let mut trouble = Logged::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.now.cancelled() => break,
            () = stop.accepting.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer, own)) => {
                let asker = Asker { peer, own, since: Instant::now() };
                connections.spawn(connection(stream, asker, Arc::clone(&answerer), limits, stop.clone()));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if trouble.is_due() {
                    tracing::error!(
                        event = "listener.accept_failed", %name, address, %error,
                        "can't accept connections; trying on"
                    );
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.tasks.join_next().await.is_some() {}
}

/// All that are open, the oldest first.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    handles: VecDeque<AbortHandle>,
    most: usize,
}

impl Connections {
    fn spawn(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.handles.retain(|handle| !handle.is_finished());
        if self.handles.len() >= self.most
            && let Some(oldest) = self.handles.pop_front()
        {
            oldest.abort();
        }
        self.handles.push_back(self.tasks.spawn(connection));
    }
}

async fn connection<A: Answerer>(
    stream: Raw,
    asker: Asker,
    answerer: Arc<A>,
    limits: SmallLimits,
    stop: Stop,
) {
    let service = service_fn(move |request| {
        let answer = Arc::clone(&answerer).answer(asker, request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .keep_alive(limits.keep_alive)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut age = std::pin::pin!(tokio::time::sleep_until(asker.since + limits.age));
    let mut ending = false;
    let ended = loop {
        tokio::select! {
            biased;
            () = stop.now.cancelled() => return,
            () = stop.accepting.cancelled(), if !ending => {
                ending = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
            ended = &mut connection => break ended,
            () = age.as_mut() => return,
        }
    };
    if let Err(error) = &ended {
        tracing::debug!(
            event = "caller.broke_off", peer = ?asker.peer, %error,
            "a connection to an address of ours broke off"
        );
    }
    let refused = ended.as_ref().is_err_and(hyper::Error::is_parse);
    if ended.is_ok() || refused {
        linger(connection.into_parts().io.into_inner(), refused).await;
    }
}

/// Throws away what the caller still sends: after a refused head, and else only where something waits to be read, since
/// the caller of a clean `Connection: close` is not waited for.
async fn linger(mut stream: Raw, refused: bool) {
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
