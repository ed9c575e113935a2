//! Responses that an HTTP/2 caller does not take: they end with their connection, and do not hold up the program's end.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::connect;
use crate::support::frames::{INITIAL_WINDOW, PREFACE, request, setting, window_update};
use crate::support::{RawResponse, Setup, World, eventually, let_pass};

/// Above the 10 s for which a response of ours waits, on a machine that is busy.
const AT_LAST: Duration = Duration::from_secs(30);

/// What a caller does that takes nothing, or next to nothing.
#[derive(Debug, Clone, Copy)]
enum Tease {
    Nothing,
    /// Opens the window by a byte, again and again.
    Trickle,
    /// Opens each new stream's window and shuts it.
    Flip,
    /// Asks for more all the time.
    Ask,
}

/// A connection with no window that has asked for the targets, one after the other.
async fn holding(world: &World, targets: &[&str]) -> TcpStream {
    let mut stream = connect(world.address("main")).await;
    let mut bytes = [PREFACE, &setting(INITIAL_WINDOW, 0)].concat();
    for (n, target) in (0..).zip(targets) {
        bytes.extend(request(2 * n + 1, "GET", target, true));
    }
    stream.write_all(&bytes).await.unwrap();
    stream
}

/// How long it takes until the proxy ends the connection.
async fn ends(stream: TcpStream, tease: Tease) -> Duration {
    let started = Instant::now();
    let (mut read, mut write) = stream.into_split();
    let end = async {
        let mut scrap = [0; 4096];
        while read.read(&mut scrap).await.is_ok_and(|read| read > 0) {}
    };
    let teasing = async {
        for n in 0_u32.. {
            let_pass(Duration::from_millis(100)).await;
            let frames = match tease {
                Tease::Nothing => Vec::new(),
                Tease::Trickle => window_update(1, 1),
                Tease::Flip => [setting(INITIAL_WINDOW, 1), setting(INITIAL_WINDOW, 0)].concat(),
                Tease::Ask => request(1001 + 2 * n, "GET", "/nowhere", true),
            };
            let _sent = write.write_all(&frames).await;
        }
    };
    tokio::select! {
        ended = tokio::time::timeout(AT_LAST, end) => ended.expect("the proxy holds the connection"),
        () = teasing => {}
    }
    started.elapsed()
}

#[tokio::test]
async fn responses_of_ours_that_a_caller_does_not_take() {
    let world = Setup::new().await.route("path_prefix = \"/api\"").start().await;
    world.ready().await;
    let ours = async {
        let took = ends(holding(&world, &["/nowhere"]).await, Tease::Nothing).await;
        assert!(took > Duration::from_secs(8), "{took:?}");
    };
    // What the route allows its own responses is not for ours.
    let after_another = async { ends(holding(&world, &["/api", "/nowhere"]).await, Tease::Nothing).await };
    let asking = async { ends(holding(&world, &["/nowhere"]).await, Tease::Ask).await };
    tokio::join!(ours, after_another, asking);
}

#[tokio::test]
async fn responses_that_a_caller_takes_byte_by_byte() {
    let setup = Setup::new().await.limits("keep_alive = \"2s\"");
    setup.upstream.always_this(RawResponse::ok(vec![b'x'; 1 << 20]));
    let world = setup.route("path_prefix = \"/api\"\nidle_timeout = \"2s\"").start().await;
    world.ready().await;
    let each = async |target: &str| {
        for tease in [Tease::Nothing, Tease::Trickle, Tease::Flip] {
            ends(holding(&world, &[target]).await, tease).await;
        }
    };
    tokio::join!(each("/api"), each("/nowhere"));
    eventually("the upstream's connections to end", || async {
        (world.upstream().closed() == world.upstream().opened()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn responses_that_nobody_takes_do_not_stretch_the_end() {
    let setup = Setup::new().await.top("shutdown_timeout = \"5m\"");
    setup.upstream.always_this(RawResponse::ok(vec![b'x'; 100]));
    let mut world = setup.route("path_prefix = \"/api\"").start().await;
    world.ready().await;
    let untouched = holding(&world, &["/nowhere"]).await;
    // All of it is handed over, and does not get out.
    let mut touched = holding(&world, &["/nowhere", "/api"]).await;
    touched.write_all(&[window_update(1, 1), window_update(3, 1)].concat()).await.unwrap();
    eventually("all requests", || async {
        (world.metric("bearerd_requests_total", &[]).await == Some(2.0)).then_some(())
    })
    .await;
    world.signal(rustix::process::Signal::TERM);
    let status = tokio::time::timeout(AT_LAST, world.proxy.exit()).await.expect("the end is held up");
    assert_eq!(status.code(), Some(0));
    drop((untouched, touched));
}
