//! Callers that connect.

use tokio::io::AsyncWriteExt;

use super::{MIB, Scene, connect, each};
use crate::support::tls::localhost;
use crate::support::{RawRequest, Setup, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_opened_and_closed_as_fast_as_can_be() {
    let mut scene = Scene::usual().await;
    let address = scene.address();
    let request = RawRequest::get("/nowhere").bytes("localhost");
    scene
        .unharmed("connections", 16 * MIB, async |_| {
            let request = request.clone();
            each(4, move |n| {
                let request = request.clone();
                async move {
                    loop {
                        // Some say something before they go.
                        let Ok(mut stream) = tokio::net::TcpStream::connect(address).await else { continue };
                        if n % 2 == 0 {
                            let _sent = stream.write_all(&request).await;
                        }
                        let _set = stream.set_zero_linger();
                    }
                }
            })
        })
        .await;
    scene.verdict();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_handshakes_that_do_not_come_to_an_end() {
    const HANDSHAKES: usize = 2000;
    let setup = Setup::new().await;
    let server = localhost();
    setup.file("server.pem", &server.certificate_pem);
    setup.file("server.key", &server.key_pem);
    let setup = setup.more(
        "[listener.secure]\naddress = \"127.0.0.1:0\"\n\
         tls = { certificate = { file = \"server.pem\" }, private_key = { file = \"server.key\" } }",
    );
    let mut scene = Scene::start(setup, "").await;
    let address = scene.world.address("secure");
    // The first bytes of a record of 16 KiB that is said to hold a ClientHello of 60 KiB.
    let hello = [&[22, 3, 1, 0x40, 0, 1, 0, 0xf0, 0, 3, 3][..], &[0; 8000]].concat();
    scene
        .unharmed("handshakes", 64 * MIB, async |world| {
            let hello = hello.clone();
            let handshakes = each(HANDSHAKES, move |n| {
                let hello = hello.clone();
                async move {
                    let mut stream = connect(address).await;
                    if n % 2 == 0 {
                        let _sent = stream.write_all(&hello).await;
                    }
                    std::future::pending::<()>().await;
                }
            });
            eventually("all handshakes to be begun", || async {
                let open = world.metric("bearerd_connections", &[("listener", "secure")]).await;
                open.is_some_and(|open| open >= 0.9 * HANDSHAKES as f64).then_some(())
            })
            .await;
            handshakes
        })
        .await;
    scene.verdict();
}
