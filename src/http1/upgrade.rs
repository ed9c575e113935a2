//! A connection that is given away after 101 (Switching Protocols).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

/// A connection after HTTP: its bytes, and first those that were read too far.
pub struct Tunnel {
    io: Box<dyn Io>,
    read: Bytes,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Gives the connection away.
#[derive(Debug)]
pub struct Upgrade(oneshot::Sender<Tunnel>);

/// Waits for a connection that is given away.
#[derive(Debug)]
pub struct OnUpgrade(oneshot::Receiver<Tunnel>);

impl Tunnel {
    /// `read`: what was read already and is not HTTP any more.
    pub fn new(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, read: Bytes) -> Self {
        Self { io: Box::new(io), read }
    }
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tunnel")
    }
}

impl Upgrade {
    pub fn pair() -> (Self, OnUpgrade) {
        let (send, receive) = oneshot::channel();
        (Self(send), OnUpgrade(receive))
    }

    /// Nobody may want it any more; then it is closed.
    pub fn give(self, tunnel: Tunnel) {
        let _ = self.0.send(tunnel);
    }
}

impl OnUpgrade {
    /// `None`: the connection broke off before.
    pub async fn tunnel(self) -> Option<Tunnel> {
        self.0.await.ok()
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let size = self.read.len().min(buf.remaining());
        buf.put_slice(self.read.get(..size).unwrap_or_default());
        self.read.advance(size);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
