//! Start and end: rows T98 to T102.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt};
use tokio::process::{Child, ChildStderr};

use crate::support::h2::H2Client;
use crate::support::{
    Bearerd, Client, Gate, PATIENCE, RawRequest, RawResponse, Setup, World, cli, eventually, let_pass,
    metrics, within,
};

/// A request that the upstream has and does not respond to yet.
async fn with_slow_request(setup: Setup) -> (World, Client, Gate) {
    let gate = Gate::new();
    setup.upstream.always_this(RawResponse::ok("slow").gated(&gate));
    let world = setup.start().await;
    let mut client = world.connect().await;
    client.send(&RawRequest::get("/")).await;
    world.upstream().request(1).await;
    (world, client, gate)
}

#[tokio::test]
async fn t98_sigterm_lets_requests_end_and_exits_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let (mut world, mut client, gate) = with_slow_request(Setup::new().await).await;
        let address = world.address("main");
        world.signal(signal);
        eventually("no more connections", || async {
            tokio::net::TcpStream::connect(address).await.is_err().then_some(())
        })
        .await;
        assert!(world.proxy.running());
        gate.open();
        let response = client.response().await;
        assert_eq!(response.text(), "slow");
        assert_eq!(world.proxy.exit().await.code(), Some(0));
    }
}

#[tokio::test]
async fn t98_no_request_fails_when_sigterm_comes_under_load() {
    let mut world = Setup::new().await.top("drain_delay = \"500ms\"").start().await;
    world.get("/").await.expect_status(200);
    let address = world.address("main");
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        callers.spawn(async move {
            let mut served = 0;
            while let Ok(stream) = tokio::net::TcpStream::connect(address).await {
                let mut wire = crate::support::Wire::new(stream);
                // A connection that was still in the backlog when the listener closed never was a request.
                if wire.send(RawRequest::get("/").bytes("localhost")).await.is_err() {
                    break;
                }
                match wire.head().await {
                    Ok(Some(head)) => assert_eq!(head.word(1), "200"),
                    Ok(None) | Err(_) => break,
                }
                served += 1;
            }
            served
        });
    }
    eventually("calls under way", || async { (world.upstream().count() > 50).then_some(()) }).await;
    let status = world.proxy.stop().await;
    assert_eq!(status.code(), Some(0));
    let served: usize = callers.join_all().await.into_iter().sum();
    assert!(served > 20, "{served}");
    assert_eq!(world.upstream().count(), served + 1);
}

#[tokio::test]
async fn drain_delay_serves_on_while_readyz_says_503() {
    let mut world = Setup::new().await.top("drain_delay = \"10s\"").start().await;
    world.ready().await;
    let signalled = Instant::now();
    world.signal(Signal::TERM);
    eventually("readyz to say 503", || async { (world.admin("/readyz").await.status == 503).then_some(()) })
        .await;
    world.get("/").await.expect_status(200);
    assert_eq!(world.admin("/livez").await.status, 200);
    assert_eq!(world.proxy.exit().await.code(), Some(0));
    assert!(signalled.elapsed() >= Duration::from_millis(9900));
}

#[tokio::test]
async fn shutdown_timeout_cuts_requests_that_do_not_end() {
    let (mut world, mut client, _gate) =
        with_slow_request(Setup::new().await.top("shutdown_timeout = \"500ms\"")).await;
    let started = Instant::now();
    world.signal(Signal::TERM);
    assert_eq!(world.proxy.exit().await.code(), Some(0));
    assert!(started.elapsed() < PATIENCE);
    assert!(client.response_or_end().await.is_none_or(|response| response.status >= 500));
}

#[tokio::test]
async fn second_signal_ends_at_once() {
    let (mut world, _client, _gate) = with_slow_request(Setup::new().await).await;
    world.signal(Signal::TERM);
    let address = world.address("main");
    eventually("the drain", || async {
        tokio::net::TcpStream::connect(address).await.is_err().then_some(())
    })
    .await;
    let started = Instant::now();
    world.signal(Signal::TERM);
    world.proxy.exit().await;
    assert!(started.elapsed() < PATIENCE);
}

#[tokio::test]
async fn kept_connections_are_closed_by_the_drain() {
    let mut world = Setup::new().await.start().await;
    let mut client = world.connect().await;
    client.exchange(&RawRequest::get("/")).await.expect_status(200);
    let mut h2 = H2Client::plain(world.address("main")).await;
    assert_eq!(h2.get("/").await.status, 200);
    let started = Instant::now();
    assert_eq!(world.proxy.stop().await.code(), Some(0));
    assert!(started.elapsed() < PATIENCE, "an idle connection holds the end up");
    assert!(client.wire.closed().await);
}

#[tokio::test]
async fn token_fetch_in_flight_does_not_hold_the_end_up() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::hang());
    let mut world = setup.start().await;
    world.issuer().request(1).await;
    let started = Instant::now();
    assert_eq!(world.proxy.stop().await.code(), Some(0));
    assert!(started.elapsed() < PATIENCE);
}

#[tokio::test]
async fn t99_starts_again_after_sigkill() {
    let setup = Setup::new().await.listener("address = \"unix:{folder}/proxy.sock\"");
    let mut world = setup.admin("address = \"unix:{folder}/admin.sock\"").start().await;
    world.signal(Signal::KILL);
    world.proxy.exit().await;
    assert!(world.folder().join("proxy.sock").exists(), "SIGKILL leaves the socket behind");
    world.proxy = Bearerd::start(world.shared_folder(), &[]).await;
    let mut client = Client::unix(&world.folder().join("proxy.sock")).await;
    client.exchange(&RawRequest::get("/")).await.expect_status(200);
    assert_eq!(world.proxy.stop().await.code(), Some(0));
    assert!(!world.folder().join("proxy.sock").exists(), "a clean end removes the socket");
}

#[tokio::test]
async fn unix_socket_that_somebody_serves_is_in_use() {
    let setup = Setup::new().await.listener("address = \"unix:{folder}/proxy.sock\"");
    let world = setup.start().await;
    let output = cli::run(world.folder(), &["run"]).await;
    output.expect_code(69);
    Client::unix(&world.folder().join("proxy.sock"))
        .await
        .exchange(&RawRequest::get("/"))
        .await
        .expect_status(200);
}

#[tokio::test]
async fn file_in_the_place_of_a_socket_is_left_alone() {
    let setup = Setup::new().await.listener("address = \"unix:{folder}/proxy.sock\"");
    setup.file("proxy.sock", "precious");
    setup.write();
    cli::run(setup.folder(), &["run"]).await.expect_code(69);
    assert_eq!(std::fs::read(setup.folder().join("proxy.sock")).unwrap(), b"precious");
}

#[tokio::test]
async fn t100_starts_with_the_issuer_down_and_keeps_trying() {
    let nobody = crate::support::nobody();
    let world = Setup::new().await.issuer(&format!("token_url = \"http://{nobody}/token\"")).start().await;
    assert_eq!(world.admin("/livez").await.status, 200);
    let ready = world.admin("/readyz").await;
    ready.expect_status(503);
    assert!(ready.text().contains("corp") || ready.text().contains("api"), "{}", ready.text());
    world.get("/").await.expect_problem(503, "token_unavailable");
}

#[tokio::test]
async fn t100_becomes_ready_without_a_request() {
    let setup = Setup::new().await;
    setup.issuer.next(RawResponse::status(500));
    let world = setup.start().await;
    world.ready().await;
    assert_eq!(world.upstream().count(), 0);
}

#[tokio::test]
async fn t101_few_file_descriptors_are_survived() {
    let setup = Setup::new().await;
    setup.write();
    let folder = setup.folder().to_owned();
    let script = format!("ulimit -n 64; exec {} run", env!("CARGO_BIN_EXE_bearerd"));
    let mut command = tokio::process::Command::new("sh");
    command
        .args(["-c", &script])
        .current_dir(&folder)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let proxy = Bearerd::spawn(setup.shared_folder(), command).await;
    proxy.get("/").await.expect_status(200);
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(proxy.connect().await);
    }
    let before = proxy.processor_time();
    let_pass(Duration::from_secs(1)).await;
    let busy = proxy.processor_time() - before;
    assert!(busy < Duration::from_millis(500), "{busy:?} of processor time in a second of waiting");
    clients.clear();
    eventually("a served call", || async {
        let mut client = proxy.connect().await;
        let _sent = client.wire.send(RawRequest::get("/").bytes("localhost")).await;
        client.response_or_end().await.filter(|response| response.status == 200)
    })
    .await;
}

/// The program, serving, with a log that nobody reads any more.
async fn with_unread_log(log: &str) -> (Setup, Child, ChildStderr, Client) {
    let setup = Setup::new()
        .await
        .listener("address = \"unix:{folder}/proxy.sock\"")
        .log(log)
        .admin("address = \"unix:{folder}/admin.sock\"");
    setup.write();
    let mut child = cli::command(setup.folder(), &["run"]).stdout(Stdio::null()).spawn().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let _first = stderr.read_u8().await.unwrap();
    let socket = setup.folder().join("proxy.sock");
    eventually("the socket", || async { tokio::net::UnixStream::connect(&socket).await.ok() }).await;
    let client = Client::unix(&socket).await;
    (setup, child, stderr, client)
}

#[tokio::test]
async fn t102_blocked_log_does_not_hold_requests_up() {
    let (_setup, _child, _stderr, mut client) = with_unread_log("level = \"trace\"").await;
    for n in 0..1000 {
        client.exchange(&RawRequest::get(&format!("/{n}/{}", "x".repeat(200)))).await.expect_status(200);
    }
}

/// Lines of any length: the queue is bounded in bytes, and what it does not take is counted and told of once.
#[tokio::test]
async fn t102_blocked_log_takes_a_bounded_memory() {
    const CALLS: usize = 3000;
    let (setup, child, mut stderr, mut client) = with_unread_log("format = \"json\"").await;
    // Refused here, so that no upstream takes part.
    let call = RawRequest::get(&format!("/{}/../", "x".repeat(6 * 1024)));
    let pid = child.id().unwrap();
    client.exchange(&call).await.expect_status(400);
    let before = most_memory(pid);
    for _ in 0..CALLS {
        client.exchange(&call).await.expect_status(400);
    }
    let more = most_memory(pid) - before;
    // 4 MiB wait, of 12 that were logged.
    assert!(more < 7 * 1024, "{more} KiB more");

    let mut admin = Client::unix(&setup.folder().join("admin.sock")).await;
    let samples = metrics::parse(&admin.exchange(&RawRequest::get("/metrics")).await.text());
    let missing = metrics::sum(&samples, "bearerd_log_lines_dropped_total", &[]).unwrap();
    assert!(missing > 1000.0, "{missing}");
    // It is read again, and only then the process ends, so that no line of its end is missing.
    let mut log = String::new();
    let mut reader = tokio::io::BufReader::new(&mut stderr);
    while !log.contains("log.lines_dropped") {
        within("the word of what is missing", reader.read_line(&mut log)).await.unwrap();
    }
    rustix::process::kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::TERM).unwrap();
    within("the end of the log", reader.read_to_string(&mut log)).await.unwrap();
    let lines: Vec<Value> = log.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
    let event = |name: &str| lines.iter().filter(|line| line["event"] == name).collect::<Vec<_>>();
    let [told] = event("log.lines_dropped")[..] else { panic!("{:?}", event("log.lines_dropped")) };
    let message = told["message"].as_str().unwrap();
    let told: u32 = message
        .strip_suffix(" log lines dropped, because stderr did not take them")
        .unwrap()
        .parse()
        .unwrap();
    // The last request's line may have come after its count was asked for.
    assert!((0.0..=1.0).contains(&(f64::from(told) - missing)), "{missing} were counted, {told} told of");
    assert_eq!(event("access").len() + told as usize, CALLS + 1);
    assert!(lines.iter().any(|line| line["path"].as_str().is_some_and(|path| path.ends_with("xxx…"))));
}

/// The most that it had in memory so far, in KiB.
fn most_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn t102_full_disk_under_the_log_does_not_hold_requests_up() {
    let setup = Setup::new()
        .await
        .listener("address = \"unix:{folder}/proxy.sock\"")
        .admin("address = \"unix:{folder}/admin.sock\"");
    setup.write();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = cli::command(setup.folder(), &["run"]);
    let _child = command.stdout(Stdio::null()).stderr(full).spawn().unwrap();
    let socket = setup.folder().join("proxy.sock");
    eventually("the socket", || async { tokio::net::UnixStream::connect(&socket).await.ok() }).await;
    for _ in 0..20 {
        Client::unix(&socket).await.exchange(&RawRequest::get("/")).await.expect_status(200);
    }
}

#[tokio::test]
async fn several_workers_share_each_socket() {
    let world = Setup::new().await.top("workers = 3").start().await;
    let address = world.address("main");
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..60 {
        calls.spawn(async move { Client::tcp(address).await.exchange(&RawRequest::get("/")).await.status });
    }
    assert!(calls.join_all().await.iter().all(|status| *status == 200));
    assert_eq!(world.issuer().count(), 1);
    // Each worker counts for itself; a scrape tells of all of them.
    eventually("all requests to be counted", || async {
        let counted = world.metric("bearerd_requests_total", &[("status", "200")]).await?;
        (counted == 60.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn start_is_not_held_up_by_a_silent_issuer() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::hang());
    let started = Instant::now();
    let world = Arc::new(setup.start().await);
    // A token request may take ten.
    assert!(started.elapsed() < Duration::from_secs(9));
    assert_eq!(world.admin("/livez").await.status, 200);
}
