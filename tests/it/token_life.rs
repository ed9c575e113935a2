//! One token for many callers, renewed in time, never sent too late: rows T50 to T65.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::support::h2::{H2Client, whole};
use crate::support::jwt;
use crate::support::response::BRIEF;
use crate::support::tls::{ca, localhost};
use crate::support::{Gate, RawRequest, RawResponse, Scripted, Setup, World, eventually, stays};

/// Ten HTTP/2 connections with 100 requests each, all at the same time; their statuses.
async fn thousand_requests(world: &World) -> Vec<u16> {
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let client = H2Client::plain(world.address("main")).await;
        for _ in 0..100 {
            let mut client = client.clone();
            let request = client.request("GET", "/").body(whole("")).unwrap();
            calls.spawn(async move { client.exchange(request).await.status });
        }
    }
    calls.join_all().await
}

fn tokens_for(setup: &Setup, seconds: i64) {
    setup.issuer.always(move |_, n| RawResponse::token_for(&format!("token-{n}"), seconds));
}

#[tokio::test]
async fn t50_thousand_cold_requests_make_one_token_request() {
    let setup = Setup::new().await;
    let gate = Gate::new();
    setup.issuer.always_this(RawResponse::token("t").gated(&gate));
    let world = setup.start().await;
    let opening = async {
        let waiters = || world.metric("bearerd_token_waiters", &[("issuer", "corp")]);
        eventually("1000 waiters", || async { (waiters().await == Some(1000.0)).then_some(()) }).await;
        gate.open();
    };
    let (statuses, ()) = tokio::join!(thousand_requests(&world), opening);
    assert!(statuses.iter().all(|status| *status == 200));
    assert_eq!(world.issuer().count(), 1);
    assert_eq!(world.upstream().count(), 1000);
}

#[tokio::test]
async fn t51_thousand_cold_requests_fail_together_with_one_token_request() {
    let setup = Setup::new().await;
    let gate = Gate::new();
    setup.issuer.always_this(RawResponse::status(500).header("retry-after", "60").gated(&gate));
    let world = setup.start().await;
    let opening = async {
        world.issuer().request(1).await;
        gate.open();
    };
    let (statuses, ()) = tokio::join!(thousand_requests(&world), opening);
    assert!(statuses.iter().all(|status| *status == 503));
    assert_eq!(world.issuer().count(), 1);
    assert_eq!(world.upstream().count(), 0);
}

#[tokio::test]
async fn each_credential_is_fetched_at_start_without_holding_up_the_listeners() {
    let setup = Setup::new().await;
    let gate = Gate::new();
    setup.issuer.always_this(RawResponse::token("t").gated(&gate));
    let world = setup.start().await;
    world.issuer().request(1).await;
    world.get("/../x").await.expect_problem(400, "bad_request");
    assert_eq!(world.admin("/livez").await.status, 200);
    gate.open();
    world.ready().await;
    assert_eq!(world.upstream().count(), 0);
}

#[tokio::test]
async fn t52_renewal_is_one_request_that_no_request_waits_for() {
    let setup = Setup::new().await;
    let gate = Gate::new();
    let answer = gate.clone();
    setup.issuer.always(move |_, n| match n {
        1 => RawResponse::token_for("old", 30),
        _ => RawResponse::token("new").gated(&answer),
    });
    let world = setup.issuer("refresh_at = 0.05\ntimeout = \"20s\"").start().await;
    eventually("the renewal", || async {
        world.get("/").await.expect_status(200);
        (world.issuer().count() == 2).then_some(())
    })
    .await;
    for _ in 0..100 {
        world.get("/").await.expect_status(200);
        assert_eq!(world.upstream().last().bearer(), Some("old"));
    }
    assert_eq!(world.issuer().count(), 2);
    gate.open();
    eventually("the new token", || async {
        world.get("/").await.expect_status(200);
        (world.upstream().last().bearer() == Some("new")).then_some(())
    })
    .await;
    assert_eq!(world.issuer().count(), 2);
}

#[tokio::test]
async fn t53_failed_renewal_leaves_the_valid_token_serving() {
    let setup = Setup::new().await;
    setup.issuer.next(RawResponse::token_for("old", 30));
    setup.issuer.always_this(RawResponse::status(500));
    let world = setup.issuer("refresh_at = 0.05").start().await;
    world.ready().await;
    eventually("a second try of the renewal", || async {
        world.get("/").await.expect_status(200);
        (world.issuer().count() >= 3).then_some(())
    })
    .await;
    assert_eq!(world.upstream().last().bearer(), Some("old"));
    assert_eq!(world.admin("/readyz").await.status, 200);
    let failed = world.metric("bearerd_token_requests_total", &[("issuer", "corp")]).await.unwrap();
    assert!(failed >= 3.0);
}

#[tokio::test]
async fn t54_expired_token_is_never_sent() {
    let setup = Setup::new().await;
    setup.issuer.next(RawResponse::token_for("short", 3));
    setup.issuer.always_this(RawResponse::status(503));
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    let failed = eventually("the token to expire", || async {
        let response = world.get("/").await;
        (response.status != 200).then_some(response)
    })
    .await;
    failed.expect_problem(503, "token_unavailable");
    assert!(failed.header("retry-after").is_some());
    let asked = world.issuer().requests()[0].at;
    let last = world.upstream().last().at;
    // What was sent in time may arrive a while after. The end to the second is in `clocks::t54_…`.
    assert!(last - asked < Duration::from_secs(10), "{:?}", last - asked);
    let count = world.upstream().count();
    for _ in 0..5 {
        world.get("/").await.expect_problem(503, "token_unavailable");
    }
    assert_eq!(world.upstream().count(), count);
}

#[tokio::test]
async fn t55_recovery_is_one_request_and_then_all_flow() {
    let setup = Setup::new().await;
    setup.issuer.next(RawResponse::status(500));
    let world = setup.start().await;
    world.get("/").await.expect_problem(503, "token_unavailable");
    eventually("a served call", || async { (world.get("/").await.status == 200).then_some(()) }).await;
    for _ in 0..20 {
        world.get("/").await.expect_status(200);
    }
    assert_eq!(world.issuer().count(), 2);
}

#[tokio::test]
async fn t56_jitter_spreads_renewals_and_only_makes_them_earlier() {
    let setup = Setup::new().await;
    tokens_for(&setup, 1000);
    let mut more = String::new();
    for n in 0..8 {
        more += &format!(
            "[[route]]\nname = \"r{n}\"\npath_prefix = \"/r{n}\"\nupstream = \"{{upstream}}\"\nissuer = \"corp\"\n\
             params = {{ replica = {n} }}\n"
        );
    }
    let world = setup.route("anonymous = true").more(&more).start().await;
    for n in 0..8 {
        world.get(&format!("/r{n}")).await.expect_status(200);
    }
    let status = world.status().await;
    let renewed_early = |token: &Value| {
        let at = |name: &str| humantime::parse_rfc3339(token[name].as_str().unwrap()).unwrap();
        at("expires_at").duration_since(at("renew_at")).unwrap().as_secs()
    };
    let early: Vec<u64> = status["tokens"].as_array().unwrap().iter().map(renewed_early).collect();
    let (least, most) = (early.iter().min().unwrap(), early.iter().max().unwrap());
    // 200 s before they expire is `refresh_at`, and the jitter is a tenth of their lifetime.
    assert!(early.len() == 8 && *least >= 199 && *most <= 301 && most - least > 2, "{early:?}");
}

#[tokio::test]
async fn t57_unused_token_is_not_renewed_and_the_next_request_fetches_it() {
    let setup = Setup::new().await;
    tokens_for(&setup, BRIEF);
    let world = setup.start().await;
    world.issuer().request(1).await;
    stays(Duration::from_millis(2500), || world.issuer().count()).await;
    world.get("/").await.expect_status(200);
    assert_eq!(world.upstream().last().bearer(), Some("token-2"));
}

fn route(name: &str, keys: &str) -> String {
    format!(
        "[[route]]\nname = \"{name}\"\npath_prefix = \"/{name}\"\nupstream = \"{{upstream}}/{name}\"\n{keys}\n"
    )
}

/// The tokens that requests to these routes carry.
async fn tokens(world: &World, routes: &[&str]) -> Vec<String> {
    let mut tokens = Vec::new();
    for route in routes {
        world.get(&format!("/{route}")).await.expect_status(200);
        tokens.push(world.upstream().last().bearer().unwrap().to_owned());
    }
    tokens
}

#[tokio::test]
async fn t58_same_key_shares_a_token_and_another_key_does_not() {
    let more = [
        route("a", "issuer = \"corp\"\nscopes = [\"x\", \"y\"]"),
        route("b", "issuer = \"corp\"\nscopes = [\"y\", \"x\"]"),
        route("c", "issuer = \"corp\"\nscopes = [\"x\"]"),
        route("d", "issuer = \"corp\"\nscopes = [\"x\"]\nparams = { resource = \"https://d\" }"),
        route("e", "issuer = \"twin\"\nscopes = [\"x\"]"),
    ]
    .concat();
    let twin = "[issuer.twin]\ntoken_url = \"{issuer}/token\"\nclient_id = \"client-1\"\n\
                client_secret = { file = \"secret\" }\n";
    let world = Setup::new().await.route("anonymous = true").more(twin).more(&more).start().await;
    let tokens = tokens(&world, &["a", "b", "c", "d", "e"]).await;
    assert_eq!(tokens[0], tokens[1]);
    let distinct: BTreeSet<&String> = tokens.iter().collect();
    assert_eq!(distinct.len(), 4, "{tokens:?}");
    assert_eq!(world.issuer().count(), 4);
}

#[tokio::test]
async fn t59_keys_that_look_alike_are_told_apart() {
    let more = [
        route("a", "issuer = \"corp\"\nparams = { a = \"1\", b = \"2\" }"),
        route("b", "issuer = \"corp\"\nparams = { a = \"1&b=2\" }"),
        route("c", "issuer = \"corp\"\nparams = { a = [\"1\", \"2\"] }"),
        route("d", "issuer = \"corp\"\nparams = { a = [\"1,2\"] }"),
        route("e", "issuer = \"corp\"\nscopes = [\"x\"]\nparams = { a = \"1\" }"),
        route("f", "issuer = \"corp\"\nparams = { a = 1 }"),
        route("g", "issuer = \"corp\"\nparams = { a = \"1 x\" }"),
    ]
    .concat();
    let world = Setup::new().await.route("anonymous = true").more(&more).start().await;
    let tokens = tokens(&world, &["a", "b", "c", "d", "e", "f", "g"]).await;
    let distinct: BTreeSet<&String> = tokens.iter().collect();
    assert_eq!(distinct.len(), 7, "{tokens:?}");
}

#[tokio::test]
async fn routes_never_get_each_others_tokens_under_load() {
    let more = [
        route("a", "issuer = \"corp\"\nscopes = [\"a\"]"),
        route("b", "issuer = \"corp\"\nscopes = [\"b\"]"),
    ];
    let setup = Setup::new().await;
    setup
        .issuer
        .always(|request, n| RawResponse::token_for(&format!("{}-{n}", request.params("scope")[0]), BRIEF));
    let world = setup.route("anonymous = true").more(&more.concat()).start().await;
    let mut calls = tokio::task::JoinSet::new();
    let client = H2Client::plain(world.address("main")).await;
    for n in 0..400 {
        let mut client = client.clone();
        calls.spawn(async move {
            let target = if n % 2 == 0 { "/a" } else { "/b" };
            client.get(target).await.status
        });
    }
    assert!(calls.join_all().await.iter().all(|status| *status == 200));
    for request in world.upstream().requests() {
        let route = request.target().trim_start_matches('/').to_owned();
        assert!(request.bearer().unwrap().starts_with(&format!("{route}-")), "{}", request.head.start);
    }
}

#[tokio::test]
async fn t63_lifetime_counts_from_when_the_token_was_requested() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::token_for("slow", 100).delayed(Duration::from_secs(2)));
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    let asked =
        world.issuer().requests()[0].wall.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let expiry = world.metric("bearerd_token_expiry_timestamp_seconds", &[("issuer", "corp")]).await.unwrap();
    assert!(expiry <= asked + 100.6, "{} after it was asked for", expiry - asked);
}

#[tokio::test]
async fn t64_token_is_opaque() {
    // Says of itself that it expired in 2001.
    let jwt = "eyJhbGciOiJub25lIn0.eyJleHAiOjEwMDAwMDAwMDB9.c2ln";
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::token(jwt));
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    assert_eq!(world.upstream().last().bearer(), Some(jwt));
    world.get("/").await.expect_status(200);
    assert_eq!(world.issuer().count(), 1);
}

#[tokio::test]
async fn request_waits_no_longer_than_the_issuers_timeout() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::hang());
    let world = setup.issuer("timeout = \"800ms\"").start().await;
    let started = std::time::Instant::now();
    world.exchange(RawRequest::get("/")).await.expect_problem(504, "token_timeout");
    // Without the key it would be ten.
    assert!(started.elapsed() < Duration::from_secs(9));
}

#[tokio::test]
async fn token_request_is_what_rfc_6749_says() {
    let world = Setup::new().await.issuer("scopes = [\"b\", \"a\"]").start().await;
    let request = world.issuer().request(1).await;
    assert_eq!(request.method(), "POST");
    assert_eq!(request.target(), "/token");
    assert_eq!(request.header("content-type"), Some("application/x-www-form-urlencoded"));
    assert!(request.header("accept").unwrap().contains("application/json"));
    assert_eq!(request.params("grant_type"), ["client_credentials"]);
    let scope = request.params("scope").join(",");
    assert!(scope == "a b" || scope == "b a", "{scope}");
    assert_eq!(request.form().len(), 2);
    assert_eq!(request.basic().unwrap(), "client-1:s3cr3t-of-the-scene");
}

#[tokio::test]
async fn t104_changed_client_certificate_replaces_the_token_without_a_401() {
    let issuer = Scripted::start(Some(ca().server_asking(&localhost(), &[]))).await;
    issuer.always(|_, n| RawResponse::token(&format!("token-{n}")));
    let setup = Setup::with(issuer, Scripted::upstream().await);
    let write = |setup: &dyn Fn(&str, &str)| {
        let client = ca().issue(&["client.test"]);
        // The key first: nothing is bound to that, and the pair is looked at when the certificate comes.
        setup("key.pem", &client.key_pem);
        setup("cert.pem", &client.certificate_pem);
    };
    setup.file("ca.pem", &ca().pem);
    write(&|name, content| _ = setup.file(name, content));
    let tls = "tls = { ca = { file = \"ca.pem\" }, certificate = { file = \"cert.pem\" }, private_key = { file = \"key.pem\" } }";
    let world = setup.issuer(tls).start().await;
    world.get("/").await.expect_status(200);
    world.file("secret", "another");
    world.reload().await;
    world.get("/").await.expect_status(200);
    assert_eq!(world.upstream().last().bearer(), Some("token-1"), "T94: another secret is no reason");

    write(&|name, content| _ = world.file(name, content));
    eventually("a token of the new certificate", || async {
        let response = world.get("/").await;
        (response.status == 200 && world.upstream().last().bearer() == Some("token-2")).then_some(())
    })
    .await;
    let forced = world.metric("bearerd_refreshes_forced_total", &[("route", "api")]).await;
    assert!(forced.unwrap_or(0.0) < 0.5, "no upstream refused anything");

    // It was not fetched because of a 401, so a 401 drops it at once.
    world.upstream().next(RawResponse::unauthorized());
    world.get("/").await.expect_status(200);
    assert_eq!(world.upstream().last().bearer(), Some("token-3"));
}

#[tokio::test]
async fn routes_subject_is_in_the_assertion_and_is_a_token_of_its_own() {
    let setup = Setup::new().await;
    setup.file("key.pem", jwt::key("rsa.pkcs8.pem"));
    let issuer = "client_id = \"app\"\nclient_auth = \"none\"\nprivate_key = { file = \"key.pem\" }\n\
                  jwt = { use = \"assertion\", subject = \"everybody\" }\n# client_secret";
    let routes = "[[route]]\nname = \"seven\"\npath_prefix = \"/seven\"\nupstream = \"{upstream}\"\nissuer = \"corp\"\n\
                  subject = \"user-7\"\n[[route]]\nname = \"again\"\npath_prefix = \"/again\"\n\
                  upstream = \"{upstream}\"\nissuer = \"corp\"\nsubject = \"user-7\"";
    setup.issuer.always(|request, _| {
        let (_, claims) = jwt::verify(&request.params("assertion")[0], &jwt::key("rsa.public.pem"), "RS256");
        RawResponse::token(&format!("for-{}", claims["sub"].as_str().unwrap()))
    });
    let world = setup.issuer(issuer).more(routes).start().await;
    for (path, token) in [("/", "for-everybody"), ("/seven", "for-user-7"), ("/again", "for-user-7")] {
        world.get(path).await.expect_status(200);
        assert_eq!(world.upstream().last().bearer(), Some(token), "{path}");
    }
    assert_eq!(world.issuer().count(), 2, "one for each subject");
}
