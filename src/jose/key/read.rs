//! Tells the forms of key files apart.

use zeroize::Zeroizing;

use super::super::pem::{self, Block};
use super::super::pkcs12;
use super::der::{self, Form, form};
use super::{Certificate, Identity, KeyError, PrivateKey, json};
use crate::secret::Secret;

const DECRYPT: &str = "decrypt it (openssl pkcs8 -topk8 -nocrypt -in key.pem -out plain.pem) and protect the file \
                       by its mode";

/// The key in `bytes`, in any form.
pub(super) fn parse(bytes: &[u8], password: Option<&Secret>) -> Result<PrivateKey, KeyError> {
    let bytes = unwrapped(bytes);
    if bytes.trim_ascii().is_empty() {
        return Err(KeyError("it is empty".to_owned()));
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) if text.trim_start().starts_with('{') => json::parse(text),
        Ok(text) if text.contains("-----BEGIN ") => from_pem(text, Identity::default(), password),
        _ => from_der(&with_its_last_byte(bytes), password),
    }
}

/// Without a byte order mark, and without base64 around the whole: vaults hand out PKCS#12 so.
pub(in crate::jose) fn unwrapped(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match std::str::from_utf8(bytes).ok().and_then(pem::decode) {
        // Plain words may be base64 too: only what then begins as a key or certificate does is taken for it.
        Some(inner) if [&b"\x30"[..], b"-----BEGIN ", b"{"].iter().any(|start| inner.starts_with(start)) => {
            inner
        }
        _ => Zeroizing::new(bytes.to_vec()),
    }
}

/// A reference cuts one line end off; of a binary file this may have been its last byte.
pub(in crate::jose) fn with_its_last_byte(bytes: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
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
        Some(Form::Pkcs8) => der::pkcs8(bytes)?,
        Some(Form::EncryptedPkcs8) => der::pkcs8(&decrypted(bytes, password)?)?,
        Some(Form::Pkcs1) => super::Pair::from_pkcs1(bytes, false)?,
        Some(Form::Sec1) => der::sec1(bytes, None)?,
        Some(Form::PublicKey) => return Err(public_key()),
        Some(Form::Certificate | Form::Pkcs7) => return Err(certificate_alone()),
        None => return Err(unknown(bytes)),
    };
    PrivateKey::new(pair, Identity::default(), Vec::new())
}

fn from_pkcs12(bytes: &[u8], password: Option<&Secret>) -> Result<PrivateKey, KeyError> {
    let store = pkcs12::open(bytes, password)?;
    let pair = match store.keys.as_slice() {
        [key] => der::pkcs8(key)?,
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

/// The first private key among the blocks, with the certificates beside it.
pub(super) fn from_pem(
    text: &str,
    identity: Identity,
    password: Option<&Secret>,
) -> Result<PrivateKey, KeyError> {
    let blocks = pem::blocks(text)?;
    let Some(block) = blocks.iter().find(|block| block.label.ends_with("PRIVATE KEY")) else {
        return Err(no_key_among(&blocks));
    };
    if block.is_encrypted() {
        return Err(KeyError(format!("the key is encrypted with a passphrase; {DECRYPT}")));
    }
    let pair = match block.label {
        "PRIVATE KEY" => der::pkcs8(&block.der()?)?,
        "ENCRYPTED PRIVATE KEY" => der::pkcs8(&decrypted(&block.der()?, password)?)?,
        "RSA PRIVATE KEY" => super::Pair::from_pkcs1(&block.der()?, false)?,
        "EC PRIVATE KEY" => {
            let named = blocks.iter().find(|block| block.label == "EC PARAMETERS");
            let named = named.map(Block::der).transpose()?;
            der::sec1(&block.der()?, named.as_ref().map(|der| der.as_slice()))?
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

/// Neither PEM nor JSON nor a form of DER.
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
            "it is no key in a known form: PEM, DER, JWK, PKCS#12, or the key JSON of Google or ZITADEL"
        }
        .to_owned(),
    )
}
