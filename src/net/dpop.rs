//! Parses DPoP header fields of responses (RFC 9449).

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// The request header field of a proof (section 4.1).
pub static DPOP: HeaderName = HeaderName::from_static("dpop");
/// The response header field of a nonce (section 8.1).
pub const NONCE: HeaderName = HeaderName::from_static("dpop-nonce");
/// The error of a server that requires its nonce in the proof (sections 8 and 9).
pub const USE_NONCE: &str = "use_dpop_nonce";
/// The error of a server that refuses the proof (section 5).
pub const INVALID_PROOF: &str = "invalid_dpop_proof";

/// The longest nonce, in bytes. It goes into every proof, so it must be bounded.
const LONGEST_NONCE: usize = 1024;

/// The nonce for the next proof, if the response has one (section 8.2).
pub fn nonce(headers: &HeaderMap) -> Option<&str> {
    let mut lines = headers.get_all(NONCE).iter();
    let (line, None) = (lines.next()?.to_str().ok()?, lines.next()) else { return None };
    // NQCHAR of RFC 6749 appendix A.
    let fits = |byte| matches!(byte, 0x21 | 0x23..=0x5B | 0x5D..=0x7E);
    ((1..=LONGEST_NONCE).contains(&line.len()) && line.bytes().all(fits)).then_some(line)
}

/// The `error` of a `DPoP` challenge in `WWW-Authenticate` (RFC 9110 section 11.6.1).
pub fn challenge_error(headers: &HeaderMap) -> Option<String> {
    headers.get_all(header::WWW_AUTHENTICATE).iter().find_map(error_of)
}

fn error_of(line: &HeaderValue) -> Option<String> {
    let line = String::from_utf8_lossy(line.as_bytes());
    let mut ours = false;
    items(&line).find_map(|item| {
        let parameter = match item.split_once([' ', '\t']) {
            // A scheme and its first parameter.
            Some((scheme, rest)) if !scheme.contains('=') && !rest.trim_start().starts_with('=') => {
                ours = scheme.eq_ignore_ascii_case("dpop");
                rest
            }
            None if !item.contains('=') => {
                ours = item.eq_ignore_ascii_case("dpop");
                ""
            }
            Some(_) | None => item,
        };
        let (name, value) = parameter.split_once('=').filter(|_| ours)?;
        name.trim().eq_ignore_ascii_case("error").then(|| value.trim().trim_matches('"').to_owned())
    })
}

/// Splits a list at its commas, except those within quotes.
fn items(list: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = list.split(move |letter| {
        let comma = letter == ',' && !quoted;
        if !escaped && letter == '"' {
            quoted = !quoted;
        }
        escaped = quoted && !escaped && letter == '\\';
        comma
    });
    parts.map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_taken_where_it_is_one_and_not_endless() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(NONCE, value.parse().unwrap());
            }
            nonce(&headers).map(str::to_owned)
        };
        assert_eq!(of(&["eyJ7S_zG.eyJH0-Z.HX4w-7v"]).as_deref(), Some("eyJ7S_zG.eyJH0-Z.HX4w-7v"));
        let long = "n".repeat(LONGEST_NONCE + 1);
        for values in [&["a", "b"][..], &[""], &["a b"], &["a\"b"], &["a\\b"], &[&long], &[]] {
            assert_eq!(of(values), None, "{values:?}");
        }
    }
}
