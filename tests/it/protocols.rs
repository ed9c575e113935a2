//! HTTP/1.0, HTTP/1.1 and HTTP/2 on either side, streamed both ways.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Frame;

use crate::support::egress::Egress;
use crate::support::h2::{EchoUpstream, H2Client, streamed, whole};
use crate::support::manual::{Manual, manual};
use crate::support::tls::{Ca, ca, localhost};
use crate::support::{Client, Gate, RawRequest, RawResponse, Scripted, Setup, World, eventually, to, within};

async fn scene() -> World {
    Setup::new().await.start().await
}

#[tokio::test]
async fn http10_caller_gets_a_body_that_it_can_read() {
    let setup = Setup::new().await;
    setup.upstream.always_this(RawResponse::raw(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ));
    let world = setup.start().await;
    let mut client = world.connect().await;
    client.send(&RawRequest::get("/").http10()).await;
    let response = client.response().await;
    response.expect_status(200);
    assert_eq!(response.header("transfer-encoding"), None);
    assert_eq!(response.text(), "hello");
    assert!(client.wire.closed().await, "HTTP/1.0 without keep-alive ends the connection");
}

#[tokio::test]
async fn http11_connection_is_kept_and_pipelined_requests_get_responses_in_order() {
    let setup = Setup::new().await;
    setup.upstream.always(|request, _| RawResponse::ok(request.target().to_owned()));
    let world = setup.start().await;
    let mut client = world.connect().await;
    for n in 0..3 {
        assert_eq!(client.exchange(&RawRequest::get(&format!("/{n}"))).await.text(), format!("/{n}"));
    }
    let bytes: Vec<u8> = (0..5).flat_map(|n| RawRequest::get(&format!("/p{n}")).bytes("localhost")).collect();
    client.wire.send(bytes).await.unwrap();
    for n in 0..5 {
        assert_eq!(client.response().await.text(), format!("/p{n}"));
    }
}

#[tokio::test]
async fn upstream_connection_is_reused() {
    let world = scene().await;
    for _ in 0..5 {
        world.get("/").await.expect_status(200);
    }
    assert_eq!(world.upstream().opened(), 1);
    assert_eq!(world.metric("bearerd_upstream_connections", &[("route", "api")]).await, Some(1.0));
}

#[tokio::test]
async fn connection_max_age_replaces_the_upstream_connection() {
    let world = Setup::new().await.route("connection_max_age = \"300ms\"").start().await;
    world.get("/").await.expect_status(200);
    eventually("a new connection", || async {
        world.get("/").await.expect_status(200);
        (world.upstream().opened() >= 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn h2_with_prior_knowledge() {
    let world = scene().await;
    let mut client = H2Client::plain(world.address("main")).await;
    let response = client.get("/x?y").await;
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    assert_eq!(world.upstream().last().target(), "/x?y");
    assert_eq!(world.upstream().last().bearer(), Some("token-1"));
}

#[tokio::test]
async fn h2_and_http11_by_alpn_over_tls() {
    let setup = Setup::new().await;
    let server = localhost();
    setup.file("server.pem", &server.certificate_pem);
    setup.file("server.key", &server.key_pem);
    let world = setup
        .listener(
            "tls = { certificate = { file = \"server.pem\" }, private_key = { file = \"server.key\" } }",
        )
        .start()
        .await;
    let address = world.address("main");
    let mut client = H2Client::tls(address, ca().client(&["h2", "http/1.1"], None)).await;
    assert_eq!(client.get("/").await.status, 200);
    for alpn in [&["http/1.1"][..], &[]] {
        let mut client = Client::tls(address, ca().client(alpn, None)).await.unwrap();
        client.exchange(&RawRequest::get("/")).await.expect_status(200);
    }
}

#[tokio::test]
async fn h2_over_a_unix_socket_and_http11_too() {
    let world = Setup::new().await.listener("address = \"unix:{folder}/proxy.sock\"").start().await;
    let path = world.folder().join("proxy.sock");
    Client::unix(&path).await.exchange(&RawRequest::get("/")).await.expect_status(200);
    let stream = hyper_util::rt::TokioIo::new(tokio::net::UnixStream::connect(&path).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("http://localhost/").body(whole("")).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
}

#[tokio::test]
async fn upstream_protocol_is_chosen_by_alpn() {
    for (offered, version) in
        [(&["h2", "http/1.1"][..], http::Version::HTTP_2), (&["http/1.1"], http::Version::HTTP_11)]
    {
        let upstream = EchoUpstream::start(Some(localhost().server(offered))).await;
        let setup = Setup::new().await;
        setup.file("ca.pem", &ca().pem);
        let route = format!("upstream = \"{}\"\ntls = {{ ca = {{ file = \"ca.pem\" }} }}", upstream.url);
        let world = setup.route(&route).start().await;
        assert_eq!(world.exchange(RawRequest::post("/", "hello")).await.text(), "hello");
        assert_eq!(upstream.last().version, version);
        assert_eq!(upstream.last().headers["authorization"], "Bearer token-1");
    }
}

#[tokio::test]
async fn protocol_says_which_is_used() {
    let upstream = EchoUpstream::plain().await;
    for (protocol, version) in [
        ("auto", http::Version::HTTP_11),
        ("http1", http::Version::HTTP_11),
        ("http2", http::Version::HTTP_2),
    ] {
        let world = to(&upstream.url, &format!("protocol = \"{protocol}\"")).await;
        assert_eq!(world.exchange(RawRequest::post("/", "hello")).await.text(), "hello");
        assert_eq!(upstream.last().version, version, "{protocol}");
    }
}

#[tokio::test]
async fn http1_upstream_by_choice_over_tls_is_not_offered_h2() {
    let upstream = EchoUpstream::start(Some(localhost().server(&["h2", "http/1.1"]))).await;
    let setup = Setup::new().await;
    setup.file("ca.pem", &ca().pem);
    let route = format!(
        "upstream = \"{}\"\ntls = {{ ca = {{ file = \"ca.pem\" }} }}\nprotocol = \"http1\"",
        upstream.url
    );
    let world = setup.route(&route).start().await;
    world.get("/").await.expect_status(200);
    assert_eq!(upstream.last().version, http::Version::HTTP_11);
}

#[tokio::test]
async fn http2_requests_share_one_upstream_connection() {
    let upstream = EchoUpstream::plain().await;
    let world = to(&upstream.url, "protocol = \"http2\"").await;
    let mut client = H2Client::plain(world.address("main")).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert!(upstream.seen().iter().all(|seen| seen.connection == 0));
}

#[tokio::test]
async fn upstream_may_be_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Scripted::unix(&folder.path().join("up.sock")).await;
    let world = to(&upstream.url, "").await;
    world.get("/x").await.expect_status(200);
    assert_eq!(upstream.last().target(), "/x");
    assert_eq!(upstream.last().headers("host"), ["localhost"]);
}

#[tokio::test]
async fn upstream_with_a_bad_certificate_gets_no_token() {
    let stranger = Ca::new("a stranger").issue(&["localhost"]);
    for identity in [ca().issue_expired(&["localhost"]), ca().issue(&["elsewhere.test"]), stranger] {
        let upstream = Scripted::start(Some(identity.server(&[]))).await;
        let setup = Setup::with(Scripted::issuer().await, upstream);
        setup.file("ca.pem", &ca().pem);
        let world = setup.route("tls = { ca = { file = \"ca.pem\" } }").start().await;
        world.get("/").await.expect_problem(502, "upstream_unreachable");
        assert_eq!(world.upstream().count(), 0);
    }
}

#[tokio::test]
async fn system_roots_that_were_rotated_are_seen_without_a_restart() {
    let upstream = Scripted::start(Some(ca().issue(&["localhost"]).server(&[]))).await;
    let setup = Setup::with(Scripted::issuer().await, upstream);
    let bundle = setup.file("bundle.pem", &Ca::new("another").pem);
    let world = setup.env("SSL_CERT_FILE", bundle.to_str().unwrap()).start().await;
    world.get("/").await.expect_problem(502, "upstream_unreachable");
    // As a rotation does it: another file in the place of the old one.
    let next = world.file("next.pem", &ca().pem);
    std::fs::rename(next, &bundle).unwrap();
    world.get("/").await.expect_status(200);
}

#[tokio::test]
async fn roots_in_each_folder_of_ssl_cert_dir_are_seen_as_they_change() {
    let upstream = Scripted::start(Some(ca().issue(&["localhost"]).server(&[]))).await;
    let setup = Setup::with(Scripted::issuer().await, upstream);
    let (first, second) = (setup.folder().join("roots-1"), setup.folder().join("roots-2"));
    for (folder, name) in [(&first, "one"), (&second, "two")] {
        std::fs::create_dir(folder).unwrap();
        std::fs::write(folder.join("ca.pem"), Ca::new(name).pem).unwrap();
    }
    let bundle = first.join("ca.pem");
    let folders = format!("{}:{}", first.display(), second.display());
    let world = setup.env("SSL_CERT_FILE", bundle.to_str().unwrap()).env("SSL_CERT_DIR", &folders);
    let world = world.start().await;
    world.get("/").await.expect_problem(502, "upstream_unreachable");
    // In its place, as an editor does it: the folder itself stays as it was.
    std::fs::write(second.join("ca.pem"), &ca().pem).unwrap();
    eventually("the changed root", || async { (world.get("/").await.status == 200).then_some(()) }).await;
}

#[tokio::test]
async fn roots_that_have_no_end_or_never_come_hold_up_nothing() {
    for name in ["endless", "pipe"] {
        let upstream = Scripted::start(Some(ca().issue(&["localhost"]).server(&[]))).await;
        let setup = Setup::with(Scripted::issuer().await, upstream);
        let path = setup.folder().join(name);
        match name {
            "pipe" => rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap(),
            _ => std::os::unix::fs::symlink("/dev/zero", &path).unwrap(),
        }
        let own = "\n[[route]]\nname = \"own\"\npath_prefix = \"/own\"\nupstream = \"{upstream}\"\nissuer = \"corp\"\n\
                   tls = { ca = { file = \"ca.pem\" } }\n";
        setup.file("ca.pem", &ca().pem);
        let world = setup.env("SSL_CERT_FILE", path.to_str().unwrap()).more(own).start().await;
        for _ in 0..10 {
            let refused = world.get("/").await;
            refused.expect_problem(502, "upstream_unreachable");
            let said = "it is neither a regular file nor a folder; SSL_CERT_FILE and SSL_CERT_DIR say where they are";
            assert!(refused.text().contains(said), "{}", refused.text());
        }
        world.get("/own").await.expect_status(200);
    }
}

#[tokio::test]
async fn plain_http_to_a_port_that_speaks_tls_asks_whether_it_is_https() {
    let upstream = Scripted::start(Some(ca().issue(&["localhost"]).server(&[]))).await;
    let port = upstream.address.unwrap().port();
    let world = Setup::new().await.route(&format!("upstream = \"http://localhost:{port}\"")).start().await;
    let refused = world.get("/").await;
    refused.expect_problem(502, "upstream_invalid");
    assert!(refused.text().contains("is it https://?"), "{}", refused.text());

    let keys = format!("token_url = \"http://localhost:{port}/token\"");
    let world = Setup::new().await.issuer(&keys).start().await;
    let refused = world.get("/").await;
    assert!(refused.text().contains("is it https://?"), "{}", refused.text());
}

#[tokio::test]
async fn connect_proxy_reaches_the_upstream() {
    let upstream = Scripted::start(Some(ca().issue(&["api.example"]).server(&[]))).await;
    let egress = Egress::to(upstream.address.unwrap()).await;
    let setup = Setup::with(Scripted::issuer().await, upstream);
    setup.file("ca.pem", &ca().pem);
    let route = format!(
        "upstream = \"https://api.example/v1\"\ntls = {{ ca = {{ file = \"ca.pem\" }} }}\nproxy = \"http://{}\"",
        egress.address
    );
    let world = setup.route(&route).start().await;
    world.get("/x").await.expect_status(200);
    assert_eq!(world.upstream().last().target(), "/v1/x");
    let seen = egress.seen();
    assert_eq!(seen[0].start, "CONNECT api.example:443 HTTP/1.1");
    assert_eq!(seen[0].header("authorization"), None);
}

#[tokio::test]
async fn connect_proxy_may_respond_in_many_ways() {
    let long = format!("HTTP/1.1 200 OK\r\n{}\r\n", format!("x-long: {}\r\n", "a".repeat(1000)).repeat(9));
    for answer in [
        "HTTP/1.0 200 Connection established\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\nx: y\n\nHTTP/1.1 200 OK\nx: y\n\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        &long,
    ] {
        let upstream = Scripted::start(Some(ca().issue(&["::1"]).server(&[]))).await;
        let egress = Egress::responding(upstream.address.unwrap(), answer).await;
        let setup = Setup::with(Scripted::issuer().await, upstream);
        setup.file("ca.pem", &ca().pem);
        let route = format!(
            "upstream = \"https://[::1]:8443\"\ntls = {{ ca = {{ file = \"ca.pem\" }} }}\nproxy = \"http://{}\"",
            egress.address
        );
        let world = setup.route(&route).start().await;
        world.get("/").await.expect_status(200);
        assert_eq!(egress.seen()[0].start, "CONNECT [::1]:8443 HTTP/1.1", "{answer}");
    }
}

#[tokio::test]
async fn connect_timeout_covers_the_tls_handshake() {
    let silent = Manual::start().await;
    let route =
        format!("upstream = \"https://localhost:{}\"\nconnect_timeout = \"400ms\"", silent.address.port());
    let world = Setup::new().await.route(&route).start().await;
    let response = world.get("/").await;
    response.expect_problem(504, "upstream_timeout");
    assert!(response.text().contains("within 400ms"), "{}", response.text());
}

#[tokio::test]
async fn connect_proxy_that_refuses_is_upstream_unreachable() {
    let egress = Egress::refusing("407 Proxy Authentication Required").await;
    let keys = "upstream = \"https://api.example\"\nconnect_timeout = \"1m\"";
    let route = format!("{keys}\nproxy = \"http://{}\"", egress.address);
    let world = Setup::new().await.route(&route).start().await;
    world.get("/").await.expect_problem(502, "upstream_unreachable");
}

#[tokio::test]
async fn response_is_streamed_without_buffering() {
    let (_world, mut client, mut wire) = manual("", &RawRequest::get("/")).await;
    wire.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    let head = client.head().await;
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    for n in 0..3 {
        let event = format!("data: {n}\n\n");
        wire.send(format!("{:x}\r\n{event}\r\n", event.len())).await.unwrap();
        let chunk = within("the event", client.wire.chunk(&mut Vec::new())).await.unwrap();
        assert_eq!(chunk, event.as_bytes());
    }
    wire.send("0\r\n\r\n").await.unwrap();
    assert!(client.wire.chunk(&mut Vec::new()).await.unwrap().is_empty());
}

#[tokio::test]
async fn both_ways_stream_at_once_over_http2() {
    let upstream = EchoUpstream::plain().await;
    for protocol in ["http1", "http2"] {
        let world = to(&upstream.url, &format!("protocol = \"{protocol}\"")).await;
        let mut client = H2Client::plain(world.address("main")).await;
        let (frames, body) = streamed();
        let request = client.request("POST", "/").body(body).unwrap();
        frames.send(Frame::data(Bytes::from("0"))).await.unwrap();
        let mut response = client.open(request).await.unwrap().into_body();
        for n in 1..5 {
            let echoed = within("an echo", response.frame()).await.unwrap().unwrap();
            assert_eq!(echoed.into_data().unwrap(), (n - 1).to_string(), "{protocol}");
            frames.send(Frame::data(Bytes::from(n.to_string()))).await.unwrap();
        }
    }
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let upstream = EchoUpstream::plain().await;
    let world = to(&upstream.url, "protocol = \"http2\"").await;
    let mut client = H2Client::plain(world.address("main")).await;
    let (frames, body) = streamed();
    let request = client.request("POST", "/").header("te", "trailers").body(body).unwrap();
    let send = async {
        frames.send(Frame::data(Bytes::from("x"))).await.unwrap();
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-checksum", http::HeaderValue::from_static("abc"));
        frames.send(Frame::trailers(trailers)).await.unwrap();
        drop(frames);
    };
    let (response, ()) = tokio::join!(client.exchange(request), send);
    assert_eq!(response.trailers.unwrap()["x-checksum"], "abc");
    assert_eq!(upstream.last().headers["te"], "trailers");
}

#[tokio::test]
async fn trailers_pass_over_http11() {
    let setup = Setup::new().await;
    let bytes = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n";
    setup.upstream.always_this(RawResponse::raw(bytes));
    let world = setup.start().await;
    let mut client = world.connect().await;
    let call = RawRequest::new("POST", "/")
        .header("TE", "trailers")
        .header("Connection", "TE")
        .header("Transfer-Encoding", "chunked")
        .header("Trailer", "x-up");
    client.send(&call).await;
    client.wire.send("2\r\nup\r\n0\r\nx-up: 8\r\n\r\n").await.unwrap();
    let response = client.response().await;
    assert_eq!(response.body.trailers, [("x-sum".to_owned(), "7".to_owned())]);
    assert_eq!(world.upstream().last().body.trailers, [("x-up".to_owned(), "8".to_owned())]);
}

#[tokio::test]
async fn expect_100_continue_gets_its_response_here() {
    let setup = Setup::new().await;
    setup.upstream.always(|request, _| RawResponse::ok(request.body.data.clone()));
    let world = setup.start().await;
    let mut client = world.connect().await;
    client
        .send(&RawRequest::new("POST", "/").header("Content-Length", "5").header("Expect", "100-continue"))
        .await;
    let interim = within("100", client.wire.head()).await.unwrap().unwrap();
    assert_eq!(interim.word(1), "100");
    client.wire.send("hello").await.unwrap();
    assert_eq!(client.response().await.text(), "hello");
    assert_eq!(world.upstream().last().header("expect"), None);
}

#[tokio::test]
async fn refused_request_that_expects_100_gets_its_refusal() {
    let world = scene().await;
    let mut client = world.connect().await;
    let call =
        RawRequest::new("POST", "/../x").header("Content-Length", "5").header("Expect", "100-continue");
    client.send(&call).await;
    client.response().await.expect_problem(400, "bad_request");
}

#[tokio::test]
async fn head_has_the_headers_of_get_and_no_body() {
    let setup = Setup::new().await;
    setup.upstream.always_this(RawResponse::ok("hello").header("x-upstream", "1"));
    let world = setup.start().await;
    let mut client = world.connect().await;
    let response = client.exchange(&RawRequest::new("HEAD", "/")).await;
    response.expect_status(200);
    assert_eq!(response.header("content-length"), Some("5"));
    assert_eq!(response.header("x-upstream"), Some("1"));
    // The connection is still in step.
    assert_eq!(client.exchange(&RawRequest::get("/")).await.text(), "hello");
}

#[tokio::test]
async fn responses_without_a_body_keep_the_connection_in_step() {
    let setup = Setup::new().await;
    setup.upstream.next(RawResponse::status(204)).next(RawResponse::status(304).header("etag", "\"x\""));
    let world = setup.start().await;
    let mut client = world.connect().await;
    let response = client.exchange(&RawRequest::get("/")).await;
    response.expect_status(204);
    assert_eq!((response.header("content-length"), response.header("transfer-encoding")), (None, None));
    client.exchange(&RawRequest::get("/")).await.expect_status(304);
    assert_eq!(client.exchange(&RawRequest::get("/")).await.text(), "ok");
}

#[tokio::test]
async fn upstreams_length_and_encoding_pass_unchanged() {
    let gzip = [0x1f, 0x8b, 8, 0, 0, 0];
    let setup = Setup::new().await;
    setup.upstream.always_this(RawResponse::ok(gzip).header("content-encoding", "gzip"));
    let world = setup.start().await;
    let response = world.get("/").await;
    assert_eq!(response.header("content-length"), Some("6"));
    assert_eq!(response.header("content-encoding"), Some("gzip"));
    assert_eq!(response.body.data, gzip);
}

#[tokio::test]
async fn body_that_ends_with_the_connection_is_passed() {
    let setup = Setup::new().await;
    setup.upstream.always_this(RawResponse::raw("HTTP/1.1 200 OK\r\n\r\nto the end").then_close());
    let world = setup.start().await;
    assert_eq!(world.get("/").await.text(), "to the end");
}

#[tokio::test]
async fn response_that_breaks_off_breaks_off_for_the_caller() {
    let (_world, mut client, mut wire) = manual("", &RawRequest::get("/")).await;
    wire.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await.unwrap();
    drop(wire);
    assert_eq!(client.head().await.header("content-length"), Some("10"));
    assert!(within("the end", client.wire.exact(10)).await.is_err());
}

#[tokio::test]
async fn caller_that_leaves_ends_the_upstreams_call() {
    let (_world, client, mut wire) = manual("", &RawRequest::get("/")).await;
    drop(client);
    assert!(within("the upstream's connection to end", wire.closed()).await);
}

#[tokio::test]
async fn idle_timeout_ends_a_body_that_stalls() {
    let (_world, mut client, mut wire) = manual("idle_timeout = \"300ms\"", &RawRequest::get("/")).await;
    wire.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await.unwrap();
    client.head().await;
    assert!(within("the end", client.wire.exact(10)).await.is_err());
    assert!(within("the upstream's connection to end", wire.closed()).await);
}

#[tokio::test]
async fn all_addresses_of_the_upstreams_name_are_tried() {
    let setup = Setup::new().await;
    let url = setup.upstream.url.replace("127.0.0.1", "localhost");
    let world = setup.route(&format!("upstream = \"{url}\"")).start().await;
    world.get("/").await.expect_status(200);
}

#[tokio::test]
async fn slow_reader_does_not_fill_the_memory() {
    let (world, mut client, mut wire) = manual("", &RawRequest::get("/")).await;
    let before = world.memory();
    let gate = Gate::new();
    let done = gate.clone();
    let total = 64 << 20;
    let write = tokio::spawn(async move {
        wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {total}\r\n\r\n")).await.unwrap();
        let block = vec![b'x'; 1 << 20];
        let mut sent = 0;
        while sent < total {
            wire.send(&block).await.unwrap();
            sent += block.len();
        }
        done.open();
    });
    client.head().await;
    let blocked = tokio::time::timeout(std::time::Duration::from_secs(1), gate.wait()).await;
    assert!(blocked.is_err(), "the upstream was read to its end although the caller read nothing");
    let grown = world.memory().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB more");
    for _ in 0..total >> 20 {
        within("a mebibyte of the body", client.wire.exact(1 << 20)).await.unwrap();
    }
    write.await.unwrap();
}
