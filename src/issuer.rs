//! One token request: discovery, client authentication, the request, the response. No cache and no retry here.

mod assertion;
mod credential;
mod discovery;
mod document;
mod error;
mod examine;
mod exchange;
mod fuzz;
mod inputs;
mod keys;
mod redact;
mod remedy;
mod reported;
mod request;
mod response;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use http::HeaderMap;
use http::header::DATE;

pub use discovery::Metadata;
pub use error::{FailureKind, IssuerError, Unreached};
pub use examine::{Finding, SOON_DAYS, examine};
pub use response::Audience;

use self::assertion::Nonce;
use self::credential::{Client, Grace, Preference, Which};
use self::error::{Context, host_and_path};
use self::exchange::{Again, Answer, Deadline, Repeats, Versions};
use self::inputs::{Inputs, NotReady};
use self::keys::Keys;
use self::redact::Redactor;
use self::response::{Note, SentRequest};
use crate::clock::SharedClock;
use crate::config::{CredentialKey, HttpUrl, IssuerConfig, TokenEndpoint};
use crate::jose::Prover;
use crate::net::{Connector, Offer, Target};
use crate::secret::Secret;

/// The largest answer of a token endpoint, in bytes.
const ANSWER_LIMIT: usize = 64 * 1024;

/// An authorization server that tokens are asked of.
pub struct Issuer {
    config: Arc<IssuerConfig>,
    clock: SharedClock,
    /// Where tokens are asked for, once it is known.
    endpoint: ArcSwapOption<Endpoint>,
    keys: Keys,
    preference: Preference,
    grace: Grace,
    nonce: Nonce,
    versions: Versions,
    /// One bit for each kind of note: what was said once as a warning is said quietly from then on.
    noted: AtomicU8,
    /// What was said last of a certificate or assertion that has ended.
    remarked: ArcSwapOption<Vec<String>>,
    last_answer: ArcSwapOption<LastAnswer>,
}

struct Endpoint {
    url: HttpUrl,
    connector: Connector,
    /// What the connector offers.
    offer: Offer,
    /// It was discovered, and asking it failed: it may have moved.
    doubted: AtomicBool,
}

/// What the issuer granted. A usable token: 1 byte to 16 KiB of 0x21–0x7E, of an accepted type.
#[derive(Debug)]
pub struct Grant {
    pub token: Secret,
    /// The accepted type, lower case; `bearer` where the response names none.
    pub token_type: String,
    /// Proves the key that the token is bound to, where it is bound to one (RFC 9449).
    pub prover: Option<Arc<Prover>>,
    /// `expires_in`, or else what is left until `expires_at`; clamped to 1 s ..= 24 h. `None`: both are missing
    /// or unreadable, `default_lifetime` applies.
    pub expires_in: Option<Duration>,
    /// `expires_at`, where the response has that alone.
    pub expires_at: Option<SystemTime>,
    /// The scopes granted, where the response names them.
    pub scope: Option<String>,
    /// For whom the token is, where it says that.
    pub audience: Audience,
}

impl Issuer {
    pub fn new(config: Arc<IssuerConfig>, clock: SharedClock) -> Self {
        Self {
            clock,
            endpoint: ArcSwapOption::empty(),
            keys: Keys::new(Arc::clone(&config.name)),
            preference: Preference::default(),
            grace: Grace::default(),
            nonce: Nonce::default(),
            versions: Versions::default(),
            noted: AtomicU8::new(0),
            remarked: ArcSwapOption::empty(),
            last_answer: ArcSwapOption::empty(),
            config,
        }
    }

    pub fn config(&self) -> &Arc<IssuerConfig> {
        &self.config
    }

    /// Host and path of the token endpoint, without its query; `None` while discovery has not found it.
    pub fn endpoint(&self) -> Option<String> {
        match (&*self.endpoint.load(), &self.config.endpoint) {
            (Some(endpoint), _) => Some(host_and_path(&endpoint.url)),
            (None, TokenEndpoint::Url(url)) => Some(host_and_path(url)),
            (None, TokenEndpoint::Discovery(_)) => None,
        }
    }

    /// Asks for one token with the key's scopes and parameters. Ends within the issuer's `timeout`.
    pub async fn fetch(&self, key: &CredentialKey) -> Result<Grant, IssuerError> {
        let started = self.clock.boot();
        let outcome = self.attempt(key).await;
        let ms = self.clock.boot().saturating_sub(started).as_millis();
        let (status, what, trace) = match &outcome {
            Ok(_) => (None, "granted", None),
            Err(error) => (error.http_status, error.kind.as_str(), error.trace.as_deref()),
        };
        tracing::debug!(
            event = "token.request",
            issuer = &*self.config.name,
            endpoint = self.endpoint(),
            status,
            outcome = what,
            trace,
            ms,
            "asked for a token"
        );
        outcome
    }

    async fn attempt(&self, key: &CredentialKey) -> Result<Grant, IssuerError> {
        let deadline = Deadline::after(self.config.timeout);
        let grace = self.config.credential_grace;
        if grace.is_zero() {
            return self.ask_either(key, deadline).await;
        }
        let age = self.grace.age(credential::client_fingerprint(&self.config), self.clock.boot());
        self.ask_either(key, deadline).await.map_err(|error| credential::forgive(error, age, grace))
    }

    /// Asks with the credential that worked last, and where that is refused with the other.
    async fn ask_either(&self, key: &CredentialKey, deadline: Deadline) -> Result<Grant, IssuerError> {
        let first = self.preference.first();
        let refused = match self.ask(first, key, deadline).await {
            Err(error) if error.kind == FailureKind::ClientRefused && self.config.standby.is_some() => error,
            outcome => return outcome,
        };
        let second = first.other();
        match self.ask(second, key, deadline).await {
            Ok(grant) => {
                self.preference.fell_over_to(second, &self.config.name);
                Ok(grant)
            }
            Err(error) => Err(credential::both_refused(&self.config.name, (first, refused), (second, error))),
        }
    }

    async fn ask(&self, which: Which, key: &CredentialKey, deadline: Deadline) -> Result<Grant, IssuerError> {
        let now = self.clock.wall();
        // Without `standby` there is the current one alone, and it is always there.
        let client = Client::of(&self.config, which).or_else(|| Client::of(&self.config, Which::Current));
        let client = client.ok_or_else(|| self.not_ready(NotReady("there is no credential".to_owned())))?;
        let prover = self.config.dpop.as_ref().map(|dpop| self.keys.prover(dpop)).transpose();
        let prover = prover.map_err(|what| self.not_ready(NotReady(what)))?;
        let inputs = Inputs::read(&self.config, &client, key, &self.keys, now);
        let mut inputs = inputs.map_err(|what| self.not_ready(what))?;
        self.remark(&inputs.remarks);
        let mut repeats = Repeats::default();
        let outcome = loop {
            let endpoint = self.known_endpoint(&inputs.redactor, deadline).await?;
            let asking = Asking { key, endpoint: &endpoint, prover: prover.as_ref(), deadline };
            let judged = self.once(&asking, &mut inputs).await;
            let Some(again) = repeats.allow(judged.again) else { break judged.outcome };
            self.versions.learn(again, &self.config.name);
        };
        let mut grant = outcome.map_err(|mut error| {
            self.doubt_endpoint_after(&error);
            // What comes of time alone says nothing of the credential.
            if error.kind != FailureKind::Timeout {
                error = inputs.remarks.iter().fold(error, |error, remark| error.advise(remark));
            }
            error
        })?;
        grant.prover = prover.filter(|_| grant.token_type == "dpop");
        Ok(grant)
    }

    /// One request and its response. Nothing of it is sent twice: it has its own JWT and its own proof.
    async fn once(&self, asking: &Asking<'_>, inputs: &mut Inputs) -> Judged {
        let now = self.clock.wall();
        let asked = SentRequest { at: now, scopes: &asking.key.scopes };
        let url = &asking.endpoint.url;
        let request = inputs.sign(&self.config, now).and_then(|mut fresh| {
            let method = request::method(&self.config);
            let proof = asking.prover.map(|prover| self.nonce.proof(prover, &method, url, now));
            fresh.proof = proof.transpose()?;
            request::build(inputs, fresh, &self.config, asking.key, url)
        });
        let context = Context::new(&self.config, url, &inputs.redactor);
        let request = match request {
            Ok(request) => request,
            Err(what) => {
                let error = context.fail(FailureKind::Credential, format_args!("was not asked: {what}"));
                return Judged { outcome: Err(error), again: None };
            }
        };
        match exchange::send(&asking.endpoint.connector, request, ANSWER_LIMIT, asking.deadline).await {
            Err(broken) => {
                let error = context.broken(&broken, &asking.endpoint.connector);
                Judged { outcome: Err(error), again: Again::after(&broken) }
            }
            Ok(answer) => {
                self.saw(&answer);
                let nonce_given = asking.prover.is_some() && self.nonce.keep(&answer.headers);
                let outcome = response::judge(answer, &context, &asked).map(|(grant, notes)| {
                    notes.iter().for_each(|note| self.note(note));
                    grant
                });
                let wants_nonce = nonce_given && outcome.as_ref().is_err_and(assertion::wants_nonce);
                Judged { outcome, again: wants_nonce.then_some(Again::WithNonce) }
            }
        }
    }

    async fn known_endpoint(
        &self,
        redactor: &Redactor,
        deadline: Deadline,
    ) -> Result<Arc<Endpoint>, IssuerError> {
        let known = self.endpoint.load_full();
        let url = self.endpoint_url(known.as_deref(), redactor, deadline).await?;
        let offer = self.versions.offer();
        if let Some(known) = known.filter(|known| known.offer == offer && known.url == url) {
            known.doubted.store(false, Ordering::Relaxed);
            return Ok(known);
        }
        let connector = connector_to(&url, &self.config, offer);
        let endpoint = Arc::new(Endpoint { connector, offer, url, doubted: AtomicBool::new(false) });
        self.endpoint.store(Some(Arc::clone(&endpoint)));
        Ok(endpoint)
    }

    async fn endpoint_url(
        &self,
        known: Option<&Endpoint>,
        redactor: &Redactor,
        deadline: Deadline,
    ) -> Result<HttpUrl, IssuerError> {
        let issuer = match (known, &self.config.endpoint) {
            (Some(known), _) if !known.doubted.load(Ordering::Relaxed) => return Ok(known.url.clone()),
            (_, TokenEndpoint::Url(url)) => return Ok(url.clone()),
            (_, TokenEndpoint::Discovery(issuer)) => issuer,
        };
        // What is left is for asking at the place that is known.
        let deadline = if known.is_some() { deadline.halved() } else { deadline };
        match (self.discover(issuer, redactor, deadline).await, known) {
            (Ok(found), _) => Ok(found.token_endpoint),
            (Err(error), Some(known)) if says_nothing(&error) => Ok(known.url.clone()),
            (Err(error), _) => Err(error),
        }
    }

    async fn discover(
        &self,
        issuer: &HttpUrl,
        redactor: &Redactor,
        deadline: Deadline,
    ) -> Result<Metadata, IssuerError> {
        discovery::find(issuer, &self.config, &self.versions, redactor, &*self.clock, deadline).await
    }

    /// Asks the issuer what it offers; `None` where only `token_url` is given, since where its document stands would be
    /// a guess. For people who look for a fault: the response is not kept.
    ///
    /// # Errors
    /// There is no such document, or it is not the issuer's.
    pub async fn metadata(&self) -> Result<Option<Metadata>, IssuerError> {
        let TokenEndpoint::Discovery(issuer) = &self.config.endpoint else { return Ok(None) };
        let deadline = Deadline::after(self.config.timeout);
        let redactor = inputs::known_secrets(&self.config);
        self.discover(issuer, &redactor, deadline).await.map(Some)
    }

    /// The issuer refused the current credential and accepted `standby`, which is tried first now.
    pub fn standby_in_use(&self) -> bool {
        self.preference.first() == Which::Standby
    }

    /// A discovered endpoint that is not there (any more) is looked up again next time, and asked again where the
    /// document cannot be had.
    fn doubt_endpoint_after(&self, error: &IssuerError) {
        let moved = match error.http_status {
            Some(status) => matches!(status, 300..=399 | 404 | 405 | 410),
            None => matches!(error.kind, FailureKind::Unavailable | FailureKind::Timeout),
        };
        if let Some(endpoint) = &*self.endpoint.load()
            && moved
            && matches!(self.config.endpoint, TokenEndpoint::Discovery(_))
        {
            endpoint.doubted.store(true, Ordering::Relaxed);
        }
    }

    fn not_ready(&self, NotReady(what): NotReady) -> IssuerError {
        let detail = format!("issuer {}: was not asked, because {what}", self.config.name);
        let error = IssuerError::new(FailureKind::Credential, detail);
        error.advise(&remedy::unreadable(&self.config.name, &what))
    }

    /// Each is said once, as long as it is true.
    fn remark(&self, remarks: &[String]) {
        let before = self.remarked.load_full();
        if before.as_ref().map_or(&[][..], |before| before.as_slice()) == remarks {
            return;
        }
        let issuer = &*self.config.name;
        remarks.iter().for_each(|remark| tracing::warn!(event = "issuer.notice", issuer, "{remark}"));
        self.remarked.store(Some(Arc::new(remarks.to_vec())));
    }

    fn note(&self, note: &Note) {
        let bit = note.bit();
        let first = self.noted.fetch_or(bit, Ordering::Relaxed) & bit == 0;
        let issuer = &*self.config.name;
        if first {
            tracing::warn!(event = "issuer.nonstandard_response", issuer, "the issuer's response {note}");
        } else {
            tracing::debug!(event = "issuer.nonstandard_response", issuer, "the issuer's response {note}");
        }
    }

    /// What the token endpoint answered last; `None`: it never did.
    pub fn last_answer(&self) -> Option<Arc<LastAnswer>> {
        self.last_answer.load_full()
    }

    fn saw(&self, answer: &Answer) {
        let seen = LastAnswer::of(answer.status, &answer.headers, self.clock.wall());
        self.last_answer.store(Some(Arc::new(seen)));
    }

    /// A digest over what the client's credential reads as now (ids, secrets, keys, assertion, parameters): another
    /// value means that a refused client may be asked again at once. Unreadable sources count as a value of their own.
    pub fn credential_fingerprint(&self) -> [u8; 32] {
        credential::credential_fingerprint(&self.config)
    }

    /// A digest over what a token of this key was made for: learned values, the client's certificate, the DPoP key.
    /// Another value means that a token granted before it is of no more use.
    pub fn binding_fingerprint(&self, key: &CredentialKey) -> [u8; 32] {
        credential::binding_fingerprint(&self.config, key)
    }
}

/// Of one response, whatever it said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastAnswer {
    pub status: u16,
    /// When it had come, by our clock.
    pub at: SystemTime,
    /// The issuer's clock (`Date`), to the second.
    pub date: Option<SystemTime>,
}

impl LastAnswer {
    fn of(status: http::StatusCode, headers: &HeaderMap, at: SystemTime) -> Self {
        let date = headers.get(DATE).and_then(|date| date.to_str().ok());
        Self { status: status.as_u16(), at, date: date.and_then(|date| httpdate::parse_http_date(date).ok()) }
    }

    /// How far the issuer's clock is ahead of ours, in seconds; negative where it is behind. `None`: it does not say.
    pub fn clock_difference(&self) -> Option<i64> {
        let whole = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        Some(match self.date?.duration_since(self.at) {
            Ok(ahead) => whole(ahead),
            // `Date` is cut to the second before it, so that up to one second behind is none.
            Err(behind) => -whole(behind.duration()),
        })
    }
}

/// What the attempts of one request share.
struct Asking<'a> {
    key: &'a CredentialKey,
    endpoint: &'a Endpoint,
    prover: Option<&'a Arc<Prover>>,
    deadline: Deadline,
}

struct Judged {
    outcome: Result<Grant, IssuerError>,
    /// The request may be made anew at once.
    again: Option<Again>,
}

/// Whoever has the document is away: that leaves open where the token endpoint is.
fn says_nothing(error: &IssuerError) -> bool {
    matches!(error.kind, FailureKind::Unavailable | FailureKind::Timeout)
}

fn connector_to(url: &HttpUrl, config: &IssuerConfig, offer: Offer) -> Connector {
    let target = Target::Tcp { host: url.host.clone(), port: url.port, tls: url.https };
    Connector::new(target, config.tls.clone(), config.egress.clone(), offer, config.timeout)
}

/// Judges arbitrary bytes as a response of a token endpoint. The first byte chooses the status, the format and
/// the headers, the rest is the body. For the fuzz target and the replay of its corpus: it must not panic.
pub fn fuzz_response(bytes: &[u8]) {
    fuzz::response(bytes);
}

/// Echoes a secret in a text, and looks at what would be shown of it. Lines: the secret; how it is encoded, one step a
/// byte; the text around it. For the fuzz target and the replay of its corpus.
pub fn fuzz_masked(bytes: &[u8]) {
    fuzz::masked(bytes);
}

#[cfg(test)]
mod tests;
