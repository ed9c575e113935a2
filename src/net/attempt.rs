//! One attempt at one address: TCP, the tunnel of an egress proxy, TLS; and what a failure of all attempts says.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use rustix::io::Errno;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::alive::keep_alive;
use super::connect::{ConnectError, ConnectErrorKind, Connected, Offer};
use super::dial::os_words;
use super::explain;
use super::places::Places;
use super::stream::Stream;
use super::tunnel::EgressProxy;

/// Addresses named in an error; a name with more of them says how many were left out.
const ADDRESSES_NAMED: usize = 4;

/// What the attempts at all addresses share.
pub(super) struct Attempt {
    /// Whom the connection is for, as errors call it: `host:port`.
    pub(super) who: String,
    pub(super) proxy: Option<Arc<EgressProxy>>,
    /// `None`: without TLS.
    pub(super) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    pub(super) offer: Offer,
    /// Each attempt needs one, where there are any.
    pub(super) places: Option<&'static Places>,
    pub(super) progress: Arc<Progress>,
}

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Failed {
    /// No TCP connection.
    Tcp(io::Error),
    /// In the tunnel or in TLS.
    Later(ConnectError),
}

pub(super) type Failures = Vec<(SocketAddr, Failed)>;

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
        // A failure costs latency alone.
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

/// How far the attempts at a connection have come: what a timeout tells.
#[derive(Default)]
pub(super) struct Progress(AtomicU8);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectStep {
    Queueing,
    Preparing,
    Resolving,
    Connecting,
    Tunnel,
    Handshake,
}

impl Progress {
    /// The furthest step counts, whichever attempt came to it.
    pub(super) fn reach(&self, step: ConnectStep) {
        self.0.fetch_max(step as u8, Ordering::Relaxed);
    }

    pub(super) fn step(&self) -> ConnectStep {
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

/// One error for the failures at all addresses of `who`: the one that says most, and what became of the others.
pub(super) fn sum_up(who: &str, failures: Failures) -> ConnectError {
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

/// What failed later was further, and what concerns certificates is what an operator has to fix.
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

/// What an attempt came to, behind its address.
fn words(failed: &Failed) -> String {
    match failed {
        Failed::Tcp(error) => format!(": {}", os_words(error)),
        Failed::Later(error) => format!(": {}", error.message),
    }
}

/// The machine or the process has no descriptor left: no fault of the other side.
pub(super) fn is_out_of_files(error: &io::Error) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
