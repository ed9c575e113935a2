//! What a slot needs of its issuer: the seam at which tests put a scripted one.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::config::CredentialKey;
use crate::issuer::{Grant, Issuer, IssuerError};
use crate::metrics::IssuerMetrics;
use crate::trace::{Tracer, TracerCell};

pub(super) type Fetching<'a> = Pin<Box<dyn Future<Output = Result<Grant, IssuerError>> + Send + 'a>>;

pub(super) trait TokenSource: Send + Sync + 'static {
    /// One token request, ending within the issuer's timeout. Dropping it ends it.
    fn fetch<'a>(&'a self, key: &'a CredentialKey) -> Fetching<'a>;
    /// See [`Issuer::credential_fingerprint`]. Reads files.
    fn credential_fingerprint(&self) -> [u8; 32];
    /// See [`Issuer::binding_fingerprint`]. Reads files.
    fn binding_fingerprint(&self, key: &CredentialKey) -> [u8; 32];
    /// See [`Issuer::standby_in_use`].
    fn standby_in_use(&self) -> bool;
    /// A token request ended.
    fn requested(&self, outcome: &'static str, took: Duration);
    /// A request began to wait.
    fn waiting(&self);
    /// A request waits no longer.
    fn waited(&self);
    /// Who records token requests now.
    fn tracer(&self) -> Option<Arc<Tracer>> {
        None
    }
}

/// A real issuer, and where it is counted.
pub(super) struct MeteredIssuer {
    pub(super) issuer: Issuer,
    pub(super) metrics: Arc<IssuerMetrics>,
    pub(super) tracers: Arc<TracerCell>,
}

impl TokenSource for MeteredIssuer {
    fn fetch<'a>(&'a self, key: &'a CredentialKey) -> Fetching<'a> {
        Box::pin(self.issuer.fetch(key))
    }

    fn credential_fingerprint(&self) -> [u8; 32] {
        self.issuer.credential_fingerprint()
    }

    fn binding_fingerprint(&self, key: &CredentialKey) -> [u8; 32] {
        self.issuer.binding_fingerprint(key)
    }

    fn standby_in_use(&self) -> bool {
        self.issuer.standby_in_use()
    }

    fn requested(&self, outcome: &'static str, took: Duration) {
        self.metrics.token_request(outcome, took);
    }

    fn waiting(&self) {
        self.metrics.waiting();
    }

    fn waited(&self) {
        self.metrics.waited();
    }
    fn tracer(&self) -> Option<Arc<Tracer>> {
        self.tracers.load_full()
    }
}
