//! What the demo shows on a screen: the config, a request without bearerd and one with it, a refused token that its
//! caller does not notice, and a renewal.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::super::output;
use super::TRY;
use super::tokens::{LIFETIME, Tokens};

/// How often the demo checks whether the token was renewed.
const LOOK: Duration = Duration::from_millis(50);

pub(super) struct Story {
    pub(super) config: PathBuf,
    pub(super) text: String,
    pub(super) proxy: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) api: SocketAddr,
    pub(super) tokens: Arc<Tokens>,
}

impl Story {
    /// Runs on its own thread, so that a signal ends the demo at any time.
    pub(super) fn begin(self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        std::thread::Builder::new().name("demo-story".to_owned()).spawn(move || {
            runtime.block_on(async {
                output::answer(&self.setting());
                if let Err(error) = self.requests().await {
                    output::answer(&format!("    {error}"));
                }
                output::answer(&self.what_next());
            });
        })?;
        Ok(())
    }

    fn setting(&self) -> String {
        let lines = self.text.lines().map(|line| format!("    {line}").trim_end().to_owned());
        format!(
            "Status page: http://{}/\n\n1. An issuer, an API that requires its tokens, and bearerd now run on this machine. \
             bearerd's config\n   is {}:\n\n{}\n",
            self.admin,
            self.config.display(),
            lines.collect::<Vec<_>>().join("\n")
        )
    }

    async fn requests(&self) -> Result<(), Failed> {
        self.step("2. A request to the API without bearerd:", self.api, "/hello").await?;
        self.step("3. The same through bearerd, which gets a token and adds it:", self.proxy, TRY).await?;
        self.tokens.revoke();
        let refused = "4. The API now refuses that token. bearerd gets another, sends the request again, and the\n   \
                       caller sees no error:";
        let before = self.step(refused, self.proxy, TRY).await?;
        output::answer(&format!(
            "\n5. A token expires after {} s here. bearerd renews one that is used before that, and no request\n   \
             waits for it …\n",
            LIFETIME.as_secs()
        ));
        let (after, took) = self.renewed(&before).await?;
        output::answer(&format!("\n    renewed after {:.1} s\n    {after}", took.as_secs_f64()));
        Ok(())
    }

    /// Sends one request, and prints the request and its response.
    async fn step(&self, words: &str, address: SocketAddr, path: &str) -> Result<Said, Failed> {
        output::answer(&format!("\n{words}\n\n    GET http://{address}{path}"));
        let said = get(address, path).await?;
        output::answer(&format!("    {said}"));
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
            let said = get(self.proxy, TRY).await?;
            if said.body != before.body || began.elapsed() > LIFETIME {
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
    bearerd explain GET http://{proxy}{TRY} --config {config}
    curl http://{admin}/status

Edit the config, and bearerd loads it again. `bearerd init` writes one for your issuer. Ctrl-C ends the
demo and removes its files.
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
