//! Logs: what is written, how, and a way to stderr that a blocked pipe cannot stop a request on.
//!
//! `tracing-subscriber` does the work; ours are the form of a line ([`format`]), and the thread that writes ([`writer`]):
//! where it cannot keep up, lines are dropped and counted, and requests go on. Filter and format may change while the
//! process runs.

mod format;
mod repeated;
mod writer;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::{Registry, fmt};

use crate::config::{Log, LogFormat};
use format::OneLine;
pub use repeated::Repeated;
use writer::Lines;

/// The target of the line that each request gets; `bearerd::access=off` turns it off in a filter.
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
    /// `--log-level` or `$BEARERD_LOG`.
    pub level: Option<Targets>,
}

/// What a reload may change.
#[derive(Debug)]
struct Settings {
    filter: Targets,
    format: LogFormat,
}

impl Overrides {
    fn settings(&self, log: &Log) -> Settings {
        Settings {
            filter: self.level.as_ref().unwrap_or(&log.level).clone(),
            format: self.format.unwrap_or(log.format),
        }
    }
}

/// Changes the log while the process runs; writes out what is left when it is dropped.
#[derive(Debug)]
pub struct LogControl {
    settings: Arc<ArcSwap<Settings>>,
    lines: Lines,
    overrides: Overrides,
}

/// Starts logging to stderr for the whole process.
///
/// # Errors
/// The thread that writes cannot be started, or logging was started already.
pub fn init(overrides: Overrides, log: &Log) -> Result<LogControl, String> {
    let stderr = std::io::stderr();
    // As answers have them: a terminal, NO_COLOR, `--color`.
    let colours = anstream::AutoStream::choice(&stderr) != anstream::ColorChoice::Never;
    let (subscriber, control) = build(overrides, log, stderr, colours)?;
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

fn build<W: std::io::Write + Send + 'static>(
    overrides: Overrides,
    log: &Log,
    writer: W,
    colours: bool,
) -> Result<(impl Subscriber + Send + Sync + 'static, LogControl), String> {
    let settings = Arc::new(ArcSwap::from_pointee(overrides.settings(log)));
    let form = OneLine { settings: Arc::clone(&settings), colours };
    let notice = form.clone();
    let lines = Lines::start(writer, move |dropped| notice.lines_dropped(dropped))
        .map_err(|error| format!("the thread that writes the log cannot be started: {error}"))?;
    let subscriber = Registry::default()
        .with(Filter(Arc::clone(&settings)))
        .with(fmt::layer().event_format(form).with_writer(lines.clone()));
    Ok((subscriber, LogControl { settings, lines, overrides }))
}

impl LogControl {
    /// After a reload: level and format may be others now.
    pub fn apply(&self, log: &Log) {
        self.settings.store(Arc::new(self.overrides.settings(log)));
        // Each callsite remembers whether the old filter wanted it.
        tracing_core::callsite::rebuild_interest_cache();
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

/// Which events become lines. Unlike `tracing_subscriber::reload` it takes no lock.
struct Filter(Arc<ArcSwap<Settings>>);

impl Filter {
    fn lets_out(&self, metadata: &Metadata<'_>) -> bool {
        // No span of ours exists, and those of libraries end up in no line.
        metadata.is_event()
            && may_be_logged(metadata)
            && self.0.load().filter.would_enable(metadata.target(), metadata.level())
    }
}

/// HTTP/2's own library logs what peers say (a refused path with its query, the words of a GOAWAY), and OpenTelemetry's what
/// a collector says: nobody can vouch for what is in that, so no filter lets it out.
fn may_be_logged(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    if target.starts_with("opentelemetry") {
        return false;
    }
    *metadata.level() <= Level::WARN || !(target == "h2" || target.starts_with("h2::"))
}

impl<S: Subscriber> Layer<S> for Filter {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // What a callsite remembers is asked anew when the filter changes.
        if self.lets_out(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.lets_out(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Layer::<S>::max_level_hint(&self.0.load().filter)
    }
}

#[cfg(test)]
mod tests;
