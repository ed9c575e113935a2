//! Bounds on how much of bodies may wait in memory.
//!
//! Bytes that their recipient does not read wait here, regardless of who sent them. Windows bound what HTTP/2 peers may have
//! in flight to bearerd ([`Window`]), and an [`Outlet`] for each body bounds what is in flight to a peer. The more there are,
//! the less each may hold, so that a few are fast and many do not fill the memory. The size of a read ([`poll_read`]) follows
//! the same rule, and bounds what one connection does before others get their turn.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::Frame;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::task::coop::poll_proceed;

/// The size of the pieces of all bodies in flight together.
const PIECES: usize = 4 * 1024 * 1024;
/// Reading more at a time is not faster.
const LARGEST_PIECE: usize = 128 * 1024;
/// Less than hyper's smallest buffer, so that it does not get larger ones.
const SMALLEST_PIECE: usize = 8 * 1024 - 1;

/// Bodies in flight that have more than one frame.
static BODIES: AtomicUsize = AtomicUsize::new(0);

/// What a read is for. A few bytes may cause much work: 64 KiB may be 7,000 frames of HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// A head of HTTP/1, or what may be a body and has had no effect so far.
    Head,
    Body,
    Http2,
}

/// How much of a head is read at a time. hyper processes all of it before any other connection gets a turn.
const HEAD_PIECE: usize = 8 * 1024;

impl Reading {
    fn most(self) -> usize {
        match self {
            Self::Head => HEAD_PIECE,
            Self::Body | Self::Http2 => usize::MAX,
        }
    }

    /// For this many bytes, a task gives up one of the 128 operations that tokio allows in one turn.
    fn bytes_for_an_operation(self) -> usize {
        match self {
            Self::Head => 64,
            Self::Http2 => 128,
            Self::Body => 512,
        }
    }
}

/// How many bytes of a body are read, or are in flight to a peer, at a time.
fn piece() -> usize {
    let bodies = BODIES.load(Ordering::Relaxed).max(1);
    (PIECES / bodies).clamp(SMALLEST_PIECE, LARGEST_PIECE)
}

/// Reads at most a piece. Reading uses up a part of what the task may do before others get their turn.
pub fn poll_read<R: AsyncRead>(
    io: Pin<&mut R>,
    cx: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
    reading: Reading,
) -> Poll<io::Result<()>> {
    let before = buffer.filled().len();
    let most = piece().min(reading.most());
    // `Take` does not zero the buffer, unlike `initialize_unfilled_to`: 8 KiB for each head.
    let polled = Pin::new(&mut io.take(most as u64)).poll_read(cx, buffer);
    let read = buffer.filled().len() - before;
    for _ in 0..read / reading.bytes_for_an_operation() {
        match poll_proceed(cx) {
            Poll::Ready(operation) => operation.made_progress(),
            // The task will be polled again. Its next operation has to wait until then.
            Poll::Pending => break,
        }
    }
    polled
}

/// Limits what of one body is in flight to a peer that may not read it. There is no room for the next frame while a piece or
/// more has not been written. A body of one frame passes unchanged.
#[derive(Debug, Default)]
pub struct Outlet(Option<Box<OpenOutlet>>);

#[derive(Debug)]
struct OpenOutlet {
    in_flight: Arc<InFlightBytes>,
    waiting: Option<Pin<Box<OwnedNotified>>>,
}

#[derive(Debug, Default)]
struct InFlightBytes {
    bytes: AtomicUsize,
    written: Arc<Notify>,
}

/// Data that has not been written or dropped yet.
struct Lent {
    data: Bytes,
    in_flight: Arc<InFlightBytes>,
}

impl Outlet {
    /// Ready if there is room for a frame. If not, the task is woken when there is.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(open) = &mut self.0 else { return Poll::Ready(()) };
        while open.in_flight.bytes.load(Ordering::Acquire) >= piece() {
            let written = &open.in_flight.written;
            let waiting = open.waiting.get_or_insert_with(|| Box::pin(Arc::clone(written).notified_owned()));
            ready!(waiting.as_mut().poll(cx));
            open.waiting = None;
        }
        Poll::Ready(())
    }

    /// The frame, with its data counted until it is written. More frames follow it.
    pub fn lend(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match frame.into_data() {
            Ok(data) => Frame::data(self.lend_data(data)),
            Err(trailers) => trailers,
        }
    }

    fn lend_data(&mut self, data: Bytes) -> Bytes {
        let open = self.0.get_or_insert_with(OpenOutlet::new);
        open.in_flight.bytes.fetch_add(data.len(), Ordering::Relaxed);
        Bytes::from_owner(Lent { data, in_flight: Arc::clone(&open.in_flight) })
    }
}

impl OpenOutlet {
    fn new() -> Box<Self> {
        BODIES.fetch_add(1, Ordering::Relaxed);
        Box::new(Self { in_flight: Arc::default(), waiting: None })
    }
}

impl Drop for OpenOutlet {
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
        self.in_flight.bytes.fetch_sub(self.data.len(), Ordering::Release);
        self.in_flight.written.notify_one();
    }
}

/// The size of all windows of one side together, besides [`SMALLEST_WINDOW`] for each connection.
const CALLER_BUDGET: u32 = 16 * 1024 * 1024;
const UPSTREAM_BUDGET: u32 = 40 * 1024 * 1024;
/// The smallest window that a connection can have (RFC 9113 section 6.9.2).
const SMALLEST_WINDOW: u32 = 65_535;
/// A connection gets at most this fraction of what is left.
const FRACTION: u32 = 4;
/// This many streams can stall before their connection does.
const STALLED_STREAMS: u32 = 32;
/// Upstreams are far away. With less than this for each stream, a connection takes fewer streams.
const UPSTREAM_STREAM: u32 = 16 * 1024;

static OF_CALLERS: Budget = Budget::new(CALLER_BUDGET);
static OF_UPSTREAMS: Budget = Budget::new(UPSTREAM_BUDGET);

#[derive(Debug)]
struct Budget {
    in_all: u32,
    taken: AtomicU32,
}

/// The window of one connection: what an HTTP/2 peer may have in flight to bearerd (RFC 9113 section 5.2). Dropping it returns
/// it to the budget of its side, callers or upstreams. Windows of streams are so small that a few streams that nobody reads do
/// not stall the others.
#[derive(Debug)]
pub struct Window {
    budget: &'static Budget,
    taken: u32,
    stream: u32,
}

impl Budget {
    const fn new(in_all: u32) -> Self {
        Self { in_all, taken: AtomicU32::new(0) }
    }

    fn window(&'static self, most: u32, smallest_stream: u32) -> Window {
        let mut taken = 0;
        // The closure always returns a value, so the update always happens.
        let _ = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| {
            taken = most.min(self.in_all.saturating_sub(before) / FRACTION);
            Some(before + taken)
        });
        let stream = (taken.max(SMALLEST_WINDOW) / STALLED_STREAMS).max(smallest_stream);
        Window { budget: self, taken, stream }
    }
}

impl Window {
    /// A caller's window: at most `most`, and less if many connections are open.
    pub fn of_caller(most: u32) -> Self {
        OF_CALLERS.window(most, 0)
    }

    /// The same for an upstream.
    pub fn of_upstream(most: u32) -> Self {
        OF_UPSTREAMS.window(most, UPSTREAM_STREAM)
    }

    pub fn connection(&self) -> u32 {
        self.taken.max(SMALLEST_WINDOW)
    }

    pub fn stream(&self) -> u32 {
        self.stream
    }

    /// How many streams can be open without their windows exceeding the connection's.
    pub fn streams(&self) -> usize {
        usize::try_from((self.connection() / self.stream).max(1)).unwrap_or(usize::MAX)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt;

    use super::{LARGEST_PIECE, *};

    #[test]
    fn the_more_bodies_the_smaller_the_pieces() {
        // Other tests have few.
        assert!(piece() > LARGEST_PIECE / 4);
        BODIES.fetch_add(100_000, Ordering::Relaxed);
        assert_eq!(piece(), SMALLEST_PIECE);
        BODIES.fetch_sub(100_000, Ordering::Relaxed);
    }

    #[tokio::test]
    async fn a_task_that_reads_much_lets_others_take_a_turn() {
        let (mut writer, mut reader) = tokio::io::duplex(16 << 20);
        writer.write_all(&vec![0; 16 << 20]).await.unwrap();
        let mut space = vec![0; 1 << 20];
        let mut once = async || {
            let mut buffer = ReadBuf::new(&mut space);
            let mut reads = 0;
            poll_fn(|cx| {
                while buffer.remaining() > 0 {
                    if poll_read(Pin::new(&mut reader), cx, &mut buffer, Reading::Body).is_pending() {
                        break;
                    }
                    reads += 1;
                }
                Poll::Ready(())
            })
            .await;
            (reads, buffer.filled().len())
        };
        // What was read before in this turn counts too.
        tokio::task::yield_now().await;
        let (reads, read) = once().await;
        assert!(reads <= 2 && read <= 2 * LARGEST_PIECE, "{reads} reads, {read} bytes");
        tokio::task::yield_now().await;
        assert!(once().await.1 > 0, "it goes on in its next turn");
    }

    fn data() -> Bytes {
        Bytes::from(vec![b'x'; LARGEST_PIECE])
    }

    #[tokio::test]
    async fn a_frame_waits_until_the_previous_one_was_written() {
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

    const MIB: u32 = 1024 * 1024;

    #[test]
    fn many_connections_share_the_budget_and_each_has_a_window() {
        static BUDGET: Budget = Budget::new(16 * MIB);
        let windows: Vec<Window> = (0..1000).map(|_| BUDGET.window(4 * MIB, 0)).collect();
        assert!(BUDGET.taken.load(Ordering::Relaxed) <= 16 * MIB);
        assert!(windows.iter().all(|window| window.connection() >= SMALLEST_WINDOW));
        assert!(windows.iter().all(|window| window.stream() > 2000));
        drop(windows);
        assert_eq!(BUDGET.taken.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn streams_do_not_use_up_their_connections_window() {
        static BUDGET: Budget = Budget::new(16 * MIB);
        for smallest_stream in [0, UPSTREAM_STREAM] {
            let windows: Vec<Window> = (0..100).map(|_| BUDGET.window(4 * MIB, smallest_stream)).collect();
            for window in &windows {
                let streams = u32::try_from(window.streams()).unwrap();
                assert!(streams * window.stream() <= window.connection(), "{window:?}");
            }
            assert_eq!(windows[0].streams(), 32);
        }
    }

    #[test]
    fn callers_do_not_use_up_the_upstreams_windows() {
        let callers: Vec<Window> = (0..100).map(|_| Window::of_caller(u32::MAX)).collect();
        assert!(Window::of_upstream(MIB).connection() == MIB);
        drop(callers);
    }
}
