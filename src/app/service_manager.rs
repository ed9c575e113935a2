//! Reports the program's state to the service manager (sd_notify(3)): ready, reloading, ending, and a status line.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::proxy::Snapshot;

/// How often the status line is updated.
pub(super) const UPDATE_INTERVAL: Duration = Duration::from_secs(1);
/// The longest status line, in characters, because `systemctl status` shows one line.
const LONGEST: usize = 160;
/// Extra time for the end, besides what the config allows.
const SLACK: Duration = Duration::from_secs(5);

/// Sends nothing if there is no service manager.
#[derive(Debug)]
pub(super) struct ServiceManager {
    socket: Option<NotifySocket>,
    /// READY=1 was not delivered and must be sent again.
    ready_unsent: bool,
    /// The last message was not delivered. The log says so once.
    unreachable: Cell<bool>,
    /// RELOADING=1 was sent, and READY=1 must follow.
    reloading: bool,
    /// The last reload was refused.
    refused: bool,
    /// The first missing value of the config.
    missing: Option<String>,
    status_line: String,
}

impl ServiceManager {
    pub(super) fn new(socket: Option<NotifySocket>) -> Self {
        Self {
            socket,
            ready_unsent: false,
            unreachable: Cell::new(false),
            reloading: false,
            refused: false,
            missing: None,
            status_line: String::new(),
        }
    }

    /// Whether there is a service manager.
    pub(super) fn is_present(&self) -> bool {
        self.socket.is_some()
    }

    /// A function that reports to the watchdog that the program works.
    pub(super) fn keep_alive(&self) -> Option<impl Fn() + Send + use<>> {
        let socket = self.socket.clone()?;
        // If the message is not delivered, the service manager restarts the program, as without it.
        Some(move || _ = socket.send(&[NotifyState::Watchdog]))
    }

    /// Sets what `/readyz` waits for besides tokens.
    pub(super) fn set_missing(&mut self, missing: &[String]) {
        self.missing = missing.first().cloned();
    }

    /// Reports that every address is bound.
    pub(super) fn started(&mut self, snapshot: &Snapshot) {
        self.status_line = self.line(snapshot);
        self.ready_unsent = !self.send(&[NotifyState::Ready, NotifyState::Status(&self.status_line)]);
    }

    /// Reports that a reload begins.
    pub(super) fn reloading(&mut self) {
        if self.reloading || !self.is_present() {
            return;
        }
        self.reloading = true;
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.send(&[NotifyState::Reloading, now]),
            Err(_) => self.send(&[NotifyState::Reloading]),
        };
    }

    /// Sets whether the last reload was refused.
    pub(super) fn set_refused(&mut self, refused: bool) {
        self.refused = refused;
    }

    /// Reports that no reload is left to wait for.
    pub(super) fn reloaded(&mut self, snapshot: &Snapshot) {
        if std::mem::take(&mut self.reloading) {
            self.started(snapshot);
        }
    }

    /// Sends the status line if it changed.
    pub(super) fn update(&mut self, snapshot: &Snapshot) {
        let line = self.line(snapshot);
        if self.ready_unsent {
            self.started(snapshot);
        } else if line != self.status_line {
            self.status_line = line;
            self.send(&[NotifyState::Status(&self.status_line)]);
        }
    }

    /// Reports that the end begins, and how long it may take.
    pub(super) fn stopping(&self, drain_delay: Duration, shutdown_timeout: Duration) {
        let longest = if shutdown_timeout.is_zero() {
            Duration::MAX
        } else {
            drain_delay.saturating_add(shutdown_timeout).saturating_add(SLACK)
        };
        // It has an effect only if it is longer than the unit's TimeoutStopSec.
        let micros = u32::try_from(longest.as_micros()).unwrap_or(u32::MAX);
        self.send(&[
            NotifyState::Stopping,
            NotifyState::Status("ending: waiting for requests to end"),
            NotifyState::ExtendTimeoutUsec(micros),
        ]);
    }

    /// Sends a message. Returns whether it was delivered.
    fn send(&self, states: &[NotifyState<'_>]) -> bool {
        let sent = self.socket.as_ref().map_or(Ok(()), |socket| socket.send(states));
        let unreachable = self.unreachable.replace(sent.is_err());
        if let (Err(error), false) = (&sent, unreachable) {
            tracing::warn!(event = "systemd.notify_failed", %error, "cannot reach the service manager (NOTIFY_SOCKET)");
        }
        sent.is_ok()
    }

    fn line(&self, snapshot: &Snapshot) -> String {
        let missing = self.missing.clone().or_else(|| awaited(snapshot));
        let line = match missing {
            Some(missing) => format!("not ready: {missing}"),
            None => {
                let routes = snapshot.config.routes.len();
                let plural = if routes == 1 { "" } else { "s" };
                format!("serving {routes} route{plural}; config version {}", snapshot.version)
            }
        };
        let refused = if self.refused { "; the last reload was refused, see the log" } else { "" };
        format!("{}{refused}", one_line(&line))
    }
}

/// The first token that `/readyz` waits for.
fn awaited(snapshot: &Snapshot) -> Option<String> {
    super::slots(snapshot).into_iter().filter(|slot| slot.issuer().required).find_map(|slot| {
        let status = slot.status();
        if status.fetched_once {
            return None;
        }
        let why =
            status.last_error.map_or_else(|| "its token is being fetched".to_owned(), |error| error.detail);
        Some(format!("issuer {}: {why}", slot.issuer().name))
    })
}

/// Replaces line ends, which would begin another message to the service manager.
fn one_line(text: &str) -> String {
    let mut line: String = text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
    if let Some((end, _)) = line.char_indices().nth(LONGEST) {
        line.truncate(end);
        line.push('…');
    }
    line
}

/// The name of the service manager's socket (`NOTIFY_SOCKET`): a path, or `@` and a name of the abstract namespace.
#[derive(Debug, Clone)]
pub struct NotifySocket(OsString);

impl NotifySocket {
    pub fn new(name: OsString) -> Self {
        Self(name)
    }

    /// Never blocks: a service manager that stopped reading must not stop the thread that fetches tokens.
    pub(super) fn send(&self, states: &[NotifyState<'_>]) -> io::Result<()> {
        let mut message = String::new();
        for state in states {
            let _infallible = writeln!(message, "{state}");
        }
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.send_to_addr(message.as_bytes(), &address(&self.0)?).map(drop)
    }
}

fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuers_words_cannot_make_a_message_of_their_own() {
        assert_eq!(one_line("refused\nSTOPPING=1\u{85}x"), "refused STOPPING=1 x");
    }

    #[test]
    fn a_long_line_is_cut() {
        let line = one_line(&"é".repeat(LONGEST + 1));
        assert_eq!(line.chars().count(), LONGEST + 1);
        assert!(line.ends_with('…'));
        assert_eq!(one_line(&"x".repeat(LONGEST)).len(), LONGEST);
    }
}
