//! Real servers of Redis or Valkey: one, a cluster of three, or a primary with its replica and Sentinels. The library's own
//! tests use this file too, so it uses only `blocking.rs` of this folder.

#![allow(dead_code, reason = "the front-door tests and the library's own use different parts")]

use std::fmt::Write as _;
use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::blocking::{nobody, wait_for};

pub const REDIS: &str = "redis-server";
pub const VALKEY: &str = "valkey-server";

/// Whether the program is there.
pub fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

/// A server that ends with this. It listens on TCP and on a Unix socket, keeps nothing on disk, and lets tests on its Unix
/// socket do anything.
pub struct RedisServer {
    /// Of TCP, with TLS where it has TLS.
    pub port: u16,
    folder: tempfile::TempDir,
    program: &'static str,
    options: String,
    child: Option<Child>,
    /// Of the user `default`.
    password: Option<String>,
}

impl RedisServer {
    pub fn start() -> Self {
        Self::with("")
    }

    /// With more lines of `redis.conf`.
    pub fn with(options: &str) -> Self {
        Self::of(REDIS, options)
    }

    pub fn of(program: &'static str, options: &str) -> Self {
        Self::on_a_free_port(program, |port| format!("port {port}\nsave \"\"\nappendonly no\n{options}\n"))
    }

    /// With TLS on TCP.
    pub fn with_tls(certificate: &Path, key: &Path, ca: &Path, options: &str) -> Self {
        Self::on_a_free_port(REDIS, |port| {
            format!(
                "port 0\ntls-port {port}\ntls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}\nsave \"\"\n{options}\n",
                certificate.display(),
                key.display(),
                ca.display()
            )
        })
    }

    fn on_a_free_port(program: &'static str, options: impl Fn(u16) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().display();
        let port = nobody().port();
        let mut options = options(port);
        write!(options, "bind 127.0.0.1\ndir {dir}\nlogfile {dir}/log\nunixsocket {dir}/socket\n").unwrap();
        let mut server = Self { port, folder, program, options, child: None, password: None };
        server.begin();
        server
    }

    /// Starts the program again, without what it held.
    pub fn restart(&mut self) {
        self.kill();
        self.begin();
    }

    fn begin(&mut self) {
        let config = self.folder.path().join("conf");
        // A Sentinel writes what it learns into its file.
        if !config.exists() || !self.is_sentinel() {
            std::fs::write(&config, &self.options).unwrap();
        }
        let mut command = Command::new(self.program);
        command.arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("needs {}: {error}", self.program));
        let (socket, child) = (self.socket(), self.child.insert(child));
        wait_for(self.program, || {
            assert_eq!(child.try_wait().unwrap(), None, "{} does not start", self.program);
            TcpStream::connect(("127.0.0.1", self.port)).is_ok() && UnixStream::connect(&socket).is_ok()
        });
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    fn is_sentinel(&self) -> bool {
        self.program == "redis-sentinel"
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Runs a command as the user `default`, and returns what `redis-cli` prints.
    pub fn cli(&self, arguments: &[&str]) -> String {
        self.try_cli(arguments).expect("redis-cli runs")
    }

    fn try_cli(&self, arguments: &[&str]) -> io::Result<String> {
        let mut command = Command::new("redis-cli");
        if let Some(password) = &self.password {
            command.env("REDISCLI_AUTH", password);
        }
        let output = command.arg("-s").arg(self.socket()).args(arguments).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// A line of `INFO`.
    pub fn info(&self, name: &str) -> String {
        self.line(&["INFO"], name)
    }

    fn line(&self, command: &[&str], name: &str) -> String {
        let info = self.cli(command);
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_default().trim().to_owned()
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Until [`Self::go_on`], the server does nothing, but its sockets stay open.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the server runs");
        kill_process(Pid::from_child(child), signal).unwrap();
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Three servers that share the slots, each with a replica if wanted.
pub struct RedisCluster {
    pub servers: Vec<RedisServer>,
}

impl RedisCluster {
    /// The first three are the primaries.
    pub fn start(replicas: bool) -> Self {
        let count = if replicas { 6 } else { 3 };
        let start = || {
            RedisServer::with(&format!(
                "cluster-enabled yes\ncluster-port {}\ncluster-node-timeout 1000\ncluster-config-file nodes\n\
                 repl-diskless-sync-delay 0\n",
                nobody().port()
            ))
        };
        let this = Self { servers: (0..count).map(|_| start()).collect() };
        for (index, range) in [(0, ("0", "5460")), (1, ("5461", "10922")), (2, ("10923", "16383"))] {
            assert_eq!(this.servers[index].cli(&["CLUSTER", "ADDSLOTSRANGE", range.0, range.1]), "OK");
            let epoch = (index + 1).to_string();
            assert_eq!(this.servers[index].cli(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]), "OK");
        }
        for server in &this.servers[1..] {
            let (port, bus) = (this.servers[0].port.to_string(), this.servers[0].bus());
            assert_eq!(server.cli(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]), "OK");
        }
        wait_for("the cluster's servers to know each other", || {
            this.servers.iter().all(|server| server.cluster_info("cluster_known_nodes") == count.to_string())
        });
        if replicas {
            for (primary, replica) in this.servers[..3].iter().zip(&this.servers[3..]) {
                let id = primary.cli(&["CLUSTER", "MYID"]);
                wait_for("a replica", || replica.cli(&["CLUSTER", "REPLICATE", &id]) == "OK");
            }
            wait_for("the replicas", || {
                this.servers[3..].iter().all(|replica| replica.info("master_link_status") == "up")
            });
        }
        wait_for("the cluster", || {
            this.servers.iter().all(|server| server.cluster_info("cluster_state") == "ok")
        });
        this
    }

    /// Which of the servers has a slot.
    pub fn owner(&self, slot: &str) -> usize {
        let asked = self.servers.iter().find(|server| server.child.is_some()).expect("one server runs");
        let slots = asked.cli(&["CLUSTER", "NODES"]);
        let slot: u32 = slot.parse().unwrap();
        let owns = |range: &str| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            first.parse().is_ok_and(|first: u32| first <= slot)
                && last.parse().is_ok_and(|last: u32| slot <= last)
        };
        let line =
            slots.lines().find(|line| line.split(' ').skip(8).any(owns)).expect("somebody has the slot");
        let address = line.split(' ').nth(1).unwrap();
        let port = address.split('@').next().unwrap().rsplit(':').next().unwrap();
        self.servers.iter().position(|server| server.port.to_string() == port).unwrap()
    }
}

impl RedisServer {
    fn cluster_info(&self, name: &str) -> String {
        self.line(&["CLUSTER", "INFO"], name)
    }

    fn bus(&self) -> String {
        let line = self.options.lines().find_map(|line| line.strip_prefix("cluster-port "));
        line.expect("a server of a cluster").to_owned()
    }
}

/// A primary with one replica, watched by three Sentinels that call it `tokens`.
pub struct RedisSentinels {
    pub primary: RedisServer,
    pub replica: RedisServer,
    pub sentinels: Vec<RedisServer>,
}

impl RedisSentinels {
    /// With more lines of `redis.conf` for both servers, and of `sentinel.conf`, and their password.
    pub fn start(options: &str, sentinel_options: &str, password: Option<&str>) -> Self {
        let mut primary = RedisServer::with(options);
        let fast = "repl-diskless-sync-delay 0\nrepl-ping-replica-period 1\n";
        let mut replica =
            RedisServer::with(&format!("{options}\n{fast}replicaof 127.0.0.1 {}\n", primary.port));
        for server in [&mut primary, &mut replica] {
            server.password = password.map(str::to_owned);
        }
        wait_for("the replica", || replica.info("master_link_status") == "up");
        let options = |port| {
            format!(
                "port {port}\nsentinel monitor tokens 127.0.0.1 {} 2\nsentinel down-after-milliseconds tokens 500\n\
                 sentinel failover-timeout tokens 3000\n{sentinel_options}\n",
                primary.port
            )
        };
        let sentinels = (0..3).map(|_| RedisServer::on_a_free_port("redis-sentinel", options)).collect();
        let this = Self { primary, replica, sentinels };
        wait_for("the Sentinels to know each other and the replica", || {
            this.sentinels.iter().all(|sentinel| {
                let seen = sentinel.cli(&["SENTINEL", "MASTER", "tokens"]);
                let value =
                    |name: &str| seen.lines().skip_while(|line| *line != name).nth(1).map(str::to_owned);
                value("num-slaves").as_deref() == Some("1")
                    && value("num-other-sentinels").as_deref() == Some("2")
                    && value("flags").as_deref() == Some("master")
            })
        });
        this
    }
}
