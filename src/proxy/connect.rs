//! What differs on a forward listener, which programs use as their `HTTP_PROXY` and `HTTPS_PROXY`: the host is the one that the
//! caller asks for, and CONNECT opens a connection inside the connection.
//!
//! If a route names the host of a CONNECT, the listener ends TLS itself, and the requests inside take the same path as all
//! others. Any other host is refused, or gets a tunnel that bearerd does not read (`unmatched = "tunnel"`).

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request, Response, header};
use hyper_util::rt::TokioIo;
use moka::sync::Cache;

use super::Http2Request;
use super::admit::{Caller, ListenerRules, Proven};
use super::error::{Code, ProxyError};
use super::forward;
use super::headers::FieldSet;
use super::record::Record;
use super::response::Content;
use super::{RouteService, Snapshot, SnapshotCell};
use crate::config::{
    Egress, HostPattern, ListenerConfig, RouteConfig, Unmatched, UpstreamTarget, UpstreamUrl,
};
use crate::inbound::{CallerBody, Tunneled};
use crate::net::authority::is_server_name;
use crate::net::{
    CertificateAuthority, ConnectErrorKind, Connector, HostTls, LOOP, NoTls, UPSTREAMS, forbidden_by_name,
    host_and_port, is_own,
};
use crate::route::host::Authority;
use crate::upstream::{Origins, Upstream, UpstreamError};

const HTTP: u16 = 80;
const HTTPS: u16 = 443;

/// The port of a URL that names none.
pub(super) fn default_port(https: bool) -> u16 {
    if https { HTTPS } else { HTTP }
}

/// What a CONNECT asked for, on the connection inside it.
#[derive(Debug, Clone)]
pub struct Inside {
    /// In lower case, an IPv6 address without brackets.
    pub host: Box<str>,
    pub port: u16,
    pub server_name: ServerNameSeen,
    /// What the caller needed for the CONNECT.
    pub proven: Proven,
}

/// What the TLS handshake inside a CONNECT named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerNameSeen {
    /// The host of the CONNECT. Or nothing if that is an address or has no dot: a server name is fully qualified (RFC 6066
    /// section 3), and Java leaves out any other. Or there is no handshake.
    Same,
    /// No name, although the host is one.
    Missing,
    Other,
}

impl Inside {
    fn is(&self, authority: &Authority<'_>, tls: bool) -> bool {
        *authority.host == *self.host && authority.port.unwrap_or_else(|| default_port(tls)) == self.port
    }
}

/// An open CONNECT. It stays open while the running config admits it.
pub struct Opened {
    running: Arc<SnapshotCell>,
    caller: Arc<Caller>,
    host: Box<str>,
    port: u16,
    proven: Proven,
    /// bearerd does not read what is inside.
    unread: bool,
}

impl Opened {
    pub fn host(&self) -> &str {
        &self.host
    }

    /// `named`: the server name of the handshake inside.
    pub fn inside(&self, named: Option<&str>) -> Inside {
        let has_none = self.host.parse::<IpAddr>().is_ok() || !self.host.contains('.');
        let server_name = match named {
            Some(name) if name.eq_ignore_ascii_case(&self.host) => ServerNameSeen::Same,
            None if has_none => ServerNameSeen::Same,
            None => ServerNameSeen::Missing,
            Some(_) => ServerNameSeen::Other,
        };
        self.with(server_name)
    }

    /// Inside without TLS. `None` if the port is for TLS alone: programs open a CONNECT for `http://` URLs too (undici,
    /// `curl --proxytunnel`).
    pub fn inside_plain(&self) -> Option<Inside> {
        (self.port != HTTPS).then(|| self.with(ServerNameSeen::Same))
    }

    fn with(&self, server_name: ServerNameSeen) -> Inside {
        Inside { host: self.host.clone(), port: self.port, server_name, proven: self.proven.clone() }
    }

    /// To `localhost`, by a caller of the listener `main`, while nothing is reloaded.
    #[cfg(test)]
    pub(crate) fn by(caller: &Arc<Caller>) -> Arc<Self> {
        let config = Arc::new(crate::config::fixture::config(""));
        let snapshot = Snapshot::new(1, config, Vec::new(), &crate::metrics::Metrics::default(), None);
        Arc::new(Self {
            running: Arc::new(SnapshotCell::from_pointee(snapshot)),
            caller: Arc::clone(caller),
            host: "localhost".into(),
            port: HTTPS,
            proven: Proven::default(),
            unread: false,
        })
    }

    /// Waits for a reload that no longer admits it.
    pub async fn withdrawn(&self) {
        loop {
            let replaced = {
                let snapshot = self.running.load();
                if !self.is_admitted(&snapshot) {
                    return;
                }
                snapshot.replaced.clone()
            };
            replaced.cancelled().await;
        }
    }

    /// The requests inside find their route themselves. Of what bearerd does not read, only the host can be checked.
    fn is_admitted(&self, snapshot: &Snapshot) -> bool {
        let Some((index, rules)) = snapshot.listener_of(&self.caller) else { return false };
        let is_named = |host: &str| snapshot.table.names_host(index, host);
        let asked = AskedHost { host: &self.host, port: self.port, https: true };
        let passes_unread =
            || !is_named(&asked.key()) && asked.without_route(&rules.config, is_named).is_ok();
        rules.still_admits(&self.caller, &self.proven) && (!self.unread || passes_unread())
    }
}

/// The response to a CONNECT whose inside the listener serves carries this.
#[derive(Clone)]
pub struct InsideTls {
    pub opened: Arc<Opened>,
    /// With a certificate for the host.
    pub config: HostTls,
    /// Counts as one request over HTTP/2 while it is open.
    _http2: Option<Arc<Http2Request>>,
}

impl InsideTls {
    #[cfg(test)]
    pub(crate) fn to_localhost(caller: &Arc<Caller>, config: HostTls) -> Self {
        Self { opened: Opened::by(caller), config, _http2: None }
    }
}

/// A CONNECT that the caller may send.
pub(super) struct Asked<'a> {
    pub(super) rules: &'a ListenerRules,
    /// In lower case, an IPv6 address without brackets.
    pub(super) host: Box<str>,
    pub(super) port: u16,
    /// A route names the host.
    pub(super) named: bool,
}

/// The host and the port of a CONNECT (RFC 9112 section 3.2.3).
///
/// # Errors
/// 400 without a port, with a body, or in a loop.
pub(super) fn connect_target<'a, B>(
    request: &Request<B>,
    authority: Option<Authority<'a>>,
    fields: FieldSet,
) -> Result<Authority<'a>, ProxyError> {
    let empty =
        |headers: &HeaderMap| headers.get_all(header::CONTENT_LENGTH).iter().all(|length| length == "0");
    if fields.any(FieldSet::TRANSFER_ENCODING)
        || (fields.any(FieldSet::CONTENT_LENGTH) && !empty(request.headers()))
    {
        return Err(ProxyError::bad_request("CONNECT has no body"));
    }
    if fields.any(FieldSet::VIA) && is_own(request.headers()) {
        let error = ProxyError::bad_request(
            "this CONNECT comes from bearerd itself: one of its proxies (`proxy`, or HTTPS_PROXY) leads back to this listener",
        );
        return Err(ProxyError { proxy_status: LOOP, ..error });
    }
    let uri = request.uri();
    // Only the authority-form: another parser may take a whole URL for a request to that URL.
    let only_authority =
        uri.authority().is_some() && uri.scheme().is_none() && uri.path_and_query().is_none();
    authority
        .filter(|authority| authority.port.is_some_and(|port| port > 0) && only_authority)
        .ok_or_else(|| ProxyError::bad_request("the target of CONNECT is not a host with a port"))
}

/// The host that a request on a forward listener is for.
///
/// # Errors
/// 400 if the request has no such form that a proxy gets. 421 if it contradicts the CONNECT around it.
pub(super) fn asked_host<'a, B>(
    caller: &'a Caller,
    request: &Request<B>,
    authority: Option<&'a Authority<'_>>,
) -> Result<AskedHost<'a>, ProxyError> {
    if let Some(inside) = &caller.inside {
        check_inside(inside, authority, caller.tls)?;
        return Ok(AskedHost { host: &inside.host, port: inside.port, https: true });
    }
    let Some(authority) = authority else { return Err(not_for_a_proxy()) };
    let asked = |https| AskedHost {
        host: &authority.host,
        port: authority.port.unwrap_or_else(|| default_port(https)),
        https,
    };
    if request.method() == http::Method::CONNECT {
        return Ok(asked(true));
    }
    match request.uri().scheme_str() {
        Some(scheme) if scheme.eq_ignore_ascii_case("http") => Ok(asked(false)),
        Some(_) => Err(ProxyError::bad_request(
            "this is a forward proxy: an https URL is requested with CONNECT, so that its way to the proxy is encrypted",
        )),
        None => Err(not_for_a_proxy()),
    }
}

fn not_for_a_proxy() -> ProxyError {
    ProxyError::bad_request(
        "this is a forward proxy: a program uses it with HTTP_PROXY and HTTPS_PROXY, and its requests name the whole URL",
    )
}

fn check_inside(inside: &Inside, authority: Option<&Authority<'_>>, tls: bool) -> Result<(), ProxyError> {
    let why = match inside.server_name {
        ServerNameSeen::Other => {
            "the TLS handshake names another server (SNI) than the CONNECT around it; turn encrypted client hello (ECH) off"
        }
        ServerNameSeen::Missing => {
            "the TLS handshake names no server (SNI), so it may be meant for another one"
        }
        ServerNameSeen::Same if authority.is_some_and(|authority| !inside.is(authority, tls)) => {
            "the request names another host than the CONNECT around it"
        }
        ServerNameSeen::Same => return Ok(()),
    };
    Err(ProxyError::new(Code::Misdirected, why))
}

/// A host that a program asks a forward listener for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AskedHost<'a> {
    /// As [`in_usual_spelling`] returns it, an IPv6 address without brackets.
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    /// With CONNECT, or inside one.
    pub(crate) https: bool,
}

impl AskedHost<'_> {
    /// As routes name it: with its port, unless that is 80 or 443. A program may ask for `http://` with a CONNECT, and for either
    /// port in either form.
    pub(crate) fn key(&self) -> Cow<'_, str> {
        match self.port {
            HTTP | HTTPS => Cow::Borrowed(self.host),
            port => Cow::Owned(host_and_port(self.host, port)),
        }
    }

    /// What happens if no route names it, as far as the name alone decides that: its connection may go through unread, or the
    /// listener refuses it for the reason in the error. `is_named`: whether a route names such a host.
    pub(crate) fn without_route(
        &self,
        listener: &ListenerConfig,
        is_named: impl Fn(&str) -> bool,
    ) -> Result<(), String> {
        // The same host to DNS, so it must not go through unread.
        if let Some(host) = self.host.strip_suffix('.')
            && is_named(&AskedHost { host, ..*self }.key())
        {
            return Err("a route names this host without the dot at its end; leave the dot out".to_owned());
        }
        let unmatched = listener.forward().map_or(Unmatched::Refuse, |forward| forward.unmatched);
        Err(match (unmatched, self.https) {
            (Unmatched::Tunnel, true) => match forbidden_by_name(self.host, self.port) {
                Some(why) => self.never_tunneled(&why),
                None => return Ok(()),
            },
            (Unmatched::Tunnel, false) => {
                self.unnamed("; only a CONNECT, so an https:// URL, goes through unread")
            }
            (Unmatched::Refuse, false) => self.unnamed(""),
            (Unmatched::Refuse, true) if listener.is_made() => {
                self.unnamed("; or let other hosts through unread with `bearerd exec --tunnel`")
            }
            (Unmatched::Refuse, true) => self.unnamed(&format!(
                "; or let other hosts through unread with forward = {{ unmatched = \"tunnel\" }} of [listener.{}]",
                listener.name
            )),
        })
    }

    fn never_tunneled(&self, why: &str) -> String {
        self.unnamed(&format!("; a tunnel never leads there: {why}"))
    }

    fn unnamed(&self, more: &str) -> String {
        let key = self.key();
        format!("no route names the host `{key}`; add a [[route]] with host = \"{key}\"{more}")
    }
}

/// A host in the spelling in which routes name it. An IPv6 address has many (RFC 5952), and may stand for an IPv4 address; none
/// of them must go through unread.
pub(crate) fn in_usual_spelling(host: Cow<'_, str>) -> Cow<'_, str> {
    match host.contains(':').then(|| host.parse::<IpAddr>()) {
        Some(Ok(address)) => address.to_canonical().to_string().into(),
        _ => host,
    }
}

/// Opens what a CONNECT asked for. A response with [`InsideTls`] is completed by the listener.
///
/// # Errors
/// 403 for a host that is not served, and the errors of an upstream for one that cannot be reached.
pub(super) async fn open(
    asked: Asked<'_>,
    running: &Arc<SnapshotCell>,
    caller: &Arc<Caller>,
    request: &mut Request<CallerBody>,
    record: &mut Record,
) -> Result<Response<Content>, ProxyError> {
    let Asked { rules, host, port, named } = asked;
    let (running, of_caller) = (Arc::clone(running), Arc::clone(caller));
    let opened =
        |host| Opened { running, caller: of_caller, host, port, proven: rules.proven(), unread: !named };
    let mut response = Response::new(Content::Empty);
    match rules.config.forward() {
        _ if named => {
            let http2 = record.http2.take().map(Arc::new);
            let config = certified(request, rules, &host).await?;
            let opened = Arc::new(opened(host));
            response.extensions_mut().insert(InsideTls { opened, config, _http2: http2 });
        }
        Some(forward) => {
            tunnel_unread(opened(host), rules, &forward.egress, request, record).await?;
        }
        None => return Err(just_changed()),
    }
    record.opened = true;
    Ok(response)
}

/// The listener gave the authority to the request.
async fn certified(
    request: &Request<CallerBody>,
    rules: &ListenerRules,
    host: &str,
) -> Result<HostTls, ProxyError> {
    if !is_server_name(host) {
        return Err(ProxyError::bad_request(
            "a TLS handshake cannot name this host: a label begins or ends with a hyphen, or is too long",
        ));
    }
    let authority = request.extensions().get::<Arc<CertificateAuthority>>().cloned();
    let authority = authority.ok_or_else(just_changed)?;
    authority.server_config(host).await.map_err(|why| no_certificate(&authority, rules, host, &why))
}

fn just_changed() -> ProxyError {
    ProxyError::new(Code::Overloaded, "the listener has just changed its `serve`; connect again")
}

fn no_certificate(
    authority: &CertificateAuthority,
    rules: &ListenerRules,
    host: &str,
    why: &NoTls,
) -> ProxyError {
    let detail = format!("no certificate for {host} could be made: {why}");
    match why {
        NoTls::Machine(_) => ProxyError::new(Code::Overloaded, detail),
        NoTls::Settings(_) if authority.is_ephemeral() => ProxyError::new(Code::Internal, detail),
        // As if the client certificate for an upstream could not be read.
        NoTls::Settings(_) => {
            let detail = format!("{detail}; see forward.ca of [listener.{}]", rules.config.name);
            let error = ProxyError::new(Code::UpstreamUnreachable, detail);
            ProxyError { proxy_status: "proxy_configuration_error", ..error }
        }
    }
}

/// How long a tunnel to an unmatched host may take to open, and may be open without a byte: what a route has by default.
const TUNNEL_CONNECT: Duration = Duration::from_secs(5);
const TUNNEL_IDLE: Duration = Duration::from_secs(300);

/// Passes the bytes of a CONNECT through, once its response is written.
async fn tunnel_unread(
    opened: Opened,
    rules: &ListenerRules,
    egress: &Egress,
    request: &mut Request<CallerBody>,
    record: &mut Record,
) -> Result<(), ProxyError> {
    let connector = Connector::for_tunnel(&opened.host, opened.port, egress.clone(), Some(TUNNEL_CONNECT))
        .within(&UPSTREAMS);
    let connected = connector.connect().await.map_err(|error| {
        if error.kind == ConnectErrorKind::Forbidden {
            let asked = AskedHost { host: &opened.host, port: opened.port, https: true };
            return rules.refused(&opened.caller, &asked.never_tunneled(&error.message));
        }
        let error = UpstreamError::connect(error);
        ProxyError {
            proxy_status: error.proxy_status,
            ..ProxyError::new(Code::from(error.kind), error.detail)
        }
    })?;
    let caller_side = hyper::upgrade::on(request);
    let open = Tunneled::new(&opened.caller.activity);
    let http2 = record.http2.take();
    // The task ends with the caller's socket, which the listener closes at the end of a shutdown.
    tokio::spawn(async move {
        if let Ok(caller_side) = caller_side.await {
            tokio::select! {
                () = forward::tunnel(TokioIo::new(caller_side), connected.stream, Some(TUNNEL_IDLE)) => {}
                () = opened.withdrawn() => {}
            }
        }
        drop((open, http2));
    });
    Ok(())
}

/// Removes what would lead a program around the proxy: HTTP/3 goes over UDP, which no CONNECT carries.
pub(super) fn stay_inside(headers: &mut HeaderMap) {
    headers.remove(header::ALT_SVC);
}

/// The services of a route's single hosts, which have the route's settings and their own upstream.
pub(super) struct HostServices(Cache<Box<str>, Arc<RouteService>>);

/// The most hosts of a wildcard that are kept at the same time, and how long one is kept without a request.
const MOST_HOSTS: u64 = 1024;
const HOST_IDLE: Duration = Duration::from_secs(600);

impl Default for HostServices {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(MOST_HOSTS).time_to_idle(HOST_IDLE).build())
    }
}

impl HostServices {
    /// Those that are in use.
    pub(super) fn all(&self) -> Vec<Arc<RouteService>> {
        self.0.iter().map(|(_, service)| service).collect()
    }
}

/// The service of a route for this host, which is named as [`AskedHost::key`] does.
pub(super) fn service_for(service: &Arc<RouteService>, host: &str) -> Arc<RouteService> {
    let Some(hosts) = &service.hosts else { return Arc::clone(service) };
    let known = hosts.0.get(host);
    known.unwrap_or_else(|| {
        let made = || at_host(service, route_at_host(&service.config, host), &mut Origins::default());
        hosts.0.get_with(host.into(), || Arc::new(made()))
    })
}

fn at_host(service: &RouteService, config: RouteConfig, origins: &mut Origins) -> RouteService {
    let config = Arc::new(config);
    let upstream = Upstream::new(&config, origins.of(&config), Arc::clone(&service.metrics));
    service.at_upstream(&config, Arc::new(upstream))
}

/// Gives a route that goes to the asked host the services of the hosts that were in use before a reload, if their connections
/// stay the same.
pub(super) fn keep_hosts(service: &RouteService, before: &[Arc<RouteService>], origins: &mut Origins) {
    let (Some(hosts), Some(HostPattern::Wildcard(suffix))) = (&service.hosts, &service.config.host) else {
        return;
    };
    let before = before.iter().filter_map(|old| Some(old.config.host.as_ref()?.to_string()));
    for host in before.filter(|host| host.ends_with(suffix)) {
        let config = route_at_host(&service.config, &host);
        if origins.knows(&config) {
            hosts.0.insert(host.into(), Arc::new(at_host(service, config, origins)));
        }
    }
}

/// A route of a wildcard that goes to the asked host, for this host alone.
pub(crate) fn route_at_host(route: &RouteConfig, host: &str) -> RouteConfig {
    let mut config = route.clone();
    // A wildcard matches names only, so a colon is before the port.
    let (name, port) = host.split_once(':').map_or((host, HTTPS), |(name, port)| {
        (name, port.parse().expect("a port that was read as one before"))
    });
    config.upstream = UpstreamUrl {
        text: format!("https://{host}"),
        target: UpstreamTarget::Tcp { https: true, host: name.to_owned(), port },
        authority: host.to_owned(),
        path: String::new(),
    };
    config.host = Some(HostPattern::Exact(host.to_owned()));
    config
}
