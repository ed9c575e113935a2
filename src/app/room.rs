//! Who gets how much of the descriptors that the machine gives this process, so that no kind of connection takes those
//! that everything else needs: token requests, reloads, the admin address.

use rustix::process::{Resource, getrlimit};

use crate::admin;
use crate::config::Config;
use crate::listener::REFUSALS;
use crate::net;
use crate::webhook;

/// Files of the config, libraries, the log, sockets that a reload binds beside those that it replaces.
const FILES: usize = 48;
/// A runtime's own.
const FOR_EACH_THREAD: usize = 6;
/// Issuers for whose connections there is room at the same time.
const ISSUERS: usize = 8;

/// How many connections there may be, however many the config wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// The limit of open files.
    files: usize,
    pub(super) callers: usize,
    pub(super) upstreams: usize,
    /// Connections to one issuer.
    issuer: usize,
}

impl Room {
    /// By the limit of this process.
    pub(super) fn of(config: &Config) -> Self {
        let limit = getrlimit(Resource::Nofile).current;
        let files = limit.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
        // Enough for a start with thousands of tokens where there are descriptors for that.
        let issuer = (files / 64).clamp(4, 1024);
        Self { issuer, ..Self::within(files, config.limits.connections, reserve(config, issuer)) }
    }

    /// A caller's call may need a connection to its upstream, so those get at least a quarter. Where that leaves too
    /// little for `connections`, both get the same.
    fn within(files: usize, connections: usize, reserve: usize) -> Self {
        let rest = files - reserve.min(files / 2);
        let callers = if connections <= rest - rest / 4 { connections } else { (rest / 2).max(1) };
        Self { files, callers, upstreams: rest.saturating_sub(callers).max(1), issuer: 0 }
    }

    /// From now on there are no more connections than this.
    pub(super) fn take(&self) {
        net::UPSTREAMS.set_most(self.upstreams);
        net::set_turns(self.issuer);
    }

    /// Tells where the config wants more than there is.
    pub(super) fn tell(&self, config: &Config) {
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

/// What is kept for everything but calls.
fn reserve(config: &Config, issuer: usize) -> usize {
    let listeners = config.listeners.len();
    FILES
        + (config.workers + 1) * FOR_EACH_THREAD
        + config.workers * listeners * (1 + REFUSALS)
        + admin::CONNECTIONS
        + config.webhooks.len() * (1 + webhook::CONNECTIONS)
        + config.issuers.len().min(ISSUERS) * issuer
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
