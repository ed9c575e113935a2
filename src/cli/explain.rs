//! `bearerd explain`: which route serves a request and why, what bearerd sends upstream, and with whose token.
//!
//! Nothing is sent, and no secret is read. The route is chosen with the same table and path rules as in the proxy. What differs on
//! forward listeners and token listeners is in [`served`].

mod sent;
mod served;

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use serde::Serialize;

use crate::config::{
    Address, CallerAuthorization, Callers, Config, Credential, HostPattern, Inject, ListenerConfig,
    PathPattern, RouteConfig, Serve,
};
use crate::proxy::{credential, max_forwards, route_at_host};
use crate::route::{Lookup, NoMatch, RouteTable, host, near, path};

pub use crate::cli::explain::sent::{CredentialFacts, HeaderNames, Parameter, Sent, Timeouts};

/// What happens to one request. It contains names from the config and the request's method and path, but no header
/// value and no query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// A route serves the request on at least one listener.
    pub found: bool,
    pub method: String,
    /// Without the query.
    pub path: String,
    /// One for each different result of the listeners.
    pub results: Vec<ListenerResult>,
}

/// What the named listeners do with the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListenerResult {
    pub listeners: Vec<String>,
    pub route: Option<String>,
    /// The status of the proxy's own response, if it sends nothing upstream.
    pub status: Option<u16>,
    pub code: Option<&'static str>,
    pub why: Vec<String>,
    /// Routes that nearly matched, one line each.
    pub nearest: Vec<String>,
    /// What else affects this request.
    pub notes: Vec<String>,
    pub sent: Option<Sent>,
}

/// Why no route serves a request: status, code, reason.
struct Refusal(u16, &'static str, String);

/// Explains one request. `url` is a path, and then the host is `localhost`, or an absolute URL. If its host names a
/// listener's address, only that listener counts; otherwise, forward listeners get it, as of a program that uses them as
/// its proxy. Without a scheme it is http. A `Host` among `headers` overrides the URL's.
///
/// # Errors
/// Bad usage: an invalid method, URL, or header field.
pub fn explain(
    config: &Config,
    method: &str,
    url: &str,
    headers: &[(String, String)],
) -> Result<Explanation, String> {
    let request = ExplainedRequest::new(method, url, headers)?;
    let table = RouteTable::build(&config.routes);
    let mut results: Vec<ListenerResult> = Vec::new();
    for index in request.listeners(config, &table) {
        let Some(listener) = config.listeners.get(index) else { continue };
        let answer = result_of(config, &table, &request, index);
        let name = listener.name.to_string();
        match results
            .iter_mut()
            .find(|other| ListenerResult { listeners: Vec::new(), ..(*other).clone() } == answer)
        {
            Some(same) => same.listeners.push(name),
            None => results.push(ListenerResult { listeners: vec![name], ..answer }),
        }
    }
    Ok(Explanation {
        found: results.iter().any(|answer| answer.route.is_some()),
        method: request.method.to_string(),
        path: request.path,
        results,
    })
}

impl Explanation {
    /// For people.
    pub fn to_text(&self) -> String {
        sent::render(self)
    }
}

/// The result of one listener, without its name.
fn result_of(
    config: &Config,
    table: &RouteTable,
    request: &ExplainedRequest,
    listener: usize,
) -> ListenerResult {
    match serve(config, table, request, listener) {
        Ok(answer) => answer,
        Err((Refusal(status, code, why), nearest)) => ListenerResult {
            listeners: Vec::new(),
            route: None,
            status: Some(status),
            code: Some(code),
            why: vec![why],
            nearest,
            notes: Vec::new(),
            sent: None,
        },
    }
}

/// Why a listener does not serve a request, and which routes nearly matched.
type Miss = (Refusal, Vec<String>);

/// What one listener does with the request.
fn serve(
    config: &Config,
    table: &RouteTable,
    request: &ExplainedRequest,
    listener: usize,
) -> Result<ListenerResult, Miss> {
    let alone = |refusal| (refusal, Vec::new());
    let Some(settings) = config.listeners.get(listener) else {
        return Err(alone(no_route("there is no such listener".to_owned())));
    };
    match settings.serve() {
        Serve::Token => served::by_token_listener(config, settings, request).map_err(alone),
        Serve::Forward => served::by_forward_listener(config, table, request, listener, settings),
        Serve::Proxy => {
            request.method_refused().map_err(alone)?;
            let name = request.host().map_err(alone)?;
            let own_name = host::is_own_name(settings, request.connected, &name);
            let unserved = (!own_name && !table.names_host(listener, &name)).then(|| misdirected(&name));
            by_route(config, table, request, (listener, settings), (&name, own_name), unserved)
        }
    }
}

/// The checks in the proxy's order: 400, the host (`unserved`), 404. A possible 403 for the caller is only a note.
fn by_route(
    config: &Config,
    table: &RouteTable,
    request: &ExplainedRequest,
    (listener, settings): (usize, &ListenerConfig),
    (host, own_name): (&str, bool),
    unserved: Option<Refusal>,
) -> Result<ListenerResult, Miss> {
    if request.is_for_the_server() {
        request.ends_here().map_err(|refusal| (refusal, Vec::new()))?;
        let answer = responded_here(None, "`OPTIONS *` is about the server as a whole, and that is bearerd");
        return unserved.map_or(Ok(answer), |refusal| Err((refusal, Vec::new())));
    }
    let bad_path = |error: path::PathError| (Refusal(400, "bad_request", error.to_string()), Vec::new());
    let match_path = path::parse(&request.path).map_err(bad_path)?;
    let ends_here = request.ends_here().map_err(|refusal| (refusal, Vec::new()))?;
    let call = Lookup {
        listener,
        own_name,
        host,
        path: &match_path,
        method: &request.method,
        headers: &request.headers,
    };
    let miss = |refusal| (refusal, nearest_routes(config, &call));
    let found = match (table.find(&call), unserved) {
        (Err(NoMatch::EncodedSlash), _) => return Err(miss(escaped_slash())),
        (_, Some(refusal)) => return Err(miss(refusal)),
        (Err(NoMatch::Path), _) => {
            return Err(miss(no_route("no route serves this host and path".to_owned())));
        }
        (Err(NoMatch::Method(methods)), _) => return Err(miss(other_methods(&methods))),
        (Ok(found), None) => found,
    };
    let Some(route) = config.routes.get(found.route) else {
        return Err(miss(no_route("the table names a route that is not there".to_owned())));
    };
    if ends_here {
        let name = Some(route.name.to_string());
        return Ok(responded_here(name, "Max-Forwards is 0: bearerd does not forward the OPTIONS"));
    }
    let each_host = route.to_asked_host && matches!(route.host, Some(HostPattern::Wildcard(_)));
    let at_host = each_host.then(|| route_at_host(route, host));
    Ok(ListenerResult {
        listeners: Vec::new(),
        route: Some(route.name.to_string()),
        status: None,
        code: None,
        why: reasons(config, route, &call),
        nearest: Vec::new(),
        notes: notes(settings, route, request),
        sent: Some(Sent::new(at_host.as_ref().unwrap_or(route), request, found.prefix_segments)),
    })
}

/// An OPTIONS request to which bearerd itself responds.
fn responded_here(route: Option<String>, why: &str) -> ListenerResult {
    ListenerResult {
        listeners: Vec::new(),
        route,
        status: Some(204),
        code: None,
        why: vec![format!("{why}; the response lists the methods in Allow, and nothing goes upstream")],
        nearest: Vec::new(),
        notes: Vec::new(),
        sent: None,
    }
}

fn escaped_slash() -> Refusal {
    let why = "the path has an escaped slash, and no route for it has `allow_encoded_slash = true`";
    Refusal(400, "bad_request", why.to_owned())
}

fn misdirected(name: &str) -> Refusal {
    let why = format!(
        "neither this listener nor a route that listens there names the host `{name}`; add it to the listener's \
         `names` or give a route `host`"
    );
    Refusal(421, "misdirected", why)
}

fn no_route(why: String) -> Refusal {
    Refusal(404, "no_route", why)
}

fn other_methods(methods: &[Method]) -> Refusal {
    let names: Vec<_> = methods.iter().map(Method::as_str).collect();
    no_route(format!("this path is served for other methods only: {}", names.join(", ")))
}

/// Where an absolute URL leads.
struct Target {
    /// In lower case, an IPv6 address without brackets.
    host: String,
    port: u16,
    https: bool,
}

struct ExplainedRequest {
    method: Method,
    path: String,
    /// Never shown, and only searched for the parameter that carries a route's token.
    query: Option<String>,
    headers: HeaderMap,
    /// The IP address in the URL, to which a caller of this URL connects.
    connected: Option<SocketAddr>,
    /// The value of `Host`.
    authority: String,
    /// Of an absolute URL. Without it, every listener could get the request.
    target: Option<Target>,
    /// The HTTP parser refuses the path.
    unreadable: bool,
}

impl ExplainedRequest {
    fn new(method: &str, url: &str, headers: &[(String, String)]) -> Result<Self, String> {
        let method = Method::from_bytes(method.as_bytes())
            .map_err(|_| format!("`{}` is no HTTP method", method.escape_debug()))?;
        let headers = header_map(headers)?;
        let mut request = Self {
            method,
            path: String::new(),
            query: None,
            headers,
            connected: None,
            authority: "localhost".to_owned(),
            target: None,
            unreadable: false,
        };
        match url.parse::<Uri>() {
            Ok(uri) if uri.scheme().is_some() => request.absolute(&uri)?,
            // `*` means the server as a whole.
            Ok(uri) if url.starts_with('/') || url == "*" => request.take_path(&uri),
            // A path that no request line may contain can still be sent.
            Err(_) if url.starts_with('/') => {
                request.unreadable = true;
                request.path = url.split('?').next().unwrap_or_default().to_owned();
            }
            _ => match as_curl_reads_it(url) {
                Some(uri) => request.absolute(&uri)?,
                None => return Err(format!("`{}` is neither a path nor an http(s) URL", shown_url(url))),
            },
        }
        Ok(request)
    }

    fn take_path(&mut self, uri: &Uri) {
        self.path = uri.path().to_owned();
        self.query = uri.query().map(str::to_owned);
    }

    fn absolute(&mut self, uri: &Uri) -> Result<(), String> {
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err("the URL's scheme must be http or https".to_owned()),
        };
        let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
        if authority.contains('@') {
            return Err("the URL must not hold a user name or password".to_owned());
        }
        let name = host::split_host(authority).ok_or("the URL names no valid host and port")?;
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        self.connected = name.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port));
        self.target = Some(Target { host: name.into_owned(), port, https });
        self.authority = authority.to_owned();
        self.take_path(uri);
        Ok(())
    }

    /// CONNECT, TRACE, and whatever the HTTP parser refuses get a response before all other checks.
    fn method_refused(&self) -> Result<(), Refusal> {
        if self.unreadable {
            let why = "no HTTP request line may contain this path; the HTTP parser responds without a body";
            return Err(Refusal(400, "bad_request", why.to_owned()));
        }
        if self.method == Method::CONNECT || self.method == Method::TRACE {
            return Err(Refusal(405, "method_refused", format!("{} is never served", self.method)));
        }
        Ok(())
    }

    /// `OPTIONS *` (RFC 9110 section 7.1).
    fn is_for_the_server(&self) -> bool {
        self.method == Method::OPTIONS && self.path == "*" && self.query.is_none()
    }

    /// An OPTIONS request that may not be forwarded (RFC 9110 section 7.6.2).
    fn ends_here(&self) -> Result<bool, Refusal> {
        if self.method != Method::OPTIONS {
            return Ok(false);
        }
        let left = max_forwards(&self.headers);
        left.map(|left| left == Some(0))
            .map_err(|()| Refusal(400, "bad_request", "Max-Forwards is not one number".to_owned()))
    }

    /// The host that the request names.
    fn host(&self) -> Result<String, Refusal> {
        let refused = |why: &str| Refusal(400, "bad_request", why.to_owned());
        let mut hosts = self.headers.get_all(header::HOST).iter();
        let authority = match (hosts.next(), hosts.next()) {
            (Some(_), Some(_)) => return Err(refused("the request has more than one Host")),
            (Some(host), None) => host.to_str().unwrap_or_default(),
            (None, _) => &self.authority,
        };
        let name = host::split_host(authority);
        name.map(Cow::into_owned).ok_or_else(|| refused("the Host is no valid host name"))
    }

    /// The listeners that could get the request: those at the URL's address if it has one, else those that programs use as
    /// their proxy, and those whose routes name the host.
    fn listeners(&self, config: &Config, table: &RouteTable) -> Vec<usize> {
        let having = |wanted: &dyn Fn(usize, &ListenerConfig) -> bool| -> Vec<usize> {
            let all = config.listeners.iter().enumerate();
            all.filter(|(index, it)| wanted(*index, it)).map(|(index, _)| index).collect()
        };
        let is = |it: &ListenerConfig, serve| it.serve() == serve;
        let all = || {
            let all = having(&|_, it| {
                is(it, Serve::Proxy) || (is(it, Serve::Token) && served::is_token_path(&self.path))
            });
            if all.is_empty() { having(&|_, _| true) } else { all }
        };
        let Some(Target { host: name, port, .. }) = &self.target else { return all() };
        let is_at_port =
            |it: &ListenerConfig| matches!(it.address, Address::Tcp(address) if address.port() == *port);
        let names = |index, it: &ListenerConfig| is(it, Serve::Proxy) && table.names_host(index, name);
        let known = having(&|index, it| {
            is_at_port(it) && (host::is_own_name(it, self.connected, name) || names(index, it))
        });
        let proxies = || having(&|index, it| is(it, Serve::Forward) || names(index, it));
        let has_proxy = config.listeners.iter().any(|it| is(it, Serve::Forward));
        let at_port = || having(&|_, it| is_at_port(it));
        match known.is_empty() {
            false => known,
            true if has_proxy => proxies(),
            true => Some(at_port()).filter(|found| !found.is_empty()).unwrap_or_else(all),
        }
    }
}

/// `localhost:8080/x` without a scheme. A bare word is more likely a path without its slash.
fn as_curl_reads_it(url: &str) -> Option<Uri> {
    let host = url.split(['/', '?']).next().unwrap_or_default();
    let is_host = host.contains(['.', ':']) || host == "localhost";
    if !is_host || url.contains("://") {
        return None;
    }
    format!("http://{url}").parse().ok()
}

fn header_map(headers: &[(String, String)]) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let parsed = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("`{}` is not the name of a header field", name.escape_debug()))?;
        let value = HeaderValue::from_str(value)
            .map_err(|_| format!("the value of header `{parsed}` is not one that HTTP allows"))?;
        map.append(parsed, value);
    }
    Ok(map)
}

/// An invalid URL for an error, without parts that may be secret.
fn shown_url(url: &str) -> String {
    match url.contains(['?', '@']) {
        true => "this".to_owned(),
        false => url.escape_debug().to_string(),
    }
}

/// The most lines that help a reader.
const NEAREST: usize = 10;

/// The conditions that matched, and then the routes that this one wins over.
fn reasons(config: &Config, route: &RouteConfig, call: &Lookup<'_>) -> Vec<String> {
    let mut lines = vec![host_line(route), path_line(route)];
    if route.listener.is_some() {
        lines.push(format!("listener: only `{}`", listener_name(config, route)));
    }
    if let Some(methods) = &route.methods {
        lines.push(format!("method: one of {}", names_of(methods)));
    }
    if !route.match_headers.is_empty() {
        let names: Vec<_> = route.match_headers.iter().map(|(name, _)| name.as_str()).collect();
        lines.push(format!("headers: {} as the route requires", names.join(", ")));
    }
    let others = config
        .routes
        .iter()
        .filter(|other| other.name != route.name && near::met_conditions(other, call).all());
    lines
        .extend(others.map(|other| format!("wins over route `{}`: {}", other.name, advantage(route, other))));
    lines
}

fn host_line(route: &RouteConfig) -> String {
    match &route.host {
        None => "host: the route has none, and this is one of the listener's own names".to_owned(),
        Some(HostPattern::Exact(host)) => format!("host: `{host}`, exactly"),
        Some(HostPattern::Wildcard(suffix)) => format!("host: `*{suffix}` matches it"),
    }
}

fn path_line(route: &RouteConfig) -> String {
    match &route.path {
        PathPattern::Exact(path) => format!("path: `{path}`, exactly"),
        PathPattern::Prefix(prefix) if prefix.is_empty() => "path: prefix `/`, any path".to_owned(),
        PathPattern::Prefix(prefix) => match prefix.matches('/').count() {
            1 => format!("path: prefix `{prefix}`, 1 segment"),
            segments => format!("path: prefix `{prefix}`, {segments} segments"),
        },
    }
}

/// The first of the compared properties in which two matching routes differ.
fn advantage(winner: &RouteConfig, other: &RouteConfig) -> &'static str {
    if winner.host != other.host {
        "its host is the more exact one"
    } else if winner.path != other.path {
        "its path is the more exact one"
    } else if winner.listener.is_some() != other.listener.is_some() {
        "it names the listener"
    } else if winner.methods.is_some() != other.methods.is_some() {
        "it lists methods"
    } else {
        "it matches more headers"
    }
}

/// Routes that nearly match the request.
fn nearest_routes(config: &Config, call: &Lookup<'_>) -> Vec<String> {
    near::nearest(&config.routes, |index| Some(&*config.listeners.get(index)?.name), call, NEAREST)
}

/// How the rules for callers and the caller's own credential affect this request.
fn notes(listener: &ListenerConfig, route: &RouteConfig, request: &ExplainedRequest) -> Vec<String> {
    let mut notes = Vec::new();
    caller_rules(listener, request, &mut notes);
    if listener.serve() == Serve::Forward {
        notes.push(served::how_it_is_forwarded(route, request).to_owned());
    }
    own_parameter(route, request, &mut notes);
    let anonymous = matches!(route.credential, Credential::Anonymous);
    if request.headers.contains_key(header::AUTHORIZATION) {
        notes.push(match route.caller_authorization {
            CallerAuthorization::Reject => {
                "this request has an Authorization header: it gets 400 `authorization_refused`".to_owned()
            }
            CallerAuthorization::Keep => {
                "this request has an Authorization header: that goes upstream, and no token is added"
                    .to_owned()
            }
            CallerAuthorization::Replace if anonymous => {
                "this request's Authorization header does not go upstream".to_owned()
            }
            CallerAuthorization::Replace => "this request's Authorization header is replaced".to_owned(),
        });
    }
    notes
}

/// If the token goes into the query, the caller's own parameter counts like `Authorization`.
fn own_parameter(route: &RouteConfig, request: &ExplainedRequest, notes: &mut Vec<String>) {
    let Inject::Query { name } = &route.inject else { return };
    if !request
        .query
        .as_ref()
        .is_some_and(|found| credential::has_parameter(found, &credential::escape_name(name)))
    {
        return;
    }
    notes.push(match route.caller_authorization {
        CallerAuthorization::Reject => {
            format!("this request has `{name}` in its query: it gets 400 `authorization_refused`")
        }
        CallerAuthorization::Keep => {
            format!("this request has `{name}` in its query: that goes upstream, and no token is added")
        }
        CallerAuthorization::Replace => format!("this request's `{name}` in the query is replaced"),
    });
}

fn caller_rules(listener: &ListenerConfig, request: &ExplainedRequest, notes: &mut Vec<String>) {
    let browser =
        request.headers.contains_key(header::ORIGIN) || request.headers.contains_key("sec-fetch-site");
    if browser {
        notes.push(
            "this request comes from a browser page: 403 `caller_refused` unless `origins` has its origin"
                .to_owned(),
        );
    }
    if let Some((name, _)) = &listener.require_header {
        let connect =
            listener.serve() == Serve::Forward && request.target.as_ref().is_some_and(|it| it.https);
        let on = if connect { " on the CONNECT" } else { "" };
        let (status, missing) = match (name, listener.serve()) {
            (&header::PROXY_AUTHORIZATION, _) => (403, " (407 if it is missing)"),
            (&header::AUTHORIZATION, Serve::Token) => (401, ""),
            _ => (403, ""),
        };
        notes.push(format!(
            "the listener requires the header field `{name}` with its value{on}, else {status} `caller_refused`{missing}"
        ));
    }
    if listener.callers == Callers::Network && !listener.allow.is_empty() {
        notes.push(
            "the listener serves the peer addresses in `allow` only, else 403 `caller_refused`".to_owned(),
        );
    }
    if listener.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()) {
        notes.push("the listener requires a client certificate".to_owned());
    }
}

fn listener_name(config: &Config, route: &RouteConfig) -> String {
    let listener = route.listener.and_then(|index| config.listeners.get(index));
    listener.map(|listener| listener.name.to_string()).unwrap_or_default()
}

fn names_of(methods: &[Method]) -> String {
    methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
