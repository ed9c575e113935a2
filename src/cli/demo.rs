//! `bearerd demo`: an issuer, an upstream, and the proxy between them, on this machine and without a config. It shows the config, a
//! request without bearerd and one with it, a refused token that the caller does not notice, and a renewal.

mod servers;

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::app::Options;
use crate::cli::args::{Common, Output};
use crate::cli::demo::servers::{Echo, Issuer, LIFETIME, Tokens};
use crate::cli::{Exit, Failure, check, exit_after, output, runtime, serve, start_log, stopped};
use crate::config;

/// The client that the built-in issuer knows.
const CLIENT_ID: &str = "demo-client";
/// A path that the demo's route serves, for the reader to try.
const TRY: &str = "/echo/hello";

pub(super) fn demo(common: &Common, format: Output, refused: &[String]) -> Result<Exit, Failure> {
    if common.config.is_some() {
        return Err(Failure::new(Exit::Usage, "`bearerd demo` writes its own config: leave out --config"));
    }
    let secret = servers::random_text(24).map_err(|error| failed("cannot make a secret", error))?;
    let tokens = Arc::new(Tokens::new().map_err(|error| failed("cannot make a key", error))?);
    let issuer = Issuer::new(CLIENT_ID, &secret, Arc::clone(&tokens));
    let issuer = servers::start("demo-issuer", move |request| issuer.respond_to(request))
        .map_err(|error| failed("cannot start the issuer", error))?;
    let echo = Echo::new(Arc::clone(&tokens));
    let echo = servers::start("demo-echo", move |request| echo.respond_to(request))
        .map_err(|error| failed("cannot start the echo upstream", error))?;

    let ports = free_ports::<2>().map_err(|error| failed("cannot find a free port", error))?;
    let [proxy, admin] = ports;
    let text = config_text(proxy, admin, issuer, echo);
    let files = Files::write(&text, &secret).map_err(|error| failed("cannot write the config", error))?;
    let config = config::load(files.config()).map_err(|problems| {
        output::tell(&check::report(&problems.0));
        Failure::new(Exit::Config, "the demo's own config is refused: a fault of ours, please report it")
    })?;
    let log = start_log(common, &config.log)?;
    let options = Options { log: Some(log), signals: true, ..Options::default() };
    let running = runtime()?.block_on(serve(config, options, refused, stopped()))?;
    match format {
        Output::Text => {
            let story = Story { config: files.config().to_owned(), text, proxy, admin, api: echo, tokens };
            story.begin().map_err(|error| failed("cannot start a thread", error))?;
        }
        // On one line, so that a program can read it while the demo continues.
        Output::Json => output::answer_json_line(&json!({
            "config": files.config().to_string_lossy(),
            "proxy": format!("http://{proxy}"),
            "admin": format!("http://{admin}"),
            "try": format!("http://{proxy}{TRY}"),
        })),
    }
    Ok(exit_after(&running.join()))
}

fn failed(what: &str, error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::No, format!("{what}: {error}"))
}

/// Ports that were free a moment ago. The file shows real ports, so that it can be copied and used.
fn free_ports<const N: usize>() -> io::Result<[SocketAddr; N]> {
    let mut found = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    // All are kept open until the last is found, so that no two are the same.
    let mut held = Vec::with_capacity(N);
    for address in &mut found {
        let listener = TcpListener::bind(*address)?;
        *address = listener.local_addr()?;
        held.push(listener);
    }
    Ok(found)
}

fn config_text(proxy: SocketAddr, admin: SocketAddr, issuer: SocketAddr, echo: SocketAddr) -> String {
    format!(
        "\
# Your program sends plain HTTP to this address …
[listener.main]
address = \"{proxy}\"

# … bearerd gets a token here …
[issuer.demo]
token_url = \"http://{issuer}/token\"
client_id = \"{CLIENT_ID}\"
client_secret = {{ file = \"client-secret\" }}
scopes = [\"echo.read\"]

# … and forwards requests below /echo with it.
[[route]]
name = \"echo\"
path_prefix = \"/echo\"
upstream = \"http://{echo}\"
issuer = \"demo\"

# Health, metrics and the status page.
[admin]
address = \"{admin}\"

# \"info\" also writes a line for each request.
[log]
level = \"error\"
"
    )
}

struct Files {
    folder: PathBuf,
    config: PathBuf,
}

impl Files {
    fn write(config: &str, secret: &str) -> io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("bearerd-demo-{:08x}", fastrand::u32(..)));
        // Fails if the folder exists, so that nobody else's folder or link is used.
        DirBuilder::new().mode(0o700).create(&folder)?;
        let files = Self { config: folder.join("bearerd.toml"), folder };
        write_private(&files.config, config)?;
        write_private(&files.folder.join("client-secret"), secret)?;
        Ok(files)
    }

    fn config(&self) -> &Path {
        &self.config
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::warn!(
                event = "demo.cleanup_failed", folder = %self.folder.display(), %error,
                "cannot remove the demo's files"
            );
        }
    }
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

/// How often the demo checks whether the token was renewed.
const LOOK: Duration = Duration::from_millis(50);

struct Story {
    config: PathBuf,
    text: String,
    proxy: SocketAddr,
    admin: SocketAddr,
    api: SocketAddr,
    tokens: Arc<Tokens>,
}

impl Story {
    /// Runs on its own thread, so that a signal ends the demo at any time.
    fn begin(self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        std::thread::Builder::new().name("demo-story".to_owned()).spawn(move || {
            runtime.block_on(async {
                output::answer_people(&self.setting());
                if let Err(error) = self.requests().await {
                    output::answer_people(&format!("    {error}"));
                }
                output::answer_people(&self.what_next());
            });
        })?;
        Ok(())
    }

    fn setting(&self) -> String {
        let lines = self.text.lines().map(|line| format!("    {line}").trim_end().to_owned());
        format!(
            "Status page: http://{}/\n\n1. An issuer, an API that requires its tokens, and bearerd now run on this\n   \
             machine. bearerd's config is {}:\n\n{}\n",
            self.admin,
            self.config.display(),
            lines.collect::<Vec<_>>().join("\n")
        )
    }

    async fn requests(&self) -> Result<(), Failed> {
        self.step("2. A request to the API without bearerd:", self.api, "/hello").await?;
        self.step("3. The same through bearerd, which gets a token and adds it:", self.proxy, TRY).await?;
        self.tokens.revoke();
        let refused = "4. The API now refuses that token. bearerd gets another, sends the request\n   \
                       again, and the caller sees no error:";
        let before = self.step(refused, self.proxy, TRY).await?;
        output::answer_people(&format!(
            "\n5. A token expires after {} s here. bearerd renews one that is used before\n   \
             that, and no request waits for it …\n",
            LIFETIME.as_secs()
        ));
        let (after, took) = self.renewed(&before).await?;
        output::answer_people(&format!("\n    renewed after {:.1} s\n    {after}", took.as_secs_f64()));
        Ok(())
    }

    /// Sends one request, and prints the request and its response.
    async fn step(&self, words: &str, address: SocketAddr, path: &str) -> Result<Said, Failed> {
        output::answer_people(&format!("\n{words}\n\n    GET http://{address}{path}"));
        let said = get(address, path).await?;
        output::answer_people(&format!("    {said}"));
        Ok(said)
    }

    /// Waits for the renewal. Returns the first response with the new token, and how long the renewal took.
    async fn renewed(&self, before: &Said) -> Result<(Said, Duration), Failed> {
        let (began, issued) = (Instant::now(), self.tokens.issued());
        while self.tokens.issued() == issued && began.elapsed() < LIFETIME {
            tokio::time::sleep(LOOK).await;
        }
        let took = began.elapsed();
        loop {
            let is_last = began.elapsed() > LIFETIME;
            let said = get(self.proxy, TRY).await?;
            if said.body != before.body || is_last {
                return Ok((said, took));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn what_next(&self) -> String {
        let (proxy, admin, config) = (self.proxy, self.admin, self.config.display());
        format!(
            "
Now you:

    curl http://{proxy}{TRY}
    bearerd explain GET http://{proxy}{TRY} \\
      --config {config}
    curl http://{admin}/status

Edit the config, and bearerd loads it again. `bearerd init` writes one for your
issuer. Ctrl-C ends the demo and removes its files.
"
        )
    }
}

/// The response to one request.
struct Said {
    status: u16,
    body: Value,
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |pointer| self.body.pointer(pointer).and_then(Value::as_str);
        write!(f, "{} {}", self.status, text("/message").or_else(|| text("/error")).unwrap_or_default())?;
        match text("/headers/authorization") {
            Some(credential) => write!(f, ": {credential}"),
            None => Ok(()),
        }
    }
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

async fn get(address: SocketAddr, path: &str) -> Result<Said, Failed> {
    let stream = TokioIo::new(TcpStream::connect(address).await?);
    let (mut sender, connection) = http1::handshake(stream).await?;
    tokio::spawn(connection);
    let request = Request::get(path).header(header::HOST, address.to_string()).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok(Said { status, body: serde_json::from_slice(&body).unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_config_is_toml_and_names_every_address() {
        let ports = free_ports::<4>().unwrap();
        let [proxy, admin, issuer, echo] = ports;
        let text = config_text(proxy, admin, issuer, echo);
        let document: toml::Table = text.parse().unwrap();
        for (keys, value) in [
            (["listener", "main", "address"], proxy.to_string()),
            (["issuer", "demo", "token_url"], format!("http://{issuer}/token")),
        ] {
            let found = keys
                .iter()
                .try_fold(toml::Value::Table(document.clone()), |table, key| table.get(key).cloned());
            assert_eq!(found, Some(toml::Value::String(value)));
        }
        assert!(text.contains(&echo.to_string()) && text.contains(&admin.to_string()));
    }

    #[test]
    fn free_ports_are_different_ones() {
        let mut ports = free_ports::<8>().unwrap().to_vec();
        ports.sort();
        ports.dedup();
        assert_eq!(ports.len(), 8);
    }

    #[test]
    fn are_for_the_owner_alone_and_removed_at_the_end() {
        let files = Files::write("workers = 1", "s3cr3t").unwrap();
        let (folder, config) = (files.folder.clone(), files.config().to_owned());
        for (path, mode) in [(&folder, 0o700), (&config, 0o600), (&folder.join("client-secret"), 0o600)] {
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, mode);
        }
        drop(files);
        assert!(!folder.exists());
    }
}
