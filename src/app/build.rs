//! From a config to the one value that requests read. Start and reload both come through here.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Config, Credential, Egress, RouteConfig, Source};
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
    connection_sources(route).any(|source| source.path().is_some_and(|path| files.contains(path)))
}

/// What connections to the upstream are made with.
fn connection_sources(route: &RouteConfig) -> impl Iterator<Item = &Source> {
    let userinfo = match &route.egress {
        Egress::Proxy { userinfo, .. } => userinfo.as_ref(),
        Egress::Direct | Egress::Env => None,
    };
    let tls = &route.tls;
    [tls.ca.as_ref(), tls.certificate.as_ref(), tls.private_key.as_ref(), userinfo].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{TlsOptions, fixture};

    fn file(path: &str) -> Source {
        Source::file(PathBuf::from(path), None)
    }

    #[test]
    fn a_changed_file_touches_only_routes_that_use_it() {
        let route = RouteConfig {
            tls: TlsOptions { ca: Some(file("/ca.pem")), ..TlsOptions::default() },
            ..fixture::route()
        };
        assert!(connects_with(&route, &[PathBuf::from("/ca.pem")].into()));
        assert!(!connects_with(&route, &[PathBuf::from("/other.pem")].into()));
    }
}
