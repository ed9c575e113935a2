//! What went wrong last, for people: beside the counters, and touched by failures alone.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;

/// The longest text that is kept, in bytes: each of ten thousand routes may keep two.
const LONGEST: usize = 1024;

/// A request that bearerd answered itself, with an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub at: SystemTime,
    pub status: u16,
    /// One of `docs/errors.md`.
    pub code: &'static str,
    /// What happened, to whom, what to do. No secret is in it.
    pub detail: String,
    /// What the log has.
    pub request_id: String,
}

/// An upstream that said no to a token that was only just granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamRefusal {
    pub at: SystemTime,
    /// The upstream's.
    pub status: u16,
    /// Who refused what, and what to check.
    pub detail: String,
}

/// The last of each kind; a later one stands instead.
#[derive(Debug, Default)]
pub(super) struct Last {
    failure: ArcSwapOption<Failure>,
    refusal: ArcSwapOption<UpstreamRefusal>,
}

impl Last {
    pub(super) fn set_failure(&self, failure: Failure) {
        let (detail, request_id) = (plain(&failure.detail), plain(&failure.request_id));
        self.failure.store(Some(Arc::new(Failure { detail, request_id, ..failure })));
    }

    pub(super) fn failure(&self) -> Option<Arc<Failure>> {
        self.failure.load_full()
    }

    pub(super) fn set_refusal(&self, refusal: UpstreamRefusal) {
        let detail = plain(&refusal.detail);
        self.refusal.store(Some(Arc::new(UpstreamRefusal { detail, ..refusal })));
    }

    pub(super) fn refusal(&self) -> Option<Arc<UpstreamRefusal>> {
        self.refusal.load_full()
    }
}

/// On one line, not endless, and without characters that make a terminal or a page show something else than is there.
fn plain(text: &str) -> String {
    let mut kept = String::with_capacity(text.len().min(LONGEST));
    for letter in text.chars().map(|letter| if misleads(letter) { ' ' } else { letter }) {
        if kept.len() + letter.len_utf8() > LONGEST - '…'.len_utf8() {
            kept.push('…');
            break;
        }
        kept.push(letter);
    }
    kept
}

/// Control characters, line ends, and what turns the direction of writing.
fn misleads(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn failure(detail: &str) -> Failure {
        Failure {
            at: UNIX_EPOCH,
            status: 502,
            code: "token_refused",
            detail: detail.to_owned(),
            request_id: "id".to_owned(),
        }
    }

    #[test]
    fn the_last_failure_stands() {
        let last = Last::default();
        assert_eq!(last.failure(), None);
        last.set_failure(failure("first"));
        last.set_failure(failure("second"));
        assert_eq!(last.failure().unwrap().detail, "second");
        assert_eq!(last.refusal(), None);
    }

    #[test]
    fn what_is_kept_is_one_plain_line_and_not_endless() {
        assert_eq!(plain("a\r\nb\u{1b}[2Jc\u{202e}d\u{2028}"), "a  b [2Jc d ");
        assert_eq!(plain("größer"), "größer");
        assert_eq!(plain(&"x".repeat(1021)), "x".repeat(1021));
        for letter in ["x", "ö", "漢"] {
            let kept = plain(&letter.repeat(2000));
            assert!(
                kept.len() <= LONGEST && kept.len() > LONGEST - 6 && kept.ends_with('…'),
                "{}",
                kept.len()
            );
        }
    }
}
