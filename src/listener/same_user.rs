//! Whether the program at the other end of a TCP connection on this machine belongs to the user that runs bearerd. Linux lists
//! the owner of each socket in `/proc/net/tcp`. On other systems, nobody does.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};

use rustix::process::geteuid;

use crate::aside::Aside;
use crate::proxy::Peer;

/// The kernel walks through all sockets of the machine for each reader.
static READING: Aside = Aside::new("sockets", 4);

/// Java and others also speak IPv4 through sockets of IPv6. The kernel writes such an address with this prefix.
const SOCKETS: [(&str, &str); 2] = [("/proc/net/tcp", ""), ("/proc/net/tcp6", "0000000000000000FFFF0000")];

/// Only for connections over IPv4. Every doubt means "no".
pub(super) async fn is_same_user(peer: Peer, local: Option<SocketAddr>) -> bool {
    let (Peer::Tcp(peer), Some(local)) = (peer, local) else { return false };
    READING.run(move || owner(peer, local) == Some(geteuid().as_raw())).await.unwrap_or(false)
}

/// The user of the socket from `peer` to `local`.
fn owner(peer: SocketAddr, local: SocketAddr) -> Option<u32> {
    let (from, to) = (written(peer)?, written(local)?);
    SOCKETS.into_iter().find_map(|(list, prefix)| {
        let (from, to) = (format!("{prefix}{from}"), format!("{prefix}{to}"));
        let lines = BufReader::new(File::open(list).ok()?).lines();
        lines.map_while(Result::ok).find_map(|line| owner_in(&line, &from, &to))
    })
}

/// Columns of proc(5): number, local address, remote address, state, queues, timer, retransmissions, user.
fn owner_in(line: &str, from: &str, to: &str) -> Option<u32> {
    let mut columns = line.split_ascii_whitespace().skip(1);
    if columns.next()? != from || columns.next()? != to {
        return None;
    }
    columns.nth(4)?.parse().ok()
}

/// An address as the kernel writes it: the bytes in the machine's order, as hex.
fn written(address: SocketAddr) -> Option<String> {
    let IpAddr::V4(ip) = address.ip().to_canonical() else { return None };
    Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use rustix::net::{AddressFamily, SocketAddrV6, SocketType, connect, socket};

    use super::*;

    #[tokio::test]
    async fn the_owner_of_the_other_end_is_found() {
        for family in [AddressFamily::INET, AddressFamily::INET6] {
            other_end(family).await;
        }
    }

    async fn other_end(family: AddressFamily) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = socket(family, SocketType::STREAM, None).unwrap();
        if family == AddressFamily::INET {
            connect(&client, &address).unwrap();
        } else {
            let mapped = std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped();
            connect(&client, &SocketAddrV6::new(mapped, address.port(), 0, 0)).unwrap();
        }
        let (accepted, peer) = listener.accept().unwrap();
        let local = accepted.local_addr().unwrap();
        assert!(is_same_user(Peer::Tcp(peer), Some(local)).await);
        let other = SocketAddr::new(peer.ip(), peer.port() ^ 1);
        assert!(!is_same_user(Peer::Tcp(other), Some(local)).await);
    }

    #[test]
    fn another_user_is_another_user() {
        let line =
            "  12: 0100007F:C350 0100007F:0C38 01 00000000:00000000 00:00000000 00000000  1001        0 99 1";
        let ends = ["127.0.0.1:50000", "127.0.0.1:3128"].map(|it| written(it.parse().unwrap()).unwrap());
        let expected = if cfg!(target_endian = "little") { Some(1001) } else { None };
        assert_eq!(owner_in(line, &ends[0], &ends[1]), expected);
        assert_eq!(owner_in(line, &ends[1], &ends[0]), None, "bearerd's own end");
    }
}
