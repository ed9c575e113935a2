//! The response on its way back to the caller: what is checked, removed and rewritten, and its body as it streams.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version, header};
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use super::RouteService;
use super::error::{Code, ProxyError};
use super::headers::{self, FieldSet};
use super::record::Record;
use crate::config::{PathPattern, RouteConfig, UpstreamTarget};
use crate::flow::Outlet;
use crate::route::host::Authority;
use crate::route::path;
use crate::upstream::{ResponseBody, TrailerRules, has_padded_value};

/// The methods of a route without `methods`, as far as bearerd knows. The upstream may allow fewer.
pub(super) const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Refuses what cannot be passed on.
///
/// # Errors
/// 502 for a switch of protocols that nobody requested, for a body whose framing is ambiguous or unknown, and for a field that
/// HTTP/2 does not allow.
pub(super) fn check_response<B>(
    response: &Response<B>,
    upgrading: bool,
    service: &RouteService,
    fields: FieldSet,
) -> Result<(), ProxyError> {
    let what = if response.status() == StatusCode::SWITCHING_PROTOCOLS && !upgrading {
        "switched to another protocol, which nobody requested"
    } else if fields.any(FieldSet::TRANSFER_ENCODING) && !headers::is_only_chunked(response.headers()) {
        "sent its body in a transfer coding other than chunked"
    } else if fields.any(FieldSet::CONTENT_LENGTH)
        && !headers::has_one_length_or_repeats_it(response.headers())
    {
        "sent a Content-Length that is not one number"
    } else if response.version() == Version::HTTP_2 && has_padded_value(response.headers()) {
        "sent a header field whose value begins or ends with white space"
    } else {
        return Ok(());
    };
    let detail = format!("{} {what}", service.config.upstream.authority);
    Err(ProxyError::new(Code::UpstreamInvalid, detail))
}

/// Removes the fields that stay on the upstream's hop, and applies the route's rules. Returns the names that `Connection`
/// listed.
pub(super) fn prepare_response<B>(
    response: &mut Response<B>,
    service: &RouteService,
    fields: FieldSet,
) -> Vec<HeaderName> {
    let status = response.status();
    // The version of this hop, not the upstream's (RFC 9110 section 2.5).
    *response.version_mut() = Version::HTTP_11;
    let headers = response.headers_mut();
    let upgraded = status == StatusCode::SWITCHING_PROTOCOLS;
    let nominated = if upgraded { Vec::new() } else { headers::strip_hop_by_hop(headers, fields) };
    if fields.any(FieldSet::CONTENT_LENGTH) {
        headers::settle_length(status, headers);
    }
    if fields.any(FieldSet::LOCATION) {
        service.location.apply(headers);
    }
    service.response_edits.apply(headers);
    nominated
}

/// The response with its body, for a caller that speaks `version`.
pub(super) fn to_content(
    response: Response<ResponseBody>,
    version: Version,
    trailers: TrailerRules,
) -> Response<Content> {
    if let Some(length) = length_without_body(&response).filter(|_| version != Version::HTTP_2) {
        return response.map(|_| Content::LengthOnly(length));
    }
    if has_no_content(response.status()) && !response.body().is_end_stream() {
        // What the upstream sends all the same ends with its stream or connection.
        return response.map(|_| Content::Empty);
    }
    response.map(|body| Content::Upstream(body, trailers))
}

/// Whether no response with this status has content (RFC 9110 sections 15.3.5, 15.3.6, and 15.4.5). Over HTTP/1, hyper reads
/// none after 204 and 304.
fn has_no_content(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
}

/// The `Content-Length` of a 304, which has no body.
fn length_without_body<B>(response: &Response<B>) -> Option<u64> {
    let is_304 = response.status() == StatusCode::NOT_MODIFIED;
    let length = response.headers().get(header::CONTENT_LENGTH).filter(|_| is_304)?;
    length.to_str().ok()?.trim().parse().ok()
}

/// The response to an OPTIONS that ends in bearerd: for the server as a whole, or for a route.
pub(super) fn options_response(route: Option<&RouteConfig>) -> Response<Content> {
    let mut response = Response::new(Content::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    let methods = route.and_then(|route| route.methods.as_ref()).map(|methods| {
        let methods: Vec<&str> = methods.iter().map(Method::as_str).collect();
        HeaderValue::try_from(methods.join(", ")).expect("methods are tokens")
    });
    response.headers_mut().insert(header::ALLOW, methods.unwrap_or(HeaderValue::from_static(METHODS)));
    response
}

/// Why a body ended early. The connection is then closed, so that the caller does not take the body for complete.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a response. Dropping it ends the request.
pub struct Body {
    content: Content,
    /// Counts the upstream's frames until they are written.
    outlet: Outlet,
    /// An error that is returned one poll late, so that what came before it is written first.
    broken: Option<BodyError>,
    /// `None` for what is refused before it counts as a request.
    record: Option<Box<Record>>,
}

#[derive(Debug)]
pub(super) enum Content {
    Empty,
    Full(Bytes),
    /// No body, but the length that the header section states: over HTTP/1, hyper writes the `Content-Length` of a 304 only
    /// for a body that has this size, and never reads it.
    LengthOnly(u64),
    Upstream(ResponseBody, TrailerRules),
}

impl Body {
    pub(super) fn new(content: Content, mut record: Box<Record>) -> Self {
        record.begin_response(!matches!(content, Content::Upstream(..)));
        Self { content, outlet: Outlet::default(), broken: None, record: Some(record) }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(record) = self.record.as_mut().filter(|_| !self.content.is_at_end()) {
            record.broke_off();
        }
    }
}

impl Content {
    /// Whether the connection has all of it.
    fn is_at_end(&self) -> bool {
        match self {
            Self::Empty | Self::LengthOnly(_) => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Upstream(body, _) => body.is_at_end(),
        }
    }
}

/// An empty body, for what is refused before it counts as a request.
impl Default for Body {
    fn default() -> Self {
        Self { content: Content::Empty, outlet: Outlet::default(), broken: None, record: None }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { content, outlet, broken, record } = &mut *self;
        if let Some(error) = broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        ready!(outlet.poll_room(cx));
        if let Some(record) = record {
            record.frame_requested();
        }
        let polled = match content {
            Content::Empty | Content::LengthOnly(_) => Poll::Ready(None),
            Content::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Content::Upstream(body, trailers) => {
                let polled = Pin::new(&mut *body).poll_frame(cx).map_ok(|frame| trailers.apply(frame));
                if body.is_end_stream() { polled } else { polled.map_ok(|frame| outlet.lend(frame)) }
            }
        };
        if let Some(record) = record {
            record.frame_polled(&polled);
        }
        if let Poll::Ready(Some(Err(error))) = polled {
            *broken = Some(error);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Full(bytes) => bytes.is_empty(),
            Content::LengthOnly(_) => false,
            Content::Upstream(body, _) => self.broken.is_none() && body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::LengthOnly(length) => SizeHint::with_exact(*length),
            Content::Upstream(body, _) => body.size_hint(),
        }
    }
}

/// `rewrite_location`: which `Location` belongs to the upstream, and what replaces it so that it points through the proxy.
#[derive(Debug)]
pub(super) struct LocationRule {
    on: bool,
    https: bool,
    host: String,
    port: u16,
    /// Without its trailing slash.
    upstream_path: String,
    /// The route's prefix without its trailing slash, or its exact path.
    route_path: String,
    exact: bool,
}

impl LocationRule {
    pub(super) fn new(route: &RouteConfig) -> Self {
        let (https, host, port) = match &route.upstream.target {
            UpstreamTarget::Tcp { https, host, port } => (*https, host.clone(), *port),
            UpstreamTarget::Unix(_) => (false, route.upstream.authority.clone(), 80),
        };
        let (route_path, exact) = match &route.path {
            PathPattern::Exact(path) => (path.clone(), true),
            PathPattern::Prefix(prefix) => (prefix.clone(), false),
        };
        let path = route.upstream.path.as_str();
        let upstream_path = if exact { path } else { path.strip_suffix('/').unwrap_or(path) };
        Self {
            // To the host that the caller asked for, every `Location` points through the proxy already.
            on: route.rewrite_location && !route.to_asked_host,
            https,
            host,
            port,
            upstream_path: upstream_path.to_owned(),
            route_path,
            exact,
        }
    }

    fn apply(&self, headers: &mut HeaderMap) {
        if !self.on {
            return;
        }
        let mut lines = headers.get_all(header::LOCATION).iter();
        let (Some(location), None) = (lines.next(), lines.next()) else { return };
        if let Some(location) = self.rewrite(location.as_bytes()) {
            headers.insert(header::LOCATION, location);
        }
    }

    /// The new value, as a path on the proxy. `None` if the old one stays.
    ///
    /// A value may have any bytes that a field may have: many servers write raw UTF-8, spaces or quotes.
    fn rewrite(&self, location: &[u8]) -> Option<HeaderValue> {
        let rest = self.beneath(self.own_path(location)?)?;
        let mut target = Vec::with_capacity(self.route_path.len() + rest.len() + 1);
        target.extend_from_slice(self.route_path.as_bytes());
        target.extend_from_slice(rest);
        if !target.starts_with(b"/") {
            target.insert(0, b'/');
        }
        is_local_path(&target).then(|| HeaderValue::from_bytes(&target).ok())?
    }

    /// The path, query and fragment of a `Location` on the upstream.
    fn own_path<'a>(&self, location: &'a [u8]) -> Option<&'a [u8]> {
        let after_scheme = match location {
            [b'/', b'/', rest @ ..] => rest,
            [b'/', ..] => return Some(location),
            _ => {
                let colon = location.windows(3).position(|window| window == b"://")?;
                let (scheme, rest) = location.split_at_checked(colon)?;
                let own = if self.https { "https" } else { "http" };
                if !scheme.eq_ignore_ascii_case(own.as_bytes()) {
                    return None;
                }
                rest.get(3..)?
            }
        };
        let end = after_scheme.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#'));
        let (authority, path) = after_scheme.split_at_checked(end.unwrap_or(after_scheme.len()))?;
        let authority = Authority::parse(std::str::from_utf8(authority).ok()?)?;
        let port = authority.port.unwrap_or(if self.https { 443 } else { 80 });
        (authority.host.eq_ignore_ascii_case(&self.host) && port == self.port).then_some(path)
    }

    /// What follows the upstream's path, if `path` is under it.
    fn beneath<'a>(&self, path: &'a [u8]) -> Option<&'a [u8]> {
        let rest = path.strip_prefix(self.upstream_path.as_bytes())?;
        let whole = matches!(rest.first(), None | Some(b'?' | b'#'));
        let fits = whole || (!self.exact && rest.starts_with(b"/"));
        // `/api/../x` is not under `/api`, and neither is anything that browsers read that way.
        (fits && is_unambiguous(path)).then_some(rest)
    }
}

/// Whether browsers read the target as a path on this host. They take two leading slashes for another host.
fn is_local_path(target: &[u8]) -> bool {
    target.starts_with(b"/") && !target.starts_with(b"//") && is_unambiguous(target)
}

/// Whether browsers read the path as it is written (URL Standard, section 4.4): it has no dot segment, no `\`, which they
/// take for a slash, and no tab or other control character, which they may drop.
fn is_unambiguous(target: &[u8]) -> bool {
    let end = target.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(target.len());
    let path = target.get(..end).unwrap_or_default();
    // Bytes beyond ASCII do not matter here.
    let path = String::from_utf8_lossy(path);
    path.is_empty() || path::parse(&path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(upstream_path: &str, route_path: &str) -> LocationRule {
        LocationRule {
            on: true,
            https: true,
            host: "api.example".to_owned(),
            port: 443,
            upstream_path: upstream_path.to_owned(),
            route_path: route_path.to_owned(),
            exact: false,
        }
    }

    fn rewritten(rule: &LocationRule, location: &str) -> Option<String> {
        rule.rewrite(location.as_bytes()).map(|value| String::from_utf8(value.as_bytes().to_vec()).unwrap())
    }

    #[test]
    fn a_location_under_the_upstream_points_back() {
        let rule = rule("/api/v2", "/billing");
        for (from, to) in [
            ("https://api.example/api/v2/x?y#z", "/billing/x?y#z"),
            ("https://API.example:443/api/v2/x", "/billing/x"),
            ("//api.example/api/v2/x", "/billing/x"),
            ("/api/v2/x", "/billing/x"),
            ("/api/v2", "/billing"),
            ("/api/v2?q", "/billing?q"),
        ] {
            assert_eq!(rewritten(&rule, from).as_deref(), Some(to), "{from}");
        }
    }

    #[test]
    fn any_other_location_stays() {
        let rule = rule("/api/v2", "/billing");
        for location in [
            "https://api.example/other",
            "https://api.example/api/v22",
            "https://evil.example/api/v2/x",
            "http://api.example/api/v2/x",
            "https://api.example:8443/api/v2/x",
            "https://u@api.example/api/v2/x",
            "https://api.example@evil.example/api/v2/x",
            "https://api.example:99999/api/v2/x",
            "https://api.example.evil.example/api/v2/x",
            "https://api.example\\@evil.example/api/v2/x",
            "https:/api.example/api/v2/x",
            "https:api.example/api/v2/x",
            "https:///api.example/api/v2/x",
            "https:/\\api.example/api/v2/x",
            " https://api.example/api/v2/x",
            "/api/v2/../x",
            "/api/v2/%2e%2E/x",
            "/api/v2/..;/x",
            "/api/v2/..",
            "/api/v2\\..\\x",
            "/api/v2/\t../x",
            "",
            "next",
            "mailto:x@y",
        ] {
            assert_eq!(rewritten(&rule, location), None, "{location}");
        }
    }

    #[test]
    fn without_paths_the_root_is_mapped() {
        assert_eq!(rewritten(&rule("", ""), "https://api.example").as_deref(), Some("/"));
        assert_eq!(rewritten(&rule("", "/p"), "https://api.example").as_deref(), Some("/p"));
        assert_eq!(rewritten(&rule("", "/p"), "/x").as_deref(), Some("/p/x"));
        assert_eq!(rewritten(&rule("/a", ""), "/a").as_deref(), Some("/"));
    }

    #[test]
    fn nothing_becomes_another_host() {
        for location in [
            "https://api.example//evil.example/x",
            "https://api.example/\\evil.example/x",
            "https://api.example/\t/evil.example/x",
            "https://api.example/\t\\evil.example/x",
            "https://api.example\t//evil.example/x",
            "https://api.example\\\\evil.example/x",
            "//api.example//evil.example/x",
            "///evil.example/x",
            "//evil.example/x",
            "/\\evil.example/x",
            "\\/evil.example/x",
            "\\\\evil.example/x",
            "/\t/evil.example/x",
            "/./\\evil.example",
            "https://api.example/.//evil.example/x",
            "https://api.example/%2e//evil.example/x",
            "https://api.example/a/..//evil.example/x",
            "https:/\\evil.example/x",
        ] {
            assert_eq!(rewritten(&rule("", ""), location), None, "{location}");
        }
        let below = rewritten(&rule("", "/p"), "https://api.example//evil.example/x");
        assert_eq!(below.as_deref(), Some("/p//evil.example/x"), "an empty segment is no host here");
        let above = rewritten(&rule("/api", ""), "https://api.example/api//evil.example/x");
        assert_eq!(above, None);
    }

    #[test]
    fn raw_bytes_spaces_and_quotes_are_rewritten_too() {
        let rule = rule("/api/v2", "/billing");
        for (from, to) in [
            ("https://api.example/api/v2/für dich", "/billing/für dich"),
            ("/api/v2/\"x\"?q=\"y\"", "/billing/\"x\"?q=\"y\""),
            ("/api/v2/a|b`c{d}", "/billing/a|b`c{d}"),
            ("/api/v2/x?to=C:\\dir\\..\\x", "/billing/x?to=C:\\dir\\..\\x"),
            ("/api/v2/x#../y", "/billing/x#../y"),
        ] {
            assert_eq!(rewritten(&rule, from).as_deref(), Some(to), "{from}");
        }
        let latin = rule.rewrite(b"https://api.example/api/v2/f\xfcr").unwrap();
        assert_eq!(latin.as_bytes(), b"/billing/f\xfcr");
        assert_eq!(rule.rewrite(b"https://api.ex\xe4mple/api/v2/x"), None);
    }
}
