//! What is asked: each credential once, each upstream once.

use crate::config::{
    Config, ConnectionConfig, Credential, CredentialKey, IssuerConfig, UpstreamTarget, UpstreamUrl,
};

/// A token that the proxy would ask for.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) key: CredentialKey,
    /// Who uses it; empty: the issuer's own, which no route uses.
    pub(super) routes: Vec<String>,
    /// The proxy asks for it, or nobody asks this issuer for anything.
    pub(super) needed: bool,
}

/// The tokens of one issuer: those of its routes, in the order of the file, and its own.
pub(super) fn credentials(config: &Config, issuer: &IssuerConfig) -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for route in &config.routes {
        let Credential::Issuer { key, .. } = &route.credential else { continue };
        if key.issuer != issuer.name {
            continue;
        }
        match wanted.iter_mut().find(|known| known.key == *key) {
            Some(known) => known.routes.push(route.name.to_string()),
            None => {
                wanted.push(Wanted { key: key.clone(), routes: vec![route.name.to_string()], needed: true });
            }
        }
    }
    let own = super::super::token::own_key(issuer);
    if !wanted.iter().any(|known| known.key == own) {
        let needed = wanted.is_empty();
        wanted.push(Wanted { key: own, routes: Vec::new(), needed });
    }
    wanted
}

/// An upstream, and how it is reached.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    pub(super) routes: Vec<String>,
    /// Scheme, host and port.
    pub(super) upstream: String,
    pub(super) target: UpstreamTarget,
    pub(super) connection: ConnectionConfig,
}

/// Routes that connect alike share a connection.
pub(super) fn upstreams(config: &Config) -> Vec<Planned> {
    let mut planned: Vec<Planned> = Vec::new();
    for route in &config.routes {
        let same = planned
            .iter_mut()
            .find(|known| known.target == route.upstream.target && known.connection == route.connection);
        match same {
            Some(known) => known.routes.push(route.name.to_string()),
            None => planned.push(Planned {
                routes: vec![route.name.to_string()],
                upstream: shown(&route.upstream),
                target: route.upstream.target.clone(),
                connection: route.connection.clone(),
            }),
        }
    }
    planned
}

/// Where the connection goes: what the paths of its routes are does not count here.
fn shown(upstream: &UpstreamUrl) -> String {
    match &upstream.target {
        UpstreamTarget::Tcp { https, .. } => {
            format!("{}://{}", if *https { "https" } else { "http" }, upstream.authority)
        }
        UpstreamTarget::Unix(path) => format!("unix:{}", path.display()),
    }
}
