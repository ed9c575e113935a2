//! A server whose every byte the test sends itself: for streaming, half-sent bodies and upgrades.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::{Client, RawRequest, Wire, World, to, within};

pub struct Manual {
    listener: TcpListener,
    pub address: SocketAddr,
    pub url: String,
}

impl Manual {
    pub async fn start() -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    pub async fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address, url: format!("http://{address}") }
    }

    pub async fn accept(&self) -> Wire {
        let (stream, _) = within("a connection to the test's server", self.listener.accept()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Wire::new(stream)
    }

    /// True where a connection is already waiting.
    pub async fn has_connection(&self) -> bool {
        let soon = std::time::Duration::from_millis(300);
        tokio::time::timeout(soon, self.listener.accept()).await.is_ok()
    }
}

/// A scene whose upstream the test plays, with a request on its way.
pub async fn manual(route: &str, call: &RawRequest) -> (World, Client, Wire) {
    let upstream = Manual::start().await;
    let world = to(&upstream.url, route).await;
    let mut client = world.connect().await;
    client.send(call).await;
    let mut wire = upstream.accept().await;
    within("the request at the upstream", wire.head()).await.unwrap().unwrap();
    (world, client, wire)
}
