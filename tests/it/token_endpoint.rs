//! A token listener (`serve = "token"`): RFC 6749 for programs that want the token itself.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::support::h2::{H2Client, whole};
use crate::support::in_process::InProcess;
use crate::support::server;
use crate::support::{
    Client, Gate, RawRequest, RawResponse, Response, Setup, World, cli, eventually, stays, unix_now,
};

const KEY: &str = "k3y-of-the-gate";
const LISTENER: &str = "[listener.tokens]\naddress = \"127.0.0.1:0\"\nserve = \"token\"\nrequire_header = { name = \"x-caller-key\", value = { file = \"gate\" } }\n";
const OTHER: &str = "[issuer.other]\ntoken_url = \"{issuer}/other\"\nclient_id = \"client-2\"\nclient_secret = { file = \"secret\" }\n";

/// With a token listener beside the scene's own, and these tables.
async fn setup(more: &str) -> Setup {
    let setup = Setup::new().await;
    setup.file("gate", KEY);
    setup.more(&format!("{LISTENER}{more}"))
}

async fn scene(more: &str) -> World {
    setup(more).await.start().await
}

fn keyed(request: RawRequest) -> RawRequest {
    request.header("x-caller-key", KEY)
}

fn form(target: &str, body: &str) -> RawRequest {
    keyed(RawRequest::post(target, body)).header("Content-Type", "application/x-www-form-urlencoded")
}

async fn exchange(world: &World, request: RawRequest) -> Response {
    Client::tcp(world.address("tokens")).await.exchange(&request).await
}

/// A token request with these parameters beside `grant_type`.
async fn ask(world: &World, parameters: &str) -> Response {
    exchange(world, form("/token", &format!("grant_type=client_credentials{parameters}"))).await
}

#[track_caller]
fn expect_error(response: &Response, status: u16, error: &str) -> String {
    response.expect_status(status);
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    assert_eq!(response.header("pragma"), Some("no-cache"));
    let body = response.json();
    assert_eq!(body["error"], error, "{body}");
    let described = body["error_description"].as_str().expect("error_description");
    let allowed = |char| matches!(char, ' ' | '!' | '#'..='[' | ']'..='~');
    assert!(!described.is_empty() && described.chars().all(allowed), "{described}");
    described.to_owned()
}

#[tokio::test]
async fn the_token_of_the_routes_is_handed_out_with_what_is_left_of_it() {
    let world = scene("").await;
    world.ready().await;
    let response = ask(&world, "").await;
    response.expect_status(200);
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    assert_eq!(response.header("pragma"), Some("no-cache"));
    let body = response.json();
    let expires_in = body["expires_in"].as_u64().expect("whole seconds");
    assert!((3500..=3600).contains(&expires_in), "{body}");
    assert_eq!(body, json!({ "access_token": "token-1", "token_type": "Bearer", "expires_in": expires_in }));
    world.get("/").await.expect_status(200);
    assert_eq!(world.upstream().last().bearer(), Some("token-1"));
    assert_eq!(world.issuer().count(), 1, "one token for both");
}

#[tokio::test]
async fn what_is_left_shrinks_and_a_token_in_its_last_seconds_is_not_handed_out() {
    let setup = Setup::new().await;
    setup.issuer.always(|_, n| RawResponse::token_for(&format!("token-{n}"), 100));
    let tokens = "[listener.tokens]\naddress = \"unix:{folder}/token.sock\"\nserve = \"token\"\n";
    let socket = setup.folder().join("token.sock");
    let proxy = InProcess::start(setup.more(tokens)).await;
    let token = || async {
        let response = Client::unix(&socket).await.exchange(&RawRequest::get("/token/corp")).await;
        response.expect_status(200);
        let body = response.json();
        (body["access_token"].as_str().unwrap().to_owned(), body["expires_in"].as_u64().unwrap())
    };
    let (first, left) = token().await;
    assert!(first == "token-1" && (90..=100).contains(&left), "{first} {left}");
    proxy.clock.advance(Duration::from_secs(50));
    let (_, left) = token().await;
    assert!((40..=50).contains(&left), "{left}");
    proxy.clock.advance(Duration::from_secs(46));
    let (next, left) = token().await;
    assert!(next != "token-1" && left > 90, "{next} {left}");
}

#[tokio::test]
async fn a_token_that_only_programs_fetch_is_renewed_behind_the_scenes() {
    let setup = setup("").await;
    setup.issuer.always(|_, n| RawResponse::token_for(&format!("token-{n}"), 3));
    let world = setup.issuer("refresh_at = 0.5").start().await;
    ask(&world, "").await.expect_status(200);
    eventually("a renewal", || async { (world.issuer().count() >= 2).then_some(()) }).await;
}

#[tokio::test]
async fn programs_that_wait_share_one_fetch() {
    let setup = setup("").await;
    let gate = Gate::new();
    setup.issuer.next(RawResponse::token("slow").gated(&gate));
    let world = setup.start().await;
    let (one, other) = tokio::join!(ask(&world, ""), async {
        let waiting = || async { world.metric("bearerd_token_waiters", &[("issuer", "corp")]).await };
        eventually("a waiter", || async { (waiting().await == Some(1.0)).then_some(()) }).await;
        let both = tokio::join!(ask(&world, ""), async {
            eventually("two waiters", || async { (waiting().await == Some(2.0)).then_some(()) }).await;
            gate.open();
        });
        both.0
    });
    assert_eq!(
        (&one.json()["access_token"], &other.json()["access_token"]),
        (&json!("slow"), &json!("slow"))
    );
    assert_eq!(world.issuer().count(), 1);
}

#[tokio::test]
async fn the_issuer_is_named_by_path_parameter_or_client() {
    let setup = setup(OTHER).await;
    setup.issuer.always(|request, _| RawResponse::token(&request.target().replace('/', "of-")));
    let world = setup.start().await;
    let basic = |user: &str| format!("Basic {}", STANDARD.encode(format!("{user}:whatever")));
    let body = "grant_type=client_credentials";
    let token = async |request: RawRequest| {
        let response = exchange(&world, request).await;
        response.expect_status(200);
        response.json()["access_token"].clone()
    };
    for (request, wanted) in [
        (form("/token", &format!("{body}&issuer=other")), "of-other"),
        (form("/token", &format!("{body}&client_id=other&client_secret=x%26y")), "of-other"),
        (form("/token", &format!("{body}&issuer=other&client_id=anything")), "of-other"),
        (form("/token", body).header("Authorization", &basic("other")), "of-other"),
        (
            form("/token", &format!("{body}&client_id=other")).header("Authorization", &basic("other")),
            "of-other",
        ),
        (form("/token/other", body).header("Authorization", &basic("anything")), "of-other"),
        (form("/token/other", &format!("{body}&issuer=other")), "of-other"),
        (form("/token/%6fther", body), "of-other"),
        (form("/token", &format!("{body}&issuer=corp")).header("Authorization", "Bearer x"), "of-token"),
        (keyed(RawRequest::get("/token/other")), "of-other"),
    ] {
        assert_eq!(token(request).await, wanted);
    }
    let none = ask(&world, "").await;
    let described = expect_error(&none, 400, "invalid_request");
    assert!(described.contains("corp, other"), "{described}");
    for (request, status, error) in [
        (form("/token", &format!("{body}&issuer=othre")), 400, "invalid_request"),
        (form("/token", &format!("{body}&client_id=othre")), 400, "invalid_client"),
        (form("/token", body).header("Authorization", &basic("othre")), 401, "invalid_client"),
        (
            form("/token", &format!("{body}&client_id=corp")).header("Authorization", &basic("other")),
            400,
            "invalid_request",
        ),
        (form("/token", body).header("Authorization", "Basic %%%"), 400, "invalid_request"),
        (form("/token/corp", &format!("{body}&issuer=other")), 400, "invalid_request"),
        (form("/token/othre", body), 404, "invalid_request"),
        (keyed(RawRequest::get("/token/othre")), 404, "invalid_request"),
    ] {
        let response = exchange(&world, request).await;
        expect_error(&response, status, error);
        let challenged = response.header("www-authenticate").is_some_and(|value| value.starts_with("Basic "));
        assert_eq!(challenged, status == 401);
    }
}

#[tokio::test]
async fn scopes_choose_among_the_tokens_of_the_issuer_and_its_routes() {
    let routes = "[[route]]\nname = \"write\"\npath_prefix = \"/w\"\nupstream = \"{upstream}\"\nissuer = \"corp\"\nscopes = [\"write\", \"audit\"]\n\
                  [[route]]\nname = \"a\"\npath_prefix = \"/a\"\nupstream = \"{upstream}\"\nissuer = \"corp\"\nscopes = [\"x\"]\nparams = { audience = \"a\" }\n\
                  [[route]]\nname = \"b\"\npath_prefix = \"/b\"\nupstream = \"{upstream}\"\nissuer = \"corp\"\nscopes = [\"x\"]\nparams = { audience = \"b\" }\n";
    let setup = setup(routes).await.issuer("scopes = [\"read\"]");
    setup.issuer.always(|request, _| {
        let scope = request.params("scope").join("");
        RawResponse::token(&format!("of-{}", scope.replace(' ', "-")))
    });
    let world = setup.start().await;
    world.ready().await;
    for (scope, token, said) in [
        ("", "of-read", "read"),
        ("&scope=", "of-read", "read"),
        ("&scope=read", "of-read", "read"),
        ("&scope=read+read", "of-read", "read"),
        ("&scope=audit+write", "of-write-audit", "write audit"),
        ("&scope=write%20audit", "of-write-audit", "write audit"),
        ("&scope=audit", "of-write-audit", "write audit"),
        ("&scope=+", "of-read", "read"),
    ] {
        let body = ask(&world, scope).await.json();
        assert_eq!((&body["access_token"], &body["scope"]), (&json!(token), &json!(said)), "{scope}");
    }
    let by_query = keyed(RawRequest::get("/token/corp?scope=write%20audit&other=1"));
    assert_eq!(exchange(&world, by_query).await.json()["access_token"], "of-write-audit");
    for scope in ["read+write", "READ", "read+write+audit"] {
        expect_error(&ask(&world, &format!("&scope={scope}")).await, 400, "invalid_scope");
    }
    let described = expect_error(&ask(&world, "&scope=x").await, 400, "invalid_request");
    assert!(described.contains("several tokens"), "{described}");
    assert_eq!(world.issuer().count(), 4, "each token once");
}

#[tokio::test]
async fn granted_scopes_are_said_where_the_issuer_says_them() {
    let setup = setup("").await.issuer("scopes = [\"read\", \"write\"]");
    setup.issuer.always_this(RawResponse::json(
        &json!({ "access_token": "t", "token_type": "BEARER", "expires_in": 60, "scope": "read" }),
    ));
    let body = ask(&setup.start().await, "").await.json();
    assert_eq!((&body["scope"], &body["token_type"]), (&json!("read"), &json!("Bearer")));
}

#[tokio::test]
async fn malformed_token_requests_get_the_errors_of_rfc_6749() {
    let world = scene("").await;
    let good = "grant_type=client_credentials";
    for (body, error) in [
        ("", "invalid_request"),
        ("issuer=corp", "invalid_request"),
        ("grant_type=", "invalid_request"),
        ("grant_type=password", "unsupported_grant_type"),
        ("grant_type=refresh_token", "unsupported_grant_type"),
        ("grant_type=Client_Credentials", "unsupported_grant_type"),
        ("grant_type=client_credentials&grant_type=client_credentials", "invalid_request"),
        ("grant_type=client_credentials&scope=a&scope=a", "invalid_request"),
        ("grant_type=client_credentials&unknown=1&unknown=2", "invalid_request"),
        ("grant_type=client_credentials&scope=%zz", "invalid_request"),
        ("grant_type=client_credentials&scope=%ff", "invalid_request"),
    ] {
        expect_error(&exchange(&world, form("/token", body)).await, 400, error);
    }
    for content_type in [
        "application/json",
        "multipart/form-data",
        "text/plain",
        "application/x-www-form-urlencoded; charset=utf-16",
        "",
    ] {
        let request = keyed(RawRequest::post("/token", good)).header("Content-Type", content_type);
        expect_error(&exchange(&world, request).await, 400, "invalid_request");
    }
    expect_error(&exchange(&world, keyed(RawRequest::post("/token", good))).await, 400, "invalid_request");
    for content_type in [
        "application/x-www-form-urlencoded;charset=UTF-8",
        "Application/X-WWW-Form-Urlencoded; charset=\"utf-8\"; x=y",
    ] {
        let request = keyed(RawRequest::post("/token", good)).header("Content-Type", content_type);
        exchange(&world, request).await.expect_status(200);
    }
}

#[tokio::test]
async fn a_body_is_read_up_to_64_kib() {
    let world = scene("").await;
    let body = |bytes: usize| {
        let start = "grant_type=client_credentials&pad=";
        format!("{start}{}", "x".repeat(bytes - start.len()))
    };
    exchange(&world, form("/token", &body(64 * 1024))).await.expect_status(200);
    let described =
        expect_error(&exchange(&world, form("/token", &body(64 * 1024 + 1))).await, 400, "invalid_request");
    assert!(described.contains("64 KiB"), "{described}");
}

#[tokio::test]
async fn other_methods_and_paths_are_refused() {
    let world = scene("").await;
    for (method, target, allow) in [
        ("GET", "/token", "POST, OPTIONS"),
        ("PUT", "/token", "POST, OPTIONS"),
        ("DELETE", "/token/corp", "GET, HEAD, POST, OPTIONS"),
    ] {
        let response = exchange(&world, keyed(RawRequest::new(method, target))).await;
        expect_error(&response, 405, "invalid_request");
        assert_eq!(response.header("allow"), Some(allow));
        let options = exchange(&world, keyed(RawRequest::new("OPTIONS", target))).await;
        options.expect_status(204);
        assert_eq!(options.header("allow"), Some(allow));
    }
    for target in ["/", "/tokens", "/token/", "/token/corp/x", "/Token", "/.well-known/openid-configuration"]
    {
        expect_error(&exchange(&world, keyed(RawRequest::get(target))).await, 404, "invalid_request");
    }
    expect_error(&exchange(&world, keyed(RawRequest::get("/token/../x"))).await, 400, "invalid_request");
    let connect = keyed(RawRequest::new("CONNECT", "api.example.com:443")).host("api.example.com:443");
    expect_error(&exchange(&world, connect).await, 405, "invalid_request");
    for (target, allow) in [("/token", "POST, OPTIONS"), ("/token/corp", "GET, HEAD, POST, OPTIONS")] {
        let response = exchange(&world, keyed(RawRequest::new("TRACE", target))).await;
        expect_error(&response, 405, "invalid_request");
        assert_eq!(response.header("allow"), Some(allow));
    }
    let whole = exchange(&world, keyed(RawRequest::new("OPTIONS", "*"))).await;
    assert_eq!((whole.status, whole.header("allow")), (204, Some("GET, HEAD, POST, OPTIONS")));
}

#[tokio::test]
async fn no_route_is_served_on_a_token_listener() {
    let world = scene(
        "[[route]]\nname = \"named\"\nhost = \"api.test\"\nupstream = \"{upstream}\"\nissuer = \"corp\"\n",
    )
    .await;
    expect_error(&exchange(&world, keyed(RawRequest::get("/"))).await, 404, "invalid_request");
    // Nor does it have the hosts of routes.
    expect_error(
        &exchange(&world, keyed(RawRequest::get("/")).host("api.test")).await,
        421,
        "invalid_request",
    );
    assert_eq!(world.upstream().count(), 0);
}

#[tokio::test]
async fn scripts_get_the_bare_token() {
    let world = scene("").await;
    let get = |accept: &str| keyed(RawRequest::get("/token/corp")).header("Accept", accept);
    for accept in ["text/plain", "TEXT/plain;q=0.5", "text/html, text/plain"] {
        let response = exchange(&world, get(accept)).await;
        response.expect_status(200);
        assert_eq!(response.text(), "token-1\n", "{accept}");
        assert_eq!(response.header("content-type"), Some("text/plain"));
        assert_eq!(response.header("cache-control"), Some("no-store"));
    }
    for accept in [
        "*/*",
        "application/json",
        "text/plain;q=0, */*",
        "application/json, text/plain, */*",
        "text/plainer",
    ] {
        let response = exchange(&world, get(accept)).await;
        assert_eq!(response.json()["access_token"], "token-1", "{accept}");
    }
    let head =
        exchange(&world, keyed(RawRequest::new("HEAD", "/token/corp")).header("Accept", "text/plain")).await;
    head.expect_status(200);
    assert_eq!(head.header("content-length"), Some("8"));
}

#[tokio::test]
async fn http2_is_served_too() {
    let world = scene("").await;
    let mut client = H2Client::plain(world.address("tokens")).await;
    let request = client
        .request("POST", "/token")
        .header("x-caller-key", KEY)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(whole("grant_type=client_credentials"))
        .unwrap();
    let response = client.exchange(request).await;
    assert_eq!(response.status, 200);
    let head = client.request("HEAD", "/token/corp").header("x-caller-key", KEY).body(whole("")).unwrap();
    assert_eq!(client.exchange(head).await.status, 200);
}

#[tokio::test]
async fn the_listeners_rules_come_first_in_their_order() {
    let world = scene("").await;
    let form = |target: &str| {
        RawRequest::post(target, "grant_type=client_credentials")
            .header("Content-Type", "application/x-www-form-urlencoded")
    };
    for request in [
        form("/token"),
        form("/token").header("x-caller-key", "wrong"),
        form("/token").header("x-caller-key", KEY).header("x-caller-key", KEY),
        form("/nowhere"),
        keyed(form("/token")).header("Origin", "https://evil.test"),
        keyed(form("/token")).header("Sec-Fetch-Site", "cross-site"),
        keyed(form("/token")).header("Referer", "https://evil.test/"),
        RawRequest::new("PUT", "/token"),
    ] {
        expect_error(&exchange(&world, request).await, 403, "invalid_client");
    }
    expect_error(&exchange(&world, form("/token").host("evil.test")).await, 421, "invalid_request");
    expect_error(&exchange(&world, form("/a/../b").host("evil.test")).await, 400, "invalid_request");
    let server = exchange(&world, keyed(RawRequest::new("OPTIONS", "*"))).await;
    server.expect_status(204);
}

#[tokio::test]
async fn the_gate_may_be_the_authorization_that_oauth_clients_send() {
    let setup = Setup::new().await;
    let basic = format!("Basic {}", STANDARD.encode("corp:gate-secret"));
    setup.file("gate", &basic);
    let world = setup.more(&LISTENER.replace("x-caller-key", "authorization")).start().await;
    let request = |authorization: &str| {
        RawRequest::post("/token", "grant_type=client_credentials")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .header("Authorization", authorization)
    };
    let good = exchange(&world, request(&basic)).await;
    assert_eq!(good.json()["access_token"], "token-1");
    let wrong = format!("Basic {}", STANDARD.encode("corp:wrong"));
    let missing = RawRequest::post("/token", "grant_type=client_credentials")
        .header("Content-Type", "application/x-www-form-urlencoded");
    for request in [request(&wrong), missing, RawRequest::get("/token/corp")] {
        let response = exchange(&world, request).await;
        let why = expect_error(&response, 401, "invalid_client");
        assert!(why.contains("the header field authorization "), "{why}");
        assert_eq!(response.header("www-authenticate"), Some("Basic realm=\"bearerd\""));
        let status = response.header("proxy-status").unwrap_or_default();
        assert!(status.contains("caller_refused"), "{status}");
    }
    // What no other credentials would change stays 403, without a challenge.
    let page = exchange(&world, request(&basic).header("Origin", "https://evil.test")).await;
    expect_error(&page, 403, "invalid_client");
    assert_eq!(page.header("www-authenticate"), None);
}

#[tokio::test]
async fn a_unix_socket_needs_no_key_and_its_users_may_be_named() {
    use std::os::unix::fs::MetadataExt;
    let listener = |keys: &str| {
        format!("[listener.tokens]\naddress = \"unix:{{folder}}/token.sock\"\nserve = \"token\"\n{keys}")
    };
    let world = Setup::new().await.more(&listener("")).start().await;
    let socket = world.folder().join("token.sock");
    let own = std::fs::metadata(&socket).unwrap().uid();
    let response = Client::unix(&socket).await.exchange(&RawRequest::get("/token/corp")).await;
    assert_eq!(response.json()["access_token"], "token-1");
    let world = Setup::new().await.more(&listener(&format!("allow_uids = [{}]", own + 1))).start().await;
    let mut client = Client::unix(&world.folder().join("token.sock")).await;
    expect_error(&client.exchange(&RawRequest::get("/token/corp")).await, 403, "invalid_client");
}

#[tokio::test]
async fn without_a_token_programs_get_the_proxys_statuses() {
    for (answer, status, error, words) in [
        (RawResponse::oauth_error(401, "invalid_client"), 502, "server_error", "invalid_client"),
        (RawResponse::status(503).header("Retry-After", "77"), 503, "temporarily_unavailable", "503"),
    ] {
        let setup = setup("").await;
        setup.issuer.always_this(answer);
        let world = setup.start().await;
        let response = ask(&world, "").await;
        let described = expect_error(&response, status, error);
        assert!(described.contains(words) && described.contains("issuer corp"), "{described}");
        if status == 503 {
            let seconds: u64 = response.header("retry-after").expect("Retry-After").parse().unwrap();
            assert!((70..=77).contains(&seconds), "{seconds}");
        }
        let proxied = world.get("/").await.json();
        let same = proxied["detail"].as_str().unwrap().replace('"', "'").replace('…', "...");
        assert_eq!(same, described, "as on a route");
    }
    let setup = setup("").await.issuer("timeout = \"200ms\"");
    setup.issuer.always_this(RawResponse::hang());
    expect_error(&ask(&setup.start().await, "").await, 504, "temporarily_unavailable");
}

#[tokio::test]
async fn bound_tokens_are_not_handed_out() {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let bound =
        format!("{}.{}.c2ln", part(json!({ "alg": "none" })), part(json!({ "cnf": { "x5t#S256": "abc" } })));
    let setup = setup("").await;
    setup.issuer.always_this(RawResponse::token(&bound));
    let world = setup.start().await;
    let described = expect_error(&ask(&world, "").await, 400, "unauthorized_client");
    assert!(described.contains("issuer corp binds its tokens"), "{described}");
    assert!(!described.contains(&bound));

    let dpop = "dpop = { private_key = { file = \"dpop.pem\" } }";
    let setup = self::setup(OTHER).await.issuer(dpop);
    setup.file("dpop.pem", crate::support::jwt::key("ec-p256.pkcs8.pem"));
    let world = setup.start().await;
    let described = expect_error(&ask(&world, "&issuer=corp").await, 400, "unauthorized_client");
    assert!(described.contains("DPoP"), "{described}");

    let setup = self::setup("").await.issuer(dpop);
    setup.file("dpop.pem", crate::support::jwt::key("ec-p256.pkcs8.pem"));
    let said = cli::refusal(&setup).await;
    assert!(said.contains("listener.tokens.serve") && said.contains("dpop"), "{said}");
}

#[tokio::test]
async fn a_listener_without_a_gate_or_for_pages_or_without_issuers_is_refused() {
    for (more, words) in [
        ("[listener.tokens]\naddress = \"127.0.0.1:0\"\nserve = \"token\"\n".to_owned(), "require_header"),
        (format!("{LISTENER}origins = [\"https://app.test\"]\n"), "origins"),
    ] {
        let setup = Setup::new().await.more(&more);
        setup.file("gate", KEY);
        let said = cli::refusal(&setup).await;
        assert!(said.contains(words), "{said}");
    }
    let alone = Setup::new().await.whole(&format!("[admin]\naddress = \"127.0.0.1:0\"\n{LISTENER}"));
    alone.file("gate", KEY);
    let said = cli::refusal(&alone).await;
    assert!(said.contains("there is no issuer"), "{said}");
}

#[tokio::test]
async fn an_issuer_without_routes_is_fetched_at_start_and_readiness_waits_for_it() {
    let setup = Setup::new().await;
    setup.file("gate", KEY);
    let gate = Gate::new();
    setup.issuer.next(RawResponse::token("first").gated(&gate));
    let world = setup
        .whole(&format!("[admin]\naddress = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n{LISTENER}[issuer.corp]\ntoken_url = \"{{issuer}}/token\"\nclient_id = \"c\"\nclient_secret = {{ file = \"secret\" }}\n"))
        .start()
        .await;
    eventually("a token request", || async { (world.issuer().count() == 1).then_some(()) }).await;
    let unready = world.admin("/readyz").await;
    assert_eq!(unready.status, 503);
    assert!(
        unready.text().contains("token of issuer corp for token listeners: not fetched yet"),
        "{}",
        unready.text()
    );
    gate.open();
    world.ready().await;
    assert_eq!(ask(&world, "").await.json()["access_token"], "first");
    let status = world.status().await;
    let token = &status["tokens"][0];
    assert_eq!(
        (&token["on_demand"], &token["routes"], &token["state"]),
        (&json!(false), &json!([]), &json!("valid"))
    );
}

#[tokio::test]
async fn an_issuers_own_token_is_fetched_on_demand_if_its_routes_have_others() {
    let setup = setup("").await.route("scopes = [\"billing\"]");
    setup.issuer.always(|request, _| match request.params("scope").as_slice() {
        [] => RawResponse::token("own"),
        _ => RawResponse::token("billing"),
    });
    let mut world = setup.start().await;
    world.ready().await;
    stays(Duration::from_millis(300), || world.issuer().count()).await;
    assert_eq!(world.issuer().count(), 1, "nobody has asked for the other token");
    let of_own = |status: &Value| {
        let tokens = status["tokens"].as_array().unwrap().clone();
        tokens.into_iter().find(|token| token["scopes"] == json!([])).expect("the issuer's own token")
    };
    let own = of_own(&world.status().await);
    assert_eq!(
        (&own["on_demand"], &own["routes"], &own["state"]),
        (&json!(true), &json!([]), &json!("none"))
    );
    let verbose = world.admin("/readyz?verbose").await.text();
    assert!(verbose.contains("[+] token of issuer corp for token listeners: not requested yet"), "{verbose}");

    assert_eq!(ask(&world, "").await.json()["access_token"], "own");
    assert_eq!(ask(&world, "&scope=billing").await.json()["access_token"], "billing");
    assert_eq!(of_own(&world.status().await)["state"], "valid");
    let expiry =
        world.metric("bearerd_token_expiry_timestamp_seconds", &[("issuer", "corp"), ("route", "")]).await;
    assert!((expiry.expect("the own token's expiry") - unix_now() - 3600.0).abs() < 15.0);

    // A reload keeps it. Once a route has it too, readiness waits for it.
    world.change(|text| format!("{text}\n[[route]]\nname = \"own\"\npath_prefix = \"/own\"\nupstream = \"{{upstream}}\"\nissuer = \"corp\"\n"));
    world.reload().await;
    world.ready().await;
    let own = of_own(&world.status().await);
    assert_eq!((&own["on_demand"], &own["routes"]), (&json!(false), &json!(["own"])));
    assert_eq!(ask(&world, "").await.json()["access_token"], "own");
    assert_eq!(world.issuer().count(), 2, "the tokens outlive the reload");
}

#[tokio::test]
async fn a_token_that_a_route_gets_with_a_reload_is_fetched_then() {
    let mut world = setup("").await.route("scopes = [\"billing\"]").start().await;
    world.ready().await;
    assert_eq!(world.issuer().count(), 1);
    world.change(|text| text.replace("scopes = [\"billing\"]", ""));
    world.reload().await;
    world.ready().await;
    assert_eq!(world.issuer().count(), 2, "without any request");
}

#[tokio::test]
async fn requests_are_counted_logged_and_shown_without_the_token() {
    let setup = setup("").await;
    setup.issuer.always_this(RawResponse::token("canary-token-value"));
    let world = setup.start().await;
    let sent = ask(&world, "&client_secret=canary-secret-value&scope=").await;
    assert_eq!(sent.json()["access_token"], "canary-token-value");
    let get = keyed(RawRequest::get("/token/corp?scope=canary-scope-value"));
    expect_error(&exchange(&world, get).await, 400, "invalid_scope");

    for status in ["200", "400"] {
        let labels = [("route", ""), ("status", status)];
        assert_eq!(world.metric("bearerd_requests_total", &labels).await, Some(1.0), "{status}");
    }
    let listener = |status: &Value| {
        let all = status["listeners"].as_array().unwrap().clone();
        all.into_iter().find(|listener| listener["name"] == "tokens").unwrap()
    };
    let status = world.status().await;
    let shown = listener(&status);
    assert_eq!((&shown["serve"], &shown["token_requests"]), (&json!("token"), &json!(2)));
    assert_eq!(shown["last_error"]["code"], "bad_request");
    assert_eq!(status["unrouted"]["last_error"], Value::Null);
    assert_eq!(status["listeners"][0]["token_requests"], Value::Null);

    world.log().wait("the second access line", |line| line.contains("/token/corp")).await;
    let lines = world.log().events();
    let access: Vec<_> = lines.iter().filter(|line| line["event"] == "access").collect();
    assert_eq!(access[0]["listener"], "tokens");
    assert_eq!(
        (&access[0]["path"], &access[0]["issuer"], &access[0]["status"]),
        (&json!("/token"), &json!("corp"), &json!(200))
    );
    let everything = format!("{}{status}{}", world.log().text(), world.admin("/metrics").await.text());
    for secret in ["canary-token-value", "canary-secret-value", "canary-scope-value", KEY] {
        assert!(!everything.contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn an_outage_is_one_warning_a_minute_for_each_issuer() {
    let setup = setup("").await;
    setup.issuer.always_this(RawResponse::status(500));
    let world = setup.start().await;
    for _ in 0..5 {
        expect_error(&ask(&world, "").await, 503, "temporarily_unavailable");
    }
    let failed = || world.log().events().into_iter().filter(|line| line["event"] == "request.failed");
    eventually("a line for each request", || async { (failed().count() == 5).then_some(()) }).await;
    let warned = failed().filter(|line| line["level"] == "WARN");
    let issuers: Vec<_> = warned.map(|line| line["issuer"].clone()).collect();
    assert_eq!(issuers, [json!("corp")]);
}

/// A listener whose gate is what OAuth clients send anyway, and tokens as Kafka's clients accept them.
async fn scene_for_clients() -> World {
    let setup = Setup::new().await;
    setup.file("gate", format!("Basic {}", STANDARD.encode("corp:gate-secret")));
    setup.issuer.always(|_, _| {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let claims = json!({ "sub": "service", "iat": unix_now() as u64, "exp": unix_now() as u64 + 3600, "scope": "read" });
        RawResponse::token(&format!("{}.{}.c2ln", part(json!({ "alg": "RS256" })), part(claims)))
    });
    setup.more(&LISTENER.replace("x-caller-key", "authorization")).start().await
}

/// Runs a program that fetches a token and prints it, with the gate's client ID and secret, and without.
async fn expect_token(
    world: &World,
    mut program: impl FnMut(&[&str]) -> tokio::process::Command,
    words: usize,
) {
    let url = format!("http://{}/token", world.address("tokens"));
    let run = async |command: &mut tokio::process::Command| {
        let output = command.kill_on_drop(true).output();
        tokio::time::timeout(Duration::from_secs(120), output).await.expect("an end").unwrap()
    };
    let output = run(&mut program(&[&url, "corp", "gate-secret"])).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let said: Vec<&str> = said.split_whitespace().collect();
    let token = Client::tcp(world.address("tokens"))
        .await
        .exchange(
            &RawRequest::get("/token/corp")
                .header("Accept", "text/plain")
                .header("Authorization", &format!("Basic {}", STANDARD.encode("corp:gate-secret"))),
        )
        .await;
    assert_eq!((said.len(), said[0]), (words, token.text().trim_end()));
    if let [_, kind, left] = said[..] {
        assert_eq!(kind, "Bearer");
        assert!((3400..=3600).contains(&left.parse::<u64>().unwrap()), "{left}");
    }
    let output = run(&mut program(&[&url, "corp", "wrong"])).await;
    assert!(!output.status.success(), "a wrong secret is noticed");
}

#[tokio::test]
#[ignore = "needs python3"]
async fn pythons_oauth_libraries_fetch_tokens() {
    let python = crate::support::python::python("oauth-clients").await;
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oauth-clients/clients.py");
    let world = scene_for_clients().await;
    for library in ["requests-oauthlib", "authlib"] {
        let program = |args: &[&str]| {
            let mut command = tokio::process::Command::new(&python);
            command.arg(&script).arg(library).args(args);
            command
        };
        expect_token(&world, program, 3).await;
    }
}

#[tokio::test]
#[ignore = "needs go"]
async fn gos_oauth2_fetches_tokens() {
    let build = || {
        server::built("oauth-clients/go", &["go.mod", "go.sum", "main.go"], |folder| {
            server::run(
                std::process::Command::new("go").args(["build", "-o", "client"]).current_dir(folder),
                "install Go 1.25 or later",
            );
        })
    };
    let folder = tokio::task::spawn_blocking(build).await.unwrap();
    let world = scene_for_clients().await;
    let program = |args: &[&str]| {
        let mut command = tokio::process::Command::new(folder.join("client"));
        command.args(args);
        command
    };
    expect_token(&world, program, 3).await;
}

#[tokio::test]
#[ignore = "needs java, mvn"]
async fn kafkas_and_springs_clients_fetch_tokens() {
    let sources = ["pom.xml", "src/main/java/clients/Kafka.java", "src/main/java/clients/Spring.java"];
    let build = move || {
        server::built("oauth-clients/java", &sources, |folder| {
            let quietly = ["--batch-mode", "--quiet", "clean", "package"];
            server::run(std::process::Command::new("mvn").args(quietly).current_dir(folder), server::JAVA);
        })
    };
    let folder = tokio::task::spawn_blocking(build).await.unwrap();
    let world = scene_for_clients().await;
    // Kafka's client prints the token alone.
    for (class, words) in [("clients.Kafka", 1), ("clients.Spring", 3)] {
        let program = |args: &[&str]| {
            let mut command = tokio::process::Command::new("java");
            command.current_dir(&folder).args(["-cp", "target/classes:target/lib/*", class]).args(args);
            command
        };
        expect_token(&world, program, words).await;
    }
}
