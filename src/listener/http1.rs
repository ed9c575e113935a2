//! An HTTP/1 connection of a caller, from its first byte to its last (RFC 9112 section 9).
//!
//! One call at a time, in its own task: the call's future, the arriving request body and the leaving response are
//! polled side by side. A connection that waits for its next call holds no buffer and no future.

mod reading;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper::body::Body as _;
use tokio::io::AsyncWrite as _;

use super::Handler;
use super::connection::Calls;
use super::drive::Drive;
use super::stream::{CallerStream, PREFACE};
use crate::clock::{Clock as _, SystemClock};
use crate::http1::{
    Asked, Encoder, Input, Limits, Output, Refused, RequestHead, Tunnel, Upgrade, WrongLength, response_head,
};
use crate::proxy::BodyError;
use reading::Reading;

/// Written before more of a body is asked for.
const ENOUGH: usize = 64 * 1024;

/// A connection whose socket has not ended.
pub(super) struct Connection<H: Handler> {
    /// `None` after the end.
    stream: Option<CallerStream>,
    input: Input,
    output: Output,
    reading: Reading,
    stage: Stage<H::Body>,
    /// Another call may follow.
    keep_alive: bool,
    /// The first bytes are not all there, or nobody has looked at them.
    may_be_http2: bool,
    /// The end of an answer is being written.
    answered: bool,
    limits: Limits,
    calls: Arc<Calls<H>>,
}

enum Stage<B> {
    /// For the next head, or for the rest of what belongs to the call before.
    Waiting,
    Calling(Calling<B>),
    Answering(B, Encoder),
    /// 101 is being written; after it, the connection is given away.
    Upgrading(Upgrade),
    Closing,
    /// The refusal is being written.
    Refusing(Refused),
}

struct Calling<B> {
    call: Pin<Box<dyn Future<Output = Response<B>> + Send>>,
    version: Version,
    head_only: bool,
    /// Where the caller asked for another protocol.
    upgrade: Option<Upgrade>,
}

/// How a connection ended.
pub(super) enum End {
    /// In order; what the caller still sends is not read.
    Closed(CallerStream),
    Refused(CallerStream, Refused),
    /// The first bytes were HTTP/2's; they are to be read again.
    Http2(CallerStream),
    /// It was given away.
    Tunnel,
    Broken(Broken),
}

/// Why a connection broke off.
#[derive(Debug)]
pub(super) enum Broken {
    Io(io::Error),
    /// The caller closed it before its answer was written.
    Left,
    /// The response can't be had to its end.
    Response(BodyError),
    WrongLength,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Left => f.write_str("the caller closed it before it was answered"),
            Self::Response(error) => write!(f, "the response broke off: {error}"),
            Self::WrongLength => f.write_str("the response is not as long as its Content-Length says"),
        }
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<WrongLength> for Broken {
    fn from(_: WrongLength) -> Self {
        Self::WrongLength
    }
}

impl<H: Handler> Connection<H> {
    /// `sniff`: the first bytes tell whether it is HTTP/2.
    pub(super) fn new(stream: CallerStream, sniff: bool, limits: Limits, calls: Arc<Calls<H>>) -> Self {
        Self {
            stream: Some(stream),
            input: Input::default(),
            output: Output::default(),
            reading: Reading::default(),
            stage: Stage::Waiting,
            keep_alive: true,
            may_be_http2: sniff,
            answered: false,
            limits,
            calls,
        }
    }

    /// One step on; `Some` at the end.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<End>, Broken>> {
        match &mut self.stage {
            Stage::Waiting => self.poll_waiting(cx),
            Stage::Calling(_) => self.poll_calling(cx),
            Stage::Answering(..) => self.poll_answering(cx),
            Stage::Upgrading(_) => self.poll_upgrading(cx),
            Stage::Closing => {
                ready!(self.poll_shut_down(cx))?;
                Poll::Ready(Ok(self.stream.take().map(End::Closed)))
            }
            Stage::Refusing(refused) => {
                let refused = *refused;
                ready!(self.poll_shut_down(cx))?;
                Poll::Ready(Ok(self.stream.take().map(|stream| End::Refused(stream, refused))))
            }
        }
    }

    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<End>, Broken>> {
        ready!(self.poll_flush_feeding(cx))?;
        if std::mem::take(&mut self.answered) {
            self.calls.watch.bytes_written();
        }
        let stream = self.stream.as_mut().ok_or(Broken::Left)?;
        if !ready!(self.reading.poll_finished(&mut self.input, stream, cx)) || !self.keep_alive {
            self.stage = Stage::Closing;
            return Poll::Ready(Ok(None));
        }
        match self.take_head() {
            Ok(Some(head)) => self.begin(head),
            Err(refused) => self.refuse(refused),
            Ok(None) => {
                if !self.input.is_empty() {
                    self.calls.watch.head_begins();
                }
                self.input.rest();
                self.output.rest();
                let stream = self.stream.as_mut().ok_or(Broken::Left)?;
                if ready!(self.input.poll_head(stream, cx))? == 0 {
                    self.keep_alive = false;
                } else if self.may_be_http2 && self.input.bytes.starts_with(PREFACE) {
                    return Poll::Ready(Ok(self.take_http2()));
                }
            }
        }
        Poll::Ready(Ok(None))
    }

    fn take_http2(&mut self) -> Option<End> {
        let mut stream = self.stream.take()?;
        stream.unread(std::mem::take(&mut self.input.bytes));
        Some(End::Http2(stream))
    }

    /// `None`: it is not whole yet.
    fn take_head(&mut self) -> Result<Option<RequestHead>, Refused> {
        if self.may_be_http2 && PREFACE.starts_with(&self.input.bytes) {
            return Ok(None);
        }
        if !self.reading.is_worth_a_try(&self.input.bytes) {
            return self.refuse_long_head();
        }
        match RequestHead::take(&mut self.input.bytes, self.limits)? {
            Some(head) => Ok(Some(head)),
            None => self.refuse_long_head(),
        }
    }

    fn refuse_long_head(&self) -> Result<Option<RequestHead>, Refused> {
        if self.input.bytes.len() > self.limits.bytes { Err(Refused::TooLarge) } else { Ok(None) }
    }

    fn refuse(&mut self, refused: Refused) {
        let mut response = Response::new(());
        *response.status_mut() = refused.status();
        let asked = Asked { version: Version::HTTP_11, head_only: false, keep_alive: false };
        response_head(self.output.tail(), asked, &response, (true, None), || SystemClock.wall());
        self.stage = Stage::Refusing(refused);
    }

    fn begin(&mut self, head: RequestHead) {
        self.may_be_http2 = false;
        self.keep_alive = head.keep_alive;
        self.calls.watch.call_begins();
        let mut body = self.reading.begin(head.body, head.expects_continue, &mut self.input.bytes);
        let mut upgrade = None;
        if head.upgrade {
            let (give, on_upgrade) = Upgrade::pair();
            upgrade = Some(give);
            body = body.with_upgrade(on_upgrade);
        }
        let head_only = head.method == Method::HEAD;
        let mut request = Box::new(Request::new(body));
        *request.method_mut() = head.method;
        *request.uri_mut() = head.uri;
        *request.version_mut() = head.version;
        *request.headers_mut() = head.headers;
        let call = Box::pin(Arc::clone(&self.calls).answer(request));
        self.stage = Stage::Calling(Calling { call, version: head.version, head_only, upgrade });
    }

    fn poll_calling(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<End>, Broken>> {
        loop {
            let Stage::Calling(calling) = &mut self.stage else { return Poll::Ready(Ok(None)) };
            if let Poll::Ready(response) = calling.call.as_mut().poll(cx) {
                self.begin_answer(response);
                return Poll::Ready(Ok(None));
            }
            // The call may just have asked for its body.
            if !self.feed(cx)? {
                ready!(self.poll_flush(cx))?;
                return Poll::Pending;
            }
        }
    }

    fn begin_answer(&mut self, response: Response<H::Body>) {
        let Stage::Calling(calling) = std::mem::replace(&mut self.stage, Stage::Waiting) else { return };
        let upgrade = calling.upgrade.filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS);
        // hyper's HTTP/2 says this in a frame; here the answer itself must say that it is the last one.
        let keep_alive = self.keep_alive && !self.calls.shared.drain.has_begun();
        self.answered = true;
        let asked = Asked {
            version: calling.version,
            head_only: calling.head_only,
            keep_alive: keep_alive || upgrade.is_some(),
        };
        let body = (response.body().is_end_stream(), response.body().size_hint().exact());
        let now = || SystemClock.wall();
        let (encoder, keep_alive) = response_head(self.output.tail(), asked, &response, body, now);
        self.keep_alive = keep_alive;
        if let Some(upgrade) = upgrade {
            self.stage = Stage::Upgrading(upgrade);
        } else if !encoder.is_none() {
            self.stage = Stage::Answering(response.into_body(), encoder);
        }
    }

    fn poll_answering(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<End>, Broken>> {
        loop {
            if self.output.len() >= ENOUGH {
                ready!(self.poll_flush_feeding(cx))?;
            }
            let Stage::Answering(body, encoder) = &mut self.stage else { return Poll::Ready(Ok(None)) };
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let trailers = match frame.into_data() {
                        Ok(data) => {
                            encoder.data(&mut self.output, data)?;
                            if !body.is_end_stream() {
                                continue;
                            }
                            None
                        }
                        Err(frame) => frame.into_trailers().ok(),
                    };
                    return Poll::Ready(self.end_answer(trailers.as_ref()));
                }
                Poll::Ready(None) => return Poll::Ready(self.end_answer(None)),
                Poll::Ready(Some(Err(error))) => {
                    // What came before the fault is the caller's.
                    let _ = self.poll_flush(cx);
                    return Poll::Ready(Err(Broken::Response(error)));
                }
                Poll::Pending if self.feed(cx)? => {}
                Poll::Pending => {
                    ready!(self.poll_flush(cx))?;
                    return Poll::Pending;
                }
            }
        }
    }

    fn end_answer(&mut self, trailers: Option<&HeaderMap>) -> Result<Option<End>, Broken> {
        if let Stage::Answering(_, encoder) = std::mem::replace(&mut self.stage, Stage::Waiting) {
            encoder.end(&mut self.output, trailers)?;
        }
        Ok(None)
    }

    fn poll_upgrading(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<End>, Broken>> {
        ready!(self.poll_flush(cx))?;
        if let Stage::Upgrading(upgrade) = std::mem::replace(&mut self.stage, Stage::Closing)
            && let Some(stream) = self.stream.take()
        {
            self.calls.watch.becomes_tunnel();
            upgrade.give(Tunnel::new(stream, std::mem::take(&mut self.input.bytes)));
        }
        Poll::Ready(Ok(Some(End::Tunnel)))
    }

    /// Whether the call has something new of its body.
    fn feed(&mut self, cx: &mut Context<'_>) -> Result<bool, Broken> {
        let stream = self.stream.as_mut().ok_or(Broken::Left)?;
        // Once the answer's head is written, 100 (Continue) would stand in the middle of the answer.
        let output = matches!(self.stage, Stage::Calling(_)).then_some(&mut self.output);
        self.reading.feed(&mut self.input, stream, output, cx)
    }

    /// Writes an answer. Where the caller does not take it, the call still has its body: a caller may send all of it
    /// before it reads.
    fn poll_flush_feeding(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let polled = self.poll_flush(cx);
        if polled.is_pending()
            && let Some(stream) = &mut self.stream
        {
            self.reading.feed_on(&mut self.input, stream, cx);
        }
        polled
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let stream = self.stream.as_mut().ok_or(Broken::Left)?;
        self.output.poll_write(stream, cx).map_err(Broken::Io)
    }

    fn poll_shut_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        ready!(self.poll_flush(cx))?;
        let stream = self.stream.as_mut().ok_or(Broken::Left)?;
        Pin::new(stream).poll_shutdown(cx).map_err(Broken::Io)
    }
}

impl<H: Handler> Drive for Connection<H> {
    type Output = End;

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        loop {
            match ready!(self.poll_step(context)) {
                Ok(None) => {}
                Ok(Some(end)) => return Poll::Ready(end),
                Err(broken) => return Poll::Ready(End::Broken(broken)),
            }
        }
    }

    fn shut_down(&mut self) {
        self.keep_alive = false;
    }
}
