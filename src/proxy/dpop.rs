//! Tokens that are bound to a key (RFC 9449): the proof beside each call, and the nonces that upstreams ask for.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use super::error::{Code, ProxyError};
use super::snapshot::RouteService;
use crate::config::{RouteConfig, UpstreamTarget};
use crate::jose::{Proof, Prover};
use crate::token::Token;
use crate::upstream::Head;

/// The header of a proof (section 4.1).
pub(super) static DPOP: HeaderName = HeaderName::from_static("dpop");
pub(super) const NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// A nonce goes into every proof, so what an upstream may have us remember is bounded; in bytes.
const LONGEST_NONCE: usize = 1024;

/// `https://api.example.com`: what proofs for this route's upstream begin their `htu` with.
pub(super) fn origin(route: &RouteConfig) -> String {
    let https = matches!(route.upstream.target, UpstreamTarget::Tcp { https: true, .. });
    format!("{}://{}", if https { "https" } else { "http" }, route.upstream.authority)
}

/// Puts on the proof that `prover` has the token's key, for this very call (section 7.1): a new one each time.
///
/// # Errors
/// 500: the proof cannot be signed.
pub(super) fn prove(
    service: &RouteService,
    prover: &Prover,
    head: &mut Head,
    token: &Token,
) -> Result<(), ProxyError> {
    let Some((slot, origin)) = service.slot.as_ref().zip(service.injection.origin()) else { return Ok(()) };
    let nonce = service.upstream.nonce();
    let proof = prover.proof(&Proof {
        method: head.method.as_str(),
        url: &format!("{origin}{}", head.target.path()),
        issued_at: slot.time_of_day(),
        nonce: nonce.as_deref().map(String::as_str),
        token: Some(&token.secret),
    });
    let value = proof.map_err(|error| unprovable(&error.to_string()))?;
    let mut value = HeaderValue::from_maybe_shared(value.into_bytes())
        .map_err(|_| unprovable("it holds characters that no header may have"))?;
    value.set_sensitive(true);
    head.headers.insert(&DPOP, value);
    Ok(())
}

fn unprovable(why: &str) -> ProxyError {
    let detail = format!("the DPoP proof for this call cannot be made: {why}; check dpop of the issuer");
    ProxyError::new(Code::Internal, detail)
}

/// The nonce that an answer gives for the next proof, where it gives one (section 8.2).
pub(super) fn nonce(headers: &HeaderMap) -> Option<&str> {
    let mut lines = headers.get_all(NONCE).iter();
    let (line, None) = (lines.next()?.to_str().ok()?, lines.next()) else { return None };
    // NQCHAR of RFC 6749 appendix A.
    let fits = |byte| matches!(byte, 0x21 | 0x23..=0x5B | 0x5D..=0x7E);
    ((1..=LONGEST_NONCE).contains(&line.len()) && line.bytes().all(fits)).then_some(line)
}

/// Whether the upstream wants the same call with its nonce in the proof (section 9): that says nothing of the token.
pub(super) fn asks_for_nonce<B>(response: &Response<B>) -> bool {
    response.status() == StatusCode::UNAUTHORIZED
        && nonce(response.headers()).is_some()
        && response.headers().get_all(header::WWW_AUTHENTICATE).iter().any(challenges)
}

/// Whether one of a line's challenges (RFC 9110 section 11.6.1) is `DPoP` with the error `use_dpop_nonce`.
fn challenges(line: &HeaderValue) -> bool {
    let line = String::from_utf8_lossy(line.as_bytes());
    let mut ours = false;
    items(&line).any(|item| {
        let parameter = match item.split_once([' ', '\t']) {
            // A scheme, and its first parameter.
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
        ours && says(parameter, "error", "use_dpop_nonce")
    })
}

fn says(parameter: &str, name: &str, value: &str) -> bool {
    parameter.split_once('=').is_some_and(|(found, said)| {
        found.trim().eq_ignore_ascii_case(name) && said.trim().trim_matches('"') == value
    })
}

/// What stands between the commas of a list; those within quotes do not count.
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

    fn asks(challenge: &'static str) -> bool {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        response.headers_mut().insert(NONCE, HeaderValue::from_static("n-1"));
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        asks_for_nonce(&response)
    }

    #[test]
    fn t81_a_nonce_is_asked_for_in_every_form_of_a_challenge() {
        for challenge in [
            r#"DPoP error="use_dpop_nonce""#,
            r#"DPoP error="use_dpop_nonce", error_description="Resource server requires nonce in DPoP proof""#,
            r#"dpop realm="a, b", algs="ES256 RS256" , ERROR = "use_dpop_nonce""#,
            "DPoP error=use_dpop_nonce",
            r#"Bearer error="invalid_token", DPoP algs="ES256", error="use_dpop_nonce""#,
            r#"Negotiate abc==, DPoP error="use_dpop_nonce""#,
            r#"Basic, DPoP realm="\"x\", y", error="use_dpop_nonce""#,
        ] {
            assert!(asks(challenge), "{challenge}");
        }
    }

    #[test]
    fn t81_no_other_challenge_asks_for_one() {
        for challenge in [
            r#"DPoP error="invalid_token""#,
            r#"DPoP error="invalid_dpop_proof", error_description="use_dpop_nonce""#,
            r#"Bearer error="use_dpop_nonce""#,
            r#"DPoP algs="ES256", Bearer error="use_dpop_nonce""#,
            r#"Bearer realm="DPoP error=\"use_dpop_nonce\"""#,
            r#"Bearer realm="a, DPoP error=use_dpop_nonce""#,
            "DPoP",
        ] {
            assert!(!asks(challenge), "{challenge}");
        }
    }

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
