mod fixture;
mod schema;

use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, Request};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::{Address, Callers, UnixOptions};
use crate::listener::{Asker, Bound, Stop};
use crate::proxy::Peer;
use fixture::{CANARY, Process, issuer, local, process, refused, valid, view};

#[test]
fn ready_says_which_token_is_missing_and_why() {
    let view = view(vec![
        valid(issuer("corp", true), &["billing"]),
        refused(issuer("other", true), &["a", "b", "c", "d", "e", "f", "g"]),
    ]);
    assert!(!view.ready());
    assert_eq!(
        ready::text(&view, false),
        "not ready\n[-] token of issuer other for routes a, b, c, d, e and 2 more (scopes billing.read): not \
         fetched yet; last error at 2027-01-15T07:59:55Z: issuer corp refused the client [+] all is well; next try \
         at 2027-01-15T08:00:55Z\n"
    );
    let verbose = ready::text(&view, true);
    assert_eq!(verbose.lines().count(), 5, "{verbose}");
    assert!(
        verbose.contains("[+] token of issuer corp for route billing (scopes billing.read): valid"),
        "{verbose}"
    );
}

#[test]
fn a_token_that_is_not_required_holds_nothing_up() {
    let view = view(vec![refused(issuer("other", false), &["a"])]);
    assert!(view.ready());
    assert_eq!(ready::text(&view, false), "ready\n");
    assert!(ready::text(&view, true).contains("[+] token of issuer other for route a"));
}

/// Catalogue T53: what was fetched once stays ready, whatever its renewal says.
#[test]
fn t53_a_failed_renewal_does_not_end_readiness() {
    let mut credential = valid(issuer("corp", true), &["billing"]);
    credential.status.last_error = refused(issuer("corp", true), &[]).status.last_error;
    let view = view(vec![credential]);
    assert!(view.ready());
    assert!(ready::text(&view, true).contains("valid, expires at 2027-01-15T08:50:00Z; last error at"));
}

/// The probe stays green, because no other replica has a token either; people see the word.
#[test]
fn without_a_valid_token_it_is_ready_and_degraded() {
    let mut credential = valid(issuer("corp", true), &["billing"]);
    credential.status.last_error = refused(issuer("corp", true), &[]).status.last_error;
    credential.status.state = "expired";
    let view = view(vec![credential]);
    assert!(view.ready() && view.degraded());
    let text = ready::text(&view, false);
    let wanted = "ready, degraded\n[!] token of issuer corp for route billing (scopes billing.read): no valid token, \
                  requests fail; last error at ";
    assert!(text.starts_with(wanted), "{text}");
}

#[test]
fn an_idle_token_that_expired_is_no_error() {
    let mut credential = valid(issuer("corp", true), &["billing"]);
    credential.status.state = "expired";
    let view = view(vec![credential]);
    assert_eq!(ready::text(&view, false), "ready\n");
    let text = ready::text(&view, true);
    assert!(
        text.contains(": expired while no request used it; the next request fetches another\n"),
        "{text}"
    );
}

#[test]
fn ending_is_not_ready() {
    let mut view = view(Vec::new());
    assert!(view.ready());
    view.draining = true;
    assert!(!view.ready());
    assert_eq!(ready::text(&view, false), "not ready\n[-] shutdown: the process is ending\n");
}

#[test]
fn status_tells_which_credential_an_issuer_takes() {
    let mut credential = valid(issuer("corp", true), &["billing"]);
    let told = |credential: &view::CredentialView| {
        let view = view(vec![view::CredentialView {
            issuer: Arc::clone(&credential.issuer),
            routes: credential.routes.clone(),
            status: credential.status.clone(),
        }]);
        let status = serde_json::to_value(status::status(&view)).unwrap();
        assert_eq!(status["issuers"][0]["grant_type"], "client_credentials");
        assert_eq!(status["issuers"][0]["preset"], Value::Null);
        status["issuers"][0]["credential"].as_str().unwrap().to_owned()
    };
    assert_eq!(told(&credential), "current");
    credential.status.standby = true;
    assert_eq!(told(&credential), "standby");
}

#[test]
fn status_tells_each_tokens_life() {
    let view = view(vec![valid(issuer("corp", true), &["billing"]), refused(issuer("other", false), &["a"])]);
    let status = serde_json::to_value(status::status(&view)).unwrap();
    let token = &status["tokens"][0];
    assert_eq!(token["state"], "valid");
    assert_eq!(token["age_seconds"], 600);
    assert_eq!(token["seconds_left"], 3000);
    assert_eq!(token["expires_at"], "2027-01-15T08:50:00Z");
    assert_eq!(token["scopes"], serde_json::json!(["billing.read"]));
    assert_eq!(token["parameters"], serde_json::json!(["audience"]));
    assert_eq!(token["last_error"], Value::Null);
    let error = &status["tokens"][1]["last_error"];
    assert_eq!(error["code"], "invalid_client");
    assert_eq!(error["trace"], "trace_id=7");
    assert_eq!(error["remedy"], "check client_secret");
    assert_eq!(error["next_try"], "2027-01-15T08:00:55Z");
    assert_eq!(status["config"]["last_reload"]["ok"], false);
    assert_eq!(status["routes"][0]["match"]["host"], "*.example.com");
    assert_eq!(status["routes"][0]["match"]["path_prefix"], "/");
    assert_eq!(status["routes"][0]["upstream"], "https://api.example.com/v2");
    assert_eq!(status["routes"][0]["requests"], 12);
    assert_eq!(status["routes"][1]["issuer"], Value::Null);
    assert_eq!(status["issuers"][0]["url"], "https://idp.example/token");
}

#[test]
fn status_tells_what_each_route_did_recently_and_what_went_wrong_last() {
    let status = serde_json::to_value(status::status(&view(Vec::new()))).unwrap();
    let (busy, quiet) = (&status["routes"][0], &status["routes"][1]);
    let recent = &busy["recent"];
    assert_eq!((&recent["requests"], &recent["errors"]), (&3.into(), &1.into()));
    assert_eq!((&recent["seconds"], &recent["per_second"]), (&60.0.into(), &0.05.into()));
    let median = recent["p50_ms"].as_f64().unwrap();
    assert!((25.0..=50.0).contains(&median), "{median}");
    assert_eq!(busy["last_error"]["code"], "token_refused");
    assert_eq!(busy["last_error"]["at"], "2027-01-15T07:59:50Z");
    assert_eq!(busy["upstream_refusal"]["status"], 401);
    assert_eq!((&quiet["recent"]["requests"], &quiet["recent"]["p99_ms"]), (&0.into(), &Value::Null));
    assert_eq!((&quiet["last_error"], &quiet["upstream_refusal"]), (&Value::Null, &Value::Null));
    assert_eq!(status["unrouted"]["requests"], 3);
    assert_eq!(status["unrouted"]["last_error"]["code"], "no_route");
}

#[test]
fn status_tells_what_each_webhook_has_learned() {
    let status = serde_json::to_value(status::status(&view(Vec::new()))).unwrap();
    let (good, bad) = (&status["webhooks"][0], &status["webhooks"][1]);
    assert_eq!(good["name"], "seismic");
    assert_eq!(good["address"], "127.0.0.1:9181");
    assert_eq!((&good["has_value"], &good["received_at"]), (&true.into(), &"2027-01-15T07:59:30Z".into()));
    assert_eq!((&good["problem"], &good["last_refusal"]), (&Value::Null, &Value::Null));
    assert_eq!((&bad["has_value"], &bad["received_at"]), (&false.into(), &Value::Null));
    assert_eq!(bad["problem"], "webhook seismic: its store is not JSON");
    assert_eq!(bad["last_refusal"]["detail"], "the header x-seismic-signature is missing");
}

/// Catalogue C-2 and C-10: what may be secret in a config is on no page.
#[test]
fn c10_no_page_shows_a_secret() {
    let view = view(vec![valid(issuer("corp", true), &["billing"]), refused(issuer("corp", true), &["a"])]);
    let status = serde_json::to_string(&status::status(&view)).unwrap();
    assert!(!status.contains(CANARY), "{status}");
    assert!(!ready::text(&view, true).contains(CANARY));
}

#[test]
fn the_expiry_metric_has_one_series_for_each_route_with_a_token() {
    let view = view(vec![valid(issuer("corp", true), &["a", "b"]), refused(issuer("corp", true), &["c"])]);
    let expiries = view.token_expiries();
    let routes: Vec<&str> = expiries.iter().map(|expiry| &*expiry.route).collect();
    assert_eq!(routes, ["a", "b"]);
}

struct Got {
    status: u16,
    headers: http::HeaderMap,
    body: String,
}

async fn ask(process: &Process, method: Method, path: &str, peer: &str) -> Got {
    let request = Request::builder().method(method).uri(path).header("host", "localhost").body(()).unwrap();
    let peer = Peer::Tcp(SocketAddr::new(peer.parse().unwrap(), 1));
    let asker = Asker::new(peer, Some(local(9180)));
    let (head, body) = process.admin.respond(asker, &request).into_parts();
    let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    Got { status: head.status.as_u16(), headers: head.headers, body }
}

#[tokio::test]
async fn every_page_answers() {
    let process = process();
    for (path, kind, part) in [
        ("/livez", "text/plain; charset=utf-8", "ok"),
        ("/readyz", "text/plain; charset=utf-8", "ready"),
        ("/readyz?verbose", "text/plain; charset=utf-8", "[+] config: version 1"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8", "bearerd_build_info{"),
        ("/status", "application/json", "\"uptime_seconds\":"),
        ("/", "text/html; charset=utf-8", "<h1>bearerd</h1>"),
    ] {
        let got = ask(&process, Method::GET, path, "127.0.0.1").await;
        assert_eq!(got.status, 200, "{path}");
        assert_eq!(got.headers["content-type"], kind, "{path}");
        assert_eq!(got.headers["cache-control"], "no-store", "{path}");
        assert_eq!(got.headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(got.headers["referrer-policy"], "no-referrer", "{path}");
        assert_eq!(got.headers["cross-origin-resource-policy"], "same-origin", "{path}");
        assert!(got.body.contains(part), "{path}: {}", got.body);
    }
}

#[tokio::test]
async fn other_methods_and_paths_are_refused() {
    let process = process();
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE] {
        for path in ["/", "/livez", "/readyz", "/metrics", "/status"] {
            let got = ask(&process, method.clone(), path, "127.0.0.1").await;
            assert_eq!(
                (got.status, &got.headers["allow"]),
                (405, &"GET, HEAD".parse().unwrap()),
                "{method} {path}"
            );
        }
    }
    let got = ask(&process, Method::GET, "/debug", "127.0.0.1").await;
    assert_eq!(
        (got.status, &got.headers["content-type"]),
        (404, &"application/problem+json".parse().unwrap())
    );
    let problem: Value = serde_json::from_str(&got.body).unwrap();
    assert_eq!(problem["detail"], "there is /livez, /readyz, /metrics, /status, / here");
}

/// Catalogue T100: an issuer that is down fails readiness, never liveness; the same for the end of the process.
#[tokio::test]
async fn t100_liveness_stays_while_readiness_goes() {
    let process = process();
    process.health.set_draining();
    assert_eq!(ask(&process, Method::GET, "/livez", "127.0.0.1").await.status, 200);
    let got = ask(&process, Method::GET, "/readyz", "127.0.0.1").await;
    assert_eq!(got.status, 503);
    assert!(got.body.contains("the process is ending"), "{}", got.body);
}

#[tokio::test]
async fn others_see_the_probes_alone_until_a_reload_lets_them_in() {
    let process = process();
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(ask(&process, Method::GET, path, "10.1.2.3").await.status, 200, "{path}");
    }
    for path in ["/status", "/"] {
        let got = ask(&process, Method::GET, path, "10.1.2.3").await;
        assert_eq!(got.status, 403, "{path}");
        assert!(got.body.contains("caller_refused"), "{}", got.body);
    }
    process.snapshot.store(Arc::new(fixture::snapshot(Callers::Network)));
    for path in ["/status", "/"] {
        assert_eq!(ask(&process, Method::GET, path, "10.1.2.3").await.status, 200, "{path}");
    }
}

/// The real server on a free port.
struct Served {
    address: SocketAddr,
    stop: Stop,
    task: tokio::task::JoinHandle<()>,
}

fn served() -> Served {
    let bound = Bound::bind(&Arc::from("admin"), &Address::Tcp(local(0)), &UnixOptions::OWNER_ALONE).unwrap();
    let address = bound.local_addr().unwrap();
    let stop = Stop { accepting: CancellationToken::new(), now: CancellationToken::new() };
    let task = tokio::spawn(serve(bound, process().admin, stop.clone()));
    Served { address, stop, task }
}

async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn head_has_the_length_and_no_body() {
    let served = served();
    let ask = |method| format!("{method} /livez HTTP/1.1\r\nhost: any.example\r\nconnection: close\r\n\r\n");
    let get = exchange(served.address, &ask("GET")).await;
    let head = exchange(served.address, &ask("HEAD")).await;
    assert!(get.starts_with("HTTP/1.1 200") && get.ends_with("\r\n\r\nok\n"), "{get}");
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(head.contains("content-length: 3\r\n"), "{head}");
}

#[tokio::test]
async fn status_looks_at_the_host() {
    let served = served();
    let ask = |host: &str| format!("GET /status HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    assert!(exchange(served.address, &ask("localhost")).await.starts_with("HTTP/1.1 200"));
    assert!(exchange(served.address, &ask("evil.example")).await.starts_with("HTTP/1.1 403"));
}

#[tokio::test]
async fn connections_that_are_held_do_not_keep_a_probe_out() {
    let served = served();
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS + 20 {
        held.push(TcpStream::connect(served.address).await.unwrap());
    }
    let request = "GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert!(exchange(served.address, request).await.starts_with("HTTP/1.1 200"));
    let closed = held[0].read(&mut [0]).await.unwrap();
    assert_eq!(closed, 0, "the oldest made room");
}

#[tokio::test]
async fn a_head_that_never_ends_is_given_up() {
    let served = served();
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost:").await.unwrap();
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let mut answer = Vec::new();
    // 408 or a plain end: either way it is over.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(began.elapsed() >= Duration::from_secs(9) && began.elapsed() < Duration::from_secs(61));
}

#[tokio::test]
async fn stop_ends_idle_connections_and_returns() {
    let served = served();
    let mut idle = TcpStream::connect(served.address).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    served.stop.accepting.cancel();
    tokio::time::timeout(Duration::from_secs(20), served.task).await.unwrap().unwrap();
    assert!(TcpStream::connect(served.address).await.is_err());
}
