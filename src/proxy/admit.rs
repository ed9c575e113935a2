//! Decides whether a request may go on, and to which route.
//!
//! The checks, in their order: 405 and 400 for what is malformed or ambiguous ([`read_target`]), 421 for a host that is
//! not served here, 403 for a caller or a browser page that the listener does not allow ([`ListenerRules`],
//! [`foreign_page`]), 404 if no route matches. What differs on a forward listener is in [`super::connect`].

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version, header};

use super::connect::{self, Inside};
use super::error::{Code, OAuthError, ProxyError};
use super::headers::{self, FieldSet};
use super::{RouteService, Snapshot};
use crate::config::{Address, ListenerConfig, Serve};
use crate::inbound::{Activity, CallerBody};
use crate::metrics::ListenerMetrics;
use crate::route::host::{Authority, is_own_name};
use crate::route::path::MatchPath;
use crate::route::{Lookup, NoMatch, RouteMatch, near, path};
use crate::secret::Secret;
use crate::upstream::has_padded_value;

/// What bearerd knows about a caller's connection. One for each connection.
#[derive(Debug)]
pub struct Caller {
    /// The name of the listener that accepted it.
    pub listener: Arc<str>,
    /// The listener's configured address.
    pub address: Address,
    pub peer: Peer,
    /// The address that the caller connected to; `None` on a Unix socket.
    pub local: Option<SocketAddr>,
    pub tls: bool,
    /// The other end belongs to bearerd's own user, and the listener admits it for that.
    pub same_user: bool,
    pub activity: Arc<Activity>,
    /// The connection is inside a CONNECT.
    pub inside: Option<Inside>,
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Tcp(SocketAddr),
    Unix { uid: u32 },
}

/// A request that may go on.
pub(super) struct Admission<'a> {
    pub(super) service: Arc<RouteService>,
    pub(super) route_match: RouteMatch,
    /// The header field that let the caller in. bearerd does not forward it.
    pub(super) key_header: Option<&'a HeaderName>,
    /// An OPTIONS with `Max-Forwards: 0`, to which bearerd responds itself.
    pub(super) ends_here: bool,
}

/// What a request wants, if it may go on.
pub(super) enum Admitted<'a> {
    Route(Admission<'a>),
    /// `OPTIONS *`: the request is for this server as a whole.
    Server,
    /// A CONNECT to this host, which the caller may send. Whether the host is served is not decided yet.
    Connect(connect::Asked<'a>),
}

/// Runs all checks.
///
/// # Errors
/// See the module.
pub(super) fn admit<'a>(
    snapshot: &'a Snapshot,
    listener: Option<(usize, &'a ListenerRules)>,
    caller: &Caller,
    request: &Request<CallerBody>,
    fields: FieldSet,
) -> Result<Admitted<'a>, ProxyError> {
    let Some((index, rules)) = listener else {
        let detail =
            format!("listener {} is no longer in the config, or has another `serve`", caller.listener);
        return Err(ProxyError::new(Code::Overloaded, detail));
    };
    let forward = rules.config.serve() == Serve::Forward;
    let Target { mut authority, resource, ends_here } =
        read_target(request, forward && caller.inside.is_none(), fields)?;
    if forward {
        authority = authority.map(|it| Authority { host: connect::in_usual_spelling(it.host), ..it });
    }
    let asked = match forward {
        true => Some(connect::asked_host(caller, request, authority.as_ref())?),
        false => None,
    };
    let host = match &asked {
        Some(asked) => asked.key(),
        None => Cow::Borrowed(authority.as_ref().map_or("", |authority| &*authority.host)),
    };
    let host = &*host;
    let own_name = !forward && (authority.is_none() || is_own_name(&rules.config, caller.local, host));
    let lookup = match &resource {
        Resource::Server | Resource::Connect => None,
        Resource::Path(path) => Some(Lookup {
            listener: index,
            own_name,
            host,
            path,
            method: request.method(),
            headers: request.headers(),
        }),
    };
    let found = lookup.as_ref().map(|lookup| snapshot.table.find(lookup));
    // Before 421: whether an escaped slash is malformed depends on the route alone.
    if let Some(Err(NoMatch::EncodedSlash)) = found {
        return Err(encoded_slash());
    }
    let named = snapshot.table.names_host(index, host);
    if !forward && !own_name && !named {
        return Err(misdirected(snapshot, rules, lookup.as_ref()));
    }
    rules.admit(caller, authority.as_ref(), request.headers(), fields)?;
    let connects = matches!(resource, Resource::Connect);
    if let Some(asked) = asked.filter(|_| !named) {
        let unread = asked.without_route(&rules.config, |host| snapshot.table.names_host(index, host));
        let kept = || format!("no route names the host `{host}` any more; connect again");
        let passes = unread.and_then(|()| if connects { Ok(()) } else { Err(kept()) });
        passes.map_err(|why| rules.refused(caller, &why))?;
    }
    if let Some(asked) = asked.filter(|_| connects) {
        let (host, port) = (asked.host.into(), asked.port);
        return Ok(Admitted::Connect(connect::Asked { rules, host, port, named }));
    }
    let (Some(lookup), Some(found)) = (lookup, found) else { return Ok(Admitted::Server) };
    let route_match = found.map_err(|miss| no_route(snapshot, &lookup, miss))?;
    let Some(service) = snapshot.routes.get(route_match.route) else {
        return Err(ProxyError::new(Code::Internal, "the route table and the routes do not fit together"));
    };
    let service = connect::service_for(service, host);
    // Inside a CONNECT, the field belongs to the request for the upstream.
    let key_header = rules.key_header().filter(|_| caller.inside.is_none());
    Ok(Admitted::Route(Admission { service, route_match, key_header, ends_here }))
}

/// Runs the checks of a token listener, which has no routes. Returns the path; `None` for `OPTIONS *`.
///
/// # Errors
/// See the module.
pub(super) fn admit_to_endpoint<'r>(
    rules: &ListenerRules,
    caller: &Caller,
    request: &'r Request<CallerBody>,
    fields: FieldSet,
) -> Result<Option<MatchPath<'r>>, ProxyError> {
    let Target { authority, resource, ends_here: _ } = read_target(request, false, fields)?;
    if let Some(authority) = &authority
        && !is_own_name(&rules.config, caller.local, &authority.host)
    {
        let name = &rules.config.name;
        let detail = format!(
            "listener {name} does not have this Host; use localhost in the URL, or add the name to `names` of \
             [listener.{name}]"
        );
        return Err(ProxyError::new(Code::Misdirected, detail));
    }
    rules.admit(caller, authority.as_ref(), request.headers(), fields)?;
    Ok(match resource {
        Resource::Path(path) => Some(path),
        Resource::Server | Resource::Connect => None,
    })
}

// The request's target, read strictly (400, 405)

/// The host that a request is for, and what it requests there.
#[derive(Debug)]
struct Target<'a> {
    /// `None` for HTTP/1.0 without Host.
    authority: Option<Authority<'a>>,
    resource: Resource<'a>,
    /// An OPTIONS with no hop left (RFC 9110 section 7.6.2).
    ends_here: bool,
}

#[derive(Debug)]
enum Resource<'a> {
    Path(MatchPath<'a>),
    /// `OPTIONS *` is for the server as a whole (RFC 9110 section 7.1), which is bearerd.
    Server,
    /// CONNECT has only an authority (RFC 9110 section 9.3.6).
    Connect,
}

/// Reads the target. Whatever two parsers could read in two ways is an error. `connects`: CONNECT is a method here.
///
/// # Errors
/// 405 for methods that are not proxied, 400 for everything malformed or ambiguous.
fn read_target<B>(request: &Request<B>, connects: bool, fields: FieldSet) -> Result<Target<'_>, ProxyError> {
    if request.version() == Version::HTTP_2 && has_padded_value(request.headers()) {
        return Err(ProxyError::bad_request("the value of a header field begins or ends with white space"));
    }
    if connects && request.method() == Method::CONNECT {
        let authority = Some(connect::connect_target(request, authority(request)?, fields)?);
        return Ok(Target { authority, resource: Resource::Connect, ends_here: false });
    }
    check_method(request.method())?;
    check_framing(request, fields)?;
    check_form(request)?;
    let authority = authority(request)?;
    let resource = match (request.method(), request.uri().path()) {
        (&Method::OPTIONS, "*") if request.uri().query().is_none() => Resource::Server,
        (_, path) => {
            Resource::Path(path::parse(path).map_err(|error| ProxyError::bad_request(error.to_string()))?)
        }
    };
    Ok(Target { authority, resource, ends_here: ends_here(request, fields)? })
}

fn check_method(method: &Method) -> Result<(), ProxyError> {
    if *method == Method::CONNECT || *method == Method::TRACE {
        let detail = format!("{method} is not proxied: bearerd is a gateway to configured upstreams");
        return Err(ProxyError::new(Code::MethodRefused, detail));
    }
    Ok(())
}

/// Refuses framing that two parsers could read as bodies of different lengths.
fn check_framing<B>(request: &Request<B>, fields: FieldSet) -> Result<(), ProxyError> {
    if fields.any(FieldSet::TRANSFER_ENCODING) && !headers::is_only_chunked(request.headers()) {
        return Err(ProxyError::bad_request(
            "the body has a transfer coding other than chunked, or more than one; send it plain or chunked",
        ));
    }
    // Over HTTP/2, the frames say where the body ends. But the library accepts "" and "0, 0" as lengths.
    if fields.any(FieldSet::CONTENT_LENGTH) && !headers::has_one_length(request.headers()) {
        return Err(ProxyError::bad_request("Content-Length is not one number"));
    }
    Ok(())
}

/// Checks what neither the authority nor the path parser looks at: the scheme, and a path without a leading slash.
fn check_form<B>(request: &Request<B>) -> Result<(), ProxyError> {
    let uri = request.uri();
    let is_http = |scheme: &str| scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    if uri.scheme_str().is_some_and(|scheme| !is_http(scheme)) {
        return Err(ProxyError::bad_request("the scheme of the request's target is neither http nor https"));
    }
    // In HTTP/1.1, `http://host?query` has an empty path, which means `/`. HTTP/2 has no empty `:path`.
    let path = uri.path_and_query().map_or("", |path| path.as_str());
    if request.version() == Version::HTTP_2 && path.starts_with('?') {
        return Err(ProxyError::bad_request("the path does not begin with a slash"));
    }
    Ok(())
}

/// Exactly one Host in HTTP/1.1, with one meaning (RFC 9112 section 3.2).
fn authority<B>(request: &Request<B>) -> Result<Option<Authority<'_>>, ProxyError> {
    let mut lines = request.headers().get_all(header::HOST).iter();
    let line = lines.next();
    if lines.next().is_some() {
        return Err(ProxyError::bad_request("the request has more than one Host line"));
    }
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let is = |line: &HeaderValue, text: &str| line.as_bytes().eq_ignore_ascii_case(text.as_bytes());
    // Java, undici, and aiohttp leave out the port of a CONNECT here. Only the target says it.
    let without_port = |authority: &str, line: &HeaderValue| {
        let host = authority.rsplit_once(':').map(|(host, _)| host);
        request.method() == Method::CONNECT && host.is_some_and(|host| is(line, host))
    };
    // Java writes the default port in one of the two alone.
    let https = request.uri().scheme_str().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    let default = connect::default_port(https);
    let equal = |authority: &str, line: &HeaderValue| {
        let parsed = |text| Authority::parse(text).map(|it| (it.host, it.port.unwrap_or(default)));
        let (asked, given) = (parsed(authority), line.to_str().ok().and_then(parsed));
        request.method() != Method::CONNECT && asked.is_some() && asked == given
    };
    let same = |authority: &str, line: &HeaderValue| {
        is(line, authority) || without_port(authority, line) || equal(authority, line)
    };
    let given = match (authority, line) {
        (Some(authority), Some(line)) if !same(authority, line) => {
            return Err(ProxyError::bad_request("Host and the request's target name different hosts"));
        }
        // RFC 9112 section 3.2 requires the line in every HTTP/1.1 request, in this form too.
        (Some(_), None) if request.version() == Version::HTTP_11 => None,
        (Some(authority), _) => Some(authority),
        (None, Some(line)) => {
            let text = line.to_str().map_err(|_| ProxyError::bad_request("Host is not plain ASCII"))?;
            Some(text)
        }
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

fn ends_here<B>(request: &Request<B>, fields: FieldSet) -> Result<bool, ProxyError> {
    if request.method() != Method::OPTIONS || !fields.any(FieldSet::MAX_FORWARDS) {
        return Ok(false);
    }
    let left = headers::max_forwards(request.headers())
        .map_err(|()| ProxyError::bad_request("Max-Forwards is not one number"))?;
    Ok(left == Some(0))
}

// The listener's rules (403)

/// A listener's rules, with the value of `require_header` read.
#[derive(Debug)]
pub struct ListenerRules {
    pub config: Arc<ListenerConfig>,
    pub metrics: Arc<ListenerMetrics>,
    require_header: Option<Arc<RequiredHeader>>,
}

/// The header field that a CONNECT carried for the listener's `require_header`.
#[derive(Debug, Clone, Default)]
pub struct Proven(Option<Arc<RequiredHeader>>);

#[derive(Debug)]
struct RequiredHeader {
    name: HeaderName,
    /// The error says why the value cannot be read. The listener then refuses every caller.
    value: Result<Arc<Secret>, String>,
}

impl ListenerRules {
    /// Reads the value of `require_header`. Each reload reads it again.
    pub fn new(config: &Arc<ListenerConfig>, metrics: Arc<ListenerMetrics>) -> Self {
        let require_header = config.require_header.as_ref().map(|(name, source)| {
            let value = source.read_or_last_good().map(|(value, _)| value).map_err(|error| error.to_string());
            Arc::new(RequiredHeader { name: name.clone(), value })
        });
        Self { config: Arc::clone(config), metrics, require_header }
    }

    /// The same rules, with another header field in place of `require_header`.
    #[must_use]
    pub fn requiring(&self, name: HeaderName, value: Secret) -> Self {
        let required = RequiredHeader { name, value: Ok(Arc::new(value)) };
        Self {
            config: Arc::clone(&self.config),
            metrics: Arc::clone(&self.metrics),
            require_header: Some(Arc::new(required)),
        }
    }

    /// Checks the caller's address, the browser page that sent the request, and the required header field. `authority` is
    /// the host that the request is for.
    ///
    /// # Errors
    /// 403 `caller_refused`.
    fn admit(
        &self,
        caller: &Caller,
        authority: Option<&Authority<'_>>,
        headers: &HeaderMap,
        fields: FieldSet,
    ) -> Result<(), ProxyError> {
        self.check_peer(caller)?;
        // A forward listener's own TLS is not that of the host.
        let tls = caller.tls && (caller.inside.is_some() || self.config.serve() != Serve::Forward);
        let own = OwnOrigin { tls, authority };
        if fields.any(FieldSet::PAGE)
            && let Some(why) = foreign_page(headers, own, &self.config.origins)
        {
            return Err(self.refused(caller, why));
        }
        match &caller.inside {
            _ if caller.same_user => Ok(()),
            None => self.check_required_header(caller, headers),
            // The CONNECT carried the field. What is inside is for the upstream alone.
            Some(inside) if self.requires_no_more_than(&inside.proven) => Ok(()),
            Some(_) => {
                Err(self.refused(caller, "`require_header` has changed since the CONNECT; connect again"))
            }
        }
    }

    /// What a CONNECT that these rules admit has proven.
    pub(super) fn proven(&self) -> Proven {
        Proven(self.require_header.clone())
    }

    /// Whether a CONNECT that an earlier version of these rules admitted may stay open.
    pub(super) fn still_admits(&self, caller: &Caller, proven: &Proven) -> bool {
        self.check_peer(caller).is_ok() && (caller.same_user || self.requires_no_more_than(proven))
    }

    fn requires_no_more_than(&self, Proven(proven): &Proven) -> bool {
        match (&self.require_header, proven) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(required), Some(proven)) => required.equals(proven),
        }
    }

    fn check_peer(&self, caller: &Caller) -> Result<(), ProxyError> {
        let refused = match caller.peer {
            Peer::Tcp(peer) => {
                let ip = peer.ip().to_canonical();
                let allow = &self.config.allow;
                (!allow.is_empty() && !allow.iter().any(|net| net.contains(&ip)))
                    .then(|| format!("the address {ip} is not in `allow`"))
            }
            Peer::Unix { uid } => {
                let allow = &self.config.unix.allow_uids;
                let refused = !allow.is_empty() && !allow.contains(&uid);
                refused.then(|| format!("the user id {uid} is not in `allow_uids`"))
            }
        };
        match refused {
            Some(why) => Err(self.refused(caller, &why)),
            None => Ok(()),
        }
    }

    fn check_required_header(&self, caller: &Caller, headers: &HeaderMap) -> Result<(), ProxyError> {
        let Some(required) = &self.require_header else { return Ok(()) };
        let name = &required.name;
        let value = match &required.value {
            Ok(value) => value,
            Err(why) => {
                let why = format!("the value of `require_header` cannot be read: {why}");
                return Err(self.refused(caller, &why));
            }
        };
        let mut given = headers.get_all(name).iter();
        let is_right = |given: &HeaderValue| are_equal(given.as_bytes(), value.expose());
        match (given.next(), given.next()) {
            (Some(given), None) if is_right(given) => Ok(()),
            (None, _) => {
                let authenticate = *name == header::PROXY_AUTHORIZATION;
                let error = self.key_refused(caller, &format!("the header field {name} is missing"));
                Err(ProxyError { authenticate, ..error })
            }
            (Some(_), _) => {
                Err(self.key_refused(caller, &format!("the header field {name} has a wrong value")))
            }
        }
    }

    /// 401 if OAuth clients authenticate with the field (RFC 6749 section 5.2), else 403.
    fn key_refused(&self, caller: &Caller, why: &str) -> ProxyError {
        let error = self.refused(caller, why);
        let is_authorization = self.key_header() == Some(&header::AUTHORIZATION);
        match is_authorization && self.config.serve() == Serve::Token {
            true => error.oauth(OAuthError::UNAUTHENTICATED),
            false => error,
        }
    }

    /// The header field that lets a caller in. bearerd does not forward it.
    fn key_header(&self) -> Option<&HeaderName> {
        self.require_header.as_ref().map(|required| &required.name)
    }

    pub(super) fn refused(&self, caller: &Caller, why: &str) -> ProxyError {
        let at = match &self.config.address {
            // Port 0 is any free one.
            Address::Tcp(address) if address.port() == 0 => caller.local.unwrap_or(*address).to_string(),
            Address::Tcp(address) => address.to_string(),
            Address::Unix(path) => format!("unix:{}", path.display()),
        };
        let name = &self.config.name;
        ProxyError::new(Code::CallerRefused, format!("listener {name} ({at}) refused this request: {why}"))
    }
}

impl RequiredHeader {
    fn equals(&self, other: &Self) -> bool {
        let (Ok(value), Ok(of_other)) = (&self.value, &other.value) else { return false };
        self.name == other.name && are_equal(value.expose(), of_other.expose())
    }
}

/// In constant time for values of the same length.
fn are_equal(one: &[u8], other: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(one, other).is_ok()
}

// Browser pages of other sites (403)
//
// A browser lets any page send simple requests to any address that its machine reaches. If bearerd adds the credential on
// the way, such a request would carry it.

/// Fetch Metadata: says which site started a request. Browsers send it only to trustworthy addresses: `https`,
/// `localhost`, and loopback addresses.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The origin that a request is for. Pages of the same origin are served from here.
#[derive(Debug, Clone, Copy)]
pub struct OwnOrigin<'a> {
    pub tls: bool,
    /// `None` if the request names no host.
    pub authority: Option<&'a Authority<'a>>,
}

/// Why a request comes from a page of another site, as a phrase, according to `Origin`, `Sec-Fetch-Site` and `Referer`.
/// `None` if nothing says so.
///
/// `allowed`: origins whose pages may send requests although they belong to another site.
pub fn foreign_page(headers: &HeaderMap, own: OwnOrigin<'_>, allowed: &[String]) -> Option<&'static str> {
    let is_allowed =
        |origin: &[u8]| allowed.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(origin));
    let origins = headers.get_all(header::ORIGIN);
    let mut lines = origins.iter().peekable();
    if lines.peek().is_some() && lines.all(|origin| is_allowed(origin.as_bytes())) {
        // The other fields rightly say that it is another site.
        return None;
    }
    if !origins.iter().all(|origin| is_allowed(origin.as_bytes()) || own.is(origin.as_bytes())) {
        return Some("a browser page sent it, and its Origin is neither this address's own nor in `origins`");
    }
    if headers.get_all(SEC_FETCH_SITE).iter().any(|site| site != "same-origin" && site != "none") {
        return Some("a browser page of another site sent it (Sec-Fetch-Site)");
    }
    let is_from_here = |referer: &HeaderValue| match referer_source(referer.as_bytes()) {
        RefererSource::NoOtherSite => true,
        RefererSource::Origin(origin) => is_allowed(origin) || own.is(origin),
        RefererSource::Unclear => false,
    };
    if !headers.get_all(header::REFERER).iter().all(is_from_here) {
        return Some("a browser page of another site sent it (Referer)");
    }
    None
}

impl OwnOrigin<'_> {
    fn is(self, origin: &[u8]) -> bool {
        self.equals(origin).unwrap_or(false)
    }

    fn equals(self, origin: &[u8]) -> Option<bool> {
        let (scheme, authority) = std::str::from_utf8(origin).ok()?.split_once("://")?;
        let (own_scheme, default_port) = if self.tls { ("https", 443) } else { ("http", 80) };
        let (theirs, ours) = (Authority::parse(authority)?, self.authority?);
        let port = |authority: &Authority<'_>| authority.port.unwrap_or(default_port);
        Some(
            scheme.eq_ignore_ascii_case(own_scheme)
                && theirs.host == ours.host
                && port(&theirs) == port(ours),
        )
    }
}

/// The page that a `Referer` names (RFC 9110 section 10.1.3).
enum RefererSource<'a> {
    /// It is a path on this host, or says that there was no page.
    NoOtherSite,
    Origin(&'a [u8]),
    Unclear,
}

fn referer_source(referer: &[u8]) -> RefererSource<'_> {
    match referer {
        b"" | b"about:blank" | b"/" => return RefererSource::NoOtherSite,
        [b'/', next, ..] if !matches!(next, b'/' | b'\\') => return RefererSource::NoOtherSite,
        _ => {}
    }
    let Some(colon) = referer.windows(3).position(|window| window == b"://") else {
        return RefererSource::Unclear;
    };
    let host = colon + 3;
    let end = referer.iter().skip(host).position(|byte| matches!(byte, b'/' | b'\\' | b'?' | b'#'));
    let origin = referer.get(..end.map_or(referer.len(), |end| host + end));
    origin.map_or(RefererSource::Unclear, RefererSource::Origin)
}

// No route (404), or a host that is not served here (421)

/// At most this many near routes are named.
const NEAREST: usize = 3;
/// At most this many characters of a path are shown to operators.
const SHOWN: usize = 200;

fn misdirected(snapshot: &Snapshot, rules: &ListenerRules, lookup: Option<&Lookup<'_>>) -> ProxyError {
    let name = &rules.config.name;
    let detail = format!(
        "neither listener {name} nor any of its routes has this Host; use localhost in the URL, or add the name to \
         `names` of [listener.{name}] or to `host` of a route"
    );
    // The caller does not learn which hosts exist: it may be any web page.
    let for_operators = lookup.map(|lookup| operator_detail(lookup, &detail, &nearest(snapshot, lookup)));
    ProxyError { for_operators, ..ProxyError::new(Code::Misdirected, detail) }
}

fn no_route(snapshot: &Snapshot, lookup: &Lookup<'_>, miss: NoMatch) -> ProxyError {
    let (detail, near) = match miss {
        NoMatch::EncodedSlash => return encoded_slash(),
        NoMatch::Path => ("no route serves this path on this host".to_owned(), nearest(snapshot, lookup)),
        NoMatch::Method(methods) => {
            let methods: Vec<&str> = methods.iter().map(Method::as_str).collect();
            let method = lookup.method;
            (format!("this path is not served for {method}, only for {}", methods.join(", ")), Vec::new())
        }
    };
    let for_operators = Some(operator_detail(lookup, &detail, &near));
    let explain = "`bearerd explain METHOD URL` tells more";
    let detail = [&[detail], &near[..], &[explain.to_owned()]].concat().join("; ");
    ProxyError { for_operators, ..ProxyError::new(Code::NoRoute, detail) }
}

fn encoded_slash() -> ProxyError {
    ProxyError::bad_request(
        "the path has an escaped slash (%2F), which may mean one thing to bearerd and another to the upstream; if the \
         upstream needs it, set allow_encoded_slash = true on the route",
    )
}

fn nearest(snapshot: &Snapshot, lookup: &Lookup<'_>) -> Vec<String> {
    let config = &snapshot.config;
    near::nearest(&config.routes, |index| Some(&*config.listeners.get(index)?.name), lookup, NEAREST)
}

/// The detail with method, host and path, and never the query. The host was read strictly, and the path has no raw control
/// characters.
fn operator_detail(lookup: &Lookup<'_>, detail: &str, near: &[String]) -> Box<str> {
    let path = &lookup.path.canonical;
    let shown: String = path.chars().take(SHOWN).collect();
    let cut = if shown.len() < path.len() { "…" } else { "" };
    let what = format!("{} {}{shown}{cut}: {detail}", lookup.method, lookup.host);
    [&[what], near].concat().join("; ").into_boxed_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: &str = "https://app.test";

    fn refused(own: (bool, &str), fields: &[(&'static str, &str)]) -> bool {
        let authority = Authority::parse(own.1);
        let own = OwnOrigin { tls: own.0, authority: authority.as_ref() };
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        foreign_page(&headers, own, &[APP.to_owned()]).is_some()
    }

    const PLAIN: (bool, &str) = (false, "api.internal:8080");

    #[test]
    fn without_a_page_a_request_passes() {
        assert!(!refused(PLAIN, &[]));
        assert!(!refused((false, ""), &[]));
    }

    #[test]
    fn an_origin_must_be_listed_or_the_requests_own() {
        for (own, origin) in [
            (PLAIN, "http://api.internal:8080"),
            (PLAIN, "HTTP://API.internal:8080"),
            (PLAIN, APP),
            ((false, "api.internal"), "http://api.internal"),
            ((false, "api.internal:80"), "http://api.internal"),
            ((true, "api.internal"), "https://api.internal:443"),
            ((false, "[::1]:8080"), "http://[::1]:8080"),
        ] {
            assert!(!refused(own, &[("origin", origin)]), "{own:?} {origin}");
        }
        for (own, origin) in [
            (PLAIN, "https://api.internal:8080"),
            (PLAIN, "http://api.internal"),
            (PLAIN, "http://api.internal:8081"),
            (PLAIN, "http://api.internal.evil.test:8080"),
            (PLAIN, "http://x@api.internal:8080"),
            (PLAIN, "api.internal:8080"),
            (PLAIN, "null"),
            (PLAIN, ""),
            ((true, "api.internal"), "http://api.internal:443"),
            ((false, ""), "http://api.internal"),
            ((false, ""), "http://"),
        ] {
            assert!(refused(own, &[("origin", origin)]), "{own:?} {origin}");
        }
    }

    #[test]
    fn several_origins_must_all_be_known() {
        assert!(!refused(PLAIN, &[("origin", APP), ("origin", "http://api.internal:8080")]));
        assert!(refused(PLAIN, &[("origin", APP), ("origin", "http://evil.test")]));
    }

    #[test]
    fn an_allowed_origin_may_be_another_site() {
        let cross = [("origin", APP), ("sec-fetch-site", "cross-site"), ("referer", "https://app.test/x")];
        assert!(!refused(PLAIN, &cross));
        let own = [("origin", "http://api.internal:8080"), ("sec-fetch-site", "cross-site")];
        assert!(refused(PLAIN, &own), "the two fields contradict each other");
    }

    #[test]
    fn a_site_other_than_the_same_origin_is_another() {
        for (site, is_refused) in [
            ("none", false),
            ("same-origin", false),
            ("same-site", true),
            ("cross-site", true),
            ("", true),
            ("new-word", true),
        ] {
            assert_eq!(refused(PLAIN, &[("sec-fetch-site", site)]), is_refused, "{site}");
        }
        assert!(refused(PLAIN, &[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")]));
    }

    #[test]
    fn a_referer_must_be_this_origin() {
        for referer in [
            "http://api.internal:8080/x?y#z",
            "http://api.internal:8080",
            "https://app.test/page",
            "/x",
            "/",
            "about:blank",
            "",
        ] {
            assert!(!refused(PLAIN, &[("referer", referer)]), "{referer}");
        }
        for referer in [
            "http://evil.test/",
            "http://api.internal/",
            "https://api.internal:8080/",
            "http://api.internal:8080@evil.test/",
            "http://evil.test/?http://api.internal:8080",
            "http://evil.test\\.api.internal:8080/",
            "//evil.test/",
            "/\\evil.test/",
            "evil",
            "data:text/html,x",
            "http://",
            "://",
        ] {
            assert!(refused(PLAIN, &[("referer", referer)]), "{referer}");
        }
        let latin = HeaderMap::from_iter([(
            header::REFERER,
            HeaderValue::from_bytes(b"http://evil\xe9.test/").unwrap(),
        )]);
        assert!(foreign_page(&latin, OwnOrigin { tls: false, authority: None }, &[]).is_some());
    }
}
