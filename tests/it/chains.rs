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
    // What the upstream gets is the outer token alone.
    let upstream = world.upstream().request(1).await;
    assert_eq!(upstream.bearer(), Some("token-1"));
    assert!(!upstream.text().contains("canary"));
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
            "may stand only in `client_secret`, `assertion`, `params` and `headers` of an issuer",
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
            "may stand only in",
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
