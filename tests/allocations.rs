//! What a warm GET allocates on its way through the proxy, held against the least that hyper allows: a relay that does
//! nothing but pass it on. Both run in this process, with a caller and an upstream that allocate nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::alloc::System;
use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;

use bearerd::app::{self, Options};
use bearerd::clock::SystemClock;
use hyper::Request;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Allocations of a request that the proxy may make beyond the relay's: 8 when this was written.
const MOST_MORE: f64 = 9.0;

const CALLS: u32 = 500;
const TOKEN: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-length: 42\r\n\r\n{\"access_token\":\"t\",\"token_type\":\"Bearer\"}";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok";

#[test]
fn warm_get_allocates_little_more_than_a_bare_relay() {
    let upstream = serve(ANSWER, b"\r\n\r\n");
    let relay = per_request(relay(upstream));
    let folder = tempfile::tempdir().unwrap();
    let issuer = serve(TOKEN, b"grant_type=client_credentials");
    let config = config(folder.path(), issuer, upstream);
    let running = app::start(config, Arc::new(SystemClock), Options::default()).expect("the proxy starts");
    let proxy = per_request(running.addresses().listeners["main"].parse().unwrap());
    running.stop();
    assert!(relay > 1.0, "the counter counts");
    assert!(proxy - relay <= MOST_MORE, "relay {relay}, proxy {proxy}: {} more", proxy - relay);
}

/// Answers every request that ends with `end`, without allocating.
fn serve(answer: &'static [u8], end: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            std::thread::spawn(move || while exchange(&mut stream, end, answer) {});
        }
    });
    address
}

/// Reads to `end`, then sends; `false` once the peer is gone.
fn exchange(stream: &mut TcpStream, end: &[u8], answer: &[u8]) -> bool {
    read_to(stream, end) && stream.write_all(answer).is_ok()
}

fn read_to(stream: &mut TcpStream, end: &[u8]) -> bool {
    let mut buffer = [0; 4096];
    let mut length = 0;
    while !buffer[..length].ends_with(end) {
        match stream.read(&mut buffer[length..]) {
            Ok(0) | Err(_) => return false,
            Ok(read) => length += read,
        }
    }
    true
}

/// Allocations a request, once everything is warm.
fn per_request(address: SocketAddr) -> f64 {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let call = b"GET /x HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nUser-Agent: test\r\n\r\n";
    let mut requests = || {
        for _ in 0..CALLS {
            stream.write_all(call).unwrap();
            assert!(read_to(&mut stream, b"\r\n\r\nok"), "a response");
        }
    };
    requests();
    let region = Region::new(ALLOCATOR);
    requests();
    let change = region.change();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let allocations = (change.allocations + change.reallocations) as f64;
    allocations / f64::from(CALLS)
}

/// hyper on both sides and nothing between.
fn relay(upstream: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (caller, _) = listener.accept().await.unwrap();
                tokio::task::spawn_local(relay_connection(caller, upstream));
            }
        });
    });
    address
}

async fn relay_connection(caller: tokio::net::TcpStream, upstream: SocketAddr) {
    let upstream = tokio::net::TcpStream::connect(upstream).await.unwrap();
    upstream.set_nodelay(true).unwrap();
    caller.set_nodelay(true).unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(upstream)).await.unwrap();
    tokio::task::spawn_local(connection);
    let sender = Rc::new(RefCell::new(sender));
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        sender.borrow_mut().send_request(request)
    });
    let _ended =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(caller), service).await;
}

fn config(folder: &std::path::Path, issuer: SocketAddr, upstream: SocketAddr) -> bearerd::config::Config {
    std::fs::write(folder.join("secret"), "s").unwrap();
    let file = folder.join("bearerd.toml");
    let text = format!(
        "[admin]\naddress = \"127.0.0.1:0\"\n[log]\naccess = false\n[listener.main]\naddress = \"127.0.0.1:0\"\n\
         [issuer.corp]\ntoken_url = \"http://{issuer}/token\"\nclient_id = \"c\"\nclient_secret = {{ file = \"secret\" }}\n\
         [[route]]\nname = \"api\"\nupstream = \"http://{upstream}\"\nissuer = \"corp\"\n"
    );
    std::fs::write(&file, text).unwrap();
    bearerd::config::load(&file).expect("a good config")
}
