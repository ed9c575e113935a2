//! The innocent neighbour: while somebody misbehaves, another caller's requests stay quick and memory stays bounded.
//! `docs/reliability.md` states the bounds.

mod connections;
mod held;
mod http2;
mod requests;
mod upstreams;
mod windows;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinSet;

use crate::support::neighbour::{self, Neighbour};
use crate::support::{Setup, World, eventually, let_pass};

/// What 99 of 100 of a neighbour's requests stay below, on a machine that has nothing else to do. A debug build takes
/// twenty times as long for everybody's work, so it gets more time and less of that.
const QUICK: Duration = Duration::from_millis(if cfg!(debug_assertions) { 150 } else { 50 });
const FLOODS: usize = if cfg!(debug_assertions) { 1 } else { 4 };
/// On one that has, against the same requests just before.
const TIMES: u32 = 5;
/// A machine may have been busy with something else: harm shows each time.
const TRIES: usize = 3;
const REQUESTS: usize = 300;

const MIB: u64 = 1024;

/// They would be each other's misbehaviour.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// The proxy with a route `api` to be attacked, and the neighbour's own.
struct Scene {
    world: World,
    neighbour: Neighbour,
    harm: Vec<String>,
    _alone: MutexGuard<'static, ()>,
}

impl Scene {
    /// `route`: keys of the attacked route.
    async fn start(setup: Setup, route: &str) -> Self {
        let alone = ONE_AT_A_TIME.lock().await;
        let others = format!(
            "[[route]]\nname = \"other\"\npath_prefix = \"/other\"\nupstream = \"{}\"\nissuer = \"corp\"",
            neighbour::upstream()
        );
        let world = setup
            .log("level = \"info\"\naccess = false")
            .route(&format!("path_prefix = \"/api\"\n{route}"))
            .more(&others)
            .start()
            .await;
        world.ready().await;
        let target = "/other/ok".to_owned();
        let neighbour = Neighbour { address: world.address("main"), target, requests: REQUESTS };
        // What the first requests allocate is no harm.
        neighbour.p99().await;
        Self { world, neighbour, harm: Vec::new(), _alone: alone }
    }

    /// With the usual issuer and a scripted upstream.
    async fn usual() -> Self {
        Self::start(Setup::new().await, "").await
    }

    fn address(&self) -> SocketAddr {
        self.world.address("main")
    }

    /// While what `misbehave` began goes on, the neighbour is served as before, and the process takes no more than
    /// `memory` KiB. What it gives is kept meanwhile.
    async fn unharmed<G>(&mut self, what: &str, memory: u64, misbehave: impl AsyncFn(&World) -> G) {
        for tries in (0..TRIES).rev() {
            // What an earlier try left behind is no part of this one.
            let before = self.world.peak_memory();
            let alone = self.neighbour.p99().await;
            let going_on = misbehave(&self.world).await;
            let beside = self.neighbour.p99().await;
            drop(going_on);
            let more = self.world.peak_memory().saturating_sub(before);
            let found = format!("{what}: p99 {alone:?} alone, {beside:?} beside; {more} KiB more");
            let quick = beside <= QUICK.max(alone * TIMES);
            if !quick && tries == 0 || more > memory {
                self.harm.push(found);
            }
            if quick {
                return;
            }
        }
    }

    fn verdict(self) {
        assert!(self.harm.is_empty(), "{}", self.harm.join("\n"));
    }
}

/// Waits until the program has done what there was to do.
async fn at_rest(world: &World) {
    eventually("the program to come to rest", || async {
        let before = world.processor_time();
        let_pass(Duration::from_millis(300)).await;
        (world.processor_time() - before <= Duration::from_millis(30)).then_some(())
    })
    .await;
}

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

/// What the kernel takes for a socket that is not read: little, so that the program soon notices.
const UNREAD: u32 = 16 * 1024;

/// A connection on which nothing will be read.
async fn connect_deaf(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(UNREAD).unwrap();
    socket.connect(address).await.unwrap()
}

/// Runs `one` so many times at once, for as long as the result lives.
fn each<F>(count: usize, one: impl Fn(usize) -> F) -> JoinSet<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    (0..count).map(one).collect()
}
