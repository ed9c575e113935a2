//! An egress proxy that knows CONNECT alone.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use super::message::Head;
use super::wire::Wire;

pub struct Egress {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Head>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Egress {
    /// Every tunnel ends at `to`, whatever name was asked for.
    pub async fn to(to: SocketAddr) -> Self {
        Self::responding(to, "HTTP/1.1 200 Connected\r\n\r\n").await
    }

    /// As [`Self::to`], with these bytes for a response.
    pub async fn responding(to: SocketAddr, response: &str) -> Self {
        Self::start(Some(to), response.to_owned()).await
    }

    /// Refuses every tunnel with this status line.
    pub async fn refusing(status: &str) -> Self {
        Self::start(None, format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")).await
    }

    /// As [`Self::to`], at an address where nobody listens yet.
    pub async fn at(address: SocketAddr, to: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        Self::on(listener, Some(to), "HTTP/1.1 200 Connected\r\n\r\n".to_owned())
    }

    async fn start(to: Option<SocketAddr>, response: String) -> Self {
        Self::on(tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(), to, response)
    }

    fn on(listener: tokio::net::TcpListener, to: Option<SocketAddr>, response: String) -> Self {
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Head>>> = Arc::default();
        let record = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (record, response) = (Arc::clone(&record), response.clone());
                tokio::spawn(async move { _ = tunnel(Wire::new(stream), to, response, record).await });
            }
        });
        Self { address, seen, task }
    }

    /// The heads of all CONNECT requests.
    pub fn seen(&self) -> Vec<Head> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Egress {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn tunnel(
    mut wire: Wire,
    to: Option<SocketAddr>,
    response: String,
    record: Arc<Mutex<Vec<Head>>>,
) -> std::io::Result<()> {
    let Some(head) = wire.head().await? else { return Ok(()) };
    record.lock().unwrap().push(head);
    let Some(to) = to else { return wire.send(response).await };
    let mut target = tokio::net::TcpStream::connect(to).await?;
    wire.send(response).await?;
    tokio::io::copy_bidirectional(&mut wire.into_stream(), &mut target).await?;
    Ok(())
}
