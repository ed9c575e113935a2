//! A token that goes up as a parameter of the query.

use crate::support::cli::run;
use crate::support::h2::{EchoUpstream, H2Client};
use crate::support::{RawRequest, RawResponse, Setup, World};

const QUERY: &str = "inject = { query = \"access_token\" }";

async fn scene(route: &str) -> World {
    Setup::new().await.route(&format!("{QUERY}\n{route}")).start().await
}

/// The target of the last request that the upstream saw.
async fn target(world: &World, call: RawRequest) -> String {
    world.exchange(call).await.expect_status(200);
    world.upstream().last().target().to_owned()
}

#[tokio::test]
async fn token_goes_up_as_the_first_parameter_once_and_escaped() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::token("a+b/c=&d~e%"));
    let world = setup.route(QUERY).start().await;
    let escaped = "a%2Bb%2Fc%3D%26d~e%25";
    for (asked, expected) in [
        ("/x", format!("/x?access_token={escaped}")),
        ("/x?", format!("/x?access_token={escaped}")),
        ("/x?a=%20+&b&&c=;%zz", format!("/x?access_token={escaped}&a=%20+&b&&c=;%zz")),
        ("/", format!("/?access_token={escaped}")),
    ] {
        assert_eq!(target(&world, RawRequest::get(asked)).await, expected);
    }
    assert_eq!(world.upstream().last().header("authorization"), None);
}

#[tokio::test]
async fn every_form_of_the_callers_own_parameter_is_taken_out_and_the_rest_stays() {
    let world = scene("").await;
    for own in [
        "access_token=mine",
        "access_token",
        "%61ccess%5Ftoken=mine",
        "Access_Token=mine",
        "access+token=mine",
        "access_token[]=mine",
        "access_token=mine&x=%2B&access_token=mine",
        "[access_token]=mine",
        "%5Baccess_token%5D=mine",
        "access.token=mine",
        "access%20token=mine",
        "access_token[a][]=mine",
        "?access_token=mine",
        "%u0061ccess_token=mine",
    ] {
        let kept = if own.contains("x=") { "x=%2B&" } else { "" };
        let found = target(&world, RawRequest::get(&format!("/p?a=1&{own}&b=%61;c"))).await;
        assert_eq!(found, format!("/p?access_token=token-1&a=1&{kept}b=%61;c"), "{own}");
    }
    let call = RawRequest::get("/p?access_tokens=1").header("authorization", "Bearer mine");
    assert_eq!(target(&world, call).await, "/p?access_token=token-1&access_tokens=1");
    assert_eq!(world.upstream().last().header("authorization"), None, "the caller's own is gone");
}

#[tokio::test]
async fn path_of_route_and_upstream_are_joined_as_ever() {
    let setup = Setup::new().await;
    let upstream = format!("{}/api/v2/", setup.upstream.url);
    let route = format!("upstream = \"{upstream}\"\npath_prefix = \"/billing\"\n{QUERY}");
    let world = setup.route(&route).start().await;
    assert_eq!(target(&world, RawRequest::get("/billing/x?y")).await, "/api/v2/x?access_token=token-1&y");
    assert_eq!(target(&world, RawRequest::get("/billing")).await, "/api/v2/?access_token=token-1");
}

#[tokio::test]
async fn keep_and_reject_look_at_the_callers_parameter_too() {
    let world = scene("caller_authorization = \"keep\"").await;
    for own in ["/x?a&access_token=mine&b", "/x?%61ccess_token=mine"] {
        assert_eq!(target(&world, RawRequest::get(own)).await, own, "the caller's, as it came");
    }
    let call = RawRequest::get("/x?a").header("authorization", "Bearer mine");
    assert_eq!(target(&world, call).await, "/x?a");
    assert_eq!(world.upstream().last().header("authorization"), Some("Bearer mine"));
    assert_eq!(target(&world, RawRequest::get("/x?a")).await, "/x?access_token=token-1&a");

    world.upstream().always_this(RawResponse::unauthorized());
    let before = world.upstream().count();
    world.get("/x?access_token=mine").await.expect_status(401);
    assert_eq!((world.upstream().count() - before, world.issuer().count()), (1, 1), "touches no token");

    let world = scene("caller_authorization = \"reject\"").await;
    world.get("/x?access_token=mine").await.expect_problem(400, "authorization_refused");
    world.get("/x?b=1").await.expect_status(200);
    let call = RawRequest::get("/x").header("authorization", "Bearer mine");
    world.exchange(call).await.expect_problem(400, "authorization_refused");
}

#[tokio::test]
async fn replay_carries_the_new_token_instead_of_the_old_one() {
    let setup = Setup::new().await;
    setup.upstream.always(|request, _| match request.target().contains("token-1") {
        true => RawResponse::unauthorized(),
        false => RawResponse::ok(request.body.data.clone()),
    });
    let world = setup.route(QUERY).start().await;
    let response = world.exchange(RawRequest::post("/x?a=1&access_token=mine&b=2", "body")).await;
    response.expect_status(200);
    assert_eq!(response.text(), "body");
    let targets: Vec<_> =
        world.upstream().requests().iter().map(|request| request.target().to_owned()).collect();
    assert_eq!(targets, ["/x?access_token=token-1&a=1&b=2", "/x?access_token=token-2&a=1&b=2"]);
}

#[tokio::test]
async fn locations_made_from_our_url_lose_the_token() {
    let setup = Setup::new().await;
    let world = {
        setup.upstream.always(|request, _| {
            let found = request.target().replacen("/x", "/x/", 1);
            RawResponse::status(301).header("location", &found).header("content-location", &found)
        });
        setup.route(QUERY).start().await
    };
    let response = world.get("/x?a=1").await;
    response.expect_status(301);
    assert_eq!(response.header("location"), Some("/x/?a=1"));
    assert_eq!(response.header("content-location"), Some("/x/?a=1"));
    world.upstream().always(|request, _| {
        let next = format!("<https://api.example{}&page=2>; rel=\"next\"", request.target());
        let login = format!("https://login.example/?to={}", request.target());
        RawResponse::ok("")
            .header("link", "</a>; rel=up")
            .header("link", &next)
            .header("refresh", &format!("5; url={login}"))
    });
    let response = world.get("/x?a=1").await;
    let links = response.headers("link");
    assert_eq!(links, ["</a>; rel=up", "<https://api.example/x?a=1&page=2>; rel=\"next\""]);
    assert!(!response.header("refresh").unwrap().contains("token-1"), "{:?}", response.header("refresh"));
    let elsewhere = "https://elsewhere.example/?access_token=theirs";
    world.upstream().always_this(RawResponse::status(302).header("location", elsewhere));
    assert_eq!(world.get("/x").await.header("location"), Some(elsewhere));
}

#[tokio::test]
async fn token_in_the_query_reaches_no_log_no_error_no_metric_and_no_page() {
    let token = "canary-token-7d1f";
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::token(token));
    setup.upstream.next(RawResponse::status(302).header("location", &format!("/y?access_token={token}")));
    setup.upstream.next(RawResponse::unauthorized());
    setup.upstream.next(RawResponse::ok("ok"));
    setup.upstream.always_this(RawResponse::raw("nonsense\r\n\r\n"));
    let world = setup.log("level = \"trace\"").route(QUERY).start().await;
    let mut seen = String::new();
    for _ in 0..3 {
        let response = world.get("/x?own=canary-own").await;
        seen.push_str(&String::from_utf8_lossy(&response.head.raw));
        seen.push_str(&response.text());
    }
    assert!(seen.contains("upstream_invalid"), "{seen}");
    assert!(world.upstream().last().target().contains(token), "the upstream has it");
    for page in ["/status", "/metrics", "/readyz?verbose", "/"] {
        seen.push_str(&world.admin(page).await.text());
    }
    let explained =
        run(world.folder(), &["explain", "GET", "/x?own=canary-own&access_token=canary-mine"]).await;
    explained.expect_code(0);
    seen.push_str(&explained.all());
    world.log().wait("the last request's line", |line| line.contains("\"status\":502")).await;
    seen.push_str(&world.log().text());
    assert!(!seen.contains("canary-"), "{seen}");
}

#[tokio::test]
async fn token_in_the_query_goes_over_http2_and_is_not_logged_there() {
    let upstream = EchoUpstream::plain().await;
    let token = "canary-token-8e2a";
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::token(token));
    let keys = format!("upstream = \"{}\"\nprotocol = \"http2\"\n{QUERY}", upstream.url);
    let world = setup.log("level = \"trace\"").route(&keys).start().await;
    let mut client = H2Client::plain(world.address("main")).await;
    let response = client.get("/x?a=1&access_token=mine").await;
    assert_eq!(response.status, 200);
    assert_eq!(upstream.last().target, format!("/x?access_token={token}&a=1"));
    assert!(!world.log().text().contains(token));
}

#[tokio::test]
async fn explain_says_which_parameter_carries_the_token() {
    let setup = Setup::new().await.route(QUERY);
    setup.write();
    let explained = run(setup.folder(), &["explain", "GET", "/x?a=1"]).await;
    explained.expect_code(0);
    assert!(explained.stdout.contains("query parameter access_token"), "{}", explained.stdout);
    assert!(explained.stdout.contains("then the query with our `access_token`"), "{}", explained.stdout);
    let explained =
        run(setup.folder(), &["explain", "--output", "json", "GET", "/x?access%5Ftoken=mine"]).await;
    let answer = &explained.json()["results"][0];
    assert_eq!(answer["sent"]["credential"]["inject_query"], "access_token");
    assert_eq!(answer["notes"][0], "this request's `access_token` in the query is replaced");
}
