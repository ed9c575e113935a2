//! Trailers obey the same rules as fields: what a field may not say, no trailer says either.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::support::h2::{H2Client, streamed};
use crate::support::{RawRequest, RawResponse, Setup, World};

/// Reads each request whole, notes its trailers, and responds with `ok` and these trailers.
struct Upstream {
    url: String,
    seen: Arc<Mutex<Vec<HeaderMap>>>,
}

impl Upstream {
    async fn start(trailers: HeaderMap) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
        let record = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (record, trailers) = (Arc::clone(&record), trailers.clone());
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    respond(request, Arc::clone(&record), trailers.clone())
                });
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                tokio::spawn(
                    async move { builder.serve_connection(TokioIo::new(stream), service).await.ok() },
                );
            }
        });
        Self { url, seen }
    }

    fn last(&self) -> HeaderMap {
        self.seen.lock().unwrap().last().cloned().expect("a request arrived")
    }
}

async fn respond(
    request: Request<Incoming>,
    record: Arc<Mutex<Vec<HeaderMap>>>,
    trailers: HeaderMap,
) -> Result<Response<crate::support::h2::SentBody>, Infallible> {
    let body = request.into_body().collect().await.expect("a whole body");
    record.lock().unwrap().push(body.trailers().cloned().unwrap_or_default());
    let announced: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
    let announced = HeaderValue::try_from(announced.join(", ")).unwrap();
    let (frames, body) = streamed();
    tokio::spawn(async move {
        let _sent = frames.send(Frame::data(Bytes::from("ok"))).await;
        let _sent = frames.send(Frame::trailers(trailers)).await;
    });
    Ok(Response::builder().header("trailer", announced).body(body).unwrap())
}

fn map(names: &[&str]) -> HeaderMap {
    names.iter().map(|name| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_static("evil"))).collect()
}

fn names(trailers: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

/// Every one of these has an owner, or decides how the message is read.
const NOT_UP: [&str; 40] = [
    "authorization",
    "authorization_",
    "proxy-authorization",
    "dpop",
    "x-set-here",
    "x_set_here",
    "x-removed-here",
    "x-caller-key",
    "x-request-id",
    "x_request_id",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x_forwarded_for",
    "x-forwarded-port",
    "x-forwarded-user",
    "x-real-ip",
    "forwarded",
    "via",
    "cookie",
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "content-range",
    "cache-control",
    "expect",
    "max-forwards",
    "range",
    "if-match",
    "if-none-match",
    "if-range",
    "te",
    "trailer",
    "traceparent",
    "tracestate",
    "http2-settings",
    "proxy-connection",
    "keep-alive",
    "upgrade",
];
const UP: [&str; 2] = ["grpc-message-type", "x-sum"];

const NOT_DOWN: [&str; 17] = [
    "x-set-here",
    "x_set_here",
    "x-removed-here",
    "x-request-id",
    "set-cookie",
    "location",
    "content-type",
    "content-length",
    "content-encoding",
    "cache-control",
    "www-authenticate",
    "retry-after",
    "vary",
    "date",
    "trailer",
    "keep-alive",
    "proxy-authenticate",
];
const DOWN: [&str; 3] = ["grpc-status", "server-timing", "x-sum"];

async fn scene(protocol: &str, upstream: &Upstream) -> World {
    let setup = Setup::new().await;
    setup.file("caller-key", "open sesame");
    setup
        .listener("require_header = { name = \"x-caller-key\", value = { file = \"caller-key\" } }")
        .route(&format!(
            "upstream = \"{}\"\nprotocol = \"{protocol}\"\nforwarded = true\n\
             request_headers = {{ set = {{ x-set-here = \"ours\" }}, remove = [\"x-removed-here\"] }}\n\
             response_headers = {{ set = {{ x-set-here = \"ours\" }}, remove = [\"x-removed-here\"] }}",
            upstream.url
        ))
        .start()
        .await
}

/// A request over HTTP/2 with these trailers; the response's trailers.
async fn over_http2(world: &World, sent: HeaderMap) -> HeaderMap {
    let mut client = H2Client::plain(world.address("main")).await;
    let (frames, body) = streamed();
    let announced: Vec<&str> = sent.keys().map(HeaderName::as_str).collect();
    let request = client
        .request("POST", "/")
        .header("te", "trailers")
        .header("trailer", announced.join(", "))
        .header("x-caller-key", "open sesame")
        .body(body)
        .unwrap();
    let send = async {
        frames.send(Frame::data(Bytes::from("x"))).await.unwrap();
        frames.send(Frame::trailers(sent)).await.unwrap();
        drop(frames);
    };
    let (response, ()) = tokio::join!(client.exchange(request), send);
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    response.trailers.unwrap_or_default()
}

/// The same over HTTP/1.1; `more` are more lines of the head.
async fn over_http1(world: &World, sent: &[&str], more: &[(&str, &str)]) -> HeaderMap {
    let mut client = world.connect().await;
    let call = RawRequest::new("POST", "/")
        .header("TE", "trailers")
        .header("Transfer-Encoding", "chunked")
        .header("Trailer", &sent.join(", "))
        .header("X-Caller-Key", "open sesame");
    let call = more.iter().fold(call, |call, (name, value)| call.header(name, value));
    client.send(&call).await;
    let trailers: String = sent.iter().map(|name| format!("{name}: evil\r\n")).collect();
    client.wire.send(format!("1\r\nx\r\n0\r\n{trailers}\r\n")).await.unwrap();
    let response = client.response().await;
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    response
        .body
        .trailers
        .iter()
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap()))
        .collect()
}

#[tokio::test]
async fn trailers_of_a_request_say_nothing_that_its_fields_may_not() {
    let sent = [&NOT_UP[..], &UP].concat();
    for protocol in ["http1", "http2"] {
        let upstream = Upstream::start(HeaderMap::new()).await;
        let world = scene(protocol, &upstream).await;
        // What HTTP/2 forbids altogether ends the request, and its sender's library refuses it first.
        let forbidden = ["keep-alive", "proxy-connection", "te", "upgrade"];
        let allowed: Vec<&str> = sent.iter().copied().filter(|name| !forbidden.contains(name)).collect();
        over_http2(&world, map(&allowed)).await;
        assert_eq!(names(&upstream.last()), UP, "HTTP/2 to {protocol}");
        over_http1(&world, &sent, &[]).await;
        assert_eq!(names(&upstream.last()), UP, "HTTP/1.1 to {protocol}");
    }
}

#[tokio::test]
async fn trailers_of_a_response_say_nothing_that_its_fields_may_not() {
    let sent = [&NOT_DOWN[..], &DOWN].concat();
    let allowed: Vec<&str> = sent.iter().copied().filter(|name| *name != "keep-alive").collect();
    for protocol in ["http1", "http2"] {
        let upstream = Upstream::start(map(&allowed)).await;
        let world = scene(protocol, &upstream).await;
        assert_eq!(names(&over_http2(&world, map(&UP)).await), DOWN, "{protocol} to HTTP/2");
        assert_eq!(names(&over_http1(&world, &UP, &[]).await), DOWN, "{protocol} to HTTP/1.1");
    }
    let setup = Setup::new().await;
    let trailers: String = sent.iter().map(|name| format!("{name}: evil\r\n")).collect();
    let bytes = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: {}\r\n\r\n2\r\nok\r\n0\r\n{trailers}\r\n",
        sent.join(", ")
    );
    setup.upstream.always_this(RawResponse::raw(bytes));
    let edits = "response_headers = { set = { x-set-here = \"ours\" }, remove = [\"x-removed-here\"] }";
    let world = setup.route(edits).start().await;
    assert_eq!(names(&over_http1(&world, &UP, &[]).await), DOWN);
    assert_eq!(names(&over_http2(&world, map(&UP)).await), DOWN);
}

#[tokio::test]
async fn trailers_that_connection_names_stay_on_their_hop() {
    let upstream = Upstream::start(HeaderMap::new()).await;
    let world = scene("http1", &upstream).await;
    over_http1(&world, &["x-private", "x-sum"], &[("Connection", "x-private, te")]).await;
    assert_eq!(names(&upstream.last()), ["x-sum"]);

    let setup = Setup::new().await;
    let bytes = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: X-Private\r\ntrailer: x-private, x-sum\r\n\r\n2\r\nok\r\n0\r\nx-private: 1\r\nx-sum: 7\r\n\r\n";
    setup.upstream.always_this(RawResponse::raw(bytes));
    let world = setup.start().await;
    assert_eq!(names(&over_http1(&world, &UP, &[]).await), ["x-sum"]);
    assert_eq!(names(&over_http2(&world, map(&UP)).await), ["x-sum"]);
}

#[tokio::test]
async fn trailers_of_a_replay_are_as_clean() {
    let setup = Setup::new().await;
    setup.upstream.next(RawResponse::unauthorized());
    let world = setup.start().await;
    over_http1(&world, &["authorization", "x-request-id", "x-sum"], &[]).await;
    let requests = world.upstream().requests();
    assert_eq!(requests.len(), 2);
    for request in requests {
        assert_eq!(request.body.trailers, [("x-sum".to_owned(), "evil".to_owned())]);
    }
}
