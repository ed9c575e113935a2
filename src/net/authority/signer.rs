//! One certificate of an authority with its key, and what it signs.
//!
//! All certificates that it signs have the same key, which lives as long as the signer: a host then costs one signature, and
//! the key protects nothing that the signer's own key in the same memory does not.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ServerSessionMemoryCache;
use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::asn1::{AnyRef, BitStringRef, ObjectIdentifier};
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::{
    BasicConstraints as CaFlag, ExtendedKeyUsage, KeyUsage, NameConstraints, SubjectKeyIdentifier,
};
use zeroize::Zeroize;

use super::hosts::Hosts;
use crate::clock::rfc3339;
use crate::config::Source;
use crate::jose::Certificate;
use crate::net::tls::{self, TlsSettingsError};

/// RFC 5280 section 4.2.1.12.
const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
const ANY_PURPOSE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37.0");
/// RFC 4055 section 3.1.
const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");

pub(super) const HOUR: Duration = Duration::from_secs(3600);
/// Certificates begin this long ago, for clocks that differ.
pub(super) const EARLIER: Duration = HOUR;
/// From the beginning of a host's certificate to its end.
pub(super) const LEAF_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// From the beginning of an ephemeral authority to its end.
pub(super) const CA_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// How many TLS sessions may be resumed.
const SESSIONS: usize = 4096;

/// The certificate of a host, in use.
#[derive(Clone)]
pub(super) struct Made {
    pub(super) config: Arc<ServerConfig>,
    /// From its beginning to the time of its renewal. A wall clock that jumps leaves it in either direction.
    pub(super) fresh: (SystemTime, SystemTime),
}

pub(super) struct Signer {
    /// The signer's certificate and those above it.
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) parsed: Certificate,
    /// What its constraints permit, if bearerd made it.
    pub(super) permits: Option<Hosts>,
    subject: Vec<u8>,
    key_id: KeyIdMethod,
    key: WipedKey,
    leaf: WipedKey,
    leaf_key: Arc<dyn rustls::sign::SigningKey>,
    sessions: Arc<ServerSessionMemoryCache>,
}

/// `rcgen` keeps the encoded key beside the parsed one.
struct WipedKey(KeyPair);

impl Drop for WipedKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Signer {
    /// The authority of the config. Reads its files, and blocks.
    pub(super) fn own(
        certificate: &Source,
        private_key: &Source,
        hosts: &Hosts,
    ) -> Result<Self, TlsSettingsError> {
        let chain = tls::certificates(certificate, "forward.ca.certificate")?;
        let key = tls::private_key(private_key, "forward.ca.private_key")?;
        let key = KeyPair::try_from(&key).map_err(|error| {
            let place = private_key.place();
            TlsSettingsError(format!("forward.ca.private_key: {place}: it can't sign certificates: {error}"))
        })?;
        let told =
            |why: String| TlsSettingsError(format!("forward.ca.certificate: {}: {why}", certificate.place()));
        let signer = Self::new(chain, WipedKey(key), None).map_err(told)?;
        signer.check_constraints(hosts).map_err(told)?;
        Ok(signer)
    }

    /// An authority for these hosts alone.
    pub(super) fn ephemeral(hosts: &Hosts, now: SystemTime) -> Result<Self, TlsSettingsError> {
        let (chain, key) = ephemeral(hosts, now).map_err(|why| internal(&why))?;
        Self::new(chain, key, Some(hosts.clone())).map_err(|why| internal(&why))
    }

    /// Whether its constraints, and those of the authorities above it, permit the hosts: what programs would say.
    fn check_constraints(&self, hosts: &Hosts) -> Result<(), String> {
        if !self.chain.iter().any(|der| has_constraints(der)) {
            return Ok(());
        }
        let (begin, end) = (self.parsed.not_before(), self.parsed.not_after());
        for host in hosts.examples() {
            let leaf = self.sign(&host, begin, end)?;
            if !tls::is_trusted(&self.chain, &leaf, &host, begin) {
                return Err(format!(
                    "its name constraints do not permit {host}, which a route of the listener names: take a CA that permits \
                     it, or leave the host out"
                ));
            }
        }
        Ok(())
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: WipedKey,
        permits: Option<Hosts>,
    ) -> Result<Self, String> {
        let first = chain.first().ok_or("it holds no certificate")?;
        let parsed = Certificate::parse_chain(first).map_err(|error| error.0)?.swap_remove(0);
        let (subject, key_id) = may_sign(first, &key.0)?;
        let leaf = WipedKey(KeyPair::generate().map_err(|error| error.to_string())?);
        let der = PrivateKeyDer::Pkcs8(leaf.0.serialized_der().into());
        let leaf_key =
            rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).map_err(|error| error.to_string())?;
        let sessions = ServerSessionMemoryCache::new(SESSIONS);
        Ok(Self { chain, parsed, permits, subject, key_id, key, leaf, leaf_key, sessions })
    }

    /// Whether its constraints permit one of the hosts.
    pub(super) fn permits_any(&self, hosts: &Hosts) -> bool {
        let permits =
            |host: String| self.permits.as_ref().is_none_or(|permitted| permitted.permit_host(&host));
        hosts.examples().any(permits)
    }

    pub(super) fn make(&self, host: &str, now: SystemTime) -> Result<Made, TlsSettingsError> {
        let ca_end = self.parsed.not_after();
        let begin = (now - EARLIER).max(self.parsed.not_before());
        let end = (begin + LEAF_LIFETIME).min(ca_end);
        if now >= ca_end {
            let at = rfc3339(ca_end);
            return Err(TlsSettingsError(format!(
                "the certificate of the listener's CA expired at {at}: replace forward.ca"
            )));
        }
        let leaf = self.sign(host, begin, end).map_err(|why| internal(&why))?;
        // An authority that signed itself is nothing that callers need.
        let above = self.chain.iter().filter(|der| !is_self_signed(der));
        let chain = std::iter::once(leaf).chain(above.cloned()).collect();
        let config =
            tls::with_certificate(chain, Arc::clone(&self.leaf_key), Arc::clone(&self.sessions) as _)?;
        Ok(Made { config, fresh: (begin, now + end.duration_since(now).unwrap_or_default() / 2) })
    }

    pub(super) fn sign(
        &self,
        host: &str,
        begin: SystemTime,
        end: SystemTime,
    ) -> Result<CertificateDer<'static>, String> {
        let mut params = CertificateParams::default();
        set_validity(&mut params, begin, end);
        params.serial_number = Some(serial()?);
        // No common name: OpenSSL compares it with the constraints if there is no DNS name.
        params.distinguished_name = name(&[(DnType::OrganizationName, "bearerd")]);
        params.subject_alt_names = vec![match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(host.try_into().map_err(|error: rcgen::Error| error.to_string())?),
        }];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let mut authority = CertificateParams::default();
        authority.key_identifier_method = self.key_id.clone();
        let issuer = rcgen::Issuer::new(authority, Unsigned(&self.key.0));
        let draft = params.signed_by(&self.leaf.0, &issuer).map_err(|error| error.to_string())?;
        signed_in_the_name_of(&self.subject, draft.der(), &self.key.0)
    }
}

/// Leaves the place of the signature empty.
struct Unsigned<'a>(&'a KeyPair);

impl PublicKeyData for Unsigned<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl rcgen::SigningKey for Unsigned<'_> {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(Vec::new())
    }
}

/// Puts the authority's name into a certificate byte for byte, and signs it. `rcgen` cannot write every name, such as one with
/// two domain components.
fn signed_in_the_name_of(
    subject: &[u8],
    draft: &[u8],
    key: &KeyPair,
) -> Result<CertificateDer<'static>, String> {
    /// The place of the issuer in a `TBSCertificate` (RFC 5280 section 4.1).
    const ISSUER: usize = 3;
    let wrong = |error: x509_cert::der::Error| error.to_string();
    let mut parts = Vec::<AnyRef<'_>>::from_der(draft).map_err(wrong)?;
    let [body, _, signature] = parts.as_mut_slice() else { return Err("a draft of other parts".to_owned()) };
    let encoded = body.to_der().map_err(wrong)?;
    let mut fields = Vec::<AnyRef<'_>>::from_der(&encoded).map_err(wrong)?;
    *fields.get_mut(ISSUER).ok_or("a draft without an issuer")? = AnyRef::from_der(subject).map_err(wrong)?;
    let to_sign = fields.to_der().map_err(wrong)?;
    let signed = rcgen::SigningKey::sign(key, &to_sign).map_err(|error| error.to_string())?;
    let signed = BitStringRef::from_bytes(&signed).and_then(|bits| bits.to_der()).map_err(wrong)?;
    *body = AnyRef::from_der(&to_sign).map_err(wrong)?;
    *signature = AnyRef::from_der(&signed).map_err(wrong)?;
    parts.to_der().map(CertificateDer::from).map_err(wrong)
}

/// The authority's name and the ID of its key, if the certificate may sign others with this key.
fn may_sign(der: &[u8], key: &KeyPair) -> Result<(Vec<u8>, KeyIdMethod), String> {
    let broken = |error: x509_cert::der::Error| format!("the certificate is damaged: {error}");
    let parsed = CertificateInner::<Raw>::from_der(der).map_err(broken)?;
    let body = parsed.tbs_certificate();
    let is_ca = body.get_extension::<CaFlag>().map_err(broken)?.is_some_and(|(_, found)| found.ca);
    if !is_ca {
        return Err("it is no CA certificate (basicConstraints CA:TRUE is missing): put the CA's own first, or make one \
                    (openssl req -x509 -addext basicConstraints=critical,CA:TRUE …)"
            .to_owned());
    }
    let usage = body.get_extension::<KeyUsage>().map_err(broken)?;
    if usage.is_some_and(|(_, usage)| !usage.key_cert_sign()) {
        return Err("its keyUsage lacks keyCertSign, so programs refuse what it signs: make another CA \
                    certificate"
            .to_owned());
    }
    let purposes = body.get_extension::<ExtendedKeyUsage>().map_err(broken)?;
    let for_servers = |purpose: &ObjectIdentifier| [SERVER_AUTH, ANY_PURPOSE].contains(purpose);
    if purposes.is_some_and(|(_, purposes)| !purposes.0.iter().any(for_servers)) {
        return Err("its extendedKeyUsage lacks serverAuth, so programs refuse what it signs: make another CA certificate, \
                    without extendedKeyUsage"
            .to_owned());
    }
    if body.subject_public_key_info().algorithm.oid == RSA_PSS {
        return Err("its key is for RSA-PSS alone, which many programs do not take: make a CA with an ordinary RSA key, or with \
                    one for ECDSA"
            .to_owned());
    }
    if body.subject_public_key_info().subject_public_key.raw_bytes() != key.der_bytes() {
        return Err("forward.ca.private_key does not belong to it (the first certificate in the file is the one that \
                    counts)"
            .to_owned());
    }
    let key_id = body.get_extension::<SubjectKeyIdentifier>().map_err(broken)?;
    let key_id = key_id
        .map_or(KeyIdMethod::Sha256, |(_, found)| KeyIdMethod::PreSpecified(found.0.as_bytes().to_vec()));
    Ok((body.subject().to_der().map_err(broken)?, key_id))
}

fn is_self_signed(der: &[u8]) -> bool {
    CertificateInner::<Raw>::from_der(der)
        .is_ok_and(|found| found.tbs_certificate().subject() == found.tbs_certificate().issuer())
}

fn has_constraints(der: &[u8]) -> bool {
    let parsed = CertificateInner::<Raw>::from_der(der).ok();
    parsed.is_some_and(|it| !matches!(it.tbs_certificate().get_extension::<NameConstraints>(), Ok(None)))
}

fn ephemeral(hosts: &Hosts, now: SystemTime) -> Result<(Vec<CertificateDer<'static>>, WipedKey), String> {
    let wrong = |error: rcgen::Error| error.to_string();
    let key = WipedKey(KeyPair::generate().map_err(wrong)?);
    let serial = serial()?;
    let mut params = CertificateParams::default();
    set_validity(&mut params, now - EARLIER, now - EARLIER + CA_LIFETIME);
    // Each has a name of its own, so that a program that knows an older one does not take it for this one.
    let name_of_its_own = format!("bearerd {}", hex(serial.as_ref()));
    params.distinguished_name =
        name(&[(DnType::OrganizationName, "bearerd"), (DnType::CommonName, &name_of_its_own)]);
    params.serial_number = Some(serial);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(hosts.constraints());
    let certificate = params.self_signed(&key.0).map_err(wrong)?;
    Ok((vec![certificate.into()], key))
}

fn name(entries: &[(DnType, &str)]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    for (kind, value) in entries {
        name.push(kind.clone(), *value);
    }
    name
}

/// 127 random bits (RFC 5280 section 4.1.2.2).
fn serial() -> Result<SerialNumber, String> {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| "the machine gives no random numbers".to_owned())?;
    let [first, ..] = &mut bytes;
    *first &= 0x7f;
    Ok(SerialNumber::from_slice(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn internal(why: &str) -> TlsSettingsError {
    TlsSettingsError(format!("bearerd could not make a certificate: {why}"))
}

fn set_validity(params: &mut CertificateParams, begin: SystemTime, end: SystemTime) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + begin.duration_since(UNIX_EPOCH).unwrap_or_default();
    params.not_after = epoch + end.duration_since(UNIX_EPOCH).unwrap_or_default();
}
