//! Which certificate authorities are trusted.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use arc_swap::ArcSwapOption;
use rustls::RootCertStore;

use super::file_state::FileState;
use super::pem;
use super::tls::TlsSettingsError;
use crate::config::{self, Roots, Source, TlsOptions, files};

/// All connectors share one reading, which takes milliseconds and half a megabyte, until the files change.
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

/// The files and folders beside `tls.ca` that the roots come from.
pub(super) fn files(options: &TlsOptions) -> Vec<PathBuf> {
    match (options.roots, &options.ca) {
        (Roots::System, _) | (Roots::Both, _) => system_files(),
        (Roots::Ca | Roots::Bundled, _) => Vec::new(),
    }
}

/// Where rustls-native-certs looks too.
fn system_files() -> Vec<PathBuf> {
    let named = config::root_paths();
    if !named.is_empty() {
        return named;
    }
    let found = openssl_probe::probe();
    found.cert_file.into_iter().chain(found.cert_dir).collect()
}

fn bundled() -> RootCertStore {
    webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()
}

/// `store` and every certificate of `ca`.
pub(super) fn with(
    mut store: RootCertStore,
    ca: &Source,
    key: &str,
) -> Result<Arc<RootCertStore>, TlsSettingsError> {
    let certificates = pem::certificates(ca, key)?;
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

/// The system's roots; `SSL_CERT_FILE` and `SSL_CERT_DIR` go before.
fn system() -> Result<Arc<RootCertStore>, TlsSettingsError> {
    let files = FileState::of_all(system_files());
    if let Some(known) = SYSTEM_ROOTS.load_full()
        && known.files == files
    {
        return Ok(Arc::clone(&known.store));
    }
    system_files().iter().try_for_each(|path| readable(path))?;
    let read = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(read.certs);
    if added == 0 {
        return Err(no_system_roots(read.errors.first()));
    }
    let store = Arc::new(store);
    SYSTEM_ROOTS.store(Some(Arc::new(SystemRoots { files, store: Arc::clone(&store) })));
    Ok(store)
}

/// rustls-native-certs opens whatever it is told to, and reads it to its end.
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
