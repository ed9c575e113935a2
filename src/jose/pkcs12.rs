//! PKCS#12 files (RFC 7292): the keys and certificates in one, with its password.
//!
//! Written here, on the ciphers of aws-lc-rs and RustCrypto: the crates that read PKCS#12 stand on pre-releases, bring
//! seventy others, and refuse the BER that Windows, Java and NSS write.

mod pbe;

use zeroize::Zeroizing;

use super::KeyError;
use super::asn1::{
    CONTEXT_0, CONTEXT_0_PRIMITIVE, INTEGER, Malformed, OCTET_STRING, OID, Reader, SEQUENCE, Tlv,
};
use crate::secret::Secret;
use pbe::{Failed, Password};

const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1];
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];
const ENCRYPTED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 6];
const X509_CERTIFICATE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 22, 1];

/// All kinds of bag but for the last number.
const BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 12, 10, 1];
const KEY_BAG: u8 = 1;
const SHROUDED_KEY_BAG: u8 = 2;
const CERTIFICATE_BAG: u8 = 3;
const SAFE_CONTENTS_BAG: u8 = 6;

/// Bags may hold bags.
const DEPTH: usize = 4;

/// What stands in a file.
#[derive(Default)]
pub(super) struct Store {
    /// PKCS#8.
    pub keys: Vec<Zeroizing<Vec<u8>>>,
    /// X.509, in the order of the file.
    pub certificates: Vec<Vec<u8>>,
}

/// Opens a file that [`super::key::form`] took for PKCS#12. Without a password, the two that mean "none" are tried.
///
/// # Errors
/// The password is missing or wrong; the file is damaged, or encrypted in a way that is not known here.
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

/// The PKCS#8 key in an `EncryptedPrivateKeyInfo` (RFC 5958 section 3).
///
/// # Errors
/// As [`open`].
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
    // A MAC that fits proves the password; what then can't be read is the file's own fault.
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
    pbe::mac_fits(algorithm, &salt, iterations, password, safe, &wanted)
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
    pbe::decrypt(algorithm, &content.octets()?, password)
}

fn bags(safe: &[u8], password: &Password, store: &mut Store, depth: usize) -> Result<(), Failed> {
    // A wrong password can leave padding that looks right; what is inside then is nonsense.
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
    let key = pbe::decrypt(algorithm, &data.octets()?, password)?;
    if Tlv::only(&key).and_then(|tlv| tlv.expect(SEQUENCE)).is_err() {
        return Err(Failed::Password);
    }
    Ok(key)
}

/// `None` for a certificate of another kind than X.509.
fn certificate(bag: Tlv<'_>) -> Result<Option<Vec<u8>>, Malformed> {
    let mut bag = bag.expect(SEQUENCE)?.children();
    if bag.expect(OID)?.content != X509_CERTIFICATE {
        return Ok(None);
    }
    let der = Tlv::only(bag.expect(CONTEXT_0)?.content)?.octets()?;
    Ok(Some(der.into_owned()))
}

#[cfg(test)]
mod tests;
