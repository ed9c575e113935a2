//! CONNECT through an egress proxy (RFC 9110 section 9.3.6).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::connect::{ConnectError, ConnectErrorKind};
use super::dial::os_words;
use crate::config::Source;

/// The longest answer head that is read.
const HEAD_LIMIT: usize = 8 * 1024;

/// The egress proxy of one connector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EgressProxy {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) credentials: ProxyCredentials,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ProxyCredentials {
    None,
    /// `user:password`, read for every connection.
    Source(Source),
    /// From the environment, ready-made and marked sensitive.
    Header(HeaderValue),
}

impl EgressProxy {
    /// How errors call it.
    pub(super) fn who(&self) -> String {
        format!("the egress proxy {}", authority(&self.host, self.port))
    }

    /// Asks for a tunnel to `authority`. What follows the answer's head is left in the socket, since an HTTP/2
    /// server may speak first.
    pub(super) async fn open(&self, stream: &mut TcpStream, authority: &str) -> Result<(), ConnectError> {
        let request = self.request(authority)?;
        stream.write_all(&request).await.map_err(|error| self.failed(&os_words(&error)))?;
        let head = self.read_head(stream).await?;
        match status(&head) {
            Some(200..=299) => Ok(()),
            Some(407) => Err(self.failed(&format!(
                "answered 407 to CONNECT {authority}: it wants credentials, or refuses those given in `proxy`"
            ))),
            Some(code) => Err(self.failed(&format!("answered {code} to CONNECT {authority}"))),
            None => Err(self.failed("answered with something that is not HTTP; is it an http:// proxy?")),
        }
    }

    fn failed(&self, why: &str) -> ConnectError {
        ConnectError { kind: ConnectErrorKind::Proxy, message: format!("{}: {why}", self.who()) }
    }

    fn request(&self, authority: &str) -> Result<Zeroizing<Vec<u8>>, ConnectError> {
        // As large as any credentials need, so that no copy of them is left behind by growing.
        let mut request = Zeroizing::new(Vec::with_capacity(HEAD_LIMIT));
        request
            .extend_from_slice(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n").as_bytes());
        match &self.credentials {
            ProxyCredentials::None => {}
            ProxyCredentials::Source(source) => {
                let encoded = self.basic(source)?;
                request.extend_from_slice(b"Proxy-Authorization: Basic ");
                request.extend_from_slice(encoded.as_bytes());
                request.extend_from_slice(b"\r\n");
            }
            ProxyCredentials::Header(value) => {
                request.extend_from_slice(b"Proxy-Authorization: ");
                request.extend_from_slice(value.as_bytes());
                request.extend_from_slice(b"\r\n");
            }
        }
        request.extend_from_slice(b"\r\n");
        Ok(request)
    }

    /// RFC 7617 section 2; the colon is added where the operator left it out.
    fn basic(&self, source: &Source) -> Result<Zeroizing<String>, ConnectError> {
        let (userinfo, stale) = source.read_or_last_good().map_err(|error| ConnectError {
            kind: ConnectErrorKind::Settings,
            message: format!("the credentials for {}: {error}", self.who()),
        })?;
        if let Some(error) = stale {
            tracing::warn!(
                event = "egress.credentials_kept", proxy = %self.who(), %error,
                "the proxy's credentials can't be read; the last ones serve on"
            );
        }
        let userinfo = userinfo.expose();
        if userinfo.contains(&b':') {
            return Ok(Zeroizing::new(STANDARD.encode(userinfo)));
        }
        let mut with_colon = Zeroizing::new(Vec::with_capacity(userinfo.len() + 1));
        with_colon.extend_from_slice(userinfo);
        with_colon.push(b':');
        Ok(Zeroizing::new(STANDARD.encode(with_colon.as_slice())))
    }

    async fn read_head(&self, stream: &mut TcpStream) -> Result<Vec<u8>, ConnectError> {
        let broken = |error: std::io::Error| self.failed(&os_words(&error));
        let mut head: Vec<u8> = Vec::with_capacity(512);
        let mut window = [0u8; 1024];
        loop {
            let seen = stream.peek(&mut window).await.map_err(broken)?;
            if seen == 0 {
                return Err(self.failed("closed the connection instead of answering CONNECT"));
            }
            let before = head.len();
            head.extend_from_slice(window.get(..seen).unwrap_or_default());
            let end = head_end(&head);
            let consumed = end.unwrap_or(head.len()) - before;
            stream.read_exact(window.get_mut(..consumed).unwrap_or_default()).await.map_err(broken)?;
            if let Some(end) = end {
                head.truncate(end);
                return Ok(head);
            }
            if head.len() > HEAD_LIMIT {
                return Err(self.failed("answered CONNECT with a head of more than 8 KiB"));
            }
        }
    }
}

/// Host and port as they stand in a URL.
pub(super) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Where the head ends: after the first empty line; a bare LF counts as a line end (RFC 9112 section 2.2).
fn head_end(bytes: &[u8]) -> Option<usize> {
    let crlf = bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
    let lf = bytes.windows(2).position(|window| window == b"\n\n").map(|at| at + 2);
    match (crlf, lf) {
        (Some(crlf), Some(lf)) => Some(crlf.min(lf)),
        (crlf, lf) => crlf.or(lf),
    }
}

/// The code of an `HTTP/1.x` status line (RFC 9112 section 4).
fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\n').next()?;
    let rest = line.strip_prefix(b"HTTP/1.1 ").or_else(|| line.strip_prefix(b"HTTP/1.0 "))?;
    let (code, after) = rest.split_at_checked(3)?;
    let ends = matches!(after.first(), None | Some(b' ' | b'\r'));
    let code = std::str::from_utf8(code).ok()?;
    if ends && code.bytes().all(|byte| byte.is_ascii_digit()) { code.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_status() {
        assert_eq!(status(b"HTTP/1.1 200 Connection established\r\n\r\n"), Some(200));
        assert_eq!(status(b"HTTP/1.0 407\r\n\r\n"), Some(407));
        assert_eq!(status(b"HTTP/1.1 2000\r\n\r\n"), None);
        assert_eq!(status(b"HTTP/2 200\r\n\r\n"), None);
        assert_eq!(status(b"HTTP/1.1 +20\r\n\r\n"), None);
        assert_eq!(status(b"SSH-2.0-OpenSSH\r\n"), None);
    }

    #[test]
    fn finds_the_end_of_the_head() {
        assert_eq!(head_end(b"HTTP/1.1 200 OK\r\n\r\nrest"), Some(19));
        assert_eq!(head_end(b"HTTP/1.1 200 OK\n\nrest\r\n\r\n"), Some(17));
        assert_eq!(head_end(b"HTTP/1.1 200 OK\r\n"), None);
    }

    #[test]
    fn an_ipv6_host_is_bracketed() {
        assert_eq!(authority("::1", 443), "[::1]:443");
        assert_eq!(authority("idp", 443), "idp:443");
    }
}
