//! A real Prometheus, from the Debian package, that scrapes what the test tells it to.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Mutex;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::{Client, RawRequest, eventually, within};

const CONFIG: &str = "\
global: { scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms }
rule_files: [rules.yaml]
scrape_configs:
  - job_name: bearerd
    file_sd_configs: [{ files: [targets.json], refresh_interval: 1s }]
";

pub struct Prometheus {
    address: SocketAddr,
    folder: TempDir,
    targets: Mutex<BTreeMap<String, SocketAddr>>,
    _child: Child,
}

/// One that Prometheus holds to be firing.
pub struct Firing {
    pub alert: String,
    /// Empty where it is about none.
    pub instance: String,
    /// As people get to read them.
    pub annotations: Vec<String>,
}

impl Prometheus {
    /// Scrapes nothing yet.
    pub async fn start(rules: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("bearerd-").tempdir().unwrap();
        std::fs::write(folder.path().join("prometheus.yaml"), CONFIG).unwrap();
        std::fs::write(folder.path().join("rules.yaml"), rules).unwrap();
        std::fs::write(folder.path().join("targets.json"), "[]").unwrap();
        let mut child = Command::new("prometheus")
            .args(["--config.file=prometheus.yaml", "--storage.tsdb.path=data"])
            .args(["--web.listen-address=127.0.0.1:0", "--no-storage.tsdb.wal-compression"])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("`prometheus` could not be started: install the package prometheus");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let listening = async {
            let mut said = String::new();
            while let Some(line) = lines.next_line().await.unwrap() {
                let address =
                    line.split_once("msg=\"Listening on\" address=").map(|(_, address)| address.parse());
                if let Some(address) = address {
                    return address.unwrap();
                }
                said = format!("{said}{line}\n");
            }
            panic!("prometheus ended: {said}");
        };
        let address = within("prometheus to listen", listening).await;
        // A full pipe would stop it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        // It listens before its storage is ready.
        eventually("prometheus to be ready", || async move {
            let response = Client::tcp(address).await.exchange(&RawRequest::get("/-/ready")).await;
            (response.status == 200).then_some(())
        })
        .await;
        Self { address, folder, targets: Mutex::default(), _child: child }
    }

    /// Scrapes this one too, as `instance`.
    pub fn scrape(&self, instance: &str, address: SocketAddr) {
        let mut targets = self.targets.lock().unwrap();
        targets.insert(instance.to_owned(), address);
        let groups: Vec<Value> = targets
            .iter()
            .map(|(instance, address)| {
                json!({ "targets": [address.to_string()], "labels": { "instance": instance } })
            })
            .collect();
        let new = self.folder.path().join("new");
        std::fs::write(&new, Value::from(groups).to_string()).unwrap();
        std::fs::rename(new, self.folder.path().join("targets.json")).unwrap();
    }

    async fn ask(&self, target: &str) -> Value {
        let response = Client::tcp(self.address).await.exchange(&RawRequest::get(target)).await;
        response.expect_status(200);
        response.json()["data"].take()
    }

    /// The first value of an instant query.
    pub async fn query(&self, query: &str) -> Option<f64> {
        let query = utf8_percent_encode(query, NON_ALPHANUMERIC);
        let data = self.ask(&format!("/api/v1/query?query={query}")).await;
        data["result"][0]["value"][1].as_str()?.parse().ok()
    }

    pub async fn firing(&self) -> Vec<Firing> {
        let data = self.ask("/api/v1/alerts").await;
        let alerts = data["alerts"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        alerts
            .filter(|alert| alert["state"] == "firing")
            .map(|alert| Firing {
                alert: text(&alert["labels"]["alertname"]),
                instance: text(&alert["labels"]["instance"]),
                annotations: alert["annotations"].as_object().unwrap().values().map(text).collect(),
            })
            .collect()
    }
}
