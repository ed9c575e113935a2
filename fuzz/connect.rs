//! A forward listener: heads of CONNECT, and what a program sends inside instead of, or as, a TLS handshake.
//!
//! The first byte says whether a right CONNECT goes before. The rest are pieces: a length, and so many bytes. Whatever they say,
//! nothing panics, each connection ends by itself, and nothing reaches the upstream without a handshake: no script holds a
//! key exchange that fits the server's random numbers.

use std::cell::{OnceCell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bearerd::config;
use bearerd::listener::ConnectionLimit;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;

use super::served::Served;

const CONFIG: &str = r#"
[limits]
header_timeout = "100ms"
keep_alive = "100ms"
[listener.main]
address = "unix:{folder}/proxy.sock"
serve = "forward"
[[route]]
name = "api"
host = "api.example.com"
methods = ["POST"]
upstream = "unix:{folder}/upstream.sock"
anonymous = true
"#;

const CONNECT: &[u8] = b"CONNECT api.example.com:443 HTTP/1.1\r\nhost: api.example.com:443\r\n\r\n";
/// Longer than all limits of the config, and than lingering on what is still sent.
const PATIENCE: Duration = Duration::from_secs(60);

struct World {
    folder: tempfile::TempDir,
    connections: Arc<ConnectionLimit>,
    reached: Arc<AtomicUsize>,
}

pub(crate) fn run(bytes: &[u8]) {
    thread_local! {
        static WORLD: OnceCell<(Runtime, World)> = const { OnceCell::new() };
        static PANICS: RefCell<usize> = const { RefCell::new(0) };
    }
    static COUNT: std::sync::Once = std::sync::Once::new();
    COUNT.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.with_borrow_mut(|panics| *panics += 1);
            hook(info);
        }));
    });
    let before = PANICS.with_borrow(|panics| *panics);
    WORLD.with(|world| {
        let (runtime, world) = world.get_or_init(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let world = runtime.block_on(World::start());
            (runtime, world)
        });
        let played = runtime.block_on(async { tokio::time::timeout(PATIENCE, world.play(bytes)).await });
        played.expect("a connection does not end");
    });
    assert_eq!(PANICS.with_borrow(|panics| *panics), before, "a part of the program panicked");
}

impl World {
    async fn start() -> Self {
        let _ignored =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::pipe()).expect("a handler");
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let text = CONFIG.replace("{folder}", &folder.path().display().to_string());
        std::fs::write(path("bearerd.toml"), text).expect("a file");
        let config = Arc::new(config::load(&path("bearerd.toml")).expect("the config is good"));
        let reached = Arc::new(AtomicUsize::new(0));
        let upstream = UnixListener::bind(path("upstream.sock")).expect("a socket");
        let counter = Arc::clone(&reached);
        tokio::spawn(async move {
            while upstream.accept().await.is_ok() {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        let connections = Served::start(&config, Arc::default()).connections;
        Self { folder, connections, reached }
    }

    async fn play(&self, bytes: &[u8]) {
        let (first, mut rest) = bytes.split_first().map_or((0, bytes), |(first, rest)| (*first, rest));
        let reached = self.reached.load(Ordering::Relaxed);
        let socket = self.folder.path().join("proxy.sock");
        let mut stream = UnixStream::connect(socket).await.expect("the listener listens");
        let connects = first & 1 == 1;
        if connects {
            stream.write_all(CONNECT).await.expect("a connection takes a head");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("a response"));
            }
            assert!(head.starts_with(b"HTTP/1.1 200 OK\r\n"), "a right CONNECT is not opened");
        }
        while let Some((length, more)) = rest.split_first() {
            let (piece, after) = more.split_at(usize::from(*length).min(more.len()));
            rest = after;
            // The other side may have closed.
            if stream.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let _ = stream.shutdown().await;
        let mut received = Vec::new();
        let _ = stream.read_to_end(&mut received).await;
        drop(stream);
        while self.connections.open() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if connects {
            assert_eq!(self.reached.load(Ordering::Relaxed), reached, "something reached the upstream");
            let fine = received.is_empty()
                || received.starts_with(b"HTTP/1.1 400")
                || matches!(received[0], 21 | 22);
            assert!(fine, "neither TLS nor a refusal: {received:?}");
        }
    }
}
