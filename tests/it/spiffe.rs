//! `{ spiffe = { … } }`: identities of the SPIFFE Workload API.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::support::agent::{Agent, JwtRequest, Mood, NO_IDENTITY};
use crate::support::{RawResponse, Recorded, Setup, World, cli, eventually};

const DRAFT: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";

/// The issuer `corp` takes a JWT-SVID as the client's assertion.
async fn scene(agent: &Agent, more: &str) -> Setup {
    Setup::new().await.issuer(&format!(
        "# client_secret\n# client_id\nclient_auth = \"assertion_file\"\nassertion_type = \"{DRAFT}\"
         assertion = {{ spiffe = {{ audience = \"https://idp.example\", {} {more} }} }}",
        agent.key()
    ))
}

fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).expect("a JWT");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn assertion(request: &Recorded) -> Value {
    claims(&request.params("client_assertion")[0])
}

async fn detail(world: &World) -> String {
    let response = world.get("/").await;
    response.expect_problem(503, "token_unavailable");
    response.json()["detail"].as_str().unwrap().to_owned()
}

fn asked(audience: &str, id: &str) -> JwtRequest {
    JwtRequest { audience: audience.to_owned(), id: id.to_owned() }
}

#[tokio::test]
async fn a_jwt_svid_is_the_clients_assertion_of_either_type() {
    let agent = Agent::start().await;
    let world = scene(&agent, "").await.start().await;
    world.get("/").await.expect_status(200);
    let request = world.issuer().request(1).await;
    assert_eq!(request.params("client_assertion_type"), [DRAFT]);
    let claims = assertion(&request);
    assert_eq!(claims["sub"], "spiffe://example.org/billing");
    assert_eq!(claims["aud"][0], "https://idp.example");
    assert_eq!(agent.requests(), [asked("https://idp.example", "")]);

    let own = format!(
        "# client_secret\nclient_auth = \"assertion_file\"\nassertion = {{ spiffe = {{ audience = \"x\", {} }} }}",
        agent.key()
    );
    let world = Setup::new().await.issuer(&own).start().await;
    world.get("/").await.expect_status(200);
    let request = world.issuer().request(1).await;
    assert_eq!(
        request.params("client_assertion_type"),
        ["urn:ietf:params:oauth:client-assertion-type:jwt-bearer"]
    );
    assert_eq!(assertion(&request)["aud"][0], "x");
}

#[tokio::test]
async fn the_socket_may_come_from_the_environment() {
    let agent = Agent::start().await;
    let keys =
        "# client_secret\nclient_auth = \"assertion_file\"\nassertion = { spiffe = { audience = \"x\" } }";
    let socket = format!("unix://{}", agent.socket().display());
    let world = Setup::new().await.issuer(keys).env("SPIFFE_ENDPOINT_SOCKET", &socket).start().await;
    world.get("/").await.expect_status(200);
    assert_eq!(agent.requests().len(), 1);

    let without = cli::refusal(&Setup::new().await.issuer(keys)).await;
    assert!(without.contains("SPIFFE_ENDPOINT_SOCKET is not set"), "{without}");
    assert!(without.contains("socket = \"unix:"), "{without}");
    let setup = Setup::new().await.issuer(keys);
    setup.write();
    let env = [("SPIFFE_ENDPOINT_SOCKET", "tcp://127.0.0.1:8081")];
    let output = cli::run_with(setup.folder(), &["check"], &env).await;
    output.expect_code(78);
    assert!(
        output.all().contains("SPIFFE_ENDPOINT_SOCKET: \"tcp://127.0.0.1:8081\" is not a Unix socket"),
        "{}",
        output.all()
    );
}

#[tokio::test]
async fn a_jwt_svid_stands_wherever_a_reference_may() {
    let agent = Agent::start().await;
    let svid = |audience: &str| format!("{{ spiffe = {{ audience = \"{audience}\", {} }} }}", agent.key());
    let setup = Setup::new()
        .await
        .issuer(&format!(
            "client_id = {}\nclient_secret = {}\nparams = {{ subject_token = {}, more = [\"x\", {}] }}\nheaders = {{ x-svid = {} }}",
            svid("id"),
            svid("secret"),
            svid("param"),
            svid("array"),
            svid("header")
        ))
        .route(&format!("params = {{ route = {} }}", svid("route")));
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    let request = world.issuer().request(1).await;
    let basic = request.basic().unwrap();
    let (id, secret) = basic.split_once(':').unwrap();
    let audience = |token: &str| claims(token)["aud"][0].as_str().unwrap().to_owned();
    assert_eq!((audience(id), audience(secret)), ("id".to_owned(), "secret".to_owned()));
    assert_eq!(audience(&request.params("subject_token")[0]), "param");
    assert_eq!(audience(&request.params("more")[1]), "array");
    assert_eq!(audience(&request.params("route")[0]), "route");
    assert_eq!(audience(request.header("x-svid").unwrap()), "header");
}

/// Two token requests in a row, since tokens last a second.
async fn token_requests(world: &World, count: usize) -> Vec<Value> {
    eventually("token requests", || async {
        world.get("/").await.expect_status(200);
        (world.issuer().count() >= count).then_some(())
    })
    .await;
    world.issuer().requests().iter().map(|request| assertion(request)).collect()
}

#[tokio::test]
async fn a_jwt_svid_is_kept_for_half_its_life_and_then_fetched_anew() {
    let agent = Agent::start().await;
    let setup = scene(&agent, "").await;
    setup.issuer.always(|_, n| RawResponse::token_for(&format!("token-{n}"), 1));
    let world = setup.start().await;
    let sent = token_requests(&world, 3).await;
    assert!(sent.iter().all(|claims| claims["jti"] == 1), "{sent:?}");
    assert_eq!(agent.requests().len(), 1);

    let agent = Agent::start().await;
    agent.jwt_life(Duration::from_secs(1));
    let setup = scene(&agent, "").await;
    setup.issuer.always(|_, n| RawResponse::token_for(&format!("token-{n}"), 1));
    let world = setup.start().await;
    let sent = token_requests(&world, 3).await;
    let distinct: std::collections::BTreeSet<_> = sent.iter().map(|claims| claims["jti"].as_u64()).collect();
    assert!(distinct.len() >= 2, "an old one was sent again: {sent:?}");
}

#[tokio::test]
async fn a_refused_jwt_svid_is_never_used_again() {
    let mut agent = Agent::start().await;
    let setup = scene(&agent, "").await.issuer("credential_grace = \"0s\"");
    setup.issuer.always(|_, n| match n {
        2 => RawResponse::oauth_error(401, "invalid_client"),
        _ => RawResponse::token_for(&format!("token-{n}"), 1),
    });
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    agent.stop().await;
    // The issuer refuses the second request: the JWT-SVID is not used again, and no other can be had.
    let said = eventually("an error of the agent", || async {
        let response = world.get("/").await;
        (response.status == 503).then(|| response.json()["detail"].as_str().unwrap().to_owned())
    })
    .await;
    assert!(said.contains("there is no socket"), "{said}");
    agent.again();
    eventually("a token with another JWT-SVID", || async {
        (world.get("/").await.status == 200).then_some(())
    })
    .await;
    let last = world.issuer().requests().iter().map(|request| assertion(request)).next_back().unwrap();
    assert_eq!(last["jti"], 2);
}

#[tokio::test]
async fn an_agent_that_is_away_is_named_with_the_remedy() {
    let mut agent = Agent::start().await;
    agent.stop().await;
    let setup = scene(&agent, "").await;
    setup.write();
    let output = cli::run(setup.folder(), &["check"]).await;
    output.expect_code(0);
    assert!(output.all().contains("there is no socket"), "{}", output.all());
    let world = setup.start().await;
    let said = detail(&world).await;
    assert!(
        said.contains(&format!("JWT-SVID of the Workload API at {}", agent.socket().display())),
        "{said}"
    );
    assert!(said.contains("start the agent, mount its socket"), "{said}");
    assert_eq!(world.issuer().count(), 0, "the issuer was not asked");
    agent.again();
    eventually("a token", || async { (world.get("/").await.status == 200).then_some(()) }).await;
}

#[tokio::test]
async fn no_identity_is_told_with_its_remedy_and_the_entry_helps_without_restart() {
    let agent = Agent::start().await;
    agent.mood(NO_IDENTITY);
    let world = scene(&agent, "").await.start().await;
    let said = detail(&world).await;
    assert!(
        said.contains("the agent has no identity for this program: create a registration entry"),
        "{said}"
    );
    assert!(said.contains("-selector unix:uid:"), "{said}");
    agent.mood(Mood::Serving);
    eventually("a token", || async { (world.get("/").await.status == 200).then_some(()) }).await;
}

#[tokio::test]
async fn the_id_chooses_among_several_and_a_wrong_one_names_the_others() {
    let agent = Agent::start().await;
    agent.ids(&["spiffe://example.org/first", "spiffe://example.org/second"]);
    let world = scene(&agent, ", id = \"spiffe://example.org/second\"").await.start().await;
    world.get("/").await.expect_status(200);
    let request = world.issuer().request(1).await;
    assert_eq!(assertion(&request)["sub"], "spiffe://example.org/second");
    assert_eq!(agent.requests(), [asked("https://idp.example", "spiffe://example.org/second")]);

    let world = scene(&agent, ", id = \"spiffe://example.org/third\"").await.start().await;
    let said = detail(&world).await;
    assert!(
        said.contains("the agent has no identity spiffe://example.org/third for this program, only spiffe://example.org/first, spiffe://example.org/second"),
        "{said}"
    );
}

#[tokio::test]
async fn an_agent_that_is_silent_or_speaks_something_else_is_an_error_in_time() {
    for (mood, expected) in [
        (Mood::Silent, "the agent did not respond within 1s"),
        (Mood::Garbage, "what listens there is not the Workload API"),
        (Mood::Refusing(14, "shutting down"), "the agent stopped"),
        (Mood::Refusing(13, "disk full"), "the agent responded with an error (internal: disk full)"),
        (Mood::Refusing(7, "not for you"), "the agent refuses it: not for you"),
        (Mood::Refusing(12, "unknown service"), "name the socket of the agent"),
    ] {
        let agent = Agent::start().await;
        agent.mood(mood);
        let setup = Setup::new().await.issuer(&format!(
            "# client_secret\nclient_auth = \"assertion_file\"
             assertion = {{ spiffe = {{ audience = \"x\", {} }}, timeout = \"1s\" }}",
            agent.key()
        ));
        let world = setup.start().await;
        let said = detail(&world).await;
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[tokio::test]
async fn check_online_and_token_fetch_one_too() {
    let agent = Agent::start().await;
    let setup = scene(&agent, "").await;
    setup.write();
    let output = cli::run(setup.folder(), &["token", "corp"]).await;
    output.expect_code(0);
    let output = cli::run(setup.folder(), &["check", "--online"]).await;
    output.expect_code(0);
    assert_eq!(agent.requests().len(), 2);
    agent.mood(NO_IDENTITY);
    let output = cli::run(setup.folder(), &["check", "--online"]).await;
    assert_ne!(output.code, 0, "{}", output.all());
    assert!(output.all().contains("create a registration entry"), "{}", output.all());
}

#[tokio::test]
async fn wrong_keys_are_config_errors() {
    for (reference, expected) in [
        ("{ spiffe = { socket = \"unix:/a\" } }", "audience"),
        ("{ spiffe = { audience = \"\", socket = \"unix:/a\" } }", "is empty"),
        ("{ spiffe = { audience = \"x\", socket = \"/a\" } }", "is not a Unix socket"),
        ("{ spiffe = { audience = \"x\", socket = \"unix:\" } }", "needs a path"),
        (
            "{ spiffe = { audience = \"x\", socket = \"unix:/a\", id = \"example.org/a\" } }",
            "is not a SPIFFE ID",
        ),
        (
            "{ spiffe = { audience = \"x\", socket = \"unix:/a\", id = \"spiffe://example.org\" } }",
            "is not a SPIFFE ID",
        ),
        (
            "{ spiffe = { audience = \"x\", socket = \"unix:/a\" }, keep = \"5s\" }",
            "does not belong to a JWT-SVID",
        ),
        (
            "{ spiffe = { audience = \"x\", socket = \"unix:/a\" }, pointer = \"/a\" }",
            "does not belong to a JWT-SVID",
        ),
        ("{ spiffe = { audience = \"x\", socket = \"unix:/a\" }, timeout = \"0s\" }", "must be longer than"),
        (
            "{ spiffe = { audience = \"x\", socket = \"unix:/a\" }, file = \"x\" }",
            "has both `file` and `spiffe`",
        ),
        ("{ spiffe = { audience = \"x\", sockets = \"unix:/a\" } }", "unknown key"),
    ] {
        let said = cli::refusal(&Setup::new().await.issuer(&format!("client_secret = {reference}"))).await;
        assert!(said.contains(expected), "{reference}: {said}");
    }
}
