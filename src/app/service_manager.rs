//! What the service manager is told (sd_notify): ready, reloading, ending, and how it stands in one line.

use std::cell::Cell;
use std::time::Duration;

use sd_notify::NotifyState;

use super::notify::NotifySocket;
use crate::config::Credential;
use crate::proxy::Snapshot;

/// How often the line is looked at again.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// The longest status line, in characters: `systemctl status` shows one line.
const LONGEST: usize = 160;
/// Beyond what the end may take by the config.
const SLACK: Duration = Duration::from_secs(5);

/// Says nothing where no service manager listens.
#[derive(Debug)]
pub(super) struct ServiceManager {
    socket: Option<NotifySocket>,
    /// READY=1 did not get through: it is said again.
    owed: bool,
    /// It could not be reached; that is told once.
    deaf: Cell<bool>,
    /// READY=1 is owed for a RELOADING=1.
    reloading: bool,
    /// The last reload was refused.
    refused: bool,
    /// The first of the config's values that are not there.
    missing: Option<String>,
    said: String,
}

impl ServiceManager {
    pub(super) fn new(socket: Option<NotifySocket>) -> Self {
        Self {
            socket,
            owed: false,
            deaf: Cell::new(false),
            reloading: false,
            refused: false,
            missing: None,
            said: String::new(),
        }
    }

    /// Whether anybody listens.
    pub(super) fn listens(&self) -> bool {
        self.socket.is_some()
    }

    /// What tells that all is well with the control thread and the workers.
    pub(super) fn keep_alive(&self) -> Option<impl Fn() + Send + use<>> {
        let socket = self.socket.clone()?;
        // A service manager that does not take this does what it does without it: it starts the program again.
        Some(move || _ = socket.send(&[NotifyState::Watchdog]))
    }

    /// What `/readyz` waits for beside tokens.
    pub(super) fn set_missing(&mut self, missing: &[String]) {
        self.missing = missing.first().cloned();
    }

    /// Every address is bound.
    pub(super) fn started(&mut self, snapshot: &Snapshot) {
        self.said = self.line(snapshot);
        self.owed = !self.tell(&[NotifyState::Ready, NotifyState::Status(&self.said)]);
    }

    /// A reload begins.
    pub(super) fn reloading(&mut self) {
        if self.reloading || !self.listens() {
            return;
        }
        self.reloading = true;
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(_) => self.tell(&[NotifyState::Reloading]),
        };
    }

    /// Whether the last reload was refused.
    pub(super) fn set_refused(&mut self, refused: bool) {
        self.refused = refused;
    }

    /// No reload is left to wait for.
    pub(super) fn reloaded(&mut self, snapshot: &Snapshot) {
        if std::mem::take(&mut self.reloading) {
            self.started(snapshot);
        }
    }

    /// Tells how it stands, where that is another line than before.
    pub(super) fn look(&mut self, snapshot: &Snapshot) {
        let line = self.line(snapshot);
        if self.owed {
            self.started(snapshot);
        } else if line != self.said {
            self.said = line;
            self.tell(&[NotifyState::Status(&self.said)]);
        }
    }

    /// The end begins, and may take as long as this.
    pub(super) fn stopping(&self, drain_delay: Duration, shutdown_timeout: Duration) {
        let longest = if shutdown_timeout.is_zero() {
            Duration::MAX
        } else {
            drain_delay.saturating_add(shutdown_timeout).saturating_add(SLACK)
        };
        // It counts only beyond the unit's own TimeoutStopSec.
        let micros = u32::try_from(longest.as_micros()).unwrap_or(u32::MAX);
        self.tell(&[
            NotifyState::Stopping,
            NotifyState::Status("ending: calls under way are answered"),
            NotifyState::ExtendTimeoutUsec(micros),
        ]);
    }

    /// Whether that got through.
    fn tell(&self, states: &[NotifyState<'_>]) -> bool {
        let sent = self.socket.as_ref().map_or(Ok(()), |socket| socket.send(states));
        let deaf = self.deaf.replace(sent.is_err());
        if let (Err(error), false) = (&sent, deaf) {
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
    snapshot.routes.iter().find_map(|route| {
        let Credential::Issuer { issuer, .. } = &route.config.credential else { return None };
        let slot = route.slot.as_ref().filter(|_| issuer.required)?;
        let status = slot.status();
        if status.fetched_once {
            return None;
        }
        let why =
            status.last_error.map_or_else(|| "its token is being fetched".to_owned(), |error| error.detail);
        Some(format!("issuer {}: {why}", issuer.name))
    })
}

/// A line end would begin another message to the service manager.
fn one_line(text: &str) -> String {
    let mut line: String = text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
    if let Some((end, _)) = line.char_indices().nth(LONGEST) {
        line.truncate(end);
        line.push('…');
    }
    line
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
