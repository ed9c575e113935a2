//! Calls to upstreams over pooled connections that belong to the worker.
//!
//! [`Upstream::send`] sends one call: over a pooled connection where there is one, else over a new one. A pooled
//! connection that turns out to be dead is noticed before any byte of an answer; the call is then sent once more.

mod error;
mod http1;
mod http2;
mod idle;
mod pool;
mod request_body;
mod response_body;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response};
use tokio::time::Instant;

pub use error::{UpstreamError, UpstreamErrorKind};
use http1::Http1;
use http2::Http2;
pub use request_body::RequestBody;
pub(crate) use request_body::squeeze;
use request_body::{Link, Returned};
pub use response_body::ResponseBody;

use crate::config::{Protocol, RouteConfig, UpstreamTarget};
use crate::metrics::RouteMetrics;
use crate::net::connect::Offer;
use crate::net::{Connector, Target, UPSTREAMS};

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
    /// Without the target's query and the fields' values, which may carry the token or the caller's own secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.headers.keys().map(HeaderName::as_str);
        write!(f, "{} {} ", self.method, self.target.path())?;
        f.debug_list().entries(names).finish()
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
    /// Over HTTP/1.1: all of it went up before the answer came.
    Whole(RequestBody),
    /// Over HTTP/1.1: the answer came first.
    Unfinished,
    /// Over HTTP/2, where the connection has the body while it is sent.
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
            Connector::new(target.clone(), tls, egress, offer, route.connect_timeout).within(&UPSTREAMS)
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
            Protocol::Http2 => pool::share_http2(self).map(Opened::http2),
            Protocol::Auto => pool::share_http2(self)
                .map(Opened::http2)
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
                return Ok(Opened::http2(known));
            }
            let opened = http2::open(connected, &self.metrics, name).await?;
            pool::put_http2(self, opened.clone());
            return Ok(Opened::http2(opened));
        }
        Ok(Opened::Http1(Http1::new(connected.stream, &self.metrics, self.route.response_timeout)))
    }

    fn speaks_http2(&self, upgrade: bool, negotiated: bool, name: &str) -> Result<bool, UpstreamError> {
        match self.route.protocol {
            _ if upgrade => Ok(false),
            Protocol::Http1 => Ok(false),
            Protocol::Auto => Ok(negotiated),
            Protocol::Http2 if self.scheme == Scheme::HTTPS && !negotiated => Err(http2::missing(name)),
            Protocol::Http2 => Ok(true),
        }
    }

    async fn attempt(
        self: &Arc<Self>,
        opened: Opened,
        head: &Head,
        body: RequestBody,
    ) -> Result<Answer, Failed> {
        match opened {
            Opened::Http1(connection) => self.attempt_http1(connection, head, body).await,
            // Large, and no part of a call over HTTP/1.1.
            Opened::Http2(connection) => Box::pin(self.attempt_http2(connection, head, body)).await,
        }
    }

    #[cold]
    fn no_response(&self) -> UpstreamError {
        let limit = self.route.response_timeout.unwrap_or_default();
        UpstreamError::new(
            UpstreamErrorKind::Timeout,
            "http_response_timeout",
            format!(
                "{} sent no response within response_timeout ({})",
                self.route.upstream.authority,
                humantime::format_duration(limit)
            ),
        )
    }

    /// The request body has not moved for `idle_timeout`; `caller`: it is the caller that sends nothing.
    #[cold]
    fn body_stuck(&self, caller: bool) -> UpstreamError {
        let limit = humantime::format_duration(self.route.idle_timeout.unwrap_or_default());
        if caller {
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
        }
    }
}

/// A connection that is ready for a call. Boxed: a call hands it on several times.
enum Opened {
    Http1(Box<Http1>),
    Http2(Box<Http2>),
}

impl Opened {
    fn http2(connection: Http2) -> Self {
        Self::Http2(Box::new(connection))
    }
}

/// Counts a connection for as long as it is open.
#[derive(Debug)]
struct Open(Arc<RouteMetrics>);

impl Open {
    fn new(metrics: &Arc<RouteMetrics>) -> Self {
        metrics.upstream_connected();
        Self(Arc::clone(metrics))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.upstream_disconnected();
    }
}

impl Answer {
    /// The call's body once more, where it was sent whole and is kept whole.
    pub fn body_again(&mut self, idle: Option<Duration>) -> Option<RequestBody> {
        let returned = match self.body.take() {
            None => return Some(RequestBody::empty()),
            Some(SentBody::Whole(body)) => body.returned()?,
            Some(SentBody::Done(returned)) => *returned,
            Some(SentBody::Underway(mut link)) => link.sent_already()?,
            Some(SentBody::Unfinished) => return None,
        };
        if returned.is_kept_whole() { returned.again(idle) } else { None }
    }
}

/// An attempt without an answer, and what is needed for another one.
struct Failed {
    error: UpstreamError,
    body: Option<RequestBody>,
    /// Some of the call may have reached the upstream.
    written: bool,
}
