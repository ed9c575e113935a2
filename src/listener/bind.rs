//! Sockets to listen on.

mod passed;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Stat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::config::{Address, UnixOptions};
use crate::net::keep_alive;
use crate::proxy::Peer;

use super::SocketStream;

pub use passed::{Passed, Unfit, Wanted};

/// Connections that the kernel keeps until they are accepted.
pub(super) const BACKLOG: i32 = 1024;

/// One bound, listening, non-blocking socket. Clones share it.
#[derive(Debug)]
pub struct Bound {
    name: Arc<str>,
    address: Address,
    socket: Socket,
    /// Dropped after the socket.
    open: TaskTrackerToken,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    /// The file is removed when the last clone is dropped; one that a service manager made is not.
    Unix(UnixListener, Option<Arc<SocketFile>>),
}

/// Why an address can't be listened on: it is taken, or may not be bound.
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
    /// Binds and listens; needs no runtime. A Unix socket's file gets its mode and group before anybody can connect.
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
        let socket = match &self.socket {
            Socket::Tcp(socket) => Socket::Tcp(socket.try_clone()?),
            Socket::Unix(socket, file) => Socket::Unix(socket.try_clone()?, file.clone()),
        };
        let (name, address) = (Arc::clone(&self.name), self.address.clone());
        Ok(Self { name, address, socket, open: self.open.clone() })
    }

    /// Becomes empty when the socket is closed: when its last clone is dropped, also one inside a runtime.
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

    /// Whether its file is a service manager's, who also says who may connect.
    pub fn has_foreign_file(&self) -> bool {
        matches!(self.socket, Socket::Unix(_, None))
    }

    /// The real address: with the port that the system chose for port 0.
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

    /// The socket for the runtime that this is called in.
    ///
    /// # Errors
    /// Where the runtime cannot watch it.
    pub fn into_listener(self) -> io::Result<SocketListener> {
        self.into_listening().map(SocketListener)
    }

    pub(super) fn into_listening(self) -> io::Result<Listening> {
        let socket = match self.socket {
            Socket::Tcp(socket) => {
                // Accepted sockets have these from here: one system call for all of them. A failure costs latency alone.
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

/// A [`Bound`] inside a runtime, for a server of its own kind: the admin address.
pub struct SocketListener(Listening);

impl SocketListener {
    /// Accepts one connection; with the address that it came to, which a Unix socket has not.
    ///
    /// # Errors
    /// accept(2)'s; the next request may go well.
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
    /// With the address that all of its connections come to, where it listens on one.
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

/// Whether a socket on one of these addresses keeps the other from being bound.
pub fn overlap(one: &Address, other: &Address) -> bool {
    match (one, other) {
        (Address::Tcp(one), Address::Tcp(other)) => {
            let (first, second) = (one.ip().to_canonical(), other.ip().to_canonical());
            // `[::]` takes in IPv4 as well.
            let takes_in = |all: IpAddr, ip: IpAddr| all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4());
            one.port() == other.port()
                && one.port() != 0
                && (first == second || takes_in(first, second) || takes_in(second, first))
        }
        (Address::Unix(one), Address::Unix(other)) => {
            let file = |path| rustix::fs::lstat(path).ok();
            one == other || file(one).zip(file(other)).is_some_and(|(one, other)| same_file(&one, &other))
        }
        _ => false,
    }
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
    // Else a restart would wait for the last run's connections to leave TIME_WAIT. A live listener still refuses.
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
        Errno::ADDRNOTAVAIL => "it is no address of this machine".to_owned(),
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
    // Linux gives the file the socket's own mode (less the umask), so that it is never wider than asked for.
    rustix::fs::fchmod(&socket, mode).map_err(words)?;
    rustix::net::bind(&socket, &address).map_err(|error| unix_words(path, error))?;
    let file = SocketFile::made(path)?;
    if let Some(group) = options.group {
        rustix::fs::chownat(CWD, path, None, Some(Gid::from_raw(group)), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| format!("its group can't be set to {group}: {}", words(error)))?;
    }
    // Not before the group is right, and not where the umask left it as it should be.
    let made = rustix::fs::lstat(path).map_err(words)?;
    if Mode::from_raw_mode(made.st_mode) != mode {
        rustix::fs::chmod(path, mode).map_err(words)?;
    }
    // Until now, connecting was refused.
    rustix::net::listen(&socket, BACKLOG).map_err(words)?;
    Ok((UnixListener::from(socket), Arc::new(file)))
}

fn unix_words(path: &Path, error: Errno) -> String {
    let parent = path.parent().unwrap_or_else(|| Path::new("/"));
    let folder = parent.display();
    match error {
        // A folder of the kernel's (/proc) says the same of a file that it does not let anybody make.
        Errno::NOENT if !parent.is_dir() => format!("the folder {folder} does not exist"),
        Errno::NOENT => format!("no file can be made in the folder {folder}"),
        Errno::ACCESS | Errno::ROFS => format!("this user may not write to the folder {folder}"),
        Errno::ADDRINUSE => "another program took it meanwhile".to_owned(),
        other => words(other),
    }
}

/// Removes what an earlier run left behind: a socket of this user's that nobody answers on. Never follows a symlink.
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
            _ => "something else than a socket",
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
        // A full backlog, too, is somebody's.
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
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// The file of a Unix socket, removed on drop where it is still the one that was made.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    made: (u64, u64),
}

impl SocketFile {
    fn made(path: &Path) -> Result<Self, String> {
        let made = rustix::fs::lstat(path).map_err(words)?;
        if FileType::from_raw_mode(made.st_mode) != FileType::Socket {
            return Err("another program put something else in its place".to_owned());
        }
        Ok(Self { path: path.to_owned(), made: (made.st_dev, made.st_ino) })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if rustix::fs::lstat(&self.path).is_ok_and(|now| (now.st_dev, now.st_ino) == self.made) {
            let _ = rustix::fs::unlink(&self.path);
        }
    }
}

#[cfg(test)]
mod tests;
