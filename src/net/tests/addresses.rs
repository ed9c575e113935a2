//! A name with several addresses: each of them is tried, through TLS and the tunnel too.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::time::Instant;

use super::*;
use crate::aside::Aside;
use crate::net::names::{Names, NotFound};
use crate::net::{places, turns};

const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
const SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// Every name has these addresses, in this order.
fn names(addresses: &[IpAddr]) -> &'static Names {
    let addresses: Vec<_> = addresses.iter().map(|address| SocketAddr::new(*address, 0)).collect();
    let threads = Box::leak(Box::new(Aside::new("test", 1)));
    Box::leak(Box::new(Names::new(Arc::new(move |_: &str| Ok::<_, NotFound>(addresses.clone())), threads)))
}

/// Listeners on one port of both addresses.
async fn both() -> (TcpListener, TcpListener, u16) {
    loop {
        let first = TcpListener::bind((FIRST, 0)).await.unwrap();
        let port = first.local_addr().unwrap().port();
        // Another test may have that port of the other address.
        if let Ok(second) = TcpListener::bind((SECOND, port)).await {
            return (first, second, port);
        }
    }
}

fn to(port: u16, ca: &Ca, limit: Duration) -> Connector {
    let target = Target::Tcp { host: "idp.example".to_owned(), port, tls: true };
    Connector::new(target, trusting(ca), Egress::Direct, Offer::Both, Some(limit))
        .with_names(names(&[FIRST, SECOND]))
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_first_address_whose_tls_fails_is_passed_over() {
    let ca = ca();
    // Of another CA; for another name; no TLS at all.
    for bad in 0..3 {
        let (first, second, port) = both().await;
        match bad {
            0 => serve_on(first, listener_tls(issue(&self::ca(), &["idp.example"], |_| {}), None)),
            1 => serve_on(first, listener_tls(issue(&ca, &["other.example"], |_| {}), None)),
            _ => greet_on(first, b"SSH-2.0-OpenSSH_9\r\n"),
        }
        serve_on(second, listener_tls(issue(&ca, &["idp.example"], |_| {}), None));
        let mut connected = to(port, &ca, LONG).connect().await.unwrap();
        assert_eq!(connected.stream.facts().address, Some(SocketAddr::new(SECOND, port)));
        assert_eq!(connected.stream.read_u8().await.unwrap(), b'!');
    }
}

#[tokio::test]
async fn a_first_address_whose_tls_hangs_does_not_hold_up_the_second() {
    let ca = ca();
    let (_accepts_alone, second, port) = both().await;
    serve_on(second, listener_tls(issue(&ca, &["idp.example"], |_| {}), None));
    let begin = Instant::now();
    let connected = to(port, &ca, LONG).connect().await.unwrap();
    assert_eq!(connected.stream.facts().address, Some(SocketAddr::new(SECOND, port)));
    assert!(begin.elapsed() < LONG / 2, "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_certificate_that_is_not_accepted_is_told_rather_than_a_refusal_or_a_silence() {
    let ca = ca();
    let bad = || listener_tls(issue(&self::ca(), &["idp.example"], |_| {}), None);
    let (first, second, port) = both().await;
    drop(first);
    serve_on(second, bad());
    let error = to(port, &ca, LONG).connect().await.err().unwrap();
    assert_eq!(error.kind, ConnectErrorKind::Certificate);
    let others = format!("(this is {SECOND}:{port}; {FIRST}:{port}: connection refused)");
    assert!(error.message.ends_with(&others), "{error}");

    let (first, _accepts_alone, port) = both().await;
    serve_on(first, bad());
    let error = to(port, &ca, Duration::from_secs(2)).connect().await.err().unwrap();
    assert_eq!(error.kind, ConnectErrorKind::Certificate, "{error}");
}

#[tokio::test]
async fn a_silence_tells_what_failed_before() {
    let (first, _accepts_alone, port) = both().await;
    drop(first);
    let error = to(port, &ca(), Duration::from_secs(2)).connect().await.err().unwrap();
    assert_eq!(error.kind, ConnectErrorKind::Timeout);
    assert!(error.message.contains("the TLS handshake did not end (and before: "), "{error}");
    assert!(error.message.contains(&format!("{FIRST}:{port}")), "{error}");
}

#[tokio::test]
async fn refusals_name_every_address() {
    let (first, second, port) = both().await;
    drop((first, second));
    let error = to(port, &ca(), LONG).connect().await.err().unwrap();
    assert_eq!(error.kind, ConnectErrorKind::Refused);
    let expected = format!("idp.example:{port} refused the connection ({FIRST}:{port}, {SECOND}:{port})");
    assert!(error.message.starts_with(&expected), "{error}");
}

#[tokio::test]
async fn every_address_of_an_egress_proxy_is_tried() {
    let ca = ca();
    let upstream = serve(listener_tls(issue(&ca, &["localhost"], |_| {}), None)).await;
    for hangs in [false, true] {
        let (first, second, port) = both().await;
        let _silent = if hangs {
            Some(first)
        } else {
            greet_on(first, b"HTTP/1.1 503 Busy\r\n\r\n");
            None
        };
        tokio::spawn(async move {
            let (mut stream, _) = second.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let mut onward = TcpStream::connect(("127.0.0.1", upstream)).await.unwrap();
            tokio::io::copy_bidirectional(&mut stream, &mut onward).await
        });
        let egress = Egress::Proxy { host: "egress.example".to_owned(), port, userinfo: None };
        let target = Target::Tcp { host: "localhost".to_owned(), port: upstream, tls: true };
        let connector = Connector::new(target, trusting(&ca), egress, Offer::Both, Some(LONG))
            .with_names(names(&[FIRST, SECOND]));
        let mut connected = connector.connect().await.unwrap();
        assert_eq!(connected.stream.read_u8().await.unwrap(), b'!');
    }
}

#[tokio::test]
async fn a_connection_has_a_place_while_it_is_open() {
    let ca = ca();
    let port = serve(listener_tls(issue(&ca, &["localhost"], |_| {}), None)).await;
    let places = places::leaked(2);
    let within = |tls| {
        let target = Target::Tcp { host: "localhost".to_owned(), port, tls };
        Connector::new(target, trusting(&ca), Egress::Direct, Offer::Both, Some(LONG)).within(places)
    };
    let first = within(true).connect().await.unwrap();
    let second = within(false).connect().await.unwrap();
    assert_eq!(places.taken(), 2);
    let error = within(true).connect().await.err().unwrap();
    assert_eq!(error.kind, ConnectErrorKind::Full);
    assert!(error.message.contains("2 connections to upstreams are open"), "{error}");
    drop(first);
    assert_eq!(places.taken(), 1);
    assert!(within(true).connect().await.is_ok());
    drop(second);
    assert_eq!(places.taken(), 0, "a refused or closed connection has none");
}

#[tokio::test]
async fn a_connection_that_is_for_no_caller_waits_for_its_turn() {
    let ca = ca();
    let port = serve(listener_tls(issue(&ca, &["localhost"], |_| {}), None)).await;
    let patient = connector(port, trusting(&ca), Offer::Both);
    let turns = turns::at(patient.who());
    let all = turns.available_permits();
    let mut connected = patient.connect().await.unwrap();
    assert_eq!(turns.available_permits(), all - 1, "held while it is open");
    assert_eq!(connected.stream.read_u8().await.unwrap(), b'!');
    drop(connected);
    assert_eq!(turns.available_permits(), all);

    let others = Arc::clone(&turns).acquire_many_owned(u32::try_from(all).unwrap()).await.unwrap();
    let target = Target::Tcp { host: "localhost".to_owned(), port, tls: true };
    let limit = Some(Duration::from_millis(300));
    let hasty = Connector::new(target, trusting(&ca), Egress::Direct, Offer::Both, limit);
    let error = hasty.connect().await.err().unwrap();
    assert_eq!(error.kind, ConnectErrorKind::Timeout);
    assert!(error.message.contains("as many as may at the same time"), "{error}");
    let waiting = tokio::spawn(async move { patient.connect().await.is_ok() });
    drop(others);
    assert!(waiting.await.unwrap());
}
