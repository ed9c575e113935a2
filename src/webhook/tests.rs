//! One request after another, without a network.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lc_rs::hmac;
use http_body_util::{Full, StreamBody};
use hyper::body::Frame;
use serde_json::Value;
use tokio::time::Instant;

use super::*;
use crate::clock::{ShiftedClock, rfc3339};
use crate::config::{Address, Source};
use crate::proxy::Peer;

const SECRET: &str = "canary-secret";
const BODY: &[u8] = br#"{"userId":"admin","delegationUserId":"user-1"}"#;

struct Scene {
    webhook: Arc<Webhook>,
    on_value: Arc<AtomicUsize>,
    clock: Arc<ShiftedClock>,
    folder: tempfile::TempDir,
}

fn config(folder: &Path) -> WebhookConfig {
    WebhookConfig {
        name: Arc::from("seismic"),
        address: Address::Tcp(([127, 0, 0, 1], 0).into()),
        path: "/seismic".to_owned(),
        signature_header: HeaderName::from_static("x-seismic-signature"),
        secrets: vec![Source::literal(SECRET)],
        value: "/delegationUserId".to_owned(),
        only: Vec::new(),
        timestamp: "/timestamp".to_owned(),
        store: folder.join("seismic.json"),
    }
}

fn scene() -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let (on_value, clock) = (Arc::new(AtomicUsize::new(0)), Arc::new(ShiftedClock::default()));
    let count = Arc::clone(&on_value);
    let tell = Arc::new(move || _ = count.fetch_add(1, Ordering::SeqCst));
    let webhook = Webhook::new(Arc::new(config(folder.path())), Arc::clone(&clock) as SharedClock, tell);
    Scene { webhook: Arc::new(webhook), on_value, clock, folder }
}

fn signature(secret: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    hmac::sign(&key, body).as_ref().iter().map(|byte| format!("{byte:02X}")).collect()
}

fn post(body: &[u8], signature: &str) -> Request<Full<Bytes>> {
    Request::post("/seismic")
        .header("x-seismic-signature", signature)
        .body(Full::new(Bytes::copy_from_slice(body)))
        .unwrap()
}

fn signed(body: &[u8]) -> Request<Full<Bytes>> {
    post(body, &signature(SECRET, body))
}

struct Got {
    status: u16,
    headers: http::HeaderMap,
    problem: Value,
}

impl Scene {
    async fn send<B>(&self, request: Request<B>) -> Got
    where
        B: Body<Data = Bytes> + Send + Unpin,
    {
        let asker = SmallCaller::new(Peer::Unix { uid: 0 }, None);
        let answer = Arc::clone(&self.webhook).receive(&asker, request).await;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let problem = serde_json::from_slice(&body).unwrap_or_default();
        Got { status: head.status.as_u16(), headers: head.headers, problem }
    }

    fn on_value(&self) -> usize {
        self.on_value.load(Ordering::SeqCst)
    }

    fn stored(&self) -> Option<String> {
        let source = Source::webhook("seismic".to_owned(), self.folder.path().join("seismic.json"));
        source.read().ok().map(|value| value.expose_str().unwrap().to_owned())
    }
}

#[tokio::test]
async fn a_signed_value_is_stored_and_told() {
    let scene = scene();
    assert_eq!(scene.webhook.report(), Report::default());
    let got = scene.send(signed(BODY)).await;
    assert_eq!((got.status, got.problem), (204, Value::Null));
    assert_eq!(scene.stored().as_deref(), Some("user-1"));
    assert_eq!(scene.on_value(), 1);
    let report = scene.webhook.report();
    assert!(report.has_value && report.received_at.is_some() && report.problem.is_none());
}

#[tokio::test]
async fn the_same_value_again_is_fine_and_leaves_the_file() {
    let scene = scene();
    scene.send(signed(BODY)).await;
    let written = scene.webhook.store.read().unwrap().unwrap().unwrap();
    scene.clock.advance(Duration::from_secs(3600));
    assert_eq!(scene.send(signed(BODY)).await.status, 204);
    assert_eq!(scene.webhook.store.read(), Ok(Some(Some(written))));
    let seen = scene.webhook.report().received_at.unwrap();
    assert!(seen > written, "{} {}", rfc3339(seen), rfc3339(written));
}

#[tokio::test]
async fn only_post_to_the_exact_path_is_taken() {
    let scene = scene();
    for path in ["/", "/seismic/", "/Seismic", "/seismic/x", "/%73eismic"] {
        let request = Request::post(path)
            .header("x-seismic-signature", signature(SECRET, BODY))
            .body(Full::new(Bytes::from_static(BODY)))
            .unwrap();
        assert_eq!(scene.send(request).await.status, 404, "{path}");
    }
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
        let mut request = signed(BODY);
        *request.method_mut() = method.parse().unwrap();
        let got = scene.send(request).await;
        assert_eq!((got.status, &got.headers["allow"]), (405, &"POST".parse().unwrap()), "{method}");
    }
    assert_eq!((scene.stored(), scene.on_value()), (None, 0));
    assert_eq!(scene.webhook.report().last_refusal, None, "a stray call says nothing of the webhook");
    let mut with_query = signed(BODY);
    *with_query.uri_mut() = "/seismic?tenant=acme".parse().unwrap();
    assert_eq!(scene.send(with_query).await.status, 204);
}

#[tokio::test]
async fn a_forged_call_changes_nothing() {
    let scene = scene();
    scene.send(signed(BODY)).await;
    let forged = BODY.to_ascii_uppercase();
    let got = scene.send(post(&forged, &signature("guess", &forged))).await;
    assert_eq!(
        (got.status, &got.headers["content-type"]),
        (401, &"application/problem+json".parse().unwrap())
    );
    assert_eq!((&got.problem["status"], &got.problem["code"]), (&401.into(), &"signature_refused".into()));
    assert_eq!(scene.stored().as_deref(), Some("user-1"));
    assert_eq!(scene.on_value(), 1);
    let (_, words) = scene.webhook.report().last_refusal.unwrap();
    assert!(words.contains("fits none of the secrets"), "{words}");
}

#[tokio::test]
async fn a_signed_body_without_a_value_is_refused_in_words() {
    let scene = scene();
    let got = scene.send(signed(b"{\"userId\":\"admin\"}")).await;
    assert_eq!(got.status, 422);
    assert_eq!(got.problem["detail"], "the body has nothing at /delegationUserId");
    assert_eq!((scene.stored(), scene.on_value()), (None, 0));
}

#[tokio::test]
async fn the_largest_body_is_taken_and_a_larger_one_is_not() {
    let scene = scene();
    let fill = |length: usize| {
        let mut body = BODY.to_vec();
        body.resize(length, b' ');
        body
    };
    assert_eq!(scene.send(signed(&fill(super::BODY))).await.status, 204);
    assert_eq!(scene.send(signed(&fill(super::BODY + 1))).await.status, 413);
    // Without Content-Length.
    let pieces = vec![Bytes::from(vec![b' '; 40_000]); 2];
    let stream =
        futures_util::stream::iter(pieces.into_iter().map(|piece| Ok::<_, hyper::Error>(Frame::data(piece))));
    let request = post(b"", &signature(SECRET, b"")).map(|_| StreamBody::new(stream));
    assert_eq!(scene.send(request).await.status, 413);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_given_up() {
    let scene = scene();
    let stream = futures_util::stream::pending::<Result<Frame<Bytes>, hyper::Error>>();
    let request = post(b"", &signature(SECRET, b"")).map(|_| StreamBody::new(stream));
    let began = Instant::now();
    let got = scene.send(request).await;
    assert_eq!((got.status, began.elapsed().as_secs()), (408, 10));
}

#[tokio::test]
async fn a_store_that_cannot_be_written_loses_nothing_and_says_what_to_do_to_the_operator_alone() {
    let scene = scene();
    scene.send(signed(BODY)).await;
    let other = br#"{"delegationUserId":"user-2"}"#;
    let moved = scene.folder.path().with_extension("moved");
    std::fs::rename(scene.folder.path(), &moved).unwrap();
    let got = scene.send(signed(other)).await;
    std::fs::rename(&moved, scene.folder.path()).unwrap();
    assert_eq!(got.status, 500);
    let folder = scene.folder.path().display().to_string();
    assert!(!got.problem.to_string().contains(&folder), "{}", got.problem);
    let (_, words) = scene.webhook.report().last_refusal.unwrap();
    assert!(words.contains(&folder) && words.contains("does not exist; make it"), "{words}");
    assert_eq!((scene.stored().as_deref(), scene.on_value()), (Some("user-1"), 1));
    assert_eq!(scene.send(signed(other)).await.status, 204, "the sender comes again");
    assert_eq!((scene.stored().as_deref(), scene.on_value()), (Some("user-2"), 2));
}

#[tokio::test]
async fn other_rules_count_from_the_next_call_and_history_stays() {
    let mut scene = scene();
    scene.send(signed(BODY)).await;
    let before = scene.webhook.report();
    let mut config = config(scene.folder.path());
    config.secrets = vec![Source::literal("another")];
    scene.webhook = Arc::new(scene.webhook.with_config(Arc::new(config)));
    assert_eq!(scene.webhook.report(), before);
    assert_eq!(scene.send(signed(BODY)).await.status, 401);
    assert_eq!(scene.send(post(BODY, &signature("another", BODY))).await.status, 204);
}

#[tokio::test]
async fn calls_at_the_same_time_leave_one_of_their_values_whole() {
    let scene = scene();
    let bodies: Vec<String> =
        (0..40).map(|n| format!("{{\"delegationUserId\":\"{}\"}}", n.to_string().repeat(500 + n))).collect();
    let sends = bodies.iter().map(|body| scene.send(signed(body.as_bytes())));
    let answers = futures_util::future::join_all(sends).await;
    assert!(answers.iter().all(|got| got.status == 204));
    let stored = scene.stored().unwrap();
    assert!(bodies.iter().any(|body| body.contains(&format!("\"{stored}\""))), "{stored}");
    assert_eq!(scene.on_value(), 40);
    assert_eq!(std::fs::read_dir(scene.folder.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn a_flood_of_refusals_is_logged_once_and_counted() {
    let state = State::default();
    let count = || state.lock().unlogged();
    let now = SystemTime::UNIX_EPOCH;
    for _ in 0..1000 {
        state.refuse("seismic", &Refusal::too_large(1), now);
    }
    assert_eq!(count(), 999);
    state.refuse("seismic", &Refusal::internal(), now);
    assert_eq!(count(), 0, "another kind is logged, with what was not");
}

/// The vendor's documented payload, its keys in this order.
const SEISMIC: &str = r#"{"userId":"admin-1","userEmail":"a@example.com","delegationUserId":"7f3c-Ünï+/= ",
    "appId":"app","tenant":"acme","version":1,"timestamp":1700000000}"#;

fn words(body: &str, pointer: &str) -> String {
    let refusal = value(body.as_bytes(), pointer).unwrap_err();
    assert_eq!(refusal.status.as_u16(), 422);
    refusal.words()
}

#[test]
fn the_delegated_user_is_taken_byte_for_byte_and_not_the_admin() {
    let value = value(SEISMIC.as_bytes(), "/delegationUserId").unwrap();
    assert_eq!(value.expose_str(), Some("7f3c-Ünï+/= "));
}

#[test]
fn a_whole_number_keeps_its_digits() {
    for digits in ["18446744073709551615", "-7", "0"] {
        let body = format!("{{\"a\":{{\"b/c\":[{digits}]}}}}");
        let value = value(body.as_bytes(), "/a/b~1c/0").unwrap();
        assert_eq!(value.expose_str(), Some(digits));
    }
    assert!(words("{\"a\":18446744073709551616}", "/a").contains("digit by digit"));
    assert!(words("{\"a\":1.50}", "/a").contains("digit by digit"));
}

#[test]
fn what_is_no_value_is_refused_in_words() {
    assert!(words("{\"a\":\"\"}", "/a").contains("an empty string at /a"));
    assert!(words("{\"b\":1}", "/a").contains("nothing at /a"));
    for other in ["null", "true", "[]", "{}"] {
        assert!(words(&format!("{{\"a\":{other}}}"), "/a").contains("neither"), "{other}");
    }
    for control in ["\\u0000", "x\\n", "\\u0085", "\\u007f"] {
        assert!(words(&format!("{{\"a\":\"{control}\"}}"), "/a").contains("control character"));
    }
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(LONGEST + 1));
    assert!(words(&long, "/a").contains("4096 bytes"));
    assert!(value(long.replace("xx\"", "x\"").as_bytes(), "/a").is_ok(), "the longest");
}

#[test]
fn a_broken_body_is_not_quoted() {
    let text = words("{\"a\":hunter2}", "/a");
    assert!(text.contains("line 1, column 6") && !text.contains("hunter2"), "{text}");
    let deep = format!("{}1{}", "[".repeat(30_000), "]".repeat(30_000));
    assert!(words(&deep, "/a").contains("not JSON"));
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_payload_is_ours_if_it_has_all_that_only_names() {
    let payload = json(SEISMIC);
    let other = |only: &[(&str, &str)]| {
        let only: Vec<_> = only.iter().map(|(at, text)| ((*at).to_owned(), (*text).to_owned())).collect();
        other_than(&payload, &only).map(str::to_owned)
    };
    for ours in [&[][..], &[("/tenant", "acme")], &[("/tenant", "acme"), ("/version", "1")]] {
        assert_eq!(other(ours), None, "{ours:?}");
    }
    for (theirs, at) in [
        (&[("/tenant", "Acme")][..], "/tenant"),
        (&[("/tenant", "acme"), ("/appId", "other")], "/appId"),
        (&[("/tenantId", "t0")], "/tenantId"),
        (&[("", "acme")], ""),
        (&[("/version", "1.0")], "/version"),
    ] {
        assert_eq!(other(theirs).as_deref(), Some(at), "{theirs:?}");
    }
    assert_eq!(other_than(&json(r#"{"a":null,"b":true}"#), &[("/b".into(), "true".into())]), None);
    assert!(other_than(&json(r#"{"a":null}"#), &[("/a".into(), "null".into())]).is_some());
}

#[test]
fn times_in_seconds_milliseconds_and_dates() {
    let at = |text: &str| time_at(&json(text), "/t");
    let seconds = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    for text in [
        r#"{"t":1700000000}"#,
        r#"{"t":"1700000000"}"#,
        r#"{"t":1700000000000}"#,
        r#"{"t":"2023-11-14T22:13:20Z"}"#,
    ] {
        assert_eq!(at(text), seconds, "{text}");
    }
    for text in [r#"{"t":-1}"#, r#"{"t":1.5}"#, r#"{"t":"soon"}"#, r#"{"t":[1]}"#, r#"{"s":1}"#, "[]"] {
        assert_eq!(at(text), None, "{text}");
    }
}
