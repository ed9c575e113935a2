//! gRPC and WebSocket between clients and servers that nobody here wrote: each case ends through bearerd as it does
//! without it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::support::python::python;
use crate::support::{Answer, Setup, within};

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
        setup.issuer.always_this(Answer::token("interop"));
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
