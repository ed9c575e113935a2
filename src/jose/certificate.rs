//! X.509 certificates: what a JWT's header and an operator want to know of them.

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
    /// How PEM calls it; the second is an old name.
    pub(super) const LABELS: [&'static str; 2] = ["CERTIFICATE", "X509 CERTIFICATE"];

    /// Reads PEM (one or more, other blocks ignored), one DER certificate, or PKCS#12 that needs no password; leaf
    /// first, at least one.
    ///
    /// # Errors
    /// What it is instead.
    pub fn parse_chain(bytes: &[u8]) -> Result<Vec<Self>, KeyError> {
        Self::parse_chain_with(bytes, None)
    }

    /// As [`Self::parse_chain`], from PKCS#12 with its password too: the chain of its private key, or every
    /// certificate where it has no key.
    ///
    /// # Errors
    /// What it is instead; the password is missing or wrong.
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

    /// As [`Self::parse_chain_with`], each as DER. What stands in PEM is not looked into: of a bundle of CAs, one may be
    /// of no use.
    ///
    /// # Errors
    /// As [`Self::parse_chain_with`].
    pub fn ders(bytes: &[u8], password: Option<&Secret>) -> Result<Vec<Vec<u8>>, KeyError> {
        match pem_in(&unwrapped(bytes)) {
            Some(text) => certificates_in(text)?.iter().map(|block| Ok(block.der()?.to_vec())).collect(),
            None => Ok(Self::parse_chain_with(bytes, password)?.into_iter().map(|found| found.der).collect()),
        }
    }

    pub(super) fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        let broken = |_| KeyError("a certificate in it is damaged or cut off".to_owned());
        // Serial numbers longer than RFC 5280 allows are in use.
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

    /// Of certificates in any order, those that lead from the one of this key to its root.
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

    /// Standard base64 of the DER, one member of `x5c`.
    pub fn x5c(&self) -> String {
        STANDARD.encode(&self.der)
    }

    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Its subject, in words for an operator.
    pub fn subject(&self) -> String {
        self.subject.clone()
    }

    /// Whether it certifies the public half of this key.
    pub fn is_of(&self, key: &PrivateKey) -> bool {
        self.public == key.public()
    }

    pub(super) fn public(&self) -> &[u8] {
        &self.public
    }
}

/// Whatever is a text is meant as PEM.
fn pem_in(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.trim().is_empty())
}

/// The blocks that hold certificates, at least one.
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

/// Names are written by whoever asked for the certificate.
fn shown(name: &str) -> String {
    if name.is_empty() {
        return "no subject".to_owned();
    }
    name.chars().filter(|c| !c.is_control()).take(SUBJECT_CHARS).collect()
}

#[cfg(test)]
mod tests;
