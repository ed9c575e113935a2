//! The request path.

pub mod caller;
pub mod snapshot;

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;

use crate::clock::SharedClock;
pub use caller::{Caller, Peer};
pub use snapshot::{RouteService, Snapshot, SnapshotCell};

/// What goes back to the caller.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BodyError>;
/// Why a body broke off; the connection is then closed.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Serves calls; shared by all listeners and workers.
pub struct Proxy {
    snapshot: Arc<SnapshotCell>,
    clock: SharedClock,
}

impl Proxy {
    pub fn new(snapshot: Arc<SnapshotCell>, clock: SharedClock) -> Self {
        Self { snapshot, clock }
    }

    /// Serves one call; every failure becomes a response.
    pub async fn call(&self, caller: &Arc<Caller>, request: Request<Incoming>) -> Response<Body> {
        let _ = (&self.snapshot, &self.clock, caller, request);
        todo!("proxy")
    }
}
