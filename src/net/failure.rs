//! Why a connection failed ([`ConnectError`]). If the attempts at all addresses fail, the error is the one that says most.

use std::fmt::{self, Write as _};
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use rustix::io::Errno;

use super::names::Unresolved;

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
    /// [`Connector::for_tunnel`].
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

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Failed {
    /// No TCP connection.
    Tcp(io::Error),
    /// The tunnel or TLS failed.
    Later(ConnectError),
}

pub(super) type Failures = Vec<(SocketAddr, Failed)>;

impl From<ConnectError> for Failed {
    fn from(error: ConnectError) -> Self {
        Self::Later(error)
    }
}

pub(super) fn unresolved(host: &str, who: &str, why: Unresolved) -> ConnectError {
    let (kind, why) = match why {
        Unresolved::Dns(why) => (ConnectErrorKind::Dns, format!("the name {host} was not resolved: {why}")),
        Unresolved::Machine(error) => (ConnectErrorKind::Full, error.to_string()),
    };
    ConnectError { kind, message: format!("can't connect to {who}: {why}") }
}

pub(super) fn forbidden(who: &str) -> ConnectError {
    let message = format!("{who} is this machine, a link-local address, or the metadata service of a cloud");
    ConnectError { kind: ConnectErrorKind::Forbidden, message }
}

pub(super) fn no_unix(path: &Path, error: &io::Error) -> ConnectError {
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

/// The system's text for an error, without `(os error 111)`.
pub(super) fn os_words(error: &io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or(&text);
    words.to_lowercase()
}

/// The most addresses in an error. It counts the others.
const ADDRESSES_NAMED: usize = 4;

/// Combines the failures of all addresses of `who` into one error: the one that says most, and what happened to the others.
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
}
