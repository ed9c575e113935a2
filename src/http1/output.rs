//! What is to be written to a connection.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

/// A piece below this is copied behind the head: one write of one buffer costs less than one of two.
const COPIED: usize = 4 * 1024;
/// Pieces that go out in one write.
const PIECES: usize = 16;

/// What a buffer for heads starts with, so that it does not grow line by line.
const HEAD: usize = 1024;
/// A larger one is not kept for the next head.
const MOST_SPARE: usize = 16 * 1024;
const SPARES: usize = 64;

thread_local! {
    /// Buffers of connections that have nothing to write, for the next one of this thread that has.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes that wait to be written. Small ones are gathered, large ones are passed on without a copy.
#[derive(Default)]
pub struct Output {
    /// Whole pieces, before `tail`.
    pieces: VecDeque<Bytes>,
    tail: Vec<u8>,
    /// Of `tail`.
    written: usize,
    /// Something was written since the last flush: TLS may hold on to it.
    unflushed: bool,
}

impl fmt::Debug for Output {
    /// Without the bytes: a head among them carries the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("len", &self.len()).field("unflushed", &self.unflushed).finish()
    }
}

impl Output {
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.written == self.tail.len()
    }

    /// Everything is written, and nothing is held back.
    pub fn is_flushed(&self) -> bool {
        self.is_empty() && !self.unflushed
    }

    /// Bytes that are not written yet.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum::<usize>() + self.tail.len() - self.written
    }

    /// For heads and what frames bodies.
    pub fn tail(&mut self) -> &mut Vec<u8> {
        if self.tail.capacity() == 0 {
            self.tail = SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(HEAD));
        }
        &mut self.tail
    }

    pub fn push(&mut self, bytes: Bytes) {
        if bytes.len() < COPIED {
            self.tail().extend_from_slice(&bytes);
            return;
        }
        if !self.tail.is_empty() {
            let mut before = Bytes::from(std::mem::take(&mut self.tail));
            before.advance(std::mem::take(&mut self.written));
            self.pieces.push_back(before);
        }
        self.pieces.push_back(bytes);
    }

    /// Gives the memory back; for a connection that is going to wait.
    pub fn rest(&mut self) {
        if self.is_flushed() && self.tail.capacity() > 0 {
            let spare = std::mem::take(self).tail;
            SPARE.with_borrow_mut(|spares| {
                if spare.capacity() <= MOST_SPARE && spares.len() < SPARES {
                    spares.push(spare);
                }
            });
        }
    }

    /// Writes and flushes all of it.
    ///
    /// # Errors
    /// The connection's.
    pub fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let size = if self.pieces.is_empty() {
                let rest = self.tail.get(self.written..).unwrap_or_default();
                ready!(Pin::new(&mut *io).poll_write(cx, rest))?
            } else {
                ready!(self.poll_write_pieces(io, cx))?
            };
            if size == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.advance(size);
        }
        if self.unflushed {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_pieces<S: AsyncWrite + Unpin>(
        &self,
        io: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let io = Pin::new(io);
        if !io.is_write_vectored() {
            return io.poll_write(cx, self.pieces.front().map_or(&[], |piece| piece));
        }
        let mut slices = [IoSlice::new(&[]); PIECES];
        let tail = self.tail.get(self.written..).unwrap_or_default();
        let all = self.pieces.iter().map(|piece| &**piece).chain([tail]);
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(all) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        io.poll_write_vectored(cx, slices.get(..count).unwrap_or_default())
    }

    fn advance(&mut self, mut size: usize) {
        while size > 0
            && let Some(piece) = self.pieces.front_mut()
        {
            let part = size.min(piece.len());
            piece.advance(part);
            size -= part;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
        self.written += size;
        if self.written >= self.tail.len() {
            self.tail.clear();
            self.written = 0;
        } else if self.written > self.tail.len() / 2 {
            // Else it would never end where each write leaves something.
            self.tail.drain(..self.written);
            self.written = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// Takes a few bytes at a time.
    struct Narrow {
        taken: Vec<u8>,
        step: usize,
        vectored: bool,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let size = buf.len().min(self.step);
            self.taken.extend_from_slice(&buf[..size]);
            Poll::Ready(Ok(size))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).take(self.step).collect();
            self.taken.extend_from_slice(&all);
            Poll::Ready(Ok(all.len()))
        }

        fn is_write_vectored(&self) -> bool {
            self.vectored
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn what_is_to_be_written_is_not_told() {
        let mut output = Output::default();
        output.push(Bytes::from_static(b"authorization: Bearer secret"));
        output.push(Bytes::from(vec![b'x'; COPIED]));
        assert_eq!(format!("{output:?}"), "Output { len: 4124, unflushed: false }");
    }

    #[tokio::test]
    async fn all_goes_out_in_order() {
        let large: Vec<u8> = (0..COPIED).map(|at| u8::try_from(at % 251).unwrap()).collect();
        for vectored in [true, false] {
            for step in [1, 7, 4096, 100_000] {
                let mut io = Narrow { taken: Vec::new(), step, vectored };
                let (mut output, mut expected) = (Output::default(), Vec::new());
                for round in 0..40_u8 {
                    output.tail().extend_from_slice(&[round; 3]);
                    output.push(Bytes::copy_from_slice(&large));
                    output.push(Bytes::from_static(b"small"));
                    expected.extend_from_slice(&[round; 3]);
                    expected.extend_from_slice(&large);
                    expected.extend_from_slice(b"small");
                    if round % 20 == 19 {
                        poll_fn(|cx| output.poll_write(&mut io, cx)).await.unwrap();
                        assert!(output.is_empty());
                    }
                }
                assert_eq!(io.taken, expected, "{vectored} {step}");
            }
        }
    }

    /// Takes some bytes, then none until it is asked again.
    struct Slow {
        taken: Vec<u8>,
        rests: bool,
    }

    impl AsyncWrite for Slow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.rests = !self.rests;
            if !self.rests {
                return Poll::Pending;
            }
            let size = buf.len().min(1000);
            self.taken.extend_from_slice(&buf[..size]);
            Poll::Ready(Ok(size))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn what_is_written_does_not_stay() {
        let mut io = Slow { taken: Vec::new(), rests: false };
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let (mut output, mut expected) = (Output::default(), Vec::new());
        output.tail().extend_from_slice(&[b'x'; 8000]);
        expected.extend_from_slice(&[b'x'; 8000]);
        for round in 0..200_u8 {
            output.push(Bytes::from(vec![round; 1000]));
            expected.extend_from_slice(&[round; 1000]);
            assert!(output.poll_write(&mut io, &mut cx).is_pending());
        }
        assert_eq!(output.len(), 8000);
        assert!(output.tail.capacity() <= 64 * 1024, "{}", output.tail.capacity());
        while output.poll_write(&mut io, &mut cx).is_pending() {}
        assert!(io.taken == expected);
    }
}
