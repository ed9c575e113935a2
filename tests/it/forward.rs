//! `serve = "forward"`: programs use bearerd as their `HTTP_PROXY` and `HTTPS_PROXY`.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::io::AsyncReadExt as _;
use tokio_rustls::TlsConnector;

use crate::support::egress::Egress;
use crate::support::h2::{EchoUpstream, H2Client};
use crate::support::{
    Client, RawRequest, RawResponse, Response, Scripted, Setup, Wire, World, cli, eventually, tls, within,
};

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

/// As those of any other route.
#[tokio::test]
async fn a_reload_keeps_the_upstream_connections_of_a_wildcards_hosts() {
    let (mut world, egress) = wildcard(&["a.example.com"]).await;
    let authority = "a.example.com:8443";
    let wire = connect(&world, authority).await;
    // The connection inside stays at its worker.
    let mut client = secure(wire, trusting(&world, &[]), "a.example.com", authority).await.unwrap();
    let get = RawRequest::get("/");
    for (change, connections) in
        [("", 1), ("request_headers = { set = { x-new = \"1\" } }", 1), ("connect_timeout = \"7s\"", 2)]
    {
        if !change.is_empty() {
            world.change(|text| text.replace("methods =", &format!("{change}\nmethods =")));
            world.reload().await;
        }
        assert_eq!(client.exchange(&get).await.status, 200, "{change}");
        assert_eq!(
            (world.upstream().accepted(), egress.seen().len()),
            (connections, connections),
            "{change}"
        );
        // Also in the next reload, without a request in between.
        world.reload().await;
        world.reload().await;
        assert_eq!(client.exchange(&get).await.status, 200, "{change}");
        assert_eq!(
            (world.upstream().accepted(), egress.seen().len()),
            (connections, connections),
            "{change}"
        );
    }
    assert_eq!(world.upstream().last().header("x-new"), Some("1"));
}

#[tokio::test]
async fn a_host_that_no_route_names_is_refused() {
    let world = forward().await.start().await;
    let other = Scripted::upstream().await;
    for authority in
        ["other.example.com:443", &format!("{HOST}:8443"), &other.address.unwrap().to_string(), "localhost:1"]
    {
        let response = refused(&world, authority).await;
        assert_eq!(
            (response.status, response.code().as_deref()),
            (403, Some("caller_refused")),
            "{authority}"
        );
        let advice = "{ unmatched = \\\"tunnel\\\" } of [listener.main]";
        assert!(
            response
                .text()
                .contains(&format!("no route names the host `{}`", authority.trim_end_matches(":443"))),
            "{}",
            response.text()
        );
        assert!(response.text().contains(advice), "{}", response.text());
        let response = world.exchange(RawRequest::get(&format!("http://{authority}/")).host(authority)).await;
        assert_eq!(
            (response.status, response.code().as_deref()),
            (403, Some("caller_refused")),
            "{authority}"
        );
    }
    let response = world.exchange(RawRequest::get("http://api.example.com./").host("api.example.com.")).await;
    assert_eq!(response.status, 403);
    assert_eq!((other.accepted(), world.upstream().count()), (0, 0));
}

#[tokio::test]
async fn requests_that_no_proxy_gets_are_refused() {
    let world = forward().await.start().await;
    for (request, status) in [
        (format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n"), 400),
        (format!("GET https://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\n\r\n"), 400),
        ("GET / HTTP/1.0\r\n\r\n".to_owned(), 400),
        (format!("CONNECT {HOST} HTTP/1.1\r\nhost: {HOST}\r\n\r\n"), 400),
        (format!("CONNECT {HOST}:0 HTTP/1.1\r\nhost: {HOST}:0\r\n\r\n"), 400),
        (format!("CONNECT http://{HOST}:443 HTTP/1.1\r\nhost: {HOST}:443\r\n\r\n"), 400),
        (format!("CONNECT https://{HOST}:443/x HTTP/1.1\r\nhost: {HOST}:443\r\n\r\n"), 400),
        (format!("CONNECT {HOST}:443 HTTP/1.1\r\nhost: other.example.com:443\r\n\r\n"), 400),
        (format!("CONNECT {HOST}:443 HTTP/1.1\r\nhost: other.example.com\r\n\r\n"), 400),
        (format!("CONNECT {HOST}:443 HTTP/1.1\r\nhost: {HOST}:80\r\n\r\n"), 400),
        (format!("CONNECT {HOST}:443 HTTP/1.1\r\nhost: {HOST}:443\r\ncontent-length: 1\r\n\r\nx"), 400),
        (
            format!(
                "CONNECT {HOST}:443 HTTP/1.1\r\nhost: {HOST}:443\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            400,
        ),
        (format!("TRACE http://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\n\r\n"), 405),
    ] {
        let mut client = world.connect().await;
        client.wire.send(&request).await.unwrap();
        let response = client.response().await;
        assert_eq!(response.status, status, "{request}");
    }
    assert_eq!(world.upstream().count(), 0);
    // A listener for requests serves no CONNECT.
    let plain = Setup::new().await.start().await;
    assert_eq!(refused(&plain, "localhost:443").await.status, 405);
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

#[tokio::test]
async fn names_that_contradict_each_other_are_misdirected() {
    let world = forward().await.route("path_prefix = \"/\"").start().await;
    let authority = format!("{HOST}:443");
    let mut client = inside(&world, HOST).await;
    for host in ["other.example.com", &format!("{HOST}:8443")] {
        let response = client.exchange(&RawRequest::get("/").host(host)).await;
        assert_eq!((response.status, response.code().as_deref()), (421, Some("misdirected")), "{host}");
    }
    let fine = client.exchange(&RawRequest::get("/").host(&authority)).await;
    assert_eq!(fine.status, 200);
    let nested = client.exchange(&RawRequest::new("CONNECT", &authority).host(&authority)).await;
    assert_eq!(nested.status, 405);
    // The server name of the handshake.
    let careless = tls::careless_client();
    for (name, words) in [("other.example.com", "names another server"), ("127.0.0.1", "names no server")] {
        let wire = connect(&world, &authority).await;
        let mut client = secure(wire, Arc::clone(&careless), name, HOST).await.unwrap();
        let response = client.exchange(&RawRequest::get("/")).await;
        assert_eq!((response.status, response.code().as_deref()), (421, Some("misdirected")), "{name}");
        assert!(response.text().contains(words), "{}", response.text());
    }
    assert_eq!(world.upstream().count(), 1);
}

#[tokio::test]
async fn what_is_not_tls_inside_a_connect_is_told_so() {
    let world = forward().await.start().await;
    let mut wire = connect(&world, &format!("{HOST}:443")).await;
    wire.send(format!("POST /x HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 5\r\n\r\nhello")).await.unwrap();
    let mut response = String::new();
    within("the response", wire.into_stream().read_to_string(&mut response)).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 400 "), "no alert of TLS is in front: {response:?}");
    assert!(head.contains(&format!("content-length: {}", body.len())), "{response:?}");
    assert!(body.contains("this is not TLS"), "{response:?}");
    assert_eq!(world.upstream().count(), 0);
}

/// A program that sends too early what is for the tunnel may send what somebody else chose.
#[tokio::test]
async fn what_follows_a_refused_connect_is_no_request() {
    let setup = forward()
        .await
        .listener("require_header = { name = \"proxy-authorization\", value = { file = \"key\" } }");
    setup.file("key", "Basic cHJvZ3JhbTprZXk=");
    let world = setup.start().await;
    let key = "proxy-authorization: Basic cHJvZ3JhbTprZXk=\r\n";
    let within_it = format!("GET http://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\n");
    for (target, fields, inner_fields) in [
        ("other.example.com:443", key, key),
        (&*format!("{HOST}:0"), key, key),
        // The connection stays after a 407, but the key is missing again.
        (&*format!("{HOST}:443"), "", ""),
    ] {
        let mut client = world.connect().await;
        let early = format!(
            "CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n{fields}\r\n{within_it}{inner_fields}\r\n"
        );
        client.wire.send(early).await.unwrap();
        let refused = client.response().await;
        assert!((400..500).contains(&refused.status), "{refused:?}");
        if refused.status == 407 {
            assert_eq!(client.response().await.status, 407);
        } else {
            assert_eq!(refused.header("connection"), Some("close"), "{target}");
            assert!(within("the end", client.wire.closed()).await);
        }
    }
    assert_eq!(world.upstream().count(), 0);
}

#[tokio::test]
async fn proxy_authorization_lets_callers_in_and_stays_here() {
    let setup = forward()
        .await
        .listener("require_header = { name = \"proxy-authorization\", value = { file = \"key\" } }");
    setup.file("key", "Basic cHJvZ3JhbTprZXk=");
    let world = setup.start().await;
    let authority = format!("{HOST}:443");
    let mut caller = world.connect().await;
    let response = connect_on(&mut caller, &authority, "").await.unwrap();
    assert_eq!((response.status, response.code().as_deref()), (407, Some("caller_refused")));
    assert_eq!(response.header("proxy-authenticate"), Some("Basic realm=\"bearerd\""));
    // The connection stays, and the program tries again on it.
    let key = "proxy-authorization: Basic cHJvZ3JhbTprZXk=\r\n";
    assert!(connect_on(&mut caller, &authority, key).await.is_none());
    let mut client = secure(caller.wire, trusting(&world, &[]), HOST, HOST).await.unwrap();
    assert_eq!(client.exchange(&RawRequest::get("/")).await.status, 200);
    // Another key is no invitation to try again.
    let mut caller = world.connect().await;
    let wrong = "proxy-authorization: Basic eDp5\r\n";
    let response = connect_on(&mut caller, &authority, wrong).await.unwrap();
    assert_eq!((response.status, response.code().as_deref()), (403, Some("caller_refused")));
    assert_eq!(response.header("proxy-authenticate"), None);
    let request = RawRequest::get(&format!("http://{HOST}/")).host(HOST);
    assert_eq!(world.exchange(request.clone()).await.status, 407);
    let response = world.exchange(request.header("proxy-authorization", "Basic cHJvZ3JhbTprZXk=")).await;
    assert_eq!(response.status, 200);
    let seen = world.upstream().requests();
    assert!(seen.iter().all(|request| request.header("proxy-authorization").is_none()));
    assert!(!world.log().text().contains("cHJvZ3JhbTprZXk"));
}

#[tokio::test]
async fn pages_of_other_sites_are_refused_inside() {
    let world = forward().await.start().await;
    let mut client = inside(&world, HOST).await;
    let refused = client.exchange(&RawRequest::get("/").header("origin", "https://evil.example")).await;
    assert_eq!((refused.status, refused.code().as_deref()), (403, Some("caller_refused")));
    let own = client.exchange(&RawRequest::get("/").header("origin", &format!("https://{HOST}"))).await;
    assert_eq!(own.status, 200);
    assert_eq!(world.upstream().count(), 1);
}

#[tokio::test]
async fn other_hosts_pass_unread_and_never_lead_to_this_machine() {
    let world = forward_with(", unmatched = \"tunnel\"").await.start().await;
    let admin = world.address("admin").port();
    for host in
        ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "0.0.0.0", "x.localhost", "[::ffff:127.0.0.1]"]
    {
        let response = refused(&world, &format!("{host}:{admin}")).await;
        assert_eq!((response.status, response.code().as_deref()), (403, Some("caller_refused")), "{host}");
        assert!(response.text().contains("a tunnel never leads there"), "{host}: {}", response.text());
    }
    if let Some(own) = own_address() {
        let listener = tokio::net::TcpListener::bind((own, 0)).await.unwrap();
        let response = refused(&world, &listener.local_addr().unwrap().to_string()).await;
        assert_eq!(response.status, 403, "{own}");
    }
    // A named host in another spelling is not another host.
    for authority in [format!("{HOST}.:443"), "API.example.com.:443".to_owned()] {
        let response = refused(&world, &authority).await;
        assert_eq!(response.status, 403, "{authority}");
        assert!(response.text().contains("without the dot"), "{authority}: {}", response.text());
    }
    // Plain http is not let through: nobody encrypts it.
    let response =
        world.exchange(RawRequest::get("http://other.example.com/").host("other.example.com")).await;
    assert_eq!(response.status, 403);
    assert!(!response.text().contains("unmatched"), "it is set already: {}", response.text());
    assert!(response.text().contains("only a CONNECT"), "{}", response.text());
    // A named host is still served here.
    let mut client = inside(&world, HOST).await;
    assert_eq!(client.exchange(&RawRequest::get("/")).await.status, 200);
}

/// What a name alone decides, `explain` says in the words of the listener.
#[tokio::test]
async fn explain_refuses_the_same_hosts_with_the_same_words() {
    for keys in ["", ", unmatched = \"tunnel\""] {
        let world = forward_with(keys).await.start().await;
        let address = world.address("main").to_string();
        for url in [
            "https://127.0.0.1/",
            "https://localhost/",
            "https://[::1]:8443/",
            "https://169.254.169.254/",
            "https://metadata.google.internal/",
            "https://api.example.com./",
            "http://api.example.com./",
            "http://other.example.com:8080/",
        ] {
            let authority = url.split('/').nth(2).unwrap();
            let response = match url.strip_prefix("https://") {
                Some(_) if authority.ends_with(":8443") => refused(&world, authority).await,
                Some(_) => refused(&world, &format!("{authority}:443")).await,
                None => world.exchange(RawRequest::get(url).host(authority)).await,
            };
            let explained = cli::run(world.folder(), &["explain", "GET", url, "--output", "json"]).await;
            let result = explained.json()["results"][0].clone();
            assert_eq!((response.status, &result["status"]), (403, &403.into()), "{url}{keys}: {result}");
            assert_eq!(result["code"], "caller_refused", "{url}{keys}");
            let why = format!(
                "listener main ({address}) refused this request: {}",
                result["why"][0].as_str().unwrap()
            );
            assert_eq!(response.json()["detail"], *why, "{url}{keys}");
        }
    }
}

#[tokio::test]
async fn the_access_log_names_the_host_of_every_refused_connect() {
    let tunnel = ", unmatched = \"tunnel\"";
    let world = forward_with(tunnel).await.start().await;
    let key = "require_header = { name = \"proxy-authorization\", value = { file = \"proxy.key\" } }";
    let locked = forward_with(&format!("{tunnel} }}\n{key}\n# {{")).await;
    locked.file("proxy.key", "Basic cHJvZ3JhbTprZXk=");
    let locked = locked.start().await;
    for (world, host, fields, status) in [
        (&world, "api.example.com.:443", "", 403),
        (&world, "localhost:443", "", 403),
        (&world, "a.invalid:8443", "", 502),
        (&world, "api.example.com:443", "content-length: 1\r\n", 400),
        (&world, "api.example.com:443", "origin: https://evil.example\r\n", 403),
        (&locked, "api.example.com:443", "", 407),
        (&locked, "api.example.com:443", "proxy-authorization: x\r\n", 403),
    ] {
        let before = world.log().events().len();
        let response = connect_on(&mut world.connect().await, host, fields).await.unwrap();
        assert_eq!(response.status, status, "{host} {fields}: {}", response.text());
        let line = eventually("its line in the access log", || async {
            let mut new = world.log().events().split_off(before).into_iter();
            new.find(|line| line["event"] == "access" && line["method"] == "CONNECT")
        })
        .await;
        assert_eq!((&line["path"], &line["status"]), (&host.into(), &status.into()), "{line}");
        assert_eq!(line["detail"], response.json()["detail"], "{line}");
    }
    // An opened one is named, too, and a password in its target is not.
    let mut client = world.connect().await;
    client
        .wire
        .send("CONNECT user:canary@api.example.com:443 HTTP/1.1\r\nhost: api.example.com:443\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(client.head().await.word(1), "400");
    drop(inside(&world, HOST).await);
    world
        .log()
        .wait("the opened CONNECT", |line| {
            line.contains("\"path\":\"api.example.com:443\"") && line.contains("200")
        })
        .await;
    assert!(!world.log().text().contains("canary"), "{}", world.log().text());
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

#[tokio::test]
async fn a_host_that_no_handshake_can_name_is_refused() {
    let setup = serving(Setup::new().await, "").route("host = \"*.example.com\"");
    let world = setup.start().await;
    let long = "a".repeat(64);
    for label in ["-a", "a-", &long] {
        let response = refused(&world, &format!("{label}.example.com:443")).await;
        assert_eq!((response.status, response.code().as_deref()), (400, Some("bad_request")), "{label}");
        assert!(response.text().contains("handshake cannot name this host"), "{}", response.text());
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

/// An address of this machine that other machines reach.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    // UDP sends nothing here; the system only chooses the address.
    socket.connect("192.0.2.1:9").ok()?;
    socket
        .local_addr()
        .ok()
        .map(|address| address.ip())
        .filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

#[tokio::test]
async fn tunnels_pass_through_the_listeners_proxy_and_routes_through_their_own() {
    let far = Scripted::start(Some(tls::ca().issue(&["far.example.com"]).server(&[]))).await;
    let egress = Egress::to(far.address.unwrap()).await;
    let keys = format!(", unmatched = \"tunnel\", proxy = \"http://{}\"", egress.address);
    let world = forward_with(&keys).await.start().await;
    let wire = connect(&world, "far.example.com:443").await;
    let client = tls::ca().client(&[], None);
    let mut client = secure(wire, client, "far.example.com", "far.example.com").await.unwrap();
    assert_eq!(client.exchange(&RawRequest::get("/")).await.status, 200);
    assert_eq!(far.last().bearer(), None, "bearerd does not read the tunnel");
    let seen = egress.seen();
    assert_eq!((seen.len(), seen[0].word(1)), (1, "far.example.com:443"));
    assert_eq!(refused(&world, "169.254.169.254:80").await.status, 403);
    assert_eq!(egress.seen().len(), 1);
}

#[tokio::test]
async fn the_proxy_of_the_route_applies() {
    let upstream = Scripted::start(Some(tls::ca().issue(&[HOST]).server(&["http/1.1"]))).await;
    let egress = Egress::to(upstream.address.unwrap()).await;
    let setup = Setup::with(Scripted::issuer().await, upstream);
    setup.file("upstream-ca.pem", &tls::ca().pem);
    let world = serving(setup, "")
        .route(&format!(
            "# upstream\nhost = \"{HOST}\"\nproxy = \"http://{}\"\ntls = {{ ca = {{ file = \"upstream-ca.pem\" }} }}",
            egress.address
        ))
        .start()
        .await;
    let mut client = inside(&world, HOST).await;
    assert_eq!(client.exchange(&RawRequest::get("/")).await.status, 200);
    assert_eq!(world.upstream().last().bearer(), Some("token-1"));
    assert_eq!(egress.seen()[0].word(1), format!("{HOST}:443"));
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
async fn a_reload_exchanges_routes_for_new_and_open_connections() {
    let mut world = forward().await.start().await;
    let mut client = inside(&world, HOST).await;
    assert_eq!(client.exchange(&RawRequest::get("/")).await.status, 200);
    world.change(|text| text.replace(HOST, "other.example.com"));
    world.reload().await;
    let response = client.exchange(&RawRequest::get("/")).await;
    assert_eq!(response.status, 403, "the open connection sees the new routes");
    let mut client = inside(&world, "other.example.com").await;
    assert_eq!(client.exchange(&RawRequest::get("/")).await.status, 200);
}

const KEY: &str = "require_header = { name = \"proxy-authorization\", value = { file = \"key\" } }";
/// What a program sends for the content `Basic a2V5`.
const WITH_KEY: &str = "proxy-authorization: Basic a2V5\r\n";

/// What a reload changes: the listener's lines, and the content of the key's file.
fn exchange_rules(world: &mut World, lines: &str, key: &str) {
    world.file("key", key);
    world.change(|text| {
        let kept =
            text.lines().filter(|line| !line.starts_with("require_header") && !line.starts_with("allow"));
        kept.map(
            |line| if line.starts_with("serve = ") { format!("{lines}\n{line}") } else { line.to_owned() },
        )
        .collect::<Vec<_>>()
        .join("\n")
    });
}

/// A CONNECT is checked once, and what is inside it may go on for hours.
#[tokio::test]
async fn a_reload_ends_what_is_inside_a_connect_that_the_new_rules_refuse() {
    let deny = format!("{KEY}\nallow = [\"10.0.0.0/8\"]");
    for (before, after, key, stays) in [
        (KEY, KEY, "Basic a2V5", true),
        (KEY, "", "Basic a2V5", true),
        (KEY, KEY, "Basic bmV3", false),
        ("", KEY, "Basic a2V5", false),
        (KEY, &deny, "Basic a2V5", false),
    ] {
        let setup = forward().await.listener(before);
        setup.file("key", "Basic a2V5");
        let mut world = setup.start().await;
        let mut idle = world.connect().await;
        assert!(connect_on(&mut idle, &format!("{HOST}:443"), WITH_KEY).await.is_none());
        let mut idle = secure(idle.wire, trusting(&world, &[]), HOST, HOST).await.unwrap();
        assert_eq!(idle.exchange(&RawRequest::get("/")).await.status, 200);
        let mut busy = world.connect().await;
        assert!(connect_on(&mut busy, &format!("{HOST}:443"), WITH_KEY).await.is_none());
        let mut busy = secure(busy.wire, trusting(&world, &[]), HOST, HOST).await.unwrap();
        let gate = crate::support::Gate::new();
        world.upstream().next(RawResponse::ok("late").gated(&gate));
        busy.send(&RawRequest::get("/late")).await;
        world.upstream().request(2).await;

        exchange_rules(&mut world, after, key);
        world.reload().await;
        assert_eq!(world.metric("bearerd_config_last_reload_successful", &[]).await, Some(1.0), "{after}");
        gate.open();
        let response = busy.response().await;
        assert_eq!(
            (response.status, response.text()),
            (200, "late".to_owned()),
            "what has begun ends in order"
        );
        if stays {
            assert_eq!(busy.exchange(&RawRequest::get("/")).await.status, 200, "{after}");
            assert_eq!(idle.exchange(&RawRequest::get("/")).await.status, 200, "{after}");
        } else {
            assert!(within("the end of a busy connection", busy.wire.closed()).await);
            // Its end may be on the way.
            idle.wire.send(RawRequest::get("/").bytes(HOST)).await.ok();
            let refused = idle.response_or_end().await.map(|response| (response.status, response.code()));
            assert!(
                refused.is_none() || refused == Some((403, Some("caller_refused".to_owned()))),
                "{refused:?}"
            );
            assert!(within("the end of an idle connection", idle.wire.closed()).await);
            assert_eq!(world.upstream().count(), 2);
        }
    }
}

/// Over HTTP/2 inside and outside, with the same rules.
#[tokio::test]
async fn a_reload_ends_http2_inside_and_the_connection_around_it_stays() {
    let setup = forward().await;
    setup.file("key", "Basic a2V5");
    let mut world = setup.start().await;
    let mut proxy = H2Client::plain(world.address("main")).await;
    let opened = proxy.connect(&format!("{HOST}:443")).await;
    let name = ServerName::try_from(HOST).unwrap();
    let stream = TlsConnector::from(trusting(&world, &["h2"])).connect(name, opened).await.unwrap();
    let mut client = H2Client::over(Box::new(stream), format!("https://{HOST}")).await;
    assert_eq!(client.get("/").await.status, 200);
    exchange_rules(&mut world, KEY, "Basic a2V5");
    world.reload().await;
    // Until GOAWAY has arrived.
    within("the end", async {
        loop {
            let request = client.request("GET", "/").body(crate::support::h2::whole("")).unwrap();
            match client.try_exchange(request).await {
                Ok(refused) => assert_eq!(refused.status, 403),
                Err(_) => return,
            }
        }
    })
    .await;
    assert_eq!(world.upstream().count(), 1);
    let outside = http::Request::get(format!("http://{HOST}/")).version(http::Version::HTTP_2);
    let refused = proxy.exchange(outside.body(crate::support::h2::whole("")).unwrap()).await;
    assert_eq!(refused.status, 407, "the connection around it is open");
}

/// Leaves out what begins with one text and ends before the other.
fn without(text: &str, begin: &str, end: &str) -> String {
    let (before, rest) = text.split_once(begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    format!("{before}{end}{after}")
}

#[tokio::test]
async fn a_reload_ends_an_unread_tunnel_that_the_new_rules_refuse() {
    let far = Scripted::start(Some(tls::ca().issue(&["far.example.com"]).server(&[]))).await;
    let egress = Egress::to(far.address.unwrap()).await;
    let proxy = format!(", proxy = \"http://{}\"", egress.address);
    type Change = fn(String) -> String;
    let rows: [(&str, Change, bool); 5] = [
        ("nothing that concerns it", |text| text.replace("name = \"api\"", "name = \"other\""), true),
        ("unmatched", |text| without(&text, ", unmatched", " }"), false),
        (
            "its host is named",
            |text| text.replace(&format!("host = \"{HOST}\""), "host = \"*.example.com\""),
            false,
        ),
        ("allow", |text| text.replace("serve = ", "allow = [\"10.0.0.0/8\"]\nserve = "), false),
        ("require_header", |text| text.replace("serve = ", &format!("{KEY}\nserve = ")), false),
    ];
    for (what, change, stays) in rows {
        let setup = forward_with(&format!(", unmatched = \"tunnel\"{proxy}")).await;
        setup.file("key", "Basic a2V5");
        let mut world = setup.start().await;
        let wire = connect(&world, "far.example.com:443").await;
        let config = tls::ca().client(&[], None);
        let mut client = secure(wire, config, "far.example.com", "far.example.com").await.unwrap();
        assert_eq!(client.exchange(&RawRequest::get("/")).await.status, 200);
        world.change(change);
        world.reload().await;
        assert_eq!(world.metric("bearerd_config_last_reload_successful", &[]).await, Some(1.0), "{what}");
        if stays {
            assert_eq!(client.exchange(&RawRequest::get("/")).await.status, 200, "{what}");
        } else {
            assert!(within("the end of the tunnel", client.wire.closed()).await, "{what}");
        }
    }
}

#[tokio::test]
async fn a_reload_ends_a_connect_in_which_nothing_has_come_yet() {
    let mut world = forward().await.limits("header_timeout = \"0s\"").start().await;
    let mut wire = connect(&world, &format!("{HOST}:443")).await;
    world.change(|text| text.replace("serve = ", "allow = [\"10.0.0.0/8\"]\nserve = "));
    world.reload().await;
    assert!(within("the end of the CONNECT", wire.closed()).await);
}

/// Over HTTP/2, a connection may be older than the config.
#[tokio::test]
async fn a_connect_on_an_older_connection_gets_the_certificate_of_a_new_host() {
    let mut world = forward().await.start().await;
    let mut proxy = H2Client::plain(world.address("main")).await;
    let _open = proxy.connect(&format!("{HOST}:443")).await;
    world.change(|text| text.replace(HOST, "other.example.com"));
    world.reload().await;
    let opened = proxy.connect("other.example.com:443").await;
    let name = ServerName::try_from("other.example.com").unwrap();
    let stream = TlsConnector::from(trusting(&world, &["h2"])).connect(name, opened).await.unwrap();
    let mut client = H2Client::over(Box::new(stream), "https://other.example.com".to_owned()).await;
    assert_eq!(client.get("/").await.status, 200);
}

/// What is inside was let in by the rules of a forward listener, and is asked for no key again.
#[tokio::test]
async fn a_listener_that_becomes_another_kind_serves_nothing_inside() {
    for (serve, names) in [("proxy", String::new()), ("token", format!("names = [\"{HOST}\"]"))] {
        let setup = forward().await;
        setup.file("key", "k");
        let mut world = setup.start().await;
        let mut client = inside(&world, HOST).await;
        assert_eq!(client.exchange(&RawRequest::get("/")).await.status, 200);
        let lines = format!(
            "serve = \"{serve}\"\n{names}\nrequire_header = {{ name = \"x-key\", value = {{ file = \"key\" }} }}\n\
             [listener.more]\naddress = \"127.0.0.1:0\""
        );
        world.change(|text| {
            let kept = text.lines().filter(|line| !line.starts_with("forward = "));
            kept.map(|line| if line.starts_with("serve = ") { &lines } else { line })
                .collect::<Vec<_>>()
                .join("\n")
        });
        world.reload().await;
        assert_eq!(world.metric("bearerd_config_last_reload_successful", &[]).await, Some(1.0), "{serve}");
        // The key is new, too, so the connection ends.
        for request in [RawRequest::get("/"), RawRequest::get("/token/corp")] {
            client.wire.send(request.bytes(HOST)).await.ok();
            let refused = client.response_or_end().await.map(|response| (response.status, response.code()));
            assert!(
                refused.is_none() || refused == Some((503, Some("overloaded".to_owned()))),
                "{refused:?}"
            );
        }
        assert_eq!(world.upstream().count(), 1);
    }
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

/// squid as the corporate proxy, which lets CONNECT through to any port.
struct Squid {
    address: std::net::SocketAddr,
    folder: tempfile::TempDir,
    _child: tokio::process::Child,
}

impl Squid {
    async fn start() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let address = crate::support::nobody();
        let folder = tempfile::tempdir().unwrap();
        // If root starts it, squid becomes a user of its own.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let config = format!(
            "http_port {address}\nhttp_access allow all\ncache deny all\npid_filename none\n\
             access_log stdio:{}\ncache_log {}\nicp_port 0\nhtcp_port 0\nnetdb_filename none\n\
             logfile_rotate 0\npinger_enable off\ncoredump_dir {}\nshutdown_lifetime 1 seconds\n",
            path("access.log"),
            path("cache.log"),
            folder.path().display()
        );
        std::fs::write(path("squid.conf"), config).unwrap();
        let child = tokio::process::Command::new("squid")
            .args(["-N", "-n", &format!("bearerd{}", address.port()), "-f"])
            .arg(path("squid.conf"))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("squid is installed");
        eventually("squid", || async { tokio::net::TcpStream::connect(address).await.ok() }).await;
        Self { address, folder, _child: child }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default()
    }
}

#[tokio::test]
#[ignore = "needs squid"]
async fn squid_between_bearerd_and_the_api() {
    let upstream = Scripted::start(Some(tls::localhost().server(&["http/1.1"]))).await;
    let port = upstream.address.unwrap().port();
    let setup = Setup::with(Scripted::issuer().await, upstream);
    setup.file("upstream-ca.pem", &tls::ca().pem);
    let squid = Squid::start().await;
    let authority = format!("localhost:{port}");
    let world = serving(setup, "")
        .route(&format!(
            "# upstream\nhost = \"{authority}\"\nproxy = \"http://{}\"\n\
             tls = {{ ca = {{ file = \"upstream-ca.pem\" }} }}",
            squid.address
        ))
        .start()
        .await;
    let wire = connect(&world, &authority).await;
    let mut client = secure(wire, trusting(&world, &[]), "localhost", &authority).await.unwrap();
    for _ in 0..3 {
        assert_eq!(client.exchange(&RawRequest::get("/")).await.status, 200);
        assert_eq!(world.upstream().last().bearer(), Some("token-1"));
    }
    // squid logs a tunnel when it ends.
    drop(client);
    drop(world);
    eventually("squid's log", || async {
        squid.log().contains(&format!("CONNECT {authority}")).then_some(())
    })
    .await;
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
