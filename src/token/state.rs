//! What a slot publishes: the token it holds, the failure it is in, and how both are shown.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::HeaderValue;
use http::header::InvalidHeaderValue;

use super::backoff;
use super::error::TokenError;
use super::life::{Life, Moment};
use crate::config::CredentialKey;
use crate::issuer::{Audience, FailureKind, IssuerError};
use crate::jose::Prover;
use crate::secret::Secret;

const SHORTEST_RETRY_AFTER: Duration = Duration::from_secs(1);

/// A fetched token, ready to be sent.
pub struct Token {
    /// `Bearer …` (RFC 6750 section 2.1), or `DPoP …` (RFC 9449 section 7.1) where it is bound to a key; marked
    /// sensitive, and its memory is wiped when the last clone is dropped.
    pub authorization: HeaderValue,
    /// The bare token, for other forms.
    pub secret: Secret,
    /// For whom it is, for people who look for the reason of a refusal.
    pub audience: Audience,
    /// Grows with every token of the slot, from 1.
    pub generation: u64,
    /// `Some` where the token is bound to a key: makes the proof that goes with each call.
    pub prover: Option<Arc<Prover>>,
}

impl Token {
    /// Fails where the token holds bytes that no header may hold.
    pub(super) fn new(
        secret: Secret,
        prover: Option<Arc<Prover>>,
        audience: Audience,
        generation: u64,
    ) -> Result<Self, InvalidHeaderValue> {
        let scheme: &[u8] = if prover.is_some() { b"DPoP " } else { b"Bearer " };
        // In one allocation: a vector that grows leaves an unwiped copy behind.
        let mut text = Vec::with_capacity(scheme.len() + secret.expose().len());
        text.extend_from_slice(scheme);
        text.extend_from_slice(secret.expose());
        let wiped: Bytes = Secret::new(text).into_bytes();
        let mut authorization = HeaderValue::from_maybe_shared(wiped)?;
        authorization.set_sensitive(true);
        Ok(Self { authorization, secret, audience, generation, prover })
    }
}

/// What to do with an upstream's answer that means "get a new token".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// This call dropped the token: wait for a newer one and replay.
    Dropped,
    /// Another call dropped the token already: wait for a newer one and replay.
    Replace,
    /// The token was itself fetched because of a 401, less than 10 s ago: pass the answer on.
    Keep,
}

/// Why a failed credential is worth another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryCause {
    /// SIGHUP: ask again whatever the failure was.
    Operator,
    /// Files or learned values changed: ask again where this credential's fingerprint changed.
    FilesChanged,
}

/// For `/status`; never a value.
#[derive(Debug, Clone)]
pub struct SlotStatus {
    pub key: CredentialKey,
    /// `valid`, `none`, `expired` (its last min(5 s, 5 %) of life included).
    pub state: &'static str,
    pub granted_scope: Option<String>,
    pub fetched_at: Option<SystemTime>,
    pub expires_at: Option<SystemTime>,
    pub renew_at: Option<SystemTime>,
    pub fetching: bool,
    /// Calls that wait for this token now.
    pub waiters: usize,
    /// The failure that the slot is in; none once a fetch succeeded.
    pub last_error: Option<LastError>,
    /// Was fetched at least once.
    pub fetched_once: bool,
    /// The issuer takes its standby credential, and not the first one.
    pub standby: bool,
}

/// See [`SlotStatus::last_error`].
#[derive(Debug, Clone)]
pub struct LastError {
    pub at: SystemTime,
    pub detail: String,
    /// The same without a word that the issuer chose.
    pub summary: String,
    /// What of `detail` says what to do, where it does.
    pub remedy: Option<String>,
    /// The OAuth `error` code.
    pub code: Option<String>,
    /// Under which ids the issuer knows the request.
    pub trace: Option<String>,
    pub next_try: Option<SystemTime>,
    pub failures_in_a_row: u32,
}

/// The current token with all that decides about it.
pub(super) struct Held {
    pub(super) token: Arc<Token>,
    pub(super) life: Life,
    pub(super) fetched: Moment,
    /// Fetched because an upstream refused the one before.
    pub(super) forced: bool,
    pub(super) granted_scope: Option<String>,
    /// What the token is bound to, as it read when the token was asked for.
    pub(super) binding: [u8; 32],
    /// Sent at least once: only such a token is renewed unasked.
    pub(super) used: AtomicBool,
}

impl Held {
    pub(super) fn note_use(&self) {
        // The load keeps the cache line shared between workers: it is written once in a token's life.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }
}

/// The failure that a slot is in.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    pub(super) kind: FailureKind,
    pub(super) detail: String,
    pub(super) summary: String,
    pub(super) remedy: Option<String>,
    pub(super) code: Option<String>,
    pub(super) trace: Option<String>,
    pub(super) at: SystemTime,
    /// On the clock that runs in suspend: before it, calls are answered with this failure.
    pub(super) retry_at: Duration,
    pub(super) next_try: SystemTime,
    pub(super) in_a_row: u32,
    /// What the credential read as when it was refused.
    pub(super) fingerprint: [u8; 32],
    /// The number of the flight that failed.
    pub(super) flight: u64,
}

impl Trouble {
    pub(super) fn new(
        error: IssuerError,
        now: Moment,
        in_a_row: u32,
        fingerprint: [u8; 32],
        flight: u64,
    ) -> Self {
        let pause = backoff::pause(error.kind, in_a_row, error.retry_after, fastrand::f64());
        Self {
            kind: error.kind,
            detail: error.detail,
            summary: error.summary,
            remedy: error.remedy.map(String::from),
            code: error.code,
            trace: error.trace,
            at: now.wall,
            retry_at: now.boot.saturating_add(pause),
            next_try: now.wall_in(pause),
            in_a_row,
            fingerprint,
            flight,
        }
    }

    pub(super) fn is_in_force(&self, now: Moment) -> bool {
        now.boot < self.retry_at
    }

    /// Another secret may mend it.
    pub(super) fn is_about_the_credential(&self) -> bool {
        backoff::is_refusal(self.kind) || self.kind == FailureKind::Credential
    }

    /// The same failure, no longer in force.
    pub(super) fn ended(&self, now: Moment) -> Self {
        Self { retry_at: now.boot, next_try: now.wall, ..self.clone() }
    }

    pub(super) fn error(&self, now: Moment) -> TokenError {
        TokenError {
            kind: self.kind.into(),
            detail: self.detail.clone(),
            issuer_refused: backoff::is_refusal(self.kind),
            retry_after: Some(self.retry_at.saturating_sub(now.boot).max(SHORTEST_RETRY_AFTER)),
        }
    }

    pub(super) fn for_status(&self) -> LastError {
        LastError {
            at: self.at,
            detail: self.detail.clone(),
            summary: self.summary.clone(),
            remedy: self.remedy.clone(),
            code: self.code.clone(),
            trace: self.trace.clone(),
            next_try: Some(self.next_try),
            failures_in_a_row: self.in_a_row,
        }
    }
}
