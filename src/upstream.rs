//! Requests to upstreams over pooled connections that belong to the worker.
//!
//! [`Upstream::send`] sends one request: over a pooled connection where there is one, else over a new one. Where that
//! fails in a way that is safe to repeat (RFC 9110 section 9.2.2, RFC 9113 section 8.7), it is sent once more.

mod connection;
mod error;
mod exchange;
mod origin;
mod pool;
mod request_body;
mod response_body;
mod trailers;

use std::fmt;
use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, Method};

use connection::Connection;
pub use error::{UpstreamError, UpstreamErrorKind};
pub use exchange::Answer;
use exchange::{Cause, Failed};
pub use origin::{Origin, Origins};
use pool::Dialled;
pub use request_body::RequestBody;
pub use response_body::ResponseBody;
pub use trailers::TrailerRules;
pub(crate) use trailers::squeeze;

use crate::config::RouteConfig;
use crate::metrics::RouteMetrics;

/// One route's upstream.
pub struct Upstream {
    route: Arc<RouteConfig>,
    origin: Arc<Origin>,
    metrics: Arc<RouteMetrics>,
}

/// The head of a request as it goes up; kept by the caller of [`Upstream::send`], so that it can be sent again.
pub struct Head {
    pub method: Method,
    pub target: PathAndQuery,
    pub headers: HeaderMap,
    /// The request asks for another protocol: it goes over an HTTP/1.1 connection of its own.
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

/// How many dials a request waits for whose connections others fill before it has its turn.
const DIALS: usize = 8;

/// A connection for a request.
struct Taken {
    connection: Connection,
    /// It served others before, or does now: it may have died unnoticed.
    pooled: bool,
}

impl Upstream {
    pub fn new(route: &Arc<RouteConfig>, origin: Arc<Origin>, metrics: Arc<RouteMetrics>) -> Self {
        Self { route: Arc::clone(route), origin, metrics }
    }

    /// Where its connections lead.
    pub fn origin(&self) -> &Arc<Origin> {
        &self.origin
    }

    /// What this origin wants in the next proof (RFC 9449 section 9), where it said so.
    pub fn nonce(&self) -> Option<Arc<String>> {
        self.origin.nonce()
    }

    /// Takes the place of any before.
    pub fn set_nonce(&self, nonce: &str) {
        self.origin.set_nonce(nonce);
    }

    /// Sends one request and waits for the head of its response. Where it has to be sent once more, `anew` is called
    /// before, for what may be sent only once.
    ///
    /// # Errors
    /// Where there was no response: see [`UpstreamErrorKind`].
    pub async fn send(
        &self,
        head: &mut Head,
        body: RequestBody,
        anew: impl FnOnce(&mut Head),
    ) -> Result<Answer, UpstreamError> {
        let taken = match self.pooled(head.upgrade) {
            Some(taken) => taken,
            None => Box::pin(self.open(head.upgrade)).await?,
        };
        let pooled = taken.pooled;
        match self.attempt(taken.connection, head, body).await {
            Ok(answer) => Ok(answer),
            Err(failed) => Box::pin(self.send_again(head, *failed, pooled, anew)).await,
        }
    }

    /// Once more on another connection, where that is safe.
    async fn send_again(
        &self,
        head: &mut Head,
        failed: Failed,
        pooled: bool,
        anew: impl FnOnce(&mut Head),
    ) -> Result<Answer, UpstreamError> {
        let Failed { error, body, cause } = failed;
        let safe = match cause {
            Cause::NotProcessed => true,
            Cause::NeedsHttp1 => self.origin.require_http1(),
            Cause::Died { written } => pooled && (!written || head.method.is_idempotent()),
            Cause::Final => false,
        };
        let Some(body) = body.filter(|_| safe) else { return Err(error) };
        tracing::debug!(
            event = "upstream.sent_again", route = %self.route.name, %error,
            "sending the request once more on another connection"
        );
        let other = match cause {
            // Whatever else is pooled may have died as well.
            Cause::Died { .. } => None,
            Cause::NotProcessed | Cause::NeedsHttp1 | Cause::Final => self.pooled(false),
        };
        let taken = match other {
            Some(taken) => taken,
            None => self.open(false).await?,
        };
        anew(head);
        self.attempt(taken.connection, head, body).await.map_err(|failed| failed.error)
    }

    fn pooled(&self, upgrade: bool) -> Option<Taken> {
        if upgrade {
            return None;
        }
        let connection = pool::take(&self.origin, self.route.connection_max_age)?;
        Some(Taken { connection, pooled: true })
    }

    /// A connection for this request, where none is pooled: a new one of its own, or one of HTTP/2 that is shared by all
    /// who wait for it.
    async fn open(&self, upgrade: bool) -> Result<Taken, UpstreamError> {
        for _ in 0..DIALS {
            if upgrade || !self.origin.may_speak_http2() {
                return Ok(Taken { connection: self.dial(upgrade).await?, pooled: false });
            }
            let mut dial = pool::dial(&self.origin, &self.metrics);
            let dialled = match dial.wait_for(Option::is_some).await {
                Ok(dialled) => dialled.clone(),
                Err(_) => return Err(UpstreamError::closed(self.origin.name())),
            };
            match dialled {
                Some(Ok(Dialled::Http2(connection))) if connection.has_room() => {
                    return Ok(Taken { connection: Connection::Http2(connection), pooled: true });
                }
                // Others may have come first.
                Some(Ok(_)) | None => {
                    if let Some(taken) = self.pooled(false) {
                        return Ok(taken);
                    }
                }
                Some(Err(error)) => return self.crowded().ok_or(error),
            }
        }
        match self.crowded() {
            Some(taken) => Ok(taken),
            None => Ok(Taken { connection: self.dial(false).await?, pooled: false }),
        }
    }

    /// The upstream takes no other connection, but has one: the request waits for its turn there.
    fn crowded(&self) -> Option<Taken> {
        let connection = Connection::Http2(pool::crowd(&self.origin)?);
        Some(Taken { connection, pooled: true })
    }

    async fn dial(&self, upgrade: bool) -> Result<Connection, UpstreamError> {
        let connection = self.origin.dial(upgrade, &self.metrics).await?;
        if let Connection::Http2(connection) = &connection {
            pool::put_http2(&self.origin, connection.clone());
        }
        Ok(connection)
    }
}
