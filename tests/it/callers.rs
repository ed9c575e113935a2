//! Who may send requests.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::support::h2::{H2Client, whole};
use crate::support::tls::{Ca, ca, localhost};
use crate::support::{Client, RawRequest, Setup, World, cli};

async fn scene(listener: &str) -> World {
    Setup::new().await.listener(listener).start().await
}

async fn expect_refused(world: &World, call: RawRequest) {
    world.exchange(call).await.expect_problem(403, "caller_refused");
    assert_eq!(world.upstream().count(), 0);
}

#[tokio::test]
async fn browser_page_of_another_origin_is_refused() {
    let world = scene("").await;
    for origin in ["https://evil.test", "null", "http://localhost:9", "https://localhost", ""] {
        expect_refused(&world, RawRequest::get("/").header("Origin", origin)).await;
    }
    let port = world.address("main").port();
    expect_refused(&world, RawRequest::get("/").header("Origin", &format!("http://localhost:{port}"))).await;
    expect_refused(&world, RawRequest::post("/", "a=b").header("Origin", "https://evil.test")).await;
}

#[tokio::test]
async fn origins_may_send_requests() {
    let world = scene("origins = [\"https://app.test\", \"http://localhost:3000\"]").await;
    for origin in ["https://app.test", "http://localhost:3000", "HTTPS://App.Test"] {
        world.exchange(RawRequest::get("/").header("Origin", origin)).await.expect_status(200);
    }
    for origin in
        ["https://app.test:8443", "http://app.test", "https://app.test.evil.test", "https://evil.test"]
    {
        let call = RawRequest::get("/").header("Origin", origin);
        world.exchange(call).await.expect_problem(403, "caller_refused");
    }
    let two = RawRequest::get("/").header("Origin", "https://app.test").header("Origin", "https://evil.test");
    let status = world.exchange(two).await.status;
    assert!(status == 403 || status == 400, "{status}");
}

#[tokio::test]
async fn cross_site_and_same_site_fetches_are_refused() {
    let world = scene("").await;
    for site in ["cross-site", "same-site", "Cross-Site"] {
        expect_refused(&world, RawRequest::get("/").header("Sec-Fetch-Site", site)).await;
    }
    for site in ["none", "same-origin"] {
        world.exchange(RawRequest::get("/").header("Sec-Fetch-Site", site)).await.expect_status(200);
    }
}

#[tokio::test]
async fn foreign_referers_are_refused() {
    let world = scene("names = [\"api.internal\"]\norigins = [\"https://app.test\"]").await;
    let port = world.address("main").port();
    // To a plain host name, this may be all that a browser says.
    let call = || RawRequest::get("/").host(&format!("api.internal:{port}"));
    for referer in [
        "http://evil.test/page".to_owned(),
        "https://evil.test".to_owned(),
        "http://api.internal/".to_owned(),
        format!("https://api.internal:{port}/"),
        format!("http://api.internal:{port}.evil.test/"),
        format!("http://api.internal:{port}@evil.test/"),
        "//evil.test/".to_owned(),
        "evil.test".to_owned(),
    ] {
        expect_refused(&world, call().header("Referer", &referer)).await;
    }
    let own = format!("http://API.internal:{port}/page?x");
    let both = call().header("Referer", &own).header("Referer", "http://evil.test/");
    expect_refused(&world, both).await;
    for referer in [&*own, "https://app.test/page", "/page", "about:blank"] {
        world.exchange(call().header("Referer", referer)).await.expect_status(200);
    }
}

#[tokio::test]
async fn pages_served_from_here_may_send_requests_to_their_own_origin() {
    let world = scene("names = [\"api.internal\"]").await;
    let port = world.address("main").port();
    for host in ["localhost", "api.internal", "127.0.0.1", "[::1]"] {
        let authority = format!("{host}:{port}");
        let origin = format!("http://{authority}");
        let page = |method: &str| {
            RawRequest::new(method, "/")
                .host(&authority)
                .header("Origin", &origin)
                .header("Referer", &format!("{origin}/page"))
                .header("Sec-Fetch-Site", "same-origin")
        };
        for method in ["GET", "POST", "DELETE"] {
            world.exchange(page(method)).await.expect_status(200);
        }
    }
    let own = format!("http://localhost:{port}");
    let authority = own.strip_prefix("http://").unwrap();
    world.exchange(RawRequest::get("/").host(authority).header("Origin", &own)).await.expect_status(200);
    let count = world.upstream().count();
    for origin in [
        format!("https://{authority}"),
        format!("http://localhost:{}", port ^ 1),
        "http://localhost".to_owned(),
        format!("http://127.0.0.1:{port}"),
        format!("http://localhost.:{port}"),
    ] {
        let call = RawRequest::get("/").host(authority).header("Origin", &origin);
        world.exchange(call).await.expect_problem(403, "caller_refused");
    }
    let contradiction =
        RawRequest::get("/").host(authority).header("Origin", &own).header("Sec-Fetch-Site", "cross-site");
    world.exchange(contradiction).await.expect_problem(403, "caller_refused");
    assert_eq!(world.upstream().count(), count);

    let mut client = H2Client::plain(world.address("main")).await;
    let address = world.address("main");
    for (origin, status) in [(format!("http://{address}"), 200), (format!("https://{address}"), 403)] {
        let request = client.request("GET", "/").header("origin", &origin).body(whole("")).unwrap();
        assert_eq!(client.exchange(request).await.status, status, "{origin}");
    }
}

#[tokio::test]
async fn own_origin_of_a_listener_with_tls_is_https() {
    let setup = Setup::new().await;
    tls_files(&setup);
    let tls = "tls = { certificate = { file = \"server.pem\" }, private_key = { file = \"server.key\" } }";
    let world = setup.listener(tls).start().await;
    let address = world.address("main");
    for (scheme, status) in [("https", 200), ("http", 403)] {
        let mut client = Client::tls(address, ca().client(&["http/1.1"], None)).await.unwrap();
        let origin = format!("{scheme}://localhost:{}", address.port());
        client.exchange(&RawRequest::get("/").header("Origin", &origin)).await.expect_status(status);
    }
}

#[tokio::test]
async fn words_of_fetch_metadata_that_nobody_knows_are_refused() {
    let world = scene("").await;
    for site in ["", "same-origin, cross-site", "Same-Origin", "top", "same_origin"] {
        expect_refused(&world, RawRequest::get("/").header("Sec-Fetch-Site", site)).await;
    }
    let two =
        RawRequest::get("/").header("Sec-Fetch-Site", "same-origin").header("Sec-Fetch-Site", "cross-site");
    expect_refused(&world, two).await;
}

#[tokio::test]
async fn check_warns_about_names_that_pages_could_ride_on() {
    const WARNING: &str = "a page of any site can send GET requests here";
    let setup = Setup::new().await.listener("names = [\"api.internal\"]").route("host = \"b.internal\"");
    setup.write();
    let output = cli::run(setup.folder(), &["check"]).await;
    output.expect_code(0);
    assert_eq!(output.all().matches(WARNING).count(), 2, "{}", output.all());
    let key = "require_header = { name = \"x-key\", value = { file = \"secret\" } }";
    let setup = Setup::new()
        .await
        .listener(&format!("names = [\"api.internal\"]\n{key}"))
        .route("host = \"b.internal\"");
    setup.write();
    let output = cli::run(setup.folder(), &["check"]).await;
    output.expect_code(0);
    assert!(!output.all().contains(WARNING), "{}", output.all());
}

#[tokio::test]
async fn preflight_is_refused_and_nothing_of_cors_is_made_up() {
    let world = scene("").await;
    let preflight = RawRequest::new("OPTIONS", "/")
        .header("Origin", "https://evil.test")
        .header("Access-Control-Request-Method", "GET");
    let response = world.exchange(preflight).await;
    response.expect_problem(403, "caller_refused");
    assert!(!response.head.fields.iter().any(|(name, _)| name.to_lowercase().starts_with("access-control")));
}

#[tokio::test]
async fn websocket_of_another_origin_is_refused_before_101() {
    let world = scene("").await;
    let call = RawRequest::get("/")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("Origin", "https://evil.test");
    expect_refused(&world, call).await;
}

const STRANGE_HOSTS: [&str; 12] = [
    "evil.test",
    "localhost.evil.test",
    "127.0.0.1.nip.io",
    "0.0.0.0",
    "LOCALHOST.",
    "2130706433",
    "127.1",
    "0x7f.0.0.1",
    "localhost.localdomain",
    "xlocalhost",
    "192.168.0.1",
    "[::2]:80",
];

#[tokio::test]
async fn host_that_nobody_named_is_421() {
    let world = scene("").await;
    for host in STRANGE_HOSTS {
        let response = world.exchange(RawRequest::get("/").host(host)).await;
        assert_eq!((response.status, response.code().as_deref()), (421, Some("misdirected")), "{host}");
    }
    assert_eq!(world.upstream().count(), 0);
}

#[tokio::test]
async fn authority_that_nobody_named_is_421_over_http2() {
    let world = scene("").await;
    let mut client = H2Client::plain(world.address("main")).await;
    for host in ["evil.test", "localhost.evil.test", "0.0.0.0"] {
        let request = http::Request::builder().uri(format!("http://{host}/")).body(whole("")).unwrap();
        assert_eq!(client.exchange(request).await.status, 421, "{host}");
    }
}

#[tokio::test]
async fn own_names_are_localhost_loopback_literals_its_address_and_names() {
    let world = scene("names = [\"api.internal\"]").await;
    let port = world.address("main").port();
    let own = [
        "localhost".to_owned(),
        "LocalHost:80".to_owned(),
        "127.0.0.1".to_owned(),
        format!("127.0.0.1:{port}"),
        "127.0.0.2".to_owned(),
        "[::1]".to_owned(),
        format!("[::1]:{port}"),
        "api.internal".to_owned(),
        "API.Internal:8080".to_owned(),
    ];
    for host in own {
        world.exchange(RawRequest::get("/").host(&host)).await.expect_status(200);
    }
    world.exchange(RawRequest::get("/").host("other.internal")).await.expect_problem(421, "misdirected");
}

#[tokio::test]
async fn host_of_a_route_is_not_misdirected() {
    let world = Setup::new().await.route("host = \"*.billing.test\"").start().await;
    world.exchange(RawRequest::get("/").host("eu.billing.test")).await.expect_status(200);
    world.exchange(RawRequest::get("/").host("billing.test")).await.expect_problem(421, "misdirected");
}

#[tokio::test]
async fn allow_says_which_peer_addresses_may_send_requests() {
    expect_refused(&scene("allow = [\"10.0.0.0/8\"]").await, RawRequest::get("/")).await;
    let world = scene("allow = [\"10.0.0.0/8\", \"127.0.0.0/8\"]").await;
    world.get("/").await.expect_status(200);
    let world = scene("allow = [\"127.0.0.1\"]").await;
    world.get("/").await.expect_status(200);
}

#[tokio::test]
async fn require_header_wants_name_and_value() {
    let setup = Setup::new().await;
    setup.file("caller-key", "open sesame\n");
    let world = setup
        .listener("require_header = { name = \"x-caller-key\", value = { file = \"caller-key\" } }")
        .start()
        .await;
    expect_refused(&world, RawRequest::get("/")).await;
    for wrong in ["", "open", "open sesame!", "OPEN SESAME"] {
        expect_refused(&world, RawRequest::get("/").header("X-Caller-Key", wrong)).await;
    }
    world.exchange(RawRequest::get("/").header("X-Caller-Key", "open sesame")).await.expect_status(200);
    assert_eq!(world.upstream().last().header("x-caller-key"), None, "it is between the caller and us");
}

fn unix_listener(keys: &str) -> String {
    format!("address = \"unix:{{folder}}/proxy.sock\"\n{keys}")
}

#[tokio::test]
async fn unix_socket_serves_its_owner_alone_by_default() {
    let world = scene(&unix_listener("")).await;
    let path = world.folder().join("proxy.sock");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    Client::unix(&path).await.exchange(&RawRequest::get("/")).await.expect_status(200);
}

#[tokio::test]
async fn unix_socket_has_the_mode_given() {
    let world = scene(&unix_listener("mode = \"0660\"")).await;
    let mode = std::fs::metadata(world.folder().join("proxy.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}

#[tokio::test]
async fn allow_uids_says_which_users_may_send_requests() {
    let folder = tempfile::tempdir().unwrap();
    let own = std::fs::metadata(folder.path()).unwrap().uid();
    let world = scene(&unix_listener(&format!("allow_uids = [{own}]"))).await;
    Client::unix(&world.folder().join("proxy.sock"))
        .await
        .exchange(&RawRequest::get("/"))
        .await
        .expect_status(200);
    let world = scene(&unix_listener(&format!("allow_uids = [{}]", own + 1))).await;
    let mut client = Client::unix(&world.folder().join("proxy.sock")).await;
    client.exchange(&RawRequest::get("/")).await.expect_problem(403, "caller_refused");
    assert_eq!(world.upstream().count(), 0);
}

#[tokio::test]
async fn network_wants_a_rule_and_other_addresses_want_network() {
    let cases = [
        ("address = \"0.0.0.0:0\"", 78),
        ("address = \"0.0.0.0:0\"\nallow = [\"10.0.0.0/8\"]", 78),
        ("address = \"[::]:0\"\ncallers = \"local\"", 78),
        ("address = \"0.0.0.0:0\"\ncallers = \"network\"", 78),
        ("address = \"0.0.0.0:0\"\ncallers = \"network\"\nallow = [\"10.0.0.0/8\"]", 0),
        ("address = \"127.0.0.1:0\"\ncallers = \"local\"", 0),
    ];
    for (listener, code) in cases {
        let setup = Setup::new().await.listener(listener);
        setup.write();
        let output = cli::run(setup.folder(), &["check"]).await;
        assert_eq!(output.code, code, "{listener}: {}", output.all());
        if code != 0 {
            cli::run(setup.folder(), &["run"]).await.expect_code(code);
        }
    }
}

fn tls_files(setup: &Setup) {
    let server = localhost();
    setup.file("server.pem", &server.certificate_pem);
    setup.file("server.key", &server.key_pem);
    setup.file("ca.pem", &ca().pem);
}

#[tokio::test]
async fn listener_with_tls_serves_tls_alone() {
    let setup = Setup::new().await;
    tls_files(&setup);
    let world = setup
        .listener(
            "tls = { certificate = { file = \"server.pem\" }, private_key = { file = \"server.key\" } }",
        )
        .start()
        .await;
    let address = world.address("main");
    let mut client = Client::tls(address, ca().client(&["http/1.1"], None)).await.unwrap();
    client.exchange(&RawRequest::get("/")).await.expect_status(200);
    let mut plain = world.connect().await;
    plain.send(&RawRequest::get("/")).await;
    assert!(plain.response_or_end().await.is_none_or(|response| response.status == 400));
    assert_eq!(world.upstream().count(), 1);
}

#[tokio::test]
async fn client_ca_wants_a_certificate_of_it() {
    let setup = Setup::new().await;
    tls_files(&setup);
    let tls = "tls = { certificate = { file = \"server.pem\" }, private_key = { file = \"server.key\" }, client_ca = { file = \"ca.pem\" } }";
    let world = setup.listener(tls).start().await;
    let address = world.address("main");
    let known = ca().issue(&["caller.test"]);
    let mut client = Client::tls(address, ca().client(&["http/1.1"], Some(&known))).await.unwrap();
    client.exchange(&RawRequest::get("/")).await.expect_status(200);
    let stranger = Ca::new("a stranger").issue(&["caller.test"]);
    for identity in [None, Some(&stranger)] {
        // With TLS 1.3 the refusal may come after the client thinks that the handshake is done.
        if let Ok(mut client) = Client::tls(address, ca().client(&["http/1.1"], identity)).await {
            let _sent = client.wire.send(RawRequest::get("/").bytes("localhost")).await;
            assert!(client.response_or_end().await.is_none());
        }
    }
    assert_eq!(world.upstream().count(), 1);
}
