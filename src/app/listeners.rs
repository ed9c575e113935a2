//! The listeners that are being served, and how they become those of another config.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::admin_server;
use super::room::Room;
use super::worker::{Serve, Workers};
use crate::config::{Address, Config, Limits, ListenerConfig, ListenerTls, UnixOptions};
use crate::listener::{
    BindError, Bound, ConnectionLimit, ListenerSettings, Passed, SettingsCell, Stop, Unfit, Wanted,
};
use crate::metrics::Metrics;
use crate::net::tls;

/// Every listener's settings, in the order of the config. Reads certificates and keys; blocks.
///
/// A file that is missing does not keep the program from starting: until it is there, the listener ends every
/// handshake. `running` is the config in force: a listener that works does not give up its certificate for that.
///
/// # Errors
/// One message for each listener whose certificate, key or CA cannot be used.
pub fn settings(
    config: &Config,
    running: Option<&Config>,
    metrics: &Metrics,
) -> Result<Vec<Arc<ListenerSettings>>, Vec<String>> {
    let limits = Limits { connections: Room::of(config).callers, ..config.limits.clone() };
    let mut all = Vec::with_capacity(config.listeners.len());
    let mut errors = Vec::new();
    for listener in &config.listeners {
        let server_config = |tls: &ListenerTls| {
            if may_wait(&listener.name, running) && tls.is_missing() {
                tls::closed_server_config()
            } else {
                tls::server_config(tls)
            }
        };
        match listener.tls.as_ref().map(server_config).transpose() {
            Ok(tls) => all.push(Arc::new(ListenerSettings {
                config: Arc::clone(listener),
                limits: limits.clone(),
                tls,
                metrics: metrics.listener(&listener.name),
            })),
            Err(error) => errors.push(format!("listener.{}: {}", listener.name, error.0)),
        }
    }
    if errors.is_empty() { Ok(all) } else { Err(errors) }
}

/// At the start, and for a listener that has waited since then.
fn may_wait(listener: &str, running: Option<&Config>) -> bool {
    running.is_none_or(|running| {
        let same = running.listeners.iter().find(|running| &*running.name == listener);
        same.and_then(|running| running.tls.as_ref()).is_some_and(ListenerTls::is_missing)
    })
}

pub(super) fn bind(listener: &ListenerConfig, passed: &Passed) -> Result<Bound, BindError> {
    bind_or_take(&listener.name, &listener.address, &listener.unix, passed)
}

/// The socket that the service manager passed for this place, else one of our own.
pub(super) fn bind_or_take(
    name: &Arc<str>,
    address: &Address,
    unix: &UnixOptions,
    passed: &Passed,
) -> Result<Bound, BindError> {
    match passed.socket(name, address) {
        Ok(Some(socket)) => Ok(socket),
        Ok(None) => Bound::bind(name, address, unix),
        Err(error) => Err(BindError {
            address: format!("the socket `{name}` of the service manager"),
            message: error.to_string(),
        }),
    }
}

/// How passed sockets and a config fit.
pub(super) fn unfit(passed: &Passed, config: &Config) -> Unfit {
    let listeners = config.listeners.iter().map(|listener| Wanted {
        name: &listener.name,
        address: &listener.address,
        unix: &listener.unix,
    });
    let admin =
        Wanted { name: admin_server::NAME, address: &config.admin.address, unix: &admin_server::ACCESS };
    passed.unfit(&listeners.chain([admin]).collect::<Vec<_>>())
}

/// One new listener's socket, for each worker, and its real address.
pub(super) struct Socket {
    local: String,
    foreign_file: bool,
    shares: Vec<Bound>,
}

/// A share of each socket for each worker.
pub(super) fn for_workers(sockets: Vec<Bound>, workers: usize) -> io::Result<Vec<Socket>> {
    sockets.into_iter().map(|socket| share(socket, workers)).collect()
}

fn share(socket: Bound, workers: usize) -> io::Result<Socket> {
    let (local, foreign_file) = (socket.local(), socket.has_foreign_file());
    let mut shares = (1..workers).map(|_| socket.try_clone()).collect::<io::Result<Vec<Bound>>>()?;
    // The last one is the socket itself: what no worker holds would go on taking in connections.
    shares.push(socket);
    Ok(Socket { local, foreign_file, shares })
}

/// How one listener of the new config comes about.
pub(super) enum Source {
    /// The socket of the listener that is at this place now.
    Kept(usize),
    New(Socket),
}

pub(super) fn all_new(sockets: Vec<Socket>) -> Vec<Source> {
    sockets.into_iter().map(Source::New).collect()
}

struct Live {
    name: Arc<str>,
    address: Address,
    local: String,
    /// The service manager's, who set its mode.
    foreign_file: bool,
    settings: Arc<SettingsCell>,
    accepting: CancellationToken,
}

/// All listeners that accept calls.
pub(super) struct Listeners {
    live: Vec<Live>,
    connections: Arc<ConnectionLimit>,
    passed: Arc<Passed>,
    now: CancellationToken,
}

impl Listeners {
    /// `now` drops every connection of every listener.
    pub(super) fn new(passed: Arc<Passed>, now: CancellationToken) -> Self {
        Self { live: Vec::new(), connections: Arc::new(ConnectionLimit::default()), passed, now }
    }

    /// Everything that can fail on the way to `settings`; nothing is served differently yet.
    pub(super) fn bind_for(
        &self,
        settings: &[Arc<ListenerSettings>],
        workers: usize,
    ) -> Result<Vec<Source>, String> {
        let old: Vec<_> = self.live.iter().map(|live| (&*live.name, &live.address)).collect();
        let new: Vec<_> = settings.iter().map(|new| (&*new.config.name, &new.config.address)).collect();
        let mut sources = Vec::with_capacity(settings.len());
        for (settings, kept) in settings.iter().zip(same_sockets(&old, &new)) {
            sources.push(match kept {
                Some(place) => Source::Kept(place),
                None => Source::New(bind_for_workers(&settings.config, &self.passed, workers)?),
            });
        }
        // Last, because it cannot be taken back by dropping something.
        for (settings, source) in settings.iter().zip(&sources) {
            if let Source::Kept(place) = source {
                self.adopt_unix_options(*place, settings)?;
            }
        }
        Ok(sources)
    }

    /// A socket file that stays may get another mode or group.
    fn adopt_unix_options(&self, place: usize, new: &ListenerSettings) -> Result<(), String> {
        let (Address::Unix(path), Some(live)) = (&new.config.address, self.live.get(place)) else {
            return Ok(());
        };
        if live.foreign_file || live.settings.load().config.unix == new.config.unix {
            return Ok(());
        }
        set_access(path, &new.config.unix)
            .map_err(|error| format!("{}: cannot set mode and group: {error}", path.display()))
    }

    /// Serves exactly these listeners from now on. New ones begin before old ones end; the requests of those that go
    /// end in their own time.
    pub(super) fn apply(
        &mut self,
        settings: &[Arc<ListenerSettings>],
        sources: Vec<Source>,
        workers: &Workers,
    ) {
        let mut old: Vec<Option<Live>> = std::mem::take(&mut self.live).into_iter().map(Some).collect();
        for (settings, source) in settings.iter().zip(sources) {
            let live = match source {
                Source::Kept(place) => old.get_mut(place).and_then(Option::take).map(|live| {
                    live.settings.store(Arc::clone(settings));
                    Live { name: Arc::clone(&settings.config.name), ..live }
                }),
                Source::New(socket) => Some(self.serve(settings, socket, workers)),
            };
            self.live.extend(live);
        }
        for gone in old.into_iter().flatten() {
            tracing::info!(
                event = "listener.closed", listener = %gone.name, address = %gone.local,
                "closed a listener; its requests end in their time"
            );
            gone.accepting.cancel();
        }
    }

    fn serve(&self, settings: &Arc<ListenerSettings>, socket: Socket, workers: &Workers) -> Live {
        tracing::info!(
            event = "listener.opened", listener = %settings.config.name, address = %socket.local,
            "listening"
        );
        let accepting = CancellationToken::new();
        let cell = Arc::new(SettingsCell::new(Arc::clone(settings)));
        workers.serve(socket.shares.into_iter().map(|bound| Serve {
            bound,
            settings: Arc::clone(&cell),
            connections: Arc::clone(&self.connections),
            stop: Stop { accepting: accepting.clone(), now: self.now.clone() },
        }));
        Live {
            name: Arc::clone(&settings.config.name),
            address: settings.config.address.clone(),
            local: socket.local,
            foreign_file: socket.foreign_file,
            settings: cell,
            accepting,
        }
    }

    /// Real addresses by listener name.
    pub(super) fn addresses(&self) -> BTreeMap<String, String> {
        self.live.iter().map(|live| (live.name.to_string(), live.local.clone())).collect()
    }

    /// No new connections; calls under way go on.
    pub(super) fn stop_accepting(&self) {
        for live in &self.live {
            live.accepting.cancel();
        }
    }

    /// Drops every connection.
    pub(super) fn stop_now(&self) {
        self.stop_accepting();
        self.now.cancel();
    }
}

fn bind_for_workers(listener: &ListenerConfig, passed: &Passed, workers: usize) -> Result<Socket, String> {
    let socket = bind(listener, passed).map_err(|error| format!("listener.{}: {error}", listener.name))?;
    share(socket, workers)
        .map_err(|error| format!("listener.{}: cannot share its socket: {error}", listener.name))
}

fn set_access(path: &Path, unix: &UnixOptions) -> io::Result<()> {
    if unix.group.is_some() {
        chown(path, None, unix.group)?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(unix.mode))
}

/// For each new listener the place of the old one whose socket it keeps: the one of the same address, and of the same
/// name where several have that address (as those on port 0 do). A listener that was only renamed keeps its socket:
/// its address could not be bound a second time.
pub(super) fn same_sockets(old: &[(&str, &Address)], new: &[(&str, &Address)]) -> Vec<Option<usize>> {
    let mut kept: Vec<Option<usize>> =
        new.iter().map(|wanted| old.iter().position(|candidate| candidate == wanted)).collect();
    for place in 0..new.len() {
        let Some((_, address)) = new.get(place) else { continue };
        if kept.get(place).is_some_and(Option::is_some) {
            continue;
        }
        let free = old
            .iter()
            .enumerate()
            .position(|(at, (_, candidate))| candidate == address && !kept.contains(&Some(at)));
        if let Some(entry) = kept.get_mut(place) {
            *entry = free;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(port: u16) -> Address {
        Address::Tcp(([127, 0, 0, 1], port).into())
    }

    #[test]
    fn t95_a_listener_with_the_same_address_keeps_its_socket() {
        let (a, b, c) = (tcp(1), tcp(2), tcp(3));
        assert_eq!(
            same_sockets(&[("main", &a), ("side", &b)], &[("extra", &c), ("main", &a)]),
            [None, Some(0)]
        );
    }

    #[test]
    fn renamed_and_exchanged_listeners_keep_their_sockets() {
        let (a, b) = (tcp(1), tcp(2));
        assert_eq!(same_sockets(&[("main", &a)], &[("web", &a)]), [Some(0)]);
        assert_eq!(
            same_sockets(&[("main", &a), ("side", &b)], &[("main", &b), ("side", &a)]),
            [Some(1), Some(0)]
        );
    }

    #[test]
    fn listeners_on_any_free_port_are_told_apart_by_name() {
        let any = tcp(0);
        assert_eq!(
            same_sockets(&[("a", &any), ("b", &any)], &[("b", &any), ("c", &any), ("d", &any)]),
            [Some(1), Some(0), None]
        );
    }

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
