//! `{ issuer = "NAME" }`: the token of one issuer as a credential at another.

use std::time::Duration;

use crate::support::response::BRIEF;
use crate::support::{RawResponse, Recorded, Scripted, Setup, World, cli, eventually, stays};

/// The scene's issuer `corp`, which takes the token of `inner`, and a server for `inner`.
async fn scene(keys: &str) -> (Setup, Scripted) {
    let inner = Scripted::issuer().await;
    inner.always(|_, n| RawResponse::token_for(&format!("canary-inner-{n}"), 3600));
    let setup = Setup::new().await.issuer(keys).more(&inner_table(&inner));
    (setup, inner)
}

fn inner_table(inner: &Scripted) -> String {
    format!(
        "[issuer.inner]\ntoken_url = \"{}/token\"\nclient_id = \"i\"\nclient_secret = {{ file = \"secret\" }}\nscopes = [\"own\"]\nparams = {{ a = \"1\" }}",
        inner.url
    )
}

const ASSERTION: &str = "client_auth = \"assertion_file\"\n# client_secret\nassertion = { issuer = \"inner\" }\ncredential_grace = \"0s\"";

fn assertions(world: &World) -> Vec<String> {
    let of = |request: &Recorded| request.params("client_assertion").join(",");
    world.issuer().requests().iter().map(|request| of(request)).collect()
}

#[tokio::test]
async fn the_token_of_an_issuer_is_a_value_at_another() {
    let (setup, inner) = scene(
        "client_secret = { issuer = \"inner\" }
         headers = { x-token = { issuer = \"inner\", scopes = [\"other\"] } }
         params = { subject_token = { issuer = \"inner\", params = { audience = \"x\" } }, list = [{ issuer = \"inner\" }] }",
    )
    .await;
    inner.always(|request, _| {
        let scope = request.params("scope").join(" ");
        RawResponse::token_for(
            &format!(
                "canary-{scope}-{}-{}",
                request.params("a").join(""),
                request.params("audience").join("")
            ),
            3600,
        )
    });
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    let request = world.issuer().request(1).await;
    assert_eq!(request.basic().as_deref(), Some("client-1:canary-own-1-"));
    assert_eq!(request.header("x-token"), Some("canary-other-1-"));
    assert_eq!(request.params("subject_token"), ["canary-own-1-x"]);
    assert_eq!(request.params("list"), ["canary-own-1-"]);
    assert_eq!(inner.count(), 3, "one for each token");
    let status = world.status().await;
    let tokens = status["tokens"].as_array().unwrap();
    let outer = tokens.iter().find(|token| token["issuer"] == "corp").unwrap();
    assert_eq!(outer["inner"], serde_json::json!(["inner"]), "each issuer once");
    // What the upstream gets is the outer token alone.
    let upstream = world.upstream().request(1).await;
    assert_eq!(upstream.bearer(), Some("token-1"));
    assert!(!upstream.text().contains("canary"));
    expect_no_canary(&world).await;
}

async fn expect_no_canary(world: &World) {
    assert!(!world.log().text().contains("canary"), "{}", world.log().text());
    for page in ["/status", "/readyz?verbose", "/metrics", "/"] {
        assert!(!world.admin(page).await.text().contains("canary"), "{page}");
    }
}

#[tokio::test]
async fn both_legs_are_fetched_before_the_first_request_and_listed() {
    let (setup, inner) = scene(ASSERTION).await;
    let world = setup.start().await;
    world.ready().await;
    assert_eq!((inner.count(), world.issuer().count()), (1, 1));
    assert_eq!(assertions(&world), ["canary-inner-1"]);
    let status = world.status().await;
    let tokens = status["tokens"].as_array().unwrap();
    let of = |issuer: &str| tokens.iter().find(|token| token["issuer"] == issuer).unwrap();
    assert_eq!(of("corp")["inner"], serde_json::json!(["inner"]));
    assert_eq!(of("inner")["outer"], serde_json::json!(["corp"]));
    assert_eq!(of("inner")["routes"], serde_json::json!(["api"]));
    assert_eq!(of("inner")["state"], "valid");
    let ready = world.admin("/readyz?verbose").await.text();
    assert!(
        ready.contains("token of issuer inner for issuer corp, route api (scopes own): valid"),
        "{ready}"
    );
}

#[tokio::test]
async fn the_wait_for_the_inner_token_is_no_part_of_the_outer_ones_lifetime() {
    let (setup, inner) = scene(ASSERTION).await;
    inner.always_this(RawResponse::token("canary-inner").delayed(Duration::from_secs(3)));
    setup.issuer.always(|_, n| RawResponse::token_for(&format!("token-{n}"), 3));
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
}

#[tokio::test]
async fn the_inner_token_is_used_again_and_renewed_by_itself() {
    let (setup, inner) = scene(ASSERTION).await;
    setup.issuer.always(|_, n| RawResponse::brief_token(n));
    let world = setup.start().await;
    eventually("three outer tokens", || async {
        world.get("/").await.expect_status(200);
        (world.issuer().count() >= 3).then_some(())
    })
    .await;
    assert_eq!(inner.count(), 1);

    // The outer token lives long and is in use, so the inner one is renewed although no token request uses it.
    let (setup, inner) = scene(ASSERTION).await;
    setup.issuer.always(|_, n| RawResponse::token_for(&format!("token-{n}"), 3600));
    inner.always(|_, n| RawResponse::token_for(&format!("canary-inner-{n}"), BRIEF));
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    eventually("the inner token to be renewed", || async { (inner.count() >= 3).then_some(()) }).await;
    assert_eq!(world.issuer().count(), 1);
}

#[tokio::test]
async fn rotation_of_both_legs_under_steady_requests_loses_none() {
    let (setup, inner) = scene(ASSERTION).await;
    inner.always(|_, n| RawResponse::token_for(&format!("canary-inner-{n}"), BRIEF));
    setup.issuer.always(|_, n| RawResponse::brief_token(n));
    let world = setup.start().await;
    let mut client = world.connect().await;
    while world.issuer().count() < 4 || inner.count() < 4 {
        client.exchange(&crate::support::RawRequest::get("/")).await.expect_status(200);
    }
}

#[tokio::test]
async fn a_refused_inner_token_is_replaced_once() {
    for error in [(401, "invalid_client"), (400, "invalid_grant")] {
        let (setup, inner) = scene(ASSERTION).await;
        let world = setup.start().await;
        world.ready().await;
        // The inner issuer revoked its token; the outer one takes only the next.
        world.issuer().always(move |request, n| match request.params("client_assertion").join("").as_str() {
            "canary-inner-1" => RawResponse::oauth_error(error.0, error.1),
            _ => RawResponse::token_for(&format!("token-{n}"), 3600),
        });
        world.upstream().next(RawResponse::unauthorized());
        world.get("/").await.expect_status(200);
        assert_eq!(assertions(&world), ["canary-inner-1", "canary-inner-1", "canary-inner-2"]);
        assert_eq!(inner.count(), 2);
    }
}

#[tokio::test]
async fn an_outer_issuer_that_refuses_every_inner_token_costs_few() {
    let (setup, inner) = scene(ASSERTION).await;
    setup.issuer.always(|_, _| RawResponse::oauth_error(401, "invalid_client"));
    let world = setup.start().await;
    let response = world.get("/").await;
    response.expect_problem(502, "token_refused");
    assert!(response.text().contains("issuer corp: "), "{}", response.text());
    assert_eq!(inner.count(), 1, "it was fetched for this request, so another one is no better");
    stays(Duration::from_millis(1500), || (inner.count(), world.issuer().count())).await;
}

#[tokio::test]
async fn a_failure_names_its_leg_and_ends_with_it() {
    let (setup, inner) = scene(ASSERTION).await;
    inner.always(|_, _| RawResponse::oauth_error(401, "invalid_client"));
    let world = setup.start().await;
    inner.request(1).await;
    let response = world.get("/").await;
    response.expect_problem(502, "token_refused");
    let detail = response.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.starts_with(
            "issuer corp: its assertion comes from issuer inner, which gives no token: 127.0.0.1"
        ),
        "{detail}"
    );
    assert!(detail.contains("responded 401 invalid_client") && detail.contains("[issuer.inner]"), "{detail}");
    assert_eq!(world.issuer().count(), 0);
    let ready = world.admin("/readyz").await;
    ready.expect_status(503);
    assert!(ready.text().contains("token of issuer inner for issuer corp, route api"), "{}", ready.text());
    assert!(ready.text().contains("its assertion comes from issuer inner"), "{}", ready.text());

    // The inner credential is corrected, and both legs come back without anything else.
    inner.always(|_, n| RawResponse::token_for(&format!("canary-inner-{n}"), 3600));
    world.file("secret", "another");
    eventually("a token", || async { (world.get("/").await.status == 200).then_some(()) }).await;
    world.ready().await;
}

#[tokio::test]
async fn an_inner_issuer_that_is_away_is_asked_by_its_own_slot_alone() {
    let (setup, inner) = scene(ASSERTION).await;
    inner.always(|_, _| RawResponse::status(503));
    let world = setup.start().await;
    let response = world.get("/").await;
    response.expect_problem(503, "token_unavailable");
    let detail = response.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.contains("its assertion comes from issuer inner") && detail.contains("responded 503"),
        "{detail}"
    );
    inner.always(|_, n| RawResponse::token_for(&format!("canary-inner-{n}"), 3600));
    eventually("a token", || async { (world.get("/").await.status == 200).then_some(()) }).await;
}

#[tokio::test]
async fn three_legs() {
    let third = Scripted::issuer().await;
    let middle = format!(
        "[issuer.middle]\ntoken_url = \"{}/token\"\nclient_auth = \"assertion_file\"\nclient_id = \"m\"\nassertion = {{ issuer = \"inner\" }}",
        third.url
    );
    let keys = "params = { subject_token = { issuer = \"middle\" } }";
    let (setup, inner) = scene(keys).await;
    third.always(|request, _| {
        RawResponse::token(&format!("of-{}", request.params("client_assertion").join("")))
    });
    let world = setup.more(&middle).start().await;
    world.ready().await;
    assert_eq!(world.issuer().request(1).await.params("subject_token"), ["of-canary-inner-1"]);
    assert_eq!((inner.count(), third.count()), (1, 1));

    let (setup, inner) = scene(keys).await;
    inner.always(|_, _| RawResponse::status(503));
    let world = setup.more(&middle).start().await;
    let text = world.get("/").await.text();
    assert!(
        text.contains("issuer corp: its params.subject_token comes from issuer middle, which gives no token: its assertion comes from issuer inner, which gives no token: 127.0.0.1"),
        "{text}"
    );
}

#[tokio::test]
async fn a_reload_that_changes_the_inner_issuer_replaces_both_tokens() {
    let (setup, _inner) = scene(ASSERTION).await;
    let mut world = setup.start().await;
    world.ready().await;
    let other = Scripted::issuer().await;
    other.always_this(RawResponse::token("canary-of-another"));
    let url = other.url.clone();
    world.change(|text| {
        let at = text.find("[issuer.inner]").unwrap();
        let (before, table) = text.split_at(at);
        let from = table.find("http://").unwrap();
        let to = from + table[from..].find("/token").unwrap();
        format!("{before}{}{url}{}", &table[..from], &table[to..])
    });
    world.reload().await;
    eventually("the other one's token", || async {
        world.get("/").await;
        assertions(&world).contains(&"canary-of-another".to_owned()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_verbs_show_the_chain_and_the_leg_that_fails() {
    let (setup, inner) = scene(ASSERTION).await;
    setup.write();
    let explained = cli::run(setup.folder(), &["explain", "GET", "/"]).await;
    explained.expect_code(0);
    assert!(
        explained.all().contains("assertion of `corp` is a token of issuer `inner`, from http://127.0.0.1"),
        "{}",
        explained.all()
    );
    let online = cli::run(setup.folder(), &["check", "--online"]).await;
    online.expect_code(0);
    assert!(online.all().contains("assertion is a token of issuer inner"), "{}", online.all());
    assert!(online.all().contains("for issuer corp"), "{}", online.all());
    let token = cli::run(setup.folder(), &["token", "corp"]).await;
    token.expect_code(0);
    inner.always(|_, _| RawResponse::oauth_error(401, "invalid_client"));
    for args in [&["token", "corp"][..], &["check", "--online"]] {
        let output = cli::run(setup.folder(), args).await;
        output.expect_code(1);
        assert!(
            output.all().contains("its assertion comes from issuer inner, which gives no token"),
            "{}",
            output.all()
        );
        assert!(!output.all().contains("canary"), "{}", output.all());
    }
}

#[tokio::test]
async fn wrong_chains_are_errors_with_their_fix() {
    for (keys, more, expected) in [
        ("client_secret = { issuer = \"iner\" }", "", "client_secret.issuer: there is no issuer \"iner\""),
        ("client_secret = { issuer = \"iner\" }", "", "did you mean `inner`?"),
        ("client_secret = { issuer = \"corp\" }", "", "is a circle: corp -> corp"),
        (
            "client_secret = { issuer = \"b\" }",
            "[issuer.b]\ntoken_url = \"{issuer}/t\"\nclient_id = \"b\"\nclient_secret = { issuer = \"corp\" }",
            "is a circle: b -> corp -> b",
        ),
        (
            "client_id = { issuer = \"inner\" }",
            "",
            "client_id.issuer: a token of another issuer may stand only in",
        ),
        ("private_key = { issuer = \"inner\" }", "", "may stand only in"),
        ("client_secret = { issuer = \"inner\", file = \"x\" }", "", "has both `file` and `issuer`"),
        (
            "client_secret = { issuer = \"inner\", pointer = \"/a\" }",
            "",
            "does not belong to a token of an issuer",
        ),
        ("client_secret = { file = \"x\", scopes = [\"a\"] }", "", "scopes: belongs to `issuer`"),
        ("client_secret = { issuer = \"inner\", scopes = [\"a b\"] }", "", "client_secret.scopes[0]"),
        (
            "client_secret = { issuer = \"inner\", params = { x = { issuer = \"inner\" } } }",
            "",
            "client_secret.params: a parameter of such a token cannot come from a further issuer",
        ),
        ("standby = { client_id = { issuer = \"inner\" } }", "", "may stand only in"),
        ("standby = { client_secret = { issuer = \"corp\" } }", "", "is a circle: corp -> corp"),
        (
            "client_secret = { exec = [\"x\"], env = { A = { issuer = \"inner\" } } }",
            "",
            "env.A: cannot come from",
        ),
        (
            "client_secret = { issuer = \"bound\" }",
            "[issuer.bound]\ntoken_url = \"{issuer}/t\"\nclient_id = \"b\"\nclient_secret = { file = \"secret\" }\ndpop = { private_key = { file = \"k\" } }",
            "bound to its DPoP key",
        ),
    ] {
        let (setup, _) = scene(keys).await;
        let setup = setup.more(more);
        let told = cli::refusal(&setup).await;
        assert!(told.contains(expected), "{keys}: {told}");
    }
    // In both orders, because issuers are linked by name.
    for (from, to) in [(10, 27), (27, 10)] {
        let name = |index: usize| if from < to { from + index } else { from - index };
        let table = |index: usize| {
            let next = name(index + 1);
            let (name, keys) = (name(index), "token_url = \"{issuer}/t\"\nclient_id = \"x\"");
            format!("[issuer.i{name}]\n{keys}\nclient_secret = {{ issuer = \"i{next}\" }}\n")
        };
        let tables: String = (0..17).map(table).collect();
        let (setup, _) = scene("").await;
        let setup = setup.more(&tables.replace(&format!("\"i{to}\""), "\"inner\""));
        let told = cli::refusal(&setup).await;
        assert!(told.contains("makes a chain of more than 16 issuers"), "{told}");
    }
    let (setup, _) = scene("").await;
    let setup = setup.route("request_headers = { set = { x-a = { issuer = \"inner\" } } }");
    let told = cli::refusal(&setup).await;
    assert!(
        told.contains("route[0].request_headers.set.x-a.issuer: a token of another issuer may stand only"),
        "{told}"
    );
}

#[tokio::test]
async fn wrong_chains_of_a_route_are_errors_with_their_fix() {
    let needs_corp = "[issuer.outer]\ntoken_url = \"{issuer}/t\"\nclient_id = \"o\"\nclient_secret = { issuer = \"middle\" }
        [issuer.middle]\ntoken_url = \"{issuer}/t\"\nclient_id = \"m\"\nclient_secret = { issuer = \"corp\" }";
    let bound = "[issuer.bound]\ntoken_url = \"{issuer}/t\"\nclient_id = \"b\"\nclient_secret = { file = \"secret\" }\ndpop = { private_key = { file = \"k\" } }";
    let param = |reference: &str| format!("params = {{ x = {reference} }}");
    for (route, more, expected) in [
        (param("{ issuer = \"iner\" }"), "", "route[0].params.x.issuer: there is no issuer \"iner\""),
        (param("{ issuer = \"iner\" }"), "", "did you mean `inner`?"),
        (param("{ issuer = \"corp\" }"), "", "route[0].params.x.issuer: is a circle: corp -> corp"),
        (
            param("[\"a\", { issuer = \"outer\" }]"),
            needs_corp,
            "route[0].params.x[1].issuer: is a circle: corp -> outer -> middle -> corp",
        ),
        (param("{ issuer = \"bound\" }"), bound, "bound to its DPoP key"),
        (
            param("{ issuer = \"inner\", params = { y = { issuer = \"inner\" } } }"),
            "",
            "cannot come from a further issuer",
        ),
        ("subject = { issuer = \"inner\" }".to_owned(), "", "route[0].subject: expected a string"),
        (
            "anonymous = true\nparams = { x = { issuer = \"inner\" } }".to_owned(),
            "",
            "is about a token, but this route sends none",
        ),
    ] {
        let (setup, _) = scene("").await;
        let told = cli::refusal(&setup.route(&route).more(more)).await;
        assert!(told.contains(expected), "{route}: {told}");
    }
    let table = |index: usize| {
        let keys = "token_url = \"{issuer}/token\"\nclient_id = \"x\"";
        format!("[issuer.i{index}]\n{keys}\nclient_secret = {{ issuer = \"i{}\" }}\n", index + 1)
    };
    let tables: String = (0..15).map(table).collect();
    let (setup, _) = scene("").await;
    let setup = setup.more(&tables.replace("\"i15\"", "\"inner\"")).route(&param("{ issuer = \"i0\" }"));
    let told = cli::refusal(&setup).await;
    assert!(told.contains("route[0].params.x.issuer: makes a chain of more than 16 issuers"), "{told}");
}

/// The route `api` exchanges a token of `inner` at `corp`, and `/plain` does not.
async fn exchange() -> (Setup, Scripted) {
    let (setup, inner) = scene("credential_grace = \"0s\"").await;
    let plain =
        "[[route]]\nname = \"plain\"\npath_prefix = \"/plain\"\nupstream = \"{upstream}\"\nissuer = \"corp\"";
    let param = "params = { subject_token = { issuer = \"inner\" } }";
    (setup.route(param).more(plain), inner)
}

fn exchanged(world: &World) -> Vec<String> {
    let requests = world.issuer().requests();
    requests
        .iter()
        .map(|request| request.params("subject_token").join(","))
        .filter(|it| !it.is_empty())
        .collect()
}

#[tokio::test]
async fn a_parameter_of_a_route_is_the_token_of_an_issuer() {
    let (setup, inner) = exchange().await;
    let world = setup.start().await;
    world.ready().await;
    assert_eq!(inner.count(), 1, "it was fetched at start, once");
    world.get("/").await.expect_status(200);
    world.get("/plain").await.expect_status(200);
    assert_eq!(exchanged(&world), ["canary-inner-1"]);
    assert_eq!(world.issuer().count(), 2, "the other route has a token of its own");
    let status = world.status().await;
    let inner_leg = status["tokens"].as_array().unwrap().iter().find(|token| token["issuer"] == "inner");
    assert_eq!(inner_leg.unwrap()["routes"], serde_json::json!(["api"]));
    assert_eq!(inner_leg.unwrap()["outer"], serde_json::json!(["corp"]));
    let ready = world.admin("/readyz?verbose").await.text();
    assert!(
        ready.contains("token of issuer inner for issuer corp, route api (scopes own): valid"),
        "{ready}"
    );
    expect_no_canary(&world).await;
}

#[tokio::test]
async fn a_refused_token_of_a_routes_parameter_is_replaced_once() {
    for error in [(401, "invalid_client"), (400, "invalid_grant")] {
        let (setup, inner) = exchange().await;
        let world = setup.start().await;
        world.ready().await;
        world.issuer().always(move |request, n| match request.params("subject_token").join("").as_str() {
            "canary-inner-1" => RawResponse::oauth_error(error.0, error.1),
            _ => RawResponse::token_for(&format!("token-{n}"), 3600),
        });
        world.upstream().next(RawResponse::unauthorized());
        world.get("/").await.expect_status(200);
        assert_eq!(exchanged(&world), ["canary-inner-1", "canary-inner-1", "canary-inner-2"]);
        assert_eq!(inner.count(), 2);
    }
}

#[tokio::test]
async fn a_failing_leg_of_a_routes_parameter_is_named_and_holds_up_no_other_route() {
    let (setup, inner) = exchange().await;
    inner.always(|_, _| RawResponse::oauth_error(401, "invalid_client"));
    setup.write();
    let explained = cli::run(setup.folder(), &["explain", "GET", "/"]).await;
    let link = "params.subject_token of `corp` is a token of issuer `inner`, from http://127.0.0.1";
    assert!(explained.all().contains(link), "{}", explained.all());
    let online = cli::run(setup.folder(), &["check", "--online"]).await;
    online.expect_code(1);
    assert!(online.all().contains("params.subject_token is a token of issuer inner"), "{}", online.all());
    let leg = "its params.subject_token comes from issuer inner, which gives no token: 127.0.0.1";
    for args in [&["check", "--online"][..], &["token", "corp", "--route", "api"]] {
        let told = cli::run(setup.folder(), args).await;
        told.expect_code(1);
        assert!(told.all().contains(leg) && !told.all().contains("canary"), "{}", told.all());
    }
    cli::run(setup.folder(), &["token", "corp", "--route", "plain"]).await.expect_code(0);

    let world = setup.start().await;
    world.get("/plain").await.expect_status(200);
    let response = world.get("/").await;
    response.expect_problem(502, "token_refused");
    assert!(response.text().contains(&format!("issuer corp: {leg}")), "{}", response.text());
    let ready = world.admin("/readyz").await;
    ready.expect_status(503);
    assert!(ready.text().contains("token of issuer inner for issuer corp, route api"), "{}", ready.text());
    inner.always(|_, n| RawResponse::token_for(&format!("canary-inner-{n}"), 3600));
    world.file("secret", "another");
    eventually("a token", || async { (world.get("/").await.status == 200).then_some(()) }).await;
    world.ready().await;
}

#[tokio::test]
async fn a_reload_that_changes_the_inner_issuer_replaces_the_token_of_the_route_that_uses_it() {
    let (setup, _inner) = exchange().await;
    let mut world = setup.start().await;
    world.ready().await;
    let before = world.issuer().count();
    let second = Scripted::issuer().await;
    second.always_this(RawResponse::token("canary-of-another"));
    let table = format!("[issuer.inner]\ntoken_url = \"{}/token\"", second.url);
    world.change(|text| {
        let at = text.find("[issuer.inner]").unwrap();
        let end = at + text[at..].find("\nclient_id").unwrap();
        format!("{}{table}{}", &text[..at], &text[end..])
    });
    world.reload().await;
    eventually("the other one's token", || async {
        exchanged(&world).contains(&"canary-of-another".to_owned()).then_some(())
    })
    .await;
    assert_eq!(world.issuer().count(), before + 1, "the other route keeps its token");
}

/// `corp` tries a token of `inner` if it refuses its current secret.
const STANDBY: &str = "credential_grace = \"0s\"\nstandby = { client_secret = { issuer = \"inner\" } }";

fn takes(issuer: &Scripted, secret: &'static str, lifetime: i64) {
    issuer.always(move |request, n| match request.basic().unwrap_or_default().ends_with(secret) {
        true => RawResponse::token_for(&format!("token-{n}"), lifetime),
        false => RawResponse::oauth_error(401, "invalid_client"),
    });
}

fn secrets(world: &World) -> Vec<String> {
    let of = |request: &Recorded| request.basic().unwrap().split(':').nth(1).unwrap().to_owned();
    world.issuer().requests().iter().map(|request| of(request)).collect()
}

#[tokio::test]
async fn the_standby_secret_is_a_token_that_is_fetched_once_it_is_needed() {
    let (setup, inner) = scene(STANDBY).await;
    takes(&setup.issuer, "s3cr3t-of-the-scene", 1);
    let world = setup.start().await;
    world.ready().await;
    world.get("/").await.expect_status(200);
    assert_eq!(inner.count(), 0, "nobody needs it yet");
    let verbose = world.admin("/readyz?verbose").await.text();
    assert!(
        verbose.contains("token of issuer inner for issuer corp, route api (scopes own): not requested yet"),
        "{verbose}"
    );
    takes(world.issuer(), "canary-inner-1", 3600);
    eventually("standby", || async {
        world.get("/").await.expect_status(200);
        secrets(&world).contains(&"canary-inner-1".to_owned()).then_some(())
    })
    .await;
    assert_eq!(inner.count(), 1);
    let status = world.status().await;
    assert_eq!(
        status["issuers"].as_array().unwrap().iter().find(|it| it["name"] == "corp").unwrap()["credential"],
        "standby"
    );
    expect_no_canary(&world).await;

    // A refused one is replaced once.
    takes(world.issuer(), "canary-inner-2", 3600);
    world.upstream().next(RawResponse::unauthorized());
    world.get("/").await.expect_status(200);
    let sent = secrets(&world);
    assert_eq!(sent[sent.len() - 2..], ["canary-inner-1", "canary-inner-2"]);
    assert_eq!(inner.count(), 2);
}

#[tokio::test]
async fn a_standby_secret_whose_issuer_fails_costs_the_outer_issuer_few_requests() {
    let (setup, inner) = scene(STANDBY).await;
    setup.issuer.always(|_, _| RawResponse::oauth_error(401, "invalid_client"));
    inner.always(|_, _| RawResponse::oauth_error(401, "invalid_client"));
    setup.write();
    let explained = cli::run(setup.folder(), &["explain", "GET", "/"]).await;
    let link = "standby.client_secret of `corp` is a token of issuer `inner`";
    assert!(explained.all().contains(link), "{}", explained.all());
    let online = cli::run(setup.folder(), &["check", "--online"]).await;
    assert!(online.all().contains("standby.client_secret is a token of issuer inner"), "{}", online.all());
    let world = setup.start().await;
    let response = world.get("/").await;
    response.expect_problem(502, "token_refused");
    for part in [
        "issuer corp: with the current credential, ",
        "; with the standby credential, its standby.client_secret comes from issuer inner, which gives no token: 127.0.0.1",
    ] {
        assert!(response.text().contains(part), "{}", response.text());
    }
    // A credential that was refused is not sent each second to see whether the other one is there.
    stays(Duration::from_millis(2500), || (inner.count(), world.issuer().count())).await;
}

#[tokio::test]
async fn the_inner_token_stands_in_each_credential_and_claim_of_a_token_request() {
    let key = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures/keys/rsa.pkcs8.pem");
    let (setup, _inner) = scene(&format!(
        "# client_secret\nclient_auth = \"private_key_jwt\"\nprivate_key = {{ file = \"{}\" }}
         jwt = {{ claims = {{ act = {{ params = {{ issuer = \"inner\" }} }} }} }}
         basic = {{ user = \"gate\", password = {{ issuer = \"inner\" }} }}",
        key.display()
    ))
    .await;
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    let request = world.issuer().request(1).await;
    assert_eq!(request.basic().as_deref(), Some("gate:canary-inner-1"));
    assert_eq!(
        crate::spiffe::claims(&request.params("client_assertion")[0])["act"]["params"],
        "canary-inner-1"
    );
    expect_no_canary(&world).await;
}
