//! What goes back to the caller: the upstream's body as it streams, or a response of our own.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use super::record::Record;
use crate::flow::Outlet;
use crate::upstream::{ResponseBody, TrailerRules};

/// Why a body broke off; the connection is then closed, so that the caller does not take it for whole.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A response's body. The request counts as ended when it is dropped.
pub struct Body {
    content: Content,
    /// The upstream's frames on their way out.
    outlet: Outlet,
    /// Why it broke off, told one turn late: what came before it is written first.
    broken: Option<BodyError>,
    /// `None`: not a request that was counted.
    record: Option<Box<Record>>,
}

#[derive(Debug)]
pub(super) enum Content {
    Empty,
    Full(Bytes),
    /// No body, of which the head says how long it would be: hyper writes the `Content-Length` of a 304 over HTTP/1 for a
    /// body that knows it, and asks for none of its bytes.
    Unsent(u64),
    Upstream(ResponseBody, TrailerRules),
}

impl Body {
    pub(super) fn new(content: Content, mut record: Box<Record>) -> Self {
        record.respond(!matches!(content, Content::Upstream(..)));
        Self { content, outlet: Outlet::default(), broken: None, record: Some(record) }
    }
}

/// Nothing, for what is refused before it is a request.
impl Default for Body {
    fn default() -> Self {
        Self { content: Content::Empty, outlet: Outlet::default(), broken: None, record: None }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { content, outlet, broken, record } = &mut *self;
        if let Some(error) = broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        ready!(outlet.poll_room(cx));
        if let Some(record) = record {
            record.asked();
        }
        let polled = match content {
            Content::Empty | Content::Unsent(_) => Poll::Ready(None),
            Content::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Content::Upstream(body, trailers) => {
                let polled = Pin::new(&mut *body).poll_frame(cx).map_ok(|frame| trailers.apply(frame));
                if body.is_end_stream() { polled } else { polled.map_ok(|frame| outlet.lend(frame)) }
            }
        };
        if let Some(record) = record {
            record.frame(&polled);
        }
        if let Poll::Ready(Some(Err(error))) = polled {
            *broken = Some(error);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Full(bytes) => bytes.is_empty(),
            Content::Unsent(_) => false,
            Content::Upstream(body, _) => self.broken.is_none() && body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Unsent(length) => SizeHint::with_exact(*length),
            Content::Upstream(body, _) => body.size_hint(),
        }
    }
}
