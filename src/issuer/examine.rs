//! What can be said of an issuer's keys, certificates and assertion without asking anyone: for `check`.

use std::time::{Duration, SystemTime};

use super::assertion;
use super::client::{Client, Which};
use super::keys::{self, Files};
use crate::clock::rfc3339;
use crate::config::client_auth::Proof;
use crate::config::{IssuerConfig, JwtConfig, JwtUse, Source};
use crate::jose::{Alg, Certificate, PrivateKey};
use crate::net::tls;

/// A certificate that ends within so many days is told of.
pub const SOON_DAYS: u32 = 14;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Something that is there and cannot be used, or soon no more. No secret is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The key of `[issuer.NAME]` that it is about.
    pub key: &'static str,
    pub message: String,
    pub hint: Option<String>,
}

/// Looks at every key, certificate and assertion that `config` names. What cannot be read is left out: `check` tells of
/// missing files itself.
pub fn examine(config: &IssuerConfig, now: SystemTime) -> Vec<Finding> {
    let mut findings = Vec::new();
    for which in [Which::Current, Which::Standby] {
        if let Some(client) = Client::of(config, which) {
            signing_key(config, &client, now, &mut findings);
        }
    }
    // Of a pair that does not belong together, the TLS library would only say the same again.
    if !tls_certificate(config, now, &mut findings) {
        findings.extend(tls_files(config));
    }
    if let Some(dpop) = &config.dpop
        && dpop.private_key.read().is_ok()
        && let Ok(files) = Files::read(&config.name, &dpop.private_key, None)
        && let Err(error) = keys::prover(&files, dpop)
    {
        findings.push(finding("dpop", error, None));
    }
    ready_made(config, now, &mut findings);
    findings.dedup();
    findings
}

fn signing_key(config: &IssuerConfig, client: &Client<'_>, now: SystemTime, findings: &mut Vec<Finding>) {
    let Some(jwt) = &config.jwt else { return };
    let key = client.key("private_key");
    let Some(source) = client.private_key else {
        return shared_secret(config, jwt, findings);
    };
    let wants_chain = !jwt.certificate_headers.is_empty();
    let elsewhere = client.certificate_elsewhere().filter(|_| wants_chain);
    if source.read().is_err() || elsewhere.is_some_and(|source| source.read().is_err()) {
        return;
    }
    let Ok(files) = Files::read(&config.name, source, elsewhere) else { return };
    let material = match keys::material(&files, client, wants_chain) {
        Ok(material) => material,
        Err(error) => {
            // A pair has two halves, and the error begins with the one that is at fault.
            let halves = [client.key("certificate"), key];
            let about = halves.into_iter().find(|half| error.starts_with(half)).unwrap_or(key);
            return findings.push(finding(about, error, None));
        }
    };
    if let Some(alg) = jwt.alg.filter(|_| signs_with_pair(config, jwt))
        && let Err(error) = material.key.check_alg(alg)
    {
        let hint = format!("jwt.alg = \"{}\" goes with this key", material.key.default_alg());
        findings.push(finding("jwt.alg", format!("{error} ({key} in {})", source.place()), Some(hint)));
    }
    ends(client.key("certificate"), &material.chain, &material.chain_place, now, findings);
}

fn signs_with_pair(config: &IssuerConfig, jwt: &JwtConfig) -> bool {
    config.client_auth.proof() != Proof::SignedBySecret || jwt.usage != JwtUse::ClientAssertion
}

/// RFC 7518 section 3.2 wants a secret as long as the hash; issuers choose shorter ones all the same.
fn shared_secret(config: &IssuerConfig, jwt: &JwtConfig, findings: &mut Vec<Finding>) {
    let secret = config.client_auth.secret().filter(|_| config.client_auth.proof() == Proof::SignedBySecret);
    let Some(Ok(secret)) = secret.map(Source::read) else { return };
    let wanted = match jwt.alg {
        Some(Alg::Hs512) => 64,
        Some(Alg::Hs384) => 48,
        _ => 32,
    };
    let length = secret.expose().len();
    if length < wanted {
        let message = format!(
            "the secret has {length} bytes; {} should have at least {wanted} (RFC 7518 section 3.2), and many \
             issuers refuse a shorter one",
            jwt.alg.unwrap_or(Alg::Hs256)
        );
        findings.push(finding(
            "client_secret",
            message,
            Some("have the issuer make a longer one".to_owned()),
        ));
    }
}

/// Whether the certificate was found to be of another key.
fn tls_certificate(config: &IssuerConfig, now: SystemTime, findings: &mut Vec<Finding>) -> bool {
    let key = if shows_own_certificate(config) { "certificate" } else { "tls.certificate" };
    let Some((chain, place)) = keys::tls_chain(config) else { return false };
    ends(key, &chain, &place, now, findings);
    let Some(leaf) = chain.first() else { return false };
    let private = config.tls.private_key.as_ref().or(config.tls.certificate.as_ref());
    let Some(private) = private.and_then(|source| parse(source).ok()) else { return false };
    if leaf.is_of(&private) {
        return false;
    }
    let message = format!("the certificate {} in {place} does not belong to its private key", leaf.subject());
    findings.push(finding(
        key,
        message,
        Some("give the pair that was made together, the leaf first".to_owned()),
    ));
    true
}

/// The issuer's own `certificate` is that of its connections, and not the one of `tls`.
fn shows_own_certificate(config: &IssuerConfig) -> bool {
    config.client_auth.proof() == Proof::Certificate && config.certificate.is_some()
}

/// What keeps every connection to the issuer from being opened.
fn tls_files(config: &IssuerConfig) -> Option<Finding> {
    let error = tls::unusable(&config.tls)?;
    let own = shows_own_certificate(config);
    let keys = [("tls.ca", "tls.ca"), ("tls.certificate", "certificate"), ("tls.private_key", "private_key")];
    let at = keys.into_iter().find(|(key, _)| error.0.starts_with(key));
    let key = at.map_or("tls", |(key, of_client)| if own { of_client } else { key });
    let message = at.and_then(|(key, _)| error.0.strip_prefix(key)).unwrap_or(&error.0);
    Some(finding(key, message.trim_start_matches(": ").to_owned(), None))
}

fn parse(source: &Source) -> Result<PrivateKey, String> {
    let bytes = source.read().map_err(|error| error.to_string())?;
    let password = source.password().map(Source::read).transpose().map_err(|error| error.to_string())?;
    PrivateKey::parse(&bytes, password.as_deref()).map_err(|error| error.to_string())
}

fn ends(key: &'static str, chain: &[Certificate], place: &str, now: SystemTime, findings: &mut Vec<Finding>) {
    let Some(leaf) = chain.first() else { return };
    let hint = Some("have a new one issued; a changed file is used without a restart".to_owned());
    let at = rfc3339;
    let subject = leaf.subject();
    let message = if leaf.not_after() <= now {
        format!("the certificate {subject} ({place}) expired on {}", at(leaf.not_after()))
    } else if leaf.not_before() > now {
        format!("the certificate {subject} ({place}) holds only from {} on", at(leaf.not_before()))
    } else if leaf.not_after() <= now + DAY * SOON_DAYS {
        format!(
            "the certificate {subject} ({place}) ends within {SOON_DAYS} days, on {}",
            at(leaf.not_after())
        )
    } else {
        return;
    };
    findings.push(finding(key, message, hint));
}

fn ready_made(config: &IssuerConfig, now: SystemTime, findings: &mut Vec<Finding>) {
    let Some(source) = &config.assertion else { return };
    let Ok(text) = source.read() else { return };
    if text.expose().trim_ascii().is_empty() {
        findings.push(finding("assertion", format!("{} holds white space alone", source.place()), None));
    }
    let trimmed = crate::secret::Secret::new(text.expose().trim_ascii());
    if let Some(message) = assertion::expired(&trimmed, &source.place(), now) {
        findings.push(finding("assertion", message, None));
    }
}

fn finding(key: &'static str, message: String, hint: Option<String>) -> Finding {
    // Shared with errors of a request, which have to name the key themselves.
    let without_key = message.strip_prefix(key).and_then(|rest| rest.strip_prefix(": ")).map(str::to_owned);
    Finding { key, message: without_key.unwrap_or(message), hint }
}
