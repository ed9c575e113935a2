//! One token request: discovery, client authentication, the request, and the response. This module caches nothing and
//! does not retry later.

mod assertion;
mod chain;
mod challenge;
mod credential;
mod discovery;
mod document;
mod error;
mod examine;
mod exchange;
pub(crate) mod fuzz;
mod gate;
mod inputs;
mod keys;
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
use tokio::time::Instant;

pub use chain::{ChainedTokens, Taking, Use, chained, chained_by_either, chained_by_standby};
pub use discovery::Metadata;
pub(crate) use document::{decode_form, parse_json};
pub use error::{FailureKind, IssuerError, Unreached};
pub use examine::{Finding, SOON_DAYS, about_dates, examine};
pub use gate::{Denied, Gate, Permitting};
pub use response::Audience;

use self::assertion::Nonce;
use self::chain::FreshTokens;
use self::credential::{ClientCredential, Grace, Preference, WhichCredential};
use self::error::{ErrorContext, host_and_path};
use self::exchange::{Deadline, HttpVersions, IssuerResponse, RepeatReason, Repeats};
use self::inputs::{Inputs, NotReady};
use self::keys::KeyCache;
use self::response::{ResponseWarning, SentRequest};
use crate::clock::{Moment, SharedClock};
use crate::config::{CredentialKey, HttpUrl, IssuerConfig, Source, TokenEndpoint};
use crate::jose::Prover;
use crate::net::{Connector, Offer, Target};
use crate::redact::Redactor;
use crate::secret::Secret;

/// The largest response of a token endpoint, in bytes.
const RESPONSE_LIMIT: usize = 64 * 1024;

/// An authorization server that issues tokens.
pub struct Issuer {
    config: Arc<IssuerConfig>,
    clock: SharedClock,
    /// The token endpoint, once it is known.
    endpoint: ArcSwapOption<Endpoint>,
    keys: KeyCache,
    preference: Preference,
    grace: Grace,
    nonce: Nonce,
    versions: HttpVersions,
    /// One bit for each kind of [`ResponseWarning`] that was logged as a warning. From then on it is logged at debug.
    noted: AtomicU8,
    /// The last warnings about expired certificates and assertions.
    remarked: ArcSwapOption<Vec<String>>,
    last_response: ArcSwapOption<LastResponse>,
}

struct Endpoint {
    url: HttpUrl,
    connector: Connector,
    /// The HTTP versions that the connector offers.
    offer: Offer,
    /// The endpoint was discovered and a request to it failed, so it may have moved.
    may_have_moved: AtomicBool,
}

/// What the issuer granted, with a usable token: 1 byte to 16 KiB of 0x21–0x7E, of an accepted type.
#[derive(Debug)]
pub struct Grant {
    pub token: Secret,
    /// The accepted type in lower case; `bearer` if the response names none.
    pub token_type: String,
    /// Proves possession of the key that the token is bound to, if it is bound to one (RFC 9449).
    pub prover: Option<Arc<Prover>>,
    /// When the request was sent whose response this is. The lifetime counts from here.
    pub asked: Moment,
    /// How long it took in all, with discovery and repeated requests, and without the time that it took to make values.
    pub took: Duration,
    /// `expires_in`, or else the time from [`Self::asked`] until `expires_at`; clamped to 1 s ..= 24 h. `None`: the response
    /// has neither in a readable form, so `default_lifetime` applies.
    pub expires_in: Option<Duration>,
    /// The granted scopes, if the response names them.
    pub scope: Option<String>,
    /// The token's audience, as far as it can be read.
    pub audience: Audience,
}

impl Issuer {
    pub fn new(config: Arc<IssuerConfig>, clock: SharedClock) -> Self {
        Self {
            clock,
            endpoint: ArcSwapOption::empty(),
            keys: KeyCache::new(Arc::clone(&config.name)),
            preference: Preference::default(),
            grace: Grace::default(),
            nonce: Nonce::default(),
            versions: HttpVersions::default(),
            noted: AtomicU8::new(0),
            remarked: ArcSwapOption::empty(),
            last_response: ArcSwapOption::empty(),
            config,
        }
    }

    pub fn config(&self) -> &Arc<IssuerConfig> {
        &self.config
    }

    /// Host and path of the token endpoint, without its query. `None` until discovery has found it.
    pub fn endpoint(&self) -> Option<String> {
        match (&*self.endpoint.load(), &self.config.endpoint) {
            (Some(endpoint), _) => Some(host_and_path(&endpoint.url)),
            (None, TokenEndpoint::Url(url)) => Some(host_and_path(url)),
            (None, TokenEndpoint::Discovery(_)) => None,
        }
    }

    /// Requests one token with the key's scopes and parameters, within the issuer's `timeout`. The time that it takes to make
    /// values of the request (by programs, or tokens of other issuers) comes on top. No budget counts the request.
    ///
    /// # Errors
    /// The issuer cannot be reached, refuses the request, or responds without a usable token; or a credential cannot be
    /// read.
    pub async fn fetch(&self, key: &CredentialKey) -> Result<Grant, IssuerError> {
        let tokens = FreshTokens(Arc::clone(&self.clock));
        self.fetch_through(&gate::Open, key, &tokens, false).await
    }

    /// Makes the values of the next token request, as [`Self::token_identity`] needs them. Returns `true` if there are some and
    /// they are there.
    pub async fn prepare(&self, key: &CredentialKey, tokens: &dyn ChainedTokens) -> bool {
        let client = self.client(self.preference.first());
        let values = client.map(|client| credential::made_values(&self.config, &client, key));
        let values = values.unwrap_or_default();
        !values.is_empty() && self.make(&values, tokens).await.is_ok()
    }

    /// [`Self::fetch`], but `gate` has to permit each request, and tokens of other issuers come from `tokens`. `prepared`:
    /// without making the values that [`Self::prepare`] just made.
    ///
    /// # Errors
    /// As with [`Self::fetch`], or the gate denied a request ([`FailureKind::Budget`]).
    pub async fn fetch_through(
        &self,
        gate: &dyn Gate,
        key: &CredentialKey,
        tokens: &dyn ChainedTokens,
        prepared: bool,
    ) -> Result<Grant, IssuerError> {
        let (began, deadline) = (Instant::now(), Deadline::after(self.config.timeout));
        let mut fetch = Fetch { key, gate, tokens, prepared, deadline, began };
        let mut outcome = self.attempt(&mut fetch).await;
        let took = fetch.began.elapsed();
        let (status, what, trace) = match &mut outcome {
            Ok(grant) => {
                grant.took = took;
                (None, "granted", None)
            }
            Err(error) => {
                error.took = took;
                (error.http_status, error.kind.as_str(), error.trace.as_deref())
            }
        };
        tracing::debug!(
            event = "token.request",
            issuer = &*self.config.name,
            endpoint = self.endpoint(),
            status,
            outcome = what,
            trace,
            ms = took.as_millis(),
            "requested a token"
        );
        outcome
    }

    async fn attempt(&self, fetch: &mut Fetch<'_>) -> Result<Grant, IssuerError> {
        let started = self.clock.boot();
        let outcome = self.fetch_with_either(fetch).await;
        let grace = self.config.credential_grace;
        if grace.is_zero() {
            return outcome;
        }
        // Of the values that were used, some of which may be made for this request.
        let age = self.grace.age(credential::client_fingerprint(&self.config), started);
        outcome.map_err(|error| credential::forgive(error, age, grace))
    }

    /// Uses the credential that worked last, and if the issuer refuses it, the other one.
    async fn fetch_with_either(&self, fetch: &mut Fetch<'_>) -> Result<Grant, IssuerError> {
        let first = self.preference.first();
        let refused = match self.fetch_with(first, fetch).await {
            Err(error) if error.is_client_refused() && self.config.standby.is_some() => error,
            outcome => return outcome,
        };
        let second = first.other();
        fetch.prepared = false;
        match self.fetch_with(second, fetch).await {
            Ok(grant) => {
                self.preference.switch_to(second, &self.config.name);
                Ok(grant)
            }
            Err(error) => Err(credential::both_refused(&self.config.name, (first, refused), (second, error))),
        }
    }

    /// Makes the values that programs print and other issuers grant, and requests a token. If the issuer refuses such a value
    /// that was made for an earlier request, it is made anew, and bearerd asks once more.
    async fn fetch_with(&self, which: WhichCredential, fetch: &mut Fetch<'_>) -> Result<Grant, IssuerError> {
        let client = self.client(which);
        let client = client.ok_or_else(|| self.not_ready(NotReady("there is no credential".to_owned())))?;
        let values = credential::made_values(&self.config, &client, fetch.key);
        if !fetch.prepared {
            self.make_for(fetch, &values).await?;
        }
        let outcome = self.request(&client, *fetch).await;
        let exchanges = remedy::exchanges_token(&self.config);
        let is_refused = outcome.as_ref().is_err_and(|error| error.is_about_credential(exchanges));
        if !is_refused || !refuse(&values, fetch.tokens) {
            return outcome;
        }
        self.make_for(fetch, &values).await?;
        self.request(&client, *fetch).await
    }

    /// [`Self::make`], on top of the time that the fetch may take.
    async fn make_for(&self, fetch: &mut Fetch<'_>, values: &[(String, &Source)]) -> Result<(), IssuerError> {
        let since = Instant::now();
        let made = self.make(values, fetch.tokens).await;
        fetch.discount(since.elapsed());
        made
    }

    fn client(&self, which: WhichCredential) -> Option<ClientCredential<'_>> {
        // Without `standby` there is only the current credential, which always exists.
        ClientCredential::of(&self.config, which)
            .or_else(|| ClientCredential::of(&self.config, WhichCredential::Current))
    }

    /// Makes these values, all at the same time.
    async fn make(
        &self,
        values: &[(String, &Source)],
        tokens: &dyn ChainedTokens,
    ) -> Result<(), IssuerError> {
        let running: Vec<_> = values.iter().map(|(key, source)| (key, source.refresh())).collect();
        // The other issuers' tokens are usually at hand, and the programs run meanwhile.
        for (key, source) in values {
            if let Some(chained) = source.chained() {
                let token = tokens.take(chained).await;
                chained
                    .put(token.map_err(|error| chain::leg(&self.config.name, key, &chained.issuer, &error))?);
            }
        }
        for (key, running) in running {
            running
                .await
                .map_err(|error| self.not_ready(NotReady(format!("{key} cannot be read: {error}"))))?;
        }
        Ok(())
    }

    async fn request(&self, client: &ClientCredential<'_>, fetch: Fetch<'_>) -> Result<Grant, IssuerError> {
        let now = self.clock.wall();
        let prover = self.config.dpop.as_ref().map(|dpop| self.keys.prover(dpop)).transpose();
        let prover = prover.map_err(|what| self.not_ready(NotReady(what)))?;
        let inputs = Inputs::read(&self.config, client, fetch.key, &self.keys, now);
        let mut inputs = inputs.map_err(|what| self.not_ready(what))?;
        self.remark(&inputs.remarks);
        let mut repeats = Repeats::default();
        let outcome = loop {
            let endpoint = self.known_endpoint(&inputs.redactor, fetch.deadline).await?;
            let asking = Attempt { fetch, endpoint: &endpoint, prover: prover.as_ref() };
            let judged = self.send_once(&asking, &mut inputs).await;
            let Some(again) = repeats.allow(judged.again) else { break judged.outcome };
            self.versions.learn(again, &self.config.name);
        };
        let mut grant = outcome.map_err(|mut error| {
            self.recheck_endpoint_after(&error);
            // These say nothing about the credential.
            if !matches!(error.kind, FailureKind::Timeout | FailureKind::Budget) {
                error = inputs.remarks.iter().fold(error, |error, remark| error.advise(remark));
            }
            error
        })?;
        grant.prover = prover.filter(|_| grant.token_type == "dpop");
        Ok(grant)
    }

    /// Sends one request and judges its response. Nothing in it is sent twice: it has its own JWT and its own proof.
    async fn send_once(&self, asking: &Attempt<'_>, inputs: &mut Inputs) -> AttemptResult {
        let now = self.clock.wall();
        let url = &asking.endpoint.url;
        let request = self.signed_request(asking, inputs, now).await;
        let context = ErrorContext::new(&self.config, url, &inputs.redactor);
        let request = match request {
            Ok(request) => request,
            Err(what) => {
                let error =
                    context.fail(FailureKind::Credential, format_args!("was not sent this request: {what}"));
                return AttemptResult::failed(error);
            }
        };
        let Fetch { gate, deadline, .. } = asking.fetch;
        let connector = &asking.endpoint.connector;
        let mut at = Moment::now(&*self.clock);
        // Nothing that delays the request counts as the token's lifetime.
        let permit = async {
            gate.permit().await?;
            at = Moment::now(&*self.clock);
            Ok(())
        };
        match exchange::send(connector, request, RESPONSE_LIMIT, deadline, permit).await {
            Err(broken) => {
                let error = context.broken(&broken, connector);
                AttemptResult { outcome: Err(error), again: RepeatReason::after(&broken) }
            }
            Ok(response) => {
                self.record_response(&response);
                let key = self.challenged_key(&response);
                let nonce_given = asking.prover.is_some() && self.nonce.keep(&response.headers);
                let asked = SentRequest { at, scopes: &asking.fetch.key.scopes };
                let outcome = response::judge(response, &context, &asked).map(|(grant, notes)| {
                    notes.iter().for_each(|note| self.note(note));
                    grant
                });
                match key {
                    None => {}
                    Some(Err(what)) => return AttemptResult::failed(context.no_key_file(&what)),
                    Some(Ok(key)) => {
                        inputs.answer_challenge(key);
                        return AttemptResult { outcome, again: Some(RepeatReason::WithKeyFile) };
                    }
                }
                let wants_nonce = nonce_given && outcome.as_ref().is_err_and(assertion::wants_nonce);
                AttemptResult { outcome, again: wants_nonce.then_some(RepeatReason::WithNonce) }
            }
        }
    }

    async fn signed_request(
        &self,
        asking: &Attempt<'_>,
        inputs: &mut Inputs,
        now: SystemTime,
    ) -> Result<http::Request<http_body_util::Full<bytes::Bytes>>, String> {
        let url = &asking.endpoint.url;
        let mut fresh = inputs.sign(&self.config, now).await?;
        if let Some(prover) = asking.prover {
            let method = request::method(&self.config);
            fresh.proof = Some(self.nonce.proof(prover, &method, url, now).await?);
        }
        request::build(inputs, fresh, &self.config, asking.fetch.key, url)
    }

    /// The content of the key file that the response asks for.
    fn challenged_key(&self, response: &IssuerResponse) -> Option<Result<Secret, String>> {
        let folder = self.config.challenge_folder.as_deref()?;
        let named = challenge::key_file(response.status, &response.headers)?;
        Some(challenge::read_key(&named, folder))
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
            known.may_have_moved.store(false, Ordering::Relaxed);
            return Ok(known);
        }
        let connector = connector_to(&url, &self.config, offer);
        let endpoint = Arc::new(Endpoint { connector, offer, url, may_have_moved: AtomicBool::new(false) });
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
            (Some(known), _) if !known.may_have_moved.load(Ordering::Relaxed) => {
                return Ok(known.url.clone());
            }
            (_, TokenEndpoint::Url(url)) => return Ok(url.clone()),
            (_, TokenEndpoint::Discovery(issuer)) => issuer,
        };
        // The remaining time is for a request to the known endpoint.
        let deadline = if known.is_some() { deadline.halved() } else { deadline };
        match (self.discover(issuer, redactor, deadline).await, known) {
            (Ok(found), _) => Ok(found.token_endpoint),
            (Err(error), Some(known)) if is_outage(&error) => Ok(known.url.clone()),
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

    /// Fetches the issuer's metadata, for diagnosis; it is not kept. `None` if the config has only `token_url`, because
    /// the location of the document would be a guess.
    ///
    /// # Errors
    /// There is no such document, or it is not the issuer's.
    pub async fn metadata(&self) -> Result<Option<Metadata>, IssuerError> {
        let TokenEndpoint::Discovery(issuer) = &self.config.endpoint else { return Ok(None) };
        let deadline = Deadline::after(self.config.timeout);
        let redactor = inputs::known_secrets(&self.config);
        self.discover(issuer, &redactor, deadline).await.map(Some)
    }

    /// The issuer refused the current credential and accepted `standby`, which bearerd now tries first.
    pub fn standby_in_use(&self) -> bool {
        self.preference.first() == WhichCredential::Standby
    }

    /// After a failure that suggests a moved endpoint, the next fetch repeats discovery, and uses the known endpoint if
    /// discovery fails.
    fn recheck_endpoint_after(&self, error: &IssuerError) {
        let moved = match error.http_status {
            Some(status) => matches!(status, 300..=399 | 404 | 405 | 410),
            None => matches!(error.kind, FailureKind::Unavailable | FailureKind::Timeout),
        };
        if let Some(endpoint) = &*self.endpoint.load()
            && moved
            && matches!(self.config.endpoint, TokenEndpoint::Discovery(_))
        {
            endpoint.may_have_moved.store(true, Ordering::Relaxed);
        }
    }

    fn not_ready(&self, NotReady(what): NotReady) -> IssuerError {
        let detail = format!("issuer {}: was not asked, because {what}", self.config.name);
        let error = IssuerError::new(FailureKind::Credential, detail);
        error.advise(&remedy::unreadable(&self.config.name, &what))
    }

    /// Logs each warning once, as long as it is true.
    fn remark(&self, remarks: &[String]) {
        let before = self.remarked.load_full();
        if before.as_ref().map_or(&[][..], |before| before.as_slice()) == remarks {
            return;
        }
        let issuer = &*self.config.name;
        remarks.iter().for_each(|remark| tracing::warn!(event = "issuer.notice", issuer, "{remark}"));
        self.remarked.store(Some(Arc::new(remarks.to_vec())));
    }

    fn note(&self, note: &ResponseWarning) {
        let bit = note.bit();
        let first = self.noted.fetch_or(bit, Ordering::Relaxed) & bit == 0;
        let issuer = &*self.config.name;
        if first {
            tracing::warn!(event = "issuer.nonstandard_response", issuer, "the issuer's response {note}");
        } else {
            tracing::debug!(event = "issuer.nonstandard_response", issuer, "the issuer's response {note}");
        }
    }

    /// The last response of the token endpoint. `None`: it never responded.
    pub fn last_response(&self) -> Option<Arc<LastResponse>> {
        self.last_response.load_full()
    }

    fn record_response(&self, response: &IssuerResponse) {
        let seen = LastResponse::of(response.status, &response.headers, self.clock.wall());
        self.last_response.store(Some(Arc::new(seen)));
    }

    /// A digest of the client's credential as it reads now (IDs, secrets, keys, assertion, parameters). Another value
    /// means that a refused client may be tried again at once. An unreadable source counts as a value of its own.
    pub fn credential_fingerprint(&self) -> [u8; 32] {
        credential::credential_fingerprint(&self.config)
    }

    /// A digest of what a token of this key is bound to: learned values, the client's certificate, the DPoP key.
    /// If this value changes, tokens that were granted before can no longer be used.
    pub fn binding_fingerprint(&self, key: &CredentialKey) -> [u8; 32] {
        credential::binding_fingerprint(&self.config, key)
    }

    /// A digest of what a token of this key is for and with which credential it is requested. Two replicas may share a
    /// token only if it is the same.
    pub fn token_identity(&self, key: &CredentialKey) -> [u8; 32] {
        credential::token_identity(&self.config, key)
    }
}

/// Status and time of one response, whatever it said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastResponse {
    pub status: u16,
    /// When the response arrived, by this machine's clock.
    pub at: SystemTime,
    /// The issuer's clock (`Date`), to the second.
    pub date: Option<SystemTime>,
}

impl LastResponse {
    fn of(status: http::StatusCode, headers: &HeaderMap, at: SystemTime) -> Self {
        let date = headers.get(DATE).and_then(|date| date.to_str().ok());
        Self { status: status.as_u16(), at, date: date.and_then(|date| httpdate::parse_http_date(date).ok()) }
    }

    /// How far the issuer's clock is ahead of this machine's, in seconds; negative if it is behind. `None`: the
    /// response has no `Date`.
    pub fn clock_difference(&self) -> Option<i64> {
        let whole = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        Some(match self.date?.duration_since(self.at) {
            Ok(ahead) => whole(ahead),
            // `Date` is rounded down to the second, so up to one second behind counts as none.
            Err(behind) => -whole(behind.duration()),
        })
    }
}

/// What a fetch is for, and its bounds.
#[derive(Clone, Copy)]
struct Fetch<'a> {
    key: &'a CredentialKey,
    gate: &'a dyn Gate,
    tokens: &'a dyn ChainedTokens,
    /// The values were made already.
    prepared: bool,
    deadline: Deadline,
    /// The start, later by the time that it took to make values.
    began: Instant,
}

/// What the requests with one credential share.
struct Attempt<'a> {
    fetch: Fetch<'a>,
    endpoint: &'a Endpoint,
    prover: Option<&'a Arc<Prover>>,
}

impl Fetch<'_> {
    /// Does not count this time.
    fn discount(&mut self, time: Duration) {
        self.deadline = self.deadline.later_by(time);
        self.began += time;
    }
}

/// The issuer refused these values. Returns whether some were made for an earlier request, so that others may help.
fn refuse(values: &[(String, &Source)], tokens: &dyn ChainedTokens) -> bool {
    let older = values.iter().filter(|(_, source)| match source.chained() {
        Some(chained) => tokens.refuse(chained),
        None => source.refuse(),
    });
    // All of them, because each may be the wrong one.
    older.count() > 0
}

struct AttemptResult {
    outcome: Result<Grant, IssuerError>,
    /// Why the request may be repeated at once.
    again: Option<RepeatReason>,
}

impl AttemptResult {
    fn failed(error: IssuerError) -> Self {
        Self { outcome: Err(error), again: None }
    }
}

/// The server of the metadata is not available, which says nothing about the token endpoint.
fn is_outage(error: &IssuerError) -> bool {
    matches!(error.kind, FailureKind::Unavailable | FailureKind::Timeout)
}

fn connector_to(url: &HttpUrl, config: &IssuerConfig, offer: Offer) -> Connector {
    let target = Target::Tcp { host: url.host.clone(), port: url.port, tls: url.https };
    Connector::new(target, config.tls.clone(), config.egress.clone(), offer, config.timeout)
}

/// Judges arbitrary bytes as a response of a token endpoint. The first byte selects the status, the format and the
/// header fields; the rest is the body. For the fuzz target and the replay of its corpus: it must not panic.
pub fn fuzz_response(bytes: &[u8]) {
    fuzz::response(bytes);
}

/// Echoes a secret in a text, and checks what would be shown of it. The lines are the secret, its encodings (one for
/// each byte), and the text around it. For the fuzz target and the replay of its corpus.
pub fn fuzz_masked(bytes: &[u8]) {
    fuzz::masked(bytes);
}

#[cfg(test)]
mod tests;
