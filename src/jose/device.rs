//! Keys that stay in a device: PKCS#11. A key signs on a thread of its module, and its public half is read from the device.

#[cfg(feature = "pkcs11")]
mod module;
mod uri;

#[cfg(not(feature = "pkcs11"))]
use std::convert::Infallible;
use std::fmt;

pub use uri::{KeyUri, UriPin};

use super::pair::Curve;
use super::{Alg, KeyError};
use crate::secret::Secret;

/// Whether this program was built with it.
pub const SUPPORTED: bool = cfg!(feature = "pkcs11");

/// A key in a device, with a session that may use it.
pub struct DeviceKey {
    #[cfg(feature = "pkcs11")]
    key: module::OpenKey,
    #[cfg(not(feature = "pkcs11"))]
    key: Infallible,
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(crate::secret::MASK)
    }
}

/// The public half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Public {
    /// `None`: RSA.
    pub(super) curve: Option<Curve>,
    /// The `subjectPublicKey` of a certificate.
    pub(super) key: Vec<u8>,
}

#[cfg(feature = "pkcs11")]
impl DeviceKey {
    /// Finds the key and logs in. A PIN that the device refused is not tried again before [`retry_refused_pins`].
    ///
    /// # Errors
    /// The module, the token, or the key is not there, is not the only one, or cannot sign; or the PIN is refused.
    pub async fn open(uri: &KeyUri, pin: Option<&Secret>) -> Result<Self, KeyError> {
        Ok(Self { key: module::OpenKey::open(uri.clone(), pin.cloned()).await? })
    }

    pub(super) fn public(&self) -> &Public {
        &self.key.public
    }

    /// Another key has taken its place in the device.
    pub(super) fn is_replaced(&self) -> bool {
        self.key.is_replaced()
    }

    pub(super) async fn sign(&self, alg: Alg, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.key.sign(alg, message).await
    }
}

#[cfg(not(feature = "pkcs11"))]
impl DeviceKey {
    /// # Errors
    /// This program was built without it.
    pub async fn open(_: &KeyUri, _: Option<&Secret>) -> Result<Self, KeyError> {
        Err(KeyError("this program was built without the feature `pkcs11`".to_owned()))
    }

    pub(super) fn public(&self) -> &Public {
        match self.key {}
    }

    pub(super) fn is_replaced(&self) -> bool {
        match self.key {}
    }

    pub(super) async fn sign(&self, _: Alg, _: &[u8]) -> Result<Vec<u8>, KeyError> {
        match self.key {}
    }
}

/// Lets PINs that were refused be tried once more: an operator says that something changed.
pub fn retry_refused_pins() {
    #[cfg(feature = "pkcs11")]
    module::retry_refused_pins();
}
