//! One new connection: resolve, connect to any address of the name, CONNECT through a proxy, TLS.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::dial::{dial, os_words};
use super::explain;
use super::stream::Stream;
use super::tls::{ClientTls, TlsSettingsError};
use super::tunnel::{EgressProxy, ProxyCredentials, authority};
use crate::config::{Egress, TlsOptions};

/// What is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `host` is a name or an address, IPv6 without brackets.
    Tcp {
        host: String,
        port: u16,
        tls: bool,
    },
    Unix(PathBuf),
}

/// Which HTTP versions are offered by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    Http1,
    Http2,
    Both,
}

/// Makes connections to one target. TLS settings are read from disk at the first use, off the start path, and again
/// for the next connection after one of their files has changed.
pub struct Connector {
    target: Target,
    who: String,
    tls: ClientTls,
    via: Via,
    offer: Offer,
    timeout: Option<Duration>,
}

/// A new connection.
pub struct Connected {
    pub stream: Stream,
    /// ALPN chose `h2`; without TLS: only [`Offer::Http2`] was offered (prior knowledge, RFC 9113 section 3.3).
    pub http2: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectErrorKind {
    Dns,
    Refused,
    /// Any other failure to connect.
    Unreachable,
    Timeout,
    /// A certificate was not accepted (either side's).
    Certificate,
    /// Any other TLS failure.
    Tls,
    /// The egress proxy refused or broke off.
    Proxy,
    /// A file (CA, certificate, key) could not be used.
    Settings,
}

/// Why no connection came about: what happened, to whom, and (where known) what to do. No secret is in it.
#[derive(Debug, Clone)]
pub struct ConnectError {
    pub kind: ConnectErrorKind,
    pub message: String,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConnectError {}

/// The way out of this machine, settled once.
enum Via {
    Direct,
    Proxy(EgressProxy),
    /// The environment names a proxy of a kind that is not spoken here.
    Unsupported(String),
}

impl Connector {
    /// Reads `HTTPS_PROXY` and its kin now, where `egress` says so. Unix sockets are always connected to directly.
    pub fn new(
        target: Target,
        tls: TlsOptions,
        egress: Egress,
        offer: Offer,
        timeout: Option<Duration>,
    ) -> Self {
        let (who, via) = match &target {
            Target::Unix(path) => (format!("unix:{}", path.display()), Via::Direct),
            Target::Tcp { host, port, tls } => {
                let who = authority(host, *port);
                let via = match egress {
                    Egress::Direct => Via::Direct,
                    Egress::Env => from_environment(&Matcher::from_env(), host, &who, *tls),
                    Egress::Proxy { host, port, userinfo } => {
                        let credentials = userinfo.map_or(ProxyCredentials::None, ProxyCredentials::Source);
                        Via::Proxy(EgressProxy { host, port, credentials })
                    }
                };
                (who, via)
            }
        };
        Self { target, who, tls: ClientTls::new(tls, offer), via, offer, timeout }
    }

    /// Whom it connects to, as errors call it: `host:port` or `unix:/path`.
    pub fn who(&self) -> &str {
        &self.who
    }

    /// `timeout` covers all of it.
    pub async fn connect(&self) -> Result<Connected, ConnectError> {
        // Boxed: connecting is rare, and every call's future would else be larger by this one.
        Box::pin(self.connect_in_time()).await
    }

    async fn connect_in_time(&self) -> Result<Connected, ConnectError> {
        let progress = Progress::default();
        let Some(limit) = self.timeout else { return self.connect_now(&progress).await };
        match tokio::time::timeout(limit, self.connect_now(&progress)).await {
            Ok(result) => result,
            Err(_) => Err(self.timed_out(limit, progress.step())),
        }
    }

    async fn connect_now(&self, progress: &Progress) -> Result<Connected, ConnectError> {
        match &self.target {
            Target::Unix(path) => {
                progress.enter(Step::Connecting);
                let stream = connect_unix(path).await?;
                Ok(Connected { stream: stream.into(), http2: self.offer == Offer::Http2 })
            }
            Target::Tcp { host, port, tls: false } => {
                let stream = self.reach(host, *port, progress).await?;
                Ok(Connected { stream: stream.into(), http2: self.offer == Offer::Http2 })
            }
            Target::Tcp { host, port, tls: true } => {
                // Before anything is sent: what is wrong with a file is told without a connection.
                let (config, name) = self.tls_settings(host).await?;
                let stream = self.reach(host, *port, progress).await?;
                progress.enter(Step::Handshake);
                let stream = TlsConnector::from(config)
                    .connect(name, stream)
                    .await
                    .map_err(|error| explain::handshake(&error, &self.who))?;
                let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                if self.offer == Offer::Http2 && !http2 {
                    return Err(ConnectError {
                        kind: ConnectErrorKind::Tls,
                        message: format!(
                            "{} does not offer HTTP/2 (ALPN); set protocol = \"auto\" or \"http1\"",
                            self.who
                        ),
                    });
                }
                Ok(Connected { stream: stream.into(), http2 })
            }
        }
    }

    async fn tls_settings(
        &self,
        host: &str,
    ) -> Result<(Arc<rustls::ClientConfig>, ServerName<'static>), ConnectError> {
        let config = self.tls.config().await.map_err(|TlsSettingsError(message)| ConnectError {
            kind: ConnectErrorKind::Settings,
            message: format!("the TLS settings for {}: {message}", self.who),
        })?;
        let name = self.tls.server_name(host);
        let parsed = ServerName::try_from(name.strip_suffix('.').unwrap_or(name).to_owned());
        let name = parsed.map_err(|_| ConnectError {
            kind: ConnectErrorKind::Settings,
            message: format!("{name} can't be a TLS server name; set tls.server_name"),
        })?;
        Ok((config, name))
    }

    /// A TCP connection whose other end is the target, through the egress proxy where there is one.
    async fn reach(&self, host: &str, port: u16, progress: &Progress) -> Result<TcpStream, ConnectError> {
        match &self.via {
            Via::Direct => dial(host, port, &self.who, progress).await,
            Via::Unsupported(message) => {
                Err(ConnectError { kind: ConnectErrorKind::Proxy, message: message.clone() })
            }
            Via::Proxy(proxy) => {
                let mut stream = dial(&proxy.host, proxy.port, &proxy.who(), progress).await?;
                progress.enter(Step::Tunnel);
                proxy.open(&mut stream, &authority(host, port)).await?;
                Ok(stream)
            }
        }
    }

    fn timed_out(&self, limit: Duration, step: Step) -> ConnectError {
        let proxy = match &self.via {
            Via::Proxy(proxy) => Some(proxy.who()),
            Via::Direct | Via::Unsupported(_) => None,
        };
        let still = match step {
            Step::Preparing => "still reading the TLS settings".to_owned(),
            Step::Resolving => "still waiting for DNS".to_owned(),
            Step::Connecting => match proxy {
                Some(proxy) => format!("{proxy} did not answer"),
                None => "no address of it answered".to_owned(),
            },
            Step::Tunnel => format!("{} did not open a tunnel", proxy.unwrap_or_default()),
            Step::Handshake => "it accepted, but the TLS handshake did not end".to_owned(),
        };
        ConnectError {
            kind: ConnectErrorKind::Timeout,
            message: format!(
                "no connection to {} within {}: {still}",
                self.who,
                humantime::format_duration(limit)
            ),
        }
    }
}

async fn connect_unix(path: &Path) -> Result<UnixStream, ConnectError> {
    UnixStream::connect(path).await.map_err(|error| {
        let who = format!("unix:{}", path.display());
        match error.kind() {
            io::ErrorKind::ConnectionRefused => ConnectError {
                kind: ConnectErrorKind::Refused,
                message: format!("nobody listens on {who}: is it running?"),
            },
            io::ErrorKind::NotFound => ConnectError {
                kind: ConnectErrorKind::Unreachable,
                message: format!("can't connect to {who}: there is no such file; is it running?"),
            },
            _ => ConnectError {
                kind: ConnectErrorKind::Unreachable,
                message: format!("can't connect to {who}: {}", os_words(&error)),
            },
        }
    })
}

/// What the environment says about one target. This machine itself is never reached through a proxy: that would end
/// on another machine, and a token meant for loopback would cross the network in the clear.
fn from_environment(matcher: &Matcher, host: &str, who: &str, tls: bool) -> Via {
    let local = host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    let scheme = if tls { "https" } else { "http" };
    let target = Uri::builder().scheme(scheme).authority(who).path_and_query("/").build();
    match target.ok().filter(|_| !local).and_then(|target| matcher.intercept(&target)) {
        None => Via::Direct,
        Some(intercept) => use_intercept(&intercept),
    }
}

fn use_intercept(intercept: &Intercept) -> Via {
    let uri = intercept.uri();
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    match uri.scheme_str() {
        Some("http") => Via::Proxy(EgressProxy {
            host,
            port: uri.port_u16().unwrap_or(80),
            credentials: intercept
                .basic_auth()
                .cloned()
                .map_or(ProxyCredentials::None, ProxyCredentials::Header),
        }),
        scheme => Via::Unsupported(format!(
            "the environment names a proxy of the scheme {} ({host}), but only http:// proxies (CONNECT) are \
             supported: change HTTPS_PROXY, or set `proxy` in the file",
            scheme.unwrap_or_default()
        )),
    }
}

/// How far a connection attempt has come: what a timeout tells.
#[derive(Default)]
pub(super) struct Progress(AtomicU8);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Preparing,
    Resolving,
    Connecting,
    Tunnel,
    Handshake,
}

impl Progress {
    pub(super) fn enter(&self, step: Step) {
        self.0.store(step as u8, Ordering::Relaxed);
    }

    fn step(&self) -> Step {
        match self.0.load(Ordering::Relaxed) {
            1 => Step::Resolving,
            2 => Step::Connecting,
            3 => Step::Tunnel,
            4 => Step::Handshake,
            _ => Step::Preparing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher() -> Matcher {
        Matcher::builder().https("http://user:p%40ss@egress:3128").no("corp.example,10.0.0.0/8").build()
    }

    fn proxied(host: &str, tls: bool) -> Option<EgressProxy> {
        match from_environment(&matcher(), host, &authority(host, 443), tls) {
            Via::Proxy(proxy) => Some(proxy),
            Via::Direct => None,
            Via::Unsupported(message) => panic!("{message}"),
        }
    }

    #[test]
    fn the_environments_proxy_is_obeyed() {
        let proxy = proxied("idp.example", true).unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port), ("egress", 3128));
        let ProxyCredentials::Header(value) = &proxy.credentials else { panic!("no credentials") };
        assert_eq!(value, "Basic dXNlcjpwQHNz");
        assert!(value.is_sensitive());
        assert!(!format!("{proxy:?}").contains("dXNlcjpwQHNz"));
    }

    #[test]
    fn no_proxy_http_and_this_machine_go_directly() {
        for (host, tls) in [
            ("a.corp.example", true),
            ("10.1.2.3", true),
            ("idp.example", false),
            ("localhost", true),
            ("::1", true),
        ] {
            assert_eq!(proxied(host, tls), None, "{host}");
        }
        assert!(proxied("2001:db8::1", true).is_some());
    }

    #[test]
    fn an_unsupported_proxy_is_refused_not_ignored() {
        let matcher = Matcher::builder().all("socks5://user:hunter2@egress:1080").build();
        let Via::Unsupported(message) = from_environment(&matcher, "idp.example", "idp.example:443", true)
        else {
            panic!("not refused")
        };
        assert!(message.contains("socks5 (egress)"), "{message}");
        assert!(!message.contains("hunter2"), "{message}");
    }

    #[test]
    fn steps_survive_the_atomic() {
        let progress = Progress::default();
        for step in [Step::Preparing, Step::Resolving, Step::Connecting, Step::Tunnel, Step::Handshake] {
            progress.enter(step);
            assert_eq!(progress.step(), step);
        }
    }
}
