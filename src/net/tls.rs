//! The only file that builds rustls configs.

use std::fmt;
use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwapOption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, InconsistentKeys, RootCertStore, ServerConfig};
use tokio::sync::Semaphore;

use super::connect::Offer;
use super::file_state::FileState;
use super::{explain, pem, roots};
use crate::aside::{Aside, AsideError};
use crate::config::{ListenerTls, Source, TlsOptions};

/// What is wrong with a CA, certificate or key: names the place and the fix, never the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettingsError(pub String);

impl fmt::Display for TlsSettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsSettingsError {}

/// Given to every builder, so that no process-wide default is needed.
static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));

/// Reads the files that `options` name and builds a client config: TLS 1.2 and 1.3, ALPN by `offer`, session
/// resumption on. Blocks for some milliseconds where the system's roots are read.
pub fn client_config(options: &TlsOptions, offer: Offer) -> Result<Arc<ClientConfig>, TlsSettingsError> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsSettingsError(error.to_string()))?
        .with_root_certificates(roots::store(options)?);
    let mut config = match (&options.certificate, &options.private_key) {
        (None, None) => builder.with_no_client_auth(),
        (None, Some(_)) => {
            return Err(TlsSettingsError("tls.private_key needs tls.certificate beside it".to_owned()));
        }
        (Some(certificate), key) => {
            // Many tools write both into one file.
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
    };
    Ok(Arc::new(config))
}

/// Why a CA, certificate or key that `options` name is there and cannot be used. What cannot be read is no concern here.
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

/// ALPN offers `h2` and `http/1.1`; with `client_ca` a client certificate is required.
pub fn server_config(tls: &ListenerTls) -> Result<Arc<ServerConfig>, TlsSettingsError> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsSettingsError(error.to_string()))?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => builder.with_client_cert_verifier(client_verifier(ca)?),
    };
    let (chain, key) = identity(&tls.certificate, &tls.private_key)?;
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| unusable_identity(&error, &tls.certificate, &tls.private_key))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// For a listener whose certificate or key is not there yet: every handshake ends with an alert.
pub fn closed_server_config() -> Result<Arc<ServerConfig>, TlsSettingsError> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsSettingsError(error.to_string()))?;
    Ok(Arc::new(builder.with_no_client_auth().with_cert_resolver(Arc::new(NoCertificate))))
}

#[derive(Debug)]
struct NoCertificate;

impl ResolvesServerCert for NoCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

fn client_verifier(ca: &Source) -> Result<Arc<dyn ClientCertVerifier>, TlsSettingsError> {
    let roots = roots::with(RootCertStore::empty(), ca, "tls.client_ca")?;
    WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&PROVIDER))
        .build()
        .map_err(|error| TlsSettingsError(format!("tls.client_ca: {}: {error}", ca.place())))
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(certificate: &Source, key: &Source) -> Result<Identity, TlsSettingsError> {
    Ok((pem::certificates(certificate, "tls.certificate")?, pem::private_key(key, "tls.private_key")?))
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

/// Threads on which files are read and configs built.
static BUILDING: Aside = Aside::new("tls", 8);

/// Why there is no client config.
#[derive(Debug)]
pub(super) enum NoTls {
    Settings(TlsSettingsError),
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

/// A client config that is built at its first use, off the start path, and again when a file it came from changes.
pub(super) struct ClientTls {
    options: TlsOptions,
    offer: Offer,
    built: ArcSwapOption<Built>,
    /// One build at a time: at the first burst of connections the others wait for it.
    building: Semaphore,
}

struct Built {
    config: Arc<ClientConfig>,
    /// The state of the files at the last attempt to build, successful or not.
    files: Vec<FileState>,
}

impl ClientTls {
    pub(super) fn new(options: TlsOptions, offer: Offer) -> Self {
        Self { options, offer, built: ArcSwapOption::empty(), building: Semaphore::new(1) }
    }

    /// `tls.server_name`, else `host`.
    pub(super) fn server_name<'a>(&'a self, host: &'a str) -> &'a str {
        self.options.server_name.as_deref().unwrap_or(host)
    }

    /// After an error, the next request tries again; a config that worked serves on while its files are broken.
    pub(super) async fn config(&self) -> Result<Arc<ClientConfig>, NoTls> {
        if let Some(config) = self.current() {
            return Ok(config);
        }
        // The semaphore is never closed, so this is a permit.
        let _permit = self.building.acquire().await;
        if let Some(config) = self.current() {
            return Ok(config);
        }
        let files = self.files();
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
        self.built.store(Some(Arc::new(Built { config: Arc::clone(&config), files })));
        Ok(config)
    }

    fn current(&self) -> Option<Arc<ClientConfig>> {
        let built = self.built.load();
        let built = built.as_ref()?;
        (built.files == self.files()).then(|| Arc::clone(&built.config))
    }

    fn files(&self) -> Vec<FileState> {
        let named = [&self.options.ca, &self.options.certificate, &self.options.private_key];
        let named = named.into_iter().filter_map(|source| Some(source.as_ref()?.path()?.to_owned()));
        FileState::of_all(named.chain(roots::files(&self.options)))
    }
}
