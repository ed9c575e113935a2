//! Real servers behind the proxy, with their defaults.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::process::Child;

use crate::early_responses::{Framing, expect};
use crate::support::tls::{ca, localhost};
use crate::support::{Client, RawRequest, Setup, World, eventually};

/// nginx, serving HTTP/2 and HTTP/1.1 over TLS with its own limits.
struct Nginx {
    address: SocketAddr,
    /// Ends with this.
    _child: Child,
}

impl Nginx {
    async fn start(setup: &Setup, keepalive: &str) -> Self {
        let folder = setup.folder().join("nginx");
        std::fs::create_dir_all(&folder).unwrap();
        let identity = localhost();
        std::fs::write(folder.join("cert.pem"), &identity.certificate_pem).unwrap();
        std::fs::write(folder.join("key.pem"), &identity.key_pem).unwrap();
        let address = crate::support::nobody();
        let dir = folder.display();
        let text = format!(
            "daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log;\n\
             events {{ worker_connections 512; }}\n\
             http {{\n\
               access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;\n\
               fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n\
               server {{ listen {address} ssl http2; ssl_certificate {dir}/cert.pem;\n\
                 ssl_certificate_key {dir}/key.pem; {keepalive}\n\
                 location / {{ return 200 $request_method; }} }} }}\n"
        );
        std::fs::write(folder.join("nginx.conf"), text).unwrap();
        let child = tokio::process::Command::new("nginx")
            .arg("-c")
            .arg(folder.join("nginx.conf"))
            .args(["-e", &format!("{dir}/error.log")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("nginx is installed");
        eventually("nginx", || async { tokio::net::TcpStream::connect(address).await.ok() }).await;
        Self { address, _child: child }
    }
}

async fn over_tls(nginx: &Nginx, protocol: &str) -> World {
    let setup = Setup::new().await;
    setup.file("ca.pem", &ca().pem);
    let route = format!(
        "upstream = \"https://localhost:{}\"\nprotocol = \"{protocol}\"\ntls = {{ ca = {{ file = \"ca.pem\" }} }}\n",
        nginx.address.port()
    );
    setup.route(&route).start().await
}

/// So many requests, 30 at a time, every third one a POST with a body.
async fn load(world: &World, requests: usize) -> Vec<String> {
    let left = Arc::new(AtomicUsize::new(requests));
    let address = world.address("main");
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let left = Arc::clone(&left);
        callers.spawn(async move {
            let mut client = Client::tcp(address).await;
            let mut wrong = Vec::new();
            while let Ok(n) = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)) {
                let post = n % 3 == 0;
                let request = if post { RawRequest::post("/", "a body") } else { RawRequest::get("/") };
                let response = client.exchange(&request).await;
                let expected = if post { "POST" } else { "GET" };
                if response.status != 200 || response.text() != expected {
                    wrong.push(format!("{expected}: {} {}", response.status, response.text()));
                }
            }
            wrong
        });
    }
    tokio::time::timeout(Duration::from_secs(300), callers.join_all()).await.expect("in time").concat()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nginx"]
async fn nginx_loses_no_request_when_it_ends_connections() {
    for (keepalive, requests) in [("", 20_000), ("keepalive_requests 50;", 5_000)] {
        let setup = Setup::new().await;
        let nginx = Nginx::start(&setup, keepalive).await;
        for protocol in ["auto", "http1"] {
            let world = over_tls(&nginx, protocol).await;
            let wrong = load(&world, requests).await;
            assert!(wrong.is_empty(), "{protocol} {keepalive}: {} of {requests}: {}", wrong.len(), wrong[0]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nginx"]
async fn nginx_refusal_of_a_large_body_is_read() {
    let setup = Setup::new().await;
    let nginx = Nginx::start(&setup, "").await;
    for protocol in ["auto", "http1"] {
        let world = over_tls(&nginx, protocol).await;
        for size in [1_500_000, 4_000_000] {
            expect(world.address("main"), "POST /", Framing::Length, size, "413").await;
        }
    }
}
