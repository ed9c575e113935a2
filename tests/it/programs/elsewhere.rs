//! Programs whose output is used outside of token requests.

use super::{runs, scene, script};
use crate::support::tls::Ca;
use crate::support::{Client, RawRequest, RawResponse, Scripted, Setup, World, eventually};

#[tokio::test]
async fn elsewhere_it_runs_at_start_and_again_after_keep() {
    let setup = scene("cat \"$1\"", "").await;
    setup.file("caller", "caller-one");
    setup.file("set", "set-one");
    let setup = setup
        .listener("require_header = { name = \"x-key\", value = { exec = [\"./program\", \"caller\"], keep = \"1s\" } }")
        .route("request_headers = { set = { x-set = { exec = [\"./program\", \"set\"], keep = \"1s\" } } }");
    let world = setup.start().await;
    let with = |key: &'static str| RawRequest::get("/").header("x-key", key);
    world.exchange(with("caller-one")).await.expect_status(200);
    world.exchange(with("caller-two")).await.expect_status(403);
    assert_eq!(world.upstream().last().header("x-set"), Some("set-one"));
    world.file("caller", "caller-two");
    world.file("set", "set-two");
    eventually("the new values", || async {
        let through = world.exchange(with("caller-two")).await.status == 200;
        (through && world.upstream().last().header("x-set") == Some("set-two")).then_some(())
    })
    .await;
    // The last good value stays in use while the program fails.
    std::fs::remove_file(world.folder().join("caller")).unwrap();
    world.log().wait("a failure", |line| line.contains("program.failed")).await;
    world.exchange(with("caller-two")).await.expect_status(200);
}

#[tokio::test]
async fn elsewhere_a_program_that_fails_at_start_fails_closed_until_it_works() {
    let setup = scene("cat caller", "")
        .await
        .listener("require_header = { name = \"x-key\", value = { exec = [\"./program\"], keep = \"1h\" } }");
    let world = setup.start().await;
    world.exchange(RawRequest::get("/").header("x-key", "")).await.expect_status(403);
    let ready = world.admin("/readyz").await;
    ready.expect_status(503);
    assert!(
        ready
            .text()
            .contains("listener.main.require_header.value: program ./program: ended with exit code 1"),
        "{}",
        ready.text()
    );
    world.file("caller", "there");
    eventually("the value", || async {
        (world.exchange(RawRequest::get("/").header("x-key", "there")).await.status == 200).then_some(())
    })
    .await;
    world.proxy.ready().await;

    // SIGHUP runs it at once, although its output is kept for an hour.
    world.file("caller", "changed");
    world.reload().await;
    world.exchange(RawRequest::get("/").header("x-key", "changed")).await.expect_status(200);
}

#[tokio::test]
async fn certificates_come_from_programs_and_others_later() {
    let (first, second) = (Ca::new("first"), Ca::new("second"));
    let both = |ca: &Ca| {
        let identity = ca.issue(&["localhost"]);
        format!("{}{}", identity.certificate_pem, identity.key_pem)
    };
    let upstream = Scripted::start(Some(first.issue(&["localhost"]).server(&["http/1.1"]))).await;
    upstream.always_this(RawResponse::ok("hello"));
    let setup = Setup::with(Scripted::issuer().await, upstream);
    setup.file("identity", both(&first));
    setup.file("ca", &second.pem);
    let cat = |file: &str| format!("{{ exec = [\"cat\", \"{file}\"], keep = \"1s\" }}");
    let setup = setup
        .listener(&format!("tls = {{ certificate = {0}, private_key = {0} }}", cat("identity")))
        .route(&format!("tls = {{ ca = {} }}", cat("ca")));
    let world = setup.start().await;
    let get = async |ca: &Ca| {
        let mut client = Client::tls(world.address("main"), ca.client(&["http/1.1"], None)).await.ok()?;
        client.send(&RawRequest::get("/")).await;
        client.response_or_end().await.map(|response| response.status)
    };
    assert_eq!(get(&first).await, Some(502), "the upstream's authority is another one");
    world.file("ca", &first.pem);
    world.file("identity", both(&second));
    eventually("both to be taken", || async { (get(&second).await == Some(200)).then_some(()) }).await;
}

#[tokio::test]
async fn rotation_under_steady_requests_loses_none() {
    // Each run rotates the secret, and the issuer takes only the newest.
    let body = "echo run >> runs; echo \"secret-$(wc -l < runs | tr -d ' ')\"";
    let setup = scene(body, "client_secret = { exec = [\"./program\"], keep = \"1s\" }").await;
    let folder = setup.folder().to_owned();
    setup.issuer.always(move |request, n| {
        let newest = format!("secret-{}", runs(&folder));
        match request.basic().unwrap().ends_with(&newest) {
            true => RawResponse::brief_token(n),
            false => RawResponse::oauth_error(401, "invalid_client"),
        }
    });
    let world = setup.start().await;
    let mut client = world.connect().await;
    let mut sent = 0;
    while runs(world.folder()) < 4 {
        client.exchange(&RawRequest::get("/")).await.expect_status(200);
        sent += 1;
    }
    assert!(sent > 10, "{sent}");
}

/// Programs that give no value, and what is said about each.
const NO_VALUE: [(&str, &str); 3] = [
    ("exec sleep 600", "did not end within 3s"),
    ("echo canary-of-a-failure; exit 3", "ended with exit code 3"),
    ("head -c 70000 /dev/zero | tr '\\0' x", "printed more than 64 KiB"),
];

const PROGRAM: &str = "{ exec = [\"./program\"], timeout = \"3s\", keep = \"1h\" }";

/// Characters that no header field may have.
const CONTROLS: &str = "canary\u{1}\u{7f}";

/// A scene whose program prints these words.
async fn printing(words: &str, more: &str) -> Setup {
    let setup = scene("cat words", "").await.more(more);
    setup.file("words", words);
    setup
}

async fn expect_no_canary(world: &World) {
    for text in
        [world.log().text(), world.status().await.to_string(), world.admin("/readyz?verbose").await.text()]
    {
        assert!(!text.contains("canary"), "{text}");
    }
}

async fn store_failure(world: &World, says: &str) {
    eventually(says, || async {
        let store = world.status().await["store"].clone();
        (store["up"] == false && store["failure"].to_string().contains(says)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_store_whose_key_no_program_prints_is_not_used_until_one_does() {
    const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    let table = format!("[store]\npath = \"tokens\"\nkeys = [{PROGRAM}]");
    for (body, says) in NO_VALUE {
        let world = scene(body, "").await.more(&table).start().await;
        world.get("/").await.expect_status(200);
        store_failure(&world, says).await;
        expect_no_canary(&world).await;
        script(world.folder(), "program", &format!("echo {KEY}"));
        eventually("the store", || async { (world.status().await["store"]["up"] == true).then_some(()) })
            .await;
    }
    let world = printing(CONTROLS, &table).await.start().await;
    world.get("/").await.expect_status(200);
    store_failure(&world, "the store's key cannot be used: program ./program").await;
    expect_no_canary(&world).await;
}

#[tokio::test]
async fn a_store_whose_password_no_program_prints_is_not_used_until_one_does() {
    let server = crate::support::manual::Manual::start().await;
    let url = server.url.replace("http://", "redis://");
    let table = format!("[store]\nurl = \"{url}\"\nkeys = [{{ env = \"STORE_KEY\" }}]\npassword = {PROGRAM}");
    for (body, says) in NO_VALUE {
        let setup = scene(body, "").await.more(&table).env("STORE_KEY", &"00".repeat(32));
        let world = setup.start().await;
        world.get("/").await.expect_status(200);
        store_failure(&world, &format!("password in [store] cannot be read: program ./program: {says}"))
            .await;
        expect_no_canary(&world).await;
    }
    // A password may hold any bytes.
    let server = crate::support::manual::Manual::start().await;
    let table = table.replace(&url, &server.url.replace("http://", "redis://"));
    let world = printing(CONTROLS, &table).await.env("STORE_KEY", &"00".repeat(32)).start().await;
    let mut wire = server.accept().await;
    let sent = wire.until(format!("${}\r\n{CONTROLS}\r\n", CONTROLS.len()).as_bytes()).await.unwrap();
    assert!(String::from_utf8_lossy(&sent).contains("AUTH"), "{sent:?}");
    world.get("/").await.expect_status(200);
    expect_no_canary(&world).await;
}

#[tokio::test]
async fn spans_are_sent_once_a_program_prints_their_header() {
    let traced = |collector: &Scripted| {
        crate::traces::table(&collector.url, &format!("headers = {{ x-key = {PROGRAM} }}"))
    };
    for (body, says) in NO_VALUE {
        let collector = Scripted::upstream().await;
        let world = scene(body, "").await.more(&traced(&collector)).start().await;
        world.get("/").await.expect_status(200);
        let says = format!("tracing.headers.x-key: program ./program: {says}");
        world.log().wait(&says, |line| line.contains(&says)).await;
        assert_eq!(collector.count(), 0);
        expect_no_canary(&world).await;
        script(world.folder(), "program", "echo the-key");
        eventually("spans", || async {
            world.get("/").await.expect_status(200);
            (collector.count() > 0).then_some(())
        })
        .await;
        assert_eq!(collector.request(1).await.header("x-key"), Some("the-key"));
    }
    let collector = Scripted::upstream().await;
    let world = printing(CONTROLS, &traced(&collector)).await.start().await;
    world.get("/").await.expect_status(200);
    let says = "tracing.headers.x-key: program ./program has characters that no header may have";
    world.log().wait(says, |line| line.contains(says)).await;
    assert_eq!(collector.count(), 0);
    expect_no_canary(&world).await;
}
