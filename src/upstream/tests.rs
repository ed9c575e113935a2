//! What only time or a look inside can show; the rest is in `tests/it`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Response};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::*;
use crate::metrics::Metrics;

struct Scene {
    listener: TcpListener,
    upstream: Arc<Upstream>,
}

impl Scene {
    /// `route`: more lines of the route.
    async fn new(route: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bearerd.toml");
        let address = listener.local_addr().unwrap();
        let text = format!(
            "[listener.main]\naddress = \"127.0.0.1:0\"\n[[route]]\nname = \"api\"\nanonymous = true\n\
             upstream = \"http://{address}\"\n{route}\n"
        );
        std::fs::write(&file, text).unwrap();
        let config = crate::config::load(&file).unwrap();
        let route = &config.routes[0];
        let metrics = Metrics::default().route(&route.name);
        let upstream = Arc::new(Upstream::new(route, Origins::default().of(route), metrics));
        Self { listener, upstream }
    }

    async fn http2(route: &str) -> Self {
        Self::new(&format!("protocol = \"http2\"\n{route}")).await
    }

    async fn accept(&self) -> TcpStream {
        self.listener.accept().await.unwrap().0
    }

    async fn get(&self) -> Result<Response<ResponseBody>, UpstreamError> {
        let (method, target) = (Method::GET, PathAndQuery::from_static("/"));
        let mut head = Head { method, target, headers: HeaderMap::new(), upgrade: false };
        self.upstream.send(&mut head, RequestBody::empty(), async |_| true).await
    }

    async fn text(&self) -> String {
        let body = self.get().await.unwrap().into_body();
        String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    /// One request and its response over HTTP/1.1; gives the upstream's end.
    async fn served_http1(&self) -> TcpStream {
        let serve = async {
            let mut stream = self.accept().await;
            answer(&mut stream, "").await;
            stream
        };
        let (text, stream) = tokio::join!(self.text(), serve);
        assert_eq!(text, "ok");
        stream
    }

    fn open(&self) -> u64 {
        self.upstream.metrics.upstream_connections()
    }

    /// Streams in use on the one HTTP/2 connection.
    fn is_unused(&self) -> bool {
        let Some(Connection::Http2(known)) = connection::take_pooled(&self.upstream.origin, None) else {
            panic!("an HTTP/2 connection is pooled")
        };
        known.unused_since().is_some()
    }
}

async fn answer(stream: &mut TcpStream, fields: &str) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let response = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{fields}\r\nok");
    stream.write_all(response.as_bytes()).await.unwrap();
}

/// Serves requests over HTTP/2 until the connection ends; those after the first `served` get no response.
async fn serve_http2(stream: TcpStream, served: usize) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let mut waiting = Vec::new();
    let mut count = 0;
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        count += 1;
        if count > served {
            waiting.push(respond);
            continue;
        }
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_data(Bytes::from_static(b"ok"), true).unwrap();
    }
}

/// Time goes on by itself from here on, as soon as nothing else does.
async fn ends_after(end: impl Future<Output = ()>) -> Duration {
    tokio::time::pause();
    let since = Instant::now();
    end.await;
    since.elapsed()
}

async fn end_of(stream: &mut TcpStream) {
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test]
async fn an_unused_http1_connection_ends_in_time() {
    for (fields, about) in [("", 50), ("Keep-Alive: timeout=10\r\n", 9), ("Keep-Alive: timeout=900\r\n", 50)]
    {
        let scene = Scene::new("").await;
        let serve = async {
            let mut stream = scene.accept().await;
            answer(&mut stream, fields).await;
            stream
        };
        let (_, mut stream) = tokio::join!(scene.text(), serve);
        let took = ends_after(end_of(&mut stream)).await.as_secs();
        assert!((about..=about + 3).contains(&took), "{fields}: {took} s");
        tokio::time::resume();
    }
}

#[tokio::test]
async fn a_connection_ends_at_its_greatest_age() {
    let scene = Scene::new("connection_max_age = \"20s\"").await;
    let mut stream = scene.served_http1().await;
    let took = ends_after(end_of(&mut stream)).await.as_secs();
    assert!((19..=23).contains(&took), "{took} s");
}

#[tokio::test]
async fn an_unused_http2_connection_ends_in_time() {
    let scene = Scene::http2("").await;
    let serve = async {
        let stream = scene.accept().await;
        ends_after(serve_http2(stream, 1)).await.as_secs()
    };
    let (text, took) = tokio::join!(scene.text(), serve);
    assert_eq!(text, "ok");
    assert!((49..=53).contains(&took), "{took} s");
    assert_eq!(scene.open(), 0);
}

#[tokio::test]
async fn an_http2_connection_in_use_does_not_end() {
    let scene = Scene::http2("response_timeout = \"0s\"").await;
    let serve = async {
        let stream = scene.accept().await;
        ends_after(serve_http2(stream, 1)).await.as_secs()
    };
    let requests = async {
        assert_eq!(scene.text().await, "ok");
        assert!(tokio::time::timeout(Duration::from_secs(200), scene.get()).await.is_err());
    };
    let ((), took) = tokio::join!(requests, serve);
    // Then it is one that went silent on a caller who has left.
    assert!((199..=203).contains(&took), "{took} s");
}

#[tokio::test]
async fn streams_are_counted_down_however_they_end() {
    let scene = Scene::http2("response_timeout = \"50ms\"").await;
    let serve = async { serve_http2(scene.accept().await, 3).await };
    let requests = async {
        assert_eq!(scene.text().await, "ok");
        assert!(scene.is_unused());
        let answer = scene.get().await.unwrap();
        assert!(!scene.is_unused(), "while its body is to be read");
        drop(answer);
        assert!(scene.is_unused());
        assert_eq!(scene.text().await, "ok");
        // One that is given up, and one that times out while another is answered.
        assert!(tokio::time::timeout(Duration::from_millis(5), scene.get()).await.is_err());
        assert!(scene.is_unused());
        assert_eq!(scene.get().await.unwrap_err().kind, UpstreamErrorKind::Timeout);
        assert!(connection::take_pooled(&scene.upstream.origin, None).is_none(), "it went silent");
    };
    tokio::join!(serve, requests);
}

#[tokio::test]
async fn a_dial_that_panics_does_not_stop_the_next_one() {
    let scene = Scene::http2("").await;
    connection::dial_that_panics(&scene.upstream.origin);
    assert_eq!(scene.get().await.unwrap_err().proxy_status, "connection_terminated");
    let serve = async { serve_http2(scene.accept().await, 1).await };
    let request = async {
        let text = scene.text().await;
        drop(scene.upstream.clone());
        tokio::time::pause();
        text
    };
    assert_eq!(tokio::join!(request, serve).0, "ok");
}

#[tokio::test]
async fn connections_of_an_origin_that_is_gone_end() {
    let mut scene = Scene::new("").await;
    let mut stream = scene.served_http1().await;
    let other = Scene::new("").await;
    scene.upstream = Arc::clone(&other.upstream);
    let took = ends_after(end_of(&mut stream)).await.as_secs();
    assert!(took <= 3, "{took} s");
}

#[test]
fn header_values_are_not_reported() {
    let mut headers = HeaderMap::new();
    headers.insert("cookie", "secret".parse().unwrap());
    let target = PathAndQuery::from_static("/x?secret");
    let head = Head { method: Method::POST, target, headers, upgrade: false };
    assert_eq!(format!("{head:?}"), r#"POST /x ["cookie"]"#);
}

#[test]
fn an_upstream_says_how_long_it_keeps_a_connection() {
    for (line, ms) in [
        ("timeout=5", Some(4_000)),
        ("timeout=5, max=100", Some(4_000)),
        ("max=100 , Timeout = \"30\"", Some(29_000)),
        ("timeout=1", Some(500)),
        ("timeout=2", Some(1_000)),
        ("timeout=0", Some(0)),
        ("timeout=-1", None),
        ("timeout", None),
        ("max=5", None),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert("keep-alive", line.parse().unwrap());
        assert_eq!(keep_alive_timeout(&headers), ms.map(Duration::from_millis), "{line}");
    }
}
