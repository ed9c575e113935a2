//! One line for people who wait, on a terminal alone: it is written over as answers come, and gone at the end.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::output;

/// Longer lines would wrap, and a wrapped line is not erased whole.
const WIDTH: usize = 78;
/// To the start of the line, and nothing in it.
const ERASE: &str = "\r\x1b[2K";

#[derive(Debug)]
pub(super) struct Progress {
    shown: bool,
    all: usize,
    done: AtomicUsize,
}

impl Progress {
    /// Of `all` issuers and upstreams.
    pub(super) fn new(all: usize) -> Arc<Self> {
        let dumb = std::env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
        let this = Self { shown: std::io::stderr().is_terminal() && !dumb, all, done: AtomicUsize::new(0) };
        this.say("");
        Arc::new(this)
    }

    pub(super) fn done(&self, what: &str, name: &str, ok: bool) {
        self.done.fetch_add(1, Ordering::Relaxed);
        self.say(&format!(" ({what} {name}: {})", if ok { "ok" } else { "failed" }));
    }

    /// Before the report.
    pub(super) fn end(&self) {
        self.write("");
    }

    fn say(&self, last: &str) {
        let (done, all) = (self.done.load(Ordering::Relaxed), self.all);
        self.write(&line(done, all, last));
    }

    fn write(&self, text: &str) {
        if self.shown {
            let mut stderr = std::io::stderr().lock();
            let _ = write!(stderr, "{ERASE}{text}").and_then(|()| stderr.flush());
        }
    }
}

fn line(done: usize, all: usize, last: &str) -> String {
    let line = format!("asking issuers and upstreams: {done} of {all} answered{}", output::harmless(last));
    let line = line.replace(['\n', '\t'], " ");
    match line.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_never_wraps_and_steers_nothing() {
        assert_eq!(
            line(1, 3, " (issuer a: ok)"),
            "asking issuers and upstreams: 1 of 3 answered (issuer a: ok)"
        );
        let long = line(1, 3, &format!(" (upstream {}\u{1b}[2J", "é".repeat(200)));
        assert_eq!(long.chars().count(), WIDTH + 1);
        assert!(!long.contains('\u{1b}'));
    }
}
