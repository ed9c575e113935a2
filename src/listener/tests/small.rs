//! The small server, whose responses nobody reads.

use tokio::net::TcpSocket;
use tokio::time::timeout;

use super::*;
use crate::listener::{Answer, Answerer, Asker, SmallLimits, answer, serve_small};

const PLACES: usize = 3;

/// Much for `/large`, a word else.
struct Library;

impl Answerer for Library {
    async fn answer(self: Arc<Self>, _asker: Asker, request: Request<hyper::body::Incoming>) -> Answer {
        let length = if request.uri().path() == "/large" { 32 << 20 } else { 2 };
        answer(http::StatusCode::OK, "text/plain", vec![b'x'; length])
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
async fn responses_that_nobody_reads_keep_nobody_out() {
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
