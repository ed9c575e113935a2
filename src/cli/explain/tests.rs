use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::config::client_auth::ClientSecretPost;
use crate::config::{
    Address, ClientAuth, Credential, CredentialKey, DpopConfig, HttpUrl, IssuerConfig, ListenerConfig,
    ParamValue, RouteConfig, Scopes, Source, TokenEndpoint, fixture,
};
use crate::route::fixture::route;

fn listener(name: &str, address: &str, names: &[&str]) -> ListenerConfig {
    ListenerConfig {
        name: Arc::from(name),
        address: Address::Tcp(address.parse().unwrap()),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..fixture::listener()
    }
}

fn config(listeners: Vec<ListenerConfig>, routes: Vec<RouteConfig>) -> Config {
    Config {
        listeners: listeners.into_iter().map(Arc::new).collect(),
        routes: routes.into_iter().map(Arc::new).collect(),
        ..fixture::config("")
    }
}

fn main_with(routes: Vec<RouteConfig>) -> Config {
    config(vec![listener("main", "127.0.0.1:8080", &["api.internal"])], routes)
}

fn issuer(url: &str) -> IssuerConfig {
    let url = HttpUrl {
        text: url.to_owned(),
        https: true,
        host: "idp.example".to_owned(),
        port: 443,
        authority: "idp.example".to_owned(),
        path_and_query: "/token".to_owned(),
    };
    IssuerConfig {
        client_auth: ClientAuth::with_secret(&ClientSecretPost, Source::literal("hunter2")),
        client_id: Some(Source::literal("legacy-billing")),
        ..IssuerConfig::with_defaults("corp", TokenEndpoint::Url(url))
    }
}

fn with_token(mut route: RouteConfig) -> RouteConfig {
    let params = BTreeMap::from([
        ("audience".to_owned(), ParamValue::Value(Source::literal("canary-literal"))),
        ("pin".to_owned(), ParamValue::Value(Source::file(PathBuf::from("/run/secrets/pin"), None))),
    ]);
    let key = CredentialKey {
        issuer: Arc::from("corp"),
        issuer_digest: [0; 32],
        scopes: Scopes::from(["billing.read", "billing.write"]),
        params,
        subject: None,
    };
    let issuer = Arc::new(issuer("https://idp.example/token?key=canary-query"));
    route.credential = Credential::Issuer { issuer, key };
    route
}

fn ask(config: &Config, method: &str, url: &str, headers: &[(&str, &str)]) -> Explanation {
    let headers: Vec<_> =
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    explain(config, method, url, &headers).unwrap()
}

/// The one response: route, or status and code.
fn outcome(explanation: &Explanation) -> String {
    assert_eq!(explanation.results.len(), 1, "{explanation:?}");
    let answer = &explanation.results[0];
    match &answer.route {
        Some(route) => route.clone(),
        None => format!("{} {}", answer.status.unwrap(), answer.code.unwrap()),
    }
}

#[test]
fn a_path_is_asked_of_localhost() {
    let config = main_with(vec![route("own", "", "/own/*"), route("named", "a.test", "/*")]);
    let explanation = ask(&config, "GET", "/own/x?canary=1", &[]);
    assert!(explanation.found);
    assert_eq!(outcome(&explanation), "own");
    assert_eq!(explanation.results[0].listeners, ["main"]);
    let sent = explanation.results[0].sent.as_ref().unwrap();
    assert_eq!(
        (sent.url.as_str(), sent.query, sent.host.as_str()),
        ("https://up.example/api/v2/x", true, "up.example")
    );
}

#[test]
fn the_host_comes_from_the_url_and_a_host_header_goes_before_it() {
    let config = main_with(vec![route("own", "", "/*"), route("named", "a.test", "/*")]);
    assert_eq!(outcome(&ask(&config, "GET", "http://a.test/", &[])), "named");
    assert_eq!(outcome(&ask(&config, "GET", "http://A.TEST:8080/", &[])), "named");
    assert_eq!(outcome(&ask(&config, "GET", "http://127.0.0.1:8080/", &[("host", "a.test:1")])), "named");
    assert_eq!(outcome(&ask(&config, "GET", "http://api.internal/", &[])), "own");
    assert_eq!(outcome(&ask(&config, "GET", "/", &[("Host", "a.test")])), "named");
}

#[test]
fn a_url_with_a_listeners_address_asks_that_listener() {
    let listeners = vec![listener("a", "127.0.0.1:8080", &[]), listener("b", "0.0.0.0:8081", &[])];
    let config = config(listeners, vec![route("at a", "", "/*").at(0), route("at b", "", "/*").at(1)]);
    let names = |url: &str| {
        let explanation = ask(&config, "GET", url, &[]);
        explanation
            .results
            .iter()
            .map(|answer| (answer.listeners.clone(), answer.route.clone()))
            .collect::<Vec<_>>()
    };
    let at = |listener: &str| vec![(vec![listener.to_owned()], Some(format!("at {listener}")))];
    assert_eq!(names("http://localhost:8080/"), at("a"));
    assert_eq!(names("http://10.0.0.5:8081/"), at("b"));
    assert_eq!(names("/").len(), 2);
    assert_eq!(names("http://localhost/").len(), 2);
}

#[test]
fn a_url_without_a_scheme_is_read_as_curl_reads_it() {
    let config = main_with(vec![route("own", "", "/billing/*"), route("named", "a.test", "/*")]);
    assert_eq!(outcome(&ask(&config, "GET", "localhost:8080/billing/x?y", &[])), "own");
    assert_eq!(outcome(&ask(&config, "GET", "127.0.0.1:8080/billing/x", &[])), "own");
    assert_eq!(outcome(&ask(&config, "GET", "a.test", &[])), "named");
    assert_eq!(ask(&config, "GET", "a.test:8080", &[]).path, "/");
}

#[test]
fn listeners_that_answer_alike_are_reported_together() {
    let listeners = vec![listener("a", "127.0.0.1:8080", &[]), listener("b", "127.0.0.1:8081", &[])];
    let config = config(listeners, vec![route("own", "", "/*")]);
    let explanation = ask(&config, "GET", "/", &[]);
    assert_eq!(outcome(&explanation), "own");
    assert_eq!(explanation.results[0].listeners, ["a", "b"]);
}

#[test]
fn refusals_come_in_the_order_400_then_421_then_404() {
    let config = main_with(vec![route("own", "", "/a/*"), route("named", "a.test", "/a/*")]);
    for (url, expected) in [
        ("http://evil.test/a/../b", "400 bad_request"),
        ("http://evil.test/a%2fb", "400 bad_request"),
        ("http://evil.test/b", "421 misdirected"),
        ("http://localhost./a", "421 misdirected"),
        ("http://0.0.0.0/a", "421 misdirected"),
        ("/b", "404 no_route"),
        ("http://a.test/b", "404 no_route"),
        ("/a/%2e%2e/b", "400 bad_request"),
        ("/a/%zz", "400 bad_request"),
        ("/a b", "400 bad_request"),
    ] {
        let explanation = ask(&config, "GET", url, &[]);
        assert_eq!(outcome(&explanation), expected, "{url}");
        assert!(!explanation.found);
        assert!(!explanation.results[0].why.is_empty());
    }
    assert_eq!(outcome(&ask(&config, "TRACE", "/a", &[])), "405 method_refused");
    assert_eq!(outcome(&ask(&config, "CONNECT", "/a", &[])), "405 method_refused");
    assert_eq!(
        outcome(&ask(&config, "GET", "/a", &[("host", "a.test"), ("host", "a.test")])),
        "400 bad_request"
    );
    assert_eq!(outcome(&ask(&config, "GET", "/a", &[("host", "a.test, b.test")])), "400 bad_request");
}

#[test]
fn an_escaped_slash_is_served_where_the_route_allows_it() {
    let config = main_with(vec![route("open", "", "/a/*").with_encoded_slash(), route("strict", "", "/b/*")]);
    let explanation = ask(&config, "GET", "/a/x%2fy", &[]);
    assert_eq!(outcome(&explanation), "open");
    assert_eq!(explanation.results[0].sent.as_ref().unwrap().url, "https://up.example/api/v2/x%2fy");
    let refused = ask(&config, "GET", "/b/x%2fy", &[]);
    assert_eq!(outcome(&refused), "400 bad_request");
    assert_eq!(
        refused.results[0].nearest[0],
        "route `strict` has this host and path, but it does not allow an escaped slash"
    );
}

#[test]
fn a_path_of_other_methods_names_them() {
    let config = main_with(vec![route("write", "", "/a/*").methods(&["PUT", "POST"])]);
    let explanation = ask(&config, "GET", "/a", &[]);
    assert_eq!(outcome(&explanation), "404 no_route");
    assert_eq!(explanation.results[0].why, ["this path is served for other methods only: POST, PUT"]);
    assert_eq!(
        explanation.results[0].nearest,
        ["route `write` has this host and path, but it serves PUT, POST only"]
    );
}

#[test]
fn the_nearest_misses_are_reported_a_line_each() {
    let config = main_with(vec![
        route("other path", "", "/b/*"),
        route("other host", "a.test", "/a/*"),
        route("other header", "", "/a/*").header("x-tenant", "canary-value").header("x-env", "live"),
        route("far", "b.test", "/c/*"),
    ]);
    let explanation = ask(&config, "GET", "/a", &[("x-tenant", "canary-sent")]);
    assert_eq!(outcome(&explanation), "404 no_route");
    assert_eq!(
        explanation.results[0].nearest,
        [
            "route `other header` has this host and path, but it requires another value of header `x-tenant`, and it requires \
             a header `x-env`",
            "route `other path` has this host, but its path prefix is `/b`",
            "route `other host` has this path, but its host is `a.test`",
        ]
    );
}

#[test]
fn many_near_misses_are_counted() {
    let routes = (0..15).map(|n| route(&format!("r{n:02}"), "", &format!("/p{n}/*"))).collect();
    let explanation = ask(&main_with(routes), "GET", "/a", &[]);
    assert_eq!(explanation.results[0].nearest.len(), 11);
    assert_eq!(explanation.results[0].nearest[10], "and 5 more routes");
}

#[test]
fn why_a_route_won_is_reported() {
    let config = main_with(vec![
        route("winner", "a.test", "/a/b/*").methods(&["GET"]).at(0),
        route("plain", "a.test", "/a/b/*"),
        route("short", "a.test", "/a/*"),
        route("wildcard", "*.test", "/a/b"),
    ]);
    let explanation = ask(&config, "GET", "http://a.test/a/b", &[]);
    assert_eq!(
        explanation.results[0].why,
        [
            "host: `a.test`, exactly",
            "path: prefix `/a/b`, 2 segments",
            "listener: only `main`",
            "method: one of GET",
            "wins over route `plain`: it names the listener",
            "wins over route `short`: its path is the more exact one",
            "wins over route `wildcard`: its host is the more exact one",
        ]
    );
}

#[test]
fn names_are_shown_and_values_are_not() {
    let mut billing = with_token(route("billing", "", "/billing/*"));
    billing.request_headers.set = vec![("x-key".parse().unwrap(), Source::literal("canary-header"))];
    billing.response_headers.remove = vec!["server".parse().unwrap()];
    let config = main_with(vec![billing]);
    let explanation =
        ask(&config, "POST", "/billing/x?canary-request", &[("authorization", "canary-caller")]);
    let sent = explanation.results[0].sent.as_ref().unwrap();
    let credential = sent.credential.as_ref().unwrap();
    assert_eq!(
        (credential.issuer.as_str(), credential.token_endpoint.as_str()),
        ("corp", "https://idp.example/token")
    );
    assert_eq!(credential.scopes, ["billing.read", "billing.write"]);
    assert_eq!(credential.inject, "authorization: Bearer {token}");
    assert_eq!(
        (&sent.request_headers.set[..], &sent.response_headers.remove[..]),
        (&["x-key".to_owned()][..], &["server".to_owned()][..])
    );
    assert_eq!(explanation.results[0].notes, ["this request's Authorization header is replaced"]);

    let (text, json) = (explanation.to_text(), serde_json::to_string(&explanation).unwrap());
    for secret in ["canary", "hunter2"] {
        assert!(!text.contains(secret), "{text}");
        assert!(!json.contains(secret), "{json}");
    }
    assert!(text.contains("audience, pin = [secret]"), "{text}");
    for shown in
        ["route `billing` serves it", "connect 5s, response 1m, idle 5m", "then the query as it came"]
    {
        assert!(text.contains(shown), "{text}");
    }
    assert!(json.contains(r#""found":true"#), "{json}");
}

#[test]
fn the_text_of_a_miss_names_the_code() {
    let text = ask(&main_with(vec![route("other", "", "/b/*")]), "GET", "/a", &[]).to_text();
    assert!(text.starts_with("GET /a: no route serves it, 404 `no_route`\n"), "{text}");
    assert!(text.contains("nearest"), "{text}");
}

#[test]
fn a_terminal_gets_no_control_character() {
    let text = ask(&main_with(Vec::new()), "GET", "/a\u{1b}[2J", &[]).to_text();
    assert!(!text.contains('\u{1b}'), "{text:?}");
}

#[test]
fn rules_about_callers_are_noted() {
    let mut strict = listener("main", "127.0.0.1:8080", &[]);
    strict.require_header = Some(("x-caller-key".parse().unwrap(), Source::literal("canary")));
    let mut reject = route("own", "", "/*");
    reject.caller_authorization = CallerAuthorization::Reject;
    let config = config(vec![strict], vec![reject]);
    let call = [("origin", "https://evil.test"), ("authorization", "x")];
    let notes = ask(&config, "GET", "/", &call).results[0].notes.join("\n");
    for part in ["`origins`", "`x-caller-key`", "`authorization_refused`"] {
        assert!(notes.contains(part), "{notes}");
    }
    assert!(!notes.contains("canary"));
}

#[test]
fn bad_usage_is_an_error() {
    let config = main_with(Vec::new());
    let pair = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    for (method, url, headers) in [
        ("G T", "/", Vec::new()),
        ("", "/", Vec::new()),
        ("GET", "billing", Vec::new()),
        ("GET", "", Vec::new()),
        ("GET", "ftp://a.test/", Vec::new()),
        ("GET", "billing/x", Vec::new()),
        ("GET", "user:canary@a.test/", Vec::new()),
        ("GET", "mailto:canary@a.test", Vec::new()),
        ("GET", "http://user:canary@a.test/", Vec::new()),
        ("GET", "http://a..b/", Vec::new()),
        ("GET", "/", pair("x y", "1")),
        ("GET", "/", pair("x-y", "canary\n")),
    ] {
        let error = explain(&config, method, url, &headers).unwrap_err();
        assert!(!error.contains("canary"), "{error}");
    }
}

#[test]
fn subject_preset_and_proof_are_reported() {
    let mut route = with_token(route("billing", "", "/*"));
    let Credential::Issuer { issuer, key } = &route.credential else { panic!("a route with a token") };
    let dpop = DpopConfig { private_key: Source::literal("canary-key"), alg: None };
    let issuer =
        IssuerConfig { preset: Some(Arc::from("okta")), dpop: Some(dpop), ..IssuerConfig::clone(issuer) };
    let key = CredentialKey { subject: Some("user-7".to_owned()), ..key.clone() };
    route.credential = Credential::Issuer { issuer: Arc::new(issuer), key };
    let explanation = ask(&main_with(vec![route]), "GET", "/x", &[]);
    let text = explanation.to_text();
    for wanted in ["(preset `okta`)", "user-7", "authorization: DPoP {token}", "a new one for each request"] {
        assert!(text.contains(wanted), "{wanted} in {text}");
    }
    assert!(!text.contains("canary"), "{text}");
    let sent = explanation.results[0].sent.as_ref().unwrap();
    assert!(sent.credential.as_ref().unwrap().dpop);
}
