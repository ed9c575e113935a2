//! What is read from a caller: heads, and bodies as far as their call wants them.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::super::stream::CallerStream;
use super::Broken;
use crate::http1::{BadBody, Decoder, Feeder, Incoming, Input, Output, Search};

/// What comes next on the connection.
pub(super) enum Reading {
    /// A head.
    Head(Search),
    Body {
        decoder: Decoder,
        feeder: Feeder,
        expects_continue: bool,
    },
    /// The rest of a body that its call does not want.
    Unwanted(Decoder),
    /// The body is at its end; its call is not.
    Done,
    /// A body that can't be read on: nothing can follow it.
    Broken,
}

impl Default for Reading {
    fn default() -> Self {
        Self::Head(Search::default())
    }
}

impl Reading {
    /// Whether these bytes may be a whole head.
    pub(super) fn is_worth_a_try(&mut self, bytes: &[u8]) -> bool {
        let Self::Head(search) = self else { return false };
        search.is_worth_a_try(bytes)
    }

    /// A head was taken off `input`: what is its body?
    pub(super) fn begin(
        &mut self,
        mut decoder: Decoder,
        expects_continue: bool,
        input: &mut Bytes,
    ) -> Incoming {
        if let Some(whole) = decoder.take_whole(input) {
            *self = Self::Done;
            return Incoming::whole(whole);
        }
        let (feeder, body) = Incoming::streamed(decoder.left());
        // Who has begun to send does not wait for leave.
        *self = Self::Body { decoder, feeder, expects_continue: expects_continue && input.is_empty() };
        body
    }

    /// Hands the call what it wants of its body, or looks whether the caller has left; whether something was handed
    /// over. `output`: where 100 (Continue) may be said, while it may.
    ///
    /// # Errors
    /// The caller has left.
    pub(super) fn feed(
        &mut self,
        input: &mut Input,
        stream: &mut CallerStream,
        output: Option<&mut Output>,
        cx: &mut Context<'_>,
    ) -> Result<bool, Broken> {
        match self {
            Self::Head(_) | Self::Unwanted(_) | Self::Broken => Ok(false),
            // What comes now is the next head; one piece of it is enough to know that the caller is there.
            Self::Done if !input.is_empty() => Ok(false),
            Self::Done => match input.poll_head(stream, cx) {
                Poll::Ready(Ok(0)) => Err(Broken::Left),
                Poll::Ready(Err(error)) => Err(Broken::Io(error)),
                Poll::Ready(Ok(_)) | Poll::Pending => Ok(false),
            },
            Self::Body { .. } => Ok(self.feed_body(input, stream, output, cx)),
        }
    }

    /// While the answer is written: hands over what is still wanted of the body.
    pub(super) fn feed_on(&mut self, input: &mut Input, stream: &mut CallerStream, cx: &mut Context<'_>) {
        if matches!(self, Self::Body { expects_continue: false, .. }) {
            self.feed_body(input, stream, None, cx);
        }
    }

    fn feed_body(
        &mut self,
        input: &mut Input,
        stream: &mut CallerStream,
        mut output: Option<&mut Output>,
        cx: &mut Context<'_>,
    ) -> bool {
        let mut fed = false;
        while let Self::Body { decoder, feeder, expects_continue } = self {
            match feeder.poll_wanted(cx) {
                Poll::Pending => break,
                Poll::Ready(true) => {}
                // Who was not asked for its body may have taken the answer for a reason to keep it.
                Poll::Ready(false) if *expects_continue => {
                    *self = Self::Broken;
                    break;
                }
                Poll::Ready(false) => {
                    self.give_up();
                    break;
                }
            }
            match decoder.take(&mut input.bytes) {
                Ok(Some(frame)) => {
                    fed = true;
                    feeder.give(frame);
                    if decoder.left() == Some(0) {
                        self.finish();
                    }
                    continue;
                }
                Ok(None) if decoder.is_end() => {
                    self.finish();
                    return true;
                }
                Ok(None) => {}
                Err(bad) => {
                    self.fail(bad);
                    return true;
                }
            }
            if *expects_continue && let Some(output) = &mut output {
                *expects_continue = false;
                output.tail().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
            match input.poll_body(stream, cx, decoder.left()) {
                Poll::Pending => break,
                // Who has begun to send does not wait for leave.
                Poll::Ready(Ok(1..)) => *expects_continue = false,
                Poll::Ready(Ok(0) | Err(_)) => {
                    self.fail(BadBody("the caller closed the connection before its body was whole"));
                    return true;
                }
            }
        }
        fed
    }

    fn finish(&mut self) {
        if let Self::Body { feeder, .. } = std::mem::replace(self, Self::Done) {
            feeder.end();
        }
    }

    fn fail(&mut self, bad: BadBody) {
        if let Self::Body { feeder, .. } = std::mem::replace(self, Self::Broken) {
            feeder.fail(bad);
        }
    }

    fn give_up(&mut self) {
        if let Self::Body { decoder, .. } = std::mem::replace(self, Self::Broken) {
            *self = Self::Unwanted(decoder);
        }
    }

    /// The answer is written: whether another head may follow, once the body before it is read.
    pub(super) fn poll_finished(
        &mut self,
        input: &mut Input,
        stream: &mut CallerStream,
        cx: &mut Context<'_>,
    ) -> Poll<bool> {
        // Somebody may still want it.
        self.feed_on(input, stream, cx);
        match self {
            Self::Head(_) => return Poll::Ready(true),
            Self::Body { expects_continue: true, .. } | Self::Broken => return Poll::Ready(false),
            Self::Body { .. } => return Poll::Pending,
            Self::Done => {}
            Self::Unwanted(decoder) => {
                // What is there already may be the rest; more is not waited for.
                let mut ended = drained(decoder, input);
                if ended == Ok(false)
                    && matches!(input.poll_body(stream, cx, decoder.left()), Poll::Ready(Ok(1..)))
                {
                    ended = drained(decoder, input);
                }
                if ended != Ok(true) {
                    return Poll::Ready(false);
                }
            }
        }
        *self = Self::default();
        Poll::Ready(true)
    }
}

/// Throws the body away as far as it was read; whether it is at its end.
fn drained(decoder: &mut Decoder, input: &mut Input) -> Result<bool, BadBody> {
    while decoder.take(&mut input.bytes)?.is_some() {}
    Ok(decoder.is_end())
}
