//! From a config to the one value that requests read. Start and reload both come through here.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Config, Credential, RouteConfig};
use crate::metrics::Metrics;
use crate::proxy::{RouteService, Snapshot};
use crate::token::{TokenCache, TokenSlot};
use crate::upstream::{Origins, Upstream};

/// What a snapshot is made with.
pub struct Parts<'a> {
    pub tokens: &'a TokenCache,
    pub metrics: &'a Metrics,
    /// Referenced files with another content than when `previous` was built.
    pub changed: &'a BTreeSet<PathBuf>,
}

/// Makes the snapshot of `config`. Tokens whose key did not change stay, and so do connections whose
/// settings and files did not change.
pub fn build(config: &Arc<Config>, previous: Option<&Snapshot>, parts: &Parts<'_>) -> Snapshot {
    let old = previous.iter().flat_map(|previous| &previous.routes);
    let kept = old.filter(|old| !connects_with(&old.config, parts.changed));
    let mut origins = Origins::known(kept.map(|old| Arc::clone(old.upstream.origin())));
    let routes = config.routes.iter().map(|route| service(config, route, &mut origins, parts)).collect();
    let version = previous.map_or(1, |previous| previous.version + 1);
    Snapshot::new(version, Arc::clone(config), routes, parts.metrics, previous)
}

fn service(
    config: &Config,
    route: &Arc<RouteConfig>,
    origins: &mut Origins,
    parts: &Parts<'_>,
) -> Arc<RouteService> {
    let slot = match &route.credential {
        Credential::Anonymous => None,
        Credential::Issuer { issuer, key } => Some(parts.tokens.slot(key, issuer, config.limits.waiters)),
    };
    let metrics = parts.metrics.route(&route.name);
    let upstream = Upstream::new(route, origins.of(route), Arc::clone(&metrics));
    Arc::new(RouteService::new(route, slot, Arc::new(upstream), metrics))
}

/// Each slot once, however many routes share it.
pub(super) fn slots(snapshot: &Snapshot) -> Vec<Arc<TokenSlot>> {
    let mut met = HashSet::new();
    let slots = snapshot.routes.iter().filter_map(|route| route.slot.as_ref());
    slots.filter(|slot| met.insert(Arc::as_ptr(slot))).cloned().collect()
}

/// Whether the route's connections are made with one of these files.
pub(super) fn connects_with(route: &RouteConfig, files: &BTreeSet<PathBuf>) -> bool {
    route.connection.sources().any(|source| source.path().is_some_and(|path| files.contains(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Source, fixture};

    fn file(path: &str) -> Source {
        Source::file(PathBuf::from(path), None)
    }

    #[test]
    fn a_changed_file_touches_only_routes_that_use_it() {
        let mut route = fixture::route();
        route.connection.tls.ca = Some(file("/ca.pem"));
        assert!(connects_with(&route, &[PathBuf::from("/ca.pem")].into()));
        assert!(!connects_with(&route, &[PathBuf::from("/other.pem")].into()));
    }
}
