//! Tokens that are bound to a key (RFC 9449): the proof beside each request, and the nonces that upstreams ask for.

use http::{HeaderValue, Response, StatusCode};

use super::error::{Code, ProxyError};
use super::snapshot::RouteService;
use crate::config::{RouteConfig, UpstreamTarget};
use crate::jose::{Proof, Prover};
pub(super) use crate::net::dpop::{DPOP, nonce};
use crate::net::dpop::{USE_NONCE, challenge_error};
use crate::token::Token;
use crate::upstream::Head;

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
    let detail = format!("the DPoP proof for this request cannot be made: {why}; check dpop of the issuer");
    ProxyError::new(Code::Internal, detail)
}

/// Whether the upstream wants the same request with its nonce in the proof (section 9): that says nothing of the token.
pub(super) fn asks_for_nonce<B>(response: &Response<B>) -> bool {
    response.status() == StatusCode::UNAUTHORIZED
        && nonce(response.headers()).is_some()
        && challenge_error(response.headers()).as_deref() == Some(USE_NONCE)
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;
    use crate::net::dpop::NONCE;

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
}
