//! A canary run: many failures at the most talkative level, and then a search for everything that may not be seen.

use std::path::Path;

use base64::Engine;

use crate::support::h2::{H2Client, whole};
use crate::support::{
    RawRequest, RawResponse, Recorded, Response, Scripted, Setup, World, cli, eventually, within,
};

/// What no log, page, metric or error may show.
const CANARIES: [&str; 11] = [
    "canary-client-secret",
    "canary-rotated-secret",
    "canary-token-one",
    "canary-token-two",
    "canary-token-three",
    "canary-collector-key",
    "canary-param",
    "canary-set-header",
    "canary-caller-authorization",
    "canary-query-value",
    "canary-header-value",
];

fn forms(canary: &str) -> Vec<String> {
    let encode =
        |text: &str| base64::engine::general_purpose::STANDARD.encode(text).trim_end_matches('=').to_owned();
    let mut forms = vec![canary.to_owned(), encode(canary), encode(&format!("client-1:{canary}"))];
    // What base64 makes of it depends on where it starts.
    for before in ["x", "xx"] {
        let shifted = encode(&format!("{before}{canary}"));
        forms.push(shifted[4..shifted.len() - 3].to_owned());
    }
    forms
}

#[track_caller]
fn expect_none(place: &str, text: &str) {
    for canary in CANARIES {
        for form in forms(canary) {
            if let Some(at) = text.find(&form) {
                let from = text[..at].char_indices().rev().nth(200).map_or(0, |(index, _)| index);
                panic!("{canary} is in {place}: …{}", &text[from..at + form.len()]);
            }
        }
    }
}

/// A JWT whose claims hand the client's own secret back, as an issuer may write them that knows no better.
fn telltale(request: &Recorded) -> RawResponse {
    let basic = request.header("authorization").unwrap_or_default().trim_start_matches("Basic ");
    let known = base64::engine::general_purpose::STANDARD.decode(basic).unwrap_or_default();
    let known = String::from_utf8_lossy(&known).replace("client-1:", "");
    let claims =
        serde_json::json!({ "aud": ["https://api.example", known, "canary-param", "canary-token-three"] });
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims.to_string());
    RawResponse::token_for(&format!("e30.{claims}.canary-token-three"), 1)
}

/// What a service manager sees, to the end.
fn hear(path: &Path) -> tokio::task::JoinHandle<String> {
    let socket = std::os::unix::net::UnixDatagram::bind(path).unwrap();
    tokio::task::spawn_blocking(move || {
        let (mut heard, mut buffer) = (String::new(), vec![0; 4096]);
        while !heard.contains("STOPPING=1") {
            let length = socket.recv(&mut buffer).unwrap();
            heard.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        heard
    })
}

async fn scene(format: &str, collector: &Scripted) -> (World, tokio::task::JoinHandle<String>) {
    let setup = Setup::new().await;
    setup.file("collector-key", "canary-collector-key");
    setup.file("secret", "canary-client-secret\n");
    setup.file("param", "canary-param");
    setup.file("set", "canary-set-header");
    setup.issuer.always(|request, n| match n % 5 {
        1 => RawResponse::token_for("canary-token-one", 1),
        2 => {
            // An issuer that says everything back.
            let said = format!("{} {}", request.text(), request.header("authorization").unwrap_or_default());
            let body = serde_json::json!({ "error": "server_error", "error_description": said });
            RawResponse::status(500).body(body.to_string())
        }
        3 => RawResponse::ok("{\"access_token\": \"canary-token-two\", \"token_type\": \"mac\"}"),
        4 => RawResponse::token_for("canary-token-two", 1),
        _ => telltale(request),
    });
    setup.upstream.always(|request, n| match n % 6 {
        0 | 1 => RawResponse::unauthorized(),
        2 => RawResponse::raw("HTTP/1.1 canary nonsense\r\n\r\n").then_close(),
        3 => RawResponse::drop(),
        4 => RawResponse::status(500).body("oops"),
        _ => RawResponse::ok(request.target().len().to_string()),
    });
    let notify = setup.folder().join("notify.sock");
    let heard = hear(&notify);
    let world = setup
        .env("NOTIFY_SOCKET", notify.to_str().unwrap())
        .more(&format!(
            "[tracing]\nendpoint = \"{}\"\nheaders = {{ x-key = {{ file = \"collector-key\" }} }}",
            collector.url
        ))
        .log(&format!("format = \"{format}\"\nlevel = \"trace\""))
        .issuer("params = { audience = { file = \"param\" } }\ndefault_lifetime = \"1s\"")
        .route("request_headers = { set = { x-api-key = { file = \"set\" } } }")
        .start()
        .await;
    (world, heard)
}

fn request(n: usize) -> RawRequest {
    let method = ["GET", "POST", "PUT", "DELETE"][n % 4];
    let target =
        if n.is_multiple_of(11) { "/a/../b?q=canary-query-value" } else { "/a?q=canary-query-value" };
    let mut request = RawRequest::new(method, target)
        .header("Authorization", "Bearer canary-caller-authorization")
        .header("X-Private", "canary-header-value")
        .header("Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .header("Tracestate", "vendor=canary-header-value")
        .header("Cookie", "session=canary-header-value");
    if n.is_multiple_of(13) {
        request = request.host("evil.test");
    }
    if n.is_multiple_of(17) {
        request = request.header("Origin", "https://evil.test");
    }
    if method == "POST" { request.body("canary-header-value") } else { request }
}

async fn storm(world: &World) -> Vec<Response> {
    let mut responses = Vec::new();
    for n in 0..120 {
        let mut client = world.connect().await;
        client.send(&request(n)).await;
        if let Some(response) = client.response_or_end().await {
            responses.push(response);
        }
    }
    let mut h2 = H2Client::plain(world.address("main")).await;
    for _ in 0..20 {
        let request = h2
            .request("GET", "/a?q=canary-query-value")
            .header("authorization", "Bearer canary-caller-authorization")
            .header("content-type", "application/grpc")
            .body(whole(""))
            .unwrap();
        let response = h2.exchange(request).await;
        expect_none("an HTTP/2 response", &format!("{:?} {}", response.headers, response.text()));
    }
    responses
}

#[tokio::test]
async fn no_secret_and_no_token_is_in_any_log_error_metric_status_or_page() {
    for format in ["json", "text"] {
        let collector = Scripted::upstream().await;
        // A collector that says everything back, too.
        collector.always(|request, n| {
            let said = request.header("x-key").unwrap_or_default().to_owned();
            if n.is_multiple_of(2) {
                RawResponse::status(400).header("x-said", &said).body(said)
            } else {
                RawResponse::ok("")
            }
        });
        let (mut world, heard) = scene(format, &collector).await;
        let mut responses = storm(&world).await;
        world.file("secret", "canary-rotated-secret\n");
        let before = world.issuer().count();
        eventually("token requests with the new secret", || async {
            let _answered = world.get("/a?q=canary-query-value").await;
            (world.issuer().count() >= before + 4).then_some(())
        })
        .await;
        responses.extend(storm(&world).await);
        world.change(|text| format!("wrong = \"canary-header-value\"\n{text}"));
        world.reload().await;
        for target in ["/livez", "/readyz", "/metrics", "/status", "/", "/nowhere?canary-query-value"] {
            responses.push(world.admin(target).await);
        }
        for response in &responses {
            expect_none("a response", &String::from_utf8_lossy(&response.head.raw));
            expect_none("a response", &response.text());
        }
        assert_eq!(world.proxy.stop().await.code(), Some(0));
        let log = world.log().text();
        expect_none("the log", &log);
        for told in ["the upstream refuses a token that was just issued", "spans did not reach the collector"]
        {
            assert!(log.contains(told), "{told}");
        }
        expect_none("what the service manager hears", &within("its end", heard).await.unwrap());
        assert!(collector.count() > 2);
        for request in collector.requests() {
            assert_eq!(request.header("x-key"), Some("canary-collector-key"));
            expect_none("an export", &String::from_utf8_lossy(&request.body.data));
        }
        assert!(world.log().lines().len() > 100, "the log is talkative");
    }
}

#[tokio::test]
async fn no_secret_is_in_what_the_verbs_print() {
    let setup = Setup::new().await;
    setup.file("secret", "canary-client-secret");
    setup.file("param", "canary-param");
    setup.issuer.always_this(RawResponse::oauth_error(401, "invalid_client"));
    let setup = setup.issuer("params = { audience = { file = \"param\" } }");
    setup.write();
    for args in [
        &["check"][..],
        &["check", "--output", "json"],
        &["check", "--online"],
        &["check", "--online", "--output", "json", "--log-level", "trace"],
        &["explain", "GET", "http://localhost/?q=canary-query-value"],
        &["token", "corp", "--log-level", "trace"],
        &["token", "corp", "--decode"],
    ] {
        let output = cli::run(setup.folder(), args).await;
        // `explain` shows its own caller the target that would be sent.
        let said = output.all().replace("canary-query-value", "");
        expect_none(&args.join(" "), &said);
    }
}

#[tokio::test]
async fn callers_cannot_write_into_the_log() {
    for format in ["json", "text"] {
        let world =
            Setup::new().await.log(&format!("format = \"{format}\"\nlevel = \"trace\"")).start().await;
        world.exchange(RawRequest::get("/%1b[2J").header("User-Agent", "x\u{1b}[31m")).await;
        world.exchange(RawRequest::get("/").header("X-Request-Id", "a\u{1b}[2J{\"fake\":1}")).await;
        world.exchange(RawRequest::get("/a%0a{\"fake\":1}")).await;
        world.get("/done").await.expect_status(200);
        for line in world.log().lines() {
            assert!(!line.contains('\u{1b}'), "{line:?}");
            assert!(!line.starts_with("{\"fake\""), "{line}");
        }
    }
}

#[tokio::test]
async fn access_log_has_a_line_a_request_without_query_and_can_be_turned_off() {
    let world = Setup::new().await.start().await;
    world
        .exchange(RawRequest::get("/path?query=1").header("X-Request-Id", "the-call"))
        .await
        .expect_status(200);
    let line =
        world.log().wait("the request", |line| line.contains("the-call") && line.contains("access")).await;
    assert!(line.contains("api") && line.contains("200"), "{line}");
    assert!(!line.contains("query=1"), "{line}");
    let world = Setup::new().await.log("level = \"info\"\naccess = false").start().await;
    world.exchange(RawRequest::get("/").header("X-Request-Id", "the-call")).await.expect_status(200);
    world.get("/").await.expect_status(200);
    assert!(!world.log().text().contains("the-call"));
}
