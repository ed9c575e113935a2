//! One route against one request, condition by condition: what explains a choice, where [`super::RouteTable`] makes it.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Call, host};
use crate::config::{HostPattern, PathPattern, RouteConfig};

/// Which of a route's conditions a request meets. A condition that the route does not have is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Met {
    pub listener: bool,
    pub host: bool,
    pub path: bool,
    pub method: bool,
    pub headers: bool,
}

impl Met {
    pub fn all(self) -> bool {
        self.listener && self.host && self.path && self.method && self.headers
    }
}

/// Compares one route's conditions with a request.
pub fn met(route: &RouteConfig, call: &Call<'_>) -> Met {
    Met {
        listener: route.listener.is_none_or(|listener| listener == call.listener),
        host: meets_host(route.host.as_ref(), call),
        path: meets_path(&route.path, &call.path.canonical),
        method: route.methods.as_ref().is_none_or(|methods| methods.contains(call.method)),
        headers: route.match_headers.iter().all(|(name, value)| has_header(call.headers, name, value)),
    }
}

fn meets_host(pattern: Option<&HostPattern>, call: &Call<'_>) -> bool {
    match pattern {
        None => call.own_name || call.host.is_empty(),
        Some(HostPattern::Exact(host)) => host::unbracketed(host) == call.host,
        Some(HostPattern::Wildcard(suffix)) => call.host.strip_suffix(suffix.as_str()).is_some_and(is_labels),
    }
}

fn is_labels(text: &str) -> bool {
    !text.is_empty() && !text.ends_with('.')
}

fn meets_path(pattern: &PathPattern, path: &str) -> bool {
    match pattern {
        PathPattern::Exact(exact) => canonical(exact) == path,
        PathPattern::Prefix(prefix) => path
            .strip_prefix(&*canonical(prefix))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
    }
}

/// A path of the config in the form that paths are compared in.
pub(super) fn canonical(pattern: &str) -> std::borrow::Cow<'_, str> {
    super::path::parse(pattern).map_or(std::borrow::Cow::Borrowed(pattern), |path| path.canonical)
}

/// The header has this one value. Sent in several lines it has another: the list of them (RFC 9110 section 5.3),
/// and a route must not be chosen by one line where the upstream may read the other.
pub(super) fn has_header(headers: &HeaderMap, name: &HeaderName, value: &str) -> bool {
    single(headers, name).is_some_and(|found| found.as_bytes() == value.as_bytes())
}

/// The header's value, where it was sent in one line.
pub(super) fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then_some(first)
}
