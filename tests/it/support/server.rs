//! Servers that nobody here wrote: each is prepared once a checkout, and started by the tests that need it.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

use super::blocking::wait_at_most;

/// How long the start or the end of a server may take on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long a package manager may take, so that a registry that does not respond fails the test.
const PATIENCE_FOR_PACKAGES: Duration = Duration::from_secs(480);

/// Runs a program that never outlives the test that started it.
const UNTIL_STDIN_ENDS: &str = "exec 3<&0
\"$@\" </dev/null 3<&- & server=$!
{ cat <&3 >/dev/null; kill $server; } &
wait $server";

/// Java servers are slow to start, and all at once they are slower than one after the other.
static STARTING: Mutex<()> = Mutex::new(());

/// One server with a folder of its own, on a port that stays the same when it is started again.
pub struct Server {
    pub address: SocketAddr,
    pub folder: TempDir,
    command: Command,
    ready: Option<&'static str>,
    running: Option<Child>,
}

impl Server {
    /// Starts what [`command`] made, and waits in this thread until the server has a page at `ready`, or takes
    /// connections.
    pub fn start(
        folder: TempDir,
        address: SocketAddr,
        ready: Option<&'static str>,
        mut command: Command,
    ) -> Self {
        let log = File::create(folder.path().join("log")).unwrap();
        command.current_dir(folder.path()).stdin(Stdio::piped());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let mut this = Self { address, folder, command, ready, running: None };
        this.start_again();
        this
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn stop(&mut self) {
        let Some(mut child) = self.running.take() else { return };
        drop(child.stdin.take());
        let ended = wait_at_most(PATIENCE, || !matches!(child.try_wait(), Ok(None)));
        assert!(ended, "the server does not end: {}", self.log());
    }

    pub fn start_again(&mut self) {
        let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut child = self.command.spawn().expect("a shell");
        let started = wait_at_most(PATIENCE, || {
            assert!(matches!(child.try_wait(), Ok(None)), "the server does not start: {}", self.log());
            is_ready(self.address, self.ready)
        });
        assert!(started, "the server is not ready: {}", self.log());
        self.running = Some(child);
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A server that hangs is no reason to panic here.
        if let Some(child) = &mut self.running {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }
}

/// The program of a server; its arguments follow. Where it is missing, `needs` says what to install.
pub fn command(program: &str, needs: &str) -> Command {
    let found = Command::new("sh").args(["-c", "command -v \"$0\" >/dev/null", program]).status();
    assert!(found.expect("a shell").success(), "this test needs {program}: {needs}");
    let mut command = Command::new("sh");
    command.args(["-c", UNTIL_STDIN_ENDS, "sh", program]);
    command
}

fn is_ready(address: SocketAddr, page: Option<&str>) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    let Some(path) = page else { return true };
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let mut head = [0; 12];
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_exact(&mut head).is_ok()
        && head.ends_with(b" 200")
}

pub fn folder() -> TempDir {
    tempfile::Builder::new().prefix("bearerd-server-").tempdir().unwrap()
}

/// A folder that `prepare` filled from what `sources` says: once a checkout, however many tests and test runs want it at
/// the same time, and again where `sources` changed.
pub fn prepared(name: &str, sources: &str, prepare: impl FnOnce(&Path)) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let lock = File::create(folder.join(".lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let done = folder.join(".prepared");
    if !std::fs::read_to_string(&done).is_ok_and(|found| found == sources) {
        let _ = std::fs::remove_file(&done);
        prepare(&folder);
        std::fs::write(&done, sources).unwrap();
    }
    folder
}

/// Where the project `tests/NAME` is with what `build` makes of it there. `files` are all that it has.
pub fn built(name: &str, files: &[&str], build: impl FnOnce(&Path)) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name);
    let texts = files.iter().map(|file| std::fs::read_to_string(source.join(file)).unwrap());
    prepared(name, &texts.collect::<String>(), |folder| {
        for file in files {
            std::fs::create_dir_all(folder.join(file).parent().unwrap()).unwrap();
            std::fs::copy(source.join(file), folder.join(file)).unwrap();
        }
        build(folder);
    })
}

/// The same with a package of npm, and its `server.mjs` where it has one.
pub fn npm_installed(name: &str) -> PathBuf {
    let all = ["package.json", "package-lock.json", "server.mjs"];
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name);
    let files: Vec<&str> = all.into_iter().filter(|file| source.join(file).exists()).collect();
    built(name, &files, |folder| {
        run(
            Command::new("npm")
                .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
                .current_dir(folder),
            NODE,
        );
    })
}

pub const NODE: &str = "install Node 20 or later, which Debian's own may not be";
pub const JAVA: &str = "apt-get install --no-install-recommends maven openjdk-17-jdk-headless";

/// Runs a program to its end. Where it is missing, `needs` says what to install.
pub fn run(command: &mut Command, needs: &str) {
    let mut said = tempfile::tempfile().unwrap();
    command.stdin(Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said.try_clone().unwrap());
    let mut child = command.spawn().unwrap_or_else(|error| {
        panic!("this test needs {}: {needs} ({error})", command.get_program().display())
    });
    let mut status = None;
    wait_at_most(PATIENCE_FOR_PACKAGES, || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    let ended = match status {
        Some(status) if status.success() => return,
        Some(status) => status.to_string(),
        None => format!("not done after {PATIENCE_FOR_PACKAGES:?}"),
    };
    let _ = child.kill();
    let mut text = String::new();
    said.rewind().unwrap();
    let _ = said.read_to_string(&mut text);
    panic!(
        "{command:?}: {ended}. This test installs packages: can their registry be reached? It says: {text}"
    );
}
