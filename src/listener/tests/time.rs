//! How long a caller may take.

use super::*;

#[tokio::test]
async fn a_silent_caller_is_closed_after_the_header_timeout() {
    let limit = Duration::from_millis(200);
    let server = Server::start(Limits { header_timeout: Some(limit), ..limits() });
    let began = Instant::now();
    let mut client = server.connect().await;
    assert_eq!(client.rest().await, "");
    assert!(began.elapsed() >= limit, "{:?}", began.elapsed());
    server.until_open(0).await;
}

#[tokio::test]
async fn a_trickled_head_ends_at_the_header_timeout() {
    let limit = Duration::from_millis(300);
    let server = Server::start(Limits { header_timeout: Some(limit), ..limits() });
    // The second one begins its slow head after a good call.
    for warm in [false, true] {
        let mut client = server.connect().await;
        if warm {
            client.get("/ok").await;
        }
        let began = Instant::now();
        client.send("GET / HTTP/1.1\r\n").await;
        let (mut from, mut to) = client.0.into_split();
        let trickle = tokio::spawn(async move {
            while to.write_all(b"x: y\r\n").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let _ = soon(from.read_to_end(&mut Vec::new())).await;
        // The limit began to run on the other side, maybe before the clock here.
        assert!(began.elapsed() >= limit / 2, "{:?}", began.elapsed());
        assert!(began.elapsed() < Duration::from_secs(10), "not keep_alive");
        soon(trickle).await.unwrap();
    }
}

#[tokio::test]
async fn keep_alive_is_another_limit_than_the_header_timeout() {
    let (head, idle) = (Duration::from_millis(100), Duration::from_millis(1500));
    let server = Server::start(Limits { header_timeout: Some(head), keep_alive: Some(idle), ..limits() });
    let mut client = server.connect().await;
    client.get("/ok").await;
    tokio::time::sleep(head * 4).await;
    assert!(client.get("/ok").await.starts_with("HTTP/1.1 200"), "idle for longer than header_timeout");
    let began = Instant::now();
    assert_eq!(client.rest().await, "");
    // It was idle from the last byte of the response on, which is before the clock here.
    assert!(began.elapsed() >= idle / 2, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_long_request_is_not_idle_time() {
    let short = Some(Duration::from_millis(100));
    let server = Server::start(Limits { header_timeout: short, keep_alive: short, ..limits() });
    let mut client = server.connect().await;
    client.send("GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.handler.release.add_permits(1);
    assert!(client.response().await.ends_with("ok"));
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn an_idle_http2_connection_is_closed_and_a_busy_one_is_not() {
    let server = Server::start(Limits { keep_alive: Some(Duration::from_millis(200)), ..limits() });
    let mut sender = http2(&server).await;
    let slow = tokio::spawn(sender.send_request(request("/slow")));
    tokio::time::sleep(Duration::from_millis(600)).await;
    server.handler.release.add_permits(1);
    let response = soon(slow).await.unwrap().unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
    server.until_open(0).await;
}

#[tokio::test]
async fn a_caller_that_stops_reading_is_disconnected() {
    let server = Server::start_with(limits(), None, 200);
    let mut client = server.connect().await;
    client.send("GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    server.until_open(1).await;
    server.until_open(0).await;
}

/// A slow response is limited by its route alone, although the connection around it waits as well.
#[tokio::test]
async fn a_caller_that_reads_slowly_inside_a_connect_has_the_time_of_its_route() {
    use crate::config::{Roots, TlsOptions};
    use crate::net::Offer;
    let server = Server::start(limits());
    let mut client = server.connect().await;
    client.send("CONNECT localhost:443 HTTP/1.1\r\nHost: localhost:443\r\n\r\n").await;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(client.0.read_u8()).await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 200 "));
    let options = TlsOptions { ca: Some(INSIDE.1.clone()), roots: Roots::Ca, ..TlsOptions::default() };
    let config = crate::net::tls::client_config(&options, Offer::Http1).unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let stream = tokio_rustls::TlsConnector::from(config).connect(name, client.0);
    let mut stream = soon(stream).await.unwrap();
    stream
        .write_all(b"POST /upload/whole HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 4096];
    soon(stream.read_exact(&mut first)).await.unwrap();
    // Long enough for the server to write until nothing more fits, and longer than bearerd's own responses may wait.
    tokio::time::pause();
    for _ in 0..200 {
        tokio::time::advance(Duration::from_millis(OWN_STALL_MS / 100)).await;
    }
    tokio::time::resume();
    let mut rest = vec![0; MUCH - first.len()];
    soon(stream.read_exact(&mut rest)).await.unwrap();
}

#[tokio::test]
async fn a_tls_handshake_that_hangs_ends_at_the_header_timeout() {
    let limit = Some(Duration::from_millis(200));
    let server = Server::start_with(Limits { header_timeout: limit, ..limits() }, Some(tls().0), 0);
    let mut client = server.connect().await;
    assert_eq!(client.rest().await, "");
    server.until_open(0).await;
}

/// A task that has done much is asked to yield: timers that it polls then do not stand.
#[tokio::test]
async fn a_caller_that_was_busy_at_once_is_closed_when_it_is_idle() {
    let short = Some(Duration::from_millis(200));
    let server = Server::start(Limits { header_timeout: short, keep_alive: short, ..limits() });
    // Before the server can look at it.
    let mut client = std::net::TcpStream::connect(server.address).unwrap();
    let calls = "GET /ok HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(200);
    io::Write::write_all(&mut client, calls.as_bytes()).unwrap();
    client.set_nonblocking(true).unwrap();
    let responses = Client(TcpStream::from_std(client).unwrap()).rest().await;
    assert_eq!(responses.matches("HTTP/1.1 200").count(), 200);
}
