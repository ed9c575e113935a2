//! Routes that nearly serve a request, and which of their conditions it does not meet. This explains the choice that
//! [`super::RouteTable`] makes, to whoever looks for an error.

use std::sync::Arc;

use http::{HeaderMap, Method};

use super::{Lookup, canonical_pattern, has_header, host};
use crate::config::{HostPattern, PathPattern, RouteConfig};

/// At most this many routes are compared, so that a refused request costs little, however many routes there are.
const MOST_COMPARED: usize = 1_000;

/// Describes the routes that match except for one condition, and those that have the request's host and path: the nearest
/// first, at most `most`. `listener_name` returns the name of the listener at an index.
pub fn nearest<'a>(
    routes: &'a [Arc<RouteConfig>],
    listener_name: impl Fn(usize) -> Option<&'a str>,
    lookup: &Lookup<'_>,
    most: usize,
) -> Vec<String> {
    let mut near: Vec<(Distance, &RouteConfig, MetConditions)> = routes
        .iter()
        .take(MOST_COMPARED)
        .filter_map(|route| {
            let met = met_conditions(route, lookup);
            Some((Distance::of(route, met, &lookup.path.canonical)?, &**route, met))
        })
        .collect();
    near.sort_by(|left, right| (left.0, &left.1.name).cmp(&(right.0, &right.1.name)));
    let more = near.len().saturating_sub(most);
    let line = |(_, route, met): &(_, &RouteConfig, MetConditions)| {
        let listener = route.listener.and_then(&listener_name).unwrap_or_default();
        describe(route, listener, *met, lookup)
    };
    let mut lines: Vec<_> = near.iter().take(most).map(line).collect();
    if more > 0 && most > 1 {
        lines.push(format!("and {more} more routes"));
    }
    lines
}

/// How far a route is from serving a request. It only compares bytes, because callers may often request what does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Distance {
    /// 0: host and path match. 1: only the path does not match. 2: only another condition does not match.
    kind: u8,
    /// The bytes of the two paths after their common beginning.
    apart: usize,
}

impl Distance {
    /// `None` if the route is not near.
    fn of(route: &RouteConfig, met: MetConditions, path: &str) -> Option<Self> {
        let conditions = [met.listener, met.host, met.path, met.method, met.headers];
        let unmet = conditions.into_iter().filter(|met| !met).count();
        let kind = match met {
            MetConditions { host: true, path: true, .. } => 0,
            MetConditions { host: true, .. } if unmet == 1 => 1,
            _ if unmet == 1 => 2,
            _ => return None,
        };
        let pattern = pattern_text(&route.path);
        let common = path.bytes().zip(pattern.bytes()).take_while(|(left, right)| left == right).count();
        Some(Self { kind, apart: path.len() + pattern.len() - 2 * common })
    }
}

fn pattern_text(path: &PathPattern) -> &str {
    match path {
        PathPattern::Exact(path) | PathPattern::Prefix(path) => path,
    }
}

fn describe(route: &RouteConfig, listener: &str, met: MetConditions, lookup: &Lookup<'_>) -> String {
    let mut unmet = Vec::new();
    if !met.host {
        unmet.push(match &route.host {
            None => "it serves the listener's own names only".to_owned(),
            Some(host) => format!("its host is `{host}`"),
        });
    }
    if !met.path {
        unmet.push(match &route.path {
            PathPattern::Exact(path) => format!("its path is `{path}`"),
            PathPattern::Prefix(prefix) => format!("its path prefix is `{prefix}`"),
        });
    }
    if !met.listener {
        unmet.push(format!("it serves listener `{listener}` only"));
    }
    if !met.method {
        unmet.push(format!("it serves {} only", join_methods(route.methods.as_deref().unwrap_or_default())));
    }
    if !met.headers {
        unmet.extend(unmet_headers(route, lookup.headers));
    }
    if unmet.is_empty() && lookup.path.encoded_slash {
        unmet.push(match route.allow_encoded_slash {
            true => "a route that goes before it does not allow an escaped slash".to_owned(),
            false => "it does not allow an escaped slash".to_owned(),
        });
    }
    let shared = match (met.host, met.path) {
        (true, true) => "has this host and path",
        (true, false) => "has this host",
        _ => "has this path",
    };
    format!("route `{}` {shared}, but {}", route.name, unmet.join(", and "))
}

/// Only names, because the value that a field has, and the value that it should have, may both be confidential.
fn unmet_headers<'a>(route: &'a RouteConfig, headers: &'a HeaderMap) -> impl Iterator<Item = String> + 'a {
    route.match_headers.iter().filter_map(|(name, value)| {
        let mut sent = headers.get_all(name).iter();
        match (sent.next(), sent.next()) {
            (None, _) => Some(format!("it requires a header `{name}`")),
            (Some(_), Some(_)) => Some(format!("header `{name}` was sent in several lines")),
            (Some(found), None) if found.as_bytes() != value.as_bytes() => {
                Some(format!("it requires another value of header `{name}`"))
            }
            _ => None,
        }
    })
}

fn join_methods(methods: &[Method]) -> String {
    methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ")
}

/// Which conditions of a route a request meets. A condition that the route does not have counts as met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetConditions {
    pub listener: bool,
    pub host: bool,
    pub path: bool,
    pub method: bool,
    pub headers: bool,
}

impl MetConditions {
    pub fn all(self) -> bool {
        self.listener && self.host && self.path && self.method && self.headers
    }
}

/// Compares the conditions of one route with a request.
pub fn met_conditions(route: &RouteConfig, lookup: &Lookup<'_>) -> MetConditions {
    MetConditions {
        listener: route.listener.is_none_or(|listener| listener == lookup.listener),
        host: meets_host(route.host.as_ref(), lookup),
        path: meets_path(&route.path, &lookup.path.canonical),
        method: route.methods.as_ref().is_none_or(|methods| methods.contains(lookup.method)),
        headers: route.match_headers.iter().all(|(name, value)| has_header(lookup.headers, name, value)),
    }
}

fn meets_host(pattern: Option<&HostPattern>, lookup: &Lookup<'_>) -> bool {
    match pattern {
        None => lookup.own_name || lookup.host.is_empty(),
        Some(HostPattern::Exact(host)) => host::unbracketed(host) == lookup.host,
        Some(HostPattern::Wildcard(suffix)) => {
            lookup.host.strip_suffix(suffix.as_str()).is_some_and(is_labels)
        }
    }
}

fn is_labels(text: &str) -> bool {
    !text.is_empty() && !text.ends_with('.')
}

fn meets_path(pattern: &PathPattern, path: &str) -> bool {
    match pattern {
        PathPattern::Exact(exact) => canonical_pattern(exact) == path,
        PathPattern::Prefix(prefix) => path
            .strip_prefix(&*canonical_pattern(prefix))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
    }
}
