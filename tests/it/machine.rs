//! What the machine gives: descriptors, threads, quiet connections.

use std::os::unix::fs::chown;
use std::process::Stdio;

use rustix::process::{Resource, getrlimit};
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::support::h2::{H2Client, whole};
use crate::support::{Bearerd, Gate, RawRequest, RawResponse, Scripted, Setup, World, eventually, within};

/// Runs the written config where the shell has set `limits`.
fn limited(setup: &Setup, limits: &str, program: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{limits}; exec \"$0\" run"), program])
        .current_dir(setup.folder())
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

pub(crate) async fn start_limited(setup: Setup, limits: &str) -> World {
    setup.write();
    let command = limited(&setup, limits, env!("CARGO_BIN_EXE_bearerd"));
    World::new(Bearerd::spawn(setup.shared_folder(), command).await, setup)
}

#[tokio::test]
async fn a_flood_of_upstream_connections_leaves_descriptors_for_everything_else() {
    let gate = Gate::new();
    let setup = Setup::new().await.limits("connections = 20");
    setup.upstream.always_this(RawResponse::ok("slow").gated(&gate));
    let other = Scripted::upstream().await;
    let mut world = start_limited(setup, "ulimit -n 256").await;
    world.ready().await;

    let mut requests = JoinSet::new();
    for _ in 0..3 {
        let client = H2Client::plain(world.address("main")).await;
        for _ in 0..80 {
            let mut client = client.clone();
            let request = client.request("GET", "/").body(whole("")).unwrap();
            requests.spawn(async move { client.try_exchange(request).await.unwrap() });
        }
    }
    let refused = within("the first refusal", requests.join_next()).await.unwrap().unwrap();
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.text().contains(r#""code":"overloaded""#), "{}", refused.text());
    assert!(refused.text().contains("limit of open files"), "{}", refused.text());

    // Issuers are asked, and a config is loaded, meanwhile.
    let more = format!(
        "[listener.second]\naddress = \"127.0.0.1:0\"\n[[route]]\nname = \"more\"\npath_prefix = \"/more\"\n\
         upstream = \"{}\"\nissuer = \"corp\"\nscopes = [\"another\"]",
        other.url
    );
    world.change(|config| format!("{config}\n{more}"));
    world.reload().await;
    assert_eq!(world.metric("bearerd_config_last_reload_successful", &[]).await, Some(1.0));
    world.issuer().request(2).await;
    world.ready().await;

    gate.open();
    let mut served = 0;
    while let Some(response) = within("the rest", requests.join_next()).await {
        served += u32::from(response.unwrap().status == 200);
    }
    assert!(served > 20, "{served}");
    // Soon every place is a connection that nobody uses; they make room for another upstream.
    eventually("room", || async { (world.get("/more").await.status == 200).then_some(()) }).await;
    assert_eq!(other.count(), 1);
}

#[tokio::test]
async fn a_limit_of_files_that_is_too_low_is_reported_at_start() {
    let world = start_limited(Setup::new().await, "ulimit -n 256").await;
    world.log().wait("the limit of files", |line| line.contains("limits.files")).await;
    let told = world.log().events().into_iter().find(|event| event["event"] == "limits.files").unwrap();
    assert_eq!((told["files"].as_u64(), told["connections"].as_u64()), (Some(256), Some(10_000)));
    let callers = usize::try_from(told["callers"].as_u64().unwrap()).unwrap();
    world.get("/").await.expect_status(200);
    let mut held = Vec::new();
    for _ in 0..callers + 10 {
        held.push(world.connect().await);
    }
    world.log().wait("the limit in force", |line| line.contains("listener.connection_limit")).await;
    assert_eq!(world.admin("/livez").await.status, 200);

    let fits = Setup::new().await.limits("connections = 50");
    let fits = start_limited(fits, "ulimit -n 256").await;
    fits.get("/").await.expect_status(200);
    assert!(!fits.log().text().contains("limits.files"), "{}", fits.log().text());
}

/// A limit of threads does not bind root, so the program runs as a user of its own where the test is root.
struct User(Option<u32>);

impl User {
    /// The owner of the scene's files.
    fn of(setup: &Setup) -> Self {
        if !rustix::process::geteuid().is_root() {
            return Self(None);
        }
        let user = 1_000_000 + fastrand::u32(..1_000_000);
        for path in [".", "bearerd.toml", "secret"] {
            chown(setup.folder().join(path), Some(user), Some(user)).unwrap();
        }
        Self(Some(user))
    }

    fn runs(&self, mut command: Command) -> Command {
        if let Some(user) = self.0 {
            command.uid(user).gid(user);
        }
        command
    }

    /// How many threads the program may have from now on; `None`: as many as before.
    async fn set_threads(&self, world: &World, most: Option<u64>) {
        let most = most.or_else(|| getrlimit(Resource::Nproc).maximum);
        let most = most.map_or_else(|| "unlimited".to_owned(), |most| most.to_string());
        let mut command = Command::new("prlimit");
        command.arg(format!("--pid={}", world.pid().as_raw_nonzero())).arg(format!("--nproc={most}:"));
        assert!(self.runs(command).status().await.unwrap().success());
    }
}

/// The tests' folder of programs may be closed to other users.
fn copied(setup: &Setup) -> String {
    let copy = setup.folder().join("program");
    if std::fs::hard_link(env!("CARGO_BIN_EXE_bearerd"), &copy).is_err() {
        crate::support::blocking::copy_program(env!("CARGO_BIN_EXE_bearerd"), &copy);
    }
    copy.display().to_string()
}

#[tokio::test]
async fn a_start_without_threads_ends_with_1_and_says_why() {
    let setup = Setup::new().await;
    setup.write();
    let (program, user) = (copied(&setup), User::of(&setup));
    // The log's thread, the worker's, the control thread.
    for threads in 1..=3 {
        // Shells use either letter for it.
        let limit = format!("ulimit -p {threads} 2>/dev/null || ulimit -u {threads}");
        let mut command = user.runs(limited(&setup, &limit, &program));
        let output = within("the end", command.output()).await.unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{threads}: {told}");
        assert!(told.contains("thread") && told.contains("cannot"), "{threads}: {told}");
        assert!(!told.contains("panicked"), "{threads}: {told}");
    }
}

#[tokio::test]
async fn a_thread_that_is_refused_later_is_an_error_of_that_operation() {
    let setup = Setup::new().await;
    let port = setup.upstream.address.unwrap().port();
    let setup = setup.more(&format!(
        "[[route]]\nname = \"named\"\npath_prefix = \"/named\"\nupstream = \"http://localhost:{port}\"\n\
         issuer = \"corp\"\n[[route]]\nname = \"tls\"\npath_prefix = \"/tls\"\n\
         upstream = \"https://127.0.0.1:{port}\"\nissuer = \"corp\"\n[webhook.w]\naddress = \"127.0.0.1:0\"\n\
         path = \"/w\"\nsignature_header = \"x-signature\"\nsecrets = [{{ file = \"secret\" }}]\nvalue = \"/v\"\n\
         store = \"w.json\""
    ));
    setup.write();
    let user = User::of(&setup);
    let command = user.runs(limited(&setup, "true", &copied(&setup)));
    let world = World::new(Bearerd::spawn(setup.shared_folder(), command).await, setup);
    world.ready().await;
    // Until nothing of the start is under way any more.
    eventually("the threads of the start to end", || async {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", world.pid().as_raw_nonzero())).unwrap();
        (tasks.count() == 4).then_some(())
    })
    .await;

    user.set_threads(&world, Some(1)).await;
    world.get("/").await.expect_status(200);
    for route in ["/named", "/tls"] {
        let refused = world.get(route).await;
        refused.expect_problem(503, "overloaded");
        assert!(refused.text().contains("the system refuses a thread"), "{}", refused.text());
    }
    let reloads = || async { world.metric("bearerd_config_reloads_total", &[("outcome", "failed")]).await };
    let failed = reloads().await.unwrap_or(0.0);
    world.reload_signal();
    eventually("the reload to be refused", || async {
        (reloads().await.unwrap_or(0.0) > failed).then_some(())
    })
    .await;
    assert!(world.status().await.to_string().contains("the system refuses a thread"));
    world.get("/").await.expect_status(200);

    user.set_threads(&world, None).await;
    world.reload().await;
    assert_eq!(world.metric("bearerd_config_last_reload_successful", &[]).await, Some(1.0));
    world.get("/named").await.expect_status(200);
    assert!(!world.log().text().contains("process.panicked"), "{}", world.log().text());
}

/// The columns of `/proc/net/tcp`.
const LOCAL: usize = 1;
const REMOTE: usize = 2;

/// Waits for a connection with this port in the column, on which the timer of keep-alive runs.
async fn keep_alive_runs(column: usize, port: u16) {
    let port = format!(":{port:04X}");
    eventually("the timer of keep-alive", || async {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let runs = lines.any(|field| {
            let is_it = field.get(column).is_some_and(|address| address.ends_with(&port));
            // Established.
            is_it && field[3] == "01" && field[5].starts_with("02:")
        });
        runs.then_some(())
    })
    .await;
}

#[tokio::test]
async fn connections_on_both_sides_are_kept_alive_by_tcp() {
    let world = Setup::new().await.start().await;
    let mut client = world.connect().await;
    client.exchange(&RawRequest::get("/")).await.expect_status(200);
    keep_alive_runs(REMOTE, world.upstream().address.unwrap().port()).await;
    keep_alive_runs(LOCAL, world.address("main").port()).await;
}

#[tokio::test]
async fn the_largest_count_of_headers_is_borne() {
    let world = Setup::new().await.limits("header_count = 10000\nheader_bytes = \"1MiB\"").start().await;
    let call = (0..9_000).fold(RawRequest::get("/"), |call, n| call.header(&format!("x-{n}"), "1"));
    world.exchange(call).await.expect_status(200);
    let mut client = H2Client::plain(world.address("main")).await;
    let request =
        (0..9_000).fold(client.request("GET", "/"), |request, n| request.header(format!("x-{n}"), "1"));
    let response = client.exchange(request.body(whole("")).unwrap()).await;
    assert_eq!(response.status, 200);
    assert_eq!(world.upstream().count(), 2);
}
