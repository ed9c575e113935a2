//! Entries in a Redis or Valkey server, or in several that belong together.
//!
//! Each operation is one script, so that it is atomic, and follows the rules of [`super::record`]. The keys of an entry are
//! `PREFIX:v1:{ID}:token` (a hash of generation and value, which expires with the token), `…:lease` (the fencing number) and
//! `…:fence` (the last fencing number); a budget is a list of times at `…:budget`. The braces keep them in one slot of a cluster.

mod cluster;
mod connection;
mod explain;
mod line;
mod sentinel;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::redis::{Cmd, FromRedisValue, Value, cmd, from_redis_value};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::cluster::Cluster;
use self::connection::{Connection, Failure, Login, connector};
use self::line::Line;
use super::engine::{
    Claim, Claimed, Engine, Entry, EntryId, LIST_LIMIT, Listed, Operation, Probed, Spent, StoreError,
    StoreErrorKind, StoreTime,
};
use super::sealed::FORMAT;
use crate::clock::micros;
use crate::config::{Budget, RedisConfig, RedisMode, StoreHost};

/// For a connection that can be used: DNS, TCP, TLS, password.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Longer than any token lasts, so that a lost fencing number is older than every entry.
const FENCE_KEPT: Duration = Duration::from_secs(25 * 3600);
/// For what [`Engine::probe`] writes, if it cannot remove it.
const PROBE_KEPT: Duration = Duration::from_secs(10);
/// The number of keys that a server scans for one page of names.
const PAGE: usize = 1000;

macro_rules! script {
    ($name:literal) => {
        concat!(include_str!("redis/prelude.lua"), include_str!(concat!("redis/", $name, ".lua")))
    };
}

const CLAIM: &str = script!("claim");
const EXTEND: &str = script!("extend");
const PUBLISH: &str = script!("publish");
const RELEASE: &str = script!("release");
const REMOVE: &str = script!("remove");
const LOOK: &str = script!("look");
const SPEND: &str = script!("spend");

pub(super) struct Redis {
    prefix: String,
    place: String,
    servers: Arc<Servers>,
}

/// What connections to all servers have in common.
struct Settings {
    config: RedisConfig,
    control: Handle,
}

enum Servers {
    /// The server, or the primary that Sentinels know.
    One(Arc<Line>),
    Cluster(Cluster),
}

impl Redis {
    /// Begins to connect, on `control`.
    pub(super) fn new(config: RedisConfig, prefix: &str, control: &Handle) -> Self {
        let place = place(&config);
        let settings = Arc::new(Settings { config, control: control.clone() });
        let servers = Arc::new(Servers::new(&settings));
        servers.prepare();
        Self { prefix: format!("{prefix}:{FORMAT}:"), place, servers }
    }

    fn key(&self, id: &EntryId, what: &str) -> String {
        format!("{}{{{id}}}:{what}", self.prefix)
    }

    /// Runs a script on these keys of `id`.
    fn script(&self, text: &str, id: &EntryId, keys: &[&str]) -> Cmd {
        let mut command = cmd("EVAL");
        command.arg(text).arg(keys.len());
        for key in keys {
            command.arg(self.key(id, key));
        }
        command
    }

    async fn run<T: FromRedisValue>(&self, id: &EntryId, command: &Cmd) -> Result<T, StoreError> {
        let value = self.servers.send(id, command).await?;
        from_redis_value(value).map_err(|_| self.nonsense())
    }

    fn nonsense(&self) -> StoreError {
        StoreError::new(
            StoreErrorKind::Invalid,
            format!("{} sent an unexpected response: is it Redis or Valkey?", self.place),
        )
    }

    async fn claim_now(&self, id: &EntryId, claim: Claim) -> Result<Claimed, StoreError> {
        let mut command = self.script(CLAIM, id, &["token", "lease", "fence"]);
        command
            .arg(claim.have)
            .arg(u8::from(claim.refused))
            .arg(millis_up(claim.lease))
            .arg(millis_up(FENCE_KEPT));
        let response: Vec<Value> = self.run(id, &command).await?;
        claimed(response).ok_or_else(|| self.nonsense())
    }

    fn look(&self, id: &EntryId, with_value: bool) -> Cmd {
        let mut command = self.script(LOOK, id, &["token", "lease"]);
        command.arg(u8::from(with_value));
        command
    }

    async fn take(&self, id: &EntryId, budget: Budget, spend: bool) -> Result<Spent, StoreError> {
        let mut command = self.script(SPEND, id, &["budget"]);
        command.arg(budget.requests).arg(micros(budget.per)).arg(u8::from(spend));
        let (allowed, remaining, next): (bool, u32, u64) = self.run(id, &command).await?;
        Ok(Spent { allowed, remaining, next: Duration::from_micros(next) })
    }

    async fn list_now(&self) -> Result<Vec<Listed>, StoreError> {
        let mut looks = JoinSet::new();
        for id in self.ids().await? {
            let (servers, command) = (Arc::clone(&self.servers), self.look(&id, false));
            looks.spawn(async move { (servers.send(&id, &command).await, id) });
        }
        let mut listed = Vec::with_capacity(looks.len());
        while let Some(looked) = looks.join_next().await {
            let Ok((looked, id)) = looked else { continue };
            let (generation, _, left, leased): Looked =
                from_redis_value(looked?).map_err(|_| self.nonsense())?;
            let left = duration(left);
            let generation = left.and_then(|_| u64::try_from(generation).ok());
            let line = Listed { id, generation, left: generation.and(left), leased_for: duration(leased) };
            // It may have expired since.
            if line.generation.is_some() || line.leased_for.is_some() {
                listed.push(line);
            }
        }
        listed.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        Ok(listed)
    }

    /// The names of entries and leases.
    async fn ids(&self) -> Result<BTreeSet<EntryId>, StoreError> {
        let pattern = format!("{}*", literally(&self.prefix));
        let mut ids = BTreeSet::new();
        for line in self.servers.all().await? {
            let mut cursor = "0".to_owned();
            loop {
                let mut scan = cmd("SCAN");
                scan.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(PAGE);
                let page = line.send(&scan).await.map_err(Failure::into_gone)?;
                let (next, keys): (String, Vec<Vec<u8>>) =
                    from_redis_value(page).map_err(|_| self.nonsense())?;
                ids.extend(keys.iter().filter_map(|key| self.id(key)));
                if next == "0" || ids.len() >= LIST_LIMIT {
                    break;
                }
                cursor = next;
            }
        }
        Ok(ids.into_iter().take(LIST_LIMIT).collect())
    }

    /// The entry whose token or lease has this key.
    fn id(&self, key: &[u8]) -> Option<EntryId> {
        let rest = std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?;
        let (id, what) = rest.strip_prefix('{')?.split_once("}:")?;
        (what == "token" || what == "lease").then(|| EntryId(id.into()))
    }

    async fn read_now(&self, id: &EntryId) -> Result<Option<Entry>, StoreError> {
        let (generation, sealed, left, _): Looked = self.run(id, &self.look(id, true)).await?;
        let there = u64::try_from(generation).ok().zip(duration(left));
        Ok(there.map(|(generation, left)| Entry { generation, sealed, left }))
    }

    /// Does everything with an entry of its own that bearerd does with a token's.
    async fn probe_now(&self) -> Result<Probed, StoreError> {
        let id = EntryId(format!("probe-{:016x}", fastrand::u64(..)).into());
        let (value, per) = (fastrand::u64(..).to_be_bytes(), Budget::SHORTEST);
        let Claimed::Lease { fence, now } =
            self.claim_now(&id, Claim { have: 0, refused: false, lease: PROBE_KEPT }).await?
        else {
            return Err(self.nonsense());
        };
        self.publish(&id, fence, &value, now.after(PROBE_KEPT)).await?;
        self.take(&id, Budget { requests: 1, per }, true).await?;
        let started = Instant::now();
        let read = self.read_now(&id).await?;
        let latency = started.elapsed();
        let mut remove = cmd("DEL");
        for what in ["token", "lease", "fence", "budget"] {
            remove.arg(self.key(&id, what));
        }
        let _: u64 = self.run(&id, &remove).await?;
        if read.is_none_or(|read| read.sealed != value) {
            let detail =
                format!("{} lost at once what bearerd wrote: does it have enough memory?", self.place);
            return Err(StoreError::new(StoreErrorKind::Unable, detail));
        }
        Ok(match self.run::<String>(&id, &cmd("INFO")).await {
            Ok(info) => about(latency, &Info(&info)),
            Err(gone) => Probed {
                latency,
                server: "an unknown server".to_owned(),
                warnings: vec![format!(
                    "bearerd cannot find out what the server is, and whether it may evict leases: {gone}"
                )],
            },
        })
    }
}

/// Generation or -1, value, and how many milliseconds the entry and the lease last, if they exist.
type Looked = (i64, Vec<u8>, i64, i64);

fn claimed(response: Vec<Value>) -> Option<Claimed> {
    let mut parts = response.into_iter();
    let what: String = from_redis_value(parts.next()?).ok()?;
    let rest = Value::Array(parts.collect());
    Some(match what.as_str() {
        "entry" => {
            let (generation, sealed, left): (u64, Vec<u8>, u64) = from_redis_value(rest).ok()?;
            Claimed::Entry(Entry { generation, sealed, left: Duration::from_millis(left) })
        }
        "held" => {
            let (left,): (u64,) = from_redis_value(rest).ok()?;
            Claimed::Held { left: Duration::from_millis(left) }
        }
        "lease" => {
            let (fence, now): (u64, u64) = from_redis_value(rest).ok()?;
            Claimed::Lease { fence, now: StoreTime(now) }
        }
        _ => return None,
    })
}

/// The result of `PTTL`, which is negative if the key does not exist or does not expire.
fn duration(millis: i64) -> Option<Duration> {
    u64::try_from(millis).ok().filter(|millis| *millis > 0).map(Duration::from_millis)
}

/// Rounded up, so that nothing ends early.
fn millis_up(duration: Duration) -> u64 {
    micros(duration).div_ceil(1000)
}

/// A pattern of `SCAN` that matches only this text.
fn literally(text: &str) -> String {
    let escaped =
        |char: char| matches!(char, '\\' | '*' | '?' | '[' | ']').then_some('\\').into_iter().chain([char]);
    text.chars().flat_map(escaped).collect()
}

impl Engine for Redis {
    fn claim<'a>(&'a self, id: &'a EntryId, claim: Claim) -> Operation<'a, Claimed> {
        Box::pin(self.claim_now(id, claim))
    }

    fn read<'a>(&'a self, id: &'a EntryId) -> Operation<'a, Option<Entry>> {
        Box::pin(self.read_now(id))
    }

    fn extend<'a>(&'a self, id: &'a EntryId, fence: u64, lease: Duration) -> Operation<'a, bool> {
        Box::pin(async move {
            self.run(id, self.script(EXTEND, id, &["lease"]).arg(fence).arg(millis_up(lease))).await
        })
    }

    fn publish<'a>(
        &'a self,
        id: &'a EntryId,
        fence: u64,
        sealed: &'a [u8],
        ends: StoreTime,
    ) -> Operation<'a, bool> {
        Box::pin(async move {
            let mut command = self.script(PUBLISH, id, &["token", "lease", "fence"]);
            command.arg(fence).arg(sealed).arg(ends.0).arg(millis_up(FENCE_KEPT));
            self.run(id, &command).await
        })
    }

    fn release<'a>(&'a self, id: &'a EntryId, fence: u64) -> Operation<'a, ()> {
        Box::pin(async move {
            let _: Value = self.run(id, self.script(RELEASE, id, &["lease"]).arg(fence)).await?;
            Ok(())
        })
    }

    fn remove<'a>(&'a self, ids: &'a [EntryId]) -> Operation<'a, u64> {
        Box::pin(async move {
            let mut removed = 0;
            for id in ids {
                let there: u64 = self.run(id, &self.script(REMOVE, id, &["token", "lease"])).await?;
                removed += there;
            }
            Ok(removed)
        })
    }

    fn list(&self) -> Operation<'_, Vec<Listed>> {
        Box::pin(self.list_now())
    }

    fn spend<'a>(&'a self, id: &'a EntryId, budget: Budget) -> Operation<'a, Spent> {
        Box::pin(self.take(id, budget, true))
    }

    fn balance<'a>(&'a self, id: &'a EntryId, budget: Budget) -> Operation<'a, Spent> {
        Box::pin(self.take(id, budget, false))
    }

    fn probe(&self) -> Operation<'_, Probed> {
        Box::pin(self.probe_now())
    }

    fn place(&self) -> String {
        self.place.clone()
    }
}

impl Servers {
    fn new(settings: &Arc<Settings>) -> Self {
        let config = &settings.config;
        match (&config.mode, config.hosts.first()) {
            (RedisMode::Cluster, _) => Self::Cluster(Cluster::new(Arc::clone(settings))),
            (RedisMode::Sentinel { service }, _) => {
                let (config, service) = (Arc::new(config.clone()), service.clone());
                Self::One(Arc::new(Line::new(&settings.control, move || {
                    let (config, service) = (Arc::clone(&config), service.clone());
                    Box::pin(async move {
                        let silent = sentinel::silent(&service);
                        timeout(CONNECT_LIMIT, sentinel::connect(config, service))
                            .await
                            .unwrap_or(Err(silent))
                    })
                })))
            }
            (RedisMode::Single, host) => {
                let host = host.expect("a config names at least one host");
                Self::One(Arc::new(line_to(settings, host)))
            }
        }
    }

    fn prepare(&self) {
        match self {
            Self::One(line) => line.prepare(),
            Self::Cluster(cluster) => cluster.prepare(),
        }
    }

    async fn send(&self, entry: &EntryId, command: &Cmd) -> Result<Value, StoreError> {
        match self {
            Self::One(line) => line.send(command).await.map_err(Failure::into_gone),
            Self::Cluster(cluster) => cluster.send(Some(entry), command).await,
        }
    }

    /// Lines to all servers that have entries.
    async fn all(&self) -> Result<Vec<Arc<Line>>, StoreError> {
        match self {
            Self::One(line) => Ok(vec![Arc::clone(line)]),
            Self::Cluster(cluster) => cluster.all().await,
        }
    }
}

fn line_to(settings: &Arc<Settings>, host: &StoreHost) -> Line {
    let connector = Arc::new(connector(&settings.config, host, CONNECT_LIMIT));
    let shared = Arc::clone(settings);
    Line::new(&settings.control, move || {
        let (settings, connector) = (Arc::clone(&shared), Arc::clone(&connector));
        Box::pin(
            async move { Connection::open(&settings.config, &connector, Login::Now, CONNECT_LIMIT).await },
        )
    })
}

/// In words for an operator.
fn place(config: &RedisConfig) -> String {
    let hosts: Vec<String> =
        config.hosts.iter().map(|host| connector(config, host, CONNECT_LIMIT).who().to_owned()).collect();
    let hosts = hosts.join(", ");
    let tls = if config.tls.is_some() { " (TLS)" } else { "" };
    match &config.mode {
        RedisMode::Single => format!("Redis at {hosts}{tls}"),
        RedisMode::Cluster => format!("the Redis cluster of {hosts}{tls}"),
        RedisMode::Sentinel { service } => {
            format!("the Redis service {service} of the Sentinels at {hosts}{tls}")
        }
    }
}

/// The lines of `INFO`.
struct Info<'a>(&'a str);

impl<'a> Info<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        let value = |line: &'a str| line.strip_prefix(name)?.strip_prefix(':').map(str::trim);
        self.0.lines().find_map(value)
    }
}

/// What `INFO` says about the server, and what an operator should change.
fn about(latency: Duration, info: &Info<'_>) -> Probed {
    let version = info.get("redis_version").unwrap_or("of an unknown version");
    let name = match info.get("valkey_version") {
        Some(version) => format!("Valkey {version}"),
        None => format!("Redis {version}"),
    };
    let role = match info.get("role") {
        Some("master") => "primary",
        Some("slave") => "replica",
        _ => "unknown role",
    };
    let mut warnings = Vec::new();
    if version.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major < 5) {
        warnings.push(format!("{name} is too old: bearerd needs Redis 5 or later, or Valkey"));
    }
    if role == "replica" {
        warnings.push(
            "the server is a replica: what bearerd writes to it is lost, and other replicas see none of it"
                .to_owned(),
        );
    }
    // All of bearerd's keys expire, so the volatile policies may remove them too.
    if let Some(policy) = info.get("maxmemory_policy").filter(|policy| *policy != "noeviction") {
        let full = match info.get("maxmemory") {
            Some("0") => "the server has no maxmemory, so it removes nothing yet; with one",
            _ => "when the server is full",
        };
        warnings.push(format!(
            "{full}, maxmemory-policy {policy} may remove leases and budgets, and then several replicas request one token, or \
             more than a budget allows: set it to noeviction, or give bearerd a server of its own"
        ));
    }
    Probed { latency, server: format!("{name}, {role}"), warnings }
}
