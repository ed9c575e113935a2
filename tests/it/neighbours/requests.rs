//! HTTP/1.1 callers that ask for much, or take their time.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::{MIB, Scene, connect, connect_deaf, each};
use crate::support::{RawRequest, eventually, let_pass};

/// Asks for `target` until so many bytes are sent, and reads nothing.
fn pipeline(address: SocketAddr, target: &str, bytes: usize, connections: usize) -> impl Sized + use<> {
    let request = RawRequest::get(target).bytes("localhost");
    let requests = request.repeat(bytes / request.len());
    each(connections, move |_| {
        let requests = requests.clone();
        async move {
            let mut stream = connect_deaf(address).await;
            // The proxy stops reading once its responses are not read.
            let _sent = stream.write_all(&requests).await;
            std::future::pending::<()>().await;
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_whose_responses_nobody_reads() {
    let mut scene = Scene::usual().await;
    let address = scene.address();
    for target in ["/api", "/nowhere"] {
        scene.unharmed("one", 8 * MIB, async |_| pipeline(address, target, 4 << 20, 1)).await;
        scene.unharmed("fifty", 16 * MIB, async |_| pipeline(address, target, 400 << 10, 50)).await;
    }
    scene.verdict();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_do_not_come_to_an_end() {
    let mut scene = Scene::usual().await;
    let address = scene.address();
    let head = format!("GET /api HTTP/1.1\r\nHost: localhost\r\nx: {}", "y".repeat(20_000));
    scene
        .unharmed("slow heads", 16 * MIB, async |_| {
            let head = head.clone();
            each(200, move |_| {
                let head = head.clone();
                async move {
                    let mut stream = connect(address).await;
                    stream.write_all(head.as_bytes()).await.unwrap();
                    while stream.write_all(b"y").await.is_ok() {
                        let_pass(Duration::from_millis(50)).await;
                    }
                }
            })
        })
        .await;
    scene.verdict();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_come_a_byte_at_a_time() {
    let mut scene = Scene::usual().await;
    let address = scene.address();
    let upload = "POST /api HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n";
    scene
        .unharmed("slow bodies", 16 * MIB, async |world| {
            let opened = world.upstream().opened();
            let uploads = each(100, move |_| async move {
                let mut stream = connect(address).await;
                stream.write_all(upload.as_bytes()).await.unwrap();
                while stream.write_all(b"x").await.is_ok() {
                    let_pass(Duration::from_secs(1)).await;
                }
            });
            eventually("all uploads at the upstream", || async {
                (world.upstream().opened() >= opened + 100).then_some(())
            })
            .await;
            uploads
        })
        .await;
    scene.verdict();
}
