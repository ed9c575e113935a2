//! Values that are learned from signed requests: Seismic's delegated user, from the vendor's callback to the token request.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use serde_json::{Value, json};

use crate::support::cli::run;
use crate::support::setup::SECRET;
use crate::support::{Bearerd, Client, RawRequest, RawResponse, Response, Setup, World, eventually, stays};

/// The app's signing secret; no output may hold it.
const SIGNING: &str = "canary-signing-secret";

const WEBHOOK: &str = r#"
[webhook.seismic]
address = "127.0.0.1:0"
path = "/seismic"
signature_header = "x-seismic-signature"
secrets = [{ file = "signing" }, { file = "signing-old" }]
value = "/delegationUserId"
store = "seismic.json"
"#;

/// The preset, with an issuer of ours in the vendor's place. Of the two secrets only the current one is there.
async fn seismic() -> Setup {
    let issuer = "preset = \"seismic\"\nvars = { tenant = \"acme\" }\nscopes = [\"seismic.reporting\"]\n";
    let setup = Setup::new().await.issuer(issuer).more(WEBHOOK);
    setup.file("signing", format!("{SIGNING}\n"));
    setup
}

fn hex(secret: &str, body: &[u8]) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), body);
    tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The documented payload: its `userId` is the admin's.
fn payload(user: &str) -> Vec<u8> {
    let payload = json!({
        "userId": "admin-of-the-tenant", "userEmail": "admin@example.com", "delegationUserId": user,
        "appId": "a0", "appName": "app", "tenant": "acme", "tenantId": "t0", "requestId": "r0", "version": 1,
        "language": "en", "timestamp": 1_700_000_000,
    });
    payload.to_string().into_bytes()
}

fn unsigned(body: Vec<u8>) -> RawRequest {
    RawRequest::post("/seismic", body).header("Content-Type", "application/json")
}

pub(crate) fn signed_by(secret: &str, body: Vec<u8>) -> RawRequest {
    let signature = hex(secret, &body);
    unsigned(body).header("x-seismic-signature", &signature)
}

fn chosen(user: &str) -> RawRequest {
    signed_by(SIGNING, payload(user))
}

/// Where the webhook of this name listens.
pub(crate) async fn address_of(proxy: &Bearerd, name: &str) -> SocketAddr {
    let find = || {
        let about = |event: &Value| event["webhook"] == name && event["message"] == "listening";
        let event = proxy.log().events().into_iter().rev().find(about)?;
        event["address"].as_str()?.parse().ok()
    };
    eventually("the webhook to listen", || async { find() }).await
}

async fn post(proxy: &Bearerd, call: &RawRequest) -> Response {
    Client::tcp(address_of(proxy, "seismic").await).await.exchange(call).await
}

async fn webhook_status(proxy: &Bearerd) -> Value {
    proxy.status().await["webhooks"][0].clone()
}

/// A world that has learned this user, its first token fetched.
async fn learned(setup: Setup, user: &str) -> World {
    let world = setup.start().await;
    post(&world, &chosen(user)).await.expect_status(204);
    world.ready().await;
    world
}

fn users(world: &World) -> Vec<String> {
    let of = |request: &std::sync::Arc<crate::support::Recorded>| {
        request.form().into_iter().find(|(name, _)| name == "user_id").map(|(_, value)| value)
    };
    world.issuer().requests().iter().filter_map(of).collect()
}

fn user_id(name: &str, form: &[(String, String)]) -> String {
    let found: Vec<_> = form.iter().filter(|(of, _)| of == name).map(|(_, value)| value.clone()).collect();
    assert_eq!(found.len(), 1, "{name} in {form:?}");
    found[0].clone()
}

#[tokio::test]
async fn seismics_delegated_user_is_learned_and_sent() {
    let world = seismic().await.start().await;
    let response = world.get("/").await;
    response.expect_problem(503, "token_unavailable");
    let detail = response.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("seismic") && detail.contains("no value yet"), "{detail}");
    let ready = world.admin("/readyz").await;
    assert!(ready.status == 503 && ready.text().contains("no value yet"), "{}", ready.text());
    assert_eq!(world.issuer().count(), 0, "nothing is asked for without the user");
    let status = webhook_status(&world).await;
    assert_eq!((&status["has_value"], &status["received_at"]), (&json!(false), &Value::Null));

    let user = "7f3c2a10-1111-4000-8000-00000000Üñ &=+%";
    let response = post(&world, &chosen(user)).await;
    response.expect_status(204);
    assert!(response.body.data.is_empty());
    world.ready().await;
    world.get("/").await.expect_status(200);
    assert_eq!(world.upstream().last().bearer(), Some("token-1"));
    let form = world.issuer().last().form();
    for (name, value) in [
        ("grant_type", "delegation"),
        ("client_id", "client-1"),
        ("client_secret", SECRET),
        ("user_id", user),
        ("scope", "seismic.reporting"),
    ] {
        assert_eq!(user_id(name, &form), value);
    }
    let status = webhook_status(&world).await;
    assert_eq!((&status["has_value"], &status["problem"]), (&json!(true), &Value::Null));
    assert!(status["received_at"].is_string(), "{status}");
    let store = world.folder().join("seismic.json");
    assert_eq!(std::fs::metadata(&store).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn another_user_drops_the_token_and_the_same_one_does_not() {
    let world = learned(seismic().await, "user-1").await;
    world.get("/").await.expect_status(200);
    assert_eq!(world.upstream().last().bearer(), Some("token-1"));
    post(&world, &chosen("user-1")).await.expect_status(204);
    stays(Duration::from_millis(700), || world.issuer().count()).await;

    post(&world, &chosen("user-2")).await.expect_status(204);
    eventually("the token of the new user", || async {
        world.get("/").await.expect_status(200);
        (world.upstream().last().bearer() == Some("token-2")).then_some(())
    })
    .await;
    assert_eq!(users(&world), ["user-1", "user-2"]);
}

#[tokio::test]
async fn the_learned_user_outlives_a_restart() {
    let setup = seismic().await;
    let folder = setup.shared_folder();
    let mut world = learned(setup, "user-1").await;
    assert!(world.proxy.stop().await.success());
    let again = Bearerd::start(folder, &[]).await;
    again.ready().await;
    again.get("/").await.expect_status(200);
    assert_eq!(users(&world), ["user-1", "user-1"]);
    let status = webhook_status(&again).await;
    assert!(status["has_value"] == true && status["received_at"].is_string(), "{status}");
}

#[tokio::test]
async fn a_request_with_a_wrong_signature_changes_nothing_and_is_reported() {
    let world = learned(seismic().await, "user-1").await;
    let body = payload("user-evil");
    let of_another_body = hex(SIGNING, &payload("user-1"));
    for (call, words) in [
        (unsigned(body.clone()), "x-seismic-signature is missing"),
        (signed_by("guess", body.clone()), "fits none of the secrets"),
        (unsigned(body.clone()).header("x-seismic-signature", &of_another_body), "fits none of the secrets"),
        (unsigned(body.clone()).header("x-seismic-signature", "nonsense"), "64 hex digits"),
        (unsigned(body.clone()).header("x-seismic-signature-old", ""), "64 hex digits"),
    ] {
        let response = post(&world, &call).await;
        response.expect_status(401);
        assert_eq!(response.header("content-type"), Some("application/problem+json"));
        let detail = response.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(words), "{detail}");
        let refusal = webhook_status(&world).await["last_refusal"]["detail"].clone();
        assert!(refusal.as_str().unwrap().contains(words), "{refusal}");
    }
    world
        .log()
        .wait("the refusal", |line| line.contains("refused a request") && line.contains("seismic"))
        .await;
    stays(Duration::from_millis(500), || world.issuer().count()).await;
    assert_eq!(users(&world), ["user-1"]);
    assert!(!world.log().text().contains(&of_another_body));
}

#[tokio::test]
async fn only_post_to_the_path_is_taken() {
    let world = seismic().await.start().await;
    for (method, path, status) in
        [("GET", "/seismic", 405), ("HEAD", "/seismic", 405), ("PUT", "/seismic", 405), ("POST", "/", 404)]
    {
        let address = address_of(&world, "seismic").await;
        let response = Client::tcp(address).await.exchange(&RawRequest::new(method, path)).await;
        assert_eq!(response.status, status, "{method} {path}");
        assert_eq!(response.header("allow"), (status == 405).then_some("POST"));
    }
}

#[tokio::test]
async fn while_the_secret_changes_either_one_is_taken_in_either_header() {
    let world = learned(seismic().await, "user-0").await;
    let (current, previous) = ("next-signing-secret", SIGNING);
    world.file("signing", current);
    world.file("signing-old", previous);
    let calls = [
        ("user-1", current, "x-seismic-signature", false),
        ("user-2", previous, "x-seismic-signature", true),
        ("user-3", previous, "x-seismic-signature-old", false),
        ("user-4", current, "x-seismic-signature-old", true),
    ];
    for (user, secret, header, upper) in calls {
        let body = payload(user);
        let signature = hex(secret, &body);
        let signature = if upper { signature.to_uppercase() } else { signature };
        post(&world, &unsigned(body).header(header, &signature)).await.expect_status(204);
    }
    let both = payload("user-5");
    let (bad, good) = (hex("guess", &both), hex(current, &both));
    let call = unsigned(both).header("x-seismic-signature", &bad).header("x-seismic-signature", &good);
    post(&world, &call).await.expect_status(204);
    // The change is over: who still has the old one is nobody.
    world.file("signing-old", "something-else");
    post(&world, &signed_by(previous, payload("user-6"))).await.expect_status(401);
    eventually("the last user", || async {
        world.get("/").await;
        (users(&world).last().map(String::as_str) == Some("user-5")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_a_secret_every_request_is_to_come_again_and_the_log_says_why() {
    let setup = seismic().await;
    std::fs::remove_file(setup.folder().join("signing")).unwrap();
    let world = setup.start().await;
    let response = post(&world, &chosen("user-1")).await;
    response.expect_status(503);
    let folder = world.folder().display().to_string();
    assert!(!response.text().contains(&folder), "{}", response.text());
    world.log().wait("the missing file", |line| line.contains("signing: no such file")).await;
    world.file("signing", SIGNING);
    post(&world, &chosen("user-1")).await.expect_status(204);
}

#[tokio::test]
async fn a_broken_store_is_reported_and_fixed_by_the_next_request() {
    let setup = seismic().await;
    setup.file("seismic.json", "{\"value\":\"canary-half");
    let world = setup.start().await;
    let response = world.get("/").await;
    response.expect_problem(503, "token_unavailable");
    let told = response.json()["detail"].as_str().unwrap().to_owned();
    let ready = world.admin("/readyz").await.text();
    let status = webhook_status(&world).await;
    for text in [told.as_str(), &ready, status["problem"].as_str().unwrap()] {
        assert!(text.contains("webhook seismic") && text.contains("is not JSON"), "{text}");
        assert!(!text.contains("canary-half"), "{text}");
    }
    assert_eq!(status["has_value"], false);
    post(&world, &chosen("user-1")).await.expect_status(204);
    world.ready().await;
    assert_eq!(users(&world), ["user-1"]);
}

#[tokio::test]
async fn a_store_that_breaks_while_it_runs_leaves_the_learned_user_in_use() {
    let setup = seismic().await;
    setup.issuer.always(|_, n| RawResponse::brief_token(n));
    let world = learned(setup, "user-1").await;
    world.file("seismic.json", "");
    let before = world.issuer().count();
    eventually("two more fetches", || async {
        world.get("/").await.expect_status(200);
        (world.issuer().count() >= before + 2).then_some(())
    })
    .await;
    assert!(users(&world).iter().all(|user| user == "user-1"));
    assert!(webhook_status(&world).await["problem"].is_string());
}

#[tokio::test]
async fn a_store_that_cannot_be_written_makes_the_sender_come_again() {
    let world = seismic().await.start().await;
    let path = world.folder().join("seismic.json");
    std::fs::create_dir(&path).unwrap();
    post(&world, &chosen("user-1")).await.expect_status(500);
    world.log().wait("what to do", |line| line.contains("is a folder; name a file")).await;
    std::fs::remove_dir(&path).unwrap();
    post(&world, &chosen("user-1")).await.expect_status(204);
    world.ready().await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_and_the_sender_can_read_so() {
    let world = seismic().await.start().await;
    let call = signed_by(SIGNING, vec![b' '; 600 * 1024]);
    post(&world, &call).await.expect_status(413);
    let mut client = Client::tcp(address_of(&world, "seismic").await).await;
    let head = "POST /seismic HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nx-seismic-signature: ";
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let request = format!("{head}{}\r\n\r\n{chunk}{chunk}0\r\n\r\n", hex(SIGNING, b""));
    client.wire.send(request).await.unwrap();
    client.response_to("POST").await.expect_status(413);
}

#[tokio::test]
async fn a_request_that_is_not_complete_in_ten_seconds_is_given_up() {
    let world = seismic().await.start().await;
    let mut client = Client::tcp(address_of(&world, "seismic").await).await;
    let began = Instant::now();
    let call = chosen("user-1").bytes("x");
    client.wire.send(&call[..call.len() - 1]).await.unwrap();
    let response = client.response_to("POST").await;
    response.expect_status(408);
    assert!(began.elapsed() > Duration::from_secs(9), "{:?}", began.elapsed());
}

#[tokio::test]
async fn connections_that_are_held_do_not_keep_the_sender_out() {
    let world = seismic().await.start().await;
    let address = address_of(&world, "seismic").await;
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    post(&world, &chosen("user-1")).await.expect_status(204);
}

#[tokio::test]
async fn one_connection_carries_one_request() {
    let world = seismic().await.start().await;
    let mut client = Client::tcp(address_of(&world, "seismic").await).await;
    let two = [chosen("user-1").bytes("x"), chosen("user-smuggled").bytes("x")].concat();
    client.wire.send(two).await.unwrap();
    let first = client.response_to("POST").await;
    first.expect_status(204);
    assert_eq!(first.header("connection"), Some("close"));
    assert!(client.response_or_end().await.is_none());
    world.ready().await;
    assert_eq!(users(&world), ["user-1"]);
}

#[tokio::test]
async fn requests_at_the_same_time_leave_one_of_their_users_whole() {
    let world = seismic().await.start().await;
    let names: Vec<String> = (0..20).map(|n| format!("user-{n}-{}", "x".repeat(n * 50))).collect();
    let calls: Vec<RawRequest> = names.iter().map(|name| chosen(name)).collect();
    let responses = futures_util::future::join_all(calls.iter().map(|call| post(&world, call))).await;
    assert!(responses.iter().all(|answer| answer.status == 204));
    world.ready().await;
    let text = std::fs::read_to_string(world.folder().join("seismic.json")).unwrap();
    let stored: Value = serde_json::from_str(&text).unwrap();
    assert!(names.contains(&stored["value"].as_str().unwrap().to_owned()), "{stored}");
    eventually("the stored user in use", || async {
        world.get("/").await;
        (users(&world).last().map(String::as_str) == stored["value"].as_str()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn no_output_holds_a_signing_secret_a_signature_or_a_value() {
    let world = learned(seismic().await, "canary-user-1").await;
    let forged = signed_by("guess", payload("canary-user-2"));
    post(&world, &forged).await.expect_status(401);
    post(&world, &signed_by(SIGNING, b"{\"delegationUserId\":[\"canary-user-3\"]}".to_vec()))
        .await
        .expect_status(422);
    post(&world, &signed_by(SIGNING, b"{canary-user-4".to_vec())).await.expect_status(422);
    post(&world, &chosen("canary-user-5")).await.expect_status(204);
    world.get("/").await.expect_status(200);
    // The second one of a kind is not logged so soon after the first.
    world.log().wait("the refusal", |line| line.contains("neither a string nor a number")).await;
    let told = webhook_status(&world).await["last_refusal"]["detail"].clone();
    assert!(told.as_str().unwrap().contains("is not JSON"), "{told}");
    let mut outputs = vec![world.log().text()];
    for target in ["/status", "/", "/readyz?verbose", "/metrics"] {
        outputs.push(world.admin(target).await.text());
    }
    for output in outputs {
        for never in [SIGNING, "canary-user", &hex(SIGNING, &payload("canary-user-1"))] {
            assert!(!output.contains(never), "{never} in {output}");
        }
    }
}

#[tokio::test]
async fn webhooks_come_go_and_change_with_a_reload() {
    let mut world = learned(seismic().await, "user-1").await;
    let address = address_of(&world, "seismic").await;
    // Another rule, the same socket.
    world.change(|text| text.replace("/delegationUserId", "/userId"));
    world.reload().await;
    post(&world, &chosen("unheard")).await.expect_status(204);
    eventually("the admin", || async {
        world.get("/").await;
        (users(&world).last().map(String::as_str) == Some("admin-of-the-tenant")).then_some(())
    })
    .await;
    assert_eq!(address_of(&world, "seismic").await, address);
    // One more.
    let more = WEBHOOK.replace("webhook.seismic", "webhook.other").replace("seismic.json", "other.json");
    world.change(|text| format!("{text}{more}"));
    world.reload().await;
    let other = address_of(&world, "other").await;
    Client::tcp(other).await.exchange(&chosen("user-3")).await.expect_status(204);
    Client::tcp(address).await.exchange(&chosen("user-3")).await.expect_status(204);
    assert_eq!(world.status().await["webhooks"].as_array().unwrap().len(), 2);
    // And gone.
    world.change(|text| text.replace(&more, ""));
    world.reload().await;
    eventually("the other one to close", || async {
        tokio::net::TcpStream::connect(other).await.is_err().then_some(())
    })
    .await;
    Client::tcp(address).await.exchange(&chosen("user-4")).await.expect_status(204);
}

#[tokio::test]
async fn a_taken_address_is_69_and_leaves_a_reload_without_effect() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let at = |text: &str| {
        text.replace("address = \"127.0.0.1:0\"\npath", &format!("address = \"{address}\"\npath"))
    };
    let mut world = learned(seismic().await, "user-1").await;
    world.change(|text| at(&text));
    world.reload().await;
    assert_eq!(world.metric("bearerd_config_last_reload_successful", &[]).await, Some(0.0));
    post(&world, &chosen("user-2")).await.expect_status(204);
    assert!(world.proxy.stop().await.success());
    let output = run(world.folder(), &["run", "--config", "bearerd.toml"]).await;
    output.expect_code(69);
    assert!(output.stderr.contains(&address), "{}", output.stderr);
}

#[tokio::test]
async fn a_request_in_progress_at_sigterm_gets_its_response() {
    let mut world = seismic().await.start().await;
    let mut client = Client::tcp(address_of(&world, "seismic").await).await;
    let call = chosen("user-1").bytes("x");
    let (first, rest) = call.split_at(call.len() - 10);
    client.wire.send(first).await.unwrap();
    let address = address_of(&world, "seismic").await;
    // Seen by the server before the end begins: its connections are accepted in order.
    Client::tcp(address).await.exchange(&RawRequest::get("/")).await.expect_status(404);
    world.signal(rustix::process::Signal::TERM);
    eventually("the address to close", || async {
        tokio::net::TcpStream::connect(address).await.is_err().then_some(())
    })
    .await;
    client.wire.send(rest).await.unwrap();
    client.response_to("POST").await.expect_status(204);
    assert!(world.proxy.exit().await.success());
    assert!(world.folder().join("seismic.json").exists());
}

#[tokio::test]
async fn a_webhook_may_listen_on_a_unix_socket() {
    let setup = seismic().await;
    let text = setup.config().replace("127.0.0.1:0\"\npath", "unix:{folder}/hook.sock\"\npath");
    let world = setup.whole(&text).start().await;
    let socket: PathBuf = world.folder().join("hook.sock");
    Client::unix(&socket).await.exchange(&chosen("user-1")).await.expect_status(204);
    world.ready().await;
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
}

/// The documented payload of another tenant or time.
fn payload_with(user: &str, member: &str, value: Value) -> Vec<u8> {
    let mut payload: Value = serde_json::from_slice(&payload(user)).unwrap();
    payload[member] = value;
    payload.to_string().into_bytes()
}

#[tokio::test]
async fn payloads_of_others_are_acknowledged_and_not_kept() {
    let webhook = format!("{WEBHOOK}only = {{ \"/tenant\" = \"acme\", \"/version\" = \"1\" }}\n");
    let issuer = "preset = \"seismic\"\nvars = { tenant = \"acme\" }\n";
    let setup = Setup::new().await.issuer(issuer).more(&webhook);
    setup.file("signing", SIGNING);
    let world = learned(setup, "ours").await;
    for other in [
        payload_with("theirs", "tenant", json!("umbrella")),
        payload_with("theirs", "tenant", json!(null)),
        payload_with("theirs", "version", json!(2)),
        br#"{"delegationUserId":"theirs"}"#.to_vec(),
    ] {
        post(&world, &signed_by(SIGNING, other.clone())).await.expect_status(204);
        // A signature is needed nevertheless.
        post(&world, &signed_by("another", other)).await.expect_status(401);
    }
    world.log().wait("that it was not kept", |line| line.contains("webhook.ignored")).await;
    post(&world, &chosen("ours-2")).await.expect_status(204);
    eventually("the next user", || async { (users(&world).last()? == "ours-2").then_some(()) }).await;
    assert!(!users(&world).iter().any(|user| user == "theirs"), "{:?}", users(&world));
}

#[tokio::test]
async fn a_recorded_request_that_is_sent_again_does_not_replace_a_newer_value() {
    let setup = seismic().await;
    let recorded = chosen("first");
    let world = learned(setup, "first").await;
    let later = payload_with("second", "timestamp", json!(1_700_000_060));
    post(&world, &signed_by(SIGNING, later)).await.expect_status(204);
    eventually("the second user", || async { (users(&world).last()? == "second").then_some(()) }).await;
    post(&world, &recorded).await.expect_status(204);
    world.log().wait("why", |line| line.contains("it is older than the stored value")).await;
    let before = users(&world);
    // Milliseconds are another way to write a later time.
    let latest = payload_with("third", "timestamp", json!(1_700_000_061_000_u64));
    post(&world, &signed_by(SIGNING, latest)).await.expect_status(204);
    eventually("the third user", || async { (users(&world).last()? == "third").then_some(()) }).await;
    assert!(!users(&world)[before.len()..].iter().any(|user| user == "first"), "{:?}", users(&world));
}
