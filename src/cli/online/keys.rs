//! Our own keys and certificates: what they are, and when they end.

use std::time::SystemTime;

use super::report::{Ends, KeyReport};
use crate::config::client_auth::Proof;
use crate::config::{IssuerConfig, Source};
use crate::issuer;
use crate::jose::{Alg, Certificate, PrivateKey};

/// A certificate that ends in fewer days is warned about.
const SOON: i64 = 30;

/// The end of a server's certificate, as it came.
pub(super) fn end_of(der: &[u8], now: SystemTime) -> Option<Ends> {
    let chain = Certificate::parse_chain(der).ok()?;
    chain.first().map(|leaf| Ends::new(leaf.not_after(), now))
}

/// Every key and certificate with which the client shows who it is.
pub(super) fn report(config: &IssuerConfig, now: SystemTime) -> Vec<KeyReport> {
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
    // With tls_client_auth the certificate stands in both places.
    let tls = config.tls.certificate.as_ref().filter(|tls| config.certificate.as_ref() != Some(*tls));
    let certificates = [
        ("certificate", config.certificate.as_ref()),
        ("standby.certificate", standby.and_then(|standby| standby.certificate.as_ref())),
        ("tls.certificate", tls),
    ];
    let keys = keys.into_iter().filter_map(|(name, source, alg)| Some(key(name, source?, alg, now)));
    let certificates =
        certificates.into_iter().filter_map(|(name, source)| Some(certificate(name, source?, now)));
    keys.chain(certificates).collect()
}

/// `signs` holds the algorithm that the config asks for, `None` in it where the key's type decides.
fn key(name: &str, source: &Source, signs: Option<Option<Alg>>, now: SystemTime) -> KeyReport {
    let blank = blank(name, source);
    match read_key(source) {
        Err(error) => KeyReport { error: Some(error), ..blank },
        Ok(key) => {
            let leaf = key.certificates().first();
            KeyReport {
                kind: kind(&key),
                alg: signs.map(|alg| alg.unwrap_or_else(|| key.default_alg()).to_string()),
                subject: leaf.map(Certificate::subject),
                ends: leaf.map(|leaf| Ends::new(leaf.not_after(), now)),
                ..blank
            }
        }
    }
}

fn certificate(name: &str, source: &Source, now: SystemTime) -> KeyReport {
    let blank = blank(name, source);
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

fn blank(name: &str, source: &Source) -> KeyReport {
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
    let bytes = source.read().map_err(|error| error.reason)?;
    let password = source.password().map(Source::read).transpose().map_err(|error| error.to_string())?;
    PrivateKey::parse(&bytes, password.as_deref()).map_err(|error| error.to_string())
}

fn read_chain(source: &Source) -> Result<Vec<Certificate>, String> {
    let bytes = source.read().map_err(|error| error.reason)?;
    let password = source.password().map(Source::read).transpose().map_err(|error| error.to_string())?;
    Certificate::parse_chain_with(bytes.expose(), password.as_deref()).map_err(|error| error.to_string())
}

/// From the members of the public half.
fn kind(key: &PrivateKey) -> Option<String> {
    let jwk = key.public_jwk();
    let member = |name: &str| jwk.get(name).and_then(serde_json::Value::as_str);
    let kind = member("kty")?;
    Some(match member("crv") {
        Some(curve) => format!("{kind} {curve}"),
        None => kind.to_owned(),
    })
}

/// Certificates whose end is near. Of one that has ended, or is about to, the offline check tells already.
pub(super) fn warnings(keys: &[KeyReport]) -> Vec<String> {
    keys.iter()
        .filter_map(|key| {
            let ends = key
                .ends
                .as_ref()
                .filter(|ends| (i64::from(issuer::SOON_DAYS)..SOON).contains(&ends.in_days))?;
            let (key, place, days, at) = (&key.key, &key.place, ends.in_days, &ends.at);
            Some(format!(
                "{key}: the certificate ({place}) ends in {days} days, on {at}: have a new one issued"
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_soon_is_warned_about_once() {
        let told = |in_days| {
            let ends = Ends { at: "2026-01-01T00:00:00Z".to_owned(), in_days };
            let key = blank("certificate", &Source::file("/cert.pem".into(), None));
            warnings(&[KeyReport { ends: Some(ends), ..key }]).join("")
        };
        assert!(told(29).contains("(file /cert.pem) ends in 29 days"));
        assert_eq!((told(30), told(13), told(-1)), (String::new(), String::new(), String::new()));
    }
}
