//! The proxy's own errors: each code of the table, and their form.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::support::client::Client;
use crate::support::frames::{Frames, HEADERS};
use crate::support::h2::{H2Client, whole};
use crate::support::setup::SECRET;
use crate::support::{Gate, RawRequest, RawResponse, Response, Setup, World, let_pass, nobody};

async fn start() -> World {
    Setup::new().await.start().await
}

/// All that every problem has in common.
#[track_caller]
fn expect_form(response: &Response, status: u16, code: &str) {
    response.expect_problem(status, code);
    let problem = response.json();
    assert_eq!(problem["status"], status);
    for member in ["type", "title", "detail", "request_id"] {
        let text = problem[member].as_str().unwrap_or_else(|| panic!("{member} in {problem}"));
        assert!(!text.is_empty(), "{member} in {problem}");
    }
    let request_id = problem["request_id"].as_str();
    assert_eq!(response.header("x-request-id"), request_id);
    let proxy_status = response.header("proxy-status").expect("Proxy-Status");
    assert!(proxy_status.starts_with("bearerd;") || proxy_status == "bearerd", "{proxy_status}");
}

#[tokio::test]
async fn problem_names_route_and_issuer_where_they_are_known() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::oauth_error(400, "invalid_scope"));
    let world = setup.start().await;
    let response = world.get("/").await;
    expect_form(&response, 502, "token_refused");
    assert_eq!(response.json()["route"], "api");
    assert_eq!(response.json()["issuer"], "corp");
}

#[tokio::test]
async fn error_without_a_route_names_none() {
    let world = Setup::new().await.route("path = \"/only\"").start().await;
    let response = world.get("/elsewhere").await;
    expect_form(&response, 404, "no_route");
    assert!(response.json().get("route").is_none_or(serde_json::Value::is_null), "{}", response.text());
}

/// Over HTTP/2 a body after the head of a response to HEAD is an error of the protocol.
#[tokio::test]
async fn errors_of_ours_have_no_body_in_a_response_to_head() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::oauth_error(400, "invalid_scope"));
    let world = setup.route("path_prefix = \"/api\"").start().await;
    for (path, status) in [("/nowhere", 404), ("/api", 502), ("/a/../b", 400)] {
        let response = world.exchange(RawRequest::new("HEAD", path)).await;
        response.expect_status(status);
        let length = response.header("content-length").expect("the length of the body").to_owned();

        let mut frames = Frames::connect(world.address("main")).await;
        let fields = [(":method", "HEAD"), (":scheme", "http"), (":authority", "localhost"), (":path", path)];
        frames.request(1, &fields, None).await;
        let head = frames.next(1).await;
        assert_eq!((head.kind, head.ends_stream()), (HEADERS, true), "{path}");

        let mut client = H2Client::plain(world.address("main")).await;
        let request = client.request("HEAD", path).body(whole("")).unwrap();
        let response = client.exchange(request).await;
        assert_eq!(
            (response.status, response.header("content-length")),
            (status, Some(length.as_str())),
            "{path}"
        );
    }
}

#[tokio::test]
async fn bad_request_is_400() {
    expect_form(&start().await.get("/a/../b").await, 400, "bad_request");
}

#[tokio::test]
async fn authorization_refused_is_400() {
    let world = Setup::new().await.route("caller_authorization = \"reject\"").start().await;
    let response = world.exchange(RawRequest::get("/").header("authorization", "Bearer mine")).await;
    expect_form(&response, 400, "authorization_refused");
    assert!(!response.text().contains("mine"));
    world.get("/").await.expect_status(200);
}

#[tokio::test]
async fn caller_refused_is_403() {
    let response = start().await.exchange(RawRequest::get("/").header("origin", "https://evil.test")).await;
    expect_form(&response, 403, "caller_refused");
}

#[tokio::test]
async fn connect_and_trace_are_405() {
    let world = start().await;
    let connect =
        Client::tcp(world.address("main")).await.exchange(&RawRequest::new("CONNECT", "evil.test:443")).await;
    expect_form(&connect, 405, "method_refused");
    let trace = world.exchange(RawRequest::new("TRACE", "/")).await;
    expect_form(&trace, 405, "method_refused");
    assert!(trace.header("allow").unwrap().contains("GET"));
    assert_eq!(world.upstream().count(), 0);
}

#[tokio::test]
async fn misdirected_is_421() {
    expect_form(&start().await.exchange(RawRequest::get("/").host("evil.test")).await, 421, "misdirected");
}

#[tokio::test]
async fn token_refused_is_502() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::oauth_error(401, "invalid_client"));
    let world = setup.start().await;
    expect_form(&world.get("/").await, 502, "token_refused");
    assert_eq!(world.upstream().count(), 0);
}

#[tokio::test]
async fn token_unavailable_is_503_with_retry_after() {
    for answer in [RawResponse::status(500), RawResponse::status(503), RawResponse::status(429)] {
        let setup = Setup::new().await;
        setup.issuer.always_this(answer);
        let world = setup.start().await;
        let response = world.get("/").await;
        expect_form(&response, 503, "token_unavailable");
        let seconds: u64 = response.header("retry-after").expect("Retry-After").parse().unwrap();
        assert!((1..=60).contains(&seconds), "{seconds}");
        assert_eq!(world.upstream().count(), 0);
    }
}

#[tokio::test]
async fn issuer_out_of_reach_is_token_unavailable() {
    let setup = Setup::new().await;
    let nobody = nobody();
    let world = setup.issuer(&format!("token_url = \"http://{nobody}/token\"")).start().await;
    let response = world.get("/").await;
    expect_form(&response, 503, "token_unavailable");
    assert!(response.header("retry-after").is_some());
}

#[tokio::test]
async fn token_timeout_is_504() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::hang());
    let world = setup.issuer("timeout = \"500ms\"").start().await;
    expect_form(&world.get("/").await, 504, "token_timeout");
}

#[tokio::test]
async fn upstream_unreachable_is_502() {
    let nobody = nobody();
    let world = Setup::new().await.route(&format!("upstream = \"http://{nobody}\"")).start().await;
    let response = world.get("/").await;
    expect_form(&response, 502, "upstream_unreachable");
    assert_eq!(response.json()["route"], "api");
    assert!(response.header("proxy-status").unwrap().contains("error="));
}

#[tokio::test]
async fn upstream_whose_name_is_unknown_is_502() {
    let world = Setup::new().await.route("upstream = \"https://nowhere.invalid\"").start().await;
    expect_form(&world.get("/").await, 502, "upstream_unreachable");
}

#[tokio::test]
async fn upstream_that_talks_nonsense_is_502() {
    for nonsense in [
        &b"hello\r\n\r\n"[..],
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n",
    ] {
        let setup = Setup::new().await;
        setup.upstream.always_this(RawResponse::raw(nonsense).then_close());
        let world = setup.start().await;
        expect_form(&world.get("/").await, 502, "upstream_invalid");
    }
}

#[tokio::test]
async fn upstream_that_closes_without_a_response_is_502() {
    let setup = Setup::new().await;
    setup.upstream.always_this(RawResponse::drop());
    let world = setup.start().await;
    let response = world.exchange(RawRequest::post("/", "x")).await;
    assert_eq!(response.status, 502, "{}", response.text());
    let code = response.code().unwrap();
    assert!(code == "upstream_invalid" || code == "upstream_unreachable", "{code}");
}

#[tokio::test]
async fn upstream_timeout_is_504() {
    let setup = Setup::new().await;
    setup.upstream.always_this(RawResponse::hang());
    let world = setup.route("response_timeout = \"300ms\"").start().await;
    expect_form(&world.get("/").await, 504, "upstream_timeout");
}

#[tokio::test]
async fn response_timeout_counts_to_the_headers_alone() {
    let setup = Setup::new().await;
    let gate = Gate::new();
    let slow = RawResponse::raw("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab").then_gated(&gate, "cd");
    setup.upstream.always_this(slow);
    let world = setup.route("response_timeout = \"2s\"").start().await;
    let mut client = world.connect().await;
    client.send(&RawRequest::get("/")).await;
    client.head().await;
    let_pass(std::time::Duration::from_secs(3)).await;
    gate.open();
    assert_eq!(client.wire.exact(4).await.unwrap(), b"abcd");
}

#[tokio::test]
async fn overloaded_is_503() {
    let setup = Setup::new().await;
    let gate = Gate::new();
    setup.issuer.always_this(RawResponse::token("late").gated(&gate));
    let world = setup.limits("waiters = 1").start().await;
    let mut first = world.connect().await;
    first.send(&RawRequest::get("/")).await;
    let waiting = || async { (world.metric("bearerd_token_waiters", &[]).await == Some(1.0)).then_some(()) };
    crate::support::eventually("one waiter", waiting).await;
    expect_form(&world.get("/").await, 503, "overloaded");
    gate.open();
    first.response().await.expect_status(200);
}

#[tokio::test]
async fn parser_refusals_have_no_body() {
    let world = start().await;
    for (bytes, statuses) in [
        (&b"GET / HTTP/1.1\r\nHost: localhost\r\nbad name: x\r\n\r\n"[..], &[400][..]),
        (b"nonsense\r\n\r\n", &[400]),
        (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", &[400, 505]),
    ] {
        let mut client = world.connect().await;
        client.wire.send(bytes).await.unwrap();
        let response = client.response().await;
        assert!(statuses.contains(&response.status), "{}", response.head.start);
        assert_eq!(response.body.data, b"");
    }
}

#[tokio::test]
async fn issuers_description_is_in_detail_without_control_characters_and_cut() {
    let (world, detail) = described(&format!("no \u{1b}[31m\u{7} {}", "x".repeat(2000))).await;
    assert!(detail.contains("invalid_scope (no  [31m  xxxx"), "{detail}");
    assert!(!detail.chars().any(char::is_control), "{detail:?}");
    assert!(detail.matches('x').count() <= 512, "{detail}");
    let ready = world.admin("/readyz").await.text();
    assert!(ready.contains("responded 400 invalid_scope; check scopes of [issuer.corp]"), "{ready}");
    assert!(!ready.contains("xxxx"), "{ready}");
}

#[tokio::test]
async fn a_description_that_holds_any_form_of_the_secret_is_left_out_as_a_whole() {
    let encoded = STANDARD.encode(format!("client-1:{SECRET}"));
    for form in [SECRET.to_owned(), SECRET.replace('-', "%252D"), SECRET.replace('-', " -\n"), encoded] {
        let (world, detail) = described(&format!("you sent {form}, which is wrong")).await;
        let expected = "responded 400 invalid_scope (its text contains a secret and is not shown); check";
        assert!(detail.contains(expected), "{detail}");
        let everything = world.log().text() + &world.admin("/status").await.text();
        assert!(!everything.contains("which is wrong"), "{everything}");
    }
}

/// The scene with an issuer that describes its refusal so, and what a caller sees.
async fn described(description: &str) -> (World, String) {
    let setup = Setup::new().await;
    let body = serde_json::json!({ "error": "invalid_scope", "error_description": description });
    setup.issuer.always_this(RawResponse::status(400).body(body.to_string()));
    let world = setup.start().await;
    let detail = world.get("/").await.json()["detail"].as_str().unwrap().to_owned();
    (world, detail)
}

#[tokio::test]
async fn same_form_over_http2() {
    let world = Setup::new().await.route("path = \"/only\"").start().await;
    let response = H2Client::plain(world.address("main")).await.get("/elsewhere").await;
    assert_eq!(response.status, 404);
    assert_eq!(response.header("content-type"), Some("application/problem+json"));
    let problem: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(problem["code"], "no_route");
}

async fn grpc_error(world: &World) -> crate::support::h2::H2Response {
    let mut client = H2Client::plain(world.address("main")).await;
    let request =
        client.request("POST", "/pkg.Service/Method").header("content-type", "application/grpc+proto");
    client.exchange(request.header("te", "trailers").body(whole("\0\0\0\0\0")).unwrap()).await
}

/// Trailers-only: gRPC allows the status in the head where nothing else comes.
#[track_caller]
fn expect_grpc(response: &crate::support::h2::H2Response, status: &str, code: &str) {
    assert_eq!(response.status, 200);
    assert_eq!(response.body, "");
    assert!(response.header("content-type").unwrap().starts_with("application/grpc"));
    assert_eq!(response.header("grpc-status"), Some(status));
    assert_eq!(response.header("grpc-message"), Some(code));
}

#[tokio::test]
async fn grpc_request_gets_status_14() {
    let nobody = nobody();
    let world = Setup::new().await.route(&format!("upstream = \"http://{nobody}\"")).start().await;
    expect_grpc(&grpc_error(&world).await, "14", "upstream_unreachable");
}

#[tokio::test]
async fn grpc_request_gets_status_16_where_the_issuer_refused() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::oauth_error(401, "invalid_client"));
    let world = setup.start().await;
    expect_grpc(&grpc_error(&world).await, "16", "token_refused");
}

#[tokio::test]
async fn grpc_request_gets_status_14_where_the_issuer_is_down() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::status(500));
    let world = setup.start().await;
    expect_grpc(&grpc_error(&world).await, "14", "token_unavailable");
}

/// Not "the caller left": that would send its author after the network.
#[tokio::test]
async fn detail_says_that_the_callers_body_is_malformed() {
    let world = Setup::new().await.start().await;
    for body in [
        "-2\r\nok\r\n0\r\n\r\n".to_owned(),
        "zz\r\nok\r\n0\r\n\r\n".to_owned(),
        "0x2\r\nok\r\n0\r\n\r\n".to_owned(),
        "2\nok\n0\n\n".to_owned(),
        "2\r\nokXX0\r\n\r\n".to_owned(),
        "11111111111111111\r\nok\r\n0\r\n\r\n".to_owned(),
        format!("2;{}\r\nok\r\n0\r\n\r\n", "a".repeat(17_000)),
        "2\r\nok\r\n0\r\nbad trailer\r\n\r\n".to_owned(),
    ] {
        let mut client = world.connect().await;
        let head = "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.wire.send(format!("{head}{body}")).await.unwrap();
        let response = client.response().await;
        response.expect_problem(400, "bad_request");
        let detail = response.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.starts_with("the request body is malformed"), "{body:.20?}: {detail}");
    }
}
