//! One request over one new connection, bounded in time and size.
//!
//! Token requests are rare, so they share no connections: no connection can be stale, and nothing of an exchange
//! outlives it.

use std::error::Error as _;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::gate::Denied;
use crate::net::{ConnectError, Connector, Http2Failure, Offer, http2_failure};

/// The largest header section of a response, in bytes.
const HEAD_LIMIT: u32 = 32 * 1024;
pub(super) const CONNECTING: &str = "connecting";
/// The most bytes of a response over HTTP/1.1, far more than any needs. Without it, the parser accepts an endless
/// sequence of interim responses, or of zeros before a chunk's size.
const RESPONSE_LIMIT: u64 = 1024 * 1024;
const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// When a token request has to be finished.
#[derive(Clone, Copy)]
pub(super) struct Deadline(Option<Instant>);

impl Deadline {
    /// `None`: no deadline.
    pub(super) fn after(timeout: Option<Duration>) -> Self {
        Self(timeout.and_then(|timeout| Instant::now().checked_add(timeout)))
    }

    pub(super) fn later_by(self, time: Duration) -> Self {
        Self(self.0.and_then(|at| at.checked_add(time)))
    }

    /// The deadline after half of the remaining time.
    pub(super) fn halved(self) -> Self {
        Self(self.0.map(|at| {
            let now = Instant::now();
            now + at.saturating_duration_since(now) / 2
        }))
    }

    /// The connector has a timeout of its own, and its error says better what it waits for.
    fn after_the_connector(self) -> Self {
        Self(self.0.and_then(|at| at.checked_add(Duration::from_millis(10))))
    }

    async fn hold<T>(self, doing: &'static str, future: impl Future<Output = T>) -> Result<T, ExchangeError> {
        match self.0 {
            None => Ok(future.await),
            Some(at) => {
                tokio::time::timeout_at(at, future).await.map_err(|_| ExchangeError::Timeout { doing })
            }
        }
    }
}

/// Why there is no response.
#[derive(Debug)]
pub(super) enum ExchangeError {
    Timeout {
        doing: &'static str,
    },
    Connect(ConnectError),
    /// The connection was there, and the request must not be sent.
    Denied(Denied),
    /// The response is not HTTP.
    NotHttp(hyper::Error),
    /// The connection ended before the response's header section.
    Closed(hyper::Error),
    /// Over HTTP/2, the server says that it has not processed the request.
    NotProcessed(hyper::Error),
    /// Over HTTP/2, the server requires HTTP/1.1.
    NeedsHttp1(hyper::Error),
}

/// A response with the readable part of its body. Not `Debug`, because the body contains a token.
pub(super) struct IssuerResponse {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Result<Zeroizing<Vec<u8>>, BodyError>,
}

/// Why the body could not be read. The status may still say enough.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyError {
    /// Larger than this limit, in bytes.
    TooLarge(usize),
    /// The connection or the stream ended before the end of the body.
    CutOff,
}

/// Connects, sends `request`, whose target is absolute, and reads the response. The connection is closed afterwards in
/// any case. `permit` is asked for between connecting and sending, so that an attempt without a connection spends nothing.
pub(super) async fn send(
    connector: &Connector,
    request: Request<Full<Bytes>>,
    limit: usize,
    deadline: Deadline,
    permit: impl Future<Output = Result<(), Denied>>,
) -> Result<IssuerResponse, ExchangeError> {
    let connecting = deadline.after_the_connector().hold(CONNECTING, connector.connect());
    let connected = connecting.await?.map_err(ExchangeError::Connect)?;
    deadline.hold("asking whether the budget allows it", permit).await?.map_err(ExchangeError::Denied)?;
    let tls = connected.stream.tls_failure();
    over(connected.stream, connected.http2, request, limit, deadline).await.map_err(|broken| match broken {
        ExchangeError::Timeout { .. } | ExchangeError::Connect(_) | ExchangeError::Denied(_) => broken,
        // With TLS 1.3, the server refuses the client certificate only now.
        broken => tls.told(connector.who()).map_or(broken, ExchangeError::Connect),
    })
}

async fn over<S>(
    stream: S,
    http2: bool,
    request: Request<Full<Bytes>>,
    limit: usize,
    deadline: Deadline,
) -> Result<IssuerResponse, ExchangeError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let tasks = Tasks(CancellationToken::new());
    let _ends_with_this_future = tasks.0.clone().drop_guard();
    let exchange = async {
        if http2 {
            over_http2(stream, &tasks, request).await
        } else {
            over_http1(stream, &tasks, request).await
        }
    };
    let response = deadline
        .hold("waiting for the response", exchange)
        .await?
        .map_err(|error| exchange_error(error, http2))?;
    let (head, body) = response.into_parts();
    let body = deadline.hold("reading the response", read(body, http2, limit)).await?;
    Ok(IssuerResponse { status: head.status, headers: head.headers, body })
}

fn exchange_error(error: hyper::Error, http2: bool) -> ExchangeError {
    match http2.then(|| http2_failure(&error)) {
        Some(Http2Failure::NotProcessed) => ExchangeError::NotProcessed(error),
        Some(Http2Failure::NeedsHttp1) => ExchangeError::NeedsHttp1(error),
        _ if error.is_parse() => ExchangeError::NotHttp(error),
        _ => ExchangeError::Closed(error),
    }
}

async fn over_http1<S>(
    stream: S,
    tasks: &Tasks,
    mut request: Request<Full<Bytes>>,
) -> hyper::Result<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    // RFC 9112 section 3.2.1: the origin form, and the authority in `Host`.
    if let Some(path) = request.uri().path_and_query().cloned() {
        *request.uri_mut() = Uri::from(path);
    }
    request.headers_mut().insert(CONNECTION, CLOSE);
    let (reader, writer) = tokio::io::split(stream);
    let io = TokioIo::new(tokio::io::join(reader.take(RESPONSE_LIMIT), writer));
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(HEAD_LIMIT as usize).handshake(io).await?;
    tasks.spawn(connection);
    sender.send_request(request).await
}

async fn over_http2<S>(
    stream: S,
    tasks: &Tasks,
    mut request: Request<Full<Bytes>>,
) -> hyper::Result<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    // RFC 9113 section 8.3.1: `:authority` replaces `Host`.
    request.headers_mut().remove(HOST);
    *request.version_mut() = Version::HTTP_2;
    let (mut sender, connection) = http2::Builder::new(tasks.clone())
        .max_header_list_size(HEAD_LIMIT)
        .handshake(TokioIo::new(stream))
        .await?;
    tasks.spawn(connection);
    sender.send_request(request).await
}

/// Reads at most `limit` bytes.
async fn read(mut body: Incoming, http2: bool, limit: usize) -> Result<Zeroizing<Vec<u8>>, BodyError> {
    let announced = body.size_hint().exact().map_or(0, |size| usize::try_from(size).unwrap_or(usize::MAX));
    if announced > limit {
        return Err(BodyError::TooLarge(limit));
    }
    let mut read = Zeroizing::new(Vec::with_capacity(announced));
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BodyError::CutOff)?.into_data() else { continue };
        if read.len() + data.len() > limit {
            return Err(BodyError::TooLarge(limit));
        }
        append(&mut read, &data);
    }
    // For hyper, a reset without error ends the body. Only END_STREAM says that it is whole (RFC 9113 section 8.1).
    if http2 && !body.is_end_stream() {
        return Err(BodyError::CutOff);
    }
    Ok(read)
}

/// Grows into a new buffer and wipes the old one, because the bytes contain a token.
fn append(buffer: &mut Zeroizing<Vec<u8>>, data: &[u8]) {
    let needed = buffer.len() + data.len();
    if needed > buffer.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(needed.next_power_of_two()));
        larger.extend_from_slice(buffer);
        *buffer = larger;
    }
    buffer.extend_from_slice(data);
}

/// hyper's message and the innermost cause (`Connection reset by peer`, a TLS alert).
pub(super) fn reason(error: &hyper::Error) -> String {
    let mut cause = error.source();
    while let Some(deeper) = cause.and_then(std::error::Error::source) {
        cause = Some(deeper);
    }
    cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// The tasks of one connection, which end with the exchange.
#[derive(Clone)]
struct Tasks(CancellationToken);

impl Tasks {
    fn spawn(&self, task: impl Future + Send + 'static) {
        let ended = self.0.clone();
        tokio::spawn(async move {
            ended.run_until_cancelled(task).await;
        });
    }
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
{
    fn execute(&self, task: F) {
        self.spawn(task);
    }
}

/// Why a request may be repeated at once: the first one had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RepeatReason {
    /// The issuer sent the nonce that it requires in the DPoP proof.
    WithNonce,
    /// The issuer named the key file whose content it requires.
    WithKeyFile,
    /// Over HTTP/2, the issuer says that it has not processed the request.
    NotProcessed,
    /// Over HTTP/2, the issuer requires HTTP/1.1.
    OverHttp1,
}

impl RepeatReason {
    pub(super) fn after(broken: &ExchangeError) -> Option<Self> {
        match broken {
            ExchangeError::NotProcessed(_) => Some(Self::NotProcessed),
            ExchangeError::NeedsHttp1(_) => Some(Self::OverHttp1),
            ExchangeError::Timeout { .. }
            | ExchangeError::Connect(_)
            | ExchangeError::Denied(_)
            | ExchangeError::NotHttp(_)
            | ExchangeError::Closed(_) => None,
        }
    }
}

/// Allows each reason once for a token, so that no issuer can keep a fetch going for ever.
#[derive(Default)]
pub(super) struct Repeats(Vec<RepeatReason>);

impl Repeats {
    pub(super) fn allow(&mut self, again: Option<RepeatReason>) -> Option<RepeatReason> {
        let again = again.filter(|again| !self.0.contains(again))?;
        self.0.push(again);
        Some(again)
    }
}

/// The HTTP versions that an issuer accepts.
#[derive(Default)]
pub(super) struct HttpVersions {
    http1_alone: AtomicBool,
}

impl HttpVersions {
    pub(super) fn offer(&self) -> Offer {
        if self.http1_alone.load(Ordering::Relaxed) { Offer::Http1 } else { Offer::Both }
    }

    /// After the issuer required HTTP/1.1, bearerd offers nothing else. Logged once.
    pub(super) fn learn(&self, again: RepeatReason, issuer: &str) {
        if again == RepeatReason::OverHttp1 && !self.http1_alone.swap(true, Ordering::Relaxed) {
            tracing::info!(
                event = "issuer.http1_required",
                issuer,
                "the issuer responds HTTP_1_1_REQUIRED over HTTP/2; bearerd uses HTTP/1.1 from now on"
            );
        }
    }
}

#[cfg(test)]
mod tests;
