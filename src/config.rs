//! From TOML to [`Config`]: read, check everything, report every error at once.
//!
//! `document` knows the text and where each key stands, `read` makes the structs of `raw` from it by `deserialize`,
//! `resolve` makes [`Config`] from those. `report` collects what is wrong on the way, and `confidential` decides what of
//! the text may be shown.

pub mod client_auth;
mod confidential;
mod deserialize;
mod document;
mod environment;
pub mod files;
#[cfg(test)]
pub(crate) mod fixture;
mod include;
pub mod model;
mod preset;
pub mod problem;
mod raw;
mod read;
pub mod reference;
mod report;
mod resolve;
mod schema;
mod slips;
mod types;

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub use client_auth::ClientAuth;
pub use environment::{ProxyVariables, Variable, proxy_variables, root_paths};
pub use model::*;
pub use preset::{Preset, PresetKey, PresetVar, nearest_preset, preset, presets};
pub use problem::{Problem, Problems, Severity};
pub use reference::{ReferenceError, Source};
pub(crate) use report::nearest;
pub use schema::schema;
pub use types::scopes::Scopes;

use tracing_subscriber::filter::Targets;

use document::{Document, FileText};
use environment::OtelVariables;
use report::Report;

/// What to do without a config file.
const NO_CONFIG: &str =
    "correct the path, write one with `bearerd init`, or see bearerd work without one: `bearerd demo`";

/// Loads the file and all that it includes, and what the `OTEL_…` variables add to it. Touches no network and reads no
/// secret that stands elsewhere.
///
/// # Errors
/// Every error that was found, and the warnings beside them, in the order of the files.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let mut report = Report::default();
    let text = match FileText::read_main(path) {
        Ok(text) => text,
        Err(error) => {
            let hint = (!path.exists()).then(|| NO_CONFIG.to_owned());
            report.file_with_hint(path, error.line, error.reason, hint);
            return Err(Problems(report.problems));
        }
    };
    load_file(&text, report, &OtelVariables::of_the_process())
}

/// Reads what stands in `[log] level`, `--log-level` and `$BEARERD_LOG`.
///
/// # Errors
/// What is wrong with it, and what to write instead.
pub fn log_filter(text: &str) -> Result<Targets, String> {
    types::log_filter::log_filter(text).map_err(|wrong| format!("{}; {}", wrong.message, wrong.hint))
}

/// Checks a config that stands in no file; what it includes is looked for from the root folder.
///
/// # Errors
/// As [`load`].
pub fn load_text(text: &str) -> Result<Config, Problems> {
    load_file(&FileText::nowhere(text), Report::default(), &OtelVariables::default())
}

fn load_file(text: &FileText, mut report: Report, otel: &OtelVariables) -> Result<Config, Problems> {
    let main = parse(text, &mut report);
    let include = include::find(&main.root().key("include"), &mut report);
    let documents: Vec<Document<'_>> = include.texts.iter().map(|text| parse(text, &mut report)).collect();
    let presets = preset::presets_of(std::iter::once(&main).chain(&documents));
    let raw = read::main_file(&main, &presets, &mut report);
    let included = documents
        .iter()
        .map(|document| (document, read::included_file(document, &presets, &mut report)))
        .collect();
    let input = resolve::Input { main: (&main, raw), included, include_folders: include.folders };
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
            message: "others than the owner may write this file, and so send the credentials where they like"
                .to_owned(),
            hint: Some(format!("run `chmod go-w {}`", text.display.display())),
            source_line: None,
        });
    }
    document
}

/// Where the config is looked for when nobody says.
const PLACES: [&str; 2] = ["./bearerd.toml", "/etc/bearerd/bearerd.toml"];

/// `--config`, else `$BEARERD_CONFIG`, else `./bearerd.toml`, else `/etc/bearerd/bearerd.toml`.
/// `Err` holds what was tried. A file that was named but is not there is [`load`]'s to report.
pub fn find(given: Option<PathBuf>) -> Result<PathBuf, Vec<PathBuf>> {
    let named = given
        .or_else(|| std::env::var_os("BEARERD_CONFIG").filter(|name| !name.is_empty()).map(PathBuf::from));
    if let Some(path) = named {
        return Ok(path);
    }
    let places = PLACES.map(PathBuf::from);
    places.iter().find(|path| path.exists()).cloned().ok_or_else(|| places.to_vec())
}

/// Every file that references name, for the watcher: absolute, each once.
pub fn referenced_files(config: &Config) -> Vec<PathBuf> {
    let files: BTreeSet<&Path> =
        config.references.iter().filter_map(|reference| reference.source.path()).collect();
    files.into_iter().map(Path::to_owned).collect()
}

/// Reads every reference now and tells, as warnings, what gives no value, which secret others may read, and which learned
/// value could not be kept.
/// [`load`] does none of it, since a missing secret must not keep the program from starting.
pub fn check_references(config: &Config) -> Vec<Problem> {
    let mut found: Vec<Problem> = config.references.iter().flat_map(check_reference).collect();
    found.extend(config.webhooks.iter().filter_map(|webhook| check_store(config, webhook)));
    found
}

/// The file itself need not be there: it comes with the first request.
fn check_store(config: &Config, webhook: &WebhookConfig) -> Option<Problem> {
    let folder = webhook.store.parent().filter(|folder| !folder.is_dir())?;
    // Near enough: it has secrets, and those are references.
    let table = format!("webhook.{}.", webhook.name);
    let near = config.references.iter().find(|reference| reference.key.starts_with(&table));
    Some(Problem {
        severity: Severity::Warning,
        file: near.map_or(&config.path, |near| &near.file).clone(),
        line: near.map_or(0, |near| near.line),
        column: near.map_or(0, |near| near.column),
        key: format!("webhook.{}.store", webhook.name),
        message: format!(
            "the folder {} does not exist, so a learned value could not be kept",
            folder.display()
        ),
        hint: Some(format!("run `mkdir -m 700 -p {}` as the user that bearerd runs as", folder.display())),
        source_line: None,
    })
}

/// Values of listeners and routes that their references do not give, as `key: place: why`. Those of issuers are not
/// among them: whether they are there shows in the tokens. Nor are a webhook's secrets, of which one is enough, nor a
/// collector's: no request waits for them.
pub fn missing_values(config: &Config) -> Vec<String> {
    let others = config.references.iter().filter(|reference| {
        !["issuer.", "webhook.", "tracing."].iter().any(|table| reference.key.starts_with(table))
    });
    others
        .filter_map(|reference| {
            let error = reference.source.read_or_last_good().err()?;
            Some(format!("{}: {error}", reference.key))
        })
        .collect()
}

fn check_reference(reference: &ReferenceUse) -> Vec<Problem> {
    let warning = |message: String, hint: Option<String>| Problem {
        severity: Severity::Warning,
        file: reference.file.clone(),
        line: reference.line,
        column: reference.column,
        key: reference.key.clone(),
        message,
        hint,
        source_line: None,
    };
    let mut found = Vec::new();
    match reference.source.read() {
        Err(error) => found.push(warning(error.to_string(), brought_by(&error))),
        Ok(secret) if reference.secret && slips::is_plain(&reference.key) => {
            let slip = slips::in_secret(secret.expose());
            let at = reference.source.place();
            found.extend(
                slip.map(|slip| warning(format!("{at}: {}", slip.message), Some(slip.hint.to_owned()))),
            );
        }
        Ok(_) => {}
    }
    if let Some(path) = reference.source.path().filter(|_| reference.secret)
        && let Ok(metadata) = std::fs::metadata(path)
        && metadata.is_file()
        && metadata.mode() & 0o077 != 0
    {
        let message = format!("file {}: others than the owner may read or write this secret", path.display());
        let user = rustix::process::geteuid().as_raw();
        found.push(warning(message, Some(closed_by(path, user, metadata.uid(), metadata.mode()))));
    }
    found
}

/// What to do about a value that is not there, where the reason does not say it.
fn brought_by(error: &ReferenceError) -> Option<String> {
    let what = match error.reason.as_str() {
        reference::NO_FILE => "put the file there, or correct its path; what needs it waits for it",
        reference::NOT_SET => "set it where the program is started; it is read at the start alone",
        _ => return None,
    };
    Some(what.to_owned())
}

/// What to do about a secret that others may read. Mode 600 would shut out a user that is not the owner, as bearerd is in a
/// pod, where mounted files are root's.
fn closed_by(path: &Path, user: u32, owner: u32, mode: u32) -> String {
    let path = path.display();
    if user == owner || user == 0 {
        return format!("run `chmod 600 {path}`");
    }
    let own = format!("run `chown {user} {path} && chmod 600 {path}`");
    let why = format!("user {user} is not its owner, user {owner}, and needs the right to read it");
    if mode & 0o027 == 0 {
        format!(
            "{why}: leave it so where nobody else has its group, as with `fsGroup` in a pod; elsewhere {own}"
        )
    } else {
        format!(
            "{why}: in a pod, mount it into this container alone, or set `defaultMode: 0440` and `fsGroup`; elsewhere {own}"
        )
    }
}

#[cfg(test)]
mod tests;
