//! Issuers that fail, and how they are asked again: rows T30 to T45.

use std::time::{Duration, SystemTime};

use crate::support::manual::Manual;
use crate::support::tls::{Ca, ca, localhost};
use crate::support::{
    Gate, PATIENCE, RawRequest, RawResponse, Scripted, Setup, World, eventually, nobody, stays,
};

async fn failing(answer: RawResponse) -> World {
    let setup = Setup::new().await;
    setup.issuer.always_this(answer);
    setup.start().await
}

/// The seconds between the issuer's first requests, once there are `count`.
async fn gaps(world: &World, count: usize) -> Vec<f64> {
    eventually("more token requests", || async {
        let _answered = world.get("/").await;
        (world.issuer().count() >= count).then_some(())
    })
    .await;
    let requests = world.issuer().requests();
    requests.windows(2).map(|pair| (pair[1].at - pair[0].at).as_secs_f64()).collect()
}

async fn served(world: &World) {
    eventually("a served call", || async { (world.get("/").await.status == 200).then_some(()) }).await;
}

#[tokio::test]
async fn t30_server_errors_back_off() {
    for status in [500, 502, 503, 504] {
        let world = failing(RawResponse::status(status)).await;
        world.get("/").await.expect_problem(503, "token_unavailable");
        if status == 500 {
            let gaps = gaps(&world, 3).await;
            assert!(gaps[0] > 0.4 && gaps[0] < 10.0, "{gaps:?}");
            assert!(gaps[1] > 0.9 && gaps[1] < 10.0, "{gaps:?}");
        }
        assert_eq!(world.upstream().count(), 0);
    }
}

#[tokio::test]
async fn while_backing_off_requests_get_the_last_failure_at_once() {
    let world = failing(RawResponse::oauth_error(500, "server_error").header("retry-after", "100")).await;
    world.get("/").await.expect_problem(503, "token_unavailable");
    let started = std::time::Instant::now();
    for _ in 0..50 {
        world.get("/").await.expect_problem(503, "token_unavailable");
    }
    assert!(started.elapsed() < PATIENCE);
    assert_eq!(world.issuer().count(), 1);
}

#[tokio::test]
async fn t31_429_with_retry_after_is_obeyed() {
    let setup = Setup::new().await;
    setup.issuer.next(RawResponse::status(429).header("retry-after", "3"));
    let world = setup.start().await;
    let response = world.get("/").await;
    response.expect_problem(503, "token_unavailable");
    let left: u64 = response.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=3).contains(&left), "{left}");
    let gaps = gaps(&world, 2).await;
    assert!(gaps[0] >= 2.9 && gaps[0] < 15.0, "{gaps:?}");
    served(&world).await;
}

#[tokio::test]
async fn t31_valid_token_serves_on_through_a_429() {
    let setup = Setup::new().await;
    setup.issuer.next(RawResponse::token_for("first", 20));
    setup.issuer.always_this(RawResponse::status(429).header("retry-after", "30"));
    let world = setup.issuer("refresh_at = 0.1").start().await;
    eventually("the renewal", || async {
        world.get("/").await.expect_status(200);
        (world.issuer().count() >= 2).then_some(())
    })
    .await;
    for _ in 0..20 {
        world.get("/").await.expect_status(200);
    }
    stays(Duration::from_millis(1500), || world.issuer().count()).await;
    assert_eq!(world.upstream().last().bearer(), Some("first"));
}

#[tokio::test]
async fn t32_retry_after_may_be_a_date() {
    let setup = Setup::new().await;
    setup.issuer.always(|_, n| match n {
        1 => {
            let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(5));
            RawResponse::status(429).header("retry-after", &date)
        }
        _ => RawResponse::token("t"),
    });
    let world = setup.start().await;
    let gaps = gaps(&world, 2).await;
    assert!(gaps[0] > 2.5 && gaps[0] < 15.0, "{gaps:?}");
}

#[tokio::test]
async fn t32_retry_after_counts_at_most_five_minutes() {
    for value in ["1000000000", "Fri, 31 Dec 2100 23:59:59 GMT"] {
        let world = failing(RawResponse::status(429).header("retry-after", value)).await;
        let left: u64 = world.get("/").await.header("retry-after").unwrap().parse().unwrap();
        assert!((200..=300).contains(&left), "{value} gave {left}");
    }
}

#[tokio::test]
async fn t32_unreadable_retry_after_counts_as_none() {
    for value in ["-5", "soon", "1.5.2", ""] {
        let world = failing(RawResponse::status(429).header("retry-after", value)).await;
        let gaps = gaps(&world, 2).await;
        assert!(gaps[0] > 0.4 && gaps[0] < 10.0, "{value}: {gaps:?}");
    }
}

#[tokio::test]
async fn t33_503_with_retry_after_is_obeyed() {
    let world = failing(RawResponse::status(503).header("retry-after", "30")).await;
    let left: u64 = world.get("/").await.header("retry-after").unwrap().parse().unwrap();
    assert!((25..=30).contains(&left), "{left}");
    stays(Duration::from_millis(2500), || world.issuer().count()).await;
    assert_eq!(world.issuer().count(), 1);
}

#[tokio::test]
async fn t34_refused_client_is_not_asked_again_for_a_minute() {
    for answer in [
        RawResponse::oauth_error(401, "invalid_client"),
        RawResponse::oauth_error(400, "invalid_client"),
        RawResponse::oauth_error(400, "unauthorized_client"),
        RawResponse::status(401),
    ] {
        let world = failing(answer).await;
        let response = world.get("/").await;
        response.expect_problem(502, "token_refused");
        assert_eq!(world.admin("/readyz").await.status, 503);
        stays(Duration::from_millis(2200), || world.issuer().count()).await;
        world.get("/").await.expect_problem(502, "token_refused");
        assert_eq!(world.issuer().count(), 1);
    }
}

#[tokio::test]
async fn t34_refused_client_is_asked_again_at_once_when_its_secret_changed() {
    let setup = Setup::new().await;
    setup.issuer.always(|request, _| match request.basic().as_deref() {
        Some("client-1:rotated") => RawResponse::token("t"),
        _ => RawResponse::oauth_error(401, "invalid_client"),
    });
    let world = setup.start().await;
    world.get("/").await.expect_problem(502, "token_refused");
    world.file("secret", "rotated\n");
    served(&world).await;
    assert_eq!(world.upstream().last().bearer(), Some("t"));
}

#[tokio::test]
async fn t34_refused_client_is_asked_again_at_once_on_sighup() {
    let setup = Setup::new().await;
    setup.issuer.next(RawResponse::oauth_error(401, "invalid_client"));
    let world = setup.start().await;
    world.get("/").await.expect_problem(502, "token_refused");
    world.reload_signal();
    served(&world).await;
    assert_eq!(world.issuer().count(), 2);
}

#[tokio::test]
async fn t35_what_another_request_cannot_fix_is_not_requested_again() {
    for error in ["invalid_scope", "invalid_request", "invalid_grant", "unsupported_grant_type"] {
        let world = failing(RawResponse::oauth_error(400, error)).await;
        let response = world.get("/").await;
        response.expect_problem(502, "token_refused");
        assert!(response.json()["detail"].as_str().unwrap().contains(error));
        stays(Duration::from_millis(2200), || world.issuer().count()).await;
        assert_eq!(world.issuer().count(), 1, "{error}");
    }
}

/// The `detail` of a request's error, with its status.
async fn detail(world: &World) -> (u16, String) {
    let response = world.get("/").await;
    (response.status, response.json()["detail"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn vendors_own_errors_is_in_detail() {
    for (status, body, words) in [
        (
            401,
            r#"{"response":{"errors":[{"code":"10401","message":"ClientId is Invalid"}]}}"#,
            "10401 (ClientId is Invalid)",
        ),
        (
            400,
            r#"{"error":{"message":"Wrong secret.","type":"OAuthException","code":1,"fbtrace_id":"A"}}"#,
            "OAuthException (1: Wrong secret.)",
        ),
        (
            401,
            r#"{"fault":{"faultstring":"Invalid client","detail":{"errorcode":"oauth.v2.InvalidClient"}}}"#,
            "oauth.v2.InvalidClient (Invalid client)",
        ),
        (
            400,
            r#"{"errorCode":"invalid_client","errorSummary":"Bad id.","errorId":"oae"}"#,
            "invalid_client (Bad id.)",
        ),
        (
            401,
            r#"{"message":"A JSON web token could not be decoded","status":"401"}"#,
            "401 (A JSON web token could not be decoded)",
        ),
        (
            401,
            r#"{"error":{"message":"User Not Authenticated","detail":"Required to provide Auth information"},"status":"failure"}"#,
            "(User Not Authenticated: Required to provide Auth information)",
        ),
        (400, r#"{"why":"value-canary"}"#, "JSON with the members why"),
    ] {
        let world =
            failing(RawResponse::status(status).header("content-type", "application/json").body(body)).await;
        let (status, detail) = detail(&world).await;
        assert_eq!(status, 502, "{body}");
        assert!(detail.contains(words) && !detail.contains("value-canary"), "{words}: {detail}");
    }
}

#[tokio::test]
async fn t31_plain_text_of_a_429_is_in_detail() {
    let answer = RawResponse::status(429).header("retry-after", "30").header("content-type", "text/plain");
    let world = failing(answer.body("Too Many Requests")).await;
    let (status, detail) = detail(&world).await;
    assert_eq!(status, 503);
    assert!(detail.contains("429 (Too Many Requests)"), "{detail}");
}

#[tokio::test]
async fn trace_ids_of_the_issuer_are_in_the_log_and_the_status_and_not_in_detail() {
    let body = r#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided.","trace_id":"255d1aef","correlation_id":"fb3d2015"}"#;
    let world = failing(RawResponse::status(401).header("x-ms-request-id", "7c1").body(body)).await;
    let (_, detail) = detail(&world).await;
    assert!(detail.contains("AADSTS7000215") && detail.contains("the secret's value"), "{detail}");
    assert!(!detail.contains("255d1aef"), "{detail}");
    let trace = "trace_id=255d1aef correlation_id=fb3d2015 x-ms-request-id=7c1";
    world.log().wait("the trace", |line| line.contains("WARN") && line.contains(trace)).await;
    assert_eq!(world.status().await["tokens"][0]["last_error"]["trace"], trace);
}

#[tokio::test]
async fn a_secret_in_a_vendors_error_or_a_trace_is_masked() {
    let secret = crate::support::setup::SECRET;
    for body in [
        format!(r#"{{"message":"no client with {secret}","request_id":"{secret}"}}"#),
        format!(r#"{{"errors":["{secret}"],"{secret}":1}}"#),
        format!("no client with {secret}"),
        format!("<title>{secret}</title>"),
    ] {
        for (kind, status) in [("application/json", 400), ("text/plain", 401), ("text/html", 403)] {
            let answer =
                RawResponse::status(status).header("content-type", kind).header("x-request-id", secret);
            let world = failing(answer.body(body.as_str())).await;
            world.get("/").await.expect_problem(502, "token_refused");
            let said = format!("{}{}", world.log().text(), world.status().await);
            assert!(!said.contains(secret), "{kind} {body}: {said}");
        }
    }
}

#[tokio::test]
async fn t103_clock_that_differs_from_the_issuers_is_reported_where_a_jwt_is_refused() {
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3600));
    let setup = Setup::new().await;
    setup.file("secret", "a-secret-of-the-scene-that-is-long-enough-for-every-hmac-of-all-sizes");
    setup.issuer.always_this(RawResponse::oauth_error(401, "invalid_client").header("date", &date));
    let world = setup.issuer("client_auth = \"client_secret_jwt\"").start().await;
    let (status, detail) = detail(&world).await;
    assert_eq!(status, 502);
    assert!(detail.contains("this machine's clock is") && detail.contains("behind the issuer's"), "{detail}");
    assert!(detail.contains("jwt.audience"), "{detail}");
}

#[tokio::test]
async fn temporarily_unavailable_is_token_unavailable() {
    let world = failing(RawResponse::oauth_error(400, "temporarily_unavailable")).await;
    world.get("/").await.expect_problem(503, "token_unavailable");
}

#[tokio::test]
async fn t37_refused_connection_backs_off_and_recovers() {
    let nobody = nobody();
    let world = Setup::new().await.issuer(&format!("token_url = \"http://{nobody}/token\"")).start().await;
    world.get("/").await.expect_problem(503, "token_unavailable");
    let issuer = Scripted::on(tokio::net::TcpListener::bind(nobody).await.unwrap(), None);
    issuer.always_this(RawResponse::json(&serde_json::json!({ "access_token": "t" })));
    served(&world).await;
}

#[tokio::test]
async fn t37_reset_connection_is_token_unavailable() {
    let world = failing(RawResponse::drop()).await;
    world.get("/").await.expect_problem(503, "token_unavailable");
}

#[tokio::test]
async fn t37_unknown_name_is_token_unavailable() {
    let world = Setup::new().await.issuer("token_url = \"https://issuer.invalid/token\"").start().await;
    world.get("/").await.expect_problem(503, "token_unavailable");
}

#[tokio::test]
async fn t38_silent_issuer_times_out_and_its_connection_is_closed() {
    let setup = Setup::new().await;
    setup.issuer.next(RawResponse::hang());
    let world = setup.issuer("timeout = \"700ms\"").start().await;
    world.get("/").await.expect_problem(504, "token_timeout");
    eventually("the connection to be closed", || async { (world.issuer().closed() == 1).then_some(()) })
        .await;
    served(&world).await;
    assert_eq!(world.issuer().last().connection, 1);
}

#[tokio::test]
async fn t39_response_that_stops_in_the_middle_times_out() {
    let half =
        RawResponse::raw("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"access_token\":").then_hang();
    let setup = Setup::new().await;
    setup.issuer.always_this(half);
    let world = setup.issuer("timeout = \"700ms\"").start().await;
    world.get("/").await.expect_problem(504, "token_timeout");
}

#[tokio::test]
async fn t40_dripping_response_times_out_as_a_whole() {
    let drip = RawResponse::raw("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n")
        .then_drip(" ".repeat(500), Duration::from_millis(100));
    let setup = Setup::new().await;
    setup.issuer.always_this(drip);
    let world = setup.issuer("timeout = \"700ms\"").start().await;
    let started = std::time::Instant::now();
    world.get("/").await.expect_problem(504, "token_timeout");
    assert!(started.elapsed() < PATIENCE);
}

#[tokio::test]
async fn t41_everyone_waits_for_one_slow_fetch_and_one_who_leaves_does_not_cancel_it() {
    let setup = Setup::new().await;
    let gate = Gate::new();
    setup.issuer.always_this(RawResponse::token("late").gated(&gate));
    let world = setup.start().await;
    let mut leaver = world.connect().await;
    leaver.send(&RawRequest::get("/")).await;
    world.issuer().request(1).await;
    let mut waiting = Vec::new();
    for _ in 0..500 {
        let mut client = world.connect().await;
        client.send(&RawRequest::get("/")).await;
        waiting.push(client);
    }
    let waiters = || world.metric("bearerd_token_waiters", &[("issuer", "corp")]);
    eventually("501 waiters", || async { (waiters().await == Some(501.0)).then_some(()) }).await;
    drop(leaver);
    eventually("500 waiters", || async { (waiters().await == Some(500.0)).then_some(()) }).await;
    gate.open();
    for mut client in waiting {
        client.response().await.expect_status(200);
    }
    assert_eq!(world.issuer().count(), 1);
    assert_eq!(world.upstream().count(), 500);
}

#[tokio::test]
async fn t43_issuer_with_a_bad_certificate_gets_no_secret() {
    let stranger = Ca::new("a stranger").issue(&["localhost"]);
    for identity in [ca().issue_expired(&["localhost"]), ca().issue(&["elsewhere.test"]), stranger] {
        let setup =
            Setup::with(Scripted::start(Some(identity.server(&[]))).await, Scripted::upstream().await);
        setup.file("ca.pem", &ca().pem);
        let world = setup.issuer("tls = { ca = { file = \"ca.pem\" } }").start().await;
        world.get("/").await.expect_problem(503, "token_unavailable");
        assert!(world.issuer().accepted() >= 1);
        assert_eq!(world.issuer().count(), 0);
    }
}

#[tokio::test]
async fn t43_issuer_whose_certificate_is_good_works_over_tls() {
    let issuer = Scripted::start(Some(localhost().server(&[]))).await;
    issuer.always_this(RawResponse::token("over-tls"));
    let setup = Setup::with(issuer, Scripted::upstream().await);
    setup.file("ca.pem", &ca().pem);
    let world = setup.issuer("tls = { ca = { file = \"ca.pem\" } }").start().await;
    world.get("/").await.expect_status(200);
    assert_eq!(world.upstream().last().bearer(), Some("over-tls"));
}

#[tokio::test]
async fn t43_handshake_that_hangs_times_out() {
    let silent = Manual::start().await;
    let url = format!("https://localhost:{}/token", silent.address.port());
    let setup = Setup::new().await;
    setup.file("ca.pem", &ca().pem);
    let keys = "timeout = \"3s\"\ntls = { ca = { file = \"ca.pem\" } }";
    let world = setup.issuer(&format!("token_url = \"{url}\"\n{keys}")).start().await;
    let mut wire = silent.accept().await;
    world.get("/").await.expect_problem(504, "token_timeout");
    let hello = wire.some().await.unwrap();
    assert_eq!(hello.first(), Some(&0x16), "a TLS handshake record and nothing in clear text");
}

#[tokio::test]
async fn t44_connection_that_the_issuer_closed_is_not_felt() {
    let setup = Setup::new().await;
    setup.issuer.always(|_, n| RawResponse::token_for(&format!("token-{n}"), 2).then_close());
    let world = setup.issuer("refresh_at = 0.3").start().await;
    eventually("three token requests", || async {
        world.get("/").await.expect_status(200);
        (world.issuer().count() >= 3).then_some(())
    })
    .await;
}

#[tokio::test]
async fn t45_flapping_issuer_is_not_felt_while_a_token_is_valid() {
    let setup = Setup::new().await;
    setup.issuer.always(|_, n| match n % 2 {
        1 => RawResponse::token_for(&format!("token-{n}"), 8),
        _ => RawResponse::status(500),
    });
    let world = setup.issuer("refresh_at = 0.1").start().await;
    eventually("five token requests", || async {
        world.get("/").await.expect_status(200);
        (world.issuer().count() >= 5).then_some(())
    })
    .await;
}

#[tokio::test]
async fn all_addresses_of_the_issuers_name_are_tried() {
    let setup = Setup::new().await;
    // `localhost` is ::1 as well on most machines, where nobody listens.
    let url = setup.issuer.url.replace("127.0.0.1", "localhost");
    let world = setup.issuer(&format!("token_url = \"{url}/token\"")).start().await;
    world.get("/").await.expect_status(200);
}
