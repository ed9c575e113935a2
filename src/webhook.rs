//! Values that are learned from signed calls: a vendor tells by a webhook what belongs into token requests.
//!
//! A request is believed by its signature alone ([`signature`]); what it tells is taken from its JSON ([`payload`]) and kept
//! in a file ([`store`]), from which [`crate::config::Source`] reads it for each token request.

mod fuzz;
mod payload;
mod refusal;
mod signature;
mod state;
mod store;
#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use http::header::ALLOW;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::time::timeout_at;

use crate::aside::{Aside, AsideError};
use crate::clock::SharedClock;
use crate::config::WebhookConfig;
use crate::listener::{Answer, Answerer, Asker, Bound, SmallLimits, Stop, problem, serve_small};
use crate::metrics::ListenerMetrics;
use crate::secret::Secret;
use refusal::Refusal;
use signature::Signatures;
use state::State;
use store::{Store, Stored};

/// The most that a request's body may have, in bytes.
const BODY: usize = 64 * 1024;
/// For a whole request, from the moment its connection was accepted.
const CALL_TIME: Duration = Duration::from_secs(10);
/// Open ones at most, for each webhook.
pub const CONNECTIONS: usize = 64;
const LIMITS: SmallLimits =
    SmallLimits { connections: CONNECTIONS, header_timeout: CALL_TIME, age: Duration::from_secs(20) };

/// Where secrets are read and values stored.
static KEEPING: Aside = Aside::new("webhook", 8);

/// Called after a value was kept: whoever holds a token looks whether it was asked for with another one.
pub type Told = Arc<dyn Fn() + Send + Sync>;

/// What answers on one address: a reload puts another webhook in.
pub type Door = ArcSwap<Webhook>;

/// One `[webhook.NAME]`.
pub struct Webhook {
    config: Arc<WebhookConfig>,
    store: Store,
    /// Outlives a reload.
    state: Arc<State>,
    clock: SharedClock,
    told: Told,
}

/// What is known of a webhook; never the value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// When a value last came, from an earlier run of the program too.
    pub received_at: Option<SystemTime>,
    /// There is one that token requests can use.
    pub has_value: bool,
    /// Why there is none, though one was kept.
    pub problem: Option<String>,
    /// The last request that was refused, and why.
    pub last_refusal: Option<(SystemTime, String)>,
}

/// Answers on this socket until `stop`; returns when every request has ended. Needs a runtime around it.
pub async fn serve(bound: Bound, door: Arc<Door>, metrics: Arc<ListenerMetrics>, stop: Stop) {
    serve_small(bound, door, LIMITS, metrics, stop).await;
}

impl Answerer for Door {
    async fn answer(self: Arc<Self>, asker: Asker, request: Request<Incoming>) -> Answer {
        self.load_full().receive(&asker, request).await
    }
}

impl Webhook {
    /// `told` is called after each value that came, known or not.
    pub fn new(config: Arc<WebhookConfig>, clock: SharedClock, told: Told) -> Self {
        let store = Store::new(&config);
        Self { config, store, state: Arc::default(), clock, told }
    }

    /// The same under other rules, which count from the next request on.
    #[must_use]
    pub fn with_config(&self, config: Arc<WebhookConfig>) -> Self {
        let state = Arc::clone(&self.state);
        Self { state, ..Self::new(config, Arc::clone(&self.clock), Arc::clone(&self.told)) }
    }

    pub fn config(&self) -> &Arc<WebhookConfig> {
        &self.config
    }

    /// Reads the store; blocks.
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

    async fn receive<B>(self: Arc<Self>, asker: &Asker, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes> + Send + Unpin,
    {
        if request.uri().path() != self.config.path {
            return problem(StatusCode::NOT_FOUND, "no_webhook", "there is no webhook at this path");
        }
        if *request.method() != Method::POST {
            let mut answer =
                problem(StatusCode::METHOD_NOT_ALLOWED, "method_refused", "a webhook takes POST alone");
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

    async fn take<B>(self: &Arc<Self>, asker: &Asker, request: Request<B>) -> Result<(), Refusal>
    where
        B: Body<Data = Bytes> + Send + Unpin,
    {
        // Before the body: what is not even signed is not worth reading.
        let signatures = Signatures::of(&self.config.signature_header, request.headers())?;
        let body = timeout_at(asker.since + CALL_TIME, read(request.into_body()))
            .await
            .unwrap_or_else(|_| Err(Refusal::too_slow(CALL_TIME)))?;
        asker.has_sent_all();
        let this = Arc::clone(self);
        // A sender that leaves does not undo half of it: what has begun goes on to its end.
        KEEPING.run(move || this.learn(&signatures, &body)).await.unwrap_or_else(|error| match error {
            AsideError::NoThread(..) => Err(Refusal::no_thread(error.to_string())),
            AsideError::Panicked(_) => Err(Refusal::internal()),
        })
    }

    fn learn(&self, signatures: &Signatures, body: &[u8]) -> Result<(), Refusal> {
        signatures.check(&self.config.secrets, body)?;
        let value = payload::value(body, &self.config.value)?;
        self.keep(&value)
    }

    fn keep(&self, value: &Secret) -> Result<(), Refusal> {
        let now = self.clock.wall();
        let one_at_a_time = self.state.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        let stored = self.store.put(value, now).map_err(Refusal::not_stored)?;
        drop(one_at_a_time);
        self.state.lock().received_at = Some(now);
        // A known value too: where the first time ended between keeping and telling, the sender has come again.
        (self.told)();
        let webhook = &*self.config.name;
        match stored {
            Stored::New => tracing::info!(
                event = "webhook.stored",
                webhook,
                "a new value came and was stored; tokens that were asked for with another one are dropped"
            ),
            Stored::Known => tracing::debug!(
                event = "webhook.unchanged",
                webhook,
                "the value that came is the one that is stored"
            ),
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

/// Judges arbitrary bytes as a request to a webhook: a line with the signature, one with the pointer, and the body. For the
/// fuzz target and the replay of its corpus: it must not panic.
pub fn fuzz_call(bytes: &[u8]) {
    fuzz::call(bytes);
}
