//! The part of a reload that may take long: reading files, checking them, and building TLS settings. It runs beside the
//! control thread and changes nothing. [`Reloading`] is its state, and [`prepare`] does the work.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::connects_with;
use super::programs;
use crate::aside::{Aside, AsideError};
use crate::config::{self, Config, Problem, Severity};
use crate::jose::device;
use crate::listener::ListenerSettings;
use crate::metrics::Metrics;
use crate::net::connect::Offer;
use crate::net::tls;
use crate::reload::{Change, Contents, Watch, Watched, folders_to_watch};

/// The threads that read files: one for each running proxy of the process.
static READING: Aside = Aside::new("reload", 64);

/// The time limit for reading all files. Single files that hang time out much sooner.
const READ_LIMIT: Duration = Duration::from_secs(20);
const STUCK: &str = "a file system did not respond in time; check which folder of the config hangs";

type Reading = Pin<Box<dyn Future<Output = Result<Prepared, AsideError>> + Send>>;
type Reply = oneshot::Sender<Result<(), String>>;

pub(super) enum ReloadStep {
    /// It is time to read the files.
    ReadFiles,
    /// The files were read.
    Prepared(Box<Prepared>),
    /// Reading failed or did not end in time, for this reason.
    Failed(String),
}

pub(super) struct Reloading {
    wanted: bool,
    watch: Option<Watch>,
    /// `None` while files are being read.
    known: Option<KnownFiles>,
    /// See [`KnownFiles::workers`].
    workers: usize,
    reading: Option<Reading>,
    /// When the current read times out.
    deadline: Instant,
    /// A read that was requested during the current one, which may have read the files too early.
    again: Option<Cause>,
    /// The requesters that wait for the current read, and for the one after it.
    replies: Vec<Reply>,
    next_replies: Vec<Reply>,
}

impl Reloading {
    pub(super) fn new(known: KnownFiles, watch: bool) -> Self {
        Self {
            wanted: watch,
            watch: None,
            workers: known.workers,
            known: Some(known),
            reading: None,
            deadline: Instant::now(),
            again: None,
            replies: Vec::new(),
            next_replies: Vec::new(),
        }
    }

    /// Starts to watch files if that is wanted. Must be called within a runtime.
    pub(super) fn watch(&mut self) {
        if self.wanted {
            self.watch = Some(Watch::new());
        }
    }

    /// Replies when the next read has ended.
    pub(super) fn reply_to(&mut self, reply: Reply) {
        self.next_replies.push(reply);
    }

    /// Reads the files beside the control thread: now, or after the current read.
    pub(super) fn read_files(
        &mut self,
        cause: Cause,
        config: &Arc<Config>,
        listeners: Vec<Arc<ListenerSettings>>,
        metrics: &Arc<Metrics>,
    ) {
        let Some(known) = self.known.take() else {
            // An operator's request has priority, because it loads the config in any case.
            self.again = if self.again == Some(Cause::Operator) { self.again } else { Some(cause) };
            return;
        };
        self.replies.append(&mut self.next_replies);
        let (config, metrics) = (Arc::clone(config), Arc::clone(metrics));
        self.deadline = Instant::now() + READ_LIMIT;
        self.reading =
            Some(Box::pin(READING.run(move || prepare(cause, (&config, &listeners), known, &metrics))));
    }

    /// Waits for the next step. The future may be dropped and created again.
    pub(super) async fn next(&mut self) -> ReloadStep {
        let Self { watch, reading, deadline, .. } = self;
        let under_way = reading.is_some();
        let step = tokio::select! {
            prepared = read_result(reading) => match prepared {
                Ok(prepared) => ReloadStep::Prepared(Box::new(prepared)),
                Err(error) => ReloadStep::Failed(error.to_string()),
            },
            () = tokio::time::sleep_until(*deadline), if under_way => ReloadStep::Failed(STUCK.to_owned()),
            () = touched(watch) => return ReloadStep::ReadFiles,
        };
        self.reading = None;
        step
    }

    /// Keeps the result of a read. Returns whether the files must be read again at once, and why.
    pub(super) fn files_read(&mut self, known: KnownFiles, folders: BTreeSet<PathBuf>) -> Option<Cause> {
        self.known = Some(known);
        if let Some(watch) = &mut self.watch {
            watch.arm(folders);
        }
        self.again.take()
    }

    /// Starts again after a read that failed.
    pub(super) fn start_over(&mut self, config: &Config) -> Option<Cause> {
        self.known = Some(KnownFiles::unknown(config, self.workers));
        self.again.take()
    }

    pub(super) fn reply(&mut self, result: &Result<(), String>) {
        for reply in self.replies.drain(..) {
            // The requester may be gone.
            let _ = reply.send(result.clone());
        }
    }
}

async fn touched(watch: &mut Option<Watch>) {
    match watch {
        Some(watch) => watch.touched().await,
        None => std::future::pending().await,
    }
}

async fn read_result(reading: &mut Option<Reading>) -> Result<Prepared, AsideError> {
    match reading {
        Some(reading) => reading.await,
        None => std::future::pending().await,
    }
}

/// The only key that a reload does not apply.
const WORKERS: &str = "workers";

/// Why the files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// SIGHUP: load the config even if it did not change.
    Operator,
    /// Something happened to a file, or it is time for a regular check.
    Files,
}

/// What is known about the files, from one read to the next.
pub(super) struct KnownFiles {
    pub(super) watched: Watched,
    contents: Contents,
    /// What changed since the running config was loaded. A refused reload leaves it for the next one.
    pub(super) unapplied: Change,
    /// The number of threads that serve requests, which never changes.
    pub(super) workers: usize,
}

impl KnownFiles {
    pub(super) fn of(config: &Config) -> Self {
        let watched = Watched::of(config);
        let contents = Contents::read(&watched);
        Self { watched, contents, unapplied: Change::default(), workers: config.workers }
    }

    /// After a read that failed. The next one treats everything as changed.
    pub(super) fn unknown(config: &Config, workers: usize) -> Self {
        let watched = Watched::of(config);
        Self { watched, contents: Contents::default(), unapplied: Change::default(), workers }
    }
}

/// A config that is ready for use.
pub(super) struct NewConfig {
    pub(super) config: Arc<Config>,
    pub(super) settings: Vec<Arc<ListenerSettings>>,
    /// Whether the bundles of their CAs are written.
    pub(super) bundles_written: bool,
    pub(super) warnings: Vec<Problem>,
}

pub(super) enum Outcome {
    /// No file changed.
    Unchanged,
    New(NewConfig),
    /// The errors, one line each.
    Refused(Vec<String>),
}

pub(super) struct Prepared {
    pub(super) cause: Cause,
    pub(super) known: KnownFiles,
    pub(super) folders: BTreeSet<PathBuf>,
    pub(super) outcome: Outcome,
}

/// Reads the files and loads what changed. Blocks.
pub(super) fn prepare(
    cause: Cause,
    running: (&Arc<Config>, &[Arc<ListenerSettings>]),
    mut known: KnownFiles,
    metrics: &Metrics,
) -> Prepared {
    if cause == Cause::Operator {
        device::retry_refused_pins();
    }
    let contents = Contents::read(&known.watched).or_as_in(&known.contents);
    let change = contents.changed_since(&known.contents);
    let unchanged = change.is_empty() && cause == Cause::Files;
    known.unapplied.merge(change);
    known.contents = contents;
    let outcome = if unchanged {
        Outcome::Unchanged
    } else {
        match load(cause, running, &mut known, metrics) {
            Ok(new) => Outcome::New(new),
            Err(messages) => Outcome::Refused(messages),
        }
    };
    // Files that are new with this load are read now. The others keep what was read before the load.
    known.contents = known.contents.extended(&known.watched);
    Prepared { cause, folders: folders_to_watch(&known.watched), known, outcome }
}

fn load(
    cause: Cause,
    (running, listeners): (&Arc<Config>, &[Arc<ListenerSettings>]),
    known: &mut KnownFiles,
    metrics: &Metrics,
) -> Result<NewConfig, Vec<String>> {
    // If only secrets or certificates changed, the config stays, and with it the last good values of its references. So a
    // half-written file does no harm.
    let config = if cause == Cause::Operator || known.unapplied.config {
        let mut config = config::load_again(running).map_err(|problems| {
            for problem in &problems.0 {
                known.watched.add_config_file(&problem.file);
            }
            // Only errors are a reason to refuse a file.
            problems.errors().map(one_line).collect::<Vec<_>>()
        })?;
        known.watched.merge(Watched::of(&config));
        config.warnings.extend(not_taken(&config, known.workers));
        if cause == Cause::Operator {
            programs::run_again(&config);
        } else {
            programs::run_first(&config);
        }
        // Before anything is made of what they printed, so that a change from here on is noticed.
        known.unapplied.made |= known.contents.read_made(&known.watched);
        Arc::new(config)
    } else {
        check_upstream_tls(running, &known.unapplied)?;
        Arc::clone(running)
    };
    let settings = super::listeners::settings(&config, Some(listeners), metrics)?;
    let mut warnings = config::check_references(&config);
    if !Arc::ptr_eq(&config, running) {
        known.watched = Watched::of(&config);
        // The log has a separate line for `workers`.
        warnings.extend(config.warnings.iter().filter(|warning| warning.key != WORKERS).cloned());
    }
    let bundles_written = super::bundles::write_changed(&settings, listeners);
    Ok(NewConfig { config, settings, bundles_written, warnings })
}

/// What takes effect only after a restart, for `/status`.
fn not_taken(config: &Config, workers: usize) -> Option<Problem> {
    (config.workers != workers).then(|| Problem {
        severity: Severity::Warning,
        file: config.path.clone(),
        line: 0,
        column: 0,
        key: WORKERS.to_owned(),
        message: format!("the file says {}, and the running program has {workers}", config.workers),
        hint: Some("it is read at start only: restart to change it".to_owned()),
        source_line: None,
    })
}

/// Checks that a certificate whose key is not written yet does not replace a working pair.
fn check_upstream_tls(config: &Config, changed: &Change) -> Result<(), Vec<String>> {
    let errors: Vec<String> = config
        .routes
        .iter()
        .filter(|route| connects_with(route, changed))
        .filter_map(|route| {
            let error = tls::client_config(&route.connection.tls, Offer::Both).err()?;
            Some(format!("route {}: {}", route.name, error.0))
        })
        .collect();
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// A problem as one line of the log.
pub(super) fn one_line(problem: &Problem) -> String {
    let mut line = format!("{}:", problem.file.display());
    if problem.line > 0 {
        line.push_str(&format!("{}:{}:", problem.line, problem.column));
    }
    line.push(' ');
    if !problem.key.is_empty() {
        line.push_str(&problem.key);
        line.push_str(": ");
    }
    line.push_str(&problem.message);
    if let Some(hint) = &problem.hint {
        line.push_str(" (");
        line.push_str(hint);
        line.push(')');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_line_with_place_key_and_hint() {
        let problem = Problem {
            severity: Severity::Error,
            file: "/etc/bearerd/bearerd.toml".into(),
            line: 3,
            column: 1,
            key: "route[0].isuer".to_owned(),
            message: "unknown key".to_owned(),
            hint: Some("did you mean `issuer`?".to_owned()),
            source_line: Some("isuer = \"corp\"".to_owned()),
        };
        assert_eq!(
            one_line(&problem),
            "/etc/bearerd/bearerd.toml:3:1: route[0].isuer: unknown key (did you mean `issuer`?)"
        );
    }
}
