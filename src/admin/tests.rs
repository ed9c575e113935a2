//! Pages of plain data, a process without routes to ask over HTTP, and `docs/status.schema.json`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::health::Loads;
use super::recent::Recent;
use super::status::{Status, status};
use super::view::{CredentialView, ListenerView, StoreView, Traffic, View, WebhookView};
use super::{Admin, Health, LastReload, *};
use crate::clock::SystemClock;
use crate::config::client_auth::ClientSecretBasic;
use crate::config::{self, Address, Callers, Scopes, UnixOptions, fixture, *};
use crate::listener::{Bound, SmallCaller, Stop};
use crate::metrics::{Failure, Metrics, RouteMetrics, UpstreamRefusal};
use crate::proxy::{Peer, Snapshot, SnapshotCell};
use crate::secret::Secret;
use crate::store::{Failing, StoreError, StoreErrorKind, Tally};
use crate::token::{Balance, Budgets, LastError, SharedStatus, SlotStatus};

#[test]
fn ready_says_which_token_is_missing_and_why() {
    let view = view(vec![
        valid(issuer("corp", true), &["billing"]),
        refused(issuer("other", true), &["a", "b", "c", "d", "e", "f", "g"]),
    ]);
    assert!(!view.ready());
    assert_eq!(
        health::text(&view, false),
        "not ready\n[-] token of issuer other for routes a, b, c, d, e and 2 more (scopes billing.read): not \
         fetched yet; last error at 2027-01-15T07:59:55Z: issuer corp refused the client [+] all is well; next try \
         at 2027-01-15T08:00:55Z\n"
    );
    let verbose = health::text(&view, true);
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
    assert_eq!(health::text(&view, false), "ready\n");
    assert!(health::text(&view, true).contains("[+] token of issuer other for route a"));
}

/// Catalogue T53: what was fetched once stays ready, whatever its renewal says.
#[test]
fn t53_a_failed_renewal_does_not_end_readiness() {
    let mut credential = valid(issuer("corp", true), &["billing"]);
    credential.status.last_error = refused(issuer("corp", true), &[]).status.last_error;
    let view = view(vec![credential]);
    assert!(view.ready());
    assert!(health::text(&view, true).contains("valid, expires at 2027-01-15T08:50:00Z; last error at"));
}

/// The probe stays green, because no other replica has a token either; people see the word.
#[test]
fn without_a_valid_token_it_is_ready_and_degraded() {
    let mut credential = valid(issuer("corp", true), &["billing"]);
    credential.status.last_error = refused(issuer("corp", true), &[]).status.last_error;
    credential.status.state = "expired";
    let view = view(vec![credential]);
    assert!(view.ready() && view.degraded());
    let text = health::text(&view, false);
    let wanted = "ready, degraded\n[!] token of issuer corp for route billing (scopes billing.read): no valid token, \
                  requests fail; last error at ";
    assert!(text.starts_with(wanted), "{text}");
}

#[test]
fn an_idle_token_that_expired_is_no_error() {
    let mut credential = valid(issuer("corp", true), &["billing"]);
    credential.status.state = "expired";
    let view = view(vec![credential]);
    assert_eq!(health::text(&view, false), "ready\n");
    let text = health::text(&view, true);
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
    assert_eq!(health::text(&view, false), "not ready\n[-] shutdown: the process is ending\n");
}

#[test]
fn status_tells_what_is_left_of_a_budget() {
    let mut view = view(Vec::new());
    let told = |view: &View| serde_json::to_value(status(view)).unwrap()["issuers"][0]["budget"].clone();
    assert_eq!(
        told(&view),
        serde_json::json!({
            "requests": 3, "per_seconds": 3600, "shared": true, "remaining": 0,
            "next_request_at": "2027-01-15T08:01:30Z",
        })
    );
    view.balances.get_mut("corp").unwrap().remaining = 1;
    assert_eq!((told(&view)["remaining"].as_u64(), &told(&view)["next_request_at"]), (Some(1), &Value::Null));
    view.balances.clear();
    assert_eq!(told(&view), Value::Null);
}

#[test]
fn status_tells_which_credential_an_issuer_takes() {
    let mut credential = valid(issuer("corp", true), &["billing"]);
    let told = |credential: &CredentialView| {
        let view = view(vec![CredentialView {
            outer: Vec::new(),
            inner: Vec::new(),
            issuer: Arc::clone(&credential.issuer),
            routes: credential.routes.clone(),
            on_demand: false,
            status: credential.status.clone(),
        }]);
        let status = serde_json::to_value(status(&view)).unwrap();
        assert_eq!(status["issuers"][0]["grant_type"], "client_credentials");
        assert_eq!(status["issuers"][0]["preset"], Value::Null);
        status["issuers"][0]["credential"].as_str().unwrap().to_owned()
    };
    assert_eq!(told(&credential), "current");
    credential.status.standby = true;
    assert_eq!(told(&credential), "standby");
}

fn store(failing: Option<Failing>) -> StoreView {
    let tally = Tally { hits: 5, leases: 2, held: 1, failures: 3, skipped: 4 };
    StoreView { place: "folder /var/lib/bearerd/tokens".to_owned(), failing: failing.map(Arc::new), tally }
}

#[test]
fn status_tells_of_the_store_and_whose_fetch_each_token_was() {
    let mut credential = valid(issuer("corp", true), &["billing"]);
    credential.status.shared =
        Some(SharedStatus { generation: 1_764_417_000_000_001, by: "host-1".into(), own: false });
    let mut view = view(vec![credential, valid(issuer("other", true), &["a"])]);
    let told = serde_json::to_value(status(&view)).unwrap();
    assert_eq!(told["store"], Value::Null);
    let wanted = serde_json::json!({ "generation": 1_764_417_000_000_001_u64, "by": "host-1", "own": false });
    assert_eq!(told["tokens"][0]["shared"], wanted);
    assert_eq!(told["tokens"][1]["shared"], Value::Null);

    view.store = Some(store(None));
    let told = serde_json::to_value(status(&view)).unwrap();
    let wanted = serde_json::json!({
        "place": "folder /var/lib/bearerd/tokens", "up": true, "failure": null,
        "hits": 5, "leases": 2, "held": 1, "failures": 3, "skipped": 4,
    });
    assert_eq!(told["store"], wanted);

    let gone = StoreError {
        kind: StoreErrorKind::Timeout,
        detail: "folder /var/lib/bearerd/tokens: slow".to_owned(),
    };
    view.store = Some(store(Some(Failing { gone, since: ago(60), at: ago(5) })));
    let told = serde_json::to_value(status(&view)).unwrap();
    assert_eq!(told["store"]["up"], false);
    let wanted = serde_json::json!({
        "since": "2027-01-15T07:59:00Z", "at": "2027-01-15T07:59:55Z", "kind": "timeout",
        "detail": "folder /var/lib/bearerd/tokens: slow",
    });
    assert_eq!(told["store"]["failure"], wanted);
}

/// It is a help and never a need. The words of the store itself are not for everybody.
#[test]
fn readiness_ignores_the_store() {
    let mut view = view(vec![valid(issuer("corp", true), &["billing"])]);
    view.store = Some(store(None));
    assert!(health::text(&view, true).contains("\n[+] store: in use\n"));
    let gone =
        StoreError { kind: StoreErrorKind::Unreachable, detail: "redis at cache.internal:6379".to_owned() };
    view.store = Some(store(Some(Failing { gone, since: ago(60), at: ago(5) })));
    assert!(view.ready() && !view.degraded());
    assert_eq!(health::text(&view, false), "ready\n");
    let text = health::text(&view, true);
    let wanted =
        "[!] store: unavailable since 2027-01-15T07:59:00Z (unreachable); tokens are fetched without it\n";
    assert!(text.contains(wanted) && !text.contains("cache.internal"), "{text}");
}

#[test]
fn status_tells_each_tokens_life() {
    let view = view(vec![valid(issuer("corp", true), &["billing"]), refused(issuer("other", false), &["a"])]);
    let status = serde_json::to_value(status(&view)).unwrap();
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
    let status = serde_json::to_value(status(&view(Vec::new()))).unwrap();
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
    let status = serde_json::to_value(status(&view(Vec::new()))).unwrap();
    let (good, bad) = (&status["webhooks"][0], &status["webhooks"][1]);
    assert_eq!(good["name"], "seismic");
    assert_eq!(good["address"], "127.0.0.1:9181");
    assert_eq!((&good["has_value"], &good["received_at"]), (&true.into(), &"2027-01-15T07:59:30Z".into()));
    assert_eq!((&good["problem"], &good["last_refusal"]), (&Value::Null, &Value::Null));
    assert_eq!((&bad["has_value"], &bad["received_at"]), (&false.into(), &Value::Null));
    assert_eq!(bad["problem"], "webhook seismic: its store is not JSON");
    assert_eq!(bad["last_refusal"]["detail"], "the header field x-seismic-signature is missing");
}

/// Catalogue C-2 and C-10: what may be secret in a config is on no page.
#[test]
fn c10_no_page_shows_a_secret() {
    let view = view(vec![valid(issuer("corp", true), &["billing"]), refused(issuer("corp", true), &["a"])]);
    let status = serde_json::to_string(&status(&view)).unwrap();
    assert!(!status.contains(CANARY), "{status}");
    assert!(!health::text(&view, true).contains(CANARY));
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
    let asker = SmallCaller::new(peer, Some(local(9180)));
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
    process.snapshot.store(Arc::new(snapshot(Callers::Network)));
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

/// Stands in every place of the config that may be secret: no page may show it.
const CANARY: &str = "canary-5f1d";

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn ago(seconds: u64) -> SystemTime {
    now() - Duration::from_secs(seconds)
}

fn ahead(seconds: u64) -> SystemTime {
    now() + Duration::from_secs(seconds)
}

fn canary() -> Source {
    Source::literal(Secret::from(CANARY))
}

fn issuer(name: &str, required: bool) -> Arc<IssuerConfig> {
    let endpoint = TokenEndpoint::Url(HttpUrl {
        text: format!("https://idp.example/token?key={CANARY}"),
        https: true,
        host: "idp.example".to_owned(),
        port: 443,
        authority: "idp.example".to_owned(),
        path_and_query: format!("/token?key={CANARY}"),
    });
    Arc::new(IssuerConfig {
        digest: [7; 32],
        required,
        client_auth: ClientAuth::with_secret(&ClientSecretBasic, canary()),
        client_id: Some(canary()),
        scopes: Scopes::from(["billing.read"]),
        params: Params::from([("audience".to_owned(), ParamValue::Value(canary()))]),
        ..IssuerConfig::with_defaults(name, endpoint)
    })
}

fn key(issuer: &IssuerConfig) -> CredentialKey {
    CredentialKey {
        issuer: Arc::clone(&issuer.name),
        issuer_digest: issuer.digest,
        scopes: issuer.scopes.clone(),
        params: issuer.params.clone(),
        subject: Some(CANARY.to_owned()),
    }
}

fn route(name: &str, credential: Credential) -> Arc<RouteConfig> {
    Arc::new(RouteConfig {
        name: Arc::from(name),
        listener: Some(0),
        host: Some(HostPattern::Wildcard(".example.com".to_owned())),
        path: PathPattern::Prefix(String::new()),
        methods: Some(vec![Method::GET]),
        match_headers: vec![(http::HeaderName::from_static("x-tenant"), CANARY.to_owned())],
        upstream: UpstreamUrl {
            text: format!("https://user:{CANARY}@api.example.com/v2"),
            target: UpstreamTarget::Tcp { https: true, host: "api.example.com".to_owned(), port: 443 },
            authority: "api.example.com".to_owned(),
            path: "/v2".to_owned(),
        },
        credential,
        request_headers: HeaderEdits {
            set: vec![(http::HeaderName::from_static("x-key"), canary())],
            remove: Vec::new(),
        },
        ..fixture::route()
    })
}

fn listener() -> Arc<ListenerConfig> {
    Arc::new(ListenerConfig {
        require_header: Some((http::HeaderName::from_static("x-caller-key"), canary())),
        ..fixture::listener()
    })
}

fn config(callers: Callers, routes: Vec<Arc<RouteConfig>>) -> Config {
    let path = PathBuf::from("/etc/bearerd/bearerd.toml");
    Config {
        files: vec![path.clone()],
        path: path.clone(),
        admin: config::Admin { address: Address::Tcp(([127, 0, 0, 1], 0).into()), callers },
        listeners: vec![listener()],
        issuers: BTreeMap::from([("corp".to_owned(), issuer("corp", true))]),
        routes,
        warnings: vec![Problem {
            severity: Severity::Warning,
            file: path,
            line: 3,
            column: 7,
            key: "issuer.corp.client_secret.file".to_owned(),
            message: "no such file".to_owned(),
            hint: None,
            source_line: None,
        }],
        ..fixture::config("")
    }
}

/// Fetched ten minutes ago, good for another fifty.
fn valid(issuer: Arc<IssuerConfig>, routes: &[&str]) -> CredentialView {
    let status = SlotStatus {
        key: key(&issuer),
        state: "valid",
        granted_scope: Some("billing.read".to_owned()),
        fetched_at: Some(ago(600)),
        expires_at: Some(ahead(3000)),
        renew_at: Some(ahead(2280)),
        fetching: false,
        waiters: 0,
        last_error: None,
        fetched_once: true,
        standby: false,
        shared: None,
    };
    let routes = routes.iter().map(|name| Arc::from(*name)).collect();
    CredentialView { issuer, routes, outer: Vec::new(), inner: Vec::new(), on_demand: false, status }
}

/// Never fetched; the issuer refuses the client.
fn refused(issuer: Arc<IssuerConfig>, routes: &[&str]) -> CredentialView {
    let mut credential = valid(issuer, routes);
    credential.status = SlotStatus {
        state: "none",
        granted_scope: None,
        fetched_at: None,
        expires_at: None,
        renew_at: None,
        waiters: 2,
        fetched_once: false,
        last_error: Some(LastError {
            at: ago(5),
            detail: "issuer corp refused the client (its own words)".to_owned(),
            summary: "issuer corp refused the client\n[+] all is well".to_owned(),
            remedy: Some("check client_secret".to_owned()),
            code: Some("invalid_client".to_owned()),
            trace: Some("trace_id=7".to_owned()),
            next_try: Some(ahead(55)),
            failures_in_a_row: 1,
        }),
        ..credential.status
    };
    credential
}

fn view(credentials: Vec<CredentialView>) -> View {
    let corp = issuer("corp", true);
    let credential = Credential::Issuer { key: key(&corp), issuer: corp };
    let routes = vec![route("billing", credential), route("open", Credential::Anonymous)];
    View {
        now: now(),
        started_at: ago(3600),
        uptime: Duration::from_secs(3600),
        config: Arc::new(config(Callers::Local, routes)),
        config_version: 2,
        loads: Loads {
            loaded_at: ago(3600),
            last: Some(LastReload { at: ago(60), error: Some("line 3: unknown key".to_owned()) }),
        },
        draining: false,
        missing: Arc::default(),
        credentials,
        balances: BTreeMap::from([("corp".into(), spent())]),
        traffic: vec![busy(), Traffic::default()],
        unrouted: Traffic { requests: 3, last_failure: Some(failure(404, "no_route")), ..Traffic::default() },
        listeners: vec![ListenerView { connections: 4, ..ListenerView::default() }],
        authorities: BTreeMap::new(),
        webhooks: vec![webhook(None), webhook(Some("webhook seismic: its store is not JSON"))],
        store: None,
        log_lines_dropped: 0,
    }
}

fn spent() -> Balance {
    let budget = Budget { requests: 3, per: Duration::from_secs(3600) };
    Balance { budget, shared: true, remaining: 0, next: Duration::from_secs(90) }
}

fn busy() -> Traffic {
    Traffic {
        history: None,
        requests: 12,
        upstream_connections: 1,
        recent: Some(recent()),
        last_failure: Some(failure(502, "token_refused")),
        last_refusal: Some(Arc::new(UpstreamRefusal {
            at: ago(15),
            status: 401,
            detail: "api.example.com answers 401 to a good token".to_owned(),
        })),
    }
}

fn recent() -> Recent {
    let route = RouteMetrics::default();
    for status in [200, 200, 502] {
        route.request(status, Duration::from_millis(30));
    }
    Recent { window: Duration::from_secs(60), counts: route.counts() }
}

fn failure(status: u16, code: &'static str) -> Arc<Failure> {
    Arc::new(Failure {
        at: ago(10),
        status,
        code,
        detail: "what to do".to_owned(),
        request_id: "id-1".to_owned(),
    })
}

fn webhook(problem: Option<&str>) -> WebhookView {
    WebhookView {
        config: Arc::new(WebhookConfig {
            name: Arc::from("seismic"),
            address: Address::Tcp(local(9181)),
            path: "/seismic".to_owned(),
            signature_header: http::HeaderName::from_static("x-seismic-signature"),
            secrets: vec![canary()],
            value: "/delegationUserId".to_owned(),
            only: Vec::new(),
            timestamp: "/timestamp".to_owned(),
            store: PathBuf::from("/var/lib/bearerd/seismic.json"),
        }),
        has_value: problem.is_none(),
        received_at: problem.is_none().then(|| ago(30)),
        problem: problem.map(str::to_owned),
        last_refusal: problem
            .map(|_| (ago(20), "the header field x-seismic-signature is missing".to_owned())),
    }
}

/// A process without routes.
struct Process {
    admin: Arc<Admin>,
    health: Arc<Health>,
    snapshot: Arc<SnapshotCell>,
}

fn snapshot(callers: Callers) -> Snapshot {
    let config = config(callers, Vec::new());
    Snapshot::new(1, Arc::new(config), Vec::new(), &Metrics::default(), None)
}

fn process() -> Process {
    let snapshot = Arc::new(ArcSwap::from_pointee(snapshot(Callers::Local)));
    let health = Arc::new(Health::new());
    let metrics = Arc::new(Metrics::default());
    let admin = Admin::new(
        metrics,
        Arc::clone(&snapshot),
        Arc::clone(&health),
        Arc::new(SystemClock),
        Box::new(Vec::new),
        Arc::default(),
        Arc::new(Budgets::new(Arc::default(), Arc::new(SystemClock))),
    );
    Process { admin: Arc::new(admin), health, snapshot }
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

const COMMITTED: &str = include_str!("../../docs/status.schema.json");

#[test]
fn the_schema_in_docs_is_that_of_the_types() {
    let generator = schemars::generate::SchemaSettings::draft2020_12().for_serialize().into_generator();
    let mut made = generator.into_root_schema_for::<Status>();
    made.insert("title".to_owned(), "bearerd /status".into());
    let made = serde_json::to_value(&made).unwrap();
    if serde_json::from_str::<Value>(COMMITTED).ok().as_ref() != Some(&made) {
        let path = std::env::temp_dir().join("status.schema.json");
        std::fs::write(&path, serde_json::to_string_pretty(&made).unwrap() + "\n").unwrap();
        panic!("docs/status.schema.json is not what the types say; the new one is in {}", path.display());
    }
}

#[test]
fn a_rendered_status_keeps_to_the_schema() {
    let schema: Value = serde_json::from_str(COMMITTED).unwrap();
    for credentials in [
        Vec::new(),
        vec![valid(issuer("corp", true), &["billing"])],
        vec![refused(issuer("corp", true), &["billing"])],
    ] {
        let mut view = view(credentials);
        let gone = StoreError { kind: StoreErrorKind::Timeout, detail: "slow".to_owned() };
        view.store = Some(store(Some(Failing { gone, since: ago(60), at: ago(5) })));
        for credential in &mut view.credentials {
            credential.status.shared = Some(SharedStatus { generation: 7, by: "host-1".into(), own: true });
        }
        let rendered = serde_json::to_value(status(&view)).unwrap();
        let mut problems = Vec::new();
        check(&schema, &schema, &rendered, "", &mut problems);
        assert_eq!(problems, [""; 0]);
    }
}

#[test]
fn the_check_finds_what_is_wrong() {
    let schema: Value = serde_json::from_str(COMMITTED).unwrap();
    let mut rendered = serde_json::to_value(status(&view(Vec::new()))).unwrap();
    rendered["ready"] = "yes".into();
    rendered["config"]["version"] = Value::Null;
    rendered["routes"][0].as_object_mut().unwrap().remove("match");
    let mut problems = Vec::new();
    check(&schema, &schema, &rendered, "", &mut problems);
    assert_eq!(problems.len(), 3, "{problems:?}");
}

/// As much of JSON Schema as the committed one uses: type, required, properties, items, `$ref`, anyOf.
fn check(root: &Value, schema: &Value, value: &Value, at: &str, problems: &mut Vec<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target =
            root.pointer(reference.trim_start_matches('#')).expect("a reference that leads somewhere");
        return check(root, target, value, at, problems);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let fits = any.iter().any(|schema| {
            let mut found = Vec::new();
            check(root, schema, value, at, &mut found);
            found.is_empty()
        });
        if !fits {
            problems.push(format!("{at}: fits none"));
        }
        return;
    }
    let types = match &schema["type"] {
        Value::Array(all) => all.clone(),
        one => vec![one.clone()],
    };
    let named = |kind: &str| types.iter().any(|it| it == kind);
    let fits = match value {
        Value::Null => named("null"),
        Value::Bool(_) => named("boolean"),
        Value::Number(number) => named("number") || (named("integer") && !number.is_f64()),
        Value::String(_) => named("string"),
        Value::Array(_) => named("array"),
        Value::Object(_) => named("object"),
    };
    if !fits {
        problems.push(format!("{at}: {value} is none of {types:?}"));
    }
    if let Value::Array(items) = value {
        items.iter().for_each(|item| check(root, &schema["items"], item, &format!("{at}[]"), problems));
    }
    if let Value::Object(object) = value {
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !object.contains_key(name) {
                problems.push(format!("{at}/{name}: missing"));
            }
        }
        for (name, value) in object {
            check(root, &schema["properties"][name], value, &format!("{at}/{name}"), problems);
        }
    }
}
