//! A caller's body, handed from its connection to its call. Nothing is read before the call wants it, so that a slow
//! upstream slows the caller down, and 100 (Continue) is said only where the body is wanted.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;
use want::{Giver, Taker};

use super::decode::BadBody;
use super::upgrade::OnUpgrade;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request, whichever version of HTTP it came over.
#[derive(Debug, Default)]
pub struct Incoming {
    content: Content,
    upgrade: Option<Box<OnUpgrade>>,
}

#[derive(Debug)]
enum Content {
    /// All of it was there with the head; empty: there is none.
    Whole(Bytes),
    Stream(Box<Stream>),
    Hyper(hyper::body::Incoming),
}

impl Default for Content {
    fn default() -> Self {
        Self::Whole(Bytes::new())
    }
}

#[derive(Debug)]
struct Stream {
    frames: mpsc::Receiver<Result<Frame<Bytes>, BadBody>>,
    taker: Taker,
    /// Still to come, where the head told how much there is.
    left: Option<u64>,
    ended: bool,
}

/// The connection's end of a body.
#[derive(Debug)]
pub struct Feeder {
    frames: mpsc::Sender<Result<Frame<Bytes>, BadBody>>,
    giver: Giver,
    ended: bool,
}

impl Incoming {
    /// A body that is there already.
    pub fn whole(bytes: Bytes) -> Self {
        Self { content: Content::Whole(bytes), upgrade: None }
    }

    /// A body that arrives; `length`: how much of it there is, where the head told.
    pub fn streamed(length: Option<u64>) -> (Feeder, Self) {
        // One frame is wanted at a time; the second place is for an error after it.
        let (send, frames) = mpsc::channel(2);
        let (giver, taker) = want::new();
        let stream = Stream { frames, taker, left: length, ended: false };
        let body = Self { content: Content::Stream(Box::new(stream)), upgrade: None };
        (Feeder { frames: send, giver, ended: false }, body)
    }

    /// A body that hyper reads: over HTTP/2.
    pub fn of_hyper(body: hyper::body::Incoming) -> Self {
        Self { content: Content::Hyper(body), upgrade: None }
    }

    /// The connection can be had once the call was answered with 101.
    pub fn with_upgrade(mut self, upgrade: OnUpgrade) -> Self {
        self.upgrade = Some(Box::new(upgrade));
        self
    }

    /// `None`: the caller did not ask for another protocol.
    pub fn take_upgrade(&mut self) -> Option<OnUpgrade> {
        self.upgrade.take().map(|upgrade| *upgrade)
    }
}

impl Stream {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.ended || self.left == Some(0) {
            return Poll::Ready(None);
        }
        let received = match self.frames.poll_recv(cx) {
            Poll::Ready(received) => received,
            Poll::Pending => {
                // tokio says so as well where the task must yield, though a frame is there: two more would not fit.
                if self.frames.is_empty() {
                    self.taker.want();
                }
                return Poll::Pending;
            }
        };
        match received {
            Some(Ok(frame)) => {
                let size = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.left = self.left.map(|left| left.saturating_sub(size));
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                self.ended = true;
                Poll::Ready(Some(Err(error.into())))
            }
            None => {
                self.ended = true;
                Poll::Ready(None)
            }
        }
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match &mut self.content {
            Content::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Content::Stream(stream) => stream.poll_frame(cx),
            Content::Hyper(body) => Pin::new(body).poll_frame(cx).map_err(Error::from),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.is_empty(),
            Content::Stream(stream) => stream.ended || stream.left == Some(0),
            Content::Hyper(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Stream(stream) => stream.left.map_or_else(SizeHint::new, SizeHint::with_exact),
            Content::Hyper(body) => body.size_hint(),
        }
    }
}

impl Feeder {
    /// Whether the call wants a frame now; `false`: it wants no more, ever.
    pub fn poll_wanted(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        Poll::Ready(ready!(self.giver.poll_want(cx)).is_ok())
    }

    /// Hands over what was wanted.
    pub fn give(&mut self, frame: Frame<Bytes>) {
        self.giver.give();
        // A call that is gone wants nothing.
        let _ = self.frames.try_send(Ok(frame));
    }

    /// All of the body was given.
    pub fn end(mut self) {
        self.ended = true;
    }

    /// The body can't be had to its end.
    pub fn fail(mut self, error: BadBody) {
        self.ended = true;
        let _ = self.frames.try_send(Err(error));
    }
}

impl Drop for Feeder {
    /// A connection that ends takes its body with it: nobody may take a part of it for the whole.
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.frames.try_send(Err(BadBody("the caller's connection ended before it")));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn next(body: &mut Incoming) -> Option<Result<Frame<Bytes>, Error>> {
        poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
    }

    #[tokio::test]
    async fn nothing_is_wanted_before_it_is_asked_for() {
        let (mut feeder, mut body) = Incoming::streamed(Some(3));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(feeder.poll_wanted(&mut cx).is_pending());
        assert!(Pin::new(&mut body).poll_frame(&mut cx).is_pending());
        assert_eq!(feeder.poll_wanted(&mut cx), Poll::Ready(true));
        feeder.give(Frame::data(Bytes::from_static(b"abc")));
        assert!(feeder.poll_wanted(&mut cx).is_pending());
        assert_eq!(body.size_hint().exact(), Some(3));
        assert_eq!(next(&mut body).await.unwrap().unwrap().into_data().unwrap(), "abc");
        assert!(body.is_end_stream());
        drop(feeder);
        assert!(next(&mut body).await.is_none());
    }

    #[tokio::test]
    async fn either_end_may_go() {
        let (mut feeder, body) = Incoming::streamed(None);
        drop(body);
        assert!(!poll_fn(|cx| feeder.poll_wanted(cx)).await);
        let (feeder, mut body) = Incoming::streamed(None);
        feeder.end();
        assert!(next(&mut body).await.is_none());
        let (feeder, mut body) = Incoming::streamed(None);
        drop(feeder);
        assert!(next(&mut body).await.unwrap().is_err());
        let (feeder, mut body) = Incoming::streamed(None);
        feeder.fail(BadBody("it broke"));
        assert_eq!(next(&mut body).await.unwrap().unwrap_err().to_string(), "it broke");
        assert!(next(&mut body).await.is_none());
    }

    /// Its polls are told to wait then, though a frame is there.
    #[tokio::test]
    async fn no_frame_is_lost_where_the_task_must_yield() {
        let (mut feeder, mut body) = Incoming::streamed(None);
        let given = poll_fn(|cx| {
            while tokio::task::coop::has_budget_remaining() {
                let _ = std::pin::pin!(tokio::task::coop::consume_budget()).poll(cx);
            }
            let mut given = 0;
            for _ in 0..5 {
                assert!(Pin::new(&mut body).poll_frame(cx).is_pending());
                if feeder.poll_wanted(cx) == Poll::Ready(true) {
                    feeder.give(Frame::data(Bytes::from_static(b"a")));
                    given += 1;
                }
            }
            Poll::Ready(given)
        })
        .await;
        feeder.end();
        let mut got = 0;
        while let Some(frame) = next(&mut body).await {
            got += frame.unwrap().into_data().unwrap().len();
        }
        assert_eq!(got, given);
    }
}
