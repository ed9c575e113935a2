//! What a forward listener refuses, and what it says of it.

use std::sync::Arc;

use tokio::io::AsyncReadExt as _;

use super::{HOST, connect, connect_on, forward, forward_with, inside, refused, secure, serving, trusting};
use crate::support::{RawRequest, Scripted, Setup, cli, eventually, tls, within};

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

#[tokio::test]
async fn a_program_that_does_not_trust_the_ca_is_told_of_in_the_log() {
    let world = forward().await.start().await;
    for _ in 0..2 {
        let wire = connect(&world, &format!("{HOST}:443")).await;
        // It knows other roots.
        assert!(secure(wire, tls::ca().client(&[], None), HOST, HOST).await.is_err());
    }
    let line = world.log().wait("the warning", |line| line.contains("caller.distrusts_ca")).await;
    for words in ["\"WARN\"", &format!("\"host\":\"{HOST}\""), "as `bearerd ca` explains"] {
        assert!(line.contains(words), "{words}: {line}");
    }
    let again = |line: &str| line.contains("caller.tls_failed") && line.contains(HOST);
    world.log().wait("the second one, which does not flood the log", again).await;
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
