//! Private keys in every format in which they are handed out: PEM, DER, JWK, PKCS#12, and vendors' JSON files.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::asn1::{BIT_STRING, CONTEXT_0, INTEGER, Malformed, OCTET_STRING, OID, SEQUENCE, Tlv};
use super::pair::{Curve, Pair, RsaNumbers};
use super::pem::{self, Block};
use super::{Alg, Certificate, DeviceKey, pkcs12};
use crate::secret::Secret;

/// What is wrong with a key or certificate, and what to do. Never contains key material.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyError(pub String);

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for KeyError {}

/// What a key's file says about the key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// `kid` of a JWK, `private_key_id` of Google, `keyId` of ZITADEL.
    pub key_id: Option<String>,
    /// The key's owner: `client_email` of Google; `userId` or `clientId` of ZITADEL.
    pub subject: Option<String>,
    /// `alg` of a JWK.
    pub alg: Option<Alg>,
}

/// A private key, parsed once.
pub struct PrivateKey {
    pair: Pair,
    identity: Identity,
    certificates: Vec<Certificate>,
    jwk: Map<String, Value>,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(crate::secret::MASK)
    }
}

impl PrivateKey {
    /// Reads PEM or DER (PKCS#8, PKCS#1, SEC1), a JWK (RFC 7517), PKCS#12 with its password, or a vendor's key JSON;
    /// binary formats also in base64. The password also decrypts PKCS#8.
    ///
    /// # Errors
    /// What `bytes` are instead (a public key, a certificate alone, an encrypted PEM …), and how to convert them.
    pub fn parse(bytes: &Secret, password: Option<&Secret>) -> Result<Self, KeyError> {
        read(bytes.expose(), password)
    }

    /// A key that stays in its device.
    ///
    /// # Errors
    /// Its public half is damaged, or it is too short.
    pub fn in_device(key: &Arc<DeviceKey>) -> Result<Self, KeyError> {
        Self::new(Pair::in_device(key)?, Identity::default(), Vec::new())
    }

    /// The device that holds the key, if one does.
    pub fn device(&self) -> Option<&DeviceKey> {
        match &self.pair {
            Pair::Device(key) => Some(key),
            _ => None,
        }
    }

    /// `found` may contain other certificates. Only the chain from the key's own certificate upward is kept.
    fn new(pair: Pair, identity: Identity, found: Vec<Certificate>) -> Result<Self, KeyError> {
        if let Some(alg) = identity.alg {
            pair.check_alg(alg)?;
        }
        let jwk = pair.public_jwk()?;
        let certificates = Certificate::chain_to(found, pair.public());
        Ok(Self { pair, identity, certificates, jwk })
    }

    /// The default algorithm: a JWK's own `alg`, or else RS256, ES256/384/512 by curve, or EdDSA.
    pub fn default_alg(&self) -> Alg {
        self.identity.alg.unwrap_or_else(|| self.pair.default_alg())
    }

    /// # Errors
    /// The algorithm does not fit this type of key. The error names those that do.
    pub fn check_alg(&self, alg: Alg) -> Result<(), KeyError> {
        self.pair.check_alg(alg)
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The certificate chain in the key's file (PKCS#12, PEM, or `x5c` of a JWK), leaf first. May be empty.
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// The public key as a JWK with only its required members.
    pub fn public_jwk(&self) -> Map<String, Value> {
        self.jwk.clone()
    }

    /// The JWK thumbprint with SHA-256 (RFC 7638), base64url.
    pub fn thumbprint(&self) -> String {
        // The members are in lexical order and contain no character that JSON escapes.
        let members: Vec<String> =
            self.jwk.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        let canonical = format!("{{{}}}", members.join(","));
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, canonical.as_bytes()))
    }

    /// The key as PKCS#8 DER, for TLS.
    ///
    /// # Errors
    /// The key cannot be encoded.
    pub fn pkcs8(&self) -> Result<Secret, KeyError> {
        self.pair.pkcs8()
    }

    /// At once, unless the key is in a device.
    pub(super) async fn sign(&self, alg: Alg, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.pair.check_alg(alg)?;
        match &self.pair {
            // Boxed, because every request would have its size.
            Pair::Device(key) => Box::pin(key.sign(alg, message)).await,
            pair => pair.sign(alg, message),
        }
    }

    /// The `subjectPublicKey` of a certificate for this key.
    pub(super) fn public(&self) -> &[u8] {
        self.pair.public()
    }
}

const DECRYPT: &str = "decrypt it (openssl pkcs8 -topk8 -nocrypt -in key.pem -out plain.pem) and protect the file \
                       by its mode";

/// Reads a key in any format.
fn read(bytes: &[u8], password: Option<&Secret>) -> Result<PrivateKey, KeyError> {
    let bytes = unwrapped(bytes);
    if bytes.trim_ascii().is_empty() {
        return Err(KeyError("it is empty".to_owned()));
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) if text.trim_start().starts_with('{') => from_json(text),
        Ok(text) if text.contains("-----BEGIN ") => from_pem(text, Identity::default(), password),
        _ => from_der(&with_its_last_byte(bytes), password),
    }
}

/// Removes a byte order mark, and base64 around the whole file, in which vaults hand out PKCS#12.
pub(super) fn unwrapped(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match std::str::from_utf8(bytes).ok().and_then(pem::decode) {
        // Plain words may be valid base64, so the result counts only if it begins like a key or certificate.
        Some(inner) if [&b"\x30"[..], b"-----BEGIN ", b"{"].iter().any(|start| inner.starts_with(start)) => {
            inner
        }
        _ => Zeroizing::new(bytes.to_vec()),
    }
}

/// Restores a line break at the end of a binary file, which a reference cuts off.
pub(super) fn with_its_last_byte(bytes: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    if bytes.first() == Some(&0x30) && form(&bytes).is_none() {
        for cut in [&b"\n"[..], b"\r\n"] {
            let whole = Zeroizing::new([&bytes, cut].concat());
            if form(&whole).is_some() {
                return whole;
            }
        }
    }
    bytes
}

fn from_der(bytes: &[u8], password: Option<&Secret>) -> Result<PrivateKey, KeyError> {
    let pair = match form(bytes) {
        Some(Form::Pkcs12) => return from_pkcs12(bytes, password),
        Some(Form::Pkcs8) => pair_from_pkcs8(bytes)?,
        Some(Form::EncryptedPkcs8) => pair_from_pkcs8(&decrypted(bytes, password)?)?,
        Some(Form::Pkcs1) => Pair::from_pkcs1(bytes, false)?,
        Some(Form::Sec1) => pair_from_sec1(bytes, None)?,
        Some(Form::PublicKey) => return Err(public_key()),
        Some(Form::Certificate | Form::Pkcs7) => return Err(certificate_alone()),
        None => return Err(unknown(bytes)),
    };
    PrivateKey::new(pair, Identity::default(), Vec::new())
}

fn from_pkcs12(bytes: &[u8], password: Option<&Secret>) -> Result<PrivateKey, KeyError> {
    let store = pkcs12::open(bytes, password)?;
    let pair = match store.keys.as_slice() {
        [key] => pair_from_pkcs8(key)?,
        [] => {
            return Err(KeyError(
                "it is PKCS#12 with certificates alone; the private key is needed".to_owned(),
            ));
        }
        several => {
            return Err(KeyError(format!(
                "it is PKCS#12 with {} private keys; export the one to use into a file of its own",
                several.len()
            )));
        }
    };
    let certificates: Result<Vec<_>, _> =
        store.certificates.iter().map(|certificate| Certificate::from_der(certificate)).collect();
    PrivateKey::new(pair, Identity::default(), certificates?)
}

fn decrypted(der: &[u8], password: Option<&Secret>) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    match password {
        Some(password) => pkcs12::decrypt_pkcs8(der, password),
        None => Err(KeyError(format!(
            "the key is encrypted with a passphrase; name it beside the file: password = {{ file = \"…\" }}, or \
             {DECRYPT}"
        ))),
    }
}

/// The first private key among the blocks, with the certificates in the same file.
fn from_pem(text: &str, identity: Identity, password: Option<&Secret>) -> Result<PrivateKey, KeyError> {
    let blocks = pem::blocks(text)?;
    let Some(block) = blocks.iter().find(|block| block.label.ends_with("PRIVATE KEY")) else {
        return Err(no_key_among(&blocks));
    };
    if block.is_encrypted() {
        return Err(KeyError(format!("the key is encrypted with a passphrase; {DECRYPT}")));
    }
    let pair = match block.label {
        "PRIVATE KEY" => pair_from_pkcs8(&block.der()?)?,
        "ENCRYPTED PRIVATE KEY" => pair_from_pkcs8(&decrypted(&block.der()?, password)?)?,
        "RSA PRIVATE KEY" => Pair::from_pkcs1(&block.der()?, false)?,
        "EC PRIVATE KEY" => {
            let named = blocks.iter().find(|block| block.label == "EC PARAMETERS");
            let named = named.map(Block::der).transpose()?;
            pair_from_sec1(&block.der()?, named.as_ref().map(|der| der.as_slice()))?
        }
        "OPENSSH PRIVATE KEY" => {
            return Err(KeyError(
                "it is a key in OpenSSH's own form; convert a copy of it if it is RSA or ECDSA \
                 (ssh-keygen -p -m PKCS8 -f copy), or make a new key (openssl genpkey -algorithm ed25519)"
                    .to_owned(),
            ));
        }
        other => {
            return Err(KeyError(format!(
                "it holds {}, which is no RSA, EC or Ed25519 key",
                pem::known(other)
            )));
        }
    };
    PrivateKey::new(pair, identity, certificates_of(&blocks)?)
}

fn certificates_of(blocks: &[Block<'_>]) -> Result<Vec<Certificate>, KeyError> {
    blocks
        .iter()
        .filter(|block| Certificate::LABELS.contains(&block.label))
        .map(|block| Certificate::from_der(&block.der()?))
        .collect()
}

fn no_key_among(blocks: &[Block<'_>]) -> KeyError {
    let has = |wanted: &[&str]| blocks.iter().any(|block| wanted.contains(&block.label));
    if has(&["PUBLIC KEY", "RSA PUBLIC KEY"]) {
        return public_key();
    }
    if has(&Certificate::LABELS) {
        return certificate_alone();
    }
    let mut labels: Vec<&str> = blocks.iter().map(|block| pem::known(block.label)).collect();
    labels.dedup();
    labels.truncate(3);
    KeyError(format!("it holds no private key but {}", labels.join(", ")))
}

fn public_key() -> KeyError {
    KeyError("it holds a public key; the private key is needed".to_owned())
}

fn certificate_alone() -> KeyError {
    KeyError("it holds a certificate and no private key".to_owned())
}

/// The error for bytes that are neither PEM nor JSON nor a known kind of DER.
fn unknown(bytes: &[u8]) -> KeyError {
    let starts = |prefix: &[u8]| bytes.starts_with(prefix);
    KeyError(
        if starts(&[0xfe, 0xed, 0xfe, 0xed]) {
            "it is a Java key store (JKS); convert it \
             (keytool -importkeystore -srckeystore old.jks -destkeystore new.p12 -deststoretype PKCS12)"
        } else if starts(b"PuTTY-User-Key-File-") {
            "it is a key in PuTTY's own form; export it as PEM (puttygen key.ppk -O private-openssh -o key), then \
             convert it (ssh-keygen -p -m PKCS8 -f key)"
        } else if starts(b"ssh-") || starts(b"ecdsa-sha2-") {
            "it is an OpenSSH public key; the private key is needed"
        } else if starts(&[0x30]) {
            "it is binary, but no whole key or PKCS#12: damaged or cut off (half written?)"
        } else {
            "it is not a key in a known form: PEM, DER, JWK, PKCS#12, or the key JSON of Google or ZITADEL"
        }
        .to_owned(),
    )
}

/// The kind of a DER file, judged by its outermost tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Pkcs8,
    EncryptedPkcs8,
    Pkcs1,
    Sec1,
    Pkcs12,
    PublicKey,
    Certificate,
    /// PKCS#7, which contains certificates and no key.
    Pkcs7,
}

/// The kind of `der`. `None`: none of these, or incomplete.
pub(super) fn form(der: &[u8]) -> Option<Form> {
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

/// Names of key types that cannot sign a JWT here, for the error.
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
fn pair_from_pkcs8(der: &[u8]) -> Result<Pair, KeyError> {
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

/// The parts of a `PrivateKeyInfo`.
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

/// An `ECPrivateKey` (RFC 5915). `named` is the content of the `EC PARAMETERS` block of a PEM file, if it has one.
fn pair_from_sec1(der: &[u8], named: Option<&[u8]>) -> Result<Pair, KeyError> {
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

/// The key contains the curve's parameters instead of its name, so the parser tries each curve.
fn of_any_curve(der: &[u8]) -> Result<Pair, KeyError> {
    Curve::ALL
        .into_iter()
        .find_map(|curve| Pair::from_ec_der(curve, der).ok())
        .ok_or_else(|| unknown_curve("written out, and not one of these"))
}

pub(super) fn curve(oid: &[u8]) -> Result<Curve, KeyError> {
    if let Some((_, curve)) = CURVES.iter().find(|(known, _)| *known == oid) {
        return Ok(*curve);
    }
    let other = OTHER_CURVES.iter().find(|(known, _)| *known == oid);
    Err(unknown_curve(other.map_or("of an unknown name", |(_, name)| name)))
}

fn unknown_curve(which: &str) -> KeyError {
    KeyError(format!("the key's curve is {which}; P-256, P-384 and P-521 can be used"))
}

const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Wiped when dropped.
type Hidden = Zeroizing<String>;

fn hidden<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Hidden>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(Zeroizing::new))
}

/// The members of all known key files.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Document {
    keys: Option<Vec<Self>>,
    kty: Option<String>,
    crv: Option<String>,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    x5c: Option<Vec<String>>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    #[serde(deserialize_with = "hidden")]
    d: Option<Hidden>,
    #[serde(deserialize_with = "hidden")]
    p: Option<Hidden>,
    #[serde(deserialize_with = "hidden")]
    q: Option<Hidden>,
    #[serde(deserialize_with = "hidden")]
    dp: Option<Hidden>,
    #[serde(deserialize_with = "hidden")]
    dq: Option<Hidden>,
    #[serde(deserialize_with = "hidden")]
    qi: Option<Hidden>,
    oth: Option<serde::de::IgnoredAny>,

    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(deserialize_with = "hidden")]
    private_key: Option<Hidden>,
    private_key_id: Option<String>,
    client_email: Option<String>,
    #[serde(deserialize_with = "hidden")]
    key: Option<Hidden>,
    #[serde(rename = "keyId")]
    key_id: Option<String>,
    #[serde(rename = "userId")]
    user_id: Option<String>,
    #[serde(rename = "clientId")]
    client_id: Option<String>,
}

fn refuse<T>(text: impl Into<String>) -> Result<T, KeyError> {
    Err(KeyError(text.into()))
}

fn from_json(text: &str) -> Result<PrivateKey, KeyError> {
    let document: Document = serde_json::from_str(text).map_err(|found| {
        // serde's own message may quote a value.
        let place = format!("line {}, column {}", found.line(), found.column());
        KeyError(match found.classify() {
            serde_json::error::Category::Eof => "it is JSON that is cut off (half written?)".to_owned(),
            serde_json::error::Category::Data => {
                format!(
                    "it is JSON, but neither a JWK nor a known key file: a value of the wrong type at {place}"
                )
            }
            _ => format!("it is broken JSON at {place}"),
        })
    })?;
    if document.kty.is_some() {
        return from_jwk(&document);
    }
    match document.keys {
        Some(keys) => from_set(&keys),
        None => from_vendor(document),
    }
}

fn from_set(keys: &[Document]) -> Result<PrivateKey, KeyError> {
    let mut private = keys.iter().filter(|key| key.d.is_some() && key.usage.as_deref() != Some("enc"));
    match (private.next(), private.count()) {
        (Some(one), 0) => from_jwk(one),
        (Some(_), others) => {
            refuse(format!("the JWK Set has {} private keys; give the one to use alone", others + 1))
        }
        (None, _) => refuse("the JWK Set has no private key for signatures"),
    }
}

fn from_vendor(document: Document) -> Result<PrivateKey, KeyError> {
    let (key, member, key_id, subject) = match document.kind.as_deref() {
        Some("service_account") => {
            (document.private_key, "private_key", document.private_key_id, document.client_email)
        }
        Some("serviceaccount") => (document.key, "key", document.key_id, document.user_id),
        Some("application") => (document.key, "key", document.key_id, document.client_id),
        Some("authorized_user" | "external_account" | "impersonated_service_account") => {
            return refuse(
                "it is a Google credentials file without a key; create a key of a service account \
                 (IAM, Service accounts, Keys)",
            );
        }
        _ if document.private_key.is_some() => {
            return refuse("it is JSON of an unknown kind; point to its key: pointer = \"/private_key\"");
        }
        _ => {
            return refuse("it is JSON, but neither a JWK nor the key file of Google or ZITADEL");
        }
    };
    let Some(key) = key else {
        return refuse(format!(
            "it is a vendor's key file without its member {member}; was it copied whole?"
        ));
    };
    let identity = Identity { key_id, subject, alg: None };
    if !key.contains("-----BEGIN ") {
        return refuse(format!("its member {member} holds no key in PEM"));
    }
    from_pem(&key, identity, None).map_err(|KeyError(why)| KeyError(format!("its member {member}: {why}")))
}

fn from_jwk(jwk: &Document) -> Result<PrivateKey, KeyError> {
    if jwk.kty.as_deref() == Some("oct") {
        return refuse(
            "it is a symmetric JWK (kty \"oct\"), which is a shared secret; a private key has kty RSA, EC or OKP",
        );
    }
    if jwk.d.is_none() {
        return refuse("it is a public JWK (it has no member d); the private key is needed");
    }
    if jwk.usage.as_deref() == Some("enc") {
        return refuse("it is a JWK for encryption (use \"enc\"); one for signatures is needed");
    }
    let pair = match jwk.kty.as_deref() {
        Some("RSA") => rsa(jwk)?,
        Some("EC") => ec(jwk)?,
        Some("OKP") => okp(jwk)?,
        _ => return refuse("it is a JWK of an unknown kty; RSA, EC and OKP can be used"),
    };
    let alg = match jwk.alg.as_deref() {
        None => None,
        Some(name) => match name.parse::<Alg>() {
            Ok(alg) => Some(alg),
            Err(_) => return refuse("its member alg names no signature algorithm that is known here"),
        },
    };
    let chain = chain(jwk)?;
    if chain.first().is_some_and(|leaf| leaf.public() != pair.public()) {
        return refuse("the first certificate of its x5c belongs to another key");
    }
    PrivateKey::new(pair, Identity { key_id: jwk.kid.clone(), subject: None, alg }, chain)
}

fn chain(jwk: &Document) -> Result<Vec<Certificate>, KeyError> {
    let members = jwk.x5c.as_deref().unwrap_or_default();
    members
        .iter()
        .map(|member| match STANDARD.decode(member) {
            Ok(der) => Certificate::from_der(&der),
            Err(_) => refuse("a member of its x5c is not base64"),
        })
        .collect()
}

fn rsa(jwk: &Document) -> Result<Pair, KeyError> {
    if jwk.oth.is_some() {
        return refuse("it is an RSA key of more than two primes (oth), which cannot be used");
    }
    if [&jwk.p, &jwk.q, &jwk.dp, &jwk.dq, &jwk.qi].into_iter().any(Option::is_none) {
        return refuse(
            "the RSA JWK lacks one of p, q, dp, dq and qi, which are needed beside n, e and d; \
             export it with them, or as PKCS#8",
        );
    }
    let hidden = |value: &Option<Hidden>, name| number(value.as_ref().map(|text| text.as_str()), name);
    Pair::from_rsa_numbers(&RsaNumbers {
        n: &number(jwk.n.as_deref(), "n")?,
        e: &number(jwk.e.as_deref(), "e")?,
        d: &hidden(&jwk.d, "d")?,
        p: &hidden(&jwk.p, "p")?,
        q: &hidden(&jwk.q, "q")?,
        dp: &hidden(&jwk.dp, "dp")?,
        dq: &hidden(&jwk.dq, "dq")?,
        qi: &hidden(&jwk.qi, "qi")?,
    })
}

fn ec(jwk: &Document) -> Result<Pair, KeyError> {
    let Some(curve) = Curve::ALL.into_iter().find(|curve| jwk.crv.as_deref() == Some(curve.name())) else {
        return refuse("the JWK's crv is none of P-256, P-384 and P-521");
    };
    let private = padded(jwk.d.as_ref().map(|text| text.as_str()), "d", curve.len())?;
    let x = padded(jwk.x.as_deref(), "x", curve.len())?;
    let y = padded(jwk.y.as_deref(), "y", curve.len())?;
    Pair::from_ec_numbers(curve, &private, &[&[4], x.as_slice(), y.as_slice()].concat())
}

fn okp(jwk: &Document) -> Result<Pair, KeyError> {
    if jwk.crv.as_deref() != Some("Ed25519") {
        return refuse("the OKP JWK's crv is not Ed25519, the one that can be used");
    }
    let seed = base64url(jwk.d.as_ref().map(|text| text.as_str()), "d")?;
    let public = base64url(jwk.x.as_deref(), "x")?;
    Pair::from_ed25519_seed(&seed, &public)
}

fn base64url(text: Option<&str>, name: &str) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let Some(text) = text else { return refuse(format!("the JWK lacks its member {name}")) };
    match BASE64URL.decode(text) {
        Ok(bytes) => Ok(Zeroizing::new(bytes)),
        Err(_) => refuse(format!("the JWK's member {name} is not base64url; was it copied whole?")),
    }
}

/// Decodes a number and removes its leading zeros.
fn number(text: Option<&str>, name: &str) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let bytes = base64url(text, name)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    Ok(Zeroizing::new(bytes.iter().skip(zeros).copied().collect()))
}

/// Decodes a number at the length that RFC 7518 section 6.2 requires, which not every writer observes.
fn padded(text: Option<&str>, name: &str, length: usize) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let number = number(text, name)?;
    let Some(zeros) = length.checked_sub(number.len()) else {
        return refuse(format!("the JWK's member {name} is too long for its crv"));
    };
    let mut bytes = vec![0; zeros];
    bytes.extend_from_slice(&number);
    Ok(Zeroizing::new(bytes))
}

#[cfg(test)]
mod tests;
