//! Why no token came.

use std::time::Duration;

use crate::net::Hop;

/// What kind of failure: decides the status, and when the issuer is asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// `invalid_client`, `unauthorized_client`, or any 401 of the token endpoint: asked again after 60 s,
    /// or at once when the credential changed or SIGHUP came. See [`IssuerError::forgiven`].
    ClientRefused,
    /// `invalid_scope`, `invalid_request`, `invalid_grant`, `unsupported_grant_type`: likewise.
    RequestRefused,
    /// It answered, and it was no usable token: backs off.
    Unusable,
    /// DNS, connection, TLS, 5xx or 429: backs off.
    Unavailable,
    /// No response in time: backs off.
    Timeout,
    /// Our own credential cannot be read (a file is missing): backs off; at once when it changed.
    Credential,
}

impl FailureKind {
    /// The issuer judged our client or our request, and refused it.
    pub fn is_refusal(self) -> bool {
        match self {
            Self::ClientRefused | Self::RequestRefused => true,
            Self::Unusable | Self::Unavailable | Self::Timeout | Self::Credential => false,
        }
    }

    /// A short word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientRefused => "client_refused",
            Self::RequestRefused => "request_refused",
            Self::Unusable => "unusable",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Credential => "credential",
        }
    }
}

/// A failed token request. No secret and no body is in it.
#[derive(Debug, Clone)]
pub struct IssuerError {
    pub kind: FailureKind,
    /// A sentence for `detail` and the log: what happened, to whom, what to do. The issuer's `error_description`
    /// stands in it without control characters, at most 512 bytes, and not at all where a known secret is in it.
    pub detail: String,
    /// The same without a word that the issuer chose.
    pub summary: String,
    /// What of `detail` says what to do, where it does.
    pub remedy: Option<Box<str>>,
    /// The OAuth `error` code, at most 64 printable characters.
    pub code: Option<String>,
    pub http_status: Option<u16>,
    /// From `Retry-After`, seconds or date, at most 5 min.
    pub retry_after: Option<Duration>,
    /// Under which ids the issuer knows the request, for its support: `trace_id=… x-request-id=…`, at most 128
    /// printable characters. For the log and `/status`, not for callers.
    pub trace: Option<String>,
    /// Refused so soon after its credential changed (`credential_grace`) that it is asked again with the usual pauses.
    pub forgiven: bool,
    /// No connection came about, or no response in time.
    pub unreached: Option<Unreached>,
}

/// Where an issuer was not reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreached {
    pub hop: Hop,
    /// Nothing answered: as soon as the hop does, the issuer is worth asking. Else the hop answers, and what is behind
    /// it does not (TLS failed, an egress proxy opened no tunnel), so that a connection to it proves nothing.
    pub silent: bool,
}

impl IssuerError {
    /// A failure of which no more is known than the sentence.
    pub(crate) fn new(kind: FailureKind, detail: String) -> Self {
        Self {
            kind,
            summary: detail.clone(),
            detail,
            remedy: None,
            code: None,
            http_status: None,
            retry_after: None,
            trace: None,
            forgiven: false,
            unreached: None,
        }
    }

    /// The issuer said no to our client or request, and asking again is pointless until somebody changes something.
    pub fn is_final(&self) -> bool {
        self.kind.is_refusal() && !self.forgiven
    }

    /// See [`Unreached::silent`].
    pub fn is_silent(&self) -> bool {
        self.unreached.as_ref().is_some_and(|unreached| unreached.silent)
    }

    /// A failure whose `detail` quotes the issuer.
    pub(crate) fn quoting(kind: FailureKind, detail: String, summary: String) -> Self {
        Self { summary, ..Self::new(kind, detail) }
    }

    /// Adds to the end of both sentences.
    #[must_use]
    pub(crate) fn and(mut self, more: &str) -> Self {
        for sentence in [&mut self.detail, &mut self.summary] {
            sentence.push_str("; ");
            sentence.push_str(more);
        }
        self
    }

    /// Says what to do as well: at the end of the sentence, and by itself.
    #[must_use]
    pub(crate) fn advise(self, remedy: &str) -> Self {
        let mut this = self.and(remedy);
        this.remedy = Some(match this.remedy.take() {
            Some(before) => format!("{before}; {remedy}").into(),
            None => remedy.into(),
        });
        this
    }
}

impl std::fmt::Display for IssuerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for IssuerError {}
