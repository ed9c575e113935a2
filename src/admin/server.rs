//! The admin address is served by [`crate::listener::serve_small`].

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;

use super::Admin;
use crate::listener::{Answer, Answerer, Asker, Bound, SmallLimits, Stop, serve_small};

pub(super) const CONNECTIONS: usize = 100;
const LIMITS: SmallLimits = SmallLimits {
    connections: CONNECTIONS,
    header_timeout: Duration::from_secs(10),
    age: Duration::from_secs(60),
    keep_alive: true,
};

/// Answers on this socket until `stop`; returns when every connection has ended.
pub async fn serve(bound: Bound, admin: Arc<Admin>, stop: Stop) {
    serve_small(bound, admin, LIMITS, stop).await;
}

impl Answerer for Admin {
    async fn answer(self: Arc<Self>, asker: Asker, request: Request<Incoming>) -> Answer {
        self.respond(asker, &request)
    }
}
