//! The upstream's body on its way back; gives its connection to the pool when it is at its end.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::connection::{Http1, StreamInUse};
use super::origin::Origin;
use super::pool;
use super::request_body::Progress;
use crate::idle::Idle;

type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// An upstream's response body.
#[derive(Debug)]
pub struct ResponseBody {
    incoming: Incoming,
    /// The connection, until the body is at its end. Dropped before that, the connection ends with it: it could still
    /// carry the rest of this response.
    lease: Option<Lease>,
    idle: Idle,
    /// Of the request body, where there is one: while that moves, the request is not idle.
    request: Option<(Arc<Progress>, u64)>,
}

/// A connection in use by one request.
pub(super) enum Lease {
    Http1 { connection: Http1, origin: Weak<Origin>, max_age: Option<Duration> },
    Http2(#[expect(dead_code, reason = "counts by being dropped")] StreamInUse),
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Http1 { .. } => "Http1",
            Self::Http2(_) => "Http2",
        })
    }
}

impl Lease {
    /// The response is at its end: the connection may serve another request.
    fn release(self) {
        if let Self::Http1 { connection, origin, max_age } = self
            && let Some(origin) = origin.upgrade()
        {
            pool::put_http1(&origin, connection, max_age);
        }
    }
}

impl ResponseBody {
    pub(super) fn new(
        incoming: Incoming,
        lease: Lease,
        idle: Option<Duration>,
        request: Option<Arc<Progress>>,
    ) -> Self {
        let request = request.map(|progress| (progress, 0));
        let mut body = Self { incoming, lease: Some(lease), idle: Idle::new(idle), request };
        body.release_at_end();
        body
    }

    fn release_at_end(&mut self) {
        if self.incoming.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            lease.release();
        }
    }

    /// The request body moved since this was last asked.
    fn request_moved(&mut self) -> bool {
        let Some((progress, seen)) = &mut self.request else { return false };
        let moved = progress.moved.load(Ordering::Relaxed);
        std::mem::replace(seen, moved) != moved
    }

    fn stuck(&mut self, cx: &mut Context<'_>) -> bool {
        if self.request_moved() {
            self.idle.moved();
        }
        self.idle.expired(cx)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.idle.moved();
                if let Some(Lease::Http1 { connection, .. }) = &self.lease {
                    connection.traffic.headway.made();
                }
                if let Some((progress, _)) = &self.request {
                    progress.answered.fetch_add(1, Ordering::Relaxed);
                }
                self.release_at_end();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.lease = None;
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                if let Some(lease) = self.lease.take() {
                    lease.release();
                }
                Poll::Ready(None)
            }
            Poll::Pending if self.stuck(cx) => {
                self.lease = None;
                Poll::Ready(Some(Err("the upstream's body stalled for longer than idle_timeout".into())))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
