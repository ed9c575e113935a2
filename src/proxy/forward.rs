//! Sending a call up, and once more where its token was refused.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Response, Uri};

use super::error::{Code, ProxyError};
use super::record::Record;
use super::snapshot::RouteService;
use crate::config::RouteConfig;
use crate::route::Found;
use crate::route::path::upstream_target;
use crate::token::{Rejected, Token};
use crate::upstream::{Answer, Head, RequestBody, ResponseBody};

/// The target that goes up.
pub(super) fn target(route: &RouteConfig, uri: &Uri, found: Found) -> Result<PathAndQuery, ProxyError> {
    // Nothing is added and nothing is stripped: the target as it came.
    if route.upstream.path.is_empty()
        && found.prefix_segments == Some(0)
        && let Some(target) = uri.path_and_query()
    {
        return Ok(target.clone());
    }
    let target = upstream_target(&route.upstream.path, uri.path(), uri.query(), found.prefix_segments);
    PathAndQuery::from_maybe_shared(Bytes::from(target)).map_err(|_| {
        ProxyError::new(Code::BadRequest, "the path cannot be written as a target for the upstream")
    })
}

pub(super) fn head(parts: Parts, target: PathAndQuery, upgrade: bool) -> Head {
    Head { method: parts.method, target, headers: parts.headers, upgrade }
}

/// Sends the call; where the upstream refuses its token, once more with a new one.
pub(super) async fn send(
    service: &Arc<RouteService>,
    mut head: Head,
    body: RequestBody,
    token: Option<Arc<Token>>,
    record: &mut Record,
) -> Result<Response<ResponseBody>, ProxyError> {
    let answer = attempt(service, &head, body, record).await?;
    let Some(token) = token else { return Ok(answer.response) };
    if !service.config.refresh_on.contains(&answer.response.status()) {
        return Ok(answer.response);
    }
    Box::pin(replay(service, &mut head, answer, &token, record)).await
}

async fn attempt(
    service: &Arc<RouteService>,
    head: &Head,
    body: RequestBody,
    record: &mut Record,
) -> Result<Answer, ProxyError> {
    let started = Instant::now();
    let answer = service.upstream.send(head, body).await;
    let took = started.elapsed();
    service.metrics.upstream(took);
    record.upstream_took = Some(took);
    Ok(answer?)
}

/// The upstream's own answer stands wherever there is no better one.
async fn replay(
    service: &Arc<RouteService>,
    head: &mut Head,
    mut answer: Answer,
    token: &Token,
    record: &mut Record,
) -> Result<Response<ResponseBody>, ProxyError> {
    let Some(slot) = &service.slot else { return Ok(answer.response) };
    match slot.reject(token.generation) {
        Rejected::Keep => return Ok(answer.response),
        Rejected::Dropped => service.metrics.refresh_forced(),
        Rejected::Replace => {}
    }
    let body = answer.body_again(service.config.idle_timeout);
    let Some(body) = body.filter(|_| service.config.replay_limit > 0) else {
        slot.prefetch();
        return Ok(answer.response);
    };
    let Ok(token) = Arc::clone(slot).newer_than(token.generation).await else {
        return Ok(answer.response);
    };
    // Its connection ends here, or is free already where this answer is at its end.
    drop(answer);
    service.injection.apply(&mut head.headers, &token);
    Ok(attempt(service, head, body, record).await?.response)
}
