//! An HTTP/2 server that the test plays frame by frame, for what no server library would send.

use std::collections::HashMap;
use std::future::Future;
use std::io::Result;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::eventually;
use super::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, literal,
};
use super::wire::Wire;

/// RFC 9113 section 7.
pub const NO_ERROR: u32 = 0;
pub const INTERNAL_ERROR: u32 = 2;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const ENHANCE_YOUR_CALM: u32 = 11;
pub const HTTP_1_1_REQUIRED: u32 = 13;

/// RFC 9113 section 6.5.2.
pub const MAX_CONCURRENT_STREAMS: u16 = 3;
pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// The last id of a GOAWAY that only announces the end.
pub const ANY_STREAM: u32 = 0x7fff_ffff;

pub struct PeerServer {
    pub url: String,
    log: Arc<Log>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Log {
    accepted: AtomicUsize,
    closed: AtomicUsize,
    panicked: AtomicUsize,
    /// Every frame that came, with its connection's number.
    frames: Mutex<Vec<(usize, Frame)>>,
}

/// One connection, at the test's end.
pub struct Peer {
    wire: Wire,
    /// Which of the server's connections it is, from 0.
    pub number: usize,
    /// ALPN chose HTTP/1.1.
    pub http1: bool,
    /// Opens windows as data comes.
    pub generous: bool,
    log: Arc<Log>,
    /// Bodies under way.
    bodies: HashMap<u32, Vec<u8>>,
}

/// A whole request.
#[derive(Debug, Clone)]
pub struct Asked {
    pub stream: u32,
    pub body: Vec<u8>,
}

impl PeerServer {
    /// HTTP/2 with prior knowledge.
    pub async fn plain<F: Future<Output = ()> + Send>(
        play: impl Fn(Peer) -> F + Send + Sync + 'static,
    ) -> Self {
        Self::start(None, play).await
    }

    pub async fn start<F: Future<Output = ()> + Send>(
        tls: Option<Arc<rustls::ServerConfig>>,
        play: impl Fn(Peer) -> F + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let url = match &tls {
            Some(_) => format!("https://localhost:{}", address.port()),
            None => format!("http://{address}"),
        };
        let log = Arc::<Log>::default();
        let shared = Arc::clone(&log);
        let play = Arc::new(play);
        let task = tokio::spawn(async move {
            let acceptor = tls.map(TlsAcceptor::from);
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
                let (log, play, acceptor) = (Arc::clone(&shared), Arc::clone(&play), acceptor.clone());
                tokio::spawn(async move {
                    let (wire, http1) = match acceptor {
                        None => (Wire::new(stream), false),
                        Some(acceptor) => {
                            let Ok(stream) = acceptor.accept(stream).await else { return };
                            let http1 = stream.get_ref().1.alpn_protocol() != Some(b"h2");
                            (Wire::new(stream), http1)
                        }
                    };
                    let bodies = HashMap::new();
                    let peer = Peer { wire, number, http1, generous: true, log: Arc::clone(&log), bodies };
                    let _fault = Fault(Arc::clone(&log));
                    play(peer).await;
                    log.closed.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { url, log, task }
    }

    /// Connections accepted.
    pub fn accepted(&self) -> usize {
        self.log.accepted.load(Ordering::SeqCst)
    }

    /// Connections whose play is over.
    pub fn closed(&self) -> usize {
        self.log.closed.load(Ordering::SeqCst)
    }

    /// Frames of a kind on a connection.
    pub fn count(&self, connection: usize, kind: u8) -> usize {
        let frames = self.log.frames.lock().unwrap();
        frames.iter().filter(|(on, frame)| *on == connection && frame.kind == kind).count()
    }

    /// Requests that began on a connection.
    pub fn requests(&self, connection: usize) -> usize {
        self.count(connection, HEADERS)
    }

    /// Requests that began, connection by connection.
    pub fn all_requests(&self) -> Vec<usize> {
        (0..self.accepted()).map(|connection| self.requests(connection)).collect()
    }

    /// PINGs on all connections that did not acknowledge the test's own.
    pub fn pings(&self) -> usize {
        let frames = self.log.frames.lock().unwrap();
        frames.iter().filter(|(_, frame)| frame.kind == PING && frame.flags & ACK == 0).count()
    }

    /// Waits until so many requests have begun, on all connections.
    pub async fn begun(&self, requests: usize) {
        eventually(&format!("{requests} requests at {}", self.url), || async {
            (self.all_requests().iter().sum::<usize>() >= requests).then_some(())
        })
        .await;
    }
}

impl Drop for PeerServer {
    fn drop(&mut self) {
        self.task.abort();
        let panicked = self.log.panicked.load(Ordering::SeqCst);
        assert!(panicked == 0 || std::thread::panicking(), "{panicked} plays of an upstream panicked");
    }
}

/// Notes a play that panicked: in its task, that would fail no test.
struct Fault(Arc<Log>);

impl Drop for Fault {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.panicked.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Peer {
    /// Reads the client's preface, and says these settings.
    pub async fn begin(&mut self, settings: &[(u16, u32)]) {
        self.preface().await;
        self.settings(settings).await;
    }

    pub async fn preface(&mut self) {
        let preface = self.wire.exact(PREFACE.len()).await.expect("the client's preface");
        assert_eq!(preface, PREFACE);
    }

    pub async fn settings(&mut self, settings: &[(u16, u32)]) {
        let pair = |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat();
        self.frame(SETTINGS, 0, 0, &settings.iter().flat_map(pair).collect::<Vec<u8>>()).await;
    }

    pub async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        // The proxy may have closed already: what the test looks at then is what the proxy did.
        let _sent = self.wire.send(Frame::new(kind, flags, stream, payload).bytes()).await;
    }

    /// The next frame; SETTINGS are acknowledged, and windows opened where the peer is generous.
    pub async fn next(&mut self) -> Result<Frame> {
        let frame = Frame::read(&mut self.wire).await?;
        self.log.frames.lock().unwrap().push((self.number, frame.clone()));
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => self.frame(SETTINGS, ACK, 0, &[]).await,
            HEADERS => _ = self.bodies.insert(frame.stream, Vec::new()),
            DATA => {
                self.bodies.entry(frame.stream).or_default().extend_from_slice(&frame.payload);
                let length = u32::try_from(frame.payload.len()).unwrap().to_be_bytes();
                if self.generous && !frame.payload.is_empty() {
                    self.frame(WINDOW_UPDATE, 0, 0, &length).await;
                    if !frame.ends_stream() {
                        self.frame(WINDOW_UPDATE, 0, frame.stream, &length).await;
                    }
                }
            }
            _ => {}
        }
        Ok(frame)
    }

    /// The stream of the next request whose head comes.
    pub async fn begun(&mut self) -> Result<u32> {
        loop {
            let frame = self.next().await?;
            if frame.kind == HEADERS {
                return Ok(frame.stream);
            }
        }
    }

    /// The next request that is whole.
    pub async fn asked(&mut self) -> Result<Asked> {
        loop {
            let frame = self.next().await?;
            if frame.ends_stream() {
                let body = self.bodies.remove(&frame.stream).unwrap_or_default();
                return Ok(Asked { stream: frame.stream, body });
            }
        }
    }

    pub async fn asked_times(&mut self, times: usize) -> Vec<Asked> {
        let mut asked = Vec::new();
        while asked.len() < times {
            asked.push(self.asked().await.expect("a whole request"));
        }
        asked
    }

    /// 200, and the request's body back; for a request without one, the connection's number.
    pub async fn respond(&mut self, asked: &Asked) {
        let number = self.number.to_string().into_bytes();
        let body = if asked.body.is_empty() { number } else { asked.body.clone() };
        self.head(asked.stream, 200, &[]).await;
        self.data(asked.stream, &body, true).await;
    }

    /// A response's head, with more to follow.
    pub async fn head(&mut self, stream: u32, status: u16, fields: &[(&str, &str)]) {
        let mut block = Vec::new();
        literal(&mut block, b":status", status.to_string().as_bytes());
        for (name, value) in fields {
            literal(&mut block, name.as_bytes(), value.as_bytes());
        }
        self.frame(HEADERS, END_HEADERS, stream, &block).await;
    }

    pub async fn data(&mut self, stream: u32, body: &[u8], end: bool) {
        let mut blocks = body.chunks(16 * 1024).peekable();
        while let Some(block) = blocks.next() {
            let flags = if end && blocks.peek().is_none() { END_STREAM } else { 0 };
            self.frame(DATA, flags, stream, block).await;
        }
    }

    pub async fn reset(&mut self, stream: u32, code: u32) {
        self.frame(RST_STREAM, 0, stream, &code.to_be_bytes()).await;
    }

    pub async fn go_away(&mut self, last: u32, code: u32) {
        self.frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat()).await;
    }

    /// Answers everything, until the proxy ends the connection.
    pub async fn serve(&mut self) {
        while let Ok(asked) = self.asked().await {
            self.respond(&asked).await;
        }
    }

    /// Answers over HTTP/1.1 with the protocol's name.
    pub async fn serve_http1(&mut self) {
        while let Ok(Some(head)) = self.wire.head().await {
            let body = self.wire.body(&head, false).await.expect("a whole body").data;
            let body = if body.is_empty() { b"http/1.1".to_vec() } else { body };
            let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            self.wire.send([response.as_bytes(), &body].concat()).await.unwrap();
        }
    }

    /// Reads on, and does nothing, until the proxy ends the connection.
    pub async fn end(&mut self) {
        while self.next().await.is_ok() {}
    }
}
