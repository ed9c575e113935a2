//! What a request asks for, read strictly: whatever could be read in two ways is refused.

use http::{HeaderValue, Method, Request, Version, header};

use super::error::{Code, ProxyError};
use super::field_set::FieldSet;
use super::headers;
use crate::route::host::Authority;
use crate::route::path::{self, MatchPath};

/// Whom a request is for, and what it asks for there.
#[derive(Debug)]
pub(super) struct Target<'a> {
    /// `None`: HTTP/1.0 without Host.
    pub(super) authority: Option<Authority<'a>>,
    pub(super) asked: RequestTarget<'a>,
    /// An OPTIONS that may go no further than here (RFC 9110 section 7.6.2).
    pub(super) ends_here: bool,
}

#[derive(Debug)]
pub(super) enum RequestTarget<'a> {
    Path(MatchPath<'a>),
    /// `OPTIONS *`: the server as a whole (RFC 9110 section 7.1), which is this one.
    Server,
}

/// # Errors
/// 405 for the methods that are not proxied, 400 for all that is malformed or ambiguous.
pub(super) fn read<B>(request: &Request<B>, seen: FieldSet) -> Result<Target<'_>, ProxyError> {
    refuse_method(request.method())?;
    refuse_framing(request, seen)?;
    refuse_form(request)?;
    let authority = authority(request)?;
    let asked = match (request.method(), request.uri().path()) {
        (&Method::OPTIONS, "*") if request.uri().query().is_none() => RequestTarget::Server,
        (_, path) => RequestTarget::Path(
            path::parse(path).map_err(|error| ProxyError::bad_request(error.to_string()))?,
        ),
    };
    Ok(Target { authority, asked, ends_here: ends_here(request, seen)? })
}

fn ends_here<B>(request: &Request<B>, seen: FieldSet) -> Result<bool, ProxyError> {
    if request.method() != Method::OPTIONS || !seen.any(FieldSet::MAX_FORWARDS) {
        return Ok(false);
    }
    let left = headers::max_forwards(request.headers())
        .map_err(|()| ProxyError::bad_request("Max-Forwards is not one number"))?;
    Ok(left == Some(0))
}

/// What two could read as bodies of different lengths.
fn refuse_framing<B>(request: &Request<B>, seen: FieldSet) -> Result<(), ProxyError> {
    if seen.any(FieldSet::TRANSFER_ENCODING) && !headers::is_only_chunked(request.headers()) {
        return Err(ProxyError::bad_request(
            "the body has a transfer coding beside chunked, or it is named twice; send it plain or chunked",
        ));
    }
    // Over HTTP/2 the frames say where the body ends, and the library takes "" and "0, 0" for lengths.
    if seen.any(FieldSet::CONTENT_LENGTH) && !headers::has_one_length(request.headers()) {
        return Err(ProxyError::bad_request("Content-Length is not one number"));
    }
    Ok(())
}

/// The parts of a target that are not looked at below: a scheme that we do not serve, a path that is none.
fn refuse_form<B>(request: &Request<B>) -> Result<(), ProxyError> {
    let uri = request.uri();
    let is_ours = |scheme: &str| scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    if uri.scheme_str().is_some_and(|scheme| !is_ours(scheme)) {
        return Err(ProxyError::bad_request("the scheme of the request's target is neither http nor https"));
    }
    // In HTTP/1.1, `http://host?query` has an empty path, which means `/`; HTTP/2 has no empty `:path`.
    let path = uri.path_and_query().map_or("", |path| path.as_str());
    if request.version() == Version::HTTP_2 && path.starts_with('?') {
        return Err(ProxyError::bad_request("the path does not begin with a slash"));
    }
    Ok(())
}

fn refuse_method(method: &Method) -> Result<(), ProxyError> {
    if *method == Method::CONNECT || *method == Method::TRACE {
        let detail = format!("{method} is not proxied: bearerd is a gateway to configured upstreams");
        return Err(ProxyError::new(Code::MethodRefused, detail));
    }
    Ok(())
}

/// RFC 9112 section 3.2: exactly one Host in HTTP/1.1, and one meaning.
fn authority<B>(request: &Request<B>) -> Result<Option<Authority<'_>>, ProxyError> {
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
        Some(given) => match Authority::parse(given) {
            Some(authority) => Ok(Some(authority)),
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
