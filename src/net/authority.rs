//! The authority of a forward listener: it signs the certificates of the hosts that programs ask for, so that TLS ends at
//! bearerd.
//!
//! An ephemeral authority is several of them over time, since programs that know only an older one must go on for as long as
//! it is valid: after half of its lifetime a successor is made, and after a reload with hosts that it does not permit. The
//! oldest one signs that still can. All of them are in the bundle.

pub mod bundle;
mod hosts;
mod signer;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use moka::sync::Cache;
use rustls::ServerConfig;
use rustls::pki_types::ServerName;

pub use self::bundle::Bundle;
use self::hosts::Hosts;
use self::signer::{CA_LIFETIME, EARLIER, Made, Signer};
use super::tls::{NoTls, TlsSettingsError};
use crate::aside::{Aside, SharedWork};
use crate::clock::{SharedClock, SystemClock, rfc3339};
use crate::config::{CaConfig, HostPattern};
use crate::jose::Certificate;

/// How many hosts' certificates are kept. Others are signed again.
const HOSTS: u64 = 1000;
/// At most so many authorities follow each other, because each is in the bundle with the names of all its hosts. Programs start with
/// any of these bundles, and each authority lasts 30 days.
const SIGNERS: usize = 32;
/// An authority with less time left than this signs only if there is no other.
const LAST: Duration = Duration::from_secs(24 * 3600);

/// The threads that sign.
static SIGNING: Aside = Aside::new("signing", 2);

/// TLS settings with the certificate of one host.
pub type HostTls = Arc<ServerConfig>;

/// Whether a TLS handshake can name this host, which is a name or an address.
pub fn is_server_name(host: &str) -> bool {
    ServerName::try_from(host).is_ok()
}

/// Signs the certificates of one forward listener.
pub struct CertificateAuthority {
    /// The oldest first.
    signers: Vec<Arc<Signer>>,
    /// Why there are none, as long as a file of an own authority is missing.
    missing: Option<TlsSettingsError>,
    hosts: Hosts,
    made: Cache<Arc<str>, Made>,
    making: Arc<SharedWork<Result<Made, TlsSettingsError>>>,
    clock: SharedClock,
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
        let signer = match config {
            CaConfig::Ephemeral => Signer::ephemeral(&hosts, clock.wall())?,
            CaConfig::Own { certificate, private_key } => Signer::own(certificate, private_key, &hosts)?,
        };
        Ok(Self::of(vec![Arc::new(signer)], hosts, clock))
    }

    fn of(signers: Vec<Arc<Signer>>, hosts: Hosts, clock: SharedClock) -> Self {
        let making = Arc::new(SharedWork::new(&SIGNING));
        Self { signers, missing: None, hosts, made: Cache::new(HOSTS), making, clock }
    }

    /// An authority whose files are not there yet. It signs nothing.
    pub fn waiting(why: String) -> Self {
        let none = Self::of(Vec::new(), Hosts::of(&[]), Arc::new(SystemClock));
        Self { missing: Some(TlsSettingsError(why)), ..none }
    }

    /// As [`Self::new`], for a listener that had this authority before: an ephemeral one stays, with a successor if it does not
    /// permit the new hosts.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn after(&self, config: &CaConfig, hosts: &[HostPattern]) -> Result<Self, TlsSettingsError> {
        if !matches!(config, CaConfig::Ephemeral) || self.newest_permits().is_none() {
            return Self::with_clock(config, hosts, Arc::clone(&self.clock));
        }
        self.succeeded(Hosts::of(hosts), Duration::ZERO)
    }

    /// The authority with a successor, if it is time for one.
    pub fn renewed(&self) -> Option<Result<Self, TlsSettingsError>> {
        let newest = self.newest()?;
        self.newest_permits()?;
        let due = newest.parsed.not_after() <= self.clock.wall() + CA_LIFETIME / 2;
        due.then(|| self.succeeded(self.hosts.clone(), CA_LIFETIME / 2))
    }

    /// `left`: the newest one must be valid for longer.
    fn succeeded(&self, hosts: Hosts, left: Duration) -> Result<Self, TlsSettingsError> {
        let now = self.clock.wall();
        let valid = |signer: &&Arc<Signer>| signer.parsed.not_after() > now;
        let mut signers: Vec<_> = self.signers.iter().filter(valid).cloned().collect();
        let suffices = |signer: &Arc<Signer>| {
            let permits = signer.permits.as_ref().is_some_and(|permitted| permitted.permit(&hosts));
            permits && signer.parsed.not_after() > now + left
        };
        if !signers.last().is_some_and(suffices) {
            signers.push(Arc::new(Signer::ephemeral(&hosts, now)?));
        }
        if signers.len() > SIGNERS {
            let given_up = signers.remove(least_needed(&signers, &hosts));
            warn_of_given_up(&given_up, &hosts);
        }
        Ok(Self::of(signers, hosts, Arc::clone(&self.clock)))
    }

    fn newest(&self) -> Option<&Arc<Signer>> {
        self.signers.last()
    }

    /// `None` if bearerd did not make it.
    fn newest_permits(&self) -> Option<&Hosts> {
        self.newest()?.permits.as_ref()
    }

    /// The TLS settings with a certificate for `host`: a DNS name or an IP address, in lower case, without a port or brackets.
    /// ALPN offers `h2` and `http/1.1`.
    ///
    /// # Errors
    /// The host is none of the authority's, the authority has expired, or the system refuses a thread.
    pub async fn server_config(&self, host: &str) -> Result<HostTls, NoTls> {
        let now = self.clock.wall();
        if let Some(made) = self.made.get(host)
            && (made.fresh.0..made.fresh.1).contains(&now)
        {
            return Ok(made.config);
        }
        let signer = self.signer_for(host, now).map_err(NoTls::Settings)?;
        let name = host.to_owned();
        let made = self.making.join(host, move || signer.make(&name, now)).outcome().await;
        let made = made.map_err(NoTls::Machine)?.map_err(NoTls::Settings)?;
        self.made.insert(host.into(), made.clone());
        Ok(made.config)
    }

    fn signer_for(&self, host: &str, now: SystemTime) -> Result<Arc<Signer>, TlsSettingsError> {
        let Some(newest) = self.newest() else { return Err(self.nothing()) };
        if !self.hosts.include(host) {
            return Err(TlsSettingsError(format!("no route of the listener names the host {host}")));
        }
        let able = |signer: &&Arc<Signer>| {
            let permits = signer.permits.as_ref().is_none_or(|permitted| permitted.permit_host(host));
            permits && signer.parsed.not_after() > now + LAST
        };
        Ok(Arc::clone(self.signers.iter().find(able).unwrap_or(newest)))
    }

    fn nothing(&self) -> TlsSettingsError {
        self.missing.clone().unwrap_or_else(|| TlsSettingsError("the listener has no CA".to_owned()))
    }

    /// What programs must trust. An own authority comes with those above it.
    pub fn bundle(&self) -> Bundle {
        Bundle(self.signers.iter().flat_map(|signer| &signer.chain).cloned().collect())
    }

    /// The newest of the authority's own certificates.
    pub fn newest_certificate(&self) -> Option<&Certificate> {
        self.newest().map(|newest| &newest.parsed)
    }

    /// Whether bearerd made it.
    pub fn is_ephemeral(&self) -> bool {
        self.newest_permits().is_some()
    }
}

/// The oldest one that signs for none of the hosts any more. If each does, the one after the oldest: programs that know it know the
/// oldest too, so they lose only the hosts that it was made for.
fn least_needed(signers: &[Arc<Signer>], hosts: &Hosts) -> usize {
    signers.iter().position(|signer| !signer.permits_any(hosts)).unwrap_or(1)
}

fn warn_of_given_up(signer: &Signer, hosts: &Hosts) {
    if !signer.permits_any(hosts) {
        return;
    }
    let at = rfc3339(signer.parsed.not_before() + EARLIER);
    tracing::warn!(
        event = "ca.given_up",
        made = at,
        "after {SIGNERS} reloads with new hosts, bearerd gives up the ephemeral CA that it made at {at}: start the programs again that \
         use a host that was new then; a wildcard in `host` of a route, or an own CA (forward.ca), needs no new CA for each host"
    );
}

impl std::fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateAuthority").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use rustls::{ClientConfig, RootCertStore};

    use super::signer::{HOUR, LEAF_LIFETIME};
    use super::*;
    use crate::clock::{Clock, ShiftedClock};
    use crate::config::Source;
    use crate::net::tls;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};

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

    fn roots<'a>(of: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        of.into_iter().for_each(|root| roots.add(root.clone()).unwrap());
        Arc::new(roots)
    }

    fn newest(authority: &CertificateAuthority) -> CertificateDer<'static> {
        authority.bundle().0.pop().unwrap()
    }

    fn server_name(host: &str) -> ServerName<'static> {
        ServerName::try_from(host.to_owned()).unwrap()
    }

    /// The chain that a caller gets who trusts the authority.
    async fn chain(authority: &CertificateAuthority, host: &str) -> Vec<CertificateDer<'static>> {
        let config = authority.server_config(host).await.unwrap();
        let roots = roots(&authority.bundle().0);
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
            assert!(error.to_string().contains("no route of the listener names the host"), "{host}: {error}");
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
                    let leaf = authority.signers[0].sign(host, now - HOUR, now + HOUR).unwrap();
                    let verdict = tls::is_trusted(&[newest(&authority)], &leaf, host, now);
                    assert_eq!(verdict, is_fine, "{of:?} {host}");
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
        assert!(error.to_string().contains("expired at"), "{error}");
    }

    fn own(params: CertificateParams, key: &KeyPair) -> CaConfig {
        let certificate = Bundle(vec![params.self_signed(key).unwrap().into()]).pem();
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

    #[tokio::test]
    async fn an_ephemeral_authority_stays_while_it_permits_the_hosts_and_has_successors() {
        let clock = Arc::new(ShiftedClock::default());
        let shared: SharedClock = Arc::clone(&clock) as _;
        let first = hosts(&["*.a.example", "10.1.2.3"]);
        let authority = CertificateAuthority::with_clock(&CaConfig::Ephemeral, &first, shared).unwrap();
        let old = newest(&authority);
        let same = authority.after(&CaConfig::Ephemeral, &hosts(&["x.a.example", "10.1.2.3"])).unwrap();
        assert_eq!(newest(&same), old);
        assert!(same.server_config("y.a.example").await.is_err(), "no route names it any more");

        let more = same.after(&CaConfig::Ephemeral, &hosts(&["x.a.example", "b.example"])).unwrap();
        assert_eq!((more.bundle().0.len(), more.bundle().0.first()), (2, Some(&old)));
        let signer = |host: &str| more.signer_for(host, clock.wall()).unwrap();
        assert!(
            Arc::ptr_eq(&signer("x.a.example"), &more.signers[0]),
            "programs that know only the old one go on"
        );
        assert!(Arc::ptr_eq(&signer("b.example"), &more.signers[1]));

        assert!(authority.renewed().is_none());
        clock.advance(CA_LIFETIME / 2);
        let renewed = authority.renewed().unwrap().unwrap();
        assert_eq!(renewed.bundle().0.len(), 2);
        assert!(renewed.renewed().is_none());
        let signer = || renewed.signer_for("x.a.example", clock.wall()).unwrap();
        assert!(Arc::ptr_eq(&signer(), &renewed.signers[0]));
        clock.advance(CA_LIFETIME / 2 - LAST);
        assert!(Arc::ptr_eq(&signer(), &renewed.signers[1]));
        clock.advance(LAST);
        assert_eq!(renewed.renewed().unwrap().unwrap().bundle().0.len(), 2, "the first has expired");
    }

    #[tokio::test]
    async fn programs_that_know_the_oldest_authority_go_on_however_many_reloads_add_hosts() {
        let mut names = vec!["old.example".to_owned()];
        let pattern = |names: &[String]| hosts(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let mut authority = ephemeral_for(&["old.example"]);
        let oldest = newest(&authority);
        for n in 1..SIGNERS + 5 {
            names.push(format!("h{n}.example"));
            authority = authority.after(&CaConfig::Ephemeral, &pattern(&names)).unwrap();
            assert_eq!(authority.bundle().0[0], oldest, "after {n} reloads");
            assert_eq!(authority.signers.len(), (n + 1).min(SIGNERS));
        }
        // Each signs for the host that it was made for, if it is still there.
        let signer = |host: &str| authority.signer_for(host, SystemClock.wall()).unwrap();
        assert!(Arc::ptr_eq(&signer("old.example"), &authority.signers[0]));
        for (at, kept) in authority.signers.iter().enumerate().skip(1) {
            assert!(Arc::ptr_eq(&signer(&format!("h{}.example", at + 5)), kept), "{at}");
        }
        // One that no route needs goes first.
        let left = ["h20.example", "h21.example", "new.example"].map(str::to_owned);
        let fewer = authority.after(&CaConfig::Ephemeral, &pattern(&left)).unwrap();
        assert_ne!(fewer.bundle().0[0], oldest);
        assert!(fewer.bundle().0.contains(&authority.signers[20 - 5].chain[0]));
    }

    #[test]
    fn constraints_of_an_own_authority_are_checked_with_the_routes_hosts() {
        let key = KeyPair::generate().unwrap();
        let mut params = ca_params();
        params.name_constraints = Some(Hosts::of(&hosts(&["*.a.example"])).constraints());
        let config = own(params, &key);
        assert!(CertificateAuthority::new(&config, &hosts(&["x.a.example", "*.y.a.example"])).is_ok());
        for host in ["b.example", "*.b.example", "10.1.2.3"] {
            let error = CertificateAuthority::new(&config, &hosts(&[host])).map(drop).unwrap_err();
            let expected = format!("do not permit {}", host.replace('*', "any"));
            assert!(error.0.contains(&expected), "{error}");
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
