//! From a config to the one value that calls read. Start and reload both come through here.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Config, Credential, Egress, RouteConfig, Source};
use crate::metrics::Metrics;
use crate::proxy::{RouteService, Snapshot};
use crate::token::{TokenCache, TokenSlot};
use crate::upstream::Upstream;

/// What a snapshot is made with.
pub struct Parts<'a> {
    pub tokens: &'a TokenCache,
    pub metrics: &'a Metrics,
    /// Referenced files with another content than when `previous` was built.
    pub changed: &'a BTreeSet<PathBuf>,
}

/// Makes the snapshot of `config`. Tokens whose key did not change stay, and so do connections to the upstreams of
/// routes that did not change.
pub fn build(config: &Arc<Config>, previous: Option<&Snapshot>, parts: &Parts<'_>) -> Snapshot {
    let old: HashMap<&str, &RouteService> = previous
        .iter()
        .flat_map(|previous| &previous.routes)
        .map(|service| (&*service.config.name, &**service))
        .collect();
    let routes = config
        .routes
        .iter()
        .map(|route| service(config, route, old.get(&*route.name).copied(), parts))
        .collect();
    let version = previous.map_or(1, |previous| previous.version + 1);
    Snapshot::new(version, Arc::clone(config), routes, parts.metrics, previous)
}

fn service(
    config: &Config,
    route: &Arc<RouteConfig>,
    old: Option<&RouteService>,
    parts: &Parts<'_>,
) -> Arc<RouteService> {
    let slot = match &route.credential {
        Credential::Anonymous => None,
        Credential::Issuer { issuer, key } => Some(parts.tokens.slot(key, issuer, config.limits.waiters)),
    };
    let metrics = parts.metrics.route(&route.name);
    let upstream = old
        .filter(|old| same_upstream(&old.config, route) && !connects_with(route, parts.changed))
        .map_or_else(
            || Arc::new(Upstream::new(route, Arc::clone(&metrics))),
            |old| Arc::clone(&old.upstream),
        );
    Arc::new(RouteService::new(route, slot, upstream, metrics))
}

/// Each slot once, however many routes share it.
pub(super) fn slots(snapshot: &Snapshot) -> Vec<Arc<TokenSlot>> {
    let mut met = HashSet::new();
    let slots = snapshot.routes.iter().filter_map(|route| route.slot.as_ref());
    slots.filter(|slot| met.insert(Arc::as_ptr(slot))).cloned().collect()
}

/// Whether calls go to the same place in the same way. What chooses the route, whose token it gets and what becomes
/// of headers is no concern of its connections.
fn same_upstream(a: &RouteConfig, b: &RouteConfig) -> bool {
    // Taken apart, so that a new field has to be thought about here.
    let RouteConfig {
        name,
        listener: _,
        host: _,
        path: _,
        methods: _,
        match_headers: _,
        upstream,
        protocol,
        credential: _,
        caller_authorization: _,
        inject: _,
        request_headers: _,
        response_headers: _,
        forwarded: _,
        rewrite_location: _,
        refresh_on: _,
        replay_limit: _,
        allow_encoded_slash: _,
        connect_timeout,
        response_timeout,
        idle_timeout,
        connection_max_age,
        tls,
        egress,
    } = a;
    *name == b.name
        && *upstream == b.upstream
        && *protocol == b.protocol
        && *connect_timeout == b.connect_timeout
        && *response_timeout == b.response_timeout
        && *idle_timeout == b.idle_timeout
        && *connection_max_age == b.connection_max_age
        && *tls == b.tls
        && *egress == b.egress
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
    use crate::config::{
        CallerAuthorization, HeaderEdits, Inject, PathPattern, Protocol, TlsOptions, UpstreamTarget,
        UpstreamUrl,
    };

    fn route() -> RouteConfig {
        RouteConfig {
            name: "billing".into(),
            listener: None,
            host: None,
            path: PathPattern::Prefix(String::new()),
            methods: None,
            match_headers: Vec::new(),
            upstream: UpstreamUrl {
                text: "http://127.0.0.1:1".to_owned(),
                target: UpstreamTarget::Tcp { https: false, host: "127.0.0.1".to_owned(), port: 1 },
                authority: "127.0.0.1:1".to_owned(),
                path: String::new(),
            },
            protocol: Protocol::Auto,
            credential: Credential::Anonymous,
            caller_authorization: CallerAuthorization::Replace,
            inject: Inject::Header {
                name: http::header::AUTHORIZATION,
                before: "Bearer ".to_owned(),
                after: String::new(),
                by_type: true,
            },
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            forwarded: false,
            rewrite_location: true,
            refresh_on: Vec::new(),
            replay_limit: 0,
            allow_encoded_slash: false,
            connect_timeout: None,
            response_timeout: None,
            idle_timeout: None,
            connection_max_age: None,
            tls: TlsOptions::default(),
            egress: Egress::Direct,
        }
    }

    fn file(path: &str) -> Source {
        Source::file(PathBuf::from(path), None)
    }

    #[test]
    fn connections_outlive_another_path_but_not_other_tls() {
        let other_path = RouteConfig { path: PathPattern::Exact("/x".to_owned()), ..route() };
        assert!(same_upstream(&route(), &other_path));
        let other_ca =
            RouteConfig { tls: TlsOptions { ca: Some(file("/ca.pem")), ..TlsOptions::default() }, ..route() };
        assert!(!same_upstream(&route(), &other_ca));
    }

    #[test]
    fn a_changed_file_touches_only_routes_that_use_it() {
        let route =
            RouteConfig { tls: TlsOptions { ca: Some(file("/ca.pem")), ..TlsOptions::default() }, ..route() };
        assert!(connects_with(&route, &[PathBuf::from("/ca.pem")].into()));
        assert!(!connects_with(&route, &[PathBuf::from("/other.pem")].into()));
    }
}
