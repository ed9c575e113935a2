//! The running program: its log, its addresses, its signals.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::task::JoinHandle;

use super::metrics::{self, Sample};
use super::{Client, RawRequest, Response, cli, eventually, wait_at_most, within};

/// How a reload ends, in the log.
const RELOADED: [&str; 3] =
    ["the config was reloaded", "the config was not reloaded", "files that the config names were read again"];

pub struct Bearerd {
    child: Child,
    folder: Arc<TempDir>,
    log: Log,
    collecting: JoinHandle<()>,
    addresses: BTreeMap<String, String>,
}

/// What the program wrote to stderr, line by line. It writes in the background: a response may be here before its line is.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub fn text(&self) -> String {
        self.lines().join("\n")
    }

    /// The lines as JSON, each one's `fields` lifted to the top.
    pub fn events(&self) -> Vec<Value> {
        self.lines().iter().filter_map(|line| serde_json::from_str(line).ok()).map(flat).collect()
    }

    /// Waits for a line that `wanted` takes.
    pub async fn wait(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let find = || self.lines().into_iter().find(|line| wanted(line));
        eventually(&format!("{what} in the log"), || async { find() }).await
    }

    fn collect(&self, stderr: impl tokio::io::AsyncRead + Unpin + Send + 'static) -> JoinHandle<()> {
        let log = self.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                log.0.lock().unwrap().push(line);
            }
        })
    }
}

fn flat(mut event: Value) -> Value {
    if let Some(Value::Object(fields)) = event.get_mut("fields").map(Value::take) {
        event.as_object_mut().unwrap().extend(fields);
    }
    event
}

impl Bearerd {
    /// Runs `bearerd run` with the folder's `bearerd.toml` and waits until it listens everywhere.
    pub async fn start(folder: Arc<TempDir>, env: &[(&str, &str)]) -> Self {
        let mut command = cli::command(folder.path(), &["run", "--config", "bearerd.toml"]);
        command.envs(env.iter().copied());
        Self::spawn(folder, command).await
    }

    /// As [`Self::start`], for a command that the test put together.
    pub async fn spawn(folder: Arc<TempDir>, mut command: tokio::process::Command) -> Self {
        let text = std::fs::read_to_string(folder.path().join("bearerd.toml")).unwrap();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let log = Log::default();
        let collecting = log.collect(child.stderr.take().unwrap());
        let mut this = Self { child, folder, log, collecting, addresses: BTreeMap::new() };
        for name in listener_names(&text) {
            let address = this.listening(&name).await;
            this.addresses.insert(name, address);
        }
        this
    }

    async fn listening(&mut self, name: &str) -> String {
        let log = self.log.clone();
        eventually(&format!("listener {name}; the log: {}", self.folder.path().display()), || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("bearerd ended at once with {status}: {}", log.text());
            }
            let found = listening_address(&log, name);
            async { found }
        })
        .await
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder, kept for another start.
    pub fn shared_folder(&self) -> Arc<TempDir> {
        Arc::clone(&self.folder)
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The real address of a TCP listener, `admin` included.
    pub fn address(&self, name: &str) -> SocketAddr {
        self.addresses[name].parse().expect("a TCP address")
    }

    /// Waits for a listener that came with a reload.
    pub async fn new_address(&mut self, name: &str) -> SocketAddr {
        self.listening(name).await.parse().expect("a TCP address")
    }

    pub async fn connect(&self) -> Client {
        Client::tcp(self.address("main")).await
    }

    /// One request on a connection of its own.
    pub async fn exchange(&self, request: RawRequest) -> Response {
        self.connect().await.exchange(&request).await
    }

    pub async fn get(&self, target: &str) -> Response {
        self.exchange(RawRequest::get(target)).await
    }

    pub async fn admin(&self, target: &str) -> Response {
        Client::tcp(self.address("admin")).await.exchange(&RawRequest::get(target)).await
    }

    /// Waits until `/readyz` says yes.
    pub async fn ready(&self) {
        eventually("/readyz to say 200", || async {
            (self.admin("/readyz").await.status == 200).then_some(())
        })
        .await;
    }

    pub async fn metrics(&self) -> Vec<Sample> {
        metrics::parse(&self.admin("/metrics").await.text())
    }

    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        metrics::sum(&self.metrics().await, name, labels)
    }

    pub async fn status(&self) -> Value {
        self.admin("/status").await.json()
    }

    pub fn pid(&self) -> Pid {
        let pid = self.child.id().expect("bearerd still runs");
        Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    pub fn reload_signal(&self) {
        self.signal(Signal::HUP);
    }

    /// SIGHUP, and waits until it was taken in, well or not. A reload that a changed file began may end between the two, so the
    /// log says which one this is, unless it is at a level that does not.
    pub async fn reload(&self) {
        let (before, lines) = (self.reloads().await, self.log.lines().len());
        self.reload_signal();
        let ended = async || {
            let log = self.log.lines();
            let mut log = log.iter().skip(lines);
            let begun = log.any(|line| line.contains("SIGHUP: loading the config again"));
            let is_end = |line: &String| RELOADED.iter().any(|words| line.contains(words));
            (begun && log.any(is_end)).then_some(())
        };
        wait_at_most(Duration::from_secs(5), ended).await;
        eventually("the reload", || async { (self.reloads().await > before).then_some(()) }).await;
    }

    async fn reloads(&self) -> f64 {
        self.metric("bearerd_config_reloads_total", &[]).await.unwrap_or(0.0)
    }

    /// Waits for the end. The log is complete then.
    pub async fn exit(&mut self) -> ExitStatus {
        let status = within("bearerd to end", self.child.wait()).await.unwrap();
        if !self.collecting.is_finished() {
            within("the end of the log", &mut self.collecting).await.unwrap();
        }
        status
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.exit().await
    }

    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Resident memory in KiB.
    pub fn memory(&self) -> u64 {
        self.memory_of("VmRSS:")
    }

    /// The most that [`Self::memory`] ever was.
    pub fn peak_memory(&self) -> u64 {
        self.memory_of("VmHWM:")
    }

    fn memory_of(&self, name: &str) -> u64 {
        let pid = self.child.id().expect("bearerd still runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Processor time used so far.
    pub fn processor_time(&self) -> Duration {
        let pid = self.child.id().expect("bearerd still runs");
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }
}

/// `admin` and every `[listener.NAME]`.
fn listener_names(text: &str) -> Vec<String> {
    let config: toml::Table = toml::from_str(text).expect("the test's config is TOML");
    let listeners = config.get("listener").and_then(toml::Value::as_table).cloned().unwrap_or_default();
    listeners.keys().cloned().chain(["admin".to_owned()]).collect()
}

/// From the log in either format.
fn listening_address(log: &Log, name: &str) -> Option<String> {
    let about = |event: &Value| {
        let message = event["message"].as_str().unwrap_or_default();
        let listener = event["listener"].as_str().or_else(|| event["name"].as_str());
        message.contains("listening") && listener == Some(name)
    };
    let json = log.events().into_iter().rev().find(about);
    json.and_then(|event| event["address"].as_str().map(str::to_owned)).or_else(|| {
        let fields = |line: &str| -> Vec<String> {
            line.replace('"', "").split_whitespace().map(str::to_owned).collect()
        };
        let named = [format!("listener={name}"), format!("name={name}")];
        let lines = log.lines().into_iter().rev().filter(|line| line.contains("listening"));
        let line =
            lines.map(|line| fields(&line)).find(|line| line.iter().any(|field| named.contains(field)))?;
        line.iter().find_map(|field| field.strip_prefix("address=")).map(str::to_owned)
    })
}
