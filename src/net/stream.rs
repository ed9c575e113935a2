//! One byte stream, whatever it runs over.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::client::TlsStream;

use super::connect::ConnectError;
use super::explain::tls_cause;
use super::places::Place;

/// TCP, Unix or TLS over TCP; implements tokio's `AsyncRead` and `AsyncWrite` (vectored writes passed on).
#[derive(Debug)]
pub struct Stream {
    inner: Inner,
    /// What came right behind an egress proxy's answer: it is read first.
    early: Bytes,
    failure: TlsFailure,
    /// Both are held until the connection is closed.
    _place: Option<Place>,
    _turn: Option<OwnedSemaphorePermit>,
}

/// The TLS state is about 1 KiB, so it is boxed: every future that holds a stream would else have its size.
#[derive(Debug)]
enum Inner {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// More than an alert needs, and less than a session takes at a time; in bytes.
const ALERT: usize = 4096;

/// What an open connection tells of its other end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The other end's, or that of the proxy on the way. `None`: a Unix socket.
    pub address: Option<SocketAddr>,
    /// `TLS 1.2`, `TLS 1.3`. `None`: without TLS.
    pub tls: Option<&'static str>,
    /// The certificate that it showed, as DER.
    pub certificate: Option<Vec<u8>>,
}

/// How TLS failed while a stream was read, for whoever has no error that says it: h2 keeps only the text of one.
#[derive(Debug, Clone, Default)]
pub struct TlsFailure(Arc<OnceLock<rustls::Error>>);

impl TlsFailure {
    fn note(&self, error: &io::Error) {
        if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            let _first = self.0.set(error.clone());
        }
    }

    /// The failure in an operator's words, where there was one. `who` stands in the message.
    pub fn told(&self, who: &str) -> Option<ConnectError> {
        tls_cause(self.0.get()?, who)
    }
}

impl Stream {
    /// Stays readable when the stream has been given away.
    pub fn tls_failure(&self) -> TlsFailure {
        self.failure.clone()
    }

    /// A peer that refuses our certificate closes at once, so that a write may fail before its alert was read.
    fn written<T>(&mut self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let (Poll::Ready(Err(_)), Inner::Tls(stream)) = (&polled, &mut self.inner) {
            let (tcp, session) = stream.get_mut();
            let mut bytes = [0; ALERT];
            // Asked of the socket itself: tokio may not have heard yet that there is something.
            let read = match session.wants_read() {
                true => recv(&*tcp, &mut bytes[..], RecvFlags::DONTWAIT).map_or(0, |(read, _)| read),
                false => 0,
            };
            let mut received = bytes.get(..read).unwrap_or_default();
            // What is not an alert stays with the session, for whoever reads on.
            if session.read_tls(&mut received).is_ok()
                && let Err(error) = session.process_new_packets()
            {
                let _first = self.failure.0.set(error);
            }
        }
        polled
    }

    /// Over TLS, some of what a failed write was given may have gone out; elsewhere nothing of it has.
    pub fn is_tls(&self) -> bool {
        matches!(self.inner, Inner::Tls(_))
    }

    /// As it is after a tunnel was opened: `early` was read already.
    pub(super) fn with_early(self, early: Bytes) -> Self {
        Self { early, ..self }
    }

    pub(super) fn with_place(self, place: Option<Place>) -> Self {
        Self { _place: place, ..self }
    }

    pub(super) fn with_turn(self, turn: Option<OwnedSemaphorePermit>) -> Self {
        Self { _turn: turn, ..self }
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
