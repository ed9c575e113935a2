//! What `check --online` learned. The names and shapes are those of `--output json` (docs/check-online.md). The text for people
//! follows.

use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::cli::online::issuer::{SCOPE_CLAIMS, whose};
use crate::clock::rfc3339;
use crate::config::counted;

#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// The issuers granted every token that the proxy needs, and every upstream can be reached.
    pub(super) ok: bool,
    pub(super) config: String,
    /// The warnings of an offline `check`.
    pub(super) problems: Vec<Value>,
    pub(super) issuers: Vec<IssuerReport>,
    pub(super) upstreams: Vec<UpstreamReport>,
    /// The forward listeners.
    pub(super) forward: Vec<ForwardReport>,
    /// `null`: the config has no `[store]`. It counts nothing for `ok`, because bearerd goes on without it.
    pub(super) store: Option<StoreReport>,
}

#[derive(Debug, Serialize)]
pub(super) struct IssuerReport {
    pub(super) name: String,
    pub(super) ok: bool,
    /// Host and path; `null` if discovery did not find it.
    pub(super) endpoint: Option<String>,
    pub(super) client_auth: String,
    /// The issuers whose tokens its token requests use.
    pub(super) inner: Vec<InnerReport>,
    /// The issuer refused the current credential and accepted `standby`.
    pub(super) standby_in_use: bool,
    pub(super) tls: Option<TlsReport>,
    /// The issuer's clock minus ours, in seconds, to about one second.
    pub(super) clock_difference: Option<i64>,
    pub(super) credentials: Vec<CredentialReport>,
    /// The client's keys and certificates.
    pub(super) keys: Vec<KeyReport>,
    /// What its discovery document says that it accepts.
    pub(super) advertised: Option<Advertised>,
    /// Token requests beyond one for each credential.
    pub(super) extra_requests: usize,
    pub(super) warnings: Vec<String>,
    /// What to try next.
    pub(super) hints: Vec<String>,
}

/// A value of a token request that is the token of another issuer.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct InnerReport {
    /// The config key of the value.
    pub(super) key: String,
    pub(super) issuer: String,
}

/// One token.
#[derive(Debug, Serialize)]
pub(super) struct CredentialReport {
    /// Empty, and `outer` too: the issuer's own, which no route uses.
    pub(super) routes: Vec<String>,
    /// The issuers whose token requests use it.
    pub(super) outer: Vec<String>,
    pub(super) scopes: Vec<String>,
    pub(super) subject: Option<String>,
    /// Whether the proxy requests it.
    pub(super) needed: bool,
    /// `false`: it was not requested, because another response settles it.
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
    /// The issuer did not say, so it is `default_lifetime`.
    pub(super) expires_in_assumed: bool,
    /// As the response names it; `null`: as asked.
    pub(super) scope: Option<String>,
    /// Asked for and not granted.
    pub(super) not_granted: Vec<String>,
    /// Some claims, if the token is a JWT. Its signature was not verified.
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
    /// The algorithm with which it signs.
    pub(super) alg: Option<String>,
    /// Of the certificate.
    pub(super) subject: Option<String>,
    /// When the certificate expires.
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

/// `[store]`.
#[derive(Debug, Default, Serialize)]
pub(super) struct StoreReport {
    /// Where it is.
    pub(super) store: String,
    /// An entry was written, read, and removed.
    pub(super) ok: bool,
    /// Product, version and role.
    pub(super) server: Option<String>,
    /// How long one operation took.
    pub(super) ms: Option<f64>,
    /// What to change.
    pub(super) warnings: Vec<String>,
    pub(super) error: Option<String>,
}

/// A CONNECT through a forward listener.
#[derive(Debug, Default, Serialize)]
pub(super) struct ForwardReport {
    pub(super) listener: String,
    /// Also if it was not tried.
    pub(super) ok: bool,
    /// A running bearerd served it. If not, this process did.
    pub(super) running: bool,
    /// Scheme, host and port that the CONNECT was for.
    pub(super) url: Option<String>,
    /// `h2` or `http/1.1`
    pub(super) protocol: Option<&'static str>,
    pub(super) ms: Option<u64>,
    /// With the certificate that the listener's CA signed.
    pub(super) tls: Option<TlsReport>,
    pub(super) error: Option<String>,
    /// Why it was not tried.
    pub(super) untried: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct TlsReport {
    pub(super) version: String,
    /// When the server's certificate expires.
    pub(super) ends: Option<Ends>,
}

/// When a certificate expires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Ends {
    /// RFC 3339.
    pub(super) at: String,
    /// Whole days from now; negative if it has expired.
    pub(super) in_days: i64,
}

impl Ends {
    pub(super) fn new(at: SystemTime, now: SystemTime) -> Self {
        const DAY: u64 = 24 * 60 * 60;
        let days = |span: Duration| i64::try_from(span.as_secs() / DAY).unwrap_or(i64::MAX);
        let in_days = match at.duration_since(now) {
            Ok(ahead) => days(ahead),
            // A certificate that expired today has expired.
            Err(behind) => -days(behind.duration()) - 1,
        };
        Self { at: rfc3339(at), in_days }
    }
}

/// The most advertised names that are listed.
const LISTED: usize = 12;

pub(super) fn to_text(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut text, report);
    text
}

fn write(out: &mut String, report: &Report) -> fmt::Result {
    for shown in &report.issuers {
        issuer(out, shown)?;
    }
    for shown in &report.upstreams {
        upstream(out, shown)?;
    }
    for shown in &report.forward {
        forward(out, shown)?;
    }
    if let Some(shown) = &report.store {
        store(out, shown)?;
    }
    let (issuers, upstreams) = (report.issuers.len(), report.upstreams.len());
    if report.ok {
        let alone =
            if report.store.as_ref().is_some_and(|store| !store.ok) { ", without the store" } else { "" };
        return writeln!(
            out,
            "ok: {}, {}{alone}",
            counted(issuers, "issuer"),
            counted(upstreams, "upstream")
        );
    }
    let failed =
        |oks: usize, of: usize, what| (oks < of).then(|| format!("{} of {}", of - oks, counted(of, what)));
    let well = report.issuers.iter().filter(|issuer| issuer.ok).count();
    let reached = report.upstreams.iter().filter(|upstream| upstream.ok).count();
    let served = report.forward.iter().filter(|forward| forward.ok).count();
    let failed = [
        failed(well, issuers, "issuer"),
        failed(reached, upstreams, "upstream"),
        failed(served, report.forward.len(), "forward listener"),
    ];
    writeln!(out, "failed: {}", failed.into_iter().flatten().collect::<Vec<_>>().join(", "))
}

fn head(out: &mut String, what: &str, name: &str, ok: bool) -> fmt::Result {
    writeln!(out, "{what} {name}: {}", if ok { "ok" } else { "FAILED" })
}

fn line(out: &mut String, label: &str, text: &str) -> fmt::Result {
    writeln!(out, "  {label:<12} {text}")
}

fn issuer(out: &mut String, issuer: &IssuerReport) -> fmt::Result {
    head(out, "issuer", &issuer.name, issuer.ok)?;
    let endpoint = issuer.endpoint.as_deref().unwrap_or("(discovery did not find it)");
    let tls = issuer.tls.as_ref().map(|tls| format!(", {}", self::tls(tls))).unwrap_or_default();
    let standby = if issuer.standby_in_use { " with the standby credential" } else { "" };
    line(out, "endpoint", &format!("{endpoint}, {}{standby}{tls}", issuer.client_auth))?;
    for InnerReport { key, issuer } in &issuer.inner {
        line(out, "chain", &format!("{key} is a token of issuer {issuer}"))?;
    }
    for shown in &issuer.credentials {
        credential(out, shown, issuer.credentials.len() > 1)?;
    }
    for shown in &issuer.keys {
        line(out, "key", &key(shown))?;
    }
    if let Some(shown) = &issuer.advertised {
        advertised(out, shown, !issuer.keys.is_empty())?;
    }
    for warning in &issuer.warnings {
        line(out, "warning", warning)?;
    }
    for hint in &issuer.hints {
        line(out, "try", hint)?;
    }
    out.write_char('\n')
}

fn credential(out: &mut String, credential: &CredentialReport, one_of_many: bool) -> fmt::Result {
    let unused = credential.routes.is_empty() && credential.outer.is_empty();
    let whose = if unused && !one_of_many { String::new() } else { whose(credential) };
    let scopes = match credential.scopes.as_slice() {
        [] => String::new(),
        scopes => format!(", scopes {}", scopes.join(" ")),
    };
    let subject =
        credential.subject.as_ref().map(|subject| format!(", subject {subject}")).unwrap_or_default();
    let what = format!("{whose}{scopes}{subject}");
    let what = what.trim_start_matches([',', ' ']);
    if !credential.asked {
        return line(out, "not asked", &format!("{what} (the response above settles it)"));
    }
    if let Some(error) = credential.error.as_ref().filter(|_| credential.needed) {
        if !what.is_empty() {
            line(out, "no token", what)?;
        }
        return line(out, "error", &error.detail);
    }
    let Some(token) = &credential.token else { return Ok(()) };
    let answered = match (credential.status, credential.ms) {
        (Some(status), Some(ms)) => format!("HTTP {status} in {ms} ms"),
        (None, Some(ms)) => format!("in {ms} ms"),
        _ => String::new(),
    };
    line(
        out,
        "token",
        &format!("{}{}{answered}; {}", what, if what.is_empty() { "" } else { ": " }, life(token)),
    )?;
    if let Some(scope) = token.scope.as_ref().filter(|scope| !scope.is_empty()) {
        line(out, "  scope", scope)?;
    }
    token.claims.as_ref().map_or(Ok(()), |shown| claims(out, shown, token.scope.as_deref()))
}

fn life(token: &TokenReport) -> String {
    let span = humantime::format_duration(Duration::from_secs(token.expires_in));
    let assumed = if token.expires_in_assumed { " (default_lifetime: the issuer does not say)" } else { "" };
    let form = if token.claims.is_some() { "a JWT" } else { "opaque" };
    format!("{}, valid for {span}{assumed}, {form}", token.kind)
}

/// `scope`: the scopes in the response itself, which are not shown twice.
fn claims(out: &mut String, claims: &Map<String, Value>, scope: Option<&str>) -> fmt::Result {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<BTreeSet<_>>();
    for name in ["aud", "scope", "scp", "roles"] {
        let Some(value) = claims.get(name).map(plain) else { continue };
        let shown_before =
            SCOPE_CLAIMS.contains(&name) && scope.is_some_and(|scope| words(scope) == words(&value));
        if !shown_before {
            line(out, &format!("  {name}"), &value)?;
        }
    }
    match claims.get("exp").and_then(super::super::token::time) {
        Some(at) => line(out, "  exp", &rfc3339(at)),
        None => Ok(()),
    }
}

/// A claim, without JSON's quotes if it is a text or a list of texts.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

fn key(key: &KeyReport) -> String {
    let mut text = format!("{}: {}", key.key, key.place);
    for part in [&key.kind, &key.alg, &key.subject].into_iter().flatten() {
        text.push_str(&format!(", {part}"));
    }
    if let Some(ends) = &key.ends {
        text.push_str(&format!(", certificate {}", self::ends(ends)));
    }
    text
}

fn advertised(out: &mut String, advertised: &Advertised, has_keys: bool) -> fmt::Result {
    let no_list = None;
    let lists = [
        ("methods", &advertised.auth_methods),
        ("signatures", if has_keys { &advertised.signing_algs } else { &no_list }),
        ("DPoP", &advertised.dpop_algs),
        ("scopes", &advertised.scopes),
    ];
    for (what, list) in lists {
        let Some(list) = list.as_ref().filter(|list| !list.is_empty()) else { continue };
        let shown: Vec<&str> = list.iter().take(LISTED).map(String::as_str).collect();
        let more = match list.len().checked_sub(LISTED) {
            Some(more @ 1..) => format!(" and {more} more"),
            _ => String::new(),
        };
        line(out, "advertises", &format!("{what} {}{more}", shown.join(", ")))?;
    }
    Ok(())
}

fn tls(tls: &TlsReport) -> String {
    match &tls.ends {
        Some(ends) => format!("{}, its certificate {}", tls.version, self::ends(ends)),
        None => tls.version.clone(),
    }
}

fn ends(ends: &Ends) -> String {
    let day = ends.at.split('T').next().unwrap_or(&ends.at);
    match ends.in_days {
        over @ ..0 => format!("ended on {day} ({} ago)", counted(-over - 1, "day")),
        days => format!("until {day} ({})", counted(days, "day")),
    }
}

fn upstream(out: &mut String, upstream: &UpstreamReport) -> fmt::Result {
    head(out, "upstream", &upstream.upstream, upstream.ok)?;
    line(out, if upstream.routes.len() == 1 { "route" } else { "routes" }, &upstream.routes.join(", "))?;
    if let Some(error) = &upstream.error {
        line(out, "error", error)?;
    }
    if let (Some(protocol), Some(ms)) = (upstream.protocol, upstream.ms) {
        let address = upstream.address.as_ref().map(|address| format!("{address}, ")).unwrap_or_default();
        let tls = upstream.tls.as_ref().map(|tls| format!(", {}", self::tls(tls))).unwrap_or_default();
        line(out, "connected", &format!("{address}{protocol}, in {ms} ms{tls}"))?;
    }
    out.write_char('\n')
}

fn forward(out: &mut String, forward: &ForwardReport) -> fmt::Result {
    if let Some(why) = &forward.untried {
        writeln!(out, "forward listener {}: not tried", forward.listener)?;
        line(out, "why", why)?;
        return out.write_char('\n');
    }
    head(out, "forward listener", &forward.listener, forward.ok)?;
    if let Some(url) = &forward.url {
        let by = if forward.running { "the running bearerd" } else { "this check itself, on a free port" };
        line(out, "CONNECT", &format!("{url}, served by {by}"))?;
    }
    if let Some(error) = &forward.error {
        line(out, "error", error)?;
    }
    if let (Some(protocol), Some(ms)) = (forward.protocol, forward.ms) {
        let tls = forward.tls.as_ref().map(|tls| format!(", {}", self::tls(tls))).unwrap_or_default();
        line(out, "served", &format!("{protocol}, in {ms} ms{tls}, signed by the listener's CA"))?;
    }
    out.write_char('\n')
}

fn store(out: &mut String, store: &StoreReport) -> fmt::Result {
    head(out, "store", &store.store, store.ok)?;
    if let Some(error) = &store.error {
        line(out, "error", error)?;
        line(
            out,
            "warning",
            "bearerd works without it: each process fetches its own tokens, again after each start",
        )?;
    }
    if let (Some(server), Some(ms)) = (&store.server, store.ms) {
        line(out, "works", &format!("{server}: an entry was written, read, and removed, in {ms:.1} ms"))?;
    }
    for warning in &store.warnings {
        line(out, "warning", warning)?;
    }
    out.write_char('\n')
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
