//! How a scripted server responds, byte by byte where it matters.

use std::io::Result;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::wire::Wire;

/// The lifetime of a token in seconds for tests that wait for its end. In less time, a token request on a busy machine may not
/// be done, and its token of no use.
pub const BRIEF: i64 = 2;

/// Holds a response back until the test opens it.
#[derive(Clone, Default)]
pub struct Gate(CancellationToken);

impl Gate {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn open(&self) {
        self.0.cancel();
    }

    pub fn is_open(&self) -> bool {
        self.0.is_cancelled()
    }

    pub async fn wait(&self) {
        self.0.cancelled().await;
    }
}

#[derive(Clone)]
enum Step {
    Send(Vec<u8>),
    Wait(Gate),
    /// For what is about time itself.
    Pause(Duration),
    /// One byte at a time.
    Drip(Vec<u8>, Duration),
    /// Send nothing more, and wait for the peer to give up.
    Hang,
    Close,
}

/// One response: a plain response, unless its steps say otherwise.
#[derive(Clone)]
pub struct RawResponse {
    before: Vec<Step>,
    status: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Stands in for status, headers and body.
    raw: Option<Vec<u8>>,
    after: Vec<Step>,
}

impl RawResponse {
    pub fn status(status: u16) -> Self {
        Self {
            before: Vec::new(),
            status: format!("{status} Scripted"),
            headers: Vec::new(),
            body: Vec::new(),
            raw: None,
            after: Vec::new(),
        }
    }

    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::status(200).body(body)
    }

    /// Exactly these bytes.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { raw: Some(bytes.into()), ..Self::status(200) }
    }

    pub fn json(value: &Value) -> Self {
        Self::ok(value.to_string()).header("content-type", "application/json")
    }

    /// A token as a good issuer grants it.
    pub fn token(token: &str) -> Self {
        Self::token_for(token, 3600)
    }

    /// The `n`th token, for tests that need another one soon.
    pub fn brief_token(n: usize) -> Self {
        Self::token_for(&format!("token-{n}"), BRIEF)
    }

    pub fn token_for(token: &str, seconds: i64) -> Self {
        Self::json(&json!({ "access_token": token, "token_type": "Bearer", "expires_in": seconds }))
    }

    /// An error as RFC 6749 section 5.2 has it.
    pub fn oauth_error(status: u16, error: &str) -> Self {
        let body = json!({ "error": error, "error_description": format!("scripted {error}") });
        Self::status(status).body(body.to_string()).header("content-type", "application/json")
    }

    /// A 401 as RFC 6750 section 3 has it.
    pub fn unauthorized() -> Self {
        Self::status(401).header("www-authenticate", "Bearer error=\"invalid_token\"").body("who are you")
    }

    pub fn hang() -> Self {
        Self::raw("").then(Step::Hang)
    }

    /// Closes without a byte.
    pub fn drop() -> Self {
        Self::raw("").then(Step::Close)
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn gated(mut self, gate: &Gate) -> Self {
        self.before.push(Step::Wait(gate.clone()));
        self
    }

    pub fn delayed(mut self, by: Duration) -> Self {
        self.before.push(Step::Pause(by));
        self
    }

    fn then(mut self, step: Step) -> Self {
        self.after.push(step);
        self
    }

    /// After what came before: wait for the gate, then send these bytes.
    pub fn then_gated(self, gate: &Gate, bytes: impl Into<Vec<u8>>) -> Self {
        self.then(Step::Wait(gate.clone())).then(Step::Send(bytes.into()))
    }

    pub fn then_hang(self) -> Self {
        self.then(Step::Hang)
    }

    pub fn then_close(self) -> Self {
        self.then(Step::Close)
    }

    pub fn then_drip(self, bytes: impl Into<Vec<u8>>, every: Duration) -> Self {
        self.then(Step::Drip(bytes.into(), every))
    }

    fn message(&self) -> Vec<u8> {
        if let Some(raw) = &self.raw {
            return raw.clone();
        }
        let mut bytes = format!("HTTP/1.1 {}\r\n", self.status).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(format!("{name}: ").as_bytes());
            bytes.extend(value.chars().map(|char| u8::try_from(char).expect("Latin-1")));
            bytes.extend_from_slice(b"\r\n");
        }
        let without = ["204", "304"].iter().any(|status| self.status.starts_with(status));
        if !without {
            bytes.extend_from_slice(format!("content-length: {}\r\n", self.body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Plays the response; `false`: the connection is over.
    pub async fn play(self, wire: &mut Wire, head_only: bool) -> Result<bool> {
        let mut message = self.message();
        if head_only && self.raw.is_none() {
            message.truncate(message.len() - self.body.len());
        }
        for step in self.before.into_iter().chain([Step::Send(message)]).chain(self.after) {
            match step {
                Step::Send(bytes) => wire.send(bytes).await?,
                Step::Wait(gate) => gate.wait().await,
                Step::Pause(by) => tokio::time::sleep(by).await,
                Step::Drip(bytes, every) => {
                    for byte in bytes {
                        wire.send([byte]).await?;
                        tokio::time::sleep(every).await;
                    }
                }
                Step::Hang => {
                    wire.rest().await?;
                    return Ok(false);
                }
                Step::Close => return Ok(false),
            }
        }
        Ok(true)
    }
}
