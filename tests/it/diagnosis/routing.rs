//! Calls that reach no route.

use serde_json::Value;

use super::{event, holds, last_error, text_at};
use crate::support::{Call, Setup, World};

/// The caller, the access log and `/status`.
async fn refused(world: &World, call: Call, status: u16, code: &str, words: &[&str]) {
    let response = world.call(call).await;
    response.expect_problem(status, code);
    let problem = response.json();
    assert_eq!(problem["route"], Value::Null);
    holds("the error", text_at(&problem, "/detail"), words);
    let access = event(world, "call").await;
    assert_eq!((access["status"].as_u64(), text_at(&access, "/code")), (Some(status.into()), code));
    holds("the access log", text_at(&access, "/detail"), words);
    last_error(world, "/unrouted/last_error", status, code, words).await;
}

#[tokio::test]
async fn route_not_matching() {
    let world = Setup::new().await.route("path_prefix = \"/billing\"").start().await;
    let words =
        ["no route serves this path on this host; `bearerd explain METHOD URL` tells which routes come near"];
    refused(&world, Call::get("/biling/invoices?secret=1"), 404, "no_route", &words).await;
    assert!(!world.log().text().contains("secret=1"));
    let url = format!("http://{}/biling/invoices", world.address("main"));
    let explained =
        crate::support::cli::run(world.folder(), &["explain", "--config", "bearerd.toml", "GET", &url]).await;
    explained.expect_code(1);
    holds("bearerd explain", &explained.all(), &["api", "/billing"]);
}

#[tokio::test]
async fn method_not_served() {
    let world = Setup::new().await.route("methods = [\"GET\", \"POST\"]").start().await;
    let words = ["this path is not served for DELETE, only for GET, POST"];
    refused(&world, Call::new("DELETE", "/"), 404, "no_route", &words).await;
}

#[tokio::test]
async fn wrong_host() {
    let world = Setup::new().await.start().await;
    let words = [
        "neither listener main nor any of its routes has this Host; call it as localhost, or add the name to `names` of \
         [listener.main] or to `host` of a route",
    ];
    refused(&world, Call::get("/").host("billing.internal"), 421, "misdirected", &words).await;
    assert!(!world.log().text().contains("billing.internal"), "a header's value is in the log");
}
