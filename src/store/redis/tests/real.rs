//! The engine with real servers.

#[allow(unreachable_pub, clippy::disallowed_methods, reason = "each test needs a part, and tests/it another")]
#[path = "../../../../tests/it/support/redis.rs"]
mod servers;

use std::path::PathBuf;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use self::servers::{REDIS, RedisCluster, RedisSentinels, RedisServer, VALKEY, is_installed};
use super::blocking::wait_for;
use super::*;
use crate::config::{Roots, TlsOptions};
use crate::store::record::{Record, Window};

fn to(server: &RedisServer) -> RedisConfig {
    single(tcp(server.port))
}

fn file(folder: &tempfile::TempDir, name: &str, content: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    path
}

fn source(path: &std::path::Path) -> Source {
    Source::file(path.to_owned(), None)
}

/// What can happen to one entry. Fencing numbers are told by their age.
#[derive(Debug, Clone)]
enum Event {
    Claim { have: usize, refused: bool },
    Extend(usize),
    Publish(usize),
    PublishExpired(usize),
    Release(usize),
    Remove,
    LeaseExpires,
    StoreIsWiped,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let number = 0..4_usize;
    proptest::collection::vec(
        prop_oneof![
            6 => (number.clone(), any::<bool>()).prop_map(|(have, refused)| Event::Claim { have, refused }),
            2 => number.clone().prop_map(Event::Extend),
            4 => number.clone().prop_map(Event::Publish),
            1 => number.clone().prop_map(Event::PublishExpired),
            2 => number.prop_map(Event::Release),
            // An entry that expires is gone as well.
            2 => Just(Event::Remove),
            2 => Just(Event::LeaseExpires),
            1 => Just(Event::StoreIsWiped),
        ],
        1..40,
    )
}

/// What both sides say, with fencing numbers replaced by their age.
#[derive(Debug, PartialEq)]
enum Said {
    Claimed(&'static str, Option<usize>, Vec<u8>),
    Yes(bool),
    Nothing,
}

/// One side: its fencing numbers, the oldest first.
#[derive(Default)]
struct Fences(Vec<u64>);

impl Fences {
    /// The one of an age, or 0.
    fn get(&self, age: usize) -> u64 {
        self.0.len().checked_sub(age + 1).map_or(0, |at| self.0[at])
    }

    fn said(&mut self, claimed: Claimed) -> Said {
        let (what, fence, sealed) = match claimed {
            Claimed::Held { left } => {
                assert!(left > Duration::ZERO && left <= LEASE);
                return Said::Claimed("held", None, Vec::new());
            }
            Claimed::Lease { fence, now } => {
                assert!(fence >= now.0, "at least the store's time");
                assert!(self.0.last().is_none_or(|last| *last < fence), "{fence} after {:?}", self.0);
                self.0.push(fence);
                ("lease", fence, Vec::new())
            }
            Claimed::Entry(entry) => ("entry", entry.generation, entry.sealed),
        };
        Said::Claimed(what, self.0.iter().position(|known| *known == fence), sealed)
    }
}

/// Far from now for either side.
const FAR: StoreTime = StoreTime(8_000_000_000_000_000);
const PAST: StoreTime = StoreTime(1);

/// Does the same with the engine and with [`Record`], and compares.
async fn obeys_the_rules(engine: &Redis, cli: &(dyn Fn(&[&str]) + Sync), events: &[Event]) {
    let id = id();
    let (mut ours, mut theirs) = (Fences::default(), Fences::default());
    let mut record = Record::default();
    let mut now = StoreTime(1_000_000);
    for (at, event) in events.iter().enumerate() {
        now = now.after(Duration::from_millis(1));
        let sealed = format!("value {at}").into_bytes();
        let (real, model) = match *event {
            Event::Claim { have, refused } => {
                let claim = |fences: &Fences| Claim { have: fences.get(have), refused, lease: LEASE };
                let claimed = engine.claim(&id, claim(&ours)).await.unwrap();
                let expected = record.claim(now, claim(&theirs));
                (ours.said(claimed), theirs.said(expected))
            }
            Event::Extend(age) => (
                Said::Yes(engine.extend(&id, ours.get(age), LEASE).await.unwrap()),
                Said::Yes(record.extend(now, theirs.get(age), LEASE)),
            ),
            Event::Publish(age) => (
                Said::Yes(engine.publish(&id, ours.get(age), &sealed, FAR).await.unwrap()),
                Said::Yes(record.publish(now, theirs.get(age), &sealed, FAR)),
            ),
            Event::PublishExpired(age) => (
                Said::Yes(engine.publish(&id, ours.get(age), &sealed, PAST).await.unwrap()),
                Said::Yes(record.publish(now, theirs.get(age), &sealed, PAST)),
            ),
            Event::Release(age) => {
                engine.release(&id, ours.get(age)).await.unwrap();
                record.release(theirs.get(age));
                (Said::Nothing, Said::Nothing)
            }
            Event::Remove => {
                let removed = engine.remove(std::slice::from_ref(&id)).await.unwrap();
                (Said::Yes(removed == 1), Said::Yes(record.remove(now)))
            }
            // In place of waiting, which a busy machine would make unreliable.
            Event::LeaseExpires => {
                cli(&["DEL", &engine.key(&id, "lease")]);
                now = now.after(LEASE + Duration::from_secs(1));
                (Said::Nothing, Said::Nothing)
            }
            Event::StoreIsWiped => {
                for what in ["token", "lease", "fence"] {
                    cli(&["DEL", &engine.key(&id, what)]);
                }
                record = Record::default();
                // The clock of the model is not that of the store, but goes on as well.
                now = now.after(Duration::from_secs(1));
                (Said::Nothing, Said::Nothing)
            }
        };
        assert_eq!(real, model, "event {at} of {events:?}");
        let entry = engine.read(&id).await.unwrap();
        let real = entry.map(|entry| ours.0.iter().position(|known| *known == entry.generation));
        let model =
            record.read(now).map(|entry| theirs.0.iter().position(|known| *known == entry.generation));
        assert_eq!(real, model, "the entry after event {at} of {events:?}");
        let listed = engine.list().await.unwrap();
        let listed = listed.iter().find(|line| line.id == id);
        let leased = listed.is_some_and(|line| line.leased_for.is_some());
        assert_eq!(leased, record.leased_for(now).is_some(), "the lease after event {at} of {events:?}");
        assert_eq!(listed.is_some_and(|line| line.generation.is_some()), model.is_some());
    }
    engine.remove(std::slice::from_ref(&id)).await.unwrap();
}

fn random_events(cases: u32, engine: &Redis, cli: &(dyn Fn(&[&str]) + Sync)) {
    let handle = Handle::current();
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let run = |events: Vec<Event>| {
        handle.block_on(obeys_the_rules(engine, cli, &events));
        Ok(())
    };
    tokio::task::block_in_place(|| runner.run(&events(), run)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server"]
async fn random_events_end_as_the_rules_say() {
    for program in [REDIS, VALKEY].into_iter().filter(|program| *program == REDIS || is_installed(program)) {
        let server = RedisServer::of(program, "");
        let engine = engine(to(&server));
        random_events(60, &engine, &|arguments| drop(server.cli(arguments)));
    }
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_budget_is_spent_as_the_window_says() {
    let server = RedisServer::start();
    let engine = engine(to(&server));
    let mut window = Window::default();
    let budget = |requests| Budget { requests, per: LEASE };
    let id = id();
    for (at, (requests, spend)) in
        [(3, true), (3, false), (3, true), (3, true), (3, true), (2, false), (5, true), (1, true)]
            .into_iter()
            .enumerate()
    {
        let now = 1_000_000 + at as u64;
        let (real, model) = if spend {
            (engine.spend(&id, budget(requests)).await.unwrap(), window.spend(now, budget(requests)))
        } else {
            (engine.balance(&id, budget(requests)).await.unwrap(), window.balance(now, budget(requests)))
        };
        assert_eq!((real.allowed, real.remaining), (model.allowed, model.remaining), "{at}");
        assert_eq!(real.next.is_zero(), model.next.is_zero(), "{at}: {real:?}, {model:?}");
        assert!(real.next <= LEASE, "{real:?}");
    }
    // A clock that went back must not keep a time of the future, and what is no number does not count.
    let key = engine.key(&id, "budget");
    server.cli(&["RPUSH", &key, "8000000000000000", "nonsense"]);
    assert_eq!(engine.balance(&id, budget(4)).await.unwrap().remaining, 0);
    assert_eq!(engine.balance(&id, budget(5)).await.unwrap().remaining, 1);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_budget_comes_back_after_its_span() {
    let server = RedisServer::start();
    let engine = engine(to(&server));
    let (id, budget) = (id(), Budget { requests: 2, per: Duration::from_secs(1) });
    let started = Instant::now();
    assert_eq!(engine.spend(&id, budget).await.unwrap().remaining, 1);
    assert_eq!(engine.spend(&id, budget).await.unwrap().remaining, 0);
    eventually("another request", async || engine.spend(&id, budget).await.unwrap().allowed.then_some(()))
        .await;
    assert!(started.elapsed() >= budget.per, "{:?}", started.elapsed());
    wait_for("the budget's key to expire", || server.cli(&["EXISTS", &engine.key(&id, "budget")]) == "0");
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn leases_and_entries_expire_by_themselves() {
    let server = RedisServer::start();
    let engine = engine(to(&server));
    let id = id();
    let short = Claim { lease: Duration::from_millis(50), ..fresh() };
    let Claimed::Lease { fence: first, .. } = engine.claim(&id, short).await.unwrap() else {
        panic!("the first")
    };
    let (second, now) =
        eventually("the lease to end", async || match engine.claim(&id, short).await.unwrap() {
            Claimed::Lease { fence, now } => Some((fence, now)),
            held => {
                assert!(matches!(held, Claimed::Held { left } if left <= short.lease), "{held:?}");
                None
            }
        })
        .await;
    assert!(second > first);
    assert!(!engine.publish(&id, first, b"old", FAR).await.unwrap(), "the holder was paused for too long");
    assert!(engine.publish(&id, second, b"new", now.after(Duration::from_secs(1))).await.unwrap());
    let entry = engine.read(&id).await.unwrap().unwrap();
    assert!(entry.left <= Duration::from_secs(1), "{entry:?}");
    eventually("the entry to expire", async || engine.read(&id).await.unwrap().is_none().then_some(())).await;
    // A fencing number is there for as long as any token that was fetched with it.
    let left: u64 = server.cli(&["TTL", &engine.key(&id, "fence")]).parse().unwrap();
    assert!(left > 24 * 3600, "{left}");
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn what_others_wrote_harms_nobody() {
    let server = RedisServer::start();
    let engine = engine(to(&server));
    let id = id();
    let (token, lease, fence) =
        (engine.key(&id, "token"), engine.key(&id, "lease"), engine.key(&id, "fence"));
    for forged in ["nonsense", "nan", "inf", "-1", "1e300", "9223372036854775807", ""] {
        server.cli(&["FLUSHALL"]);
        server.cli(&["SET", &fence, forged]);
        server.cli(&["HSET", &token, "g", forged, "v", "x"]);
        // Without an end.
        server.cli(&["SET", &lease, forged]);
        let Claimed::Lease { fence, now } = engine.claim(&id, fresh()).await.unwrap() else {
            panic!("{forged}")
        };
        assert_eq!(fence, now.0, "{forged}");
        assert_eq!(engine.read(&id).await.unwrap(), None, "{forged}");
        assert!(engine.publish(&id, fence, b"good", FAR).await.unwrap(), "{forged}");
        assert_eq!(engine.read(&id).await.unwrap().unwrap().sealed, b"good", "{forged}");
    }
    server.cli(&["SET", &token, "not a hash"]);
    let gone = engine.claim(&id, fresh()).await.unwrap_err();
    assert!(gone.detail.contains("another prefix"), "{gone}");
    server.cli(&["SET", "bearerd:v1:{x}:other", "1"]);
    server.cli(&["SET", "bearerd:v2:{x}:token", "1"]);
    server.cli(&["FLUSHALL"]);
    assert_eq!(engine.list().await.unwrap(), []);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn many_entries_are_listed() {
    let server = RedisServer::start();
    let engine = Redis::new(to(&server), "odd *[prefix]?", &Handle::current());
    server.cli(&["SET", "odd xp?:v1:{other}:token", "1"]);
    let mut expected = Vec::new();
    for at in 0..2500 {
        let id = id();
        if let Claimed::Lease { fence, .. } = engine.claim(&id, fresh()).await.unwrap()
            && at % 2 == 0
        {
            assert!(engine.publish(&id, fence, b"x", FAR).await.unwrap());
        }
        expected.push((id, at % 2 == 0));
    }
    expected.sort_unstable();
    let listed = engine.list().await.unwrap();
    let found: Vec<_> = listed.iter().map(|line| (line.id.clone(), line.generation.is_some())).collect();
    assert_eq!(found, expected);
    let ids: Vec<EntryId> = expected.into_iter().map(|(id, _)| id).collect();
    assert_eq!(engine.remove(&ids).await.unwrap(), 1250);
    assert_eq!(engine.list().await.unwrap(), []);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_unix_socket_and_a_database() {
    let server = RedisServer::start();
    let config = RedisConfig { database: 3, ..single(StoreHost::Unix(server.socket())) };
    let engine = engine(config);
    engine.try_it().await.unwrap();
    assert_ne!(server.cli(&["-n", "3", "DBSIZE"]), "0");
    assert_eq!(server.cli(&["DBSIZE"]), "0");
    assert_eq!(engine.place(), format!("Redis at unix:{}", server.socket().display()));
}

/// Certificates that tests trust.
struct Pki {
    folder: tempfile::TempDir,
}

impl Pki {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "the tests' own CA");
        let key = KeyPair::generate().unwrap();
        file(&folder, "ca.pem", &params.self_signed(&key).unwrap().pem());
        let ca = Issuer::new(params, key);
        for name in ["server", "client"] {
            let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            let key = KeyPair::generate().unwrap();
            file(&folder, &format!("{name}.pem"), &params.signed_by(&key, &ca).unwrap().pem());
            file(&folder, &format!("{name}.key"), &key.serialize_pem());
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn server(&self, options: &str) -> RedisServer {
        RedisServer::with_tls(
            &self.path("server.pem"),
            &self.path("server.key"),
            &self.path("ca.pem"),
            options,
        )
    }

    fn trusting(&self) -> TlsOptions {
        TlsOptions { ca: Some(source(&self.path("ca.pem"))), roots: Roots::Ca, ..TlsOptions::default() }
    }

    fn with_certificate(&self) -> TlsOptions {
        TlsOptions {
            certificate: Some(source(&self.path("client.pem"))),
            private_key: Some(source(&self.path("client.key"))),
            ..self.trusting()
        }
    }
}

fn over_tls(server: &RedisServer, tls: TlsOptions) -> RedisConfig {
    let host = StoreHost::Tcp { host: "localhost".to_owned(), port: server.port };
    RedisConfig { tls: Some(tls), ..single(host) }
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn tls_with_a_private_ca_and_a_client_certificate() {
    let pki = Pki::new();
    let server = pki.server("tls-auth-clients yes\n");
    let config = |tls| engine(over_tls(&server, tls));
    let with_certificate = config(pki.with_certificate());
    with_certificate.try_it().await.unwrap();
    assert_eq!(with_certificate.place(), format!("Redis at localhost:{} (TLS)", server.port));
    let gone = config(pki.trusting()).failure().await;
    assert!(gone.detail.contains("client certificate"), "{gone}");
    let gone = config(TlsOptions { roots: Roots::Bundled, ..TlsOptions::default() }).failure().await;
    assert!(gone.detail.contains("its issuer is not trusted here"), "{gone}");
    let other = TlsOptions { server_name: Some("cache.internal".to_owned()), ..pki.with_certificate() };
    let gone = config(other).failure().await;
    assert!(gone.detail.contains("it is for localhost, not for cache.internal"), "{gone}");
    // One side speaks TLS, and the other does not.
    let gone = engine(to(&server)).failure().await;
    assert!(gone.detail.contains("rediss://"), "{gone}");
    let plain = RedisServer::start();
    let gone = engine(over_tls(&plain, pki.trusting())).failure().await;
    assert_eq!(gone.kind, StoreErrorKind::Unreachable, "{gone}");
}

fn with_user(server: &RedisServer, folder: &tempfile::TempDir, password: &str) -> RedisConfig {
    RedisConfig {
        username: Some(Source::literal("bearerd")),
        password: Some(source(&file(folder, "password", password))),
        ..to(server)
    }
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_user_with_the_rights_that_an_error_names_may_do_everything() {
    let server = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let config = with_user(&server, &folder, "secret");
    let user = |rights: &str| {
        let mut command = vec!["ACL", "SETUSER", "bearerd", "reset", "on", ">secret", "~bearerd:*"];
        command.extend(rights.split_whitespace());
        assert_eq!(server.cli(&command), "OK");
    };
    user(explain::COMMANDS);
    let engine = engine(config.clone());
    let probed = engine.probe().await.unwrap();
    assert_eq!(probed.server, format!("Redis {}, primary", server.info("redis_version")));
    assert_eq!(probed.warnings, [""; 0]);
    assert_eq!(server.cli(&["DBSIZE"]), "0", "nothing is left of the probe");
    let id = id();
    let (fence, now) = engine.lease(&id).await;
    assert!(engine.extend(&id, fence, LEASE).await.unwrap());
    assert!(engine.publish(&id, fence, b"x", now.after(LEASE)).await.unwrap());
    engine.release(&id, fence).await.unwrap();
    assert_eq!(engine.list().await.unwrap().len(), 1);
    engine.balance(&id, Budget { requests: 1, per: LEASE }).await.unwrap();
    // What trims a window.
    server.cli(&["RPUSH", &engine.key(&id, "budget"), "1"]);
    server.cli(&["RPUSH", &engine.key(&id, "budget"), "8000000000000000"]);
    engine.spend(&id, Budget { requests: 1, per: LEASE }).await.unwrap();
    assert_eq!(engine.remove(&[id]).await.unwrap(), 1);

    user("+eval +get");
    let gone = engine.failure().await;
    assert_eq!(gone.kind, StoreErrorKind::Refused, "{gone}");
    assert!(gone.detail.contains("ACL SETUSER") && gone.detail.contains("+hmget"), "{gone}");
    user(&format!("{} resetkeys ~other:*", explain::COMMANDS));
    let gone = engine.failure().await;
    assert!(gone.detail.contains("~PREFIX:*"), "{gone}");
    user(&format!("{} -info", explain::COMMANDS));
    let probed = engine.probe().await.unwrap();
    assert!(
        matches!(&probed.warnings[..], [one] if one.contains("cannot find out what the server is")),
        "{probed:?}"
    );
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_password_that_was_rotated_is_used_without_a_restart() {
    let server = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let set = |password: &str| {
        let mut command = vec!["ACL", "SETUSER", "bearerd", "reset", "on", password, "~bearerd:*"];
        command.extend(explain::COMMANDS.split_whitespace());
        assert_eq!(server.cli(&command), "OK");
        // A server keeps the connections of a user whose password changed.
        server.cli(&["CLIENT", "KILL", "USER", "bearerd"]);
    };
    set(">first");
    let engine = engine(with_user(&server, &folder, "first"));
    engine.try_it().await.unwrap();
    set(">second");
    // The connection that was closed may still look open.
    let refusal = async || engine.try_it().await.err().filter(|gone| gone.kind == StoreErrorKind::Refused);
    let gone = eventually("the refusal", refusal).await;
    assert!(gone.detail.contains("did not accept username and password"), "{gone}");
    file(&folder, "password", "second");
    engine.recover().await;
    let without = RedisConfig { username: None, password: None, ..to(&server) };
    server.cli(&["CONFIG", "SET", "requirepass", "another"]);
    let gone = Redis::new(without, "bearerd", &Handle::current()).failure().await;
    assert!(gone.detail.contains("requires a password"), "{gone}");
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_password_that_the_server_does_not_have() {
    let server = RedisServer::start();
    let config = RedisConfig { password: Some(Source::literal("x")), ..to(&server) };
    let gone = engine(config).failure().await;
    assert!(gone.detail.contains("has no password for its user default"), "{gone}");
    let missing = Source::file("/nowhere/password".into(), None);
    let gone = engine(RedisConfig { password: Some(missing), ..to(&server) }).failure().await;
    assert!(gone.detail.contains("password in [store] cannot be read"), "{gone}");
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_full_server_is_told_and_used_again_when_it_has_room() {
    let server = RedisServer::with("maxmemory 1\n");
    let engine = engine(to(&server));
    let gone = engine.failure().await;
    assert_eq!(gone.kind, StoreErrorKind::Unable, "{gone}");
    assert!(gone.detail.contains("maxmemory"), "{gone}");
    assert_eq!(engine.probe().await.unwrap_err().kind, StoreErrorKind::Unable);
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    engine.try_it().await.unwrap();
    server.cli(&["CONFIG", "SET", "maxmemory", "100mb", "maxmemory-policy", "allkeys-lru"]);
    let warnings = engine.probe().await.unwrap().warnings;
    assert!(matches!(&warnings[..], [one] if one.contains("allkeys-lru")), "{warnings:?}");
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_replica_is_told() {
    let server = RedisServer::start();
    let replica = RedisServer::with(&format!("replicaof 127.0.0.1 {}\n", server.port));
    wait_for("the replica", || replica.info("master_link_status") == "up");
    let engine = engine(to(&replica));
    let gone = engine.failure().await;
    assert_eq!(gone.kind, StoreErrorKind::Unable, "{gone}");
    assert!(gone.detail.contains("is a replica, which is read-only"), "{gone}");
    replica.cli(&["REPLICAOF", "NO", "ONE"]);
    engine.recover().await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_server_that_was_killed_and_starts_empty() {
    let mut server = RedisServer::start();
    let engine = engine(to(&server));
    let id = id();
    let (before, _) = engine.lease(&id).await;
    server.kill();
    assert_eq!(engine.failure().await.kind, StoreErrorKind::Unreachable);
    server.restart();
    engine.recover().await;
    let (after, _) = engine.lease(&id).await;
    assert!(after > before, "{after} after {before}");
    assert!(!engine.publish(&id, before, b"old", FAR).await.unwrap(), "of before the restart");
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_server_that_is_stopped_costs_no_more_than_the_time_that_an_operation_has() {
    let server = RedisServer::start();
    let engine = engine(to(&server));
    let id = id();
    engine.try_it().await.unwrap();
    server.stop();
    for _ in 0..3 {
        assert!(
            timeout(Duration::from_millis(50), engine.claim(&id, fresh())).await.is_err(),
            "it does nothing"
        );
    }
    server.go_on();
    // What it was sent before is done as well, but nobody takes that response for this one's.
    engine.recover().await;
    assert!(matches!(within("a response", engine.claim(&id, fresh())).await, Ok(Claimed::Held { .. })));
}

/// The slot of an entry, and with it the server of a cluster that has it.
fn slot(cluster: &RedisCluster, engine: &Redis, id: &EntryId) -> String {
    let alive = cluster.servers.iter().find(|server| server.is_running()).unwrap();
    alive.cli(&["CLUSTER", "KEYSLOT", &engine.key(id, "token")])
}

fn of_cluster(cluster: &RedisCluster, hosts: usize) -> RedisConfig {
    RedisConfig {
        hosts: cluster.servers.iter().take(hosts).map(|server| tcp(server.port)).collect(),
        mode: RedisMode::Cluster,
        ..single(tcp(0))
    }
}

/// New entries, each with a value.
async fn published(engine: &Redis, count: usize) -> Vec<EntryId> {
    let ids: Vec<EntryId> = std::iter::repeat_with(id).take(count).collect();
    for id in &ids {
        let (fence, _) = engine.lease(id).await;
        assert!(engine.publish(id, fence, b"x", FAR).await.unwrap());
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server"]
async fn a_cluster_of_three() {
    let cluster = RedisCluster::start(false);
    // The others are found by what this one says.
    let engine = engine(of_cluster(&cluster, 1));
    // On a Unix socket `redis-cli` follows nobody, so each server is told.
    let cli = |arguments: &[&str]| cluster.servers.iter().for_each(|server| drop(server.cli(arguments)));
    random_events(20, &engine, &cli);
    engine.probe().await.unwrap();
    let mut ids = published(&engine, 60).await;
    assert!(cluster.servers.iter().all(|server| server.cli(&["DBSIZE"]) != "0"), "each has entries");
    assert_eq!(engine.list().await.unwrap().len(), 60);

    // A slot moves, key by key: first it is asked for (ASK), then it has moved (MOVED).
    let id = ids.pop().unwrap();
    let before = engine.read(&id).await.unwrap().unwrap();
    // An entry that lacks a key cannot be used while its slot moves, so this one gets its lease.
    let claim = Claim { have: before.generation, ..fresh() };
    assert!(matches!(engine.claim(&id, claim).await, Ok(Claimed::Lease { .. })));
    let slot = slot(&cluster, &engine, &id);
    let from = cluster.owner(&slot);
    let to = (from + 1) % 3;
    let (old, new) = (&cluster.servers[from], &cluster.servers[to]);
    let (old_id, new_id) = (old.cli(&["CLUSTER", "MYID"]), new.cli(&["CLUSTER", "MYID"]));
    assert_eq!(new.cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &old_id]), "OK");
    assert_eq!(old.cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &new_id]), "OK");
    let port = new.port.to_string();
    old.cli(&["MIGRATE", "127.0.0.1", &port, &engine.key(&id, "token"), "0", "5000"]);
    // A part of the keys is on its way: nobody can say anything.
    let gone = engine.claim(&id, fresh()).await;
    assert!(gone.as_ref().is_err_and(|gone| gone.kind == StoreErrorKind::Unable), "{gone:?}");
    for what in ["lease", "fence"] {
        old.cli(&["MIGRATE", "127.0.0.1", &port, &engine.key(&id, what), "0", "5000"]);
    }
    assert_eq!(engine.read(&id).await.unwrap().unwrap().sealed, before.sealed, "ASK");
    for server in [new, old] {
        assert_eq!(server.cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &new_id]), "OK");
    }
    assert_eq!(engine.read(&id).await.unwrap().unwrap().generation, before.generation, "MOVED");
    assert_eq!(engine.remove(&[id]).await.unwrap(), 1);

    let one = super::engine(single(tcp(cluster.servers[0].port)));
    let told = eventually("an entry of another server", async || one.try_it().await.err()).await;
    assert!(told.detail.contains("cluster = true"), "{told}");
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_cluster_whose_primary_dies() {
    let mut cluster = RedisCluster::start(true);
    let engine = engine(of_cluster(&cluster, 3));
    let ids = published(&engine, 30).await;
    wait_for("the replicas to have everything", || {
        cluster.servers[..3]
            .iter()
            .zip(&cluster.servers[3..])
            .all(|(one, other)| one.cli(&["DBSIZE"]) == other.cli(&["DBSIZE"]))
    });
    // The first host of the config.
    cluster.servers[0].kill();
    for id in &ids {
        eventually("the replica to take over", async || engine.read(id).await.ok().flatten()).await;
    }
    assert_eq!(engine.list().await.unwrap().len(), 30);
}

fn of_sentinels(sentinels: &RedisSentinels, service: &str) -> RedisConfig {
    RedisConfig {
        hosts: sentinels.sentinels.iter().map(|sentinel| tcp(sentinel.port)).collect(),
        mode: RedisMode::Sentinel { service: service.to_owned() },
        ..single(tcp(0))
    }
}

#[tokio::test]
#[ignore = "needs redis-server, redis-sentinel"]
async fn sentinels_and_a_failover() {
    // The servers have a password, and the Sentinels none.
    let mut sentinels = RedisSentinels::start(
        "requirepass secret\nmasterauth secret\nuser default on >secret ~* &* +@all\n",
        "sentinel auth-pass tokens secret\n",
        Some("secret"),
    );
    let config =
        RedisConfig { password: Some(Source::literal("secret")), ..of_sentinels(&sentinels, "tokens") };
    let engine = engine(config.clone());
    let id = id();
    let (before, _) = engine.lease(&id).await;
    assert!(engine.place().contains("service tokens of the Sentinels at 127.0.0.1:"), "{}", engine.place());
    let gone = Redis::new(of_sentinels(&sentinels, "others"), "bearerd", &Handle::current()).failure().await;
    assert!(gone.detail.contains("knows no service others"), "{gone}");

    // A Sentinel that is gone harms nobody.
    sentinels.sentinels[0].kill();
    Redis::new(config, "bearerd", &Handle::current()).try_it().await.unwrap();
    sentinels.sentinels[0].restart();

    sentinels.primary.kill();
    engine.recover().await;
    assert_eq!(sentinels.replica.info("role"), "master");
    // The failover may have lost what was not replicated, but its clock is no older.
    match engine.claim(&id, fresh()).await.unwrap() {
        Claimed::Held { .. } => {}
        Claimed::Lease { fence, .. } => assert!(fence > before),
        other => panic!("{other:?}"),
    }
}
