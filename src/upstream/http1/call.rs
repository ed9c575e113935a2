//! One call over a connection.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, Method, Response, StatusCode, header};
use hyper::body::Body;

use super::super::error::UpstreamError;
use super::super::request_body::RequestBody;
use super::super::response_body::ResponseBody;
use super::super::{Answer, Failed, Head, SentBody, Upstream};
use super::overlap::Overlap;
use super::sending::{Halt, Sending};
use super::{Http1, NoHead};
use crate::http1::{Encoder, ResponseHead, request_head};

/// A call that waits for the head of its answer.
struct Exchange {
    connection: Box<Http1>,
    /// `None`: the call has no body.
    sending: Option<Box<Sending>>,
    /// All of the call is written, or nothing more of it can be.
    over: bool,
    /// Why nothing more could be written. The upstream may have answered before it closed (RFC 9112 section 9.5).
    unwritable: Option<io::Error>,
    /// Something of an answer came.
    answered: bool,
    /// What the connection had taken before this call.
    written_before: u64,
}

/// How a call ended without an answer.
enum Failure {
    NoHead(NoHead),
    /// Timeouts, and what the caller did to its body: no reason to send the call again.
    Final(UpstreamError),
}

impl Upstream {
    pub(in super::super) async fn attempt_http1(
        self: &Arc<Self>,
        mut connection: Box<Http1>,
        head: &Head,
        body: RequestBody,
    ) -> Result<Answer, Failed> {
        let sending = self.begin(&mut connection, head, body);
        let written_before = connection.written();
        let mut exchange =
            Exchange { connection, sending, over: false, unwritable: None, answered: false, written_before };
        match poll_fn(|cx| exchange.poll(self, &head.method, cx)).await {
            Ok(answer) => Ok(self.answer_http1(exchange, answer)),
            Err(failure) => Err(self.failed_http1(exchange, failure)),
        }
    }

    /// Writes the head to the connection's output.
    fn begin(&self, connection: &mut Http1, head: &Head, body: RequestBody) -> Option<Box<Sending>> {
        let headers = &head.headers;
        let has_body = !body.is_end_stream();
        let length = if has_body { sole_length(headers) } else { None };
        let chunked = has_body && length.is_none();
        // Whoever sends TE says that it is for this hop (RFC 9110 section 10.1.4).
        let te = !head.upgrade && headers.contains_key(header::TE);
        let first = [
            Some((&header::HOST, self.host.as_bytes())),
            te.then_some((&header::CONNECTION, &b"te"[..])),
            chunked.then_some((&header::TRANSFER_ENCODING, &b"chunked"[..])),
        ];
        let out = connection.output.tail();
        request_head(
            out,
            &head.method,
            &head.target,
            first.into_iter().flatten(),
            headers,
            |name| match name.as_str().len() {
                4 => *name == header::HOST,
                10 => te && *name == header::CONNECTION,
                14 => chunked && *name == header::CONTENT_LENGTH,
                17 => *name == header::TRANSFER_ENCODING,
                _ => false,
            },
        );
        let encoder = match length {
            _ if !has_body => return None,
            Some(length) => Encoder::length(length),
            None => Encoder::chunked(headers),
        };
        Some(Box::new(Sending::new(body, encoder, self.route.idle_timeout)))
    }

    fn answer_http1(self: &Arc<Self>, exchange: Exchange, head: ResponseHead) -> Answer {
        let Exchange { mut connection, sending, unwritable, over, .. } = exchange;
        let ResponseHead { status, reason, headers, body: mut decoder, keep_alive } = head;
        // Nothing can follow a head that the upstream answered before it had all of it.
        let keep = keep_alive && unwritable.is_none() && (over || sending.is_some());
        let (sent, rest) = match sending {
            None => (None, None),
            Some(mut sending) => {
                let sent = if sending.is_taken() {
                    SentBody::Whole(std::mem::replace(&mut sending.body, RequestBody::empty()))
                } else {
                    SentBody::Unfinished
                };
                (Some(sent), Some(sending).filter(|_| !over))
            }
        };
        let body = if status == StatusCode::SWITCHING_PROTOCOLS && connection.is_flushed() && rest.is_none() {
            ResponseBody::upgraded(connection)
        } else if let Some(rest) = rest {
            Overlap::begin(self, connection, decoder, *rest, keep)
        } else if let Some(whole) = decoder.take_whole(&mut connection.input.bytes) {
            if keep {
                connection.release(self);
            }
            ResponseBody::whole(whole)
        } else {
            ResponseBody::streamed(self, connection, decoder, keep)
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        if let Some(reason) = reason {
            response.extensions_mut().insert(reason);
        }
        Answer { response, body: sent }
    }

    #[cold]
    fn failed_http1(&self, exchange: Exchange, failure: Failure) -> Failed {
        let Exchange { connection, sending, answered, written_before, .. } = exchange;
        let name = &self.route.upstream.authority;
        let error = match failure {
            Failure::Final(error) => return Failed { error, body: None, written: true },
            Failure::NoHead(NoHead::Io(error)) => UpstreamError::io(&error, name),
            Failure::NoHead(NoHead::Closed) => UpstreamError::closed(name),
            Failure::NoHead(NoHead::Bad(head)) => UpstreamError::not_http(head, name),
        };
        let body = match sending {
            // Where an answer had begun, the call may not be sent again.
            _ if answered => None,
            None => Some(RequestBody::empty()),
            Some(sending) => {
                sending.body.returned().and_then(|returned| returned.again(self.route.idle_timeout))
            }
        };
        Failed { error, body, written: connection.written() > written_before }
    }
}

impl Exchange {
    fn poll(
        &mut self,
        upstream: &Upstream,
        method: &Method,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ResponseHead, Failure>> {
        if !self.over {
            self.poll_send(upstream, cx)?;
        }
        match self.connection.poll_head(method, &mut self.answered, cx) {
            Poll::Ready(Ok(head)) => return Poll::Ready(Ok(head)),
            Poll::Ready(Err(why)) => {
                let why = match (why, self.unwritable.take()) {
                    (NoHead::Closed, Some(error)) => NoHead::Io(error),
                    (why, _) => why,
                };
                return Poll::Ready(Err(Failure::NoHead(why)));
            }
            Poll::Pending => {}
        }
        match &mut self.sending {
            // `response_timeout` counts from the last byte of the body.
            Some(sending) if !self.over => {
                if sending.is_stuck(&self.connection, cx) {
                    return Poll::Ready(Err(Failure::Final(upstream.body_stuck(false))));
                }
            }
            _ => {
                if self.connection.patience.expired(cx) {
                    return Poll::Ready(Err(Failure::Final(upstream.no_response())));
                }
            }
        }
        Poll::Pending
    }

    fn poll_send(&mut self, upstream: &Upstream, cx: &mut Context<'_>) -> Result<(), Failure> {
        let polled = match &mut self.sending {
            Some(sending) => sending.poll(&mut self.connection, cx),
            None => self.connection.poll_flush(cx).map_err(Halt::Write),
        };
        match polled {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(Halt::Write(error))) => self.unwritable = Some(error),
            Poll::Ready(Err(Halt::Caller { stalled: true })) => {
                return Err(Failure::Final(upstream.body_stuck(true)));
            }
            Poll::Ready(Err(Halt::Caller { stalled: false })) => {
                return Err(Failure::Final(UpstreamError::caller_broke()));
            }
        }
        self.over = true;
        if self.sending.is_some() {
            self.connection.patience.moved();
        }
        Ok(())
    }
}

/// The length that the head gives, where it gives one.
fn sole_length(headers: &HeaderMap) -> Option<u64> {
    let mut lines = headers.get_all(header::CONTENT_LENGTH).iter();
    let (line, None) = (lines.next()?.to_str().ok()?, lines.next()) else { return None };
    if line.bytes().all(|byte| byte.is_ascii_digit()) { line.parse().ok() } else { None }
}
