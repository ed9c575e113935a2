//! Who calls: what the listener knows of a connection, and which calls the listener's rules let in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// What is known of a caller's connection. One for each connection.
#[derive(Debug)]
pub struct Caller {
    /// The name of the listener that accepted it.
    pub listener: Arc<str>,
    pub peer: Peer,
    /// The address that was connected to; `None` on a Unix socket.
    pub local: Option<SocketAddr>,
    pub tls: bool,
    pub activity: Activity,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Tcp(SocketAddr),
    Unix { uid: u32 },
}

/// What a connection is doing, so that the listener can close one that is stuck. [`super::Proxy::call`] keeps it.
#[derive(Debug, Default)]
pub struct Activity {
    /// Calls whose response has not ended yet, upgraded tunnels included.
    pub in_flight: AtomicU32,
    /// Calls that began on this connection.
    pub calls: AtomicU64,
    /// How long a write to the caller may stall, in ms (the route's `idle_timeout`); 0: for ever.
    pub write_stall_ms: AtomicU64,
}
