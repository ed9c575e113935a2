//! An agent of SPIFFE with a script: the Workload API on a Unix socket, as far as bearerd uses it, on the `h2` library.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue};
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::tls::Identity;

/// What the agent does with a request.
#[derive(Clone, PartialEq)]
pub enum Mood {
    Serving,
    /// A gRPC status and its message.
    Refusing(u32, &'static str),
    /// It never responds.
    Silent,
    /// It sends bytes that mean nothing.
    Garbage,
}

/// As SPIRE says that there is no registration entry.
pub const NO_IDENTITY: Mood = Mood::Refusing(7, "no identity issued");

/// A request for a JWT-SVID.
#[derive(Clone, Debug, PartialEq)]
pub struct JwtRequest {
    pub audience: String,
    /// Empty: none.
    pub id: String,
}

pub struct Agent {
    folder: TempDir,
    script: Arc<Script>,
    task: Option<JoinHandle<()>>,
}

struct Script {
    mood: Mutex<Mood>,
    ids: Mutex<Vec<String>>,
    jwt_life: Mutex<Duration>,
    /// Instead of a JWT-SVID, unless it is empty.
    jwt_text: Mutex<String>,
    requests: Mutex<Vec<JwtRequest>>,
    streams: Mutex<usize>,
    unanswered: Mutex<usize>,
    /// The message of the stream of X.509-SVIDs.
    x509: watch::Sender<Vec<u8>>,
}

impl Agent {
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("agent-").tempdir().unwrap();
        let script = Arc::new(Script {
            mood: Mutex::new(Mood::Serving),
            ids: Mutex::new(vec!["spiffe://example.org/billing".to_owned()]),
            jwt_life: Mutex::new(Duration::from_secs(300)),
            jwt_text: Mutex::default(),
            requests: Mutex::default(),
            streams: Mutex::default(),
            unanswered: Mutex::default(),
            x509: watch::channel(Vec::new()).0,
        });
        let mut this = Self { folder, script, task: None };
        this.again();
        this
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("api.sock")
    }

    /// `socket = "unix:…"`.
    pub fn key(&self) -> String {
        format!("socket = \"unix:{}\"", self.socket().display())
    }

    /// Listens again after [`Self::stop`].
    pub fn again(&mut self) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let script = Arc::clone(&self.script);
        self.task = Some(tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(socket, Arc::clone(&script)));
            }
        }));
    }

    /// Drops every connection and leaves no socket.
    pub async fn stop(&mut self) {
        let task = self.task.take().unwrap();
        task.abort();
        let _ = task.await;
        std::fs::remove_file(self.socket()).unwrap();
    }

    pub fn mood(&self, mood: Mood) {
        *self.script.mood.lock().unwrap() = mood;
    }

    pub fn ids(&self, ids: &[&str]) {
        *self.script.ids.lock().unwrap() = ids.iter().map(|id| (*id).to_owned()).collect();
    }

    pub fn jwt_life(&self, life: Duration) {
        *self.script.jwt_life.lock().unwrap() = life;
    }

    /// Sends this instead of JWT-SVIDs, unless it is empty.
    pub fn jwt_text(&self, text: String) {
        *self.script.jwt_text.lock().unwrap() = text;
    }

    /// The requests for JWT-SVIDs.
    pub fn requests(&self) -> Vec<JwtRequest> {
        self.script.requests.lock().unwrap().clone()
    }

    /// How many streams of X.509-SVIDs were opened.
    pub fn streams(&self) -> usize {
        *self.script.streams.lock().unwrap()
    }

    /// How many requests got no response, because the agent was silent.
    pub fn unanswered(&self) -> usize {
        *self.script.unanswered.lock().unwrap()
    }

    /// Sends these X.509-SVIDs, each an ID and its identity, with this bundle.
    pub fn x509(&self, svids: &[(&str, &Identity)], bundle: &[u8]) {
        let svids = svids.iter().map(|(id, identity)| {
            let fields =
                [(1, id.as_bytes()), (2, identity.certificate_der()), (3, identity.key_der()), (4, bundle)];
            field(1, &fields.into_iter().flat_map(|(tag, bytes)| field(tag, bytes)).collect::<Vec<_>>())
        });
        self.script.x509.send_replace(svids.flatten().collect());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn serve(socket: UnixStream, script: Arc<Script>) {
    if *script.mood.lock().unwrap() == Mood::Garbage {
        let _ = socket.try_write(&[b'x'; 4096]);
        super::let_pass(Duration::from_secs(60)).await;
        return;
    }
    let Ok(mut connection) = h2::server::handshake(socket).await else { return };
    let mut requests = tokio::task::JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        requests.spawn(respond_to(request, respond, Arc::clone(&script)));
    }
}

async fn respond_to(
    request: http::Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    script: Arc<Script>,
) {
    let (head, mut body) = request.into_parts();
    let mut sent = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        sent.extend_from_slice(&data);
    }
    let mood = script.mood.lock().unwrap().clone();
    match mood {
        Mood::Silent => {
            *script.unanswered.lock().unwrap() += 1;
            return std::future::pending().await;
        }
        Mood::Refusing(code, message) => return refuse(&mut respond, code, message),
        Mood::Serving | Mood::Garbage => {}
    }
    if head.headers.get("workload.spiffe.io").is_none_or(|value| value != "true") {
        return refuse(&mut respond, 3, "security header missing from request");
    }
    match head.uri.path() {
        "/SpiffeWorkloadAPI/FetchJWTSVID" => {
            let asked = JwtRequest { audience: text(&sent[5..], 1), id: text(&sent[5..], 2) };
            let message = script.jwt_svids(&asked);
            script.requests.lock().unwrap().push(asked);
            match message {
                Some(message) => {
                    let mut stream = respond.send_response(head_of_response(), false).unwrap();
                    stream.send_data(framed(&message), false).unwrap();
                    stream.send_trailers(status(0, "")).unwrap();
                }
                None => refuse(&mut respond, 7, "no identity issued"),
            }
        }
        "/SpiffeWorkloadAPI/FetchX509SVID" => {
            *script.streams.lock().unwrap() += 1;
            let mut updates = script.x509.subscribe();
            let mut stream = respond.send_response(head_of_response(), false).unwrap();
            loop {
                let message = updates.wait_for(|message| !message.is_empty()).await.unwrap().clone();
                updates.mark_unchanged();
                if stream.send_data(framed(&message), false).is_err() || updates.changed().await.is_err() {
                    return;
                }
            }
        }
        _ => refuse(&mut respond, 12, "no such method"),
    }
}

impl Script {
    /// Like SPIRE: all of this program's identities, or the one that was asked for.
    fn jwt_svids(&self, asked: &JwtRequest) -> Option<Vec<u8>> {
        let number = self.requests.lock().unwrap().len() + 1;
        let expires = std::time::SystemTime::now() + *self.jwt_life.lock().unwrap();
        let expires = expires.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 1;
        let ids = self.ids.lock().unwrap().clone();
        let ids = ids.iter().filter(|id| asked.id.is_empty() || asked.id == **id);
        let svids: Vec<_> = ids
            .flat_map(|id| {
                let token = match self.jwt_text.lock().unwrap().as_str() {
                    "" => token(id, &asked.audience, expires, number),
                    text => text.to_owned(),
                };
                field(1, &[field(1, id.as_bytes()), field(2, token.as_bytes())].concat())
            })
            .collect();
        (!svids.is_empty()).then_some(svids)
    }
}

/// A JWT-SVID for an hour, for [`Agent::jwt_text`], with this many characters that mean nothing.
pub fn long_jwt(padding: usize) -> String {
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = serde_json::json!({ "alg": "ES256", "kid": "key-1", "typ": "JWT" });
    let expires = std::time::SystemTime::now() + Duration::from_secs(3600);
    let expires = expires.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let claims = serde_json::json!({
        "sub": "spiffe://example.org/billing", "aud": ["x"], "exp": expires, "padding": "x".repeat(padding)
    });
    format!("{}.{}.{}", part(header), part(claims), URL_SAFE_NO_PAD.encode("canary"))
}

/// A JWT-SVID whose signature nobody in the tests checks. `jti` is the number of the request.
fn token(id: &str, audience: &str, expires: u64, number: usize) -> String {
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = serde_json::json!({ "alg": "ES256", "kid": "key-1", "typ": "JWT" });
    let claims = serde_json::json!({ "sub": id, "aud": [audience], "exp": expires, "jti": number });
    format!("{}.{}.{}", part(header), part(claims), URL_SAFE_NO_PAD.encode("signature"))
}

fn head_of_response() -> http::Response<()> {
    http::Response::builder().header("content-type", "application/grpc").body(()).unwrap()
}

fn status(code: u32, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code));
    trailers.insert("grpc-message", HeaderValue::from_str(&message.replace(' ', "%20")).unwrap());
    trailers
}

fn refuse(respond: &mut SendResponse<Bytes>, code: u32, message: &str) {
    let mut response = head_of_response();
    response.headers_mut().extend(status(code, message));
    let _ = respond.send_response(response, true);
}

/// A message with gRPC's prefix.
fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0][..], &length, message].concat().into()
}

/// A field of protobuf that has a length.
fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![tag << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).unwrap());
    [out, bytes.to_vec()].concat()
}

/// A field of a message whose fields are all shorter than 128 bytes.
fn text(mut message: &[u8], wanted: u8) -> String {
    while let [tag, length, rest @ ..] = message {
        let (value, rest) = rest.split_at(usize::from(*length));
        if tag >> 3 == wanted {
            return String::from_utf8(value.to_vec()).unwrap();
        }
        message = rest;
    }
    String::new()
}
