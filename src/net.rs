//! Sockets and TLS toward others: issuers, upstreams, egress proxies.

pub mod connect;
mod dial;
mod explain;
mod pem;
mod roots;
pub mod stream;
#[cfg(test)]
mod tests;
pub mod tls;
mod tunnel;

pub use connect::{ConnectError, ConnectErrorKind, Connected, Connector, Offer, Target};
pub use explain::tls_cause;
pub use stream::{Facts, Stream};
