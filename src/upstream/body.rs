//! The two bodies of a request to an upstream, and their trailers.
//!
//! The caller's body is forwarded as it arrives. A copy is kept up to a limit, and never delays it. When a connection has sent
//! a body, or fails while sending it, the body returns to its request: the frames that were kept, and what the caller has not
//! sent yet. So a request can be sent once more.
//!
//! The upstream's body returns its connection to the pool when both bodies have ended.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::connection::{Http1, StreamInUse};
use super::{Origin, connection};
use crate::flow::Outlet;
use crate::idle::Idle;
use crate::inbound::{CallerBody, CallerBodyError};

/// The most bytes that all kept bodies of the process may hold together. Beyond that, a body is forwarded and not kept.
const MOST_KEPT: usize = 32 * 1024 * 1024;

/// Chunks smaller than this are copied together, so that a kept body does not hold many large read buffers.
const SMALL_CHUNK: usize = 1024;

static KEPT: AtomicUsize = AtomicUsize::new(0);

type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The progress of a body, shared with the request that waits for the response.
#[derive(Debug, Default)]
struct UploadProgress {
    /// Frames that the connection took.
    moved: AtomicU64,
    /// The connection requests more than the caller has sent.
    awaiting_caller: AtomicBool,
    /// Frames of the response's body that have arrived meanwhile.
    response_frames: AtomicU64,
}

/// A body that has returned to its request.
#[derive(Debug)]
struct ReturnedBody {
    kept: Option<ReplayCopy>,
    rest: Option<CallerBody>,
    trailers: TrailerRules,
}

/// A request's view of its body while a connection sends it.
#[derive(Debug)]
pub(super) struct Link {
    progress: Arc<UploadProgress>,
    coming: oneshot::Receiver<ReturnedBody>,
    /// The body, after it has returned.
    returned: Option<Box<ReturnedBody>>,
    /// The last value of [`UploadProgress::moved`].
    seen: u64,
}

/// The caller's body on its way to the upstream. Boxed if there is one, because it moves several times and most requests have
/// none.
#[derive(Debug)]
pub struct RequestBody(Option<Box<Upload>>);

#[derive(Debug)]
struct Upload {
    replay: VecDeque<Bytes>,
    replay_trailers: Option<HeaderMap>,
    /// `None` if the caller's body has ended.
    incoming: Option<CallerBody>,
    /// A copy of everything that was sent.
    kept: Option<ReplayCopy>,
    idle: Idle,
    outlet: Outlet,
    trailers: TrailerRules,
    sending: Option<Sending>,
}

#[derive(Debug)]
struct Sending {
    progress: Arc<UploadProgress>,
    /// The last value of [`UploadProgress::response_frames`].
    response_frames: u64,
    returned: oneshot::Sender<ReturnedBody>,
}

impl RequestBody {
    /// `keep`: how many bytes may be kept for a replay. `idle`: how long the caller may send nothing. `trailers`: the rules for
    /// its trailers.
    pub fn new(
        incoming: CallerBody,
        keep: usize,
        idle: Option<Duration>,
        trailers: impl FnOnce() -> TrailerRules,
    ) -> Self {
        if incoming.is_end_stream() {
            return Self::empty();
        }
        Self(Some(Box::new(Upload {
            replay: VecDeque::new(),
            replay_trailers: None,
            incoming: Some(incoming),
            kept: Some(ReplayCopy::new(keep)),
            idle: Idle::new(idle),
            outlet: Outlet::default(),
            trailers: trailers(),
            sending: None,
        })))
    }

    pub fn empty() -> Self {
        Self(None)
    }

    /// Connects the body with its request. `None` if there is no body.
    pub(super) fn link(&mut self) -> Option<Link> {
        let upload = self.0.as_mut().filter(|upload| !upload.is_end_stream())?;
        let progress = Arc::new(UploadProgress::default());
        let (send, coming) = oneshot::channel();
        upload.sending =
            Some(Sending { progress: Arc::clone(&progress), response_frames: 0, returned: send });
        Some(Link { progress, coming, returned: None, seen: 0 })
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Some(upload) => upload.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|upload| upload.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |upload| upload.size_hint())
    }
}

impl Upload {
    fn next_replayed(&mut self) -> Option<Frame<Bytes>> {
        if let Some(chunk) = self.replay.pop_front() {
            return Some(Frame::data(chunk));
        }
        self.replay_trailers.take().map(Frame::trailers)
    }

    fn poll_caller(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        match Pin::new(&mut *incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.idle.moved();
                if frame.trailers_ref().is_some_and(has_padded_value) {
                    let what = "a trailer's value begins or ends with white space".to_owned();
                    return Poll::Ready(Some(Err(Box::new(CallerBodyError::Malformed(what)))));
                }
                let ended = incoming.is_end_stream();
                let mut frame = self.trailers.apply(frame);
                if let Some(kept) = &mut self.kept {
                    kept.add(&frame);
                }
                if !ended {
                    frame = self.outlet.lend(frame);
                }
                if frame.is_trailers() {
                    // Nothing follows trailers, and nobody polls again.
                    self.incoming = None;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(Box::new(error)))),
            Poll::Ready(None) => {
                self.incoming = None;
                Poll::Ready(None)
            }
            Poll::Pending if self.is_stalled(cx) => {
                Poll::Ready(Some(Err(Box::new(CallerBodyError::Stalled))))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Whether the caller has stalled. It may pause while the response moves, because the request as a whole is not idle then.
    fn is_stalled(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(sending) = &mut self.sending {
            let response_frames = sending.progress.response_frames.load(Ordering::Relaxed);
            if std::mem::replace(&mut sending.response_frames, response_frames) != response_frames {
                self.idle.moved();
            }
        }
        self.idle.expired(cx)
    }

    fn note(&self, polled: &Poll<Option<Result<Frame<Bytes>, BodyError>>>) {
        let Some(sending) = &self.sending else { return };
        match polled {
            Poll::Ready(_) => {
                sending.progress.moved.fetch_add(1, Ordering::Relaxed);
                sending.progress.awaiting_caller.store(false, Ordering::Relaxed);
            }
            Poll::Pending => sending.progress.awaiting_caller.store(true, Ordering::Relaxed),
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = match self.next_replayed() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => {
                // While there is no room, bearerd is not waiting for the caller.
                ready!(self.outlet.poll_room(cx));
                self.poll_caller(cx)
            }
        };
        self.note(&polled);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.replay.is_empty()
            && self.replay_trailers.is_none()
            && self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let replayed: u64 = self.replay.iter().map(|chunk| chunk.len() as u64).sum();
        let rest = self.incoming.as_ref().map(Body::size_hint).unwrap_or_else(|| SizeHint::with_exact(0));
        let mut hint = SizeHint::new();
        hint.set_lower(replayed.saturating_add(rest.lower()));
        // An exact size leads to Content-Length, which allows no trailers.
        if let (Some(upper), None) = (rest.upper(), &self.replay_trailers) {
            hint.set_upper(replayed.saturating_add(upper));
        }
        hint
    }
}

impl Upload {
    fn give_up(&mut self) -> ReturnedBody {
        ReturnedBody { kept: self.kept.take(), rest: self.incoming.take(), trailers: self.trailers.clone() }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(sending) = self.sending.take() else { return };
        // The request may have ended already. Then nobody needs the body.
        let _ = sending.returned.send(self.give_up());
    }
}

impl Link {
    /// Ready once the body was sent completely or was dropped.
    pub(super) fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.coming.is_terminated() {
            self.returned = ready!(Pin::new(&mut self.coming).poll(cx)).ok().map(Box::new);
        }
        Poll::Ready(())
    }

    /// [`Self::poll_sent`] without waiting.
    fn is_sent(&mut self) -> bool {
        self.poll_sent(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Whether the body has moved since the last such question.
    pub(super) fn has_moved(&mut self) -> bool {
        let moved = self.progress.moved.load(Ordering::Relaxed);
        std::mem::replace(&mut self.seen, moved) != moved
    }

    /// Whether the connection requests more than the caller has sent.
    pub(super) fn awaits_caller(&self) -> bool {
        self.progress.awaiting_caller.load(Ordering::Relaxed)
    }

    /// A frame of the response's body has arrived.
    fn note_response_frame(&self) {
        self.progress.response_frames.fetch_add(1, Ordering::Relaxed);
    }

    /// The body once more. `None` if it has not returned, or was not kept.
    pub(super) fn again(&mut self, idle: Option<Duration>) -> Option<RequestBody> {
        self.returned.take()?.again(idle)
    }

    /// The same, but only if it was sent completely.
    fn again_whole(&mut self, idle: Option<Duration>) -> Option<RequestBody> {
        if !self.is_sent() || !self.returned.as_ref()?.is_kept_whole() {
            return None;
        }
        self.again(idle)
    }
}

impl ReturnedBody {
    /// Whether it was sent completely, and all of it is kept.
    fn is_kept_whole(&self) -> bool {
        let finished = self.rest.as_ref().is_none_or(Body::is_end_stream);
        finished && self.kept.as_ref().is_some_and(|kept| !kept.overflowed)
    }

    /// The body once more. `None` if it was not kept.
    fn again(self, idle: Option<Duration>) -> Option<RequestBody> {
        let mut kept = self.kept?;
        let (replay, replay_trailers) = kept.again()?;
        Some(RequestBody(Some(Box::new(Upload {
            replay,
            replay_trailers,
            incoming: self.rest,
            kept: Some(kept),
            idle: Idle::new(idle),
            outlet: Outlet::default(),
            trailers: self.trailers,
            sending: None,
        }))))
    }
}

/// A copy of what was sent, as long as it fits.
#[derive(Debug)]
struct ReplayCopy {
    frames: Vec<Bytes>,
    small: BytesMut,
    trailers: Option<HeaderMap>,
    size: usize,
    limit: usize,
    overflowed: bool,
}

impl ReplayCopy {
    fn new(limit: usize) -> Self {
        Self { frames: Vec::new(), small: BytesMut::new(), trailers: None, size: 0, limit, overflowed: false }
    }

    fn add(&mut self, frame: &Frame<Bytes>) {
        if self.overflowed {
            return;
        }
        if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
            return;
        }
        let Some(data) = frame.data_ref() else { return };
        if self.size + data.len() > self.limit || !reserve(data.len()) {
            self.overflowed = true;
            self.forget();
            return;
        }
        self.size += data.len();
        if data.len() < SMALL_CHUNK {
            self.small.extend_from_slice(data);
        } else {
            self.flush_small();
            self.frames.push(data.clone());
        }
    }

    fn flush_small(&mut self) {
        if !self.small.is_empty() {
            self.frames.push(self.small.split().freeze());
        }
    }

    fn forget(&mut self) {
        KEPT.fetch_sub(self.size, Ordering::Relaxed);
        self.size = 0;
        self.frames = Vec::new();
        self.small = BytesMut::new();
    }

    fn again(&mut self) -> Option<(VecDeque<Bytes>, Option<HeaderMap>)> {
        if self.overflowed {
            return None;
        }
        self.flush_small();
        Some((self.frames.iter().cloned().collect(), self.trailers.clone()))
    }
}

impl Drop for ReplayCopy {
    fn drop(&mut self) {
        self.forget();
    }
}

/// Reserves a part of [`MOST_KEPT`].
fn reserve(bytes: usize) -> bool {
    let before = KEPT.fetch_add(bytes, Ordering::Relaxed);
    if before.saturating_add(bytes) > MOST_KEPT {
        KEPT.fetch_sub(bytes, Ordering::Relaxed);
        return false;
    }
    true
}

/// How long an upstream that has refused a request may accept no part of its body before bearerd discards the rest. The caller
/// may not read the response until it has sent everything.
const REFUSED_PATIENCE: Duration = Duration::from_secs(1);

/// An upstream's response body.
#[derive(Debug)]
pub struct ResponseBody {
    incoming: Incoming,
    ended: bool,
    /// The connection, until the body ends. If the body is dropped before, the connection ends with it, because the rest of this
    /// response could still arrive on it.
    lease: Option<Lease>,
    idle: Idle,
    /// How long the request's body may stall once this one has ended.
    patience: Option<Duration>,
    /// The request's body, if it may still be moving. While it moves, the request is not idle.
    link: Option<Link>,
}

/// A connection in use by one request.
pub(super) enum Lease {
    Http1 { connection: Box<Http1>, origin: Weak<Origin>, max_age: Option<Duration> },
    Http2(StreamInUse),
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Http1 { .. } => "Http1",
            Self::Http2(_) => "Http2",
        })
    }
}

impl Lease {
    pub(super) fn http1(connection: Box<Http1>, origin: &Arc<Origin>, max_age: Option<Duration>) -> Self {
        Self::Http1 { connection, origin: Arc::downgrade(origin), max_age }
    }

    /// Returns the connection to the pool after both bodies have ended.
    fn release(self) {
        if let Self::Http1 { connection, origin, max_age } = self
            && let Some(origin) = origin.upgrade()
        {
            connection::return_http1(&origin, connection, max_age);
        }
    }

    /// After a response that was complete before its request: waits until the request is sent. If the upstream accepts no more
    /// of it, the connection ends, and the rest is discarded.
    async fn release_after(self, mut link: Link, mut idle: Idle) {
        let sent = poll_fn(|cx| {
            if link.poll_sent(cx).is_ready() {
                return Poll::Ready(true);
            }
            // A caller that pauses has a limit of its own.
            if link.has_moved() || link.awaits_caller() {
                idle.moved();
            }
            if idle.expired(cx) { Poll::Ready(false) } else { Poll::Pending }
        });
        match (sent.await, self) {
            (true, lease) => lease.release(),
            (false, Self::Http1 { connection, .. }) => connection.abort(),
            (false, Self::Http2(stream)) => stream.abandon().await,
        }
    }
}

impl ResponseBody {
    pub(super) fn new(
        response: Response<Incoming>,
        lease: Lease,
        idle: Option<Duration>,
        link: Option<Link>,
    ) -> Response<Self> {
        let refused = response.status().is_client_error() || response.status().is_server_error();
        let patience = if refused { idle.map(|idle| idle.min(REFUSED_PATIENCE)) } else { idle };
        response.map(|incoming| {
            let ended = incoming.is_end_stream();
            let mut body =
                Self { incoming, ended, lease: Some(lease), idle: Idle::new(idle), patience, link };
            body.release_at_end();
            body
        })
    }

    /// The request's body once more. `None` if it was not sent completely, or not kept completely.
    pub fn request_again(&mut self, idle: Option<Duration>) -> Option<RequestBody> {
        match &mut self.link {
            None => Some(RequestBody::empty()),
            Some(link) => link.again_whole(idle),
        }
    }

    /// Whether nothing of it is missing. Whoever knows its length may not ask for what comes after its last byte.
    pub fn is_at_end(&self) -> bool {
        self.ended || self.incoming.is_end_stream() || self.incoming.size_hint().exact() == Some(0)
    }

    fn release_at_end(&mut self) {
        if self.ended
            && self.link.as_mut().is_none_or(Link::is_sent)
            && let Some(lease) = self.lease.take()
        {
            lease.release();
        }
    }

    /// Whether hyper's end of this body is none. To hyper, a reset without error ends a body over HTTP/2, because it may follow a
    /// response that came before the end of its request (RFC 9113 section 8.1). But only END_STREAM says that the response is
    /// whole.
    fn is_cut_off(&self) -> bool {
        !self.ended && matches!(self.lease, Some(Lease::Http2(_))) && !self.incoming.is_end_stream()
    }

    fn is_stalled(&mut self, cx: &mut Context<'_>) -> bool {
        if self.link.as_mut().is_some_and(Link::has_moved) {
            self.idle.moved();
        }
        self.idle.expired(cx)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // The caller gets this response, so the kept copy of the request is not needed any more.
        self.link.take_if(|link| link.is_sent());
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) if frame.trailers_ref().is_some_and(has_padded_value) => {
                self.lease = None;
                Poll::Ready(Some(Err(
                    "a value in the upstream's trailers begins or ends with white space".into()
                )))
            }
            Poll::Ready(Some(Ok(frame))) => {
                self.idle.moved();
                if let Some(Lease::Http1 { connection, .. }) = &self.lease {
                    connection.traffic.headway.made();
                }
                if let Some(link) = &self.link {
                    link.note_response_frame();
                }
                // Nothing follows trailers, and nobody polls again.
                self.ended = frame.is_trailers() || self.incoming.is_end_stream();
                self.release_at_end();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.lease = None;
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) if self.is_cut_off() => {
                self.lease = None;
                Poll::Ready(Some(Err("the upstream reset the stream before the end of its response".into())))
            }
            Poll::Ready(None) => {
                self.ended = true;
                self.release_at_end();
                Poll::Ready(None)
            }
            Poll::Pending if self.is_stalled(cx) => {
                self.lease = None;
                Poll::Ready(Some(Err("the upstream's body stalled for longer than idle_timeout".into())))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if self.ended
            && let (Some(lease), Some(link)) = (self.lease.take(), self.link.take())
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(lease.release_after(link, Idle::new(self.patience)));
        }
    }
}

/// Which trailers are dropped, besides those of [`is_never_a_trailer`]. Clones share the list.
///
/// Trailers follow the rules of header fields in both directions, because a recipient may merge them into the header section.
#[derive(Debug, Clone)]
pub struct TrailerRules(Arc<Vec<String>>);

impl TrailerRules {
    /// `owned`: fields that bearerd sets or removes.
    pub fn new<'a>(owned: impl IntoIterator<Item = &'a HeaderName>) -> Self {
        Self(Arc::new(owned.into_iter().map(|name| squeeze(name.as_str())).collect()))
    }

    /// The rules for one message. The fields in `more` are dropped, too.
    pub fn with<'a>(&self, more: impl IntoIterator<Item = &'a HeaderName>) -> Self {
        let mut rules = self.clone();
        for name in more {
            Arc::make_mut(&mut rules.0).push(squeeze(name.as_str()));
        }
        rules
    }

    /// Removes the trailers that are not forwarded, if the frame has trailers.
    pub fn apply(&self, mut frame: Frame<Bytes>) -> Frame<Bytes> {
        if let Some(trailers) = frame.trailers_mut() {
            self.clean(trailers);
        }
        frame
    }

    fn clean(&self, trailers: &mut HeaderMap) {
        let dropped = |name: &&HeaderName| {
            let squeezed = squeeze(name.as_str());
            is_never_a_trailer(&squeezed) || self.0.contains(&squeezed)
        };
        let dropped: Vec<HeaderName> = trailers.keys().filter(dropped).cloned().collect();
        for name in dropped {
            trailers.remove(name);
        }
    }
}

/// Fields that decide how a message is framed, routed, authorized, cached or understood (RFC 9110 section 6.5.1), that belong
/// to one hop, or that a gateway is responsible for.
fn is_never_a_trailer(squeezed: &str) -> bool {
    // All of them: `-Port`, `-Prefix`, `-User` and whatever proxies invent.
    let describes_the_caller = squeezed.starts_with("xforwarded");
    let is_known = matches!(
        squeezed,
        // Framing and the hop.
        "connection" | "contentlength" | "host" | "http2settings" | "keepalive" | "proxyconnection" | "te" | "trailer"
            | "transferencoding" | "upgrade"
            // The caller, and the way of the message.
            | "authorization" | "cookie" | "dpop" | "forwarded" | "origin" | "proxyauthorization" | "referer"
            | "secfetchsite" | "traceparent" | "tracestate" | "via" | "xrealip" | "xrequestid"
            // How to process it.
            | "cachecontrol" | "expect" | "ifmatch" | "ifmodifiedsince" | "ifnonematch" | "ifrange"
            | "ifunmodifiedsince" | "maxforwards" | "pragma" | "range"
            // What it means.
            | "contentencoding" | "contentrange" | "contenttype"
            // Response metadata.
            | "age" | "date" | "expires" | "location" | "proxyauthenticate" | "retryafter" | "setcookie" | "vary"
            | "warning" | "wwwauthenticate"
    );
    describes_the_caller || is_known
}

/// Whether a value begins or ends with white space. Over HTTP/1, that is not part of the value, and the parser removes it. Over
/// HTTP/2, it makes the message malformed, and a malformed message is not forwarded (RFC 9113 sections 8.1.1 and 8.2.1): the next
/// recipient would read another value than bearerd.
pub(crate) fn has_padded_value(fields: &HeaderMap) -> bool {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    fields.values().map(HeaderValue::as_bytes).any(|value| is_space(value.first()) || is_space(value.last()))
}

/// A field's name without the characters that servers take for one another.
pub(crate) fn squeeze(name: &str) -> String {
    name.chars().filter(|letter| *letter != '_' && *letter != '-').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(text: &'static str) -> Frame<Bytes> {
        Frame::data(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn keeps_up_to_the_limit_and_no_more() {
        let mut kept = ReplayCopy::new(4);
        kept.add(&data("ab"));
        kept.add(&data("cd"));
        let (frames, _) = kept.again().unwrap();
        assert_eq!(frames.into_iter().collect::<Vec<_>>(), ["abcd"]);
        kept.add(&data("e"));
        assert!(kept.again().is_none());
    }

    #[test]
    fn with_a_limit_of_zero_only_an_unsent_body_can_be_sent_again() {
        let mut kept = ReplayCopy::new(0);
        assert!(kept.again().is_some());
        kept.add(&data("a"));
        assert!(kept.again().is_none());
    }

    #[test]
    fn order_survives_small_and_large_chunks() {
        let mut kept = ReplayCopy::new(10_000);
        let large = Bytes::from(vec![b'x'; SMALL_CHUNK]);
        kept.add(&data("a"));
        kept.add(&data("b"));
        kept.add(&Frame::data(large.clone()));
        kept.add(&data("c"));
        let (frames, _) = kept.again().unwrap();
        assert_eq!(frames.into_iter().collect::<Vec<_>>(), [Bytes::from("ab"), large, Bytes::from("c")]);
    }

    fn left(rules: &TrailerRules, names: &[&str]) -> Vec<String> {
        let fields = names.iter().map(|name| (name.parse().unwrap(), HeaderValue::from_static("1")));
        let frame = rules.apply(Frame::trailers(fields.collect()));
        frame.trailers_ref().unwrap().keys().map(ToString::to_string).collect()
    }

    #[test]
    fn forbidden_and_owned_trailers_are_dropped_in_every_spelling() {
        let rules = TrailerRules::new([&HeaderName::from_static("x-api-key")]);
        let names = ["authorization", "x-api-key", "x_api_key", "content_length", "set-cookie", "x-checksum"];
        assert_eq!(left(&rules, &names), ["x-checksum"]);
        let one = rules.with([&HeaderName::from_static("x-private")]);
        assert_eq!(left(&one, &["x-private", "x-api-key", "grpc-status"]), ["grpc-status"]);
        assert_eq!(left(&rules, &["x-private"]), ["x-private"]);
    }

    #[test]
    fn data_passes() {
        let frame = TrailerRules::new([]).apply(Frame::data(Bytes::from_static(b"x")));
        assert_eq!(frame.into_data().unwrap(), "x");
    }
}
