//! A lenient reader of PEM blocks (RFC 7468): allows text between them, all kinds of line breaks, and the two
//! characters `\n` instead of a line break, as in many variables.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use super::KeyError;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// One block.
pub(super) struct Block<'a> {
    pub label: &'a str,
    body: &'a str,
}

impl Block<'_> {
    /// The block has the header lines of OpenSSL's older encryption (RFC 1421 section 4.6).
    pub(super) fn is_encrypted(&self) -> bool {
        self.body.contains("Proc-Type:") && self.body.contains("ENCRYPTED")
    }

    /// # Errors
    /// The block is not base64.
    pub(super) fn der(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        decode(self.body).ok_or_else(|| {
            KeyError(format!("its {} block is not base64; was it copied whole?", known(self.label)))
        })
    }
}

/// Decodes base64 with line breaks and spaces anywhere. `None`: it is something else.
pub(super) fn decode(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut plain = Zeroizing::new(String::with_capacity(text.len()));
    for line in text.split("\\n") {
        plain.extend(line.split(|c: char| c.is_ascii_whitespace() || c == '\\'));
    }
    LENIENT.decode(plain.as_bytes()).map(Zeroizing::new).ok()
}

/// All blocks in their order.
///
/// # Errors
/// A block has no end.
pub(super) fn blocks(text: &str) -> Result<Vec<Block<'_>>, KeyError> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(BEGIN) {
        let broken = || KeyError("a BEGIN line of it is broken; was it copied whole?".to_owned());
        let (label, after) = after.split_once(DASHES).ok_or_else(broken)?;
        if label.contains(['\n', '\r']) {
            return Err(broken());
        }
        let end = format!("{END}{label}{DASHES}");
        let (body, after) = after.split_once(&end).ok_or_else(|| {
            KeyError(format!("it is cut off: its {} block has no END line (half written?)", known(label)))
        })?;
        found.push(Block { label, body });
        rest = after;
    }
    Ok(found)
}

/// A label that may be shown. An unknown one is not quoted, because it may be anything.
pub(super) fn known(label: &str) -> &'static str {
    const KNOWN: [&str; 18] = [
        "PRIVATE KEY",
        "RSA PRIVATE KEY",
        "EC PRIVATE KEY",
        "DSA PRIVATE KEY",
        "ENCRYPTED PRIVATE KEY",
        "OPENSSH PRIVATE KEY",
        "PUBLIC KEY",
        "RSA PUBLIC KEY",
        "CERTIFICATE",
        "X509 CERTIFICATE",
        "TRUSTED CERTIFICATE",
        "CERTIFICATE REQUEST",
        "NEW CERTIFICATE REQUEST",
        "X509 CRL",
        "PKCS7",
        "EC PARAMETERS",
        "DH PARAMETERS",
        "PGP PRIVATE KEY BLOCK",
    ];
    KNOWN.into_iter().find(|known| *known == label).unwrap_or("PEM")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_among_other_text() {
        let text = "Bag Attributes\r\n-----BEGIN A-----\r\nAQI\r\nD\r\n-----END A-----\nx-----BEGIN B-----\\nBA==\\n-----END B-----";
        let found = blocks(text).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].label, found[0].der().unwrap().to_vec()), ("A", vec![1, 2, 3]));
        assert_eq!((found[1].label, found[1].der().unwrap().to_vec()), ("B", vec![4]));
    }

    #[test]
    fn broken_blocks_are_reported_and_not_quoted() {
        let of = |text: &str| match blocks(text) {
            Ok(found) => found[0].der().unwrap_err().0,
            Err(error) => error.0,
        };
        assert_eq!(
            of("-----BEGIN PRIVATE KEY-----\nhunter2"),
            "it is cut off: its PRIVATE KEY block has no END line (half written?)"
        );
        assert_eq!(
            of("-----BEGIN hunter2-----\n!\n-----END hunter2-----"),
            "its PEM block is not base64; was it copied whole?"
        );
        assert_eq!(of("-----BEGIN PRIV"), "a BEGIN line of it is broken; was it copied whole?");
    }
}
