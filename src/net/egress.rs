//! Opens the tunnel of an egress proxy (CONNECT, RFC 9110 section 9.3.6).

use std::error::Error as _;
use std::io;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHORIZATION, VIA};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
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

/// What this process calls itself in `Via` of its CONNECT requests (RFC 9110 section 7.6.3). Not set while it serves nothing.
static OWN_NAME: OnceLock<HeaderValue> = OnceLock::new();
/// The error type of RFC 9209 section 2.3 that the response to a CONNECT of one's own has.
pub const LOOP: &str = "proxy_loop_detected";

/// From now on, this process recognizes its own CONNECT requests. An egress proxy may lead back to a listener by a name, by another
/// proxy, or by a port that was free, which the config does not show.
pub fn recognize_own() {
    let name = || format!("1.1 bearerd-{:016x}", fastrand::u64(..));
    OWN_NAME.get_or_init(|| HeaderValue::try_from(name()).expect("letters, digits, and a hyphen"));
}

/// Whether a CONNECT with this head comes from this process.
pub fn is_own(headers: &HeaderMap) -> bool {
    let Some(own) = OWN_NAME.get() else { return false };
    let mut hops = headers.get_all(VIA).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    hops.any(|hop| hop.trim_ascii() == own.as_bytes())
}

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
        format!("the egress proxy {}", host_and_port(&self.host, self.port))
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
        // hyper opens no tunnel after a 204, but gives the connection back without the sender. Only bytes right behind the 204 are then
        // an error.
        let asked = async move {
            let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
            self.judge(response.status(), response.headers(), authority)
        };
        let driven = async { connection.without_shutdown().await.map_err(|error| self.broken(&error)) };
        let ((), parts) = tokio::try_join!(biased; asked, driven)?;
        let (answer, question) = parts.io.into_inner().into_inner();
        let stream = answer.into_inner().reunite(question).expect("the halves of one stream");
        Ok((stream, parts.read_buf))
    }

    fn judge(&self, status: StatusCode, headers: &HeaderMap, authority: &str) -> Result<(), ConnectError> {
        let is_loop = |line: &HeaderValue| line.to_str().is_ok_and(|line| line.contains(LOOP));
        if headers.get_all("proxy-status").iter().any(is_loop) {
            return Err(self.failed(
                "it leads back to bearerd's own listener: `proxy`, or with \"env\" the variable HTTPS_PROXY of bearerd itself, must \
                 name the proxy that leads to other networks",
            ));
        }
        match status.as_u16() {
            200..=299 => Ok(()),
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
        if let Some(own) = OWN_NAME.get() {
            request = request.header(VIA, own);
        }
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

/// As in a URL. `host`: an IPv6 address without brackets.
pub fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_host_is_bracketed() {
        assert_eq!(host_and_port("::1", 443), "[::1]:443");
        assert_eq!(host_and_port("idp", 443), "idp:443");
    }

    #[test]
    fn a_user_without_a_password_gets_its_colon() {
        assert_eq!(basic(b"user"), "Basic dXNlcjo=");
        assert_eq!(basic(b"user:p"), "Basic dXNlcjpw");
        assert!(basic(b"user").is_sensitive());
    }
}
