//! How much of bodies may wait in memory.
//!
//! Bytes that somebody does not read wait here, whoever sent them. What HTTP/2 peers may have under way to us is bounded by
//! windows ([`Window`]), and what is under way to a peer by an [`Outlet`] for each body. What each may hold gets less the
//! more there are, so that a few are fast and many do not fill the memory. How much is read at a time ([`poll_read`])
//! follows that too, and bounds what one connection does before others have their turn.

mod outlet;
mod window;

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::task::coop::poll_proceed;

pub use outlet::Outlet;
pub use window::Window;

/// What a piece of each body under way comes to, of all bodies together.
const PIECES: usize = 4 * 1024 * 1024;
/// Reading more at a time is not faster.
const LARGEST_PIECE: usize = 128 * 1024;
/// Less than hyper's smallest buffer, so that it does not get larger ones.
const SMALLEST_PIECE: usize = 8 * 1024 - 1;

/// Bodies under way that have more than one frame.
static BODIES: AtomicUsize = AtomicUsize::new(0);

/// What bytes are read as. A peer can make much work of few bytes, such as 7,000 frames of HTTP/2 of 64 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Of HTTP/1, or what may be a body and has brought nothing so far.
    Head,
    Body,
    Http2,
}

/// What is read of a head at a time: hyper goes through all that was read before anybody else has a turn.
const OF_A_HEAD: usize = 8 * 1024;

impl Reading {
    fn most(self) -> usize {
        match self {
            Self::Head => OF_A_HEAD,
            Self::Body | Self::Http2 => usize::MAX,
        }
    }

    /// Bytes for which a task gives up one of the 128 operations that tokio lets it do in one go.
    fn bytes_for_an_operation(self) -> usize {
        match self {
            Self::Head => 64,
            Self::Http2 => 128,
            Self::Body => 512,
        }
    }
}

/// How many bytes of a body are read, or are under way to a peer, at a time.
fn piece() -> usize {
    let bodies = BODIES.load(Ordering::Relaxed).max(1);
    (PIECES / bodies).clamp(SMALLEST_PIECE, LARGEST_PIECE)
}

/// Reads at most a piece. Reading costs the task some of what it may do before others have their turn.
pub fn poll_read<R: AsyncRead>(
    io: Pin<&mut R>,
    cx: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
    reading: Reading,
) -> Poll<io::Result<()>> {
    let before = buffer.filled().len();
    let most = piece().min(reading.most());
    // `Take` does not fill with zeros what it lends, as `initialize_unfilled_to` would: 8 KiB for each head.
    let polled = Pin::new(&mut io.take(most as u64)).poll_read(cx, buffer);
    let read = buffer.filled().len() - before;
    for _ in 0..read / reading.bytes_for_an_operation() {
        match poll_proceed(cx) {
            Poll::Ready(operation) => operation.made_progress(),
            // The task has been told to come again: whatever it asks for next has to wait until then.
            Poll::Pending => break,
        }
    }
    polled
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt;

    use super::*;

    #[test]
    fn the_more_bodies_the_smaller_the_pieces() {
        // Other tests have few.
        assert!(piece() > LARGEST_PIECE / 4);
        BODIES.fetch_add(100_000, Ordering::Relaxed);
        assert_eq!(piece(), SMALLEST_PIECE);
        BODIES.fetch_sub(100_000, Ordering::Relaxed);
    }

    #[tokio::test]
    async fn a_task_that_reads_much_lets_others_have_their_turn() {
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
}
