//! One credential's place: the current token, its flight, its last failure.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderValue;

use super::TokenError;
use crate::config::CredentialKey;
use crate::secret::Secret;

/// A fetched token, ready to be sent.
pub struct Token {
    /// `Bearer …`, marked sensitive; its memory is wiped when the last clone is dropped.
    pub bearer: HeaderValue,
    /// The bare token, for other header formats.
    pub secret: Secret,
    /// Grows with every token of the slot.
    pub generation: u64,
}

/// See the module.
pub struct TokenSlot {}

/// What to do with an upstream's answer that means "get a new token".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// The token is dropped (now or by another call): wait for a newer one and replay.
    Replace,
    /// The token was itself fetched because of a 401, less than 10 s ago: pass the answer on.
    Keep,
}

/// For `/status`; never a value.
#[derive(Debug, Clone)]
pub struct SlotStatus {
    pub key: CredentialKey,
    /// `valid`, `none`, `expired`.
    pub state: &'static str,
    pub granted_scope: Option<String>,
    pub fetched_at: Option<SystemTime>,
    pub expires_at: Option<SystemTime>,
    pub renew_at: Option<SystemTime>,
    pub fetching: bool,
    pub waiters: usize,
    pub last_error: Option<LastError>,
    /// Was fetched at least once.
    pub fetched_once: bool,
}

#[derive(Debug, Clone)]
pub struct LastError {
    pub at: SystemTime,
    pub detail: String,
    pub code: Option<String>,
    pub next_try: Option<SystemTime>,
    pub failures_in_a_row: u32,
}

impl TokenSlot {
    /// The hot path: the current token where it may be sent now. Lock-free. Notes the use, and pokes the renewal
    /// where it is due.
    pub fn current(&self) -> Option<Arc<Token>> {
        todo!("token helper")
    }

    /// The cold path: waits for the flight under way, or starts one; at most the issuer's `timeout`.
    /// After a failure that is still in force it answers at once.
    pub async fn wait(self: Arc<Self>) -> Result<Arc<Token>, TokenError> {
        todo!("token helper")
    }

    /// An upstream refused the token of this generation.
    pub fn reject(&self, generation: u64) -> Rejected {
        let _ = generation;
        todo!("token helper")
    }

    /// After [`Rejected::Replace`]: a token newer than `generation`, from one fetch for all callers.
    pub async fn newer_than(self: Arc<Self>, generation: u64) -> Result<Arc<Token>, TokenError> {
        let _ = generation;
        todo!("token helper")
    }

    pub fn status(&self) -> SlotStatus {
        todo!("token helper")
    }

    /// SIGHUP or a changed secret file: a refused client is asked again at once.
    pub fn retry_now(&self, _why: RetryCause) {
        todo!("token helper")
    }

    pub fn timeout(&self) -> Option<Duration> {
        todo!("token helper")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryCause {
    /// SIGHUP: ask again whatever the failure was.
    Operator,
    /// Files changed: ask again where this credential's fingerprint changed.
    FilesChanged,
}
