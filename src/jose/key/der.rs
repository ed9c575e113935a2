//! Binary keys: which form it is, and the key out of it.

use super::super::asn1::{BIT_STRING, CONTEXT_0, INTEGER, Malformed, OCTET_STRING, OID, SEQUENCE, Tlv};
use super::super::pair::{Curve, Pair};
use super::KeyError;

/// What a DER file is, as far as its outermost tags tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::jose) enum Form {
    Pkcs8,
    EncryptedPkcs8,
    Pkcs1,
    Sec1,
    Pkcs12,
    PublicKey,
    Certificate,
    /// PKCS#7, which holds certificates and no key.
    Pkcs7,
}

/// The form of `der`, or `None` where it is none of these or cut off.
pub(in crate::jose) fn form(der: &[u8]) -> Option<Form> {
    let outer = Tlv::only(der).and_then(|tlv| tlv.expect(SEQUENCE)).ok()?;
    let mut reader = outer.children();
    let mut tags = [0; 3];
    let mut count = 0;
    let mut version = None;
    while let Ok(tlv) = reader.next() {
        if let Some(tag) = tags.get_mut(count) {
            *tag = tlv.tag;
        }
        if count == 0 {
            version = tlv.small().ok();
        }
        count += 1;
    }
    match tags {
        [INTEGER, SEQUENCE, _] if version == Some(3) => Some(Form::Pkcs12),
        [INTEGER, SEQUENCE, OCTET_STRING] => Some(Form::Pkcs8),
        [INTEGER, INTEGER, 0] => Some(Form::PublicKey),
        [INTEGER, INTEGER, INTEGER] => Some(Form::Pkcs1),
        [INTEGER, OCTET_STRING, _] => Some(Form::Sec1),
        [SEQUENCE, OCTET_STRING, 0] => Some(Form::EncryptedPkcs8),
        [SEQUENCE, BIT_STRING, 0] => Some(Form::PublicKey),
        [SEQUENCE, SEQUENCE, BIT_STRING] => Some(Form::Certificate),
        [OID, CONTEXT_0, 0] => Some(Form::Pkcs7),
        _ => None,
    }
}

const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const RSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// Key types that cannot sign a JWT here, to be named.
const OTHER_KEYS: [(&[u8], &str); 5] = [
    (&[0x2b, 0x65, 0x6e], "X25519"),
    (&[0x2b, 0x65, 0x6f], "X448"),
    (&[0x2b, 0x65, 0x71], "Ed448"),
    (&[0x2a, 0x86, 0x48, 0xce, 0x38, 4, 1], "DSA"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 3, 1], "Diffie-Hellman"),
];

const CURVES: [(&[u8], Curve); 3] = [
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7], Curve::P256),
    (&[0x2b, 0x81, 4, 0, 0x22], Curve::P384),
    (&[0x2b, 0x81, 4, 0, 0x23], Curve::P521),
];

const OTHER_CURVES: [(&[u8], &str); 5] = [
    (&[0x2b, 0x81, 4, 0, 0x0a], "secp256k1"),
    (&[0x2b, 0x81, 4, 0, 0x21], "P-224"),
    (&[0x2b, 0x24, 3, 3, 2, 8, 1, 1, 7], "brainpoolP256r1"),
    (&[0x2b, 0x24, 3, 3, 2, 8, 1, 1, 11], "brainpoolP384r1"),
    (&[0x2b, 0x24, 3, 3, 2, 8, 1, 1, 13], "brainpoolP512r1"),
];

fn damaged(_: Malformed) -> KeyError {
    KeyError("the key is damaged or cut off".to_owned())
}

/// A `PrivateKeyInfo` (RFC 5208, RFC 5958).
pub(super) fn pkcs8(der: &[u8]) -> Result<Pair, KeyError> {
    let Pkcs8 { algorithm, parameters, key } = pkcs8_parts(der).map_err(damaged)?;
    match algorithm {
        RSA => Pair::from_pkcs1(key, false),
        RSA_PSS => Pair::from_pkcs1(key, true),
        EC => match parameters {
            Some(named) if named.tag == OID => Pair::from_ec_der(curve(named.content)?, der),
            _ => of_any_curve(der),
        },
        ED25519 => Pair::from_ed25519_pkcs8(der),
        other => Err(KeyError(match OTHER_KEYS.iter().find(|(oid, _)| *oid == other) {
            Some((_, name)) => format!("it is a key of type {name}; use RSA, EC or Ed25519"),
            None => "it is a key of a type that is not known here; use RSA, EC or Ed25519".to_owned(),
        })),
    }
}

/// A `PrivateKeyInfo` taken apart.
struct Pkcs8<'a> {
    algorithm: &'a [u8],
    parameters: Option<Tlv<'a>>,
    key: &'a [u8],
}

fn pkcs8_parts(der: &[u8]) -> Result<Pkcs8<'_>, Malformed> {
    let mut info = Tlv::only(der)?.expect(SEQUENCE)?.children();
    info.expect(INTEGER)?;
    let mut identifier = info.expect(SEQUENCE)?.children();
    let algorithm = identifier.expect(OID)?.content;
    let parameters = if identifier.is_empty() { None } else { Some(identifier.next()?) };
    Ok(Pkcs8 { algorithm, parameters, key: info.expect(OCTET_STRING)?.content })
}

/// An `ECPrivateKey` (RFC 5915). `named` is the content of a PEM file's `EC PARAMETERS`, where it has such a block.
pub(super) fn sec1(der: &[u8], named: Option<&[u8]>) -> Result<Pair, KeyError> {
    let (private, own) = sec1_parts(der).map_err(damaged)?;
    let named = named.and_then(|block| Tlv::only(block).ok());
    match own.or(named) {
        Some(named) if named.tag == OID => Pair::from_ec_der(curve(named.content)?, der),
        Some(_) => of_any_curve(der),
        None => {
            let curve = Curve::ALL.into_iter().find(|curve| curve.len() == private.len());
            Pair::from_ec_der(curve.ok_or_else(|| unknown_curve("of an unknown name"))?, der)
        }
    }
}

fn sec1_parts(der: &[u8]) -> Result<(&[u8], Option<Tlv<'_>>), Malformed> {
    let mut key = Tlv::only(der)?.expect(SEQUENCE)?.children();
    key.expect(INTEGER)?;
    let private = key.expect(OCTET_STRING)?.content;
    let parameters = match key.optional(CONTEXT_0)? {
        Some(wrapped) => Some(Tlv::only(wrapped.content)?),
        None => None,
    };
    Ok((private, parameters))
}

/// The curve is written out instead of named: the parser knows which one it is.
fn of_any_curve(der: &[u8]) -> Result<Pair, KeyError> {
    Curve::ALL
        .into_iter()
        .find_map(|curve| Pair::from_ec_der(curve, der).ok())
        .ok_or_else(|| unknown_curve("written out, and not one of these"))
}

fn curve(oid: &[u8]) -> Result<Curve, KeyError> {
    if let Some((_, curve)) = CURVES.iter().find(|(known, _)| *known == oid) {
        return Ok(*curve);
    }
    let other = OTHER_CURVES.iter().find(|(known, _)| *known == oid);
    Err(unknown_curve(other.map_or("of an unknown name", |(_, name)| name)))
}

fn unknown_curve(which: &str) -> KeyError {
    KeyError(format!("the key's curve is {which}; P-256, P-384 and P-521 can be used"))
}
