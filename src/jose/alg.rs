//! Names of signature algorithms (RFC 7518 section 3.1, RFC 8037, RFC 9864).

use std::fmt;
use std::str::FromStr;

/// A signature algorithm, as `alg` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alg {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    /// Ed25519 keys, under the older name.
    EdDsa,
    /// The same under RFC 9864's name.
    Ed25519,
}

const NAMES: [(&str, Alg); 14] = [
    ("HS256", Alg::Hs256),
    ("HS384", Alg::Hs384),
    ("HS512", Alg::Hs512),
    ("RS256", Alg::Rs256),
    ("RS384", Alg::Rs384),
    ("RS512", Alg::Rs512),
    ("PS256", Alg::Ps256),
    ("PS384", Alg::Ps384),
    ("PS512", Alg::Ps512),
    ("ES256", Alg::Es256),
    ("ES384", Alg::Es384),
    ("ES512", Alg::Es512),
    ("EdDSA", Alg::EdDsa),
    ("Ed25519", Alg::Ed25519),
];

impl Alg {
    /// Every name, in the order of this module.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, _)| *name)
    }

    pub fn as_str(self) -> &'static str {
        NAMES.iter().find(|(_, alg)| *alg == self).map_or("none", |(name, _)| name)
    }

    /// Signs with a shared secret (HMAC) and not with a key pair.
    pub fn is_symmetric(self) -> bool {
        matches!(self, Self::Hs256 | Self::Hs384 | Self::Hs512)
    }
}

/// The text names no algorithm that is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownAlg;

impl FromStr for Alg {
    type Err = UnknownAlg;

    fn from_str(text: &str) -> Result<Self, UnknownAlg> {
        NAMES.iter().find(|(name, _)| *name == text).map(|(_, alg)| *alg).ok_or(UnknownAlg)
    }
}

impl fmt::Display for Alg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways_and_case_counts() {
        for name in Alg::names() {
            assert_eq!(name.parse::<Alg>().unwrap().as_str(), name);
        }
        assert_eq!("rs256".parse::<Alg>(), Err(UnknownAlg));
        assert_eq!("none".parse::<Alg>(), Err(UnknownAlg));
    }
}
