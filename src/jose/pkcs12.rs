//! PKCS#12 files (RFC 7292) with their password-based encryption: PBES2 (RFC 8018) in recent files, and PKCS#12's own
//! (RFC 7292 appendices B and C) in older ones.
//!
//! Written here, on the ciphers of aws-lc-rs and RustCrypto: the crates that read PKCS#12 depend on pre-releases and
//! seventy other crates, and refuse the BER that Windows, Java and NSS write.

use std::cell::Cell;
use std::num::NonZeroU32;

use aws_lc_rs::cipher::{self, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{constant_time, digest, hmac, pbkdf2};
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt, InnerIvInit, KeyInit};
use zeroize::Zeroizing;

use super::KeyError;
use super::asn1::{
    CONTEXT_0, CONTEXT_0_PRIMITIVE, INTEGER, Malformed, OCTET_STRING, OID, Reader, SEQUENCE, Tlv,
};
use crate::secret::Secret;

const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1];
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];
const ENCRYPTED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 6];
const X509_CERTIFICATE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 22, 1];

/// The OID of every kind of bag, except its last number.
const BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 12, 10, 1];
const KEY_BAG: u8 = 1;
const SHROUDED_KEY_BAG: u8 = 2;
const CERTIFICATE_BAG: u8 = 3;
const SAFE_CONTENTS_BAG: u8 = 6;

/// The most bags inside each other.
const DEPTH: usize = 4;

/// The contents of a file.
#[derive(Default)]
pub(super) struct Store {
    /// PKCS#8.
    pub keys: Vec<Zeroizing<Vec<u8>>>,
    /// X.509, in the order of the file.
    pub certificates: Vec<Vec<u8>>,
}

/// Opens a file that [`super::key::form`] recognized as PKCS#12. Without a password, tries the two encodings of the
/// empty one.
///
/// # Errors
/// The password is missing or wrong; the file is damaged, or its encryption is not supported.
pub(super) fn open(der: &[u8], password: Option<&Secret>) -> Result<Store, KeyError> {
    let mut last = Failed::Password;
    for candidate in Password::candidates(password)? {
        match read(der, &candidate) {
            Ok(store) => return Ok(store),
            Err(failed) => last = failed,
        }
    }
    Err(words(last, password, "PKCS#12"))
}

/// Decrypts the PKCS#8 key in an `EncryptedPrivateKeyInfo` (RFC 5958 section 3).
///
/// # Errors
/// Like those of [`open`].
pub(super) fn decrypt_pkcs8(der: &[u8], password: &Secret) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let mut last = Failed::Password;
    for candidate in Password::candidates(Some(password))? {
        match shrouded(der, &candidate) {
            Ok(key) => return Ok(key),
            Err(failed) => last = failed,
        }
    }
    Err(words(last, Some(password), "encrypted PKCS#8"))
}

fn words(failed: Failed, password: Option<&Secret>, what: &str) -> KeyError {
    KeyError(match failed {
        Failed::Password if password.is_none() => {
            format!("it is {what} with a password; name it beside the file: password = {{ file = \"…\" }}")
        }
        Failed::Password => format!("its password does not open it ({what}): wrong, or the file is damaged"),
        Failed::Malformed => format!("it is {what} that is damaged or cut off (half written?)"),
        Failed::Signed => {
            "it is PKCS#12 that is protected by a signature; export it with a password instead".to_owned()
        }
        Failed::Unknown => format!(
            "it is {what} encrypted in a way that is not known here; export it again \
             (openssl pkcs12 -in old.p12 -nodes, then openssl pkcs12 -export)"
        ),
        Failed::Iterations => format!("it is {what} that asks for more key derivation than is reasonable"),
    })
}

fn read(der: &[u8], password: &Password) -> Result<Store, Failed> {
    let mut pfx = Tlv::only(der)?.expect(SEQUENCE)?.children();
    pfx.expect(INTEGER)?;
    let (kind, content) = content_info(pfx.next()?)?;
    match kind {
        DATA => {}
        SIGNED_DATA => return Err(Failed::Signed),
        _ => return Err(Failed::Malformed),
    }
    let safe = content.octets()?;
    let has_mac = !pfx.is_empty();
    if has_mac && !mac_fits(pfx.next()?, &safe, password)? {
        return Err(Failed::Password);
    }
    // A correct MAC proves the password, so any later error is the file's.
    contents(&safe, password).map_err(|failed| match failed {
        Failed::Password if has_mac => Failed::Malformed,
        failed => failed,
    })
}

/// `ContentInfo`: its type, and the value in its `[0]`.
fn content_info(tlv: Tlv<'_>) -> Result<(&[u8], Tlv<'_>), Malformed> {
    let mut info = tlv.expect(SEQUENCE)?.children();
    let kind = info.expect(OID)?.content;
    Ok((kind, Tlv::only(info.expect(CONTEXT_0)?.content)?))
}

/// `MacData`, over the bytes of the authenticated safe.
fn mac_fits(tlv: Tlv<'_>, safe: &[u8], password: &Password) -> Result<bool, Failed> {
    let mut mac = tlv.expect(SEQUENCE)?.children();
    let mut digest = mac.expect(SEQUENCE)?.children();
    let algorithm = digest.expect(SEQUENCE)?;
    let wanted = digest.next()?.octets()?;
    let salt = mac.next()?.octets()?;
    let iterations = match mac.optional(INTEGER)? {
        Some(given) => given.small()?,
        None => 1,
    };
    mac_is_made_by(algorithm, &salt, iterations, password, safe, &wanted)
}

fn contents(safe: &[u8], password: &Password) -> Result<Store, Failed> {
    let mut store = Store::default();
    let mut parts = Tlv::only(safe)?.expect(SEQUENCE)?.children();
    while !parts.is_empty() {
        let (kind, content) = content_info(parts.next()?)?;
        match kind {
            DATA => bags(&content.octets()?, password, &mut store, DEPTH)?,
            ENCRYPTED_DATA => bags(&encrypted_data(content, password)?, password, &mut store, DEPTH)?,
            _ => return Err(Failed::Unknown),
        }
    }
    Ok(store)
}

fn encrypted_data(tlv: Tlv<'_>, password: &Password) -> Result<Zeroizing<Vec<u8>>, Failed> {
    let mut data = tlv.expect(SEQUENCE)?.children();
    data.expect(INTEGER)?;
    let mut info = data.expect(SEQUENCE)?.children();
    info.expect(OID)?;
    let algorithm = info.expect(SEQUENCE)?;
    let content = info.next()?;
    if !matches!(content.tag, CONTEXT_0 | CONTEXT_0_PRIMITIVE) {
        return Err(Failed::Malformed);
    }
    decrypt(algorithm, &content.octets()?, password)
}

fn bags(safe: &[u8], password: &Password, store: &mut Store, depth: usize) -> Result<(), Failed> {
    // A wrong password may produce valid padding, but not valid contents.
    let whole = Tlv::only(safe).and_then(|tlv| tlv.expect(SEQUENCE)).map_err(|_| Failed::Password)?;
    bags_of(whole.children(), password, store, depth)
}

fn bags_of(mut bags: Reader<'_>, password: &Password, store: &mut Store, depth: usize) -> Result<(), Failed> {
    let depth = depth.checked_sub(1).ok_or(Failed::Malformed)?;
    while !bags.is_empty() {
        let mut bag = bags.expect(SEQUENCE)?.children();
        let Some([kind]) = bag.expect(OID)?.content.strip_prefix(BAG) else { continue };
        let value = Tlv::only(bag.expect(CONTEXT_0)?.content)?;
        match *kind {
            KEY_BAG => store.keys.push(Zeroizing::new(value.whole.to_vec())),
            SHROUDED_KEY_BAG => store.keys.push(shrouded(value.whole, password)?),
            CERTIFICATE_BAG => store.certificates.extend(certificate(value)?),
            SAFE_CONTENTS_BAG => bags_of(value.expect(SEQUENCE)?.children(), password, store, depth)?,
            _ => {}
        }
    }
    Ok(())
}

fn shrouded(der: &[u8], password: &Password) -> Result<Zeroizing<Vec<u8>>, Failed> {
    let mut info = Tlv::only(der)?.expect(SEQUENCE)?.children();
    let algorithm = info.expect(SEQUENCE)?;
    let data = info.next()?;
    if data.tag & 0x1f != OCTET_STRING {
        return Err(Failed::Malformed);
    }
    let key = decrypt(algorithm, &data.octets()?, password)?;
    if Tlv::only(&key).and_then(|tlv| tlv.expect(SEQUENCE)).is_err() {
        return Err(Failed::Password);
    }
    Ok(key)
}

/// `None`: a certificate of another kind than X.509.
fn certificate(bag: Tlv<'_>) -> Result<Option<Vec<u8>>, Malformed> {
    let mut bag = bag.expect(SEQUENCE)?.children();
    if bag.expect(OID)?.content != X509_CERTIFICATE {
        return Ok(None);
    }
    let der = Tlv::only(bag.expect(CONTEXT_0)?.content)?.octets()?;
    Ok(Some(der.into_owned()))
}

/// Limits the time for a whole file, however many parts it has. Files use thousands of iterations, those of password
/// managers some hundred thousand, for each part.
const ITERATIONS: u32 = 4_000_000;

/// Why a file cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failed {
    Password,
    Malformed,
    Signed,
    Unknown,
    Iterations,
}

impl From<Malformed> for Failed {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// A password in the two encodings that files use, for one file.
struct Password {
    /// The iterations that may still be spent on the file.
    left: Cell<u32>,
    /// For PBES2.
    utf8: Zeroizing<Vec<u8>>,
    /// Big-endian UTF-16 with two zero bytes at its end, for PKCS#12's own derivation.
    utf16: Zeroizing<Vec<u8>>,
}

impl Password {
    /// Some programs encode the empty password as an empty text, others as no bytes at all.
    fn candidates(password: Option<&Secret>) -> Result<Vec<Self>, KeyError> {
        let text = match password {
            Some(password) => password
                .expose_str()
                .ok_or_else(|| KeyError("its password is not UTF-8; set another one".to_owned()))?,
            None => "",
        };
        let mut utf16 = Zeroizing::new(Vec::with_capacity(text.len() * 2 + 2));
        for unit in text.encode_utf16().chain([0]) {
            utf16.extend_from_slice(&unit.to_be_bytes());
        }
        let left = || Cell::new(ITERATIONS);
        let mut candidates =
            vec![Self { left: left(), utf8: Zeroizing::new(text.as_bytes().to_vec()), utf16 }];
        if text.is_empty() {
            candidates.push(Self { left: left(), utf8: Zeroizing::default(), utf16: Zeroizing::default() });
        }
        Ok(candidates)
    }

    /// Takes `iterations` for each of `blocks` blocks of a derived key from the budget.
    fn spend(&self, iterations: u32, blocks: usize) -> Result<NonZeroU32, Failed> {
        let count = NonZeroU32::new(iterations).ok_or(Failed::Malformed)?;
        let blocks = u32::try_from(blocks).map_err(|_| Failed::Iterations)?;
        let cost = iterations.checked_mul(blocks).ok_or(Failed::Iterations)?;
        self.left.set(self.left.get().checked_sub(cost).ok_or(Failed::Iterations)?);
        Ok(count)
    }
}

#[derive(Debug, Clone, Copy)]
enum Hash {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    const DIGESTS: [(&[u8], Self); 4] = [
        (&[0x2b, 0x0e, 3, 2, 0x1a], Self::Sha1),
        (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1], Self::Sha256),
        (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2], Self::Sha384),
        (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3], Self::Sha512),
    ];
    const MACS: [(&[u8], Self); 4] = [
        (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, 7], Self::Sha1),
        (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, 9], Self::Sha256),
        (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, 10], Self::Sha384),
        (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, 11], Self::Sha512),
    ];

    /// The hash that an `AlgorithmIdentifier` names.
    fn of(algorithm: Tlv<'_>, known: &[(&[u8], Self)]) -> Result<Self, Failed> {
        let oid = algorithm.expect(SEQUENCE)?.children().expect(OID)?.content;
        known.iter().find(|(name, _)| *name == oid).map(|(_, hash)| *hash).ok_or(Failed::Unknown)
    }

    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        }
    }

    fn mac(self) -> hmac::Algorithm {
        match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha384 => hmac::HMAC_SHA384,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }

    fn pbkdf2(self) -> pbkdf2::Algorithm {
        match self {
            Self::Sha1 => pbkdf2::PBKDF2_HMAC_SHA1,
            Self::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Self::Sha384 => pbkdf2::PBKDF2_HMAC_SHA384,
            Self::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        }
    }
}

const PBMAC1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 14];

/// Whether the MAC of a file was made with this password: RFC 7292 section 4, or PBMAC1 (RFC 9579).
fn mac_is_made_by(
    algorithm: Tlv<'_>,
    salt: &[u8],
    iterations: u32,
    password: &Password,
    message: &[u8],
    wanted: &[u8],
) -> Result<bool, Failed> {
    let mut parts = algorithm.expect(SEQUENCE)?.children();
    let (hash, key) = if parts.expect(OID)?.content == PBMAC1 {
        let mut parameters = parts.expect(SEQUENCE)?.children();
        let derivation = parameters.expect(SEQUENCE)?;
        let hash = Hash::of(parameters.next()?, &Hash::MACS)?;
        (hash, pbkdf2_key(derivation, hash.digest().output_len(), password)?)
    } else {
        let hash = Hash::of(algorithm, &Hash::DIGESTS)?;
        let length = hash.digest().output_len();
        (hash, own_key(hash, Purpose::Mac, password, salt, iterations, length)?)
    };
    let made = hmac::sign(&hmac::Key::new(hash.mac(), &key), message);
    Ok(constant_time::verify_slices_are_equal(made.as_ref(), wanted).is_ok())
}

const PBES2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 13];
const PBKDF2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 12];
/// The OID of PKCS#12's own schemes, except its last number.
const PKCS12_PBE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 12, 1];

#[derive(Debug, Clone, Copy)]
enum Cipher {
    Aes(&'static cipher::Algorithm),
    TripleDes,
    Rc2,
}

const CIPHERS: [(&[u8], Cipher, usize); 4] = [
    (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 2], Cipher::Aes(&cipher::AES_128), 16),
    (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 22], Cipher::Aes(&cipher::AES_192), 24),
    (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 42], Cipher::Aes(&cipher::AES_256), 32),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 3, 7], Cipher::TripleDes, 24),
];

/// Decrypts `data` as this `AlgorithmIdentifier` describes.
fn decrypt(algorithm: Tlv<'_>, data: &[u8], password: &Password) -> Result<Zeroizing<Vec<u8>>, Failed> {
    let mut parts = algorithm.expect(SEQUENCE)?.children();
    let scheme = parts.expect(OID)?.content;
    let mut parameters = parts.expect(SEQUENCE)?.children();
    if scheme == PBES2 {
        let derivation = parameters.expect(SEQUENCE)?;
        let mut encryption = parameters.expect(SEQUENCE)?.children();
        let name = encryption.expect(OID)?.content;
        let (_, cipher, length) =
            *CIPHERS.iter().find(|(known, ..)| *known == name).ok_or(Failed::Unknown)?;
        let iv = encryption.next()?.octets()?;
        let key = pbkdf2_key(derivation, length, password)?;
        return decrypt_with(cipher, &key, &iv, data);
    }
    let (cipher, length) = match scheme.strip_prefix(PKCS12_PBE) {
        // 3DES with two keys uses the first one also as the third.
        Some([3]) => (Cipher::TripleDes, 24),
        Some([4]) => (Cipher::TripleDes, 16),
        Some([5]) => (Cipher::Rc2, 16),
        Some([6]) => (Cipher::Rc2, 5),
        _ => return Err(Failed::Unknown),
    };
    let salt = parameters.next()?.octets()?;
    let iterations = parameters.expect(INTEGER)?.small()?;
    let mut key = own_key(Hash::Sha1, Purpose::Key, password, &salt, iterations, length)?;
    if matches!(cipher, Cipher::TripleDes) && length == 16 {
        key.extend_from_within(..8);
    }
    let iv = own_key(Hash::Sha1, Purpose::Iv, password, &salt, iterations, 8)?;
    decrypt_with(cipher, &key, &iv, data)
}

/// `length` is the needed key length. A file that specifies another is refused.
fn pbkdf2_key(algorithm: Tlv<'_>, length: usize, password: &Password) -> Result<Zeroizing<Vec<u8>>, Failed> {
    let mut parts = algorithm.expect(SEQUENCE)?.children();
    if parts.expect(OID)?.content != PBKDF2 {
        return Err(Failed::Unknown);
    }
    let mut parameters = parts.expect(SEQUENCE)?.children();
    let salt = parameters.next()?.octets()?;
    let iterations = parameters.expect(INTEGER)?.small()?;
    if let Some(given) = parameters.optional(INTEGER)?
        && usize::try_from(given.small()?) != Ok(length)
    {
        return Err(Failed::Malformed);
    }
    let hash = match parameters.optional(SEQUENCE)? {
        Some(named) => Hash::of(named, &Hash::MACS)?,
        None => Hash::Sha1,
    };
    let iterations = password.spend(iterations, length.div_ceil(hash.digest().output_len()))?;
    let mut key = Zeroizing::new(vec![0; length]);
    pbkdf2::derive(hash.pbkdf2(), iterations, &salt, &password.utf8, &mut key);
    Ok(key)
}

/// The use of a derived value (RFC 7292 appendix B.3).
#[derive(Debug, Clone, Copy)]
enum Purpose {
    Key = 1,
    Iv = 2,
    Mac = 3,
}

/// PKCS#12's own derivation (RFC 7292 appendix B.2). The variable names are the RFC's.
fn own_key(
    hash: Hash,
    purpose: Purpose,
    password: &Password,
    salt: &[u8],
    iterations: u32,
    length: usize,
) -> Result<Zeroizing<Vec<u8>>, Failed> {
    let algorithm = hash.digest();
    let iterations = password.spend(iterations, length.div_ceil(algorithm.output_len()))?;
    let v = algorithm.block_len();
    let diversifier = vec![purpose as u8; v];
    let repeated = |bytes: &[u8]| {
        let whole = bytes.len().next_multiple_of(v);
        Zeroizing::new(bytes.iter().copied().cycle().take(whole).collect::<Vec<u8>>())
    };
    let (salt, text) = (repeated(salt), repeated(&password.utf16));
    let mut i = Zeroizing::new([salt.as_slice(), text.as_slice()].concat());
    let mut key = Zeroizing::new(Vec::with_capacity(length + algorithm.output_len()));
    while key.len() < length {
        let mut context = digest::Context::new(algorithm);
        context.update(&diversifier);
        context.update(&i);
        let mut a = context.finish();
        for _ in 1..iterations.get() {
            a = digest::digest(algorithm, a.as_ref());
        }
        key.extend_from_slice(a.as_ref());
        for block in i.chunks_exact_mut(v) {
            add_with_one(block, a.as_ref());
        }
    }
    key.truncate(length);
    Ok(key)
}

/// Computes `block + b + 1`, where `b` is `a` repeated to the block's length; big-endian, without overflow.
fn add_with_one(block: &mut [u8], a: &[u8]) {
    let mut carry = 1;
    let length = block.len();
    let b: Vec<u8> = a.iter().copied().cycle().take(length).collect();
    for (byte, b) in block.iter_mut().zip(b).rev() {
        let [high, low] = (u16::from(*byte) + u16::from(b) + carry).to_be_bytes();
        (*byte, carry) = (low, u16::from(high));
    }
}

fn decrypt_with(cipher: Cipher, key: &[u8], iv: &[u8], data: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failed> {
    let mut plain = Zeroizing::new(data.to_vec());
    let length = match cipher {
        Cipher::Aes(algorithm) => {
            let iv = FixedLength::<16>::try_from(iv).map_err(|_| Failed::Malformed)?;
            let key = UnboundCipherKey::new(algorithm, key)
                .and_then(PaddedBlockDecryptingKey::cbc_pkcs7)
                .map_err(|_| Failed::Unknown)?;
            key.decrypt(&mut plain, DecryptionContext::Iv128(iv)).map_err(|_| Failed::Password)?.len()
        }
        Cipher::TripleDes => {
            let key = des::TdesEde3::new_from_slice(key).map_err(|_| Failed::Unknown)?;
            in_blocks(key, iv, &mut plain)?
        }
        Cipher::Rc2 => {
            let key = rc2::Rc2::new_from_slice(key).map_err(|_| Failed::Unknown)?;
            in_blocks(key, iv, &mut plain)?
        }
    };
    plain.truncate(length);
    Ok(plain)
}

fn in_blocks<C>(key: C, iv: &[u8], data: &mut [u8]) -> Result<usize, Failed>
where
    C: cbc::cipher::BlockCipherDecrypt,
    cbc::Decryptor<C>: InnerIvInit<Inner = C> + BlockModeDecrypt,
{
    let decryptor = cbc::Decryptor::inner_iv_slice_init(key, iv).map_err(|_| Failed::Malformed)?;
    decryptor.decrypt_padded::<Pkcs7>(data).map(<[u8]>::len).map_err(|_| Failed::Password)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jose::other::{self, PASSWORD};

    fn open_file(name: &str, password: Option<&str>) -> Result<Store, KeyError> {
        open(&other::key_bytes(name), password.map(Secret::from).as_ref())
    }

    fn refusal(name: &str, password: Option<&str>) -> String {
        match open_file(name, password) {
            Ok(_) => panic!("{name} opens with {password:?}"),
            Err(error) => error.0,
        }
    }

    #[test]
    fn modern_and_older_files_open() {
        for name in ["rsa.modern.p12", "rsa.legacy.p12", "ec-p256.modern.p12", "ec-p256.legacy.p12"] {
            let store = open_file(name, Some(PASSWORD)).unwrap();
            assert_eq!((store.keys.len(), store.certificates.len()), (1, 1), "{name}");
        }
    }

    #[test]
    fn files_made_with_other_settings_open() {
        for name in [
            "p12/aes128-sha512.p12",
            "p12/aes192-sha384mac.p12",
            "p12/3des-pbes2.p12",
            "p12/3des-two-keys.p12",
            "p12/rc2-128.p12",
            "p12/no-mac.p12",
            "p12/chain.p12",
            "p12/pbmac1.p12",
            "p12/indefinite.p12",
            "p12/java.p12",
        ] {
            let store = open_file(name, Some(PASSWORD)).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(store.keys.len(), 1, "{name}");
            assert!(!store.certificates.is_empty(), "{name}");
        }
    }

    #[test]
    fn no_password_and_an_empty_one_are_the_same() {
        for name in ["rsa.no-password.p12", "rsa.plain.p12"] {
            for password in [None, Some("")] {
                assert_eq!(open_file(name, password).unwrap().keys.len(), 1, "{name} {password:?}");
            }
        }
    }

    #[test]
    fn a_password_beyond_ascii_opens_the_file() {
        let store = open_file("p12/unicode.p12", Some("pässwörd 🔑")).unwrap();
        assert_eq!(store.keys.len(), 1);
    }

    #[test]
    fn a_wrong_and_a_missing_password_are_reported() {
        for name in ["rsa.modern.p12", "rsa.legacy.p12", "p12/no-mac.p12"] {
            assert_eq!(
                refusal(name, Some("hunter2")),
                "its password does not open it (PKCS#12): wrong, or the file is damaged",
                "{name}"
            );
            assert_eq!(
                refusal(name, None),
                "it is PKCS#12 with a password; name it beside the file: password = { file = \"…\" }",
                "{name}"
            );
        }
        let der = super::super::pem::blocks(&other::key("rsa.encrypted.pem")).unwrap()[0].der().unwrap();
        assert_eq!(
            decrypt_pkcs8(&der, &Secret::from("hunter2")).unwrap_err().0,
            "its password does not open it (encrypted PKCS#8): wrong, or the file is damaged"
        );
    }

    #[test]
    fn a_password_that_is_not_text_is_reported() {
        let password = Secret::new([0xff, 0xfe]);
        let error = open(&other::key_bytes("rsa.modern.p12"), Some(&password)).map(|_| ()).unwrap_err();
        assert_eq!(error.0, "its password is not UTF-8; set another one");
    }

    #[test]
    fn several_keys_none_and_a_chain_are_distinguished() {
        let parse = |name: &str| {
            super::super::PrivateKey::parse(
                &Secret::new(other::key_bytes(name)),
                Some(&Secret::from(PASSWORD)),
            )
        };
        let key = parse("p12/chain.p12").unwrap();
        let subjects: Vec<String> = key.certificates().iter().map(|one| one.subject()).collect();
        assert_eq!(subjects, ["CN=leaf", "CN=intermediate", "CN=root"]);
        assert_eq!(
            parse("p12/certificates.p12").unwrap_err().0,
            "it is PKCS#12 with certificates alone; the private key is needed"
        );
    }

    #[test]
    fn a_file_that_is_cut_or_changed_never_panics() {
        let password = Secret::from(PASSWORD);
        for name in ["rsa.modern.p12", "ec-p256.legacy.p12", "rsa.plain.p12"] {
            let whole = other::key_bytes(name);
            for length in (0..whole.len()).step_by(7) {
                assert!(open(&whole[..length], Some(&password)).is_err(), "{name} cut at {length}");
            }
            for at in (0..whole.len()).step_by(61) {
                let mut changed = whole.clone();
                changed[at] ^= 0x55;
                let _ = open(&changed, Some(&password));
            }
        }
    }

    fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let length = u8::try_from(content.len()).unwrap();
        assert!(length < 0x80);
        [&[tag, length][..], &content].concat()
    }

    /// PBES2 with AES-256 and PBKDF2 over HMAC-SHA1, two blocks of which make the key.
    fn pbes2(iterations: u32) -> Vec<u8> {
        let salt = tlv(OCTET_STRING, &[b"salt"]);
        let count = tlv(INTEGER, &[&[0], &iterations.to_be_bytes()]);
        let parameters = tlv(SEQUENCE, &[&salt, &count]);
        let pbkdf2 = tlv(OID, &[&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 12]]);
        let aes = tlv(OID, &[&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 42]]);
        let derivation = tlv(SEQUENCE, &[&pbkdf2, &parameters]);
        let encryption = tlv(SEQUENCE, &[&aes, &tlv(OCTET_STRING, &[&[7; 16]])]);
        let scheme = tlv(OID, &[&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 13]]);
        tlv(SEQUENCE, &[&scheme, &tlv(SEQUENCE, &[&derivation, &encryption])])
    }

    #[test]
    fn no_file_takes_for_ever_however_many_parts_it_has() {
        let password = Password::candidates(Some(&Secret::from(PASSWORD))).unwrap().remove(0);
        let decrypt = |iterations| {
            let algorithm = pbes2(iterations);
            // The padding is not valid.
            decrypt(Tlv::only(&algorithm).unwrap(), &[0; 15], &password).unwrap_err()
        };
        assert_eq!(decrypt(u32::MAX), Failed::Iterations);
        assert_eq!(decrypt(2_000_001), Failed::Iterations);
        assert_eq!(decrypt(0), Failed::Malformed);
        assert_eq!(decrypt(1_000_001), Failed::Password);
        assert_eq!(decrypt(1_000_001), Failed::Iterations, "each part counts");
        assert_eq!(decrypt(1_000), Failed::Password);
    }
}
