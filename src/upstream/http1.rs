//! An HTTP/1.1 connection, driven inside the call that uses it: no task, no channel. A call writes its head and its body
//! and reads the answer at the same time; the answer's body then has the connection, and gives it back at its end.

mod call;
mod overlap;
mod sending;
#[cfg(test)]
mod tests;
mod wire;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use hyper::body::Frame;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::task::coop::unconstrained;
use tokio::time::Instant;

use super::idle::Idle;
use super::{Open, Upstream, pool};
use crate::http1::{BadHead, Decoder, Input, Output, ResponseHead, Search, Tunnel};
use crate::metrics::RouteMetrics;
use crate::net::Stream;
pub(super) use overlap::Item;
use wire::Wire;

type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// One connection.
#[derive(Debug)]
pub(super) struct Http1 {
    wire: Wire,
    input: Input,
    output: Output,
    /// For the head of the answer that is waited for.
    search: Search,
    pub(super) born: Instant,
    /// Times out the answers of its calls: one timer for all of them, see [`Idle`].
    patience: Idle,
}

/// Why there is no head of an answer.
#[derive(Debug)]
enum NoHead {
    Io(io::Error),
    Closed,
    Bad(BadHead),
}

impl Http1 {
    pub(super) fn new(
        stream: Stream,
        metrics: &Arc<RouteMetrics>,
        response_timeout: Option<Duration>,
    ) -> Box<Self> {
        Box::new(Self {
            wire: Wire::new(stream, Open::new(metrics)),
            input: Input::default(),
            output: Output::default(),
            search: Search::default(),
            born: Instant::now(),
            patience: Idle::new(response_timeout),
        })
    }

    /// Whether an idle connection can take a call: the upstream has neither closed it nor sent what nobody asked for.
    pub(super) fn is_fit(&mut self) -> bool {
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        let mut cx = Context::from_waker(Waker::noop());
        let look = poll_fn(|cx| Pin::new(&mut self.wire).poll_read(cx, &mut buffer));
        // To a task that has done much in one go, tokio says that nothing is there, whatever is there: many dead
        // connections in a row are enough for that.
        pin!(unconstrained(look)).poll(&mut cx).is_pending()
    }

    /// A call begins: its answer is waited for from now on.
    pub(super) fn begins_call(&mut self, now: Instant) {
        self.patience.moved_at(now);
    }

    /// When its last call began, or its body was sent.
    pub(super) fn moved_last(&self) -> Option<Instant> {
        self.patience.since()
    }

    /// All of an answer was read: the connection may serve another call, or ends here.
    pub(super) fn release(mut self: Box<Self>, upstream: &Arc<Upstream>) {
        if !self.input.is_empty() || !self.is_flushed() {
            return;
        }
        self.input.rest();
        self.output.rest();
        pool::put_http1(upstream, self);
    }

    /// The connection after a 101, with what was read behind the head.
    pub(super) fn into_tunnel(self) -> Tunnel {
        Tunnel::new(self.wire, self.input.bytes)
    }

    fn written(&self) -> u64 {
        self.wire.written()
    }

    fn is_flushed(&self) -> bool {
        self.output.is_flushed()
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.output.poll_write(&mut self.wire, cx)
    }

    /// Reads the head of the answer to a `method`; sets `answered` as soon as anything of it was read.
    fn poll_head(
        &mut self,
        method: &Method,
        answered: &mut bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ResponseHead, NoHead>> {
        loop {
            match ready!(self.input.poll_head(&mut self.wire, cx)) {
                Err(error) => return Poll::Ready(Err(NoHead::Io(error))),
                Ok(0) => return Poll::Ready(Err(NoHead::Closed)),
                Ok(_) => *answered = true,
            }
            match ResponseHead::take(&mut self.input.bytes, method, &mut self.search) {
                Ok(Some(head)) => {
                    self.search = Search::default();
                    return Poll::Ready(Ok(head));
                }
                Ok(None) => {}
                Err(bad) => return Poll::Ready(Err(NoHead::Bad(bad))),
            }
        }
    }

    /// The next frame of an answer's body; `None`: it is at its end.
    pub(super) fn poll_body(
        &mut self,
        body: &mut Decoder,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            match body.take(&mut self.input.bytes) {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) if body.is_end() => return Poll::Ready(None),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
            match ready!(self.input.poll_body(&mut self.wire, cx, body.left())) {
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
                Ok(0) => return Poll::Ready(body.closed().err().map(|error| Err(error.into()))),
                Ok(_) => {}
            }
        }
    }
}
