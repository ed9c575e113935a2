//! A caller's socket: what goes through it is noted, and a write that stalls too long ends it.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::connection::Protocol;
use super::limit::TakenPlace;
use super::linger::{self, Linger};
use super::watch::Watch;
use crate::flow::{self, Reading};
use crate::idle::Idle;
use crate::inbound::InFlight;

/// HTTP/2's connection preface (RFC 9113 section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is read to tell the protocols apart: most heads, so that they need no second read.
const FIRST_READ: usize = 1024;

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
    /// What was read to tell HTTP/2 from HTTP/1, and is still to be handed out.
    prefix: Bytes,
    /// Expires where the caller does not take what is written.
    stall: Idle,
    closing: Option<Closing>,
    now: CancellationToken,
    cancelled: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    _held: TakenPlace,
}

/// All is said and the write side is closed; what still comes is thrown away.
struct Closing {
    linger: Linger,
    /// The connection has something to do until its end.
    _busy: InFlight,
}

impl CallerStream {
    pub(super) fn new(
        transport: Transport,
        watch: Arc<Watch>,
        now: CancellationToken,
        held: TakenPlace,
    ) -> Self {
        let (prefix, stall) = (Bytes::new(), Idle::new(None));
        Self { transport, watch, prefix, stall, closing: None, now, cancelled: None, _held: held }
    }

    /// Reads until it is plain whether the caller speaks HTTP/2 with prior knowledge; `None`: it went away. What was
    /// read is handed out again.
    pub(super) fn poll_protocol(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Protocol>>> {
        let mut space = [MaybeUninit::uninit(); FIRST_READ];
        loop {
            if self.prefix.starts_with(PREFACE) {
                return Poll::Ready(Ok(Some(Protocol::Http2)));
            }
            if !PREFACE.starts_with(&self.prefix) {
                return Poll::Ready(Ok(Some(Protocol::Http1)));
            }
            let mut buffer = ReadBuf::uninit(&mut space);
            ready!(self.transport.poll_read(cx, &mut buffer, Reading::Head))?;
            match buffer.filled() {
                [] if self.prefix.is_empty() => return Poll::Ready(Ok(None)),
                [] => return Poll::Ready(Ok(Some(Protocol::Http1))),
                read => self.prefix = [&self.prefix, read].concat().into(),
            }
            self.watch.bytes_read();
        }
    }

    /// Whether what [`Self::poll_protocol`] read is the beginning of a TLS handshake (RFC 8446 section 5.1).
    pub(super) fn begins_as_tls(&self) -> bool {
        const HANDSHAKE: u8 = 22;
        const MAJOR_VERSION: u8 = 3;
        self.prefix.starts_with(&[HANDSHAKE, MAJOR_VERSION])
    }

    /// Judges a write's outcome: progress is noted, and standing still is allowed for the route's `idle_timeout` alone.
    fn judge_write<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.watch.bytes_written(outcome.is_pending());
        if outcome.is_ready() {
            self.stall.moved();
            return outcome;
        }
        let limit = self.watch.caller.activity.write_stall_ms.load(Ordering::Relaxed);
        self.stall.set_limit((limit > 0).then(|| Duration::from_millis(limit)));
        if self.stall.expired(cx) {
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

impl Drop for CallerStream {
    fn drop(&mut self) {
        if self.watch.ends_with_reset()
            && let Raw::Tcp(stream) = self.transport.raw()
        {
            // Where it cannot be set, the connection ends in the ordinary way.
            let _ = stream.set_zero_linger();
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
        if !this.prefix.is_empty() {
            let handed = this.prefix.len().min(buffer.remaining());
            buffer.put_slice(&this.prefix.split_to(handed));
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let reading = this.watch.reading();
        match this.transport.poll_read(context, buffer, reading) {
            Poll::Pending => this.poll_cancelled(context).map(Err),
            ready => {
                let read = buffer.filled().len() - before;
                if read > 0 {
                    this.watch.bytes_read();
                    this.watch.caller.activity.headway.read(read)?;
                }
                ready
            }
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
        if this.closing.is_none() {
            let outcome = match &mut this.transport {
                Transport::Plain(raw) => Pin::new(raw).poll_shutdown(context),
                Transport::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            };
            match outcome {
                // TLS has something to say at the end, and a caller that does not read is not waited for here either.
                Poll::Pending => return this.judge_write(context, Poll::Pending),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => {
                    // Whoever sends what means nothing is not about to read a response.
                    let short = this.watch.is_http2() || this.watch.caller.activity.headway.is_doubtful();
                    let bounds = if short { linger::SHORT } else { linger::HTTP1 };
                    let busy = InFlight::new(&this.watch.caller.activity);
                    this.closing = Some(Closing { linger: Linger::new(bounds), _busy: busy });
                }
            }
        }
        // An upgraded connection is closed in one direction alone: its other one is still to be read.
        match &mut this.closing {
            Some(closing) if !this.watch.is_tunnel() => {
                let transport = &mut this.transport;
                let read = |cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>| {
                    transport.poll_read(cx, buffer, Reading::Body)
                };
                closing.linger.poll(context, read).map(Ok)
            }
            Some(_) | None => Poll::Ready(Ok(())),
        }
    }
}

impl Transport {
    fn raw(&self) -> &Raw {
        match self {
            Self::Plain(raw) => raw,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        reading: Reading,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(raw) => flow::poll_read(Pin::new(raw), context, buffer, reading),
            Self::Tls(stream) => flow::poll_read(Pin::new(&mut **stream), context, buffer, reading),
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
