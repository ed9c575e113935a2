//! The admin address, served by the control thread.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::listeners;
use crate::admin::{self, Admin};
use crate::config::{Address, UnixOptions};
use crate::listener::{BindError, Bound, Passed, Stop};

/// Serves the admin address until it is dropped or gets another one.
pub(super) struct AdminServer {
    admin: Arc<Admin>,
    address: Address,
    local: String,
    accepting: CancellationToken,
    now: CancellationToken,
}

/// What a passed socket is named that is for this address.
pub(super) const NAME: &str = "admin";
/// The admin socket is for its owner alone where it is a file.
pub(super) static ACCESS: UnixOptions = UnixOptions::OWNER_ALONE;

pub(super) fn bind(address: &Address, passed: &Passed) -> Result<Bound, BindError> {
    listeners::bind_or_take(&Arc::from(NAME), address, &ACCESS, passed)
}

impl AdminServer {
    /// Needs a runtime around it.
    pub(super) fn start(admin: Arc<Admin>, socket: Bound, address: &Address) -> Self {
        let local = socket.local();
        tracing::info!(event = "listener.opened", listener = "admin", address = %local, "listening");
        let (accepting, now) = (CancellationToken::new(), CancellationToken::new());
        let stop = Stop { accepting: accepting.clone(), now: now.clone() };
        tokio::spawn(admin::serve(socket, Arc::clone(&admin), stop));
        Self { admin, address: address.clone(), local, accepting, now }
    }

    /// The real address.
    pub(super) fn local(&self) -> &str {
        &self.local
    }

    /// A socket for another address; `None` where it stays.
    pub(super) fn bind_for(&self, address: &Address, passed: &Passed) -> Result<Option<Bound>, String> {
        if *address == self.address {
            return Ok(None);
        }
        bind(address, passed).map(Some).map_err(|error| format!("admin: {error}"))
    }

    /// Moves to another address; answers under way at the old one end.
    pub(super) fn move_to(&mut self, socket: Bound, address: &Address) {
        let moved = Self::start(Arc::clone(&self.admin), socket, address);
        let old = std::mem::replace(self, moved);
        old.accepting.cancel();
    }

    pub(super) fn stop(&self) {
        self.accepting.cancel();
        self.now.cancel();
    }
}
