//! What a request is told when there is no token for it.

use std::fmt;
use std::time::Duration;

use crate::issuer::FailureKind;

/// Which of the proxy's own errors it becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenErrorKind {
    /// 502 `token_refused`.
    Refused,
    /// 503 `token_unavailable`.
    Unavailable,
    /// 504 `token_timeout`.
    Timeout,
    /// 503 `overloaded`: too many callers wait for this token.
    Overloaded,
}

impl From<FailureKind> for TokenErrorKind {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::ClientRefused | FailureKind::RequestRefused | FailureKind::Unusable => Self::Refused,
            FailureKind::Unavailable | FailureKind::Credential => Self::Unavailable,
            FailureKind::Timeout => Self::Timeout,
        }
    }
}

/// Why there is no token for a request. Cloned to every request that waited. No secret is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenError {
    pub kind: TokenErrorKind,
    /// For `detail`: what happened, to whom, what to do.
    pub detail: String,
    /// The issuer refused our client or request: gRPC status 16 instead of 14.
    pub issuer_refused: bool,
    /// When the issuer is asked again, at least 1 s; `None` where that is not known.
    pub retry_after: Option<Duration>,
}

impl TokenError {
    pub(super) fn overloaded(issuer: &str, waiters: usize) -> Self {
        Self {
            kind: TokenErrorKind::Overloaded,
            detail: format!(
                "{waiters} calls wait for a token of issuer {issuer} already: see why it is slow, or raise waiters in [limits]"
            ),
            issuer_refused: false,
            retry_after: Some(Duration::from_secs(1)),
        }
    }

    pub(super) fn waited_in_vain(issuer: &str, limit: Duration) -> Self {
        Self {
            kind: TokenErrorKind::Timeout,
            detail: format!(
                "issuer {issuer} gave no token within {}: see why it is slow, or raise its timeout",
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
