//! Why there is no token, and the error messages: what happened, to whom, and what to do.

use std::fmt::Display;
use std::time::Duration;

use http::StatusCode;

use super::exchange::{self, ExchangeError};
use super::gate::Denied;
use super::reported::{self, ReportedError};
use super::response::ClockSkew;
use crate::clock::rfc3339;
use crate::config::{HttpUrl, IssuerConfig};
use crate::net::{ConnectErrorKind, Connector, Hop, dpop};
use crate::redact::Redactor;

/// The kind of a failure. Decides the response's status, and when bearerd asks the issuer again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// `invalid_client`, `unauthorized_client`, or any 401 of the token endpoint. bearerd asks again after 60 s, or at
    /// once if the credential changed or SIGHUP came. See [`IssuerError::forgiven`].
    ClientRefused,
    /// `invalid_scope`, `invalid_request`, `invalid_grant`, `unsupported_grant_type`. Handled like a refused client.
    RequestRefused,
    /// The issuer responded without a usable token. bearerd backs off.
    Unusable,
    /// DNS, connection, TLS, 5xx or 429. bearerd backs off.
    Unavailable,
    /// No response in time. bearerd backs off.
    Timeout,
    /// bearerd's own credential cannot be read, for example because a file is missing. bearerd backs off, and asks at
    /// once when it changes.
    Credential,
    /// The budget of token requests is spent, so the request was not sent. bearerd asks when the next one is possible.
    Budget,
}

impl FailureKind {
    /// The issuer judged the client or the request, and refused it.
    pub fn is_refusal(self) -> bool {
        match self {
            Self::ClientRefused | Self::RequestRefused => true,
            Self::Unusable | Self::Unavailable | Self::Timeout | Self::Credential | Self::Budget => false,
        }
    }

    /// The name for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientRefused => "client_refused",
            Self::RequestRefused => "request_refused",
            Self::Unusable => "unusable",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Credential => "credential",
            Self::Budget => "budget",
        }
    }
}

/// A failed token request. Contains no secret and no response body.
#[derive(Debug, Clone)]
pub struct IssuerError {
    pub kind: FailureKind,
    /// A sentence for `detail` and the log: what happened, to whom, and what to do. Quotes the issuer's
    /// `error_description` without control characters and up to 512 bytes, but not if it contains a known secret.
    pub detail: String,
    /// The same without any words of the issuer.
    pub summary: String,
    /// The part of `detail` that says what to do.
    pub remedy: Option<Box<str>>,
    /// The OAuth `error` code, at most 64 printable characters.
    pub code: Option<String>,
    pub http_status: Option<u16>,
    /// From `Retry-After` (seconds or a date), at most 5 min. With [`FailureKind::Budget`], how long until the next request is
    /// possible.
    pub retry_after: Option<Duration>,
    /// The IDs under which the issuer knows the request, for its support: `trace_id=… x-request-id=…`, at most 128
    /// printable characters. For the log and `/status`, not for callers.
    pub trace: Option<String>,
    /// Refused so soon after a change of the credential (`credential_grace`) that bearerd asks again with the usual
    /// pauses.
    pub forgiven: bool,
    /// Where the connection failed or timed out.
    pub unreached: Option<Unreached>,
    /// As [`super::Grant::took`].
    pub took: Duration,
}

/// Where an issuer could not be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreached {
    pub hop: Hop,
    /// Nothing responds at `hop`: as soon as it accepts a connection, bearerd asks the issuer again. If `false`, the
    /// hop accepts connections, but what is behind it does not work (TLS failed, an egress proxy opened no tunnel), so
    /// a connection proves nothing.
    pub silent: bool,
}

impl IssuerError {
    /// A failure of which only this sentence is known.
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
            took: Duration::ZERO,
        }
    }

    /// The issuer refused the client or the request, and another request is pointless until somebody changes something.
    pub fn is_final(&self) -> bool {
        self.kind.is_refusal() && !self.forgiven
    }

    /// The issuer itself refused the client, and not one whose token it needs.
    pub(super) fn is_client_refused(&self) -> bool {
        self.kind == FailureKind::ClientRefused && !self.forgiven
    }

    /// The issuer refused who the client is or what it shows, so that a fresh secret, assertion, or token may help. If a
    /// token is exchanged, a refused one is an `invalid_request` (RFC 8693 section 2.2.2).
    pub(super) fn is_about_credential(&self, exchanges_token: bool) -> bool {
        self.kind == FailureKind::ClientRefused
            || match self.code.as_deref() {
                Some("invalid_grant" | "invalid_token") => true,
                Some("invalid_request") => exchanges_token,
                _ => false,
            }
    }

    /// See [`Unreached::silent`].
    pub fn is_silent(&self) -> bool {
        self.unreached.as_ref().is_some_and(|unreached| unreached.silent)
    }

    /// A failure whose `detail` quotes the issuer; `summary` says the same without the quote.
    pub(crate) fn quoting(kind: FailureKind, detail: String, summary: String) -> Self {
        Self { summary, ..Self::new(kind, detail) }
    }

    /// Appends `more` to both sentences.
    #[must_use]
    pub(crate) fn and(mut self, more: &str) -> Self {
        for sentence in [&mut self.detail, &mut self.summary] {
            sentence.push_str("; ");
            sentence.push_str(more);
        }
        self
    }

    /// Appends `remedy` to both sentences, and also keeps it separately.
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

impl Display for IssuerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for IssuerError {}

/// The most bytes of an issuer's `error_description` that are shown.
const DESCRIPTION_LIMIT: usize = 512;
/// Replaces words that contain a secret.
const WITHHELD: &str = "its text contains a secret and is not shown";
/// RFC 6749 section 5.2, RFC 8707 section 2, RFC 9449 sections 5 and 8.
const CODES: [&str; 9] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "invalid_target",
    "invalid_dpop_proof",
    "use_dpop_nonce",
];
/// The most bytes of a plain text that are examined.
const TEXT_LIMIT: usize = 2048;

/// What all error messages of one request need.
#[derive(Clone)]
pub(super) struct ErrorContext<'a> {
    pub(super) config: &'a IssuerConfig,
    /// Host and path of the requested URL, without its query.
    pub(super) endpoint: String,
    /// The request goes over TLS.
    pub(super) https: bool,
    pub(super) redactor: &'a Redactor,
    /// Request IDs in the response's header fields, by name.
    pub(super) traces: Vec<(String, String)>,
    /// The issuer's clock, if the response shows that it differs from this machine's.
    pub(super) skew: Option<ClockSkew>,
}

impl<'a> ErrorContext<'a> {
    pub(super) fn new(config: &'a IssuerConfig, url: &HttpUrl, redactor: &'a Redactor) -> Self {
        Self {
            config,
            endpoint: host_and_path(url),
            https: url.https,
            redactor,
            traces: Vec::new(),
            skew: None,
        }
    }

    /// `what` follows the endpoint's name in the sentence.
    pub(super) fn fail(&self, kind: FailureKind, what: impl Display) -> IssuerError {
        self.fail_quoting(kind, &what, &what)
    }

    /// `what` quotes the issuer; `plain` says the same without the quote.
    fn fail_quoting(&self, kind: FailureKind, what: impl Display, plain: impl Display) -> IssuerError {
        let sentence = |what: &dyn Display| format!("issuer {}: {} {what}", self.config.name, self.endpoint);
        IssuerError {
            trace: self.trace(&[]),
            ..IssuerError::quoting(kind, sentence(&what), sentence(&plain))
        }
    }

    /// The IDs in a response's body, then those in its header fields.
    pub(super) fn trace(&self, named: &[(String, String)]) -> Option<String> {
        self.redactor.show_traces(named.iter().chain(&self.traces))
    }

    /// A response with an accepted status but without a usable token.
    pub(super) fn unusable(&self, status: StatusCode, what: impl Display) -> IssuerError {
        let code = status.as_u16();
        let error = self.fail_quoting(
            FailureKind::Unusable,
            format_args!("responded {code} with {what}"),
            format_args!("responded {code} without a usable token"),
        );
        IssuerError { http_status: Some(status.as_u16()), ..error }
    }

    /// A response that refuses by its status, its `error`, or both.
    pub(super) fn refused(
        &self,
        status: StatusCode,
        reported: &ReportedError,
        retry_after: Option<Duration>,
    ) -> IssuerError {
        let kind = if reported.names_no_identity()
            && status.is_client_error()
            && status != StatusCode::TOO_MANY_REQUESTS
        {
            FailureKind::ClientRefused
        } else {
            classify(status, reported.code.as_deref())
        };
        let code = reported.code.as_deref().and_then(|code| self.redactor.show_code(code));
        let status_alone = format!("responded {}", status.as_u16());
        let mut what = status_alone.clone();
        if let Some(code) = &code {
            what.push(' ');
            what.push_str(code);
        }
        // A code from a standard does not count as the issuer's own words.
        let plain = if code.as_deref().is_some_and(|code| CODES.contains(&code)) {
            what.clone()
        } else {
            status_alone
        };
        what.push_str(&self.quoted(reported));
        let error = IssuerError {
            code,
            http_status: Some(status.as_u16()),
            retry_after: retry_after.filter(|_| !kind.is_refusal()),
            trace: self.trace(&reported.traces),
            ..self.fail_quoting(kind, what, plain).advise(&self.remedy(status, reported))
        };
        match self.clock_hint(status, kind, reported) {
            Some(apart) => error.advise(&apart),
            None => error,
        }
    }

    /// The key file of a challenge was not read. `what` names it.
    pub(super) fn no_key_file(&self, what: &str) -> IssuerError {
        let said = self.redactor.show(what, DESCRIPTION_LIMIT).unwrap_or_else(|| WITHHELD.to_owned());
        let name = &self.config.name;
        let error = self.fail_quoting(
            FailureKind::Credential,
            format_args!("responded 401, and {said}"),
            "responded 401, and the key file that it named was not read",
        );
        let remedy = format!(
            "let the user that runs bearerd read the agent's key files (for Azure Arc, the group himds), or check \
             challenge_folder of [issuer.{name}]"
        );
        IssuerError { http_status: Some(401), ..error.advise(&remedy) }
    }

    /// The response's own words, in parentheses.
    fn quoted(&self, reported: &ReportedError) -> String {
        let shown = match (&reported.description, &reported.text) {
            (Some(text), _) => self.redactor.show(text, DESCRIPTION_LIMIT),
            (None, Some(text)) => self.redactor.show(text, TEXT_LIMIT).map(|text| reported::excerpt(&text)),
            (None, None) => return String::new(),
        };
        match shown {
            Some(nothing) if nothing.is_empty() => nothing,
            Some(shown) => format!(" ({shown})"),
            None => format!(" ({WITHHELD})"),
        }
    }

    pub(super) fn web_page(&self) -> String {
        format!(
            "it is a web page, perhaps of a login or a gateway; check {} of [issuer.{}]",
            self.endpoint_key(),
            self.config.name
        )
    }

    /// The config key of the token endpoint.
    pub(super) fn endpoint_key(&self) -> &'static str {
        self.config.endpoint_key()
    }

    /// The error for a failed exchange with `connector`'s target.
    pub(super) fn broken(&self, broken: &ExchangeError, connector: &Connector) -> IssuerError {
        IssuerError { unreached: unreached(broken, connector), ..self.describe(broken) }
    }

    fn describe(&self, broken: &ExchangeError) -> IssuerError {
        let (name, key) = (&self.config.name, self.endpoint_key());
        match broken {
            ExchangeError::Timeout { doing } => {
                let timeout = humantime::format_duration(self.config.timeout.unwrap_or_default());
                let what = format!("did not respond within {timeout} (while {doing})");
                self.fail(FailureKind::Timeout, what)
                    .advise(&format!("check the issuer, or raise timeout of [issuer.{name}]"))
            }
            ExchangeError::Connect(error) => {
                let kind = match error.kind {
                    ConnectErrorKind::Timeout => FailureKind::Timeout,
                    ConnectErrorKind::Settings => FailureKind::Credential,
                    _ => FailureKind::Unavailable,
                };
                // The message names keys of `tls` where they help. The server chose some of its words.
                let message = self.redactor.show(&error.message, DESCRIPTION_LIMIT);
                let message = message.as_deref().unwrap_or(WITHHELD);
                let what = format!("cannot be reached: {message}");
                // The names in a certificate are the issuer's own words.
                let plain = match what.split_once(": it is for ") {
                    Some((before, _)) if error.kind == ConnectErrorKind::Certificate => before,
                    _ => &what,
                };
                let failed = self.fail_quoting(kind, &what, plain);
                match self.config_keys_for(error.kind) {
                    Some(settings) => failed
                        .advise(&format!("check {settings} of [issuer.{name}]{}", other_causes(error.kind))),
                    None => failed,
                }
            }
            ExchangeError::Denied(denied) => self.over_budget(denied),
            ExchangeError::NotHttp(error) => self
                .fail_quoting(
                    FailureKind::Unusable,
                    format_args!("did not respond as an HTTP server{}", self.cause(error)),
                    "did not respond as an HTTP server",
                )
                .advise(&format!("check {key} of [issuer.{name}]{}", self.https_hint())),
            ExchangeError::NotProcessed(error) => self
                .fail_quoting(
                    FailureKind::Unavailable,
                    format_args!("twice did not process the request{}", self.cause(error)),
                    "twice did not process the request",
                )
                .advise("bearerd asks again; the issuer may be starting, stopping or overloaded"),
            ExchangeError::NeedsHttp1(error) => self
                .fail_quoting(
                    FailureKind::Unavailable,
                    format_args!("requires HTTP/1.1{}", self.cause(error)),
                    "requires HTTP/1.1",
                )
                .advise("bearerd uses HTTP/1.1 from now on"),
            ExchangeError::Closed(error) => self
                .fail_quoting(
                    FailureKind::Unavailable,
                    format_args!("closed the connection without a complete response{}", self.cause(error)),
                    "closed the connection without a complete response",
                )
                .advise(
                    "bearerd asks again; check the issuer's own log, and what is between it and this machine",
                ),
        }
    }

    fn over_budget(&self, denied: &Denied) -> IssuerError {
        let Denied { budget, shared, next, at } = denied;
        let name = &self.config.name;
        let requests = if budget.requests == 1 { "token request" } else { "token requests" };
        let (who, fewer) = if *shared {
            ("all replicas together", "scopes, routes, or replicas")
        } else {
            ("this process", "scopes or routes, or one [store] for all replicas")
        };
        let what = format!(
            "was not asked, because {who} spent the budget of {} {requests} per {}; the next one is possible at {}",
            budget.requests,
            humantime::format_duration(budget.per),
            rfc3339(*at)
        );
        let remedy = format!(
            "raise budget of [issuer.{name}] if the issuer allows more, or request fewer tokens: fewer {fewer}"
        );
        let error = self.fail(FailureKind::Budget, what).advise(&remedy);
        IssuerError { retry_after: Some(*next), ..error }
    }

    /// A TLS server's response to a plain request is not HTTP.
    pub(super) fn https_hint(&self) -> &'static str {
        if self.https { "" } else { "; is it https://?" }
    }

    /// The peer may choose some of these words, as in the reason of a GOAWAY.
    fn cause(&self, error: &hyper::Error) -> String {
        let cause = self.redactor.show(&exchange::reason(error), DESCRIPTION_LIMIT);
        format!(" ({})", cause.as_deref().unwrap_or(WITHHELD))
    }

    /// The config keys that decide about the connection. `None`: the error already names the cause.
    fn config_keys_for(&self, kind: ConnectErrorKind) -> Option<String> {
        let key = self.endpoint_key();
        Some(match kind {
            ConnectErrorKind::Dns | ConnectErrorKind::Refused => key.to_owned(),
            ConnectErrorKind::Unreachable | ConnectErrorKind::Timeout => format!("{key}, proxy and timeout"),
            ConnectErrorKind::Certificate | ConnectErrorKind::Tls => {
                format!("{key} and tls (ca, server_name, certificate)")
            }
            ConnectErrorKind::Proxy => "proxy".to_owned(),
            ConnectErrorKind::Settings => "tls and proxy".to_owned(),
            ConnectErrorKind::Full | ConnectErrorKind::Forbidden => return None,
        })
    }
}

/// Where the connection failed, if that was the cause.
fn unreached(broken: &ExchangeError, connector: &Connector) -> Option<Unreached> {
    let kind = match broken {
        ExchangeError::Timeout { doing: exchange::CONNECTING } => ConnectErrorKind::Timeout,
        ExchangeError::Connect(error) => error.kind,
        _ => return None,
    };
    let hop = connector.hop()?;
    let silent = match kind {
        ConnectErrorKind::Dns | ConnectErrorKind::Refused | ConnectErrorKind::Unreachable => true,
        // A proxy may have accepted the connection.
        ConnectErrorKind::Timeout => !hop.is_proxy(),
        ConnectErrorKind::Certificate | ConnectErrorKind::Tls | ConnectErrorKind::Proxy => false,
        ConnectErrorKind::Settings | ConnectErrorKind::Full | ConnectErrorKind::Forbidden => return None,
    };
    Some(Unreached { hop, silent })
}

/// Other causes, if the config is right.
fn other_causes(kind: ConnectErrorKind) -> &'static str {
    match kind {
        ConnectErrorKind::Dns => ", and this machine's DNS",
        ConnectErrorKind::Unreachable | ConnectErrorKind::Timeout => {
            ", and whether this machine may connect to it (routes, firewall)"
        }
        _ => "",
    }
}

/// RFC 6749 section 5.2. The status goes first: a server that responds 429 or 5xx cannot judge the client.
fn classify(status: StatusCode, code: Option<&str>) -> FailureKind {
    match (status.as_u16(), code) {
        // The proof is refused, which says nothing about the client.
        (401, Some(dpop::USE_NONCE | dpop::INVALID_PROOF)) => FailureKind::RequestRefused,
        (401, _) => FailureKind::ClientRefused,
        (429 | 500.., _) => FailureKind::Unavailable,
        (300..=399, _) => FailureKind::Unusable,
        (_, Some("invalid_client" | "unauthorized_client")) => FailureKind::ClientRefused,
        (_, Some("invalid_scope" | "invalid_request" | "invalid_grant" | "unsupported_grant_type")) => {
            FailureKind::RequestRefused
        }
        (_, Some("temporarily_unavailable")) => FailureKind::Unavailable,
        _ => FailureKind::Unusable,
    }
}

/// Host and path of a URL. Its query may contain secrets, so it is never shown.
pub(super) fn host_and_path(url: &HttpUrl) -> String {
    format!("{}{}", url.authority, path_of(url))
}

pub(super) fn path_of(url: &HttpUrl) -> &str {
    url.path_and_query.split('?').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Egress, TlsOptions};
    use crate::net::connect::Offer;
    use crate::net::{ConnectError, Target};

    fn unreached_by(egress: Egress, broken: &ExchangeError) -> Option<bool> {
        let target = Target::Tcp { host: "idp.example".to_owned(), port: 443, tls: true };
        let connector = Connector::new(target, TlsOptions::default(), egress, Offer::Both, None);
        unreached(broken, &connector).map(|unreached| unreached.silent)
    }

    #[test]
    fn which_failures_show_that_the_address_is_unreachable() {
        use ConnectErrorKind as Kind;
        let proxy = || Egress::Proxy { host: "egress".to_owned(), port: 3128, userinfo: None };
        for (kind, direct, behind_a_proxy) in [
            (Kind::Dns, Some(true), Some(true)),
            (Kind::Refused, Some(true), Some(true)),
            (Kind::Unreachable, Some(true), Some(true)),
            (Kind::Timeout, Some(true), Some(false)),
            (Kind::Certificate, Some(false), Some(false)),
            (Kind::Tls, Some(false), Some(false)),
            (Kind::Proxy, Some(false), Some(false)),
            (Kind::Settings, None, None),
            (Kind::Full, None, None),
        ] {
            let broken = ExchangeError::Connect(ConnectError { kind, message: String::new() });
            assert_eq!(unreached_by(Egress::Direct, &broken), direct, "{kind:?}");
            assert_eq!(unreached_by(proxy(), &broken), behind_a_proxy, "{kind:?}");
        }
        let timeout = |doing| unreached_by(Egress::Direct, &ExchangeError::Timeout { doing });
        assert_eq!([timeout("connecting"), timeout("waiting for the response")], [Some(true), None]);
    }
}
