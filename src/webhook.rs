//! Learned values: a vendor sends a signed request to a webhook, and its value becomes a parameter of token requests.
//!
//! Only the signature authenticates a request ([`signature`]). The value comes from its JSON body ([`value`]) and is kept in a
//! file ([`store`]), which [`crate::config::Source`] reads for each token request.

mod fuzz;
mod signature;
mod store;

use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use http::header::ALLOW;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use serde_json::Value;
use signature::Signatures;
use store::{State, Store, Stored};
use tokio::time::timeout_at;

use crate::aside::{Aside, AsideError};
use crate::clock::SharedClock;
use crate::config::WebhookConfig;
use crate::listener::{
    Bound, SmallCaller, SmallHandler, SmallLimits, SmallResponse, Stop, problem_response, serve_small,
};
use crate::metrics::ListenerMetrics;
use crate::secret::Secret;

/// The longest body of a request, in bytes.
const BODY: usize = 64 * 1024;
/// The time for a whole request, from the moment its connection was accepted.
const CALL_TIME: Duration = Duration::from_secs(10);
/// The most open connections of each webhook.
pub const CONNECTIONS: usize = 64;
const LIMITS: SmallLimits =
    SmallLimits { connections: CONNECTIONS, header_timeout: CALL_TIME, age: Duration::from_secs(20) };

/// The threads that read secrets and store values.
static KEEPING: Aside = Aside::new("webhook", 8);

/// Called after a value was stored, so that token slots check whether their token was requested with another value.
pub type OnValue = Arc<dyn Fn() + Send + Sync>;

/// The webhook that responds on one address. A reload replaces it.
pub type Endpoint = ArcSwap<Webhook>;

/// One `[webhook.NAME]`.
pub struct Webhook {
    config: Arc<WebhookConfig>,
    store: Store,
    /// Stays across reloads.
    state: Arc<State>,
    clock: SharedClock,
    on_value: OnValue,
}

/// What the admin address shows of a webhook; never the value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// When the last value arrived, also in an earlier process.
    pub received_at: Option<SystemTime>,
    /// Whether there is a value that token requests can use.
    pub has_value: bool,
    /// Why the stored value cannot be used.
    pub problem: Option<String>,
    /// The last request that was refused, and why.
    pub last_refusal: Option<(SystemTime, String)>,
}

/// Serves this socket until `stop`, and returns when every request has ended. Must be called within a runtime.
pub async fn serve(bound: Bound, endpoint: Arc<Endpoint>, metrics: Arc<ListenerMetrics>, stop: Stop) {
    serve_small(bound, endpoint, LIMITS, metrics, stop).await;
}

impl SmallHandler for Endpoint {
    async fn serve(self: Arc<Self>, asker: SmallCaller, request: Request<Incoming>) -> SmallResponse {
        self.load_full().receive(&asker, request).await
    }
}

impl Webhook {
    /// `on_value` is called after each accepted value, even if it is the stored one.
    pub fn new(config: Arc<WebhookConfig>, clock: SharedClock, on_value: OnValue) -> Self {
        let store = Store::new(&config);
        Self { config, store, state: Arc::default(), clock, on_value }
    }

    /// The same webhook with another config, which applies from the next request on.
    #[must_use]
    pub fn with_config(&self, config: Arc<WebhookConfig>) -> Self {
        let state = Arc::clone(&self.state);
        Self { state, ..Self::new(config, Arc::clone(&self.clock), Arc::clone(&self.on_value)) }
    }

    pub fn config(&self) -> &Arc<WebhookConfig> {
        &self.config
    }

    /// Reads the store, and blocks.
    pub fn report(&self) -> Report {
        let seen = self.state.lock();
        let (received_at, last_refusal) = (seen.received_at, seen.last_refusal.clone());
        drop(seen);
        match self.store.read() {
            Ok(None) => Report { received_at, last_refusal, ..Report::default() },
            Ok(Some(kept_at)) => {
                Report { received_at: received_at.or(kept_at), has_value: true, problem: None, last_refusal }
            }
            Err(problem) => Report { received_at, has_value: false, problem: Some(problem), last_refusal },
        }
    }

    async fn receive<B>(self: Arc<Self>, asker: &SmallCaller, request: Request<B>) -> SmallResponse
    where
        B: Body<Data = Bytes> + Send + Unpin,
    {
        if request.uri().path() != self.config.path {
            return problem_response(StatusCode::NOT_FOUND, "no_webhook", "there is no webhook at this path");
        }
        if *request.method() != Method::POST {
            let mut answer = problem_response(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_refused",
                "a webhook accepts only POST",
            );
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return answer;
        }
        match self.take(asker, request).await {
            Ok(()) => {
                let mut answer = Response::new(http_body_util::Full::default());
                *answer.status_mut() = StatusCode::NO_CONTENT;
                answer
            }
            Err(refusal) => {
                self.state.refuse(&self.config.name, &refusal, self.clock.wall());
                refusal.answer()
            }
        }
    }

    async fn take<B>(self: &Arc<Self>, asker: &SmallCaller, request: Request<B>) -> Result<(), Refusal>
    where
        B: Body<Data = Bytes> + Send + Unpin,
    {
        // Before reading the body, because an unsigned body is not needed.
        let signatures = Signatures::of(&self.config.signature_header, request.headers())?;
        let body = timeout_at(asker.since + CALL_TIME, read(request.into_body()))
            .await
            .unwrap_or_else(|_| Err(Refusal::too_slow(CALL_TIME)))?;
        asker.has_sent_all();
        let this = Arc::clone(self);
        // If the sender disconnects, storing still completes.
        KEEPING.run(move || this.learn(&signatures, &body)).await.unwrap_or_else(|error| match error {
            AsideError::NoThread(..) => Err(Refusal::no_thread(error.to_string())),
            AsideError::Panicked(_) => Err(Refusal::internal()),
        })
    }

    fn learn(&self, signatures: &Signatures, body: &[u8]) -> Result<(), Refusal> {
        signatures.check(&self.config.secrets, body)?;
        let payload = payload(body)?;
        if let Some(pointer) = other_than(&payload, &self.config.only) {
            log_ignored(&self.config.name, &format!("it has another value at {pointer} than `only` says"));
            return Ok(());
        }
        let value = value_at(&payload, &self.config.value)?;
        self.keep(&value, time_at(&payload, &self.config.timestamp))
    }

    fn keep(&self, value: &Secret, sent: Option<SystemTime>) -> Result<(), Refusal> {
        let now = self.clock.wall();
        let one_at_a_time = self.state.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        let stored = self.store.put(value, sent, now).map_err(Refusal::not_stored)?;
        drop(one_at_a_time);
        if stored == Stored::Newer {
            log_ignored(&self.config.name, "it is older than the stored value");
            return Ok(());
        }
        self.state.lock().received_at = Some(now);
        // Also for a known value: if the process ended after storing it, the sender sends it again.
        (self.on_value)();
        let webhook = &*self.config.name;
        match stored {
            Stored::New => tracing::info!(
                event = "webhook.stored",
                webhook,
                "a new value was stored; tokens that were requested with another one are dropped"
            ),
            Stored::Known | Stored::Newer => {
                tracing::debug!(event = "webhook.unchanged", webhook, "the value is already stored")
            }
        }
        Ok(())
    }
}

async fn read<B>(mut body: B) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    if body.size_hint().lower() > BODY as u64 {
        return Err(Refusal::too_large(BODY));
    }
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let data = match frame.map(hyper::body::Frame::into_data) {
            Ok(Ok(data)) => data,
            Ok(Err(_trailers)) => continue,
            Err(_) => return Err(Refusal::broken_off()),
        };
        if read.len() + data.len() > BODY {
            return Err(Refusal::too_large(BODY));
        }
        read.extend_from_slice(&data);
    }
    Ok(read.freeze())
}

/// Handles arbitrary bytes as a request to a webhook: a line with the signature, one with the pointer, and the body. For the
/// fuzz target and the replay of its corpus. It must not panic.
pub fn fuzz_call(bytes: &[u8]) {
    fuzz::call(bytes);
}

/// The longest value, in bytes.
const LONGEST: usize = 4 * 1024;

/// A signed request that is acknowledged, and of which nothing is kept. At debug, because whoever recorded one can send it
/// as often as they like.
fn log_ignored(webhook: &str, why: &str) {
    tracing::debug!(event = "webhook.ignored", webhook, why, "nothing of a signed request was kept");
}

fn payload(body: &[u8]) -> Result<Value, Refusal> {
    // serde_json's message could quote the body, so the error has only the place.
    serde_json::from_slice(body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Refusal::no_value(format!("the body is not JSON (line {line}, column {column})"))
    })
}

/// The first pointer of `only` where the payload has something else, or nothing.
fn other_than<'o>(payload: &Value, only: &'o [(String, String)]) -> Option<&'o str> {
    let is_there = |pointer: &str, wanted: &str| match payload.pointer(pointer) {
        Some(Value::String(text)) => text == wanted,
        Some(Value::Number(number)) => number.to_string() == wanted,
        Some(Value::Bool(flag)) => wanted == if *flag { "true" } else { "false" },
        _ => false,
    };
    let other = only.iter().find(|(pointer, wanted)| !is_there(pointer, wanted));
    other.map(|(pointer, _)| pointer.as_str())
}

/// A larger epoch time is in milliseconds: in seconds it would be the year 5138, in milliseconds it is 1973.
const MILLISECONDS_FROM: u64 = 100_000_000_000;

/// The time at `pointer`. `None`: there is none that can be read.
fn time_at(payload: &Value, pointer: &str) -> Option<SystemTime> {
    let found = payload.pointer(pointer)?;
    let epoch = found.as_u64().or_else(|| found.as_str()?.parse().ok());
    let since = match epoch {
        Some(millis) if millis >= MILLISECONDS_FROM => Duration::from_millis(millis),
        Some(seconds) => Duration::from_secs(seconds),
        None => return humantime::parse_rfc3339_weak(found.as_str()?).ok(),
    };
    SystemTime::UNIX_EPOCH.checked_add(since)
}

/// The string at `pointer` (RFC 6901) in a JSON body.
#[cfg(test)]
fn value(body: &[u8], pointer: &str) -> Result<Secret, Refusal> {
    value_at(&payload(body)?, pointer)
}

/// The string at `pointer` (RFC 6901).
fn value_at(json: &Value, pointer: &str) -> Result<Secret, Refusal> {
    let refuse = |what: &str| Err(Refusal::no_value(format!("the body {what} at {pointer}")));
    let value = match json.pointer(pointer) {
        Some(Value::String(text)) => Secret::from(text.as_str()),
        Some(Value::Number(number)) if number.is_i64() || number.is_u64() => Secret::from(number.to_string()),
        Some(Value::Number(_)) => return refuse("has a number that cannot be kept digit by digit"),
        Some(_) => return refuse("has neither a string nor a number"),
        None => return refuse("has nothing"),
    };
    if value.is_empty() {
        return refuse("has an empty string");
    }
    if value.expose().len() > LONGEST {
        return refuse(&format!("has more than {LONGEST} bytes"));
    }
    if value.expose_str().is_none_or(|text| text.contains(char::is_control)) {
        return refuse("has a control character");
    }
    Ok(value)
}

/// Why a request was refused: the response for the sender, and the details for the log and `/status`.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    code: &'static str,
    detail: String,
    /// For the operator only, because it names files of this machine.
    note: Option<String>,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), note: None }
    }

    fn with_note(mut self, note: String) -> Self {
        self.note = Some(note);
        self
    }

    fn answer(&self) -> SmallResponse {
        problem_response(self.status, self.code, &self.detail)
    }

    /// For the operator.
    fn words(&self) -> String {
        match &self.note {
            Some(note) => format!("{}: {note}", self.detail),
            None => self.detail.clone(),
        }
    }

    fn unsigned(header: &HeaderName) -> Self {
        Self::signature(format!(
            "the header field {header} is missing; it holds the hex HMAC-SHA256 of the body"
        ))
    }

    fn no_hex(header: &HeaderName) -> Self {
        Self::signature(format!(
            "the header field {header} does not hold 64 hex digits, the HMAC-SHA256 of the body"
        ))
    }

    /// `unread` says which secrets could not be read.
    fn no_secret_fits(header: &HeaderName, unread: &[String]) -> Self {
        let refusal = Self::signature(format!(
            "the signature in {header} fits none of the secrets; it must be made over the raw body"
        ));
        if unread.is_empty() {
            return refusal;
        }
        refusal.with_note(format!("not tried, since it cannot be read: {}", unread.join("; ")))
    }

    fn signature(detail: String) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "signature_refused", detail)
    }

    fn no_secret(unread: &[String]) -> Self {
        let detail = "no secret can be read to check the signature with; try again later";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "no_secret", detail)
            .with_note(format!("fix what `secrets` names: {}", unread.join("; ")))
    }

    fn too_large(most: usize) -> Self {
        let detail = format!("the body has more than {most} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    }

    fn too_slow(time: Duration) -> Self {
        let detail = format!("the request was not complete within {}", humantime::format_duration(time));
        Self::new(StatusCode::REQUEST_TIMEOUT, "too_slow", detail)
    }

    fn broken_off() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", "the body is incomplete")
    }

    fn no_value(detail: String) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "no_value", detail)
    }

    fn not_stored(why: String) -> Self {
        let detail = "the value could not be stored; try again later";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "not_stored", detail).with_note(why)
    }

    fn no_thread(why: String) -> Self {
        let detail = "this machine cannot handle the request now; try again later";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail).with_note(why)
    }

    fn internal() -> Self {
        let detail = "a bug in bearerd; its place is in the log";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }
}

#[cfg(test)]
mod tests;
