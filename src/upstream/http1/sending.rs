//! A request body on its way out.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::Body;

use super::super::error::CallerBroke;
use super::super::idle::Idle;
use super::super::request_body::RequestBody;
use super::Http1;
use crate::http1::Encoder;

/// What is gathered before it is written.
const GATHERED: usize = 64 * 1024;

/// A body that goes up over a connection.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) body: RequestBody,
    /// `None`: all of the body was taken, and its end is written or about to be.
    encoder: Option<Encoder>,
    /// Bytes that wait to be written.
    gathered: usize,
    /// Of the upstream, while it takes nothing.
    stall: Idle,
    /// What was written when that was last looked at.
    seen: u64,
}

/// Why a body did not go up.
#[derive(Debug)]
pub(super) enum Halt {
    Caller { stalled: bool },
    Write(io::Error),
}

impl Sending {
    pub(super) fn new(body: RequestBody, encoder: Encoder, idle: Option<Duration>) -> Self {
        Self { body, encoder: Some(encoder), gathered: 0, stall: Idle::new(idle), seen: 0 }
    }

    /// Nothing of it is still to come from the caller.
    pub(super) fn is_taken(&self) -> bool {
        self.encoder.is_none()
    }

    /// Sends the head before it and the body, to its end. What is there at once goes out at once, the head with it.
    pub(super) fn poll(&mut self, connection: &mut Http1, cx: &mut Context<'_>) -> Poll<Result<(), Halt>> {
        loop {
            let caller_rests = self.gather(connection, cx)?;
            ready!(connection.poll_flush(cx)).map_err(Halt::Write)?;
            self.gathered = 0;
            if self.encoder.is_none() {
                return Poll::Ready(Ok(()));
            }
            if caller_rests {
                return Poll::Pending;
            }
        }
    }

    /// Takes what the caller has sent; `true`: it has no more for now.
    fn gather(&mut self, connection: &mut Http1, cx: &mut Context<'_>) -> Result<bool, Halt> {
        while self.gathered < GATHERED {
            let Some(encoder) = &mut self.encoder else { return Ok(false) };
            let output = &mut connection.output;
            let (ends, trailers) = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return Ok(true),
                Poll::Ready(Some(Err(error))) => {
                    let stalled = error.downcast_ref::<CallerBroke>().is_some_and(|broke| broke.stalled);
                    return Err(Halt::Caller { stalled });
                }
                Poll::Ready(None) => (true, None),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        self.gathered += data.len();
                        encoder.data(output, data).map_err(|_| WRONG_LENGTH)?;
                        (self.body.is_end_stream(), None)
                    }
                    Err(frame) => (true, frame.into_trailers().ok()),
                },
            };
            if ends && let Some(encoder) = self.encoder.take() {
                encoder.end(output, trailers.as_ref()).map_err(|_| WRONG_LENGTH)?;
            }
        }
        Ok(false)
    }

    /// Whether the upstream has taken nothing for `idle_timeout`. Where the caller sends nothing, its body says so.
    pub(super) fn is_stuck(&mut self, connection: &Http1, cx: &mut Context<'_>) -> bool {
        let written = connection.written();
        let blocked = !connection.is_flushed();
        if std::mem::replace(&mut self.seen, written) != written || !blocked {
            self.stall.moved();
        }
        blocked && self.stall.expired(cx)
    }
}

/// Whoever sends less or more than it said has broken off.
const WRONG_LENGTH: Halt = Halt::Caller { stalled: false };
