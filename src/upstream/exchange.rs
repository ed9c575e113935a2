//! One request and its response over one connection.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use hyper::body::{Body, Incoming};
use tokio::time::Instant;

use super::connection::{Connection, Http1, Http2};
use super::error::{UpstreamError, UpstreamErrorKind};
use super::request_body::{Link, RequestBody, Returned};
use super::response_body::{Lease, ResponseBody};
use super::{Head, Upstream};
use crate::idle::Idle;
use crate::net::{Http2Failure, http2_failure};

/// An upstream's response.
#[derive(Debug)]
pub struct Answer {
    pub response: Response<ResponseBody>,
    /// Where the request had a body: the way to have it again.
    body: Option<SentBody>,
}

/// A body that was sent, wholly or not yet.
#[derive(Debug)]
enum SentBody {
    Done(Box<Returned>),
    Underway(Link),
}

/// An attempt without a response, and what is needed for another one.
pub(super) struct Failed {
    pub(super) error: UpstreamError,
    /// `None`: it cannot be sent again.
    pub(super) body: Option<RequestBody>,
    pub(super) cause: Cause,
}

/// What a failure says about sending the request again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// It was not processed, and the connection takes no more requests.
    NotProcessed,
    /// The upstream wants it over HTTP/1.1.
    NeedsHttp1,
    /// The connection died before any byte of a response.
    Died { written: bool },
    /// It may have been processed, or it is too late for it.
    Final,
}

impl Answer {
    /// The request's body once more, where it was sent whole and is kept whole.
    pub fn body_again(&mut self, idle: Option<Duration>) -> Option<RequestBody> {
        let returned = match self.body.take() {
            None => return Some(RequestBody::empty()),
            Some(SentBody::Done(returned)) => *returned,
            Some(SentBody::Underway(mut link)) => link.sent_already()?,
        };
        if returned.is_kept_whole() { returned.again(idle) } else { None }
    }
}

impl Upstream {
    pub(super) async fn attempt(
        &self,
        connection: Connection,
        head: &Head,
        mut body: RequestBody,
    ) -> Result<Answer, Box<Failed>> {
        let sent = body.link().map(SentBody::Underway);
        match connection {
            Connection::Http1(connection) => self.attempt_http1(connection, head, body, sent).await,
            // Boxed: it is no part of a request over HTTP/1.1.
            Connection::Http2(connection) => Box::pin(self.attempt_http2(connection, head, body, sent)).await,
        }
    }

    async fn attempt_http1(
        &self,
        mut connection: Http1,
        head: &Head,
        body: RequestBody,
        mut sent: Option<SentBody>,
    ) -> Result<Answer, Box<Failed>> {
        let request = self.request_http1(head, body);
        let (read, written) = (connection.traffic.read(), connection.traffic.written());
        connection.traffic.headway.made();
        let sending = connection.sender.try_send_request(request);
        match self.response(sending, &mut sent, &mut connection.patience).await {
            Ok(response) => {
                connection.kept_until = kept_until(response.headers());
                connection.traffic.headway.made();
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    connection.traffic.headway.unlimited();
                }
                let max_age = self.route.connection_max_age;
                let lease = Lease::Http1 { connection, origin: Arc::downgrade(&self.origin), max_age };
                Ok(self.answer(response, lease, sent))
            }
            Err(failure) => {
                let died = Cause::Died { written: connection.traffic.written() > written };
                let answered = connection.traffic.read() > read;
                Err(self.failed(failure, sent, |_| if answered { Cause::Final } else { died }).await)
            }
        }
    }

    async fn attempt_http2(
        &self,
        mut connection: Http2,
        head: &Head,
        body: RequestBody,
        mut sent: Option<SentBody>,
    ) -> Result<Answer, Box<Failed>> {
        let stream = connection.stream();
        let request = self.request_http2(head, body);
        let read = connection.state.traffic.read();
        let sending = connection.sender.try_send_request(request);
        match self.response(sending, &mut sent, &mut Idle::new(None)).await {
            Ok(response) => Ok(self.answer(response, Lease::Http2(stream), sent)),
            Err(failure) => {
                drop(stream);
                // Nothing at all came while this request was waiting: what comes next would wait in vain as well.
                let silent =
                    matches!(failure, Failure::Timeout(_)) && connection.state.traffic.read() == read;
                let judge = |error: &hyper::Error| match http2_failure(error) {
                    Http2Failure::NotProcessed => Cause::NotProcessed,
                    Http2Failure::NeedsHttp1 => Cause::NeedsHttp1,
                    Http2Failure::Reset(_) => Cause::Final,
                    Http2Failure::Other => Cause::Died { written: true },
                };
                let failed = self.failed(failure, sent, judge).await;
                if silent || failed.cause != Cause::Final {
                    connection.retire();
                }
                Err(failed)
            }
        }
    }

    fn answer(&self, response: Response<Incoming>, lease: Lease, body: Option<SentBody>) -> Answer {
        let progress = match &body {
            Some(SentBody::Underway(link)) => Some(Arc::clone(&link.progress)),
            Some(SentBody::Done(_)) | None => None,
        };
        let idle = self.route.idle_timeout;
        let response = response.map(|incoming| ResponseBody::new(incoming, lease, idle, progress));
        Answer { response, body }
    }

    /// Waits for the head of the response: `response_timeout` from the last byte of the body sent, and `idle_timeout`
    /// while the body does not move.
    async fn response<F>(
        &self,
        sending: F,
        body: &mut Option<SentBody>,
        patience: &mut Idle,
    ) -> Result<Response<Incoming>, Failure>
    where
        F: Future<Output = Result<Response<Incoming>, Unsent>>,
    {
        let mut sending = pin!(sending);
        let mut stall = Idle::new(self.route.idle_timeout);
        patience.set_limit(self.route.response_timeout);
        patience.moved();
        poll_fn(|cx| {
            if let Poll::Ready(outcome) = sending.as_mut().poll(cx) {
                return Poll::Ready(outcome.map_err(Failure::from));
            }
            if let Some(SentBody::Underway(link)) = body {
                let Poll::Ready(returned) = link.poll_sent(cx) else {
                    return self.poll_body_stuck(link, &mut stall, cx);
                };
                *body = returned.map(|returned| SentBody::Done(Box::new(returned)));
            }
            if patience.expired(cx) { Poll::Ready(Err(self.no_response())) } else { Poll::Pending }
        })
        .await
    }

    fn poll_body_stuck<T>(
        &self,
        link: &mut Link,
        stall: &mut Idle,
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, Failure>> {
        if link.has_moved() {
            stall.moved();
        }
        if stall.expired(cx) { Poll::Ready(Err(self.body_stuck(link))) } else { Poll::Pending }
    }

    #[cold]
    fn no_response(&self) -> Failure {
        let limit = self.route.response_timeout.unwrap_or_default();
        Failure::Timeout(UpstreamError::new(
            UpstreamErrorKind::Timeout,
            "http_response_timeout",
            format!(
                "{} sent no response within response_timeout ({})",
                self.origin.name(),
                humantime::format_duration(limit)
            ),
        ))
    }

    #[cold]
    fn body_stuck(&self, link: &Link) -> Failure {
        let limit = humantime::format_duration(self.route.idle_timeout.unwrap_or_default());
        Failure::Timeout(if link.awaits_caller() {
            UpstreamError::new(
                UpstreamErrorKind::CallerBody,
                "http_request_error",
                format!("the caller sent nothing of its request body for idle_timeout ({limit})"),
            )
        } else {
            let name = self.origin.name();
            UpstreamError::new(
                UpstreamErrorKind::Timeout,
                "connection_write_timeout",
                format!("{name} took nothing of the request body for idle_timeout ({limit})"),
            )
        })
    }

    #[cold]
    async fn failed(
        &self,
        failure: Failure,
        sent: Option<SentBody>,
        judge: impl FnOnce(&hyper::Error) -> Cause,
    ) -> Box<Failed> {
        Box::new(match failure {
            Failure::Timeout(error) => Failed { error, body: None, cause: Cause::Final },
            Failure::Unsent(error, request) => Failed {
                error: UpstreamError::http(&error, &self.origin),
                body: Some(request.into_body()),
                cause: Cause::Died { written: false },
            },
            Failure::Broken(error) => {
                let cause = judge(&error);
                let error = UpstreamError::http(&error, &self.origin);
                // What the caller did to its body, and a response that is none, are no reason to try again.
                let cause = if error.is_connections_end() { cause } else { Cause::Final };
                let body = if cause == Cause::Final { None } else { self.body_again(sent).await };
                Failed { error, body, cause }
            }
        })
    }

    async fn body_again(&self, sent: Option<SentBody>) -> Option<RequestBody> {
        match sent {
            None => Some(RequestBody::empty()),
            Some(SentBody::Done(returned)) => returned.again(self.route.idle_timeout),
            // The stream is gone, and its body with it: this does not wait for the caller.
            Some(SentBody::Underway(mut link)) => {
                poll_fn(|cx| link.poll_sent(cx)).await?.again(self.route.idle_timeout)
            }
        }
    }

    fn request_http1(&self, head: &Head, body: RequestBody) -> Request<RequestBody> {
        let chunked = !body.is_end_stream() && !head.headers.contains_key(header::CONTENT_LENGTH);
        let mut request = Request::new(body);
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = Uri::from(head.target.clone());
        *request.headers_mut() = head.headers.clone();
        let headers = request.headers_mut();
        if chunked {
            // Where nothing is said, hyper leaves the body of a GET or HEAD out.
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        headers.insert(header::HOST, self.origin.host.clone());
        if !head.upgrade && head.headers.contains_key(header::TE) {
            // Whoever sends TE says that it is for this hop (RFC 9110 section 10.1.4).
            headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        }
        request
    }

    fn request_http2(&self, head: &Head, body: RequestBody) -> Request<RequestBody> {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.origin.scheme.clone());
        parts.authority = Some(self.origin.authority.clone());
        parts.path_and_query = Some(head.target.clone());
        let mut request = Request::new(body);
        *request.method_mut() = head.method.clone();
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path make a URI");
        *request.headers_mut() = head.headers.clone();
        request.headers_mut().remove(header::HOST);
        // What HTTP/1.1 says of a connection, HTTP/2 does not know (RFC 9113 section 8.2.2).
        request.headers_mut().remove(header::CONNECTION);
        request
    }
}

/// `Keep-Alive: timeout=5` says how long the upstream keeps the connection, in seconds. A second less, for the way there.
fn kept_until(headers: &HeaderMap) -> Option<Instant> {
    let line = headers.get("keep-alive")?.to_str().ok()?;
    let parameter = |item: &str| {
        let (name, value) = item.trim().split_once('=')?;
        let seconds = value.trim().trim_matches('"').parse::<u32>().ok()?;
        name.trim().eq_ignore_ascii_case("timeout").then_some(seconds)
    };
    let seconds = line.split(',').find_map(parameter)?;
    Some(Instant::now() + Duration::from_secs(u64::from(seconds).saturating_sub(1)))
}

type Unsent = hyper::client::conn::TrySendError<Request<RequestBody>>;

/// How an attempt ended without a response.
enum Failure {
    /// Nothing was written: the request came back.
    Unsent(hyper::Error, Box<Request<RequestBody>>),
    Broken(hyper::Error),
    Timeout(UpstreamError),
}

impl From<Unsent> for Failure {
    fn from(mut error: Unsent) -> Self {
        match error.take_message() {
            Some(request) => Self::Unsent(error.into_error(), Box::new(request)),
            None => Self::Broken(error.into_error()),
        }
    }
}
