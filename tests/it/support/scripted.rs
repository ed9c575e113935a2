//! A server that responds as the test says and records what arrived, byte for byte: issuer and upstream alike.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::message::Recorded;
use super::wire::Wire;
use super::{RawResponse, eventually};

type Default = Arc<dyn Fn(&Recorded, usize) -> RawResponse + Send + Sync>;

pub struct Scripted {
    pub address: Option<SocketAddr>,
    /// `http://127.0.0.1:PORT`, `https://localhost:PORT`, `unix:PATH`.
    pub url: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    recorded: Mutex<Vec<Arc<Recorded>>>,
    /// Each is used once, before the default.
    queue: Mutex<VecDeque<RawResponse>>,
    default: Mutex<Default>,
    /// Accepted, and the TLS handshake done.
    opened: AtomicUsize,
    closed: AtomicUsize,
    accepted: AtomicUsize,
}

impl Scripted {
    /// Answers `token-1`, `token-2` … for an hour each, at any path.
    pub async fn issuer() -> Self {
        let this = Self::start(None).await;
        this.always(|_, n| RawResponse::token(&format!("token-{n}")));
        this
    }

    /// Answers 200 `ok`.
    pub async fn upstream() -> Self {
        Self::start(None).await
    }

    pub async fn start(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        Self::on(tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(), tls)
    }

    /// On a socket that may have been there before.
    pub fn on(listener: tokio::net::TcpListener, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let address = listener.local_addr().unwrap();
        let url = match &tls {
            Some(_) => format!("https://localhost:{}", address.port()),
            None => format!("http://{address}"),
        };
        let shared = Shared::new();
        let serve = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let acceptor = tls.map(TlsAcceptor::from);
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                serve.accepted.fetch_add(1, Ordering::SeqCst);
                let (serve, acceptor) = (Arc::clone(&serve), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => serve.connection(Wire::new(stream)).await,
                        Some(acceptor) => match acceptor.accept(stream).await {
                            Ok(stream) => serve.connection(Wire::new(stream)).await,
                            Err(_) => _ = serve.closed.fetch_add(1, Ordering::SeqCst),
                        },
                    }
                });
            }
        });
        Self { address: Some(address), url, shared, task }
    }

    pub async fn unix(path: &Path) -> Self {
        let listener = tokio::net::UnixListener::bind(path).unwrap();
        let shared = Shared::new();
        let serve = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let serve = Arc::clone(&serve);
                tokio::spawn(async move { serve.connection(Wire::new(stream)).await });
            }
        });
        Self { address: None, url: format!("unix:{}", path.display()), shared, task }
    }

    /// The next request gets this response; another use of this function sets the one after it.
    pub fn next(&self, response: RawResponse) -> &Self {
        self.shared.queue.lock().unwrap().push_back(response);
        self
    }

    /// What requests get for which nothing else was said; the number counts from 1.
    pub fn always(
        &self,
        response: impl Fn(&Recorded, usize) -> RawResponse + Send + Sync + 'static,
    ) -> &Self {
        *self.shared.default.lock().unwrap() = Arc::new(response);
        self
    }

    pub fn always_this(&self, response: RawResponse) -> &Self {
        self.always(move |_, _| response.clone())
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Arc<Recorded>> {
        self.shared.recorded.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.shared.recorded.lock().unwrap().len()
    }

    /// Waits for the `n`th request, from 1.
    pub async fn request(&self, n: usize) -> Arc<Recorded> {
        let what = format!("request {n} at {}", self.url);
        eventually(&what, || async { self.requests().get(n - 1).cloned() }).await
    }

    pub fn last(&self) -> Arc<Recorded> {
        self.requests().last().cloned().expect("a request arrived")
    }

    /// Connections accepted, TLS done or not.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections on which a request could come.
    pub fn opened(&self) -> usize {
        self.shared.opened.load(Ordering::SeqCst)
    }

    pub fn closed(&self) -> usize {
        self.shared.closed.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            recorded: Mutex::default(),
            queue: Mutex::default(),
            default: Mutex::new(Arc::new(|_, _| RawResponse::ok("ok"))),
            opened: AtomicUsize::new(0),
            closed: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
        })
    }

    async fn connection(&self, mut wire: Wire) {
        let number = self.opened.fetch_add(1, Ordering::SeqCst);
        while let Ok(Some(head)) = wire.head().await {
            let Ok(body) = wire.body(&head, false).await else { break };
            let head_only = head.word(0) == "HEAD";
            let request =
                Recorded { connection: number, at: Instant::now(), wall: SystemTime::now(), head, body };
            let response = self.record(request);
            if !matches!(response.play(&mut wire, head_only).await, Ok(true)) {
                break;
            }
        }
        self.closed.fetch_add(1, Ordering::SeqCst);
    }

    fn record(&self, request: Recorded) -> RawResponse {
        let request = Arc::new(request);
        let mut recorded = self.recorded.lock().unwrap();
        recorded.push(Arc::clone(&request));
        let number = recorded.len();
        drop(recorded);
        if let Some(response) = self.queue.lock().unwrap().pop_front() {
            return response;
        }
        let default = Arc::clone(&self.default.lock().unwrap());
        default(&request, number)
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}
