//! What was learned. The names and shapes are those of `--output json` (docs/check-online.md).

use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::{Map, Value};

#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Every token that the proxy needs came, and every upstream can be reached.
    pub(super) ok: bool,
    pub(super) config: String,
    /// The warnings of an offline `check`.
    pub(super) problems: Vec<Value>,
    pub(super) issuers: Vec<IssuerReport>,
    pub(super) upstreams: Vec<UpstreamReport>,
}

#[derive(Debug, Serialize)]
pub(super) struct IssuerReport {
    pub(super) name: String,
    pub(super) ok: bool,
    /// Host and path; `null` where discovery did not find it.
    pub(super) endpoint: Option<String>,
    pub(super) client_auth: String,
    /// The current credential was refused, and `standby` was taken.
    pub(super) standby_in_use: bool,
    pub(super) tls: Option<TlsReport>,
    /// The issuer's clock minus ours, in seconds, to about one second.
    pub(super) clock_difference: Option<i64>,
    pub(super) credentials: Vec<CredentialReport>,
    /// Our own keys and certificates.
    pub(super) keys: Vec<KeyReport>,
    /// What its discovery document says it takes.
    pub(super) advertised: Option<Advertised>,
    /// Token requests beyond one for each credential.
    pub(super) extra_requests: usize,
    pub(super) warnings: Vec<String>,
    /// What to try next.
    pub(super) hints: Vec<String>,
}

/// One token.
#[derive(Debug, Serialize)]
pub(super) struct CredentialReport {
    /// Empty: the issuer's own, which no route uses.
    pub(super) routes: Vec<String>,
    pub(super) scopes: Vec<String>,
    pub(super) subject: Option<String>,
    /// Whether the proxy asks for it.
    pub(super) needed: bool,
    /// `false`: it was not asked for, since another response settles it.
    pub(super) asked: bool,
    pub(super) ok: bool,
    pub(super) status: Option<u16>,
    /// How long it took.
    pub(super) ms: Option<u64>,
    pub(super) token: Option<TokenReport>,
    pub(super) error: Option<ErrorReport>,
}

#[derive(Debug, Serialize)]
pub(super) struct TokenReport {
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// Seconds.
    pub(super) expires_in: u64,
    /// The issuer did not say: `default_lifetime`.
    pub(super) expires_in_assumed: bool,
    /// As the response names it; `null`: as asked.
    pub(super) scope: Option<String>,
    /// Asked for and not granted.
    pub(super) not_granted: Vec<String>,
    /// Some claims, where the token is a JWT; its signature was not checked.
    pub(super) claims: Option<Map<String, Value>>,
}

#[derive(Debug, Serialize)]
pub(super) struct ErrorReport {
    /// `client_refused`, `request_refused`, `unusable`, `unavailable`, `timeout`, `credential`.
    pub(super) kind: &'static str,
    /// The OAuth `error`.
    pub(super) code: Option<String>,
    pub(super) detail: String,
}

#[derive(Debug, Serialize)]
pub(super) struct KeyReport {
    /// The key of the config.
    pub(super) key: String,
    pub(super) place: String,
    /// Of a private key: `RSA`, `EC P-256`, `OKP Ed25519`.
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    /// With which it signs.
    pub(super) alg: Option<String>,
    /// Of the certificate.
    pub(super) subject: Option<String>,
    /// When the certificate ends.
    pub(super) ends: Option<Ends>,
    /// Why it cannot be used.
    pub(super) error: Option<String>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Advertised {
    /// `token_endpoint_auth_methods_supported`
    pub(super) auth_methods: Option<Vec<String>>,
    /// `token_endpoint_auth_signing_alg_values_supported`
    pub(super) signing_algs: Option<Vec<String>>,
    /// `scopes_supported`
    pub(super) scopes: Option<Vec<String>>,
    /// `dpop_signing_alg_values_supported`
    pub(super) dpop_algs: Option<Vec<String>>,
    /// `grant_types_supported`
    pub(super) grant_types: Option<Vec<String>>,
    /// Scopes of the config that are not among them.
    pub(super) unknown_scopes: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct UpstreamReport {
    pub(super) upstream: String,
    pub(super) routes: Vec<String>,
    pub(super) ok: bool,
    /// The other end's, or that of the proxy on the way.
    pub(super) address: Option<String>,
    /// `http/1.1`, `h2`
    pub(super) protocol: Option<&'static str>,
    pub(super) ms: Option<u64>,
    pub(super) tls: Option<TlsReport>,
    pub(super) error: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct TlsReport {
    pub(super) version: String,
    /// When the server's certificate ends.
    pub(super) ends: Option<Ends>,
}

/// The end of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Ends {
    /// RFC 3339.
    pub(super) at: String,
    /// Whole days from now; negative where it has ended.
    pub(super) in_days: i64,
}

impl Ends {
    pub(super) fn new(at: SystemTime, now: SystemTime) -> Self {
        const DAY: u64 = 24 * 60 * 60;
        let days = |span: Duration| i64::try_from(span.as_secs() / DAY).unwrap_or(i64::MAX);
        let in_days = match at.duration_since(now) {
            Ok(ahead) => days(ahead),
            // Ended today is ended.
            Err(behind) => -days(behind.duration()) - 1,
        };
        Self { at: crate::clock::rfc3339(at), in_days }
    }
}

/// Milliseconds for a report.
pub(super) fn ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_ended_an_hour_ago_has_ended() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10_000_000);
        let hour = Duration::from_secs(3600);
        assert_eq!(Ends::new(now - hour, now).in_days, -1);
        assert_eq!(Ends::new(now + hour, now).in_days, 0);
        assert_eq!(Ends::new(now + hour * 49, now).in_days, 2);
    }
}
