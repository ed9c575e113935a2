//! Versions, transports, limits.

use super::*;
use crate::telemetry::Repeated;

#[tokio::test]
async fn http1_calls_are_answered_and_the_connection_is_kept() {
    let server = Server::start(limits());
    let mut client = server.connect().await;
    for _ in 0..3 {
        assert!(client.get("/ok").await.ends_with("\r\n\r\nok"));
    }
    assert!(client.get("/peer").await.contains("Tcp(127.0.0.1:"));
    client.send("GET /ok HTTP/1.0\r\n\r\n").await;
    assert!(client.rest().await.starts_with("HTTP/1.0 200"));
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_answered() {
    let server = Server::start(limits());
    let mut sender = http2(&server).await;
    let response = soon(sender.send_request(request("/ok"))).await.unwrap();
    assert_eq!(response.version(), http::Version::HTTP_2);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
}

#[tokio::test]
async fn too_many_or_too_large_headers_are_431() {
    let small = Limits { header_count: 10, header_bytes: 8192, ..limits() };
    let server = Server::start(small);
    let many: String = (0..11).map(|n| format!("x-{n}: y\r\n")).collect();
    let large = format!("x: {}\r\n", "y".repeat(9000));
    let huge = format!("x: {}\r\n", "y".repeat(900_000));
    for headers in [many, large, huge] {
        let mut client = server.connect().await;
        client.send(&format!("GET / HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")).await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    let mut sender = http2(&server).await;
    let mut counted = request("/ok");
    for n in 0..11 {
        counted
            .headers_mut()
            .append(http::HeaderName::try_from(format!("x-{n}")).unwrap(), "y".parse().unwrap());
    }
    assert_eq!(soon(sender.send_request(counted)).await.unwrap().status(), 431);
    let mut sized = request("/ok");
    sized.headers_mut().insert("x", "y".repeat(9000).parse().unwrap());
    assert_eq!(soon(sender.send_request(sized)).await.unwrap().status(), 431);
}

#[tokio::test]
async fn garbage_is_400() {
    let server = Server::start(limits());
    for garbage in
        ["GARBAGE\r\n\r\n", "GET / HTTP/1.1\r\nno colon\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"]
    {
        let mut client = server.connect().await;
        client.send(garbage).await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{garbage:?}: {answer}");
    }
}

#[tokio::test]
async fn the_first_bytes_may_come_one_by_one() {
    let server = Server::start(limits());
    for (text, status) in [
        ("PRI /ok HTTP/1.1\r\nHost: localhost\r\n\r\n", "200"),
        ("\r\n\nGET /ok HTTP/1.1\nHost: localhost\n\n", "200"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\nX", "400"),
    ] {
        let mut client = server.connect().await;
        client.0.set_nodelay(true).unwrap();
        for byte in text.chars() {
            client.send(&byte.to_string()).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let answer = client.response().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{text:?}: {answer}");
    }
}

#[tokio::test]
async fn above_the_connection_limit_callers_are_told() {
    let server = Server::start(Limits { connections: 1, ..limits() });
    let mut first = server.connect().await;
    first.get("/ok").await;
    let mut second = server.connect().await;
    second.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let answer = second.rest().await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");
    assert!(answer.contains(r#""code":"overloaded""#), "{answer}");
    assert!(answer.contains(r#""type":"urn:bearerd:error:overloaded""#), "as every other error: {answer}");
    assert!(answer.contains("proxy-status: bearerd;"), "{answer}");
    drop(first);
    server.until_open(0).await;
    assert!(server.connect().await.get("/ok").await.ends_with("ok"), "a place became free");
}

#[tokio::test]
async fn a_panic_ends_its_connection_alone() {
    let server = Server::start(limits());
    let mut other = server.connect().await;
    other.get("/ok").await;
    let mut client = server.connect().await;
    client.send("GET /panic HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(client.rest().await, "");
    assert!(other.get("/ok").await.ends_with("ok"));
    server.until_open(1).await;
}

#[tokio::test]
async fn tls_serves_the_version_that_alpn_chose() {
    use crate::config::{Egress, Roots, TlsOptions};
    use crate::net::{Connector, Offer, Target};
    let (config, ca) = tls();
    let server = Server::start_with(limits(), Some(config), 0);
    let target = Target::Tcp { host: "localhost".to_owned(), port: server.address.port(), tls: true };
    let options = TlsOptions { ca: Some(ca), roots: Roots::Ca, ..TlsOptions::default() };
    for offer in [Offer::Http1, Offer::Both] {
        let connector = Connector::new(target.clone(), options.clone(), Egress::Direct, offer, None);
        let connected = soon(connector.connect()).await.unwrap();
        let stream = TokioIo::new(connected.stream);
        let response = if connected.http2 {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            soon(sender.send_request(request("/peer"))).await.unwrap()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            soon(sender.send_request(request("/peer"))).await.unwrap()
        };
        let text = response.into_body().collect().await.unwrap().to_bytes();
        assert!(text.ends_with(b" true"), "{text:?}");
    }
}

#[tokio::test]
async fn unix_callers_are_known_by_their_uid() {
    let folder = std::env::temp_dir().join(format!("bearerd-listener-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let address = Address::Unix(folder.join("s"));
    let bound = Bound::bind(&Arc::from("main"), &address, &UnixOptions::OWNER_ALONE).unwrap();
    let stop = Stop::default();
    let task = tokio::spawn(accept::serve(
        bound,
        Arc::new(Fake { release: Semaphore::new(0), write_stall_ms: 0 }),
        settings(address, limits(), None),
        Arc::new(ConnectionLimit::new()),
        stop.clone(),
    ));
    let mut client = tokio::net::UnixStream::connect(folder.join("s")).await.unwrap();
    client.write_all(b"GET /peer HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    soon(client.read_to_string(&mut answer)).await.unwrap();
    let uid = rustix::process::geteuid().as_raw();
    assert!(answer.ends_with(&format!("{:?} false", Peer::Unix { uid })), "{answer}");
    stop.accepting.cancel();
    soon(task).await.unwrap();
    assert!(!folder.join("s").exists());
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn an_answer_before_the_body_was_read_arrives() {
    let server = Server::start(limits());
    let mut client = server.connect().await;
    let body = "x".repeat(300_000);
    client
        .send(&format!("POST /ok HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000\r\n\r\n{body}"))
        .await;
    let response = client.response().await;
    assert!(response.starts_with("HTTP/1.1 200") && response.ends_with("ok"), "{response}");
    client.send("GET /ok HTTP/1.0\r\n\r\n").await;
    let response = client.rest().await;
    assert!(response.ends_with("ok"), "the rest of the body was read: {response}");
    server.until_open(0).await;
}

#[tokio::test]
async fn a_connection_that_waits_is_small() {
    let server = Server::start(limits());
    let settings = settings(Address::Tcp(server.address), limits(), None).load_full();
    let (client, stream) =
        tokio::join!(TcpStream::connect(server.address), TcpStream::connect(server.address));
    let (stream, peer) = (stream.unwrap(), Peer::Tcp(client.unwrap().peer_addr().unwrap()));
    let tracker = tokio_util::task::TaskTracker::new();
    let held = limit::TakenPlace::take(&server.connections, 100, &settings.metrics, tracker.token()).unwrap();
    let accepted = connection::Accepted { raw: stream::Raw::Tcp(stream), peer, local: None, held };
    let shared = Arc::new(connection::Shared {
        handler: Arc::clone(&server.handler),
        drain: drive::Drain::default(),
        now: server.stop.now.clone(),
        tls_complaints: Repeated::default(),
    });
    let size = size_of_val(&connection::serve(accepted, settings, shared));
    assert!(size < 2560, "{size} bytes for a connection's future");
}

#[tokio::test]
async fn a_caller_may_send_all_before_it_reads() {
    let server = Server::start(limits());
    for path in ["/upload/whole", "/upload/pieces"] {
        let mut client = server.connect().await;
        client
            .send(&format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {MUCH}\r\n\r\n"))
            .await;
        soon(client.0.write_all(&vec![b'y'; MUCH])).await.unwrap();
        client.send("GET /ok HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
        let answers = client.rest().await;
        assert!(answers.len() > MUCH && answers.ends_with("\r\n\r\nok"), "{path}: {}", answers.len());
    }
}

#[tokio::test]
async fn nothing_is_said_in_the_middle_of_an_answer() {
    let server = Server::start(limits());
    let mut client = server.connect().await;
    client
        .send("POST /late HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        .await;
    let answer = client.rest().await;
    assert!(answer.ends_with("\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n"), "{answer}");
}
