//! Which route serves a request.

use crate::support::{Client, RawRequest, Setup, World, cli};

/// Anonymous routes, each with its name in front of the path that its upstream sees.
fn config(listeners: &str, routes: &[(&str, &str)]) -> String {
    let mut text = format!(
        "[admin]\naddress = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\nlevel = \"debug\"\n{listeners}\n"
    );
    for (name, keys) in routes {
        text += &format!(
            "[[route]]\nname = \"{name}\"\nupstream = \"{{upstream}}/{name}\"\nanonymous = true\n{keys}\n"
        );
    }
    text
}

const MAIN: &str = "[listener.main]\naddress = \"127.0.0.1:0\"\n";

async fn scene(routes: &[(&str, &str)]) -> World {
    Setup::new().await.whole(&config(MAIN, routes)).start().await
}

/// The name of the route that served the request; the status where none did.
async fn served(world: &World, request: RawRequest) -> String {
    served_on(world, "main", request).await
}

async fn served_on(world: &World, listener: &str, request: RawRequest) -> String {
    let response = Client::tcp(world.address(listener)).await.exchange(&request).await;
    if response.status != 200 {
        return response.status.to_string();
    }
    let target = world.upstream().last().target().to_owned();
    target.split(['/', '?']).nth(1).unwrap_or_default().to_owned()
}

fn to(host: &str, path: &str) -> RawRequest {
    RawRequest::get(path).host(host)
}

#[tokio::test]
async fn exact_host_goes_before_longer_wildcard_before_none() {
    let world = scene(&[
        ("none", ""),
        ("short", "host = \"*.example.com\""),
        ("long", "host = \"*.api.example.com\""),
        ("exact", "host = \"a.api.example.com\""),
    ])
    .await;
    assert_eq!(served(&world, to("a.api.example.com", "/")).await, "exact");
    assert_eq!(served(&world, to("b.api.example.com", "/")).await, "long");
    assert_eq!(served(&world, to("c.b.api.example.com", "/")).await, "long");
    assert_eq!(served(&world, to("api.example.com", "/")).await, "short");
    assert_eq!(served(&world, RawRequest::get("/")).await, "none");
}

#[tokio::test]
async fn wildcard_matches_one_label_or_more_and_not_the_bare_name() {
    let world = scene(&[("wild", "host = \"*.example.com\"")]).await;
    assert_eq!(served(&world, to("a.example.com", "/")).await, "wild");
    assert_eq!(served(&world, to("a.b.c.example.com", "/")).await, "wild");
    assert_eq!(served(&world, to("example.com", "/")).await, "421");
    assert_eq!(served(&world, to("notexample.com", "/")).await, "421");
    assert_eq!(served(&world, to(".example.com", "/")).await, "400");
}

#[tokio::test]
async fn port_and_case_of_host_are_ignored() {
    let world = scene(&[("billing", "host = \"Billing.Internal\"")]).await;
    assert_eq!(served(&world, to("billing.internal:9999", "/")).await, "billing");
    assert_eq!(served(&world, to("BILLING.internal", "/")).await, "billing");
}

#[tokio::test]
async fn exact_path_goes_before_longer_prefix() {
    let world = scene(&[
        ("root", "path_prefix = \"/\""),
        ("a", "path_prefix = \"/a\""),
        ("ab", "path_prefix = \"/a/b\""),
        ("exact", "path = \"/a/b\""),
    ])
    .await;
    assert_eq!(served(&world, RawRequest::get("/a/b")).await, "exact");
    assert_eq!(served(&world, RawRequest::get("/a/b/")).await, "ab");
    assert_eq!(served(&world, RawRequest::get("/a/b/c")).await, "ab");
    assert_eq!(served(&world, RawRequest::get("/a/bc")).await, "a");
    assert_eq!(served(&world, RawRequest::get("/a")).await, "a");
    assert_eq!(served(&world, RawRequest::get("/ab")).await, "root");
    assert_eq!(served(&world, RawRequest::get("/a?b=/a/b")).await, "a");
}

#[tokio::test]
async fn prefix_matches_whole_segments_and_its_trailing_slash_is_ignored() {
    let world = scene(&[("billing", "path_prefix = \"/billing/\"")]).await;
    assert_eq!(served(&world, RawRequest::get("/billing")).await, "billing");
    assert_eq!(served(&world, RawRequest::get("/billing/")).await, "billing");
    assert_eq!(served(&world, RawRequest::get("/billing/x")).await, "billing");
    assert_eq!(served(&world, RawRequest::get("/billingx")).await, "404");
    assert_eq!(served(&world, RawRequest::get("/Billing")).await, "404");
    assert_eq!(served(&world, RawRequest::get("/")).await, "404");
}

#[tokio::test]
async fn exact_path_matches_nothing_else() {
    let world = scene(&[("exact", "path = \"/exact\"")]).await;
    assert_eq!(served(&world, RawRequest::get("/exact")).await, "exact");
    assert_eq!(served(&world, RawRequest::get("/exact?q")).await, "exact");
    assert_eq!(served(&world, RawRequest::get("/exact/")).await, "404");
    assert_eq!(served(&world, RawRequest::get("/exact/x")).await, "404");
}

#[tokio::test]
async fn host_counts_before_path() {
    let world =
        scene(&[("deep", "path_prefix = \"/a/b/c\""), ("host", "host = \"h.test\"\npath_prefix = \"/a\"")])
            .await;
    assert_eq!(served(&world, to("h.test", "/a/b/c")).await, "host");
}

#[tokio::test]
async fn given_listener_goes_before_any() {
    let listeners = format!("{MAIN}[listener.other]\naddress = \"127.0.0.1:0\"\n");
    let routes =
        [("any", ""), ("other", "listener = \"other\""), ("only", "listener = \"other\"\npath = \"/only\"")];
    let world = Setup::new().await.whole(&config(&listeners, &routes)).start().await;
    assert_eq!(served_on(&world, "other", RawRequest::get("/x")).await, "other");
    assert_eq!(served_on(&world, "main", RawRequest::get("/x")).await, "any");
    assert_eq!(served_on(&world, "other", RawRequest::get("/only")).await, "only");
    assert_eq!(served_on(&world, "main", RawRequest::get("/only")).await, "any");
}

#[tokio::test]
async fn listener_counts_before_methods_before_headers() {
    let world = scene(&[
        ("headers", "match_headers = { x-a = \"1\", x-b = \"2\" }"),
        ("methods", "methods = [\"GET\"]"),
        ("listener", "listener = \"main\"\npath_prefix = \"/l\""),
        ("methods-l", "methods = [\"GET\"]\npath_prefix = \"/l\""),
    ])
    .await;
    let both = |path: &str| RawRequest::get(path).header("x-a", "1").header("x-b", "2");
    assert_eq!(served(&world, both("/x")).await, "methods");
    assert_eq!(served(&world, both("/l")).await, "listener");
}

#[tokio::test]
async fn more_matched_headers_go_first() {
    let world = scene(&[
        ("none", ""),
        ("one", "match_headers = { x-tenant = \"acme\" }"),
        ("two", "match_headers = { x-tenant = \"acme\", x-tier = \"gold\" }"),
    ])
    .await;
    let acme = || RawRequest::get("/").header("X-Tenant", "acme");
    assert_eq!(served(&world, acme().header("x-tier", "gold")).await, "two");
    assert_eq!(served(&world, acme()).await, "one");
    assert_eq!(served(&world, RawRequest::get("/").header("x-tenant", "ACME")).await, "none");
    assert_eq!(served(&world, RawRequest::get("/").header("x-tier", "gold")).await, "none");
}

#[tokio::test]
async fn method_is_matched() {
    let world =
        scene(&[("reads", "methods = [\"GET\", \"HEAD\"]"), ("writes", "methods = [\"POST\"]")]).await;
    assert_eq!(served(&world, RawRequest::get("/")).await, "reads");
    assert_eq!(served(&world, RawRequest::new("HEAD", "/")).await, "reads");
    assert_eq!(served(&world, RawRequest::post("/", "x")).await, "writes");
    assert_eq!(served(&world, RawRequest::new("DELETE", "/")).await, "404");
}

#[tokio::test]
async fn path_that_only_other_methods_serve_is_404_and_names_them() {
    let world = scene(&[("some", "methods = [\"PUT\", \"PATCH\"]")]).await;
    let response = world.get("/").await;
    response.expect_problem(404, "no_route");
    let detail = response.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("PUT") && detail.contains("PATCH"), "{detail}");
    assert_eq!(response.header("allow"), None);
}

#[tokio::test]
async fn order_in_the_file_never_matters() {
    let mut routes = vec![
        ("none", ""),
        ("prefix", "path_prefix = \"/a\""),
        ("exact", "path = \"/a/b\""),
        ("host", "host = \"h.test\""),
        ("method", "path_prefix = \"/a\"\nmethods = [\"POST\"]"),
    ];
    for _ in 0..2 {
        let world = scene(&routes).await;
        assert_eq!(served(&world, RawRequest::get("/")).await, "none");
        assert_eq!(served(&world, RawRequest::get("/a/c")).await, "prefix");
        assert_eq!(served(&world, RawRequest::get("/a/b")).await, "exact");
        assert_eq!(served(&world, to("h.test", "/a/b")).await, "host");
        assert_eq!(served(&world, RawRequest::post("/a", "")).await, "method");
        routes.reverse();
    }
}

async fn check(routes: &[(&str, &str)]) -> cli::Output {
    let setup = Setup::new().await.whole(&config(MAIN, routes));
    setup.write();
    cli::run(setup.folder(), &["check"]).await
}

#[tokio::test]
async fn routes_that_tie_and_can_both_match_are_a_config_error() {
    let ties: [&[(&str, &str)]; 6] = [
        &[("one", ""), ("two", "path_prefix = \"/\"")],
        &[("one", "path_prefix = \"/a\""), ("two", "path_prefix = \"/a/\"")],
        &[("one", "path = \"/%61\""), ("two", "path = \"/a\"")],
        &[("one", "methods = [\"GET\", \"PUT\"]"), ("two", "methods = [\"PUT\"]")],
        &[("one", "match_headers = { x-a = \"1\" }"), ("two", "match_headers = { x-b = \"1\" }")],
        &[("one", "host = \"H.test\""), ("two", "host = \"h.test\"")],
    ];
    for routes in ties {
        let output = check(routes).await;
        output.expect_code(78);
        let said = output.all();
        assert!(said.contains("ties with route `one`") && said.contains("route `two`"), "{said}");
    }
}

#[tokio::test]
async fn routes_that_tie_but_never_both_match_are_fine() {
    let apart: [&[(&str, &str)]; 3] = [
        &[("one", "methods = [\"GET\"]"), ("two", "methods = [\"PUT\"]")],
        &[("one", "match_headers = { x-a = \"1\" }"), ("two", "match_headers = { x-a = \"2\" }")],
        &[("one", "host = \"*.a.test\""), ("two", "host = \"*.b.test\"")],
    ];
    for routes in apart {
        check(routes).await.expect_code(0);
    }
}

#[tokio::test]
async fn route_without_host_serves_only_the_listeners_own_names() {
    let listener = "[listener.main]\naddress = \"127.0.0.1:0\"\nnames = [\"api.internal\"]\n";
    let routes =
        [("own", "path_prefix = \"/own\""), ("other", "host = \"other.test\"\npath_prefix = \"/other\"")];
    let world = Setup::new().await.whole(&config(listener, &routes)).start().await;
    let port = world.address("main").port();
    for host in
        ["localhost", "127.0.0.1", "[::1]", "api.internal", "API.internal:1", &format!("127.0.0.1:{port}")]
    {
        assert_eq!(served(&world, to(host, "/own")).await, "own", "{host}");
    }
    assert_eq!(served(&world, to("other.test", "/own")).await, "404");
    assert_eq!(served(&world, to("other.test", "/other")).await, "other");
    assert_eq!(served(&world, to("localhost", "/other")).await, "404");
}

#[tokio::test]
async fn http10_without_host_counts_as_the_listeners_own_name() {
    let world = scene(&[("own", ""), ("other", "host = \"other.test\"")]).await;
    assert_eq!(served(&world, RawRequest::get("/").http10().without_host()).await, "own");
    assert_eq!(served(&world, RawRequest::get("/").http10().host("other.test")).await, "other");
}

#[tokio::test]
async fn checks_come_in_the_order_400_421_403_404() {
    let world = scene(&[("some", "path_prefix = \"/some\"")]).await;
    let all_wrong = || RawRequest::get("/../x").host("evil.test").header("origin", "https://evil.test");
    world.exchange(all_wrong()).await.expect_problem(400, "bad_request");
    let good_path = || RawRequest::get("/nowhere").header("origin", "https://evil.test");
    world.exchange(good_path().host("evil.test")).await.expect_problem(421, "misdirected");
    world.exchange(good_path()).await.expect_problem(403, "caller_refused");
    world.get("/nowhere").await.expect_problem(404, "no_route");
}
