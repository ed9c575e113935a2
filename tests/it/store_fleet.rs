//! Processes that share tokens by a real Redis.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::Signal;
use tokio::io::AsyncWriteExt as _;
use tokio::task::{JoinHandle, JoinSet};

use crate::support::cli::run;
use crate::support::redis::RedisServer;
use crate::support::setup::SECRET;
use crate::support::{Bearerd, Gate, RawRequest, RawResponse, Setup, World, eventually};

pub const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const OTHER_KEY: &str = "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
pub const CANARY: &str = "canary-of-the-shared-token";

/// A scene whose issuer grants `CANARY-1`, `CANARY-2` … for so many seconds each.
async fn scene(redis: &RedisServer, seconds: i64) -> Setup {
    let setup = Setup::new().await;
    setup.issuer.always(move |_, n| RawResponse::token_for(&format!("{CANARY}-{n}"), seconds));
    setup.file("store.key", KEY);
    setup.more(&format!(
        "[store]\nurl = \"redis://127.0.0.1:{}\"\nkeys = [{{ file = \"store.key\" }}]\ntimeout = \"1s\"\n",
        redis.port
    ))
}

pub async fn start(setup: &Setup) -> Bearerd {
    setup.write();
    Bearerd::start(setup.shared_folder(), &[]).await
}

pub async fn start_many(setup: &Setup, count: usize) -> Vec<Bearerd> {
    setup.write();
    futures_util::future::join_all((0..count).map(|_| Bearerd::start(setup.shared_folder(), &[]))).await
}

/// The token that a request through this process carries. The request is served.
pub async fn token(setup: &Setup, proxy: &Bearerd) -> String {
    let target = format!("/{:016x}", fastrand::u64(..));
    proxy.get(&target).await.expect_status(200);
    let requests = setup.upstream.requests();
    let request = requests.iter().rev().find(|request| request.target() == target).unwrap();
    request.bearer().unwrap().to_owned()
}

/// How the store of this process is, by its metric.
pub async fn store_is_up(proxy: &Bearerd) -> bool {
    proxy.metric("bearerd_store_up", &[]).await == Some(1.0)
}

async fn published(redis: &RedisServer) {
    eventually("an entry in the store", || async {
        redis.cli(&["--scan", "--pattern", "*:token"]).contains("token").then_some(())
    })
    .await;
}

/// The verbs and `check --online` with a server; `store_folder` has the rest of what they do.
#[tokio::test]
#[ignore = "needs redis-server"]
async fn operators_see_what_a_server_holds_and_what_is_wrong_with_it() {
    let mut redis = RedisServer::start();
    let setup = scene(&redis, 3600).await;
    let proxy = start(&setup).await;
    token(&setup, &proxy).await;
    published(&redis).await;
    let listed = run(setup.folder(), &["store", "ls", "--output", "json"]).await;
    listed.expect_code(0);
    assert!(!listed.all().contains(CANARY), "{}", listed.all());
    let listed = listed.json();
    let shared = proxy.status().await["tokens"][0]["shared"].clone();
    let shown = &listed["tokens"][0];
    assert_eq!(
        (&shown["stored"], &shown["readable"], &shown["key"]),
        (&true.into(), &true.into(), &0.into())
    );
    assert_eq!((&shown["generation"], &shown["by"]), (&shared["generation"], &shared["by"]));
    assert_eq!(listed["other_entries"], 0);
    let dropped = run(setup.folder(), &["store", "drop", "corp", "--output", "json"]).await;
    assert_eq!(dropped.json()["removed"], 1);
    let listed = run(setup.folder(), &["store", "ls", "--output", "json"]).await.json();
    assert_eq!(listed["tokens"][0]["stored"], false);

    let online = run(setup.folder(), &["check", "--online"]).await;
    online.expect_code(0);
    assert!(online.stdout.contains(": ok\n  works        "), "{}", online.stdout);
    let report = run(setup.folder(), &["check", "--online", "--output", "json"]).await.json();
    assert_eq!((&report["ok"], &report["store"]["ok"]), (&true.into(), &true.into()), "{report}");
    assert!(report["store"]["server"].as_str().unwrap().contains(", primary"), "{report}");
    redis.kill();
    for (args, code) in
        [(&["store", "ls"][..], 1), (&["store", "drop", "corp"], 1), (&["check", "--online"], 0)]
    {
        let output = run(setup.folder(), args).await;
        output.expect_code(code);
        assert!(output.all().contains(&redis.port.to_string()), "{}", output.all());
    }
}

/// Everything that the server is told.
struct Monitor {
    child: std::process::Child,
    output: tempfile::NamedTempFile,
}

impl Monitor {
    fn start(redis: &RedisServer) -> Self {
        let output = tempfile::NamedTempFile::new().unwrap();
        let mut command = std::process::Command::new("redis-cli");
        command.arg("-s").arg(redis.socket()).arg("MONITOR").stdout(output.reopen().unwrap());
        Self { child: command.spawn().unwrap(), output }
    }

    fn text(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        String::from_utf8_lossy(&std::fs::read(self.output.path()).unwrap()).into_owned()
    }
}

async fn take_port(port: u16) -> tokio::net::TcpListener {
    eventually("the port of the server", || async {
        tokio::net::TcpListener::bind(("127.0.0.1", port)).await.ok()
    })
    .await
}

/// Requests without a pause, until it is ended.
pub struct Steady {
    ending: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    task: JoinHandle<Vec<String>>,
}

impl Steady {
    pub fn start(proxy: &Bearerd) -> Self {
        let (ending, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (until, count, address) = (Arc::clone(&ending), Arc::clone(&served), proxy.address("main"));
        let task = tokio::spawn(async move {
            let mut lost = Vec::new();
            while !until.load(Ordering::SeqCst) {
                let mut client = crate::support::Client::tcp(address).await;
                let response = client.exchange(&RawRequest::get("/steady")).await;
                if response.status != 200 {
                    lost.push(response.text());
                }
                count.fetch_add(1, Ordering::SeqCst);
            }
            lost
        });
        Self { ending, served, task }
    }

    /// Waits for so many more requests.
    pub async fn more(&self, requests: usize) {
        let wanted = self.served.load(Ordering::SeqCst) + requests;
        eventually("more requests", || async {
            (self.served.load(Ordering::SeqCst) >= wanted).then_some(())
        })
        .await;
    }

    pub async fn end(self) {
        self.ending.store(true, Ordering::SeqCst);
        let lost = self.task.await.unwrap();
        assert!(lost.is_empty(), "{} lost: {}", lost.len(), lost[0]);
    }
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn fifty_processes_that_start_together_make_one_token_request() {
    let redis = RedisServer::start();
    let setup = scene(&redis, 3600).await;
    let watched = Monitor::start(&redis);
    let fleet = start_many(&setup, 50).await;
    for proxy in &fleet {
        proxy.ready().await;
        assert_eq!(token(&setup, proxy).await, format!("{CANARY}-1"));
    }
    assert_eq!(setup.issuer.count(), 1);
    // Nothing of it can be read in the store.
    published(&redis).await;
    let mut all = watched.text();
    for key in redis.cli(&["--scan"]).lines() {
        all.push_str(key);
        all.push_str(&redis.cli(&["HGETALL", key]));
        all.push_str(&redis.cli(&["GET", key]));
    }
    assert!(all.contains(":token") && all.contains("EVAL"), "{all}");
    let (host, _) =
        setup.issuer.url.trim_start_matches("http://").split_once('/').unwrap_or((&setup.issuer.url, ""));
    for canary in [CANARY, SECRET, "client-1", "corp", KEY, host] {
        assert!(!all.contains(canary), "{canary} in {all}");
    }
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_renewal_is_one_request_for_all() {
    let redis = RedisServer::start();
    let setup = scene(&redis, 6).await;
    let fleet = start_many(&setup, 5).await;
    let steady: Vec<Steady> = fleet.iter().map(Steady::start).collect();
    eventually("four renewals", || async { (setup.issuer.count() >= 5).then_some(()) }).await;
    for requests in steady {
        requests.end().await;
    }
    // At 80 % of 6 s, each renewal comes after 4.2 s at the earliest; five processes of their own would make 25 requests.
    assert!(setup.issuer.count() <= 6, "{}", setup.issuer.count());
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_refused_token_is_replaced_once_for_all_and_each_request_is_replayed() {
    let redis = RedisServer::start();
    let setup = scene(&redis, 3600).await;
    let fleet = start_many(&setup, 8).await;
    for proxy in &fleet {
        token(&setup, proxy).await;
    }
    published(&redis).await;
    setup.upstream.always(|request, _| {
        let refused = request.bearer() == Some(&format!("{CANARY}-1"));
        if refused { RawResponse::unauthorized() } else { RawResponse::ok("fine") }
    });
    let mut all = JoinSet::new();
    for proxy in &fleet {
        let address = proxy.address("main");
        all.spawn(async move {
            crate::support::Client::tcp(address).await.exchange(&RawRequest::get("/replayed")).await.status
        });
    }
    assert_eq!(all.join_all().await, [200; 8]);
    assert_eq!(setup.issuer.count(), 2);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_process_that_was_stopped_past_its_lease_does_not_overwrite_a_newer_token() {
    let redis = RedisServer::start();
    let setup = scene(&redis, 3600).await;
    let gate = Gate::new();
    let held = gate.clone();
    setup.issuer.always(move |_, n| {
        let response = RawResponse::token_for(&format!("{CANARY}-{n}"), 3600);
        if n == 1 { response.gated(&held) } else { response }
    });
    let stopped = start(&setup).await;
    eventually("the first token request", || async { (setup.issuer.count() == 1).then_some(()) }).await;
    stopped.signal(Signal::STOP);
    let other = start(&setup).await;
    assert_eq!(token(&setup, &other).await, format!("{CANARY}-2"));
    published(&redis).await;
    gate.open();
    stopped.signal(Signal::CONT);
    assert_eq!(token(&setup, &stopped).await, format!("{CANARY}-1"), "it is valid too");
    eventually("the stopped one to lose", || async {
        stopped
            .metric("bearerd_store_operations_total", &[("operation", "publish"), ("outcome", "superseded")])
            .await
            .filter(|lost| *lost == 1.0)
    })
    .await;
    let third = start(&setup).await;
    assert_eq!(token(&setup, &third).await, format!("{CANARY}-2"));
    assert_eq!(setup.issuer.count(), 2);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn other_secrets_and_other_keys_share_nothing_and_rotated_keys_lose_no_token() {
    let redis = RedisServer::start();
    let setup = scene(&redis, 3600).await;
    let first = start(&setup).await;
    assert_eq!(token(&setup, &first).await, format!("{CANARY}-1"));
    published(&redis).await;
    setup.file("secret", "another-secret");
    let other_secret = start(&setup).await;
    assert_eq!(token(&setup, &other_secret).await, format!("{CANARY}-2"));
    setup.file("secret", SECRET);
    setup.file("store.key", OTHER_KEY);
    let other_key = start(&setup).await;
    assert_eq!(token(&setup, &other_key).await, format!("{CANARY}-3"));
    // The new key stands first, and the old one is still known.
    redis.cli(&["FLUSHALL"]);
    setup.file("store.key", KEY);
    let before = start(&setup).await;
    let held = token(&setup, &before).await;
    published(&redis).await;
    setup.file("new.key", OTHER_KEY);
    let text = setup
        .config()
        .replace("[{ file = \"store.key\" }]", "[{ file = \"new.key\" }, { file = \"store.key\" }]");
    let setup = setup.whole(&text);
    let rotated = start(&setup).await;
    assert_eq!(token(&setup, &rotated).await, held);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn whatever_happens_to_the_store_no_request_is_lost() {
    let mut redis = RedisServer::start();
    // Renewed every two seconds, so that each fault meets renewals.
    let setup = scene(&redis, 3).await;
    let fleet = start_many(&setup, 2).await;
    let steady: Vec<Steady> = fleet.iter().map(Steady::start).collect();
    let renewed = async |times: usize| {
        let wanted = setup.issuer.count() + times;
        eventually("renewals", || async { (setup.issuer.count() >= wanted).then_some(()) }).await;
        for requests in &steady {
            requests.more(50).await;
        }
    };
    let down = async || {
        eventually("both to see that the store is of no use", || async {
            (!store_is_up(&fleet[0]).await && !store_is_up(&fleet[1]).await).then_some(())
        })
        .await;
    };
    let up = async || {
        eventually("both to use the store again", || async {
            (store_is_up(&fleet[0]).await && store_is_up(&fleet[1]).await).then_some(())
        })
        .await;
    };
    renewed(1).await;
    up().await;

    redis.kill();
    down().await;
    renewed(2).await;
    redis.restart();
    up().await;

    redis.stop();
    down().await;
    renewed(2).await;
    redis.go_on();
    up().await;

    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    down().await;
    renewed(2).await;
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    up().await;

    redis.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    down().await;
    renewed(2).await;
    redis.cli(&["REPLICAOF", "NO", "ONE"]);
    up().await;

    redis.cli(&["FLUSHALL"]);
    renewed(2).await;
    up().await;

    for rubbish in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"$5\r\nhel", b"*99999999\r\n$9", b"\0\0\0\0"] {
        redis.kill();
        let listener = take_port(redis.port).await;
        let server = tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let _ = connection.write_all(rubbish).await;
            }
        });
        down().await;
        renewed(1).await;
        server.abort();
        let _ = server.await;
        redis.restart();
        up().await;
    }
    for requests in steady {
        requests.end().await;
    }
    for proxy in &fleet {
        proxy.log().wait("the failure", |line| line.contains("store.failed")).await;
        proxy.log().wait("that it works again", |line| line.contains("store.recovered")).await;
    }
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_replica_that_dies_during_its_token_request_holds_nobody_up_for_long() {
    let redis = RedisServer::start();
    let setup = scene(&redis, 3600).await;
    setup.issuer.next(RawResponse::hang());
    let dying = start(&setup).await;
    eventually("the first token request", || async { (setup.issuer.count() == 1).then_some(()) }).await;
    dying.signal(Signal::KILL);
    let next = start(&setup).await;
    assert_eq!(token(&setup, &next).await, format!("{CANARY}-2"));
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_reload_changes_the_store() {
    let (one, two) = (RedisServer::start(), RedisServer::start());
    let mut world: World = scene(&one, 3).await.start().await;
    world.get("/").await.expect_status(200);
    published(&one).await;
    let (from, to) = (format!(":{}", one.port), format!(":{}", two.port));
    world.change(|text| text.replace(&from, &to));
    world.reload().await;
    drop(one);
    eventually("an entry in the other store", || async {
        world.get("/").await.expect_status(200);
        two.cli(&["--scan"]).contains(":token").then_some(())
    })
    .await;
    assert!(store_is_up(&world).await);
}
