//! The admin address: liveness, readiness, metrics, and status. It is read-only and shows no secret.
//!
//! [`server`] serves it. Every response is made from a [`view::View`] that is read for that request, so a reload shows at once.

mod health;
mod page;
mod recent;
mod server;
mod status;
mod view;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub use health::{AuthorityView, Health, LastReload};
pub use server::{CONNECTIONS, serve};
pub use view::WebhookView;

use recent::Readings;
use view::Certificates;

use crate::clock::SharedClock;
use crate::metrics::Metrics;
use crate::proxy::SnapshotCell;
use crate::store::StoreCell;
use crate::token::Budgets;

/// Reads what each running webhook has learned, from files.
pub type Webhooks = Box<dyn Fn() -> Vec<WebhookView> + Send + Sync>;

/// What the responses of the admin address are made from.
pub struct Admin {
    metrics: Arc<Metrics>,
    snapshot: Arc<SnapshotCell>,
    health: Arc<Health>,
    clock: SharedClock,
    webhooks: Webhooks,
    store: Arc<StoreCell>,
    budgets: Arc<Budgets>,
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
        store: Arc<StoreCell>,
        budgets: Arc<Budgets>,
    ) -> Self {
        let (started_at, started) = (clock.wall(), clock.boot());
        let readings = Readings::new(started);
        let certificates = Arc::default();
        Self {
            metrics,
            snapshot,
            health,
            clock,
            webhooks,
            store,
            budgets,
            readings,
            certificates,
            started_at,
            started,
        }
    }
}

#[cfg(test)]
mod tests;
