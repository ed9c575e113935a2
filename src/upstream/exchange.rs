//! One request and its response over one connection.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use hyper::body::{Body, Incoming};
use tokio::time::Instant;

use super::connection::{Connection, Http1, Http2, Http2State};
use super::error::{UpstreamError, UpstreamErrorKind};
use super::origin::Origin;
use super::request_body::{Link, RequestBody};
use super::response_body::{Lease, ResponseBody};
use super::{Head, Upstream};
use crate::idle::Idle;
use crate::net::{Http2Failure, http2_failure};

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

impl Upstream {
    pub(super) async fn attempt(
        &self,
        connection: Connection,
        head: &Head,
        body: RequestBody,
    ) -> Result<Response<ResponseBody>, Box<Failed>> {
        match connection {
            Connection::Http1(connection) => self.attempt_http1(connection, head, body).await,
            // Boxed: it is no part of a request over HTTP/1.1.
            Connection::Http2(connection) => Box::pin(self.attempt_http2(connection, head, body)).await,
        }
    }

    async fn attempt_http1(
        &self,
        mut connection: Box<Http1>,
        head: &Head,
        mut body: RequestBody,
    ) -> Result<Response<ResponseBody>, Box<Failed>> {
        let mut link = body.link();
        let request = self.request_http1(head, body);
        let read = connection.traffic.read();
        connection.traffic.request_begins();
        connection.traffic.headway.made();
        let sending = Box::pin(connection.sender.try_send_request(request));
        let failure = match self.response(sending, &mut link, &mut connection.patience).await {
            Ok(response) => {
                connection.kept = kept(response.headers());
                connection.traffic.headway.made();
                connection.traffic.response_begins();
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    connection.traffic.headway.unlimited();
                }
                let lease = Lease::http1(connection, &self.origin, self.route.connection_max_age);
                return Ok(self.answer(response, lease, link));
            }
            Err(failure) => failure,
        };
        let died = Cause::Died { written: !connection.traffic.is_unwritten() };
        let answered = connection.traffic.read() > read;
        let judged = failure.judge(&self.origin, |_| if answered { Cause::Final } else { died });
        Err(Box::pin(self.failed(judged, link)).await)
    }

    async fn attempt_http2(
        &self,
        mut connection: Http2,
        head: &Head,
        mut body: RequestBody,
    ) -> Result<Response<ResponseBody>, Box<Failed>> {
        let mut link = body.link();
        let stream = connection.stream();
        let _silence = Silence::new(&connection.state, self.route.response_timeout);
        let request = self.request_http2(head, body);
        let written = connection.state.traffic.written();
        let sending = Box::pin(connection.sender.try_send_request(request));
        match self.response(sending, &mut link, &mut Idle::new(None)).await {
            Ok(response) => Ok(self.answer(response, Lease::Http2(stream), link)),
            Err(failure) => {
                let died = Cause::Died { written: connection.state.traffic.written() > written };
                let judged = failure.judge(&self.origin, |error| match http2_failure(error) {
                    Http2Failure::NotProcessed => Cause::NotProcessed,
                    Http2Failure::NeedsHttp1 => Cause::NeedsHttp1,
                    Http2Failure::Reset(_) => Cause::Final,
                    Http2Failure::Other => died,
                });
                if judged.cause != Cause::Final {
                    stream.retire();
                }
                Err(self.failed(judged, link).await)
            }
        }
    }

    fn answer(
        &self,
        response: Response<Incoming>,
        lease: Lease,
        link: Option<Link>,
    ) -> Response<ResponseBody> {
        ResponseBody::new(response, lease, self.route.idle_timeout, link)
    }

    /// Waits for the head of the response: `response_timeout` from the last byte of the body sent, and `idle_timeout`
    /// while the body does not move. `sending` is boxed: what is awaited is copied from level to level.
    fn response<F>(
        &self,
        mut sending: Pin<Box<F>>,
        link: &mut Option<Link>,
        patience: &mut Idle,
    ) -> impl Future<Output = Result<Response<Incoming>, Failure>>
    where
        F: Future<Output = Result<Response<Incoming>, Unsent>>,
    {
        let mut stall = Idle::new(self.route.idle_timeout);
        patience.set_limit(self.route.response_timeout);
        patience.moved();
        poll_fn(move |cx| {
            if let Poll::Ready(outcome) = sending.as_mut().poll(cx) {
                return Poll::Ready(outcome.map_err(Failure::from));
            }
            if let Some(link) = link
                && link.poll_sent(cx).is_pending()
            {
                return self.poll_body_stuck(link, &mut stall, cx);
            }
            if patience.expired(cx) { Poll::Ready(Err(self.no_response())) } else { Poll::Pending }
        })
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

    /// Gets the body back, where the request may be sent again.
    #[cold]
    async fn failed(&self, mut failed: Failed, link: Option<Link>) -> Box<Failed> {
        if failed.cause != Cause::Final && failed.body.is_none() {
            failed.body = match link {
                None => Some(RequestBody::empty()),
                // The request is gone, and its body with it: this does not wait for the caller.
                Some(mut link) => {
                    poll_fn(|cx| link.poll_sent(cx)).await;
                    link.again(self.route.idle_timeout)
                }
            };
        }
        Box::new(failed)
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

/// Watches that the connection says anything at all while a request waits. Where it does not, whoever comes next would
/// wait in vain as well: a firewall may have forgotten the connection, and none of its ends hears of that.
struct Silence {
    state: Arc<Http2State>,
    since: Instant,
    read: u64,
    patience: Duration,
}

/// How long a request waits before its connection counts as silent, where its caller leaves.
const SILENCE: Duration = Duration::from_secs(1);

impl Silence {
    fn new(state: &Arc<Http2State>, response_timeout: Option<Duration>) -> Self {
        let patience = response_timeout.map_or(SILENCE, |timeout| timeout.min(SILENCE));
        Self { state: Arc::clone(state), since: Instant::now(), read: state.traffic.read(), patience }
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        if self.state.traffic.read() == self.read && self.since.elapsed() >= self.patience {
            self.state.retire();
        }
    }
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// `Keep-Alive: timeout=5` says for how many seconds the upstream keeps the connection. A second less, for the way there;
/// of a single second, half.
fn kept(headers: &HeaderMap) -> Option<Duration> {
    let line = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    let parameter = |item: &str| {
        let (name, value) = item.trim().split_once('=')?;
        let seconds = value.trim().trim_matches('"').parse::<u32>().ok()?;
        name.trim().eq_ignore_ascii_case("timeout").then(|| Duration::from_secs(seconds.into()))
    };
    let said = line.split(',').find_map(parameter)?;
    Some(said.saturating_sub(Duration::from_secs(1)).max(said.min(Duration::from_secs(1)) / 2))
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

impl Failure {
    /// `judge`: what hyper's error says, where the connection ended.
    fn judge(self, origin: &Origin, judge: impl FnOnce(&hyper::Error) -> Cause) -> Failed {
        match self {
            Self::Timeout(error) => Failed { error, body: None, cause: Cause::Final },
            Self::Unsent(error, request) => Failed {
                error: UpstreamError::http(&error, origin),
                body: Some(request.into_body()),
                cause: Cause::Died { written: false },
            },
            Self::Broken(broken) => {
                let error = UpstreamError::http(&broken, origin);
                // What the caller did to its body, and a response that is none, are no reason to try again.
                let cause = if error.is_connections_end() { judge(&broken) } else { Cause::Final };
                Failed { error, body: None, cause }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_says_how_long_it_keeps_a_connection() {
        for (line, ms) in [
            ("timeout=5", Some(4_000)),
            ("timeout=5, max=100", Some(4_000)),
            ("max=100 , Timeout = \"30\"", Some(29_000)),
            ("timeout=1", Some(500)),
            ("timeout=2", Some(1_000)),
            ("timeout=0", Some(0)),
            ("timeout=-1", None),
            ("timeout", None),
            ("max=5", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("keep-alive", line.parse().unwrap());
            assert_eq!(kept(&headers), ms.map(Duration::from_millis), "{line}");
        }
    }
}
