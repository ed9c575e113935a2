//! Bodies that somebody does not read: what is sent and not read takes memory, and of an HTTP/2 connection a part of the
//! window that others need too.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixListener};
use tokio::task::JoinSet;

use super::{MIB, QUICK, Scene, TIMES, TRIES, at_rest, connect, connect_deaf, each};
use crate::support::frames::{INITIAL_WINDOW, PREFACE, SETTINGS, frame, request, setting, window_update};
use crate::support::h2::{Endless, H2Client, whole, without_end};
use crate::support::{RawRequest, Setup, eventually};

pub(super) const LARGEST_WINDOW: u32 = i32::MAX.cast_unsigned();

/// Asks for a body that has no end, and reads nothing.
async fn http1_download(address: SocketAddr) -> TcpStream {
    let mut stream = connect_deaf(address).await;
    stream.write_all(&RawRequest::get("/api/endless").bytes("localhost")).await.unwrap();
    stream
}

/// Asks for so many bodies that have no end over one connection with these windows, and reads nothing.
pub(super) async fn http2_downloads(address: SocketAddr, streams: u32, window: u32) -> TcpStream {
    let mut stream = connect_deaf(address).await;
    let mut bytes = [PREFACE, &setting(INITIAL_WINDOW, window)].concat();
    if window == LARGEST_WINDOW {
        bytes.extend(window_update(0, LARGEST_WINDOW - 65_535));
    }
    (0..streams).for_each(|n| bytes.extend(request(2 * n + 1, "GET", "/api/endless", true)));
    stream.write_all(&bytes).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn downloads_that_nobody_reads_share_a_connection_with_others() {
    let upstream = Endless::start();
    let route = format!("upstream = \"{}\"\nprotocol = \"http2\"", upstream.url);
    let mut scene = Scene::start(Setup::new().await, &route).await;
    scene.neighbour.target = "/api/ok".to_owned();
    let address = scene.address();
    let begun = async |before: usize, count: usize| {
        eventually("all downloads at the upstream", || async {
            (upstream.asked() >= before + count).then_some(())
        })
        .await;
    };
    for callers in [5, 40] {
        scene
            .unharmed(&format!("{callers} callers"), 24 * MIB, async |_| {
                let before = upstream.asked();
                let mut downloads = Vec::new();
                for _ in 0..callers {
                    downloads.push(http1_download(address).await);
                }
                begun(before, callers).await;
                downloads
            })
            .await;
    }
    for (streams, window) in [(5, 0), (5, LARGEST_WINDOW), (60, 65_535)] {
        scene
            .unharmed(&format!("{streams} streams, windows of {window}"), 24 * MIB, async |_| {
                let before = upstream.asked();
                let download = http2_downloads(address, streams, window).await;
                begun(before, usize::try_from(streams).unwrap()).await;
                download
            })
            .await;
    }
    scene.verdict();
}

/// An upstream that takes connections and reads nothing. On a Unix socket: the kernel takes less for it.
struct Stuck {
    url: String,
    _folder: TempDir,
    connections: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl Stuck {
    fn start(http2: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upstream.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let url = format!("unix:{}", path.display());
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut held = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                if http2 {
                    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
                }
                held.push(stream);
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { url, _folder: folder, connections, _serving: serving }
    }

    async fn scene(&self, http2: bool) -> Scene {
        let protocol = if http2 { "http2" } else { "http1" };
        Scene::start(Setup::new().await, &format!("upstream = \"{}\"\nprotocol = \"{protocol}\"", self.url))
            .await
    }
}

/// Uploads to the stuck upstream that go on as far as they are taken.
fn uploads(client: &H2Client, count: usize) -> JoinSet<()> {
    each(count, |_| {
        let mut client = client.clone();
        async move {
            let upload = client.request("POST", "/api").body(without_end()).unwrap();
            let _response = client.open_at_last(upload).await;
        }
    })
}

/// What 97 of 100 uploads of 64 KiB to the neighbour's route take.
async fn p97_of_uploads(client: &mut H2Client) -> Duration {
    let mut took = Vec::new();
    for _ in 0..100 {
        let upload = client.request("POST", "/other").body(whole(Bytes::from(vec![b'x'; 64 << 10]))).unwrap();
        let started = Instant::now();
        assert_eq!(client.exchange(upload).await.status, 200);
        took.push(started.elapsed());
    }
    took.sort();
    took[96]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_an_upstream_does_not_read() {
    for http2 in [false, true] {
        let upstream = Stuck::start(http2);
        let mut scene = upstream.scene(http2).await;
        let address = scene.address();
        // Others on connections of their own.
        scene
            .unharmed("uploads", 24 * MIB, async |_| {
                let uploads = each(5, move |_| async move {
                    let mut stream = connect(address).await;
                    let head = "POST /api HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n";
                    stream.write_all(head.as_bytes()).await.unwrap();
                    let _sent = stream.write_all(&vec![b'x'; 100_000_000]).await;
                });
                eventually("the uploads", || async {
                    (upstream.connections.load(Ordering::SeqCst) > 0).then_some(())
                })
                .await;
                uploads
            })
            .await;
        // The same caller on the same connection.
        let mut slow = Vec::new();
        for _ in 0..TRIES {
            let mut client = H2Client::plain(address).await;
            let alone = p97_of_uploads(&mut client).await;
            let before = upstream.connections.load(Ordering::SeqCst);
            let stuck = uploads(&client, 5);
            let more = if http2 { 0 } else { 5 };
            eventually("the uploads", || async {
                (upstream.connections.load(Ordering::SeqCst) >= before + more).then_some(())
            })
            .await;
            let beside = p97_of_uploads(&mut client).await;
            drop(stuck);
            if beside <= QUICK.max(alone * TIMES) {
                slow.clear();
                break;
            }
            slow.push((alone, beside));
        }
        assert!(slow.is_empty(), "the caller's other uploads: {slow:?}");
        scene.verdict();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connections_with_uploads_that_an_upstream_does_not_read() {
    for http2 in [false, true] {
        let upstream = Stuck::start(http2);
        let mut scene = upstream.scene(http2).await;
        let address = scene.address();
        scene
            .unharmed("uploads", 80 * MIB, async |world| {
                let mut stuck = Vec::new();
                for _ in 0..60 {
                    let client = H2Client::plain(address).await;
                    stuck.push((uploads(&client, 10), client));
                }
                at_rest(world).await;
                stuck
            })
            .await;
        scene.verdict();
    }
}
