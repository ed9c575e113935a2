use std::future::pending;
use std::net::Ipv4Addr;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use super::*;
use crate::config::{Address, UnixOptions};
use crate::metrics::Metrics;

#[tokio::test(start_paused = true)]
async fn a_caller_that_takes_nothing_is_dropped_and_one_that_takes_little_is_not() {
    let (io, mut caller) = tokio::io::duplex(16);
    let mut outward = CallerWriter::new(io, Progress::default());
    let began = Instant::now();
    let slow = tokio::spawn(async move {
        for _ in 0..5 {
            sleep(Duration::from_secs(9)).await;
            caller.read_exact(&mut [0; 16]).await.unwrap();
        }
        sleep(Duration::from_secs(1000)).await;
    });
    let error = outward.write_all(&[b'x'; 1000]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(began.elapsed().as_secs(), 5 * 9 + OWN_STALL_MS / 1000);
    slow.abort();
}

fn peer(last: u8) -> Peer {
    Peer::Tcp(SocketAddr::from((Ipv4Addr::new(192, 0, 2, last), 1)))
}

/// A full room of these connections, each a millisecond younger than the previous one.
async fn full_room(open: &[(u8, RequestStage)]) -> Connections {
    let mut room = Connections::new(open.len());
    for (last, stage) in open {
        let progress = Progress::default();
        progress.reach(*stage);
        room.admit(peer(*last), progress, pending());
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    assert!(room.is_full());
    room
}

/// Waits until one was ended for another.
async fn one_is_ended(room: &mut Connections) {
    while !room.make_room().await {}
}

fn left(room: &Connections) -> Vec<(Peer, RequestStage)> {
    let mut open: Vec<_> = room.open.iter().collect();
    open.sort_by_key(|open| open.since);
    open.iter().map(|open| (open.peer, open.progress.stage())).collect()
}

#[tokio::test(start_paused = true)]
async fn the_request_with_the_least_progress_goes_first() {
    let mut room = full_room(&[
        (1, RequestStage::Response),
        (1, RequestStage::Body),
        (1, RequestStage::Head),
        (1, RequestStage::EarlyResponse),
    ])
    .await;
    let began = Instant::now();
    one_is_ended(&mut room).await;
    assert_eq!(
        left(&room).iter().map(|(_, stage)| *stage).collect::<Vec<_>>(),
        [RequestStage::Response, RequestStage::Body, RequestStage::EarlyResponse]
    );
    assert!(began.elapsed() >= Duration::from_millis(90), "it had its time");
    one_is_ended(&mut room).await;
    assert!(began.elapsed() >= Duration::from_secs(1), "and so had the next one");
    assert_eq!(left(&room).len(), 2);
    let never = timeout(Duration::from_secs(3600), one_is_ended(&mut room)).await;
    assert!(never.is_err(), "a request that waits for its response stays");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_does_not_read_goes_after_those_that_send_nothing() {
    let mut room =
        full_room(&[(1, RequestStage::Response), (1, RequestStage::Response), (1, RequestStage::Head)]).await;
    room.open[1].progress.waits_for_reader(true);
    one_is_ended(&mut room).await;
    assert_eq!(left(&room), [(peer(1), RequestStage::Response), (peer(1), RequestStage::Response)]);
    let began = Instant::now();
    one_is_ended(&mut room).await;
    assert!(began.elapsed() >= Duration::from_millis(800), "it had its time");
    assert!(room.open[0].progress.may_end().is_none(), "the other one has");
    // It begins to read, and stops again.
    room.open[0].progress.waits_for_reader(true);
    room.open[0].progress.waits_for_reader(false);
    let never = timeout(Duration::from_secs(3600), one_is_ended(&mut room)).await;
    assert!(never.is_err());
    room.open[0].progress.waits_for_reader(true);
    one_is_ended(&mut room).await;
    assert!(left(&room).is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_oldest_connection_of_the_peer_with_most_goes() {
    let mut room = full_room(&[
        (1, RequestStage::Head),
        (2, RequestStage::Head),
        (3, RequestStage::Head),
        (2, RequestStage::Head),
    ])
    .await;
    one_is_ended(&mut room).await;
    assert_eq!(
        left(&room),
        [(peer(1), RequestStage::Head), (peer(3), RequestStage::Head), (peer(2), RequestStage::Head)]
    );
    one_is_ended(&mut room).await;
    assert_eq!(left(&room), [(peer(3), RequestStage::Head), (peer(2), RequestStage::Head)]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_makes_room_and_one_with_progress_stays() {
    let mut room = Connections::new(2);
    let progress = Progress::default();
    room.admit(peer(1), progress.clone(), pending());
    room.admit(peer(1), Progress::default(), sleep(Duration::from_millis(50)));
    assert!(!room.make_room().await, "it ended by itself");
    assert!(!room.is_full());
    room.admit(peer(1), Progress::default(), pending());
    tokio::time::advance(Duration::from_millis(60)).await;
    progress.reach(RequestStage::Response);
    let made = timeout(Duration::from_millis(30), one_is_ended(&mut room)).await;
    assert!(made.is_err(), "the other one is young");
    one_is_ended(&mut room).await;
    assert_eq!(left(&room), [(peer(1), RequestStage::Response)]);
}

// Real sockets, with callers that do not read

const PLACES: usize = 3;

/// Responds with much for `/large`, and with a word otherwise.
struct Library;

impl SmallHandler for Library {
    async fn serve(self: Arc<Self>, _caller: SmallCaller, request: Request<Incoming>) -> SmallResponse {
        let length = if request.uri().path() == "/large" { 32 << 20 } else { 2 };
        small_response(StatusCode::OK, "text/plain", vec![b'x'; length])
    }
}

fn start() -> (SocketAddr, Stop) {
    let address = Address::Tcp("127.0.0.1:0".parse().unwrap());
    let bound = Bound::bind(&Arc::from("small"), &address, &UnixOptions::OWNER_ALONE).unwrap();
    let (local, stop) = (bound.local_addr().unwrap(), Stop::default());
    let limits = SmallLimits {
        connections: PLACES,
        header_timeout: Duration::from_secs(600),
        age: Duration::from_secs(600),
    };
    let metrics = Metrics::new(1).listener(&Arc::from("small"));
    tokio::spawn(serve_small(bound, Arc::new(Library), limits, metrics, stop.clone()));
    (local, stop)
}

async fn ask(address: SocketAddr, path: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn responses_that_nobody_reads_do_not_block_others() {
    let (address, _stop) = start();
    let mut held = Vec::new();
    for _ in 0..2 * PLACES {
        held.push(ask(address, "/large").await);
    }
    let mut asked = ask(address, "/").await;
    let mut response = String::new();
    let read = asked.read_to_string(&mut response);
    timeout(Duration::from_secs(30), read).await.expect("in time").unwrap();
    assert!(response.ends_with("xx"), "{response}");
}
