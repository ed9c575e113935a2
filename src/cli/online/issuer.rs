//! One issuer: a token for each credential that the proxy would request, the client's own keys and certificates, and what may be
//! shown of a token.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::uri::Authority;
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::cli::online::report::{
    Advertised, CredentialReport, Ends, ErrorReport, InnerReport, IssuerReport, KeyReport, TlsReport,
    TokenReport,
};
use crate::cli::online::{Bounds, Wanted, guess, out_of_time, tls_report};
use crate::cli::token::decode_jwt;
use crate::clock::{SystemClock, millis};
use crate::config::client_auth::{Method, Proof};
use crate::config::{Budget, CredentialKey, IssuerConfig, Source, TokenEndpoint};
use crate::issuer::{self, FailureKind, Grant, Issuer, IssuerError, chained_by_either, examine};
use crate::jose::{Alg, Certificate, PrivateKey};
use crate::net::connect::Offer;
use crate::net::{Connector, Target};

/// The largest difference of clocks that is not reported, in seconds.
const CLOCK_DIFFERENCE: i64 = 5;

/// Why the other tokens are not requested.
enum Settled {
    No,
    /// Every other request would fail too, and might lock the client.
    Refused(Box<(IssuerError, CredentialKey)>),
    /// The issuer is not available.
    Gone,
}

pub(super) async fn ask(config: Arc<IssuerConfig>, wanted: Vec<Wanted>, bounds: Bounds) -> IssuerReport {
    // A refusal is reported as such, however new the credential is.
    let config = IssuerConfig { credential_grace: Duration::ZERO, ..IssuerConfig::clone(&config) };
    let issuer = Issuer::new(Arc::new(config.clone()), Arc::new(SystemClock));
    let mut report = blank(&config, bounds);
    report.inner = inner(&config, &wanted);
    let mut settled = Settled::No;
    for wanted in wanted {
        if !matches!(settled, Settled::No) {
            report.credentials.push(not_asked(wanted));
            continue;
        }
        let (credential, error) = one(&issuer, &wanted, bounds).await;
        report.credentials.push(credential);
        let Some(error) = error else { continue };
        if let Some(wait) = error.retry_after {
            report.hints.push(format!("wait {} s before you ask again: the issuer says so", wait.as_secs()));
        }
        if error.code.as_deref() == Some("invalid_scope") && bounds.guess {
            add(&mut report, guess::scopes(&config, &wanted.key, bounds).await);
        }
        settled = settle(error, wanted.key, &config);
    }
    if let Settled::Refused(of) = &settled {
        refused(&mut report, &of.0, &of.1, &config, bounds).await;
    }
    report.endpoint = issuer.endpoint();
    if !matches!(settled, Settled::Gone) {
        report.tls = tls(&config, report.endpoint.as_deref(), bounds).await;
    }
    report.clock_difference = issuer.last_response().and_then(|answer| answer.clock_difference());
    report.standby_in_use = issuer.standby_in_use();
    if !matches!(settled, Settled::Gone) {
        report.advertised = advertised(&issuer, &report, bounds).await;
    }
    report.ok = report.credentials.iter().all(|credential| credential.ok || !credential.needed);
    report.warnings = warnings(&report, &config, bounds);
    hints_of_what_is_known(&mut report, config.client_auth.method);
    report
}

fn blank(config: &IssuerConfig, bounds: Bounds) -> IssuerReport {
    IssuerReport {
        name: config.name.to_string(),
        ok: false,
        endpoint: None,
        client_auth: config.client_auth.as_str().to_owned(),
        inner: Vec::new(),
        tls: None,
        standby_in_use: false,
        clock_difference: None,
        credentials: Vec::new(),
        keys: key_reports(config, bounds.now),
        advertised: None,
        extra_requests: 0,
        warnings: Vec::new(),
        hints: Vec::new(),
    }
}

/// The tokens of other issuers in the requests for these tokens, and for the issuer's own.
fn inner(config: &IssuerConfig, wanted: &[Wanted]) -> Vec<InnerReport> {
    let own = config.own_credential();
    let mut found: Vec<InnerReport> = Vec::new();
    for key in [&own].into_iter().chain(wanted.iter().map(|wanted| &wanted.key)) {
        for (key, chained) in chained_by_either(config, key) {
            let one = InnerReport { key, issuer: chained.issuer.clone() };
            if !found.contains(&one) {
                found.push(one);
            }
        }
    }
    found
}

fn not_asked(wanted: Wanted) -> CredentialReport {
    CredentialReport {
        routes: wanted.routes,
        outer: wanted.outer,
        scopes: wanted.key.scopes.to_vec(),
        subject: wanted.key.subject,
        needed: wanted.needed,
        asked: false,
        ok: false,
        status: None,
        ms: None,
        token: None,
        error: None,
    }
}

async fn one(issuer: &Issuer, wanted: &Wanted, bounds: Bounds) -> (CredentialReport, Option<IssuerError>) {
    let mut report = CredentialReport { asked: true, ..not_asked(wanted.clone()) };
    let started = Instant::now();
    let outcome: Result<Grant, IssuerError> = match bounds.hold(issuer.fetch(&wanted.key)).await {
        Some(outcome) => outcome,
        None => Err(IssuerError::new(
            FailureKind::Timeout,
            format!("issuer {}: {}", wanted.key.issuer, out_of_time()),
        )),
    };
    report.ms = Some(millis(started.elapsed()));
    match outcome {
        Ok(grant) => {
            report.ok = true;
            report.status = issuer.last_response().map(|answer| answer.status);
            report.token = Some(token_report(&grant, &wanted.key, issuer.config()));
            (report, None)
        }
        Err(error) => {
            report.status = error.http_status;
            report.error = Some(ErrorReport {
                kind: error.kind.as_str(),
                code: error.code.clone(),
                detail: error.detail.clone(),
            });
            (report, Some(error))
        }
    }
}

fn settle(error: IssuerError, key: CredentialKey, config: &IssuerConfig) -> Settled {
    match error.kind {
        // It is about the issuer whose token this one needs.
        _ if error.forgiven => Settled::Gone,
        FailureKind::Unavailable | FailureKind::Timeout | FailureKind::Credential => Settled::Gone,
        _ if guess::may_be_the_method(&error, config) => Settled::Refused(Box::new((error, key))),
        // The issuer knows the client, and may grant it another scope.
        _ if error.code.as_deref() == Some("unauthorized_client") && error.http_status != Some(401) => {
            Settled::No
        }
        FailureKind::ClientRefused => Settled::Refused(Box::new((error, key))),
        _ => Settled::No,
    }
}

async fn refused(
    report: &mut IssuerReport,
    error: &IssuerError,
    key: &CredentialKey,
    config: &IssuerConfig,
    bounds: Bounds,
) {
    if !guess::may_be_the_method(error, config) || !guess::has_another_way(error, config) {
        return;
    }
    if bounds.guess {
        add(report, guess::methods(config, error, key, bounds).await);
    } else {
        let hint = "without --no-guess, the other ways to show who asks are tried once each";
        report.hints.push(hint.to_owned());
    }
}

fn add(report: &mut IssuerReport, guessed: guess::Guess) {
    report.extra_requests += guessed.requests;
    report.hints.extend(guessed.hints);
}

/// On a separate connection, because the connection of a token request is closed after its response.
async fn tls(config: &IssuerConfig, endpoint: Option<&str>, bounds: Bounds) -> Option<TlsReport> {
    let (TokenEndpoint::Url(url) | TokenEndpoint::Discovery(url)) = &config.endpoint;
    if !url.https || bounds.over() {
        return None;
    }
    let authority: Authority = endpoint?.split('/').next()?.parse().ok()?;
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let target = Target::Tcp { host, port: authority.port_u16().unwrap_or(443), tls: true };
    let connector =
        Connector::new(target, config.tls.clone(), config.egress.clone(), Offer::Both, config.timeout);
    let connected = bounds.hold(connector.connect()).await?.ok()?;
    tls_report(&connected.stream.facts(), bounds)
}

async fn advertised(issuer: &Issuer, report: &IssuerReport, bounds: Bounds) -> Option<Advertised> {
    // With `token_url` nothing is advertised. A failure to find the document was already reported.
    let metadata = bounds.hold(issuer.metadata()).await?.ok().flatten()?;
    let scopes = metadata.scopes_supported;
    let mut unknown_scopes: Vec<String> = match &scopes {
        Some(known) => {
            // The issuer knows a scope that it granted, whatever the document says.
            let asked = report.credentials.iter().flat_map(|credential| match &credential.token {
                Some(token) => &token.not_granted,
                None => &credential.scopes,
            });
            asked.filter(|scope| !known.contains(scope)).cloned().collect()
        }
        None => Vec::new(),
    };
    unknown_scopes.sort();
    unknown_scopes.dedup();
    Some(Advertised {
        auth_methods: metadata.token_endpoint_auth_methods_supported,
        signing_algs: metadata.token_endpoint_auth_signing_alg_values_supported,
        scopes,
        dpop_algs: metadata.dpop_signing_alg_values_supported,
        grant_types: metadata.grant_types_supported,
        unknown_scopes,
    })
}

fn warnings(report: &IssuerReport, config: &IssuerConfig, bounds: Bounds) -> Vec<String> {
    let mut warnings: Vec<String> = examine(config, bounds.now)
        .into_iter()
        .map(|finding| {
            let hint = finding.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
            format!("{}: {}{hint}", finding.key, finding.message)
        })
        .collect();
    warnings.extend(expiry_warnings(&report.keys));
    warnings.extend(config.budget.and_then(|budget| budget_warning(&report.credentials, budget, config)));
    if report.standby_in_use {
        warnings.push(format!(
            "the current credential is refused, and standby is used: see client_id and the credential of [issuer.{}]",
            report.name
        ));
    }
    if let Some(seconds) = report.clock_difference.filter(|seconds| seconds.abs() > CLOCK_DIFFERENCE) {
        let (span, way) = (seconds.abs(), if seconds > 0 { "ahead of" } else { "behind" });
        warnings.push(format!("the issuer's clock is {span} s {way} ours: set both by NTP"));
    }
    for credential in &report.credentials {
        let missing = credential.token.as_ref().map(|token| token.not_granted.join(", ")).unwrap_or_default();
        if !missing.is_empty() {
            warnings.push(format!("requested and not granted{}: {missing}", whose(credential)));
        }
    }
    if let Some(advertised) = report.advertised.as_ref().filter(|known| !known.unknown_scopes.is_empty()) {
        warnings.push(format!(
            "the issuer does not advertise the scope {}",
            advertised.unknown_scopes.join(", ")
        ));
    }
    for credential in
        report.credentials.iter().filter(|credential| !credential.needed && credential.error.is_some())
    {
        let detail = credential.error.as_ref().map(|error| error.detail.as_str()).unwrap_or_default();
        warnings.push(format!("the issuer's own scopes, which no route uses, get no token: {detail}"));
    }
    warnings
}

/// Whether the tokens that the proxy needs live too short to be kept fresh within the budget.
fn budget_warning(credentials: &[CredentialReport], budget: Budget, config: &IssuerConfig) -> Option<String> {
    let tokens = credentials.iter().filter(|credential| credential.needed);
    let lifetimes: Vec<u64> = tokens.filter_map(|it| Some(it.token.as_ref()?.expires_in.max(1))).collect();
    let shortest = lifetimes.iter().min()?;
    let renewals = |lifetime: &u64| {
        budget.per.div_duration_f64(Duration::from_secs(*lifetime).mul_f64(config.refresh_at))
    };
    let needed = lifetimes.iter().map(renewals).sum::<f64>();
    (needed > f64::from(budget.requests)).then(|| {
        format!(
            "budget allows {} token request{} per {}, but tokens that are in use all the time need about {:.0} (the shortest lifetime is \
             {shortest} s): raise it if the issuer allows more, or have it grant longer lifetimes",
            budget.requests,
            if budget.requests == 1 { "" } else { "s" },
            humantime::format_duration(budget.per),
            needed.ceil(),
        )
    })
}

/// Who uses a credential, as part of a sentence.
pub(super) fn whose(credential: &CredentialReport) -> String {
    if !credential.outer.is_empty() {
        let outer = credential.outer.join(", ");
        let routes = credential.routes.iter().map(|route| format!(", route {route}")).collect::<String>();
        return format!(" for issuer {outer}{routes}");
    }
    match credential.routes.as_slice() {
        [] => " for the issuer's own scopes, which no route uses".to_owned(),
        [route] => format!(" for route {route}"),
        routes => format!(" for routes {}", routes.join(", ")),
    }
}

/// Hints that need no request, if a token is missing.
fn hints_of_what_is_known(report: &mut IssuerReport, method: &dyn Method) {
    if report.ok {
        return;
    }
    let mut hints = Vec::new();
    if let Some(advertised) = &report.advertised {
        let mut against = |list: &Option<Vec<String>>, ours: &str, is_ours: &dyn Fn(&str) -> bool| {
            if let Some(list) = list.as_ref().filter(|list| !list.iter().any(|name| is_ours(name))) {
                hints.push(format!("the issuer advertises {}, and not {ours}", list.join(", ")));
            }
        };
        against(&advertised.auth_methods, method.name(), &|name| method.is_advertised_as(name));
        for key in &report.keys {
            let Some(alg) = &key.alg else { continue };
            let list =
                if key.key.starts_with("dpop") { &advertised.dpop_algs } else { &advertised.signing_algs };
            against(list, alg, &|name| name == alg.as_str());
        }
    }
    let signs = report.keys.iter().any(|key| key.alg.is_some());
    let apart = report.clock_difference.is_some_and(|seconds| seconds.abs() > CLOCK_DIFFERENCE);
    if signs && apart {
        hints.push(
            "set this machine's clock: a JWT made by it may count as expired, or as not valid yet".to_owned(),
        );
    }
    report.hints.extend(hints);
}

/// A certificate that expires in fewer days causes a warning.
const SOON: i64 = 30;

/// When a server's certificate expires.
pub(super) fn certificate_end(der: &[u8], now: SystemTime) -> Option<Ends> {
    let chain = Certificate::parse_chain(der).ok()?;
    chain.first().map(|leaf| Ends::new(leaf.not_after(), now))
}

/// Every key and certificate that authenticates the client.
fn key_reports(config: &IssuerConfig, now: SystemTime) -> Vec<KeyReport> {
    let signs = config.client_auth.proof() != Proof::Certificate;
    let jwt_alg = config.jwt.as_ref().and_then(|jwt| jwt.alg);
    let standby = config.standby.as_ref();
    let keys = [
        ("private_key", config.private_key.as_ref(), signs.then_some(jwt_alg)),
        (
            "standby.private_key",
            standby.and_then(|standby| standby.private_key.as_ref()),
            signs.then_some(jwt_alg),
        ),
        (
            "dpop.private_key",
            config.dpop.as_ref().map(|dpop| &dpop.private_key),
            config.dpop.as_ref().map(|dpop| dpop.alg),
        ),
    ];
    // With tls_client_auth the certificate is in both places.
    let tls = config.tls.certificate.as_ref().filter(|tls| config.certificate.as_ref() != Some(*tls));
    let certificates = [
        ("certificate", config.certificate.as_ref()),
        ("standby.certificate", standby.and_then(|standby| standby.certificate.as_ref())),
        ("tls.certificate", tls),
    ];
    let keys = keys.into_iter().filter_map(|(name, source, alg)| Some(key_report(name, source?, alg, now)));
    let certificates =
        certificates.into_iter().filter_map(|(name, source)| Some(certificate_report(name, source?, now)));
    keys.chain(certificates).collect()
}

/// `signs`: the algorithm in the config, or `Some(None)` if the key's type determines it.
fn key_report(name: &str, source: &Source, signs: Option<Option<Alg>>, now: SystemTime) -> KeyReport {
    let blank = blank_key(name, source);
    match read_key(source) {
        Err(error) => KeyReport { error: Some(error), ..blank },
        Ok(key) => {
            let leaf = key.certificates().first();
            KeyReport {
                kind: key_kind(&key),
                alg: signs.map(|alg| alg.unwrap_or_else(|| key.default_alg()).to_string()),
                subject: leaf.map(Certificate::subject),
                ends: leaf.map(|leaf| Ends::new(leaf.not_after(), now)),
                ..blank
            }
        }
    }
}

fn certificate_report(name: &str, source: &Source, now: SystemTime) -> KeyReport {
    let blank = blank_key(name, source);
    match read_chain(source) {
        Err(error) => KeyReport { error: Some(error), ..blank },
        Ok(chain) => {
            let leaf = chain.first();
            KeyReport {
                subject: leaf.map(Certificate::subject),
                ends: leaf.map(|leaf| Ends::new(leaf.not_after(), now)),
                ..blank
            }
        }
    }
}

fn blank_key(name: &str, source: &Source) -> KeyReport {
    KeyReport {
        key: name.to_owned(),
        place: source.place(),
        kind: None,
        alg: None,
        subject: None,
        ends: None,
        error: None,
    }
}

fn read_key(source: &Source) -> Result<PrivateKey, String> {
    if let Some(key) = source.device_key() {
        return key;
    }
    let bytes = source.read().map_err(|error| error.reason)?;
    let password = source.password().map(Source::read).transpose().map_err(|error| error.to_string())?;
    PrivateKey::parse(&bytes, password.as_deref()).map_err(|error| error.to_string())
}

fn read_chain(source: &Source) -> Result<Vec<Certificate>, String> {
    let bytes = source.read().map_err(|error| error.reason)?;
    let password = source.password().map(Source::read).transpose().map_err(|error| error.to_string())?;
    Certificate::parse_chain_with(bytes.expose(), password.as_deref()).map_err(|error| error.to_string())
}

/// The type of a key, from the members of its public JWK.
fn key_kind(key: &PrivateKey) -> Option<String> {
    let jwk = key.public_jwk();
    let member = |name: &str| jwk.get(name).and_then(Value::as_str);
    let kind = member("kty")?;
    Some(match member("crv") {
        Some(curve) => format!("{kind} {curve}"),
        None => kind.to_owned(),
    })
}

/// Certificates that expire soon. The offline check already reports those that have expired or are about to.
fn expiry_warnings(keys: &[KeyReport]) -> Vec<String> {
    keys.iter()
        .filter_map(|key| {
            let ends = key
                .ends
                .as_ref()
                .filter(|ends| (i64::from(issuer::SOON_DAYS)..SOON).contains(&ends.in_days))?;
            let (key, place, days, at) = (&key.key, &key.place, ends.in_days, &ends.at);
            Some(format!("{key}: the certificate ({place}) expires in {days} days, on {at}: get a new one"))
        })
        .collect()
}

/// Claims that say for whom and for what a token is. None of them is secret or personal.
const CLAIMS: [&str; 9] = ["iss", "aud", "azp", "client_id", "scp", "scope", "roles", "iat", "exp"];
/// The claims in which issuers write scopes.
pub(super) const SCOPE_CLAIMS: [&str; 2] = ["scope", "scp"];

fn token_report(grant: &Grant, key: &CredentialKey, config: &IssuerConfig) -> TokenReport {
    let claims = grant.token.expose_str().and_then(decode_jwt).map(|jwt| shown_claims(&jwt.claims));
    let granted = grant.scope.clone().or_else(|| claims.as_ref().and_then(scopes_claimed));
    TokenReport {
        kind: token_type_name(&grant.token_type),
        expires_in: grant.lifetime(config.default_lifetime).as_secs(),
        expires_in_assumed: grant.expires_in.is_none(),
        not_granted: granted.map(|granted| missing(&key.scopes, &granted)).unwrap_or_default(),
        scope: grant.scope.clone(),
        claims,
    }
}

/// The type as RFC 6750 and RFC 9449 write it. The grant has it in lower case.
fn token_type_name(token_type: &str) -> String {
    match token_type {
        "bearer" => "Bearer".to_owned(),
        "dpop" => "DPoP".to_owned(),
        other => other.to_owned(),
    }
}

fn shown_claims(claims: &Value) -> Map<String, Value> {
    CLAIMS.iter().filter_map(|name| Some(((*name).to_owned(), claims.get(name)?.clone()))).collect()
}

/// The scopes that the token itself names: a text or a list.
fn scopes_claimed(claims: &Map<String, Value>) -> Option<String> {
    match SCOPE_CLAIMS.iter().find_map(|name| claims.get(*name))? {
        Value::String(scopes) => Some(scopes.clone()),
        Value::Array(scopes) => Some(scopes.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")),
        _ => None,
    }
}

/// Scopes that were requested and not granted. `…/.default` requests whatever the client has, and no response names it.
/// Some issuers name a scope without the resource of the request.
fn missing(asked: &[String], granted: &str) -> Vec<String> {
    let granted: BTreeSet<&str> = granted.split_whitespace().collect();
    let short = |scope: &str| scope.rsplit('/').next().unwrap_or(scope).to_owned();
    asked
        .iter()
        .filter(|scope| !scope.ends_with("/.default"))
        .filter(|scope| !granted.contains(scope.as_str()) && !granted.contains(short(scope).as_str()))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_ends_soon_is_warned_about_once() {
        let told = |in_days| {
            let ends = Ends { at: "2026-01-01T00:00:00Z".to_owned(), in_days };
            let key = blank_key("certificate", &Source::file("/cert.pem".into(), None));
            expiry_warnings(&[KeyReport { ends: Some(ends), ..key }]).join("")
        };
        assert!(told(29).contains("(file /cert.pem) expires in 29 days"));
        assert_eq!((told(30), told(13), told(-1)), (String::new(), String::new(), String::new()));
    }

    fn asked(scopes: &[&str]) -> Vec<String> {
        scopes.iter().map(|scope| (*scope).to_owned()).collect()
    }

    #[test]
    fn what_was_not_granted_is_named() {
        assert_eq!(missing(&asked(&["a", "b"]), "b c"), ["a"]);
        assert!(missing(&asked(&["api://x/.default"]), "").is_empty());
        assert!(missing(&asked(&["https://api/read"]), "read").is_empty());
    }

    #[test]
    fn other_claims_are_not_shown() {
        let claims = shown_claims(&json!({ "aud": "a", "email": "user@example.com", "sub": "x", "exp": 5 }));
        assert_eq!(claims.keys().collect::<Vec<_>>(), ["aud", "exp"]);
    }

    #[test]
    fn scopes_in_a_token_may_be_a_list() {
        let claims = shown_claims(&json!({ "scp": ["a", "b"] }));
        assert_eq!(scopes_claimed(&claims).as_deref(), Some("a b"));
    }
}
