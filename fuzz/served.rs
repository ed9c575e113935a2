//! The listener of a config, as the program serves it.

use std::sync::Arc;

use bearerd::app::{self, Parts};
use bearerd::clock::ShiftedClock;
use bearerd::config::Config;
use bearerd::listener::{self, Bound, ConnectionLimit, SettingsCell, Stop};
use bearerd::metrics::Metrics;
use bearerd::proxy::{Proxy, SnapshotCell};
use bearerd::token::TokenCache;

pub(crate) struct Served {
    pub(crate) snapshot: Arc<SnapshotCell>,
    pub(crate) tokens: TokenCache,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) connections: Arc<ConnectionLimit>,
}

impl Served {
    pub(crate) fn start(config: &Arc<Config>, clock: Arc<ShiftedClock>) -> Self {
        let metrics = Arc::new(Metrics::new(1));
        let handle = tokio::runtime::Handle::current();
        let tokens = TokenCache::new(handle, clock, Arc::clone(&metrics), Arc::default());
        let parts = Parts { tokens: &tokens, metrics: &metrics, changed: &Default::default() };
        let snapshot = Arc::new(SnapshotCell::from_pointee(app::build(config, None, &parts)));
        let connections = Arc::new(ConnectionLimit::new());
        let listener = config.listeners.first().expect("one listener");
        let bound = Bound::bind(&listener.name, &listener.address, &listener.unix).expect("a socket");
        let settings = app::listener_settings(config, None, &metrics).expect("good settings").remove(0);
        tokio::spawn(listener::serve(
            bound,
            Arc::new(Proxy::new(Arc::clone(&snapshot))),
            Arc::new(SettingsCell::from(settings)),
            Arc::clone(&connections),
            Stop::default(),
        ));
        Self { snapshot, tokens, metrics, connections }
    }
}
