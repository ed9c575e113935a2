//! Routes for tests, written as one would say them.

use std::sync::Arc;

use http::Method;

use crate::config::{HostPattern, PathPattern, RouteConfig, fixture};

/// A route with every default. `host` may be empty or begin with `*`; a `path` that ends in `/*` is a
/// prefix, any other is exact.
pub(crate) fn route(name: &str, host: &str, path: &str) -> RouteConfig {
    RouteConfig {
        name: Arc::from(name),
        listener: None,
        host: match host.strip_prefix('*') {
            Some(suffix) => Some(HostPattern::Wildcard(suffix.to_owned())),
            None if host.is_empty() => None,
            None => Some(HostPattern::Exact(host.to_owned())),
        },
        path: match path.strip_suffix('*').and_then(|path| path.strip_suffix('/')) {
            Some(prefix) => PathPattern::Prefix(prefix.to_owned()),
            None => PathPattern::Exact(path.to_owned()),
        },
        ..fixture::route()
    }
}

impl RouteConfig {
    pub(crate) fn at(mut self, listener: usize) -> Self {
        self.listener = Some(listener);
        self
    }

    pub(crate) fn methods(mut self, methods: &[&str]) -> Self {
        self.methods =
            Some(methods.iter().map(|name| Method::from_bytes(name.as_bytes()).unwrap()).collect());
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.match_headers.push((name.parse().unwrap(), value.to_owned()));
        self
    }

    pub(crate) fn with_encoded_slash(mut self) -> Self {
        self.allow_encoded_slash = true;
        self
    }
}
