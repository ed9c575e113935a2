//! Everything that the pages are made of, read once for a request, as plain data.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Admin;
use super::health::Loads;
use super::recent::{History, Recent};
use crate::config::{Config, Credential, IssuerConfig, WebhookConfig};
use crate::metrics::{Failure, RouteMetrics, TokenExpiry, UpstreamRefusal};
use crate::token::SlotStatus;

/// The process at one moment.
pub(super) struct View {
    pub(super) now: SystemTime,
    pub(super) started_at: SystemTime,
    pub(super) uptime: Duration,
    pub(super) config: Arc<Config>,
    pub(super) config_version: u64,
    pub(super) loads: Loads,
    pub(super) draining: bool,
    /// Values of listeners and routes that are not there.
    pub(super) missing: Arc<Vec<String>>,
    pub(super) credentials: Vec<CredentialView>,
    /// In the order of `Config::routes`.
    pub(super) traffic: Vec<Traffic>,
    /// Requests that no route served.
    pub(super) unrouted: Traffic,
    /// Open connections, in the order of `Config::listeners`.
    pub(super) connections: Vec<u64>,
    pub(super) webhooks: Vec<WebhookView>,
    pub(super) log_lines_dropped: u64,
}

/// What a webhook has learned; never the value.
pub struct WebhookView {
    pub config: Arc<WebhookConfig>,
    /// There is a value that token requests can use.
    pub has_value: bool,
    /// When one last came.
    pub received_at: Option<SystemTime>,
    /// Why the stored value cannot be used.
    pub problem: Option<String>,
    /// The last request that was not taken, and why.
    pub last_refusal: Option<(SystemTime, String)>,
}

/// One token's place, and who uses it.
pub(super) struct CredentialView {
    pub(super) issuer: Arc<IssuerConfig>,
    pub(super) routes: Vec<Arc<str>>,
    pub(super) status: SlotStatus,
}

/// What went through a route.
#[derive(Debug, Clone, Default)]
pub(super) struct Traffic {
    pub(super) requests: u64,
    pub(super) upstream_connections: u64,
    pub(super) recent: Option<Recent>,
    /// Where it was asked for.
    pub(super) history: Option<History>,
    pub(super) last_failure: Option<Arc<Failure>>,
    pub(super) last_refusal: Option<Arc<UpstreamRefusal>>,
}

impl Traffic {
    fn of(metrics: &RouteMetrics, recent: Option<Recent>) -> Self {
        Self {
            recent,
            history: None,
            requests: metrics.requests(),
            upstream_connections: metrics.upstream_connections(),
            last_failure: metrics.last_failure(),
            last_refusal: metrics.last_upstream_refusal(),
        }
    }
}

impl View {
    pub(super) fn take(admin: &Admin) -> Self {
        let snapshot = admin.snapshot.load_full();
        // Routes with the same scopes and parameters share a slot, so they share an entry.
        let mut places: HashMap<_, usize> = HashMap::new();
        let mut credentials: Vec<CredentialView> = Vec::new();
        let mut traffic = Vec::with_capacity(snapshot.routes.len());
        let recent = admin.readings.recent(admin.clock.boot(), &snapshot);
        for (route, recent) in snapshot.routes.iter().zip(recent) {
            traffic.push(Traffic::of(&route.metrics, Some(recent)));
            let (Some(slot), Credential::Issuer { issuer, .. }) = (&route.slot, &route.config.credential)
            else {
                continue;
            };
            let place = *places.entry(Arc::as_ptr(slot)).or_insert_with(|| {
                credentials.push(CredentialView {
                    issuer: Arc::clone(issuer),
                    routes: Vec::new(),
                    status: slot.status(),
                });
                credentials.len() - 1
            });
            if let Some(credential) = credentials.get_mut(place) {
                credential.routes.push(Arc::clone(&route.config.name));
            }
        }
        let listeners = snapshot.config.listeners.iter();
        Self {
            now: admin.clock.wall(),
            started_at: admin.started_at,
            uptime: admin.clock.boot().saturating_sub(admin.started),
            config: Arc::clone(&snapshot.config),
            config_version: snapshot.version,
            loads: admin.health.loads(),
            draining: admin.health.is_draining(),
            missing: admin.health.missing(),
            credentials,
            traffic,
            unrouted: Traffic::of(&snapshot.unrouted, None),
            connections: listeners.map(|it| admin.metrics.listener(&it.name).connections()).collect(),
            webhooks: (admin.webhooks)(),
            log_lines_dropped: crate::telemetry::dropped_lines(),
        }
    }

    /// With what each route did in the last hour.
    pub(super) fn with_history(admin: &Admin) -> Self {
        let mut view = Self::take(admin);
        let history = admin.readings.history(admin.clock.boot(), &admin.snapshot.load());
        for (traffic, history) in view.traffic.iter_mut().zip(history) {
            traffic.history = Some(history);
        }
        view
    }

    /// For the metric: one for each route whose token is there.
    pub(super) fn token_expiries(&self) -> Vec<TokenExpiry> {
        let with_token = self.credentials.iter().filter_map(|it| Some((it, it.status.expires_at?)));
        with_token
            .flat_map(|(credential, at)| {
                credential.routes.iter().map(move |route| TokenExpiry {
                    issuer: Arc::clone(&credential.issuer.name),
                    route: Arc::clone(route),
                    at,
                })
            })
            .collect()
    }

    /// Not ending, nothing that requests need is missing, and every credential of a required issuer was fetched once.
    pub(super) fn ready(&self) -> bool {
        !self.draining && self.missing.is_empty() && self.credentials.iter().all(|it| !it.missing())
    }
}

impl View {
    /// Whether it is ready although requests of some routes fail because there is no token for them.
    pub(super) fn degraded(&self) -> bool {
        self.ready() && self.credentials.iter().any(CredentialView::degraded)
    }
}

impl CredentialView {
    /// Whether requests fail because there is no valid token and the issuer gives none. `/readyz` stays 200: taking every
    /// replica out of service does not bring the issuer back.
    pub(super) fn degraded(&self) -> bool {
        self.status.fetched_once && self.status.state != "valid" && self.status.last_error.is_some()
    }

    /// Holds `/readyz` up.
    pub(super) fn missing(&self) -> bool {
        self.issuer.required && !self.status.fetched_once
    }
}
