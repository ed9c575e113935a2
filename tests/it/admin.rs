//! The admin address.

use std::collections::BTreeSet;

use crate::support::metrics::{self, Sample};
use crate::support::{Client, Gate, RawRequest, RawResponse, Response, Setup, World, eventually, unix_now};

async fn start() -> World {
    let world = Setup::new().await.issuer("scopes = [\"a\", \"b\"]").start().await;
    world.ready().await;
    world
}

async fn admin_request(world: &World, call: RawRequest) -> Response {
    Client::tcp(world.address("admin")).await.exchange(&call).await
}

#[tokio::test]
async fn livez_is_always_200() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::status(500));
    let world = setup.start().await;
    assert_eq!(world.admin("/livez").await.status, 200);
}

#[tokio::test]
async fn readyz_waits_for_every_required_credential_and_names_the_missing_one() {
    let setup = Setup::new().await;
    let gate = Gate::new();
    setup.issuer.always_this(RawResponse::token("t").gated(&gate));
    let world = setup.start().await;
    let response = world.admin("/readyz").await;
    response.expect_status(503);
    assert!(response.text().contains("corp") || response.text().contains("api"), "{}", response.text());
    gate.open();
    world.ready().await;
}

#[tokio::test]
async fn readyz_does_not_wait_for_an_issuer_that_is_not_required() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::status(500));
    let world = setup.issuer("required = false").start().await;
    world.ready().await;
}

#[tokio::test]
async fn readyz_does_not_wait_for_an_issuer_without_routes() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::status(500));
    let world = setup.route("anonymous = true").start().await;
    world.ready().await;
    assert_eq!(world.issuer().count(), 0);
}

#[tokio::test]
async fn readyz_stays_200_once_a_token_was_fetched() {
    let setup = Setup::new().await;
    setup.issuer.next(RawResponse::token_for("t", 1));
    setup.issuer.always_this(RawResponse::status(500));
    let world = setup.start().await;
    world.ready().await;
    eventually("the token to expire", || async { (world.get("/").await.status == 503).then_some(()) }).await;
    assert_eq!(world.admin("/readyz").await.status, 200);
}

#[tokio::test]
async fn probes_and_metrics_have_no_host_check_and_status_and_page_have() {
    let world = start().await;
    for target in ["/livez", "/readyz", "/metrics"] {
        let response = admin_request(&world, RawRequest::get(target).host("10.1.2.3:9180")).await;
        assert_eq!(response.status, 200, "{target}");
    }
    for target in ["/status", "/"] {
        for host in ["evil.test", "10.1.2.3:9180", "localhost.evil.test"] {
            let response = admin_request(&world, RawRequest::get(target).host(host)).await;
            assert!([403, 421].contains(&response.status), "{target} for {host}: {}", response.status);
            assert!(!response.text().contains("corp"));
        }
        for host in ["localhost", "127.0.0.1:9180", "[::1]"] {
            admin_request(&world, RawRequest::get(target).host(host)).await.expect_status(200);
        }
    }
}

#[tokio::test]
async fn network_opens_status_and_page_to_other_machines() {
    let world = Setup::new().await.admin("callers = \"network\"").start().await;
    for target in ["/status", "/"] {
        admin_request(&world, RawRequest::get(target).host("10.1.2.3:9180")).await.expect_status(200);
    }
}

#[tokio::test]
async fn status_and_page_refuse_browser_pages_of_other_origins() {
    let world = start().await;
    for target in ["/status", "/"] {
        let response =
            admin_request(&world, RawRequest::get(target).header("Origin", "https://evil.test")).await;
        assert_eq!(response.status, 403, "{target}");
        for referer in ["https://evil.test/", "http://127.0.0.1/"] {
            let response = admin_request(&world, RawRequest::get(target).header("Referer", referer)).await;
            assert_eq!(response.status, 403, "{target} {referer}");
        }
        let own = format!("http://{}", world.address("admin"));
        let call = RawRequest::get(target).header("Origin", &own).header("Referer", &format!("{own}/"));
        assert_eq!(admin_request(&world, call).await.status, 200, "{target}");
    }
}

#[tokio::test]
async fn hosts_that_are_none_are_no_own_hosts_of_the_admin_address() {
    let world = start().await;
    for host in [
        "[::1]evil",
        "[::1]:99999",
        "localhost:99999",
        "127.0.0.1:65536",
        "localhost:",
        "[::1",
        "a@localhost",
    ] {
        let response = admin_request(&world, RawRequest::get("/status").host(host)).await;
        let expected = if host == "localhost:" { 200 } else { 403 };
        assert_eq!(response.status, expected, "{host}");
    }
}

#[tokio::test]
async fn admin_may_be_a_unix_socket() {
    let world = Setup::new().await.admin("address = \"unix:{folder}/admin.sock\"").start().await;
    for path in ["/livez", "/status"] {
        let mut client = Client::unix(&world.folder().join("admin.sock")).await;
        client.exchange(&RawRequest::get(path)).await.expect_status(200);
    }
}

#[tokio::test]
async fn unknown_page_is_404_and_nothing_is_changed_by_a_method() {
    let world = start().await;
    assert_eq!(world.admin("/nowhere").await.status, 404);
    for method in ["POST", "DELETE", "PUT"] {
        let response = admin_request(&world, RawRequest::new(method, "/status")).await;
        assert!([404, 405].contains(&response.status), "{method}: {}", response.status);
    }
}

#[tokio::test]
async fn status_tells_routes_issuers_and_tokens_without_a_value() {
    let world = start().await;
    world.get("/").await.expect_status(200);
    let response = world.admin("/status").await;
    assert!(response.header("content-type").unwrap().starts_with("application/json"));
    let status = response.json();
    let text = status.to_string();
    for wanted in ["\"api\"", "\"corp\"", "\"a\"", "\"b\"", &world.upstream().url] {
        assert!(text.contains(wanted), "{wanted} in {status}");
    }
    assert!(status["routes"].is_array() || status["routes"].is_object(), "{status}");
    assert!(status["issuers"].is_array() || status["issuers"].is_object(), "{status}");
    for never in ["token-1", crate::support::setup::SECRET] {
        assert!(!text.contains(never), "{never} in {status}");
    }
}

#[tokio::test]
async fn status_tells_a_tokens_last_error() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::oauth_error(400, "invalid_scope"));
    let world = setup.start().await;
    world.get("/").await.expect_problem(502, "token_refused");
    let status = world.status().await.to_string();
    assert!(status.contains("invalid_scope") || status.contains("token_refused"), "{status}");
}

#[tokio::test]
async fn status_tells_each_routes_last_failure_and_what_reached_none() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::oauth_error(400, "invalid_scope"));
    let world = setup.start().await;
    let before = world.status().await;
    assert_eq!(before["unrouted"]["last_error"], serde_json::Value::Null);
    let answer =
        world.exchange(RawRequest::get("/?q=canary-query").header("x-request-id", "call-7")).await.json();
    world.exchange(RawRequest::get("/a/../b?q=canary-query")).await.expect_status(400);
    let status = world.status().await;
    let last = &status["routes"][0]["last_error"];
    assert_eq!((&last["status"], &last["code"]), (&502.into(), &"token_refused".into()));
    assert_eq!((&last["detail"], &last["request_id"]), (&answer["detail"], &"call-7".into()));
    assert!(last["at"].as_str().is_some_and(|at| at.ends_with('Z')), "{last}");
    assert_eq!(status["routes"][0]["recent"]["errors"], 1);
    assert_eq!(status["routes"][0]["upstream_refusal"], serde_json::Value::Null);
    assert_eq!(status["unrouted"]["requests"], 1);
    assert_eq!(status["unrouted"]["last_error"]["code"], "bad_request");
    assert!(!status.to_string().contains("canary-query"), "{status}");
}

#[tokio::test]
async fn status_tells_that_an_upstream_refuses_good_tokens() {
    let setup = Setup::new().await;
    setup.upstream.always_this(RawResponse::unauthorized());
    let world = setup.start().await;
    world.ready().await;
    world.get("/").await.expect_status(401);
    let route = &world.status().await["routes"][0];
    let refusal = &route["upstream_refusal"];
    assert_eq!(refusal["status"], 401);
    let detail = refusal["detail"].as_str().unwrap();
    for wanted in ["issuer corp", "audience, scopes", "bearerd token corp --route api --decode"] {
        assert!(detail.contains(wanted), "{wanted}: {detail}");
    }
    assert_eq!(route["last_error"], serde_json::Value::Null, "the response is the upstream's");
}

#[tokio::test]
async fn status_tells_of_no_refusal_where_the_new_token_is_taken() {
    let setup = Setup::new().await;
    setup.upstream.next(RawResponse::unauthorized());
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    assert_eq!(world.status().await["routes"][0]["upstream_refusal"], serde_json::Value::Null);
}

#[tokio::test]
async fn a_grpc_request_that_failed_here_is_an_error_of_its_route() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::oauth_error(400, "invalid_scope"));
    let world = setup.start().await;
    world
        .exchange(RawRequest::post("/", "x").header("content-type", "application/grpc"))
        .await
        .expect_status(200);
    let route = &world.status().await["routes"][0];
    assert_eq!((&route["recent"]["requests"], &route["recent"]["errors"]), (&1.into(), &1.into()));
    assert_eq!(route["last_error"]["status"], 502);
}

#[tokio::test]
async fn what_routes_did_recently_is_kept_over_a_reload_and_forgotten_with_the_route() {
    let mut world = start().await;
    for _ in 0..5 {
        world.get("/").await.expect_status(200);
    }
    world.reload().await;
    let recent = &world.status().await["routes"][0]["recent"];
    assert_eq!((&recent["requests"], &recent["errors"]), (&5.into(), &0.into()));
    assert!(recent["p50_ms"].as_f64().unwrap() <= recent["p99_ms"].as_f64().unwrap(), "{recent}");
    assert!(recent["per_second"].as_f64().unwrap() > 0.0, "{recent}");
    world.change(|text| text.replace("name = \"api\"", "name = \"other\""));
    world.reload().await;
    world.change(|text| text.replace("name = \"other\"", "name = \"api\""));
    world.reload().await;
    assert_eq!(world.status().await["routes"][0]["recent"]["requests"], 0);
}

#[tokio::test]
async fn page_for_people_is_html_that_loads_nothing_from_elsewhere() {
    let world = start().await;
    let response = world.admin("/").await;
    response.expect_status(200);
    assert!(response.header("content-type").unwrap().starts_with("text/html"));
    let page = response.text();
    assert!(page.contains("/status") && !page.contains("token-1"), "{page}");
    for elsewhere in ["http://", "https://", "innerHTML"] {
        assert!(!page.contains(elsewhere), "{elsewhere} in {page}");
    }
    assert!(response.header("content-security-policy").is_some());
}

#[tokio::test]
async fn page_for_people_escapes_what_an_issuer_said() {
    let setup = Setup::new().await;
    let body =
        serde_json::json!({ "error": "<b>x</b>", "error_description": "<img src=x onerror=alert(1)>" });
    setup.issuer.always_this(RawResponse::status(400).body(body.to_string()));
    let world = setup.start().await;
    let _failed = world.get("/").await;
    let page = world.admin("/").await.text();
    assert!(!page.contains("<img") && !page.contains("<b>x"), "{page}");
}

fn labels_of(samples: &[Sample], name: &str) -> BTreeSet<String> {
    let of = |sample: &&Sample| sample.name == name;
    samples.iter().filter(of).flat_map(|sample| sample.labels.keys().cloned()).collect()
}

const METRICS: [(&str, &[&str]); 13] = [
    ("bearerd_requests_total", &["route", "status"]),
    ("bearerd_request_duration_seconds_count", &["route"]),
    ("bearerd_upstream_duration_seconds_count", &["route"]),
    ("bearerd_token_requests_total", &["issuer", "outcome"]),
    ("bearerd_token_request_duration_seconds_count", &["issuer"]),
    ("bearerd_token_expiry_timestamp_seconds", &["issuer", "route"]),
    ("bearerd_token_waiters", &["issuer"]),
    ("bearerd_refreshes_forced_total", &["route"]),
    ("bearerd_connections", &["listener"]),
    ("bearerd_upstream_connections", &["route"]),
    ("bearerd_config_reloads_total", &["outcome"]),
    ("bearerd_config_last_reload_successful", &[]),
    ("bearerd_build_info", &["version"]),
];

#[tokio::test]
async fn metrics_have_the_names_and_labels_that_people_alert_on() {
    let setup = Setup::new().await;
    setup.upstream.next(RawResponse::unauthorized());
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    world.reload().await;
    let response = world.admin("/metrics").await;
    assert!(response.header("content-type").unwrap().starts_with("text/plain"));
    let samples = metrics::parse(&response.text());
    for (name, labels) in METRICS {
        assert!(samples.iter().any(|sample| sample.name == name), "{name} is missing");
        let wanted: BTreeSet<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        assert_eq!(labels_of(&samples, name), wanted, "{name}");
    }
    let count = |name: &str, labels: &[(&str, &str)]| metrics::sum(&samples, name, labels);
    assert_eq!(count("bearerd_requests_total", &[("route", "api"), ("status", "200")]), Some(1.0));
    assert_eq!(count("bearerd_refreshes_forced_total", &[("route", "api")]), Some(1.0));
    assert_eq!(count("bearerd_token_requests_total", &[("issuer", "corp")]), Some(2.0));
    assert_eq!(count("bearerd_config_last_reload_successful", &[]), Some(1.0));
    assert_eq!(count("bearerd_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), Some(1.0));
    let expiry = count("bearerd_token_expiry_timestamp_seconds", &[]).unwrap();
    assert!((expiry - unix_now() - 3600.0).abs() < 15.0, "{expiry}");
}

#[tokio::test]
async fn metrics_have_help_and_type() {
    let world = start().await;
    let text = world.admin("/metrics").await.text();
    for name in ["bearerd_requests", "bearerd_request_duration_seconds", "bearerd_build_info"] {
        assert!(text.contains(&format!("# HELP {name}")), "{name}");
        assert!(text.contains(&format!("# TYPE {name}")), "{name}");
    }
}

#[tokio::test]
async fn labels_come_from_the_config_alone() {
    let world = start().await;
    for target in ["/canary-path", "/x?canary-query=1"] {
        world.exchange(RawRequest::get(target).header("x-canary", "canary-header")).await.expect_status(200);
    }
    world.exchange(RawRequest::new("CANARY", "/")).await;
    world.exchange(RawRequest::get("/").host("canary.test")).await.expect_status(421);
    let text = world.admin("/metrics").await.text();
    assert!(!text.to_lowercase().contains("canary"), "{text}");
}
