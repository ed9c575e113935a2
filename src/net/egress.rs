//! Opens the tunnel of an egress proxy (CONNECT, RFC 9110 section 9.3.6).

use std::error::Error as _;
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHORIZATION};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::failure::{ConnectError, ConnectErrorKind, os_words};
use crate::config::Source;
use crate::secret::Secret;

/// The longest response head that is read.
const HEAD_LIMIT: usize = 16 * 1024;
/// The most bytes that are read before the tunnel is open, because the parser accepts any number of interim responses.
const ANSWER_LIMIT: u64 = 256 * 1024;

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
    /// The header field's value from the environment, marked sensitive.
    Header(HeaderValue),
}

/// What to do if a proxy does not understand a plain request.
const PROXY_PORT_HINT: &str = "if the port speaks TLS, give the proxy's port for http://";

impl EgressProxy {
    /// The proxy's name in errors.
    pub(super) fn who(&self) -> String {
        format!("the egress proxy {}", authority(&self.host, self.port))
    }

    /// Opens a tunnel to `authority`. Returns the bytes that followed the response's head, because an HTTP/2 server may send
    /// first.
    pub(super) async fn open(
        &self,
        stream: TcpStream,
        authority: &str,
    ) -> Result<(TcpStream, Bytes), ConnectError> {
        let request = self.request(authority).await?;
        let (answer, question) = stream.into_split();
        let io = TokioIo::new(tokio::io::join(answer.take(ANSWER_LIMIT), question));
        let (mut sender, connection) = http1::Builder::new()
            // Old proxies compare field names case-sensitively.
            .title_case_headers(true)
            .max_buf_size(HEAD_LIMIT)
            .handshake(io)
            .await
            .map_err(|error| self.broken(&error))?;
        let asked = async {
            let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
            self.judge(response.status(), authority)
        };
        let driven = async { connection.without_shutdown().await.map_err(|error| self.broken(&error)) };
        let ((), parts) = tokio::try_join!(biased; asked, driven)?;
        let (answer, question) = parts.io.into_inner().into_inner();
        let stream = answer.into_inner().reunite(question).expect("the halves of one stream");
        Ok((stream, parts.read_buf))
    }

    fn judge(&self, status: StatusCode, authority: &str) -> Result<(), ConnectError> {
        match status.as_u16() {
            // hyper opens no tunnel after a 204, and no proxy uses it.
            200..=203 | 205..=299 => Ok(()),
            407 => Err(self.failed(&format!(
                "responded 407 to CONNECT {authority}: it requires credentials, or refuses those in `proxy`"
            ))),
            // So do nginx and Go's servers to a plain request on a port for TLS.
            400 => Err(self.failed(&format!("responded 400 to CONNECT {authority}; {PROXY_PORT_HINT}"))),
            code => Err(self.failed(&format!("responded {code} to CONNECT {authority}"))),
        }
    }

    fn broken(&self, error: &hyper::Error) -> ConnectError {
        if error.is_parse_too_large() {
            return self.failed("responded to CONNECT with a head of more than 16 KiB");
        }
        if error.is_parse() {
            return self.failed(&format!("its response is not HTTP; {PROXY_PORT_HINT}"));
        }
        match error.source().and_then(|cause| cause.downcast_ref::<io::Error>()) {
            Some(error) => self.failed(&os_words(error)),
            None => self.failed("closed the connection instead of answering CONNECT"),
        }
    }

    fn failed(&self, why: &str) -> ConnectError {
        ConnectError { kind: ConnectErrorKind::Proxy, message: format!("{}: {why}", self.who()) }
    }

    async fn request(&self, authority: &str) -> Result<Request<Empty<Bytes>>, ConnectError> {
        let mut request = Request::builder().method(Method::CONNECT).uri(authority).header(HOST, authority);
        match &self.credentials {
            ProxyCredentials::None => {}
            ProxyCredentials::Source(source) => {
                request = request.header(PROXY_AUTHORIZATION, self.basic(source).await?);
            }
            ProxyCredentials::Header(value) => request = request.header(PROXY_AUTHORIZATION, value),
        }
        request.body(Empty::new()).map_err(|_| self.failed(&format!("can't be asked for {authority}")))
    }

    /// The value of RFC 7617 section 2. A missing colon is added.
    async fn basic(&self, source: &Source) -> Result<HeaderValue, ConnectError> {
        let (userinfo, stale) = source.to_send_aside().await.map_err(|error| ConnectError {
            kind: ConnectErrorKind::Settings,
            message: format!("the credentials for {}: {error}", self.who()),
        })?;
        if let Some(error) = stale {
            tracing::warn!(
                event = "egress.stale_credentials_used", proxy = %self.who(), %error,
                "the proxy's credentials can't be read; the last ones serve on"
            );
        }
        Ok(basic(userinfo.expose()))
    }
}

fn basic(userinfo: &[u8]) -> HeaderValue {
    // With the final capacity, so that growing leaves no copy behind.
    let mut plain = Zeroizing::new(Vec::with_capacity(userinfo.len() + 1));
    plain.extend_from_slice(userinfo);
    if !userinfo.contains(&b':') {
        plain.push(b':');
    }
    const SCHEME: &str = "Basic ";
    let mut text = String::with_capacity(SCHEME.len() + plain.len().div_ceil(3) * 4);
    text.push_str(SCHEME);
    STANDARD.encode_string(&*plain, &mut text);
    #[expect(clippy::expect_used, reason = "base64 is what a header may have")]
    let mut value = HeaderValue::from_maybe_shared(Secret::from(text).into_bytes())
        .expect("base64 is made of letters, digits, +, / and =");
    value.set_sensitive(true);
    value
}

/// Host and port as in a URL.
pub(super) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_host_is_bracketed() {
        assert_eq!(authority("::1", 443), "[::1]:443");
        assert_eq!(authority("idp", 443), "idp:443");
    }

    #[test]
    fn a_user_without_a_password_gets_its_colon() {
        assert_eq!(basic(b"user"), "Basic dXNlcjo=");
        assert_eq!(basic(b"user:p"), "Basic dXNlcjpw");
        assert!(basic(b"user").is_sensitive());
    }
}
