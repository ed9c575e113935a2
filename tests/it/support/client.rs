//! A caller of the proxy.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsConnector;

use super::message::{Head, Response};
use super::wire::Wire;
use super::within;

/// A request, made into bytes without a second thought about its sense.
#[derive(Clone)]
pub struct RawRequest {
    method: String,
    target: String,
    version: &'static str,
    /// `None`: the address that the request goes to.
    host: Option<Option<String>>,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl RawRequest {
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            version: "HTTP/1.1",
            host: None,
            headers: Vec::new(),
            body: None,
        }
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub fn post(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", target).body(body)
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn host(mut self, host: &str) -> Self {
        self.host = Some(Some(host.to_owned()));
        self
    }

    pub fn without_host(mut self) -> Self {
        self.host = Some(None);
        self
    }

    pub fn http10(mut self) -> Self {
        self.version = "HTTP/1.0";
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    pub fn bytes(&self, host: &str) -> Vec<u8> {
        let mut bytes = format!("{} {} {}\r\n", self.method, self.target, self.version).into_bytes();
        let host = match &self.host {
            None => Some(host),
            Some(given) => given.as_deref(),
        };
        if let Some(host) = host {
            bytes.extend_from_slice(format!("Host: {host}\r\n").as_bytes());
        }
        for (name, value) in &self.headers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if let Some(body) = &self.body {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }
}

/// One connection to the proxy.
pub struct Client {
    pub wire: Wire,
    host: String,
}

impl Client {
    pub async fn tcp(address: SocketAddr) -> Self {
        Self::try_tcp(address).await.unwrap()
    }

    /// For an address where perhaps nobody listens.
    pub async fn try_tcp(address: SocketAddr) -> std::io::Result<Self> {
        let wire = within("a connection to the proxy", Wire::tcp(address)).await?;
        Ok(Self { wire, host: address.to_string() })
    }

    /// A connection that is open already, to `host`.
    pub fn over(wire: Wire, host: &str) -> Self {
        Self { wire, host: host.to_owned() }
    }

    pub async fn unix(path: &Path) -> Self {
        let wire = within("a connection to the proxy", Wire::unix(path)).await.unwrap();
        Self { wire, host: "localhost".to_owned() }
    }

    pub async fn tls(address: SocketAddr, config: Arc<rustls::ClientConfig>) -> std::io::Result<Self> {
        let stream = tokio::net::TcpStream::connect(address).await?;
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        Ok(Self { wire: Wire::new(stream), host: format!("localhost:{}", address.port()) })
    }

    pub async fn send(&mut self, request: &RawRequest) {
        let bytes = request.bytes(&self.host);
        self.wire.send(bytes).await.unwrap();
    }

    /// Sends the request and reads the whole response.
    pub async fn exchange(&mut self, request: &RawRequest) -> Response {
        self.send(request).await;
        self.response_to(&request.method).await
    }

    /// The next response's head, interim ones skipped.
    pub async fn head(&mut self) -> Head {
        loop {
            let head = within("a response", self.wire.head()).await.expect("a whole head");
            let head = head.expect("a response, not the end of the connection");
            if head.word(1) == "101" || !head.word(1).starts_with('1') {
                return head;
            }
        }
    }

    pub async fn response(&mut self) -> Response {
        self.response_to("GET").await
    }

    pub async fn response_to(&mut self, method: &str) -> Response {
        let head = self.head().await;
        let status = head.word(1).parse().unwrap();
        let bodiless = method == "HEAD" || [101, 204, 304].contains(&status);
        let body = if bodiless {
            super::message::Body::default()
        } else {
            within("a response's body", self.wire.body(&head, true)).await.expect("a whole body")
        };
        Response { status, head, body }
    }

    /// The next response, or `None` where the connection ends without one.
    pub async fn response_or_end(&mut self) -> Option<Response> {
        let head = within("a response or the end", self.wire.head()).await.ok()??;
        let status = head.word(1).parse().ok()?;
        let body = within("a response's body", self.wire.body(&head, true)).await.ok()?;
        Some(Response { status, head, body })
    }
}
