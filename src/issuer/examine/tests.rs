use super::*;
use crate::config::client_auth::{ClientAuth, ClientSecretJwt, TlsClientAuth};
use crate::config::{CertificateHeader, DpopConfig, Source, Standby};
use crate::issuer::fixture::{key_file, signing};
use crate::issuer::fuzz;

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
fn nothing_is_said_of_what_is_good_or_missing() {
    assert_eq!(examine(&fuzz::config(), now()), []);
    assert_eq!(examine(&signing("rsa.pkcs1.pem"), now()), []);
    assert_eq!(examine(&with_certificate("rsa.pkcs8.pem", "rsa.certificate.pem"), now()), []);
    let mut missing = signing("nowhere");
    assert_eq!(examine(&missing, now()), []);
    missing.dpop = Some(DpopConfig { private_key: key_file("nowhere"), alg: None });
    assert_eq!(examine(&missing, now()), []);
}

#[test]
fn keys_of_no_use_are_told_of() {
    let (key, message) = only(&signing("rsa.encrypted.pem"));
    assert!(
        key == "private_key" && message.starts_with("file /") && message.contains("encrypted"),
        "{message}"
    );
    let mut config = signing("ec-p256.pkcs8.pem");
    config.jwt.as_mut().unwrap().alg = Some(Alg::Rs256);
    let findings = examine(&config, now());
    assert_eq!((findings.len(), findings[0].key), (1, "jwt.alg"));
    assert_eq!(findings[0].hint.as_deref(), Some("jwt.alg = \"ES256\" goes with this key"));

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
fn certificates_are_told_of_before_and_after_their_end() {
    let expired = only(&with_certificate("rsa.pkcs8.pem", "rsa.expired-certificate.pem"));
    assert!(
        expired.0 == "certificate" && expired.1.contains("expired on 2021-01-01T00:00:00Z"),
        "{expired:?}"
    );
    let good = with_certificate("rsa.pkcs8.pem", "rsa.certificate.pem");
    let chain = Certificate::parse_chain(key_file("rsa.certificate.pem").read().unwrap().expose()).unwrap();
    let [soon] = &examine(&good, chain[0].not_after() - DAY * SOON_DAYS)[..] else { panic!() };
    assert!(soon.message.contains("ends within 14 days"), "{soon:?}");
    assert_eq!(examine(&good, chain[0].not_after() - DAY * SOON_DAYS - Duration::from_secs(1)), []);
    let [early] = &examine(&good, chain[0].not_before() - Duration::from_secs(1))[..] else { panic!() };
    assert!(early.message.contains("holds only from"), "{early:?}");
    let other = only(&with_certificate("rsa.pkcs8.pem", "ec-p256.certificate.pem")).1;
    assert!(other.contains("does not belong to"), "{other}");
}

#[test]
fn a_certificate_of_tls_is_looked_at_too() {
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
fn a_short_secret_and_an_assertion_of_no_use_are_told_of() {
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
    assert_eq!(only(&config), ("assertion", "the config file holds white space alone".to_owned()));
    // {"exp":1}
    config.assertion = Some(Source::literal("e30.eyJleHAiOjF9.canary"));
    let (_, message) = only(&config);
    assert!(message.contains("expired on 1970-01-01T00:00:01Z") && !message.contains("canary"), "{message}");
}
