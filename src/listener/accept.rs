//! The accept loop: it never ends on an error and never spins.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::bind::{BACKLOG, Bound, Listening, ListeningSocket};
use super::connection::{self, Accepted, Shared};
use super::drive::Drain;
use super::limit::{ConnectionLimit, TakenPlace};
use super::linger::{self, Linger};
use super::stream::Raw;
use super::{Handler, SettingsCell, Stop};
use crate::proxy::{Code, Peer};
use crate::telemetry::Repeated;

/// How long accepting pauses after an error that is not one connection's, such as too many open files.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The same trouble is logged once in this time.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Refused callers that are being told so at the same time; more of them are closed without a word.
pub const REFUSALS: usize = 64;
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// How long tunnels may take to notice that they are to end now.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// See [`super::serve`].
pub(super) async fn serve<H: Handler>(
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
        drain: Drain::default(),
        now: stop.now.clone(),
        tls_complaints: Repeated::default(),
    });
    let mut acceptor = Acceptor {
        settings,
        connections,
        shared,
        tasks: JoinSet::new(),
        sockets: TaskTracker::new(),
        refusals: Arc::new(AtomicUsize::new(0)),
        refused: Logged::default(),
        trouble: Logged::default(),
        address,
    };
    acceptor.accept_until_stopped(&listening, &stop).await;
    if !stop.now.is_cancelled() {
        acceptor.accept_waiting(&listening).await;
    }
    drop(listening);
    acceptor.end(&stop).await;
}

struct Acceptor<H> {
    settings: Arc<SettingsCell>,
    connections: Arc<ConnectionLimit>,
    shared: Arc<Shared<H>>,
    tasks: JoinSet<()>,
    /// Every socket, also of a tunnel that has outlived its connection's task.
    sockets: TaskTracker,
    refusals: Arc<AtomicUsize>,
    refused: Logged,
    trouble: Logged,
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
                    report(ended);
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
                    if self.trouble.is_due() {
                        tracing::error!(
                            event = "listener.accept_failed", address = %self.address, %error,
                            "can't accept connections; trying on"
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

    /// Takes in callers that the kernel has accepted already: closing the socket would reset them.
    async fn accept_waiting(&mut self, listening: &Listening) {
        // So that the runtime hears of those that have come since it last looked.
        tokio::task::yield_now().await;
        for _ in 0..BACKLOG {
            let polled = poll_fn(|context| Poll::Ready(listening.poll_accept(context)));
            // Else tokio would feign that nobody waits after a number of them.
            match tokio::task::unconstrained(polled).await {
                Poll::Ready(Ok(accepted)) => self.start(accepted),
                Poll::Ready(Err(error)) if is_of_one_connection(&error) => {}
                Poll::Ready(Err(_)) | Poll::Pending => return,
            }
        }
    }

    fn start(&mut self, (raw, peer, local): NewCaller) {
        let settings = self.settings.load_full();
        let most = settings.limits.connections;
        match TakenPlace::take(&self.connections, most, &settings.metrics, self.sockets.token()) {
            Some(held) => {
                let accepted = Accepted { raw, peer, local, held };
                self.tasks.spawn(connection::serve(accepted, settings, Arc::clone(&self.shared)));
            }
            None => {
                if self.refused.is_due() {
                    tracing::warn!(
                        event = "listener.connection_limit", address = %self.address, most,
                        "limits.connections is reached; refusing callers"
                    );
                }
                self.refuse(raw, settings.tls.is_some());
            }
        }
    }

    /// Says 503 where that can be said without a handshake, beside the accept loop.
    fn refuse(&mut self, raw: Raw, tls: bool) {
        if tls || self.refusals.fetch_add(1, Ordering::Relaxed) >= REFUSALS {
            if !tls {
                self.refusals.fetch_sub(1, Ordering::Relaxed);
            }
            return;
        }
        let refusals = Arc::clone(&self.refusals);
        self.tasks.spawn(async move {
            tell_overloaded(raw).await;
            refusals.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Waits for all that was accepted.
    async fn end(mut self, stop: &Stop) {
        self.shared.drain.begin();
        self.sockets.close();
        loop {
            tokio::select! {
                biased;
                () = stop.now.cancelled() => break,
                ended = self.tasks.join_next() => match ended {
                    Some(ended) => report(ended),
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

pub(super) type NewCaller = (Raw, Peer, Option<std::net::SocketAddr>);

impl Listening {
    pub(super) fn poll_accept(&self, context: &mut std::task::Context<'_>) -> Poll<io::Result<NewCaller>> {
        match &self.socket {
            ListeningSocket::Tcp(listener, local) => {
                listener.poll_accept(context).map_ok(|(stream, peer)| {
                    let local = local.or_else(|| stream.local_addr().ok());
                    (Raw::Tcp(stream), Peer::Tcp(peer), local)
                })
            }
            ListeningSocket::Unix(listener, _) => listener.poll_accept(context).map(|accepted| {
                let (stream, _) = accepted?;
                let uid = stream.peer_cred()?.uid();
                Ok((Raw::Unix(stream), Peer::Unix { uid }, None))
            }),
        }
    }
}

/// Errors of a connection that ended before it was accepted; the next one is none the worse (accept(2)).
pub(super) fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::NotConnected
            | io::ErrorKind::WouldBlock
    )
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(
            event = "listener.panicked",
            "a connection ended by a fault of ours (panic); the others go on"
        );
    }
}

async fn tell_overloaded(mut raw: Raw) {
    let told = async {
        raw.write_all(overloaded(&request_id()).as_bytes()).await?;
        raw.shutdown().await
    };
    if let Ok(Ok(())) = tokio::time::timeout(REFUSAL_TIME, told).await {
        let mut linger = Linger::new(linger::REFUSED);
        poll_fn(|cx| linger.poll(cx, |cx, buffer| Pin::new(&mut raw).poll_read(cx, buffer))).await;
    }
}

fn request_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}

fn overloaded(request_id: &str) -> String {
    let code = Code::Overloaded;
    let body = serde_json::json!({
        "type": format!("urn:bearerd:error:{}", code.as_str()),
        "title": code.title(),
        "status": code.status().as_u16(),
        "detail": "limits.connections is reached: see who keeps so many open, or raise it",
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

/// Keeps a log from being flooded: the same trouble is told once in ten seconds.
#[derive(Debug, Default)]
pub struct Logged(Option<Instant>);

impl Logged {
    /// Whether it is to be told now; then not again for a while.
    pub fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.0.is_none_or(|last| now - last >= LOG_EVERY);
        if due {
            self.0 = Some(now);
        }
        due
    }
}
