//! A small HTTP server for the demo's issuer and upstream.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;

/// The most of a request's body that is read.
const MAX_BODY: usize = 64 * 1024;

/// A request with its whole body.
pub(super) type DemoRequest = Request<Bytes>;
pub(super) type Answer = Response<Full<Bytes>>;

/// Serves on a free loopback port, on a thread of its own, until the process ends.
pub(super) fn start(
    name: &str,
    answer: impl Fn(&DemoRequest) -> Answer + Send + Sync + 'static,
) -> io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let listener = {
        let _entered = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || runtime.block_on(accept(listener, Arc::new(answer))))?;
    Ok(address)
}

async fn accept<F>(listener: tokio::net::TcpListener, answer: Arc<F>)
where
    F: Fn(&DemoRequest) -> Answer + Send + Sync + 'static,
{
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of files, most likely: others must get the time to close theirs.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let answer = Arc::clone(&answer);
        let service = service_fn(move |request| {
            let answer = Arc::clone(&answer);
            async move { Ok::<_, Infallible>(respond(request, &*answer).await) }
        });
        tokio::spawn(
            http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service),
        );
    }
}

async fn respond(request: Request<Incoming>, answer: &(impl Fn(&DemoRequest) -> Answer + Sync)) -> Answer {
    let (head, body) = request.into_parts();
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => answer(&Request::from_parts(head, body.to_bytes())),
        Err(_) => json(StatusCode::PAYLOAD_TOO_LARGE, &serde_json::json!({"error": "the body is too large"})),
    }
}

pub(super) fn json(status: StatusCode, value: &Value) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(format!("{value:#}\n"))));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
