//! Tunnels through egress proxies.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

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
        ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "answered 407 to CONNECT idp.example:443"),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", "answered 403 to CONNECT"),
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
