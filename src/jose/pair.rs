//! Key pairs, parsed by aws-lc-rs: their signatures and public keys.

use std::sync::Arc;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaEncoding};
use aws_lc_rs::{rsa, signature::RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::asn1::{INTEGER, Malformed, SEQUENCE, Tlv};
use super::{Alg, DeviceKey, KeyError};
use crate::secret::Secret;

/// Signatures of shorter keys can be forged, and aws-lc-rs accepts no shorter key.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

const IN_DEVICE: &str = "the key stays in its device";
const DAMAGED: &str = "the key is damaged: its parts do not fit together";

pub(super) enum Pair {
    Rsa {
        key: RsaKeyPair,
        /// The key's type is id-RSASSA-PSS (RFC 4055), which forbids the older padding.
        pss_only: bool,
    },
    Ec {
        key: EcdsaKeyPair,
        curve: Curve,
    },
    Ed25519(Ed25519KeyPair),
    Device(Arc<DeviceKey>),
}

/// What a key can do.
enum Kind {
    Rsa { pss_only: bool },
    Ec(Curve),
    Ed25519,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    pub(super) const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    /// The name in a JWK (RFC 7518 section 6.2.1.1).
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// The bytes of a coordinate and of the private number.
    pub(super) fn len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    fn alg(self) -> Alg {
        match self {
            Self::P256 => Alg::Es256,
            Self::P384 => Alg::Es384,
            Self::P521 => Alg::Es512,
        }
    }

    fn signing(self) -> &'static EcdsaSigningAlgorithm {
        match self {
            Self::P256 => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            Self::P384 => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
            Self::P521 => &signature::ECDSA_P521_SHA512_FIXED_SIGNING,
        }
    }
}

/// The numbers of an RSA key, big-endian without leading zeros.
pub(super) struct RsaNumbers<'a> {
    pub n: &'a [u8],
    pub e: &'a [u8],
    pub d: &'a [u8],
    pub p: &'a [u8],
    pub q: &'a [u8],
    pub dp: &'a [u8],
    pub dq: &'a [u8],
    pub qi: &'a [u8],
}

fn damaged<E>(_: E) -> KeyError {
    KeyError(DAMAGED.to_owned())
}

impl Pair {
    /// An `RSAPrivateKey` (RFC 8017 appendix A.1.2).
    pub(super) fn from_pkcs1(der: &[u8], pss_only: bool) -> Result<Self, KeyError> {
        check_rsa_size(modulus_of_private(der).map_err(damaged)?)?;
        let key = RsaKeyPair::from_der(der).map_err(damaged)?;
        Ok(Self::Rsa { key, pss_only })
    }

    pub(super) fn from_rsa_numbers(numbers: &RsaNumbers<'_>) -> Result<Self, KeyError> {
        check_rsa_size(numbers.n)?;
        let key = RsaKeyPair::from_components(&rsa::KeyPairComponents {
            public_key: rsa::PublicKeyComponents { n: numbers.n, e: numbers.e },
            d: numbers.d,
            p: numbers.p,
            q: numbers.q,
            dP: numbers.dp,
            dQ: numbers.dq,
            qInv: numbers.qi,
        })
        .map_err(damaged)?;
        Ok(Self::Rsa { key, pss_only: false })
    }

    /// An `ECPrivateKey` (RFC 5915) or a PKCS#8 key of this curve.
    pub(super) fn from_ec_der(curve: Curve, der: &[u8]) -> Result<Self, KeyError> {
        let key = EcdsaKeyPair::from_private_key_der(curve.signing(), der).map_err(damaged)?;
        Ok(Self::Ec { key, curve })
    }

    /// `point` is uncompressed (SEC 1 section 2.3.3).
    pub(super) fn from_ec_numbers(curve: Curve, private: &[u8], point: &[u8]) -> Result<Self, KeyError> {
        let key = EcdsaKeyPair::from_private_key_and_public_key(curve.signing(), private, point)
            .map_err(damaged)?;
        Ok(Self::Ec { key, curve })
    }

    pub(super) fn from_ed25519_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map(Self::Ed25519).map_err(damaged)
    }

    pub(super) fn from_ed25519_seed(seed: &[u8], public: &[u8]) -> Result<Self, KeyError> {
        Ed25519KeyPair::from_seed_and_public_key(seed, public).map(Self::Ed25519).map_err(damaged)
    }

    pub(super) fn in_device(key: &Arc<DeviceKey>) -> Result<Self, KeyError> {
        let public = key.public();
        if public.curve.is_none() {
            check_rsa_size(rsa_public(&public.key).map_err(damaged)?.0)?;
        }
        Ok(Self::Device(Arc::clone(key)))
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Rsa { pss_only, .. } => Kind::Rsa { pss_only: *pss_only },
            Self::Ec { curve, .. } => Kind::Ec(*curve),
            Self::Ed25519(_) => Kind::Ed25519,
            Self::Device(key) => key.public().curve.map_or(Kind::Rsa { pss_only: false }, Kind::Ec),
        }
    }

    pub(super) fn default_alg(&self) -> Alg {
        match self.kind() {
            Kind::Rsa { pss_only: false } => Alg::Rs256,
            Kind::Rsa { pss_only: true } => Alg::Ps256,
            Kind::Ec(curve) => curve.alg(),
            Kind::Ed25519 => Alg::EdDsa,
        }
    }

    pub(super) fn check_alg(&self, alg: Alg) -> Result<(), KeyError> {
        if alg.is_symmetric() {
            return Err(KeyError(format!("{alg} signs with a shared secret, not with a private key")));
        }
        let (kind, fitting): (String, &[Alg]) = match self.kind() {
            Kind::Rsa { pss_only: false } => (
                "RSA key".to_owned(),
                &[Alg::Rs256, Alg::Rs384, Alg::Rs512, Alg::Ps256, Alg::Ps384, Alg::Ps512],
            ),
            Kind::Rsa { pss_only: true } => ("RSA-PSS key".to_owned(), &[Alg::Ps256, Alg::Ps384, Alg::Ps512]),
            Kind::Ec(curve) => (format!("{} key", curve.name()), &[curve.alg()]),
            Kind::Ed25519 => ("Ed25519 key".to_owned(), &[Alg::EdDsa, Alg::Ed25519]),
        };
        if fitting.contains(&alg) {
            return Ok(());
        }
        let names: Vec<&str> = fitting.iter().map(|alg| alg.as_str()).collect();
        Err(KeyError(format!("{alg} does not fit this {kind}; use {}", names.join(", "))))
    }

    /// The signature of a key that is in memory, in the form of JWS: for ECDSA, both numbers at their full length (RFC 7518 section 3.4).
    pub(super) fn sign(&self, alg: Alg, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let failed = |_| KeyError(format!("signing with {alg} failed"));
        match self {
            Self::Rsa { key, .. } => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(rsa_padding(alg), &SystemRandom::new(), message, &mut signature).map_err(failed)?;
                Ok(signature)
            }
            Self::Ec { key, .. } => {
                key.sign(&SystemRandom::new(), message).map(|made| made.as_ref().to_vec()).map_err(failed)
            }
            Self::Ed25519(key) => key.try_sign(message).map(|made| made.as_ref().to_vec()).map_err(failed),
            Self::Device(_) => Err(KeyError(IN_DEVICE.to_owned())),
        }
    }

    /// The `subjectPublicKey` of a certificate: PKCS#1 for RSA, the uncompressed point for EC, the bare bytes for
    /// Ed25519.
    pub(super) fn public(&self) -> &[u8] {
        match self {
            Self::Rsa { key, .. } => key.public_key().as_ref(),
            Self::Ec { key, .. } => key.public_key().as_ref(),
            Self::Ed25519(key) => key.public_key().as_ref(),
            Self::Device(key) => &key.public().key,
        }
    }

    /// The required members alone, in the order of a thumbprint (RFC 7638 section 3.2).
    pub(super) fn public_jwk(&self) -> Result<Map<String, Value>, KeyError> {
        let public = self.public();
        let members: Vec<(&str, String)> = match self.kind() {
            Kind::Rsa { .. } => {
                let (n, e) = rsa_public(public).map_err(damaged)?;
                vec![("e", encode(e)), ("kty", "RSA".to_owned()), ("n", encode(n))]
            }
            Kind::Ec(curve) => {
                let (x, y) = public
                    .strip_prefix(&[4])
                    .and_then(|point| point.split_at_checked(curve.len()))
                    .ok_or(Malformed)
                    .map_err(damaged)?;
                vec![
                    ("crv", curve.name().to_owned()),
                    ("kty", "EC".to_owned()),
                    ("x", encode(x)),
                    ("y", encode(y)),
                ]
            }
            Kind::Ed25519 => {
                vec![("crv", "Ed25519".to_owned()), ("kty", "OKP".to_owned()), ("x", encode(public))]
            }
        };
        Ok(members.into_iter().map(|(name, value)| (name.to_owned(), Value::String(value))).collect())
    }

    pub(super) fn pkcs8(&self) -> Result<Secret, KeyError> {
        let failed = |_| KeyError("the key cannot be written as PKCS#8".to_owned());
        match self {
            Self::Rsa { key, .. } => key.as_der().map(|der| Secret::new(der.as_ref())).map_err(failed),
            Self::Ec { key, .. } => key.to_pkcs8v1().map(|der| Secret::new(der.as_ref())).map_err(failed),
            Self::Ed25519(key) => key.to_pkcs8v1().map(|der| Secret::new(der.as_ref())).map_err(failed),
            Self::Device(_) => Err(KeyError(IN_DEVICE.to_owned())),
        }
    }
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn rsa_padding(alg: Alg) -> &'static dyn RsaEncoding {
    match alg {
        Alg::Rs384 => &signature::RSA_PKCS1_SHA384,
        Alg::Rs512 => &signature::RSA_PKCS1_SHA512,
        Alg::Ps256 => &signature::RSA_PSS_SHA256,
        Alg::Ps384 => &signature::RSA_PSS_SHA384,
        Alg::Ps512 => &signature::RSA_PSS_SHA512,
        _ => &signature::RSA_PKCS1_SHA256,
    }
}

fn check_rsa_size(modulus: &[u8]) -> Result<(), KeyError> {
    let bits =
        modulus.first().map_or(0, |first| modulus.len().saturating_mul(8) - first.leading_zeros() as usize);
    if RSA_BITS.contains(&bits) {
        return Ok(());
    }
    let (least, most) = (RSA_BITS.start(), RSA_BITS.end());
    Err(KeyError(if bits < *least {
        format!("the RSA key has {bits} bits; {least} at least are needed: make a new one")
    } else {
        format!("the RSA key has {bits} bits; {most} at most are taken")
    }))
}

fn modulus_of_private(der: &[u8]) -> Result<&[u8], Malformed> {
    let mut numbers = Tlv::only(der)?.expect(SEQUENCE)?.children();
    numbers.expect(INTEGER)?;
    numbers.next()?.unsigned()
}

fn rsa_public(der: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut numbers = Tlv::only(der)?.expect(SEQUENCE)?.children();
    Ok((numbers.next()?.unsigned()?, numbers.next()?.unsigned()?))
}
