//! A connection's bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::Open;
use crate::net::Stream;

/// The most that goes out as one record of TLS.
const RECORD: usize = 16 * 1024;

/// A stream that counts what it took, and says its goodbye when it is dropped.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Stream,
    written: u64,
    #[expect(dead_code, reason = "counts by being dropped")]
    open: Open,
}

impl Wire {
    pub(super) fn new(stream: Stream, open: Open) -> Self {
        Self { stream, written: 0, open }
    }

    /// Grows where anything was written that the peer may have got.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    fn note(&mut self, polled: &Poll<io::Result<usize>>, offered: usize) {
        match polled {
            Poll::Ready(Ok(taken)) => self.written += *taken as u64,
            // Nobody can read a part of a record; of several, some may have arrived.
            Poll::Ready(Err(_)) if offered > RECORD && self.stream.is_tls() => self.written += 1,
            Poll::Ready(Err(_)) | Poll::Pending => {}
        }
    }
}

impl Drop for Wire {
    /// Ends it in order, as far as that takes no waiting: a TLS peer would take a bare end for an attack.
    fn drop(&mut self) {
        let _ = Pin::new(&mut self.stream).poll_shutdown(&mut Context::from_waker(Waker::noop()));
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(&polled, buf.len());
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note(&polled, bufs.iter().map(|buf| buf.len()).sum());
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
