//! One token request: discovery, client authentication, the request, the answer. No cache and no retry here.

mod client_auth;
mod context;
mod discovery;
mod document;
pub mod error;
mod exchange;
mod fingerprint;
mod form;
mod fuzz;
mod headers;
mod lifetime;
mod probe;
mod redact;
mod request;
mod response;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;

pub use error::{FailureKind, IssuerError};
pub use probe::LastAnswer;

use self::context::Context;
use self::exchange::Deadline;
use self::redact::Redactor;
use self::request::Inputs;
use self::response::{Asked, Note};
use crate::clock::SharedClock;
use crate::config::{CredentialKey, HttpUrl, IssuerConfig, TokenEndpoint};
use crate::net::connect::Offer;
use crate::net::{Connector, Target};
use crate::secret::Secret;

/// The largest answer of a token endpoint, in bytes.
const ANSWER_LIMIT: usize = 64 * 1024;

/// An authorization server that tokens are asked of.
pub struct Issuer {
    config: Arc<IssuerConfig>,
    clock: SharedClock,
    /// Where tokens are asked for, once it is known.
    endpoint: ArcSwapOption<Endpoint>,
    /// One bit for each kind of note: what was said once as a warning is said quietly from then on.
    noted: AtomicU8,
    last_answer: ArcSwapOption<LastAnswer>,
}

struct Endpoint {
    url: HttpUrl,
    connector: Connector,
}

/// What the issuer granted. A usable token: 1 byte to 16 KiB of 0x21–0x7E, of an accepted type.
#[derive(Debug)]
pub struct Grant {
    pub token: Secret,
    /// `expires_in`, or else what is left until `expires_at`; clamped to 1 s ..= 24 h. `None`: both are missing
    /// or unreadable, `default_lifetime` applies.
    pub expires_in: Option<Duration>,
    /// `expires_at`, where the answer has one.
    pub expires_at: Option<SystemTime>,
    /// The scopes granted, where the answer names them.
    pub scope: Option<String>,
}

impl Issuer {
    pub fn new(config: Arc<IssuerConfig>, clock: SharedClock) -> Self {
        Self {
            config,
            clock,
            endpoint: ArcSwapOption::empty(),
            noted: AtomicU8::new(0),
            last_answer: ArcSwapOption::empty(),
        }
    }

    pub fn config(&self) -> &Arc<IssuerConfig> {
        &self.config
    }

    /// Host and path of the token endpoint, without its query; `None` while discovery has not found it.
    pub fn endpoint(&self) -> Option<String> {
        match (&*self.endpoint.load(), &self.config.endpoint) {
            (Some(endpoint), _) => Some(context::shown(&endpoint.url)),
            (None, TokenEndpoint::Url(url)) => Some(context::shown(url)),
            (None, TokenEndpoint::Discovery(_)) => None,
        }
    }

    /// Asks for one token with the key's scopes and parameters. Ends within the issuer's `timeout`.
    pub async fn fetch(&self, key: &CredentialKey) -> Result<Grant, IssuerError> {
        let started = self.clock.boot();
        let outcome = self.attempt(key).await;
        let ms = self.clock.boot().saturating_sub(started).as_millis();
        let (status, what) = match &outcome {
            Ok(_) => (None, "granted"),
            Err(error) => (error.http_status, error.kind.as_str()),
        };
        tracing::debug!(
            issuer = &*self.config.name,
            endpoint = self.endpoint(),
            status,
            outcome = what,
            ms,
            "asked for a token"
        );
        outcome
    }

    async fn attempt(&self, key: &CredentialKey) -> Result<Grant, IssuerError> {
        let asked = Asked { at: self.clock.wall(), scopes: &key.scopes };
        let deadline = Deadline::after(self.config.timeout);
        let inputs = Inputs::read(&self.config, key).map_err(|unreadable| self.unreadable(unreadable))?;
        let endpoint = self.known_endpoint(&inputs.redactor, deadline).await?;
        let context = Context::new(&self.config, &endpoint.url, &inputs.redactor);
        let request = request::build(&inputs, &self.config, key, &endpoint.url)
            .map_err(|what| context.fail(FailureKind::Credential, format_args!("was not asked: {what}")))?;
        let judged = exchange::send(&endpoint.connector, request, ANSWER_LIMIT, deadline)
            .await
            .inspect(|answer| self.saw(answer))
            .map_err(|broken| context.broken(&broken))
            .and_then(|answer| response::judge(answer, &context, &asked));
        match judged {
            Ok((grant, notes)) => {
                notes.iter().for_each(|note| self.note(note));
                Ok(grant)
            }
            Err(error) => {
                self.forget_endpoint_after(&error);
                Err(error)
            }
        }
    }

    /// What the token endpoint answered last; `None`: it never did.
    pub fn last_answer(&self) -> Option<Arc<LastAnswer>> {
        self.last_answer.load_full()
    }

    fn saw(&self, answer: &exchange::Answer) {
        let seen = LastAnswer::of(answer.status, &answer.headers, self.clock.wall());
        self.last_answer.store(Some(Arc::new(seen)));
    }

    async fn known_endpoint(
        &self,
        redactor: &Redactor,
        deadline: Deadline,
    ) -> Result<Arc<Endpoint>, IssuerError> {
        if let Some(known) = self.endpoint.load_full() {
            return Ok(known);
        }
        let url = match &self.config.endpoint {
            TokenEndpoint::Url(url) => url.clone(),
            TokenEndpoint::Discovery(issuer) => {
                discovery::find(issuer, &self.config, redactor, &*self.clock, deadline).await?
            }
        };
        let endpoint = Arc::new(Endpoint { connector: connector_to(&url, &self.config), url });
        self.endpoint.store(Some(Arc::clone(&endpoint)));
        Ok(endpoint)
    }

    /// A discovered endpoint that is not there (any more) is looked up again next time.
    fn forget_endpoint_after(&self, error: &IssuerError) {
        let moved = match error.http_status {
            Some(status) => matches!(status, 300..=399 | 404 | 405 | 410),
            None => error.kind == FailureKind::Unavailable,
        };
        if moved && matches!(self.config.endpoint, TokenEndpoint::Discovery(_)) {
            self.endpoint.store(None);
        }
    }

    fn unreadable(&self, error: crate::config::ReferenceError) -> IssuerError {
        let detail =
            format!("issuer {}: was not asked, because a value cannot be read: {error}", self.config.name);
        IssuerError {
            kind: FailureKind::Credential,
            detail,
            code: None,
            http_status: None,
            retry_after: None,
        }
    }

    fn note(&self, note: &Note) {
        let bit = note.bit();
        let first = self.noted.fetch_or(bit, Ordering::Relaxed) & bit == 0;
        let issuer = &*self.config.name;
        if first {
            tracing::warn!(issuer, "the issuer's answer {note}");
        } else {
            tracing::debug!(issuer, "the issuer's answer {note}");
        }
    }

    /// A digest over what the client's credential reads as now (id, secret): another value means that a refused
    /// client may be asked again at once. Unreadable sources count as a value of their own.
    pub fn credential_fingerprint(&self) -> [u8; 32] {
        fingerprint::credential(&self.config)
    }
}

fn connector_to(url: &HttpUrl, config: &IssuerConfig) -> Connector {
    let target = Target::Tcp { host: url.host.clone(), port: url.port, tls: url.https };
    Connector::new(target, config.tls.clone(), config.egress.clone(), Offer::Both, config.timeout)
}

/// Judges arbitrary bytes as an answer of a token endpoint. The first byte chooses the status and the format, the
/// rest is the body. For the fuzz target and the replay of its corpus: it must not panic.
pub fn fuzz_response(bytes: &[u8]) {
    fuzz::response(bytes);
}

#[cfg(test)]
mod tests;
