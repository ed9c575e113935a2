//! Opens a connection ([`Connector`]): it resolves the name and tries all addresses. One attempt ([`Attempt`]) is TCP, the
//! tunnel of an egress proxy, and TLS.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::egress::{EgressProxy, ProxyCredentials, host_and_port};
use super::environment::{self, Via};
use super::failure::{
    ConnectError, ConnectErrorKind, Failed, Failures, forbidden, no_unix, sum_up, unresolved,
};
use super::hop::Hop;
use super::names::{Names, WITH_TLS, WITHOUT_TLS};
use super::places::Places;
use super::race::{interleave, race};
use super::stream::{Stream, keep_alive};
use super::tls::{ClientTls, NoTls};
use super::{explain, places, reach};
use crate::config::{ConnectionConfig, Egress, Protocol, TlsOptions, UpstreamTarget};

/// The target of connections.
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

/// The HTTP versions that ALPN offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    Http1,
    Http2,
    Both,
    /// No ALPN, for another protocol than HTTP.
    Nothing,
}

impl From<Protocol> for Offer {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Auto => Self::Both,
            Protocol::Http1 => Self::Http1,
            Protocol::Http2 => Self::Http2,
        }
    }
}

/// Opens connections to one target. It reads TLS settings from disk at the first connection, and again after one of their
/// files changed.
pub struct Connector {
    target: Target,
    who: String,
    tls: ClientTls,
    via: Via,
    offer: Offer,
    timeout: Option<Duration>,
    names: &'static Names,
    room: Room,
    /// See [`Connector::for_tunnel`].
    for_tunnel: bool,
}

/// The limit that a connection counts against.
enum Room {
    /// A place, or the connection is refused: for upstreams, because callers may open any number.
    Places(&'static Places),
    /// A turn at the target, which the connection waits for: for any other target.
    Turns,
}

/// A new connection.
pub struct Connected {
    pub stream: Stream,
    /// ALPN chose `h2`, or [`Offer::Http2`] without TLS (prior knowledge, RFC 9113 section 3.3).
    pub http2: bool,
}

impl Connector {
    /// Reads `HTTPS_PROXY` and related variables now if `egress` says so. Connections to Unix sockets are always direct.
    pub fn new(
        target: Target,
        tls: TlsOptions,
        egress: Egress,
        offer: Offer,
        timeout: Option<Duration>,
    ) -> Self {
        let https = matches!(target, Target::Tcp { tls: true, .. });
        Self::by(target, https, tls, egress, offer, timeout)
    }

    /// A connector for the bytes of a caller, who does TLS inside: the environment's proxies for `https` apply. It refuses to connect
    /// to this machine, to link-local addresses, and to metadata services of clouds. The address that was checked is the one that is
    /// connected to. An egress proxy resolves names itself, so behind one only names and literal addresses are checked.
    pub fn for_tunnel(host: &str, port: u16, egress: Egress, timeout: Option<Duration>) -> Self {
        let target = Target::Tcp { host: host.to_owned(), port, tls: false };
        let connector = Self::by(target, true, TlsOptions::default(), egress, Offer::Nothing, timeout);
        Self { for_tunnel: true, ..connector }
    }

    /// `https`: what goes through is TLS, by whomever.
    fn by(
        target: Target,
        https: bool,
        tls: TlsOptions,
        egress: Egress,
        offer: Offer,
        timeout: Option<Duration>,
    ) -> Self {
        let (who, via) = match &target {
            Target::Unix(path) => (format!("unix:{}", path.display()), Via::Direct),
            Target::Tcp { host, port, .. } => {
                let who = host_and_port(host, *port);
                let via = match egress {
                    Egress::Direct => Via::Direct,
                    Egress::Env => environment::via(host, *port, https),
                    Egress::Proxy { host, port, userinfo } => {
                        let credentials = userinfo.map_or(ProxyCredentials::None, ProxyCredentials::Source);
                        Via::Proxy(Arc::new(EgressProxy { host, port, credentials }))
                    }
                };
                (who, via)
            }
        };
        let tls = ClientTls::new(tls, offer);
        Self {
            target,
            who,
            tls,
            via,
            offer,
            timeout,
            names: Names::of_the_system(),
            room: Room::Turns,
            for_tunnel: false,
        }
    }

    /// A connector for an upstream.
    pub fn to_upstream(target: &UpstreamTarget, connection: &ConnectionConfig, offer: Offer) -> Self {
        let target = match target {
            UpstreamTarget::Tcp { https, host, port } => {
                Target::Tcp { host: host.clone(), port: *port, tls: *https }
            }
            UpstreamTarget::Unix(path) => Target::Unix(path.clone()),
        };
        let ConnectionConfig { tls, egress, connect_timeout, .. } = connection;
        Self::new(target, tls.clone(), egress.clone(), offer, *connect_timeout)
    }

    /// Makes each connection take one of `places`. It is refused if there is none.
    #[must_use]
    pub fn within(self, places: &'static Places) -> Self {
        Self { room: Room::Places(places), ..self }
    }

    #[cfg(test)]
    pub(super) fn with_names(self, names: &'static Names) -> Self {
        Self { names, ..self }
    }

    /// The target's name in errors: `host:port` or `unix:/path`.
    pub fn who(&self) -> &str {
        &self.who
    }

    /// The first hop of TCP. `None` for a Unix socket.
    pub fn hop(&self) -> Option<Hop> {
        match (&self.via, &self.target) {
            (Via::Proxy(proxy), _) => Some(Hop::new(&proxy.host, proxy.port, true)),
            (Via::Direct, Target::Tcp { host, port, .. }) => Some(Hop::new(host, *port, false)),
            (Via::Direct, Target::Unix(_)) | (Via::Unsupported(_), _) => None,
        }
    }

    /// Opens a connection. `timeout` covers all steps.
    pub async fn connect(&self) -> Result<Connected, ConnectError> {
        // Boxed, because connecting is rare, and the future would make every request's future larger.
        Box::pin(self.connect_in_time()).await.map_err(|error| self.with_unused_proxy(error))
    }

    /// Adds a hint if the environment names an egress proxy that the config does not use.
    fn with_unused_proxy(&self, mut error: ConnectError) -> ConnectError {
        use ConnectErrorKind::{Dns, Timeout, Unreachable};
        if let (Via::Direct, Target::Tcp { host, port, tls }) = (&self.via, &self.target)
            && matches!(error.kind, Dns | Timeout | Unreachable)
            && let Some(variable) = environment::proxy_for(host, *port, *tls || self.for_tunnel)
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
                (None, places::turns_at(&self.who).acquire_owned().await.ok())
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
        // Before anything is sent, so that a broken file is reported without a connection.
        progress.reach(ConnectStep::Preparing);
        if self.for_tunnel && reach::is_local_name(host) {
            return Err(forbidden(&self.who));
        }
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
        let mut addresses = addresses.map_err(|why| unresolved(host, &peer, why))?;
        if self.for_tunnel && proxy.is_none() {
            addresses.retain(|address| !reach::is_of_this_network(address.ip()));
            if addresses.is_empty() {
                return Err(forbidden(&self.who));
            }
        }
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
        if self.for_tunnel && proxy.is_none() && stream.is_to_this_machine() {
            return Err(forbidden(&self.who));
        }
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

    /// A definite failure of one address says more than the silence of another.
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
                Some(proxy) => format!("{proxy} did not respond"),
                None => "none of its addresses responded".to_owned(),
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

/// Why a connection of [`Connector::for_tunnel`] to this host is refused, if its name alone decides that.
pub fn forbidden_by_name(host: &str, port: u16) -> Option<String> {
    reach::is_local_name(host).then(|| forbidden(&host_and_port(host, port)).message)
}

/// What all attempts of one connection share.
struct Attempt {
    /// The target's name in errors: `host:port`.
    who: String,
    proxy: Option<Arc<EgressProxy>>,
    /// `None`: without TLS.
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    offer: Offer,
    /// The places that each attempt takes one of, if they are limited.
    places: Option<&'static Places>,
    progress: Arc<Progress>,
}

impl Attempt {
    async fn at(self: Arc<Self>, address: SocketAddr) -> Result<Connected, Failed> {
        let place = self.places.map(|places| places.place_for(&self.who)).transpose()?;
        self.progress.reach(ConnectStep::Connecting);
        let tcp = TcpStream::connect(address).await.map_err(Failed::Tcp)?;
        // A failure costs only latency.
        let _ = tcp.set_nodelay(true);
        keep_alive(&tcp);
        let (tcp, early) = self.tunnel(tcp).await?;
        let (stream, http2) = self.handshake(tcp, early).await?;
        Ok(Connected { stream: stream.with_place(place), http2 })
    }

    async fn tunnel(&self, tcp: TcpStream) -> Result<(TcpStream, Bytes), ConnectError> {
        let Some(proxy) = &self.proxy else { return Ok((tcp, Bytes::new())) };
        self.progress.reach(ConnectStep::Tunnel);
        proxy.open(tcp, &self.who).await
    }

    async fn handshake(&self, tcp: TcpStream, early: Bytes) -> Result<(Stream, bool), ConnectError> {
        let prior_knowledge = self.offer == Offer::Http2;
        let Some((config, name)) = &self.tls else {
            return Ok((Stream::from(tcp).with_early(early), prior_knowledge));
        };
        if !early.is_empty() {
            return Err(explain::tls_failed(&self.who, "it spoke before the handshake; is it http://?"));
        }
        self.progress.reach(ConnectStep::Handshake);
        let tls = TlsConnector::from(Arc::clone(config))
            .connect(name.clone(), tcp)
            .await
            .map_err(|error| explain::handshake(&error, &self.who))?;
        let http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        if prior_knowledge && !http2 {
            return Err(ConnectError {
                kind: ConnectErrorKind::Tls,
                message: format!(
                    "{} does not offer HTTP/2 (ALPN); set protocol = \"auto\" or \"http1\"",
                    self.who
                ),
            });
        }
        Ok((tls.into(), http2))
    }
}

/// The progress of the attempts, which a timeout reports.
#[derive(Default)]
struct Progress(AtomicU8);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConnectStep {
    Queueing,
    Preparing,
    Resolving,
    Connecting,
    Tunnel,
    Handshake,
}

impl Progress {
    /// The furthest step of any attempt.
    fn reach(&self, step: ConnectStep) {
        self.0.fetch_max(step as u8, Ordering::Relaxed);
    }

    fn step(&self) -> ConnectStep {
        match self.0.load(Ordering::Relaxed) {
            1 => ConnectStep::Preparing,
            2 => ConnectStep::Resolving,
            3 => ConnectStep::Connecting,
            4 => ConnectStep::Tunnel,
            5 => ConnectStep::Handshake,
            _ => ConnectStep::Queueing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_furthest_step_counts() {
        let progress = Progress::default();
        for step in [
            ConnectStep::Queueing,
            ConnectStep::Preparing,
            ConnectStep::Resolving,
            ConnectStep::Connecting,
            ConnectStep::Tunnel,
            ConnectStep::Handshake,
        ] {
            progress.reach(step);
            assert_eq!(progress.step(), step);
        }
        progress.reach(ConnectStep::Connecting);
        assert_eq!(progress.step(), ConnectStep::Handshake);
    }
}
