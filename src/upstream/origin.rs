//! Where connections lead, and how they are made. Routes that agree in all of it share their connections.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use http::HeaderValue;
use http::uri::{Authority, Scheme};

use crate::config::{ConnectionConfig, HeaderCase, Protocol, RouteConfig, UpstreamTarget};
use crate::net::connect::Offer;
use crate::net::{Connector, UPSTREAMS};

/// See the module.
pub struct Origin {
    /// Names its pools; never used twice in a process.
    pub(super) id: u64,
    key: Key,
    pub(super) connector: Connector,
    /// For upgrades, and where the origin wants HTTP/1.1 whatever it offers.
    pub(super) http1_connector: Connector,
    pub(super) scheme: Scheme,
    pub(super) authority: Authority,
    pub(super) host: HeaderValue,
    /// The last connection spoke HTTP/1.1: the next ones will, and need not wait for each other.
    spoke_http1: AtomicBool,
    /// It refused HTTP/2 (HTTP_1_1_REQUIRED, RFC 9113 section 7).
    requires_http1: AtomicBool,
    /// What it wants in the next DPoP proof (RFC 9449 section 9).
    nonce: ArcSwapOption<String>,
}

/// What makes two routes' connections interchangeable.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    target: UpstreamTarget,
    authority: String,
    connection: ConnectionConfig,
}

impl Key {
    fn of(route: &RouteConfig) -> Self {
        Self {
            target: route.upstream.target.clone(),
            authority: route.upstream.authority.clone(),
            connection: route.connection.clone(),
        }
    }
}

impl Origin {
    fn new(key: Key) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let https = matches!(key.target, UpstreamTarget::Tcp { https: true, .. });
        let connector =
            |offer| Connector::to_upstream(&key.target, &key.connection, offer).within(&UPSTREAMS);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            connector: connector(key.connection.protocol.into()),
            http1_connector: connector(Offer::Http1),
            scheme: if https { Scheme::HTTPS } else { Scheme::HTTP },
            authority: key.authority.parse().expect("the config has checked the upstream's host"),
            host: key.authority.parse().expect("a host is visible ASCII"),
            spoke_http1: AtomicBool::new(false),
            requires_http1: AtomicBool::new(false),
            nonce: ArcSwapOption::empty(),
            key,
        }
    }

    /// As errors call it.
    pub(super) fn name(&self) -> &str {
        &self.key.authority
    }

    /// Over the network, without TLS.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self.key.target, UpstreamTarget::Tcp { https: false, .. })
    }

    pub(super) fn title_case(&self) -> bool {
        self.key.connection.header_case == HeaderCase::Title
    }

    /// Whether a connection with this outcome of ALPN speaks HTTP/2.
    pub(super) fn speaks_http2(&self, negotiated: bool) -> bool {
        match self.key.connection.protocol {
            Protocol::Http1 => false,
            Protocol::Auto => negotiated,
            Protocol::Http2 => true,
        }
    }

    /// Whether the next connection may speak HTTP/2: then one dial serves all who wait.
    pub(super) fn may_speak_http2(&self) -> bool {
        match self.key.connection.protocol {
            Protocol::Http1 => false,
            Protocol::Http2 => true,
            Protocol::Auto => {
                self.scheme == Scheme::HTTPS
                    && !self.requires_http1()
                    && !self.spoke_http1.load(Ordering::Relaxed)
            }
        }
    }

    pub(super) fn learn_protocol(&self, http2: bool) {
        self.spoke_http1.store(!http2, Ordering::Relaxed);
    }

    pub(super) fn requires_http1(&self) -> bool {
        self.requires_http1.load(Ordering::Relaxed)
    }

    /// Where the route allows it, HTTP/1.1 from now on; whether it does.
    pub(super) fn require_http1(&self) -> bool {
        let allowed = self.key.connection.protocol == Protocol::Auto;
        if allowed && !self.requires_http1.swap(true, Ordering::Relaxed) {
            tracing::info!(
                event = "upstream.http1_required",
                upstream = self.name(),
                "the upstream refuses HTTP/2 (HTTP_1_1_REQUIRED): HTTP/1.1 from now on"
            );
        }
        allowed
    }

    pub(super) fn nonce(&self) -> Option<Arc<String>> {
        self.nonce.load_full()
    }

    pub(super) fn set_nonce(&self, nonce: &str) {
        if self.nonce.load().as_ref().is_none_or(|known| **known != nonce) {
            self.nonce.store(Some(Arc::new(nonce.to_owned())));
        }
    }
}

/// The origins of one config, each once.
#[derive(Default)]
pub struct Origins(HashMap<String, Vec<Arc<Origin>>>);

impl Origins {
    /// Origins of the config before: their connections go on.
    pub fn known(origins: impl Iterator<Item = Arc<Origin>>) -> Self {
        let mut known = Self::default();
        for origin in origins {
            let same_name = known.0.entry(origin.key.authority.clone()).or_default();
            if !same_name.iter().any(|other| other.key == origin.key) {
                same_name.push(origin);
            }
        }
        known
    }

    /// The route's origin, which may be another route's too.
    pub fn of(&mut self, route: &RouteConfig) -> Arc<Origin> {
        let key = Key::of(route);
        let same_name = self.0.entry(key.authority.clone()).or_default();
        if let Some(origin) = same_name.iter().find(|origin| origin.key == key) {
            return Arc::clone(origin);
        }
        let origin = Arc::new(Origin::new(key));
        same_name.push(Arc::clone(&origin));
        origin
    }
}
