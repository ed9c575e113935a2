//! The connection to the collector: the library's exporter over bearerd's own connections, so that root certificates, name
//! look-ups, turns, and limits are the same as for every other outbound connection.
//!
//! OTLP over HTTP/1.1 uses one connection and keeps it ([`Client`]). gRPC uses tonic's channel ([`Dial`]). The library reports
//! rejected spans (OTLP's partial success) only in its own log, so [`Rejected`] counts them there.

#![expect(clippy::disallowed_types, reason = "held for a moment by the one task that sends spans")]

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fmt, io};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
    WithTonicConfig as _,
};
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::task::AbortOnDropHandle;
use tonic::codegen::Service;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tracing::field::{Field, Visit};
use tracing::instrument::WithSubscriber as _;
use tracing::{Dispatch, Event, Metadata, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{self, Layer, SubscriberExt as _};
use tracing_subscriber::registry;

use crate::aside::Aside;
use crate::config::{Egress, HttpUrl, OtlpProtocol, Source, Tracing};
use crate::idle::Headway;
use crate::net::{ConnectError, ConnectErrorKind, Connector, Offer, Stream, Target};
use crate::trace::PROGRAM;

/// The threads that read values of header fields.
static READING: Aside = Aside::new("trace-headers", 4);

/// The receiver of spans.
pub(super) struct Collector {
    pub(super) exporter: SpanExporter,
    config: Arc<Tracing>,
    way: Arc<Way>,
    rejected: Rejected,
}

/// What all connections to the collector share.
struct Way {
    connector: Connector,
    /// The configured header fields, as read for this batch.
    headers: ArcSwap<HeaderMap>,
    /// Why the last attempt failed. The library's error says less.
    failure: ArcSwapOption<String>,
    /// Limits how much the collector may still send during this batch.
    headway: Headway,
}

impl Collector {
    /// Must be called within the runtime that drives the connections.
    pub(super) fn new(config: &Arc<Tracing>) -> Result<Self, ExporterBuildError> {
        let url = &config.endpoint;
        let target = Target::Tcp { host: url.host.clone(), port: url.port, tls: url.https };
        let offer = match config.protocol {
            OtlpProtocol::Http => Offer::Http1,
            OtlpProtocol::Grpc => Offer::Http2,
        };
        let connector = Connector::new(target, config.tls.clone(), Egress::Direct, offer, config.timeout);
        let way = Arc::new(Way {
            connector,
            headers: ArcSwap::default(),
            failure: ArcSwapOption::empty(),
            headway: Headway::default(),
        });
        let exporter = match config.protocol {
            OtlpProtocol::Http => over_http(config, &way),
            OtlpProtocol::Grpc => over_grpc(config, &way),
        }?;
        Ok(Self { exporter, config: Arc::clone(config), way, rejected: Rejected::new() })
    }

    /// Sends a batch, and repeats it if the collector asks for that, within the config's `timeout`. Returns how many spans the
    /// collector rejected. The error is for the log and contains nothing that the collector sent.
    pub(super) async fn send(&self, spans: Vec<SpanData>) -> Result<u64, String> {
        self.way.headers.store(Arc::new(read(&self.config).await?));
        self.way.failure.store(None);
        self.way.headway.made();
        let export = self.exporter.export(spans).with_subscriber(self.rejected.log());
        let sent = tokio::time::timeout(limit(&self.config), export).await;
        let rejected = self.rejected.take();
        let why = match sent {
            Ok(Ok(())) => return Ok(rejected),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("took nothing within {}", humantime::format_duration(limit(&self.config))),
        };
        let failure = self.way.failure.swap(None);
        Err(failure.map_or_else(|| format!("{}: {why}", self.way.connector.who()), |why| (*why).clone()))
    }
}

/// The time for a batch, including repeated requests.
fn limit(config: &Tracing) -> Duration {
    let longest = config.batches.export_timeout;
    config.timeout.map_or(longest, |timeout| timeout.min(longest))
}

fn refused(error: impl fmt::Display) -> ExporterBuildError {
    ExporterBuildError::InvalidConfiguration(error.to_string())
}

fn origin(url: &HttpUrl) -> String {
    format!("{}://{}", if url.https { "https" } else { "http" }, url.authority)
}

fn over_http(config: &Tracing, way: &Arc<Way>) -> Result<SpanExporter, ExporterBuildError> {
    let url = &config.endpoint;
    let target: Uri = url.path_and_query.parse().map_err(refused)?;
    let host: HeaderValue = url.authority.parse().map_err(refused)?;
    let client = Client::new(Arc::clone(way), target, host);
    SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}{}", origin(url), url.path_and_query))
        .with_timeout(limit(config))
        .with_http_client(client)
        .build()
}

fn over_grpc(config: &Tracing, way: &Arc<Way>) -> Result<SpanExporter, ExporterBuildError> {
    let channel = channel(config, way).map_err(refused)?;
    let headers = Arc::clone(way);
    let with_headers = move |mut request: tonic::Request<()>| {
        let mut fields = std::mem::take(request.metadata_mut()).into_headers();
        fields.extend((**headers.headers.load()).clone());
        // tonic sets bearerd's own.
        fields.remove(USER_AGENT);
        *request.metadata_mut() = MetadataMap::from_headers(fields);
        Ok(request)
    };
    SpanExporter::builder()
        .with_tonic()
        .with_timeout(limit(config))
        .with_channel(channel)
        .with_interceptor(with_headers)
        .build()
}

fn channel(config: &Tracing, way: &Arc<Way>) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(origin(&config.endpoint))?
        .user_agent(PROGRAM)?
        // If nothing arrives on a connection while a request waits, tonic closes it and opens another.
        .http2_keep_alive_interval(limit(config) / 2)
        .keep_alive_timeout(limit(config) / 2);
    Ok(endpoint.connect_with_connector_lazy(Dial(Arc::clone(way))))
}

/// Reads the configured header fields. This happens for each batch, so that a changed file needs no reload.
async fn read(config: &Arc<Tracing>) -> Result<HeaderMap, String> {
    if config.headers.is_empty() {
        return Ok(HeaderMap::new());
    }
    let config = Arc::clone(config);
    // A file system that hangs delays spans, but not this thread, which fetches tokens.
    let read = READING.run(move || config.headers.iter().map(header).collect()).await;
    read.map_err(|error| format!("tracing.headers: {error}"))?
}

fn header((name, source): &(HeaderName, Source)) -> Result<(HeaderName, HeaderValue), String> {
    let read = source.read_or_last_good();
    let (secret, _) = read.map_err(|error| format!("tracing.headers.{name}: {error}"))?;
    let mut value = HeaderValue::from_bytes(secret.expose()).map_err(|_| {
        format!("tracing.headers.{name}: {} has characters that no header may have", source.place())
    })?;
    value.set_sensitive(true);
    Ok((name.clone(), value))
}

impl Way {
    /// Remembers why an attempt failed, for the log.
    fn failed(&self, why: impl fmt::Display) {
        self.failure.store(Some(Arc::new(why.to_string())));
    }
}

/// Shows no header field's value.
impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Way").field("to", &self.connector.who()).finish_non_exhaustive()
    }
}

/// The collector's socket. It fails if the collector sends without ever ending its response.
struct Socket {
    stream: Stream,
    way: Arc<Way>,
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.way.headway.read(buf.filled().len() - before)?;
        polled
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Opens connections for tonic.
struct Dial(Arc<Way>);

impl Service<Uri> for Dial {
    type Response = TokioIo<Socket>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let way = Arc::clone(&self.0);
        Box::pin(async move {
            let connected = way.connector.connect().await.and_then(|connected| match connected.http2 {
                true => Ok(TokioIo::new(Socket { stream: connected.stream, way: Arc::clone(&way) })),
                false => Err(ConnectError {
                    kind: ConnectErrorKind::Tls,
                    message: format!("{} does not offer HTTP/2, which gRPC needs", way.connector.who()),
                }),
            });
            connected.inspect_err(|error| way.failed(error))
        })
    }
}

/// The longest response that is read. The number of rejected spans takes a few bytes.
const RESPONSE_LIMIT: usize = 64 * 1024;

#[derive(Debug)]
struct Client {
    way: Arc<Way>,
    /// The request target of HTTP/1.1: path and query.
    target: Uri,
    host: HeaderValue,
    idle: Mutex<Option<Connection>>,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Dropping the connection closes it, so that a collector that reads nothing holds no connections and no batches.
    _task: AbortOnDropHandle<hyper::Result<()>>,
}

impl Client {
    fn new(way: Arc<Way>, target: Uri, host: HeaderValue) -> Self {
        Self { way, target, host, idle: Mutex::default() }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, String> {
        let broken = |error: hyper::Error| format!("{} broke off: {error}", self.who());
        let mut connection = match self.idle().filter(|connection| !connection.sender.is_closed()) {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        connection.sender.ready().await.map_err(broken)?;
        let response = connection.sender.send_request(request).await.map_err(broken)?;
        let (head, body) = response.into_parts();
        // A response that is too long or incomplete is dropped with its connection. Its status says enough.
        let body = Limited::new(body, RESPONSE_LIMIT).collect().await;
        if body.is_ok() {
            *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
        }
        if !head.status.is_success() {
            self.way.failed(format_args!("{} responded {}", self.who(), head.status.as_u16()));
        }
        Ok(Response::from_parts(head, body.map(|body| body.to_bytes()).unwrap_or_default()))
    }

    fn idle(&self) -> Option<Connection> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn connect(&self) -> Result<Connection, String> {
        let way = Arc::clone(&self.way);
        // A separate task, because this one runs with the library's log.
        let connecting = AbortOnDropHandle::new(tokio::spawn(async move { way.connector.connect().await }));
        let connected = connecting.await.map_err(|error| error.to_string())?;
        let stream = connected.map_err(|error| error.to_string())?.stream;
        let socket = Socket { stream, way: Arc::clone(&self.way) };
        let handshake = http1::handshake(TokioIo::new(socket)).await;
        let (sender, connection) = handshake.map_err(|error| format!("{}: {error}", self.who()))?;
        Ok(Connection { sender, _task: AbortOnDropHandle::new(tokio::spawn(connection)) })
    }

    fn who(&self) -> &str {
        self.way.connector.who()
    }
}

#[tonic::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let mut request = request.map(Full::new);
        *request.uri_mut() = self.target.clone();
        let fields = request.headers_mut();
        fields.extend((**self.way.headers.load()).clone());
        fields.insert(HOST, self.host.clone());
        fields.insert(USER_AGENT, HeaderValue::from_static(PROGRAM));
        // A variable may name any header field.
        for name in [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
            fields.remove(name);
        }
        self.exchange(request).await.inspect_err(|why| self.way.failed(why)).map_err(HttpError::from)
    }
}

/// Counts the rejected spans that the library logs to [`Rejected::log`]. Nothing else of that log is shown.
#[derive(Clone)]
struct Rejected {
    spans: Arc<AtomicU64>,
    log: Dispatch,
}

impl Rejected {
    pub(super) fn new() -> Self {
        let spans = Arc::<AtomicU64>::default();
        let listener = Listener(Arc::clone(&spans)).with_filter(filter_fn(tells_of_it));
        Self { spans, log: Dispatch::new(registry().with(listener)) }
    }

    /// The library's log while it sends.
    fn log(&self) -> Dispatch {
        self.log.clone()
    }

    /// The number of spans since the last time.
    pub(super) fn take(&self) -> u64 {
        self.spans.swap(0, Ordering::Relaxed)
    }
}

fn tells_of_it(metadata: &Metadata<'_>) -> bool {
    metadata.target() == "opentelemetry-otlp" && metadata.name().ends_with(".PartialSuccess")
}

struct Listener(Arc<AtomicU64>);

impl<S: Subscriber> Layer<S> for Listener {
    fn on_event(&self, event: &Event<'_>, _: layer::Context<'_, S>) {
        event.record(&mut Count(&self.0));
    }
}

struct Count<'a>(&'a AtomicU64);

impl Visit for Count<'_> {
    fn record_i64(&mut self, field: &Field, value: i64) {
        if field.name() == "rejected_spans" {
            self.0.fetch_add(value.try_into().unwrap_or(0), Ordering::Relaxed);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}
