//! Real sockets, real certificates.

mod addresses;
mod egress;

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_rustls::TlsAcceptor;

use super::tls::server_config;
use super::*;
use crate::config::{Egress, ListenerTls, Roots, Source, TlsOptions};

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
    assert!(error.message.contains("wants a client certificate"), "{}", error.message);

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
    assert!(error.message.starts_with("nobody listens on unix:/"), "{}", error.message);
    std::fs::remove_dir_all(folder).unwrap();
}

/// A folder of its own, under the system's temporary one.
fn scratch(name: &str) -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("bearerd-net-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
