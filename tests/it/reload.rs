//! SIGHUP and files that change: rows T90 to T97.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::tls::{Ca, ca, localhost};
use crate::support::{
    Bearerd, Client, Gate, RawRequest, RawResponse, Setup, World, eventually, let_pass, nobody, quick, stays,
};

/// Short-lived tokens, so that the secret is read again and again.
async fn short_lived() -> Setup {
    let setup = Setup::new().await;
    setup.issuer.always(|_, n| RawResponse::brief_token(n));
    setup
}

/// Requests until the issuer was asked with this secret; no request may fail meanwhile.
async fn secret_in_use(world: &World, secret: &str) {
    let wanted = format!("client-1:{secret}");
    eventually("the new secret in use", || async {
        world.get("/").await.expect_status(200);
        (world.issuer().last().basic() == Some(wanted.clone())).then_some(())
    })
    .await;
}

#[tokio::test]
async fn t90_secret_file_written_anew_is_used_for_the_next_fetch() {
    let world = short_lived().await.start().await;
    world.get("/").await.expect_status(200);
    world.file("secret", "written\n");
    secret_in_use(&world, "written").await;
}

#[tokio::test]
async fn t90_secret_file_renamed_into_place_is_used_for_the_next_fetch() {
    let world = short_lived().await.start().await;
    world.get("/").await.expect_status(200);
    let new = world.file("secret.new", "renamed\n");
    std::fs::rename(new, world.folder().join("secret")).unwrap();
    secret_in_use(&world, "renamed").await;
}

/// Points `folder/..data` at another version, as the kubelet does.
fn swap(folder: &Path, version: &str) {
    let new = folder.join("..data_tmp");
    std::os::unix::fs::symlink(version, &new).unwrap();
    std::fs::rename(new, folder.join("..data")).unwrap();
}

#[tokio::test]
async fn t90_secret_behind_a_data_swap_is_used_for_the_next_fetch() {
    let setup = short_lived().await.issuer("client_secret = { file = \"mounted/secret\" }");
    setup.file("mounted/..one/secret", "one");
    setup.file("mounted/..two/secret", "two");
    let mounted = setup.folder().join("mounted");
    swap(&mounted, "..one");
    std::os::unix::fs::symlink("..data/secret", mounted.join("secret")).unwrap();
    let world = setup.start().await;
    secret_in_use(&world, "one").await;
    swap(&mounted, "..two");
    secret_in_use(&world, "two").await;
}

#[tokio::test]
async fn t91_emptied_secret_file_leaves_the_last_good_one_in_use() {
    let world = short_lived().await.start().await;
    world.get("/").await.expect_status(200);
    world.file("secret", "");
    let before = world.issuer().count();
    eventually("two more fetches", || async {
        world.get("/").await.expect_status(200);
        (world.issuer().count() >= before + 2).then_some(())
    })
    .await;
    for request in world.issuer().requests() {
        assert_eq!(request.basic().unwrap(), "client-1:s3cr3t-of-the-scene");
    }
    world.file("secret", "whole-again");
    secret_in_use(&world, "whole-again").await;
}

#[tokio::test]
async fn t93_removed_secret_file_leaves_the_valid_token_serving() {
    let world = Setup::new().await.start().await;
    world.get("/").await.expect_status(200);
    std::fs::remove_file(world.folder().join("secret")).unwrap();
    for _ in 0..5 {
        world.get("/").await.expect_status(200);
    }
    assert_eq!(world.admin("/readyz").await.status, 200);
}

#[tokio::test]
async fn t94_new_secret_leaves_the_valid_token_in_use() {
    let world = Setup::new().await.start().await;
    world.get("/").await.expect_status(200);
    world.file("secret", "rotated");
    stays(Duration::from_millis(1500), || world.issuer().count()).await;
    world.get("/").await.expect_status(200);
    assert_eq!(world.upstream().last().bearer(), Some("token-1"));
}

async fn two_routes() -> World {
    let second = "[[route]]\nname = \"second\"\npath_prefix = \"/second\"\nupstream = \"{upstream}/second\"\nissuer = \"corp\"\n";
    let world = Setup::new().await.more(second).start().await;
    world.get("/").await.expect_status(200);
    world
}

#[tokio::test]
async fn t95_reload_keeps_requests_in_flight_tokens_and_connections() {
    let mut world = two_routes().await;
    let gate = Gate::new();
    world.upstream().next(RawResponse::ok("slow").gated(&gate));
    let mut slow = world.connect().await;
    slow.send(&RawRequest::get("/second/slow")).await;
    world.upstream().request(2).await;
    let mut kept = world.connect().await;
    kept.exchange(&RawRequest::get("/second")).await.expect_status(200);
    world.change(|text| text.replace("/second\"\nissuer", "/third\"\nissuer"));
    world.reload().await;
    kept.exchange(&RawRequest::get("/second/new")).await.expect_status(200);
    assert_eq!(world.upstream().last().target(), "/third/new");
    gate.open();
    assert_eq!(slow.response().await.text(), "slow");
    assert_eq!(world.issuer().count(), 1);
}

#[tokio::test]
async fn no_request_is_lost_over_many_reloads() {
    let world = two_routes().await;
    let address = world.address("main");
    let stop = Gate::new();
    let stopped = stop.clone();
    let calls = tokio::spawn(async move {
        let mut client = Client::tcp(address).await;
        while !stopped.is_open() {
            client.exchange(&RawRequest::get("/second/x")).await.expect_status(200);
            Client::tcp(address).await.exchange(&RawRequest::get("/y")).await.expect_status(200);
        }
    });
    let mut reloads = 0.0;
    while reloads < 10.0 || world.upstream().count() <= 20 {
        world.reload().await;
        reloads += 1.0;
    }
    stop.open();
    calls.await.unwrap();
    assert_eq!(world.issuer().count(), 1);
    assert_eq!(world.metric("bearerd_config_reloads_total", &[]).await, Some(reloads));
}

#[tokio::test]
async fn changed_file_is_loaded_in_under_two_seconds_without_a_signal() {
    let mut world = two_routes().await;
    quick(Duration::from_secs(2), async |tries| {
        let paths = ["second", "third", "fourth", "fifth"];
        let (old, new) = (paths[tries], paths[tries + 1]);
        world.change(|text| text.replace(&format!("/{old}\"\nissuer"), &format!("/{new}\"\nissuer")));
        let changed = Instant::now();
        eventually("the new config", || async {
            world.get("/second").await.expect_status(200);
            (world.upstream().last().target() == format!("/{new}")).then_some(())
        })
        .await;
        changed.elapsed()
    })
    .await;
}

#[tokio::test]
async fn changed_included_file_and_a_new_one_are_loaded() {
    let setup = Setup::new().await.top("include = [\"conf.d/*.toml\"]").route("path_prefix = \"/main\"");
    let route = |name: &str, upstream: &str| {
        format!(
            "[[route]]\nname = \"{name}\"\npath_prefix = \"/{name}\"\nupstream = \"{upstream}\"\nissuer = \"corp\"\n"
        )
    };
    let upstream = setup.upstream.url.clone();
    setup.file("conf.d/a.toml", route("a", &upstream));
    let world = setup.start().await;
    world.get("/a").await.expect_status(200);
    world.get("/b").await.expect_status(404);
    world.file("conf.d/b.toml", route("b", &upstream));
    eventually("route b", || async { (world.get("/b").await.status == 200).then_some(()) }).await;
    std::fs::remove_file(world.folder().join("conf.d/a.toml")).unwrap();
    eventually("route a to go", || async { (world.get("/a").await.status == 404).then_some(()) }).await;
}

#[tokio::test]
async fn config_behind_a_data_swap_is_loaded() {
    let setup = Setup::new().await;
    let text = setup
        .config()
        .replace("file = \"secret\"", &format!("file = \"{}/secret\"", setup.folder().display()));
    setup.file("..one/bearerd.toml", &text);
    setup
        .file("..two/bearerd.toml", text.replace("name = \"api\"", "name = \"api\"\npath_prefix = \"/two\""));
    swap(setup.folder(), "..one");
    std::os::unix::fs::symlink("..data/bearerd.toml", setup.folder().join("bearerd.toml")).unwrap();
    let proxy = Bearerd::start(setup.shared_folder(), &[]).await;
    proxy.get("/two").await.expect_status(200);
    assert_eq!(setup.upstream.last().target(), "/two");
    swap(setup.folder(), "..two");
    eventually("the swapped config", || async {
        let response = proxy.get("/two").await;
        (response.status == 200 && setup.upstream.last().target() == "/").then_some(())
    })
    .await;
}

#[tokio::test]
async fn t96_broken_file_is_reported_and_the_old_config_stays() {
    let mut world = two_routes().await;
    for (broken, wanted) in [
        ("nonsense = 1\n", "nonsense"),
        ("[[[", "bearerd.toml"),
        ("[[route]]\nname = \"api\"\nupstream = \"http://localhost\"\nissuer = \"corp\"\n", "api"),
    ] {
        let good = world.config();
        world.change(|text| {
            if broken.starts_with("nonsense") {
                format!("{broken}{text}")
            } else {
                format!("{text}\n{broken}")
            }
        });
        world.reload().await;
        assert_eq!(world.metric("bearerd_config_last_reload_successful", &[]).await, Some(0.0));
        world.get("/second").await.expect_status(200);
        world.log().wait("the error", |line| line.contains("bearerd.toml") && line.contains(wanted)).await;
        assert!(!world.log().text().contains(crate::support::setup::SECRET));
        world.change(|_| good);
        world.reload().await;
        assert_eq!(world.metric("bearerd_config_last_reload_successful", &[]).await, Some(1.0));
    }
    assert_eq!(world.issuer().count(), 1);
}

#[tokio::test]
async fn t97_removed_route_ends_its_requests_well_and_takes_no_new_ones() {
    let mut world = two_routes().await;
    let gate = Gate::new();
    world.upstream().next(RawResponse::ok("slow").gated(&gate));
    let mut slow = world.connect().await;
    slow.send(&RawRequest::get("/second/slow")).await;
    world.upstream().request(2).await;
    world.change(|text| {
        let at = text.rfind("[[route]]").unwrap();
        text[..at].replace("name = \"api\"", "name = \"api\"\npath_prefix = \"/first\"")
    });
    world.reload().await;
    world.get("/second").await.expect_problem(404, "no_route");
    gate.open();
    assert_eq!(slow.response().await.text(), "slow");
    let text = world.admin("/metrics").await.text();
    assert!(!text.contains("route=\"second\""), "{text}");
}

#[tokio::test]
async fn changed_issuer_table_means_a_new_token() {
    let mut world = two_routes().await;
    world.change(|text| text.replace("client-1", "client-2"));
    world.reload().await;
    eventually("a token for the new client", || async {
        world.get("/").await.expect_status(200);
        world.issuer().last().basic().filter(|basic| basic.starts_with("client-2:"))
    })
    .await;
}

#[tokio::test]
async fn changed_var_of_a_preset_is_another_issuer_and_a_lost_one_changes_nothing() {
    let setup = Setup::new().await;
    setup.file("realm", "one\n");
    let keys = format!(
        "# token_url\npreset = \"keycloak\"\nvars = {{ base_url = \"{}\", realm = {{ file = \"realm\" }} }}",
        setup.issuer.url
    );
    let world = setup.issuer(&keys).start().await;
    world.ready().await;
    world.get("/").await.expect_status(200);
    let asked = |realm: &str| format!("/realms/{realm}/protocol/openid-connect/token");
    assert_eq!(world.issuer().last().target(), asked("one"));
    world.file("realm", "two");
    eventually("a token of the other realm", || async {
        world.get("/").await.expect_status(200);
        (world.issuer().last().target() == asked("two")).then_some(())
    })
    .await;
    let requests = world.issuer().count();
    world.file("realm", "");
    eventually("the lost var to be told", || async {
        let status = world.status().await;
        status["config"]["last_reload"]["error"].to_string().contains("vars.realm").then_some(())
    })
    .await;
    world.get("/").await.expect_status(200);
    assert_eq!(world.issuer().count(), requests);
}

#[tokio::test]
async fn listeners_come_go_and_change_with_a_reload() {
    let mut world = two_routes().await;
    let old = world.address("main");
    let mut kept = world.connect().await;
    kept.exchange(&RawRequest::get("/")).await.expect_status(200);
    world.change(|text| {
        format!("{text}\n[listener.extra]\naddress = \"127.0.0.1:0\"\nnames = [\"extra.test\"]\n")
    });
    world.reload().await;
    let extra = world.proxy.new_address("extra").await;
    Client::tcp(extra).await.exchange(&RawRequest::get("/").host("extra.test")).await.expect_status(200);
    Client::tcp(old).await.exchange(&RawRequest::get("/")).await.expect_status(200);
    world.change(|text| text[..text.find("\n[listener.extra]").unwrap()].to_owned());
    world.reload().await;
    eventually("the listener to go", || async {
        tokio::net::TcpStream::connect(extra).await.is_err().then_some(())
    })
    .await;
    kept.exchange(&RawRequest::get("/")).await.expect_status(200);
}

#[tokio::test]
async fn renamed_listener_goes_on_serving_its_open_connections() {
    let mut world = two_routes().await;
    let mut kept = world.connect().await;
    kept.exchange(&RawRequest::get("/")).await.expect_status(200);
    world.change(|text| text.replace("[listener.main]", "[listener.front]"));
    world.reload().await;
    kept.exchange(&RawRequest::get("/")).await.expect_status(200);
}

#[tokio::test]
async fn new_listener_that_cannot_be_bound_leaves_everything_as_it_was() {
    let mut world = two_routes().await;
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    world.change(|text| {
        let text = text.replace("/second\"\nissuer", "/third\"\nissuer");
        format!("{text}\n[listener.extra]\naddress = \"{address}\"\n")
    });
    world.reload().await;
    assert_eq!(world.metric("bearerd_config_last_reload_successful", &[]).await, Some(0.0));
    world.get("/second").await.expect_status(200);
    assert_eq!(world.upstream().last().target(), "/second");
    let text = world.admin("/metrics").await.text();
    assert!(!text.contains("extra"), "no series of a listener that is not there: {text}");
}

#[tokio::test]
async fn callers_rules_change_with_a_reload() {
    let mut world = two_routes().await;
    let mut kept = world.connect().await;
    kept.exchange(&RawRequest::get("/")).await.expect_status(200);
    world.change(|text| text.replace("[listener.main]\n", "[listener.main]\nallow = [\"10.0.0.0/8\"]\n"));
    world.reload().await;
    world.get("/").await.expect_problem(403, "caller_refused");
}

#[tokio::test]
async fn listeners_certificate_is_read_again() {
    let setup = Setup::new().await;
    let first = localhost();
    setup.file("server.pem", &first.certificate_pem);
    setup.file("server.key", &first.key_pem);
    let world = setup
        .listener(
            "tls = { certificate = { file = \"server.pem\" }, private_key = { file = \"server.key\" } }",
        )
        .start()
        .await;
    let other = Ca::new("another CA");
    let second = other.issue(&["localhost"]);
    world.file("server.key", &second.key_pem);
    world.file("server.pem", &second.certificate_pem);
    world.reload_signal();
    let address = world.address("main");
    assert!(!ca().pem.is_empty());
    eventually("the new certificate", || async { Client::tls(address, other.client(&[], None)).await.ok() })
        .await;
}

#[tokio::test]
async fn log_level_changes_with_a_reload() {
    let mut world = Setup::new().await.log("level = \"info\"\naccess = false").start().await;
    world.get("/?a").await.expect_status(200);
    world.change(|text| text.replace("access = false", "access = true"));
    world.reload().await;
    world.exchange(RawRequest::get("/").header("X-Request-Id", "after-the-reload")).await.expect_status(200);
    world.log().wait("the request", |line| line.contains("after-the-reload")).await;
}

/// Every kind of listener, by its table.
const TABLES: [&str; 3] = ["listener.main", "admin", "webhook.hook"];

const HOOK: &str = r#"
[webhook.hook]
address = "127.0.0.1:0"
path = "/hook"
signature_header = "x-signature"
secrets = [{ file = "signing" }]
value = "/value"
store = "hook.json"
"#;

/// A listener of each kind, which may move to any address at its port.
async fn all_kinds() -> World {
    let at_a_port = |text: &str| text.replace("127.0.0.1:0", &nobody().to_string());
    let main = "address = \"127.0.0.1:0\"\ncallers = \"network\"\nallow = [\"127.0.0.0/8\"]\n";
    let setup = Setup::new().await.listener(&at_a_port(main)).more(&at_a_port(HOOK));
    let setup = setup.admin(&at_a_port("address = \"127.0.0.1:0\"\n"));
    setup.file("signing", "signing-secret");
    setup.start().await
}

/// The config with another `address` in that table.
fn moved(text: &str, table: &str, address: &str) -> String {
    let (before, after) = text.split_once(&format!("[{table}]\n")).expect("the table");
    let start = after.find("address = ").unwrap();
    let end = start + after[start..].find('\n').unwrap();
    format!("{before}[{table}]\n{}address = \"{address}\"{}", &after[..start], &after[end..])
}

async fn port_of(world: &World, table: &str) -> u16 {
    match table {
        "listener.main" => world.address("main").port(),
        "admin" => world.address("admin").port(),
        _ => crate::webhook::address_of(world, "hook").await.port(),
    }
}

/// Over IPv4 loopback, which every address of these tests takes in.
async fn is_served(table: &str, port: u16) {
    let (call, status) = match table {
        "listener.main" => (RawRequest::get("/"), 200),
        "admin" => (RawRequest::get("/livez"), 200),
        _ => (RawRequest::post("/hook", "{}"), 401),
    };
    let mut client = Client::tcp(SocketAddr::from(([127, 0, 0, 1], port))).await;
    client.exchange(&call).await.expect_status(status);
}

/// Changes the config, and waits until it was taken or refused; gives the reasons of a refusal.
async fn reloaded(world: &mut World, change: impl FnOnce(String) -> String) -> Result<(), String> {
    let outcomes = |world: &World| {
        let events = world.log().events();
        let of = |name: &str| events.iter().filter(|event| event["event"] == name).count();
        (of("config.reloaded"), of("config.reload_failed"))
    };
    let before = outcomes(world);
    world.change(change);
    eventually("the reload", || async { (outcomes(world) != before).then_some(()) }).await;
    if outcomes(world).0 > before.0 {
        return Ok(());
    }
    let events = world.log().events().into_iter().rev();
    let problem = events.into_iter().find(|event| event["event"] == "config.problem").unwrap();
    Err(problem["message"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn an_address_may_change_to_one_that_overlaps_it() {
    let mut world = all_kinds().await;
    for table in TABLES {
        let port = port_of(&world, table).await;
        for ip in ["0.0.0.0", "127.0.0.1", "[::]", "0.0.0.0", "[::]", "127.0.0.1"] {
            let address = format!("{ip}:{port}");
            assert_eq!(
                reloaded(&mut world, |text| moved(&text, table, &address)).await,
                Ok(()),
                "{table} {address}"
            );
            is_served(table, port).await;
        }
    }
}

#[tokio::test]
async fn an_overlapping_address_of_another_program_leaves_the_old_one_in_use() {
    let mut world = all_kinds().await;
    for table in TABLES {
        let port = port_of(&world, table).await;
        let other = std::net::TcpListener::bind(("127.0.0.2", port)).unwrap();
        let config = world.config();
        let wildcard = format!("0.0.0.0:{port}");
        let why = reloaded(&mut world, |text| moved(&text, table, &wildcard)).await.unwrap_err();
        for part in [
            format!("{table}: can't listen on {wildcard}: another program listens there"),
            format!("bearerd closed 127.0.0.1:{port} ({table}) to bind it, and listens there again"),
        ] {
            assert!(why.contains(&part), "{part:?} in {why}");
        }
        is_served(table, port).await;
        drop(other);
        assert_eq!(reloaded(&mut world, |_| config.clone() + "# as before\n").await, Ok(()));
        is_served(table, port).await;
        assert_eq!(reloaded(&mut world, |text| moved(&text, table, &wildcard)).await, Ok(()));
        is_served(table, port).await;
    }
}

#[tokio::test]
async fn listeners_of_any_kind_swap_their_addresses() {
    let mut world = all_kinds().await;
    for ip in ["127.0.0.1", "0.0.0.0", "[::]", "127.0.0.1"] {
        for (one, other) in [("listener.main", "admin"), ("webhook.hook", "listener.main")] {
            let addresses = current_addresses(&world);
            let port = |table: &str| addresses.iter().find(|(of, _)| *of == table).unwrap().1;
            let (first, second) = (port(other), port(one));
            let swap = |text: String| {
                let text = moved(&text, one, &format!("{ip}:{first}"));
                moved(&text, other, &format!("127.0.0.1:{second}"))
            };
            assert_eq!(reloaded(&mut world, swap).await, Ok(()), "{one} and {other} on {ip}");
            is_served(one, first).await;
            is_served(other, second).await;
        }
    }
}

/// The port of each table, from what the log said last.
fn current_addresses(world: &World) -> Vec<(&'static str, u16)> {
    let events = world.log().events();
    let port = |table: &&'static str| {
        let name = table.rsplit('.').next().unwrap();
        let of = |event: &&serde_json::Value| {
            event["message"] == "listening" && (event["listener"] == name || event["webhook"] == name)
        };
        let address = events.iter().rev().find(of).unwrap()["address"].as_str().unwrap();
        (*table, address.parse::<SocketAddr>().unwrap().port())
    };
    TABLES.iter().map(port).collect()
}

#[tokio::test]
async fn an_address_that_moves_is_served_but_for_a_moment_and_its_requests_end_well() {
    let mut world = all_kinds().await;
    let port = port_of(&world, "listener.main").await;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let gate = Gate::new();
    world.upstream().next(RawResponse::ok("slow").gated(&gate));
    let mut slow = Client::tcp(address).await;
    slow.send(&RawRequest::get("/slow")).await;
    world.upstream().request(1).await;
    quick(Duration::from_secs(1), async |_| {
        let stop = Gate::new();
        let calls = tokio::spawn(longest_unserved(address, stop.clone()));
        for ip in ["0.0.0.0", "127.0.0.1", "[::]", "127.0.0.1"] {
            let address = format!("{ip}:{port}");
            assert_eq!(reloaded(&mut world, |text| moved(&text, "listener.main", &address)).await, Ok(()));
        }
        stop.open();
        calls.await.unwrap()
    })
    .await;
    gate.open();
    let response = slow.response().await;
    assert_eq!(response.text(), "slow");
}

/// One request after the other until the gate opens, and some more: for how long none was served.
async fn longest_unserved(address: SocketAddr, stop: Gate) -> Duration {
    let (mut served, mut longest, mut unserved_since) = (0, Duration::ZERO, None);
    while !stop.is_open() || served <= 10 {
        if served_at(address).await {
            (served, unserved_since) = (served + 1, None);
        } else {
            let since = *unserved_since.get_or_insert_with(Instant::now);
            longest = longest.max(since.elapsed());
            let_pass(Duration::from_millis(1)).await;
        }
    }
    longest
}

/// One request on a connection of its own. The kernel refuses the connection where nobody listens, and resets one that it
/// took at the moment when the socket was closed; a response that has begun is whole.
async fn served_at(address: SocketAddr) -> bool {
    let Ok(mut client) = Client::try_tcp(address).await else { return false };
    if client.wire.send(RawRequest::get("/x").bytes("localhost")).await.is_err() {
        return false;
    }
    let Ok(Some(head)) = client.wire.head().await else { return false };
    assert_eq!(head.word(1), "200");
    client.wire.body(&head, true).await.expect("a whole body");
    true
}

#[tokio::test]
async fn a_socket_file_goes_from_one_kind_of_listener_to_another() {
    let mut world = all_kinds().await;
    let path = world.folder().join("s");
    let unix = |name: &str| format!("unix:{}", world.folder().join(name).display());
    let (first, second) = (unix("s"), unix("t"));
    assert_eq!(reloaded(&mut world, |text| moved(&text, "webhook.hook", &first)).await, Ok(()));
    Client::unix(&path).await.exchange(&RawRequest::post("/hook", "{}")).await.expect_status(401);
    let swap = |text: String| moved(&moved(&text, "webhook.hook", &second), "admin", &first);
    assert_eq!(reloaded(&mut world, swap).await, Ok(()));
    Client::unix(&path).await.exchange(&RawRequest::get("/livez")).await.expect_status(200);
}

/// As a cleaner of `/tmp` removes it. A reload with another mode must not follow what stands in its place.
#[tokio::test]
async fn a_socket_file_that_was_removed_is_made_again_and_a_link_in_its_place_is_not_followed() {
    let setup = Setup::new().await.listener("address = \"unix:{folder}/s\"\nmode = \"0600\"");
    let mut world = setup.start().await;
    let path = world.folder().join("s");
    let get = RawRequest::get("/");
    Client::unix(&path).await.exchange(&get).await.expect_status(200);

    std::fs::remove_file(&path).unwrap();
    assert_eq!(reloaded(&mut world, |text| text + "\n# again").await, Ok(()));
    Client::unix(&path).await.exchange(&get).await.expect_status(200);

    let secret = world.file("other", "x");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mode_of = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&secret, &path).unwrap();
    let refused = reloaded(&mut world, |text| text.replace("0600", "0666")).await.unwrap_err();
    assert!(refused.contains("a symlink is in its place"), "{refused}");
    assert_eq!(mode_of(&secret), 0o600);

    std::fs::remove_file(&path).unwrap();
    assert_eq!(reloaded(&mut world, |text| text + "\n# at last").await, Ok(()));
    assert_eq!(mode_of(&path), 0o666);
    Client::unix(&path).await.exchange(&get).await.expect_status(200);
}
