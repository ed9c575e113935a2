//! Requests to upstreams over pooled connections that belong to the worker.
//!
//! [`Upstream::send`] sends one request: over a pooled connection if there is one, else over a new one. If that fails in a way
//! that is safe to repeat (RFC 9110 section 9.2.2, RFC 9113 section 8.7), it sends the request once more.
//! [`connection`] has the connections and their pools, [`body`] the two bodies.

mod body;
mod connection;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use hyper::body::{Body, Incoming};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use crate::config::{ConnectionConfig, HeaderCase, Protocol, RouteConfig, UpstreamTarget};
use crate::idle::Idle;
use crate::inbound::CallerBodyError;
use crate::metrics::RouteMetrics;
use crate::net::connect::Offer;
use crate::net::{
    ConnectError, ConnectErrorKind, Connector, Http2Failure, InvalidHttp2, UPSTREAMS, http2_failure,
    invalid_http2, tls_cause,
};
use body::{Lease, Link};
pub use body::{RequestBody, ResponseBody, TrailerRules};
pub(crate) use body::{has_padded_value, squeeze};
use connection::{Connection, Dialed, Http1, Http2, Http2State};

/// One route's upstream.
pub struct Upstream {
    route: Arc<RouteConfig>,
    origin: Arc<Origin>,
    metrics: Arc<RouteMetrics>,
}

/// The head of a request for an upstream. Whoever uses [`Upstream::send`] keeps it, so that it can be sent again.
pub struct Head {
    pub method: Method,
    pub target: PathAndQuery,
    pub headers: HeaderMap,
    /// The request wants to switch to another protocol. It needs an HTTP/1.1 connection of its own.
    pub upgrade: bool,
}

impl fmt::Debug for Head {
    /// Omits the query and the values of the fields, which may contain the token or secrets of the caller.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.headers.keys().map(HeaderName::as_str);
        write!(f, "{} {} ", self.method, self.target.path())?;
        f.debug_list().entries(names).finish()
    }
}

/// A connection for a request.
struct ReadyConnection {
    connection: Connection,
    /// It has served other requests, so it may have died unnoticed.
    pooled: bool,
}

impl Upstream {
    pub fn new(route: &Arc<RouteConfig>, origin: Arc<Origin>, metrics: Arc<RouteMetrics>) -> Self {
        Self { route: Arc::clone(route), origin, metrics }
    }

    /// The origin that its connections lead to.
    pub fn origin(&self) -> &Arc<Origin> {
        &self.origin
    }

    /// The nonce that this origin requires in the next proof (RFC 9449 section 9), if it has sent one.
    pub fn nonce(&self) -> Option<Arc<String>> {
        self.origin.nonce()
    }

    /// Replaces the previous nonce.
    pub fn set_nonce(&self, nonce: &str) {
        self.origin.set_nonce(nonce);
    }

    /// Sends one request and waits for the head of its response. If it must be sent once more, `before_repeat` runs first and
    /// replaces what may be sent only once. It returns `false` if the request may no longer be sent.
    ///
    /// # Errors
    /// There was no response: see [`UpstreamErrorKind`].
    pub async fn send(
        &self,
        head: &mut Head,
        body: RequestBody,
        before_repeat: impl AsyncFnOnce(&mut Head) -> bool,
    ) -> Result<Response<ResponseBody>, UpstreamError> {
        let pooled = if head.upgrade { None } else { self.pooled(self.route.connection_max_age) };
        let taken = match pooled {
            Some(taken) => taken,
            None => Box::pin(self.open(head.upgrade, false)).await?,
        };
        let pooled = taken.pooled;
        let failed = match self.attempt(taken.connection, head, body).await {
            Ok(response) => return Ok(response),
            Err(failed) => failed,
        };
        Box::pin(self.send_again(head, *failed, pooled, before_repeat)).await
    }

    /// Sends the request once more on another connection, if that is safe.
    async fn send_again(
        &self,
        head: &mut Head,
        failed: FailedAttempt,
        pooled: bool,
        before_repeat: impl AsyncFnOnce(&mut Head) -> bool,
    ) -> Result<Response<ResponseBody>, UpstreamError> {
        let FailedAttempt { error, body, cause } = failed;
        let safe = match cause {
            FailureCause::NotProcessed => true,
            FailureCause::NeedsHttp1 if self.origin.require_http1() => true,
            FailureCause::NeedsHttp1 => return Err(UpstreamError::needs_http1(self.origin.name())),
            FailureCause::Died { written } => pooled && (!written || head.method.is_idempotent()),
            FailureCause::Final => false,
        };
        let Some(body) = body.filter(|_| safe) else { return Err(error) };
        tracing::debug!(
            event = "upstream.sent_again", route = %self.route.name, %error,
            "sending the request once more on another connection"
        );
        // If one connection has died, the other pooled ones may have died as well.
        let fresh = matches!(cause, FailureCause::Died { .. });
        let taken = self.open(head.upgrade, fresh).await?;
        if !before_repeat(head).await {
            return Err(error);
        }
        self.attempt(taken.connection, head, body).await.map_err(|failed| failed.error)
    }

    fn pooled(&self, max_age: Option<Duration>) -> Option<ReadyConnection> {
        let connection = connection::take_pooled(&self.origin, max_age)?;
        Some(ReadyConnection { connection, pooled: true })
    }

    /// Gets a connection for this request: a new one of its own, or an HTTP/2 one that all waiting requests share. `fresh`:
    /// only a new one will do.
    async fn open(&self, upgrade: bool, mut fresh: bool) -> Result<ReadyConnection, UpstreamError> {
        let room = connection::room_signal(&self.origin);
        let since = Instant::now();
        let mut full = !fresh && connection::is_full_now(&self.origin);
        loop {
            // Enabled before it looks, so that no notification is missed.
            let mut freed = pin!(room.notified());
            freed.as_mut().enable();
            // If no other connection is available, the oldest will do.
            let max_age = self.route.connection_max_age.filter(|_| !full);
            if !fresh
                && !upgrade
                && let Some(taken) = self.pooled(max_age)
            {
                return Ok(taken);
            }
            if upgrade || !self.origin.may_speak_http2() {
                return self.dial_alone(upgrade, &room).await;
            }
            if full && connection::may_have_room(&self.origin) {
                self.wait_for_room(freed, since).await?;
                continue;
            }
            let mut dial = connection::shared_dial(&self.origin, &self.metrics);
            let dialed = tokio::select! {
                biased;
                dialed = dial.wait_for(Option::is_some) => dialed.ok().and_then(|dialed| dialed.clone()),
                () = freed, if !fresh => continue,
            };
            fresh = false;
            match dialed {
                Some(Ok(Dialed::Http2(connection))) if connection.has_room() => {
                    return Ok(ReadyConnection { connection: Connection::Http2(connection), pooled: true });
                }
                // Other requests came first, or it takes no requests at the moment.
                Some(Ok(Dialed::Http2(connection))) => full = connection.most_streams() == 0,
                Some(Ok(Dialed::Http1)) => {}
                // It accepts no further connection, but has one.
                Some(Err(_)) if connection::may_have_room(&self.origin) => full = true,
                Some(Err(error)) => return Err(error),
                None => return Err(UpstreamError::closed(self.origin.name())),
            }
        }
    }

    async fn wait_for_room(
        &self,
        freed: Pin<&mut Notified<'_>>,
        since: Instant,
    ) -> Result<(), UpstreamError> {
        let Some(limit) = self.route.response_timeout else {
            freed.await;
            return Ok(());
        };
        tokio::time::timeout_at(since + limit, freed).await.map_err(|_| {
            let detail = format!(
                "{} takes no more requests at a time, and none of them ended within response_timeout ({})",
                self.origin.name(),
                humantime::format_duration(limit)
            );
            UpstreamError::new(UpstreamErrorKind::Timeout, "http_response_timeout", detail)
        })
    }

    async fn dial_alone(&self, upgrade: bool, room: &Arc<Notify>) -> Result<ReadyConnection, UpstreamError> {
        let connection = self.origin.dial(upgrade, &self.metrics, room).await?;
        if let Connection::Http2(connection) = &connection {
            connection::add_http2(&self.origin, connection.clone());
        }
        Ok(ReadyConnection { connection, pooled: false })
    }
}

/// An attempt without a response, and what another attempt needs.
struct FailedAttempt {
    error: UpstreamError,
    /// `None` if it cannot be sent again.
    body: Option<RequestBody>,
    cause: FailureCause,
}

/// What a failure means for sending the request again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FailureCause {
    /// The request was not processed, and the connection takes no more requests.
    NotProcessed,
    /// The upstream requires HTTP/1.1.
    NeedsHttp1,
    /// The connection died before any byte of a response.
    Died { written: bool },
    /// The request may have been processed, or it is too late to send it again.
    Final,
}

impl Upstream {
    async fn attempt(
        &self,
        connection: Connection,
        head: &Head,
        body: RequestBody,
    ) -> Result<Response<ResponseBody>, Box<FailedAttempt>> {
        match connection {
            Connection::Http1(connection) => self.attempt_http1(connection, head, body).await,
            // Boxed, so that it does not enlarge a request over HTTP/1.1.
            Connection::Http2(connection) => Box::pin(self.attempt_http2(connection, head, body)).await,
        }
    }

    async fn attempt_http1(
        &self,
        mut connection: Box<Http1>,
        head: &Head,
        mut body: RequestBody,
    ) -> Result<Response<ResponseBody>, Box<FailedAttempt>> {
        let mut link = body.link();
        let request = self.request_http1(head, body);
        let read = connection.traffic.read();
        connection.traffic.request_begins();
        connection.traffic.headway.made();
        let sending = Box::pin(connection.sender.try_send_request(request));
        let failure = match self.await_response(sending, &mut link, &mut connection.patience).await {
            Ok(response) => {
                connection.kept = keep_alive_timeout(response.headers());
                connection.traffic.headway.made();
                connection.traffic.response_begins();
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    connection.traffic.headway.unlimited();
                }
                let lease = Lease::http1(connection, &self.origin, self.route.connection_max_age);
                return Ok(self.to_response(response, lease, link));
            }
            Err(failure) => failure,
        };
        let died = FailureCause::Died { written: !connection.traffic.is_unwritten() };
        let got_bytes = connection.traffic.read() > read;
        let failed = failure.classify(&self.origin, |_| if got_bytes { FailureCause::Final } else { died });
        Err(Box::pin(self.failed(failed, link)).await)
    }

    async fn attempt_http2(
        &self,
        mut connection: Http2,
        head: &Head,
        mut body: RequestBody,
    ) -> Result<Response<ResponseBody>, Box<FailedAttempt>> {
        let mut link = body.link();
        let stream = connection.stream();
        let _silence = SilenceWatch::new(&connection.state, self.route.response_timeout);
        let request = self.request_http2(head, body);
        let written = connection.state.traffic.written();
        let sending = Box::pin(connection.sender.try_send_request(request));
        match self.await_response(sending, &mut link, &mut Idle::new(None)).await {
            Ok(response) => Ok(self.to_response(response, Lease::Http2(stream), link)),
            Err(failure) => {
                let died = FailureCause::Died { written: connection.state.traffic.written() > written };
                let failed = failure.classify(&self.origin, |error| match http2_failure(error) {
                    Http2Failure::NotProcessed => FailureCause::NotProcessed,
                    Http2Failure::NeedsHttp1 => FailureCause::NeedsHttp1,
                    Http2Failure::Reset(_) => FailureCause::Final,
                    Http2Failure::Other => died,
                });
                if failed.cause != FailureCause::Final {
                    stream.retire();
                }
                Err(self.failed(failed, link).await)
            }
        }
    }

    fn to_response(
        &self,
        response: Response<Incoming>,
        lease: Lease,
        link: Option<Link>,
    ) -> Response<ResponseBody> {
        ResponseBody::new(response, lease, self.route.idle_timeout, link)
    }

    /// Waits for the head of the response: for `response_timeout` after the last byte of the body was sent, and for
    /// `idle_timeout` while the body does not move. `sending` is boxed, because an awaited future is copied at each level.
    fn await_response<F>(
        &self,
        mut sending: Pin<Box<F>>,
        link: &mut Option<Link>,
        patience: &mut Idle,
    ) -> impl Future<Output = Result<Response<Incoming>, SendFailure>>
    where
        F: Future<Output = Result<Response<Incoming>, Unsent>>,
    {
        let mut stall = Idle::new(self.route.idle_timeout);
        patience.set_limit(self.route.response_timeout);
        patience.moved();
        poll_fn(move |cx| {
            if let Poll::Ready(outcome) = sending.as_mut().poll(cx) {
                return Poll::Ready(outcome.map_err(SendFailure::from));
            }
            if let Some(link) = link
                && link.poll_sent(cx).is_pending()
            {
                return self.poll_body_stalled(link, &mut stall, cx);
            }
            if patience.expired(cx) { Poll::Ready(Err(self.no_response())) } else { Poll::Pending }
        })
    }

    fn poll_body_stalled<T>(
        &self,
        link: &mut Link,
        stall: &mut Idle,
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, SendFailure>> {
        if link.has_moved() {
            stall.moved();
        }
        if stall.expired(cx) { Poll::Ready(Err(self.body_stalled(link))) } else { Poll::Pending }
    }

    #[cold]
    fn no_response(&self) -> SendFailure {
        let limit = self.route.response_timeout.unwrap_or_default();
        SendFailure::Timeout(UpstreamError::new(
            UpstreamErrorKind::Timeout,
            "http_response_timeout",
            format!(
                "{} sent no response within response_timeout ({})",
                self.origin.name(),
                humantime::format_duration(limit)
            ),
        ))
    }

    #[cold]
    fn body_stalled(&self, link: &Link) -> SendFailure {
        let limit = humantime::format_duration(self.route.idle_timeout.unwrap_or_default());
        SendFailure::Timeout(if link.awaits_caller() {
            UpstreamError::new(
                UpstreamErrorKind::CallerBody,
                "http_request_error",
                format!("the caller sent no part of its request body for idle_timeout ({limit})"),
            )
        } else {
            let name = self.origin.name();
            UpstreamError::new(
                UpstreamErrorKind::Timeout,
                "connection_write_timeout",
                format!("{name} accepted no part of the request body for idle_timeout ({limit})"),
            )
        })
    }

    /// Gets the body back if the request may be sent again.
    #[cold]
    async fn failed(&self, mut failed: FailedAttempt, link: Option<Link>) -> Box<FailedAttempt> {
        if failed.cause != FailureCause::Final && failed.body.is_none() {
            failed.body = match link {
                None => Some(RequestBody::empty()),
                // hyper has dropped the request with its body, so this does not wait for the caller.
                Some(mut link) => {
                    poll_fn(|cx| link.poll_sent(cx)).await;
                    link.again(self.route.idle_timeout)
                }
            };
        }
        Box::new(failed)
    }

    fn request_http1(&self, head: &Head, body: RequestBody) -> Request<RequestBody> {
        let chunked = !body.is_end_stream() && !head.headers.contains_key(header::CONTENT_LENGTH);
        let mut request = Request::new(body);
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = Uri::from(head.target.clone());
        *request.headers_mut() = head.headers.clone();
        let headers = request.headers_mut();
        if chunked {
            // Without this, hyper omits the body of a GET or HEAD.
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        headers.insert(header::HOST, self.origin.host.clone());
        if !head.upgrade && head.headers.contains_key(header::TE) {
            // A sender of TE must say that it is for this hop (RFC 9110 section 10.1.4).
            headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        }
        request
    }

    fn request_http2(&self, head: &Head, body: RequestBody) -> Request<RequestBody> {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.origin.scheme.clone());
        parts.authority = Some(self.origin.authority.clone());
        parts.path_and_query = Some(head.target.clone());
        let mut request = Request::new(body);
        *request.method_mut() = head.method.clone();
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path make a URI");
        *request.headers_mut() = head.headers.clone();
        request.headers_mut().remove(header::HOST);
        // HTTP/2 has no connection-specific fields (RFC 9113 section 8.2.2).
        request.headers_mut().remove(header::CONNECTION);
        request
    }
}

/// Retires an HTTP/2 connection on which nothing arrives while a request waits. The next requests would wait in vain as well:
/// a firewall may have forgotten the connection without telling either end.
struct SilenceWatch {
    state: Arc<Http2State>,
    since: Instant,
    read: u64,
    patience: Duration,
}

/// How long a request must have waited, when it is given up, for its connection to count as silent.
const SILENCE: Duration = Duration::from_secs(1);

impl SilenceWatch {
    fn new(state: &Arc<Http2State>, response_timeout: Option<Duration>) -> Self {
        let patience = response_timeout.map_or(SILENCE, |timeout| timeout.min(SILENCE));
        Self { state: Arc::clone(state), since: Instant::now(), read: state.traffic.read(), patience }
    }
}

impl Drop for SilenceWatch {
    fn drop(&mut self) {
        if self.state.traffic.read() == self.read && self.since.elapsed() >= self.patience {
            self.state.retire();
        }
    }
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// How long the upstream keeps the connection open, from `Keep-Alive: timeout=5` (seconds). One second less, for the way
/// there, or half of a single second.
fn keep_alive_timeout(headers: &HeaderMap) -> Option<Duration> {
    let line = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    let parameter = |item: &str| {
        let (name, value) = item.trim().split_once('=')?;
        let seconds = value.trim().trim_matches('"').parse::<u32>().ok()?;
        name.trim().eq_ignore_ascii_case("timeout").then(|| Duration::from_secs(seconds.into()))
    };
    let said = line.split(',').find_map(parameter)?;
    Some(said.saturating_sub(Duration::from_secs(1)).max(said.min(Duration::from_secs(1)) / 2))
}

type Unsent = hyper::client::conn::TrySendError<Request<RequestBody>>;

/// Why an attempt ended without a response.
enum SendFailure {
    /// Nothing was written, and hyper returned the request.
    Unsent(hyper::Error, Box<Request<RequestBody>>),
    Broken(hyper::Error),
    Timeout(UpstreamError),
}

impl From<Unsent> for SendFailure {
    fn from(mut error: Unsent) -> Self {
        match error.take_message() {
            Some(request) => Self::Unsent(error.into_error(), Box::new(request)),
            None => Self::Broken(error.into_error()),
        }
    }
}

impl SendFailure {
    /// `classify` interprets hyper's error if the connection ended.
    fn classify(
        self,
        origin: &Origin,
        classify: impl FnOnce(&hyper::Error) -> FailureCause,
    ) -> FailedAttempt {
        match self {
            Self::Timeout(error) => FailedAttempt { error, body: None, cause: FailureCause::Final },
            Self::Unsent(error, request) => FailedAttempt {
                error: UpstreamError::http(&error, origin),
                body: Some(request.into_body()),
                cause: FailureCause::Died { written: false },
            },
            Self::Broken(broken) => {
                let error = UpstreamError::http(&broken, origin);
                // An error in the caller's body, or an invalid response, is no reason to try again.
                let ended = error.kind == UpstreamErrorKind::Invalid && !broken.is_parse();
                let cause = if ended { classify(&broken) } else { FailureCause::Final };
                FailedAttempt { error, body: None, cause }
            }
        }
    }
}

/// Where connections lead, and how they are made. Routes that agree in all of it share one origin and its connections.
pub struct Origin {
    /// The key of its pools. No two origins of a process have the same.
    id: u64,
    key: OriginKey,
    connector: Connector,
    /// For upgrades, and for an origin that requires HTTP/1.1 although it offers HTTP/2.
    http1_connector: Connector,
    scheme: Scheme,
    authority: Authority,
    host: HeaderValue,
    /// The last connection spoke HTTP/1.1, so the next ones need not wait for each other.
    spoke_http1: AtomicBool,
    /// It refused HTTP/2 (HTTP_1_1_REQUIRED, RFC 9113 section 7).
    requires_http1: AtomicBool,
    /// The nonce that it requires in the next DPoP proof (RFC 9449 section 9).
    nonce: ArcSwapOption<String>,
}

/// Two routes with the same key can share connections.
#[derive(Debug, Clone, PartialEq, Eq)]
struct OriginKey {
    target: UpstreamTarget,
    authority: String,
    connection: ConnectionConfig,
}

impl OriginKey {
    fn of(route: &RouteConfig) -> Self {
        Self {
            target: route.upstream.target.clone(),
            authority: route.upstream.authority.clone(),
            connection: route.connection.clone(),
        }
    }
}

impl Origin {
    fn new(key: OriginKey) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let https = matches!(key.target, UpstreamTarget::Tcp { https: true, .. });
        let connector =
            |offer| Connector::to_upstream(&key.target, &key.connection, offer).within(&UPSTREAMS);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            connector: connector(key.connection.protocol.into()),
            http1_connector: connector(Offer::Http1),
            scheme: if https { Scheme::HTTPS } else { Scheme::HTTP },
            authority: key.authority.parse().expect("the config has checked the upstream's host"),
            host: key.authority.parse().expect("a host is visible ASCII"),
            spoke_http1: AtomicBool::new(false),
            requires_http1: AtomicBool::new(false),
            nonce: ArcSwapOption::empty(),
            key,
        }
    }

    /// Its name in errors.
    fn name(&self) -> &str {
        &self.key.authority
    }

    /// Whether it is reached over the network without TLS.
    fn is_plain(&self) -> bool {
        matches!(self.key.target, UpstreamTarget::Tcp { https: false, .. })
    }

    fn title_case(&self) -> bool {
        self.key.connection.header_case == HeaderCase::Title
    }

    /// Whether a connection speaks HTTP/2. `negotiated`: ALPN chose it.
    fn speaks_http2(&self, negotiated: bool) -> bool {
        match self.key.connection.protocol {
            Protocol::Http1 => false,
            Protocol::Auto => negotiated,
            Protocol::Http2 => true,
        }
    }

    /// Whether the next connection may speak HTTP/2. Then one connection attempt serves all waiting requests.
    fn may_speak_http2(&self) -> bool {
        match self.key.connection.protocol {
            Protocol::Http1 => false,
            Protocol::Http2 => true,
            Protocol::Auto => {
                self.scheme == Scheme::HTTPS
                    && !self.requires_http1()
                    && !self.spoke_http1.load(Ordering::Relaxed)
            }
        }
    }

    /// What to try where the upstream may not speak HTTP/2.
    fn http2_hint(&self) -> &'static str {
        match self.key.connection.protocol {
            Protocol::Http2 => {
                "; the route says protocol = \"http2\": if the upstream speaks only HTTP/1.1, set protocol = \"auto\" or \
                 \"http1\""
            }
            Protocol::Auto | Protocol::Http1 => "",
        }
    }

    fn learn_protocol(&self, http2: bool) {
        self.spoke_http1.store(!http2, Ordering::Relaxed);
    }

    fn requires_http1(&self) -> bool {
        self.requires_http1.load(Ordering::Relaxed)
    }

    /// Switches to HTTP/1.1 from now on. Returns whether the route allows that.
    fn require_http1(&self) -> bool {
        let allowed = self.key.connection.protocol == Protocol::Auto;
        if allowed && !self.requires_http1.swap(true, Ordering::Relaxed) {
            tracing::info!(
                event = "upstream.http1_required",
                upstream = self.name(),
                "the upstream refuses HTTP/2 (HTTP_1_1_REQUIRED): HTTP/1.1 from now on"
            );
        }
        allowed
    }

    fn nonce(&self) -> Option<Arc<String>> {
        self.nonce.load_full()
    }

    fn set_nonce(&self, nonce: &str) {
        if self.nonce.load().as_ref().is_none_or(|known| **known != nonce) {
            self.nonce.store(Some(Arc::new(nonce.to_owned())));
        }
    }
}

/// The origins of a config, without duplicates.
#[derive(Default)]
pub struct Origins(HashMap<String, Vec<Arc<Origin>>>);

impl Origins {
    /// Starts with the origins of the previous config, whose connections stay open.
    pub fn known(origins: impl Iterator<Item = Arc<Origin>>) -> Self {
        let mut known = Self::default();
        for origin in origins {
            let same_name = known.0.entry(origin.key.authority.clone()).or_default();
            if !same_name.iter().any(|other| other.key == origin.key) {
                same_name.push(origin);
            }
        }
        known
    }

    /// Whether the route's origin is among them.
    pub fn knows(&self, route: &RouteConfig) -> bool {
        let key = OriginKey::of(route);
        self.0.get(&key.authority).is_some_and(|same_name| same_name.iter().any(|origin| origin.key == key))
    }

    /// The origin of a route. Another route may share it.
    pub fn of(&mut self, route: &RouteConfig) -> Arc<Origin> {
        let key = OriginKey::of(route);
        let same_name = self.0.entry(key.authority.clone()).or_default();
        if let Some(origin) = same_name.iter().find(|origin| origin.key == key) {
            return Arc::clone(origin);
        }
        let origin = Arc::new(Origin::new(key));
        same_name.push(Arc::clone(&origin));
        origin
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamErrorKind {
    /// No connection: DNS, TCP, TLS, the egress proxy.
    Unreachable,
    /// The upstream accepted the connection, and sent no HTTP response.
    Invalid,
    /// The connection or the response took too long.
    Timeout,
    /// This machine has no room for another connection.
    Full,
    /// The caller left or stopped sending in the middle of its body, or the body is malformed.
    CallerBody,
}

/// Why a request got no response from its upstream.
#[derive(Debug, Clone)]
pub struct UpstreamError {
    pub kind: UpstreamErrorKind,
    /// What happened, and at which upstream.
    pub detail: String,
    /// The error type of RFC 9209 section 2.3.
    pub proxy_status: &'static str,
}

impl UpstreamError {
    fn new(kind: UpstreamErrorKind, proxy_status: &'static str, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), proxy_status }
    }

    pub(crate) fn connect(error: ConnectError) -> Self {
        let (kind, proxy_status) = match error.kind {
            ConnectErrorKind::Dns => (UpstreamErrorKind::Unreachable, "dns_error"),
            ConnectErrorKind::Refused => (UpstreamErrorKind::Unreachable, "connection_refused"),
            ConnectErrorKind::Unreachable => (UpstreamErrorKind::Unreachable, "destination_ip_unroutable"),
            ConnectErrorKind::Timeout => (UpstreamErrorKind::Timeout, "connection_timeout"),
            ConnectErrorKind::Certificate => (UpstreamErrorKind::Unreachable, "tls_certificate_error"),
            ConnectErrorKind::Tls => (UpstreamErrorKind::Unreachable, "tls_protocol_error"),
            ConnectErrorKind::Proxy => (UpstreamErrorKind::Unreachable, "destination_unavailable"),
            ConnectErrorKind::Forbidden => (UpstreamErrorKind::Unreachable, "destination_ip_prohibited"),
            ConnectErrorKind::Settings => (UpstreamErrorKind::Unreachable, "proxy_configuration_error"),
            ConnectErrorKind::Full => (UpstreamErrorKind::Full, "connection_limit_reached"),
        };
        Self { kind, detail: error.message, proxy_status }
    }

    /// A connection that failed or an invalid response, as hyper reports it.
    fn http(error: &hyper::Error, origin: &Origin) -> Self {
        let authority = origin.name();
        if let Some(error) = caller_body_error(error) {
            return Self::new(UpstreamErrorKind::CallerBody, "http_request_error", error.to_string());
        }
        // With TLS 1.3, the upstream refuses a client certificate only after the handshake.
        if let Some(refused) = tls_cause(error, authority) {
            return Self::connect(refused);
        }
        let invalid_http2 = invalid_http2(error);
        let (proxy_status, what) = if error.is_parse() || invalid_http2.is_some() {
            let hint = match invalid_http2 {
                Some(InvalidHttp2::Stream) => "",
                Some(InvalidHttp2::Connection) => origin.http2_hint(),
                None if origin.is_plain() => "; is it https://?",
                None => "",
            };
            (NOT_HTTP, format!("sent a response that is not valid HTTP{hint}"))
        } else if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
            ("connection_terminated", "closed the connection before it responded".to_owned())
        } else {
            ("connection_terminated", "broke the connection before it responded".to_owned())
        };
        let cause = error.source().map(|cause| {
            let words = cause.to_string();
            // The debug data of a GOAWAY are the peer's own words. It knows the token and may repeat it.
            format!(" ({})", words.split(" (b\"").next().unwrap_or(&words))
        });
        let detail = format!("{authority} {what}{}", cause.unwrap_or_default());
        Self::new(UpstreamErrorKind::Invalid, proxy_status, detail)
    }

    /// The connection ended before it carried a request.
    fn closed(authority: &str) -> Self {
        let detail = format!("{authority} closed the connection before it responded");
        Self::new(UpstreamErrorKind::Invalid, "connection_terminated", detail)
    }

    /// The connection ended before the upstream has shown that it speaks HTTP/2.
    fn before_http2(mut self, origin: &Origin) -> Self {
        if self.kind == UpstreamErrorKind::Invalid && self.proxy_status != NOT_HTTP {
            self.detail.push_str(origin.http2_hint());
        }
        self
    }

    /// HTTP_1_1_REQUIRED from the upstream of a route that allows only HTTP/2.
    fn needs_http1(authority: &str) -> Self {
        let detail = format!(
            "{authority} refuses HTTP/2 and requires HTTP/1.1 (HTTP_1_1_REQUIRED); the route says protocol = \"http2\": set \
             protocol = \"auto\" or \"http1\""
        );
        Self::new(UpstreamErrorKind::Invalid, NOT_HTTP, detail)
    }
}

const NOT_HTTP: &str = "http_protocol_error";

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

/// An error of the caller's body, which is not blamed on the upstream.
fn caller_body_error(error: &hyper::Error) -> Option<&CallerBodyError> {
    std::iter::successors(error.source(), |&cause| cause.source()).find_map(|cause| cause.downcast_ref())
}
