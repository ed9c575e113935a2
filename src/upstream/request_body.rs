//! The caller's body on its way up: forwarded as it arrives, and kept beside up to a limit, never held back.
//!
//! When a connection is done with a body, or breaks under it, the body comes back to its request: the frames that were kept,
//! and what the caller has not sent yet. So a request can be sent once more.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

use super::error::CallerBroke;
use super::trailers::TrailerRules;
use crate::flow::Outlet;
use crate::idle::Idle;
use crate::inbound::CallerBody;

/// Bytes that all kept bodies of the process may hold together; a request past it is forwarded and not kept.
const KEPT_IN_ALL: usize = 32 * 1024 * 1024;

/// Chunks below this are copied together, so that a kept body does not hold on to many large read buffers.
const SMALL_CHUNK: usize = 1024;

static KEPT: AtomicUsize = AtomicUsize::new(0);

type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// How far a body has got; shared with the request that waits for the response.
#[derive(Debug, Default)]
struct Progress {
    /// Frames that were handed to the connection.
    moved: AtomicU64,
    /// The connection wants more, and the caller has not sent it.
    awaiting_caller: AtomicBool,
    /// Frames of the response's body that came back meanwhile.
    answered: AtomicU64,
}

/// A body that came back.
#[derive(Debug)]
struct Returned {
    kept: Option<Kept>,
    rest: Option<CallerBody>,
    trailers: TrailerRules,
}

/// The request's end of a body that is on its way.
#[derive(Debug)]
pub(super) struct Link {
    progress: Arc<Progress>,
    coming: oneshot::Receiver<Returned>,
    /// It has come back.
    returned: Option<Box<Returned>>,
    /// [`Progress::moved`] when it was last looked at.
    seen: u64,
}

/// See the module. Boxed where there is a body, for it is moved several times, and most calls have none.
#[derive(Debug)]
pub struct RequestBody(Option<Box<Upload>>);

#[derive(Debug)]
struct Upload {
    replay: VecDeque<Bytes>,
    replay_trailers: Option<HeaderMap>,
    /// `None`: the caller's body is at its end, or there was none.
    incoming: Option<CallerBody>,
    /// Nothing went up yet that is not kept.
    kept: Option<Kept>,
    idle: Idle,
    outlet: Outlet,
    trailers: TrailerRules,
    upward: Option<Upward>,
}

#[derive(Debug)]
struct Upward {
    progress: Arc<Progress>,
    /// [`Progress::answered`] when it was last looked at.
    answered: u64,
    returned: oneshot::Sender<Returned>,
}

impl RequestBody {
    /// `keep`: bytes that may be kept for a replay. `idle`: how long the caller may send nothing. `trailers`: which of
    /// them go up.
    pub fn new(
        incoming: CallerBody,
        keep: usize,
        idle: Option<Duration>,
        trailers: impl FnOnce() -> TrailerRules,
    ) -> Self {
        if incoming.is_end_stream() {
            return Self::empty();
        }
        Self(Some(Box::new(Upload {
            replay: VecDeque::new(),
            replay_trailers: None,
            incoming: Some(incoming),
            kept: Some(Kept::new(keep)),
            idle: Idle::new(idle),
            outlet: Outlet::default(),
            trailers: trailers(),
            upward: None,
        })))
    }

    pub fn empty() -> Self {
        Self(None)
    }

    /// Ties the body to the connection's task that sends it; `None` where there is no body to tie.
    pub(super) fn link(&mut self) -> Option<Link> {
        let upload = self.0.as_mut().filter(|upload| !upload.is_end_stream())?;
        let progress = Arc::new(Progress::default());
        let (send, coming) = oneshot::channel();
        upload.upward = Some(Upward { progress: Arc::clone(&progress), answered: 0, returned: send });
        Some(Link { progress, coming, returned: None, seen: 0 })
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Some(upload) => upload.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|upload| upload.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |upload| upload.size_hint())
    }
}

impl Upload {
    fn next_replayed(&mut self) -> Option<Frame<Bytes>> {
        if let Some(chunk) = self.replay.pop_front() {
            return Some(Frame::data(chunk));
        }
        self.replay_trailers.take().map(Frame::trailers)
    }

    fn poll_caller(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        match Pin::new(&mut *incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.idle.moved();
                let ended = incoming.is_end_stream();
                let mut frame = self.trailers.apply(frame);
                if let Some(kept) = &mut self.kept {
                    kept.add(&frame);
                }
                if !ended {
                    frame = self.outlet.lend(frame);
                }
                if frame.is_trailers() {
                    // Nothing follows them, and nobody asks for more.
                    self.incoming = None;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(Box::new(CallerBroke)))),
            Poll::Ready(None) => {
                self.incoming = None;
                Poll::Ready(None)
            }
            Poll::Pending if self.stuck(cx) => Poll::Ready(Some(Err(Box::new(CallerBroke)))),
            Poll::Pending => Poll::Pending,
        }
    }

    /// The caller may well rest while the response moves: the request as a whole is not idle.
    fn stuck(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(upward) = &mut self.upward {
            let answered = upward.progress.answered.load(Ordering::Relaxed);
            if std::mem::replace(&mut upward.answered, answered) != answered {
                self.idle.moved();
            }
        }
        self.idle.expired(cx)
    }

    fn note(&self, polled: &Poll<Option<Result<Frame<Bytes>, BodyError>>>) {
        let Some(upward) = &self.upward else { return };
        match polled {
            Poll::Ready(_) => {
                upward.progress.moved.fetch_add(1, Ordering::Relaxed);
                upward.progress.awaiting_caller.store(false, Ordering::Relaxed);
            }
            Poll::Pending => upward.progress.awaiting_caller.store(true, Ordering::Relaxed),
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = match self.next_replayed() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => {
                // Where there is none, it is not the caller who is waited for.
                ready!(self.outlet.poll_room(cx));
                self.poll_caller(cx)
            }
        };
        self.note(&polled);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.replay.is_empty()
            && self.replay_trailers.is_none()
            && self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let replayed: u64 = self.replay.iter().map(|chunk| chunk.len() as u64).sum();
        let rest = self.incoming.as_ref().map(Body::size_hint).unwrap_or_else(|| SizeHint::with_exact(0));
        let mut hint = SizeHint::new();
        hint.set_lower(replayed.saturating_add(rest.lower()));
        // An exact size is framed by Content-Length, which leaves no place for trailers.
        if let (Some(upper), None) = (rest.upper(), &self.replay_trailers) {
            hint.set_upper(replayed.saturating_add(upper));
        }
        hint
    }
}

impl Upload {
    fn give_up(&mut self) -> Returned {
        Returned { kept: self.kept.take(), rest: self.incoming.take(), trailers: self.trailers.clone() }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(upward) = self.upward.take() else { return };
        // The request may be over already; then nobody wants it.
        let _ = upward.returned.send(self.give_up());
    }
}

impl Link {
    /// Ready once the body was sent to its end or was dropped.
    pub(super) fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.coming.is_terminated() {
            self.returned = ready!(Pin::new(&mut self.coming).poll(cx)).ok().map(Box::new);
        }
        Poll::Ready(())
    }

    /// [`Self::poll_sent`] without waiting.
    pub(super) fn is_sent(&mut self) -> bool {
        self.poll_sent(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Whether the body has moved since this was last asked.
    pub(super) fn has_moved(&mut self) -> bool {
        let moved = self.progress.moved.load(Ordering::Relaxed);
        std::mem::replace(&mut self.seen, moved) != moved
    }

    /// The connection wants more, and the caller has not sent it.
    pub(super) fn awaits_caller(&self) -> bool {
        self.progress.awaiting_caller.load(Ordering::Relaxed)
    }

    /// A part of the response's body has come.
    pub(super) fn note_answered(&self) {
        self.progress.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// The body once more, where it has come back and what was sent of it was kept.
    pub(super) fn again(&mut self, idle: Option<Duration>) -> Option<RequestBody> {
        self.returned.take()?.again(idle)
    }

    /// The same, where it was sent to its end.
    pub(super) fn again_whole(&mut self, idle: Option<Duration>) -> Option<RequestBody> {
        if !self.is_sent() || !self.returned.as_ref()?.is_kept_whole() {
            return None;
        }
        self.again(idle)
    }
}

impl Returned {
    /// It was sent to its end, and all of it is kept.
    fn is_kept_whole(&self) -> bool {
        let finished = self.rest.as_ref().is_none_or(Body::is_end_stream);
        finished && self.kept.as_ref().is_some_and(|kept| !kept.overflowed)
    }

    /// The whole body once more, or `None` where what was sent was not kept.
    fn again(self, idle: Option<Duration>) -> Option<RequestBody> {
        let mut kept = self.kept?;
        let (replay, replay_trailers) = kept.again()?;
        Some(RequestBody(Some(Box::new(Upload {
            replay,
            replay_trailers,
            incoming: self.rest,
            kept: Some(kept),
            idle: Idle::new(idle),
            outlet: Outlet::default(),
            trailers: self.trailers,
            upward: None,
        }))))
    }
}

/// What was sent, as long as it fits.
#[derive(Debug)]
struct Kept {
    frames: Vec<Bytes>,
    small: BytesMut,
    trailers: Option<HeaderMap>,
    size: usize,
    limit: usize,
    overflowed: bool,
}

impl Kept {
    fn new(limit: usize) -> Self {
        Self { frames: Vec::new(), small: BytesMut::new(), trailers: None, size: 0, limit, overflowed: false }
    }

    fn add(&mut self, frame: &Frame<Bytes>) {
        if self.overflowed {
            return;
        }
        if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
            return;
        }
        let Some(data) = frame.data_ref() else { return };
        if self.size + data.len() > self.limit || !reserve(data.len()) {
            self.overflowed = true;
            self.forget();
            return;
        }
        self.size += data.len();
        if data.len() < SMALL_CHUNK {
            self.small.extend_from_slice(data);
        } else {
            self.flush_small();
            self.frames.push(data.clone());
        }
    }

    fn flush_small(&mut self) {
        if !self.small.is_empty() {
            self.frames.push(self.small.split().freeze());
        }
    }

    fn forget(&mut self) {
        KEPT.fetch_sub(self.size, Ordering::Relaxed);
        self.size = 0;
        self.frames = Vec::new();
        self.small = BytesMut::new();
    }

    fn again(&mut self) -> Option<(VecDeque<Bytes>, Option<HeaderMap>)> {
        if self.overflowed {
            return None;
        }
        self.flush_small();
        Some((self.frames.iter().cloned().collect(), self.trailers.clone()))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.forget();
    }
}

/// Takes from what all kept bodies may hold.
fn reserve(bytes: usize) -> bool {
    let before = KEPT.fetch_add(bytes, Ordering::Relaxed);
    if before.saturating_add(bytes) > KEPT_IN_ALL {
        KEPT.fetch_sub(bytes, Ordering::Relaxed);
        return false;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(text: &'static str) -> Frame<Bytes> {
        Frame::data(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn keeps_up_to_the_limit_and_no_more() {
        let mut kept = Kept::new(4);
        kept.add(&data("ab"));
        kept.add(&data("cd"));
        let (frames, _) = kept.again().unwrap();
        assert_eq!(frames.into_iter().collect::<Vec<_>>(), ["abcd"]);
        kept.add(&data("e"));
        assert!(kept.again().is_none());
    }

    #[test]
    fn a_limit_of_nothing_keeps_only_what_was_not_sent() {
        let mut kept = Kept::new(0);
        assert!(kept.again().is_some());
        kept.add(&data("a"));
        assert!(kept.again().is_none());
    }

    #[test]
    fn order_survives_small_and_large_chunks() {
        let mut kept = Kept::new(10_000);
        let large = Bytes::from(vec![b'x'; SMALL_CHUNK]);
        kept.add(&data("a"));
        kept.add(&data("b"));
        kept.add(&Frame::data(large.clone()));
        kept.add(&data("c"));
        let (frames, _) = kept.again().unwrap();
        assert_eq!(frames.into_iter().collect::<Vec<_>>(), [Bytes::from("ab"), large, Bytes::from("c")]);
    }
}
