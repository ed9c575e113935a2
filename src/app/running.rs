//! A hold on a running proxy.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::control::Order;

/// Where it listens: real addresses, as `127.0.0.1:43211` or `unix:/run/x.sock`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// By the listener's name.
    pub listeners: BTreeMap<String, String>,
    pub admin: String,
    /// By the webhook's name.
    pub webhooks: BTreeMap<String, String>,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Every request was let end.
    Drained,
    /// Requests were cut off: by `shutdown_timeout`, a second signal or [`Running::stop`].
    Cut,
    /// Something broke; it is in the log too.
    Failed(String),
}

/// A running proxy. Dropping it stops it at once, without waiting for that.
pub struct Running {
    addresses: Arc<ArcSwap<Addresses>>,
    orders: UnboundedSender<Order>,
    control: JoinHandle<Ended>,
}

impl Running {
    pub(super) fn new(
        addresses: Arc<ArcSwap<Addresses>>,
        orders: UnboundedSender<Order>,
        control: JoinHandle<Ended>,
    ) -> Self {
        Self { addresses, orders, control }
    }

    /// Where it listens now.
    pub fn addresses(&self) -> Arc<Addresses> {
        self.addresses.load_full()
    }

    /// Loads the config again, as SIGHUP does; returns once it is in force.
    ///
    /// # Errors
    /// Why the old config stays.
    pub async fn reload(&self) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        let _ = self.orders.send(Order::Reload(reply));
        answer.await.unwrap_or_else(|_| Err("it is ending".to_owned()))
    }

    /// Ends as SIGTERM does: `drain_delay`, then no new connections, then calls end.
    pub fn drain(&self) {
        let _ = self.orders.send(Order::Drain);
    }

    /// Ends at once, whatever is under way.
    pub fn stop(&self) {
        let _ = self.orders.send(Order::Stop);
    }

    /// Waits for the end; blocks.
    pub fn join(self) -> Ended {
        self.control.join().unwrap_or_else(|_| Ended::Failed("the control thread panicked".to_owned()))
    }
}
