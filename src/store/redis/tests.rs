//! The engine with scripted servers. [`real`] has real ones.

#[allow(unreachable_pub, clippy::disallowed_methods, reason = "it is for all kinds of tests")]
#[path = "../../../tests/it/support/blocking.rs"]
mod blocking;
mod real;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::config::{RedisMode, Source};
use crate::store::tests::{eventually, within};

const LEASE: Duration = Duration::from_secs(3600);

fn tcp(port: u16) -> StoreHost {
    StoreHost::Tcp { host: "127.0.0.1".to_owned(), port }
}

fn single(host: StoreHost) -> RedisConfig {
    RedisConfig {
        hosts: vec![host],
        tls: None,
        mode: RedisMode::Single,
        username: None,
        password: None,
        database: 0,
    }
}

fn engine(config: RedisConfig) -> Redis {
    Redis::new(config, "bearerd", &Handle::current())
}

/// An ID that no other test has.
fn id() -> EntryId {
    EntryId(format!("{:016x}{:016x}{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..), 0, 0).into())
}

fn fresh() -> Claim {
    Claim { have: 0, refused: false, lease: LEASE }
}

impl Redis {
    /// A claim of a new entry.
    async fn try_it(&self) -> Result<Claimed, StoreError> {
        within("a response", self.claim(&id(), fresh())).await
    }

    async fn failure(&self) -> StoreError {
        self.try_it().await.expect_err("the store is unavailable")
    }

    /// Until the engine works. A failure that nobody had heard of, and a connection that was lost, cost an operation each.
    #[allow(clippy::print_stderr, reason = "a test that fails shows it")]
    async fn recover(&self) -> Claimed {
        eventually("the engine to work", async || {
            self.try_it().await.inspect_err(|gone| eprintln!("{gone}")).ok()
        })
        .await
    }

    /// The lease of an entry that nobody has: its fencing number and the store's time.
    async fn lease(&self, id: &EntryId) -> (u64, StoreTime) {
        match self.claim(id, fresh()).await.unwrap() {
            Claimed::Lease { fence, now } => (fence, now),
            other => panic!("{other:?}"),
        }
    }
}

/// A server that does with each connection what the test says.
struct Peer {
    port: u16,
    connections: Arc<AtomicUsize>,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

impl Peer {
    async fn start<F>(serve: impl Fn(TcpStream, usize) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            let mut served = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                served.spawn(serve(stream, count.fetch_add(1, Ordering::SeqCst)));
            }
        });
        Self { port, connections, _task: tokio_util::task::AbortOnDropHandle::new(task) }
    }

    /// Sends the same to each command, and reads until the other side closes.
    async fn responding(response: impl Into<Vec<u8>>) -> Self {
        let response = Arc::new(response.into());
        Self::start(move |mut stream, _| {
            let response = Arc::clone(&response);
            async move {
                let mut buffer = [0; 8192];
                while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                    if stream.write_all(&response).await.is_err() {
                        break;
                    }
                }
            }
        })
        .await
    }

    fn engine(&self) -> Redis {
        engine(single(tcp(self.port)))
    }

    fn engine_with_password(&self) -> Redis {
        engine(RedisConfig { password: Some(Source::literal("x")), ..single(tcp(self.port)) })
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn reads(stream: &mut TcpStream) {
    assert!(stream.read(&mut [0; 8192]).await.unwrap() > 0);
}

const A_LEASE: &str = "*3\r\n$5\r\nlease\r\n:7\r\n:7\r\n";

/// Accepts the password, and then grants a lease.
async fn accepts(stream: &mut TcpStream) {
    stream.write_all(b"+OK\r\n").await.unwrap();
    reads(stream).await;
    stream.write_all(A_LEASE.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn each_error_of_a_server_says_what_to_do() {
    for (response, kind, words) in [
        ("-NOAUTH Authentication required.", StoreErrorKind::Refused, "set password in [store]"),
        ("-NOPERM this user has no permissions to run the 'eval' command", StoreErrorKind::Refused, "+eval"),
        ("-DENIED Redis is running in protected mode because", StoreErrorKind::Refused, "protected mode"),
        (
            "-OOM command not allowed when used memory > 'maxmemory'.",
            StoreErrorKind::Unable,
            "raise maxmemory",
        ),
        ("-READONLY You can't write against a read only replica.", StoreErrorKind::Unable, "to the primary"),
        ("-LOADING Redis is loading the dataset in memory", StoreErrorKind::Unable, "still loading"),
        ("-MASTERDOWN Link with MASTER is down", StoreErrorKind::Unable, "MASTERDOWN Link with MASTER"),
        ("-MISCONF Redis is configured to save RDB snapshots", StoreErrorKind::Unable, "MISCONF Redis is"),
        ("-CLUSTERDOWN Hash slot not served", StoreErrorKind::Unable, "CLUSTERDOWN Hash slot"),
        ("-MOVED 1 127.0.0.1:1", StoreErrorKind::Invalid, "cluster = true"),
        ("-CROSSSLOT Keys in request don't hash to the same slot", StoreErrorKind::Invalid, "hash tags"),
        ("-WRONGTYPE Operation against a key", StoreErrorKind::Invalid, "another prefix"),
        ("-ERR max number of clients reached", StoreErrorKind::Unable, "maxclients"),
        ("-ERR unknown command 'EVAL', with args", StoreErrorKind::Invalid, "Redis 5 or later"),
        ("-ERR something\u{7} else", StoreErrorKind::Invalid, "ERR something  else"),
        ("$-1", StoreErrorKind::Invalid, "sent an unexpected response"),
        ("*2\r\n$5\r\nentry\r\n:1", StoreErrorKind::Invalid, "sent an unexpected response"),
        ("HTTP/1.1 400 Bad Request", StoreErrorKind::Invalid, "does not respond as Redis does"),
    ] {
        let peer = Peer::responding(format!("{response}\r\n")).await;
        let gone = peer.engine().failure().await;
        assert_eq!(gone.kind, kind, "{response}: {gone}");
        assert!(gone.detail.contains(words), "{response}: {gone}");
        assert!(gone.detail.contains(&format!("127.0.0.1:{}", peer.port)), "{response}: {gone}");
    }
}

#[tokio::test]
async fn what_a_server_says_about_a_password_is_not_shown() {
    for response in [
        "-ERR unknown command 'AUTH', with args beginning with: 'the-user' 'the-password'",
        "-the-password",
        "-WRONGPASS the-password",
        "-THE the-password",
        "+the-password\r\n-the-password",
    ] {
        let peer = Peer::responding(format!("{response}\r\n")).await;
        let config = RedisConfig {
            username: Some(Source::literal("the-user")),
            password: Some(Source::literal("the-password")),
            ..single(tcp(peer.port))
        };
        let gone = engine(config).failure().await;
        assert!(!gone.detail.contains("the-"), "{gone}");
    }
}

#[tokio::test]
async fn a_server_without_the_database_says_so() {
    let peer = Peer::responding("-ERR DB index is out of range\r\n").await;
    let gone = engine(RedisConfig { database: 99, ..single(tcp(peer.port)) }).failure().await;
    assert!(gone.detail.contains("does not have the database"), "{gone}");
}

#[tokio::test]
async fn nobody_there_is_told() {
    let port = blocking::nobody().port();
    let gone = engine(single(tcp(port))).failure().await;
    assert_eq!(gone.kind, StoreErrorKind::Unreachable, "{gone}");
    assert!(gone.detail.contains(&format!("127.0.0.1:{port}")), "{gone}");
    let gone = engine(single(StoreHost::Unix("/nowhere/redis.sock".into()))).failure().await;
    assert!(gone.detail.contains("unix:/nowhere/redis.sock"), "{gone}");
}

#[tokio::test]
async fn a_connection_that_is_cut_in_the_middle_of_a_response_is_replaced() {
    let peer = Peer::start(|mut stream, n| async move {
        reads(&mut stream).await;
        if n == 0 {
            stream.write_all(&A_LEASE.as_bytes()[..15]).await.unwrap();
            return;
        }
        stream.write_all(A_LEASE.as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let engine = peer.engine();
    let gone = engine.failure().await;
    assert_eq!(gone.kind, StoreErrorKind::Unreachable, "{gone}");
    assert!(gone.detail.contains("closed the connection"), "{gone}");
    assert_eq!(engine.try_it().await, Ok(Claimed::Lease { fence: 7, now: StoreTime(7) }));
}

#[tokio::test]
async fn a_late_response_is_not_taken_for_that_of_another_operation() {
    let (late, mut asked) = tokio::sync::mpsc::unbounded_channel();
    let peer = Peer::start(move |mut stream, n| {
        let late = late.clone();
        async move {
            reads(&mut stream).await;
            if n == 0 {
                late.send(()).unwrap();
                // Its operation is over when this arrives, if it does.
                tokio::time::sleep(Duration::from_millis(300)).await;
                let _ = stream.write_all(b"*3\r\n$5\r\nlease\r\n:1\r\n:1\r\n").await;
            } else {
                stream.write_all(A_LEASE.as_bytes()).await.unwrap();
            }
            std::future::pending::<()>().await;
        }
    })
    .await;
    let engine = peer.engine();
    let (one, two) = (id(), id());
    tokio::select! {
        _ = engine.claim(&one, fresh()) => panic!("nothing has responded"),
        _ = asked.recv() => {}
    }
    assert_eq!(
        within("a response", engine.claim(&two, fresh())).await,
        Ok(Claimed::Lease { fence: 7, now: StoreTime(7) })
    );
    assert_eq!(peer.connections(), 2, "the connection is not used again");
}

#[tokio::test]
async fn connecting_continues_when_an_operation_has_given_up() {
    let (go_on, waiting) = tokio::sync::watch::channel(false);
    let peer = Peer::start(move |mut stream, _| {
        let mut waiting = waiting.clone();
        async move {
            reads(&mut stream).await;
            waiting.wait_for(|go_on| *go_on).await.unwrap();
            accepts(&mut stream).await;
            std::future::pending::<()>().await;
        }
    })
    .await;
    let engine = peer.engine_with_password();
    for _ in 0..3 {
        let given_up = timeout(Duration::from_millis(20), engine.claim(&id(), fresh())).await;
        assert!(given_up.is_err(), "nothing has responded");
    }
    go_on.send(true).unwrap();
    engine.try_it().await.unwrap();
    assert_eq!(peer.connections(), 1);
}

#[tokio::test]
async fn a_server_that_accepts_and_is_silent_is_given_up() {
    let (asked, mut was_asked) = tokio::sync::mpsc::unbounded_channel();
    let peer = Peer::start(move |mut stream, _| {
        let asked = asked.clone();
        async move {
            reads(&mut stream).await;
            asked.send(()).unwrap();
            std::future::pending::<()>().await;
        }
    })
    .await;
    let engine = peer.engine_with_password();
    within("the password", was_asked.recv()).await;
    // From here on nothing but time passes.
    tokio::time::pause();
    let gone = engine.failure().await;
    assert_eq!(gone.kind, StoreErrorKind::Timeout, "{gone}");
    assert!(gone.detail.contains("did not respond within 5s"), "{gone}");
}

#[tokio::test]
async fn a_failure_that_nobody_waited_for_is_told_to_the_next_operation() {
    let (go_on, waiting) = tokio::sync::watch::channel(false);
    let peer = Peer::start(move |mut stream, n| {
        let mut waiting = waiting.clone();
        async move {
            reads(&mut stream).await;
            if n == 0 {
                waiting.wait_for(|go_on| *go_on).await.unwrap();
                stream.write_all(b"-WRONGPASS no\r\n").await.unwrap();
            } else {
                accepts(&mut stream).await;
            }
            std::future::pending::<()>().await;
        }
    })
    .await;
    let engine = peer.engine_with_password();
    assert!(timeout(Duration::from_millis(20), engine.claim(&id(), fresh())).await.is_err());
    go_on.send(true).unwrap();
    let Servers::One(line) = &*engine.servers else { unreachable!() };
    eventually("the failure", async || (!line.is_connecting()).then_some(())).await;
    assert_eq!(engine.failure().await.kind, StoreErrorKind::Refused);
    engine.try_it().await.unwrap();
    assert_eq!(peer.connections(), 2, "the second connection was begun with the first failure");
}

#[tokio::test]
async fn a_response_without_end_is_cut_off() {
    for beginning in ["$9000000000000000000\r\n", "*9000000000000000000\r\n", "+", "*1\r\n*9000000\r\n$5\r\n"]
    {
        let received = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&received);
        let peer = Peer::start(move |mut stream, _| {
            let count = Arc::clone(&count);
            async move {
                reads(&mut stream).await;
                stream.write_all(beginning.as_bytes()).await.unwrap();
                let endless =
                    "x".repeat(if beginning.starts_with('*') { 0 } else { 4096 }) + &":1\r\n".repeat(1024);
                while stream.write_all(endless.as_bytes()).await.is_ok() {
                    count.fetch_add(endless.len(), Ordering::SeqCst);
                    assert!(count.load(Ordering::SeqCst) < 64 << 20, "{beginning:?}");
                }
            }
        })
        .await;
        let engine = peer.engine();
        let gone = engine.failure().await;
        assert!(matches!(gone.kind, StoreErrorKind::Invalid | StoreErrorKind::Unreachable), "{gone}");
    }
}

#[tokio::test]
async fn a_server_that_sends_unasked_is_cut_off() {
    let (closed, mut is_closed) = tokio::sync::mpsc::unbounded_channel();
    let peer = Peer::start(move |mut stream, _| {
        let closed = closed.clone();
        async move {
            let endless = "+PONG\r\n".repeat(1024);
            while stream.write_all(endless.as_bytes()).await.is_ok() {}
            let _ = closed.send(());
        }
    })
    .await;
    let _engine = peer.engine();
    within("the end of the connection", is_closed.recv()).await;
}

#[tokio::test]
async fn a_response_that_is_nested_deeply_harms_nobody() {
    let peer = Peer::responding("*1\r\n".repeat(100_000)).await;
    assert_eq!(peer.engine().failure().await.kind, StoreErrorKind::Invalid);
}

#[tokio::test]
async fn a_thousand_operations_at_once_share_a_connection() {
    let large = format!("*4\r\n$5\r\nentry\r\n:7\r\n${}\r\n{}\r\n:1000\r\n", 20_000, "x".repeat(20_000));
    let peer = Peer::start(move |mut stream, _| {
        let large = large.clone();
        async move {
            let mut received = Vec::new();
            let mut buffer = vec![0; 65536];
            while let Ok(read) = stream.read(&mut buffer).await
                && read > 0
            {
                received.extend_from_slice(&buffer[..read]);
                // Each command ends with the fourth argument.
                while let Some(at) = received.windows(10).position(|part| part == b"90000000\r\n") {
                    received.drain(..at + 10);
                    stream.write_all(large.as_bytes()).await.unwrap();
                }
            }
        }
    })
    .await;
    let engine = Arc::new(peer.engine());
    let mut claims = JoinSet::new();
    for _ in 0..1000 {
        let engine = Arc::clone(&engine);
        claims.spawn(async move { engine.try_it().await });
    }
    for claimed in claims.join_all().await {
        assert!(matches!(claimed, Ok(Claimed::Entry(entry)) if entry.sealed.len() == 20_000));
    }
    assert_eq!(peer.connections(), 1);
}

#[test]
fn a_prefix_is_no_pattern() {
    assert_eq!(literally(r"a*b?[c]\d"), r"a\*b\?\[c\]\\d");
}

#[test]
fn policies_that_may_drop_leases_are_told() {
    let about = |info: &str| about(Duration::ZERO, &Info(info));
    let fine =
        about("redis_version:7.0.15\r\nrole:master\r\nmaxmemory:100\r\nmaxmemory_policy:noeviction\r\n");
    assert_eq!((fine.server.as_str(), fine.warnings.as_slice()), ("Redis 7.0.15, primary", &[][..]));
    for policy in ["allkeys-lru", "volatile-ttl", "volatile-lru"] {
        let told = about(&format!(
            "redis_version:7.0.15\r\nrole:master\r\nmaxmemory:100\r\nmaxmemory_policy:{policy}\r\n"
        ));
        assert!(
            matches!(&told.warnings[..], [one] if one.contains(policy) && one.starts_with("when")),
            "{told:?}"
        );
    }
    let unlimited = about(
        "redis_version:7.2.4\r\nvalkey_version:8.0.1\r\nrole:master\r\nmaxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n",
    );
    assert!(unlimited.warnings[0].contains("removes nothing yet"), "{unlimited:?}");
    assert_eq!(unlimited.server, "Valkey 8.0.1, primary");
    let old = about("redis_version:4.0.9\r\nrole:slave\r\n");
    assert_eq!(old.warnings.len(), 2, "{old:?}");
}
