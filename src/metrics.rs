//! What is counted, as atomics that the request path can bump without a lock; [`crate::admin`] writes them out.
//!
//! Labels come from the config alone, so the number of series is bounded by it. Handles are taken when the config is
//! loaded; the request path only bumps them. A handle of the same name is the same series, across reloads.

use std::sync::Arc;
use std::time::Duration;

#[derive(Default)]
pub struct Metrics {}

pub struct RouteMetrics {}
pub struct IssuerMetrics {}
pub struct ListenerMetrics {}

impl Metrics {
    pub fn route(&self, name: &Arc<str>) -> Arc<RouteMetrics> {
        let _ = name;
        todo!("operate helper")
    }
    pub fn issuer(&self, name: &Arc<str>) -> Arc<IssuerMetrics> {
        let _ = name;
        todo!("operate helper")
    }
    pub fn listener(&self, name: &Arc<str>) -> Arc<ListenerMetrics> {
        let _ = name;
        todo!("operate helper")
    }
    /// Forgets series whose route, issuer or listener is no longer in the config.
    pub fn retain(&self, config: &crate::config::Config) {
        let _ = config;
        todo!("operate helper")
    }
}

impl RouteMetrics {
    pub fn request(&self, _status: u16, _took: Duration) {
        todo!("operate helper")
    }
    pub fn upstream(&self, _took: Duration) {
        todo!("operate helper")
    }
    pub fn refresh_forced(&self) {
        todo!("operate helper")
    }
    pub fn upstream_connected(&self) {
        todo!("operate helper")
    }
    pub fn upstream_disconnected(&self) {
        todo!("operate helper")
    }
}

impl IssuerMetrics {
    /// `outcome`: `ok` or a snake_case failure name.
    pub fn token_request(&self, _outcome: &'static str, _took: Duration) {
        todo!("operate helper")
    }
    pub fn waiting(&self) {
        todo!("operate helper")
    }
    pub fn waited(&self) {
        todo!("operate helper")
    }
}

impl ListenerMetrics {
    pub fn connected(&self) {
        todo!("operate helper")
    }
    pub fn disconnected(&self) {
        todo!("operate helper")
    }
}
