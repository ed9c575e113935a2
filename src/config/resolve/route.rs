//! `[[route]]`: which requests it serves, where they go, and with whose token. Two routes of equal rank that can both match
//! one request are an error.

use std::collections::BTreeMap;
use std::collections::hash_map::{Entry, HashMap};
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, StatusCode};

use crate::config::document::Place;
use crate::config::model::{
    Address, Carrier, ConnectionConfig, Credential, CredentialKey, Egress, HeaderEdits, HostPattern, Inject,
    IssuerConfig, ListenerConfig, Params, PathPattern, RouteConfig, Serve, UpstreamTarget, UpstreamUrl,
};
use crate::config::raw::values::{Plaintext, RawParams, Word, check};
use crate::config::raw::{RawHeaderEdits, RawInject, RawRoute};
use crate::config::report::{Report, did_you_mean};
use crate::config::resolve::value::{self, headers, params, refuse_tables, scopes, settable_header};
use crate::config::resolve::{Known, chain, listener};
use crate::config::types::{self, Wrong, quoted, url, wrong};

/// Checks the whole route. `None` if it or `matching` has errors.
pub(super) fn resolve(
    place: &Place<'_>,
    name: &str,
    raw: RawRoute,
    matching: Option<&Matching>,
    known: &Known,
    report: &mut Report,
) -> Option<RouteConfig> {
    let to_asked_host = raw.upstream.is_none() && !place.key("upstream").is_written();
    let upstream = match matching {
        Some(matching) if to_asked_host => asked_host(place, matching, known, report),
        // It may need no upstream.
        None if to_asked_host && may_forward(known) => None,
        _ => upstream(place, raw.upstream, known, report),
    };
    check_plaintext(place, upstream.as_ref(), raw.plaintext, report);
    let credential =
        credential(place, raw.issuer, raw.anonymous, (raw.scopes, raw.params, raw.subject), known, report);
    let bound = matches!(&credential, Some(Credential::Issuer { issuer, .. }) if issuer.dpop.is_some());
    let inject = inject(&place.key("inject"), raw.inject.unwrap_or_default(), bound, report);
    let request_headers = edits(&place.key("request_headers"), raw.request_headers, report);
    if let (Some(Inject::Header { name, .. }), Some(Credential::Issuer { .. })) = (&inject, &credential) {
        refuse_second_credential(&place.key("request_headers").key("set"), &request_headers, name, report);
    }
    let egress = value::egress(&place.key("proxy"), raw.proxy, report);
    check_unix(place, upstream.as_ref(), &egress, report);
    if let Some(UpstreamTarget::Tcp { https, host, port }) = upstream.as_ref().map(|known| &known.target) {
        value::check_egress(place, (*https, host, *port), &egress, &known.listeners, report);
    }
    let route = RouteConfig {
        name: name.into(),
        connection: ConnectionConfig {
            protocol: raw.protocol.read(place, "protocol", report),
            header_case: raw.header_case.read(place, "header_case", report),
            connect_timeout: raw.connect_timeout.timeout(place, "connect_timeout", report),
            tls: value::tls(&place.key("tls"), raw.tls, report),
            egress,
        },
        caller_authorization: raw.caller_authorization.read(place, "caller_authorization", report),
        request_headers,
        response_headers: edits(&place.key("response_headers"), raw.response_headers, report),
        forwarded: raw.forwarded.0,
        rewrite_location: raw.rewrite_location.0,
        refresh_on: refresh_on(&place.key("refresh_on"), raw.refresh_on, report),
        replay_limit: raw.replay_limit.read(place, "replay_limit", report),
        allow_encoded_slash: raw.allow_encoded_slash.0,
        response_timeout: raw.response_timeout.timeout(place, "response_timeout", report),
        idle_timeout: raw.idle_timeout.timeout(place, "idle_timeout", report),
        connection_max_age: raw.connection_max_age.timeout(place, "connection_max_age", report),
        upstream: upstream?,
        to_asked_host,
        credential: credential?,
        inject: inject?,
        listener: matching?.listener,
        host: matching?.host.clone(),
        path: matching?.path.clone(),
        methods: matching?.methods.clone(),
        match_headers: matching?.headers.clone(),
    };
    Some(route)
}

fn upstream(
    place: &Place<'_>,
    written: Option<String>,
    known: &Known,
    report: &mut Report,
) -> Option<UpstreamUrl> {
    let at = place.key("upstream");
    let Some(text) = written else {
        report.missing(&at, "is missing", "upstream = \"https://…\"");
        return None;
    };
    let upstream = check(&at, url::upstream(&text, &place.document.file.folder), report)?;
    let own = known
        .listeners
        .configs
        .iter()
        .flatten()
        .find(|listener| is_address(&upstream.target, &listener.address));
    if let Some(listener) = own {
        report.error(&at, listener::own(&listener.name), "name the server that the requests are meant for");
        return None;
    }
    Some(upstream)
}

/// The upstream of a route without `upstream`. Only a caller of a forward listener asks for a host.
fn asked_host(
    place: &Place<'_>,
    matching: &Matching,
    known: &Known,
    report: &mut Report,
) -> Option<UpstreamUrl> {
    let at = place.key("upstream");
    if !only_forward(matching.listener, known) {
        report.missing(
            &at,
            "is missing",
            "upstream = \"https://…\"; only a route of a forward listener (serve = \"forward\"; `bearerd exec` makes one) goes \
             to the host that the program asked for",
        );
        return None;
    }
    if place.key("plaintext").is_written() {
        let message = "has no effect without `upstream`: requests go to their host over TLS";
        report.error(&place.key("plaintext"), message, "leave it out, or give `upstream`");
    }
    let host = matching.host.as_ref()?.to_string();
    let https = |authority: &str| url::upstream(&format!("https://{authority}"), &place.document.file.folder);
    match &matching.host {
        Some(HostPattern::Wildcard(suffix)) => {
            let pattern = https(suffix.trim_start_matches('.')).ok()?;
            Some(UpstreamUrl { text: format!("https://{host}"), authority: host, ..pattern })
        }
        _ => check(&at, https(&host), report),
    }
}

/// Whether each listener that serves the route is a forward listener. A listener with errors counts as one.
fn only_forward(listener: Option<usize>, known: &Known) -> bool {
    // A token listener serves no route.
    serving(listener, known).all(|config| matches!(config.serve(), Serve::Forward | Serve::Token))
}

/// Whether there is a forward listener, or one with errors.
fn may_forward(known: &Known) -> bool {
    let mut configs = known.listeners.configs.iter();
    configs.any(|config| config.as_ref().is_none_or(|config| config.serve() == Serve::Forward))
}

/// The listeners that serve a route, without those that have errors.
fn serving(listener: Option<usize>, known: &Known) -> impl Iterator<Item = &Arc<ListenerConfig>> {
    let listeners = known.listeners.configs.iter().enumerate();
    let serving = listeners.filter(move |(index, _)| listener.is_none_or(|only| only == *index));
    serving.filter_map(|(_, config)| config.as_ref())
}

/// Whether a connection from this machine to `target` reaches a listener at `address`.
fn is_address(target: &UpstreamTarget, address: &Address) -> bool {
    match (target, address) {
        (UpstreamTarget::Unix(path), Address::Unix(own)) => path == own,
        (UpstreamTarget::Tcp { host, port, .. }, own) => own.is_reached_by(host, *port),
        _ => false,
    }
}

fn check_plaintext(
    place: &Place<'_>,
    upstream: Option<&UpstreamUrl>,
    written: Word<Plaintext>,
    report: &mut Report,
) {
    let allowed = written.read(place, "plaintext", report) == Plaintext::Allow;
    let Some(UpstreamTarget::Tcp { https: false, host, .. }) = upstream.map(|upstream| &upstream.target)
    else {
        return;
    };
    if url::is_this_machine(host) {
        return;
    }
    let at = place.key("upstream");
    let message = "http:// to another machine: anyone on the way can read the requests and their token";
    if allowed {
        report.warning(&at, message, "use https:// where the server has it");
    } else {
        report.error(&at, message, "write \"https://…\", or accept it with plaintext = \"allow\"");
    }
}

fn check_unix(place: &Place<'_>, upstream: Option<&UpstreamUrl>, egress: &Egress, report: &mut Report) {
    let unix = matches!(upstream.map(|upstream| &upstream.target), Some(UpstreamTarget::Unix(_)));
    if unix && *egress != Egress::Direct {
        report.error(
            &place.key("proxy"),
            "a unix: upstream cannot be reached through a proxy",
            "leave it out",
        );
    }
}

fn credential(
    place: &Place<'_>,
    issuer: Option<String>,
    anonymous: Option<bool>,
    (scopes, params, subject): (Option<Vec<String>>, Option<RawParams>, Option<String>),
    known: &Known,
    report: &mut Report,
) -> Option<Credential> {
    let (issuer_at, anonymous_at) = (place.key("issuer"), place.key("anonymous"));
    match (issuer, anonymous.unwrap_or(false)) {
        (Some(_), true) => {
            report.error(&anonymous_at, "cannot be combined with `issuer`", "keep one: a token, or none");
            None
        }
        (None, true) => {
            for key in ["scopes", "params", "subject", "inject"]
                .map(|key| place.key(key))
                .iter()
                .filter(|key| key.is_written())
            {
                report.error(
                    key,
                    "is about a token, but this route sends none",
                    "leave it out, or name an `issuer`",
                );
            }
            Some(Credential::Anonymous)
        }
        (None, false) => {
            if !anonymous_at.is_written() || anonymous.is_some() {
                report.missing(
                    &issuer_at,
                    "is missing",
                    "issuer = \"NAME\", or anonymous = true to forward without a token",
                );
            }
            credential_key(place, None, (scopes, params, subject), known, report);
            None
        }
        (Some(name), false) => {
            let issuer = known.issuers.get(&name);
            if issuer.is_none() && !report.incomplete {
                let names = known.issuers.keys().map(String::as_str);
                let otherwise = match names.clone().collect::<Vec<_>>().join(", ") {
                    none if none.is_empty() => {
                        "add it: [issuer.NAME] with token_url, client_id and client_secret".to_owned()
                    }
                    names => format!("issuers: {names}"),
                };
                let hint = did_you_mean(&name, names, &otherwise);
                report.error(&issuer_at, format!("there is no issuer {}", issuer_at.describe()), hint);
            }
            let issuer = issuer.and_then(Option::as_ref);
            let key = credential_key(place, Some((&name, issuer)), (scopes, params, subject), known, report)?;
            Some(Credential::Issuer { issuer: Arc::clone(issuer?), key })
        }
    }
}

const TOKEN: &str = "{token}";

/// `bound`: the issuer binds its tokens to a key.
fn inject(at: &Place<'_>, raw: RawInject, bound: bool, report: &mut Report) -> Option<Inject> {
    if let Some(name) = raw.query {
        return inject_query(at, name, (raw.header.is_some(), raw.format.is_some()), bound, report);
    }
    let header = match raw.header {
        Some(name) => settable_header(&at.key("header"), &name, report),
        None => Some(http::header::AUTHORIZATION),
    };
    let by_type = raw.format.as_deref().is_none_or(|format| format == RawInject::FORMAT);
    let format = raw.format.unwrap_or_else(|| RawInject::FORMAT.to_owned());
    let format_at = at.key("format");
    let parts = format.split_once(TOKEN).filter(|(_, after)| !after.contains(TOKEN));
    let Some((before, after)) = parts else {
        report.error(&format_at, format!("must have {TOKEN} in it, once"), "format = \"Bearer {token}\"");
        return None;
    };
    if HeaderValue::from_str(&format).is_err() {
        report.error(
            &format_at,
            "is not the value of a header field",
            "use visible ASCII characters and spaces",
        );
        return None;
    }
    let (before, after) = (before.to_owned(), after.to_owned());
    Some(Inject::Header { name: header?, before, after, by_type })
}

fn inject_query(
    at: &Place<'_>,
    name: String,
    (header, format): (bool, bool),
    bound: bool,
    report: &mut Report,
) -> Option<Inject> {
    let query = at.key("query");
    for (key, given) in [("header", header), ("format", format)] {
        // A preset's key is not the operator's error, but still means two places.
        if given {
            report.error(
                &at.key(key),
                "cannot be combined with `query`",
                "keep one: a header, or a parameter of the query",
            );
        }
    }
    if bound {
        report.error(
            &query,
            "a token that is bound to a key (dpop) goes in `authorization` alone: RFC 9449 section 7.1",
            "leave it out",
        );
    }
    if name.is_empty() || name.chars().any(char::is_control) {
        report.error(&query, "is not the name of a parameter", "such as \"access_token\"");
        return None;
    }
    Some(Inject::Query { name })
}

fn edits(at: &Place<'_>, raw: Option<RawHeaderEdits>, report: &mut Report) -> HeaderEdits {
    let Some(RawHeaderEdits { set, remove }) = raw else { return HeaderEdits::default() };
    let set = headers(&at.key("set"), set, report);
    let mut names = Vec::new();
    for (index, name) in remove.into_iter().flatten().enumerate() {
        let place = at.key("remove").index(index);
        let Some(name) = settable_header(&place, &name, report) else { continue };
        if set.iter().any(|(other, _)| *other == name) {
            report.error(
                &place,
                format!("`{name}` is both set and removed"),
                "setting replaces what was there",
            );
        }
        names.push(name);
    }
    HeaderEdits { set, remove: names }
}

fn refuse_second_credential(at: &Place<'_>, edits: &HeaderEdits, header: &HeaderName, report: &mut Report) {
    if edits.set.iter().any(|(name, _)| name == header) {
        report.error(
            at,
            format!("sets `{header}`, which carries the token"),
            "leave it out, or change inject.header",
        );
    }
}

fn refresh_on(at: &Place<'_>, written: Option<Vec<u16>>, report: &mut Report) -> Vec<StatusCode> {
    let written = written.unwrap_or_else(|| vec![RawRoute::REFRESH_ON]);
    let mut statuses = Vec::new();
    for (index, number) in written.into_iter().enumerate() {
        let status =
            StatusCode::from_u16(number).ok().filter(|status| (300..=599).contains(&status.as_u16()));
        let result = status.ok_or_else(|| {
            wrong(format!("{number} does not say that a request failed"), "use a status from 300 to 599")
        });
        statuses.extend(check(&at.index(index), result, report));
    }
    statuses
}

/// The conditions that a request must meet for a route to serve it.
#[derive(Clone)]
pub(super) struct Matching {
    pub listener: Option<usize>,
    pub host: Option<HostPattern>,
    pub path: PathPattern,
    pub methods: Option<Vec<Method>>,
    /// Sorted by name.
    pub headers: Vec<(HeaderName, String)>,
}

/// Takes the keys about matching out of `raw`. `None` after an error was reported.
pub(super) fn matching(
    place: &Place<'_>,
    raw: &mut RawRoute,
    known: &Known,
    report: &mut Report,
) -> Option<Matching> {
    // A key of a wrong type was reported and is missing from `raw`. Without it the route would match other requests.
    let written = [
        ("listener", raw.listener.is_some()),
        ("host", raw.host.is_some()),
        ("path", raw.path.is_some()),
        ("path_prefix", raw.path_prefix.is_some()),
        ("methods", raw.methods.is_some()),
        ("match_headers", raw.match_headers.is_some()),
    ];
    let lost = written.iter().any(|(key, read)| !read && place.key(key).is_written());
    let listener = raw.listener.take().map(|name| listener_index(place, &name, known, report));
    let host = raw.host.take().map(|text| check(&place.key("host"), url::host(&text), report));
    let encoded_slash = raw.allow_encoded_slash.0;
    let path = path(place, raw.path.take(), raw.path_prefix.take(), encoded_slash, report);
    let methods = raw.methods.take().map(|names| methods(&place.key("methods"), &names, report));
    let headers =
        match_headers(&place.key("match_headers"), raw.match_headers.take().unwrap_or_default(), report);
    if lost {
        return None;
    }
    if let (Some(host), Some(listener)) = (transposed(host.clone()), transposed(listener)) {
        check_listeners(place, host.as_ref(), listener, known, report);
    }
    Some(Matching {
        listener: transposed(listener)?,
        host: transposed(host)?,
        path: path?,
        methods: transposed(methods)?,
        headers: headers?,
    })
}

/// A key may be absent, but not wrong.
fn transposed<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    value.map_or(Some(None), |value| value.map(Some))
}

fn listener_index(place: &Place<'_>, name: &str, known: &Known, report: &mut Report) -> Option<usize> {
    let names = &known.listeners.names;
    let index = names.iter().position(|other| other == name);
    if index.is_none() {
        let at = place.key("listener");
        let otherwise = format!("listeners: {}", names.join(", "));
        let hint = did_you_mean(name, names.iter().map(String::as_str), &otherwise);
        report.error(&at, format!("there is no listener {}", at.describe()), hint);
    }
    index
}

/// Whether a route's host fits the listeners that serve it.
fn check_listeners(
    place: &Place<'_>,
    host: Option<&HostPattern>,
    listener: Option<usize>,
    known: &Known,
    report: &mut Report,
) {
    let all = |serve| {
        let mut listeners = serving(listener, known).peekable();
        listeners.peek().is_some() && listeners.all(|config| config.serve() == serve)
    };
    if all(Serve::Token) {
        let at = place.key("listener");
        if at.is_written() {
            report.error(&at, "is a token listener, which serves no routes", "name another listener");
        } else {
            let message = "no listener serves it: there are only token listeners, which serve no routes";
            report.error(place, message, "add a [listener.NAME] for it, or leave the route out");
        }
    }
    let Some(host) = host else {
        if all(Serve::Forward) {
            report.missing(
                &place.key("host"),
                "is missing",
                "on a forward listener, each route names its host",
            );
        }
        return;
    };
    let at = place.key("host");
    if host.has_port() && !serving(listener, known).any(|config| config.serve() == Serve::Forward) {
        let message = "has a port, but only a forward listener looks at the port of a host";
        report.error(&at, message, "leave the port out");
    }
    check_pages(&at, host, listener, known, report);
}

/// See [`listener::pages_could_ride`].
fn check_pages(
    at: &Place<'_>,
    host: &HostPattern,
    listener: Option<usize>,
    known: &Known,
    report: &mut Report,
) {
    let (HostPattern::Exact(host) | HostPattern::Wildcard(host)) = host;
    if serving(listener, known).any(|config| listener::pages_could_ride(config, host)) {
        listener::warn_of_pages(at, report);
    }
}

fn path(
    place: &Place<'_>,
    exact: Option<String>,
    prefix: Option<String>,
    encoded_slash: bool,
    report: &mut Report,
) -> Option<PathPattern> {
    let (at, pattern) = match (exact, prefix) {
        (Some(_), Some(_)) => {
            report.error(&place.key("path"), "cannot be combined with `path_prefix`", "keep one of them");
            return None;
        }
        (Some(text), None) => (place.key("path"), url::exact_path(&text)),
        (None, Some(text)) => (place.key("path_prefix"), url::path_prefix(&text)),
        (None, None) => return Some(PathPattern::Prefix(String::new())),
    };
    let pattern = check(&at, pattern, report)?;
    warn_of_wildcard(&at, &pattern, report);
    if url::has_encoded_slash(&pattern) && !encoded_slash {
        report.error(
            &at,
            "has an escaped slash, which no request may have here",
            "set allow_encoded_slash = true",
        );
        return None;
    }
    Some(pattern)
}

/// Other proxies support `/billing/*`, or `{id}` in a path. Here each character matches only itself.
fn warn_of_wildcard(at: &Place<'_>, pattern: &PathPattern, report: &mut Report) {
    let (PathPattern::Exact(text) | PathPattern::Prefix(text)) = pattern;
    let Some(end) = text.find(['*', '{']) else { return };
    let before = text.get(..end).unwrap_or_default();
    let whole = before.rsplit_once('/').map_or("", |(whole, _)| whole);
    let prefix = if whole.is_empty() { "/" } else { whole };
    report.warning(
        at,
        "has a wildcard, which matches only itself: a path has no wildcards",
        format!("write path_prefix = \"{prefix}\", which serves every path below it"),
    );
}

fn methods(at: &Place<'_>, names: &[String], report: &mut Report) -> Option<Vec<Method>> {
    if names.is_empty() {
        report.error(at, "names no method", "leave it out to serve every method");
        return None;
    }
    let mut methods = Vec::new();
    let mut all_right = true;
    for (index, name) in names.iter().enumerate() {
        match check(&at.index(index), method_named(name), report) {
            Some(method) if !methods.contains(&method) => methods.push(method),
            Some(_) => {}
            None => all_right = false,
        }
    }
    all_right.then_some(methods)
}

fn method_named(name: &str) -> Result<Method, Wrong> {
    let method = Method::from_bytes(name.as_bytes())
        .map_err(|_| wrong(format!("{} is not a method", quoted(name)), "such as \"GET\""))?;
    let upper = name.to_ascii_uppercase();
    let standard = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"].contains(&upper.as_str());
    match upper.as_str() {
        "CONNECT" | "TRACE" => Err(wrong(format!("{upper} is never forwarded"), "leave it out")),
        _ if standard && upper != name => Err(wrong(
            format!("{} is not a method: methods are in upper case", quoted(name)),
            format!("write \"{upper}\""),
        )),
        _ => Ok(method),
    }
}

fn match_headers(
    at: &Place<'_>,
    written: BTreeMap<String, String>,
    report: &mut Report,
) -> Option<Vec<(HeaderName, String)>> {
    let mut headers: Vec<(HeaderName, String)> = Vec::new();
    let mut all_right = true;
    for (name, value) in written {
        let place = at.key(&name);
        let value_fits = check(&place, types::header_value(value.as_bytes()), report).is_some();
        let Some(name) = check(&place, types::header_name(&name), report).filter(|_| value_fits) else {
            all_right = false;
            continue;
        };
        if name == http::header::HOST {
            report.error(&place, "is matched by `host`", "write host = \"…\"");
            all_right = false;
        } else if headers.iter().any(|(other, _)| *other == name) {
            report.error(&place, "is given twice, in two spellings", "keep one");
            all_right = false;
        } else {
            headers.push((name, value));
        }
    }
    headers.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
    all_right.then_some(headers)
}

pub(super) struct Candidate<'t> {
    pub place: Place<'t>,
    pub name: String,
    pub matching: Matching,
}

/// More reports than this say nothing new.
const MOST_REPORTED: usize = 20;

/// What must be equal for two routes to have the same rank and to match one request. Two listeners never share a
/// request.
type Rank<'a> = (Option<&'a HostPattern>, &'a PathPattern, Option<usize>, bool, usize);

/// Reports every route that ties with an earlier one (in the order of the files), up to a bound. Nearly linear in the
/// number of routes: candidates are looked up by what they match, and not compared pair by pair.
pub(super) fn refuse_ties(routes: &[Candidate<'_>], report: &mut Report) {
    let mut groups: HashMap<Rank<'_>, Vec<usize>> = HashMap::new();
    for (index, Candidate { matching, .. }) in routes.iter().enumerate() {
        let rank = (
            matching.host.as_ref(),
            &matching.path,
            matching.listener,
            matching.methods.is_some(),
            matching.headers.len(),
        );
        groups.entry(rank).or_default().push(index);
    }
    let mut ties = Vec::new();
    for group in groups.values().filter(|group| group.len() > 1) {
        ties_of_group(routes, group, &mut ties);
    }
    ties.sort_unstable();
    ties.dedup_by_key(|(later, _)| *later);
    for (later, earlier) in ties.into_iter().take(MOST_REPORTED) {
        if let (Some(later), Some(earlier)) = (routes.get(later), routes.get(earlier)) {
            report_tie(later, earlier, report);
        }
    }
}

fn report_tie(later: &Candidate<'_>, earlier: &Candidate<'_>, report: &mut Report) {
    let name = |route: &Candidate<'_>| {
        if route.name.is_empty() { route.place.path.to_string() } else { format!("`{}`", route.name) }
    };
    report.error(
        &later.place,
        format!(
            "route {} ties with route {} ({}): one request can match both",
            name(later),
            name(earlier),
            earlier.place.label()
        ),
        "tell them apart by host, path, listener, methods or match_headers; the order never decides",
    );
}

/// Maps values and method to the route that has them.
type Taken<'a> = HashMap<(Vec<&'a str>, Option<&'a Method>), usize>;

/// All routes here have the same rank. Routes with the same header names tie if the values are equal. Routes with
/// different names tie if the values of their common names are equal.
fn ties_of_group(routes: &[Candidate<'_>], group: &[usize], ties: &mut Vec<(usize, usize)>) {
    let mut by_names: BTreeMap<Vec<&str>, Vec<usize>> = BTreeMap::new();
    for &index in group {
        let Some(route) = routes.get(index) else { continue };
        let names = route.matching.headers.iter().map(|(name, _)| name.as_str()).collect();
        by_names.entry(names).or_default().push(index);
    }
    let sets: Vec<(Vec<&str>, Vec<usize>)> = by_names.into_iter().collect();
    for (position, (names, members)) in sets.iter().enumerate() {
        let mut taken = Taken::new();
        meet(routes, members, names, &mut taken, ties);
        for (other_names, others) in sets.iter().skip(position + 1) {
            if ties.len() >= MOST_REPORTED * MOST_REPORTED {
                return;
            }
            let shared: Vec<&str> = names.iter().filter(|name| other_names.contains(name)).copied().collect();
            let mut taken = Taken::new();
            let mut own = Vec::new();
            meet(routes, members, &shared, &mut taken, &mut own);
            look_up(routes, others, &shared, &taken, ties);
        }
    }
}

/// Enters each route under its values of `names` and each of its methods. A route whose place is taken ties.
fn meet<'a>(
    routes: &'a [Candidate<'_>],
    members: &[usize],
    names: &[&str],
    taken: &mut Taken<'a>,
    ties: &mut Vec<(usize, usize)>,
) {
    for &index in members {
        for key in match_keys(routes, index, names) {
            match taken.entry(key) {
                Entry::Occupied(first) => ties.push((index.max(*first.get()), index.min(*first.get()))),
                Entry::Vacant(free) => {
                    free.insert(index);
                }
            }
        }
    }
}

fn look_up(
    routes: &[Candidate<'_>],
    members: &[usize],
    names: &[&str],
    taken: &Taken<'_>,
    ties: &mut Vec<(usize, usize)>,
) {
    for &index in members {
        for key in match_keys(routes, index, names) {
            if let Some(&first) = taken.get(&key) {
                ties.push((index.max(first), index.min(first)));
            }
        }
    }
}

fn match_keys<'a>(
    routes: &'a [Candidate<'_>],
    index: usize,
    names: &[&str],
) -> Vec<(Vec<&'a str>, Option<&'a Method>)> {
    let Some(Candidate { matching, .. }) = routes.get(index) else { return Vec::new() };
    let values: Vec<&str> = matching
        .headers
        .iter()
        .filter(|(name, _)| names.contains(&name.as_str()))
        .map(|(_, value)| value.as_str())
        .collect();
    match &matching.methods {
        None => vec![(values, None)],
        Some(methods) => methods.iter().map(|method| (values.clone(), Some(method))).collect(),
    }
}

/// The key of a route's token. The route's scopes replace the issuer's, and its parameters are added. `issuer`: its name, and its
/// config if it has no errors.
fn credential_key(
    place: &Place<'_>,
    issuer: Option<(&str, Option<&Arc<IssuerConfig>>)>,
    (own_scopes, own_params, subject): (Option<Vec<String>>, Option<RawParams>, Option<String>),
    known: &Known,
    report: &mut Report,
) -> Option<CredentialKey> {
    let own_scopes = own_scopes.map(|raw| scopes(&place.key("scopes"), raw, report));
    let own_params = params(&place.key("params"), own_params, report);
    let (name, issuer) = issuer.unwrap_or_default();
    let digest = chain::link_route(place, (name, issuer.map(|issuer| &**issuer)), known, report);
    let issuer = issuer?;
    if issuer.carrier != Carrier::Json {
        refuse_tables(&place.key("params"), &own_params, report);
    }
    if subject.is_some() && issuer.jwt.is_none() {
        report.error(
            &place.key("subject"),
            format!("is the `sub` of a JWT, but issuer `{}` makes none", issuer.name),
            "leave it out, or sign with private_key: see `jwt`",
        );
    }
    let mut all: Params = issuer.params.clone();
    all.extend(own_params);
    Some(CredentialKey {
        issuer: Arc::clone(&issuer.name),
        issuer_digest: digest?,
        scopes: own_scopes.unwrap_or_else(|| issuer.scopes.clone()),
        params: all,
        subject,
    })
}
