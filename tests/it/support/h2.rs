//! HTTP/2 at either end, by hyper.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::mpsc;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::wire::{Stream, accepted};
use super::within;

pub type SentBody = BoxBody<Bytes, Infallible>;

pub fn whole(body: impl Into<Bytes>) -> SentBody {
    Full::new(body.into()).boxed()
}

/// A body whose frames the test sends one by one; it ends when the sender is dropped.
pub fn streamed() -> (mpsc::Sender<Frame<Bytes>>, SentBody) {
    let (sender, receiver) = mpsc::channel::<Frame<Bytes>>(1);
    let frames = tokio_stream::wrappers::ReceiverStream::new(receiver);
    (sender, StreamBody::new(tokio_stream::StreamExt::map(frames, Ok)).boxed())
}

#[derive(Clone)]
pub struct H2Client {
    sender: SendRequest<SentBody>,
    origin: String,
}

#[derive(Debug)]
pub struct H2Response {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl H2Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl H2Client {
    /// Prior knowledge: no upgrade, no TLS.
    pub async fn plain(address: SocketAddr) -> Self {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        Self::over(Box::new(stream), format!("http://{address}")).await
    }

    pub async fn tls(address: SocketAddr, config: Arc<rustls::ClientConfig>) -> Self {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(config).connect(name, stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        Self::over(Box::new(stream), format!("https://localhost:{}", address.port())).await
    }

    /// A connection that is open already.
    pub async fn over(stream: Box<dyn Stream>, origin: String) -> Self {
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender, origin }
    }

    /// A request to this proxy; more headers may be added.
    pub fn request(&self, method: &str, target: &str) -> http::request::Builder {
        Request::builder().method(method).uri(format!("{}{target}", self.origin)).version(Version::HTTP_2)
    }

    pub async fn get(&mut self, target: &str) -> H2Response {
        let request = self.request("GET", target).body(whole("")).unwrap();
        self.exchange(request).await
    }

    pub async fn exchange(&mut self, request: Request<SentBody>) -> H2Response {
        self.try_exchange(request).await.expect("a response")
    }

    pub async fn try_exchange(&mut self, request: Request<SentBody>) -> hyper::Result<H2Response> {
        let (parts, body) = self.open(request).await?.into_parts();
        let body = within("an HTTP/2 body", body.collect()).await?;
        let trailers = body.trailers().cloned();
        Ok(H2Response {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: body.to_bytes(),
            trailers,
        })
    }

    /// As [`Self::open`], however long that takes.
    pub async fn open_at_last(&mut self, request: Request<SentBody>) -> hyper::Result<Response<Incoming>> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    /// The stream inside a CONNECT.
    pub async fn connect(&mut self, authority: &str) -> Box<dyn Stream> {
        let request = Request::builder().method("CONNECT").uri(authority).version(Version::HTTP_2);
        let response = self.open(request.body(whole("")).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        Box::new(TokioIo::new(hyper::upgrade::on(response).await.unwrap()))
    }

    /// The response's head, its body still to be read.
    pub async fn open(&mut self, request: Request<SentBody>) -> hyper::Result<Response<Incoming>> {
        within("room for a stream", self.sender.ready()).await?;
        within("an HTTP/2 response", self.sender.send_request(request)).await
    }
}

/// What an [`EchoUpstream`] saw of a request.
#[derive(Debug, Clone)]
pub struct Seen {
    pub version: Version,
    /// Path and query, byte for byte.
    pub target: String,
    pub headers: HeaderMap,
    /// Which of its connections it came on, from 0.
    pub connection: usize,
}

/// Sends each request's body and trailers back as they come, over HTTP/2 or HTTP/1.1, as the client wants.
pub struct EchoUpstream {
    pub url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl EchoUpstream {
    pub async fn plain() -> Self {
        Self::start(None).await
    }

    pub async fn start(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let url = match &tls {
            Some(_) => format!("https://localhost:{}", address.port()),
            None => format!("http://{address}"),
        };
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let record = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let acceptor = tls.map(TlsAcceptor::from);
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let (record, acceptor) = (Arc::clone(&record), acceptor.clone());
                tokio::spawn(async move {
                    let Some(stream) = accepted(stream, acceptor).await else { return };
                    serve_echo(stream, connection, record).await;
                });
            }
        });
        Self { url, seen, task }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn last(&self) -> Seen {
        self.seen().last().cloned().expect("a request arrived")
    }
}

impl Drop for EchoUpstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve_echo(stream: Box<dyn Stream>, connection: usize, record: Arc<Mutex<Vec<Seen>>>) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        record.lock().unwrap().push(Seen {
            version: request.version(),
            target: request
                .uri()
                .path_and_query()
                .map(|target| target.as_str().to_owned())
                .unwrap_or_default(),
            headers: request.headers().clone(),
            connection,
        });
        let mut response = Response::new(request.into_body());
        response.headers_mut().insert("x-echo", http::HeaderValue::from_static("yes"));
        async { Ok::<_, Infallible>(response) }
    });
    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    let _ended = builder.serve_connection(TokioIo::new(stream), service).await;
}

/// Answers each request over HTTP/2 (prior knowledge) as the test says.
pub struct H2Upstream {
    pub url: String,
    task: tokio::task::JoinHandle<()>,
}

impl H2Upstream {
    pub async fn responding(
        answer: impl Fn(Request<Incoming>) -> Response<SentBody> + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer = Arc::new(answer);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let answer = Arc::clone(&answer);
                let service = hyper::service::service_fn(move |request| {
                    let response = answer(request);
                    async { Ok::<_, Infallible>(response) }
                });
                let serve = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(serve);
            }
        });
        Self { url, task }
    }
}

impl Drop for H2Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An HTTP/2 upstream on a thread of its own: a target that ends with `endless` gets a body without end, any other `ok`.
pub struct Endless {
    pub url: String,
    asked: Arc<AtomicUsize>,
}

impl Endless {
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve_endless(listener, count));
        });
        Self { url, asked }
    }

    /// Requests for a body without end.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn serve_endless(listener: std::net::TcpListener, asked: Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let asked = Arc::clone(&asked);
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let endless = request.uri().path().ends_with("endless");
            if endless {
                asked.fetch_add(1, Ordering::SeqCst);
            }
            async move { Ok::<_, Infallible>(Response::new(if endless { without_end() } else { whole("ok") })) }
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
    }
}

/// A body that goes on as long as somebody takes it.
pub fn without_end() -> SentBody {
    let block = || Ok(Frame::data(Bytes::from_static(&[b'x'; 16 * 1024])));
    StreamBody::new(tokio_stream::iter(std::iter::repeat_with(block))).boxed()
}
