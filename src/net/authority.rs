//! The authority of a forward listener: it signs the certificates of the hosts that programs ask for, so that TLS ends at
//! bearerd. Its key never leaves memory.
//!
//! All certificates of an authority have the same key, which lives as long as the authority: a host then costs one
//! signature, and the key protects nothing that the authority's own key in the same memory does not.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use moka::sync::Cache;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, NameConstraints, PublicKeyData, SanType,
    SerialNumber,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ServerSessionMemoryCache;
use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::asn1::{AnyRef, BitStringRef};
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::{BasicConstraints as CaFlag, KeyUsage, SubjectKeyIdentifier};
use zeroize::Zeroize;

use super::tls::{self, TlsSettingsError};
use crate::aside::{Aside, SharedWork};
use crate::clock::{SharedClock, SystemClock, rfc3339};
use crate::config::{CaConfig, HostPattern};
use crate::jose::Certificate;

const HOUR: Duration = Duration::from_secs(3600);
/// Certificates begin this long ago, for clocks that differ.
const EARLIER: Duration = HOUR;
/// From the beginning of a host's certificate to its end.
const LEAF_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// From the beginning of an ephemeral authority to its end.
const CA_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// How many hosts' certificates are kept. Others are signed again.
const HOSTS: u64 = 1000;
/// How many TLS sessions may be resumed.
const SESSIONS: usize = 4096;

/// The threads that sign.
static SIGNING: Aside = Aside::new("certificates", 2);

/// TLS settings with the certificate of one host.
pub type HostTls = Arc<ServerConfig>;

/// Signs the certificates of one forward listener.
pub struct CertificateAuthority {
    signer: Arc<Signer>,
    hosts: Hosts,
    made: Cache<Arc<str>, Made>,
    making: Arc<SharedWork<Result<Made, TlsSettingsError>>>,
    clock: SharedClock,
}

/// The certificate of a host, in use.
#[derive(Clone)]
struct Made {
    config: Arc<ServerConfig>,
    /// From its beginning to the time of its renewal. A wall clock that jumps leaves it in either direction.
    fresh: (SystemTime, SystemTime),
}

struct Signer {
    /// The authority's certificate and those above it.
    chain: Vec<CertificateDer<'static>>,
    parsed: Certificate,
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

impl CertificateAuthority {
    /// Makes an ephemeral authority for these hosts, or reads and checks the one of the config. Blocks: it may read files.
    ///
    /// # Errors
    /// What is wrong with the certificate or the key, and what to do.
    pub fn new(config: &CaConfig, hosts: &[HostPattern]) -> Result<Self, TlsSettingsError> {
        Self::with_clock(config, hosts, Arc::new(SystemClock))
    }

    fn with_clock(
        config: &CaConfig,
        hosts: &[HostPattern],
        clock: SharedClock,
    ) -> Result<Self, TlsSettingsError> {
        let hosts = Hosts::of(hosts);
        let (chain, key) = match config {
            CaConfig::Ephemeral => ephemeral(&hosts, clock.wall()).map_err(|error| internal(&error))?,
            CaConfig::Own { certificate, private_key } => {
                let chain = tls::certificates(certificate, "forward.ca.certificate")?;
                let key = tls::private_key(private_key, "forward.ca.private_key")?;
                let unusable = |error: rcgen::Error| {
                    let place = private_key.place();
                    TlsSettingsError(format!(
                        "forward.ca.private_key: {place}: it can't sign certificates: {error}"
                    ))
                };
                (chain, WipedKey(KeyPair::try_from(&key).map_err(unusable)?))
            }
        };
        let signer = Signer::new(chain, key).map_err(|why| match config {
            CaConfig::Ephemeral => TlsSettingsError(why),
            CaConfig::Own { certificate, .. } => {
                TlsSettingsError(format!("forward.ca.certificate: {}: {why}", certificate.place()))
            }
        })?;
        Ok(Self {
            signer: Arc::new(signer),
            hosts,
            made: Cache::new(HOSTS),
            making: Arc::new(SharedWork::new(&SIGNING)),
            clock,
        })
    }

    /// The TLS settings with a certificate for `host`: a DNS name or an IP address, in lower case, without a port or brackets.
    /// ALPN offers `h2` and `http/1.1`.
    ///
    /// # Errors
    /// The host is none of the authority's, the authority has expired, or the system refuses a thread.
    pub async fn server_config(&self, host: &str) -> Result<HostTls, TlsSettingsError> {
        let now = self.clock.wall();
        if let Some(made) = self.made.get(host)
            && (made.fresh.0..made.fresh.1).contains(&now)
        {
            return Ok(made.config);
        }
        if !self.hosts.include(host) {
            return Err(TlsSettingsError(format!("no route of the listener names the host {host}")));
        }
        let (signer, name) = (Arc::clone(&self.signer), host.to_owned());
        let made = self.making.join(host, move || signer.make(&name, now)).outcome().await;
        let made = made.map_err(|error| TlsSettingsError(error.to_string()))??;
        self.made.insert(host.into(), made.clone());
        Ok(made.config)
    }

    /// The authority's own certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        self.signer.chain.first().expect("a signer has a certificate")
    }

    /// The authority's own certificate, as PEM.
    pub fn pem(&self) -> String {
        pem(self.certificate())
    }

    /// When the authority's certificate expires.
    pub fn not_after(&self) -> SystemTime {
        self.signer.parsed.not_after()
    }
}

/// A PEM block.
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

impl Signer {
    fn new(chain: Vec<CertificateDer<'static>>, key: WipedKey) -> Result<Self, String> {
        let first = chain.first().ok_or("it holds no certificate")?;
        let parsed = Certificate::parse_chain(first).map_err(|error| error.0)?.swap_remove(0);
        let (subject, key_id) = may_sign(first, &key.0)?;
        let leaf = WipedKey(KeyPair::generate().map_err(|error| error.to_string())?);
        let der = PrivateKeyDer::Pkcs8(leaf.0.serialize_der().into());
        let leaf_key =
            rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).map_err(|error| error.to_string())?;
        let sessions = ServerSessionMemoryCache::new(SESSIONS);
        Ok(Self { chain, parsed, subject, key_id, key, leaf, leaf_key, sessions })
    }

    fn make(&self, host: &str, now: SystemTime) -> Result<Made, TlsSettingsError> {
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

    fn sign(
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

/// The hosts that an authority may sign for.
struct Hosts {
    exact: BTreeSet<String>,
    /// With the dot at the beginning.
    suffixes: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
}

impl Hosts {
    fn of(patterns: &[HostPattern]) -> Self {
        let mut hosts =
            Self { exact: BTreeSet::new(), suffixes: BTreeSet::new(), addresses: BTreeSet::new() };
        for pattern in patterns {
            let host = pattern.without_port();
            match pattern {
                HostPattern::Wildcard(_) => {
                    hosts.suffixes.insert(host.to_owned());
                }
                HostPattern::Exact(_) => match host.trim_matches(['[', ']']).parse() {
                    Ok(address) => drop(hosts.addresses.insert(address)),
                    Err(_) => drop(hosts.exact.insert(host.to_owned())),
                },
            }
        }
        hosts
    }

    fn include(&self, host: &str) -> bool {
        if let Ok(address) = host.parse::<IpAddr>() {
            return self.addresses.contains(&address);
        }
        self.exact.contains(host) || below(host).any(|suffix| self.suffixes.contains(suffix))
    }

    /// `example.com` permits itself and all names below it. Names with a dot at the beginning would exclude itself, but Java
    /// refuses them.
    fn constraints(&self) -> NameConstraints {
        let bases = self.exact.iter().map(String::as_str);
        let bases: BTreeSet<&str> =
            bases.chain(self.suffixes.iter().map(|suffix| suffix.trim_start_matches('.'))).collect();
        let covered = |base: &str| below(base).any(|suffix| bases.contains(suffix.trim_start_matches('.')));
        let mut permitted: Vec<_> = bases.iter().filter(|base| !covered(base)).collect();
        if permitted.is_empty() {
            // Constraints apply only to the types of names that they mention. No name ends in this (RFC 2606).
            permitted.push(&"invalid");
        }
        let mut permitted_subtrees: Vec<_> =
            permitted.into_iter().map(|base| GeneralSubtree::DnsName((*base).to_owned())).collect();
        let address =
            |at: IpAddr, prefix| GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(at, prefix));
        permitted_subtrees
            .extend(self.addresses.iter().map(|at| address(*at, if at.is_ipv4() { 32 } else { 128 })));
        let excluded_subtrees = if self.addresses.is_empty() {
            vec![address(IpAddr::from([0; 4]), 0), address(IpAddr::from([0; 16]), 0)]
        } else {
            Vec::new()
        };
        NameConstraints { permitted_subtrees, excluded_subtrees }
    }
}

/// The names above a host, with the dot at the beginning: of `a.b.c`, `.b.c` and `.c`.
fn below(host: &str) -> impl Iterator<Item = &str> {
    host.match_indices('.').filter_map(|(at, _)| host.get(at..))
}

#[cfg(test)]
mod tests {
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{ClientConfig, RootCertStore};

    use super::*;
    use crate::clock::{Clock, ShiftedClock};
    use crate::config::Source;

    fn hosts(of: &[&str]) -> Vec<HostPattern> {
        let pattern = |host: &&str| match host.strip_prefix('*') {
            Some(suffix) => HostPattern::Wildcard(suffix.to_owned()),
            None => HostPattern::Exact((*host).to_owned()),
        };
        of.iter().map(pattern).collect()
    }

    fn ephemeral_for(of: &[&str]) -> CertificateAuthority {
        CertificateAuthority::new(&CaConfig::Ephemeral, &hosts(of)).unwrap()
    }

    fn roots(root: &CertificateDer<'_>) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned()).unwrap();
        Arc::new(roots)
    }

    fn server_name(host: &str) -> ServerName<'static> {
        ServerName::try_from(host.to_owned()).unwrap()
    }

    /// The chain that a caller gets who trusts the authority.
    async fn chain(authority: &CertificateAuthority, host: &str) -> Vec<CertificateDer<'static>> {
        let config = authority.server_config(host).await.unwrap();
        let roots = roots(authority.certificate());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let client = Arc::new(client.with_root_certificates(roots).with_no_client_auth());
        let mut client = rustls::ClientConnection::new(client, server_name(host)).unwrap();
        let mut server = rustls::ServerConnection::new(config).unwrap();
        while client.is_handshaking() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut &bytes[..]).unwrap();
            server.process_new_packets().unwrap();
            bytes.clear();
            server.write_tls(&mut bytes).unwrap();
            client.read_tls(&mut &bytes[..]).unwrap();
            client.process_new_packets().unwrap();
        }
        client.peer_certificates().unwrap().iter().map(|der| der.clone().into_owned()).collect()
    }

    /// What rustls says of a certificate for a host, if it trusts `root`.
    fn verdict(
        root: &CertificateDer<'_>,
        leaf: &CertificateDer<'_>,
        host: &str,
    ) -> Result<(), rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots(root), provider).build().unwrap();
        let now = UnixTime::since_unix_epoch(SystemClock.wall().duration_since(UNIX_EPOCH).unwrap());
        verifier.verify_server_cert(leaf, &[], &server_name(host), &[], now).map(drop)
    }

    #[tokio::test]
    async fn certificates_are_valid_for_the_hosts_of_the_routes_and_for_no_other() {
        let authority = ephemeral_for(&["api.example.com:8443", "*.wild.example", "10.1.2.3", "[::1]:8443"]);
        for host in ["api.example.com", "a.wild.example", "b.a.wild.example", "10.1.2.3", "::1"] {
            assert_eq!(
                chain(&authority, host).await.len(),
                1,
                "the authority signed itself, so callers know it"
            );
        }
        for host in ["example.com", "wild.example", "xapi.example.com", "10.1.2.4", "::2", ""] {
            let error = authority.server_config(host).await.unwrap_err();
            assert!(error.0.contains("no route of the listener names the host"), "{host}: {error}");
        }
    }

    #[test]
    fn the_authority_is_constrained_to_the_hosts_of_the_routes() {
        let now = SystemClock.wall();
        for (of, permitted, refused) in [
            (
                &["api.example.com", "*.wild.example"][..],
                &["api.example.com", "a.wild.example"][..],
                &["other.example", "10.1.2.3", "::1"][..],
            ),
            (&["10.1.2.3"], &["10.1.2.3"], &["10.1.2.4", "::1", "api.example.com"]),
        ] {
            let authority = ephemeral_for(of);
            for (hosts, is_fine) in [(permitted, true), (refused, false)] {
                for host in hosts {
                    // As a thief of the key could.
                    let leaf = authority.signer.sign(host, now - HOUR, now + HOUR).unwrap();
                    let verdict = verdict(authority.certificate(), &leaf, host);
                    assert_eq!(verdict.is_ok(), is_fine, "{of:?} {host}: {verdict:?}");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_certificate_lives_a_day_and_is_renewed_at_half_of_it() {
        let clock = Arc::new(ShiftedClock::default());
        let hosts = hosts(&["h.example"]);
        let shared: SharedClock = Arc::clone(&clock) as _;
        let authority = CertificateAuthority::with_clock(&CaConfig::Ephemeral, &hosts, shared).unwrap();
        let first = chain(&authority, "h.example").await;
        let parsed = Certificate::parse_chain(&first[0]).unwrap().remove(0);
        assert_eq!(parsed.not_before() + LEAF_LIFETIME, parsed.not_after());
        assert!(parsed.not_before() <= clock.wall() - EARLIER);
        let config = async || authority.server_config("h.example").await.unwrap();
        let first = config().await;
        assert!(Arc::ptr_eq(&config().await, &first));
        clock.advance(12 * HOUR);
        let second = config().await;
        assert!(!Arc::ptr_eq(&second, &first));
        clock.jump_wall(-14 * 3_600_000);
        assert!(!Arc::ptr_eq(&config().await, &second), "it is not valid yet");
        clock.advance(CA_LIFETIME + 2 * HOUR);
        let error = authority.server_config("h.example").await.unwrap_err();
        assert!(error.0.contains("expired at"), "{error}");
    }

    fn own(params: CertificateParams, key: &KeyPair) -> CaConfig {
        let certificate = pem(params.self_signed(key).unwrap().der());
        let private_key = Source::literal(key.serialize_pem().as_str());
        CaConfig::Own { certificate: Source::literal(certificate.as_str()), private_key }
    }

    fn ca_params() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    #[tokio::test]
    async fn an_own_authority_signs_with_its_own_name_and_any_key() {
        let hosts = hosts(&["h.example"]);
        let algorithms = [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ED25519,
            &rcgen::PKCS_RSA_SHA256,
        ];
        for algorithm in algorithms {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let authority = CertificateAuthority::new(&own(ca_params(), &key), &hosts).unwrap();
            chain(&authority, "h.example").await;
        }
    }

    #[test]
    fn an_authority_that_cannot_sign_is_refused() {
        let key = KeyPair::generate().unwrap();
        let mut leaf = ca_params();
        leaf.is_ca = IsCa::NoCa;
        let mut usage = ca_params();
        usage.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let CaConfig::Own { certificate, .. } = own(ca_params(), &key) else { unreachable!() };
        let private_key = Source::literal(KeyPair::generate().unwrap().serialize_pem().as_str());
        for (config, expected) in [
            (own(leaf, &key), "it is no CA certificate"),
            (own(usage, &key), "its keyUsage lacks keyCertSign"),
            (CaConfig::Own { certificate, private_key }, "forward.ca.private_key does not belong to it"),
        ] {
            let error = CertificateAuthority::new(&config, &hosts(&["h"])).map(drop).unwrap_err();
            assert!(error.0.starts_with("forward.ca.certificate: the config file: "), "{error}");
            assert!(error.0.contains(expected), "{error}");
        }
    }
}

impl std::fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateAuthority").finish_non_exhaustive()
    }
}
