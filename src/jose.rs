//! Signed JSON Web Tokens (RFC 7515, 7519), the keys that sign them, and DPoP proofs (RFC 9449).

mod asn1;
mod certificate;
pub mod device;
pub mod dpop;
mod jws;
mod key;
mod pair;
mod pem;
mod pkcs12;

pub use certificate::Certificate;
pub use device::{DeviceKey, KeyUri, UriPin};
pub use dpop::{Proof, Prover};
pub use jws::{Alg, Header, Signer, sign, unique_id};
pub use key::{Identity, KeyError, PrivateKey};

/// Test keys in every format, and verification by code other than that which signs.
#[cfg(test)]
#[path = "../tests/it/support/jwt.rs"]
#[allow(unreachable_pub, clippy::disallowed_methods, reason = "shared with the front-door tests")]
mod other;
