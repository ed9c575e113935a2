//! A real SPIRE server and agent: registration, rotation, a restart of the agent. Built from `tests/tools/spire`, which takes many
//! minutes the first time.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use crate::support::{RawResponse, Setup, World, eventually, nobody, wait_at_most};

const ID: &str = "spiffe://example.org/billing";
/// An X.509-SVID of a minute is renewed after half of it.
const LIFETIME: &str = "60";

/// The folder of `spire-server` and `spire-agent`.
fn programs() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("spire");
        let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/spire");
        for program in ["spire-agent", "spire-server"] {
            let built = Command::new("go")
                .args(["build", "-mod=readonly", "-ldflags=-s -w", "-o"])
                .arg(folder.join(program))
                .arg(format!("github.com/spiffe/spire/cmd/{program}"))
                .current_dir(&module)
                .output()
                .unwrap_or_else(|error| panic!("go: {error}: install Go 1.26 or later, and a C compiler"));
            assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        }
        folder
    })
}

/// A program that ends with the test.
struct Running(Child);

impl Running {
    fn start(folder: &Path, program: &str, name: &str) -> Self {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(folder.join(format!("{name}.log")))
            .unwrap();
        let child = Command::new(programs().join(program))
            .args(["run", "-config"])
            .arg(folder.join(format!("{name}.conf")))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Spire {
    folder: tempfile::TempDir,
    agent: Option<Running>,
    _server: Running,
}

impl Spire {
    async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("spire-").tempdir().unwrap();
        let (path, port) = (folder.path().display().to_string(), nobody().port());
        let server = format!(
            r#"server {{
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  socket_path = "{path}/server.sock"
  trust_domain = "example.org"
  data_dir = "{path}/server"
  log_level = "INFO"
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3", connection_string = "{path}/server.sqlite3" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  KeyManager "memory" {{ plugin_data {{}} }}
}}
"#
        );
        std::fs::create_dir(folder.path().join("server")).unwrap();
        std::fs::create_dir(folder.path().join("agent")).unwrap();
        std::fs::write(folder.path().join("server.conf"), server).unwrap();
        let running = Running::start(folder.path(), "spire-server", "server");
        let mut this = Self { folder, agent: None, _server: running };
        eventually("the SPIRE server", || async {
            this.try_server(&["healthcheck"]).status.success().then_some(())
        })
        .await;
        let token = this.server(&["token", "generate", "-spiffeID", "spiffe://example.org/agent"]);
        let token = token.trim().strip_prefix("Token: ").unwrap().to_owned();
        std::fs::write(this.folder.path().join("bundle.pem"), this.server(&["bundle", "show"])).unwrap();
        let agent = format!(
            r#"agent {{
  data_dir = "{path}/agent"
  log_level = "INFO"
  server_address = "127.0.0.1"
  server_port = "{port}"
  socket_path = "{path}/agent.sock"
  trust_bundle_path = "{path}/bundle.pem"
  trust_domain = "example.org"
  join_token = "{token}"
}}
plugins {{
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  KeyManager "disk" {{ plugin_data {{ directory = "{path}/agent" }} }}
  WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
"#
        );
        std::fs::write(this.folder.path().join("agent.conf"), agent).unwrap();
        this.start_agent().await;
        this
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    async fn start_agent(&mut self) {
        self.agent = Some(Running::start(self.folder.path(), "spire-agent", "agent"));
        let socket = self.socket();
        eventually("the SPIRE agent", || async {
            let mut command = Command::new(programs().join("spire-agent"));
            command.arg("healthcheck").arg("-socketPath").arg(&socket);
            command.output().unwrap().status.success().then_some(())
        })
        .await;
    }

    fn stop_agent(&mut self) {
        self.agent = None;
    }

    fn try_server(&self, args: &[&str]) -> Output {
        let mut command = Command::new(programs().join("spire-server"));
        command.args(args).arg("-socketPath").arg(self.folder.path().join("server.sock"));
        command.output().unwrap()
    }

    fn server(&self, args: &[&str]) -> String {
        let output = self.try_server(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// An entry for every program of this user.
    fn register(&self) {
        let selector = format!("unix:uid:{}", rustix::process::getuid().as_raw());
        self.server(&[
            "entry",
            "create",
            "-parentID",
            "spiffe://example.org/agent",
            "-spiffeID",
            ID,
            "-selector",
            &selector,
            "-dns",
            "localhost",
            "-x509SVIDTTL",
            LIFETIME,
            "-jwtSVIDTTL",
            LIFETIME,
        ]);
    }

    /// What the agent itself says of a JWT-SVID.
    fn validated(&self, token: &str, audience: &str) -> String {
        let mut command = Command::new(programs().join("spire-agent"));
        command.args(["api", "validate", "jwt", "-audience", audience, "-svid", token, "-socketPath"]);
        let output = command.arg(self.socket()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

fn updates(world: &World) -> usize {
    world.log().events().iter().filter(|line| line["event"] == "spiffe.updated").count()
}

/// A bearerd whose listener demands SVIDs, and one before it that verifies its SPIFFE ID. Both get their identity, and the tokens of
/// the second, from SPIRE alone.
async fn two(spire: &Spire) -> (World, World) {
    let socket = format!("socket = \"unix:{}\"", spire.socket().display());
    let inner = Setup::new()
        .await
        .listener(&format!("tls = {{ spiffe = {{ client_certificates = true, {socket} }} }}"))
        .route("anonymous = true")
        .start()
        .await;
    let port = inner.address("main").port();
    let outer = Setup::new().await.issuer(&format!(
        "# client_secret\n# client_id\nclient_auth = \"assertion_file\"
         assertion_type = \"urn:ietf:params:oauth:client-assertion-type:jwt-spiffe\"
         assertion = {{ spiffe = {{ audience = \"https://idp.example\", {socket} }} }}"
    ));
    outer.issuer.always(|_, n| RawResponse::token_for(&format!("token-{n}"), 20));
    let outer = outer.route(&format!(
        "upstream = \"https://localhost:{port}\"\ntls = {{ server_name = \"{ID}\", spiffe = {{ {socket} }} }}"
    ));
    (inner, outer.start().await)
}

#[tokio::test]
#[ignore = "needs go"]
async fn spire_gives_identities_rotates_them_and_is_restarted() {
    let mut spire = Spire::start().await;
    let (inner, outer) = two(&spire).await;
    let response = outer.get("/").await;
    response.expect_problem(503, "token_unavailable");
    let said: Value = response.json();
    assert!(said["detail"].as_str().unwrap().contains("create a registration entry"), "{said}");

    // The agent asks the server for new entries every five seconds.
    spire.register();
    eventually("a response through both", || async { (outer.get("/").await.status == 200).then_some(()) })
        .await;
    let assertion = outer.issuer().request(1).await.params("client_assertion")[0].clone();
    let validated = spire.validated(&assertion, "https://idp.example");
    assert!(validated.contains(ID), "{validated}");

    // Two rotations under steady requests, each over a new connection to the inner listener.
    let first = [updates(&inner), updates(&outer)];
    let mut served = 0;
    let rotated = wait_at_most(Duration::from_secs(120), async || {
        outer.get("/").await.expect_status(200);
        served += 1;
        (updates(&inner) >= first[0] + 2 && updates(&outer) >= first[1] + 2).then_some(())
    });
    assert!(rotated.await.is_some(), "no rotation: {:?}", updates(&outer));
    assert!(served > 100, "{served}");
    assert!(outer.issuer().count() >= 3, "JWT-SVIDs went on as well");

    // The agent is away, and back before the SVIDs expire.
    spire.stop_agent();
    outer.log().wait("the end of the stream", |line| line.contains("spiffe.failed")).await;
    outer.get("/").await.expect_status(200);
    let before = updates(&outer);
    spire.start_agent().await;
    eventually("another stream", || async {
        outer.get("/").await.expect_status(200);
        (updates(&outer) > before).then_some(())
    })
    .await;
}
