//! Connections with real sockets and certificates: TLS, tunnels through egress proxies, and names with several addresses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::tls::server_config;
use super::*;
use crate::aside::Aside;
use crate::config::{Egress, ListenerTls, Roots, Source, TlsOptions};
use crate::net::names::{Names, NotFound};
use crate::net::places;

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca() -> Ca {
    named_ca(&format!("CA {}", fastrand::u64(..)))
}

fn named_ca(name: &str) -> Ca {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Certificate and key, as PEM.
fn issue(ca: &Ca, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> (Source, Source) {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    change(&mut params);
    let certificate = params.signed_by(&key, ca).unwrap();
    (Source::literal(certificate.pem().as_str()), Source::literal(key.serialize_pem().as_str()))
}

fn listener_tls((certificate, private_key): (Source, Source), client_ca: Option<&Ca>) -> ListenerTls {
    let client_ca = client_ca.map(|ca| Source::literal(ca.pem().as_str()));
    ListenerTls { certificate, private_key, client_ca }
}

/// Serves TLS and answers with one byte; the port.
async fn serve(tls: ListenerTls) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    serve_on(listener, tls);
    port
}

fn serve_on(listener: TcpListener, tls: ListenerTls) {
    let acceptor = TlsAcceptor::from(server_config(&tls).unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let _ = stream.write_all(b"!").await;
                    let _ = stream.shutdown().await;
                }
            });
        }
    });
}

/// Says this to everybody, and reads on.
fn greet_on(listener: TcpListener, greeting: &'static [u8]) {
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let _ = stream.write_all(greeting).await;
                tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
            });
        }
    });
}

fn trusting(ca: &Ca) -> TlsOptions {
    TlsOptions { ca: Some(Source::literal(ca.pem().as_str())), roots: Roots::Ca, ..TlsOptions::default() }
}

fn connector(port: u16, tls: TlsOptions, offer: Offer) -> Connector {
    let target = Target::Tcp { host: "localhost".to_owned(), port, tls: true };
    Connector::new(target, tls, Egress::Direct, offer, Some(Duration::from_secs(10)))
}

async fn failure(port: u16, tls: TlsOptions) -> ConnectError {
    connector(port, tls, Offer::Both).connect().await.err().expect("connected")
}

#[tokio::test]
async fn a_trusted_server_is_connected_to_and_alpn_chooses() {
    let ca = ca();
    let port = serve(listener_tls(issue(&ca, &["localhost"], |_| {}), None)).await;
    for (offer, http2) in [(Offer::Both, true), (Offer::Http2, true), (Offer::Http1, false)] {
        let mut connected = connector(port, trusting(&ca), offer).connect().await.unwrap();
        assert_eq!(connected.http2, http2, "{offer:?}");
        assert_eq!(connected.stream.read_u8().await.unwrap(), b'!');
    }
}

#[tokio::test]
async fn t43_an_unknown_ca_is_refused() {
    let port = serve(listener_tls(issue(&ca(), &["localhost"], |_| {}), None)).await;
    let error = failure(port, trusting(&ca())).await;
    assert_eq!(error.kind, ConnectErrorKind::Certificate);
    assert!(error.message.contains("its issuer is not trusted here; set tls.ca"), "{}", error.message);
    assert!(error.message.contains(&format!("localhost:{port}")), "{}", error.message);
}

#[tokio::test]
async fn a_ca_renewed_under_its_old_name_is_explained() {
    let port = serve(listener_tls(issue(&named_ca("Corp CA"), &["localhost"], |_| {}), None)).await;
    let error = failure(port, trusting(&named_ca("Corp CA"))).await;
    assert_eq!(error.kind, ConnectErrorKind::Certificate);
    assert!(error.message.contains("has the issuer's name, but another key"), "{}", error.message);
}

#[tokio::test]
async fn t43_a_wrong_name_is_refused_unless_it_is_meant() {
    let ca = ca();
    let port = serve(listener_tls(issue(&ca, &["idp.example", "10.0.0.9"], |_| {}), None)).await;
    let error = failure(port, trusting(&ca)).await;
    assert_eq!(error.kind, ConnectErrorKind::Certificate);
    assert!(
        error.message.contains("it is for idp.example, 10.0.0.9, not for localhost"),
        "{}",
        error.message
    );

    let meant = TlsOptions { server_name: Some("idp.example".to_owned()), ..trusting(&ca) };
    assert!(connector(port, meant, Offer::Both).connect().await.is_ok());
}

#[tokio::test]
async fn t43_an_expired_certificate_is_refused_with_its_date() {
    let ca = ca();
    let expired = issue(&ca, &["localhost"], |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 12, 31);
    });
    let error = failure(serve(listener_tls(expired, None)).await, trusting(&ca)).await;
    assert_eq!(error.kind, ConnectErrorKind::Certificate);
    assert!(error.message.contains("expired on Thu, 31 Dec 2020 00:00:00 GMT"), "{}", error.message);
}

#[tokio::test]
async fn a_cas_own_certificate_is_explained() {
    let ca = ca();
    let own = issue(&ca, &["localhost"], |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    let error = failure(serve(listener_tls(own, None)).await, trusting(&ca)).await;
    assert!(error.message.contains("it is a CA's own certificate"), "{}", error.message);
}

#[tokio::test]
async fn a_certificate_that_is_odd_is_explained_in_words() {
    let ca = ca();
    let without_name = issue(&ca, &[], |_| {});
    let error = failure(serve(listener_tls(without_name, None)).await, trusting(&ca)).await;
    assert_eq!(error.kind, ConnectErrorKind::Certificate);
    assert!(error.message.ends_with("have it issued again with localhost in it"), "{error}");
    assert!(!error.message.contains("server_name"), "another name would not help: {error}");

    let with_critical = issue(&ca, &["localhost"], |params| {
        let mut extension = rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        extension.set_criticality(true);
        params.custom_extensions.push(extension);
    });
    // rustls looks at our own certificates too.
    let error = server_config(&listener_tls(with_critical, None)).expect_err("refused");
    assert!(error.0.contains("marked as critical and not known here"), "{error}");
    assert!(!error.0.contains("Other"), "{error}");
}

#[tokio::test]
async fn a_demanded_client_certificate_is_named() {
    let (server_ca, client_ca) = (ca(), ca());
    let port = serve(listener_tls(issue(&server_ca, &["localhost"], |_| {}), Some(&client_ca))).await;

    let mut connected = connector(port, trusting(&server_ca), Offer::Both).connect().await.unwrap();
    let error = connected.stream.read_u8().await.unwrap_err();
    let error = tls_cause(&error, "the server").expect("a TLS cause");
    assert_eq!(error.kind, ConnectErrorKind::Certificate);
    assert!(error.message.contains("requires a client certificate"), "{}", error.message);

    let (certificate, private_key) = issue(&client_ca, &["client"], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    let with_certificate =
        TlsOptions { certificate: Some(certificate), private_key: Some(private_key), ..trusting(&server_ca) };
    let mut connected = connector(port, with_certificate, Offer::Both).connect().await.unwrap();
    assert_eq!(connected.stream.read_u8().await.unwrap(), b'!');
}

#[tokio::test]
async fn a_key_of_another_certificate_is_told() {
    let ca = ca();
    let (certificate, _) = issue(&ca, &["client"], |_| {});
    let (_, private_key) = issue(&ca, &["client"], |_| {});
    let options =
        TlsOptions { certificate: Some(certificate), private_key: Some(private_key), ..trusting(&ca) };
    let error = failure(1, options).await;
    assert_eq!(error.kind, ConnectErrorKind::Settings);
    assert!(error.message.contains("the key does not belong to the certificate"), "{}", error.message);
}

#[tokio::test]
async fn a_missing_ca_file_is_tried_again_and_a_changed_one_read_again() {
    let (good, bad) = (ca(), ca());
    let port = serve(listener_tls(issue(&good, &["localhost"], |_| {}), None)).await;
    let folder = scratch("ca");
    let path = folder.join("ca.pem");
    let options =
        TlsOptions { ca: Some(Source::file(path.clone(), None)), roots: Roots::Ca, ..TlsOptions::default() };
    let connector = connector(port, options, Offer::Both);
    assert_eq!(connector.connect().await.err().unwrap().kind, ConnectErrorKind::Settings);
    std::fs::write(&path, bad.pem()).unwrap();
    assert_eq!(connector.connect().await.err().unwrap().kind, ConnectErrorKind::Certificate);
    std::fs::write(&path, good.pem()).unwrap();
    assert!(connector.connect().await.is_ok());
    std::fs::remove_file(&path).unwrap();
    assert!(connector.connect().await.is_ok(), "the last good file serves on");
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn plaintext_on_a_tls_port_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await;
    });
    let error = failure(port, trusting(&ca())).await;
    assert_eq!(error.kind, ConnectErrorKind::Tls);
    assert!(error.message.contains("not TLS"), "{}", error.message);
}

#[tokio::test]
async fn t43_a_handshake_that_hangs_ends_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let target = Target::Tcp { host: "127.0.0.1".to_owned(), port, tls: true };
    let limit = Some(Duration::from_millis(100));
    let connector = Connector::new(target, trusting(&ca()), Egress::Direct, Offer::Both, limit);
    let error = connector.connect().await.err().unwrap();
    assert_eq!(error.kind, ConnectErrorKind::Timeout);
    assert!(error.message.contains("within 100ms: it accepted, but the TLS handshake"), "{}", error.message);
}

#[tokio::test]
async fn unix_sockets_are_connected_to() {
    let folder = scratch("unix");
    let path = folder.join("s");
    let connector = |path: &std::path::Path| {
        let target = Target::Unix(path.to_owned());
        Connector::new(target, TlsOptions::default(), Egress::Env, Offer::Http1, None)
    };
    assert_eq!(connector(&path).connect().await.err().unwrap().kind, ConnectErrorKind::Unreachable);
    let listener = UnixListener::bind(&path).unwrap();
    assert!(!connector(&path).connect().await.unwrap().http2);
    drop(listener);
    let error = connector(&path).connect().await.err().unwrap();
    assert_eq!(error.kind, ConnectErrorKind::Refused);
    assert!(error.message.starts_with("nothing listens on unix:/"), "{}", error.message);
    std::fs::remove_dir_all(folder).unwrap();
}

/// A folder of its own, under the system's temporary one.
fn scratch(name: &str) -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("bearerd-net-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// An egress proxy that reads one head, answers with `answer`, then relays to where CONNECT pointed. The head.
async fn egress(answer: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let to = head.split(' ').nth(1).unwrap().to_owned();
        stream.write_all(answer.as_bytes()).await.unwrap();
        if answer.contains("200") {
            let mut onward = TcpStream::connect(to).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut onward).await });
        }
        head
    });
    (port, task)
}

fn through(port: u16, userinfo: Option<&str>, target: Target, tls: TlsOptions) -> Connector {
    let userinfo = userinfo.map(Source::literal);
    let egress = Egress::Proxy { host: "127.0.0.1".to_owned(), port, userinfo };
    Connector::new(target, tls, egress, Offer::Both, Some(Duration::from_secs(10)))
}

#[tokio::test]
async fn tls_goes_through_the_egress_proxy_with_credentials() {
    let ca = ca();
    let port = serve(listener_tls(issue(&ca, &["localhost"], |_| {}), None)).await;
    let (proxy, head) = egress("HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n").await;
    let target = Target::Tcp { host: "localhost".to_owned(), port, tls: true };
    let mut connected = through(proxy, Some("user:p@ss"), target, trusting(&ca)).connect().await.unwrap();
    assert_eq!(connected.stream.read_u8().await.unwrap(), b'!');
    assert_eq!(
        head.await.unwrap(),
        format!(
            "CONNECT localhost:{port} HTTP/1.1\r\nHost: localhost:{port}\r\n\
             Proxy-Authorization: Basic dXNlcjpwQHNz\r\n\r\n"
        )
    );
}

#[tokio::test]
async fn bytes_right_behind_the_proxys_answer_belong_to_the_tunnel() {
    let (proxy, _) = egress("HTTP/1.1 200 OK\r\n\r\nearly").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let target = Target::Tcp { host: "127.0.0.1".to_owned(), port, tls: false };
    let mut connected = through(proxy, None, target, TlsOptions::default()).connect().await.unwrap();
    let mut early = [0; 5];
    connected.stream.read_exact(&mut early).await.unwrap();
    assert_eq!(&early, b"early");
}

#[tokio::test]
async fn a_refusing_or_babbling_proxy_is_told() {
    let target = Target::Tcp { host: "idp.example".to_owned(), port: 443, tls: false };
    let cases = [
        ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "responded 407 to CONNECT idp.example:443"),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", "responded 403 to CONNECT"),
        ("SSH-2.0-OpenSSH_9\r\n\r\n", "not HTTP"),
        ("", "closed the connection"),
    ];
    for (answer, expected) in cases {
        let (proxy, _) = egress(answer).await;
        let connector = through(proxy, Some("user:hunter2"), target.clone(), TlsOptions::default());
        let error = connector.connect().await.err().unwrap();
        assert_eq!(error.kind, ConnectErrorKind::Proxy, "{answer}");
        assert!(error.message.contains(expected), "{}", error.message);
        assert!(
            error.message.starts_with(&format!("the egress proxy 127.0.0.1:{proxy}")),
            "{}",
            error.message
        );
        assert!(!error.message.contains("hunter2"), "{}", error.message);
    }
}

#[tokio::test]
async fn an_endless_answer_of_the_proxy_is_cut() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        while stream.write_all(b"X-More: and more\r\n").await.is_ok() {}
    });
    let target = Target::Tcp { host: "idp.example".to_owned(), port: 443, tls: true };
    let error = through(port, None, target, trusting(&ca())).connect().await.err().unwrap();
    assert_eq!(error.kind, ConnectErrorKind::Proxy);
    assert!(error.message.contains("more than 16 KiB"), "{}", error.message);
}

/// A response that comes in these pieces, each after the one before was taken in.
async fn answering(pieces: Vec<Vec<u8>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        for piece in pieces {
            stream.write_all(&piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    });
    port
}

/// Any 2xx means yes (RFC 9110 section 9.3.6).
#[tokio::test]
async fn a_204_opens_the_tunnel() {
    let (proxy, _) = egress("HTTP/1.1 204 No Content\r\nX: 200\r\n\r\n").await;
    let ca = ca();
    let port = serve(listener_tls(issue(&ca, &["localhost"], |_| {}), None)).await;
    let target = Target::Tcp { host: "localhost".to_owned(), port, tls: true };
    let mut connected = through(proxy, None, target, trusting(&ca)).connect().await.unwrap();
    assert_eq!(connected.stream.read_u8().await.unwrap(), b'!');
}

#[tokio::test]
async fn every_answer_that_means_yes_opens_the_tunnel() {
    let many_fields =
        format!("HTTP/1.1 200 OK\r\n{}\r\n", format!("x-long: {}\r\n", "a".repeat(1000)).repeat(9));
    for answer in [
        "HTTP/1.1 200 Connection established\r\n\r\n",
        "HTTP/1.0 200 Connection established\r\n\r\n",
        "HTTP/1.0 200 OK\r\nConnection: close\r\nProxy-Connection: close\r\n\r\n",
        "HTTP/1.1 200\r\n\r\n",
        "HTTP/1.1 201 Created\r\n\r\n",
        "HTTP/1.1 200 OK\nX: y\n\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 102 Processing\nX: y\n\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\n\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        many_fields.as_str(),
    ] {
        let whole = [answer.as_bytes(), b"early"].concat();
        for pieces in [vec![whole.clone()], whole.iter().map(|byte| vec![*byte]).collect()] {
            let proxy = answering(pieces).await;
            let target = Target::Tcp { host: "2001:db8::1".to_owned(), port: 443, tls: false };
            let connected = through(proxy, None, target, TlsOptions::default()).connect().await;
            let mut stream = connected.unwrap_or_else(|error| panic!("{answer:?}: {error}")).stream;
            let mut early = [0; 5];
            stream.read_exact(&mut early).await.unwrap();
            assert_eq!(&early, b"early", "{answer:?}");
            stream.write_all(b"x").await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_server_that_speaks_before_the_handshake_is_told() {
    let proxy = answering(vec![b"HTTP/1.1 200 OK\r\n\r\nSSH-2.0".to_vec()]).await;
    let target = Target::Tcp { host: "idp.example".to_owned(), port: 443, tls: true };
    let error = through(proxy, None, target, trusting(&ca())).connect().await.err().unwrap();
    assert_eq!(error.kind, ConnectErrorKind::Tls);
    assert!(error.message.contains("idp.example:443 failed: it spoke before the handshake"), "{error}");
}

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
    let turns = places::turns_at(patient.who());
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
