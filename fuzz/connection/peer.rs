//! One end of a connection, and the script that says what it does.

use tokio::net::UnixStream;

/// The fuzzer's bytes; at their end, zeros.
pub(super) struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.next().unwrap_or_default()
    }

    /// A length, and so many bytes.
    pub(super) fn piece(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()).min(self.0.len());
        let (piece, rest) = self.0.split_at(length);
        self.0 = rest;
        piece
    }

    /// What is still to come.
    pub(super) fn rest(&self) -> Vec<u8> {
        self.0.to_vec()
    }
}

/// A caller or an upstream.
pub(super) struct Peer {
    stream: Option<UnixStream>,
    /// Not written yet: the other side does not take it.
    out: Vec<u8>,
    finishing: bool,
    /// It does not read.
    pub(super) deaf: bool,
    pub(super) received: Vec<u8>,
    /// How much of it got a response.
    pub(super) answered: usize,
    /// What it said may not be the responses that it seems to be.
    pub(super) raw: bool,
    /// The other side has closed.
    over: bool,
}

/// More than this is not kept of what is not taken.
const MOST: usize = 4 << 20;

impl Peer {
    pub(super) fn new(stream: UnixStream) -> Self {
        let (out, received) = (Vec::new(), Vec::new());
        let (finishing, deaf, raw, over) = (false, false, false, false);
        Self { stream: Some(stream), out, finishing, deaf, received, answered: 0, raw, over }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        if !self.finishing && self.out.len() < MOST {
            self.out.extend_from_slice(bytes);
        }
    }

    pub(super) fn send_raw(&mut self, bytes: &[u8]) {
        self.raw = true;
        self.send(bytes);
    }

    pub(super) fn is_over(&self) -> bool {
        self.over || self.stream.is_none()
    }

    pub(super) fn finish(&mut self) {
        self.finishing = true;
    }

    pub(super) fn close(&mut self) {
        self.stream = None;
    }

    /// Writes and reads what can be written and read now.
    pub(super) fn exchange(&mut self) {
        let Some(stream) = &self.stream else { return };
        while !self.out.is_empty() {
            match stream.try_write(&self.out) {
                Ok(written) => _ = self.out.drain(..written),
                Err(_) => break,
            }
        }
        if self.finishing && self.out.is_empty() {
            // The other side may have gone.
            let _ = rustix::net::shutdown(stream, rustix::net::Shutdown::Write);
        }
        let mut chunk = [0; 16 * 1024];
        while !self.deaf {
            match stream.try_read(&mut chunk) {
                Ok(read @ 1..) => self.received.extend_from_slice(&chunk[..read]),
                Ok(0) => {
                    self.over = true;
                    break;
                }
                Err(error) => {
                    self.over = error.kind() != std::io::ErrorKind::WouldBlock;
                    break;
                }
            }
        }
    }
}
