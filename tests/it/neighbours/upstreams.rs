//! Upstreams that send what has no end, or nothing at all.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::windows::{LARGEST_WINDOW, http2_downloads};
use super::{FLOODS, MIB, Scene, at_rest, connect, connect_deaf, each};
use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, HEADERS, PING, PREFACE, PRIORITY, SETTINGS, block, frame, request,
    window_update,
};
use crate::support::{RawRequest, RawResponse, Scripted, Setup, World, eventually};

/// An upstream that sends `first` and then `again` without end, over HTTP/2 or HTTP/1.1.
struct Endless {
    name: &'static str,
    http2: bool,
    first: Vec<u8>,
    again: Vec<u8>,
}

fn http1(name: &'static str, first: &str, again: &str) -> Endless {
    Endless {
        name,
        http2: false,
        first: first.into(),
        again: again.repeat((4000 / again.len()).max(1)).into(),
    }
}

fn http2(name: &'static str, first: &[u8], again: &[u8]) -> Endless {
    let first = [&frame(SETTINGS, 0, 0, &[]), first].concat();
    Endless { name, http2: true, first, again: again.repeat(4000 / again.len()) }
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

fn a_body() -> Endless {
    http1("a body", CHUNKED, &format!("10000\r\n{}\r\n", "x".repeat(64 << 10)))
}

fn kinds() -> Vec<Endless> {
    // hyper takes a chunk size byte by byte, a debug build 2 µs for each.
    let ok = frame(HEADERS, END_HEADERS, 1, &block(&[(":status", "200")]));
    vec![
        http1("a head without end", "HTTP/1.1 200 OK\r\n", "x-a: b\r\n"),
        http1("a field without end", "HTTP/1.1 200 OK\r\nx-a: ", "b"),
        http1("interim responses", "", "HTTP/1.1 102 Processing\r\n\r\n"),
        http1("chunk extensions", &format!("{CHUNKED}5;"), "a=b;"),
        #[cfg(not(debug_assertions))]
        http1("a chunk size", CHUNKED, "0"),
        http1("chunks of one byte", CHUNKED, "1\r\nx\r\n"),
        http1("trailers", &format!("{CHUNKED}0\r\n"), "x-a: b\r\n"),
        a_body(),
        http2("PING", &[], &frame(PING, 0, 0, &[0; 8])),
        http2("SETTINGS", &[], &frame(SETTINGS, 0, 0, &[])),
        http2("WINDOW_UPDATE", &[], &[window_update(0, 1), window_update(1, 1)].concat()),
        http2("PRIORITY", &[], &frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        http2("frames of no known kind", &[], &frame(0x42, 0, 0, &[])),
        http2("CONTINUATION", &frame(HEADERS, 0, 1, &[]), &frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b")),
        http2(
            "interim responses over HTTP/2",
            &[],
            &frame(HEADERS, END_HEADERS, 1, &block(&[(":status", "103")])),
        ),
        http2("DATA of one byte", &ok, &frame(DATA, 0, 1, b"x")),
        http2("empty DATA", &ok, &frame(DATA, 0, 1, &[])),
    ]
}

async fn serve(kind: Endless) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (first, again) = (kind.first.clone(), kind.again.clone());
            connections.spawn(async move {
                let (mut read, mut write) = stream.into_split();
                // A request must arrive before its response.
                let mut scrap = vec![0; 64 * 1024];
                let mut seen = 0;
                while seen < if kind.http2 { PREFACE.len() + 60 } else { 1 } {
                    seen += read.read(&mut scrap).await.unwrap_or(usize::MAX / 2);
                    if kind.http2 && seen < PREFACE.len() + 60 {
                        let _sent = write.write_all(&frame(SETTINGS, 0, 0, &[])).await;
                    }
                }
                let reading =
                    tokio::spawn(
                        async move { while read.read(&mut scrap).await.is_ok_and(|read| read > 0) {} },
                    );
                let mut going_on = write.write_all(&first).await;
                while going_on.is_ok() {
                    going_on = write.write_all(&again).await;
                }
                reading.abort();
            });
        }
    });
    (url, serving)
}

/// Asks again and again, and reads, or (`deaf`) does not.
async fn ask(address: SocketAddr, deaf: bool) {
    let request = RawRequest::get("/api").bytes("localhost");
    loop {
        let mut stream = if deaf { connect_deaf(address).await } else { connect(address).await };
        stream.write_all(&request).await.unwrap();
        let mut scrap = vec![0; 64 * 1024];
        while stream.read(&mut scrap).await.is_ok_and(|read| read > 0) {
            if deaf {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responses_without_end() {
    let mut harm = Vec::new();
    for kind in kinds() {
        let (name, protocol) = (kind.name, if kind.http2 { "http2" } else { "http1" });
        let (url, _serving) = serve(kind).await;
        let route = format!("upstream = \"{url}\"\nprotocol = \"{protocol}\"");
        let mut scene = Scene::start(Setup::new().await, &route).await;
        let address = scene.address();
        for deaf in [false, true] {
            let what = format!("{name}{}", if deaf { ", nothing read" } else { "" });
            scene.unharmed(&what, 16 * MIB, async |_| each(2 * FLOODS, move |_| ask(address, deaf))).await;
        }
        harm.append(&mut scene.harm);
    }
    assert!(harm.is_empty(), "{}", harm.join("\n"));
}

/// 400 of them: over HTTP/1.1 from a connection each, and over HTTP/2 from eight.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_responses_that_nobody_reads() {
    let (url, _serving) = serve(a_body()).await;
    let mut scene = Scene::start(Setup::new().await, &format!("upstream = \"{url}\"")).await;
    let address = scene.address();
    let all_there = async |world: &World| {
        eventually("all responses", || async {
            let open = world.metric("bearerd_upstream_connections", &[("route", "api")]).await;
            open.is_some_and(|open| open >= 400.0).then_some(())
        })
        .await;
        at_rest(world).await;
    };
    scene
        .unharmed("HTTP/1.1", 64 * MIB, async |world| {
            let asking = each(400, move |_| ask(address, true));
            all_there(world).await;
            asking
        })
        .await;
    scene
        .unharmed("HTTP/2", 64 * MIB, async |world| {
            let mut asking = Vec::new();
            for _ in 0..8 {
                asking.push(http2_downloads(address, 50, LARGEST_WINDOW).await);
            }
            all_there(world).await;
            asking
        })
        .await;
    scene.verdict();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_that_never_responds() {
    let setup = Setup::new().await;
    setup.upstream.always_this(RawResponse::hang());
    let mut scene = Scene::start(setup, "").await;
    let address = scene.address();
    scene
        .unharmed("no response", 32 * MIB, async |world| {
            let before = world.upstream().count();
            let waiting = each(400, move |_| ask(address, false));
            eventually("all requests", || async { (world.upstream().count() >= before + 400).then_some(()) })
                .await;
            waiting
        })
        .await;
    scene.verdict();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_who_wait_for_a_token() {
    const WAITERS: u32 = 4000;
    const STREAMS: u32 = 100;
    let hanging = Scripted::issuer().await;
    hanging.always_this(RawResponse::hang());
    let issuer = format!(
        "[issuer.slow]\ntoken_url = \"{}/token\"\nclient_id = \"c\"\nclient_secret = {{ file = \"secret\" }}\n\
         timeout = \"60s\"\nrequired = false\n\
         [[route]]\nname = \"slow\"\npath_prefix = \"/slow\"\nupstream = \"{{upstream}}\"\nissuer = \"slow\"",
        hanging.url
    );
    let mut scene = Scene::start(Setup::new().await.more(&issuer), "").await;
    let address = scene.address();
    scene
        .unharmed("no token", 64 * MIB, async |world| {
            let mut waiting = Vec::new();
            for _ in 0..WAITERS / STREAMS {
                let mut stream = connect(address).await;
                let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
                (0..STREAMS).for_each(|n| bytes.extend(request(2 * n + 1, "GET", "/slow", true)));
                stream.write_all(&bytes).await.unwrap();
                waiting.push(stream);
            }
            eventually("all of them to wait", || async {
                let waiters = world.metric("bearerd_token_waiters", &[("issuer", "slow")]).await;
                waiters.is_some_and(|waiters| waiters >= f64::from(WAITERS)).then_some(())
            })
            .await;
            waiting
        })
        .await;
    scene.verdict();
}
