//! Sockets and TLS toward others: issuers, upstreams, egress proxies.

pub mod connect;
mod dial;
pub mod dpop;
mod explain;
mod h2;
mod pem;
mod roots;
pub mod stream;
#[cfg(test)]
mod tests;
pub mod tls;
mod tunnel;

pub use self::h2::{Http2Failure, http2_failure};
pub use connect::{ConnectError, ConnectErrorKind, Connected, Connector, Offer, Target};
pub use explain::tls_cause;
pub use stream::{Facts, Stream};
