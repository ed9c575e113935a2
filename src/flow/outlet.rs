//! What of one body is under way to a peer that may not read it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::Frame;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use super::{BODIES, piece};

/// Lets a body's frames out one after the other: there is no room for the next one while a piece or more has not been
/// written. A body of one frame passes as it is.
#[derive(Debug, Default)]
pub struct Outlet(Option<Box<Open>>);

#[derive(Debug)]
struct Open {
    under_way: Arc<UnderWay>,
    waiting: Option<Pin<Box<OwnedNotified>>>,
}

#[derive(Debug, Default)]
struct UnderWay {
    bytes: AtomicUsize,
    written: Arc<Notify>,
}

/// Data until it was written, or thrown away.
struct Lent {
    data: Bytes,
    under_way: Arc<UnderWay>,
}

impl Outlet {
    /// Whether there is room for a frame; where there is none, the task is woken when there is.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(open) = &mut self.0 else { return Poll::Ready(()) };
        while open.under_way.bytes.load(Ordering::Acquire) >= piece() {
            let written = &open.under_way.written;
            let waiting = open.waiting.get_or_insert_with(|| Box::pin(Arc::clone(written).notified_owned()));
            ready!(waiting.as_mut().poll(cx));
            open.waiting = None;
        }
        Poll::Ready(())
    }

    /// The frame, its data counted until it was written; more frames follow.
    pub fn lend(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match frame.into_data() {
            Ok(data) => Frame::data(self.lend_data(data)),
            Err(trailers) => trailers,
        }
    }

    fn lend_data(&mut self, data: Bytes) -> Bytes {
        let open = self.0.get_or_insert_with(Open::new);
        open.under_way.bytes.fetch_add(data.len(), Ordering::Relaxed);
        Bytes::from_owner(Lent { data, under_way: Arc::clone(&open.under_way) })
    }
}

impl Open {
    fn new() -> Box<Self> {
        BODIES.fetch_add(1, Ordering::Relaxed);
        Box::new(Self { under_way: Arc::default(), waiting: None })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        BODIES.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.under_way.bytes.fetch_sub(self.data.len(), Ordering::Release);
        self.under_way.written.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::flow::LARGEST_PIECE;

    fn data() -> Bytes {
        Bytes::from(vec![b'x'; LARGEST_PIECE])
    }

    #[tokio::test]
    async fn a_frame_waits_until_the_one_before_was_written() {
        let mut outlet = Outlet::default();
        poll_fn(|cx| outlet.poll_room(cx)).await;
        let first = outlet.lend_data(data());
        let part = first.slice(7..);
        let pending = |outlet: &mut Outlet| {
            outlet.poll_room(&mut Context::from_waker(std::task::Waker::noop())).is_pending()
        };
        assert!(pending(&mut outlet));
        drop(first);
        assert!(pending(&mut outlet), "a part of it is left");
        let writer = tokio::spawn(async move { drop(part) });
        poll_fn(|cx| outlet.poll_room(cx)).await;
        writer.await.unwrap();
        assert_eq!(outlet.lend_data(data()), data());
        assert!(!pending(&mut outlet), "it was thrown away");
    }
}
