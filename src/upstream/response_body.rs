//! The upstream's body on its way back; gives its connection to the pool when it is at its end.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::mpsc;

use super::Upstream;
use super::http1::{Http1, Item};
use super::http2::StreamInUse;
use super::idle::Idle;
use super::request_body::{Progress, without_owned_trailers};
use crate::http1::{Decoder, Tunnel};

type BodyError = Box<dyn std::error::Error + Send + Sync>;
type Polled = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

const STALLED: &str = "the upstream's body stalled for longer than idle_timeout";

/// An upstream's response body.
#[derive(Debug)]
pub struct ResponseBody(Content);

/// What is large is boxed: a response is moved several times, and most bodies are there with their head.
#[derive(Debug)]
enum Content {
    /// All that is still to come; the connection serves other calls already.
    Whole(Bytes),
    Streamed(Box<Streamed>),
    Received(Box<Received>),
    Http2(Box<Multiplexed>),
    /// After a 101.
    Upgraded(Box<Http1>),
}

/// Over HTTP/1.1.
#[derive(Debug)]
struct Streamed {
    /// Until the body is at its end. Dropped before that, the connection ends with it: the rest of this answer could
    /// still come.
    connection: Option<Box<Http1>>,
    decoder: Decoder,
    /// The connection can be used again.
    keep: bool,
    idle: Idle,
    upstream: Weak<Upstream>,
    broken: Broken,
}

/// Over HTTP/1.1, while the request is still sent: see [`super::http1`].
#[derive(Debug)]
struct Received {
    items: mpsc::Receiver<Item>,
    left: Option<u64>,
    ended: bool,
    broken: Broken,
}

/// Why a body broke off, told one turn late: what came before it reaches the caller first.
#[derive(Debug, Default)]
struct Broken(Option<BodyError>);

impl Broken {
    fn tell(&mut self, error: impl Into<BodyError>, cx: &Context<'_>) -> Polled {
        self.0 = Some(error.into());
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Over HTTP/2.
#[derive(Debug)]
struct Multiplexed {
    incoming: Incoming,
    stream: Option<StreamInUse>,
    idle: Idle,
    /// Of the request body, where there is one: while that moves, the call is not idle.
    request: Option<(Arc<Progress>, u64)>,
}

impl ResponseBody {
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self(Content::Whole(bytes))
    }

    pub(super) fn streamed(
        upstream: &Arc<Upstream>,
        connection: Box<Http1>,
        decoder: Decoder,
        keep: bool,
    ) -> Self {
        let idle = Idle::new(upstream.route.idle_timeout);
        let upstream = Arc::downgrade(upstream);
        Self(Content::Streamed(Box::new(Streamed {
            connection: Some(connection),
            decoder,
            keep,
            idle,
            upstream,
            broken: Broken::default(),
        })))
    }

    /// `left`: its length, where that is known.
    pub(super) fn received(items: mpsc::Receiver<Item>, left: Option<u64>) -> Self {
        let broken = Broken::default();
        Self(Content::Received(Box::new(Received { items, left, ended: false, broken })))
    }

    pub(super) fn http2(
        incoming: Incoming,
        stream: StreamInUse,
        idle: Option<Duration>,
        request: Option<Arc<Progress>>,
    ) -> Self {
        let request = request.map(|progress| (progress, 0));
        let stream = Some(stream).filter(|_| !incoming.is_end_stream());
        Self(Content::Http2(Box::new(Multiplexed { incoming, stream, idle: Idle::new(idle), request })))
    }

    pub(super) fn upgraded(connection: Box<Http1>) -> Self {
        Self(Content::Upgraded(connection))
    }

    /// The connection after a 101, which is no longer HTTP.
    pub fn take_tunnel(&mut self) -> Option<Tunnel> {
        match std::mem::replace(&mut self.0, Content::Whole(Bytes::new())) {
            Content::Upgraded(connection) => Some(connection.into_tunnel()),
            other => {
                self.0 = other;
                None
            }
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let polled = match &mut self.0 {
            Content::Whole(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Content::Whole(bytes) => return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Content::Upgraded(_) => return Poll::Ready(None),
            Content::Streamed(body) => body.poll_frame(cx),
            Content::Received(body) => body.poll_frame(cx),
            Content::Http2(body) => body.poll_frame(cx),
        };
        polled.map_ok(|frame| without_owned_trailers(frame, None))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Content::Whole(bytes) => bytes.is_empty(),
            Content::Upgraded(_) => true,
            Content::Streamed(body) => body.connection.is_none() && body.broken.0.is_none(),
            Content::Received(body) => body.left == Some(0) || (body.ended && body.broken.0.is_none()),
            Content::Http2(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let left = match &self.0 {
            Content::Whole(bytes) => Some(bytes.len() as u64),
            Content::Upgraded(_) => Some(0),
            Content::Streamed(body) => body.decoder.left(),
            Content::Received(body) => body.left,
            Content::Http2(body) => return body.incoming.size_hint(),
        };
        left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

impl Streamed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        let Some(connection) = &mut self.connection else {
            return Poll::Ready(self.broken.0.take().map(Err));
        };
        match connection.poll_body(&mut self.decoder, cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.idle.moved();
                if self.decoder.is_end() {
                    self.release();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.connection = None;
                self.broken.tell(error, cx)
            }
            Poll::Ready(None) => {
                self.release();
                Poll::Ready(None)
            }
            Poll::Pending if self.idle.expired(cx) => {
                self.connection = None;
                self.broken.tell(STALLED, cx)
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn release(&mut self) {
        if let Some(connection) = self.connection.take()
            && self.keep
            && let Some(upstream) = self.upstream.upgrade()
        {
            connection.release(&upstream);
        }
    }
}

impl Received {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        if self.ended {
            return Poll::Ready(self.broken.0.take().map(Err));
        }
        let item = ready!(self.items.poll_recv(cx));
        self.ended = !matches!(item, Some(Item::Frame(_)));
        match item {
            Some(Item::Frame(frame) | Item::Last(frame)) => {
                let size = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.left = self.left.map(|left| left.saturating_sub(size));
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Item::End) => Poll::Ready(None),
            Some(Item::Broken(error)) => self.broken.tell(error, cx),
            None => self.broken.tell("the call broke off", cx),
        }
    }
}

impl Multiplexed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.idle.moved();
                if let Some((progress, _)) = &self.request {
                    progress.answered.fetch_add(1, Ordering::Relaxed);
                }
                if self.incoming.is_end_stream() {
                    self.stream = None;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.stream = None;
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                self.stream = None;
                Poll::Ready(None)
            }
            Poll::Pending if self.stuck(cx) => {
                self.stream = None;
                Poll::Ready(Some(Err(STALLED.into())))
            }
            Poll::Pending => Poll::Pending,
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
