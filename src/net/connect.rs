//! Opens a connection ([`Connector`]): it resolves the name and tries all addresses (RFC 8305, "Happy Eyeballs"). One attempt
//! ([`Attempts`]) is TCP, the tunnel of an egress proxy (CONNECT, RFC 9110 section 9.3.6), and TLS. If all attempts fail, the
//! error is the one that says most.

use std::error::Error as _;
use std::fmt::{self, Write as _};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHORIZATION};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::environment::{self, Via};
use super::hop::Hop;
use super::names::{Names, Unresolved, WITH_TLS, WITHOUT_TLS};
use super::places::Places;
use super::reach;
use super::stream::Stream;
use super::stream::keep_alive;
use super::tls::{ClientTls, NoTls};
use super::{explain, places};
use crate::config::{ConnectionConfig, Egress, Protocol, Source, TlsOptions, UpstreamTarget};
use crate::secret::Secret;

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
    /// See [`Connector::to_other_machines`].
    other_machines: bool,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectErrorKind {
    Dns,
    Refused,
    /// Any other failure to connect.
    Unreachable,
    Timeout,
    /// One side did not accept the other's certificate.
    Certificate,
    /// Any other TLS failure.
    Tls,
    /// The egress proxy refused the tunnel or closed the connection.
    Proxy,
    /// A file (CA, certificate, or key) could not be used.
    Settings,
    /// The target is this machine, or an address that only this machine's network reaches: see
    /// [`Connector::to_other_machines`].
    Forbidden,
    /// This machine has no place for a connection, no descriptor, or no thread left.
    Full,
}

/// Why a connection failed: what happened, to whom, and (if known) what to do. It contains no secret.
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
    /// Reads `HTTPS_PROXY` and related variables now if `egress` says so. Connections to Unix sockets are always direct.
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
        Self {
            target,
            who,
            tls,
            via,
            offer,
            timeout,
            names: Names::of_the_system(),
            room: Room::Turns,
            other_machines: false,
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

    /// Refuses to connect to this machine, to link-local addresses, and to metadata services of clouds. The address that was
    /// checked is the one that is connected to. An egress proxy resolves names itself, so behind one only names and literal
    /// addresses are checked.
    #[must_use]
    pub fn to_other_machines(self) -> Self {
        Self { other_machines: true, ..self }
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
        if self.other_machines && reach::is_local_name(host) {
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
        if self.other_machines && proxy.is_none() {
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
        if self.other_machines && proxy.is_none() && stream.is_to_this_machine() {
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

fn unresolved(host: &str, who: &str, why: Unresolved) -> ConnectError {
    let (kind, why) = match why {
        Unresolved::Dns(why) => (ConnectErrorKind::Dns, format!("the name {host} was not resolved: {why}")),
        Unresolved::Machine(error) => (ConnectErrorKind::Full, error.to_string()),
    };
    ConnectError { kind, message: format!("can't connect to {who}: {why}") }
}

/// Why a connection of [`Connector::to_other_machines`] to this host is refused, if its name alone decides that.
pub fn forbidden_by_name(host: &str, port: u16) -> Option<String> {
    reach::is_local_name(host).then(|| forbidden(&authority(host, port)).message)
}

fn forbidden(who: &str) -> ConnectError {
    let message = format!("{who} is this machine, a link-local address, or the metadata service of a cloud");
    ConnectError { kind: ConnectErrorKind::Forbidden, message }
}

fn no_unix(path: &Path, error: &io::Error) -> ConnectError {
    let who = format!("unix:{}", path.display());
    let (kind, message) = match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            (ConnectErrorKind::Refused, format!("nothing listens on {who}: is it running?"))
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

/// RFC 8305 section 5: the recommended "Connection Attempt Delay".
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// One of each family in turn, beginning with the family that the resolver put first (RFC 8305 section 4).
pub(super) fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let v6_first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let total = addresses.len();
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == v6_first);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut mixed = Vec::with_capacity(total);
    while mixed.len() < total {
        mixed.extend(first.next());
        mixed.extend(second.next());
    }
    mixed
}

/// Returns the first successful attempt and drops the others. The next attempt starts when one has failed, or after a delay.
/// Failures go to `failures`, so that they are known even if this future is dropped.
pub(super) async fn race<T, E, F>(
    addresses: Vec<SocketAddr>,
    attempt: impl Fn(SocketAddr) -> F,
    failures: &mut Vec<(SocketAddr, E)>,
) -> Option<T>
where
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    if let [address] = addresses.as_slice() {
        return attempt(*address).await.map_err(|error| failures.push((*address, error))).ok();
    }
    let mut waiting = addresses.into_iter();
    let mut attempts = JoinSet::new();
    loop {
        if let Some(address) = waiting.next() {
            let attempt = attempt(address);
            attempts.spawn(async move { (address, attempt.await) });
        } else if attempts.is_empty() {
            return None;
        }
        tokio::select! {
            Some(ended) = attempts.join_next() => match ended {
                Ok((_, Ok(connected))) => return Some(connected),
                Ok((address, Err(error))) => failures.push((address, error)),
                // A bug, which is in the log.
                Err(_) => {}
            },
            () = tokio::time::sleep(ATTEMPT_DELAY), if waiting.len() > 0 => {}
        }
    }
}

/// The system's text for an error, without `(os error 111)`.
pub(super) fn os_words(error: &io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or(&text);
    words.to_lowercase()
}

/// The most addresses in an error. It counts the others.
const ADDRESSES_NAMED: usize = 4;

/// What all attempts of one connection share.
struct Attempt {
    /// The target's name in errors: `host:port`.
    pub(super) who: String,
    pub(super) proxy: Option<Arc<EgressProxy>>,
    /// `None`: without TLS.
    pub(super) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    pub(super) offer: Offer,
    /// The places that each attempt takes one of, if they are limited.
    pub(super) places: Option<&'static Places>,
    progress: Arc<Progress>,
}

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Failed {
    /// No TCP connection.
    Tcp(io::Error),
    /// The tunnel or TLS failed.
    Later(ConnectError),
}

type Failures = Vec<(SocketAddr, Failed)>;

impl From<ConnectError> for Failed {
    fn from(error: ConnectError) -> Self {
        Self::Later(error)
    }
}

impl Attempt {
    pub(super) async fn at(self: Arc<Self>, address: SocketAddr) -> Result<Connected, Failed> {
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

/// Combines the failures of all addresses of `who` into one error: the one that says most, and what happened to the others.
fn sum_up(who: &str, failures: Failures) -> ConnectError {
    let best =
        failures.iter().enumerate().max_by_key(|(at, (_, failed))| (usefulness(failed), usize::MAX - at));
    let Some((at, (address, Failed::Later(best)))) = best else { return unreachable(who, &failures) };
    let mut error = best.clone();
    let others = failures.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, failure)| failure);
    let others: Vec<_> = others
        .filter(|(_, failed)| !matches!(failed, Failed::Later(same) if same.message == error.message))
        .collect();
    if !others.is_empty() {
        let _ = write!(error.message, " (this is {address}; ");
        list(&mut error.message, &others, words);
        error.message.push(')');
    }
    error
}

/// How much a failure says: later steps say more, and an operator must fix certificates.
fn usefulness(failed: &Failed) -> u8 {
    let Failed::Later(error) = failed else { return 0 };
    match error.kind {
        ConnectErrorKind::Certificate => 5,
        ConnectErrorKind::Settings => 4,
        ConnectErrorKind::Tls => 3,
        ConnectErrorKind::Proxy => 2,
        _ => 1,
    }
}

fn unreachable(who: &str, failures: &Failures) -> ConnectError {
    let all = |wanted: fn(&io::Error) -> bool| {
        failures.iter().all(|(_, failed)| matches!(failed, Failed::Tcp(error) if wanted(error)))
    };
    let refused = !failures.is_empty() && all(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    let every: Vec<_> = failures.iter().collect();
    let mut message = String::new();
    if refused {
        let _ = write!(message, "{who} refused the connection (");
        list(&mut message, &every, |_| String::new());
        message.push_str("): is it running, and is the port right?");
    } else {
        let _ = write!(message, "can't connect to {who}: ");
        list(&mut message, &every, words);
    }
    let kind = if refused {
        ConnectErrorKind::Refused
    } else if !failures.is_empty() && all(is_out_of_files) {
        ConnectErrorKind::Full
    } else {
        ConnectErrorKind::Unreachable
    };
    ConnectError { kind, message }
}

/// The result of an attempt, to follow its address.
fn words(failed: &Failed) -> String {
    match failed {
        Failed::Tcp(error) => format!(": {}", os_words(error)),
        Failed::Later(error) => format!(": {}", error.message),
    }
}

/// Whether the machine or the process has no descriptor left, which is not the other side's fault.
fn is_out_of_files(error: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn list(message: &mut String, failures: &[&(SocketAddr, Failed)], tail: impl Fn(&Failed) -> String) {
    for (at, (address, failed)) in failures.iter().take(ADDRESSES_NAMED).enumerate() {
        let _ = write!(message, "{}{address}{}", if at == 0 { "" } else { ", " }, tail(failed));
    }
    if let Some(more @ 1..) = failures.len().checked_sub(ADDRESSES_NAMED) {
        let _ = write!(message, " and {more} more");
    }
}

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
    use tokio::time::{Instant, sleep};

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns() {
        let given = addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "10.0.0.1:1"]);
        assert_eq!(interleave(given), addresses(&["[::1]:1", "10.0.0.1:1", "[::2]:1", "[::3]:1"]));
        let given = addresses(&["10.0.0.1:1", "10.0.0.2:1", "[::1]:1"]);
        assert_eq!(interleave(given), addresses(&["10.0.0.1:1", "[::1]:1", "10.0.0.2:1"]));
    }

    /// Each port is how many milliseconds its attempt takes; an even one fails.
    async fn by_port(ports: &[u16]) -> (Option<u16>, Duration, Vec<u16>) {
        let addresses = ports.iter().map(|port| SocketAddr::from(([192, 0, 2, 1], *port))).collect();
        let begin = Instant::now();
        let mut failures = Vec::new();
        let attempt = |address: SocketAddr| async move {
            sleep(Duration::from_millis(address.port().into())).await;
            if address.port() % 2 == 1 { Ok(address.port()) } else { Err(address.port()) }
        };
        let won = race(addresses, attempt, &mut failures).await;
        (won, begin.elapsed(), failures.into_iter().map(|(_, port)| port).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_attempt_begins_after_a_failure_or_a_delay() {
        let ms = Duration::from_millis;
        assert_eq!(by_port(&[101, 51]).await, (Some(101), ms(101), vec![]), "a quick first one is alone");
        assert_eq!(by_port(&[10, 51]).await, (Some(51), ms(61), vec![10]), "at once after a failure");
        assert_eq!(by_port(&[9001, 51]).await, (Some(51), ms(301), vec![]), "one that hangs is passed by");
        assert_eq!(by_port(&[401, 9001]).await, (Some(401), ms(401), vec![]), "the first may still win");
        assert_eq!(by_port(&[9001, 10, 9001, 21]).await, (Some(21), ms(531), vec![10]));
        assert_eq!(by_port(&[10, 20]).await, (None, ms(30), vec![10, 20]));
        assert_eq!(by_port(&[10]).await, (None, ms(10), vec![10]));
    }

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 443))
    }

    fn tcp(last: u8, kind: io::ErrorKind) -> (SocketAddr, Failed) {
        (address(last), Failed::Tcp(kind.into()))
    }

    fn later(last: u8, kind: ConnectErrorKind, message: &str) -> (SocketAddr, Failed) {
        (address(last), Failed::Later(ConnectError { kind, message: message.to_owned() }))
    }

    #[test]
    fn a_certificate_says_more_than_a_refusal() {
        let error = sum_up(
            "idp:443",
            vec![
                tcp(1, io::ErrorKind::ConnectionRefused),
                later(2, ConnectErrorKind::Tls, "tls"),
                later(3, ConnectErrorKind::Certificate, "it has expired"),
            ],
        );
        assert_eq!(error.kind, ConnectErrorKind::Certificate);
        assert_eq!(
            error.message,
            "it has expired (this is 192.0.2.3:443; 192.0.2.1:443: connection refused, 192.0.2.2:443: tls)"
        );
    }

    #[test]
    fn the_same_failure_everywhere_is_told_once() {
        let same = |last| later(last, ConnectErrorKind::Tls, "TLS with idp:443 failed");
        assert_eq!(sum_up("idp:443", vec![same(1), same(2)]).message, "TLS with idp:443 failed");
    }

    #[test]
    fn a_name_with_many_addresses_does_not_fill_the_log() {
        let failures = (1..=6).map(|last| tcp(last, io::ErrorKind::ConnectionRefused)).collect();
        let error = sum_up("idp:443", failures);
        assert_eq!(error.kind, ConnectErrorKind::Refused);
        assert!(error.message.contains("192.0.2.4:443 and 2 more"), "{}", error.message);
    }

    #[test]
    fn a_process_without_descriptors_is_full() {
        let failed = Failed::Tcp(io::Error::from_raw_os_error(Errno::MFILE.raw_os_error()));
        assert_eq!(sum_up("idp:443", vec![(address(1), failed)]).kind, ConnectErrorKind::Full);
    }

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
