//! A canary run: many failures at the most talkative level, and then a search for everything that may not be seen.

use base64::Engine;

use crate::support::h2::{H2Client, whole};
use crate::support::{Answer, Call, Response, Setup, World, cli, eventually};

/// What no log, page, metric or error may show.
const CANARIES: [&str; 9] = [
    "canary-client-secret",
    "canary-rotated-secret",
    "canary-token-one",
    "canary-token-two",
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

async fn scene(format: &str) -> World {
    let setup = Setup::new().await;
    setup.file("secret", "canary-client-secret\n");
    setup.file("param", "canary-param");
    setup.file("set", "canary-set-header");
    setup.issuer.always(|request, n| match n % 4 {
        1 => Answer::token_for("canary-token-one", 1),
        2 => {
            // An issuer that says everything back.
            let said = format!("{} {}", request.text(), request.header("authorization").unwrap_or_default());
            let body = serde_json::json!({ "error": "server_error", "error_description": said });
            Answer::status(500).body(body.to_string())
        }
        3 => Answer::ok("{\"access_token\": \"canary-token-two\", \"token_type\": \"mac\"}"),
        _ => Answer::token_for("canary-token-two", 1),
    });
    setup.upstream.always(|request, n| match n % 5 {
        0 => Answer::unauthorized(),
        1 => Answer::raw("HTTP/1.1 canary nonsense\r\n\r\n").then_close(),
        2 => Answer::drop(),
        3 => Answer::status(500).body("oops"),
        _ => Answer::ok(request.target().len().to_string()),
    });
    setup
        .log(&format!("format = \"{format}\"\nlevel = \"trace\""))
        .issuer("params = { audience = { file = \"param\" } }\ndefault_lifetime = \"1s\"")
        .route("request_headers = { set = { x-api-key = { file = \"set\" } } }")
        .start()
        .await
}

fn call(n: usize) -> Call {
    let method = ["GET", "POST", "PUT", "DELETE"][n % 4];
    let target =
        if n.is_multiple_of(11) { "/a/../b?q=canary-query-value" } else { "/a?q=canary-query-value" };
    let mut call = Call::new(method, target)
        .header("Authorization", "Bearer canary-caller-authorization")
        .header("X-Private", "canary-header-value")
        .header("Cookie", "session=canary-header-value");
    if n.is_multiple_of(13) {
        call = call.host("evil.test");
    }
    if n.is_multiple_of(17) {
        call = call.header("Origin", "https://evil.test");
    }
    if method == "POST" { call.body("canary-header-value") } else { call }
}

async fn storm(world: &World) -> Vec<Response> {
    let mut responses = Vec::new();
    for n in 0..120 {
        let mut client = world.connect().await;
        client.send(&call(n)).await;
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
        let response = h2.call(request).await;
        expect_none("an HTTP/2 response", &format!("{:?} {}", response.headers, response.text()));
    }
    responses
}

#[tokio::test]
async fn no_secret_and_no_token_is_in_any_log_error_metric_status_or_page() {
    for format in ["json", "text"] {
        let mut world = scene(format).await;
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
        expect_none("the log", &world.log().text());
        assert!(world.log().lines().len() > 100, "the log is talkative");
    }
}

#[tokio::test]
async fn no_secret_is_in_what_the_verbs_print() {
    let setup = Setup::new().await;
    setup.file("secret", "canary-client-secret");
    setup.file("param", "canary-param");
    setup.issuer.always_this(Answer::oauth_error(401, "invalid_client"));
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
        world.call(Call::get("/%1b[2J").header("User-Agent", "x\u{1b}[31m")).await;
        world.call(Call::get("/").header("X-Request-Id", "a\u{1b}[2J{\"fake\":1}")).await;
        world.call(Call::get("/a%0a{\"fake\":1}")).await;
        world.get("/done").await.expect_status(200);
        for line in world.log().lines() {
            assert!(!line.contains('\u{1b}'), "{line:?}");
            assert!(!line.starts_with("{\"fake\""), "{line}");
        }
    }
}

#[tokio::test]
async fn access_log_has_a_line_a_call_without_query_and_can_be_turned_off() {
    let world = Setup::new().await.start().await;
    world.call(Call::get("/path?query=1").header("X-Request-Id", "the-call")).await.expect_status(200);
    let line =
        world.log().wait("the call", |line| line.contains("the-call") && line.contains("access")).await;
    assert!(line.contains("api") && line.contains("200"), "{line}");
    assert!(!line.contains("query=1"), "{line}");
    let world = Setup::new().await.log("level = \"info\"\naccess = false").start().await;
    world.call(Call::get("/").header("X-Request-Id", "the-call")).await.expect_status(200);
    world.get("/").await.expect_status(200);
    assert!(!world.log().text().contains("the-call"));
}
