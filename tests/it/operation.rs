//! Sentences of the interface about a running program that no other file pins: what is missing, who may look, what a
//! reload reaches.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::cli::run;
use crate::support::tls::{ca, localhost};
use crate::support::{Client, Gate, RawRequest, RawResponse, Setup, World, eventually, quick};

/// Not ready because of this file; ready once it is there.
async fn waits_for(world: &World, name: &str, content: &str) {
    let ready = world.admin("/readyz").await;
    ready.expect_status(503);
    assert!(ready.text().contains(name), "{}", ready.text());
    world.file(name, content);
    world.ready().await;
}

#[tokio::test]
async fn missing_header_values_keep_requests_out_and_readyz_says_so() {
    for keys in ["request_headers", "response_headers"] {
        let keys = format!("{keys} = {{ set = {{ x-key = {{ file = \"late\" }} }} }}");
        let setup = Setup::new().await.route(&keys);
        setup.write();
        let checked = run(setup.folder(), &["check"]).await;
        checked.expect_code(0);
        assert!(checked.stdout.contains("late"), "{}", checked.stdout);
        let world = setup.start().await;
        assert!(world.get("/").await.status >= 500);
        waits_for(&world, "late", "value").await;
        world.get("/").await.expect_status(200);
    }
}

#[tokio::test]
async fn missing_value_of_require_header_keeps_callers_out_and_readyz_says_so() {
    let keys = "require_header = { name = \"x-caller-key\", value = { file = \"late\" } }";
    let world = Setup::new().await.listener(keys).start().await;
    let call = || RawRequest::get("/").header("X-Caller-Key", "open sesame");
    world.exchange(call()).await.expect_problem(403, "caller_refused");
    waits_for(&world, "late", "open sesame\n").await;
    world.exchange(call()).await.expect_status(200);
}

#[tokio::test]
async fn missing_certificate_of_a_listener_does_not_keep_run_from_starting() {
    let server = localhost();
    let keys = "tls = { certificate = { file = \"server.pem\" }, private_key = { file = \"late.key\" } }";
    let setup = Setup::new().await.listener(keys);
    setup.file("server.pem", &server.certificate_pem);
    setup.write();
    run(setup.folder(), &["check"]).await.expect_code(0);
    let world = setup.start().await;
    let address = world.address("main");
    let tls = || ca().client(&["http/1.1"], None);
    assert!(Client::tls(address, tls()).await.is_err(), "no handshake without a key");
    let mut plain = world.connect().await;
    plain.send(&RawRequest::get("/")).await;
    assert!(plain.response_or_end().await.is_none(), "nor a request without TLS");
    waits_for(&world, "late.key", &server.key_pem).await;
    Client::tls(address, tls()).await.unwrap().exchange(&RawRequest::get("/")).await.expect_status(200);
}

#[tokio::test]
async fn certificate_that_goes_missing_leaves_the_old_one_serving() {
    let server = localhost();
    let keys = "tls = { certificate = { file = \"server.pem\" }, private_key = { file = \"server.key\" } }";
    let setup = Setup::new().await.listener(keys);
    setup.file("server.pem", &server.certificate_pem);
    setup.file("server.key", &server.key_pem);
    let world = setup.start().await;
    world.ready().await;
    std::fs::remove_file(world.folder().join("server.key")).unwrap();
    world.reload().await;
    assert_eq!(world.metric("bearerd_config_last_reload_successful", &[]).await, Some(0.0));
    let mut client = Client::tls(world.address("main"), ca().client(&["http/1.1"], None)).await.unwrap();
    client.exchange(&RawRequest::get("/")).await.expect_status(200);
    assert_eq!(world.admin("/readyz").await.status, 200);
}

#[tokio::test]
async fn status_and_page_are_open_where_callers_says_network() {
    let world = Setup::new().await.admin("address = \"127.0.0.1:0\"\ncallers = \"network\"").start().await;
    for target in ["/status", "/"] {
        let mut client = Client::tcp(world.address("admin")).await;
        client.exchange(&RawRequest::get(target).host("anywhere.test")).await.expect_status(200);
    }
}

#[tokio::test]
async fn readyz_says_503_from_sigterm_on_while_requests_end() {
    let setup = Setup::new().await;
    let gate = Gate::new();
    setup.upstream.always_this(RawResponse::ok("slow").gated(&gate));
    let mut world = setup.start().await;
    world.ready().await;
    let mut client = world.connect().await;
    client.send(&RawRequest::get("/")).await;
    world.upstream().request(1).await;
    world.signal(Signal::TERM);
    eventually("/readyz to say 503", || async {
        let ready = world.admin("/readyz").await;
        (ready.status == 503 && ready.text().contains("ending")).then_some(())
    })
    .await;
    assert_eq!(world.admin("/livez").await.status, 200);
    gate.open();
    client.response().await.expect_status(200);
    assert_eq!(world.proxy.exit().await.code(), Some(0));
}

/// Two routes of different credentials, of which one cannot be fetched.
#[tokio::test]
async fn readyz_names_the_credential_that_is_missing_and_no_other() {
    let setup = Setup::new().await.route("scopes = [\"good\"]");
    setup.issuer.always(|request, _| match request.params("scope").join(" ").as_str() {
        "good" => RawResponse::token("t"),
        _ => RawResponse::oauth_error(400, "invalid_scope"),
    });
    let second = "[[route]]\nname = \"second\"\npath_prefix = \"/second\"\nupstream = \"{upstream}\"\nissuer = \"corp\"\nscopes = [\"bad\"]\n";
    let world = setup.more(second).start().await;
    world.get("/").await.expect_status(200);
    world.get("/second").await.expect_problem(502, "token_refused");
    let ready = world.admin("/readyz").await;
    ready.expect_status(503);
    assert!(ready.text().contains("second") && !ready.text().contains("api"), "{}", ready.text());
}

/// The scene with something else in every section that a reload reaches.
fn other_sections(text: &str, admin: &str) -> String {
    let text = text
        .replace("[admin]\naddress = \"127.0.0.1:0\"", &format!("[admin]\naddress = \"{admin}\""))
        .replace("format = \"json\"", "format = \"text\"")
        .replace("level = \"debug\"", "level = \"warn\"")
        .replace("[listener.main]\n", "[listener.main]\nnames = [\"new.test\"]\n")
        .replace("name = \"api\"", "name = \"api\"\npath_prefix = \"/new\"");
    format!("drain_delay = \"1s\"\nworkers = 2\n[limits]\nheader_count = 10\n{text}")
}

fn many_headers() -> RawRequest {
    (0..20).fold(RawRequest::get("/new").host("new.test"), |call, n| call.header(&format!("x-{n}"), "1"))
}

#[tokio::test]
async fn every_section_is_in_force_under_two_seconds_after_a_reload() {
    let mut world = Setup::new().await.start().await;
    world.get("/").await.expect_status(200);
    let admin = crate::support::nobody();
    let few = || RawRequest::get("/new").host("new.test");
    let before = world.config();
    quick(Duration::from_secs(2), async |tries| {
        if tries > 0 {
            world.change(|_| before.clone());
            world.reload_signal();
            eventually("the old config", || async {
                (world.exchange(few()).await.status == 421).then_some(())
            })
            .await;
        }
        world.change(|text| other_sections(&text, &admin.to_string()));
        let changed = Instant::now();
        world.reload_signal();
        eventually("the listener's names and the route", || async {
            (world.exchange(few()).await.status == 200).then_some(())
        })
        .await;
        world.exchange(many_headers()).await.expect_status(431);
        eventually("the new admin address", || async { tokio::net::TcpStream::connect(admin).await.ok() })
            .await;
        changed.elapsed()
    })
    .await;
    let asked = |target: &'static str| async move {
        Client::tcp(admin).await.exchange(&RawRequest::get(target)).await
    };
    asked("/readyz").await.expect_status(200);
    assert!(tokio::net::TcpStream::connect(world.address("admin")).await.is_err(), "the old one is closed");
    // Text at level `warn`, the warning about `workers` among it, and no line of requests.
    world.log().wait("the warning", |line| !line.starts_with('{') && line.contains("workers")).await;
    world.exchange(few().header("X-Request-Id", "after-the-reload")).await.expect_status(200);
    assert!(!world.log().text().contains("after-the-reload"));
    assert_eq!(world.issuer().count(), 1, "the token is kept");
    let signalled = Instant::now();
    assert_eq!(world.proxy.stop().await.code(), Some(0));
    assert!(signalled.elapsed() >= Duration::from_millis(900), "drain_delay is the new one");
}

#[tokio::test]
async fn reload_that_fails_at_one_section_changes_no_other() {
    let mut world = Setup::new().await.start().await;
    world.get("/").await.expect_status(200);
    let good = world.config();
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let broken_limits = other_sections(&good, "127.0.0.1:0").replace("header_count = 10", "header_count = 0");
    for text in [other_sections(&good, &address), broken_limits] {
        world.change(|_| text);
        world.reload().await;
        assert_eq!(world.metric("bearerd_config_last_reload_successful", &[]).await, Some(0.0));
        world.exchange(RawRequest::get("/").header("X-Request-Id", "still-json")).await.expect_status(200);
        world.log().wait("the request", |line| line.starts_with('{') && line.contains("still-json")).await;
        world.exchange(many_headers().host("localhost")).await.expect_status(200);
        assert_eq!(world.upstream().last().target(), "/new", "the old route");
        world.get("/").await.expect_status(200);
        world.exchange(RawRequest::get("/").host("new.test")).await.expect_problem(421, "misdirected");
    }
    assert_eq!(world.issuer().count(), 1);
}

/// An address of this machine that other machines could use, where it has one.
fn reachable_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    // Sends nothing; chooses the address that would be sent from.
    socket.connect("198.51.100.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback())
}

#[tokio::test]
async fn status_knows_this_machine_by_its_own_address_too() {
    let world = Setup::new().await.admin("address = \"0.0.0.0:0\"").start().await;
    let port = world.address("admin").port();
    let loopback = std::net::IpAddr::from([127, 0, 0, 1]);
    for ip in std::iter::once(loopback).chain(reachable_address()) {
        for (host, status) in [
            (format!("{ip}:{port}"), 200),
            ("evil.test".to_owned(), 403),
            (format!("203.0.113.7:{port}"), 403),
        ] {
            let mut client = Client::tcp((ip, port).into()).await;
            client.exchange(&RawRequest::get("/status").host(&host)).await.expect_status(status);
        }
    }
}

#[tokio::test]
async fn sighup_has_a_refused_client_asked_again_even_where_the_file_is_broken() {
    let setup = Setup::new().await;
    setup.issuer.next(RawResponse::oauth_error(401, "invalid_client"));
    let mut world = setup.start().await;
    world.issuer().request(1).await;
    eventually("the refusal", || async {
        world.admin("/readyz").await.text().contains("invalid_client").then_some(())
    })
    .await;
    world.change(|text| format!("nonsense = 1\n{text}"));
    world.reload().await;
    world.ready().await;
    assert_eq!(world.issuer().count(), 2);
}
