//! Outbound sockets and TLS: connections to issuers, upstreams, egress proxies, and collectors.

pub mod authority;
pub mod connect;
pub mod dpop;
mod egress;
mod environment;
mod explain;
mod failure;
mod h2;
mod hop;
mod names;
mod places;
mod race;
mod reach;
pub mod stream;
#[cfg(test)]
mod tests;
pub mod tls;

pub use self::h2::{Http2Failure, InvalidHttp2, http2_failure, invalid_http2};
pub use authority::{CertificateAuthority, HostTls};
pub use connect::{Connected, Connector, Offer, Target, forbidden_by_name};
pub use egress::{LOOP, host_and_port, is_own, recognize_own};
pub use explain::tls_cause;
pub use failure::{ConnectError, ConnectErrorKind};
pub use hop::Hop;
pub use places::set_turns;
pub use places::{Places, UPSTREAMS};
pub use stream::keep_alive;
pub use stream::{Facts, Stream, TlsFailure};
pub use tls::NoTls;
