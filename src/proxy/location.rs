//! `rewrite_location`: a `Location` under the upstream points back through the proxy.

use http::{HeaderMap, HeaderValue, header};

use crate::config::{PathPattern, RouteConfig, UpstreamTarget};
use crate::route::host::Authority;
use crate::route::path;

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
        let mut lines = headers.get_all(header::LOCATION).iter();
        let (Some(location), None) = (lines.next(), lines.next()) else { return };
        if let Some(location) = self.rewrite(location.as_bytes()) {
            headers.insert(header::LOCATION, location);
        }
    }

    /// The new value, as a path on the proxy; `None` where the old one stays.
    ///
    /// A value may have any bytes that a field may have: many servers write raw UTF-8, blanks or quotes.
    fn rewrite(&self, location: &[u8]) -> Option<HeaderValue> {
        let rest = self.beneath(self.path_here(location)?)?;
        let mut target = Vec::with_capacity(self.route_path.len() + rest.len() + 1);
        target.extend_from_slice(self.route_path.as_bytes());
        target.extend_from_slice(rest);
        if !target.starts_with(b"/") {
            target.insert(0, b'/');
        }
        is_path_here(&target).then(|| HeaderValue::from_bytes(&target).ok())?
    }

    /// Path, query and fragment of a `Location` that is the upstream's own.
    fn path_here<'a>(&self, location: &'a [u8]) -> Option<&'a [u8]> {
        let after_scheme = match location {
            [b'/', b'/', rest @ ..] => rest,
            [b'/', ..] => return Some(location),
            _ => {
                let colon = location.windows(3).position(|window| window == b"://")?;
                let (scheme, rest) = location.split_at_checked(colon)?;
                let own = if self.https { "https" } else { "http" };
                if !scheme.eq_ignore_ascii_case(own.as_bytes()) {
                    return None;
                }
                rest.get(3..)?
            }
        };
        let end = after_scheme.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#'));
        let (authority, path) = after_scheme.split_at_checked(end.unwrap_or(after_scheme.len()))?;
        let authority = Authority::parse(std::str::from_utf8(authority).ok()?)?;
        let port = authority.port.unwrap_or(if self.https { 443 } else { 80 });
        (authority.host.eq_ignore_ascii_case(&self.host) && port == self.port).then_some(path)
    }

    /// What follows the upstream's path, where the path lies under it.
    fn beneath<'a>(&self, path: &'a [u8]) -> Option<&'a [u8]> {
        let rest = path.strip_prefix(self.upstream_path.as_bytes())?;
        let whole = matches!(rest.first(), None | Some(b'?' | b'#'));
        let fits = whole || (!self.exact && rest.starts_with(b"/"));
        // `/api/../x` is not under `/api`, nor anything that browsers read so.
        (fits && stays_where_it_says(path)).then_some(rest)
    }
}

/// Path, query and fragment: browsers take what begins with two slashes for another host.
fn is_path_here(target: &[u8]) -> bool {
    target.starts_with(b"/") && !target.starts_with(b"//") && stays_where_it_says(target)
}

/// The path has nothing that browsers read otherwise than as it is written (URL Standard, section 4.4): no dot segment,
/// no `\\`, which is a slash to them, and no tab or other control character, which they may drop.
fn stays_where_it_says(target: &[u8]) -> bool {
    let end = target.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(target.len());
    let path = target.get(..end).unwrap_or_default();
    // Bytes beyond ASCII change nothing about these.
    let path = String::from_utf8_lossy(path);
    path.is_empty() || path::parse(&path).is_ok()
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
        rule.rewrite(location.as_bytes()).map(|value| String::from_utf8(value.as_bytes().to_vec()).unwrap())
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
            "https://api.example@evil.example/api/v2/x",
            "https://api.example:99999/api/v2/x",
            "https://api.example.evil.example/api/v2/x",
            "https://api.example\\@evil.example/api/v2/x",
            "https:/api.example/api/v2/x",
            "https:api.example/api/v2/x",
            "https:///api.example/api/v2/x",
            "https:/\\api.example/api/v2/x",
            " https://api.example/api/v2/x",
            "/api/v2/../x",
            "/api/v2/%2e%2E/x",
            "/api/v2/..;/x",
            "/api/v2/..",
            "/api/v2\\..\\x",
            "/api/v2/\t../x",
            "",
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

    #[test]
    fn nothing_becomes_another_host() {
        for location in [
            "https://api.example//evil.example/x",
            "https://api.example/\\evil.example/x",
            "https://api.example/\t/evil.example/x",
            "https://api.example/\t\\evil.example/x",
            "https://api.example\t//evil.example/x",
            "https://api.example\\\\evil.example/x",
            "//api.example//evil.example/x",
            "///evil.example/x",
            "//evil.example/x",
            "/\\evil.example/x",
            "\\/evil.example/x",
            "\\\\evil.example/x",
            "/\t/evil.example/x",
            "/./\\evil.example",
            "https://api.example/.//evil.example/x",
            "https://api.example/%2e//evil.example/x",
            "https://api.example/a/..//evil.example/x",
            "https:/\\evil.example/x",
        ] {
            assert_eq!(rewritten(&rule("", ""), location), None, "{location}");
        }
        let below = rewritten(&rule("", "/p"), "https://api.example//evil.example/x");
        assert_eq!(below.as_deref(), Some("/p//evil.example/x"), "an empty segment is no host here");
        let above = rewritten(&rule("/api", ""), "https://api.example/api//evil.example/x");
        assert_eq!(above, None);
    }

    #[test]
    fn raw_bytes_blanks_and_quotes_are_rewritten_too() {
        let rule = rule("/api/v2", "/billing");
        for (from, to) in [
            ("https://api.example/api/v2/für dich", "/billing/für dich"),
            ("/api/v2/\"x\"?q=\"y\"", "/billing/\"x\"?q=\"y\""),
            ("/api/v2/a|b`c{d}", "/billing/a|b`c{d}"),
            ("/api/v2/x?to=C:\\dir\\..\\x", "/billing/x?to=C:\\dir\\..\\x"),
            ("/api/v2/x#../y", "/billing/x#../y"),
        ] {
            assert_eq!(rewritten(&rule, from).as_deref(), Some(to), "{from}");
        }
        let latin = rule.rewrite(b"https://api.example/api/v2/f\xfcr").unwrap();
        assert_eq!(latin.as_bytes(), b"/billing/f\xfcr");
        assert_eq!(rule.rewrite(b"https://api.ex\xe4mple/api/v2/x"), None);
    }
}
