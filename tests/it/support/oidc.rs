//! oidc-provider, the certified OpenID implementation, installed once and started by the tests that need it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

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
        let folder = tokio::task::spawn_blocking(installed).await.unwrap();
        let mut child = Command::new("node")
            .arg("server.mjs")
            .arg(options.to_string())
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the tests against a real issuer need Node.js: `node` could not be started");
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

/// Where the package is installed: once a checkout, however many tests and test runs want it at the same time.
fn installed() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(install)
}

fn install() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oidc-provider");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("oidc-provider");
    std::fs::create_dir_all(&folder).unwrap();
    let lock = std::fs::File::create(folder.join(".lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let wanted = std::fs::read(source.join("package-lock.json")).unwrap();
    let done = folder.join(".installed");
    for file in ["package.json", "package-lock.json", "server.mjs"] {
        std::fs::copy(source.join(file), folder.join(file)).unwrap();
    }
    if std::fs::read(&done).is_ok_and(|found| found == wanted) {
        return folder;
    }
    let output = std::process::Command::new("npm")
        .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
        .current_dir(&folder)
        .output()
        .expect("the tests against a real issuer need Node.js: `npm` could not be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`npm ci` in {} failed: {said}", folder.display());
    std::fs::write(&done, wanted).unwrap();
    folder
}
