//! One new connection: resolve, connect to any address of the name, CONNECT through a proxy, TLS.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::UnixStream;

use super::attempt::{Attempt, ConnectStep, Failures, Progress, is_out_of_files, sum_up};
use super::dial::{interleave, os_words, race};
use super::environment::{self, Via};
use super::hop::Hop;
use super::names::{Names, Unresolved, WITH_TLS, WITHOUT_TLS};
use super::places::Places;
use super::stream::Stream;
use super::tls::{ClientTls, NoTls};
use super::tunnel::{EgressProxy, ProxyCredentials, authority};
use super::turns;
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
    names: &'static Names,
    room: Room,
}

/// What a connection needs beside a descriptor.
enum Room {
    /// One of these, or it is refused: connections to upstreams, which callers make as many of as they like.
    Places(&'static Places),
    /// A turn at the target, which is waited for: any other connection.
    Turns,
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
    /// This machine has no room: no place for a connection, no descriptor, no thread.
    Full,
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
                    Egress::Env => environment::via(host, *port, *tls),
                    Egress::Proxy { host, port, userinfo } => {
                        let credentials = userinfo.map_or(ProxyCredentials::None, ProxyCredentials::Source);
                        Via::Proxy(Arc::new(EgressProxy { host, port, credentials }))
                    }
                };
                (who, via)
            }
        };
        let tls = ClientTls::new(tls, offer);
        Self { target, who, tls, via, offer, timeout, names: Names::of_the_system(), room: Room::Turns }
    }

    /// Each connection takes one of `places`, and is refused where there is none.
    #[must_use]
    pub fn within(self, places: &'static Places) -> Self {
        Self { room: Room::Places(places), ..self }
    }

    #[cfg(test)]
    pub(super) fn with_names(self, names: &'static Names) -> Self {
        Self { names, ..self }
    }

    /// Whom it connects to, as errors call it: `host:port` or `unix:/path`.
    pub fn who(&self) -> &str {
        &self.who
    }

    /// Where TCP goes first; `None`: nowhere.
    pub fn hop(&self) -> Option<Hop> {
        match (&self.via, &self.target) {
            (Via::Proxy(proxy), _) => Some(Hop::new(&proxy.host, proxy.port, true)),
            (Via::Direct, Target::Tcp { host, port, .. }) => Some(Hop::new(host, *port, false)),
            (Via::Direct, Target::Unix(_)) | (Via::Unsupported(_), _) => None,
        }
    }

    /// `timeout` covers all of it.
    pub async fn connect(&self) -> Result<Connected, ConnectError> {
        // Boxed: connecting is rare, and every request's future would else be larger by this one.
        Box::pin(self.connect_in_time()).await.map_err(|error| self.with_unused_proxy(error))
    }

    /// Behind a firewall, programs find the way out in the environment, and this one does so only where it is told to.
    fn with_unused_proxy(&self, mut error: ConnectError) -> ConnectError {
        use ConnectErrorKind::{Dns, Timeout, Unreachable};
        if let (Via::Direct, Target::Tcp { host, port, tls }) = (&self.via, &self.target)
            && matches!(error.kind, Dns | Timeout | Unreachable)
            && let Some(variable) = environment::proxy_for(host, *port, *tls)
        {
            error.message.push_str(&format!("; {variable} is set, and only obeyed with proxy = \"env\""));
        }
        error
    }

    async fn connect_in_time(&self) -> Result<Connected, ConnectError> {
        let progress = Arc::new(Progress::default());
        let mut failures = Failures::new();
        let connecting = self.connect_now(&progress, &mut failures);
        let Some(limit) = self.timeout else { return connecting.await };
        match tokio::time::timeout(limit, connecting).await {
            Ok(result) => result,
            Err(_) => Err(self.timed_out(limit, progress.step(), failures)),
        }
    }

    async fn connect_now(
        &self,
        progress: &Arc<Progress>,
        failures: &mut Failures,
    ) -> Result<Connected, ConnectError> {
        let (places, turn) = match &self.room {
            Room::Places(places) => (Some(*places), None),
            Room::Turns => {
                progress.reach(ConnectStep::Queueing);
                // Never closed, so this is a turn.
                (None, turns::at(&self.who).acquire_owned().await.ok())
            }
        };
        let (host, port, tls) = match &self.target {
            Target::Unix(path) => {
                progress.reach(ConnectStep::Connecting);
                let place = places.map(|places| places.place_for(&self.who)).transpose()?;
                let stream = UnixStream::connect(path).await.map_err(|error| no_unix(path, &error))?;
                let stream = Stream::from(stream).with_place(place).with_turn(turn);
                return Ok(Connected { stream, http2: self.offer == Offer::Http2 });
            }
            Target::Tcp { host, port, tls } => (host, *port, *tls),
        };
        // Before anything is sent: what is wrong with a file is told without a connection.
        progress.reach(ConnectStep::Preparing);
        let tls = if tls { Some(self.tls_settings(host).await?) } else { None };
        let (proxy, host, port) = match &self.via {
            Via::Direct => (None, host, port),
            Via::Proxy(proxy) => (Some(proxy), &proxy.host, proxy.port),
            Via::Unsupported(message) => {
                return Err(ConnectError { kind: ConnectErrorKind::Proxy, message: message.clone() });
            }
        };
        // Whom attempts are made at.
        let peer = proxy.map_or_else(|| self.who.clone(), |proxy| proxy.who());
        progress.reach(ConnectStep::Resolving);
        let oldest = if tls.is_some() { WITH_TLS } else { WITHOUT_TLS };
        let addresses = self.names.addresses(host, port, oldest).await;
        let addresses = addresses.map_err(|why| unresolved(host, &peer, why))?;
        let attempt = Arc::new(Attempt {
            who: self.who.clone(),
            proxy: proxy.cloned(),
            tls,
            offer: self.offer,
            places,
            progress: Arc::clone(progress),
        });
        let connected =
            race(interleave(addresses), |address| Arc::clone(&attempt).at(address), failures).await;
        let Connected { stream, http2 } = connected.ok_or_else(|| sum_up(&peer, std::mem::take(failures)))?;
        Ok(Connected { stream: stream.with_turn(turn), http2 })
    }

    async fn tls_settings(
        &self,
        host: &str,
    ) -> Result<(Arc<ClientConfig>, ServerName<'static>), ConnectError> {
        let config = self.tls.config().await.map_err(|error| match error {
            NoTls::Settings(error) => ConnectError {
                kind: ConnectErrorKind::Settings,
                message: format!("the TLS settings for {}: {error}", self.who),
            },
            NoTls::Machine(error) => ConnectError {
                kind: ConnectErrorKind::Full,
                message: format!("no connection to {}: {error}", self.who),
            },
        })?;
        let name = self.tls.server_name(host);
        let parsed = ServerName::try_from(name.strip_suffix('.').unwrap_or(name).to_owned());
        let name = parsed.map_err(|_| ConnectError {
            kind: ConnectErrorKind::Settings,
            message: format!("{name} can't be a TLS server name; set tls.server_name"),
        })?;
        Ok((config, name))
    }

    /// An address that failed for good says more than another that kept silent.
    fn timed_out(&self, limit: Duration, step: ConnectStep, failures: Failures) -> ConnectError {
        let peer = match &self.via {
            Via::Proxy(proxy) => Some(proxy.who()),
            Via::Direct | Via::Unsupported(_) => None,
        };
        let failed = (!failures.is_empty()).then(|| sum_up(peer.as_deref().unwrap_or(&self.who), failures));
        if let Some(error) = failed.as_ref().filter(|error| error.kind == ConnectErrorKind::Certificate) {
            return error.clone();
        }
        let still = match step {
            ConnectStep::Queueing => {
                "others waited for it already, as many as may at the same time".to_owned()
            }
            ConnectStep::Preparing => "still reading the TLS settings".to_owned(),
            ConnectStep::Resolving => "still waiting for DNS".to_owned(),
            ConnectStep::Connecting => match peer {
                Some(proxy) => format!("{proxy} did not answer"),
                None => "no address of it answered".to_owned(),
            },
            ConnectStep::Tunnel => format!("{} did not open a tunnel", peer.unwrap_or_default()),
            ConnectStep::Handshake => "it accepted, but the TLS handshake did not end".to_owned(),
        };
        let others = failed.map(|error| format!(" (and before: {error})")).unwrap_or_default();
        ConnectError {
            kind: ConnectErrorKind::Timeout,
            message: format!(
                "no connection to {} within {}: {still}{others}",
                self.who,
                humantime::format_duration(limit)
            ),
        }
    }
}

fn unresolved(host: &str, who: &str, why: Unresolved) -> ConnectError {
    let (kind, why) = match why {
        Unresolved::Dns(why) => (ConnectErrorKind::Dns, format!("the name {host} was not resolved: {why}")),
        Unresolved::Machine(error) => (ConnectErrorKind::Full, error.to_string()),
    };
    ConnectError { kind, message: format!("can't connect to {who}: {why}") }
}

fn no_unix(path: &Path, error: &io::Error) -> ConnectError {
    let who = format!("unix:{}", path.display());
    let (kind, message) = match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            (ConnectErrorKind::Refused, format!("nobody listens on {who}: is it running?"))
        }
        io::ErrorKind::NotFound => (
            ConnectErrorKind::Unreachable,
            format!("can't connect to {who}: there is no such file; is it running?"),
        ),
        _ if is_out_of_files(error) => {
            (ConnectErrorKind::Full, format!("can't connect to {who}: {}", os_words(error)))
        }
        _ => (ConnectErrorKind::Unreachable, format!("can't connect to {who}: {}", os_words(error))),
    };
    ConnectError { kind, message }
}
