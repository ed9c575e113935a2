//! The sockets that a config needs, and how a reload exchanges those of the running config for them.
//!
//! A socket whose address stays is kept. Every other address is bound before anything is closed, so that a reload that
//! fails changes nothing. Only an address that overlaps one of ours (`127.0.0.1:8080` and `0.0.0.0:8080`) cannot be bound
//! beside it: then [`exchange`] closes the old socket first, and binds it again if the reload fails.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Address, Config, ListenerConfig, UnixOptions, WebhookConfig};
use crate::listener::{BindError, Bound, FileId, Passed, Stop, Unfit, Wanted, overlap};

/// How long the workers have to close a socket. They do it at once unless they are stuck.
const CLOSING: Duration = Duration::from_secs(1);

/// The admin address and webhooks have no `mode`: their socket files are for their owner alone.
static OWNER_ALONE: UnixOptions = UnixOptions::OWNER_ALONE;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Listener,
    Webhook,
    Admin,
}

/// An address of a config.
#[derive(Clone)]
pub(super) struct Place<'a> {
    kind: Kind,
    name: Arc<str>,
    address: &'a Address,
    unix: &'a UnixOptions,
}

impl<'a> Place<'a> {
    pub(super) fn listener(config: &'a ListenerConfig) -> Self {
        let name = Arc::clone(&config.name);
        Self { kind: Kind::Listener, name, address: &config.address, unix: &config.unix }
    }

    pub(super) fn webhook(config: &'a WebhookConfig) -> Self {
        let name = Arc::clone(&config.name);
        Self { kind: Kind::Webhook, name, address: &config.address, unix: &OWNER_ALONE }
    }

    pub(super) fn admin(address: &'a Address) -> Self {
        Self { kind: Kind::Admin, name: Arc::from("admin"), address, unix: &OWNER_ALONE }
    }

    /// Listeners, then webhooks, both in the order of the config, then the admin address.
    fn all(config: &'a Config) -> Vec<Self> {
        let listeners = config.listeners.iter().map(|listener| Self::listener(listener));
        let webhooks = config.webhooks.iter().map(|webhook| Self::webhook(webhook));
        listeners.chain(webhooks).chain([Self::admin(&config.admin.address)]).collect()
    }

    /// The socket that the service manager passed for this place, else one of our own.
    fn bind(&self, passed: &Passed) -> Result<Bound, BindError> {
        if self.kind == Kind::Webhook {
            return Bound::bind(&self.name, self.address, self.unix);
        }
        match passed.socket(&self.name, self.address) {
            Ok(Some(socket)) => Ok(socket),
            Ok(None) => Bound::bind(&self.name, self.address, self.unix),
            Err(error) => Err(BindError {
                address: format!("the socket `{}` of the service manager", self.name),
                message: error.to_string(),
                in_use: false,
            }),
        }
    }
}

/// The table of the config.
fn table(kind: Kind, name: &str) -> String {
    match kind {
        Kind::Listener => format!("listener.{name}"),
        Kind::Webhook => format!("webhook.{name}"),
        Kind::Admin => name.to_owned(),
    }
}

/// How passed sockets and a config fit.
pub(super) fn unfit(passed: &Passed, config: &Config) -> Unfit {
    let places = Place::all(config);
    let wanted = places.iter().filter(|place| place.kind != Kind::Webhook);
    let wanted = wanted.map(|place| Wanted { name: &place.name, address: place.address, unix: place.unix });
    passed.unfit(&wanted.collect::<Vec<_>>())
}

/// Where a place of the new config gets its socket.
pub(super) enum Source<S = Bound> {
    /// From the place of this name in the running config.
    Kept(Arc<str>),
    New(S),
}

/// One for each place of a config, in its order.
pub(super) struct Sources<Admin = Source> {
    pub(super) listeners: Vec<Source>,
    pub(super) webhooks: Vec<Source>,
    pub(super) admin: Admin,
}

impl Sources<Bound> {
    /// Binds every address of a config, at the start.
    ///
    /// # Errors
    /// One for each address that cannot be bound.
    pub(super) fn bind(config: &Config, passed: &Passed) -> Result<Self, Vec<BindError>> {
        let mut errors = Vec::new();
        let mut bind = |place: Place<'_>| match place.bind(passed) {
            Ok(socket) => Some(socket),
            Err(error) => {
                errors.push(error);
                None
            }
        };
        let listeners = config.listeners.iter().filter_map(|listener| bind(Place::listener(listener)));
        let listeners = listeners.map(Source::New).collect();
        let webhooks = config.webhooks.iter().filter_map(|webhook| bind(Place::webhook(webhook)));
        let webhooks = webhooks.map(Source::New).collect();
        match bind(Place::admin(&config.admin.address)) {
            Some(admin) if errors.is_empty() => Ok(Self { listeners, webhooks, admin }),
            _ => Err(errors),
        }
    }
}

/// A socket in use, and what it takes to close it and to bind it again.
#[derive(Clone)]
pub(super) struct Held {
    kind: Kind,
    pub(super) name: Arc<str>,
    /// As configured.
    pub(super) address: Address,
    real: Address,
    /// The real address, as the log and [`super::Addresses`] show it.
    pub(super) local: String,
    pub(super) unix: UnixOptions,
    /// A service manager made the socket's file, and set its mode.
    pub(super) foreign_file: bool,
    file: Option<FileId>,
    accepting: CancellationToken,
    open: TaskTracker,
}

impl Held {
    pub(super) fn new(place: &Place<'_>, socket: &Bound) -> Self {
        Self {
            kind: place.kind,
            name: Arc::clone(&place.name),
            address: place.address.clone(),
            real: socket.real_address(),
            local: socket.local(),
            unix: place.unix.clone(),
            foreign_file: socket.has_foreign_file(),
            file: socket.file(),
            accepting: CancellationToken::new(),
            open: socket.open(),
        }
    }

    /// The same place with another socket on the same address.
    pub(super) fn with_socket(&self, socket: &Bound) -> Self {
        Self { file: socket.file(), accepting: CancellationToken::new(), open: socket.open(), ..self.clone() }
    }

    /// For the server on this socket; `now` drops its connections.
    pub(super) fn stop(&self, now: &CancellationToken) -> Stop {
        Stop { accepting: self.accepting.clone(), now: now.clone() }
    }

    /// Closes the socket and lets the requests of its connections end.
    pub(super) fn stop_accepting(&self) {
        self.accepting.cancel();
    }

    fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Not if another program removed the socket's file, or put something else in its place.
    pub(super) fn is_reachable(&self) -> bool {
        match (&self.address, self.file) {
            (Address::Unix(path), Some(file)) => file.is_at(path),
            _ => true,
        }
    }

    fn who(&self) -> String {
        format!("{} ({})", self.local, table(self.kind, &self.name))
    }
}

/// The sockets that were closed for new ones.
pub(super) struct Closed(Vec<Held>);

/// A reload that failed.
pub(super) struct Undone {
    /// For the log and `/status`.
    pub(super) why: String,
    /// Sockets that were bound again and need their servers.
    pub(super) again: Vec<(Kind, Bound)>,
}

impl Closed {
    /// Binds again what was closed. The new sockets must be gone.
    pub(super) fn undo(self, mut why: String) -> Undone {
        let mut again = Vec::new();
        for held in self.0 {
            let (who, infallible) = (held.who(), "a string takes any text");
            match Bound::bind(&held.name, &held.real, &held.unix) {
                Ok(socket) => {
                    write!(why, "; bearerd closed {who} to bind it, and listens there again")
                        .expect(infallible);
                    again.push((held.kind, socket));
                }
                Err(error) => write!(
                    why,
                    "; bearerd closed {who} to bind it, and cannot listen there again ({}) until a reload succeeds",
                    error.message
                )
                .expect(infallible),
            }
        }
        Undone { why, again }
    }
}

/// Binds every address of `config` that no socket in `held` has.
///
/// # Errors
/// The first address that cannot be bound, and what became of the sockets that were closed for it.
pub(super) async fn exchange(
    config: &Config,
    held: &[&Held],
    passed: &Passed,
) -> Result<(Sources, Closed), Undone> {
    let places = Place::all(config);
    // A socket that an earlier failure closed is no longer there, and comes back with this reload or its failure.
    let (open, lost): (Vec<&Held>, Vec<&Held>) = held.iter().partition(|held| held.is_open());
    let mut closed = Closed(lost.into_iter().cloned().collect());
    let kept = same_sockets(
        &open.iter().map(|held| (held.kind, &*held.name, &held.address)).collect::<Vec<_>>(),
        &places.iter().map(|place| (place.kind, &*place.name, place.address)).collect::<Vec<_>>(),
    );
    let reachable = |at: &usize| open.get(*at).is_some_and(|held| held.is_reachable());
    let kept: Vec<_> = kept.into_iter().map(|at| at.filter(reachable)).collect();
    let leaves = |at: &usize| !kept.contains(&Some(*at));
    let leaving: Vec<&Held> =
        open.iter().enumerate().filter(|(at, _)| leaves(at)).map(|(_, held)| *held).collect();

    let (sources, waiting) = match bind_beside(&places, &kept, (&open, &leaving), passed) {
        Ok(bound) => bound,
        Err(why) => return Err(closed.undo(why)),
    };
    let in_the_way = leaving.iter().filter(|held| waiting.iter().any(|place| place.overlaps(held)));
    let in_the_way: Vec<Held> = in_the_way.map(|held| (*held).clone()).collect();
    closed.0.extend(in_the_way.iter().cloned());
    let bound = match bind_in_place(&waiting, &in_the_way, passed).await {
        Ok(bound) => bound,
        Err(why) => {
            drop(sources);
            return Err(closed.undo(why));
        }
    };
    let mut bound = bound.into_iter();
    let mut sources =
        sources.into_iter().filter_map(|source| source.or_else(|| bound.next().map(Source::New)));
    let listeners = sources.by_ref().take(config.listeners.len()).collect();
    let webhooks = sources.by_ref().take(config.webhooks.len()).collect();
    let admin = sources.next().expect("the last place is the admin address, and every place has its source");
    Ok((Sources { listeners, webhooks, admin }, closed))
}

/// The sources of all places, and the places whose address overlaps a socket that leaves: these have no source yet.
type Beside<'a> = (Vec<Option<Source>>, Vec<&'a Place<'a>>);

/// Takes the sockets that stay, and binds every other address beside the open sockets.
fn bind_beside<'a>(
    places: &'a [Place<'a>],
    kept: &[Option<usize>],
    (open, leaving): (&[&Held], &[&Held]),
    passed: &Passed,
) -> Result<Beside<'a>, String> {
    let (mut sources, mut waiting) = (Vec::with_capacity(places.len()), Vec::new());
    for (place, kept) in places.iter().zip(kept) {
        if let Some(held) = kept.and_then(|at| open.get(at)) {
            sources.push(Some(Source::Kept(Arc::clone(&held.name))));
            continue;
        }
        match place.bind(passed) {
            Ok(socket) => sources.push(Some(Source::New(socket))),
            Err(error) if error.in_use && leaving.iter().any(|held| place.overlaps(held)) => {
                waiting.push(place);
                sources.push(None);
            }
            Err(error) => {
                let holder = open.iter().find(|held| place.overlaps(held)).map(|held| held.who());
                return Err(refusal(place, error, holder, passed));
            }
        }
    }
    Ok((sources, waiting))
}

/// Closes the sockets that are in the way, then binds the addresses that wait for it.
async fn bind_in_place(
    waiting: &[&Place<'_>],
    in_the_way: &[Held],
    passed: &Passed,
) -> Result<Vec<Bound>, String> {
    close(in_the_way).await?;
    let bind = |place: &&Place<'_>| place.bind(passed).map_err(|error| refusal(place, error, None, passed));
    waiting.iter().map(bind).collect()
}

impl Place<'_> {
    fn overlaps(&self, held: &Held) -> bool {
        overlap(self.address, &held.real)
    }
}

async fn close(sockets: &[Held]) -> Result<(), String> {
    for socket in sockets {
        socket.stop_accepting();
    }
    for socket in sockets {
        if timeout(CLOSING, socket.open.wait()).await.is_err() {
            return Err(format!("{} cannot be closed: a worker does not respond", socket.who()));
        }
    }
    Ok(())
}

/// `holder` is a socket of ours that has the address and stays.
fn refusal(place: &Place<'_>, error: BindError, holder: Option<String>, passed: &Passed) -> String {
    let BindError { address, message, in_use } = error;
    let message = match (holder.filter(|_| in_use), passed.holder_of(place.address).filter(|_| in_use)) {
        (Some(holder), _) => format!("bearerd itself listens on {holder}; choose another port"),
        (None, Some(name)) => {
            format!("the service manager holds it, as the socket `{name}`; stop that socket unit")
        }
        (None, None) => message,
    };
    format!("{}: {}", table(place.kind, &place.name), BindError { address, message, in_use })
}

/// For each new place the index of the old one whose socket it keeps: the one of the same kind and address, and of the
/// same name where several have that address (as those on port 0 do). A place that was only renamed keeps its socket.
fn same_sockets(old: &[(Kind, &str, &Address)], new: &[(Kind, &str, &Address)]) -> Vec<Option<usize>> {
    let mut kept: Vec<Option<usize>> =
        new.iter().map(|wanted| old.iter().position(|candidate| candidate == wanted)).collect();
    for (place, (kind, _, address)) in new.iter().enumerate() {
        let free = old.iter().enumerate().position(|(at, (of, _, candidate))| {
            of == kind && candidate == address && !kept.contains(&Some(at))
        });
        if let Some(entry @ None) = kept.get_mut(place) {
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

    fn same_listeners(old: &[(&str, &Address)], new: &[(&str, &Address)]) -> Vec<Option<usize>> {
        let old: Vec<_> = old.iter().map(|(name, address)| (Kind::Listener, *name, *address)).collect();
        let new: Vec<_> = new.iter().map(|(name, address)| (Kind::Listener, *name, *address)).collect();
        same_sockets(&old, &new)
    }

    #[test]
    fn t95_a_listener_with_the_same_address_keeps_its_socket() {
        let (a, b, c) = (tcp(1), tcp(2), tcp(3));
        assert_eq!(
            same_listeners(&[("main", &a), ("side", &b)], &[("extra", &c), ("main", &a)]),
            [None, Some(0)]
        );
    }

    #[test]
    fn renamed_and_exchanged_listeners_keep_their_sockets() {
        let (a, b) = (tcp(1), tcp(2));
        assert_eq!(same_listeners(&[("main", &a)], &[("web", &a)]), [Some(0)]);
        assert_eq!(
            same_listeners(&[("main", &a), ("side", &b)], &[("main", &b), ("side", &a)]),
            [Some(1), Some(0)]
        );
    }

    #[test]
    fn listeners_on_any_free_port_are_told_apart_by_name() {
        let any = tcp(0);
        assert_eq!(
            same_listeners(&[("a", &any), ("b", &any)], &[("b", &any), ("c", &any), ("d", &any)]),
            [Some(1), Some(0), None]
        );
    }

    #[test]
    fn a_socket_is_never_kept_by_another_kind() {
        let a = tcp(1);
        let kept = same_sockets(&[(Kind::Listener, "main", &a)], &[(Kind::Admin, "admin", &a)]);
        assert_eq!(kept, [None]);
    }
}
