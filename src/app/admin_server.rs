//! The admin address, served by the control thread.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::sockets::{Held, Place};
use crate::admin::{self, Admin};
use crate::config::Address;
use crate::listener::Bound;

/// Serves the admin address until it is dropped or gets another one.
pub(super) struct AdminServer {
    admin: Arc<Admin>,
    held: Held,
    now: CancellationToken,
}

impl AdminServer {
    /// Needs a runtime around it.
    pub(super) fn start(admin: Arc<Admin>, socket: Bound, address: &Address) -> Self {
        let held = Held::new(&Place::admin(address), &socket);
        let this = Self { admin, held, now: CancellationToken::new() };
        this.serve(socket);
        this
    }

    fn serve(&self, socket: Bound) {
        tracing::info!(event = "listener.opened", listener = "admin", address = %self.held.local, "listening");
        tokio::spawn(admin::serve(socket, Arc::clone(&self.admin), self.held.stop(&self.now)));
    }

    /// The socket in use.
    pub(super) fn held(&self) -> &Held {
        &self.held
    }

    /// Moves to another address; requests under way at the old one end.
    pub(super) fn move_to(&mut self, socket: Bound, address: &Address) {
        self.held.stop_accepting();
        self.held = Held::new(&Place::admin(address), &socket);
        self.serve(socket);
    }

    /// Serves on a socket that was bound again.
    pub(super) fn serve_again(&mut self, socket: Bound) {
        self.held = self.held.with_socket(&socket);
        self.serve(socket);
    }

    pub(super) fn stop(&self) {
        self.held.stop_accepting();
        self.now.cancel();
    }
}
