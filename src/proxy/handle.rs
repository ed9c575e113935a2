//! The request path, top to bottom.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Body as _;

use super::body::Content;
use super::caller::Caller;
use super::error::{Code, ProxyError};
use super::field_set::FieldSet;
use super::record::Record;
use super::snapshot::{RouteService, Snapshot};
use super::target::{self, RequestTarget, Target};
use super::traced::{self, Traced};
use super::{forward, headers, respond, unrouted, upgrade};
use crate::config::CallerAuthorization;
use crate::inbound::CallerBody;
use crate::route::host::is_own_name;
use crate::route::{Call, Found, Miss};
use crate::token::Token;
use crate::upstream::RequestBody;

/// Serves one request: read it strictly, find its route, take what stays on its hop, put the credential on, send it,
/// bring the response back.
pub(super) async fn handle(
    snapshot: &Snapshot,
    caller: &Arc<Caller>,
    record: &mut Record,
    request: &mut Request<CallerBody>,
    seen: FieldSet,
) -> Result<Response<Content>, ProxyError> {
    if let Some(place) = &record.place {
        place.check(&snapshot.config.limits)?;
    }
    let Some(admitted) = admit(snapshot, caller, request, seen)? else { return Ok(respond::options(None)) };
    let Admitted { service, found, key_header, ends_here } = admitted;
    record.route = Some(Arc::clone(&service));
    if ends_here {
        return Ok(respond::options(Some(&service.config)));
    }
    let upgrading = if seen.any(FieldSet::UPGRADE) { upgrade::begin(request) } else { None };
    if let Some(name) = key_header {
        request.headers_mut().remove(name);
    }
    let nominated = prepare(request, caller, &service, record, seen)?;
    let token = credential(request, &service, record.traced.as_deref(), seen).await?;
    set_edits(request.headers_mut(), &service)?;

    let target = forward::target(&service.config, request.uri(), found)?;
    if let Some(upgrading) = &upgrading {
        upgrading.announce(request.headers_mut());
    }
    let mut head = forward::head(request, target, upgrading.is_some());
    if let Some(token) = &token {
        service.put_on(&mut head, token)?;
    }
    let (keep, idle) = (service.config.replay_limit, service.config.idle_timeout);
    let trailers = || service.request_trailers.with(key_header.into_iter().chain(&nominated));
    let body = RequestBody::new(std::mem::take(request.body_mut()), keep, idle, trailers);
    let mut response = forward::send(&service, &mut head, body, token, record).await?;

    let seen = FieldSet::of(response.headers());
    check_answer(&response, upgrading.is_some(), &service, seen)?;
    if let Some(upgrading) = upgrading {
        upgrading.complete(&mut response, caller, service.config.idle_timeout);
    }
    let nominated = finish(&mut response, &service, seen);
    let trailers = service.response_trailers.with(&nominated);
    if let Some(length) = unsent_length(&response).filter(|_| request.version() != Version::HTTP_2) {
        return Ok(response.map(|_| Content::Unsent(length)));
    }
    Ok(response.map(|body| Content::Upstream(body, trailers)))
}

/// The length that a 304 says its body would have.
fn unsent_length<B>(response: &Response<B>) -> Option<u64> {
    let is_304 = response.status() == StatusCode::NOT_MODIFIED;
    let length = response.headers().get(header::CONTENT_LENGTH).filter(|_| is_304)?;
    length.to_str().ok()?.trim().parse().ok()
}

/// A request that may go on.
struct Admitted<'a> {
    service: Arc<RouteService>,
    found: Found,
    /// What let the caller in; it goes no further.
    key_header: Option<&'a HeaderName>,
    /// An OPTIONS with no hop left.
    ends_here: bool,
}

/// The checks, in their order: 400, 421, 403, 404. `None`: it is for this server as a whole.
fn admit<'a>(
    snapshot: &'a Snapshot,
    caller: &Caller,
    request: &Request<CallerBody>,
    seen: FieldSet,
) -> Result<Option<Admitted<'a>>, ProxyError> {
    let Target { authority, asked, ends_here } = target::read(request, seen)?;
    let Some((index, rules)) = snapshot.listener(caller) else {
        let detail = format!("listener {} is no longer in the config", caller.listener);
        return Err(ProxyError::new(Code::Overloaded, detail));
    };
    let host = authority.as_ref().map_or("", |authority| &*authority.host);
    let own_name = authority.is_none() || is_own_name(&rules.config, caller.local, host);
    let call = match &asked {
        RequestTarget::Server => None,
        RequestTarget::Path(path) => Some(Call {
            listener: index,
            own_name,
            host,
            path,
            method: request.method(),
            headers: request.headers(),
        }),
    };
    let found = call.as_ref().map(|call| snapshot.table.find(call));
    // Malformed before misdirected: only a route that says so takes an escaped slash.
    if let Some(Err(Miss::EncodedSlash)) = found {
        return Err(unrouted::encoded_slash());
    }
    if !own_name && !snapshot.table.names_host(index, host) {
        return Err(unrouted::misdirected(snapshot, rules, call.as_ref()));
    }
    rules.admit(caller, authority.as_ref(), request.headers(), seen)?;
    let (Some(call), Some(found)) = (call, found) else { return Ok(None) };
    let found = found.map_err(|miss| unrouted::no_route(snapshot, &call, miss))?;
    match snapshot.routes.get(found.route) {
        Some(service) => {
            let service = Arc::clone(service);
            Ok(Some(Admitted { service, found, key_header: rules.key_header(), ends_here }))
        }
        None => Err(ProxyError::new(Code::Internal, "the route table and the routes do not fit together")),
    }
}

/// Takes away what stays on this hop, and adds what a gateway adds. Gives what `Connection` named.
fn prepare(
    request: &mut Request<CallerBody>,
    caller: &Caller,
    service: &RouteService,
    record: &Record,
    seen: FieldSet,
) -> Result<Vec<HeaderName>, ProxyError> {
    if seen.any(FieldSet::VIA) && headers::goes_in_a_circle(request.headers()) {
        return Err(ProxyError::bad_request(
            "this request has come through bearerd five times: the upstream of this route leads back to it",
        ));
    }
    if request.version() == Version::HTTP_2 && seen.any(FieldSet::COOKIE) {
        headers::join_cookies(request.headers_mut());
    }
    let host = if service.config.forwarded { host_as_given(request) } else { None };
    let nominated = headers::strip_hop_by_hop(request.headers_mut(), seen);
    if seen.any(FieldSet::UNDERSCORE) {
        headers::strip_aliases(request.headers_mut(), service);
    }
    if seen.any(FieldSet::EXPECT) {
        // Answered here: the body is asked for once the upstream is connected.
        request.headers_mut().remove(header::EXPECT);
    }
    if seen.any(FieldSet::MAX_FORWARDS) && request.method() == Method::OPTIONS {
        headers::count_down(request.headers_mut());
    }
    if request.body().is_end_stream() {
        let method = request.method().clone();
        headers::say_no_body(&method, request.headers_mut());
    }
    if service.config.forwarded {
        headers::set_forwarded(request.headers_mut(), caller, host.as_ref());
    }
    let version = request.version();
    headers::add_via(request.headers_mut(), version);
    request.headers_mut().insert(headers::X_REQUEST_ID, record.request_id.clone());
    Ok(nominated)
}

/// Takes the caller's credential away and gets ours; `None`: the request goes up without one of ours.
async fn credential(
    request: &mut Request<CallerBody>,
    service: &RouteService,
    traced: Option<&Traced>,
    seen: FieldSet,
) -> Result<Option<Arc<Token>>, ProxyError> {
    let own = service.injection.callers_own(request.headers(), request.uri(), seen);
    match (service.config.caller_authorization, own) {
        (CallerAuthorization::Keep, Some(_)) => return Ok(None),
        (CallerAuthorization::Reject, Some(what)) => {
            let detail = format!(
                "the caller sent {what}; this route adds its own and refuses the caller's \
                 (caller_authorization = \"reject\")"
            );
            return Err(ProxyError::new(Code::AuthorizationRefused, detail));
        }
        (CallerAuthorization::Replace, _) | (_, None) => {}
    }
    if own.is_some() {
        request.headers_mut().remove(header::AUTHORIZATION);
    }
    service.injection.clear(request.headers_mut());
    let Some(slot) = &service.slot else { return Ok(None) };
    match slot.current() {
        Some(token) => Ok(Some(token)),
        None => Ok(Some(Box::pin(traced::token(slot, 0, service, traced)).await?)),
    }
}

fn set_edits(headers: &mut HeaderMap, service: &RouteService) -> Result<(), ProxyError> {
    let edits = &service.request_edits;
    if let Some(why) = &edits.unreadable {
        return Err(ProxyError::new(Code::TokenUnavailable, why.clone()));
    }
    // Before the request goes up: it may do something there that is not to be done twice.
    if let Some(why) = &service.response_edits.unreadable {
        return Err(ProxyError::new(Code::Internal, why.clone()));
    }
    edits.apply(headers);
    Ok(())
}

/// HTTP/2 says the host in `:authority`.
fn host_as_given(request: &Request<CallerBody>) -> Option<HeaderValue> {
    let line = request.headers().get(header::HOST).cloned();
    line.or_else(|| {
        let authority = request.uri().authority()?;
        Some(HeaderValue::from_str(authority.as_str()).expect("an authority is visible ASCII"))
    })
}

/// Refuses what cannot be passed on: a switch of protocols that nobody asked for, a body in a coding that we do not undo.
fn check_answer<B>(
    response: &Response<B>,
    upgrading: bool,
    service: &RouteService,
    seen: FieldSet,
) -> Result<(), ProxyError> {
    let what = if response.status() == StatusCode::SWITCHING_PROTOCOLS && !upgrading {
        "switched to another protocol, which nobody asked for"
    } else if seen.any(FieldSet::TRANSFER_ENCODING) && !headers::is_only_chunked(response.headers()) {
        "sent its body in a transfer coding other than chunked"
    } else if seen.any(FieldSet::CONTENT_LENGTH) && !headers::has_one_length_or_repeats_it(response.headers())
    {
        "sent a Content-Length that is not one number"
    } else {
        return Ok(());
    };
    let detail = format!("{} {what}", service.config.upstream.authority);
    Err(ProxyError::new(Code::UpstreamInvalid, detail))
}

/// The response on its way back. Gives what `Connection` named.
fn finish<B>(response: &mut Response<B>, service: &RouteService, seen: FieldSet) -> Vec<HeaderName> {
    let status = response.status();
    // Ours, not the upstream's (RFC 9110 section 2.5).
    *response.version_mut() = Version::HTTP_11;
    let headers = response.headers_mut();
    let upgraded = status == StatusCode::SWITCHING_PROTOCOLS;
    let nominated = if upgraded { Vec::new() } else { headers::strip_hop_by_hop(headers, seen) };
    if seen.any(FieldSet::CONTENT_LENGTH) {
        headers::settle_length(status, headers);
    }
    if seen.any(FieldSet::LOCATION) {
        service.location.apply(headers);
    }
    service.response_edits.apply(headers);
    nominated
}
