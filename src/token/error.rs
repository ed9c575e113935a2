//! What a call is told when there is no token for it.

use std::time::Duration;

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

#[derive(Debug, Clone)]
pub struct TokenError {
    pub kind: TokenErrorKind,
    /// For `detail`: what happened, to whom, what to do.
    pub detail: String,
    /// The issuer refused our client or request: gRPC status 16 instead of 14.
    pub issuer_refused: bool,
    /// When the issuer is asked again.
    pub retry_after: Option<Duration>,
}
