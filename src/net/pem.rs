//! Certificates and keys out of PEM (RFC 7468) and the other forms that `jose` knows, PKCS#12 among them, with errors
//! that say what was found instead.

use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::tls::TlsSettingsError;
use crate::config::Source;
use crate::jose::{Certificate, PrivateKey};
use crate::secret::Secret;

/// Labels named in an error.
const LABELS_NAMED: usize = 5;

/// Every certificate in `source`, at least one; of PKCS#12 with a key, the chain of that key.
pub(super) fn certificates(
    source: &Source,
    key: &str,
) -> Result<Vec<CertificateDer<'static>>, TlsSettingsError> {
    let text = read(source, key)?;
    if has_another_form(text.expose()) {
        let password = password(source, key)?;
        let found = Certificate::parse_chain_with(text.expose(), password.as_deref())
            .map_err(|why| TlsSettingsError(format!("{key}: {}: {why}", source.place())))?;
        return Ok(found.iter().map(|one| CertificateDer::from(one.der().to_vec())).collect());
    }
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.expose()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(TlsSettingsError(format!(
            "{key}: {} holds no certificate in PEM: {}",
            source.place(),
            contents(text.expose())
        ))),
        Err(error) => Err(broken(source, key, &error)),
    }
}

/// The first private key in `source`: PKCS#8, PKCS#1, SEC1, or any other form that signs JWTs.
pub(super) fn private_key(source: &Source, key: &str) -> Result<PrivateKeyDer<'static>, TlsSettingsError> {
    let text = read(source, key)?;
    let bytes = text.expose();
    let password = password(source, key)?;
    if has_another_form(bytes) || password.is_some() {
        let found = PrivateKey::parse(&text, password.as_deref())
            .and_then(|found| found.pkcs8())
            .map_err(|why| TlsSettingsError(format!("{key}: {}: {why}", source.place())))?;
        return Ok(PrivatePkcs8KeyDer::from(found.expose().to_vec()).into());
    }
    if contains(bytes, b"ENCRYPTED PRIVATE KEY") || contains(bytes, b"Proc-Type: 4,ENCRYPTED") {
        return Err(TlsSettingsError(format!(
            "{key}: {} holds a key that is encrypted with a passphrase; name it beside the file: password = \
             {{ file = \"…\" }}, or decrypt it (openssl pkey -in key.pem -out plain.pem) and protect the file by its mode",
            source.place()
        )));
    }
    match PrivateKeyDer::from_pem_slice(bytes) {
        Ok(found) => Ok(found),
        Err(rustls::pki_types::pem::Error::NoItemsFound) => Err(TlsSettingsError(format!(
            "{key}: {} holds no private key in PEM: {}",
            source.place(),
            contents(bytes)
        ))),
        Err(error) => Err(broken(source, key, &error)),
    }
}

fn read(source: &Source, key: &str) -> Result<std::sync::Arc<Secret>, TlsSettingsError> {
    source.read().map_err(|error| TlsSettingsError(format!("{key}: {error}")))
}

/// The password beside `source`, where the config gives one.
fn password(source: &Source, key: &str) -> Result<Option<std::sync::Arc<Secret>>, TlsSettingsError> {
    source.password().map(|password| read(password, &format!("{key}.password"))).transpose()
}

/// Binary, base64 around it, or JSON: what is no PEM, and no plain words either.
fn has_another_form(bytes: &[u8]) -> bool {
    !contains(bytes, b"-----BEGIN ") && matches!(bytes.trim_ascii_start().first(), Some(0x30 | b'{' | b'M'))
}

/// The parser's message may quote a line, which may be of a key: only its kind is told.
fn broken(source: &Source, key: &str, error: &rustls::pki_types::pem::Error) -> TlsSettingsError {
    use rustls::pki_types::pem::Error;
    let why = match error {
        Error::MissingSectionEnd { .. } => "an END line is missing",
        Error::IllegalSectionStart { .. } => "a BEGIN line is broken",
        Error::Base64Decode(_) => "a section is not base64",
        _ => "it can't be parsed",
    };
    TlsSettingsError(format!("{key}: {} is not valid PEM: {why}", source.place()))
}

/// What stands in a file that was of no use, in words; never a byte of it but known PEM labels.
fn contents(bytes: &[u8]) -> String {
    let mut labels: Vec<&str> = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some(label) = label(line) else { continue };
        if !labels.contains(&label) {
            labels.push(label);
        }
    }
    if !labels.is_empty() {
        labels.truncate(LABELS_NAMED);
        return format!("it holds {}", labels.join(", "));
    }
    "it has no BEGIN line".to_owned()
}

fn label(line: &[u8]) -> Option<&str> {
    let line = line.trim_ascii().strip_prefix(b"-----BEGIN ")?.strip_suffix(b"-----")?;
    if let Ok(kind) = SectionKind::try_from(line) {
        return Some(match kind {
            SectionKind::Certificate => "CERTIFICATE",
            SectionKind::PublicKey => "PUBLIC KEY",
            SectionKind::RsaPrivateKey => "RSA PRIVATE KEY",
            SectionKind::PrivateKey => "PRIVATE KEY",
            SectionKind::EcPrivateKey => "EC PRIVATE KEY",
            SectionKind::Crl => "X509 CRL",
            SectionKind::Csr => "CERTIFICATE REQUEST",
            _ => "another PEM section",
        });
    }
    match line {
        b"ENCRYPTED PRIVATE KEY" => Some("ENCRYPTED PRIVATE KEY"),
        b"TRUSTED CERTIFICATE" => Some("TRUSTED CERTIFICATE (openssl's own form)"),
        b"PKCS7" => Some("PKCS7"),
        b"OPENSSH PRIVATE KEY" => Some("OPENSSH PRIVATE KEY"),
        b"EC PARAMETERS" => Some("EC PARAMETERS"),
        _ => Some("another PEM section"),
    }
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal<T: std::fmt::Debug>(result: Result<T, TlsSettingsError>) -> String {
        result.unwrap_err().0
    }

    #[test]
    fn a_key_where_a_certificate_belongs_is_told() {
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let message = refusal(certificates(&Source::literal(key.as_str()), "tls.ca"));
        assert_eq!(message, "tls.ca: the config file holds no certificate in PEM: it holds PRIVATE KEY");
    }

    #[test]
    fn an_encrypted_key_is_told() {
        let text = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let message = refusal(private_key(&Source::literal(text), "tls.private_key"));
        assert!(message.contains("encrypted with a passphrase; name it beside the file"), "{message}");
    }

    #[test]
    fn binary_and_text_that_are_no_pem_are_told() {
        let message = refusal(private_key(&Source::literal("hunter2"), "tls.private_key"));
        assert!(message.ends_with("it has no BEGIN line"), "{message}");
        let der = Source::literal(Secret::new(vec![0x30, 0x82, 1, 2]));
        assert!(refusal(certificates(&der, "tls.certificate")).contains("DER or PKCS#12"));
    }

    fn fixture(name: &str) -> Source {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures/keys");
        Source::file(folder.join(name), None)
    }

    #[test]
    fn pkcs12_gives_key_and_certificate_with_its_password() {
        let pem = certificates(&fixture("rsa.certificate.pem"), "certificate").unwrap();
        for name in ["rsa.modern.p12", "rsa.legacy.p12"] {
            let source = fixture(name).with_password(Source::literal("test-password"));
            assert_eq!(certificates(&source, "certificate").unwrap(), pem, "{name}");
            assert!(matches!(private_key(&source, "private_key"), Ok(PrivateKeyDer::Pkcs8(_))), "{name}");
        }
        let encrypted = fixture("rsa.encrypted.pem").with_password(Source::literal("test-password"));
        assert!(private_key(&encrypted, "private_key").is_ok());
    }

    #[test]
    fn der_and_jwk_are_taken_too() {
        assert!(private_key(&fixture("ec-p256.jwk.json"), "private_key").is_ok());
        let pem = certificates(&fixture("rsa.certificate.pem"), "certificate").unwrap();
        let der = Source::literal(Secret::new(pem[0].to_vec()));
        assert_eq!(certificates(&der, "certificate").unwrap(), pem);
    }

    #[test]
    fn a_missing_and_a_wrong_password_are_told() {
        let source = fixture("rsa.modern.p12");
        let message = refusal(certificates(&source, "certificate"));
        assert!(message.contains("rsa.modern.p12: it is PKCS#12 with a password; name it"), "{message}");
        let message = refusal(private_key(&source.with_password(Source::literal("hunter2")), "private_key"));
        assert!(message.ends_with("its password does not open it (PKCS#12): wrong, or the file is damaged"));
        let nowhere = fixture("rsa.modern.p12").with_password(fixture("no-such-file"));
        let message = refusal(private_key(&nowhere, "private_key"));
        assert!(message.starts_with("private_key.password: file "), "{message}");
    }

    #[test]
    fn broken_pem_is_not_quoted() {
        let text = "-----BEGIN PRIVATE KEY-----\nhunter2!\n-----END PRIVATE KEY-----\n";
        let message = refusal(private_key(&Source::literal(text), "tls.private_key"));
        assert_eq!(message, "tls.private_key: the config file is not valid PEM: a section is not base64");
    }
}
