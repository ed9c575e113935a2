//! Real sockets, against a stand-in for the proxy.

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
use crate::inbound::{InFlight, OWN_STALL_MS};
use crate::metrics::Metrics;
use crate::proxy::{BodyError, InsideTls, Peer};

mod stop;
mod time;

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BodyError>;

/// Stands in for the proxy, and updates `Activity` as the proxy does.
struct Fake {
    /// One permit lets one `/slow` continue.
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
        if request.method() == http::Method::CONNECT {
            return connect(caller);
        }
        let in_flight = in_flight(caller);
        let write_stall_ms = if caller.inside.is_some() { 0 } else { self.write_stall_ms };
        caller.activity.write_stall_ms.store(write_stall_ms, Ordering::Relaxed);
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

static INSIDE: std::sync::LazyLock<(Arc<rustls::ServerConfig>, Source)> = std::sync::LazyLock::new(tls);

/// Opens a connection inside, as the proxy does.
fn connect(caller: &Arc<Caller>) -> Response<Body> {
    caller.activity.respond_within(OWN_STALL_MS);
    let mut response = Response::new(Body::default());
    response.extensions_mut().insert(InsideTls::to_localhost(caller, Arc::clone(&INSIDE.0)));
    response
}

/// How much of a body arrived.
fn taken(request: &mut Request<CallerBody>) -> impl Future<Output = usize> + use<> {
    let body = std::mem::take(request.body_mut());
    async move { body.collect().await.map_or(0, |body| body.to_bytes().len()) }
}

const MUCH: usize = 32 << 20;

/// Sends a large response, as one piece or as many, while it reads what the caller sends.
fn upload(in_flight: InFlight, request: &mut Request<CallerBody>, whole: bool) -> Response<Body> {
    let sent = std::mem::take(request.body_mut());
    tokio::spawn(async move {
        let _in_flight = in_flight;
        let _ = sent.collect().await;
    });
    if whole {
        let response = Full::new(Bytes::from(vec![b'x'; MUCH]));
        return Response::new(response.map_err(|never| match never {}).boxed_unsync());
    }
    let (feed, response) = streamed();
    tokio::spawn(async move {
        for _ in 0..MUCH / BLOCK.len() {
            feed.send(Ok(Frame::data(Bytes::from_static(BLOCK)))).await.unwrap();
        }
    });
    Response::new(response)
}

const BLOCK: &[u8] = &[b'x'; 64 * 1024];

type Feed = tokio::sync::mpsc::Sender<Result<Frame<Bytes>, BodyError>>;

fn streamed() -> (Feed, Body) {
    let (feed, frames) = tokio::sync::mpsc::channel(1);
    let frames = tokio_stream::wrappers::ReceiverStream::new(frames);
    (feed, http_body_util::StreamBody::new(frames).boxed_unsync())
}

/// Begins its response before it requests the caller's body.
fn late(in_flight: InFlight, request: &mut Request<CallerBody>) -> Response<Body> {
    let sent = std::mem::take(request.body_mut());
    let (feed, response) = streamed();
    tokio::spawn(async move {
        let _in_flight = in_flight;
        let short = Duration::from_millis(100);
        feed.send(Ok(Frame::data(Bytes::from_static(b"a")))).await.unwrap();
        tokio::time::sleep(short).await;
        let _ = tokio::time::timeout(short, sent.collect()).await;
        feed.send(Ok(Frame::data(Bytes::from_static(b"b")))).await.unwrap();
    });
    Response::new(response)
}

/// Responds 101, then echoes.
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
    Arc::new(SettingsCell::from_pointee(ListenerSettings { config, limits, tls, authority: None, metrics }))
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
        let task = tokio::spawn(serve(
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

    /// Head and body of one response with `content-length`.
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

    /// Everything until the server closes.
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

#[test]
fn no_more_than_the_limit_are_let_in() {
    let limit = ConnectionLimit::new();
    assert!(limit.take(1));
    assert!(!limit.take(1));
    assert!(limit.take(2), "a raised limit counts at once");
    assert_eq!(limit.open(), 2);
}

// Requests and connections

#[tokio::test]
async fn http1_requests_are_served_and_the_connection_is_kept() {
    let server = Server::start(limits());
    let mut client = server.connect().await;
    for _ in 0..3 {
        assert!(client.get("/ok").await.ends_with("\r\n\r\nok"));
    }
    assert!(client.get("/peer").await.contains("Tcp(127.0.0.1:"));
    client.send("GET /ok HTTP/1.0\r\n\r\n").await;
    assert!(client.rest().await.starts_with("HTTP/1.0 200"));
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_served() {
    let server = Server::start(limits());
    let mut sender = http2(&server).await;
    let response = soon(sender.send_request(request("/ok"))).await.unwrap();
    assert_eq!(response.version(), http::Version::HTTP_2);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
}

#[tokio::test]
async fn too_many_or_too_large_headers_are_431() {
    let small = Limits { header_count: 10, header_bytes: 8192, ..limits() };
    let server = Server::start(small);
    let many: String = (0..11).map(|n| format!("x-{n}: y\r\n")).collect();
    let large = format!("x: {}\r\n", "y".repeat(9000));
    let huge = format!("x: {}\r\n", "y".repeat(900_000));
    for headers in [many, large, huge] {
        let mut client = server.connect().await;
        client.send(&format!("GET / HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")).await;
        let response = client.rest().await;
        assert!(response.starts_with("HTTP/1.1 431 "), "{response}");
    }
    let mut sender = http2(&server).await;
    let mut counted = request("/ok");
    for n in 0..11 {
        counted
            .headers_mut()
            .append(http::HeaderName::try_from(format!("x-{n}")).unwrap(), "y".parse().unwrap());
    }
    assert_eq!(soon(sender.send_request(counted)).await.unwrap().status(), 431);
    let mut sized = request("/ok");
    sized.headers_mut().insert("x", "y".repeat(9000).parse().unwrap());
    assert_eq!(soon(sender.send_request(sized)).await.unwrap().status(), 431);
}

#[tokio::test]
async fn garbage_is_400() {
    let server = Server::start(limits());
    for garbage in
        ["GARBAGE\r\n\r\n", "GET / HTTP/1.1\r\nno colon\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"]
    {
        let mut client = server.connect().await;
        client.send(garbage).await;
        let response = client.rest().await;
        assert!(response.starts_with("HTTP/1.1 400 "), "{garbage:?}: {response}");
    }
}

#[tokio::test]
async fn the_first_bytes_may_come_one_by_one() {
    let server = Server::start(limits());
    for (text, status) in [
        ("PRI /ok HTTP/1.1\r\nHost: localhost\r\n\r\n", "200"),
        ("\r\n\nGET /ok HTTP/1.1\nHost: localhost\n\n", "200"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\nX", "400"),
    ] {
        let mut client = server.connect().await;
        client.0.set_nodelay(true).unwrap();
        for byte in text.chars() {
            client.send(&byte.to_string()).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let response = client.response().await;
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{text:?}: {response}");
    }
}

#[tokio::test]
async fn above_the_connection_limit_callers_get_503() {
    let server = Server::start(Limits { connections: 1, ..limits() });
    let mut first = server.connect().await;
    first.get("/ok").await;
    let mut second = server.connect().await;
    second.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let response = second.rest().await;
    assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
    assert!(response.contains("application/problem+json"), "{response}");
    assert!(response.contains(r#""code":"overloaded""#), "{response}");
    assert!(
        response.contains(r#""type":"urn:bearerd:error:overloaded""#),
        "as every other error: {response}"
    );
    assert!(response.contains("proxy-status: bearerd;"), "{response}");
    drop(first);
    server.until_open(0).await;
    assert!(server.connect().await.get("/ok").await.ends_with("ok"), "a place became free");
}

#[tokio::test]
async fn a_panic_ends_only_its_connection() {
    let server = Server::start(limits());
    let mut other = server.connect().await;
    other.get("/ok").await;
    let mut client = server.connect().await;
    client.send("GET /panic HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(client.rest().await, "");
    assert!(other.get("/ok").await.ends_with("ok"));
    server.until_open(1).await;
}

#[tokio::test]
async fn tls_serves_the_version_that_alpn_chose() {
    use crate::config::{Egress, Roots, TlsOptions};
    use crate::net::{Connector, Offer, Target};
    let (config, ca) = tls();
    let server = Server::start_with(limits(), Some(config), 0);
    let target = Target::Tcp { host: "localhost".to_owned(), port: server.address.port(), tls: true };
    let options = TlsOptions { ca: Some(ca), roots: Roots::Ca, ..TlsOptions::default() };
    for offer in [Offer::Http1, Offer::Both] {
        let connector = Connector::new(target.clone(), options.clone(), Egress::Direct, offer, None);
        let connected = soon(connector.connect()).await.unwrap();
        let stream = TokioIo::new(connected.stream);
        let response = if connected.http2 {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            soon(sender.send_request(request("/peer"))).await.unwrap()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            soon(sender.send_request(request("/peer"))).await.unwrap()
        };
        let text = response.into_body().collect().await.unwrap().to_bytes();
        assert!(text.ends_with(b" true"), "{text:?}");
    }
}

#[tokio::test]
async fn unix_callers_are_known_by_their_uid() {
    let folder = std::env::temp_dir().join(format!("bearerd-listener-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let address = Address::Unix(folder.join("s"));
    let bound = Bound::bind(&Arc::from("main"), &address, &UnixOptions::OWNER_ALONE).unwrap();
    let stop = Stop::default();
    let task = tokio::spawn(serve(
        bound,
        Arc::new(Fake { release: Semaphore::new(0), write_stall_ms: 0 }),
        settings(address, limits(), None),
        Arc::new(ConnectionLimit::new()),
        stop.clone(),
    ));
    let mut client = tokio::net::UnixStream::connect(folder.join("s")).await.unwrap();
    client.write_all(b"GET /peer HTTP/1.0\r\n\r\n").await.unwrap();
    let mut response = String::new();
    soon(client.read_to_string(&mut response)).await.unwrap();
    let uid = rustix::process::geteuid().as_raw();
    assert!(response.ends_with(&format!("{:?} false", Peer::Unix { uid })), "{response}");
    stop.accepting.cancel();
    soon(task).await.unwrap();
    assert!(!folder.join("s").exists());
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_response_before_the_body_was_read_arrives() {
    let server = Server::start(limits());
    let mut client = server.connect().await;
    let body = "x".repeat(300_000);
    client
        .send(&format!("POST /ok HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000\r\n\r\n{body}"))
        .await;
    let response = client.response().await;
    assert!(response.starts_with("HTTP/1.1 200") && response.ends_with("ok"), "{response}");
    client.send("GET /ok HTTP/1.0\r\n\r\n").await;
    let response = client.rest().await;
    assert!(response.ends_with("ok"), "the rest of the body was read: {response}");
    server.until_open(0).await;
}

#[tokio::test]
async fn a_waiting_connection_is_small() {
    let server = Server::start(limits());
    let cell = settings(Address::Tcp(server.address), limits(), None);
    let settings = cell.load_full();
    let (client, stream) =
        tokio::join!(TcpStream::connect(server.address), TcpStream::connect(server.address));
    let (stream, peer) = (stream.unwrap(), Peer::Tcp(client.unwrap().peer_addr().unwrap()));
    let tracker = TaskTracker::new();
    let place = ConnectionPlace::take(&server.connections, 100, &settings.metrics, tracker.token()).unwrap();
    let accepted = AcceptedConnection { socket: SocketStream::Tcp(stream), peer, local: None, place };
    let shared = Arc::new(Shared {
        handler: Arc::clone(&server.handler),
        settings: cell,
        drain: Drain::default(),
        now: server.stop.now.clone(),
        tls_warnings: Repeated::default(),
        distrust_warnings: Repeated::default(),
    });
    let size = size_of_val(&connection::serve(accepted, settings, shared));
    assert!(size < 2560, "{size} bytes for a connection's future");
}

#[tokio::test]
async fn a_caller_may_send_all_before_it_reads() {
    let server = Server::start(limits());
    for path in ["/upload/whole", "/upload/pieces"] {
        let mut client = server.connect().await;
        client
            .send(&format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {MUCH}\r\n\r\n"))
            .await;
        soon(client.0.write_all(&vec![b'y'; MUCH])).await.unwrap();
        client.send("GET /ok HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
        let responses = client.rest().await;
        assert!(responses.len() > MUCH && responses.ends_with("\r\n\r\nok"), "{path}: {}", responses.len());
    }
}

#[tokio::test]
async fn no_error_is_sent_in_the_middle_of_a_response() {
    let server = Server::start(limits());
    let mut client = server.connect().await;
    client
        .send("POST /late HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        .await;
    let response = client.rest().await;
    assert!(response.ends_with("\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n"), "{response}");
}

// Request bodies that are large, in many pieces, unwanted, or never sent

const CHUNKED: &str = "Host: localhost\r\nTransfer-Encoding: chunked\r\n";

#[tokio::test]
async fn a_body_of_many_chunks_is_whole() {
    let server = Server::start(limits());
    let mut client = server.connect().await;
    let chunks = "1\r\na\r\n".repeat(2000);
    client.send(&format!("POST /length HTTP/1.1\r\n{CHUNKED}\r\n{chunks}0\r\n\r\n")).await;
    assert!(client.response().await.ends_with("\r\n\r\n2000"));
}

#[tokio::test]
async fn no_100_is_sent_in_the_middle_of_a_response() {
    let server = Server::start(limits());
    let mut client = server.connect().await;
    client.send(&format!("POST /echo HTTP/1.1\r\n{CHUNKED}Expect: 100-continue\r\n\r\n")).await;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(client.0.read_u8()).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.send("5\r\nhello\r\n0\r\n\r\nGET /ok HTTP/1.0\r\n\r\n").await;
    let rest = client.rest().await;
    assert!(rest.starts_with("5\r\nhello\r\n0\r\n\r\nHTTP/1.0 200 OK\r\n"), "{rest}");
}

/// The caller may have decided not to send its body, so what comes next is either a request or the body.
#[tokio::test]
async fn a_body_that_was_never_requested_ends_the_connection() {
    let server = Server::start(limits());
    let mut client = server.connect().await;
    let lines = "Host: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n";
    client.send(&format!("POST /unwanted HTTP/1.1\r\n{lines}\r\n")).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.send("GET /ok HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.handler.release.add_permits(1);
    let responses = client.rest().await;
    assert!(responses.starts_with("HTTP/1.1 200") && responses.ends_with("ok"), "{responses}");
    assert_eq!(responses.matches("HTTP/1.1 ").count(), 1, "{responses}");
}

#[tokio::test]
async fn nothing_follows_an_unwanted_body_that_is_broken() {
    let server = Server::start(limits());
    let mut client = server.connect().await;
    let mut first = format!("POST /ok HTTP/1.1\r\n{CHUNKED}\r\nno size");
    // As much as is read at once; what is read next would look like the end of the body.
    first.push_str(&"x".repeat(16 * 1024 - first.len()));
    client.send(&format!("{first}0\r\n\r\nGET /ok HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
    let responses = client.rest().await;
    assert!(responses.starts_with("HTTP/1.1 200") && responses.ends_with("ok"), "{responses}");
    assert_eq!(responses.matches("HTTP/1.1 ").count(), 1, "{responses}");
}

#[tokio::test]
async fn a_caller_may_send_all_of_its_body_before_it_reads() {
    const SIZE: usize = 64 * 1024 * 1024;
    let server = Server::start(limits());
    let mut client = server.connect().await;
    client.send(&format!("POST /both HTTP/1.1\r\nHost: localhost\r\nContent-Length: {SIZE}\r\n\r\n")).await;
    // The response, too, is more than the socket takes.
    soon(client.0.write_all(&vec![b'x'; SIZE])).await.unwrap();
    client.send("GET /ok HTTP/1.0\r\n\r\n").await;
    assert!(client.rest().await.ends_with("\r\n\r\nok"));
}
