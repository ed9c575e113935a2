//! The report as people read it: one screen.

use std::collections::BTreeSet;
use std::fmt::{self, Write};

use serde_json::{Map, Value};

use super::super::check::count;
use super::issuer::whose;
use super::report::{
    Advertised, CredentialReport, Ends, IssuerReport, KeyReport, Report, TlsReport, TokenReport,
    UpstreamReport,
};
use super::token::SCOPE_CLAIMS;
use crate::clock::rfc3339;

/// Advertised names that are listed.
const LISTED: usize = 12;

pub(super) fn of(report: &Report) -> String {
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
    let (issuers, upstreams) = (report.issuers.len(), report.upstreams.len());
    if report.ok {
        return writeln!(out, "ok: {}, {}", count(issuers, "issuer"), count(upstreams, "upstream"));
    }
    let failed =
        |oks: usize, of: usize, what| (oks < of).then(|| format!("{} of {}", of - oks, count(of, what)));
    let well = report.issuers.iter().filter(|issuer| issuer.ok).count();
    let reached = report.upstreams.iter().filter(|upstream| upstream.ok).count();
    let failed = [failed(well, issuers, "issuer"), failed(reached, upstreams, "upstream")];
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
    let whose = if credential.routes.is_empty() && !one_of_many { String::new() } else { whose(credential) };
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
    let span = humantime::format_duration(std::time::Duration::from_secs(token.expires_in));
    let assumed = if token.expires_in_assumed { " (default_lifetime: the issuer does not say)" } else { "" };
    let form = if token.claims.is_some() { "a JWT" } else { "opaque" };
    format!("{}, lives {span}{assumed}, {form}", token.kind)
}

/// `scope`: what the response itself grants, which is not told twice.
fn claims(out: &mut String, claims: &Map<String, Value>, scope: Option<&str>) -> fmt::Result {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<BTreeSet<_>>();
    for name in ["aud", "scope", "scp", "roles"] {
        let Some(value) = claims.get(name).map(plain) else { continue };
        let told = SCOPE_CLAIMS.contains(&name) && scope.is_some_and(|scope| words(scope) == words(&value));
        if !told {
            line(out, &format!("  {name}"), &value)?;
        }
    }
    match claims.get("exp").and_then(super::super::token::time) {
        Some(at) => line(out, "  exp", &rfc3339(at)),
        None => Ok(()),
    }
}

/// A claim without JSON's quotes, where it is a text or a list of texts.
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
        over @ ..0 => format!("ended on {day} ({} days ago)", -over - 1),
        days => format!("until {day} ({days} days)"),
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
