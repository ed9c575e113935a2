//! The end: of requests, of connections, of tunnels.

use super::*;

#[tokio::test]
async fn a_stop_lets_requests_end_and_closes_idle_connections() {
    let server = Server::start(limits());
    let (mut idle, mut busy) = (server.connect().await, server.connect().await);
    idle.get("/ok").await;
    busy.send("GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let mut sender = http2(&server).await;
    let slow = tokio::spawn(sender.send_request(request("/slow")));
    soon(async {
        while server.handler.release.available_permits() > 0 || server.connections.open() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    tokio::time::sleep(Duration::from_millis(100)).await;

    server.stop.accepting.cancel();
    assert_eq!(idle.rest().await, "");
    assert!(!server.task.is_finished());
    server.handler.release.add_permits(2);
    let response = busy.rest().await;
    assert!(response.contains("\r\nconnection: close\r\n") && response.ends_with("ok"), "{response}");
    assert_eq!(soon(slow).await.unwrap().unwrap().status(), 200);
    drop(sender);
    let address = server.address;
    server.ended().await;
    assert!(TcpStream::connect(address).await.is_err(), "the socket is closed");
}

#[tokio::test]
async fn a_head_that_is_incomplete_at_the_stop_is_served() {
    let server = Server::start(limits());
    let mut client = server.connect().await;
    client.get("/ok").await;
    client.send("GET /ok HTTP/1.1\r\n").await;
    let mut fresh = server.connect().await;
    fresh.send("GE").await;
    server.until_open(2).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.stop.accepting.cancel();
    tokio::time::sleep(Duration::from_millis(100)).await;
    client.send("Host: localhost\r\n\r\n").await;
    assert!(client.rest().await.ends_with("ok"));
    fresh.send("T /ok HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let response = fresh.rest().await;
    assert!(response.contains("\r\nconnection: close\r\n") && response.ends_with("ok"), "{response}");
    server.ended().await;
}

#[tokio::test]
async fn the_next_request_of_a_busy_caller_is_served_after_the_stop() {
    let server = Server::start(limits());
    let mut client = server.connect().await;
    client.get("/ok").await;
    server.stop.accepting.cancel();
    tokio::time::sleep(Duration::from_millis(100)).await;
    client.send("GET /ok HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let response = client.rest().await;
    assert!(response.contains("\r\nconnection: close\r\n") && response.ends_with("ok"), "{response}");
    server.ended().await;
}

#[tokio::test]
async fn callers_in_the_backlog_at_the_stop_are_served() {
    let server = Server::start(limits());
    let mut clients = Vec::new();
    for _ in 0..20 {
        // Blocking, so that the server does not get to accept in between.
        let stream = std::net::TcpStream::connect(server.address).unwrap();
        stream.set_nonblocking(true).unwrap();
        clients.push(Client(TcpStream::from_std(stream).unwrap()));
    }
    server.stop.accepting.cancel();
    for client in &mut clients {
        client.send("GET /ok HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    }
    for client in &mut clients {
        assert!(client.rest().await.ends_with("ok"));
    }
    server.ended().await;
}

#[tokio::test]
async fn now_drops_requests_in_progress() {
    let server = Server::start(limits());
    let mut client = server.connect().await;
    client.send("GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    server.until_open(1).await;
    server.stop.accepting.cancel();
    server.stop.now.cancel();
    let _ = soon(client.0.read_to_end(&mut Vec::new())).await;
    server.ended().await;
}

async fn open_tunnel(server: &Server) -> Client {
    let mut client = server.connect().await;
    client
        .send("GET /tunnel HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
        .await;
    assert!(client.response().await.starts_with("HTTP/1.1 101 "));
    client
}

async fn echo(client: &mut Client) {
    client.send("ping").await;
    let mut echoed = [0; 4];
    soon(client.0.read_exact(&mut echoed)).await.unwrap();
    assert_eq!(&echoed, b"ping");
}

#[tokio::test]
async fn a_tunnel_counts_as_a_connection_and_a_stop_waits_for_it() {
    let short = Some(Duration::from_millis(100));
    let server = Server::start(Limits { header_timeout: short, keep_alive: short, ..limits() });
    let mut client = open_tunnel(&server).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(server.connections.open(), 1);
    server.stop.accepting.cancel();
    echo(&mut client).await;
    assert!(!server.task.is_finished());
    drop(client);
    server.ended().await;
}

#[tokio::test]
async fn now_ends_a_tunnel() {
    let server = Server::start(limits());
    let mut client = open_tunnel(&server).await;
    echo(&mut client).await;
    server.stop.now.cancel();
    assert_eq!(client.rest().await, "");
    server.ended().await;
}
