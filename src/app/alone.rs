//! One listener of a config without the rest of the program, for `check`.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::runtime::Handle;

use super::{Parts, build, listeners};
use crate::clock::SystemClock;
use crate::config::{Address, Config, UnixOptions};
use crate::listener::{self, Bound, ConnectionLimit, ListenerSettings, SettingsCell, Stop};
use crate::metrics::Metrics;
use crate::proxy::{Proxy, SnapshotCell};
use crate::reload::Change;
use crate::token::TokenCache;
use crate::trace::TracerCell;

/// A forward listener on a free port of this machine.
pub struct Alone {
    pub address: SocketAddr,
    /// What programs must trust, as PEM. Empty while the files of its authority are missing.
    pub trust: String,
}

/// Serves the listener at `index` until the runtime ends, in plain text. It fetches a token only for a request, not at start, and
/// writes no file. Reads files, and blocks. Must be called within a runtime.
///
/// # Errors
/// The listener cannot be served.
pub fn serve_alone(config: &Arc<Config>, index: usize) -> Result<Alone, String> {
    let metrics = Arc::new(Metrics::new(1));
    let settings = listeners::settings(config, None, &metrics).map_err(|messages| messages.join("; "))?;
    let settings = settings.get(index).ok_or("the config has no such listener")?;
    let any = Address::Tcp((Ipv4Addr::LOCALHOST, 0).into());
    let bound = Bound::bind(&settings.config.name, &any, &UnixOptions::OWNER_ALONE)
        .map_err(|error| error.to_string())?;
    let address = bound.local_addr().ok_or("its socket has no address")?;
    let trust = settings.authority.as_ref().map(|authority| authority.bundle().pem()).unwrap_or_default();

    let tracers = Arc::new(TracerCell::empty());
    let tokens = TokenCache::new(Handle::current(), Arc::new(SystemClock), Arc::clone(&metrics), tracers);
    let parts = Parts { tokens: &tokens, metrics: &metrics, changed: &Change::default() };
    let snapshot = SnapshotCell::from_pointee(build(config, None, &parts));
    let proxy = Arc::new(Proxy::new(Arc::new(snapshot)));
    let settings = ListenerSettings {
        config: Arc::clone(&settings.config),
        limits: settings.limits.clone(),
        tls: None,
        authority: settings.authority.clone(),
        metrics: Arc::clone(&settings.metrics),
    };
    let settings = Arc::new(SettingsCell::from_pointee(settings));
    let connections = Arc::new(ConnectionLimit::new());
    tokio::spawn(listener::serve(bound, proxy, settings, connections, Stop::default()));
    Ok(Alone { address, trust })
}
