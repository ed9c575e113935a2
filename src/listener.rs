//! Where calls come in: sockets, connections, their limits and their end.

mod accept;
pub mod bind;
mod connection;
mod drive;
mod limit;
mod linger;
mod refusal;
mod small;
mod stream;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Body as HttpBody;
use tokio_util::sync::CancellationToken;

use crate::config::{Limits, ListenerConfig};
use crate::inbound::CallerBody;
use crate::metrics::ListenerMetrics;
use crate::proxy::{Body, BodyError, Caller, Proxy};
pub use accept::{Logged, REFUSALS};
pub use bind::{BindError, Bound, Passed, SocketListener, Unfit, Wanted, overlap};
pub use limit::ConnectionLimit;
pub use small::{Answer, Answerer, Asker, SmallLimits, answer, problem, serve_small};
pub use stream::Raw as SocketStream;

/// What applies to connections accepted from now on.
pub struct ListenerSettings {
    pub config: Arc<ListenerConfig>,
    pub limits: Limits,
    /// `None`: plain HTTP.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    pub metrics: Arc<ListenerMetrics>,
}

/// Swapped by a reload; read for each new connection.
pub type SettingsCell = ArcSwap<ListenerSettings>;

/// How a listener is told to end.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Stop accepting and let calls end: HTTP/1 closes after the response, HTTP/2 sends GOAWAY.
    pub accepting: CancellationToken,
    /// Drop everything.
    pub now: CancellationToken,
}

/// Serves until `stop`; returns when every connection that it accepted has ended, upgraded tunnels included.
/// Needs a tokio runtime with I/O and time.
pub async fn serve(
    bound: Bound,
    proxy: Arc<Proxy>,
    settings: Arc<SettingsCell>,
    connections: Arc<ConnectionLimit>,
    stop: Stop,
) {
    serve_with(bound, proxy, settings, connections, stop).await;
}

/// [`serve`] with another answerer than the proxy.
pub async fn serve_with<H: Handler>(
    bound: Bound,
    handler: Arc<H>,
    settings: Arc<SettingsCell>,
    connections: Arc<ConnectionLimit>,
    stop: Stop,
) {
    accept::serve(bound, handler, settings, connections, stop).await;
}

/// What answers calls.
pub trait Handler: Send + Sync + 'static {
    /// What it answers with; the default is nothing.
    type Body: HttpBody<Data = Bytes, Error = BodyError> + Default + Send + Unpin + 'static;

    /// Answers one request. While it counts calls in `caller.activity.in_flight`, the connection is not idle. The request
    /// is lent: each future that a value is handed to has a copy of it.
    fn call(
        &self,
        caller: &Arc<Caller>,
        request: &mut Request<CallerBody>,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

impl Handler for Proxy {
    type Body = Body;

    fn call(
        &self,
        caller: &Arc<Caller>,
        request: &mut Request<CallerBody>,
    ) -> impl Future<Output = Response<Body>> + Send {
        Self::call(self, caller, request)
    }
}
