//! What a call asks for, read strictly: whatever could be read in two ways is refused.

use std::borrow::Cow;

use http::{HeaderValue, Method, Request, Version, header};

use super::error::{Code, ProxyError};
use super::headers;
use super::seen::Seen;
use crate::route::host::split_host;
use crate::route::path::{self, MatchPath};

/// A call's host and path.
#[derive(Debug)]
pub(super) struct Target<'a> {
    /// Lower case, without port; `None`: HTTP/1.0 without Host.
    pub(super) host: Option<Cow<'a, str>>,
    pub(super) path: MatchPath<'a>,
}

/// # Errors
/// 405 for the methods that are not proxied, 400 for all that is malformed or ambiguous.
pub(super) fn read<B>(request: &Request<B>, seen: Seen) -> Result<Target<'_>, ProxyError> {
    refuse_method(request.method())?;
    if seen.any(Seen::TRANSFER_ENCODING) && !headers::is_only_chunked(request.headers()) {
        return Err(ProxyError::bad_request(
            "the body has a transfer coding beside chunked, or it is named twice; send it plain or chunked",
        ));
    }
    let host = host(request)?;
    let path =
        path::parse(request.uri().path()).map_err(|error| ProxyError::bad_request(error.to_string()))?;
    Ok(Target { host, path })
}

fn refuse_method(method: &Method) -> Result<(), ProxyError> {
    if *method == Method::CONNECT || *method == Method::TRACE {
        let detail = format!("{method} is not proxied: bearerd is a gateway to configured upstreams");
        return Err(ProxyError::new(Code::MethodRefused, detail));
    }
    Ok(())
}

/// RFC 9112 section 3.2: exactly one Host in HTTP/1.1, and one meaning.
fn host<B>(request: &Request<B>) -> Result<Option<Cow<'_, str>>, ProxyError> {
    let mut lines = request.headers().get_all(header::HOST).iter();
    let line = lines.next();
    if lines.next().is_some() {
        return Err(ProxyError::bad_request("the request has more than one Host line"));
    }
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let given = match (authority, line) {
        (Some(authority), Some(line)) if !same(authority, line) => {
            return Err(ProxyError::bad_request("Host and the request's target name different hosts"));
        }
        // RFC 9112 section 3.2 wants the line in every HTTP/1.1 request, in this form too.
        (Some(_), None) if request.version() == Version::HTTP_11 => None,
        (Some(authority), _) => Some(authority),
        (None, Some(line)) => Some(text(line)?),
        (None, None) => None,
    };
    match given {
        Some(given) => match split_host(given) {
            Some(host) => Ok(Some(host)),
            None => Err(ProxyError::bad_request("Host is not a host name with an optional port")),
        },
        None if request.version() == Version::HTTP_10 => Ok(None),
        None => Err(ProxyError::bad_request("the request has no Host")),
    }
}

fn same(authority: &str, line: &HeaderValue) -> bool {
    line.as_bytes().eq_ignore_ascii_case(authority.as_bytes())
}

fn text(line: &HeaderValue) -> Result<&str, ProxyError> {
    line.to_str().map_err(|_| ProxyError::bad_request("Host is not plain ASCII"))
}
