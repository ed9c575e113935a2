//! Calls to upstreams over pooled connections that belong to the worker.
//!
//! [`Upstream::send`] sends one call: over a pooled connection where there is one, else over a new one. A pooled
//! connection that turns out to be dead is noticed before any byte of an answer; the call is then sent once more.

mod connection;
mod error;
mod idle;
mod pool;
mod request_body;
mod response_body;

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header};
use hyper::body::{Body, Incoming};
use tokio::time::Instant;

use connection::Opened;
pub use error::{UpstreamError, UpstreamErrorKind};
use idle::Idle;
use pool::{Http1, Http2, Lease};
pub use request_body::RequestBody;
pub(crate) use request_body::squeeze;
use request_body::{Link, Returned};
pub use response_body::ResponseBody;

use crate::config::{Protocol, RouteConfig, UpstreamTarget};
use crate::metrics::RouteMetrics;
use crate::net::connect::Offer;
use crate::net::{Connector, Target};

/// One route's upstream.
pub struct Upstream {
    /// Names its pools; never used twice in a process.
    id: u64,
    route: Arc<RouteConfig>,
    connector: Connector,
    /// Upgrades need HTTP/1.1, whatever else the upstream speaks.
    upgrade_connector: Connector,
    scheme: Scheme,
    authority: Option<Authority>,
    host: HeaderValue,
    /// See [`Upstream::nonce`].
    nonce: ArcSwapOption<String>,
    metrics: Arc<RouteMetrics>,
}

/// The head of a call as it goes up; kept by the caller of [`Upstream::send`], so that it can be sent again.
pub struct Head {
    pub method: Method,
    pub target: PathAndQuery,
    pub headers: HeaderMap,
    /// The call asks for another protocol: it goes over an HTTP/1.1 connection of its own.
    pub upgrade: bool,
}

impl fmt::Debug for Head {
    /// Without the target's query, which may carry the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:?}", self.method, self.target.path(), self.headers)
    }
}

/// An upstream's answer.
#[derive(Debug)]
pub struct Answer {
    pub response: Response<ResponseBody>,
    /// Where the call had a body: the way to have it again.
    body: Option<SentBody>,
}

/// A body that was sent, wholly or not yet.
#[derive(Debug)]
enum SentBody {
    Done(Box<Returned>),
    Underway(Link),
}

impl Upstream {
    pub fn new(route: &Arc<RouteConfig>, metrics: Arc<RouteMetrics>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (target, https) = match &route.upstream.target {
            UpstreamTarget::Tcp { https, host, port } => {
                (Target::Tcp { host: host.clone(), port: *port, tls: *https }, *https)
            }
            UpstreamTarget::Unix(path) => (Target::Unix(path.clone()), false),
        };
        let connector = |offer| {
            let (tls, egress) = (route.tls.clone(), route.egress.clone());
            Connector::new(target.clone(), tls, egress, offer, route.connect_timeout)
        };
        let offer = match route.protocol {
            Protocol::Auto => Offer::Both,
            Protocol::Http1 => Offer::Http1,
            Protocol::Http2 => Offer::Http2,
        };
        let authority = route.upstream.authority.as_str();
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            connector: connector(offer),
            upgrade_connector: connector(Offer::Http1),
            scheme: if https { Scheme::HTTPS } else { Scheme::HTTP },
            authority: authority.parse().ok(),
            nonce: ArcSwapOption::empty(),
            host: HeaderValue::from_str(authority).unwrap_or(HeaderValue::from_static("")),
            route: Arc::clone(route),
            metrics,
        }
    }

    /// What this origin wants in the next proof (RFC 9449 section 9), where it said so.
    pub fn nonce(&self) -> Option<Arc<String>> {
        self.nonce.load_full()
    }

    /// Stands instead of any before.
    pub fn set_nonce(&self, nonce: &str) {
        if self.nonce.load().as_ref().is_none_or(|known| **known != nonce) {
            self.nonce.store(Some(Arc::new(nonce.to_owned())));
        }
    }

    /// Sends one call and waits for the head of its answer. Where it has to be sent once more, `anew` is called before,
    /// for what may be sent only once.
    ///
    /// # Errors
    /// Where there was no answer: see [`UpstreamErrorKind`].
    pub async fn send(
        self: &Arc<Self>,
        head: &mut Head,
        body: RequestBody,
        anew: impl FnOnce(&mut Head),
    ) -> Result<Answer, UpstreamError> {
        let pooled = if head.upgrade { None } else { self.pooled() };
        let Some(pooled) = pooled else {
            let opened = Box::pin(self.open(head.upgrade)).await?;
            return self.attempt(opened, head, body).await.map_err(|failed| failed.error);
        };
        match self.attempt(pooled, head, body).await {
            Ok(answer) => Ok(answer),
            Err(failed) => Box::pin(self.send_again(head, failed, anew)).await,
        }
    }

    /// A pooled connection died under the call: once more on a new one, where that is safe (RFC 9110 section 9.2.2).
    async fn send_again(
        self: &Arc<Self>,
        head: &mut Head,
        failed: Failed,
        anew: impl FnOnce(&mut Head),
    ) -> Result<Answer, UpstreamError> {
        let Failed { error, body, written } = failed;
        let safe = !written || head.method.is_idempotent();
        let Some(body) = body.filter(|_| safe && error.kind == UpstreamErrorKind::Invalid) else {
            return Err(error);
        };
        tracing::debug!(
            event = "upstream.sent_again", route = %self.route.name,
            "a pooled connection was dead; sending the call once more"
        );
        let opened = self.open(false).await?;
        anew(head);
        self.attempt(opened, head, body).await.map_err(|failed| failed.error)
    }

    pub(super) fn too_old(&self, born: Instant, now: Instant) -> bool {
        self.route.connection_max_age.is_some_and(|max| born + max < now)
    }

    fn pooled(&self) -> Option<Opened> {
        match self.route.protocol {
            Protocol::Http1 => pool::take_http1(self).map(Opened::Http1),
            Protocol::Http2 => pool::share_http2(self).map(Opened::Http2),
            Protocol::Auto => pool::share_http2(self)
                .map(Opened::Http2)
                .or_else(|| pool::take_http1(self).map(Opened::Http1)),
        }
    }

    async fn open(self: &Arc<Self>, upgrade: bool) -> Result<Opened, UpstreamError> {
        let connector = if upgrade { &self.upgrade_connector } else { &self.connector };
        let connected = connector.connect().await.map_err(UpstreamError::connect)?;
        let name = self.route.upstream.authority.as_str();
        if self.speaks_http2(upgrade, connected.http2, name)? {
            // Others may have dialled at the same time: one shared connection is enough.
            if let Some(known) = pool::share_http2(self) {
                return Ok(Opened::Http2(known));
            }
            let opened = connection::open_http2(connected, &self.metrics, name).await?;
            if let Opened::Http2(connection) = &opened {
                pool::put_http2(self, connection.clone());
            }
            return Ok(opened);
        }
        connection::open_http1(connected, &self.metrics, &self.route).await
    }

    fn speaks_http2(&self, upgrade: bool, negotiated: bool, name: &str) -> Result<bool, UpstreamError> {
        match self.route.protocol {
            _ if upgrade => Ok(false),
            Protocol::Http1 => Ok(false),
            Protocol::Auto => Ok(negotiated),
            Protocol::Http2 if self.scheme == Scheme::HTTPS && !negotiated => Err(connection::no_http2(name)),
            Protocol::Http2 => Ok(true),
        }
    }

    async fn attempt(
        self: &Arc<Self>,
        opened: Opened,
        head: &Head,
        mut body: RequestBody,
    ) -> Result<Answer, Failed> {
        let link = body.link();
        match opened {
            Opened::Http1(connection) => self.attempt_http1(connection, head, body, link).await,
            Opened::Http2(connection) => self.attempt_http2(connection, head, body, link).await,
        }
    }

    async fn attempt_http1(
        self: &Arc<Self>,
        mut connection: Http1,
        head: &Head,
        body: RequestBody,
        link: Option<Link>,
    ) -> Result<Answer, Failed> {
        let request = self.request_http1(head, body);
        let read_before = connection.read.now();
        let sending = connection.sender.try_send_request(request);
        let (outcome, body) = self.answer_in_time(sending, link, &mut connection.patience).await;
        match outcome {
            Ok(response) => {
                let lease = Lease::Http1(connection, Arc::downgrade(self));
                Ok(self.answer(response, lease, body))
            }
            Err(failure) => {
                let answered = connection.read.now() > read_before;
                Err(self.failed(failure, body, answered).await)
            }
        }
    }

    async fn attempt_http2(
        self: &Arc<Self>,
        mut connection: Http2,
        head: &Head,
        body: RequestBody,
        link: Option<Link>,
    ) -> Result<Answer, Failed> {
        let stream = connection.stream();
        let request = self.request_http2(head, body);
        let sending = connection.sender.try_send_request(request);
        let mut patience = Idle::new(self.route.response_timeout);
        let (outcome, body) = self.answer_in_time(sending, link, &mut patience).await;
        match outcome {
            Ok(response) => Ok(self.answer(response, Lease::Http2(stream), body)),
            Err(failure) => Err(self.failed(failure, body, false).await),
        }
    }

    fn answer(&self, response: Response<Incoming>, lease: Lease, body: Option<SentBody>) -> Answer {
        let progress = match &body {
            Some(SentBody::Underway(link)) => Some(Arc::clone(&link.progress)),
            Some(SentBody::Done(_)) | None => None,
        };
        let idle = self.route.idle_timeout;
        let response = response.map(|incoming| ResponseBody::new(incoming, lease, idle, progress));
        Answer { response, body }
    }

    /// Waits for the head of the answer: `response_timeout` from the last byte of the body sent, and
    /// `idle_timeout` while the body does not move.
    async fn answer_in_time<F>(
        &self,
        sending: F,
        link: Option<Link>,
        patience: &mut Idle,
    ) -> (Outcome, Option<SentBody>)
    where
        F: Future<Output = Result<Response<Incoming>, TrySendError>>,
    {
        tokio::pin!(sending);
        let Some(mut link) = link else {
            return (self.response_in_time(sending.as_mut(), patience).await, None);
        };
        loop {
            let moved = link.progress.moved.load(Ordering::Relaxed);
            tokio::select! {
                biased;
                response = &mut sending => {
                    return (response.map_err(Failure::from), Some(SentBody::Underway(link)));
                }
                returned = link.sent() => {
                    let body = returned.map(|returned| SentBody::Done(Box::new(returned)));
                    return (self.response_in_time(sending.as_mut(), patience).await, body);
                }
                () = sleep_for(self.route.idle_timeout) => {
                    if link.progress.moved.load(Ordering::Relaxed) == moved {
                        return (Err(self.body_stuck(&link)), None);
                    }
                }
            }
        }
    }

    async fn response_in_time<F>(&self, mut sending: Pin<&mut F>, patience: &mut Idle) -> Outcome
    where
        F: Future<Output = Result<Response<Incoming>, TrySendError>>,
    {
        patience.moved();
        poll_fn(|cx| match sending.as_mut().poll(cx) {
            Poll::Ready(response) => Poll::Ready(response.map_err(Failure::from)),
            Poll::Pending if patience.expired(cx) => Poll::Ready(Err(self.no_response())),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    #[cold]
    fn no_response(&self) -> Failure {
        let limit = self.route.response_timeout.unwrap_or_default();
        Failure::Timeout(UpstreamError::new(
            UpstreamErrorKind::Timeout,
            "http_response_timeout",
            format!(
                "{} sent no response within response_timeout ({})",
                self.route.upstream.authority,
                humantime::format_duration(limit)
            ),
        ))
    }

    fn body_stuck(&self, link: &Link) -> Failure {
        let limit = humantime::format_duration(self.route.idle_timeout.unwrap_or_default());
        Failure::Timeout(if link.progress.awaiting_caller.load(Ordering::Relaxed) {
            UpstreamError::new(
                UpstreamErrorKind::CallerBody,
                "http_request_error",
                format!("the caller sent nothing of its request body for idle_timeout ({limit})"),
            )
        } else {
            let name = &self.route.upstream.authority;
            UpstreamError::new(
                UpstreamErrorKind::Timeout,
                "connection_write_timeout",
                format!("{name} took nothing of the request body for idle_timeout ({limit})"),
            )
        })
    }

    async fn failed(&self, failure: Failure, body: Option<SentBody>, answered: bool) -> Failed {
        let name = &self.route.upstream.authority;
        match failure {
            Failure::Timeout(error) => Failed { error, body: None, written: true },
            Failure::Unsent(error, request) => Failed {
                error: UpstreamError::http(&error, name),
                body: Some(request.into_body()),
                written: false,
            },
            Failure::Broken(error) => {
                let error = UpstreamError::http(&error, name);
                // Where an answer had begun, the call may not be sent again.
                let body = if answered { None } else { self.body_again(body).await };
                Failed { error, body, written: true }
            }
        }
    }

    async fn body_again(&self, body: Option<SentBody>) -> Option<RequestBody> {
        match body {
            None => Some(RequestBody::empty()),
            Some(SentBody::Done(returned)) => returned.again(self.route.idle_timeout),
            // The connection is gone, and its body with it: this does not wait for the caller.
            Some(SentBody::Underway(mut link)) => link.sent().await?.again(self.route.idle_timeout),
        }
    }

    fn request_http1(&self, head: &Head, body: RequestBody) -> Request<RequestBody> {
        let chunked = !body.is_end_stream() && !head.headers.contains_key(header::CONTENT_LENGTH);
        let mut request = Request::new(body);
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = Uri::from(head.target.clone());
        *request.headers_mut() = head.headers.clone();
        if chunked {
            // Where nothing is said, hyper leaves the body of a GET or HEAD out.
            request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        request.headers_mut().insert(header::HOST, self.host.clone());
        if !head.upgrade && head.headers.contains_key(header::TE) {
            // Whoever sends TE says that it is for this hop (RFC 9110 section 10.1.4).
            request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("te"));
        }
        request
    }

    fn request_http2(&self, head: &Head, body: RequestBody) -> Request<RequestBody> {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = self.authority.clone();
        parts.path_and_query = Some(head.target.clone());
        let mut request = Request::new(body);
        *request.method_mut() = head.method.clone();
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        *request.headers_mut() = head.headers.clone();
        request.headers_mut().remove(header::HOST);
        // What HTTP/1.1 says of a connection, HTTP/2 does not know (RFC 9113 section 8.2.2).
        request.headers_mut().remove(header::CONNECTION);
        request
    }
}

impl Answer {
    /// The call's body once more, where it was sent whole and is kept whole.
    pub fn body_again(&mut self, idle: Option<Duration>) -> Option<RequestBody> {
        match self.body.take() {
            None => Some(RequestBody::empty()),
            Some(SentBody::Done(returned)) => Self::whole(*returned, idle),
            Some(SentBody::Underway(mut link)) => Self::whole(link.sent_already()?, idle),
        }
    }

    fn whole(returned: Returned, idle: Option<Duration>) -> Option<RequestBody> {
        if returned.is_kept_whole() { returned.again(idle) } else { None }
    }
}

type TrySendError = hyper::client::conn::TrySendError<Request<RequestBody>>;
type Outcome = Result<Response<Incoming>, Failure>;

/// How an attempt ended without an answer.
enum Failure {
    /// Nothing was written: the request came back.
    Unsent(hyper::Error, Box<Request<RequestBody>>),
    Broken(hyper::Error),
    Timeout(UpstreamError),
}

impl From<TrySendError> for Failure {
    fn from(mut error: TrySendError) -> Self {
        match error.take_message() {
            Some(request) => Self::Unsent(error.into_error(), Box::new(request)),
            None => Self::Broken(error.into_error()),
        }
    }
}

/// An attempt without an answer, and what is needed for another one.
struct Failed {
    error: UpstreamError,
    body: Option<RequestBody>,
    /// Some of the call may have reached the upstream.
    written: bool,
}

async fn sleep_for(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}
