//! What loading a config finds: problems with their places, and the references to values elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::config::document::{FileText, PathStep, Place};
use crate::config::model::ReferenceUse;
use crate::config::reference::Source;
use crate::config::schema;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// One problem: its place, its key, what was found, and how to fix it. It never contains a secret.
///
/// `Display` prints `path:line:col: error: key: message`, the source line with carets if it may be shown, and the hint
/// as `help: …`, without a line end at the end. `Serialize` gives the same as an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub severity: Severity,
    pub file: PathBuf,
    /// From 1; 0 if the problem is the file itself.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The key's path (`route[2].issuer`), or empty.
    pub key: String,
    pub message: String,
    pub hint: Option<String>,
    /// The source line, if it contains no secret.
    pub source_line: Option<String>,
}

/// The place of a key, for problems that are found after the load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPlace {
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The key's path.
    pub key: String,
}

impl KeyPlace {
    pub(super) fn of(place: &Place<'_>) -> Self {
        let (line, column) = place.position();
        Self { file: place.document.file.display.clone(), line, column, key: place.path.to_string() }
    }

    /// A problem of this key.
    pub fn problem(&self, severity: Severity, message: String, hint: Option<String>) -> Problem {
        let Self { file, line, column, key } = self.clone();
        Problem { severity, file, line, column, key, message, hint, source_line: None }
    }
}

/// All problems of one load, in the order of the files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// The problems that stop the program.
    pub fn errors(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter().filter(|problem| problem.severity == Severity::Error)
    }

    /// The problems that do not stop the program.
    pub fn warnings(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter().filter(|problem| problem.severity == Severity::Warning)
    }

    /// For `--output json`: an array of objects with `severity`, `file`, `line`, `column`, `key`, `message`, `hint`,
    /// `source_line`.
    pub fn to_json(&self) -> serde_json::Value {
        // serde would refuse a path that is not UTF-8.
        serde_json::Value::Array(self.0.iter().map(Problem::to_json).collect())
    }
}

impl Problem {
    /// One element of [`Problems::to_json`].
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "severity": self.severity,
            "file": self.file.to_string_lossy(),
            "line": self.line,
            "column": self.column,
            "key": self.key,
            "message": self.message,
            "hint": self.hint,
            "source_line": self.source_line,
        })
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line > 0 {
            write!(f, "{}:{}:", self.line, self.column)?;
        }
        write!(f, " {}: ", self.severity)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        if let Some(source) = &self.source_line {
            write_source(f, source, self.line, self.column)?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  help: {hint}")?;
        }
        Ok(())
    }
}

/// The source line and, below it, carets under the word at `column`. A tab stays a tab, so that both lines align.
fn write_source(f: &mut fmt::Formatter<'_>, source: &str, line: usize, column: usize) -> fmt::Result {
    let number = line.to_string();
    let before: String = source
        .chars()
        .take(column.saturating_sub(1))
        .map(|character| if character == '\t' { '\t' } else { ' ' })
        .collect();
    let word = source
        .chars()
        .skip(column.saturating_sub(1))
        .take_while(|character| character.is_ascii_alphanumeric() || matches!(character, '_' | '-'))
        .count()
        .max(1);
    write!(f, "\n  {number} | {source}")?;
    write!(f, "\n  {:width$} | {before}{}", "", "^".repeat(word), width = number.len())
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// A shorter beginning does not show which word was meant.
const SHORTEST_STEM: usize = 3;

/// Collects everything, so that one run reports every error.
#[derive(Default)]
pub(crate) struct Report {
    pub problems: Vec<Problem>,
    pub references: Vec<ReferenceUse>,
    /// Webhooks that references may name, with their stores; `None` if the webhook has errors.
    pub webhooks: BTreeMap<String, Option<PathBuf>>,
    /// Tokens of other issuers that issuers use, with the paths of their keys.
    pub chained: Vec<(Vec<PathStep>, Source)>,
    /// The issuers whose tokens are values of token requests.
    pub chained_issuers: BTreeSet<String>,
    /// Referenced values of `vars`, by the path of their table: the text of the config does not contain them.
    pub elsewhere: BTreeMap<String, Vec<String>>,
    /// Tables of issuers with an unknown preset, which may contain what seems to be missing.
    pub presetless: Vec<String>,
    /// The files that have bearerd run something.
    pub running: BTreeSet<PathBuf>,
    /// A file has syntax errors or could not be read, so it may contain what seems to be missing.
    pub incomplete: bool,
}

impl Report {
    /// Reports an error at a key. An empty `hint` counts as none.
    pub(super) fn error(&mut self, place: &Place<'_>, message: impl Into<String>, hint: impl Into<String>) {
        let line = place.source_line(None);
        self.add(Severity::Error, place, message.into(), hint.into(), line);
    }

    /// Reports a problem that does not stop the program. An empty `hint` counts as none.
    pub(super) fn warning(&mut self, place: &Place<'_>, message: impl Into<String>, hint: impl Into<String>) {
        let line = place.source_line(None);
        self.add(Severity::Warning, place, message.into(), hint.into(), line);
    }

    /// Reports an unknown key. Its line is shown if `resembles`, the key that was probably meant, takes no secret.
    pub(super) fn unknown(
        &mut self,
        place: &Place<'_>,
        written: &str,
        message: &str,
        hint: &str,
        resembles: Option<&str>,
    ) {
        let line = resembles
            .filter(|meant| !schema::may_hold_secret(meant))
            .and_then(|_| place.source_line(Some(written)));
        self.add(Severity::Error, place, message.to_owned(), hint.to_owned(), line);
    }

    /// Reports a required key that is missing, but not if it may only have been lost, or if it exists and was reported.
    pub(super) fn missing(&mut self, place: &Place<'_>, message: impl Into<String>, hint: impl Into<String>) {
        if place.document.broken.is_none() && !place.is_written() && !self.lacks_a_preset(place) {
            self.error(place, message, hint);
        }
    }

    fn lacks_a_preset(&self, place: &Place<'_>) -> bool {
        let path = place.path.to_string();
        let own_key = |table: &String| {
            let key = path.strip_prefix(table.as_str()).and_then(|rest| rest.strip_prefix('.'));
            key.is_some_and(|key| !key.contains('.'))
        };
        self.presetless.iter().any(own_key)
    }

    /// Notes a reference to a value.
    pub(super) fn reference(&mut self, place: &Place<'_>, source: &Source, secret: bool) {
        self.note_reference(place, source, secret, false);
    }

    /// Notes a reference whose value is read now. Another value makes another config.
    pub(super) fn part_of_config(&mut self, place: &Place<'_>, source: &Source) {
        self.note_reference(place, source, false, true);
    }

    fn note_reference(&mut self, place: &Place<'_>, source: &Source, secret: bool, part_of_config: bool) {
        let (line, column) = place.position();
        self.references.push(ReferenceUse {
            source: source.clone(),
            secret,
            part_of_config,
            of_token_requests: place.is_of_token_requests(),
            file: place.document.file.display.clone(),
            line,
            column,
            key: place.path.to_string(),
        });
    }

    /// Reports an error of the whole file, or at a line without a key.
    pub(super) fn file(&mut self, file: &std::path::Path, line: usize, message: impl Into<String>) {
        self.file_with_hint(file, line, message, None);
    }

    pub(super) fn file_with_hint(
        &mut self,
        file: &std::path::Path,
        line: usize,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        self.incomplete = true;
        self.problems.push(Problem {
            severity: Severity::Error,
            file: file.to_owned(),
            line,
            column: usize::from(line > 0),
            key: String::new(),
            message: message.into(),
            hint,
            source_line: None,
        });
    }

    pub(super) fn syntax(&mut self, file: &FileText, offset: usize, message: &str) {
        self.incomplete = true;
        let (line, column) = file.position(offset);
        let in_order = file
            .text
            .get(..offset)
            .is_some_and(|before| !before.contains("\"\"\"") && !before.contains("'''"));
        let source = file.line(line).filter(|text| in_order && schema::line_may_be_shown(text, None));
        self.problems.push(Problem {
            severity: Severity::Error,
            file: file.display.clone(),
            line,
            column,
            key: String::new(),
            message: format!("not TOML: {message}"),
            hint: None,
            source_line: source.map(str::to_owned),
        });
    }

    fn add(
        &mut self,
        severity: Severity,
        place: &Place<'_>,
        message: String,
        hint: String,
        line: Option<String>,
    ) {
        if !place.is_sure() {
            return;
        }
        let (at_line, column) = place.position();
        self.problems.push(Problem {
            severity,
            file: place.document.file.display.clone(),
            line: at_line,
            column,
            key: place.path.to_string(),
            message,
            hint: (!hint.is_empty()).then_some(hint),
            source_line: line,
        });
    }
}

/// The candidate that was probably meant: a misspelled one, or one with more or fewer letters at its end (`logging` for
/// `log`, `client_secret_file` for `client_secret`).
pub(crate) fn nearest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    let begins_so = |candidate: &&str| {
        let shorter = candidate.len().min(written.len());
        shorter >= SHORTEST_STEM && (written.starts_with(*candidate) || candidate.starts_with(written))
    };
    misspelt(written, candidates.iter().copied())
        .or_else(|| candidates.into_iter().filter(begins_so).max_by_key(|candidate| candidate.len()))
}

/// The candidate with a letter or two wrong.
pub(crate) fn misspelt<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(written, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len().min(written.len()) / 4).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `did you mean …?`, or `otherwise`.
pub(crate) fn did_you_mean<'a>(
    written: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    otherwise: &str,
) -> String {
    nearest(written, candidates)
        .map_or_else(|| otherwise.to_owned(), |meant| format!("did you mean `{meant}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem() -> Problem {
        Problem {
            severity: Severity::Error,
            file: "bearerd.toml".into(),
            line: 12,
            column: 3,
            key: "route[0].isuer".to_owned(),
            message: "unknown key".to_owned(),
            hint: Some("did you mean `issuer`?".to_owned()),
            source_line: Some("\t isuer = \"corp\"".to_owned()),
        }
    }

    #[test]
    fn prints_place_line_caret_and_help() {
        assert_eq!(
            problem().to_string(),
            "bearerd.toml:12:3: error: route[0].isuer: unknown key\n  12 | \t isuer = \"corp\"\n     | \t ^^^^^\n  help: did you mean `issuer`?"
        );
    }

    #[test]
    fn a_problem_of_the_file_itself_has_no_line() {
        let whole = Problem { line: 0, key: String::new(), source_line: None, hint: None, ..problem() };
        assert_eq!(whole.to_string(), "bearerd.toml: error: unknown key");
    }

    #[test]
    fn json_has_the_same_parts() {
        let json = Problems(vec![problem()]).to_json();
        assert_eq!(json[0]["severity"], "error");
        assert_eq!(json[0]["line"], 12);
        assert_eq!(json[0]["hint"], "did you mean `issuer`?");
    }

    #[test]
    fn suggests_what_is_near() {
        assert_eq!(nearest("isuer", ["issuer", "upstream"]), Some("issuer"));
        assert_eq!(nearest("upsteam", ["issuer", "upstream"]), Some("upstream"));
        assert_eq!(nearest("client_secrt", ["client_id", "client_secret"]), Some("client_secret"));
        assert_eq!(nearest("logging", ["log", "limits", "listener"]), Some("log"));
        assert_eq!(nearest("client_secret_file", ["client_id", "client_secret"]), Some("client_secret"));
        assert_eq!(nearest("frobnicate", ["issuer", "upstream"]), None);
        assert_eq!(nearest("oauth2", ["auth0", "okta"]), None, "two letters of six are another word");
    }
}
