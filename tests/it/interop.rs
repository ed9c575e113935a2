//! Suites and libraries that nobody here wrote: h2spec; gRPC and WebSocket of other makers, whose cases end through bearerd
//! as they do without it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::support::python::python;
use crate::support::tls::localhost;
use crate::support::{RawResponse, Setup, within};

struct Suite {
    python: std::path::PathBuf,
    script: std::path::PathBuf,
}

impl Suite {
    async fn new(script: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop");
        Self { python: python("interop").await, script: folder.join(script) }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(&self.script).kill_on_drop(true);
        command
    }

    /// Its server, which ends with its stdin.
    async fn serve(&self) -> (Child, u16) {
        let piped = self.command().arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = piped.unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line =
            within("the server's port", lines.next_line()).await.unwrap().expect("a line with the port");
        (child, line.parse().unwrap())
    }

    /// What came of each case, and the `Authorization` that the server saw.
    async fn ask(&self, port: u16) -> (Vec<String>, String) {
        let asking = self.command().args(["ask", &port.to_string()]).output();
        let output = tokio::time::timeout(Duration::from_secs(120), asking).await.expect("an end").unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        let cases = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
        (cases, errors.trim().to_owned())
    }

    async fn same_through_bearerd(&self, route: &str, at_least: usize) {
        let (_server, port) = self.serve().await;
        let setup = Setup::new().await;
        setup.issuer.always_this(RawResponse::token("interop"));
        let route = format!("upstream = \"http://127.0.0.1:{port}\"\n{route}");
        let world = setup.route(&route).start().await;
        let (direct, without) = self.ask(port).await;
        let (through, with) = self.ask(world.address("main").port()).await;
        assert!(direct.len() >= at_least, "only {} cases: {direct:?}", direct.len());
        assert_eq!(through, direct);
        assert_eq!((without.as_str(), with.as_str()), ("", "Bearer interop"));
    }
}

#[tokio::test]
#[ignore = "needs python3"]
async fn grpcio_does_not_notice_bearerd() {
    Suite::new("grpc_calls.py").await.same_through_bearerd("protocol = \"http2\"", 33).await;
}

#[tokio::test]
#[ignore = "needs python3"]
async fn websockets_does_not_notice_bearerd() {
    Suite::new("websocket.py").await.same_through_bearerd("", 60).await;
}

const H2SPEC: &str = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible";

/// Runs h2spec, strict tests included, at a listener with these keys, and gives what it printed.
async fn h2spec(listener: &str, arguments: &[&str]) -> String {
    let setup = Setup::new().await;
    let identity = localhost();
    setup.file("server.pem", &identity.certificate_pem);
    setup.file("server.key", &identity.key_pem);
    setup.upstream.always(|_, _| RawResponse::ok("x".repeat(100)));
    let world = setup.listener(listener).start().await;
    run_h2spec(world.address("main").port(), arguments).await
}

/// At this port of this machine.
async fn run_h2spec(port: u16, arguments: &[&str]) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("h2spec");
    let installed = Command::new("go").args(["install", H2SPEC]).env("GOBIN", &folder).output().await;
    let installed = installed.unwrap_or_else(|error| panic!("go: {error}: install Go 1.25 or later"));
    assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));

    let port = port.to_string();
    let running = Command::new(folder.join("h2spec"))
        .args(["--strict", "--timeout", "10", "--port", &port])
        .args(arguments)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(300), running).await.expect("an end").unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
#[ignore = "needs go"]
async fn h2spec_passes_over_tls() {
    let tls = "tls = { certificate = { file = \"server.pem\" }, private_key = { file = \"server.key\" } }";
    let said = h2spec(tls, &["--tls", "--insecure"]).await;
    assert!(said.contains("146 tests, 146 passed, 0 skipped, 0 failed"), "{said}");
}

#[tokio::test]
#[ignore = "needs go"]
async fn h2spec_passes_inside_a_connect() {
    let program = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = program.local_addr().unwrap().port();
    let setup = Setup::new().await.listener("serve = \"forward\"");
    setup.upstream.always(|_, _| RawResponse::ok("x".repeat(100)));
    let world = setup.route(&format!("host = \"localhost:{port}\"")).start().await;
    tokio::spawn(connect_each(program, world.address("main"), format!("localhost:{port}")));
    let said = run_h2spec(port, &["--tls", "--insecure", "--host", "localhost"]).await;
    assert!(said.contains("146 tests, 146 passed, 0 skipped, 0 failed"), "{said}");
}

/// Takes each connection into a CONNECT, as a program does that uses bearerd as its proxy.
async fn connect_each(program: TcpListener, bearerd: SocketAddr, authority: String) {
    let head = format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n\r\n");
    while let Ok((mut caller, _)) = program.accept().await {
        let head = head.clone();
        tokio::spawn(async move {
            let mut inside = BufReader::new(TcpStream::connect(bearerd).await.unwrap());
            inside.write_all(head.as_bytes()).await.unwrap();
            let mut line = String::new();
            while line != "\r\n" {
                line.clear();
                inside.read_line(&mut line).await.unwrap();
            }
            let _ = copy_bidirectional(&mut caller, &mut inside).await;
        });
    }
}

/// What is no preface of HTTP/2 is taken for HTTP/1 there, and refused in its words: h2spec waits for a close alone.
#[tokio::test]
#[ignore = "needs go"]
async fn h2spec_passes_without_tls_but_for_the_invalid_preface() {
    let said = h2spec("", &[]).await;
    let failures = said.split("Failures:").nth(1).unwrap_or_default();
    assert!(said.contains("146 tests, 145 passed, 0 skipped, 1 failed"), "{said}");
    assert!(failures.contains("Sends invalid connection preface"), "{failures}");
}
