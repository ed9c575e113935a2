//! Logs: what is written, how, and a way to stderr that a blocked pipe cannot stop a call on.
//!
//! Level and format may change while the process runs. A line is formatted on the thread that logs and handed to a
//! thread that writes; where that one cannot keep up, lines are dropped and counted, and calls go on.

mod format;
mod layer;
mod writer;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing::Subscriber;

use crate::config::{Log, LogFilter, LogFormat};
use format::Style;
use layer::{Output, Settings, Shared};
use writer::Lines;

/// The target of the line that each call gets; `bearerd::access=off` turns it off in a filter.
pub const ACCESS_TARGET: &str = "bearerd::access";

/// How long the end of the process waits for stderr to take the last lines.
const LAST_FLUSH: Duration = Duration::from_secs(1);

/// Lines given up by this process' log; unset until [`init`].
static DROPPED: OnceLock<Arc<AtomicU64>> = OnceLock::new();

/// What the command line (or `$BEARERD_LOG`) says; it goes before the file's `[log]`, across reloads too.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--log-format`.
    pub format: Option<LogFormat>,
    /// `--log-level` or `$BEARERD_LOG`, in env-filter syntax; blank counts as not given.
    pub level: Option<String>,
}

impl Overrides {
    fn format(&self, log: Option<&Log>) -> LogFormat {
        self.format.or_else(|| log.map(|log| log.format)).unwrap_or(LogFormat::Text)
    }

    fn level<'a>(&'a self, log: Option<&'a Log>) -> &'a str {
        let given = self.level.as_deref().filter(|level| !level.trim().is_empty());
        given.or_else(|| log.map(|log| log.level.as_str())).unwrap_or("info")
    }
}

/// Changes the log while the process runs; writes out what is left when it is dropped.
#[derive(Debug)]
pub struct LogControl {
    shared: Arc<Shared>,
    lines: Lines,
    overrides: Overrides,
}

/// Starts logging to stderr for the whole process; without `log`, as text at level `info`.
///
/// # Errors
/// The filter cannot be read, or logging was started already.
pub fn init(overrides: Overrides, log: Option<&Log>) -> Result<LogControl, String> {
    let stderr = std::io::stderr();
    // As answers have them: a terminal, NO_COLOR, `--color`.
    let plain = anstream::AutoStream::choice(&stderr) == anstream::ColorChoice::Never;
    let style = if plain { Style::Plain } else { Style::Colour };
    let (subscriber, control) = build(overrides, log, stderr, style)?;
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|_| "logging was started already in this process".to_owned())?;
    // Set once, as the subscriber was.
    let _ = DROPPED.set(control.lines.dropped_counter());
    Ok(control)
}

/// Log lines that this process gave up because stderr did not take them.
pub fn dropped_lines() -> u64 {
    DROPPED.get().map_or(0, |dropped| dropped.load(Ordering::Relaxed))
}

/// Whether this is a filter that [`init`] would take.
///
/// # Errors
/// What is wrong with it, and what to write instead.
pub fn check_level(level: &str) -> Result<(), String> {
    parse_filter(level).map(drop)
}

fn build<W: std::io::Write + Send + 'static>(
    overrides: Overrides,
    log: Option<&Log>,
    writer: W,
    style: Style,
) -> Result<(impl Subscriber + Send + Sync + 'static, LogControl), String> {
    let settings = Settings { filter: parse_filter(overrides.level(log))?, format: overrides.format(log) };
    let shared = Arc::new(Shared::new(settings, style));
    let notice = Arc::clone(&shared);
    let lines = Lines::start(writer, move |dropped| notice.dropped_notice(dropped))
        .map_err(|error| format!("the thread that writes the log cannot be started: {error}"))?;
    let output = Output::new(Arc::clone(&shared), lines.clone());
    Ok((output, LogControl { shared, lines, overrides }))
}

impl LogControl {
    /// After a reload: level and format may be others now. A level that cannot be read leaves the old one.
    pub fn apply(&self, log: &Log) {
        let format = self.overrides.format(Some(log));
        match parse_filter(self.overrides.level(Some(log))) {
            Ok(filter) => self.shared.replace(Settings { filter, format }),
            Err(error) => {
                tracing::warn!(
                    event = "log.level_kept", %error,
                    "the log level of the new config cannot be used; the old one stays"
                );
            }
        }
    }

    /// Waits until everything logged so far was written, at most `limit`; whether it was.
    pub fn flush(&self, limit: Duration) -> bool {
        self.lines.flush(limit)
    }
}

impl Drop for LogControl {
    fn drop(&mut self) {
        self.flush(LAST_FLUSH);
    }
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// Words that other programs use for levels; as a filter they would be targets that nothing has.
const OTHERS_LEVELS: [&str; 8] =
    ["all", "critical", "fatal", "none", "notice", "silent", "verbose", "warning"];

fn parse_filter(level: &str) -> Result<LogFilter, String> {
    let hint = "write off, error, warn, info, debug or trace, or TARGET=LEVEL, several with commas between";
    for directive in level.split(',').map(str::trim) {
        if let Some(meant) = mistaken_level(directive) {
            return Err(format!("log level \"{}\" is none{meant}; {hint}", directive.escape_debug()));
        }
    }
    level.parse().map_err(|_| {
        let wrong = level.split(',').find(|directive| directive.parse::<LogFilter>().is_err());
        format!("log level \"{}\" cannot be read; {hint}", wrong.unwrap_or(level).trim().escape_debug())
    })
}

/// A bare word is a target in env-filter syntax, so a mistyped level would silence the log without a word.
fn mistaken_level(directive: &str) -> Option<String> {
    let word = directive.to_ascii_lowercase();
    let bare = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphabetic());
    if !bare || LEVELS.contains(&word.as_str()) {
        return None;
    }
    let near = LEVELS.iter().find(|level| word.len() > 2 && strsim::osa_distance(&word, level) <= 1);
    match near {
        Some(level) => Some(format!(", did you mean \"{level}\"?")),
        None if OTHERS_LEVELS.contains(&word.as_str()) => Some(String::new()),
        None => None,
    }
}

#[cfg(test)]
mod tests;
