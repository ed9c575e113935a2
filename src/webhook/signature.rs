//! Verifies the signature of a request: HMAC-SHA256 (RFC 2104) of its raw body, in hex.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use http::{HeaderMap, HeaderName};

use super::Refusal;
use crate::config::Source;

const LENGTH: usize = 32;
type Tag = [u8; LENGTH];

/// All signatures of a request. While a vendor changes its secret, there is one for each secret.
#[derive(Debug)]
pub(super) struct Signatures {
    header: HeaderName,
    tags: Vec<Tag>,
}

impl Signatures {
    /// The signatures in `header` and in the field of the same name with `-old`.
    pub(super) fn of(header: &HeaderName, headers: &HeaderMap) -> Result<Self, Refusal> {
        let twin = HeaderName::try_from(format!("{header}-old")).ok();
        let names = std::iter::once(header).chain(&twin);
        let mut values = names.flat_map(|name| headers.get_all(name)).peekable();
        if values.peek().is_none() {
            return Err(Refusal::unsigned(header));
        }
        // An intermediary may have joined fields of the same name (RFC 9110 section 5.3).
        let tags: Vec<Tag> = values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|signature| tag(signature.trim()))
            .collect();
        if tags.is_empty() {
            return Err(Refusal::no_hex(header));
        }
        Ok(Self { header: header.clone(), tags })
    }

    /// Checks whether one of the signatures was made with one of the secrets. Reads the secrets, and blocks.
    pub(super) fn check(&self, secrets: &[Source], body: &[u8]) -> Result<(), Refusal> {
        let mut unread = Vec::new();
        for source in secrets {
            match source.read_or_last_good() {
                // Everybody can sign with an empty secret.
                Ok((secret, _)) if secret.is_empty() => unread.push(format!("{}: is empty", source.place())),
                Ok((secret, _)) if self.is_made_with(secret.expose(), body) => return Ok(()),
                Ok(_) => {}
                Err(error) => unread.push(error.to_string()),
            }
        }
        if unread.len() == secrets.len() {
            return Err(Refusal::no_secret(&unread));
        }
        Err(Refusal::no_secret_fits(&self.header, &unread))
    }

    fn is_made_with(&self, secret: &[u8], body: &[u8]) -> bool {
        let right = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), body);
        self.tags.iter().any(|tag| verify_slices_are_equal(tag, right.as_ref()).is_ok())
    }
}

/// Parses 64 hex digits of either case.
fn tag(text: &str) -> Option<Tag> {
    if text.len() != 2 * LENGTH {
        return None;
    }
    let mut tag = [0; LENGTH];
    for (byte, digits) in tag.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let [high, low] = digits else { return None };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(tag)
}

fn digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231 section 4.3.
    const KEY: &str = "Jefe";
    const BODY: &[u8] = b"what do ya want for nothing?";
    const TAG: &str = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    const HEADER: HeaderName = HeaderName::from_static("x-seismic-signature");

    fn secrets(texts: &[&str]) -> Vec<Source> {
        texts.iter().map(|text| Source::literal(*text)).collect()
    }

    fn signed(headers: &[(&'static str, &str)], known: &[&str], body: &[u8]) -> Result<(), Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        Signatures::of(&HEADER, &map)?.check(&secrets(known), body)
    }

    fn words(result: Result<(), Refusal>) -> (u16, String) {
        let refusal = result.unwrap_err();
        (refusal.status.as_u16(), refusal.words())
    }

    #[test]
    fn the_signature_of_the_rfc_is_accepted_in_either_case() {
        let upper = TAG.to_uppercase();
        let mixed: String = TAG
            .chars()
            .enumerate()
            .map(|(at, c)| if at % 2 == 0 { c.to_ascii_uppercase() } else { c })
            .collect();
        for tag in [TAG, &upper, &mixed] {
            assert!(signed(&[("x-seismic-signature", tag)], &[KEY], BODY).is_ok(), "{tag}");
        }
    }

    #[test]
    fn either_header_fits_with_either_secret() {
        let other = "0".repeat(64);
        for known in [[KEY, "another"], ["another", KEY]] {
            for headers in [
                [("x-seismic-signature", TAG), ("x-seismic-signature-old", &other)],
                [("x-seismic-signature", &other), ("x-seismic-signature-old", TAG)],
            ] {
                assert!(signed(&headers, &known, BODY).is_ok(), "{known:?} {headers:?}");
            }
        }
        assert!(signed(&[("x-seismic-signature-old", TAG)], &[KEY], BODY).is_ok(), "the old one alone");
    }

    #[test]
    fn each_of_several_headers_counts() {
        let other = "f".repeat(64);
        let twice = [("x-seismic-signature", other.as_str()), ("x-seismic-signature", TAG)];
        assert!(signed(&twice, &[KEY], BODY).is_ok());
        let joined = format!("{other}, {TAG}");
        assert!(signed(&[("x-seismic-signature", &joined)], &[KEY], BODY).is_ok());
    }

    #[test]
    fn another_body_secret_or_signature_is_refused() {
        let header = [("x-seismic-signature", TAG)];
        assert_eq!(words(signed(&header, &[KEY], b"what do ya want for nothing!")).0, 401);
        assert_eq!(words(signed(&header, &[KEY], b"")).0, 401);
        assert_eq!(words(signed(&header, &["Jeff"], BODY)).0, 401);
        let changed = TAG.replace('5', "6");
        let (status, text) = words(signed(&[("x-seismic-signature", &changed)], &[KEY], BODY));
        assert_eq!(status, 401);
        assert!(text.contains("fits none of the secrets") && !text.contains(&changed), "{text}");
    }

    #[test]
    fn what_is_no_signature_is_told_apart() {
        let (status, text) = words(signed(&[], &[KEY], BODY));
        assert_eq!(status, 401);
        assert!(text.contains("x-seismic-signature is missing"), "{text}");
        let prefixed = format!("sha256={TAG}");
        let not_hex = TAG.replace('5', "g");
        let wide = "é".repeat(32);
        for value in ["", &TAG[1..], &prefixed, &not_hex, &wide] {
            let (status, text) = words(signed(&[("x-seismic-signature", value)], &[KEY], BODY));
            assert_eq!(status, 401);
            assert!(text.contains("64 hex digits"), "{value}: {text}");
        }
    }

    #[test]
    fn without_a_secret_nobody_is_believed() {
        let missing = Source::file("/nowhere/secret".into(), None);
        let mut map = HeaderMap::new();
        map.insert(HEADER, TAG.parse().unwrap());
        let signatures = Signatures::of(&HEADER, &map).unwrap();
        let refusal = signatures.check(&[missing.clone(), Source::literal("")], BODY).unwrap_err();
        assert_eq!(refusal.status.as_u16(), 503);
        assert!(refusal.words().contains("/nowhere/secret"), "{}", refusal.words());
        let answer = format!("{:?}", refusal.answer());
        assert!(!answer.contains("/nowhere"), "{answer}");
        // One that is there is enough.
        assert!(signatures.check(&[missing, Source::literal(KEY)], BODY).is_ok());
    }

    #[test]
    fn an_empty_secret_signs_nothing() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"");
        let forged: String =
            hmac::sign(&key, BODY).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(words(signed(&[("x-seismic-signature", &forged)], &["", KEY], BODY)).0, 401);
    }

    #[test]
    fn a_secret_that_is_being_written_stays_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "Jefe\n").unwrap();
        let sources = [Source::file(path.clone(), None)];
        let mut map = HeaderMap::new();
        map.insert(HEADER, TAG.parse().unwrap());
        let signatures = Signatures::of(&HEADER, &map).unwrap();
        assert!(signatures.check(&sources, BODY).is_ok());
        std::fs::write(&path, "").unwrap();
        assert!(signatures.check(&sources, BODY).is_ok(), "half written");
        std::fs::write(&path, "another\n").unwrap();
        assert!(signatures.check(&sources, BODY).is_err(), "changed");
    }
}
