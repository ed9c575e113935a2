//! Keycloak, installed and prepared once by Maven, and started by the tests that need it.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::tls::{ca, localhost};

pub const VERSION: &str = "26.5.6";

/// How long the start of a Java server may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs a server that never outlives the test that started it.
const UNTIL_STDIN_ENDS: &str = "exec 3<&0
sh \"$@\" </dev/null 3<&- & server=$!
{ cat <&3 >/dev/null; kill $server; } &
wait $server";

/// One server with a database of its own, on ports that stay the same when it is started again.
pub struct Keycloak {
    pub http: SocketAddr,
    pub https: SocketAddr,
    folder: TempDir,
    running: Option<Child>,
}

impl Keycloak {
    /// Starts a server that has `realm` as its realm `test`. It waits in the calling thread.
    pub fn start(realm: &Value) -> Self {
        let prepared = prepared(realm);
        let folder = tempfile::Builder::new().prefix("bearerd-keycloak-").tempdir().unwrap();
        for shared in ["lib", "conf", "providers", "themes", "version.txt"] {
            std::os::unix::fs::symlink(prepared.join(shared), folder.path().join(shared)).unwrap();
        }
        // Where the script lies is where the server looks for all the rest.
        std::fs::create_dir_all(folder.path().join("bin")).unwrap();
        std::fs::copy(prepared.join("bin/kc.sh"), folder.path().join("bin/kc.sh")).unwrap();
        run(Command::new("cp").arg("-r").args([prepared.join("data"), folder.path().join("data")]));
        let server = localhost();
        std::fs::write(folder.path().join("cert.pem"), server.certificate_pem).unwrap();
        std::fs::write(folder.path().join("key.pem"), server.key_pem).unwrap();
        std::fs::write(folder.path().join("ca.pem"), &ca().pem).unwrap();
        let [http, https] = free_addresses();
        let mut this = Self { http, https, folder, running: None };
        this.start_again();
        this
    }

    /// The address of the realm `test`.
    pub fn realm(&self) -> String {
        format!("http://{}/realms/test", self.http)
    }

    pub fn stop(&mut self) {
        if let Some(mut child) = self.running.take() {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }

    pub fn start_again(&mut self) {
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let mut child = Command::new("sh")
            .args(["-c", UNTIL_STDIN_ENDS, "sh", "bin/kc.sh"])
            .args(["start", "--optimized", "--cache=local", "--hostname-strict=false", "--http-enabled=true"])
            .args(["--http-host=127.0.0.1", &format!("--http-port={}", self.http.port())])
            .args(["--https-certificate-file=cert.pem", "--https-certificate-key-file=key.pem"])
            .args(["--truststore-paths=ca.pem", &format!("--https-port={}", self.https.port())])
            .current_dir(self.folder.path())
            .env("JAVA_OPTS_APPEND", "-XX:TieredStopAtLevel=1")
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("a shell");
        let started = Instant::now();
        while !answers(self.http) {
            let runs = matches!(child.try_wait(), Ok(None)) && started.elapsed() < PATIENCE;
            assert!(runs, "Keycloak does not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(200));
        }
        self.running = Some(child);
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Keycloak {
    fn drop(&mut self) {
        self.stop();
    }
}

fn answers(address: SocketAddr) -> bool {
    use std::io::Write;
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let request = b"GET /realms/test HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let mut head = [0; 12];
    stream.write_all(request).is_ok() && stream.read_exact(&mut head).is_ok() && head.ends_with(b" 200")
}

fn free_addresses() -> [SocketAddr; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}

/// Where Keycloak is, built and with the realm in its database: once a checkout, however many tests and test runs want it
/// at the same time.
fn prepared(realm: &Value) -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| prepare(&realm.to_string()))
}

fn prepare(realm: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("keycloak-{VERSION}"));
    std::fs::create_dir_all(&folder).unwrap();
    let lock = std::fs::File::create(folder.join(".lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let server = folder.join(format!("keycloak-{VERSION}"));
    if !folder.join(".built").exists() {
        download(&folder);
        let _ = std::fs::remove_dir_all(&server);
        run(Command::new("jar").args(["--extract", "--file"]).arg(archive(&folder)).current_dir(&folder));
        run(kc(&server).args(["build", "--db=dev-file", "--https-client-auth=request"]));
        std::fs::write(folder.join(".built"), "").unwrap();
    }
    if !std::fs::read_to_string(folder.join(".imported")).is_ok_and(|found| found == realm) {
        let _ = std::fs::remove_dir_all(server.join("data"));
        std::fs::write(folder.join("realm.json"), realm).unwrap();
        run(kc(&server).args(["import", "--optimized", "--file"]).arg(folder.join("realm.json")));
        std::fs::write(folder.join(".imported"), realm).unwrap();
    }
    server
}

fn archive(folder: &Path) -> PathBuf {
    folder.join(format!("keycloak-quarkus-dist-{VERSION}.zip"))
}

fn download(folder: &Path) {
    if archive(folder).exists() {
        return;
    }
    run(Command::new("mvn")
        .args(["--batch-mode", "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"])
        .arg(format!("-Dartifact=org.keycloak:keycloak-quarkus-dist:{VERSION}:zip"))
        .arg(format!("-DoutputDirectory={}", folder.display()))
        .current_dir(folder));
}

fn kc(server: &Path) -> Command {
    let mut command = Command::new("sh");
    command.arg(server.join("bin/kc.sh")).current_dir(server);
    command
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| {
        panic!("the tests against Keycloak need Java and Maven: {command:?} could not be started: {error}")
    });
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{command:?} failed: {said}{}", String::from_utf8_lossy(&output.stderr));
}
