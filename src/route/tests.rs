use std::cmp::Reverse;

use http::HeaderValue;
use proptest::prelude::*;

use super::fixture::route;
use super::{host, near, path, *};

/// A request in the tests' words.
#[derive(Debug, Clone)]
struct Ask {
    listener: usize,
    own: bool,
    host: String,
    path: String,
    method: Method,
    headers: HeaderMap,
}

impl Ask {
    fn get(host: &str, path: &str) -> Self {
        let own = host.is_empty() || host == "localhost";
        let (host, path) = (host.to_owned(), path.to_owned());
        Self { listener: 0, own, host, path, method: Method::GET, headers: HeaderMap::new() }
    }

    fn method(mut self, method: &str) -> Self {
        self.method = Method::from_bytes(method.as_bytes()).unwrap();
        self
    }

    fn at(mut self, listener: usize) -> Self {
        self.listener = listener;
        self
    }

    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.append(name, HeaderValue::from_static(value));
        self
    }

    fn with<R>(&self, use_it: impl FnOnce(&Lookup<'_>) -> R) -> R {
        let path = path::parse(&self.path).unwrap();
        use_it(&Lookup {
            listener: self.listener,
            own_name: self.own,
            host: &self.host,
            path: &path,
            method: &self.method,
            headers: &self.headers,
        })
    }
}

struct Routes(Vec<Arc<RouteConfig>>, RouteTable);

impl Routes {
    fn new(routes: impl IntoIterator<Item = RouteConfig>) -> Self {
        let routes: Vec<_> = routes.into_iter().map(Arc::new).collect();
        let table = RouteTable::build(&routes);
        Self(routes, table)
    }

    fn find(&self, ask: &Ask) -> Result<RouteMatch, NoMatch> {
        ask.with(|lookup| self.1.find(lookup))
    }

    /// The name of the route that serves, or what is missing.
    fn ask(&self, ask: &Ask) -> String {
        match self.find(ask) {
            Ok(found) => self.0[found.route].name.to_string(),
            Err(NoMatch::Path) => "none".to_owned(),
            Err(NoMatch::EncodedSlash) => "encoded slash".to_owned(),
            Err(NoMatch::Method(methods)) => methods.iter().map(Method::as_str).collect::<Vec<_>>().join(","),
        }
    }

    fn expect(&self, ask: &Ask, name: &str) {
        assert_eq!(self.ask(ask), name, "{ask:?}");
    }
}

fn get(host: &str, path: &str) -> Ask {
    Ask::get(host, path)
}

#[test]
fn an_exact_host_goes_before_a_longer_wildcard_before_none() {
    let routes = Routes::new([
        route("none", "", "/*"),
        route("short", "*.example.com", "/*"),
        route("long", "*.eu.example.com", "/*"),
        route("exact", "a.eu.example.com", "/*"),
    ]);
    routes.expect(&get("a.eu.example.com", "/"), "exact");
    routes.expect(&get("b.eu.example.com", "/"), "long");
    routes.expect(&get("eu.example.com", "/"), "short");
    routes.expect(&get("b.example.com", "/"), "short");
    routes.expect(&get("localhost", "/"), "none");
}

#[test]
fn the_host_goes_before_the_path() {
    let routes = Routes::new([
        route("wide", "a.test", "/*"),
        route("wildcard", "*.test", "/deep/exact"),
        route("own", "", "/deep/exact"),
    ]);
    let mut ask = get("a.test", "/deep/exact");
    ask.own = true;
    routes.expect(&ask, "wide");
}

#[test]
fn a_route_of_a_less_specific_host_serves_what_a_more_specific_one_does_not() {
    let routes = Routes::new([
        route("exact", "a.test", "/only"),
        route("wildcard", "*.test", "/wild/*"),
        route("own", "", "/own/*"),
    ]);
    let mut ask = get("a.test", "/wild/x");
    routes.expect(&ask, "wildcard");
    ask.path = "/own".to_owned();
    routes.expect(&ask, "none");
    ask.own = true;
    routes.expect(&ask, "own");
}

#[test]
fn a_wildcard_matches_one_label_or_more() {
    let routes = Routes::new([route("wildcard", "*.example.com", "/*")]);
    for host in ["a.example.com", "a.b.example.com", "a.b.c.example.com"] {
        routes.expect(&get(host, "/"), "wildcard");
    }
    for host in ["example.com", ".example.com", "aexample.com", "a.example.com.", "example.com.a", "com", ""]
    {
        routes.expect(&get(host, "/"), "none");
    }
}

#[test]
fn a_route_without_host_serves_only_the_listeners_own_names() {
    let routes = Routes::new([route("own", "", "/*")]);
    routes.expect(&get("localhost", "/"), "own");
    routes.expect(&get("other.test", "/"), "none");
}

#[test]
fn an_ipv6_host_is_written_with_brackets_and_matched_without() {
    let routes = Routes::new([route("six", "[fd00::1]", "/*")]);
    let six = host::split_host("[fd00::1]:8080").unwrap();
    routes.expect(&get(&six, "/"), "six");
    assert!(routes.1.names_host(0, &six));
    assert!(get(&six, "/").with(|lookup| near::met_conditions(&routes.0[0], lookup)).all());
}

#[test]
fn a_request_without_host_counts_as_an_own_name() {
    let routes = Routes::new([route("own", "", "/*"), route("named", "a.test", "/*")]);
    let mut ask = get("", "/");
    ask.own = false;
    routes.expect(&ask, "own");
}

#[test]
fn an_exact_path_goes_before_a_longer_prefix() {
    let routes = Routes::new([
        route("root", "", "/*"),
        route("a", "", "/a/*"),
        route("ab", "", "/a/b/*"),
        route("exact", "", "/a/b"),
    ]);
    routes.expect(&get("", "/a/b"), "exact");
    routes.expect(&get("", "/a/b/"), "ab");
    routes.expect(&get("", "/a/b/c"), "ab");
    routes.expect(&get("", "/a"), "a");
    routes.expect(&get("", "/a/bc"), "a");
    routes.expect(&get("", "/ab"), "root");
    routes.expect(&get("", "/"), "root");
}

#[test]
fn a_prefix_matches_whole_segments() {
    let routes = Routes::new([route("billing", "", "/billing/*")]);
    for path in ["/billing", "/billing/", "/billing/x", "/billing//x"] {
        routes.expect(&get("", path), "billing");
    }
    for path in
        ["/billingx", "/bill", "/", "/x/billing", "//billing", "/billing;v=1", "/Billing", "/billing%2Fx"]
    {
        assert!(routes.find(&get("", path)).is_err(), "{path}");
    }
}

#[test]
fn a_matched_prefix_has_its_number_of_segments() {
    let routes = Routes::new([
        route("root", "", "/*"),
        route("two", "", "/a/b/*"),
        route("gap", "", "/a//*"),
        route("exact", "", "/x"),
    ]);
    let segments = |path| routes.find(&get("", path)).unwrap().prefix_segments;
    assert_eq!(segments("/"), Some(0));
    assert_eq!(segments("/a/b/c/d"), Some(2));
    assert_eq!(segments("/a//d"), Some(2));
    assert_eq!(segments("/x"), None);
}

#[test]
fn an_exact_path_is_compared_to_its_end() {
    let routes = Routes::new([route("slash", "", "/a/"), route("plain", "", "/a"), route("root", "", "/")]);
    routes.expect(&get("", "/a"), "plain");
    routes.expect(&get("", "/a/"), "slash");
    routes.expect(&get("", "/"), "root");
    for path in ["/a//", "/a/b", "//", "/A"] {
        routes.expect(&get("", path), "none");
    }
}

#[test]
fn an_escaped_unreserved_character_matches_as_itself() {
    let routes =
        Routes::new([route("admin", "", "/admin/*"), route("colon", "", "/a%3ab"), route("root", "", "/*")]);
    routes.expect(&get("", "/%61dmin"), "admin");
    routes.expect(&get("", "/%61dm%69n/x"), "admin");
    routes.expect(&get("", "/%2561dmin"), "root");
    routes.expect(&get("", "/a%3Ab"), "colon");
    routes.expect(&get("", "/a%3ab"), "colon");
    routes.expect(&get("", "/a:b"), "root");
}

#[test]
fn then_listener_given_then_method_list_then_number_of_headers() {
    let any = || route("any", "", "/*");
    let one = |name| route(name, "", "/*").header("x-a", "1");
    let routes = Routes::new([
        any(),
        one("one header"),
        one("two headers").header("x-b", "2"),
        route("method", "", "/*").methods(&["GET"]),
        one("method and header").methods(&["GET"]),
        route("listener", "", "/*").at(1),
        one("listener and header").at(1),
        route("listener and method", "", "/*").at(1).methods(&["GET"]),
    ]);
    let post = || get("", "/").method("POST");
    routes.expect(&post(), "any");
    routes.expect(&post().header("x-a", "1"), "one header");
    routes.expect(&post().header("x-b", "2").header("x-a", "1"), "two headers");
    routes.expect(&get("", "/"), "method");
    routes.expect(&get("", "/").header("x-a", "1").header("x-b", "2"), "method and header");
    routes.expect(&post().at(1), "listener");
    routes.expect(&post().at(1).header("x-a", "1").header("x-b", "2"), "listener and header");
    routes.expect(&get("", "/").at(1).header("x-a", "1").header("x-b", "2"), "listener and method");
}

#[test]
fn the_path_goes_before_listener_method_and_headers() {
    let routes = Routes::new([
        route("all else", "", "/a/*").at(0).methods(&["GET"]).header("x-a", "1"),
        route("path", "", "/a/b/*"),
    ]);
    routes.expect(&get("", "/a/b").header("x-a", "1"), "path");
    routes.expect(&get("", "/a").header("x-a", "1"), "all else");
}

#[test]
fn a_route_of_one_listener_serves_only_there() {
    let routes = Routes::new([route("second", "", "/*").at(1), route("named", "a.test", "/*").at(2)]);
    routes.expect(&get("", "/").at(1), "second");
    routes.expect(&get("", "/").at(0), "none");
    for (listener, names) in [(0, false), (1, false), (2, true), (3, false)] {
        assert_eq!(routes.1.names_host(listener, "a.test"), names, "{listener}");
    }
}

#[test]
fn a_host_is_named_exactly_or_by_wildcard_where_the_route_listens() {
    let routes = Routes::new([
        route("any", "a.test", "/x"),
        route("first", "*.b.test", "/x").at(0),
        route("wide", "*.test", "/x").at(1),
        route("own", "", "/*"),
    ]);
    let named = |listener, host| routes.1.names_host(listener, host);
    assert!(named(0, "a.test") && named(7, "a.test"));
    assert!(named(0, "x.b.test") && named(1, "x.b.test"));
    assert!(!named(0, "b.test") && named(1, "b.test"));
    assert!(!named(0, "test") && !named(1, "test"));
    assert!(!named(0, "localhost") && !named(0, ""));
}

#[test]
fn all_matched_headers_must_be_there_with_their_value() {
    let routes = Routes::new([route("tenant", "", "/*").header("x-tenant", "acme").header("x-env", "live")]);
    let base = || get("", "/").header("x-env", "live");
    routes.expect(&base().header("x-tenant", "acme"), "tenant");
    routes.expect(&base(), "none");
    routes.expect(&base().header("x-tenant", "ACME"), "none");
    routes.expect(&base().header("x-tenant", "acme "), "none");
    routes.expect(&base().header("x-tenant", ""), "none");
}

#[test]
fn a_header_in_several_lines_meets_no_condition() {
    let routes = Routes::new([route("tenant", "", "/*").header("x-tenant", "acme")]);
    routes.expect(&get("", "/").header("x-tenant", "acme").header("x-tenant", "evil"), "none");
    routes.expect(&get("", "/").header("x-tenant", "evil").header("x-tenant", "acme"), "none");
}

#[test]
fn values_of_several_headers_do_not_run_together() {
    let routes = Routes::new([route("r", "", "/*").header("x-a", "1").header("x-b", "23")]);
    routes.expect(&get("", "/").header("x-a", "12").header("x-b", "3"), "none");
    routes.expect(&get("", "/").header("x-a", "23").header("x-b", "1"), "none");
}

#[test]
fn no_match_by_method_names_the_served_methods() {
    let routes = Routes::new([
        route("write", "", "/a/*").methods(&["PUT", "DELETE"]),
        route("read", "", "/a/b").methods(&["GET", "PUT"]),
        route("elsewhere", "", "/a/*").methods(&["PURGE"]).at(1),
        route("tenant", "", "/a/*").methods(&["PATCH"]).header("x-tenant", "acme"),
        route("other host", "a.test", "/a/*").methods(&["REPORT"]),
        route("other path", "", "/c/*").methods(&["LOCK"]),
    ]);
    routes.expect(&get("", "/a/b").method("POST"), "DELETE,GET,PUT");
    routes.expect(&get("", "/a").method("POST"), "DELETE,PUT");
    routes.expect(&get("", "/a").method("POST").header("x-tenant", "acme"), "DELETE,PATCH,PUT");
    routes.expect(&get("", "/a").method("POST").at(1), "DELETE,PURGE,PUT");
    routes.expect(&get("", "/b").method("POST"), "none");
    let found = routes.find(&get("", "/a").method("POST"));
    assert_eq!(found, Err(NoMatch::Method(vec![Method::DELETE, Method::PUT])));
}

#[test]
fn head_is_not_implied_by_get() {
    let routes = Routes::new([route("read", "", "/*").methods(&["GET"])]);
    routes.expect(&get("", "/").method("HEAD"), "GET");
}

#[test]
fn methods_are_case_sensitive() {
    let routes = Routes::new([route("read", "", "/*").methods(&["GET"])]);
    routes.expect(&get("", "/").method("get"), "GET");
}

#[test]
fn another_method_is_served_by_a_less_specific_route() {
    let routes = Routes::new([route("read", "", "/a").methods(&["GET"]), route("rest", "", "/*")]);
    routes.expect(&get("", "/a"), "read");
    routes.expect(&get("", "/a").method("POST"), "rest");
}

#[test]
fn an_escaped_slash_is_refused_unless_the_route_allows_it() {
    let routes = Routes::new([
        route("strict", "", "/a/*"),
        route("open", "", "/b/*").with_encoded_slash(),
        route("read", "", "/c/*").methods(&["PUT"]).with_encoded_slash(),
    ]);
    routes.expect(&get("", "/a/x%2Fy"), "encoded slash");
    routes.expect(&get("", "/b/x%2fy"), "open");
    routes.expect(&get("", "/b%2fx"), "encoded slash");
    routes.expect(&get("", "/c/x%2Fy"), "encoded slash");
    routes.expect(&get("other.test", "/b/x%2fy"), "encoded slash");
}

#[test]
fn an_escaped_slash_does_not_skip_a_route_that_refuses_it() {
    let routes = Routes::new([route("strict", "", "/a/*"), route("open", "", "/*").with_encoded_slash()]);
    routes.expect(&get("", "/a/x%2Fy"), "encoded slash");
}

#[test]
fn a_path_of_many_segments_costs_no_more_than_its_length() {
    let routes = Routes::new([route("deep", "", "/a/a/a/a/*"), route("gap", "", "///*")]);
    let long = "/a".repeat(200_000);
    assert_eq!(routes.find(&get("", &long)).unwrap().prefix_segments, Some(4));
    let empty = "/".repeat(200_000);
    assert_eq!(routes.find(&get("", &empty)).unwrap().prefix_segments, Some(2));
    let host = "a.".repeat(100_000) + "test";
    routes.expect(&get(&host, "/"), "none");
}

#[test]
fn each_of_thousands_of_routes_is_found() {
    let count = 3_000;
    let routes = Routes::new((0..count).flat_map(|n| {
        [
            route(&format!("host {n}"), &format!("h{n}.test"), "/*"),
            route(&format!("path {n}"), "", &format!("/p{n}/*")),
            route(&format!("tenant {n}"), "", "/t/*").header("x-tenant", &n.to_string()),
        ]
    }));
    for n in (0..count).step_by(97) {
        routes.expect(&get(&format!("h{n}.test"), "/x"), &format!("host {n}"));
        routes.expect(&get("", &format!("/p{n}/x")), &format!("path {n}"));
        let mut tenant = get("", "/t");
        tenant.headers.insert("x-tenant", HeaderValue::from_str(&n.to_string()).unwrap());
        routes.expect(&tenant, &format!("tenant {n}"));
    }
}

/// The rule of the interface, word by word: the greater goes first.
fn rank(route: &RouteConfig) -> impl Ord + std::fmt::Debug + use<> {
    let host = match &route.host {
        Some(HostPattern::Exact(_)) => (2, 0),
        Some(HostPattern::Wildcard(suffix)) => (1, suffix.len()),
        None => (0, 0),
    };
    let path = match &route.path {
        PathPattern::Exact(_) => (1, 0),
        PathPattern::Prefix(prefix) => (0, prefix.len()),
    };
    (host, path, route.listener.is_some(), route.methods.is_some(), route.match_headers.len())
}

/// One look at every route.
fn naive(routes: &[Arc<RouteConfig>], lookup: &Lookup<'_>) -> Result<usize, NoMatch> {
    let met: Vec<_> = routes.iter().map(|route| near::met_conditions(route, lookup)).collect();
    let mut matching: Vec<_> = (0..routes.len()).filter(|index| met[*index].all()).collect();
    matching.sort_by_key(|index| (Reverse(rank(&routes[*index])), routes[*index].name.clone()));
    match matching.first() {
        Some(index) if routes[*index].allow_encoded_slash || !lookup.path.encoded_slash => return Ok(*index),
        _ if lookup.path.encoded_slash => return Err(NoMatch::EncodedSlash),
        _ => {}
    }
    let mut methods: Vec<_> = (0..routes.len())
        .filter(|index| near::MetConditions { method: true, ..met[*index] }.all())
        .flat_map(|index| routes[index].methods.clone().unwrap_or_default())
        .collect();
    methods.sort_by_key(|method| method.as_str().to_owned());
    methods.dedup();
    Err(if methods.is_empty() { NoMatch::Path } else { NoMatch::Method(methods) })
}

fn any_route() -> impl Strategy<Value = RouteConfig> {
    let host = prop::sample::select(vec!["", "a.x.test", "b.test", "*.test", "*.x.test"]);
    let path = prop::sample::select(vec![
        "/*", "/a/*", "/a/b/*", "/a//*", "//*", "/", "/a", "/a/", "/a/b", "//", "/a%3ab", "/a%2Fb/*",
    ]);
    let methods = prop::option::of(prop::sample::subsequence(vec!["GET", "POST", "PUT"], 1..3));
    let headers = prop::collection::btree_map(
        prop::sample::select(vec!["x-a", "x-b"]),
        prop::sample::select(vec!["1", "2"]),
        0..3,
    );
    (host, path, methods, headers, prop::option::of(0..2_usize), any::<bool>()).prop_map(
        |(host, path, methods, headers, listener, slash)| {
            let mut made = route("", host, path);
            made.listener = listener;
            made.allow_encoded_slash = slash;
            if let Some(methods) = methods {
                made = made.methods(&methods);
            }
            headers.into_iter().fold(made, |made, (name, value)| made.header(name, value))
        },
    )
}

/// Routes that differ in what the config compares: no two that tie and can both match one request.
fn any_routes() -> impl Strategy<Value = Vec<RouteConfig>> {
    prop::collection::vec(any_route(), 0..24).prop_map(|routes| {
        let mut kept: Vec<RouteConfig> = Vec::new();
        for (index, mut route) in routes.into_iter().enumerate() {
            if !kept.iter().any(|other| ties(other, &route)) {
                route.name = format!("r{index}").into();
                kept.push(route);
            }
        }
        kept
    })
}

fn ties(left: &RouteConfig, right: &RouteConfig) -> bool {
    let methods_meet = match (&left.methods, &right.methods) {
        (Some(left), Some(right)) => left.iter().any(|method| right.contains(method)),
        _ => true,
    };
    let headers_meet = left.match_headers.iter().all(|(name, value)| {
        right.match_headers.iter().all(|(other, other_value)| name != other || value == other_value)
    });
    let shape = |route: &RouteConfig| (route.listener, route.methods.is_some(), route.match_headers.len());
    left.host == right.host
        && left.path == right.path
        && shape(left) == shape(right)
        && methods_meet
        && headers_meet
}

fn any_ask() -> impl Strategy<Value = Ask> {
    let host = prop::sample::select(vec![
        "",
        "localhost",
        "a.x.test",
        "b.test",
        "c.x.test",
        "x.test",
        "test",
        ".test",
    ]);
    let path = prop::sample::select(vec![
        "/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/a//", "/a//b", "//", "//x", "/ab", "/%61/b", "/a%3Ab",
        "/a%2fb/x", "/a/x%2Fy",
    ]);
    let method = prop::sample::select(vec!["GET", "POST", "PUT", "HEAD"]);
    let value = || prop::collection::vec(prop::sample::select(vec!["1", "2"]), 0..3);
    (host, path, method, value(), value(), 0..3_usize, any::<bool>()).prop_map(
        |(host, path, method, a, b, listener, own)| {
            let ask = Ask { own, ..get(host, path) }.method(method).at(listener);
            let ask = a.into_iter().fold(ask, |ask, value| ask.header("x-a", value));
            b.into_iter().fold(ask, |ask, value| ask.header("x-b", value))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn the_table_equals_a_linear_search(routes in any_routes(), asks in prop::collection::vec(any_ask(), 8)) {
        let routes = Routes::new(routes);
        for ask in &asks {
            let expected = ask.with(|lookup| naive(&routes.0, lookup));
            let found = routes.find(ask);
            prop_assert_eq!(found.clone().map(|found| found.route), expected, "{:?}", ask);
            if let Ok(found) = found {
                let prefix = match &routes.0[found.route].path {
                    PathPattern::Exact(_) => None,
                    PathPattern::Prefix(prefix) => Some(prefix.matches('/').count()),
                };
                prop_assert_eq!(found.prefix_segments, prefix);
            }
        }
    }

    #[test]
    fn the_order_in_the_file_never_matters(routes in any_routes(), asks in prop::collection::vec(any_ask(), 4)) {
        let forward = Routes::new(routes);
        let mut turned = forward.0.clone();
        turned.reverse();
        let table = RouteTable::build(&turned);
        let backward = Routes(turned, table);
        for ask in &asks {
            prop_assert_eq!(forward.ask(ask), backward.ask(ask), "{:?}", ask);
        }
    }
}
