//! Two credentials at once: which of them is tried first, and what is said when both are refused.

use std::sync::atomic::{AtomicBool, Ordering};

use super::client::Which;
use super::{FailureKind, IssuerError};

/// The credential that worked last is tried first.
#[derive(Default)]
pub(super) struct Preference {
    standby: AtomicBool,
}

impl Preference {
    pub(super) fn first(&self) -> Which {
        if self.standby.load(Ordering::Relaxed) { Which::Standby } else { Which::Current }
    }

    /// The issuer accepted `which` after it had refused the other. Said once each way.
    pub(super) fn fell_over_to(&self, which: Which, issuer: &str) {
        let standby = which == Which::Standby;
        if self.standby.swap(standby, Ordering::Relaxed) == standby {
            return;
        }
        if standby {
            tracing::warn!(
                event = "issuer.standby_used",
                issuer,
                "the issuer refuses the current credential and accepts standby, which is used from now on"
            );
        } else {
            tracing::info!(
                event = "issuer.standby_ended",
                issuer,
                "the issuer accepts the current credential again, which is used from now on"
            );
        }
    }
}

/// Both were refused, or the second could not be tried.
pub(super) fn both(issuer: &str, first: (Which, IssuerError), second: (Which, IssuerError)) -> IssuerError {
    let ((which, first), (other, second)) = (first, second);
    let prefix = format!("issuer {issuer}: ");
    let both = |first: &str, second: &str| {
        let words = |text: &str| text.strip_prefix(&prefix).unwrap_or(text).to_owned();
        format!("{prefix}with {which}, {}; with {other}, {}", words(first), words(second))
    };
    let (detail, summary) = (both(&first.detail, &second.detail), both(&first.summary, &second.summary));
    let remedy_of_first = first.remedy.clone();
    // A second one that nobody judged leaves open whether it works.
    let kind = match second.kind {
        FailureKind::Credential => FailureKind::ClientRefused,
        kind => kind,
    };
    let refused = if second.kind == FailureKind::Credential { first } else { second };
    // Where both say the same, once is enough.
    let remedies = [remedy_of_first, refused.remedy.clone()].into_iter().flatten();
    let mut remedies: Vec<Box<str>> = remedies.collect();
    remedies.dedup();
    let remedy = (!remedies.is_empty()).then(|| remedies.join("; ").into());
    IssuerError { kind, detail, summary, remedy, ..refused }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issuer::fixture::failure;

    #[test]
    fn the_one_that_worked_is_first_from_then_on() {
        let preference = Preference::default();
        assert_eq!(preference.first(), Which::Current);
        preference.fell_over_to(Which::Standby, "corp");
        assert_eq!(preference.first(), Which::Standby);
        preference.fell_over_to(Which::Current, "corp");
        assert_eq!(preference.first(), Which::Current);
    }

    #[test]
    fn two_failures_are_both_told() {
        let first = || (Which::Current, failure(FailureKind::ClientRefused, "one"));
        for (kind, result) in [
            (FailureKind::ClientRefused, FailureKind::ClientRefused),
            (FailureKind::Credential, FailureKind::ClientRefused),
            (FailureKind::Unavailable, FailureKind::Unavailable),
            (FailureKind::RequestRefused, FailureKind::RequestRefused),
        ] {
            let error = both("corp", first(), (Which::Standby, failure(kind, "two")));
            assert_eq!(error.kind, result);
            assert_eq!(
                error.detail,
                "issuer corp: with the current credential, one; with the standby credential, two"
            );
        }
    }
}
