//! DPoP toward the issuer (RFC 9449 sections 5 and 8).

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use http::{HeaderMap, Method};

use super::{IssuerError, context};
use crate::config::HttpUrl;
use crate::jose::{Proof, Prover};
use crate::net::dpop;
use crate::secret::Secret;

/// The nonce that the issuer gave last (section 8.2: it may give a new one with any response).
#[derive(Default)]
pub(super) struct Nonce(ArcSwapOption<String>);

impl Nonce {
    /// Keeps the nonce of a response, and says whether there is one.
    pub(super) fn keep(&self, headers: &HeaderMap) -> bool {
        let Some(nonce) = dpop::nonce(headers) else { return false };
        self.0.store(Some(Arc::new(nonce.to_owned())));
        true
    }

    /// A proof for one request to `url`; a new one for each.
    pub(super) fn proof(
        &self,
        prover: &Prover,
        method: &Method,
        url: &HttpUrl,
        now: SystemTime,
    ) -> Result<Secret, String> {
        let scheme = if url.https { "https" } else { "http" };
        let target = format!("{scheme}://{}", context::shown(url));
        let nonce = self.0.load_full();
        let nonce = nonce.as_ref().map(|nonce| nonce.as_str());
        let proof = Proof { method: method.as_str(), url: &target, issued_at: now, nonce, token: None };
        prover.proof(&proof).map_err(|error| format!("dpop: {error}"))
    }
}

/// The issuer wants another nonce in the proof (section 8).
pub(super) fn wants_nonce(error: &IssuerError) -> bool {
    matches!(error.http_status, Some(400 | 401)) && error.code.as_deref() == Some(dpop::USE_NONCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfit_nonce_leaves_the_last_one_in_place() {
        let nonce = Nonce::default();
        for (value, kept) in [("n-1", true), ("a b", false)] {
            let headers = HeaderMap::from_iter([(dpop::NONCE, value.parse().unwrap())]);
            assert_eq!(nonce.keep(&headers), kept, "{value}");
        }
        assert!(!nonce.keep(&HeaderMap::new()));
        assert_eq!(nonce.0.load_full().unwrap().as_str(), "n-1");
    }
}
