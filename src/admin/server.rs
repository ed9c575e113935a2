//! The admin socket's own small server: HTTP/1, few connections, none for long.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{AbortHandle, JoinSet};

use super::Admin;
use super::answer::Asker;
use crate::listener::{Bound, Stop};

/// Open connections; one more closes the oldest, so that nobody can keep a probe out by holding them.
pub(super) const CONNECTIONS: usize = 100;
/// For a request's head, and between two requests of a connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// For a whole connection: who reads an answer byte by byte does not hold it for ever.
const CONNECTION_AGE: Duration = Duration::from_secs(60);
/// The most that a request's head may take; ours are short.
const HEADER_BYTES: usize = 16 * 1024;
/// After a failed accept (no file descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers on this socket until `stop`; returns when every connection has ended.
pub async fn serve(bound: Bound, admin: Arc<Admin>, stop: Stop) {
    let address = bound.local();
    let mut listener = match bound.into_listener() {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, address, "the admin address cannot be served");
            return;
        }
    };
    let mut connections = Connections::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.now.cancelled() => break,
            () = stop.accepting.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer, own)) => {
                let asker = Asker { peer, own };
                connections.spawn(connection(stream, asker, Arc::clone(&admin), stop.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, address, "a connection to the admin address was not accepted");
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
}

impl Connections {
    fn spawn(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.handles.retain(|handle| !handle.is_finished());
        if self.handles.len() >= CONNECTIONS
            && let Some(oldest) = self.handles.pop_front()
        {
            oldest.abort();
        }
        self.handles.push_back(self.tasks.spawn(connection));
    }
}

async fn connection<S>(stream: S, asker: Asker, admin: Arc<Admin>, stop: Stop)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |request| {
        let answer = admin.respond(asker, &request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let mut age = std::pin::pin!(tokio::time::sleep(CONNECTION_AGE));
    let mut ending = false;
    loop {
        tokio::select! {
            biased;
            () = stop.now.cancelled() => return,
            () = stop.accepting.cancelled(), if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection to the admin address broke off");
                }
                return;
            }
            () = age.as_mut() => return,
        }
    }
}
