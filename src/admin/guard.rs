//! Who may see `/status` and `/`: this machine, and no browser page of another site.

use std::net::{IpAddr, SocketAddr};

use http::header::HOST;
use http::{HeaderMap, Uri};

use crate::proxy::Peer;
use crate::proxy::admit;
use crate::proxy::admit::OwnOrigin;
use crate::route::host::Authority;

/// Why this request is not answered, as a phrase for `detail`; `None`: it is.
///
/// `own` is the address that the connection came to. The `Host` is looked at because a name that a page's owner
/// points at 127.0.0.1 makes that page same-origin with us (DNS rebinding).
pub(super) fn refusal(
    peer: Peer,
    own: Option<SocketAddr>,
    uri: &Uri,
    headers: &HeaderMap,
) -> Option<&'static str> {
    let Peer::Tcp(peer) = peer else {
        // A Unix socket's file mode decides, and no browser gets there.
        return None;
    };
    if !is_this_machine(peer.ip(), own) {
        return Some(
            "only callers on the same machine may ask for this; [admin] callers = \"network\" allows others",
        );
    }
    let mut hosts = headers.get_all(HOST).iter();
    let host = match (uri.authority(), hosts.next(), hosts.next()) {
        (_, _, Some(_)) => return Some("the request has more than one Host"),
        (Some(authority), _, None) => Some(authority.as_str()),
        (None, Some(host), None) => Some(host.to_str().unwrap_or_default()),
        (None, None, None) => None,
    };
    let authority = match host.map(Authority::parse) {
        Some(Some(authority)) if is_own_host(&authority, own) => Some(authority),
        Some(_) => {
            return Some("the Host is not localhost, a loopback address or this listener's own address");
        }
        None => None,
    };
    let here = OwnOrigin { tls: false, authority: authority.as_ref() };
    admit::foreign_page(headers, here, &[])
        .map(|_| "a page of another site asked for this; open the address itself")
}

fn is_this_machine(peer: IpAddr, own: Option<SocketAddr>) -> bool {
    let peer = peer.to_canonical();
    // A machine that talks to its own address uses that address; from elsewhere the kernel drops it as martian.
    peer.is_loopback() || own.is_some_and(|own| own.ip().to_canonical() == peer)
}

fn is_own_host(authority: &Authority<'_>, own: Option<SocketAddr>) -> bool {
    match authority.host.parse::<IpAddr>() {
        Ok(ip) => is_this_machine(ip, own),
        Err(_) => authority.host == "localhost",
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    const OWN: &str = "10.0.0.5:9180";

    fn refused(peer: &str, uri: &str, headers: &[(&'static str, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        let peer = Peer::Tcp(SocketAddr::new(peer.parse().unwrap(), 50_000));
        refusal(peer, Some(OWN.parse().unwrap()), &uri.parse().unwrap(), &map).is_some()
    }

    #[test]
    fn this_machine_is_let_in() {
        for (peer, host) in [
            ("127.0.0.1", "localhost:9180"),
            ("127.0.0.1", "LOCALHOST"),
            ("127.8.9.1", "127.0.0.1:9180"),
            ("::1", "[::1]:9180"),
            ("::ffff:127.0.0.1", "127.0.0.1"),
            ("10.0.0.5", "10.0.0.5:9180"),
        ] {
            assert!(!refused(peer, "/status", &[("host", host)]), "{peer} {host}");
        }
        assert!(!refused("127.0.0.1", "/", &[]), "HTTP/1.0 needs no Host");
        assert!(!refused("127.0.0.1", "http://localhost/status", &[("host", "localhost")]));
    }

    #[test]
    fn others_and_other_names_are_not() {
        assert!(refused("10.0.0.6", "/status", &[("host", "10.0.0.5:9180")]));
        for host in [
            "evil.example",
            "evil.example:9180",
            "localhost.evil.example",
            "10.0.0.6",
            "",
            "a b",
            "x@localhost",
            "localhost:99999",
            "localhost:x",
            "localhost, localhost",
            "[::1]evil",
            "[::1]:99999",
            "[::1",
            "127.0.0.1:9180:1",
        ] {
            assert!(refused("127.0.0.1", "/status", &[("host", host)]), "{host}");
        }
        assert!(refused("127.0.0.1", "/status", &[("host", "localhost"), ("host", "localhost")]));
        assert!(refused("127.0.0.1", "http://evil.example/status", &[("host", "localhost")]));
    }

    #[test]
    fn pages_of_other_sites_are_not() {
        let with =
            |name, value| refused("127.0.0.1", "/status", &[("host", "localhost:9180"), (name, value)]);
        assert!(!with("sec-fetch-site", "none"));
        assert!(!with("sec-fetch-site", "same-origin"));
        assert!(with("sec-fetch-site", "same-site"), "another port of this machine");
        assert!(with("sec-fetch-site", "cross-site"));
        assert!(!with("origin", "http://localhost:9180"));
        assert!(with("origin", "http://localhost:3000"));
        assert!(with("origin", "https://localhost:9180"));
        assert!(with("origin", "null"));
        assert!(!with("referer", "http://localhost:9180/"));
        assert!(with("referer", "http://evil.example/"));
        assert!(
            refused("127.0.0.1", "/status", &[("origin", "http://localhost:9180")]),
            "no Host to compare with"
        );
    }

    #[test]
    fn a_unix_socket_is_this_machine() {
        let headers = HeaderMap::from_iter([(HOST, "anything".parse().unwrap())]);
        assert_eq!(refusal(Peer::Unix { uid: 0 }, None, &Uri::from_static("/"), &headers), None);
    }
}
