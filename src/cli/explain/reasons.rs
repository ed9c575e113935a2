//! Why a route won, which nearly did, and what else decides.

use http::{Method, header};

use super::request::ExplainedRequest;
use crate::config::{
    CallerAuthorization, Callers, Config, Credential, HostPattern, Inject, ListenerConfig, PathPattern,
    RouteConfig,
};
use crate::proxy::credential;
use crate::route::Lookup;
use crate::route::near;

/// More lines than this help nobody.
const NEAREST: usize = 10;

/// What matched, condition by condition, then the routes that it goes before.
pub(super) fn won(config: &Config, route: &RouteConfig, call: &Lookup<'_>) -> Vec<String> {
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
    let others = config
        .routes
        .iter()
        .filter(|other| other.name != route.name && near::met_conditions(other, call).all());
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

/// Routes that come near to serving the request.
pub(super) fn nearest(config: &Config, call: &Lookup<'_>) -> Vec<String> {
    near::nearest(&config.routes, |index| Some(&*config.listeners.get(index)?.name), call, NEAREST)
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
    if !asked
        .query
        .as_ref()
        .is_some_and(|found| credential::has_parameter(found, &credential::escape_name(name)))
    {
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
