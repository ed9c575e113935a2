//! One connection, either end: exact bytes out, exact bytes in, and one parser for HTTP/1 messages.

use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::path::Path;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::message::{Body, Head};

pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A connection as it is served, with TLS where the server has it; `None`: the handshake failed.
pub async fn accepted(stream: TcpStream, tls: Option<TlsAcceptor>) -> Option<Box<dyn Stream>> {
    match tls {
        None => Some(Box::new(stream)),
        Some(acceptor) => Some(Box::new(acceptor.accept(stream).await.ok()?)),
    }
}

pub struct Wire {
    stream: Box<dyn Stream>,
    /// Read from the stream and not yet asked for.
    buffer: Vec<u8>,
}

impl Wire {
    pub fn new(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), buffer: Vec::new() }
    }

    pub async fn tcp(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::new(stream))
    }

    pub async fn unix(path: &Path) -> Result<Self> {
        Ok(Self::new(tokio::net::UnixStream::connect(path).await?))
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.stream.write_all(bytes.as_ref()).await?;
        self.stream.flush().await
    }

    /// Says that nothing more will be sent.
    pub async fn finish(&mut self) -> Result<()> {
        self.stream.shutdown().await
    }

    /// Reads once from the stream; 0 at its end.
    async fn fill(&mut self) -> Result<usize> {
        self.buffer.reserve(64 * 1024);
        self.stream.read_buf(&mut self.buffer).await
    }

    async fn need(&mut self) -> Result<()> {
        match self.fill().await? {
            0 => Err(Error::new(ErrorKind::UnexpectedEof, "the connection ended in the middle of a message")),
            _ => Ok(()),
        }
    }

    /// What is there now or comes next; empty at the end.
    pub async fn some(&mut self) -> Result<Vec<u8>> {
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    pub async fn exact(&mut self, length: usize) -> Result<Vec<u8>> {
        self.ahead(length).await?;
        Ok(self.buffer.drain(..length).collect())
    }

    /// The next bytes, which the next reader gets as well.
    pub async fn ahead(&mut self, length: usize) -> Result<&[u8]> {
        while self.buffer.len() < length {
            self.need().await?;
        }
        Ok(&self.buffer[..length])
    }

    /// Everything up to and with `end`.
    pub async fn until(&mut self, end: &[u8]) -> Result<Vec<u8>> {
        let mut searched = 0;
        loop {
            let from = searched.min(self.buffer.len());
            if let Some(at) = self.buffer[from..].windows(end.len()).position(|window| window == end) {
                return Ok(self.buffer.drain(..from + at + end.len()).collect());
            }
            searched = self.buffer.len().saturating_sub(end.len());
            self.need().await?;
        }
    }

    /// Everything to the end of the stream.
    pub async fn rest(&mut self) -> Result<Vec<u8>> {
        while self.fill().await? > 0 {}
        Ok(std::mem::take(&mut self.buffer))
    }

    /// True once the peer closed without sending anything more. A reset counts.
    pub async fn closed(&mut self) -> bool {
        match self.rest().await {
            Ok(rest) => rest.is_empty(),
            Err(_) => true,
        }
    }

    /// The next message's head, or `None` where the stream ended before one began.
    pub async fn head(&mut self) -> Result<Option<Head>> {
        if self.buffer.is_empty() && self.fill().await? == 0 {
            return Ok(None);
        }
        let raw = self.until(b"\r\n\r\n").await?;
        Ok(Some(Head::parse(raw)))
    }

    /// The body that follows `head`; `to_end` where only the end of the stream tells its length.
    pub async fn body(&mut self, head: &Head, to_end: bool) -> Result<Body> {
        if head.has("transfer-encoding", "chunked") {
            return self.chunked().await;
        }
        if let Some(length) = head.header("content-length") {
            let length = length.parse().map_err(|_| Error::new(ErrorKind::InvalidData, "content-length"))?;
            return Ok(Body::plain(self.exact(length).await?));
        }
        Ok(Body::plain(if to_end { self.rest().await? } else { Vec::new() }))
    }

    async fn chunked(&mut self) -> Result<Body> {
        let mut body = Body::default();
        loop {
            let chunk = self.chunk(&mut body.raw).await?;
            if chunk.is_empty() {
                break;
            }
            body.data.extend_from_slice(&chunk);
            body.chunks += 1;
        }
        loop {
            let line = self.until(b"\r\n").await?;
            body.raw.extend_from_slice(&line);
            if line == b"\r\n" {
                return Ok(body);
            }
            body.trailers.push(Head::field(&line[..line.len() - 2]));
        }
    }

    /// One chunk of a chunked body; empty for the last one.
    pub async fn chunk(&mut self, raw: &mut Vec<u8>) -> Result<Vec<u8>> {
        let line = self.until(b"\r\n").await?;
        raw.extend_from_slice(&line);
        let text = String::from_utf8_lossy(&line[..line.len() - 2]).into_owned();
        let size = text.split(';').next().unwrap_or_default().trim().to_owned();
        let size = usize::from_str_radix(&size, 16)
            .map_err(|_| Error::new(ErrorKind::InvalidData, format!("chunk size {text:?}")))?;
        if size == 0 {
            return Ok(Vec::new());
        }
        let data = self.exact(size + 2).await?;
        raw.extend_from_slice(&data);
        Ok(data[..size].to_vec())
    }

    pub fn into_stream(self) -> Box<dyn Stream> {
        assert!(self.buffer.is_empty(), "bytes were read beyond the message");
        self.stream
    }
}
