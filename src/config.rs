//! From TOML to [`Config`]: this module reads the files, checks everything, and reports every error at once.
//!
//! `document` knows the text and the place of each key. `read` makes the structs of `raw` from it, and `resolve` makes
//! [`Config`] from those. `report` collects the problems, and `schema` decides which parts of the text they may show.

pub mod client_auth;
mod document;
mod environment;
pub mod files;
mod inspect;
mod made;
pub mod model;
mod preset;
mod program;
mod raw;
mod read;
pub mod reference;
mod report;
mod resolve;
mod schema;
mod store_key;
mod svid;
mod types;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub use client_auth::ClientAuth;
pub use environment::{ProxyVariables, Variable, proxy_target, proxy_variables, system_roots};
pub(crate) use inspect::slip_in_secret;
pub use inspect::{check_references, missing_values, problem_near, slip_in_printed};
pub use model::*;
pub use preset::{Preset, PresetKey, PresetVar, nearest_preset, preset, presets};
pub use program::{end_all as end_programs, limit_files as limit_programs};
pub(crate) use raw::values::Words;
pub use reference::{Chained, ReferenceError, Source, make_all};
pub(crate) use report::nearest;
pub use report::{KeyPlace, Problem, Problems, Severity};
pub(crate) use schema::names_a_secret;
pub use schema::schema;
pub use store_key::StoreKey;
pub use types::{Scopes, counted};

use tracing_subscriber::filter::Targets;

use document::{Document, FileText};
use environment::OtelVariables;
use report::Report;

/// What the hint says without a config file.
const NO_CONFIG: &str =
    "correct the path, write one with `bearerd init`, or see bearerd work without one: `bearerd demo`";

/// Loads the file and all that it includes, and what the `OTEL_…` variables add to it. Uses no network, and reads no
/// secret from another place.
///
/// # Errors
/// All errors and warnings, in the order of the files.
pub fn load(path: &Path) -> Result<Config, Problems> {
    load_with(path, None)
}

/// [`load`] for a single program: if the file has no forward listener, one is made.
///
/// # Errors
/// As [`load`].
pub fn load_for_program(path: &Path, program: ForProgram) -> Result<Config, Problems> {
    load_with(path, Some(program))
}

/// [`load`] for a verb that serves nothing. If only `bearerd exec` can serve the file, the config is the one that it would
/// serve, and warnings say so.
///
/// # Errors
/// As [`load`].
pub fn load_to_examine(path: &Path) -> Result<Config, Problems> {
    load(path).or_else(|strict| {
        let program = ForProgram {
            key: Source::literal(""),
            bundle: PathBuf::new(),
            trusted: Vec::new(),
            unmatched: Unmatched::default(),
            log_file: None,
        };
        let Ok(config) = load_for_program(path, program) else { return Err(strict) };
        // Warnings of the strict load are about a listener that is not there.
        let errors = strict.0.into_iter().filter(|problem| problem.severity == Severity::Error);
        let errors = errors.map(|problem| Problem { severity: Severity::Warning, ..problem });
        Ok(Config { warnings: errors.chain(config.warnings).collect(), ..config })
    })
}

/// Loads the file of a running config again.
///
/// # Errors
/// As [`load`].
pub fn load_again(running: &Config) -> Result<Config, Problems> {
    load_with(&running.path, running.program.clone())
}

fn load_with(path: &Path, program: Option<ForProgram>) -> Result<Config, Problems> {
    let mut report = Report::default();
    let text = match FileText::read_main(path) {
        Ok(text) => text,
        Err(error) => {
            let hint = (!path.exists()).then(|| NO_CONFIG.to_owned());
            report.file_with_hint(path, error.line, error.reason, hint);
            return Err(Problems(report.problems));
        }
    };
    load_file(&text, report, &OtelVariables::of_the_process(), program)
}

/// Reads the value of `[log] level`, `--log-level`, or `$BEARERD_LOG`.
///
/// # Errors
/// What is wrong with it, and what to write instead.
pub fn log_filter(text: &str) -> Result<Targets, String> {
    types::log_filter(text).map_err(|wrong| format!("{}; {}", wrong.message, wrong.hint))
}

/// Checks a config that is not in a file. Paths in `include` start at the root folder.
///
/// # Errors
/// As [`load`].
pub fn load_text(text: &str) -> Result<Config, Problems> {
    load_file(&FileText::nowhere(text), Report::default(), &OtelVariables::default(), None)
}

fn load_file(
    text: &FileText,
    mut report: Report,
    otel: &OtelVariables,
    program: Option<ForProgram>,
) -> Result<Config, Problems> {
    let main = parse(text, &mut report);
    let include = document::find_included(&main.root().key("include"), &mut report);
    let documents: Vec<Document<'_>> = include.texts.iter().map(|text| parse(text, &mut report)).collect();
    let presets = preset::presets_of(std::iter::once(&main).chain(&documents));
    let raw = read::main_file(&main, &presets, &mut report);
    let included = documents
        .iter()
        .map(|document| (document, read::included_file(document, &presets, &mut report)))
        .collect();
    let input = resolve::Input { main: (&main, raw), included, include_folders: include.folders, program };
    let config = resolve::resolve(input, otel, &mut report);

    let order: Vec<&Path> =
        std::iter::once(text).chain(&include.texts).map(|file| file.display.as_path()).collect();
    let Report { mut problems, references, .. } = report;
    problems.sort_by_key(|problem| {
        (order.iter().position(|file| *file == problem.file), problem.line, problem.column)
    });
    match config {
        Some(config) => Ok(Config { warnings: problems, references, ..config }),
        None => Err(Problems(problems)),
    }
}

fn parse<'t>(text: &'t FileText, report: &mut Report) -> Document<'t> {
    let (document, errors) = Document::parse(text);
    for error in &errors {
        report.syntax(text, error.offset, &error.message);
    }
    if text.access.writable_by_others {
        report.problems.push(Problem {
            severity: Severity::Warning,
            file: text.display.clone(),
            line: 0,
            column: 0,
            key: String::new(),
            message: "other users may write this file, and could send the credentials anywhere".to_owned(),
            hint: Some(format!("run `chmod go-w {}`", text.display.display())),
            source_line: None,
        });
    }
    document
}

/// Where bearerd looks for the config if no path is given.
const PLACES: [&str; 2] = ["./bearerd.toml", "/etc/bearerd/bearerd.toml"];

/// `--config`, else `$BEARERD_CONFIG`, else `./bearerd.toml`, else `/etc/bearerd/bearerd.toml`. `Err` has the paths
/// that were tried. [`load`] reports a given file that does not exist.
pub fn find(given: Option<PathBuf>) -> Result<PathBuf, Vec<PathBuf>> {
    let named = given
        .or_else(|| std::env::var_os("BEARERD_CONFIG").filter(|name| !name.is_empty()).map(PathBuf::from));
    if let Some(path) = named {
        return Ok(path);
    }
    let places = PLACES.map(PathBuf::from);
    places.iter().find(|path| path.exists()).cloned().ok_or_else(|| places.to_vec())
}

/// Every file that references name, for the watcher: absolute paths without duplicates.
pub fn referenced_files(config: &Config) -> Vec<PathBuf> {
    let files: BTreeSet<&Path> =
        config.references.iter().filter_map(|reference| reference.source.path()).collect();
    files.into_iter().map(Path::to_owned).collect()
}

/// Configs for tests. What a test does not set has its default, and no test lists keys.
#[cfg(test)]
pub(crate) mod fixture {
    use std::sync::Arc;

    use crate::config::{Config, ListenerConfig, RouteConfig, load_text};

    /// What the loader makes of `text`, as a file that only its owner may read, with a route without a token added.
    pub(crate) fn config(text: &str) -> Config {
        let route = "[[route]]\nname = \"r\"\nupstream = \"https://up.example/api/v2\"\nanonymous = true\n";
        load_text(&format!("{text}\n{route}")).unwrap_or_else(|problems| panic!("{problems}"))
    }

    /// A route without a token that serves every path.
    pub(crate) fn route() -> RouteConfig {
        let route = config("").routes.pop().and_then(Arc::into_inner);
        route.expect("the route exists, and nothing else holds it")
    }

    /// The listener `main`.
    pub(crate) fn listener() -> ListenerConfig {
        let listener = config("").listeners.pop().and_then(Arc::into_inner);
        listener.expect("the listener exists, and nothing else holds it")
    }
}

#[cfg(test)]
mod tests;
