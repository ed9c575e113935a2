//! `serve = "forward"`: programs use bearerd as their `HTTP_PROXY` and `HTTPS_PROXY`.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use crate::support::egress::Egress;
use crate::support::h2::{EchoUpstream, H2Client};
use crate::support::{
    Client, RawRequest, RawResponse, Response, Scripted, Setup, Wire, World, cli, eventually, tls, within,
};

mod egress;
mod refused;
mod reload;

const HOST: &str = "api.example.com";

/// A forward listener, and the route `api` for [`HOST`].
async fn forward() -> Setup {
    forward_with("").await
}

/// With more keys of `forward`.
async fn forward_with(keys: &str) -> Setup {
    serving(Setup::new().await, keys).route(&format!("host = \"{HOST}\""))
}

fn serving(setup: Setup, keys: &str) -> Setup {
    setup.listener(&format!("serve = \"forward\"\nforward = {{ ca_bundle = \"ca.pem\"{keys} }}"))
}

/// What a program trusts that got `ca_bundle`.
fn trusting(world: &World, alpn: &[&str]) -> Arc<rustls::ClientConfig> {
    tls::trusting(&world.folder().join("ca.pem"), alpn)
}

/// The connection inside a CONNECT to `authority`.
async fn connect(world: &World, authority: &str) -> Wire {
    let mut client = world.connect().await;
    let refused = connect_on(&mut client, authority, "").await;
    assert!(refused.is_none(), "{refused:?}");
    client.wire
}

/// What CONNECT gets, unless it is opened.
async fn connect_on(client: &mut Client, authority: &str, fields: &str) -> Option<Response> {
    let head = format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n{fields}\r\n");
    client.wire.send(head).await.unwrap();
    let head = client.head().await;
    if head.word(1) == "200" {
        assert_eq!(
            head.header("content-length").or_else(|| head.header("transfer-encoding")),
            None,
            "{head:?}"
        );
        return None;
    }
    let status = head.word(1).parse().unwrap();
    let body = within("a body", client.wire.body(&head, true)).await.unwrap();
    Some(Response { status, head, body })
}

async fn refused(world: &World, authority: &str) -> Response {
    connect_on(&mut world.connect().await, authority, "").await.expect("no tunnel")
}

/// TLS inside a CONNECT to `host` at port 443.
async fn inside(world: &World, host: &str) -> Client {
    let wire = connect(world, &format!("{host}:443")).await;
    secure(wire, trusting(world, &[]), host, host).await.unwrap()
}

async fn secure(
    wire: Wire,
    config: Arc<rustls::ClientConfig>,
    name: &str,
    host: &str,
) -> std::io::Result<Client> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = within("TLS", TlsConnector::from(config).connect(name, wire.into_stream())).await?;
    Ok(Client::over(Wire::new(stream), host))
}

#[tokio::test]
async fn a_request_inside_a_connect_gets_its_token() {
    let world = forward().await.start().await;
    let mut client = inside(&world, HOST).await;
    for n in 1..4 {
        let response = client.exchange(&RawRequest::post(&format!("/x?n={n}"), "hello")).await;
        assert_eq!(response.status, 200, "{response:?}");
        let request = world.upstream().last();
        assert_eq!((request.target(), request.bearer()), (&*format!("/x?n={n}"), Some("token-1")));
        assert_eq!(request.text(), "hello");
    }
    assert_eq!(world.issuer().count(), 1);
    assert_eq!(
        world.metric("bearerd_requests_total", &[("route", "api"), ("status", "200")]).await,
        Some(3.0)
    );
    assert_eq!(refused(&world, "other.example.com:443").await.status, 403);
    for outcome in ["served", "refused"] {
        let labels = [("listener", "main"), ("outcome", outcome)];
        assert_eq!(world.metric("bearerd_connects_total", &labels).await, Some(1.0), "{outcome}");
    }
    // The CONNECT is no request of its own.
    assert_eq!(world.metric("bearerd_requests_total", &[("route", ""), ("status", "200")]).await, None);
}

#[tokio::test]
async fn an_absolute_http_url_gets_its_token() {
    let world = forward().await.start().await;
    let target = format!("http://{HOST}/x?y");
    let response = world.exchange(RawRequest::get(&target).host(HOST)).await;
    assert_eq!(response.status, 200, "{response:?}");
    let request = world.upstream().last();
    assert_eq!((request.target(), request.bearer()), ("/x?y", Some("token-1")));
    let response =
        world.exchange(RawRequest::get(&format!("http://{HOST}:80/")).host(&format!("{HOST}:80"))).await;
    assert_eq!(response.status, 200, "{response:?}");
}

/// As Java writes the port of the URL in one of the two alone.
#[tokio::test]
async fn a_default_port_may_be_in_the_target_or_in_host_alone() {
    let world = forward().await.start().await;
    let default = format!("{HOST}:80");
    for (target, host, status) in [
        (&*format!("http://{HOST}:80/"), HOST, 200),
        (&*format!("http://{HOST}/"), &*default, 200),
        ("HTTP://API.example.com:80/", HOST, 200),
        // 443 is no other host for routes.
        (&*format!("http://{HOST}:443/"), &*format!("{HOST}:443"), 200),
        (&*format!("http://{HOST}:443/"), HOST, 400),
        (&*format!("http://{HOST}/"), &*format!("{HOST}:443"), 400),
        (&*format!("http://{HOST}:8080/"), HOST, 400),
        (&*format!("http://{HOST}/"), "other.example.com", 400),
    ] {
        let response = world.exchange(RawRequest::get(target).host(host)).await;
        assert_eq!(response.status, status, "{target} {host}: {}", response.text());
    }
    let mut client = inside(&world, HOST).await;
    for (target, host, status) in [
        (format!("https://{HOST}:443/"), HOST, 200),
        (format!("https://{HOST}/"), &*format!("{HOST}:443"), 200),
        (format!("https://{HOST}:80/"), HOST, 400),
        (format!("https://{HOST}:8443/"), &*format!("{HOST}:8443"), 421),
    ] {
        let response = client.exchange(&RawRequest::get(&target).host(host)).await;
        assert_eq!(response.status, status, "{target} {host}: {}", response.text());
    }
}

/// As undici and `curl --proxytunnel` ask for `http://` URLs.
#[tokio::test]
async fn plain_http_inside_a_connect_gets_its_token() {
    let setup = forward_with(", unmatched = \"tunnel\"").await.more(
        "[[route]]\nname = \"other-port\"\nhost = \"api.example.com:8080\"\nupstream = \"{upstream}\"\nissuer = \"corp\"\n",
    );
    let world = setup.start().await;
    for (authority, host) in
        [(&*format!("{HOST}:80"), HOST), (&*format!("{HOST}:8080"), &*format!("{HOST}:8080"))]
    {
        let mut client = Client::over(connect(&world, authority).await, host);
        for target in ["/x?y".to_owned(), format!("http://{host}/x?y"), format!("http://{authority}/x?y")] {
            let response = client.exchange(&RawRequest::post(&target, "hello")).await;
            assert_eq!(response.status, 200, "{authority} {target}: {}", response.text());
            let request = world.upstream().last();
            assert_eq!((request.target(), request.bearer()), ("/x?y", Some("token-1")), "{authority}");
            assert_eq!(request.text(), "hello");
        }
        for other in ["other.example.com", &format!("{HOST}:443"), &format!("{HOST}:9")] {
            let response = client.exchange(&RawRequest::get("/").host(other)).await;
            assert_eq!((response.status, response.code().as_deref()), (421, Some("misdirected")), "{other}");
        }
        let page = RawRequest::get("/").header("origin", &format!("https://{host}"));
        assert_eq!(client.exchange(&page).await.status, 403, "another origin than http://");
    }
    let authority = format!("{HOST}:80");
    // HTTP/2 inside, and outside.
    let wire = connect(&world, &authority).await;
    let mut client = H2Client::over(wire.into_stream(), format!("http://{HOST}")).await;
    assert_eq!(client.get("/h2").await.status, 200);
    let mut proxy = H2Client::plain(world.address("main")).await;
    let opened = proxy.connect(&authority).await;
    let response = Client::over(Wire::new(opened), HOST).exchange(&RawRequest::get("/in-h2")).await;
    assert_eq!((response.status, world.upstream().last().bearer()), (200, Some("token-1")));
    // TLS at this port is TLS.
    let wire = connect(&world, &authority).await;
    let mut client = secure(wire, trusting(&world, &[]), HOST, &authority).await.unwrap();
    assert_eq!(client.exchange(&RawRequest::get("/")).await.status, 200);
    let explained = cli::run(world.folder(), &["explain", "GET", &format!("http://{HOST}:443/")]).await;
    explained.expect_code(0);
    // The port is not part of the advice, either.
    let other = world.exchange(RawRequest::get("http://x.example:443/").host("x.example:443")).await;
    assert!(other.text().contains("host = \\\"x.example\\\""), "{}", other.text());
}

#[tokio::test]
async fn both_versions_of_http_on_both_sides_of_a_connect() {
    let world = forward().await.start().await;
    // HTTP/2 inside HTTP/1.1.
    let wire = connect(&world, &format!("{HOST}:443")).await;
    let name = ServerName::try_from(HOST).unwrap();
    let stream =
        TlsConnector::from(trusting(&world, &["h2"])).connect(name, wire.into_stream()).await.unwrap();
    let mut client = H2Client::over(Box::new(stream), format!("https://{HOST}")).await;
    let response = client.get("/inner-h2").await;
    assert_eq!(response.status, 200);
    assert_eq!(
        (world.upstream().last().target(), world.upstream().last().bearer()),
        ("/inner-h2", Some("token-1"))
    );
    // Both inside HTTP/2.
    let mut proxy = H2Client::plain(world.address("main")).await;
    for (alpn, path) in [("h2", "/h2-in-h2"), ("http/1.1", "/h1-in-h2")] {
        let opened = proxy.connect(&format!("{HOST}:443")).await;
        let name = ServerName::try_from(HOST).unwrap();
        let stream = TlsConnector::from(trusting(&world, &[alpn])).connect(name, opened).await.unwrap();
        let status = if alpn == "h2" {
            H2Client::over(Box::new(stream), format!("https://{HOST}")).await.get(path).await.status
        } else {
            Client::over(Wire::new(stream), HOST).exchange(&RawRequest::get(path)).await.status
        };
        assert_eq!(status, 200, "{alpn}");
        assert_eq!(world.upstream().last().target(), path);
    }
}

/// An upstream that is TLS for `localhost`, and a route without `upstream` to it.
async fn asked(lines: &str) -> (World, String) {
    let upstream = Scripted::start(Some(tls::localhost().server(&["http/1.1"]))).await;
    upstream.always(|request, _| RawResponse::ok(request.target().to_owned()));
    let port = upstream.address.unwrap().port();
    let setup = Setup::with(Scripted::issuer().await, upstream);
    setup.file("upstream-ca.pem", &tls::ca().pem);
    let world = serving(setup, "")
        .route(&format!("# upstream\nhost = \"localhost:{port}\"\ntls = {{ ca = {{ file = \"upstream-ca.pem\" }} }}\n{lines}"))
        .start()
        .await;
    (world, format!("localhost:{port}"))
}

#[tokio::test]
async fn a_route_without_upstream_goes_to_the_asked_host_with_the_path_as_it_is() {
    let (world, authority) = asked("path_prefix = \"/v1\"").await;
    let wire = connect(&world, &authority).await;
    let mut client = secure(wire, trusting(&world, &[]), "localhost", &authority).await.unwrap();
    let response = client.exchange(&RawRequest::get("/v1/x?y")).await;
    assert_eq!((response.status, response.text()), (200, "/v1/x?y".to_owned()));
    let request = world.upstream().last();
    assert_eq!((request.bearer(), request.header("host")), (Some("token-1"), Some(&*authority)));
    // Also if the program asked without TLS: the token needs it.
    let response = world.exchange(RawRequest::get(&format!("http://{authority}/v1")).host(&authority)).await;
    assert_eq!((response.status, response.text()), (200, "/v1".to_owned()));
    assert_eq!(world.upstream().last().bearer(), Some("token-1"));
    assert_eq!(client.exchange(&RawRequest::get("/v2")).await.status, 404);
}

/// Hosts of `*.example.com:8443`, which this egress proxy leads to one upstream.
async fn wildcard(names: &[&str]) -> (World, Egress) {
    let upstream = Scripted::start(Some(tls::ca().issue(names).server(&["http/1.1"]))).await;
    upstream.always(|request, _| RawResponse::ok(request.header("host").unwrap_or_default().to_owned()));
    let egress = Egress::to(upstream.address.unwrap()).await;
    let setup = Setup::with(Scripted::issuer().await, upstream);
    setup.file("upstream-ca.pem", &tls::ca().pem);
    let world = serving(setup, "")
        .route(&format!(
            "# upstream\nhost = \"*.example.com:8443\"\nproxy = \"http://{}\"\ntls = {{ ca = {{ file = \"upstream-ca.pem\" }} }}\nmethods = [\"GET\"]",
            egress.address
        ))
        .start()
        .await;
    (world, egress)
}

#[tokio::test]
async fn each_host_of_a_wildcard_has_an_upstream_of_its_own() {
    let names = ["a.example.com", "b.x.example.com"];
    let (world, _egress) = wildcard(&names).await;
    for name in names.iter().chain(&names) {
        let authority = format!("{name}:8443");
        let wire = connect(&world, &authority).await;
        let mut client = secure(wire, trusting(&world, &[]), name, &authority).await.unwrap();
        let response = client.exchange(&RawRequest::get("/")).await;
        assert_eq!((response.status, response.text()), (200, authority.clone()));
        assert_eq!(world.upstream().last().bearer(), Some("token-1"));
        // A condition that is not met is 404 inside, and never a tunnel.
        assert_eq!(client.exchange(&RawRequest::post("/", "x")).await.status, 404);
    }
    assert_eq!(world.upstream().count(), 4);
    assert_eq!(world.issuer().count(), 1, "one token for all hosts");
    // Verified like any other upstream: nobody is c.example.com.
    let authority = "c.example.com:8443".to_owned();
    let wire = connect(&world, &authority).await;
    let mut client = secure(wire, trusting(&world, &[]), "c.example.com", &authority).await.unwrap();
    let response = client.exchange(&RawRequest::get("/")).await;
    assert_eq!((response.status, response.code().as_deref()), (502, Some("upstream_unreachable")));
}

/// As Java, undici, and aiohttp send it.
#[tokio::test]
async fn a_connect_may_leave_the_port_out_of_host() {
    let world = forward().await.start().await;
    let mut client = world.connect().await;
    client.wire.send(format!("CONNECT {HOST}:443 HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await.unwrap();
    assert_eq!(client.head().await.word(1), "200");
    let mut client = secure(client.wire, trusting(&world, &[]), HOST, HOST).await.unwrap();
    assert_eq!(client.exchange(&RawRequest::get("/")).await.status, 200);
}

/// Of an address that a route names, no other spelling goes through unread.
#[tokio::test]
async fn every_spelling_of_a_named_address_is_served() {
    for (host, spellings) in [
        ("[2001:db8::5]", ["[2001:db8::5]", "[2001:DB8:0:0:0:0:0:5]", "[2001:0db8::0005]"]),
        ("10.1.2.3", ["10.1.2.3", "[::ffff:10.1.2.3]", "[::ffff:a01:203]"]),
    ] {
        let setup = serving(Setup::new().await, ", unmatched = \"tunnel\"");
        let world = setup.route(&format!("host = \"{host}\"")).start().await;
        for spelling in spellings {
            let wire = connect(&world, &format!("{spelling}:443")).await;
            let name = host.trim_matches(['[', ']']);
            let mut client = secure(wire, trusting(&world, &[]), name, host).await.unwrap();
            for host in spellings {
                let response = client.exchange(&RawRequest::get("/").host(host)).await;
                assert_eq!(response.status, 200, "{spelling} {host} {response:?}");
            }
            let request = RawRequest::get(&format!("http://{spelling}/")).host(spelling);
            assert_eq!(world.exchange(request).await.status, 200, "{spelling}");
        }
        assert_eq!(world.upstream().count(), 12);
    }
}

/// As Java does it for `https://intranet/`.
#[tokio::test]
async fn a_host_without_a_dot_needs_no_server_name() {
    let world = serving(Setup::new().await, "").route("host = \"intranet\"").start().await;
    for name in ["127.0.0.1", "intranet"] {
        let wire = connect(&world, "intranet:443").await;
        let mut client = secure(wire, tls::careless_client(), name, "intranet").await.unwrap();
        assert_eq!(client.exchange(&RawRequest::get("/")).await.status, 200, "{name}");
    }
}

/// As `curl --http1.0` does.
#[tokio::test]
async fn a_program_that_offers_only_http_1_0_is_served() {
    let world = forward().await.start().await;
    let wire = connect(&world, &format!("{HOST}:443")).await;
    let mut client = secure(wire, trusting(&world, &["http/1.0"]), HOST, HOST).await.unwrap();
    assert_eq!(client.exchange(&RawRequest::get("/")).await.status, 200);
}

#[tokio::test]
async fn a_refused_token_is_replaced_inside_and_alt_svc_stays_here() {
    let world = forward().await.start().await;
    world
        .upstream()
        .next(RawResponse::status(401))
        .next(RawResponse::ok("x").header("alt-svc", "h3=\":443\""));
    let mut client = inside(&world, HOST).await;
    let response = client.exchange(&RawRequest::get("/")).await;
    assert_eq!((response.status, response.header("alt-svc")), (200, None));
    assert_eq!(world.upstream().last().bearer(), Some("token-2"));
}

#[tokio::test]
async fn websocket_inside_a_connect() {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;
    let upstream = crate::websocket::Echo::start("none").await;
    let world = forward().await.route(&format!("upstream = \"{}\"", upstream.url)).start().await;
    let wire = connect(&world, &format!("{HOST}:443")).await;
    let name = ServerName::try_from(HOST).unwrap();
    let stream = TlsConnector::from(trusting(&world, &[])).connect(name, wire.into_stream()).await.unwrap();
    let (mut socket, _) =
        within("the handshake", tokio_tungstenite::client_async(format!("ws://{HOST}/chat"), stream))
            .await
            .unwrap();
    socket.send(Message::text("hello")).await.unwrap();
    let back = within("the echo", socket.next()).await.unwrap().unwrap();
    assert_eq!(back, Message::text("hello"));
    assert_eq!(upstream.seen()[0]["authorization"], "Bearer token-1");
}

#[tokio::test]
async fn a_connect_counts_as_one_connection_and_ends_in_order() {
    let mut world = forward().await.start().await;
    let mut client = inside(&world, HOST).await;
    assert_eq!(client.exchange(&RawRequest::get("/")).await.status, 200);
    assert_eq!(world.metric("bearerd_connections", &[("listener", "main")]).await, Some(1.0));
    let gate = crate::support::Gate::new();
    world.upstream().next(RawResponse::ok("late").gated(&gate));
    client.send(&RawRequest::get("/late")).await;
    world.upstream().request(1).await;
    world.signal(rustix::process::Signal::TERM);
    world.log().wait("the drain", |line| line.contains("shutdown.started")).await;
    gate.open();
    let response = client.response().await;
    assert_eq!((response.status, response.text()), (200, "late".to_owned()));
    assert!(within("the end", client.wire.closed()).await);
    assert!(world.proxy.exit().await.success());
}

#[tokio::test]
async fn an_idle_connection_inside_is_closed_and_a_silent_handshake_too() {
    let world = forward().await.limits("header_timeout = \"2s\"\nkeep_alive = \"2s\"").start().await;
    let mut client = inside(&world, HOST).await;
    assert_eq!(client.exchange(&RawRequest::get("/")).await.status, 200);
    assert!(within("the end of an idle connection", client.wire.closed()).await);
    let mut wire = connect(&world, &format!("{HOST}:443")).await;
    assert!(within("the end of a silent handshake", wire.closed()).await);
    eventually("no connection is left", || async {
        let open = world.metric("bearerd_connections", &[("listener", "main")]).await;
        (open == Some(0.0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_silent_connect_does_not_delay_the_end() {
    let mut world = forward().await.limits("header_timeout = \"1h\"").start().await;
    let mut wire = connect(&world, &format!("{HOST}:443")).await;
    world.signal(rustix::process::Signal::TERM);
    assert!(within("the end of the connection", wire.closed()).await);
    assert!(world.proxy.exit().await.success());
}

#[tokio::test]
async fn grpc_inside_a_connect_keeps_its_trailers() {
    let upstream = EchoUpstream::plain().await;
    let world = forward()
        .await
        .route(&format!("upstream = \"{}\"\nprotocol = \"http2\"", upstream.url))
        .start()
        .await;
    let wire = connect(&world, &format!("{HOST}:443")).await;
    let name = ServerName::try_from(HOST).unwrap();
    let stream =
        TlsConnector::from(trusting(&world, &["h2"])).connect(name, wire.into_stream()).await.unwrap();
    let mut client = H2Client::over(Box::new(stream), format!("https://{HOST}")).await;
    assert_eq!(client.get("/pkg.Service/Method").await.status, 200);
    assert_eq!(upstream.last().headers["authorization"], "Bearer token-1");
}

/// A config without a listener, whose routes go to the asked host.
#[tokio::test]
async fn a_config_for_exec_alone_can_be_checked_and_is_not_served() {
    let setup = Setup::new().await;
    let setup = setup.whole(
        "[issuer.corp]\ntoken_url = \"{issuer}/token\"\nclient_auth = \"none\"\nclient_id = \"c\"\n\
             [[route]]\nname = \"api\"\nhost = \"api.example.com\"\nissuer = \"corp\"\n",
    );
    setup.write();
    let folder = setup.folder();
    let checked = cli::run(folder, &["check"]).await;
    checked.expect_code(0);
    assert!(checked.all().contains("`bearerd exec` makes one"), "{}", checked.all());
    cli::run(folder, &["token", "corp"]).await.expect_code(0);
    let run = cli::run(folder, &["run"]).await;
    run.expect_code(78);
    assert!(run.all().contains("`bearerd exec` makes one"), "{}", run.all());
}
