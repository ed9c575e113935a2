//! An issuer that takes HTTP/2 and HTTP/1.1, and fails HTTP/2 requests in ways that a test chooses.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Response;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::tls::localhost;
use super::wire::Wire;

/// What becomes of a request over HTTP/2.
#[derive(Debug, Clone, Copy)]
pub enum Act {
    RawResponse,
    Reset(h2::Reason),
    /// The connection ends, and none of its requests was processed.
    GoAway,
}

type Script = Arc<dyn Fn(usize) -> Act + Send + Sync>;

pub struct H2Issuer {
    /// `https://localhost:PORT`; its document names `/token` below it.
    pub url: String,
    seen: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl H2Issuer {
    /// `act` chooses for each connection over HTTP/2, from 1. Over HTTP/1.1 each request gets its response.
    pub async fn start(act: impl Fn(usize) -> Act + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let acceptor = TlsAcceptor::from(localhost().server(&["h2", "http/1.1"]));
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let served = Served { url: url.clone(), seen: Arc::clone(&seen), act: Arc::new(act) };
        let task = tokio::spawn(async move {
            let mut over_http2 = 0;
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                let served = served.clone();
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    over_http2 += 1;
                    tokio::spawn(async move { served.http2(stream, over_http2).await });
                } else {
                    tokio::spawn(async move { served.http1(Wire::new(stream)).await });
                }
            }
        });
        Self { url, seen, task }
    }

    /// Each request so far: `h2 /token`, `http/1.1 /token`.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for H2Issuer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Served {
    url: String,
    seen: Arc<Mutex<Vec<String>>>,
    act: Script,
}

impl Served {
    fn saw(&self, version: &str, path: &str) {
        self.seen.lock().unwrap().push(format!("{version} {path}"));
    }

    fn body(&self, path: &str) -> String {
        let url = &self.url;
        match path {
            "/token" => r#"{"access_token":"t","token_type":"Bearer","expires_in":2}"#.to_owned(),
            _ => format!(r#"{{"issuer":"{url}","token_endpoint":"{url}/token"}}"#),
        }
    }

    async fn http1(&self, mut wire: Wire) {
        let Ok(Some(head)) = wire.head().await else { return };
        let _body = wire.body(&head, false).await;
        self.saw("http/1.1", head.word(1));
        let body = self.body(head.word(1));
        let length = body.len();
        let response = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let _sent = wire.send(response).await;
    }

    async fn http2(&self, stream: TlsStream<TcpStream>, connection: usize) {
        let act = (self.act)(connection);
        if matches!(act, Act::GoAway) {
            self.saw("h2", "unread");
            return go_away(Wire::new(stream)).await;
        }
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let path = request.uri().path();
            self.saw("h2", path);
            if let Act::Reset(reason) = act {
                respond.send_reset(reason);
                continue;
            }
            let head = Response::builder().header("content-type", "application/json").body(()).unwrap();
            let mut body = respond.send_response(head, false).unwrap();
            body.send_data(Bytes::from(self.body(path)), true).unwrap();
        }
    }
}

/// Waits for a request, and ends the connection by a GOAWAY with the last stream id 0. h2's own server cannot say that
/// of a request that it has read.
async fn go_away(mut wire: Wire) {
    const PREFACE: usize = 24;
    const HEADERS: u8 = 1;
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    wire.send(SETTINGS).await.unwrap();
    wire.exact(PREFACE).await.unwrap();
    loop {
        let head = wire.exact(9).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        wire.exact(usize::try_from(length).unwrap()).await.unwrap();
        if head[3] == HEADERS {
            break;
        }
    }
    wire.send(GOAWAY).await.unwrap();
    // Reads on until the client closes, so that its bytes do not turn the end into a reset.
    while wire.some().await.is_ok_and(|bytes| !bytes.is_empty()) {}
}
