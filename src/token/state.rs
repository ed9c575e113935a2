//! What a slot publishes: the token it holds, the failure it is in, and how both are shown.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::HeaderValue;
use http::header::InvalidHeaderValue;

use super::schedule::{Pause, Validity};
use super::shared::Shared;
use crate::clock::Moment;
use crate::config::{CredentialKey, counted};
use crate::issuer::{Audience, FailureKind, Grant, IssuerError};
use crate::jose::Prover;
use crate::secret::Secret;

const SHORTEST_RETRY_AFTER: Duration = Duration::from_secs(1);

/// A fetched token, ready to be sent.
pub struct Token {
    /// `Bearer …` (RFC 6750 section 2.1), or `DPoP …` (RFC 9449 section 7.1) if the token is bound to a key. Marked
    /// sensitive; its memory is wiped when the last clone is dropped.
    pub authorization: HeaderValue,
    /// The bare token, for other ways to send it.
    pub secret: Secret,
    /// The token's audience, to explain why an upstream refuses it.
    pub audience: Audience,
    /// The granted scopes, if the issuer named them.
    pub granted_scope: Option<String>,
    /// Whoever has only the token cannot use it. See [`Grant::is_bound`].
    pub bound: bool,
    /// Increases with every token of the slot, from 1.
    pub generation: u64,
    /// Makes the proof that goes with each request, if the token is bound to a key.
    pub prover: Option<Arc<Prover>>,
    pub(super) validity: Validity,
}

impl Token {
    /// Fails if the token contains bytes that a header field must not contain.
    pub(super) fn new(grant: Grant, generation: u64, validity: Validity) -> Result<Self, InvalidHeaderValue> {
        let bound = grant.is_bound();
        let Grant { token: secret, prover, audience, scope: granted_scope, .. } = grant;
        let scheme: &[u8] = if prover.is_some() { b"DPoP " } else { b"Bearer " };
        // In one allocation, because a vector that grows leaves an unwiped copy behind.
        let mut text = Vec::with_capacity(scheme.len() + secret.expose().len());
        text.extend_from_slice(scheme);
        text.extend_from_slice(secret.expose());
        let wiped: Bytes = Secret::new(text).into_bytes();
        let mut authorization = HeaderValue::from_maybe_shared(wiped)?;
        authorization.set_sensitive(true);
        Ok(Self { authorization, secret, audience, granted_scope, bound, generation, prover, validity })
    }
}

/// What to do with an upstream's response that means "get a new token".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// This request is the first that reports it: wait for a newer token and replay.
    Dropped,
    /// Another request has reported it already: wait for a newer token and replay.
    Replace,
    /// The token was itself fetched because of a 401, less than 10 s ago: pass the response on.
    Keep,
}

/// Why a failed credential is worth another request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryCause {
    /// SIGHUP: ask again, whatever the failure was.
    Operator,
    /// Files or learned values changed: ask again if this credential's fingerprint changed.
    FilesChanged,
}

/// The state of a slot for `/status`. Never contains a secret.
#[derive(Debug, Clone)]
pub struct SlotStatus {
    pub key: CredentialKey,
    /// `valid`, `none`, or `expired` (which includes the last min(5 s, 5 %) of the lifetime).
    pub state: &'static str,
    pub granted_scope: Option<String>,
    pub fetched_at: Option<SystemTime>,
    pub expires_at: Option<SystemTime>,
    pub renew_at: Option<SystemTime>,
    pub fetching: bool,
    /// The number of requests that wait for this token now.
    pub waiters: usize,
    /// The current failure. `None` once a fetch succeeded.
    pub last_error: Option<LastError>,
    /// A token was fetched at least once.
    pub fetched_once: bool,
    /// The issuer accepts the standby credential and refuses the current one.
    pub standby: bool,
    /// Where the token is in the store, if it is.
    pub shared: Option<SharedStatus>,
}

/// The place of a token in the store, for `/status`.
#[derive(Debug, Clone)]
pub struct SharedStatus {
    pub generation: u64,
    /// The host whose bearerd fetched it.
    pub by: Arc<str>,
    /// This process requested it itself.
    pub own: bool,
}

/// The current failure of a slot. See [`SlotStatus::last_error`].
#[derive(Debug, Clone)]
pub struct LastError {
    pub at: SystemTime,
    pub detail: String,
    /// The same without any words of the issuer.
    pub summary: String,
    /// The part of `detail` that says what to do.
    pub remedy: Option<String>,
    /// The OAuth `error` code.
    pub code: Option<String>,
    /// The IDs under which the issuer knows the request.
    pub trace: Option<String>,
    pub next_try: Option<SystemTime>,
    pub failures_in_a_row: u32,
}

/// The current token with everything that decides about it.
pub(super) struct HeldToken {
    pub(super) token: Arc<Token>,
    pub(super) validity: Validity,
    pub(super) fetched: Moment,
    /// Fetched because an upstream refused the token before it.
    pub(super) forced: bool,
    /// Where it is in the store, if it is.
    pub(super) shared: Option<Shared>,
    /// The fingerprint of what the token is bound to, from when it was requested.
    pub(super) binding: [u8; 32],
    /// Sent at least once. Only such a token is renewed without a request.
    pub(super) used: AtomicBool,
    /// An upstream refused the token. It stays in use only if no new one is available.
    pub(super) refused: AtomicBool,
}

impl HeldToken {
    pub(super) fn note_use(&self) {
        // The load keeps the cache line shared between workers. It is written once for each token.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// The issuer gave out this token and `other` as one and the same.
    pub(super) fn is_same_token(&self, other: &Self) -> bool {
        self.token.generation == other.token.generation
    }

    pub(super) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::SeqCst)
    }

    /// Neither expired nor refused.
    pub(super) fn is_sound(&self, now: Moment) -> bool {
        self.validity.may_be_sent(now) && !self.is_refused()
    }
}

/// The failure that a slot is in.
#[derive(Debug, Clone)]
pub(super) struct FetchFailure {
    pub(super) error: IssuerError,
    at: Moment,
    /// From `at` on. During this time, requests get this failure.
    pause: Pause,
    pub(super) in_a_row: u32,
    /// The credential's fingerprint at the time of the failure.
    pub(super) fingerprint: [u8; 32],
    /// The number of the failed fetch.
    pub(super) fetch: u64,
}

impl FetchFailure {
    /// `left`: see [`Pause::after`].
    pub(super) fn new(
        error: IssuerError,
        at: Moment,
        in_a_row: u32,
        left: Duration,
        fingerprint: [u8; 32],
        fetch: u64,
    ) -> Self {
        let pause = Pause::after(&error, in_a_row, left, fastrand::f64());
        Self { error, at, pause, in_a_row, fingerprint, fetch }
    }

    /// When the pause ends, by the clock that runs during a suspend. `served`: there is a valid token that no upstream
    /// refused; `watched`: a probe watches the issuer.
    pub(super) fn retry_at(&self, served: bool, watched: bool) -> Duration {
        self.at.boot.saturating_add(self.pause.length(served, watched))
    }

    pub(super) fn is_in_force(&self, now: Moment) -> bool {
        now.boot < self.retry_at(false, false)
    }

    /// `other` is the same failure to whoever reads the log.
    pub(super) fn is_same_as(&self, other: &IssuerError) -> bool {
        let IssuerError { kind, code, http_status, .. } = &self.error;
        (kind, code, http_status) == (&other.kind, &other.code, &other.http_status)
    }

    /// A changed credential may fix the failure.
    pub(super) fn is_about_the_credential(&self) -> bool {
        self.error.kind.is_refusal() || self.error.kind == FailureKind::Credential
    }

    /// The same failure with its pause over.
    pub(super) fn ended(&self, now: Moment) -> Self {
        Self { pause: Pause::of(now.boot.saturating_sub(self.at.boot)), ..self.clone() }
    }

    /// How long until bearerd asks the issuer again. It probes an unreachable one each second.
    pub(super) fn next_try_in(&self, now: Moment, served: bool) -> Duration {
        if self.error.is_silent() {
            SHORTEST_RETRY_AFTER
        } else {
            self.retry_at(served, false).saturating_sub(now.boot)
        }
    }

    pub(super) fn error(&self, now: Moment) -> TokenError {
        TokenError {
            kind: self.error.kind.into(),
            detail: self.error.detail.clone(),
            issuer_refused: self.error.kind.is_refusal(),
            retry_after: Some(self.next_try_in(now, false).max(SHORTEST_RETRY_AFTER)),
        }
    }

    pub(super) fn for_status(&self, now: Moment, served: bool) -> LastError {
        LastError {
            at: self.at.wall,
            detail: self.error.detail.clone(),
            summary: self.error.summary.clone(),
            remedy: self.error.remedy.as_deref().map(str::to_owned),
            code: self.error.code.clone(),
            trace: self.error.trace.clone(),
            next_try: Some(now.wall_in(self.next_try_in(now, served))),
            failures_in_a_row: self.in_a_row,
        }
    }
}

/// Which of the proxy's errors a missing token becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenErrorKind {
    /// 502 `token_refused`.
    Refused,
    /// 503 `token_unavailable`.
    Unavailable,
    /// 504 `token_timeout`.
    Timeout,
    /// 503 `token_budget`.
    Budget,
    /// 503 `overloaded`: too many requests wait for this token.
    Overloaded,
}

impl From<FailureKind> for TokenErrorKind {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::ClientRefused | FailureKind::RequestRefused | FailureKind::Unusable => Self::Refused,
            FailureKind::Unavailable | FailureKind::Credential => Self::Unavailable,
            FailureKind::Timeout => Self::Timeout,
            FailureKind::Budget => Self::Budget,
        }
    }
}

/// Why there is no token for a request. Every request that waited gets a clone. Contains no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenError {
    pub kind: TokenErrorKind,
    /// For `detail`: what happened, to whom, and what to do.
    pub detail: String,
    /// The issuer refused the client or the request: gRPC status 16 instead of 14.
    pub issuer_refused: bool,
    /// When bearerd asks the issuer again, at least 1 s. `None`: unknown.
    pub retry_after: Option<Duration>,
}

impl TokenError {
    pub(super) fn overloaded(issuer: &str, waiters: usize) -> Self {
        Self {
            kind: TokenErrorKind::Overloaded,
            detail: format!(
                "a token of issuer {issuer} already has {}: find out why it is slow, or raise waiters in [limits]",
                counted(waiters, "waiting request")
            ),
            issuer_refused: false,
            retry_after: Some(Duration::from_secs(1)),
        }
    }

    pub(super) fn waited_in_vain(issuer: &str, limit: Duration) -> Self {
        Self {
            kind: TokenErrorKind::Timeout,
            detail: format!(
                "issuer {issuer} granted no token within {}: find out why it, or what its token request needs, is slow, or raise \
                 its timeout",
                humantime::format_duration(limit)
            ),
            issuer_refused: false,
            retry_after: None,
        }
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for TokenError {}
