//! The upstream's body on its way back; gives its connection to the pool when it is at its end.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::runtime::Handle;

use super::connection::{Http1, StreamInUse};
use super::origin::Origin;
use super::pool;
use super::request_body::{Link, RequestBody};
use crate::idle::Idle;

type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// How long an upstream that has refused a request may take nothing of its body, before the rest is thrown away: a
/// caller may wait with reading until it has sent all.
const REFUSED_PATIENCE: Duration = Duration::from_secs(1);

/// An upstream's response body.
#[derive(Debug)]
pub struct ResponseBody {
    incoming: Incoming,
    ended: bool,
    /// The connection, until the body is at its end. Dropped before that, the connection ends with it: it could still
    /// carry the rest of this response.
    lease: Option<Lease>,
    idle: Idle,
    /// How long the request's body may stand still once this one is at its end.
    patience: Option<Duration>,
    /// The request's body, where there is one that may be on its way still: while it moves, the request is not idle.
    link: Option<Link>,
}

/// A connection in use by one request.
pub(super) enum Lease {
    Http1 { connection: Box<Http1>, origin: Weak<Origin>, max_age: Option<Duration> },
    Http2(StreamInUse),
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
    pub(super) fn http1(connection: Box<Http1>, origin: &Arc<Origin>, max_age: Option<Duration>) -> Self {
        Self::Http1 { connection, origin: Arc::downgrade(origin), max_age }
    }

    /// Request and response are at their end: the connection may serve another request.
    fn release(self) {
        if let Self::Http1 { connection, origin, max_age } = self
            && let Some(origin) = origin.upgrade()
        {
            pool::put_http1(&origin, connection, max_age);
        }
    }

    /// Of a response that was complete before its request: sees the request to its end. Where the upstream takes nothing
    /// more of it, the connection ends, and the rest is for nobody.
    async fn release_after(self, mut link: Link, mut idle: Idle) {
        let sent = poll_fn(|cx| {
            if link.poll_sent(cx).is_ready() {
                return Poll::Ready(true);
            }
            // A caller that rests has its own limit.
            if link.has_moved() || link.awaits_caller() {
                idle.moved();
            }
            if idle.expired(cx) { Poll::Ready(false) } else { Poll::Pending }
        });
        match (sent.await, self) {
            (true, lease) => lease.release(),
            (false, Self::Http1 { connection, .. }) => connection.abort(),
            (false, Self::Http2(stream)) => stream.abandon().await,
        }
    }
}

impl ResponseBody {
    pub(super) fn new(
        response: Response<Incoming>,
        lease: Lease,
        idle: Option<Duration>,
        link: Option<Link>,
    ) -> Response<Self> {
        let refused = response.status().is_client_error() || response.status().is_server_error();
        let patience = if refused { idle.map(|idle| idle.min(REFUSED_PATIENCE)) } else { idle };
        response.map(|incoming| {
            let ended = incoming.is_end_stream();
            let mut body =
                Self { incoming, ended, lease: Some(lease), idle: Idle::new(idle), patience, link };
            body.release_at_end();
            body
        })
    }

    /// The request's body once more, where it was sent whole and is kept whole.
    pub fn request_again(&mut self, idle: Option<Duration>) -> Option<RequestBody> {
        match &mut self.link {
            None => Some(RequestBody::empty()),
            Some(link) => link.again_whole(idle),
        }
    }

    fn release_at_end(&mut self) {
        if self.ended
            && self.link.as_mut().is_none_or(Link::is_sent)
            && let Some(lease) = self.lease.take()
        {
            lease.release();
        }
    }

    fn stuck(&mut self, cx: &mut Context<'_>) -> bool {
        if self.link.as_mut().is_some_and(Link::has_moved) {
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
        // The response goes to the caller: whatever was kept of the request is not sent again.
        self.link.take_if(|link| link.is_sent());
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.idle.moved();
                if let Some(Lease::Http1 { connection, .. }) = &self.lease {
                    connection.traffic.headway.made();
                }
                if let Some(link) = &self.link {
                    link.note_answered();
                }
                self.ended = self.incoming.is_end_stream();
                self.release_at_end();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.lease = None;
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                self.ended = true;
                self.release_at_end();
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

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if self.ended
            && let (Some(lease), Some(link)) = (self.lease.take(), self.link.take())
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(lease.release_after(link, Idle::new(self.patience)));
        }
    }
}
