//! Logs: which events become lines, what a line looks like, and how lines get to stderr.
//!
//! `tracing-subscriber` does most of the work. bearerd's own parts are the form of a line ([`format`]) and the thread that
//! writes lines ([`Lines`]). If that thread cannot keep up, lines are dropped and counted, and requests never wait for a
//! pipe. A reload may change the filter and the format. [`Repeated`] logs a frequent event once a minute, with its count.

mod format;

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use format::{Look, OneLine};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use crate::clock::millis;
use crate::config::{Log, LogFormat};

/// The target of the access log. `bearerd::access=off` in a filter turns it off.
pub const ACCESS_TARGET: &str = "bearerd::access";

/// How long the process waits at its end for stderr to accept the last lines.
const LAST_FLUSH: Duration = Duration::from_secs(1);

/// The number of lines that this process dropped. Unset until [`init`].
static DROPPED: OnceLock<Arc<AtomicU64>> = OnceLock::new();

/// What the command line and `$BEARERD_LOG` say. It overrides the file's `[log]`, also after reloads.
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

/// Changes the log while the process runs. Dropping it writes the remaining lines.
#[derive(Debug)]
pub struct LogControl {
    settings: Arc<ArcSwap<Settings>>,
    lines: Lines,
    overrides: Overrides,
}

/// Starts the log of the whole process, on stderr.
///
/// # Errors
/// A message if the writing thread cannot be started, or if logging was started before.
pub fn init(overrides: Overrides, log: &Log) -> Result<LogControl, String> {
    init_to(overrides, log, Destination::Stderr { prefix: "" })
}

/// Where the log of the process goes.
pub enum Destination {
    /// Each line of text begins with the prefix.
    Stderr {
        prefix: &'static str,
    },
    File(File),
}

/// [`init`], to any destination.
///
/// # Errors
/// As [`init`].
pub fn init_to(overrides: Overrides, log: &Log, to: Destination) -> Result<LogControl, String> {
    match to {
        Destination::Stderr { prefix } => {
            let stderr = std::io::stderr();
            // The same rules as for output: a terminal, NO_COLOR, `--color`.
            let colours = anstream::AutoStream::choice(&stderr) != anstream::ColorChoice::Never;
            make_global(build(overrides, log, stderr, Look { colours, prefix })?)
        }
        Destination::File(file) => {
            make_global(build(overrides, log, file, Look { colours: false, prefix: "" })?)
        }
    }
}

fn make_global(
    (subscriber, control): (impl Subscriber + Send + Sync + 'static, LogControl),
) -> Result<LogControl, String> {
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|_| "logging was started already in this process".to_owned())?;
    // Set once, as the subscriber was.
    let _ = DROPPED.set(control.lines.dropped_counter());
    Ok(control)
}

/// The number of log lines that this process dropped because stderr did not accept them.
pub fn dropped_lines() -> u64 {
    DROPPED.get().map_or(0, |dropped| dropped.load(Ordering::Relaxed))
}

fn build<W: Write + Send + 'static>(
    overrides: Overrides,
    log: &Log,
    writer: W,
    look: Look,
) -> Result<(impl Subscriber + Send + Sync + 'static, LogControl), String> {
    let settings = Arc::new(ArcSwap::from_pointee(overrides.settings(log)));
    let form = OneLine { settings: Arc::clone(&settings), look };
    let notice = form.clone();
    let lines = Lines::start(writer, move |dropped| notice.lines_dropped(dropped))
        .map_err(|error| format!("cannot start the thread that writes the log: {error}"))?;
    let subscriber = Registry::default()
        .with(Filter(Arc::clone(&settings)))
        .with(fmt::layer().event_format(form).with_writer(lines.clone()));
    Ok((subscriber, LogControl { settings, lines, overrides }))
}

impl LogControl {
    /// Applies level and format after a reload.
    pub fn apply(&self, log: &Log) {
        self.settings.store(Arc::new(self.overrides.settings(log)));
        // Callsites cache the decision of the old filter.
        tracing_core::callsite::rebuild_interest_cache();
    }

    /// Waits up to `limit` until everything logged so far is written. Returns whether it is.
    pub fn flush(&self, limit: Duration) -> bool {
        self.lines.flush(limit)
    }
}

impl Drop for LogControl {
    fn drop(&mut self) {
        self.flush(LAST_FLUSH);
    }
}

/// Decides which events become lines. Unlike `tracing_subscriber::reload`, it takes no lock.
struct Filter(Arc<ArcSwap<Settings>>);

impl Filter {
    fn lets_out(&self, metadata: &Metadata<'_>) -> bool {
        // bearerd has no spans of this kind, and those of libraries appear in no line.
        metadata.is_event()
            && may_be_logged(metadata)
            && self.0.load().filter.would_enable(metadata.target(), metadata.level())
    }
}

/// The HTTP/2 library logs what peers send (a refused path with its query, the text of a GOAWAY), and OpenTelemetry's what a
/// collector sends. It could contain anything, so no filter shows it.
fn may_be_logged(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    if target.starts_with("opentelemetry") {
        return false;
    }
    *metadata.level() <= Level::WARN || !(target == "h2" || target.starts_with("h2::"))
}

impl<S: Subscriber> Layer<S> for Filter {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // The cached decisions are dropped when the filter changes.
        if self.lets_out(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.lets_out(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Layer::<S>::max_level_hint(&self.0.load().filter)
    }
}

const EVERY: Duration = Duration::from_secs(60);

/// An event that may happen very often, on many threads at once.
#[derive(Debug, Default)]
pub struct Repeated {
    /// When it was last logged, in milliseconds; 0: never.
    next: AtomicU64,
    held_back: AtomicU64,
}

impl Repeated {
    /// `Some(n)`: it is time to log the event, which happened `n` more times since the last line. `now` never goes back.
    pub fn due(&self, now: Duration) -> Option<u64> {
        self.due_for(now, 1)
    }

    /// [`Self::due`] for an event that happened `times` at once.
    pub fn due_for(&self, now: Duration, times: u64) -> Option<u64> {
        let next = self.next.load(Ordering::Relaxed);
        let later = millis(now.saturating_add(EVERY));
        let won = millis(now) >= next
            && self.next.compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if won {
            return Some(self.held_back.swap(0, Ordering::Relaxed));
        }
        self.held_back.fetch_add(times, Ordering::Relaxed);
        None
    }
}

/// The most bytes that may wait to be written: about ten thousand lines of a usual length.
const WAITING: usize = 4 * 1024 * 1024;
/// What a waiting line takes besides its bytes: its place in the queue and the allocator's overhead.
const LINE_OVERHEAD: usize = 64;
/// Lines are written together up to this many bytes.
const BATCH: usize = 64 * 1024;
/// How long the thread sleeps between two writes under load, so that not every line wakes it.
const PAUSE: Duration = Duration::from_millis(2);
/// The interval between tries while a pipe is full.
const RETRY: Duration = Duration::from_millis(10);

enum Message {
    Line(Box<[u8]>),
    /// The reply when all lines before it are written.
    Flush(SyncSender<()>),
}

/// The queue of lines. Clones share the thread.
#[derive(Debug, Clone)]
struct Lines {
    queue: Sender<Message>,
    /// Bytes that wait to be written.
    waiting: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
}

impl Lines {
    /// Starts the thread. `notice` formats the line that says how many lines are missing.
    fn start<W: Write + Send + 'static>(
        out: W,
        notice: impl Fn(u64) -> String + Send + 'static,
    ) -> std::io::Result<Self> {
        let (queue, incoming) = channel();
        let lines = Self { queue, waiting: Arc::default(), dropped: Arc::default() };
        let (waiting, dropped) = (Arc::clone(&lines.waiting), Arc::clone(&lines.dropped));
        let mut writer = Writer { out, notice, waiting, dropped, told: 0 };
        std::thread::Builder::new().name("log".to_owned()).spawn(move || writer.run(&incoming))?;
        Ok(lines)
    }

    /// Queues a line, or drops and counts it if too many bytes wait.
    fn hand_over(&self, line: &[u8]) {
        let size = line.len() + LINE_OVERHEAD;
        let before = self.waiting.fetch_add(size, Ordering::Relaxed);
        if before + size > WAITING || self.queue.send(Message::Line(line.into())).is_err() {
            self.waiting.fetch_sub(size, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits up to `limit` until all queued lines are written. Returns whether they are.
    fn flush(&self, limit: Duration) -> bool {
        let (done, wait) = sync_channel(1);
        self.queue.send(Message::Flush(done)).is_ok() && wait.recv_timeout(limit).is_ok()
    }

    fn dropped_counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

/// The subscriber's layer writes each line with one call.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.hand_over(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Writer<W, N> {
    out: W,
    notice: N,
    waiting: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
    /// How many of the dropped lines a notice has reported.
    told: u64,
}

impl<W: Write, N: Fn(u64) -> String> Writer<W, N> {
    fn run(&mut self, incoming: &Receiver<Message>) {
        let mut batch = Vec::new();
        while let Ok(first) = incoming.recv() {
            let mut flushes = Vec::new();
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Line(line) => {
                        batch.extend_from_slice(&line);
                        self.waiting.fetch_sub(line.len() + LINE_OVERHEAD, Ordering::Relaxed);
                    }
                    Message::Flush(done) => flushes.push(done),
                }
                next = if batch.len() < BATCH { incoming.try_recv().ok() } else { None };
            }
            self.tell_dropped(&mut batch);
            self.write(&batch);
            batch.clear();
            if flushes.is_empty() {
                std::thread::sleep(PAUSE);
            }
            for done in flushes {
                // The requester may have stopped waiting.
                let _ = done.send(());
            }
        }
    }

    fn tell_dropped(&mut self, batch: &mut Vec<u8>) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > self.told {
            batch.extend_from_slice((self.notice)(dropped - self.told).as_bytes());
            self.told = dropped;
        }
    }

    /// Writes, and waits while the pipe is full. Other errors are ignored, because stderr may be closed on purpose.
    fn write(&mut self, mut rest: &[u8]) {
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(0) => return,
                Ok(written) => rest = rest.get(written..).expect("no more was written than there was"),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(RETRY),
                Err(_) => return,
            }
        }
        // stderr has no buffer, but other writers may.
        let _ = self.out.flush();
    }
}

#[cfg(test)]
mod tests;
