//! The admin address is served by [`crate::listener::serve_small`].

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use tokio::time::MissedTickBehavior;

use super::{Admin, recent};
use crate::listener::{Answer, Answerer, Asker, Bound, SmallLimits, Stop, serve_small};

/// Open ones at most.
pub const CONNECTIONS: usize = 100;
const LIMITS: SmallLimits = SmallLimits {
    connections: CONNECTIONS,
    header_timeout: Duration::from_secs(10),
    age: Duration::from_secs(60),
};

/// Answers on this socket until `stop`; returns when every connection has ended. Meanwhile it reads the routes'
/// counters now and then, so that it can tell what they did recently.
pub async fn serve(bound: Bound, admin: Arc<Admin>, stop: Stop) {
    let (reading, metrics) = (read_on(Arc::clone(&admin)), admin.metrics.admin());
    tokio::select! {
        () = serve_small(bound, admin, LIMITS, metrics, stop) => {}
        never = reading => match never {},
    }
}

async fn read_on(admin: Arc<Admin>) -> Infallible {
    let mut ticks = tokio::time::interval(recent::EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        admin.readings.read(admin.clock.boot(), &admin.snapshot.load());
    }
}

impl Answerer for Admin {
    async fn answer(self: Arc<Self>, asker: Asker, request: Request<Incoming>) -> Answer {
        self.respond(asker, &request)
    }
}
