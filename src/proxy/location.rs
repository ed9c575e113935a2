//! `rewrite_location`: a `Location` under the upstream points back through the proxy.

use http::uri::{Scheme, Uri};
use http::{HeaderMap, HeaderValue, header};

use crate::config::{PathPattern, RouteConfig, UpstreamTarget};

/// What of a `Location` is the upstream's, and what stands in its place.
#[derive(Debug)]
pub(super) struct LocationRule {
    on: bool,
    https: bool,
    host: String,
    port: u16,
    /// Without its trailing slash.
    upstream_path: String,
    /// The route's prefix, without its trailing slash; an exact path, whole.
    route_path: String,
    exact: bool,
}

impl LocationRule {
    pub(super) fn new(route: &RouteConfig) -> Self {
        let (https, host, port) = match &route.upstream.target {
            UpstreamTarget::Tcp { https, host, port } => (*https, host.clone(), *port),
            UpstreamTarget::Unix(_) => (false, route.upstream.authority.clone(), 80),
        };
        let (route_path, exact) = match &route.path {
            PathPattern::Exact(path) => (path.clone(), true),
            PathPattern::Prefix(prefix) => (prefix.clone(), false),
        };
        let path = route.upstream.path.as_str();
        let upstream_path = if exact { path } else { path.strip_suffix('/').unwrap_or(path) };
        Self {
            on: route.rewrite_location,
            https,
            host,
            port,
            upstream_path: upstream_path.to_owned(),
            route_path,
            exact,
        }
    }

    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        if !self.on {
            return;
        }
        let rewritten = headers.get(header::LOCATION).and_then(|location| self.rewrite(location));
        if let Some(location) = rewritten {
            headers.insert(header::LOCATION, location);
        }
    }

    /// The new value, as a path on the proxy; `None` where the old one stays.
    fn rewrite(&self, location: &HeaderValue) -> Option<HeaderValue> {
        let location = location.to_str().ok()?;
        let rest = self.beneath(self.path_here(location)?)?;
        let target = format!("{}{rest}", self.route_path);
        let target = if target.starts_with('/') { target } else { format!("/{target}") };
        HeaderValue::from_str(&target).ok()
    }

    /// Path, query and fragment of a `Location` that is the upstream's own.
    fn path_here<'a>(&self, location: &'a str) -> Option<&'a str> {
        if location.starts_with('/') && !location.starts_with("//") {
            return Some(location);
        }
        let (absolute, after_scheme) = match location.strip_prefix("//") {
            Some(rest) => (format!("{}:{location}", if self.https { "https" } else { "http" }), rest),
            None => (location.to_owned(), location.split_once("://")?.1),
        };
        // The parser knows no fragment, so only what stands before it is parsed.
        let uri: Uri = absolute.split('#').next()?.parse().ok()?;
        let https = uri.scheme() == Some(&Scheme::HTTPS);
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
        let own = https == self.https && host.eq_ignore_ascii_case(&self.host) && port == self.port;
        if !own || uri.authority()?.as_str().contains('@') {
            return None;
        }
        let start = after_scheme.find(['/', '?', '#']).unwrap_or(after_scheme.len());
        after_scheme.get(start..)
    }

    /// What follows the upstream's path, where the path lies under it.
    fn beneath<'a>(&self, path: &'a str) -> Option<&'a str> {
        let rest = path.strip_prefix(self.upstream_path.as_str())?;
        let whole = rest.is_empty() || rest.starts_with(['?', '#']);
        let fits = if self.exact { whole } else { whole || rest.starts_with('/') };
        fits.then_some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(upstream_path: &str, route_path: &str) -> LocationRule {
        LocationRule {
            on: true,
            https: true,
            host: "api.example".to_owned(),
            port: 443,
            upstream_path: upstream_path.to_owned(),
            route_path: route_path.to_owned(),
            exact: false,
        }
    }

    fn rewritten(rule: &LocationRule, location: &str) -> Option<String> {
        rule.rewrite(&HeaderValue::from_str(location).unwrap())
            .map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_location_under_the_upstream_points_back() {
        let rule = rule("/api/v2", "/billing");
        for (from, to) in [
            ("https://api.example/api/v2/x?y#z", "/billing/x?y#z"),
            ("https://API.example:443/api/v2/x", "/billing/x"),
            ("//api.example/api/v2/x", "/billing/x"),
            ("/api/v2/x", "/billing/x"),
            ("/api/v2", "/billing"),
            ("/api/v2?q", "/billing?q"),
        ] {
            assert_eq!(rewritten(&rule, from).as_deref(), Some(to), "{from}");
        }
    }

    #[test]
    fn any_other_location_stays() {
        let rule = rule("/api/v2", "/billing");
        for location in [
            "https://api.example/other",
            "https://api.example/api/v22",
            "https://evil.example/api/v2/x",
            "http://api.example/api/v2/x",
            "https://api.example:8443/api/v2/x",
            "https://u@api.example/api/v2/x",
            "next",
            "mailto:x@y",
        ] {
            assert_eq!(rewritten(&rule, location), None, "{location}");
        }
    }

    #[test]
    fn without_paths_the_root_is_mapped() {
        assert_eq!(rewritten(&rule("", ""), "https://api.example").as_deref(), Some("/"));
        assert_eq!(rewritten(&rule("", "/p"), "https://api.example").as_deref(), Some("/p"));
        assert_eq!(rewritten(&rule("", "/p"), "/x").as_deref(), Some("/p/x"));
        assert_eq!(rewritten(&rule("/a", ""), "/a").as_deref(), Some("/"));
    }
}
