//! Certificates and keys for TLS, in every form in which `jose` reads those that sign: one reader, and one set of words
//! for what was found instead.

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::tls::TlsSettingsError;
use crate::config::Source;
use crate::jose::{Certificate, KeyError, PrivateKey};
use crate::secret::Secret;

/// Every certificate in `source`, at least one; of PKCS#12 with a key, the chain of that key.
pub(super) fn certificates(
    source: &Source,
    key: &str,
) -> Result<Vec<CertificateDer<'static>>, TlsSettingsError> {
    let (bytes, password) = (read(source, key)?, password(source, key)?);
    let found = Certificate::ders(bytes.expose(), password.as_deref()).map_err(told(source, key))?;
    Ok(found.into_iter().map(CertificateDer::from).collect())
}

/// The first private key in `source`.
pub(super) fn private_key(source: &Source, key: &str) -> Result<PrivateKeyDer<'static>, TlsSettingsError> {
    let (bytes, password) = (read(source, key)?, password(source, key)?);
    let found = PrivateKey::parse(&bytes, password.as_deref()).and_then(|found| found.pkcs8());
    Ok(PrivatePkcs8KeyDer::from(found.map_err(told(source, key))?.expose().to_vec()).into())
}

fn told(source: &Source, key: &str) -> impl Fn(KeyError) -> TlsSettingsError {
    move |why| TlsSettingsError(format!("{key}: {}: {why}", source.place()))
}

fn read(source: &Source, key: &str) -> Result<std::sync::Arc<Secret>, TlsSettingsError> {
    source.read().map_err(|error| TlsSettingsError(format!("{key}: {error}")))
}

/// The password beside `source`, where the config gives one.
fn password(source: &Source, key: &str) -> Result<Option<std::sync::Arc<Secret>>, TlsSettingsError> {
    source.password().map(|password| read(password, &format!("{key}.password"))).transpose()
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
        assert_eq!(message, "tls.ca: the config file: it holds no certificate but PRIVATE KEY");
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
        assert!(message.contains("it is no key in a known form: PEM, DER, JWK"), "{message}");
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
        let expected =
            "tls.private_key: the config file: its PRIVATE KEY block is not base64; was it copied whole?";
        assert_eq!(message, expected);
    }

    /// What variables, editors and pipelines make of a file.
    #[test]
    fn pem_is_read_as_leniently_as_a_key_that_signs() {
        let read = |name: &str| fixture(name).read().unwrap().expose_str().unwrap().to_owned();
        let (key, certificate) = (read("rsa.pkcs8.pem"), read("rsa.certificate.pem"));
        let wanted = certificates(&fixture("rsa.certificate.pem"), "tls.certificate").unwrap();
        for change in [
            |pem: &str| format!("\u{feff}{pem}"),
            |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect(),
            |pem: &str| pem.replace('\n', "\\n"),
            |pem: &str| pem.replace('\n', " "),
            |pem: &str| pem.replace('\n', "\r\n"),
            |pem: &str| format!("Bag Attributes: none\n{pem}"),
        ] as [fn(&str) -> String; 6]
        {
            let (key, certificate) = (change(&key), change(&certificate));
            let found = private_key(&Source::literal(key.as_str()), "tls.private_key");
            assert!(found.is_ok(), "{key}: {:?}", found.err().map(|why| why.0));
            let found = certificates(&Source::literal(certificate.as_str()), "tls.certificate");
            assert_eq!(found.map_err(|why| why.0).as_ref(), Ok(&wanted), "{certificate}");
        }
    }
}
