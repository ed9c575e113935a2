//! Password-based encryption: PBES2 (RFC 8018) as files are made today, and PKCS#12's own (RFC 7292 appendices B, C)
//! of older ones.

use std::cell::Cell;
use std::num::NonZeroU32;

use aws_lc_rs::cipher::{self, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{constant_time, digest, hmac, pbkdf2};
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt, InnerIvInit, KeyInit};
use zeroize::Zeroizing;

use super::super::KeyError;
use super::super::asn1::{INTEGER, Malformed, OID, SEQUENCE, Tlv};
use crate::secret::Secret;

/// Files ask for thousands, password managers for some hundred thousand, and that for each part of a file. Bounds the
/// time that a whole file can take, however many parts it has.
const ITERATIONS: u32 = 4_000_000;

/// Why a file does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failed {
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

/// A password in the two forms that are in use, for one file.
pub(super) struct Password {
    /// Iterations that may still be spent on the file.
    left: Cell<u32>,
    /// For PBES2.
    utf8: Zeroizing<Vec<u8>>,
    /// Big-endian UTF-16 with two zero bytes at its end, for PKCS#12's own derivation.
    utf16: Zeroizing<Vec<u8>>,
}

impl Password {
    /// The empty password is written as an empty text by some and as nothing at all by others.
    pub(super) fn candidates(password: Option<&Secret>) -> Result<Vec<Self>, KeyError> {
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

    /// Allows `iterations` for each of `blocks` blocks of a derived key.
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

    /// Of an `AlgorithmIdentifier`.
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

/// Whether the MAC of a file is one of this password: RFC 7292 section 4, or PBMAC1 (RFC 9579).
pub(super) fn mac_fits(
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
/// All of PKCS#12's own schemes but for the last number.
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

/// Decrypts what this `AlgorithmIdentifier` describes.
pub(super) fn decrypt(
    algorithm: Tlv<'_>,
    data: &[u8],
    password: &Password,
) -> Result<Zeroizing<Vec<u8>>, Failed> {
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
        // With two keys for 3DES, the first is the third.
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

/// `length` is what the use needs; a file that says another is refused.
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

/// What a derived value is for (RFC 7292 appendix B.3).
#[derive(Debug, Clone, Copy)]
enum Purpose {
    Key = 1,
    Iv = 2,
    Mac = 3,
}

/// PKCS#12's own derivation (RFC 7292 appendix B.2), whose names are kept.
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

/// `block + b + 1`, where `b` is `a` repeated to its length; big-endian, without what overflows.
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
