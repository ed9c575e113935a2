//! Whole connections: what callers and upstreams write, in pieces, with stalls, half-closes and resets, through the
//! listener and the upstream of the real program, on one thread and with a clock that the script moves.
//!
//! The bytes are a script. Whatever it says: nothing panics or spins; each request at the upstream carries one credential,
//! ours, and nothing of its caller's; no caller gets the response to another request; and each connection ends by itself.
//!
//! Sockets are real (Unix), so the runtime is never let sleep while something is on its way: it would take that for
//! idleness, and let the clock run. [`World::settle`] polls until all has been said.

use std::cell::{Cell, OnceCell, RefCell};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, Once};
use std::time::Duration;

use bearerd::app::{self, Parts};
use bearerd::clock::ShiftedClock;
use bearerd::config::{self, Config};
use bearerd::listener::ConnectionLimit;
use bearerd::metrics::Metrics;
use bearerd::proxy::SnapshotCell;
use bearerd::token::TokenCache;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

#[path = "connection/http1.rs"]
mod http1;
#[path = "connection/http2.rs"]
mod http2;
#[path = "connection/peer.rs"]
mod peer;

use peer::{Peer, Script};

use super::served::Served;

/// Of each token that the issuer grants.
const TOKEN: &str = "fuzz-token-";
/// More than any limit of the config below, and more than all of them in a row.
const PATIENCE: Duration = Duration::from_secs(301);
const AT_LAST: Duration = Duration::from_secs(20 * 60);
/// Wake-ups in a second.
const WAKES: u64 = 10;

const CONFIG: &str = r#"
[listener.main]
address = "unix:{folder}/proxy.sock"
[issuer.corp]
token_url = "http://{issuer}/token"
client_id = "c"
client_secret = { file = "{folder}/secret" }
[[route]]
name = "http1"
path_prefix = "/1"
upstream = "unix:{folder}/http1.sock"
protocol = "http1"
issuer = "corp"
[[route]]
name = "http2"
path_prefix = "/2"
upstream = "unix:{folder}/http2.sock"
protocol = "http2"
issuer = "corp"
[[route]]
name = "checked"
path_prefix = "/3"
upstream = "unix:{folder}/checked.sock"
protocol = "http2"
issuer = "corp"
"#;

pub(crate) fn run(bytes: &[u8]) {
    thread_local! {
        static WORLD: OnceCell<(Runtime, World)> = const { OnceCell::new() };
        static PANICS: Cell<usize> = const { Cell::new(0) };
    }
    // The program survives them: so they must be counted.
    static COUNT: Once = Once::new();
    COUNT.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            hook(info);
        }));
    });
    let before = PANICS.get();
    WORLD.with(|world| {
        let (runtime, world) = world.get_or_init(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .expect("a runtime");
            let world = runtime.block_on(World::start());
            (runtime, world)
        });
        runtime.block_on(world.play(bytes));
    });
    assert_eq!(PANICS.get(), before, "a part of the program panicked");
}

/// What stays from one script to the next: the listener, the token, and the sockets.
struct World {
    folder: tempfile::TempDir,
    config: Arc<Config>,
    snapshot: Arc<SnapshotCell>,
    tokens: TokenCache,
    metrics: Arc<Metrics>,
    connections: Arc<ConnectionLimit>,
    clock: Arc<ShiftedClock>,
    /// Accepted by the upstreams, in the order of the routes.
    accepted: [RefCell<UnboundedReceiver<UnixStream>>; 3],
}

impl World {
    async fn start() -> Self {
        // libFuzzer's program does not ignore SIGPIPE, as Rust's do; once somebody listens, it ends nothing any more.
        let _ignored =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::pipe()).expect("a handler");
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let issuer = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = issuer.local_addr().expect("its address").to_string();
        tokio::spawn(grant(issuer));
        std::fs::write(path("secret"), "s").expect("a file");
        let text =
            CONFIG.replace("{issuer}", &address).replace("{folder}", &folder.path().display().to_string());
        std::fs::write(path("bearerd.toml"), text).expect("a file");
        let config = Arc::new(config::load(&path("bearerd.toml")).expect("the config is good"));
        let accepted = ["http1.sock", "http2.sock", "checked.sock"].map(|name| accept(path(name)).into());

        let clock = Arc::new(ShiftedClock::default());
        let Served { snapshot, tokens, metrics, connections } = Served::start(&config, clock.clone());
        let world = Self { folder, config, snapshot, tokens, metrics, connections, clock, accepted };
        world.token().await;
        world
    }

    /// Waits for a token that upstreams may refuse again.
    async fn token(&self) {
        self.clock.advance(Duration::from_secs(11));
        let snapshot = self.snapshot.load_full();
        let slot = snapshot.routes.first().and_then(|route| route.slot.clone()).expect("an issuer");
        while slot.current().is_none() {
            slot.prefetch();
            self.settle().await;
            tokio::time::advance(Duration::from_secs(1)).await;
            self.clock.advance(Duration::from_secs(1));
        }
    }

    async fn caller(&self) -> UnixStream {
        UnixStream::connect(self.folder.path().join("proxy.sock")).await.expect("the listener listens")
    }

    /// Lets everybody do what there is to do.
    async fn settle(&self) {
        for _ in 0..40 {
            tokio::task::yield_now().await;
        }
    }

    /// Time passes.
    async fn stall(&self, time: Duration) {
        self.settle().await;
        tokio::time::sleep(time).await;
        self.settle().await;
    }

    async fn play(&self, bytes: &[u8]) {
        // Connections of the script before are nobody's.
        let parts = Parts { tokens: &self.tokens, metrics: &self.metrics, changed: &Default::default() };
        self.snapshot.store(Arc::new(app::build(&self.config, None, &parts)));
        self.token().await;
        for accepted in &self.accepted {
            while accepted.borrow_mut().try_recv().is_ok() {}
        }
        let mut stage = Stage::new(self, bytes);
        while stage.step().await {}
        stage.end().await;
    }
}

/// The issuer.
async fn grant(listener: TcpListener) {
    let mut number = 0;
    while let Ok((mut stream, _)) = listener.accept().await {
        number += 1;
        let body = format!(
            "{{\"access_token\":\"{TOKEN}{number}\",\"token_type\":\"Bearer\",\"expires_in\":86400}}"
        );
        let length = body.len();
        tokio::spawn(async move {
            let mut request = vec![0; 4096];
            let mut read = 0;
            while !request[..read].ends_with(b"client_credentials") {
                match stream.read(&mut request[read..]).await {
                    Ok(more @ 1..) => read += more,
                    Ok(0) | Err(_) => break,
                }
            }
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n");
            let _sent = stream.write_all(format!("{head}connection: close\r\n\r\n{body}").as_bytes()).await;
        });
    }
}

fn accept(path: PathBuf) -> UnboundedReceiver<UnixStream> {
    let (sender, receiver) = unbounded_channel();
    let listener = UnixListener::bind(path).expect("a socket");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if sender.send(stream).is_err() {
                return;
            }
        }
    });
    receiver
}

/// What no script can say by itself.
struct Secrets {
    /// In the targets of requests, and in their responses.
    mark: String,
    /// The callers' own credential.
    stolen: String,
}

impl Secrets {
    fn of(bytes: &[u8]) -> Self {
        let hash = |seed: u8| {
            let mut hasher = DefaultHasher::new();
            (seed, bytes).hash(&mut hasher);
            format!("{:016x}", hasher.finish())
        };
        Self { mark: hash(1), stolen: hash(2) }
    }
}

/// One script's callers and upstreams.
struct Stage<'a> {
    world: &'a World,
    script: Script<'a>,
    secrets: Secrets,
    http2: bool,
    route: usize,
    callers: Vec<Peer>,
    upstreams: Vec<Peer>,
    /// The number of the caller's last request.
    requests: u32,
    /// HTTP/2 frames may have come apart: what they say is not followed any more.
    torn: bool,
    /// A caller has said something that may not have arrived.
    unheard: bool,
}

impl<'a> Stage<'a> {
    fn new(world: &'a World, bytes: &'a [u8]) -> Self {
        let mut script = Script::new(bytes);
        let kind = script.byte();
        let http2 = kind & 1 == 1;
        let route = usize::from(kind >> 1) % 3;
        let (callers, upstreams) = (Vec::new(), Vec::new());
        let secrets = Secrets::of(bytes);
        let (torn, unheard) = (false, false);
        Self { world, script, secrets, http2, route, callers, upstreams, requests: 0, torn, unheard }
    }

    async fn step(&mut self) -> bool {
        let Some(operation) = self.script.next() else { return false };
        let which = self.script.byte();
        match operation % 20 {
            0..8 => self.caller_does(operation % 8, which).await,
            8..18 => self.upstream_does(operation % 20 - 8, which),
            18 => self.world.settle().await,
            _ => {
                let seconds = [0.001, 0.1, 0.6, 1.0, 3.0, 6.0, 11.0, 31.0, 61.0, 76.0, 301.0];
                let time = seconds[usize::from(which) % seconds.len()];
                self.world.stall(Duration::from_secs_f64(time)).await;
            }
        }
        // Half of the pieces go out at once, the others together with the next.
        if which & 0x80 == 0 {
            self.look().await;
        }
        true
    }

    /// Everybody says what is to be said, and reads what there is.
    async fn look(&mut self) {
        self.callers.iter_mut().for_each(Peer::exchange);
        self.unheard = false;
        self.world.settle().await;
        while let Ok(stream) = self.world.accepted[self.route].borrow_mut().try_recv() {
            if self.route == 2 {
                // The checked upstream is a real server.
                http2::serve(stream, &self.secrets, self.script.rest());
            } else {
                self.upstreams.push(Peer::new(stream));
            }
        }
        self.upstreams.iter_mut().for_each(Peer::exchange);
        self.world.settle().await;
        self.callers.iter_mut().chain(&mut self.upstreams).for_each(Peer::exchange);
    }

    async fn caller_does(&mut self, operation: u8, which: u8) {
        let which = usize::from(which & 1);
        while self.callers.len() <= which {
            let mut peer = Peer::new(self.world.caller().await);
            if self.http2 {
                peer.send(http2::PREFACE);
            }
            self.callers.push(peer);
        }
        self.requests += 1;
        let number = self.requests;
        let target = format!("/{}/{which}-{number}-{}", self.route + 1, self.secrets.mark);
        let stolen = &self.secrets.stolen;
        self.unheard = true;
        let Some(caller) = self.callers.get_mut(which) else { return };
        match operation {
            0 | 1 if self.http2 => caller.send(&http2::any_frame(&mut self.script)),
            0 | 1 => caller.send(self.script.piece()),
            2 if self.http2 => caller.send(&http2::request(&mut self.script, &target, stolen)),
            2 => caller.send(&http1::request(&mut self.script, &target, stolen)),
            3 => {
                self.torn = true;
                caller.send(self.script.piece());
            }
            4 => caller.finish(),
            5 => caller.close(),
            6 => caller.deaf = !caller.deaf,
            _ => caller.send(&vec![b'x'; usize::from(self.script.byte()) * 256]),
        }
        self.torn |= operation == 7;
    }

    fn upstream_does(&mut self, operation: u8, which: u8) {
        let count = self.upstreams.len().max(1);
        let Some(upstream) = self.upstreams.get_mut(usize::from(which) % count) else { return };
        match operation {
            0 | 1 if self.route == 1 => upstream.send(&http2::any_frame(&mut self.script)),
            0 | 1 => upstream.send_raw(self.script.piece()),
            2..5 if self.route == 1 => upstream.send(&http2::response(&mut self.script)),
            2..5 => http1::answer(upstream, &mut self.script, &self.secrets.mark, self.unheard),
            5 => upstream.send_raw(&vec![b'x'; usize::from(self.script.byte()) * 256]),
            6 => upstream.finish(),
            7 => upstream.close(),
            8 => upstream.deaf = !upstream.deaf,
            _ => upstream.send_raw(self.script.piece()),
        }
    }

    /// Nobody says anything any more: everything ends.
    async fn end(mut self) {
        self.look().await;
        let metrics = tokio::runtime::Handle::current().metrics();
        let before = metrics.worker_park_count(0);
        // Requests that came together may each run into a limit, one after the other.
        let most = AT_LAST + self.requests * PATIENCE;
        let mut waited = Duration::ZERO;
        while waited < AT_LAST || waited < most && self.world.connections.open() > 0 {
            self.world.stall(PATIENCE).await;
            self.look().await;
            waited += PATIENCE;
        }
        let wakes = metrics.worker_park_count(0) - before;
        assert!(wakes < waited.as_secs() * WAKES, "{wakes} wake-ups while nothing happened");
        assert_eq!(self.world.connections.open(), 0, "a connection does not end");
        for (which, caller) in self.callers.iter().enumerate() {
            if !self.http2 {
                http1::check_responses(&caller.received, which, &self.secrets.mark);
            } else if !self.torn {
                http2::check_responses(&caller.received, which, &self.secrets.mark);
            }
        }
        for upstream in &self.upstreams {
            assert!(upstream.deaf || upstream.is_over(), "a connection to an upstream does not end");
            if self.route == 0 {
                http1::check_requests(&upstream.received, &self.secrets.stolen);
            }
        }
        drop(self.callers);
        drop(self.upstreams);
        self.world.settle().await;
    }
}
