//! Requests that reach no route.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{event, holds, last_error, line, text_at};
use crate::support::{RawRequest, Setup, World, eventually, within};

/// The caller, the access log and `/status`.
async fn refused(world: &World, call: RawRequest, status: u16, code: &str, words: &[&str]) {
    let response = world.exchange(call).await;
    response.expect_problem(status, code);
    let problem = response.json();
    assert_eq!(problem["route"], Value::Null);
    holds("the error", text_at(&problem, "/detail"), words);
    let access = event(world, "request").await;
    assert_eq!((access["status"].as_u64(), text_at(&access, "/code")), (Some(status.into()), code));
    holds("the access log", text_at(&access, "/detail"), words);
    last_error(world, "/unrouted/last_error", status, code, words).await;
}

#[tokio::test]
async fn route_not_matching() {
    let world = Setup::new().await.route("path_prefix = \"/billing\"").start().await;
    let words = [
        "no route serves this path on this host",
        "route `api` has this host, but its path prefix is `/billing`",
    ];
    refused(&world, RawRequest::get("/biling/invoices?secret=1"), 404, "no_route", &words).await;
    told_with_its_target(&world, "GET 127.0.0.1/biling/invoices: no route serves this path on this host")
        .await;
    assert!(!world.log().text().contains("secret=1"));
    let url = format!("http://{}/biling/invoices", world.address("main"));
    let explained =
        crate::support::cli::run(world.folder(), &["explain", "--config", "bearerd.toml", "GET", &url]).await;
    explained.expect_code(1);
    holds("bearerd explain", &explained.all(), &["api", "/billing"]);
}

/// The log and `/status` say what was asked for, and the caller's response does not say it back.
async fn told_with_its_target(world: &World, words: &str) {
    holds("the access log", text_at(&event(world, "request").await, "/detail"), &[words]);
    holds("/status", text_at(&world.status().await, "/unrouted/last_error/detail"), &[words]);
}

/// Of many routes, the response names those that were probably meant, and not the rest.
#[tokio::test]
async fn the_nearest_routes_are_reported() {
    let mut setup = Setup::new().await.route("path_prefix = \"/invoices\"");
    for name in ["users", "orders", "invoice-items", "products"] {
        setup = setup.more(&format!(
            "[[route]]\nname = \"{name}\"\npath_prefix = \"/{name}\"\nupstream = \"{{upstream}}\"\nissuer = \"corp\"\n"
        ));
    }
    let world = setup.start().await;
    let response = world.get("/invoice").await;
    response.expect_problem(404, "no_route");
    let detail = response.json();
    let detail = text_at(&detail, "/detail");
    let first = detail.split("; ").nth(1).unwrap_or_default();
    assert!(first.starts_with("route `api`"), "{detail}");
    assert_eq!(detail.matches("route `").count(), 3, "{detail}");
}

#[tokio::test]
async fn method_not_served() {
    let world = Setup::new().await.route("methods = [\"GET\", \"POST\"]").start().await;
    let words = ["this path is not served for DELETE, only for GET, POST"];
    refused(&world, RawRequest::new("DELETE", "/"), 404, "no_route", &words).await;
    told_with_its_target(&world, "DELETE 127.0.0.1/: this path is not served for DELETE").await;
}

#[tokio::test]
async fn wrong_host() {
    let world = Setup::new().await.start().await;
    let words = [
        "neither listener main nor any of its routes has this Host; use localhost in the URL, or add the name to `names` of \
         [listener.main] or to `host` of a route",
    ];
    let call = RawRequest::get("/invoices?secret=1").host("billing.internal");
    let response = world.exchange(call.clone()).await;
    assert!(
        !response.text().contains("route `"),
        "which routes there are is not for every page: {}",
        response.text()
    );
    refused(&world, call, 421, "misdirected", &words).await;
    told_with_its_target(&world, "GET billing.internal/invoices: neither listener main").await;
    let near = "route `api` has this path, but it serves the listener's own names only";
    holds("/status", text_at(&world.status().await, "/unrouted/last_error/detail"), &[near]);
    assert!(!world.log().text().contains("secret=1"));
}

#[tokio::test]
async fn page_of_another_site() {
    let world = Setup::new().await.start().await;
    for (name, value, words) in [
        (
            "Origin",
            "https://evil.test",
            "a browser page sent it, and its Origin is neither this address's own nor in `origins`",
        ),
        ("Sec-Fetch-Site", "cross-site", "a browser page of another site sent it (Sec-Fetch-Site)"),
        ("Referer", "https://evil.test/", "a browser page of another site sent it (Referer)"),
    ] {
        let response = world.exchange(RawRequest::get("/").header(name, value)).await;
        response.expect_problem(403, "caller_refused");
        holds("the error", text_at(&response.json(), "/detail"), &[words]);
    }
    let words = ["a browser page of another site sent it (Referer)"];
    let call = RawRequest::get("/").header("Referer", "https://evil.test/secret");
    let world = Setup::new().await.start().await;
    refused(&world, call, 403, "caller_refused", &words).await;
    assert!(!world.log().text().contains("evil.test"), "a header's value is in the log");
}

#[tokio::test]
async fn caller_not_allowed() {
    let world = Setup::new().await.listener("allow = [\"10.0.0.0/8\"]").start().await;
    refused(&world, RawRequest::get("/"), 403, "caller_refused", &["is not in `allow`"]).await;
    let key = "require_header = { name = \"x-caller-key\", value = { file = \"secret\" } }";
    let world = Setup::new().await.listener(key).start().await;
    refused(
        &world,
        RawRequest::get("/"),
        403,
        "caller_refused",
        &["the header field x-caller-key is missing"],
    )
    .await;
    let world = Setup::new().await.listener(key).start().await;
    let wrong = RawRequest::get("/").header("x-caller-key", "wrong");
    refused(&world, wrong, 403, "caller_refused", &["the header field x-caller-key has a wrong value"]).await;
}

#[tokio::test]
async fn names_that_pages_could_ride_on() {
    let setup = Setup::new().await.listener("names = [\"api.internal\"]");
    setup.write();
    let checked = crate::support::cli::run(setup.folder(), &["check"]).await;
    checked.expect_code(0);
    let words = [
        "listener.main.names",
        "over plain http, a page of any site can send GET requests here that look like a program's, and they would carry the credential",
    ];
    holds("bearerd check", &checked.all(), &words);
}

#[tokio::test]
async fn tls_to_a_plain_listener() {
    let world = Setup::new().await.start().await;
    for _ in 0..3 {
        let mut stream = tokio::net::TcpStream::connect(world.address("main")).await.unwrap();
        stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await.unwrap();
        let mut answer = Vec::new();
        within("the response", stream.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&answer));
    }
    let labels = [("listener", "main"), ("reason", "tls")];
    eventually("all three to be counted", || async {
        let counted = world.metric("bearerd_requests_refused_total", &labels).await;
        (counted == Some(3.0)).then_some(())
    })
    .await;
    let words = ["WARN", "a caller speaks TLS to a listener without TLS", "http://", "[listener.main] tls"];
    line(&world, &words).await;
    let count =
        world.log().events().iter().filter(|event| event["event"] == "caller.tls_on_plain_listener").count();
    assert_eq!(count, 1, "once a minute");
}
