//! The socket that a service manager listens on (`NOTIFY_SOCKET`, sd_notify(3)).

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use sd_notify::NotifyState;

/// Its name: a path, or `@` and a name of the abstract namespace.
#[derive(Debug, Clone)]
pub struct NotifySocket(OsString);

impl NotifySocket {
    pub fn new(name: OsString) -> Self {
        Self(name)
    }

    /// Never waits: a service manager that has stopped reading must not stop the thread that fetches tokens.
    pub(super) fn send(&self, states: &[NotifyState<'_>]) -> io::Result<()> {
        let mut message = String::new();
        for state in states {
            let _infallible = writeln!(message, "{state}");
        }
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.send_to_addr(message.as_bytes(), &address(&self.0)?).map(drop)
    }
}

fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    }
}
