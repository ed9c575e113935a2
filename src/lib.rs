//! bearerd puts bearer tokens on outbound calls.

pub mod clock;
pub mod config;
pub mod issuer;
pub mod listener;
pub mod metrics;
pub mod net;
pub mod proxy;
pub mod route;
pub mod secret;
pub mod token;
pub mod upstream;
