use std::convert::Infallible;

use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

const LIMIT: usize = 64 * 1024;

fn request() -> Request<Full<Bytes>> {
    Request::post("https://idp.example/token?k=v")
        .header(HOST, "idp.example")
        .body(Full::from("grant_type=client_credentials"))
        .unwrap()
}

/// Sends the request and returns the response's bytes. Returns what the server read.
async fn exchange(response: &[u8], close: bool) -> (Result<IssuerResponse, ExchangeError>, String) {
    let (ours, mut theirs) = duplex(1024 * 1024);
    let bytes = response.to_vec();
    let server = tokio::spawn(async move {
        let seen = read_request(&mut theirs).await;
        theirs.write_all(&bytes).await.unwrap();
        if close {
            drop(theirs);
        } else {
            // Ends when the client closes the connection.
            let _ = theirs.read_to_end(&mut Vec::new()).await;
        }
        seen
    });
    let deadline = Deadline::after(Some(Duration::from_secs(10)));
    let response = over(ours, false, request(), LIMIT, deadline).await;
    (response, server.await.unwrap())
}

async fn read_request(stream: &mut DuplexStream) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(b"grant_type=client_credentials") {
        assert!(stream.read_buf(&mut seen).await.unwrap() > 0, "the request ended early");
    }
    String::from_utf8(seen).unwrap()
}

fn body(response: IssuerResponse) -> Result<String, BodyError> {
    response.body.map(|body| String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn t01_http1_sends_the_origin_form() {
    let (response, seen) = exchange(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", false).await;
    let response = response.ok().unwrap();
    assert_eq!((response.status, body(response)), (StatusCode::OK, Ok("{}".to_owned())));
    assert!(seen.starts_with("POST /token?k=v HTTP/1.1\r\n"), "{seen}");
    assert!(seen.contains("host: idp.example\r\n") && seen.contains("connection: close\r\n"), "{seen}");
    assert!(seen.contains("content-length: 29\r\n"), "{seen}");
}

#[tokio::test]
async fn t14_a_body_that_breaks_off_is_lost_but_its_status_is_not() {
    let (response, _) = exchange(b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{\"acc", true).await;
    let response = response.ok().unwrap();
    assert_eq!((response.status, body(response)), (StatusCode::OK, Err(BodyError::CutOff)));
}

#[tokio::test]
async fn t22_reading_stops_at_the_limit() {
    let announced = b"HTTP/1.1 200 OK\r\ncontent-length: 10000000\r\n\r\n".to_vec();
    let (response, _) = exchange(&announced, false).await;
    assert_eq!(body(response.ok().unwrap()), Err(BodyError::TooLarge(LIMIT)));

    let mut endless = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..17 {
        endless.extend(format!("1000\r\n{}\r\n", "x".repeat(0x1000)).bytes());
    }
    // The server keeps the connection open: reading ended by itself.
    let (response, _) = exchange(&endless, false).await;
    assert_eq!(body(response.ok().unwrap()), Err(BodyError::TooLarge(LIMIT)));

    let exact = format!("HTTP/1.1 200 OK\r\ncontent-length: {LIMIT}\r\n\r\n{}", "x".repeat(LIMIT));
    let (response, _) = exchange(exact.as_bytes(), false).await;
    assert_eq!(body(response.ok().unwrap()).map(|body| body.len()), Ok(LIMIT));
}

#[tokio::test]
async fn t26_interim_responses_are_skipped() {
    let response = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n\
                   HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
    let (response, _) = exchange(response, false).await;
    assert_eq!(body(response.ok().unwrap()), Ok("{}".to_owned()));
}

#[tokio::test]
async fn t37_a_connection_that_closes_or_is_not_http() {
    let (response, _) = exchange(b"", true).await;
    assert!(matches!(response, Err(ExchangeError::Closed(_))));
    let (response, _) = exchange(b"SSH-2.0-OpenSSH_9.9\r\n\r\n", false).await;
    assert!(matches!(response, Err(ExchangeError::NotHttp(_))));
    let huge = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(2 * HEAD_LIMIT as usize));
    let (response, _) = exchange(huge.as_bytes(), false).await;
    assert!(matches!(response, Err(ExchangeError::NotHttp(_))));
}

#[tokio::test(start_paused = true)]
async fn t38_t39_t40_the_deadline_covers_every_step() {
    for (head, doing) in [
        ("", "waiting for the response"),
        ("HTTP/1.1 200 OK\r\n", "waiting for the response"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", "reading the response"),
    ] {
        let begun = Instant::now();
        let (response, _) = exchange(head.as_bytes(), false).await;
        let Err(ExchangeError::Timeout { doing: found }) = response else { panic!("no timeout") };
        assert_eq!(found, doing);
        assert_eq!(begun.elapsed().as_secs(), 10);
    }
}

#[tokio::test(start_paused = true)]
async fn t40_a_dripping_body_does_not_move_the_deadline() {
    let (ours, mut theirs) = duplex(1024);
    tokio::spawn(async move {
        read_request(&mut theirs).await;
        theirs.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n").await.unwrap();
        while theirs.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    });
    let begun = Instant::now();
    let deadline = Deadline::after(Some(Duration::from_secs(12)));
    let response = over(ours, false, request(), LIMIT, deadline).await;
    assert!(matches!(response, Err(ExchangeError::Timeout { .. })));
    assert_eq!(begun.elapsed().as_secs(), 12);
}

#[tokio::test]
async fn the_connection_is_closed_afterwards() {
    let (ours, mut theirs) = duplex(1024);
    let server = tokio::spawn(async move {
        read_request(&mut theirs).await;
        theirs.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
        // Without a limit, this would wait for ever.
        theirs.read_to_end(&mut Vec::new()).await.unwrap()
    });
    let response = over(ours, false, request(), LIMIT, Deadline::after(None)).await;
    assert_eq!(body(response.ok().unwrap()), Ok("{}".to_owned()));
    assert_eq!(server.await.unwrap(), 0);
}

#[tokio::test]
async fn http2_sends_the_authority_and_no_host() {
    let (ours, theirs) = duplex(64 * 1024);
    let server = tokio::spawn(async move {
        let service = service_fn(async |request: Request<Incoming>| {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let host = head.headers.contains_key(HOST) || head.headers.contains_key(CONNECTION);
            let seen = format!("{} {} {host} {}", head.method, head.uri, String::from_utf8_lossy(&body));
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(seen)))
        });
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(theirs), service)
            .await;
    });
    let response = over(ours, true, request(), LIMIT, Deadline::after(None)).await;
    assert_eq!(
        body(response.ok().unwrap()),
        Ok("POST https://idp.example/token?k=v false grant_type=client_credentials".to_owned())
    );
    // The client closed the connection, so the server's side ends too.
    server.await.unwrap();
}

#[test]
fn a_growing_buffer_keeps_its_bytes() {
    let mut buffer = Zeroizing::new(Vec::new());
    for piece in [b"abc".as_slice(), b"", b"defgh", &[b'x'; 100]] {
        append(&mut buffer, piece);
    }
    assert_eq!(buffer.len(), 108);
    assert!(buffer.starts_with(b"abcdefghx"));
}
