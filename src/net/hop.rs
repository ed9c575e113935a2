//! The first hop toward a target, and whether it accepts connections.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::names::{Names, WITHOUT_TLS};
use super::race::{interleave, race};

/// How long to wait for a connection. A lost packet is sent again after a second, and further packets at growing intervals, so
/// a shorter time would miss the second packet, and a longer one the moment when the hop is back.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long to wait for a look-up, which continues in the background.
const FOR_A_NAME: Duration = Duration::from_secs(1);

/// The first hop of TCP: the target itself, or the egress proxy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Hop {
    host: String,
    port: u16,
    is_proxy: bool,
}

impl Hop {
    pub(crate) fn new(host: &str, port: u16, is_proxy: bool) -> Self {
        Self { host: host.to_ascii_lowercase(), port, is_proxy }
    }

    /// Whether the hop is a proxy, whose responses say nothing about the target.
    pub fn is_proxy(&self) -> bool {
        self.is_proxy
    }

    /// Opens a connection and closes it at once, without sending data. Returns whether that succeeded.
    pub async fn answers(&self) -> bool {
        let found = Names::of_the_system().addresses(&self.host, self.port, WITHOUT_TLS);
        let Ok(Ok(addresses)) = timeout(FOR_A_NAME, found).await else { return false };
        let addresses = interleave(addresses);
        let knock = |address| async move { TcpStream::connect(address).await.map(drop) };
        let mut failures = Vec::new();
        timeout(PATIENCE, race(addresses, knock, &mut failures)).await.is_ok_and(|first| first.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bare_connect_sends_nothing_and_ends_at_once() {
        use tokio::io::AsyncReadExt;
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let hop = Hop::new("LocalHost", port, false);
        assert!(hop.answers().await);
        let (mut stream, _) = server.accept().await.unwrap();
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
        drop(server);
        assert!(!hop.answers().await, "refused");
        assert!(!Hop::new("does-not-exist.invalid", port, false).answers().await, "no such name");
    }

    #[tokio::test]
    async fn a_silent_address_is_given_up() {
        // A full backlog makes the kernel drop further connection requests, as a dead machine would.
        let silent = tokio::net::TcpSocket::new_v4().unwrap();
        silent.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let silent = silent.listen(0).unwrap();
        let address = silent.local_addr().unwrap();
        let mut fillers = Vec::new();
        while let Ok(filler) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            fillers.push(filler.unwrap());
        }
        assert!(!Hop::new("127.0.0.1", address.port(), false).answers().await);
    }

    #[test]
    fn one_address_in_any_case_is_one_hop() {
        assert_eq!(Hop::new("IdP.example", 443, false), Hop::new("idp.EXAMPLE", 443, false));
        assert_ne!(Hop::new("idp.example", 443, false), Hop::new("idp.example", 8443, false));
    }
}
