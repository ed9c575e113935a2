//! The keys that `[store] keys` give.

use std::fmt;

use base64::Engine as _;
use base64::alphabet::{self, Alphabet};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use crate::config::types::counted;
use crate::secret::{MASK, Secret};

/// How long a key is, in bytes.
const LENGTH: usize = 32;
/// How to make one, for messages.
pub(super) const HOW_TO_MAKE: &str = "`openssl rand -base64 32` makes one";

/// A key that encrypts what is in the store. Its bytes are overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreKey(Zeroizing<[u8; LENGTH]>);

impl StoreKey {
    /// Reads a key as it is written: in hex (either case) or in base64 (either alphabet, with padding or without it). White
    /// space around it does not matter.
    ///
    /// # Errors
    /// What is wrong with it, without any part of it.
    pub fn parse(written: &Secret) -> Result<Self, String> {
        let text = written.expose().trim_ascii();
        let key = hex(text).or_else(|| base64(text)).ok_or_else(|| why_not(text))?;
        Ok(Self(key))
    }

    /// The only way to the bytes.
    pub fn expose(&self) -> &[u8; LENGTH] {
        &self.0
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

fn hex(text: &[u8]) -> Option<Zeroizing<[u8; LENGTH]>> {
    if text.len() != 2 * LENGTH {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut key = Zeroizing::new([0; LENGTH]);
    for (byte, pair) in key.iter_mut().zip(text.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(key)
}

fn base64(text: &[u8]) -> Option<Zeroizing<[u8; LENGTH]>> {
    let bytes = decoded(text)?;
    let mut key = Zeroizing::new([0; LENGTH]);
    if bytes.len() != LENGTH {
        return None;
    }
    key.copy_from_slice(&bytes);
    Some(key)
}

fn decoded(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let optional = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let decode = |alphabet: &Alphabet| GeneralPurpose::new(alphabet, optional).decode(text).ok();
    decode(&alphabet::STANDARD).or_else(|| decode(&alphabet::URL_SAFE)).map(Zeroizing::new)
}

fn why_not(text: &[u8]) -> String {
    let is_hex = text.iter().all(u8::is_ascii_hexdigit) && text.len().is_multiple_of(2);
    let found = match decoded(text) {
        _ if text.is_empty() => "it is empty".to_owned(),
        // Other lengths of hex digits are base64 too, and whoever wrote them meant hex.
        _ if is_hex => format!("it is hex of {}", counted(text.len() / 2, "byte")),
        Some(bytes) => format!("it is base64 of {}", counted(bytes.len(), "byte")),
        None => "it is neither hex nor base64".to_owned(),
    };
    format!("is not a key of {LENGTH} bytes in base64 or hex: {found}")
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
    use proptest::prelude::*;

    use super::*;

    fn parse(text: impl Into<Vec<u8>>) -> Result<StoreKey, String> {
        StoreKey::parse(&Secret::new(text))
    }

    proptest! {
        #[test]
        fn every_way_to_write_a_key_gives_its_bytes(key: [u8; 32]) {
            let lower: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
            let mut ways: Vec<String> =
                [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD].iter().map(|way| way.encode(key)).collect();
            ways.extend([lower.to_uppercase(), format!(" {lower}\r\n"), lower]);
            for way in ways {
                prop_assert_eq!(*parse(way).unwrap().expose(), key);
            }
        }

        #[test]
        fn other_lengths_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..70)) {
            prop_assume!(bytes.len() != 32);
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            for text in [STANDARD.encode(&bytes), URL_SAFE_NO_PAD.encode(&bytes), hex] {
                let is_another_key = parse(text.as_str()).is_ok();
                prop_assert!(!is_another_key, "{} bytes", bytes.len());
            }
        }

        #[test]
        fn no_text_panics_or_is_shown(text in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Err(why) = parse(text.as_slice()) {
                let text = String::from_utf8_lossy(&text);
                prop_assert!(text.trim().len() < 12 || !why.contains(text.trim()), "{why}");
            }
        }
    }

    #[test]
    fn the_message_says_what_was_found_and_nothing_of_it() {
        for (text, words) in [
            ("", "it is empty"),
            ("hunter2!", "it is neither hex nor base64"),
            ("aHVudGVyMg==", "it is base64 of 7 bytes"),
            ("00112233445566778899aabbccddeeff", "it is hex of 16 bytes"),
            (" ", "it is empty"),
        ] {
            let why = parse(text).unwrap_err();
            assert!(why.starts_with("is not a key of 32 bytes") && why.ends_with(words), "{text}: {why}");
        }
        assert!(parse([0; 32]).unwrap_err().ends_with("it is neither hex nor base64"), "raw bytes");
    }

    #[test]
    fn a_key_is_never_printed() {
        assert_eq!(format!("{:?}", parse("ab".repeat(32)).unwrap()), MASK);
    }
}
