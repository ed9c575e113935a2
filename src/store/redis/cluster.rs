//! A cluster. All keys of an entry are in one slot, so an operation needs one server: the one that had the entry last time, or
//! any other, which redirects to the one that has it.
//!
//! The `redis` crate's own client of clusters is not used: it makes its connections from an address alone, so that our
//! connector would have to be a global.
#![expect(clippy::disallowed_types, reason = "held for a look-up, and never on the request path")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::redis::{Cmd, Value, cmd, from_redis_value};

use super::connection::{Failure, Redirect};
use super::line::Line;
use super::{Settings, line_to};
use crate::config::StoreHost;
use crate::store::engine::{EntryId, StoreError, StoreErrorKind};

/// How many redirects and unreachable servers one operation tolerates.
const TRIES: usize = 6;
/// The pause before another request for an entry that is moving to another server.
const ON_ITS_WAY: Duration = Duration::from_millis(10);
/// The most servers of a cluster, and the most entries whose server is remembered.
const SERVERS_KEPT: usize = 1000;
const ENTRIES_KEPT: usize = 16 * 1024;

pub(super) struct Cluster {
    settings: Arc<Settings>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    lines: HashMap<StoreHost, Arc<Line>>,
    /// The server that had an entry last time.
    homes: HashMap<EntryId, StoreHost>,
    /// Which host of the config to ask for other entries.
    first: usize,
}

impl Cluster {
    pub(super) fn new(settings: Arc<Settings>) -> Self {
        Self { settings, known: Mutex::default() }
    }

    pub(super) fn prepare(&self) {
        self.line(&self.home(None)).prepare();
    }

    /// Sends `command` to the server that has `entry`, or to any.
    pub(super) async fn send(&self, entry: Option<&EntryId>, command: &Cmd) -> Result<Value, StoreError> {
        let mut host = self.home(entry);
        let mut asking = false;
        let mut why = None;
        for _ in 0..TRIES {
            let line = self.line(&host);
            let mut in_use = InUse { cluster: self, host: &host, works: false };
            let outcome = if asking { line.send_asking(command).await } else { line.send(command).await };
            in_use.works = matches!(outcome, Ok(_) | Err(Failure::Redirect(_)));
            drop(in_use);
            asking = false;
            match outcome {
                Ok(value) => return Ok(value),
                Err(Failure::Failed(gone)) => return Err(gone),
                Err(Failure::Unsent(gone)) => {
                    why = Some(gone);
                    host = self.home(entry);
                }
                Err(Failure::Redirect(Redirect::Moved(to))) => {
                    self.remember(entry, &to);
                    host = to;
                }
                Err(Failure::Redirect(Redirect::Ask(to))) => {
                    asking = true;
                    host = to;
                }
                Err(Failure::Redirect(Redirect::TryAgain)) => tokio::time::sleep(ON_ITS_WAY).await,
            }
        }
        Err(why.unwrap_or_else(|| {
            StoreError::new(
                StoreErrorKind::Unable,
                "the cluster's servers do not agree on which of them has an entry; the cluster is being changed",
            )
        }))
    }

    /// Lines to all servers that have slots.
    pub(super) async fn all(&self) -> Result<Vec<Arc<Line>>, StoreError> {
        let asked = self.home(None);
        let slots = self.send(None, cmd("CLUSTER").arg("SLOTS")).await?;
        let mut hosts = primaries(slots, &asked).ok_or_else(|| {
            StoreError::new(
                StoreErrorKind::Invalid,
                "the cluster does not list the servers of its slots as Redis does",
            )
        })?;
        hosts.sort_unstable_by_key(|host| format!("{host:?}"));
        hosts.dedup();
        Ok(hosts.iter().map(|host| self.line(host)).collect())
    }

    fn home(&self, entry: Option<&EntryId>) -> StoreHost {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let home = entry.and_then(|entry| known.homes.get(entry));
        let hosts = &self.settings.config.hosts;
        let any = || hosts.iter().cycle().nth(known.first % hosts.len().max(1));
        home.or_else(any).cloned().expect("a config names at least one host")
    }

    fn line(&self, host: &StoreHost) -> Arc<Line> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.lines.len() >= SERVERS_KEPT && !known.lines.contains_key(host) {
            known.lines.clear();
        }
        let new = || Arc::new(line_to(&self.settings, host));
        Arc::clone(known.lines.entry(host.clone()).or_insert_with(new))
    }

    fn remember(&self, entry: Option<&EntryId>, host: &StoreHost) {
        let Some(entry) = entry else { return };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.homes.len() >= ENTRIES_KEPT {
            known.homes.clear();
        }
        known.homes.insert(entry.clone(), host.clone());
    }

    /// Asks another server next time, which knows whether this one was replaced.
    fn doubt(&self, host: &StoreHost) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.homes.retain(|_, home| home != host);
        let hosts = &self.settings.config.hosts;
        if hosts.iter().cycle().nth(known.first % hosts.len().max(1)) == Some(host) {
            known.first = known.first.wrapping_add(1);
        }
    }
}

/// Also applies if the operation is dropped because it takes too long.
struct InUse<'a> {
    cluster: &'a Cluster,
    host: &'a StoreHost,
    works: bool,
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        if !self.works {
            self.cluster.doubt(self.host);
        }
    }
}

/// The primaries in a response to `CLUSTER SLOTS`: for each range its first and last slot, then host and port of the primary.
fn primaries(slots: Value, asked: &StoreHost) -> Option<Vec<StoreHost>> {
    let ranges: Vec<Vec<Value>> = from_redis_value(slots).ok()?;
    let primary = |range: Vec<Value>| {
        let Some(Value::Array(mut node)) = range.into_iter().nth(2) else { return None };
        node.truncate(2);
        let (host, port): (Option<String>, u16) = from_redis_value(Value::Array(node)).ok()?;
        Some(match (host.filter(|host| !host.is_empty()), asked) {
            (Some(host), _) => StoreHost::Tcp { host, port },
            // It does not know its own address, so it is the one under which it was asked.
            (None, StoreHost::Tcp { host, .. }) => StoreHost::Tcp { host: host.clone(), port },
            (None, StoreHost::Unix(_)) => asked.clone(),
        })
    };
    ranges.into_iter().map(primary).collect()
}
