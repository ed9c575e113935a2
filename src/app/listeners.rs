//! The running listeners, and how a reload exchanges them.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::room::Room;
use super::sockets::{Held, Place, Source};
use super::worker::{Serve, Workers};
use crate::config::{Address, Config, Limits, ListenerConfig, UnixOptions};
use crate::listener::{Bound, ConnectionLimit, ListenerSettings, SettingsCell};
use crate::metrics::Metrics;
use crate::net::CertificateAuthority;
use crate::net::authority::HostTls;
use crate::net::tls::{self, TlsSettingsError};

/// Every listener's settings, in the order of the config. Reads certificates and keys, and blocks.
///
/// If a file is missing, the program starts anyway, and the listener refuses every handshake until the file is there.
/// `running` is what the running listeners have: one that works keeps its certificate when a file goes missing, and an
/// ephemeral authority stays.
///
/// # Errors
/// One message for each listener whose certificate, key, or CA cannot be used.
pub fn settings(
    config: &Config,
    running: Option<&[Arc<ListenerSettings>]>,
    metrics: &Metrics,
) -> Result<Vec<Arc<ListenerSettings>>, Vec<String>> {
    let mut all = Vec::with_capacity(config.listeners.len());
    let mut errors = Vec::new();
    for index in 0..config.listeners.len() {
        match settings_of(config, index, running, metrics) {
            Ok(settings) => all.push(Arc::new(settings)),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(all) } else { Err(errors) }
}

/// Of one listener. Blocks.
///
/// # Errors
/// Why its certificate, key, or CA cannot be used.
pub(super) fn settings_of(
    config: &Config,
    index: usize,
    running: Option<&[Arc<ListenerSettings>]>,
    metrics: &Metrics,
) -> Result<ListenerSettings, String> {
    let listener = config.listeners.get(index).ok_or("the config has no such listener")?;
    let before = running.map(|running| running.iter().find(|it| it.config.name == listener.name));
    // At the start, or if it has waited since then.
    let may_wait = before.is_none_or(|before| before.is_some_and(|before| before.config.is_missing_files()));
    let waits = may_wait && listener.is_missing_files();
    let made = server_config(listener, waits)
        .and_then(|tls| Ok((tls, authority(config, index, before.flatten(), waits)?)));
    let (tls, authority) = made.map_err(|error| format!("listener.{}: {}", listener.name, error.0))?;
    Ok(ListenerSettings {
        config: Arc::clone(listener),
        limits: Limits { connections: Room::of(config).callers, ..config.limits.clone() },
        tls,
        authority,
        metrics: metrics.listener(&listener.name),
    })
}

fn server_config(listener: &ListenerConfig, waits: bool) -> Result<Option<HostTls>, TlsSettingsError> {
    let Some(tls) = &listener.tls else { return Ok(None) };
    let made = if waits && tls.is_missing() { tls::closed_server_config() } else { tls::server_config(tls) };
    made.map(Some)
}

fn authority(
    config: &Config,
    index: usize,
    before: Option<&Arc<ListenerSettings>>,
    waits: bool,
) -> Result<Option<Arc<CertificateAuthority>>, TlsSettingsError> {
    let Some(forward) = config.listeners.get(index).and_then(|listener| listener.forward()) else {
        return Ok(None);
    };
    if waits && let Some(missing) = forward.ca.missing() {
        return Ok(Some(Arc::new(CertificateAuthority::waiting(missing))));
    }
    let hosts = config.hosts_of(index);
    let made = match before.and_then(|before| before.authority.as_ref()) {
        Some(before) => before.after(&forward.ca, &hosts),
        None => CertificateAuthority::new(&forward.ca, &hosts),
    };
    made.map(Arc::new).map(Some)
}

/// A share of a socket for each worker.
pub(super) type Shares = Vec<Bound>;

fn share(socket: Bound, workers: usize) -> io::Result<Shares> {
    let mut shares = (1..workers).map(|_| socket.try_clone()).collect::<io::Result<Shares>>()?;
    // The last share is the socket itself. A handle that no worker holds would keep accepting connections.
    shares.push(socket);
    Ok(shares)
}

struct Live {
    held: Held,
    settings: Arc<SettingsCell>,
}

/// All running listeners.
pub(super) struct Listeners {
    live: Vec<Live>,
    connections: Arc<ConnectionLimit>,
    now: CancellationToken,
}

impl Listeners {
    /// Cancelling `now` drops every connection of every listener.
    pub(super) fn new(now: CancellationToken) -> Self {
        Self { live: Vec::new(), connections: Arc::new(ConnectionLimit::default()), now }
    }

    /// Does everything that can still fail before [`Self::apply`]. Nothing is served differently yet.
    pub(super) fn prepare(
        &self,
        settings: &[Arc<ListenerSettings>],
        sources: Vec<Source>,
        workers: &Workers,
    ) -> Result<Vec<Source<Shares>>, String> {
        let shared = settings.iter().zip(sources).map(|(settings, source)| match source {
            Source::Kept(name) => Ok(Source::Kept(name)),
            Source::New(socket) => share(socket, workers.count()).map(Source::New).map_err(|error| {
                format!("listener.{}: cannot share its socket: {error}", settings.config.name)
            }),
        });
        let sources = shared.collect::<Result<Vec<_>, String>>()?;
        // Last, because dropping something does not undo it.
        for (settings, source) in settings.iter().zip(&sources) {
            if let Source::Kept(name) = source {
                self.adopt_unix_options(name, &settings.config)?;
            }
        }
        Ok(sources)
    }

    /// Sets the mode and the group of a socket file that stays.
    fn adopt_unix_options(&self, name: &str, new: &ListenerConfig) -> Result<(), String> {
        let live = self.live.iter().find(|live| *live.held.name == *name);
        let (Address::Unix(path), Some(Live { held, .. })) = (&new.address, live) else { return Ok(()) };
        if held.foreign_file || held.unix == new.unix {
            return Ok(());
        }
        // What a link names is not the socket's file.
        if !held.is_reachable() {
            return Err(format!("{}: another program put something else in its place", path.display()));
        }
        set_access(path, &new.unix)
            .map_err(|error| format!("{}: cannot set mode and group: {error}", path.display()))
    }

    /// Serves exactly these listeners from now on. New ones start before old ones stop. Requests of removed listeners still get
    /// their response.
    pub(super) fn apply(
        &mut self,
        settings: &[Arc<ListenerSettings>],
        sources: Vec<Source<Shares>>,
        workers: &Workers,
    ) {
        let mut old = std::mem::take(&mut self.live);
        for (settings, source) in settings.iter().zip(sources) {
            let config = &settings.config;
            let live = match source {
                Source::Kept(name) => {
                    let place = old.iter().position(|live| live.held.name == name);
                    place.map(|place| old.swap_remove(place)).map(|mut live| {
                        live.settings.store(Arc::clone(settings));
                        live.held.name = Arc::clone(&config.name);
                        live.held.unix = config.unix.clone();
                        live
                    })
                }
                Source::New(shares) => {
                    shares.last().map(|socket| Held::new(&Place::listener(config), socket)).map(|held| {
                        let live = Live { held, settings: Arc::new(SettingsCell::new(Arc::clone(settings))) };
                        self.serve(&live, shares, workers);
                        live
                    })
                }
            };
            self.live.extend(live);
        }
        for Live { held, .. } in old {
            tracing::info!(
                event = "listener.closed", listener = %held.name, address = %held.local,
                "closed a listener; its requests may end"
            );
            held.stop_accepting();
        }
    }

    fn serve(&self, live: &Live, shares: Shares, workers: &Workers) {
        let Live { held, settings } = live;
        tracing::info!(
            event = "listener.opened", listener = %held.name, address = %held.local,
            "listening"
        );
        workers.serve(shares.into_iter().map(|bound| Serve {
            bound,
            settings: Arc::clone(settings),
            connections: Arc::clone(&self.connections),
            stop: held.stop(&self.now),
        }));
    }

    /// Serves a listener on a socket that was bound again.
    pub(super) fn serve_again(&mut self, socket: Bound, workers: &Workers) -> io::Result<()> {
        let mut live = std::mem::take(&mut self.live);
        let result = live.iter_mut().find(|live| live.held.name == *socket.name()).map_or(Ok(()), |live| {
            live.held = live.held.with_socket(&socket);
            share(socket, workers.count()).map(|shares| self.serve(live, shares, workers))
        });
        self.live = live;
        result
    }

    /// What the running listeners have, in no particular order.
    pub(super) fn settings(&self) -> Vec<Arc<ListenerSettings>> {
        self.live.iter().map(|live| live.settings.load_full()).collect()
    }

    /// Gives ephemeral authorities their successors when it is time. Returns whether there are any.
    pub(super) fn renew_authorities(&self) -> bool {
        let mut any = false;
        for live in &self.live {
            let settings = live.settings.load_full();
            let renewed = settings.authority.as_ref().and_then(|authority| authority.renewed());
            match renewed {
                None => {}
                Some(Ok(renewed)) => {
                    any = true;
                    tracing::info!(event = "ca.renewed", listener = %settings.config.name, "made the next ephemeral CA");
                    live.settings.store(Arc::new(settings.with_authority(renewed)));
                }
                Some(Err(error)) => {
                    tracing::error!(event = "ca.renewal_failed", listener = %settings.config.name, %error, "made no ephemeral CA");
                }
            }
        }
        any
    }

    /// The sockets in use.
    pub(super) fn held(&self) -> impl Iterator<Item = &Held> {
        self.live.iter().map(|live| &live.held)
    }

    /// Real addresses by listener name.
    pub(super) fn addresses(&self) -> BTreeMap<String, String> {
        self.held().map(|held| (held.name.to_string(), held.local.clone())).collect()
    }

    /// Accepts no new connections. Requests that have begun still get their response.
    pub(super) fn stop_accepting(&self) {
        self.held().for_each(Held::stop_accepting);
    }

    /// Drops all connections.
    pub(super) fn stop_now(&self) {
        self.stop_accepting();
        self.now.cancel();
    }
}

fn set_access(path: &Path, unix: &UnixOptions) -> io::Result<()> {
    if unix.group.is_some() {
        chown(path, None, unix.group)?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(unix.mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_socket_file_gets_another_mode() {
        let path = std::env::temp_dir().join(format!("bearerd-mode-{:016x}", fastrand::u64(..)));
        std::fs::write(&path, "").unwrap();
        set_access(&path, &UnixOptions { mode: 0o640, ..UnixOptions::OWNER_ALONE }).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(mode & 0o777, 0o640);
    }
}
