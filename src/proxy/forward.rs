//! Sends a request to its upstream, and once more if the upstream refuses its token or its proof.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::RouteService;
use super::admit::Caller;
use super::credential;
use super::error::{Code, ProxyError};
use super::headers::{self, FieldSet};
use super::record::{Record, RequestTrace, wait_for_token};
use crate::clock::{Clock as _, SystemClock};
use crate::config::RouteConfig;
use crate::idle::Alarm;
use crate::inbound::{CallerBody, InFlight};
use crate::issuer::Audience;
use crate::metrics::UpstreamRefusal;
use crate::net::dpop::nonce;
use crate::route::RouteMatch;
use crate::route::path::upstream_target as join_target;
use crate::token::{Rejected, Token};
use crate::upstream::{Head, RequestBody, ResponseBody};

/// An upstream that refuses every request logs a warning no more often than this.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(60);
const REFUSED: &str = "the upstream refuses a token that was just issued";

/// The target for the upstream.
///
/// # Errors
/// 400 if the path makes no valid target.
pub(super) fn upstream_target(
    route: &RouteConfig,
    uri: &Uri,
    route_match: RouteMatch,
) -> Result<PathAndQuery, ProxyError> {
    // Nothing is added and nothing is stripped, so the target stays as it is.
    if route.upstream.path.is_empty()
        && route_match.prefix_segments == Some(0)
        && let Some(target) = uri.path_and_query()
        // `http://host?query` has no path of its own.
        && target.as_str().starts_with('/')
    {
        return Ok(target.clone());
    }
    let target = join_target(&route.upstream.path, uri.path(), uri.query(), route_match.prefix_segments);
    PathAndQuery::from_maybe_shared(Bytes::from(target)).map_err(|_| {
        ProxyError::new(Code::BadRequest, "the path cannot be written as a target for the upstream")
    })
}

/// Moves the request's head out of it. The method and the header section of `request` are empty afterwards.
pub(super) fn take_head(request: &mut Request<CallerBody>, target: PathAndQuery, upgrade: bool) -> Head {
    let (method, headers) = (std::mem::take(request.method_mut()), std::mem::take(request.headers_mut()));
    Head { method, target, headers, upgrade }
}

/// Sends the request. If the upstream refuses its token or its proof, sends it once more with a new one.
///
/// # Errors
/// The upstream sent no response.
pub(super) async fn send(
    service: &Arc<RouteService>,
    head: &mut Head,
    body: RequestBody,
    token: Option<Arc<Token>>,
    record: &mut Record,
) -> Result<Response<ResponseBody>, ProxyError> {
    let mut response = attempt(service, head, body, token.as_deref(), record).await?;
    let Some(mut token) = token else { return Ok(response) };
    if token.prover.is_some() || verdict(service, &token, &response) != Verdict::Accepted {
        (response, token) = Box::pin(follow_up(service, head, response, token, record)).await?;
    }
    service.injection.scrub_response(response.headers_mut(), &token);
    Ok(response)
}

async fn attempt(
    service: &Arc<RouteService>,
    head: &mut Head,
    body: RequestBody,
    token: Option<&Token>,
    record: &mut Record,
) -> Result<Response<ResponseBody>, ProxyError> {
    let started = Instant::now();
    let mut step = record.trace.as_deref().map(|trace| trace.begin_attempt(service, head));
    // Runs if the request was lost with its connection. A token that has expired meanwhile is not sent again. A proof is for
    // one request, and the lost one may have arrived, so there is a new proof, unless none can be made.
    let before_repeat = async |head: &mut Head| {
        if let (Some(token), Some(slot)) = (token, &service.slot)
            && !slot.may_send(token)
        {
            return false;
        }
        if let Some(token) = token.filter(|token| token.prover.is_some()) {
            let _ = credential::set_credential(service, head, token).await;
        }
        if let Some(step) = &mut step {
            step.begin_again(head);
        }
        true
    };
    let outcome = service.upstream.send(head, body, before_repeat).await;
    let took = started.elapsed();
    if let Some(step) = step {
        step.end(&outcome);
    }
    service.metrics.upstream(took);
    record.upstream_took = Some(took);
    outcome.map_err(|error| ProxyError::at_upstream(error, &service.config.name))
}

/// What a response says about the credential of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Accepted,
    /// The token may be fine, but the proof must contain the upstream's nonce.
    NeedsNewProof,
    NeedsNewToken,
}

fn verdict(service: &RouteService, token: &Token, response: &Response<ResponseBody>) -> Verdict {
    if token.prover.is_some() && credential::requires_nonce(response) {
        Verdict::NeedsNewProof
    } else if service.config.refresh_on.contains(&response.status()) {
        Verdict::NeedsNewToken
    } else {
        Verdict::Accepted
    }
}

/// Replays the request at most once for each reason. If no better response is to be had, the caller gets the upstream's
/// refusal. Returns the last response, and the token that it is for.
async fn follow_up(
    service: &Arc<RouteService>,
    head: &mut Head,
    mut response: Response<ResponseBody>,
    mut token: Arc<Token>,
    record: &mut Record,
) -> Result<(Response<ResponseBody>, Arc<Token>), ProxyError> {
    let (mut proofs, mut tokens) = (1, 1);
    loop {
        learn_nonce(service, &token, &response);
        let (left, verdict) = match verdict(service, &token, &response) {
            Verdict::Accepted => return Ok((response, token)),
            verdict @ Verdict::NeedsNewProof => (&mut proofs, verdict),
            verdict @ Verdict::NeedsNewToken => (&mut tokens, verdict),
        };
        if *left == 0 {
            if verdict == Verdict::NeedsNewToken {
                note_refusal(service, &token, response.status());
            }
            return Ok((response, token));
        }
        *left -= 1;
        let refused = (verdict == Verdict::NeedsNewToken).then_some(&token);
        let replay = prepare_replay(service, &mut response, refused, record.trace.as_deref()).await;
        let Some((body, newer)) = replay else { return Ok((response, token)) };
        let next = newer.unwrap_or_else(|| Arc::clone(&token));
        if credential::set_credential(service, head, &next).await.is_err() {
            return Ok((response, token));
        }
        token = next;
        // Frees its connection, or closes it if the response has not ended.
        drop(response);
        response = attempt(service, head, body, Some(&token), record).await?;
    }
}

/// Stores the nonce that the upstream requires in the next proof (RFC 9449 section 9).
fn learn_nonce(service: &RouteService, token: &Token, response: &Response<ResponseBody>) {
    if token.prover.is_some()
        && let Some(nonce) = nonce(response.headers())
    {
        service.upstream.set_nonce(nonce);
    }
}

/// The body once more, and a newer token if one was `refused`. `None` if the caller must get the response as it is.
async fn prepare_replay(
    service: &RouteService,
    response: &mut Response<ResponseBody>,
    refused: Option<&Arc<Token>>,
    trace: Option<&RequestTrace>,
) -> Option<(RequestBody, Option<Arc<Token>>)> {
    let slot = service.slot.as_ref()?;
    if let Some(refused) = refused {
        match slot.reject(refused.generation) {
            Rejected::Keep => {
                note_refusal(service, refused, response.status());
                return None;
            }
            Rejected::Dropped => service.metrics.refresh_forced(),
            Rejected::Replace => {}
        }
    }
    let body = response.body_mut().request_again(service.config.idle_timeout);
    let body = body.filter(|_| service.config.replay_limit > 0);
    let Some(refused) = refused else { return Some((body?, None)) };
    let Some(body) = body else {
        slot.prefetch();
        return None;
    };
    let newer = wait_for_token(slot, refused.generation, service, trace).await.ok()?;
    Some((body, Some(newer)))
}

/// Logs and records that another token does not help: the cause is in what the token grants, or at the upstream.
fn note_refusal(service: &RouteService, token: &Token, status: StatusCode) {
    let (route, status) = (&service.config.name, status.as_u16());
    let issuer = service.issuer().map_or("", |issuer| &**issuer);
    let upstream = &service.config.upstream.authority;
    let audience = match &token.audience {
        Audience::Unknown => String::new(),
        Audience::None => {
            format!(
                "; the token is a JWT without `aud`: give params (audience, resource) or scopes of route {route}"
            )
        }
        Audience::Named(names) => format!("; the token is for the audience {names}"),
    };
    let detail = format!(
        "{upstream} responds {status} to a token that issuer {issuer} has just issued: bearerd sends the token, and \
         the upstream does not accept it{audience}; compare what the upstream requires with what the token grants \
         (audience, scopes, tenant; `bearerd token {issuer} --route {route} --decode` shows it), set scopes or params \
         of route {route}, and check that the upstream trusts this issuer and that its clock is right"
    );
    let at = SystemClock.wall();
    let before = service.metrics.last_upstream_refusal();
    let recent =
        before.and_then(|before| at.duration_since(before.at).ok()).is_some_and(|ago| ago < BETWEEN_WARNINGS);
    if recent {
        tracing::debug!(event = "request.token_refused", %route, issuer, status, detail, "{REFUSED}");
    } else {
        tracing::warn!(event = "request.token_refused", %route, issuer, status, detail, "{REFUSED}");
    }
    service.metrics.note_upstream_refusal(UpstreamRefusal { at, status, detail });
}

/// A request that wants to switch to another protocol (RFC 9110 section 7.8), until the upstream has responded.
pub(super) struct Upgrade {
    protocol: HeaderValue,
    caller_side: OnUpgrade,
}

/// `None` if the request wants no other protocol, or one that bearerd does not forward.
pub(super) fn begin_upgrade(request: &mut Request<CallerBody>) -> Option<Box<Upgrade>> {
    let protocol = headers::requested_upgrade(request.version(), request.headers())?;
    let caller_side = request.extensions_mut().remove::<OnUpgrade>()?;
    // Boxed, because few requests have one, and every request would have its size.
    Some(Box::new(Upgrade { protocol, caller_side }))
}

fn set_upgrade(headers: &mut HeaderMap, protocol: &HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol.clone());
}

impl Upgrade {
    /// Sets the fields again that [`headers::strip_hop_by_hop`] removed.
    pub(super) fn announce(&self, headers: &mut HeaderMap) {
        set_upgrade(headers, &self.protocol);
    }

    /// After a 101, joins both sides once this response is written. Any other response is treated like all responses.
    pub(super) fn complete(
        self,
        response: &mut Response<ResponseBody>,
        caller: &Arc<Caller>,
        idle: Option<Duration>,
    ) {
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return;
        }
        let agreed = response.headers().get(header::UPGRADE).cloned().unwrap_or(self.protocol);
        let upstream_side = hyper::upgrade::on(&mut *response);
        let fields = FieldSet::of(response.headers());
        headers::strip_hop_by_hop(response.headers_mut(), fields);
        set_upgrade(response.headers_mut(), &agreed);
        let in_flight = InFlight::new(&caller.activity);
        let caller_side = self.caller_side;
        // The task ends with the caller's socket, which the listener closes at the end of a shutdown.
        tokio::spawn(async move {
            if let (Ok(caller), Ok(upstream)) = tokio::join!(caller_side, upstream_side) {
                tunnel(TokioIo::new(caller), TokioIo::new(upstream), idle).await;
            }
            drop(in_flight);
        });
    }
}

/// Passes bytes in both directions until both have ended, or none has moved for `idle`.
pub(super) async fn tunnel<C, U>(caller: C, upstream: U, idle: Option<Duration>)
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let movement = Movement::new();
    let mut caller = WatchedIo { io: caller, movement: movement.clone() };
    let mut upstream = WatchedIo { io: upstream, movement: movement.clone() };
    tokio::select! {
        // Why a tunnel ends is the business of its two ends.
        _ = tokio::io::copy_bidirectional(&mut caller, &mut upstream) => {}
        () = movement.absent_for(idle) => tracing::debug!(
            event = "tunnel.idle",
            "closed an upgraded connection on which no bytes moved"
        ),
    }
}

/// When bytes last moved, in ms since the tunnel opened.
#[derive(Clone)]
struct Movement {
    opened: tokio::time::Instant,
    last_ms: Arc<AtomicU64>,
}

impl Movement {
    fn new() -> Self {
        Self { opened: tokio::time::Instant::now(), last_ms: Arc::new(AtomicU64::new(0)) }
    }

    fn note(&self) {
        let ms = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(ms, Ordering::Relaxed);
    }

    /// Ends once nothing has moved for the limit. Without a limit, it never ends.
    async fn absent_for(&self, limit: Option<Duration>) {
        let Some(limit) = limit else { return std::future::pending().await };
        let mut alarm = Alarm::default();
        poll_fn(|cx| {
            let due = self.opened + Duration::from_millis(self.last_ms.load(Ordering::Relaxed)) + limit;
            if alarm.poll(due, cx) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

struct WatchedIo<T> {
    io: T,
    movement: Movement,
}

impl<T: AsyncRead + Unpin> AsyncRead for WatchedIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if polled.is_ready() {
            self.movement.note();
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for WatchedIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
