//! What a service manager sees: notifications and passed sockets. The test's own datagram socket takes its place.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tokio::net::UnixDatagram;
use tokio::process::Command;

use crate::support::{
    Bearerd, Client, Gate, RawRequest, RawResponse, Setup, World, eventually, let_pass, within,
};

/// Hears what the program says of itself.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(folder: &Path) -> Self {
        let path = folder.join("notify.sock");
        Self { socket: UnixDatagram::bind(&path).unwrap(), path }
    }

    fn env(&self) -> (&'static str, &str) {
        ("NOTIFY_SOCKET", self.path.to_str().unwrap())
    }

    async fn message(&self) -> String {
        let mut buffer = vec![0; 4096];
        let length = within("a message to the service manager", self.socket.recv(&mut buffer)).await.unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// The next message with this word; those before it are passed over.
    async fn wait(&self, word: &str) -> String {
        within(&format!("{word} from the program"), async {
            loop {
                let message = self.message().await;
                if message.contains(word) {
                    return message;
                }
            }
        })
        .await
    }
}

async fn started(setup: Setup, env: &[(&str, &str)]) -> (World, Manager) {
    let manager = Manager::new(setup.folder());
    let (name, value) = manager.env();
    let setup = env.iter().fold(setup.env(name, value), |setup, (name, value)| setup.env(name, value));
    (setup.start().await, manager)
}

fn lines(message: &str) -> Vec<&str> {
    message.lines().collect()
}

#[tokio::test]
async fn reports_readiness_and_its_status() {
    let setup = Setup::new().await;
    setup.issuer.next(RawResponse::oauth_error(400, "invalid_scope"));
    let (world, manager) = started(setup, &[]).await;
    assert_eq!(lines(&manager.message().await)[0], "READY=1");
    let waiting = manager.wait("invalid_scope").await;
    assert!(waiting.starts_with("STATUS=not ready: issuer corp: "), "{waiting}");
    assert!(!waiting.contains(crate::support::setup::SECRET), "{waiting}");
    world.reload_signal();
    let ready = manager.wait("serving").await;
    assert!(ready.contains("STATUS=serving 1 route; config version 2\n"), "{ready}");
}

#[tokio::test]
async fn reports_a_reload_and_its_end() {
    let (mut world, manager) = started(Setup::new().await, &[]).await;
    manager.wait("READY=1").await;
    world.reload_signal();
    let begun = manager.wait("RELOADING=1").await;
    let micros: u64 =
        begun.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap().parse().unwrap();
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = u64::try_from(now.tv_sec).unwrap() * 1_000_000;
    assert!(
        micros.abs_diff(now) < 60_000_000,
        "{micros} is no time of the monotonic clock, which says {now}"
    );
    let mut ended = manager.wait("READY=1").await;
    if ended.contains("not ready") {
        // Its token is still on its way.
        ended = manager.wait("STATUS=serving").await;
    }
    assert!(ended.contains("config version 2\n"), "{ended}");
    world.change(|text| format!("frobnicate = 1\n{text}"));
    manager.wait("RELOADING=1").await;
    let refused = manager.wait("READY=1").await;
    assert!(refused.contains("config version 2; the last reload was refused, see the log"), "{refused}");
}

#[tokio::test]
async fn reports_the_end_and_how_long_it_may_take() {
    let gate = Gate::new();
    let setup = Setup::new().await.top("shutdown_timeout = \"200s\"");
    setup.upstream.always_this(RawResponse::ok("slow").gated(&gate));
    let (mut world, manager) = started(setup, &[]).await;
    let mut client = world.connect().await;
    client.send(&RawRequest::get("/")).await;
    world.upstream().request(1).await;
    world.signal(Signal::TERM);
    let stopping = manager.wait("STOPPING=1").await;
    assert!(
        stopping.contains("STATUS=ending") && stopping.contains("EXTEND_TIMEOUT_USEC=205000000\n"),
        "{stopping}"
    );
    gate.open();
    assert_eq!(client.response().await.text(), "slow");
    assert_eq!(world.proxy.exit().await.code(), Some(0));
}

#[tokio::test]
async fn feeds_the_watchdog_of_its_own_process_while_workers_respond() {
    let setup = Setup::new().await.top("workers = 2");
    let (world, manager) = started(setup, &[("WATCHDOG_USEC", "300000")]).await;
    for _ in 0..3 {
        manager.wait("WATCHDOG=1").await;
    }
    world.get("/").await.expect_status(200);
}

/// `@` and a name that is no file: in user sessions and containers of some kinds.
#[tokio::test]
async fn service_manager_may_listen_in_the_abstract_namespace() {
    let setup = Setup::new().await;
    let name = setup.folder().file_name().unwrap().to_str().unwrap().to_owned();
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let socket = std::os::unix::net::UnixDatagram::bind_addr(&address).unwrap();
    socket.set_nonblocking(true).unwrap();
    let manager = Manager { socket: UnixDatagram::from_std(socket).unwrap(), path: PathBuf::new() };
    let _world = setup.env("NOTIFY_SOCKET", &format!("@{name}")).start().await;
    manager.wait("READY=1").await;
}

/// Its queue is full after some messages; tokens and reloads go on.
#[tokio::test]
async fn service_manager_that_stops_reading_holds_nothing_up() {
    let (mut world, manager) = started(Setup::new().await, &[("WATCHDOG_USEC", "3000")]).await;
    let filler = std::os::unix::net::UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    eventually("a full queue", || async { filler.send_to(b"x", &manager.path).is_err().then_some(()) }).await;
    within("a reload", world.reload()).await;
    world.get("/").await.expect_status(200);
    assert_eq!(world.proxy.stop().await.code(), Some(0));
    let lines = world.log().lines();
    let deaf = lines.iter().filter(|line| line.contains("systemd.notify_failed")).count();
    assert_eq!(deaf, 1, "told once: {lines:?}");
}

/// The unit starts even so: a message that was lost is sent again.
#[tokio::test]
async fn readiness_that_did_not_get_through_is_reported_again() {
    let setup = Setup::new().await;
    let path = setup.folder().join("notify.sock");
    let _world = setup.env("NOTIFY_SOCKET", path.to_str().unwrap()).start().await;
    let manager = Manager { socket: UnixDatagram::bind(&path).unwrap(), path };
    manager.wait("READY=1").await;
}

#[tokio::test]
async fn leaves_the_watchdog_of_another_process_alone() {
    let env = [("WATCHDOG_USEC", "300000"), ("WATCHDOG_PID", "1")];
    let (world, manager) = started(Setup::new().await, &env).await;
    let_pass(Duration::from_millis(700)).await;
    world.signal(Signal::TERM);
    loop {
        let message = manager.message().await;
        assert!(!message.contains("WATCHDOG"), "{message}");
        if message.contains("STOPPING=1") {
            return;
        }
    }
}

/// Passes sockets as systemd does: at file descriptor 3 and beyond, for the process that `exec` makes.
const PASS: &str = r#"
import os, socket, sys
names, program = sys.argv[1], sys.argv[2:]
sockets = []
for number, place in enumerate(os.environ.pop("PLACES").split()):
    if place.startswith("/"):
        made = socket.socket(socket.AF_UNIX)
        made.bind(place)
        os.chmod(place, int(os.environ.get("SOCKET_MODE", "600"), 8))
    else:
        host, port = place.rsplit(":", 1)
        made = socket.socket()
        made.bind((host, int(port)))
    made.listen()
    os.dup2(made.fileno(), 60 + number)
    sockets.append(made)
for number in range(len(sockets)):
    os.dup2(60 + number, 3 + number, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(sockets)), LISTEN_FDNAMES=names)
os.execv(program[0], program)
"#;

fn passing(folder: &Path, names: &str, places: &str) -> Command {
    let mut command = Command::new("python3");
    command
        .args(["-c", PASS, names, env!("CARGO_BIN_EXE_bearerd"), "run"])
        .current_dir(folder)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(std::env::var_os("HOME").map(|home| ("HOME", home)))
        .env("PLACES", places)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn refused(setup: &Setup, names: &str, places: &str, env: &[(&str, &str)]) -> String {
    let mut command = passing(setup.folder(), names, places);
    let output = within("bearerd to end", command.envs(env.iter().copied()).output()).await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    said
}

#[tokio::test]
#[ignore = "needs python3"]
async fn serves_over_sockets_that_were_passed_and_keeps_them_through_reloads() {
    let setup = Setup::new().await.top("workers = 2");
    setup.write();
    let command = passing(setup.folder(), "admin:main", "127.0.0.1:0 127.0.0.1:0");
    let proxy = Bearerd::spawn(setup.shared_folder(), command).await;
    let mut world = World::new(proxy, setup);
    assert_eq!(world.admin("/livez").await.status, 200);
    for _ in 0..8 {
        world.get("/").await.expect_status(200);
    }
    let main = world.address("main");
    world.reload().await;
    world.get("/").await.expect_status(200);
    // Taken away, and brought back: its socket is still there.
    world.change(|text| text.replace("[listener.main]", "[listener.other]"));
    world.reload().await;
    world.log().wait("the stray socket", |line| line.contains("named `main`")).await;
    world.change(|text| text.replace("[listener.other]", "[listener.main]"));
    world.reload().await;
    Client::tcp(main).await.exchange(&RawRequest::get("/")).await.expect_status(200);
}

#[tokio::test]
async fn callers_who_come_before_the_program_are_served_by_it() {
    let setup = Setup::new().await.listener("address = \"unix:{folder}/proxy.sock\"");
    setup.write();
    let path = setup.folder().join("proxy.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut early = Client::unix(&path).await;
    early.send(&RawRequest::get("/early")).await;
    // A single socket can be passed by a shell: it comes as its standard input.
    let script = "export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=main; exec \"$0\" run 3<&0 </dev/null";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_bearerd")]).kill_on_drop(true);
    command.current_dir(setup.folder()).stderr(Stdio::piped()).stdout(Stdio::null());
    command.stdin(std::os::fd::OwnedFd::from(listener.try_clone().unwrap()));
    let mut proxy = Bearerd::spawn(setup.shared_folder(), command).await;
    early.response().await.expect_status(200);
    assert_eq!(proxy.stop().await.code(), Some(0));
    assert!(path.exists(), "the file is the service manager's");
    // Nobody is refused between two runs.
    Client::unix(&path).await.send(&RawRequest::get("/late")).await;
}

#[tokio::test]
#[ignore = "needs python3"]
async fn socket_that_fits_no_listener_is_refused_in_words() {
    let setup = Setup::new().await;
    setup.write();
    let said = refused(&setup, "bearerd.socket", "127.0.0.1:0", &[]).await;
    assert!(said.contains("`bearerd.socket`") && said.contains("FileDescriptorName="), "{said}");
    assert!(said.contains("one of main, admin"), "{said}");
}

/// What the config says of callers is about the address that it names.
#[tokio::test]
#[ignore = "needs python3"]
async fn socket_that_is_elsewhere_than_the_config_says_is_refused() {
    let setup = Setup::new().await.listener("address = \"127.0.0.1:8080\"");
    setup.write();
    let said = refused(&setup, "main", "0.0.0.0:0", &[]).await;
    assert!(said.contains("listener `main`") && said.contains("0.0.0.0:"), "{said}");
    assert!(said.contains("the config says 127.0.0.1:8080") && said.contains("ListenStream="), "{said}");
}

#[tokio::test]
#[ignore = "needs python3"]
async fn socket_file_that_lets_in_more_than_the_config_says_is_refused() {
    let setup = Setup::new().await.listener("address = \"unix:{folder}/proxy.sock\"");
    setup.write();
    let place = setup.folder().join("proxy.sock");
    let said = refused(&setup, "main", place.to_str().unwrap(), &[("SOCKET_MODE", "666")]).await;
    assert!(said.contains("mode 0666") && said.contains("SocketMode=0600"), "{said}");
}

/// Whoever may write to the file can send requests, so its group must be the one that the config names.
#[tokio::test]
#[ignore = "needs python3"]
async fn socket_file_of_another_group_is_refused() {
    let keys = "address = \"unix:{folder}/proxy.sock\"\nmode = \"0660\"\ngroup = \"54321\"";
    let setup = Setup::new().await.listener(keys);
    setup.write();
    let place = setup.folder().join("proxy.sock");
    let said = refused(&setup, "main", place.to_str().unwrap(), &[("SOCKET_MODE", "660")]).await;
    assert!(said.contains("lets in the group") && said.contains("SocketGroup=54321"), "{said}");
}

/// As after `sudo -E` in a service: the variables are there, and meant for somebody else.
#[tokio::test]
async fn sockets_of_another_process_are_left_alone() {
    let setup = Setup::new().await;
    let env = [("LISTEN_PID", "1"), ("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "nobody")];
    let setup = env.iter().fold(setup, |setup, (name, value)| setup.env(name, value));
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    eventually("readiness", || async { (world.admin("/readyz").await.status == 200).then_some(()) }).await;
}
