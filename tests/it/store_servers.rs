//! Each way to a Redis that `[store]` knows, through the program: TLS, users, sockets, a cluster, Sentinels.

use crate::store_fleet::{CANARY, KEY, Steady, start, start_many, store_is_up, token};
use crate::support::redis::{RedisCluster, RedisSentinels, RedisServer};
use crate::support::tls::{ca, localhost};
use crate::support::{Bearerd, RawResponse, Setup, eventually};

/// What a user of the store needs, as an error of the store names it.
const RIGHTS: &str = "~bearerd:* +eval +get +set +del +hget +hmget +hset +pexpire +pexpireat +pttl +time +llen +lindex +lpop \
     +rpop +rpush +scan +info +ping +select +role +asking +cluster|slots";

/// A scene with these keys of `[store]`, whose issuer grants tokens for so many seconds.
async fn scene(store: &str, seconds: i64) -> Setup {
    let setup = Setup::new().await;
    grant(&setup, "", seconds);
    setup.file("store.key", KEY);
    setup.more(&format!("[store]\nkeys = [{{ file = \"store.key\" }}]\ntimeout = \"1s\"\n{store}\n"))
}

fn grant(setup: &Setup, kind: &'static str, seconds: i64) {
    setup.issuer.always(move |_, n| RawResponse::token_for(&format!("{CANARY}{kind}-{n}"), seconds));
}

async fn all(fleet: &[Bearerd], up: bool) {
    let what = if up { "all to use the store" } else { "all to see that the store is of no use" };
    eventually(what, || async {
        for proxy in fleet {
            if store_is_up(proxy).await != up {
                return None;
            }
        }
        Some(())
    })
    .await;
}

/// Two processes with steady requests, whose tokens are renewed every two seconds. `fails_over` replaces the server that they
/// use; `took_over` says whether another one has the entry.
async fn no_request_is_lost(setup: &Setup, fails_over: impl FnOnce(), took_over: impl Fn() -> bool) {
    let fleet = start_many(setup, 2).await;
    all(&fleet, true).await;
    let steady: Vec<Steady> = fleet.iter().map(Steady::start).collect();
    for requests in &steady {
        requests.more(50).await;
    }
    fails_over();
    eventually("the entry at another server", || async { took_over().then_some(()) }).await;
    let renewed = setup.issuer.count() + 3;
    eventually("renewals", || async { (setup.issuer.count() >= renewed).then_some(()) }).await;
    all(&fleet, true).await;
    for requests in steady {
        requests.end().await;
    }
    share_again(setup, &fleet).await;
}

/// The two have one token, and a third one gets it from the store.
async fn share_again(setup: &Setup, fleet: &[Bearerd]) {
    grant(setup, "-long", 3600);
    let shared = eventually("a token that both have", || async {
        let (one, other) = (token(setup, &fleet[0]).await, token(setup, &fleet[1]).await);
        (one == other && one.contains("long")).then_some(one)
    })
    .await;
    let requests = setup.issuer.count();
    let third = start(setup).await;
    assert_eq!(token(setup, &third).await, shared);
    assert_eq!(setup.issuer.count(), requests);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn tls_with_a_client_certificate_and_a_user_whose_password_is_rotated() {
    let folder = tempfile::tempdir().unwrap();
    let identity = localhost();
    let [certificate, key, authority] =
        [("cert.pem", &identity.certificate_pem), ("key.pem", &identity.key_pem), ("ca.pem", &ca().pem)].map(
            |(name, text)| {
                let path = folder.path().join(name);
                std::fs::write(&path, text).unwrap();
                path
            },
        );
    let redis = RedisServer::with_tls(&certificate, &key, &authority, "tls-auth-clients yes\n");
    let set_password = |password: &str| {
        let password = format!(">{password}");
        let mut command = vec!["ACL", "SETUSER", "replicas", "reset", "on", &password];
        command.extend(RIGHTS.split_whitespace());
        assert_eq!(redis.cli(&command), "OK");
        redis.cli(&["CLIENT", "KILL", "USER", "replicas"]);
    };
    set_password("first");
    let setup = scene(
        &format!(
            "url = \"rediss://localhost:{}\"\nusername = \"replicas\"\npassword = {{ file = \"password\" }}\n\
             tls = {{ ca = {{ file = \"{}\" }}, certificate = {{ file = \"{}\" }}, private_key = {{ file = \"{}\" }} }}",
            redis.port,
            authority.display(),
            certificate.display(),
            key.display()
        ),
        3,
    )
    .await;
    setup.file("password", "first");
    let fleet = start_many(&setup, 2).await;
    all(&fleet, true).await;
    let steady: Vec<Steady> = fleet.iter().map(Steady::start).collect();
    set_password("second");
    all(&fleet, false).await;
    let failed = fleet[0].log().wait("the refusal", |line| line.contains("store.failed")).await;
    assert!(!failed.contains("first"), "{failed}");
    setup.file("password", "second");
    all(&fleet, true).await;
    for requests in steady {
        requests.end().await;
    }
    share_again(&setup, &fleet).await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_unix_socket_and_a_database() {
    let redis = RedisServer::start();
    let setup = scene(&format!("url = \"unix:{}:/5\"", redis.socket().display()), 3600).await;
    let fleet = start_many(&setup, 2).await;
    assert_eq!(token(&setup, &fleet[0]).await, token(&setup, &fleet[1]).await);
    assert_eq!(setup.issuer.count(), 1);
    assert_ne!(redis.cli(&["-n", "5", "DBSIZE"]), "0");
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_primary_of_a_cluster_dies_under_steady_requests() {
    let mut cluster = RedisCluster::start(true);
    let ports: Vec<String> =
        cluster.servers[..3].iter().map(|server| format!("\"redis://127.0.0.1:{}\"", server.port)).collect();
    let setup = scene(&format!("urls = [{}]\ncluster = true", ports.join(", ")), 3).await;
    let holds_it = |server: &RedisServer| server.cli(&["--scan"]).contains("}:token");
    let (primaries, replicas) = cluster.servers.split_at_mut(3);
    let has_it = std::cell::Cell::new(0);
    no_request_is_lost(
        &setup,
        || {
            has_it.set(primaries.iter().position(holds_it).expect("one has the entry"));
            primaries[has_it.get()].kill();
        },
        || {
            let replica = &replicas[has_it.get()];
            replica.info("role") == "master" && holds_it(replica)
        },
    )
    .await;
}

#[tokio::test]
#[ignore = "needs redis-server, redis-sentinel"]
async fn sentinels_fail_over_under_steady_requests() {
    let mut sentinels = RedisSentinels::start("", "", None);
    let ports: Vec<String> = sentinels
        .sentinels
        .iter()
        .map(|sentinel| format!("\"redis://127.0.0.1:{}\"", sentinel.port))
        .collect();
    let setup = scene(&format!("urls = [{}]\nsentinel = \"tokens\"", ports.join(", ")), 3).await;
    let RedisSentinels { primary, replica, .. } = &mut sentinels;
    let took_over = || replica.info("role") == "master" && replica.cli(&["--scan"]).contains("}:token");
    no_request_is_lost(&setup, || primary.kill(), took_over).await;
}
