//! Output as a document shows it: `…` matches anything, and alone on a line it matches any lines.

pub(crate) const ANYTHING: &str = "…";

/// Whether the whole output is as shown.
pub(crate) fn shows(shown: &[&str], real: &[&str]) -> bool {
    match shown.split_first() {
        None => real.is_empty(),
        Some((&ANYTHING, rest)) => (0..=real.len()).any(|skipped| shows(rest, &real[skipped..])),
        Some((line, rest)) => {
            real.split_first().is_some_and(|(first, others)| line_shows(line, first) && shows(rest, others))
        }
    }
}

fn line_shows(shown: &str, real: &str) -> bool {
    let mut parts = shown.trim_end().split(ANYTHING);
    let Some(mut left) = parts.next().and_then(|start| real.trim_end().strip_prefix(start)) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((end, middle)) = parts.split_last() else { return left.is_empty() };
    for part in middle {
        match left.split_once(part) {
            Some((_, rest)) => left = rest,
            None => return false,
        }
    }
    left.ends_with(end)
}

#[test]
fn only_what_is_shown_as_anything_may_differ() {
    assert!(line_shows("in … ms, TLS …", "in 31 ms, TLS 1.3  "));
    assert!(line_shows("ready", "ready"));
    for (shown, real) in [("ready", "not ready"), ("ready", "ready now"), ("a … b", "a b"), ("… b", "a c")]
    {
        assert!(!line_shows(shown, real), "{shown} shows {real}");
    }
    assert!(shows(&["a", "…", "d"], &["a", "b", "c", "d"]));
    assert!(shows(&["a", "…"], &["a"]));
    assert!(!shows(&["a", "d"], &["a", "b", "d"]));
    assert!(!shows(&["a"], &["a", "b"]));
}
