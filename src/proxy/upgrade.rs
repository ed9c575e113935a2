//! Upgrades (RFC 9110 section 7.8): the tunnel opens only after the upstream's 101.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::caller::Caller;
use super::field_set::FieldSet;
use crate::idle::Alarm;
use crate::inbound::{CallerBody, InFlight};
use crate::upstream::ResponseBody;

/// A request that asks for another protocol, while the upstream has not answered yet.
pub(super) struct Upgrading {
    protocol: HeaderValue,
    caller_side: OnUpgrade,
}

/// Notes the wish of a request that has one.
pub(super) fn begin(request: &mut Request<CallerBody>) -> Option<Box<Upgrading>> {
    let protocol = super::headers::upgrade(request.version(), request.headers())?;
    let caller_side = request.extensions_mut().remove::<OnUpgrade>()?;
    // Boxed: next to no request is one, and all would be as large.
    Some(Box::new(Upgrading { protocol, caller_side }))
}

fn put_on(headers: &mut http::HeaderMap, protocol: &HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol.clone());
}

impl Upgrading {
    /// Puts the wish back on, which [`super::headers::strip_hop_by_hop`] took off with the rest of this hop.
    pub(super) fn announce(&self, headers: &mut http::HeaderMap) {
        put_on(headers, &self.protocol);
    }

    /// After a 101: joins both sides, once this response is written. Any other response is a response like all others.
    pub(super) fn complete(
        self,
        response: &mut Response<ResponseBody>,
        caller: &Arc<Caller>,
        idle: Option<Duration>,
    ) {
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return;
        }
        let agreed = response.headers().get(header::UPGRADE).cloned().unwrap_or(self.protocol);
        let upstream_side = hyper::upgrade::on(&mut *response);
        let seen = FieldSet::of(response.headers());
        super::headers::strip_hop_by_hop(response.headers_mut(), seen);
        put_on(response.headers_mut(), &agreed);
        let in_flight = InFlight::new(&caller.activity);
        let caller_side = self.caller_side;
        // It ends with the caller's socket, which the listener closes when everything must end.
        tokio::spawn(async move {
            tunnel(caller_side, upstream_side, idle).await;
            drop(in_flight);
        });
    }
}

async fn tunnel(caller: OnUpgrade, upstream: OnUpgrade, idle: Option<Duration>) {
    let (Ok(caller), Ok(upstream)) = tokio::join!(caller, upstream) else { return };
    let moved = Moved::new();
    let mut caller = Watched { io: TokioIo::new(caller), moved: moved.clone() };
    let mut upstream = Watched { io: TokioIo::new(upstream), moved: moved.clone() };
    tokio::select! {
        // How a tunnel ends is between its two ends.
        _ = tokio::io::copy_bidirectional(&mut caller, &mut upstream) => {}
        () = moved.still_for(idle) => tracing::debug!(
            event = "tunnel.idle",
            "closed an upgraded connection on which nothing moved"
        ),
    }
}

/// When bytes last went through, in ms since the tunnel opened.
#[derive(Clone)]
struct Moved {
    opened: Instant,
    at: Arc<AtomicU64>,
}

impl Moved {
    fn new() -> Self {
        Self { opened: Instant::now(), at: Arc::new(AtomicU64::new(0)) }
    }

    fn note(&self) {
        let ms = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.at.store(ms, Ordering::Relaxed);
    }

    /// Ends once nothing has moved for the limit; never without one.
    async fn still_for(&self, limit: Option<Duration>) {
        let Some(limit) = limit else { return std::future::pending().await };
        let mut alarm = Alarm::default();
        poll_fn(|cx| {
            let due = self.opened + Duration::from_millis(self.at.load(Ordering::Relaxed)) + limit;
            if alarm.poll(due, cx) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

struct Watched {
    io: TokioIo<Upgraded>,
    moved: Moved,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if polled.is_ready() {
            self.moved.note();
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
