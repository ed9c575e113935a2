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
#[cfg(test)]
mod tests;
mod trailers;
mod wire;

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, Method, Response};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use connection::Connection;
pub use error::{UpstreamError, UpstreamErrorKind};
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

    /// Sends one request and waits for the head of its response. Where it has to be sent once more, `before_repeat` is called
    /// before, for what may be sent only once; `false`: it may not be sent any more.
    ///
    /// # Errors
    /// Where there was no response: see [`UpstreamErrorKind`].
    pub async fn send(
        &self,
        head: &mut Head,
        body: RequestBody,
        before_repeat: impl FnOnce(&mut Head) -> bool,
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

    /// Once more on another connection, where that is safe.
    async fn send_again(
        &self,
        head: &mut Head,
        failed: Failed,
        pooled: bool,
        before_repeat: impl FnOnce(&mut Head) -> bool,
    ) -> Result<Response<ResponseBody>, UpstreamError> {
        let Failed { error, body, cause } = failed;
        let safe = match cause {
            Cause::NotProcessed => true,
            Cause::NeedsHttp1 if self.origin.require_http1() => true,
            Cause::NeedsHttp1 => return Err(UpstreamError::needs_http1(self.origin.name())),
            Cause::Died { written } => pooled && (!written || head.method.is_idempotent()),
            Cause::Final => false,
        };
        let Some(body) = body.filter(|_| safe) else { return Err(error) };
        tracing::debug!(
            event = "upstream.sent_again", route = %self.route.name, %error,
            "sending the request once more on another connection"
        );
        // Where one has died, whatever else is pooled may have died as well.
        let fresh = matches!(cause, Cause::Died { .. });
        let taken = self.open(head.upgrade, fresh).await?;
        if !before_repeat(head) {
            return Err(error);
        }
        self.attempt(taken.connection, head, body).await.map_err(|failed| failed.error)
    }

    fn pooled(&self, max_age: Option<Duration>) -> Option<Taken> {
        let connection = pool::take(&self.origin, max_age)?;
        Some(Taken { connection, pooled: true })
    }

    /// A connection for this request: a new one of its own, or one of HTTP/2 that all who wait for it share. `fresh`: no
    /// other than a new one.
    async fn open(&self, upgrade: bool, mut fresh: bool) -> Result<Taken, UpstreamError> {
        let room = pool::room(&self.origin);
        let since = Instant::now();
        let mut full = !fresh && pool::takes_nothing_now(&self.origin);
        loop {
            // Listens before it looks, so that nothing falls between.
            let mut freed = pin!(room.notified());
            freed.as_mut().enable();
            // Where no other connection can be had, the oldest will do.
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
            if full && pool::may_have_room(&self.origin) {
                self.wait_for_room(freed, since).await?;
                continue;
            }
            let mut dial = pool::dial(&self.origin, &self.metrics);
            let dialled = tokio::select! {
                biased;
                dialled = dial.wait_for(Option::is_some) => dialled.ok().and_then(|dialled| dialled.clone()),
                () = freed, if !fresh => continue,
            };
            fresh = false;
            match dialled {
                Some(Ok(Dialled::Http2(connection))) if connection.has_room() => {
                    return Ok(Taken { connection: Connection::Http2(connection), pooled: true });
                }
                // Others came first, or it takes no requests for now.
                Some(Ok(Dialled::Http2(connection))) => full = connection.most_streams() == 0,
                Some(Ok(Dialled::Http1)) => {}
                // It takes no other connection, but has one.
                Some(Err(_)) if pool::may_have_room(&self.origin) => full = true,
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

    async fn dial_alone(&self, upgrade: bool, room: &Arc<Notify>) -> Result<Taken, UpstreamError> {
        let connection = self.origin.dial(upgrade, &self.metrics, room).await?;
        if let Connection::Http2(connection) = &connection {
            pool::put_http2(&self.origin, connection.clone());
        }
        Ok(Taken { connection, pooled: false })
    }
}
