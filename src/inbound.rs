//! A caller's side of a request: what its connection is doing, and the body that it sends.

use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::idle::Headway;

/// How much of an unwanted body is read and discarded, so that its sender can read the response. Many clients send a complete
/// body before they read.
#[derive(Debug, Clone, Copy)]
pub struct Discard {
    pub bytes: u64,
    pub time: Duration,
    /// A sender that sends nothing for this long has stopped or waits for the response.
    pub pause: Duration,
}

/// Over HTTP/1, nothing tells a caller in the middle of its body that it may stop.
const DISCARD_HTTP1: Discard =
    Discard { bytes: 1024 * 1024 * 1024, time: Duration::from_secs(120), pause: Duration::from_secs(10) };
/// Over HTTP/2, a reset tells the caller. But some clients take even a reset without error for the loss of the response.
const DISCARD_HTTP2: Discard =
    Discard { bytes: 64 * 1024 * 1024, time: Duration::from_secs(30), pause: Duration::from_secs(1) };

/// The rest of a body that is worth reading to keep a connection. If more is left, the response says `Connection: close`, and
/// a client that reads it stops sending.
const WORTH_READING: u64 = 64 * 1024;

/// [`Activity::unread`]: the body was never requested, and the connection cannot be kept without it.
const NEVER_READ: u64 = u64::MAX;
/// [`Activity::unread`]: nobody knows how much will come.
const UNKNOWN: u64 = u64::MAX - 1;

/// How long bearerd's own response may wait for its caller, in ms.
pub const OWN_STALL_MS: u64 = 10_000;

/// The responses of one kind, and how many of them wait for their caller. Over HTTP/2, no write shows this.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// Responses that have not ended.
    pub open: AtomicU32,
    /// Responses whose next frame waits for the caller to take the previous one.
    pub held: AtomicU32,
    /// Frames that the caller has taken.
    pub taken: AtomicU64,
}

/// What a caller's connection is doing, so that the listener can close one that is stuck.
#[derive(Debug)]
pub struct Activity {
    pub born: Instant,
    /// Requests that began on this connection.
    pub requests: AtomicU64,
    /// The upstreams' responses.
    pub passed: Outgoing,
    /// bearerd's own responses.
    pub own: Outgoing,
    /// How long a write to the caller may stall, in ms: [`OWN_STALL_MS`], or the route's `idle_timeout` (0: no limit).
    pub write_stall_ms: AtomicU64,
    in_flight: AtomicU32,
    /// When the last body or response in flight ended: ms from `born`.
    ended: AtomicU64,
    /// Over HTTP/1: how many bytes of the request's body are still to come, [`UNKNOWN`], or [`NEVER_READ`].
    unread: AtomicU64,
    /// The headway of a request's body over HTTP/1.
    pub headway: Headway,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            born: Instant::now(),
            requests: AtomicU64::new(0),
            passed: Outgoing::default(),
            own: Outgoing::default(),
            write_stall_ms: AtomicU64::new(OWN_STALL_MS),
            in_flight: AtomicU32::new(0),
            ended: AtomicU64::new(0),
            unread: AtomicU64::new(0),
            headway: Headway::default(),
        }
    }
}

impl Activity {
    /// Whether a body or a response has not ended yet, including an upgraded connection.
    pub fn is_busy(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0
    }

    /// When the connection was last busy, or when it began.
    pub fn last_busy(&self) -> Instant {
        self.born + Duration::from_millis(self.ended.load(Ordering::Relaxed))
    }

    /// A response begins that may wait for its caller for `limit_ms`. Over HTTP/2, the longest limit of all open responses
    /// applies to the socket that they share.
    pub fn respond_within(&self, limit_ms: u64) {
        let others = self.passed.open.load(Ordering::Relaxed) > 0;
        let before = self.write_stall_ms.load(Ordering::Relaxed);
        // 0 is the longest limit.
        let limit =
            if others && before.wrapping_sub(1) > limit_ms.wrapping_sub(1) { before } else { limit_ms };
        if limit != before {
            self.write_stall_ms.store(limit, Ordering::Relaxed);
        }
    }

    /// Milliseconds since the connection began.
    pub fn elapsed_ms(&self) -> u64 {
        self.born.elapsed().as_millis().try_into().unwrap_or(u64::MAX)
    }

    /// Over HTTP/1: whether a part of the request's body is still to come.
    pub fn has_unread(&self) -> bool {
        self.is_busy() && self.unread.load(Ordering::Relaxed) > 0
    }

    /// Over HTTP/1: whether the connection must end with a response because of the rest of the request's body. `refused`: the
    /// response says that the body is not wanted.
    pub fn ends_with_response(&self, refused: bool) -> bool {
        let unread = self.unread.load(Ordering::Relaxed);
        unread == NEVER_READ || (refused && unread > WORTH_READING)
    }
}

/// A body or a response in flight on a connection, until it is dropped.
#[derive(Debug)]
pub struct InFlight(Arc<Activity>);

impl InFlight {
    pub fn new(activity: &Arc<Activity>) -> Self {
        activity.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.ended.store(self.0.elapsed_ms(), Ordering::Relaxed);
        }
    }
}

/// A connection inside a connection, such as a CONNECT, until it is dropped. Its own limits apply, so the outer connection
/// has none meanwhile.
#[derive(Debug)]
pub struct Tunneled(InFlight);

impl Tunneled {
    pub fn new(outer: &Arc<Activity>) -> Self {
        outer.respond_within(0);
        outer.passed.open.fetch_add(1, Ordering::Relaxed);
        Self(InFlight::new(outer))
    }
}

impl Drop for Tunneled {
    fn drop(&mut self) {
        self.0.0.passed.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a caller's body did not come to its end.
#[derive(Debug, Clone)]
pub enum CallerBodyError {
    /// The caller left, or took its request back.
    Left,
    /// The caller sent nothing for longer than it may.
    Stalled,
    /// The framing or the trailers are malformed: what is wrong, in the parser's fixed words.
    Malformed(String),
}

impl CallerBodyError {
    fn of(error: &hyper::Error) -> Self {
        let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
        match cause {
            Some(cause)
                if matches!(cause.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) =>
            {
                Self::Malformed(cause.to_string())
            }
            _ => Self::Left,
        }
    }
}

impl fmt::Display for CallerBodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Left => f.write_str("the caller left in the middle of its request body"),
            Self::Stalled => f.write_str("the caller stopped in the middle of its request body"),
            Self::Malformed(what) => write!(f, "the request body is malformed ({what})"),
        }
    }
}

impl Error for CallerBodyError {}

/// The body of a caller's request.
///
/// Its connection counts as busy until the body has ended. If it is dropped before, the rest is read and discarded within
/// bounds, so that the caller can read an early response (RFC 9112 section 9.6).
#[derive(Debug, Default)]
pub struct CallerBody(Option<Box<Arriving>>);

#[derive(Debug)]
struct Arriving {
    incoming: Incoming,
    in_flight: InFlight,
    http1: bool,
    /// `Expect: 100-continue`, and the body was not polled yet.
    expects_continue: bool,
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.in_flight.0.headway.unlimited();
    }
}

impl CallerBody {
    /// `expects_continue`: the caller waits for 100 (Continue), which is sent when the body is polled.
    pub fn new(incoming: Incoming, activity: &Arc<Activity>, http1: bool, expects_continue: bool) -> Self {
        if incoming.is_end_stream() {
            activity.unread.store(0, Ordering::Relaxed);
            return Self(None);
        }
        let in_flight = InFlight::new(activity);
        let arriving = Arriving { incoming, in_flight, http1, expects_continue };
        arriving.note_unread();
        Self(Some(Box::new(arriving)))
    }
}

impl Body for CallerBody {
    type Data = Bytes;
    type Error = CallerBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CallerBodyError>>> {
        let Some(arriving) = &mut self.0 else { return Poll::Ready(None) };
        let polled = arriving.poll_frame(cx);
        let ended = match &polled {
            Poll::Ready(Some(Ok(frame))) => frame.is_trailers() || arriving.incoming.is_end_stream(),
            Poll::Ready(None) => true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => false,
        };
        if ended {
            arriving.note(0);
            self.0 = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |arriving| arriving.incoming.size_hint())
    }
}

impl Drop for CallerBody {
    fn drop(&mut self) {
        if let Some(arriving) = self.0.take() {
            arriving.discard();
        }
    }
}

impl Arriving {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CallerBodyError>>> {
        let first = std::mem::take(&mut self.expects_continue);
        let polled = match Pin::new(&mut self.incoming).poll_frame(cx) {
            // For hyper, a reset without error ends the body. Only END_STREAM says that it is whole.
            Poll::Ready(None) if !self.http1 && !self.incoming.is_end_stream() => {
                Poll::Ready(Some(Err(CallerBodyError::Left)))
            }
            polled => polled.map_err(|error| CallerBodyError::of(&error)),
        };
        if first || matches!(polled, Poll::Ready(Some(Ok(_)))) {
            self.note_unread();
        }
        if self.http1 && matches!(polled, Poll::Ready(Some(Err(_)))) {
            self.in_flight.0.headway.lost();
        }
        polled
    }

    fn note_unread(&self) {
        self.note(match self.incoming.size_hint().exact() {
            Some(left) if !self.expects_continue => left,
            Some(_) | None => UNKNOWN,
        });
    }

    fn note(&self, unread: u64) {
        if self.http1 {
            self.in_flight.0.unread.store(unread, Ordering::Relaxed);
        }
        self.note_headway();
    }

    /// Over HTTP/2, other requests share the connection, so what is read says nothing about the progress of this one.
    fn note_headway(&self) {
        if self.http1 {
            self.in_flight.0.headway.made();
        }
    }

    /// A caller whose body was never requested may have decided not to send it. Over HTTP/2, a reset without error finally says
    /// that the rest is not wanted (RFC 9113 section 8.1).
    fn discard(self: Box<Self>) {
        if self.expects_continue {
            self.note(NEVER_READ);
        } else if let Ok(runtime) = Handle::try_current() {
            let little = self.incoming.size_hint().exact().is_some_and(|left| left <= WORTH_READING);
            let bounds = if self.http1 || little { DISCARD_HTTP1 } else { DISCARD_HTTP2 };
            runtime.spawn(self.read_on(bounds));
        }
    }

    async fn read_on(mut self: Box<Self>, bounds: Discard) {
        let end = Instant::now() + bounds.time;
        let mut read = 0;
        while read < bounds.bytes {
            let until = end.min(Instant::now() + bounds.pause);
            match tokio::time::timeout_at(until, self.incoming.frame()).await {
                Ok(Some(Ok(frame))) => {
                    read += frame.data_ref().map_or(0, |data| data.len() as u64);
                    self.note_headway();
                }
                Ok(None) => return self.note(0),
                Ok(Some(Err(_))) | Err(_) => return,
            }
        }
    }
}
