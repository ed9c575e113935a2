//! OTLP over HTTP/1.1: one connection, kept while it lives.

#![expect(clippy::disallowed_types, reason = "held for a moment by the one task that sends spans")]

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, USER_AGENT};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use tokio_util::task::AbortOnDropHandle;

use super::{Socket, Way};
use crate::trace::PROGRAM;

/// The most of a response that is read: how many spans were rejected takes a few bytes.
const RESPONSE_LIMIT: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Client {
    way: Arc<Way>,
    /// In the form of HTTP/1.1: the path.
    target: Uri,
    host: HeaderValue,
    idle: Mutex<Option<Connection>>,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// A collector that takes nothing in must not keep a connection, and a batch with it, for each one given up.
    _task: AbortOnDropHandle<hyper::Result<()>>,
}

impl Client {
    pub(super) fn new(way: Arc<Way>, target: Uri, host: HeaderValue) -> Self {
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
        // What is too long, or breaks off, is left where it is, with its connection: the status says enough.
        let body = Limited::new(body, RESPONSE_LIMIT).collect().await;
        if body.is_ok() {
            *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
        }
        if !head.status.is_success() {
            self.way.failed(format_args!("{} answered {}", self.who(), head.status.as_u16()));
        }
        Ok(Response::from_parts(head, body.map(|body| body.to_bytes()).unwrap_or_default()))
    }

    fn idle(&self) -> Option<Connection> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn connect(&self) -> Result<Connection, String> {
        let way = Arc::clone(&self.way);
        // A task of its own, which logs where all others do.
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
        // A variable may name any field.
        for name in [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
            fields.remove(name);
        }
        self.exchange(request).await.inspect_err(|why| self.way.failed(why)).map_err(HttpError::from)
    }
}
