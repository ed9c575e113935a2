//! The files from which programs learn what to trust: the system's roots and the authority, as PEM, and as PKCS#12 and JKS for
//! Java. They hold certificates only, so their password protects nothing.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use x509_cert::der::asn1::{AnyRef, BmpString, ObjectIdentifier};
use x509_cert::der::{self, Encode, Tag, TagNumber};

use crate::config::bundle_files;
use crate::config::files::{self, Replaced};
use crate::net::tls;

/// Java's usual one for certificates that it trusts.
pub const PASSWORD: &str = "changeit";

/// Everybody may read them.
const MODE: u32 = 0o644;

/// The certificates of an authority, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle(pub(super) Vec<CertificateDer<'static>>);

impl Bundle {
    /// Only the authority, as PEM.
    pub fn pem(&self) -> String {
        self.0.iter().map(|der| pem(der)).collect()
    }

    /// Writes the system's roots, the certificates of the files in `also` (each with the variable that names it), and the
    /// authority. Blocks, and may hang with a file system.
    ///
    /// Without roots of the system there is only the authority, so programs can reach nothing but the routes' hosts.
    ///
    /// `key`: what says where the file is, for errors.
    ///
    /// # Errors
    /// Why a file was not written, and what to do.
    pub fn write(
        &self,
        path: &Path,
        key: &'static str,
        also: &[(&'static str, PathBuf)],
        now: SystemTime,
    ) -> Result<(), String> {
        let mut others = tls::system_certificates().unwrap_or_else(|error| {
            tracing::warn!(event = "ca.no_system_roots", %error, "the CA bundle holds only the CA");
            Vec::new()
        });
        let read = also.iter().flat_map(|(variable, path)| {
            tls::certificates_at(path)
                .inspect_err(|error| files::left_out(variable, path, error))
                .unwrap_or_default()
        });
        for certificate in read {
            if !others.contains(&certificate) {
                others.push(certificate);
            }
        }
        let all: Vec<&[u8]> = self.0.iter().chain(&others).map(AsRef::as_ref).collect();
        let pkcs12 = pkcs12(&all).map_err(|error| format!("the CA bundle as PKCS#12: {error}"))?;
        let contents = [all.iter().map(|der| pem(der)).collect::<String>().into_bytes(), pkcs12, jks(&all)];
        for (path, content) in bundle_files(path).iter().zip(contents) {
            let file = Replaced::new(key, path, MODE);
            file.write(&content, now)?;
            file.sync()?;
        }
        Ok(())
    }
}

/// A certificate as PEM.
fn pem(der: &[u8]) -> String {
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let encoded = STANDARD.encode(der);
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text + "-----END CERTIFICATE-----\n"
}

/// `data` of PKCS#7.
const DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
const CERTIFICATE_BAG: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.10.1.3");
const X509: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.22.1");
const FRIENDLY_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.20");
/// Java trusts only certificates with this attribute of its own, here for any use.
const TRUSTED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.113894.746875.1.1");
const ANY_USE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37.0");

const CONTEXT_0: Tag = Tag::ContextSpecific { constructed: true, number: TagNumber(0) };

fn tlv(tag: Tag, parts: &[&[u8]]) -> der::Result<Vec<u8>> {
    AnyRef::new(tag, &parts.concat())?.to_der()
}

/// PKCS#12 (RFC 7292), neither encrypted nor with a digest.
fn pkcs12(certificates: &[&[u8]]) -> der::Result<Vec<u8>> {
    let bags = certificates.iter().enumerate().map(|(number, der)| bag(&alias(number), der));
    let bags = bags.collect::<der::Result<Vec<_>>>()?.concat();
    let contents = data(&tlv(Tag::Sequence, &[&bags])?)?;
    let safe = data(&tlv(Tag::Sequence, &[&contents])?)?;
    tlv(Tag::Sequence, &[&3_u8.to_der()?, &safe])
}

fn data(content: &[u8]) -> der::Result<Vec<u8>> {
    let octets = tlv(Tag::OctetString, &[content])?;
    tlv(Tag::Sequence, &[&DATA.to_der()?, &tlv(CONTEXT_0, &[&octets])?])
}

fn bag(alias: &str, certificate: &[u8]) -> der::Result<Vec<u8>> {
    let octets = tlv(CONTEXT_0, &[&tlv(Tag::OctetString, &[certificate])?])?;
    let value = tlv(CONTEXT_0, &[&tlv(Tag::Sequence, &[&X509.to_der()?, &octets])?])?;
    let name = attribute(FRIENDLY_NAME, &BmpString::from_utf8(alias)?.to_der()?)?;
    let usage = attribute(TRUSTED_KEY_USAGE, &ANY_USE.to_der()?)?;
    tlv(Tag::Sequence, &[&CERTIFICATE_BAG.to_der()?, &value, &tlv(Tag::Set, &[&name, &usage])?])
}

fn attribute(kind: ObjectIdentifier, value: &[u8]) -> der::Result<Vec<u8>> {
    tlv(Tag::Sequence, &[&kind.to_der()?, &tlv(Tag::Set, &[value])?])
}

fn alias(number: usize) -> String {
    format!("ca-{number:04}")
}

/// JKS, as Java's `sun.security.provider.JavaKeyStore` reads it.
fn jks(certificates: &[&[u8]]) -> Vec<u8> {
    /// A trusted certificate.
    const ENTRY: [u8; 4] = [0, 0, 0, 2];
    let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    let text = |text: &str| {
        let length = u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes();
        [&length[..], text.as_bytes()].concat()
    };
    let mut store = vec![0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2];
    store.extend(number(certificates.len()));
    for (place, der) in certificates.iter().enumerate() {
        store.extend(ENTRY);
        store.extend(text(&alias(place)));
        // When it was added, in milliseconds. Always the same, so that the same certificates are the same file.
        store.extend(0_u64.to_be_bytes());
        store.extend(text("X.509"));
        store.extend(number(der.len()));
        store.extend(*der);
    }
    let mut digested: Vec<u8> = PASSWORD.encode_utf16().flat_map(u16::to_be_bytes).collect();
    digested.extend(b"Mighty Aphrodite");
    digested.extend(&store);
    store.extend(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &digested).as_ref());
    store
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jose::Certificate;
    use crate::secret::Secret;

    #[test]
    fn pkcs12_holds_every_certificate() {
        let of = |name: &str| {
            let key = rcgen::KeyPair::generate().unwrap();
            rcgen::CertificateParams::new(vec![name.to_owned()])
                .unwrap()
                .self_signed(&key)
                .unwrap()
                .der()
                .to_vec()
        };
        let (one, other) = (of("one.example"), of("other.example"));
        let store = pkcs12(&[&one, &other]).unwrap();
        let found = Certificate::ders(&store, Some(&Secret::from(PASSWORD))).unwrap();
        assert_eq!(found, [one, other]);
    }
}
