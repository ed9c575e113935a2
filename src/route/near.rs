//! Routes that nearly serve a request, and what keeps them from it: for whoever looks for a fault.

use std::sync::Arc;

use http::{HeaderMap, Method};

use super::Call;
use super::criteria::{self, Met};
use crate::config::{HostPattern, PathPattern, RouteConfig};

/// The number of routes that are compared, so that a refused request costs little however many routes there are.
const LOOKED_AT: usize = 1_000;

/// Routes that one condition kept from the request, or that have its host and path; the nearest first, at most `most`.
/// `listener_name` gives the name of the listener at an index.
pub fn nearest<'a>(
    routes: &'a [Arc<RouteConfig>],
    listener_name: impl Fn(usize) -> Option<&'a str>,
    call: &Call<'_>,
    most: usize,
) -> Vec<String> {
    let mut near: Vec<(Distance, &RouteConfig, Met)> = routes
        .iter()
        .take(LOOKED_AT)
        .filter_map(|route| {
            let met = criteria::met(route, call);
            Some((Distance::of(route, met, &call.path.canonical)?, &**route, met))
        })
        .collect();
    near.sort_by(|left, right| (left.0, &left.1.name).cmp(&(right.0, &right.1.name)));
    let more = near.len().saturating_sub(most);
    let line = |(_, route, met): &(_, &RouteConfig, Met)| {
        let listener = route.listener.and_then(&listener_name).unwrap_or_default();
        line(route, listener, *met, call)
    };
    let mut lines: Vec<_> = near.iter().take(most).map(line).collect();
    if more > 0 && most > 1 {
        lines.push(format!("and {more} more routes"));
    }
    lines
}

/// How far a route is from serving a request. It compares bytes only: a caller may ask often for what is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Distance {
    /// 0: host and path fit; 1: only the path does not; 2: only another condition.
    kind: u8,
    /// Bytes of the two paths behind their common beginning.
    apart: usize,
}

impl Distance {
    /// `None`: the route is not near.
    fn of(route: &RouteConfig, met: Met, path: &str) -> Option<Self> {
        let conditions = [met.listener, met.host, met.path, met.method, met.headers];
        let unmet = conditions.into_iter().filter(|met| !met).count();
        let kind = match met {
            Met { host: true, path: true, .. } => 0,
            Met { host: true, .. } if unmet == 1 => 1,
            _ if unmet == 1 => 2,
            _ => return None,
        };
        let pattern = pattern(&route.path);
        let common = path.bytes().zip(pattern.bytes()).take_while(|(left, right)| left == right).count();
        Some(Self { kind, apart: path.len() + pattern.len() - 2 * common })
    }
}

fn pattern(path: &PathPattern) -> &str {
    match path {
        PathPattern::Exact(path) | PathPattern::Prefix(path) => path,
    }
}

fn line(route: &RouteConfig, listener: &str, met: Met, call: &Call<'_>) -> String {
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
        lacking.push(format!("it serves at listener `{listener}` only"));
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

fn join(methods: &[Method]) -> String {
    methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ")
}
