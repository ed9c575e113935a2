//! The admin address: is it alive, is it ready, what does it count, what is it doing. Read only, and never a secret.
//!
//! [`server`] accepts, [`answer`] answers, from a [`view::View`] that is taken anew for each request; so what a reload
//! changed shows at once.

mod answer;
mod certificates;
mod guard;
mod health;
mod page;
mod process;
mod ready;
mod recent;
mod running;
mod server;
mod status;
mod view;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub use health::{Health, LastReload};
pub use server::{CONNECTIONS, serve};
pub use view::WebhookView;

use certificates::Certificates;
use recent::Readings;

use crate::clock::SharedClock;
use crate::metrics::Metrics;
use crate::proxy::SnapshotCell;

/// Asks each running webhook what it has learned; reads files.
pub type Webhooks = Box<dyn Fn() -> Vec<WebhookView> + Send + Sync>;

/// What the admin address answers from.
pub struct Admin {
    metrics: Arc<Metrics>,
    snapshot: Arc<SnapshotCell>,
    health: Arc<Health>,
    clock: SharedClock,
    webhooks: Webhooks,
    readings: Readings,
    certificates: Arc<Certificates>,
    started_at: SystemTime,
    /// By the clock that runs in suspend.
    started: Duration,
}

impl Admin {
    /// The uptime counts from here.
    pub fn new(
        metrics: Arc<Metrics>,
        snapshot: Arc<SnapshotCell>,
        health: Arc<Health>,
        clock: SharedClock,
        webhooks: Webhooks,
    ) -> Self {
        let (started_at, started) = (clock.wall(), clock.boot());
        let readings = Readings::new(started);
        let certificates = Arc::default();
        Self { metrics, snapshot, health, clock, webhooks, readings, certificates, started_at, started }
    }
}

#[cfg(test)]
mod tests;
