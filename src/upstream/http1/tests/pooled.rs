//! Connections that were used before, or are not fit for it, over Unix sockets and TLS.

use std::io::Write as _;
use std::net::Shutdown;
use std::os::unix::net::UnixStream as Far;

use tokio::net::UnixStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::*;
use crate::config::{Egress, ListenerTls, Roots, Source, TlsOptions};
use crate::net::Stream;

/// Puts a connection into the pool; gives its other end.
fn pooled(scene: &Scene) -> Far {
    let (near, far) = Far::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    put(scene, UnixStream::from_std(near).unwrap().into());
    far
}

fn put(scene: &Scene, stream: Stream) {
    let upstream = &scene.upstream;
    pool::put_http1(upstream, Http1::new(stream, &upstream.metrics, upstream.route.response_timeout));
}

/// Puts a connection that takes nothing, and looks well, into the pool.
fn unwritable(scene: &Scene) -> Far {
    let far = pooled(scene);
    far.shutdown(Shutdown::Read).unwrap();
    far
}

fn open(scene: &Scene) -> u64 {
    scene.upstream.metrics.upstream_connections()
}

async fn while_it_waits() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// Serves one call over a new connection.
async fn serve(scene: &Scene) -> TcpStream {
    let mut stream = scene.accept().await;
    until(&mut stream, "1\r\na\r\n0\r\n\r\n").await;
    stream.write_all(OK).await.unwrap();
    stream
}

#[tokio::test]
async fn however_many_are_unfit_none_of_them_is_used() {
    let scene = Scene::new("").await;
    let mut far: Vec<Far> = (0..200).map(|_| pooled(&scene)).collect();
    for far in &mut far {
        far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstale").unwrap();
    }
    while_it_waits().await;
    let call = async { text(scene.send(Method::POST, whole("a")).await.unwrap()).await };
    let both = async { tokio::join!(call, serve(&scene)) };
    let (text, _stream) =
        tokio::time::timeout(Duration::from_secs(10), both).await.expect("a new connection");
    assert_eq!((text.as_str(), open(&scene)), ("ok", 1));
}

#[tokio::test]
async fn what_was_not_written_is_sent_again_whatever_the_method() {
    let scene = Scene::new("").await;
    let far = unwritable(&scene);
    let call = async { text(scene.send(Method::POST, whole("a")).await.unwrap()).await };
    let close = async {
        while_it_waits().await;
        drop(far);
    };
    let (text, _stream, ()) = tokio::join!(call, serve(&scene), close);
    assert_eq!((text.as_str(), open(&scene)), ("ok", 1));
}

#[tokio::test]
async fn a_large_body_that_was_not_written_is_sent_again_too() {
    let scene = Scene::new("").await;
    let far = unwritable(&scene);
    let large = bytes::Bytes::from(vec![b'x'; 40_000]);
    let body = RequestBody::new(Incoming::whole(large), 1 << 16, None, None);
    let call = async { scene.send(Method::POST, body).await.map(|answer| answer.response.status()) };
    let serve = async {
        while_it_waits().await;
        drop(far);
        let mut stream = scene.accept().await;
        assert!(until(&mut stream, "0\r\n\r\n").await.len() > 40_000);
        stream.write_all(OK).await.unwrap();
    };
    let both = async { tokio::join!(call, serve) };
    let (status, ()) = tokio::time::timeout(Duration::from_secs(10), both).await.expect("a new connection");
    assert_eq!(status.unwrap(), StatusCode::OK);
}

#[tokio::test]
async fn an_answer_is_read_where_nothing_can_be_written() {
    let scene = Scene::new("").await;
    let mut far = unwritable(&scene);
    let (_feeder, body) = streamed(None);
    let answer = async {
        while_it_waits().await;
        far.write_all(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\n\r\nbig").unwrap();
    };
    let (sent, ()) = tokio::join!(scene.send(Method::POST, body), answer);
    let sent = sent.unwrap();
    assert_eq!(sent.response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!((text(sent).await.as_str(), open(&scene)), ("big", 0));
}

#[tokio::test]
async fn an_upstream_that_refuses_a_body_and_closes_is_heard() {
    let scene = Scene::new("").await;
    let (mut feeder, body) = streamed(None);
    let serve = async {
        let mut stream = scene.accept().await;
        until(&mut stream, "\r\n\r\n").await;
        // With bytes that it did not read, its close is a reset.
        while_it_waits().await;
        let head = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig";
        stream.write_all(head).await.unwrap();
    };
    let feed = async {
        while poll_fn(|cx| feeder.poll_wanted(cx)).await {
            feeder.give(hyper::body::Frame::data(vec![b'x'; 1 << 16].into()));
        }
    };
    let call = async {
        let answer = scene.send(Method::POST, body).await.unwrap();
        assert_eq!(answer.response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(text(answer).await, "big");
    };
    tokio::join!(call, serve, feed);
    assert_eq!(open(&scene), 0);
}

#[tokio::test]
async fn a_caller_that_leaves_takes_its_connection_with_it() {
    let scene = Scene::new("").await;
    for answer in ["", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhalf"] {
        let mut far = pooled(&scene);
        far.write_all(b"").unwrap();
        let call = async {
            let sent = scene.send(Method::GET, RequestBody::empty()).await.unwrap();
            let mut body = sent.response.into_body();
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
            body.frame().await.unwrap().unwrap();
        };
        let say = async {
            while_it_waits().await;
            far.write_all(answer.as_bytes()).unwrap();
            std::future::pending::<()>().await;
        };
        let both = async { tokio::join!(call, say) };
        assert!(tokio::time::timeout(Duration::from_millis(150), both).await.is_err());
        assert!(pool::take_http1(&scene.upstream).is_none());
        assert_eq!(open(&scene), 0);
    }
}

/// Puts a connection over TLS into the pool; gives its other end.
async fn over_tls(scene: &Scene) -> TlsStream<TcpStream> {
    let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let certificate = Source::literal(issued.cert.pem().as_str());
    let private_key = Source::literal(issued.signing_key.serialize_pem().as_str());
    let options = TlsOptions { ca: Some(certificate.clone()), roots: Roots::Ca, ..TlsOptions::default() };
    let server =
        crate::net::tls::server_config(&ListenerTls { certificate, private_key, client_ca: None }).unwrap();
    let port = scene.listener.local_addr().unwrap().port();
    let target = Target::Tcp { host: "localhost".to_owned(), port, tls: true };
    let connector = Connector::new(target, options, Egress::Direct, Offer::Http1, None);
    let accept = async { TlsAcceptor::from(server).accept(scene.accept().await).await.unwrap() };
    let (near, far) = tokio::join!(connector.connect(), accept);
    put(scene, near.unwrap().stream);
    far
}

#[tokio::test]
async fn over_tls_an_end_is_said() {
    let scene = Scene::new("").await;
    let mut far = over_tls(&scene).await;
    assert!(tokio::time::timeout(Duration::from_millis(50), far.read(&mut [0; 8])).await.is_err());
    drop(pool::take_http1(&scene.upstream).unwrap());
    assert_eq!(far.read(&mut [0; 8]).await.expect("close_notify"), 0);
}

#[tokio::test]
async fn over_tls_more_than_the_answer_ends_the_connection() {
    let scene = Scene::new("").await;
    let mut far = over_tls(&scene).await;
    let call = async { text(scene.send(Method::GET, RequestBody::empty()).await.unwrap()).await };
    let serve = async {
        far.read_u8().await.unwrap();
        far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n").await.unwrap();
        while_it_waits().await;
        // In one record: the connection's socket has nothing more to read after it.
        far.write_all(b"okHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstale").await.unwrap();
    };
    let (text, ()) = tokio::join!(call, serve);
    assert_eq!(text, "ok");
    assert!(pool::take_http1(&scene.upstream).is_none());
}

#[tokio::test]
async fn over_tls_a_body_without_an_end_is_not_whole() {
    for orderly in [true, false] {
        let scene = Scene::new("").await;
        let mut far = over_tls(&scene).await;
        let call = async {
            let sent = scene.send(Method::GET, RequestBody::empty()).await.unwrap();
            sent.response.into_body().collect().await.is_ok()
        };
        let serve = async {
            far.read_u8().await.unwrap();
            far.write_all(b"HTTP/1.1 200 OK\r\n\r\nhalf").await.unwrap();
            if orderly {
                far.shutdown().await.unwrap();
            } else {
                far.get_mut().0.shutdown().await.unwrap();
            }
        };
        assert_eq!(tokio::join!(call, serve).0, orderly);
    }
}
