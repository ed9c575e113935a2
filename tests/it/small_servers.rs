//! What the admin address and webhooks bear from strangers.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Client, RawRequest, Setup, World, eventually, let_pass, within};
use crate::webhook::{address_of, signed_by};

const SIGNING: &str = "canary-signing-secret";
const FLOOD: usize = 500;

async fn start() -> World {
    let setup = Setup::new().await.more(
        "[webhook.learned]\naddress = \"127.0.0.1:0\"\npath = \"/seismic\"\nsignature_header = \"x-seismic-signature\"\n\
         secrets = [{ file = \"signing\" }]\nvalue = \"/user\"\nstore = \"learned.json\"\n",
    );
    setup.file("signing", SIGNING);
    let world = setup.start().await;
    world.ready().await;
    world
}

fn learn(user: &str) -> RawRequest {
    signed_by(SIGNING, json!({ "user": user }).to_string().into_bytes())
}

/// Connections that say this and nothing more, and stay open. Each tenth one is followed by one with a request.
async fn flood(address: SocketAddr, said: &str, request: &RawRequest) -> (Vec<TcpStream>, Vec<Client>) {
    let (mut held, mut clients) = (Vec::new(), Vec::new());
    for n in 0..FLOOD {
        let mut stream = within("a connection", TcpStream::connect(address)).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        held.push(stream);
        if n % 10 == 0 {
            let mut client = Client::tcp(address).await;
            client.send(request).await;
            clients.push(client);
        }
    }
    (held, clients)
}

#[tokio::test]
async fn a_flood_of_connections_loses_no_probe() {
    let world = start().await;
    for said in ["", "GET /livez HTTP/1.1\r\nhost:"] {
        let (held, clients) = flood(world.address("admin"), said, &RawRequest::get("/readyz")).await;
        for mut client in clients {
            client.response().await.expect_status(200);
        }
        for path in ["/livez", "/metrics", "/status"] {
            world.admin(path).await.expect_status(200);
        }
        drop(held);
    }
    world.log().wait("a word to the operator", |line| line.contains("listener.connection_evicted")).await;
}

/// Those that came in the flood, and one whose body was on its way before it.
#[tokio::test]
async fn a_flood_of_connections_loses_no_webhook() {
    let world = start().await;
    let address = address_of(&world, "learned").await;
    let mut begun = TcpStream::connect(address).await.unwrap();
    let request = learn("begun").bytes("localhost");
    let (head, rest) = request.split_at(request.len() - 5);
    begun.write_all(head).await.unwrap();
    // Its head has arrived once a later one got its response.
    Client::tcp(address).await.exchange(&learn("before")).await.expect_status(204);

    let (held, clients) = flood(address, "", &learn("amid")).await;
    for mut client in clients {
        client.response().await.expect_status(204);
    }
    begun.write_all(rest).await.unwrap();
    let mut answer = String::new();
    within("the response to the first one", begun.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    drop(held);
}

/// Callers whose bodies do not come make room as well, only later.
#[tokio::test]
async fn bodies_that_do_not_come_keep_no_webhook_out() {
    let world = start().await;
    let address = address_of(&world, "learned").await;
    let request = learn("never").bytes("localhost");
    let mut held = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&request[..request.len() - 1]).await.unwrap();
        held.push(stream);
    }
    Client::tcp(address).await.exchange(&learn("real")).await.expect_status(204);
}

/// A refusal that comes before the body does: a sender that reads only once all is sent can send all of it.
#[tokio::test]
async fn an_early_refusal_of_a_webhook_is_read_by_who_still_sends() {
    let world = start().await;
    let mut stream = TcpStream::connect(address_of(&world, "learned").await).await.unwrap();
    let body = vec![b'x'; 4 << 20];
    let call = RawRequest::new("POST", "/seismic").header("content-length", &body.len().to_string());
    stream.write_all(&call.bytes("localhost")).await.unwrap();
    within("the response to come", stream.readable()).await.unwrap();
    for piece in body.chunks(512 * 1024) {
        // So that the server is done with the response, and waits or does not.
        let_pass(Duration::from_millis(50)).await;
        within("a piece of the body to go out", stream.write_all(piece))
            .await
            .expect("the connection is open");
    }
    let mut answer = String::new();
    within("the response", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("signature_refused"), "{answer}");
}

#[tokio::test]
async fn what_is_no_request_is_logged_with_its_reason_and_counted() {
    let world = start().await;
    let webhook = address_of(&world, "learned").await;
    let long = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(20_000));
    for (address, listener, label, bytes, status, reason) in [
        (world.address("admin"), "admin", "admin address", "\u{16}\u{3}\u{1}\r\n\r\n", "400", "method"),
        (world.address("admin"), "admin", "admin address", long.as_str(), "431", "head_too_large"),
        (webhook, "learned", "webhooks", "GET / HTTP/3.7\r\n\r\n", "400", "version"),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within("the response", stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{reason}: {answer}");
        let told = |event: &Value| {
            event["event"] == "caller.request_refused"
                && event["reason"] == reason
                && event["listener"] == listener
        };
        let event = eventually("the line", || async { world.log().events().into_iter().find(told) }).await;
        assert_eq!(event["level"], "INFO");
        assert!(event["peer"].as_str().unwrap().contains("127.0.0.1"), "{event}");
        let labels = [("listener", label), ("reason", reason)];
        assert_eq!(world.metric("bearerd_requests_refused_total", &labels).await, Some(1.0));
    }
}

/// Held connections are not held for ever, even where there is room.
#[tokio::test]
async fn a_connection_is_for_one_request() {
    let world = start().await;
    let mut client = Client::tcp(world.address("admin")).await;
    let response = client.exchange(&RawRequest::get("/livez")).await;
    response.expect_status(200);
    assert_eq!(response.header("connection"), Some("close"));
    let closed = tokio::time::timeout(Duration::from_secs(20), client.wire.closed()).await;
    assert_eq!(closed, Ok(true));
}
