//! `bearerd exec -- COMMAND`: the program is as if bearerd were not there, except that its requests get tokens.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::ServerName;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio_rustls::TlsConnector;

use crate::support::egress::Egress;
use crate::support::{
    Client, Gate, RawRequest, RawResponse, Response, Scripted, Setup, Wire, cli, eventually, terminal, tls,
    within,
};

const HOST: &str = "api.example.com";

/// A config without a listener, as for `bearerd exec`.
pub async fn setup() -> Setup {
    setup_with("").await
}

/// With more keys of the route.
async fn setup_with(keys: &str) -> Setup {
    let setup = Setup::new().await.whole(&format!(
        "[issuer.corp]\ntoken_url = \"{{issuer}}/token\"\nclient_id = \"c\"\nclient_secret = {{ file = \"secret\" }}\n\
         [[route]]\nname = \"api\"\nhost = \"{HOST}\"\nupstream = \"{{upstream}}\"\nissuer = \"corp\"\n{keys}"
    ));
    setup.write();
    // Else a warning says that others may read it.
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(setup.folder().join("secret"), private).unwrap();
    setup
}

async fn run(setup: &Setup, command: &[&str]) -> cli::Output {
    cli::run(setup.folder(), &[&["exec", "--"], command].concat()).await
}

async fn shell(setup: &Setup, script: &str) -> cli::Output {
    run(setup, &["sh", "-c", script]).await
}

/// A program that runs until its standard input ends.
struct Program {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Program {
    /// `script` ends itself, or at the end of standard input.
    fn start(setup: &Setup, options: &[&str], script: &str) -> Self {
        Self::start_with(setup, options, script, &[])
    }

    fn start_with(setup: &Setup, options: &[&str], script: &str, variables: &[(&str, &str)]) -> Self {
        // A shell that runs the tests in the background makes them ignore SIGINT and SIGQUIT, which a program inherits. And in a
        // group of its own, bearerd does not take what the tests send for the terminal's.
        let bearerd = env!("CARGO_BIN_EXE_bearerd");
        let args =
            [&["--default-signal=INT,QUIT", bearerd, "exec"], options, &["--", "sh", "-c", script]].concat();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut command = tokio::process::Command::new("env");
        command.args(args).current_dir(setup.folder()).env_clear().env("PATH", path).process_group(0);
        command.envs(variables.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        within("a line of the program", self.output.read_line(&mut line)).await.unwrap();
        line.trim_end().to_owned()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id().unwrap()).unwrap()).unwrap()
    }

    async fn end(mut self) -> (i32, String, String) {
        drop(self.input.take());
        let (mut rest, mut errors) = (String::new(), String::new());
        within("the program to end", self.output.read_to_string(&mut rest)).await.unwrap();
        let status = within("bearerd to end", self.child.wait()).await.unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).await.unwrap();
        (status.code().unwrap_or(-1), rest, errors)
    }
}

/// What a program's variables say.
struct Variables {
    address: String,
    userinfo: String,
    bundle: PathBuf,
}

const SHOW: &str = "echo \"$HTTPS_PROXY\"; echo \"$SSL_CERT_FILE\"; cat >/dev/null";

impl Variables {
    async fn of(program: &mut Program) -> Self {
        let proxy = program.line().await;
        let bundle = program.line().await.into();
        let rest = proxy.strip_prefix("http://").unwrap_or_else(|| panic!("no proxy: {proxy}"));
        let (userinfo, address) = rest.split_once('@').unwrap_or(("", rest));
        Self { address: address.to_owned(), userinfo: userinfo.to_owned(), bundle }
    }

    /// As curl sends it.
    fn authorization(&self) -> String {
        format!("proxy-authorization: Basic {}\r\n", STANDARD.encode(&self.userinfo))
    }

    /// TLS inside a CONNECT to [`HOST`].
    async fn inside(&self, fields: &str) -> Client {
        let mut client = Client::tcp(self.address.parse().unwrap()).await;
        client
            .wire
            .send(format!("CONNECT {HOST}:443 HTTP/1.1\r\nhost: {HOST}:443\r\n{fields}\r\n"))
            .await
            .unwrap();
        let head = client.head().await;
        assert_eq!(head.word(1), "200", "{head:?}");
        let config = tls::trusting(&self.bundle, &[]);
        let name = ServerName::try_from(HOST).unwrap();
        let stream = TlsConnector::from(config).connect(name, client.wire.into_stream());
        Client::over(Wire::new(within("TLS", stream).await.unwrap()), HOST)
    }
}

#[tokio::test]
async fn a_programs_request_gets_its_token() {
    let setup = setup().await;
    let mut program = Program::start(&setup, &[], SHOW);
    let variables = Variables::of(&mut program).await;
    let mut client = variables.inside(&variables.authorization()).await;
    let response = client.exchange(&RawRequest::get("/v1/x?y")).await;
    assert_eq!(response.status, 200, "{response:?}");
    let request = setup.upstream.last();
    assert_eq!((request.target(), request.bearer()), ("/v1/x?y", Some("token-1")));
    assert_eq!(request.header("proxy-authorization"), None);
    // A program of the same user that cannot send the field, such as Java.
    assert_eq!(variables.inside("").await.exchange(&RawRequest::get("/v1/z")).await.status, 200);
    // 32 random bytes in base64.
    assert_eq!(variables.userinfo.len(), "bearerd:".len() + 43, "{}", variables.userinfo);
    let folder = variables.bundle.parent().unwrap().to_owned();
    assert!(folder.join("ca.p12").exists() && folder.join("ca.jks").exists());
    let (code, _, errors) = program.end().await;
    assert_eq!((code, &*errors), (0, ""), "quiet");
    assert!(!folder.exists(), "removed");
}

#[tokio::test]
async fn unread_tunnels_go_the_way_that_https_proxy_names() {
    let setup = setup().await;
    let far = Scripted::start(Some(tls::ca().issue(&["far.invalid"]).server(&[]))).await;
    let egress = Egress::to(far.address.unwrap()).await;
    for (name, value, status) in [
        ("HTTPS_PROXY", format!("http://{}", egress.address), "200"),
        ("HTTP_PROXY", format!("http://{}", egress.address), "502"),
        ("HTTPS_PROXY", "socks5://127.0.0.1:1080".to_owned(), "502"),
    ] {
        let before = egress.seen().len();
        let mut program = Program::start_with(&setup, &["--tunnel"], SHOW, &[(name, &value)]);
        let variables = Variables::of(&mut program).await;
        let mut client = Client::tcp(variables.address.parse().unwrap()).await;
        client.wire.send("CONNECT far.invalid:443 HTTP/1.1\r\nhost: far.invalid:443\r\n\r\n").await.unwrap();
        assert_eq!(client.head().await.word(1), status, "{name} {value}");
        assert_eq!(egress.seen().len() - before, usize::from(status == "200"), "{name} {value}");
    }
}

#[tokio::test]
async fn hosts_that_no_route_names_are_refused_or_go_through_unread() {
    let setup = setup().await;
    for (options, expected) in [(&[][..], "403"), (&["--tunnel"], "502")] {
        let mut program = Program::start(&setup, options, SHOW);
        let variables = Variables::of(&mut program).await;
        let mut client = Client::tcp(variables.address.parse().unwrap()).await;
        let authority = "host.invalid:443";
        client.wire.send(format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n\r\n")).await.unwrap();
        let head = client.head().await;
        assert_eq!(head.word(1), expected, "{options:?} {head:?}");
        if expected == "403" {
            let body = within("a body", client.wire.body(&head, true)).await.unwrap();
            let text = String::from_utf8_lossy(&body.data).into_owned();
            for words in ["host = \\\"host.invalid\\\"", "`bearerd exec --tunnel`", &variables.address] {
                assert!(text.contains(words), "{words}: {text}");
            }
            assert!(!text.contains("[listener."), "no file has such a table: {text}");
        }
        program.end().await;
    }
    let for_exec_alone = setup.config().replace("upstream = ", "# upstream = ");
    setup.file("bearerd.toml", for_exec_alone);
    let explained = cli::run(setup.folder(), &["explain", "GET", "https://host.invalid/"]).await;
    assert!(explained.stdout.contains("`bearerd exec --tunnel`"), "{}", explained.stdout);
}

#[tokio::test]
async fn all_variables_are_set_and_the_configs_secrets_are_not() {
    let setup = setup().await;
    let text = setup.config().replace("{ file = \"secret\" }", "{ env = \"CORP_SECRET\" }");
    setup.file("bearerd.toml", text);
    let args =
        ["exec", "--", "sh", "-c", "env; echo; tr '\\0' '\\n' </proc/$PPID/environ | head -1 >/dev/null"];
    let path = setup.folder().join("bearerd.toml");
    let env = [
        ("CORP_SECRET", "hunter2-canary"),
        ("OWN", "1"),
        ("BEARERD_CONFIG", path.to_str().unwrap()),
        ("JAVA_TOOL_OPTIONS", "-Xmx1g"),
    ];
    let output = cli::run_with(setup.folder(), &args, &env).await;
    output.expect_code(0);
    let value = |name: &str| {
        let line = output.stdout.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("no {name}: {}", output.stdout)).to_owned()
    };
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
        assert!(value(name).starts_with("http://bearerd:"), "{name}");
    }
    assert_eq!(value("no_proxy"), "localhost,127.0.0.1,::1");
    assert_eq!(value("NO_PROXY"), value("no_proxy"));
    let files = [
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "NODE_EXTRA_CA_CERTS",
        "GIT_SSL_CAINFO",
        "AWS_CA_BUNDLE",
        "DENO_CERT",
        "PIP_CERT",
        "npm_config_cafile",
        "CARGO_HTTP_CAINFO",
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
        "NIX_SSL_CERT_FILE",
        "PERL_LWP_SSL_CA_FILE",
        "HTTPLIB2_CA_CERTS",
        "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    ];
    for name in files {
        assert!(value(name).ends_with("/ca.pem"), "{name}");
    }
    assert_eq!((value("NODE_USE_ENV_PROXY"), value("OWN")), ("1".to_owned(), "1".to_owned()));
    let java = value("JAVA_TOOL_OPTIONS");
    assert!(java.starts_with("-Xmx1g -Dhttp.proxyHost=127.0.0.1 ") && java.contains("/ca.p12"), "{java}");
    assert!(
        !java.contains(value("HTTP_PROXY").split(':').nth(2).unwrap().split('@').next().unwrap()),
        "Java shows it"
    );
    assert!(!output.stdout.contains("CORP_SECRET") && !output.all().contains("hunter2"), "{}", output.all());
    assert!(!output.stdout.contains("BEARERD_CONFIG"), "{}", output.stdout);
}

/// The value of a variable in what `env` prints. `None`: it is not set.
fn variable<'a>(said: &'a str, name: &str) -> Option<&'a str> {
    said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

#[tokio::test]
async fn what_the_user_exempts_from_a_proxy_stays_except_the_hosts_of_routes() {
    let setup = setup().await;
    let env = [("NO_PROXY", ".corp.example,*.lan,*,.example.com"), ("no_proxy", "10.0.0.0/8 localhost")];
    let output = cli::run_with(setup.folder(), &["exec", "--", "env"], &env).await;
    output.expect_code(0);
    let expected = "localhost,127.0.0.1,::1,10.0.0.0/8,.corp.example,*.lan";
    for name in ["NO_PROXY", "no_proxy"] {
        assert_eq!(variable(&output.stdout, name), Some(expected));
    }
    let java = "-Dhttp.nonProxyHosts=localhost|127.0.0.1|[::1]|*.corp.example|*.lan ";
    assert!(variable(&output.stdout, "JAVA_TOOL_OPTIONS").unwrap().contains(java), "{}", output.stdout);
}

/// Some programs prefer them to `HTTPS_PROXY`.
#[tokio::test]
async fn other_variables_for_a_proxy_lead_to_bearerd_if_they_are_there() {
    let setup = setup().await;
    let env = [
        ("GIT_CONFIG_COUNT", "1"),
        ("GIT_CONFIG_KEY_0", "a.b"),
        ("ALL_PROXY", "socks5://192.0.2.1:1080"),
        ("grpc_proxy", "http://192.0.2.1:1"),
        ("no_grpc_proxy", "*"),
        ("_JAVA_OPTIONS", "-Dhttps.proxyHost=192.0.2.1"),
        ("NPM_CONFIG_CAFILE", "corp.pem"),
        ("CLOUDSDK_PROXY_ADDRESS", "192.0.2.1"),
    ];
    let output = cli::run_with(setup.folder(), &["exec", "--", "env"], &env).await;
    output.expect_code(0);
    let value = |name: &str| variable(&output.stdout, name);
    for name in ["ALL_PROXY", "grpc_proxy"] {
        assert_eq!(value(name), value("HTTPS_PROXY"));
    }
    assert_eq!(value("no_grpc_proxy"), value("NO_PROXY"));
    assert_eq!((value("GIT_CONFIG_COUNT"), value("GIT_CONFIG_KEY_0")), (Some("2"), Some("a.b")));
    assert_eq!(
        (value("GIT_CONFIG_KEY_1"), value("GIT_CONFIG_VALUE_1")),
        (Some("http.proxy"), value("HTTPS_PROXY"))
    );
    assert_eq!((value("all_proxy"), value("npm_config_proxy")), (None, None));
    let java = value("_JAVA_OPTIONS").unwrap();
    assert!(java.starts_with("-Dhttps.proxyHost=192.0.2.1 -Dhttp.proxyHost=127.0.0.1 "), "{java}");
    assert!(java.ends_with(value("JAVA_TOOL_OPTIONS").unwrap()), "{java}");
    assert_eq!(value("NPM_CONFIG_CAFILE"), value("SSL_CERT_FILE"));
    assert_eq!((value("JDK_JAVA_OPTIONS"), value("CLOUDSDK_PROXY_ADDRESS")), (None, None));
    // git takes this for 0.
    let output = cli::run_with(setup.folder(), &["exec", "--", "env"], &[("GIT_CONFIG_COUNT", "")]).await;
    let value = |name: &str| variable(&output.stdout, name);
    assert_eq!((value("GIT_CONFIG_COUNT"), value("GIT_CONFIG_KEY_0")), (Some("1"), Some("http.proxy")));
}

#[tokio::test]
async fn what_the_user_trusts_stays_trusted() {
    let setup = setup().await;
    let (one, other, third) = (tls::ca(), tls::Ca::new("a private CA"), tls::Ca::new("another"));
    setup.file("one.pem", &one.pem);
    setup.file("other.pem", &other.pem);
    setup.file("third.pem", &third.pem);
    let script = "cat \"$SSL_CERT_FILE\"";
    let args = ["exec", "--", "sh", "-c", script];
    let env = [
        ("NODE_EXTRA_CA_CERTS", "one.pem"),
        ("REQUESTS_CA_BUNDLE", "other.pem"),
        ("AWS_CA_BUNDLE", "missing.pem"),
        ("NPM_CONFIG_CAFILE", "third.pem"),
    ];
    let output = cli::run_with(setup.folder(), &args, &env).await;
    output.expect_code(0);
    let without = shell(&setup, script).await;
    for pem in [&one.pem, &other.pem, &third.pem] {
        assert!(output.stdout.contains(pem.trim()) && !without.stdout.contains(pem.trim()));
    }
    let certificates = |output: &cli::Output| output.stdout.matches("BEGIN CERTIFICATE").count();
    assert_eq!(
        certificates(&output),
        certificates(&without) + 3,
        "the system's stay, and each is there once"
    );
}

/// Not as UTF-8 only, and with the proxy after what the user has.
#[tokio::test]
async fn the_users_own_settings_of_wget_come_first_in_a_private_file() {
    let setup = setup().await;
    let own = b"header = x-own: \xe9\nuse_proxy = off";
    setup.file(".wgetrc", own);
    let home = setup.folder().to_str().unwrap();
    let args = ["exec", "--", "sh", "-c", "cp \"$WGETRC\" got; stat -c %a \"$WGETRC\"; env"];
    let output = cli::run_with(setup.folder(), &args, &[("HOME", home)]).await;
    output.expect_code(0);
    assert!(output.stdout.starts_with("600\n") && output.stderr.is_empty(), "{}", output.all());
    let got = std::fs::read(setup.folder().join("got")).unwrap();
    let added = String::from_utf8(got.strip_prefix(own).unwrap().to_vec()).unwrap();
    let proxy = variable(&output.stdout, "HTTPS_PROXY").unwrap();
    let password = proxy.split(':').nth(2).unwrap().split('@').next().unwrap();
    for line in [
        "use_proxy = on",
        &format!("http_proxy = {proxy}"),
        &format!("https_proxy = {proxy}"),
        "no_proxy =\nno_proxy = localhost,127.0.0.1,::1",
        &format!("proxy_user = bearerd\nproxy_password = {password}"),
    ] {
        assert!(added.contains(&format!("\n{line}\n")), "{line}: {added}");
    }
}

#[tokio::test]
async fn a_file_of_the_user_that_cannot_be_read_is_told_and_left_out() {
    use rustix::fs::{CWD, Mode, mkfifoat};
    let setup = setup().await;
    let pipe = setup.folder().join("pipe");
    mkfifoat(CWD, &pipe, Mode::RUSR).unwrap();
    let env = [
        ("WGETRC", "pipe"),
        ("REQUESTS_CA_BUNDLE", "pipe"),
        ("NODE_EXTRA_CA_CERTS", "/dev/zero"),
        ("AWS_CA_BUNDLE", "missing.pem"),
    ];
    let output = cli::run_with(setup.folder(), &["exec", "--", "echo", "started"], &env).await;
    output.expect_code(0);
    assert_eq!(output.stdout, "started\n", "{}", output.stderr);
    for (variable, _) in env {
        let told = output.stderr.lines().find(|line| line.contains(variable));
        let told = told.unwrap_or_else(|| panic!("{variable}: {}", output.stderr));
        let why = if variable == "AWS_CA_BUNDLE" { "No such file" } else { "name a regular file" };
        assert!(told.contains(why), "{told}");
    }
}

#[tokio::test]
async fn a_pipe_for_the_log_that_nobody_reads_is_an_error() {
    use rustix::fs::{CWD, Mode, mkfifoat};
    let setup = setup().await;
    mkfifoat(CWD, setup.folder().join("pipe"), Mode::RUSR | Mode::WUSR).unwrap();
    let output = cli::run(setup.folder(), &["exec", "--log-file", "pipe", "--", "echo", "started"]).await;
    output.expect_code(1);
    assert!(output.stderr.contains("cannot write to --log-file pipe"), "{}", output.stderr);
    assert_eq!(output.stdout, "");
}

/// A folder for temporary files that is relative to where the user is, with a blank in its name.
#[tokio::test]
async fn files_for_the_program_are_found_from_every_folder() {
    let setup = setup().await;
    std::fs::create_dir(setup.folder().join("my files")).unwrap();
    let script = "cd / && head -c 27 \"$SSL_CERT_FILE\"; echo; echo \"$JAVA_TOOL_OPTIONS\"";
    let args = ["exec", "--", "sh", "-c", script];
    let output = cli::run_with(setup.folder(), &args, &[("TMPDIR", "")]).await;
    output.expect_code(0);
    let output = cli::run_with(setup.folder(), &args, &[("TMPDIR", "my files")]).await;
    output.expect_code(0);
    assert!(output.stdout.starts_with("-----BEGIN CERTIFICATE-----\n"), "{}", output.all());
    let store =
        format!("-Djavax.net.ssl.trustStore='{}/my files/", setup.folder().canonicalize().unwrap().display());
    assert!(
        output.stdout.contains(&store) && output.stdout.contains("/ca.p12' -D"),
        "{store} {}",
        output.stdout
    );
    let output = cli::run_with(setup.folder(), &args, &[("TMPDIR", "nowhere")]).await;
    output.expect_code(1);
    assert!(
        output.stderr.contains("in nowhere: ") && output.stderr.contains("set TMPDIR"),
        "{}",
        output.stderr
    );
}

#[tokio::test]
async fn a_bundle_without_room_says_where_the_folder_comes_from() {
    let setup = setup().await;
    let bearerd = env!("CARGO_BIN_EXE_bearerd");
    let script = format!("trap '' XFSZ; ulimit -f 0; exec {bearerd} exec -- touch started");
    let output = tokio::process::Command::new("sh")
        .args(["-c", &script])
        .current_dir(setup.folder())
        .env("TMPDIR", setup.folder())
        .output()
        .await
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("there is no room for"), "{errors}");
    assert!(errors.contains("choose another `TMPDIR`"), "{errors}");
    let left = std::fs::read_dir(setup.folder()).unwrap().flatten();
    let left: Vec<_> =
        left.filter(|entry| entry.file_name().to_string_lossy().starts_with("bearerd-exec")).collect();
    assert!(left.is_empty() && !setup.folder().join("started").exists(), "{left:?}");
}

#[tokio::test]
async fn the_exit_code_is_the_programs_own() {
    let setup = setup().await;
    for (script, code) in
        [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
    {
        shell(&setup, script).await.expect_code(code);
    }
    let output = run(&setup, &["no-such-program"]).await;
    output.expect_code(127);
    assert!(output.stderr.contains("no-such-program: there is no such program"), "{}", output.stderr);
    // The shell runs a script without `#!`, found by its path or in PATH.
    let script = setup.file("script", "echo \"ran with $1\"; exit 6\n");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    for name in [script.to_str().unwrap(), "./script", "script"] {
        let path = format!("{}:{}", setup.folder().display(), std::env::var("PATH").unwrap());
        let args = ["exec", "--", name, "an argument"];
        let output = cli::run_with(setup.folder(), &args, &[("PATH", path.as_str())]).await;
        output.expect_code(6);
        assert_eq!(output.stdout, "ran with an argument\n", "{name}");
    }
    let script = setup.file("lost", "#!/opt/missing/python3\n");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = run(&setup, &["./lost"]).await;
    output.expect_code(127);
    assert!(output.stderr.contains("its interpreter does not exist"), "{}", output.stderr);
    let plain = setup.file("plain.txt", "text");
    let output = run(&setup, &[plain.to_str().unwrap()]).await;
    output.expect_code(126);
    assert!(output.stderr.contains("cannot be run"), "{}", output.stderr);
}

#[tokio::test]
async fn no_program_starts_with_a_bad_config_or_without_one() {
    let setup = setup().await;
    setup.file("bearerd.toml", "frobnicate = 1");
    let output = shell(&setup, "touch started").await;
    output.expect_code(78);
    assert!(output.stderr.contains("frobnicate"), "{}", output.stderr);
    std::fs::remove_file(setup.folder().join("bearerd.toml")).unwrap();
    let output = shell(&setup, "touch started").await;
    output.expect_code(78);
    assert!(output.stderr.contains("`bearerd init`"), "{}", output.stderr);
    assert!(!setup.folder().join("started").exists());
    cli::run(setup.folder(), &["exec"]).await.expect_code(64);
}

#[tokio::test]
async fn standard_streams_are_the_programs_own() {
    let setup = setup().await;
    let mut program = Program::start(&setup, &[], "cat; echo oops >&2");
    let bytes: Vec<u8> = (0..=255_u8).cycle().take(300_000).collect();
    let mut input = program.input.take().unwrap();
    let sent = bytes.clone();
    tokio::spawn(async move { input.write_all(&sent).await });
    let mut echoed = Vec::new();
    within("the echo", program.output.read_to_end(&mut echoed)).await.unwrap();
    assert!(echoed == bytes);
    let (code, _, errors) = program.end().await;
    assert_eq!((code, &*errors), (0, "oops\n"));
}

/// Says what it gets, and ends with the second signal.
const TRAPS: &str = "n=0; got() { echo got $1; n=$((n+1)); [ $n = 2 ] && exit 3; }
for s in INT QUIT TERM HUP USR1 USR2 WINCH; do trap \"got $s\" $s; done; echo ready; while :; do sleep 0.02; done";

#[tokio::test]
async fn signals_are_passed_on() {
    let setup = setup().await;
    for (name, signal) in [
        ("INT", Signal::INT),
        ("QUIT", Signal::QUIT),
        ("TERM", Signal::TERM),
        ("HUP", Signal::HUP),
        ("USR1", Signal::USR1),
        ("USR2", Signal::USR2),
        ("WINCH", Signal::WINCH),
    ] {
        if !is_heard(signal.as_raw()) {
            continue;
        }
        let mut program = Program::start(&setup, &[], TRAPS);
        assert_eq!(program.line().await, "ready");
        for _ in 0..2 {
            kill_process(program.pid(), signal).unwrap();
            assert_eq!(program.line().await, format!("got {name}"));
        }
        let (code, rest, errors) = program.end().await;
        assert_eq!((code, &*rest, &*errors), (3, "", ""), "{name}");
    }
}

/// Whoever starts the tests may have them ignore signals (`nohup`), and then bearerd and its programs ignore them too.
fn is_heard(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.map_or(0, |mask| u64::from_str_radix(mask.trim(), 16).unwrap());
    ignored >> (signal - 1) & 1 == 0
}

/// Its proxy is gone then.
#[tokio::test]
async fn a_program_ends_with_a_bearerd_that_is_killed() {
    let setup = setup().await;
    let script = "trap 'echo got TERM; exit' TERM; echo ready; while :; do sleep 0.02; done";
    let mut program = Program::start(&setup, &[], script);
    assert_eq!(program.line().await, "ready");
    kill_process(program.pid(), Signal::KILL).unwrap();
    assert_eq!(program.line().await, "got TERM");
}

/// Nothing is between bearerd and the program, and nothing is added to what it sees.
#[tokio::test]
async fn a_program_is_bearerds_own_child_with_its_own_name() {
    let setup = setup().await;
    let script = "tr '\\0' ' ' </proc/$$/cmdline; echo; cat /proc/$$/comm; tr '\\0' ' ' </proc/$PPID/cmdline; echo; \
                  readlink /proc/$$/fd/* | grep -vE '^(pipe|/proc|/dev/null)'; env | grep -ci exec-ste[p]";
    let mut program = Program::start(&setup, &[], script);
    assert!(program.line().await.starts_with("sh -c tr "));
    assert_eq!(program.line().await, "sh");
    let parent = program.line().await;
    assert!(parent.contains(" exec -- sh -c "), "{parent}");
    let (_, rest, _) = program.end().await;
    assert_eq!(rest, "0\n", "no descriptor of bearerd, and no variable");
}

/// Else bearerd ends, and the program loses its proxy.
#[tokio::test]
#[cfg(target_os = "linux")]
async fn every_signal_that_would_end_bearerd_is_passed_on() {
    use rustix_libc_wrappers::process::SignalExt;
    let setup = setup().await;
    let numbers: Vec<i32> = [1, 2, 3, 6, 10, 12, 14, 16, 18, 26, 27, 28, 29, 30]
        .into_iter()
        .chain(34..=64)
        .filter(|number| is_heard(*number))
        .collect();
    let names = numbers.iter().map(i32::to_string).collect::<Vec<_>>().join(" ");
    let script = format!(
        "for s in {names} 24 25; do trap \"echo got $s\" $s; done; trap 'exit 3' TERM; echo ready; while :; do sleep 0.02; done"
    );
    let mut program = Program::start(&setup, &[], &script);
    assert_eq!(program.line().await, "ready");
    // SIGXCPU and SIGXFSZ come from the kernel, for bearerd's own CPU time and writes: they neither end it nor reach the program.
    for number in [24, 25] {
        kill_process(program.pid(), Signal::from_raw(number).unwrap()).unwrap();
    }
    for number in numbers {
        kill_process(program.pid(), Signal::from_raw(number).unwrap()).unwrap();
        assert_eq!(program.line().await, format!("got {number}"));
    }
    kill_process(program.pid(), Signal::TERM).unwrap();
    let (code, rest, errors) = program.end().await;
    assert_eq!((code, &*rest, &*errors), (3, "", ""));
}

#[tokio::test]
async fn ignored_signals_limits_and_the_process_group_are_those_of_bearerd() {
    let setup = setup().await;
    let bearerd = env!("CARGO_BIN_EXE_bearerd");
    let inner =
        "ulimit -Sn; ulimit -Sc; grep SigIgn /proc/self/status; cut -d' ' -f5 /proc/$$/stat /proc/$PPID/stat";
    let script =
        format!("trap '' HUP USR1; ulimit -Sn 200; ulimit -Sc 8; exec {bearerd} exec -- sh -c \"$0\"");
    let output = tokio::process::Command::new("sh")
        .args(["-c", &script, inner])
        .current_dir(setup.folder())
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = said.lines().collect();
    let [files, core, ignored, group, of_bearerd] = lines[..] else { panic!("{said} {output:?}") };
    assert_eq!((files, core), ("200", "8"));
    let mask = u64::from_str_radix(ignored.split_whitespace().nth(1).unwrap(), 16).unwrap();
    let hup_and_usr1 = 1 << (1 - 1) | 1 << (10 - 1);
    assert_eq!(mask & hup_and_usr1, hup_and_usr1, "{ignored}");
    assert_eq!(group, of_bearerd);
}

#[tokio::test]
async fn a_request_waits_for_the_first_token() {
    let setup = setup().await;
    let gate = Gate::new();
    setup.issuer.always_this(RawResponse::token("late").gated(&gate));
    let mut program = Program::start(&setup, &[], SHOW);
    let variables = Variables::of(&mut program).await;
    let mut client = variables.inside("").await;
    client.send(&RawRequest::get("/x")).await;
    setup.issuer.request(1).await;
    gate.open();
    let response: Response = client.response().await;
    assert_eq!(response.status, 200);
    assert_eq!(setup.upstream.last().bearer(), Some("late"));
    program.end().await;
}

#[tokio::test]
async fn any_number_of_programs_run_at_the_same_time() {
    let setup = setup().await;
    let (one, other) = tokio::join!(shell(&setup, "sleep 0.3; exit 4"), shell(&setup, "sleep 0.3; exit 5"));
    one.expect_code(4);
    other.expect_code(5);
}

#[tokio::test]
async fn the_log_goes_to_a_file_or_has_a_prefix() {
    let setup = setup().await;
    let args = ["exec", "--log-file", "bearerd.log", "--", "sh", "-c", "exit 0"];
    let output = cli::run(setup.folder(), &args).await;
    output.expect_code(0);
    assert_eq!(output.stderr, "");
    let log = std::fs::read_to_string(setup.folder().join("bearerd.log")).unwrap();
    assert!(log.contains("bearerd is serving"), "{log}");
    let args = ["exec", "--log-level", "info", "--", "sh", "-c", "exit 0"];
    let output = cli::run(setup.folder(), &args).await;
    assert!(output.stderr.lines().count() > 1, "{}", output.stderr);
    assert!(output.stderr.lines().all(|line| line.starts_with("bearerd: ")), "{}", output.stderr);
}

#[tokio::test]
async fn a_forward_listener_of_the_file_serves_the_program() {
    let setup = setup().await;
    let listener =
        |keys: &str| format!("[listener.own]\naddress = \"127.0.0.1:0\"\nserve = \"forward\"\n{keys}\n");
    let config = setup.config();
    let header = |name: &str, value: &str| {
        format!("require_header = {{ name = \"{name}\", value = {{ file = \"{value}\" }} }}")
    };
    setup.file("key", format!("Basic {}", STANDARD.encode("us er:pa:ss")));
    setup.file("bearerd.toml", listener(&header("proxy-authorization", "key")) + &config);
    let mut program = Program::start(&setup, &[], SHOW);
    let variables = Variables::of(&mut program).await;
    assert_eq!(variables.userinfo, "us%20er:pa%3Ass");
    let authorization = format!("proxy-authorization: Basic {}\r\n", STANDARD.encode("us er:pa:ss"));
    assert_eq!(variables.inside(&authorization).await.exchange(&RawRequest::get("/")).await.status, 200);
    program.end().await;

    setup.file("bearerd.toml", listener(&header("x-key", "key")) + &config);
    let output = shell(&setup, "exit 0").await;
    output.expect_code(78);
    assert!(
        output.stderr.contains("listener.own: programs do not send the header field x-key"),
        "{}",
        output.stderr
    );
}

#[tokio::test]
async fn a_reload_keeps_the_made_listener() {
    let setup = setup().await;
    let mut program = Program::start(&setup, &["--log-file", "log"], SHOW);
    let variables = Variables::of(&mut program).await;
    setup.file("bearerd.toml", setup.config().replace("name = \"api\"", "name = \"renamed\""));
    let log = || std::fs::read_to_string(setup.folder().join("log")).unwrap_or_default();
    eventually("the reload", || async { log().contains("the config was reloaded").then_some(()) }).await;
    assert_eq!(variables.inside("").await.exchange(&RawRequest::get("/")).await.status, 200);
    program.end().await;
    assert!(log().contains("route=renamed"), "{}", log());
}

/// As in a container without an init.
#[tokio::test]
#[ignore = "needs unshare"]
async fn as_process_1_it_waits_for_orphans() {
    let setup = setup().await;
    let script = "zombies() { grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null; }
until_that() { i=0; until \"$@\"; do i=$((i+1)); [ $i -lt 300 ] || exit 1; sleep 0.1; done; }
none() { ! zombies >/dev/null; }
(sleep 0.2 &)
until_that zombies && until_that none && exit 7";
    let command = [env!("CARGO_BIN_EXE_bearerd"), "exec", "--", "sh", "-c", script];
    let output = tokio::process::Command::new("unshare")
        .args(["--map-root-user", "--pid", "--fork", "--mount-proc"])
        .args(command)
        .current_dir(setup.folder())
        .output()
        .await
        .expect("this test needs unshare: install util-linux");
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("/status"), "there was an orphan: {output:?}");
}

/// As with `docker run -t` and an image with `STOPSIGNAL SIGQUIT` or `SIGWINCH`.
#[tokio::test]
#[ignore = "needs unshare"]
async fn as_process_1_it_passes_on_the_signals_that_stop_a_container_also_at_a_terminal() {
    let setup = setup().await;
    let script = "[ \"$(cut -d' ' -f5,8 /proc/1/stat)\" = '1 1' ] || { echo not in the foreground; exit 9; }
n=0; got() { echo got $1; n=$((n+1)); }
for s in QUIT WINCH; do trap \"got $s\" $s; kill -$s 1; done
i=0; while [ $n -lt 2 ] && [ $i -lt 300 ]; do sleep 0.05; i=$((i+1)); done; exit $n";
    let (_own, end) = terminal::terminal();
    let bearerd = env!("CARGO_BIN_EXE_bearerd");
    let output = tokio::process::Command::new("unshare")
        .args(["--map-root-user", "--pid", "--fork", "--mount-proc", "setsid", "--ctty"])
        .args(["env", "--default-signal=INT,QUIT", bearerd, "exec", "--", "sh", "-c", script])
        .current_dir(setup.folder())
        .stdin(end)
        .output();
    let output = within("bearerd", output).await.expect("this test needs unshare: install util-linux");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

/// A terminal sends Ctrl-C to both, so the program gets it once, and bearerd waits for its end.
#[tokio::test]
#[ignore = "needs setsid"]
async fn ctrl_c_of_a_terminal_reaches_the_program_once() {
    ctrl_c_reaches_the_program_once(&[]).await;
}

/// As in a container that has a terminal and no device of this name.
#[tokio::test]
#[ignore = "needs unshare"]
async fn ctrl_c_reaches_the_program_once_also_without_dev_tty() {
    let hide = "mount --bind /dev/null /dev/tty && exec \"$@\"";
    let hidden = ["unshare", "--map-root-user", "--mount", "sh", "-c", hide, "sh"];
    ctrl_c_reaches_the_program_once(&hidden).await;
}

async fn ctrl_c_reaches_the_program_once(before: &[&str]) {
    let setup = setup().await;
    let traps = "n=0; trap 'n=$((n+1))' INT; test -t 0 && test -t 1 && echo terminal; echo ready; i=0
while [ $i -lt 20 ]; do sleep 0.05; [ $n -gt 0 ] && i=$((i+1)); done; echo got $n; exit 5";
    setup.file("program", traps);
    let bearerd = env!("CARGO_BIN_EXE_bearerd");
    let bearerd = ["env", "--default-signal=INT,QUIT", bearerd, "exec", "--", "sh", "program"];
    let (mut child, own) = terminal::start(setup.folder(), &[before, &bearerd].concat(), |_| ());
    let mut input = File::from_std(own.try_clone().unwrap());
    let mut output = BufReader::new(File::from_std(own));
    let mut said = String::new();
    while !said.contains("ready") {
        assert!(within("the program", output.read_line(&mut said)).await.unwrap() > 0, "{said}");
    }
    assert!(said.contains("terminal"), "{said}");
    input.write_all(b"\x03").await.unwrap();
    input.flush().await.unwrap();
    let mut rest = Vec::new();
    within("the end", terminal::read_to_end(&mut output, &mut rest)).await;
    said += &String::from_utf8(rest).unwrap();
    assert!(said.contains("got 1"), "{said}");
    assert_eq!(within("bearerd", child.wait()).await.unwrap().code(), Some(5), "{said}");
}
