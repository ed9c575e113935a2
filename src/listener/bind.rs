//! The sockets that bearerd listens on: those that it binds, and those that a service manager bound before the program began
//! and passed to it (systemd's socket activation).

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use listenfd::ListenFd;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Stat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::SocketStream;
use crate::config::{Address, UnixOptions};
use crate::net::keep_alive;
use crate::proxy::Peer;

/// Connections that the kernel keeps until they are accepted.
pub(super) const BACKLOG: i32 = 1024;

/// One bound, listening, non-blocking socket. Clones share it.
#[derive(Debug)]
pub struct Bound {
    name: Arc<str>,
    address: Address,
    socket: Socket,
    /// Dropped after the socket, so that [`Self::open`] becomes empty after the socket is closed.
    open: TaskTrackerToken,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    /// The file is removed when the last clone is dropped. `None` if a service manager made the file, which then stays.
    Unix(UnixListener, Option<Arc<SocketFile>>),
}

impl Socket {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(socket) => Self::Tcp(socket.try_clone()?),
            Self::Unix(socket, file) => Self::Unix(socket.try_clone()?, file.clone()),
        })
    }
}

/// Why bearerd can't listen on an address: it is in use, or may not be bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindError {
    /// As configured.
    pub address: String,
    pub message: String,
    /// Another socket has the address, or a part of it.
    pub in_use: bool,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "can't listen on {}: {}", self.address, self.message)
    }
}

impl std::error::Error for BindError {}

impl Bound {
    /// Binds and listens. Needs no runtime. The file of a Unix socket gets its mode and group before anybody can connect.
    ///
    /// # Errors
    /// The message says what to do.
    pub fn bind(name: &Arc<str>, address: &Address, unix: &UnixOptions) -> Result<Self, BindError> {
        let socket = match address {
            Address::Tcp(address) => bind_tcp(*address).map(Socket::Tcp),
            Address::Unix(path) => {
                bind_unix(path, unix).map(|(socket, file)| Socket::Unix(socket, Some(file)))
            }
        };
        match socket {
            Ok(socket) => Ok(Self::new(name, address, socket)),
            Err(Refused { message, in_use }) => Err(BindError { address: display(address), message, in_use }),
        }
    }

    fn new(name: &Arc<str>, address: &Address, socket: Socket) -> Self {
        Self { name: Arc::clone(name), address: address.clone(), socket, open: TaskTracker::new().token() }
    }

    /// Another handle on the same socket.
    pub fn try_clone(&self) -> io::Result<Self> {
        let socket = self.socket.try_clone()?;
        let (name, address) = (Arc::clone(&self.name), self.address.clone());
        Ok(Self { name, address, socket, open: self.open.clone() })
    }

    /// A tracker that becomes empty when the socket is closed: when its last clone is dropped, including clones inside a runtime.
    pub fn open(&self) -> TaskTracker {
        let tracker = self.open.task_tracker().clone();
        tracker.close();
        tracker
    }

    /// The listener's name in the config.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// As configured.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether a service manager made the socket's file, and decides who may connect.
    pub fn has_foreign_file(&self) -> bool {
        matches!(self.socket, Socket::Unix(_, None))
    }

    /// The file that bearerd made for it.
    pub fn file(&self) -> Option<FileId> {
        match &self.socket {
            Socket::Unix(_, Some(file)) => Some(file.made),
            Socket::Unix(_, None) | Socket::Tcp(_) => None,
        }
    }

    /// The real address, with the port that the system chose for port 0.
    pub fn local(&self) -> String {
        match self.local_addr() {
            Some(address) => address.to_string(),
            None => display(&self.address),
        }
    }

    /// [`Self::local`], to bind it again.
    pub fn real_address(&self) -> Address {
        self.local_addr().map_or_else(|| self.address.clone(), Address::Tcp)
    }

    /// `None` for a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(socket) => socket.local_addr().ok(),
            Socket::Unix(..) => None,
        }
    }

    /// Registers the socket with the current runtime.
    ///
    /// # Errors
    /// The runtime cannot watch the socket.
    pub fn into_listener(self) -> io::Result<SocketListener> {
        self.into_listening().map(SocketListener)
    }

    pub(super) fn into_listening(self) -> io::Result<Listening> {
        let socket = match self.socket {
            Socket::Tcp(socket) => {
                // Accepted sockets inherit these, which saves system calls. A failure costs only latency.
                let _ = sockopt::set_tcp_nodelay(&socket, true);
                keep_alive(&socket);
                let local = socket.local_addr().ok().filter(|local| !local.ip().is_unspecified());
                ListeningSocket::Tcp(tokio::net::TcpListener::from_std(socket)?, local)
            }
            Socket::Unix(socket, file) => {
                ListeningSocket::Unix(tokio::net::UnixListener::from_std(socket)?, file)
            }
        };
        Ok(Listening { socket, _open: self.open })
    }
}

/// A [`Bound`] inside a runtime, for another kind of server, such as the admin address.
pub struct SocketListener(Listening);

impl SocketListener {
    /// Accepts one connection. Returns the address that the caller connected to, too, which a Unix socket does not have.
    ///
    /// # Errors
    /// The errors of accept(2). The next attempt may succeed.
    pub async fn accept(&mut self) -> io::Result<(SocketStream, Peer, Option<SocketAddr>)> {
        std::future::poll_fn(|context| self.0.poll_accept(context)).await
    }
}

/// A [`Bound`] inside a runtime.
pub(super) struct Listening {
    pub(super) socket: ListeningSocket,
    /// Dropped after the socket.
    _open: TaskTrackerToken,
}

pub(super) enum ListeningSocket {
    /// With the address that all callers connect to, unless it listens on all addresses.
    Tcp(tokio::net::TcpListener, Option<SocketAddr>),
    Unix(
        tokio::net::UnixListener,
        #[expect(dead_code, reason = "held for its drop")] Option<Arc<SocketFile>>,
    ),
}

fn display(address: &Address) -> String {
    match address {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(path) => format!("unix:{}", path.display()),
    }
}

/// Whether a socket on one of these addresses prevents binding the other.
pub fn overlap(one: &Address, other: &Address) -> bool {
    let is_same_file = || {
        let (Address::Unix(one), Address::Unix(other)) = (one, other) else { return false };
        let file = |path| rustix::fs::lstat(path).ok();
        file(one).zip(file(other)).is_some_and(|(one, other)| same_file(&one, &other))
    };
    one.overlaps(other) || is_same_file()
}

/// Why a socket cannot be made.
struct Refused {
    message: String,
    in_use: bool,
}

impl From<String> for Refused {
    fn from(message: String) -> Self {
        Self { message, in_use: false }
    }
}

fn in_use(message: &str) -> Refused {
    Refused { message: message.to_owned(), in_use: true }
}

fn bind_tcp(address: SocketAddr) -> Result<TcpListener, Refused> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = socket(family)?;
    // Otherwise a restart would wait for the last run's connections to leave TIME_WAIT. A live listener still prevents binding.
    sockopt::set_socket_reuseaddr(&socket, true).map_err(words)?;
    rustix::net::bind(&socket, &address).map_err(|error| tcp_words(address, error))?;
    rustix::net::listen(&socket, BACKLOG).map_err(|error| tcp_words(address, error))?;
    Ok(TcpListener::from(socket))
}

fn socket(family: AddressFamily) -> Result<OwnedFd, String> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    rustix::net::socket_with(family, SocketType::STREAM, flags, None).map_err(words)
}

fn tcp_words(address: SocketAddr, error: Errno) -> Refused {
    let message = match error {
        Errno::ADDRINUSE => format!(
            "another program listens there; stop it (`ss -ltnp 'sport = {}'` names it), or choose another port",
            address.port()
        ),
        Errno::ACCESS => {
            "this user may not bind it; ports below 1024 need CAP_NET_BIND_SERVICE, or choose a higher one"
                .to_owned()
        }
        Errno::ADDRNOTAVAIL => "this machine does not have this address".to_owned(),
        other => words(other),
    };
    Refused { message, in_use: error == Errno::ADDRINUSE }
}

fn words(error: Errno) -> String {
    let text = io::Error::from(error).to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

fn bind_unix(path: &Path, options: &UnixOptions) -> Result<(UnixListener, Arc<SocketFile>), Refused> {
    clear_stale(path)?;
    let address = SocketAddrUnix::new(path)
        .map_err(|_| "the path is too long for a Unix socket (107 bytes at most)".to_owned())?;
    let socket = socket(AddressFamily::UNIX)?;
    let mode = Mode::from_raw_mode(options.mode);
    // Linux gives the file the socket's own mode (minus the umask), so that it never allows more than configured.
    rustix::fs::fchmod(&socket, mode).map_err(words)?;
    rustix::net::bind(&socket, &address).map_err(|error| unix_words(path, error))?;
    let file = SocketFile::made(path)?;
    if let Some(group) = options.group {
        rustix::fs::chownat(CWD, path, None, Some(Gid::from_raw(group)), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| format!("its group can't be set to {group}: {}", words(error)))?;
    }
    // Only after the group is right, and only if the umask has changed the mode.
    let made = rustix::fs::lstat(path).map_err(words)?;
    if Mode::from_raw_mode(made.st_mode) != mode {
        rustix::fs::chmod(path, mode).map_err(words)?;
    }
    // Until now, connections were refused.
    rustix::net::listen(&socket, BACKLOG).map_err(words)?;
    Ok((UnixListener::from(socket), Arc::new(file)))
}

fn unix_words(path: &Path, error: Errno) -> String {
    let parent = path.parent().unwrap_or_else(|| Path::new("/"));
    let folder = parent.display();
    match error {
        // A folder of the kernel (/proc) returns the same error for a file that nobody may create.
        Errno::NOENT if !parent.is_dir() => format!("the folder {folder} does not exist"),
        Errno::NOENT => format!("no file can be created in the folder {folder}"),
        Errno::ACCESS | Errno::ROFS => format!("this user may not write to the folder {folder}"),
        Errno::ADDRINUSE => "another program took it meanwhile".to_owned(),
        other => words(other),
    }
}

/// Removes the socket file of an earlier run: it belongs to this user, and nobody listens on it. Never follows a symlink.
fn clear_stale(path: &Path) -> Result<(), Refused> {
    let found = match rustix::fs::lstat(path) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(unix_words(path, error).into()),
    };
    let kind = FileType::from_raw_mode(found.st_mode);
    if kind != FileType::Socket {
        let kind = match kind {
            FileType::Symlink => "a symlink",
            FileType::Directory => "a folder",
            FileType::RegularFile => "a file",
            _ => "something other than a socket",
        };
        return Err(format!("{kind} is in its place; remove it, or choose another path").into());
    }
    if found.st_uid != rustix::process::geteuid().as_raw() {
        return Err(format!(
            "a socket of user {} is in its place; remove it, or choose another path",
            found.st_uid
        )
        .into());
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // A full backlog means that somebody listens, too.
        Ok(_) | Err(_) => {
            return Err(in_use("another program listens there; stop it, or choose another path"));
        }
    }
    match rustix::fs::lstat(path) {
        Ok(now) if same_file(&now, &found) => {
            rustix::fs::unlink(path).map_err(|error| unix_words(path, error).into())
        }
        Ok(_) => Err(in_use("another program took it meanwhile")),
        Err(_) => Ok(()),
    }
}

fn same_file(one: &Stat, other: &Stat) -> bool {
    FileId::of(one) == FileId::of(other)
}

/// What a file is, wherever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(state: &Stat) -> Self {
        Self { device: state.st_dev, inode: state.st_ino }
    }

    /// Whether this file, and no link to another, is at this path.
    pub fn is_at(self, path: &Path) -> bool {
        rustix::fs::lstat(path).is_ok_and(|now| Self::of(&now) == self)
    }
}

/// The file of a Unix socket. Dropping it removes the file, if it is still the same one.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    made: FileId,
}

impl SocketFile {
    fn made(path: &Path) -> Result<Self, String> {
        let made = rustix::fs::lstat(path).map_err(words)?;
        if FileType::from_raw_mode(made.st_mode) != FileType::Socket {
            return Err("another program put something else in its place".to_owned());
        }
        Ok(Self { path: path.to_owned(), made: FileId::of(&made) })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.made.is_at(&self.path) {
            let _ = rustix::fs::unlink(&self.path);
        }
    }
}

/// The sockets that a service manager passed. They stay open as long as the program runs, so that a listener that one reload
/// removes and another one adds finds its socket again. Its address could not be bound a second time.
#[derive(Debug, Default)]
pub struct Passed {
    sockets: Vec<PassedSocket>,
}

#[derive(Debug)]
struct PassedSocket {
    name: String,
    address: Address,
    socket: Socket,
}

/// A listener that a passed socket may belong to.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The listener's name, or `admin`.
    pub name: &'a str,
    /// As configured.
    pub address: &'a Address,
    /// The options for a socket file.
    pub unix: &'a UnixOptions,
}

/// How passed sockets and a config disagree, in words.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unfit {
    /// A listener's address in the config is not the address of its socket.
    pub errors: Vec<String>,
    /// No listener has the name of a socket.
    pub strays: Vec<String>,
}

impl Passed {
    /// Takes over the sockets. Call it once, before any thread starts, because it removes the variables that name them, so that no
    /// other process takes the sockets for its own.
    ///
    /// # Errors
    /// A passed socket cannot be used.
    pub fn take() -> Result<Self, String> {
        let context = |error: io::Error| {
            format!("the sockets that the service manager passed (LISTEN_FDS, LISTEN_FDNAMES): {error}")
        };
        // First without the names, because sockets for another process are no error.
        if sd_notify::listen_fds().map_err(context)?.len() == 0 {
            return Ok(Self::default());
        }
        let named = sd_notify::listen_fds_with_names().map_err(context)?;
        let mut passed = ListenFd::from_env();
        let sockets = named.enumerate().map(|(index, (_, name))| take_one(&mut passed, index, name));
        Ok(Self { sockets: sockets.collect::<Result<_, _>>()? })
    }

    /// The number of passed sockets.
    pub fn count(&self) -> usize {
        self.sockets.len()
    }

    /// Compares the sockets with a config. A socket without a listener is an error only at start: a reload may remove listeners.
    pub fn unfit(&self, wanted: &[Wanted<'_>]) -> Unfit {
        let mut unfit = Unfit::default();
        for socket in &self.sockets {
            let of_its_name: Vec<_> = wanted.iter().filter(|wanted| wanted.name == socket.name).collect();
            if of_its_name.is_empty() {
                let names: Vec<&str> = wanted.iter().map(|wanted| wanted.name).collect();
                unfit.strays.push(format!(
                    "the service manager passed a socket named `{}` ({}), and no listener has that name: set \
                     FileDescriptorName= of the socket unit to one of {}",
                    socket.name,
                    display(&socket.address),
                    names.join(", ")
                ));
            } else if let Some(wanted) = of_its_name.iter().find(|wanted| socket.is_at(wanted.address)) {
                unfit.errors.extend(socket.too_open(wanted.unix));
            } else {
                let configured: Vec<_> = of_its_name.iter().map(|wanted| display(wanted.address)).collect();
                unfit.errors.push(format!(
                    "listener `{}`: the service manager passed a socket on {}, and the config says {}: make \
                     ListenStream= of the socket unit and `address` the same",
                    socket.name,
                    display(&socket.address),
                    configured.join(" and ")
                ));
            }
        }
        unfit
    }

    /// A handle on the socket that was passed for this listener, if there is one.
    ///
    /// # Errors
    /// The system refuses another handle.
    pub fn socket(&self, name: &Arc<str>, address: &Address) -> io::Result<Option<Bound>> {
        let Some(found) = self.sockets.iter().find(|socket| *socket.name == **name && socket.is_at(address))
        else {
            return Ok(None);
        };
        let socket = found.socket.try_clone()?;
        Ok(Some(Bound::new(name, address, socket)))
    }

    /// The name of the passed socket that overlaps this address. bearerd cannot bind another socket there.
    pub fn holder_of(&self, address: &Address) -> Option<&str> {
        self.sockets.iter().find(|socket| overlap(&socket.address, address)).map(|socket| &*socket.name)
    }
}

fn take_one(passed: &mut ListenFd, index: usize, name: String) -> Result<PassedSocket, String> {
    let unusable = || {
        format!(
            "the service manager passed `{name}`, which is not a listening stream socket: the socket unit needs \
             ListenStream= and Accept=no"
        )
    };
    let failed = |error: io::Error| format!("the socket `{name}` that the service manager passed: {error}");
    if let Ok(Some(listener)) = passed.take_tcp_listener(index) {
        listens(&listener).then_some(()).ok_or_else(unusable)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = Address::Tcp(listener.local_addr().map_err(failed)?);
        return Ok(PassedSocket { name, address, socket: Socket::Tcp(listener) });
    }
    let listener = passed.take_unix_listener(index).ok().flatten().ok_or_else(unusable)?;
    listens(&listener).then_some(()).ok_or_else(unusable)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let path = listener.local_addr().map_err(failed)?.as_pathname().map(Path::to_owned);
    let address = Address::Unix(path.ok_or_else(|| format!("the socket `{name}` has no path"))?);
    Ok(PassedSocket { name, address, socket: Socket::Unix(listener, None) })
}

fn listens(socket: impl AsFd) -> bool {
    sockopt::socket_acceptconn(socket).unwrap_or(false)
}

impl PassedSocket {
    /// Whether the socket has the configured address. Port 0 in a config matches any port.
    fn is_at(&self, wanted: &Address) -> bool {
        match (&self.address, wanted) {
            (Address::Tcp(own), Address::Tcp(wanted)) => {
                own.ip() == wanted.ip() && (wanted.port() == 0 || own.port() == wanted.port())
            }
            (own, wanted) => own == wanted,
        }
    }

    /// Why the socket file lets in more callers than the config allows, if it does.
    fn too_open(&self, wanted: &UnixOptions) -> Option<String> {
        let Address::Unix(path) = &self.address else { return None };
        let file = rustix::fs::lstat(path).ok()?;
        let mode = file.st_mode & 0o777;
        // Only users with write permission can connect.
        if mode & 0o222 & !wanted.mode != 0 {
            return Some(format!(
                "listener `{}`: {} has mode {mode:04o}, and the config says {:04o}: set SocketMode={:04o} in the socket \
                 unit, or `mode` in the config",
                self.name,
                path.display(),
                wanted.mode,
                wanted.mode
            ));
        }
        let group = wanted.group.filter(|&group| mode & 0o020 != 0 && file.st_gid != group)?;
        Some(format!(
            "listener `{}`: {} lets in the group {}, and the config says {group}: set SocketGroup={group} in the socket \
             unit, or `group` in the config",
            self.name,
            path.display(),
            file.st_gid
        ))
    }
}

#[cfg(test)]
mod tests;
