//! Sending a request up, and once more where its token was refused.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Request, Response, Uri};

use super::dpop;
use super::error::{Code, ProxyError};
use super::record::Record;
use super::snapshot::RouteService;
use super::traced::{self, Traced};
use crate::clock::{Clock as _, SystemClock};
use crate::config::RouteConfig;
use crate::inbound::CallerBody;
use crate::issuer::Audience;
use crate::metrics::UpstreamRefusal;
use crate::route::Found;
use crate::route::path::upstream_target;
use crate::token::{Rejected, Token};
use crate::upstream::{Answer, Head, RequestBody, ResponseBody};

/// An upstream that refuses every request says nothing new each time.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(60);
const REFUSED: &str = "the upstream refuses a token that was only just granted";

/// The target that goes up.
pub(super) fn target(route: &RouteConfig, uri: &Uri, found: Found) -> Result<PathAndQuery, ProxyError> {
    // Nothing is added and nothing is stripped: the target as it came.
    if route.upstream.path.is_empty()
        && found.prefix_segments == Some(0)
        && let Some(target) = uri.path_and_query()
        // `http://host?query` has no path of its own.
        && target.as_str().starts_with('/')
    {
        return Ok(target.clone());
    }
    let target = upstream_target(&route.upstream.path, uri.path(), uri.query(), found.prefix_segments);
    PathAndQuery::from_maybe_shared(Bytes::from(target)).map_err(|_| {
        ProxyError::new(Code::BadRequest, "the path cannot be written as a target for the upstream")
    })
}

/// Takes what goes up out of the request.
pub(super) fn head(request: &mut Request<CallerBody>, target: PathAndQuery, upgrade: bool) -> Head {
    let (method, headers) = (std::mem::take(request.method_mut()), std::mem::take(request.headers_mut()));
    Head { method, target, headers, upgrade }
}

/// Sends the request; where the upstream refuses its token or its proof, once more with a new one.
pub(super) async fn send(
    service: &Arc<RouteService>,
    head: &mut Head,
    body: RequestBody,
    token: Option<Arc<Token>>,
    record: &mut Record,
) -> Result<Response<ResponseBody>, ProxyError> {
    let mut answer = attempt(service, head, body, token.as_deref(), record).await?;
    let Some(mut token) = token else { return Ok(answer.response) };
    if token.prover.is_some() || verdict(service, &token, &answer) != Verdict::Stands {
        (answer, token) = Box::pin(follow_up(service, head, answer, token, record)).await?;
    }
    service.injection.scrub(answer.response.headers_mut(), &token);
    Ok(answer.response)
}

async fn attempt(
    service: &Arc<RouteService>,
    head: &mut Head,
    body: RequestBody,
    token: Option<&Token>,
    record: &mut Record,
) -> Result<Answer, ProxyError> {
    let started = Instant::now();
    let mut step = record.traced.as_deref().map(|call| call.attempt(service, head));
    // A proof is for one request, and the one that was lost may have arrived. Where no other can be made, it stays. A token
    // that expired while the lost request was under way is not sent again.
    let anew = |head: &mut Head| {
        if let (Some(token), Some(slot)) = (token, &service.slot)
            && !slot.may_send(token)
        {
            return false;
        }
        if let Some(token) = token.filter(|token| token.prover.is_some()) {
            let _ = service.put_on(head, token);
        }
        if let Some(step) = &mut step {
            step.again(head);
        }
        true
    };
    let answer = service.upstream.send(head, body, anew).await;
    let took = started.elapsed();
    if let Some(step) = step {
        step.answered(&answer);
    }
    service.metrics.upstream(took);
    record.upstream_took = Some(took);
    answer.map_err(|error| ProxyError::at_upstream(error, &service.config.name))
}

/// What a response says of the credential that the request carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Stands,
    /// The token is fine, but the proof must have the upstream's nonce in it.
    NewProof,
    NewToken,
}

fn verdict(service: &RouteService, token: &Token, answer: &Answer) -> Verdict {
    let response = &answer.response;
    if token.prover.is_some() && dpop::asks_for_nonce(response) {
        Verdict::NewProof
    } else if service.config.refresh_on.contains(&response.status()) {
        Verdict::NewToken
    } else {
        Verdict::Stands
    }
}

/// Each kind of replay is made once. The upstream's own response stands wherever there is no better one. Gives the
/// token that was sent last.
async fn follow_up(
    service: &Arc<RouteService>,
    head: &mut Head,
    mut answer: Answer,
    mut token: Arc<Token>,
    record: &mut Record,
) -> Result<(Answer, Arc<Token>), ProxyError> {
    let (mut proofs, mut tokens) = (1, 1);
    loop {
        learn_nonce(service, &token, &answer);
        let (left, verdict) = match verdict(service, &token, &answer) {
            Verdict::Stands => return Ok((answer, token)),
            verdict @ Verdict::NewProof => (&mut proofs, verdict),
            verdict @ Verdict::NewToken => (&mut tokens, verdict),
        };
        if *left == 0 {
            if verdict == Verdict::NewToken {
                note_refusal(service, &token, &answer);
            }
            return Ok((answer, token));
        }
        *left -= 1;
        let refused = (verdict == Verdict::NewToken).then_some(&token);
        let Some((body, newer)) = replayable(service, &mut answer, refused, record.traced.as_deref()).await
        else {
            return Ok((answer, token));
        };
        let next = newer.unwrap_or_else(|| Arc::clone(&token));
        if service.put_on(head, &next).is_err() {
            return Ok((answer, token));
        }
        token = next;
        // Its connection ends here, or is free already where this response is at its end.
        drop(answer);
        answer = attempt(service, head, body, Some(&token), record).await?;
    }
}

/// A new token does not help here: the cause is in what the token grants, or at the upstream.
fn note_refusal(service: &RouteService, token: &Token, answer: &Answer) {
    let (route, status) = (&service.config.name, answer.response.status().as_u16());
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
        "{upstream} answers {status} to a token that issuer {issuer} had only just granted: the token is there, and \
         the upstream does not take it{audience}; compare what it wants with what the token grants (audience, scopes, \
         tenant; `bearerd token {issuer} --route {route} --decode` shows it), set scopes or params of route {route}, \
         and see that the upstream trusts this issuer and that its clock is right"
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

fn learn_nonce(service: &RouteService, token: &Token, answer: &Answer) {
    if token.prover.is_some()
        && let Some(nonce) = dpop::nonce(answer.response.headers())
    {
        service.upstream.set_nonce(nonce);
    }
}

/// The body once more, and where a token was `refused` a newer one; `None` where the response must do.
async fn replayable(
    service: &RouteService,
    answer: &mut Answer,
    refused: Option<&Arc<Token>>,
    traced: Option<&Traced>,
) -> Option<(RequestBody, Option<Arc<Token>>)> {
    let slot = service.slot.as_ref()?;
    if let Some(refused) = refused {
        match slot.reject(refused.generation) {
            Rejected::Keep => {
                note_refusal(service, refused, answer);
                return None;
            }
            Rejected::Dropped => service.metrics.refresh_forced(),
            Rejected::Replace => {}
        }
    }
    let body = answer.body_again(service.config.idle_timeout);
    let body = body.filter(|_| service.config.replay_limit > 0);
    let Some(refused) = refused else { return Some((body?, None)) };
    let Some(body) = body else {
        slot.prefetch();
        return None;
    };
    let newer = traced::token(slot, refused.generation, service, traced).await.ok()?;
    Some((body, Some(newer)))
}
