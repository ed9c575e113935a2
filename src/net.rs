//! Sockets and TLS toward others: issuers, upstreams, egress proxies.

pub mod connect;
pub mod tls;

pub use connect::{ConnectError, ConnectErrorKind, Connected, Connector, Stream, Target};
