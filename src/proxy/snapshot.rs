//! Everything that one config comes to, as one value: a call loads it once and keeps it to its end.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::{Config, ListenerConfig, RouteConfig};
use crate::metrics::RouteMetrics;
use crate::route::RouteTable;
use crate::token::TokenSlot;
use crate::upstream::Upstream;

pub type SnapshotCell = ArcSwap<Snapshot>;

pub struct Snapshot {
    /// Grows with every load.
    pub version: u64,
    pub config: Arc<Config>,
    pub table: RouteTable,
    /// In the order of `Config::routes`.
    pub routes: Vec<Arc<RouteService>>,
    /// In the order of `Config::listeners`.
    pub listeners: Vec<Arc<ListenerConfig>>,
}

/// A route with all that it needs to serve.
pub struct RouteService {
    pub config: Arc<RouteConfig>,
    /// `None`: anonymous.
    pub slot: Option<Arc<TokenSlot>>,
    pub upstream: Arc<Upstream>,
    pub metrics: Arc<RouteMetrics>,
}
