//! The way to the collector: the library's exporter over connections of ours, so that roots, names, turns and bounds are
//! those of everything else that leaves this process.

mod http1;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fmt, io};

use arc_swap::{ArcSwap, ArcSwapOption};
use http::header::USER_AGENT;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use hyper_util::rt::TokioIo;
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
    WithTonicConfig as _,
};
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::codegen::Service;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tracing::instrument::WithSubscriber as _;

use super::rejected::Rejected;
use crate::aside::Aside;
use crate::config::{Egress, HttpUrl, OtlpProtocol, Source, Tracing};
use crate::idle::Headway;
use crate::net::{ConnectError, ConnectErrorKind, Connector, Offer, Stream, Target};

/// Where values of headers are read.
static READING: Aside = Aside::new("trace-headers", 4);

/// Whom spans are sent to.
pub(super) struct Collector {
    pub(super) exporter: SpanExporter,
    config: Arc<Tracing>,
    way: Arc<Way>,
    rejected: Rejected,
}

/// What attempts to reach the collector share.
struct Way {
    connector: Connector,
    /// The file's headers, as they were read for this batch.
    headers: ArcSwap<HeaderMap>,
    /// Why the last attempt failed. What the library says of it is less.
    failure: ArcSwapOption<String>,
    /// How much the collector may still say during this batch.
    headway: Headway,
}

impl Collector {
    /// Within a runtime, where its connections will be.
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

    /// Sends a batch, and again where the collector asks for that, within the config's `timeout`. Gives how many spans the
    /// collector rejected. The error is for the log and holds nothing that the collector said.
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

/// For a batch, repeated requests included.
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
    let client = http1::Client::new(Arc::clone(way), target, host);
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
        // tonic puts ours in its place.
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
        .user_agent(super::PROGRAM)?
        // A connection on which nothing comes back while a request waits is given up, and the next one is new.
        .http2_keep_alive_interval(limit(config) / 2)
        .keep_alive_timeout(limit(config) / 2);
    Ok(endpoint.connect_with_connector_lazy(Dial(Arc::clone(way))))
}

/// Read anew for each batch, so that a changed file needs no reload.
async fn read(config: &Arc<Tracing>) -> Result<HeaderMap, String> {
    if config.headers.is_empty() {
        return Ok(HeaderMap::new());
    }
    let config = Arc::clone(config);
    // A file system that hangs holds up spans, and not this thread, which fetches tokens.
    let read = READING.run(move || config.headers.iter().map(header).collect()).await;
    read.map_err(|error| format!("tracing.headers: {error}"))?
}

fn header((name, source): &(HeaderName, Source)) -> Result<(HeaderName, HeaderValue), String> {
    let read = source.read_or_last_good();
    let (secret, _) = read.map_err(|error| format!("tracing.headers.{name}: {error}"))?;
    let mut value = HeaderValue::from_bytes(secret.expose())
        .map_err(|_| format!("tracing.headers.{name} has characters that no header may have"))?;
    value.set_sensitive(true);
    Ok((name.clone(), value))
}

impl Way {
    /// Remembers why an attempt failed, for the log.
    fn failed(&self, why: impl fmt::Display) {
        self.failure.store(Some(Arc::new(why.to_string())));
    }
}

/// No header's value is shown.
impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Way").field("to", &self.connector.who()).finish_non_exhaustive()
    }
}

/// The collector's socket: what it sends without an end to its response ends the connection.
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

/// Makes connections for tonic.
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
