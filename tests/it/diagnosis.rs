//! What an operator reads when it breaks: each way of breaking it, and the words of the error, the log and `/status`.
//! `docs/troubleshooting.md` quotes these words, and `documented` compares.

mod certificates;
mod config;
mod credentials;
mod documented;
mod endpoints;
mod grants;
mod routing;
mod store;
mod upstreams;

use serde_json::Value;

use crate::support::{RawRequest, Response, World, eventually};

/// A JSON response with a vendor's error.
fn vendor(status: u16, body: &str) -> crate::support::RawResponse {
    crate::support::RawResponse::status(status).header("content-type", "application/json").body(body)
}

/// The words that must be together in one text.
#[track_caller]
fn holds(where_: &str, text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{where_} does not say {word:?}: {text}");
    }
}

fn text_at<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The first event with this message, waited for.
async fn event(world: &World, message: &str) -> Value {
    eventually(&format!("`{message}` in the log"), || async {
        world.log().events().into_iter().find(|event| text_at(event, "/message") == message)
    })
    .await
}

/// The first line of the log that has all of these words.
async fn line(world: &World, words: &[&str]) -> String {
    world.log().wait(&words.join(" … "), |line| words.iter().all(|word| line.contains(word))).await
}

/// No token: the caller, the log and `/status` say what happened (`facts`) and what to do (`remedy`). `/readyz`, which
/// anyone may ask, says the same without the issuer's own words.
async fn no_token(world: &World, status: u16, code: &str, facts: &[&str], remedy: &[&str]) -> Response {
    let response = world.get("/").await;
    response.expect_problem(status, code);
    let problem = response.json();
    assert_eq!((text_at(&problem, "/route"), text_at(&problem, "/issuer")), ("api", "corp"));
    let all: Vec<&str> = ["issuer corp: "].iter().chain(facts).chain(remedy).copied().collect();
    holds("the error", text_at(&problem, "/detail"), &all);

    let logged = event(world, "no token from the issuer").await;
    assert_eq!((text_at(&logged, "/level"), text_at(&logged, "/issuer")), ("WARN", "corp"));
    holds("the log", text_at(&logged, "/detail"), &all);
    let call = event(world, "request failed").await;
    assert_eq!((text_at(&call, "/route"), text_at(&call, "/code")), ("api", code));
    holds("the log of the request", text_at(&call, "/detail"), &all);

    let shown = world.status().await;
    let error = shown.pointer("/tokens/0/last_error").expect("a last error");
    holds("/status", text_at(error, "/detail"), &all);
    holds("the remedy in /status", text_at(error, "/remedy"), remedy);
    assert_eq!(shown["ready"], false);
    let ready = world.admin("/readyz").await;
    assert_eq!(ready.status, 503);
    holds("/readyz", &ready.text(), &["token of issuer corp for route api"]);
    holds("/readyz", &ready.text(), &["issuer corp: "]);
    holds("/readyz", &ready.text(), remedy);
    response
}

/// No response from the upstream: the caller and the log say what happened, where, and what to do.
async fn no_response(world: &World, status: u16, code: &str, words: &[&str]) {
    let response = world.get("/").await;
    response.expect_problem(status, code);
    let problem = response.json();
    assert_eq!(text_at(&problem, "/route"), "api");
    holds("the error", text_at(&problem, "/detail"), words);
    let call = event(world, "request failed").await;
    assert_eq!((text_at(&call, "/route"), text_at(&call, "/code")), ("api", code));
    holds("the log", text_at(&call, "/detail"), words);
    let access = event(world, "request").await;
    assert_eq!((access["status"].as_u64(), text_at(&access, "/code")), (Some(status.into()), code));
    last_error(world, "/routes/0/last_error", status, code, words).await;
}

/// What `/status` keeps of bearerd's own responses.
async fn last_error(world: &World, pointer: &str, status: u16, code: &str, words: &[&str]) {
    let shown = world.status().await;
    let error = shown.pointer(pointer).unwrap_or_else(|| panic!("no {pointer}: {shown}"));
    assert_eq!((error["status"].as_u64(), text_at(error, "/code")), (Some(status.into()), code));
    holds("/status", text_at(error, "/detail"), words);
}

/// Once it is fixed the next request is served, without a restart.
async fn served(world: &World) {
    eventually("a served call", || async {
        (world.exchange(RawRequest::get("/")).await.status == 200).then_some(())
    })
    .await;
}
