//! `credential_grace`: some vendors take minutes to learn of a credential that was just changed.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::fingerprint::Digest;
use super::{FailureKind, IssuerError};

/// When the credential that is there now was first seen.
#[derive(Default)]
pub(super) struct Grace(ArcSwapOption<(Digest, Duration)>);

impl Grace {
    /// How long ago the credential with this digest was first seen; `now` runs in suspend.
    pub(super) fn age(&self, digest: Digest, now: Duration) -> Duration {
        match self.0.load().as_deref() {
            Some((known, since)) if *known == digest => now.saturating_sub(*since),
            _ => {
                self.0.store(Some(Arc::new((digest, now))));
                Duration::ZERO
            }
        }
    }
}

/// See [`IssuerError::forgiven`].
pub(super) fn forgive(error: IssuerError, age: Duration, grace: Duration) -> IssuerError {
    if error.kind != FailureKind::ClientRefused || age >= grace {
        return error;
    }
    let shown = humantime::format_duration(grace);
    let error = error.and(&format!(
        "the credential is new or changed {} s ago, so it is asked again within credential_grace ({shown})",
        age.as_secs()
    ));
    IssuerError { forgiven: true, ..error }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn refused(kind: FailureKind) -> IssuerError {
        crate::issuer::fixture::failure(kind, "no")
    }

    #[test]
    fn age_counts_from_when_a_credential_was_first_seen() {
        let grace = Grace::default();
        assert_eq!(grace.age([1; 32], MINUTE), Duration::ZERO);
        assert_eq!(grace.age([1; 32], MINUTE * 3), MINUTE * 2);
        assert_eq!(grace.age([2; 32], MINUTE * 4), Duration::ZERO);
        assert_eq!(grace.age([2; 32], MINUTE * 5), MINUTE);
    }

    #[test]
    fn a_refused_client_alone_is_forgiven_and_only_meanwhile() {
        let forgiven = forgive(refused(FailureKind::ClientRefused), MINUTE, MINUTE * 15);
        assert_eq!((forgiven.kind, forgiven.http_status), (FailureKind::ClientRefused, Some(401)));
        assert!(forgiven.forgiven && !forgiven.is_final());
        assert!(
            forgiven.detail.ends_with("changed 60 s ago, so it is asked again within credential_grace (15m)")
        );
        for (kind, age, grace) in [
            (FailureKind::ClientRefused, MINUTE, MINUTE),
            (FailureKind::ClientRefused, Duration::ZERO, Duration::ZERO),
            (FailureKind::RequestRefused, Duration::ZERO, MINUTE),
        ] {
            assert!(forgive(refused(kind), age, grace).is_final());
        }
    }
}
