//! Why a route won, which nearly did, and what else decides.

use http::{HeaderMap, Method, header};

use super::request::ExplainedRequest;
use crate::config::{
    CallerAuthorization, Callers, Config, Credential, HostPattern, Inject, ListenerConfig, PathPattern,
    RouteConfig,
};
use crate::proxy::query;
use crate::route::Call;
use crate::route::criteria::{self, Met};

/// More lines than this help nobody.
const NEAREST: usize = 10;

/// What matched, condition by condition, then the routes that it goes before.
pub(super) fn won(config: &Config, route: &RouteConfig, call: &Call<'_>) -> Vec<String> {
    let mut lines = vec![host_line(route), path_line(route)];
    if route.listener.is_some() {
        lines.push(format!("listener: only `{}`", listener_name(config, route)));
    }
    if let Some(methods) = &route.methods {
        lines.push(format!("method: one of {}", join(methods)));
    }
    if !route.match_headers.is_empty() {
        let names: Vec<_> = route.match_headers.iter().map(|(name, _)| name.as_str()).collect();
        lines.push(format!("headers: {} as the route wants", names.join(", ")));
    }
    let others =
        config.routes.iter().filter(|other| other.name != route.name && criteria::met(other, call).all());
    lines.extend(
        others.map(|other| format!("goes before route `{}`: {}", other.name, advantage(route, other))),
    );
    lines
}

fn host_line(route: &RouteConfig) -> String {
    match &route.host {
        None => "host: the route names none, and this is one of the listener's own names".to_owned(),
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

/// Routes that one condition kept from the request, or that have its host and path; the nearest first.
pub(super) fn nearest(config: &Config, call: &Call<'_>) -> Vec<String> {
    let mut near: Vec<(usize, &RouteConfig, Met)> = config
        .routes
        .iter()
        .filter_map(|route| {
            let met = criteria::met(route, call);
            let unmet = [met.listener, met.host, met.path, met.method, met.headers]
                .iter()
                .filter(|met| !**met)
                .count();
            let distance = match met {
                Met { host: true, path: true, .. } => 0,
                Met { host: true, .. } if unmet == 1 => 1,
                _ if unmet == 1 => 2,
                _ => return None,
            };
            Some((distance, &**route, met))
        })
        .collect();
    near.sort_by(|left, right| (left.0, &left.1.name).cmp(&(right.0, &right.1.name)));
    let more = near.len().saturating_sub(NEAREST);
    let mut lines: Vec<_> =
        near.iter().take(NEAREST).map(|(_, route, met)| near_line(config, route, *met, call)).collect();
    if more > 0 {
        lines.push(format!("and {more} more routes"));
    }
    lines
}

fn near_line(config: &Config, route: &RouteConfig, met: Met, call: &Call<'_>) -> String {
    let mut lacking = Vec::new();
    if !met.host {
        lacking.push(match &route.host {
            None => "it answers to the listener's own names only".to_owned(),
            Some(HostPattern::Exact(host)) => format!("its host is `{host}`"),
            Some(HostPattern::Wildcard(suffix)) => format!("its host is `*{suffix}`"),
        });
    }
    if !met.path {
        lacking.push(match &route.path {
            PathPattern::Exact(path) => format!("its path is `{path}`"),
            PathPattern::Prefix(prefix) => format!("its path prefix is `{prefix}`"),
        });
    }
    if !met.listener {
        lacking.push(format!("it serves at listener `{}` only", listener_name(config, route)));
    }
    if !met.method {
        lacking.push(format!("it serves {} only", join(route.methods.as_deref().unwrap_or_default())));
    }
    if !met.headers {
        lacking.extend(lacking_headers(route, call.headers));
    }
    if lacking.is_empty() && call.path.encoded_slash {
        lacking.push(match route.allow_encoded_slash {
            true => "a route that goes before it does not allow an escaped slash".to_owned(),
            false => "it does not allow an escaped slash".to_owned(),
        });
    }
    let shared = match (met.host, met.path) {
        (true, true) => "has this host and path",
        (true, false) => "has this host",
        _ => "has this path",
    };
    format!("route `{}` {shared}, but {}", route.name, lacking.join(", and "))
}

/// Names only: what the header holds, and what it should hold, may both be confidential.
fn lacking_headers<'a>(route: &'a RouteConfig, headers: &'a HeaderMap) -> impl Iterator<Item = String> + 'a {
    route.match_headers.iter().filter_map(|(name, value)| {
        let mut sent = headers.get_all(name).iter();
        match (sent.next(), sent.next()) {
            (None, _) => Some(format!("it wants a header `{name}`")),
            (Some(_), Some(_)) => Some(format!("header `{name}` was sent in several lines")),
            (Some(found), None) if found.as_bytes() != value.as_bytes() => {
                Some(format!("it wants another value of header `{name}`"))
            }
            _ => None,
        }
    })
}

/// What the caller's rules and the caller's own credential do to this request.
pub(super) fn notes(
    listener: Option<&std::sync::Arc<ListenerConfig>>,
    route: &RouteConfig,
    asked: &ExplainedRequest,
) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(listener) = listener {
        caller_rules(listener, asked, &mut notes);
    }
    own_parameter(route, asked, &mut notes);
    let anonymous = matches!(route.credential, Credential::Anonymous);
    if asked.headers.contains_key(header::AUTHORIZATION) {
        notes.push(match route.caller_authorization {
            CallerAuthorization::Reject => {
                "this request has an Authorization header: it is answered with 400 `authorization_refused`"
                    .to_owned()
            }
            CallerAuthorization::Keep => {
                "this request has an Authorization header: that goes up, and no token is added".to_owned()
            }
            CallerAuthorization::Replace if anonymous => {
                "this request's Authorization header does not go up".to_owned()
            }
            CallerAuthorization::Replace => "this request's Authorization header is replaced".to_owned(),
        });
    }
    notes
}

/// A parameter of the caller's counts as `Authorization` does, where the token goes in the query.
fn own_parameter(route: &RouteConfig, asked: &ExplainedRequest, notes: &mut Vec<String>) {
    let Inject::Query { name } = &route.inject else { return };
    if !asked.query.as_ref().is_some_and(|found| query::has(found, &query::escaped(name))) {
        return;
    }
    notes.push(match route.caller_authorization {
        CallerAuthorization::Reject => {
            format!("this request has `{name}` in its query: it is answered with 400 `authorization_refused`")
        }
        CallerAuthorization::Keep => {
            format!("this request has `{name}` in its query: that goes up, and no token is added")
        }
        CallerAuthorization::Replace => format!("this request's `{name}` in the query is replaced"),
    });
}

fn caller_rules(listener: &ListenerConfig, asked: &ExplainedRequest, notes: &mut Vec<String>) {
    let browser = asked.headers.contains_key(header::ORIGIN) || asked.headers.contains_key("sec-fetch-site");
    if browser {
        notes.push(
            "this request comes from a browser page: 403 `caller_refused` unless `origins` has its origin"
                .to_owned(),
        );
    }
    if let Some((name, _)) = &listener.require_header {
        notes.push(format!("the listener wants header `{name}` with its value, else 403 `caller_refused`"));
    }
    if listener.callers == Callers::Network && !listener.allow.is_empty() {
        notes.push(
            "the listener serves the peer addresses in `allow` only, else 403 `caller_refused`".to_owned(),
        );
    }
    if listener.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()) {
        notes.push("the listener asks for a client certificate".to_owned());
    }
}

fn listener_name(config: &Config, route: &RouteConfig) -> String {
    let listener = route.listener.and_then(|index| config.listeners.get(index));
    listener.map(|listener| listener.name.to_string()).unwrap_or_default()
}

fn join(methods: &[Method]) -> String {
    methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ")
}
