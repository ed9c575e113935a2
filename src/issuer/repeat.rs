//! When a request to an issuer is sent once more at once, and over which version of HTTP.

use std::sync::atomic::{AtomicBool, Ordering};

use super::exchange::ExchangeError;
use crate::net::Offer;

/// Why a request may be sent once more at once: nothing came of the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// The issuer gave the nonce that it wants in the DPoP proof.
    WithNonce,
    /// Over HTTP/2, the issuer says that it has not processed the request.
    NotProcessed,
    /// Over HTTP/2, the issuer wants HTTP/1.1.
    OverHttp1,
}

impl Again {
    pub(super) fn after(broken: &ExchangeError) -> Option<Self> {
        match broken {
            ExchangeError::NotProcessed(_) => Some(Self::NotProcessed),
            ExchangeError::NeedsHttp1(_) => Some(Self::OverHttp1),
            ExchangeError::Timeout { .. }
            | ExchangeError::Connect(_)
            | ExchangeError::NotHttp(_)
            | ExchangeError::Closed(_) => None,
        }
    }
}

/// Each reason counts once for a token, so that no issuer can keep a request going.
#[derive(Default)]
pub(super) struct Repeats(Vec<Again>);

impl Repeats {
    pub(super) fn allow(&mut self, again: Option<Again>) -> Option<Again> {
        let again = again.filter(|again| !self.0.contains(again))?;
        self.0.push(again);
        Some(again)
    }
}

/// The versions of HTTP that an issuer takes.
#[derive(Default)]
pub(super) struct Versions {
    http1_alone: AtomicBool,
}

impl Versions {
    pub(super) fn offer(&self) -> Offer {
        if self.http1_alone.load(Ordering::Relaxed) { Offer::Http1 } else { Offer::Both }
    }

    /// The issuer wants HTTP/1.1: it gets nothing else from now on. Said once.
    pub(super) fn learn(&self, again: Again, issuer: &str) {
        if again == Again::OverHttp1 && !self.http1_alone.swap(true, Ordering::Relaxed) {
            tracing::info!(
                event = "issuer.http1_required",
                issuer,
                "the issuer answers HTTP_1_1_REQUIRED over HTTP/2; it is asked over HTTP/1.1 from now on"
            );
        }
    }
}
