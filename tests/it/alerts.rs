//! Each alert of `deploy/monitoring/alerts.yaml` is raised: a real Prometheus with these rules scrapes programs that are
//! broken in every way that the rules know, and one that is well.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use tokio::task::JoinSet;

use crate::support::prometheus::Prometheus;
use crate::support::tls::ca;
use crate::support::{
    Client, RawRequest, RawResponse, Setup, World, cli, eventually, let_pass, nobody, wait_at_most,
};

const RULES: &str = include_str!("../../deploy/monitoring/alerts.yaml");

/// Upstreams that refuse tokens take longest: a new one is only dropped after ten seconds.
const PATIENCE: Duration = Duration::from_secs(90);

/// Longer than the slowest response that is still fine.
const SLOW: Duration = Duration::from_millis(5500);

/// Which program is broken so that this alert is due.
const DUE: [(&str, &str); 27] = [
    ("BearerdAbsent", ""),
    ("BearerdDown", "gone"),
    ("BearerdRestarts", "restarting"),
    ("BearerdNotReady", "broken"),
    ("BearerdNoToken", "broken"),
    ("BearerdTokenExpiring", "broken"),
    ("BearerdRenewalFails", "broken"),
    ("BearerdClientRefused", "broken"),
    ("BearerdTokenRequestRefused", "broken"),
    ("BearerdIssuerThrottles", "broken"),
    ("BearerdTokenBudgetLow", "broken"),
    ("BearerdIssuerUnreachable", "broken"),
    ("BearerdCredentialUnreadable", "broken"),
    ("BearerdUpstreamRefusesTokens", "broken"),
    ("BearerdUpstreamFails", "broken"),
    ("BearerdErrors", "broken"),
    ("BearerdSlow", "broken"),
    ("BearerdInternalError", "broken"),
    ("BearerdRequestsUnrouted", "broken"),
    ("BearerdStoreDown", "broken"),
    ("BearerdRequestsWait", "waiting"),
    ("BearerdOverloaded", "waiting"),
    ("BearerdConnectionsNearLimit", "full"),
    ("BearerdFilesNearLimit", "full"),
    ("BearerdReloadFailed", "full"),
    ("BearerdCertificateExpires", "full"),
    ("BearerdLogLinesDropped", "mute"),
];

/// The same rules, without the patience that real life asks for.
fn hasty() -> String {
    let mut rules = RULES.to_owned();
    for range in ["[5m]", "[10m]", "[15m]"] {
        rules = rules.replace(range, "[1m]");
    }
    let line = |line: &str| match line.split_once("for: ") {
        Some((indent, _)) if indent.trim().is_empty() => format!("{indent}for: 0s\n"),
        _ => format!("{line}\n"),
    };
    rules.lines().map(line).collect()
}

#[test]
fn each_alert_has_its_scene() {
    let named: BTreeSet<&str> =
        RULES.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let due: BTreeSet<&str> = DUE.iter().map(|(alert, _)| *alert).collect();
    assert_eq!(named, due);
    let hasty = hasty();
    assert_eq!(hasty.matches("for: 0s").count(), DUE.len());
    for range in hasty.split('[').skip(1).filter_map(|rest| rest.split(']').next()) {
        assert!(range == "1m" || !range.ends_with('m'), "[{range}] is not shortened");
    }
}

#[tokio::test]
#[ignore = "needs prometheus"]
async fn each_alert_is_raised_where_it_is_due_and_none_where_all_is_well() {
    let prometheus = Prometheus::start(&hasty()).await;
    let mut raised = Raised::default();
    raised.until(&prometheus, |raised| raised.has("BearerdAbsent", "")).await;

    let mut requests = JoinSet::new();
    let store = "[store]\npath = \"tokens\"\nkeys = [{ file = \"store.key\" }]\ntimeout = \"5s\"\n";
    let well = Setup::new().await.more(store);
    well.file("store.key", "00".repeat(32));
    let well = well.start().await;
    keep_sending(&mut requests, &well, &["/"]);
    let mut broken = broken().await;
    let waiting = waiting(&mut requests).await;
    let full = full().await;
    keep_sending(&mut requests, &broken.world, &BROKEN);
    let admin = |world: &World| world.address("admin");
    let instances = [
        ("well", admin(&well)),
        ("broken", admin(&broken.world)),
        ("waiting", admin(&waiting)),
        ("full", admin(&full.world)),
        ("gone", nobody()),
    ];
    for (instance, address) in instances {
        prometheus.scrape(instance, address);
    }
    let _mute = mute(&prometheus, &mut requests).await;
    let _restarted = restart(&prometheus).await;

    let all = BTreeSet::from(DUE);
    wait_at_most(PATIENCE, async || {
        // A refused client is asked again in a minute, or at once where the operator wants it.
        if !(raised.has("BearerdClientRefused", "broken")
            && raised.has("BearerdTokenRequestRefused", "broken"))
        {
            broken.world.reload().await;
        }
        raised.look(&prometheus).await;
        raised.missing(&all).is_empty().then_some(())
    })
    .await;
    assert!(raised.missing(&all).is_empty(), "not raised: {:?}", raised.missing(&all));
    assert!(
        prometheus.query("bearerd_requests_total{instance=\"well\",status=\"200\"}").await.unwrap() > 20.0
    );
    assert!(prometheus.firing().await.iter().all(|firing| firing.alert != "BearerdAbsent"));
    let of_well: Vec<_> = raised.0.keys().filter(|(_, instance)| instance == "well").collect();
    assert!(of_well.is_empty(), "{of_well:?}");
    for ((alert, _), annotations) in &raised.0 {
        let poor = annotations.iter().find(|text| text.contains("<error") || text.contains("<no value>"));
        assert_eq!(poor, None, "{alert}");
    }
    assert!(broken.world.proxy.running());
}

/// Every alert that fired so far, with its annotations.
#[derive(Default)]
struct Raised(BTreeMap<(String, String), Vec<String>>);

impl Raised {
    async fn look(&mut self, prometheus: &Prometheus) {
        for firing in prometheus.firing().await {
            self.0.insert((firing.alert, firing.instance), firing.annotations);
        }
    }

    async fn until(&mut self, prometheus: &Prometheus, enough: impl Fn(&Self) -> bool) {
        wait_at_most(PATIENCE, async || {
            self.look(prometheus).await;
            enough(self).then_some(())
        })
        .await
        .unwrap_or_else(|| panic!("only {:?} were raised", self.0.keys()));
    }

    fn has(&self, alert: &str, instance: &str) -> bool {
        self.0.contains_key(&(alert.to_owned(), instance.to_owned()))
    }

    fn missing<'a>(&self, all: &BTreeSet<(&'a str, &'a str)>) -> Vec<(&'a str, &'a str)> {
        all.iter().filter(|(alert, instance)| !self.has(alert, instance)).copied().collect()
    }
}

/// Requests each of these without end; what comes back does not matter.
fn keep_sending(requests: &mut JoinSet<()>, world: &World, targets: &[&'static str]) {
    for target in targets.iter().copied() {
        let address = world.address("main");
        requests.spawn(async move {
            loop {
                Client::tcp(address).await.exchange(&RawRequest::get(target)).await;
                let_pass(Duration::from_millis(100)).await;
            }
        });
    }
}

const BROKEN: [&str; 12] = [
    "/refused",
    "/asking",
    "/throttled",
    "/ending",
    "/down",
    "/unreadable",
    "/refusing",
    "/slow",
    "/slow",
    "/unreachable",
    "/faulty",
    "/nowhere",
];

struct Broken {
    world: World,
}

fn issuer(name: &str, keys: &str) -> String {
    format!("[issuer.{name}]\nclient_id = \"client-1\"\n{keys}\n")
}

fn route(name: &str, issuer: &str, upstream: &str, keys: &str) -> String {
    let scope = format!("scopes = [\"{name}\"]");
    format!(
        "[[route]]\nname = \"{name}\"\npath_prefix = \"/{name}\"\nissuer = \"{issuer}\"\nupstream = \"{upstream}\"\n{scope}\n{keys}\n"
    )
}

/// One program with an issuer or an upstream for each thing that goes wrong.
async fn broken() -> Broken {
    let setup = Setup::new().await;
    let nobody = nobody();
    let secret = "client_secret = { file = \"secret\" }";
    let mut text =
        "[admin]\naddress = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n[listener.main]\naddress = \"127.0.0.1:0\"\n"
            .to_owned();
    for name in ["good", "refused", "asking", "throttled", "ending"] {
        text += &issuer(name, &format!("token_url = \"{{issuer}}/{name}\"\n{secret}\nrefresh_at = 0.02"));
    }
    text += &issuer(
        "spent",
        &format!("token_url = \"{{issuer}}/good\"\n{secret}\nbudget = {{ requests = 1, per = \"1h\" }}"),
    );
    text += &route("spent", "spent", "{upstream}", "");
    text += &issuer("down", &format!("token_url = \"http://{nobody}/\"\n{secret}"));
    text += &issuer("unreadable", "token_url = \"{issuer}/good\"\nclient_secret = { file = \"missing\" }");
    for name in ["refused", "asking", "throttled", "ending", "down", "unreadable"] {
        text += &route(name, name, "{upstream}", "");
    }
    text += "[store]\npath = \"no/such/folder\"\nkeys = [{ file = \"store.key\" }]\n";
    setup.file("store.key", "00".repeat(32));
    text += &route("refusing", "good", "{upstream}/refusing", "");
    text += &route("slow", "good", "{upstream}/slow", "");
    text += &route("unreachable", "good", &format!("http://{nobody}"), "");
    let header = "response_headers = { set = { x-key = { file = \"missing\" } } }";
    text += &route("faulty", "good", "{upstream}", header);
    setup.upstream.always(|request, _| match request.target() {
        "/refusing" => RawResponse::unauthorized(),
        "/slow" => RawResponse::ok("late").delayed(SLOW),
        _ => RawResponse::ok("ok"),
    });
    let ended = AtomicBool::new(false);
    setup.issuer.always(move |request, n| match request.target() {
        "/refused" => RawResponse::oauth_error(401, "invalid_client"),
        "/asking" => RawResponse::oauth_error(400, "invalid_scope"),
        "/throttled" => RawResponse::status(429).header("retry-after", "1"),
        "/ending" if ended.swap(true, Ordering::SeqCst) => RawResponse::status(503),
        "/ending" => RawResponse::token_for("the-only-one", 200),
        _ => RawResponse::token(&format!("token-{n}")),
    });
    Broken { world: setup.whole(&text).start().await }
}

/// An issuer that never responds, and room for one request that waits for it.
async fn waiting(requests: &mut JoinSet<()>) -> World {
    let setup = Setup::new().await.limits("waiters = 1");
    setup.issuer.always_this(RawResponse::hang());
    let world = setup.start().await;
    keep_sending(requests, &world, &["/", "/", "/"]);
    world
}

struct Full {
    world: World,
    _callers: Vec<Client>,
}

/// Nearly all connections and files in use, a config that is broken by now, and a certificate that has ended.
async fn full() -> Full {
    let old = ca().issue_expired(&["localhost"]);
    let listener = "[listener.tls]\naddress = \"127.0.0.1:0\"\n\
                    tls = { certificate = { file = \"old.pem\" }, private_key = { file = \"old.key\" } }\n";
    let setup = Setup::new().await.limits("connections = 10").more(listener);
    setup.file("old.pem", &old.certificate_pem);
    setup.file("old.key", &old.key_pem);
    let mut world = setup.start().await;
    let mut callers = Vec::new();
    for _ in 0..9 {
        let mut caller = world.connect().await;
        caller.exchange(&RawRequest::get("/")).await.expect_status(200);
        callers.push(caller);
    }
    let open = world.metric("process_open_fds", &[]).await.unwrap();
    assert!(world.metric("process_max_fds", &[]).await.unwrap() > 2.0 * open);
    let most = (1u32..).find(|most| open / f64::from(*most) < 0.9).unwrap();
    let limit = Rlimit { current: Some(u64::from(most)), ..getrlimit(Resource::Nofile) };
    prlimit(Some(world.pid()), Resource::Nofile, limit).unwrap();
    world.change(|text| format!("nonsense = 1\n{text}"));
    world.reload().await;
    Full { world, _callers: callers }
}

/// Nobody reads its stderr.
async fn mute(prometheus: &Prometheus, requests: &mut JoinSet<()>) -> tokio::process::Child {
    let (admin, main) = (nobody(), nobody());
    let setup = Setup::new()
        .await
        .admin(&format!("address = \"{admin}\""))
        .listener(&format!("address = \"{main}\""))
        .log("level = \"trace\"");
    setup.write();
    let mut command = cli::command(setup.folder(), &["run", "--config", "bearerd.toml"]);
    let child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    listens(main).await;
    let long = format!("/{}", "a".repeat(4000));
    requests.spawn(async move {
        let _alive = setup;
        let mut client = Client::tcp(main).await;
        loop {
            client.exchange(&RawRequest::get(&long)).await;
        }
    });
    prometheus.scrape("mute", admin);
    child
}

async fn listens(address: SocketAddr) {
    eventually("bearerd to listen", || async { tokio::net::TcpStream::connect(address).await.ok() }).await;
}

/// Starts one program again and again, each time until Prometheus has seen it; the last one stays.
async fn restart(prometheus: &Prometheus) -> World {
    let admin = nobody();
    prometheus.scrape("restarting", admin);
    let mut restarts = 0;
    loop {
        let setup = Setup::new().await.admin(&format!("address = \"{admin}\""));
        let mut world = setup.start().await;
        let seen = "changes(process_start_time_seconds{instance=\"restarting\"}[1m])";
        let wanted = f64::from(restarts);
        eventually("the start to be seen", || async {
            prometheus.query(seen).await.filter(|seen| *seen >= wanted)
        })
        .await;
        if restarts == 3 {
            return world;
        }
        world.proxy.stop().await;
        restarts += 1;
    }
}
