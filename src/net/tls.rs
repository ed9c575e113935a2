//! The only file that builds rustls configs: trusted roots, certificates, and keys, and rebuilding them when their files
//! change. Certificates and keys may have every form that `jose` reads, with the same error messages.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{fmt, io};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, ParsedCertificate, ResolvesServerCert, StoresServerSessions, WebPkiClientVerifier,
};
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, DistinguishedName,
    InconsistentKeys, OtherError, RootCertStore, ServerConfig, SignatureScheme, WantsVerifier,
};
use tokio::sync::Semaphore;

use super::connect::Offer;
use super::explain;
use crate::aside::{Aside, AsideError};
use crate::config::{self, ListenerTls, Roots, Source, TlsOptions, files};
use crate::jose::{Certificate, KeyError, PrivateKey};
use crate::secret::Secret;
use crate::workload_api::{self, SpiffeId};

/// What is wrong with a CA, certificate, or key. It names the place and the fix, never the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettingsError(pub String);

impl fmt::Display for TlsSettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsSettingsError {}

/// The crypto provider for every builder, so that no process-wide default is needed.
static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));

/// Reads the files that `options` name and builds a client config with TLS 1.2 and 1.3, ALPN by `offer`, and session
/// resumption. Blocks for some milliseconds if it reads the system's roots.
pub fn client_config(options: &TlsOptions, offer: Offer) -> Result<Arc<ClientConfig>, TlsSettingsError> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsSettingsError(error.to_string()))?;
    let roots = store(options)?;
    let builder = match &options.spiffe_id {
        None => builder.with_root_certificates(roots),
        Some(id) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(SpiffeServer { id: id.clone(), roots })),
    };
    let mut config = match (&options.certificate, &options.private_key) {
        (None, None) => builder.with_no_client_auth(),
        (None, Some(_)) => {
            return Err(TlsSettingsError("tls.private_key needs tls.certificate beside it".to_owned()));
        }
        (Some(certificate), key) => {
            // Many tools write certificate and key into one file.
            let key = key.as_ref().unwrap_or(certificate);
            let (chain, private_key) = identity(certificate, key)?;
            builder
                .with_client_auth_cert(chain, private_key)
                .map_err(|error| unusable_identity(&error, certificate, key))?
        }
    };
    config.alpn_protocols = match offer {
        Offer::Http1 => vec![b"http/1.1".to_vec()],
        Offer::Http2 => vec![b"h2".to_vec()],
        Offer::Both => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        Offer::Nothing => Vec::new(),
    };
    Ok(Arc::new(config))
}

/// A server that is verified by its SPIFFE ID, and not by a name of DNS.
#[derive(Debug)]
struct SpiffeServer {
    id: SpiffeId,
    roots: Arc<RootCertStore>,
}

impl ServerCertVerifier for SpiffeServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = PROVIDER.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        match workload_api::id_of(end_entity) {
            Ok(id) if id == self.id => Ok(ServerCertVerified::assertion()),
            found => Err(another_id(self.id.to_string(), found)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &PROVIDER.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &PROVIDER.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}

/// Callers that must have an identity of a trust domain. That one of its authorities signed the certificate is not enough,
/// because an authority may also sign for others.
#[derive(Debug)]
struct SpiffeCallers {
    trust_domain: String,
    chain: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for SpiffeCallers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        match workload_api::id_of(end_entity) {
            Ok(id) if id.trust_domain_name() == self.trust_domain => Ok(verified),
            found => Err(another_id(format!("spiffe://{}/…", self.trust_domain), found)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// The peer's certificate is good, but of another program.
#[derive(Debug)]
pub(super) struct AnotherSpiffeId {
    wanted: String,
    /// `Err`: it has none.
    found: Result<SpiffeId, String>,
}

impl fmt::Display for AnotherSpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.found {
            Ok(found) => write!(f, "it is for {found}, not for {}", self.wanted),
            Err(why) => write!(f, "it is not for {}: {why}", self.wanted),
        }
    }
}

impl std::error::Error for AnotherSpiffeId {}

fn another_id(wanted: String, found: Result<SpiffeId, String>) -> rustls::Error {
    let error = OtherError(Arc::new(AnotherSpiffeId { wanted, found }));
    rustls::Error::InvalidCertificate(CertificateError::Other(error))
}

/// Why a CA, certificate, or key of `options` cannot be used although it can be read.
pub fn unusable(options: &TlsOptions) -> Option<TlsSettingsError> {
    let named = [&options.ca, &options.certificate, &options.private_key];
    let named: Vec<&Source> = named.into_iter().flatten().collect();
    let there =
        |source: &&Source| source.read().is_ok() && source.password().is_none_or(|it| it.read().is_ok());
    if named.is_empty() || !named.iter().all(there) {
        return None;
    }
    client_config(options, Offer::Both).err()
}

/// Builds a server config. ALPN offers `h2` and `http/1.1`. With `client_ca`, clients must have a certificate.
pub fn server_config(tls: &ListenerTls) -> Result<Arc<ServerConfig>, TlsSettingsError> {
    let builder = server_builder()?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => builder.with_client_cert_verifier(client_verifier(ca)?),
    };
    let (chain, key) = identity(&tls.certificate, &tls.private_key)?;
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| unusable_identity(&error, &tls.certificate, &tls.private_key))?;
    config.alpn_protocols = served_protocols();
    Ok(Arc::new(config))
}

/// A server config with this certificate, for every host that a caller asks for. ALPN offers `h2` and `http/1.1`.
pub(super) fn with_certificate(
    chain: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
    sessions: Arc<dyn StoresServerSessions>,
) -> Result<Arc<ServerConfig>, TlsSettingsError> {
    let resolver = Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key)));
    let mut config = server_builder()?.with_no_client_auth().with_cert_resolver(resolver);
    config.alpn_protocols = served_protocols();
    config.session_storage = sessions;
    Ok(Arc::new(config))
}

/// What ALPN offers. Callers that name only HTTP/1.0, as `curl --http1.0` does, get it too.
fn served_protocols() -> Vec<Vec<u8>> {
    [&b"h2"[..], b"http/1.1", b"http/1.0"].map(<[u8]>::to_vec).into()
}

/// Whether a program that trusts the last one of `chain` accepts `leaf`, which the first one signed, for this host.
pub(super) fn is_trusted(
    chain: &[CertificateDer<'static>],
    leaf: &CertificateDer<'_>,
    host: &str,
    now: SystemTime,
) -> bool {
    let Some((root, between)) = chain.split_last() else { return false };
    let mut roots = RootCertStore::empty();
    if roots.add(root.clone()).is_err() {
        return false;
    }
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&PROVIDER)).build();
    let (Ok(verifier), Ok(name)) = (verifier, ServerName::try_from(host)) else { return false };
    let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
    verifier.verify_server_cert(leaf, between, &name, &[], now).is_ok()
}

/// The certificates of the system's roots. `SSL_CERT_FILE` and `SSL_CERT_DIR` replace them.
pub(super) fn system_certificates() -> Result<Vec<CertificateDer<'static>>, TlsSettingsError> {
    config::system_roots().iter().try_for_each(|path| readable(path))?;
    let read = rustls_native_certs::load_native_certs();
    if read.certs.is_empty() { Err(no_system_roots(read.errors.first())) } else { Ok(read.certs) }
}

/// The certificates of a PEM file, or of the files in a folder. Anything that is not a certificate is skipped, as the
/// programs that use these files do.
pub(super) fn certificates_at(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let read = |path: &Path| {
        let found = files::read(path, files::LARGEST_CONFIG)?;
        Ok(CertificateDer::pem_slice_iter(&found.bytes).flatten().collect())
    };
    if !files::state(path)?.is_dir() {
        return read(path);
    }
    let names = files::names(path)?;
    Ok(names.iter().filter_map(|name| read(&path.join(name)).ok()).flatten().collect())
}

fn server_builder() -> Result<ConfigBuilder<ServerConfig, WantsVerifier>, TlsSettingsError> {
    ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsSettingsError(error.to_string()))
}

/// A server config for a listener whose certificate or key is missing: it refuses every handshake with an alert.
pub fn closed_server_config() -> Result<Arc<ServerConfig>, TlsSettingsError> {
    Ok(Arc::new(server_builder()?.with_no_client_auth().with_cert_resolver(Arc::new(NoCertificate))))
}

#[derive(Debug)]
struct NoCertificate;

impl ResolvesServerCert for NoCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

fn client_verifier(ca: &Source) -> Result<Arc<dyn ClientCertVerifier>, TlsSettingsError> {
    // First, because without it any certificate of these authorities would do.
    let trust_domain = ca
        .trust_domain()
        .transpose()
        .map_err(|why| TlsSettingsError(format!("tls.client_ca: {}: {why}", ca.place())))?;
    let roots = with(RootCertStore::empty(), ca, "tls.client_ca")?;
    let chain = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&PROVIDER))
        .build()
        .map_err(|error| TlsSettingsError(format!("tls.client_ca: {}: {error}", ca.place())))?;
    match trust_domain {
        Some(trust_domain) => Ok(Arc::new(SpiffeCallers { trust_domain, chain })),
        None => Ok(chain),
    }
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(certificate: &Source, key: &Source) -> Result<Identity, TlsSettingsError> {
    if certificate != key {
        return Ok((certificates(certificate, "tls.certificate")?, private_key(key, "tls.private_key")?));
    }
    // Read once, because a new pair may come between two reads.
    let (bytes, password) =
        (read(certificate, "tls.certificate")?, password(certificate, "tls.certificate")?);
    let chain = Certificate::ders(bytes.expose(), password.as_deref());
    let chain = chain.map_err(told(certificate, "tls.certificate"))?;
    let key = pkcs8(&bytes, password.as_deref()).map_err(told(key, "tls.private_key"))?;
    Ok((chain.into_iter().map(CertificateDer::from).collect(), key))
}

fn unusable_identity(error: &rustls::Error, certificate: &Source, key: &Source) -> TlsSettingsError {
    let why = match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            "the key does not belong to the certificate (the first one in the file is the one that counts)"
                .to_owned()
        }
        rustls::Error::InvalidCertificate(error) => {
            format!("the certificate can't be used: {}", explain::distrust(error))
        }
        other => format!("certificate or key can't be used: {other}"),
    };
    TlsSettingsError(format!(
        "tls.certificate in {}, tls.private_key in {}: {why}",
        certificate.place(),
        key.place()
    ))
}

/// The threads that read files and build configs.
static BUILDING: Aside = Aside::new("tls", 8);

/// Why TLS cannot begin.
#[derive(Debug)]
pub enum NoTls {
    /// A file cannot be used.
    Settings(TlsSettingsError),
    /// The system refuses a thread.
    Machine(AsideError),
}

impl fmt::Display for NoTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(error) => error.fmt(f),
            Self::Machine(error) => error.fmt(f),
        }
    }
}

/// A client config that is built at its first use, and again when one of its files changes.
pub(super) struct ClientTls {
    options: TlsOptions,
    offer: Offer,
    built: ArcSwapOption<Built>,
    /// Allows one build at a time. At a first burst of connections, the others wait for it.
    building: Semaphore,
}

struct Built {
    config: Arc<ClientConfig>,
    /// The state of the files and of values that change by themselves, at the last attempt to build.
    inputs: (Vec<FileState>, Vec<u64>),
}

impl ClientTls {
    pub(super) fn new(options: TlsOptions, offer: Offer) -> Self {
        Self { options, offer, built: ArcSwapOption::empty(), building: Semaphore::new(1) }
    }

    /// `tls.server_name`, else `host`.
    pub(super) fn server_name<'a>(&'a self, host: &'a str) -> &'a str {
        self.options.server_name.as_deref().unwrap_or(host)
    }

    /// The current config. After an error, the next request tries again. A config that works stays in use while its files are
    /// broken.
    pub(super) async fn config(&self) -> Result<Arc<ClientConfig>, NoTls> {
        if let Some(config) = self.current() {
            return Ok(config);
        }
        // The semaphore is never closed, so this is a permit.
        let _permit = self.building.acquire().await;
        if let Some(config) = self.current() {
            return Ok(config);
        }
        let inputs = self.inputs();
        let (options, offer) = (self.options.clone(), self.offer);
        let built = BUILDING.run(move || client_config(&options, offer)).await;
        let result = built.map_err(NoTls::Machine).and_then(|built| built.map_err(NoTls::Settings));
        let config = match (result, self.built.load_full()) {
            (Ok(config), _) => config,
            (Err(error), None) => return Err(error),
            (Err(error), Some(last_good)) => {
                tracing::warn!(
                    event = "tls.stale_files_used", %error,
                    "changed TLS files can't be used; the last good ones serve on"
                );
                Arc::clone(&last_good.config)
            }
        };
        self.built.store(Some(Arc::new(Built { config: Arc::clone(&config), inputs })));
        Ok(config)
    }

    fn current(&self) -> Option<Arc<ClientConfig>> {
        let built = self.built.load();
        let built = built.as_ref()?;
        (built.inputs == self.inputs()).then(|| Arc::clone(&built.config))
    }

    fn inputs(&self) -> (Vec<FileState>, Vec<u64>) {
        let named = [&self.options.ca, &self.options.certificate, &self.options.private_key];
        let named = named.into_iter().flatten();
        let versions = named.clone().map(Source::version).collect();
        let paths = named.filter_map(|source| Some(source.path()?.to_owned()));
        (FileState::of_all(paths.chain(files(&self.options))), versions)
    }
}

/// The system's roots, which all connectors share until the files change. Reading them takes milliseconds and half a megabyte.
struct SystemRoots {
    files: Vec<FileState>,
    store: Arc<RootCertStore>,
}

static SYSTEM_ROOTS: ArcSwapOption<SystemRoots> = ArcSwapOption::const_empty();

/// The roots that `options` name.
pub(super) fn store(options: &TlsOptions) -> Result<Arc<RootCertStore>, TlsSettingsError> {
    match (options.roots, &options.ca) {
        (Roots::System, _) | (Roots::Both, None) => system(),
        (Roots::Ca, Some(ca)) => with(RootCertStore::empty(), ca, "tls.ca"),
        (Roots::Ca, None) => Err(TlsSettingsError(
            "tls.roots = \"ca\" needs tls.ca: the file with the CA certificate".to_owned(),
        )),
        (Roots::Both, Some(ca)) => with(system()?.as_ref().clone(), ca, "tls.ca"),
        (Roots::Bundled, None) => Ok(Arc::new(bundled())),
        (Roots::Bundled, Some(ca)) => with(bundled(), ca, "tls.ca"),
    }
}

/// The files and folders of roots besides `tls.ca`.
pub(super) fn files(options: &TlsOptions) -> Vec<PathBuf> {
    match options.roots {
        Roots::System | Roots::Both => config::system_roots(),
        Roots::Ca | Roots::Bundled => Vec::new(),
    }
}

fn bundled() -> RootCertStore {
    webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()
}

/// Adds every certificate of `ca` to `store`.
pub(super) fn with(
    mut store: RootCertStore,
    ca: &Source,
    key: &str,
) -> Result<Arc<RootCertStore>, TlsSettingsError> {
    let certificates = certificates(ca, key)?;
    let (added, ignored) = store.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(TlsSettingsError(format!("{key}: {} holds no valid X.509 certificate", ca.place())));
    }
    if ignored > 0 {
        tracing::warn!(
            event = "tls.certificates_skipped", key, place = %ca.place(), ignored,
            "certificates that are not valid X.509 were left out"
        );
    }
    Ok(Arc::new(store))
}

/// The system's roots. `SSL_CERT_FILE` and `SSL_CERT_DIR` replace them.
fn system() -> Result<Arc<RootCertStore>, TlsSettingsError> {
    let files = FileState::of_all(config::system_roots());
    if let Some(known) = SYSTEM_ROOTS.load_full()
        && known.files == files
    {
        return Ok(Arc::clone(&known.store));
    }
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(system_certificates()?);
    if added == 0 {
        return Err(no_system_roots(None));
    }
    let store = Arc::new(store);
    SYSTEM_ROOTS.store(Some(Arc::new(SystemRoots { files, store: Arc::clone(&store) })));
    Ok(store)
}

/// Checks the paths first, because rustls-native-certs opens any path and reads it to its end.
fn readable(path: &Path) -> Result<(), TlsSettingsError> {
    let refused = |why: &dyn fmt::Display| {
        let path = path.display();
        TlsSettingsError(format!(
            "the CA certificates of this machine in {path} cannot be read: {why}; SSL_CERT_FILE and SSL_CERT_DIR say \
             where they are"
        ))
    };
    match files::state(path) {
        Ok(found) if found.is_dir() || found.is_file() && found.len() <= files::LARGEST_CONFIG => Ok(()),
        Ok(found) if found.is_file() => {
            Err(refused(&format_args!("it is larger than {} MiB", files::LARGEST_CONFIG >> 20)))
        }
        Ok(_) => Err(refused(&"it is neither a regular file nor a folder")),
        // One of several; where none is there, that is told.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(refused(&error)),
    }
}

fn no_system_roots(error: Option<&rustls_native_certs::Error>) -> TlsSettingsError {
    let why = error.map(|error| format!(" ({error})")).unwrap_or_default();
    TlsSettingsError(format!(
        "no CA certificates were found on this machine{why}: install the package ca-certificates, point \
         SSL_CERT_FILE at a bundle, or set tls.roots = \"bundled\""
    ))
}

/// Every certificate in `source`, at least one. For PKCS#12 with a key, the chain of that key.
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
    pkcs8(&bytes, password.as_deref()).map_err(told(source, key))
}

fn pkcs8(bytes: &Secret, password: Option<&Secret>) -> Result<PrivateKeyDer<'static>, KeyError> {
    let found = PrivateKey::parse(bytes, password)?.pkcs8()?;
    Ok(PrivatePkcs8KeyDer::from(found.expose().to_vec()).into())
}

fn told(source: &Source, key: &str) -> impl Fn(KeyError) -> TlsSettingsError {
    move |why| TlsSettingsError(format!("{key}: {}: {why}", source.place()))
}

fn read(source: &Source, key: &str) -> Result<Arc<Secret>, TlsSettingsError> {
    source.read().map_err(|error| TlsSettingsError(format!("{key}: {error}")))
}

/// The password of `source`, if the config has one.
fn password(source: &Source, key: &str) -> Result<Option<Arc<Secret>>, TlsSettingsError> {
    source.password().map(|password| read(password, &format!("{key}.password"))).transpose()
}

/// The shortest interval between two scans of a folder, because every new connection checks it.
const LOOKED_THROUGH_EVERY: Duration = Duration::from_secs(1);

/// The last scans of folders.
static FOLDERS: LazyLock<ArcSwap<BTreeMap<PathBuf, (Instant, u64)>>> = LazyLock::new(ArcSwap::default);

/// The state of a file or folder, to notice that a file was written or replaced (also through symlinks, as Kubernetes does),
/// and that a folder has another, a missing, or a changed file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FileState(Option<[i64; 4]>, u64);

impl FileState {
    fn of_all(paths: impl IntoIterator<Item = impl AsRef<Path>>) -> Vec<Self> {
        paths.into_iter().map(|path| Self::of(path.as_ref())).collect()
    }

    fn of(path: &Path) -> Self {
        let Ok(found) = files::state(path) else { return Self(None, 0) };
        let times = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()];
        let more = if found.is_dir() { inside(path) } else { found.ino() ^ found.size().rotate_left(32) };
        Self(Some(times), more)
    }
}

fn inside(folder: &Path) -> u64 {
    let known = FOLDERS.load();
    if let Some((at, state)) = known.get(folder)
        && at.elapsed() < LOOKED_THROUGH_EVERY
    {
        return *state;
    }
    let state = files::folder_state(folder).unwrap_or_default();
    FOLDERS.rcu(|known| {
        let mut known = BTreeMap::clone(known);
        known.insert(folder.to_owned(), (Instant::now(), state));
        known
    });
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal<T: fmt::Debug>(result: Result<T, TlsSettingsError>) -> String {
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
        assert!(message.contains("it is not a key in a known form: PEM, DER, JWK"), "{message}");
        let der = Source::literal(Secret::new(vec![0x30, 0x82, 1, 2]));
        assert!(refusal(certificates(&der, "tls.certificate")).contains("DER or PKCS#12"));
    }

    fn fixture(name: &str) -> Source {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures/keys");
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
