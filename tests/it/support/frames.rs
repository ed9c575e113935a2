//! HTTP/2 frames by hand, for what no client library would send.

use std::net::SocketAddr;

use super::{Wire, within};

pub struct Frames {
    wire: Wire,
}

/// How the proxy took one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The response's header block, not decoded.
    Headers(Vec<u8>),
    Reset(u32),
    GoAway(u32),
    Closed,
}

impl Outcome {
    /// Refused as malformed: by a reset, by the end of the connection, or by a 400.
    pub fn is_refusal(&self) -> bool {
        /// `:status: 400` in HPACK's static table.
        const STATUS_400: u8 = 0x8c;
        match self {
            Self::Headers(block) => block.first() == Some(&STATUS_400),
            Self::Reset(_) | Self::GoAway(_) | Self::Closed => true,
        }
    }

    pub fn is_ok(&self) -> bool {
        /// `:status: 200` in HPACK's static table.
        const STATUS_200: u8 = 0x88;
        matches!(self, Self::Headers(block) if block.first() == Some(&STATUS_200))
    }
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One frame as it came, or goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Self {
        Self { kind, flags, stream, payload: payload.to_vec() }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], self.kind, self.flags];
        frame.extend_from_slice(&self.stream.to_be_bytes());
        frame.extend_from_slice(&self.payload);
        frame
    }

    /// A reader that gives up in the middle leaves the whole frame to the next one.
    pub async fn read(wire: &mut Wire) -> std::io::Result<Self> {
        let head = wire.ahead(9).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut head = wire.exact(9 + usize::try_from(length).unwrap()).await?;
        let payload = head.split_off(9);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Ok(Self { kind: head[3], flags: head[4], stream, payload })
    }

    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    /// The number at this place of the payload.
    pub fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// The bytes of one frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    Frame::new(kind, flags, stream, payload).bytes()
}

/// SETTINGS_INITIAL_WINDOW_SIZE.
pub const INITIAL_WINDOW: u16 = 4;

/// A SETTINGS frame that says one thing.
pub fn setting(identifier: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&identifier.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

/// A window grows.
pub fn window_update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

/// The HEADERS frame of a request, its body (`end`: none) to follow.
pub fn request(stream: u32, method: &str, path: &str, end: bool) -> Vec<u8> {
    let fields = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "localhost")];
    frame(HEADERS, END_HEADERS | if end { END_STREAM } else { 0 }, stream, &block(&fields))
}

/// A header block with these fields.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        literal(&mut block, name.as_bytes(), value.as_bytes());
    }
    block
}

impl Frames {
    pub async fn connect(address: SocketAddr) -> Self {
        let mut wire = Wire::tcp(address).await.unwrap();
        wire.send(PREFACE).await.unwrap();
        let mut this = Self { wire };
        this.frame(SETTINGS, 0, 0, &[]).await;
        this
    }

    pub async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        // The peer may have closed already: what it said before that is what counts.
        let _sent = self.wire.send(Frame::new(kind, flags, stream, payload).bytes()).await;
    }

    /// The next frame of this stream.
    pub async fn next(&mut self, stream: u32) -> Frame {
        loop {
            let frame = self.any().await;
            if frame.kind != SETTINGS && frame.stream == stream {
                return frame;
            }
        }
    }

    /// The next frame of any stream; the proxy's SETTINGS are acknowledged.
    pub async fn any(&mut self) -> Frame {
        let frame = within("a frame", Frame::read(&mut self.wire)).await.expect("a whole frame");
        if frame.kind == SETTINGS && frame.flags & ACK == 0 {
            self.frame(SETTINGS, ACK, 0, &[]).await;
        }
        frame
    }

    /// Sends a request with exactly these fields, pseudo fields included, and an optional body.
    pub async fn request(&mut self, stream: u32, fields: &[(&str, &str)], body: Option<&[u8]>) {
        let end = if body.is_none() { END_STREAM } else { 0 };
        self.head(stream, fields, end).await;
        if let Some(body) = body {
            self.frame(DATA, END_STREAM, stream, body).await;
        }
    }

    /// Sends the head of a request whose body follows.
    pub async fn begin_request(&mut self, stream: u32, fields: &[(&str, &str)]) {
        self.head(stream, fields, 0).await;
    }

    async fn head(&mut self, stream: u32, fields: &[(&str, &str)], end: u8) {
        let block = block(fields);
        self.frame(HEADERS, END_HEADERS | end, stream, &block).await;
    }

    /// Takes the request back.
    pub async fn reset(&mut self, stream: u32) {
        /// RFC 9113 section 7.
        const CANCEL: [u8; 4] = [0, 0, 0, 8];
        self.frame(RST_STREAM, 0, stream, &CANCEL).await;
    }

    /// What became of the request.
    pub async fn outcome(&mut self, stream: u32) -> Outcome {
        within("the request's outcome", self.read_outcome(stream)).await
    }

    /// Reads on until the proxy ends the connection.
    pub async fn end(&mut self) {
        while Frame::read(&mut self.wire).await.is_ok() {}
    }

    async fn read_outcome(&mut self, stream: u32) -> Outcome {
        loop {
            let Ok(frame) = Frame::read(&mut self.wire).await else { return Outcome::Closed };
            match frame.kind {
                HEADERS if frame.stream == stream => return Outcome::Headers(frame.payload),
                RST_STREAM if frame.stream == stream => return Outcome::Reset(frame.number(0)),
                GOAWAY => return Outcome::GoAway(frame.number(4)),
                SETTINGS if frame.flags & ACK == 0 => self.frame(SETTINGS, ACK, 0, &[]).await,
                _ => {}
            }
        }
    }
}

/// A field as HPACK's literal without indexing and without Huffman (RFC 7541 section 6.2.2).
pub fn literal(block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    block.push(0);
    for part in [name, value] {
        let length = u8::try_from(part.len()).expect("short fields only");
        assert!(length < 127, "short fields only");
        block.push(length);
        block.extend_from_slice(part);
    }
}
