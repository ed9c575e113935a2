//! Upgrades (RFC 9110 section 7.8): the tunnel opens only after the upstream's 101.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode, header};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::caller::Caller;
use super::seen::Seen;
use crate::http1::{Incoming, OnUpgrade, Tunnel};
use crate::upstream::ResponseBody;

/// A call that asks for another protocol, while the upstream has not answered yet.
pub(super) struct Upgrading {
    protocol: HeaderValue,
    caller_side: OnUpgrade,
}

/// Notes the wish of a call that has one.
pub(super) fn begin(request: &mut Request<Incoming>) -> Option<Box<Upgrading>> {
    let protocol = super::headers::upgrade(request.version(), request.headers())?;
    let caller_side = request.body_mut().take_upgrade()?;
    // Boxed: next to no call is one, and all would be as large.
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

    /// After a 101: joins both sides, once this answer is written. Any other answer is an answer like all others.
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
        let upstream_side = response.body_mut().take_tunnel();
        let seen = Seen::of(response.headers());
        super::headers::strip_hop_by_hop(response.headers_mut(), seen);
        put_on(response.headers_mut(), &agreed);
        let open = Open::new(caller);
        let caller_side = self.caller_side;
        // It ends with the caller's socket, which the listener closes when everything must end.
        tokio::spawn(async move {
            tunnel(caller_side, upstream_side, idle).await;
            drop(open);
        });
    }
}

async fn tunnel(caller: OnUpgrade, upstream: Option<Tunnel>, idle: Option<Duration>) {
    let (Some(caller), Some(upstream)) = (caller.tunnel().await, upstream) else { return };
    let moved = Moved::new();
    let mut caller = Watched { io: caller, moved: moved.clone() };
    let mut upstream = Watched { io: upstream, moved: moved.clone() };
    tokio::select! {
        // How a tunnel ends is between its two ends.
        _ = tokio::io::copy_bidirectional(&mut caller, &mut upstream) => {}
        () = moved.still_for(idle) => tracing::debug!(
            event = "call.tunnel_idle",
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
        loop {
            let due = self.opened + Duration::from_millis(self.at.load(Ordering::Relaxed)) + limit;
            if due <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}

struct Watched<T> {
    io: T,
    moved: Moved,
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
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

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
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

/// A tunnel counts as a call in flight until it ends.
struct Open(Arc<Caller>);

impl Open {
    fn new(caller: &Arc<Caller>) -> Self {
        caller.activity.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(caller))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.activity.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
