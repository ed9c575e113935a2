//! X.509 certificates, as far as a JWT's header and an operator need them.

use std::time::SystemTime;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::{Decode, Encode};

use super::key::{Form, form, unwrapped, with_its_last_byte};
use super::{KeyError, PrivateKey, pem, pkcs12};
use crate::secret::Secret;

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    subject: String,
    subject_der: Vec<u8>,
    issuer_der: Vec<u8>,
    public: Vec<u8>,
    not_before: SystemTime,
    not_after: SystemTime,
}

/// Names longer than this are cut.
const SUBJECT_CHARS: usize = 200;

impl Certificate {
    /// The PEM labels. The second one is an old name.
    pub(super) const LABELS: [&'static str; 2] = ["CERTIFICATE", "X509 CERTIFICATE"];

    /// Reads PEM (one or more certificates; other blocks are ignored), one DER certificate, or PKCS#12 without a
    /// password. Returns at least one certificate, the leaf first.
    ///
    /// # Errors
    /// What `bytes` are instead.
    pub fn parse_chain(bytes: &[u8]) -> Result<Vec<Self>, KeyError> {
        Self::parse_chain_with(bytes, None)
    }

    /// Like [`Self::parse_chain`], and also opens PKCS#12 with its password: returns the chain of its private key, or
    /// every certificate if it has no key.
    ///
    /// # Errors
    /// What `bytes` are instead; the password is missing or wrong.
    pub fn parse_chain_with(bytes: &[u8], password: Option<&Secret>) -> Result<Vec<Self>, KeyError> {
        let bytes = unwrapped(bytes);
        if bytes.trim_ascii().is_empty() {
            return Err(KeyError("it is empty".to_owned()));
        }
        if let Some(text) = pem_in(&bytes) {
            return certificates_in(text)?.iter().map(|block| Self::from_der(&block.der()?)).collect();
        }
        let bytes = with_its_last_byte(bytes);
        match form(&bytes) {
            Some(Form::Certificate) => Ok(vec![Self::from_der(&bytes)?]),
            Some(Form::Pkcs12) => from_pkcs12(&bytes, password),
            Some(Form::Pkcs7) => Err(KeyError(
                "it is PKCS#7; convert it (openssl pkcs7 -inform DER -print_certs -in certs.p7b -out certs.pem)"
                    .to_owned(),
            )),
            Some(Form::PublicKey) => Err(KeyError("it holds a public key and no certificate".to_owned())),
            Some(Form::Pkcs8 | Form::EncryptedPkcs8 | Form::Pkcs1 | Form::Sec1) => {
                Err(KeyError("it holds a private key and no certificate".to_owned()))
            }
            None => Err(KeyError("it is no whole certificate in DER or PKCS#12: damaged or cut off (half written?)".to_owned())),
        }
    }

    /// Like [`Self::parse_chain_with`], but returns each certificate as DER. Does not parse certificates in PEM,
    /// because one in a bundle of CAs may be invalid.
    ///
    /// # Errors
    /// Like those of [`Self::parse_chain_with`].
    pub fn ders(bytes: &[u8], password: Option<&Secret>) -> Result<Vec<Vec<u8>>, KeyError> {
        match pem_in(&unwrapped(bytes)) {
            Some(text) => certificates_in(text)?.iter().map(|block| Ok(block.der()?.to_vec())).collect(),
            None => Ok(Self::parse_chain_with(bytes, password)?.into_iter().map(|found| found.der).collect()),
        }
    }

    pub(super) fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        let broken = |_| KeyError("a certificate in it is damaged or cut off".to_owned());
        // Some certificates have longer serial numbers than RFC 5280 allows.
        let parsed = CertificateInner::<Raw>::from_der(der).map_err(broken)?;
        let body = parsed.tbs_certificate();
        Ok(Self {
            der: der.to_vec(),
            subject: shown(&body.subject().to_string()),
            subject_der: body.subject().to_der().map_err(broken)?,
            issuer_der: body.issuer().to_der().map_err(broken)?,
            public: body.subject_public_key_info().subject_public_key.raw_bytes().to_vec(),
            not_before: body.validity().not_before.to_system_time(),
            not_after: body.validity().not_after.to_system_time(),
        })
    }

    /// Of certificates in any order, the chain from the one of this key to its root.
    pub(super) fn chain_to(mut found: Vec<Self>, public: &[u8]) -> Vec<Self> {
        let mut chain: Vec<Self> = Vec::new();
        while let Some(at) = found.iter().position(|next| match chain.last() {
            None => next.public == public,
            Some(last) => last.issuer_der == next.subject_der && last.issuer_der != last.subject_der,
        }) {
            chain.push(found.swap_remove(at));
        }
        chain
    }

    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// base64url SHA-1 of the DER (RFC 7515 section 4.1.7).
    pub fn x5t(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &self.der))
    }

    /// base64url SHA-256 of the DER (RFC 7515 section 4.1.8).
    pub fn x5t_s256(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &self.der))
    }

    /// SHA-256 of the DER in hex, as tools show it.
    pub fn fingerprint(&self) -> String {
        let digest = digest::digest(&digest::SHA256, &self.der);
        let bytes: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
        bytes.join(":")
    }

    /// Standard base64 of the DER: one member of `x5c`.
    pub fn x5c(&self) -> String {
        STANDARD.encode(&self.der)
    }

    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The subject in a form for people.
    pub fn subject(&self) -> String {
        self.subject.clone()
    }

    /// Whether the certificate is for this key.
    pub fn is_of(&self, key: &PrivateKey) -> bool {
        self.public == key.public()
    }

    pub(super) fn public(&self) -> &[u8] {
        &self.public
    }
}

/// Any text is treated as PEM.
fn pem_in(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.trim().is_empty())
}

/// The blocks with certificates, at least one.
fn certificates_in(text: &str) -> Result<Vec<pem::Block<'_>>, KeyError> {
    let (found, blocks): (Vec<_>, Vec<_>) =
        pem::blocks(text)?.into_iter().partition(|block| Certificate::LABELS.contains(&block.label));
    if !found.is_empty() {
        return Ok(found);
    }
    let mut labels: Vec<&str> = blocks.iter().map(|block| pem::known(block.label)).collect();
    labels.dedup();
    labels.truncate(3);
    Err(KeyError(if labels.is_empty() {
        "it holds no certificate: it has no BEGIN line".to_owned()
    } else {
        format!("it holds no certificate but {}", labels.join(", "))
    }))
}

fn from_pkcs12(bytes: &[u8], password: Option<&Secret>) -> Result<Vec<Certificate>, KeyError> {
    let store = pkcs12::open(bytes, password)?;
    if !store.keys.is_empty() {
        let key = PrivateKey::parse(&Secret::new(bytes), password)?;
        if !key.certificates().is_empty() {
            return Ok(key.certificates().to_vec());
        }
    }
    let found: Result<Vec<_>, _> = store.certificates.iter().map(|der| Certificate::from_der(der)).collect();
    match found {
        Ok(found) if found.is_empty() => Err(KeyError("it is PKCS#12 without a certificate".to_owned())),
        found => found,
    }
}

/// Cleans a name, which the applicant for the certificate chose.
fn shown(name: &str) -> String {
    if name.is_empty() {
        return "no subject".to_owned();
    }
    name.chars().filter(|c| !c.is_control()).take(SUBJECT_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::jose::other::{self, PASSWORD};

    fn first(name: &str) -> Certificate {
        Certificate::parse_chain(&other::key_bytes(name)).unwrap().remove(0)
    }

    fn refusal(bytes: &[u8]) -> String {
        Certificate::parse_chain(bytes).unwrap_err().0
    }

    #[test]
    fn thumbprints_are_those_that_openssl_prints() {
        // openssl x509 -in rsa.certificate.pem -noout -fingerprint -sha1 (and -sha256)
        let certificate = first("rsa.certificate.pem");
        assert_eq!(certificate.x5t(), "b1LiGAbMH1c9VZ9hEZho3i4tDes");
        assert_eq!(certificate.x5t_s256(), "sIT2WqJm-k7him2K4k3k-wsLqj1Ia5_AzhQbWtNyTxo");
        assert_eq!(STANDARD.decode(certificate.x5c()).unwrap(), certificate.der());
    }

    #[test]
    fn validity_and_subject_are_read() {
        let expired = first("rsa.expired-certificate.pem");
        assert_eq!(expired.not_before(), UNIX_EPOCH + Duration::from_secs(1_577_836_800));
        assert_eq!(expired.not_after(), UNIX_EPOCH + Duration::from_secs(1_609_459_200));
        assert_eq!(expired.subject(), "CN=bearerd test rsa expired");
        assert!(first("rsa.certificate.pem").subject().contains("O=Acme"));
    }

    #[test]
    fn it_knows_its_key() {
        for (name, other_name) in [("rsa", "ec-p256"), ("ec-p256", "rsa")] {
            let key = |name: &str| {
                PrivateKey::parse(&Secret::new(other::key_bytes(&format!("{name}.jwk.json"))), None).unwrap()
            };
            let certificate = first(&format!("{name}.certificate.pem"));
            assert!(certificate.is_of(&key(name)));
            assert!(!certificate.is_of(&key(other_name)));
        }
    }

    #[test]
    fn every_form_gives_the_same_certificate() {
        let wanted = first("rsa.certificate.pem");
        let both = [other::key("rsa.pkcs8.pem"), other::key("rsa.certificate.pem")].concat();
        for bytes in [wanted.der().to_vec(), wanted.x5c().into_bytes(), both.into_bytes()] {
            assert_eq!(Certificate::parse_chain(&bytes).unwrap(), std::slice::from_ref(&wanted));
        }
        assert_eq!(first("rsa.plain.p12"), wanted);
        let password = Secret::from(PASSWORD);
        for name in ["rsa.modern.p12", "rsa.legacy.p12"] {
            let found = Certificate::parse_chain_with(&other::key_bytes(name), Some(&password)).unwrap();
            assert_eq!(found, std::slice::from_ref(&wanted), "{name}");
        }
        let found = Certificate::parse_chain_with(&other::key_bytes("p12/certificates.p12"), Some(&password));
        assert_eq!(found.unwrap().len(), 3);
    }

    #[test]
    fn each_wrong_file_has_its_own_message() {
        let der = first("rsa.certificate.pem").der().to_vec();
        let half = &der[..der.len() / 2];
        for (bytes, expected) in [
            (&b""[..], "it is empty"),
            (b"hunter2 is it", "it holds no certificate: it has no BEGIN line"),
            (&other::key_bytes("rsa.pkcs8.pem"), "it holds no certificate but PRIVATE KEY"),
            (&other::key_bytes("rsa.modern.p12"), "it is PKCS#12 with a password"),
            (half, "it is no whole certificate in DER or PKCS#12"),
            (
                b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
                "a certificate in it is damaged or cut off",
            ),
            (b"-----BEGIN CERTIFICATE-----\nMAA=\n", "it is cut off: its CERTIFICATE block has no END line"),
        ] {
            let error = refusal(bytes);
            assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
        }
    }
}
