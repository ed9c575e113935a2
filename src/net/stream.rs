//! A byte stream over TCP, a Unix socket, or TLS, and TCP keep-alive.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use rustix::net::{RecvFlags, recv, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::client::TlsStream;

use super::explain::tls_cause;
use super::failure::ConnectError;
use super::places::Place;

/// TCP, a Unix socket, or TLS over TCP. It implements tokio's `AsyncRead` and `AsyncWrite`, and passes vectored writes on.
#[derive(Debug)]
pub struct Stream {
    inner: Inner,
    /// The bytes that followed an egress proxy's response. They are read first.
    early: Bytes,
    failure: TlsFailure,
    /// Held until the connection is closed.
    _place: Option<Place>,
    _turn: Option<OwnedSemaphorePermit>,
}

/// The TLS state is about 1 KiB, so it is boxed. Otherwise it would enlarge every future that holds a stream.
#[derive(Debug)]
enum Inner {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// In bytes: more than an alert needs, and less than a session accepts at a time.
const ALERT: usize = 4096;

/// What is known about the other end of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The address of the other end, or of the proxy. `None` for a Unix socket.
    pub address: Option<SocketAddr>,
    /// `TLS 1.2`, `TLS 1.3`. `None`: without TLS.
    pub tls: Option<&'static str>,
    /// The other end's certificate, in DER.
    pub certificate: Option<Vec<u8>>,
}

/// How TLS failed while a stream was read. h2 keeps only the text of such an error, so this remembers it.
#[derive(Debug, Clone, Default)]
pub struct TlsFailure(Arc<OnceLock<rustls::Error>>);

impl TlsFailure {
    fn note(&self, error: &io::Error) {
        if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            let _first = self.0.set(error.clone());
        }
    }

    /// Explains the failure to operators, if there was one. The message names `who`.
    pub fn told(&self, who: &str) -> Option<ConnectError> {
        tls_cause(self.0.get()?, who)
    }
}

impl Stream {
    /// The failure, which stays readable after the stream was moved.
    pub fn tls_failure(&self) -> TlsFailure {
        self.failure.clone()
    }

    /// Reads the alert of a peer that refused the client certificate. It closes at once, so a write may fail before its alert
    /// was read.
    fn written<T>(&mut self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let (Poll::Ready(Err(_)), Inner::Tls(stream)) = (&polled, &mut self.inner) {
            let (tcp, session) = stream.get_mut();
            let mut bytes = [0; ALERT];
            // Directly from the socket, because tokio may not know yet that there is data.
            let read = match session.wants_read() {
                true => recv(&*tcp, &mut bytes[..], RecvFlags::DONTWAIT).map_or(0, |(read, _)| read),
                false => 0,
            };
            let mut received = bytes.get(..read).unwrap_or_default();
            // Other data stays in the session for later reads.
            if session.read_tls(&mut received).is_ok()
                && let Err(error) = session.process_new_packets()
            {
                let _first = self.failure.0.set(error);
            }
        }
        polled
    }

    /// Whether a part of a failed write may have been sent. Only TLS buffers data.
    pub fn is_tls(&self) -> bool {
        matches!(self.inner, Inner::Tls(_))
    }

    /// The stream after a tunnel was opened. `early` was read already.
    pub(super) fn with_early(self, early: Bytes) -> Self {
        Self { early, ..self }
    }

    pub(super) fn with_place(self, place: Option<Place>) -> Self {
        Self { _place: place, ..self }
    }

    pub(super) fn with_turn(self, turn: Option<OwnedSemaphorePermit>) -> Self {
        Self { _turn: turn, ..self }
    }

    /// Whether the other end is on this machine: both ends of such a connection have the same address.
    pub(super) fn is_to_this_machine(&self) -> bool {
        let same = |stream: &TcpStream| {
            let (local, peer) = (stream.local_addr(), stream.peer_addr());
            matches!((local, peer), (Ok(local), Ok(peer)) if local.ip().to_canonical() == peer.ip().to_canonical())
        };
        match &self.inner {
            Inner::Tcp(stream) => same(stream),
            Inner::Unix(_) => true,
            Inner::Tls(stream) => same(stream.get_ref().0),
        }
    }

    pub fn facts(&self) -> Facts {
        match &self.inner {
            Inner::Unix(_) => Facts::default(),
            Inner::Tcp(stream) => Facts { address: stream.peer_addr().ok(), ..Facts::default() },
            Inner::Tls(stream) => {
                let (tcp, session) = stream.get_ref();
                Facts {
                    address: tcp.peer_addr().ok(),
                    tls: session.protocol_version().map(|version| match version {
                        rustls::ProtocolVersion::TLSv1_3 => "TLS 1.3",
                        rustls::ProtocolVersion::TLSv1_2 => "TLS 1.2",
                        _ => "TLS",
                    }),
                    certificate: session
                        .peer_certificates()
                        .and_then(|chain| chain.first())
                        .map(|certificate| certificate.to_vec()),
                }
            }
        }
    }
}

impl From<Inner> for Stream {
    fn from(inner: Inner) -> Self {
        Self { inner, early: Bytes::new(), failure: TlsFailure::default(), _place: None, _turn: None }
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Inner::Tcp(stream).into()
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Inner::Unix(stream).into()
    }
}

impl From<TlsStream<TcpStream>> for Stream {
    fn from(stream: TlsStream<TcpStream>) -> Self {
        Inner::Tls(Box::new(stream)).into()
    }
}

macro_rules! each {
    ($stream:expr, $inner:ident => $call:expr) => {
        match &mut $stream.get_mut().inner {
            Inner::Tcp($inner) => $call,
            Inner::Unix($inner) => $call,
            Inner::Tls($inner) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let length = self.early.len().min(buffer.remaining());
            buffer.put_slice(&self.early.copy_to_bytes(length));
            return Poll::Ready(Ok(()));
        }
        let polled = each!(self.as_mut(), inner => Pin::new(inner).poll_read(context, buffer));
        if let Poll::Ready(Err(error)) = &polled {
            self.failure.note(error);
        }
        polled
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = each!(self.as_mut(), inner => Pin::new(inner).poll_write(context, bytes));
        self.written(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = each!(self.as_mut(), inner => Pin::new(inner).poll_write_vectored(context, slices));
        self.written(polled)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.inner {
            Inner::Tcp(inner) => inner.is_write_vectored(),
            Inner::Unix(inner) => inner.is_write_vectored(),
            Inner::Tls(inner) => inner.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = each!(self.as_mut(), inner => Pin::new(inner).poll_flush(context));
        self.written(polled)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => Pin::new(inner).poll_shutdown(context))
    }
}

/// The time without data before the first keep-alive packet.
const QUIET: Duration = Duration::from_secs(60);
/// The interval between keep-alive packets without a response.
const AGAIN: Duration = Duration::from_secs(15);
/// The number of packets without a response after which the peer is considered gone.
const TIMES: u32 = 4;

/// Turns on TCP keep-alive, so that a NAT keeps quiet connections and a dead peer is noticed. The socket works without it, so
/// failures are ignored.
///
/// `TCP_USER_TIMEOUT` is not set: on Linux it also closes a connection whose peer is alive but does not read for that time,
/// which `idle_timeout` decides.
pub fn keep_alive(socket: impl AsFd) {
    let socket = socket.as_fd();
    let _ = sockopt::set_socket_keepalive(socket, true)
        .and_then(|()| sockopt::set_tcp_keepidle(socket, QUIET))
        .and_then(|()| sockopt::set_tcp_keepintvl(socket, AGAIN))
        .and_then(|()| sockopt::set_tcp_keepcnt(socket, TIMES));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_has_what_was_set() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(!sockopt::socket_keepalive(&socket).unwrap());
        keep_alive(&socket);
        assert!(sockopt::socket_keepalive(&socket).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&socket).unwrap(), QUIET);
        assert_eq!(sockopt::tcp_keepintvl(&socket).unwrap(), AGAIN);
        assert_eq!(sockopt::tcp_keepcnt(&socket).unwrap(), TIMES);
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        keep_alive(&one);
    }
}
