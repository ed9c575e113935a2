//! The part of a reload that may take its time: reading files, checking, building TLS. It runs beside the control
//! thread and changes nothing.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::build::connects_with;
use super::listeners;
use crate::config::{self, Config, Problem, Severity};
use crate::listener::ListenerSettings;
use crate::metrics::Metrics;
use crate::net::connect::Offer;
use crate::net::tls;
use crate::reload::{Change, Contents, Watched, folders_to_watch};

/// The one key that a reload does not apply.
const WORKERS: &str = "workers";

/// Why the files are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// SIGHUP: load the config, changed or not.
    Operator,
    /// Something happened to a file, or it is time to look.
    Files,
}

/// What is known of the files, from look to look.
pub(super) struct LookedAt {
    pub(super) watched: Watched,
    pub(super) contents: Contents,
    /// What changed since the config in force was put in force: a refused reload leaves it for the next one.
    pub(super) unapplied: Change,
    /// Threads that serve calls, from start to end.
    pub(super) workers: usize,
}

impl LookedAt {
    pub(super) fn of(config: &Config) -> Self {
        let watched = Watched::of(config);
        let contents = Contents::read(&watched);
        Self { watched, contents, unapplied: Change::default(), workers: config.workers }
    }

    /// After a look that broke down: the next one takes everything as changed.
    pub(super) fn unknown(config: &Config, workers: usize) -> Self {
        let watched = Watched::of(config);
        Self { watched, contents: Contents::default(), unapplied: Change::default(), workers }
    }
}

/// A config that may be put in force.
pub(super) struct NewConfig {
    pub(super) config: Arc<Config>,
    pub(super) settings: Vec<Arc<ListenerSettings>>,
    pub(super) warnings: Vec<Problem>,
}

pub(super) enum Outcome {
    /// Every file is as it was.
    Unchanged,
    New(NewConfig),
    /// What is wrong, one line each.
    Refused(Vec<String>),
}

pub(super) struct Prepared {
    pub(super) cause: Cause,
    pub(super) seen: LookedAt,
    pub(super) folders: BTreeSet<PathBuf>,
    pub(super) outcome: Outcome,
}

/// Looks at the files and loads what changed. Blocks.
pub(super) fn prepare(cause: Cause, config: &Arc<Config>, mut seen: LookedAt, metrics: &Metrics) -> Prepared {
    let contents = Contents::read(&seen.watched).or_as_in(&seen.contents);
    let change = contents.changed_since(&seen.contents);
    let unchanged = change.is_empty() && cause == Cause::Files;
    seen.unapplied.merge(change);
    seen.contents = contents;
    let outcome = if unchanged {
        Outcome::Unchanged
    } else {
        match load(cause, config, &mut seen, metrics) {
            Ok(new) => Outcome::New(new),
            Err(messages) => Outcome::Refused(messages),
        }
    };
    // Files that the load brought in are read now; the others stay as they were seen before it.
    seen.contents = seen.contents.extended(&seen.watched);
    Prepared { cause, folders: folders_to_watch(&seen.watched), seen, outcome }
}

fn load(
    cause: Cause,
    running: &Arc<Config>,
    seen: &mut LookedAt,
    metrics: &Metrics,
) -> Result<NewConfig, Vec<String>> {
    // Where only secrets or certificates changed the config stays, and with it what its references last read: a file
    // that is half written now does not lose its last good value.
    let config = if cause == Cause::Operator || seen.unapplied.config {
        let mut config = config::load(&running.path).map_err(|problems| {
            for problem in &problems.0 {
                seen.watched.add_config_file(&problem.file);
            }
            // Warnings of a file that is not taken are no reason for that.
            problems.errors().map(one_line).collect::<Vec<_>>()
        })?;
        seen.watched.merge(Watched::of(&config));
        config.warnings.extend(not_taken(&config, seen.workers));
        Arc::new(config)
    } else {
        check_upstream_tls(running, &seen.unapplied.files)?;
        Arc::clone(running)
    };
    let settings = listeners::settings(&config, Some(running), metrics)?;
    let mut warnings = config::check_references(&config);
    if !Arc::ptr_eq(&config, running) {
        seen.watched = Watched::of(&config);
        // The log has a line of its own for `workers`.
        warnings.extend(config.warnings.iter().filter(|warning| warning.key != WORKERS).cloned());
    }
    Ok(NewConfig { config, settings, warnings })
}

/// What of a good file waits for a restart, for `/status`.
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

/// A certificate whose key is not written yet must not take the place of a pair that works.
fn check_upstream_tls(config: &Config, changed: &BTreeSet<PathBuf>) -> Result<(), Vec<String>> {
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

/// A problem for the log, where a line is an entry.
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
