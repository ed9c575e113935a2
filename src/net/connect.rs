//! One new connection: resolve, connect to any address of the name, CONNECT through a proxy, TLS.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::{Egress, TlsOptions};

/// What is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Tcp { host: String, port: u16, tls: bool },
    Unix(PathBuf),
}

/// Which HTTP versions are offered by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    Http1,
    Http2,
    Both,
}

/// Makes connections to one target. TLS settings are read from disk at the first use, off the start path.
pub struct Connector {}

/// A new connection.
pub struct Connected {
    pub stream: Stream,
    /// ALPN chose `h2`.
    pub http2: bool,
}

/// TCP, Unix or TLS over either; implements tokio's `AsyncRead` and `AsyncWrite` (vectored writes passed on).
pub struct Stream {}

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

impl Connector {
    pub fn new(
        target: Target,
        tls: TlsOptions,
        egress: Egress,
        offer: Offer,
        timeout: Option<Duration>,
    ) -> Self {
        let _ = (target, tls, egress, offer, timeout);
        todo!("net helper")
    }

    /// `timeout` covers all of it.
    pub async fn connect(&self) -> Result<Connected, ConnectError> {
        todo!("net helper")
    }
}
