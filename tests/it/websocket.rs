//! Upgrades, WebSocket by a real client and server library.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::manual::Manual;
use crate::support::{Client, RawRequest, RawResponse, Setup, Wire, World, eventually, let_pass, to, within};

/// A WebSocket server that echoes, and refuses every token but the last one given.
pub struct Echo {
    pub url: String,
    seen: std::sync::Arc<std::sync::Mutex<Vec<http::HeaderMap>>>,
}

impl Echo {
    pub async fn start(refused: &'static str) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = std::sync::Arc::<std::sync::Mutex<Vec<http::HeaderMap>>>::default();
        let record = std::sync::Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let record = std::sync::Arc::clone(&record);
                tokio::spawn(async move {
                    let look = |request: &Request, response: Response| {
                        record.lock().unwrap().push(request.headers().clone());
                        let token = request.headers()["authorization"].to_str().unwrap();
                        if token == format!("Bearer {refused}") {
                            let refusal = ErrorResponse::new(None);
                            let (mut parts, body) = refusal.into_parts();
                            parts.status = http::StatusCode::UNAUTHORIZED;
                            return Err(ErrorResponse::from_parts(parts, body));
                        }
                        Ok(response)
                    };
                    if let Ok(socket) = tokio_tungstenite::accept_hdr_async(stream, look).await {
                        let (sink, stream) = socket.split();
                        let _ended = stream.forward(sink).await;
                    }
                });
            }
        });
        Self { url, seen }
    }

    pub fn seen(&self) -> Vec<http::HeaderMap> {
        self.seen.lock().unwrap().clone()
    }
}

async fn connect(world: &World, path: &str) -> Result<WebSocketStream<TcpStream>, Error> {
    let address = world.address("main");
    let stream = TcpStream::connect(address).await.unwrap();
    let request = format!("ws://{address}{path}").into_client_request().unwrap();
    within("the handshake", tokio_tungstenite::client_async(request, stream)).await.map(|(socket, _)| socket)
}

async fn echo(socket: &mut WebSocketStream<TcpStream>, text: &str) {
    socket.send(Message::text(text)).await.unwrap();
    let back = within("the echo", socket.next()).await.unwrap().unwrap();
    assert_eq!(back, Message::text(text));
}

#[tokio::test]
async fn websocket_works_and_gets_the_credential() {
    let upstream = Echo::start("none").await;
    let world = to(&upstream.url, "").await;
    let mut socket = connect(&world, "/chat").await.unwrap();
    for n in 0..10 {
        echo(&mut socket, &format!("message {n}")).await;
    }
    echo(&mut socket, &"x".repeat(200_000)).await;
    let seen = upstream.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0]["authorization"], "Bearer token-1");
    socket.close(None).await.unwrap();
}

#[tokio::test]
async fn t79_401_on_the_handshake_leads_to_a_new_token() {
    let upstream = Echo::start("token-1").await;
    let world = to(&upstream.url, "").await;
    let mut socket = connect(&world, "/").await.unwrap();
    echo(&mut socket, "hello").await;
    let seen = upstream.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[1]["authorization"], "Bearer token-2");
}

#[tokio::test]
async fn t83_open_socket_outlives_its_token() {
    let upstream = Echo::start("none").await;
    let setup = Setup::new().await;
    setup.issuer.always(|_, n| RawResponse::brief_token(n));
    let world = setup.route(&format!("upstream = \"{}\"", upstream.url)).start().await;
    let mut socket = connect(&world, "/").await.unwrap();
    for _ in 0..15 {
        echo(&mut socket, "still here").await;
        let_pass(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn upgraded_connection_that_is_idle_ends() {
    let upstream = Echo::start("none").await;
    let world = to(&upstream.url, "idle_timeout = \"2s\"").await;
    let mut socket = connect(&world, "/").await.unwrap();
    echo(&mut socket, "hello").await;
    let end = within("the end", socket.next()).await;
    assert!(!matches!(end, Some(Ok(Message::Text(_)))), "{end:?}");
}

fn upgrade(protocol: &str) -> RawRequest {
    RawRequest::get("/").header("Connection", "Upgrade").header("Upgrade", protocol)
}

#[tokio::test]
async fn tunnel_opens_only_after_the_upstreams_101() {
    let setup = Setup::new().await;
    setup.upstream.always_this(RawResponse::ok("no upgrade here"));
    let world = setup.start().await;
    let mut client = world.connect().await;
    let mut bytes = upgrade("websocket").bytes("localhost");
    bytes.extend(RawRequest::get("/second").header("Authorization", "Bearer mine").bytes("localhost"));
    client.wire.send(bytes).await.unwrap();
    assert_eq!(client.response().await.text(), "no upgrade here");
    if let Some(second) = client.response_or_end().await {
        second.expect_status(200);
    }
    for request in world.upstream().requests() {
        assert_eq!(request.headers("authorization"), ["Bearer token-1"]);
    }
}

#[tokio::test]
async fn bytes_pass_both_ways_after_101() {
    let upstream = Manual::start().await;
    let world = to(&upstream.url, "").await;
    let mut client = world.connect().await;
    client.send(&upgrade("chatter")).await;
    let mut wire = upstream.accept().await;
    let head = within("the handshake", wire.head()).await.unwrap().unwrap();
    assert_eq!(head.header("upgrade"), Some("chatter"));
    assert!(head.header("connection").unwrap().eq_ignore_ascii_case("upgrade"));
    assert_eq!(head.header("authorization"), Some("Bearer token-1"));
    wire.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chatter\r\n\r\nhello ")
        .await
        .unwrap();
    let head = client.head().await;
    assert_eq!(head.word(1), "101");
    assert_eq!(head.header("upgrade"), Some("chatter"));
    assert_eq!(client.wire.exact(6).await.unwrap(), b"hello ");
    client.wire.send("\0\u{1}\u{2}").await.unwrap();
    assert_eq!(wire.exact(3).await.unwrap(), b"\0\x01\x02");
    client.wire.finish().await.unwrap();
    assert!(within("the half-close to pass", wire.rest()).await.unwrap().is_empty());
}

#[tokio::test]
async fn h2c_upgrade_is_never_forwarded() {
    let world = Setup::new().await.start().await;
    let call = RawRequest::get("/")
        .header("Connection", "Upgrade, HTTP2-Settings")
        .header("Upgrade", "h2c")
        .header("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA");
    world.exchange(call).await.expect_status(200);
    let request = world.upstream().last();
    assert_eq!((request.header("upgrade"), request.header("http2-settings")), (None, None));
}

#[tokio::test]
async fn upgrade_uses_an_http11_connection_even_to_an_http2_upstream() {
    let upstream = Echo::start("none").await;
    let world = to(&upstream.url, "protocol = \"auto\"").await;
    let mut socket = connect(&world, "/").await.unwrap();
    echo(&mut socket, "hello").await;
    assert!(world.metric("bearerd_requests_total", &[("route", "api"), ("status", "101")]).await.is_some());
}

/// An open tunnel: the caller's end, the upstream's end.
async fn tunnel(world: &World, upstream: &Manual) -> (Client, Wire) {
    let mut client = world.connect().await;
    client.send(&upgrade("chatter")).await;
    let mut wire = upstream.accept().await;
    within("the handshake", wire.head()).await.unwrap().unwrap();
    wire.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chatter\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(client.head().await.word(1), "101");
    (client, wire)
}

async fn pass(from: &mut Wire, to: &mut Wire, text: &str) {
    from.send(text).await.unwrap();
    assert_eq!(within("what was sent", to.exact(text.len())).await.unwrap(), text.as_bytes());
}

async fn no_connection_is_left(world: &World) {
    eventually("both connections to end", || async {
        let callers = world.metric("bearerd_connections", &[("listener", "main")]).await;
        let upstreams = world.metric("bearerd_upstream_connections", &[("route", "api")]).await;
        (callers == Some(0.0) && upstreams == Some(0.0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn either_side_may_close_its_direction_first() {
    let upstream = Manual::start().await;
    let world = to(&upstream.url, "").await;
    for caller_first in [true, false] {
        let (mut client, mut wire) = tunnel(&world, &upstream).await;
        let (first, second) =
            if caller_first { (&mut client.wire, &mut wire) } else { (&mut wire, &mut client.wire) };
        pass(first, second, "last words").await;
        first.finish().await.unwrap();
        assert!(within("the end of one direction", second.rest()).await.unwrap().is_empty());
        for n in 0..3 {
            pass(second, first, &format!("still here {n}")).await;
        }
        second.finish().await.unwrap();
        assert!(within("the end of the other", first.rest()).await.unwrap().is_empty());
        no_connection_is_left(&world).await;
    }
}

#[tokio::test]
async fn tunnel_ends_with_either_side() {
    let upstream = Manual::start().await;
    let world = to(&upstream.url, "").await;
    let (client, mut wire) = tunnel(&world, &upstream).await;
    drop(client);
    assert!(within("the upstream's end", wire.closed()).await);
    drop(wire);
    let (mut client, wire) = tunnel(&world, &upstream).await;
    drop(wire);
    assert!(within("the caller's end", client.wire.closed()).await);
    drop(client);
    no_connection_is_left(&world).await;
}

#[tokio::test]
async fn tunnel_in_which_one_side_speaks_is_not_idle() {
    let upstream = Manual::start().await;
    let world = to(&upstream.url, "idle_timeout = \"2s\"").await;
    let (mut client, mut wire) = tunnel(&world, &upstream).await;
    for n in 0..6 {
        let_pass(Duration::from_millis(400)).await;
        pass(&mut wire, &mut client.wire, &format!("tick {n}")).await;
    }
    for n in 0..6 {
        let_pass(Duration::from_millis(400)).await;
        pass(&mut client.wire, &mut wire, &format!("tick {n}")).await;
    }
    // Half of it closed, it is still timed.
    client.wire.finish().await.unwrap();
    assert!(within("the end of one direction", wire.rest()).await.unwrap().is_empty());
    assert!(within("the idle end", client.wire.closed()).await);
    no_connection_is_left(&world).await;
}

#[tokio::test]
async fn tunnel_outlives_a_reload_and_a_stop_waits_for_it() {
    let upstream = Manual::start().await;
    let mut world = to(&upstream.url, "").await;
    let (mut client, mut wire) = tunnel(&world, &upstream).await;
    let more =
        "[[route]]\nname = \"b\"\npath = \"/b\"\nanonymous = true\nupstream = \"http://127.0.0.1:1\"\n";
    world.change(|text| format!("{text}\n{more}"));
    world.reload().await;
    pass(&mut client.wire, &mut wire, "after the reload").await;
    world.signal(rustix::process::Signal::TERM);
    world.log().wait("the end", |line| line.contains("shutdown.started")).await;
    for n in 0..3 {
        pass(&mut client.wire, &mut wire, &format!("up {n}")).await;
        pass(&mut wire, &mut client.wire, &format!("down {n}")).await;
    }
    assert!(world.proxy.running());
    wire.finish().await.unwrap();
    assert!(within("the end", client.wire.rest()).await.unwrap().is_empty());
    drop((client, wire));
    assert!(world.proxy.exit().await.success());
}

#[tokio::test]
async fn tunnel_is_cut_at_shutdown_timeout() {
    let upstream = Manual::start().await;
    let setup = Setup::new().await.top("shutdown_timeout = \"500ms\"");
    let mut world = setup.route(&format!("upstream = \"{}\"", upstream.url)).start().await;
    let (mut client, mut wire) = tunnel(&world, &upstream).await;
    world.signal(rustix::process::Signal::TERM);
    assert!(within("the caller's end", client.wire.closed()).await);
    assert!(within("the upstream's end", wire.closed()).await);
    world.proxy.exit().await;
}
