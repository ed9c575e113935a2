//! The request path: what happens to one request between its listener and its upstream.
//!
//! [`Proxy::call`] is the only way in, and the only place where a failure becomes a response. The steps are in
//! `handle`, one after the other, each in a file of its own.

mod body;
pub mod caller;
mod crowd;
mod dpop;
pub mod error;
mod field_set;
mod forward;
mod fuzz;
mod handle;
mod headers;
mod inject;
mod location;
pub mod page;
pub mod query;
mod record;
mod respond;
pub mod snapshot;
mod target;
mod traced;
mod unrouted;
mod upgrade;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use http::{Method, Request, Response, Version};

pub use body::{Body, BodyError};
pub use caller::{Caller, ListenerRules, Peer};
use crowd::Crowd;
pub use error::{Code, ProxyError};
use field_set::FieldSet;
pub(crate) use headers::max_forwards;
use record::Record;
pub use snapshot::{RouteService, Snapshot, SnapshotCell};
use traced::Traced;

use crate::clock::{Clock as _, SystemClock};
use crate::inbound::CallerBody;
use crate::metrics::Failure;

/// Serves calls; shared by all listeners and workers.
pub struct Proxy {
    snapshot: Arc<SnapshotCell>,
    over_http2: Arc<Crowd>,
}

impl Proxy {
    pub fn new(snapshot: Arc<SnapshotCell>) -> Self {
        Self { snapshot, over_http2: Arc::default() }
    }

    /// Serves one request; every failure becomes a response.
    pub async fn call(&self, caller: &Arc<Caller>, request: &mut Request<CallerBody>) -> Response<Body> {
        let snapshot = self.snapshot.load_full();
        let seen = FieldSet::of(request.headers());
        let request_id = headers::request_id(request.headers(), seen);
        let grpc = seen.any(FieldSet::CONTENT_TYPE) && respond::is_grpc(request.headers());
        let mut record = Box::new(Record::begin(caller, request_id, grpc, &snapshot.unrouted));
        let head_only = request.method() == Method::HEAD;
        if request.version() == Version::HTTP_2 {
            record.place = Some(self.over_http2.enter());
        }
        if snapshot.config.log.access {
            record.log_access(request.method(), request.uri().path());
        }
        if let Some(tracer) = &snapshot.tracer {
            let method = request.method().clone();
            record.traced = Some(Traced::begin(tracer, &method, request.headers_mut()).into());
        }
        // Boxed, so that a connection that rests has no room for it, and hyper copies none.
        let outcome =
            caught(Box::pin(handle::handle(&snapshot, caller, &mut record, request, seen)).as_mut()).await;
        let mut response = match outcome {
            Ok(response) => response,
            Err(error) if head_only => respond::without_body(failed(error, &mut record)),
            Err(error) => failed(error, &mut record),
        };
        response.headers_mut().insert(headers::X_REQUEST_ID, record.request_id.clone());
        record.status = response.status();
        response.map(|content| Body::new(content, record))
    }
}

fn failed(mut error: ProxyError, record: &mut Record) -> Response<body::Content> {
    record.code = Some(error.code.as_str());
    record.metrics().failed(error.code.as_str());
    if let Some(route) = &record.route {
        error.route = Some(Arc::clone(&route.config.name));
        error.issuer = route.issuer().cloned();
    }
    let level_is_ours = error.code.status().is_server_error();
    if level_is_ours {
        tell(&error, record);
    } else {
        record.log_refusal(error.told());
    }
    record.metrics().note_failure(Failure {
        at: SystemClock.wall(),
        status: error.code.status().as_u16(),
        code: error.code.as_str(),
        detail: error.told().to_owned(),
        request_id: record.request_id().to_owned(),
    });
    if record.grpc && level_is_ours {
        record.metrics().note_grpc_failure();
    }
    respond::respond(&error, record.grpc, record.request_id())
}

/// A line a minute for each route and code; a fault of ours is told each time.
fn tell(error: &ProxyError, record: &Record) {
    let request_id = record.request_id();
    let (route, issuer) = (error.route.as_deref(), error.issuer.as_deref());
    let (code, detail) = (error.code.as_str(), &error.detail);
    let repeats = record.route.as_ref().filter(|_| error.code != Code::Internal);
    match repeats.map_or(Some(0), |route| route.complains(error.code)) {
        Some(more) => {
            let more = (more > 0).then_some(more);
            tracing::warn!(
                event = "request.failed",
                request_id,
                route,
                issuer,
                code,
                more,
                detail,
                "request failed"
            );
        }
        None => {
            tracing::debug!(
                event = "request.failed",
                request_id,
                route,
                issuer,
                code,
                detail,
                "request failed"
            );
        }
    }
}

/// One bad call must not take the others down: a panic becomes 500 `internal`.
async fn caught<T>(
    mut future: Pin<&mut impl Future<Output = Result<T, ProxyError>>>,
) -> Result<T, ProxyError> {
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(polled) => polled,
        // The panic hook has logged where; the payload could hold anything.
        Err(_) => Poll::Ready(Err(ProxyError::new(
            Code::Internal,
            "a fault in bearerd; the log has this request id and the place",
        ))),
    })
    .await
}

/// Takes arbitrary lines apart as a target, a challenge with its nonce, and a `Location`. For the fuzz target and the
/// replay of its corpus: it must not panic.
pub fn fuzz_texts(bytes: &[u8]) {
    fuzz::texts(bytes);
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_internal() {
        let error = caught::<()>(pin!(async { panic!("secret-in-a-panic") })).await.unwrap_err();
        assert_eq!(error.code, Code::Internal);
        assert!(!error.detail.contains("secret-in-a-panic"), "{}", error.detail);
    }

    #[tokio::test]
    async fn what_does_not_panic_passes() {
        assert_eq!(caught(pin!(async { Ok(7) })).await.unwrap(), 7);
    }
}
