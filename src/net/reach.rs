//! Addresses that only this machine or its network reaches. A tunnel for a caller must not lead there: the caller would get the
//! place of bearerd in that network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Names of this machine and of metadata services, whatever they resolve to.
pub(super) fn is_local_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let is = |name: &str| host.eq_ignore_ascii_case(name);
    let below = |suffix: &str| {
        let start = host.len().checked_sub(suffix.len());
        start.and_then(|start| host.get(start..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
    };
    is("localhost")
        || below(".localhost")
        || is("metadata.google.internal")
        || is("metadata")
        || host.parse().is_ok_and(is_of_this_network)
}

/// Metadata services at addresses that are not link-local: of Azure (`WireServer`), of Alibaba, and of AWS over IPv6.
const METADATA_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200)];
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

/// Whether the address is loopback, link-local, unspecified, multicast, broadcast, or a metadata service. Also if it is written
/// as an IPv6 address that leads to such an IPv4 address.
pub(super) fn is_of_this_network(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_local_v4(address),
        IpAddr::V6(address) => {
            address.is_loopback()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_unicast_link_local()
                || METADATA_V6.contains(&address)
                || embedded_v4(address).is_some_and(is_local_v4)
        }
    }
}

fn is_local_v4(address: Ipv4Addr) -> bool {
    // All of 0.0.0.0/8 means this machine (RFC 1122 section 3.2.1.3).
    address.octets()[0] == 0
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || METADATA_V4.contains(&address)
}

/// The IPv4 address to which NAT64 (RFC 6052 section 2.1), 6to4 (RFC 3056 section 2), or the old IPv4-compatible form leads.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0, 0, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_network() {
        for local in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "100.100.100.200",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "::127.0.0.1",
        ] {
            assert!(is_of_this_network(local.parse().unwrap()), "{local}");
        }
        for other in
            ["10.0.0.1", "192.168.1.1", "100.64.0.1", "1.1.1.1", "2001:db8::1", "fd12::1", "64:ff9b::a00:1"]
        {
            assert!(!is_of_this_network(other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn names_of_this_machine() {
        for local in [
            "localhost",
            "LOCALHOST.",
            "a.localhost",
            "metadata.google.internal",
            "127.0.0.1",
            "::1",
            "metadata",
        ] {
            assert!(is_local_name(local), "{local}");
        }
        for other in ["localhost.example.com", "xlocalhost", "api.example.com", "é.example"] {
            assert!(!is_local_name(other), "{other}");
        }
    }
}
