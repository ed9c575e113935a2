//! The way to the collector: one connection, kept while it lives.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::task::AbortOnDropHandle;

use crate::aside::Aside;
use crate::config::{Egress, Source, Tracing};
use crate::idle::Headway;
use crate::net::{Connector, Offer, Stream, Target};

/// The most of a response that is read; what is in it is of no interest.
const ANSWER_LIMIT: usize = 64 * 1024;

/// Where values of headers are read.
static READING: Aside = Aside::new("trace-headers", 4);

pub(super) struct Client {
    config: Arc<Tracing>,
    connector: Connector,
    connection: Option<Connection>,
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    headway: Arc<Headway>,
    /// A collector that takes nothing in must not keep a connection, and a batch with it, for each one given up.
    _task: AbortOnDropHandle<hyper::Result<()>>,
}

impl Client {
    pub(super) fn new(config: Arc<Tracing>) -> Self {
        let url = &config.endpoint;
        let target = Target::Tcp { host: url.host.clone(), port: url.port, tls: url.https };
        let connector =
            Connector::new(target, config.tls.clone(), Egress::Direct, Offer::Http1, config.timeout);
        Self { config, connector, connection: None }
    }

    /// Sends one request, within the config's `timeout`. The error is for the log and holds nothing that the collector
    /// said.
    pub(super) async fn send(&mut self, body: Vec<u8>) -> Result<(), String> {
        let limit = self.config.timeout.unwrap_or(Duration::MAX);
        let outcome = tokio::time::timeout(limit, self.exchange(body))
            .await
            .unwrap_or_else(|_| Err(format!("{} did not answer within timeout", self.connector.who())));
        if outcome.is_err() {
            self.connection = None;
        }
        outcome
    }

    async fn exchange(&mut self, body: Vec<u8>) -> Result<(), String> {
        let request = self.request(body).await?;
        let mut connection = match self.connection.take().filter(|connection| !connection.sender.is_closed())
        {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let broken = |error: hyper::Error| format!("{} broke off: {error}", self.connector.who());
        connection.headway.made();
        connection.sender.ready().await.map_err(broken)?;
        let response = connection.sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        if Limited::new(response.into_body(), ANSWER_LIMIT).collect().await.is_ok() {
            self.connection = Some(connection);
        }
        if status.is_success() {
            return Ok(());
        }
        Err(format!("{} answered {}", self.connector.who(), status.as_u16()))
    }

    async fn connect(&self) -> Result<Connection, String> {
        let connected = self.connector.connect().await.map_err(|error| error.to_string())?;
        let headway = Arc::new(Headway::default());
        let stream = Collector { stream: connected.stream, headway: Arc::clone(&headway) };
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| format!("{}: {error}", self.connector.who()))?;
        Ok(Connection { sender, headway, _task: AbortOnDropHandle::new(tokio::spawn(connection)) })
    }

    async fn request(&self, body: Vec<u8>) -> Result<Request<Full<Bytes>>, String> {
        let url = &self.config.endpoint;
        let mut request = Request::post(&url.path_and_query)
            .header(HOST, &url.authority)
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(USER_AGENT, concat!("bearerd/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(Bytes::from(body)))
            .map_err(|_| "tracing.endpoint cannot be written as a request".to_owned())?;
        if !self.config.headers.is_empty() {
            let config = Arc::clone(&self.config);
            // A file system that hangs holds up spans, and not this thread, which fetches tokens.
            let values = READING.run(move || read(&config.headers)).await;
            let values = values.map_err(|error| format!("tracing.headers: {error}"))??;
            for (name, value) in values {
                request.headers_mut().insert(name, value);
            }
        }
        Ok(request)
    }
}

/// The collector's socket: what it sends without an end to its response ends the connection.
struct Collector {
    stream: Stream,
    headway: Arc<Headway>,
}

impl AsyncRead for Collector {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.headway.read(buf.filled().len() - before)?;
        polled
    }
}

impl AsyncWrite for Collector {
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

/// Read anew each time, so that a changed file needs no reload.
fn read(headers: &[(HeaderName, Source)]) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let read = |(name, source): &(HeaderName, Source)| {
        let (secret, _) =
            source.read_or_last_good().map_err(|error| format!("tracing.headers.{name}: {error}"))?;
        let mut value = HeaderValue::from_bytes(secret.expose())
            .map_err(|_| format!("tracing.headers.{name} has characters that no header may have"))?;
        value.set_sensitive(true);
        Ok((name.clone(), value))
    };
    headers.iter().map(read).collect()
}
