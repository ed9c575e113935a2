//! Sockets and TLS toward others: issuers, upstreams, egress proxies.

mod alive;
mod attempt;
pub mod connect;
mod dial;
pub mod dpop;
mod environment;
mod explain;
mod file_state;
mod h2;
mod hop;
mod names;
mod pem;
mod places;
mod roots;
pub mod stream;
#[cfg(test)]
mod tests;
pub mod tls;
mod tunnel;
mod turns;

pub use self::h2::{Http2Failure, http2_failure};
pub use alive::keep_alive;
pub use connect::{ConnectError, ConnectErrorKind, Connected, Connector, Offer, Target};
pub use explain::tls_cause;
pub use hop::Hop;
pub use places::{Places, UPSTREAMS};
pub use stream::{Facts, Stream, TlsFailure};
pub use turns::set_turns;
