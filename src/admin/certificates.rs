//! When the certificates that the config names end. Their files are read away from the thread that responds, and seldom:
//! a file system may hang, and a PKCS#12 file may ask for a lot of work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use crate::aside::Aside;
use crate::config::{Config, Source};
use crate::jose::Certificate;
use crate::metrics::CertificateExpiry;

/// A file that was replaced shows by then; a reload shows at once.
const KEPT: Duration = Duration::from_secs(300);

static READING: Aside = Aside::new("certificates", 4);

#[derive(Default)]
pub(super) struct Certificates {
    known: ArcSwapOption<Known>,
    reading: AtomicBool,
}

struct Known {
    at: Duration,
    config_version: u64,
    ends: Vec<CertificateExpiry>,
}

impl Certificates {
    /// What was found last; has it read again where it is old. `now` is by the clock that runs in suspend.
    pub(super) fn ends(
        self: &Arc<Self>,
        config: &Arc<Config>,
        version: u64,
        now: Duration,
    ) -> Vec<CertificateExpiry> {
        let known = self.known.load_full();
        let fresh = known
            .as_ref()
            .is_some_and(|known| known.config_version == version && now.saturating_sub(known.at) < KEPT);
        if !fresh {
            self.read(config, version, now);
        }
        known.map(|known| known.ends.clone()).unwrap_or_default()
    }

    fn read(self: &Arc<Self>, config: &Arc<Config>, version: u64, now: Duration) {
        if self.reading.swap(true, Ordering::AcqRel) {
            return;
        }
        let (reading, config) = (Reading(Arc::clone(self)), Arc::clone(config));
        // Without a thread what is known stays; it is tried again when somebody looks.
        let _ = READING.spawn(move || {
            let known = Known { at: now, config_version: version, ends: read(&config) };
            reading.0.known.store(Some(Arc::new(known)));
        });
    }
}

/// The next one may read, however this one ends.
struct Reading(Arc<Certificates>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.reading.store(false, Ordering::Release);
    }
}

/// Files that cannot be read, or hold no certificate, are left out: whoever uses them says so.
fn read(config: &Config) -> Vec<CertificateExpiry> {
    let mut ends = Vec::new();
    let mut add = |kind, name: &Arc<str>, key, source: Option<&Source>| {
        let at = source.and_then(end);
        ends.extend(at.map(|at| CertificateExpiry { kind, name: Arc::clone(name), key, at }));
    };
    for issuer in config.issuers.values() {
        let standby = issuer.standby.as_ref().and_then(|standby| standby.certificate.as_ref());
        // With `tls_client_auth` the same one stands in both places.
        let tls = issuer.tls.certificate.as_ref().filter(|tls| issuer.certificate.as_ref() != Some(*tls));
        // A PKCS#12 file may hold both; in a bare key's file no certificate is found.
        let (key, own) = match &issuer.certificate {
            Some(certificate) => ("certificate", Some(certificate)),
            None => ("private_key", issuer.private_key.as_ref()),
        };
        add("issuer", &issuer.name, key, own);
        add("issuer", &issuer.name, "standby.certificate", standby);
        add("issuer", &issuer.name, "tls.certificate", tls);
    }
    for route in &config.routes {
        add("route", &route.name, "tls.certificate", route.connection.tls.certificate.as_ref());
    }
    for listener in &config.listeners {
        let tls = listener.tls.as_ref().map(|tls| &tls.certificate);
        add("listener", &listener.name, "tls.certificate", tls);
    }
    ends
}

fn end(source: &Source) -> Option<std::time::SystemTime> {
    let (bytes, _) = source.read_or_last_good().ok()?;
    let password = source.password().map(Source::read_or_last_good).transpose().ok()?;
    let password = password.as_ref().map(|(password, _)| &**password);
    let chain = Certificate::parse_chain_with(bytes.expose(), password).ok()?;
    chain.first().map(Certificate::not_after)
}
