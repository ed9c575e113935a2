//! Sockets that a service manager bound before the program began, and passed to it (systemd's socket activation).

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use listenfd::ListenFd;
use rustix::net::sockopt;

use super::{Bound, Socket, display, overlap};
use crate::config::{Address, UnixOptions};

/// What was passed. It is kept as long as the program runs: a listener that a reload takes away and another one brings
/// back finds its socket again, whose address could not be bound a second time.
#[derive(Debug, Default)]
pub struct Passed {
    sockets: Vec<PassedSocket>,
}

#[derive(Debug)]
struct PassedSocket {
    name: String,
    address: Address,
    socket: SocketKind,
}

#[derive(Debug)]
enum SocketKind {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A place that a passed socket may be for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The listener's, or `admin`.
    pub name: &'a str,
    /// As configured.
    pub address: &'a Address,
    /// For a socket file.
    pub unix: &'a UnixOptions,
}

/// What does not fit between passed sockets and a config, in words.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unfit {
    /// The config's listener is somewhere else than its socket.
    pub errors: Vec<String>,
    /// No listener has this name.
    pub strays: Vec<String>,
}

impl Passed {
    /// Takes the sockets over, once, before any thread is started: the variables that name them are removed, so that no
    /// other process takes them for its own.
    ///
    /// # Errors
    /// What was passed and cannot be listened on.
    pub fn take() -> Result<Self, String> {
        let said = |error: io::Error| {
            format!("the sockets that the service manager passed (LISTEN_FDS, LISTEN_FDNAMES): {error}")
        };
        // First without their names: those of another process are no error.
        if sd_notify::listen_fds().map_err(said)?.len() == 0 {
            return Ok(Self::default());
        }
        let named = sd_notify::listen_fds_with_names().map_err(said)?;
        let mut passed = ListenFd::from_env();
        let sockets = named.enumerate().map(|(index, (_, name))| take_one(&mut passed, index, name));
        Ok(Self { sockets: sockets.collect::<Result<_, _>>()? })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.sockets.len()
    }

    /// What does not fit. A config in force may have lost a listener; one that the program starts with may not.
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

    /// A handle on the socket that was passed for this place, if one was.
    ///
    /// # Errors
    /// Where the machine refuses another handle.
    pub fn socket(&self, name: &Arc<str>, address: &Address) -> io::Result<Option<Bound>> {
        let Some(found) = self.sockets.iter().find(|socket| *socket.name == **name && socket.is_at(address))
        else {
            return Ok(None);
        };
        let socket = match &found.socket {
            SocketKind::Tcp(listener) => Socket::Tcp(listener.try_clone()?),
            SocketKind::Unix(listener) => Socket::Unix(listener.try_clone()?, None),
        };
        Ok(Some(Bound::new(name, address, socket)))
    }

    /// The name of the socket that has this address or a part of it: none of ours can be bound there.
    pub fn holder_of(&self, address: &Address) -> Option<&str> {
        self.sockets.iter().find(|socket| overlap(&socket.address, address)).map(|socket| &*socket.name)
    }
}

fn take_one(passed: &mut ListenFd, index: usize, name: String) -> Result<PassedSocket, String> {
    let unusable = || {
        format!(
            "the service manager passed `{name}`, which is no listening stream socket: the socket unit needs \
             ListenStream= and Accept=no"
        )
    };
    let failed = |error: io::Error| format!("the socket `{name}` that the service manager passed: {error}");
    if let Ok(Some(listener)) = passed.take_tcp_listener(index) {
        listens(&listener).then_some(()).ok_or_else(unusable)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = Address::Tcp(listener.local_addr().map_err(failed)?);
        return Ok(PassedSocket { name, address, socket: SocketKind::Tcp(listener) });
    }
    let listener = passed.take_unix_listener(index).ok().flatten().ok_or_else(unusable)?;
    listens(&listener).then_some(()).ok_or_else(unusable)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let path = listener.local_addr().map_err(failed)?.as_pathname().map(std::path::Path::to_owned);
    let address = Address::Unix(path.ok_or_else(|| format!("the socket `{name}` has no path"))?);
    Ok(PassedSocket { name, address, socket: SocketKind::Unix(listener) })
}

fn listens(socket: impl AsFd) -> bool {
    sockopt::socket_acceptconn(socket).unwrap_or(false)
}

impl PassedSocket {
    /// Port 0 of a config is any port.
    fn is_at(&self, wanted: &Address) -> bool {
        match (&self.address, wanted) {
            (Address::Tcp(own), Address::Tcp(wanted)) => {
                own.ip() == wanted.ip() && (wanted.port() == 0 || own.port() == wanted.port())
            }
            (own, wanted) => own == wanted,
        }
    }

    /// Who may connect to a socket file is what the config says of its callers: the file must not let in more.
    fn too_open(&self, wanted: &UnixOptions) -> Option<String> {
        let Address::Unix(path) = &self.address else { return None };
        let file = rustix::fs::lstat(path).ok()?;
        let mode = file.st_mode & 0o777;
        // Only those who may write can connect.
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
mod tests {
    use super::*;

    static OWNER: UnixOptions = UnixOptions::OWNER_ALONE;

    fn passed(name: &str) -> (Passed, Address) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let socket = PassedSocket {
            name: name.to_owned(),
            address: address.clone(),
            socket: SocketKind::Tcp(listener),
        };
        (Passed { sockets: vec![socket] }, address)
    }

    fn wanted<'a>(name: &'a str, address: &'a Address) -> Wanted<'a> {
        Wanted { name, address, unix: &OWNER }
    }

    #[test]
    fn a_passed_socket_belongs_to_the_listener_of_its_name_and_address() {
        let (passed, address) = passed("main");
        assert_eq!(passed.unfit(&[wanted("admin", &address), wanted("main", &address)]), Unfit::default());
        let bound = passed.socket(&Arc::from("main"), &address).unwrap().unwrap();
        assert_eq!(bound.local(), display(&address));
        let any_port = Address::Tcp("127.0.0.1:0".parse().unwrap());
        assert!(passed.socket(&Arc::from("main"), &any_port).unwrap().is_some());
        assert!(passed.socket(&Arc::from("side"), &address).unwrap().is_none());
    }

    #[test]
    fn a_name_without_a_listener_is_reported_with_the_known_names() {
        let (passed, address) = passed("bearerd.socket");
        let unfit = passed.unfit(&[wanted("main", &address), wanted("admin", &address)]);
        assert_eq!(unfit.errors, [""; 0]);
        assert!(unfit.strays[0].contains("FileDescriptorName= of the socket unit to one of main, admin"));
    }

    /// The config's rules for callers are about the address that it names.
    #[test]
    fn a_passed_socket_at_another_address_is_an_error() {
        let (passed, _) = passed("main");
        let elsewhere = Address::Tcp("127.0.0.2:0".parse().unwrap());
        let unfit = passed.unfit(&[wanted("main", &elsewhere)]);
        assert!(unfit.errors[0].contains("the config says 127.0.0.2:0"), "{unfit:?}");
        assert!(passed.socket(&Arc::from("main"), &elsewhere).unwrap().is_none());
    }

    #[test]
    fn a_socket_file_may_not_let_in_more_than_the_config_says() {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("bearerd-passed-{:016x}", fastrand::u64(..)));
        let listener = UnixListener::bind(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        let address = Address::Unix(path.clone());
        let socket = PassedSocket {
            name: "main".to_owned(),
            address: address.clone(),
            socket: SocketKind::Unix(listener),
        };
        let passed = Passed { sockets: vec![socket] };
        let unfit = passed.unfit(&[wanted("main", &address)]);
        assert!(unfit.errors[0].contains("set SocketMode=0600"), "{unfit:?}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(passed.unfit(&[wanted("main", &address)]), Unfit::default());
        drop(passed.socket(&Arc::from("main"), &address).unwrap().unwrap());
        assert!(path.exists(), "the file is the service manager's");
        std::fs::remove_file(&path).unwrap();
    }
}
