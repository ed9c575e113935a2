//! An upstream's socket: what goes over it is counted, and what it does not take does not hide what it says.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use crate::flow::{self, Reading};
use crate::idle::Headway;
use crate::metrics::RouteMetrics;
use crate::net::Stream;

/// The most that goes out as one record of TLS.
const RECORD: usize = 16 * 1024;

/// What went over a connection, in bytes.
#[derive(Debug)]
pub(super) struct Traffic {
    read: AtomicU64,
    /// Grows where anything was written that the peer may have got.
    written: AtomicU64,
    /// `written` when the request began that is alone on the connection.
    began: AtomicU64,
    http2: AtomicBool,
    /// Over HTTP/1, the head of a response is what comes next.
    head: AtomicBool,
    /// Over HTTP/2, something was read.
    pub(super) arrived: Notify,
    /// Of a response over HTTP/1.
    pub(super) headway: Headway,
}

impl Traffic {
    fn new() -> Self {
        let (read, written, began) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(u64::MAX));
        let (http2, head) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { read, written, began, http2, head, arrived: Notify::new(), headway: Headway::default() }
    }

    /// A request begins that is alone on the connection.
    pub(super) fn request_begins(&self) {
        self.began.store(self.written(), Ordering::Relaxed);
        self.head.store(true, Ordering::Relaxed);
    }

    /// The head of its response is there.
    pub(super) fn response_begins(&self) {
        self.head.store(false, Ordering::Relaxed);
    }

    pub(super) fn speaks_http2(&self) {
        self.http2.store(true, Ordering::Relaxed);
    }

    fn reading(&self) -> Reading {
        if self.http2.load(Ordering::Relaxed) {
            Reading::Http2
        } else if self.head.load(Ordering::Relaxed) || self.headway.is_doubtful() {
            Reading::Head
        } else {
            Reading::Body
        }
    }

    /// Nothing of the request that is alone on the connection was written.
    pub(super) fn is_unwritten(&self) -> bool {
        self.began.load(Ordering::Relaxed) == self.written()
    }

    pub(super) fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

/// Counts a connection for as long as it is open.
struct Open(Arc<RouteMetrics>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.upstream_disconnected();
    }
}

/// Closes in order when it is dropped.
pub(super) struct Wire {
    stream: Stream,
    traffic: Arc<Traffic>,
    _open: Open,
    /// A write failed.
    broken: bool,
}

impl Wire {
    pub(super) fn new(stream: Stream, metrics: &Arc<RouteMetrics>) -> (Self, Arc<Traffic>) {
        metrics.upstream_connected();
        let traffic = Arc::new(Traffic::new());
        let open = Open(Arc::clone(metrics));
        (Self { stream, traffic: Arc::clone(&traffic), _open: open, broken: false }, traffic)
    }

    /// An upstream may answer before it has read a request to its end, and then close: what it does not take is thrown
    /// away, and reading goes on to its response or to the end (RFC 9112 section 9.5). Where it has taken nothing of the
    /// request, there is no response to come.
    fn write(
        &mut self,
        offered: usize,
        write: impl FnOnce(Pin<&mut Stream>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Ready(Ok(offered));
        }
        let polled = write(Pin::new(&mut self.stream));
        match polled {
            Poll::Ready(Ok(taken)) => _ = self.traffic.written.fetch_add(taken as u64, Ordering::Relaxed),
            Poll::Ready(Err(error)) => {
                // Nobody can read a part of a record; of several, some may have arrived.
                if offered > RECORD && self.stream.is_tls() {
                    self.traffic.written.fetch_add(1, Ordering::Relaxed);
                }
                if self.traffic.is_unwritten() {
                    return Poll::Ready(Err(error));
                }
                self.broken = true;
                return Poll::Ready(Ok(offered));
            }
            Poll::Pending => {}
        }
        polled
    }
}

impl Drop for Wire {
    /// As far as that takes no waiting: a TLS peer would take a bare end for an attack.
    fn drop(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let _ = pin!(&mut self.stream).poll_shutdown(&mut cx);
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let reading = self.traffic.reading();
        let polled = flow::poll_read(Pin::new(&mut self.stream), cx, buf, reading);
        let read = buf.filled().len() - before;
        if read > 0 {
            self.traffic.read.fetch_add(read as u64, Ordering::Relaxed);
            if reading == Reading::Http2 {
                self.traffic.arrived.notify_one();
            }
            self.traffic.headway.read(read)?;
        }
        polled
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.write(buf.len(), |stream| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let offered = bufs.iter().map(|buf| buf.len()).sum();
        self.write(offered, |stream| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(0, |stream| stream.poll_flush(cx).map_ok(|()| 0)).map_ok(|_| ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
