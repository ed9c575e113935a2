//! `{ spiffe = { … } }`: identities of the SPIFFE Workload API.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::support::agent::{Agent, JwtRequest, Mood, NO_IDENTITY};
use crate::support::tls::Ca;
use crate::support::{
    Client, RawRequest, RawResponse, Recorded, Scripted, Setup, World, cli, eventually, unix_now,
};

const DRAFT: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";

/// The issuer `corp` takes a JWT-SVID as the client's assertion.
async fn scene(agent: &Agent, more: &str) -> Setup {
    Setup::new().await.issuer(&format!(
        "# client_secret\n# client_id\nclient_auth = \"assertion_file\"\nassertion_type = \"{DRAFT}\"
         assertion = {{ spiffe = {{ audience = \"https://idp.example\", {} {more} }} }}",
        agent.key()
    ))
}

pub fn claims(token: &str) -> Value {
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
    for (socket, expected) in [
        ("tcp://127.0.0.1:8081", "\"tcp://127.0.0.1:8081\" is not a Unix socket"),
        ("tcp:127.0.0.1:8081", "\"tcp:127.0.0.1:8081\" is not a Unix socket"),
        ("/run/a.sock", "\"/run/a.sock\" is not a Unix socket"),
        ("unix:rel/a", "the path of \"unix:rel/a\" is not absolute"),
        ("unix://host/a", "\"unix://host/a\" names a host, and a Unix socket has none"),
        ("unix:", "\"unix:\" needs a path"),
    ] {
        let env = [("SPIFFE_ENDPOINT_SOCKET", socket)];
        let output = cli::run_with(setup.folder(), &["check"], &env).await;
        output.expect_code(78);
        let expected = format!("SPIFFE_ENDPOINT_SOCKET: {expected}");
        assert!(output.all().contains(&expected), "{expected}: {}", output.all());
    }
}

#[tokio::test]
async fn what_is_no_socket_is_named_by_check_and_by_the_error() {
    for (name, expected) in
        [("mount", "mount is a folder: name the socket in it"), ("file", "file is a file and not a socket")]
    {
        let value = format!("{{ spiffe = {{ audience = \"x\", socket = \"unix:{name}\" }} }}");
        let tls = format!("tls = {{ spiffe = {{ socket = \"unix:{name}\" }} }}");
        let setup = Setup::new().await;
        std::fs::create_dir(setup.folder().join("mount")).unwrap();
        setup.file("file", "");
        let setup = setup
            .issuer(&format!("# client_secret\nclient_auth = \"assertion_file\"\nassertion = {value}"))
            .more(&format!("[[route]]\nname = \"tls\"\npath_prefix = \"/tls\"\nanonymous = true\nupstream = \"https://localhost:1\"\n{tls}"));
        setup.write();
        let output = cli::run(setup.folder(), &["check"]).await;
        output.expect_code(0);
        assert_eq!(output.all().matches(expected).count(), 2, "{}", output.all());
        let world = setup.start().await;
        let said = detail(&world).await;
        assert!(said.contains(expected), "{said}");
        let said = world.get("/tls").await.text();
        assert!(said.contains(expected), "{said}");
    }
}

#[tokio::test]
async fn a_healthy_agent_is_no_reason_for_a_warning() {
    let domain = Ca::new("example.org");
    let agent = agent_of(&domain).await;
    let (world, _upstream) = everywhere(&domain, &agent).await;
    let trusted = domain.client(&["http/1.1"], None);
    let mut client = Client::tls(world.address("main"), trusted).await.unwrap();
    client.exchange(&RawRequest::get("/").host("localhost")).await.expect_status(200);
    world.reload().await;
    let warnings = world
        .log()
        .lines()
        .into_iter()
        .filter(|line| line.contains("SVID") && !line.contains("spiffe.updated"));
    assert_eq!(warnings.collect::<Vec<_>>(), Vec::<String>::new());
    let status = world.admin("/status").await.text();
    assert!(!status.contains("white space"), "{status}");
    let output = cli::run(world.folder(), &["check", "--online"]).await;
    assert!(!output.all().contains("white space"), "{}", output.all());
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

#[tokio::test]
async fn an_expired_jwt_svid_is_not_sent() {
    let mut agent = Agent::start().await;
    agent.jwt_life(Duration::from_secs(4));
    let keys = format!(
        "request_headers = {{ set = {{ x-svid = {{ spiffe = {{ audience = \"x\", {} }} }} }} }}",
        agent.key()
    );
    let world = Setup::new().await.route(&keys).start().await;
    world.get("/").await.expect_status(200);
    let svid = world.upstream().last().header("x-svid").unwrap().to_owned();
    assert_eq!(claims(&svid)["aud"][0], "x");
    agent.stop().await;
    let refused = eventually("a refusal", || async {
        let response = world.get("/").await;
        (response.status != 200).then_some(response)
    })
    .await;
    assert!(refused.text().contains("x-svid"), "{}", refused.text());
    agent.again();
    eventually("another one", || async { (world.get("/").await.status == 200).then_some(()) }).await;
    assert_ne!(world.upstream().last().header("x-svid").unwrap(), svid);
}

/// Two token requests in a row, since tokens are brief.
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
    setup.issuer.always(|_, n| RawResponse::brief_token(n));
    let world = setup.start().await;
    let sent = token_requests(&world, 3).await;
    assert!(sent.iter().all(|claims| claims["jti"] == 1), "{sent:?}");
    assert_eq!(agent.requests().len(), 1);

    let agent = Agent::start().await;
    agent.jwt_life(Duration::from_secs(2));
    let setup = scene(&agent, "").await;
    setup.issuer.always(|_, n| RawResponse::brief_token(n));
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
        _ => RawResponse::brief_token(n),
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
    assert!(
        said.ends_with("; check the agent, and spiffe in [issuer.corp]; bearerd asks the agent again"),
        "{said}"
    );
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
async fn a_jwt_svid_that_cannot_be_read_is_told_with_what_it_needs() {
    let agent = Agent::start().await;
    let [header, claims] = [
        serde_json::json!({ "alg": "ES256", "kid": "key-1" }),
        serde_json::json!({ "sub": "spiffe://example.org/billing", "aud": ["x"], "exp": unix_now() + 300.5 }),
    ]
    .map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    agent.jwt_text(format!("{header}.{claims}.canary"));
    let world = scene(&agent, "").await.start().await;
    let said = detail(&world).await;
    assert!(said.contains("its claims need `sub`, `aud`, and `exp` in whole seconds"), "{said}");
}

#[tokio::test]
async fn an_agent_that_hangs_holds_up_no_value_of_another_agent() {
    let (hung, good) = (Agent::start().await, Agent::start().await);
    hung.mood(Mood::Silent);
    let svid = |agent: &Agent, audience: usize| {
        format!("{{ spiffe = {{ audience = \"{audience}\", {} }}, timeout = \"5m\" }}", agent.key())
    };
    let values: Vec<_> = (0..20).map(|audience| svid(&hung, audience)).collect();
    let world =
        Setup::new().await.issuer(&format!("params = {{ x = [{}] }}", values.join(", "))).start().await;
    eventually("the hung agent to be asked", || async { (hung.unanswered() >= 16).then_some(()) }).await;
    let late = format!(
        "[issuer.late]\ntoken_url = \"{0}/token\"\nclient_id = \"l\"\nclient_secret = {1}\n\
         [[route]]\nname = \"late\"\npath_prefix = \"/late\"\nupstream = \"{2}\"\nissuer = \"late\"",
        world.issuer().url,
        svid(&good, 1),
        world.upstream().url
    );
    world.file("bearerd.toml", format!("{}\n{late}", world.config()));
    world.reload().await;
    world.get("/late").await.expect_status(200);
    assert_eq!(good.requests().len(), 1);
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
        ("{ spiffe = { audience = \"x\", socket = \"unix://run/a\" } }", "names a host"),
        ("{ spiffe = { audience = \"x\", socket = \"tcp://127.0.0.1:1\" } }", "is not a Unix socket"),
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

const BILLING: &str = "spiffe://example.org/billing";
const API: &str = "spiffe://example.org/api";
const DAY: Duration = Duration::from_secs(24 * 3600);

/// An agent whose trust domain is `ca`, with an X.509-SVID for bearerd.
async fn agent_of(ca: &Ca) -> Agent {
    let agent = Agent::start().await;
    agent.x509(&[(BILLING, &ca.issue_svid(BILLING, &["localhost"], DAY))], ca.der());
    agent
}

/// An upstream that demands a certificate of `ca`, and has an identity of its own with these names.
async fn upstream_of(ca: &Ca, names: &[&str]) -> Scripted {
    let identity = ca.issue_svid(API, names, DAY);
    Scripted::start(Some(ca.server_asking(&identity, &["http/1.1"]))).await
}

fn over_tls(upstream: &Scripted) -> String {
    format!("upstream = \"{}\"", upstream.url)
}

async fn detail_of_upstream(world: &World) -> String {
    let response = world.get("/").await;
    assert!(response.status >= 500, "{response:?}");
    response.json()["detail"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_upstream_gets_the_svid_and_is_trusted_by_the_bundle() {
    let domain = Ca::new("example.org");
    let agent = agent_of(&domain).await;
    let upstream = upstream_of(&domain, &["localhost"]).await;
    let keys = format!("{}\ntls = {{ spiffe = {{ {} }} }}", over_tls(&upstream), agent.key());
    let world = Setup::new().await.route(&keys).start().await;
    world.get("/").await.expect_status(200);
    let expiry = eventually("the expiry of the SVID", || async {
        world.metric("bearerd_certificate_expiry_timestamp_seconds", &[("name", "api")]).await
    })
    .await;
    assert!((unix_now()..unix_now() + 2.0 * DAY.as_secs_f64()).contains(&expiry), "{expiry}");

    // Another authority, and the same names.
    let stranger = upstream_of(&Ca::new("elsewhere"), &["localhost"]).await;
    let keys = format!("{}\ntls = {{ spiffe = {{ {} }} }}", over_tls(&stranger), agent.key());
    let world = Setup::new().await.route(&keys).start().await;
    let said = detail_of_upstream(&world).await;
    assert!(said.contains("issuer is not trusted"), "{said}");
    assert_eq!(stranger.count(), 0);
}

#[tokio::test]
async fn a_server_is_verified_by_its_spiffe_id_where_the_config_names_one() {
    let domain = Ca::new("example.org");
    let agent = agent_of(&domain).await;
    let nameless = upstream_of(&domain, &[]).await;
    let tls =
        |name: &str| format!("{}\ntls = {{ {name} spiffe = {{ {} }} }}", over_tls(&nameless), agent.key());
    let world = Setup::new().await.route(&tls("server_name = \"spiffe://example.org/api\",")).start().await;
    world.get("/").await.expect_status(200);

    let other = "server_name = \"spiffe://example.org/api2\",";
    let world = Setup::new().await.route(&tls(other)).start().await;
    let said = detail_of_upstream(&world).await;
    assert!(said.contains("it is for spiffe://example.org/api, not for spiffe://example.org/api2"), "{said}");

    // The name of DNS is verified as ever without it.
    let world = Setup::new().await.route(&tls("")).start().await;
    let said = detail_of_upstream(&world).await;
    assert!(said.contains("no server's name in its subjectAltName"), "{said}");

    let foreign = "server_name = \"spiffe://other.example/api\",";
    let world = Setup::new().await.route(&tls(foreign)).start().await;
    let said = detail_of_upstream(&world).await;
    assert!(
        said.contains("the agent has no trust bundle of other.example: federate example.org with it"),
        "{said}"
    );
    assert_eq!(nameless.count(), 1);
}

#[tokio::test]
async fn an_authority_of_the_bundle_that_signed_for_nobody_of_spiffe_is_not_enough() {
    let domain = Ca::new("example.org");
    let agent = agent_of(&domain).await;
    let plain = domain.issue(&["localhost"]);
    let upstream = Scripted::start(Some(domain.server_asking(&plain, &["http/1.1"]))).await;
    let keys = format!(
        "{}\ntls = {{ server_name = \"{API}\", spiffe = {{ {} }} }}",
        over_tls(&upstream),
        agent.key()
    );
    let world = Setup::new().await.route(&keys).start().await;
    let said = detail_of_upstream(&world).await;
    assert!(said.contains("it is not for spiffe://example.org/api"), "{said}");
}

#[tokio::test]
async fn a_listener_serves_the_svid_and_may_demand_one_of_the_same_trust_domain() {
    let domain = Ca::new("example.org");
    let agent = agent_of(&domain).await;
    let tls = format!("tls = {{ spiffe = {{ client_certificates = true, {} }} }}", agent.key());
    let world = Setup::new().await.listener(&tls).start().await;
    let address = world.address("main");
    let caller = domain.issue_svid("spiffe://example.org/caller", &[], DAY);
    let mut client = Client::tls(address, domain.client(&["http/1.1"], Some(&caller))).await.unwrap();
    client.exchange(&RawRequest::get("/").host("localhost")).await.expect_status(200);

    let plain = domain.issue(&["caller"]);
    let foreign = domain.issue_svid("spiffe://other.example/caller", &[], DAY);
    let elsewhere = Ca::new("elsewhere");
    let stranger = elsewhere.issue_svid("spiffe://example.org/caller", &[], DAY);
    for refused in [None, Some(&plain), Some(&foreign), Some(&stranger)] {
        if let Ok(mut client) = Client::tls(address, domain.client(&["http/1.1"], refused)).await {
            client.send(&RawRequest::get("/").host("localhost")).await;
            assert!(client.response_or_end().await.is_none());
        }
    }
    assert_eq!(world.upstream().count(), 1);

    // Without the key, everybody may come in who may connect.
    let tls = format!("tls = {{ spiffe = {{ {} }} }}", agent.key());
    let world = Setup::new().await.listener(&tls).start().await;
    let mut client = Client::tls(world.address("main"), domain.client(&["http/1.1"], None)).await.unwrap();
    client.exchange(&RawRequest::get("/").host("localhost")).await.expect_status(200);
}

#[tokio::test]
async fn an_issuer_sees_the_svid_as_the_clients_certificate() {
    let domain = Ca::new("example.org");
    let agent = agent_of(&domain).await;
    let identity = domain.issue_svid("spiffe://example.org/issuer", &["localhost"], DAY);
    let issuer = Scripted::start(Some(domain.server_asking(&identity, &["http/1.1"]))).await;
    issuer.always_this(RawResponse::token("of-mtls"));
    let setup = Setup::new().await.issuer(&format!(
        "# client_secret\nclient_auth = \"tls_client_auth\"\ntoken_url = \"{}/token\"\ntls = {{ spiffe = {{ {} }} }}",
        issuer.url,
        agent.key()
    ));
    setup.write();
    cli::run(setup.folder(), &["check"]).await.expect_code(0);
    cli::run(setup.folder(), &["token", "corp"]).await.expect_code(0);
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    assert_eq!(world.upstream().request(1).await.header("authorization"), Some("Bearer of-mtls"));
    // Everything that this process needs comes over one stream; `token` had one of its own.
    assert_eq!(agent.streams(), 2);
}

/// Listener, issuer, and upstream speak TLS with SVIDs of one agent.
async fn everywhere(domain: &Ca, agent: &Agent) -> (World, Scripted) {
    let upstream = upstream_of(domain, &["localhost"]).await;
    let tls = format!("tls = {{ spiffe = {{ {} }} }}", agent.key());
    let setup = Setup::new().await.listener(&tls).route(&format!("{}\n{tls}", over_tls(&upstream)));
    (setup.start().await, upstream)
}

#[tokio::test]
async fn rotation_under_steady_requests_loses_none() {
    let domain = Ca::new("example.org");
    let agent = agent_of(&domain).await;
    let (world, upstream) = everywhere(&domain, &agent).await;
    upstream.always(|_, _| RawResponse::ok("x").header("connection", "close"));
    let address = world.address("main");
    let trusted = domain.client(&["http/1.1"], None);
    let mut served = 0;
    for round in 1..=5 {
        agent.x509(&[(BILLING, &domain.issue_svid(BILLING, &["localhost"], DAY))], domain.der());
        let updated = |line: &str| line.contains("spiffe.updated");
        loop {
            let mut client = Client::tls(address, trusted.clone()).await.unwrap();
            client.exchange(&RawRequest::get("/").host("localhost")).await.expect_status(200);
            served += 1;
            let updates = world.log().lines().iter().filter(|line| updated(line)).count();
            if updates > round && served >= 20 * round {
                break;
            }
        }
    }
    assert_eq!(upstream.count(), served);
}

#[tokio::test]
async fn a_new_authority_is_trusted_from_the_next_connection_on() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let agent = agent_of(&old).await;
    let upstream = upstream_of(&new, &["localhost"]).await;
    let keys = format!("{}\ntls = {{ spiffe = {{ {} }} }}", over_tls(&upstream), agent.key());
    let world = Setup::new().await.route(&keys).start().await;
    assert!(detail_of_upstream(&world).await.contains("issuer is not trusted"));
    let identity = new.issue_svid(BILLING, &["localhost"], DAY);
    agent.x509(&[(BILLING, &identity)], &[old.der(), new.der()].concat());
    eventually("the new authority", || async { (world.get("/").await.status == 200).then_some(()) }).await;
}

#[tokio::test]
async fn an_agent_that_is_restarted_is_not_missed() {
    let domain = Ca::new("example.org");
    let mut agent = agent_of(&domain).await;
    let (world, upstream) = everywhere(&domain, &agent).await;
    upstream.always(|_, _| RawResponse::ok("x").header("connection", "close"));
    let trusted = domain.client(&["http/1.1"], None);
    let serves = async |world: &World| {
        let mut client = Client::tls(world.address("main"), trusted.clone()).await.unwrap();
        client.exchange(&RawRequest::get("/").host("localhost")).await.expect_status(200);
    };
    serves(&world).await;
    agent.stop().await;
    world.log().wait("a warning", |line| line.contains("spiffe.failed")).await;
    serves(&world).await;
    world.reload().await;
    serves(&world).await;
    agent.again();
    eventually("another stream", || async { (agent.streams() >= 2).then_some(()) }).await;
    serves(&world).await;
}

#[tokio::test]
async fn an_agent_that_hangs_holds_up_neither_the_start_nor_a_reload() {
    let domain = Ca::new("example.org");
    let (agent, second) = (agent_of(&domain).await, agent_of(&domain).await);
    agent.mood(Mood::Silent);
    second.mood(Mood::Silent);
    let route = |name: &str, agent: &Agent| {
        format!(
            "[[route]]\nname = \"{name}\"\npath_prefix = \"/{name}\"\nanonymous = true\n\
             upstream = \"https://localhost:1\"\ntls = {{ spiffe = {{ {} }} }}\n",
            agent.key()
        )
    };
    let world = Setup::new().await.more(&route("first", &agent)).start().await;
    world.get("/").await.expect_status(200);
    let said = world.get("/first").await.text();
    assert!(said.contains("the agent has not responded yet"), "{said}");
    let config = world.config();
    world.file("bearerd.toml", format!("{config}\n{}", route("second", &second)));
    eventually("the new route", || async { (world.get("/second").await.status == 502).then_some(()) }).await;
    assert!(!world.log().text().contains("spiffe.failed"), "the agents still have time to respond");
}

#[tokio::test]
async fn without_an_identity_nothing_is_served_and_all_is_once_there_is_one() {
    let domain = Ca::new("example.org");
    let agent = agent_of(&domain).await;
    agent.mood(NO_IDENTITY);
    let (world, _upstream) = everywhere(&domain, &agent).await;
    let trusted = domain.client(&["http/1.1"], None);
    let said = world.admin("/readyz").await;
    said.expect_status(503);
    assert!(said.text().contains("create a registration entry"), "{said:?}");
    assert!(Client::tls(world.address("main"), trusted.clone()).await.is_err());
    agent.mood(Mood::Serving);
    eventually("a handshake", || async {
        let mut client = Client::tls(world.address("main"), trusted.clone()).await.ok()?;
        let response = client.exchange(&RawRequest::get("/").host("localhost")).await;
        (response.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn svids_of_another_id_and_of_a_strange_agent_are_told() {
    let domain = Ca::new("example.org");
    let agent = agent_of(&domain).await;
    let upstream = upstream_of(&domain, &["localhost"]).await;
    let keys = format!(
        "{}\ntls = {{ spiffe = {{ id = \"spiffe://example.org/other\", {} }} }}",
        over_tls(&upstream),
        agent.key()
    );
    let world = Setup::new().await.route(&keys).start().await;
    let said = detail_of_upstream(&world).await;
    assert!(
        said.contains(
            "no identity spiffe://example.org/other for this program, only spiffe://example.org/billing"
        ),
        "{said}"
    );

    agent.x509(&[(BILLING, &domain.issue_svid(BILLING, &[], Duration::ZERO))], domain.der());
    let keys = format!("{}\ntls = {{ spiffe = {{ {} }} }}", over_tls(&upstream), agent.key());
    let world = Setup::new().await.route(&keys).start().await;
    let said = detail_of_upstream(&world).await;
    assert!(said.contains("spiffe://example.org/billing expired on 2"), "{said}");

    let agent = Agent::start().await;
    agent.mood(Mood::Garbage);
    let keys = format!("{}\ntls = {{ spiffe = {{ {} }} }}", over_tls(&upstream), agent.key());
    let world = Setup::new().await.route(&keys).start().await;
    let said = detail_of_upstream(&world).await;
    assert!(said.contains("what listens there is not the Workload API"), "{said}");

    // A message that is no certificate.
    let agent = Agent::start().await;
    agent.x509(&[(BILLING, &domain.issue_svid(BILLING, &[], DAY))], b"no certificate");
    let keys = format!("{}\ntls = {{ spiffe = {{ {} }} }}", over_tls(&upstream), agent.key());
    let world = Setup::new().await.route(&keys).start().await;
    let said = detail_of_upstream(&world).await;
    assert!(said.contains("the agent's response cannot be used"), "{said}");
}

#[tokio::test]
async fn wrong_tls_keys_are_config_errors() {
    let pair = "certificate = { file = \"a\" }, private_key = { file = \"b\" },";
    for (route, expected) in [
        (
            format!("tls = {{ {pair} spiffe = {{ socket = \"unix:/a\" }} }}"),
            "cannot be combined with `spiffe`",
        ),
        ("tls = { spiffe = { audience = \"x\", socket = \"unix:/a\" } }".to_owned(), "unknown key"),
        ("tls = { spiffe = {} }".to_owned(), "SPIFFE_ENDPOINT_SOCKET is not set"),
        (
            "tls = { server_name = \"spiffe://example.org/a\" }".to_owned(),
            "needs the authorities of its trust domain",
        ),
        (
            "tls = { roots = \"both\", server_name = \"spiffe://example.org/a\", spiffe = { socket = \"unix:/a\" } }"
                .to_owned(),
            "and no others",
        ),
        (
            "tls = { server_name = \"spiffe://Example.org\", spiffe = { socket = \"unix:/a\" } }".to_owned(),
            "is not a SPIFFE ID",
        ),
    ] {
        let said =
            cli::refusal(&Setup::new().await.route(&format!("upstream = \"https://localhost\"\n{route}")))
                .await;
        assert!(said.contains(expected), "{route}: {said}");
    }
    for (listener, expected) in [
        (format!("tls = {{ {pair} spiffe = {{ socket = \"unix:/a\" }} }}"), "cannot be combined with `spiffe`"),
        (
            "tls = { client_ca = { file = \"a\" }, spiffe = { client_certificates = true, socket = \"unix:/a\" } }".to_owned(),
            "cannot be combined with `spiffe.client_certificates`",
        ),
        (
            "address = \"0.0.0.0:0\"\ncallers = \"network\"\ntls = { spiffe = { client_certificates = false, socket = \"unix:/a\" } }"
                .to_owned(),
            "lets every machine use the credentials",
        ),
    ] {
        let said = cli::refusal(&Setup::new().await.listener(&listener)).await;
        assert!(said.contains(expected), "{listener}: {said}");
    }
    let fine = "address = \"0.0.0.0:0\"\ncallers = \"network\"\ntls = { spiffe = { client_certificates = true, socket = \"unix:/a\" } }";
    let setup = Setup::new().await.listener(fine);
    setup.write();
    let output = cli::run(setup.folder(), &["check"]).await;
    output.expect_code(0);
    assert!(output.all().contains("there is no socket /a"), "{}", output.all());
}
