//! One token request: discovery, client authentication, the request, the answer. No cache and no retry here.

pub mod error;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub use error::{FailureKind, IssuerError};

use crate::clock::SharedClock;
use crate::config::{CredentialKey, IssuerConfig};
use crate::secret::Secret;

/// An authorization server that tokens are asked of.
pub struct Issuer {}

/// What the issuer granted. A usable token: 1 byte to 16 KiB of 0x21–0x7E, of an accepted type.
#[derive(Debug)]
pub struct Grant {
    pub token: Secret,
    /// `expires_in`, clamped to 1 s ..= 24 h; `None`: missing or unreadable, `default_lifetime` applies.
    pub expires_in: Option<Duration>,
    /// `expires_at`, where the answer has one.
    pub expires_at: Option<SystemTime>,
    /// The scopes granted, where the answer names them.
    pub scope: Option<String>,
}

impl Issuer {
    pub fn new(config: Arc<IssuerConfig>, clock: SharedClock) -> Self {
        let _ = (config, clock);
        todo!("issuer helper")
    }

    pub fn config(&self) -> &Arc<IssuerConfig> {
        todo!("issuer helper")
    }

    /// Asks for one token with the key's scopes and parameters. Ends within the issuer's `timeout`.
    pub async fn fetch(&self, key: &CredentialKey) -> Result<Grant, IssuerError> {
        let _ = key;
        todo!("issuer helper")
    }

    /// A digest over what the client's credential reads as now (id, secret): another value means that a refused
    /// client may be asked again at once. Unreadable sources count as a value of their own.
    pub fn credential_fingerprint(&self) -> [u8; 32] {
        todo!("issuer helper")
    }
}
