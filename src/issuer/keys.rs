//! Keys and certificates, read from their sources and parsed once for each content.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;

use super::credential::{self, ClientCredential, Digest, WhichCredential};
use crate::config::{DpopConfig, IssuerConfig, Source};
use crate::jose::{Certificate, PrivateKey, Prover};
use crate::secret::Secret;

/// A signing key, and the certificate that belongs to it.
pub(super) struct KeyMaterial {
    pub(super) key: PrivateKey,
    /// Leaf first. Empty if no certificate is needed.
    pub(super) chain: Vec<Certificate>,
    /// The source of the chain, for messages.
    pub(super) chain_place: String,
}

/// The last good keys and certificates, which stay in use while a file is being written.
pub(super) struct KeyCache {
    issuer: Arc<str>,
    current: Cached<KeyMaterial>,
    standby: Cached<KeyMaterial>,
    dpop: Cached<Prover>,
    tls: Cached<Vec<Certificate>>,
}

impl KeyCache {
    pub(super) fn new(issuer: Arc<str>) -> Self {
        Self {
            issuer,
            current: Cached::default(),
            standby: Cached::default(),
            dpop: Cached::default(),
            tls: Cached::default(),
        }
    }

    /// The signing key of `client`, if it has one. `Err` says what is wrong with it and where it is.
    pub(super) fn signing(
        &self,
        config: &IssuerConfig,
        client: &ClientCredential<'_>,
    ) -> Result<Option<Arc<KeyMaterial>>, String> {
        let Some(source) = client.private_key else { return Ok(None) };
        let wants_chain = config.jwt.as_ref().is_some_and(|jwt| !jwt.certificate_headers.is_empty());
        let elsewhere = client.certificate_elsewhere().filter(|_| wants_chain);
        let files = KeyFiles::read(&self.issuer, source, elsewhere)
            .map_err(|(at, error)| format!("{}: {error}", client.key(at)))?;
        let cached = match client.which {
            WhichCredential::Current => &self.current,
            WhichCredential::Standby => &self.standby,
        };
        let make = || material(&files, client, wants_chain);
        cached.get(&self.issuer, files.digest(), make).map(Some)
    }

    /// The key for DPoP proofs.
    pub(super) fn prover(&self, dpop: &DpopConfig) -> Result<Arc<Prover>, String> {
        let files = KeyFiles::read(&self.issuer, &dpop.private_key, None)
            .map_err(|(_, error)| format!("dpop.private_key: {error}"))?;
        self.dpop.get(&self.issuer, files.digest(), || prover(&files, dpop))
    }

    /// As [`tls_chain`], parsed once.
    pub(super) fn tls_chain(&self, config: &IssuerConfig) -> Option<(Arc<Vec<Certificate>>, String)> {
        let file = TlsCertificate::read(config)?;
        let chain = self.tls.parsed(file.digest(), || file.chain().ok_or_else(String::new)).ok()?;
        Some((chain, file.place))
    }
}

/// The bytes of a key and, if needed, a certificate.
pub(super) struct KeyFiles<'a> {
    key: &'a Source,
    key_bytes: Arc<Secret>,
    password: Option<Arc<Secret>>,
    certificate: Option<(&'a Source, Chain)>,
}

/// The bytes of a certificate's file, and its password.
struct Chain {
    bytes: Arc<Secret>,
    password: Option<Arc<Secret>>,
}

impl<'a> KeyFiles<'a> {
    /// `Err` names the config key and the problem.
    pub(super) fn read(
        issuer: &str,
        key: &'a Source,
        certificate: Option<&'a Source>,
    ) -> Result<Self, (&'static str, String)> {
        let read = |at, source: &Source| match read(issuer, source) {
            Ok(value) => Ok(value),
            Err(error) => Err((at, error.to_string())),
        };
        let password = |at, source: &Source| source.password().map(|source| read(at, source)).transpose();
        Ok(Self {
            key,
            key_bytes: read("private_key", key)?,
            password: password("private_key", key)?,
            certificate: match certificate {
                None => None,
                Some(source) => {
                    let bytes = read("certificate", source)?;
                    Some((source, Chain { bytes, password: password("certificate", source)? }))
                }
            },
        })
    }

    fn digest(&self) -> Digest {
        let chain = self.certificate.as_ref().map(|(_, chain)| chain);
        let parts = [
            Some(&self.key_bytes),
            self.password.as_ref(),
            chain.map(|chain| &chain.bytes),
            chain.and_then(|chain| chain.password.as_ref()),
        ];
        credential::digest(parts.into_iter().map(|part| part.map(|secret| secret.expose())))
    }

    fn parse_key(&self) -> Result<PrivateKey, String> {
        let key = self.key.device_key().unwrap_or_else(|| {
            PrivateKey::parse(&self.key_bytes, self.password.as_deref()).map_err(|error| error.to_string())
        });
        key.map_err(|error| format!("{}: {error}", self.key.place()))
    }
}

/// The current value of a source, or its last good value with a warning.
pub(super) fn read(issuer: &str, source: &Source) -> Result<Arc<Secret>, crate::config::ReferenceError> {
    let (value, failed) = source.to_send()?;
    if let Some(failed) = failed {
        let (place, reason) = (failed.place, failed.reason);
        tracing::warn!(
            event = "issuer.stale_value_used",
            issuer,
            place,
            reason,
            "cannot read a value, so the last good one stays in use"
        );
    }
    Ok(value)
}

/// `Err` begins with the config key.
pub(super) fn material(
    files: &KeyFiles<'_>,
    client: &ClientCredential<'_>,
    wants_chain: bool,
) -> Result<KeyMaterial, String> {
    let key = files.parse_key().map_err(|error| format!("{}: {error}", client.key("private_key")))?;
    // The credential's own certificate goes first, then the one in the key's file, then an inherited one.
    let beside = key.certificates().to_vec();
    let (chain, chain_place) = match &files.certificate {
        _ if !wants_chain => (Vec::new(), String::new()),
        Some((source, files)) if client.certificate.is_some() || beside.is_empty() => {
            let at = client.key("certificate");
            let chain = Certificate::parse_chain_with(files.bytes.expose(), files.password.as_deref())
                .map_err(|error| format!("{at}: {}: {error}", source.place()))?;
            (chain, format!("{at} in {}", source.place()))
        }
        _ => (beside, format!("{} in {}", client.key("private_key"), files.key.place())),
    };
    if wants_chain {
        let Some(leaf) = chain.first() else {
            return Err(format!(
                "{}: is missing, and the file of private_key contains no certificate either; \
                 jwt.certificate_headers needs one",
                client.key("certificate")
            ));
        };
        if !leaf.is_of(&key) {
            return Err(format!(
                "{chain_place}: the certificate ({}) does not belong to {} in {}; \
                 use the certificate that was issued for this key, the leaf first",
                leaf.subject(),
                client.key("private_key"),
                files.key.place()
            ));
        }
    }
    Ok(KeyMaterial { key, chain, chain_place })
}

pub(super) fn prover(files: &KeyFiles<'_>, dpop: &DpopConfig) -> Result<Prover, String> {
    let key = files.parse_key().map_err(|error| format!("dpop.private_key: {error}"))?;
    Prover::new(key, dpop.alg).map_err(|error| format!("dpop: {error}"))
}

/// Says that the key for DPoP proofs also authenticates the client.
pub(super) fn shared_key(
    prover: &Prover,
    signing: Option<&PrivateKey>,
    leaf: Option<&Certificate>,
    client: &ClientCredential<'_>,
) -> Option<String> {
    let key = if signing.is_some_and(|key| key.thumbprint() == prover.thumbprint()) {
        client.key("private_key")
    } else if leaf.is_some_and(|leaf| prover.is_certified_by(leaf)) {
        "tls.certificate"
    } else {
        return None;
    };
    Some(DpopConfig::same_key(key))
}

/// The chain of the client's TLS certificate, if it can be read. TLS reports what is wrong with it.
pub(super) fn tls_chain(config: &IssuerConfig) -> Option<(Vec<Certificate>, String)> {
    let file = TlsCertificate::read(config)?;
    Some((file.chain()?, file.place))
}

/// The file of the client's TLS certificate.
struct TlsCertificate {
    bytes: Arc<Secret>,
    password: Option<Arc<Secret>>,
    place: String,
}

impl TlsCertificate {
    fn read(config: &IssuerConfig) -> Option<Self> {
        let source = config.tls.certificate.as_ref().or(config.tls.private_key.as_ref())?;
        let (bytes, _) = source.to_send().ok()?;
        let password = source.password().and_then(|password| Some(password.to_send().ok()?.0));
        Some(Self { bytes, password, place: source.place() })
    }

    fn digest(&self) -> Digest {
        let parts = [Some(&self.bytes), self.password.as_ref()];
        credential::digest(parts.into_iter().map(|part| part.map(|secret| secret.expose())))
    }

    fn chain(&self) -> Option<Vec<Certificate>> {
        let chain = Certificate::parse_chain_with(self.bytes.expose(), self.password.as_deref()).ok()?;
        (!chain.is_empty()).then_some(chain)
    }
}

/// A message if the leaf has expired.
pub(super) fn expired(chain: &[Certificate], place: &str, now: SystemTime) -> Option<String> {
    let leaf = chain.first()?;
    (leaf.not_after() <= now).then(|| {
        let at = crate::clock::rfc3339(leaf.not_after());
        format!("the certificate {} ({place}) expired on {at}: have a new one issued", leaf.subject())
    })
}

/// Parses each content once, good or bad, because a file may need a lot of work. The last good value stays in use.
struct Cached<T> {
    good: ArcSwapOption<(Digest, Arc<T>)>,
    bad: ArcSwapOption<(Digest, String)>,
}

impl<T> Default for Cached<T> {
    fn default() -> Self {
        Self { good: ArcSwapOption::empty(), bad: ArcSwapOption::empty() }
    }
}

impl<T> Cached<T> {
    fn get(
        &self,
        issuer: &str,
        digest: Digest,
        make: impl FnOnce() -> Result<T, String>,
    ) -> Result<Arc<T>, String> {
        match (self.parsed(digest, make), self.good.load_full()) {
            (Ok(value), _) => Ok(value),
            (Err(error), Some(held)) => {
                tracing::warn!(
                    event = "issuer.stale_key_used",
                    issuer,
                    error,
                    "a changed key cannot be used, so the last good one stays in use"
                );
                Ok(Arc::clone(&held.1))
            }
            (Err(error), None) => Err(error),
        }
    }

    /// The value of this content and no other.
    fn parsed(&self, digest: Digest, make: impl FnOnce() -> Result<T, String>) -> Result<Arc<T>, String> {
        if let Some((_, value)) = self.good.load_full().as_deref().filter(|(of, _)| *of == digest) {
            return Ok(Arc::clone(value));
        }
        if let Some((_, error)) = self.bad.load_full().as_deref().filter(|(of, _)| *of == digest) {
            return Err(error.clone());
        }
        match make() {
            Ok(value) => {
                let value = Arc::new(value);
                self.good.store(Some(Arc::new((digest, Arc::clone(&value)))));
                Ok(value)
            }
            Err(error) => {
                self.bad.store(Some(Arc::new((digest, error.clone()))));
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_content_is_parsed_once_and_the_last_good_one_stays_in_use() {
        let cached = Cached::default();
        let never = || -> Result<u8, String> { panic!("parsed again") };
        let bad = |why: &str| Err::<u8, _>(why.to_owned());
        assert_eq!(cached.get("corp", [1; 32], || bad("one")), Err("one".to_owned()));
        assert_eq!(cached.get("corp", [1; 32], never), Err("one".to_owned()));
        assert_eq!(cached.get("corp", [2; 32], || Ok(2)).as_deref(), Ok(&2));
        assert_eq!(cached.get("corp", [3; 32], || bad("three")).as_deref(), Ok(&2));
        assert_eq!(cached.get("corp", [3; 32], never).as_deref(), Ok(&2));
        assert_eq!(cached.get("corp", [2; 32], never).as_deref(), Ok(&2));
    }
}
