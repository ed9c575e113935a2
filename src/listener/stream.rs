//! A caller's socket: what goes through it is noted, and a write that stalls too long ends it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::limit::Held;
use super::watch::Watch;

/// HTTP/2's connection preface (RFC 9113 section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// An accepted socket.
pub enum Raw {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// With or without TLS; boxed, so that plain connections do not have the size of TLS ones.
pub(super) enum Transport {
    Plain(Raw),
    Tls(Box<TlsStream<Raw>>),
}

/// A caller's connection. Holds its place in the connection limit for as long as it lives.
pub(super) struct CallerStream {
    transport: Transport,
    watch: Arc<Watch>,
    /// What was read to tell HTTP/2 from HTTP/1, and is to be read again.
    unread: Bytes,
    stall: Stall,
    now: CancellationToken,
    cancelled: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    _held: Held,
}

/// Since when a write stands still. The sleep is left running when it moves again, and re-armed only when it fires:
/// under load, sockets fill up all the time.
#[derive(Default)]
struct Stall {
    still: bool,
    since: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl CallerStream {
    pub(super) fn new(transport: Transport, watch: Arc<Watch>, now: CancellationToken, held: Held) -> Self {
        let (unread, stall) = (Bytes::new(), Stall::default());
        Self { transport, watch, unread, stall, now, cancelled: None, _held: held }
    }

    /// Hands these bytes out once more, before all others.
    pub(super) fn unread(&mut self, bytes: Bytes) {
        self.unread = bytes;
    }

    /// Judges a write's outcome: progress is noted, and standing still is allowed for the route's `idle_timeout` alone.
    fn judge_write<T>(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            if std::mem::take(&mut self.stall.still) {
                self.stall.since = None;
                self.watch.bytes_written();
            }
            return outcome;
        }
        if !std::mem::replace(&mut self.stall.still, true) {
            self.watch.bytes_written();
        }
        let limit = self.watch.caller.activity.write_stall_ms.load(Ordering::Relaxed);
        if limit > 0 {
            ready!(self.stall.poll(context, Duration::from_millis(limit)));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the caller stopped reading")));
        }
        Poll::Pending
    }

    /// Whether an upgraded connection must end now. Until the upgrade, the connection's task sees to that.
    fn poll_cancelled(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        if !self.watch.is_tunnel() {
            return Poll::Pending;
        }
        let now = &self.now;
        let cancelled = self.cancelled.get_or_insert_with(|| Box::pin(now.clone().cancelled_owned()));
        cancelled.as_mut().poll(context).map(|()| io::Error::from(io::ErrorKind::ConnectionAborted))
    }
}

impl Stall {
    /// Ready when nothing moved for `limit`.
    fn poll(&mut self, context: &mut Context<'_>, limit: Duration) -> Poll<()> {
        let due = *self.since.get_or_insert_with(Instant::now) + limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        loop {
            if sleep.deadline() > due {
                sleep.as_mut().reset(due);
            }
            ready!(sleep.as_mut().poll(context));
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(due);
        }
    }
}

impl AsyncRead for CallerStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.unread.is_empty() {
            let handed = this.unread.split_to(this.unread.len().min(buffer.remaining()));
            buffer.put_slice(&handed);
            return Poll::Ready(Ok(()));
        }
        match this.transport.poll_read(context, buffer) {
            Poll::Pending => this.poll_cancelled(context).map(Err),
            ready => ready,
        }
    }
}

impl AsyncWrite for CallerStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = this.transport.poll_write(context, bytes);
        this.judge_write(context, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = this.transport.poll_write_vectored(context, slices);
        this.judge_write(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(_) => true,
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Nothing is buffered in a plain socket, so its flush is no sign of progress.
        let Transport::Tls(stream) = &mut this.transport else { return Poll::Ready(Ok(())) };
        match Pin::new(stream).poll_flush(context) {
            Poll::Pending => this.judge_write(context, Poll::Pending),
            ready => ready,
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = match &mut this.transport {
            Transport::Plain(raw) => Pin::new(raw).poll_shutdown(context),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        };
        match outcome {
            // TLS has something to say at the end, and a caller that does not read is not waited for here either.
            Poll::Pending => this.judge_write(context, Poll::Pending),
            ready => ready,
        }
    }
}

impl Transport {
    fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(raw) => Pin::new(raw).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(raw) => Pin::new(raw).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(raw) => Pin::new(raw).poll_write_vectored(context, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }
}

macro_rules! each {
    ($raw:expr, $inner:ident => $call:expr) => {
        match $raw.get_mut() {
            Raw::Tcp($inner) => $call,
            Raw::Unix($inner) => $call,
        }
    };
}

impl AsyncRead for Raw {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, inner => Pin::new(inner).poll_read(context, buffer))
    }
}

impl AsyncWrite for Raw {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, inner => Pin::new(inner).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, inner => Pin::new(inner).poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => Pin::new(inner).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => Pin::new(inner).poll_shutdown(context))
    }
}
