//! Calls over real sockets to an upstream whose every byte is written here.

mod differential;
mod pooled;

use std::future::poll_fn;
use std::pin::pin;

use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::*;
use crate::http1::{Feeder, Incoming};
use crate::metrics::Metrics;

struct Scene {
    listener: TcpListener,
    upstream: Arc<Upstream>,
    _folder: tempfile::TempDir,
}

impl Scene {
    /// `route`: more lines of the route.
    async fn new(route: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bearerd.toml");
        let address = listener.local_addr().unwrap();
        let text = format!(
            "[listener.main]\naddress = \"127.0.0.1:0\"\n[[route]]\nname = \"api\"\nissuer = \"corp\"\n\
             upstream = \"http://{address}\"\n{route}\n[issuer.corp]\ntoken_url = \"http://127.0.0.1:1/\"\n\
             client_id = \"c\"\nclient_secret = {{ file = \"secret\" }}\n"
        );
        std::fs::write(folder.path().join("secret"), "s").unwrap();
        std::fs::write(&file, text).unwrap();
        let config = crate::config::load(&file).unwrap();
        let metrics = Metrics::default().route(&Arc::from("api"));
        Self { listener, upstream: Arc::new(Upstream::new(&config.routes[0], metrics)), _folder: folder }
    }

    async fn accept(&self) -> TcpStream {
        self.listener.accept().await.unwrap().0
    }

    async fn send(&self, method: Method, body: RequestBody) -> Result<Answer, UpstreamError> {
        self.upstream.send(&mut head(method, &[]), body, |_| ()).await
    }
}

fn head(method: Method, fields: &[(&'static str, &str)]) -> Head {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, value.parse().unwrap());
    }
    Head { method, target: PathAndQuery::from_static("/x?y"), headers, upgrade: false }
}

fn whole(text: &'static str) -> RequestBody {
    RequestBody::new(Incoming::whole(bytes::Bytes::from_static(text.as_bytes())), 1024, None, None)
}

fn streamed(length: Option<u64>) -> (Feeder, RequestBody) {
    let (feeder, incoming) = Incoming::streamed(length);
    (feeder, RequestBody::new(incoming, 1024, None, None))
}

async fn give(feeder: &mut Feeder, bytes: Vec<u8>) {
    assert!(poll_fn(|cx| feeder.poll_wanted(cx)).await, "it is still wanted");
    feeder.give(hyper::body::Frame::data(bytes.into()));
}

async fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        text.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(text).unwrap()
}

async fn text(answer: Answer) -> String {
    let bytes = answer.response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn a_connection_is_used_again_and_host_comes_first() {
    let scene = Scene::new("").await;
    let serve = async {
        let mut stream = scene.accept().await;
        for _ in 0..3 {
            let head = until(&mut stream, "\r\n\r\n").await;
            assert!(head.starts_with("GET /x?y HTTP/1.1\r\nhost: 127.0.0.1:"), "{head}");
            assert_eq!(head.lines().count(), 3, "nothing says that there is a body: {head}");
            stream.write_all(OK).await.unwrap();
        }
    };
    let call = async {
        for _ in 0..3 {
            let answer = scene.send(Method::GET, RequestBody::empty()).await.unwrap();
            assert_eq!(answer.response.body().size_hint().exact(), Some(2));
            assert_eq!(text(answer).await, "ok");
        }
    };
    tokio::join!(serve, call);
}

#[tokio::test]
async fn bodies_are_framed_as_their_head_says() {
    let scene = Scene::new("").await;
    let serve = async {
        let mut stream = scene.accept().await;
        let head = until(&mut stream, "0\r\n\r\n").await;
        assert!(
            head.contains("transfer-encoding: chunked\r\n")
                && head.ends_with("\r\n\r\n4\r\nbody\r\n0\r\n\r\n")
        );
        stream.write_all(OK).await.unwrap();
        let head = until(&mut stream, "body").await;
        assert!(head.contains("content-length: 4\r\n") && !head.contains("transfer-encoding"), "{head}");
        assert!(head.contains("connection: te\r\n"), "{head}");
        stream.write_all(OK).await.unwrap();
    };
    let call = async {
        let mut answer = scene.send(Method::GET, whole("body")).await.unwrap();
        let again = answer.body_again(None).unwrap().collect().await.unwrap().to_bytes();
        assert_eq!(again, "body");
        let fields =
            [("content-length", "4"), ("te", "trailers"), ("host", "evil"), ("transfer-encoding", "x")];
        let mut head = head(Method::POST, &fields);
        scene.upstream.send(&mut head, whole("body"), |_| ()).await.unwrap();
    };
    tokio::join!(serve, call);
}

#[tokio::test]
async fn what_was_closed_or_spoken_out_of_turn_is_not_used_again() {
    let scene = Scene::new("").await;
    for last_words in ["", "HTTP/1.1 408 Request Timeout\r\n\r\n"] {
        let call = async { text(scene.send(Method::POST, whole("a")).await.unwrap()).await };
        let serve = async {
            let mut stream = scene.accept().await;
            until(&mut stream, "0\r\n\r\n").await;
            stream.write_all(OK).await.unwrap();
            stream
        };
        let (answer, mut stream) = tokio::join!(call, serve);
        assert_eq!(answer, "ok");
        stream.write_all(last_words.as_bytes()).await.unwrap();
        drop(stream);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(pool::take_http1(&scene.upstream).is_none());
}

#[tokio::test]
async fn the_sweep_ends_what_the_upstream_closed() {
    let scene = Scene::new("").await;
    let call = async { text(scene.send(Method::GET, RequestBody::empty()).await.unwrap()).await };
    let serve = async {
        let mut stream = scene.accept().await;
        until(&mut stream, "\r\n\r\n").await;
        stream.write_all(OK).await.unwrap();
        stream.shutdown().await.unwrap();
        stream
    };
    let (_, mut stream) = tokio::join!(call, serve);
    let ended = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut [0; 8])).await;
    assert_eq!(ended.expect("the end").unwrap(), 0);
}

#[tokio::test]
async fn the_rest_of_a_body_goes_up_after_its_answer() {
    let scene = Scene::new("").await;
    let (mut feeder, body) = streamed(None);
    let serve = async {
        let mut stream = scene.accept().await;
        until(&mut stream, "\r\n\r\n").await;
        stream.write_all(OK).await.unwrap();
        let body = until(&mut stream, "0\r\n\r\n").await;
        assert_eq!(body, "1\r\na\r\n0\r\n\r\n");
        let head = until(&mut stream, "\r\n\r\n").await;
        assert!(head.starts_with("GET "), "the connection takes another call: {head}");
        stream.write_all(OK).await.unwrap();
    };
    let call = async {
        let mut answer = scene.send(Method::POST, body).await.unwrap();
        assert!(answer.body_again(None).is_none(), "it was not sent whole");
        assert_eq!(text(answer).await, "ok");
        give(&mut feeder, b"a".to_vec()).await;
        feeder.end();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(text(scene.send(Method::GET, RequestBody::empty()).await.unwrap()).await, "ok");
    };
    tokio::join!(serve, call);
}

#[tokio::test]
async fn a_caller_that_leaves_after_its_answer_leaves_no_whole_body() {
    let scene = Scene::new("").await;
    let (mut feeder, body) = streamed(None);
    let serve = async {
        let mut stream = scene.accept().await;
        until(&mut stream, "\r\n\r\n").await;
        stream.write_all(OK).await.unwrap();
        let mut body = String::new();
        stream.read_to_string(&mut body).await.unwrap();
        assert_eq!(body, "1\r\na\r\n", "without a last chunk");
    };
    let call = async {
        assert_eq!(text(scene.send(Method::POST, body).await.unwrap()).await, "ok");
        give(&mut feeder, b"a".to_vec()).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(feeder);
    };
    tokio::join!(serve, call);
}

#[tokio::test]
async fn a_caller_may_send_all_before_it_reads() {
    const SIZE: usize = 16 << 20;
    let scene = Scene::new("").await;
    let (mut feeder, body) = streamed(Some(SIZE as u64));
    let serve = async {
        let mut stream = scene.accept().await;
        until(&mut stream, "\r\n\r\n").await;
        let (mut read, mut write) = stream.split();
        let answer = async {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n");
            write.write_all(head.as_bytes()).await.unwrap();
            write.write_all(&vec![b'x'; SIZE]).await.unwrap();
        };
        let mut body = vec![0; SIZE];
        let (_, read) = tokio::join!(answer, read.read_exact(&mut body));
        assert_eq!(read.unwrap(), SIZE);
    };
    let call = async {
        let mut head = head(Method::POST, &[("content-length", &SIZE.to_string())]);
        let answer = scene.upstream.send(&mut head, body, |_| ()).await.unwrap();
        for _ in 0..SIZE >> 16 {
            give(&mut feeder, vec![b'y'; 1 << 16]).await;
        }
        assert_eq!(text(answer).await.len(), SIZE);
    };
    tokio::join!(serve, call);
}

#[tokio::test]
async fn an_answer_that_nobody_wants_ends_the_connection() {
    let scene = Scene::new("").await;
    let (mut feeder, body) = streamed(None);
    let serve = async {
        let mut stream = scene.accept().await;
        until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n").await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"");
    };
    let call = async {
        let answer = scene.send(Method::POST, body).await.unwrap();
        drop(answer);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!poll_fn(|cx| feeder.poll_wanted(cx)).await, "the caller's body is not wanted any more");
    };
    tokio::join!(serve, call);
}

#[tokio::test]
async fn a_caller_that_breaks_off_breaks_the_call_and_not_the_upstream() {
    let scene = Scene::new("").await;
    let (mut feeder, body) = streamed(Some(10));
    let serve = async {
        let mut stream = scene.accept().await;
        until(&mut stream, "\r\n\r\nhalf").await;
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
    };
    let feed = async {
        give(&mut feeder, b"half".to_vec()).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(feeder);
    };
    let mut head = head(Method::POST, &[("content-length", "10")]);
    let (sent, ..) = tokio::join!(scene.upstream.send(&mut head, body, |_| ()), serve, feed);
    assert_eq!(sent.unwrap_err().kind, UpstreamErrorKind::CallerBody);
}

#[tokio::test]
async fn how_an_upstream_fails_is_told() {
    let scene = Scene::new("response_timeout = \"200ms\"\nidle_timeout = \"200ms\"").await;
    for (bytes, code, words) in [
        ("", "connection_terminated", "closed the connection before it answered"),
        ("HTTP/1.1 200 O", "connection_terminated", "closed the connection before it answered"),
        ("SSH-2.0-x\r\n\r\n", "http_protocol_error", "sent an answer that is not valid HTTP (its version"),
        ("HTTP/1.1 100 Continue\r\n\r\n", "http_response_timeout", "sent no response within"),
    ] {
        let serve = async {
            let mut stream = scene.accept().await;
            until(&mut stream, "\r\n\r\n").await;
            stream.write_all(bytes.as_bytes()).await.unwrap();
            if code == "http_response_timeout" {
                let _ = stream.read(&mut [0; 8]).await;
            }
        };
        let (sent, ()) = tokio::join!(scene.send(Method::GET, RequestBody::empty()), serve);
        let error = sent.unwrap_err();
        assert_eq!(error.proxy_status, code, "{error:?}");
        assert!(error.detail.contains(words), "{error:?}");
    }
}

#[tokio::test]
async fn an_upstream_that_takes_nothing_is_given_up() {
    let scene = Scene::new("idle_timeout = \"200ms\"").await;
    let (mut feeder, body) = streamed(None);
    let feed = async {
        while poll_fn(|cx| feeder.poll_wanted(cx)).await {
            feeder.give(hyper::body::Frame::data(vec![b'x'; 1 << 16].into()));
        }
    };
    let (sent, _stream, ()) = tokio::join!(scene.send(Method::POST, body), scene.accept(), feed);
    let error = sent.unwrap_err();
    assert_eq!((error.kind, error.proxy_status), (UpstreamErrorKind::Timeout, "connection_write_timeout"));
}

#[tokio::test]
async fn bodies_that_break_off_are_not_whole() {
    let scene = Scene::new("").await;
    for bytes in [
        "content-length: 5\r\n\r\nhalf",
        "transfer-encoding: chunked\r\n\r\n5\r\nhalf",
        "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let serve = async {
            let mut stream = scene.accept().await;
            until(&mut stream, "\r\n\r\n").await;
            stream.write_all(format!("HTTP/1.1 200 OK\r\n{bytes}").as_bytes()).await.unwrap();
        };
        let (sent, ()) = tokio::join!(scene.send(Method::GET, RequestBody::empty()), serve);
        let mut body = pin!(sent.unwrap().response.into_body());
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
        assert!(body.frame().await.unwrap().is_err(), "{bytes}");
        assert!(body.frame().await.is_none());
    }
}

#[tokio::test]
async fn after_a_101_the_connection_is_the_calls() {
    let scene = Scene::new("").await;
    let serve = async {
        let mut stream = scene.accept().await;
        until(&mut stream, "\r\n\r\n").await;
        let head = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nfirst";
        stream.write_all(head).await.unwrap();
        assert_eq!(until(&mut stream, "echo").await, "echo");
        stream.write_all(b" second").await.unwrap();
    };
    let call = async {
        let mut head = head(Method::GET, &[("connection", "upgrade"), ("upgrade", "x")]);
        head.upgrade = true;
        let mut answer = scene.upstream.send(&mut head, RequestBody::empty(), |_| ()).await.unwrap();
        assert_eq!(answer.response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert!(answer.response.headers().contains_key(header::UPGRADE));
        let mut tunnel = answer.response.body_mut().take_tunnel().unwrap();
        assert!(answer.response.body_mut().take_tunnel().is_none());
        tunnel.write_all(b"echo").await.unwrap();
        let mut text = String::new();
        tunnel.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "first second");
    };
    tokio::join!(serve, call);
}

#[test]
fn what_is_sent_is_not_told() {
    let head = head(Method::POST, &[("cookie", "secret"), ("accept", "secret")]);
    assert_eq!(format!("{head:?}"), r#"POST /x ["cookie", "accept"]"#);
}
