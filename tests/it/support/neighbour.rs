//! Another caller, who has done nothing: how long its requests take while somebody else misbehaves.
//!
//! It sends requests, and its upstream responds, on threads of their own with blocking sockets: what the test's runtime is busy
//! with does not count.

use std::io::{ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::PATIENCE;

/// An upstream that responds `ok` to everything. It lives as long as the test program.
pub fn upstream() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || answer(stream));
        }
    });
    url
}

fn answer(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    loop {
        message(&mut stream)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")?;
    }
}

/// Reads a head and the body whose length it says.
fn message(stream: &mut TcpStream) -> Result<String> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            read => bytes.extend_from_slice(&chunk[..read]),
        }
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        if bytes.len() >= end + 4 + length.unwrap_or(0) {
            return Ok(head);
        }
    }
}

/// The caller's requests to one target, and how many of them make a measurement.
#[derive(Clone)]
pub struct Neighbour {
    pub address: SocketAddr,
    pub target: String,
    pub requests: usize,
}

impl Neighbour {
    /// How long the slowest of a hundred requests takes; all of them get 200.
    pub async fn p99(&self) -> Duration {
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.measure()).await.unwrap()
    }

    fn measure(&self) -> Duration {
        let mut kept = self.connect();
        let mut took: Vec<Duration> = (0..self.requests)
            .map(|n| {
                let started = Instant::now();
                // A new connection must be as quick as one that is there.
                if n % 10 == 9 {
                    self.ask(&mut self.connect())
                } else {
                    self.ask(&mut kept)
                }
                started.elapsed()
            })
            .collect();
        took.sort();
        took[self.requests * 99 / 100]
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn ask(&self, stream: &mut TcpStream) {
        let request = format!("GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", self.target);
        stream.write_all(request.as_bytes()).unwrap();
        let head = message(stream).unwrap_or_else(|error| panic!("the neighbour got no response: {error}"));
        assert!(head.starts_with("http/1.1 200"), "the neighbour got {head}");
    }
}
