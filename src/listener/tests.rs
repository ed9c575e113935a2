//! Real sockets, against a stand-in for the proxy.

mod bodies;
mod ending;
mod serving;
mod small;
mod timing;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::*;
use crate::config::{Address, ListenerTls, Source, UnixOptions, fixture};
use crate::inbound::InFlight;
use crate::metrics::Metrics;
use crate::proxy::{BodyError, Peer};

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BodyError>;

/// Stands in for the proxy: keeps `Activity` as it does.
struct Fake {
    /// One permit lets one `/slow` go on.
    release: Semaphore,
    write_stall_ms: u64,
}

fn in_flight(caller: &Arc<Caller>) -> InFlight {
    caller.activity.requests.fetch_add(1, Ordering::Relaxed);
    InFlight::new(&caller.activity)
}

/// A body that counts as a request until it has ended.
struct Counted {
    inner: Full<Bytes>,
    /// Large frames before it.
    blocks: usize,
    _in_flight: InFlight,
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.blocks > 0 {
            self.blocks -= 1;
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 64 * 1024])))));
        }
        Pin::new(&mut self.inner).poll_frame(context).map_err(|never| match never {})
    }

    fn is_end_stream(&self) -> bool {
        self.blocks == 0 && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        if self.blocks > 0 { hyper::body::SizeHint::default() } else { self.inner.size_hint() }
    }
}

impl Handler for Fake {
    type Body = Body;

    async fn call(&self, caller: &Arc<Caller>, request: &mut Request<CallerBody>) -> Response<Body> {
        let in_flight = in_flight(caller);
        caller.activity.write_stall_ms.store(self.write_stall_ms, Ordering::Relaxed);
        let mut text = "ok".to_owned();
        match request.uri().path() {
            "/slow" => self.release.acquire().await.unwrap().forget(),
            "/panic" => panic!("as the test wants"),
            "/peer" => text = format!("{:?} {}", caller.peer, caller.tls),
            "/tunnel" => return tunnel(in_flight, request),
            "/length" => text = taken(request).await.to_string(),
            "/echo" => {
                return Response::new(std::mem::take(request.body_mut()).map_err(Into::into).boxed_unsync());
            }
            "/unwanted" => {
                drop(std::mem::take(request.body_mut()));
                self.release.acquire().await.unwrap().forget();
            }
            "/both" => drop(tokio::spawn(taken(request))),
            "/upload/whole" => return upload(in_flight, request, true),
            "/upload/pieces" => return upload(in_flight, request, false),
            "/late" => return late(in_flight, request),
            _ => {}
        }
        let blocks = match request.uri().path() {
            "/endless" => usize::MAX,
            "/both" => 256,
            _ => 0,
        };
        let inner = Full::new(Bytes::from(text));
        Response::new(Counted { inner, blocks, _in_flight: in_flight }.boxed_unsync())
    }
}

/// How much of a body came.
fn taken(request: &mut Request<CallerBody>) -> impl Future<Output = usize> + use<> {
    let body = std::mem::take(request.body_mut());
    async move { body.collect().await.map_or(0, |body| body.to_bytes().len()) }
}

const MUCH: usize = 32 << 20;

/// Answers with much, as one piece or as many, while it reads what the caller sends.
fn upload(in_flight: InFlight, request: &mut Request<CallerBody>, whole: bool) -> Response<Body> {
    let sent = std::mem::take(request.body_mut());
    tokio::spawn(async move {
        let _in_flight = in_flight;
        let _ = sent.collect().await;
    });
    if whole {
        let answer = Full::new(Bytes::from(vec![b'x'; MUCH]));
        return Response::new(answer.map_err(|never| match never {}).boxed_unsync());
    }
    let (feed, answer) = streamed();
    tokio::spawn(async move {
        for _ in 0..MUCH / BLOCK.len() {
            feed.send(Ok(Frame::data(Bytes::from_static(BLOCK)))).await.unwrap();
        }
    });
    Response::new(answer)
}

const BLOCK: &[u8] = &[b'x'; 64 * 1024];

type Feed = tokio::sync::mpsc::Sender<Result<Frame<Bytes>, BodyError>>;

fn streamed() -> (Feed, Body) {
    let (feed, frames) = tokio::sync::mpsc::channel(1);
    let frames = tokio_stream::wrappers::ReceiverStream::new(frames);
    (feed, http_body_util::StreamBody::new(frames).boxed_unsync())
}

/// Begins its response before it wants the caller's body.
fn late(in_flight: InFlight, request: &mut Request<CallerBody>) -> Response<Body> {
    let sent = std::mem::take(request.body_mut());
    let (feed, answer) = streamed();
    tokio::spawn(async move {
        let _in_flight = in_flight;
        let short = Duration::from_millis(100);
        feed.send(Ok(Frame::data(Bytes::from_static(b"a")))).await.unwrap();
        tokio::time::sleep(short).await;
        let _ = tokio::time::timeout(short, sent.collect()).await;
        feed.send(Ok(Frame::data(Bytes::from_static(b"b")))).await.unwrap();
    });
    Response::new(answer)
}

/// Answers 101, then echoes.
fn tunnel(in_flight: InFlight, request: &mut Request<CallerBody>) -> Response<Body> {
    let upgrade = hyper::upgrade::on(&mut *request);
    tokio::spawn(async move {
        let _in_flight = in_flight;
        let (mut from, mut to) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
        let _ = tokio::io::copy(&mut from, &mut to).await;
    });
    let mut response =
        Response::new(http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert("upgrade", "echo".parse().unwrap());
    response.headers_mut().insert("connection", "upgrade".parse().unwrap());
    response
}

struct Server {
    address: SocketAddr,
    handler: Arc<Fake>,
    connections: Arc<ConnectionLimit>,
    stop: Stop,
    task: JoinHandle<()>,
}

fn limits() -> Limits {
    Limits {
        header_bytes: 32 * 1024,
        header_count: 100,
        header_timeout: Some(Duration::from_secs(20)),
        keep_alive: Some(Duration::from_secs(20)),
        connections: 100,
        waiters: 100,
    }
}

fn settings(address: Address, limits: Limits, tls: Option<Arc<rustls::ServerConfig>>) -> Arc<SettingsCell> {
    let name: Arc<str> = Arc::from("main");
    let config = Arc::new(ListenerConfig { address, ..fixture::listener() });
    let metrics = Metrics::default().listener(&name);
    Arc::new(SettingsCell::from_pointee(ListenerSettings { config, limits, tls, metrics }))
}

impl Server {
    fn start(limits: Limits) -> Self {
        Self::start_with(limits, None, 0)
    }

    fn start_with(limits: Limits, tls: Option<Arc<rustls::ServerConfig>>, write_stall_ms: u64) -> Self {
        let any = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let bound = Bound::bind(&Arc::from("main"), &any, &UnixOptions::OWNER_ALONE).unwrap();
        let address = bound.local_addr().unwrap();
        let handler = Arc::new(Fake { release: Semaphore::new(0), write_stall_ms });
        let connections = Arc::new(ConnectionLimit::new());
        let stop = Stop::default();
        let task = tokio::spawn(accept::serve(
            bound,
            Arc::clone(&handler),
            settings(any, limits, tls),
            Arc::clone(&connections),
            stop.clone(),
        ));
        Self { address, handler, connections, stop, task }
    }

    async fn connect(&self) -> Client {
        Client(TcpStream::connect(self.address).await.unwrap())
    }

    /// Waits until the server has as many connections.
    async fn until_open(&self, count: usize) {
        soon(async {
            while self.connections.open() != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    async fn ended(self) {
        soon(self.task).await.unwrap();
        assert_eq!(self.connections.open(), 0);
    }
}

/// Long enough for any machine, short enough for a hung test.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(15), future).await.expect("in time")
}

struct Client(TcpStream);

impl Client {
    async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    async fn get(&mut self, path: &str) -> String {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        self.response().await
    }

    /// Head and body of one answer with `content-length`.
    async fn response(&mut self) -> String {
        soon(async {
            let mut all = Vec::new();
            loop {
                all.push(self.0.read_u8().await.expect("a response"));
                let text = String::from_utf8_lossy(&all);
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "))
                    .map_or(0, |length| length.parse().unwrap());
                if body.len() == length {
                    return text.into_owned();
                }
            }
        })
        .await
    }

    /// What comes until the server closes.
    async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        soon(self.0.read_to_end(&mut rest)).await.unwrap();
        String::from_utf8_lossy(&rest).into_owned()
    }
}

async fn http2(server: &Server) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
    let stream = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("http://localhost{path}")).body(Full::default()).unwrap()
}

fn tls() -> (Arc<rustls::ServerConfig>, Source) {
    let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let certificate = Source::literal(issued.cert.pem().as_str());
    let private_key = Source::literal(issued.signing_key.serialize_pem().as_str());
    let tls = ListenerTls { certificate: certificate.clone(), private_key, client_ca: None };
    (crate::net::tls::server_config(&tls).unwrap(), certificate)
}
