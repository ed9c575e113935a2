//! HTTP/2 callers that flood, one frame after the other (CVE-2019-9512 to 9518, CVE-2023-44487, CVE-2024-27316).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{FLOODS, MIB, Scene, connect, connect_deaf, each};
use crate::support::eventually;
use crate::support::frames::{
    CONTINUATION, DATA, HEADERS, PING, PREFACE, PRIORITY, RST_STREAM, SETTINGS, frame, request, window_update,
};

/// What a kind of flood sends: once, and then again and again, with a number that counts up.
struct Flood {
    name: &'static str,
    first: Vec<u8>,
    again: fn(u32) -> Vec<u8>,
}

fn cancel(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// As many as make a segment or two.
fn many(bytes: &[u8]) -> Vec<u8> {
    bytes.repeat(2000 / bytes.len())
}

fn floods() -> Vec<Flood> {
    vec![
        Flood {
            name: "requests taken back at once",
            first: Vec::new(),
            again: |n| [request(2 * n + 1, "GET", "/api", true), cancel(2 * n + 1)].concat(),
        },
        Flood {
            name: "requests taken back once they are under way",
            first: Vec::new(),
            again: |n| if n % 2 == 0 { request(n + 1, "GET", "/api", true) } else { cancel(n) },
        },
        Flood {
            name: "requests that are answered here",
            first: Vec::new(),
            again: |n| request(2 * n + 1, "GET", "/nowhere", true),
        },
        Flood {
            name: "CONTINUATION without end",
            first: frame(HEADERS, 0, 1, &[]),
            again: |_| many(&frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b")),
        },
        Flood {
            name: "empty CONTINUATION",
            first: frame(HEADERS, 0, 1, &[]),
            again: |_| many(&frame(CONTINUATION, 0, 1, &[])),
        },
        Flood { name: "PING", first: Vec::new(), again: |_| many(&frame(PING, 0, 0, &[0; 8])) },
        Flood { name: "SETTINGS", first: Vec::new(), again: |_| many(&frame(SETTINGS, 0, 0, &[])) },
        Flood {
            name: "WINDOW_UPDATE",
            first: request(1, "POST", "/api", false),
            again: |_| many(&[window_update(0, 1), window_update(1, 1)].concat()),
        },
        Flood {
            name: "PRIORITY",
            first: Vec::new(),
            again: |n| many(&frame(PRIORITY, 0, 2 * n + 1, &[0, 0, 0, 0, 1])),
        },
        Flood {
            name: "frames of no known kind",
            first: Vec::new(),
            again: |_| many(&frame(0x42, 0, 0, &[])),
        },
        Flood {
            name: "empty DATA",
            first: request(1, "POST", "/api", false),
            again: |_| many(&frame(DATA, 0, 1, &[])),
        },
        Flood {
            name: "DATA of one byte",
            first: request(1, "POST", "/api", false),
            again: |_| many(&frame(DATA, 0, 1, b"x")),
        },
    ]
}

/// Sends until the proxy ends the connection. What comes back is read, or (`deaf`) is not.
async fn send(address: SocketAddr, flood: &Flood, deaf: bool, sent: &AtomicU64) {
    let stream = if deaf { connect_deaf(address).await } else { connect(address).await };
    let (mut read, mut write) = stream.into_split();
    let reading = tokio::spawn(async move {
        let mut scrap = vec![0; 64 * 1024];
        while !deaf && read.read(&mut scrap).await.is_ok_and(|read| read > 0) {}
        std::future::pending::<()>().await;
    });
    let opening = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &flood.first].concat();
    let mut going_on = write.write_all(&opening).await;
    let mut n = 0;
    while going_on.is_ok() {
        going_on = write.write_all(&(flood.again)(n)).await;
        sent.fetch_add(1, Ordering::Relaxed);
        n += 1;
    }
    reading.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames() {
    let mut scene = Scene::usual().await;
    let address = scene.address();
    for flood in floods().into_iter().map(Arc::new) {
        for deaf in [false, true] {
            let what = format!("{}{}", flood.name, if deaf { ", nothing read" } else { "" });
            scene
                .unharmed(&what, 16 * MIB, async |_| {
                    let (flood, sent) = (Arc::clone(&flood), Arc::new(AtomicU64::new(0)));
                    let counted = Arc::clone(&sent);
                    let floods = each(FLOODS, move |_| {
                        let (flood, sent) = (Arc::clone(&flood), Arc::clone(&sent));
                        async move {
                            loop {
                                send(address, &flood, deaf, &sent).await;
                            }
                        }
                    });
                    eventually("the flood", || async { (counted.load(Ordering::Relaxed) > 8).then_some(()) })
                        .await;
                    floods
                })
                .await;
        }
    }
    scene.verdict();
}
