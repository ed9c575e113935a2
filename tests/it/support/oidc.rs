//! oidc-provider, the certified OpenID implementation, installed once and started by the tests that need it.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use super::server::{NODE, npm_installed};
use super::within;

pub struct OidcProvider {
    /// `http://localhost:PORT`, or https.
    pub issuer: String,
    /// The address that asks for client certificates.
    pub alias: Option<String>,
    _child: Child,
    /// The server ends when this is closed.
    _stdin: ChildStdin,
}

impl OidcProvider {
    /// `options` as `tests/oidc-provider/server.mjs` describes them.
    pub async fn start(options: &Value) -> Self {
        let folder = tokio::task::spawn_blocking(|| npm_installed("oidc-provider")).await.unwrap();
        let mut child = Command::new("node")
            .arg("server.mjs")
            .arg(options.to_string())
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("this test needs node: {NODE} ({error})"));
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = within("oidc-provider to start", lines.next_line()).await.unwrap();
        let line: Value = serde_json::from_str(&line.expect("oidc-provider says where it listens")).unwrap();
        Self {
            issuer: line["issuer"].as_str().unwrap().to_owned(),
            alias: line["alias"].as_str().map(str::to_owned),
            _stdin: child.stdin.take().unwrap(),
            _child: child,
        }
    }
}
