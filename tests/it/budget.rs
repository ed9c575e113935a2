//! A limit of token requests (`budget`): each request that is sent counts, and nothing else.

use std::time::Duration;

use serde_json::json;

use crate::support::in_process::InProcess;
use crate::support::jwt::key;
use crate::support::nobody;
use crate::support::{Bearerd, RawRequest, RawResponse, Response, Scripted, Setup, World, eventually, stays};

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn budget(requests: usize, per: &str) -> String {
    format!("budget = {{ requests = {requests}, per = \"{per}\" }}")
}

/// A scene whose tokens live for three seconds: less than any test, and more than a busy machine takes for a token request.
async fn brief_tokens(keys: &str) -> Setup {
    let setup = Setup::new().await;
    setup.issuer.always(|_, n| RawResponse::token_for(&format!("token-{n}"), 3));
    setup.issuer(keys)
}

/// Requests until the budget is spent and no token is left.
async fn spent(proxy: &Bearerd) -> Response {
    let spent = || async {
        let response = proxy.get("/").await;
        (response.status != 200).then_some(response)
    };
    let response = eventually("the budget to be spent", spent).await;
    response.expect_problem(503, "token_budget");
    response
}

fn retry_after(response: &Response) -> u64 {
    response.header("retry-after").expect("a 503 says when to try again").parse().unwrap()
}

#[tokio::test]
async fn requests_of_any_span_are_counted_exactly() {
    let proxy = InProcess::granting(60, &format!("refresh_at = 1.0\n{}", budget(3, "1h"))).await;
    for asked in [2, 3] {
        proxy.clock.advance(seconds(61));
        proxy.asked(asked).await;
    }
    proxy.clock.advance(seconds(61));
    let response = proxy.get().await;
    response.expect_problem(503, "token_budget");
    let after = retry_after(&response);
    assert!((3_400..=3_417).contains(&after), "until the first request is an hour old: {after}");
    let detail = response.json()["detail"].as_str().unwrap().to_owned();
    for words in [
        "issuer corp: ",
        "/token was not asked, because this process spent the budget of 3 token requests per 1h; the next one is possible at ",
        "raise budget of [issuer.corp]",
        "[store]",
    ] {
        assert!(detail.contains(words), "{detail}");
    }
    proxy.clock.advance(seconds(after - 30));
    assert!(retry_after(&proxy.get().await) <= 30);
    assert_eq!(proxy.issuer().count(), 3);
    proxy.clock.advance(seconds(31));
    proxy.asked(4).await;
    proxy.get().await.expect_status(200);
    // The second request was 61 s after the first.
    proxy.clock.advance(seconds(62));
    proxy.asked(5).await;
}

#[tokio::test]
async fn a_retry_after_is_as_long_as_the_budget_says() {
    let proxy = InProcess::granting(60, &budget(1, "30d")).await;
    proxy.clock.advance(seconds(61));
    let after = retry_after(&proxy.get().await);
    assert!((2_591_930..=2_591_940).contains(&after), "{after}");
}

#[tokio::test]
async fn a_valid_token_serves_and_is_not_renewed_while_the_budget_is_spent() {
    let proxy = InProcess::granting(1_000, &format!("refresh_at = 0.5\n{}", budget(1, "15m"))).await;
    proxy.clock.advance(seconds(600));
    for _ in 0..5 {
        assert_eq!(proxy.token().await, "token-1");
    }
    stays(Duration::from_millis(300), || proxy.issuer().count()).await;
    assert_eq!(proxy.issuer().count(), 1);
    proxy.clock.advance(seconds(301));
    proxy.asked(2).await;
    eventually("the new token", || async { (proxy.token().await == "token-2").then_some(()) }).await;
}

#[tokio::test]
async fn a_token_that_is_due_is_renewed_by_itself_when_room_returns() {
    let setup = Setup::new().await;
    setup.issuer.always(|_, n| RawResponse::token_for(&format!("token-{n}"), 30));
    let world = setup.issuer(&format!("refresh_at = 0.01\n{}", budget(1, "8s"))).start().await;
    let due = || async {
        world.get("/").await.expect_status(200);
        let status = world.status().await;
        (!status["tokens"][0]["last_error"].is_null()).then_some(())
    };
    eventually("a renewal that the budget refuses", due).await;
    assert_eq!(world.issuer().count(), 1);
    let (first, second) = (world.issuer().request(1).await.at, world.issuer().request(2).await.at);
    // The count begins when the first one is sent, and it may arrive a while after.
    assert!(second - first > seconds(4), "{:?}", second - first);
}

#[tokio::test]
async fn a_refused_token_serves_on_while_the_budget_is_spent() {
    let setup = Setup::new().await;
    setup.upstream.next(RawResponse::unauthorized());
    let world = setup.issuer(&budget(1, "1h")).start().await;
    world.get("/").await.expect_status(401);
    world.get("/").await.expect_status(200);
    assert_eq!((world.issuer().count(), world.upstream().count()), (1, 2));
}

#[tokio::test]
async fn the_count_outlives_a_reload_and_its_numbers_may_change() {
    let mut world = brief_tokens(&budget(2, "1h")).await.start().await;
    spent(&world.proxy).await;
    assert_eq!(world.issuer().count(), 2);
    // SIGHUP ends other pauses.
    world.reload().await;
    world.get("/").await.expect_problem(503, "token_budget");
    // Another table is another issuer, with the same budget.
    world.change(|config| config.replace("client-1", "client-2"));
    world.reload().await;
    world.get("/").await.expect_problem(503, "token_budget");
    assert_eq!(world.issuer().count(), 2);
    world.change(|config| config.replace("requests = 2", "requests = 3"));
    world.reload().await;
    world.issuer().request(3).await;
    spent(&world.proxy).await;
    world.change(|config| config.replace("requests = 3", "requests = 1"));
    world.reload().await;
    world.get("/").await.expect_problem(503, "token_budget");
    assert_eq!(world.issuer().count(), 3);
    world.change(|config| config.replace(&budget(1, "1h"), ""));
    world.reload().await;
    eventually("a request without a limit", || async { (world.get("/").await.status == 200).then_some(()) })
        .await;
}

#[tokio::test]
async fn another_budget_keeps_the_tokens() {
    let setup = Setup::new().await;
    setup.issuer.always(|_, n| RawResponse::token(&format!("token-{n}")));
    let mut world = setup.issuer(&budget(1, "1h")).start().await;
    world.get("/").await.expect_status(200);
    world.change(|config| config.replace("requests = 1", "requests = 7"));
    world.reload().await;
    world.get("/").await.expect_status(200);
    assert_eq!((world.upstream().last().bearer(), world.issuer().count()), (Some("token-1"), 1));
    let status = world.status().await;
    assert_eq!(
        status["issuers"][0]["budget"],
        json!({ "requests": 7, "per_seconds": 3600, "shared": false, "remaining": 6, "next_request_at": null })
    );
}

#[tokio::test]
async fn each_issuer_has_its_own_budget() {
    let other = "[issuer.other]\ntoken_url = \"{issuer}/other\"\nclient_id = \"x\"\nclient_secret = { file = \"secret\" }\n\
        [[route]]\nname = \"other\"\npath_prefix = \"/other\"\nupstream = \"{upstream}\"\nissuer = \"other\"";
    let setup = brief_tokens(&budget(1, "1h")).await.route("path_prefix = \"/\"").more(other);
    let world = setup.start().await;
    spent(&world.proxy).await;
    let to = |path: &str| {
        let requests = world.issuer().requests();
        requests.iter().filter(|request| request.target() == path).count()
    };
    eventually("three requests to the other issuer", || async {
        world.get("/other").await.expect_status(200);
        (to("/other") >= 3).then_some(())
    })
    .await;
    assert_eq!(to("/token"), 1);
}

#[tokio::test]
async fn routes_of_one_issuer_share_its_budget_and_the_log_says_so_once() {
    let more: Vec<String> = (0..5)
        .map(|n| {
            format!(
                "[[route]]\nname = \"r{n}\"\npath_prefix = \"/r{n}\"\nupstream = \"{{upstream}}\"\nissuer = \"corp\"\n\
                 scopes = [\"s{n}\"]"
            )
        })
        .collect();
    let setup = Setup::new().await.route("path_prefix = \"/\"").more(&more.join("\n"));
    let world = setup.issuer(&budget(2, "1h")).start().await;
    let failed = || async {
        let status = world.status().await;
        let tokens = status["tokens"].as_array().unwrap();
        let failed = tokens.iter().filter(|token| !token["last_error"].is_null()).count();
        (failed == 4).then_some(status)
    };
    let status = eventually("four tokens without a request", failed).await;
    assert_eq!(world.issuer().count(), 2);
    let next = status["issuers"][0]["budget"]["next_request_at"].as_str().unwrap();
    assert!(next > status["now"].as_str().unwrap(), "{status}");
    assert_eq!(world.metric("bearerd_token_budget_remaining", &[("issuer", "corp")]).await, Some(0.0));
    assert_eq!(world.metric("bearerd_token_budget_limit", &[("issuer", "corp")]).await, Some(2.0));
    assert_eq!(world.metric("bearerd_token_requests_total", &[("issuer", "corp")]).await, Some(2.0));
    let failed = |level: &str| {
        let failed = |line: &&serde_json::Value| line["event"] == "token.failed" && line["level"] == level;
        world.log().events().iter().filter(failed).count()
    };
    eventually("all four in the log", || async { (failed("WARN") + failed("DEBUG") >= 4).then_some(()) })
        .await;
    assert_eq!(failed("WARN"), 1);
}

#[tokio::test]
async fn requests_with_the_standby_credential_count() {
    for (requests, served) in [(2, true), (1, false)] {
        let setup = Setup::new().await;
        setup.file("next", "canary-next");
        setup.issuer.always(|request, _| match request.basic() {
            Some(basic) if basic.ends_with(":canary-next") => RawResponse::token_for("t", 1),
            _ => RawResponse::oauth_error(401, "invalid_client"),
        });
        let keys =
            format!("standby = {{ client_secret = {{ file = \"next\" }} }}\n{}", budget(requests, "1h"));
        let world = setup.issuer(&keys).start().await;
        world.issuer().request(requests).await;
        let first = world.get("/").await;
        assert_eq!(first.status == 200, served, "{}", first.text());
        spent(&world.proxy).await;
        assert_eq!(world.issuer().count(), requests);
    }
}

#[tokio::test]
async fn a_repeat_with_a_nonce_counts() {
    let setup = Setup::new().await;
    setup.file("dpop.pem", key("ec-p256.pkcs8.pem"));
    let nonce = RawResponse::oauth_error(400, "use_dpop_nonce").header("DPoP-Nonce", "n");
    setup.issuer.always_this(nonce);
    let dpop = "dpop = { private_key = { file = \"dpop.pem\" } }";
    let world = setup.issuer(&format!("{dpop}\n{}", budget(1, "1h"))).start().await;
    spent(&world.proxy).await;
    assert_eq!(world.issuer().count(), 1);
}

/// Bound tokens are never shared, but all replicas are one client of the issuer.
#[tokio::test]
async fn token_requests_for_bound_tokens_count_in_the_store() {
    let dpop = "dpop = { private_key = { file = \"dpop.pem\" } }";
    let setup = with_store("store", &format!("{dpop}\n{}", budget(2, "1h"))).await;
    setup.file("dpop.pem", key("ec-p256.pkcs8.pem"));
    setup.issuer.always(|_, n| {
        let grant = json!({ "access_token": format!("token-{n}"), "token_type": "DPoP", "expires_in": 600 });
        RawResponse::json(&grant)
    });
    let world = setup.start().await;
    let other = Bearerd::start(world.proxy.shared_folder(), &[]).await;
    for proxy in [&world.proxy, &other] {
        proxy.get("/").await.expect_status(200);
    }
    assert_eq!(world.issuer().count(), 2, "each has a token of its own");
    let third = Bearerd::start(world.proxy.shared_folder(), &[]).await;
    third.get("/").await.expect_problem(503, "token_budget");
    assert_eq!(world.issuer().count(), 2);
}

#[tokio::test]
async fn an_issuer_that_cannot_be_reached_spends_nothing() {
    let address = nobody();
    let keys = format!("token_url = \"http://{address}/token\"\n{}", budget(1, "1h"));
    let world = Setup::new().await.issuer(&keys).start().await;
    let failures = || async {
        world.get("/").await.expect_problem(503, "token_unavailable");
        let failures = world.metric("bearerd_token_requests_total", &[("issuer", "corp")]).await;
        (failures >= Some(1.0)).then_some(())
    };
    eventually("a failed attempt", failures).await;
    assert_eq!(world.metric("bearerd_token_budget_remaining", &[("issuer", "corp")]).await, Some(1.0));
    let listener =
        eventually("the address to be free", || async { tokio::net::TcpListener::bind(address).await.ok() })
            .await;
    let issuer = Scripted::on(listener, None);
    issuer.always_this(RawResponse::token("t"));
    eventually("a token", || async { (world.get("/").await.status == 200).then_some(()) }).await;
    assert_eq!(issuer.count(), 1);
}

#[tokio::test]
async fn a_document_of_the_issuer_does_not_count() {
    let setup = Setup::new().await;
    let url = setup.issuer.url.clone();
    setup.issuer.always(move |request, _| {
        if request.target().contains("well-known") {
            RawResponse::json(&json!({ "issuer": url, "token_endpoint": format!("{url}/token") }))
        } else {
            RawResponse::token("t")
        }
    });
    let world = setup.issuer(&format!("issuer_url = \"{{issuer}}\"\n{}", budget(1, "1h"))).start().await;
    world.get("/").await.expect_status(200);
    assert!(world.issuer().count() >= 2);
}

#[tokio::test]
async fn a_grpc_client_gets_status_14() {
    let world = brief_tokens(&budget(1, "1h")).await.start().await;
    spent(&world.proxy).await;
    let request = RawRequest::post("/pkg.Service/Method", "").header("content-type", "application/grpc");
    let response = world.exchange(request).await;
    assert_eq!((response.status, response.header("grpc-status")), (200, Some("14")));
    assert_eq!(response.header("grpc-message"), Some("token_budget"));
    assert!(retry_after(&response) > 3_000);
}

/// The scene with a store in this folder.
async fn with_store(folder: &str, keys: &str) -> Setup {
    let setup = brief_tokens(keys).await;
    setup.file("store.key", "ab".repeat(32));
    setup.more(&format!(
        "[store]\npath = \"{{folder}}/{folder}\"\nkeys = [{{ file = \"store.key\" }}]\ntimeout = \"5s\""
    ))
}

#[tokio::test]
async fn processes_with_one_store_share_the_budget_and_a_restart_keeps_it() {
    let mut world = with_store("store", &budget(3, "1h")).await.start().await;
    let other = Bearerd::start(world.proxy.shared_folder(), &[]).await;
    spent(&other).await;
    let response = spent(&world.proxy).await;
    let detail = response.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.contains("because all replicas together spent the budget of 3 token requests"),
        "{detail}"
    );
    assert_eq!(world.issuer().count(), 3);
    let status = world.status().await;
    assert_eq!(
        (&status["issuers"][0]["budget"]["shared"], &status["issuers"][0]["budget"]["remaining"]),
        (&json!(true), &json!(0))
    );
    world.proxy.stop().await;
    let again = Bearerd::start(world.proxy.shared_folder(), &[]).await;
    again.get("/").await.expect_problem(503, "token_budget");
    assert_eq!(world.issuer().count(), 3);
}

#[tokio::test]
async fn a_start_with_a_store_knows_what_was_spent() {
    let setup = with_store("store", &budget(5, "1h")).await;
    setup.issuer.always_this(RawResponse::token("t"));
    let mut world = setup.start().await;
    world.get("/").await.expect_status(200);
    let publish = [("operation", "publish"), ("outcome", "ok")];
    eventually("the token in the store", || async {
        world.metric("bearerd_store_operations_total", &publish).await
    })
    .await;
    world.proxy.stop().await;
    let again = Bearerd::start(world.proxy.shared_folder(), &[]).await;
    again.get("/").await.expect_status(200);
    eventually("what is left", || async {
        let remaining = again.metric("bearerd_token_budget_remaining", &[("issuer", "corp")]).await;
        (remaining == Some(4.0)).then_some(())
    })
    .await;
    assert_eq!(world.issuer().count(), 1);
}

#[tokio::test]
async fn without_shared_a_process_counts_alone() {
    let keys = format!("shared = false\n{}", budget(1, "1h"));
    let world = with_store("store", &keys).await.start().await;
    let other = Bearerd::start(world.proxy.shared_folder(), &[]).await;
    spent(&world.proxy).await;
    spent(&other).await;
    assert_eq!(world.issuer().count(), 2);
}

#[tokio::test]
async fn while_the_store_is_of_no_use_the_process_counts() {
    let world = with_store("missing/store", &budget(2, "1h")).await.start().await;
    let response = spent(&world.proxy).await;
    let detail = response.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("because this process spent the budget of 2 token requests"), "{detail}");
    assert_eq!(world.issuer().count(), 2);
}

/// What other replicas spent in a store counts for those that use it.
#[tokio::test]
async fn a_store_that_is_not_used_any_more_denies_nothing() {
    let mut world = with_store("store", &budget(1, "1h")).await.start().await;
    let other = Bearerd::start(world.proxy.shared_folder(), &[]).await;
    spent(&other).await;
    let response = spent(&world.proxy).await;
    assert!(response.json()["detail"].as_str().unwrap().contains("all replicas together"));
    assert_eq!(world.issuer().count(), 1);
    world.change(|text| text.split("[store]").next().unwrap().to_owned());
    world.reload().await;
    eventually("a token request", || async {
        world.get("/").await;
        (world.issuer().count() == 2).then_some(())
    })
    .await;
    let status = world.status().await;
    assert_eq!(status["issuers"][0]["budget"]["shared"], json!(false));
}

/// What a proxy without a store forgets is what it counted before its start.
#[tokio::test]
async fn a_start_without_a_store_counts_anew() {
    let mut world: World = brief_tokens(&budget(1, "1h")).await.start().await;
    spent(&world.proxy).await;
    world.proxy.stop().await;
    let again = Bearerd::start(world.proxy.shared_folder(), &[]).await;
    again.get("/").await.expect_status(200);
    assert_eq!(world.issuer().count(), 2);
}
