//! Requests to forward listeners, which programs use as their proxy, and to token listeners.

use http::{Method, header};

use super::{ExplainedRequest, ListenerResult, Miss, Refusal, Target, by_route, caller_rules};
use crate::config::{Config, Credential, IssuerConfig, ListenerConfig, RouteConfig};
use crate::proxy::{AskedHost, in_usual_spelling};
use crate::route::host::{self, Authority};
use crate::route::{RouteTable, path};

/// What a program gets that uses the listener as its `HTTP_PROXY` and `HTTPS_PROXY`.
pub(super) fn by_forward_listener(
    config: &Config,
    table: &RouteTable,
    request: &ExplainedRequest,
    listener: usize,
    settings: &ListenerConfig,
) -> Result<ListenerResult, Miss> {
    let alone = |refusal| (refusal, Vec::new());
    let connects = request.method == Method::CONNECT;
    if !connects {
        request.method_refused().map_err(alone)?;
    }
    let target = asked(request, settings).map_err(alone)?;
    let spelled = in_usual_spelling(target.host.as_str().into());
    let asked = AskedHost { host: &spelled, port: target.port, https: target.https || connects };
    let host = asked.key();
    let named = table.names_host(listener, &host);
    let unread = asked.without_route(settings, |host| table.names_host(listener, host));
    let unserved = match unread {
        _ if named => None,
        Err(why) => Some(Refusal(403, "caller_refused", why)),
        Ok(()) => return Ok(passed_unread()),
    };
    if !connects {
        return by_route(config, table, request, (listener, settings), (&host, false), unserved);
    }
    if let Some(refusal) = unserved {
        return Err(alone(refusal));
    }
    let why = "a route names this host: bearerd ends TLS itself, with a certificate of the listener's authority, and serves \
               the requests inside; explain one of them with its method and its https:// URL";
    Ok(responds(Some(200), vec![why.to_owned()]))
}

fn passed_unread() -> ListenerResult {
    responds(None, Vec::from([
        "no route names this host, and forward.unmatched is \"tunnel\": bearerd passes the connection through unread, and adds no token"
            .to_owned(),
        "a tunnel never leads to this machine, to link-local addresses, or to metadata services: if the name resolves to such an \
         address, it is 403 `caller_refused`"
            .to_owned(),
    ]))
}

/// The host that the program asks for.
fn asked<'a>(request: &'a ExplainedRequest, settings: &ListenerConfig) -> Result<&'a Target, Refusal> {
    let refused = |why: &str| Refusal(400, "bad_request", why.to_owned());
    let own = |target: &Target| {
        let port = match settings.address {
            crate::config::Address::Tcp(address) => Some(address.port()),
            crate::config::Address::Unix(_) => None,
        };
        port == Some(target.port) && host::is_own_name(settings, request.connected, &target.host)
    };
    let Some(target) = request.target.as_ref().filter(|target| !own(target)) else {
        return Err(refused(
            "this listener is a forward proxy: a program uses it with HTTP_PROXY and HTTPS_PROXY; explain the URL that the \
             program requests",
        ));
    };
    let Some(line) = request.headers.get(header::HOST) else { return Ok(target) };
    let default = if target.https { 443 } else { 80 };
    let same = line.to_str().ok().and_then(Authority::parse).is_some_and(|authority| {
        *authority.host == *target.host && authority.port.unwrap_or(default) == target.port
    });
    match (same, target.https) {
        (true, _) => Ok(target),
        (false, true) => {
            let why = "Host differs from the host of the CONNECT around the request";
            Err(Refusal(421, "misdirected", why.to_owned()))
        }
        (false, false) => Err(refused("Host and the request's target name different hosts")),
    }
}

/// How the request of a program reaches the route.
pub(super) fn how_it_is_forwarded(route: &RouteConfig, request: &ExplainedRequest) -> &'static str {
    match (request.target.as_ref().is_some_and(|target| target.https), route.to_asked_host) {
        (true, _) => {
            "the program sends a CONNECT, and bearerd ends TLS with a certificate that the listener's authority signs, which the \
             program must trust (`bearerd ca`)"
        }
        (false, true) => {
            "the program asks for http://, and bearerd sends the request over TLS, because it carries a token"
        }
        (false, false) => "the program asks for http:// and sends the whole URL to bearerd",
    }
}

/// Whether a token listener has this path.
pub(super) fn is_token_path(path: &str) -> bool {
    path == "/token" || issuer_of(path).is_some()
}

fn issuer_of(path: &str) -> Option<&str> {
    path.strip_prefix("/token/").filter(|name| !name.is_empty() && !name.contains('/'))
}

/// Which tokens a token listener hands out.
pub(super) fn by_token_listener(
    config: &Config,
    settings: &ListenerConfig,
    request: &ExplainedRequest,
) -> Result<ListenerResult, Refusal> {
    request.method_refused()?;
    let name = request.host()?;
    let misdirected = !host::is_own_name(settings, request.connected, &name);
    let path = path::parse(&request.path).map_err(|error| Refusal(400, "bad_request", error.to_string()))?;
    if misdirected {
        let why = format!("this listener does not have the host `{name}`; add it to the listener's `names`");
        return Err(Refusal(421, "misdirected", why));
    }
    if !is_token_path(&path.canonical) {
        let why = "a token listener has only POST /token and GET or POST /token/ISSUER, and serves no routes";
        return Err(Refusal(404, "no_route", why.to_owned()));
    }
    let only = issuer_of(&path.canonical);
    let allowed: &[Method] = if only.is_some() {
        &[Method::GET, Method::HEAD, Method::POST, Method::OPTIONS]
    } else {
        &[Method::POST, Method::OPTIONS]
    };
    if !allowed.contains(&request.method) {
        let why = format!("{} is not for this path, only {}", request.method, super::names_of(allowed));
        return Err(Refusal(405, "method_refused", why));
    }
    let issuers = config.issuers.values().filter(|issuer| only.is_none_or(|only| *issuer.name == *only));
    let mut why: Vec<String> = issuers.flat_map(|issuer| tokens_of(config, issuer)).collect();
    if why.is_empty() {
        return Err(Refusal(404, "no_route", "no issuer has the name in this path".to_owned()));
    }
    why.insert(
        0,
        "this is a token listener: it hands out a token itself, and nothing goes upstream".to_owned(),
    );
    let mut notes = Vec::new();
    caller_rules(settings, request, &mut notes);
    Ok(ListenerResult { notes, ..responds(Some(200), why) })
}

/// A line for each token that can be requested.
fn tokens_of(config: &Config, issuer: &IssuerConfig) -> Vec<String> {
    let name = &issuer.name;
    if issuer.dpop.is_some() {
        return vec![format!(
            "issuer `{name}`: none, because its tokens are bound to a key that only bearerd has"
        )];
    }
    let scopes = |scopes: &[String]| {
        if scopes.is_empty() { "no scopes".to_owned() } else { format!("scopes {}", scopes.join(" ")) }
    };
    let own = issuer.own_credential();
    let mut lines =
        vec![format!("issuer `{name}`: without `scope`, its own token ({})", scopes(&own.scopes))];
    for route in &config.routes {
        if let Credential::Issuer { key, .. } = &route.credential
            && key.issuer == *name
            && key.scopes != own.scopes
        {
            lines.push(format!(
                "issuer `{name}`: the token of route `{}` ({})",
                route.name,
                scopes(&key.scopes)
            ));
        }
    }
    lines
}

fn responds(status: Option<u16>, why: Vec<String>) -> ListenerResult {
    ListenerResult {
        listeners: Vec::new(),
        route: None,
        status,
        code: None,
        why,
        nearest: Vec::new(),
        notes: Vec::new(),
        sent: None,
    }
}
