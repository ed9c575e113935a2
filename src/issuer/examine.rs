//! Findings about an issuer's keys, certificates and assertion that need no request, for `check`.

use std::time::{Duration, SystemTime};

use super::assertion;
use super::credential::{ClientCredential, WhichCredential};
use super::inputs::is_saml;
use super::keys::{self, KeyFiles};
use crate::clock::rfc3339;
use crate::config::client_auth::Proof;
use crate::config::{DpopConfig, IssuerConfig, JwtConfig, JwtUse, Source, counted, slip_in_secret};
use crate::jose::{Alg, Certificate, PrivateKey};
use crate::net::tls;

/// `check` warns if a certificate expires within this many days.
pub const SOON_DAYS: u32 = 14;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Something that cannot be used, or soon cannot be used. Contains no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The key of `[issuer.NAME]` that the finding is about.
    pub key: &'static str,
    pub message: String,
    pub hint: Option<String>,
}

/// Examines every key, certificate and assertion that `config` names. Skips what cannot be read, because `check`
/// reports missing files itself.
pub fn examine(config: &IssuerConfig, now: SystemTime) -> Vec<Finding> {
    let mut findings = Vec::new();
    for which in [WhichCredential::Current, WhichCredential::Standby] {
        if let Some(client) = ClientCredential::of(config, which) {
            signing_key(config, &client, now, &mut findings);
        }
    }
    // If a pair does not match, the TLS library would only report the same again.
    if !tls_certificate(config, now, &mut findings) {
        findings.extend(tls_files(config));
    }
    findings.extend(config.dpop.as_ref().and_then(|dpop| proving_key(config, dpop)));
    prepared_assertion(config, now, &mut findings);
    findings.dedup();
    findings
}

/// What is wrong with the key for DPoP proofs.
fn proving_key(config: &IssuerConfig, dpop: &DpopConfig) -> Option<Finding> {
    dpop.private_key.read().ok()?;
    let files = KeyFiles::read(&config.name, &dpop.private_key, None).ok()?;
    let prover = match keys::prover(&files, dpop) {
        Ok(prover) => prover,
        Err(error) => return Some(finding("dpop", error, None)),
    };
    let chain = keys::tls_chain(config);
    let leaf = chain.as_ref().and_then(|(chain, _)| chain.first());
    let clients = [WhichCredential::Current, WhichCredential::Standby];
    clients.into_iter().filter_map(|which| ClientCredential::of(config, which)).find_map(|client| {
        let signing = client.private_key.and_then(|source| parse(source).ok());
        let why = keys::shared_key(&prover, signing.as_ref(), leaf, &client)?;
        Some(finding("dpop.private_key", why, Some(DpopConfig::OTHER_KEY.to_owned())))
    })
}

fn signing_key(
    config: &IssuerConfig,
    client: &ClientCredential<'_>,
    now: SystemTime,
    findings: &mut Vec<Finding>,
) {
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
    let Ok(files) = KeyFiles::read(&config.name, source, elsewhere) else { return };
    let material = match keys::material(&files, client, wants_chain) {
        Ok(material) => material,
        Err(error) => {
            // Either half of a pair may be wrong. The error begins with the one that is.
            let halves = [client.key("certificate"), key];
            let about = halves.into_iter().find(|half| error.starts_with(half)).unwrap_or(key);
            return findings.push(finding(about, error, None));
        }
    };
    if let Some(alg) = jwt.alg.filter(|_| signs_with_pair(config, jwt))
        && let Err(error) = material.key.check_alg(alg)
    {
        let hint = format!("jwt.alg = \"{}\" fits this key", material.key.default_alg());
        findings.push(finding("jwt.alg", format!("{error} ({key} in {})", source.place()), Some(hint)));
    }
    check_dates(client.key("certificate"), &material.chain, &material.chain_place, now, findings);
}

fn signs_with_pair(config: &IssuerConfig, jwt: &JwtConfig) -> bool {
    config.client_auth.proof() != Proof::SignedBySecret || jwt.usage != JwtUse::ClientAssertion
}

/// RFC 7518 section 3.2 requires a secret as long as the hash, but some issuers choose shorter ones.
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
            "the secret has {}; {} should have at least {wanted} (RFC 7518 section 3.2), and many \
             issuers refuse a shorter one",
            counted(length, "byte"),
            jwt.alg.unwrap_or(Alg::Hs256)
        );
        findings.push(finding(
            "client_secret",
            message,
            Some("create a longer one at the issuer".to_owned()),
        ));
    }
}

/// Returns whether the certificate belongs to another key.
fn tls_certificate(config: &IssuerConfig, now: SystemTime, findings: &mut Vec<Finding>) -> bool {
    let key = if shows_own_certificate(config) { "certificate" } else { "tls.certificate" };
    let Some((chain, place)) = keys::tls_chain(config) else { return false };
    check_dates(key, &chain, &place, now, findings);
    let Some(leaf) = chain.first() else { return false };
    let tls = &config.tls;
    let name = if shows_own_certificate(config) { "private_key" } else { "tls.private_key" };
    let private = tls.private_key.as_ref().map(|source| (name, source));
    let private = private.or_else(|| tls.certificate.as_ref().map(|source| (key, source)));
    let Some((private_key, source)) = private else { return false };
    let Ok(private) = parse(source) else { return false };
    if leaf.is_of(&private) {
        return false;
    }
    let message = format!(
        "the certificate {} in {place} does not belong to {private_key} in {}",
        leaf.subject(),
        source.place()
    );
    findings.push(finding(
        key,
        message,
        Some("use the certificate that was issued for this key, the leaf first".to_owned()),
    ));
    true
}

/// The issuer's connections use its own `certificate`, and not the one of `tls`.
fn shows_own_certificate(config: &IssuerConfig) -> bool {
    config.client_auth.proof() == Proof::Certificate && config.certificate.is_some()
}

/// What prevents every connection to the issuer.
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

fn check_dates(
    key: &'static str,
    chain: &[Certificate],
    place: &str,
    now: SystemTime,
    findings: &mut Vec<Finding>,
) {
    let Some(leaf) = chain.first() else { return };
    if let Some((message, hint)) = about_dates(leaf, place, now) {
        findings.push(finding(key, message, Some(hint)));
    }
}

/// What is wrong with the dates of a certificate, or soon will be, and what to do.
pub fn about_dates(leaf: &Certificate, place: &str, now: SystemTime) -> Option<(String, String)> {
    let at = rfc3339;
    let subject = leaf.subject();
    let message = if leaf.not_after() <= now {
        format!("the certificate {subject} ({place}) expired on {}", at(leaf.not_after()))
    } else if leaf.not_before() > now {
        format!("the certificate {subject} ({place}) is not valid before {}", at(leaf.not_before()))
    } else if leaf.not_after() <= now + DAY * SOON_DAYS {
        format!(
            "the certificate {subject} ({place}) expires within {SOON_DAYS} days, on {}",
            at(leaf.not_after())
        )
    } else {
        return None;
    };
    Some((message, "have a new one issued; a changed file is used without a restart".to_owned()))
}

fn prepared_assertion(config: &IssuerConfig, now: SystemTime, findings: &mut Vec<Finding>) {
    let Some(source) = &config.assertion else { return };
    let Ok(text) = source.read() else { return };
    if text.expose().trim_ascii().is_empty() {
        findings.push(finding("assertion", format!("{} contains only white space", source.place()), None));
    }
    let trimmed = crate::secret::Secret::new(text.expose().trim_ascii());
    if let Some(message) = assertion::expired(&trimmed, &source.place(), now) {
        findings.push(finding("assertion", message, None));
    }
    if let Some(slip) = slip_in_secret(trimmed.expose()).filter(|_| !is_saml(config)) {
        let message = format!("{}: {}", source.place(), slip.message);
        findings.push(finding("assertion", message, Some(slip.hint.to_owned())));
    }
}

fn finding(key: &'static str, message: String, hint: Option<String>) -> Finding {
    // The messages are shared with errors of a request, which have to name the key themselves.
    let without_key = message.strip_prefix(key).and_then(|rest| rest.strip_prefix(": ")).map(str::to_owned);
    Finding { key, message: without_key.unwrap_or(message), hint }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::client_auth::{ClientAuth, ClientSecretJwt, TlsClientAuth};
    use crate::config::{CertificateHeader, Standby};
    use crate::issuer::fuzz;
    use crate::issuer::tests::{key_file, signing};

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn now() -> SystemTime {
        NOW + Duration::from_secs(1_800_000_000)
    }

    /// The key and message of the only finding.
    fn only(config: &IssuerConfig) -> (&'static str, String) {
        let findings = examine(config, now());
        let [finding] = findings.as_slice() else { panic!("{findings:?}") };
        (finding.key, finding.message.clone())
    }

    fn with_certificate(key: &str, certificate: &str) -> IssuerConfig {
        let mut config = signing(key);
        config.certificate = Some(key_file(certificate));
        config.jwt.as_mut().unwrap().certificate_headers = vec![CertificateHeader::X5tS256];
        config
    }

    #[test]
    fn good_and_missing_files_give_no_findings() {
        assert_eq!(examine(&fuzz::config(), now()), []);
        assert_eq!(examine(&signing("rsa.pkcs1.pem"), now()), []);
        assert_eq!(examine(&with_certificate("rsa.pkcs8.pem", "rsa.certificate.pem"), now()), []);
        let mut missing = signing("nowhere");
        assert_eq!(examine(&missing, now()), []);
        missing.dpop = Some(DpopConfig { private_key: key_file("nowhere"), alg: None });
        assert_eq!(examine(&missing, now()), []);
    }

    #[test]
    fn unusable_keys_are_reported() {
        let (key, message) = only(&signing("rsa.encrypted.pem"));
        assert!(
            key == "private_key" && message.starts_with("file /") && message.contains("encrypted"),
            "{message}"
        );
        let mut config = signing("ec-p256.pkcs8.pem");
        config.jwt.as_mut().unwrap().alg = Some(Alg::Rs256);
        let findings = examine(&config, now());
        assert_eq!((findings.len(), findings[0].key), (1, "jwt.alg"));
        assert_eq!(findings[0].hint.as_deref(), Some("jwt.alg = \"ES256\" fits this key"));

        let mut config = signing("rsa.pkcs8.pem");
        config.standby = Some(Standby {
            client_id: None,
            client_secret: None,
            private_key: Some(key_file("rsa.public.pem")),
            certificate: None,
            key_id: None,
        });
        assert_eq!(only(&config).0, "standby.private_key");
        config.standby = None;
        config.dpop = Some(DpopConfig { private_key: key_file("ec-p256.pkcs8.pem"), alg: Some(Alg::Rs256) });
        assert_eq!(only(&config).0, "dpop");
    }

    #[test]
    fn a_key_that_also_authenticates_the_client_is_reported() {
        let dpop = |key: &str| Some(DpopConfig { private_key: key_file(key), alg: None });
        let mut config = signing("ec-p256.pkcs8.pem");
        // The same key in another form.
        config.dpop = dpop("ec-p256.jwk.json");
        let (key, message) = only(&config);
        assert!(
            key == "dpop.private_key" && message.contains("same key as `private_key`"),
            "{key}: {message}"
        );
        config.dpop = dpop("ed25519.pkcs8.pem");
        assert_eq!(examine(&config, now()), []);
        let mut config = IssuerConfig { client_auth: ClientAuth::new(&TlsClientAuth), ..fuzz::config() };
        config.tls.certificate = Some(key_file("ec-p256.certificate.pem"));
        config.tls.private_key = Some(key_file("ec-p256.pkcs8.pem"));
        config.dpop = dpop("ec-p256.pkcs8.pem");
        let (key, message) = only(&config);
        assert!(key == "dpop.private_key" && message.contains("`tls.certificate`"), "{key}: {message}");
    }

    #[test]
    fn certificates_are_reported_before_and_after_they_expire() {
        let expired = only(&with_certificate("rsa.pkcs8.pem", "rsa.expired-certificate.pem"));
        assert!(
            expired.0 == "certificate" && expired.1.contains("expired on 2021-01-01T00:00:00Z"),
            "{expired:?}"
        );
        let good = with_certificate("rsa.pkcs8.pem", "rsa.certificate.pem");
        let chain =
            Certificate::parse_chain(key_file("rsa.certificate.pem").read().unwrap().expose()).unwrap();
        let [soon] = &examine(&good, chain[0].not_after() - DAY * SOON_DAYS)[..] else { panic!() };
        assert!(soon.message.contains("expires within 14 days"), "{soon:?}");
        assert_eq!(examine(&good, chain[0].not_after() - DAY * SOON_DAYS - Duration::from_secs(1)), []);
        let [early] = &examine(&good, chain[0].not_before() - Duration::from_secs(1))[..] else { panic!() };
        assert!(early.message.contains("is not valid before"), "{early:?}");
        let other = only(&with_certificate("rsa.pkcs8.pem", "ec-p256.certificate.pem")).1;
        assert!(other.contains("does not belong to"), "{other}");
    }

    #[test]
    fn a_certificate_of_tls_is_examined_too() {
        let mut config = IssuerConfig { client_auth: ClientAuth::new(&TlsClientAuth), ..fuzz::config() };
        config.tls.certificate = Some(key_file("rsa.expired-certificate.pem"));
        config.tls.private_key = Some(key_file("ec-p256.pkcs8.pem"));
        let findings = examine(&config, now());
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(findings[0].message.contains("expired on"), "{findings:?}");
        assert!(findings[1].message.contains("tls.private_key in file"), "{findings:?}");
        // One file may hold both.
        config.tls.certificate =
            Some(key_file("ec-p256.modern.p12").with_password(Source::literal("test-password")));
        config.tls.private_key = None;
        assert_eq!(examine(&config, now()), []);
    }

    #[test]
    fn a_short_secret_and_an_unusable_assertion_are_reported() {
        let secret = Source::literal("canary");
        let config = IssuerConfig {
            client_auth: ClientAuth::with_secret(&ClientSecretJwt, secret),
            jwt: Some(JwtConfig::with_defaults(JwtUse::ClientAssertion)),
            ..fuzz::config()
        };
        let (key, message) = only(&config);
        assert!(
            key == "client_secret" && message.contains("6 bytes") && !message.contains("canary"),
            "{message}"
        );
        let mut config = fuzz::config();
        config.assertion = Some(Source::literal(" \n"));
        assert_eq!(only(&config), ("assertion", "the config file contains only white space".to_owned()));
        config.assertion = Some(Source::literal("{\"token\":\"canary\"}\n"));
        let (_, message) = only(&config);
        assert_eq!(message, "the config file: the secret is JSON, which is sent as it is");
        // {"exp":1}
        config.assertion = Some(Source::literal("e30.eyJleHAiOjF9.canary"));
        let (_, message) = only(&config);
        assert!(
            message.contains("expired on 1970-01-01T00:00:01Z") && !message.contains("canary"),
            "{message}"
        );
    }
}
