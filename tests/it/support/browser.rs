//! A real browser, driven over its DevTools protocol: one page, and all that it asks for, complains of and refuses.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::wait_at_most;

/// A browser starts slowly on a machine that builds beside it.
const PATIENCE: Duration = Duration::from_secs(90);

/// As root there is no sandbox; and the browser is to ask nobody for anything of its own.
const FLAGS: [&str; 11] = [
    "--headless=new",
    "--remote-debugging-port=0",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
];

/// What the page noted of itself: which of its parts the policy refused.
const WATCH: &str = "window.__refused = []; document.addEventListener('securitypolicyviolation', \
                     (event) => window.__refused.push(event.violatedDirective + ' ' + event.blockedURI));";

pub struct Browser {
    /// Ends with this.
    _child: Child,
    _folder: TempDir,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: Option<String>,
    sent: u64,
    events: Vec<Value>,
}

impl Browser {
    /// With an empty page.
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("browser-").tempdir().unwrap();
        let mut child = Command::new(program())
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", folder.path().display()))
            .arg("about:blank")
            .env("HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("chromium starts");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = tokio::time::timeout(PATIENCE, async {
            let mut said = Vec::new();
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(address) = line.strip_prefix("DevTools listening on ") {
                    return address.to_owned();
                }
                said.push(line);
            }
            panic!("chromium ended at once: {}", said.join("\n"));
        })
        .await
        .expect("chromium says where it listens");
        // It goes on talking, and must not be stopped by a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let (socket, _) = tokio_tungstenite::connect_async(address).await.unwrap();
        let mut this =
            Self { _child: child, _folder: folder, socket, session: None, sent: 0, events: Vec::new() };
        this.attach().await;
        this
    }

    async fn attach(&mut self) {
        let target = self.command("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = self.command("Target.attachToTarget", attach).await;
        self.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log", "Network"] {
            self.command(&format!("{domain}.enable"), json!({})).await;
        }
        self.command("Page.addScriptToEvaluateOnNewDocument", json!({ "source": WATCH })).await;
    }

    /// Sends a command and waits for its result.
    pub async fn command(&mut self, method: &str, params: Value) -> Value {
        self.sent += 1;
        let mut message = json!({ "id": self.sent, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        self.socket.send(Message::text(message.to_string())).await.unwrap();
        let answered = tokio::time::timeout(PATIENCE, async {
            loop {
                let message = self.socket.next().await.expect("chromium still runs").unwrap();
                let Ok(text) = message.to_text() else { continue };
                let Ok(value) = serde_json::from_str::<Value>(text) else { continue };
                if value["id"] == self.sent {
                    return value;
                }
                self.events.push(value);
            }
        });
        let answer = answered.await.unwrap_or_else(|_| panic!("no response to {method}"));
        assert!(answer["error"].is_null(), "{method}: {answer}");
        answer["result"].clone()
    }

    pub async fn open(&mut self, url: &str) {
        self.command("Page.navigate", json!({ "url": url })).await;
    }

    /// What the expression comes to, as JSON.
    pub async fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = self.command("Runtime.evaluate", params).await;
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    pub async fn text(&mut self, selector: &str) -> String {
        let expression = format!(
            "[...document.querySelectorAll({})].map((it) => it.innerText).join('\\n')",
            json!(selector)
        );
        self.evaluate(&expression).await.as_str().unwrap().to_owned()
    }

    /// Waits until the expression is true.
    pub async fn until(&mut self, what: &str, expression: &str) {
        let is_true = async || (self.evaluate(expression).await == Value::Bool(true)).then_some(());
        if wait_at_most(PATIENCE, is_true).await.is_none() {
            panic!("waited for {what}; the page says: {}", self.text("body").await);
        }
    }

    /// Waits until this part of the page says this.
    pub async fn says(&mut self, selector: &str, words: &str) {
        let expression = format!(
            "[...document.querySelectorAll({})].some((it) => it.innerText.includes({}))",
            json!(selector),
            json!(words)
        );
        self.until(&format!("{words:?} in {selector}"), &expression).await;
    }

    pub async fn screen(&mut self, width: u32, height: u32, mobile: bool) {
        let scale = if mobile { 2 } else { 1 };
        let params =
            json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile });
        self.command("Emulation.setDeviceMetricsOverride", params).await;
    }

    pub async fn dark(&mut self, dark: bool) {
        let scheme = if dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.command("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    /// The whole page as a picture, for people to look at, in the folder that tests write to.
    pub async fn picture(&mut self, name: &str) -> PathBuf {
        let params = json!({ "format": "png", "captureBeyondViewport": true });
        let result = self.command("Page.captureScreenshot", params).await;
        let bytes =
            base64::engine::general_purpose::STANDARD.decode(result["data"].as_str().unwrap()).unwrap();
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn seen(&self, method: &str) -> impl Iterator<Item = &Value> {
        self.events.iter().filter(move |event| event["method"] == method).map(|event| &event["params"])
    }

    /// Every address that was asked for.
    pub fn requested(&self) -> Vec<String> {
        let urls = self.seen("Network.requestWillBeSent").map(|event| &event["request"]["url"]);
        urls.filter_map(|url| url.as_str().map(str::to_owned)).collect()
    }

    /// What the console and the browser's own log complain of, exceptions included.
    pub fn complaints(&self) -> Vec<String> {
        let console = self.seen("Runtime.consoleAPICalled").map(ToString::to_string);
        let thrown = self.seen("Runtime.exceptionThrown").map(ToString::to_string);
        let log = self.seen("Log.entryAdded").map(|event| event["entry"].to_string());
        console.chain(thrown).chain(log).collect()
    }

    /// Fails where the policy refused anything or the browser complained.
    pub async fn expect_content(&mut self) {
        let refused = self.evaluate("window.__refused").await;
        assert_eq!(refused, json!([]));
        assert_eq!(self.complaints(), [""; 0]);
    }
}

fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join("chromium"))
        .find(|candidate| candidate.is_file())
        .expect("`chromium` is not installed: install the Debian package chromium")
}
