//! The way out to a caller. One that does not take its response is noted, and given up after a while.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWrite;

use super::room::Progress;
use crate::idle::Idle;
use crate::inbound::OWN_STALL_MS;

pub(super) struct Outward<W> {
    io: W,
    progress: Progress,
    stall: Idle,
}

impl<W: AsyncWrite + Unpin> Outward<W> {
    pub(super) fn new(io: W, progress: Progress) -> Self {
        Self { io, progress, stall: Idle::new(Some(Duration::from_millis(OWN_STALL_MS))) }
    }

    pub(super) fn into_inner(self) -> W {
        self.io
    }

    fn judge<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.progress.waits_for_reader(polled.is_pending());
        if polled.is_ready() {
            self.stall.moved();
            return polled;
        }
        if self.stall.expired(cx) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the caller stopped reading")));
        }
        Poll::Pending
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Outward<W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.judge(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.judge(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_given_up_and_who_takes_little_is_not() {
        let (io, mut caller) = tokio::io::duplex(16);
        let mut outward = Outward::new(io, Progress::default());
        let began = Instant::now();
        let slow = tokio::spawn(async move {
            for _ in 0..5 {
                sleep(Duration::from_secs(9)).await;
                caller.read_exact(&mut [0; 16]).await.unwrap();
            }
            sleep(Duration::from_secs(1000)).await;
        });
        let error = outward.write_all(&[b'x'; 1000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 5 * 9 + OWN_STALL_MS / 1000);
        slow.abort();
    }
}
