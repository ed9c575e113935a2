//! What the kernel gives this process: [`harden`] at the start, and the division of file descriptors, so that no kind of
//! connection takes those that token requests, reloads, and the admin address need.

use std::sync::OnceLock;

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

use crate::admin;
use crate::config::{self, Config};
use crate::listener::REFUSALS;
use crate::net;
use crate::webhook;

/// Descriptors for files of the config, libraries, the log, and sockets that a reload binds beside those that it replaces.
const FILES: usize = 48;
/// Descriptors of a runtime.
const FOR_EACH_THREAD: usize = 6;
/// The number of issuers whose connections fit at the same time.
const ISSUERS: usize = 8;

/// How many connections fit, however many the config wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// The limit of open files.
    files: usize,
    pub(super) callers: usize,
    upstreams: usize,
    /// Connections to one issuer.
    issuer: usize,
}

impl Room {
    /// Divides the limit of this process.
    pub(super) fn of(config: &Config) -> Self {
        let limit = getrlimit(Resource::Nofile).current;
        let files = limit.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
        // Enough for a start with thousands of tokens, if there are enough descriptors.
        let issuer = (files / 64).clamp(4, 1024);
        Self { issuer, ..Self::within(files, config.limits.connections, reserve(config, issuer)) }
    }

    /// A caller's request may need a connection to its upstream, so upstreams get at least a quarter. If too little is left for
    /// `connections`, callers and upstreams get the same.
    fn within(files: usize, connections: usize, reserve: usize) -> Self {
        let rest = files - reserve.min(files / 2);
        let callers = if connections <= rest - rest / 4 { connections } else { (rest / 2).max(1) };
        Self { files, callers, upstreams: rest.saturating_sub(callers).max(1), issuer: 0 }
    }

    /// Applies these limits from now on.
    pub(super) fn take(&self) {
        net::UPSTREAMS.set_most(self.upstreams);
        net::set_turns(self.issuer);
    }

    /// Logs a warning if the config wants more than there is.
    pub(super) fn warn(&self, config: &Config) {
        let Self { files, callers, upstreams, issuer: _ } = *self;
        if callers < config.limits.connections {
            tracing::warn!(
                event = "limits.files",
                files,
                callers,
                upstreams,
                connections = config.limits.connections,
                "limits.connections does not fit into the limit of open files: `callers` are let in, and `upstreams` \
                 connections go out; raise the limit (ulimit -n, LimitNOFILE) or lower limits.connections"
            );
        }
    }
}

/// The descriptors that are reserved for everything except requests.
fn reserve(config: &Config, issuer: usize) -> usize {
    let listeners = config.listeners.len();
    FILES
        + (config.workers + 1) * FOR_EACH_THREAD
        + config.workers * listeners * (1 + REFUSALS)
        + admin::CONNECTIONS
        + config.webhooks.len() * (1 + webhook::CONNECTIONS)
        + config.issuers.len().min(ISSUERS) * issuer
}

/// Turns off core dumps, hides memory from other processes of this user, and raises the limit of open files. Returns what the
/// system refused, which is no reason to stop the program.
pub fn harden() -> Vec<String> {
    let mut refused = Vec::new();
    let [core, files] = *INHERITED.get_or_init(|| LIMITS.map(getrlimit));
    // Only the soft limit, so that a program that bearerd starts can have its own.
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), ..core }) {
        refused.push(format!("core dumps cannot be turned off (RLIMIT_CORE): {error}"));
    }
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        refused.push(format!("memory cannot be hidden from debuggers (PR_SET_DUMPABLE): {error}"));
    }
    config::limit_programs(files);
    if files.current != files.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })
    {
        refused.push(format!("the limit of open files cannot be raised (RLIMIT_NOFILE): {error}"));
    }
    refused
}

/// The limits that [`harden`] changes, and what they were before.
const LIMITS: [Resource; 2] = [Resource::Core, Resource::Nofile];
static INHERITED: OnceLock<[Rlimit; 2]> = OnceLock::new();

/// Starts a program, which gets the limits that bearerd was started with.
pub fn with_inherited_limits<T>(start: impl FnOnce() -> T) -> T {
    let set = |limits: [Rlimit; 2]| {
        for (resource, limit) in LIMITS.into_iter().zip(limits) {
            // Between two soft limits below the hard one, which the system allows.
            let _ = setrlimit(resource, limit);
        }
    };
    let own = LIMITS.map(getrlimit);
    set(INHERITED.get().copied().unwrap_or(own));
    let started = start();
    set(own);
    started
}

/// Logs a panic with its place and thread, but without its message, which could contain a caller's data.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        tracing::error!(
            event = "process.panicked", %thread, %place,
            "a bug in bearerd: it panicked; please report this place"
        );
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(files: usize, connections: usize) -> (usize, usize) {
        let room = Room::within(files, connections, 200);
        (room.callers, room.upstreams)
    }

    #[test]
    fn upstreams_get_what_is_left_and_a_quarter_at_least() {
        assert_eq!(room(1024, 100), (100, 724));
        assert_eq!(room(1024, 618), (618, 206), "just fits");
        assert_eq!(room(1024, 619), (412, 412), "does not");
        assert_eq!(room(20_000, 10_000), (10_000, 9_800));
        assert_eq!(room(usize::MAX, 10_000).0, 10_000);
    }

    #[test]
    fn a_tiny_limit_still_serves() {
        assert_eq!(room(64, 10_000), (16, 16));
        assert_eq!(room(1, 10_000), (1, 1));
        assert_eq!(room(0, 10_000), (1, 1));
    }
}
